//! One call of oclp: the query that AlexWoo's and PingOS's modules send, and what an answer to it means.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{
    facts::SessionFacts,
    hook_call::{HookAnswer, HookCall, HookError},
    targets::{Target, Trust},
};
use crate::{
    config::{HookSecret, HookTargets, OclpRule, template::Part},
    media::key::StreamKey,
};

/// What a call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Publish,
    Play,
    Stream,
    Pull,
    Push,
    Meta,
}

/// Which of the calls about one thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Start,
    Update,
    Done,
}

/// Who or what a call tells of.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub facts: SessionFacts,
    /// The stream is published here, and not fetched from elsewhere: that changes while it lives.
    pub is_origin: Arc<AtomicBool>,
}

/// What the answer to the start of a pull, push or meta means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There; `trust` is asked about every address that its host has.
    Go(Target, Trust),
    /// Nothing is to be relayed, and that is no error.
    NoNeed,
    /// The players of the stream, or its publisher, are to be sent away.
    Refused(u16),
    /// Nothing came that could be used: ask again after a while.
    Retry(String),
}

/// Nobody may: a scheduler said so, or nobody answered where that means no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error("forbidden by the scheduler ({0})")]
    Status(u16),
    #[error("the scheduler could not be asked: {0}")]
    Failed(HookError),
}

impl Event {
    /// The word in the query.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
            Self::Stream => "stream",
            Self::Pull => "pull",
            Self::Push => "push",
            // X and P tell the two apart by their addresses only.
            Self::Meta => "meta",
        }
    }
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Update => "update",
            Self::Done => "done",
        }
    }
}

impl Subject {
    /// A session that plays or publishes.
    pub fn session(facts: &SessionFacts) -> Self {
        Self { facts: facts.clone(), is_origin: Arc::default() }
    }

    /// A stream of which no session says more.
    pub fn stream(key: &StreamKey) -> Self {
        let facts = SessionFacts {
            host: key.vhost.to_string(),
            server_id: key.vhost.to_string(),
            app: key.app.to_string(),
            name: key.name.to_string(),
            ..SessionFacts::default()
        };
        Self { facts, is_origin: Arc::default() }
    }

    /// A stream, with what its publisher said: the host, the arguments.
    pub fn published(key: &StreamKey, facts: &SessionFacts) -> Self {
        let Self { facts: stream, .. } = Self::stream(key);
        let host = if facts.host.is_empty() { stream.host } else { facts.host.clone() };
        let facts = SessionFacts { host, app: stream.app, name: stream.name, ..facts.clone() };
        Self { is_origin: Arc::new(AtomicBool::new(!facts.is_relay)), facts }
    }

    /// The value of a `$variable` in `args=`. Unknown ones are empty, and the configuration has been told so.
    fn variable(&self, name: &str, event: Event) -> Cow<'_, str> {
        let facts = &self.facts;
        match name {
            "app" => safe(&facts.app),
            "name" => safe(&facts.name),
            // Whole queries: their `&` are meant.
            "args" | "pargs" => query_safe(&facts.args),
            "connect_args" => query_safe(&facts.connect_args),
            "addr" | "remote_addr" => facts.address.map(|address| address.ip().to_string()).unwrap_or_default().into(),
            "remote_port" => facts.address.map(|address| address.port().to_string()).unwrap_or_default().into(),
            "clientid" => facts.id.to_string().into(),
            "flashver" => safe(&facts.flash_ver),
            "swfurl" => safe(&facts.swf_url),
            "tcurl" => safe(&facts.tc_url),
            "pageurl" => safe(&facts.page_url),
            "domain" | "host" => safe(&facts.host),
            "serverid" => safe(&facts.server_id),
            "scheme" | "protocol" => facts.protocol.into(),
            "role" => if self.is_origin.load(Ordering::Relaxed) { "origin" } else { "edge" }.into(),
            "call" => event.name().into(),
            _ => "".into(),
        }
    }
}

