//! The access log: one line a session, in the format the configuration names.
//!
//! A `log_format` is compiled once into a [`Format`]; a finished session hands in its [`SessionRecord`]. The variables are those
//! of the whole nginx-rtmp family, so a format keeps working whichever module it was written for. Where two modules use one
//! name for two things (`$args`), it means what nginx-rtmp itself means. What livemill cannot know is written as `-`.

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use nix::unistd::{Gid, Uid};
use thiserror::Error;
use tracing::{error, warn};

use super::line::{cut, is_secret_argument, mask_query, masked_value, push_bytes_escaped, push_escaped};
use super::queue::{Line, LineQueue, LossReport, OpenError, Outlet, To, Trouble};
use crate::config::{self, Config, LogTarget};

/// The access logs of one session: those of its application, or of its server where it never reached one. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    shared: Option<Arc<Shared>>,
    lines: Arc<[(usize, Arc<Format>)]>,
}

impl AccessLog {
    /// Writes the session's line to each log. Never waits: a line that finds the queue full is counted and dropped.
    pub fn write(&self, record: &SessionRecord) {
        let Some(shared) = self.shared.as_ref().filter(|_| !self.lines.is_empty()) else { return };
        let now = shared.scene.now();
        for (place, format) in self.lines.iter() {
            shared.queue.write(Line { to: To::One(*place), text: format.line(record, &shared.scene, &now).into() });
        }
    }
}

/// What is known of a session when it ends. Text is as the peer sent it; secrets are masked when it is written.
#[derive(Debug, Clone, Default)]
pub struct SessionRecord {
    /// Counts from 1, as in the error log's `*1`.
    pub connection: u64,
    /// None: a unix socket.
    pub remote: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// `rtmp` or `rtmps`.
    pub protocol: &'static str,
    /// The host part of `tcUrl`.
    pub host: String,
    /// The `id` of the virtual host ([`config::Server::id`]).
    pub server_id: String,
    pub app: String,
    /// Of the last publish or play, without its query.
    pub name: String,
    /// The query of the last publish or play, without `?`.
    pub args: String,
    pub flash_ver: String,
    pub swf_url: String,
    pub tc_url: String,
    pub page_url: String,
    /// What `connect` announced as `audioCodecs` and `videoCodecs`.
    pub audio_codecs: u32,
    pub video_codecs: u32,
    /// What was published or played, as `media` names it; empty where nothing was.
    pub audio_codec: &'static str,
    pub video_codec: &'static str,
    pub published: bool,
    pub played: bool,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// From accept to close.
    pub duration: Duration,
    /// Why the session ended, in the words of its closing line in the error log.
    pub reason: String,
    pub milestones: Milestones,
}

/// When a session got where, counted from accept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Milestones {
    pub handshake: Option<Moment>,
    pub connect: Option<Moment>,
    pub create_stream: Option<Moment>,
    /// The accepted publish or play.
    pub start: Option<Moment>,
    pub first_data: Option<Moment>,
    pub first_metadata: Option<Moment>,
    pub first_audio: Option<Moment>,
    pub first_video: Option<Moment>,
    pub close_stream: Option<Moment>,
}

/// A time after accept, in whole milliseconds: each connection keeps nine of them, and thousands are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(NonZeroU32);

impl From<Duration> for Moment {
    fn from(time: Duration) -> Self {
        // After seven weeks the first keyframe no longer comes at a time that anybody asks for.
        let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Self(NonZeroU32::MIN.saturating_add(ms))
    }
}

impl From<Moment> for Duration {
    fn from(moment: Moment) -> Self {
        Self::from_millis(u64::from(moment.0.get() - 1))
    }
}

/// The files of all access logs, open but not yet written to: the writer thread starts after the process went to the
/// background.
#[derive(Debug)]
pub struct AccessLogFiles {
    targets: Vec<LogTarget>,
    outlets: Vec<Outlet>,
    formats: HashMap<String, Arc<Format>>,
    queue: usize,
    /// What the operator should read: defaults that could not be opened.
    pub warnings: Vec<String>,
}

