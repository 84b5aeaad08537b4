//! One RTMP connection: reads its socket, lets the session say what that means, and acts on it.
//!
//! A publisher hands what it sends to its stream. A player takes a seat in the stream's audience on its arbiter, which
//! writes to it from then on. The connection waits for the router and the stream when somebody publishes or plays
//! (`entrance.rs`), and for nobody else.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use smallvec::SmallVec;
use tracing::{debug, info, warn};

use super::{
    audience::{PlayerNotice, Ticket},
    children::Attendance,
    gate::PlayWish,
    hooks::{Debt, Expelled},
    house::{House, TlsHandshake, Venue},
    live_stream::{Incoming, Ingest, LiveStream, Medium, Replaced},
    port::Port,
    support::{
        census::{Crowded, Presence, Publishing},
        counters::StreamCounters,
        deadlines::{Deadlines, Sight, Stage, Times, Verdict},
        feeder::{Feeder, Handed},
        link::{ExitReason, Link},
        outbox::Progress,
        output::{Output, SharedOutput},
        pace::stay_awake,
        roll::{Enrolled, Order},
        route::Route,
        socket::{self, Arrived, RawSocket, ReadError, Reads, Writes},
        tls::is_hang_up,
        wakeup::{Patience, Waiter, Wakeup},
    },
};
use crate::{
    config::Server,
    log::access::SessionRecord,
    media::key::StreamKey,
    protocol::{
        proxy,
        rtmp::{
            error::SessionError,
            server::{ServerEvent, ServerSession},
        },
    },
};

mod entrance;

pub struct Connection {
    id: u64,
    port: Arc<Port>,
    house: Arc<House>,
    opened: Duration,
    reads: Option<Reads>,
    /// Bytes of a PROXY header that is not complete yet; none once it has been read or where none is expected.
    proxy_header: Option<Vec<u8>>,
    tls_handshake: Option<TlsHandshake>,
    session: ServerSession,
    output: SharedOutput,
    deadlines: Deadlines,
    times: Arc<Times>,
    next_tick: SpawnHandle,
    media: u64,
    place: Option<Box<Place>>,
    role: Role,
    /// What a publisher that was sent elsewhere does not say again.
    carried: Option<Box<[Incoming]>>,
    /// Set once the session is to end: nothing is acted on any more, what is queued is still written.
    ending: Option<Ending>,
    /// What will be written down of this session, and while it lasts the one place that knows its addresses and names.
    record: Box<SessionRecord>,
    presence: Presence,
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
    /// As `connect` said it, which the names of later commands complete.
    app: String,
    /// The way it came, where it is a relay.
    route: Route,
    /// What hooks are owed when the connection ends.
    _debt: Debt,
}

enum Role {
    None,
    Publisher(Box<PublisherRole>),
    Player(Box<PlayerRole>),
}

struct PublisherRole {
    msid: u32,
    key: StreamKey,
    counters: Arc<StreamCounters>,
    feeder: Feeder,
    /// Whether audio may wait in the socket, and since when it does.
    wakeup: Wakeup,
    /// The timer of `wakeup` is under way.
    has_patience: bool,
    _counted: Publishing,
    _enrolled: Enrolled,
    /// What hooks are owed when the publish ends.
    _debt: Debt,
}

struct PlayerRole {
    msid: u32,
    key: StreamKey,
    ticket: Ticket,
    venue: Arc<Venue>,
    _attendance: Option<Attendance>,
    _enrolled: Enrolled,
    _debt: Debt,
}

struct Ending {
    reason: String,
    /// Our side has been shut down; the peer's close or the deadline ends it.
    lingering: bool,
}

/// Whether the next event may be looked at.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    /// An answer from elsewhere comes first.
    Wait,
}

impl Connection {
    /// Starts the connection on its arbiter.
    pub fn open(arrival: Arrival, arbiter: &ArbiterHandle) -> Addr<Self> {
        Self::start_in_arbiter(arbiter, move |_| Self::new(arrival))
    }

