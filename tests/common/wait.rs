//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Polls until `condition` gives a value; panics at the deadline, naming what did not happen.
pub fn until<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Option<T>) -> T {
    within(deadline, condition).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}

/// Polls until `condition` gives a value or the deadline passes.
pub fn within<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if began.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Short against every deadline in use, long against the cost of a look.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
