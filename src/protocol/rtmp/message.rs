//! Message types, and what the protocol control messages say.

use bytes::{Buf, Bytes};

/// One RTMP message, whole, with the time its chunk headers worked out to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The chunk stream it came on. Says nothing about what is inside: librtmp and OBS send everything on 4.
    pub csid: u32,
    /// Milliseconds, as the sender counts them, modulo 2^32.
    pub time: u32,
    /// The message type id; the names are in [`kind`].
    pub kind: u8,
    /// The message stream it belongs to: 0 for the connection, else an id that `createStream` gave out.
    pub msid: u32,
    pub payload: Bytes,
}

/// Message type ids.
pub mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACK_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const SHARED_OBJECT_AMF3: u8 = 16;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA: u8 = 18;
    pub const SHARED_OBJECT: u8 = 19;
    pub const COMMAND: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// The chunk streams livemill sends on. Receivers go by message type, these only follow custom.
pub mod csid {
    pub const CONTROL: u32 = 2;
    pub const COMMAND: u32 = 3;
    /// onStatus and data messages of a stream.
    pub const STATUS: u32 = 5;
    pub const AUDIO: u32 = 6;
    pub const VIDEO: u32 = 7;
    /// publish and play as ffmpeg and librtmp send them.
    pub const STREAM_COMMAND: u32 = 8;
}

/// A protocol control message: types 1 to 6. They travel on csid 2 and message stream 0, and act at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    SetChunkSize(u32),
    /// Forget the unfinished message of this chunk stream.
    Abort(u32),
    /// The peer has received this many bytes so far, modulo 2^32.
    Acknowledgement(u32),
    WindowAckSize(u32),
    SetPeerBandwidth {
        window: u32,
        limit: u8,
    },
    User(UserEvent),
}

/// What a user control message (type 4) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserEvent {
    StreamBegin(u32),
    StreamEof(u32),
    StreamDry(u32),
    SetBufferLength {
        msid: u32,
        ms: u32,
    },
    StreamIsRecorded(u32),
    PingRequest(u32),
    PingResponse(u32),
    /// An event nobody documents (26/27 SWF verification, 31/32 buffer reports), or one cut short: to be ignored.
    Other(u16),
}

/// A control message that breaks its own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("control message of type {kind} has only {length} bytes")]
    Short { kind: u8, length: usize },
    #[error("chunk size {0:#x} is not allowed")]
    ChunkSize(u32),
}

impl Control {
    /// Reads a message of type 1 to 6; `Ok(None)` for any other type. Bytes behind the fields are ignored.
    pub fn parse(kind: u8, payload: &[u8]) -> Result<Option<Self>, ControlError> {
        let short = ControlError::Short { kind, length: payload.len() };
        let control = match kind {
            kind::SET_CHUNK_SIZE => {
                let size = u32_at(payload, 0).ok_or(short)?;
                // The top bit must be zero and a chunk carries at least one byte (spec 5.4.1).
                if size == 0 || size > MAX_CHUNK_SIZE {
                    return Err(ControlError::ChunkSize(size));
                }
                Self::SetChunkSize(size)
            }
            kind::ABORT => Self::Abort(u32_at(payload, 0).ok_or(short)?),
            kind::ACKNOWLEDGEMENT => Self::Acknowledgement(u32_at(payload, 0).ok_or(short)?),
            kind::WINDOW_ACK_SIZE => Self::WindowAckSize(u32_at(payload, 0).ok_or(short)?),
            kind::SET_PEER_BANDWIDTH => Self::SetPeerBandwidth {
                window: u32_at(payload, 0).ok_or(short)?,
                // Four bytes without the limit type are seen from old encoders: read as dynamic.
                limit: payload.get(4).copied().unwrap_or(LIMIT_DYNAMIC),
            },
            kind::USER_CONTROL => Self::User(UserEvent::parse(payload).ok_or(short)?),
            _ => return Ok(None),
        };
        Ok(Some(control))
    }

    /// The type id it travels under.
    pub fn kind(&self) -> u8 {
        match self {
            Self::SetChunkSize(_) => kind::SET_CHUNK_SIZE,
            Self::Abort(_) => kind::ABORT,
            Self::Acknowledgement(_) => kind::ACKNOWLEDGEMENT,
            Self::WindowAckSize(_) => kind::WINDOW_ACK_SIZE,
            Self::SetPeerBandwidth { .. } => kind::SET_PEER_BANDWIDTH,
            Self::User(_) => kind::USER_CONTROL,
        }
    }

    /// The message body.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::SetChunkSize(value)
            | Self::Abort(value)
            | Self::Acknowledgement(value)
            | Self::WindowAckSize(value) => value.to_be_bytes().to_vec(),
            Self::SetPeerBandwidth { window, limit } => {
                let mut body = window.to_be_bytes().to_vec();
                body.push(limit);
                body
            }
            Self::User(event) => event.encode(),
        }
    }
}

