//! The command line, spelled as nginx spells it.
//!
//! Without a configuration file (`-c`, or `-p` for its usual place) this is a useful server by itself; it never looks for an
//! nginx.conf that nobody named. Messages, exit codes and the stream they go to are nginx's, since scripts read them.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use crate::config::{self, BuiltIn, Config, ConfigError, LoadOptions, LogTarget, api::ApiSocket};
use crate::http::api::guard::Token;
use crate::log::LogFiles;
use crate::process::{self, PidFile, Privileges, ProcessError, Signal};
use crate::server;

pub mod banner;
pub mod ctl;
pub mod health;
pub mod publish_key;

use banner::Banner;
use publish_key::{KeyError, Origin, Places};

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// What was asked for. One letter each, as in nginx.
#[derive(Debug, Parser)]
#[command(name = "livemill", override_help = USAGE, disable_help_subcommand = true, args_override_self = true)]
struct Arguments {
    /// `-h` and `--help` are clap's own.
    #[arg(short = '?')]
    usage: bool,
    #[arg(short = 'v')]
    version: bool,
    /// To standard output, as everything but nginx does.
    #[arg(long = "version")]
    plain_version: bool,
    #[arg(short = 'V')]
    build: bool,
    #[arg(short = 't')]
    test: bool,
    #[arg(short = 'T')]
    dump: bool,
    #[arg(short = 'q')]
    quiet: bool,
    #[arg(short = 's', value_name = "SIGNAL")]
    signal: Option<String>,
    /// Set prefix path.
    #[arg(short = 'p', value_name = "PREFIX", global = true)]
    prefix: Option<PathBuf>,
    #[arg(short = 'e', value_name = "FILE")]
    error_log: Option<PathBuf>,
    /// Set configuration file.
    #[arg(short = 'c', value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Set global directives out of configuration file.
    #[arg(short = 'g', value_name = "DIRECTIVES", global = true)]
    globals: Option<String>,
    #[arg(long)]
    open: bool,
    /// For a start without a configuration file.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// For a start without a configuration file; 0 is none.
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// For a start without a configuration file; 0 is none.
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report what livemill does with each directive of a configuration.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    Bench(Box<crate::bench::BenchArgs>),
    Ctl(Box<ctl::CtlArgs>),
    /// Ask a running server for a handshake; exit 0 if it answers, 1 if not.
    Health {
        /// HOST:PORT; without it the address in the configuration (-c), else 127.0.0.1:1935.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
}

fn run(args: Vec<OsString>) -> ExitCode {
    let command = args.iter().skip(1).find_map(|arg| ["check", "ctl"].into_iter().find(|command| arg == command));
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error, command),
    };
    let outcome = match &arguments.command {
        Some(Command::Check { file }) => return check(file, &arguments),
        Some(Command::Health { address }) => ask_health(address.as_deref(), &arguments),
        Some(Command::Bench(bench)) => return crate::bench::command((**bench).clone()),
        Some(Command::Ctl(ctl)) => return ctl::command(ctl, || named_config(&arguments)),
        None => run_as_nginx(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed) => ExitCode::FAILURE,
    }
}

/// The message was printed; what is left is the exit code.
#[derive(Debug)]
struct Failed;

fn run_as_nginx(arguments: &Arguments) -> Result<(), Failed> {
    if arguments.usage {
        out(USAGE);
    } else if arguments.plain_version {
        out(&format!("livemill {}\n", env!("CARGO_PKG_VERSION")));
    } else if arguments.version || arguments.build {
        err(&version(arguments.build));
    } else if let Some(name) = &arguments.signal {
        return signal(name, arguments);
    } else if arguments.test || arguments.dump {
        return test(arguments);
    } else {
        return start(arguments);
    }
    Ok(())
}

// ---- -c, -p, -g ----

/// The configuration file in effect; None: nothing was named, so the built-in configuration is meant.
fn config_file(arguments: &Arguments) -> Option<PathBuf> {
    match (&arguments.config, &arguments.prefix) {
        // As in nginx, a relative file is relative to the prefix, where there is one.
        (Some(file), Some(prefix)) => Some(prefix.join(file)),
        (Some(file), None) => Some(file.clone()),
        (None, Some(prefix)) => Some(prefix.join(CONFIG_IN_PREFIX)),
        (None, None) => None,
    }
}

