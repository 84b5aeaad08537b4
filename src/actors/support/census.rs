//! Who is here: connections and publishers counted by address, with guards that give back what they took.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;

use crate::config::Limits;

/// The counts of the whole process. A clone is another handle on the same counts.
#[derive(Clone)]
pub struct Census(Arc<Inner>);

struct Inner {
    limits: Limits,
    max_connections: u64,
    connections: AtomicU64,
    by_address: DashMap<IpAddr, Tally>,
}

/// Why somebody was not let in. Each names the directive that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowded {
    #[error("too many connections: {max} is the limit (max_connections)")]
    Connections { max: u64 },
    #[error("too many connections from this address: {max} is the limit (max_connections_per_address)")]
    FromAddress { max: u32 },
    #[error("connections from this address come faster than {per_second} a second (connection_rate)")]
    Rate { per_second: u32 },
    #[error("too many publishers from this address: {max} is the limit (max_publishers_per_address)")]
    Publishers { max: u32 },
    #[error("this address has published {max} names within an hour (max_names_per_address)")]
    Names { max: u32 },
}

impl Crowded {
    /// The word counters are kept under.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections { .. } => "max_connections",
            Self::FromAddress { .. } => "max_connections_per_address",
            Self::Rate { .. } => "connection_rate",
            Self::Publishers { .. } => "max_publishers_per_address",
            Self::Names { .. } => "max_names_per_address",
        }
    }
}

/// How near the addresses have come to their bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MostOfOne {
    pub connections: u32,
    pub publishers: u32,
}

/// A connection that is counted until this is dropped.
pub struct Presence {
    census: Census,
    address: Option<IpAddr>,
}

/// A publisher that is counted until this is dropped.
pub struct Publishing {
    census: Census,
    address: Option<IpAddr>,
}

/// What one address has.
#[derive(Debug, Default)]
struct Tally {
    connections: u32,
    publishers: u32,
    /// Tokens of the rate bound that are used up, in thousandths.
    used: u64,
    used_at: Duration,
    /// Names published lately: a hash each, and when.
    names: VecDeque<(u64, Duration)>,
    /// Wrong keys within the minute that began then.
    failures: u32,
    failures_since: Duration,
    blocked_until: Option<Duration>,
}

impl Census {
    pub fn new(limits: Limits, max_connections: u64) -> Self {
        Self(Arc::new(Inner { limits, max_connections, connections: AtomicU64::new(0), by_address: DashMap::new() }))
    }

    /// Counts a new connection, or says which bound it would pass.
    pub fn admit(&self, address: Option<IpAddr>, now: Duration) -> Result<Presence, Crowded> {
        let inner = &self.0;
        let before = inner.connections.fetch_add(1, Ordering::Relaxed);
        // Made first, so that whichever way this ends the count is given back.
        let mut presence = Presence { census: self.clone(), address: None };
        if before >= inner.max_connections {
            return Err(Crowded::Connections { max: inner.max_connections });
        }
        if let Some(address) = address {
            presence.identify(address, now)?;
        }
        Ok(presence)
    }

    /// Counts a new publisher of this name, or says which bound it would pass.
    pub fn admit_publisher(&self, address: Option<IpAddr>, name: u64, now: Duration) -> Result<Publishing, Crowded> {
        let address = address.map(counted_as).filter(|&address| !is_spared(address));
        if let Some(address) = address {
            let limits = &self.0.limits;
            let mut tally = self.0.by_address.entry(address).or_default();
            if limits.max_publishers_per_address > 0 && tally.publishers >= limits.max_publishers_per_address {
                return Err(Crowded::Publishers { max: limits.max_publishers_per_address });
            }
            tally.note_name(name, limits.max_names_per_address, now)?;
            tally.publishers += 1;
        }
        Ok(Publishing { census: self.clone(), address })
    }

    /// Somebody gave a wrong publish key. Whoever does so often is not asked again for a while.
    pub fn note_wrong_key(&self, address: Option<IpAddr>, now: Duration) {
        if let Some(address) = address {
            self.0.by_address.entry(counted_as(address)).or_default().note_failure(now);
        }
    }

    /// Whether this address has guessed too often lately for its keys to be looked at.
    pub fn is_guessing(&self, address: Option<IpAddr>, now: Duration) -> bool {
        let tally = address.and_then(|address| self.0.by_address.get(&counted_as(address)));
        tally.is_some_and(|tally| tally.blocked_until.is_some_and(|until| now < until))
    }