impl AccessLogFiles {
    /// Compiles the formats in use and opens each file once, however many applications write to it.
    pub fn open(config: &Config, owner: Option<(Uid, Gid)>) -> Result<Self, AccessLogError> {
        let mut files = Self {
            targets: Vec::new(),
            outlets: Vec::new(),
            formats: HashMap::new(),
            queue: config.limits.log_queue,
            warnings: Vec::new(),
        };
        for server in &config.servers {
            let applications = server.applications.iter().flat_map(|application| &application.access_log);
            for log in server.access_log.iter().chain(applications) {
                files.add(log, owner)?;
            }
        }
        for log in config.http.iter().flat_map(|http| http.access_logs()) {
            files.add_target(log, owner)?;
        }
        Ok(files)
    }

    /// Starts the writer thread, if there is anything to write.
    pub fn start(self) -> io::Result<AccessLogs> {
        if self.outlets.is_empty() {
            return Ok(AccessLogs { shared: None, targets: Vec::new(), formats: HashMap::new() });
        }
        let mut losses = LossReport::default();
        let queue = LineQueue::start("access log", self.queue, self.outlets, move |trouble| {
            report(trouble, &mut losses);
            Vec::new()
        })?;
        let shared = Some(Arc::new(Shared { queue, scene: Scene::here() }));
        Ok(AccessLogs { shared, targets: self.targets, formats: self.formats })
    }

    pub(super) fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.outlets.iter()
    }

    fn add(&mut self, log: &config::AccessLog, owner: Option<(Uid, Gid)>) -> Result<(), AccessLogError> {
        let config::LogFormat { name, template } = &*log.format;
        if !self.formats.contains_key(name) {
            let format =
                Format::compile(template).map_err(|source| AccessLogError::Format { name: name.clone(), source })?;
            self.formats.insert(name.clone(), Arc::new(format));
        }
        self.add_target(log, owner)
    }

    fn add_target(&mut self, log: &config::AccessLog, owner: Option<(Uid, Gid)>) -> Result<(), AccessLogError> {
        if self.targets.contains(&log.target) {
            return Ok(());
        }
        let outlet = match Outlet::open(&log.target, owner) {
            Ok(outlet) => outlet,
            Err(error) if !log.is_written => {
                self.warnings.push(format!("the default access log is off: {error}"));
                Outlet::Nothing
            }
            Err(error) => return Err(error.into()),
        };
        self.targets.push(log.target.clone());
        self.outlets.push(outlet);
        Ok(())
    }
}

/// All access logs of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLogs {
    shared: Option<Arc<Shared>>,
    targets: Vec<LogTarget>,
    formats: HashMap<String, Arc<Format>>,
}

impl AccessLogs {
    /// The logs behind the `access_log` lines of an application or a server. To be asked once for each of those.
    pub fn of(&self, lines: &[config::AccessLog]) -> AccessLog {
        let find = |line: &config::AccessLog| {
            let place = self.targets.iter().position(|target| *target == line.target && *target != LogTarget::Off)?;
            Some((place, Arc::clone(self.formats.get(&line.format.name)?)))
        };
        AccessLog { shared: self.shared.clone(), lines: lines.iter().filter_map(find).collect() }
    }

    /// Writes a line that somebody else has made. Never waits: where the queue is full it is counted and dropped.
    pub fn write_line(&self, target: &LogTarget, text: String) {
        let place = self.targets.iter().position(|known| known == target && *known != LogTarget::Off);
        if let (Some(shared), Some(place)) = (&self.shared, place) {
            shared.queue.write(Line { to: To::One(place), text: text.into() });
        }
    }

    /// Opens the files anew under their names (`-s reopen`, USR1).
    pub fn reopen(&self) {
        if let Some(shared) = &self.shared {
            shared.queue.reopen();
        }
    }

    /// Lines lost since the start: the queue was full or the disk was.
    pub fn lost(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.queue.lost())
    }

    /// Waits for the lines handed over so far, but never longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        if let Some(shared) = &self.shared {
            shared.queue.flush(patience);
        }
    }
}

/// Why the access logs cannot be opened.
#[derive(Debug, Error)]
pub enum AccessLogError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{source} in log_format \"{name}\"")]
    Format { name: String, source: UnknownVariable },
}

/// A `log_format` names a variable that no module of the family has. The message is nginx's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown \"{name}\" variable")]
pub struct UnknownVariable {
    pub name: String,
    /// The known one that looks most like it.
    pub nearest: Option<&'static str>,
}

