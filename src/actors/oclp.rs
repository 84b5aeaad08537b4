//! Asks and tells a cluster's scheduler (oclp) about sessions and streams, and keeps the streams of the scheduler that runs
//! here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actix::prelude::*;
use tracing::{debug, info};

use super::{
    hooks::{Ask, Debt, Expelled, Hooks, Owing, Tell, Update, UpdateRule, owe},
    house::House,
    live_stream::StreamEvent,
    support::{
        facts::SessionFacts,
        hook_call::{HookCall, HookError},
        oclp_call::{Event, Forbidden, Stage, Subject, admits, ask},
        registry::{FOR_EVER, Node, StreamName, Word},
    },
};
use crate::{
    config::{HookSecret, OclpRule, oclp::OclpStart},
    media::key::StreamKey,
};

/// Follows streams: tells `oclp_stream` of each, and notes those of applications with `scheduler on`.
pub struct Oclp {
    house: Arc<House>,
    starts: Vec<OclpStart>,
    streams: HashMap<u64, Known>,
}

/// The last words of all streams are said now. Answered when they have been given to the hooks.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishOclp;

/// Asks whether a session may publish or play. Ok: what it owes from now on.
pub async fn admit(
    desk: &Addr<Hooks>,
    rule: &Arc<OclpRule>,
    event: Event,
    facts: &SessionFacts,
    secret: Option<&Arc<HookSecret>>,
) -> Result<Owing, Forbidden> {
    let subject = Subject::session(facts);
    let call = ask(rule, event, Stage::Start, &subject, secret);
    let answer = desk.send(Ask(call.clone())).await.unwrap_or(Err(HookError::Ending));
    info!(connection = facts.id, event = call.event, hook = call.endpoint(), ?answer, "oclp");
    admits(rule, answer)?;
    Ok(owing(rule, event, &Arc::new(subject), secret))
}

/// What is owed for a session, stream or relay of which `start` has been told: as the rule's stages say.
pub fn owing(rule: &Arc<OclpRule>, event: Event, subject: &Arc<Subject>, secret: Option<&Arc<HookSecret>>) -> Owing {
    let update = rule.tells_update.then(|| {
        let (rule, subject, secret) = (Arc::clone(rule), Arc::clone(subject), secret.cloned());
        let every = rule.update;
        let call = move |_: &_| ask(&rule, event, Stage::Update, &subject, secret.as_ref());
        Update { every, rule: UpdateRule::Ignored, call: Box::new(call) }
    });
    let done = rule.tells_done.then(|| ask(rule, event, Stage::Done, subject, secret));
    Owing { updates: update.into_iter().collect(), done: done.into_iter().collect() }
}

/// A stream that somebody publishes or watches.
struct Known {
    key: StreamKey,
    is_wanted: bool,
    /// Who publishes: the host, and whether it is a relay of ours.
    publisher: Option<Arc<SessionFacts>>,
    /// In the directory of the scheduler here.
    is_listed: bool,
    /// Published here, as `$role` says.
    is_origin: Arc<AtomicBool>,
    told: Told,
}

/// How far `oclp_stream` has been told.
enum Told {
    Nothing,
    /// `start` is on its way. False: the stream ended meanwhile, and `done` follows.
    Starting(bool),
    /// `done` follows when this is dropped.
    Started {
        _debt: Debt,
    },
}

impl Oclp {
    pub fn new(house: Arc<House>, starts: &[OclpStart]) -> Self {
        Self { house, starts: starts.to_vec(), streams: HashMap::new() }
    }

    fn known(&mut self, id: u64, key: &StreamKey) -> &mut Known {
        self.streams.entry(id).or_insert_with(|| Known {
            key: key.clone(),
            is_wanted: false,
            publisher: None,
            is_listed: false,
            is_origin: Arc::default(),
            told: Told::Nothing,
        })
    }

    /// After each event: what has to be said now.
    fn follow(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(known) = self.streams.get_mut(&id) else { return };
        known.is_origin.store(known.publisher.as_ref().is_some_and(|facts| !facts.is_relay), Ordering::Relaxed);
        list(&self.house, known);
        let is_alive = known.is_wanted || known.publisher.is_some();
        match &mut known.told {
            Told::Nothing if is_alive => self.start(id, ctx),
            Told::Nothing => drop(self.streams.remove(&id)),
            Told::Starting(lives) => *lives = is_alive,
            Told::Started { .. } if is_alive => {}
            Told::Started { .. } => drop(self.streams.remove(&id)),
        }
    }

