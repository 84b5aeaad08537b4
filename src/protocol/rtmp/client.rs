//! The client's half of an RTMP session.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::chunk::WireStyle;
use super::command::{self, Command, DataMessage, ROUTE};
use super::error::SessionError;
use super::handshake::ClientHandshake;
use super::limits::SessionLimits;
use super::message::{Control, Message, UserEvent, csid, kind, split_aggregate};
use super::transport::{DEFAULT_WINDOW, Handshake, Incoming, Transport};
use crate::protocol::amf::{self, Value};

/// One connection to a server, from the first byte of its handshake on, that publishes or plays one stream.
///
/// The driver feeds [`receive`](Self::receive), then drains [`poll`](Self::poll) and [`take_output`](Self::take_output). There is
/// output from the start. Once `Ready`, a publisher sends its media past the session: [`chunk::write`](super::chunk::write) with
/// [`wire_style`](Self::wire_style) and [`msid`](Self::msid), between two outputs. A server is trusted no more than a client.
#[derive(Debug)]
pub struct ClientSession {
    config: Box<ClientConfig>,
    transport: Transport,
    step: Step,
    msid: u32,
    last_transaction: u32,
    events: VecDeque<ClientEvent>,
    now: Duration,
    unknown_messages: u32,
    stray_media: u32,
    bad_data: u32,
    checked_bandwidth: bool,
}

/// Where to, and what to say there.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    pub app: String,
    pub tc_url: String,
    pub flash_ver: String,
    /// Left out when empty.
    pub page_url: String,
    /// Left out when empty.
    pub swf_url: String,
    /// The nodes that this relay comes through; left out when empty.
    pub route: String,
    /// FourCCs for `fourCcList`; left out when empty.
    pub announce: Vec<String>,
    /// The name to publish or play, with its query.
    pub name: String,
    pub action: Action,
    pub chunk_size: u32,
    /// After how many bytes we want to hear from the server.
    pub ack_window: u32,
    /// Whether continuation chunks repeat extended timestamps.
    pub repeat_extended: bool,
    pub limits: SessionLimits,
}

/// What a client came for.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `kind` is "live", "record" or "append".
    Publish { kind: String },
    /// Start and duration in the units of the server: nginx-rtmp and ffmpeg say -1000 for live, librtmp too.
    Play { start: f64, duration: Option<f64>, buffer_ms: u32 },
}

/// What the server did.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// Publish or play is accepted.
    Ready {
        msid: u32,
    },
    Media {
        video: bool,
        time: u32,
        payload: Bytes,
    },
    /// `onMetaData` and its value, as AMF0 bytes.
    Metadata {
        time: u32,
        payload: Bytes,
    },
    /// Another data message with its name in front.
    Data {
        time: u32,
        payload: Bytes,
    },
    /// The server says no, to whatever was asked last, or to what it had accepted.
    StatusError {
        code: String,
        description: String,
    },
    /// The server asks to come back, there or (when empty) here. Where to is for the driver to judge.
    Reconnect {
        tc_url: String,
    },
    /// What was published or played is over, for now or for good. The server may yet go on.
    Ended(End),
    /// The answer to [`ClientSession::ping`].
    PingResponse(u32),
    /// The server has received so many bytes, modulo 2^32.
    Acknowledged(u32),
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The publisher went.
    UnpublishNotify,
    /// The play was stopped, or is complete.
    PlayStop,
    /// User control StreamEOF.
    StreamEof,
    /// The server ended our publish.
    Unpublished,
    /// The server says goodbye.
    Closed,
}

impl ClientSession {
    /// Its first output is there at once. `seed` makes the handshake's random bytes.
    pub fn new(config: ClientConfig, seed: [u8; 32]) -> Self {
        let mut out = Vec::new();
        let handshake = Handshake::Client(Box::new(ClientHandshake::new(seed, &mut out)));
        let transport = Transport::new(handshake, out, &config.limits, config.repeat_extended);
        Self {
            config: Box::new(config),
            transport,
            step: Step::Handshake,
            msid: 0,
            last_transaction: 0,
            events: VecDeque::new(),
            now: Duration::ZERO,
            unknown_messages: 0,
            stray_media: 0,
            bad_data: 0,
            checked_bandwidth: false,
        }
    }

