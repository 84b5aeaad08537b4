//! What can be listened to: a stream, or an endless format made of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use actix::prelude::*;

use super::support::{counters::StreamCounters, route::Route};
use crate::media::packet::{Batch, Packet};

/// A stream or a feed, as those who listen know it. It lives as long as somebody holds this.
#[derive(Clone)]
pub struct Source {
    /// Tells this source from every other one of the process, also from those of the same name before and after it.
    pub id: u64,
    pub to: Recipient<Listen>,
    /// Those of the stream, also where a feed stands between.
    pub counters: Arc<StreamCounters>,
}

/// To a source: who listens to it.
#[derive(Message)]
#[rtype(result = "()")]
pub enum Listen {
    /// From the next packet on this subscriber is told everything. `wants`: somebody watches through it, having come this
    /// way, and the stream is worth fetching for it; none: it takes what is there.
    Join { subscriber: u64, to: Recipient<Deliver>, wants: Option<Route> },
    /// Through this subscriber it is watched by somebody else as well, who has come this way.
    Wants { subscriber: u64, route: Route },
    /// A subscriber has a new listener. If somebody publishes, the subscriber is told in a [`Deliver::Begin`] for this
    /// listener what a late joiner needs, in order with everything else it is told.
    CatchUp { subscriber: u64, listener: u64 },
    /// This subscriber is told nothing more.
    Leave { subscriber: u64 },
}

/// What a subscriber is told: every sink handles this one message.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub enum Deliver {
    /// A publisher is there, or another one has taken over; these packets come first. For one listener who has just
    /// come, or else for all.
    Begin { listener: Option<u64>, burst: Arc<[Packet]> },
    /// The next packets. `gap`: something before them was lost on the way here.
    Media { batch: Batch, gap: bool },
    /// The publisher is gone.
    End,
    /// There is nothing to be had here, and there will not be: whoever waits is to go.
    TurnedAway(Arc<Refusal>),
}

/// Why a stream is not to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As RTMP says it: `NetStream.Play.StreamNotFound`.
    pub code: &'static str,
    pub reason: String,
}

/// Under which a source knows its next subscriber.
pub fn next_subscriber() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Who listens to one source.
#[derive(Default)]
pub struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    id: u64,
    to: Recipient<Deliver>,
    wants: Option<Route>,
    /// Its mailbox was full: the next delivery tells it so.
    missed: bool,
}

impl Subscribers {
    pub fn join(&mut self, id: u64, to: Recipient<Deliver>, wants: Option<Route>) {
        self.0.push(Subscriber { id, to, wants, missed: false });
    }

    pub fn leave(&mut self, id: u64) {
        self.0.retain(|subscriber| subscriber.id != id);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Somebody else watches through this one, having come this way.
    pub fn want(&mut self, id: u64, route: Route) {
        if let Some(subscriber) = self.0.iter_mut().find(|subscriber| subscriber.id == id) {
            subscriber.wants = Some(route);
        }
    }

    /// The way of one of those for whom the stream is worth fetching. Whoever is at home here may have it fetched from
    /// everywhere, a relay from nowhere that it comes through itself.
    pub fn wants(&self) -> Option<&Route> {
        let routes = self.0.iter().filter_map(|subscriber| subscriber.wants.as_ref());
        routes.min_by_key(|route| !route.is_empty())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands everybody the next packets. Who has no room misses them, and is told so in the next delivery; who is gone is
    /// forgotten.
    pub fn deliver(&mut self, batch: &Batch, gap: bool, counters: &StreamCounters) {
        self.0.retain_mut(|subscriber| {
            let gap = gap || subscriber.missed;
            match subscriber.to.try_send(Deliver::Media { batch: batch.clone(), gap }) {
                Ok(()) => subscriber.missed = false,
                Err(SendError::Full(_)) => {
                    subscriber.missed = true;
                    counters.missed_deliveries.fetch_add(1, Ordering::Relaxed);
                }
                Err(SendError::Closed(_)) => return false,
            }
            true
        });
    }

    /// Tells everybody what nobody may miss. It happens once a publish, so it need not ask whether there is room.
    pub fn tell(&self, message: &Deliver) {
        for subscriber in &self.0 {
            subscriber.to.do_send(message.clone());
        }
    }

    /// Tells a subscriber what its new listener is sent first.
    pub fn begin(&self, id: u64, listener: u64, burst: impl FnOnce() -> Arc<[Packet]>) {
        if let Some(subscriber) = self.0.iter().find(|subscriber| subscriber.id == id) {
            // Once for each who joins, and without it that one would never start.
            subscriber.to.do_send(Deliver::Begin { listener: Some(listener), burst: burst() });
        }
    }
}
