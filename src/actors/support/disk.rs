//! Files of one output: written in their order by threads that may wait for a disk, so that nothing else ever does.
//!
//! A file is built in memory, written under a temporary name and renamed, so that nobody reads half of one. A folder that
//! is missing is made, also when somebody moved it away while the stream went on. A disk that is full, gone or stuck
//! costs files: they are counted, the log says so once and says when it is over, and the next file is tried again.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{error, info};

use crate::protocol::hls::crypt::Key;

/// The queue of one output. Orders are carried out one after the other, in the order given.
pub struct DiskQueue {
    shared: Arc<Shared>,
}

/// What all queues of the process have in common.
#[derive(Clone)]
pub struct Disk(Arc<Totals>);

/// Counted over all queues.
#[derive(Debug)]
pub struct Totals {
    pub files_written: AtomicU64,
    pub bytes_written: AtomicU64,
    /// Files that could not be written, or found no room in their queue.
    pub files_lost: AtomicU64,
    /// Queues that are at work.
    busy: watch::Sender<usize>,
    rewritten: OnceLock<TellRewritten>,
}

/// Who wants to know of each [`Order::Rewrite`] that was carried out: by the name of its queue. Called on a thread of the
/// disk.
struct TellRewritten(Box<Rewritten>);

type Rewritten = dyn Fn(&str, &Path) + Send + Sync;

impl fmt::Debug for TellRewritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TellRewritten")
    }
}

/// Something to do in a folder.
#[derive(Debug)]
pub enum Order {
    /// A file and what it holds, encrypted on its way if there is a key. `of` comes back in the report.
    Write { path: PathBuf, bytes: Bytes, cipher: Option<Key>, of: u64 },
    /// The same for a file that is rewritten all the time: one that still waits is replaced, and nobody is told.
    Rewrite { path: PathBuf, bytes: Bytes },
    /// A last word in a file that is there. Where somebody moved it away there is nobody to tell, and no folder is made.
    Amend { path: PathBuf, bytes: Bytes },
    /// The file is in use: its age starts anew.
    Touch { path: PathBuf },
    /// The file is not needed any more. It may be gone already.
    Remove { path: PathBuf },
}

/// What became of an [`Order::Write`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub of: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// Written, and its folder had to be made: what was in it is not there any more.
    InNewFolder,
    Lost,
}

/// Called on a thread of the disk.
type Tell = Box<dyn Fn(Report) + Send + Sync>;

struct Shared {
    /// For the log: whose files these are.
    name: String,
    folder_mode: u32,
    queue: Mutex<Queue>,
    totals: Arc<Totals>,
    tell: Tell,
}

#[derive(Default)]
struct Queue {
    orders: VecDeque<Order>,
    bytes: usize,
    is_running: bool,
    /// Files lost since the last one that was written.
    lost: u64,
}

impl Disk {
    pub fn totals(&self) -> &Totals {
        &self.0
    }

    /// Tells of every playlist and manifest that is written from now on; the first who asks is told.
    pub fn tell_rewritten(&self, tell: impl Fn(&str, &Path) + Send + Sync + 'static) {
        let _ = self.0.rewritten.set(TellRewritten(Box::new(tell)));
    }

    /// Waits until every queue has done its work.
    pub async fn idle(&self) {
        let mut busy = self.0.busy.subscribe();
        // The sender lives in `self`.
        let _ = busy.wait_for(|busy| *busy == 0).await;
    }

    /// A queue for one output. `tell` hears what became of each file that was ordered by [`Order::Write`].
    pub fn queue(&self, name: String, folder_mode: u32, tell: impl Fn(Report) + Send + Sync + 'static) -> DiskQueue {
        let totals = Arc::clone(&self.0);
        let shared = Shared { name, folder_mode, queue: Mutex::default(), totals, tell: Box::new(tell) };
        DiskQueue { shared: Arc::new(shared) }
    }
}

impl Default for Disk {
    fn default() -> Self {
        let (files_written, bytes_written, files_lost) = Default::default();
        Self(Arc::new(Totals {
            files_written,
            bytes_written,
            files_lost,
            busy: watch::Sender::new(0),
            rewritten: OnceLock::new(),
        }))
    }
}

impl DiskQueue {
    /// Takes an order; what finds no room is lost, and reported as that. To be called within a runtime.
    pub fn push(&self, order: Order) {
        let mut queue = self.shared.queue();
        if let Order::Rewrite { path, .. } = &order {
            let old =
                queue.orders.iter().position(|o| matches!(o, Order::Rewrite { path: known, .. } if known == path));
            if let Some(old) = old.and_then(|place| queue.orders.remove(place)) {
                queue.bytes -= old.size();
            }
        }
        if queue.orders.len() >= MAX_ORDERS || queue.bytes + order.size() > MAX_BYTES {
            self.shared.lose(
                &mut queue,
                order.path(),
                &io::Error::new(io::ErrorKind::TimedOut, "the disk does not keep up"),
            );
            drop(queue);
            self.shared.report(&order, Outcome::Lost);
            return;
        }
        queue.bytes += order.size();
        queue.orders.push_back(order);
        if !queue.is_running {
            queue.is_running = true;
            drop(queue);
            self.shared.totals.busy.send_modify(|busy| *busy += 1);
            let shared = Arc::clone(&self.shared);
            spawn_blocking(move || shared.work());
        }
    }
}

