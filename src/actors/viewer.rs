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
    house::{House, Venue},
    source::Source,
    support::{
        body::{Body, BrokenOff, Form, SharedBody},
        counters::Protocol,
        deadlines::{Deadlines, Sight, Stage, Times, Verdict},
        hang_up::HangUp,
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
    /// Dropped once nothing more is to come.
    ticket: Option<Ticket>,
    deadlines: Deadlines,
    times: Times,
    next_tick: SpawnHandle,
    /// Its answer is gone once the other end is.
    answer: Option<oneshot::Receiver<()>>,
    hang_up: Option<HangUp>,
    reason: Option<String>,
    record: Box<SessionRecord>,
    _entered: Entered,
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
    /// Ends the connection when its peer does not read.
    pub hang_up: Option<HangUp>,
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
        let Visit { house, venue, key, source, protocol, form, record, hang_up } = visit;
        let rules = venue.queue_rules();
        let body = Rc::new(RefCell::new(Body::new(form, rules)));
        let (here, answer) = oneshot::channel();
        Self::create(|ctx| {
            let entered = house.viewers.enter(Entry {
                key: key.clone(),
                protocol,
                remote: record.remote,
                to: ctx.address().recipient(),
            });
            let seat = Seat::http(protocol, Rc::clone(&body), ctx.address().recipient());
            Self {
                opened: house.now(),
                body: Rc::clone(&body),
                ticket: Some(audience::join(&source, seat)),
                deadlines: Deadlines::new(Duration::ZERO),
                // There is no ping in an answer; whoever is gone without a word is found out by its kernel.
                times: Times { ping: Duration::ZERO, ..*venue.times },
                next_tick: SpawnHandle::default(),
                answer: Some(answer),
                hang_up,
                reason: None,
                record: Box::new(record),
                _entered: entered,
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
            PlayerNotice::Ended if self.venue.application.live_options.idle_streams => {}
            PlayerNotice::Ended => self.finish("the publisher left and idle_streams is off"),
            PlayerNotice::Broken(error) => self.break_off(&error.to_string(), ctx),
            PlayerNotice::Blocked => {} // said of sockets only
        }
    }
}

impl Handler<Dismiss> for Viewer {
    type Result = ();

    fn handle(&mut self, Dismiss { reason }: Dismiss, ctx: &mut Self::Context) {
        if self.body.borrow().is_blocked() {
            self.break_off(reason, ctx);
        } else {
            self.finish(reason);
        }
    }
}
