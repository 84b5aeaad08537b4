//! Names out of tcUrl, app and stream name, as every client splits them.
//!
//! The same URL reaches a server in different pieces: `rtmp://host/a/b/c` is app `a/b` with name `c` from one client, app `a` with
//! name `b/c` from another, and OBS sends its "server" field as the app whatever it holds. So the pieces are put together first and
//! cut here, by one rule, and the same URL always means the same stream. Percent-encoding is left alone: names are decoded, once,
//! where they are checked.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use thiserror::Error;

/// What a client wants, whichever way it split the URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The virtual host: what `vhost` in the query says, else the host of tcUrl. Lower case, without port or brackets; empty when
    /// neither holds a valid host.
    pub host: String,
    /// Path elements joined with single slashes.
    pub app: String,
    /// May be empty. A prefix such as `mp4:` stays in front.
    pub name: String,
    /// The query as it was sent: the name's, then the app's, then tcUrl's, each only once. Bounded by what a command may hold; those
    /// who hand it on refuse more than [`MAX_QUERY_BYTES`].
    pub query: String,
    /// The query in pairs, at most [`MAX_ARGS`] of them. Of one name, the first.
    pub args: Vec<(String, String)>,
}

/// A full `rtmp://` or `rtmps://` URL, as its client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtmpUrl {
    pub tls: bool,
    /// Lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// The first path element, as nginx-rtmp reads its relays, with `/_definst_` where that follows and with the query where no name
    /// follows. May be empty.
    pub app: String,
    /// The rest of the path. May be empty.
    pub name: String,
    /// What belongs to the name, without the question mark.
    pub query: String,
}

/// Why a text is no URL that an RTMP client could use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("the URL is empty")]
    Empty,
    #[error("the scheme is neither rtmp nor rtmps")]
    Scheme,
    #[error("user names in RTMP URLs are not supported")]
    User,
    #[error("the host is missing or invalid")]
    Host,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("the URL holds spaces or control characters")]
    Character,
}

/// Pairs read from a query; the rest is kept as text only.
pub const MAX_ARGS: usize = 64;
/// Longest query that anyone should pass on.
pub const MAX_QUERY_BYTES: usize = 4096;

/// What a client wants, going by its words alone.
pub fn resolve(tc_url: &str, app: &str, name: &str) -> Target {
    resolve_in(tc_url, app, name, |_| false)
}

/// What a client wants, on a server that has certain applications. `exists` says whether an application has exactly this name.
///
/// An app that exists is taken as sent, as nginx-rtmp does, and all of the name belongs to the name. Otherwise the last path element
/// is the name; and if the app still does not exist, but one with fewer path elements does, the others belong to the name as well.
pub fn resolve_in(tc_url: &str, app: &str, name: &str, exists: impl Fn(&str) -> bool) -> Target {
    let (tc_host, tc_path, tc_query) = split_tc_url(tc_url);
    let (app, name) = (question_marks(app), question_marks(name));
    let (mut app_path, app_query) = split_query(&app);
    let (name_path, name_query) = split_query(&name);
    if elements(app_path).next().is_none() {
        app_path = tc_path;
    }
    let mut query = Query::default();
    let (app, name) = if is_cut_in_query(app_path, app_query, &name, &exists) {
        query.add(&format!("{}/{name}", app_query.unwrap_or_default()));
        divide(app_path, "", &exists)
    } else {
        query.add(name_query.unwrap_or_default());
        query.add(app_query.unwrap_or_default());
        divide(app_path, name_path, &exists)
    };
    // What was cut in the app is cut in tcUrl as well.
    query.add(tc_query.filter(|query| Some(*query) != app_query).unwrap_or_default());
    let host = query.vhost().or(tc_host).unwrap_or_default();
    Target { host, app, name, args: query.args(), query: query.0 }
}

/// The app of a connect as nginx-rtmp reads it: what follows `?` are its arguments; `/_definst_` or one slash at its end is dropped.
pub fn split_app(app: &str) -> (&str, &str) {
    let (path, query) = split_query(app);
    let path = path.strip_suffix("/_definst_").or_else(|| path.strip_suffix('/')).unwrap_or(path);
    (path, query.unwrap_or_default())
}

