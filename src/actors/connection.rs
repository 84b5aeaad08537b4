//! One RTMP connection: reads its socket, lets the session say what that means, and acts on it.
//!
//! A publisher hands what it sends to its stream; a player takes what the stream delivers and writes it, or drops it by
//! the rules of its queue. The connection waits for the router and the stream when somebody publishes or plays, and for
//! nobody else.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use smallvec::SmallVec;
use tracing::{debug, info, warn};

use super::{
    house::{House, TlsHandshake, Venue},
    listener::Port,
    live_stream::{
        Deliver, EndPublish, Incoming, Ingest, LiveStream, Medium, NameInUse, Publish, Replaced, Subscribe, Unsubscribe,
    },
    router::{NoStream, OpenStream, Purpose},
    support::{
        census::{Crowded, Presence, Publishing},
        deadlines::{Deadlines, Sight, Stage, Times, Verdict},
        link::{ExitReason, Link},
        outbox::{Outbox, Progress},
        socket::{self, Arrived, RawSocket, ReadError, Reads, Writes},
        tls::is_hang_up,
    },
};
use crate::{
    config::{Action, Live, Server},
    log::access::SessionRecord,
    media::{
        key::StreamKey,
        packet::Packet,
        queue::{Item, QueueRules, SendQueue},
    },
    protocol::{
        proxy,
        rtmp::{
            chunk::WireStyle,
            error::SessionError,
            server::{ConnectRequest, PlayStart, ServerEvent, ServerSession},
            url,
            wire::PlayForm,
        },
    },
};

pub struct Connection {
    id: u64,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    port: Arc<Port>,
    house: Arc<House>,
    opened: Duration,
    reads: Option<Reads>,
    socket: Writes,
    /// Bytes of a PROXY header that is not complete yet; none once it has been read or where none is expected.
    proxy_header: Option<Vec<u8>>,
    tls_handshake: Option<TlsHandshake>,
    session: ServerSession,
    queue: SendQueue,
    outbox: Outbox,
    /// A future waits for the socket to take bytes again.
    blocked: bool,
    deadlines: Deadlines,
    times: Times,
    received: u64,
    media: u64,
    place: Option<Box<Place>>,
    role: Role,
    /// Set once the session is to end: nothing is read any more, what is queued is still written.
    ending: Option<Ending>,
    record: Box<SessionRecord>,
    _presence: Presence,
    link: Link,
}

/// A connection on its way to the arbiter it will live on.
pub struct Arrival {
    pub id: u64,
    pub socket: RawSocket,
    pub peer: Option<SocketAddr>,
    pub port: Arc<Port>,
    pub presence: Presence,
    pub link: Link,
    pub house: Arc<House>,
}

/// The server is ending: say so and close.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Finish;

/// Where `connect` led.
struct Place {
    server: Arc<Server>,
    venue: Arc<Venue>,
    tc_url: String,
    app: String,
}

enum Role {
    None,
    Publisher(Box<PublisherRole>),
    Player(Box<PlayerRole>),
}

struct PublisherRole {
    msid: u32,
    key: StreamKey,
    stream: Addr<LiveStream>,
    _counted: Publishing,
}

struct PlayerRole {
    msid: u32,
    key: StreamKey,
    stream: Addr<LiveStream>,
    form: PlayForm,
    /// The player's clock starts with its first packet.
    zero_start: bool,
    venue: Arc<Venue>,
}

struct Ending {
    reason: String,
    /// Our side has been shut down; the peer's close or the deadline ends it.
    lingering: bool,
}

