//! The directives of hooks to [`Hooks`].

use std::sync::Arc;
use std::time::Duration;

use super::super::hooks::{HookFormat, HookMethod, HookSecret, HookUrl, Hooks, NotifyRules};
use super::Scope;

/// The hooks in effect in a block.
pub(super) fn hooks(scope: &Scope<'_>) -> Hooks {
    Hooks { notify: notify(scope) }
}

fn notify(scope: &Scope<'_>) -> NotifyRules {
    let url = |name: &str| scope.written(name).and_then(HookUrl::parse);
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
        timeout: scope.time("netcall_timeout").max(MIN_TIMEOUT),
        secret: scope.written("hook_secret").map(|secret| Arc::new(HookSecret::new(secret))),
    }
}

/// More often would be a load of its own.
const MIN_UPDATE: Duration = Duration::from_millis(100);

/// `0` would refuse everybody.
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