impl Target {
    /// The value of an argument in the query, still percent-encoded.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl RtmpUrl {
    /// What the client sends as `tcUrl`.
    pub fn tc_url(&self) -> String {
        let mut text = self.origin();
        text.push('/');
        text.push_str(&self.app);
        text
    }

    /// What the client publishes or plays: the name with its query.
    pub fn stream(&self) -> String {
        if self.query.is_empty() { self.name.clone() } else { format!("{}?{}", self.name, self.query) }
    }

    /// Where to go when the server asks to reconnect to `tc_url`: absolute (`rtmp://h/app`), without scheme (`//h/app`), another app
    /// on the same host (`/app`), or beside the present one (`app`). The stream stays the same. Whether another host is acceptable
    /// is for the caller to say.
    pub fn reconnect(&self, tc_url: &str) -> Result<Self, UrlError> {
        let tc_url = unquote(tc_url);
        check_characters(tc_url)?;
        let mut moved = self.clone();
        let beside_scheme = tc_url.strip_prefix("//");
        let path = if tc_url.contains("://") || beside_scheme.is_some() {
            let (tls, authority, path) = split_absolute(beside_scheme.unwrap_or(tc_url))?;
            let tls = if beside_scheme.is_some() { self.tls } else { tls };
            let (host, port) = split_authority(authority)?;
            (moved.tls, moved.host, moved.port) = (tls, host, port.unwrap_or(default_port(tls)));
            path
        } else if tc_url.starts_with('/') {
            tc_url
        } else {
            let (beside, _) = split_app(&self.app);
            let folder = beside.rsplit_once('/').map_or("", |(folder, _)| folder);
            moved.app = format!("{folder}/{tc_url}").trim_matches('/').to_owned();
            return Ok(moved);
        };
        let app = path.trim_matches('/');
        if !app.is_empty() {
            moved.app = app.to_owned();
        }
        Ok(moved)
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "rtmps" } else { "rtmp" }
    }

    fn origin(&self) -> String {
        let mut text = format!("{}://", self.scheme());
        if self.host.contains(':') {
            text.push_str(&format!("[{}]", self.host));
        } else {
            text.push_str(&self.host);
        }
        if self.port != default_port(self.tls) {
            text.push_str(&format!(":{}", self.port));
        }
        text
    }
}

impl FromStr for RtmpUrl {
    type Err = UrlError;

    /// The scheme may be missing, as in nginx-rtmp's `push host/app`.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        check_characters(text)?;
        let (tls, authority, path) = split_absolute(text)?;
        let (host, port) = split_authority(authority)?;
        // The query first: it may hold slashes, and the path may not hold question marks.
        let (path, query) = split_query(path);
        let path = path.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        let rest = rest.trim_start_matches('/');
        let (app, name) = match rest.strip_prefix("_definst_") {
            Some(after) if after.is_empty() || after.starts_with('/') => (format!("{first}/_definst_"), after),
            _ => (first.to_owned(), rest),
        };
        let name = name.trim_start_matches('/').to_owned();
        let mut url = Self { tls, host, port: port.unwrap_or(default_port(tls)), app, name, query: String::new() };
        match query {
            Some(query) if url.name.is_empty() => url.app = format!("{}?{query}", url.app),
            Some(query) => url.query = query.to_owned(),
            None => {}
        }
        Ok(url)
    }
}

impl fmt::Display for RtmpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tc_url())?;
        let stream = self.stream();
        if stream.is_empty() { Ok(()) } else { write!(f, "/{stream}") }
    }
}

