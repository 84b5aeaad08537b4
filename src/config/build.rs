//! The tree and the table to the structs of [`super`].

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access::{Rule, parse_network};
use super::check::{self, Verdict};
use super::diagnose::{Problem, nearest};
use super::directives::{self, Contexts};
use super::hosts::{self, Written};
use super::http;
use super::syntax::{self, Directive, Disk, Place, Tree, Word};
use super::values::{self, Resolve};
use super::verify::verify;
use super::{
    Access, AccessLog, Action, Application, Config, ConfigError, DuplicatePublisher, ErrorLog, ErrorLogFormat, Level,
    Limits, Listen, ListenAddress, Live, LogFormat, LogTarget, Meta, Notice, PerAddress, Process, PublishKey,
    RTMP_PORT, Rate, RtmpOptions, Server, ServerName, TlsFiles,
};

mod api;
mod exec;
mod hooks;
pub(super) mod oclp;
mod outputs;
mod relays;

/// What the command line says about a configuration file.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `-p`; None: made from the path of the file, see [`default_prefix`].
    pub prefix: Option<PathBuf>,
    /// `-g`: directives in front of the file's.
    pub globals: Option<String>,
}

impl LoadOptions {
    /// The folder that logs, pid and working files are relative to.
    pub fn prefix_for(&self, path: &Path) -> PathBuf {
        self.prefix.clone().unwrap_or_else(|| default_prefix(path))
    }
}

/// nginx has its prefix compiled in. Here the file tells: `PREFIX/conf/nginx.conf`, else the folder of the file.
pub fn default_prefix(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match folder.parent().filter(|_| folder.ends_with("conf")) {
        Some(prefix) if prefix.as_os_str().is_empty() => PathBuf::from("."),
        Some(prefix) => prefix.to_owned(),
        None => folder.to_owned(),
    }
}

/// Reads a file and everything it includes, without a look at what it says. `sources` holds the texts, for `-T`.
pub fn read(path: &Path, options: &LoadOptions) -> Tree {
    syntax::read(path, options.globals.as_deref(), &mut Disk)
}

impl Config {
    /// Reads a file and everything it includes. Nothing is bound, opened for writing or changed.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ConfigError> {
        Self::from_tree(&read(path, options), path, options)
    }

    /// What [`Config::load`] does after reading. `path` is the main file.
    pub fn from_tree(tree: &Tree, path: &Path, options: &LoadOptions) -> Result<Self, ConfigError> {
        build(tree, path, &options.prefix_for(path), values::resolve).map_err(|problem| problem.show(&tree.sources))
    }

    /// A configuration out of memory: includes stay unread and no name is resolved.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, ConfigError> {
        let tree = syntax::parse(name, bytes);
        let path = Path::new(name);
        build(&tree, path, &default_prefix(path), |_| None).map_err(|problem| problem.show(&tree.sources))
    }
}

fn build(tree: &Tree, path: &Path, prefix: &Path, resolve: Resolve) -> Result<Config, Problem> {
    let root = Scope::root(&tree.directives);
    let rtmp = root.own("rtmp").next();
    let web = root.own("http").next();
    // Formats may be used before they are written; an error in one is told when its turn comes.
    let formats = log_formats(rtmp);
    let known = formats.as_deref().unwrap_or_default();
    let warnings = verify(tree, &|directive, context| match directive.name.text.as_str() {
        "access_log" if formats.is_ok() => log_line(directive, known).map(drop),
        _ => read_words(directive, context, resolve),
    })?;
    let log_formats = formats?;
    let paths = Paths { prefix: prefix.to_owned(), conf: path.parent().unwrap_or(Path::new("")).to_owned() };
    let process = process(&root, &paths)?;
    let api = api::api(&root, &paths, resolve)?;
    let inner = root.inside(rtmp);
    let mut builder = Builder { paths: paths.clone(), resolve, log_formats, warnings, folders: Vec::new() };
    let mut exec_static = builder.statics(&inner)?;
    let limits = limits(&inner, rtmp)?;
    let mut servers = Vec::new();
    let mut listens = Vec::new();
    for directive in inner.own("server") {
        let scope = inner.inside(Some(directive));
        let server = builder.server(servers.len(), &scope, &mut listens)?;
        servers.push(server);
        exec_static.append(&mut builder.statics(&scope)?);
        for application in scope.own("application") {
            exec_static.append(&mut builder.statics(&scope.inside(Some(application)))?);
        }
    }
    hosts::agree(&mut servers, &listens)?;
    hosts::share_port(&mut servers, &listens);
    hosts::name(&mut servers);
    let mut warnings = builder.warnings;
    let http = web.map(|web| http::read::http(&root.inside(Some(web)), &paths, resolve, &mut warnings)).transpose()?;
    if servers.is_empty() && http.as_ref().is_none_or(|http| http.servers.is_empty()) {
        let place = rtmp.map_or_else(
            || Place { file: path.to_string_lossy().into(), line: 1, column: 1 },
            |d| d.name.place.clone(),
        );
        let text = "has no server: nothing will listen".to_owned();
        warnings.push(Notice { place, directive: "rtmp".to_owned(), text });
    }
    warnings.extend(missing(tree));
    Ok(Config {
        process,
        limits,
        servers: servers.into_iter().map(Arc::new).collect(),
        log_formats: builder.log_formats,
        oclp_starts: oclp::starts(&inner)?,
        http: http.map(Arc::new),
        api: api.map(Arc::new),
        exec_static,
        warnings,
    })
}

/// Reads what the table cannot check by type, so that errors come in the order of the file.
fn read_words(directive: &Directive, context: Contexts, resolve: Resolve) -> Result<(), Problem> {
    match (directive.name.text.as_str(), context) {
        ("listen", Contexts::SERVER) => listen(directive, resolve).map(drop),
        ("server_name", Contexts::SERVER) => server_names(directive).map(drop),
        (_, context) if super::verify::is_http(context) => http::read::check(directive, context, resolve),
        ("allow" | "deny", _) => access_rule(directive).map(drop),
        ("error_log", _) => error_log(directive).map(drop),
        ("api_listen", _) => api::listen(directive, resolve).map(drop),
        ("worker_processes", _) => workers(Some(directive)).map(drop),
        ("connection_rate", _) => connection_rate(Some(directive)).map(drop),
        ("duplicate_publisher", _) => duplicate_publisher(Some(directive)).map(drop),
        ("publish_key", _) => publish_key(directive).map(drop),
        ("push" | "pull" | "static_pull", _) => relays::rule(directive).map(drop),
        ("hook_secret", _) => hooks::check_secret(directive),
        ("hook_targets", _) => oclp::targets(directive).map(drop),
        ("scheduler", Contexts::APPLICATION) => oclp::in_scheduler(directive, &[]).map(drop),
        (name, _) if HOOKS.contains(&name) && !oclp::is_pingos(directive) => hooks::check_url(directive),
        (name, _) if OCLP.contains(&name) => oclp::check(directive),
        ("http_outputs", _) => outputs::check_http_outputs(directive),
        ("hls_dir_access", _) => outputs::check_dir_access(directive),
        ("hls_nested_index_filename", _) => outputs::check_index(directive),
        (name, _) if name.starts_with("exec") => exec::check(directive),
        _ => Ok(()),
    }
}

/// One line for each directive that is accepted and not built yet, however often it is written.
pub(super) fn missing(tree: &Tree) -> Vec<Notice> {
    let report = check::report(tree);
    let mut notices: Vec<(Notice, usize)> = Vec::new();
    for used in &report.used {
        let name = used.directive.as_str();
        let reason = match &used.verdict {
            Verdict::NotYet(text) => format!("does nothing yet: {text}"),
            Verdict::Unknown => "is unknown to livemill: kept, and nothing is done with it".to_owned(),
            _ => continue,
        };
        match notices.iter_mut().find(|(notice, _)| notice.directive == name && notice.text == reason) {
            Some((_, times)) => *times += 1,
            None => notices.push((Notice { place: used.place.clone(), directive: name.to_owned(), text: reason }, 1)),
        }
    }
    let finish = |(mut notice, times): (Notice, usize)| {
        if times > 1 {
            notice.text.push_str(&format!(" (written {times} times)"));
        }
        notice
    };
    notices.into_iter().map(finish).collect()
}

/// Relative paths become absolute ones.
#[derive(Clone)]
pub(super) struct Paths {
    pub(super) prefix: PathBuf,
    pub(super) conf: PathBuf,
}

