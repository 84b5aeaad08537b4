//! RTMP clients for tests: raw bytes for the rude ones, a blocking session for the legal ones.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use super::wire::{self, Amf, Message, Reader};

/// A TCP connection that sends whatever bytes a test wants.
pub struct RawPeer {
    pub stream: TcpStream,
}

impl RawPeer {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream }
    }

    /// After a simple handshake, at the start of the chunk stream.
    pub fn connect_and_shake(port: u16) -> Self {
        let mut peer = Self::connect(port);
        peer.shake();
        peer
    }

    pub fn shake(&mut self) {
        self.send(&c0_c1());
        let answer = self.receive(1 + 2 * 1536);
        assert_eq!(answer[0], 3, "S0 is version 3");
        self.send(&answer[1..1537]);
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes our bytes");
    }

    /// Sends what the server may cut off half-way; `false` when it did.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.set_write_timeout(Some(DEADLINE)).expect("a socket option");
        self.stream.write_all(bytes).is_ok()
    }

    pub fn send_message(&mut self, chunk_size: usize, message: &Message) {
        self.send(&wire::chunks(chunk_size, message));
    }

    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a socket option");
        self.stream.read_exact(&mut bytes).expect("the server sends that much in time");
        bytes
    }

    /// Reads on until the server closes; `None` when it has not at the deadline. A reset counts as closed.
    pub fn closed_within(&mut self, deadline: Duration) -> Option<Duration> {
        let began = Instant::now();
        let mut scratch = [0; 4096];
        loop {
            let left = deadline.checked_sub(began.elapsed()).filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).expect("a socket option");
            match self.stream.read(&mut scratch) {
                Ok(0) => return Some(began.elapsed()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return None,
                Err(_) => return Some(began.elapsed()),
            }
        }
    }

    #[track_caller]
    pub fn assert_closed_within(&mut self, deadline: Duration) {
        assert!(self.closed_within(deadline).is_some(), "the server did not close within {deadline:?}");
    }
}

/// An RTMP session as a client leads it, blocking, one message at a time.
pub struct RtmpPeer {
    pub raw: RawPeer,
    /// The chunk size of what we send.
    pub chunk_size: usize,
    reader: Reader,
    transaction: f64,
    waiting: std::collections::VecDeque<Message>,
}

impl RtmpPeer {
    /// Handshake and `connect`, accepted by the server.
    pub fn connect(port: u16, app: &str) -> Self {
        let mut peer = Self::shaken(port);
        let answer = peer.request_connect(app, &[]);
        let code = answer.get(3).and_then(|info| info.property("code")).and_then(Amf::as_str);
        assert_eq!(code, Some("NetConnection.Connect.Success"), "{answer:?}");
        peer
    }

    /// The same through a port that expects a PROXY header, as if from this address.
    pub fn connect_from(source: &str, port: u16, app: &str) -> Self {
        let mut raw = RawPeer::connect(port);
        raw.send(format!("PROXY TCP4 {source} 127.0.0.1 40000 {port}\r\n").as_bytes());
        raw.shake();
        let mut peer = Self::over(raw);
        let answer = peer.request_connect(app, &[]);
        assert_eq!(answer[0].as_str(), Some("_result"), "{answer:?}");
        peer
    }

    /// After the handshake; `connect` is still to come.
    pub fn shaken(port: u16) -> Self {
        Self::over(RawPeer::connect_and_shake(port))
    }

    /// Over a connection that has shaken hands.
    pub fn over(raw: RawPeer) -> Self {
        Self { raw, chunk_size: 128, reader: Reader::new(), transaction: 0.0, waiting: Default::default() }
    }

    /// Publishes; gives the message stream id once the server said yes.
    pub fn publish(port: u16, app: &str, name: &str) -> (Self, u32) {
        let mut peer = Self::connect(port, app);
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
        let status = peer.expect_status(msid);
        assert_eq!(status, "NetStream.Publish.Start");
        (peer, msid)
    }

    /// Plays; gives the message stream id. What the server says to it is still to be read.
    pub fn play(port: u16, app: &str, name: &str) -> (Self, u32) {
        let mut peer = Self::connect(port, app);
        let msid = peer.create_stream();
        peer.command(msid, "play", &[Amf::Null, name.into(), Amf::Number(-2000.0)]);
        (peer, msid)
    }

    /// Sends `connect` with these extra properties and gives the whole answer, name and transaction included.
    pub fn request_connect(&mut self, app: &str, extra: &[(&str, Amf)]) -> Vec<Amf> {
        let mut properties = vec![
            ("app", Amf::from(app)),
            ("type", "nonprivate".into()),
            ("flashVer", "FMLE/3.0 (compatible; test)".into()),
            ("tcUrl", Amf::String(format!("rtmp://127.0.0.1/{app}"))),
        ];
        properties.extend(extra.iter().cloned());
        self.request(0, "connect", &[Amf::object(&properties)])
    }

    pub fn create_stream(&mut self) -> u32 {
        let answer = self.request(0, "createStream", &[Amf::Null]);
        assert_eq!(answer[0].as_str(), Some("_result"), "{answer:?}");
        answer[3].as_number().expect("createStream answers with a number") as u32
    }

    /// Sends a command and waits for its `_result` or `_error`.
    pub fn request(&mut self, msid: u32, name: &str, arguments: &[Amf]) -> Vec<Amf> {
        let transaction = self.command(msid, name, arguments);
        self.expect(&format!("an answer to {name}"), |message| {
            let values = command_of(message)?;
            let answers = matches!(values[0].as_str(), Some("_result" | "_error"));
            (answers && values[1].as_number() == Some(transaction)).then_some(values)
        })
    }

