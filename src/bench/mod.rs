//! The load tool: publishers and players by the thousand from one cheap process, against any RTMP server.
//!
//! - [`load`]: sockets, epoll and the phases of a run. One thread, raw epoll: a task per player would cost more than the player.
//! - [`client`]: the RTMP dialogue of one connection; [`http`]: a viewer over HTTP-FLV.
//! - [`media`]: the generated stream, each frame with its time of sending inside.
//! - [`poll`]: who looks at statistics over HTTP meanwhile, each on a thread of its own.
//! - [`tally`], [`histogram`], [`usage`]: what was lost and late, and what it cost. [`report`] says it.
//! - [`floor`]: the least a server could do, to hold the others against.

pub mod client;
pub mod clock;
pub mod floor;
pub mod histogram;
pub mod http;
pub mod load;
pub mod media;
pub mod poll;
pub mod report;
pub mod tally;
pub mod usage;

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;

use client::Destination;
use http::Page;
use load::Plan;
use media::Shape;
use poll::{Place, Polling};
pub use report::Report;

use crate::protocol::rtmp::url::{RtmpUrl, UrlError};

/// Put an RTMP server under load and see what it costs, how late frames are and whether any are lost.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// The stream. With several publishers the names get -0, -1, …
    #[arg(default_value = "rtmp://127.0.0.1:1935/live/bench")]
    pub url: String,
    /// Streams to publish. With 0 the players play the URL, which someone else publishes with this tool.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub publishers: usize,
    /// Players in total, dealt to the streams in turn.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub players: usize,
    /// Where players go if not to the URL: http://HOST:PORT/APP/NAME.flv. With several publishers NAME gets -0, -1, …
    #[arg(long, value_name = "URL")]
    pub play: Option<String>,
    /// Players that ask for the stream and then never read.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub slow: usize,
    /// Connections that do nothing after connect.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub idle: usize,
    /// Length of the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 15.0)]
    pub duration: f64,
    /// From the last player's first keyframe to the measurement.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub warmup: f64,
    /// New connections a second.
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub ramp: u32,
    /// How long to wait for the last keyframe.
    #[arg(long, value_name = "SECONDS", default_value_t = 20.0)]
    pub ready_timeout: f64,
    #[command(flatten)]
    pub media: MediaArgs,
    /// Appended to what is published, not to what is played, after a question mark: key=SECRET.
    #[arg(long, value_name = "ARGS")]
    pub publish_args: Option<String>,
    /// The server's process: its CPU time and memory are read, with those of its children.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Ask this address (http://HOST:PORT/PATH) during the measurement, each time over a new connection; may be given
    /// several times, and each is asked at its own pace.
    #[arg(long, value_name = "URL")]
    pub poll: Vec<String>,
    /// From one request for such an address to the next.
    #[arg(long, value_name = "MS", default_value_t = 250)]
    pub poll_every: u64,
    /// Sent to these addresses as `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    pub poll_token: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 when anybody was cut off, any frame was lost or any address that was polled failed.
    #[arg(long)]
    pub strict: bool,
}

/// What each stream looks like.
#[derive(Args, Clone, Copy, Debug)]
pub struct MediaArgs {
    /// Of a whole stream, audio included.
    #[arg(long, value_name = "KBIT/S", default_value_t = 1000)]
    pub bitrate: u64,
    #[arg(long, value_name = "N", default_value_t = 25.0)]
    pub fps: f64,
    /// From keyframe to keyframe.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub gop: f64,
    /// AAC with 96 kbit/s, 43 frames a second.
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_off, action = ArgAction::Set)]
    pub audio: bool,
}

#[derive(Subcommand, Clone, Debug)]
pub enum BenchCommand {
    /// Serve a generated stream by a bare loop with no server around it: the physical limit of this machine.
    Floor(floor::FloorArgs),
}

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("{0}")]
    Url(#[from] UrlError),
    #[error("rtmps:// is not spoken here: TLS would cost this tool more than the players do")]
    Tls,
    #[error("--play {0}: http://HOST[:PORT]/APP/NAME.flv is meant")]
    Play(String),
    #[error("--poll {0}: http://HOST[:PORT]/PATH is meant, and a token without spaces")]
    Poll(String),
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("--{option} {value}: {why}")]
    Option { option: &'static str, value: f64, why: &'static str },
    #[error("{needed} connections need more open files than the {allowed} this process may have (ulimit -n)")]
    OpenFiles { needed: u64, allowed: u64 },
    #[error("no publisher was let in: {0}")]
    NobodyPublishes(String),
    #[error("there is no process {0}")]
    NoSuchProcess(u32),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs what was asked for. A floor never returns unless it fails.
