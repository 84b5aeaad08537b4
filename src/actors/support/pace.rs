//! How often an arbiter looks for what has come, while a lot comes.
//!
//! With hundreds of publishers something comes every few tenths of a millisecond, and falling asleep and waking up for each
//! of them costs more than the work itself. So a thread that hardly ever sleeps for long looks every few milliseconds, and
//! finds several at a time.

use std::{
    cell::Cell,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actix::prelude::*;
use tokio::runtime::Builder;
use tokio::time::Instant;

/// An arbiter that looks for events every few milliseconds while many come.
pub fn paced_arbiter() -> io::Result<Arbiter> {
    Arbiter::try_with_tokio_rt(|| {
        let (pace, began) = (Arc::new(Mutex::new(Pace::default())), Instant::now());
        let waking = Arc::clone(&pace);
        Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                // This thread alone takes the lock.
                let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
                let is_awaited = AWAITED.get().is_some_and(|until| Instant::now() < until);
                if let Some(rest) = pace.rest(began.elapsed()).filter(|_| !is_awaited) {
                    std::thread::sleep(rest);
                }
                pace.waits(began.elapsed());
            })
            .on_thread_unpark(move || waking.lock().unwrap_or_else(PoisonError::into_inner).wakes(began.elapsed()))
            .build()
    })
}

/// Somebody talks to this thread and waits for its answers, to see a first picture: it does not rest for a moment.
pub fn stay_awake() {
    AWAITED.set(Some(Instant::now() + CONVERSATION));
}

thread_local! {
    static AWAITED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Decides for one thread, which says when it has nothing left to do and when it goes on.
#[derive(Debug)]
struct Pace {
    /// How long it waits for events, on the mean of the recent past, rests not counted.
    wait: Duration,
    waits_since: Duration,
    woke: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { wait: LONG_WAIT, waits_since: Duration::ZERO, woke: Duration::ZERO }
    }
}

impl Pace {
    /// Nothing is left to do: for how long to let things come together first. What took its time has given them that.
    fn rest(&self, now: Duration) -> Option<Duration> {
        let left = STEP.saturating_sub(now.saturating_sub(self.woke));
        (self.wait < SHORT_WAIT && !left.is_zero()).then_some(left)
    }

    fn waits(&mut self, now: Duration) {
        self.waits_since = now;
    }

    fn wakes(&mut self, now: Duration) {
        // One long wait says that the rush is over; it takes dozens of short ones to say that there is one.
        let waited = now.saturating_sub(self.waits_since).min(LONG_WAIT);
        self.wait = (self.wait * (MEMORY - 1) + waited) / MEMORY;
        self.woke = now;
    }
}

/// How far apart looks are in a rush. (Measured with 100 streams that are pushed on, of the processor's time per stream:
/// 1454 µs with 1 ms, 1297 with 2, 1200 with 3, 1210 with 4; 200 streams with a player each got from 0.90 to 0.46 × nginx's.)
const STEP: Duration = Duration::from_millis(3);

/// A rush is where events are nearer to each other than this.
const SHORT_WAIT: Duration = Duration::from_micros(700);

/// Longer waits count as this one. Once and the mean is no longer short.
const LONG_WAIT: Duration = Duration::from_millis(16);

/// From one command of a session to the next.
const CONVERSATION: Duration = Duration::from_millis(20);

/// Over how many waits the mean goes.
const MEMORY: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lives through waits of so many microseconds, with 50 µs of work after each; returns the rests it took and the time.
    fn live(pace: &mut Pace, mut now: Duration, waits: &[u64]) -> (Vec<Duration>, Duration) {
        let mut rests = Vec::new();
        for wait in waits {
            if let Some(rest) = pace.rest(now) {
                rests.push(rest);
                now += rest;
            }
            pace.waits(now);
            now += Duration::from_micros(*wait);
            pace.wakes(now);
            now += Duration::from_micros(50);
        }
        (rests, now)
    }

    #[test]
    fn in_a_rush_it_looks_every_few_milliseconds() {
        let mut pace = Pace::default();
        let (rests, now) = live(&mut pace, Duration::ZERO, &[300; 100]);
        assert!((30..70).contains(&rests.len()), "{} rests", rests.len());
        let (rests, later) = live(&mut pace, now, &[0; 100]);
        assert_eq!(rests, [STEP - Duration::from_micros(50); 100]);
        assert_eq!(later - now, STEP * 100);
    }

    #[test]
    fn a_calm_server_never_rests() {
        let mut pace = Pace::default();
        assert!(live(&mut pace, Duration::ZERO, &[1500; 1000]).0.is_empty());
        // Frames that come in several pieces are no rush.
        let frame: Vec<u64> = [vec![40_000], vec![20; 8]].concat();
        assert!(live(&mut pace, Duration::from_secs(2), &frame.repeat(100)).0.is_empty());
    }

    #[test]
    fn the_first_long_wait_ends_a_rush() {
        let mut pace = Pace::default();
        let (_, now) = live(&mut pace, Duration::ZERO, &[100; 200]);
        assert!(pace.rest(now).is_some());
        let (_, now) = live(&mut pace, now, &[16_000]);
        assert_eq!(pace.rest(now), None);
    }

    #[test]
    fn whoever_has_worked_for_long_does_not_rest() {
        let mut pace = Pace::default();
        let (_, now) = live(&mut pace, Duration::ZERO, &[10; 200]);
        assert_eq!(pace.rest(now + STEP), None);
        assert!(pace.rest(now).is_some());
    }
}