    fn start(&mut self, id: u64, ctx: &mut Context<Self>) {
        let Some(known) = self.streams.get_mut(&id) else { return };
        let Some(venue) = self.house.venue_of(&known.key) else { return };
        let application = &venue.application;
        let (Some(desk), Some(rule)) = (&self.house.desks.hooks, &application.oclp.stream) else { return };
        known.told = Told::Starting(true);
        let subject = match &known.publisher {
            Some(facts) => Subject::published(&known.key, facts),
            None => Subject::stream(&known.key),
        };
        let subject = Subject { is_origin: Arc::clone(&known.is_origin), ..subject };
        let secret = application.hooks.notify.secret.clone();
        let call = ask(rule, Event::Stream, Stage::Start, &subject, secret.as_ref());
        let (desk, rule, subject) = (desk.clone(), Arc::clone(rule), Arc::new(subject));
        let asked = async move {
            let answer = desk.send(Ask(call)).await.unwrap_or(Err(HookError::Ending));
            let mut owing = owing(&rule, Event::Stream, &subject, secret.as_ref());
            // Who answers with anything but 2xx wants no updates. Who does not answer may be back for the next one.
            if let Ok(answer) = &answer
                && !(200..300).contains(&answer.status)
            {
                owing.updates.clear();
            }
            (owe(&desk, owing), answer)
        };
        ctx.spawn(asked.into_actor(self).map(move |(debt, answer), oclp, ctx| {
            debug!(?answer, "oclp_stream was told of a stream");
            oclp.started(id, debt, ctx);
        }));
    }

    fn started(&mut self, id: u64, mut debt: Debt, ctx: &mut Context<Self>) {
        let Some(known) = self.streams.get_mut(&id) else { return };
        let lives = matches!(known.told, Told::Starting(true));
        if !lives {
            // It has ended: `done` goes out with the debt. Should it have begun anew, so does its story.
            known.told = Told::Nothing;
            drop(debt);
            return self.follow(id, ctx);
        }
        if let Some(entry) = self.house.directory.find(&known.key) {
            debt.begin(&entry.counters, || ctx.address().recipient());
        }
        known.told = Told::Started { _debt: debt };
    }
}

/// Notes in the scheduler of this process whether the stream comes from here.
fn list(house: &House, known: &mut Known) {
    let origin = known.publisher.as_ref().filter(|facts| !facts.is_relay);
    if origin.is_some() == known.is_listed {
        return;
    }
    let Some(venue) = house.venue_of(&known.key) else { return };
    let Some(local) = &venue.application.oclp.in_scheduler else { return };
    let node = local.url.as_deref().and_then(Node::parse).unwrap_or_else(|| Node::here(local.port));
    let stream = StreamName { app: known.key.app.to_string(), name: known.key.name.to_string() };
    let word = match origin {
        Some(facts) => Word::Published { domain: facts.host.clone(), begins: true },
        None => Word::Unpublished,
    };
    known.is_listed = origin.is_some();
    // A full directory has said so itself.
    let _ = house.scheduler.tell(&stream, &node, word, FOR_EVER, house.now());
}

impl Actor for Oclp {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        let Some(desk) = &self.house.desks.hooks else { return };
        for start in std::mem::take(&mut self.starts) {
            let joint = if start.url.contains('?') { '&' } else { '?' };
            let worker = if start.call == "init_process" { "&worker_id=0" } else { "" };
            let url = format!("{}{joint}call={}{worker}", start.url, start.call);
            // Once a process, and it may come before the scheduler does.
            desk.do_send(Tell(HookCall { event: "proc", url, body: None, timeout: start.timeout, secret: None }));
        }
    }
}

impl Handler<StreamEvent> for Oclp {
    type Result = ();

    fn handle(&mut self, event: StreamEvent, ctx: &mut Self::Context) {
        let id = match event {
            StreamEvent::Published { key, opened, facts } => {
                self.known(opened.id(), &key).publisher = Some(facts);
                opened.id()
            }
            StreamEvent::Replaced { key, id, facts } => {
                self.known(id, &key).publisher = Some(facts);
                id
            }
            StreamEvent::Ended { id, .. } => {
                if let Some(known) = self.streams.get_mut(&id) {
                    known.publisher = None;
                }
                id
            }
            StreamEvent::Wanted { key, opened, .. } => {
                self.known(opened.id(), &key).is_wanted = true;
                opened.id()
            }
            StreamEvent::Unwanted { id, .. } => {
                if let Some(known) = self.streams.get_mut(&id) {
                    known.is_wanted = false;
                }
                id
            }
            StreamEvent::Gone { id, .. } => {
                if let Some(known) = self.streams.get_mut(&id) {
                    (known.is_wanted, known.publisher) = (false, None);
                }
                id
            }
        };
        self.follow(id, ctx);
    }
}

/// Nobody is sent away by what a stream is told.
impl Handler<Expelled> for Oclp {
    type Result = ();

    fn handle(&mut self, _: Expelled, _: &mut Self::Context) {}
}

impl Handler<FinishOclp> for Oclp {
    type Result = ();

    fn handle(&mut self, _: FinishOclp, _: &mut Self::Context) {
        self.streams.clear();
    }
}