    fn new(arrival: Arrival) -> Self {
        stay_awake();
        let Arrival { id, socket, peer, port, presence, link, house } = arrival;
        let local = match &socket {
            RawSocket::Tcp(socket) => socket.local_addr().ok(),
            RawSocket::Unix(_) => None,
        };
        let (reads, writes) = match socket::split(socket) {
            Ok((reads, writes)) => (Some(reads), writes),
            Err(error) => {
                // The reactor of this thread has no room for another socket: it ends in `started`.
                warn!(client = ?peer, %error, "cannot watch a new connection");
                (None, Writes::closed())
            }
        };
        let server = port.endpoint.server_for(local.map(|local| local.ip()), None);
        let record = SessionRecord {
            connection: id,
            remote: peer,
            local,
            protocol: if port.tls.is_some() { "rtmps" } else { "rtmp" },
            ..SessionRecord::default()
        };
        Self {
            id,
            opened: house.now(),
            reads,
            proxy_header: port.endpoint.listen.proxy_protocol.then(Vec::new),
            tls_handshake: None,
            session: ServerSession::new(house.session_config(server), rand::random()),
            output: Rc::new(RefCell::new(Output::new(writes))),
            deadlines: Deadlines::new(Duration::ZERO),
            times: house.times(server).unwrap_or_else(|| Arc::new(Times::new(&house.limits, &server.rtmp))),
            next_tick: SpawnHandle::default(),
            media: 0,
            place: None,
            role: Role::None,
            carried: None,
            ending: None,
            record: Box::new(record),
            presence,
            link,
            port,
            house,
        }
    }

    /// Time since the connection was accepted.
    fn now(&self) -> Duration {
        self.house.now().saturating_sub(self.opened)
    }

    fn peer_ip(&self) -> Option<IpAddr> {
        self.record.remote.map(|peer| peer.ip())
    }

    fn client(&self) -> String {
        self.record.remote.map_or_else(|| "unix:".to_owned(), |peer| peer.to_string())
    }

    // ---- reading ----

    fn take_bytes(&mut self, wire: &[u8], ctx: &mut Context<Self>) {
        self.output.borrow_mut().note_received(wire.len());
        let now = self.now();
        if self.deadlines.stage() == Stage::Silent {
            self.deadlines.enter(Stage::Handshake, now);
        }
        let Some(mut header) = self.proxy_header.take() else { return self.take_stream(wire, now, ctx) };
        header.extend_from_slice(wire);
        match proxy::parse(&header) {
            Ok(None) => self.proxy_header = Some(header),
            Ok(Some((said, used))) => match self.learn_source(&said, now) {
                Ok(()) => self.take_stream(header.get(used..).unwrap_or_default(), now, ctx),
                Err(crowded) => self.end(&crowded.to_string(), ctx),
            },
            Err(error) => self.end(&format!("PROXY header expected: {error}"), ctx),
        }
    }

    /// What follows the PROXY header, where there is one.
    fn take_stream(&mut self, wire: &[u8], now: Duration, ctx: &mut Context<Self>) {
        if wire.is_empty() {
            return;
        }
        let session = &mut self.session;
        let mut output = self.output.borrow_mut();
        let socket = output.socket();
        if let (Some(tls), false) = (&self.port.tls, socket.is_tls()) {
            match tls.accept() {
                Ok(connection) => {
                    socket.start_tls(connection);
                    self.tls_handshake = Some(TlsHandshake::begin(&self.house));
                }
                Err(error) => {
                    drop(output);
                    return self.end(&format!("TLS cannot begin: {error}"), ctx);
                }
            }
        }
        let fed = socket.decrypt(wire, |plain| session.receive(plain, now));
        if !socket.is_handshaking() {
            self.tls_handshake = None;
        }
        if matches!(&self.role, Role::Publisher(role) if !role.wakeup.gathers()) {
            // One for each message is work for both kernels: a fifth fewer segments. Where frames are read together there
            // is one a read in any case.
            socket.acknowledge_lazily();
        }
        drop(output);
        if self.deadlines.stage() == Stage::Handshake && !self.session.in_handshake() {
            self.record.milestones.handshake = Some(now.into());
            self.deadlines.enter(Stage::Connect, now);
        }
        match fed {
            Ok(()) => {
                self.go_on(ctx);
                self.set_wakeup(now, ctx);
            }
            Err(ReadError::Taker(error)) => {
                // What came before the fault still counts: a status may be on its way out, media on its way in.
                self.take_events(ctx);
                self.fail(&error, ctx);
            }
            Err(ReadError::Tls(error)) => self.end(&format!("TLS: {error}"), ctx),
            Err(ReadError::Socket(error)) => self.end(&describe(&error), ctx),
        }
    }

