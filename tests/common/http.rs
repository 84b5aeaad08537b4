//! A blocking HTTP client that reads answers as they come, and an FLV and WebSocket reader over it; this harness's own code.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

/// An answer whose head has been read.
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    socket: TcpStream,
    /// Read and not yet taken.
    bytes: Vec<u8>,
    is_chunked: bool,
    end: Option<End>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As a whole one.
    Whole,
    /// The connection ended before it did.
    BrokenOff,
}

/// Sends one request and reads the head of its answer.
pub fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut socket = connect(port);
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).expect("the request goes out");
    Answer::read_head(socket, method)
}

pub fn get(port: u16, path: &str) -> Answer {
    request(port, "GET", path, &[])
}

/// Asks for a WebSocket at this path.
pub fn websocket(port: u16, path: &str) -> Answer {
    request(port, "GET", path, WEBSOCKET)
}

/// What a browser says to open a WebSocket.
pub const WEBSOCKET: &[(&str, &str)] = &[
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

pub fn connect(port: u16) -> TcpStream {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server listens");
    socket.set_nodelay(true).expect("a fresh socket takes options");
    socket.set_read_timeout(Some(PATIENCE)).expect("a fresh socket takes options");
    socket
}

impl Answer {
    fn read_head(mut socket: TcpStream, method: &str) -> Self {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = find(&bytes, b"\r\n\r\n") {
                break at;
            }
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).expect("the head of an answer");
            assert!(read > 0, "the connection ended in the head: {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..read]);
        };
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
        bytes.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let end = (method == "HEAD").then_some(End::Whole);
        Self { status, headers, socket, bytes, is_chunked, end }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The next bytes of the body: those of a chunk, or what came of a body without chunks; none at its end.
    pub fn piece(&mut self) -> Option<Vec<u8>> {
        if self.end.is_some() {
            return None;
        }
        if !self.is_chunked {
            if self.bytes.is_empty() && !self.fill() {
                return None;
            }
            return Some(std::mem::take(&mut self.bytes));
        }
        loop {
            if let Some(at) = find(&self.bytes, b"\r\n") {
                let size =
                    std::str::from_utf8(&self.bytes[..at]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
                let size = size.expect("the size of a chunk");
                if self.bytes.len() >= at + 2 + size + 2 {
                    let chunk = self.bytes[at + 2..at + 2 + size].to_vec();
                    self.bytes.drain(..at + 2 + size + 2);
                    if chunk.is_empty() {
                        self.end = Some(End::Whole);
                        return None;
                    }
                    return Some(chunk);
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// How the body ends; what comes until then is thrown away.
    pub fn end(&mut self) -> End {
        while self.piece().is_some() {}
        self.end.expect("there is no other piece")
    }

    /// Everything of a short body.
    pub fn text(&mut self) -> String {
        let length = self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        while self.bytes.len() < length && self.fill() {}
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn fill(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.end = Some(if self.is_chunked { End::BrokenOff } else { End::Whole }),
            Ok(read) => self.bytes.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}")
            }
            Err(_) => self.end = Some(End::BrokenOff),
        }
        self.end.is_none()
    }
}

/// One tag of an FLV file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// 8 is audio, 9 video, 18 data.
    pub kind: u8,
    pub time: u32,
    pub body: Vec<u8>,
}

/// An FLV file as it comes.
pub struct FlvViewer {
    pub answer: Answer,
    /// The flags of its header.
    pub flags: u8,
    bytes: Vec<u8>,
    is_websocket: bool,
    frames: Vec<u8>,
}

impl FlvViewer {
    /// Watches; returns once the header has come.
    pub fn watch(port: u16, path: &str) -> Self {
        Self::over(get(port, path), false)
    }

    pub fn watch_over_websocket(port: u16, path: &str) -> Self {
        Self::over(websocket(port, path), true)
    }

    fn over(answer: Answer, is_websocket: bool) -> Self {
        assert_eq!(answer.status, if is_websocket { 101 } else { 200 }, "{:?}", answer.headers);
        let mut viewer = Self { answer, flags: 0, bytes: Vec::new(), is_websocket, frames: Vec::new() };
        while viewer.bytes.len() < 13 {
            assert!(viewer.fill(), "the header comes");
        }
        assert_eq!((&viewer.bytes[..4], &viewer.bytes[5..13]), (&b"FLV\x01"[..], &[0, 0, 0, 9, 0, 0, 0, 0][..]));
        viewer.flags = viewer.bytes[4];
        viewer.bytes.drain(..13);
        viewer
    }

    /// The next tag; none at the end of the answer.
    pub fn tag(&mut self) -> Option<Tag> {
        loop {
            if let [kind, s1, s2, s3, t1, t2, t3, t0, 0, 0, 0, rest @ ..] = &self.bytes[..] {
                let size = u32::from_be_bytes([0, *s1, *s2, *s3]) as usize;
                if rest.len() >= size + 4 {
                    assert_eq!(rest[size..size + 4], (size as u32 + 11).to_be_bytes(), "the size of the tag before");
                    let time = u32::from_be_bytes([*t0, *t1, *t2, *t3]);
                    let tag = Tag { kind: *kind, time, body: rest[..size].to_vec() };
                    self.bytes.drain(..size + 15);
                    return Some(tag);
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Tags up to and with the first that `is_last` says.
    pub fn until(&mut self, what: &str, mut is_last: impl FnMut(&Tag) -> bool) -> Vec<Tag> {
        let began = Instant::now();
        let mut seen = Vec::new();
        while began.elapsed() < PATIENCE {
            let tag = self.tag().unwrap_or_else(|| panic!("the answer ended before {what}: {} tags", seen.len()));
            seen.push(tag);
            if is_last(seen.last().expect("one was pushed")) {
                return seen;
            }
        }
        panic!("{what} did not come within {PATIENCE:?}");
    }

    fn fill(&mut self) -> bool {
        let Some(piece) = self.answer.piece() else { return false };
        if !self.is_websocket {
            self.bytes.extend_from_slice(&piece);
            return true;
        }
        self.frames.extend_from_slice(&piece);
        while let Some((opcode, body, used)) = frame(&self.frames) {
            assert_eq!(opcode, 2, "media comes in binary messages: {body:?}");
            self.bytes.extend_from_slice(&body);
            self.frames.drain(..used);
        }
        true
    }
}

/// The first WebSocket frame from a server: its opcode, its body, and how many bytes it takes.
pub fn frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, length) = (*bytes.first()?, *bytes.get(1)?);
    assert_eq!((first & 0xF0, length & 0x80), (0x80, 0), "whole frames without a mask: {first:x} {length:x}");
    let (length, head) = match length {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    Some((first & 0x0F, bytes.get(head..head + length)?.to_vec(), head + length))
}

/// A frame as a client sends it.
pub fn client_frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first, 0x80 | u8::try_from(body.len()).expect("a short frame")];
    assert!(body.len() < 126, "a short frame");
    frame.extend_from_slice(&mask);
    frame.extend(body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// On a busy machine; what is meant to come comes in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
