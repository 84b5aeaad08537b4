//! The child processes of `exec`: starts them, reads what they say, ends and reaps them.
//!
//! It lives on the main thread: the system takes the end of the thread that starts a child for the end of its parent.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use nix::sys::signal::Signal;
use serde::Serialize;
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    sync::oneshot,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

use super::{
    house::{House, Venue},
    live_stream::StreamEvent,
    support::{
        child::{Exit, Failure, How, Order, Processes, System, environment},
        command_line::{CommandLine, Values},
        facts::SessionFacts,
        kept::{Kept, Step},
        said::Said,
    },
};
use crate::{
    config::{
        Config, Exec,
        exec::{ExecEvent, ExecRule, Keep},
    },
    media::key::StreamKey,
};

pub struct Children {
    house: Arc<House>,
    processes: Box<dyn Processes>,
    environment: Vec<(OsString, OsString)>,
    statics: Vec<(ExecRule, Keep)>,
    /// By their id: a name may have a new stream before the end of the old one is heard.
    streams: HashMap<u64, Stream>,
    /// Of children that are kept.
    places: BTreeMap<PlaceId, Place>,
    /// Until they have ended and what they say is read.
    children: HashMap<u64, Child>,
    by_pid: HashMap<i32, u64>,
    /// Those whose first process has ended, and others of their group not yet.
    orphaned: Vec<Orphaned>,
    is_looking_after_orphaned: bool,
    next_child: u64,
    ending: Option<Ending>,
}

/// Somebody plays.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PlayBegan {
    pub key: StreamKey,
    pub facts: Arc<SessionFacts>,
}

/// And does not any more.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PlayEnded {
    pub key: StreamKey,
    pub facts: Arc<SessionFacts>,
}

/// Which children there are.
#[derive(Message)]
#[rtype(result = "Vec<ChildView>")]
pub struct ListChildren;

/// The server is about to end: answered when everybody has gone who is to go with it.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishChildren;

/// One child for those who look on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChildView {
    /// `app/name`; none: it belongs to the server.
    pub stream: Option<String>,
    /// The directive.
    pub kind: &'static str,
    /// Without its secrets.
    pub command: String,
    /// None: it is not running now.
    pub pid: Option<i32>,
    pub running_ms: Option<u64>,
    pub restarts: u64,
    pub last_exit: Option<String>,
}

/// A session that plays where the configuration wants to hear of it. By being dropped it tells that this is over.
pub struct Attendance {
    desk: Addr<Children>,
    key: StreamKey,
    facts: Arc<SessionFacts>,
}

impl Attendance {
    pub fn begin(house: &House, venue: &Venue, key: &StreamKey, facts: impl FnOnce() -> SessionFacts) -> Option<Self> {
        let exec = &venue.application.exec;
        let is_told = exec.has(ExecEvent::Play) || exec.has(ExecEvent::PlayDone);
        let desk = house.desks.children.clone().filter(|_| is_told)?;
        let facts = Arc::new(facts());
        // Once for each player, as its end: neither may get lost.
        desk.do_send(PlayBegan { key: key.clone(), facts: Arc::clone(&facts) });
        Some(Self { desk, key: key.clone(), facts })
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.desk.do_send(PlayEnded { key: self.key.clone(), facts: Arc::clone(&self.facts) });
    }
}

struct Stream {
    key: StreamKey,
    publisher: Option<Arc<SessionFacts>>,
    wish: Wish,
}

/// Does anybody want to play?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Never,
    Now,
    /// Not any more, since then.
    Until(Duration),
}

/// One line of the configuration for one stream, or for the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PlaceId {
    key: Option<StreamKey>,
    event: ExecEvent,
    line: usize,
}

struct Place {
    /// The stream it was last wanted for.
    stream: u64,
    rule: Arc<ExecRule>,
    kill_signal: Signal,
    kept: Kept<Option<Arc<SessionFacts>>>,
    child: Option<u64>,
    /// As it was last started.
    command: String,
    last_exit: Option<String>,
}

struct Child {
    pid: i32,
    key: Option<StreamKey>,
    event: ExecEvent,
    /// As the configuration names it.
    program: String,
    command: String,
    since: Duration,
    /// Where it is kept.
    place: Option<PlaceId>,
    /// It is said nowhere that it goes: it was asked to.
    is_asked_to_go: bool,
    failure: Option<Failure>,
    is_heard: bool,
    has_ended: bool,
}

struct Orphaned {
    child: u64,
    exit: Exit,
    until: Duration,
}