/// Why somebody may not publish or play.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("access forbidden by rule")]
    Access,
    #[error("publishing from {0} needs the key: rtmp://HOST/APP/NAME?key=KEY")]
    Key(String),
    #[error("too many wrong keys from this address, try again in a minute")]
    Guessing,
    #[error("live is off in application \"{0}\"")]
    NotLive(String),
    #[error(transparent)]
    Name(#[from] crate::media::key::NameError),
    #[error(transparent)]
    Crowded(#[from] Crowded),
    #[error(transparent)]
    NoStream(#[from] NoStream),
    #[error("live: {0}")]
    InUse(#[from] NameInUse),
    #[error("the server is ending")]
    Ending,
}

impl Connection {
    /// Starts the connection on its arbiter.
    pub fn open(arrival: Arrival, arbiter: &ArbiterHandle) -> Addr<Self> {
        Self::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Self::new(arrival)
        })
    }

    fn new(arrival: Arrival) -> Self {
        let Arrival { id, socket, peer, port, presence, link, house } = arrival;
        let local = match &socket {
            RawSocket::Tcp(socket) => socket.local_addr().ok(),
            RawSocket::Unix(_) => None,
        };
        let opened = house.now();
        let (reads, socket) = match socket::split(socket) {
            Ok((reads, writes)) => (Some(reads), writes),
            Err(error) => {
                // The reactor of this thread has no room for another socket: it ends in `started`.
                warn!(client = ?peer, %error, "cannot watch a new connection");
                (None, Writes::closed())
            }
        };
        let server = port.endpoint.server_for(local.map(|local| local.ip()), None);
        let times = Times::new(&house.limits, &server.rtmp);
        let session = ServerSession::new(house.session_config(server), rand::random());
        let proxy_header = port.endpoint.listen.proxy_protocol.then(Vec::new);
        let record = SessionRecord {
            connection: id,
            remote: peer,
            local,
            protocol: if port.tls.is_some() { "rtmps" } else { "rtmp" },
            ..SessionRecord::default()
        };
        Self {
            id,
            peer,
            local,
            port,
            opened,
            reads,
            socket,
            proxy_header,
            tls_handshake: None,
            session,
            queue: SendQueue::new(CONTROL_ONLY),
            outbox: Outbox::default(),
            blocked: false,
            deadlines: Deadlines::new(Duration::ZERO),
            times,
            received: 0,
            media: 0,
            place: None,
            role: Role::None,
            ending: None,
            record: Box::new(record),
            _presence: presence,
            link,
            house,
        }
    }

    /// Time since the connection was accepted.
    fn now(&self) -> Duration {
        self.house.now().saturating_sub(self.opened)
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }

    // ---- reading -------------------------------------------------------------------------------------------------

    fn take_bytes(&mut self, wire: &[u8], ctx: &mut Context<Self>) {
        self.received += wire.len() as u64;
        let now = self.now();
        if self.deadlines.stage() == Stage::Silent {
            self.deadlines.enter(Stage::Handshake, now);
            self.begin_tls();
        }
        let joined;
        let mut wire = wire;
        if let Some(mut header) = self.proxy_header.take() {
            header.extend_from_slice(wire);
            match proxy::parse(&header) {
                Ok(None) => {
                    self.proxy_header = Some(header);
                    return;
                }
                Ok(Some((said, used))) => {
                    if let Err(crowded) = self.learn_source(&said, now) {
                        return self.end(&crowded.to_string(), ctx);
                    }
                    header.drain(..used);
                    joined = header;
                    wire = &joined;
                }
                Err(error) => return self.end(&format!("PROXY header expected: {error}"), ctx),
            }
        }
        let session = &mut self.session;
        let fed = self.socket.decrypt(wire, |plain| session.receive(plain, now));
        if !self.socket.is_handshaking() {
            self.tls_handshake = None;
        }
        if self.deadlines.stage() == Stage::Handshake && !self.session.in_handshake() {
            self.record.milestones.handshake = Some(now);
            self.deadlines.enter(Stage::Connect, now);
        }
        match fed {
            Ok(()) => {}
            // What came before the fault still counts: a status may be on its way out, media on its way in.
            Err(ReadError::Taker(error)) => {
                self.take_events(ctx);
                return self.fail(&error, ctx);
            }
            Err(ReadError::Tls(error)) => return self.end(&format!("TLS: {error}"), ctx),
            Err(ReadError::Socket(error)) => return self.end(&error.to_string(), ctx),
        }
        self.take_events(ctx);
        self.write(ctx);
    }

    fn begin_tls(&mut self) {
        let Some(tls) = &self.port.tls else { return };
        match tls.accept() {
            Ok(connection) => {
                self.socket.start_tls(connection);
                self.tls_handshake = Some(TlsHandshake::begin(&self.house));
            }
            Err(error) => warn!(connection = self.id, %error, "TLS cannot begin"),
        }
    }

    /// The PROXY header says who is really calling.
    fn learn_source(&mut self, said: &proxy::Header, now: Duration) -> Result<(), Crowded> {
        if let Some(source) = said.source {
            self.peer = Some(source);
            self.local = said.destination.or(self.local);
            self.record.remote = self.peer;
            self.record.local = self.local;
            self._presence = self.house.census.admit(Some(source.ip()), self.opened + now)?;
        }
        Ok(())
    }

    /// Acts on what the session understood, up to the point where an answer from elsewhere is needed.
    fn take_events(&mut self, ctx: &mut Context<Self>) {
        let mut media = SmallVec::<[Incoming; 2]>::new();
        while self.ending.is_none() {
            let Some(event) = self.session.poll() else { break };
            if let Some((msid, incoming)) = as_media(&event) {
                self.note_media(&incoming);
                if matches!(&self.role, Role::Publisher(role) if role.msid == msid) {
                    media.push(incoming);
                }
                continue;
            }
            self.ingest(&mut media, ctx);
            if self.act(event, ctx) == Flow::Wait {
                return;
            }
        }
        self.ingest(&mut media, ctx);
        if self.session.is_closing() && self.ending.is_none() {
            self.end("refused", ctx);
        }
    }

    /// Hands media to the stream. A full stream stops this connection's reading: TCP slows the publisher.
    fn ingest(&mut self, media: &mut SmallVec<[Incoming; 2]>, ctx: &mut Context<Self>) {
        let Role::Publisher(role) = &self.role else { return media.clear() };
        if media.is_empty() {
            return;
        }
        match role.stream.try_send(Ingest { session: self.id, messages: std::mem::take(media) }) {
            Ok(()) => {}
            Err(SendError::Full(ingest)) => {
                let sent = role.stream.send(ingest);
                ctx.wait(sent.into_actor(self).map(|sent, connection, ctx| {
                    if sent.is_err() {
                        connection.end("the stream is gone", ctx);
                    }
                }));
            }
            Err(SendError::Closed(_)) => self.end("the stream is gone", ctx),
        }
    }

    fn act(&mut self, event: ServerEvent, ctx: &mut Context<Self>) -> Flow {
        match event {
            ServerEvent::Connect(request) => self.connect(*request, ctx),
            ServerEvent::Publish { msid, name, kind } => return self.publish(msid, &name, &kind, ctx),
            ServerEvent::Play { msid, name, .. } => return self.play(msid, &name, ctx),
            ServerEvent::Unpublish { msid } | ServerEvent::CloseStream { msid } => self.leave(msid),
            ServerEvent::Pause { msid, paused, .. } => {
                self.queue.pause(paused);
                self.session.pause_notify(msid, paused);
            }
            ServerEvent::ReceiveAudio { on, .. } => self.queue.want_audio(on),
            ServerEvent::ReceiveVideo { on, .. } => self.queue.want_video(on),
            // Live streams have one position, and their pace is the publisher's.
            ServerEvent::Seek { .. } | ServerEvent::BufferLength { .. } => {}
            _ => {}
        }
        Flow::Go
    }

    // ---- connect, publish, play ------------------------------------------------------------------------------------

    fn connect(&mut self, request: ConnectRequest, ctx: &mut Context<Self>) {
        let now = self.now();
        self.record.milestones.connect = Some(now);
        let heard = url::resolve(&request.tc_url, &request.app, "");
        let local = self.local.map(|local| local.ip());
        let server = Arc::clone(self.port.endpoint.server_for(local, Some(&heard.host)));
        let exists = |app: &str| server.applications.iter().any(|application| application.name == app);
        let target = url::resolve_in(&request.tc_url, &request.app, "", exists);
        // An OBS that was given the whole URL as its server sends the name inside the app.
        let (app, _) = url::split_app(&request.app);
        info!(
            connection = self.id, client = %self.client(), app, flashver = %request.flash_ver, tc_url = %request.tc_url,
            "connect"
        );
        let record = &mut self.record;
        record.host = heard.host;
        record.server_id.clone_from(&server.id);
        record.app.clone_from(&target.app);
        record.flash_ver = request.flash_ver;
        record.swf_url = request.swf_url;
        record.page_url = request.page_url;
        record.tc_url.clone_from(&request.tc_url);
        record.audio_codecs = request.audio_codecs;
        record.video_codecs = request.video_codecs;
        let venue = self.house.venue(&server, app).or_else(|| self.house.venue(&server, &target.app));
        let Some(venue) = venue else {
            self.session.reject_connect("NetConnection.Connect.InvalidApp", &format!("no application \"{app}\""));
            return self.end(&format!("connect: application not found: '{app}'"), ctx);
        };
        self.times = Times::new(&self.house.limits, &server.rtmp);
        self.deadlines.enter(Stage::Command, now);
        self.place = Some(Box::new(Place { server, venue, tc_url: request.tc_url, app: request.app }));
        let read_on = self.session.accept_connect();
        self.read_on(read_on, ctx);
    }

    /// The session goes on with what came while it waited for an answer; that may be wrong, too.
    fn read_on(&mut self, read_on: Result<(), SessionError>, ctx: &mut Context<Self>) {
        if let Err(error) = read_on {
            self.fail(&error, ctx);
        }
    }

    /// What the names in a command mean here.
    fn target(&self, name: &str) -> Option<(url::Target, Arc<Venue>, StreamKeyResult)> {
        let place = self.place.as_ref()?;
        let exists = |app: &str| place.server.applications.iter().any(|application| application.name == app);
        let target = url::resolve_in(&place.tc_url, &place.app, name, exists);
        let venue = self.house.venue(&place.server, &target.app).unwrap_or_else(|| Arc::clone(&place.venue));
        let key = StreamKey::parse(&place.server.id, &target.app, &target.name);
        Some((target, venue, key))
    }

    fn publish(&mut self, msid: u32, name: &str, kind: &str, ctx: &mut Context<Self>) -> Flow {
        let Some((target, venue, key)) = self.target(name) else { return Flow::Go };
        self.note_names(&target);
        info!(connection = self.id, client = %self.client(), app = %target.app, name = %target.name, kind, "publish");
        match self.may_publish(&target, &venue, key) {
            Ok((key, counted)) => {
                let asked = self.ask_to_publish(key.clone(), &venue, ctx);
                ctx.wait(asked.into_actor(self).map(move |answer, connection, ctx| {
                    match answer {
                        Ok(stream) => connection.begin_publishing(msid, key, stream, &venue, counted, ctx),
                        Err(refused) => connection.refuse_publish(msid, &refused, ctx),
                    }
                    connection.take_events(ctx);
                    connection.write(ctx);
                }));
                Flow::Wait
            }
            Err(refused) => {
                self.refuse_publish(msid, &refused, ctx);
                Flow::Go
            }
        }
    }

    /// All that can be said without asking the stream, cheapest first: nothing has happened yet when this refuses.
    fn may_publish(
        &self,
        target: &url::Target,
        venue: &Venue,
        key: StreamKeyResult,
    ) -> Result<(StreamKey, Publishing), Refused> {
        let application = &venue.application;
        if !application.live {
            return Err(Refused::NotLive(application.name.clone()));
        }
        if !application.access.allows(Action::Publish, self.peer_ip()) {
            return Err(Refused::Access);
        }
        let (census, now) = (&self.house.census, self.house.now());
        if application.publish_key.is_some() && census.is_guessing(self.peer_ip(), now) {
            return Err(Refused::Guessing);
        }
        if !application.key_opens(self.peer_ip(), target.arg("key")) {
            census.note_wrong_key(self.peer_ip(), now);
            return Err(Refused::Key(self.client()));
        }
        let key = key?;
        let counted = census.admit_publisher(self.peer_ip(), fingerprint(&key), now)?;
        Ok((key, counted))
    }

    fn ask_to_publish(
        &self,
        key: StreamKey,
        venue: &Venue,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<Addr<LiveStream>, Refused>> + 'static {
        let (house, rules, home) = (Arc::clone(&self.house), Arc::clone(&venue.rules), Arbiter::current());
        let (session, peer, to) = (self.id, self.peer, ctx.address());
        async move {
            // A stream that everybody left may end between the router's answer and our message: then ask again.
            for _ in 0..STREAM_TRIES {
                let (key, rules, home) = (key.clone(), Arc::clone(&rules), home.clone());
                let open = OpenStream { key, rules, purpose: Purpose::Publish, home };
                let stream = house.router.send(open).await.map_err(|_| Refused::Ending)??;
                match stream.send(Publish { session, peer, to: to.clone().recipient() }).await {
                    Ok(answer) => return answer.map(|_| stream).map_err(Refused::from),
                    Err(_) => continue,
                }
            }
            Err(Refused::Ending)
        }
    }

    fn begin_publishing(
        &mut self,
        msid: u32,
        key: StreamKey,
        stream: Addr<LiveStream>,
        venue: &Venue,
        counted: Publishing,
        ctx: &mut Context<Self>,
    ) {
        let now = self.now();
        info!(connection = self.id, client = %self.client(), stream = %key, "publishing");
        self.times.idle_publisher = venue.application.live_options.drop_idle_publisher;
        self.deadlines.enter(Stage::Publishing, now);
        self.record.milestones.start = Some(now);
        self.record.published = true;
        self.role = Role::Publisher(Box::new(PublisherRole { msid, key, stream, _counted: counted }));
        let read_on = self.session.accept_publish(msid);
        self.read_on(read_on, ctx);
    }

    fn refuse_publish(&mut self, msid: u32, refused: &Refused, ctx: &mut Context<Self>) {
        let code = match refused {
            Refused::InUse(_) | Refused::Name(_) => "NetStream.Publish.BadName",
            Refused::Access | Refused::Key(_) | Refused::Guessing | Refused::NotLive(_) => "NetStream.Publish.Denied",
            _ => "NetStream.Publish.Rejected",
        };
        self.session.refuse_publish(msid, code, &refused.to_string());
        self.end(&refused.to_string(), ctx);
    }

    fn play(&mut self, msid: u32, name: &str, ctx: &mut Context<Self>) -> Flow {
        let Some((target, venue, key)) = self.target(name) else { return Flow::Go };
        self.note_names(&target);
        info!(connection = self.id, client = %self.client(), app = %target.app, name = %target.name, "play");
        let application = &venue.application;
        let key = if !application.live {
            Err(Refused::NotLive(application.name.clone()))
        } else if !application.access.allows(Action::Play, self.peer_ip()) {
            Err(Refused::Access)
        } else {
            key.map_err(Refused::from)
        };
        match key {
            Ok(key) => {
                let (house, rules, home) = (Arc::clone(&self.house), Arc::clone(&venue.rules), Arbiter::current());
                let open = OpenStream { key: key.clone(), rules, purpose: Purpose::Play, home };
                let asked =
                    async move { house.router.send(open).await.map_err(|_| Refused::Ending)?.map_err(Refused::from) };
                ctx.wait(asked.into_actor(self).map(move |answer, connection, ctx| {
                    match answer {
                        Ok(stream) => connection.begin_playing(msid, key, stream, venue, ctx),
                        Err(refused) => connection.refuse_play(msid, &refused, ctx),
                    }
                    connection.take_events(ctx);
                    connection.write(ctx);
                }));
                Flow::Wait
            }
            Err(refused) => {
                self.refuse_play(msid, &refused, ctx);
                Flow::Go
            }
        }
    }

    fn begin_playing(
        &mut self,
        msid: u32,
        key: StreamKey,
        stream: Addr<LiveStream>,
        venue: Arc<Venue>,
        ctx: &mut Context<Self>,
    ) {
        let now = self.now();
        info!(connection = self.id, client = %self.client(), stream = %key, "playing");
        let live = &venue.application.live_options;
        let caps = self.session.caps();
        let chunks = WireStyle { repeat_extended: live.play_time_fix, ..self.session.wire_style() };
        let form = PlayForm {
            msid,
            multitrack: caps.takes_multitrack(),
            enhanced_hevc: caps.takes_video(*b"hvc1"),
            ..PlayForm::new(chunks, live.interleave)
        };
        self.times.slow_player = live.slow_player_timeout;
        self.deadlines.enter(Stage::Playing, now);
        self.record.milestones.start = Some(now);
        self.record.played = true;
        self.queue.configure(queue_rules(live, venue.max_packets));
        // The answer comes as a delivery, behind what is queued here.
        stream.do_send(Subscribe { id: self.id, to: ctx.address().recipient() });
        let (zero_start, play_restart) = (live.zero_start, live.play_restart);
        self.role = Role::Player(Box::new(PlayerRole { msid, key, stream, form, zero_start, venue }));
        let start = PlayStart { stream_begin: true, reset: true, publish_notify: false, start: !play_restart };
        let read_on = self.session.accept_play(msid, start);
        self.take_output();
        self.read_on(read_on, ctx);
    }

    fn refuse_play(&mut self, msid: u32, refused: &Refused, ctx: &mut Context<Self>) {
        let code = match refused {
            Refused::NoStream(NoStream::NotFound) | Refused::Name(_) => "NetStream.Play.StreamNotFound",
            _ => "NetStream.Play.Failed",
        };
        self.session.refuse_play(msid, code, &refused.to_string());
        self.end(&format!("live: {refused}"), ctx);
    }

    /// The peer closed its stream; the connection stays for the next one.
    fn leave(&mut self, msid: u32) {
        let now = self.now();
        let ours = match &self.role {
            Role::Publisher(role) => role.msid == msid,
            Role::Player(role) => role.msid == msid,
            Role::None => false,
        };
        if ours {
            self.record.milestones.close_stream = Some(now);
            self.part();
            self.deadlines.enter(Stage::Command, now);
        }
    }

    /// Gives up publishing or playing.
    fn part(&mut self) {
        match std::mem::replace(&mut self.role, Role::None) {
            // Rare by nature, and neither may get lost.
            Role::Publisher(role) => {
                info!(connection = self.id, client = %self.client(), stream = %role.key, "publish ended");
                role.stream.do_send(EndPublish { session: self.id });
            }
            Role::Player(role) => {
                info!(connection = self.id, client = %self.client(), stream = %role.key, drops = ?self.queue.drops(), "play ended");
                role.stream.do_send(Unsubscribe { id: self.id });
                self.queue.pause(true);
            }
            Role::None => {}
        }
    }

    // ---- playing ---------------------------------------------------------------------------------------------------

    fn begin(&mut self, burst: &[Packet]) {
        let Role::Player(role) = &mut self.role else { return };
        let live = &role.venue.application.live_options;
        let msid = role.msid;
        self.session.stream_begin(msid);
        if live.publish_notify {
            self.session.publish_notify(msid);
        }
        if live.play_restart {
            self.session.play_started(msid);
        }
        self.take_output();
        if let Role::Player(role) = &mut self.role
            && let Some(first) = burst.iter().find(|packet| packet.is_frame())
        {
            role.start_clock(first.time_ms());
        }
        self.queue.restart();
        self.queue.join(burst);
    }

    fn deliver(&mut self, message: Deliver, ctx: &mut Context<Self>) {
        match message {
            Deliver::Begin { burst } => self.begin(&burst),
            Deliver::Media { batch, gap } => {
                if let Role::Player(role) = &mut self.role
                    && let Some(first) = batch.packets().iter().find(|packet| packet.is_frame())
                {
                    role.start_clock(first.time_ms());
                }
                if gap {
                    self.queue.gap();
                }
                self.queue.offer(&batch);
            }
            Deliver::End => self.end_of_stream(ctx),
        }
        self.write(ctx);
    }

    fn end_of_stream(&mut self, ctx: &mut Context<Self>) {
        let Role::Player(role) = &self.role else { return };
        let live = &role.venue.application.live_options;
        let (msid, stays) = (role.msid, live.idle_streams);
        self.session.stream_eof(msid);
        if live.publish_notify || !stays {
            self.session.status(msid, "status", "NetStream.Play.UnpublishNotify", "Stop publishing");
        }
        if live.play_restart || !stays {
            self.session.status(msid, "status", "NetStream.Play.Stop", "Stop live");
        }
        if !stays {
            self.end("the publisher left and idle_streams is off", ctx);
        }
    }

    // ---- writing ---------------------------------------------------------------------------------------------------

    fn take_output(&mut self) {
        while let Some(bytes) = self.session.take_output() {
            self.queue.control(bytes);
        }
    }

    /// Writes what the socket takes now; if something is left, comes back when it takes more.
    fn write(&mut self, ctx: &mut Context<Self>) {
        self.take_output();
        if self.blocked {
            if self.queue.control_bytes() > MAX_CONTROL_BYTES {
                self.end_now("it asks and does not read the answers", ctx);
            }
            return;
        }
        loop {
            while self.outbox.has_room() {
                let Some(item) = self.queue.pop() else { break };
                let bytes = match (&item, &self.role) {
                    (Item::Control(bytes), _) => bytes.clone(),
                    (Item::Batch(batch), Role::Player(role)) => role.form.batch(batch),
                    (Item::Packet(packet), Role::Player(role)) => role.form.packet(packet),
                    _ => continue, // media for a player that has left
                };
                self.outbox.push(bytes);
            }
            if self.outbox.is_empty() {
                break;
            }
            match self.outbox.write(&mut self.socket) {
                Ok(Progress::Done) => {}
                Ok(Progress::Blocked) => return self.wait_writable(ctx),
                Err(error) => return self.end_now(&self.describe(&error), ctx),
            }
        }
        match self.socket.flush() {
            Ok(()) => self.linger(ctx),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_writable(ctx),
            Err(error) => self.end_now(&self.describe(&error), ctx),
        }
    }

    fn wait_writable(&mut self, ctx: &mut Context<Self>) {
        self.blocked = true;
        ctx.spawn(self.socket.writable().into_actor(self).map(|ready, connection, ctx| {
            connection.blocked = false;
            match ready {
                Ok(()) => connection.write(ctx),
                Err(error) => connection.end_now(&connection.describe(&error), ctx),
            }
        }));
    }

    // ---- ending ----------------------------------------------------------------------------------------------------

    fn fail(&mut self, error: &SessionError, ctx: &mut Context<Self>) {
        self.end(&error.to_string(), ctx);
    }

    /// Ends the session: what is queued is still written, then our side is closed, then the peer has a moment to read it.
    fn end(&mut self, reason: &str, ctx: &mut Context<Self>) {
        if self.ending.is_none() {
            self.part();
            self.ending = Some(Ending { reason: reason.to_owned(), lingering: false });
            self.deadlines.enter(Stage::Closing, self.now());
            self.write(ctx);
        }
    }

    /// Ends the session without another word.
    fn end_now(&mut self, reason: &str, ctx: &mut Context<Self>) {
        self.part();
        self.ending.get_or_insert_with(|| Ending { reason: reason.to_owned(), lingering: false });
        ctx.stop();
    }

    /// Everything is written: if the session is ending, closes our side, so that the last word is read before the reset.
    fn linger(&mut self, ctx: &mut Context<Self>) {
        if let Some(ending) = &mut self.ending
            && !ending.lingering
        {
            ending.lingering = true;
            self.socket.close_notify();
            if self.socket.shut_down().is_err() {
                ctx.stop();
            }
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let sight = Sight {
            received: self.received,
            written: self.outbox.written(),
            waits: self.blocked,
            midway: self.session.is_midway(),
            media: self.media,
        };
        match self.deadlines.check(sight, &self.times, now) {
            Verdict::Fine => {}
            Verdict::Ping => {
                self.session.ping(now.as_millis() as u32);
                self.write(ctx);
            }
            Verdict::Close(reason) if self.ending.is_some() || self.blocked => self.end_now(&reason.to_string(), ctx),
            Verdict::Close(reason) => self.end(&reason.to_string(), ctx),
        }
        let stream_lives = match &self.role {
            Role::Publisher(role) => role.stream.connected(),
            Role::Player(role) => role.stream.connected(),
            Role::None => true,
        };
        if !stream_lives {
            self.end("the stream failed", ctx);
        }
    }

    // ---- what is written down --------------------------------------------------------------------------------------

    fn note_names(&mut self, target: &url::Target) {
        self.record.app.clone_from(&target.app);
        self.record.name.clone_from(&target.name);
        self.record.args.clone_from(&target.query);
    }

    fn note_media(&mut self, incoming: &Incoming) {
        self.media += 1;
        let milestones = &mut self.record.milestones;
        let first = match incoming.medium {
            Medium::Audio => &mut milestones.first_audio,
            Medium::Video => &mut milestones.first_video,
            Medium::Metadata | Medium::Text => &mut milestones.first_metadata,
        };
        if first.is_none() {
            let now = self.house.now().saturating_sub(self.opened);
            *first = Some(now);
            milestones.first_data.get_or_insert(now);
        }
    }

    fn client(&self) -> String {
        self.peer.map_or_else(|| "unix:".to_owned(), |peer| peer.to_string())
    }

    fn describe(&self, error: &io::Error) -> String {
        if is_hang_up(error) { "the peer hung up".to_owned() } else { error.to_string() }
    }
}

impl PlayerRole {
    fn start_clock(&mut self, time_ms: i64) {
        if self.zero_start {
            self.zero_start = false;
            self.form.origin_ms = time_ms;
        }
    }
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.reads.take() {
            Some(reads) => {
                ctx.add_stream(reads);
                ctx.run_interval(TICK, Self::tick);
                debug!(connection = self.id, client = %self.client(), port = %self.port, "client connected");
            }
            None => ctx.stop(),
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.part();
        let reason = self.ending.take().map_or_else(|| "closed".to_owned(), |ending| ending.reason);
        let lasted = self.now();
        self.record.bytes_received = self.received;
        self.record.bytes_sent = self.outbox.written();
        self.record.duration = lasted;
        info!(
            connection = self.id, client = %self.client(), app = %self.record.app, name = %self.record.name,
            received = self.received, sent = self.outbox.written(), seconds = lasted.as_secs(), reason, "disconnect"
        );
        self.record.reason = reason;
        if let Some(place) = &self.place {
            place.venue.access_log.write(&self.record);
        }
        self.link.set_reason(ExitReason::Stopped);
    }
}

impl StreamHandler<Arrived> for Connection {
    fn handle(&mut self, arrived: Arrived, ctx: &mut Self::Context) {
        match arrived {
            Arrived::Bytes(len) if self.ending.is_none() => {
                socket::with_scratch(len, |bytes| self.take_bytes(bytes, ctx));
            }
            // What comes after the last word is read and thrown away: a reset would take the last word with it.
            Arrived::Bytes(_) => {}
            Arrived::End => self.end_now("the peer closed the connection", ctx),
            Arrived::Failed(error) => self.end_now(&self.describe(&error), ctx),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Deliver> for Connection {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        if self.ending.is_none() && matches!(self.role, Role::Player(_)) {
            self.deliver(message, ctx);
        }
    }
}

impl Handler<Replaced> for Connection {
    type Result = ();

    fn handle(&mut self, _: Replaced, ctx: &mut Self::Context) {
        if let Role::Publisher(role) = &self.role {
            let msid = role.msid;
            self.session.status(msid, "error", "NetStream.Publish.BadName", "another publisher took over");
            self.end("another publisher took over", ctx);
        }
    }
}

impl Handler<Finish> for Connection {
    type Result = ();

    fn handle(&mut self, _: Finish, ctx: &mut Self::Context) {
        if let Role::Player(role) = &self.role {
            let msid = role.msid;
            self.session.stream_eof(msid);
            self.session.status(msid, "status", "NetStream.Play.UnpublishNotify", "the server is ending");
        }
        self.end("the server is ending", ctx);
    }
}

type StreamKeyResult = Result<StreamKey, crate::media::key::NameError>;

/// Whether the next event may be looked at.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    /// An answer from elsewhere comes first.
    Wait,
}

fn as_media(event: &ServerEvent) -> Option<(u32, Incoming)> {
    let (msid, medium, time, body) = match event {
        ServerEvent::Media { msid, video: false, time, payload } => (msid, Medium::Audio, time, payload),
        ServerEvent::Media { msid, video: true, time, payload } => (msid, Medium::Video, time, payload),
        ServerEvent::Metadata { msid, time, payload } => (msid, Medium::Metadata, time, payload),
        ServerEvent::Data { msid, time, payload } => (msid, Medium::Text, time, payload),
        _ => return None,
    };
    Some((*msid, Incoming { medium, time: *time, body: body.clone() }))
}

fn queue_rules(live: &Live, max_packets: Option<usize>) -> QueueRules {
    QueueRules {
        max_bytes: live.out_queue_bytes,
        max_ms: live.out_queue_time.as_millis() as i64,
        max_packets,
        wait_key: live.wait_key,
        wait_video: live.wait_video,
        jump_to_keyframe: live.low_latency,
    }
}

/// A number for a name, for counting different ones.
fn fingerprint(key: &StreamKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Before anything is played only control bytes wait.
const CONTROL_ONLY: QueueRules = QueueRules {
    max_bytes: 0,
    max_ms: 0,
    max_packets: None,
    wait_key: false,
    wait_video: false,
    jump_to_keyframe: false,
};

/// Replies that may wait for a peer that does not read them.
const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// Deliveries that may wait while the arbiter is busy: about a second of a stream.
const MAILBOX: usize = 64;

/// How often a connection looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// How often a stream may end under our hands before we give up.
const STREAM_TRIES: usize = 3;
