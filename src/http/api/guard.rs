//! Who may ask: the token, the name the server is asked under, and where a browser comes from.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
};
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::{actors::support::census::counted_as, http::host_name};

/// The bearer token. No `Debug`: it would end up in a log.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// What decides about each request. One for the thread of the API.
pub struct Guard {
    token: Token,
    hosts: Vec<String>,
    /// Wrong tokens of the last minute; None is the socket.
    guesses: HashMap<Option<IpAddr>, Guesses>,
}

struct Guesses {
    since: Duration,
    count: u32,
}

/// What of a request is looked at, so that it can be decided without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// None: the control socket.
    pub peer: Option<IpAddr>,
    /// The address it came to.
    pub local: Option<IpAddr>,
    /// Each header that may come once only is its only value; None: there is none, or there are several.
    pub host: Option<&'a str>,
    pub has_hosts: usize,
    pub origin: Option<&'a str>,
    pub fetch_site: Option<&'a str>,
    pub authorization: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub fn of(request: &'a HttpRequest, peer: Option<IpAddr>, local: Option<IpAddr>) -> Self {
        let text = |name: header::HeaderName| {
            let value = request.headers().get(name)?;
            // What is no text is nothing that we know.
            Some(value.to_str().unwrap_or("?"))
        };
        Self {
            peer,
            local,
            host: text(header::HOST),
            has_hosts: request.headers().get_all(header::HOST).count(),
            origin: text(header::ORIGIN),
            fetch_site: text(header::HeaderName::from_static("sec-fetch-site")),
            authorization: text(header::AUTHORIZATION),
        }
    }
}

impl Guard {
    pub fn new(token: Token, hosts: Vec<String>) -> Self {
        Self { token, hosts, guesses: HashMap::new() }
    }

    pub fn admit(&mut self, asked: &Asked<'_>, now: Duration) -> Result<(), Problem> {
        self.check_host(asked)?;
        check_origin(asked)?;
        self.check_token(asked, now)
    }

    /// A page whose name was made to lead here (DNS rebinding) gives itself away by that name.
    fn check_host(&self, asked: &Asked<'_>) -> Result<(), Problem> {
        if asked.peer.is_none() {
            return Ok(());
        }
        let Some(host) = asked.host.filter(|_| asked.has_hosts == 1) else {
            return Err(Problem::bad("one Host is needed"));
        };
        let name = host_name(host).trim_end_matches('.').to_ascii_lowercase();
        let is_known = match name.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || asked.local.is_some_and(|local| local.to_canonical() == ip.to_canonical()),
            Err(_) => name == "localhost",
        };
        if is_known || self.hosts.contains(&name) {
            return Ok(());
        }
        let detail = "this is not the name of this server: `api_host` makes it one";
        Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail))
    }

    fn check_token(&mut self, asked: &Asked<'_>, now: Duration) -> Result<(), Problem> {
        let given = asked.authorization.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let refused = |detail: &str| {
            Problem::new(StatusCode::UNAUTHORIZED, detail).with(header::WWW_AUTHENTICATE, "Bearer realm=\"livemill\"")
        };
        let Some(given) = given else {
            return Err(refused("a token is needed: \"Authorization: Bearer TOKEN\""));
        };
        if self.token.is(given) {
            return Ok(());
        }
        let Some(wait) = self.note_guess(asked.peer.map(counted_as), now) else {
            return Err(refused("the token is wrong"));
        };
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens from this address")
            .with(header::RETRY_AFTER, wait.as_secs().max(1).to_string()))
    }

    /// Some: there were too many, and for how long that holds.
    fn note_guess(&mut self, address: Option<IpAddr>, now: Duration) -> Option<Duration> {
        if self.guesses.len() >= MAX_ADDRESSES && !self.guesses.contains_key(&address) {
            self.guesses.retain(|_, guesses| now < guesses.since + WINDOW);
            if self.guesses.len() >= MAX_ADDRESSES {
                // So many guess at once that nobody is told more than that.
                return Some(WINDOW);
            }
        }
        let guesses = self.guesses.entry(address).or_insert(Guesses { since: now, count: 0 });
        if now >= guesses.since + WINDOW {
            *guesses = Guesses { since: now, count: 0 };
        }
        guesses.count = guesses.count.saturating_add(1);
        (guesses.count > MAX_GUESSES).then(|| (guesses.since + WINDOW).saturating_sub(now))
    }
}

/// A page of another site may make a browser ask, but not hide that it did.
fn check_origin(asked: &Asked<'_>) -> Result<(), Problem> {
    let is_foreign_site = asked.fetch_site.is_some_and(|site| !["none", "same-origin"].contains(&site));
    let is_foreign_origin = asked.origin.is_some_and(|origin| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_none() || host != asked.host
    });
    if is_foreign_site || is_foreign_origin {
        return Err(Problem::new(StatusCode::FORBIDDEN, "pages of other sites may not ask here"));
    }
    Ok(())
}

