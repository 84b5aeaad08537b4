//! Chunks to messages and messages to chunks.

use bytes::{BufMut, Bytes};

use super::message::{MAX_CHUNK_SIZE, MAX_LENGTH, Message};

/// Joins chunks to messages.
///
/// Feed it slices of whatever size the socket gave; it keeps what is unfinished. Each payload byte is copied once, into
/// the buffer its message leaves in. Between messages it holds no buffer, only a few words for each chunk stream.
#[derive(Debug)]
pub struct ChunkReader {
    limits: ChunkLimits,
    chunk_size: u32,
    streams: Vec<ChunkStream>,
    /// The chunk whose payload is being read.
    body: Option<Body>,
    /// Bytes of a header that ended with the input. They come before the next input.
    carry: Carry,
    /// Bytes of unfinished messages, over all chunk streams.
    held: usize,
    /// What the buffers of unfinished messages could hold.
    reserved: usize,
    thin_chunks: u64,
    restarts: u32,
}

/// What a peer may make a [`ChunkReader`] hold or do.
#[derive(Debug, Clone, Copy)]
pub struct ChunkLimits {
    /// The longest message, and the most that all unfinished messages may hold together.
    pub max_message: usize,
    /// Chunk streams on one connection; known clients use two to six.
    pub max_csids: usize,
    /// How often a message may be left unfinished for a new one on the same chunk stream.
    pub max_restarts: u32,
}

/// Chunks that follow no rule we know, or ask for more than they may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("message of type {kind} on csid {csid} announces {length} bytes where {limit} are allowed")]
    TooLong { csid: u32, kind: u8, length: u32, limit: usize },
    #[error("unfinished messages hold more than {limit} bytes")]
    TooMuchUnfinished { limit: usize },
    #[error("csid {csid} is one chunk stream too many, {limit} are in use")]
    TooManyChunkStreams { csid: u32, limit: usize },
    #[error("csid {csid} begins with a type {format} header, which refers to a header before it")]
    NoPriorHeader { csid: u32, format: u8 },
    #[error("message on csid {csid} changes its length from {from} to {to} on the way")]
    LengthChanged { csid: u32, from: u32, to: u32 },
    #[error("csid {csid} left a message unfinished for a new one, {count} times on this connection")]
    TooManyRestarts { csid: u32, count: u32 },
}

/// How a receiver wants its chunks. Players of one style can share the very same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WireStyle {
    pub chunk_size: u32,
    /// Whether continuation chunks repeat an extended timestamp. Today's receivers expect it; those of before 2012 do not.
    pub repeat_extended: bool,
}

