//! WebSocket frames (RFC 6455) as somebody needs them who sends media and is told nothing but pings and goodbye.

use bytes::{BufMut, Bytes, BytesMut};

/// Reads what a client says. Data is nothing we asked for: it is counted and forgotten as it comes, so that nothing but a
/// control frame of at most 125 bytes is ever kept.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// The header of a frame as far as it has come: two bytes, up to eight of length, four of mask.
    head: Vec<u8>,
    body: Option<FrameBody>,
}

#[derive(Debug)]
struct FrameBody {
    opcode: u8,
    mask: [u8; 4],
    /// Bytes that are still to come.
    left: usize,
    /// Of a control frame, unmasked.
    kept: Vec<u8>,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// To be answered with the same bytes.
    Ping(Vec<u8>),
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame without a mask")]
    NotMasked,
    #[error("reserved bits are set, and no extension was agreed on")]
    Reserved,
    #[error("opcode {0} is not known")]
    Opcode(u8),
    #[error("a control frame in parts, or longer than 125 bytes")]
    Control,
    #[error("a frame of {0} bytes, {MAX_FRAME_BYTES} is the limit")]
    TooLong(u64),
}

impl FrameError {
    /// The status to close with.
    pub fn status(self) -> u16 {
        match self {
            Self::TooLong(_) => status::TOO_BIG,
            _ => status::PROTOCOL,
        }
    }
}

/// Why a connection is closed (7.4.1).
pub mod status {
    pub const NORMAL: u16 = 1000;
    pub const PROTOCOL: u16 = 1002;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
}