struct Ending {
    /// Also who is not kept is given a moment.
    waits_for_all: bool,
    waiting: Vec<oneshot::Sender<()>>,
}

/// Why there is no child.
enum NotStarted {
    /// Another try would be the same.
    Refused,
    /// It may go better later.
    Failed,
}

impl Children {
    pub fn new(house: Arc<House>, config: &Config) -> Self {
        let environment = environment(&config.process.env);
        Self::with(house, Box::<System>::default(), environment, config.exec_static.clone())
    }

    fn with(
        house: Arc<House>,
        processes: Box<dyn Processes>,
        environment: Vec<(OsString, OsString)>,
        statics: Vec<(ExecRule, Keep)>,
    ) -> Self {
        Self {
            house,
            processes,
            environment,
            statics,
            streams: HashMap::new(),
            places: BTreeMap::new(),
            children: HashMap::new(),
            by_pid: HashMap::new(),
            orphaned: Vec::new(),
            is_looking_after_orphaned: false,
            next_child: 0,
            ending: None,
        }
    }

    // ---- what happens to streams ----

    fn stream(&mut self, id: u64, key: StreamKey) -> &mut Stream {
        self.streams.entry(id).or_insert(Stream { key, publisher: None, wish: Wish::Never })
    }

    fn published(&mut self, id: u64, key: StreamKey, facts: Arc<SessionFacts>, ctx: &mut Context<Self>) {
        let before = self.stream(id, key.clone()).publisher.replace(Arc::clone(&facts));
        if let Some(before) = before {
            self.run(ExecEvent::PublishDone, &key, &before, ctx);
        }
        self.want(ExecEvent::Push, id, &key, Some(&facts), ctx);
        self.run(ExecEvent::Publish, &key, &facts, ctx);
    }

    fn publish_ended(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(facts) = stream.publisher.take() else { return };
        let key = stream.key.clone();
        self.unwant(ExecEvent::Push, id, &key, ctx);
        self.run(ExecEvent::PublishDone, &key, &facts, ctx);
    }

