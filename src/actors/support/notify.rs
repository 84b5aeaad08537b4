//! What nginx-rtmp's hooks are asked and told, word for word, and what their answers mean.

use std::net::IpAddr;

use bytes::Bytes;
use md5::{Digest, Md5};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode, utf8_percent_encode};

use super::{
    facts::SessionFacts,
    hook_call::{HookAnswer, HookBody, HookCall, HookError},
};
use crate::config::{HookFormat, HookMethod, HookUrl, NotifyRules};

/// What happened, or is about to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    Connect {
        epoch_ms: u32,
    },
    Disconnect,
    Publish {
        kind: &'a str,
    },
    Play {
        start: f64,
        duration: f64,
        reset: bool,
    },
    PublishDone,
    PlayDone,
    Done,
    Update {
        publishes: bool,
        progress: Progress,
    },
    /// A playlist or manifest was written to disk.
    Playlist {
        path: &'a str,
    },
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since it began to publish or play.
    pub seconds: u64,
    /// The publisher's clock.
    pub timestamp_ms: u32,
}

/// What a hook wants to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Go,
    /// Under another name: of the application at connect, else of the stream.
    Rename(String),
    /// To or from there; `named_by` is where the hook answered from.
    Relay {
        address: String,
        named_by: Option<IpAddr>,
    },
    Refuse(String),
}

/// The call for an event.
pub fn call(rules: &NotifyRules, url: &HookUrl, event: &Event<'_>, facts: &SessionFacts) -> HookCall {
    let (pairs, args) = arguments(event, facts);
    let form = || {
        let mut text = String::new();
        for (name, value) in &pairs {
            let joint = if text.is_empty() { "" } else { "&" };
            text.extend([joint, name, "="]);
            text.extend(percent_encode(value.text().as_bytes(), ESCAPED));
        }
        if !args.is_empty() {
            text.extend(["&", args]);
        }
        text
    };
    let (url, body) = match (rules.format, rules.method) {
        (HookFormat::Json, _) => {
            let body = HookBody { content_type: "application/json", bytes: json(&pairs, args) };
            (url.as_str().to_owned(), Some(body))
        }
        (HookFormat::Form, HookMethod::Post) => {
            let body = HookBody { content_type: "application/x-www-form-urlencoded", bytes: Bytes::from(form()) };
            (url.as_str().to_owned(), Some(body))
        }
        (HookFormat::Form, HookMethod::Get) => {
            let joint = if url.as_str().contains('?') { '&' } else { '?' };
            // What the client sent of a query is passed on as it is, unless it would end the request line.
            let query = utf8_percent_encode(&form(), NOT_IN_A_LINE).to_string();
            (format!("{}{joint}{query}", url.as_str()), None)
        }
    };
    HookCall { event: event.name(), url, body, timeout: rules.timeout, secret: rules.secret.clone() }
}

/// What the answer to a question means. Only the first digit of a status counts.
pub fn decide(call: &HookCall, answer: Result<HookAnswer, HookError>) -> Decision {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Decision::Refuse(format!("{} failed: {error}", call.event)),
    };
    match (answer.status / 100, answer.location.filter(|text| !text.is_empty())) {
        (2, _) | (3, None) => Decision::Go,
        (3, Some(address)) if is_rtmp(&address) => Decision::Relay { address, named_by: answer.peer },
        (3, Some(location)) => Decision::Rename(without_origin(&location, call.endpoint()).to_owned()),
        _ => Decision::Refuse(format!("{} was refused by its hook: {}", call.event, answer.status)),
    }
}

/// Why a session must end after an update. None: it goes on.
pub fn ends(strict: bool, answer: &Result<HookAnswer, HookError>) -> Option<String> {
    match answer {
        // Our own trouble is no word of the hook's.
        Err(HookError::Crowded | HookError::Ending) => None,
        Err(error) => Some(format!("update failed: {error}")),
        Ok(answer) => {
            let goes_on = match answer.status / 100 {
                2 => true,
                3 => !strict,
                _ => false,
            };
            (!goes_on).then(|| format!("an update was refused by its hook: {}", answer.status))
        }
    }
}

