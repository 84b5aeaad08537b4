//! The scheduler of a cluster: reads what nodes say in their oclp calls, and answers where a stream is to be had.
//!
//! Nodes are nginx with AlexWoo's or PingOS's module, or livemill. They send plain GETs whose values are not encoded.

use std::{net::IpAddr, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tracing::debug;

use super::Site;
use crate::{
    actors::support::{
        hook_call::HookCall,
        registry::{Listed, Node, Role, StreamDirectory, StreamName, Word},
        targets::Scheme,
    },
    config::{HookSecret, oclp::Scheduler, values},
};

/// Answers one call in a location with `scheduler`. `host`: what the caller reached us at.
pub fn answer(site: &Site, rules: &Scheduler, request: &HttpRequest, peer: Option<IpAddr>, host: &str) -> HttpResponse {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "GET, HEAD")).finish();
    }
    let query = request.query_string();
    if let Some(secret) = &rules.secret
        && !is_signed(request, secret, Timestamp::now().as_second())
    {
        return HttpResponse::Forbidden().body("the call is not signed, or not by the secret of this scheduler\n");
    }
    let asked = Asked { query, peer, host, now: site.house.now() };
    let reply = reply(&*site.house.scheduler, rules, &asked);
    debug!(?peer, query, ?reply, "scheduler");
    let mut response = HttpResponse::build(StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK));
    // Values that are no header values are left out: then the caller takes what is local.
    if let Some(location) = &reply.location {
        response.insert_header((header::LOCATION, location.as_str()));
    }
    if let Some(domain) = &reply.domain {
        response.insert_header(("Domain", domain.as_str()));
    }
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    match reply.body {
        Some(list) => response.json(list),
        None => response.finish(),
    }
}

/// One call.
struct Asked<'a> {
    query: &'a str,
    peer: Option<IpAddr>,
    host: &'a str,
    now: Duration,
}

#[derive(Debug, Default, PartialEq)]
struct Reply {
    status: u16,
    location: Option<String>,
    domain: Option<String>,
    body: Option<List>,
}

/// What `call=list` shows.
#[derive(Debug, PartialEq, Serialize)]
struct List {
    /// How many there are; `limit=` bounds how many are shown.
    total: usize,
    streams: Vec<Listed>,
}

impl Reply {
    fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    fn to(location: String, domain: Option<String>) -> Self {
        Self { status: 302, location: Some(location), domain, body: None }
    }
}

fn reply(directory: &dyn StreamDirectory, rules: &Scheduler, asked: &Asked<'_>) -> Reply {
    let first = |key| text(pairs(asked.query).find(|(name, _)| *name == key).map(|(_, value)| value));
    let call = first("call");
    match call.as_str() {
        "list" => return list(directory, asked),
        "init_process" | "init_master" => {
            // Only a node that says where it is can be told from others at its address.
            if let Some(node) = asked.node().filter(|_| asked.says_where()) {
                directory.forget(&node);
            }
            return Reply::status(200);
        }
        "publish" | "play" | "stream" | "pull" | "push" | "meta" | "record" => {}
        _ => return Reply::status(400),
    }
    let (act, stream) = (first("act"), StreamName { app: first("app"), name: first("name") });
    if [&stream.app, &stream.name].iter().any(|part| !is_name(part)) {
        return Reply::status(400);
    }
    let Some(node) = asked.node() else { return Reply::status(400) };
    let lease = asked.update().unwrap_or(rules.update).saturating_mul(MISSED);
    let tell = |word: Word| {
        // A full directory has said so itself, and nobody is refused for it.
        let _ = directory.tell(&stream, &node, word, lease, asked.now);
    };
    let domain = first("domain");
    match (call.as_str(), act.as_str()) {
        ("publish", "start") => tell(Word::Published { domain, begins: true }),
        ("publish", "update") => tell(Word::Published { domain, begins: false }),
        ("publish", "done") => tell(Word::Unpublished),
        ("stream", "start" | "update") => tell(Word::Exists { domain, role: asked.role() }),
        ("stream", "done") => tell(Word::Gone),
        ("pull", "start") => {
            tell(Word::Fetches);
            return pull(directory, asked, &stream, &node);
        }
        ("pull", "update") => tell(Word::Fetches),
        ("pull", "done") => tell(Word::FetchesNoMore),
        ("push" | "meta", "start") => return push(rules, asked, &stream, &node),
        _ => {}
    }
    Reply::status(200)
}