/// The call of this rule. Values stand as they are but for what would end the request line or begin another argument.
pub fn ask(rule: &OclpRule, event: Event, stage: Stage, about: &Subject, secret: Option<&Arc<HookSecret>>) -> HookCall {
    let facts = &about.facts;
    let mut url = rule.url.clone();
    url.push(if url.contains('?') { '&' } else { '?' });
    let (domain, app, name) = (safe(&facts.host), safe(&facts.app), safe(&facts.name));
    url.push_str(&format!("call={}&act={}&domain={domain}&app={app}&name={name}", event.name(), stage.name()));
    if !rule.groupid.is_empty() {
        url.push_str(&format!("&groupid={}", safe(&rule.groupid)));
    }
    if rule.says_clientid {
        url.push_str(&format!("&clientid={}", facts.id));
    }
    for (at, part) in rule.args.parts().iter().enumerate() {
        if at == 0 {
            url.push('&');
        }
        match part {
            Part::Text(text) => url.push_str(&query_safe(text)),
            Part::Variable(name) => url.push_str(&about.variable(name, event)),
            Part::Capture(_) => {}
        }
    }
    HookCall { event: event.name(), url, body: None, timeout: rule.timeout, secret: secret.cloned() }
}

/// Whether somebody may play or publish.
pub fn admits(rule: &OclpRule, answer: Result<HookAnswer, HookError>) -> Result<(), Forbidden> {
    match answer {
        Ok(HookAnswer { status: 200..=299, .. }) => Ok(()),
        Ok(HookAnswer { status, .. }) => Err(Forbidden::Status(status)),
        Err(HookError::Ending) => Err(Forbidden::Failed(HookError::Ending)),
        Err(_) if rule.failure_allows => Ok(()),
        Err(error) => Err(Forbidden::Failed(error)),
    }
}

/// Where a pull, push or meta is to go.
pub fn decide(event: Event, answer: Result<HookAnswer, HookError>, targets: &HookTargets) -> Decision {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Decision::Retry(error.to_string()),
    };
    let location = match (answer.status, &answer.location) {
        (200..=299, _) => return Decision::NoNeed,
        (300..=399, Some(location)) if !location.is_empty() => location,
        (300..=399, _) => return Decision::Retry(format!("{} without a Location", answer.status)),
        (400..=599, _) => return Decision::Refused(answer.status),
        (status, _) => return Decision::Retry(format!("answered with status {status}")),
    };
    let target = match Target::parse(location) {
        Ok(target) => target.for_domain(answer.domain.as_deref()),
        Err(error) => return Decision::Retry(format!("a Location that cannot be used: {error}")),
    };
    if event != Event::Pull && target.scheme.is_http() {
        return Decision::Retry("a Location that cannot be used: nobody publishes over HTTP".to_owned());
    }
    Decision::Go(target, Trust::named_by(answer.peer, targets))
}

/// A value of one argument.
fn safe(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(cut(text), VALUE).into()
}

/// Several arguments.
fn query_safe(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(cut(text), QUERY).into()
}

/// What a client says of itself may be long; nobody needs more of it than this.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_VALUE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

const MAX_VALUE: usize = 4096;

/// What cannot stand in the query of a request line. (Bytes above 127 are always encoded.)
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\'');