/// What a stream is called here that is sent to an address (`notify_relay_redirect`).
pub fn name_of_address(address: &str) -> String {
    Md5::digest(address.as_bytes()).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl Event<'_> {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Disconnect => "disconnect",
            Self::Publish { .. } => "publish",
            Self::Play { .. } => "play",
            Self::PublishDone => "publish_done",
            Self::PlayDone => "play_done",
            Self::Done => "done",
            Self::Update { publishes: true, .. } => "update_publish",
            Self::Update { publishes: false, .. } => "update_play",
            Self::Playlist { .. } => "playlist",
        }
    }
}

/// A value: text, or a number that JSON may write as one.
#[derive(Clone, Debug, PartialEq)]
enum Said<'a> {
    Text(&'a str),
    Owned(String),
    Number(u64),
}

impl Said<'_> {
    fn text(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Text(text) => (*text).into(),
            Self::Owned(text) => text.as_str().into(),
            Self::Number(number) => number.to_string().into(),
        }
    }
}

/// The arguments in their order, and the client's own query.
fn arguments<'a>(event: &Event<'a>, facts: &'a SessionFacts) -> (Vec<(&'static str, Said<'a>)>, &'a str) {
    use Said::{Number, Owned, Text};
    let address = facts.address.map_or_else(|| "unix:".to_owned(), |address| address.ip().to_canonical().to_string());
    let mut pairs = vec![
        ("app", Text(&facts.app)),
        ("flashver", Text(&facts.flash_ver)),
        ("swfurl", Text(&facts.swf_url)),
        ("tcurl", Text(&facts.tc_url)),
        ("pageurl", Text(&facts.page_url)),
        ("addr", Owned(address)),
    ];
    let call = ("call", Text(event.name()));
    let name = ("name", Text(facts.name.as_str()));
    // Before there is a session there is no number of it.
    if !matches!(event, Event::Connect { .. }) {
        pairs.push(("clientid", Number(facts.id)));
    }
    let is_named = !facts.name.is_empty();
    match *event {
        Event::Connect { epoch_ms } => pairs.extend([("epoch", Number(epoch_ms.into())), call]),
        Event::Disconnect => pairs.extend([call, ("app", Text(&facts.app))]),
        Event::Publish { kind } => pairs.extend([call, name, ("type", Text(kind))]),
        Event::Play { start, duration, reset } => pairs.extend([
            call,
            name,
            ("start", Number(unsigned(start).into())),
            ("duration", Number(unsigned(duration).into())),
            ("reset", Number(reset.into())),
        ]),
        Event::PublishDone | Event::PlayDone | Event::Done => {
            pairs.push(call);
            pairs.extend(is_named.then_some(name));
        }
        Event::Update { progress, .. } => {
            pairs.extend([
                call,
                ("time", Number(progress.seconds)),
                ("timestamp", Number(progress.timestamp_ms.into())),
            ]);
            pairs.extend(is_named.then_some(name));
        }
        Event::Playlist { path } => pairs.extend([call, name, ("path", Text(path))]),
    }
    let of_connection = matches!(event, Event::Connect { .. } | Event::Disconnect);
    (pairs, if of_connection { &facts.connect_args } else { &facts.args })
}

/// nginx keeps these as unsigned numbers: -2000 comes out as 4294965296.
fn unsigned(number: f64) -> u32 {
    number as i64 as u32
}

fn json(pairs: &[(&'static str, Said<'_>)], args: &str) -> Bytes {
    let mut object = serde_json::Map::new();
    for (name, value) in pairs {
        let value = match value {
            Said::Number(number) => (*number).into(),
            text => text.text().into_owned().into(),
        };
        object.insert((*name).to_owned(), value);
    }
    // What the client wrote stays apart: it must not pass for what we say.
    object.insert("args".to_owned(), args.into());
    serde_json::Value::Object(object).to_string().into()
}

fn is_rtmp(location: &str) -> bool {
    location.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("rtmp://"))
        || location.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("rtmps://"))
}

/// Frameworks that make every `Location` absolute put the hook's own address before a name.
fn without_origin<'a>(location: &'a str, endpoint: &str) -> &'a str {
    match location.strip_prefix(endpoint) {
        Some(rest) => rest.strip_prefix('/').filter(|name| !name.is_empty()).unwrap_or(location),
        None => location,
    }
}

/// What nginx escapes in an argument (1.22's `NGX_ESCAPE_ARGS`, read off its requests).
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'+')
    .add(b';')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// What does not stand in a request line.