fn pull(directory: &dyn StreamDirectory, asked: &Asked<'_>, stream: &StreamName, asker: &Node) -> Reply {
    let from = asked.last("from").filter(|app| is_name(app));
    let sought = StreamName { app: from.unwrap_or_else(|| stream.app.clone()), name: stream.name.clone() };
    let Some(origin) = directory.locate(&sought, Some(asker), asked.now) else { return Reply::status(404) };
    let node = origin.node.seen_from(asked.peer, asked.host);
    let domain = Some(origin.domain).filter(|domain| is_domain(domain) && *domain != node.host);
    Reply::to(place(&node, &sought, stream), domain)
}

/// The first rule that fits, unless it leads back to the caller.
fn push(rules: &Scheduler, asked: &Asked<'_>, stream: &StreamName, asker: &Node) -> Reply {
    let groupid = asked.last("groupid").unwrap_or_default();
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let rule = rules
        .pushes
        .iter()
        .find(|rule| fits(&rule.groupid, &groupid) && fits(&rule.app, &stream.app) && fits(&rule.name, &stream.name));
    match rule.filter(|rule| Node::parse(&rule.url).is_none_or(|to| to != *asker)) {
        Some(rule) => Reply::to(rule.url.clone(), None),
        None => Reply::status(200),
    }
}

/// The address of a stream. What a header or the caller's reading of it would spoil is left out where it is what the caller
/// has anyway.
fn place(node: &Node, sought: &StreamName, asked: &StreamName) -> String {
    let StreamName { app, name } = sought;
    if node.scheme.is_http() {
        let path = |text: &str| percent_encoding::utf8_percent_encode(text, PATH).to_string();
        return format!("{node}/{}/{}.flv", path(app), path(name));
    }
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#%\\".contains(&byte));
    match (is_plain(app) && !app.contains('/'), is_plain(name)) {
        (true, true) => format!("{node}/{app}/{name}"),
        (true, false) => format!("{node}/{app}"),
        (false, _) if *app == asked.app => node.to_string(),
        (false, _) => format!("{node}/{}", percent_encoding::utf8_percent_encode(app, PATH)),
    }
}

fn list(directory: &dyn StreamDirectory, asked: &Asked<'_>) -> Reply {
    let limit = asked.last("limit").and_then(|text| text.parse().ok()).unwrap_or(LIST_LIMIT);
    let body = List { total: directory.len(), streams: directory.list(limit, asked.now) };
    Reply { status: 200, body: Some(body), ..Reply::default() }
}

impl Asked<'_> {
    /// An argument of the configuration: those come last, behind what clients may have named.
    fn last(&self, key: &str) -> Option<String> {
        let value = pairs(self.query).filter(|(name, _)| *name == key).last().map(|(_, value)| value);
        value.map(|value| text(Some(value))).filter(|value| !value.is_empty())
    }

    /// Where the caller's streams can be fetched: `origin=URL`, else its address with `port=N` or the usual port. None: it
    /// says something that is none.
    fn node(&self) -> Option<Node> {
        if let Some(origin) = self.last("origin") {
            return Node::parse(&origin);
        }
        let port = match self.last("port") {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None => Scheme::Rtmp.port(),
        };
        let host = self.peer.map(|peer| peer.to_canonical().to_string());
        Some(host.map_or_else(|| Node::here(port), |host| Node { scheme: Scheme::Rtmp, host, port }))
    }

    fn says_where(&self) -> bool {
        self.last("origin").or_else(|| self.last("port")).is_some()
    }

    /// How often the caller says `act=update`, where it says so.
    fn update(&self) -> Option<Duration> {
        let update = values::time(&self.last("update")?)?;
        Some(update.clamp(SHORTEST_UPDATE, LONGEST_UPDATE))
    }

    fn role(&self) -> Option<Role> {
        match self.last("role")?.as_str() {
            "origin" => Some(Role::Origin),
            "edge" => Some(Role::Edge),
            _ => None,
        }
    }
}

