//! THE table: every directive once.
//!
//! A row says where a directive may stand, what it takes, what holds when it is not written and why, what livemill does
//! with it, and when a change takes effect. [`super::verify`] checks files against it, [`super::build`] takes defaults
//! from it, [`super::check`] reports from it and [`super::page`] prints it as `docs/directives.md`. To teach livemill a
//! directive, or to say that one is built now, change its row.

use std::sync::LazyLock;

use super::values;

mod http;

/// One directive in one place.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// Who knows it: letters of the family (A arut, S sergey-dryabzhinsky, W winshining, X AlexWoo, P pingos), `nginx` or
    /// `livemill`.
    pub forks: &'static str,
    pub contexts: Contexts,
    pub args: Args,
    /// As it would be written; empty where nothing holds, `auto`-like words where start decides.
    pub default: &'static str,
    /// Why this default, where it is not the family's or not plain.
    pub reason: &'static str,
    pub repeat: Repeat,
    pub inherit: Inherit,
    pub verdict: Verdict,
    pub when: When,
}

/// What livemill does with a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Works,
    /// Does what it says, and what was painful about it is gone.
    Better(&'static str),
    /// Accepted; what it was for needs nothing here.
    NoEffect(&'static str),
    /// Accepted; something the file asks for is missing.
    NotYet(&'static str),
}

/// What may follow the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Args {
    Flag,
    Number,
    Size,
    Time,
    /// A time, or `off`.
    TimeOrOff,
    /// A time, or `on` or `off`.
    TimeOrFlag,
    /// One word.
    Text,
    OneOf(&'static [&'static str]),
    /// One or more of these.
    SomeOf(&'static [&'static str]),
    /// So many words, from and to.
    Words(u8, u8),
    /// An http hook: a URL, and for X and P `key=value` words.
    Hook,
    /// A signal by name or number.
    Signal,
    /// `get` or `post`.
    Method,
    /// Checked where it is used; how many words, and how they read.
    Special(u8, u8, &'static str),
    /// Braces, after so many words.
    Block(u8, &'static str),
    /// Braces, after from so many words to so many.
    BlockOf(u8, u8, &'static str),
    /// Braces whose inside is kept and not looked at.
    Kept,
}

/// What a second one in the same block means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// An error.
    Once,
    /// They add up.
    Adds,
    /// The last one holds.
    LastWins,
}

/// What an inner block makes of an outer one's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// The inner value replaces the outer.
    Replaces,
    /// The inner list comes first, then the outer.
    OwnFirst,
    /// An inner list replaces the outer list.
    ListReplaces,
    Not,
}

/// When a change in the file takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At reload, for sessions that are there.
    Live,
    /// At reload, for sessions that come.
    NextSession,
    /// At the next start. Today this is every row: reload comes in a later release.
    Restart,
}

/// A set of places in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contexts(u16);

impl Contexts {
    pub const ROOT: Self = Self(1);
    pub const EVENTS: Self = Self(1 << 1);
    pub const RTMP: Self = Self(1 << 2);
    pub const SERVER: Self = Self(1 << 3);
    pub const APPLICATION: Self = Self(1 << 4);
    pub const RECORDER: Self = Self(1 << 5);
    pub const HTTP: Self = Self(1 << 6);
    pub const HTTP_SERVER: Self = Self(1 << 7);
    pub const LOCATION: Self = Self(1 << 8);

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The names of the places, outermost first.
    pub fn names(self) -> Vec<&'static str> {
        CONTEXT_NAMES.iter().filter(|(context, _)| self.has(*context)).map(|(_, name)| *name).collect()
    }
}

impl Args {
    /// How many words may follow, from and to.
    pub fn count(self) -> (usize, usize) {
        match self {
            Self::SomeOf(words) => (1, words.len().max(8)),
            Self::Words(from, to) | Self::Special(from, to, _) | Self::BlockOf(from, to, _) => (from.into(), to.into()),
            Self::Hook => (1, 8),
            Self::Block(words, _) => (words.into(), words.into()),
            Self::Kept => (0, usize::from(u8::MAX)),
            _ => (1, 1),
        }
    }

    pub fn has_block(self) -> bool {
        matches!(self, Self::Block(..) | Self::BlockOf(..) | Self::Kept)
    }

    /// nginx's message if a word cannot be this, and the words that can, for "did you mean".
    pub fn refuse(self, name: &str, word: &str) -> Option<(String, &'static [&'static str])> {
        let is_flag = || values::flag(word).is_some();
        let directive_invalid = |what: &str| Some((format!("\"{name}\" directive invalid {what}"), NO_WORDS));
        match self {
            Self::Flag if !is_flag() => Some((
                format!("invalid value \"{word}\" in \"{name}\" directive, it must be \"on\" or \"off\""),
                NO_WORDS,
            )),
            Self::Number if values::number(word).is_none() => directive_invalid("number"),
            Self::Size if values::size(word).is_none() => directive_invalid("value"),
            Self::Time if values::time(word).is_none() => directive_invalid("value"),
            Self::TimeOrOff if word != "off" && values::time(word).is_none() => directive_invalid("value"),
            Self::TimeOrFlag if !is_flag() && values::time(word).is_none() => directive_invalid("value"),
            Self::OneOf(words) | Self::SomeOf(words) if !words.iter().any(|w| w.eq_ignore_ascii_case(word)) => {
                Some((format!("invalid value \"{word}\""), words))
            }
            Self::Method if !METHODS.iter().any(|w| w.eq_ignore_ascii_case(word)) => {
                Some((format!("\"{name}\" directive got unexpected method"), METHODS))
            }
            Self::Signal if !is_signal(word) => Some((format!("\"{name}\" directive unknown signal"), SIGNALS)),
            _ => None,
        }
    }

    /// How the arguments read, for the page.
    pub fn describe(self) -> String {
        match self {
            Self::Flag => "`on` \\| `off`".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Size => "size".to_owned(),
            Self::Time => "time".to_owned(),
            Self::TimeOrOff => "time \\| `off`".to_owned(),
            Self::TimeOrFlag => "time \\| `on` \\| `off`".to_owned(),
            Self::Text => "text".to_owned(),
            Self::OneOf(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" \\| "),
            Self::SomeOf(words) => {
                format!("some of {}", words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" "))
            }
            Self::Words(0, 0) => "nothing".to_owned(),
            Self::Words(1, _) => "word …".to_owned(),
            Self::Words(from, _) => format!("{from} words or more"),
            Self::Hook => "url".to_owned(),
            Self::Signal => "signal name or number".to_owned(),
            Self::Method => "`get` \\| `post`".to_owned(),
            Self::Special(_, _, text) => text.replace('|', "\\|"),
            Self::Block(0, _) => "`{ … }`".to_owned(),
            Self::Block(_, text) | Self::BlockOf(_, _, text) => format!("{} `{{ … }}`", text.replace('|', "\\|")),
            Self::Kept => "`{ … }`, kept as it is".to_owned(),
        }
    }
}

fn is_signal(word: &str) -> bool {
    SIGNALS.iter().any(|name| name.eq_ignore_ascii_case(word)) || values::number(word).is_some_and(|n| n > 0 && n < 32)
}