/// What would be read as the next argument: who names a stream must not be able to say `act=done`.
const VALUE: &AsciiSet = &QUERY.add(b'&');

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use super::*;
    use crate::{
        actors::support::targets::{Reach, Scheme},
        config::Config,
    };

    fn rule(text: &str) -> OclpRule {
        let text = format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
        let config = Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        let rules = &config.servers[0].applications[0].oclp;
        let first = [&rules.play, &rules.publish, &rules.stream, &rules.pull].into_iter().flatten().next();
        (**first.or(rules.push.first()).unwrap()).clone()
    }

    fn facts() -> SessionFacts {
        SessionFacts {
            id: 7,
            address: Some("192.0.2.9:4000".parse().unwrap()),
            host: "live.example".to_owned(),
            server_id: "srv".to_owned(),
            app: "test".to_owned(),
            name: "cam".to_owned(),
            args: "k=v&t=1".to_owned(),
            ..SessionFacts::default()
        }
    }

    fn url(text: &str, event: Event, stage: Stage, facts: &SessionFacts) -> String {
        ask(&rule(text), event, stage, &Subject::session(facts), None).url
    }

    #[test]
    fn queries_are_those_of_the_module_to_the_letter() {
        let start = |text: &str, event| url(text, event, Stage::Start, &facts());
        let asked = start("oclp_play http://h:6200/oclp;", Event::Play);
        assert_eq!(asked, "http://h:6200/oclp?call=play&act=start&domain=live.example&app=test&name=cam");
        let words = "args=a=c&b=d groupid=publish stage=start,update,done";
        let asked = url(&format!("oclp_publish http://h/x {words};"), Event::Publish, Stage::Done, &facts());
        let query = "call=publish&act=done&domain=live.example&app=test&name=cam&groupid=publish&a=c&b=d";
        assert_eq!(asked, format!("http://h/x?{query}"));
        let asked = start("oclp_pull http://h/x?key=1;", Event::Pull);
        assert_eq!(asked, "http://h/x?key=1&call=pull&act=start&domain=live.example&app=test&name=cam");
    }

    #[test]
    fn pingos_says_the_client_and_fills_in_variables() {
        let words = "args=ip=$remote_addr&s=${serverid}&q=$pargs&x=$nothing&n=$name";
        let asked = url(&format!("on_stream http://h/x {words};"), Event::Stream, Stage::Update, &facts());
        let query = "call=stream&act=update&domain=live.example&app=test&name=cam&clientid=7";
        assert_eq!(asked, format!("http://h/x?{query}&ip=192.0.2.9&s=srv&q=k=v&t=1&x=&n=cam"));
    }

    #[test]
    fn no_value_breaks_the_request_line_or_begins_another_argument() {
        let hostile = SessionFacts { name: "a b\r\nX: y&act=done#é%41".to_owned(), ..facts() };
        let asked = url("oclp_play http://h/ args=n=$name;", Event::Play, Stage::Start, &hostile);
        let name = "a%20b%0D%0AX:%20y%26act=done%23%C3%A9%41";
        let query = format!("call=play&act=start&domain=live.example&app=test&name={name}&n={name}");
        assert_eq!(asked, format!("http://h/?{query}"));
        let read = reqwest::Url::parse(&asked).unwrap();
        assert_eq!(read.as_str(), asked, "what is signed is what is sent");
        let long = SessionFacts { name: "é".repeat(100_000), ..facts() };
        assert!(url("oclp_play http://h/;", Event::Play, Stage::Start, &long).len() < 3 * MAX_VALUE + 100);
    }

    #[test]
    fn a_stream_is_told_by_its_publisher_s_host() {
        let key = StreamKey::parse("default", "live", "cam").unwrap();
        let host = |subject: Subject| (subject.facts.host, subject.is_origin.load(Ordering::Relaxed));
        assert_eq!(host(Subject::stream(&key)), ("default".to_owned(), false));
        assert_eq!(host(Subject::published(&key, &facts())), ("live.example".to_owned(), true));
        let relay = SessionFacts { is_relay: true, host: String::new(), ..facts() };
        assert_eq!(host(Subject::published(&key, &relay)), ("default".to_owned(), false));
    }

    fn answer(status: u16, location: Option<&str>) -> Result<HookAnswer, HookError> {
        let peer: Option<IpAddr> = Some("127.0.0.1".parse().unwrap());
        Ok(HookAnswer { status, location: location.map(str::to_owned), domain: None, peer })
    }

    #[test]
    fn only_2xx_admits_and_a_failure_is_judged_by_the_spelling() {
        let (x, p) = (rule("oclp_play http://h/;"), rule("on_play http://h/ stage=start;"));
        let lenient = rule("ignore_invalid_notify on; on_play http://h/ stage=start;");
        for (status, admitted) in [(200, true), (204, true), (299, true), (302, false), (403, false), (500, false)] {
            for rule in [&x, &p, &lenient] {
                assert_eq!(admits(rule, answer(status, Some("rtmp://h/a"))).is_ok(), admitted, "{status}");
            }
        }
        let failures =
            [HookError::Timeout, HookError::Refused("x".into()), HookError::Garbage("x".into()), HookError::Crowded];
        for failure in failures {
            assert!(admits(&x, Err(failure.clone())).is_ok() && admits(&lenient, Err(failure.clone())).is_ok());
            assert_eq!(admits(&p, Err(failure.clone())), Err(Forbidden::Failed(failure)));
        }
        assert!(admits(&x, Err(HookError::Ending)).is_err(), "nobody comes in while the server ends");
    }

    #[test]
    fn every_row_of_the_table_of_pulls_and_pushes() {
        let go = |location: &str| Decision::Go(Target::parse(location).unwrap(), Trust::Named(Reach::Loopback));
        let retry = |text: &str| Decision::Retry(text.to_owned());
        let rows = [
            (answer(200, None), Decision::NoNeed),
            (answer(204, Some("rtmp://h/a/b")), Decision::NoNeed),
            (answer(302, Some("rtmp://h:1936/a/b?c=d")), go("rtmp://h:1936/a/b?c=d")),
            (answer(301, Some("rtmp://h")), go("rtmp://h")),
            (answer(302, None), retry("302 without a Location")),
            (answer(302, Some("")), retry("302 without a Location")),
            (
                answer(302, Some("file:///etc/passwd")),
                retry("a Location that cannot be used: the scheme is none of rtmp, rtmps, http, https"),
            ),
            (
                answer(302, Some("/live/a")),
                retry("a Location that cannot be used: the scheme is none of rtmp, rtmps, http, https"),
            ),
            (answer(400, None), Decision::Refused(400)),
            (answer(404, Some("rtmp://h/a")), Decision::Refused(404)),
            (answer(503, None), Decision::Refused(503)),
            (answer(199, None), retry("answered with status 199")),
            (answer(600, None), retry("answered with status 600")),
            (Err(HookError::Timeout), retry("no answer in time")),
            (Err(HookError::Refused("refused".into())), retry("refused")),
            (Err(HookError::Garbage("x".into())), retry("its answer makes no sense: x")),
            (Err(HookError::TooMuch), retry("its answer is too long")),
            (Err(HookError::Crowded), retry("too many calls are waiting")),
        ];
        for event in [Event::Pull, Event::Push, Event::Meta] {
            for (answer, decision) in &rows {
                assert_eq!(decide(event, answer.clone(), &HookTargets::NoNearer), *decision, "{event:?} {answer:?}");
            }
        }
        let http = answer(302, Some("http://h:8080/core/a"));
        let Decision::Go(target, _) = decide(Event::Pull, http.clone(), &HookTargets::NoNearer) else { panic!() };
        assert_eq!((target.scheme, target.port), (Scheme::Http, 8080));
        assert!(matches!(decide(Event::Push, http, &HookTargets::NoNearer), Decision::Retry(_)));
    }

    #[test]
    fn a_domain_goes_with_the_target() {
        let Ok(found) = answer(302, Some("rtmp://192.0.2.1/a/b")) else { panic!() };
        let with = |domain: &str| {
            let answer = Ok(HookAnswer { domain: Some(domain.to_owned()), ..found.clone() });
            let Decision::Go(target, _) = decide(Event::Pull, answer, &HookTargets::Any) else { panic!() };
            target.domain
        };
        assert_eq!(with("live.example"), Some("live.example".to_owned()));
        assert_eq!(with("no host"), None);
    }

    #[test]
    fn what_is_asked_is_a_get_within_its_time() {
        let call = ask(&rule("oclp_push http://h/ timeout=7s;"), Event::Push, Stage::Start, &Subject::default(), None);
        assert_eq!((call.method(), call.timeout, call.event), ("GET", Duration::from_secs(7), "push"));
    }
}