/// Wrong tokens that one address may give within [`WINDOW`]: hopeless for who guesses 256 bits, and enough for a tool that tries
/// each path once with a wrong one, to see whether it is refused.
const MAX_GUESSES: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered for a wrong token.
const MAX_ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn guard() -> Guard {
        Guard::new(Token::new("right"), vec!["media.example".to_owned()])
    }

    fn good<'a>() -> Asked<'a> {
        Asked {
            peer: Some(LOOPBACK),
            local: Some("192.0.2.7".parse().expect("an address")),
            host: Some("127.0.0.1:9935"),
            has_hosts: 1,
            authorization: Some("Bearer right"),
            ..Asked::default()
        }
    }

    fn status(asked: &Asked<'_>) -> u16 {
        guard().admit(asked, Duration::ZERO).map_or_else(|problem| problem.status.as_u16(), |()| 200)
    }

    #[test]
    fn it_answers_to_its_own_names_only() {
        for (host, expected) in [
            ("127.0.0.1", 200),
            ("127.0.0.1:1", 200),
            ("LocalHost:9935", 200),
            ("localhost.", 200),
            ("[::1]:9935", 200),
            ("192.0.2.7", 200),
            ("Media.Example:80", 200),
            ("192.0.2.8", 421),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("", 421),
            ("?", 421),
        ] {
            assert_eq!(status(&Asked { host: Some(host), ..good() }), expected, "{host}");
        }
        assert_eq!(status(&Asked { host: None, has_hosts: 0, ..good() }), 400);
        assert_eq!(status(&Asked { has_hosts: 2, ..good() }), 400);
        assert_eq!(status(&Asked { peer: None, host: Some("whatever"), ..good() }), 200, "the socket has no name");
    }

    #[test]
    fn pages_of_other_sites_are_turned_away() {
        for (origin, site, expected) in [
            (None, None, 200),
            (None, Some("none"), 200),
            (Some("http://127.0.0.1:9935"), Some("same-origin"), 200),
            (Some("http://127.0.0.1:8080"), None, 403),
            (Some("null"), None, 403),
            (Some("https://evil.example"), None, 403),
            (None, Some("cross-site"), 403),
            (None, Some("same-site"), 403),
            (None, Some("?"), 403),
        ] {
            assert_eq!(status(&Asked { origin, fetch_site: site, ..good() }), expected, "{origin:?} {site:?}");
        }
        assert_eq!(status(&Asked { peer: None, origin: Some("http://x"), ..good() }), 403, "on the socket too");
    }

    #[test]
    fn only_the_right_token_opens() {
        for (given, expected) in [
            (Some("Bearer right"), 200),
            (Some("bearer right"), 200),
            (Some("Bearer  right"), 200),
            (Some("Bearer wrong"), 401),
            (Some("Bearer righ"), 401),
            (Some("Bearer rightt"), 401),
            (Some("Bearer "), 401),
            (Some("Basic right"), 401),
            (Some("right"), 401),
            (None, 401),
        ] {
            assert_eq!(status(&Asked { authorization: given, ..good() }), expected, "{given:?}");
        }
    }

    #[test]
    fn who_guesses_is_slowed_down_and_who_knows_is_not() {
        let mut guard = guard();
        let wrong = Asked { authorization: Some("Bearer wrong"), ..good() };
        let mut ask = |asked: &Asked<'_>, second| {
            let admitted = guard.admit(asked, Duration::from_secs(second));
            admitted.map_or_else(|problem| problem.status.as_u16(), |()| 200)
        };
        assert!((0..MAX_GUESSES).all(|guess| ask(&wrong, u64::from(guess) / 2) == 401));
        assert_eq!([31, 59].map(|second| ask(&wrong, second)), [429, 429]);
        assert_eq!(ask(&good(), 59), 200);
        let other = Asked { peer: Some("192.0.2.1".parse().expect("an address")), ..wrong };
        assert_eq!(ask(&other, 59), 401, "others are counted on their own");
        assert_eq!(ask(&wrong, 60), 401, "a minute later");
    }

    #[test]
    fn what_is_remembered_of_guesses_is_bounded() {
        let mut guard = guard();
        for number in 0..3 * MAX_ADDRESSES as u32 {
            let asked =
                Asked { peer: Some(IpAddr::from(number.to_be_bytes())), authorization: Some("Bearer x"), ..good() };
            assert!(guard.admit(&asked, Duration::ZERO).is_err());
        }
        assert!(guard.guesses.len() <= MAX_ADDRESSES);
        assert!(guard.admit(&good(), Duration::ZERO).is_ok());
    }
}
