//! An endless format of one stream, made once for all who watch it.
//!
//! It listens to the stream as an audience does, and is listened to as a stream is. What its audiences are sent are pieces
//! of the format; whoever joins begins with those since the latest keyframe.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use actix::prelude::*;

use super::{
    live_stream::gop_limits,
    source::{Deliver, Listen, Source, Subscribers, next_subscriber},
    support::{
        link::{ExitReason, Link},
        route::Route,
    },
};
use crate::{
    config::Live,
    media::{
        gop::{GopCache, GopLimits},
        packet::{Batch, Packet, PacketKind, Track},
    },
    protocol::feed::Endless,
};

pub struct Feed {
    stream: Source,
    /// Under which the stream knows this feed.
    subscriber: u64,
    endless: Box<dyn Endless>,
    cache: GopCache,
    subscribers: Subscribers,
    /// How many they are, for whoever decides whether this feed is still needed.
    audiences: Arc<AtomicU32>,
    /// Something was lost since the last delivery.
    gap: bool,
    /// Subscriber and listener of those who came while it was not known, after a gap, what a joiner is sent first.
    waiting: Vec<(u64, u64)>,
    state: State,
    link: Link,
}

/// Nobody needs this feed any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EndFeed;

/// How far a publish has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody publishes.
    Idle,
    /// Somebody does, and it is not known yet what a joiner is sent first.
    Opening,
    /// The audiences have been told.
    Live,
}

/// A feed that runs.
pub struct Running {
    pub feed: Addr<Feed>,
    /// What listens to it sees of it.
    pub source: Source,
    pub audiences: Arc<AtomicU32>,
}

impl Feed {
    /// Starts a feed on an arbiter. Its own id comes from `link`.
    pub fn open(
        id: u64,
        stream: Source,
        endless: Box<dyn Endless>,
        live: &Live,
        link: Link,
        home: &ArbiterHandle,
    ) -> Running {
        let audiences = Arc::new(AtomicU32::new(0));
        let counters = Arc::clone(&stream.counters);
        let limits = gop_limits(live);
        let feed = Self::start_in_arbiter(home, {
            let audiences = Arc::clone(&audiences);
            move |ctx| {
                ctx.set_mailbox_capacity(MAILBOX);
                Self::new(stream, endless, limits, audiences, link)
            }
        });
        let source = Source { id, to: feed.clone().recipient(), counters };
        Running { feed, source, audiences }
    }

    fn new(
        stream: Source,
        endless: Box<dyn Endless>,
        limits: GopLimits,
        audiences: Arc<AtomicU32>,
        link: Link,
    ) -> Self {
        Self {
            stream,
            subscriber: next_subscriber(),
            endless,
            cache: GopCache::new(limits),
            subscribers: Subscribers::default(),
            audiences,
            gap: false,
            waiting: Vec::new(),
            state: State::Idle,
            link,
        }
    }

    /// Makes pieces of the stream's next packets, and hands them to everybody.
    fn take(&mut self, packets: &[Packet]) {
        let pieces = self.endless.batch(packets);
        pieces.iter().for_each(|piece| self.cache.push(piece));
        match self.state {
            State::Idle => {}
            // The pieces are in the burst.
            State::Opening if self.endless.header().is_some() => {
                self.state = State::Live;
                self.gap = false;
                self.subscribers.tell(&Deliver::Begin { listener: None, burst: self.burst() });
            }
            State::Opening => {}
            State::Live if pieces.is_empty() => {}
            State::Live => {
                let gap = std::mem::take(&mut self.gap);
                self.subscribers.deliver(&Batch::new(pieces), gap, &self.stream.counters);
                for (subscriber, listener) in std::mem::take(&mut self.waiting) {
                    self.catch_up(subscriber, listener);
                }
            }
        }
    }