/// The row of a name in a place.
pub fn find(name: &str, context: Contexts) -> Option<&'static Row> {
    rows_named(name).find(|row| row.contexts.has(context))
}

/// All rows of a name: some mean different things in different places.
pub fn rows_named(name: &str) -> impl Iterator<Item = &'static Row> {
    let first = BY_NAME.partition_point(|row| row.name < name);
    BY_NAME.get(first..).unwrap_or_default().iter().take_while(move |row| row.name == name).copied()
}

/// All rows, in the order of the page.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.rows)
}

/// Does nginx know this name inside `http {}`, beyond the rows of the table?
pub fn is_http(name: &str) -> bool {
    http::KNOWN.contains(&name)
        || http::ELSEWHERE.contains(&name)
        || http::ELSEWHERE_PREFIXES.iter().any(|start| name.starts_with(start))
}

/// What livemill says about a directive inside `http {}`. None: nobody here has heard of it.
pub fn http_verdict(name: &str) -> Option<Verdict> {
    if let Some(row) = find(name, HTTP) {
        return Some(row.verdict);
    }
    if let Some((_, verdict)) = HTTP_NOT_DONE.iter().find(|(known, _)| *known == name) {
        return Some(*verdict);
    }
    if http::KNOWN.contains(&name) {
        return Some(HTTP_NOT_OURS);
    }
    if name.ends_with("_pass") {
        return Some(PASSED_ON);
    }
    is_http(name).then_some(NOT_OURS)
}

const PASSED_ON: Verdict =
    NotYet("not livemill's work: keep nginx in front for it; until then such a location answers 502");

/// nginx's own that deserve better words than [`HTTP_NOT_OURS`].
const HTTP_NOT_DONE: &[(&str, Verdict)] = &[
    ("if", NotYet("conditions are not looked at; one that refuses somebody closes its location to all (403)")),
    ("rewrite", NotYet("addresses are not rewritten: the request is answered for the address it came with")),
    ("set", NotYet("the variable stays empty")),
    ("map", NotYet("the variable stays empty")),
    ("break", NotYet("nothing is rewritten, so there is nothing to break off")),
    ("auth_basic", NotYet("livemill asks for no password: what it guards is closed (403)")),
    ("auth_request", NotYet("livemill asks nobody: what it guards is closed (403)")),
    ("limit_except", NotYet("only GET, HEAD and OPTIONS are served, so what it limits is refused anyway")),
    ("satisfy", NotYet("address rules hold by themselves")),
    ("limit_rate", NotYet("answers are as fast as the network")),
    ("limit_conn", NotYet("max_connections_per_address bounds connections")),
    ("limit_req", NotYet("connection_rate bounds new connections")),
    ("ssl_verify_client", NotYet("no client certificate is asked for: what it guards is closed (403)")),
    ("mp4", NotYet("the file is served whole, with ranges")),
    ("flv", NotYet("the file is served whole, with ranges")),
    ("set_real_ip_from", NotYet("the address is the connection's")),
    ("real_ip_header", NotYet("the address is the connection's")),
];

static BY_NAME: LazyLock<Vec<&'static Row>> = LazyLock::new(|| {
    let mut rows: Vec<&'static Row> = rows().collect();
    rows.sort_by_key(|row| row.name);
    rows
});

/// A part of the table, and a heading on the page.
#[derive(Debug)]
pub struct Group {
    pub title: &'static str,
    pub rows: &'static [Row],
}

pub static GROUPS: &[Group] = &[
    Group { title: "Process", rows: PROCESS },
    Group { title: "The API", rows: API },
    Group { title: "Servers and connections", rows: CORE },
    Group { title: "Access", rows: ACCESS },
    Group { title: "Live", rows: LIVE },
    Group { title: "Limits", rows: LIMITS },
    Group { title: "Logs", rows: LOGS },
    Group { title: "Record", rows: RECORD },
    Group { title: "Play of files", rows: VOD },
    Group { title: "Relay", rows: RELAY },
    Group { title: "Notify", rows: NOTIFY },
    Group { title: "Exec", rows: EXEC },
    Group { title: "Watching over HTTP", rows: HTTP_OUTPUTS },
    Group { title: "HLS", rows: HLS },
    Group { title: "DASH", rows: DASH },
    Group { title: "HLS from memory and HTTP-TS", rows: MPEGTS },
    Group { title: "HTTP: what is served", rows: http::SITE },
    Group { title: "HTTP: statistics, control, HTTP-FLV", rows: HTTP_ROWS },
    Group { title: "Callbacks of the cluster (oclp)", rows: OCLP },
    Group { title: "Several workers", rows: WORKERS },
];

// Short names, so that a row is a line.
use Args::{
    Block, Flag, Hook, Kept, Method, Number, OneOf, Signal, Size, SomeOf, Special, Text, Time, TimeOrFlag, TimeOrOff,
    Words,
};
use Verdict::{Better, NoEffect, NotYet, Works};
const ROOT: Contexts = Contexts::ROOT;
const EVENTS: Contexts = Contexts::EVENTS;
const M: Contexts = Contexts::RTMP;
const S: Contexts = Contexts::SERVER;
const A: Contexts = Contexts::APPLICATION;
const MS: Contexts = M.or(S);
const MSA: Contexts = MS.or(A);
const MSAR: Contexts = MSA.or(Contexts::RECORDER);
const HTTP: Contexts = Contexts::HTTP.or(Contexts::HTTP_SERVER).or(Contexts::LOCATION);
const LOCATION: Contexts = Contexts::LOCATION;
const ALL: &str = "ASWXP";

const fn row(
    name: &'static str,
    forks: &'static str,
    contexts: Contexts,
    args: Args,
    default: &'static str,
    verdict: Verdict,
) -> Row {
    Row {
        name,
        forks,
        contexts,
        args,
        default,
        reason: "",
        repeat: Repeat::Once,
        inherit: Inherit::Replaces,
        verdict,
        when: When::Restart,
    }
}

impl Row {
    const fn because(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }

    /// May be written again; the lists of an inner block are asked before those of the outer.
    const fn many(self) -> Self {
        Self { repeat: Repeat::Adds, inherit: Inherit::OwnFirst, ..self }
    }

    /// May be written again; belongs to its block only.
    const fn many_here(self) -> Self {
        Self { repeat: Repeat::Adds, inherit: Inherit::Not, ..self }
    }

    /// May be written again; a list in an inner block replaces the outer.
    const fn list(self) -> Self {
        Self { repeat: Repeat::Adds, inherit: Inherit::ListReplaces, ..self }
    }

    const fn last(self) -> Self {
        Self { repeat: Repeat::LastWins, ..self }
    }

    const fn here(self) -> Self {
        Self { inherit: Inherit::Not, ..self }
    }
}

const fn own(name: &'static str, contexts: Contexts, args: Args, default: &'static str, reason: &'static str) -> Row {
    row(name, "livemill", contexts, args, default, Works).because(reason)
}

const fn nginx(name: &'static str, contexts: Contexts, args: Args, default: &'static str, verdict: Verdict) -> Row {
    row(name, "nginx", contexts, args, default, verdict)
}

