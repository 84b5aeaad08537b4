//! Bounds what one cause may write in a second; the rest is counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// Decides line by line. `K` says which lines are similar; the number of different keys must be bounded by the program
/// (call sites are), never by peers.
#[derive(Debug)]
pub struct Flood<K> {
    lines_per_second: u32,
    causes: HashMap<K, Window>,
}

impl<K: Eq + Hash + Clone> Flood<K> {
    /// `lines_per_second` of 0 means no bound.
    pub fn new(lines_per_second: u32) -> Self {
        Self { lines_per_second, causes: HashMap::new() }
    }

    /// Whether a line of this cause may be written at `now`.
    pub fn admits(&mut self, cause: K, now: Duration) -> bool {
        if self.lines_per_second == 0 {
            return true;
        }
        let window = self.causes.entry(cause).or_insert(Window { since: now, written: 0, suppressed: 0 });
        if window.suppressed == 0 && now.saturating_sub(window.since) >= WINDOW {
            *window = Window { since: now, written: 0, suppressed: 0 };
        }
        if window.written < self.lines_per_second {
            window.written += 1;
            return true;
        }
        window.suppressed += 1;
        false
    }

    /// Ends the windows that are over at `now`; returns the causes of which lines were suppressed, with how many.
    /// To be called about once a second: a window that suppressed lines lasts until it was reported here.
    pub fn sweep(&mut self, now: Duration) -> Vec<(K, u64)> {
        let mut reports = Vec::new();
        self.causes.retain(|cause, window| {
            let over = now.saturating_sub(window.since) >= WINDOW;
            if over && window.suppressed > 0 {
                reports.push((cause.clone(), window.suppressed));
            }
            !over
        });
        reports
    }
}

#[derive(Debug)]
struct Window {
    since: Duration,
    written: u32,
    suppressed: u64,
}

const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_eleventh_line_of_a_second_is_suppressed_and_counted() {
        let mut flood = Flood::new(10);
        let written = (0..1_000).filter(|i| flood.admits("bad handshake", at(i / 2))).count();
        assert_eq!(written, 10);
        assert_eq!(flood.sweep(at(1_000)), vec![("bad handshake", 990)]);
    }

    #[test]
    fn one_cause_does_not_silence_another() {
        let mut flood = Flood::new(10);
        assert!((0..20).filter(|_| flood.admits(1, at(0))).count() == 10);
        assert!(flood.admits(2, at(0)));
    }

    #[test]
    fn a_rate_of_zero_bounds_nothing() {
        let mut flood = Flood::new(0);
        assert!((0..1_000).all(|_| flood.admits(1, at(0))));
    }

    #[test]
    fn a_quiet_second_starts_afresh() {
        let mut flood = Flood::new(10);
        assert!((0..10).all(|_| flood.admits(1, at(0))));
        assert!(flood.admits(1, at(1_000)));
        assert!(flood.sweep(at(5_000)).is_empty());
    }

    #[test]
    fn a_steady_flood_is_reported_in_every_sweep() {
        let mut flood = Flood::new(10);
        for second in 0..3 {
            assert_eq!((0..100).filter(|i| flood.admits(1, at(second * 1_000 + i))).count(), 10);
            assert_eq!(flood.sweep(at((second + 1) * 1_000)), vec![(1, 90)]);
        }
    }
}
