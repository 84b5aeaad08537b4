//! The supervisor of relays: which stream is pushed where and pulled from where, and when one is tried again.
//!
//! Control plane: no frame passes through here. It knows of a stream what its events tell, decides whether it is to be
//! pulled, and starts one [`Relay`] for each attempt.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{WeakAddr, prelude::*};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{
    house::{House, Venue},
    live_stream::{AwaitPublisher, EndPublish, Expel, LiveStream, StreamEvent, TurnAway},
    relay::{EndRelay, Goal, Question, Relay, Trip},
    router::{NoStream, OpenStream, Opened, Purpose},
    source::Refusal,
    support::{
        counters::StreamCounters,
        facts::SessionFacts,
        link::{ExitReason, Exited, Link},
        oclp_call::{Event, Subject},
        relay_plan::{Direction, Leg, Next, Patience},
        relay_status::{Fate, RelayStatus, RelayView, State},
        route::Route,
        targets::{OwnListens, Scheme, Target, TargetError, Trust},
    },
};
use crate::{
    config::{Application, HookTargets, OclpRule, Server},
    media::key::StreamKey,
};

pub struct Relays {
    house: Arc<House>,
    servers: Vec<Arc<Server>>,
    /// Where relays live, in turn.
    homes: Vec<ArbiterHandle>,
    next_home: usize,
    own_listens: Arc<OwnListens>,
    /// The streams that are there.
    streams: HashMap<StreamKey, Watched>,
    relays: HashMap<u64, Known>,
    /// What hooks named for sessions that are about to publish.
    named: Vec<(Instant, PushTo)>,
    /// What they named for streams that somebody is about to play.
    sources: Vec<(Instant, PullFrom)>,
    /// What an operator asked for while the server runs. Bounded by [`MAX_ADDED`].
    added: Vec<Added>,
    /// Answered once there is no relay left.
    finishing: Option<Vec<oneshot::Sender<()>>>,
}

/// Pushes what this session publishes, or is about to, to each of these targets.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PushTo {
    pub key: StreamKey,
    /// The id of the publisher's session.
    pub session: u64,
    pub targets: Vec<Target>,
    /// Who named them.
    pub trust: Trust,
}

/// Pulls this stream for somebody who is about to play it; the targets are tried in turn.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PullFrom {
    pub key: StreamKey,
    pub targets: Vec<Target>,
    pub trust: Trust,
}

/// What relays there are.
#[derive(Message)]
#[rtype(result = "Vec<RelayView>")]
pub struct ListRelays;

/// Pushes or pulls this stream from now on, until it is told to stop. Asked for again, it is the same relay.
#[derive(Message)]
#[rtype(result = "Result<RelayAdded, RelayRefused>")]
pub struct AddRelay {
    pub key: StreamKey,
    pub direction: Direction,
    /// What it leaves out is the stream's own: `rtmp://host` is enough.
    pub url: String,
}

/// The relay that was asked for.
#[derive(Clone, Debug)]
pub struct RelayAdded {
    pub relay: RelayView,
    /// It was not there before.
    pub is_new: bool,
}

/// Why there is no such relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayRefused {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("a push goes to rtmp:// or rtmps://")]
    PushScheme,
    #[error("there is no application \"{0}\"")]
    NoApplication(String),
    #[error("there are {MAX_ADDED} relays of this kind already")]
    TooMany,
    #[error("the server is ending")]
    Ending,
}

/// Ends a relay; one of the configuration comes back with the next publisher or player. False: there is no such relay.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct RemoveRelay {
    pub id: u64,
}

/// The process is about to end: pushes are to take their leave. Answered when they have.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishRelays;

/// A relay that was added while the server runs.
struct Added {
    id: u64,
    key: StreamKey,
    direction: Direction,
    target: Target,
    since: Instant,
}

/// A stream as it is known here.
struct Watched {
    id: u64,
    stream: WeakAddr<LiveStream>,
    counters: Arc<StreamCounters>,
    venue: Arc<Venue>,
    /// Somebody watches, having come this way.
    wanted: Option<Route>,
    /// Until then it is pulled although nobody watches.
    kept_until: Option<Instant>,
    publisher: Option<Arc<SessionFacts>>,
    pull: Option<u64>,
    pushes: Vec<u64>,
    /// Where a hook said it is to be pulled from.
    named: Option<Vec<Goal>>,
    /// A scheduler said that there is nothing, or no need: until it is wanted anew.
    is_refused: bool,
}

/// A relay over all its attempts.
struct Known {
    direction: Direction,
    key: StreamKey,
    venue: Arc<Venue>,
    opened: Opened,
    /// Each a backup of the one before it.
    goals: Vec<Goal>,
    /// Which of them is next.
    at: usize,
    /// Where the far end sent us, for one attempt.
    moved: Option<Goal>,
    route: String,
    /// A push for this publisher alone.
    publisher: Option<u64>,
    /// First wait and ceiling.
    back_off: (Duration, Duration),
    patience: Patience,
    attempts: usize,
    status: Arc<RelayStatus>,
    since: Instant,
    actor: Option<Addr<Relay>>,
    next_try: Option<Instant>,
    timer: SpawnHandle,
    /// Since when a pull has brought nothing.
    away_since: Option<Instant>,
    /// It ends, and is forgotten when it has.
    is_over: bool,
    last_error: Option<String>,
}

impl Relays {
    /// `homes` are the arbiters on which relays live.
    pub fn new(
        house: Arc<House>,
        servers: Vec<Arc<Server>>,
        homes: Vec<ArbiterHandle>,
        own_listens: Arc<OwnListens>,
    ) -> Self {
        Self {
            house,
            servers,
            homes,
            next_home: 0,
            own_listens,
            streams: HashMap::new(),
            relays: HashMap::new(),
            named: Vec::new(),
            sources: Vec::new(),
            added: Vec::new(),
            finishing: None,
        }
    }

    fn home(&mut self) -> ArbiterHandle {
        self.next_home = self.next_home.wrapping_add(1);
        let home = self.next_home.checked_rem(self.homes.len()).and_then(|at| self.homes.get(at));
        home.cloned().unwrap_or_else(Arbiter::current)
    }

    // ---- what is known of streams ----