fn load(file: &Path, arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut config = Config::load(file, &load_options(arguments))?;
    apply_error_log(&mut config, arguments);
    Ok(config)
}

fn load_options(arguments: &Arguments) -> LoadOptions {
    LoadOptions { prefix: arguments.prefix.clone(), globals: arguments.globals.clone() }
}

/// The configuration of a start with nothing; `-g` works there too.
fn built_in(publish_key: Option<String>, arguments: &Arguments) -> Result<Config, ConfigError> {
    let usual = BuiltIn::default();
    let mut config = Config::built_in(BuiltIn {
        port: arguments.port.unwrap_or(usual.port),
        http_port: arguments.http_port.unwrap_or(usual.http_port),
        api_port: arguments.api_port,
        publish_key,
    });
    if arguments.globals.is_some() {
        // Directives without a file: what is relative in them is relative to where the server is started.
        let options = LoadOptions { prefix: Some(PathBuf::from(".")), globals: arguments.globals.clone() };
        let globals = Config::load(Path::new("/dev/null"), &options)?;
        config.process = globals.process;
        if arguments.api_port.is_none() {
            config.api = globals.api;
        }
        // A server of one command leaves no file in that place that nobody asked for.
        config.process.pid = config.process.pid.filter(|_| config.process.pid_is_written);
    }
    apply_error_log(&mut config, arguments);
    Ok(config)
}

/// `-e`: the error log where the configuration names none.
fn apply_error_log(config: &mut Config, arguments: &Arguments) {
    let Some(file) = &arguments.error_log else { return };
    let target = if file == Path::new("stderr") { LogTarget::Stderr } else { LogTarget::File(file.clone()) };
    // A file that says exactly what the default is counts as one that says nothing.
    let unwritten = config::Process::default().error_logs;
    if config.process.error_logs == unwritten {
        for log in &mut config.process.error_logs {
            log.target = target.clone();
        }
    }
}

// ---- -t, -T ----

fn test(arguments: &Arguments) -> Result<(), Failed> {
    let Some(file) = config_file(arguments) else {
        let config = built_in(None, arguments).map_err(|error| say("emerg", &error.to_string()))?;
        LogFiles::open(&config, None).map_err(|error| say("emerg", &error.to_string()))?;
        if !arguments.quiet {
            err("livemill: no configuration file was named (-c FILE): the built-in configuration is used\n");
        }
        return Ok(());
    };
    let shown = file.display();
    let failed = |message: String| {
        say("emerg", &message);
        err(&format!("livemill: configuration file {shown} test failed\n"));
        Failed
    };
    let config = load(&file, arguments).map_err(|error| failed(error.to_string()))?;
    warn_all(&config);
    if !arguments.quiet {
        err(&format!("livemill: the configuration file {shown} syntax is ok\n"));
    }
    // As nginx does, this opens the logs; what it makes must be writable for the server that is started later.
    let privileges = privileges(&config).map_err(|error| failed(error.to_string()))?;
    LogFiles::open(&config, privileges.owner()).map_err(|error| failed(error.to_string()))?;
    server::try_certificates(&config).map_err(|error| failed(error.to_string()))?;
    if !arguments.quiet {
        err(&format!("livemill: configuration file {shown} test is successful\n"));
    }
    if arguments.dump {
        let tree = config::build::read(&file, &load_options(arguments));
        for source in &tree.sources {
            out(&format!("# configuration file {}:\n{}\n", source.name, source.text));
        }
    }
    Ok(())
}

// ---- check ----

/// Exit codes: 0 nothing is lost, 1 something is, 2 the file is broken.
fn check(file: &Path, arguments: &Arguments) -> ExitCode {
    let file = arguments.prefix.as_ref().map_or_else(|| file.to_owned(), |prefix| prefix.join(file));
    let report = config::check::report_file(&file, &load_options(arguments));
    out(&report.to_string());
    ExitCode::from(report.exit_code())
}

// ---- -s ----