/// Cuts the path of a URL into app and name.
fn divide(app_path: &str, name_path: &str, exists: &impl Fn(&str) -> bool) -> (String, String) {
    let sent = join(elements(app_path));
    // The prefix belongs to the whole name, not to its first folder.
    let (prefix, name_path) = split_prefix(name_path);
    let named = |rest: String| format!("{prefix}{rest}");
    if !sent.is_empty() && exists(&sent) {
        return (sent, named(join(elements(name_path))));
    }
    let all: Vec<&str> = elements(app_path).chain(elements(name_path)).collect();
    // At least one element is the app: a lone element with no name is an app with an empty name (OBS without a key).
    let fewest = usize::from(!sent.is_empty());
    let longest = all.len().saturating_sub(1).max(fewest);
    let is_app = |cut: &usize| exists(&join(all.iter().take(*cut).copied()));
    let cut = (fewest..=longest.min(MAX_APP_ELEMENTS)).rev().find(is_app).unwrap_or(longest);
    let (app, name) = all.split_at(cut.min(all.len()));
    (join(app.iter().copied()), named(join(name.iter().copied())))
}

/// Whether the client cut the URL at a slash inside its query: ffmpeg turns `rtmp://h/live/foo?token=a/b` into app
/// `live/foo?token=a` and name `b`.
///
/// The same pieces could be an app with arguments of its own and a real name. They are when that app exists, when the name has
/// arguments too, when the path has no room for a name, and when the arguments are ones that belong to the app: those of FMLE's way
/// to choose a virtual host and those of Adobe's authentication.
fn is_cut_in_query(app_path: &str, app_query: Option<&str>, name: &str, exists: &impl Fn(&str) -> bool) -> bool {
    let Some(query) = app_query else { return false };
    let of_the_app = |key: &str| VHOST_KEYS.contains(&key) || key == "authmod";
    !name.is_empty()
        && !name.contains('?')
        && elements(app_path).nth(1).is_some()
        && !pairs(query).any(|(key, _)| of_the_app(key))
        && !exists(&join(elements(app_path)))
}

/// Host, path and query of a tcUrl, as far as it has them.
fn split_tc_url(tc_url: &str) -> (Option<String>, &str, Option<&str>) {
    let Some((_, rest)) = unquote(tc_url).split_once("://") else { return (None, "", None) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (path, query) = split_query(path);
    (split_authority(authority).ok().map(|(host, _)| host), path, query)
}

fn split_absolute(text: &str) -> Result<(bool, &str, &str), UrlError> {
    if text.is_empty() {
        return Err(UrlError::Empty);
    }
    // A "://" may also stand in the query of a URL without a scheme.
    let scheme_end = text.find("://").filter(|end| text.find(['/', '?']).is_none_or(|first| *end < first));
    let (tls, rest) = match scheme_end {
        None => (false, text),
        Some(end) => {
            let (scheme, rest) = text.split_at(end);
            let tls = match scheme {
                _ if scheme.eq_ignore_ascii_case("rtmp") => false,
                _ if scheme.eq_ignore_ascii_case("rtmps") => true,
                _ => return Err(UrlError::Scheme),
            };
            (tls, rest.strip_prefix("://").unwrap_or(rest))
        }
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(UrlError::User);
    }
    Ok((tls, authority, path))
}

/// Host, without brackets and in lower case, and port.
pub fn split_authority(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(UrlError::Port)?) };
            (ipv6(address).ok_or(UrlError::Host)?, port)
        }
        // Not by the book, but what people type.
        None if ipv6(authority).is_some() => (ipv6(authority).ok_or(UrlError::Host)?, None),
        None => {
            let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            let host = host.strip_suffix('.').unwrap_or(host);
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            let labels = host.split('.').all(|label| !label.is_empty());
            if !labels || host.len() > MAX_HOST_BYTES || !host.bytes().all(valid) {
                return Err(UrlError::Host);
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?),
    };
    Ok((host, port))
}

/// The address in its one short spelling, so that `[::1]` and `[0:0::1]` are the same host.
fn ipv6(text: &str) -> Option<String> {
    text.parse::<Ipv6Addr>().ok().map(|address| address.to_string())
}

/// Writes FMLE's `live...vhost...host`, for encoders whose fields take no question mark, as `live?vhost=host`.
fn question_marks(text: &str) -> Cow<'_, str> {
    match text.split_once("...vhost...") {
        Some((before, host)) if before.contains('?') => format!("{before}&vhost={host}").into(),
        Some((before, host)) => format!("{before}?vhost={host}").into(),
        None => text.into(),
    }
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)))
}

