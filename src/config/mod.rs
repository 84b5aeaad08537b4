//! nginx's language, typed: a file becomes a tree, the tree is held against one table, and what is left is a [`Config`].
//!
//! - [`syntax`]: text to a tree, with `include`.
//! - [`directives`]: the one table of every directive: it drives checks, defaults, the report and `docs/directives.md`.
//! - [`verify`]: a tree held against the table.
//! - [`values`]: times, sizes, flags, addresses.
//! - [`build`]: the tree and the table to the structs below.
//! - [`http`]: `http {}`, typed.
//! - [`template`]: text with variables.
//! - [`hosts`]: which sockets to bind, and which server a connection means.
//! - [`diagnose`]: an error with its line and a caret.
//! - [`check`]: what the table says about one file: the migration report.
//! - [`page`]: what the table says about all: `docs/directives.md`.
//! - [`access`]: allow and deny.
//! - [`api`]: where the API listens.
//! - [`hooks`]: who is asked and told over HTTP.
//! - [`oclp`]: the callbacks of a cluster.
//! - [`exec`]: commands that are run beside streams.
//! - [`outputs`]: what becomes of a stream for those who watch over HTTP.
//! - [`relays`]: where streams are pushed to and pulled from.
//!
//! Loading reads files and does nothing else: no socket is bound, no log opened, no user changed. Where directives are
//! inherited (`rtmp` to `server` to `application`), the structs here hold the value in effect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use subtle::ConstantTimeEq;

pub mod access;
pub mod api;
pub mod build;
pub mod check;
pub mod diagnose;
pub mod directives;
pub mod exec;
pub mod hooks;
pub mod hosts;
pub mod http;
pub mod oclp;
pub mod outputs;
pub mod page;
pub mod relays;
pub mod syntax;
pub mod template;
pub mod values;
pub mod verify;

pub use access::{Access, Action};
pub use build::LoadOptions;
pub use diagnose::ConfigError;
pub use exec::Exec;
pub use hooks::{HookFormat, HookMethod, HookSecret, HookUrl, Hooks, NotifyRules};
pub use hosts::Endpoint;
pub use oclp::{HookTargets, OclpRule, OclpRules};
pub use outputs::{HttpOutput, HttpOutputs, Outputs};
pub use relays::Relays;

/// Everything one start needs to know. Cheap to share: each actor takes the `Arc` of its own server or application.
#[derive(Debug, Clone)]
pub struct Config {
    pub process: Process,
    pub limits: Limits,
    /// In the order of the file; `srv=N` of the control API counts them from 0.
    pub servers: Vec<Arc<Server>>,
    /// Every `log_format`, and `combined` first.
    pub log_formats: Vec<Arc<LogFormat>>,
    /// What is told once when the process has started.
    pub oclp_starts: Vec<oclp::OclpStart>,
    /// What is served over HTTP; None: nothing, as nginx does without an `http` block.
    pub http: Option<Arc<http::Http>>,
    /// None: `api off`.
    pub api: Option<Arc<api::Api>>,
    /// Every `exec_static`, wherever it stands, and how its child is kept.
    pub exec_static: Vec<(exec::ExecRule, exec::Keep)>,
    /// What the operator should read at start: one line each.
    pub warnings: Vec<Notice>,
}

/// What concerns the process and none of its servers.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// User and group to become after binding; the group of the user where none is named.
    pub user: Option<(String, Option<String>)>,
    pub pid: Option<PathBuf>,
    /// False where `pid` is the default: then a file that cannot be written is a warning, not the end.
    pub pid_is_written: bool,
    pub error_logs: Vec<ErrorLog>,
    pub error_log_format: ErrorLogFormat,
    /// Arbiters. `auto` and unset mean one a core: with one view of all streams, more workers cost nobody a stream.
    pub workers: NonZeroUsize,
    /// nginx goes to the background unless told not to; service managers and containers want the opposite.
    pub daemon: bool,
    pub prefix: PathBuf,
    pub worker_shutdown_timeout: Option<Duration>,
    /// `env NAME` (kept) and `env NAME=VALUE` (set).
    pub env: Vec<(String, Option<String>)>,
    pub rlimit_nofile: Option<u64>,
    pub working_directory: Option<PathBuf>,
}

impl Default for Process {
    fn default() -> Self {
        Self {
            user: None,
            pid: None,
            pid_is_written: false,
            error_logs: vec![ErrorLog { target: LogTarget::Stderr, level: Level::Info }],
            error_log_format: ErrorLogFormat::Text,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            daemon: false,
            prefix: PathBuf::from("."),
            worker_shutdown_timeout: None,
            env: Vec::new(),
            rlimit_nofile: None,
            working_directory: None,
        }
    }
}