/// Whether a call carries a signature of this secret that is not old.
fn is_signed(request: &HttpRequest, secret: &str, now: i64) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let Some(time) = header("X-Livemill-Timestamp").and_then(|time| time.parse::<i64>().ok()) else { return false };
    let Some(given) = header("X-Livemill-Signature") else { return false };
    let url = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let call = HookCall {
        event: "",
        url: format!("http://here{url}"),
        body: None,
        timeout: Duration::ZERO,
        secret: Some(HookSecret::new(secret).into()),
    };
    let is_fresh = now.abs_diff(time) <= SIGNATURE_AGE;
    is_fresh
        && call
            .signature(time)
            .is_some_and(|right| subtle::ConstantTimeEq::ct_eq(right.as_bytes(), given.as_bytes()).into())
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// livemill escapes what a request line cannot hold, and nginx nothing: both read as the same name.
fn text(value: Option<&str>) -> String {
    percent_decode_str(value.unwrap_or_default()).decode_utf8_lossy().into_owned()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

/// A host that somebody chose: not the name that livemill gives to a server without one.
fn is_domain(text: &str) -> bool {
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(is_host) && !text.starts_with("default")
}

/// So many updates of a node may go missing before its streams do.
const MISSED: u32 = 3;

const SHORTEST_UPDATE: Duration = Duration::from_secs(1);

const LONGEST_UPDATE: Duration = Duration::from_secs(3600);

/// Longer than any name that livemill takes.
const LONGEST_NAME: usize = 512;

/// Streams that `call=list` shows where it is not told how many.
const LIST_LIMIT: usize = 1000;

/// Seconds that the clocks of nodes may be apart.
const SIGNATURE_AGE: u64 = 300;

const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'\\');

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        actors::support::registry::{FOR_EVER, InMemory},
        config::oclp::PushRule,
    };

    struct Cluster {
        directory: InMemory,
        rules: Scheduler,
    }

    impl Cluster {
        fn new() -> Self {
            let push = |url: &str, groupid: &str| PushRule {
                url: url.to_owned(),
                groupid: groupid.to_owned(),
                app: String::new(),
                name: String::new(),
            };
            let pushes = vec![push("rtmp://cdn.example/live", "cdn"), push("rtmp://10.0.0.7", "all")];
            let rules = Scheduler { update: Duration::from_secs(60), pushes, secret: None };
            Self { directory: InMemory::default(), rules }
        }

        fn ask(&self, node: u8, seconds: u64, query: &str) -> Reply {
            let peer = Some(IpAddr::from([10, 0, 0, node]));
            let now = Duration::from_secs(seconds);
            reply(&self.directory, &self.rules, &Asked { query, peer, host: "sched.example", now })
        }

        fn say(&self, node: u8, seconds: u64, query: &str) {
            assert_eq!(self.ask(node, seconds, query), Reply::status(200), "{query}");
        }

        fn pull(&self, node: u8, seconds: u64, args: &str) -> (u16, Option<String>, Option<String>) {
            let query = format!("call=pull&act=start&domain=edge.example&app=live&name=cam{args}");
            let reply = self.ask(node, seconds, &query);
            (reply.status, reply.location, reply.domain)
        }
    }

    const PUBLISH: &str = "call=publish&act=start&domain=origin.example&app=live&name=cam";

    fn found(location: &str, domain: &str) -> (u16, Option<String>, Option<String>) {
        (302, Some(location.to_owned()), Some(domain.to_owned()).filter(|domain| !domain.is_empty()))
    }

    const NOT_FOUND: (u16, Option<String>, Option<String>) = (404, None, None);

    #[test]
    fn an_edge_is_sent_to_the_node_where_somebody_publishes() {
        let cluster = Cluster::new();
        assert_eq!(cluster.pull(2, 0, ""), NOT_FOUND);
        cluster.say(1, 1, PUBLISH);
        assert_eq!(cluster.pull(2, 2, ""), found("rtmp://10.0.0.1:1935/live/cam", "origin.example"));
        assert_eq!(cluster.pull(1, 2, ""), NOT_FOUND, "never back to itself");
        cluster.say(1, 3, &PUBLISH.replace("start", "done"));
        assert_eq!(cluster.pull(2, 4, ""), NOT_FOUND);
    }

    #[test]
    fn a_node_says_where_it_is_and_how_often_it_speaks() {
        let cluster = Cluster::new();
        cluster.say(1, 0, &format!("{PUBLISH}&port=1936&update=5"));
        assert_eq!(cluster.pull(2, 14, "").1.as_deref(), Some("rtmp://10.0.0.1:1936/live/cam"));
        assert_eq!(cluster.pull(2, 15, ""), NOT_FOUND, "three updates of 5 s are missing");
        cluster.say(1, 20, &format!("{PUBLISH}&origin=http://o.example:8080"));
        assert_eq!(cluster.pull(2, 21, ""), found("http://o.example:8080/live/cam.flv", "origin.example"));
        assert_eq!(cluster.pull(1, 21, "&origin=http://o.example:8080"), NOT_FOUND);
        assert_eq!(cluster.ask(1, 22, &format!("{PUBLISH}&origin=file:///x")).status, 400);
        assert_eq!(cluster.ask(1, 22, &format!("{PUBLISH}&port=0")).status, 400);
    }

    #[test]
    fn another_application_can_be_asked_for() {
        let cluster = Cluster::new();
        cluster.say(1, 0, &PUBLISH.replace("app=live", "app=pub"));
        assert_eq!(cluster.pull(2, 1, ""), NOT_FOUND);
        assert_eq!(cluster.pull(2, 1, "&from=pub"), found("rtmp://10.0.0.1:1935/pub/cam", "origin.example"));
    }

    #[test]
    fn a_client_s_name_changes_nothing_that_the_configuration_says() {
        let cluster = Cluster::new();
        // nginx encodes nothing, so this is what a publisher called `cam&origin=…` makes of the call.
        cluster.say(1, 0, &format!("{PUBLISH}&origin=rtmp://evil.example&act=done&port=1936&origin=rtmp://10.0.0.1"));
        assert_eq!(cluster.pull(2, 1, "").1.as_deref(), Some("rtmp://10.0.0.1:1935/live/cam"));
    }

    #[test]
    fn names_are_the_same_however_they_are_written() {
        let cluster = Cluster::new();
        cluster.say(1, 0, &PUBLISH.replace("cam", "caf%C3%A9%20x"));
        let pull = cluster.ask(2, 1, "call=pull&act=start&domain=&app=live&name=café x");
        assert_eq!(pull.location.as_deref(), Some("rtmp://10.0.0.1:1935/live"), "the caller has the name");
        for bad in ["call=pull&act=start&app=live&name=", "call=pull&act=start&app=&name=a", "call=pull", "", "call=x"]
        {
            assert_eq!(cluster.ask(2, 1, bad).status, 400, "{bad}");
        }
        let long = format!("call=publish&act=start&app=live&name={}", "a".repeat(5000));
        assert_eq!(cluster.ask(2, 1, &long).status, 400);
    }

    #[test]
    fn edges_that_tell_of_streams_and_pulls_are_no_origins() {
        let cluster = Cluster::new();
        cluster.say(2, 0, "call=play&act=start&domain=&app=live&name=cam");
        cluster.say(2, 0, "call=stream&act=start&domain=&app=live&name=cam");
        assert_eq!(cluster.pull(2, 0, ""), NOT_FOUND);
        assert_eq!(cluster.pull(3, 1, ""), NOT_FOUND);
        cluster.say(1, 2, "call=stream&act=start&domain=&app=live&name=cam");
        assert_eq!(cluster.pull(3, 3, "").1.as_deref(), Some("rtmp://10.0.0.1:1935/live/cam"));
        cluster.say(4, 4, "call=stream&act=start&domain=&app=live&name=cam&role=edge");
        cluster.say(1, 5, "call=stream&act=done&domain=&app=live&name=cam");
        assert_eq!(cluster.pull(3, 6, ""), NOT_FOUND);
    }

    #[test]
    fn pushes_go_where_the_rules_say_and_not_back() {
        let cluster = Cluster::new();
        let push = |node, groupid: &str| {
            let reply = cluster.ask(node, 0, &format!("call=push&act=start&app=live&name=cam&groupid={groupid}"));
            (reply.status, reply.location)
        };
        assert_eq!(push(1, "cdn"), (302, Some("rtmp://cdn.example/live".to_owned())));
        assert_eq!(push(1, "all"), (302, Some("rtmp://10.0.0.7".to_owned())));
        assert_eq!((push(7, "all"), push(1, "other")), ((200, None), (200, None)));
        let meta = cluster.ask(1, 0, "call=meta&act=start&app=live&name=cam&groupid=cdn");
        assert_eq!(meta.status, 302);
        cluster.say(1, 1, "call=push&act=done&app=live&name=cam&groupid=cdn");
    }

    #[test]
    fn a_node_that_starts_has_nothing_if_it_says_who_it_is() {
        let cluster = Cluster::new();
        cluster.say(1, 0, &format!("{PUBLISH}&port=1936"));
        cluster.say(1, 1, "call=init_process&worker_id=0");
        assert_eq!(cluster.pull(2, 1, "").0, 302);
        cluster.say(1, 2, "port=1936&call=init_process&worker_id=0");
        assert_eq!(cluster.pull(2, 3, ""), NOT_FOUND);
    }

    #[test]
    fn streams_of_this_process_are_where_it_was_asked() {
        let cluster = Cluster::new();
        let stream = StreamName { app: "live".to_owned(), name: "cam".to_owned() };
        let word = Word::Published { domain: "default".to_owned(), begins: true };
        cluster.directory.tell(&stream, &Node::here(1935), word, FOR_EVER, Duration::ZERO).unwrap();
        assert_eq!(cluster.pull(2, 1, ""), found("rtmp://sched.example:1935/live/cam", ""));
    }

    #[test]
    fn what_is_known_is_listed() {
        let cluster = Cluster::new();
        cluster.say(1, 0, PUBLISH);
        cluster.say(1, 0, &PUBLISH.replace("cam", "other"));
        let list = cluster.ask(9, 60, "call=list&limit=1").body.unwrap();
        assert_eq!((list.total, list.streams.len()), (2, 1));
        let line = &list.streams[0];
        assert_eq!((line.name.as_str(), line.state, line.since_s, line.lease_s), ("cam", "published", 60, Some(120)));
    }

    #[test]
    fn only_calls_signed_by_the_secret_a_short_while_ago_are_answered() {
        let target = "/oclp?call=list";
        let secret = Some(Arc::new(HookSecret::new("key")));
        let url = format!("http://s.example:80{target}");
        let call = HookCall { event: "list", url, body: None, timeout: Duration::ZERO, secret };
        let signed = |time: i64, signature: Option<String>, secret: &str| {
            let request = actix_web::test::TestRequest::get().uri(target);
            let request = request.insert_header(("X-Livemill-Timestamp", time.to_string()));
            let request = match signature {
                Some(signature) => request.insert_header(("X-Livemill-Signature", signature)),
                None => request,
            };
            is_signed(&request.to_http_request(), secret, 1_700_000_000)
        };
        assert!(signed(1_700_000_100, call.signature(1_700_000_100), "key"));
        assert!(!signed(1_700_000_100, call.signature(1_700_000_100), "other"));
        assert!(!signed(1_700_000_100, call.signature(1_700_000_101), "key"));
        assert!(!signed(1_699_999_000, call.signature(1_699_999_000), "key"));
        assert!(!signed(1_700_000_100, None, "key"));
    }
}