    fn wanted(&mut self, id: u64, key: StreamKey, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.stream(id, key.clone()).wish, Wish::Now) == Wish::Now {
            return; // somebody else wants it, too
        }
        self.want(ExecEvent::Pull, id, &key, None, ctx);
    }

    fn unwanted(&mut self, id: u64, ctx: &mut Context<Self>) {
        let now = self.house.now();
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.wish == Wish::Now) else { return };
        stream.wish = Wish::Until(now);
        let key = stream.key.clone();
        let Some(venue) = self.house.venue_of(&key).filter(|venue| venue.application.exec.pulls()) else { return };
        // As relays do: who comes back finds the stream, and who comes and goes starts no storm.
        ctx.run_later(venue.application.relays.pull_idle, move |children, ctx| {
            let wish = children.streams.get(&id).map(|stream| stream.wish);
            if wish.is_none_or(|wish| wish == Wish::Until(now)) {
                children.unwant(ExecEvent::Pull, id, &key, ctx);
            }
        });
    }

    // ---- children that are kept ----

    fn want(
        &mut self,
        event: ExecEvent,
        id: u64,
        key: &StreamKey,
        facts: Option<&Arc<SessionFacts>>,
        ctx: &mut Context<Self>,
    ) {
        let Some(venue) = self.house.venue_of(key) else { return };
        let exec = &venue.application.exec;
        for (line, rule) in rules(exec, event, key) {
            let place = PlaceId { key: Some(key.clone()), event, line };
            self.want_at(place, id, rule, exec.keep, facts.cloned(), ctx);
        }
    }

    fn want_at(
        &mut self,
        id: PlaceId,
        stream: u64,
        rule: &ExecRule,
        keep: Keep,
        facts: Option<Arc<SessionFacts>>,
        ctx: &mut Context<Self>,
    ) {
        if self.ending.is_some() {
            return;
        }
        let place = self.places.entry(id.clone()).or_insert_with(|| Place {
            stream,
            rule: Arc::new(rule.clone()),
            kill_signal: Signal::try_from(keep.kill_signal).unwrap_or(Signal::SIGKILL),
            kept: Kept::new(keep),
            child: None,
            command: rule.command.program.clone(),
            last_exit: None,
        });
        place.stream = stream;
        if facts.is_none() && place.kept.wanted().is_some() {
            // It is for nobody in particular, so it is for whoever comes now as well.
            return;
        }
        let step = place.kept.want(facts);
        self.follow(&id, step, ctx);
    }

    fn unwant(&mut self, event: ExecEvent, stream: u64, key: &StreamKey, ctx: &mut Context<Self>) {
        let of_stream = |(id, place): (&PlaceId, &Place)| {
            (id.event == event && id.key.as_ref() == Some(key) && place.stream == stream).then(|| id.clone())
        };
        let places: Vec<PlaceId> = self.places.iter().filter_map(of_stream).collect();
        for id in places {
            self.unwant_at(&id, ctx);
        }
    }

    fn unwant_at(&mut self, id: &PlaceId, ctx: &mut Context<Self>) {
        if let Some(place) = self.places.get_mut(id) {
            let step = place.kept.unwant();
            self.follow(id, step, ctx);
        }
    }

    fn follow(&mut self, id: &PlaceId, step: Step, ctx: &mut Context<Self>) {
        let now = self.house.now();
        let Some(place) = self.places.get_mut(id) else { return };
        match step {
            Step::Nothing => {}
            Step::Close => {
                self.places.remove(id);
            }
            Step::Start if self.ending.is_some() => {
                self.places.remove(id);
            }
            Step::Start => {
                let (rule, facts) = (Arc::clone(&place.rule), place.kept.wanted().cloned().flatten());
                let kept = (id, place.kill_signal);
                let started = self.start(&rule, id.key.as_ref(), facts.as_deref(), Some(kept), ctx);
                let Some(place) = self.places.get_mut(id) else { return };
                match started {
                    Ok(child) => {
                        place.child = Some(child);
                        place.kept.started(now);
                        if let Some(child) = self.children.get(&child) {
                            place.command.clone_from(&child.command);
                        }
                    }
                    Err(NotStarted::Refused) => {}
                    Err(NotStarted::Failed) => {
                        let step = place.kept.exited(now);
                        self.follow(id, step, ctx);
                    }
                }
            }
            Step::End => {
                let (Some(child), signal) = (place.child, place.kill_signal) else { return };
                self.ask_to_go(child, signal, ctx);
            }
            Step::Wait(wait, plan) => {
                let id = id.clone();
                ctx.run_later(wait, move |children, ctx| {
                    let Some(place) = children.places.get_mut(&id) else { return };
                    let step = place.kept.due(plan);
                    children.follow(&id, step, ctx);
                });
            }
        }
    }

    fn ask_to_go(&mut self, child: u64, signal: Signal, ctx: &mut Context<Self>) {
        let Some(known) = self.children.get_mut(&child).filter(|known| !known.has_ended) else { return };
        known.is_asked_to_go = true;
        self.processes.signal(known.pid, Some(signal));
        if signal != Signal::SIGKILL {
            ctx.run_later(PATIENCE, move |children, _| children.kill(child));
        }
    }

    fn kill(&mut self, child: u64) {
        if let Some(known) = self.children.get(&child).filter(|known| self.by_pid.get(&known.pid) == Some(&child)) {
            warn!(command = known.program, pid = known.pid, "exec: did not end when it was asked to: killed");
            self.processes.signal(known.pid, Some(Signal::SIGKILL));
        }
    }

    // ---- children that are not ----

    fn run(&mut self, event: ExecEvent, key: &StreamKey, facts: &SessionFacts, ctx: &mut Context<Self>) {
        let Some(venue) = self.house.venue_of(key) else { return };
        for (_, rule) in rules(&venue.application.exec, event, key) {
            // Nobody depends on it, and what was wrong has been said.
            let _ = self.start(rule, Some(key), Some(facts), None, ctx);
        }
    }

    // ---- starting, hearing, reaping ----

    fn start(
        &mut self,
        rule: &ExecRule,
        key: Option<&StreamKey>,
        facts: Option<&SessionFacts>,
        place: Option<(&PlaceId, Signal)>,
        ctx: &mut Context<Self>,
    ) -> Result<u64, NotStarted> {
        let (kind, program) = (rule.event.directive(), rule.command.program.as_str());
        let stream = key.map(tracing::field::display);
        if let Err(limit) = self.has_room(key) {
            warn!(stream, kind, command = program, "exec: not started: {limit} is reached");
            return Err(NotStarted::Failed);
        }
        // A line of the server itself has no variables, so it needs no stream.
        let nowhere = StreamKey { vhost: "".into(), app: "".into(), name: "".into() };
        let values = Values { key: key.unwrap_or(&nowhere), session: facts };
        let line = CommandLine::fill_in(&rule.command, values).map_err(|reason| {
            warn!(stream, kind, command = program, "exec: not started: {reason}");
            NotStarted::Refused
        })?;
        // Who outlives the server must not die of a pipe that nobody reads.
        let is_heard = self.ending.is_none();
        let death_signal = place.map(|(_, signal)| signal);
        let order = Order { line: &line, environment: &self.environment, death_signal, is_heard };
        let started = self.processes.start(&order).map_err(|error| {
            error!(stream, kind, command = program, "exec: cannot start a process: {error}");
            NotStarted::Failed
        })?;
        self.next_child += 1;
        let (id, pid) = (self.next_child, started.pid);
        info!(stream, kind, command = program, pid, "exec: started");
        let child = Child {
            pid,
            key: key.cloned(),
            event: rule.event,
            program: program.to_owned(),
            command: line.masked(),
            since: self.house.now(),
            place: place.map(|(id, _)| id.clone()),
            is_asked_to_go: false,
            failure: started.failure,
            is_heard: started.output.is_some(),
            has_ended: false,
        };
        self.children.insert(id, child);
        self.by_pid.insert(pid, id);
        if let Some(output) = started.output {
            let said = Said::new(self.house.limits.log_rate);
            let heard = hear(output, said, Arc::clone(&self.house), program.to_owned(), pid);
            ctx.spawn(heard.into_actor(self).map(move |(), children, _| {
                if let Some(child) = children.children.get_mut(&id) {
                    child.is_heard = false;
                }
                children.forget(id);
            }));
        }
        Ok(id)
    }

    /// Who has ended but still says something through its own children counts, too.
    fn has_room(&self, key: Option<&StreamKey>) -> Result<(), &'static str> {
        if self.children.len() >= self.house.limits.exec_max_processes as usize {
            return Err("exec_max_processes");
        }
        let Some(key) = key else { return Ok(()) };
        let most = self.house.venue_of(key).map_or(0, |venue| venue.application.exec.max_children);
        let known = self.children.values().filter(|child| child.key.as_ref() == Some(key)).count();
        if known >= most as usize { Err("exec_max_children") } else { Ok(()) }
    }

    fn reap(&mut self, ctx: &mut Context<Self>) {
        let (by_pid, children, places) = (&self.by_pid, &self.children, &self.places);
        // The group of a kept child goes with it.
        let mut group = |pid: i32| {
            let child = children.get(by_pid.get(&pid)?)?;
            places.get(child.place.as_ref()?).map(|place| place.kill_signal)
        };
        for exit in self.processes.reap(&mut group) {
            let Some(id) = self.by_pid.remove(&exit.pid) else { continue };
            let is_kept = self.children.get(&id).is_some_and(|child| child.place.is_some());
            if is_kept && self.processes.signal(exit.pid, None) {
                let patience = if self.ending.is_some() { LAST_PATIENCE } else { PATIENCE };
                self.orphaned.push(Orphaned { child: id, exit, until: self.house.now() + patience });
            } else {
                self.ended(id, exit, ctx);
            }
        }
        self.look_after_orphaned(ctx);
    }

    /// Nothing tells when a group is empty, so somebody has to look.
    fn look_after_orphaned(&mut self, ctx: &mut Context<Self>) {
        if self.orphaned.is_empty() || std::mem::replace(&mut self.is_looking_after_orphaned, true) {
            return;
        }
        ctx.run_later(LOOK, |children, ctx| {
            children.is_looking_after_orphaned = false;
            let now = children.house.now();
            let (mut gone, mut left) = (Vec::new(), Vec::new());
            for orphaned in std::mem::take(&mut children.orphaned) {
                let pid = orphaned.exit.pid;
                if !children.processes.signal(pid, None) {
                    gone.push(orphaned);
                } else if now >= orphaned.until {
                    warn!(pid, "exec: what a child had started did not end when it was asked to: killed");
                    children.processes.signal(pid, Some(Signal::SIGKILL));
                    gone.push(orphaned);
                } else {
                    left.push(orphaned);
                }
            }
            children.orphaned = left;
            for orphaned in gone {
                children.ended(orphaned.child, orphaned.exit, ctx);
            }
            children.look_after_orphaned(ctx);
        });
    }

    /// A child and all its own are gone.
    fn ended(&mut self, id: u64, exit: Exit, ctx: &mut Context<Self>) {
        let now = self.house.now();
        let Some(child) = self.children.get_mut(&id) else { return };
        child.has_ended = true;
        let failure = child.failure.take().and_then(Failure::reason);
        let (command, pid, how) = (&child.program, child.pid, exit.how);
        let stream = child.key.as_ref().map(tracing::field::display);
        let kind = child.event.directive();
        let seconds = now.saturating_sub(child.since).as_secs();
        match &failure {
            Some(reason) => error!(stream, kind, command, pid, "exec: cannot run \"{command}\": {reason}"),
            None if child.is_asked_to_go || (child.place.is_none() && how == How::Code(0)) => {
                info!(stream, kind, command, pid, seconds, "exec: {how}");
            }
            None => warn!(stream, kind, command, pid, seconds, "exec: {how}"),
        }
        let last_exit = failure.unwrap_or_else(|| how.to_string());
        if let Some(place_id) = child.place.clone() {
            let place = self.places.get_mut(&place_id).filter(|place| place.child == Some(id));
            if let Some(place) = place {
                place.child = None;
                place.last_exit = Some(last_exit);
                let step = place.kept.exited(now);
                if let Step::Wait(wait, _) = step {
                    let wait_ms = wait.as_millis() as u64;
                    info!(
                        stream = place_id.key.as_ref().map(tracing::field::display),
                        kind, wait_ms, "exec: starts again"
                    );
                }
                self.follow(&place_id, step, ctx);
            }
        }
        self.forget(id);
    }

    fn forget(&mut self, id: u64) {
        if self.children.get(&id).is_some_and(|child| child.has_ended && !child.is_heard) {
            self.children.remove(&id);
        }
        self.answer_finish();
    }

    // ---- the end ----

    fn answer_finish(&mut self) {
        let Some(ending) = &mut self.ending else { return };
        let is_left = |child: &Child| !child.has_ended && (ending.waits_for_all || child.place.is_some());
        if !self.children.values().any(is_left) {
            for waiting in ending.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }
}

