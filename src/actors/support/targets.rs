//! Where a relay may go: what the `Location` of a hook may say, and which addresses whom it may be led to.
//!
//! What the configuration names is trusted. What a hook names is not: whoever can make a hook answer could else make this
//! server speak to machines that only it can reach. So a target may not lie nearer than the hook that names it, and some
//! addresses are never right.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use crate::{
    config::HookTargets,
    protocol::rtmp::url::{UrlError, split_authority},
};

/// Where to push to or pull from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub scheme: Scheme,
    /// Lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// The first element of the path. Empty: the local one.
    pub app: String,
    /// The rest of the path. Empty: the local one.
    pub name: String,
    /// The query, without `?`. Empty: what the caller has.
    pub args: String,
    /// The virtual host to ask for there (tcUrl's host, the `Host` header), where it is not `host`.
    pub domain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Rtmp,
    Rtmps,
    Http,
    Https,
}

/// Why a text is no target, or an address none for whom it was named by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("a target of more than {MAX_TARGET} bytes")]
    TooLong,
    #[error("the scheme is none of rtmp, rtmps, http, https")]
    Scheme,
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{0} is no address of a server ({1})")]
    Never(IpAddr, &'static str),
    #[error("{0} is a listener of this server that takes no relays")]
    Own(SocketAddr),
    #[error("a hook on {named_by} address may not name {address}; hook_targets would allow it")]
    Nearer { address: IpAddr, named_by: Reach },
    #[error("{0} is not in hook_targets")]
    Unlisted(IpAddr),
    #[error("the name has no address")]
    NoAddress,
}

impl Target {
    /// `rtmp://host[:port][/app[/name]][?args]`, and the same with the other schemes.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.len() > MAX_TARGET {
            return Err(TargetError::TooLong);
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(UrlError::Character.into());
        }
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        let scheme = Scheme::named(scheme).ok_or(TargetError::Scheme)?;
        // A fragment is nobody's: no server ever sees one.
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::User.into());
        }
        let (host, port) = split_authority(authority)?;
        let (path, args) = path.split_once('?').unwrap_or((path, ""));
        let path = path.trim_start_matches('/');
        let (app, name) = path.split_once('/').unwrap_or((path, ""));
        Ok(Self {
            scheme,
            host,
            port: port.unwrap_or(scheme.port()),
            app: app.to_owned(),
            name: name.trim_start_matches('/').to_owned(),
            args: args.to_owned(),
            domain: None,
        })
    }

    /// The same, asking there for this virtual host. One that is no host name is not taken.
    #[must_use]
    pub fn for_domain(mut self, domain: Option<&str>) -> Self {
        let host = domain.and_then(|domain| split_authority(domain.trim()).ok()).map(|(host, _)| host);
        self.domain = host.filter(|host| *host != self.host);
        self
    }

    /// With what it leaves out taken from the local stream.
    #[must_use]
    pub fn or_local(mut self, app: &str, name: &str, args: &str) -> Self {
        if self.app.is_empty() {
            app.clone_into(&mut self.app);
        }
        if self.name.is_empty() {
            name.clone_into(&mut self.name);
        }
        if self.args.is_empty() {
            args.clone_into(&mut self.args);
        }
        self
    }

    /// The host as it stands in a URL: brackets around IPv6, the port where it is not the scheme's.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.port() { host } else { format!("{host}:{}", self.port) }
    }
}

/// Without the query: it may hold a secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.scheme.name(), self.authority(), self.app)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, "/{}", self.name) }
    }
}

impl Scheme {
    pub fn named(name: &str) -> Option<Self> {
        SCHEMES.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name)).map(|(_, scheme, _)| *scheme)
    }

    pub fn name(self) -> &'static str {
        SCHEMES.iter().find(|(_, scheme, _)| *scheme == self).map_or("", |(name, ..)| name)
    }

    /// The port where none is written.
    pub fn port(self) -> u16 {
        SCHEMES.iter().find(|(_, scheme, _)| *scheme == self).map_or(0, |(.., port)| *port)
    }

    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    pub fn is_tls(self) -> bool {
        matches!(self, Self::Rtmps | Self::Https)
    }
}

/// Who named a target, and so which addresses it may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The configuration: any address.
    Configured,
    /// A hook that lies so near: nothing nearer.
    Named(Reach),
    /// A hook whose targets the configuration lists. Empty: any of those that are ever right.
    Listed(Arc<[ipnet::IpNet]>),
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    Public,
    Private,
    Loopback,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public",
            Self::Private => "a private",
            Self::Loopback => "a loopback",
        })
    }
}