    /// Tells a subscriber what its new listener is sent first, as soon as that is known.
    fn catch_up(&mut self, subscriber: u64, listener: u64) {
        match self.state {
            State::Live if self.endless.header().is_some() => {
                self.subscribers.begin(subscriber, listener, || self.burst());
            }
            State::Live => self.waiting.push((subscriber, listener)),
            State::Idle | State::Opening => {} // told with everybody else, when there is something
        }
    }

    /// What somebody who joins now is sent first.
    fn burst(&self) -> Arc<[Packet]> {
        // A format that repeats its header among the pieces has it in the cache, and the newest there.
        let header = self.endless.header().filter(|header| !header.is_empty() && self.cache.configs().next().is_none());
        let first_ms = self.cache.packets().next().map_or(0, Packet::time_ms);
        let header = header.map(|header| Packet::new(Track::Video, PacketKind::Config, first_ms, header));
        header.into_iter().chain(self.cache.burst().cloned()).collect()
    }

    fn begin_anew(&mut self, state: State) {
        self.endless.restart();
        self.cache.clear();
        self.gap = false;
        if state != State::Live {
            self.waiting.clear(); // they are told with everybody else
        }
        self.state = state;
    }
}

/// Tells this feed from every other source: streams count from 1.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 63);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Actor for Feed {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let to = ctx.address().recipient();
        // Once in the life of a feed, as an audience does.
        self.stream.to.do_send(Listen::Join { subscriber: self.subscriber, to, wants: Some(Route::default()) });
        self.stream.to.do_send(Listen::CatchUp { subscriber: self.subscriber, listener: 0 });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.link.set_reason(ExitReason::Stopped);
    }
}

/// However it ends, the stream must let go of it.
impl Drop for Feed {
    fn drop(&mut self) {
        self.stream.to.do_send(Listen::Leave { subscriber: self.subscriber });
    }
}

impl Handler<Deliver> for Feed {
    type Result = ();

    fn handle(&mut self, message: Deliver, _: &mut Self::Context) {
        match message {
            Deliver::Begin { burst, .. } => {
                self.begin_anew(State::Opening);
                self.take(&burst);
            }
            Deliver::Media { batch, gap } => {
                if gap {
                    // What is kept does not go on, either.
                    self.begin_anew(self.state);
                    self.gap = self.state == State::Live;
                }
                self.take(batch.packets());
            }
            Deliver::End => {
                self.begin_anew(State::Idle);
                self.subscribers.tell(&Deliver::End);
            }
            turned_away @ Deliver::TurnedAway(_) => self.subscribers.tell(&turned_away),
        }
    }
}

impl Handler<Listen> for Feed {
    type Result = ();

    fn handle(&mut self, listen: Listen, _: &mut Self::Context) {
        match listen {
            Listen::Join { subscriber, to, wants } => self.subscribers.join(subscriber, to, wants),
            // A feed wants its stream whoever watches.
            Listen::Wants { .. } => {}
            Listen::CatchUp { subscriber, listener } => self.catch_up(subscriber, listener),
            Listen::Leave { subscriber } => self.subscribers.leave(subscriber),
        }
        self.audiences.store(self.subscribers.len() as u32, Ordering::Relaxed);
    }
}

impl Handler<EndFeed> for Feed {
    type Result = ();

    fn handle(&mut self, _: EndFeed, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// Deliveries that may wait while the arbiter is busy: about two seconds of a stream.
const MAILBOX: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use smallvec::SmallVec;
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::actors::support::link::Exited;

    /// Keeps what it is told: subscribers, and who hears of exits.
    struct Probe<M: Message<Result = ()> + Send>(mpsc::Sender<M>)
    where
        M: Unpin + 'static;
    impl<M: Message<Result = ()> + Send + Unpin + 'static> Actor for Probe<M> {
        type Context = Context<Self>;
    }
    impl Handler<Deliver> for Probe<Deliver> {
        type Result = ();
        fn handle(&mut self, message: Deliver, _: &mut Self::Context) {
            self.0.try_send(message).expect("tests read what they cause");
        }
    }
    impl Handler<Listen> for Probe<Listen> {
        type Result = ();
        fn handle(&mut self, message: Listen, _: &mut Self::Context) {
            self.0.try_send(message).expect("tests read what they cause");
        }
    }
    impl Handler<Exited> for Probe<Exited> {
        type Result = ();
        fn handle(&mut self, message: Exited, _: &mut Self::Context) {
            self.0.try_send(message).expect("tests read what they cause");
        }
    }

