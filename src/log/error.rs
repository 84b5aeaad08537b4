//! The error log: `tracing` events become nginx's lines.
//!
//! An event's level says how urgent it is: `debug` and `trace` are nginx's `debug`, the others as they are called. The levels
//! `tracing` has no word for are given as a field: `info!(severity = "notice", …)`, `error!(severity = "crit", …)` (also
//! `alert`, `emerg`). The field `connection` becomes nginx's `*7`; every other field follows the message as `, key: value`.
//! Secret arguments in values are masked here too, whoever logged them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use nix::unistd::{Gid, Uid};
use serde_json::Map;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::flood::Flood;
use super::line::{cut, is_secret_argument, is_unsafe, mask_text, masked_value, push_bytes_escaped, push_escaped};
use super::queue::{Line, LineQueue, LossReport, OpenError, Outlet, To, Trouble};
use crate::config::{self, ErrorLogFormat, Level, LogTarget};

/// The files of the error log, open but not yet written to: the writer thread starts after the process went to the
/// background.
#[derive(Debug)]
pub struct ErrorLogFiles {
    outlets: Vec<Outlet>,
    levels: Vec<Option<Level>>,
    format: ErrorLogFormat,
    queue: usize,
    rate: u32,
}

impl ErrorLogFiles {
    /// Opens the target of every `error_log` line. `owner` is who new files belong to.
    pub fn open(config: &config::Config, owner: Option<(Uid, Gid)>) -> Result<Self, OpenError> {
        let mut lines = config.process.error_logs.clone();
        if lines.is_empty() {
            lines.push(config::ErrorLog { target: LogTarget::Stderr, level: Level::Info });
        }
        lines.truncate(MAX_ERROR_LOGS);
        Ok(Self {
            outlets: lines.iter().map(|line| Outlet::open(&line.target, owner)).collect::<Result<_, _>>()?,
            levels: lines.iter().map(|line| (line.target != LogTarget::Off).then_some(line.level)).collect(),
            format: config.process.error_log_format,
            queue: config.limits.log_queue,
            rate: config.limits.log_rate,
        })
    }

    pub(super) fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.outlets.iter()
    }

    /// Starts the writer thread; returns what events go through and the way to control it.
    pub fn start(self) -> io::Result<(ErrorLayer, ErrorLog)> {
        let lines = Arc::new(Lines {
            format: self.format,
            zone: TimeZone::system(),
            pid: std::process::id(),
            levels: self.levels,
            started: Instant::now(),
            similar: Mutex::new(Similar { flood: Flood::new(self.rate), suppressed: HashMap::new() }),
        });
        let mut losses = LossReport::default();
        let reporter = Arc::clone(&lines);
        let queue = LineQueue::start("error log", self.queue, self.outlets, move |trouble| {
            reporter.reports(trouble, &mut losses)
        })?;
        Ok((ErrorLayer { lines, queue: queue.clone() }, ErrorLog { queue }))
    }
}

/// Controls the error log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ErrorLog {
    queue: LineQueue,
}

impl ErrorLog {
    /// Opens the files anew under their names (`-s reopen`, USR1).
    pub fn reopen(&self) {
        self.queue.reopen();
    }

    /// Lines lost since the start: the queue was full or the disk was.
    pub fn lost(&self) -> u64 {
        self.queue.lost()
    }

    /// Waits for the lines handed over so far, but never longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        self.queue.flush(patience);
    }
}

/// Makes events into lines and hands them to the writer.
#[derive(Debug)]
pub struct ErrorLayer {
    lines: Arc<Lines>,
    queue: LineQueue,
}

impl ErrorLayer {
    /// Makes this the log of the process, for good. Panics reach it from then on too.
    pub fn install(self) {
        // A second log in one process is a mistake of a test, and harmless: the first stays.
        let _ = tracing_subscriber::registry().with(self).try_init();
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
            let cause = panic.payload_as_str().unwrap_or("no message");
            tracing::error!(severity = "alert", cause, place, thread, "panicked: a bug in livemill, please report it");
        }));
    }

    fn is_wanted(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && LevelFilter::from_level(*metadata.level()) <= self.lines.most_verbose()
    }
}

impl<S: Subscriber> Layer<S> for ErrorLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.is_wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.lines.most_verbose())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut level = level_of(*event.metadata().level());
        // The HTTP library calls an error what is only a request that was wrong; nginx says that at `info`, too.
        if event.metadata().target().starts_with(HTTP_LIBRARY) {
            level = level.max(Level::Info);
        }
        let mut record = Record::new(level);
        event.record(&mut record);
        let to = self.lines.outlets_for(record.level);
        if to != To::Each(0) && self.lines.admits(event.metadata(), &record) {
            self.queue.write(Line { to, text: self.lines.line(&record, &self.lines.now()) });
        }
    }
}