const RUNTIME: Verdict = NoEffect("the runtime waits for events its own way");
pub const NOT_OURS: Verdict = NotYet("not livemill's work: keep nginx in front for it");
const SERVICE: Verdict = NoEffect("belongs to the service manager");

static API: &[Row] = &[
    own("api", ROOT, Flag, "on", "docs/api.md; it needs a token wherever it listens"),
    own(
        "api_listen",
        ROOT,
        Special(1, 2, "address [`ssl`] | `off`"),
        "127.0.0.1:9935",
        "reached from this machine only",
    )
    .many_here(),
    own(
        "api_socket",
        ROOT,
        Special(1, 1, "path | `off`"),
        "",
        "`control.sock` in RUNTIME_DIRECTORY, else in the state folder; mode 0660",
    ),
    own("api_token_file", ROOT, Text, "", "`api.token` in the state folder, made at the first start with mode 0600"),
    own("api_plaintext", ROOT, Flag, "off", "whoever listens to the line has the token"),
    own(
        "api_host",
        ROOT,
        Words(1, 255),
        "",
        "requests under another name than those of the loopback and the address are refused",
    )
    .many_here(),
    own("api_certificate", ROOT, Text, "", "needed by `api_listen … ssl`; relative to the folder of the file"),
    own("api_certificate_key", ROOT, Text, "", "needed by `api_listen … ssl`"),
];

static PROCESS: &[Row] = &[
    nginx("daemon", ROOT, Flag, "off", Works)
        .because("nginx says on; service managers and containers want the foreground"),
    nginx("user", ROOT, Words(1, 2), "", Works).because("livemill needs no root: ports are above 1024"),
    nginx("pid", ROOT, Text, "logs/nginx.pid", Works).because("a default that cannot be written is no error"),
    nginx(
        "worker_processes",
        ROOT,
        Special(1, 1, "number | `auto`"),
        "auto",
        Better("threads of one process: every worker sees every stream"),
    )
    .because("one a core, because more workers hide no stream here"),
    nginx("worker_shutdown_timeout", ROOT, Time, "", Works).because("quit waits for streams as long as they last"),
    nginx("worker_rlimit_nofile", ROOT, Number, "", Works).because("the limit livemill was started with"),
    nginx("working_directory", ROOT, Text, "", Works).because("the directory livemill was started in"),
    nginx(
        "env",
        ROOT,
        Text,
        "",
        Better("for the children of exec, which are given PATH, HOME, LANG, LC_…, TZ and TMPDIR anyway"),
    )
    .many_here(),
    nginx("load_module", ROOT, Text, "", NoEffect("everything is built in: there is nothing to load")).many_here(),
    nginx("include", ROOT.or(EVENTS).or(MSAR).or(HTTP), Text, "", Works).many_here(),
    nginx("master_process", ROOT, Flag, "on", NoEffect("there is one process")),
    nginx("worker_rlimit_core", ROOT, Size, "", SERVICE),
    nginx("worker_priority", ROOT, Words(1, 1), "0", SERVICE),
    nginx("worker_cpu_affinity", ROOT, Words(1, 255), "", SERVICE),
    nginx("timer_resolution", ROOT, Time, "", RUNTIME),
    nginx("lock_file", ROOT, Text, "logs/nginx.lock", NoEffect("there is nothing to lock between processes")),
    nginx("debug_points", ROOT, OneOf(&["stop", "abort"]), "", NoEffect("a means to debug nginx itself")),
    nginx("pcre_jit", ROOT, Flag, "off", NoEffect("patterns are few and short")),
    nginx("ssl_engine", ROOT, Text, "", NoEffect("TLS is done by rustls, in software")),
    nginx("thread_pool", ROOT, Words(1, 3), "", NoEffect("files are written by threads of the runtime")).many_here(),
    nginx("events", ROOT, Block(0, ""), "", NoEffect("the runtime waits for events its own way")),
    nginx(
        "worker_connections",
        EVENTS,
        Number,
        "",
        NoEffect("max_connections and the open-files limit bound connections"),
    ),
    nginx("connections", EVENTS, Number, "", NoEffect("max_connections and the open-files limit bound connections")),
    nginx("use", EVENTS, Text, "", RUNTIME),
    nginx("multi_accept", EVENTS, Flag, "off", RUNTIME),
    nginx("accept_mutex", EVENTS, Flag, "off", RUNTIME),
    nginx("accept_mutex_delay", EVENTS, Time, "500ms", RUNTIME),
    nginx("epoll_events", EVENTS, Number, "", RUNTIME),
    nginx("worker_aio_requests", EVENTS, Number, "", RUNTIME),
    nginx("debug_connection", EVENTS, Text, "", NoEffect("write `error_log … debug` to see more")).many_here(),
    nginx("http", ROOT, Block(0, ""), "", Works),
    nginx("stream", ROOT, Kept, "", NOT_OURS),
    nginx("mail", ROOT, Kept, "", NOT_OURS),
    row("dynamic_conf", "XP", ROOT, Words(2, 2), "", NotYet("livemill re-reads no file while it runs")),
    row("dynamic_log", "XP", ROOT, Words(1, 2), "", NotYet("livemill re-reads no file while it runs")),
    row("dynamic_refresh_interval", "XP", ROOT, Time, "5s", NotYet("livemill re-reads no file while it runs")),
    row("dynamic_domain_buckets", "XP", ROOT, Number, "101", NoEffect("tables grow by themselves")),
    row("worker_timers", "XP", ROOT.or(EVENTS), Number, "", RUNTIME),
    row("resolver", "XP", EVENTS, Words(1, 8), "", NoEffect("names are resolved by the system, at each attempt")),
    row("resolver_timeout", "XP", EVENTS, Time, "60s", NoEffect("relays wait 5 s for a name")),
];

