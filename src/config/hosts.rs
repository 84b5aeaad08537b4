//! Which sockets to bind, and which server a connection means.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::diagnose::Problem;
use super::syntax::Directive;
use super::{Config, DEFAULT_SERVER_ID, Listen, ListenAddress, Server, ServerName, TlsFiles};

/// One socket to bind, and the virtual hosts behind it: of `rtmp {}`, or of `http {}`.
#[derive(Debug, Clone)]
pub struct Endpoint<S = Server> {
    pub listen: Listen,
    /// The default server first, the others in the order of the file. Never empty.
    servers: Vec<Arc<S>>,
    /// Addresses that this wildcard socket also serves, with their servers.
    folded: BTreeMap<IpAddr, Vec<Arc<S>>>,
}

/// A `server {}` as far as sockets and names go.
pub trait VirtualHost {
    fn names(&self) -> &[ServerName];
    fn listens(&self) -> &[Listen];
    fn listens_mut(&mut self) -> &mut [Listen];
    fn tls(&self) -> Option<&TlsFiles>;
}

impl VirtualHost for Server {
    fn names(&self) -> &[ServerName] {
        &self.names
    }

    fn listens(&self) -> &[Listen] {
        &self.listens
    }

    fn listens_mut(&mut self) -> &mut [Listen] {
        &mut self.listens
    }

    fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }
}

impl<S: VirtualHost> Endpoint<S> {
    /// The certificate of the socket: that of the default server, else of the first that has one.
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.servers().find_map(|server| server.tls()).filter(|_| self.listen.ssl)
    }

    /// All servers a connection to this socket may end up in.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<S>> {
        self.servers.iter().chain(self.folded.values().flatten())
    }

    /// The server for a connection: `local` is the address it came to, `host` the host part of its tcUrl.
    /// Exact names win over `*.x`, those over `x.*`, those over patterns; the default server takes the rest.
    pub fn server_for(&self, local: Option<IpAddr>, host: Option<&str>) -> &Arc<S> {
        let servers = local.and_then(|ip| self.folded.get(&ip.to_canonical())).unwrap_or(&self.servers);
        let default = servers.first().expect("an endpoint is made with its first server");
        host.filter(|_| servers.len() > 1).and_then(|host| named(servers, host)).unwrap_or(default)
    }

    fn is_wildcard(&self) -> bool {
        matches!(&self.listen.address, ListenAddress::Tcp(address) if address.ip().is_unspecified())
    }

    fn covers(&self, other: &Self) -> bool {
        match (&self.listen.address, &other.listen.address) {
            (ListenAddress::Tcp(all), ListenAddress::Tcp(one)) => {
                let takes_both = all.is_ipv6() && !self.listen.ipv6only;
                // One socket cannot ask some of its connections for TLS and others not: that is for the bind to refuse.
                let speak_alike = self.listen.ssl == other.listen.ssl
                    && self.listen.proxy_protocol == other.listen.proxy_protocol
                    && !other.listen.bind;
                speak_alike
                    && all.ip().is_unspecified()
                    && all.port() == one.port()
                    && (takes_both || all.is_ipv4() == one.is_ipv4())
            }
            _ => false,
        }
    }
}

/// The server that this host name means, if it means one.
/// Exact names win over `*.x`, those over `x.*`, those over patterns.
pub fn named<'a, S: VirtualHost>(servers: &'a [Arc<S>], host: &str) -> Option<&'a Arc<S>> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let ranked = servers.iter().filter_map(|server| {
        let best = server.names().iter().filter_map(|name| name.rank(&host)).max()?;
        Some((best, server))
    });
    // The first of the best: `max_by_key` would give the last.
    ranked.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, server)| server)
}

impl ServerName {
    /// How well this name fits a host in lower case: kind first, then length. None: not at all.
    fn rank(&self, host: &str) -> Option<(u8, usize)> {
        match self {
            Self::Exact(name) => (name == host).then_some((4, name.len())),
            Self::Domain(name) if name.strip_prefix('.') == Some(host) => Some((4, name.len())),
            Self::Suffix(end) | Self::Domain(end) => {
                (host.len() > end.len() && host.ends_with(end.as_str())).then_some((3, end.len()))
            }
            Self::Prefix(start) => {
                (host.len() > start.len() && host.starts_with(start.as_str())).then_some((2, start.len()))
            }
            Self::Pattern(pattern) => pattern.is_match(host).then_some((1, 0)),
        }
    }
}

impl Config {
    /// The sockets of `rtmp {}` to bind, each with the servers behind it, in the order of the file.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        endpoints(&self.servers)
    }
}