const NOT_IN_A_LINE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'\'').add(b'<').add(b'>');

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn url() -> HookUrl {
        HookUrl::parse("http://h:8080/on?q=1").expect("it is one")
    }

    fn facts() -> SessionFacts {
        SessionFacts {
            id: 7,
            address: Some(([192, 0, 2, 1], 5000).into()),
            app: "live".into(),
            name: "ca m".into(),
            args: "key=a%20b&c=#".into(),
            ..SessionFacts::default()
        }
    }

    fn asked(rules: &NotifyRules) -> HookCall {
        call(rules, &url(), &Event::Publish { kind: "live" }, &facts())
    }

    #[test]
    fn a_get_joins_the_query_that_is_there_and_fits_a_request_line() {
        let call = asked(&NotifyRules { method: HookMethod::Get, ..NotifyRules::default() });
        assert_eq!(
            call.url,
            "http://h:8080/on?q=1&app=live&flashver=&swfurl=&tcurl=&pageurl=&addr=192.0.2.1&clientid=7\
             &call=publish&name=ca%20m&type=live&key=a%20b&c=%23"
        );
        assert_eq!(call.body, None);
    }

    #[test]
    fn in_json_what_the_client_wrote_stays_apart() {
        let call = asked(&NotifyRules { format: HookFormat::Json, ..NotifyRules::default() });
        let body = call.body.expect("it is a POST");
        let read: serde_json::Value = serde_json::from_slice(&body.bytes).expect("it is JSON");
        assert_eq!((read["clientid"].as_u64(), read["args"].as_str()), (Some(7), Some("key=a%20b&c=#")));
    }

    #[test]
    fn the_first_digit_and_the_location_decide() {
        let call = asked(&NotifyRules::default());
        let of = |status: u16, location: &str| {
            let location = Some(location.to_owned()).filter(|text| !text.is_empty());
            decide(&call, Ok(HookAnswer { status, location, ..HookAnswer::default() }))
        };
        for (status, location) in [(200, ""), (201, "ignored"), (299, ""), (302, ""), (304, "")] {
            assert_eq!(of(status, location), Decision::Go, "{status} {location}");
        }
        for status in [100, 400, 403, 404, 500, 503, 999] {
            assert!(matches!(of(status, "x"), Decision::Refuse(_)), "{status}");
        }
        assert_eq!(of(301, "other"), Decision::Rename("other".into()));
        assert_eq!(of(302, "http://h/user"), Decision::Rename("http://h/user".into()), "as nginx takes it");
        assert_eq!(of(302, "http://h:8080/user"), Decision::Rename("user".into()), "a framework made it absolute");
        for address in ["rtmp://a/b/c", "RTMPS://a/b"] {
            assert_eq!(of(302, address), Decision::Relay { address: address.into(), named_by: None });
        }
        assert!(matches!(decide(&call, Err(HookError::Timeout)), Decision::Refuse(_)));
    }

    #[test]
    fn an_update_ends_a_session_as_the_rules_say() {
        let ends_at = |strict, status| ends(strict, &Ok(HookAnswer { status, ..HookAnswer::default() })).is_some();
        let lenient = [200, 302, 403, 500].map(|status| ends_at(false, status));
        let strict = [200, 302, 403, 500].map(|status| ends_at(true, status));
        assert_eq!((lenient, strict), ([false, false, true, true], [false, true, true, true]));
        assert!(ends(false, &Err(HookError::Timeout)).is_some());
        assert!(ends(true, &Err(HookError::Crowded)).is_none(), "that is our own trouble");
    }

    #[test]
    fn an_address_becomes_a_name_as_nginx_makes_it() {
        assert_eq!(name_of_address("rtmp://127.0.0.1/live/a").len(), 32);
        assert_eq!(name_of_address(""), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn numbers_are_unsigned_as_nginx_prints_them() {
        let event = Event::Play { start: -2000.0, duration: -1.0, reset: true };
        let call = call(&NotifyRules::default(), &url(), &event, &facts());
        let body = call.body.map(|body| String::from_utf8_lossy(&body.bytes).into_owned()).unwrap_or_default();
        assert!(body.contains("&start=4294965296&duration=4294967295&reset=1&key="), "{body}");
        assert_eq!(call.timeout, Duration::from_secs(10));
    }
}