/// One `error_log` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorLog {
    pub target: LogTarget,
    pub level: Level,
}

/// Where a log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    File(PathBuf),
    Stderr,
    Stdout,
    Off,
}

/// nginx's levels, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Emerg,
    Alert,
    Crit,
    Error,
    Warn,
    Notice,
    Info,
    Debug,
}

/// The shape of an error log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorLogFormat {
    Text,
    Json,
}

/// What strangers may cost, for the whole process. Written in `rtmp {}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `max_connections`; unset means as many as the open-files limit carries, decided at start (10 000 at most).
    pub max_connections: Option<u64>,
    pub max_connections_per_address: PerAddress,
    /// `connection_rate N burst=N`: new connections a second from one address.
    pub connection_rate: Rate,
    pub max_publishers_per_address: u32,
    /// Different stream names one address may publish in an hour.
    pub max_names_per_address: u32,
    /// Streams in the whole process.
    pub max_live_streams: u32,
    /// TLS handshakes in progress, for each worker.
    pub max_tls_handshakes: u32,
    pub tls_handshake_timeout: Duration,
    /// From accept to the end of the RTMP handshake. A shorter `timeout` in the server wins.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to `connect`.
    pub connect_timeout: Duration,
    /// From `connect` to the first publish or play.
    pub command_timeout: Duration,
    /// From an accepted publish to its first audio or video.
    pub first_media_timeout: Duration,
    /// Longest message before publish was accepted, in bytes; `max_message` holds afterwards.
    pub max_message_before_publish: usize,
    /// Message streams (`createStream`) of one connection.
    pub max_message_streams: u32,
    pub amf_max_depth: usize,
    pub amf_max_values: usize,
    /// Longest AMF string in a command, in bytes.
    pub amf_max_string: usize,
    /// Longest AMF string in metadata, in bytes.
    pub amf_max_data_string: usize,
    /// Control messages and commands a second.
    pub max_control_rate: u32,
    /// Unknown commands a second.
    pub max_unknown_command_rate: u32,
    /// Lines waiting for the log writer; what comes on top is counted and dropped.
    pub log_queue: usize,
    /// Lines a second with the same cause.
    pub log_rate: u32,
    /// Children of exec in the whole process.
    pub exec_max_processes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_connections_per_address: PerAddress { max: 100, is_written: false },
            connection_rate: Rate { per_second: 50, burst: 200 },
            max_publishers_per_address: 10,
            max_names_per_address: 200,
            max_live_streams: 2000,
            max_tls_handshakes: 64,
            tls_handshake_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(10),
            first_media_timeout: Duration::from_secs(20),
            max_message_before_publish: 64 << 10,
            max_message_streams: 16,
            amf_max_depth: 32,
            amf_max_values: 10_000,
            amf_max_string: 8 << 10,
            amf_max_data_string: 64 << 10,
            max_control_rate: 1000,
            max_unknown_command_rate: 20,
            log_queue: 8192,
            log_rate: 10,
            exec_max_processes: 256,
        }
    }
}

/// A bound for each address. The default spares the loopback: relays, tests and `exec ffmpeg` live there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerAddress {
    /// 0 means no bound.
    pub max: u32,
    pub is_written: bool,
}

impl PerAddress {
    /// The bound that holds for this peer, if one does. A unix socket has no address and no bound.
    pub fn for_peer(&self, peer: Option<IpAddr>) -> Option<u32> {
        let peer = peer?.to_canonical();
        (self.max > 0 && (self.is_written || !peer.is_loopback())).then_some(self.max)
    }
}

/// So many a second, with room for a burst. The bound spares the loopback unless it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 0 means no bound.
    pub per_second: u32,
    pub burst: u32,
}

/// One `server {}` of `rtmp {}`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its place in the file, from 0.
    pub index: usize,
    /// The virtual host in stream names: `serverid`, else the first exact `server_name`, else `default`.
    pub id: String,
    pub names: Vec<ServerName>,
    pub listens: Vec<Listen>,
    pub rtmp: RtmpOptions,
    /// Set whenever a `listen` says `ssl`.
    pub tls: Option<TlsFiles>,
    pub applications: Vec<Arc<Application>>,
    /// For sessions that end before they reach an application.
    pub access_log: Vec<AccessLog>,
    /// Those about connections.
    pub hooks: Arc<Hooks>,
}