impl ChunkReader {
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: Vec::new(),
            body: None,
            carry: Carry::default(),
            held: 0,
            reserved: 0,
            thin_chunks: 0,
            restarts: 0,
        }
    }

    /// Takes bytes from `input` up to the end of one message. `Ok(None)`: the input is used up.
    ///
    /// After an error the reader must not be fed again: nobody knows where the next chunk begins.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ChunkError> {
        loop {
            let body = match self.body.take() {
                Some(body) => body,
                None => match self.begin_chunk(input)? {
                    Some(body) => body,
                    None => return Ok(None),
                },
            };
            if let Some(message) = self.fill(body, input)? {
                return Ok(Some(message));
            }
            if self.body.is_some() {
                return Ok(None);
            }
        }
    }

    /// The peer's SetChunkSize: counts from the next chunk on, on every chunk stream. 0 is taken as 1.
    pub fn set_chunk_size(&mut self, size: u32) {
        self.chunk_size = size.clamp(1, MAX_CHUNK_SIZE);
    }

    /// The peer's Abort: forgets the unfinished message of this chunk stream, if there is one.
    pub fn abort(&mut self, csid: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.csid == csid) {
            let partial = std::mem::take(&mut stream.partial);
            stream.unfinished = false;
            self.release(&partial);
        }
    }

    /// Changes the longest message allowed, from the next message on.
    pub fn set_max_message(&mut self, bytes: usize) {
        self.limits.max_message = bytes.min(MAX_LENGTH);
    }

    /// Whether a header or a message has begun and not ended: the peer owes us bytes.
    pub fn is_midway(&self) -> bool {
        self.carry.length > 0 || self.body.is_some() || self.streams.iter().any(|stream| stream.unfinished)
    }

    /// Chunks read so far that carried less than [`THIN_CHUNK`] bytes: what they cost is not in their bytes, so whoever
    /// has a clock bounds their rate.
    pub fn thin_chunks(&self) -> u64 {
        self.thin_chunks
    }

    /// Messages that were left unfinished for a new one.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Bytes of unfinished messages held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Reads one chunk header, over the seam between carried bytes and input if need be.
    fn begin_chunk(&mut self, input: &mut &[u8]) -> Result<Option<Body>, ChunkError> {
        if self.carry.length == 0 {
            let Some((header, length)) = self.parse_header(input)? else {
                self.carry.take_all(input);
                return Ok(None);
            };
            *input = input.get(length..).unwrap_or_default();
            return self.apply(header).map(Some);
        }
        let mut window = self.carry;
        let before = window.length;
        let took = window.fill_from(input);
        match self.parse_header(window.bytes())? {
            Some((header, length)) => {
                // A header may end before the carried bytes do: the four bytes that were no extended timestamp.
                *input = input.get(length.saturating_sub(before)..).unwrap_or_default();
                self.carry.drop_front(length);
                self.apply(header).map(Some)
            }
            None => {
                *input = input.get(took..).unwrap_or_default();
                self.carry = window;
                Ok(None)
            }
        }
    }

    /// Reads a header from the front of `window`, with its length. `None`: not enough bytes to tell.
    fn parse_header(&self, window: &[u8]) -> Result<Option<(Header, usize)>, ChunkError> {
        let Some((csid, format, mut rest)) = parse_basic(window) else { return Ok(None) };
        let known = self.streams.iter().position(|stream| stream.csid == csid);
        let stream = known.and_then(|at| self.streams.get(at));
        match stream {
            // IP cameras and librtmp's pings open a chunk stream with type 1; the message stream is then 0.
            None if format >= 2 => return Err(ChunkError::NoPriorHeader { csid, format }),
            None if self.streams.len() >= self.limits.max_csids => {
                return Err(ChunkError::TooManyChunkStreams { csid, limit: self.limits.max_csids });
            }
            _ => {}
        }
        let mut header = Header { csid, format, known, ..Header::default() };
        let mut field = 0;
        match format {
            0 => {
                let Some((&[t0, t1, t2, l0, l1, l2, kind, m0, m1, m2, m3], more)) = rest.split_first_chunk() else {
                    return Ok(None);
                };
                field = u32::from_be_bytes([0, t0, t1, t2]);
                header.length = u32::from_be_bytes([0, l0, l1, l2]);
                header.kind = kind;
                // The one little-endian field of RTMP.
                header.msid = u32::from_le_bytes([m0, m1, m2, m3]);
                rest = more;
            }
            1 => {
                let Some((&[t0, t1, t2, l0, l1, l2, kind], more)) = rest.split_first_chunk() else { return Ok(None) };
                field = u32::from_be_bytes([0, t0, t1, t2]);
                header.length = u32::from_be_bytes([0, l0, l1, l2]);
                header.kind = kind;
                rest = more;
            }
            2 => {
                let Some((&[t0, t1, t2], more)) = rest.split_first_chunk() else { return Ok(None) };
                field = u32::from_be_bytes([0, t0, t1, t2]);
                rest = more;
            }
            _ => {}
        }
        if field == EXTENDED {
            let Some((value, more)) = rest.split_first_chunk() else { return Ok(None) };
            header.time = u32::from_be_bytes(*value);
            header.extended = true;
            rest = more;
        } else if format < 3 {
            header.time = field;
        } else if let Some(stream) = stream
            && stream.extended
        {
            // Both dialects live: one repeats the four bytes on type 3, one does not. Only comparing tells them apart.
            match stream.sniff_repeated(rest) {
                Sniff::NeedMore => return Ok(None),
                Sniff::Absent => {}
                Sniff::Present(value) => {
                    header.time = value;
                    header.extended = true;
                    rest = rest.get(4..).unwrap_or_default();
                }
            }
        }
        Ok(Some((header, window.len() - rest.len())))
    }

    /// Brings the chunk stream up to date with a header, and says where the chunk's payload goes.
    fn apply(&mut self, header: Header) -> Result<Body, ChunkError> {
        let index = match header.known {
            Some(index) => index,
            None => {
                self.streams.push(ChunkStream { csid: header.csid, ..ChunkStream::default() });
                self.streams.len() - 1
            }
        };
        let limits = self.limits;
        let stream = self.streams.get_mut(index).expect("pushed or found above");
        let mut abandoned = None;
        if stream.unfinished {
            let same = stream.length == header.length && stream.kind == header.kind;
            match header.format {
                0 if !same => abandoned = Some(std::mem::take(&mut stream.partial)),
                1 if !same => {
                    return Err(ChunkError::LengthChanged {
                        csid: stream.csid,
                        from: stream.length,
                        to: header.length,
                    });
                }
                // Some senders continue with full headers. Their times are the message's again: only the extended field
                // matters, since the next type 3 may repeat it.
                0..=2 => stream.note_extended(&header),
                _ => {}
            }
        }
        if abandoned.is_some() || !stream.unfinished {
            stream.begin_message(&header);
            if stream.length as usize > limits.max_message {
                return Err(ChunkError::TooLong {
                    csid: stream.csid,
                    kind: stream.kind,
                    length: stream.length,
                    limit: limits.max_message,
                });
            }
        }
        let left = (stream.length as usize - stream.partial.len()).min(self.chunk_size as usize);
        if left < THIN_CHUNK {
            self.thin_chunks += 1;
        }
        if let Some(partial) = abandoned {
            self.release(&partial);
            self.restarts += 1;
            if self.restarts >= limits.max_restarts {
                return Err(ChunkError::TooManyRestarts { csid: header.csid, count: self.restarts });
            }
        }
        Ok(Body { index, left })
    }

    /// Moves payload bytes to where they belong. A message comes out when it is complete; `self.body` is set again when
    /// the input ended within the chunk.
    fn fill(&mut self, body: Body, input: &mut &[u8]) -> Result<Option<Message>, ChunkError> {
        let Body { index, mut left } = body;
        if self.carry.length > 0 {
            let carried = self.carry;
            let (part, _) = split_up_to(carried.bytes(), left);
            self.append(index, part)?;
            self.carry.drop_front(part.len());
            left -= part.len();
        }
        let (part, rest) = split_up_to(input, left);
        *input = rest;
        left -= part.len();

        let stream = self.streams.get_mut(index).expect("bodies are made for streams that are there");
        if stream.partial.is_empty() && part.len() == stream.length as usize {
            stream.unfinished = false;
            return Ok(Some(stream.message(Bytes::copy_from_slice(part))));
        }
        self.append(index, part)?;
        if left > 0 {
            self.body = Some(Body { index, left });
            return Ok(None);
        }
        let stream = self.streams.get_mut(index).expect("bodies are made for streams that are there");
        if stream.partial.len() < stream.length as usize {
            return Ok(None);
        }
        let payload = std::mem::take(&mut stream.partial);
        stream.unfinished = false;
        let header = stream.message(Bytes::new());
        self.release(&payload);
        Ok(Some(Message { payload: payload.into(), ..header }))
    }

    /// Adds to an unfinished message, growing its buffer in proportion to what has come, whatever was announced.
    fn append(&mut self, index: usize, part: &[u8]) -> Result<(), ChunkError> {
        if part.is_empty() {
            return Ok(());
        }
        let limit = self.limits.max_message;
        if self.held + part.len() > limit {
            return Err(ChunkError::TooMuchUnfinished { limit });
        }
        let stream = self.streams.get_mut(index).expect("bodies are made for streams that are there");
        let partial = &mut stream.partial;
        let before = partial.capacity();
        if before - partial.len() < part.len() {
            let whole = stream.length as usize - partial.len();
            let spare = self.reserved - self.held;
            let trust = AHEAD.min(limit / 4) + 4 * self.held;
            partial.reserve_exact(whole.min(trust.saturating_sub(spare)).max(part.len().max(partial.len()).min(whole)));
        }
        partial.extend_from_slice(part);
        self.reserved += partial.capacity() - before;
        self.held += part.len();
        Ok(())
    }

    /// Gives an unfinished message's bytes back to the budget.
    fn release(&mut self, partial: &Vec<u8>) {
        self.held -= partial.len();
        self.reserved -= partial.capacity();
    }
}

