//! The gate: asks the hooks of the configuration whether a session may come in, and notes what it owes them then.
//!
//! Nothing has happened yet when a hook is asked; only the session that asks waits for the answer.

use std::sync::Arc;

use actix::prelude::*;
use tracing::info;

use super::{
    hooks::{Ask, Debt, Hooks, Owing, Update, UpdateRule, owe},
    house::{House, Venue},
    oclp,
    relays::{PullFrom, PushTo},
    support::{
        facts::SessionFacts,
        hook_call::{HookCall, HookError},
        notify::{self, Decision, Event, Progress},
        oclp_call,
        targets::{Target, Trust},
    },
};
use crate::{
    config::{HookUrl, NotifyRules, Server},
    media::key::{NameError, StreamKey},
};

/// Who may come in, and as what.
#[derive(Default)]
pub struct Admitted {
    /// Another name than was asked for: of the application at connect, else of the stream.
    pub name: Option<String>,
    /// Where to push to or to pull from as well.
    pub relay: Option<Named>,
    /// What is owed from now on.
    pub debt: Debt,
}

impl Admitted {
    /// The stream that is meant, where somebody asked for this one.
    pub fn key(&self, asked: StreamKey) -> Result<StreamKey, NameError> {
        let Some(name) = &self.name else { return Ok(asked) };
        // What follows a question mark is no part of a name.
        let name = name.split('?').next().unwrap_or_default();
        StreamKey::parse(&asked.vhost, &asked.app, name)
    }
}

/// A target that a hook named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    target: Target,
    trust: Trust,
}

/// Who may watch over HTTP, and what.
pub struct Watcher {
    pub key: StreamKey,
    pub venue: Arc<Venue>,
    /// It is on its way here, so one may wait for it.
    pub is_fetched: bool,
    /// In the order in which they are to be paid.
    pub debts: Vec<Debt>,
}

/// Who may not, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    pub reason: String,
    /// Where its client is to go instead.
    pub redirect: Option<String>,
    /// A scheduler (oclp) said no, and its clients know words of their own for that: status `NetStream.Play.Forbidden`
    /// ("Play stream Forbidden"), `NetStream.Publish.Forbidden` ("Publish stream Forbidden"), HTTP 403.
    pub is_forbidden: bool,
}

/// What somebody who wants to play said of it; zero where it said nothing, as nginx tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PlayWish {
    pub start: f64,
    pub duration: f64,
    pub reset: bool,
}

/// Whether anybody is to be asked or told about a connection to this server.
pub fn minds_connections(server: &Server) -> bool {
    let rules = &server.hooks.notify;
    rules.connect.is_some() || rules.disconnect.is_some()
}

/// Whether anybody is to be asked or told about those who publish here.
pub fn minds_publishers(venue: &Venue) -> bool {
    let rules = &venue.application.hooks.notify;
    let notify = [&rules.publish, &rules.publish_done, &rules.done, &rules.update];
    venue.application.oclp.publish.is_some() || notify.iter().any(|url| url.is_some())
}

/// Whether anybody is to be asked or told about those who play here.
pub fn minds_players(venue: &Venue) -> bool {
    let rules = &venue.application.hooks.notify;
    let notify = [&rules.play, &rules.play_done, &rules.done, &rules.update];
    venue.application.oclp.play.is_some() || notify.iter().any(|url| url.is_some())
}

/// Somebody connects. `epoch_ms`: when, on the server's clock.
pub async fn connect(house: &House, server: &Server, facts: &SessionFacts, epoch_ms: u32) -> Result<Admitted, Denied> {
    let Some(desk) = desk(house, facts) else { return Ok(Admitted::default()) };
    let rules = &server.hooks.notify;
    let mut admitted = Admitted::default();
    match ask(desk, rules, rules.connect.as_ref(), &Event::Connect { epoch_ms }, facts).await {
        Decision::Rename(app) => admitted.name = Some(app),
        Decision::Relay { address, .. } if rules.send_redirect => return Err(sent_away("connect", address)),
        // The family knows no relay of a whole connection.
        Decision::Go | Decision::Relay { .. } => {}
        Decision::Refuse(reason) => return Err(Denied { reason, redirect: None, is_forbidden: false }),
    }
    Ok(admitted)
}