    /// Something was read: decides how much must come before the next read.
    fn set_wakeup(&mut self, now: Duration, ctx: &mut Context<Self>) {
        let Role::Publisher(role) = &mut self.role else { return };
        if let Some(threshold) = role.wakeup.read(self.session.is_midway(), now) {
            self.output.borrow_mut().socket().wake_at(threshold);
        }
        if let (Some(due), false) = (role.wakeup.due(), role.has_patience) {
            role.has_patience = true;
            ctx.spawn(Patience::new(due.saturating_sub(now)));
        }
    }

    /// The PROXY header says who is really calling.
    fn learn_source(&mut self, said: &proxy::Header, now: Duration) -> Result<(), Crowded> {
        if let Some(source) = said.source {
            self.record.remote = Some(source);
            self.record.local = said.destination.or(self.record.local);
            self.presence.identify(source.ip(), self.opened + now)?;
        }
        Ok(())
    }

    fn go_on(&mut self, ctx: &mut Context<Self>) {
        if self.take_events(ctx) == Flow::Go && self.session.is_closing() {
            self.end("refused", ctx);
        }
        self.write(ctx);
    }

    /// The session goes on with what came while it waited for an answer; that may be wrong, too.
    fn read_on(&mut self, read_on: Result<(), SessionError>, ctx: &mut Context<Self>) {
        if let Err(error) = read_on {
            self.fail(&error, ctx);
        }
    }

    /// Acts on what the session understood, up to the point where an answer from elsewhere is needed.
    fn take_events(&mut self, ctx: &mut Context<Self>) -> Flow {
        let mut media = SmallVec::<[Incoming; 2]>::new();
        while self.ending.is_none() {
            let Some(event) = self.session.poll() else { break };
            match into_media(event) {
                Ok((msid, incoming)) => {
                    self.note_media(&incoming);
                    if matches!(&self.role, Role::Publisher(role) if role.msid == msid) {
                        media.push(incoming);
                    }
                }
                Err(event) => {
                    if let Some(sent) = self.ingest(&mut media, ctx) {
                        self.wait_for_stream(sent, Some(event), ctx);
                        return Flow::Wait;
                    }
                    if self.act(event, ctx) == Flow::Wait {
                        return Flow::Wait;
                    }
                }
            }
        }
        if let Some(sent) = self.ingest(&mut media, ctx) {
            self.wait_for_stream(sent, None, ctx);
            return Flow::Wait;
        }
        Flow::Go
    }

    /// Gathers media for the stream, and hands over what need not wait. What comes back must be waited for: the stream is
    /// full.
    fn ingest(
        &mut self,
        media: &mut SmallVec<[Incoming; 2]>,
        ctx: &mut Context<Self>,
    ) -> Option<Request<LiveStream, Ingest>> {
        let now = self.now();
        let Role::Publisher(role) = &mut self.role else {
            media.clear();
            return None;
        };
        let since = role.wakeup.waits_since(now);
        for incoming in media.drain(..) {
            if incoming.medium == Medium::Video {
                role.wakeup.saw_video(incoming.body.len());
            }
            role.feeder.push(incoming, since);
        }
        self.hand_over(ctx)
    }

    /// Hands to the stream what need not wait any longer, and sets a timer for what may.
    fn hand_over(&mut self, ctx: &mut Context<Self>) -> Option<Request<LiveStream, Ingest>> {
        let now = self.now();
        let Role::Publisher(role) = &mut self.role else { return None };
        let handed = role.feeder.hand_over(now);
        if let Some(wait) = role.feeder.set_timer(now) {
            ctx.run_later(wait, |connection, ctx| {
                if let Role::Publisher(role) = &mut connection.role {
                    role.feeder.timer_rang();
                }
                if let Some(sent) = connection.hand_over(ctx) {
                    connection.wait_for_stream(sent, None, ctx);
                }
            });
        }
        match handed {
            Handed::Done => None,
            Handed::Full(sent) => Some(sent),
            Handed::Gone => {
                self.end("the stream is gone", ctx);
                None
            }
        }
    }

