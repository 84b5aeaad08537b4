//! Who is kept out for a while: by address, by name, or by both together.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;

use super::{census::counted_as, roll::ClientRole};
use crate::media::key::StreamKey;

/// All bans of the process. A clone is another handle on the same table; no guard leaves this file.
#[derive(Clone, Default)]
pub struct Bans(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    /// So that nobody pays for a table that is empty.
    count: AtomicUsize,
    table: DashMap<BanScope, Ban>,
}

/// Whom a ban keeps out of what. `role`: of publishing or of playing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BanScope {
    /// Whoever comes from this address, whatever he wants.
    Address(IpAddr),
    /// Everybody, under this name.
    Name { key: StreamKey, role: ClientRole },
    /// Whoever comes from this address, under this name.
    Both { address: Option<IpAddr>, key: StreamKey, role: ClientRole },
}

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub id: u64,
    pub scope: BanScope,
    pub reason: String,
    /// On the clock of the house.
    pub since: Duration,
    pub until: Duration,
}

/// Somebody is kept out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("banned for another {left_s} s{}{reason}", if .reason.is_empty() { "" } else { ": " })]
pub struct Banned {
    pub left_s: u64,
    pub reason: String,
}

/// There are too many bans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MAX_BANS} bans already")]
pub struct TooManyBans;

impl BanScope {
    pub fn address(address: IpAddr) -> Self {
        Self::Address(counted_as(address))
    }

    pub fn both(address: Option<IpAddr>, key: StreamKey, role: ClientRole) -> Self {
        Self::Both { address: address.map(counted_as), key, role }
    }
}

impl fmt::Display for BanScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address {address}"),
            Self::Name { key, role } => write!(f, "{} {key}", role.name()),
            Self::Both { address: Some(address), key, role } => write!(f, "{} {key} from {address}", role.name()),
            Self::Both { address: None, key, role } => write!(f, "{} {key} from unix:", role.name()),
        }
    }
}

impl Bans {
    /// Keeps somebody out from now on; a ban that is there already gets the new end and the new reason.
    pub fn add(&self, scope: BanScope, reason: &str, now: Duration, lasts: Duration) -> Result<Ban, TooManyBans> {
        self.sweep(now);
        if self.0.table.len() >= MAX_BANS && !self.0.table.contains_key(&scope) {
            return Err(TooManyBans);
        }
        let id = self.0.table.get(&scope).map(|known| known.id);
        let id = id.unwrap_or_else(|| self.0.next.fetch_add(1, Ordering::Relaxed) + 1);
        let until = now.saturating_add(lasts);
        let ban = Ban { id, scope: scope.clone(), reason: reason.to_owned(), since: now, until };
        self.0.table.insert(scope, ban.clone());
        self.0.count.store(self.0.table.len(), Ordering::Relaxed);
        Ok(ban)
    }

    /// Lets somebody in again. None: there is no such ban.
    pub fn lift(&self, id: u64) -> Option<Ban> {
        let scope = self.0.table.iter().find(|ban| ban.id == id).map(|ban| ban.scope.clone())?;
        let lifted = self.0.table.remove(&scope).map(|(_, ban)| ban);
        self.0.count.store(self.0.table.len(), Ordering::Relaxed);
        lifted
    }

    /// Those that hold, the oldest first.
    pub fn list(&self, now: Duration) -> Vec<Ban> {
        self.sweep(now);
        let mut bans: Vec<Ban> = self.0.table.iter().map(|ban| ban.clone()).collect();
        bans.sort_by_key(|ban| ban.id);
        bans
    }

    pub fn check(
        &self,
        role: ClientRole,
        address: Option<IpAddr>,
        key: &StreamKey,
        now: Duration,
    ) -> Result<(), Banned> {
        if self.0.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let by_address = address.map(BanScope::address);
        let by_name = BanScope::Name { key: key.clone(), role };
        let by_both = BanScope::both(address, key.clone(), role);
        for scope in by_address.into_iter().chain([by_name, by_both]) {
            if let Some(ban) = self.0.table.get(&scope).filter(|ban| now < ban.until) {
                let left = ban.until.saturating_sub(now);
                return Err(Banned { left_s: left.as_millis().div_ceil(1000) as u64, reason: ban.reason.clone() });
            }
        }
        Ok(())
    }

    fn sweep(&self, now: Duration) {
        self.0.table.retain(|_, ban| now < ban.until);
        self.0.count.store(self.0.table.len(), Ordering::Relaxed);
    }
}

/// More is a matter for a firewall.
const MAX_BANS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn key(name: &str) -> StreamKey {
        StreamKey::parse("default", "live", name).expect("a good name")
    }

    fn is_out(bans: &Bans, role: ClientRole, address: IpAddr, name: &str) -> bool {
        bans.check(role, Some(address), &key(name), Duration::from_secs(1)).is_err()
    }

    #[test]
    fn each_scope_keeps_out_whom_it_says_and_nobody_else() {
        use ClientRole::{Player, Publisher};
        for (scope, expected) in [
            // Publisher of x here, player of x here, publisher of y here, publisher of x there.
            (BanScope::address(HERE), [true, true, true, false]),
            (BanScope::Name { key: key("x"), role: Publisher }, [true, false, false, true]),
            (BanScope::both(Some(HERE), key("x"), Publisher), [true, false, false, false]),
        ] {
            let bans = Bans::default();
            bans.add(scope, "", Duration::ZERO, MINUTE).expect("there is room");
            let asked = [(Publisher, HERE, "x"), (Player, HERE, "x"), (Publisher, HERE, "y"), (Publisher, THERE, "x")];
            assert_eq!(asked.map(|(role, address, name)| is_out(&bans, role, address, name)), expected);
        }
    }

    #[test]
    fn a_ban_ends_by_itself_or_when_it_is_lifted_and_says_how_long_it_lasts() {
        let bans = Bans::default();
        let ban = bans.add(BanScope::address(HERE), "rude", Duration::ZERO, MINUTE).expect("there is room");
        let banned = |seconds| bans.check(ClientRole::Player, Some(HERE), &key("x"), Duration::from_secs(seconds));
        assert_eq!(banned(59).map_err(|banned| banned.to_string()), Err("banned for another 1 s: rude".to_owned()));
        assert_eq!(banned(60), Ok(()));
        let longer = bans.add(BanScope::address(HERE), "", Duration::from_secs(30), MINUTE).expect("there is room");
        assert_eq!((longer.id, bans.list(Duration::ZERO).len()), (ban.id, 1));
        assert_eq!(banned(60).map_err(|banned| banned.to_string()), Err("banned for another 30 s".to_owned()));
        assert!(bans.lift(ban.id).is_some() && bans.lift(ban.id).is_none());
        assert_eq!(banned(60), Ok(()));
    }

    #[test]
    fn bans_are_bounded_and_old_ones_make_room() {
        let bans = Bans::default();
        let ban = |number: u32, now| {
            bans.add(BanScope::address(IpAddr::from(number.to_be_bytes())), "", Duration::from_secs(now), MINUTE)
        };
        (0..MAX_BANS as u32).for_each(|number| drop(ban(number, 0).expect("there is room")));
        assert_eq!(ban(1 << 20, 59), Err(TooManyBans));
        assert!(ban(7, 59).is_ok(), "it is there already");
        assert!(ban(1 << 20, 60).is_ok());
        assert_eq!(bans.list(Duration::from_secs(60)).len(), 2);
    }
}