fn split_prefix(name: &str) -> (&str, &str) {
    let len =
        ["mp4:", "flv:", "mp3:"].iter().find(|prefix| name.starts_with(**prefix)).map_or(0, |prefix| prefix.len());
    name.split_at(len)
}

/// The path elements that mean something: doubled slashes and the default instance (`_definst_`) of Flash servers do not.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|element| !element.is_empty() && *element != "_definst_")
}

fn join<'a>(elements: impl Iterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for element in elements {
        if !joined.is_empty() {
            joined.push('/');
        }
        joined.push_str(element);
    }
    joined
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unquote(text: &str) -> &str {
    text.trim().trim_matches(['\'', '"'])
}

fn check_characters(text: &str) -> Result<(), UrlError> {
    let bad = |c: char| c.is_control() || c.is_whitespace();
    if text.contains(bad) { Err(UrlError::Character) } else { Ok(()) }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 1935 }
}

/// A query put together from those that came.
#[derive(Default)]
struct Query(String);

impl Query {
    /// OBS sends the same query with the app and with the name; one that is there already is not repeated.
    fn add(&mut self, part: &str) {
        let known = self.0 == part || self.0.strip_suffix(part).is_some_and(|before| before.ends_with('&'));
        if part.is_empty() || known {
            return;
        }
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(part);
    }

    /// The first valid host under a name that means one, so that nobody has to choose between several.
    fn vhost(&self) -> Option<String> {
        VHOST_KEYS.iter().find_map(|wanted| {
            let named = pairs(&self.0).filter(|(key, _)| key == wanted).take(MAX_ARGS);
            named.filter_map(|(_, value)| split_authority(value).ok()).map(|(host, _)| host).next()
        })
    }

    fn args(&self) -> Vec<(String, String)> {
        let mut args: Vec<(String, String)> = Vec::new();
        for (key, value) in pairs(&self.0).take(MAX_ARGS) {
            if args.iter().all(|(known, _)| known != key) {
                args.push((key.to_owned(), value.to_owned()));
            }
        }
        args
    }
}

