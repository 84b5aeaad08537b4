//! The directives of hooks to [`Hooks`].

use std::sync::Arc;
use std::time::Duration;

use super::super::diagnose::Problem;
use super::super::hooks::{HookFormat, HookMethod, HookSecret, HookUrl, Hooks, NotifyRules};
use super::super::syntax::Directive;
use super::super::values;
use super::Scope;

/// The hooks in effect in a block.
pub(super) fn hooks(scope: &Scope<'_>) -> Hooks {
    Hooks { notify: notify(scope) }
}

fn notify(scope: &Scope<'_>) -> NotifyRules {
    let own = |name: &str| scope.effective(name).filter(|directive| !super::oclp::is_pingos(directive));
    let url = |name: &str| own(name)?.args.first().and_then(|word| HookUrl::parse(&word.text));
    NotifyRules {
        connect: url("on_connect"),
        disconnect: url("on_disconnect"),
        publish: url("on_publish"),
        play: url("on_play"),
        publish_done: url("on_publish_done"),
        play_done: url("on_play_done"),
        done: url("on_done"),
        update: url("on_update"),
        record_done: url("on_record_done"),
        record_started: url("on_record_started"),
        playlist: url("on_playlist"),
        method: match scope.word("notify_method").to_ascii_lowercase().as_str() {
            "get" => HookMethod::Get,
            _ => HookMethod::Post,
        },
        format: match scope.word("notify_format").to_ascii_lowercase().as_str() {
            "json" => HookFormat::Json,
            _ => HookFormat::Form,
        },
        update_every: scope.time("notify_update_timeout").max(MIN_UPDATE),
        update_strict: scope.flag("notify_update_strict"),
        relay_redirect: scope.flag("notify_relay_redirect"),
        send_redirect: scope.flag("notify_send_redirect"),
        // Its row ends at the server, and applications inherit it.
        timeout: scope
            .written("netcall_timeout")
            .and_then(values::time)
            .map_or(DEFAULT_TIMEOUT, |t| t.max(MIN_TIMEOUT)),
        secret: scope.written("hook_secret").map(|secret| Arc::new(HookSecret::new(secret))),
    }
}

/// The address of a hook, in nginx's words where it is none.
pub(super) fn check_url(directive: &Directive) -> Result<(), Problem> {
    let Some(word) = directive.args.first().filter(|word| HookUrl::parse(&word.text).is_none()) else { return Ok(()) };
    let (_, rest) = word.text.split_once("://").unwrap_or(("", &word.text));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let fault = match host.rsplit_once(':') {
        _ if host.is_empty() => "no host",
        Some((_, port)) if !port.parse::<u16>().is_ok_and(|port| port > 0) && !port.contains(']') => "invalid port",
        _ => "invalid host",
    };
    Err(Problem::at_word(format!("{fault} in url \"{}\"", word.text), directive, word)
        .help("it takes an address like http://HOST[:PORT]/PATH, or https://"))
}

/// An empty secret would sign nothing.
pub(super) fn check_secret(directive: &Directive) -> Result<(), Problem> {
    match directive.args.first().filter(|word| word.text.is_empty()) {
        Some(word) => Err(Problem::at_word("invalid value \"\" in \"hook_secret\" directive", directive, word)
            .help("with an empty secret anybody could sign")),
        None => Ok(()),
    }
}

/// More often would be a load of its own.
const MIN_UPDATE: Duration = Duration::from_millis(100);

/// The default of the table.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// `0` would refuse everybody.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::super::super::Config;
    use super::*;

    fn load(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn rules(text: &str) -> NotifyRules {
        let config = load(&format!("rtmp {{ server {{ application a {{ {text} }} }} }}"));
        assert_eq!(config.warnings, []);
        config.servers[0].applications[0].hooks.notify.clone()
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_struct() {
        assert_eq!(rules(""), NotifyRules::default());
    }

    #[test]
    fn every_setting_reaches_its_field() {
        let text = "on_publish http://h/p; on_play h/l; on_publish_done http://h/pd; on_play_done http://h/ld;
            on_done http://h/d; on_update https://h/u; on_playlist http://h/m; notify_method get; notify_format json;
            notify_update_timeout 5s; notify_update_strict on; notify_relay_redirect on; notify_send_redirect on;
            hook_secret s;";
        let url = |text: &str| HookUrl::parse(text);
        let expected = NotifyRules {
            publish: url("http://h/p"),
            play: url("http://h/l"),
            publish_done: url("http://h/pd"),
            play_done: url("http://h/ld"),
            done: url("http://h/d"),
            update: url("https://h/u"),
            playlist: url("http://h/m"),
            method: HookMethod::Get,
            format: HookFormat::Json,
            update_every: Duration::from_secs(5),
            update_strict: true,
            relay_redirect: true,
            send_redirect: true,
            secret: Some(Arc::new(HookSecret::new("s"))),
            ..NotifyRules::default()
        };
        assert_eq!(rules(text), expected);
    }

    #[test]
    fn hooks_are_inherited_each_by_itself() {
        let config = load(
            "rtmp { on_connect http://h/c; on_done http://h/d; netcall_timeout 3s; server { on_publish http://h/p;
             on_disconnect http://h/x; application a { on_publish http://h/own; } application b { } } }",
        );
        let server = &config.servers[0];
        let at = |url: &Option<HookUrl>| url.as_ref().map_or(String::new(), |url| url.as_str().to_owned());
        assert_eq!(at(&server.hooks.notify.connect), "http://h/c");
        assert_eq!(at(&server.hooks.notify.disconnect), "http://h/x");
        let [a, b] = [0, 1].map(|index| &server.applications[index].hooks.notify);
        assert_eq!((at(&a.publish), at(&b.publish)), ("http://h/own".to_owned(), "http://h/p".to_owned()));
        assert_eq!((at(&a.done), a.timeout), ("http://h/d".to_owned(), Duration::from_secs(3)));
    }

    #[test]
    fn an_address_that_is_none_is_an_error() {
        for (text, message) in [
            ("on_play http:///x;", "no host in url \"http:///x\""),
            ("on_play http://a:99999/;", "invalid port in url \"http://a:99999/\""),
            ("on_play ftp://a/;", "invalid host in url \"ftp://a/\""),
            ("hook_secret '';", "invalid value \"\" in \"hook_secret\" directive"),
        ] {
            let text = format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
            let error = Config::parse("x.conf", text.as_bytes()).expect_err(&text);
            assert!(error.message.starts_with(message), "{text}: {}", error.message);
        }
    }
}
