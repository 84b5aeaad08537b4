//! A bounded, lossy queue of finished lines to a writer thread.
//!
//! Whoever logs never waits: a line that finds the queue full is counted and dropped. Only the writer thread can be held up
//! by a hung mount, or by a terminal or pipe nobody reads. The latter is common enough that standard error and standard
//! output have a thread each: the files go on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Uid};
use thiserror::Error;

use crate::config::LogTarget;

/// The way to the writer threads. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LineQueue {
    lanes: Arc<[Lane]>,
    lost: Arc<AtomicU64>,
}

impl LineQueue {
    /// Starts the writer threads; `capacity` is the number of lines that may wait for each. `tick` is called on one of them
    /// about once a second with what went wrong since the last call; the lines it returns are written at once.
    ///
    /// Not before the process is in the background: a fork takes no threads along.
    pub fn start(
        name: &str,
        capacity: usize,
        outlets: Vec<Outlet>,
        tick: impl FnMut(Trouble) -> Vec<Line> + Send + 'static,
    ) -> io::Result<Self> {
        let capacity = capacity.max(1);
        let lost = Arc::new(AtomicU64::new(0));
        let mut groups: BTreeMap<u8, Vec<(usize, Outlet)>> = BTreeMap::new();
        for (place, outlet) in outlets.into_iter().enumerate() {
            groups.entry(outlet.lane()).or_default().push((place, outlet));
        }
        let mut lanes = Vec::new();
        let mut writers = Vec::new();
        for outlets in groups.into_values() {
            let (jobs, received) = sync_channel(capacity);
            let calls = Arc::new(Calls::default());
            let places = outlets.iter().map(|(place, _)| *place).collect();
            lanes.push(Lane { jobs, calls: Arc::clone(&calls), places });
            let lost = Arc::clone(&lost);
            writers.push((Writer { outlets, capacity, calls, lost, reopen_failures: Vec::new() }, received));
        }
        let mut ticker = Some((tick, lanes.get(1..).unwrap_or_default().to_vec()));
        for (writer, received) in writers {
            let ticker = ticker.take();
            std::thread::Builder::new().name(name.to_owned()).stack_size(WRITER_STACK_BYTES).spawn(
                move || match ticker {
                    Some((tick, others)) => writer.run(&received, Some(tick), &others),
                    None => writer.run(&received, None::<fn(Trouble) -> Vec<Line>>, &[]),
                },
            )?;
        }
        Ok(Self { lanes: lanes.into(), lost })
    }

    /// Hands a line over, or counts it as lost.
    pub fn write(&self, line: Line) {
        offer(&self.lanes, line, &self.lost);
    }

    /// Opens every file anew under its name, as after a rotation. The queue may be full: the request is kept.
    pub fn reopen(&self) {
        for lane in self.lanes.iter() {
            lane.calls.wants_reopen.store(true, Ordering::Release);
            lane.wake();
        }
    }

    /// Lines lost since the start, in the queue or in writing.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until every line that was handed over before is written, but no longer than `patience`.
    /// False: the time was over.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let asked: Vec<Receiver<()>> = self.lanes.iter().map(Lane::flush).collect();
        let mut is_done = true;
        for written in asked {
            is_done &= written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok();
        }
        is_done
    }
}

/// One finished line, with its line feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub to: To,
    pub text: Box<str>,
}

/// Which of the outlets a line goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// The one at this place.
    One(usize),
    /// Each whose bit is set; for up to 64 outlets.
    Each(u64),
}

impl To {
    fn includes(self, place: usize) -> bool {
        match self {
            Self::One(wanted) => wanted == place,
            Self::Each(places) => place < 64 && places >> place & 1 == 1,
        }
    }
}

/// What went wrong since the last tick.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Since the start of the queue.
    pub uptime: Duration,
    /// All lines lost since the start.
    pub lost: u64,
    /// Files that could not be opened anew; the old ones are still written to.
    pub reopen_failures: Vec<String>,
}

/// Decides when losses are reported: once in ten seconds, while there are any.
#[derive(Debug, Default)]
pub struct LossReport {
    reported: u64,
    next: Duration,
}

