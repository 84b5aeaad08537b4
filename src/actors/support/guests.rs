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
    actors::gate::{Denied, Watcher},
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
    pub watcher: Watcher,
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
            Ok(Let { watcher, .. }) => Ok(watcher.key.clone()),
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

    /// A guest that is known goes by another name as well.
    pub fn also_call(&self, known: &GuestId, name: GuestId) {
        let mut guests = self.known();
        let guest = guests.get(known).map(|guest| Guest { verdict: Arc::clone(&guest.verdict), ..*guest });
        if let Some(guest) = guest {
            guests.insert(name, guest);
        }
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

    fn denied() -> Verdict {
        Err(Denied { reason: "403".to_owned(), redirect: None, is_forbidden: false })
    }

    const TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn requests_of_one_viewer_are_one_question() {
        let guests = Guests::default();
        let asked = Cell::new(0);
        let ask = || async {
            asked.set(asked.get() + 1);
            tokio::task::yield_now().await;
            denied()
        };
        let request = |token, now| guests.admit(id(token), now, TIMEOUT, ask());
        let zero = Duration::ZERO;
        let (first, second, other) = tokio::join!(request("a", zero), request("a", zero), request("b", zero));
        assert!([first, second, other].iter().all(|verdict| verdict.is_err()));
        assert_eq!(asked.get(), 2);
        assert!(request("a", TIMEOUT / 2).await.is_err());
        guests.expire(TIMEOUT);
        assert!(request("a", TIMEOUT).await.is_err());
        assert_eq!(asked.get(), 2, "it still asks");
        guests.expire(TIMEOUT * 3);
        assert!(request("a", TIMEOUT * 3).await.is_err());
        assert_eq!(asked.get(), 3, "it had left");
    }

    #[tokio::test]
    async fn who_is_known_by_a_new_name_is_not_asked_about_again() {
        let guests = Guests::default();
        guests.enter(id("b"), denied(), TIMEOUT, TIMEOUT).expect("there is room");
        let verdict = guests.admit(id("b"), TIMEOUT, TIMEOUT, async { unreachable!("nobody asks") }).await;
        assert!(verdict.is_err());
    }
}