/// A compiled `log_format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Part>);

impl Format {
    /// Splits a template at its `$name` and `${name}`.
    pub fn compile(template: &str) -> Result<Self, UnknownVariable> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once('$') {
            push_text(&mut parts, text);
            let (name, after) = split_variable(after);
            parts.push(Part::Variable(variable(name)?));
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    fn line(&self, record: &SessionRecord, scene: &Scene, now: &Zoned) -> String {
        let mut line = String::with_capacity(256);
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Variable(variable) => variable.push(&mut line, record, scene, now),
            }
        }
        line.push('\n');
        line
    }
}

/// Checks a template without keeping it: what the configuration asks while it is read.
pub fn compile(template: &str) -> Result<Format, UnknownVariable> {
    Format::compile(template)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    App,
    /// `$arg_NAME`, `$parg_NAME`.
    Argument(String),
    Args,
    AudioCodec,
    AudioCodecs,
    BinaryRemoteAddr,
    BytesReceived,
    BytesSent,
    Command,
    Connection,
    FlashVer,
    Host,
    Hostname,
    IsArgs,
    Iso8601,
    Milestone(Milestone),
    Msec,
    Name,
    PageUrl,
    Pid,
    Protocol,
    Reason,
    RemoteAddr,
    RemotePort,
    RequestId,
    RequestTime,
    RequestUri,
    ServerAddr,
    ServerId,
    ServerPort,
    SessionReadableTime,
    SessionTime,
    Stage,
    Stream,
    SwfUrl,
    TcUrl,
    TimeLocal,
    /// Known to the family, unknowable or not built here.
    Unknown,
    Uri,
    Version,
    VideoCodec,
    VideoCodecs,
    Worker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Milestone {
    Init,
    Handshake,
    Connect,
    CreateStream,
    Start,
    FirstData,
    FirstMetadata,
    FirstAudio,
    FirstVideo,
    CloseStream,
}

impl Variable {
    fn push(&self, line: &mut String, record: &SessionRecord, scene: &Scene, now: &Zoned) {
        let seconds = record.duration.as_secs();
        match self {
            Self::App => push_text_of_peer(line, &record.app),
            Self::Argument(name) => push_argument(line, &record.args, name),
            Self::Args => push_text_of_peer(line, &record.args),
            Self::AudioCodec => push_text_of_peer(line, record.audio_codec),
            Self::AudioCodecs => push(line, record.audio_codecs),
            Self::BinaryRemoteAddr => match record.remote.map(|remote| remote.ip().to_canonical()) {
                Some(IpAddr::V4(ip)) => push_bytes_escaped(line, &ip.octets()),
                Some(IpAddr::V6(ip)) => push_bytes_escaped(line, &ip.octets()),
                None => line.push_str(ABSENT),
            },
            Self::BytesReceived => push(line, record.bytes_received),
            Self::BytesSent => push(line, record.bytes_sent),
            Self::Command => line.push_str(match (record.played, record.published) {
                (false, false) => "NONE",
                (true, false) => "PLAY",
                (false, true) => "PUBLISH",
                (true, true) => "PLAY+PUBLISH",
            }),
            Self::Connection => push(line, record.connection),
            Self::FlashVer => push_text_of_peer(line, &record.flash_ver),
            Self::Host => push_text_of_peer(line, &record.host),
            Self::Hostname => line.push_str(&scene.hostname),
            Self::IsArgs => line.push_str(if record.args.is_empty() { "" } else { "?" }),
            Self::Iso8601 => push(line, now.strftime("%Y-%m-%dT%H:%M:%S%:z")),
            Self::Milestone(milestone) => match record.milestones.at(*milestone) {
                Some(after) => push(line, after.as_millis()),
                None => line.push_str(ABSENT),
            },
            Self::Msec => push(line, now.strftime("%s.%3f")),
            Self::Name => push_text_of_peer(line, &record.name),
            Self::PageUrl => push_text_of_peer(line, &record.page_url),
            Self::Pid => push(line, scene.pid),
            Self::Protocol => line.push_str(record.protocol),
            Self::Reason => push_text_of_peer(line, &record.reason),
            Self::RemoteAddr => push_address(line, record.remote),
            Self::RemotePort => push_port(line, record.remote),
            Self::RequestId => {
                let time = now.timestamp().as_microsecond();
                push(line, format_args!("{time:016x}{:08x}{:08x}", scene.pid, record.connection));
            }
            Self::RequestTime => push(line, format_args!("{seconds}.{:03}", record.duration.subsec_millis())),
            Self::RequestUri => {
                push_uri(line, record);
                if !record.args.is_empty() {
                    line.push('?');
                    push_text_of_peer(line, &record.args);
                }
            }
            Self::ServerAddr => push_address(line, record.local),
            Self::ServerId => push_text_of_peer(line, &record.server_id),
            Self::ServerPort => push_port(line, record.local),
            Self::SessionReadableTime => push_readable(line, seconds),
            Self::SessionTime => push(line, seconds),
            Self::Stage => line.push_str(record.stage()),
            Self::Stream => {
                push_text_of_peer(line, &record.server_id);
                push_uri(line, record);
            }
            Self::SwfUrl => push_text_of_peer(line, &record.swf_url),
            Self::TcUrl => push_text_of_peer(line, &record.tc_url),
            Self::TimeLocal => push(line, now.strftime("%d/%b/%Y:%H:%M:%S %z")),
            Self::Unknown => line.push_str(ABSENT),
            Self::Uri => push_uri(line, record),
            Self::Version => line.push_str(env!("CARGO_PKG_VERSION")),
            Self::VideoCodec => push_text_of_peer(line, record.video_codec),
            Self::VideoCodecs => push(line, record.video_codecs),
            // All cores belong to one process.
            Self::Worker => line.push('0'),
        }
    }
}

impl SessionRecord {
    /// What was published or played: the names of audio and video; what is not known any more changes nothing.
    pub fn note_codecs(&mut self, (audio, video): (&'static str, &'static str)) {
        if !audio.is_empty() {
            self.audio_codec = audio;
        }
        if !video.is_empty() {
            self.video_codec = video;
        }
    }

    fn stage(&self) -> &'static str {
        let got = &self.milestones;
        match (self.published, self.played) {
            (true, _) => "publish",
            (_, true) => "play",
            _ if got.create_stream.is_some() => "create_stream",
            _ if got.connect.is_some() => "connect",
            _ if got.handshake.is_some() => "handshake_done",
            _ => "init",
        }
    }
}

