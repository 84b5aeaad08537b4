//! When to start again: a pure decision for whoever supervises.
//!
//! A far end that is down is expected: try for ever, ever more slowly. A panic is a bug: count it, and give up.
//! actix's own `Supervisor` knows neither: it restarts at once, never after a panic, and keeps the old state.

use std::{collections::VecDeque, time::Duration};

use super::link::ExitReason;

/// How patient and how stubborn a supervisor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The wait after the first failure; each further one doubles it.
    pub first: Duration,
    pub longest: Duration,
    /// After running this long the failures before it are forgotten.
    pub settled: Duration,
    /// More panics than this …
    pub panics: usize,
    /// … within this time, and it is not started again.
    pub within: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            settled: Duration::from_secs(60),
            panics: 3,
            within: Duration::from_secs(600),
        }
    }
}

/// The past of one supervised actor, as far as it matters for its future.
#[derive(Debug, Default)]
pub struct Restarts {
    attempt: u32,
    panics: VecDeque<Duration>,
}

impl Restarts {
    /// How long to wait before the next start; none: it is over. `ran_for` is how long it lived, `now` any clock that
    /// only grows, `jitter` from 0 to 1 spreads those that failed together over the second half of the wait.
    pub fn after(
        &mut self,
        exit: &ExitReason,
        ran_for: Duration,
        policy: &RestartPolicy,
        now: Duration,
        jitter: f64,
    ) -> Option<Duration> {
        match exit {
            ExitReason::Stopped => return None,
            ExitReason::Failed(_) => {}
            ExitReason::Panicked => {
                self.panics.push_back(now);
                while self.panics.front().is_some_and(|&at| now.saturating_sub(at) > policy.within) {
                    self.panics.pop_front();
                }
                if self.panics.len() > policy.panics {
                    return None;
                }
            }
        }
        if ran_for >= policy.settled {
            self.attempt = 0;
        }
        let wait = policy.first.saturating_mul(1 << self.attempt.min(MAX_DOUBLINGS)).min(policy.longest);
        self.attempt = self.attempt.saturating_add(1);
        Some(wait / 2 + (wait / 2).mul_f64(jitter.clamp(0.0, 1.0)))
    }

    /// Starts since it last ran well.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// More would overflow, and every sane ceiling is long reached.
const MAX_DOUBLINGS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(30),
        settled: Duration::from_secs(60),
        panics: 3,
        within: Duration::from_secs(600),
    };

    fn waits(exit: &ExitReason, ran_for: u64, times: usize) -> Vec<Option<u64>> {
        let mut restarts = Restarts::default();
        (0..times as u64)
            .map(|i| restarts.after(exit, Duration::from_secs(ran_for), &POLICY, Duration::from_secs(i * 40), 1.0))
            .map(|wait| wait.map(|wait| wait.as_secs()))
            .collect()
    }

    #[test]
    fn a_far_end_that_is_down_is_tried_for_ever_and_ever_more_slowly() {
        let failed = ExitReason::Failed("refused".into());
        assert_eq!(waits(&failed, 0, 8), [1, 2, 4, 8, 16, 30, 30, 30].map(Some));
        assert!(waits(&failed, 0, 1000).iter().all(Option::is_some));
    }

    #[test]
    fn running_well_forgets_the_failures_before() {
        assert_eq!(waits(&ExitReason::Failed("lost".into()), 61, 4), [Some(1); 4]);
    }

    #[test]
    fn a_bug_is_given_up_and_a_finished_one_is_not_started_again() {
        assert_eq!(waits(&ExitReason::Panicked, 0, 4), [Some(1), Some(2), Some(4), None]);
        assert_eq!(waits(&ExitReason::Stopped, 0, 1), [None]);
    }

    #[test]
    fn jitter_moves_a_start_within_the_second_half_of_its_wait() {
        let failed = ExitReason::Failed("refused".into());
        let wait = Restarts::default().after(&failed, Duration::ZERO, &POLICY, Duration::ZERO, 0.0);
        assert_eq!(wait, Some(Duration::from_millis(500)));
    }
}