impl Server {
    /// The application with exactly this name, else the one named `*`.
    pub fn application(&self, name: &str) -> Option<&Arc<Application>> {
        let named = |wanted: &str| self.applications.iter().find(|a| a.name == wanted);
        named(name).or_else(|| named("*"))
    }
}

/// A name a virtual host answers to.
#[derive(Debug, Clone)]
pub enum ServerName {
    Exact(String),
    /// `*.example.com`; holds `.example.com`.
    Suffix(String),
    /// `.example.com`: the name itself and everything below it; holds `.example.com`.
    Domain(String),
    /// `www.*`; holds `www.`.
    Prefix(String),
    Pattern(regex_lite::Regex),
}

/// Certificate and key in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// One `listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub address: ListenAddress,
    pub ssl: bool,
    pub proxy_protocol: bool,
    pub backlog: i32,
    pub reuseport: bool,
    pub so_keepalive: Option<Keepalive>,
    /// False: `[::]` takes IPv4 too, as nginx-rtmp has it (nginx's own http says the opposite). Where the same port is
    /// also listened on for `0.0.0.0`, loading makes this true unless the file says otherwise.
    pub ipv6only: bool,
    pub rcvbuf: Option<usize>,
    pub sndbuf: Option<usize>,
    pub default_server: bool,
    /// HTTP/2 over TLS; `http {}` only.
    pub http2: bool,
    /// `bind`: a socket of its own also where the wildcard listens on the same port.
    pub bind: bool,
    pub fastopen: Option<i32>,
    pub deferred: bool,
}

impl Listen {
    pub fn new(address: ListenAddress) -> Self {
        Self {
            address,
            ssl: false,
            proxy_protocol: false,
            backlog: BACKLOG,
            reuseport: false,
            so_keepalive: None,
            ipv6only: false,
            rcvbuf: None,
            sndbuf: None,
            default_server: false,
            http2: false,
            bind: false,
            fastopen: None,
            deferred: false,
        }
    }
}

/// Where to bind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `so_keepalive=on|off|idle:interval:count`; what is not given is left to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    Off,
    On { idle: Option<Duration>, interval: Option<Duration>, count: Option<u32> },
}

/// What a server says and expects on the wire, before an application is known.
#[derive(Debug, Clone, PartialEq)]
pub struct RtmpOptions {
    /// No progress in writing for this long closes.
    pub timeout: Duration,
    /// Zero: never ping.
    pub ping: Duration,
    pub ping_timeout: Duration,
    /// Close an idle connection instead of pinging it.
    pub busy: bool,
    /// Chunk streams of one connection. The family calls this `max_streams`.
    pub max_streams: u32,
    pub ack_window: u32,
    pub chunk_size: u32,
    pub max_message: usize,
    pub out_queue: usize,
    /// Written value only: `out_cork` has no effect without `buffer`.
    pub out_cork: Option<usize>,
    pub play_time_fix: bool,
    pub publish_time_fix: bool,
    pub so_keepalive: bool,
    pub buflen: Duration,
    pub tcp_nodelay: bool,
}

impl Default for RtmpOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            ping: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(30),
            busy: false,
            max_streams: 64,
            ack_window: 5_000_000,
            chunk_size: 4096,
            max_message: 8 << 20,
            out_queue: 256,
            out_cork: None,
            play_time_fix: true,
            publish_time_fix: true,
            so_keepalive: false,
            buflen: Duration::from_secs(1),
            tcp_nodelay: true,
        }
    }
}

/// One `application NAME {}`.
#[derive(Debug, Clone)]
pub struct Application {
    pub name: String,
    /// False: publish and play are accepted and nothing is passed on.
    pub live: bool,
    pub live_options: Live,
    pub access: Access,
    /// Empty: off.
    pub access_log: Vec<AccessLog>,
    /// Set: publishing from anywhere but the loopback needs `?key=KEY`.
    pub publish_key: Option<PublishKey>,
    /// What becomes of its streams beside RTMP.
    pub outputs: Outputs,
    pub hooks: Arc<Hooks>,
    pub relays: Arc<Relays>,
    /// What is run beside its streams.
    pub exec: Exec,
    /// What a scheduler is asked and told of them.
    pub oclp: Arc<OclpRules>,
}

