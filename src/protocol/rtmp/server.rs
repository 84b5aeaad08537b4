//! The server's half of an RTMP session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;

use super::caps::{FORWARD, PlayerCaps};
use super::chunk::WireStyle;
use super::command::{self, Command, DataMessage, ROUTE};
use super::error::SessionError;
use super::handshake::ServerHandshake;
use super::limits::{Rate, SessionLimits};
use super::message::{Control, Message, UserEvent, csid, kind, split_aggregate};
use super::transport::{Handshake, Incoming, Transport};
use crate::protocol::amf::{self, Value};

/// One client, from the first byte of its handshake on: bytes in, events and bytes out.
///
/// The driver feeds [`receive`](Self::receive), then drains [`poll`](Self::poll) and [`take_output`](Self::take_output),
/// after each answer too. `Connect`, `Publish` and `Play` are questions. Until one is answered with the `accept_` or
/// refusing method that belongs to it, the session reads no further and parks what is fed, within a bound: the driver
/// should stop reading its socket. After an error, or once [`is_closing`](Self::is_closing), send the output and close.
#[derive(Debug)]
pub struct ServerSession {
    config: Arc<SessionConfig>,
    transport: Transport,
    phase: Phase,
    streams: SmallVec<[Stream; 1]>,
    last_msid: u32,
    caps: Option<Box<PlayerCaps>>,
    events: VecDeque<ServerEvent>,
    /// Input that came while a question is open.
    parked: Vec<u8>,
    /// Metadata that came faster than it is handed on; only the newest.
    held_metadata: Option<Box<HeldMetadata>>,
    now: Duration,
    metadata_rate: Rate,
    courtesy_rate: Rate,
    request_rate: Rate,
    counters: Counters,
}

/// What all sessions of a server have in common.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// What livemill sends in; large chunks spare headers.
    pub chunk_size: u32,
    /// Announced as acknowledgement window and peer bandwidth.
    pub ack_window: u32,
    /// Whether continuation chunks repeat extended timestamps (nginx-rtmp's `play_time_fix`).
    pub repeat_extended: bool,
    /// `fmsVer`: some clients parse it, so it looks like the server they know.
    pub version: String,
    pub capabilities: f64,
    /// E-RTMP `capsEx` that is announced: 1 reconnect, 2 multitrack, 4 ModEx, 8 nanosecond offset.
    pub caps_ex: u32,
    pub limits: SessionLimits,
}

/// What the client did or asks.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerEvent {
    /// A question: [`ServerSession::accept_connect`] or [`ServerSession::reject_connect`].
    Connect(Box<ConnectRequest>),
    /// A question: [`ServerSession::accept_publish`] or [`ServerSession::refuse_publish`]. `kind` is "live", "record" or
    /// "append" where the client follows the book. The name is as sent, query and all; it may be empty.
    Publish {
        msid: u32,
        name: String,
        kind: String,
    },
    /// A question: [`ServerSession::accept_play`] or [`ServerSession::refuse_play`]. None: the player did not say. Any
    /// negative start means live, which is -2 for a stream, else a file; the duration is to the end.
    Play {
        msid: u32,
        name: String,
        start: Option<f64>,
        duration: Option<f64>,
        reset: Option<bool>,
    },
    /// The accepted publish is over; it has been answered.
    Unpublish {
        msid: u32,
    },
    /// The accepted play is over; it has been answered.
    CloseStream {
        msid: u32,
    },
    Media {
        msid: u32,
        video: bool,
        time: u32,
        payload: Bytes,
    },
    /// `onMetaData` and its value, as AMF0 bytes.
    Metadata {
        msid: u32,
        time: u32,
        payload: Bytes,
    },
    /// Another data message with its name in front, as AMF0 bytes: onTextData, onCuePoint, onFI, ...
    Data {
        msid: u32,
        time: u32,
        payload: Bytes,
    },
    Pause {
        msid: u32,
        paused: bool,
        time_ms: f64,
    },
    Seek {
        msid: u32,
        ms: f64,
    },
    ReceiveAudio {
        msid: u32,
        on: bool,
    },
    ReceiveVideo {
        msid: u32,
        on: bool,
    },
    /// How much the player wants to have in hand.
    BufferLength {
        msid: u32,
        ms: u32,
    },
    /// The answer to [`ServerSession::ping`], with its time.
    PingResponse(u32),
    /// The client has received so many bytes, modulo 2^32.
    Acknowledged(u32),
}

/// What a client says of itself in connect. All of it is text from outside.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectRequest {
    /// As sent, with whatever query is in it: [`url::split_app`](super::url::split_app) and
    /// [`url::resolve`](super::url::resolve) take it like this.
    pub app: String,
    pub tc_url: String,
    pub flash_ver: String,
    pub page_url: String,
    pub swf_url: String,
    pub audio_codecs: u32,
    pub video_codecs: u32,
    pub object_encoding: u32,
    pub caps: PlayerCaps,
    /// The nodes that a relay of livemill comes through; empty for everybody else.
    pub route: String,
}

/// How a play begins; the parts that are on go out in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayStart {
    /// User control StreamBegin. nginx-rtmp sends it when there is a publisher.
    pub stream_begin: bool,
    /// NetStream.Play.Reset, the standard's first word.
    pub reset: bool,
    /// NetStream.Play.PublishNotify.
    pub publish_notify: bool,
    /// NetStream.Play.Start with `|RtmpSampleAccess`. Off where they are to come with each publish (`play_restart`).
    pub start: bool,
}

/// What the client sent that led to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Messages of types nobody defined.
    pub unknown_messages: u32,
    /// Media and data on message streams that do not publish.
    pub stray_media: u32,
    /// Data messages too long or not to be read.
    pub bad_data: u32,
    /// Metadata replaced by newer metadata before it was handed on.
    pub replaced_metadata: u32,
    /// Unknown commands beyond the rate at which they are answered.
    pub unanswered_commands: u32,
    /// Pause, seek and receive commands beyond their rate, or that make no sense.
    pub ignored_requests: u32,
    /// Commands in an order that makes no sense.
    pub strikes: u32,
}

impl ServerSession {
    /// `seed` makes the handshake's random bytes.
    pub fn new(config: Arc<SessionConfig>, seed: [u8; 32]) -> Self {
        let handshake = Handshake::Server(Box::new(ServerHandshake::new(seed)));
        let transport = Transport::new(handshake, Vec::new(), &config.limits, config.repeat_extended);
        Self {
            config,
            transport,
            phase: Phase::Fresh,
            streams: SmallVec::new(),
            last_msid: 0,
            caps: None,
            events: VecDeque::new(),
            parked: Vec::new(),
            held_metadata: None,
            now: Duration::ZERO,
            metadata_rate: Rate::default(),
            courtesy_rate: Rate::default(),
            request_rate: Rate::default(),
            counters: Counters::default(),
        }
    }

