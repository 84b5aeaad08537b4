//! Which outputs a stream has: starts them when somebody asks, ends them when nobody does any more.
//!
//! Control plane, as the router is: no frame passes through here. It waits for the router, and for nobody else.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use tokio::time::Instant;
use tracing::{debug, error};

use super::{
    feed::{self, EndFeed, Feed},
    house::{House, Venue},
    live_stream::StreamEvent,
    router::{NoStream, OpenStream, Opened, Purpose},
    segments::{Files, published},
    source::Source,
    support::{
        counters::Protocol,
        link::{ExitReason, Exited, Link},
        snapshot::OutputNow,
    },
};
use crate::{
    media::key::StreamKey,
    protocol::{
        feed::Endless,
        mp4::feed::Mp4Feed,
        ts::{feed::TsFeed, muxer::TsRules},
    },
};

pub struct Outputs {
    house: Arc<House>,
    /// Where outputs live, in turn.
    homes: Vec<ArbiterHandle>,
    next_home: usize,
    feeds: HashMap<(StreamKey, Endlessly), KnownFeed>,
    files: Files,
}

/// An output that is wanted of a stream, made if it is not there yet.
#[derive(Message)]
#[rtype(result = "Result<OutputHandle, NoStream>")]
pub struct OpenOutput {
    pub key: StreamKey,
    pub venue: Arc<Venue>,
    pub kind: OutputKind,
}

/// What is made of which stream, beside what lies on the shelf.
#[derive(Message)]
#[rtype(result = "Vec<(StreamKey, OutputNow)>")]
pub struct ListOutputs;

/// What is made of a stream for those who watch over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputKind {
    Endless(Endlessly),
}

/// The formats without an end that are made once for all who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endlessly {
    Ts,
    Mp4,
}

/// An output that runs. Whoever has asked for it should use it at once: one that nobody uses ends after a while.
#[derive(Clone)]
pub enum OutputHandle {
    Feed(Source),
}

/// A feed as it is known here.
struct KnownFeed {
    /// Its own id.
    id: u64,
    /// The stream it is made of.
    stream: u64,
    feed: Addr<Feed>,
    source: Source,
    audiences: Arc<AtomicU32>,
    /// When somebody last asked for it.
    asked: Instant,
}

impl Outputs {
    /// `homes` are the arbiters on which outputs live.
    pub fn new(house: Arc<House>, homes: Vec<ArbiterHandle>) -> Self {
        Self { house, homes, next_home: 0, feeds: HashMap::new(), files: Files::default() }
    }

    fn home(&mut self) -> ArbiterHandle {
        self.next_home = self.next_home.wrapping_add(1);
        let home = self.next_home.checked_rem(self.homes.len()).and_then(|at| self.homes.get(at));
        home.cloned().unwrap_or_else(Arbiter::current)
    }

    /// The output of a stream that is there.
    fn open(&mut self, asked: OpenOutput, opened: &Opened, ctx: &Context<Self>) -> Result<OutputHandle, NoStream> {
        match asked.kind {
            OutputKind::Endless(kind) => Ok(OutputHandle::Feed(self.feed(asked, kind, opened, ctx))),
        }
    }

    fn feed(&mut self, asked: OpenOutput, kind: Endlessly, opened: &Opened, ctx: &Context<Self>) -> Source {
        let name = (asked.key, kind);
        let known = self.feeds.get_mut(&name).filter(|known| known.stream == opened.id() && known.feed.connected());
        if let Some(known) = known {
            known.asked = Instant::now();
            return known.source.clone();
        }
        let id = feed::next_id();
        let link = Link::new(id, ctx.address().recipient());
        let home = self.home();
        let live = &asked.venue.rules.live;
        let running = Feed::open(id, opened.source(), kind.start(), live, link, &home);
        debug!(stream = %name.0, kind = ?kind, "feed started");
        let source = running.source.clone();
        let known = KnownFeed {
            id,
            stream: opened.id(),
            feed: running.feed,
            source: running.source,
            audiences: running.audiences,
            asked: Instant::now(),
        };
        if let Some(old) = self.feeds.insert(name, known) {
            old.feed.do_send(EndFeed);
        }
        source
    }

