//! The directives of oclp and of the scheduler to [`OclpRules`] and [`Scheduler`].

use std::sync::Arc;
use std::time::Duration;

use super::super::access::parse_network;
use super::super::diagnose::{Problem, nearest};
use super::super::oclp::{
    HookTargets, LocalOrigin, MAX_RULES, MetaType, OclpRule, OclpRules, OclpStart, PushRule, Scheduler,
};
use super::super::syntax::{Directive, Word};
use super::super::template::{Part, Template};
use super::super::values;
use super::super::{Listen, ListenAddress, RTMP_PORT};
use super::{Builder, Scope};

impl Builder {
    /// The callbacks of one application.
    pub(super) fn oclp(&mut self, scope: &Scope<'_>, listens: &[Listen]) -> Result<OclpRules, Problem> {
        let lenient = scope.flag("ignore_invalid_notify");
        let one = |names: [&'static str; 2]| -> Option<&Directive> {
            names.iter().find_map(|name| scope.effective(name).filter(|directive| is_oclp(directive)))
        };
        let mut read = |directive: &Directive| -> Result<Arc<OclpRule>, Problem> {
            for name in unknown_variables(directive) {
                self.warn(directive, format!("knows no variable ${name}: it is always empty"));
            }
            rule(directive, lenient).map(Arc::new)
        };
        let mut optional = |names| one(names).map(&mut read).transpose();
        let (play, publish) = (optional(["oclp_play", "on_play"])?, optional(["oclp_publish", "on_publish"])?);
        let (stream, pull) = (optional(["oclp_stream", "on_stream"])?, optional(["oclp_pull", "on_pull"])?);
        let mut several = |names: [&'static str; 2]| -> Result<Vec<Arc<OclpRule>>, Problem> {
            let block = scope.blocks.first().copied().unwrap_or_default();
            let written = block.iter().filter(|directive| names.contains(&directive.name.text.as_str()));
            let written: Vec<&Directive> = written.collect();
            if let Some(ninth) = written.get(MAX_RULES) {
                let message = format!("too many \"{}\" directives", ninth.name.text);
                return Err(Problem::at(message, ninth).help(format!("an application has {MAX_RULES} at the most")));
            }
            written.into_iter().map(&mut read).collect()
        };
        let (push, mut meta) = (several(["oclp_push", "on_push"])?, several(["oclp_meta", "on_meta"])?);
        if let (false, Some(directive)) = (push.is_empty() || meta.is_empty(), first_meta(scope)) {
            self.warn(directive, "is not asked where there is an oclp_push: that one asks earlier");
            meta.clear();
        }
        Ok(OclpRules {
            play,
            publish,
            stream,
            pull,
            push,
            meta,
            meta_type: match scope.word("oclp_meta_type").to_ascii_lowercase().as_str() {
                "audio" => MetaType::Audio,
                "both" => MetaType::Both,
                _ => MetaType::Video,
            },
            meta_repeats: !scope.flag("oclp_meta_once"),
            targets: scope.effective("hook_targets").map(targets).transpose()?.unwrap_or_default(),
            in_scheduler: scope
                .effective("scheduler")
                .map(|directive| in_scheduler(directive, listens))
                .transpose()?
                .flatten(),
        })
    }
}

/// PingOS spells its callbacks `on_play` and `on_publish`, as nginx-rtmp does its hooks. Its own have `key=value` words.
pub(super) fn is_pingos(directive: &Directive) -> bool {
    matches!(directive.name.text.as_str(), "on_play" | "on_publish") && directive.args.len() > 1
}

fn is_oclp(directive: &Directive) -> bool {
    is_pingos(directive) || !matches!(directive.name.text.as_str(), "on_play" | "on_publish")
}

/// What is told once when the process has started.
pub(super) fn starts(scope: &Scope<'_>) -> Result<Vec<OclpStart>, Problem> {
    let calls = [("oclp_proc", "init_process"), ("on_proc", "init_process"), ("on_master", "init_master")];
    let written = calls.into_iter().filter_map(|(name, call)| Some((scope.effective(name)?, call)));
    let read = |(directive, call): (&Directive, &'static str)| {
        rule(directive, true).map(|rule| OclpStart { url: rule.url, call, timeout: rule.timeout })
    };
    written.map(read).collect()
}

