//! What a process costs: the CPU time and memory of it and its descendants, from `/proc`.

use std::fs;
use std::path::Path;

/// A moment's reading of a process tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time since the start, rounded down to ticks of 10 ms.
    pub ticks_ns: u64,
    /// The same to the nanosecond, but only of threads that are still there.
    pub threads_ns: u64,
    /// Resident memory. Pages shared between a parent and its children count for each.
    pub rss_bytes: u64,
    pub processes: usize,
}

impl Usage {
    /// CPU time from an earlier reading to this one.
    pub fn cpu_ns_since(&self, earlier: &Self) -> u64 {
        // Ticks are coarse and threads may end: each count can only be too low.
        let ticks = self.ticks_ns.saturating_sub(earlier.ticks_ns);
        ticks.max(self.threads_ns.saturating_sub(earlier.threads_ns))
    }
}

/// Reads a process with all threads, children and children's children. `None`: there is no such process.
pub fn of_tree(pid: u32) -> Option<Usage> {
    let mut members = vec![pid];
    let parents: Vec<(u32, u32)> = all_processes().filter_map(|pid| Some((pid, Stat::of(pid)?.parent))).collect();
    let mut next = 0;
    while let Some(&member) = members.get(next) {
        members.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(child, _)| *child));
        next += 1;
    }
    let mut total = Usage::default();
    for reading in members.into_iter().filter_map(of_process) {
        total.ticks_ns += reading.ticks_ns;
        total.threads_ns += reading.threads_ns;
        total.rss_bytes += reading.rss_bytes;
        total.processes += 1;
    }
    (total.processes > 0).then_some(total)
}

/// Reads one process with all its threads.
pub fn of_process(pid: u32) -> Option<Usage> {
    let stat = Stat::of(pid)?;
    Some(Usage {
        ticks_ns: stat.ticks * NS_PER_TICK,
        threads_ns: scheduler_ns(pid),
        rss_bytes: resident_bytes(pid)?,
        processes: 1,
    })
}

/// What we use of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name may hold spaces and brackets; the last bracket ends it. Then: state, parent, …, user time, system time.
        let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(9)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Self { parent, ticks: user + system })
    }
}

fn all_processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The run time of the living threads, to the nanosecond. Zero where the kernel keeps no such count.
fn scheduler_ns(pid: u32) -> u64 {
    let of_thread = |path: &Path| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_ascii_whitespace().next()?.parse().ok()
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| of_thread(&thread.path())).sum()
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // A process that is ending has no such line any more.
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The kernel shows ticks of 1/100 s to every process, whatever it counts in itself.
const NS_PER_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse_the_reading() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 150 25 3 4 20 0 1 0 5 6 7";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 7, ticks: 175 }));
        assert_eq!(Stat::parse("42 (short) S 7"), None);
    }

    #[test]
    fn this_process_has_used_memory_and_time() {
        let before = of_tree(std::process::id()).unwrap();
        assert!(before.rss_bytes > 100_000, "{before:?}");
        let mut sum = 0u64;
        while of_tree(std::process::id()).unwrap().cpu_ns_since(&before) < NS_PER_TICK {
            sum = std::hint::black_box((0..1_000_000).fold(sum, |sum: u64, number| sum.wrapping_mul(31) ^ number));
        }
    }

    #[test]
    fn children_count() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let usage = of_tree(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.processes >= 2, "{usage:?}");
    }
}