/// The sockets to bind, each with the servers behind it, in the order of the file.
///
/// As in nginx, an address whose port is also listened on by the wildcard gets no socket of its own unless it says
/// `bind`: the wildcard's socket takes its connections and the local address tells them apart.
pub fn endpoints<S: VirtualHost>(servers: &[Arc<S>]) -> Vec<Endpoint<S>> {
    let mut groups: Vec<Endpoint<S>> = Vec::new();
    for server in servers {
        for listen in server.listens() {
            let Some(group) = groups.iter_mut().find(|group| group.listen.address == listen.address) else {
                let servers = vec![Arc::clone(server)];
                groups.push(Endpoint { listen: listen.clone(), servers, folded: BTreeMap::new() });
                continue;
            };
            if listen.default_server {
                group.listen.default_server = true;
                group.servers.insert(0, Arc::clone(server));
            } else {
                group.servers.push(Arc::clone(server));
            }
        }
    }
    let (wildcards, specific): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.is_wildcard());
    let mut endpoints = wildcards;
    for group in specific {
        let home = endpoints.iter_mut().find(|wildcard| wildcard.covers(&group));
        match (home, &group.listen.address) {
            (Some(wildcard), ListenAddress::Tcp(address)) => {
                wildcard.folded.insert(address.ip(), group.servers);
            }
            _ => endpoints.push(group),
        }
    }
    endpoints
}

/// A `listen` as it was written, for the errors of [`agree`].
pub(super) struct Written<'a> {
    pub(super) server: usize,
    /// Its index in the server's list.
    pub(super) index: usize,
    pub(super) directive: &'a Directive,
}