/// Checks one callback where it stands.
pub(super) fn check(directive: &Directive) -> Result<(), Problem> {
    if is_oclp(directive) { rule(directive, true).map(drop) } else { Ok(()) }
}

fn rule(directive: &Directive, lenient: bool) -> Result<OclpRule, Problem> {
    let is_pingos = directive.name.text.starts_with("on_");
    let (url, words) = directive.args.split_first().map_or((None, &[] as &[Word]), |(url, words)| (Some(url), words));
    let mut rule = OclpRule {
        url: url.map_or(Ok(String::new()), |word| hook_url(directive, word))?,
        args: Template::default(),
        groupid: String::new(),
        tells_update: false,
        tells_done: false,
        timeout: Duration::from_secs(3),
        update: Duration::from_secs(60),
        failure_allows: !is_pingos || lenient,
        says_clientid: is_pingos,
    };
    for word in words {
        let (key, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        let time = || {
            // Its documents write `1min`, which nginx would not read.
            let text = value.strip_suffix("in").filter(|text| text.ends_with('m')).unwrap_or(value);
            let time = values::time(text).filter(|time| !time.is_zero());
            time.ok_or_else(|| bad(directive, word, key).help("it takes a time, for example `3s` or `1m`"))
        };
        match key {
            "args" => {
                rule.args = Template::parse(value).map_err(|message| Problem::at_word(message, directive, word))?
            }
            "groupid" => rule.groupid = value.to_owned(),
            "stage" => (rule.tells_update, rule.tells_done) = stages(directive, word, value)?,
            "timeout" => rule.timeout = time()?,
            // More often than this is no refresh but a flood.
            "update" => rule.update = time()?.max(Duration::from_secs(1)),
            _ => {
                let meant = nearest(key, WORDS.iter().copied()).map(|meant| format!("did you mean `{meant}=`?"));
                let message = format!("invalid parameter \"{}\"", word.text);
                return Err(Problem::at_word(message, directive, word)
                    .help(meant.unwrap_or_else(|| format!("it is one of: {}", WORDS.join(", ")))));
            }
        }
    }
    Ok(rule)
}

fn stages(directive: &Directive, word: &Word, text: &str) -> Result<(bool, bool), Problem> {
    let (mut update, mut done) = (false, false);
    for stage in text.split(',') {
        match stage {
            "start" => {}
            "update" => update = true,
            "done" => done = true,
            other => {
                let meant = nearest(other, STAGES.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
                let choices = format!("it is some of: {}, with commas between them", STAGES.join(", "));
                return Err(bad(directive, word, "stage").help(meant.unwrap_or(choices)));
            }
        }
    }
    Ok((update, done))
}

fn hook_url(directive: &Directive, word: &Word) -> Result<String, Problem> {
    let text = word.text.as_str();
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    let is_hook = |url: &reqwest::Url| {
        url.host_str().is_some() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
    };
    match reqwest::Url::parse(text).ok().filter(|url| has_host && is_hook(url)) {
        // As it will be sent, so that what is signed is what is sent.
        Some(url) => Ok(url.into()),
        None => Err(Problem::at_word(format!("invalid url in \"{}\" directive", directive.name.text), directive, word)
            .help("it is `http://HOST[:PORT][/PATH][?QUERY]`, or the same with https")),
    }
}

/// `hook_targets any | ADDR | CIDR …`
pub(super) fn targets(directive: &Directive) -> Result<HookTargets, Problem> {
    if let [only] = directive.args.as_slice()
        && only.text == "any"
    {
        return Ok(HookTargets::Any);
    }
    let network = |word: &Word| {
        parse_network(&word.text).flatten().ok_or_else(|| {
            Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word)
                .help("it takes `any`, or addresses and networks")
        })
    };
    let networks: Result<Vec<_>, Problem> = directive.args.iter().map(network).collect();
    networks.map(|networks| HookTargets::Listed(networks.into()))
}

/// `scheduler on | off [origin=URL]` of an application.
pub(super) fn in_scheduler(directive: &Directive, listens: &[Listen]) -> Result<Option<LocalOrigin>, Problem> {
    let Some((first, rest)) = directive.args.split_first() else {
        return Err(Problem::at("invalid number of arguments in \"scheduler\" directive", directive)
            .help("in an application it is `scheduler on;`; `scheduler;` alone belongs into an http location"));
    };
    let Some(on) = values::flag(&first.text) else {
        let message =
            format!("invalid value \"{}\" in \"scheduler\" directive, it must be \"on\" or \"off\"", first.text);
        return Err(Problem::at_word(message, directive, first));
    };
    let mut origin = LocalOrigin { url: None, port: port(listens) };
    for word in rest {
        let Some(url) = word.text.strip_prefix("origin=") else {
            let message = format!("invalid parameter \"{}\"", word.text);
            return Err(Problem::at_word(message, directive, word).help("it is `origin=rtmp://HOST[:PORT]`"));
        };
        origin.url = Some(target(directive, word, url)?);
    }
    Ok(on.then_some(origin))
}

/// The first port that is open to plain RTMP from elsewhere.
fn port(listens: &[Listen]) -> u16 {
    let plain = listens.iter().filter(|listen| !listen.ssl).filter_map(|listen| match &listen.address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) => None,
    });
    let plain: Vec<_> = plain.collect();
    let open = plain.iter().find(|address| !address.ip().is_loopback()).or(plain.first());
    open.map_or(RTMP_PORT, |address| address.port())
}

