//! Who watches segments of one stream: sessions, made of requests that say little of each other.
//!
//! A viewer is known by the token that its playlist's address carries, or else by its address and the name of its player.
//! It leaves without a word, so who asks for nothing during the timeout is gone.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    counters::{Protocol, StreamCounters},
    roll::{self, ClientNow, ClientRole, Pulse},
    snapshot::Client,
};
use crate::media::key::StreamKey;

/// The viewers of one output.
pub struct Sessions {
    timeout: Duration,
    counters: Arc<StreamCounters>,
    /// What address and agent make of an id; unlike that of any other process, so that nobody can aim at somebody else's.
    hasher: RandomState,
    known: Mutex<HashMap<ViewerId, Viewer>>,
    /// Numbers for viewers.
    number: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Tells a viewer from the others of its output.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ViewerId(u64);

/// A viewer, as statistics see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Viewer {
    /// Tells it from all other clients, and says nothing of its token.
    pub number: u64,
    pub address: Option<IpAddr>,
    /// What its player calls itself.
    pub agent: Arc<str>,
    pub protocol: Protocol,
    /// When its first and its last request came, on the clock of whoever asks.
    pub since: Duration,
    pub last: Duration,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It was given a token, and has not come back with it.
    Invited,
    Watching,
    /// Told to go.
    Dropped,
}

/// Somebody told this viewer to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("dropped")]
pub struct Dropped;

/// What a request says of who makes it.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    pub token: Option<&'a str>,
    /// None: a unix socket.
    pub address: Option<IpAddr>,
    pub agent: &'a [u8],
}

impl Sessions {
    /// `number` gives each viewer one that no other client has.
    pub fn new(
        timeout: Duration,
        counters: Arc<StreamCounters>,
        number: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { timeout, counters, hasher: RandomState::new(), known: Mutex::default(), number: Box::new(number) }
    }

    /// Somebody asks for the first playlist. The token makes a session of its own also where many have one address; none:
    /// there are too many already.
    pub fn invite(&self, who: &Who<'_>, protocol: Protocol, now: Duration) -> Option<String> {
        let mut known = self.known();
        if known.len() >= MAX_VIEWERS {
            return None;
        }
        let id = ViewerId(rand::random());
        known.insert(id, self.newcomer(who, protocol, now));
        Some(format!("{:016x}", id.0))
    }

    /// Somebody asks for what a viewer asks for again and again.
    pub fn see(&self, who: &Who<'_>, protocol: Protocol, now: Duration) -> Result<(), Dropped> {
        let by_token =
            who.token.filter(|token| token.len() == 16).and_then(|token| u64::from_str_radix(token, 16).ok());
        let by_address = ViewerId(self.hasher.hash_one((who.address, who.agent)));
        let mut known = self.known();
        // A token nobody gave out is no session: inventing them would make viewers of one player.
        let id = by_token.map(ViewerId).filter(|id| known.contains_key(id)).unwrap_or(by_address);
        let is_full = known.len() >= MAX_VIEWERS;
        let viewer = match known.get_mut(&id) {
            Some(viewer) => viewer,
            None if is_full => return Ok(()),
            None => known.entry(id).or_insert_with(|| self.newcomer(who, protocol, now)),
        };
        viewer.last = now;
        match viewer.state {
            State::Dropped => return Err(Dropped),
            State::Watching => {}
            State::Invited => {
                viewer.state = State::Watching;
                self.counters.players.come(viewer.protocol);
            }
        }
        Ok(())
    }

    fn newcomer(&self, who: &Who<'_>, protocol: Protocol, now: Duration) -> Viewer {
        let agent = String::from_utf8_lossy(who.agent.get(..LONGEST_AGENT).unwrap_or(who.agent)).into();
        let number = (self.number)();
        Viewer { number, address: who.address, agent, protocol, since: now, last: now, state: State::Invited }
    }

