//! One RTMP client of the load tool, without a socket: bytes in, events and bytes out.
//!
//! It says what ffmpeg says in the order ffmpeg says it. It is apart from `protocol::rtmp::client` so that a mistake in the
//! dialogue cannot hide itself by being made on both sides, and because it forgives nothing: it is here to judge servers.

use std::io;

use thiserror::Error;

use crate::protocol::amf::{self, AmfError, Limits, Value};
use crate::protocol::rtmp::chunk::{self, ChunkError, ChunkLimits, ChunkReader, DEFAULT_CHUNK_SIZE, WireStyle};
use crate::protocol::rtmp::handshake::{ClientHandshake, HandshakeError, Progress};
use crate::protocol::rtmp::message::{Control, Message, UserEvent, csid, kind};

/// What the client wants of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Publish,
    Play,
    /// To be connected, and nothing else.
    Idle,
}

/// Where a client goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub tc_url: String,
    pub app: String,
    /// With the arguments that each needs.
    pub play_name: String,
    pub publish_name: String,
}

/// A client in its dialogue and after.
pub struct Client {
    role: Role,
    step: Step,
    chunks: ChunkReader,
    style: WireStyle,
    msid: u32,
    received: u64,
    acknowledged: u64,
    window: u64,
    /// Boxed and dropped: thousands of clients are past the handshake.
    handshake: Option<Box<ClientHandshake>>,
}