/// What a location with `scheduler` answers by.
pub(in super::super) fn scheduler(scope: &Scope<'_>) -> Result<Scheduler, Problem> {
    let pushes: Result<Vec<PushRule>, Problem> = scope.own("scheduler_push").map(push_rule).collect();
    Ok(Scheduler {
        update: scope.time("scheduler_update").max(Duration::from_secs(1)),
        pushes: pushes?,
        secret: scope.written("scheduler_secret").filter(|secret| !secret.is_empty()).map(Arc::from),
    })
}

/// `scheduler_push URL [groupid=ID] [app=NAME] [name=NAME]`
pub(in super::super) fn push_rule(directive: &Directive) -> Result<PushRule, Problem> {
    let mut words = directive.args.iter();
    let url = words.next().unwrap_or(&directive.name);
    let (mut groupid, mut app, mut name) = (String::new(), String::new(), String::new());
    for word in words {
        let (key, value) = word.text.split_once('=').unwrap_or((&word.text, ""));
        let field = match key {
            "groupid" => &mut groupid,
            "app" => &mut app,
            "name" => &mut name,
            _ => {
                return Err(Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word)
                    .help("it is one of: groupid, app, name"));
            }
        };
        value.clone_into(field);
    }
    Ok(PushRule { url: target(directive, url, &url.text)?, groupid, app, name })
}

/// A place to relay from or to.
fn target(directive: &Directive, word: &Word, text: &str) -> Result<String, Problem> {
    let rest = ["rtmp://", "rtmps://", "http://", "https://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let is_target = rest.is_some_and(|rest| {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        !host.is_empty() && !host.contains('@') && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match is_target {
        true => Ok(text.to_owned()),
        false => {
            Err(Problem::at_word(format!("invalid url in \"{}\" directive", directive.name.text), directive, word)
                .help("it is `rtmp://HOST[:PORT][/APP[/NAME]]`, or the same with rtmps, http or https"))
        }
    }
}

fn first_meta<'a>(scope: &Scope<'a>) -> Option<&'a Directive> {
    scope.own("oclp_meta").next().or_else(|| scope.own("on_meta").next())
}

/// Variables of `args=` that nothing here fills in.
fn unknown_variables(directive: &Directive) -> Vec<String> {
    let args = directive.args.iter().find_map(|word| word.text.strip_prefix("args="));
    let template = args.and_then(|args| Template::parse(args).ok()).unwrap_or_default();
    let parts = template.parts().iter().filter_map(|part| match part {
        Part::Variable(name) if !VARIABLES.contains(&name.as_str()) => Some(name.clone()),
        Part::Capture(digit) => Some(digit.to_string()),
        _ => None,
    });
    parts.collect()
}

