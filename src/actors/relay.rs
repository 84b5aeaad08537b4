//! One attempt of one relay: connects to a far end and publishes a stream there, or plays one and publishes it here.
//!
//! It ends with a reason, and its supervisor (`relays.rs`) decides what becomes of that. It waits for its stream and for
//! nobody else.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    hooks::{Ask, Debt, Expelled, owe},
    house::{House, Venue},
    live_stream::{Incoming, Ingest, LiveStream, Publish, Replaced},
    oclp::owing,
    router::Opened,
    source::{Deliver, Listen, next_subscriber},
    support::{
        bulk::Bulk,
        dial::{DialError, Dialed, dial},
        facts::SessionFacts,
        feeder::{Feeder, Handed},
        hook_call::HookError,
        link::{ExitReason, Link},
        oclp_call::{self, Decision, Event, Stage, Subject, decide},
        outbox::Progress,
        output::{Output, SharedOutput},
        relay_plan::{Direction, Leg},
        relay_status::{Fate, RelayStatus, State},
        socket::{self, Arrived, RawSocket, ReadError, Writes},
        targets::{OwnListens, Trust},
    },
};
use crate::{
    config::{HookSecret, HookTargets, OclpRule, oclp::MetaType},
    media::{
        key::StreamKey,
        packet::{Batch, Packet, PacketKind, Track},
    },
};

mod far_end;
mod http_flv;
mod pairs;
mod rtmp;
mod watch;

use far_end::{Errand, FarEnd, Said, speak};
use pairs::Pairs;
use watch::Watch;

pub struct Relay {
    trip: Trip,
    /// None: it is not known yet.
    leg: Option<Box<Leg>>,
    /// What the scheduler is owed that sent us there.
    debt: Debt,
    /// The configuration with which the scheduler was asked.
    header: Option<Bytes>,
    began: Instant,
    far: Option<Box<dyn FarEnd>>,
    output: SharedOutput,
    watch: Watch,
    work: Work,
    /// The address that took us.
    peer: Option<std::net::SocketAddr>,
    /// Set once it is to end: nothing is acted on any more, what is queued is still written.
    is_ending: bool,
    /// Our side has been shut down; the far end's close or the deadline ends it.
    is_lingering: bool,
    /// The far end has said that it is over, which is acted on once the stream has what came before.
    over: Option<(Fate, String)>,
    pairs: Pairs,
    /// Bytes and drops that have been told.
    sent: u64,
    dropped: u64,
    link: Link,
}

/// What one attempt is given.
pub struct Trip {
    /// Of the relay, over all its attempts: it publishes under it.
    pub id: u64,
    pub direction: Direction,
    pub key: StreamKey,
    pub venue: Arc<Venue>,
    pub opened: Opened,
    pub goal: Goal,
    pub own_listens: Arc<OwnListens>,
    /// The nodes it comes through.
    pub route: String,
    /// Which attempt this is, to begin with another address each time.
    pub turn: usize,
    pub status: Arc<RelayStatus>,
    pub house: Arc<House>,
}

/// Where an attempt goes.
#[derive(Clone)]
pub enum Goal {
    /// There; and who named it.
    There(Box<Leg>, Trust),
    /// Where a scheduler says.
    Ask(Arc<Question>),
}

/// What a scheduler is asked at each attempt.
pub struct Question {
    pub rule: Arc<OclpRule>,
    pub event: Event,
    pub subject: Arc<Subject>,
    pub secret: Option<Arc<HookSecret>>,
    /// What it may name.
    pub targets: HookTargets,
    /// Not before the configuration of such a codec has come.
    pub header: Option<MetaType>,
    /// And again with each other one.
    pub repeats: bool,
}

/// Nobody needs it any more: it is to take its leave.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EndRelay;

/// What is done with the stream here.
enum Work {
    /// Nothing yet.
    None,
    /// A push listens to it.
    Listening { subscriber: u64, has_begun: bool },
    /// A pull publishes it.
    Feeding(Box<Feeder>),
}

/// Whether what comes next may be looked at.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    /// An answer from elsewhere comes first.
    Wait,
}