    /// A full stream stops this connection's reading: TCP slows the publisher. Nothing that came behind may overtake what
    /// waits: neither more media nor `event`, which may be the end of the publish.
    fn wait_for_stream(&self, sent: Request<LiveStream, Ingest>, event: Option<ServerEvent>, ctx: &mut Context<Self>) {
        ctx.wait(sent.into_actor(self).map(move |sent, connection, ctx| {
            if sent.is_err() {
                return connection.end("the stream is gone", ctx);
            }
            let event = event.filter(|_| connection.ending.is_none());
            if event.is_none_or(|event| connection.act(event, ctx) == Flow::Go) {
                connection.go_on(ctx);
            }
        }));
    }

    fn act(&mut self, event: ServerEvent, ctx: &mut Context<Self>) -> Flow {
        if matches!(event, ServerEvent::Connect(_) | ServerEvent::Publish { .. } | ServerEvent::Play { .. }) {
            stay_awake();
        }
        match event {
            ServerEvent::Connect(request) => return self.connect(*request, ctx),
            ServerEvent::Publish { msid, name, kind } => return self.publish(msid, &name, &kind, ctx),
            ServerEvent::Play { msid, name, start, duration, reset } => {
                let wish = PlayWish {
                    start: start.unwrap_or_default(),
                    duration: duration.unwrap_or_default(),
                    reset: reset.unwrap_or_default(),
                };
                return self.play(msid, &name, wish, ctx);
            }
            ServerEvent::Unpublish { msid } | ServerEvent::CloseStream { msid } => self.leave(msid),
            ServerEvent::Pause { msid, paused, .. } => {
                self.output.borrow_mut().queue().pause(paused);
                self.session.pause_notify(msid, paused);
            }
            ServerEvent::ReceiveAudio { on, .. } => self.output.borrow_mut().queue().want_audio(on),
            ServerEvent::ReceiveVideo { on, .. } => self.output.borrow_mut().queue().want_video(on),
            // A live stream has one position, and its pace is the publisher's. Answers to pings and acknowledgements
            // have done their work by arriving.
            _ => {}
        }
        Flow::Go
    }

    /// The peer closed its stream; the connection stays for the next one.
    fn leave(&mut self, msid: u32) {
        let ours = match &self.role {
            Role::Publisher(role) => role.msid == msid,
            Role::Player(role) => role.msid == msid,
            Role::None => false,
        };
        if ours {
            let now = self.now();
            self.record.milestones.close_stream = Some(now.into());
            self.part();
            self.deadlines.enter(Stage::Command, now);
        }
    }

    /// Gives up publishing or playing.
    fn part(&mut self) {
        match std::mem::replace(&mut self.role, Role::None) {
            Role::Publisher(role) => {
                info!(connection = self.id, client = self.client(), stream = %role.key, "publish ended");
                self.record.note_codecs(role.counters.about().codec_names());
                // Commands are small: they are listened for again.
                self.output.borrow_mut().socket().wake_at(1);
                role.feeder.end();
            }
            Role::Player(role) => {
                self.record.note_codecs(role.ticket.counters().about().codec_names());
                let mut output = self.output.borrow_mut();
                let drops = output.drops();
                info!(
                    connection = self.id,
                    client = self.client(),
                    stream = %role.key,
                    dropped_video = drops.video,
                    dropped_audio = drops.audio,
                    skips = drops.skips,
                    "play ended"
                );
                output.stop_playing();
            }
            Role::None => {}
        }
    }

    // ---- writing ----

    fn take_output(&mut self) {
        let mut output = self.output.borrow_mut();
        while let Some(bytes) = self.session.take_output() {
            output.control(bytes);
        }
    }

    /// Writes what the socket takes now; if something is left, comes back when it takes more.
    fn write(&mut self, ctx: &mut Context<Self>) {
        self.take_output();
        let (written, unread, drained) = {
            let mut output = self.output.borrow_mut();
            (output.write(), output.control_bytes(), output.is_drained())
        };
        match written {
            Ok(Progress::Blocked) => self.wait_writable(ctx),
            Ok(Progress::Done) if unread > MAX_CONTROL_BYTES => {
                self.end_now("it asks and does not read the answers", ctx);
            }
            Ok(Progress::Done) if drained => self.linger(ctx),
            Ok(Progress::Done) => {}
            Err(error) => self.end_now(&describe(&error), ctx),
        }
    }

    fn wait_writable(&mut self, ctx: &mut Context<Self>) {
        let output = Rc::clone(&self.output);
        let writable = poll_fn(move |task| output.borrow().poll_writable(task));
        ctx.spawn(writable.into_actor(self).map(|ready, connection, ctx| {
            connection.output.borrow_mut().resume();
            match ready {
                Ok(()) => connection.write(ctx),
                Err(error) => connection.end_now(&describe(&error), ctx),
            }
        }));
    }