impl UserEvent {
    /// `None` when there is no event number, or a ping without its four bytes, which no answer could echo.
    fn parse(payload: &[u8]) -> Option<Self> {
        let event = u16::from_be_bytes(*payload.first_chunk::<2>()?);
        let value = u32_at(payload, 2);
        let known = match event {
            0 => value.map(Self::StreamBegin),
            1 => value.map(Self::StreamEof),
            2 => value.map(Self::StreamDry),
            3 => value.and_then(|msid| Some(Self::SetBufferLength { msid, ms: u32_at(payload, 6)? })),
            4 => value.map(Self::StreamIsRecorded),
            6 => return value.map(Self::PingRequest),
            7 => return value.map(Self::PingResponse),
            _ => None,
        };
        Some(known.unwrap_or(Self::Other(event)))
    }

    fn encode(self) -> Vec<u8> {
        let (event, value, more) = match self {
            Self::StreamBegin(msid) => (0u16, msid, None),
            Self::StreamEof(msid) => (1, msid, None),
            Self::StreamDry(msid) => (2, msid, None),
            Self::SetBufferLength { msid, ms } => (3, msid, Some(ms)),
            Self::StreamIsRecorded(msid) => (4, msid, None),
            Self::PingRequest(time) => (6, time, None),
            Self::PingResponse(time) => (7, time, None),
            Self::Other(event) => (event, 0, None),
        };
        let mut body = event.to_be_bytes().to_vec();
        body.extend_from_slice(&value.to_be_bytes());
        if let Some(more) = more {
            body.extend_from_slice(&more.to_be_bytes());
        }
        body
    }
}

/// The messages inside an aggregate (type 22), sharing its bytes.
///
/// The body is FLV tags, whatever the specification's own figure says: type(1) size(3) time(3) time_ext(1)
/// stream(3), data, back pointer(4). Times are relative to the first tag, and the aggregate's msid wins.
pub fn split_aggregate(aggregate: Message) -> Aggregate {
    Aggregate {
        base: aggregate.time,
        first: None,
        parts: 0,
        csid: aggregate.csid,
        msid: aggregate.msid,
        rest: aggregate.payload,
    }
}

/// Iterates over the messages of an aggregate; stops after the first error.
#[derive(Debug)]
pub struct Aggregate {
    base: u32,
    first: Option<u32>,
    parts: usize,
    csid: u32,
    msid: u32,
    rest: Bytes,
}

/// An aggregate whose inside does not add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    #[error("aggregate holds a part of {size} bytes where {left} are left")]
    PastEnd { size: usize, left: usize },
    #[error("aggregate holds a part of type {0}")]
    Kind(u8),
    #[error("aggregate of more than {MAX_PARTS} parts")]
    TooManyParts,
}

impl Iterator for Aggregate {
    type Item = Result<Message, AggregateError>;