static CORE: &[Row] = &[
    row("rtmp", ALL, ROOT, Block(0, ""), "", Works).here(),
    row("server", ALL, M, Block(0, ""), "", Works).many_here(),
    row("application", ALL, S, Block(1, "name"), "", Works).many_here(),
    row("listen", ALL, S, Special(1, 16, "`port` | `addr[:port]` | `[v6]:port` | `unix:path`, then `default_server` `ssl` `proxy_protocol` `bind` `reuseport` `backlog=` `so_keepalive=` `ipv6only=` `rcvbuf=` `sndbuf=` `fastopen=` `deferred`"), "1935", Better("any number of options, virtual hosts on one port, RTMPS, PROXY v1 and v2; `fastopen` and `deferred` have no effect"))
        .because("as in W: a server without listen takes *:1935")
        .many_here(),
    row("server_name", "WXP", S, Words(1, 255), "", Works).many_here(),
    row("serverid", "XP", S, Text, "", Works).because("the first server_name, else `default`").here(),
    own("ssl_certificate", MS, Text, "", "needed by `listen … ssl`; relative to the folder of the file, as in nginx"),
    own("ssl_certificate_key", MS, Text, "", "needed by `listen … ssl`"),
    row("so_keepalive", ALL, MS, Flag, "off", Works),
    row("timeout", ALL, MS, Time, "60s", Works),
    row("ping", ALL, MS, Time, "60s", Works),
    row("ping_timeout", ALL, MS, Time, "30s", Works),
    row("busy", ALL, MS, Flag, "off", Works),
    row("max_streams", ALL, MS, Number, "64", Works).because("the family says 32, P 64; it bounds chunk streams and is cheap here"),
    row("ack_window", ALL, MS, Number, "5000000", Works),
    row("chunk_size", ALL, MS, Number, "4096", Works).because("as A and as W's documents; W's code says 128"),
    row("max_message", ALL, MS, Size, "8M", Works).because("keyframes of 4K exceed the family's 1M"),
    row("out_queue", ALL, MS, Size, "256", Better("bounded in bytes and seconds too (out_queue_bytes, out_queue_time), and drops up to a keyframe")),
    row("out_cork", ALL, MS, Size, "", Works).because("out_queue/8; counts only with buffer"),
    row("play_time_fix", ALL, MSA, Flag, "on", Works),
    row("publish_time_fix", ALL, MSA, Flag, "on", Better("found out for each publisher: both forms are read, whatever is written")),
    row("buflen", ALL, MS, Time, "1000ms", NotYet("it paces the play of files, which comes in a later release")),
    row("tcp_nodelay", "WXP", MSA, Flag, "on", Works)
        .because("small answers must not wait; set when a connection comes, so an application cannot change it"),
    row("tcp_nopush", "W", MSA, Flag, "off", NoEffect("what belongs together is written in one call")),
    row("send_timeout", "W", MSA, Time, "60s", NoEffect("who takes no byte is closed after slow_player_timeout, over HTTP as over RTMP")),
    row("send_lowat", "W", MSA, Size, "0", NoEffect("has no meaning on Linux")),
    row("resolver", "W", MSA, Words(1, 8), "", NoEffect("names are resolved by the system, at each attempt")),
    row("resolver_timeout", "W", MSA, Time, "30s", NoEffect("relays wait 5 s for a name")),
    row("connection_pool_size", "W", MS, Size, "", NoEffect("there is no such pool")),
    row("merge_slashes", "W", MS, Flag, "on", NoEffect("is for variables of the module")),
    row("server_names_hash_max_size", "XP", M, Number, "512", NoEffect("tables grow by themselves")),
    row("server_names_hash_bucket_size", "XP", M, Number, "", NoEffect("tables grow by themselves")),
    row("stream_buckets", ALL, ROOT.or(MSA), Words(1, 1), "", NoEffect("tables grow by themselves")),
    row("server_buckets", "XP", ROOT, Number, "", NoEffect("tables grow by themselves")),
    row("merge_frame", "XP", MSA, Number, "32", NoEffect("what has piled up goes out as one batch by itself")),
    row("fast_reload", "P", M, Flag, "off", NotYet("reload comes in a later release")),
    row("dump", "XP", MSA, Words(1, 2), "off", NoEffect("write `error_log … debug` to see more")),
    row("buffered_log", "XP", MSA, Words(1, 3), "", NoEffect("write `error_log … debug` to see more")),
];

static ACCESS: &[Row] = &[
    row(
        "allow",
        ALL,
        MSA,
        Special(1, 2, "[`publish` | `play`] address | network | `all`"),
        "",
        Better("asked first: nothing has started when a peer is refused"),
    )
    .many(),
    row(
        "deny",
        ALL,
        MSA,
        Special(1, 2, "[`publish` | `play`] address | network | `all`"),
        "",
        Better("asked first: nothing has started when a peer is refused"),
    )
    .many(),
    own("publish_key", MSA, Text, "", "publishing from anywhere but the loopback then needs `?key=KEY`"),
];

static LIVE: &[Row] = &[
    row("live", ALL, MSA, Flag, "off", Works),
    row("meta", ALL, MSA, OneOf(&["on", "copy", "off"]), "on", Works),
    row("interleave", ALL, MSA, Flag, "off", Works),
    row("wait_key", ALL, MSA, Flag, "on", Works).because("as the code of A; S says off, and shows torn pictures"),
    row("wait_video", ALL, MSA, Flag, "off", Works),
    row("publish_notify", ALL, MSA, Flag, "off", Works),
    row(
        "drop_idle_publisher",
        ALL,
        MSA,
        TimeOrOff,
        "off",
        Better("first_media_timeout also ends one that never sent anything"),
    )
    .last(),
    row("sync", ALL, MSA, TimeOrOff, "300ms", Better("every packet carries an absolute time: nothing drifts")).last(),
    row("play_restart", ALL, MSA, Flag, "off", Works),
    row("idle_streams", ALL, MSA, Flag, "on", Works),
    row(
        "buffer",
        ALL,
        MSA,
        TimeOrFlag,
        "off",
        Better("frames are gathered for this long and at most 1s; `on` means 350ms"),
    )
    .because("gathering costs delay"),
    row(
        "gop_cache",
        "W",
        MSA,
        Flag,
        "on",
        Better("bounded in bytes and seconds, also for audio only; may stand in rtmp and server"),
    )
    .because("an instant first picture; W says off"),
    row("gop_max_frame_count", "W", MSA, Number, "4096", Works),
    row("gop_max_video_count", "W", MSA, Number, "2048", Works),
    row("gop_max_audio_count", "W", MSA, Number, "2048", Works),
    own("gop_max_bytes", MSA, Size, "16m", "a stream whose GOP is larger waits for its next keyframe"),
    own("gop_max_time", MSA, Time, "20s", "encoders with no keyframe at all would fill any memory"),
    row("cache_time", "XP", MSA, Time, "0", Works).because("the latest GOP only"),
    row("send_all", "XP", MSA, Flag, "off", NoEffect("the cache holds what cache_time asks for and is sent whole")),
    row("low_latency", "XP", MSA, Flag, "off", Works),
    row("zero_start", "P", MSA, Flag, "off", Works),
    row("fix_timestamp", "P", MSA, Time, "10s", Works),
    row("hevc_codecid", "P", MSA, Number, "12", NoEffect("codec id 12 is read as HEVC, and no other id")),
    own("merge", MSA, Time, "0", "gathering this long saves writes and costs delay; wins over buffer"),
    own(
        "audio_hold",
        MSA,
        Time,
        "40ms",
        "audio rides with the next video frame: half the writes, video as early as ever",
    ),
    own("out_queue_bytes", MSA, Size, "4m", "what one slow player may hold in memory"),
    own("out_queue_time", MSA, Time, "10s", "a player further behind skips to a keyframe"),
    own("slow_player_timeout", MSA, Time, "15s", "a player that takes no byte for this long is gone"),
    own(
        "duplicate_publisher",
        MSA,
        Special(1, 2, "`reject` | `replace` | `replace_if_stalled` [time]"),
        "replace_if_stalled 2s",
        "an encoder that reconnects comes back at once, a thief does not",
    ),
];