impl Milestones {
    fn at(&self, milestone: Milestone) -> Option<Duration> {
        let moment = match milestone {
            Milestone::Init => return Some(Duration::ZERO),
            Milestone::Handshake => self.handshake,
            Milestone::Connect => self.connect,
            Milestone::CreateStream => self.create_stream,
            Milestone::Start => self.start,
            Milestone::FirstData => self.first_data,
            Milestone::FirstMetadata => self.first_metadata,
            Milestone::FirstAudio => self.first_audio,
            Milestone::FirstVideo => self.first_video,
            Milestone::CloseStream => self.close_stream,
        };
        moment.map(Duration::from)
    }
}

#[derive(Debug)]
struct Shared {
    queue: LineQueue,
    scene: Scene,
}

/// What every line of this process shares.
#[derive(Debug)]
struct Scene {
    zone: TimeZone,
    pid: u32,
    hostname: String,
}

impl Scene {
    fn here() -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = if hostname.trim().is_empty() { "localhost" } else { hostname.trim() };
        Self { zone: TimeZone::system(), pid: std::process::id(), hostname: hostname.to_owned() }
    }

    fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.zone.clone())
    }
}

/// The access log's troubles are news for the error log.
fn report(trouble: Trouble, losses: &mut LossReport) {
    for failure in trouble.reopen_failures {
        error!(severity = "emerg", "{failure}");
    }
    if let Some(count) = losses.due(trouble.uptime, trouble.lost) {
        warn!(count, "access log lines lost: the queue was full, or a log could not be written to");
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Text(text.to_owned()));
    }
}