/// Appends one message as chunks: a full (type 0) header, then type 3 for the rest.
///
/// It depends on nothing sent before, so the bytes can be built once and sent to any receiver at any time, also after
/// messages were dropped. `out` must grow by itself (`BytesMut`, `Vec`); [`wire_len`] tells by how much. A payload longer
/// than [`MAX_LENGTH`] cannot be said in RTMP: nothing is written.
pub fn write(out: &mut impl BufMut, style: WireStyle, csid: u32, time: u32, kind: u8, msid: u32, payload: &[u8]) {
    if payload.len() > MAX_LENGTH {
        return;
    }
    let extended = time >= EXTENDED;
    let [_, t0, t1, t2] = time.min(EXTENDED).to_be_bytes();
    let [_, l0, l1, l2] = (payload.len() as u32).to_be_bytes();
    let [m0, m1, m2, m3] = msid.to_le_bytes();
    put_basic(out, 0, csid);
    out.put_slice(&[t0, t1, t2, l0, l1, l2, kind, m0, m1, m2, m3]);
    if extended {
        out.put_u32(time);
    }
    let (first, mut rest) = split_up_to(payload, style.payload_step());
    out.put_slice(first);
    while !rest.is_empty() {
        put_basic(out, 3, csid);
        if extended && style.repeat_extended {
            out.put_u32(time);
        }
        let (part, more) = split_up_to(rest, style.payload_step());
        out.put_slice(part);
        rest = more;
    }
}