pub fn run(args: BenchArgs) -> Result<Report, BenchError> {
    if let Some(BenchCommand::Floor(floor)) = &args.command {
        match floor::serve(floor)? {}
    }
    let plan = plan(&args)?;
    let connections = args.publishers + args.players + args.slow + args.idle + args.poll.len();
    raise_open_files(connections)?;
    let outcome = load::run(&plan)?;
    Ok(Report::new(&args, &outcome))
}

/// The whole command: runs, prints, and says how to exit.
pub fn command(args: BenchArgs) -> ExitCode {
    let (json, strict) = (args.json, args.strict);
    let report = match run(args) {
        Ok(report) => report,
        Err(error) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr(), "livemill bench: {error}");
            return ExitCode::from(2);
        }
    };
    let text = if json { report.to_json() } else { report.to_string() };
    if writeln!(io::stdout(), "{text}").is_err() {
        return ExitCode::from(2);
    }
    if strict && !report.is_clean() { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

fn plan(args: &BenchArgs) -> Result<Plan, BenchError> {
    let url: RtmpUrl = args.url.parse()?;
    if url.tls {
        return Err(BenchError::Tls);
    }
    let stream = |index: usize| {
        let mut url = url.clone();
        if args.publishers > 1 {
            url.name = format!("{}-{index}", url.name);
        }
        let queries = [url.query.as_str(), args.publish_args.as_deref().unwrap_or_default()];
        let queries: Vec<&str> = queries.into_iter().filter(|query| !query.is_empty()).collect();
        let publish_name = RtmpUrl { query: queries.join("&"), ..url.clone() }.stream();
        Destination { tc_url: url.tc_url(), app: url.app.clone(), play_name: url.stream(), publish_name }
    };
    Ok(Plan {
        address: address(&url)?,
        pages: args.play.as_deref().map(|play| pages(play, args.publishers)).transpose()?,
        destinations: (0..args.publishers.max(1)).map(stream).collect(),
        publish: args.publishers > 0,
        players: args.players,
        slow: args.slow,
        idle: args.idle,
        shape: args.media.shape()?,
        ramp: args.ramp.max(1),
        ready_timeout: seconds("ready-timeout", args.ready_timeout)?,
        warmup: seconds("warmup", args.warmup)?,
        window: seconds("duration", args.duration)?,
        server_pid: args.server_pid,
        polling: polling(args)?,
    })
}

fn polling(args: &BenchArgs) -> Result<Polling, BenchError> {
    let places = args.poll.iter().map(|url| Place::new(url, args.poll_token.as_deref())).collect::<Result<_, _>>()?;
    Ok(Polling { places, every: Duration::from_millis(args.poll_every.max(1)) })
}

/// Where the players of each stream go over HTTP.
fn pages(play: &str, streams: usize) -> Result<(SocketAddr, Vec<Page>), BenchError> {
    let wrong = || BenchError::Play(play.to_owned());
    let rest = play.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').ok_or_else(wrong)?;
    let (file, query) = path.split_once('?').map_or((path, String::new()), |(file, query)| (file, format!("?{query}")));
    let name = file.strip_suffix(".flv").ok_or_else(wrong)?;
    let page = |index: usize| {
        let number = if streams > 1 { format!("-{index}") } else { String::new() };
        Page { host: host.to_owned(), path: format!("/{name}{number}.flv{query}") }
    };
    let with_port = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut addresses = with_port.to_socket_addrs()?;
    let address = addresses.next().ok_or_else(|| BenchError::NoAddress(host.to_owned()))?;
    Ok((address, (0..streams.max(1)).map(page).collect()))
}

impl MediaArgs {
    fn shape(&self) -> Result<Shape, BenchError> {
        let check = |option, value: f64, low: f64, high: f64| {
            let fits = (low..=high).contains(&value);
            fits.then_some(()).ok_or(BenchError::Option { option, value, why: "out of range" })
        };
        check("bitrate", self.bitrate as f64, 100.0, 1_000_000.0)?;
        check("fps", self.fps, 0.1, 1000.0)?;
        check("gop", self.gop, 0.001, 3600.0)?;
        Ok(Shape { bits_per_second: self.bitrate * 1000, fps: self.fps, gop_seconds: self.gop, audio: self.audio })
    }
}

fn seconds(option: &'static str, value: f64) -> Result<Duration, BenchError> {
    Duration::try_from_secs_f64(value).map_err(|_| BenchError::Option { option, value, why: "not a length of time" })
}

/// The address of a server; the first that its name has.
fn address(url: &RtmpUrl) -> Result<SocketAddr, BenchError> {
    let mut addresses = (url.host.as_str(), url.port).to_socket_addrs()?;
    addresses.next().ok_or_else(|| BenchError::NoAddress(url.host.clone()))
}

/// Raises the soft limit of open files to the hard one, which must do for so many connections.
fn raise_open_files(connections: usize) -> Result<(), BenchError> {
    let needed = connections as u64 + SPARE_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    if needed > hard {
        return Err(BenchError::OpenFiles { needed: connections as u64, allowed: hard });
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(io::Error::from)?;
    }
    Ok(())
}

/// One line for a person who waits.
fn progress(what: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let _ = writeln!(stderr, "{what} …");
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// Standard streams, epoll, timer, `/proc`.
const SPARE_FILES: u64 = 32;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(words: &str) -> BenchArgs {
        Command::try_parse_from(format!("bench {words}").split_whitespace()).unwrap().bench
    }

    fn floor(words: &str) -> SocketAddr {
        let Some(BenchCommand::Floor(floor)) = args(&format!("floor --listen 127.0.0.1:0 {words}")).command else {
            panic!("floor is a command")
        };
        let mut floor = floor::Floor::new(&floor).unwrap();
        let address = floor.address().unwrap();
        std::thread::spawn(move || floor.run());
        address
    }

    #[test]
    fn streams_are_numbered_and_only_publishing_needs_the_key() {
        let plan = plan(&args("rtmp://127.0.0.1/live/x?a=b --publishers 3 --publish-args key=k")).unwrap();
        let names: Vec<_> = plan.destinations.iter().map(|to| (&*to.publish_name, &*to.play_name)).collect();
        assert_eq!(names, [("x-0?a=b&key=k", "x-0?a=b"), ("x-1?a=b&key=k", "x-1?a=b"), ("x-2?a=b&key=k", "x-2?a=b")]);
        assert_eq!(plan.address.to_string(), "127.0.0.1:1935");
    }

    #[test]
    fn players_may_go_elsewhere_over_http() {
        let pages = |play: &str, streams| pages(play, streams).map(|(address, pages)| (address.to_string(), pages));
        let (address, two) = pages("http://127.0.0.1:8080/live/x.flv?a=b", 2).unwrap();
        assert_eq!(address, "127.0.0.1:8080");
        assert_eq!(two.iter().map(|page| &*page.path).collect::<Vec<_>>(), ["/live/x-0.flv?a=b", "/live/x-1.flv?a=b"]);
        assert_eq!(pages("http://127.0.0.1/live/x.flv", 1).unwrap().0, "127.0.0.1:80");
        for wrong in ["rtmp://h/live/x.flv", "http://127.0.0.1", "http://127.0.0.1/live/x.m3u8"] {
            assert!(pages(wrong, 1).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for words in ["--fps 0", "--bitrate 5", "--gop=-1", "--duration=-1", "rtmps://127.0.0.1/live/x", "http://h/a/b"]
        {
            assert!(plan(&args(words)).is_err(), "{words}");
        }
    }

    #[test]
    fn every_player_of_a_bare_loop_gets_every_frame() {
        for mode in ["each", "ride", "tick:10"] {
            let address = floor(&format!("--gop 0.2 --mode {mode}"));
            let pid = std::process::id();
            let words = format!(
                "rtmp://{address}/live/x --publishers 0 --players 20 --idle 3 --slow 2 --ramp 2000 --warmup 0 --duration 0.4 --server-pid {pid}"
            );
            let report = run(args(&words)).unwrap();
            assert!(report.is_clean(), "{mode}: {report}");
            assert_eq!((report.players_ready, report.idle_ready, report.slow_cut_off), (20, 3, 0), "{report}");
            assert!(report.frames_per_player_min >= 5, "{report}");
            assert!(report.video_latency_ms_max > 0.0 && report.server_cpu_us_per_player_s > Some(0.0), "{report}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error_and_not_a_report() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let outcome = run(args(&format!("rtmp://{nobody}/live/x")));
        assert!(matches!(outcome, Err(BenchError::NobodyPublishes(_))), "{outcome:?}");
    }
}
