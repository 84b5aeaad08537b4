//! Where a relay goes, what it says there, and when it tries again: decided here, done by `relay.rs` and `relays.rs`.

use std::{fmt, time::Duration};

use super::{
    facts::SessionFacts,
    link::ExitReason,
    relay_status::Fate,
    restart::{RestartPolicy, Restarts},
    targets::{Target, TargetError},
};
use crate::{
    config::{
        relays::RelayRule,
        template::{Part, Template},
    },
    media::key::StreamKey,
    protocol::rtmp::url::RtmpUrl,
};

/// Which way the media go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Push,
    Pull,
}

/// One far end, and what is said to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    pub target: Target,
    pub app: String,
    /// With its query.
    pub stream: String,
    pub tc_url: String,
    pub page_url: String,
    pub swf_url: String,
    /// Empty: the usual one.
    pub flash_ver: String,
    pub referer: String,
    pub user_agent: String,
    /// As RTMP's play counts them.
    pub start: f64,
    pub duration: Option<f64>,
}

/// Why a rule makes no target for this stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{url}\" is no target: {error}")]
pub struct BadLeg {
    url: String,
    error: TargetError,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Leg {
    /// To a target that a hook or a scheduler named. What it leaves out is the local stream's.
    pub fn to(target: Target, key: &StreamKey) -> Self {
        let target = target.or_local(&key.app, &key.name, "");
        let stream = join(&target.name, &target.args);
        Self::plain(target.app.clone(), stream, target)
    }

    /// The far ends of a rule for this stream, in the order in which they are tried.
    pub fn of(rule: &RelayRule, key: &StreamKey, facts: &SessionFacts) -> Result<Vec<Self>, BadLeg> {
        rule.urls.iter().map(|url| Self::of_url(rule, url, key, facts)).collect()
    }

    fn of_url(rule: &RelayRule, url: &Template, key: &StreamKey, facts: &SessionFacts) -> Result<Self, BadLeg> {
        let fill = |template: &Template| filled(template, key, facts);
        let word = |template: &Option<Template>| template.as_ref().map(&fill);
        let words = &rule.words;
        let url = fill(url);
        let target = Target::parse(&url).map_err(|error| BadLeg { url, error })?;
        let target = target.for_domain(word(&words.domain).as_deref());
        // Where no name follows, the query stands behind the app, as the family reads it.
        let (app_args, name_args) = match target.name.is_empty() {
            true => (target.args.as_str(), ""),
            false => ("", target.args.as_str()),
        };
        let local = |text: &str, local: &str| if text.is_empty() { local.to_owned() } else { text.to_owned() };
        let app = word(&words.app).unwrap_or_else(|| join(&local(&target.app, &key.app), app_args));
        let stream = word(&words.play_path).unwrap_or_else(|| join(&local(&target.name, &key.name), name_args));
        let stream = match word(&words.args).filter(|args| !args.is_empty()) {
            Some(args) if stream.contains('?') => format!("{stream}&{args}"),
            Some(args) => format!("{stream}?{args}"),
            None => stream,
        };
        let mut leg = Self::plain(app, stream, target);
        if let Some(tc_url) = word(&words.tc_url) {
            leg.tc_url = tc_url;
        }
        leg.page_url = word(&words.page_url).unwrap_or_default();
        leg.swf_url = word(&words.swf_url).unwrap_or_default();
        leg.flash_ver = word(&words.flash_ver).unwrap_or_default();
        leg.referer = word(&words.referer).unwrap_or_default();
        leg.user_agent = word(&words.user_agent).unwrap_or_default();
        if words.start_ms.is_some() && !words.live {
            let start = words.start_ms.unwrap_or_default();
            leg.start = start as f64;
            leg.duration = words.stop_ms.map(|stop| (stop - start).max(0) as f64);
        }
        Ok(leg)
    }

    fn plain(app: String, stream: String, target: Target) -> Self {
        let mut said = target.clone();
        if let Some(domain) = &target.domain {
            domain.clone_into(&mut said.host);
        }
        Self {
            tc_url: format!("{}://{}/{app}", said.scheme.name(), said.authority()),
            app,
            stream,
            page_url: String::new(),
            swf_url: String::new(),
            flash_ver: String::new(),
            referer: String::new(),
            user_agent: String::new(),
            start: LIVE,
            duration: None,
            target,
        }
    }

    /// Where the far end sends us: the `tcUrl` of a ReconnectRequest, or the `Location` of a redirection over HTTP.
    pub fn moved(&self, tc_url: &str) -> Result<Self, TargetError> {
        if self.target.scheme.is_http() {
            return self.redirected(tc_url);
        }
        let (name, query) = self.stream.split_once('?').unwrap_or((&self.stream, ""));
        let here = RtmpUrl {
            tls: self.target.scheme.is_tls(),
            host: self.target.host.clone(),
            port: self.target.port,
            app: self.app.clone(),
            name: name.to_owned(),
            query: query.to_owned(),
        };
        let there = here.reconnect(tc_url)?;
        let target = Target::parse(&there.tc_url())?;
        Ok(Self { start: self.start, duration: self.duration, ..Self::plain(there.app, self.stream.clone(), target) })
    }

    /// A whole address, or one beside ours (RFC 3986, 5.2). It names the stream anew, as ours may not be its name there.
    fn redirected(&self, location: &str) -> Result<Self, TargetError> {
        let here = &self.target;
        let origin = format!("{}://{}", here.scheme.name(), here.authority());
        let is_absolute = location.split_once("://").is_some_and(|(scheme, _)| !scheme.contains(['/', '?', '#']));
        let folder = || {
            let path = join_path(&self.app, &self.stream);
            path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
        };
        let whole = match location {
            _ if is_absolute => location.to_owned(),
            _ if location.starts_with("//") => format!("{}:{location}", here.scheme.name()),
            _ if location.starts_with('/') => format!("{origin}{location}"),
            _ => format!("{origin}/{}/{location}", folder()),
        };
        let there = Target::parse(&whole)?;
        let is_here = (&there.host, there.port) == (&here.host, here.port);
        let domain = here.domain.clone().filter(|_| is_here);
        let there = Target { domain, ..there }.or_local(&self.app, &self.stream, "");
        let stream = join(&there.name, &there.args);
        Ok(Self {
            referer: self.referer.clone(),
            user_agent: self.user_agent.clone(),
            ..Self::plain(there.app.clone(), stream, there)
        })
    }

    /// The host that is meant there: whose certificate is asked for.
    pub fn server_name(&self) -> &str {
        self.target.domain.as_deref().unwrap_or(&self.target.host)
    }

    /// Whom a log line and a hook are told of: no scheme, and no query, which may hold a secret.
    pub fn far_end(&self) -> String {
        let name = self.stream.split('?').next().unwrap_or_default();
        let app = self.app.split('?').next().unwrap_or_default();
        format!("{}/{app}/{name}", self.target.authority())
    }
}

impl Leg {
    /// As whoever looks on is shown it: where a push has a name of its own there, that is mostly the key of a platform.
    pub fn shown(&self, direction: Direction, key: &StreamKey) -> String {
        let name = self.stream.split('?').next().unwrap_or_default();
        if direction == Direction::Pull || name == &*key.name {
            return self.to_string();
        }
        let app = self.app.split('?').next().unwrap_or_default();
        format!("{}://{}/{app}/{HIDDEN}", self.target.scheme.name(), self.target.authority())
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.target.scheme.name(), self.far_end())
    }
}