/// What happened, in the order of the bytes.
#[derive(Debug)]
pub enum Event<'a> {
    /// `connect` was answered.
    Connected,
    /// The play command has been written: from here a player counts its wait for a picture.
    PlayAsked,
    /// The server wants our media.
    Publishing,
    /// A whole audio or video message.
    Media { video: bool, body: &'a [u8] },
}

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("not an RTMP server: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the server sends chunks that cannot be read: {0}")]
    Chunks(#[from] ChunkError),
    #[error("the server sends a command that cannot be read: {0}")]
    Command(#[from] AmfError),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the stream ended: {0}")]
    Ended(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connecting,
    CreatingStream,
    Starting,
    Running,
}

impl Client {
    /// Begins the dialogue: the first bytes go to `out`.
    pub fn new(role: Role, out: &mut Vec<u8>) -> Self {
        Self {
            role,
            step: Step::Connecting,
            // A message broken off is a server's mistake.
            chunks: ChunkReader::new(ChunkLimits { max_restarts: 0, ..ChunkLimits::default() }),
            style: WireStyle { chunk_size: DEFAULT_CHUNK_SIZE, repeat_extended: true },
            msid: 0,
            received: 0,
            acknowledged: 0,
            window: u64::from(u32::MAX),
            handshake: Some(Box::new(ClientHandshake::new(SEED, out))),
        }
    }

    /// Appends a message on the stream that is published.
    pub fn publish(&self, csid: u32, time: u32, kind: u8, body: &[u8], out: &mut Vec<u8>) {
        chunk::write(out, self.style, csid, time, kind, self.msid, body);
    }

    /// Takes in what the server sent; answers go to `out`.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        destination: &Destination,
        out: &mut Vec<u8>,
        mut on_event: impl FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        self.received += bytes.len() as u64;
        if let Some(handshake) = &mut self.handshake {
            if handshake.receive(&mut bytes, out)? == Progress::NeedMore {
                return Ok(());
            }
            self.handshake = None;
            self.connect(destination, out);
        }
        while let Some(message) = self.chunks.read(&mut bytes)? {
            match message.kind {
                kind::AUDIO | kind::VIDEO => {
                    on_event(Event::Media { video: message.kind == kind::VIDEO, body: &message.payload });
                }
                kind::COMMAND => self.answer(&message.payload, destination, out, &mut on_event)?,
                kind::COMMAND_AMF3 => {
                    self.answer(message.payload.get(1..).unwrap_or_default(), destination, out, &mut on_event)?;
                }
                _ => self.control(&message, out),
            }
        }
        if self.received - self.acknowledged >= self.window {
            self.acknowledged = self.received;
            self.write_control(out, Control::Acknowledgement(self.received as u32));
        }
        Ok(())
    }

    fn connect(&mut self, destination: &Destination, out: &mut Vec<u8>) {
        if self.role == Role::Publish {
            // Players keep the 128 that all begin with, as real ones do: some servers hold buffers of the size announced.
            self.write_control(out, Control::SetChunkSize(CHUNK_SIZE));
            self.style.chunk_size = CHUNK_SIZE;
        }
        let mut properties = vec![("app", destination.app.as_str())];
        if self.role == Role::Publish {
            properties.push(("type", "nonprivate"));
        }
        properties.extend([("flashVer", FLASH_VERSION), ("tcUrl", destination.tc_url.as_str())]);
        let mut object: Vec<_> = properties.into_iter().map(|(key, value)| (key.to_owned(), string(value))).collect();
        if self.role == Role::Play {
            // What ffmpeg says that it can play: everything that Flash could.
            object.push(("fpad".to_owned(), Value::Boolean(false)));
            let masks =
                [("capabilities", 15.0), ("audioCodecs", 4071.0), ("videoCodecs", 252.0), ("videoFunction", 1.0)];
            object.extend(masks.into_iter().map(|(key, value)| (key.to_owned(), Value::Number(value))));
        }
        self.command(out, csid::COMMAND, 0, &[string("connect"), Value::Number(CONNECT), Value::Object(object)]);
    }

    fn control(&mut self, message: &Message, out: &mut Vec<u8>) {
        match Control::parse(message.kind, &message.payload) {
            Ok(Some(Control::SetChunkSize(size))) => self.chunks.set_chunk_size(size),
            Ok(Some(Control::Abort(csid))) => self.chunks.abort(csid),
            Ok(Some(Control::WindowAckSize(window))) => self.window = u64::from(window.max(1)),
            Ok(Some(Control::User(UserEvent::PingRequest(time)))) => {
                self.write_control(out, Control::User(UserEvent::PingResponse(time)));
            }
            _ => {}
        }
    }

    fn answer(
        &mut self,
        body: &[u8],
        destination: &Destination,
        out: &mut Vec<u8>,
        on_event: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ClientError> {
        let values = amf::decode_all(body, &Limits::COMMAND)?;
        let mut values = values.iter();
        let name = values.next().and_then(Value::as_str).unwrap_or_default();
        let transaction = values.next().and_then(Value::as_number).unwrap_or_default();
        let (_, information) = (values.next(), values.next());
        match (name, self.step) {
            ("_result", Step::Connecting) if transaction == CONNECT => {
                on_event(Event::Connected);
                self.create_stream(destination, out);
            }
            ("_result", Step::CreatingStream) if transaction == CREATE_STREAM => {
                self.msid = information.and_then(Value::as_u32).unwrap_or(1);
                self.start(destination, out);
                if self.role == Role::Play {
                    on_event(Event::PlayAsked);
                }
            }
            ("_error", Step::Connecting) if transaction == CONNECT => {
                return Err(ClientError::Refused(text(information)));
            }
            ("_error", Step::CreatingStream) if transaction == CREATE_STREAM => {
                return Err(ClientError::Refused(text(information)));
            }
            ("onStatus", _) => {
                let code =
                    information.and_then(|info| info.property("code")).and_then(Value::as_str).unwrap_or_default();
                let level = information.and_then(|info| info.property("level")).and_then(Value::as_str);
                match code {
                    _ if level == Some("error") => return Err(ClientError::Refused(text(information))),
                    "NetStream.Publish.Start" => {
                        self.step = Step::Running;
                        on_event(Event::Publishing);
                    }
                    "NetStream.Play.Start" => self.step = Step::Running,
                    "NetStream.Play.Stop" | "NetStream.Play.UnpublishNotify" => {
                        return Err(ClientError::Ended(code.to_owned()));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn create_stream(&mut self, destination: &Destination, out: &mut Vec<u8>) {
        match self.role {
            Role::Idle => {
                self.step = Step::Running;
                return;
            }
            Role::Publish => {
                for (name, transaction) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
                    let values =
                        [string(name), Value::Number(transaction), Value::Null, string(&destination.publish_name)];
                    self.command(out, csid::COMMAND, 0, &values);
                }
            }
            Role::Play => self.write_control(out, Control::WindowAckSize(2_500_000)),
        }
        self.command(out, csid::COMMAND, 0, &[string("createStream"), Value::Number(CREATE_STREAM), Value::Null]);
        self.step = Step::CreatingStream;
    }

    fn start(&mut self, destination: &Destination, out: &mut Vec<u8>) {
        if self.role == Role::Publish {
            let values =
                [string("publish"), Value::Number(5.0), Value::Null, string(&destination.publish_name), string("live")];
            self.command(out, csid::STREAM_COMMAND, self.msid, &values);
        } else {
            let values = [
                string("play"),
                Value::Number(5.0),
                Value::Null,
                string(&destination.play_name),
                Value::Number(-2000.0),
            ];
            self.command(out, csid::STREAM_COMMAND, self.msid, &values);
            self.write_control(out, Control::User(UserEvent::SetBufferLength { msid: self.msid, ms: 3000 }));
        }
        self.step = Step::Starting;
    }

    fn command(&self, out: &mut Vec<u8>, csid: u32, msid: u32, values: &[Value]) {
        chunk::write(out, self.style, csid, 0, kind::COMMAND, msid, &amf::encode_all(values));
    }

    fn write_control(&self, out: &mut Vec<u8>, control: Control) {
        chunk::write(out, self.style, csid::CONTROL, 0, control.kind(), 0, &control.encode());
    }
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// What a refusal says, for people.
fn text(information: Option<&Value>) -> String {
    let field = |name| information.and_then(|info| info.property(name)).and_then(Value::as_str).unwrap_or_default();
    [field("code"), field("description")].join(" ").trim().to_owned()
}

const FLASH_VERSION: &str = "FMLE/3.0 (compatible; livemill bench)";
/// The random part of the handshake guards nothing.
const SEED: [u8; 32] = [7; 32];
const CONNECT: f64 = 1.0;
const CREATE_STREAM: f64 = 4.0;
/// As OBS sends.
const CHUNK_SIZE: u32 = 4096;
