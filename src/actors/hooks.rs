//! The hooks of the configuration: asks them, tells them, and remembers what they have not heard yet.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    house::{House, Venue},
    live_stream::StreamEvent,
    support::{
        counters::StreamCounters,
        errands::{Errand, Errands},
        facts::SessionFacts,
        hook_call::{HookAnswer, HookCall, HookError, is_heard},
        hook_client::HookClient,
        notify::{self, Event, Progress},
    },
};

pub struct Hooks {
    house: Arc<House>,
    client: HookClient,
    errands: Errands,
    /// Sessions with updates, by the number of their debt.
    watched: HashMap<u64, Watched>,
    /// Told when everything has been heard.
    finishing: Vec<oneshot::Sender<()>>,
    next_look: SpawnHandle,
    /// Who publishes what, by the stream's whole name: of streams whose playlists somebody wants to hear of.
    publishers: HashMap<String, Publisher>,
}

/// Whose playlists are written.
struct Publisher {
    venue: Arc<Venue>,
    facts: Arc<SessionFacts>,
    /// Of the stream.
    id: u64,
}

/// A session that is asked about from time to time.
struct Watched {
    /// On the clock of the house.
    since: Duration,
    updates: Vec<Arc<Update>>,
    counters: Arc<StreamCounters>,
    expel: Box<dyn Fn(String) + Send>,
}

/// Asks a hook that decides something. It is asked once.
#[derive(Message)]
#[rtype(result = "Result<HookAnswer, HookError>")]
pub struct Ask(pub HookCall);

/// Tells a hook that something is over. It is told again until it has heard it, within bounds.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Tell(pub HookCall);

/// What a session that was let in owes its hooks.
#[derive(Default)]
pub struct Owing {
    /// While it lasts.
    pub updates: Vec<Update>,
    /// When it is over: in this order, each exactly once.
    pub done: Vec<HookCall>,
}

/// A call that is made again and again.
pub struct Update {
    pub every: Duration,
    pub rule: UpdateRule,
    pub call: Box<dyn Fn(&Progress) -> HookCall + Send + Sync>,
}

/// What the answer to an update means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateRule {
    /// Nothing.
    Ignored,
    /// A refusal or no answer ends the session.
    Lenient,
    /// Anything but 2xx does.
    Strict,
}

/// The session must end: a hook no longer wants it.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Expelled {
    pub reason: String,
}

/// Answers everybody who waits for an answer, and everybody who asks from now on, that the server is ending.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopAsking;

/// Answered once everything has been heard. Who asks bounds the wait.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishHooks;

/// How the hooks are.
#[derive(Message)]
#[rtype(result = "HookStatus")]
pub struct ListHooks;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, MessageResponse)]
pub struct HookStatus {
    /// Sessions that wait for an answer.
    pub asking: usize,
    /// Sessions that are asked about from time to time.
    pub updating: usize,
    /// Questions that found too many others waiting.
    pub crowded: u64,
    pub endpoints: Vec<EndpointStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointStatus {
    /// `scheme://host:port`.
    pub endpoint: String,
    pub asked: u64,
    /// Questions without an answer.
    pub failed: u64,
    /// Words that have not been heard yet.
    pub waiting: usize,
    pub delivered: u64,
    /// Given up: too old, or too many.
    pub lost: u64,
    pub last_error: Option<String>,
}

/// Held by a session for as long as it lasts: dropping it sends what is owed, also in a panic. Empty: nothing is.
#[derive(Default)]
pub struct Debt(Option<Box<Owed>>);

struct Owed {
    id: u64,
    desk: Addr<Hooks>,
    owing: Owing,
    is_watched: bool,
}

/// A session with updates has begun.
#[derive(Message)]
#[rtype(result = "()")]
struct Watch {
    id: u64,
    watched: Watched,
}

/// A playlist or a manifest of this stream lies on the disk anew.
#[derive(Message)]
#[rtype(result = "()")]
struct PlaylistWritten {
    stream: String,
    path: String,
}

/// Nothing that is owed is still on its way here.
#[derive(Message)]
#[rtype(result = "()")]
struct AnswerWhenHeard(oneshot::Sender<()>);

/// A session is over: what it owes is due.
#[derive(Message)]
#[rtype(result = "()")]
struct Settle {
    /// Of a session with updates.
    id: Option<u64>,
    done: Vec<HookCall>,
}

/// Notes what a session owes.
pub fn owe(desk: &Addr<Hooks>, owing: Owing) -> Debt {
    if owing.updates.is_empty() && owing.done.is_empty() {
        return Debt::default();
    }
    let id = NEXT_DEBT.fetch_add(1, Ordering::Relaxed);
    Debt(Some(Box::new(Owed { id, desk: desk.clone(), owing, is_watched: false })))
}

impl Debt {
    /// More is owed for the same session, which has not begun yet.
    pub fn add(&mut self, desk: &Addr<Hooks>, owing: Owing) {
        match &mut self.0 {
            Some(owed) => {
                owed.owing.updates.extend(owing.updates);
                owed.owing.done.extend(owing.done);
            }
            None => *self = owe(desk, owing),
        }
    }