    fn probe<M: Message<Result = ()> + Send + Unpin + 'static>() -> (Addr<Probe<M>>, mpsc::Receiver<M>) {
        let (to, seen) = mpsc::channel(100);
        (Probe(to).start(), seen)
    }

    /// A format that marks what it was given, and knows its header once a configuration has come.
    #[derive(Default)]
    struct Marked {
        restarts: u8,
        config: Option<Bytes>,
    }

    impl Endless for Marked {
        fn content_type(&self) -> &'static str {
            "test/marked"
        }

        fn header(&self) -> Option<Bytes> {
            self.config.clone()
        }

        fn batch(&mut self, packets: &[Packet]) -> SmallVec<[Packet; 4]> {
            if let Some(config) = packets.iter().find(|packet| packet.is_config()) {
                self.config = Some(config.payload().clone());
            }
            let frames = packets.iter().filter(|packet| packet.is_frame());
            frames
                .map(|frame| {
                    let marked = [&[self.restarts], &frame.payload()[..]].concat();
                    Packet::new(frame.track(), frame.kind(), frame.time_ms(), marked.into())
                })
                .collect()
        }

        fn restart(&mut self) {
            self.restarts += 1;
            self.config = None;
        }
    }

    struct Scene {
        running: Running,
        /// What the stream is told.
        asked: mpsc::Receiver<Listen>,
        exits: mpsc::Receiver<Exited>,
    }

    impl Scene {
        fn new() -> Self {
            let (stream, asked) = probe::<Listen>();
            let (parent, exits) = probe::<Exited>();
            let source = Source { id: 1, to: stream.recipient(), counters: Arc::default() };
            let link = Link::new(9, parent.recipient());
            let home = Arbiter::current();
            let running = Feed::open(9, source, Box::<Marked>::default(), &Live::default(), link, &home);
            Self { running, asked, exits }
        }

        async fn tell(&self, message: Deliver) {
            self.running.feed.send(message).await.expect("the feed lives");
        }

        async fn join(&self, id: u64) -> mpsc::Receiver<Deliver> {
            let (probe, seen) = probe::<Deliver>();
            let to = &self.running.source.to;
            to.send(Listen::Join { subscriber: id, to: probe.recipient(), wants: None }).await.expect("the feed lives");
            to.send(Listen::CatchUp { subscriber: id, listener: 5 }).await.expect("the feed lives");
            seen
        }
    }

    fn packet(kind: PacketKind, time_ms: i64, body: &'static [u8]) -> Packet {
        Packet::new(Track::Video, kind, time_ms, Bytes::from_static(body))
    }

    fn begin(burst: &[Packet]) -> Deliver {
        Deliver::Begin { listener: Some(0), burst: burst.into() }
    }

    fn media(packets: &[Packet], gap: bool) -> Deliver {
        Deliver::Media { batch: Batch::new(packets.iter().cloned().collect()), gap }
    }

    async fn next<M>(seen: &mut mpsc::Receiver<M>) -> M {
        timeout(Duration::from_secs(5), seen.recv()).await.expect("in time").expect("somebody tells")
    }

    /// What a subscriber is told, in letters.
    async fn told(seen: &mut mpsc::Receiver<Deliver>) -> (&'static str, Vec<Vec<u8>>) {
        let bodies = |packets: &[Packet]| packets.iter().map(|packet| packet.payload().to_vec()).collect();
        match next(seen).await {
            Deliver::Begin { listener: Some(_), burst } => ("begin one", bodies(&burst)),
            Deliver::Begin { listener: None, burst } => ("begin", bodies(&burst)),
            Deliver::Media { gap: true, batch } => ("gap", bodies(batch.packets())),
            Deliver::Media { batch, .. } => ("media", bodies(batch.packets())),
            Deliver::End => ("end", Vec::new()),
            Deliver::TurnedAway(_) => ("turned away", Vec::new()),
        }
    }

    #[actix::test]
    async fn a_joiner_begins_with_the_header_and_the_pieces_since_the_keyframe() {
        let scene = Scene::new();
        scene.tell(begin(&[packet(PacketKind::Config, 0, b"head"), packet(PacketKind::Key, 0, b"k")])).await;
        scene.tell(media(&[packet(PacketKind::Inter, 40, b"i")], false)).await;
        let mut late = scene.join(7).await;
        let first = vec![b"head".to_vec(), b"\x01k".to_vec(), b"\x01i".to_vec()];
        assert_eq!(told(&mut late).await, ("begin one", first));
        scene.tell(media(&[packet(PacketKind::Inter, 80, b"j")], false)).await;
        assert_eq!(told(&mut late).await, ("media", vec![b"\x01j".to_vec()]));
        assert_eq!(scene.running.audiences.load(Ordering::Relaxed), 1);
    }

    #[actix::test]
    async fn nobody_begins_before_the_header_is_known() {
        let scene = Scene::new();
        scene.tell(begin(&[])).await;
        let mut early = scene.join(7).await;
        scene.tell(media(&[packet(PacketKind::Inter, 0, b"x")], false)).await;
        scene.tell(media(&[packet(PacketKind::Config, 40, b"head"), packet(PacketKind::Key, 40, b"k")], false)).await;
        assert_eq!(told(&mut early).await, ("begin", vec![b"head".to_vec(), b"\x01k".to_vec()]));
    }

    #[actix::test]
    async fn a_new_publisher_and_a_gap_begin_anew() {
        let scene = Scene::new();
        let mut viewer = scene.join(7).await;
        let publish = [packet(PacketKind::Config, 0, b"head"), packet(PacketKind::Key, 0, b"k")];
        scene.tell(begin(&publish)).await;
        scene.tell(media(&[packet(PacketKind::Key, 40, b"g")], true)).await;
        scene.tell(Deliver::End).await;
        scene.tell(begin(&publish)).await;
        assert_eq!(told(&mut viewer).await.0, "begin");
        assert_eq!(told(&mut viewer).await, ("gap", vec![b"\x02g".to_vec()]));
        assert_eq!(told(&mut viewer).await.0, "end");
        assert_eq!(told(&mut viewer).await, ("begin", vec![b"head".to_vec(), b"\x04k".to_vec()]));
    }

    #[actix::test]
    async fn who_comes_after_a_gap_waits_for_the_header_too() {
        let scene = Scene::new();
        scene.tell(begin(&[packet(PacketKind::Config, 0, b"head"), packet(PacketKind::Key, 0, b"k")])).await;
        scene.tell(media(&[packet(PacketKind::Inter, 40, b"i")], true)).await;
        let mut late = scene.join(7).await;
        scene.tell(media(&[packet(PacketKind::Config, 80, b"head"), packet(PacketKind::Key, 80, b"l")], false)).await;
        assert_eq!(told(&mut late).await, ("media", vec![b"\x02l".to_vec()]));
        assert_eq!(told(&mut late).await, ("begin one", vec![b"head".to_vec(), b"\x02l".to_vec()]));
    }

    #[actix::test]
    async fn it_leaves_the_stream_when_it_ends_and_its_exit_is_reported() {
        let mut scene = Scene::new();
        let Listen::Join { subscriber, .. } = next(&mut scene.asked).await else { panic!("it joins first") };
        scene.running.feed.do_send(EndFeed);
        assert!(matches!(next(&mut scene.asked).await, Listen::CatchUp { .. }));
        assert!(matches!(next(&mut scene.asked).await, Listen::Leave { subscriber: left } if left == subscriber));
        assert_eq!(next(&mut scene.exits).await.id, 9);
    }
}
