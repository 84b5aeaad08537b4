//! Who may: allow and deny rules by address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// The rules of one application, its own first and then those of the blocks around it. The first that matches decides;
/// where none does, everybody may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    rules: Arc<[Rule]>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Publish,
    Play,
}

/// One `allow` or `deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    /// None: both publish and play.
    pub action: Option<Action>,
    /// None: `all`.
    pub network: Option<IpNet>,
}

impl Access {
    /// Rules in the order in which they are asked.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    /// May somebody at this address do this? A peer without an address (a unix socket, a relay of our own) always may.
    pub fn allows(&self, action: Action, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return true };
        // An IPv4 client of a dual stack socket shows up as ::ffff:1.2.3.4 and is meant by IPv4 rules.
        let peer = peer.to_canonical();
        self.rules.iter().find(|rule| rule.matches(action, peer)).is_none_or(|rule| rule.allow)
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Rule {
    fn matches(&self, action: Action, peer: IpAddr) -> bool {
        self.action.is_none_or(|only| only == action) && self.network.is_none_or(|network| network.contains(&peer))
    }
}

/// Reads `ADDR`, `ADDR/BITS`, `ADDR/MASK` or `all`. Bits below the mask are dropped, as nginx does with a warning.
pub fn parse_network(text: &str) -> Option<Option<IpNet>> {
    if text == "all" {
        return Some(None);
    }
    let network = match text.split_once('/') {
        None => IpNet::from(text.parse::<IpAddr>().ok()?),
        Some((address, bits)) => {
            let address: IpAddr = address.parse().ok()?;
            match bits.parse::<IpAddr>() {
                Ok(mask) => IpNet::with_netmask(address, mask).ok()?,
                Err(_) => IpNet::new(address, bits.parse().ok()?).ok()?,
            }
        }
    };
    Some(Some(canonical(network.trunc())))
}

/// `::ffff:192.0.2.0/120` means the IPv4 network 192.0.2.0/24, because peers are compared in that form.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(six) = network else { return network };
    match (six.addr().to_ipv4_mapped(), six.prefix_len().checked_sub(96)) {
        (Some(four), Some(bits)) => IpNet::new(four.into(), bits).unwrap_or(network),
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        let words: Vec<&str> = text.split(' ').collect();
        let (action, address) = match words[1..] {
            ["publish", address] => (Some(Action::Publish), address),
            ["play", address] => (Some(Action::Play), address),
            [address] => (None, address),
            _ => panic!("{text}"),
        };
        Rule { allow: words[0] == "allow", action, network: parse_network(address).expect(text) }
    }

    fn access(rules: &[&str]) -> Access {
        Access::new(rules.iter().map(|text| rule(text)))
    }

    fn may(access: &Access, action: Action, peer: &str) -> bool {
        access.allows(action, Some(peer.parse().unwrap()))
    }

    #[test]
    fn without_rules_everybody_may() {
        assert!(may(&Access::default(), Action::Publish, "192.0.2.1"));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let access = access(&["allow publish 127.0.0.1", "deny publish all", "allow play all"]);
        assert!(may(&access, Action::Publish, "127.0.0.1"));
        assert!(!may(&access, Action::Publish, "192.0.2.1"));
        assert!(may(&access, Action::Play, "192.0.2.1"));
    }

    #[test]
    fn a_rule_without_an_action_means_both() {
        let access = access(&["deny 192.0.2.0/24"]);
        for action in [Action::Publish, Action::Play] {
            assert!(!may(&access, action, "192.0.2.77"));
            assert!(may(&access, action, "192.0.3.1"));
        }
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_meets_ipv4_rules() {
        let access = access(&["deny publish 192.0.2.0/24"]);
        assert!(!may(&access, Action::Publish, "::ffff:192.0.2.9"));
        assert!(may(&access, Action::Publish, "2001:db8::1"));
    }

    #[test]
    fn ipv6_networks_match_ipv6_peers_only() {
        let access = access(&["allow 2001:db8::/32", "deny all"]);
        assert!(may(&access, Action::Play, "2001:db8:1::1"));
        assert!(!may(&access, Action::Play, "192.0.2.1"));
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network() {
        assert_eq!(parse_network("::ffff:192.0.2.0/120"), parse_network("192.0.2.0/24"));
    }

    #[test]
    fn a_unix_socket_always_may() {
        assert!(access(&["deny all"]).allows(Action::Publish, None));
    }

    #[test]
    fn networks_are_read_as_nginx_reads_them() {
        assert_eq!(parse_network("all"), Some(None));
        assert_eq!(parse_network("192.0.2.9/24"), parse_network("192.0.2.0/24"));
        assert_eq!(parse_network("192.0.2.0/255.255.255.0"), parse_network("192.0.2.0/24"));
        for bad in ["", "alll", "192.0.2", "192.0.2.0/33", "192.0.2.0/", "::/129", "host.example"] {
            assert_eq!(parse_network(bad), None, "{bad}");
        }
    }
}
