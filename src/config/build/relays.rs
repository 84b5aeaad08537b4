//! The directives of relays to [`Relays`].

use std::sync::Arc;

use super::super::diagnose::{Problem, nearest};
use super::super::relays::{RelayRule, RelayTimes, Relays, VARIABLES};
use super::super::syntax::{Directive, Word};
use super::super::template::{Part, Template};
use super::super::values;
use super::super::{Listen, ListenAddress};
use super::{Builder, Scope};

impl Builder {
    /// `listens`: where the server of this application listens, and its name.
    pub(super) fn relays(&mut self, app: &str, scope: &Scope<'_>, listens: &[Listen]) -> Result<Relays, Problem> {
        let rules =
            |name| scope.own(name).map(|directive| rule(directive).map(Arc::new)).collect::<Result<Vec<_>, _>>();
        let mut pulls = rules("pull")?;
        pulls.extend(static_pulls(app, scope, listens)?);
        let ceiling = |names: &[&str], usual| {
            let written = names.iter().find_map(|name| scope.written(name));
            written.and_then(values::time).unwrap_or(usual)
        };
        let usual = Relays::default();
        Ok(Relays {
            pushes: rules("push")?,
            pulls,
            first_retry: scope.time("failed_reconnect"),
            push_ceiling: ceiling(&["push_reconnect", "relay_reconnect"], usual.push_ceiling),
            pull_ceiling: ceiling(&["pull_reconnect", "relay_reconnect"], usual.pull_ceiling),
            static_pull_ceiling: ceiling(&["pull_reconnect", "relay_reconnect"], usual.static_pull_ceiling),
            buffer: scope.time("relay_buffer"),
            pull_idle: scope.time("pull_idle"),
            pull_grace: scope.time("pull_grace"),
            limits: RelayTimes {
                connect: scope.time("relay_connect_timeout"),
                ready: scope.time("relay_ready_timeout"),
                first_frame: scope.time("pull_first_frame_timeout"),
                first_keyframe: scope.time("pull_first_keyframe_timeout"),
                pull_silent: scope.time("pull_timeout"),
                push_stuck: scope.time("push_timeout"),
            },
        })
    }
}

/// X's `static_pull`: the stream keeps the name it has in the URL, and the application does so too where it is written
/// outside of one.
fn static_pulls(app: &str, scope: &Scope<'_>, listens: &[Listen]) -> Result<Vec<Arc<RelayRule>>, Problem> {
    let port = u16::try_from(scope.number("static_pull_port")).unwrap_or_default();
    let listens_there = listens.iter().any(|listen| match &listen.address {
        ListenAddress::Tcp(address) => address.port() == port,
        ListenAddress::Unix(_) => false,
    });
    let mut pulls = Vec::new();
    for (depth, block) in scope.blocks.iter().enumerate() {
        for directive in block.iter().filter(|directive| directive.name.text == "static_pull") {
            let rule = rule(directive)?;
            let is_here = depth == 0
                || directive.args.first().is_some_and(|word| path_of(&word.text).0 == app)
                    && (depth == 1 || listens_there);
            if is_here {
                pulls.push(Arc::new(rule));
            }
        }
    }
    Ok(pulls)
}