/// Which lines are written, and how they look.
#[derive(Debug)]
struct Lines {
    format: ErrorLogFormat,
    zone: TimeZone,
    pid: u32,
    /// One for each outlet; None takes nothing.
    levels: Vec<Option<Level>>,
    started: Instant,
    similar: Mutex<Similar>,
}

/// Lines of one call site are similar: the same message about different peers.
#[derive(Debug)]
struct Similar {
    flood: Flood<Identifier>,
    /// What the first line that was held back said.
    suppressed: HashMap<Identifier, (Level, String)>,
}

impl Lines {
    fn most_verbose(&self) -> LevelFilter {
        self.levels.iter().flatten().max().map_or(LevelFilter::OFF, |level| match level {
            Level::Debug => LevelFilter::TRACE,
            Level::Info | Level::Notice => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            Level::Error | Level::Crit | Level::Alert | Level::Emerg => LevelFilter::ERROR,
        })
    }

    fn outlets_for(&self, level: Level) -> To {
        let bits = self.levels.iter().enumerate().filter(|(_, wanted)| wanted.is_some_and(|wanted| level <= wanted));
        To::Each(bits.fold(0, |bits, (place, _)| bits | 1 << place))
    }

    /// Floods are bounded from `warn` on: those are the lines that strangers can cause at will.
    fn admits(&self, metadata: &Metadata<'_>, record: &Record) -> bool {
        if record.level > Level::Warn {
            return true;
        }
        let mut similar = self.similar.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = similar.flood.admits(metadata.callsite(), self.started.elapsed());
        if !admitted {
            let said = || (record.level, record.message.clone());
            similar.suppressed.entry(metadata.callsite()).or_insert_with(said);
        }
        admitted
    }

    /// What the writer thread itself has to say, about once a second.
    fn reports(&self, trouble: Trouble, losses: &mut LossReport) -> Vec<Line> {
        let mut records = Vec::new();
        for failure in trouble.reopen_failures {
            records.push(Record { message: failure, ..Record::new(Level::Emerg) });
        }
        if let Some(count) = losses.due(trouble.uptime, trouble.lost) {
            let message = "log lines lost: the queue was full, or a log could not be written to";
            let fields = vec![("count", Value::Unsigned(count))];
            records.push(Record { message: message.to_owned(), fields, ..Record::new(Level::Alert) });
        }
        let mut similar = self.similar.lock().unwrap_or_else(PoisonError::into_inner);
        for (cause, count) in similar.flood.sweep(self.started.elapsed()) {
            let (level, said) = similar.suppressed.remove(&cause).unwrap_or((Level::Warn, String::new()));
            let message = format!("{count} similar lines suppressed: {said}");
            records.push(Record { message, ..Record::new(level) });
        }
        drop(similar);
        let now = self.now();
        records.iter().map(|it| Line { to: self.outlets_for(it.level), text: self.line(it, &now) }).collect()
    }

    fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.zone.clone())
    }

    fn line(&self, record: &Record, time: &Zoned) -> Box<str> {
        let mut line = match self.format {
            ErrorLogFormat::Text => self.text(record, time),
            ErrorLogFormat::Json => self.json(record, time),
        };
        line.push('\n');
        line.into()
    }

    fn text(&self, record: &Record, time: &Zoned) -> String {
        let mut line = format!("{} [{}] {}#0: ", time.strftime("%Y/%m/%d %H:%M:%S"), word(record.level), self.pid);
        if let Some(connection) = record.connection {
            line.push_str(&format!("*{connection} "));
        }
        push_shown(&mut line, &record.message);
        for (name, value) in &record.fields {
            line.push_str(", ");
            line.push_str(name);
            line.push_str(": ");
            match value {
                Value::Text(text) => push_value(&mut line, text),
                Value::Unsigned(number) => line.push_str(&number.to_string()),
                Value::Signed(number) => line.push_str(&number.to_string()),
                Value::Float(number) => line.push_str(&number.to_string()),
                Value::Flag(flag) => line.push_str(if *flag { "true" } else { "false" }),
            }
        }
        line
    }

    fn json(&self, record: &Record, time: &Zoned) -> String {
        let mut line = Map::new();
        line.insert("time".to_owned(), time.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string().into());
        line.insert("level".to_owned(), word(record.level).into());
        line.insert("pid".to_owned(), self.pid.into());
        if let Some(connection) = record.connection {
            line.insert("connection".to_owned(), connection.into());
        }
        line.insert("message".to_owned(), shown(&record.message).into());
        for (name, value) in &record.fields {
            // A field of an event must not hide one of the line's own.
            let name = if line.contains_key(*name) { format!("field_{name}") } else { (*name).to_owned() };
            let value = match value {
                Value::Text(text) => shown(text).into(),
                Value::Unsigned(number) => (*number).into(),
                Value::Signed(number) => (*number).into(),
                Value::Float(number) => (*number).into(),
                Value::Flag(flag) => (*flag).into(),
            };
            line.insert(name, value);
        }
        serde_json::Value::Object(line).to_string()
    }
}