    // ---- ending ----

    fn fail(&mut self, error: &SessionError, ctx: &mut Context<Self>) {
        if self.place.is_none() {
            // There will be no closing line; this one is bounded by the log.
            warn!(connection = self.id, client = self.client(), port = %self.port, cause = error.reason(), "{error}");
        }
        self.end(&error.to_string(), ctx);
    }

    /// Ends the session: what is queued is still written, then our side is closed, then the peer has a moment to read it.
    fn end(&mut self, reason: &str, ctx: &mut Context<Self>) {
        if self.ending.is_none() {
            self.part();
            self.ending = Some(Ending { reason: reason.to_owned(), lingering: false });
            self.deadlines.enter(Stage::Closing, self.now());
            // A calm player is looked at too seldom to be held to the time for its goodbye.
            ctx.cancel_future(self.next_tick);
            self.tick_later(ctx);
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
            let mut output = self.output.borrow_mut();
            output.socket().close_notify();
            if output.socket().shut_down().is_err() {
                ctx.stop();
            }
        }
    }

    fn tick_later(&mut self, ctx: &mut Context<Self>) {
        let next = self.deadlines.next_look(self.output.borrow().is_blocked(), &self.times);
        self.next_tick = ctx.run_later(next, Self::tick);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.look(ctx);
        self.tick_later(ctx);
    }

    /// Asks the clock whether this connection is still worth having.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let sight = {
            let mut output = self.output.borrow_mut();
            let in_tls = self.port.tls.is_some() && (!output.socket().is_tls() || output.socket().is_handshaking());
            Sight {
                in_tls,
                received: output.received(),
                written: output.written(),
                waits: output.is_blocked(),
                midway: self.session.is_midway(),
                media: self.media,
            }
        };
        match self.deadlines.check(sight, &self.times, now) {
            Verdict::Fine => {}
            Verdict::Ping => {
                self.session.ping(now.as_millis() as u32);
                self.write(ctx);
            }
            Verdict::Close(reason) if self.ending.is_some() || sight.waits => {
                if sight.waits {
                    // It does not read: what lies in the kernel for it would lie there for minutes.
                    self.output.borrow_mut().socket().reset_on_close();
                }
                self.end_now(&reason.to_string(), ctx);
            }
            Verdict::Close(reason) => self.end(&reason.to_string(), ctx),
        }
        // Metadata that came too fast is handed on when its second has come, also when nothing else comes.
        if matches!(self.role, Role::Publisher(_)) && self.session.receive(&[], now).is_ok() {
            self.go_on(ctx);
        }
        let stream_lives = match &self.role {
            Role::Publisher(role) => role.feeder.is_connected(),
            Role::Player(role) => role.ticket.source().to.connected(),
            Role::None => true,
        };
        if !stream_lives {
            self.end("the stream failed", ctx);
        }
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
            let now = self.house.now().saturating_sub(self.opened).into();
            *first = Some(now);
            milestones.first_data.get_or_insert(now);
        }
    }
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.reads.take() {
            Some(reads) => {
                ctx.add_stream(reads);
                self.tick_later(ctx);
                debug!(connection = self.id, client = self.client(), port = %self.port, "client connected");
            }
            None => ctx.stop(),
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.part();
        let reason = self.ending.take().map_or_else(|| "closed".to_owned(), |ending| ending.reason);
        let lasted = self.now();
        let (sent, received) = (self.output.borrow().written(), self.output.borrow().received());
        self.output.borrow_mut().close();
        self.record.bytes_received = received;
        self.record.bytes_sent = sent;
        self.record.duration = lasted;
        let (id, client) = (self.id, self.client());
        let SessionRecord { app, name, .. } = &*self.record;
        if self.record.milestones.connect.is_some() {
            info!(connection = id, client, app, name, received, sent, seconds = lasted.as_secs(), reason, "disconnect");
        } else {
            // Health checks and port scanners ask for nothing: they are no sessions, and fill no log.
            debug!(connection = id, client, received, sent, reason, "disconnect");
        }
        self.record.reason = reason;
        if let Some(place) = &self.place {
            place.venue.access_log.write(&self.record);
        }
        self.link.set_reason(ExitReason::Stopped);
    }
}