impl DiskQueue {
    /// Counts a file that was given up before it came here.
    pub fn note_lost(&self, path: &Path) {
        let error = io::Error::new(io::ErrorKind::TimedOut, "the disk does not keep up");
        self.shared.lose(&mut self.shared.queue(), path, &error);
    }
}

impl Order {
    fn size(&self) -> usize {
        match self {
            Self::Write { bytes, .. } | Self::Rewrite { bytes, .. } | Self::Amend { bytes, .. } => bytes.len(),
            Self::Touch { .. } | Self::Remove { .. } => 0,
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Write { path, .. } | Self::Rewrite { path, .. } | Self::Amend { path, .. } => path,
            Self::Touch { path } | Self::Remove { path } => path,
        }
    }
}

impl Shared {
    /// A panic while the queue is held leaves it as usable as before: it is a list.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what is ordered until nothing is left.
    fn work(&self) {
        let _busy = Busy(&self.totals);
        loop {
            let mut queue = self.queue();
            let Some(order) = queue.orders.pop_front() else {
                queue.is_running = false;
                return;
            };
            queue.bytes -= order.size();
            drop(queue);
            match self.carry_out(&order) {
                Ok(outcome) => {
                    if let (Order::Rewrite { path, .. }, Some(tell)) = (&order, self.totals.rewritten.get()) {
                        (tell.0)(&self.name, path);
                    }
                    self.settle(&order);
                    self.report(&order, outcome);
                }
                Err(error) => {
                    self.lose(&mut self.queue(), order.path(), &error);
                    self.report(&order, Outcome::Lost);
                }
            }
        }
    }

    fn carry_out(&self, order: &Order) -> io::Result<Outcome> {
        match order {
            Order::Write { path, bytes, cipher: Some(key), .. } => self.write(path, &key.encrypt(bytes)),
            Order::Write { path, bytes, cipher: None, .. } | Order::Rewrite { path, bytes } => self.write(path, bytes),
            Order::Amend { path, bytes } if path.exists() => replace(path, bytes).map(|()| Outcome::Written),
            Order::Amend { .. } => Ok(Outcome::Written),
            // Age and removal are kept up for others' sake; a file that is gone needs neither.
            Order::Touch { path } => {
                let _ = fs::File::open(path).and_then(|file| file.set_modified(jiff::Timestamp::now().into()));
                Ok(Outcome::Written)
            }
            Order::Remove { path } => {
                let _ = fs::remove_file(path);
                Ok(Outcome::Written)
            }
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<Outcome> {
        match replace(path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new("."));
                fs::DirBuilder::new().recursive(true).mode(self.folder_mode).create(folder)?;
                replace(path, bytes).map(|()| Outcome::InNewFolder)
            }
            written => written.map(|()| Outcome::Written),
        }
    }

    fn settle(&self, order: &Order) {
        if !matches!(order, Order::Write { .. } | Order::Rewrite { .. }) {
            return;
        }
        self.totals.files_written.fetch_add(1, Ordering::Relaxed);
        self.totals.bytes_written.fetch_add(order.size() as u64, Ordering::Relaxed);
        let lost = std::mem::take(&mut self.queue().lost);
        if lost > 0 {
            info!(stream = %self.name, lost, "files are written again");
        }
    }

    /// Says the first of a row of losses in the log.
    fn lose(&self, queue: &mut Queue, path: &Path, error: &io::Error) {
        self.totals.files_lost.fetch_add(1, Ordering::Relaxed);
        queue.lost += 1;
        if queue.lost == 1 {
            let path = path.display();
            error!(stream = %self.name, %path, %error, "a file was not written; the stream goes on, and so do the attempts");
        }
    }

    fn report(&self, order: &Order, outcome: Outcome) {
        if let Order::Write { of, .. } = order {
            (self.tell)(Report { of: *of, outcome });
        }
    }
}

/// A queue at work, until it is dropped: also by a panic.
struct Busy<'a>(&'a Totals);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy = busy.saturating_sub(1));
    }
}

/// Readers find the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Half a file would fill the disk further.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The family's name for what is not finished.
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// After the whole name of a file that is being written.
pub const TEMPORARY_SUFFIX: &str = ".bak";

