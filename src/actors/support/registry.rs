//! Which node of a cluster has which stream: what a scheduler knows.
//!
//! Nothing is kept for good. Each word of a node holds for a lease, the next one renews it, and after a restart the nodes'
//! next words bring everything back.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
    time::Duration,
};

use serde::Serialize;
use tracing::warn;

use super::targets::{Scheme, Target};

/// Where schedulers write down what nodes say and look up what they ask. An implementation that lives elsewhere keeps a
/// copy here: no caller waits.
pub trait StreamDirectory: Send + Sync {
    /// A node says something of a stream at this time. `lease`: how long it holds unless it is said again.
    fn tell(&self, stream: &StreamName, node: &Node, word: Word, lease: Duration, now: Duration) -> Result<(), Full>;

    /// The node that a stream comes from. Never the one that asks.
    fn locate(&self, stream: &StreamName, asker: Option<&Node>, now: Duration) -> Option<Origin>;

    /// A node began anew: what it said before no longer holds.
    fn forget(&self, node: &Node);

    /// At most so many of what is known, in the order of names.
    fn list(&self, max: usize, now: Duration) -> Vec<Listed>;

    /// Words that are kept.
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stream, as all nodes know it: players come to the domain of an edge and publishers to that of an origin, so the domain
/// is no part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName {
    pub app: String,
    pub name: String,
}

/// A node, by where its streams can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
}

/// What a node says of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Somebody publishes it there: it comes from there for certain. `begins`: another one than said before.
    Published {
        domain: String,
        begins: bool,
    },
    /// One who published left.
    Unpublished,
    /// It exists there. Who says no more of publishers than this is taken for its origin.
    Exists {
        domain: String,
        role: Option<Role>,
    },
    /// It exists there no longer.
    Gone,
    /// The node fetches it from elsewhere, so it does not come from there.
    Fetches,
    FetchesNoMore,
}

/// What a node says it is for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Origin,
    Edge,
}

/// Where a stream comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub node: Node,
    /// What its publisher asked for; empty: not known.
    pub domain: String,
}

/// One line of what is known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    pub app: String,
    pub name: String,
    pub origin: String,
    pub domain: String,
    /// `published`, `exists` or `fetches`.
    pub state: &'static str,
    pub since_s: u64,
    /// None: until the process ends.
    pub lease_s: Option<u64>,
}

/// There is no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler knows {MAX_ENTRIES} streams already, or too many nodes of one")]
pub struct Full;

/// A lease of the process's own streams: they are gone when it is.
pub const FOR_EVER: Duration = Duration::MAX;

impl Node {
    /// `rtmp://host[:port]`; what follows is not looked at.
    pub fn parse(text: &str) -> Option<Self> {
        Target::parse(text).ok().map(|target| Self { scheme: target.scheme, host: target.host, port: target.port })
    }

    /// This process: nobody elsewhere reaches it at this address, see [`Self::seen_from`].
    pub fn here(port: u16) -> Self {
        Self { scheme: Scheme::Rtmp, host: Ipv4Addr::LOCALHOST.to_string(), port }
    }

    /// Where somebody finds it who has reached us at `host`: what is on this machine is there, too.
    #[must_use]
    pub fn seen_from(mut self, asker: Option<IpAddr>, host: &str) -> Self {
        let is_here = |host: &str| host.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback());
        let asks_from_here = asker.is_none_or(|asker| asker.to_canonical().is_loopback());
        if is_here(&self.host) && !asks_from_here && !host.is_empty() && !is_here(host) {
            host.clone_into(&mut self.host);
        }
        self
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{}://{host}:{}", self.scheme.name(), self.port)
    }
}

/// The directory of one process.
#[derive(Default)]
pub struct InMemory(Mutex<Table>);

impl InMemory {
    fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        // Nothing that panics is done under this lock; were it poisoned, the next words mend what is missing.
        match self.0.lock() {
            Ok(mut table) => act(&mut table),
            Err(poisoned) => act(&mut poisoned.into_inner()),
        }
    }
}

impl StreamDirectory for InMemory {
    fn tell(&self, stream: &StreamName, node: &Node, word: Word, lease: Duration, now: Duration) -> Result<(), Full> {
        self.with(|table| table.tell(stream, node, word, lease, now))
    }

    fn locate(&self, stream: &StreamName, asker: Option<&Node>, now: Duration) -> Option<Origin> {
        self.with(|table| table.locate(stream, asker, now))
    }