    /// Takes bytes from the socket. `now` is the time since the session began.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), SessionError> {
        if self.is_closing() {
            return Ok(());
        }
        self.now = now;
        self.transport.count_received(bytes.len());
        let result = self.read(bytes);
        match result {
            Ok(()) => self.transport.acknowledge(),
            Err(_) => self.step = Step::Closing,
        }
        result
    }

    /// The next event.
    pub fn poll(&mut self) -> Option<ClientEvent> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > KEPT_EVENTS {
            self.events = VecDeque::new();
        }
        event
    }

    /// Bytes to send, in order.
    pub fn take_output(&mut self) -> Option<Bytes> {
        self.transport.take_output()
    }

    /// The message stream that the server gave us; 0 until then.
    pub fn msid(&self) -> u32 {
        self.msid
    }

    /// How media for this server are to be chunked.
    pub fn wire_style(&self) -> WireStyle {
        self.transport.wire_style()
    }

    /// Whether publish or play has been accepted.
    pub fn is_ready(&self) -> bool {
        self.step == Step::Ready
    }

    /// Whether the session is over: send the output, then close.
    pub fn is_closing(&self) -> bool {
        self.step == Step::Closing
    }

    /// Whether the server owes the rest of a message it has begun.
    pub fn is_midway(&self) -> bool {
        self.transport.is_midway()
    }

    /// Bytes received, the handshake among them.
    pub fn bytes_received(&self) -> u64 {
        self.transport.received()
    }

    /// Messages that led to nothing: of unknown types, media nobody asked for, data not to be read.
    pub fn dropped_messages(&self) -> u32 {
        self.unknown_messages + self.stray_media + self.bad_data
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, now_ms: u32) {
        self.transport.send_control(Control::User(UserEvent::PingRequest(now_ms)));
    }

    /// Ends the stream as encoders do. Send the output, then close.
    pub fn close(&mut self) {
        if self.msid != 0 && !self.is_closing() {
            if matches!(self.config.action, Action::Publish { .. }) {
                let name = self.config.name.as_str().into();
                self.call(csid::COMMAND, 0, "FCUnpublish", Value::Null, &[name]);
            }
            self.call(csid::COMMAND, 0, "deleteStream", Value::Null, &[f64::from(self.msid).into()]);
        }
        self.step = Step::Closing;
    }

    fn read(&mut self, mut input: &[u8]) -> Result<(), SessionError> {
        while !self.is_closing() {
            match self.transport.read(&mut input, self.now, &self.config.limits)? {
                Some(Incoming::HandshakeDone) => self.connect(),
                Some(Incoming::Control(control)) => self.note_control(control),
                Some(Incoming::Message(message)) => self.handle(message)?,
                None => break,
            }
        }
        Ok(())
    }

    fn connect(&mut self) {
        self.transport.announce_chunk_size(self.config.chunk_size.max(1));
        self.transport.announce_window(self.config.ack_window);
        let config = &self.config;
        let mut object = vec![("app".to_owned(), config.app.as_str().into())];
        let mut put = |name: &str, value: Value| object.push((name.to_owned(), value));
        if !config.announce.is_empty() {
            put("fourCcList", Value::StrictArray(config.announce.iter().map(|code| code.as_str().into()).collect()));
        }
        let publishes = matches!(config.action, Action::Publish { .. });
        if publishes {
            put("type", "nonprivate".into());
        }
        put("flashVer", config.flash_ver.as_str().into());
        for (name, text) in [
            ("swfUrl", &config.swf_url),
            ("tcUrl", &config.tc_url),
            ("pageUrl", &config.page_url),
            (ROUTE, &config.route),
        ] {
            if !text.is_empty() {
                put(name, text.as_str().into());
            }
        }
        if !publishes {
            put("fpad", false.into());
            // What ffmpeg says: every codec of the Flash era.
            put("capabilities", 15.0.into());
            put("audioCodecs", 4071.0.into());
            put("videoCodecs", 252.0.into());
            put("videoFunction", 1.0.into());
        }
        self.call(csid::COMMAND, 0, "connect", Value::Object(object), &[]);
        self.step = Step::Connecting;
    }

    fn create_stream(&mut self) {
        let name = || Value::from(self.config.name.as_str());
        match &self.config.action {
            Action::Publish { .. } => {
                let name = [name()];
                self.call(csid::COMMAND, 0, "releaseStream", Value::Null, &name);
                self.call(csid::COMMAND, 0, "FCPublish", Value::Null, &name);
            }
            Action::Play { start, .. } => {
                let live = *start < 0.0;
                let name = [name()];
                if live {
                    // Some edges fetch the stream only for those who subscribe.
                    self.call(csid::COMMAND, 0, "FCSubscribe", Value::Null, &name);
                }
            }
        }
        let transaction = self.call(csid::COMMAND, 0, "createStream", Value::Null, &[]);
        self.step = Step::Creating { transaction };
    }

    fn start(&mut self) {
        self.transport.set_max_message(self.config.limits.max_message);
        self.step = Step::Starting;
        let name = Value::from(self.config.name.as_str());
        match &self.config.action {
            Action::Publish { kind } => {
                let arguments = [name, kind.as_str().into()];
                self.call(csid::STREAM_COMMAND, self.msid, "publish", Value::Null, &arguments);
            }
            &Action::Play { start, duration, buffer_ms } => {
                let mut arguments = vec![name, start.into()];
                arguments.extend(duration.map(Value::from));
                self.call(csid::STREAM_COMMAND, self.msid, "play", Value::Null, &arguments);
                let length = UserEvent::SetBufferLength { msid: self.msid, ms: buffer_ms };
                self.transport.send_control(Control::User(length));
            }
        }
    }

    fn call(&mut self, csid: u32, msid: u32, name: &str, object: Value, arguments: &[Value]) -> u32 {
        self.last_transaction += 1;
        let body = command::encode(name, self.last_transaction, object, arguments);
        self.transport.send(csid, kind::COMMAND, msid, &body);
        self.last_transaction
    }

    fn note_control(&mut self, control: Control) {
        let event = match control {
            Control::Acknowledgement(bytes) => ClientEvent::Acknowledged(bytes),
            Control::User(UserEvent::PingResponse(time)) => ClientEvent::PingResponse(time),
            Control::User(UserEvent::StreamEof(msid)) if msid == self.msid && self.is_ready() => {
                ClientEvent::Ended(End::StreamEof)
            }
            _ => return,
        };
        self.events.push_back(event);
    }

    fn handle(&mut self, message: Message) -> Result<(), SessionError> {
        let limits = &self.config.limits;
        match message.kind {
            kind::AUDIO | kind::VIDEO if self.takes_media() => {
                let Message { time, payload, .. } = message;
                if !payload.is_empty() {
                    // Not every server says that a play has started.
                    self.become_ready();
                    self.events.push_back(ClientEvent::Media { video: message.kind == kind::VIDEO, time, payload });
                }
                Ok(())
            }
            kind::AGGREGATE if self.takes_media() => {
                for part in split_aggregate(message) {
                    self.handle(part?)?;
                }
                Ok(())
            }
            kind::AUDIO | kind::VIDEO | kind::AGGREGATE => {
                self.stray_media += 1;
                let limit = limits.max_stray_media;
                if self.stray_media > limit { Err(SessionError::StrayMedia { limit }) } else { Ok(()) }
            }
            kind::DATA | kind::DATA_AMF3 => {
                self.transport.charge_control(self.now, limits)?;
                self.data(message);
                Ok(())
            }
            kind::COMMAND | kind::COMMAND_AMF3 => {
                self.transport.charge_control(self.now, limits)?;
                let command = Command::parse(&message.payload, &limits.amf_command)?.ok_or(SessionError::NoCommand)?;
                self.command(&command)
            }
            kind::SHARED_OBJECT | kind::SHARED_OBJECT_AMF3 => self.transport.charge_control(self.now, limits),
            kind => {
                self.unknown_messages += 1;
                let limit = limits.max_unknown_messages;
                if self.unknown_messages > limit { Err(SessionError::UnknownMessages { kind, limit }) } else { Ok(()) }
            }
        }
    }

    fn data(&mut self, message: Message) {
        let Message { time, kind, payload, .. } = message;
        if !self.takes_media() || payload.len() > self.config.limits.max_data {
            self.bad_data += 1;
            return;
        }
        let event = match DataMessage::parse(kind, &payload, &self.config.limits.amf_data) {
            Ok(DataMessage::Metadata(payload)) => ClientEvent::Metadata { time, payload },
            Ok(DataMessage::Event { name, payload }) => match name.as_str() {
                "onPlayStatus" => match is_complete(&payload) {
                    true => ClientEvent::Ended(End::PlayStop),
                    false => return,
                },
                // NetStream.Data.Start: old Flash servers say that data follow.
                "onStatus" => return,
                _ => ClientEvent::Data { time, payload },
            },
            Ok(DataMessage::Nothing) => return,
            Err(_) => {
                self.bad_data += 1;
                return;
            }
        };
        self.events.push_back(event);
    }

    fn command(&mut self, command: &Command) -> Result<(), SessionError> {
        match (command.name.as_str(), self.step) {
            // As nginx-rtmp: whatever the result says, unless it says "error".
            ("_result", Step::Connecting) if command.transaction == CONNECT => match refusal(command) {
                Some(event) => self.events.push_back(event),
                None => self.create_stream(),
            },
            ("_error", Step::Connecting) if command.transaction == CONNECT => self.refused(command),
            ("_result", Step::Creating { transaction }) if command.transaction == transaction => {
                // 0 is the connection itself.
                self.msid = command.whole_number(0).filter(|id| *id != 0).ok_or(SessionError::NoStreamId)?;
                self.start();
            }
            ("_error", Step::Creating { transaction }) if command.transaction == transaction => self.refused(command),
            ("onStatus", _) => self.status(command),
            ("onBWDone", _) if !self.checked_bandwidth => {
                self.checked_bandwidth = true;
                self.call(csid::COMMAND, 0, "_checkbw", Value::Null, &[]);
            }
            ("close", _) => self.events.push_back(ClientEvent::Ended(End::Closed)),
            // Errors to releaseStream and its like are common and mean nothing.
            _ => {}
        }
        Ok(())
    }

    fn refused(&mut self, command: &Command) {
        let event = refusal(command).unwrap_or_else(|| status_error(command));
        self.events.push_back(event);
    }

    fn status(&mut self, command: &Command) {
        if let Some(event) = refusal(command) {
            self.events.push_back(event);
            return;
        }
        let code = information(command).and_then(|value| value.property("code")).and_then(Value::as_str);
        let end = match code.unwrap_or_default() {
            "NetStream.Publish.Start" | "NetStream.Play.Start" | "NetStream.Play.Reset" => {
                if self.step == Step::Starting {
                    self.become_ready();
                }
                return;
            }
            "NetStream.Play.PublishNotify" if self.step == Step::Starting => {
                self.become_ready();
                return;
            }
            "NetConnection.Connect.ReconnectRequest" => {
                let tc_url = information(command).and_then(|value| value.property("tcUrl")).and_then(Value::as_str);
                self.events.push_back(ClientEvent::Reconnect { tc_url: tc_url.unwrap_or_default().to_owned() });
                return;
            }
            "NetStream.Play.UnpublishNotify" => End::UnpublishNotify,
            "NetStream.Play.Stop" | "NetStream.Play.Complete" => End::PlayStop,
            "NetStream.Unpublish.Success" => End::Unpublished,
            "NetConnection.Connect.Closed" => End::Closed,
            _ => return,
        };
        self.events.push_back(ClientEvent::Ended(end));
    }

    fn become_ready(&mut self) {
        if self.step == Step::Starting {
            self.step = Step::Ready;
            self.events.push_back(ClientEvent::Ready { msid: self.msid });
        }
    }

    fn takes_media(&self) -> bool {
        matches!(self.config.action, Action::Play { .. }) && matches!(self.step, Step::Starting | Step::Ready)
    }
}

