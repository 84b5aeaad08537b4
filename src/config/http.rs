//! What is served over HTTP: the `http {}` of a configuration, typed, or what a start without one serves.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regex_lite::Regex;

use super::hosts::{self, VirtualHost};
use super::oclp::Scheduler;
use super::template::Template;
use super::{Access, AccessLog, Endpoint, Listen, ListenAddress, ServerName, TlsFiles};

pub mod read;
pub mod statistics;

use statistics::Statistics;

/// All HTTP servers, with what they have in common. Values are those in effect: inheritance is done.
#[derive(Debug, Clone)]
pub struct Http {
    /// In the order of the file.
    pub servers: Vec<Arc<HttpServer>>,
    /// Nobody wrote this: the server of a start without a file.
    pub is_built_in: bool,
    /// From accept, or the end of the last answer, to the end of a request's head.
    pub client_header_timeout: Duration,
    /// Zero: a connection carries one request.
    pub keepalive_timeout: Duration,
}

/// One `server {}` of `http {}`.
#[derive(Debug, Clone)]
pub struct HttpServer {
    /// Its place in the file, from 0.
    pub index: usize,
    pub names: Vec<ServerName>,
    /// `$server_name`: the first `server_name` as it was written.
    pub name: String,
    pub listens: Vec<Listen>,
    /// Set whenever a `listen` says `ssl`.
    pub tls: Option<TlsFiles>,
    pub merge_slashes: bool,
    /// What holds where no location matches, and around all of them.
    pub outermost: Arc<Location>,
}

/// One `location`, or the server around them.
#[derive(Debug, Clone)]
pub struct Location {
    pub pattern: Pattern,
    pub settings: Settings,
    /// `return`: answers before anything else is looked at.
    pub answer: Option<Return>,
    pub try_files: Option<TryFiles>,
    pub handler: Handler,
    /// `internal`: reached by error pages and `try_files` only.
    pub is_internal: bool,
    /// In the order of the file.
    pub locations: Vec<Arc<Self>>,
}

/// What a location matches.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// The server itself.
    Server,
    /// `= /uri`
    Exact(String),
    /// `/uri`, or `^~ /uri`, after which no pattern is tried.
    Prefix { text: String, is_final: bool },
    /// `~`, `~*`
    Regex(Regex),
    /// `@name`
    Named(String),
}

/// What answers in a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    Files,
    /// `player on`: the page and every media address, below this location.
    Player,
    /// W's `flv_live on`: `?port=&app=&stream=`.
    FlvByQuery,
    /// X's and P's `flv_live PORT [app=] [audio=] [video=]`.
    FlvByPath {
        port: Option<u16>,
        app: Option<String>,
        audio: bool,
        video: bool,
    },
    /// `rtmp_control`
    Control(ControlSections),
    /// `scheduler`: the calls of a cluster.
    Scheduler(Arc<Scheduler>),
    /// `rtmp_stat`
    Statistics(Statistics),
    /// Known and not built: named by the directive.
    NotBuilt(&'static str),
    /// Work of the real nginx: named by the directive.
    Elsewhere(String),
    /// Guarded by something livemill does not do, so that nobody may pass: named by the directive.
    Guarded(String),
}

/// What `rtmp_control` allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControlSections {
    pub record: bool,
    pub drop: bool,
    pub redirect: bool,
}

/// What a location takes over from the blocks around it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub root: Root,
    pub index: Vec<Template>,
    pub autoindex: Option<Autoindex>,
    pub types: Arc<Types>,
    pub default_type: String,
    pub charset: Option<String>,
    pub charset_types: Arc<Vec<String>>,
    pub headers: Vec<Header>,
    pub expires: Expires,
    pub error_pages: Vec<ErrorPage>,
    pub access: Access,
    /// Empty: off.
    pub access_log: Vec<HttpLog>,
    pub gzip: Gzip,
    pub client_max_body_size: u64,
    pub server_tokens: ServerTokens,
    /// `keepalive_timeout 0` here: the answer closes the connection.
    pub closes: bool,
    pub etag: bool,
    pub if_modified_since: IfModifiedSince,
    pub max_ranges: usize,
    pub absolute_redirect: bool,
    pub port_in_redirect: bool,
    pub server_name_in_redirect: bool,
    pub log_not_found: bool,
    pub chunked: bool,
    /// `disable_symlinks off`: links may lead anywhere.
    pub follows_links: bool,
}

/// One `access_log` of `http {}`, its format ready to be filled in.
#[derive(Debug, Clone)]
pub struct HttpLog {
    pub log: AccessLog,
    pub template: Arc<Template>,
}

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The whole address is looked for below it.
    Root(Template),
    /// It takes the place of so many bytes of the address; None: of all of it, as in a location with a pattern.
    Alias(Template, Option<usize>),
}

/// How a folder is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autoindex {
    pub exact_size: bool,
    pub local_time: bool,
    pub is_json: bool,
}

/// File name endings and what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Types(HashMap<String, String>);

/// `add_header`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: String,
    pub value: Template,
    /// Also on answers that are errors.
    pub always: bool,
}

/// `expires`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expires {
    Off,
    Epoch,
    Max,
    /// From now on, in seconds; negative: it has expired.
    Access(i64),
    /// From the file's change on.
    Modified(i64),
    /// `@15h30m`: at this second of the day.
    Daily(u32),
}

/// `error_page`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    pub codes: Vec<u16>,
    /// `=200`: what the answer's status becomes; `=` alone: what the page says.
    pub becomes: Option<Option<u16>>,
    pub target: Template,
}