impl LossReport {
    /// How many lines to report as lost, if now is the time.
    pub fn due(&mut self, uptime: Duration, lost: u64) -> Option<u64> {
        let news = lost.saturating_sub(self.reported);
        if news == 0 || uptime < self.next {
            return None;
        }
        self.reported = lost;
        self.next = uptime + LOSS_REPORT_INTERVAL;
        Some(news)
    }
}

/// Where lines end up.
#[derive(Debug)]
pub enum Outlet {
    File(LogFile),
    Stderr,
    Stdout,
    /// `off`: takes everything and keeps nothing.
    Nothing,
}

impl Outlet {
    /// Opens a target for appending; a missing folder is made. A new file belongs to `owner`, so that a process that gives
    /// up its privileges can open it again after a rotation.
    pub fn open(target: &LogTarget, owner: Option<(Uid, Gid)>) -> Result<Self, OpenError> {
        match target {
            LogTarget::Off => Ok(Self::Nothing),
            LogTarget::Stderr => Ok(Self::Stderr),
            LogTarget::Stdout => Ok(Self::Stdout),
            // Opening these by name fails where the stream is a socket, as under a service manager.
            LogTarget::File(path) if path == Path::new("/dev/stdout") => Ok(Self::Stdout),
            LogTarget::File(path) if path == Path::new("/dev/stderr") => Ok(Self::Stderr),
            LogTarget::File(path) => {
                // Absolute from now on: after a change of directory the same file must open again.
                let path = std::path::absolute(path).map_err(|source| OpenError { path: path.clone(), source })?;
                let file = open_for_append(&path, owner)?;
                Ok(Self::File(LogFile { path, file, is_torn: false }))
            }
        }
    }

    /// Outlets of one lane share a thread: those that are held up only together.
    fn lane(&self) -> u8 {
        match self {
            Self::File(_) | Self::Nothing => 0,
            Self::Stderr => 1,
            Self::Stdout => 2,
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        if let Self::File(log) = self {
            log.file = open_for_append(&log.path, None)?;
            log.is_torn = false;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::File(log) => log.write(text),
            Self::Stderr => io::stderr().lock().write_all(text.as_bytes()),
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
            }
            Self::Nothing => Ok(()),
        }
    }
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// None: a named pipe that nobody reads yet.
    file: Option<File>,
    /// The last line was cut in the middle, so the next one begins with a line feed.
    is_torn: bool,
}

impl LogFile {
    fn write(&mut self, text: &str) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(Errno::ENXIO.into()) };
        if self.is_torn {
            file.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    self.is_torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Why a log cannot be opened, in nginx's words.
#[derive(Debug, Error)]
#[error("open() \"{}\" failed ({})", path.display(), describe(source))]
pub struct OpenError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// An operating system error as nginx writes it: `13: Permission denied`.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{code}: {}", Errno::from_raw(code).desc()),
        None => error.to_string(),
    }
}

/// The way to one writer thread.
#[derive(Debug, Clone)]
struct Lane {
    jobs: SyncSender<Job>,
    calls: Arc<Calls>,
    places: Vec<usize>,
}

impl Lane {
    fn takes(&self, to: To) -> bool {
        self.places.iter().any(|&place| to.includes(place))
    }

    fn wake(&self) {
        self.calls.is_called.store(true, Ordering::Release);
        let _ = self.jobs.try_send(Job::Wake);
    }

    fn flush(&self) -> Receiver<()> {
        let (done, written) = sync_channel(1);
        self.calls.flushes.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        self.wake();
        written
    }
}