    /// Takes bytes from the socket. `now` is the time since the session began.
    pub fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), SessionError> {
        if self.is_closing() {
            return Ok(());
        }
        self.now = now;
        self.transport.count_received(bytes.len());
        if self.is_asking() {
            return self.park(bytes).inspect_err(|_| self.close());
        }
        self.read(bytes)
    }

    /// The next event.
    pub fn poll(&mut self) -> Option<ServerEvent> {
        let event = self.events.pop_front();
        if event.is_none() {
            let publishing = self.streams.iter().any(|stream| stream.state == StreamState::Publishing);
            // Thousands of idle connections should not keep the room of their busiest moment.
            if !publishing || self.events.capacity() > KEPT_EVENTS {
                self.events = VecDeque::new();
            }
        }
        event
    }

    /// Bytes to send, in order.
    pub fn take_output(&mut self) -> Option<Bytes> {
        self.transport.take_output()
    }

    /// Answers a `Connect`, and reads on.
    pub fn accept_connect(&mut self) -> Result<(), SessionError> {
        let Phase::Asking { transaction, object_encoding } = self.phase else { return Ok(()) };
        self.phase = Phase::Connected;
        let window = self.config.ack_window;
        self.transport.announce_window(window);
        self.transport.ask_for_bandwidth(window);
        self.transport.announce_chunk_size(self.config.chunk_size.max(1));
        let mut properties = vec![
            ("fmsVer".into(), self.config.version.as_str().into()),
            ("capabilities".into(), self.config.capabilities.into()),
        ];
        let mut information = vec![
            ("level".into(), "status".into()),
            ("code".into(), "NetConnection.Connect.Success".into()),
            ("description".into(), "Connection succeeded.".into()),
            // nginx-rtmp echoes 3 as well, and goes on in AMF0, which every client reads.
            ("objectEncoding".into(), f64::from(object_encoding).into()),
        ];
        // E-RTMP does not say which of the two objects: so both.
        properties.extend(self.enhanced());
        information.extend(self.enhanced());
        self.reply("_result", transaction, Value::Object(properties), &[Value::Object(information)]);
        self.resume()
    }

    /// Answers a `Connect` with `_error`. The session is over.
    pub fn reject_connect(&mut self, code: &str, description: &str) {
        if let Phase::Asking { transaction, .. } = self.phase {
            self.fail(transaction, code, description);
        }
        self.close();
    }

    /// The same, and says where to go instead.
    pub fn redirect_connect(&mut self, code: &str, description: &str, to: &str) {
        if let Phase::Asking { transaction, .. } = self.phase {
            self.reply("_error", transaction, Value::Null, &[command::redirection(code, description, to)]);
        }
        self.close();
    }

    /// Answers a `Publish` or `Play` with another place to go to. The session is over.
    pub fn redirect(&mut self, msid: u32, code: &str, description: &str, to: &str) {
        let body = command::encode("onStatus", 0, Value::Null, &[command::redirection(code, description, to)]);
        self.transport.send(csid::STATUS, kind::COMMAND, msid, &body);
        self.close();
    }

    /// Answers a `Publish`, and reads on. Nothing happens if the stream was closed in the meantime.
    pub fn accept_publish(&mut self, msid: u32) -> Result<(), SessionError> {
        if !self.answer(msid, StreamState::PublishAsked, StreamState::Publishing) {
            return Ok(());
        }
        self.transport.set_max_message(self.config.limits.max_message);
        self.status(msid, "status", "NetStream.Publish.Start", "Start publishing");
        self.resume()
    }

    /// Whoever publishes or plays on this message stream is sent elsewhere: as if it had asked for that itself. What comes
    /// meanwhile waits for the answer. False: it does neither.
    pub fn ask_again(&mut self, msid: u32) -> bool {
        self.answer(msid, StreamState::Publishing, StreamState::PublishAsked)
            || self.answer(msid, StreamState::Playing, StreamState::PlayAsked)
    }

    /// Answers a `Publish` with an error. The session is over: clients wait for ever on a connection left open.
    pub fn refuse_publish(&mut self, msid: u32, code: &str, description: &str) {
        self.status(msid, "error", code, description);
        self.close();
    }

    /// Answers a `Play`, and reads on.
    pub fn accept_play(&mut self, msid: u32, start: PlayStart) -> Result<(), SessionError> {
        if !self.answer(msid, StreamState::PlayAsked, StreamState::Playing) {
            return Ok(());
        }
        if start.stream_begin {
            self.stream_begin(msid);
        }
        if start.reset {
            self.status(msid, "status", "NetStream.Play.Reset", "Playing and resetting stream.");
        }
        if start.publish_notify {
            self.publish_notify(msid);
        }
        if start.start {
            self.play_started(msid);
        }
        self.resume()
    }

    /// Answers a `Play` with an error. The session is over.
    pub fn refuse_play(&mut self, msid: u32, code: &str, description: &str) {
        self.status(msid, "error", code, description);
        self.close();
    }

    /// Answers a `Publish` or `Play` with an error, and reads on: what the connection does on another stream goes on.
    pub fn turn_down(&mut self, msid: u32, code: &str, description: &str) -> Result<(), SessionError> {
        for asked in [StreamState::PublishAsked, StreamState::PlayAsked] {
            if self.answer(msid, asked, StreamState::Created) {
                self.refuse_second(msid, code, description);
                return self.resume();
            }
        }
        Ok(())
    }

    /// Sends onStatus on a message stream, or on the connection where `msid` is 0.
    pub fn status(&mut self, msid: u32, level: &str, code: &str, description: &str) {
        let body = command::encode("onStatus", 0, Value::Null, &[command::status(level, code, description)]);
        self.transport.send(csid::STATUS, kind::COMMAND, msid, &body);
    }

    /// Tells a player that its play has started, and that it may read sample data (Flash asks for that).
    pub fn play_started(&mut self, msid: u32) {
        self.status(msid, "status", "NetStream.Play.Start", "Start live");
        let access = amf::encode_all(&["|RtmpSampleAccess".into(), true.into(), true.into()]);
        self.transport.send(csid::STATUS, kind::DATA, msid, &access);
    }

    /// Tells a player that somebody publishes what it waits for.
    pub fn publish_notify(&mut self, msid: u32) {
        self.status(msid, "status", "NetStream.Play.PublishNotify", "Start publishing");
    }

    /// Answers a `Pause` as nginx-rtmp does for live streams.
    pub fn pause_notify(&mut self, msid: u32, paused: bool) {
        if paused {
            self.status(msid, "status", "NetStream.Pause.Notify", "Paused live");
            self.stream_eof(msid);
        } else {
            self.status(msid, "status", "NetStream.Unpause.Notify", "Unpaused live");
            self.stream_begin(msid);
        }
    }

    pub fn stream_begin(&mut self, msid: u32) {
        self.transport.send_control(Control::User(UserEvent::StreamBegin(msid)));
    }

    pub fn stream_eof(&mut self, msid: u32) {
        self.transport.send_control(Control::User(UserEvent::StreamEof(msid)));
    }

    pub fn stream_dry(&mut self, msid: u32) {
        self.transport.send_control(Control::User(UserEvent::StreamDry(msid)));
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, now_ms: u32) {
        self.transport.send_control(Control::User(UserEvent::PingRequest(now_ms)));
    }

    /// Asks the client to come back at `tc_url`, or where it is now if that is empty. Go on serving it until it leaves.
    pub fn request_reconnect(&mut self, tc_url: &str, description: &str) {
        let mut information = vec![
            ("level".into(), "status".into()),
            ("code".into(), "NetConnection.Connect.ReconnectRequest".into()),
            ("description".into(), description.into()),
        ];
        if !tc_url.is_empty() {
            information.push(("tcUrl".into(), tc_url.into()));
        }
        let body = command::encode("onStatus", 0, Value::Null, &[Value::Object(information)]);
        self.transport.send(csid::COMMAND, kind::COMMAND, 0, &body);
    }

    /// What the client announced in connect.
    pub fn caps(&self) -> &PlayerCaps {
        self.caps.as_deref().unwrap_or(PlayerCaps::NONE)
    }

    /// How media for this client are to be chunked.
    pub fn wire_style(&self) -> WireStyle {
        self.transport.wire_style()
    }

    /// Whether a question waits for its answer: read no more from the socket until then.
    pub fn is_asking(&self) -> bool {
        let asked = |stream: &Stream| matches!(stream.state, StreamState::PublishAsked | StreamState::PlayAsked);
        matches!(self.phase, Phase::Asking { .. }) || self.streams.iter().any(asked)
    }

    /// Whether the session is over: send the output, then close.
    pub fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    /// Whether the handshake is still under way.
    pub fn in_handshake(&self) -> bool {
        self.transport.in_handshake()
    }

    /// Whether the client owes the rest of a message it has begun: what a stalled sender is known by.
    pub fn is_midway(&self) -> bool {
        self.transport.is_midway()
    }

    /// Bytes received, the handshake among them.
    pub fn bytes_received(&self) -> u64 {
        self.transport.received()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Messages that the client left unfinished.
    pub fn restarts(&self) -> u32 {
        self.transport.restarts()
    }

    /// Handles parked input, now that the question is answered.
    fn resume(&mut self) -> Result<(), SessionError> {
        let parked = std::mem::take(&mut self.parked);
        self.read(&parked)
    }

    fn read(&mut self, mut input: &[u8]) -> Result<(), SessionError> {
        let result = self.read_messages(&mut input);
        match result {
            Ok(()) => self.transport.acknowledge(),
            Err(_) => self.close(),
        }
        result
    }

    fn read_messages(&mut self, input: &mut &[u8]) -> Result<(), SessionError> {
        self.hand_on_metadata();
        let config = Arc::clone(&self.config);
        while !self.is_asking() && !self.is_closing() {
            match self.transport.read(input, self.now, &config.limits)? {
                Some(Incoming::HandshakeDone) => {}
                Some(Incoming::Control(control)) => self.note_control(control),
                Some(Incoming::Message(message)) => self.handle(message)?,
                None => return Ok(()),
            }
        }
        self.park(input)
    }

    fn park(&mut self, input: &[u8]) -> Result<(), SessionError> {
        let limits = &self.config.limits;
        // A client that has not been let in yet gets no more than its messages do.
        let connected = !matches!(self.phase, Phase::Asking { .. });
        let limit = if connected { limits.max_parked } else { limits.max_message_before };
        if self.is_closing() || input.is_empty() {
            return Ok(());
        }
        if self.parked.len() + input.len() > limit {
            return Err(SessionError::Impatient { limit });
        }
        self.parked.extend_from_slice(input);
        Ok(())
    }

    fn close(&mut self) {
        self.phase = Phase::Closing;
        self.parked = Vec::new();
    }

    fn note_control(&mut self, control: Control) {
        match control {
            Control::Acknowledgement(bytes) => self.events.push_back(ServerEvent::Acknowledged(bytes)),
            Control::User(UserEvent::PingResponse(time)) => self.events.push_back(ServerEvent::PingResponse(time)),
            Control::User(UserEvent::SetBufferLength { msid, ms }) => {
                self.events.push_back(ServerEvent::BufferLength { msid, ms });
            }
            _ => {}
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), SessionError> {
        match message.kind {
            kind::AUDIO | kind::VIDEO => self.media(message),
            kind::AGGREGATE if self.is_publishing(message.msid) => {
                for part in split_aggregate(message) {
                    self.handle(part?)?;
                }
                Ok(())
            }
            kind::AGGREGATE => self.stray(),
            kind::DATA | kind::DATA_AMF3 => {
                self.transport.charge_control(self.now, &self.config.limits)?;
                self.data(message)
            }
            kind::COMMAND | kind::COMMAND_AMF3 => {
                self.transport.charge_control(self.now, &self.config.limits)?;
                self.command(message)
            }
            // Nothing here is shared, and Flash clients send them unasked.
            kind::SHARED_OBJECT | kind::SHARED_OBJECT_AMF3 => {
                self.transport.charge_control(self.now, &self.config.limits)
            }
            kind => {
                self.counters.unknown_messages += 1;
                let limit = self.config.limits.max_unknown_messages;
                if self.counters.unknown_messages > limit {
                    return Err(SessionError::UnknownMessages { kind, limit });
                }
                Ok(())
            }
        }
    }

    fn media(&mut self, message: Message) -> Result<(), SessionError> {
        let Message { msid, time, payload, .. } = message;
        if !self.is_publishing(msid) {
            return self.stray();
        }
        // An empty body is how encoders say silence, or nothing: there is no tag to be made of it.
        if !payload.is_empty() {
            self.events.push_back(ServerEvent::Media { msid, video: message.kind == kind::VIDEO, time, payload });
        }
        Ok(())
    }

    fn stray(&mut self) -> Result<(), SessionError> {
        self.counters.stray_media += 1;
        let limit = self.config.limits.max_stray_media;
        if self.counters.stray_media > limit { Err(SessionError::StrayMedia { limit }) } else { Ok(()) }
    }

    fn data(&mut self, message: Message) -> Result<(), SessionError> {
        let Message { mut msid, time, kind, payload, .. } = message;
        // nginx-rtmp never looks at the stream of metadata, and some encoders send them on the connection's.
        if msid == 0
            && let Some(only) = self.only_publishing()
        {
            msid = only;
        }
        if !self.is_publishing(msid) {
            return self.stray();
        }
        if payload.len() > self.config.limits.max_data {
            self.counters.bad_data += 1;
            return Ok(());
        }
        match DataMessage::parse(kind, &payload, &self.config.limits.amf_data) {
            Ok(DataMessage::Metadata(payload)) => self.metadata(msid, time, payload),
            Ok(DataMessage::Event { payload, .. }) => self.events.push_back(ServerEvent::Data { msid, time, payload }),
            Ok(DataMessage::Nothing) => {}
            // nginx-rtmp goes on after metadata it cannot read, and so do encoders that send such.
            Err(_) => self.counters.bad_data += 1,
        }
        Ok(())
    }

    fn metadata(&mut self, msid: u32, time: u32, payload: Bytes) {
        let held = self.held_metadata.take();
        if held.is_some() {
            self.counters.replaced_metadata += 1;
        }
        if self.metadata_rate.allows(self.now, self.config.limits.metadata_per_second) {
            self.events.push_back(ServerEvent::Metadata { msid, time, payload });
        } else {
            self.held_metadata = Some(Box::new(HeldMetadata { msid, time, payload }));
        }
    }

    /// Hands on metadata that had to wait, when its second has come.
    fn hand_on_metadata(&mut self) {
        let Some(held) = self.held_metadata.take() else { return };
        if !self.is_publishing(held.msid) {
            return;
        }
        if self.metadata_rate.allows(self.now, self.config.limits.metadata_per_second) {
            let HeldMetadata { msid, time, payload } = *held;
            self.events.push_back(ServerEvent::Metadata { msid, time, payload });
        } else {
            self.held_metadata = Some(held);
        }
    }

    fn command(&mut self, message: Message) -> Result<(), SessionError> {
        let Some(command) = Command::parse(&message.payload, &self.config.limits.amf_command)? else {
            return Err(SessionError::NoCommand);
        };
        let msid = message.msid;
        let connected = matches!(self.phase, Phase::Connected);
        match command.name.to_ascii_lowercase().as_str() {
            "connect" if connected => {
                self.fail(command.transaction, "NetConnection.Connect.Rejected", "Already connected");
                Err(SessionError::SecondConnect)
            }
            "connect" => self.connect(&command),
            "createstream" if connected => {
                self.create_stream(command.transaction);
                Ok(())
            }
            "publish" if connected => self.publish(msid, &command),
            "play" if connected => self.play(msid, &command),
            "play2" if connected => self.play2(msid, &command),
            "createstream" => self.strike("createStream", command.transaction),
            "publish" => self.strike("publish", command.transaction),
            "play" | "play2" => self.strike("play", command.transaction),
            "closestream" => {
                self.end(msid, false);
                Ok(())
            }
            "deletestream" => {
                self.delete_stream(msid, &command);
                Ok(())
            }
            "pause" | "pauseraw" | "seek" | "receiveaudio" | "receivevideo" => {
                self.request(msid, &command);
                Ok(())
            }
            // Some send metadata as a command.
            "@setdataframe" | "onmetadata" | "ontextdata" | "oncuepoint" | "onfi" => {
                self.data(Message { kind: data_kind(message.kind), ..message })
            }
            // Sent by encoders about to close. ffmpeg closes without reading on, so that an answer comes back as a reset that
            // swallows the deleteStream behind it: a clean end would look like a broken one.
            "fcunpublish" => Ok(()),
            // Answers to what we sent: onStatus wants none.
            "_result" | "_error" | "onstatus" => Ok(()),
            name => {
                self.courtesy(name, command.transaction);
                Ok(())
            }
        }
    }

    fn connect(&mut self, command: &Command) -> Result<(), SessionError> {
        let text = |name: &str| command.object.property(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| {
            let number = command.object.property(name).and_then(Value::as_number).unwrap_or_default();
            // Casting saturates, and makes 0 of NaN.
            number as u32
        };
        if command.object.property("app").and_then(Value::as_str).is_none() {
            self.fail(command.transaction, "NetConnection.Connect.Rejected", "No application");
            return Err(SessionError::NoApp);
        }
        let caps = PlayerCaps::read(&command.object);
        if caps != PlayerCaps::default() {
            self.caps = Some(Box::new(caps.clone()));
        }
        let request = ConnectRequest {
            app: text("app"),
            tc_url: text("tcUrl"),
            flash_ver: text("flashVer"),
            page_url: text("pageUrl"),
            swf_url: text("swfUrl"),
            audio_codecs: number("audioCodecs"),
            video_codecs: number("videoCodecs"),
            object_encoding: number("objectEncoding"),
            caps,
            route: text(ROUTE),
        };
        let object_encoding = if request.object_encoding == 3 { 3 } else { 0 };
        self.phase = Phase::Asking { transaction: command.transaction, object_encoding };
        self.events.push_back(ServerEvent::Connect(Box::new(request)));
        Ok(())
    }

    fn create_stream(&mut self, transaction: u32) {
        if self.streams.len() >= self.config.limits.max_streams {
            self.fail(transaction, "NetConnection.Call.Failed", "Too many streams");
            return;
        }
        // From 1 up: GStreamer refuses 0. Never the same again, so that late answers cannot mean another stream.
        self.last_msid += 1;
        self.streams.push(Stream { msid: self.last_msid, state: StreamState::Created, name: Box::default() });
        // The object must be null: given anything else, ffmpeg takes the id for 0.
        self.reply("_result", transaction, Value::Null, &[f64::from(self.last_msid).into()]);
    }

    fn publish(&mut self, msid: u32, command: &Command) -> Result<(), SessionError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.msid == msid) else {
            return self.strike("publish", command.transaction);
        };
        let Some(name) = command.text(0) else {
            // publish(false) and publish(null) are Flash's way to stop.
            if stream.state == StreamState::Publishing {
                self.end(msid, false);
                return Ok(());
            }
            return self.strike("publish", command.transaction);
        };
        if stream.state != StreamState::Created {
            self.refuse_second(msid, "NetStream.Publish.BadName", "Stream is in use");
            return Ok(());
        }
        stream.state = StreamState::PublishAsked;
        stream.name = name.into();
        let kind = command.text(1).unwrap_or("live").to_owned();
        self.events.push_back(ServerEvent::Publish { msid, name: name.to_owned(), kind });
        Ok(())
    }

    fn play(&mut self, msid: u32, command: &Command) -> Result<(), SessionError> {
        let Some(name) = command.text(0) else {
            // play(false) is Flash's way to stop.
            if self.state(msid) == Some(StreamState::Playing) {
                self.end(msid, false);
                return Ok(());
            }
            return self.strike("play", command.transaction);
        };
        let (start, duration, reset) = (command.number(1), command.number(2), command.flag(3));
        self.ask_to_play(msid, command.transaction, name, start, duration, reset)
    }

    /// `play2` switches to another rendition: nginx-rtmp closes and plays anew, which serves live streams well.
    fn play2(&mut self, msid: u32, command: &Command) -> Result<(), SessionError> {
        let options = command.arguments.first();
        let option = |name: &str| options.and_then(|options| options.property(name));
        let Some(name) = option("streamName").and_then(Value::as_str) else {
            return self.strike("play", command.transaction);
        };
        let start = option("start").and_then(Value::as_number).filter(|n| n.is_finite());
        self.ask_to_play(msid, command.transaction, name, start, None, None)
    }

    fn ask_to_play(
        &mut self,
        msid: u32,
        transaction: u32,
        name: &str,
        start: Option<f64>,
        duration: Option<f64>,
        reset: Option<bool>,
    ) -> Result<(), SessionError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.msid == msid) else {
            return self.strike("play", transaction);
        };
        match stream.state {
            StreamState::Created => {}
            // A player that plays something else on the same stream has done with what it played.
            StreamState::Playing => self.events.push_back(ServerEvent::CloseStream { msid }),
            _ => {
                self.refuse_second(msid, "NetStream.Play.Failed", "Stream is in use");
                return Ok(());
            }
        }
        stream.state = StreamState::PlayAsked;
        stream.name = name.into();
        self.events.push_back(ServerEvent::Play { msid, name: name.to_owned(), start, duration, reset });
        Ok(())
    }

    /// The first wins; the second is told so, within reason.
    fn refuse_second(&mut self, msid: u32, code: &str, description: &str) {
        if self.request_rate.allows(self.now, self.config.limits.requests_per_second) {
            self.status(msid, "error", code, description);
        } else {
            self.counters.ignored_requests += 1;
        }
    }

    fn delete_stream(&mut self, msid: u32, command: &Command) {
        let named = command.text(0).or_else(|| command.object.as_str());
        let target = match (command.whole_number(0), named) {
            (Some(number), _) => Some(number),
            // GStreamer deletes by name.
            (None, Some(name)) => {
                self.streams.iter().find(|stream| &*stream.name == name).map(|stream| stream.msid).or(
                    match self.streams.as_slice() {
                        [only] => Some(only.msid),
                        _ => None,
                    },
                )
            }
            (None, None) => Some(msid),
        };
        if let Some(target) = target {
            self.end(target, true);
        }
    }

    /// Ends what a stream does. Streams that are not there, or do nothing, are ended already.
    fn end(&mut self, msid: u32, delete: bool) {
        let Some(index) = self.streams.iter().position(|stream| stream.msid == msid) else { return };
        let Some(stream) = self.streams.get_mut(index) else { return };
        let state = std::mem::replace(&mut stream.state, StreamState::Created);
        stream.name = Box::default();
        if delete {
            self.streams.remove(index);
        }
        match state {
            StreamState::Publishing => {
                self.status(msid, "status", "NetStream.Unpublish.Success", "Stop publishing");
                self.events.push_back(ServerEvent::Unpublish { msid });
            }
            StreamState::Playing => {
                self.status(msid, "status", "NetStream.Play.Stop", "Stop live");
                self.events.push_back(ServerEvent::CloseStream { msid });
            }
            // While a question is open nothing is read, so that none can be ended here.
            StreamState::Created | StreamState::PublishAsked | StreamState::PlayAsked => {}
        }
    }

    /// Pause, seek and the like, of a stream that plays.
    fn request(&mut self, msid: u32, command: &Command) {
        let allowed = self.request_rate.allows(self.now, self.config.limits.requests_per_second);
        let event = match command.name.to_ascii_lowercase().as_str() {
            _ if !allowed || self.state(msid) != Some(StreamState::Playing) => None,
            "seek" => command.number(0).map(|ms| ServerEvent::Seek { msid, ms }),
            "receiveaudio" => command.flag(0).map(|on| ServerEvent::ReceiveAudio { msid, on }),
            "receivevideo" => command.flag(0).map(|on| ServerEvent::ReceiveVideo { msid, on }),
            _ => {
                let time_ms = command.number(1).unwrap_or_default();
                command.flag(0).map(|paused| ServerEvent::Pause { msid, paused, time_ms })
            }
        };
        let Some(event) = event else {
            self.counters.ignored_requests += 1;
            return;
        };
        if let ServerEvent::ReceiveAudio { on: true, .. } | ServerEvent::ReceiveVideo { on: true, .. } = event {
            // The answer that the standard wants to hear.
            self.status(msid, "status", "NetStream.Seek.Notify", "Seeking");
            self.status(msid, "status", "NetStream.Play.Start", "Start live");
        }
        self.events.push_back(event);
    }

    /// Answers commands that need no answer, since some encoders wait for one.
    fn courtesy(&mut self, name: &str, transaction: u32) {
        if transaction == 0 {
            return;
        }
        if !self.courtesy_rate.allows(self.now, self.config.limits.courtesies_per_second) {
            self.counters.unanswered_commands += 1;
            return;
        }
        let result = if name == "getstreamlength" { Value::Number(0.0) } else { Value::Undefined };
        self.reply("_result", transaction, Value::Null, &[result]);
    }

    /// Answers a command that comes out of order. Mistakes happen; three of them are no mistake.
    fn strike(&mut self, command: &'static str, transaction: u32) -> Result<(), SessionError> {
        self.counters.strikes += 1;
        self.fail(transaction, "NetConnection.Call.Failed", "Command out of order");
        let count = self.counters.strikes;
        if count >= self.config.limits.max_strikes {
            return Err(SessionError::OutOfOrder { command, count });
        }
        Ok(())
    }

    fn reply(&mut self, name: &str, transaction: u32, object: Value, arguments: &[Value]) {
        let body = command::encode(name, transaction, object, arguments);
        self.transport.send(csid::COMMAND, kind::COMMAND, 0, &body);
    }

    fn fail(&mut self, transaction: u32, code: &str, description: &str) {
        self.reply("_error", transaction, Value::Null, &[command::status("error", code, description)]);
    }

    /// The E-RTMP properties of the answer to connect: everything can be forwarded.
    fn enhanced(&self) -> [(String, Value); 3] {
        let all = || Value::Object(vec![("*".into(), f64::from(FORWARD).into())]);
        [
            ("capsEx".into(), f64::from(self.config.caps_ex).into()),
            ("videoFourCcInfoMap".into(), all()),
            ("audioFourCcInfoMap".into(), all()),
        ]
    }

    fn state(&self, msid: u32) -> Option<StreamState> {
        self.streams.iter().find(|stream| stream.msid == msid).map(|stream| stream.state)
    }

    fn is_publishing(&self, msid: u32) -> bool {
        self.state(msid) == Some(StreamState::Publishing)
    }

    /// The stream that publishes, where there is one and no other.
    fn only_publishing(&self) -> Option<u32> {
        let mut publishing = self.streams.iter().filter(|stream| stream.state == StreamState::Publishing);
        let first = publishing.next()?;
        publishing.next().is_none().then_some(first.msid)
    }

    fn answer(&mut self, msid: u32, from: StreamState, to: StreamState) -> bool {
        let stream = self.streams.iter_mut().find(|stream| stream.msid == msid && stream.state == from);
        stream.map(|stream| stream.state = to).is_some() && !self.is_closing()
    }
}