    /// Makes an entry for a stream that has none yet; false: its application is unknown.
    fn watch(&mut self, key: &StreamKey, opened: &Opened, ctx: &mut Context<Self>) -> bool {
        if self.streams.get(key).is_some_and(|watched| watched.id == opened.id()) {
            return true;
        }
        let Some(venue) = self.house.venue_of(key) else { return false };
        self.forget_stream(key, ctx);
        self.streams.insert(
            key.clone(),
            Watched {
                id: opened.id(),
                stream: opened.stream.downgrade(),
                counters: Arc::clone(&opened.counters),
                venue,
                wanted: None,
                kept_until: None,
                publisher: None,
                pull: None,
                pushes: Vec::new(),
                named: None,
                is_refused: false,
            },
        );
        true
    }

    fn forget_stream(&mut self, key: &StreamKey, ctx: &mut Context<Self>) {
        if let Some(watched) = self.streams.remove(key) {
            watched.pushes.into_iter().chain(watched.pull).for_each(|id| self.finish(id, ctx));
        }
    }

    /// The entry of exactly this stream.
    fn of(&mut self, key: &StreamKey, id: u64) -> Option<&mut Watched> {
        self.streams.get_mut(key).filter(|watched| watched.id == id)
    }

    // ---- pulls ----

    /// Starts or ends the pull of a stream, as what is known of it asks for.
    fn settle(&mut self, key: &StreamKey, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get_mut(key) else { return };
        let is_kept = watched.kept_until.is_some_and(|until| Instant::now() < until);
        let is_static =
            watched.venue.application.relays.static_pulls().any(|rule| rule.name.as_deref() == Some(&*key.name));
        let is_static = is_static || self.added.iter().any(|added| added.is_for(Direction::Pull, key));
        let is_due = !watched.is_local()
            && !watched.is_refused
            && (is_static || watched.wanted.is_some() || is_kept)
            && self.finishing.is_none();
        match (is_due, watched.pull) {
            (true, None) => self.pull(key, is_static, ctx),
            (false, Some(id)) => {
                watched.pull = None;
                self.finish(id, ctx);
            }
            _ => {}
        }
    }

    /// A pull that brings nothing yet may have gone out for somebody who came another way, and been refused for that.
    fn reroute(&mut self, key: &StreamKey, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get_mut(key) else { return };
        let Some(id) = watched.pull else { return };
        let route = watched.wanted.clone().unwrap_or_default().through(self.house.node);
        let is_stale =
            self.relays.get(&id).is_some_and(|known| known.route != route && known.status.state() != State::Running);
        if is_stale {
            watched.pull = None;
            self.finish(id, ctx);
        }
    }

    fn pull(&mut self, key: &StreamKey, is_static: bool, ctx: &mut Context<Self>) {
        let named = self.sources.extract_if(.., |(_, asked)| asked.key == *key).last();
        let Some(watched) = self.streams.get_mut(key) else { return };
        if let Some((_, PullFrom { targets, trust, .. })) = named {
            let goal = |target| Goal::There(Box::new(Leg::to(target, key)), trust.clone());
            watched.named = Some(targets.into_iter().take(MAX_NAMED).map(goal).collect());
        }
        let rules = &watched.venue.application.relays;
        let application = &watched.venue.application;
        let goals = match (&watched.named, &application.oclp.pull) {
            (Some(named), _) => named.clone(),
            (None, Some(rule)) if !is_static => {
                let about = Subject::stream(key);
                vec![Goal::Ask(Arc::new(question(application, rule, Event::Pull, about)))]
            }
            _ => {
                // The one who wants it is not asked who it is: what it says of itself is not the stream's.
                let facts = SessionFacts { host: key.vhost.to_string(), ..SessionFacts::default() };
                let meant = rules.pulls.iter().filter(|rule| rule.is_for(&key.name) && rule.is_static == is_static);
                match meant.map(|rule| Leg::of(rule, key, &facts)).collect::<Result<Vec<_>, _>>() {
                    Ok(legs) => legs.into_iter().flatten().map(configured).collect(),
                    Err(error) => return warn!(stream = %key, %error, "a pull leads nowhere"),
                }
            }
        };
        let ceiling = if is_static { rules.static_pull_ceiling } else { rules.pull_ceiling };
        let back_off = (rules.first_retry, ceiling);
        let route = watched.wanted.clone().unwrap_or_default();
        let added = self.added.iter().find(|added| added.is_for(Direction::Pull, key));
        let (id, goals) = match added {
            Some(added) if self.relays.contains_key(&added.id) => return, // its last attempt is about to end
            Some(added) => (added.id, vec![added.goal()]),
            None => (self.house.next_connection(), goals),
        };
        let id = self.start(id, Direction::Pull, key, goals, &route, back_off, ctx);
        if let Some(watched) = self.streams.get_mut(key) {
            watched.pull = id;
        }
    }

    /// The pulls that begin with the server.
    fn open_static(&mut self, ctx: &mut Context<Self>) {
        let mut keys = Vec::new();
        for server in &self.servers {
            for application in &server.applications {
                let names = application.relays.static_pulls().filter_map(|rule| rule.name.as_deref());
                keys.extend(names.filter_map(|name| match StreamKey::parse(&server.id, &application.name, name) {
                    Ok(key) => Some(key),
                    Err(error) => {
                        error!(app = application.name, name, %error, "a static pull has no name that a stream can have");
                        None
                    }
                }));
            }
        }
        keys.dedup();
        keys.into_iter().for_each(|key| self.open_one(key, ctx));
    }

    /// Makes a stream that is always pulled.
    fn open_one(&mut self, key: StreamKey, ctx: &mut Context<Self>) {
        let Some(venue) = self.house.venue_of(&key) else { return };
        let (rules, home) = (Arc::clone(&venue.rules), self.home());
        let open = OpenStream { key: key.clone(), rules, purpose: Purpose::Publish, home };
        let opened = self.house.router.send(open).into_actor(self);
        ctx.spawn(opened.map(move |opened, relays, ctx| match opened.unwrap_or(Err(NoStream::NotFound)) {
            Ok(opened) => {
                relays.watch(&key, &opened, ctx);
                relays.settle(&key, ctx);
            }
            Err(error) => {
                warn!(stream = %key, %error, "a static pull has no stream");
                ctx.run_later(STATIC_AGAIN, move |relays, ctx| relays.open_one(key, ctx));
            }
        }));
    }

    /// Nobody watches, for now: the pull goes on for a while.
    fn keep(&mut self, key: &StreamKey, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get_mut(key) else { return };
        let idle = watched.venue.application.relays.pull_idle;
        watched.kept_until = Some(Instant::now() + idle);
        let key = key.clone();
        ctx.run_later(idle, move |relays, ctx| relays.settle(&key, ctx));
    }

