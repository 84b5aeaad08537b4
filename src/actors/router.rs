//! Which stream a name means: finds it or makes it. Control plane only, no frame passes through here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix::prelude::*;
use tracing::error;

use super::{
    live_stream::{LiveStream, Rules, StreamEvents},
    source::Source,
    support::{
        counters::StreamCounters,
        directory::{Directory, Entry},
        link::{ExitReason, Exited, Link},
    },
};
use crate::{config::Limits, media::key::StreamKey};

pub struct Router {
    limits: Limits,
    directory: Directory,
    /// Who is told what happens to streams.
    events: StreamEvents,
    /// Streams that live, by their id: what to forget when one exits.
    names: HashMap<u64, StreamKey>,
    next_id: u64,
    /// Dropped with the router: whoever holds the other end learns that it is gone.
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// Finds the stream of this name for somebody who may have it, and makes it where that makes sense.
#[derive(Message)]
#[rtype(result = "Result<Opened, NoStream>")]
pub struct OpenStream {
    pub key: StreamKey,
    pub rules: Arc<Rules>,
    pub purpose: Purpose,
    /// Where a new stream is to live: beside its publisher.
    pub home: ArbiterHandle,
}

/// A stream somebody asked for. It lives as long as somebody holds its address.
#[derive(Clone)]
pub struct Opened {
    pub stream: Addr<LiveStream>,
    pub counters: Arc<StreamCounters>,
}

impl Opened {
    /// Tells this stream from others of the same name, before it and after it.
    pub fn id(&self) -> u64 {
        self.counters.id
    }

    /// What listens to the stream sees of it.
    pub fn source(&self) -> Source {
        Source { id: self.id(), to: self.stream.clone().recipient(), counters: Arc::clone(&self.counters) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Publish,
    Play,
    /// As `Play`, of a stream that is on its way here: who asks for it may wait.
    PlayFetched,
}

/// Why there is no stream to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoStream {
    #[error("no such stream")]
    NotFound,
    #[error("too many streams: {max} is the limit (max_live_streams)")]
    TooMany { max: u32 },
}

impl Router {
    /// `events`: who is told what happens to streams.
    pub fn new(
        limits: Limits,
        directory: Directory,
        events: StreamEvents,
        alive: tokio::sync::oneshot::Sender<()>,
    ) -> Self {
        Self { limits, directory, events, names: HashMap::new(), next_id: 1, _alive: alive }
    }

    /// Streams with a publisher and names that players wait for are counted apart: whoever asks for invented names keeps
    /// no publisher out.
    fn is_full(&self, purpose: Purpose) -> bool {
        let publishing = self.directory.publishing();
        let counted = match purpose {
            Purpose::Publish => publishing,
            Purpose::Play | Purpose::PlayFetched => self.names.len().saturating_sub(publishing),
        };
        counted >= self.limits.max_live_streams as usize
    }

    fn make(&mut self, asked: OpenStream, ctx: &Context<Self>) -> Opened {
        let id = self.next_id;
        self.next_id += 1;
        let counters = Arc::new(StreamCounters { id, publishing: AtomicBool::new(false), ..StreamCounters::default() });
        let link = Link::new(id, ctx.address().recipient());
        let OpenStream { key, rules, home, .. } = asked;
        let stream = LiveStream::start_in_arbiter(&home, {
            let (key, counters, events) = (key.clone(), Arc::clone(&counters), self.events.clone());
            move |ctx| {
                ctx.set_mailbox_capacity(STREAM_MAILBOX);
                LiveStream::new(key, rules, counters, events, link)
            }
        });
        self.names.insert(id, key.clone());
        self.directory.insert(key, Entry { stream: stream.downgrade(), counters: Arc::clone(&counters) });
        Opened { stream, counters }
    }
}

impl Actor for Router {
    type Context = Context<Self>;
}

impl Handler<OpenStream> for Router {
    type Result = Result<Opened, NoStream>;

    fn handle(&mut self, asked: OpenStream, ctx: &mut Self::Context) -> Self::Result {
        let living = self.directory.find(&asked.key).and_then(|Entry { stream, counters }| {
            let stream = stream.upgrade().filter(Addr::connected)?;
            Some(Opened { stream, counters })
        });
        let publishing = living.as_ref().is_some_and(|opened| opened.counters.publishing.load(Ordering::Relaxed));
        if asked.purpose == Purpose::Play && !asked.rules.live.idle_streams && !asked.rules.is_fetched && !publishing {
            return Err(NoStream::NotFound);
        }
        match living {
            // Players may have waited for it, and waiting names are counted apart.
            Some(_) if asked.purpose == Purpose::Publish && !publishing && self.is_full(Purpose::Publish) => {
                Err(NoStream::TooMany { max: self.limits.max_live_streams })
            }
            Some(opened) => Ok(opened),
            None if self.is_full(asked.purpose) => Err(NoStream::TooMany { max: self.limits.max_live_streams }),
            None => Ok(self.make(asked, ctx)),
        }
    }
}

impl Handler<Exited> for Router {
    type Result = ();

    fn handle(&mut self, Exited { id, reason }: Exited, _: &mut Self::Context) {
        let Some(key) = self.names.remove(&id) else { return };
        self.directory.remove(&key, id);
        if reason == ExitReason::Panicked {
            error!(stream = %key, "a stream failed by a bug in livemill; its publisher and players are closed");
        }
    }
}

/// Messages that wait for one stream. Each sender has a place of its own beyond it, so the number of players does not matter.
const STREAM_MAILBOX: usize = 64;