static LIMITS: &[Row] = &[
    row("max_connections", ALL, MSA, Number, "", Works)
        .because("10000, or four fifths of the open-files limit; one value for the process, the last in the file"),
    own(
        "max_connections_per_address",
        M,
        Number,
        "100",
        "one address must not take all; spares the loopback unless written; 0: no bound",
    ),
    own(
        "connection_rate",
        M,
        Special(1, 2, "number [`burst=`number]"),
        "50 burst=200",
        "new connections a second from one address; 0: no bound",
    ),
    own("max_publishers_per_address", M, Number, "10", "one address rarely has more cameras; spares the loopback"),
    own("max_names_per_address", M, Number, "200", "different names an hour: somebody is filling the directory"),
    own(
        "max_live_streams",
        M,
        Number,
        "2000",
        "published in the whole process, and as many names that players wait for",
    ),
    own("max_tls_handshakes", M, Number, "64", "in progress, for each worker: a handshake costs a thousand packets"),
    own("tls_handshake_timeout", M, Time, "3s", "longer than any honest client takes"),
    own("handshake_timeout", M, Time, "10s", "a shorter timeout wins"),
    own("connect_timeout", M, Time, "5s", "from the handshake to the command connect"),
    own("command_timeout", M, Time, "10s", "from connect to the first publish or play"),
    own("first_media_timeout", M, Time, "20s", "from publish to the first audio or video"),
    own("max_message_before_publish", M, Size, "64k", "commands are short; max_message holds after publish"),
    own("max_message_streams", M, Number, "16", "createStream without end"),
    own("amf_max_depth", M, Number, "32", "nested objects"),
    own("amf_max_values", M, Number, "10000", "values in one message"),
    own("amf_max_string", M, Size, "8k", "one string of a command"),
    own("amf_max_data_string", M, Size, "64k", "one string of metadata"),
    own("max_control_rate", M, Number, "1000", "control messages and commands a second"),
    own("max_unknown_command_rate", M, Number, "20", "unknown commands a second"),
];

static LOGS: &[Row] = &[
    nginx("error_log", ROOT, Special(1, 8, "file | `stderr` [level]"), "stderr info", Works)
        .because("the foreground wants to see it; with daemon on: logs/error.log error, as nginx")
        .many_here(),
    own("error_log_format", ROOT, OneOf(&["text", "json"]), "text", "nginx's lines"),
    own("log_queue", M, Number, "8192", "lines waiting for the disk; what comes on top is counted and dropped"),
    own("log_rate", M, Number, "10", "lines a second with the same cause"),
    row("access_log", "ASWXP", MSA, Special(1, 3, "`off` | file [format]"), "logs/access.log combined", Works)
        .because("a default that cannot be opened is no error")
        .list(),
    row("log_format", "ASWXP", MSA, Words(2, 255), "combined", Works).many_here(),
    row("log_interval", "W", MSA, Time, "0", NotYet("one line is written at the end of a session")),
    row("log_size", "W", MSA, Size, "1m", NoEffect("lines have no such buffer")),
];

const RECORDING: Verdict = NotYet("recording comes in a later release");

static RECORD: &[Row] = &[
    row("record", "ASWP", MSAR, SomeOf(&["off", "all", "audio", "video", "keyframes", "manual"]), "off", RECORDING)
        .many_here(),
    row("recorder", "ASWP", A, Block(1, "id"), "", RECORDING).many_here(),
    row("record_path", "ASWP", MSAR, Text, "", RECORDING),
    row("record_suffix", "ASWP", MSAR, Text, ".flv", RECORDING),
    row("record_unique", "ASWP", MSAR, Flag, "off", RECORDING),
    row("record_append", "ASWP", MSAR, Flag, "off", RECORDING),
    row("record_lock", "ASWP", MSAR, Flag, "off", RECORDING),
    row("record_max_size", "ASWP", MSAR, Size, "0", RECORDING),
    row("record_max_frames", "ASWP", MSAR, Size, "0", RECORDING),
    row("record_interval", "ASWP", MSAR, Time, "", RECORDING),
    row("record_interval_size", "S", MSAR, Size, "0", RECORDING),
    row("record_notify", "ASWP", MSAR, Flag, "off", RECORDING),
    row("live_record", "X", MSA, Flag, "off", RECORDING),
    row("live_record_path", "X", MSA, Text, "record", RECORDING),
    row("live_record_interval", "X", MSA, Time, "10m", RECORDING),
    row("live_record_min_fragment", "X", MSA, Time, "8s", RECORDING),
    row("live_record_max_fragment", "X", MSA, Time, "12s", RECORDING),
    row("live_record_buffer", "X", MSA, Size, "1m", RECORDING),
];

const FILES: Verdict = NotYet("the play of files comes in a later release");

static VOD: &[Row] = &[
    row("play", "ASW", MSA, Words(1, 255), "", FILES).many(),
    row("play_temp_path", "ASW", MSA, Text, "/tmp", FILES),
    row("play_local_path", "ASW", MSA, Text, "", FILES),
];

static RELAY: &[Row] = &[
    row("push", ALL, A, Words(1, 255), "", Better("tried for ever; rtmps; several urls are backups")).many_here(),
    row(
        "pull",
        ALL,
        A,
        Words(1, 255),
        "",
        Better("tried for as long as anybody watches; rtmps, HTTP-FLV; several urls are backups"),
    )
    .many_here(),
    row("push_reconnect", "ASW", MSA, Time, "3s", Better("what the wait grows to, from failed_reconnect on")),
    row(
        "pull_reconnect",
        "ASW",
        MSA,
        Time,
        "3s",
        Better("what the wait grows to, from failed_reconnect on; for every pull"),
    )
    .because("where it is not written, 1s for a pull that somebody waits for"),
    row(
        "session_relay",
        "ASW",
        MSA,
        Flag,
        "off",
        NoEffect("a push ends with the publish, whatever its session does next"),
    ),
    row("relay_buffer", ALL, MSA, Time, "5s", Works),
    row("failed_reconnect", "XP", MSA, Time, "50ms", Works),
    row("relay_reconnect", "XP", MSA, Time, "3s", Better("where push_reconnect or pull_reconnect is not written")),
    row("static_pull", "XP", MSA, Words(1, 255), "", Works).many_here(),
    row(
        "static_pull_port",
        "XP",
        ROOT.or(MSA),
        Number,
        "1935",
        Better("which server a static_pull outside of all servers is for"),
    ),
    own("pull_idle", MSA, Time, "10s", "a pull goes on for so long after its last viewer: who comes back finds it"),
    own(
        "pull_grace",
        MSA,
        Time,
        "10s",
        "viewers wait for so long for a lost pull before they are told that the stream ended",
    ),
    own("relay_connect_timeout", MSA, Time, "5s", "for each address of the far end"),
    own("relay_ready_timeout", MSA, Time, "10s", "from there until the far end lets it publish or play"),
    own("pull_first_frame_timeout", MSA, Time, "10s", "a far end may accept and have nothing"),
    own("pull_first_keyframe_timeout", MSA, Time, "20s", "without one nobody sees a picture"),
    own("pull_timeout", MSA, Time, "15s", "a pull that brings nothing for so long is opened anew"),
    own("push_timeout", MSA, Time, "10s", "a push whose far end takes nothing for so long is opened anew"),
];

const ASKED: Verdict = Better("asked before anything happens, over https too; who is refused is told so");
const ASKED_OF_ALL: Verdict =
    Better("as on_publish; viewers over HTTP are asked about too, those of HLS and DASH once each");
const HEARD: Verdict = Better("told exactly once, also at shutdown, and again until it is heard");
const RECORDED: Verdict = NotYet("nothing is recorded: recording comes in a later release, and this with it");

