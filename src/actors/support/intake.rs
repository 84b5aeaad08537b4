//! What a muxer is told of its stream, made plain: where a publish begins and ends, and when each packet would have come.

use std::sync::atomic::Ordering;

use crate::{
    actors::{
        source::{Deliver, Listen, Source, next_subscriber},
        support::route::Route,
    },
    media::packet::Packet,
    protocol::flv::sample::{self, MuxInput},
};

/// The ear of a muxer. It leaves the stream by being dropped.
pub struct Intake {
    source: Source,
    subscriber: u64,
    /// A publisher is there and its burst has come.
    is_live: bool,
}

/// One thing to do, in its order.
pub enum Heard {
    /// A publisher is there; what comes next does not go on from what was before.
    Begin,
    /// Something was lost.
    Gap,
    /// What came at this time by the wall clock, in milliseconds since 1970.
    Input(MuxInput, i64),
    /// The publisher left.
    End,
}

impl Intake {
    /// Joins the stream, and asks for what a late joiner needs. `wants`: people watch what is made of it.
    pub fn new(source: Source, to: actix::Recipient<Deliver>, wants: bool) -> Self {
        let subscriber = next_subscriber();
        source.to.do_send(Listen::Join { subscriber, to, wants: wants.then(Route::default) });
        source.to.do_send(Listen::CatchUp { subscriber, listener: subscriber });
        Self { source, subscriber, is_live: false }
    }

    /// What a message means, to be dealt with one after the other. `now_ms` is the wall clock.
    pub fn hear(&mut self, message: Deliver, now_ms: i64, mut take: impl FnMut(Heard)) {
        match message {
            Deliver::Begin { listener, burst } => {
                let is_ours = listener.is_none_or(|listener| listener == self.subscriber);
                // Whoever joins while a publish begins is told twice.
                let is_news = listener.is_none() || !self.is_live;
                if is_ours && is_news {
                    self.is_live = true;
                    take(Heard::Begin);
                    read(&burst, now_ms, &mut take);
                }
            }
            Deliver::Media { batch, gap } if self.is_live => {
                if gap {
                    take(Heard::Gap);
                }
                read(batch.packets(), now_ms, &mut take);
            }
            Deliver::Media { .. } => {}
            Deliver::End | Deliver::TurnedAway(_) => {
                self.is_live = false;
                take(Heard::End);
            }
        }
    }

    /// Nobody publishes, and nobody will say so: the stream failed, or its publisher left before it knew of this one.
    pub fn is_forsaken(&self) -> bool {
        let is_published = self.source.counters.publishing.load(Ordering::Relaxed);
        !self.source.to.connected() || !self.is_live && !is_published
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Once in the life of a muxer.
        self.source.to.do_send(Listen::Leave { subscriber: self.subscriber });
    }
}

/// The newest packet came now; what came with it is older by as much as its time says.
fn read(packets: &[Packet], now_ms: i64, take: &mut impl FnMut(Heard)) {
    let newest_ms = packets.iter().filter(|packet| packet.is_frame()).map(Packet::time_ms).max();
    for packet in packets {
        let age_ms = newest_ms.map_or(0, |newest| newest.saturating_sub(packet.time_ms()).clamp(0, MAX_AGE_MS));
        match sample::of(packet) {
            Some(MuxInput::Other) | None => {}
            Some(input) => take(Heard::Input(input, now_ms.saturating_sub(age_ms))),
        }
    }
}

/// No cache holds more than an hour.
const MAX_AGE_MS: i64 = 3_600_000;