    /// The session has begun: its updates are due from now on. `to` learns when one of them ends it.
    pub fn begin(&mut self, counters: &Arc<StreamCounters>, to: impl FnOnce() -> Recipient<Expelled>) {
        if self.has_updates() {
            let to = to();
            // Once in the life of a session.
            self.begin_with(counters, move |reason| to.do_send(Expelled { reason }));
        }
    }

    fn has_updates(&self) -> bool {
        self.0.as_deref().is_some_and(|owed| !owed.owing.updates.is_empty())
    }

    /// The same for a session that is no actor.
    pub fn begin_with(&mut self, counters: &Arc<StreamCounters>, expel: impl Fn(String) + Send + 'static) {
        let Some(owed) = self.0.as_deref_mut().filter(|owed| !owed.owing.updates.is_empty()) else { return };
        let updates = std::mem::take(&mut owed.owing.updates).into_iter().map(Arc::new).collect();
        let watched =
            Watched { since: Duration::ZERO, updates, counters: Arc::clone(counters), expel: Box::new(expel) };
        owed.is_watched = true;
        // Once for each session, and before the word of its end.
        owed.desk.do_send(Watch { id: owed.id, watched });
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let done = std::mem::take(&mut self.owing.done);
        // Once for each session, and it may not get lost.
        self.desk.do_send(Settle { id: self.is_watched.then_some(self.id), done });
    }
}

impl Hooks {
    pub fn new(house: Arc<House>) -> Self {
        Self {
            house,
            client: HookClient::default(),
            errands: Errands::default(),
            watched: HashMap::new(),
            finishing: Vec::new(),
            next_look: SpawnHandle::default(),
            publishers: HashMap::new(),
        }
    }

    fn now(&self) -> Duration {
        self.house.now()
    }

    fn add(&mut self, calls: Vec<HookCall>, ctx: &mut Context<Self>) {
        let named = calls.first().map(|call| (call.event, call.endpoint().to_owned()));
        if let (false, Some((event, hook))) = (self.errands.add(calls, self.now()), named) {
            warn!(event, hook, "notify: too much waits to be heard; this is lost");
        }
        self.deliver(ctx);
    }

    /// Tells whatever may be told now, and comes back when more may.
    fn deliver(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        while let Some(errand) = self.errands.next(now) {
            let Some(call) = errand.call().cloned() else { continue };
            let client = self.client.clone();
            let told = async move { client.call(&call).await };
            ctx.spawn(told.into_actor(self).map(move |outcome, hooks, ctx| hooks.note(errand, &outcome, ctx)));
        }
        ctx.cancel_future(self.next_look);
        if let Some(due) = self.errands.due() {
            self.next_look = ctx.run_later(due.saturating_sub(now), |hooks, ctx| hooks.deliver(ctx));
        }
        if self.errands.waiting() == 0 {
            for finished in self.finishing.drain(..) {
                // Who asked may have stopped waiting.
                let _ = finished.send(());
            }
        }
    }