    /// Sends a command and gives its transaction id.
    pub fn command(&mut self, msid: u32, name: &str, arguments: &[Amf]) -> f64 {
        self.transaction += 1.0;
        let message = wire::command(msid, name, self.transaction, arguments);
        self.send(&message);
        self.transaction
    }

    pub fn send(&mut self, message: &Message) {
        self.raw.send_message(self.chunk_size, message);
    }

    /// Announces and adopts a chunk size for what we send.
    pub fn set_chunk_size(&mut self, size: u32) {
        self.send(&wire::control(wire::SET_CHUNK_SIZE, &size.to_be_bytes()));
        self.chunk_size = size as usize;
    }

    pub fn send_video(&mut self, msid: u32, time: u32, payload: &[u8]) {
        self.send(&Message { csid: 6, time, kind: wire::VIDEO, msid, payload: payload.to_vec() });
    }

    pub fn send_audio(&mut self, msid: u32, time: u32, payload: &[u8]) {
        self.send(&Message { csid: 4, time, kind: wire::AUDIO, msid, payload: payload.to_vec() });
    }

    /// The code of the next `onStatus` on this stream.
    pub fn expect_status(&mut self, msid: u32) -> String {
        self.expect("an onStatus", |message| {
            let values = command_of(message).filter(|values| values[0].as_str() == Some("onStatus"))?;
            let code = values[3].property("code").and_then(Amf::as_str).expect("onStatus has a code");
            (message.msid == msid).then(|| code.to_owned())
        })
    }

    /// Reads on until `wanted` takes a message; the others are dropped.
    #[track_caller]
    pub fn expect<T>(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> Option<T>) -> T {
        let began = Instant::now();
        while let Some(left) = DEADLINE.checked_sub(began.elapsed()) {
            match self.next(left) {
                Next::Message(message) => {
                    if let Some(value) = wanted(&message) {
                        return value;
                    }
                }
                Next::Closed => panic!("the server closed instead of sending {what}"),
                Next::Nothing => break,
            }
        }
        panic!("not within {DEADLINE:?}: {what}");
    }

    /// The next message, whatever it is. Acknowledges nothing and answers no pings: tests say so themselves.
    pub fn next(&mut self, deadline: Duration) -> Next {
        let began = Instant::now();
        let mut scratch = [0; 16 * 1024];
        loop {
            if let Some(message) = self.waiting.pop_front().or_else(|| self.reader.next()) {
                return Next::Message(message);
            }
            let Some(left) = deadline.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) else {
                return Next::Nothing;
            };
            self.raw.stream.set_read_timeout(Some(left)).expect("a socket option");
            match self.raw.stream.read(&mut scratch) {
                Ok(0) => return Next::Closed,
                Ok(length) => self.reader.feed(&scratch[..length]),
                Err(error) if is_timeout(&error) => return Next::Nothing,
                Err(_) => return Next::Closed,
            }
        }
    }

    /// Every message that comes within `time`, and whether the server closed in it.
    pub fn collect(&mut self, time: Duration) -> (Vec<Message>, bool) {
        let began = Instant::now();
        let mut messages = Vec::new();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            match self.next(left) {
                Next::Message(message) => messages.push(message),
                Next::Closed => return (messages, true),
                Next::Nothing => break,
            }
        }
        (messages, false)
    }

    /// Does a keyframe come within `time`?
    pub fn sees_keyframe(&mut self, time: Duration) -> bool {
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            match self.next(left) {
                Next::Message(message) if is_keyframe(&message) => return true,
                Next::Message(_) => {}
                Next::Nothing | Next::Closed => return false,
            }
        }
        false
    }
}

pub enum Next {
    Message(Message),
    Closed,
    /// Not before the deadline.
    Nothing,
}

/// The values of a command message: name, transaction, object, …
pub fn command_of(message: &Message) -> Option<Vec<Amf>> {
    (message.kind == wire::AMF0_COMMAND).then(|| Amf::read_all(&message.payload)).filter(|values| values.len() >= 3)
}

/// Version 3 and a C1 for the simple handshake.
pub fn c0_c1() -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend((0..1528_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    bytes
}

/// An AVC configuration (320x180, baseline) as the body of a video message.
pub const AVC_CONFIG: &[u8] = &[
    0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 24, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xec, 0x04,
    0x40, 0, 0, 3, 0, 0x40, 0, 0, 0x0c, 0x83, 0xc5, 0x0a, 0xa8, 1, 0, 4, 0x68, 0xce, 0x0f, 0xc8,
];

/// An AAC configuration (LC, 44.1 kHz, stereo) as the body of an audio message.
pub const AAC_CONFIG: &[u8] = &[0xaf, 0, 0x12, 0x10];

/// A video message with one NAL unit of `size` bytes: an IDR when `key`.
pub fn avc_frame(key: bool, number: u32, size: usize) -> Vec<u8> {
    let mut body = vec![if key { 0x17 } else { 0x27 }, 1, 0, 0, 0];
    body.extend(u32::try_from(size).expect("a small frame").to_be_bytes());
    body.push(if key { 0x65 } else { 0x41 });
    body.extend(number.to_be_bytes());
    body.resize(9 + size.max(5), 0xa5);
    body
}

/// The number that [`avc_frame`] put into a frame.
pub fn avc_frame_number(body: &[u8]) -> Option<u32> {
    (body.len() >= 14 && body[1] == 1).then(|| wire::u32_at(body, 10))
}

pub fn is_keyframe(message: &Message) -> bool {
    message.kind == wire::VIDEO && message.payload.len() > 5 && message.payload[0] == 0x17 && message.payload[1] == 1
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Generous: a debug build on a busy machine. A test that means "at once" measures it itself.
pub const DEADLINE: Duration = Duration::from_secs(10);
