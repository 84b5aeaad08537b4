//! `livemill ctl`: looks at a running server and steers it, over its API.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::publish_key::{API_TOKEN_VARIABLE, Places};
use crate::config::Config;
use crate::config::api::ApiSocket;
use crate::http::api::types::{
    NewBan, NewRelay, Problem, RedirectClient, RedirectRole, RedirectStream, RelayDirection, Role,
};

mod client;
mod show;
mod table;

use client::{Answer, AskError, PATIENCE, Place, Request};
use table::{clean, clean_json, clean_lines};

/// Look at a running server and steer it.
///
/// Asks the API of a server on this machine over its control socket. The token is LIVEMILL_API_TOKEN, else the file
/// api.token in the server's state folder. Exits 0 when it is done, 1 when it was refused or failed, 2 when it was not
/// understood.
#[derive(Args, Clone, Debug)]
pub struct CtlArgs {
    /// Print what the API answers, as it is.
    #[arg(long, global = true)]
    json: bool,
    /// The control socket. Without it: api_socket of the configuration (-c), else control.sock in the runtime folder or the
    /// state folder.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "url")]
    socket: Option<PathBuf>,
    /// The API over TCP: http://HOST:PORT.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// Where the token is, if it is not in its usual place.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum CtlCommand {
    /// The server: traffic, load, limits.
    Stat,
    /// Streams, and who waits for one.
    Streams {
        #[arg(long)]
        app: Option<String>,
        /// A part of the name.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// name, bitrate, players, age; -NAME for the other way around.
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        sort: Option<String>,
        #[command(flatten)]
        part: Part,
    },
    /// One stream with all that is known of it.
    Stream {
        #[command(flatten)]
        stream: StreamArgs,
    },
    /// Publishers, players and viewers of every protocol, and relays.
    Clients {
        #[arg(long)]
        app: Option<String>,
        #[arg(long)]
        name: Option<String>,
        /// publisher or player.
        #[arg(long)]
        role: Option<String>,
        /// rtmp, http-flv, hls and so on.
        #[arg(long)]
        protocol: Option<String>,
        #[arg(long, value_name = "IP")]
        address: Option<String>,
        /// newest, slowest, bytes_out and so on; -NAME for the other way around.
        #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
        sort: Option<String>,
        #[command(flatten)]
        part: Part,
    },
    /// Who is behind the most, and why.
    Slowest {
        #[arg(value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        count: u16,
    },
    /// Send clients away, and keep them out for a while.
    Drop {
        #[command(subcommand)]
        whom: Whom,
        #[command(flatten)]
        how: How,
    },
    /// Send clients to another name of their application.
    Redirect {
        #[command(subcommand)]
        whom: Redirect,
    },
    /// Pushes and pulls.
    Relays,
    /// Add or remove a push or a pull.
    Relay {
        #[command(subcommand)]
        what: RelayCommand,
    },
    /// Who is kept out.
    Bans,
    /// Keep somebody out, or let somebody in again.
    Ban {
        #[command(subcommand)]
        what: BanCommand,
    },
    /// What hooks are asked, and what they have not heard yet.
    Hooks,
    /// Processes that were started with exec.
    Children,
    /// The metrics for Prometheus.
    Metrics,
    /// The description of the API.
    Openapi,
}

