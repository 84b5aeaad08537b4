//! What is spoken with a far end: bytes in; media, news and bytes out.

use std::time::Duration;

use bytes::Bytes;

use super::{http_flv::HttpFarEnd, rtmp::RtmpFarEnd};
use crate::{
    actors::{
        live_stream::Incoming,
        support::{
            relay_plan::{Direction, Leg},
            relay_status::Fate,
        },
    },
    protocol::rtmp::{server::SessionConfig, wire::PlayForm},
};

/// A protocol as relays use it. Knows no socket and no clock.
pub(super) trait FarEnd {
    /// Takes bytes from the socket; `now` is the time since it connected. An error ends the attempt.
    fn receive(&mut self, bytes: &[u8], now: Duration) -> Result<(), String>;

    /// What they meant, one after another.
    fn poll(&mut self) -> Option<Said>;

    /// Bytes to send, in order. There are some from the start.
    fn take_output(&mut self) -> Option<Bytes>;

    /// How a push is to write its packets, once it may.
    fn push_form(&self) -> Option<PlayForm> {
        None
    }

    /// Says goodbye, where the protocol has words for it; they come with the next output.
    fn close(&mut self) {}
}

/// What a far end says.
pub(super) enum Said {
    /// The publish or play is accepted.
    Ready,
    Media(Incoming),
    /// It is over, or it never began.
    Over(Fate, String),
}

/// What everybody who goes somewhere has to say.
pub(super) struct Errand<'a> {
    pub direction: Direction,
    pub leg: &'a Leg,
    /// The nodes that this relay comes through.
    pub route: &'a str,
    pub session: &'a SessionConfig,
    /// How much a pull says it buffers.
    pub buffer: Duration,
}

/// Begins to speak as the scheme of the target asks for.
pub(super) fn speak(errand: &Errand<'_>) -> Result<Box<dyn FarEnd>, String> {
    match (errand.leg.target.scheme.is_http(), errand.direction) {
        (false, _) => Ok(Box::new(RtmpFarEnd::new(errand))),
        (true, Direction::Pull) => Ok(Box::new(HttpFarEnd::new(errand))),
        // The configuration has none; a hook may name one.
        (true, Direction::Push) => Err("nothing can be pushed over HTTP".to_owned()),
    }
}
