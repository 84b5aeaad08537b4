//! RTMP bytes: chunks and AMF0, written and read independently of the code under test.
//!
//! Deliberately naive, and able to write what a correct writer could not.

use std::collections::HashMap;

/// One whole message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub csid: u32,
    pub time: u32,
    pub kind: u8,
    pub msid: u32,
    pub payload: Vec<u8>,
}

pub const SET_CHUNK_SIZE: u8 = 1;
pub const ABORT: u8 = 2;
pub const ACKNOWLEDGEMENT: u8 = 3;
pub const USER_CONTROL: u8 = 4;
pub const WINDOW_ACK_SIZE: u8 = 5;
pub const SET_PEER_BANDWIDTH: u8 = 6;
pub const AUDIO: u8 = 8;
pub const VIDEO: u8 = 9;
pub const AMF3_COMMAND: u8 = 17;
pub const AMF0_DATA: u8 = 18;
pub const AMF0_COMMAND: u8 = 20;
pub const AGGREGATE: u8 = 22;

/// The chunks of a message: a fmt 0 header, then fmt 3 continuations with the extended timestamp repeated.
pub fn chunks(chunk_size: usize, message: &Message) -> Vec<u8> {
    let mut out = header0(message.csid, message.time, message.payload.len(), message.kind, message.msid);
    let mut parts = message.payload.chunks(chunk_size.max(1));
    out.extend(parts.next().unwrap_or_default());
    for part in parts {
        out.extend(header3(message.csid, (message.time >= EXTENDED).then_some(message.time)));
        out.extend(part);
    }
    out
}

/// A fmt 0 header; `length` may lie.
pub fn header0(csid: u32, time: u32, length: usize, kind: u8, msid: u32) -> Vec<u8> {
    let mut out = basic(0, csid);
    out.extend(u24(time.min(EXTENDED)));
    out.extend(u24(u32::try_from(length).expect("a length below 2^24")));
    out.push(kind);
    out.extend(msid.to_le_bytes());
    if time >= EXTENDED {
        out.extend(time.to_be_bytes());
    }
    out
}

/// A fmt 1 header: delta, length and type new.
pub fn header1(csid: u32, delta: u32, length: usize, kind: u8) -> Vec<u8> {
    let mut out = basic(1, csid);
    out.extend(u24(delta.min(EXTENDED)));
    out.extend(u24(u32::try_from(length).expect("a length below 2^24")));
    out.push(kind);
    if delta >= EXTENDED {
        out.extend(delta.to_be_bytes());
    }
    out
}

/// A fmt 2 header: delta new.
pub fn header2(csid: u32, delta: u32) -> Vec<u8> {
    let mut out = basic(2, csid);
    out.extend(u24(delta.min(EXTENDED)));
    if delta >= EXTENDED {
        out.extend(delta.to_be_bytes());
    }
    out
}

/// A fmt 3 header, with the extended timestamp where the sender repeats it.
pub fn header3(csid: u32, extended: Option<u32>) -> Vec<u8> {
    let mut out = basic(3, csid);
    out.extend(extended.into_iter().flat_map(u32::to_be_bytes));
    out
}

/// The basic header in its shortest form.
pub fn basic(fmt: u8, csid: u32) -> Vec<u8> {
    match csid {
        2..64 => vec![fmt << 6 | u8::try_from(csid).expect("below 64")],
        64..320 => vec![fmt << 6, u8::try_from(csid - 64).expect("below 256")],
        _ => basic_three(fmt, csid),
    }
}

/// The three-byte basic header, which may also name the ids that two bytes could.
pub fn basic_three(fmt: u8, csid: u32) -> Vec<u8> {
    let rest = u16::try_from(csid - 64).expect("ids end at 65599");
    let mut out = vec![fmt << 6 | 1];
    out.extend(rest.to_le_bytes());
    out
}

/// A protocol control message on csid 2.
pub fn control(kind: u8, payload: &[u8]) -> Message {
    Message { csid: 2, time: 0, kind, msid: 0, payload: payload.to_vec() }
}