/// The lines for an event of this stream, by their place in the configuration.
fn rules<'a>(exec: &'a Exec, event: ExecEvent, key: &StreamKey) -> impl Iterator<Item = (usize, &'a ExecRule)> {
    let rules = exec.rules.iter().enumerate();
    rules.filter(move |(_, rule)| rule.event == event && rule.is_for(&key.name))
}

/// Reads what a child says until it and its own children say no more.
async fn hear(output: OwnedFd, mut said: Said, house: Arc<House>, program: String, pid: i32) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(output) else { return };
    let write = |lines: Vec<String>| lines.iter().for_each(|line| info!("{program}[{pid}]: {line}"));
    let mut buffer = vec![0; READ_BYTES];
    let mut pause = interval(READ_WINDOW);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut budget = READ_BUDGET;
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        write(said.push(buffer.get(..count).unwrap_or_default(), house.now()));
        budget = budget.saturating_sub(count);
        if budget == 0 {
            // Who floods waits in its pipe, and nobody else waits for it.
            pause.tick().await;
            budget = READ_BUDGET;
        }
    }
    write(said.finish(house.now()));
}

impl Actor for Children {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        match self.processes.watch() {
            Ok(ended) => {
                ctx.add_stream(ended);
            }
            Err(error) => error!("exec: cannot hear of children that end: {error}"),
        }
        for (line, (rule, keep)) in self.statics.clone().into_iter().enumerate() {
            let place = PlaceId { key: None, event: ExecEvent::Static, line };
            self.want_at(place, 0, &rule, keep, None, ctx);
        }
    }
}