static NOTIFY: &[Row] = &[
    row("on_connect", "ASWP", MS, Hook, "", ASKED).last(),
    row("on_disconnect", "AW", MS, Hook, "", HEARD).last(),
    row("on_publish", "ASWP", MSA, Hook, "", ASKED).last(),
    row("on_play", "ASWP", MSA, Hook, "", ASKED_OF_ALL).last(),
    row("on_publish_done", "ASW", MSA, Hook, "", HEARD).last(),
    row("on_play_done", "ASW", MSA, Hook, "", HEARD).last(),
    row("on_done", "ASW", MSA, Hook, "", HEARD).last(),
    row("on_record_done", "ASW", MSAR, Hook, "", RECORDED).last(),
    row("on_record_started", "S", MSAR, Hook, "", RECORDED).last(),
    row("on_playlist", "S", MSA, Hook, "", Works).last(),
    row("on_update", "ASW", MSA, Hook, "", Works).last(),
    row("notify_method", "ASW", MSA, Method, "post", Better("`get` keeps the query of the url")).last(),
    row("notify_update_timeout", "ASW", MSA, Time, "30s", Works),
    row("notify_update_strict", "ASW", MSA, Flag, "off", Works),
    row("notify_relay_redirect", "ASW", MSA, Flag, "off", Works),
    row("notify_send_redirect", "S", MSA, Flag, "off", Works),
    row(
        "notify_no_resolve",
        "W",
        MSA,
        Flag,
        "on",
        NoEffect("names are resolved whenever they are used, and what they lead to is checked"),
    ),
    row("netcall_timeout", "ASW", MS, Time, "10s", Better("holds for a whole call, however slowly it is answered")),
    own("notify_format", MSA, OneOf(&["form", "json"]), "form", "what the family sends; `json` is always a POST"),
    own("hook_secret", MSA, Text, "", "set: calls carry X-Livemill-Timestamp and X-Livemill-Signature"),
    row("netcall_buffer", "ASW", MS, Size, "1024", NoEffect("answers are read whole, up to 64k")),
];

const CHILD: Verdict = Better("what the child says goes to the error log, and it goes down with all its own children");

const ON_RECORDINGS: Verdict = NotYet("waits for recordings, which come in a later release: the command is not run");

static EXEC: &[Row] = &[
    row("exec", ALL, MSA, Words(1, 255), "", CHILD).many(),
    row("exec_push", ALL, MSA, Words(1, 255), "", CHILD).many(),
    row(
        "exec_pull",
        ALL,
        MSA,
        Words(1, 255),
        "",
        Better("goes on for pull_idle after the last player, and is one for all who watch"),
    )
    .many(),
    row("exec_publish", ALL, MSA, Words(1, 255), "", Works).many(),
    row("exec_publish_done", ALL, MSA, Words(1, 255), "", Better("also when the server ends")).many(),
    row("exec_play", ALL, MSA, Words(1, 255), "", Better("also for viewers of HTTP-FLV and of endless .ts and .mp4"))
        .many(),
    row("exec_play_done", ALL, MSA, Words(1, 255), "", Better("exactly once for each exec_play")).many(),
    row("exec_record_done", ALL, MSAR, Words(1, 255), "", ON_RECORDINGS).many(),
    row("exec_record_started", "S", MSAR, Words(1, 255), "", ON_RECORDINGS).many(),
    row("exec_static", ALL, MSA, Words(1, 255), "", CHILD).many_here(),
    row("respawn", ALL, MSA, Flag, "on", Works),
    row(
        "respawn_timeout",
        ALL,
        MSA,
        Time,
        "5s",
        Better("for each application; a child that keeps dying waits twice as long each time, up to 60 s"),
    ),
    row(
        "exec_kill_signal",
        ALL,
        MSA,
        Signal,
        "KILL",
        Better("for each application, to the child and its own children; who is still there after 5 s is killed"),
    )
    .last(),
    row("exec_options", ALL, MSA, Flag, "off", Better("every name= counts, not the first alone")).here(),
    own(
        "exec_max_children",
        MSA,
        Number,
        "16",
        "children of one stream at a time: players come in crowds, machines do not",
    ),
    own("exec_max_processes", M, Number, "256", "children of the whole server at a time"),
];

const NAMING: Args = OneOf(&["sequential", "timestamp", "system"]);
const SLICING: Args = OneOf(&["plain", "aligned"]);

/// What is watched over HTTP below `/APP/NAME`, made in memory when somebody asks for it.
static HTTP_OUTPUTS: &[Row] = &[
    row(
        "http_outputs",
        "livemill",
        MSA,
        SomeOf(&["off", "all", "flv", "ts", "mp4", "hls", "dash"]),
        "all",
        Better("`/APP/NAME.flv`, `.ts`, `.mp4`, `/APP/NAME/index.m3u8`, `/APP/NAME/manifest.mpd` exist for every application"),
    )
    .because("what is published can be watched; it costs nothing before somebody does"),
    own("hls_format", MSA, OneOf(&["ts", "fmp4"]), "fmp4", "every codec and low latency; of HLS from memory: files of hls_path are TS, as the family's"),
    own("hls_part", MSA, Time, "200ms", "a fifth of a second behind is live; 0: no low latency"),
    own("hls_blocked_requests", MSA, Number, "2000", "players of low latency wait in the server; more of one stream are told to come again"),
    own("http_fragment", MSA, Time, "2s", "a viewer starts at a keyframe, and encoders send one every two seconds"),
    own("http_max_fragment", MSA, Time, "10s", "where no keyframe comes a segment ends all the same"),
    own("http_playlist_length", MSA, Time, "30s", "the family's; what a viewer can go back"),
    own("http_idle", MSA, Time, "30s", "an output nobody asks for ends; the next viewer starts it again"),
    own("http_end_after", MSA, Time, "15s", "an encoder that reconnects within this time ends nobody's playback"),
    own("http_ended", MSA, Time, "60s", "who is behind can watch to the end"),
    own("http_viewer_timeout", MSA, Time, "30s", "HLS and DASH viewers leave without a word"),
];