/// How many bytes [`write`] appends for such a message.
pub fn wire_len(style: WireStyle, csid: u32, time: u32, payload_len: usize) -> usize {
    if payload_len > MAX_LENGTH {
        return 0;
    }
    let extended = if time >= EXTENDED { 4 } else { 0 };
    let continued = payload_len.div_ceil(style.payload_step()).saturating_sub(1);
    let repeated = if style.repeat_extended { extended } else { 0 };
    let basic = basic_len(csid);
    basic + MESSAGE_HEADER + extended + payload_len + continued * (basic + repeated)
}

impl WireStyle {
    /// Chunk size as a step that always moves on.
    fn payload_step(self) -> usize {
        self.chunk_size.max(1) as usize
    }
}

impl Default for WireStyle {
    fn default() -> Self {
        Self { chunk_size: DEFAULT_CHUNK_SIZE, repeat_extended: true }
    }
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { max_message: DEFAULT_MAX_MESSAGE, max_csids: 64, max_restarts: 10 }
    }
}

/// What one chunk stream remembers, since its headers leave out what has not changed.
#[derive(Debug, Default)]
struct ChunkStream {
    csid: u32,
    /// Time of the message that is, or was last, on this chunk stream.
    time: u32,
    /// What a type 3 header that begins a message adds.
    delta: u32,
    /// The extended field of the last header that had one, as it was on the wire.
    extended_field: u32,
    length: u32,
    msid: u32,
    partial: Vec<u8>,
    kind: u8,
    /// The last type 0, 1 or 2 header had an extended field.
    extended: bool,
    unfinished: bool,
}

impl ChunkStream {
    /// Whether the bytes behind a type 3 header repeat the extended timestamp.
    fn sniff_repeated(&self, rest: &[u8]) -> Sniff {
        let Some(found) = rest.first_chunk::<4>() else {
            // Near the end of a message that does not repeat, four bytes may be long in coming; a mismatch shows early.
            let may_match = self.extended_field.to_be_bytes().starts_with(rest)
                || self.time.to_be_bytes().starts_with(rest)
                || !self.unfinished;
            return if may_match { Sniff::NeedMore } else { Sniff::Absent };
        };
        let value = u32::from_be_bytes(*found);
        let fresh = || {
            let expected = self.time.wrapping_add(self.delta);
            let off = value.wrapping_sub(expected).min(expected.wrapping_sub(value));
            !self.unfinished && value >= EXTENDED && off <= FRESH_TIME_WINDOW_MS
        };
        if value == self.extended_field || value == self.time || fresh() {
            Sniff::Present(value)
        } else {
            Sniff::Absent
        }
    }

    fn note_extended(&mut self, header: &Header) {
        self.extended = header.extended;
        if header.extended {
            self.extended_field = header.time;
        }
    }