/// How much of a list.
#[derive(Args, Clone, Debug)]
struct Part {
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where the last part ended.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct StreamArgs {
    #[arg(value_name = "APP/NAME", value_parser = StreamName::parse)]
    stream: StreamName,
    /// The virtual host, where several have the application.
    #[arg(long)]
    server: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StreamName {
    app: String,
    name: String,
}

#[derive(Subcommand, Clone, Debug)]
enum Whom {
    /// One client.
    Client { id: u64 },
    /// Who publishes a stream.
    Publisher(StreamArgs),
    /// Who watches a stream.
    Players(StreamArgs),
    /// Who publishes and who watches a stream.
    Stream(StreamArgs),
}

#[derive(Args, Clone, Debug)]
struct How {
    /// Keep them out for so long: 60s, 5m.
    #[arg(long, global = true, value_name = "TIME")]
    ban: Option<String>,
    /// What they are known by: their address on any name, the name from any address, or the two together.
    #[arg(long, global = true, value_name = "both|address|name")]
    ban_by: Option<BanBy>,
    /// Said to them, and written to the log.
    #[arg(long, global = true, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum BanBy {
    Both,
    Address,
    Name,
}

#[derive(Subcommand, Clone, Debug)]
enum Redirect {
    /// One client.
    Client {
        id: u64,
        /// What follows ? are arguments.
        #[arg(value_name = "NEWNAME")]
        to: String,
    },
    /// Who publishes a stream.
    Publisher {
        #[command(flatten)]
        stream: StreamArgs,
        #[arg(value_name = "NEWNAME")]
        to: String,
    },
    /// Who watches a stream.
    Players {
        #[command(flatten)]
        stream: StreamArgs,
        #[arg(value_name = "NEWNAME")]
        to: String,
    },
}

#[derive(Subcommand, Clone, Debug)]
enum RelayCommand {
    /// Push or pull a stream from now on. What is there already stays as it is.
    Add {
        #[arg(value_name = "push|pull")]
        direction: Direction,
        #[command(flatten)]
        stream: StreamArgs,
        /// rtmp://HOST/APP/NAME
        #[arg(value_name = "URL")]
        far_end: String,
    },
    /// End one.
    Remove { id: u64 },
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Direction {
    Push,
    Pull,
}

#[derive(Subcommand, Clone, Debug)]
enum BanCommand {
    /// Keep out an address, a name, or an address under a name.
    Add(NewBanArgs),
    /// Let in again whom a ban keeps out.
    Lift { id: u64 },
}

#[derive(Args, Clone, Debug)]
struct NewBanArgs {
    #[arg(long, value_name = "IP", required_unless_present = "stream")]
    address: Option<String>,
    #[arg(long, value_name = "APP/NAME", value_parser = StreamName::parse)]
    stream: Option<StreamName>,
    /// The virtual host, where several have the application.
    #[arg(long, requires = "stream")]
    server: Option<String>,
    /// Of publishing or of playing the stream only.
    #[arg(long, value_name = "publisher|player", requires = "stream")]
    role: Option<OneRole>,
    /// For how long: 60s, 5m.
    #[arg(long = "for", value_name = "TIME")]
    lasts: String,
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum OneRole {
    Publisher,
    Player,
}

/// Asks, prints, and says how to exit. `configured`: the configuration that was named, if one was.
pub fn command(args: &CtlArgs, configured: impl FnOnce() -> Result<Option<Config>, String>) -> ExitCode {
    match run(args, configured, &Places::from_environment()) {
        Ok(text) => {
            super::out(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            super::err(&format!("livemill ctl: {}\n", clean(&error.to_string())));
            ExitCode::from(if matches!(error, CtlError::Ask(AskError::Url)) { BAD_USAGE } else { FAILED })
        }
    }
}

fn run(
    args: &CtlArgs,
    configured: impl FnOnce() -> Result<Option<Config>, String>,
    places: &Places,
) -> Result<String, CtlError> {
    let config = configured().map_err(CtlError::Configuration)?;
    let (place, token_file) = find(args, config.as_ref(), places)?;
    let token = match (&args.token_file, &places.api_token) {
        // What is written on the line is meant, whatever the environment says.
        (Some(file), _) => Token::read(file),
        (None, Some(given)) => Token::given(given),
        (None, None) => Token::read(&token_file.unwrap_or_else(|| places.api_token_file())),
    };
    let Plan { request, show } = args.command.plan();
    let bearer = token.as_ref().map(|token| token.token.clone()).map_err(Clone::clone);
    let answer = place.ask(&request, &bearer, PATIENCE)?;
    let text = String::from_utf8_lossy(&answer.body);
    if !(200..300).contains(&answer.status) {
        return Err(refusal(&answer, token.ok().map(|token| token.origin)));
    }
    let is_terminal = io::stdout().is_terminal();
    match show {
        // A script gets each byte as it was said; a terminal must not obey any of it.
        Show::Text if is_terminal => Ok(ended(clean_lines(&text))),
        Show::Json(_) if args.json && is_terminal => Ok(ended(clean_json(&text))),
        Show::Text => Ok(ended(text.into_owned())),
        Show::Json(_) if args.json => Ok(ended(text.into_owned())),
        Show::Json(show) => show(&text).map_err(|error| CtlError::Strange(error.to_string())),
    }
}

/// Where the API is, as the command line says, else the configuration; and the file of its token where that names one.
fn find(args: &CtlArgs, config: Option<&Config>, places: &Places) -> Result<(Place, Option<PathBuf>), CtlError> {
    let api = match config {
        Some(config) => Some(config.api.as_deref().ok_or_else(|| CtlError::Configuration(API_OFF.to_owned()))?),
        None => None,
    };
    let token_file = api.and_then(|api| api.token_file.clone());
    let place = match (&args.url, &args.socket, api.map(|api| &api.socket)) {
        (Some(url), ..) => Place::of_url(url)?,
        (None, Some(socket), _) => Place::Socket(socket.clone()),
        (None, None, Some(ApiSocket::At(socket))) => Place::Socket(socket.clone()),
        (None, None, Some(ApiSocket::Off)) => return Err(CtlError::Configuration(SOCKET_OFF.to_owned())),
        (None, None, Some(ApiSocket::Usual) | None) => Place::Socket(places.control_socket()),
    };
    Ok((place, token_file))
}

/// What to ask, and how to show the answer.
struct Plan {
    request: Request,
    show: Show,
}

enum Show {
    Json(fn(&str) -> Result<String, serde_json::Error>),
    /// It is for people and scripts alike.
    Text,
}

impl CtlCommand {
    fn plan(&self) -> Plan {
        /// An answer of one type, and the function that shows it.
        macro_rules! json {
            ($show:path) => {
                Show::Json(|text| parse(text).map(|answer| $show(&answer)))
            };
        }
        let get = |path: &str| Request::get(format!("{BASE}/{path}"));
        let (request, show) = match self {
            Self::Stat => (get("server"), json!(show::server)),
            Self::Streams { app, search, sort, part } => {
                let query = part.query().add("app", app).add("search", search).add("sort", sort);
                (get(&query.of("streams")), json!(show::streams))
            }
            Self::Stream { stream } => (get(&stream.query().of(&stream.path())), json!(show::stream)),
            Self::Clients { app, name, role, protocol, address, sort, part } => {
                let query = part.query().add("app", app).add("name", name).add("role", role);
                let query = query.add("protocol", protocol).add("address", address).add("sort", sort);
                (get(&query.of("clients")), json!(show::clients))
            }
            Self::Slowest { count } => (get(&format!("clients?sort=slowest&limit={count}")), json!(show::slowest)),
            Self::Drop { whom, how } => (Request::delete(format!("{BASE}/{}", whom.path(how))), json!(show::dropped)),
            Self::Redirect { whom } => (whom.request(), json!(show::redirected)),
            Self::Relays => (get(&format!("relays?limit={MOST}")), json!(show::relays)),
            Self::Relay { what: RelayCommand::Add { direction, stream, far_end } } => {
                let StreamName { app, name } = stream.stream.clone();
                let direction = match direction {
                    Direction::Push => RelayDirection::Push,
                    Direction::Pull => RelayDirection::Pull,
                };
                let relay = NewRelay { direction, server: stream.server.clone(), app, name, url: far_end.clone() };
                (Request::post(format!("{BASE}/relays"), &relay), json!(show::relay))
            }
            Self::Relay { what: RelayCommand::Remove { id } } => {
                (Request::delete(format!("{BASE}/relays/{id}")), json!(show::removed))
            }
            Self::Bans => (get(&format!("bans?limit={MOST}")), json!(show::bans)),
            Self::Ban { what: BanCommand::Add(ban) } => {
                (Request::post(format!("{BASE}/bans"), &ban.body()), json!(show::banned))
            }
            Self::Ban { what: BanCommand::Lift { id } } => {
                (Request::delete(format!("{BASE}/bans/{id}")), json!(show::lifted))
            }
            Self::Hooks => (get("hooks"), json!(show::hooks)),
            Self::Children => (get(&format!("children?limit={MOST}")), json!(show::children)),
            Self::Metrics => (Request::get("/metrics"), Show::Text),
            Self::Openapi => (get("openapi.json"), Show::Text),
        };
        Plan { request, show }
    }
}

impl StreamName {
    fn parse(text: &str) -> Result<Self, String> {
        let split = text.split_once('/').filter(|(app, name)| !app.is_empty() && !name.is_empty());
        let (app, name) = split.ok_or_else(|| "APP/NAME is meant, as in live/camera".to_owned())?;
        Ok(Self { app: app.to_owned(), name: name.to_owned() })
    }
}

impl StreamArgs {
    fn path(&self) -> String {
        let StreamName { app, name } = &self.stream;
        // Slashes of the name stay: it is the rest of the path.
        let name: Vec<String> = name.split('/').map(encode).collect();
        format!("streams/{}/{}", encode(app), name.join("/"))
    }

    fn query(&self) -> Query {
        Query::default().add("server", &self.server)
    }
}

impl Part {
    fn query(&self) -> Query {
        Query::default().add("limit", &Some(self.limit.to_string())).add("cursor", &self.cursor)
    }
}

impl Whom {
    fn path(&self, how: &How) -> String {
        let (path, query) = match self {
            Self::Client { id } => (format!("clients/{id}"), Query::default()),
            Self::Publisher(stream) => (stream.path(), stream.query()),
            Self::Players(stream) => (stream.path(), stream.query().is("publisher", false).is("players", true)),
            Self::Stream(stream) => (stream.path(), stream.query().is("players", true)),
        };
        let by = how.ban_by.map(|by| match by {
            BanBy::Both => "both".to_owned(),
            BanBy::Address => "address".to_owned(),
            BanBy::Name => "name".to_owned(),
        });
        query.add("ban", &how.ban).add("ban_by", &by).add("reason", &how.reason).of(&path)
    }
}

impl Redirect {
    fn request(&self) -> Request {
        let stream = |stream: &StreamArgs, to: &str, role| {
            let path = stream.query().of(&format!("{BASE}/{}/redirect", stream.path()));
            Request::post(path, &RedirectStream { to: to.to_owned(), role })
        };
        match self {
            Self::Client { id, to } => {
                Request::post(format!("{BASE}/clients/{id}/redirect"), &RedirectClient { to: to.clone() })
            }
            Self::Publisher { stream: of, to } => stream(of, to, RedirectRole::Publisher),
            Self::Players { stream: of, to } => stream(of, to, RedirectRole::Player),
        }
    }
}

impl NewBanArgs {
    fn body(&self) -> NewBan {
        NewBan {
            address: self.address.clone(),
            server: self.server.clone(),
            app: self.stream.as_ref().map(|stream| stream.app.clone()),
            name: self.stream.as_ref().map(|stream| stream.name.clone()),
            role: self.role.map(|role| match role {
                OneRole::Publisher => Role::Publisher,
                OneRole::Player => Role::Player,
            }),
            lasts: self.lasts.clone(),
            reason: self.reason.clone(),
        }
    }
}

/// The part of an address behind `?`.
#[derive(Default)]
struct Query(String);

impl Query {
    fn add(mut self, name: &str, value: &Option<String>) -> Self {
        if let Some(value) = value {
            let sign = if self.0.is_empty() { '?' } else { '&' };
            self.0.push_str(&format!("{sign}{name}={}", encode(value)));
        }
        self
    }

    fn is(self, name: &str, value: bool) -> Self {
        self.add(name, &Some(value.to_string()))
    }

    fn of(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

fn ended(text: String) -> String {
    if text.ends_with('\n') { text } else { text + "\n" }
}

/// What the API says is wrong.
fn refusal(answer: &Answer, token_from: Option<String>) -> CtlError {
    let problem = serde_json::from_slice::<Problem>(&answer.body).ok();
    match (problem, answer.status, token_from) {
        (_, 401, Some(from)) => CtlError::Token { from },
        (Some(Problem { title, detail, .. }), _, _) if detail.is_empty() => CtlError::Refused(title),
        (Some(Problem { title, detail, .. }), _, _) => CtlError::Refused(format!("{title}: {detail}")),
        (None, status, _) => CtlError::NoApi { status },
    }
}

/// What the API wants to see before it answers.
struct Token {
    token: String,
    /// Where it is from.
    origin: String,
}

impl Token {
    fn given(given: &OsStr) -> Result<Self, AskError> {
        let token = given.to_str().filter(|token| is_sendable(token));
        let token = token.ok_or_else(|| AskError::Token(format!("{API_TOKEN_VARIABLE} holds no token")))?;
        Ok(Self { token: token.to_owned(), origin: API_TOKEN_VARIABLE.to_owned() })
    }

    /// Unlike a server, this makes no token where there is none, and whoever may read the file may use it.
    fn read(path: &Path) -> Result<Self, AskError> {
        let shown = path.display();
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(LONGEST_TOKEN_FILE).read_to_string(&mut text));
        let instead = "set LIVEMILL_API_TOKEN, or name the server's file with --token-file";
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(AskError::Token(format!("there is no token: there is no file \"{shown}\"; {instead}")))
            }
            Err(error) => {
                let why = crate::log::queue::describe(&error);
                Err(AskError::Token(format!("cannot read the token in \"{shown}\": {why}; {instead}")))
            }
            Ok(_) if !is_sendable(text.trim_end()) => Err(AskError::Token(format!("\"{shown}\" holds no token"))),
            Ok(_) => Ok(Self { token: text.trim_end().to_owned(), origin: format!("\"{shown}\"") }),
        }
    }
}

/// It stands in a line of a request.
fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic())
}

/// Why it was not done.
#[derive(Debug, Error)]
enum CtlError {
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Refused(String),
    #[error("the server does not accept the token from {from}")]
    Token { from: String },
    #[error("what answers is not livemill's API (status {status})")]
    NoApi { status: u16 },
    #[error("the answer is not what this version of livemill expects ({0}); --json shows it")]
    Strange(String),
}

const BASE: &str = "/api/v1";
const API_OFF: &str = "there is no API to ask: the configuration says \"api off\"";
const SOCKET_OFF: &str =
    "the configuration says \"api_socket off\": name the address of the API with --url http://HOST:PORT";
const LONGEST_TOKEN_FILE: u64 = 4096;
/// The longest page there is.
const MOST: u16 = 1000;
const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
/// Everything but what needs no encoding anywhere (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ctl: CtlArgs,
    }

