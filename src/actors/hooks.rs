//! The hooks of the configuration: asks them, tells them, and remembers what they have not heard yet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use serde::Serialize;

use super::{
    house::House,
    live_stream::StreamEvent,
    support::{
        counters::StreamCounters,
        hook_call::{HookAnswer, HookCall, HookError},
        notify::Progress,
    },
};

pub struct Hooks {
    house: Arc<House>,
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
    pub call: Box<dyn Fn(&Progress) -> HookCall + Send>,
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
}

/// Notes what a session owes.
pub fn owe(desk: &Addr<Hooks>, owing: Owing) -> Debt {
    if owing.updates.is_empty() && owing.done.is_empty() {
        return Debt::default();
    }
    let id = NEXT_DEBT.fetch_add(1, Ordering::Relaxed);
    Debt(Some(Box::new(Owed { id, desk: desk.clone(), owing })))
}

impl Debt {
    /// The session has begun: updates are due from now on.
    pub fn begin(&mut self, counters: &Arc<StreamCounters>, to: Recipient<Expelled>) {
        let _ = (counters, to, &self.0);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        // Once for each session, and it may not get lost.
        let done = std::mem::take(&mut self.owing.done);
        let _ = self.id;
        for call in done {
            self.desk.do_send(Tell(call));
        }
    }
}

impl Hooks {
    pub fn new(house: Arc<House>) -> Self {
        Self { house }
    }
}

impl Actor for Hooks {
    type Context = Context<Self>;
}

impl Handler<Ask> for Hooks {
    type Result = ResponseFuture<Result<HookAnswer, HookError>>;

    fn handle(&mut self, Ask(_): Ask, _: &mut Self::Context) -> Self::Result {
        Box::pin(async { Err(HookError::Ending) })
    }
}

impl Handler<Tell> for Hooks {
    type Result = ();

    fn handle(&mut self, Tell(_): Tell, _: &mut Self::Context) {}
}

impl Handler<StopAsking> for Hooks {
    type Result = ();

    fn handle(&mut self, _: StopAsking, _: &mut Self::Context) {}
}

impl Handler<FinishHooks> for Hooks {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishHooks, _: &mut Self::Context) -> Self::Result {
        Box::pin(async {})
    }
}

impl Handler<ListHooks> for Hooks {
    type Result = HookStatus;

    fn handle(&mut self, _: ListHooks, _: &mut Self::Context) -> Self::Result {
        HookStatus::default()
    }
}

impl Handler<StreamEvent> for Hooks {
    type Result = ();

    fn handle(&mut self, _: StreamEvent, _: &mut Self::Context) {
        let _ = &self.house;
    }
}

static NEXT_DEBT: AtomicU64 = AtomicU64::new(1);