    fn forget(&self, node: &Node) {
        self.with(|table| table.retain(|entry| entry.node != *node));
    }

    fn list(&self, max: usize, now: Duration) -> Vec<Listed> {
        self.with(|table| table.list(max, now))
    }

    fn len(&self) -> usize {
        self.with(|table| table.entries)
    }
}

#[derive(Default)]
struct Table {
    streams: BTreeMap<StreamName, Vec<Entry>>,
    entries: usize,
    /// Nodes that say who publishes, and until when that counts: of these, that a stream exists says nothing.
    precise: HashMap<Node, Duration>,
    swept: Duration,
    full_said: Option<Duration>,
}

/// What one node says of one stream. Each part holds until its time.
struct Entry {
    node: Node,
    domain: String,
    since: Duration,
    publishers: u32,
    published: Duration,
    exists: Duration,
    fetches: Duration,
}

impl Entry {
    fn new(node: &Node, now: Duration) -> Self {
        let never = Duration::ZERO;
        let (published, exists, fetches) = (never, never, never);
        Self { node: node.clone(), domain: String::new(), since: now, publishers: 0, published, exists, fetches }
    }

    fn is_published(&self, now: Duration) -> bool {
        self.publishers > 0 && self.published > now
    }

    fn is_origin(&self, now: Duration) -> bool {
        self.is_published(now) || self.exists > now && self.fetches <= now
    }

    fn is_dead(&self, now: Duration) -> bool {
        !self.is_published(now) && self.exists <= now && self.fetches <= now
    }

    fn hear(&mut self, word: Word, until: Duration, now: Duration) {
        match word {
            Word::Published { domain, begins } => {
                if begins && self.is_published(now) {
                    // A takeover: the first one's `done` is still to come, perhaps late.
                    self.publishers = self.publishers.saturating_add(1).min(MAX_PUBLISHERS);
                } else if !self.is_published(now) {
                    self.publishers = 1;
                }
                if begins {
                    self.since = now;
                }
                (self.domain, self.published, self.fetches) = (domain, until, Duration::ZERO);
            }
            Word::Unpublished => self.publishers = self.publishers.saturating_sub(1),
            Word::Exists { domain, role } => {
                if self.exists <= now && !self.is_published(now) {
                    self.since = now;
                    self.domain = domain;
                }
                self.exists = until;
                match role {
                    Some(Role::Origin) => self.fetches = Duration::ZERO,
                    Some(Role::Edge) => self.fetches = until,
                    None => {}
                }
            }
            Word::Gone => (self.exists, self.fetches) = (Duration::ZERO, Duration::ZERO),
            Word::Fetches => self.fetches = until,
            Word::FetchesNoMore => self.fetches = Duration::ZERO,
        }
    }
}

impl Table {
    fn tell(
        &mut self,
        stream: &StreamName,
        node: &Node,
        word: Word,
        lease: Duration,
        now: Duration,
    ) -> Result<(), Full> {
        if now.saturating_sub(self.swept) >= SWEEP {
            self.sweep(now);
        }
        let until = now.saturating_add(lease);
        let begins = match &word {
            Word::Published { .. } => {
                if self.precise.len() < MAX_NODES || self.precise.contains_key(node) {
                    self.precise.insert(node.clone(), now.saturating_add(PRECISE));
                }
                true
            }
            Word::Exists { role: None, .. } if self.precise.get(node).is_some_and(|until| *until > now) => {
                return Ok(());
            }
            Word::Exists { .. } | Word::Fetches => true,
            Word::Unpublished | Word::Gone | Word::FetchesNoMore => false,
        };
        let known = self.streams.get(stream).is_some_and(|entries| entries.iter().any(|entry| entry.node == *node));
        if !known {
            if !begins {
                return Ok(());
            }
            self.make_room(stream, &word, now)?;
            self.streams.entry(stream.clone()).or_default().push(Entry::new(node, now));
            self.entries += 1;
        }
        let Some(entries) = self.streams.get_mut(stream) else { return Ok(()) };
        if let Some(at) = entries.iter().position(|entry| entry.node == *node)
            && let Some(entry) = entries.get_mut(at)
        {
            entry.hear(word, until, now);
            if entry.is_dead(now) {
                entries.swap_remove(at);
                self.entries -= 1;
            }
        }
        if entries.is_empty() {
            self.streams.remove(stream);
        }
        Ok(())
    }