/// A block and the blocks around it, the innermost first.
#[derive(Clone)]
pub(super) struct Scope<'a> {
    pub(super) blocks: Vec<&'a [Directive]>,
    context: Contexts,
    pub(super) directive: Option<&'a Directive>,
}

impl<'a> Scope<'a> {
    pub(super) fn root(directives: &'a [Directive]) -> Self {
        Self { blocks: vec![directives], context: Contexts::ROOT, directive: None }
    }

    /// The inside of a block. The root's directives are never inherited.
    pub(super) fn inside(&self, directive: Option<&'a Directive>) -> Self {
        let own: &[Directive] = directive.and_then(|directive| directive.block.as_deref()).unwrap_or_default();
        let outer = if self.context == Contexts::ROOT { &[] as &[_] } else { &self.blocks };
        let context = directive.and_then(|directive| super::verify::context_of(&directive.name.text, self.context));
        Self {
            blocks: std::iter::once(own).chain(outer.iter().copied()).collect(),
            context: context.unwrap_or(Contexts::RTMP),
            directive,
        }
    }

    /// The directives of this name in this block, in their order.
    pub(super) fn own(&self, name: &str) -> impl Iterator<Item = &'a Directive> {
        let block = self.blocks.first().copied().unwrap_or_default();
        block.iter().filter(move |directive| directive.name.text == name)
    }

    /// All directives of these names, own ones first, then those of the block around, and so on.
    pub(super) fn all(&self, names: &'static [&'static str]) -> impl Iterator<Item = &'a Directive> {
        let directives = self.blocks.iter().flat_map(|block| block.iter());
        directives.filter(move |directive| names.contains(&directive.name.text.as_str()))
    }

    /// The directive in effect: the last one of the innermost block that has one.
    pub(super) fn effective(&self, name: &str) -> Option<&'a Directive> {
        self.blocks.iter().find_map(|block| block.iter().rev().find(|directive| directive.name.text == name))
    }

    /// The word in effect, else the default of the table.
    pub(super) fn word(&self, name: &str) -> &'a str {
        match self.effective(name).and_then(|directive| directive.args.first()) {
            Some(word) => &word.text,
            None => directives::find(name, self.context).map_or("", |row| row.default),
        }
    }

    pub(super) fn written(&self, name: &str) -> Option<&'a str> {
        self.effective(name)?.args.first().map(|word| word.text.as_str())
    }

    // The table checked what is written, a test of its own the defaults: the fallbacks below are never taken.

    pub(super) fn flag(&self, name: &str) -> bool {
        values::flag(self.word(name)).unwrap_or_default()
    }

    pub(super) fn time(&self, name: &str) -> Duration {
        values::time(self.word(name)).unwrap_or_default()
    }

    /// None for `off`, and for 0, which means the same.
    pub(super) fn time_or_off(&self, name: &str) -> Option<Duration> {
        values::time(self.word(name)).filter(|time| !time.is_zero())
    }

    pub(super) fn number(&self, name: &str) -> u32 {
        values::number(self.word(name)).map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    pub(super) fn size(&self, name: &str) -> usize {
        values::size(self.word(name)).map_or(0, |size| usize::try_from(size).unwrap_or(usize::MAX))
    }
}

fn process(root: &Scope<'_>, paths: &Paths) -> Result<Process, Problem> {
    let full = |text: &str| paths.prefix.join(text);
    let daemon = root.flag("daemon");
    let user = root.effective("user").and_then(|directive| {
        let (name, group) = directive.args.split_first()?;
        Some((name.text.clone(), group.first().map(|word| word.text.clone())))
    });
    // `pid off;` is how newer nginx says that no file is wanted.
    let pid = root.word("pid");
    let pid_is_written = root.effective("pid").is_some();
    let env = root.own("env").filter_map(|directive| directive.args.first()).map(|word| {
        let (name, value) = word.text.split_once('=').map_or((word.text.as_str(), None), |(n, v)| (n, Some(v)));
        (name.to_owned(), value.map(str::to_owned))
    });
    Ok(Process {
        user,
        pid: (pid != "off").then(|| full(pid)),
        pid_is_written,
        error_logs: error_logs(root, paths, daemon)?,
        error_log_format: match root.word("error_log_format").to_ascii_lowercase().as_str() {
            "json" => ErrorLogFormat::Json,
            _ => ErrorLogFormat::Text,
        },
        workers: workers(root.effective("worker_processes"))?,
        daemon,
        prefix: paths.prefix.clone(),
        worker_shutdown_timeout: root.written("worker_shutdown_timeout").and_then(values::time),
        env: env.collect(),
        rlimit_nofile: root.written("worker_rlimit_nofile").and_then(values::number),
        working_directory: root.written("working_directory").map(full),
    })
}

/// Threads beyond any machine's cores only cost memory; beyond what the system gives, the start fails.
const MAX_WORKERS: usize = 1024;

fn workers(directive: Option<&Directive>) -> Result<NonZeroUsize, Problem> {
    let default = Process::default().workers;
    let Some(directive) = directive else { return Ok(default) };
    let Some(word) = directive.args.first().filter(|word| word.text != "auto") else { return Ok(default) };
    let number = values::number(&word.text).and_then(|number| usize::try_from(number).ok());
    number.filter(|number| *number <= MAX_WORKERS).and_then(NonZeroUsize::new).ok_or_else(|| {
        Problem::at_word("\"worker_processes\" directive invalid value", directive, word)
            .help(format!("it takes a number from 1 to {MAX_WORKERS}, or `auto`: one worker a core"))
    })
}

fn error_logs(root: &Scope<'_>, paths: &Paths, daemon: bool) -> Result<Vec<ErrorLog>, Problem> {
    let mut logs = Vec::new();
    for directive in root.own("error_log") {
        let level = error_log(directive)?;
        // What goes nowhere yet is in the report.
        let Some(target) = directive.args.first().filter(|word| !is_elsewhere(&word.text)) else { continue };
        let target = values::log_target(&target.text, |text| paths.prefix.join(text));
        logs.push(ErrorLog { target, level });
    }
    if logs.is_empty() && daemon {
        // Nobody reads the stderr of a daemon.
        let target = LogTarget::File(paths.prefix.join("logs/error.log"));
        logs.push(ErrorLog { target, level: Level::Error });
    }
    if logs.is_empty() { Ok(Process::default().error_logs) } else { Ok(logs) }
}

/// Logs that nginx can write and livemill cannot.
pub(super) fn is_elsewhere(target: &str) -> bool {
    target.starts_with("syslog:") || target.starts_with("memory:")
}

/// The level of one `error_log`; as in nginx it is `error` where none is written.
fn error_log(directive: &Directive) -> Result<Level, Problem> {
    let mut level = None;
    for word in directive.args.iter().skip(1) {
        let Some(read) = values::level(&word.text) else {
            let meant = nearest(&word.text, LEVELS.iter().copied());
            return Err(Problem::at_word(format!("invalid log level \"{}\"", word.text), directive, word)
                .maybe_help(meant.map(|meant| format!("did you mean `{meant}`?"))));
        };
        if level.replace(read).is_some() {
            return Err(Problem::at_word(format!("duplicate log level \"{}\"", word.text), directive, word));
        }
    }
    Ok(level.unwrap_or(Level::Error))
}

fn limits(scope: &Scope<'_>, rtmp: Option<&Directive>) -> Result<Limits, Problem> {
    Ok(Limits {
        max_connections: max_connections(rtmp),
        max_connections_per_address: PerAddress {
            max: scope.number("max_connections_per_address"),
            is_written: scope.effective("max_connections_per_address").is_some(),
        },
        connection_rate: connection_rate(scope.effective("connection_rate"))?,
        max_publishers_per_address: scope.number("max_publishers_per_address"),
        max_names_per_address: scope.number("max_names_per_address"),
        max_live_streams: scope.number("max_live_streams"),
        max_tls_handshakes: scope.number("max_tls_handshakes"),
        tls_handshake_timeout: scope.time("tls_handshake_timeout"),
        handshake_timeout: scope.time("handshake_timeout"),
        connect_timeout: scope.time("connect_timeout"),
        command_timeout: scope.time("command_timeout"),
        first_media_timeout: scope.time("first_media_timeout"),
        max_message_before_publish: scope.size("max_message_before_publish"),
        max_message_streams: scope.number("max_message_streams"),
        amf_max_depth: scope.number("amf_max_depth") as usize,
        amf_max_values: scope.number("amf_max_values") as usize,
        amf_max_string: scope.size("amf_max_string"),
        amf_max_data_string: scope.size("amf_max_data_string"),
        max_control_rate: scope.number("max_control_rate"),
        max_unknown_command_rate: scope.number("max_unknown_command_rate"),
        log_queue: scope.number("log_queue") as usize,
        log_rate: scope.number("log_rate"),
        exec_max_processes: scope.number("exec_max_processes"),
    })
}