    fn parse_line(words: &[&str]) -> Result<CtlArgs, clap::Error> {
        Line::try_parse_from(std::iter::once(&"ctl").chain(words)).map(|line| line.ctl)
    }

    #[track_caller]
    fn check(words: &str, method: &str, path: &str, body: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let args = parse_line(&words).unwrap();
        assert!(args.url.is_none() && args.socket.is_none(), "{args:?}");
        let Request { method: has, path: asks, body: says } = args.command.plan().request;
        assert_eq!((has, &*asks, says.as_deref().unwrap_or_default()), (method, path, body), "{words:?}");
    }

    #[test]
    fn each_command_is_one_request() {
        check("stat", "GET", "/api/v1/server", "");
        check("streams --app live --search a/b", "GET", "/api/v1/streams?limit=100&app=live&search=a%2Fb", "");
        check("stream live/a/b%c", "GET", "/api/v1/streams/live/a/b%25c", "");
        check("stream live/x --server s", "GET", "/api/v1/streams/live/x?server=s", "");
        check(
            "clients --role player --sort -bytes_out --limit 5 --cursor x",
            "GET",
            "/api/v1/clients?limit=5&cursor=x&role=player&sort=-bytes_out",
            "",
        );
        check("slowest", "GET", "/api/v1/clients?sort=slowest&limit=20", "");
        check("slowest 3", "GET", "/api/v1/clients?sort=slowest&limit=3", "");
        check("relays", "GET", "/api/v1/relays?limit=1000", "");
        check("bans", "GET", "/api/v1/bans?limit=1000", "");
        check("hooks", "GET", "/api/v1/hooks", "");
        check("children", "GET", "/api/v1/children?limit=1000", "");
        check("metrics", "GET", "/metrics", "");
        check("openapi", "GET", "/api/v1/openapi.json", "");
    }