    pub fn max_connections(&self) -> u64 {
        self.0.max_connections
    }

    /// The most that any address has, of each.
    pub fn most_of_one_address(&self) -> MostOfOne {
        self.0.by_address.iter().fold(MostOfOne::default(), |most, tally| MostOfOne {
            connections: most.connections.max(tally.connections),
            publishers: most.publishers.max(tally.publishers),
        })
    }

    pub fn connections(&self) -> u64 {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// Forgets addresses that have nothing here any more and whose past does not matter any more.
    pub fn sweep(&self, now: Duration) {
        self.0.by_address.retain(|_, tally| !tally.is_idle(now));
    }
}

impl Presence {
    /// Counts the connection for this address as well, or says which bound it would pass. A proxy says late who calls;
    /// the connection itself has been counted then.
    pub fn identify(&mut self, address: IpAddr, now: Duration) -> Result<(), Crowded> {
        let limits = &self.census.0.limits;
        let address = counted_as(address);
        let mut tally = self.census.0.by_address.entry(address).or_default();
        let rate = limits.connection_rate;
        if !is_spared(address) && !tally.take_token(rate.per_second, rate.burst, now) {
            return Err(Crowded::Rate { per_second: rate.per_second });
        }
        let bound = limits.max_connections_per_address;
        let is_bound = bound.max > 0 && (bound.is_written || !is_spared(address));
        if is_bound && tally.connections >= bound.max {
            return Err(Crowded::FromAddress { max: bound.max });
        }
        tally.connections += 1;
        drop(tally);
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.census.0.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address
            && let Some(mut tally) = self.census.0.by_address.get_mut(&address)
        {
            tally.connections = tally.connections.saturating_sub(1);
        }
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if let Some(address) = self.address
            && let Some(mut tally) = self.census.0.by_address.get_mut(&address)
        {
            tally.publishers = tally.publishers.saturating_sub(1);
        }
    }
}

impl Tally {
    fn take_token(&mut self, per_second: u32, burst: u32, now: Duration) -> bool {
        if per_second == 0 {
            return true;
        }
        let given_back = now.saturating_sub(self.used_at).as_millis() as u64 * u64::from(per_second);
        self.used = self.used.saturating_sub(given_back);
        self.used_at = now;
        let fits = self.used + TOKEN <= u64::from(burst.max(1)) * TOKEN;
        if fits {
            self.used += TOKEN;
        }
        fits
    }

    fn note_name(&mut self, name: u64, max: u32, now: Duration) -> Result<(), Crowded> {
        while self.names.front().is_some_and(|(_, at)| now.saturating_sub(*at) > NAME_MEMORY) {
            self.names.pop_front();
        }
        if self.names.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        if max > 0 && self.names.len() >= max as usize {
            return Err(Crowded::Names { max });
        }
        if max > 0 {
            self.names.push_back((name, now));
        }
        Ok(())
    }

    fn note_failure(&mut self, now: Duration) {
        if now.saturating_sub(self.failures_since) >= GUESS_WINDOW {
            self.failures = 0;
            self.failures_since = now;
        }
        self.failures += 1;
        if self.failures >= MAX_GUESSES {
            self.blocked_until = Some(now + GUESS_WINDOW);
        }
    }

    fn is_idle(&self, now: Duration) -> bool {
        let names_matter = self.names.back().is_some_and(|(_, at)| now.saturating_sub(*at) <= NAME_MEMORY);
        let rate_matters = self.used > 0 && now.saturating_sub(self.used_at) < RATE_MEMORY;
        let guesses_matter = self.failures > 0
            && (now.saturating_sub(self.failures_since) < GUESS_WINDOW
                || self.blocked_until.is_some_and(|until| now < until));
        self.connections == 0 && self.publishers == 0 && !names_matter && !rate_matters && !guesses_matter
    }
}

/// Relays, tests and a proxy in front live on this machine or beside it: what they do is not one stranger's doing.
fn is_spared(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Under which address somebody is counted. An IPv6 host has a whole /64 to itself and may call from any address in it.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
        }
        address => address,
    }
}

/// One connection's worth of the rate bound.
const TOKEN: u64 = 1000;