/// Somebody may have ended.
impl StreamHandler<()> for Children {
    fn handle(&mut self, (): (), ctx: &mut Self::Context) {
        self.reap(ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<StreamEvent> for Children {
    type Result = ();

    fn handle(&mut self, event: StreamEvent, ctx: &mut Self::Context) {
        match event {
            StreamEvent::Published { key, opened, facts } => self.published(opened.counters.id, key, facts, ctx),
            StreamEvent::Replaced { key, id, facts } => self.published(id, key, facts, ctx),
            StreamEvent::Ended { id, .. } => self.publish_ended(id, ctx),
            StreamEvent::Wanted { key, opened, .. } => self.wanted(opened.counters.id, key, ctx),
            StreamEvent::Unwanted { id, .. } => self.unwanted(id, ctx),
            StreamEvent::Gone { id, .. } => {
                self.publish_ended(id, ctx);
                self.unwanted(id, ctx);
                self.streams.remove(&id);
            }
        }
    }
}

impl Handler<PlayBegan> for Children {
    type Result = ();

    fn handle(&mut self, PlayBegan { key, facts }: PlayBegan, ctx: &mut Self::Context) {
        self.run(ExecEvent::Play, &key, &facts, ctx);
    }
}

impl Handler<PlayEnded> for Children {
    type Result = ();

    fn handle(&mut self, PlayEnded { key, facts }: PlayEnded, ctx: &mut Self::Context) {
        self.run(ExecEvent::PlayDone, &key, &facts, ctx);
    }
}

impl Handler<ListChildren> for Children {
    type Result = MessageResult<ListChildren>;

    fn handle(&mut self, _: ListChildren, _: &mut Self::Context) -> Self::Result {
        let now = self.house.now();
        let running = |child: &Child| now.saturating_sub(child.since).as_millis() as u64;
        let kept = self.places.iter().map(|(id, place)| {
            let child = place.child.and_then(|child| self.children.get(&child));
            ChildView {
                stream: id.key.as_ref().map(StreamKey::to_string),
                kind: id.event.directive(),
                command: place.command.clone(),
                pid: child.map(|child| child.pid),
                running_ms: child.map(running),
                restarts: place.kept.restarts(),
                last_exit: place.last_exit.clone(),
            }
        });
        let others = self.children.values().filter(|child| child.place.is_none() && !child.has_ended);
        let others = others.map(|child| ChildView {
            stream: child.key.as_ref().map(StreamKey::to_string),
            kind: child.event.directive(),
            command: child.command.clone(),
            pid: Some(child.pid),
            running_ms: Some(running(child)),
            restarts: 0,
            last_exit: None,
        });
        MessageResult(kept.chain(others).collect())
    }
}

impl Handler<FinishChildren> for Children {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishChildren, ctx: &mut Self::Context) -> Self::Result {
        let (done, answer) = oneshot::channel();
        let ending = self.ending.get_or_insert(Ending { waits_for_all: true, waiting: Vec::new() });
        ending.waiting.push(done);
        // Who still publishes will not be heard of again.
        let published: Vec<u64> = self.streams.keys().copied().collect();
        for id in published {
            self.publish_ended(id, ctx);
        }
        let places: Vec<PlaceId> = self.places.keys().cloned().collect();
        for id in places {
            self.unwant_at(&id, ctx);
        }
        ctx.run_later(LAST_MOMENT, |children, _| {
            if let Some(ending) = &mut children.ending {
                ending.waits_for_all = false;
            }
            children.answer_finish();
        });
        ctx.run_later(LAST_PATIENCE, |children, _| {
            let kept = children.children.iter().filter(|(_, child)| child.place.is_some() && !child.has_ended);
            let kept: Vec<u64> = kept.map(|(id, _)| *id).collect();
            kept.into_iter().for_each(|id| children.kill(id));
        });
        self.answer_finish();
        Box::pin(async move {
            let _ = answer.await;
        })
    }
}

/// How long a child may take to go after `exec_kill_signal`.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same when the server itself ends.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// What commands that nobody keeps are given then: `exec_publish_done` is not cut off where it begins.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// How often a group is looked at whose first process has gone.
const LOOK: Duration = Duration::from_millis(100);

/// What a child says is read in pieces of this size, at most [`READ_BUDGET`] in each [`READ_WINDOW`].
const READ_BYTES: usize = 16 << 10;
const READ_BUDGET: usize = 400 << 10;
const READ_WINDOW: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashSet, future::pending, io, rc::Rc};