impl Waiter for Connection {
    fn left(&mut self) -> Option<Duration> {
        let now = self.now();
        let Role::Publisher(role) = &mut self.role else { return None };
        let due = role.wakeup.due();
        role.has_patience = due.is_some();
        due.map(|due| due.saturating_sub(now))
    }

    fn stop_waiting(&mut self) {
        if let Role::Publisher(role) = &mut self.role
            && let Some(threshold) = role.wakeup.time_is_up()
        {
            self.output.borrow_mut().socket().wake_at(threshold);
        }
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
            Arrived::Failed(error) => self.end_now(&describe(&error), ctx),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<PlayerNotice> for Connection {
    type Result = ();

    fn handle(&mut self, notice: PlayerNotice, ctx: &mut Self::Context) {
        match notice {
            PlayerNotice::Blocked => {
                self.wait_writable(ctx);
                // From here on its progress is watched closely, and counts from now.
                ctx.cancel_future(self.next_tick);
                self.tick(ctx);
            }
            PlayerNotice::Broken(error) => self.end_now(&describe(&error), ctx),
            PlayerNotice::Ended => {
                let stays = match &self.role {
                    Role::Player(role) => role.venue.application.live_options.idle_streams,
                    _ => true,
                };
                if stays {
                    // Words for each publisher that comes and goes count as replies do: a player must read them.
                    self.write(ctx);
                } else {
                    self.end("the publisher left and idle_streams is off", ctx);
                }
            }
            PlayerNotice::TurnedAway(refusal) => {
                if let Role::Player(role) = &self.role {
                    let msid = role.msid;
                    self.session.refuse_play(msid, refusal.code, &refusal.reason);
                }
                self.end(&format!("play: {}", refusal.reason), ctx);
            }
        }
    }
}

impl Handler<Replaced> for Connection {
    type Result = ();

    fn handle(&mut self, replaced: Replaced, ctx: &mut Self::Context) {
        if let Role::Publisher(role) = &self.role {
            let msid = role.msid;
            let (code, reason) = match replaced {
                Replaced::TakenOver => ("NetStream.Publish.BadName", "another publisher took over".to_owned()),
                Replaced::Expelled(reason) => ("NetStream.Publish.Rejected", reason),
            };
            self.session.status(msid, "error", code, &reason);
            self.end(&reason, ctx);
        }
    }
}

impl Handler<Expelled> for Connection {
    type Result = ();

    fn handle(&mut self, Expelled { reason }: Expelled, ctx: &mut Self::Context) {
        self.expel(&reason, ctx);
    }
}

impl Handler<Order> for Connection {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Self::Context) {
        match order {
            Order::Leave { reason } => self.expel(&reason, ctx),
            Order::GoTo { name } => self.go_to(&name, ctx),
        }
    }
}

impl Connection {
    /// Whoever publishes or plays is told why not any longer.
    fn expel(&mut self, reason: &str, ctx: &mut Context<Self>) {
        match &self.role {
            Role::Publisher(role) => {
                let msid = role.msid;
                self.session.status(msid, "error", "NetStream.Publish.Denied", reason);
            }
            Role::Player(role) => {
                let msid = role.msid;
                self.session.status(msid, "error", "NetStream.Play.Failed", reason);
            }
            // It has left what was spoken of.
            Role::None => return,
        }
        self.end(reason, ctx);
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

/// Media and data, as the stream takes them; anything else comes back.
fn into_media(event: ServerEvent) -> Result<(u32, Incoming), ServerEvent> {
    let (msid, medium, time, body) = match event {
        ServerEvent::Media { msid, video: false, time, payload } => (msid, Medium::Audio, time, payload),
        ServerEvent::Media { msid, video: true, time, payload } => (msid, Medium::Video, time, payload),
        ServerEvent::Metadata { msid, time, payload } => (msid, Medium::Metadata, time, payload),
        ServerEvent::Data { msid, time, payload } => (msid, Medium::Text, time, payload),
        event => return Err(event),
    };
    Ok((msid, Incoming { medium, time, body }))
}

fn describe(error: &io::Error) -> String {
    if is_hang_up(error) { "the peer hung up".to_owned() } else { error.to_string() }
}

/// Replies that may wait for a peer that does not read them.
const MAX_CONTROL_BYTES: usize = 64 * 1024;
