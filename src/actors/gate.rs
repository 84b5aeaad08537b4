//! The gate: asks the hooks of the configuration whether a session may come in, and notes what it owes them then.
//!
//! Nothing has happened yet when a hook is asked; only the session that asks waits for the answer.

use std::sync::Arc;

use actix::prelude::*;
use tracing::{info, warn};

use super::{
    hooks::{Ask, Debt, Hooks, Owing, Update, UpdateRule, owe},
    house::{House, Venue},
    support::{
        facts::SessionFacts,
        hook_call::{HookCall, HookError},
        notify::{self, Decision, Event, Progress},
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
    /// An address to push to or to pull from, as the hook said it: nobody has looked at it yet.
    pub relay: Option<String>,
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

/// What somebody who wants to play said of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlayWish {
    pub start: f64,
    pub duration: f64,
    pub reset: bool,
}

impl PlayWish {
    /// What a request over HTTP means: from now on, for as long as it lasts.
    pub const LIVE: Self = Self { start: 0.0, duration: 0.0, reset: false };
}

/// Whether anybody is to be asked or told about a connection to this server.
pub fn minds_connections(server: &Server) -> bool {
    let rules = &server.hooks.notify;
    rules.connect.is_some() || rules.disconnect.is_some()
}

/// Whether anybody is to be asked or told about those who publish here.
pub fn minds_publishers(venue: &Venue) -> bool {
    let rules = &venue.application.hooks.notify;
    [&rules.publish, &rules.publish_done, &rules.done, &rules.update].iter().any(|url| url.is_some())
}

/// Whether anybody is to be asked or told about those who play here.
pub fn minds_players(venue: &Venue) -> bool {
    let rules = &venue.application.hooks.notify;
    [&rules.play, &rules.play_done, &rules.done, &rules.update].iter().any(|url| url.is_some())
}

/// Somebody connects. `epoch_ms`: when, on the server's clock.
pub async fn connect(house: &House, server: &Server, facts: &SessionFacts, epoch_ms: u32) -> Result<Admitted, Denied> {
    let Some(desk) = desk(house, facts) else { return Ok(Admitted::default()) };
    let rules = &server.hooks.notify;
    let mut admitted = Admitted::default();
    match ask(desk, rules, rules.connect.as_ref(), &Event::Connect { epoch_ms }, facts).await {
        Decision::Rename(app) => admitted.name = Some(app),
        Decision::Relay(address) if rules.send_redirect => return Err(sent_away("connect", address)),
        // The family knows no relay of a whole connection.
        Decision::Go | Decision::Relay(_) => {}
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
    let mut admitted = admit(rules, "publish", decision)?;
    admitted.debt = owe(desk, owing(rules, true, &facts));
    Ok(admitted)
}

/// Somebody wants to play.
pub async fn play(house: &House, venue: &Venue, facts: Arc<SessionFacts>, wish: PlayWish) -> Result<Admitted, Denied> {
    let Some(desk) = desk(house, &facts) else { return Ok(Admitted::default()) };
    let rules = &venue.application.hooks.notify;
    let PlayWish { start, duration, reset } = wish;
    let decision = ask(desk, rules, rules.play.as_ref(), &Event::Play { start, duration, reset }, &facts).await;
    let mut admitted = admit(rules, "play", decision)?;
    admitted.debt = owe(desk, owing(rules, false, &facts));
    Ok(admitted)
}

/// A hook sends a publisher on to this address as well.
pub fn push_to(house: &House, key: &StreamKey, venue: &Arc<Venue>, address: &str) {
    let _ = (house, venue);
    warn!(stream = %key, address, "notify: nobody pushes streams yet");
}

/// A hook says where a stream is to be had that somebody wants to play.
pub fn pull_from(house: &House, key: &StreamKey, venue: &Arc<Venue>, address: &str) {
    let _ = (house, venue);
    warn!(stream = %key, address, "notify: nobody pulls streams yet");
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

fn admit(rules: &NotifyRules, what: &str, decision: Decision) -> Result<Admitted, Denied> {
    match decision {
        Decision::Go => Ok(Admitted::default()),
        Decision::Rename(name) => Ok(Admitted { name: Some(name), ..Admitted::default() }),
        Decision::Relay(address) if rules.send_redirect => Err(sent_away(what, address)),
        Decision::Relay(address) => {
            let name = rules.relay_redirect.then(|| notify::name_of_address(&address));
            Ok(Admitted { name, relay: Some(address), ..Admitted::default() })
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