/// `return`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    pub code: u16,
    /// The text, or where a redirect leads.
    pub text: Option<Template>,
}

/// `try_files`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryFiles {
    /// What is looked for, and whether a folder is meant.
    pub files: Vec<(Template, bool)>,
    pub last: LastTry,
}

/// Where `try_files` ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastTry {
    Uri(Template),
    Named(String),
    Code(u16),
}

/// `gzip` and its kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gzip {
    pub on: bool,
    /// Lower case; `*` is all.
    pub types: Arc<Vec<String>>,
    pub min_length: u64,
    pub level: u32,
    pub vary: bool,
    /// Also for HTTP/1.0.
    pub http_1_0: bool,
    /// Also for requests that came through a proxy.
    pub proxied: bool,
    /// `gzip_static`
    pub precompressed: Precompressed,
    /// `gzip_disable`: browsers that do not get it.
    pub disable: Vec<Regex2>,
}

/// A pattern that can be compared, by its text.
#[derive(Debug, Clone)]
pub struct Regex2(pub Regex);

impl PartialEq for Regex2 {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Regex2 {}

/// `gzip_static`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precompressed {
    Off,
    On,
    Always,
}

/// `server_tokens`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerTokens {
    On,
    Off,
    Build,
}

/// `if_modified_since`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfModifiedSince {
    Off,
    Exact,
    Before,
}

impl VirtualHost for HttpServer {
    fn names(&self) -> &[ServerName] {
        &self.names
    }

    fn listens(&self) -> &[Listen] {
        &self.listens
    }

    fn listens_mut(&mut self) -> &mut [Listen] {
        &mut self.listens
    }

    fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }
}

impl Http {
    /// The server of a start without a file: the page and every media address, on all addresses, with two sockets as
    /// RTMP has them.
    pub fn built_in(port: u16) -> Self {
        let listen = |ip: IpAddr| Listen {
            ipv6only: ip.is_ipv6(),
            ..Listen::new(ListenAddress::Tcp(SocketAddr::new(ip, port)))
        };
        let outermost = Location {
            pattern: Pattern::Server,
            settings: Settings { server_tokens: ServerTokens::Off, ..Settings::default() },
            answer: None,
            try_files: None,
            handler: Handler::Player,
            is_internal: false,
            locations: Vec::new(),
        };
        let server = HttpServer {
            index: 0,
            names: Vec::new(),
            name: String::new(),
            listens: vec![listen(Ipv4Addr::UNSPECIFIED.into()), listen(Ipv6Addr::UNSPECIFIED.into())],
            tls: None,
            merge_slashes: true,
            outermost: Arc::new(outermost),
        };
        Self {
            servers: vec![Arc::new(server)],
            is_built_in: true,
            client_header_timeout: HEADER_TIMEOUT,
            keepalive_timeout: KEEPALIVE,
        }
    }

    /// Every access log of every block, some more than once.
    pub fn access_logs(&self) -> Vec<&AccessLog> {
        fn collect<'a>(location: &'a Location, logs: &mut Vec<&'a AccessLog>) {
            logs.extend(location.settings.access_log.iter().map(|log| &log.log));
            for inner in &location.locations {
                collect(inner, logs);
            }
        }
        let mut logs = Vec::new();
        for server in &self.servers {
            collect(&server.outermost, &mut logs);
        }
        logs
    }

    /// The sockets to bind, each with the servers behind it.
    pub fn endpoints(&self) -> Vec<Endpoint<HttpServer>> {
        hosts::endpoints(&self.servers)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: Root::Root(Template::plain(PathBuf::from("html").to_string_lossy())),
            index: vec![Template::plain("index.html")],
            autoindex: None,
            types: Arc::new(Types::default()),
            default_type: "text/plain".to_owned(),
            charset: None,
            charset_types: Arc::new(CHARSET_TYPES.iter().map(|&text| text.to_owned()).collect()),
            headers: Vec::new(),
            expires: Expires::Off,
            error_pages: Vec::new(),
            access: Access::default(),
            access_log: Vec::new(),
            gzip: Gzip::default(),
            client_max_body_size: 1 << 20,
            server_tokens: ServerTokens::On,
            closes: false,
            etag: true,
            if_modified_since: IfModifiedSince::Exact,
            max_ranges: usize::MAX,
            absolute_redirect: true,
            port_in_redirect: true,
            server_name_in_redirect: false,
            log_not_found: true,
            chunked: true,
            follows_links: false,
        }
    }
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            on: false,
            types: Arc::new(vec!["text/html".to_owned()]),
            min_length: 20,
            level: 1,
            vary: false,
            http_1_0: false,
            proxied: false,
            precompressed: Precompressed::Off,
            disable: Vec::new(),
        }
    }
}

impl Types {
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// The type of a file by the ending of its name.
    pub fn of(&self, extension: &str) -> Option<&str> {
        self.0.get(&extension.to_ascii_lowercase()).map(String::as_str)
    }
}

/// A stranger may hold a connection open this long without having asked for anything. nginx says 60 s.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// nginx's.
pub const KEEPALIVE: Duration = Duration::from_secs(75);

/// The port of HTTP where nothing is configured.
pub const HTTP_PORT: u16 = 8080;

const CHARSET_TYPES: &[&str] =
    &["text/html", "text/xml", "text/plain", "text/vnd.wap.wml", "application/javascript", "application/rss+xml"];