fn signal(name: &str, arguments: &Arguments) -> Result<(), Failed> {
    let Some(signal) = Signal::named(name) else {
        return Err(invalid(&format!("invalid option: \"-s {name}\"")));
    };
    let config = match config_file(arguments) {
        Some(file) => load(&file, arguments),
        None => built_in(None, arguments),
    };
    let config = config.map_err(|error| say("emerg", &error.to_string()))?;
    let Some(pid_file) = &config.process.pid else {
        let hint = "-s finds the running server by its pid file: name the configuration that says where, with -c FILE";
        return Err(say("error", hint));
    };
    process::send(signal, pid_file).map_err(|error| {
        let level = if matches!(error, ProcessError::Kill { .. }) { "alert" } else { "error" };
        say(level, &error.to_string())
    })?;
    if signal == Signal::Reload {
        // A script that believes in a reload must learn that there was none.
        return Err(say("warn", process::RELOAD_COMES_LATER));
    }
    Ok(())
}

// ---- health ----

fn ask_health(address: Option<&str>, arguments: &Arguments) -> Result<(), Failed> {
    let unhealthy = |reason: String| {
        err(&format!("livemill: health: {reason}\n"));
        Failed
    };
    let target = match (address, config_file(arguments)) {
        (Some(address), _) => health::Target::named(address).map_err(|error| unhealthy(error.to_string()))?,
        (None, Some(file)) => {
            let config = load(&file, arguments).map_err(|error| unhealthy(error.to_string()))?;
            health::Target::of(&config).ok_or_else(|| unhealthy("the configuration listens nowhere".to_owned()))?
        }
        (None, None) => health::Target::standard(),
    };
    target.ask(health::PATIENCE).map_err(|error| unhealthy(format!("{}: {error}", target.address)))?;
    out(&format!("livemill: {} is healthy\n", target.address));
    Ok(())
}

// ---- ctl ----

/// The configuration that was named; None: none was.
fn named_config(arguments: &Arguments) -> Result<Option<Config>, String> {
    config_file(arguments).map(|file| load(&file, arguments)).transpose().map_err(|error| error.to_string())
}

// ---- start ----

fn start(arguments: &Arguments) -> Result<(), Failed> {
    let fatal = |error: &dyn std::fmt::Display| say("emerg", &error.to_string());
    match config_file(arguments) {
        Some(file) => {
            let ignored = [
                ("--open", arguments.open),
                ("--port", arguments.port.is_some()),
                ("--http-port", arguments.http_port.is_some()),
                ("--api-port", arguments.api_port.is_some()),
            ];
            for (option, _) in ignored.iter().filter(|(_, is_given)| *is_given) {
                say("warn", &format!("{option} is for a start without a configuration file, ignored"));
            }
            let config = load(&file, arguments).map_err(|error| fatal(&error))?;
            serve(config, None, |_| {})
        }
        None => {
            let found = match arguments.open {
                true => None,
                false => Some(Places::from_environment().find_key().map_err(|error| fatal(&error))?),
            };
            let key = found.as_ref().map(|found| found.key.clone());
            let config = built_in(key, arguments).map_err(|error| fatal(&error))?;
            serve(config, Some(OTHER_PORTS), |config| {
                let endpoints = config.endpoints();
                let listens: Vec<_> = endpoints.into_iter().map(|endpoint| endpoint.listen.address).collect();
                let http = config.http.iter().flat_map(|http| http.endpoints());
                let http: Vec<_> = http.map(|endpoint| endpoint.listen.address).collect();
                let app =
                    config.servers.iter().flat_map(|server| &server.applications).map(|it| it.name.as_str()).next();
                let banner = Banner {
                    listens: &listens,
                    http: &http,
                    app: app.unwrap_or_default(),
                    host: banner::own_address(),
                    key: found.as_ref().map(|found| (found.key.as_str(), &found.origin)),
                    has_api: config.api.is_some(),
                };
                out(&banner.text());
            })
        }
    }
}