impl Trust {
    /// For what a hook names that answered from this address. None: not known where from, so it is taken to be far.
    pub fn named_by(hook: Option<IpAddr>, targets: &HookTargets) -> Self {
        match targets {
            HookTargets::NoNearer => Self::Named(hook.and_then(|ip| reach(ip).ok()).unwrap_or(Reach::Public)),
            HookTargets::Any => Self::Listed(Arc::default()),
            HookTargets::Listed(networks) => Self::Listed(Arc::clone(networks)),
        }
    }

    /// Asked for every address that a target's name has, and for every one that is connected to.
    pub fn allows(&self, address: SocketAddr, own: &OwnListens) -> Result<(), TargetError> {
        if *self == Self::Configured {
            return Ok(());
        }
        let ip = unwrap(address.ip());
        let near = reach(ip).map_err(|what| TargetError::Never(ip, what))?;
        if own.has(SocketAddr::new(ip, address.port())) {
            return Err(TargetError::Own(address));
        }
        match self {
            Self::Configured => Ok(()),
            Self::Named(named_by) if near > *named_by => Err(TargetError::Nearer { address: ip, named_by: *named_by }),
            Self::Named(_) => Ok(()),
            Self::Listed(networks) if networks.is_empty() || networks.iter().any(|net| net.contains(&ip)) => Ok(()),
            Self::Listed(_) => Err(TargetError::Unlisted(ip)),
        }
    }

    /// Those of a name's addresses that may be connected to, in their order; an error when that is none.
    pub fn sift(
        &self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        own: &OwnListens,
    ) -> Result<Vec<SocketAddr>, TargetError> {
        let mut first_error = None;
        let mut allowed = Vec::new();
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match self.allows(address, own) {
                Ok(()) => allowed.push(address),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            _ if !allowed.is_empty() => Ok(allowed),
            Some(error) => Err(error),
            None => Err(TargetError::NoAddress),
        }
    }
}

/// What listens here and is nobody's target: HTTP, and with it whatever controls this server.
#[derive(Clone, Debug)]
pub struct OwnListens {
    addresses: Vec<SocketAddr>,
    is_local: fn(IpAddr) -> bool,
}

impl OwnListens {
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { addresses: addresses.into_iter().collect(), is_local: is_on_this_machine }
    }

    fn has(&self, address: SocketAddr) -> bool {
        let same_port = self.addresses.iter().filter(|own| own.port() == address.port());
        same_port
            .into_iter()
            .any(|own| unwrap(own.ip()) == address.ip() || own.ip().is_unspecified() && (self.is_local)(address.ip()))
    }
}

impl Default for OwnListens {
    fn default() -> Self {
        Self::new([])
    }
}

/// The longest target: ten times what any real one has.
pub const MAX_TARGET: usize = 2048;

/// More addresses than this for one name are a game.
pub const MAX_ADDRESSES: usize = 16;

const SCHEMES: [(&str, Scheme, u16); 4] = [
    ("rtmp", Scheme::Rtmp, 1935),
    ("rtmps", Scheme::Rtmps, 443),
    ("http", Scheme::Http, 80),
    ("https", Scheme::Https, 443),
];

/// How near an address is; or what it is, where no server can have it.
fn reach(ip: IpAddr) -> Result<Reach, &'static str> {
    match unwrap(ip) {
        IpAddr::V4(ip) => match ip.octets() {
            [0, ..] => Err("unspecified"),
            [127, ..] => Ok(Reach::Loopback),
            [169, 254, ..] => Err("link-local"),
            [224..=239, ..] => Err("multicast"),
            [240..=255, ..] => Err("broadcast or reserved"),
            [100, 64..=127, ..] => Ok(Reach::Private),
            _ if ip.is_private() => Ok(Reach::Private),
            _ => Ok(Reach::Public),
        },
        IpAddr::V6(ip) => match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Err("unspecified"),
            [0, 0, 0, 0, 0, 0, 0, 1] => Ok(Reach::Loopback),
            [0, 0, 0, 0, 0, 0, ..] => Err("a form of IPv4 that is out of use"),
            [0xfe80..=0xfebf, ..] => Err("link-local"),
            [0xff00..=0xffff, ..] => Err("multicast"),
            [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Ok(Reach::Private),
            _ => Ok(Reach::Public),
        },
    }
}