/// What may wait for a disk that does not keep up: a minute of segments, and what memory that may take.
const MAX_ORDERS: usize = 64;
const MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    struct Bench {
        disk: Disk,
        queue: DiskQueue,
        reports: mpsc::Receiver<Report>,
        dir: TempDir,
    }

    fn bench() -> Bench {
        let (tell, reports) = mpsc::sync_channel(200);
        let disk = Disk::default();
        let queue = disk.queue("live/a".to_owned(), 0o755, move |report| tell.send(report).expect("the test listens"));
        Bench { disk, queue, reports, dir: TempDir::new().expect("a temporary directory") }
    }

    impl Bench {
        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, of: u64) {
            self.queue.push(Order::Write {
                path: self.path(name),
                bytes: Bytes::from_static(b"media"),
                cipher: None,
                of,
            });
        }

        fn outcome(&self) -> (u64, Outcome) {
            let report = self.reports.recv_timeout(Duration::from_secs(10)).expect("every write is reported");
            (report.of, report.outcome)
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let entries = fs::read_dir(self.path(folder)).expect("the folder is there").flatten();
            let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    #[tokio::test]
    async fn files_come_whole_into_folders_that_were_not_there() {
        let bench = bench();
        bench.write("a/b/0.ts", 7);
        assert_eq!(bench.outcome(), (7, Outcome::InNewFolder));
        bench.write("a/b/1.ts", 8);
        assert_eq!(bench.outcome(), (8, Outcome::Written));
        assert_eq!(bench.names("a/b"), ["0.ts", "1.ts"], "no temporary file stays");
        assert_eq!(bench.disk.totals().files_written.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_folder_that_was_moved_away_is_made_again() {
        let bench = bench();
        bench.write("a/0.ts", 0);
        bench.outcome();
        fs::rename(bench.path("a"), bench.path("kept")).expect("a move on one disk");
        bench.write("a/1.ts", 1);
        assert_eq!(bench.outcome(), (1, Outcome::InNewFolder));
        assert_eq!(bench.names("a"), ["1.ts"]);
        assert_eq!(bench.names("kept"), ["0.ts"], "what was moved is left alone");
    }

    #[tokio::test]
    async fn a_last_word_brings_nothing_back_that_was_moved_away() {
        let bench = bench();
        bench.write("a/0.ts", 0);
        bench.outcome();
        for (name, expected) in [("a/0.ts", Some("end")), ("gone/0.ts", None)] {
            bench.queue.push(Order::Amend { path: bench.path(name), bytes: Bytes::from_static(b"end") });
            bench.disk.idle().await;
            assert_eq!(fs::read_to_string(bench.path(name)).ok().as_deref(), expected);
        }
        assert!(!bench.path("gone").exists());
    }

    #[tokio::test]
    async fn a_disk_that_refuses_costs_files_and_is_tried_again() {
        let bench = bench();
        fs::write(bench.path("a"), b"a file where a folder should be").expect("a file");
        bench.write("a/0.ts", 0);
        bench.write("a/1.ts", 1);
        assert_eq!([bench.outcome(), bench.outcome()], [(0, Outcome::Lost), (1, Outcome::Lost)]);
        assert_eq!(bench.disk.totals().files_lost.load(Ordering::Relaxed), 2);
        fs::remove_file(bench.path("a")).expect("our own file");
        bench.write("a/2.ts", 2);
        assert_eq!(bench.outcome(), (2, Outcome::InNewFolder));
    }

    #[tokio::test]
    async fn a_stuck_disk_holds_a_bounded_queue_and_the_rest_is_lost() {
        let bench = bench();
        let fifo = bench.path("0.ts.bak");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe that nobody reads");
        bench.write("0.ts", 0);
        while !bench.queue.shared.queue().orders.is_empty() {
            tokio::task::yield_now().await;
        }
        for of in 1..100 {
            bench.write(&format!("{of}.ts"), of);
        }
        // The first is stuck in the pipe, as many as may wait wait, and the others are told of at once.
        let lost: Vec<(u64, Outcome)> = (0..100 - MAX_ORDERS as u64 - 1).map(|_| bench.outcome()).collect();
        assert!(lost.iter().all(|(of, outcome)| *of > MAX_ORDERS as u64 && *outcome == Outcome::Lost), "{lost:?}");
        let mut pipe = fs::File::open(&fifo).expect("somebody reads at last");
        io::copy(&mut pipe, &mut io::sink()).expect("all of it");
        for of in 0..=MAX_ORDERS as u64 {
            assert_eq!(bench.outcome(), (of, Outcome::Written));
        }
    }

    #[tokio::test]
    async fn a_playlist_that_still_waits_is_replaced_and_comes_after_the_files_before_it() {
        let bench = bench();
        let fifo = bench.path("0.ts.bak");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a pipe that nobody reads");
        bench.write("0.ts", 0);
        for text in ["old", "new"] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            bench.queue.push(Order::Rewrite { path: bench.path("index.m3u8"), bytes });
        }
        bench.queue.push(Order::Remove { path: bench.path("0.ts") });
        assert!(!bench.path("index.m3u8").exists());
        io::copy(&mut fs::File::open(&fifo).expect("somebody reads at last"), &mut io::sink()).expect("all of it");
        bench.disk.idle().await;
        assert_eq!(fs::read_to_string(bench.path("index.m3u8")).expect("it is there"), "new");
        assert_eq!(bench.names("."), ["index.m3u8"]);
        assert_eq!(bench.disk.totals().files_written.load(Ordering::Relaxed), 2);
    }
}