    fn note(&mut self, errand: Errand, outcome: &Result<HookAnswer, HookError>, ctx: &mut Context<Self>) {
        if is_heard(outcome) {
            self.errands.heard(errand);
        } else {
            let (event, hook) = errand.call().map(|call| (call.event, call.endpoint().to_owned())).unwrap_or_default();
            let why = match outcome {
                Ok(answer) => answer.status.to_string(),
                Err(error) => error.to_string(),
            };
            let kept = self.errands.not_heard(errand, self.now(), rand::random());
            warn!(event, hook, why, kept, "notify: not heard");
        }
        self.deliver(ctx);
    }

    fn update_later(&self, id: u64, update: Arc<Update>, ctx: &mut Context<Self>) {
        ctx.run_later(update.every, move |hooks, ctx| hooks.update(id, update, ctx));
    }

    /// Asks about a session, and again later unless that ends it.
    fn update(&self, id: u64, update: Arc<Update>, ctx: &mut Context<Self>) {
        let Some(watched) = self.watched.get(&id) else { return };
        let progress = Progress {
            seconds: self.now().saturating_sub(watched.since).as_secs(),
            timestamp_ms: watched.counters.clock_ms.load(Ordering::Relaxed),
        };
        let (client, call) = (self.client.clone(), (update.call)(&progress));
        let asked = async move { client.ask(&call).await };
        ctx.spawn(asked.into_actor(self).map(move |answer, hooks, ctx| {
            let why = match update.rule {
                UpdateRule::Ignored => None,
                UpdateRule::Lenient => notify::ends(false, &answer),
                UpdateRule::Strict => notify::ends(true, &answer),
            };
            match why {
                None => hooks.update_later(id, update, ctx),
                Some(reason) => {
                    if let Some(watched) = hooks.watched.remove(&id) {
                        info!(reason, "notify: a session is ended");
                        (watched.expel)(reason);
                    }
                }
            }
        }));
    }
}

impl Actor for Hooks {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What asks is bounded behind this, and counted there.
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(SWEEP, |hooks, _| hooks.house.guests.expire(hooks.now()));
        if self.house.applications().any(|application| application.hooks.notify.playlist.is_some()) {
            let desk = ctx.address();
            // One for each segment that is written, which are seconds apart.
            self.house.disk.tell_rewritten(move |stream, path| {
                let (stream, path) = (stream.to_owned(), path.display().to_string());
                desk.do_send(PlaylistWritten { stream, path });
            });
        }
    }
}

impl Handler<Ask> for Hooks {
    type Result = ResponseFuture<Result<HookAnswer, HookError>>;

    fn handle(&mut self, Ask(call): Ask, _: &mut Self::Context) -> Self::Result {
        let client = self.client.clone();
        Box::pin(async move { client.ask(&call).await })
    }
}

impl Handler<Tell> for Hooks {
    type Result = ();

    fn handle(&mut self, Tell(call): Tell, ctx: &mut Self::Context) {
        self.add(vec![call], ctx);
    }
}

impl Handler<Watch> for Hooks {
    type Result = ();

    fn handle(&mut self, Watch { id, watched }: Watch, ctx: &mut Self::Context) {
        for update in &watched.updates {
            self.update_later(id, Arc::clone(update), ctx);
        }
        self.watched.insert(id, Watched { since: self.now(), ..watched });
    }
}

impl Handler<Settle> for Hooks {
    type Result = ();

    fn handle(&mut self, Settle { id, done }: Settle, ctx: &mut Self::Context) {
        if let Some(id) = id {
            self.watched.remove(&id);
        }
        self.add(done, ctx);
    }
}