/// What stands for a name that may be a key.
const HIDDEN: &str = "***";

/// When one relay is tried again, after all that has happened to it.
#[derive(Debug, Default)]
pub struct Patience {
    restarts: Restarts,
    names_in_use: u32,
    moves: u32,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, after this long.
    After(Duration),
    /// As above, and it was refused in a way that will hardly mend: somebody should be told.
    Refused(Duration),
    /// A bug ended it too often.
    GivenUp,
}

impl Patience {
    /// `ran_for`: how long media flowed; `jitter` from 0 to 1.
    pub fn after(
        &mut self,
        exit: &ExitReason,
        fate: &Fate,
        ran_for: Duration,
        rule: (Duration, Duration),
        now: Duration,
        jitter: f64,
    ) -> Next {
        let (first, ceiling) = rule;
        if !ran_for.is_zero() {
            self.names_in_use = 0;
            self.moves = if ran_for >= SETTLED { 0 } else { self.moves };
        }
        if matches!(fate, Fate::Moved(_)) && *exit != ExitReason::Panicked && self.moves < MAX_MOVES {
            self.moves += 1;
            return Next::After(Duration::ZERO);
        }
        self.names_in_use += u32::from(*fate == Fate::NameInUse);
        let is_refused = *fate == Fate::Refused || self.names_in_use > NAMES_IN_USE;
        let far = ceiling.saturating_mul(REFUSED_FACTOR);
        let policy = RestartPolicy {
            first: if is_refused { far } else { first },
            longest: if is_refused { far } else { ceiling },
            settled: SETTLED,
            ..RestartPolicy::default()
        };
        // Whatever a relay says of its end: it is the supervisor who knows whether it is still wanted.
        let failed = ExitReason::Failed(String::new());
        let exit = if *exit == ExitReason::Panicked { exit } else { &failed };
        match self.restarts.after(exit, ran_for, &policy, now, jitter) {
            Some(wait) if is_refused => Next::Refused(wait),
            Some(wait) => Next::After(wait),
            None => Next::GivenUp,
        }
    }