/// The object that tells what happened: behind the command object, which is null or a server's properties.
fn information(command: &Command) -> Option<&Value> {
    command.arguments.iter().find(|value| value.property("code").is_some()).or_else(|| {
        let object = &command.object;
        object.property("code").is_some().then_some(object)
    })
}

/// The event for a status that says no. By its level, or by a code that means no at any level.
fn refusal(command: &Command) -> Option<ClientEvent> {
    let information = information(command)?;
    let text = |name: &str| information.property(name).and_then(Value::as_str).unwrap_or_default();
    let code = text("code");
    let last = code.rsplit('.').next().unwrap_or_default();
    let refuses = text("level") == "error" || REFUSALS.contains(&last);
    refuses.then(|| status_error(command))
}

fn status_error(command: &Command) -> ClientEvent {
    let text = |name: &str| {
        let value = information(command).and_then(|value| value.property(name)).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    ClientEvent::StatusError { code: text("code"), description: text("description") }
}

/// Whether an `onPlayStatus` says that a recording has been played to its end.
fn is_complete(payload: &[u8]) -> bool {
    let values = amf::decode_all(payload, &amf::Limits::DATA).unwrap_or_default();
    let codes = values.iter().filter_map(|value| value.property("code")).filter_map(Value::as_str);
    codes.into_iter().any(|code| code == "NetStream.Play.Complete")
}

impl ClientConfig {
    /// A client with everyday settings.
    pub fn new(app: &str, tc_url: &str, name: &str, action: Action) -> Self {
        let flash_ver = match action {
            // What servers of all kinds have seen before: some only take encoders that they know.
            Action::Publish { .. } => "FMLE/3.0 (compatible; livemill)",
            Action::Play { .. } => "LNX 9,0,124,2",
        };
        Self {
            app: app.to_owned(),
            tc_url: tc_url.to_owned(),
            flash_ver: flash_ver.to_owned(),
            page_url: String::new(),
            route: String::new(),
            swf_url: String::new(),
            announce: Vec::new(),
            name: name.to_owned(),
            action,
            chunk_size: 4096,
            ack_window: DEFAULT_WINDOW,
            repeat_extended: true,
            limits: SessionLimits::default(),
        }
    }
}

impl Action {
    pub fn publish_live() -> Self {
        Self::Publish { kind: "live".to_owned() }
    }

    pub fn play_live() -> Self {
        Self::Play { start: -1000.0, duration: None, buffer_ms: 1000 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Handshake,
    Connecting,
    /// Waiting for the answer to createStream.
    Creating {
        transaction: u32,
    },
    /// Waiting for the answer to publish or play.
    Starting,
    Ready,
    Closing,
}

/// Room for events that is kept between two reads; a burst may need more.
const KEPT_EVENTS: usize = 64;
/// The transaction of connect, which is always the first.
const CONNECT: u32 = 1;
/// Last words of the codes that say no.
const REFUSALS: [&str; 7] =
    ["StreamNotFound", "Failed", "BadName", "Denied", "Rejected", "InvalidApp", "FileStructureInvalid"];