    // ---- pushes ----

    /// Whoever publishes: what the configuration names.
    fn push(&mut self, key: &StreamKey, facts: &SessionFacts, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get(key) else { return };
        let rules = Arc::clone(&watched.venue.application.relays);
        let back_off = (rules.first_retry, rules.push_ceiling);
        for rule in rules.pushes_of(&key.name) {
            match Leg::of(rule, key, facts) {
                Ok(legs) => {
                    let (id, goals) = (self.house.next_connection(), legs.into_iter().map(configured).collect());
                    self.start_push(id, key, goals, &facts.route, back_off, None, ctx);
                }
                Err(error) => warn!(stream = %key, %error, "a push leads nowhere"),
            }
        }
    }

    /// For this publisher alone: what a scheduler is asked about, and what a hook has named.
    fn push_for(&mut self, key: &StreamKey, facts: &SessionFacts, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get(key) else { return };
        let rules = &watched.venue.application.relays;
        let back_off = (rules.first_retry, rules.push_ceiling);
        let mut ways = Vec::new();
        if !facts.is_relay {
            let application = &watched.venue.application;
            let about = || Subject::published(key, facts);
            let asked = |rule, event| vec![Goal::Ask(Arc::new(question(application, rule, event, about())))];
            ways.extend(application.oclp.push.iter().map(|rule| asked(rule, Event::Push)));
            ways.extend(application.oclp.meta.iter().map(|rule| asked(rule, Event::Meta)));
        }
        for goals in ways {
            let id = self.house.next_connection();
            self.start_push(id, key, goals, &facts.route, back_off, Some(facts.id), ctx);
        }
        let now = Instant::now();
        self.named.retain(|(until, _)| now < *until);
        let is_meant = |named: &PushTo| named.key == *key && named.session == facts.id;
        let named: Vec<_> = self.named.extract_if(.., |(_, named)| is_meant(named)).collect();
        named.into_iter().for_each(|(_, named)| self.push_named(named, facts, ctx));
    }

    /// What was asked for while the server runs.
    fn push_added(&mut self, key: &StreamKey, facts: &SessionFacts, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get(key) else { return };
        let rules = &watched.venue.application.relays;
        let back_off = (rules.first_retry, rules.push_ceiling);
        let meant = self.added.iter().filter(|added| added.is_for(Direction::Push, key));
        let due: Vec<_> =
            meant.filter(|added| !self.relays.contains_key(&added.id)).map(|added| (added.id, added.goal())).collect();
        for (id, goal) in due {
            self.start_push(id, key, vec![goal], &facts.route, back_off, None, ctx);
        }
    }