impl Application {
    /// May this peer publish with this key? `key` is the value of the `key` argument, percent-decoded.
    pub fn key_opens(&self, peer: Option<IpAddr>, key: Option<&str>) -> bool {
        let Some(wanted) = &self.publish_key else { return true };
        let is_local = peer.is_none_or(|peer| peer.to_canonical().is_loopback());
        is_local || key.is_some_and(|key| wanted.matches(key))
    }
}

/// How an application carries live streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pub meta: Meta,
    pub interleave: bool,
    pub wait_key: bool,
    pub wait_video: bool,
    pub publish_notify: bool,
    pub play_restart: bool,
    pub idle_streams: bool,
    /// None: never.
    pub drop_idle_publisher: Option<Duration>,
    /// None: never.
    pub sync: Option<Duration>,
    pub gop_cache: bool,
    pub gop_max_frame_count: u32,
    pub gop_max_video_count: u32,
    pub gop_max_audio_count: u32,
    pub gop_max_bytes: usize,
    pub gop_max_time: Duration,
    /// Keep whole GOPs covering this much; zero: the latest GOP.
    pub cache_time: Duration,
    pub send_all: bool,
    pub low_latency: bool,
    /// Gather this long before writing (`merge`, `buffer`); zero: no gathering.
    pub merge: Duration,
    /// Audio waits at most this long for the next video frame to ride with; zero: never waits.
    pub audio_hold: Duration,
    pub out_queue_bytes: usize,
    pub out_queue_time: Duration,
    /// A player that takes no byte for this long is closed.
    pub slow_player_timeout: Duration,
    /// Each player's clock starts at 0.
    pub zero_start: bool,
    pub duplicate_publisher: DuplicatePublisher,
    /// A jump of the clock larger than this is smoothed.
    pub fix_timestamp: Duration,
    /// The legacy FLV codec id that means HEVC.
    pub hevc_codecid: u8,
    pub play_time_fix: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            meta: Meta::On,
            interleave: false,
            wait_key: true,
            wait_video: false,
            publish_notify: false,
            play_restart: false,
            idle_streams: true,
            drop_idle_publisher: None,
            sync: Some(Duration::from_millis(300)),
            // An instant first picture is what people expect today; `gop_cache off` gives the family's behaviour.
            gop_cache: true,
            gop_max_frame_count: 4096,
            gop_max_video_count: 2048,
            gop_max_audio_count: 2048,
            gop_max_bytes: 16 << 20,
            gop_max_time: Duration::from_secs(20),
            cache_time: Duration::ZERO,
            send_all: false,
            low_latency: false,
            merge: Duration::ZERO,
            audio_hold: Duration::from_millis(40),
            out_queue_bytes: 4 << 20,
            out_queue_time: Duration::from_secs(10),
            slow_player_timeout: Duration::from_secs(15),
            zero_start: false,
            duplicate_publisher: DuplicatePublisher::ReplaceIfStalled(Duration::from_secs(2)),
            fix_timestamp: Duration::from_secs(10),
            hevc_codecid: 12,
            play_time_fix: true,
        }
    }
}

/// What players get for `onMetaData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The server writes its own.
    On,
    /// The publisher's, unchanged.
    Copy,
    Off,
}

/// A second publisher of a name that is on air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicatePublisher {
    Reject,
    Replace,
    /// Replaces one that sent no media for this long, else is rejected.
    ReplaceIfStalled(Duration),
}

/// The key that opens publishing. It never shows in a log: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublishKey(String);

impl PublishKey {
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Compared in constant time: the answer's delay must not spell the key.
    pub fn matches(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }

    /// The key itself, to show it once at the first start.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PublishKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublishKey(…)")
    }
}

/// One `access_log` line.
#[derive(Debug, Clone)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: Arc<LogFormat>,
    /// False where it is the default: then a file that cannot be opened is a warning, not the end.
    pub is_written: bool,
}

/// A `log_format`: its text, which the log compiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFormat {
    pub name: String,
    pub template: String,
}

impl LogFormat {
    /// The family's `combined`.
    pub fn combined() -> Self {
        Self { name: "combined".to_owned(), template: COMBINED.to_owned() }
    }
}

/// One line for the operator about one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub place: syntax::Place,
    pub directive: String,
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: \"{}\" {}", self.place, self.directive, self.text)
    }
}

/// What the command line adds to a start without a file.
#[derive(Debug, Clone)]
pub struct BuiltIn {
    pub port: u16,
    /// 0: no HTTP.
    pub http_port: u16,
    /// None: as usual; 0: the API has its socket only.
    pub api_port: Option<u16>,
    /// None: anybody may publish (`--open`).
    pub publish_key: Option<String>,
}