    /// Somebody was sent so much of a segment.
    pub fn note_sent(&self, bytes: usize) {
        self.counters.segment_bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Forgets who has left.
    pub fn expire(&self, now: Duration) {
        self.known().retain(|_, viewer| {
            let stays = now.saturating_sub(viewer.last) < self.timeout;
            if !stays && viewer.state == State::Watching {
                self.counters.players.go(viewer.protocol);
            }
            stays
        });
    }

    /// Sends a viewer away: its next request is refused. False: nobody of this id is watching.
    pub fn drop_viewer(&self, id: ViewerId) -> bool {
        let mut known = self.known();
        let Some(viewer) = known.get_mut(&id).filter(|viewer| viewer.state == State::Watching) else { return false };
        viewer.state = State::Dropped;
        self.counters.players.go(viewer.protocol);
        true
    }

    /// Who watches now.
    pub fn list(&self) -> Vec<(ViewerId, Viewer)> {
        let known = self.known();
        let watching = known.iter().filter(|(_, viewer)| viewer.state == State::Watching);
        watching.map(|(id, viewer)| (*id, viewer.clone())).collect()
    }

    pub fn count(&self) -> usize {
        self.known().values().filter(|viewer| viewer.state == State::Watching).count()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ViewerId, Viewer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    /// The viewer as a client of the server. `store_now` is on its own clock, `now` on that of the house.
    pub fn client(&self, key: &StreamKey, store_now: Duration, now: Duration) -> Client {
        let since = now.saturating_sub(store_now.saturating_sub(self.since));
        let who = roll::Who {
            id: self.number,
            role: ClientRole::Player,
            protocol: self.protocol.name(),
            key: key.clone(),
            address: self.address.map(|address| (address, 0).into()),
            agent: self.agent.to_string(),
            page_url: String::new(),
            swf_url: String::new(),
            tc_url: String::new(),
            connected: since,
            began: since,
            is_relay: false,
        };
        let client = Client::new(ClientNow { who: Arc::new(who), pulse: Pulse::default() }, 0);
        Client { idle: Some(store_now.saturating_sub(self.last)), ..client }
    }
}

/// The output ends, and with it everybody's session.
impl Drop for Sessions {
    fn drop(&mut self) {
        for (_, viewer) in self.list() {
            self.counters.players.go(viewer.protocol);
        }
    }
}

/// Names of players beyond this are cut.
const LONGEST_AGENT: usize = 256;

/// Sessions of one output that are told apart; more are served and not counted.
const MAX_VIEWERS: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn viewers() -> (Sessions, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        (Sessions::new(TIMEOUT, Arc::clone(&counters), || 1), counters)
    }

    fn who(token: Option<&str>) -> Who<'_> {
        Who { token, address: Some(IpAddr::from([192, 0, 2, 1])), agent: b"VLC" }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn tokens_tell_viewers_of_one_address_apart() {
        let (viewers, counters) = viewers();
        let tokens: Vec<String> = (0..3).filter_map(|_| viewers.invite(&who(None), Protocol::Hls, at(0))).collect();
        assert_eq!(counters.players.of(Protocol::Hls), 0, "who only looked at the list is no viewer yet");
        for token in &tokens {
            viewers.see(&who(Some(token)), Protocol::Hls, at(1)).expect("nobody was dropped");
            viewers.see(&who(Some(token)), Protocol::Hls, at(2)).expect("nobody was dropped");
        }
        assert_eq!((counters.players.of(Protocol::Hls), viewers.count()), (3, 3));
        viewers.expire(at(31));
        assert_eq!(viewers.count(), 3);
        viewers.expire(at(32));
        assert_eq!((counters.players.total(), viewers.count()), (0, 0));
    }

    #[test]
    fn without_a_token_address_and_agent_are_one_viewer() {
        let (viewers, counters) = viewers();
        for token in [None, Some("0123456789abcdef"), Some("invented"), Some("fedcba9876543210")] {
            viewers.see(&who(token), Protocol::Dash, at(0)).expect("nobody was dropped");
        }
        viewers.see(&Who { agent: b"ffmpeg", ..who(None) }, Protocol::Dash, at(0)).expect("nobody was dropped");
        assert_eq!(counters.players.of(Protocol::Dash), 2, "an invented token is nobody's");
    }

    #[test]
    fn who_was_dropped_is_refused_for_as_long_as_he_asks() {
        let (viewers, counters) = viewers();
        viewers.see(&who(None), Protocol::Hls, at(0)).expect("nobody was dropped");
        let (id, _) = viewers.list()[0];
        assert!(viewers.drop_viewer(id) && !viewers.drop_viewer(id));
        assert_eq!(counters.players.total(), 0);
        for second in [1, 29, 50] {
            viewers.expire(at(second));
            assert_eq!(viewers.see(&who(None), Protocol::Hls, at(second)), Err(Dropped));
        }
        viewers.expire(at(100));
        assert_eq!(viewers.see(&who(None), Protocol::Hls, at(100)), Ok(()));
    }

    #[test]
    fn sessions_are_bounded_and_end_with_their_output() {
        let (viewers, counters) = viewers();
        for _ in 0..MAX_VIEWERS + 10 {
            viewers.invite(&who(None), Protocol::Hls, at(0));
        }
        assert_eq!(viewers.invite(&who(None), Protocol::Hls, at(0)), None);
        assert_eq!(viewers.see(&who(None), Protocol::Hls, at(0)), Ok(()), "served all the same");
        let known = viewers.known().keys().next().map(|id| format!("{:016x}", id.0)).expect("somebody");
        viewers.see(&who(Some(&known)), Protocol::Hls, at(0)).expect("nobody was dropped");
        assert_eq!(counters.players.total(), 1);
        drop(viewers);
        assert_eq!(counters.players.total(), 0);
    }
}