static HLS: &[Row] = &[
    row(
        "hls",
        ALL,
        MSA,
        Flag,
        "off",
        Better("written by threads of their own: a disk that hangs costs files and no stream"),
    ),
    row(
        "hls_path",
        ALL,
        MSA,
        Text,
        "",
        Better("made with its parents when missing, and again when somebody moves it away"),
    ),
    row("hls_fragment", ALL, MSA, Time, "5s", Works),
    row("hls_max_fragment", ALL, MSA, Time, "", Works).because("ten times hls_fragment"),
    row("hls_playlist_length", ALL, MSA, Time, "30s", Works),
    row("hls_sync", ALL, MSA, Time, "2ms", Works),
    row("hls_continuous", ALL, MSA, Flag, "on", Works).because("as the code of all forks; their wiki says off"),
    row("hls_nested", ALL, MSA, Flag, "off", Works),
    row("hls_base_url", ALL, MSA, Text, "", Works),
    row("hls_cleanup", ALL, MSA, Flag, "on", Better("also where hls_path is inherited, and without a master process")),
    row("hls_fragment_naming", ALL, MSA, NAMING, "sequential", Works),
    row("hls_fragment_naming_granularity", ALL, MSA, Number, "0", Works),
    row("hls_fragment_slicing", ALL, MSA, SLICING, "plain", Works),
    row("hls_type", ALL, MSA, OneOf(&["live", "event"]), "live", Works),
    row("hls_variant", ALL, MSA, Words(1, 255), "", Works).many_here(),
    row("hls_max_audio_delay", ALL, MSA, Time, "300ms", Works),
    row("hls_audio_buffer_size", ALL, MSA, Size, "1m", Works),
    row("hls_muxdelay", ALL, MSA, Time, "700ms", NoEffect("the family parses it and does not use it")),
    row("hls_keys", ALL, MSA, Flag, "off", Works),
    row("hls_key_path", ALL, MSA, Text, "", Works).because("hls_path"),
    row("hls_key_url", ALL, MSA, Text, "", Works),
    row("hls_fragments_per_key", ALL, MSA, Number, "0", Works),
    row("hls_datetime", "S", MSA, OneOf(&["none", "system", "timestamp"]), "none", Works),
    row("hls_allow_client_cache", "S", MSA, OneOf(&["enabled", "disabled"]), "", Works),
    row("hls_dir_access", "W", MSA, Number, "0755", Works)
        .because("W says 0744, and then no other user can serve the files"),
    row("hls_nested_index_filename", "W", MSA, Text, "index", Works),
];

static DASH: &[Row] = &[
    row("dash", ALL, MSA, Flag, "off", Better("a folder that cannot be made costs files, and not the publisher")),
    row(
        "dash_path",
        ALL,
        MSA,
        Text,
        "",
        Better("made with its parents when missing, and again when somebody moves it away"),
    ),
    row("dash_fragment", ALL, MSA, Time, "5s", Works),
    row("dash_playlist_length", ALL, MSA, Time, "30s", Works),
    row("dash_nested", ALL, MSA, Flag, "off", Works),
    row("dash_cleanup", ALL, MSA, Flag, "on", Works),
    row("dash_clock_compensation", "S", MSA, OneOf(&["off", "ntp", "http_head", "http_iso"]), "off", Works),
    row("dash_clock_helper_uri", "S", MSA, Text, "", Works),
];

const TS_OURS: Verdict = NoEffect("/APP/NAME.ts follows gop_cache, low_latency and out_queue_… as every player does");

static MPEGTS: &[Row] = &[
    row("hls2", "P", MSA, Flag, "off", NoEffect("HLS from memory is there for every application: see http_outputs")),
    row(
        "hls2memory",
        "P",
        MSA,
        Flag,
        "off",
        NoEffect("HLS from memory is there for every application: see http_outputs"),
    ),
    row("hls2_fragment", "P", MSA, Time, "5s", Works).because("counts where it is written and http_fragment is not"),
    row("hls2_max_fragment", "P", MSA, Time, "", Works)
        .because("counts where it is written and http_max_fragment is not"),
    row("hls2_playlist_length", "P", MSA, Time, "", Works)
        .because("counts where it is written and http_playlist_length is not"),
    row("hls2_minfrags", "P", MSA, Number, "2", NoEffect("a playlist is there as soon as there is something to play")),
    row("hls2_fragment_slicing", "P", MSA, SLICING, "plain", NoEffect("segments in memory end at keyframes")),
    row("hls2_audio_buffer_size", "P", MSA, Size, "1m", NoEffect("buffers grow with what they hold")),
    row("hls2_cleanup", "P", MSA, Flag, "on", NoEffect("memory is given back when a segment leaves the playlist")),
    row("hls2_base_url", "P", MSA, Text, "", NoEffect("playlists name their segments relative to themselves")),
    row("hls2_timeout", "P", MSA, Time, "", Works).because("counts where it is written and http_viewer_timeout is not"),
    row("mpegts_cache_time", "P", MSA, Time, "0", TS_OURS),
    row("mpegts_roll_back", "P", MSA, Time, "", TS_OURS).because("mpegts_cache_time"),
    row("mpegts_one_off_send", "P", MSA, Time, "3s", TS_OURS),
    row("mpegts_low_latency", "P", MSA, Flag, "off", TS_OURS),
    row("mpegts_send_all", "P", MSA, Flag, "off", TS_OURS),
    row("mpegts_fix_timestamp", "P", MSA, Time, "10s", TS_OURS),
    row("mpegts_zero_start", "P", MSA, Flag, "off", TS_OURS),
    row("mpegts_audio_buffer_size", "P", MSA, Size, "1m", TS_OURS),
    row("mpegts_sync", "P", MSA, Time, "2ms", TS_OURS),
    row("mpegts_audio_delay", "P", MSA, Time, "300ms", TS_OURS),
    row("mpegts_out_queue", "P", MSA, Number, "4096", TS_OURS),
];

/// nginx's own that livemill does not do.
const HTTP_NOT_OURS: Verdict = NotYet("nginx does this, livemill does not");

const CONTROL: Verdict = Better(
    "over all streams of the process and viewers of every protocol, with `ban=` and `reason=`; `record` answers 500",
);

static HTTP_ROWS: &[Row] = &[
    row(
        "rtmp_stat",
        ALL,
        HTTP,
        SomeOf(&["all", "global", "live", "clients", "record"]),
        "",
        Better("lists who watches over HTTP too, and relays; nothing is hidden by worker processes"),
    )
    .because("nginx-http-flv-module's document where the file is written for it, else nginx-rtmp-module's")
    .many_here(),
    row("rtmp_stat_stylesheet", ALL, HTTP, Text, "", Works),
    row("rtmp_stat_format", "W", HTTP, OneOf(&["xml", "json"]), "xml", Works)
        .because("JSON is always well-formed here"),
    row("rtmp_control", "ASW", HTTP, SomeOf(&["all", "record", "drop", "redirect"]), "", CONTROL).many_here(),
    row("flv_live", "WXP", LOCATION, Words(1, 4), "off", Works),
    row(
        "ts_live",
        "P",
        LOCATION,
        Words(1, 4),
        "",
        NotYet("the location answers 501; every stream is at /APP/NAME.ts too"),
    ),
    row(
        "hls2_live",
        "P",
        LOCATION,
        Words(1, 4),
        "",
        NotYet("the location answers 501; every stream is at /APP/NAME/index.m3u8 too"),
    ),
    row(
        "sys_stat",
        "XP",
        LOCATION,
        Words(0, 1),
        "",
        NotYet(
            "it counts the insides of nginx, which are not here: the location answers 501; rtmp_stat says what there is",
        ),
    ),
];

const OCLP_ASKED: Verdict = Better("asked without holding up any media, at most 64 at a time; `https` too");
const TOLD: Verdict = Better("told in the order of events, and `done` again until it is heard");
const RECORDS_LATER: Verdict = NotYet("there are no recordings in this release");