    fn begin_message(&mut self, header: &Header) {
        self.unfinished = true;
        if header.format < 3 {
            self.note_extended(header);
        }
        if header.format < 2 {
            self.length = header.length;
            self.kind = header.kind;
        }
        match header.format {
            0 => {
                self.msid = header.msid;
                self.time = header.time;
                // By the specification a type 3 message after this one adds the timestamp of this one (FMLE and ffmpeg
                // mean that); old librtmp means "the same time again". Small first times tell nothing, large ones do.
                self.delta = if header.time <= MAX_FIRST_DELTA_MS { header.time } else { 0 };
            }
            1 | 2 => {
                self.delta = header.time;
                self.time = self.time.wrapping_add(header.time);
            }
            _ if header.extended && header.time != self.extended_field && header.time != self.time => {
                // Neither repeated field: the sender gives each message its absolute time here.
                self.time = header.time;
                self.extended_field = header.time;
            }
            _ => self.time = self.time.wrapping_add(self.delta),
        }
    }

    fn message(&self, payload: Bytes) -> Message {
        Message { csid: self.csid, time: self.time, kind: self.kind, msid: self.msid, payload }
    }
}

enum Sniff {
    Present(u32),
    Absent,
    NeedMore,
}

/// The fields of one chunk header; those that its format leaves out are 0.
#[derive(Debug, Default)]
struct Header {
    csid: u32,
    /// Where in the list of chunk streams this csid is.
    known: Option<usize>,
    /// The timestamp or delta, from the extended field where there was one.
    time: u32,
    length: u32,
    msid: u32,
    format: u8,
    kind: u8,
    extended: bool,
}

/// Payload of a chunk yet to come.
#[derive(Debug, Clone, Copy)]
struct Body {
    index: usize,
    left: usize,
}

/// The beginning of a header whose end has not come.
#[derive(Debug, Clone, Copy, Default)]
struct Carry {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Carry {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Appends as much of `input` as fits; says how much.
    fn fill_from(&mut self, input: &[u8]) -> usize {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        let took = free.len().min(input.len());
        for (to, from) in free.iter_mut().zip(input) {
            *to = *from;
        }
        self.length += took;
        took
    }

    fn take_all(&mut self, input: &mut &[u8]) {
        let took = self.fill_from(input);
        *input = input.get(took..).unwrap_or_default();
    }

    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.length);
        self.bytes.copy_within(count..self.length, 0);
        self.length -= count;
    }
}

/// Chunk stream id, format and what follows. Ids 64 to 319 have two forms and are the same stream in both.
fn parse_basic(window: &[u8]) -> Option<(u32, u8, &[u8])> {
    let (&first, rest) = window.split_first()?;
    let format = first >> 6;
    match first & 0x3F {
        0 => {
            let (&low, rest) = rest.split_first()?;
            Some((64 + u32::from(low), format, rest))
        }
        1 => {
            let (&[low, high], rest) = rest.split_first_chunk()?;
            Some((64 + u32::from(low) + 256 * u32::from(high), format, rest))
        }
        small => Some((u32::from(small), format, rest)),
    }
}

/// Ids below 2 and above 65599 cannot be said; none of ours are.
fn put_basic(out: &mut impl BufMut, format: u8, csid: u32) {
    let format = format << 6;
    match csid {
        0..64 => out.put_u8(format | csid as u8),
        64..320 => out.put_slice(&[format, (csid - 64) as u8]),
        _ => {
            let [low, high, ..] = (csid - 64).to_le_bytes();
            out.put_slice(&[format | 1, low, high]);
        }
    }
}

fn basic_len(csid: u32) -> usize {
    match csid {
        0..64 => 1,
        64..320 => 2,
        _ => 3,
    }
}

fn split_up_to(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

/// What both sides begin with (spec 5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// A 4K keyframe fits; nginx-rtmp's 1 MiB did not hold them.
pub const DEFAULT_MAX_MESSAGE: usize = 8 << 20;
/// Chunks that carry less than this are counted: they cost more than their bytes.
pub const THIN_CHUNK: usize = 128;
/// In a 24-bit time field: the time is in four more bytes.
const EXTENDED: u32 = 0xFF_FFFF;
const MESSAGE_HEADER: usize = 11;
const MAX_HEADER: usize = 3 + MESSAGE_HEADER + 4;
/// Buffer room given ahead of the bytes that fill it, so that common messages are copied once.
const AHEAD: usize = 64 << 10;
/// A type 0 time above this is not repeated as a delta by a type 3 message.
const MAX_FIRST_DELTA_MS: u32 = 1000;
/// How far an absolute time on a type 3 message may be from the one expected and still be taken for a time.
const FRESH_TIME_WINDOW_MS: u32 = 60_000;