    /// Room for one more entry of this stream. Origins are kept before edges.
    fn make_room(&mut self, stream: &StreamName, word: &Word, now: Duration) -> Result<(), Full> {
        if self.entries >= MAX_ENTRIES {
            self.sweep(now);
        }
        let others = self.streams.get_mut(stream);
        if let Some(others) = others.filter(|others| others.len() >= MAX_NODES_OF_A_STREAM) {
            let least = others.iter().position(|entry| !entry.is_published(now));
            match least.filter(|_| matches!(word, Word::Published { .. })) {
                Some(least) => {
                    others.swap_remove(least);
                    self.entries -= 1;
                }
                None => return Err(Full),
            }
        }
        if self.entries < MAX_ENTRIES {
            return Ok(());
        }
        if self.full_said.is_none_or(|said| now.saturating_sub(said) >= SWEEP) {
            self.full_said = Some(now);
            warn!(entries = self.entries, "the scheduler's directory is full: new streams are not found by others");
        }
        Err(Full)
    }

    /// A publisher before a stream that only exists, and of two the one that came last: the other one's node may have died
    /// without a word.
    fn locate(&self, stream: &StreamName, asker: Option<&Node>, now: Duration) -> Option<Origin> {
        let entries = self.streams.get(stream)?;
        let others = entries.iter().filter(|entry| entry.is_origin(now) && Some(&entry.node) != asker);
        let best = others.max_by_key(|entry| (entry.is_published(now), entry.since))?;
        Some(Origin { node: best.node.clone(), domain: best.domain.clone() })
    }

    fn list(&self, max: usize, now: Duration) -> Vec<Listed> {
        let all = self.streams.iter().flat_map(|(stream, entries)| entries.iter().map(move |entry| (stream, entry)));
        let listed = all.filter(|(_, entry)| !entry.is_dead(now)).take(max).map(|(stream, entry)| {
            let (state, until) = match entry {
                entry if entry.is_published(now) => ("published", entry.published),
                entry if entry.is_origin(now) => ("exists", entry.exists),
                entry => ("fetches", entry.fetches),
            };
            Listed {
                app: stream.app.clone(),
                name: stream.name.clone(),
                origin: entry.node.to_string(),
                domain: entry.domain.clone(),
                state,
                since_s: now.saturating_sub(entry.since).as_secs(),
                lease_s: (until != FOR_EVER).then(|| until.saturating_sub(now).as_secs()),
            }
        });
        listed.collect()
    }

    fn sweep(&mut self, now: Duration) {
        self.swept = now;
        self.precise.retain(|_, until| *until > now);
        self.retain(|entry| !entry.is_dead(now));
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.streams.retain(|_, entries| {
            entries.retain(&keep);
            !entries.is_empty()
        });
        self.entries = self.streams.values().map(Vec::len).sum();
    }
}

/// Some 30 MB.
pub const MAX_ENTRIES: usize = 100_000;

/// Nodes that play one stream say so too; beyond this many they are not noted.
const MAX_NODES_OF_A_STREAM: usize = 64;

/// Publishers of one name on one node that have not been said to have left. More of them have been forgotten.
const MAX_PUBLISHERS: u32 = 4;

const MAX_NODES: usize = 10_000;

/// A node that told of a publisher tells of the next one, too.
const PRECISE: Duration = Duration::from_secs(3600);