impl Default for BuiltIn {
    fn default() -> Self {
        Self { port: RTMP_PORT, http_port: http::HTTP_PORT, api_port: None, publish_key: None }
    }
}

impl Config {
    /// The server of a start without a file: RTMP and HTTP on all addresses, application `live`, instant first picture.
    ///
    /// It listens on `0.0.0.0` and `[::]` with two sockets, so that a machine without IPv6 loses only the second:
    /// whoever binds decides that.
    pub fn built_in(options: BuiltIn) -> Self {
        let listen = |ip: IpAddr| {
            let address = ListenAddress::Tcp(SocketAddr::new(ip, options.port));
            Listen { ipv6only: ip.is_ipv6(), ..Listen::new(address) }
        };
        let application = Application {
            name: "live".to_owned(),
            live: true,
            live_options: Live::default(),
            access: Access::default(),
            access_log: Vec::new(),
            publish_key: options.publish_key.map(PublishKey::new),
            outputs: Outputs::default(),
            hooks: Arc::default(),
            relays: Arc::default(),
            exec: Exec::default(),
            oclp: Arc::default(),
        };
        let server = Server {
            index: 0,
            id: DEFAULT_SERVER_ID.to_owned(),
            names: Vec::new(),
            listens: vec![listen(Ipv4Addr::UNSPECIFIED.into()), listen(Ipv6Addr::UNSPECIFIED.into())],
            rtmp: RtmpOptions::default(),
            tls: None,
            applications: vec![Arc::new(application)],
            access_log: Vec::new(),
            hooks: Arc::default(),
        };
        Self {
            process: Process::default(),
            oclp_starts: Vec::new(),
            limits: Limits::default(),
            servers: vec![Arc::new(server)],
            log_formats: vec![Arc::new(LogFormat::combined())],
            http: (options.http_port > 0).then(|| Arc::new(http::Http::built_in(options.http_port))),
            api: Some(Arc::new(options.api_port.map_or_else(Default::default, |port| api::Api::at_port(port, true)))),
            exec_static: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// The port of RTMP, and of a `listen` that names none.
pub const RTMP_PORT: u16 = 1935;

/// nginx's backlog on Linux.
pub const BACKLOG: i32 = 511;

/// The virtual host where nothing names one.
pub const DEFAULT_SERVER_ID: &str = "default";

/// The family's access log line.
const COMBINED: &str = "$remote_addr [$time_local] $command \"$app\" \"$name\" \"$args\" - $bytes_received $bytes_sent \
                        \"$pageurl\" \"$flashver\" ($session_readable_time)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_can_be_shared_between_threads() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<Config>();
        shared::<Arc<Server>>();
        shared::<Endpoint>();
    }

    #[test]
    fn started_with_nothing_it_listens_on_both_families() {
        let config = Config::built_in(BuiltIn::default());
        let addresses: Vec<String> = config.endpoints().iter().map(|e| e.listen.address.to_string()).collect();
        assert_eq!(addresses, ["0.0.0.0:1935", "[::]:1935"]);
        assert!(config.servers[0].application("live").is_some());
        assert!(config.servers[0].application("other").is_none());
    }

    #[test]
    fn a_publish_key_is_asked_of_strangers_only() {
        let config = Config::built_in(BuiltIn { publish_key: Some("s3cret".into()), ..BuiltIn::default() });
        let application = config.servers[0].application("live").unwrap();
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert!(application.key_opens(ip("127.0.0.1"), None));
        assert!(application.key_opens(ip("::ffff:127.0.0.1"), None));
        assert!(application.key_opens(None, None), "a unix socket is local");
        assert!(!application.key_opens(ip("192.0.2.1"), None));
        assert!(!application.key_opens(ip("192.0.2.1"), Some("s3cre")));
        assert!(application.key_opens(ip("192.0.2.1"), Some("s3cret")));
        assert!(!format!("{config:?}").contains("s3cret"), "keys do not show in debug output");
    }

    #[test]
    fn the_default_bound_for_each_address_spares_the_loopback() {
        let default = Limits::default().max_connections_per_address;
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        assert_eq!(default.for_peer(ip("127.0.0.1")), None);
        assert_eq!(default.for_peer(ip("192.0.2.1")), Some(100));
        assert_eq!(PerAddress { is_written: true, ..default }.for_peer(ip("::1")), Some(100));
        assert_eq!(PerAddress { max: 0, is_written: true }.for_peer(ip("192.0.2.1")), None);
    }
}