/// What follows a `$`: the name, and the rest.
fn split_variable(text: &str) -> (&str, &str) {
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
        return (name, rest);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn variable(name: &str) -> Result<Variable, UnknownVariable> {
    if let Some((_, variable)) = VARIABLES.iter().find(|(known, _)| *known == name) {
        return Ok(variable.clone());
    }
    let argument = name.strip_prefix("arg_").or_else(|| name.strip_prefix("parg_"));
    if let Some(argument) = argument.filter(|argument| !argument.is_empty()) {
        return Ok(Variable::Argument(argument.to_owned()));
    }
    if UNKNOWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(Variable::Unknown);
    }
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    let nearest = VARIABLES.iter().map(|(known, _)| *known).min_by_key(|known| distance(known));
    let nearest = nearest.filter(|known| distance(known) * 3 <= name.len());
    Err(UnknownVariable { name: name.to_owned(), nearest })
}

fn push(line: &mut String, value: impl std::fmt::Display) {
    // Writing to a String fails only where a Display does, and then the line has a gap.
    let _ = write!(line, "{value}");
}

fn push_text_of_peer(line: &mut String, text: &str) {
    push_escaped(line, &mask_query(cut(text, MAX_VALUE_BYTES)));
}

fn push_argument(line: &mut String, args: &str, wanted: &str) {
    let value = args.split('&').find_map(|argument| {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        name.eq_ignore_ascii_case(wanted).then_some(value)
    });
    match value {
        Some(value) if is_secret_argument(wanted) => push_escaped(line, &masked_value(value)),
        Some(value) => push_escaped(line, cut(value, MAX_VALUE_BYTES)),
        None => line.push_str(ABSENT),
    }
}

fn push_uri(line: &mut String, record: &SessionRecord) {
    line.push('/');
    push_text_of_peer(line, &record.app);
    line.push('/');
    push_text_of_peer(line, &record.name);
}

fn push_address(line: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(address) => push(line, address.ip().to_canonical()),
        None => line.push_str("unix:"),
    }
}

fn push_port(line: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(address) => push(line, address.port()),
        None => line.push_str(ABSENT),
    }
}

/// `1d 2h 3m 4s`; units that are zero in front are left out.
fn push_readable(line: &mut String, seconds: u64) {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    if days > 0 {
        push(line, format_args!("{days}d "));
    }
    if days > 0 || hours > 0 {
        push(line, format_args!("{hours}h "));
    }
    if days > 0 || hours > 0 || minutes > 0 {
        push(line, format_args!("{minutes}m "));
    }
    push(line, format_args!("{}s", seconds % 60));
}