/// One event, its values as text.
#[derive(Debug)]
struct Record {
    level: Level,
    connection: Option<u64>,
    message: String,
    fields: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
}

impl Record {
    fn new(level: Level) -> Self {
        Self { level, connection: None, message: String::new(), fields: Vec::new() }
    }

    fn text(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.message = mask_text(cut(text, MAX_VALUE_BYTES)).into_owned(),
            "severity" => self.level = level_named(text).unwrap_or(self.level),
            name if is_secret_argument(name) => self.fields.push((name, Value::Text(masked_value(text)))),
            name => self.fields.push((name, Value::Text(mask_text(cut(text, MAX_VALUE_BYTES)).into_owned()))),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "connection" => self.connection = Some(value),
            name => self.fields.push((name, Value::Unsigned(value))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), Value::Signed(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.fields.push((field.name(), Value::Float(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Flag(value)));
    }
}

fn level_of(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

fn level_named(name: &str) -> Option<Level> {
    LEVELS.iter().copied().find(|&level| word(level) == name)
}

/// nginx's word for a level.
pub fn word(level: Level) -> &'static str {
    match level {
        Level::Emerg => "emerg",
        Level::Alert => "alert",
        Level::Crit => "crit",
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Notice => "notice",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// A value follows as it is, unless it could be taken for the end of itself: then in quotes.
fn push_value(line: &mut String, text: &str) {
    if text.is_empty() || text.contains(['"', '\\', ',']) {
        line.push('"');
        push_escaped(line, text);
        line.push('"');
    } else {
        push_shown(line, text);
    }
}

/// Quotes stay as they are: messages hold nginx's `open() "…" failed`.
fn push_shown(line: &mut String, text: &str) {
    for character in text.chars() {
        if is_unsafe(character) {
            push_bytes_escaped(line, character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            line.push(character);
        }
    }
}

fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_shown(&mut out, text);
    out
}

const LEVELS: [Level; 8] =
    [Level::Emerg, Level::Alert, Level::Crit, Level::Error, Level::Warn, Level::Notice, Level::Info, Level::Debug];
/// One bit each in [`To::Each`].
const MAX_ERROR_LOGS: usize = 64;
/// As long as nginx's longest line: a peer must not fill the queue's memory with one name.
const MAX_VALUE_BYTES: usize = 2048;

/// Where its events come from.
const HTTP_LIBRARY: &str = "actix_http";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tracing::{error, info, trace, warn};

    use super::*;
    use crate::config::{BuiltIn, Config};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Logs into one file a target, and returns what each holds afterwards.
    fn logged(targets: &[(&str, Level)], format: ErrorLogFormat, events: impl FnOnce()) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::built_in(BuiltIn::default());
        let path = |name: &str| folder.path().join(name);
        let log =
            |(name, level): &(&str, Level)| config::ErrorLog { target: LogTarget::File(path(name)), level: *level };
        config.process.error_logs = targets.iter().map(log).collect();
        config.process.error_log_format = format;
        let (layer, log) = ErrorLogFiles::open(&config, None).unwrap().start().unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        log.flush(PATIENCE);
        targets.iter().map(|(name, _)| read(&path(name))).collect()
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    fn one(events: impl FnOnce()) -> String {
        logged(&[("error.log", Level::Debug)], ErrorLogFormat::Text, events).remove(0)
    }

    /// Without time and pid.
    fn bodies(text: &str) -> Vec<String> {
        text.lines()
            .map(|line| {
                let (head, body) = line.split_once("#0: ").unwrap();
                format!("{} {body}", head.split(' ').nth(2).unwrap())
            })
            .collect()
    }

    #[test]
    fn a_line_looks_like_nginx() {
        let lines = Lines {
            format: ErrorLogFormat::Text,
            zone: TimeZone::UTC,
            pid: 123,
            levels: Vec::new(),
            started: Instant::now(),
            similar: Mutex::new(Similar { flood: Flood::new(10), suppressed: HashMap::new() }),
        };
        let record = Record {
            connection: Some(7),
            message: "live: already publishing".to_owned(),
            fields: vec![("client", Value::Text("1.2.3.4".into())), ("server", Value::Text("0.0.0.0:1935".into()))],
            ..Record::new(Level::Error)
        };
        let time: Timestamp = "2026-11-20T08:00:00Z".parse().unwrap();
        assert_eq!(
            &*lines.line(&record, &time.to_zoned(TimeZone::UTC)),
            "2026/11/20 08:00:00 [error] 123#0: *7 live: already publishing, client: 1.2.3.4, server: 0.0.0.0:1935\n"
        );
    }

    #[test]
    fn fields_follow_the_message() {
        let peer = "203.0.113.5:4000".parse::<std::net::SocketAddr>().unwrap();
        let text = one(|| info!(connection = 3_u64, client = %peer, frames = 5, stalled = false, "publishing"));
        assert_eq!(bodies(&text), ["[info] *3 publishing, client: 203.0.113.5:4000, frames: 5, stalled: false"]);
    }

    #[test]
    fn nginx_levels_without_a_tracing_level_are_named_by_a_field() {
        let text = one(|| {
            info!(severity = "notice", "a");
            error!(severity = "crit", "b");
            trace!("c");
        });
        assert_eq!(bodies(&text), ["[notice] a", "[crit] b", "[debug] c"]);
    }

    #[test]
    fn each_target_has_its_own_level() {
        let targets = [("error.log", Level::Error), ("notice.log", Level::Notice)];
        let texts = logged(&targets, ErrorLogFormat::Text, || {
            error!("a");
            warn!("b");
            info!(severity = "notice", "c");
            info!("d");
        });
        assert_eq!(bodies(&texts[0]), ["[error] a"]);
        assert_eq!(bodies(&texts[1]), ["[error] a", "[warn] b", "[notice] c"]);
    }

    #[test]
    fn peer_text_cannot_forge_a_line_or_a_field() {
        let name = "x\n2026/11/20 [alert] 1#0: forged, client: 9.9.9.9";
        let text = one(|| info!(name, "publishing"));
        let expected = "[info] publishing, name: \"x\\x0A2026/11/20 [alert] 1#0: forged, client: 9.9.9.9\"";
        assert_eq!(bodies(&text), [expected]);
    }

    #[test]
    fn keys_are_masked_wherever_they_appear() {
        let url = "rtmp://host/live/cam?key=0123456789abcdef";
        let text = one(|| info!(url, key = "0123456789abcdef", "refused {url}"));
        assert_eq!(text.matches("****cdef").count(), 3, "{text}");
        assert!(!text.contains("0123456789"), "{text}");
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(&[("error.log", Level::Info)], ErrorLogFormat::Json, || {
            error!(connection = 7_u64, client = "a\"b\n\u{202E}", bytes = 5_u64, level = "x", "closed");
        });
        let line: serde_json::Value = serde_json::from_str(text[0].trim_end()).unwrap();
        assert_eq!(line["level"], "error");
        assert_eq!(line["connection"], 7);
        assert_eq!(line["message"], "closed");
        assert_eq!(line["client"], "a\"b\\x0A\\xE2\\x80\\xAE");
        assert_eq!(line["bytes"], 5);
        assert_eq!(line["field_level"], "x");
        assert!(line["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }

    #[test]
    fn a_flood_of_one_cause_is_bounded_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::built_in(BuiltIn::default());
        let path = folder.path().join("error.log");
        config.process.error_logs =
            vec![config::ErrorLog { target: LogTarget::File(path.clone()), level: Level::Info }];
        let (layer, log) = ErrorLogFiles::open(&config, None).unwrap().start().unwrap();
        let lines = Arc::clone(&layer.lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for port in 0..1_000 {
                warn!(port, "bad handshake");
            }
            warn!("another cause");
        });
        log.flush(PATIENCE);
        assert!(read(&path).lines().count() <= 31, "ten a second");
        // As the writer thread would, once the second is over.
        let similar = lines.similar.lock().unwrap();
        assert!(similar.suppressed.values().any(|(level, said)| *level == Level::Warn && said == "bad handshake"));
    }

    #[test]
    fn losses_are_reported_as_an_alert() {
        let config = Config::built_in(BuiltIn::default());
        let (layer, _log) = ErrorLogFiles::open(&config, None).unwrap().start().unwrap();
        let trouble = Trouble { lost: 12, ..Trouble::default() };
        let reports = layer.lines.reports(trouble, &mut LossReport::default());
        assert_eq!(bodies(&reports[0].text).len(), 1);
        assert!(reports[0].text.contains("[alert]") && reports[0].text.ends_with("count: 12\n"), "{reports:?}");
    }
}
