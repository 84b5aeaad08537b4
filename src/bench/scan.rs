//! Reads RTMP chunks and steps over the media in them: what a player costs when nobody looks at the picture.
//!
//! `protocol::rtmp::chunk::ChunkReader` joins each message into bytes of its own, which is right for a server and a copy
//! too many for a tool that stands for two thousand players. This reader keeps the first [`HEAD`] bytes of a media
//! message, where the stamp is, and counts the rest. It is also a second opinion on the server's chunks: what it cannot
//! read is an error, not a repair.

use thiserror::Error;

/// One connection's inbound chunk stream.
pub struct Scanner {
    lanes: Vec<Lane>,
    chunk_size: usize,
    /// Of the chunk being read: its lane, and how much of its payload is still to come.
    current: Option<(usize, usize)>,
    /// A chunk header cut short by the end of a read.
    carry: Vec<u8>,
}

/// A message that has arrived to its last byte.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    pub kind: u8,
    pub time: u32,
    pub msid: u32,
    /// The length the message had on the wire.
    pub len: usize,
    /// Audio and video: the first [`HEAD`] bytes at most. Everything else: all of it.
    pub head: &'a [u8],
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum ScanError {
    #[error("chunk stream {csid} begins with a header of format {format}, which has nothing to inherit from")]
    NothingToInherit { csid: u32, format: u8 },
    #[error("a header of format {format} inside a message on chunk stream {csid}, {missing} bytes before its end")]
    TornMessage { csid: u32, format: u8, missing: usize },
    #[error("a message of type {kind} with {len} bytes, more than the {MAX_COMMAND} a command may have")]
    LongCommand { kind: u8, len: usize },
    #[error("message type {0} does not exist")]
    UnknownKind(u8),
    #[error("more than {MAX_LANES} chunk streams in use")]
    ManyLanes,
    #[error("a chunk size of 0 was announced")]
    ChunkSizeZero,
}

impl Scanner {
    pub fn new() -> Self {
        Self { lanes: Vec::new(), chunk_size: 128, current: None, carry: Vec::new() }
    }