const VARIABLES: &[(&str, Variable)] = &[
    ("acodecs", Variable::AudioCodecs),
    ("app", Variable::App),
    ("args", Variable::Args),
    ("audio_codec", Variable::AudioCodec),
    ("binary_remote_addr", Variable::BinaryRemoteAddr),
    ("bitrate", Variable::Unknown),
    ("bytes_received", Variable::BytesReceived),
    ("bytes_sent", Variable::BytesSent),
    ("close_stream", Variable::Milestone(Milestone::CloseStream)),
    ("command", Variable::Command),
    ("connect", Variable::Milestone(Milestone::Connect)),
    ("connection", Variable::Connection),
    ("create_stream", Variable::Milestone(Milestone::CreateStream)),
    ("domain", Variable::Host),
    ("finalize_reason", Variable::Reason),
    ("first_audio", Variable::Milestone(Milestone::FirstAudio)),
    ("first_data", Variable::Milestone(Milestone::FirstData)),
    ("first_metadata", Variable::Milestone(Milestone::FirstMetadata)),
    ("first_video", Variable::Milestone(Milestone::FirstVideo)),
    ("flashver", Variable::FlashVer),
    ("groupid", Variable::Unknown),
    ("handshake_done", Variable::Milestone(Milestone::Handshake)),
    ("host", Variable::Host),
    ("hostname", Variable::Hostname),
    ("init", Variable::Milestone(Milestone::Init)),
    ("is_args", Variable::IsArgs),
    ("metadata", Variable::Unknown),
    ("msec", Variable::Msec),
    ("name", Variable::Name),
    ("nginx_version", Variable::Version),
    ("ngx_worker", Variable::Worker),
    ("notify_status", Variable::Unknown),
    ("ntp", Variable::Unknown),
    ("oclp_status", Variable::Unknown),
    ("page_url", Variable::PageUrl),
    ("pageurl", Variable::PageUrl),
    ("pargs", Variable::Args),
    ("pid", Variable::Pid),
    ("protocol", Variable::Protocol),
    ("ptime", Variable::Milestone(Milestone::Start)),
    ("query_string", Variable::Args),
    ("reason", Variable::Reason),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("request_id", Variable::RequestId),
    ("request_time", Variable::RequestTime),
    ("request_uri", Variable::RequestUri),
    ("scheme", Variable::Protocol),
    ("server_addr", Variable::ServerAddr),
    ("server_name", Variable::ServerId),
    ("server_port", Variable::ServerPort),
    ("serverid", Variable::ServerId),
    ("session_readable_time", Variable::SessionReadableTime),
    ("session_time", Variable::SessionTime),
    ("stage", Variable::Stage),
    ("stream", Variable::Stream),
    ("swf_url", Variable::SwfUrl),
    ("swfurl", Variable::SwfUrl),
    ("tc_url", Variable::TcUrl),
    ("tcurl", Variable::TcUrl),
    ("time_iso8601", Variable::Iso8601),
    ("time_local", Variable::TimeLocal),
    ("uri", Variable::Uri),
    ("vcodecs", Variable::VideoCodecs),
    ("video_codec", Variable::VideoCodec),
];
/// Relays have no lines here, and the kernel's view of the socket is gone when a line is written.
const UNKNOWN_PREFIXES: &[&str] = &["tcpinfo_", "relay_"];
/// nginx's sign for "no value".
const ABSENT: &str = "-";
/// As long as a query may be (`reliability` case 75): a line must not grow with what a peer sends.
const MAX_VALUE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BuiltIn, LogFormat};

    fn record() -> SessionRecord {
        SessionRecord {
            connection: 7,
            remote: Some("203.0.113.5:50000".parse().unwrap()),
            local: Some("[::ffff:192.0.2.1]:1935".parse().unwrap()),
            protocol: "rtmp",
            host: "live.example.com".into(),
            server_id: "default".into(),
            app: "live".into(),
            name: "cam".into(),
            args: "k=1".into(),
            flash_ver: "FMLE/3.0 (compatible; FMSc/1.0)".into(),
            tc_url: "rtmp://live.example.com/live".into(),
            published: true,
            bytes_received: 1_045_877,
            bytes_sent: 412,
            duration: Duration::from_millis(64_500),
            reason: "closed by the publisher".into(),
            milestones: Milestones { connect: Some(Duration::from_millis(12).into()), ..Milestones::default() },
            ..SessionRecord::default()
        }
    }

    fn line(template: &str, record: &SessionRecord) -> String {
        let scene = Scene { zone: TimeZone::UTC, pid: 42, hostname: "mill".into() };
        let time: Timestamp = "2024-07-26T10:11:12.345Z".parse().unwrap();
        let line = Format::compile(template).unwrap().line(record, &scene, &time.to_zoned(TimeZone::UTC));
        line.strip_suffix('\n').unwrap().to_owned()
    }

    #[test]
    fn combined_is_the_line_of_the_family() {
        assert_eq!(
            line(&LogFormat::combined().template, &record()),
            "203.0.113.5 [26/Jul/2024:10:11:12 +0000] PUBLISH \"live\" \"cam\" \"k=1\" - 1045877 412 \"\" \
             \"FMLE/3.0 (compatible; FMSc/1.0)\" (1m 4s)"
        );
    }

    #[test]
    fn variables_of_every_module_work() {
        let check = |template: &str, expected: &str| assert_eq!(line(template, &record()), expected, "{template}");
        check("$connection $msec $session_time $request_time", "7 1721988672.345 64 64.500");
        check("$remote_addr:$remote_port $server_addr:$server_port", "203.0.113.5:50000 192.0.2.1:1935");
        check("$uri $request_uri $is_args$query_string", "/live/cam /live/cam?k=1 ?k=1");
        check("${app}_$name ${command}S", "live_cam PUBLISHS");
        check("$arg_k $parg_K $arg_none", "1 1 -");
        check("$time_iso8601 $hostname $pid", "2024-07-26T10:11:12+00:00 mill 42");
        check("$stream $scheme $domain $stage", "default/live/cam rtmp live.example.com publish");
        check("$init $connect $first_video", "0 12 -");
        check("$finalize_reason", "closed by the publisher");
        check("$tcpinfo_rtt $relay_app $oclp_status", "- - -");
        check("$binary_remote_addr", r"\xCB\x00\x71\x05");
    }

    #[test]
    fn a_unix_socket_has_no_address() {
        let record = SessionRecord { remote: None, ..record() };
        assert_eq!(line("$remote_addr $remote_port $binary_remote_addr", &record), "unix: - -");
    }

    #[test]
    fn a_time_is_readable_in_every_size() {
        let check = |seconds, expected: &str| {
            let record = SessionRecord { duration: Duration::from_secs(seconds), ..record() };
            assert_eq!(line("$session_readable_time", &record), expected);
        };
        check(0, "0s");
        check(3_600, "1h 0m 0s");
        check(93_784, "1d 2h 3m 4s");
    }

    #[test]
    fn what_was_done_is_one_word() {
        let check = |played, published, expected: &str| {
            assert_eq!(line("$command", &SessionRecord { played, published, ..record() }), expected);
        };
        check(false, false, "NONE");
        check(true, false, "PLAY");
        check(true, true, "PLAY+PUBLISH");
    }

    #[test]
    fn keys_never_reach_the_file() {
        let secret = "0123456789abcdef";
        let record = SessionRecord {
            args: format!("a=1&key={secret}"),
            tc_url: format!("rtmp://h/live?token={secret}"),
            page_url: format!("http://h/?key={secret}"),
            ..record()
        };
        let text = line("$args $tcurl $pageurl $arg_key $request_uri $query_string", &record);
        assert!(!text.contains("0123"), "{text}");
        assert!(text.starts_with("a=1&key=****cdef rtmp://h/live?token=****cdef "), "{text}");
    }

    #[test]
    fn peer_text_cannot_leave_its_quotes() {
        let record = SessionRecord { flash_ver: "a\" \"b\r\nc".into(), ..record() };
        assert_eq!(line("\"$flashver\"", &record), "\"a\\x22 \\x22b\\x0D\\x0Ac\"");
    }

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest() {
        let error = compile("$remote_adr").unwrap_err();
        assert_eq!(error.to_string(), "unknown \"remote_adr\" variable");
        assert_eq!(error.nearest, Some("remote_addr"));
        assert_eq!(compile("a $ b").unwrap_err().to_string(), "unknown \"\" variable");
        assert_eq!(compile("$http_user_agent").unwrap_err().nearest, None);
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(VARIABLES.is_sorted_by(|(a, _), (b, _)| a < b));
    }

    fn with_log(target: LogTarget, template: &str, is_written: bool) -> Config {
        let mut config = Config::built_in(BuiltIn::default());
        let format = Arc::new(LogFormat { name: "test".into(), template: template.into() });
        Arc::get_mut(&mut config.servers[0]).unwrap().access_log =
            vec![config::AccessLog { target, format, is_written }];
        config
    }

    #[test]
    fn a_session_is_one_line_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/access.log");
        let config = with_log(LogTarget::File(path.clone()), "$app/$name", true);
        let logs = AccessLogFiles::open(&config, None).unwrap().start().unwrap();
        logs.of(&config.servers[0].access_log).write(&record());
        logs.of(&[]).write(&record());
        logs.flush(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "live/cam\n");
        assert_eq!(logs.lost(), 0);
    }

    #[test]
    fn only_a_written_log_must_open() {
        let target = LogTarget::File("/proc/none/access.log".into());
        let error = AccessLogFiles::open(&with_log(target.clone(), "$app", true), None).unwrap_err();
        assert_eq!(error.to_string(), "open() \"/proc/none/access.log\" failed (2: No such file or directory)");
        assert_eq!(AccessLogFiles::open(&with_log(target, "$app", false), None).unwrap().warnings.len(), 1);
    }

    #[test]
    fn a_broken_format_stops_the_start() {
        let error = AccessLogFiles::open(&with_log(LogTarget::Stdout, "$nope", true), None).unwrap_err();
        assert_eq!(error.to_string(), "unknown \"nope\" variable in log_format \"test\"");
    }
}
