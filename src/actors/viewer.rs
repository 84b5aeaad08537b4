//! One viewer over HTTP whose answer never ends: decides how long it is worth having.
//!
//! It takes a seat in the audience of what it watches, on the thread of its connection. The audience queues for it, its
//! answer takes out what waits, and the actor does what is not media: deadlines, the end, the lines in the logs.

use std::{cell::RefCell, rc::Rc, sync::Arc, task::Poll, time::Duration};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::info;

use super::{
    audience::{self, PlayerNotice, Seat, Ticket},
    children::Attendance,
    gate::{self, Admitted, PlayWish},
    hooks::{Debt, Expelled},
    house::{House, Venue},
    router::{OpenStream, Purpose},
    source::Source,
    support::{
        body::{Body, BrokenOff, Form, SharedBody},
        counters::{Protocol, StreamCounters},
        deadlines::{Deadlines, Sight, Stage, Times, Verdict},
        facts::SessionFacts,
        hang_up::HangUp,
        kernel::Kernel,
        roll::{self, ClientRole, Enrolled, Order, Tap, Who, without_query},
        route::Route,
        viewers::{Entered, Entry},
    },
};
use crate::{log::access::SessionRecord, media::key::StreamKey};

pub struct Viewer {
    house: Arc<House>,
    venue: Arc<Venue>,
    key: StreamKey,
    protocol: Protocol,
    opened: Duration,
    body: SharedBody,
    counters: Arc<StreamCounters>,
    /// Dropped once nothing more is to come.
    ticket: Option<Ticket>,
    deadlines: Deadlines,
    times: Times,
    next_tick: SpawnHandle,
    /// Its answer is gone once the other end is.
    answer: Option<oneshot::Receiver<()>>,
    hang_up: Option<HangUp>,
    reason: Option<String>,
    is_relay: bool,
    record: Box<SessionRecord>,
    attendance: Option<Attendance>,
    enrolled: Option<Enrolled>,
    _entered: Entered,
    /// What hooks are owed when it leaves.
    debts: Vec<Debt>,
    /// Its number among all clients.
    id: u64,
    kernel: Option<Rc<dyn Fn() -> Option<Kernel>>>,
}

/// Somebody who may watch, and what.
pub struct Visit {
    pub house: Arc<House>,
    pub venue: Arc<Venue>,
    pub key: StreamKey,
    pub source: Source,
    pub protocol: Protocol,
    pub form: Form,
    /// What is known of the request.
    pub record: SessionRecord,
    /// The way it came, where it is a relay.
    pub route: Route,
    /// Ends the connection when its peer does not read.
    pub hang_up: Option<HangUp>,
    /// Asks the kernel about the connection.
    pub kernel: Option<Rc<dyn Fn() -> Option<Kernel>>>,
    pub debts: Vec<Debt>,
}

/// The answer's end of a viewer. The viewer is gone once this is dropped.
pub struct Watching {
    body: SharedBody,
    _answer: oneshot::Sender<()>,
}

/// The viewer is to go: its answer ends as a whole one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Dismiss {
    pub reason: &'static str,
}

impl Watching {
    /// The next bytes of the answer; none at its end.
    pub fn poll_bytes(&mut self, task: &mut std::task::Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        self.body.borrow_mut().poll_bytes(task)
    }
}

impl Viewer {
    /// Lets somebody watch. To be called on the thread that serves the connection.
    pub fn begin(visit: Visit) -> Watching {
        let Visit { house, venue, key, source, protocol, form, record, route, hang_up, kernel, mut debts } = visit;
        let rules = venue.queue_rules();
        let body = Rc::new(RefCell::new(Body::new(form, rules)));
        let (here, answer) = oneshot::channel();
        let is_relay = !route.is_empty();
        // Several answers may share a connection of HTTP/2.
        let is_taken = record.connection == 0 || roll::has(record.connection);
        let id = if is_taken { house.next_connection() } else { record.connection };
        Self::create(|ctx| {
            let entered = house.viewers.enter(Entry {
                key: key.clone(),
                protocol,
                remote: record.remote,
                to: ctx.address().recipient(),
            });
            let facts = || SessionFacts::of(&record, "", &route);
            let attendance = Attendance::begin(&house, &venue, &key, facts);
            let mut seat = Seat::http(protocol, Rc::clone(&body), ctx.address().recipient());
            seat.route = route;
            for debt in &mut debts {
                debt.begin(&source.counters, || ctx.address().recipient());
            }
            Self {
                opened: house.now(),
                body: Rc::clone(&body),
                counters: Arc::clone(&source.counters),
                ticket: Some(audience::join(&source, seat)),
                deadlines: Deadlines::new(Duration::ZERO),
                // There is no ping in an answer; whoever is gone without a word is found out by its kernel.
                times: Times { ping: Duration::ZERO, ..*venue.times },
                next_tick: SpawnHandle::default(),
                answer: Some(answer),
                hang_up,
                reason: None,
                is_relay,
                record: Box::new(record),
                attendance,
                enrolled: None,
                _entered: entered,
                debts,
                id,
                kernel,
                house,
                venue,
                key,
                protocol,
            }
        });
        Watching { body, _answer: here }
    }