    /// Attempts since it last ran well.
    pub fn attempt(&self) -> u32 {
        self.restarts.attempt()
    }
}

fn join(name: &str, args: &str) -> String {
    if args.is_empty() { name.to_owned() } else { format!("{name}?{args}") }
}

/// App and name as a path, without their queries.
fn join_path(app: &str, stream: &str) -> String {
    let bare = |text: &str| text.split('?').next().unwrap_or_default().to_owned();
    bare(app) + "/" + &bare(stream)
}

/// The text with what is known of a stream and of who publishes it.
fn filled(template: &Template, key: &StreamKey, facts: &SessionFacts) -> String {
    let mut text = String::new();
    for part in template.parts() {
        let value = match part {
            Part::Text(plain) => {
                text.push_str(plain);
                continue;
            }
            Part::Variable(name) => variable(name, key, facts),
            Part::Capture(_) => String::new(),
        };
        // What a client said may not end the word it stands in.
        text.extend(value.chars().filter(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '#' | '\\')));
    }
    text
}

fn variable(name: &str, key: &StreamKey, facts: &SessionFacts) -> String {
    match name {
        "app" => key.app.to_string(),
        "name" => key.name.to_string(),
        "serverid" => key.vhost.to_string(),
        "args" => facts.args.clone(),
        "host" => facts.host.clone(),
        "flashver" => facts.flash_ver.clone(),
        "swfurl" => facts.swf_url.clone(),
        "tcurl" => facts.tc_url.clone(),
        "pageurl" => facts.page_url.clone(),
        "clientid" | "connection" if facts.id > 0 => facts.id.to_string(),
        "scheme" => facts.protocol.to_owned(),
        "addr" | "remote_addr" => facts.address.map(|address| address.ip().to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Only what is live, as ffmpeg, librtmp and nginx say it.
const LIVE: f64 = -1000.0;

/// A relay that has run for so long has worked.
const SETTLED: Duration = Duration::from_secs(5);

/// How often a name may be in use before it is somebody else's: our own last session may not have been missed yet.
const NAMES_IN_USE: u32 = 5;

/// So many times the longest wait, for what will hardly mend.
const REFUSED_FACTOR: u32 = 10;

/// How often a far end may send us elsewhere before something has worked.
const MAX_MOVES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn leg(word: &str) -> Result<(String, String, String), String> {
        let text = format!("rtmp {{ server {{ application live {{ live on; pull {word}; }} }} }}");
        let config = Config::parse("x.conf", text.as_bytes()).map_err(|error| error.to_string())?;
        let key = StreamKey::parse("", "live", "cam").map_err(|error| error.to_string())?;
        let facts = SessionFacts { args: "k=v&x= #y".to_owned(), ..SessionFacts::default() };
        let rule = config.servers[0].applications[0].relays.pulls.first().cloned().unwrap_or_default();
        let legs = Leg::of(&rule, &key, &facts).map_err(|error| error.to_string())?;
        let leg = legs.into_iter().next().ok_or("no leg")?;
        Ok((leg.tc_url, leg.app, leg.stream))
    }

    #[test]
    fn what_a_rule_leaves_out_is_the_local_stream_s() {
        let rows = [
            ("192.0.2.1", "rtmp://192.0.2.1/live", "live", "cam"),
            ("rtmp://h/core", "rtmp://h/core", "core", "cam"),
            ("rtmp://h:1936/core/x/y?k=v", "rtmp://h:1936/core", "core", "x/y?k=v"),
            ("rtmp://h/core?k=v", "rtmp://h/core?k=v", "core?k=v", "cam"),
            ("rtmp://h/core/x app=a playPath=p", "rtmp://h/a", "a", "p"),
            ("rtmp://h/core tcUrl=rtmp://t/u", "rtmp://t/u", "core", "cam"),
            ("rtmp://192.0.2.1/core domain=d.example", "rtmp://d.example/core", "core", "cam"),
            ("rtmp://192.0.2.1:1936/core serverName=d", "rtmp://d:1936/core", "core", "cam"),
            ("rtmp://h/core pargs=a=b", "rtmp://h/core", "core", "cam?a=b"),
            ("rtmp://h/core/x?c=d pargs=a=b", "rtmp://h/core", "core", "x?c=d&a=b"),
            ("rtmp://h/$app-x/$name?$args", "rtmp://h/live-x", "live-x", "cam?k=v&x=y"),
            ("rtmp://$name.example/${app}", "rtmp://cam.example/live", "live", "cam"),
            ("rtmps://h", "rtmps://h/live", "live", "cam"),
        ];
        for (word, tc_url, app, stream) in rows {
            assert_eq!(leg(word), Ok((tc_url.to_owned(), app.to_owned(), stream.to_owned())), "{word}");
        }
        assert!(leg("rtmp://$pageurl/live").is_err(), "an empty host is none");
    }

    #[test]
    fn a_far_end_may_send_us_elsewhere_with_the_same_stream() {
        let key = StreamKey::parse("", "live", "cam").expect("a name");
        let leg = Leg::to(Target::parse("rtmp://h/core?k=v").expect("a target"), &key);
        let moved = leg.moved("rtmp://other:1936/edge").expect("a URL");
        assert_eq!((moved.tc_url.as_str(), moved.stream.as_str()), ("rtmp://other:1936/edge", "cam?k=v"));
        assert_eq!(leg.moved("/edge").expect("a path").tc_url, "rtmp://h/edge");
        assert!(leg.moved("file:///etc/passwd").is_err());
    }

    #[test]
    fn a_redirection_over_http_names_host_and_stream_anew_and_keeps_who_asks() {
        let key = StreamKey::parse("", "live", "cam").expect("a name");
        let target = Target::parse("http://h:8080/live/a/cam.flv?k=v").expect("a target").for_domain(Some("d.example"));
        let leg = Leg { user_agent: "me".to_owned(), ..Leg::to(target, &key) };
        let rows = [
            ("https://other/x/y?z", Some(("https://other", "x", "y?z", None))),
            ("rtmp://other/x/y", Some(("rtmp://other", "x", "y", None))),
            ("http://other/x", Some(("http://other", "x", "a/cam.flv?k=v", None))),
            ("//other:81/x/y", Some(("http://other:81", "x", "y", None))),
            ("/x/y?u=http://z/", Some(("http://h:8080", "x", "y?u=http://z/", Some("d.example")))),
            ("b.flv", Some(("http://h:8080", "live", "a/b.flv", Some("d.example")))),
            ("file:///etc/passwd", None),
            ("http://u@other/x/y", None),
            ("/x\r\nHost: y", None),
        ];
        for (location, expected) in rows {
            let moved = leg.moved(location).ok();
            assert!(moved.iter().all(|leg| leg.user_agent == "me"));
            let moved = moved.map(|leg| {
                let origin = format!("{}://{}", leg.target.scheme.name(), leg.target.authority());
                (origin, leg.app, leg.stream, leg.target.domain)
            });
            let expected = expected.map(|(origin, app, stream, domain)| {
                (origin.to_owned(), app.to_owned(), stream.to_owned(), domain.map(str::to_owned))
            });
            assert_eq!(moved, expected, "{location}");
        }
    }

    const RULE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

    fn waits(rows: &[(Fate, u64)]) -> Vec<Next> {
        let mut patience = Patience::default();
        let failed = ExitReason::Failed(String::new());
        let mut after = |(fate, ran): &(Fate, u64)| {
            patience.after(&failed, fate, Duration::from_secs(*ran), RULE, Duration::ZERO, 1.0)
        };
        rows.iter().map(&mut after).collect()
    }

    fn ms(ms: u64) -> Next {
        Next::After(Duration::from_millis(ms))
    }

    #[test]
    fn a_far_end_that_is_down_is_tried_ever_more_slowly_up_to_the_ceiling_and_for_ever() {
        let down = vec![(Fate::Retry, 0); 1000];
        let waits = waits(&down);
        assert_eq!(waits[..8], [50, 100, 200, 400, 800, 1600, 3000, 3000].map(ms));
        assert!(waits[8..].iter().all(|wait| *wait == ms(3000)));
    }

    #[test]
    fn after_a_session_that_worked_it_is_tried_at_once() {
        assert_eq!(waits(&[(Fate::Retry, 0), (Fate::Retry, 0), (Fate::Retry, 60)]), [50, 100, 50].map(ms));
    }

    #[test]
    fn what_will_not_mend_waits_ten_times_as_long_and_a_name_in_use_only_after_a_while() {
        let far = Next::Refused(Duration::from_secs(30));
        assert_eq!(waits(&[(Fate::Refused, 0), (Fate::Retry, 0)]), [far.clone(), ms(100)]);
        let in_use = vec![(Fate::NameInUse, 0); 7];
        assert_eq!(waits(&in_use)[5..], [far.clone(), far]);
    }

    #[test]
    fn who_is_sent_elsewhere_goes_at_once_and_not_in_a_circle() {
        let moved = vec![(Fate::Moved("/x".to_owned()), 0); 5];
        assert_eq!(waits(&moved), [0, 0, 0, 50, 100].map(ms));
    }

    #[test]
    fn a_bug_is_given_up() {
        let mut patience = Patience::default();
        let mut after =
            || patience.after(&ExitReason::Panicked, &Fate::Retry, Duration::ZERO, RULE, Duration::ZERO, 1.0);
        assert!((0..3).all(|_| matches!(after(), Next::After(_))));
        assert_eq!(after(), Next::GivenUp);
    }
}