/// One value for the process, wherever it stands: the last one in the file.
fn max_connections(rtmp: Option<&Directive>) -> Option<u64> {
    fn last(directives: &[Directive]) -> Option<u64> {
        directives.iter().rev().find_map(|directive| match (&directive.block, directive.args.first()) {
            (Some(block), _) => last(block),
            (None, Some(word)) if directive.name.text == "max_connections" => values::number(&word.text),
            _ => None,
        })
    }
    last(rtmp?.block.as_deref()?)
}

fn connection_rate(directive: Option<&Directive>) -> Result<Rate, Problem> {
    let Some(directive) = directive else { return Ok(Limits::default().connection_rate) };
    let mut rate = Rate { per_second: 0, burst: 0 };
    for (index, word) in directive.args.iter().enumerate() {
        let (field, text) = match (index, word.text.strip_prefix("burst=")) {
            (0, _) => (&mut rate.per_second, word.text.as_str()),
            (_, Some(burst)) => (&mut rate.burst, burst),
            _ => return Err(Problem::at_word(format!("invalid parameter \"{}\"", word.text), directive, word)),
        };
        *field = values::number(text)
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| Problem::at_word("\"connection_rate\" directive invalid number", directive, word))?;
    }
    // A burst smaller than the rate would be the rate.
    rate.burst = rate.burst.max(rate.per_second);
    Ok(rate)
}

/// Formats may stand anywhere in `rtmp`, and be used before they are written.
fn log_formats(rtmp: Option<&Directive>) -> Result<Vec<Arc<LogFormat>>, Problem> {
    fn collect(directives: &[Directive], formats: &mut Vec<Arc<LogFormat>>) -> Result<(), Problem> {
        for directive in directives {
            if let Some(block) = &directive.block {
                collect(block, formats)?;
            }
            let ("log_format", Some((name, template))) = (directive.name.text.as_str(), directive.args.split_first())
            else {
                continue;
            };
            if formats.iter().any(|format| format.name == name.text) {
                let message = format!("duplicate \"log_format\" name \"{}\"", name.text);
                return Err(Problem::at_word(message, directive, name));
            }
            // nginx 1.11.8's `escape=` is about how values are written, and they are always written safely.
            let template = template.iter().enumerate().filter(|(i, word)| *i > 0 || !word.text.starts_with("escape="));
            let template = template.map(|(_, word)| word.text.as_str()).collect();
            formats.push(Arc::new(LogFormat { name: name.text.clone(), template }));
        }
        Ok(())
    }
    let mut formats = vec![Arc::new(LogFormat::combined())];
    collect(rtmp.and_then(|rtmp| rtmp.block.as_deref()).unwrap_or_default(), &mut formats)?;
    Ok(formats)
}

/// The name of the format of one `access_log`.
fn log_line<'a>(directive: &'a Directive, formats: &[Arc<LogFormat>]) -> Result<&'a str, Problem> {
    // X's and P's `trunc=` may stand after the format or in its place.
    let mut words = directive.args.iter().skip(1).filter(|word| !word.text.starts_with("trunc="));
    let format = words.next();
    if words.next().is_some() {
        return Err(Problem::at("invalid number of arguments in \"access_log\" directive", directive));
    }
    let Some(format) = format.filter(|_| directive.args.first().is_some_and(|path| path.text != "off")) else {
        return Ok("combined");
    };
    if formats.iter().any(|known| known.name == format.text) {
        return Ok(&format.text);
    }
    let meant = nearest(&format.text, formats.iter().map(|known| known.name.as_str()));
    Err(Problem::at_word(format!("unknown log format \"{}\"", format.text), directive, format)
        .maybe_help(meant.map(|meant| format!("did you mean `{meant}`?"))))
}

struct Builder {
    paths: Paths,
    resolve: Resolve,
    log_formats: Vec<Arc<LogFormat>>,
    warnings: Vec<Notice>,
    /// What is cleaned, so far.
    folders: Vec<outputs::Folder>,
}

impl Builder {
    fn server<'a>(
        &mut self,
        index: usize,
        scope: &Scope<'a>,
        written: &mut Vec<Written<'a>>,
    ) -> Result<Server, Problem> {
        let mut listens = Vec::new();
        for directive in scope.own("listen") {
            written.push(Written { server: index, index: listens.len(), directive });
            let (listen, remark) = listen(directive, self.resolve)?;
            if let Some(text) = remark {
                self.warn(directive, text);
            }
            listens.push(listen);
        }
        if listens.is_empty() {
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), RTMP_PORT);
            listens.extend([Listen::new(ListenAddress::Tcp(any))]);
            written.extend(scope.directive.map(|directive| Written { server: index, index: 0, directive }));
        }
        let mut names = Vec::new();
        for directive in scope.own("server_name") {
            names.append(&mut server_names(directive)?);
        }
        let mut applications: Vec<(Arc<Application>, &Directive)> = Vec::new();
        for directive in scope.own("application") {
            let application = self.application(directive, &scope.inside(Some(directive)), &listens)?;
            let same = applications.iter().find(|(known, _)| known.name == application.name);
            if let Some((_, first)) = same {
                return Err(Problem::at(format!("duplicate application \"{}\"", application.name), directive)
                    .help(format!("the first one is in {}", first.name.place)));
            }
            applications.push((Arc::new(application), directive));
        }
        Ok(Server {
            index,
            id: scope.written("serverid").unwrap_or_default().to_owned(),
            names,
            tls: self.tls(scope, &listens)?,
            listens,
            rtmp: self.rtmp(scope),
            applications: applications.into_iter().map(|(application, _)| application).collect(),
            access_log: self.access_log(scope)?,
            hooks: Arc::new(hooks::hooks(scope)),
        })
    }

    fn tls(&self, scope: &Scope<'_>, listens: &[Listen]) -> Result<Option<TlsFiles>, Problem> {
        let file = |name: &str| scope.written(name).map(|text| self.paths.conf.join(text));
        match (file("ssl_certificate"), file("ssl_certificate_key")) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
            (Some(_), None) => {
                let directive = scope.effective("ssl_certificate").or(scope.directive);
                let message = "no \"ssl_certificate_key\" is defined for the \"ssl_certificate\" directive";
                directive.map_or(Ok(None), |directive| Err(Problem::at(message, directive)))
            }
            (None, _) => {
                let position = listens.iter().position(|listen| listen.ssl);
                let directive = position.and_then(|index| scope.own("listen").nth(index));
                let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
                directive.map_or(Ok(None), |directive| Err(Problem::at(message, directive)))
            }
        }
    }

    fn rtmp(&mut self, scope: &Scope<'_>) -> RtmpOptions {
        let clamp = |name: &str, from: u32, to: u32| scope.number(name).clamp(from, to);
        for (name, from) in [("chunk_size", MIN_CHUNK_SIZE), ("max_streams", MIN_CHUNK_STREAMS)] {
            if let (true, Some(directive)) = (scope.number(name) < from, scope.effective(name)) {
                self.warn(directive, format!("is too small for RTMP: {from} is used"));
            }
        }
        RtmpOptions {
            timeout: scope.time("timeout"),
            ping: scope.time("ping"),
            ping_timeout: scope.time("ping_timeout"),
            busy: scope.flag("busy"),
            max_streams: clamp("max_streams", MIN_CHUNK_STREAMS, MAX_CHUNK_STREAMS),
            ack_window: clamp("ack_window", 1, i32::MAX as u32),
            chunk_size: clamp("chunk_size", MIN_CHUNK_SIZE, MAX_CHUNK_SIZE),
            max_message: scope.size("max_message").clamp(1, MAX_MESSAGE),
            out_queue: scope.size("out_queue").clamp(1, MAX_QUEUE),
            out_cork: scope.written("out_cork").map(|_| scope.size("out_cork")),
            play_time_fix: scope.flag("play_time_fix"),
            publish_time_fix: scope.flag("publish_time_fix"),
            so_keepalive: scope.flag("so_keepalive"),
            buflen: scope.time("buflen"),
            tcp_nodelay: scope.flag("tcp_nodelay"),
        }
    }

    fn application(
        &mut self,
        directive: &Directive,
        scope: &Scope<'_>,
        listens: &[Listen],
    ) -> Result<Application, Problem> {
        let name = directive.args.first().map(|word| word.text.clone()).unwrap_or_default();
        Ok(Application {
            relays: Arc::new(self.relays(&name, scope, listens)?),
            name,
            live: scope.flag("live"),
            live_options: live(scope)?,
            access: access(scope)?,
            access_log: self.access_log(scope)?,
            publish_key: scope.effective("publish_key").map(publish_key).transpose()?,
            outputs: self.outputs(scope)?,
            hooks: Arc::new(hooks::hooks(scope)),
            exec: self.exec(scope)?,
            oclp: Arc::new(self.oclp(scope, listens)?),
        })
    }

    /// The list of the innermost block that has one; `off` in it empties it.
    fn access_log(&mut self, scope: &Scope<'_>) -> Result<Vec<AccessLog>, Problem> {
        let own = scope.blocks.iter().find_map(|block| {
            let lines: Vec<&Directive> = block.iter().filter(|d| d.name.text == "access_log").collect();
            (!lines.is_empty()).then_some(lines)
        });
        let is_off = |line: &Directive| line.args.first().is_some_and(|word| word.text == "off");
        let Some(lines) = own else {
            let target = LogTarget::File(self.paths.prefix.join(ACCESS_LOG));
            return Ok(vec![AccessLog { target, format: self.combined(), is_written: false }]);
        };
        let mut logs = Vec::new();
        for directive in &lines {
            let format = self.format(log_line(directive, &self.log_formats)?).unwrap_or_else(|| self.combined());
            let Some(path) = directive.args.first().filter(|word| !is_elsewhere(&word.text)) else { continue };
            let target = values::log_target(&path.text, |text| self.paths.prefix.join(text));
            logs.push(AccessLog { target, format, is_written: true });
        }
        Ok(if lines.iter().any(|line| is_off(line)) { Vec::new() } else { logs })
    }

    fn format(&self, name: &str) -> Option<Arc<LogFormat>> {
        self.log_formats.iter().find(|format| format.name == name).map(Arc::clone)
    }

    /// The first of the list, which starts with it.
    fn combined(&self) -> Arc<LogFormat> {
        self.format("combined").unwrap_or_else(|| Arc::new(LogFormat::combined()))
    }

    /// Once for each line of the file, however many blocks inherit it.
    fn warn(&mut self, directive: &Directive, text: impl Into<String>) {
        let notice =
            Notice { place: directive.name.place.clone(), directive: directive.name.text.clone(), text: text.into() };
        if !self.warnings.contains(&notice) {
            self.warnings.push(notice);
        }
    }
}