fn offer(lanes: &[Lane], line: Line, lost: &AtomicU64) {
    let to = line.to;
    let mut takers = lanes.iter().filter(|lane| lane.takes(to)).peekable();
    let mut line = Some(line);
    while let Some(lane) = takers.next() {
        // Copied for the second thread on; most lines go to one.
        let line = if takers.peek().is_some() { line.clone() } else { line.take() };
        if line.is_some_and(|line| lane.jobs.try_send(Job::Write(line)).is_err()) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    /// Each with its place among all outlets of the queue.
    outlets: Vec<(usize, Outlet)>,
    capacity: usize,
    calls: Arc<Calls>,
    lost: Arc<AtomicU64>,
    reopen_failures: Vec<String>,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>, mut tick: Option<impl FnMut(Trouble) -> Vec<Line>>, others: &[Lane]) {
        let started = Instant::now();
        let mut next_tick = started + TICK;
        loop {
            // While lines keep coming the channel is never empty, so the clock is looked at after each of them too.
            match jobs.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.calls.is_called.swap(false, Ordering::AcqRel) {
                self.answer(jobs);
            }
            let now = Instant::now();
            if now < next_tick {
                continue;
            }
            next_tick = now + TICK;
            self.retry_pipes();
            let Some(tick) = &mut tick else { continue };
            let trouble = Trouble {
                uptime: now.saturating_duration_since(started),
                lost: self.lost.load(Ordering::Relaxed),
                reopen_failures: std::mem::take(&mut self.reopen_failures),
            };
            for line in tick(trouble) {
                self.write(&line);
                offer(others, line, &self.lost);
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Write(line) => self.write(&line),
            Job::Wake => {}
        }
    }

    fn write(&mut self, line: &Line) {
        for (_, outlet) in self.outlets.iter_mut().filter(|(place, _)| line.to.includes(*place)) {
            if outlet.write(&line.text).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Does what `reopen` and `flush` ask for. Lines that were handed over before come first: they belong to the old files.
    fn answer(&mut self, jobs: &Receiver<Job>) {
        let flushes = std::mem::take(&mut *self.calls.flushes.lock().unwrap_or_else(PoisonError::into_inner));
        // No more than can have been waiting: under a flood this would never end.
        for _ in 0..self.capacity {
            let Ok(job) = jobs.try_recv() else { break };
            self.take(job);
        }
        if self.calls.wants_reopen.swap(false, Ordering::AcqRel) {
            for (_, outlet) in &mut self.outlets {
                if let Err(error) = outlet.reopen() {
                    self.reopen_failures.push(error.to_string());
                }
            }
        }
        for done in flushes {
            let _ = done.try_send(());
        }
    }

    /// A named pipe opens as soon as somebody reads it.
    fn retry_pipes(&mut self) {
        for (_, outlet) in &mut self.outlets {
            if matches!(outlet, Outlet::File(LogFile { file: None, .. })) {
                let _ = outlet.reopen();
            }
        }
    }
}

#[derive(Debug)]
enum Job {
    Write(Line),
    /// Somebody calls: see [`Calls::is_called`].
    Wake,
}

/// What is asked of a writer thread besides lines.
#[derive(Debug, Default)]
struct Calls {
    /// Whether one of the two below is asked for. A full queue takes no request, but whoever empties it looks here.
    is_called: AtomicBool,
    wants_reopen: AtomicBool,
    flushes: Mutex<Vec<SyncSender<()>>>,
}

/// None: a named pipe without a reader.
fn open_for_append(path: &Path, owner: Option<(Uid, Gid)>) -> Result<Option<File>, OpenError> {
    let fail = |source| OpenError { path: path.to_owned(), source };
    // Without O_NONBLOCK a named pipe without a reader would hold up the start for ever; files do not care.
    let mut options = OpenOptions::new();
    options.append(true).mode(LOG_FILE_MODE).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            // Only what was just made here changes hands: chown of a file found would follow a planted link.
            if let Some((uid, gid)) = owner {
                nix::unistd::fchown(&file, Some(uid), Some(gid)).map_err(|errno| fail(errno.into()))?;
            }
            return Ok(Some(file));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    // `create` covers a file that a rotation took away since.
    match options.create(true).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) && is_pipe(path) => Ok(None),
        Err(error) => Err(fail(error)),
    }
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// As nginx makes them: readable for whoever looks after the machine.
const LOG_FILE_MODE: u32 = 0o644;
const TICK: Duration = Duration::from_secs(1);
const LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// The thread formats a few lines and calls write.
const WRITER_STACK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn line(text: &str) -> Line {
        Line { to: To::One(0), text: format!("{text}\n").into() }
    }

    fn open(path: &Path) -> Outlet {
        Outlet::open(&LogTarget::File(path.to_owned()), None).unwrap()
    }

    fn start(outlets: Vec<Outlet>) -> LineQueue {
        LineQueue::start("log", 64, outlets, |_| Vec::new()).unwrap()
    }

    #[test]
    fn a_line_reaches_the_outlets_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| folder.path().join("logs").join(name));
        let queue = start(paths.iter().map(|path| open(path)).collect());
        queue.write(Line { to: To::Each(0b101), text: "x\n".into() });
        queue.write(Line { to: To::One(1), text: "y\n".into() });
        assert!(queue.flush(PATIENCE));
        assert_eq!(paths.map(|path| std::fs::read_to_string(path).unwrap()), ["x\n", "y\n", "x\n"]);
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("error.log"), folder.path().join("error.log.1"));
        let queue = start(vec![open(&path)]);
        queue.write(line("before"));
        assert!(queue.flush(PATIENCE));
        std::fs::rename(&path, &rotated).unwrap();
        queue.reopen();
        assert!(queue.flush(PATIENCE));
        queue.write(line("after"));
        assert!(queue.flush(PATIENCE));
        assert_eq!(std::fs::read_to_string(rotated).unwrap(), "before\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "after\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let queue = start(vec![open(Path::new("/dev/full"))]);
        queue.write(line("lost"));
        assert!(queue.flush(PATIENCE));
        assert_eq!(queue.lost(), 1);
    }

    #[test]
    fn a_pipe_without_a_reader_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let queue = start(vec![open(&path)]);
        queue.write(line("lost"));
        assert!(queue.flush(PATIENCE));
        assert_eq!(queue.lost(), 1);
    }

    #[test]
    fn a_pipe_that_is_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let queue = LineQueue::start("log", 4096, vec![open(&path)], |_| Vec::new()).unwrap();
        for _ in 0..1_000 {
            queue.write(line(&"x".repeat(1_000)));
        }
        assert!(queue.flush(PATIENCE));
        assert!(queue.lost() > 0);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (jobs, _kept) = sync_channel(2);
        let lane = Lane { jobs, calls: Arc::default(), places: vec![0] };
        let queue = LineQueue { lanes: [lane].into(), lost: Arc::default() };
        for _ in 0..5 {
            queue.write(line("x"));
        }
        assert_eq!(queue.lost(), 3);
        assert!(!queue.flush(Duration::ZERO));
    }

    #[test]
    fn a_stream_that_is_not_read_does_not_hold_up_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("error.log");
        let outlets = vec![open(&path), Outlet::Stderr, Outlet::Stdout];
        let lanes: Vec<u8> = outlets.iter().map(Outlet::lane).collect();
        assert_eq!(lanes, [0, 1, 2]);
        // A lane whose thread is stuck: nobody takes its lines.
        let queue = start(outlets);
        let (jobs, _kept) = sync_channel(1);
        let stuck = Lane { jobs, calls: Arc::default(), places: vec![1] };
        let queue = LineQueue { lanes: [queue.lanes[0].clone(), stuck].into(), ..queue };
        for _ in 0..3 {
            queue.write(Line { to: To::Each(0b11), text: "x\n".into() });
        }
        assert!(!queue.flush(Duration::from_millis(100)), "the stuck one does not answer");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "x\nx\nx\n");
        assert_eq!(queue.lost(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_as_nginx_does() {
        let error = Outlet::open(&LogTarget::File("/proc/none/error.log".into()), None).unwrap_err();
        assert_eq!(error.to_string(), "open() \"/proc/none/error.log\" failed (2: No such file or directory)");
    }

    #[test]
    fn losses_are_reported_once_in_ten_seconds() {
        let at = Duration::from_secs;
        let mut report = LossReport::default();
        assert_eq!(report.due(at(1), 0), None);
        assert_eq!(report.due(at(2), 5), Some(5));
        assert_eq!(report.due(at(3), 9), None);
        assert_eq!(report.due(at(12), 9), Some(4));
        assert_eq!(report.due(at(30), 9), None);
    }
}