/// Starts in the one order that works (see [`process`]), runs, and cleans up. `announce` is called once all is bound;
/// where that fails, `help` says what can be done.
fn serve(config: Config, help: Option<&str>, announce: impl FnOnce(&Config)) -> Result<(), Failed> {
    let fatal = |error: &dyn std::fmt::Display| say("emerg", &error.to_string());
    warn_all(&config);
    process::tighten_umask();
    let (files, warning) = process::raise_open_files(config.process.rlimit_nofile).map_err(|error| fatal(&error))?;
    if let Some(warning) = warning {
        say("alert", &warning);
    }
    let privileges = privileges(&config).map_err(|error| fatal(&error))?;
    if let Some(warning) = privileges.warning {
        say("warn", warning);
    }
    let logs = LogFiles::open(&config, privileges.owner()).map_err(|error| fatal(&error))?;
    for warning in logs.warnings() {
        say("warn", warning);
    }
    let api = api_start(&config, &privileges).map_err(|error| fatal(&error))?;
    let bound = server::bind(&config, api).map_err(|error| match help {
        Some(help) => fatal(&format!("{error}\n  = help: {help}")),
        None => fatal(&error),
    })?;
    for warning in &bound.warnings {
        say("warn", warning);
    }
    announce(&config);

    if config.process.daemon {
        process::daemonise(logs.use_streams()).map_err(|error| fatal(&error))?;
    }
    let logs = logs.start().map_err(|error| fatal(&error))?;
    // From here on there are threads and a log, and nobody may look at the terminal any more.
    let fatal = |error: &dyn std::fmt::Display| {
        tracing::error!(severity = "emerg", "{error}");
        logs.flush(LAST_LINES);
        Failed
    };
    let pid_file = match config.process.pid.as_deref().map(PidFile::write).transpose() {
        Ok(pid_file) => pid_file,
        Err(error) if config.process.pid_is_written => return Err(fatal(&error)),
        Err(error) => {
            tracing::warn!("no pid file, so -s will not find this server: {error}");
            None
        }
    };
    if let Some(directory) = &config.process.working_directory {
        process::enter(directory).map_err(|error| fatal(&error))?;
    }
    if let Some(user) = &privileges.become_user {
        user.assume().map_err(|error| fatal(&error))?;
    }
    let ended = server::run(&config, bound, &logs, most_connections(files)).map_err(|error| fatal(&error));
    drop(pid_file);
    logs.flush(LAST_LINES);
    ended
}

/// What the API needs to start. None: it is off.
fn api_start(config: &Config, privileges: &Privileges) -> Result<Option<server::ApiStart>, KeyError> {
    let Some(api) = &config.api else { return Ok(None) };
    let places = Places::from_environment();
    let found = places.find_api_token(api.token_file.as_deref())?;
    if let Origin::NotKept { path, reason } = &found.origin {
        // Nobody would ever know a token that is nowhere to be read.
        say(
            "warn",
            &format!(
                "the API is off: its token cannot be kept in \"{}\" ({reason}); set LIVEMILL_API_TOKEN or api_token_file, or say `api off`",
                path.display()
            ),
        );
        return Ok(None);
    }
    let socket = match &api.socket {
        ApiSocket::Off => None,
        ApiSocket::Usual => Some(places.control_socket()),
        ApiSocket::At(path) => Some(path.clone()),
    };
    if let (ApiSocket::Usual, Some(folder)) = (&api.socket, socket.as_deref().and_then(Path::parent)) {
        // Where this fails, so does the bind, which says so.
        let _ = publish_key::make_private_folder(folder);
    }
    Ok(Some(server::ApiStart {
        token: Token::new(found.key),
        socket,
        is_socket_written: api.socket != ApiSocket::Usual,
        owner: privileges.owner(),
    }))
}

/// How many connections the open-files limit carries: a fifth is kept for logs, relays and what else opens files.
fn most_connections(files: u64) -> u64 {
    (files - files / 5).min(MOST_CONNECTIONS)
}

fn privileges(config: &Config) -> Result<Privileges, ProcessError> {
    Privileges::plan(config.process.user.as_ref().map(|(user, group)| (user.as_str(), group.as_deref())))
}

// ---- words ----

fn version(with_build: bool) -> String {
    let mut text = format!("livemill version: livemill/{}\n", env!("CARGO_PKG_VERSION"));
    if with_build {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        text.push_str(&format!("built with {} ({profile})\n", env!("LIVEMILL_RUSTC")));
        text.push_str(&format!("target: {}\n", env!("LIVEMILL_TARGET")));
        text.push_str("features: rtmp rtmps proxy_protocol enhanced_rtmp\n");
    }
    text
}