/// Wrong keys that one address may give within [`GUESS_WINDOW`]; after that it is not listened to for as long again.
const MAX_GUESSES: u32 = 10;
const GUESS_WINDOW: Duration = Duration::from_secs(60);

/// How long a published name counts against its address.
const NAME_MEMORY: Duration = Duration::from_secs(3600);

/// After this long without a connection the rate bound of an address is full again in any sane setting.
const RATE_MEMORY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PerAddress, Rate};

    const STRANGER: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9)));
    const HERE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn census(limits: Limits) -> Census {
        Census::new(limits, 10)
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_connection_counts_until_it_is_dropped() {
        let census = census(Limits::default());
        let all: Vec<_> = (0..10).map(|_| census.admit(HERE, at(0)).expect("there is room")).collect();
        assert_eq!(census.admit(HERE, at(0)).err(), Some(Crowded::Connections { max: 10 }));
        drop(all);
        assert_eq!(census.connections(), 0);
        assert!(census.admit(HERE, at(0)).is_ok());
    }

    #[test]
    fn one_address_may_not_have_everything() {
        let limits =
            Limits { max_connections_per_address: PerAddress { max: 2, is_written: false }, ..Limits::default() };
        let census = census(limits);
        let kept = [census.admit(STRANGER, at(0)), census.admit(STRANGER, at(0))];
        assert_eq!(census.admit(STRANGER, at(0)).err(), Some(Crowded::FromAddress { max: 2 }));
        assert!(census.admit(HERE, at(0)).is_ok());
        drop(kept);
        assert!(census.admit(STRANGER, at(0)).is_ok());
    }

    #[test]
    fn all_addresses_of_one_ipv6_host_are_one() {
        let limits =
            Limits { max_connections_per_address: PerAddress { max: 1, is_written: false }, ..Limits::default() };
        let census = census(limits);
        let from = |text: &str| census.admit(text.parse().ok(), at(0));
        let _kept = from("2001:db8::1");
        assert_eq!(from("2001:db8::2:3:4:5").err(), Some(Crowded::FromAddress { max: 1 }));
        assert!(from("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn churn_is_bounded_by_rate_and_forgiven_with_time() {
        let census = census(Limits { connection_rate: Rate { per_second: 10, burst: 3 }, ..Limits::default() });
        let tries = |from: u64| (0..5).filter(|_| census.admit(STRANGER, at(from)).is_ok()).count();
        assert_eq!(tries(0), 3);
        assert_eq!(tries(100), 1);
        assert_eq!(tries(10_000), 3);
    }

    #[test]
    fn publishers_and_names_of_one_address_are_bounded() {
        let limits = Limits { max_publishers_per_address: 2, max_names_per_address: 3, ..Limits::default() };
        let census = census(limits);
        let kept = [census.admit_publisher(STRANGER, 1, at(0)), census.admit_publisher(STRANGER, 2, at(0))];
        assert_eq!(census.admit_publisher(STRANGER, 3, at(0)).err(), Some(Crowded::Publishers { max: 2 }));
        drop(kept);
        assert!(census.admit_publisher(STRANGER, 3, at(0)).is_ok());
        assert!(census.admit_publisher(STRANGER, 1, at(0)).is_ok(), "a known name is not a new one");
        assert_eq!(census.admit_publisher(STRANGER, 4, at(0)).err(), Some(Crowded::Names { max: 3 }));
        assert!(census.admit_publisher(STRANGER, 4, at(3_700_000)).is_ok());
    }

    #[test]
    fn whoever_guesses_keys_is_not_listened_to_for_a_minute() {
        let census = census(Limits::default());
        for second in 0..9 {
            census.note_wrong_key(STRANGER, at(second * 1000));
        }
        assert!(!census.is_guessing(STRANGER, at(9000)));
        census.note_wrong_key(STRANGER, at(9000));
        assert!(census.is_guessing(STRANGER, at(9001)));
        assert!(!census.is_guessing(HERE, at(9001)));
        assert!(!census.is_guessing(STRANGER, at(69_001)));
    }

    #[test]
    fn addresses_that_left_are_forgotten() {
        let census = census(Limits::default());
        drop(census.admit(STRANGER, at(0)));
        census.sweep(at(1000));
        assert_eq!(census.0.by_address.len(), 1, "its rate still counts");
        census.sweep(at(70_000));
        assert_eq!(census.0.by_address.len(), 0);
    }
}