/// One `listen`, and what is worth saying about it.
fn listen(directive: &Directive, resolve: Resolve) -> Result<(Listen, Option<String>), Problem> {
    let words: Vec<&str> = directive.args.iter().map(|word| word.text.as_str()).collect();
    values::listen(&words, resolve).map_err(|(message, index)| {
        let word = directive.args.get(index).unwrap_or(&directive.name);
        if index > 0 && directives::find(&word.text, Contexts::SERVER).is_some() {
            let help = format!("`{}` is a directive itself: is a `;` missing before it?", word.text);
            return Problem::at_word(message, directive, word).help(help);
        }
        let option = word.text.split('=').next().unwrap_or_default();
        let meant = (index > 0).then(|| nearest(option, LISTEN_OPTIONS.iter().copied())).flatten();
        let meant = meant.filter(|meant| *meant != option).map(|meant| format!("did you mean `{meant}`?"));
        Problem::at_word(message, directive, word).maybe_help(meant)
    })
}

fn server_names(directive: &Directive) -> Result<Vec<ServerName>, Problem> {
    let read =
        |word: &Word| values::server_name(&word.text).map_err(|message| Problem::at_word(message, directive, word));
    directive.args.iter().map(read).collect()
}

fn publish_key(directive: &Directive) -> Result<PublishKey, Problem> {
    match directive.args.first().filter(|word| !word.text.is_empty()) {
        Some(word) => Ok(PublishKey::new(word.text.as_str())),
        None => Err(Problem::at("invalid value \"\" in \"publish_key\" directive", directive)
            .help("an empty key would open publishing to everybody")),
    }
}

fn live(scope: &Scope<'_>) -> Result<Live, Problem> {
    Ok(Live {
        meta: match scope.word("meta").to_ascii_lowercase().as_str() {
            "copy" => Meta::Copy,
            "off" => Meta::Off,
            _ => Meta::On,
        },
        interleave: scope.flag("interleave"),
        wait_key: scope.flag("wait_key"),
        wait_video: scope.flag("wait_video"),
        publish_notify: scope.flag("publish_notify"),
        play_restart: scope.flag("play_restart"),
        idle_streams: scope.flag("idle_streams"),
        drop_idle_publisher: scope.time_or_off("drop_idle_publisher"),
        sync: scope.time_or_off("sync"),
        gop_cache: scope.flag("gop_cache"),
        gop_max_frame_count: scope.number("gop_max_frame_count"),
        gop_max_video_count: scope.number("gop_max_video_count"),
        gop_max_audio_count: scope.number("gop_max_audio_count"),
        gop_max_bytes: scope.size("gop_max_bytes"),
        gop_max_time: scope.time("gop_max_time"),
        cache_time: scope.time("cache_time"),
        send_all: scope.flag("send_all"),
        low_latency: scope.flag("low_latency"),
        merge: merge(scope),
        audio_hold: scope.time("audio_hold"),
        out_queue_bytes: scope.size("out_queue_bytes"),
        out_queue_time: scope.time("out_queue_time"),
        slow_player_timeout: scope.time("slow_player_timeout"),
        zero_start: scope.flag("zero_start"),
        duplicate_publisher: duplicate_publisher(scope.effective("duplicate_publisher"))?,
        fix_timestamp: scope.time("fix_timestamp"),
        hevc_codecid: u8::try_from(scope.number("hevc_codecid").min(15)).unwrap_or_default(),
        play_time_fix: scope.flag("play_time_fix"),
    })
}

/// `merge TIME`, else what `buffer` means: in the family any value turns on gathering of out_cork messages.
fn merge(scope: &Scope<'_>) -> Duration {
    if scope.effective("merge").is_some() {
        return scope.time("merge");
    }
    match values::flag(scope.word("buffer")) {
        Some(true) => BUFFER_ON,
        Some(false) => Duration::ZERO,
        None => scope.time("buffer").min(MAX_BUFFER),
    }
}

fn duplicate_publisher(directive: Option<&Directive>) -> Result<DuplicatePublisher, Problem> {
    let DuplicatePublisher::ReplaceIfStalled(default) = Live::default().duplicate_publisher else {
        return Ok(Live::default().duplicate_publisher);
    };
    let Some(directive) = directive else {
        return Ok(DuplicatePublisher::ReplaceIfStalled(default));
    };
    let bad = |index: usize| {
        let word = directive.args.get(index).unwrap_or(&directive.name);
        let meant = nearest(&word.text, DUPLICATE_PUBLISHER.iter().copied());
        Problem::at_word(format!("invalid value \"{}\"", word.text), directive, word).help(meant.map_or_else(
            || format!("it is one of: {}, the last with a time", DUPLICATE_PUBLISHER.join(", ")),
            |meant| format!("did you mean `{meant}`?"),
        ))
    };
    let words: Vec<&str> = directive.args.iter().map(|word| word.text.as_str()).collect();
    match words.as_slice() {
        ["reject"] => Ok(DuplicatePublisher::Reject),
        ["replace"] => Ok(DuplicatePublisher::Replace),
        ["replace_if_stalled"] => Ok(DuplicatePublisher::ReplaceIfStalled(default)),
        ["replace_if_stalled", time] => {
            values::time(time).map(DuplicatePublisher::ReplaceIfStalled).ok_or_else(|| bad(1))
        }
        ["reject" | "replace", _] => Err(bad(1)),
        _ => Err(bad(0)),
    }
}

/// Own rules first, then those of the block around.
fn access(scope: &Scope<'_>) -> Result<Access, Problem> {
    let rules: Result<Vec<Rule>, Problem> = scope.all(&["allow", "deny"]).map(access_rule).collect();
    rules.map(Access::new)
}