    /// Takes all of `input` and hands over each message that ends in it.
    pub fn feed(&mut self, input: &[u8], on_message: impl FnMut(Scanned<'_>)) -> Result<(), ScanError> {
        if self.carry.is_empty() {
            return self.scan(input, on_message);
        }
        // Rare, and the only copy: a read ended inside a header.
        let mut joined = std::mem::take(&mut self.carry);
        joined.extend_from_slice(input);
        self.scan(&joined, on_message)
    }

    fn scan(&mut self, mut input: &[u8], mut on_message: impl FnMut(Scanned<'_>)) -> Result<(), ScanError> {
        loop {
            let (index, left) = match self.current {
                Some(current) => current,
                None => {
                    let Some(header) = self.parse(input)? else {
                        self.carry.extend_from_slice(input);
                        return Ok(());
                    };
                    input = input.get(header.size..).unwrap_or_default();
                    let chunk_size = self.chunk_size;
                    let lane = lane_mut(&mut self.lanes, header.lane);
                    lane.begin(&header)?;
                    (header.lane, lane.missing.min(chunk_size))
                }
            };
            let lane = lane_mut(&mut self.lanes, index);
            let (taken, rest) = input.split_at(left.min(input.len()));
            input = rest;
            lane.take(taken);
            self.current = (left > taken.len()).then_some((index, left - taken.len()));
            if lane.missing == 0 {
                lane.open = false;
                let Lane { kind, time, msid, len, ref head, .. } = *lane;
                if kind == SET_CHUNK_SIZE
                    && let Some(size) = head.first_chunk::<4>()
                {
                    // It counts from the next chunk on.
                    self.chunk_size = (u32::from_be_bytes(*size) & 0x7fff_ffff) as usize;
                    if self.chunk_size == 0 {
                        return Err(ScanError::ChunkSizeZero);
                    }
                }
                on_message(Scanned { kind, time, msid, len, head });
            } else if self.current.is_some() {
                return Ok(());
            }
        }
    }

    /// `None`: the header is not all there yet.
    fn parse(&mut self, input: &[u8]) -> Result<Option<Header>, ScanError> {
        let mut cursor = Cursor { rest: input };
        Ok(self.parse_at(&mut cursor)?.map(|header| Header { size: input.len() - cursor.rest.len(), ..header }))
    }

    fn parse_at(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Header>, ScanError> {
        let Some(first) = cursor.number(1) else { return Ok(None) };
        let format = (first >> 6) as u8;
        let csid = match first & 0x3f {
            0 => cursor.number(1).map(|low| low + 64),
            1 => cursor.number(2).map(|pair| ((pair & 0xff) << 8) + (pair >> 8) + 64),
            direct => Some(direct),
        };
        let Some(csid) = csid else { return Ok(None) };
        let (lane, known) = self.lane(csid)?;
        let state = lane_mut(&mut self.lanes, lane);
        // Pings come as format 1 on a fresh chunk stream from librtmp; message stream 0 is meant then.
        if !known && format >= 2 {
            return Err(ScanError::NothingToInherit { csid, format });
        }
        let mut header = Header {
            lane,
            format,
            size: 0,
            ext: state.ext,
            field: 0,
            len: state.len,
            kind: state.kind,
            msid: state.msid,
        };
        if format <= 2 {
            let Some(field) = cursor.number(3) else { return Ok(None) };
            header.field = field;
            header.ext = None;
        }
        if format <= 1 {
            let (Some(len), Some(kind)) = (cursor.number(3), cursor.number(1)) else { return Ok(None) };
            (header.len, header.kind) = (len as usize, kind as u8);
        }
        if format == 0 {
            let Some(msid) = cursor.number(4) else { return Ok(None) };
            header.msid = msid.swap_bytes();
        }
        if format <= 2 && header.field == EXTENDED {
            let Some(extended) = cursor.number(4) else { return Ok(None) };
            (header.field, header.ext) = (extended, Some(extended));
        } else if format == 3
            && let Some(expected) = header.ext
        {
            // Old senders leave the repeated field out; what does not equal it is payload.
            let mut ahead = Cursor { rest: cursor.rest };
            match ahead.number(4) {
                None => return Ok(None),
                Some(found) if found == expected => cursor.rest = ahead.rest,
                Some(_) => {}
            }
        }
        Ok(Some(header))
    }

    /// The index of a chunk stream's lane, made when it is new, and whether it was known.
    fn lane(&mut self, csid: u32) -> Result<(usize, bool), ScanError> {
        if let Some(index) = self.lanes.iter().position(|lane| lane.csid == csid) {
            return Ok((index, lane_mut(&mut self.lanes, index).known));
        }
        if self.lanes.len() >= MAX_LANES {
            return Err(ScanError::ManyLanes);
        }
        self.lanes.push(Lane { csid, ..Lane::default() });
        Ok((self.lanes.len() - 1, false))
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of one chunk stream.
#[derive(Default)]
struct Lane {
    csid: u32,
    /// A header has been read to its end.
    known: bool,
    /// A message has begun and not ended.
    open: bool,
    time: u32,
    delta: u32,
    ext: Option<u32>,
    len: usize,
    kind: u8,
    msid: u32,
    missing: usize,
    head: Vec<u8>,
}

impl Lane {
    fn begin(&mut self, header: &Header) -> Result<(), ScanError> {
        if self.open {
            // Format 3 goes on with the message. Some senders write format 1 or 2 for that, with the length it has.
            if header.format == 0 || header.len != self.len {
                return Err(ScanError::TornMessage { csid: self.csid, format: header.format, missing: self.missing });
            }
            return Ok(());
        }
        if !(1..=22).contains(&header.kind) {
            return Err(ScanError::UnknownKind(header.kind));
        }
        if !is_media(header.kind) && header.len > MAX_COMMAND {
            return Err(ScanError::LongCommand { kind: header.kind, len: header.len });
        }
        match header.format {
            // By the letter a format 3 would repeat this time as its delta; those who write one here mean no delta.
            0 => (self.time, self.delta) = (header.field, 0),
            1 | 2 => {
                self.delta = header.field;
                self.time = self.time.wrapping_add(self.delta);
            }
            _ => self.time = self.time.wrapping_add(self.delta),
        }
        (self.known, self.open, self.ext) = (true, true, header.ext);
        (self.len, self.kind, self.msid) = (header.len, header.kind, header.msid);
        self.missing = self.len;
        self.head.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        let limit = if is_media(self.kind) { HEAD } else { MAX_COMMAND };
        let wanted = limit.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
        self.missing -= bytes.len();
    }
}

struct Header {
    lane: usize,
    format: u8,
    /// Bytes of the header on the wire.
    size: usize,
    /// The time or delta, with the extension resolved.
    field: u32,
    ext: Option<u32>,
    len: usize,
    kind: u8,
    msid: u32,
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    /// A big-endian number of at most four bytes.
    fn number(&mut self, len: usize) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(digits.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte)))
    }
}

fn lane_mut(lanes: &mut [Lane], index: usize) -> &mut Lane {
    lanes.get_mut(index).expect("lanes are never taken away, and an index comes from their list")
}

fn is_media(kind: u8) -> bool {
    kind == AUDIO || kind == VIDEO
}

/// How much of a media message is kept: past the end of the stamp, which [`super::media`] writes.
pub const HEAD: usize = 96;
const SET_CHUNK_SIZE: u8 = 1;
const AUDIO: u8 = 8;
const VIDEO: u8 = 9;
const EXTENDED: u32 = 0xff_ffff;
/// Aggregates apart, no server sends a player more than metadata of a few KiB.
const MAX_COMMAND: usize = 256 * 1024;
/// Servers use four or five.
const MAX_LANES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = (u8, u32, u32, usize, Vec<u8>);

    /// Feeds `wire` in pieces of `step` bytes.
    fn scan(wire: &[u8], step: usize) -> Result<Vec<Owned>, ScanError> {
        let mut scanner = Scanner::new();
        let mut messages = Vec::new();
        for piece in wire.chunks(step) {
            scanner.feed(piece, |message| {
                let Scanned { kind, time, msid, len, head } = message;
                messages.push((kind, time, msid, len, head.to_vec()));
            })?;
        }
        Ok(messages)
    }

    fn check(wire: &[u8], expected: &[Owned]) {
        for step in [1, 2, 3, 7, 130, wire.len()] {
            assert_eq!(scan(wire, step).as_deref(), Ok(expected), "in pieces of {step}");
        }
    }

    fn header0(csid: u8, time: u32, len: u32, kind: u8, msid: u32) -> Vec<u8> {
        let mut header = vec![csid];
        header.extend_from_slice(&time.to_be_bytes()[1..]);
        header.extend_from_slice(&len.to_be_bytes()[1..]);
        header.push(kind);
        header.extend_from_slice(&msid.to_le_bytes());
        header
    }

    #[test]
    fn a_long_message_comes_as_its_first_bytes_and_its_length() {
        let body: Vec<u8> = (0..300u32).map(|index| index as u8).collect();
        let mut wire = header0(6, 40, 300, VIDEO, 1);
        wire.extend_from_slice(&body[..128]);
        wire.push(0xc6);
        wire.extend_from_slice(&body[128..256]);
        wire.push(0xc6);
        wire.extend_from_slice(&body[256..]);
        check(&wire, &[(VIDEO, 40, 1, 300, body[..HEAD].to_vec())]);
    }

    #[test]
    fn every_header_form_is_understood() {
        let mut wire = header0(4, 1000, 2, AUDIO, 1);
        wire.extend_from_slice(b"ab");
        wire.extend_from_slice(&[0x44, 0, 0, 23, 0, 0, 3, AUDIO]);
        wire.extend_from_slice(b"cde");
        wire.extend_from_slice(&[0x84, 0, 0, 24]);
        wire.extend_from_slice(b"fgh");
        wire.push(0xc4);
        wire.extend_from_slice(b"ijk");
        check(
            &wire,
            &[
                (AUDIO, 1000, 1, 2, b"ab".to_vec()),
                (AUDIO, 1023, 1, 3, b"cde".to_vec()),
                (AUDIO, 1047, 1, 3, b"fgh".to_vec()),
                (AUDIO, 1071, 1, 3, b"ijk".to_vec()),
            ],
        );
    }

    #[test]
    fn long_chunk_stream_ids_are_understood_in_both_forms() {
        let mut wire = vec![0, 6];
        wire.extend_from_slice(&header0(0, 5, 1, AUDIO, 1)[1..]);
        wire.push(b'a');
        // The same chunk stream, 70, in the three-byte form.
        wire.extend_from_slice(&[0xc1, 6, 0, b'b']);
        check(&wire, &[(AUDIO, 5, 1, 1, b"a".to_vec()), (AUDIO, 5, 1, 1, b"b".to_vec())]);
    }

    #[test]
    fn interleaved_messages_are_kept_apart() {
        let mut wire = header0(6, 0, 130, VIDEO, 1);
        wire.extend_from_slice(&[b'v'; 128]);
        wire.extend_from_slice(&header0(4, 3, 2, AUDIO, 1));
        wire.extend_from_slice(b"aa");
        wire.extend_from_slice(&[0xc6, b'v', b'v']);
        check(&wire, &[(AUDIO, 3, 1, 2, b"aa".to_vec()), (VIDEO, 0, 1, 130, vec![b'v'; HEAD])]);
    }

    #[test]
    fn extended_times_are_read_whether_repeated_or_not() {
        for repeated in [true, false] {
            let time = 0x0100_0000u32;
            let mut wire = header0(6, EXTENDED, 130, VIDEO, 1);
            wire.extend_from_slice(&time.to_be_bytes());
            wire.extend_from_slice(&[b'v'; 128]);
            wire.push(0xc6);
            if repeated {
                wire.extend_from_slice(&time.to_be_bytes());
            }
            wire.extend_from_slice(b"vv");
            wire.extend_from_slice(&header0(6, 7, 2, VIDEO, 1));
            wire.extend_from_slice(b"ww");
            check(&wire, &[(VIDEO, time, 1, 130, vec![b'v'; HEAD]), (VIDEO, 7, 1, 2, b"ww".to_vec())]);
        }
    }

    #[test]
    fn a_new_chunk_size_counts_from_the_next_chunk() {
        let mut wire = header0(2, 0, 4, SET_CHUNK_SIZE, 0);
        wire.extend_from_slice(&4096u32.to_be_bytes());
        wire.extend_from_slice(&header0(3, 0, 300, 20, 0));
        wire.extend_from_slice(&[b'c'; 300]);
        check(&wire, &[(SET_CHUNK_SIZE, 0, 0, 4, 4096u32.to_be_bytes().to_vec()), (20, 0, 0, 300, vec![b'c'; 300])]);
    }

    #[test]
    fn an_empty_message_is_a_message() {
        check(&header0(4, 9, 0, AUDIO, 1), &[(AUDIO, 9, 1, 0, Vec::new())]);
    }

    #[test]
    fn a_torn_message_is_an_error() {
        let mut wire = header0(6, 0, 300, VIDEO, 1);
        wire.extend_from_slice(&[b'v'; 128]);
        wire.extend_from_slice(&header0(6, 40, 10, VIDEO, 1));
        assert_eq!(scan(&wire, 50), Err(ScanError::TornMessage { csid: 6, format: 0, missing: 172 }));
    }

    #[test]
    fn a_chunk_stream_cannot_begin_by_inheriting() {
        assert_eq!(scan(&[0xc5, 0, 0], 3), Err(ScanError::NothingToInherit { csid: 5, format: 3 }));
    }
}