/// One `push`, `pull` or `static_pull`. X and P take more URLs, which are told from words by their punctuation.
pub(super) fn rule(directive: &Directive) -> Result<RelayRule, Problem> {
    let kind = directive.name.text.as_str();
    let mut rule = RelayRule { is_static: kind == "static_pull", ..RelayRule::default() };
    let mut static_word = None;
    for (index, word) in directive.args.iter().enumerate() {
        let (key, value) = word.text.split_once('=').unwrap_or((&word.text, "1"));
        if index == 0 || !key.chars().all(|c| c.is_ascii_alphabetic() || c == '_') {
            rule.urls.push(url(kind, directive, word)?);
            continue;
        }
        let template = || template(directive, word, value).map(Some);
        let number = || {
            values::number(value).and_then(|number| i64::try_from(number).ok()).map(Some).ok_or_else(|| {
                Problem::at_word(
                    format!("\"{kind}\" directive invalid value \"{value}\" of \"{key}\""),
                    directive,
                    word,
                )
                .help("it takes a number of milliseconds")
            })
        };
        let is_on = !matches!(value, "0" | "off");
        let words = &mut rule.words;
        match key.to_ascii_lowercase().as_str() {
            "app" => words.app = template()?,
            "name" => rule.name = Some(value.to_owned()),
            "tcurl" => words.tc_url = template()?,
            "pageurl" => words.page_url = template()?,
            "swfurl" => words.swf_url = template()?,
            "flashver" => words.flash_ver = template()?,
            "playpath" => words.play_path = template()?,
            "live" => words.live = is_on,
            "start" => words.start_ms = number()?,
            "stop" => words.stop_ms = number()?,
            "static" => {
                static_word = is_on.then_some(word);
                rule.is_static |= is_on;
            }
            // W's word for what X and P call domain.
            "servername" | "domain" => words.domain = template()?,
            "pargs" => words.args = template()?,
            "referer" => words.referer = template()?,
            "user_agent" => words.user_agent = template()?,
            unknown => {
                let meant = nearest(unknown, KEYS.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
                let all = format!("it is one of: {}", KEYS.join(", "));
                // The spelling is the module's.
                return Err(Problem::at_word(format!("\"{kind}\" directive unsuppored parameter"), directive, word)
                    .help(meant.unwrap_or(all)));
            }
        }
    }
    match static_word {
        Some(word) if kind == "push" => return Err(Problem::at_word("static push is not allowed", directive, word)),
        Some(word) if rule.name.is_none() => {
            let message = "stream name missing in static pull declaration";
            return Err(Problem::at_word(message, directive, word).help("add `name=STREAM`"));
        }
        _ => {}
    }
    if kind == "static_pull" && rule.name.is_none() {
        let name = directive.args.first().map(|word| path_of(&word.text).1.to_owned()).unwrap_or_default();
        if name.is_empty() {
            let message = "stream name missing in static pull declaration";
            return Err(Problem::at(message, directive).help("the URL ends in its name: rtmp://host/app/name"));
        }
        rule.name = Some(name);
    }
    Ok(rule)
}

/// A URL with its scheme in front. What variables make of it is seen when they are known.
fn url(kind: &str, directive: &Directive, word: &Word) -> Result<Template, Problem> {
    let text = word.text.as_str();
    let invalid =
        |why: &str| Problem::at_word(format!("{why} in url \"{text}\" of \"{kind}\" directive"), directive, word);
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => (scheme.to_ascii_lowercase(), rest),
        _ => ("rtmp".to_owned(), text),
    };
    match scheme.as_str() {
        "rtmp" | "rtmps" => {}
        "http" | "https" if kind != "push" => {}
        "http" | "https" => {
            return Err(
                invalid("invalid scheme").help("a push goes to rtmp:// or rtmps://; only a pull can be HTTP-FLV")
            );
        }
        _ => {
            return Err(
                invalid("invalid scheme").help("it begins with rtmp://, rtmps:// or, for a pull, http:// or https://")
            );
        }
    }
    let template = template(directive, word, rest)?.after(&format!("{scheme}://"));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(invalid("user names are not supported").help("put what the server wants to know into the query"));
    }
    if authority.contains('$') {
        return Ok(template);
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
    if host.is_empty() {
        return Err(invalid("no host"));
    }
    if !host.bytes().all(is_host) {
        return Err(invalid("invalid host"));
    }
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(invalid("invalid port"));
    }
    Ok(template)
}

fn template(directive: &Directive, word: &Word, text: &str) -> Result<Template, Problem> {
    let problem = |message: String| Problem::at_word(message, directive, word);
    let template = Template::parse(text).map_err(problem)?;
    for part in template.parts() {
        let name = match part {
            Part::Text(_) => continue,
            Part::Variable(name) if VARIABLES.contains(&name.as_str()) => continue,
            Part::Variable(name) => name.clone(),
            Part::Capture(number) => number.to_string(),
        };
        let meant = nearest(&name, VARIABLES.iter().copied()).map(|meant| format!("did you mean `${meant}`?"));
        let all = format!("it is one of: ${}", VARIABLES.join(", $"));
        return Err(problem(format!("unknown \"{name}\" variable")).help(meant.unwrap_or(all)));
    }
    Ok(template)
}

/// App and name in a URL.
fn path_of(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('?').next().unwrap_or_default();
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    path.split_once('/').unwrap_or((path, ""))
}

/// Of A, S and W, then of X and P.
const KEYS: &[&str] = &[
    "app",
    "name",
    "tcurl",
    "pageurl",
    "swfurl",
    "flashver",
    "playpath",
    "live",
    "start",
    "stop",
    "static",
    "servername",
    "domain",
    "pargs",
    "referer",
    "user_agent",
];