impl FrameReader {
    /// Takes bytes up to the end of the next frame that says something; none: all of them are used up.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Heard>, FrameError> {
        loop {
            let Some(body) = &mut self.body else {
                if !self.read_head(input)? {
                    return Ok(None);
                }
                continue;
            };
            let (taken, rest) = input.split_at(body.left.min(input.len()));
            *input = rest;
            body.left -= taken.len();
            if body.opcode >= CLOSE {
                let mask = body.mask.iter().cycle().skip(body.kept.len() % 4);
                let plain = taken.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
                body.kept.extend(plain.collect::<Vec<_>>());
            }
            if body.left > 0 {
                return Ok(None);
            }
            let Some(FrameBody { opcode, kept, .. }) = self.body.take() else { continue };
            match opcode {
                PING => return Ok(Some(Heard::Ping(kept))),
                CLOSE => return Ok(Some(Heard::Close)),
                _ => {}
            }
        }
    }

    /// `false`: more must come.
    fn read_head(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            self.head.push(*byte);
            if let Some(body) = parse_head(&self.head)? {
                self.head.clear();
                self.body = Some(body);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// None: more must come.
fn parse_head(head: &[u8]) -> Result<Option<FrameBody>, FrameError> {
    let [first, second, rest @ ..] = head else { return Ok(None) };
    let (opcode, short) = (first & 0x0F, second & 0x7F);
    // 5.2: they are for extensions, and none is agreed on here.
    if first & 0x70 != 0 {
        return Err(FrameError::Reserved);
    }
    // 5.1: a server must not take a frame that is not masked.
    if second & 0x80 == 0 {
        return Err(FrameError::NotMasked);
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(FrameError::Opcode(opcode));
    }
    // 5.5: control frames are short and whole.
    if opcode >= CLOSE && (first & 0x80 == 0 || short > MAX_CONTROL_BYTES) {
        return Err(FrameError::Control);
    }
    let (len, mask) = match (short, rest) {
        (126, [a, b, mask @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), mask),
        (127, [a, b, c, d, e, f, g, h, mask @ ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), mask),
        (126 | 127, _) => return Ok(None),
        (short, mask) => (u64::from(short), mask),
    };
    let left = usize::try_from(len).ok().filter(|len| *len <= MAX_FRAME_BYTES).ok_or(FrameError::TooLong(len))?;
    let Ok(mask) = mask.try_into() else { return Ok(None) };
    Ok(Some(FrameBody { opcode, mask, left, kept: Vec::new() }))
}

/// The header of a binary message that is one frame. What a server sends is not masked.
pub fn message_header(len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(MAX_HEADER_BYTES);
    write_header(&mut out, BINARY, len);
    out.freeze()
}

/// The answer to a ping.
pub fn write_pong(out: &mut BytesMut, said: &[u8]) {
    write_header(out, PONG, said.len());
    out.put_slice(said);
}

/// Goodbye; nothing may follow it.
pub fn write_close(out: &mut BytesMut, status: u16) {
    write_header(out, CLOSE, 2);
    out.put_u16(status);
}

fn write_header(out: &mut BytesMut, opcode: u8, len: usize) {
    out.put_u8(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..=MAX_CONTROL_BYTES), _) => out.put_u8(short),
        (_, Ok(medium)) => {
            out.put_u8(126);
            out.put_u16(medium);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(len as u64);
        }
    }
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const MAX_CONTROL_BYTES: u8 = 125;

/// Of frames that we send.
const MAX_HEADER_BYTES: usize = 10;

/// Players have nothing to say that is longer.
const MAX_FRAME_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(first: u8, body: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let masked = body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [first, 0x80 | body.len() as u8].into_iter().chain(mask).chain(masked).collect()
    }

    fn read_all(mut input: &[u8]) -> Result<Vec<Heard>, FrameError> {
        let mut reader = FrameReader::default();
        let mut heard = Vec::new();
        while let Some(next) = reader.read(&mut input)? {
            heard.push(next);
        }
        assert!(input.is_empty());
        Ok(heard)
    }

    #[test]
    fn pings_and_goodbye_are_heard_and_data_is_not() {
        let said = [frame(0x82, b"data"), frame(0x89, b"are you there"), frame(0x8A, b"pong"), frame(0x88, b"")];
        let expected = [Heard::Ping(b"are you there".to_vec()), Heard::Close];
        assert_eq!(read_all(&said.concat()).unwrap(), expected);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_come() {
        let said = [frame(0x01, b"half a text"), frame(0x89, b"ping"), frame(0x80, b"rest")].concat();
        let mut reader = FrameReader::default();
        let heard: Vec<_> = said.iter().filter_map(|byte| reader.read(&mut &[*byte][..]).unwrap()).collect();
        assert_eq!(heard, [Heard::Ping(b"ping".to_vec())]);
    }

    #[test]
    fn what_a_client_must_not_say_is_refused_as_soon_as_it_shows() {
        assert_eq!(read_all(&[0x82, 0x05]), Err(FrameError::NotMasked));
        assert_eq!(read_all(&[0xC2, 0x85]), Err(FrameError::Reserved));
        assert_eq!(read_all(&[0x83, 0x85]), Err(FrameError::Opcode(3)));
        assert_eq!(read_all(&[0x09, 0x85]), Err(FrameError::Control), "a ping in parts");
        assert_eq!(read_all(&[0x89, 0xFE, 1, 0]), Err(FrameError::Control), "a long ping");
        let huge = [0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255];
        assert_eq!(read_all(&huge), Err(FrameError::TooLong(i64::MAX as u64)));
        assert_eq!(FrameError::TooLong(0).status(), 1009);
    }

    #[test]
    fn headers_are_as_long_as_they_must_be() {
        assert_eq!(message_header(125)[..], [0x82, 125]);
        assert_eq!(message_header(126)[..], [0x82, 126, 0, 126]);
        assert_eq!(message_header(65_535)[..], [0x82, 126, 255, 255]);
        assert_eq!(message_header(65_536)[..], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        let mut out = BytesMut::new();
        write_pong(&mut out, b"x");
        write_close(&mut out, status::NORMAL);
        assert_eq!(out[..], [0x8A, 1, b'x', 0x88, 2, 3, 232]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_nothing_large_is_kept(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = FrameReader::default();
            let mut input = &bytes[..];
            while let Ok(Some(_)) = reader.read(&mut input) {}
            prop_assert!(reader.head.len() <= 14);
            prop_assert!(reader.body.is_none_or(|body| body.kept.len() <= 125));
        }
    }
}
