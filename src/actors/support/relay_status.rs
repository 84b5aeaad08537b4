//! What one relay is doing, written by the relay and its supervisor and read by whoever asks.

use std::{
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::relay_plan::Leg;
use crate::media::key::StreamKey;

/// Shared by the attempts of one relay, one after the other.
#[derive(Debug, Default)]
pub struct RelayStatus {
    /// Bytes from the far end or to it, over all attempts.
    pub bytes: AtomicU64,
    /// How far the far end is behind what it could have.
    pub lag_ms: AtomicU64,
    /// Frames that a push left out.
    pub drops: AtomicU64,
    /// For how long media flowed in the last attempt.
    pub worked_ms: AtomicU64,
    report: Mutex<Report>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub state: State,
    /// The far end of this attempt, without what may be a secret.
    pub url: String,
    pub leg: Option<Leg>,
    /// The address that took us.
    pub peer: Option<IpAddr>,
    /// How the last attempt ended.
    pub last: Option<Ending>,
}

/// What a relay is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// For its next attempt.
    #[default]
    Waiting,
    /// A scheduler where to go.
    Asking,
    Connecting,
    /// The far end was asked and has not said yes, or has sent nothing yet.
    Starting,
    Running,
    Ending,
    /// A bug ended it too often.
    Failed,
    /// For somebody to publish what is to be pushed.
    Idle,
}

impl State {
    /// The word for it in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Asking => "asking",
            Self::Connecting => "connecting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ending => "ending",
            Self::Failed => "failed",
            Self::Idle => "idle",
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub fate: Fate,
    pub reason: String,
}

/// What is to become of a relay whose attempt has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Tried again.
    Retry,
    /// Tried again, but it will hardly mend by itself.
    Refused,
    /// A name that may still be that of our last session there.
    NameInUse,
    /// The far end asks to come to this `tcUrl`.
    Moved(String),
    /// Somebody publishes here, or nobody watches any more.
    NotNeeded,
    /// A scheduler sees no need: over until it is wanted anew.
    NoNeed,
    /// A scheduler says that there is nothing to be had: over, with this status.
    TurnedAway(u16),
}

impl RelayStatus {
    pub fn report(&self) -> Report {
        self.report.lock().map(|report| report.clone()).unwrap_or_default()
    }

    pub fn state(&self) -> State {
        self.report().state
    }

    pub fn enter(&self, state: State) {
        self.change(|report| report.state = state);
    }

    pub fn leg(&self) -> Option<Leg> {
        self.report().leg
    }

    /// `shown`: what of it may be seen.
    pub fn go_to(&self, leg: &Leg, shown: String) {
        self.change(|report| {
            report.url = shown;
            report.leg = Some(leg.clone());
        });
    }

    pub fn peer(&self) -> Option<IpAddr> {
        self.report().peer
    }

    pub fn note_peer(&self, peer: IpAddr) {
        self.change(|report| report.peer = Some(peer));
    }

    /// The first reason counts: what follows is its consequence.
    pub fn end(&self, fate: Fate, reason: impl Into<String>) {
        self.change(|report| {
            report.last.get_or_insert_with(|| Ending { fate, reason: reason.into() });
        });
    }

    /// Forgets how the last attempt ended, as the next one begins.
    pub fn begin(&self) {
        self.lag_ms.store(0, Ordering::Relaxed);
        self.worked_ms.store(0, Ordering::Relaxed);
        self.change(|report| {
            report.last = None;
            report.state = State::Connecting;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        // Nothing that panics is done under this lock; were it poisoned, a description is all that is lost.
        if let Ok(mut report) = self.report.lock() {
            change(&mut report);
        }
    }
}

/// One relay, for whoever looks on.
#[derive(Clone, Debug)]
pub struct RelayView {
    pub id: u64,
    /// `push` or `pull`.
    pub direction: &'static str,
    pub key: StreamKey,
    /// Who asked for it: `configuration`, `hook`, `scheduler` or `api`.
    pub origin: &'static str,
    /// The address that took it.
    pub peer: Option<IpAddr>,
    /// Without query: it may hold a secret.
    pub url: String,
    pub state: State,
    /// Attempts since it last worked.
    pub attempt: u32,
    pub last_error: Option<String>,
    /// None: it is at it.
    pub next_try_ms: Option<u64>,
    pub bytes: u64,
    pub lag_ms: u64,
    pub drops: u64,
    /// Seconds since there is this relay.
    pub since_s: u64,
}