/// The data message type with the same format as this command type.
fn data_kind(command: u8) -> u8 {
    if command == kind::COMMAND_AMF3 { kind::DATA_AMF3 } else { kind::DATA }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            chunk_size: 4096,
            ack_window: 5_000_000,
            repeat_extended: true,
            version: "FMS/3,0,1,123".into(),
            capabilities: 31.0,
            caps_ex: 15,
            limits: SessionLimits::default(),
        }
    }
}

impl Default for PlayStart {
    /// What nginx-rtmp sends when there is a publisher.
    fn default() -> Self {
        Self { stream_begin: true, reset: false, publish_notify: false, start: true }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Before connect.
    Fresh,
    /// The application decides about connect.
    Asking {
        transaction: u32,
        object_encoding: u32,
    },
    Connected,
    Closing,
}

/// A message stream, as createStream made it.
#[derive(Debug)]
struct Stream {
    msid: u32,
    state: StreamState,
    /// What it publishes or plays, for those who delete by name.
    name: Box<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamState {
    Created,
    PublishAsked,
    Publishing,
    PlayAsked,
    Playing,
}

#[derive(Debug)]
struct HeldMetadata {
    msid: u32,
    time: u32,
    payload: Bytes,
}

/// Room for events that a publisher keeps between two reads; a burst may need more.
const KEPT_EVENTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rtmp::chunk::{self, ChunkLimits, ChunkReader};
    use crate::protocol::rtmp::message::MAX_CHUNK_SIZE;