impl Handler<StopAsking> for Hooks {
    type Result = ();

    fn handle(&mut self, _: StopAsking, _: &mut Self::Context) {
        self.client.stop_asking();
    }
}

impl Handler<FinishHooks> for Hooks {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishHooks, ctx: &mut Self::Context) -> Self::Result {
        // Those who leave now say so in messages of their own: the end comes behind them.
        self.house.guests.clear();
        let (finished, all_heard) = oneshot::channel();
        ctx.address().do_send(AnswerWhenHeard(finished));
        Box::pin(async { drop(all_heard.await) })
    }
}

impl Handler<AnswerWhenHeard> for Hooks {
    type Result = ();

    fn handle(&mut self, AnswerWhenHeard(finished): AnswerWhenHeard, ctx: &mut Self::Context) {
        self.finishing.push(finished);
        self.errands.hurry(self.now());
        self.deliver(ctx);
    }
}

impl Handler<ListHooks> for Hooks {
    type Result = HookStatus;

    fn handle(&mut self, _: ListHooks, _: &mut Self::Context) -> Self::Result {
        let mut endpoints: BTreeMap<String, EndpointStatus> = BTreeMap::new();
        for (endpoint, calls) in self.client.calls() {
            let status = endpoints.entry(endpoint).or_default();
            (status.asked, status.failed, status.last_error) = (calls.asked, calls.failed, calls.last_error);
        }
        for (endpoint, tally) in self.errands.tallies() {
            let status = endpoints.entry(endpoint.to_owned()).or_default();
            (status.waiting, status.delivered, status.lost) = (tally.waiting, tally.delivered, tally.lost);
        }
        let endpoints = endpoints.into_iter().map(|(endpoint, status)| EndpointStatus { endpoint, ..status });
        HookStatus {
            asking: self.client.waiting(),
            updating: self.watched.len(),
            crowded: self.client.crowded(),
            endpoints: endpoints.collect(),
        }
    }
}

impl Handler<PlaylistWritten> for Hooks {
    type Result = ();

    fn handle(&mut self, PlaylistWritten { stream, path }: PlaylistWritten, ctx: &mut Self::Context) {
        let Some(Publisher { venue, facts, .. }) = self.publishers.get(&stream) else { return };
        let rules = &venue.application.hooks.notify;
        let Some(url) = &rules.playlist else { return };
        let call = notify::call(rules, url, &Event::Playlist { path: &path }, facts);
        let client = self.client.clone();
        // The next one comes in seconds: one that is not heard is not told again.
        let told = async move { client.ask(&call).await };
        ctx.spawn(told.into_actor(self).map(|_, _, _| ()));
    }
}

impl Handler<StreamEvent> for Hooks {
    type Result = ();

    fn handle(&mut self, event: StreamEvent, _: &mut Self::Context) {
        let (key, id, facts) = match event {
            StreamEvent::Published { key, opened, facts } => (key, opened.id(), facts),
            StreamEvent::Replaced { key, id, facts } => (key, id, facts),
            StreamEvent::Gone { key, id } => {
                let name = key.to_string();
                if self.publishers.get(&name).is_some_and(|publisher| publisher.id == id) {
                    self.publishers.remove(&name);
                }
                return;
            }
            StreamEvent::Ended { .. } | StreamEvent::Wanted { .. } | StreamEvent::Unwanted { .. } => return,
        };
        let minds = |venue: &Arc<Venue>| venue.application.hooks.notify.playlist.is_some();
        if let Some(venue) = self.house.venue_of(&key).filter(minds) {
            self.publishers.insert(key.to_string(), Publisher { venue, facts, id });
        }
    }
}

static NEXT_DEBT: AtomicU64 = AtomicU64::new(1);

/// How often viewers that left without a word are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Messages that may wait while the arbiter is busy.
const MAILBOX: usize = 1024;