/// What is owed to somebody's hooks from its accepted connect on.
pub fn connected(house: &House, server: &Server, facts: &SessionFacts) -> Debt {
    let Some(desk) = desk(house, facts) else { return Debt::default() };
    let rules = &server.hooks.notify;
    let done = tell(rules, rules.disconnect.as_ref(), &Event::Disconnect, facts).into_iter().collect();
    owe(desk, Owing { updates: Vec::new(), done })
}

/// Somebody wants to publish; `kind` is `live`, `record` or `append`, as it was sent.
pub async fn publish(house: &House, venue: &Venue, facts: Arc<SessionFacts>, kind: &str) -> Result<Admitted, Denied> {
    let Some(desk) = desk(house, &facts) else { return Ok(Admitted::default()) };
    let rules = &venue.application.hooks.notify;
    let decision = ask(desk, rules, rules.publish.as_ref(), &Event::Publish { kind }, &facts).await;
    let mut admitted = admit(venue, "publish", decision)?;
    admitted.debt = owe(desk, owing(rules, true, &facts));
    admit_to_cluster(house, venue, oclp_call::Event::Publish, &facts, &mut admitted).await?;
    Ok(admitted)
}

/// Somebody wants to play.
pub async fn play(house: &House, venue: &Venue, facts: Arc<SessionFacts>, wish: PlayWish) -> Result<Admitted, Denied> {
    let Some(desk) = desk(house, &facts) else { return Ok(Admitted::default()) };
    let rules = &venue.application.hooks.notify;
    let PlayWish { start, duration, reset } = wish;
    let decision = ask(desk, rules, rules.play.as_ref(), &Event::Play { start, duration, reset }, &facts).await;
    let mut admitted = admit(venue, "play", decision)?;
    admitted.debt = owe(desk, owing(rules, false, &facts));
    admit_to_cluster(house, venue, oclp_call::Event::Play, &facts, &mut admitted).await?;
    Ok(admitted)
}

/// Asks the scheduler, under the name that a hook may have given.
async fn admit_to_cluster(
    house: &House,
    venue: &Venue,
    event: oclp_call::Event,
    facts: &SessionFacts,
    admitted: &mut Admitted,
) -> Result<(), Denied> {
    let (rules, secret) = (&venue.application.oclp, venue.application.hooks.notify.secret.as_ref());
    let rule = if event == oclp_call::Event::Publish { &rules.publish } else { &rules.play };
    let (Some(rule), Some(desk)) = (rule, desk(house, facts)) else { return Ok(()) };
    let named = admitted.name.as_ref().map(|name| SessionFacts { name: name.clone(), ..facts.clone() });
    let owing = oclp::admit(desk, rule, event, named.as_ref().unwrap_or(facts), secret).await.map_err(|forbidden| {
        Denied { reason: format!("{}: {forbidden}", event.name()), redirect: None, is_forbidden: true }
    })?;
    admitted.debt.add(desk, owing);
    Ok(())
}

/// Whether anybody is to be asked or told about those who watch over HTTP.
pub fn minds_viewers(server: &Server, venue: &Venue) -> bool {
    minds_connections(server) || minds_players(venue)
}

/// Somebody wants to watch over HTTP: that is a connect and a play at once. Gives the stream it is to watch.
pub async fn watch(
    house: &House,
    server: &Server,
    venue: &Arc<Venue>,
    key: StreamKey,
    mut facts: SessionFacts,
) -> Result<Watcher, Denied> {
    let mut venue = Arc::clone(venue);
    let mut key = key;
    let mut debts = Vec::new();
    let mut is_fetched = false;
    if minds_connections(server) {
        let admitted = connect(house, server, &facts, house.now().as_millis() as u32).await?;
        if let Some(app) = admitted.name {
            let nowhere = |_| Denied {
                reason: format!("connect: application not found: '{app}'"),
                redirect: None,
                is_forbidden: false,
            };
            venue = house.venue(server, &app).ok_or(()).map_err(nowhere)?;
            key = StreamKey::parse(&key.vhost, &app, &key.name).map_err(|_| nowhere(()))?;
            facts.app.clone_from(&app);
        }
        debts.push(connected(house, server, &facts));
    }
    if minds_players(&venue) {
        let facts = Arc::new(facts);
        let admitted = play(house, &venue, Arc::clone(&facts), PlayWish::default()).await?;
        key = admitted.key(key).map_err(|error| Denied {
            reason: error.to_string(),
            redirect: None,
            is_forbidden: false,
        })?;
        if let Some(named) = admitted.relay {
            pull_from(house, &key, &facts, named);
            is_fetched = true;
        }
        debts.insert(0, admitted.debt);
    }
    Ok(Watcher { key, venue, is_fetched, debts })
}