    fn now(&self) -> Duration {
        self.house.now().saturating_sub(self.opened)
    }

    fn client(&self) -> String {
        self.record.remote.map_or_else(|| "unix:".to_owned(), |peer| peer.to_string())
    }

    /// Puts it on the roll of this arbiter, with what it watches now.
    fn enrol(&mut self, ctx: &Context<Self>) {
        let record = &self.record;
        let who = Who {
            id: self.id,
            role: ClientRole::Player,
            protocol: self.protocol.name(),
            key: self.key.clone(),
            address: record.remote,
            agent: record.flash_ver.clone(),
            page_url: without_query(&record.page_url),
            swf_url: String::new(),
            tc_url: record.tc_url.clone(),
            connected: self.opened,
            began: self.house.now(),
            is_relay: self.is_relay,
        };
        let tap = Tap::Body(Rc::clone(&self.body), self.kernel.clone());
        self.enrolled = Some(roll::enter(who, tap, ctx.address().recipient()));
    }

    /// An operator sends it to another name: rules and hooks are asked as if it came anew, and its answer goes on.
    fn go_to(&mut self, name: &str, ctx: &mut Context<Self>) {
        let (house, venue) = (Arc::clone(&self.house), Arc::clone(&self.venue));
        let (name, args) = name.split_once('?').unwrap_or((name, &self.record.args));
        let key = StreamKey::parse(&self.key.vhost, &self.key.app, name);
        self.record.name = name.to_owned();
        self.record.args = args.to_owned();
        let facts = Arc::new(SessionFacts::of(&self.record, "", &Route::default()));
        let asked = async move {
            let mut key = key.map_err(|error| error.to_string())?;
            let peer = facts.address.map(|peer| peer.ip());
            house.bans.check(ClientRole::Player, peer, &key, house.now()).map_err(|banned| banned.to_string())?;
            let mut admitted = Admitted::default();
            let mut purpose = Purpose::Play;
            if gate::minds_players(&venue) {
                let allowed = gate::play(&house, &venue, Arc::clone(&facts), PlayWish::default()).await;
                admitted = allowed.map_err(|denied| denied.to_string())?;
                key = admitted.key(key).map_err(|error| error.to_string())?;
                if let Some(named) = admitted.relay.take() {
                    gate::pull_from(&house, &key, &facts, named);
                    purpose = Purpose::PlayFetched;
                }
            }
            let (rules, home) = (Arc::clone(&venue.rules), Arbiter::current());
            let open = OpenStream { key: key.clone(), rules, purpose, home };
            let opened = house.router.send(open).await.map_err(|_| "the server is ending".to_owned())?;
            Ok((key, opened.map_err(|error| error.to_string())?, admitted.debt))
        };
        ctx.spawn(asked.into_actor(self).map(|asked: Result<_, String>, viewer, ctx| match asked {
            Ok((key, opened, mut debt)) => {
                info!(connection = viewer.record.connection, client = viewer.client(), stream = %key, "sent on");
                viewer.ticket = None;
                viewer.body.borrow_mut().change_stream();
                debt.begin(&opened.counters, || ctx.address().recipient());
                // That of the play before is paid now; that of the connection stands behind it, and is not due.
                if let Some(play) = viewer.debts.first_mut().filter(|_| gate::minds_players(&viewer.venue)) {
                    *play = debt;
                }
                let facts = || SessionFacts::of(&viewer.record, "", &Route::default());
                viewer.attendance = Attendance::begin(&viewer.house, &viewer.venue, &key, facts);
                viewer.key = key;
                viewer.counters = Arc::clone(&opened.counters);
                let seat = Seat::http(viewer.protocol, Rc::clone(&viewer.body), ctx.address().recipient());
                viewer.ticket = Some(audience::join(&opened.source(), seat));
                viewer.enrol(ctx);
            }
            Err(reason) => viewer.finish(&format!("sent elsewhere: {reason}")),
        }));
    }