const VHOST_KEYS: [&str; 2] = ["vhost", "domain"];
/// Names of streams have no more, so that looking for an application among more would be work for nothing.
const MAX_APP_ELEMENTS: usize = 8;
/// The longest name that DNS has.
const MAX_HOST_BYTES: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(target: &Target) -> [&str; 4] {
        [&target.host, &target.app, &target.name, &target.query]
    }

    #[test]
    fn every_client_s_split_of_a_url_means_the_same_stream() {
        // Rows: the URL, then what ffmpeg and librtmp, GStreamer, and OBS (server and key, or all pasted as server) make of it.
        for (splits, app, name) in [
            (&[("a", "b"), ("a/b", "")][..], "a", "b"),
            (&[("a/b", "c"), ("a", "b/c"), ("a/b/c", "")], "a/b", "c"),
            (&[("a/b", "c/d"), ("a/b/c", "d"), ("a", "b/c/d"), ("a/b/c/d", "")], "a/b/c", "d"),
        ] {
            for (sent_app, sent_name) in splits {
                let target = resolve(&format!("rtmp://h/{sent_app}"), sent_app, sent_name);
                assert_eq!(parts(&target), ["h", app, name, ""], "{sent_app} {sent_name}");
            }
        }
    }

    #[test]
    fn an_application_that_exists_decides_where_the_name_begins() {
        let exists = |app: &str| matches!(app, "live" | "tv/hd");
        for (sent_app, sent_name, app, name) in [
            ("live", "a", "live", "a"),
            ("live", "a/b", "live", "a/b"),
            ("live/a", "b", "live", "a/b"),
            ("live/a/b", "", "live", "a/b"),
            ("live", "", "live", ""),
            ("live/", "", "live", ""),
            ("live/_definst_", "a", "live", "a"),
            ("tv/hd", "a", "tv/hd", "a"),
            ("tv/hd", "", "tv/hd", ""),
            ("tv/hd/a", "b", "tv/hd", "a/b"),
            ("tv/sd", "a", "tv/sd", "a"),
            ("live", "mp4:a/b", "live", "mp4:a/b"),
            ("live/a", "mp4:b", "live", "mp4:a/b"),
            ("other", "a/b", "other/a", "b"),
        ] {
            let target = resolve_in(&format!("rtmp://h/{sent_app}"), sent_app, sent_name, exists);
            assert_eq!(parts(&target), ["h", app, name, ""], "{sent_app} {sent_name}");
        }
    }

    #[test]
    fn queries_go_to_the_end_wherever_they_were() {
        for (tc_url, app, name, expected) in [
            // ffmpeg, OBS: with the name.
            ("rtmp://h/live", "live", "foo?k=v", ["h", "live", "foo", "k=v"]),
            // ffmpeg with one path element: in the app, name empty.
            ("rtmp://h/app?key=val", "app?key=val", "", ["h", "app", "", "key=val"]),
            // OBS with several tracks: in both.
            ("rtmp://h/x/y?key=val", "x/y?key=val", "?key=val", ["h", "x", "y", "key=val"]),
            // FMLE: in the app, of which it chooses the host.
            ("rtmp://1.2.3.4/live?vhost=x.com", "live?vhost=x.com", "foo", ["x.com", "live", "foo", "vhost=x.com"]),
            ("rtmp://1.2.3.4/a/b?vhost=x.com", "a/b?vhost=x.com", "c", ["x.com", "a/b", "c", "vhost=x.com"]),
            ("rtmp://1.2.3.4/live?domain=x.com", "live?domain=x.com", "foo", ["x.com", "live", "foo", "domain=x.com"]),
            // Only tcUrl has it.
            ("rtmp://h/live?k=v", "live", "foo", ["h", "live", "foo", "k=v"]),
            // All three.
            ("rtmp://h/live?a=1", "live?b=2", "foo?c=3", ["h", "live", "foo", "c=3&b=2&a=1"]),
            // ffmpeg and GStreamer cut at a slash inside the query.
            ("rtmp://h/live/foo?token=a", "live/foo?token=a", "b", ["h", "live", "foo", "token=a/b"]),
            ("rtmp://h/live/foo?token=a", "live/foo?token=a", "b/c&d=e", ["h", "live", "foo", "token=a/b/c&d=e"]),
            // A slash in the query of the name is none of the path.
            ("rtmp://h/live", "live", "foo?token=a/b", ["h", "live", "foo", "token=a/b"]),
            // Adobe's authentication puts its arguments on the app.
            (
                "rtmp://h/a/b?authmod=adobe&user=U",
                "a/b?authmod=adobe&user=U",
                "c",
                ["h", "a/b", "c", "authmod=adobe&user=U"],
            ),
            // An app with arguments and a name with arguments.
            ("rtmp://h/a/b?x=1", "a/b?x=1", "c?y=2", ["h", "a/b", "c", "y=2&x=1"]),
        ] {
            assert_eq!(parts(&resolve(tc_url, app, name)), expected, "{app} {name}");
        }
    }

    #[test]
    fn an_existing_app_with_arguments_is_not_taken_for_a_cut_query() {
        let target = resolve_in("rtmp://h/tv/hd?token=a", "tv/hd?token=a", "b", |app| app == "tv/hd");
        assert_eq!(parts(&target), ["h", "tv/hd", "b", "token=a"]);
    }

    #[test]
    fn the_host_is_read_from_whatever_clients_send() {
        for (tc_url, host) in [
            ("rtmp://h/live", "h"),
            ("rtmp://H.Example.COM:1936/live", "h.example.com"),
            ("RTMPS://h./live", "h"),
            ("rtmpt://h/live", "h"),
            ("rtmp://[2001:DB8::1]:1935/live", "2001:db8::1"),
            ("rtmp://[::1]/live", "::1"),
            ("rtmp://::1/live", "::1"),
            ("rtmp://user:password@h/live", "h"),
            ("'rtmp://h/live'", "h"),
            ("'rtmp://h/live", "h"),
            (" \"rtmp://h/live\" ", "h"),
            ("rtmp://h", "h"),
            ("rtmp://h?vhost=v", "v"),
            ("rtmp://h/live?vhost=%00&vhost=V", "v"),
            ("rtmp://h/live?domain=d&vhost=v", "v"),
            ("rtmp://h/live?vhost=a&vhost=b", "a"),
            ("rtmp://h/live?vhost=", "h"),
            ("rtmp://h/live?vhost=[::1]", "::1"),
            ("rtmp://h/live?vhost=..", "h"),
            ("rtmp:///live", ""),
            ("rtmp://a b/live", ""),
            ("rtmp://[::1/live", ""),
            ("live", ""),
            ("", ""),
        ] {
            assert_eq!(resolve(tc_url, "live", "foo").host, host, "{tc_url}");
        }
        assert_eq!(resolve(&format!("rtmp://{}/live", "h".repeat(254)), "live", "foo").host, "");
    }

    #[test]
    fn fmle_s_forms_of_a_virtual_host_are_read() {
        for (app, name) in
            [("live?vhost=v", "foo"), ("live...vhost...v", "foo"), ("live", "foo...vhost...v"), ("live", "foo?vhost=v")]
        {
            let target = resolve("rtmp://h/live", app, name);
            assert_eq!(parts(&target), ["v", "live", "foo", "vhost=v"], "{app} {name}");
        }
        assert_eq!(resolve("rtmp://h/live", "live", "foo?a=b...vhost...v").query, "a=b&vhost=v");
    }

    #[test]
    fn slashes_and_default_instances_mean_nothing() {
        for (app, name) in [
            ("live/", "foo"),
            ("/live", "foo"),
            ("live//", "/foo"),
            ("live/_definst_", "foo"),
            ("live/_definst_/", "foo/"),
            ("live", "_definst_/foo"),
            ("live/_definst_/foo", ""),
        ] {
            assert_eq!(parts(&resolve("rtmp://h/", app, name))[1..], ["live", "foo", ""], "{app} {name}");
        }
    }

    #[test]
    fn prefixes_stay_in_front_of_the_name() {
        for (sent_app, sent_name, app, name) in [
            ("vod", "mp4:foo", "vod", "mp4:foo"),
            ("vod", "flv:dir/foo", "vod/dir", "flv:foo"),
            ("vod", "mp4:dir/foo.mp4?a=b", "vod/dir", "mp4:foo.mp4"),
        ] {
            let target = resolve("rtmp://h/vod", sent_app, sent_name);
            assert_eq!([target.app.as_str(), &target.name], [app, name], "{sent_name}");
        }
    }

    #[test]
    fn missing_parts_are_empty() {
        assert_eq!(parts(&resolve("", "", "")), ["", "", "", ""]);
        assert_eq!(parts(&resolve("rtmp://h", "", "")), ["h", "", "", ""]);
        assert_eq!(parts(&resolve("rtmp://h/stream", "stream", "")), ["h", "stream", "", ""]);
        // An app that is not there comes from tcUrl.
        assert_eq!(parts(&resolve("rtmp://h/live", "", "foo")), ["h", "live", "foo", ""]);
        assert_eq!(parts(&resolve("", "", "foo")), ["", "", "foo", ""]);
    }

    #[test]
    fn percent_encoding_and_dots_are_left_for_the_check_of_names() {
        let target = resolve("rtmp://h/live", "live", "..%2f%00/a%20b");
        assert_eq!([target.app.as_str(), &target.name], ["live/..%2f%00", "a%20b"]);
    }

    #[test]
    fn arguments_are_capped_and_the_first_of_a_name_wins() {
        let target = resolve("rtmp://h/live?auth=3", "live?auth=2&b", "foo?auth=1&&c=d=e");
        assert_eq!(target.arg("auth"), Some("1"));
        assert_eq!(target.arg("b"), Some(""));
        assert_eq!(target.arg("c"), Some("d=e"));
        assert_eq!(target.arg("d"), None);
        let many: String = (0..10_000).map(|index| format!("&k{index}=v")).collect();
        let target = resolve("rtmp://h/live", "live", &format!("foo?{many}"));
        assert_eq!(target.args.len(), MAX_ARGS);
        assert_eq!(target.query, many);
    }

    #[test]
    fn split_app_cuts_arguments_and_one_ending() {
        for (app, expected) in [
            ("live", ("live", "")),
            ("live/", ("live", "")),
            ("live//", ("live/", "")),
            ("live/_definst_", ("live", "")),
            ("live/_definst_?a=b", ("live", "a=b")),
            ("live?a=b/", ("live", "a=b/")),
            ("live/x/", ("live/x", "")),
            ("", ("", "")),
            ("?a", ("", "a")),
        ] {
            assert_eq!(split_app(app), expected, "{app}");
        }
    }

    fn url(text: &str) -> RtmpUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_client_url_is_read_as_nginx_rtmp_reads_its_relays() {
        for (text, tls, host, port, app, name, query) in [
            ("rtmp://h/a/b", false, "h", 1935, "a", "b", ""),
            ("rtmp://h/a/b/c?k=v/w", false, "h", 1935, "a", "b/c", "k=v/w"),
            ("rtmp://h:1936/a", false, "h", 1936, "a", "", ""),
            ("rtmp://H.COM", false, "h.com", 1935, "", "", ""),
            ("rtmp://h/", false, "h", 1935, "", "", ""),
            ("rtmps://h/a/b", true, "h", 443, "a", "b", ""),
            ("rtmps://h:8443/a/b", true, "h", 8443, "a", "b", ""),
            ("RTMP://h/a/b", false, "h", 1935, "a", "b", ""),
            ("rtmp://[::1]:1936/a/b", false, "::1", 1936, "a", "b", ""),
            ("rtmp://[::1]/a/b", false, "::1", 1935, "a", "b", ""),
            ("h/a/b", false, "h", 1935, "a", "b", ""),
            ("h:1936/a/b?to=http://x/y", false, "h", 1936, "a", "b", "to=http://x/y"),
            ("rtmp://h/a/_definst_/b", false, "h", 1935, "a/_definst_", "b", ""),
            ("rtmp://h/a/_definst_", false, "h", 1935, "a/_definst_", "", ""),
            ("rtmp://h/a//_definst_//b", false, "h", 1935, "a/_definst_", "b", ""),
            ("rtmp://h/a/_definst_x", false, "h", 1935, "a", "_definst_x", ""),
            ("rtmp://h/a?k=v/w", false, "h", 1935, "a?k=v/w", "", ""),
            ("rtmp://h/a//b", false, "h", 1935, "a", "b", ""),
            ("rtmp://h/vod/mp4:x/y.mp4", false, "h", 1935, "vod", "mp4:x/y.mp4", ""),
        ] {
            let [host, app, name, query] = [host, app, name, query].map(str::to_owned);
            assert_eq!(url(text), RtmpUrl { tls, host, port, app, name, query }, "{text}");
        }
    }

    #[test]
    fn a_client_url_that_cannot_be_used_says_why() {
        for (text, error) in [
            ("", UrlError::Empty),
            ("http://h/a", UrlError::Scheme),
            ("rtmpe://h/a", UrlError::Scheme),
            ("://h/a", UrlError::Scheme),
            ("rtmp://user:pass@h/a", UrlError::User),
            ("rtmp:///a/b", UrlError::Host),
            ("rtmp://", UrlError::Host),
            ("rtmp://a_b!/x", UrlError::Host),
            ("rtmp://[::1/x", UrlError::Host),
            ("rtmp://[nonsense]/x", UrlError::Host),
            ("rtmp://[::1]x/x", UrlError::Port),
            ("rtmp://h:0/x", UrlError::Port),
            ("rtmp://h:65536/x", UrlError::Port),
            ("rtmp://h:port/x", UrlError::Port),
            ("rtmp://h/a b", UrlError::Character),
            ("rtmp://h/a\r\nb", UrlError::Character),
            ("rtmp://h/a\0", UrlError::Character),
        ] {
            assert_eq!(text.parse::<RtmpUrl>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_client_says_where_it_connects_and_what_it_wants() {
        for (text, tc_url, stream) in [
            ("rtmp://h/a/b?k=v", "rtmp://h/a", "b?k=v"),
            ("rtmp://h:1936/a/b", "rtmp://h:1936/a", "b"),
            ("rtmps://h:443/a/b", "rtmps://h/a", "b"),
            ("rtmp://[::1]:1935/a/b", "rtmp://[::1]/a", "b"),
            ("h/a", "rtmp://h/a", ""),
        ] {
            assert_eq!((url(text).tc_url().as_str(), url(text).stream().as_str()), (tc_url, stream), "{text}");
        }
    }

    #[test]
    fn a_reconnect_request_moves_the_connection_and_keeps_the_stream() {
        let here = url("rtmp://h:1936/live/foo?k=v");
        for (to, expected) in [
            ("rtmp://other/app", "rtmp://other/app/foo?k=v"),
            ("rtmps://other:444/a/b", "rtmps://other:444/a/b/foo?k=v"),
            ("rtmp://other", "rtmp://other/live/foo?k=v"),
            ("//other/app", "rtmp://other/app/foo?k=v"),
            ("//[::1]:1937", "rtmp://[::1]:1937/live/foo?k=v"),
            ("/app/", "rtmp://h:1936/app/foo?k=v"),
            ("app", "rtmp://h:1936/app/foo?k=v"),
        ] {
            assert_eq!(here.reconnect(to).map(|url| url.to_string()).as_deref(), Ok(expected), "{to}");
        }
        assert_eq!(url("rtmps://h/live/foo").reconnect("//other").map(|url| (url.tls, url.port)), Ok((true, 443)));
        assert_eq!(here.reconnect("http://other/app"), Err(UrlError::Scheme));
        assert_eq!(here.reconnect("rtmp://other/\u{7f}"), Err(UrlError::Character));
        assert_eq!(here.reconnect("rtmp:///app"), Err(UrlError::Host));
    }

    proptest! {
        #[test]
        fn any_split_of_a_path_resolves_alike(path in prop::collection::vec("[a-z0-9]{1,5}", 1..7), cut in 0..8_usize, at in 0..3_usize) {
            let exists = |app: &str| at > 0 && app == path[..at.min(path.len())].join("/");
            let cut = cut.clamp(1, path.len());
            let (app, name) = (path[..cut].join("/"), path[cut..].join("/"));
            let target = resolve_in(&format!("rtmp://h/{app}"), &app, &name, exists);
            let whole = resolve_in(&format!("rtmp://h/{}", path[..1].join("/")), &path[0], &path[1..].join("/"), exists);
            prop_assert_eq!(join([target.app.as_str(), &target.name].into_iter().filter(|part| !part.is_empty())), path.join("/"));
            // The one exception: an app that exists and was named with too few elements for it, or with the whole path.
            if at <= 1 {
                prop_assert_eq!(target, whole);
            }
        }

        #[test]
        fn any_text_is_resolved(tc_url in ".{0,40}", app in ".{0,40}", name in ".{0,40}") {
            let target = resolve(&tc_url, &app, &name);
            prop_assert!(!target.app.contains("//") && !target.app.starts_with('/') && !target.app.ends_with('/'));
            prop_assert!(target.host.len() <= MAX_HOST_BYTES);
        }

        #[test]
        fn a_client_url_reads_back_from_its_own_text(text in "(rtmps?://)?[a-z0-9.]{1,9}(:[1-9][0-9]{0,3})?(/[a-z?=&/:_]{0,20})?") {
            if let Ok(url) = text.parse::<RtmpUrl>() {
                prop_assert_eq!(url.to_string().parse::<RtmpUrl>(), Ok(url));
            }
        }
    }
}