/// A hook sends a publisher on to another place as well. To be said before it publishes.
pub fn push_to(house: &House, key: &StreamKey, facts: &SessionFacts, Named { target, trust }: Named) {
    let targets = vec![target.or_local(&key.app, &key.name, &facts.args)];
    if let Some(relays) = &house.desks.relays {
        // Once for a publish.
        relays.do_send(PushTo { key: key.clone(), session: facts.id, targets, trust });
    }
}

/// A hook says where a stream is to be had that somebody is about to play.
pub fn pull_from(house: &House, key: &StreamKey, facts: &SessionFacts, named: Named) {
    let Named { target, trust } = named;
    let targets = vec![target.or_local(&key.app, &key.name, &facts.args)];
    if let Some(relays) = &house.desks.relays {
        // Once for a play.
        relays.do_send(PullFrom { key: key.clone(), targets, trust });
    }
}

/// Nobody is asked about our own relays.
fn desk<'a>(house: &'a House, facts: &SessionFacts) -> Option<&'a Addr<Hooks>> {
    house.desks.hooks.as_ref().filter(|_| !facts.is_relay)
}

async fn ask(
    desk: &Addr<Hooks>,
    rules: &NotifyRules,
    url: Option<&HookUrl>,
    event: &Event<'_>,
    facts: &SessionFacts,
) -> Decision {
    let Some(call) = tell(rules, url, event, facts) else { return Decision::Go };
    let answer = desk.send(Ask(call.clone())).await.unwrap_or(Err(HookError::Ending));
    let decision = notify::decide(&call, answer);
    info!(connection = facts.id, event = call.event, hook = call.endpoint(), ?decision, "notify");
    decision
}

fn admit(venue: &Venue, what: &str, decision: Decision) -> Result<Admitted, Denied> {
    let (rules, targets) = (&venue.application.hooks.notify, &venue.application.oclp.targets);
    match decision {
        Decision::Go => Ok(Admitted::default()),
        Decision::Rename(name) => Ok(Admitted { name: Some(name), ..Admitted::default() }),
        Decision::Relay { address, .. } if rules.send_redirect => Err(sent_away(what, address)),
        Decision::Relay { address, named_by } => {
            let target = Target::parse(&address).map_err(|error| Denied {
                reason: format!("{what}: its hook names no address that can be used: {error}"),
                redirect: None,
                is_forbidden: false,
            })?;
            let name = rules.relay_redirect.then(|| notify::name_of_address(&address));
            let trust = Trust::named_by(named_by, targets);
            Ok(Admitted { name, relay: Some(Named { target, trust }), ..Admitted::default() })
        }
        Decision::Refuse(reason) => Err(Denied { reason, redirect: None, is_forbidden: false }),
    }
}

fn sent_away(what: &str, address: String) -> Denied {
    Denied { reason: format!("{what} was sent elsewhere by its hook"), redirect: Some(address), is_forbidden: false }
}

fn tell(rules: &NotifyRules, url: Option<&HookUrl>, event: &Event<'_>, facts: &SessionFacts) -> Option<HookCall> {
    url.map(|url| notify::call(rules, url, event, facts))
}

/// What a session owes once it is in: updates, then its own `done` before the general one.
fn owing(rules: &NotifyRules, publishes: bool, facts: &Arc<SessionFacts>) -> Owing {
    let (own, event) = match publishes {
        true => (&rules.publish_done, Event::PublishDone),
        false => (&rules.play_done, Event::PlayDone),
    };
    let done = [tell(rules, own.as_ref(), &event, facts), tell(rules, rules.done.as_ref(), &Event::Done, facts)];
    let update = rules.update.clone().map(|url| {
        let (of, facts) = (rules.clone(), Arc::clone(facts));
        let call = move |progress: &Progress| {
            notify::call(&of, &url, &Event::Update { publishes, progress: *progress }, &facts)
        };
        let rule = if rules.update_strict { UpdateRule::Strict } else { UpdateRule::Lenient };
        Update { every: rules.update_every, rule, call: Box::new(call) }
    });
    Owing { updates: update.into_iter().collect(), done: done.into_iter().flatten().collect() }
}
