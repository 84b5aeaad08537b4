//! Chunks to messages and messages to chunks.

use bytes::{BufMut, Bytes, BytesMut};

use super::message::{MAX_CHUNK_SIZE, MAX_LENGTH, Message, kind};

/// Joins chunks to messages.
///
/// Feed it slices of whatever size the socket gave; it keeps what is unfinished. Between messages it holds a few words for
/// each chunk stream and, where media come, what is left of the piece of memory they leave in.
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
    /// Made for the first media that come.
    bodies: Option<Box<Bodies>>,
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
            bodies: None,
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

    /// What it holds beside its own size.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.streams.capacity() * size_of::<ChunkStream>() + self.reserved
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
            // Held for no time, but counted: how the input was split must make no difference.
            let limit = self.limits.max_message;
            if self.held + part.len() > limit {
                return Err(ChunkError::TooMuchUnfinished { limit });
            }
            stream.unfinished = false;
            let header = stream.message(Bytes::new());
            return Ok(Some(Message { payload: self.keep(header.kind, part), ..header }));
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
        let payload = if payload.len() > Bodies::LONGEST { payload.into() } else { self.keep(header.kind, &payload) };
        Ok(Some(Message { payload, ..header }))
    }

    /// The bytes of a whole message as somebody may hold them from here on.
    fn keep(&mut self, kind: u8, bytes: &[u8]) -> Bytes {
        let is_media = matches!(kind, kind::AUDIO | kind::VIDEO) && !bytes.is_empty();
        if !is_media || bytes.len() > Bodies::LONGEST {
            return Bytes::copy_from_slice(bytes);
        }
        self.bodies.get_or_insert_default().keep(bytes)
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

/// How many bytes [`write()`] appends for such a message.
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

/// Where the bodies of media go. They come one after the other and are let go in about that order, so many share a piece of
/// memory: with hundreds of publishers each piece taken and given back by itself is a place that this thread has not seen
/// for seconds.
#[derive(Debug, Default)]
struct Bodies {
    piece: BytesMut,
    /// How large the last piece was: what a peer makes us hold is in proportion to what it sent.
    size: usize,
}

impl Bodies {
    /// Longer bodies have a piece of their own.
    const LONGEST: usize = 16 << 10;

    const SMALLEST_PIECE: usize = 2 << 10;
    const LARGEST_PIECE: usize = 32 << 10;

    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if self.piece.capacity() < bytes.len() {
            self.size = (self.size * 2).clamp(Self::SMALLEST_PIECE, Self::LARGEST_PIECE);
            self.piece = BytesMut::with_capacity(self.size.max(bytes.len()));
        }
        self.piece.extend_from_slice(bytes);
        self.piece.split().freeze()
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn reader() -> ChunkReader {
        ChunkReader::new(ChunkLimits::default())
    }

    fn message(csid: u32, time: u32, kind: u8, msid: u32, payload: &[u8]) -> Message {
        Message { csid, time, kind, msid, payload: Bytes::copy_from_slice(payload) }
    }

    fn read_all(reader: &mut ChunkReader, mut input: &[u8]) -> Result<Vec<Message>, ChunkError> {
        let mut messages = Vec::new();
        while let Some(message) = reader.read(&mut input)? {
            messages.push(message);
        }
        assert!(input.is_empty(), "Ok(None) means that the input is used up");
        Ok(messages)
    }

    /// Reads `wire` whole and byte by byte, and expects the same from both.
    fn check(wire: &[u8], expected: &[(u32, u32, &[u8])]) {
        let brief = |messages: &[Message]| -> Vec<(u32, u32, Vec<u8>)> {
            messages.iter().map(|m| (m.csid, m.time, m.payload.to_vec())).collect()
        };
        let expected: Vec<_> = expected.iter().map(|&(csid, time, payload)| (csid, time, payload.to_vec())).collect();
        assert_eq!(brief(&read_all(&mut reader(), wire).expect("legal chunks")), expected, "whole");
        let mut one_by_one = reader();
        let mut got = Vec::new();
        for byte in wire.chunks(1) {
            got.extend(read_all(&mut one_by_one, byte).expect("legal chunks"));
        }
        assert_eq!(brief(&got), expected, "byte by byte");
        assert_eq!(one_by_one.held(), 0);
        assert_eq!(one_by_one.reserved, 0);
    }

    fn fails_with(wire: &[u8]) -> ChunkError {
        read_all(&mut reader(), wire).expect_err("illegal chunks")
    }

    fn wire(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    /// A type 0 header for csid 4, video, msid 1.
    fn full(time: u32, length: u32) -> Vec<u8> {
        let mut out = vec![4];
        out.extend_from_slice(&time.min(EXTENDED).to_be_bytes()[1..]);
        out.extend_from_slice(&length.to_be_bytes()[1..]);
        out.extend_from_slice(&[9, 1, 0, 0, 0]);
        if time >= EXTENDED {
            out.extend_from_slice(&time.to_be_bytes());
        }
        out
    }

    fn with_delta(delta: u32, length: u32) -> Vec<u8> {
        let mut out = vec![0x44];
        out.extend_from_slice(&delta.min(EXTENDED).to_be_bytes()[1..]);
        out.extend_from_slice(&length.to_be_bytes()[1..]);
        out.push(9);
        if delta >= EXTENDED {
            out.extend_from_slice(&delta.to_be_bytes());
        }
        out
    }

    #[test]
    fn every_header_form_is_read() {
        let wire = wire(&[
            &full(20, 1),
            b"a",
            &with_delta(40, 2),
            b"bb",
            &[0x84, 0, 0, 33], // type 2: new delta, same length
            b"cc",
            &[0xC4], // type 3: same delta
            b"dd",
        ]);
        check(&wire, &[(4, 20, b"a"), (4, 60, b"bb"), (4, 93, b"cc"), (4, 126, b"dd")]);
    }

    #[test]
    fn message_stream_id_is_little_endian_and_lasts() {
        let wire = [&[4, 0, 0, 0, 0, 0, 1, 8, 1, 2, 0, 0, b'a'][..], &[0xC4, b'b']].concat();
        let got = read_all(&mut reader(), &wire).expect("legal");
        assert_eq!(got.iter().map(|m| (m.msid, m.kind)).collect::<Vec<_>>(), [(0x201, 8), (0x201, 8)]);
    }

    #[test]
    fn chunk_stream_ids_are_read_in_all_forms() {
        for (form, csid) in [
            (&[2u8][..], 2),
            (&[63], 63),
            (&[0, 0], 64),
            (&[0, 255], 319),
            (&[1, 0, 0], 64),
            (&[1, 255, 0], 319),
            (&[1, 0, 1], 320),
            (&[1, 255, 255], 65599),
        ] {
            let wire = wire(&[form, &[0, 0, 5, 0, 0, 1, 9, 1, 0, 0, 0], b"x"]);
            check(&wire, &[(csid, 5, b"x")]);
        }
    }

    #[test]
    fn two_forms_of_one_chunk_stream_id_are_one_stream() {
        let wire = wire(&[&[0, 6], &[0, 0, 5, 0, 0, 1, 9, 1, 0, 0, 0], b"x", &[0xC1, 6, 0], b"y"]);
        check(&wire, &[(70, 5, b"x"), (70, 10, b"y")]);
    }

    #[test]
    fn chunks_of_two_messages_interleave() {
        let video = [7u8; 300];
        let audio = [&[5, 0, 0, 9, 0, 0, 3, 8, 1, 0, 0, 0], &b"snd"[..]].concat();
        let wire = wire(&[
            &full(9, 300),
            &video[..128],
            &audio,
            &[0xC4],
            &video[..128],
            &[0xC5],
            b"two",
            &[0xC4],
            &video[..44],
        ]);
        check(&wire, &[(5, 9, b"snd"), (5, 18, b"two"), (4, 9, &video)]);
    }

    #[test]
    fn type_3_after_a_small_first_time_repeats_it_as_delta() {
        check(
            &wire(&[&full(26, 1), b"a", &[0xC4], b"b", &[0xC4], b"c"]),
            &[(4, 26, b"a"), (4, 52, b"b"), (4, 78, b"c")],
        );
    }

    #[test]
    fn type_3_after_a_large_first_time_means_the_same_time() {
        check(&wire(&[&full(1000, 1), b"a", &[0xC4], b"b"]), &[(4, 1000, b"a"), (4, 2000, b"b")]);
        check(&wire(&[&full(1001, 1), b"a", &[0xC4], b"b"]), &[(4, 1001, b"a"), (4, 1001, b"b")]);
    }

    #[test]
    fn time_field_of_all_ones_with_a_small_extended_value_is_accepted() {
        let wire = [&[4, 255, 255, 255, 0, 0, 1, 9, 1, 0, 0, 0, 0, 0, 0, 7][..], b"x"].concat();
        check(&wire, &[(4, 7, b"x")]);
    }

    #[test]
    fn extended_time_repeated_on_continuation_is_no_payload() {
        let payload = [3u8; 200];
        for time in [EXTENDED, 0x0100_0000, u32::MAX] {
            let wire = wire(&[&full(time, 200), &payload[..128], &[0xC4], &time.to_be_bytes(), &payload[128..]]);
            check(&wire, &[(4, time, &payload)]);
        }
    }

    #[test]
    fn extended_time_absent_on_continuation_is_missed_by_nobody() {
        for tail in [1, 3, 4, 72, 128] {
            let payload: Vec<u8> = (0..128 + tail).map(|n| n as u8 | 1).collect();
            let time = 0x0200_0000;
            let wire =
                wire(&[&full(time, 128 + tail), &payload[..128], &[0xC4], &payload[128..], &full(time + 1, 1), b"z"]);
            check(&wire, &[(4, time, &payload), (4, time + 1, b"z")]);
        }
    }

    #[test]
    fn short_tail_without_repeated_time_does_not_wait_for_the_next_message() {
        let payload = [9u8; 130];
        let wire = wire(&[&full(0x0200_0000, 130), &payload[..128], &[0xC4], &payload[128..]]);
        check(&wire, &[(4, 0x0200_0000, &payload)]);
    }

    #[test]
    fn tail_that_begins_like_the_time_is_still_payload() {
        // Bytes 02 00 then something else: carried while they might be the time, given back when they are not.
        let mut payload = vec![9u8; 128];
        payload.extend_from_slice(&[2, 0, 7]);
        let wire = wire(&[&full(0x0200_0000, 131), &payload[..128], &[0xC4], &payload[128..], &full(0, 0)]);
        check(&wire, &[(4, 0x0200_0000, &payload), (4, 0, b"")]);
        // And when the whole tail looks like the time, the next header decides.
        payload.pop();
        let wire = [&full(0x0200_0000, 130)[..], &payload[..128], &[0xC4], &payload[128..], &full(0, 0)].concat();
        check(&wire, &[(4, 0x0200_0000, &payload), (4, 0, b"")]);
    }

    #[test]
    fn extended_field_of_types_1_and_2_is_a_delta() {
        let delta = 0x0100_0005u32;
        let wire = wire(&[
            &full(10, 1),
            b"a",
            &with_delta(delta, 1),
            b"b",
            &[0x84, 255, 255, 255],
            &delta.to_be_bytes(),
            b"c",
            &[0xC4],
            &delta.to_be_bytes(),
            b"d",
        ]);
        check(&wire, &[(4, 10, b"a"), (4, 10 + delta, b"b"), (4, 10 + 2 * delta, b"c"), (4, 10 + 3 * delta, b"d")]);
    }

    #[test]
    fn continuation_may_repeat_the_absolute_time_where_the_header_had_a_delta() {
        let payload = [1u8; 130];
        let delta = EXTENDED + 5;
        let wire = wire(&[
            &full(10, 0),
            &with_delta(delta, 130),
            &payload[..128],
            &[0xC4],
            &(delta + 10).to_be_bytes(),
            &payload[128..],
        ]);
        check(&wire, &[(4, 10, b""), (4, delta + 10, &payload)]);
    }

    #[test]
    fn type_3_message_with_a_fresh_absolute_extended_time_takes_it() {
        let time = 0x0100_0000u32;
        let wire = wire(&[&full(time, 4), b"aaaa", &[0xC4], &(time + 40).to_be_bytes(), b"bbbb", &[0xC4], b"cccc"]);
        check(&wire, &[(4, time, b"aaaa"), (4, time + 40, b"bbbb"), (4, time + 40, b"cccc")]);
    }

    #[test]
    fn type_3_message_that_repeats_the_extended_time_keeps_it() {
        let time = 0x0100_0000u32;
        let wire = wire(&[&full(time, 2), b"aa", &[0xC4], &time.to_be_bytes(), b"bb"]);
        check(&wire, &[(4, time, b"aa"), (4, time, b"bb")]);
    }

    #[test]
    fn deltas_wrap_at_32_bits() {
        let wire = wire(&[&full(u32::MAX - 1, 1), b"a", &with_delta(5, 1), b"b", &with_delta(0xFFFF_FFFE, 1), b"c"]);
        check(&wire, &[(4, u32::MAX - 1, b"a"), (4, 3, b"b"), (4, 1, b"c")]);
    }

    #[test]
    fn full_header_with_the_same_length_continues_a_message() {
        let payload = [6u8; 200];
        for header in [full(77, 200), with_delta(0, 200), vec![0x84, 0, 0, 9]] {
            let wire = wire(&[&full(77, 200), &payload[..128], &header, &payload[128..]]);
            check(&wire, &[(4, 77, &payload)]);
        }
    }

    #[test]
    fn type_0_with_another_length_drops_the_unfinished_message() {
        let wire = wire(&[&full(1, 200), &[0; 128], &full(2, 3), b"new"]);
        check(&wire, &[(4, 2, b"new")]);
        let mut reader = reader();
        read_all(&mut reader, &wire).expect("legal");
        assert_eq!(reader.restarts(), 1);
    }

    #[test]
    fn tenth_unfinished_message_is_an_error() {
        let mut wire = full(0, 200);
        for length in 201..=210 {
            wire.extend_from_slice(&[0; 128]);
            wire.extend(full(0, length));
        }
        assert_eq!(fails_with(&wire), ChunkError::TooManyRestarts { csid: 4, count: 10 });
    }

    #[test]
    fn type_1_with_another_length_midway_is_an_error() {
        let wire = wire(&[&full(1, 200), &[0; 128], &with_delta(0, 100)]);
        assert_eq!(fails_with(&wire), ChunkError::LengthChanged { csid: 4, from: 200, to: 100 });
    }

    #[test]
    fn chunk_stream_may_open_with_type_1_on_message_stream_0() {
        // A ping as librtmp and IP cameras send it.
        let ping = [0x42, 0, 0, 0, 0, 0, 6, 4, 0, 6, 0, 0, 0, 1];
        let got = read_all(&mut reader(), &ping).expect("legal");
        assert_eq!(got, [message(2, 0, 4, 0, &[0, 6, 0, 0, 0, 1])]);
    }

    #[test]
    fn chunk_stream_may_not_open_with_type_2_or_3() {
        assert_eq!(fails_with(&[0x84]), ChunkError::NoPriorHeader { csid: 4, format: 2 });
        assert_eq!(fails_with(&[0xC4]), ChunkError::NoPriorHeader { csid: 4, format: 3 });
    }

    #[test]
    fn one_chunk_stream_too_many_is_an_error() {
        let mut reader = reader();
        for csid in 2..66 {
            let mut out = BytesMut::new();
            write(&mut out, WireStyle::default(), csid, 0, 9, 1, b"x");
            read_all(&mut reader, &out).expect("64 are allowed");
        }
        let mut out = BytesMut::new();
        write(&mut out, WireStyle::default(), 500, 0, 9, 1, b"x");
        assert_eq!(read_all(&mut reader, &out), Err(ChunkError::TooManyChunkStreams { csid: 500, limit: 64 }));
    }

    #[test]
    fn message_longer_than_allowed_is_refused_on_its_header() {
        let mut reader = ChunkReader::new(ChunkLimits { max_message: 1000, ..ChunkLimits::default() });
        assert_eq!(
            read_all(&mut reader, &full(0, 1001)),
            Err(ChunkError::TooLong { csid: 4, kind: 9, length: 1001, limit: 1000 })
        );
    }

    #[test]
    fn announced_length_reserves_no_more_than_a_little_ahead() {
        let mut reader = reader();
        read_all(&mut reader, &wire(&[&full(0, 8 << 20), b"x"])).expect("legal");
        assert!(reader.reserved <= AHEAD, "{}", reader.reserved);
        for csid in 5..60u8 {
            read_all(&mut reader, &[csid, 0, 0, 0, 0x7F, 0xFF, 0xFF, 9, 1, 0, 0, 0, b'x']).expect("legal");
        }
        assert!(reader.reserved <= AHEAD + 5 * reader.held, "{} for {}", reader.reserved, reader.held);
    }

    #[test]
    fn unfinished_messages_share_one_budget() {
        // One that comes in a single piece is never held, but counts as well: splits must make no difference.
        for (length, part) in [(512u16, 128), (105, 105)] {
            let mut reader = ChunkReader::new(ChunkLimits { max_message: 1000, ..ChunkLimits::default() });
            for csid in 4..11u8 {
                let head = [csid, 0, 0, 0, 0, 2, 0, 9, 1, 0, 0, 0];
                read_all(&mut reader, &wire(&[&head, &[0; 128]])).expect("896 bytes so far");
            }
            let [high, low] = length.to_be_bytes();
            let last = wire(&[&[11, 0, 0, 0, 0, high, low, 9, 1, 0, 0, 0], &vec![0; part]]);
            assert_eq!(read_all(&mut reader, &last), Err(ChunkError::TooMuchUnfinished { limit: 1000 }));
        }
    }

    #[test]
    fn abort_frees_exactly_that_message() {
        let mut reader = reader();
        let other = [5, 0, 0, 0, 0, 0, 200, 8, 1, 0, 0, 0];
        read_all(&mut reader, &wire(&[&full(3, 200), &[0; 128], &other, &[1; 128]])).expect("legal");
        assert!(reader.is_midway());
        reader.abort(99);
        reader.abort(4);
        assert_eq!(reader.held(), 128);
        let got = read_all(&mut reader, &wire(&[&[0xC5], &[1; 72], &full(4, 1), b"n"])).expect("legal");
        assert_eq!(got, [message(5, 0, 8, 1, &[1; 200]), message(4, 4, 9, 1, b"n")]);
        assert!(!reader.is_midway());
        assert_eq!(reader.reserved, 0);
    }

    #[test]
    fn new_chunk_size_counts_from_the_next_chunk_on_every_stream() {
        let mut reader = reader();
        read_all(&mut reader, &wire(&[&full(0, 300), &[1; 128]])).expect("legal");
        reader.set_chunk_size(50);
        read_all(&mut reader, &wire(&[&[0xC4], &[2; 50], &[0xC4], &[2; 20]])).expect("legal");
        reader.set_chunk_size(1000); // in the middle of a chunk: this one keeps its 50
        let got = read_all(&mut reader, &wire(&[&[2; 30], &[0xC4], &[3; 72]])).expect("legal");
        assert_eq!(got[0].payload, [vec![1; 128], vec![2; 100], vec![3; 72]].concat());
    }

    #[test]
    fn any_chunk_size_of_31_bits_works() {
        for size in [1, 127, 128, 65536, 0x7FFF_FFFF] {
            let payload = vec![8u8; 70_000];
            let mut reader = reader();
            reader.set_chunk_size(size);
            let mut out = Vec::new();
            let style = WireStyle { chunk_size: size, repeat_extended: true };
            write(&mut out, style, 4, 0x0100_0000, 9, 1, &payload);
            assert_eq!(out.len(), wire_len(style, 4, 0x0100_0000, payload.len()));
            assert_eq!(read_all(&mut reader, &out).expect("legal"), [message(4, 0x0100_0000, 9, 1, &payload)]);
        }
    }

    #[test]
    fn fifteen_megabyte_message_passes_where_it_is_allowed() {
        let mut reader = ChunkReader::new(ChunkLimits { max_message: MAX_LENGTH, ..ChunkLimits::default() });
        reader.set_chunk_size(4096);
        let payload = vec![5u8; 15 << 20];
        let mut out = Vec::new();
        write(&mut out, WireStyle { chunk_size: 4096, repeat_extended: true }, 6, 0, 9, 1, &payload);
        let mut got = Vec::new();
        for part in out.chunks(60_000) {
            got.extend(read_all(&mut reader, part).expect("legal"));
        }
        assert_eq!(got[0].payload.len(), payload.len());
    }

    #[test]
    fn empty_messages_come_out_empty() {
        check(&wire(&[&full(5, 0), &[0xC4], &[0xC4]]), &[(4, 5, b""), (4, 10, b""), (4, 15, b"")]);
    }

    #[test]
    fn header_without_progress_is_counted() {
        let mut reader = reader();
        read_all(&mut reader, &wire(&[&full(0, 0), &[0xC4; 999]])).expect("legal");
        assert_eq!(reader.thin_chunks(), 1000);
    }

    #[test]
    fn payload_beyond_24_bits_is_not_written() {
        let mut out = Vec::new();
        write(&mut out, WireStyle::default(), 4, 0, 9, 1, &vec![0; MAX_LENGTH + 1]);
        assert_eq!((out.len(), wire_len(WireStyle::default(), 4, 0, MAX_LENGTH + 1)), (0, 0));
    }

    #[test]
    fn idle_reader_is_small() {
        assert!(size_of::<ChunkReader>() <= 160, "{}", size_of::<ChunkReader>());
        assert!(size_of::<ChunkStream>() <= 56, "{}", size_of::<ChunkStream>());
    }

    /// A sender of any legal habit: it picks the shortest or the longest header, either extended dialect, and turns
    /// between messages after any chunk.
    #[derive(Debug, Clone)]
    struct Habit {
        chunk_size: u32,
        repeat_extended: bool,
        prefer_short: bool,
    }

    /// Chunk streams with their messages, sent in turns that `order` picks.
    fn send(lanes: &[(u32, Vec<Message>)], habit: &Habit, order: &[u8]) -> (Vec<u8>, Vec<Message>) {
        struct Lane {
            next: usize,
            at: usize,
            sent: Option<(Message, Option<u32>, Option<u32>)>, // message, delta, extended field
        }
        let mut state: Vec<Lane> = lanes.iter().map(|_| Lane { next: 0, at: 0, sent: None }).collect();
        let (mut out, mut done) = (Vec::new(), Vec::new());
        let mut turn = 0;
        let open = |state: &[Lane]| -> Vec<usize> {
            (0..lanes.len()).filter(|&at| state[at].next < lanes[at].1.len()).collect()
        };
        while let left = open(&state)
            && !left.is_empty()
        {
            let pick = left[order[turn % order.len()] as usize % left.len()];
            turn += 1;
            let (lane, (csid, messages)) = (&mut state[pick], &lanes[pick]);
            let message = &messages[lane.next];
            if lane.at == 0 {
                let mut header = (0, message.time, None);
                if habit.prefer_short
                    && let Some((last, delta, _)) = &lane.sent
                    && last.msid == message.msid
                {
                    let step = message.time.wrapping_sub(last.time);
                    let alike = last.kind == message.kind && last.payload.len() == message.payload.len();
                    // Type 3 is for those who repeat the field, or have none: the dialects only meet on continuations.
                    let repeatable = alike && *delta == Some(step) && step < EXTENDED;
                    header = (if repeatable { 3 } else { 1 + u8::from(alike) }, step, Some(step));
                }
                let (format, field, delta) = header;
                put_basic(&mut out, format, *csid);
                let extended = (format < 3 && field >= EXTENDED).then_some(field);
                if format < 3 {
                    out.extend_from_slice(&field.min(EXTENDED).to_be_bytes()[1..]);
                }
                if format < 2 {
                    out.extend_from_slice(&(message.payload.len() as u32).to_be_bytes()[1..]);
                    out.push(message.kind);
                }
                if format < 1 {
                    out.extend_from_slice(&message.msid.to_le_bytes());
                }
                if let Some(value) = extended {
                    out.extend_from_slice(&value.to_be_bytes());
                }
                lane.sent = Some((message.clone(), delta, extended));
            } else {
                put_basic(&mut out, 3, *csid);
                if let Some((_, _, Some(value))) = lane.sent
                    && habit.repeat_extended
                {
                    out.extend_from_slice(&value.to_be_bytes());
                }
            }
            let end = (lane.at + habit.chunk_size as usize).min(message.payload.len());
            out.extend_from_slice(&message.payload[lane.at..end]);
            lane.at = end;
            if end == message.payload.len() {
                done.push(message.clone());
                lane.next += 1;
                lane.at = 0;
            }
        }
        (out, done)
    }

    fn any_time() -> impl Strategy<Value = u32> {
        prop_oneof![0..2000u32, 0xFF_FF00..0x100_0100u32, any::<u32>()]
    }

    fn any_message() -> impl Strategy<Value = (u32, u8, u32, Vec<u8>)> {
        let length = prop_oneof![Just(0usize), 1..6usize, 120..140usize, 0..2000usize];
        // Payload bytes keep their top bit, so that none of them happens to be a time: times here have theirs clear.
        let payload = length.prop_flat_map(|length| proptest::collection::vec(0x80..=0xFFu8, length));
        (any_time().prop_map(|time| time & 0x7FFF_FFFF), prop_oneof![Just(8u8), Just(9)], 0..3u32, payload)
    }

    fn any_lanes() -> impl Strategy<Value = Vec<(u32, Vec<Message>)>> {
        let csid = prop_oneof![2..64u32, 64..320u32, 320..65600u32];
        let lane = proptest::collection::vec(any_message(), 1..6);
        proptest::collection::btree_map(csid, lane, 1..5).prop_map(|lanes| {
            let to_message = |csid, (time, kind, msid, payload): (u32, u8, u32, Vec<u8>)| Message {
                csid,
                time,
                kind,
                msid,
                payload: payload.into(),
            };
            lanes
                .into_iter()
                .map(|(csid, messages)| (csid, messages.into_iter().map(|m| to_message(csid, m)).collect()))
                .collect()
        })
    }

    fn any_habit() -> impl Strategy<Value = Habit> {
        let chunk_size = prop_oneof![Just(1u32), 2..200u32, Just(128), Just(4096), Just(MAX_CHUNK_SIZE)];
        (chunk_size, any::<bool>(), any::<bool>()).prop_map(|(chunk_size, repeat_extended, prefer_short)| Habit {
            chunk_size,
            repeat_extended,
            prefer_short,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_messages_in_any_chunks_and_any_split_come_out_the_same(
            lanes in any_lanes(),
            habit in any_habit(),
            order in proptest::collection::vec(any::<u8>(), 1..20),
            cuts in proptest::collection::vec(1..400usize, 1..20),
        ) {
            let (out, expected) = send(&lanes, &habit, &order);
            let mut reader = reader();
            reader.set_chunk_size(habit.chunk_size);
            let mut rest = &out[..];
            let mut got = Vec::new();
            for cut in cuts.iter().cycle() {
                let (part, more) = split_up_to(rest, *cut);
                got.extend(read_all(&mut reader, part).expect("legal"));
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!((reader.held, reader.reserved), (0, 0));
        }

        #[test]
        fn written_messages_read_back_and_have_the_length_foretold(
            messages in proptest::collection::vec((any_message(), 2..65600u32), 1..8),
            habit in any_habit(),
        ) {
            let style = WireStyle { chunk_size: habit.chunk_size, repeat_extended: habit.repeat_extended };
            let (mut out, mut foretold, mut expected) = (BytesMut::new(), 0, Vec::new());
            for ((time, kind, msid, payload), csid) in messages {
                foretold += wire_len(style, csid, time, payload.len());
                write(&mut out, style, csid, time, kind, msid, &payload);
                expected.push(message(csid, time, kind, msid, &payload));
            }
            prop_assert_eq!(out.len(), foretold);
            let mut reader = reader();
            reader.set_chunk_size(habit.chunk_size);
            prop_assert_eq!(read_all(&mut reader, &out).expect("legal"), expected);
        }

        #[test]
        fn garbage_means_the_same_in_any_split_and_holds_no_more_than_its_budget(
            parts in proptest::collection::vec(any_part(), 1..40),
            cuts in proptest::collection::vec(1..40usize, 1..8),
            chunk_size in 0..300u32,
        ) {
            let bytes = parts.concat();
            let read = |cuts: &[usize]| {
                let mut reader = ChunkReader::new(ChunkLimits { max_message: 600, ..ChunkLimits::default() });
                reader.set_chunk_size(chunk_size);
                let (mut messages, mut rest) = (Vec::new(), &bytes[..]);
                for cut in cuts.iter().cycle() {
                    let (mut part, more) = split_up_to(rest, *cut);
                    loop {
                        match reader.read(&mut part) {
                            Ok(Some(message)) => messages.push(message),
                            Ok(None) => break,
                            Err(error) => return (messages, Some(error)),
                        }
                    }
                    assert!(reader.held <= 600 && reader.reserved <= 600 / 4 + 6 * reader.held);
                    rest = more;
                    if rest.is_empty() {
                        break;
                    }
                }
                (messages, None)
            };
            prop_assert_eq!(read(&[usize::MAX]), read(&cuts));
        }
    }

    /// Bytes that often make sense: headers of every format on few chunk streams, times that match, and noise.
    fn any_part() -> impl Strategy<Value = Vec<u8>> {
        let format_0 = (2..5u8, any_time(), 0..400u32).prop_map(|(csid, time, length)| {
            let mut header = full(time, length);
            header[0] = csid;
            header
        });
        let format_1 = (2..5u8, any_time(), 0..400u32).prop_map(|(csid, time, length)| {
            let mut header = with_delta(time, length);
            header[0] = 0x40 | csid;
            header
        });
        prop_oneof![
            4 => format_0,
            2 => format_1,
            2 => (2..5u8, 0..200u8).prop_map(|(csid, delta)| vec![0x80 | csid, 0, 0, delta]),
            4 => (2..5u8).prop_map(|csid| vec![0xC0 | csid]),
            2 => any_time().prop_map(|time| time.to_be_bytes().to_vec()),
            4 => (any::<u8>(), 0..300usize).prop_map(|(byte, length)| vec![byte; length]),
            1 => proptest::collection::vec(any::<u8>(), 0..20),
        ]
    }
}