fn access_rule(directive: &Directive) -> Result<Rule, Problem> {
    let (action, address) = match directive.args.as_slice() {
        [address] => (None, address),
        [action, address] => match action.text.as_str() {
            "publish" => (Some(Action::Publish), address),
            "play" => (Some(Action::Play), address),
            other => {
                let meant = nearest(other, ["publish", "play"]).map(|meant| format!("did you mean `{meant}`?"));
                let message = format!("unexpected access specified: '{other}'");
                return Err(Problem::at_word(message, directive, action).maybe_help(meant));
            }
        },
        _ => {
            return Err(Problem::at(
                format!("invalid number of arguments in \"{}\" directive", directive.name.text),
                directive,
            ));
        }
    };
    let network = parse_network(&address.text).ok_or_else(|| {
        Problem::at_word(format!("invalid parameter \"{}\"", address.text), directive, address)
            .help("it takes an address, a network like 192.0.2.0/24, or `all`")
    })?;
    Ok(Rule { allow: directive.name.text == "allow", action, network })
}

/// The directives whose first word is the address of a hook, as nginx-rtmp has them.
const HOOKS: &[&str] = &[
    "on_connect",
    "on_disconnect",
    "on_publish",
    "on_play",
    "on_publish_done",
    "on_play_done",
    "on_done",
    "on_record_done",
    "on_record_started",
    "on_playlist",
    "on_update",
];

/// The family's default access log.
const ACCESS_LOG: &str = "logs/access.log";

/// The protocol's own smallest, and the largest that is worth a buffer.
const MIN_CHUNK_SIZE: u32 = 128;
const MAX_CHUNK_SIZE: u32 = 8 << 20;

/// Chunk streams 2 to 7 are in use by every peer; the protocol ends at 65599.
const MIN_CHUNK_STREAMS: u32 = 8;
const MAX_CHUNK_STREAMS: u32 = 65_600;

/// RTMP's message length has 24 bits.
const MAX_MESSAGE: usize = 0xff_ffff;

/// Messages waiting for one player; what bounds memory are bytes and seconds.
const MAX_QUEUE: usize = 1 << 20;

/// What `buffer on` gathers: about what a corked queue of the family holds.
const BUFFER_ON: Duration = Duration::from_millis(350);

/// In the family the value of `buffer` is only compared with 0, so large ones are written without harm.
const MAX_BUFFER: Duration = Duration::from_secs(1);

/// Callbacks with `key=value` words.
const OCLP: &[&str] = &[
    "oclp_proc",
    "on_proc",
    "on_master",
    "oclp_connect",
    "oclp_play",
    "on_play",
    "oclp_publish",
    "on_publish",
    "oclp_stream",
    "on_stream",
    "oclp_pull",
    "on_pull",
    "oclp_push",
    "on_push",
    "oclp_meta",
    "on_meta",
    "oclp_record",
    "on_record",
];