    fn next(&mut self) -> Option<Self::Item> {
        // A stump shorter than a tag header is padding: seen behind the last back pointer.
        let &[kind, s0, s1, s2, t0, t1, t2, t3, _, _, _] = self.rest.first_chunk::<TAG_HEADER>()?;
        let size = u32::from_be_bytes([0, s0, s1, s2]) as usize;
        let left = self.rest.len() - TAG_HEADER;
        self.parts += 1;
        let error = match kind {
            _ if self.parts > MAX_PARTS => Some(AggregateError::TooManyParts),
            kind::AUDIO | kind::VIDEO | kind::DATA if size <= left => None,
            kind::AUDIO | kind::VIDEO | kind::DATA => Some(AggregateError::PastEnd { size, left }),
            // An aggregate within an aggregate would let a few bytes ask for unbounded work.
            other => Some(AggregateError::Kind(other)),
        };
        if let Some(error) = error {
            self.rest.clear();
            return Some(Err(error));
        }
        let tag_time = u32::from_be_bytes([t3, t0, t1, t2]);
        let first = *self.first.get_or_insert(tag_time);
        self.rest.advance(TAG_HEADER);
        let payload = self.rest.split_to(size);
        // The back pointer of the last part is left out by some senders.
        self.rest.advance(BACK_POINTER.min(self.rest.len()));
        let time = self.base.wrapping_add(tag_time.wrapping_sub(first));
        Some(Ok(Message { csid: self.csid, time, kind, msid: self.msid, payload }))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// The largest chunk size the 31-bit field can say.
pub const MAX_CHUNK_SIZE: u32 = 0x7FFF_FFFF;
/// The largest message the 24-bit length field can say.
pub const MAX_LENGTH: usize = 0xFF_FFFF;
/// SetPeerBandwidth's limit type that leaves the choice to the receiver.
pub const LIMIT_DYNAMIC: u8 = 2;
const TAG_HEADER: usize = 11;
const BACK_POINTER: usize = 4;
/// Sixteen bytes are enough for a part, and each becomes a message of its own. Known senders gather a few dozen.
const MAX_PARTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(parts: &[(u8, u32, &[u8])]) -> Message {
        let mut body = Vec::new();
        for (kind, time, data) in parts {
            body.push(*kind);
            body.extend_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
            body.extend_from_slice(&time.to_be_bytes()[1..]);
            body.push(time.to_be_bytes()[0]);
            body.extend_from_slice(&[0, 0, 0]);
            body.extend_from_slice(data);
            body.extend_from_slice(&(11 + data.len() as u32).to_be_bytes());
        }
        Message { csid: 4, time: 5000, kind: kind::AGGREGATE, msid: 1, payload: body.into() }
    }

    #[test]
    fn aggregate_parts_keep_their_distance_from_its_own_time() {
        let parts = [(8, 0x0100_0000, &b"au"[..]), (9, 0x0100_0028, b"video"), (8, 0x00FF_FFFE, b"")];
        let got: Vec<_> = split_aggregate(aggregate(&parts)).map(|part| part.expect("sound")).collect();
        let brief: Vec<_> = got.iter().map(|m| (m.kind, m.time, m.msid, &m.payload[..])).collect();
        assert_eq!(brief, [(8, 5000, 1, &b"au"[..]), (9, 5040, 1, b"video"), (8, 4998, 1, b"")]);
    }

    #[test]
    fn aggregate_part_that_reaches_past_the_end_is_refused() {
        let mut message = aggregate(&[(8, 0, b"ok"), (9, 0, b"video")]);
        message.payload.truncate(message.payload.len() - 5);
        let got: Vec<_> = split_aggregate(message).collect();
        assert!(matches!(got[..], [Ok(_), Err(AggregateError::PastEnd { size: 5, left: 4 })]), "{got:?}");
    }

    #[test]
    fn aggregate_within_an_aggregate_is_refused() {
        let got: Vec<_> = split_aggregate(aggregate(&[(22, 0, b"x"), (8, 0, b"y")])).collect();
        assert_eq!(got, [Err(AggregateError::Kind(22))]);
    }

    #[test]
    fn aggregate_of_countless_parts_is_refused() {
        let parts = vec![(8, 0, &b"x"[..]); 1025];
        let got: Vec<_> = split_aggregate(aggregate(&parts)).collect();
        assert_eq!((got.len(), got.last()), (1025, Some(&Err(AggregateError::TooManyParts))));
    }

    #[test]
    fn last_back_pointer_may_be_missing() {
        let mut message = aggregate(&[(8, 0, b"one"), (9, 7, b"two")]);
        message.payload.truncate(message.payload.len() - 4);
        assert_eq!(split_aggregate(message).filter(Result::is_ok).count(), 2);
    }

    #[test]
    fn chunk_size_of_zero_or_with_the_top_bit_is_refused() {
        for size in [0, 0x8000_0000u32, 0xFFFF_FFFF] {
            assert_eq!(Control::parse(1, &size.to_be_bytes()), Err(ControlError::ChunkSize(size)));
        }
        for size in [1u32, 128, 0x7FFF_FFFF] {
            assert_eq!(Control::parse(1, &size.to_be_bytes()), Ok(Some(Control::SetChunkSize(size))));
        }
    }

    #[test]
    fn chunk_size_needs_four_bytes_and_ignores_a_fifth() {
        for length in [0, 1, 3] {
            assert_eq!(Control::parse(1, &[1; 4][..length]), Err(ControlError::Short { kind: 1, length }));
        }
        assert_eq!(Control::parse(1, &[0, 0, 1, 0, 9]), Ok(Some(Control::SetChunkSize(256))));
    }

    #[test]
    fn short_ping_is_an_error_and_other_short_events_are_ignored() {
        assert_eq!(Control::parse(4, &[0]), Err(ControlError::Short { kind: 4, length: 1 }));
        assert_eq!(Control::parse(4, &[0, 6, 1]), Err(ControlError::Short { kind: 4, length: 3 }));
        assert_eq!(Control::parse(4, &[0, 3, 0, 0, 0, 1]), Ok(Some(Control::User(UserEvent::Other(3)))));
        assert_eq!(Control::parse(4, &[0, 31]), Ok(Some(Control::User(UserEvent::Other(31)))));
    }

    #[test]
    fn every_control_message_reads_back_as_written() {
        for control in [
            Control::SetChunkSize(4096),
            Control::Abort(64),
            Control::Acknowledgement(u32::MAX),
            Control::WindowAckSize(2_500_000),
            Control::SetPeerBandwidth { window: 5_000_000, limit: 2 },
            Control::User(UserEvent::StreamBegin(1)),
            Control::User(UserEvent::StreamEof(1)),
            Control::User(UserEvent::StreamDry(1)),
            Control::User(UserEvent::SetBufferLength { msid: 1, ms: 3000 }),
            Control::User(UserEvent::StreamIsRecorded(1)),
            Control::User(UserEvent::PingRequest(7)),
            Control::User(UserEvent::PingResponse(7)),
        ] {
            assert_eq!(Control::parse(control.kind(), &control.encode()), Ok(Some(control)));
        }
    }

    #[test]
    fn media_is_no_control_message() {
        assert_eq!(Control::parse(kind::VIDEO, &[]), Ok(None));
    }
}