    /// What waits is still sent, then the answer ends as a whole one.
    fn finish(&mut self, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
        self.ticket = None;
        self.body.borrow_mut().finish();
    }

    /// The answer ends here and now, and its viewer sees that it is not a whole one.
    fn break_off(&mut self, reason: &str, ctx: &mut Context<Self>) {
        self.reason.get_or_insert_with(|| reason.to_owned());
        self.ticket = None;
        let is_blocked = self.body.borrow().is_blocked();
        self.body.borrow_mut().break_off();
        if let (true, Some(hang_up)) = (is_blocked, &self.hang_up) {
            hang_up.now();
        }
        ctx.stop();
    }

    fn tick_later(&mut self, ctx: &mut Context<Self>) {
        let next = self.deadlines.next_look(self.body.borrow().is_blocked(), &self.times);
        self.next_tick = ctx.run_later(next, |viewer, ctx| {
            viewer.look(ctx);
            viewer.tick_later(ctx);
        });
    }

    /// Asks the clock whether this viewer is still worth having.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let sight = {
            let body = self.body.borrow();
            Sight { written: body.taken(), waits: body.is_blocked(), ..Sight::default() }
        };
        match self.deadlines.check(sight, &self.times, now) {
            Verdict::Close(reason) => self.break_off(&reason.to_string(), ctx),
            Verdict::Fine | Verdict::Ping => {}
        }
        if self.ticket.as_ref().is_some_and(|ticket| !ticket.source().to.connected()) {
            self.break_off("the stream failed", ctx);
        }
    }
}

impl Actor for Viewer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (connection, protocol) = (self.record.connection, self.protocol.name());
        info!(connection, client = self.client(), stream = %self.key, protocol, "playing");
        let now = self.now();
        self.deadlines.enter(Stage::Playing, now);
        self.enrol(ctx);
        self.tick_later(ctx);
        if let Some(answer) = self.answer.take() {
            ctx.spawn(answer.into_actor(self).map(|_, viewer, ctx| {
                viewer.reason.get_or_insert_with(|| "the viewer left".to_owned());
                ctx.stop();
            }));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.ticket = None;
        let lasted = self.now();
        let (sent, drops) = {
            let body = self.body.borrow();
            (body.taken(), body.drops())
        };
        let reason = self.reason.take().unwrap_or_else(|| "closed".to_owned());
        info!(
            connection = self.record.connection,
            client = self.client(),
            stream = %self.key,
            protocol = self.protocol.name(),
            sent,
            seconds = lasted.as_secs(),
            dropped_video = drops.video,
            dropped_audio = drops.audio,
            skips = drops.skips,
            reason,
            "play ended"
        );
        let record = &mut self.record;
        record.note_codecs(self.counters.about().codec_names());
        record.protocol = self.protocol.name();
        record.played = true;
        record.bytes_sent = sent;
        record.duration = lasted;
        record.reason = reason;
        self.venue.access_log.write(record);
    }
}

impl Handler<PlayerNotice> for Viewer {
    type Result = ();

    fn handle(&mut self, notice: PlayerNotice, ctx: &mut Self::Context) {
        match notice {
            // There are no words for it in an answer. A relay must know, or it would keep its players for nothing.
            PlayerNotice::Ended if self.is_relay => self.finish("the publisher left"),
            PlayerNotice::Ended if self.venue.application.live_options.idle_streams => {}
            PlayerNotice::Ended => self.finish("the publisher left and idle_streams is off"),
            PlayerNotice::TurnedAway(refusal) => self.finish(&refusal.reason),
            PlayerNotice::Broken(error) => self.break_off(&error.to_string(), ctx),
            PlayerNotice::Blocked => {} // said of sockets only
        }
    }
}

impl Handler<Dismiss> for Viewer {
    type Result = ();

    fn handle(&mut self, Dismiss { reason }: Dismiss, ctx: &mut Self::Context) {
        self.finish(reason);
        ctx.run_later(LAST_WORDS, |viewer, ctx| viewer.break_off("it did not read the end", ctx));
    }
}

impl Handler<Order> for Viewer {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Self::Context) {
        match order {
            Order::Leave { reason } => ctx.notify(Expelled { reason: reason.to_string() }),
            Order::GoTo { name } => self.go_to(&name, ctx),
        }
    }
}