/// A command on csid 3.
pub fn command(msid: u32, name: &str, transaction: f64, arguments: &[Amf]) -> Message {
    let mut payload = Vec::new();
    Amf::from(name).write(&mut payload);
    Amf::Number(transaction).write(&mut payload);
    for argument in arguments {
        argument.write(&mut payload);
    }
    Message { csid: 3, time: 0, kind: AMF0_COMMAND, msid, payload }
}

/// Joins chunks to messages.
pub struct Reader {
    pub chunk_size: usize,
    input: Vec<u8>,
    streams: HashMap<u32, ChunkStream>,
}

#[derive(Default)]
struct ChunkStream {
    time: u32,
    delta: u32,
    extended: Option<u32>,
    length: usize,
    kind: u8,
    msid: u32,
    partial: Vec<u8>,
}

impl Reader {
    pub fn new() -> Self {
        Self { chunk_size: 128, input: Vec::new(), streams: HashMap::new() }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` when more bytes are needed. Follows SetChunkSize by itself.
    pub fn next(&mut self) -> Option<Message> {
        loop {
            let (used, message) = self.chunk()?;
            self.input.drain(..used);
            if let Some(message) = message {
                if message.kind == SET_CHUNK_SIZE {
                    self.chunk_size = u32_at(&message.payload, 0) as usize;
                }
                return Some(message);
            }
        }
    }

    fn chunk(&mut self) -> Option<(usize, Option<Message>)> {
        let input = &self.input;
        let first = *input.first()?;
        let (csid, mut at) = match first & 0x3f {
            0 => (64 + u32::from(*input.get(1)?), 2),
            1 => (64 + u32::from(*input.get(1)?) + 256 * u32::from(*input.get(2)?), 3),
            short => (u32::from(short), 1),
        };
        let fmt = first >> 6;
        let header = input.get(at..at + [11, 7, 3, 0][usize::from(fmt)])?;
        at += header.len();
        let known = self.streams.entry(csid).or_default();
        let field = if fmt == 3 { None } else { Some(u24_at(header, 0)) };
        let extended = match field {
            Some(EXTENDED) => Some(u32_at(input.get(at..at + 4)?, 0)),
            Some(_) => None,
            None if known.extended.is_some() => Some(u32_at(input.get(at..at + 4)?, 0)),
            None => None,
        };
        at += if extended.is_some() { 4 } else { 0 };
        let length = if fmt < 2 { u24_at(header, 3) as usize } else { known.length };
        let body = input.get(at..at + self.chunk_size.min(length - known.partial.len().min(length)))?;
        at += body.len();

        // All bytes are here: only now may the state change.
        let starts = known.partial.is_empty();
        known.extended = extended;
        known.length = length;
        if fmt < 2 {
            known.kind = header[6];
        }
        if fmt == 0 {
            known.msid = u32::from_le_bytes([header[7], header[8], header[9], header[10]]);
            known.time = extended.unwrap_or(field.unwrap_or(0));
            known.delta = 0;
        } else if starts {
            if let Some(field) = field {
                known.delta = extended.unwrap_or(field);
            }
            known.time = known.time.wrapping_add(known.delta);
        }
        known.partial.extend_from_slice(body);
        let whole = known.partial.len() >= length;
        let message = whole.then(|| Message {
            csid,
            time: known.time,
            kind: known.kind,
            msid: known.msid,
            payload: std::mem::take(&mut known.partial),
        });
        Some((at, message))
    }
}

/// An AMF0 value, as far as servers answer with them.
#[derive(Clone, Debug, PartialEq)]
pub enum Amf {
    Number(f64),
    Boolean(bool),
    String(String),
    Object(Vec<(String, Self)>),
    Null,
    Undefined,
    Array(Vec<(String, Self)>),
    Strict(Vec<Self>),
}

impl From<&str> for Amf {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Amf {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl Amf {
    pub fn object(properties: &[(&str, Self)]) -> Self {
        Self::Object(properties.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn property(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(properties) | Self::Array(properties) => {
                properties.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(0);
                out.extend(number.to_be_bytes());
            }
            Self::Boolean(value) => out.extend([1, u8::from(*value)]),
            Self::String(text) if text.len() > usize::from(u16::MAX) => {
                out.push(12);
                out.extend(u32::try_from(text.len()).expect("a string below 4 GiB").to_be_bytes());
                out.extend(text.as_bytes());
            }
            Self::String(text) => {
                out.push(2);
                write_key(out, text);
            }
            Self::Object(properties) => {
                out.push(3);
                write_properties(out, properties);
            }
            Self::Null => out.push(5),
            Self::Undefined => out.push(6),
            Self::Array(properties) => {
                out.push(8);
                out.extend(u32::try_from(properties.len()).expect("few properties").to_be_bytes());
                write_properties(out, properties);
            }
            Self::Strict(values) => {
                out.push(10);
                out.extend(u32::try_from(values.len()).expect("few values").to_be_bytes());
                for value in values {
                    value.write(out);
                }
            }
        }
    }

    /// All values of a message body; panics on what a server must not send.
    pub fn read_all(body: &[u8]) -> Vec<Self> {
        let mut at = 0;
        let mut values = Vec::new();
        while at < body.len() {
            values.push(Self::read(body, &mut at));
        }
        values
    }

    fn read(body: &[u8], at: &mut usize) -> Self {
        let marker = take(body, at, 1)[0];
        match marker {
            0 => Self::Number(f64::from_be_bytes(take(body, at, 8).try_into().expect("eight bytes"))),
            1 => Self::Boolean(take(body, at, 1)[0] != 0),
            2 => Self::String(read_key(body, at)),
            3 => Self::Object(read_properties(body, at)),
            5 => Self::Null,
            6 => Self::Undefined,
            8 => {
                take(body, at, 4);
                Self::Array(read_properties(body, at))
            }
            10 => {
                let count = u32_at(take(body, at, 4), 0);
                Self::Strict((0..count).map(|_| Self::read(body, at)).collect())
            }
            12 => {
                let length = u32_at(take(body, at, 4), 0) as usize;
                Self::String(String::from_utf8_lossy(take(body, at, length)).into_owned())
            }
            other => panic!("AMF0 marker {other} at {} of {body:?}", *at - 1),
        }
    }
}

fn write_key(out: &mut Vec<u8>, key: &str) {
    out.extend(u16::try_from(key.len()).expect("a key below 64 KiB").to_be_bytes());
    out.extend(key.as_bytes());
}

fn write_properties(out: &mut Vec<u8>, properties: &[(String, Amf)]) {
    for (key, value) in properties {
        write_key(out, key);
        value.write(out);
    }
    out.extend([0, 0, 9]);
}

fn read_key(body: &[u8], at: &mut usize) -> String {
    let length = usize::from(u16::from_be_bytes(take(body, at, 2).try_into().expect("two bytes")));
    String::from_utf8_lossy(take(body, at, length)).into_owned()
}

fn read_properties(body: &[u8], at: &mut usize) -> Vec<(String, Amf)> {
    let mut properties = Vec::new();
    loop {
        let key = read_key(body, at);
        if key.is_empty() && body.get(*at) == Some(&9) {
            *at += 1;
            return properties;
        }
        properties.push((key, Amf::read(body, at)));
    }
}

fn take<'a>(body: &'a [u8], at: &mut usize, length: usize) -> &'a [u8] {
    let part = body.get(*at..*at + length).unwrap_or_else(|| panic!("AMF0 ends early at {at} of {body:?}"));
    *at += length;
    part
}

pub fn u24(value: u32) -> [u8; 3] {
    let [_, a, b, c] = value.to_be_bytes();
    [a, b, c]
}

pub fn u24_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The value of the 24-bit field that says the real one follows.
pub const EXTENDED: u32 = 0xff_ffff;