/// How often what is over is thrown away. It is not found before that either.
const SWEEP: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(180);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn node(number: u8) -> Node {
        Node::parse(&format!("rtmp://10.0.0.{number}")).unwrap()
    }

    fn cam() -> StreamName {
        StreamName { app: "live".to_owned(), name: "cam".to_owned() }
    }

    fn published(begins: bool) -> Word {
        Word::Published { domain: "live.example".to_owned(), begins }
    }

    fn exists(role: Option<Role>) -> Word {
        Word::Exists { domain: String::new(), role }
    }

    struct Cluster(InMemory);

    impl Cluster {
        fn new() -> Self {
            Self(InMemory::default())
        }

        fn tell(&self, number: u8, word: Word, seconds: u64) {
            self.0.tell(&cam(), &node(number), word, LEASE, at(seconds)).unwrap();
        }

        /// The last part of the origin's address.
        fn origin(&self, asker: u8, seconds: u64) -> Option<u8> {
            let found = self.0.locate(&cam(), Some(&node(asker)), at(seconds))?;
            found.node.host.rsplit('.').next()?.parse().ok()
        }
    }

    #[test]
    fn a_publisher_is_found_by_all_but_its_own_node_until_it_leaves() {
        let cluster = Cluster::new();
        assert_eq!(cluster.origin(2, 0), None);
        cluster.tell(1, published(true), 0);
        assert_eq!((cluster.origin(2, 1), cluster.origin(1, 1)), (Some(1), None));
        let found = cluster.0.locate(&cam(), None, at(1)).unwrap();
        assert_eq!((found.node.to_string().as_str(), found.domain.as_str()), ("rtmp://10.0.0.1:1935", "live.example"));
        cluster.tell(1, Word::Unpublished, 2);
        assert_eq!(cluster.origin(2, 2), None);
        assert!(cluster.0.is_empty());
    }

    #[test]
    fn a_node_that_falls_silent_is_forgotten_after_its_lease() {
        let cluster = Cluster::new();
        cluster.tell(1, published(true), 0);
        cluster.tell(1, published(false), 60);
        assert_eq!(cluster.origin(2, 239), Some(1));
        assert_eq!(cluster.origin(2, 240), None);
        cluster.tell(3, published(true), 300);
        assert_eq!(cluster.0.len(), 1, "and thrown away");
    }

    #[test]
    fn after_a_restart_the_next_updates_bring_everything_back() {
        let cluster = Cluster::new();
        cluster.tell(1, published(false), 0);
        assert_eq!(cluster.origin(2, 1), Some(1));
        cluster.tell(1, Word::Unpublished, 2);
        assert_eq!(cluster.origin(2, 2), None);
    }

    #[test]
    fn a_late_done_of_the_one_before_takes_nothing_from_a_takeover() {
        let cluster = Cluster::new();
        cluster.tell(1, published(true), 0);
        cluster.tell(1, published(true), 10);
        cluster.tell(1, Word::Unpublished, 11);
        assert_eq!(cluster.origin(2, 11), Some(1));
        cluster.tell(1, Word::Unpublished, 12);
        assert_eq!(cluster.origin(2, 12), None);
    }

    #[test]
    fn a_publisher_that_moved_is_found_where_it_is_now() {
        let cluster = Cluster::new();
        cluster.tell(1, published(true), 0);
        cluster.tell(3, published(true), 30);
        assert_eq!(cluster.origin(2, 31), Some(3));
        cluster.tell(1, published(false), 60);
        assert_eq!(cluster.origin(2, 61), Some(3), "an update is no new publisher");
        cluster.tell(3, Word::Unpublished, 62);
        assert_eq!(cluster.origin(2, 62), Some(1));
    }

    #[test]
    fn an_edge_never_becomes_the_origin_of_what_it_fetches() {
        let cluster = Cluster::new();
        // A player at edge 2: its stream exists, and then it asks where to pull from.
        cluster.tell(2, exists(None), 0);
        cluster.tell(2, Word::Fetches, 0);
        assert_eq!(cluster.origin(3, 1), None);
        cluster.tell(1, published(true), 5);
        cluster.tell(2, exists(None), 60);
        cluster.tell(2, Word::Fetches, 60);
        assert_eq!(cluster.origin(3, 61), Some(1));
        cluster.tell(1, Word::Unpublished, 62);
        assert_eq!(cluster.origin(3, 63), None);
        cluster.tell(2, Word::FetchesNoMore, 64);
        cluster.tell(2, Word::Gone, 64);
        assert!(cluster.0.is_empty());
    }

    #[test]
    fn a_stream_that_only_exists_counts_where_the_node_says_no_more() {
        let cluster = Cluster::new();
        cluster.tell(1, exists(None), 0);
        assert_eq!(cluster.origin(2, 1), Some(1));
        cluster.tell(3, published(true), 2);
        assert_eq!(cluster.origin(2, 3), Some(3), "a publisher is sure");
        cluster.tell(3, Word::Unpublished, 4);
        cluster.tell(3, exists(None), 5);
        assert_eq!(cluster.origin(1, 6), None, "node 3 would say who publishes");
    }

    #[test]
    fn a_role_is_believed() {
        let cluster = Cluster::new();
        cluster.tell(1, exists(Some(Role::Edge)), 0);
        assert_eq!(cluster.origin(2, 1), None);
        cluster.tell(1, exists(Some(Role::Origin)), 2);
        assert_eq!(cluster.origin(2, 3), Some(1));
    }

    #[test]
    fn a_node_that_begins_anew_has_nothing() {
        let cluster = Cluster::new();
        cluster.tell(1, published(true), 0);
        cluster.tell(3, published(true), 0);
        cluster.0.forget(&node(3));
        assert_eq!(cluster.origin(2, 1), Some(1));
        assert_eq!(cluster.0.len(), 1);
    }

    #[test]
    fn a_node_beside_the_scheduler_is_where_the_scheduler_is() {
        let seen = |asker: &str, host: &str| Node::here(1936).seen_from(Some(asker.parse().unwrap()), host).to_string();
        assert_eq!(seen("10.0.0.9", "sched.example"), "rtmp://sched.example:1936");
        assert_eq!(seen("127.0.0.1", "sched.example"), "rtmp://127.0.0.1:1936");
        assert_eq!(seen("10.0.0.9", ""), "rtmp://127.0.0.1:1936");
        let other = node(1).seen_from(Some("10.0.0.9".parse().unwrap()), "sched.example");
        assert_eq!(other, node(1));
    }

    #[test]
    fn the_process_s_own_streams_need_no_lease() {
        let directory = InMemory::default();
        directory.tell(&cam(), &node(1), published(true), FOR_EVER, at(5)).unwrap();
        assert!(directory.locate(&cam(), None, at(1 << 40)).is_some());
        let listed = directory.list(10, at(65));
        let [only] = listed.as_slice() else { panic!("{listed:?}") };
        assert_eq!((only.state, only.since_s, only.lease_s), ("published", 60, None));
    }

    #[test]
    fn there_is_room_for_so_many_and_what_is_over_makes_room() {
        let directory = InMemory::default();
        let stream = |number: usize| StreamName { app: "live".to_owned(), name: number.to_string() };
        for number in 0..MAX_ENTRIES {
            directory.tell(&stream(number), &node(1), published(true), LEASE, at(0)).unwrap();
        }
        let more = directory.tell(&stream(MAX_ENTRIES), &node(1), published(true), LEASE, at(1));
        assert_eq!((more, directory.len()), (Err(Full), MAX_ENTRIES));
        assert_eq!(directory.tell(&stream(5), &node(1), published(false), LEASE, at(100)), Ok(()));
        assert_eq!(directory.tell(&stream(MAX_ENTRIES), &node(1), published(true), LEASE, at(200)), Ok(()));
        assert_eq!(directory.len(), 2);
    }

    #[test]
    fn edges_make_room_for_an_origin() {
        let cluster = Cluster::new();
        for edge in 100..100 + u8::try_from(MAX_NODES_OF_A_STREAM).unwrap() {
            cluster.tell(edge, Word::Fetches, 0);
        }
        assert_eq!(cluster.0.tell(&cam(), &node(9), Word::Fetches, LEASE, at(1)), Err(Full));
        cluster.tell(1, published(true), 1);
        assert_eq!(cluster.origin(9, 1), Some(1));
        assert_eq!(cluster.0.len(), MAX_NODES_OF_A_STREAM);
    }

    fn words() -> impl Strategy<Value = Word> {
        prop_oneof![
            any::<bool>().prop_map(published),
            Just(Word::Unpublished),
            prop_oneof![Just(None), Just(Some(Role::Origin)), Just(Some(Role::Edge))].prop_map(exists),
            Just(Word::Gone),
            Just(Word::Fetches),
            Just(Word::FetchesNoMore),
        ]
    }

    proptest! {
        #[test]
        fn whatever_nodes_say_nobody_is_sent_to_himself_and_silence_ends_it_all(
            said in prop::collection::vec((1_u8..5, words(), 0_u64..90), 0..60)
        ) {
            let (cluster, mut now) = (Cluster::new(), 0);
            for (number, word, pause) in said {
                now += pause;
                cluster.tell(number, word, now);
                for asker in 1..5 {
                    prop_assert_ne!(cluster.origin(asker, now), Some(asker));
                }
            }
            let end = at(now) + LEASE;
            prop_assert!(cluster.0.locate(&cam(), None, end).is_none());
            prop_assert!(cluster.0.list(100, end).is_empty());
        }
    }
}