    use futures_util::stream::{self, LocalBoxStream, StreamExt};
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::{
        actors::{
            house::Desks,
            live_stream::{EndPublish, Publish, Replaced, StreamEvents},
            router::{OpenStream, Opened, Purpose, Router},
            support::{census::Census, child::Started, directory::Directory},
        },
        log::access::AccessLogFiles,
    };

    /// Processes that do as a test says.
    #[derive(Default)]
    struct World {
        /// What was started, with its arguments.
        started: Vec<String>,
        alive: HashSet<i32>,
        exits: Vec<Exit>,
        tell: Option<mpsc::Sender<()>>,
        dies_at_once: bool,
        /// Only KILL ends anybody.
        is_stubborn: bool,
        signals: Vec<(i32, Signal)>,
    }

    impl World {
        fn exit(&mut self, pid: i32, how: How) {
            if self.alive.remove(&pid) {
                self.exits.push(Exit { pid, how });
                let _ = self.tell.as_ref().expect("it is watched").try_send(());
            }
        }
    }

    struct Fake(Rc<RefCell<World>>);

    impl Processes for Fake {
        fn watch(&mut self) -> io::Result<LocalBoxStream<'static, ()>> {
            let (tell, told) = mpsc::channel(100);
            self.0.borrow_mut().tell = Some(tell);
            Ok(stream::unfold(told, |mut told| async { told.recv().await.map(|()| ((), told)) }).boxed_local())
        }

