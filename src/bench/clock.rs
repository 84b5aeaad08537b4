//! The monotonic clock as nanoseconds, so that a stamp means the same in another process of this machine.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`. `std::time::Instant` reads the same clock but keeps the number to itself.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|time| Duration::from(time).as_nanos() as u64)
        .expect("every Linux kernel has a monotonic clock")
}