    /// A client that writes what it likes, and reads what it is told.
    struct Desk {
        session: ServerSession,
        now: Duration,
        reader: ChunkReader,
        chunk_size: u32,
    }

    impl Desk {
        fn new() -> Self {
            let session = ServerSession::new(Arc::default(), [7; 32]);
            let reader = ChunkReader::new(ChunkLimits::default());
            Self { session, now: Duration::ZERO, reader, chunk_size: 128 }
        }

        fn greeted() -> Self {
            let mut desk = Self::new();
            desk.feed(&handshake()).expect("handshake");
            let answer = desk.session.take_output().expect("S0, S1 and S2");
            assert_eq!(answer.len(), 1 + 2 * 1536);
            desk
        }

        fn connected() -> Self {
            let mut desk = Self::greeted();
            desk.command(0, "connect", 1, connect_object("live"), &[]).expect("connect");
            assert!(matches!(desk.session.poll(), Some(ServerEvent::Connect(_))));
            desk.session.accept_connect().expect("accepted");
            desk.told();
            desk
        }

        fn with_stream() -> Self {
            let mut desk = Self::connected();
            desk.command(0, "createStream", 2, Value::Null, &[]).expect("createStream");
            assert_eq!(desk.told(), ["_result 2 null 1"]);
            desk
        }