impl Handler<Expelled> for Viewer {
    type Result = ();

    fn handle(&mut self, Expelled { reason }: Expelled, ctx: &mut Self::Context) {
        self.finish(&reason);
        ctx.run_later(LAST_WORDS, |viewer, ctx| viewer.break_off("it did not read the end", ctx));
    }
}

/// How long a viewer that was sent away has to read the end of its answer.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        actors::{
            live_stream::{EndPublish, Incoming, Ingest, Medium, Publish, Replaced, StreamEvents},
            router::{OpenStream, Opened, Purpose, Router},
            support::{census::Census, directory::Directory, facts::SessionFacts},
        },
        config::{BuiltIn, Config, Live},
        log::access::AccessLogFiles,
        protocol::flv::stream::Tracks,
    };

    struct Publisher;
    impl Actor for Publisher {
        type Context = Context<Self>;
    }
    impl Handler<Replaced> for Publisher {
        type Result = ();
        fn handle(&mut self, _: Replaced, _: &mut Self::Context) {}
    }

    /// A server of one application, and a stream in it.
    struct Scene {
        house: Arc<House>,
        venue: Arc<Venue>,
        key: StreamKey,
        opened: Opened,
        session: u64,
    }

    impl Scene {
        async fn new(live: Live) -> Self {
            let mut config = Config::built_in(BuiltIn::default());
            let server = Arc::make_mut(config.servers.first_mut().expect("the built-in one"));
            let application = server.applications.first_mut().expect("the built-in one");
            Arc::make_mut(application).live_options = live;
            let server = Arc::clone(&config.servers[0]);
            let directory = Directory::default();
            let (alive, _) = oneshot::channel();
            let router = Router::new(config.limits.clone(), directory.clone(), StreamEvents::default(), alive).start();
            let census = Census::new(config.limits.clone(), 100);
            config.servers.iter_mut().for_each(|server| Arc::make_mut(server).access_log.clear());
            let logs = AccessLogFiles::open(&Config { servers: Vec::new(), ..config.clone() }, None)
                .expect("there is nothing to open")
                .start()
                .expect("there is nothing to start");
            config.servers = vec![Arc::clone(&server)];
            let house = Arc::new(House::new(router, census, directory, &config, &logs, 1));
            let venue = house.venue(&server, "live").expect("the built-in one");
            let key = StreamKey::parse("default", "live", "name").expect("a good name");
            let open = OpenStream {
                key: key.clone(),
                rules: Arc::clone(&venue.rules),
                purpose: Purpose::Publish,
                home: Arbiter::current(),
            };
            let opened = house.router.send(open).await.expect("the router lives").expect("there is room");
            let mut scene = Self { house, venue, key, opened, session: 0 };
            scene.publish().await;
            scene
        }

        async fn publish(&mut self) {
            self.session += 1;
            let to = Publisher.start().recipient();
            let facts = Arc::new(SessionFacts { id: self.session, ..SessionFacts::default() });
            let asked = Publish { facts, to };
            self.opened.stream.send(asked).await.expect("the stream lives").expect("the name is free");
            self.send(&[CONFIG, KEY]).await;
        }

        async fn send(&self, bodies: &[&'static [u8]]) {
            let messages = bodies
                .iter()
                .map(|body| Incoming { medium: Medium::Video, time: 0, body: Bytes::from_static(body) })
                .collect();
            self.opened.stream.send(Ingest { session: self.session, messages }).await.expect("the stream lives");
        }

        async fn end_publish(&self) {
            self.opened.stream.send(EndPublish { session: self.session }).await.expect("the stream lives");
        }

        fn watch(&self, hang_up: Option<HangUp>) -> Watching {
            self.watch_as(Form::flv(Tracks { audio: false, video: true }, false), hang_up)
        }

        fn watch_as(&self, form: Form, hang_up: Option<HangUp>) -> Watching {
            Viewer::begin(Visit {
                house: Arc::clone(&self.house),
                venue: Arc::clone(&self.venue),
                key: self.key.clone(),
                source: self.opened.source(),
                protocol: Protocol::HttpFlv,
                form,
                record: SessionRecord::default(),
                route: Route::default(),
                hang_up,
                kernel: None,
                debts: Vec::new(),
            })
        }

        fn viewers(&self) -> u32 {
            self.opened.counters.players.of(Protocol::HttpFlv)
        }

        async fn until_nobody_is_left(&self) {
            self.house.viewers.gone().await;
            assert_eq!(self.viewers(), 0);
        }
    }

    async fn next(watching: &mut Watching) -> Option<Result<Bytes, BrokenOff>> {
        poll_fn(|task| watching.poll_bytes(task)).await
    }

    /// The next piece, which must be there.
    async fn piece(watching: &mut Watching) -> Bytes {
        next(watching).await.expect("the answer goes on").expect("it is not broken off")
    }

    fn count(bytes: &[u8], part: &[u8]) -> usize {
        bytes.windows(part.len()).filter(|window| *window == part).count()
    }

    const CONFIG: &[u8] = &[0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xFF, 0xE0, 0];
    const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65];
    const INTER: &[u8] = &[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41];

    #[actix::test]
    async fn a_viewer_is_counted_while_its_answer_lasts() {
        let scene = Scene::new(Live::default()).await;
        let mut watching = scene.watch(None);
        let first = piece(&mut watching).await;
        assert_eq!((&first[..5], count(&first, CONFIG), count(&first, KEY)), (&b"FLV\x01\x01"[..], 1, 1));
        assert_eq!((scene.viewers(), scene.house.viewers.len()), (1, 1));
        drop(watching);
        scene.until_nobody_is_left().await;
    }

    #[actix::test]
    async fn viewers_share_the_bytes_of_a_frame() {
        let scene = Scene::new(Live::default()).await;
        let watch = || scene.watch_as(Form::Ready, None);
        let (mut one, mut other) = (watch(), watch());
        piece(&mut one).await;
        piece(&mut other).await;
        scene.send(&[INTER]).await;
        assert_eq!(piece(&mut one).await.as_ptr(), piece(&mut other).await.as_ptr());
    }

    #[actix::test]
    async fn a_viewer_that_takes_nothing_is_hung_up_on_and_nobody_else_notices() {
        tokio::time::pause();
        let scene = Scene::new(Live::default()).await;
        let hang_up = HangUp::default();
        let stuck = scene.watch(Some(hang_up.clone()));
        let mut well = scene.watch(None);
        piece(&mut well).await;
        let (done, mut over) = mpsc::channel::<()>(1);
        actix::spawn(async move {
            hang_up.asked().await;
            drop((stuck, done));
        });
        let began = tokio::time::Instant::now();
        let frames = async {
            loop {
                scene.send(&[INTER]).await;
                assert_eq!(count(&piece(&mut well).await, INTER), 1);
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            _ = over.recv() => {}
            () = frames => {}
        }
        let after = began.elapsed().as_secs();
        assert!((15..=21).contains(&after), "after {after} s");
        assert_eq!(scene.viewers(), 1);
    }

    #[actix::test]
    async fn a_viewer_stays_for_the_next_publisher_and_is_sent_its_headers() {
        let mut scene = Scene::new(Live::default()).await;
        let mut watching = scene.watch(None);
        piece(&mut watching).await;
        scene.end_publish().await;
        scene.publish().await;
        let mut seen = Vec::new();
        while count(&seen, KEY) == 0 {
            seen.extend_from_slice(&piece(&mut watching).await);
        }
        assert_eq!((count(&seen, CONFIG), count(&seen, b"FLV")), (1, 0));
    }

    #[actix::test]
    async fn without_idle_streams_the_publisher_takes_its_viewers_along() {
        let scene = Scene::new(Live { idle_streams: false, ..Live::default() }).await;
        let mut watching = scene.watch(None);
        piece(&mut watching).await;
        scene.send(&[INTER]).await;
        scene.end_publish().await;
        assert_eq!(count(&piece(&mut watching).await, INTER), 1, "what came before the end is sent");
        assert!(next(&mut watching).await.is_none(), "a whole answer");
        drop(watching);
        scene.until_nobody_is_left().await;
    }

    #[actix::test]
    async fn a_viewer_can_be_sent_away() {
        let scene = Scene::new(Live::default()).await;
        let (mut watching, mut stays) = (scene.watch(None), scene.watch(None));
        piece(&mut watching).await;
        piece(&mut stays).await;
        assert_eq!(scene.house.viewers.dismiss("enough", |entry| entry.protocol == Protocol::WsFlv), 0);
        assert_eq!(scene.house.viewers.dismiss("enough", |entry| &*entry.key.name == "name"), 2);
        assert!(next(&mut watching).await.is_none());
        drop((watching, stays));
        scene.until_nobody_is_left().await;
    }
}