    #[test]
    fn each_order_is_one_request() {
        check("drop client 7", "DELETE", "/api/v1/clients/7", "");
        check(
            "drop client 7 --ban 60s --ban-by address --reason rude&loud",
            "DELETE",
            "/api/v1/clients/7?ban=60s&ban_by=address&reason=rude%26loud",
            "",
        );
        check("drop publisher live/x", "DELETE", "/api/v1/streams/live/x", "");
        check("drop players live/x", "DELETE", "/api/v1/streams/live/x?publisher=false&players=true", "");
        check("drop stream live/x --ban 5m", "DELETE", "/api/v1/streams/live/x?players=true&ban=5m", "");
        check("redirect client 7 y?a=b", "POST", "/api/v1/clients/7/redirect", r#"{"to":"y?a=b"}"#);
        let path = "/api/v1/streams/live/x/redirect";
        check("redirect publisher live/x y", "POST", path, r#"{"to":"y","role":"publisher"}"#);
        check("redirect players live/x y", "POST", path, r#"{"to":"y","role":"player"}"#);
        check(
            "relay add push live/x rtmp://h/live/x",
            "POST",
            "/api/v1/relays",
            r#"{"direction":"push","app":"live","name":"x","url":"rtmp://h/live/x"}"#,
        );
        check("relay remove 3", "DELETE", "/api/v1/relays/3", "");
        check(
            "ban add --address 192.0.2.1 --for 60s",
            "POST",
            "/api/v1/bans",
            r#"{"address":"192.0.2.1","for":"60s"}"#,
        );
        check(
            "ban add --stream live/x --role publisher --for 5m --reason rude",
            "POST",
            "/api/v1/bans",
            r#"{"app":"live","name":"x","role":"publisher","for":"5m","reason":"rude"}"#,
        );
        check("ban lift 3", "DELETE", "/api/v1/bans/3", "");
    }

    #[test]
    fn what_is_not_understood_is_refused_before_anybody_is_asked() {
        for wrong in [
            "",
            "dance",
            "stream live",
            "stream /x",
            "drop",
            "drop client x",
            "drop client 7 --ban-by shoe",
            "clients --limit 0",
            "clients --limit 1001",
            "slowest 0",
            "relay add send live/x rtmp://h/a/b",
            "ban add --for 60s",
            "ban add --address 192.0.2.1",
            "ban add --address 192.0.2.1 --role player --for 60s",
            "stat --socket a --url http://h",
        ] {
            let words: Vec<&str> = wrong.split(' ').filter(|word| !word.is_empty()).collect();
            assert!(parse_line(&words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_server_refuses_is_said_in_its_words() {
        let said = |status, body: &str| {
            refusal(&Answer { status, body: body.into() }, Some("\"api.token\"".to_owned())).to_string()
        };
        let problem = |title: &str, detail: &str| {
            format!(r#"{{"type":"about:blank","title":"{title}","status":404,"detail":"{detail}"}}"#)
        };
        assert_eq!(
            said(404, &problem("Not Found", "there is no stream live/x")),
            "Not Found: there is no stream live/x"
        );
        assert_eq!(said(404, &problem("Not Found", "")), "Not Found");
        assert_eq!(said(401, ""), "the server does not accept the token from \"api.token\"");
        assert_eq!(said(404, "<html>"), "what answers is not livemill's API (status 404)");
    }

    #[test]
    fn the_token_is_where_it_is_said_to_be_or_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let find = || Token::read(&path).map(|token| token.token).map_err(|error| error.to_string());
        assert!(find().unwrap_err().starts_with("there is no token: "));
        for (text, expected) in
            [("s3cret\n", Ok("s3cret")), ("", Err("")), ("two words", Err("")), ("a\r\nX: b", Err(""))]
        {
            std::fs::write(&path, text).unwrap();
            match expected {
                Ok(token) => assert_eq!(find().as_deref(), Ok(token)),
                Err(_) => assert!(find().unwrap_err().ends_with(" holds no token"), "{text:?}"),
            }
        }
    }
}