    fn push_named(&mut self, named: PushTo, facts: &SessionFacts, ctx: &mut Context<Self>) {
        let Some(watched) = self.streams.get(&named.key) else { return };
        let rules = &watched.venue.application.relays;
        let back_off = (rules.first_retry, rules.push_ceiling);
        for target in named.targets.into_iter().take(MAX_NAMED) {
            let goal = Goal::There(Box::new(Leg::to(target, &named.key)), named.trust.clone());
            let id = self.house.next_connection();
            self.start_push(id, &named.key, vec![goal], &facts.route, back_off, Some(facts.id), ctx);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a relay is what it is told to be")]
    fn start_push(
        &mut self,
        id: u64,
        key: &StreamKey,
        goals: Vec<Goal>,
        route: &Route,
        back_off: (Duration, Duration),
        publisher: Option<u64>,
        ctx: &mut Context<Self>,
    ) {
        let Some(id) = self.start(id, Direction::Push, key, goals, route, back_off, ctx) else { return };
        if let Some(known) = self.relays.get_mut(&id) {
            known.publisher = publisher;
        }
        if let Some(watched) = self.streams.get_mut(key) {
            watched.pushes.push(id);
        }
    }

    /// Ends the pushes of a stream that are `meant`, by whose they are alone.
    fn end_pushes(&mut self, key: &StreamKey, meant: impl Fn(Option<u64>) -> bool, ctx: &mut Context<Self>) {
        let pushes = self.streams.get(key).map(|watched| watched.pushes.clone()).unwrap_or_default();
        for id in pushes {
            if self.relays.get(&id).is_some_and(|known| !known.is_over && meant(known.publisher)) {
                self.finish(id, ctx);
            }
        }
    }

    // ---- relays ----

    #[expect(clippy::too_many_arguments, reason = "a relay is what it is told to be")]
    fn start(
        &mut self,
        id: u64,
        direction: Direction,
        key: &StreamKey,
        goals: Vec<Goal>,
        route: &Route,
        back_off: (Duration, Duration),
        ctx: &mut Context<Self>,
    ) -> Option<u64> {
        let watched = self.streams.get(key)?;
        let stream = watched.stream.upgrade()?;
        goals.first()?;
        info!(relay = id, %direction, stream = %key, "relay started");
        let known = Known {
            direction,
            key: key.clone(),
            venue: Arc::clone(&watched.venue),
            opened: Opened { stream, counters: Arc::clone(&watched.counters) },
            goals,
            at: 0,
            moved: None,
            route: route.through(self.house.node),
            publisher: None,
            back_off,
            patience: Patience::default(),
            attempts: 0,
            status: Arc::default(),
            since: Instant::now(),
            actor: None,
            next_try: None,
            timer: SpawnHandle::default(),
            away_since: None,
            is_over: false,
            last_error: None,
        };
        self.relays.insert(id, known);
        self.attempt(id, ctx);
        Some(id)
    }

    fn attempt(&mut self, id: u64, ctx: &mut Context<Self>) {
        let home = self.home();
        let Some(known) = self.relays.get_mut(&id) else { return };
        let Some(goal) = known.moved.take().or_else(|| known.goals.get(known.at).cloned()) else { return };
        known.status.begin();
        if let Goal::There(leg, _) = &goal {
            known.status.go_to(leg, leg.shown(known.direction, &known.key));
        }
        known.next_try = None;
        known.attempts = known.attempts.wrapping_add(1);
        let trip = Trip {
            id,
            direction: known.direction,
            key: known.key.clone(),
            venue: Arc::clone(&known.venue),
            opened: known.opened.clone(),
            goal,
            own_listens: Arc::clone(&self.own_listens),
            route: known.route.clone(),
            turn: known.attempts - 1,
            status: Arc::clone(&known.status),
            house: Arc::clone(&self.house),
        };
        known.actor = Some(Relay::open(trip, Link::new(id, ctx.address().recipient()), &home));
    }

    /// A relay is not needed any more.
    fn finish(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(known) = self.relays.get_mut(&id) else { return };
        known.is_over = true;
        ctx.cancel_future(known.timer);
        known.end_publish(id);
        match &known.actor {
            // Once in the life of a relay.
            Some(actor) => actor.do_send(EndRelay),
            None => self.forget(id),
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(known) = self.relays.remove(&id) {
            known.end_publish(id);
            let reason = known.last_error.unwrap_or_default();
            info!(relay = id, direction = %known.direction, stream = %known.key, reason, "relay ended");
            if let Some(watched) = self.streams.get_mut(&known.key) {
                watched.pushes.retain(|push| *push != id);
                watched.pull = watched.pull.filter(|pull| *pull != id);
            }
        }
        self.note_finished();
    }

    /// A relay that was added may be wanted again by the time its last attempt has ended.
    fn renew(&mut self, id: u64, key: &StreamKey, ctx: &mut Context<Self>) {
        if self.finishing.is_some() || !self.added.iter().any(|added| added.id == id) {
            return;
        }
        self.settle(key, ctx);
        let publisher = self.streams.get(key).and_then(|watched| watched.publisher.clone());
        if let Some(facts) = publisher {
            self.push_added(key, &facts, ctx);
        }
    }

    /// Notes a relay that an operator wants.
    fn add(&mut self, asked: AddRelay, ctx: &mut Context<Self>) -> Result<RelayAdded, RelayRefused> {
        let AddRelay { key, direction, url } = asked;
        if self.finishing.is_some() {
            return Err(RelayRefused::Ending);
        }
        let target = Target::parse(&url)?;
        if direction == Direction::Push && !matches!(target.scheme, Scheme::Rtmp | Scheme::Rtmps) {
            return Err(RelayRefused::PushScheme);
        }
        if self.house.venue_of(&key).is_none() {
            return Err(RelayRefused::NoApplication(key.app.to_string()));
        }
        let is_it = |added: &&Added| added.is_for(direction, &key) && added.target == target;
        let known = self.added.iter().find(is_it).map(|added| added.id);
        if known.is_none() && self.added.len() >= MAX_ADDED {
            return Err(RelayRefused::TooMany);
        }
        let id = known.unwrap_or_else(|| {
            let id = self.house.next_connection();
            self.added.push(Added { id, key: key.clone(), direction, target, since: Instant::now() });
            match direction {
                Direction::Pull if self.streams.contains_key(&key) => self.settle(&key, ctx),
                Direction::Pull => self.open_one(key.clone(), ctx),
                Direction::Push => {
                    let publisher = self.streams.get(&key).and_then(|watched| watched.publisher.clone());
                    publisher.iter().for_each(|facts| self.push_added(&key, facts, ctx));
                }
            }
            id
        });
        let relay = self.view().into_iter().find(|view| view.id == id).ok_or(RelayRefused::Ending)?;
        Ok(RelayAdded { relay, is_new: known.is_none() })
    }

    fn remove(&mut self, id: u64, ctx: &mut Context<Self>) -> bool {
        let added = self.added.extract_if(.., |added| added.id == id).next();
        let running = self.relays.get(&id).filter(|known| !known.is_over).map(|known| known.key.clone());
        if let Some(key) = &running {
            let is_added = added.is_some();
            if let Some(watched) = self.streams.get_mut(key).filter(|watched| watched.pull == Some(id)) {
                watched.pull = None;
                // One that the configuration names stays away until it is wanted anew.
                watched.is_refused |= !is_added;
            }
            self.finish(id, ctx);
            self.settle(key, ctx);
        }
        added.is_some() || running.is_some()
    }

    /// Tells who waits for the last relay that it is gone.
    fn note_finished(&mut self) {
        if self.relays.is_empty() {
            for done in self.finishing.iter_mut().flat_map(std::mem::take) {
                // Who asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    /// An attempt has ended: what becomes of its relay?
    fn note_exit(&mut self, id: u64, exit: &ExitReason, ctx: &mut Context<Self>) {
        let (now, jitter) = (self.house.now(), rand::random());
        let Some(known) = self.relays.get_mut(&id) else { return };
        known.actor = None;
        if known.is_over {
            let key = known.key.clone();
            self.forget(id);
            return self.renew(id, &key, ctx);
        }
        let worked = Duration::from_millis(known.status.worked_ms.load(Ordering::Relaxed));
        let (fate, reason) = match known.status.report().last {
            Some(ending) => (ending.fate, ending.reason),
            None => (Fate::Retry, "it failed".to_owned()),
        };
        let is_new = known.last_error.as_ref() != Some(&reason);
        known.last_error = Some(reason.clone());
        match &fate {
            Fate::NotNeeded => {
                // Whoever was in its way may have left before we heard of both.
                let key = known.key.clone();
                ctx.run_later(LOOK_AGAIN, move |relays, ctx| relays.settle(&key, ctx));
                return self.forget(id);
            }
            Fate::NoNeed => {
                if let Some(watched) = self.streams.get_mut(&known.key).filter(|watched| watched.pull == Some(id)) {
                    watched.is_refused = true;
                }
                return self.forget(id);
            }
            Fate::TurnedAway(status) => return self.turn_away(id, *status, ctx),
            Fate::Moved(tc_url) => known.move_to(tc_url),
            _ if worked.is_zero() => known.at = (known.at + 1).checked_rem(known.goals.len()).unwrap_or_default(),
            _ => {}
        }
        let next = known.patience.after(exit, &fate, worked, known.back_off, now, jitter);
        let (direction, key, far_end) = (known.direction, &known.key, known.status.report().url);
        let wait = match next {
            Next::GivenUp => {
                known.status.enter(State::Failed);
                known.end_publish(id);
                error!(relay = id, %direction, stream = %key, far_end, "a relay failed too often by a bug in livemill; it is given up");
                return;
            }
            Next::Refused(wait) => {
                let again_s = wait.as_secs();
                warn!(relay = id, %direction, stream = %key, far_end, reason, again_s, "a relay is refused, which will hardly mend by itself");
                wait
            }
            Next::After(wait) => {
                let again_ms = wait.as_millis() as u64;
                match is_new {
                    true => warn!(relay = id, %direction, stream = %key, far_end, reason, again_ms, "relay lost"),
                    false => debug!(relay = id, %direction, stream = %key, far_end, reason, again_ms, "relay lost"),
                }
                wait
            }
        };
        known.status.enter(State::Waiting);
        known.next_try = Some(Instant::now() + wait);
        known.timer = ctx.run_later(wait, move |relays, ctx| relays.attempt(id, ctx));
        if known.direction == Direction::Pull {
            self.note_away(id, !worked.is_zero(), ctx);
        }
    }

    /// A pull brings nothing, for now: its viewers wait for a while.
    fn note_away(&mut self, id: u64, has_just_worked: bool, ctx: &mut Context<Self>) {
        let Some(known) = self.relays.get_mut(&id) else { return };
        if has_just_worked || known.away_since.is_none() {
            known.opened.stream.do_send(AwaitPublisher { session: id });
            let since = Instant::now();
            known.away_since = Some(since);
            let grace = known.venue.application.relays.pull_grace;
            ctx.run_later(grace, move |relays, _| {
                let Some(known) = relays.relays.get(&id).filter(|known| known.away_since == Some(since)) else {
                    return;
                };
                if known.status.state() == State::Running {
                    return;
                }
                known.end_publish(id);
                if !known.venue.rules.live.idle_streams {
                    let reason = known.last_error.clone().unwrap_or_else(|| "no such stream".to_owned());
                    known.turn_away(reason);
                }
            });
        }
    }

    /// A scheduler says that there is nothing to be had, or that this is not to be published.
    fn turn_away(&mut self, id: u64, status: u16, ctx: &mut Context<Self>) {
        if let Some(known) = self.relays.get(&id) {
            let reason = format!("the scheduler says {status}");
            let key = known.key.clone();
            match known.direction {
                Direction::Push => known.opened.stream.do_send(Expel { reason }),
                Direction::Pull => {
                    known.end_publish(id);
                    known.turn_away(reason);
                    if let Some(watched) = self.streams.get_mut(&key) {
                        watched.is_refused = true;
                    }
                    // Who came in just now has not heard of it.
                    ctx.run_later(LOOK_AGAIN, move |relays, ctx| {
                        if let Some(watched) = relays.streams.get_mut(&key) {
                            watched.is_refused = false;
                        }
                        relays.settle(&key, ctx);
                    });
                }
            }
        }
        self.forget(id);
    }

    fn view(&self) -> Vec<RelayView> {
        let now = Instant::now();
        let view = |(id, known): (&u64, &Known)| {
            let report = known.status.report();
            RelayView {
                id: *id,
                direction: known.direction.name(),
                key: known.key.clone(),
                origin: match (self.added.iter().any(|added| added.id == *id), known.goals.first()) {
                    (true, _) => "api",
                    (false, Some(Goal::There(_, Trust::Configured)) | None) => "configuration",
                    (false, Some(Goal::There(..))) => "hook",
                    (false, Some(Goal::Ask(_))) => "scheduler",
                },
                peer: report.peer,
                url: report.url,
                state: report.state,
                attempt: known.patience.attempt(),
                last_error: known.last_error.clone(),
                next_try_ms: known.next_try.map(|at| at.saturating_duration_since(now).as_millis() as u64),
                bytes: known.status.bytes.load(Ordering::Relaxed),
                lag_ms: known.status.lag_ms.load(Ordering::Relaxed),
                drops: known.status.drops.load(Ordering::Relaxed),
                since_s: known.since.elapsed().as_secs(),
            }
        };
        let idle = self.added.iter().filter(|added| !self.relays.contains_key(&added.id)).map(Added::view);
        let mut views: Vec<_> = self.relays.iter().map(view).chain(idle).collect();
        views.sort_by_key(|view| view.id);
        views
    }
}

impl Watched {
    /// Somebody publishes who is no relay of ours.
    fn is_local(&self) -> bool {
        self.publisher.as_ref().is_some_and(|facts| !facts.is_relay)
    }
}

impl Added {
    fn is_for(&self, direction: Direction, key: &StreamKey) -> bool {
        self.direction == direction && self.key == *key
    }

    /// An operator may name any place.
    fn goal(&self) -> Goal {
        configured(Leg::to(self.target.clone(), &self.key))
    }

    /// As long as there is nothing to relay.
    fn view(&self) -> RelayView {
        RelayView {
            id: self.id,
            direction: self.direction.name(),
            key: self.key.clone(),
            origin: "api",
            peer: None,
            url: Leg::to(self.target.clone(), &self.key).shown(self.direction, &self.key),
            state: State::Idle,
            attempt: 0,
            last_error: None,
            next_try_ms: None,
            bytes: 0,
            lag_ms: 0,
            drops: 0,
            since_s: self.since.elapsed().as_secs(),
        }
    }
}

impl Known {
    /// What a pull published is over, if it published.
    fn end_publish(&self, id: u64) {
        if self.direction == Direction::Pull {
            self.opened.stream.do_send(EndPublish { session: id });
        }
    }

    fn turn_away(&self, reason: String) {
        let refusal = Refusal { code: "NetStream.Play.StreamNotFound", reason };
        self.opened.stream.do_send(TurnAway(Arc::new(refusal)));
    }

    /// Follows where the far end sends us. It may not lead us nearer than it is itself: nobody here has named that place.
    fn move_to(&mut self, tc_url: &str) {
        let Some(leg) = self.status.leg() else { return };
        match leg.moved(tc_url) {
            Ok(there) => {
                let trust = match self.goals.get(self.at) {
                    Some(Goal::There(_, named)) if *named != Trust::Configured => named.clone(),
                    _ => Trust::named_by(self.status.peer(), &HookTargets::NoNearer),
                };
                self.moved = Some(Goal::There(Box::new(there), trust));
            }
            Err(error) => debug!(stream = %self.key, far_end = %leg, %error, "a far end sends us to no place"),
        }
    }
}

/// A far end that the configuration names.
fn configured(leg: Leg) -> Goal {
    Goal::There(Box::new(leg), Trust::Configured)
}

/// What a scheduler is asked at each attempt of a relay.
fn question(application: &Application, rule: &Arc<OclpRule>, event: Event, subject: Subject) -> Question {
    let rules = &application.oclp;
    Question {
        rule: Arc::clone(rule),
        event,
        subject: Arc::new(subject),
        secret: application.hooks.notify.secret.clone(),
        targets: rules.targets.clone(),
        header: (event == Event::Meta).then_some(rules.meta_type),
        repeats: rules.meta_repeats,
    }
}

impl Actor for Relays {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.open_static(ctx);
    }
}

impl Handler<StreamEvent> for Relays {
    type Result = ();

    fn handle(&mut self, event: StreamEvent, ctx: &mut Self::Context) {
        match event {
            StreamEvent::Published { key, opened, facts } => {
                if !self.watch(&key, &opened, ctx) {
                    return;
                }
                if let Some(watched) = self.of(&key, opened.id()) {
                    watched.publisher = Some(Arc::clone(&facts));
                    watched.is_refused = false;
                }
                self.settle(&key, ctx);
                self.push(&key, &facts, ctx);
                self.push_for(&key, &facts, ctx);
                self.push_added(&key, &facts, ctx);
            }
            StreamEvent::Replaced { key, id, facts } => {
                let Some(watched) = self.of(&key, id) else { return };
                watched.publisher = Some(Arc::clone(&facts));
                self.settle(&key, ctx);
                // What goes to the same place whoever publishes goes on.
                self.end_pushes(&key, |publisher| publisher.is_some(), ctx);
                self.push_for(&key, &facts, ctx);
            }
            StreamEvent::Ended { key, id } => {
                let Some(watched) = self.of(&key, id) else { return };
                watched.publisher = None;
                self.end_pushes(&key, |_| true, ctx);
                self.settle(&key, ctx);
            }
            StreamEvent::Wanted { key, opened, route } => {
                if !self.watch(&key, &opened, ctx) {
                    return;
                }
                if let Some(watched) = self.of(&key, opened.id()) {
                    watched.wanted = Some(route);
                    watched.is_refused = false;
                }
                self.reroute(&key, ctx);
                self.settle(&key, ctx);
            }
            StreamEvent::Unwanted { key, id } => {
                let Some(watched) = self.of(&key, id) else { return };
                watched.wanted = None;
                if watched.pull.is_some() {
                    self.keep(&key, ctx);
                }
            }
            StreamEvent::Gone { key, id } => {
                if self.of(&key, id).is_none() {
                    return;
                }
                self.forget_stream(&key, ctx);
                let is_static = self.house.venue_of(&key).is_some_and(|venue| {
                    venue.application.relays.static_pulls().any(|rule| rule.name.as_deref() == Some(&*key.name))
                });
                let is_static = is_static || self.added.iter().any(|added| added.is_for(Direction::Pull, &key));
                if is_static && self.finishing.is_none() {
                    ctx.run_later(STATIC_AGAIN, move |relays, ctx| relays.open_one(key, ctx));
                }
            }
        }
    }
}

impl Handler<Exited> for Relays {
    type Result = ();

    fn handle(&mut self, Exited { id, reason }: Exited, ctx: &mut Self::Context) {
        self.note_exit(id, &reason, ctx);
    }
}

impl Handler<PushTo> for Relays {
    type Result = ();

    fn handle(&mut self, asked: PushTo, ctx: &mut Self::Context) {
        let publisher = self.streams.get(&asked.key).and_then(|watched| watched.publisher.clone());
        if let Some(facts) = publisher.filter(|facts| facts.id == asked.session) {
            return self.push_named(asked, &facts, ctx);
        }
        // It publishes in a moment, or somebody was faster.
        let now = Instant::now();
        self.named.retain(|(until, _)| now < *until);
        if self.named.len() < MAX_WAITING {
            self.named.push((now + NAMED_WAITS, asked));
        }
    }
}

impl Handler<PullFrom> for Relays {
    type Result = ();

    fn handle(&mut self, asked: PullFrom, ctx: &mut Self::Context) {
        let key = asked.key.clone();
        let now = Instant::now();
        self.sources.retain(|(until, known)| now < *until && known.key != key);
        if self.sources.len() < MAX_WAITING {
            self.sources.push((now + NAMED_WAITS, asked));
        }
        // Others may wait for it already; else it is pulled as soon as the one who asked does.
        if self.streams.get(&key).is_some_and(|watched| watched.wanted.is_some()) {
            self.settle(&key, ctx);
        }
    }
}

impl Handler<ListRelays> for Relays {
    type Result = MessageResult<ListRelays>;

    fn handle(&mut self, _: ListRelays, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.view())
    }
}

impl Handler<AddRelay> for Relays {
    type Result = Result<RelayAdded, RelayRefused>;

    fn handle(&mut self, asked: AddRelay, ctx: &mut Self::Context) -> Self::Result {
        self.add(asked, ctx)
    }
}

impl Handler<RemoveRelay> for Relays {
    type Result = bool;

    fn handle(&mut self, RemoveRelay { id }: RemoveRelay, ctx: &mut Self::Context) -> bool {
        self.remove(id, ctx)
    }
}

impl Handler<FinishRelays> for Relays {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishRelays, ctx: &mut Self::Context) -> Self::Result {
        let (done, finished) = oneshot::channel();
        self.finishing.get_or_insert_default().push(done);
        let ids: Vec<u64> = self.relays.keys().copied().collect();
        ids.into_iter().for_each(|id| self.finish(id, ctx));
        self.note_finished();
        Box::pin(async move {
            // Whoever asked has a deadline of its own.
            let _ = finished.await;
        })
    }
}

/// Relays that may be added while the server runs.
const MAX_ADDED: usize = 1000;

/// Targets that one hook may name for one publisher.
const MAX_NAMED: usize = 8;

/// Sessions whose hook has named targets and that have not published yet; more are a fault of ours.
const MAX_WAITING: usize = 1000;

/// How long such a session has.
const NAMED_WAITS: Duration = Duration::from_secs(10);

/// When it is asked again whether a stream that somebody else published is to be pulled.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When a stream that is always pulled is made again, after it could not be made or failed.
const STATIC_AGAIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::time::sleep;

    use super::*;
    use crate::{
        actors::{
            live_stream::{Publish, Replaced, StreamEvents},
            router::Router,
            source::{Deliver, Listen, next_subscriber},
            support::{census::Census, directory::Directory},
        },
        config::Config,
        log::access::AccessLogFiles,
    };

    /// Publishes, or watches.
    struct Somebody;
    impl Actor for Somebody {
        type Context = Context<Self>;
    }
    impl Handler<Replaced> for Somebody {
        type Result = ();
        fn handle(&mut self, _: Replaced, _: &mut Self::Context) {}
    }
    impl Handler<Deliver> for Somebody {
        type Result = ();
        fn handle(&mut self, _: Deliver, _: &mut Self::Context) {}
    }

    /// A server with one application, its supervisor of relays, and a stream. Time is the test's.
    struct Scene {
        relays: Addr<Relays>,
        opened: Opened,
    }

    impl Scene {
        async fn new(inside: &str) -> Self {
            tokio::time::pause();
            let text = format!("rtmp {{ access_log off; server {{ application live {{ live on; {inside} }} }} }}");
            let config = Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
            let context = Context::<Relays>::new();
            let relays = context.address();
            let (alive, _) = oneshot::channel();
            let directory = Directory::default();
            let events = StreamEvents::to([relays.clone().recipient()]);
            let router = Router::new(config.limits.clone(), directory.clone(), events, alive).start();
            let logs = AccessLogFiles::open(&Config { servers: Vec::new(), ..config.clone() }, None)
                .expect("there is nothing to open")
                .start()
                .expect("there is nothing to start");
            let census = Census::new(config.limits.clone(), 100);
            let house = Arc::new(House::new(router, census, directory, &config, &logs, 1));
            let key = StreamKey::parse(&config.servers[0].id, "live", "cam").expect("a good name");
            let rules = Arc::clone(&house.venue_of(&key).expect("its application").rules);
            let supervisor = Relays::new(Arc::clone(&house), config.servers.clone(), Vec::new(), Arc::default());
            context.run(supervisor);
            let open = OpenStream { key, rules, purpose: Purpose::Publish, home: Arbiter::current() };
            let opened = house.router.send(open).await.expect("the router lives").expect("there is room");
            Self { relays, opened }
        }

        async fn publish(&self) {
            self.publish_as(SessionFacts { id: 1_000_000, ..SessionFacts::default() }).await;
        }

        async fn publish_as(&self, facts: SessionFacts) {
            let facts = Arc::new(facts);
            let asked = Publish { facts, to: Somebody.start().recipient() };
            self.opened.stream.send(asked).await.expect("the stream lives").expect("the name is free");
        }

        /// Gives the number under which somebody watches.
        async fn watch(&self) -> u64 {
            let (subscriber, to) = (next_subscriber(), Somebody.start().recipient());
            let join = Listen::Join { subscriber, to, wants: Some(Route::default()) };
            self.opened.stream.send(join).await.expect("the stream lives");
            subscriber
        }

        async fn list(&self) -> Vec<RelayView> {
            self.relays.send(ListRelays).await.expect("it lives")
        }
    }

    /// A port of this machine on which nobody listens.
    fn dead_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("a bound listener has an address").port()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Somebody listens there now: how long until a relay comes?
    async fn comes_back(port: u16) -> Duration {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is still free");
        let asked = Instant::now();
        let accepted = tokio::time::timeout(seconds(60), listener.accept()).await;
        accepted.expect("it comes").expect("a connection");
        asked.elapsed()
    }

    #[actix::test]
    async fn a_push_whose_far_end_was_down_for_ten_minutes_is_back_within_its_ceiling() {
        let port = dead_port();
        let scene = Scene::new(&format!("push rtmp://127.0.0.1:{port}/far?secret=1;")).await;
        scene.publish().await;
        sleep(seconds(600)).await;
        let views = scene.list().await;
        let [view] = views.as_slice() else { panic!("{views:?}") };
        assert_eq!((view.direction, view.state), ("push", State::Waiting));
        assert!((200..=410).contains(&view.attempt), "{}", view.attempt);
        assert!(view.last_error.as_ref().is_some_and(|error| error.contains("refused")), "{view:?}");
        assert_eq!(view.url, format!("rtmp://127.0.0.1:{port}/far/cam"), "no query: it may hold a secret");
        assert!(view.next_try_ms.is_some_and(|ms| ms <= 3000) && view.since_s == 600, "{view:?}");
        let took = comes_back(port).await;
        assert!(took <= seconds(3), "{took:?}");
    }

    #[actix::test]
    async fn a_pull_that_players_wait_for_is_back_within_a_second_of_a_far_end_that_was_down_for_an_hour() {
        let port = dead_port();
        let scene = Scene::new(&format!("pull rtmp://127.0.0.1:{port}/far;")).await;
        scene.watch().await;
        sleep(seconds(3600)).await;
        let took = comes_back(port).await;
        assert!(took <= seconds(1), "{took:?}");
    }

    #[actix::test]
    async fn a_pull_ends_a_while_after_its_last_viewer_and_never_for_a_newcomer_in_time() {
        let scene = Scene::new(&format!("pull rtmp://127.0.0.1:{}/far;", dead_port())).await;
        assert!(scene.list().await.is_empty(), "nobody watches");
        let first = scene.watch().await;
        sleep(seconds(1)).await;
        let begun = scene.list().await;
        assert_eq!(begun.len(), 1);
        scene.opened.stream.do_send(Listen::Leave { subscriber: first });
        sleep(seconds(9)).await;
        let second = scene.watch().await;
        sleep(seconds(60)).await;
        let goes_on = scene.list().await;
        assert_eq!(goes_on.first().map(|view| view.id), begun.first().map(|view| view.id));
        scene.opened.stream.do_send(Listen::Leave { subscriber: second });
        sleep(seconds(9)).await;
        assert_eq!(scene.list().await.len(), 1);
        sleep(seconds(2)).await;
        assert!(scene.list().await.is_empty());
    }

    #[actix::test]
    async fn who_publishes_here_ends_a_pull_and_when_it_leaves_the_pull_begins_again() {
        let scene = Scene::new(&format!("pull rtmp://127.0.0.1:{}/far;", dead_port())).await;
        scene.watch().await;
        sleep(seconds(1)).await;
        assert_eq!(scene.list().await.len(), 1);
        scene.publish().await;
        sleep(seconds(2)).await;
        assert!(scene.list().await.is_empty());
        scene.opened.stream.do_send(EndPublish { session: 1_000_000 });
        sleep(seconds(2)).await;
        assert_eq!(scene.list().await.len(), 1);
    }

    #[actix::test]
    async fn five_hundred_relays_to_a_dead_host_try_no_more_often_than_each_of_them_may() {
        let port = dead_port();
        let pull = |at: usize| format!("pull rtmp://127.0.0.1:{port}/far/n{at} static name=n{at};");
        let scene = Scene::new(&(0..500).map(pull).collect::<String>()).await;
        sleep(seconds(60)).await;
        let views = scene.list().await;
        assert_eq!(views.len(), 500);
        assert!(views.iter().all(|view| (15..=50).contains(&view.attempt)), "{:?}", views.first());
    }

    #[actix::test]
    async fn at_the_end_all_relays_are_gone_and_none_comes_again() {
        let scene = Scene::new(&format!("push rtmp://127.0.0.1:{}/far;", dead_port())).await;
        scene.publish().await;
        sleep(seconds(1)).await;
        scene.relays.send(FinishRelays).await.expect("it lives");
        assert!(scene.list().await.is_empty());
        sleep(seconds(10)).await;
        assert!(scene.list().await.is_empty());
    }

    #[actix::test]
    async fn who_takes_over_is_pushed_where_its_own_hook_says_and_the_configured_pushes_go_on() {
        let scene = Scene::new(&format!("push rtmp://127.0.0.1:{}/live;", dead_port())).await;
        let named = |session| PushTo {
            key: StreamKey::parse("default", "live", "cam").expect("a good name"),
            session,
            targets: vec![
                Target::parse(&format!("rtmp://127.0.0.1:{}/live/{session}", dead_port())).expect("a target"),
            ],
            trust: Trust::Configured,
        };
        scene.relays.send(named(2)).await.expect("it lives");
        scene.publish_as(SessionFacts { id: 1, is_relay: true, ..SessionFacts::default() }).await;
        let configured: Vec<_> = scene.list().await.iter().map(|view| view.id).collect();
        assert_eq!(configured.len(), 1);
        scene.publish_as(SessionFacts { id: 2, ..SessionFacts::default() }).await;
        sleep(seconds(2)).await;
        let now = scene.list().await;
        assert_eq!(now.len(), 2, "{now:?}");
        assert!(
            now[0].id == configured[0] && now[1].url.ends_with("/live/***"),
            "what is not our name may be a key: {now:?}"
        );
    }

    fn added(direction: Direction, url: &str) -> AddRelay {
        let key = StreamKey::parse("default", "live", "cam").expect("a good name");
        AddRelay { key, direction, url: url.to_owned() }
    }

    #[actix::test]
    async fn a_push_that_was_added_comes_and_goes_with_its_publisher_under_one_id() {
        let scene = Scene::new("").await;
        let url = format!("rtmp://127.0.0.1:{}?secret=1", dead_port());
        let add = || async { scene.relays.send(added(Direction::Push, &url)).await.expect("it lives") };
        let first = add().await.expect("a good target");
        assert!(first.is_new && first.relay.state == State::Idle && first.relay.origin == "api", "{first:?}");
        assert!(first.relay.url.ends_with("/live/cam"), "no query, and the stream's own names: {}", first.relay.url);
        let again = add().await.expect("a good target");
        assert!(!again.is_new && again.relay.id == first.relay.id, "{again:?}");
        for _ in 0..2 {
            scene.publish().await;
            sleep(seconds(2)).await;
            let now = scene.list().await;
            assert_eq!(now.len(), 1, "{now:?}");
            assert!(now[0].id == first.relay.id && now[0].state == State::Waiting && now[0].attempt > 0, "{now:?}");
            scene.opened.stream.do_send(EndPublish { session: 1_000_000 });
            sleep(seconds(2)).await;
            let now = scene.list().await;
            assert_eq!((now.len(), now[0].state), (1, State::Idle));
        }
        scene.publish().await;
        let remove = || async { scene.relays.send(RemoveRelay { id: first.relay.id }).await.expect("it lives") };
        assert!(remove().await && !remove().await);
        sleep(seconds(2)).await;
        assert!(scene.list().await.is_empty());
    }

    #[actix::test]
    async fn a_pull_that_was_added_needs_no_viewer_and_makes_way_for_a_publisher() {
        let scene = Scene::new("").await;
        let add = scene.relays.send(added(Direction::Pull, &format!("rtmp://127.0.0.1:{}/far", dead_port())));
        let id = add.await.expect("it lives").expect("a good target").relay.id;
        sleep(seconds(1)).await;
        let ids = || async { scene.list().await.iter().map(|view| (view.id, view.state)).collect::<Vec<_>>() };
        assert_eq!(ids().await, [(id, State::Waiting)]);
        scene.publish().await;
        sleep(seconds(2)).await;
        assert_eq!(ids().await, [(id, State::Idle)]);
        scene.opened.stream.do_send(EndPublish { session: 1_000_000 });
        sleep(seconds(2)).await;
        assert_eq!(ids().await, [(id, State::Waiting)]);
        assert!(scene.relays.send(RemoveRelay { id }).await.expect("it lives"));
        sleep(seconds(2)).await;
        assert_eq!(ids().await, []);
    }

    #[actix::test]
    async fn a_relay_of_the_configuration_that_is_removed_comes_back_when_it_is_wanted_anew() {
        let scene = Scene::new(&format!("pull rtmp://127.0.0.1:{}/far;", dead_port())).await;
        let first = scene.watch().await;
        sleep(seconds(1)).await;
        let id = scene.list().await[0].id;
        assert!(scene.relays.send(RemoveRelay { id }).await.expect("it lives"));
        sleep(seconds(5)).await;
        assert!(scene.list().await.is_empty());
        scene.opened.stream.do_send(Listen::Leave { subscriber: first });
        scene.watch().await;
        sleep(seconds(1)).await;
        assert_eq!(scene.list().await.len(), 1);
    }

    #[actix::test]
    async fn what_is_no_target_is_refused_with_the_reason() {
        let scene = Scene::new("").await;
        let add = |direction, url: &'static str| {
            let sent = scene.relays.send(added(direction, url));
            async { sent.await.expect("it lives").map(|added| added.is_new).map_err(|error| error.to_string()) }
        };
        assert_eq!(
            add(Direction::Push, "http://127.0.0.1/x").await,
            Err("a push goes to rtmp:// or rtmps://".to_owned())
        );
        assert!(add(Direction::Pull, "ftp://127.0.0.1/x").await.is_err_and(|error| error.contains("scheme")));
        assert_eq!(add(Direction::Pull, "http://127.0.0.1:1/x").await, Ok(true));
        let key = StreamKey::parse("default", "nowhere", "cam").expect("a good name");
        let nowhere = AddRelay { key, direction: Direction::Push, url: "rtmp://127.0.0.1".to_owned() };
        let refused = scene.relays.send(nowhere).await.expect("it lives").map(|added| added.is_new);
        assert_eq!(refused, Err(RelayRefused::NoApplication("nowhere".to_owned())));
    }
}
