//! Times without what a busy machine adds to them.
//!
//! When more threads are ready than there are cores, some wait, and a test that measures the server would measure that.
//! The kernel counts it for each thread, so it can be taken off.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};

use super::server::TICKS_PER_SECOND;

/// How long the server's threads and ours were ready to run and had no core to run on, as the kernel counts it.
pub struct CoreWait {
    server: u32,
    ours: Mutex<Vec<Pid>>,
}

/// A time, and how long each thread that a frame passes through had waited for a core until then.
#[derive(Clone)]
pub struct Moment {
    pub at: Instant,
    waited: HashMap<PathBuf, Duration>,
    stolen: Duration,
}

impl CoreWait {
    pub fn new(server: u32) -> Self {
        Self { server, ours: Mutex::default() }
    }

    /// For what this thread asks of the server and waits for.
    pub fn with_this_thread(server: u32) -> Self {
        let clock = Self::new(server);
        clock.add_this_thread();
        clock
    }

    pub fn add_this_thread(&self) {
        self.ours.lock().expect("no other thread panics").push(gettid());
    }

    pub fn now(&self) -> Moment {
        let at = Instant::now();
        let folder = format!("/proc/{}/task", self.server);
        let servers = fs::read_dir(folder).into_iter().flatten().flatten().map(|thread| thread.path());
        let ours = self.ours.lock().expect("no other thread panics").clone();
        let ours = ours.into_iter().map(|id| PathBuf::from(format!("/proc/self/task/{id}")));
        let delay = |thread: PathBuf| {
            let waited = run_delay(&thread);
            (thread, waited)
        };
        Moment { at, waited: servers.chain(ours).map(delay).collect(), stolen: stolen() }
    }
}

impl Moment {
    /// The time since `earlier`, without what was spent waiting for a core: by the thread that waited longest, for those
    /// of several may be one and the same time.
    pub fn later_than(&self, earlier: &Self) -> Duration {
        let wait = |(thread, waited): (&PathBuf, &Duration)| {
            waited.saturating_sub(earlier.waited.get(thread).copied().unwrap_or_default())
        };
        let waited = self.waited.iter().map(wait).max().unwrap_or_default();
        let stolen = self.stolen.saturating_sub(earlier.stolen);
        self.at.saturating_duration_since(earlier.at).saturating_sub(waited + stolen)
    }
}

/// What one thread has waited for a core; nothing where the kernel does not say.
fn run_delay(thread: &Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// What the machine below this one has taken from its cores.
fn stolen() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: u64 = text.split_whitespace().nth(8).and_then(|number| number.parse().ok()).unwrap_or(0);
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}