const LEVELS: &[&str] = &["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];

const DUPLICATE_PUBLISHER: &[&str] = &["reject", "replace", "replace_if_stalled"];

const LISTEN_OPTIONS: &[&str] = &[
    "default_server",
    "bind",
    "ssl",
    "proxy_protocol",
    "reuseport",
    "deferred",
    "backlog",
    "fastopen",
    "rcvbuf",
    "sndbuf",
    "ipv6only",
    "so_keepalive",
];

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn load(text: &str) -> Config {
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    /// One server with one application.
    fn load_inside(text: &str) -> Config {
        load(&format!("rtmp {{ server {{ application a {{ {text} }} }} }}"))
    }

    fn application(config: &Config) -> &Application {
        config.servers[0].applications.first().unwrap()
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn load_fixture(name: &str) -> Config {
        Config::load(&fixture(name), &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        let error = Config::parse("x.conf", text.as_bytes()).expect_err(text);
        assert_eq!(error.message, format!("{message} in x.conf:{}", text.lines().count()), "{text}");
    }

    #[track_caller]
    fn check_help(text: &str, help: &str) {
        let shown = Config::parse("x.conf", text.as_bytes()).expect_err(text).to_string();
        assert!(shown.ends_with(&format!("help: {help}")), "{shown}");
        assert!(shown.contains('^'), "{shown}");
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_structs() {
        let config = load("rtmp { server { application a { } } }");
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.servers[0].rtmp, RtmpOptions::default());
        assert_eq!(application(&config).live_options, Live::default());
        assert!(!application(&config).live);
        assert!(application(&config).publish_key.is_none());
        assert_eq!(config.servers[0].listens, [Listen::new(ListenAddress::Tcp("0.0.0.0:1935".parse().unwrap()))]);
        assert_eq!(config.warnings, []);
        let process =
            Process { pid: Some(PathBuf::from("./logs/nginx.pid")), prefix: PathBuf::from("."), ..Process::default() };
        assert_eq!(config.process, process);
    }

    #[test]
    fn values_are_inherited_and_inner_ones_win() {
        let config = load(
            "rtmp { wait_key off; ping 10; gop_cache off; max_message 1m; chunk_size 5000;
               server { ping 20s; sync off; wait_video on;
                 application a { wait_video off; sync 1s; live on; }
                 application b { } } }",
        );
        let server = &config.servers[0];
        assert_eq!(server.rtmp.ping, Duration::from_secs(20));
        assert_eq!((server.rtmp.max_message, server.rtmp.chunk_size), (1 << 20, 5000));
        let [a, b] = server.applications.as_slice() else { panic!() };
        assert!(!a.live_options.wait_key && !a.live_options.wait_video && !a.live_options.gop_cache && a.live);
        assert_eq!(a.live_options.sync, Some(Duration::from_secs(1)));
        assert!(b.live_options.wait_video && !b.live);
        assert_eq!(b.live_options.sync, None);
    }

    #[test]
    fn every_live_setting_reaches_its_field() {
        let config = load_inside(
            "live on; meta copy; interleave on; wait_key off; wait_video on; publish_notify on; play_restart on;
             idle_streams off; drop_idle_publisher 10s; sync 10ms; gop_cache off; gop_max_frame_count 1;
             gop_max_video_count 2; gop_max_audio_count 3; gop_max_bytes 1m; gop_max_time 5s; cache_time 3s; send_all on;
             low_latency on; merge 100ms; audio_hold 0; out_queue_bytes 1m; out_queue_time 2s; slow_player_timeout 3s;
             zero_start on; duplicate_publisher replace_if_stalled 5s; fix_timestamp 4s; hevc_codecid 7;
             play_time_fix off; publish_key k;",
        );
        let expected = Live {
            meta: Meta::Copy,
            interleave: true,
            wait_key: false,
            wait_video: true,
            publish_notify: true,
            play_restart: true,
            idle_streams: false,
            drop_idle_publisher: Some(Duration::from_secs(10)),
            sync: Some(Duration::from_millis(10)),
            gop_cache: false,
            gop_max_frame_count: 1,
            gop_max_video_count: 2,
            gop_max_audio_count: 3,
            gop_max_bytes: 1 << 20,
            gop_max_time: Duration::from_secs(5),
            cache_time: Duration::from_secs(3),
            send_all: true,
            low_latency: true,
            merge: Duration::from_millis(100),
            audio_hold: Duration::ZERO,
            out_queue_bytes: 1 << 20,
            out_queue_time: Duration::from_secs(2),
            slow_player_timeout: Duration::from_secs(3),
            zero_start: true,
            duplicate_publisher: DuplicatePublisher::ReplaceIfStalled(Duration::from_secs(5)),
            fix_timestamp: Duration::from_secs(4),
            hevc_codecid: 7,
            play_time_fix: false,
        };
        assert_eq!(application(&config).live_options, expected);
        assert!(application(&config).publish_key.as_ref().is_some_and(|key| key.matches("k")));
    }

    #[test]
    fn buffer_gathers_whatever_its_spelling() {
        for (text, ms) in [
            ("buffer on;", 350),
            ("buffer off;", 0),
            ("buffer 100ms;", 100),
            ("buffer 5;", 1000),
            ("buffer 9; merge 0;", 0),
        ] {
            assert_eq!(application(&load_inside(text)).live_options.merge, Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn every_limit_reaches_its_field() {
        let config = load(
            "rtmp { max_connections 5; max_connections_per_address 6; connection_rate 7 burst=8;
               max_publishers_per_address 9; max_names_per_address 10; max_live_streams 11; max_tls_handshakes 12;
               tls_handshake_timeout 13; handshake_timeout 14; connect_timeout 15; command_timeout 16;
               first_media_timeout 17; max_message_before_publish 18; max_message_streams 20;
               amf_max_depth 22; amf_max_values 23; amf_max_string 24; amf_max_data_string 25;
               max_control_rate 26; max_unknown_command_rate 27; log_queue 28; log_rate 29; exec_max_processes 30; }",
        );
        let expected = Limits {
            max_connections: Some(5),
            max_connections_per_address: PerAddress { max: 6, is_written: true },
            connection_rate: Rate { per_second: 7, burst: 8 },
            max_publishers_per_address: 9,
            max_names_per_address: 10,
            max_live_streams: 11,
            max_tls_handshakes: 12,
            tls_handshake_timeout: Duration::from_secs(13),
            handshake_timeout: Duration::from_secs(14),
            connect_timeout: Duration::from_secs(15),
            command_timeout: Duration::from_secs(16),
            first_media_timeout: Duration::from_secs(17),
            max_message_before_publish: 18,
            max_message_streams: 20,
            amf_max_depth: 22,
            amf_max_values: 23,
            amf_max_string: 24,
            amf_max_data_string: 25,
            max_control_rate: 26,
            max_unknown_command_rate: 27,
            log_queue: 28,
            log_rate: 29,
            exec_max_processes: 30,
        };
        assert_eq!(config.limits, expected);
    }

    #[test]
    fn the_last_max_connections_holds_wherever_it_stands() {
        let config = load("rtmp { max_connections 1; server { application a { max_connections 2; } } }");
        assert_eq!(config.limits.max_connections, Some(2));
    }

    #[test]
    fn own_access_rules_come_before_those_of_the_block_around() {
        let config = load(
            "rtmp { deny publish all; allow play all; server { deny play 192.0.2.9;
               application a { allow publish 192.0.2.0/24; } } }",
        );
        let access = &application(&config).access;
        let may = |action, ip: &str| access.allows(action, Some(ip.parse::<IpAddr>().unwrap()));
        assert!(may(Action::Publish, "192.0.2.1"));
        assert!(!may(Action::Publish, "198.51.100.1"));
        assert!(!may(Action::Play, "192.0.2.9"));
        assert!(may(Action::Play, "198.51.100.1"));
    }

    #[test]
    fn an_access_log_replaces_that_of_the_block_around() {
        let config = load(
            "rtmp { access_log /m.log mine; log_format mine '$app ' \"$name\";
               server { application a { access_log a.log; access_log /dev/stdout mine; }
                        application b { access_log off; } application c { } } }",
        );
        let logs: Vec<Vec<(LogTarget, &str)>> = config.servers[0]
            .applications
            .iter()
            .map(|a| a.access_log.iter().map(|log| (log.target.clone(), log.format.name.as_str())).collect())
            .collect();
        let file = |path: &str| LogTarget::File(PathBuf::from(path));
        assert_eq!(logs[0], [(file("./a.log"), "combined"), (LogTarget::Stdout, "mine")]);
        assert_eq!(logs[1], []);
        assert_eq!(logs[2], [(file("/m.log"), "mine")]);
        assert_eq!(config.log_formats[1].template, "$app $name");
    }

    #[test]
    fn the_access_log_is_on_by_default_as_in_the_family() {
        let log = application(&load_inside("")).access_log[0].clone();
        assert_eq!(log.target, LogTarget::File(PathBuf::from("./logs/access.log")));
        assert!(!log.is_written);
    }

    #[test]
    fn the_process_is_read_with_paths_below_the_prefix() {
        let tree = syntax::parse(
            "/opt/n/conf/nginx.conf",
            b"user www staff; pid run/x.pid; error_log e.log; error_log stderr info; daemon on; worker_processes 3;
              worker_shutdown_timeout 10s; worker_rlimit_nofile 9000; working_directory w; env PATH; env A=b=c;
              error_log_format json; load_module m.so; rtmp { server { } }",
        );
        let config = Config::from_tree(&tree, Path::new("/opt/n/conf/nginx.conf"), &LoadOptions::default()).unwrap();
        let file = |path: &str| LogTarget::File(PathBuf::from(path));
        let expected = Process {
            user: Some(("www".to_owned(), Some("staff".to_owned()))),
            pid: Some(PathBuf::from("/opt/n/run/x.pid")),
            pid_is_written: true,
            error_logs: vec![
                ErrorLog { target: file("/opt/n/e.log"), level: Level::Error },
                ErrorLog { target: LogTarget::Stderr, level: Level::Info },
            ],
            error_log_format: ErrorLogFormat::Json,
            workers: NonZeroUsize::new(3).unwrap(),
            daemon: true,
            prefix: PathBuf::from("/opt/n"),
            worker_shutdown_timeout: Some(Duration::from_secs(10)),
            env: vec![("PATH".to_owned(), None), ("A".to_owned(), Some("b=c".to_owned()))],
            rlimit_nofile: Some(9000),
            working_directory: Some(PathBuf::from("/opt/n/w")),
        };
        assert_eq!(config.process, expected);
    }

    #[test]
    fn the_prefix_is_told_by_the_path_of_the_file() {
        for (path, prefix) in [
            ("/usr/local/nginx/conf/nginx.conf", "/usr/local/nginx"),
            ("/etc/nginx/nginx.conf", "/etc/nginx"),
            ("conf/nginx.conf", "."),
            ("nginx.conf", "."),
        ] {
            assert_eq!(default_prefix(Path::new(path)), Path::new(prefix), "{path}");
        }
    }

    #[test]
    fn a_daemon_logs_to_a_file_and_a_foreground_process_to_stderr() {
        assert_eq!(load("").process.error_logs[0].target, LogTarget::Stderr);
        let target = load("daemon on;").process.error_logs[0].target.clone();
        assert_eq!(target, LogTarget::File(PathBuf::from("./logs/error.log")));
    }

    #[test]
    fn a_listen_with_ssl_needs_a_certificate() {
        let config = load("rtmp { ssl_certificate c.pem; ssl_certificate_key k.pem; server { listen 443 ssl; } }");
        let tls = TlsFiles { certificate: PathBuf::from("c.pem"), key: PathBuf::from("k.pem") };
        assert_eq!(config.servers[0].tls, Some(tls.clone()));
        assert_eq!(config.endpoints()[0].tls(), Some(&tls));
        check_error(
            "rtmp { server { listen 443 ssl; } }",
            "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive",
        );
        check_error(
            "rtmp { server { listen 443 ssl; ssl_certificate c; } }",
            "no \"ssl_certificate_key\" is defined for the \"ssl_certificate\" directive",
        );
    }

    #[test]
    fn relays_of_every_fork_are_read() {
        let config = load_inside(
            "push 127.0.0.1; push rtmp://192.0.2.1/a name=x tcUrl=rtmp://h/$app live=1;
             pull rtmp://192.0.2.1/a static name=x; pull http://192.0.2.1:80/a http://192.0.2.2/a?b=c app=core;
             static_pull rtmp://192.0.2.1/a/y; push_reconnect 1s; relay_reconnect 2s; relay_buffer 1s; pull_idle 3s;",
        );
        let relays = &application(&config).relays;
        let names = |rules: &[Arc<super::super::relays::RelayRule>]| -> Vec<_> {
            rules.iter().map(|rule| (rule.urls.len(), rule.name.clone(), rule.is_static)).collect()
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(names(&relays.pushes), [(1, None, false), (1, name("x"), false)]);
        assert_eq!(names(&relays.pulls), [(1, name("x"), true), (2, None, false), (1, name("y"), true)]);
        assert_eq!(relays.pushes[0].urls[0].as_plain(), Some("rtmp://127.0.0.1"));
        assert_eq!(relays.pushes[1].words.tc_url.as_ref().map(|url| url.variables().count()), Some(1));
        let seconds =
            [relays.push_ceiling, relays.pull_ceiling, relays.buffer, relays.pull_idle].map(|time| time.as_secs());
        assert_eq!(seconds, [1, 2, 1, 3]);
        let usual = load_inside("");
        assert_eq!(*application(&usual).relays, super::super::Relays::default());
    }

    #[test]
    fn a_static_pull_outside_of_applications_is_for_the_one_in_its_url() {
        let config = load(
            "rtmp { static_pull rtmp://192.0.2.1/a/x; static_pull_port 1936;
               server { listen 1935; application a { } }
               server { listen 1936; static_pull rtmp://192.0.2.1/b/y; application a { } application b { } } }",
        );
        let pulled = |server: &Server| -> Vec<_> {
            let of = |application: &Arc<Application>| {
                let names: Vec<_> = application.relays.static_pulls().filter_map(|rule| rule.name.clone()).collect();
                (application.name.clone(), names)
            };
            server.applications.iter().map(of).collect()
        };
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(pulled(&config.servers[0]), [(a.clone(), vec![])]);
        assert_eq!(pulled(&config.servers[1]), [(a, vec!["x".to_owned()]), (b, vec!["y".to_owned()])]);
    }

    #[test]
    fn the_star_application_takes_what_no_other_takes() {
        let config = load("rtmp { server { application live { } application * { } } }");
        let found = |name: &str| config.servers[0].application(name).map(|a| a.name.as_str());
        assert_eq!(found("live"), Some("live"));
        assert_eq!(found("other"), Some("*"));
    }

    /// Each line was given to nginx 1.22 with its RTMP module first, except where a comment says otherwise.
    #[test]
    fn broken_files_are_refused_in_the_words_of_nginx() {
        let server = |text: &str| format!("rtmp {{ server {{ {text} }} }}");
        for (text, message) in [
            ("foo bar;", "unknown directive \"foo\""),
            ("rtmp { server { listen 1935; foo; } }", "unknown directive \"foo\""),
            ("listen 1935;", "\"listen\" directive is not allowed here"),
            ("live on;", "\"live\" directive is not allowed here"),
            ("rtmp { live on; application a { } }", "\"application\" directive is not allowed here"),
            (
                "rtmp { server {\nlisten 1935\napplication live { live on; } } }",
                "directive \"listen\" is not terminated by \";\"",
            ),
            ("rtmp { server { application live { live on } } }", "unexpected \"}\""),
            ("rtmp { server { application live { live on; } ", "unexpected end of file, expecting \"}\""),
            ("rtmp { server { application live { live on; } } } }", "unexpected \"}\""),
            ("rtmp { server { application live { live on", "unexpected end of file, expecting \";\" or \"}\""),
            ("rtmp { server { record_path \"abc\"x; } }", "unexpected \"x\""),
            ("rtmp;", "directive \"rtmp\" has no opening \"{\""),
            ("rtmp { ; }", "unexpected \";\""),
            ("rtmp { {} }", "unexpected \"{\""),
            ("rtmp { server a { } }", "invalid number of arguments in \"server\" directive"),
            ("worker_processes foo;", "\"worker_processes\" directive invalid value"),
            ("error_log stderr foo;", "invalid log level \"foo\""),
            ("error_log b debug info;", "duplicate log level \"info\""),
            ("daemon on; daemon off;", "\"daemon\" directive is duplicate"),
            ("user root; user root;", "\"user\" directive is duplicate"),
            ("events { } events { }", "\"events\" directive is duplicate"),
            ("include;", "invalid number of arguments in \"include\" directive"),
            ("rtmp { log_format x '$app'; log_format x a; }", "duplicate \"log_format\" name \"x\""),
            ("rtmp { log_format combined '$app'; }", "duplicate \"log_format\" name \"combined\""),
            ("rtmp { log_format x; }", "invalid number of arguments in \"log_format\" directive"),
            ("rtmp { max_connections x; }", "\"max_connections\" directive invalid number"),
            // nginx takes the second in silence.
            ("rtmp { } rtmp { }", "\"rtmp\" directive is duplicate"),
        ] {
            check_error(text, message);
        }
        for (text, message) in [
            ("live yes;", "invalid value \"yes\" in \"live\" directive, it must be \"on\" or \"off\""),
            ("live on; live on;", "\"live\" directive is duplicate"),
            ("live;", "invalid number of arguments in \"live\" directive"),
            ("chunk_size abc;", "\"chunk_size\" directive invalid number"),
            ("max_streams -3;", "\"max_streams\" directive invalid number"),
            ("max_message 1x;", "\"max_message\" directive invalid value"),
            ("ping abc;", "\"ping\" directive invalid value"),
            ("ping 1s1m;", "\"ping\" directive invalid value"),
            ("buflen off;", "\"buflen\" directive invalid value"),
            ("sync foo;", "\"sync\" directive invalid value"),
            ("drop_idle_publisher foo;", "\"drop_idle_publisher\" directive invalid value"),
            ("meta foo;", "invalid value \"foo\""),
            ("record foo;", "invalid value \"foo\""),
            ("hls_type foo;", "invalid value \"foo\""),
            ("exec_kill_signal foo;", "\"exec_kill_signal\" directive unknown signal"),
            ("publish_time_fix on off;", "invalid number of arguments in \"publish_time_fix\" directive"),
            ("on_publish foo bar;", "invalid number of arguments in \"on_publish\" directive"),
            ("application { }", "invalid number of arguments in \"application\" directive"),
            ("listen;", "invalid number of arguments in \"listen\" directive"),
            ("listen abc:1935;", "host not found in \"abc:1935\" of the \"listen\" directive"),
            ("listen 99999;", "invalid port in \"99999\" of the \"listen\" directive"),
            ("listen 1935 foo;", "the invalid \"foo\" parameter"),
            ("access_log x nofmt;", "unknown log format \"nofmt\""),
            ("allow foo 192.0.2.1;", "unexpected access specified: 'foo'"),
            ("allow a publish 192.0.2.1;", "invalid number of arguments in \"allow\" directive"),
            ("application a { application b { } }", "\"application\" directive is not allowed here"),
            ("application a { recorder b { live on; } }", "\"live\" directive is not allowed here"),
            ("application a { push 127.0.0.1 static; }", "static push is not allowed"),
            ("application a { pull 127.0.0.1 static; }", "stream name missing in static pull declaration"),
            ("application a { pull 127.0.0.1 foo=1; }", "\"pull\" directive unsuppored parameter"),
            // nginx finds out about these two when it connects, W about the third, which it sends as it stands.
            ("application a { push http://h/a; }", "invalid scheme in url \"http://h/a\" of \"push\" directive"),
            ("application a { push rtmp://h:x/a; }", "invalid port in url \"rtmp://h:x/a\" of \"push\" directive"),
            ("application a { push rtmp://h/$nam; }", "unknown \"nam\" variable"),
            // nginx names the word before the bad one.
            ("application a { allow publish 192.0.2; }", "invalid parameter \"192.0.2\""),
            // nginx takes the first in silence.
            ("application a { } application a { }", "duplicate application \"a\""),
            // Ours.
            ("application a { duplicate_publisher later; }", "invalid value \"later\""),
            ("application a { publish_key ''; }", "invalid value \"\" in \"publish_key\" directive"),
        ] {
            // Rules of access are read where applications are.
            let text =
                server(&if text.starts_with("allow") { format!("application a {{ {text} }}") } else { text.into() });
            check_error(&text, message);
        }
    }

    #[test]
    fn the_first_error_of_the_file_is_the_one_that_is_told() {
        let first = |text: &str| Config::parse("x.conf", text.as_bytes()).unwrap_err().message;
        assert_eq!(first("foo;\nrtmp { server {"), "unknown directive \"foo\" in x.conf:1");
        let text = "rtmp { server { listen 99999;\nfoo; } }";
        assert_eq!(first(text), "invalid port in \"99999\" of the \"listen\" directive in x.conf:1");
    }

    #[test]
    fn an_error_names_the_line_of_nginx_and_points_at_the_word() {
        let error =
            Config::parse("x.conf", b"rtmp {\n  server {\n    listen 1935\n      foo\n      bar; } }").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the invalid \"foo\" parameter in x.conf:5
 --> x.conf:4:7
  |
4 |       foo
  |       ^^^"
        );
    }

    #[test]
    fn mistyped_words_get_a_suggestion() {
        let inside = |text: &str| format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
        check_help("rtmp { server { lsiten 1935; } }", "did you mean `listen`?");
        check_help(&inside("hls_fragmnet 5s;"), "did you mean `hls_fragment`?");
        check_help(&inside("record keyframe;"), "did you mean `keyframes`?");
        check_help(&inside("allow pubish 192.0.2.1;"), "did you mean `publish`?");
        check_help(&inside("duplicate_publisher replce;"), "did you mean `replace`?");
        check_help("rtmp { server { listen 1935 proxy_protocl; } }", "did you mean `proxy_protocol`?");
        check_help("error_log stderr wran;", "did you mean `warn`?");
        check_help("rtmp { server { access_log x mone; } log_format mine a; }", "did you mean `mine`?");
        check_help("hls on;", "it belongs in: rtmp, server, application");
        check_help("root html;", "it belongs in: http, http server, location");
        check_help("rtmp { server { live on; live off; } }", "the first one is in x.conf:1");
    }

    #[test]
    fn a_missing_semicolon_is_recognised() {
        let inside = |text: &str| format!("rtmp {{ server {{\n{text}\n}} }}");
        check_help(&inside("listen 1935\napplication live { live on; }"), "is a `;` missing at the end of line 2?");
        check_help(&inside("live on\nhls on;"), "is a `;` missing at the end of line 2?");
        check_help(&inside("live on"), "is a `;` missing at the end of line 2?");
        check_help(&inside("live on hls on;"), "`hls` is a directive itself: is a `;` missing before it?");
        check_help(
            &inside("listen 1935 chunk_size 4096;"),
            "`chunk_size` is a directive itself: is a `;` missing before it?",
        );
        check_help("worker_processes 1\nevents { }", "is a `;` missing at the end of line 1?");
        check_help("rtmp { server {", "the `server` block of line 1 is not closed");
        check_help("user 'a;\n", "the quote opened in line 1 is never closed");
    }

    #[test]
    fn a_list_that_swallows_the_next_line_gets_a_warning() {
        let config = load("rtmp { server { application a {\nexec ffmpeg -i x\npush rtmp://192.0.2.1/live; } } }");
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings[0],
            "x.conf:2: \"exec\" takes \"push\" at the start of line 3 for an argument: is a `;` missing at the end of line 2?"
        );
    }

    #[test]
    fn what_is_not_built_is_said_once_for_each_directive() {
        let config = load("rtmp { server { application a { record all; } application b { record all; } } }");
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            ["x.conf:1: \"record\" does nothing yet: recording comes in a later release (written 2 times)"]
        );
    }

    #[test]
    fn what_nginx_does_in_http_and_livemill_does_not_is_a_warning_each() {
        let config =
            load("http { server { location / { proxy_pass http://a; rewrite ^ /x; } listen 80; types { a b; } } }");
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "x.conf:1: \"proxy_pass\" does nothing yet: not livemill's work: keep nginx in front for it; until then such a location answers 502",
                "x.conf:1: \"rewrite\" does nothing yet: addresses are not rewritten: the request is answered for the address it came with",
            ]
        );
        check_error("http { blubb on; }", "unknown directive \"blubb\"");
        check_error("http { live on; }", "\"live\" directive is not allowed here");
        check_error("http { server { alias /x; } }", "\"alias\" directive is not allowed here");
        check_help("http { gzpi on; }", "did you mean `gzip`?");
    }

    #[test]
    fn small_chunk_sizes_are_raised_with_a_warning() {
        let config = load("rtmp { server { chunk_size 64; } }");
        assert_eq!(config.servers[0].rtmp.chunk_size, 128);
        assert_eq!(config.warnings[0].to_string(), "x.conf:1: \"chunk_size\" is too small for RTMP: 128 is used");
    }

    #[test]
    fn document_a_loads() {
        let config = load_fixture("document_a.conf");
        let [server] = config.servers.as_slice() else { panic!() };
        let hls = server.application("hls").unwrap();
        assert!(hls.live && hls.live_options.wait_key);
        let files = hls.outputs.hls.as_ref().unwrap();
        assert_eq!((files.path.as_path(), files.segments()), (Path::new("/usr/data/video/hls"), 180));
        assert!(files.nested && files.continuous);
        assert_eq!(config.process.user, Some(("root".to_owned(), None)));
        assert_eq!(config.process.workers.get(), 1);
        assert_eq!(config.process.error_logs.len(), 2);
        assert_eq!(config.process.error_logs[1].level, Level::Debug);
        assert_eq!(config.process.pid, Some(fixture("logs/nginx.pid")));
        let named: Vec<&str> = config.warnings.iter().map(|notice| notice.directive.as_str()).collect();
        assert!(named.is_empty(), "{named:?}");
    }

    #[test]
    fn document_b_loads() {
        let config = load_fixture("document_b.conf");
        assert!(config.servers[0].application("cctvf").unwrap().live);
        assert_eq!(config.servers[0].rtmp.chunk_size, 4000);
        assert_eq!(config.process.error_logs, Process::default().error_logs);
        let named: Vec<&str> = config.warnings.iter().map(|notice| notice.directive.as_str()).collect();
        assert!(named.is_empty(), "{named:?}");
    }

    #[test]
    fn document_c_loads() {
        let config = load_fixture("document_c.conf");
        assert!(config.servers[0].application("stream").unwrap().live);
        assert!(config.servers[0].application("hls").unwrap().live);
        let log = ErrorLog { target: LogTarget::Stdout, level: Level::Info };
        assert_eq!(config.process.error_logs, [log]);
        let named: Vec<&str> = config.warnings.iter().map(|notice| notice.directive.as_str()).collect();
        assert_eq!(named, ["rtmp_stat"]);
        assert!(config.warnings[0].text.starts_with("is open to the world"), "{}", config.warnings[0]);
    }

    #[test]
    fn document_d_loads() {
        let config = load_fixture("document_d.conf");
        let names: Vec<&str> = config.servers[0].applications.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["live", "core", "test", "edge", "pub"]);
        let test = &config.servers[0].application("test").unwrap().live_options;
        assert!(test.low_latency && !test.idle_streams);
        assert_eq!(test.cache_time, Duration::from_secs(3));
        let named: Vec<&str> = config.warnings.iter().map(|notice| notice.directive.as_str()).collect();
        assert_eq!(named, [] as [&str; 0]);
    }

    #[test]
    fn every_warning_is_one_line() {
        for name in ["document_a.conf", "document_b.conf", "document_c.conf", "document_d.conf"] {
            for notice in load_fixture(name).warnings {
                assert!(!notice.to_string().contains('\n'), "{notice}");
            }
        }
    }

    #[test]
    fn the_command_line_speaks_before_the_file() {
        let options = |globals: &str| LoadOptions { globals: Some(globals.to_owned()), ..LoadOptions::default() };
        let config = Config::load(&fixture("document_b.conf"), &options("daemon on; pid /x.pid;")).unwrap();
        assert!(config.process.daemon);
        assert_eq!(config.process.pid, Some(PathBuf::from("/x.pid")));
        let error = Config::load(&fixture("document_c.conf"), &options("daemon off;")).unwrap_err();
        assert!(error.message.starts_with("\"daemon\" directive is duplicate in "), "{error}");
        let error = Config::load(&fixture("document_b.conf"), &options("foo on;")).unwrap_err();
        assert_eq!(error.message, "unknown directive \"foo\" in command line");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_as_nginx_tells_it() {
        let error = Config::load(Path::new("/nowhere/nginx.conf"), &LoadOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "open() \"/nowhere/nginx.conf\" failed (2: No such file or directory)");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_loading_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Config::parse("x", &bytes);
        }

        #[test]
        fn no_change_of_a_real_file_makes_loading_panic(
            which in 0..4_usize,
            at in proptest::prelude::any::<proptest::sample::Index>(),
            len in 0..40_usize,
            insert in "[a-z0-9;{}#\"'\\\\$ \n]{0,4}",
        ) {
            let name = ["document_a.conf", "document_b.conf", "document_c.conf", "document_d.conf"][which];
            let mut bytes = std::fs::read(fixture(name)).unwrap();
            let from = at.index(bytes.len());
            let to = (from + len).min(bytes.len());
            bytes.splice(from..to, insert.bytes());
            let _ = Config::parse("x", &bytes);
            let _ = check::report(&syntax::parse("x", &bytes)).to_string();
        }

        #[test]
        fn no_arguments_make_loading_panic(
            row in 0..directives::rows().count(),
            args in "[ 0-9a-z:=./*~\\[\\]\"']{0,24}",
        ) {
            let name = directives::rows().nth(row).unwrap().name;
            for text in [
                format!("{name} {args};"),
                format!("rtmp {{ {name} {args}; server {{ application a {{ }} }} }}"),
                format!("rtmp {{ server {{ {name} {args}; application a {{ }} }} }}"),
                format!("rtmp {{ server {{ application a {{ {name} {args}; }} }} }}"),
                format!("http {{ {name} {args}; server {{ location / {{ }} }} }}"),
                format!("http {{ server {{ {name} {args}; location / {{ }} }} }}"),
                format!("http {{ server {{ location / {{ {name} {args}; }} location {args} {{ }} }} }}"),
            ] {
                let _ = Config::parse("x", text.as_bytes());
            }
        }
    }
}