    /// Ends what nobody has used for a while.
    fn sweep(&mut self) {
        self.feeds.retain(|(key, kind), known| {
            // Who has just asked may be on the way to it.
            let is_used = known.audiences.load(Ordering::Relaxed) > 0 || known.asked.elapsed() < IDLE;
            if !is_used {
                debug!(stream = %key, kind = ?kind, "feed ends: nobody watches");
                known.feed.do_send(EndFeed);
            }
            is_used
        });
    }
}

impl Endlessly {
    fn start(self) -> Box<dyn Endless> {
        match self {
            Self::Ts => Box::new(TsFeed::new(TsRules::default())),
            Self::Mp4 => Box::new(Mp4Feed::new()),
        }
    }
}

impl Actor for Outputs {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(SWEEP, |outputs, _| outputs.sweep());
    }
}

impl Handler<OpenOutput> for Outputs {
    type Result = ResponseActFuture<Self, Result<OutputHandle, NoStream>>;

    fn handle(&mut self, asked: OpenOutput, _: &mut Self::Context) -> Self::Result {
        let router = self.house.router.clone();
        let rules = Arc::clone(&asked.venue.rules);
        let open = OpenStream { key: asked.key.clone(), rules, purpose: Purpose::Play, home: self.home() };
        let opened = async move { router.send(open).await.unwrap_or(Err(NoStream::NotFound)) };
        Box::pin(opened.into_actor(self).map(|opened, outputs, ctx| outputs.open(asked, &opened?, ctx)))
    }
}

impl Handler<ListOutputs> for Outputs {
    type Result = MessageResult<ListOutputs>;

    fn handle(&mut self, _: ListOutputs, _: &mut Self::Context) -> Self::Result {
        let feeds = self.feeds.iter().map(|((key, kind), known)| {
            let (kind, protocols) = match kind {
                Endlessly::Ts => ("ts", [Protocol::HttpTs, Protocol::WsTs]),
                Endlessly::Mp4 => ("mp4", [Protocol::HttpMp4, Protocol::WsMp4]),
            };
            let viewers = protocols.map(|protocol| known.source.counters.players.of(protocol) as usize);
            (key.clone(), OutputNow { kind, place: "memory", viewers: viewers.iter().sum(), waiting: 0 })
        });
        let files = self.files.list().map(|(key, format)| {
            (key.clone(), OutputNow { kind: format.name(), place: "disk", viewers: 0, waiting: 0 })
        });
        MessageResult(feeds.chain(files).collect())
    }
}

impl Handler<StreamEvent> for Outputs {
    type Result = ();

    fn handle(&mut self, event: StreamEvent, ctx: &mut Self::Context) {
        match event {
            // A feed hears both from the stream itself, and so do the muxers that write files.
            StreamEvent::Published { key, opened, .. } => {
                let home = self.home();
                self.files.begin(&self.house, &key, &opened, &home, &ctx.address().recipient());
            }
            StreamEvent::Ended { .. }
            | StreamEvent::Replaced { .. }
            | StreamEvent::Wanted { .. }
            | StreamEvent::Unwanted { .. } => {}
            StreamEvent::Gone { key, id } => self.feeds.retain(|(of, _), known| {
                let lives = known.stream != id || *of != key;
                if !lives {
                    known.feed.do_send(EndFeed);
                }
                lives
            }),
        }
    }
}

impl Handler<Exited> for Outputs {
    type Result = ();

    fn handle(&mut self, Exited { id, reason }: Exited, ctx: &mut Self::Context) {
        if let Some(key) = self.files.forget(id) {
            if reason == ExitReason::Panicked {
                error!(stream = %key, "files of a stream are not written any more, by a bug in livemill");
            } else if let Some(opened) = published(&self.house, &key) {
                // It ended at the moment in which the next publisher came.
                let home = self.home();
                self.files.begin(&self.house, &key, &opened, &home, &ctx.address().recipient());
            }
            return;
        }
        if reason == ExitReason::Panicked {
            error!("a feed failed by a bug in livemill; its viewers are closed");
        }
        self.feeds.retain(|_, known| known.id != id);
    }
}

/// The process is about to end: files are to be finished. Answered when they are.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishOutputs;

impl Handler<FinishOutputs> for Outputs {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishOutputs, _: &mut Self::Context) -> Self::Result {
        self.files.finish()
    }
}

/// How often outputs that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// A feed that nobody watches is kept for so long: a page that is loaded again finds it.
const IDLE: Duration = Duration::from_secs(10);