static OCLP: &[Row] = &[
    row("oclp_proc", "XP", M, Hook, "", Works).because("once a process: `worker_id` is 0"),
    row("on_proc", "P", M, Hook, "", Works).because("the same as oclp_proc"),
    row("on_master", "P", M, Hook, "", Works).because("once a process, with `call=init_master`"),
    row("oclp_connect", "XP", S, Hook, "", NoEffect("X and P parse it and never call it")),
    row("oclp_play", "XP", A, Hook, "", OCLP_ASKED).because("lets players in when nobody answers, as X does"),
    row("oclp_publish", "XP", A, Hook, "", OCLP_ASKED).because("lets publishers in when nobody answers, as X does"),
    row("oclp_stream", "XP", A, Hook, "", TOLD),
    row("on_stream", "P", A, Hook, "", TOLD).because("the same as oclp_stream, with `clientid`"),
    row("oclp_pull", "XP", A, Hook, "", OCLP_ASKED).because("asked again at each attempt to reconnect"),
    row("on_pull", "P", A, Hook, "", OCLP_ASKED).because("the same as oclp_pull, with `clientid`"),
    row("oclp_push", "XP", A, Hook, "", OCLP_ASKED).because("8 at the most").many_here(),
    row("on_push", "P", A, Hook, "", OCLP_ASKED).because("the same as oclp_push, with `clientid`").many_here(),
    row("oclp_meta", "XP", A, Hook, "", OCLP_ASKED)
        .because("8 at the most; not asked where there is an oclp_push")
        .many_here(),
    row("on_meta", "P", A, Hook, "", OCLP_ASKED).because("the same as oclp_meta, with `clientid`").many_here(),
    row("oclp_record", "XP", A, Hook, "", RECORDS_LATER),
    row("on_record", "P", A, Hook, "", RECORDS_LATER),
    row("oclp_meta_type", "XP", MSA, OneOf(&["video", "audio", "both"]), "video", Works),
    row("oclp_meta_once", "XP", MSA, Flag, "on", Works),
    row("ignore_invalid_notify", "P", MSA, Flag, "off", Works)
        .because("for callbacks that are spelled `on_…`; those spelled `oclp_…` always let in"),
    own(
        "hook_targets",
        MSA,
        Special(1, 255, "`any` | address | network …"),
        "",
        "a hook names no target nearer than itself: a public one public addresses, a private one no loopback",
    ),
    own(
        "scheduler",
        A,
        Special(1, 2, "`on` | `off` [`origin=`URL]"),
        "off",
        "on: streams published here are in the directory that an http location with `scheduler` answers from",
    ),
    own("scheduler", LOCATION, Words(0, 0), "", "answers the oclp calls of all nodes; guard it with allow and deny"),
    own(
        "scheduler_update",
        LOCATION,
        Time,
        "60s",
        "as often as nodes say `act=update`; three missed ones and a stream is gone",
    ),
    own(
        "scheduler_push",
        LOCATION,
        Special(1, 4, "URL [`groupid=`ID] [`app=`NAME] [`name=`NAME]"),
        "",
        "what `oclp_push` and `oclp_meta` are sent to; the first that fits",
    )
    .many_here(),
    own("scheduler_secret", LOCATION, Text, "", "calls must be signed with it, see hook_secret"),
];

const ONE_PROCESS: Verdict =
    NoEffect("one process with one view of all streams: there is nothing to pass between workers");

static WORKERS: &[Row] = &[
    row("rtmp_auto_push", "ASW", ROOT, Flag, "off", ONE_PROCESS),
    row("rtmp_auto_push_reconnect", "ASW", ROOT, Time, "100ms", ONE_PROCESS),
    row("rtmp_socket_dir", "ASW", ROOT, Text, "/tmp", ONE_PROCESS),
    row("rtmp_auto_pull", "XP", MSA, Flag, "on", ONE_PROCESS),
    row("rtmp_auto_pull_port", "XP", MSA, Text, "unix:/tmp/inner.sock", ONE_PROCESS),
    row("multi_listen", "P", EVENTS, Words(1, 8), "", ONE_PROCESS).many_here(),
    row("stream_zone", "P", ROOT, Words(1, 8), "", ONE_PROCESS),
    row("inner_proxy", "P", HTTP, Words(1, 8), "", ONE_PROCESS).many_here(),
    row("broadcast", "P", HTTP, Words(1, 8), "", ONE_PROCESS).many_here(),
    row("broadcast_method", "P", HTTP, Words(1, 8), "", ONE_PROCESS),
    row("broadcast_version", "P", HTTP, Words(1, 8), "", ONE_PROCESS),
];

const CONTEXT_NAMES: &[(Contexts, &str)] = &[
    (Contexts::ROOT, "main"),
    (Contexts::EVENTS, "events"),
    (Contexts::RTMP, "rtmp"),
    (Contexts::SERVER, "server"),
    (Contexts::APPLICATION, "application"),
    (Contexts::RECORDER, "recorder"),
    (Contexts::HTTP, "http"),
    (Contexts::HTTP_SERVER, "http server"),
    (Contexts::LOCATION, "location"),
];

const NO_WORDS: &[&str] = &[];

const METHODS: &[&str] = &["get", "post"];

const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "ABRT", "FPE", "KILL", "SEGV", "PIPE", "ALRM", "TERM", "USR1", "USR2", "CHLD", "CONT",
    "STOP", "TSTP", "TTIN", "TTOU",
];

/// The number of a signal that [`Args::Signal`] takes, as this system counts.
pub fn signal_number(word: &str) -> Option<i32> {
    let named = || format!("SIG{}", word.to_ascii_uppercase()).parse::<nix::sys::signal::Signal>().ok();
    match values::number(word) {
        Some(number) => i32::try_from(number).ok(),
        None => named().map(|signal| signal as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_things_in_one_place() {
        for row in rows() {
            let same = rows_named(row.name).filter(|other| other.contexts.has(row.contexts)).count();
            assert_eq!(same, 1, "{}", row.name);
        }
    }

    #[test]
    fn every_default_could_be_written() {
        for row in rows().filter(|row| !row.default.is_empty() && !matches!(row.args, Special(..) | Words(..) | Kept)) {
            assert_eq!(row.args.refuse(row.name, row.default), None, "{}", row.name);
        }
    }

    #[test]
    fn every_default_of_our_own_has_its_reason() {
        for row in rows().filter(|row| row.forks == "livemill") {
            assert!(!row.reason.is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn texts_are_one_line_without_a_full_stop() {
        for row in rows() {
            let (Better(text) | NoEffect(text) | NotYet(text)) = row.verdict else { continue };
            assert!(!text.is_empty() && !text.contains('\n') && !text.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn rows_are_found_by_name_and_place() {
        assert!(find("live", Contexts::APPLICATION).is_some());
        assert!(find("live", Contexts::ROOT).is_none());
        assert!(find("application", Contexts::APPLICATION).is_none());
        assert_eq!(find("resolver", Contexts::EVENTS).unwrap().forks, "XP");
        assert_eq!(find("resolver", Contexts::SERVER).unwrap().forks, "W");
        assert!(find("nothing", Contexts::ROOT).is_none());
    }

    #[test]
    fn proxying_is_left_to_nginx() {
        assert!(matches!(http_verdict("proxy_pass"), Some(NotYet(text)) if text.contains("nginx")));
        assert_eq!(http_verdict("root"), Some(Works));
        assert_eq!(http_verdict("blubb"), None);
    }
}
