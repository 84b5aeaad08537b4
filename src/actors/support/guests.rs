//! Viewers of segments that hooks were asked about: each is asked about once, for as long as it watches.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::OnceCell;

use crate::{
    actors::{gate::Denied, hooks::Debt},
    media::key::StreamKey,
};

/// All of them, by what they asked for and who they are.
#[derive(Default)]
pub struct Guests(Mutex<HashMap<GuestId, Guest>>);

/// Who asks for what, as far as a request tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GuestId {
    /// As it was asked for.
    pub key: StreamKey,
    pub who: GuestName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GuestName {
    /// It has a token of ours, or one it invented.
    Token(String),
    /// What else its requests have in common.
    Habits { address: Option<IpAddr>, agent: Vec<u8>, query: String },
}

/// What the hooks said.
pub type Verdict = Result<Let, Denied>;

/// Somebody who was let in.
pub struct Let {
    /// The stream it watches, which may be another one than it asked for.
    pub key: StreamKey,
    /// In the order in which they are to be paid.
    pub debts: Vec<Debt>,
    /// An update has ended its session.
    pub is_expelled: Arc<AtomicBool>,
}

struct Guest {
    verdict: Arc<OnceCell<Verdict>>,
    last: Duration,
    timeout: Duration,
}

impl Guests {
    /// The stream this guest watches: asks about it where nobody has, and waits for the answer where somebody does.
    pub async fn admit(
        &self,
        id: GuestId,
        now: Duration,
        timeout: Duration,
        ask: impl Future<Output = Verdict>,
    ) -> Result<StreamKey, Denied> {
        let cell = self.see(id, now, timeout).ok_or_else(Self::crowded)?;
        let verdict = cell.get_or_init(|| ask).await;
        match verdict {
            Ok(guest) if guest.is_expelled.load(Ordering::Relaxed) => {
                Err(Denied { reason: "an update was refused".to_owned(), redirect: None, is_forbidden: false })
            }
            Ok(guest) => Ok(guest.key.clone()),
            Err(denied) => Err(denied.clone()),
        }
    }

    /// Somebody that has been asked about already is known by this name from now on.
    pub fn enter(&self, id: GuestId, verdict: Verdict, now: Duration, timeout: Duration) -> Result<(), Denied> {
        let cell = self.see(id, now, timeout).ok_or_else(Self::crowded)?;
        // One that is known already keeps its verdict.
        let _ = cell.set(verdict);
        Ok(())
    }

    /// Forgets who has left, and pays what it owes.
    pub fn expire(&self, now: Duration) {
        let stays = |guest: &Guest| {
            let is_asked_about = guest.verdict.get().is_none() && Arc::strong_count(&guest.verdict) > 1;
            is_asked_about || now.saturating_sub(guest.last) < guest.timeout
        };
        let mut gone = Vec::new();
        self.known().retain(|_, guest| {
            let keep = stays(guest);
            if !keep {
                gone.push(Arc::clone(&guest.verdict));
            }
            keep
        });
    }

    /// Everybody leaves.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.known());
        drop(gone);
    }

    fn see(&self, id: GuestId, now: Duration, timeout: Duration) -> Option<Arc<OnceCell<Verdict>>> {
        let mut known = self.known();
        if known.len() >= MAX_GUESTS && !known.contains_key(&id) {
            return None;
        }
        let fresh = || Guest { verdict: Arc::default(), last: now, timeout };
        let guest = known.entry(id).or_insert_with(fresh);
        guest.last = now;
        Some(Arc::clone(&guest.verdict))
    }

    fn crowded() -> Denied {
        Denied { reason: "too many viewers to ask about".to_owned(), redirect: None, is_forbidden: false }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<GuestId, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// More are not let in where somebody must be asked about them.
const MAX_GUESTS: usize = 50_000;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn id(token: &str) -> GuestId {
        let key = StreamKey::parse("default", "live", "cam").expect("a good name");
        GuestId { key, who: GuestName::Token(token.to_owned()) }
    }

    fn let_in() -> Verdict {
        Ok(Let { key: id("").key, debts: Vec::new(), is_expelled: Arc::default() })
    }

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn requests_of_one_viewer_are_one_question() {
        let guests = Guests::default();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            let_in()
        };
        let request = |token| guests.admit(id(token), Duration::ZERO, TIMEOUT, ask());
        let (first, second, other) = tokio::join!(request("a"), request("a"), request("b"));
        assert!(first.is_ok() && second.is_ok() && other.is_ok());
        assert_eq!(asked.get(), 2);
        guests.expire(TIMEOUT);
        request("a").await.expect("let in");
        assert_eq!(asked.get(), 3, "it had left");
    }

    #[tokio::test]
    async fn who_was_refused_or_expelled_stays_outside() {
        let guests = Guests::default();
        let denied = Denied { reason: "403".to_owned(), redirect: None, is_forbidden: false };
        let verdict = guests.admit(id("a"), Duration::ZERO, TIMEOUT, async { Err(denied.clone()) }).await;
        assert_eq!(verdict, Err(denied.clone()));
        assert_eq!(guests.admit(id("a"), TIMEOUT / 2, TIMEOUT, async { let_in() }).await, Err(denied));
        let flag = Arc::new(AtomicBool::new(false));
        let is_expelled = Arc::clone(&flag);
        guests.enter(id("b"), let_in().map(|guest| Let { is_expelled, ..guest }), TIMEOUT, TIMEOUT).expect("room");
        assert!(guests.admit(id("b"), TIMEOUT, TIMEOUT, async { let_in() }).await.is_ok());
        flag.store(true, Ordering::Relaxed);
        assert!(guests.admit(id("b"), TIMEOUT, TIMEOUT, async { let_in() }).await.is_err());
    }
}