fn bad(directive: &Directive, word: &Word, key: &str) -> Problem {
    Problem::at_word(format!("invalid value of \"{key}\" in \"{}\" directive", directive.name.text), directive, word)
}

const WORDS: [&str; 5] = ["args", "groupid", "stage", "timeout", "update"];

const STAGES: [&str; 3] = ["start", "update", "done"];

/// What `args=` may hold; see `actors/support/oclp_call.rs`.
const VARIABLES: [&str; 20] = [
    "app",
    "name",
    "args",
    "pargs",
    "addr",
    "remote_addr",
    "remote_port",
    "clientid",
    "flashver",
    "swfurl",
    "tcurl",
    "pageurl",
    "domain",
    "host",
    "serverid",
    "scheme",
    "protocol",
    "role",
    "connect_args",
    "call",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::http::Handler;

    fn load(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn rules(text: &str) -> Arc<OclpRules> {
        let config = load(&format!("rtmp {{ server {{ listen 1936; application a {{ {text} }} }} }}"));
        Arc::clone(&config.servers[0].applications[0].oclp)
    }

    #[track_caller]
    fn check_error(text: &str, message: &str, help: &str) {
        let text = format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
        let error = Config::parse("x.conf", text.as_bytes()).expect_err(&text);
        assert_eq!(error.message, format!("{message} in x.conf:1"));
        let shown = error.to_string();
        assert!(shown.contains('^') && shown.ends_with(&format!("help: {help}")), "{shown}");
    }

    #[test]
    fn a_callback_is_read_word_by_word() {
        let words = "args=a=c&b=d groupid=g stage=start,update,done timeout=5s update=1min";
        let play = rules(&format!("oclp_play http://h:6200/oclp {words};")).play.clone().unwrap();
        assert_eq!((play.url.as_str(), play.groupid.as_str()), ("http://h:6200/oclp", "g"));
        assert_eq!(play.args, Template::plain("a=c&b=d"));
        assert!(play.tells_update && play.tells_done && play.failure_allows && !play.says_clientid);
        assert_eq!((play.timeout, play.update), (Duration::from_secs(5), Duration::from_secs(60)));
        let bare = rules("oclp_stream https://h/x?y;").stream.clone().unwrap();
        assert!(!bare.tells_update && !bare.tells_done);
        assert_eq!((bare.timeout, bare.update), (Duration::from_secs(3), Duration::from_secs(60)));
    }

    #[test]
    fn pingos_spelling_denies_on_failure_unless_told_to_ignore_it() {
        let strict = rules("on_pull http://h/; on_stream http://h/;");
        assert!(!strict.pull.as_ref().unwrap().failure_allows && strict.stream.as_ref().unwrap().says_clientid);
        let lenient = rules("ignore_invalid_notify on; on_play http://h/ stage=done; oclp_publish http://h/;");
        assert!(lenient.play.as_ref().unwrap().failure_allows);
        assert!(lenient.publish.as_ref().unwrap().failure_allows);
    }

    #[test]
    fn on_play_and_on_publish_are_oclp_where_they_have_its_words() {
        let plain = rules("on_play http://h/; on_publish http://h/;");
        assert!(plain.play.is_none() && plain.publish.is_none());
        let pingos = rules("on_play http://h/ stage=start,done; on_publish http://h/ args=x=1;");
        assert!(pingos.play.as_ref().unwrap().tells_done && pingos.publish.is_some());
    }

    #[test]
    fn eight_pushes_are_enough_and_pushes_win_over_metas() {
        let many = |count: usize| "oclp_push http://h/;".repeat(count);
        let both = rules(&format!("{} on_push http://h/; oclp_meta http://h/;", many(7)));
        assert_eq!((both.push.len(), both.meta.len()), (8, 0));
        assert_eq!(rules("oclp_meta http://h/; on_meta http://h/;").meta.len(), 2);
        check_error(&many(9), "too many \"oclp_push\" directives", "an application has 8 at the most");
    }

    #[test]
    fn wrong_words_are_shown_and_mended() {
        let message = "invalid parameter \"stages=start\"";
        check_error("oclp_play http://h/ stages=start;", message, "did you mean `stage=`?");
        let message = "invalid value of \"stage\" in \"oclp_pull\" directive";
        check_error("oclp_pull http://h/ stage=start,dne;", message, "did you mean `done`?");
        let help = "it takes a time, for example `3s` or `1m`";
        check_error("oclp_play http://h/ timeout=x;", "invalid value of \"timeout\" in \"oclp_play\" directive", help);
        check_error("oclp_play http://h/ update=0;", "invalid value of \"update\" in \"oclp_play\" directive", help);
        let help = "it is `http://HOST[:PORT][/PATH][?QUERY]`, or the same with https";
        for url in ["h/x", "rtmp://h/x", "http:///x", "http://u:p@h/"] {
            check_error(&format!("oclp_play {url};"), "invalid url in \"oclp_play\" directive", help);
        }
        check_error(
            "hook_targets any 10.0.0.1;",
            "invalid parameter \"any\"",
            "it takes `any`, or addresses and networks",
        );
        let help = "it is `origin=rtmp://HOST[:PORT]`";
        check_error("scheduler on x=y;", "invalid parameter \"x=y\"", help);
    }

    #[test]
    fn unknown_variables_are_said() {
        let config = load("rtmp { server { application a { oclp_play http://h/ args=x=$nope&y=$name; } } }");
        let said = "x.conf:1: \"oclp_play\" knows no variable $nope: it is always empty";
        assert_eq!(config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    }

    #[test]
    fn targets_of_hooks_are_a_rule_a_list_or_any() {
        assert_eq!(rules("").targets, HookTargets::NoNearer);
        assert_eq!(rules("hook_targets any;").targets, HookTargets::Any);
        let list = ["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()];
        assert_eq!(rules("hook_targets 10.0.0.0/8 192.0.2.1;").targets, HookTargets::Listed(list.into()));
    }

    #[test]
    fn starts_are_told_once_a_process() {
        let config = load("rtmp { oclp_proc http://h/a timeout=1s; on_master http://h/b; }");
        let calls: Vec<_> = config.oclp_starts.iter().map(|start| (start.call, start.url.as_str())).collect();
        assert_eq!(calls, [("init_process", "http://h/a"), ("init_master", "http://h/b")]);
        assert_eq!(config.oclp_starts[0].timeout, Duration::from_secs(1));
    }

    #[test]
    fn an_application_in_the_scheduler_says_where_it_is() {
        assert_eq!(rules("").in_scheduler, None);
        assert_eq!(rules("scheduler off;").in_scheduler, None);
        assert_eq!(rules("scheduler on;").in_scheduler, Some(LocalOrigin { url: None, port: 1936 }));
        let url = Some("rtmp://origin.example".to_owned());
        let written = rules("scheduler on origin=rtmp://origin.example;").in_scheduler.clone();
        assert_eq!(written, Some(LocalOrigin { url, port: 1936 }));
    }

    #[test]
    fn a_location_with_scheduler_has_its_own_settings() {
        let config = load(
            "http { server { listen 80; location /oclp { scheduler; scheduler_update 5s; scheduler_secret s;
               scheduler_push rtmp://cdn.example/live groupid=g; scheduler_push http://b app=a name=n; } } }",
        );
        let http = config.http.as_ref().unwrap();
        let Handler::Scheduler(scheduler) = &http.servers[0].outermost.locations[0].handler else { panic!() };
        assert_eq!(scheduler.update, Duration::from_secs(5));
        assert_eq!(scheduler.secret.as_deref(), Some("s"));
        let pushes: Vec<_> = scheduler.pushes.iter().map(|p| [&p.url, &p.groupid, &p.app, &p.name]).collect();
        assert_eq!(pushes, [["rtmp://cdn.example/live", "g", "", ""], ["http://b", "", "a", "n"]]);
    }
}