/// What clap found wrong, in nginx's words.
fn refuse(error: &clap::Error, command: Option<&str>) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelp {
        out(&error.to_string());
        return ExitCode::SUCCESS;
    }
    match command {
        // It has commands and options of its own, which nginx has no words for.
        Some("ctl") => err(&error.to_string()),
        _ => err(&format!("livemill: {}\n", describe(error))),
    }
    // 1 is an answer of `check` and of `ctl`, so a question that was not understood needs another code.
    if command.is_some() { ExitCode::from(BROKEN) } else { ExitCode::FAILURE }
}

fn describe(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => {
            // nginx names the letter alone.
            let letter = argument.strip_prefix('-').filter(|rest| rest.chars().count() == 1);
            format!("invalid option: \"{}\"", letter.unwrap_or(&argument))
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let hint = if Path::new(&word).exists() { " (a configuration file is named with -c)" } else { "" };
            format!("invalid option: \"{word}\"{hint}")
        }
        // An option without its value; nginx says what is missing.
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) => {
            let option = argument.split(' ').next().unwrap_or_default();
            let what = match option {
                "-c" | "-e" => "file name",
                "-p" => "directory name",
                _ => "parameter",
            };
            format!("option \"{option}\" requires {what}")
        }
        // Clap's own first paragraph as one line, without its prefix: usage follows in it, which nginx does not print.
        _ => {
            let text = error.to_string();
            let first = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
            first.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

fn invalid(message: &str) -> Failed {
    err(&format!("livemill: {message}\n"));
    Failed
}

/// A line in nginx's form from before there is a log: `livemill: [emerg] …`.
fn say(level: &str, message: &str) -> Failed {
    err(&format!("livemill: [{level}] {message}\n"));
    Failed
}

fn warn_all(config: &Config) {
    for warning in &config.warnings {
        say("warn", &warning.to_string());
    }
}

fn out(text: &str) {
    let mut stdout = io::stdout().lock();
    // Whoever closed the other end does not want to read it.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

const USAGE: &str = concat!(
    "livemill version: livemill/",
    env!("CARGO_PKG_VERSION"),
    "
Usage: livemill [-?hvVtTq] [-s signal] [-p prefix]
                [-e filename] [-c filename] [-g directives]
                [--open] [--port number] [--http-port number]
                [--api-port number]
       livemill check FILE
       livemill health [--address HOST:PORT] [-c filename]
       livemill ctl [--json] [-c filename] COMMAND
       livemill bench [URL] [--players N] [--publishers N] ...

Without -c and -p: a server for RTMP on port 1935 with the application
\"live\", watched over HTTP on port 8080 as well. Who publishes from
elsewhere needs the key that is made at the first start, or that
LIVEMILL_PUBLISH_KEY says; --open asks for none.

Options:
  -?,-h         : this help
  -v            : show version and exit
  -V            : show version and build and exit
  -t            : test configuration and exit
  -T            : test configuration, dump it and exit
  -q            : suppress non-error messages during configuration testing
  -s signal     : send signal to the running server: stop, quit, reopen, reload
  -p prefix     : set prefix path; without -c the file is conf/nginx.conf in it
  -e filename   : set error log file where the configuration names none
  -c filename   : set configuration file
  -g directives : set global directives out of configuration file
  --open        : without a configuration file, let anybody publish
  --port        : without a configuration file, the port of RTMP
  --http-port   : without a configuration file, the port of HTTP; 0 is none
  --api-port    : without a configuration file, the port of the API on the
                  loopback; 0 is none

Commands:
  check         : report what livemill does with each directive of a file;
                  exits 0 if nothing is lost, 1 if something is, 2 if broken
  health        : ask a running server for a handshake; exits 0 if it answers
  ctl           : look at a running server and steer it: stat, streams, clients,
                  slowest, drop, redirect, relays, bans; livemill ctl --help
                  says how
  bench         : put a server under load; livemill bench --help says how
"
);
/// Where nginx looks in a prefix.
const CONFIG_IN_PREFIX: &str = "conf/nginx.conf";
const BROKEN: u8 = 2;

/// What can be done about a port that is in use, where no file says which one it is.
const OTHER_PORTS: &str = "--port, --http-port and --api-port choose other ports; --http-port 0 leaves HTTP out";
/// Without `max_connections`, however many files may be open.
const MOST_CONNECTIONS: u64 = 10_000;
/// A log that does not take its last lines in this time does not get them.
const LAST_LINES: Duration = Duration::from_secs(1);