/// The same address in several servers: virtual hosts on one socket, so the options must be the same. One server may
/// write them and the others leave them out.
pub(super) fn agree<S: VirtualHost>(servers: &mut [S], written: &[Written<'_>]) -> Result<(), Problem> {
    let mut sockets: HashMap<ListenAddress, (Listen, usize, bool)> = HashMap::new();
    for Written { server, index, directive } in written {
        let Some(listen) = servers.get(*server).and_then(|server| server.listens().get(*index)) else { continue };
        let options = Listen { default_server: false, ..listen.clone() };
        let is_bare = options == Listen::new(listen.address.clone());
        let Some((known, last_server, has_default)) = sockets.get_mut(&listen.address) else {
            sockets.insert(listen.address.clone(), (options, *server, listen.default_server));
            continue;
        };
        let error = |what: &str| Err(Problem::at(format!("{what} {}", listen.address), directive));
        if *last_server == *server {
            return error("a duplicate listen");
        }
        if *has_default && listen.default_server {
            return error("a duplicate default server for");
        }
        if *known == Listen::new(known.address.clone()) {
            *known = options;
        } else if !is_bare && *known != options {
            return error("duplicate listen options for");
        }
        *last_server = *server;
        *has_default |= listen.default_server;
    }
    for listen in servers.iter_mut().flat_map(VirtualHost::listens_mut) {
        if let Some((options, ..)) = sockets.get(&listen.address) {
            *listen = Listen { default_server: listen.default_server, ..options.clone() };
        }
    }
    Ok(())
}

/// `listen 1935; listen [::]:1935;`: two sockets on one port, so the second must leave IPv4 to the first.
/// nginx fails to bind here unless `ipv6only=on` is written.
pub(super) fn share_port<S: VirtualHost>(servers: &mut [S], written: &[Written<'_>]) {
    let tcp = |listen: &Listen| match &listen.address {
        ListenAddress::Tcp(address) if address.ip().is_unspecified() => Some(*address),
        _ => None,
    };
    let all = servers.iter().flat_map(VirtualHost::listens).filter_map(tcp);
    let with_ipv4: Vec<u16> = all.filter(SocketAddr::is_ipv4).map(|address| address.port()).collect();
    let says = |directive: &Directive| directive.args.iter().any(|word| word.text.starts_with("ipv6only="));
    let said: Vec<ListenAddress> = written
        .iter()
        .filter(|written| says(written.directive))
        .filter_map(|written| Some(servers.get(written.server)?.listens().get(written.index)?.address.clone()))
        .collect();
    for listen in servers.iter_mut().flat_map(VirtualHost::listens_mut) {
        let shares = tcp(listen).is_some_and(|address| address.is_ipv6() && with_ipv4.contains(&address.port()));
        if shares && !said.contains(&listen.address) {
            listen.ipv6only = true;
        }
    }
}

/// Gives each server the id that its streams are known by. Servers share one only where `serverid` says so.
pub(super) fn name(servers: &mut [Server]) {
    let mut taken: Vec<String> = servers.iter().map(|server| server.id.clone()).collect();
    for server in servers.iter_mut().filter(|server| server.id.is_empty()) {
        let first = server.names.iter().find_map(|name| match name {
            ServerName::Exact(name) if !name.is_empty() && name != "_" => Some(name.as_str()),
            _ => None,
        });
        let wanted = first.unwrap_or(DEFAULT_SERVER_ID).to_owned();
        server.id = if taken.contains(&wanted) { format!("{wanted}-{}", server.index) } else { wanted };
        taken.push(server.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        let error = Config::parse("x.conf", text.as_bytes()).expect_err(text);
        assert_eq!(error.message, format!("{message} in x.conf:1"), "{text}");
    }

    #[test]
    fn servers_on_one_address_are_virtual_hosts() {
        let config = load(
            "rtmp {
               server { listen 1935; server_name a.example www.a.example; }
               server { listen 1935 backlog=64 default_server; server_name *.b.example; }
               server { listen 1935; server_name c.*; }
               server { listen 1935; server_name ~^d\\d+\\. .e.example; } }",
        );
        let endpoints = config.endpoints();
        let [endpoint] = endpoints.as_slice() else { panic!("{endpoints:?}") };
        assert_eq!(endpoint.listen.backlog, 64);
        for (host, index) in [
            ("a.example", 0),
            ("WWW.A.example", 0),
            ("x.b.example", 1),
            ("b.example", 1),
            ("c.example", 2),
            ("d12.example", 3),
            ("e.example", 3),
            ("x.e.example", 3),
            ("unknown", 1),
        ] {
            assert_eq!(endpoint.server_for(None, Some(host)).index, index, "{host}");
        }
        assert_eq!(endpoint.server_for(None, None).index, 1);
        let ids: Vec<&str> = config.servers.iter().map(|server| server.id.as_str()).collect();
        assert_eq!(ids, ["a.example", "default", "default-2", "default-3"]);
    }

    #[test]
    fn an_address_below_the_wildcard_shares_its_socket() {
        let config = load(
            "rtmp { server { listen 1935; } server { listen 127.0.0.1:1935; }
               server { listen 192.0.2.1:1935 bind; } server { listen [::]:1935; } }",
        );
        let endpoints = config.endpoints();
        let addresses: Vec<String> = endpoints.iter().map(|e| e.listen.address.to_string()).collect();
        assert_eq!(addresses, ["0.0.0.0:1935", "[::]:1935", "192.0.2.1:1935"]);
        let server = |ip: &str| endpoints[0].server_for(Some(ip.parse().unwrap()), None).index;
        assert_eq!(server("127.0.0.1"), 1);
        assert_eq!(server("192.0.2.7"), 0);
        let tls = "ssl_certificate c; ssl_certificate_key k; listen 127.0.0.1:1935 ssl;";
        let config = load(&format!("rtmp {{ server {{ listen 1935; }} server {{ {tls} }} }}"));
        assert_eq!(config.endpoints().len(), 2, "an address that wants TLS is not served in plain");
    }

    #[test]
    fn ipv6_takes_ipv4_too_unless_somebody_else_does() {
        let only = |text: &str| {
            let config = load(&format!("rtmp {{ server {{ {text} }} }}"));
            let listens = config.servers[0].listens.iter();
            listens.filter(|listen| listen.address.to_string().starts_with('[')).all(|listen| listen.ipv6only)
        };
        assert!(!only("listen [::]:1935;"));
        assert!(only("listen 1935; listen [::]:1935;"));
        assert!(only("listen [::]:1935 ipv6only=on;"));
        assert!(!only("listen 1935; listen [::]:1935 ipv6only=off;"));
        assert!(!only("listen 1936; listen [::]:1935;"));
        let config = load("rtmp { server { listen [::]:1935; } server { listen 127.0.0.1:1935; } }");
        assert_eq!(config.endpoints().len(), 1);
        assert_eq!(config.endpoints()[0].server_for(Some("::ffff:127.0.0.1".parse().unwrap()), None).index, 1);
    }

    #[test]
    fn listens_on_one_address_must_agree() {
        let two = |one: &str, two: &str| format!("rtmp {{ server {{ {one} }} server {{ {two} }} }}");
        load(&two("listen 1935 backlog=5;", "listen 1935;"));
        load(&two("listen 1935;", "listen 1935 backlog=5;"));
        load(&two("listen 1935 backlog=5;", "listen 1935 backlog=5 default_server;"));
        check_error(
            &two("listen 1935 backlog=5;", "listen 1935 backlog=6;"),
            "duplicate listen options for 0.0.0.0:1935",
        );
        check_error(&two("listen 1935; listen *:1935;", ""), "a duplicate listen 0.0.0.0:1935");
        check_error(
            &two("listen 1935 default;", "listen 1935 default_server;"),
            "a duplicate default server for 0.0.0.0:1935",
        );
    }
}