/// The IPv4 address inside of an IPv6 one that leads there: mapped, NAT64, 6to4.
fn unwrap(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match Ipv6Addr::segments(&v6) {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// Only an address of this machine can be bound.
fn is_on_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(text: &str) -> Result<(String, String, String, String), String> {
        let target = Target::parse(text).map_err(|error| error.to_string())?;
        assert!(!target.host.is_empty() && target.port > 0);
        Ok((format!("{}://{}", target.scheme.name(), target.authority()), target.app, target.name, target.args))
    }

    #[test]
    fn targets_are_read_part_by_part() {
        let rows = [
            ("rtmp://192.0.2.1/live/a", "rtmp://192.0.2.1", "live", "a", ""),
            ("rtmp://h:1936/live/a/b?x=1/2&y=?", "rtmp://h:1936", "live", "a/b", "x=1/2&y=?"),
            ("RTMP://Host.Example:1935", "rtmp://host.example", "", "", ""),
            ("rtmp://h/live", "rtmp://h", "live", "", ""),
            ("rtmp://h/?k=v", "rtmp://h", "", "", "k=v"),
            ("rtmp://h?k=v", "rtmp://h", "", "", "k=v"),
            ("rtmps://h//live//a", "rtmps://h", "live", "a", ""),
            ("http://[::1]:8080/live/a.flv", "http://[::1]:8080", "live", "a.flv", ""),
            ("https://h/a/b#c", "https://h", "a", "b", ""),
        ];
        for (text, origin, app, name, args) in rows {
            let expected = (origin.to_owned(), app.to_owned(), name.to_owned(), args.to_owned());
            assert_eq!(target(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        let long = format!("rtmp://h/{}", "a".repeat(5000));
        let texts = [
            "",
            "h/live/a",
            "file:///etc/passwd",
            "gopher://h/",
            "rtmpe://h/a",
            "rtmp:/h/a",
            "//h/a",
            "://h",
            "rtmp://",
            "rtmp:///a",
            "rtmp://u:p@h/a",
            "rtmp://u@h/a",
            "rtmp://h:0/a",
            "rtmp://h:99999/a",
            "rtmp://h:x/a",
            "rtmp://h/a b",
            "rtmp://h/a\r\nX: y",
            "rtmp://h/a\0",
            "rtmp://h\\@x/a",
            "rtmp://[::1/a",
            "rtmp://[fe80::1%eth0]/a",
            "rtmp://h..x/a",
            "javascript:alert(1)",
            "concat:a|b",
            &long,
        ];
        for text in texts {
            assert!(target(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_target_or_an_error(text in "(rtmp|http|https|file)?(://)?\\PC{0,80}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert!(!target.host.is_empty() && !target.host.contains(['/', '@', '?', '#']));
                prop_assert!(target.host.len() <= 253 && target.port > 0);
            }
        }

        #[test]
        fn what_is_shown_is_the_same_target(host in "[a-z]{1,9}(\\.[a-z]{1,5})?", port in 1_u16.., name in "[a-z0-9/]{0,9}") {
            let parsed = Target::parse(&format!("rtmp://{host}:{port}/live/{name}")).unwrap();
            prop_assert_eq!(Target::parse(&parsed.to_string()).unwrap(), parsed);
        }
    }

    #[test]
    fn what_a_target_leaves_out_is_the_local_stream_s() {
        let filled = |text: &str| {
            let target = Target::parse(text).unwrap().or_local("live", "cam", "k=v");
            (target.app, target.name, target.args)
        };
        let rows = [
            ("rtmp://h", ("live", "cam", "k=v")),
            ("rtmp://h/core", ("core", "cam", "k=v")),
            ("rtmp://h/core/x", ("core", "x", "k=v")),
            ("rtmp://h/core/x?y", ("core", "x", "y")),
        ];
        for (text, (app, name, args)) in rows {
            assert_eq!(filled(text), (app.to_owned(), name.to_owned(), args.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_domain_is_a_host_name_or_nothing() {
        let domain = |text| Target::parse("rtmp://h/a").unwrap().for_domain(Some(text)).domain;
        assert_eq!(domain(" Live.Example "), Some("live.example".to_owned()));
        assert_eq!(domain("live.example:1935"), Some("live.example".to_owned()));
        for text in ["", "h", "a b", "a\r\nb", "u@h"] {
            assert_eq!(domain(text), None, "{text:?}");
        }
    }

    fn allows(trust: &Trust, address: &str) -> bool {
        trust.allows(SocketAddr::new(address.parse().unwrap(), 1935), &OwnListens::default()).is_ok()
    }

    #[test]
    fn a_hook_names_nothing_nearer_than_itself() {
        let by = |hook: &str| Trust::named_by(Some(hook.parse().unwrap()), &HookTargets::NoNearer);
        let (public, private, here) = (by("203.0.113.7"), by("192.168.1.2"), by("::1"));
        // Rows: an address; may a hook on a public, a private, a loopback address name it?
        let rows = [
            ("198.51.100.1", true, true, true),
            ("2001:db8::1", true, true, true),
            ("10.0.0.1", false, true, true),
            ("172.31.255.255", false, true, true),
            ("100.64.0.1", false, true, true),
            ("fd00::1", false, true, true),
            ("::ffff:10.0.0.1", false, true, true),
            ("64:ff9b::a00:1", false, true, true),
            ("2002:a00:1::", false, true, true),
            ("127.0.0.1", false, false, true),
            ("::1", false, false, true),
            ("::ffff:127.0.0.1", false, false, true),
            ("0.0.0.0", false, false, false),
            ("0.1.2.3", false, false, false),
            ("::", false, false, false),
            ("169.254.169.254", false, false, false),
            ("::ffff:169.254.169.254", false, false, false),
            ("fe80::1", false, false, false),
            ("224.0.0.1", false, false, false),
            ("ff02::1", false, false, false),
            ("255.255.255.255", false, false, false),
            ("::7f00:1", false, false, false),
        ];
        for (address, from_public, from_private, from_here) in rows {
            assert_eq!(allows(&public, address), from_public, "public names {address}");
            assert_eq!(allows(&private, address), from_private, "private names {address}");
            assert_eq!(allows(&here, address), from_here, "loopback names {address}");
            assert!(allows(&Trust::Configured, address), "{address}");
        }
        assert_eq!(Trust::named_by(None, &HookTargets::NoNearer), public);
    }

    #[test]
    fn a_list_takes_the_place_of_the_rule_but_never_of_what_is_never_right() {
        let listed = HookTargets::Listed(["10.1.0.0/16".parse().unwrap()].into());
        let listed = Trust::named_by(Some("127.0.0.1".parse().unwrap()), &listed);
        assert!(allows(&listed, "10.1.2.3") && allows(&listed, "::ffff:10.1.2.3"));
        assert!(!allows(&listed, "10.2.0.1") && !allows(&listed, "198.51.100.1") && !allows(&listed, "127.0.0.1"));
        let any = Trust::named_by(Some("203.0.113.7".parse().unwrap()), &HookTargets::Any);
        assert!(allows(&any, "127.0.0.1") && allows(&any, "10.1.2.3"));
        assert!(!allows(&any, "169.254.169.254") && !allows(&any, "0.0.0.0"));
    }

    #[test]
    fn our_own_http_listeners_are_nobody_s_target() {
        let here = |ip: IpAddr| ip == IpAddr::from([10, 0, 0, 1]) || ip.is_loopback();
        let listens = ["0.0.0.0:8080".parse().unwrap(), "10.0.0.1:80".parse().unwrap()];
        let own = OwnListens { is_local: here, ..OwnListens::new(listens) };
        let trust = Trust::Named(Reach::Loopback);
        let allows = |address: &str| trust.allows(address.parse().unwrap(), &own).is_ok();
        assert!(!allows("127.0.0.1:8080") && !allows("10.0.0.1:8080") && !allows("10.0.0.1:80"));
        assert!(!allows("[::ffff:10.0.0.1]:80") && !allows("[::1]:8080"));
        assert!(allows("127.0.0.1:80") && allows("10.0.0.2:8080") && allows("10.0.0.1:1935"));
        assert!(Trust::Configured.allows("127.0.0.1:8080".parse().unwrap(), &own).is_ok());
    }

    #[test]
    fn of_mixed_answers_only_the_allowed_addresses_are_taken() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 1935);
        let (good, bad) = (address("198.51.100.1"), address("127.0.0.1"));
        let sift = |addresses: Vec<SocketAddr>| Trust::Named(Reach::Public).sift(addresses, &OwnListens::default());
        assert_eq!(sift(vec![bad, good]), Ok(vec![good]));
        assert!(matches!(sift(vec![bad]), Err(TargetError::Nearer { .. })));
        assert_eq!(sift(vec![]), Err(TargetError::NoAddress));
        assert_eq!(sift(vec![good; 1000]).map(|taken| taken.len()), Ok(MAX_ADDRESSES));
    }

    #[test]
    fn only_what_is_bound_here_is_on_this_machine() {
        assert!(is_on_this_machine("127.0.0.1".parse().unwrap()));
        assert!(!is_on_this_machine("192.0.2.1".parse().unwrap()));
    }
}