        fn publishing() -> Self {
            let mut desk = Self::with_stream();
            desk.command(1, "publish", 3, Value::Null, &["cam".into(), "live".into()]).expect("publish");
            assert!(matches!(desk.session.poll(), Some(ServerEvent::Publish { msid: 1, .. })));
            desk.session.accept_publish(1).expect("accepted");
            assert_eq!(desk.told(), ["onStatus 0 null status NetStream.Publish.Start @1"]);
            desk
        }

        fn playing() -> Self {
            let mut desk = Self::with_stream();
            desk.command(1, "play", 3, Value::Null, &["cam".into()]).expect("play");
            assert!(matches!(desk.session.poll(), Some(ServerEvent::Play { msid: 1, .. })));
            desk.session.accept_play(1, PlayStart::default()).expect("accepted");
            desk.told();
            desk
        }

        fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
            self.session.receive(bytes, self.now)
        }

        fn message(&mut self, kind: u8, msid: u32, payload: &[u8]) -> Result<(), SessionError> {
            let mut out = Vec::new();
            let style = WireStyle { chunk_size: self.chunk_size, repeat_extended: true };
            chunk::write(&mut out, style, 4, 0, kind, msid, payload);
            self.feed(&out)
        }

        fn command(
            &mut self,
            msid: u32,
            name: &str,
            transaction: u32,
            object: Value,
            arguments: &[Value],
        ) -> Result<(), SessionError> {
            self.message(20, msid, &command::encode(name, transaction, object, arguments))
        }

        fn events(&mut self) -> Vec<ServerEvent> {
            std::iter::from_fn(|| self.session.poll()).collect()
        }

        /// What the session sent, one line a message.
        fn told(&mut self) -> Vec<String> {
            let mut lines = Vec::new();
            while let Some(output) = self.session.take_output() {
                let mut input = &output[..];
                while let Some(message) = self.reader.read(&mut input).expect("we write legal chunks") {
                    if let Ok(Some(Control::SetChunkSize(size))) = Control::parse(message.kind, &message.payload) {
                        self.reader.set_chunk_size(size);
                    }
                    lines.push(describe(&message));
                }
            }
            lines
        }
    }

    fn describe(message: &Message) -> String {
        if let Some(control) = Control::parse(message.kind, &message.payload).expect("we write legal messages") {
            assert_eq!((message.csid, message.msid), (2, 0));
            return format!("{control:?}");
        }
        let values = amf::decode_all(&message.payload, &amf::Limits::DATA).expect("we write legal AMF");
        let mut line: Vec<String> = values.iter().map(describe_value).collect();
        if message.msid != 0 {
            line.push(format!("@{}", message.msid));
        }
        line.join(" ")
    }

