//! How a publisher's media reach its stream: gathered as the rules say, handed over in order, never past a full mailbox.

use std::time::Duration;

use actix::prelude::*;

use crate::{
    actors::live_stream::{EndPublish, Incoming, Ingest, LiveStream, Medium},
    media::gather::{Gather, GatherRules},
};

/// The way from one publisher, a connection or a relay, to its stream.
pub struct Feeder {
    session: u64,
    stream: Addr<LiveStream>,
    /// What waits for a video frame to ride with.
    gather: Gather<Incoming>,
    /// A timer for what waits is under way.
    timer_is_set: bool,
}

/// What became of what was handed over.
#[expect(clippy::large_enum_variant, reason = "looked at and gone: a box would cost more")]
pub enum Handed {
    Done,
    /// The stream is full: nothing more may be handed over until this is answered. TCP then slows the publisher.
    Full(Request<LiveStream, Ingest>),
    /// The stream is no more.
    Gone,
}

impl Feeder {
    /// `session` is the id under which it publishes.
    pub fn new(session: u64, stream: Addr<LiveStream>, rules: GatherRules) -> Self {
        Self { session, stream, gather: Gather::new(rules), timer_is_set: false }
    }

    /// Takes one message; `since` is when it began to wait. Ask [`Feeder::hand_over`] once all that came together are in.
    pub fn push(&mut self, incoming: Incoming, since: Duration) {
        let is_video = incoming.medium == Medium::Video;
        self.gather.push(incoming, is_video, since);
    }

    /// Hands to the stream what need not wait any longer.
    pub fn hand_over(&mut self, now: Duration) -> Handed {
        let Some(messages) = self.gather.ready(now) else { return Handed::Done };
        match self.stream.try_send(Ingest { session: self.session, messages }) {
            Ok(()) => Handed::Done,
            Err(SendError::Full(ingest)) => Handed::Full(self.stream.send(ingest)),
            Err(SendError::Closed(_)) => Handed::Gone,
        }
    }

    /// For how long to set a timer, after which [`Feeder::timer_rang`] and [`Feeder::hand_over`] are to be called; none
    /// where nothing waits, or where one is set.
    pub fn set_timer(&mut self, now: Duration) -> Option<Duration> {
        let due = self.gather.due().filter(|_| !self.timer_is_set)?;
        self.timer_is_set = true;
        Some(due.saturating_sub(now))
    }

    pub fn timer_rang(&mut self) {
        self.timer_is_set = false;
    }

    /// Hands over what waits, whatever it waits for.
    pub fn flush(&mut self) {
        // Once for each publish, and it may not get lost.
        let messages = self.gather.take();
        self.stream.do_send(Ingest { session: self.session, messages });
    }

    /// The publish is over.
    pub fn end(mut self) {
        self.flush();
        self.stream.do_send(EndPublish { session: self.session });
    }

    pub fn stream(&self) -> &Addr<LiveStream> {
        &self.stream
    }

    pub fn is_connected(&self) -> bool {
        self.stream.connected()
    }
}