impl Relay {
    pub fn open(trip: Trip, link: Link, home: &ArbiterHandle) -> Addr<Self> {
        Self::start_in_arbiter(home, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let times = trip.venue.application.relays.limits;
            Self {
                leg: None,
                debt: Debt::default(),
                header: None,
                began: Instant::now(),
                far: None,
                output: Rc::new(RefCell::new(Output::new(Writes::closed()))),
                watch: Watch::new(trip.direction, times),
                work: Work::None,
                peer: None,
                is_ending: false,
                is_lingering: false,
                over: None,
                pairs: Pairs::new(!trip.venue.gather.low_latency),
                sent: 0,
                dropped: 0,
                link,
                trip,
            }
        })
    }

    /// Time since the far end's address took us.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    // ---- reaching the far end ----

    fn set_out(&mut self, ctx: &mut Context<Self>) {
        match self.trip.goal.clone() {
            Goal::There(leg, trust) => self.dial(leg, trust, ctx),
            Goal::Ask(question) if question.header.is_some() => {
                self.trip.status.enter(State::Waiting);
                self.subscribe(ctx);
            }
            Goal::Ask(question) => self.ask(question, ctx),
        }
    }

    fn ask(&self, question: Arc<Question>, ctx: &mut Context<Self>) {
        self.trip.status.enter(State::Asking);
        let desk = self.trip.house.desks.hooks.clone();
        let asked = async move {
            let Question { rule, event, subject, secret, targets, .. } = &*question;
            let call = oclp_call::ask(rule, *event, Stage::Start, subject, secret.as_ref());
            let answer = match desk {
                Some(desk) => desk.send(Ask(call)).await.unwrap_or(Err(HookError::Ending)),
                None => Err(HookError::Ending),
            };
            (decide(*event, answer, targets), question)
        };
        ctx.spawn(asked.into_actor(self).map(|(decision, question), relay, ctx| {
            if !relay.is_ending {
                relay.obey(decision, &question, ctx);
            }
        }));
    }

    fn obey(&mut self, decision: Decision, question: &Arc<Question>, ctx: &mut Context<Self>) {
        match decision {
            Decision::Go(target, trust) => {
                let leg = Leg::to(target, &self.trip.key);
                self.trip.status.go_to(&leg, leg.shown(self.trip.direction, &self.trip.key));
                if let Some(desk) = &self.trip.house.desks.hooks {
                    let Question { rule, event, subject, secret, .. } = &**question;
                    self.debt = owe(desk, owing(rule, *event, subject, secret.as_ref()));
                    self.debt.begin(&self.trip.opened.counters, || ctx.address().recipient());
                }
                self.dial(Box::new(leg), trust, ctx);
            }
            Decision::NoNeed => self.end_now(Fate::NoNeed, "its scheduler sees no need", ctx),
            Decision::Refused(status) => {
                self.end_now(Fate::TurnedAway(status), &format!("its scheduler says {status}"), ctx);
            }
            Decision::Retry(reason) => self.end_now(Fate::Retry, &format!("its scheduler: {reason}"), ctx),
        }
    }

    fn dial(&mut self, leg: Box<Leg>, trust: Trust, ctx: &mut Context<Self>) {
        self.trip.status.enter(State::Connecting);
        let Trip { own_listens, turn, venue, .. } = &self.trip;
        let (to, own, turn) = (leg.clone(), Arc::clone(own_listens), *turn);
        let patience = venue.application.relays.limits.connect;
        let dialed = async move { dial(&to.target, to.server_name(), &trust, &own, turn, patience).await };
        self.leg = Some(leg);
        ctx.spawn(dialed.into_actor(self).map(|dialed, relay, ctx| relay.meet(dialed, ctx)));
    }

    fn meet(&mut self, dialed: Result<Dialed, DialError>, ctx: &mut Context<Self>) {
        let Dialed { socket, peer, tls } = match dialed {
            Ok(dialed) => dialed,
            Err(error) => {
                let fate = if error.is_final() { Fate::Refused } else { Fate::Retry };
                return self.end_now(fate, &error.to_string(), ctx);
            }
        };
        let (reads, mut writes) = match socket::split(RawSocket::Tcp(socket)) {
            Ok(halves) => halves,
            Err(error) => return self.end_now(Fate::Retry, &error.to_string(), ctx),
        };
        let (trip, Some(leg)) = (&self.trip, &self.leg) else { return };
        let errand = Errand {
            direction: trip.direction,
            leg,
            route: &trip.route,
            session: &trip.venue.session,
            buffer: trip.venue.application.relays.buffer,
        };
        match speak(&errand) {
            Ok(far) => self.far = Some(far),
            Err(error) => return self.end_now(Fate::Refused, &error, ctx),
        }
        if let Some(tls) = tls {
            writes.start_tls(*tls);
        }
        self.peer = Some(peer);
        self.trip.status.note_peer(peer.ip());
        self.began = Instant::now();
        self.trip.status.enter(State::Starting);
        self.output = Rc::new(RefCell::new(Output::new(writes)));
        ctx.add_stream(reads);
        self.write(ctx);
    }

    // ---- reading ----

    fn take_bytes(&mut self, wire: &[u8], ctx: &mut Context<Self>) {
        let now = self.now();
        self.count(wire.len() as u64, Direction::Pull);
        let Some(far) = &mut self.far else { return };
        let fed = {
            let mut output = self.output.borrow_mut();
            output.socket().decrypt(wire, |plain| far.receive(plain, now))
        };
        match fed {
            Ok(()) => self.go_on(ctx),
            Err(error) => {
                // What came before the fault still counts: it may say why.
                self.take_events(ctx);
                let reason = match error {
                    ReadError::Taker(error) => error,
                    ReadError::Tls(error) => format!("TLS: {error}"),
                    ReadError::Socket(error) => error.to_string(),
                };
                self.end(Fate::Retry, &reason, ctx);
            }
        }
    }

    fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.take_events(ctx);
        self.write(ctx);
    }

    /// Acts on what the far end said, up to the point where an answer from elsewhere is needed.
    fn take_events(&mut self, ctx: &mut Context<Self>) {
        let mut media = SmallVec::<[Incoming; 2]>::new();
        while !self.is_ending && self.over.is_none() {
            let Some(said) = self.far.as_mut().and_then(|far| far.poll()) else { break };
            match said {
                Said::Media(incoming) => {
                    let now = self.now();
                    self.watch.note_media(&incoming, now);
                    media.push(incoming);
                }
                Said::Ready => self.note_ready(ctx),
                Said::Over(fate, reason) => self.over = Some((fate, reason)),
            }
        }
        // What came before the end gets to the stream first.
        if self.feed(&mut media, ctx) == Flow::Go
            && let Some((fate, reason)) = self.over.take()
        {
            self.end(fate, &reason, ctx);
        }
    }

    fn note_ready(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        self.watch.note_ready(now);
        if self.trip.direction == Direction::Push {
            self.note_running();
            self.listen(ctx);
        }
    }

    fn note_running(&self) {
        let Trip { id, direction, key, status, .. } = &self.trip;
        status.enter(State::Running);
        info!(relay = id, %direction, stream = %key, far_end = status.report().url, "relaying");
    }

    // ---- a pull ----

    /// Hands media to the stream; the first ones make this relay its publisher.
    fn feed(&mut self, media: &mut SmallVec<[Incoming; 2]>, ctx: &mut Context<Self>) -> Flow {
        if media.is_empty() {
            return Flow::Go;
        }
        let now = self.now();
        match &mut self.work {
            Work::Feeding(feeder) => {
                media.drain(..).for_each(|incoming| feeder.push(incoming, now));
                self.hand_over(ctx)
            }
            _ => {
                let first = std::mem::take(media);
                self.claim(first, ctx);
                Flow::Wait
            }
        }
    }

    fn claim(&self, first: SmallVec<[Incoming; 2]>, ctx: &mut Context<Self>) {
        let asked =
            self.trip.opened.stream.send(Publish { facts: Arc::new(self.facts()), to: ctx.address().recipient() });
        ctx.wait(asked.into_actor(self).map(|answer, relay, ctx| match answer {
            Ok(Ok(_)) => {
                let Trip { id, opened, venue, .. } = &relay.trip;
                let mut feeder = Feeder::new(*id, opened.stream.clone(), venue.gather);
                let now = relay.now();
                first.into_iter().for_each(|incoming| feeder.push(incoming, now));
                relay.work = Work::Feeding(Box::new(feeder));
                relay.note_running();
                if relay.hand_over(ctx) == Flow::Go {
                    relay.go_on(ctx);
                }
            }
            Ok(Err(in_use)) => relay.end(Fate::NotNeeded, &in_use.to_string(), ctx),
            Err(_) => relay.end(Fate::Retry, "the stream is gone", ctx),
        }));
    }

    fn hand_over(&mut self, ctx: &mut Context<Self>) -> Flow {
        let now = self.now();
        let Work::Feeding(feeder) = &mut self.work else { return Flow::Go };
        let handed = feeder.hand_over(now);
        if let Some(wait) = feeder.set_timer(now) {
            ctx.run_later(wait, |relay, ctx| {
                if let Work::Feeding(feeder) = &mut relay.work {
                    feeder.timer_rang();
                }
                relay.hand_over(ctx);
            });
        }
        match handed {
            Handed::Done => Flow::Go,
            Handed::Full(sent) => {
                self.wait_for_stream(sent, ctx);
                Flow::Wait
            }
            Handed::Gone => {
                self.end(Fate::Retry, "the stream is gone", ctx);
                Flow::Go
            }
        }
    }

    /// A full stream stops this relay's reading: TCP slows the far end.
    fn wait_for_stream(&self, sent: Request<LiveStream, Ingest>, ctx: &mut Context<Self>) {
        ctx.wait(sent.into_actor(self).map(|sent, relay, ctx| match sent {
            Ok(()) => relay.go_on(ctx),
            Err(_) => relay.end(Fate::Retry, "the stream is gone", ctx),
        }));
    }

    /// As whom it publishes.
    fn facts(&self) -> SessionFacts {
        let Trip { id, key, .. } = &self.trip;
        let Some(leg) = &self.leg else { return SessionFacts::default() };
        SessionFacts {
            id: *id,
            address: self.peer,
            protocol: leg.target.scheme.name(),
            host: leg.server_name().to_owned(),
            server_id: key.vhost.to_string(),
            app: key.app.to_string(),
            name: key.name.to_string(),
            flash_ver: LOCAL_FLASH_VER.to_owned(),
            tc_url: leg.tc_url.clone(),
            page_url: leg.page_url.clone(),
            swf_url: leg.swf_url.clone(),
            far_end: leg.far_end(),
            is_relay: true,
            ..SessionFacts::default()
        }
    }

    // ---- a push ----

    fn listen(&mut self, ctx: &mut Context<Self>) {
        let Some(form) = self.far.as_ref().and_then(|far| far.push_form()) else { return };
        self.take_output();
        self.output.borrow_mut().play(form, self.trip.venue.queue_rules(), false);
        // One that waited for a codec has left the stream, and comes back for what has come since.
        self.subscribe(ctx);
    }

    fn subscribe(&mut self, ctx: &mut Context<Self>) {
        let (subscriber, stream) = (next_subscriber(), &self.trip.opened.stream);
        // No reason to fetch a stream: it is pushed where there is one.
        stream.do_send(Listen::Join { subscriber, to: ctx.address().recipient(), wants: None });
        stream.do_send(Listen::CatchUp { subscriber, listener: subscriber });
        self.work = Work::Listening { subscriber, has_begun: false };
    }

    /// Looks for the configuration that the scheduler is to be asked about.
    fn look(&mut self, packets: &[Packet], ctx: &mut Context<Self>) {
        let Goal::Ask(question) = &self.trip.goal else { return };
        let Some(wanted) = question.header else { return };
        let is_meant = |packet: &&Packet| {
            let track = match wanted {
                MetaType::Video => packet.track() == Track::Video,
                MetaType::Audio => packet.track() == Track::Audio,
                MetaType::Both => packet.track() != Track::Data,
            };
            packet.kind() == PacketKind::Config && track
        };
        let Some(found) = packets.iter().find(is_meant).map(|packet| packet.payload().clone()) else { return };
        match &self.header {
            None => {
                let question = Arc::clone(question);
                self.header = Some(found);
                self.leave();
                self.ask(question, ctx);
            }
            Some(known) if question.repeats && wanted != MetaType::Both && *known != found => {
                self.end(Fate::Retry, "the codec changes", ctx);
            }
            Some(_) => {}
        }
    }

    fn begin(&mut self, listener: Option<u64>, burst: &[Packet], ctx: &mut Context<Self>) {
        let Work::Listening { subscriber, has_begun } = &mut self.work else { return };
        // Who is told with everybody else may be told once more by itself.
        if listener.is_some_and(|listener| listener != *subscriber || *has_begun) {
            return;
        }
        *has_begun = true;
        self.send_single(ctx);
        self.look(burst, ctx);
        if self.far.is_none() {
            return;
        }
        self.output.borrow_mut().begin(Bytes::new(), burst);
        self.write(ctx);
    }

    // ---- writing ----

    fn send(&mut self, batch: &Batch, gap: bool, ctx: &mut Context<Self>) {
        let written = self.output.borrow_mut().send(batch, gap, &mut Bulk::default());
        self.note_written(written, ctx);
    }

    /// Nothing waits for what comes next any more.
    fn send_single(&mut self, ctx: &mut Context<Self>) {
        if let Some((batch, gap)) = self.pairs.take() {
            self.send(&batch, gap, ctx);
        }
    }

    fn take_output(&mut self) {
        let Some(far) = &mut self.far else { return };
        let mut output = self.output.borrow_mut();
        while let Some(bytes) = far.take_output() {
            output.control(bytes);
        }
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        self.take_output();
        let written = self.output.borrow_mut().write();
        self.note_written(written, ctx);
    }

    fn note_written(&mut self, written: io::Result<Progress>, ctx: &mut Context<Self>) {
        match written {
            Ok(Progress::Blocked) => self.wait_writable(ctx),
            Ok(Progress::Done) if self.is_ending && self.output.borrow().is_drained() => self.linger(ctx),
            Ok(Progress::Done) => {}
            Err(error) => self.end_now(Fate::Retry, &error.to_string(), ctx),
        }
    }

    fn wait_writable(&mut self, ctx: &mut Context<Self>) {
        let output = Rc::clone(&self.output);
        let writable = poll_fn(move |task| output.borrow().poll_writable(task));
        ctx.spawn(writable.into_actor(self).map(|ready, relay, ctx| {
            relay.output.borrow_mut().resume();
            match ready {
                Ok(()) => relay.write(ctx),
                Err(error) => relay.end_now(Fate::Retry, &error.to_string(), ctx),
            }
        }));
    }

    fn count(&self, bytes: u64, direction: Direction) {
        if self.trip.direction == direction {
            self.trip.status.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    // ---- ending ----

    /// Ends the attempt: the far end is told, then our side is closed, then it has a moment to read that.
    fn end(&mut self, fate: Fate, reason: &str, ctx: &mut Context<Self>) {
        self.trip.status.end(fate, reason);
        if self.is_ending {
            return;
        }
        self.send_single(ctx);
        self.is_ending = true;
        let now = self.now();
        self.note_worked(now);
        self.part();
        let Some(far) = &mut self.far else { return ctx.stop() };
        far.close();
        self.watch.note_ending(now);
        self.trip.status.enter(State::Ending);
        if self.output.borrow().is_blocked() {
            // What it does not read would keep the socket for minutes.
            self.output.borrow_mut().socket().reset_on_close();
            return ctx.stop();
        }
        self.write(ctx);
    }

    fn end_now(&mut self, fate: Fate, reason: &str, ctx: &mut Context<Self>) {
        self.trip.status.end(fate, reason);
        let now = self.now();
        self.note_worked(now);
        self.is_ending = true;
        self.part();
        ctx.stop();
    }

    fn note_worked(&self, now: Duration) {
        if !self.is_ending {
            self.trip.status.worked_ms.store(self.watch.worked(now).as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Leaves the stream. Whether its publish is over is for the supervisor to say.
    fn part(&mut self) {
        match std::mem::replace(&mut self.work, Work::None) {
            Work::Feeding(mut feeder) => feeder.flush(),
            listening => {
                self.work = listening;
                self.leave();
                self.output.borrow_mut().stop_playing();
            }
        }
    }

    fn leave(&mut self) {
        if let Work::Listening { subscriber, .. } = self.work {
            self.work = Work::None;
            self.trip.opened.stream.do_send(Listen::Leave { subscriber });
        }
    }

    fn linger(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_lingering, true) {
            let mut output = self.output.borrow_mut();
            output.socket().close_notify();
            if output.socket().shut_down().is_err() {
                ctx.stop();
            }
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.far.is_none() {
            return; // dialling has its own time
        }
        self.pairs.tick();
        self.send_single(ctx);
        let now = self.now();
        let (taken, waits) = self.note_sent();
        self.trip.status.lag_ms.store(self.watch.lag_ms(), Ordering::Relaxed);
        match self.watch.check(taken, waits, now) {
            Ok(()) => {}
            Err(late) if self.is_ending => self.end_now(Fate::Retry, &late.to_string(), ctx),
            Err(late) => self.end(Fate::Retry, &late.to_string(), ctx),
        }
        if !self.is_ending && !self.trip.opened.stream.connected() {
            self.end(Fate::Retry, "the stream failed", ctx);
        }
    }

    /// Tells what a push has got rid of.
    fn note_sent(&mut self) -> (u64, bool) {
        let output = self.output.borrow();
        let (written, waits, drops) = (output.written(), output.is_blocked(), output.drops());
        drop(output);
        if self.trip.direction == Direction::Push {
            let sent = written.saturating_sub(std::mem::replace(&mut self.sent, written));
            self.count(sent, Direction::Push);
            let dropped = drops.video + drops.audio;
            let new = dropped.saturating_sub(std::mem::replace(&mut self.dropped, dropped));
            self.trip.status.drops.fetch_add(new, Ordering::Relaxed);
        }
        (written, waits)
    }
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.set_out(ctx);
        ctx.run_interval(TICK, Self::tick);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.part();
        self.note_sent();
        self.output.borrow_mut().close();
        let ending = self.trip.status.report().last;
        let reason = ending.map_or_else(String::new, |ending| ending.reason);
        debug!(relay = self.trip.id, stream = %self.trip.key, reason, "relay attempt ended");
        self.link.set_reason(ExitReason::Failed(reason));
    }
}

impl StreamHandler<Arrived> for Relay {
    fn handle(&mut self, arrived: Arrived, ctx: &mut Self::Context) {
        match arrived {
            Arrived::Bytes(len) if !self.is_ending => socket::with_scratch(len, |bytes| self.take_bytes(bytes, ctx)),
            Arrived::Bytes(_) => {}
            Arrived::End => self.end_now(Fate::Retry, "it closed the connection", ctx),
            Arrived::Failed(error) => self.end_now(Fate::Retry, &error.to_string(), ctx),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Deliver> for Relay {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        match message {
            Deliver::Begin { listener, burst } => self.begin(listener, &burst, ctx),
            Deliver::Media { batch, gap } => {
                self.look(batch.packets(), ctx);
                if let (Work::Listening { has_begun: true, .. }, Some(_)) = (&self.work, &self.far)
                    && let Some((batch, gap)) = self.pairs.next(batch, gap)
                {
                    self.send(&batch, gap, ctx);
                }
            }
            Deliver::End => self.end(Fate::NotNeeded, "the publisher left", ctx),
            Deliver::TurnedAway(_) => {}
        }
    }
}

/// Nobody is sent away by what a scheduler says to an update.
impl Handler<Expelled> for Relay {
    type Result = ();

    fn handle(&mut self, _: Expelled, _: &mut Self::Context) {}
}

impl Handler<Replaced> for Relay {
    type Result = ();

    fn handle(&mut self, _: Replaced, ctx: &mut Self::Context) {
        self.end(Fate::NotNeeded, "somebody publishes here", ctx);
    }
}

impl Handler<EndRelay> for Relay {
    type Result = ();

    fn handle(&mut self, _: EndRelay, ctx: &mut Self::Context) {
        self.end(Fate::NotNeeded, "nobody needs it any more", ctx);
    }
}

const TICK: Duration = Duration::from_secs(1);

/// Deliveries that may wait while the arbiter is busy: about two seconds of a stream.
const MAILBOX: usize = 64;

/// By which what is published by a relay is known to those who count sessions.
const LOCAL_FLASH_VER: &str = "ngx-local-relay";