        fn start(&mut self, order: &Order<'_>) -> io::Result<Started> {
            let mut world = self.0.borrow_mut();
            world.started.push(order.line.masked());
            let pid = 1000 + i32::try_from(world.started.len()).expect("a test is short");
            world.alive.insert(pid);
            if world.dies_at_once {
                world.exit(pid, How::Code(1));
            }
            Ok(Started { pid, output: None, failure: None })
        }

        fn signal(&mut self, pid: i32, signal: Option<Signal>) -> bool {
            let mut world = self.0.borrow_mut();
            let is_alive = world.alive.contains(&pid);
            if let Some(signal) = signal {
                world.signals.push((pid, signal));
                if !world.is_stubborn || signal == Signal::SIGKILL {
                    world.exit(pid, How::Signal(signal));
                }
            }
            is_alive
        }

        fn reap(&mut self, _: &mut dyn FnMut(i32) -> Option<Signal>) -> Vec<Exit> {
            std::mem::take(&mut self.0.borrow_mut().exits)
        }
    }

    struct Publisher;
    impl Actor for Publisher {
        type Context = Context<Self>;
    }
    impl Handler<Replaced> for Publisher {
        type Result = ();
        fn handle(&mut self, _: Replaced, _: &mut Self::Context) {}
    }

    struct Scene {
        house: Arc<House>,
        children: Addr<Children>,
        world: Rc<RefCell<World>>,
    }

    impl Scene {
        /// A server with these lines in its application `live`.
        fn new(lines: &str) -> Self {
            tokio::time::pause();
            let text = format!(
                "rtmp {{ access_log off; server {{ application live {{ live on; duplicate_publisher replace; {lines} }} }} }}"
            );
            let config = Config::parse("x.conf", text.as_bytes()).expect("a good configuration");
            let children = Context::<Children>::new();
            let events = StreamEvents::to([children.address().recipient()]);
            let directory = Directory::default();
            let (alive, _) = oneshot::channel();
            let router = Router::new(config.limits.clone(), directory.clone(), events, alive).start();
            let logs = AccessLogFiles::open(&config, None).expect("there is nothing to open");
            let logs = logs.start().expect("there is nothing to start");
            let census = Census::new(config.limits.clone(), 100);
            let desks = Desks { children: Some(children.address()), ..Desks::default() };
            let house = Arc::new(House::new(router, census, directory, &config, &logs, 1).with_desks(desks));
            let world = Rc::new(RefCell::new(World::default()));
            let fake = Box::new(Fake(Rc::clone(&world)));
            let children = children.run(Children::with(Arc::clone(&house), fake, Vec::new(), config.exec_static));
            Self { house, children, world }
        }

        fn key() -> StreamKey {
            StreamKey::parse("default", "live", "cam").expect("a good name")
        }

        async fn publish(&self, session: u64) -> Opened {
            let venue = self.house.venue_of(&Self::key()).expect("it is there");
            let open = OpenStream {
                key: Self::key(),
                rules: Arc::clone(&venue.rules),
                purpose: Purpose::Publish,
                home: Arbiter::current(),
            };
            let opened = self.house.router.send(open).await.expect("the router lives").expect("there is room");
            let facts = SessionFacts { id: session, args: format!("n={session}"), ..SessionFacts::default() };
            let asked = Publish { facts: Arc::new(facts), to: Publisher.start().recipient() };
            opened.stream.send(asked).await.expect("the stream lives").expect("the name is free");
            self.settle().await;
            opened
        }

        async fn end_publish(&self, opened: &Opened, session: u64) {
            opened.stream.send(EndPublish { session }).await.expect("the stream lives");
            self.settle().await;
        }

        async fn settle(&self) {
            pass(Duration::from_millis(1)).await;
        }

        fn started(&self) -> Vec<String> {
            self.world.borrow().started.clone()
        }

        async fn views(&self) -> Vec<ChildView> {
            self.children.send(ListChildren).await.expect("it lives")
        }
    }

    async fn pass(time: Duration) {
        let _ = timeout(time, pending::<()>()).await;
    }

    #[actix::test]
    async fn a_child_that_dies_at_once_is_started_thirteen_times_in_ten_minutes() {
        let scene = Scene::new("exec x $name;");
        scene.world.borrow_mut().dies_at_once = true;
        let opened = scene.publish(1).await;
        pass(Duration::from_secs(599)).await;
        // After 5, 10, 20 and 40 s, then once a minute.
        assert_eq!(scene.started().len(), 13);
        let [view] = scene.views().await.try_into().expect("one place");
        assert_eq!((view.pid, view.restarts, view.last_exit.as_deref()), (None, 12, Some("exited with code 1")));
        scene.end_publish(&opened, 1).await;
        pass(Duration::from_secs(600)).await;
        assert_eq!(scene.started().len(), 13, "nobody publishes any more");
        assert_eq!(scene.views().await, []);
    }

    #[actix::test]
    async fn who_takes_a_stream_over_has_everything_done_in_order() {
        let scene = Scene::new(
            "exec_kill_signal term; exec keep $args; exec_publish began $args; exec_publish_done ended $args;",
        );
        scene.world.borrow_mut().is_stubborn = true;
        let _stays = scene.publish(1).await;
        let opened = scene.publish(2).await;
        assert_eq!(scene.started(), ["keep n=1", "began n=1", "ended n=1", "began n=2"]);
        // Its successor waits for the first to be gone.
        scene.world.borrow_mut().exit(1001, How::Code(0));
        scene.settle().await;
        assert_eq!(scene.started().last(), Some(&"keep n=2".to_owned()));
        scene.end_publish(&opened, 2).await;
        assert_eq!(scene.started().last(), Some(&"ended n=2".to_owned()));
        assert_eq!(scene.started().len(), 6);
    }

    #[actix::test]
    async fn who_does_not_go_is_killed_after_five_seconds() {
        let scene = Scene::new("exec_kill_signal term; exec x;");
        scene.world.borrow_mut().is_stubborn = true;
        let opened = scene.publish(1).await;
        scene.end_publish(&opened, 1).await;
        pass(Duration::from_millis(4900)).await;
        assert_eq!(scene.world.borrow().signals, [(1001, Signal::SIGTERM)]);
        pass(Duration::from_millis(200)).await;
        assert_eq!(scene.world.borrow().signals, [(1001, Signal::SIGTERM), (1001, Signal::SIGKILL)]);
        assert_eq!(scene.views().await, []);
    }

    #[actix::test]
    async fn a_stream_has_so_many_children_and_no_more() {
        let scene = Scene::new("exec_max_children 2; exec a; exec b; exec c; exec_publish d;");
        let _stays = scene.publish(1).await;
        assert_eq!(scene.started(), ["a", "b"]);
        scene.world.borrow_mut().exit(1001, How::Code(0));
        pass(Duration::from_secs(6)).await;
        let started = scene.started();
        assert_eq!(started.len(), 3, "whoever comes first has the room: {started:?}");
    }

    #[actix::test]
    async fn the_end_waits_for_those_who_are_kept_and_kills_the_stubborn() {
        let scene = Scene::new("exec_kill_signal term; exec a; exec_static s; exec_publish_done done;");
        scene.world.borrow_mut().is_stubborn = true;
        let _stays = scene.publish(1).await;
        let before = scene.house.now();
        scene.children.send(FinishChildren).await.expect("it lives");
        let took = scene.house.now() - before;
        assert!((LAST_PATIENCE..LAST_PATIENCE + Duration::from_millis(100)).contains(&took), "{took:?}");
        assert_eq!(scene.started(), ["s", "a", "done"]);
        assert_eq!(scene.world.borrow().alive.len(), 1, "nobody waits for the last one longer than a moment");
    }

    #[actix::test]
    async fn an_end_with_nobody_left_is_answered_at_once() {
        let scene = Scene::new("exec a;");
        let before = scene.house.now();
        scene.children.send(FinishChildren).await.expect("it lives");
        assert_eq!(scene.house.now(), before);
        scene.publish(1).await;
        assert_eq!(scene.started(), [""; 0], "nothing begins any more");
    }

    #[actix::test]
    async fn a_play_is_told_once_and_its_end_once() {
        let scene = Scene::new("exec_play p $name; exec_play_done d $name;");
        let venue = scene.house.venue_of(&Scene::key()).expect("it is there");
        let attendance = Attendance::begin(&scene.house, &venue, &Scene::key(), SessionFacts::default);
        scene.settle().await;
        assert_eq!(scene.started(), ["p cam"]);
        drop(attendance.expect("somebody wants to know"));
        scene.settle().await;
        assert_eq!(scene.started(), ["p cam", "d cam"]);
    }

    #[actix::test]
    async fn nobody_is_told_of_players_that_no_line_is_about() {
        let scene = Scene::new("exec a;");
        let venue = scene.house.venue_of(&Scene::key()).expect("it is there");
        assert!(Attendance::begin(&scene.house, &venue, &Scene::key(), SessionFacts::default).is_none());
    }
}