    fn describe_value(value: &Value) -> String {
        match value {
            Value::Null => "null".into(),
            Value::Undefined => "undefined".into(),
            Value::Number(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            Value::String(text) => text.clone(),
            other => {
                let words = ["level", "code"].map(|name| other.property(name).and_then(Value::as_str));
                words.iter().flatten().copied().collect::<Vec<_>>().join(" ")
            }
        }
    }

    fn handshake() -> Vec<u8> {
        let mut bytes = vec![3];
        bytes.resize(1 + 2 * 1536, 0);
        bytes
    }

    fn connect_object(app: &str) -> Value {
        Value::Object(vec![("app".into(), app.into()), ("tcUrl".into(), format!("rtmp://host/{app}").into())])
    }

    fn media(payload: &[u8]) -> ServerEvent {
        ServerEvent::Media { msid: 1, video: true, time: 0, payload: Bytes::copy_from_slice(payload) }
    }

    #[test]
    fn connect_is_answered_in_the_order_of_the_book() {
        let mut desk = Desk::greeted();
        desk.command(0, "connect", 1, connect_object("live"), &[]).expect("connect");
        assert_eq!(desk.told(), [""; 0], "nothing before the verdict");
        desk.session.accept_connect().expect("accepted");
        assert_eq!(
            desk.told(),
            [
                "WindowAckSize(5000000)",
                "SetPeerBandwidth { window: 5000000, limit: 2 }",
                "SetChunkSize(4096)",
                "_result 1  status NetConnection.Connect.Success",
            ]
        );
        assert_eq!(desk.session.wire_style(), WireStyle { chunk_size: 4096, repeat_extended: true });
    }

    #[test]
    fn connect_result_holds_version_and_enhanced_caps_and_echoes_the_encoding() {
        let mut desk = Desk::greeted();
        let mut object = vec![("app".to_owned(), "live".into()), ("objectEncoding".to_owned(), 3.0.into())];
        object.push(("fourCcList".to_owned(), Value::StrictArray(vec!["hvc1".into(), "Opus".into()])));
        desk.command(0, "connect", 1, Value::Object(object), &[]).expect("connect");
        desk.session.accept_connect().expect("accepted");
        let output = desk.session.take_output().expect("answers");
        let mut input = &output[..];
        let mut last = None;
        while let Some(message) = desk.reader.read(&mut input).expect("legal") {
            if message.kind == 1 {
                desk.reader.set_chunk_size(4096);
            }
            last = Some(message);
        }
        let values = amf::decode_all(&last.expect("_result").payload, &amf::Limits::COMMAND).expect("AMF");
        let [_, _, properties, information] = &values[..] else { panic!("{values:?}") };
        assert_eq!(properties.property("fmsVer").and_then(Value::as_str), Some("FMS/3,0,1,123"));
        assert_eq!(properties.property("capabilities"), Some(&Value::Number(31.0)));
        assert_eq!(information.property("objectEncoding"), Some(&Value::Number(3.0)));
        for object in [properties, information] {
            assert_eq!(object.property("capsEx"), Some(&Value::Number(15.0)));
            assert!(object.property("videoFourCcInfoMap").and_then(|map| map.property("*")).is_some());
        }
        assert!(desk.session.caps().takes_video(*b"hvc1") && desk.session.caps().takes_audio(*b"Opus"));
        assert!(!desk.session.caps().takes_video(*b"av01"));
    }

    #[test]
    fn second_connect_is_refused() {
        let mut desk = Desk::connected();
        assert_eq!(desk.command(0, "connect", 9, connect_object("live"), &[]), Err(SessionError::SecondConnect));
        assert_eq!(desk.told(), ["_error 9 null error NetConnection.Connect.Rejected"]);
        assert!(desk.session.is_closing());
    }

    #[test]
    fn connect_needs_an_app_that_is_text() {
        for object in [
            Value::Null,
            Value::Object(vec![]),
            Value::Object(vec![("app".into(), 5.0.into())]),
            Value::Object(vec![("app".into(), Value::Null)]),
        ] {
            let mut desk = Desk::greeted();
            assert_eq!(desk.command(0, "connect", 1, object, &[]), Err(SessionError::NoApp));
            assert_eq!(desk.told(), ["_error 1 null error NetConnection.Connect.Rejected"]);
        }
    }

    #[test]
    fn rejected_connect_closes_the_session() {
        let mut desk = Desk::greeted();
        desk.command(0, "connect", 1, connect_object("nope"), &[]).expect("connect");
        desk.session.reject_connect("NetConnection.Connect.InvalidApp", "no such application");
        assert_eq!(desk.told(), ["_error 1 null error NetConnection.Connect.InvalidApp"]);
        assert!(desk.session.is_closing());
        assert_eq!(desk.feed(&[0xFF; 100]), Ok(()), "what comes now is not read");
    }

    #[test]
    fn three_commands_out_of_order_close() {
        let mut desk = Desk::greeted();
        desk.command(0, "publish", 1, Value::Null, &["cam".into()]).expect("first");
        desk.command(0, "createStream", 2, Value::Null, &[]).expect("second");
        assert_eq!(
            desk.command(0, "play", 3, Value::Null, &["cam".into()]),
            Err(SessionError::OutOfOrder { command: "play", count: 3 })
        );
        assert_eq!(
            desk.told(),
            [1, 2, 3].map(|transaction| format!("_error {transaction} null error NetConnection.Call.Failed"))
        );
    }

    #[test]
    fn publish_on_stream_0_or_an_unknown_stream_is_a_strike() {
        let mut desk = Desk::with_stream();
        desk.command(0, "publish", 3, Value::Null, &["cam".into()]).expect("first");
        desk.command(9, "publish", 4, Value::Null, &["cam".into()]).expect("second");
        assert_eq!(desk.session.counters().strikes, 2);
        assert_eq!(desk.events(), []);
    }

    #[test]
    fn stream_ids_begin_at_1_and_end_at_16() {
        let mut desk = Desk::connected();
        for id in 1..=16 {
            desk.command(0, "createStream", id, Value::Null, &[]).expect("createStream");
            assert_eq!(desk.told(), [format!("_result {id} null {id}")]);
        }
        desk.command(0, "createStream", 17, Value::Null, &[]).expect("tolerated");
        assert_eq!(desk.told(), ["_error 17 null error NetConnection.Call.Failed"]);
        desk.command(0, "deleteStream", 0, Value::Null, &[3.0.into()]).expect("deleteStream");
        desk.command(0, "createStream", 18, Value::Null, &[]).expect("createStream");
        assert_eq!(desk.told(), ["_result 18 null 17"]);
    }

    #[test]
    fn publish_carries_name_and_kind_as_sent() {
        let mut desk = Desk::with_stream();
        desk.command(1, "publish", 3, Value::Null, &["cam?key=a/b".into(), "record".into()]).expect("publish");
        assert_eq!(
            desk.events(),
            [ServerEvent::Publish { msid: 1, name: "cam?key=a/b".into(), kind: "record".into() }]
        );
    }

    #[test]
    fn refused_publish_gets_its_status_and_the_session_closes() {
        let mut desk = Desk::with_stream();
        desk.command(1, "publish", 3, Value::Null, &["cam".into()]).expect("publish");
        desk.session.refuse_publish(1, "NetStream.Publish.BadName", "Already publishing");
        assert_eq!(desk.told(), ["onStatus 0 null error NetStream.Publish.BadName @1"]);
        assert!(desk.session.is_closing());
    }

    #[test]
    fn second_publish_on_a_stream_loses() {
        let mut desk = Desk::publishing();
        desk.command(1, "publish", 4, Value::Null, &["other".into()]).expect("tolerated");
        desk.command(1, "play", 5, Value::Null, &["cam".into()]).expect("tolerated");
        assert_eq!(
            desk.told(),
            ["onStatus 0 null error NetStream.Publish.BadName @1", "onStatus 0 null error NetStream.Play.Failed @1"]
        );
        desk.message(9, 1, b"video").expect("media");
        assert_eq!(desk.events(), [media(b"video")], "the first goes on");
    }

    #[test]
    fn publish_on_a_stream_that_plays_is_refused() {
        let mut desk = Desk::playing();
        desk.command(1, "publish", 4, Value::Null, &["cam".into()]).expect("tolerated");
        assert_eq!(desk.told(), ["onStatus 0 null error NetStream.Publish.BadName @1"]);
        assert_eq!(desk.events(), []);
    }

    #[test]
    fn play_is_answered_in_the_order_of_the_book() {
        let mut desk = Desk::with_stream();
        desk.command(1, "play", 3, Value::Null, &["cam".into(), (-2000.0).into()]).expect("play");
        assert_eq!(
            desk.events(),
            [ServerEvent::Play { msid: 1, name: "cam".into(), start: Some(-2000.0), duration: None, reset: None }]
        );
        let start = PlayStart { reset: true, publish_notify: true, ..PlayStart::default() };
        desk.session.accept_play(1, start).expect("accepted");
        assert_eq!(
            desk.told(),
            [
                "User(StreamBegin(1))",
                "onStatus 0 null status NetStream.Play.Reset @1",
                "onStatus 0 null status NetStream.Play.PublishNotify @1",
                "onStatus 0 null status NetStream.Play.Start @1",
                "|RtmpSampleAccess true true @1",
            ]
        );
    }

    #[test]
    fn play_while_playing_closes_the_first() {
        let mut desk = Desk::playing();
        desk.command(1, "play", 4, Value::Null, &["other".into()]).expect("play");
        assert!(matches!(
            &desk.events()[..],
            [ServerEvent::CloseStream { msid: 1 }, ServerEvent::Play { msid: 1, name, .. }] if name == "other"
        ));
    }

    #[test]
    fn play2_plays_what_its_options_name() {
        let mut desk = Desk::playing();
        let options = Value::Object(vec![("streamName".into(), "high".into()), ("start".into(), f64::NAN.into())]);
        desk.command(1, "play2", 0, Value::Null, &[options]).expect("play2");
        assert!(matches!(
            &desk.events()[..],
            [ServerEvent::CloseStream { .. }, ServerEvent::Play { name, start: None, .. }] if name == "high"
        ));
    }

    #[test]
    fn numbers_that_are_none_are_as_good_as_not_said() {
        let mut desk = Desk::with_stream();
        let arguments = ["cam".into(), f64::NAN.into(), f64::INFINITY.into(), 0.0.into()];
        desk.command(1, "play", 3, Value::Null, &arguments).expect("play");
        assert_eq!(
            desk.events(),
            [ServerEvent::Play { msid: 1, name: "cam".into(), start: None, duration: None, reset: Some(false) }]
        );
    }

    #[test]
    fn what_follows_a_question_waits_for_its_answer() {
        let mut desk = Desk::with_stream();
        let mut out = Vec::new();
        let publish = command::encode("publish", 3, Value::Null, &["cam".into(), "live".into()]);
        let style = WireStyle::default();
        chunk::write(&mut out, style, 8, 0, 20, 1, &publish);
        let keyframe = vec![0x17; 100_000];
        chunk::write(&mut out, style, 6, 0, 9, 1, &keyframe);
        desk.feed(&out).expect("parked");
        assert!(desk.session.is_asking());
        assert_eq!(desk.events().len(), 1);
        desk.message(9, 1, b"more").expect("parked as well");
        desk.session.accept_publish(1).expect("accepted");
        assert_eq!(desk.events(), [media(&keyframe), media(b"more")]);
    }

    #[test]
    fn whole_session_may_come_in_one_piece() {
        let mut desk = Desk::new();
        let mut out = handshake();
        let style = WireStyle::default();
        for (msid, body) in [
            (0, command::encode("connect", 1, connect_object("live"), &[])),
            (0, command::encode("createStream", 2, Value::Null, &[])),
            (1, command::encode("publish", 3, Value::Null, &["cam".into(), "live".into()])),
        ] {
            chunk::write(&mut out, style, 3, 0, 20, msid, &body);
        }
        chunk::write(&mut out, style, 4, 0, 9, 1, b"video");
        desk.feed(&out).expect("fed");
        assert!(matches!(desk.session.poll(), Some(ServerEvent::Connect(_))));
        assert_eq!(desk.session.poll(), None);
        desk.session.accept_connect().expect("accepted");
        assert!(matches!(desk.session.poll(), Some(ServerEvent::Publish { .. })));
        desk.session.accept_publish(1).expect("accepted");
        assert_eq!(desk.events(), [media(b"video")]);
    }

    #[test]
    fn impatience_has_a_bound() {
        let mut desk = Desk::with_stream();
        desk.command(1, "publish", 3, Value::Null, &["cam".into()]).expect("publish");
        let rest = vec![0; 512 << 10];
        desk.feed(&rest).expect("within the bound");
        assert_eq!(desk.feed(&[0]), Err(SessionError::Impatient { limit: 512 << 10 }));
    }

    #[test]
    fn before_connect_is_accepted_impatience_has_a_tighter_bound() {
        let mut desk = Desk::greeted();
        desk.command(0, "connect", 1, connect_object("live"), &[]).expect("connect");
        desk.feed(&[0; 64 << 10]).expect("within the bound");
        assert_eq!(desk.feed(&[0]), Err(SessionError::Impatient { limit: 64 << 10 }));
    }

    #[test]
    fn media_passes_only_on_a_stream_that_publishes() {
        let mut desk = Desk::publishing();
        desk.message(9, 1, b"video").expect("media");
        desk.message(9, 1, b"").expect("empty media");
        for msid in [0, 2, u32::MAX] {
            desk.message(9, msid, b"stray").expect("counted");
        }
        assert_eq!(desk.events(), [media(b"video")]);
        assert_eq!(desk.session.counters().stray_media, 3);
        for _ in 0..97 {
            desk.message(8, 0, b"stray").expect("counted");
        }
        assert_eq!(desk.message(8, 0, b"stray"), Err(SessionError::StrayMedia { limit: 100 }));
    }

    #[test]
    fn player_that_sends_media_is_a_stray() {
        let mut desk = Desk::playing();
        desk.message(9, 1, b"video").expect("counted");
        assert_eq!((desk.events(), desk.session.counters().stray_media), (vec![], 1));
    }

    #[test]
    fn aggregates_come_out_as_their_parts() {
        let mut desk = Desk::publishing();
        let mut body = Vec::new();
        for (kind, data) in [(8u8, b"a"), (9, b"v")] {
            body.extend_from_slice(&[kind, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            body.extend_from_slice(data);
            body.extend_from_slice(&[0, 0, 0, 12]);
        }
        desk.message(22, 1, &body).expect("aggregate");
        assert_eq!(desk.events().len(), 2);
        body.truncate(14);
        desk.message(22, 2, &body).expect("a stray is not looked into");
        assert_eq!(desk.session.counters().stray_media, 1);
        assert!(matches!(desk.message(22, 1, &[9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0]), Err(SessionError::Aggregate(_))));
    }

    #[test]
    fn message_before_publish_is_bounded_more_tightly_than_after() {
        let mut desk = Desk::with_stream();
        assert!(matches!(
            desk.message(20, 0, &[0; 65537]),
            Err(SessionError::Chunk(chunk::ChunkError::TooLong { limit: 65536, .. }))
        ));
        let mut desk = Desk::publishing();
        desk.message(1, 0, &MAX_CHUNK_SIZE.to_be_bytes()).expect("SetChunkSize");
        desk.chunk_size = MAX_CHUNK_SIZE;
        desk.message(9, 1, &vec![1; 8 << 20]).expect("8 MiB");
        assert!(matches!(desk.message(9, 1, &vec![1; (8 << 20) + 1]), Err(SessionError::Chunk(_))));
    }

    #[test]
    fn commands_in_amf3_messages_are_understood() {
        for format in [&[0u8][..], &[]] {
            let mut desk = Desk::connected();
            let body = [format, &command::encode("createStream", 2, Value::Null, &[])].concat();
            desk.message(17, 0, &body).expect("createStream");
            assert_eq!(desk.told(), ["_result 2 null 1"]);
        }
    }

    #[test]
    fn commands_nobody_needs_are_answered_within_reason() {
        let mut desk = Desk::connected();
        for (transaction, name) in
            [(2, "releaseStream"), (3, "FCPublish"), (4, "FCSubscribe"), (5, "_checkbw"), (6, "whatever")]
        {
            desk.command(0, name, transaction, Value::Null, &["cam".into()]).expect("tolerated");
            assert_eq!(desk.told(), [format!("_result {transaction} null undefined")]);
        }
        desk.command(0, "getStreamLength", 7, Value::Null, &["cam".into()]).expect("tolerated");
        assert_eq!(desk.told(), ["_result 7 null 0"]);
        desk.command(0, "whatever", 0, Value::Null, &[]).expect("tolerated");
        assert_eq!(desk.told(), [""; 0], "transaction 0 wants no answer");
        for _ in 0..100 {
            desk.command(0, "flood", 8, Value::Null, &[]).expect("tolerated");
        }
        assert_eq!(desk.told().len(), 14);
        assert_eq!(desk.session.counters().unanswered_commands, 86);
        desk.now = Duration::from_secs(1);
        desk.command(0, "flood", 8, Value::Null, &[]).expect("tolerated");
        assert_eq!(desk.told().len(), 1);
    }

    #[test]
    fn encoder_about_to_close_is_not_talked_to() {
        let mut desk = Desk::publishing();
        desk.command(0, "FCUnpublish", 6, Value::Null, &["cam".into()]).expect("taken note of");
        assert_eq!((desk.told(), desk.events()), (vec![], vec![]));
    }

    #[test]
    fn floods_of_commands_and_control_messages_close() {
        for (kind, body) in [(20, command::encode("x", 0, Value::Null, &[])), (1, vec![0, 0, 0, 128])] {
            let mut desk = Desk::connected();
            let flood = (0..2000).find_map(|_| desk.message(kind, 0, &body).err());
            assert_eq!(flood, Some(SessionError::ControlFlood { limit: 1000 }));
        }
    }

    #[test]
    fn tiny_chunks_have_a_rate() {
        let mut desk = Desk::publishing();
        let mut out = Vec::new();
        chunk::write(&mut out, WireStyle::default(), 4, 0, 9, 1, b"");
        out.resize(out.len() + 250_000, 0xC4);
        let error = out.chunks(4096).find_map(|part| desk.feed(part).err());
        assert_eq!(error, Some(SessionError::ThinChunks { limit: 200_000 }));
    }

    #[test]
    fn unknown_message_types_are_ignored_a_hundred_times() {
        let mut desk = Desk::connected();
        for kind in (10..15).chain(23..118) {
            desk.message(kind, 0, b"?").expect("ignored");
        }
        assert_eq!(desk.session.counters().unknown_messages, 100);
        assert_eq!(desk.message(0, 0, b"?"), Err(SessionError::UnknownMessages { kind: 0, limit: 100 }));
        let mut desk = Desk::connected();
        for _ in 0..300 {
            desk.message(19, 0, b"shared object").expect("read and dropped");
        }
    }

    #[test]
    fn metadata_comes_without_its_frame_and_at_most_twice_a_second() {
        let mut desk = Desk::publishing();
        let body = |number: f64| {
            let value = Value::EcmaArray(vec![("width".into(), number.into())]);
            amf::encode_all(&["@setDataFrame".into(), "onMetaData".into(), value])
        };
        let widths = |events: Vec<ServerEvent>| -> Vec<f64> {
            let width = |event: &ServerEvent| {
                let ServerEvent::Metadata { payload, .. } = event else { panic!("{event:?}") };
                let values = amf::decode_all(payload, &amf::Limits::DATA).expect("AMF");
                assert_eq!(values[0].as_str(), Some("onMetaData"));
                values[1].property("width").and_then(Value::as_number).expect("width")
            };
            events.iter().map(width).collect()
        };
        for number in 1..=5 {
            desk.message(18, 1, &body(f64::from(number))).expect("metadata");
        }
        assert_eq!(widths(desk.events()), [1.0, 2.0]);
        assert_eq!(desk.session.counters().replaced_metadata, 2);
        desk.now = Duration::from_secs(1);
        desk.feed(&[]).expect("nothing new");
        assert_eq!(widths(desk.events()), [5.0], "the newest is not lost");
    }

    #[test]
    fn other_data_passes_and_oversized_or_broken_data_is_dropped() {
        let mut desk = Desk::publishing();
        let text = amf::encode_all(&["onTextData".into(), "hello".into()]);
        desk.message(18, 1, &text).expect("data");
        assert_eq!(desk.events(), [ServerEvent::Data { msid: 1, time: 0, payload: text.into() }]);
        desk.message(18, 1, &[2; 65537]).expect("dropped");
        desk.message(18, 1, &[2, 0xFF]).expect("dropped");
        assert_eq!((desk.events(), desk.session.counters().bad_data), (vec![], 2));
    }

    #[test]
    fn metadata_on_the_connection_belong_to_the_only_publish() {
        let mut desk = Desk::publishing();
        let body = amf::encode_all(&["onMetaData".into(), Value::Null]);
        desk.message(18, 0, &body).expect("metadata");
        assert!(matches!(desk.events()[..], [ServerEvent::Metadata { msid: 1, .. }]));
        desk.message(18, 7, &body).expect("counted");
        assert_eq!((desk.events(), desk.session.counters().stray_media), (vec![], 1));
    }

    #[test]
    fn ends_are_answered_once_and_told_once() {
        for (name, arguments) in [
            ("closeStream", vec![]),
            ("deleteStream", vec![1.0.into()]),
            ("deleteStream", vec!["cam".into()]),
            ("deleteStream", vec![]),
            ("publish", vec![Value::Boolean(false)]),
        ] {
            let mut desk = Desk::publishing();
            let msid = u32::from(name != "deleteStream" || arguments.is_empty());
            desk.command(msid, name, 0, Value::Null, &arguments).expect(name);
            assert_eq!(desk.events(), [ServerEvent::Unpublish { msid: 1 }], "{name} {arguments:?}");
            assert_eq!(desk.told(), ["onStatus 0 null status NetStream.Unpublish.Success @1"]);
            desk.command(msid, "closeStream", 0, Value::Null, &[]).expect("again");
            desk.command(0, "deleteStream", 0, Value::Null, &[1.0.into()]).expect("again");
            assert_eq!((desk.events(), desk.told()), (vec![], vec![]));
        }
    }

    #[test]
    fn players_close_with_play_stop() {
        let mut desk = Desk::playing();
        desk.command(1, "closeStream", 0, Value::Null, &[]).expect("closeStream");
        assert_eq!(desk.events(), [ServerEvent::CloseStream { msid: 1 }]);
        assert_eq!(desk.told(), ["onStatus 0 null status NetStream.Play.Stop @1"]);
    }

    #[test]
    fn deleting_the_streams_of_others_does_nothing() {
        let mut desk = Desk::publishing();
        for argument in [Value::Number(2.0), f64::NAN.into(), Value::Null] {
            desk.command(0, "deleteStream", 0, Value::Null, &[argument]).expect("tolerated");
        }
        assert_eq!(desk.events(), []);
    }

    #[test]
    fn publish_ends_and_a_new_one_begins_on_the_same_stream() {
        let mut desk = Desk::publishing();
        desk.command(1, "closeStream", 0, Value::Null, &[]).expect("closeStream");
        desk.command(1, "publish", 6, Value::Null, &["next".into()]).expect("publish");
        assert!(matches!(
            &desk.events()[..],
            [ServerEvent::Unpublish { msid: 1 }, ServerEvent::Publish { name, .. }] if name == "next"
        ));
    }

    #[test]
    fn requests_of_a_player_become_events_within_reason() {
        let mut desk = Desk::playing();
        desk.command(1, "pause", 0, Value::Null, &[true.into(), 1500.0.into()]).expect("pause");
        desk.command(1, "pauseRaw", 0, Value::Null, &[false.into(), 1500.0.into()]).expect("pauseRaw");
        desk.command(1, "seek", 0, Value::Null, &[9000.0.into()]).expect("seek");
        desk.command(1, "seek", 0, Value::Null, &[f64::NAN.into()]).expect("ignored");
        desk.command(1, "receiveVideo", 0, Value::Null, &[false.into()]).expect("receiveVideo");
        assert_eq!(desk.told(), [""; 0]);
        desk.command(1, "receiveAudio", 0, Value::Null, &[true.into()]).expect("receiveAudio");
        assert_eq!(
            desk.events(),
            [
                ServerEvent::Pause { msid: 1, paused: true, time_ms: 1500.0 },
                ServerEvent::Pause { msid: 1, paused: false, time_ms: 1500.0 },
                ServerEvent::Seek { msid: 1, ms: 9000.0 },
                ServerEvent::ReceiveVideo { msid: 1, on: false },
                ServerEvent::ReceiveAudio { msid: 1, on: true },
            ]
        );
        assert_eq!(
            desk.told(),
            ["onStatus 0 null status NetStream.Seek.Notify @1", "onStatus 0 null status NetStream.Play.Start @1"]
        );
        for _ in 0..50 {
            desk.command(1, "seek", 0, Value::Null, &[0.0.into()]).expect("ignored");
        }
        assert_eq!((desk.events().len(), desk.session.counters().ignored_requests), (14, 37));
    }

    #[test]
    fn pauses_are_answered_as_nginx_rtmp_does() {
        let mut desk = Desk::playing();
        desk.session.pause_notify(1, true);
        desk.session.pause_notify(1, false);
        assert_eq!(
            desk.told(),
            [
                "onStatus 0 null status NetStream.Pause.Notify @1",
                "User(StreamEof(1))",
                "onStatus 0 null status NetStream.Unpause.Notify @1",
                "User(StreamBegin(1))",
            ]
        );
    }

    #[test]
    fn pings_are_answered_ten_times_a_second() {
        let mut desk = Desk::connected();
        for _ in 0..30 {
            desk.message(4, 0, &[0, 6, 0, 0, 0, 9]).expect("ping");
        }
        assert_eq!(desk.told(), ["User(PingResponse(9))"; 10]);
        assert!(matches!(desk.message(4, 0, &[0, 6, 1]), Err(SessionError::Control(_))));
    }

    #[test]
    fn control_messages_that_tell_something_become_events() {
        let mut desk = Desk::playing();
        desk.message(4, 0, &[0, 3, 0, 0, 0, 1, 0, 0, 0x0B, 0xB8]).expect("SetBufferLength");
        desk.message(4, 0, &[0, 7, 0, 0, 0, 5]).expect("PingResponse");
        desk.message(3, 0, &[0, 1, 0, 0]).expect("Acknowledgement");
        desk.message(4, 0, &[0, 31, 0, 0, 0, 1]).expect("undocumented");
        assert_eq!(
            desk.events(),
            [
                ServerEvent::BufferLength { msid: 1, ms: 3000 },
                ServerEvent::PingResponse(5),
                ServerEvent::Acknowledged(65536)
            ]
        );
    }

    #[test]
    fn peer_bandwidth_is_answered_when_it_differs() {
        let mut desk = Desk::connected();
        desk.message(6, 0, &[0, 0, 0, 0, 2]).expect("ignored");
        desk.message(6, 0, &[&5_000_000u32.to_be_bytes()[..], &[2]].concat()).expect("no change");
        assert_eq!(desk.told(), [""; 0]);
        desk.message(6, 0, &[&1_000_000u32.to_be_bytes()[..], &[9]].concat()).expect("changed");
        assert_eq!(desk.told(), ["WindowAckSize(1000000)"]);
    }

    #[test]
    fn acknowledgement_is_sent_each_window_and_the_window_is_clamped() {
        let mut desk = Desk::publishing();
        desk.message(5, 0, &[0, 0, 0, 1]).expect("window of 1");
        let mut told = Vec::new();
        for _ in 0..7 {
            desk.message(9, 1, &[1; 10_000]).expect("media");
            let now = desk.session.bytes_received();
            told.extend(desk.told().into_iter().map(|line| (line, now)));
        }
        // Four messages of 10 090 bytes to 32 KiB, and only three the first time: the handshake counts.
        let lines: Vec<_> = told.iter().map(|(line, now)| (line.clone(), format!("Acknowledgement({now})"))).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|(line, expected)| line == expected), "{lines:?}");
    }

    #[test]
    fn empty_and_nameless_commands_close() {
        for body in [&[][..], &[0], &[5]] {
            assert_eq!(Desk::connected().message(20, 0, body), Err(SessionError::NoCommand));
        }
        assert!(matches!(Desk::connected().message(20, 0, &[2, 9, 9]), Err(SessionError::Command(_))));
        let deep = [&[2, 0, 1, b'x'][..], &[10, 0, 0, 0, 1].repeat(33)].concat();
        assert!(matches!(Desk::connected().message(20, 0, &deep), Err(SessionError::Command(_))));
    }

    #[test]
    fn bad_chunk_sizes_close() {
        for body in [[0u8, 0, 0, 0], [0x80, 0, 0, 0], [0xFF; 4]] {
            assert!(matches!(Desk::connected().message(1, 0, &body), Err(SessionError::Control(_))));
        }
    }

    #[test]
    fn reconnect_request_names_where_to() {
        let mut desk = Desk::playing();
        desk.session.request_reconnect("rtmp://other/live", "moving");
        assert_eq!(desk.told(), ["onStatus 0 null status NetConnection.Connect.ReconnectRequest"]);
    }

    #[test]
    #[allow(clippy::print_stdout, reason = "the size is wanted when it is within its bound as well")]
    fn idle_session_is_small() {
        let mut desk = Desk::playing();
        assert_eq!((desk.events(), desk.told()), (vec![], vec![]));
        let own = size_of::<ServerSession>();
        let streams = desk.session.transport.reader_heap_bytes();
        let events = desk.session.events.capacity() * size_of::<ServerEvent>();
        println!("session {own}, chunk streams {streams}, events {events}");
        assert!(own + streams + events <= 700, "{own} + {streams} + {events}");
    }
}
