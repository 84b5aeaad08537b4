//! The place of a child that is kept: when it is started, ended and started again.

use std::time::Duration;

use super::{
    link::ExitReason,
    restart::{RestartPolicy, Restarts},
};
use crate::config::exec::Keep;

/// One line of the configuration for one stream. `T` is what a child is started for.
#[derive(Debug)]
pub struct Kept<T> {
    wanted: Option<T>,
    state: State,
    restarts: Restarts,
    keep: Keep,
    /// Counts plans, so that one which was overtaken is known.
    plan: u64,
    starts: u64,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Start,
    /// Ask the child to go; [`Kept::exited`] tells the rest.
    End,
    /// Call [`Kept::due`] with this plan after this time.
    Wait(Duration, u64),
    /// Nobody needs this place any more.
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing runs and nothing is planned.
    Idle,
    Running {
        since: Duration,
    },
    /// It was asked to go.
    Ending,
    /// It died, and is started again at the end of this plan.
    Waiting {
        plan: u64,
    },
}

impl<T> Kept<T> {
    pub fn new(keep: Keep) -> Self {
        Self { wanted: None, state: State::Idle, restarts: Restarts::default(), keep, plan: 0, starts: 0 }
    }

    /// What the child is for.
    pub fn wanted(&self) -> Option<&T> {
        self.wanted.as_ref()
    }

    /// A child is wanted for this. One that runs for something else makes way first.
    pub fn want(&mut self, what: T) -> Step {
        self.wanted = Some(what);
        self.restarts = Restarts::default();
        match self.state {
            State::Idle | State::Waiting { .. } => self.start(),
            State::Running { .. } => self.end(),
            State::Ending => Step::Nothing,
        }
    }

    /// No child is wanted any more.
    pub fn unwant(&mut self) -> Step {
        self.wanted = None;
        match self.state {
            State::Idle | State::Waiting { .. } => {
                self.state = State::Idle;
                Step::Close
            }
            State::Running { .. } => self.end(),
            State::Ending => Step::Nothing,
        }
    }

    pub fn started(&mut self, now: Duration) {
        self.starts += 1;
        self.state = State::Running { since: now };
    }

    /// The child is gone, or could not be started.
    pub fn exited(&mut self, now: Duration) -> Step {
        let since = match self.state {
            State::Ending if self.wanted.is_some() => return self.start(),
            State::Ending => {
                self.state = State::Idle;
                return Step::Close;
            }
            State::Running { since } => since,
            State::Idle | State::Waiting { .. } => now,
        };
        self.state = State::Idle;
        if !self.keep.respawn {
            return Step::Nothing;
        }
        let first = self.keep.respawn_timeout.max(SHORTEST);
        let policy = RestartPolicy {
            first,
            longest: LONGEST.max(first),
            settled: SETTLED,
            // A child is no code of ours: it is tried for as long as its stream lasts.
            panics: usize::MAX,
            within: Duration::ZERO,
        };
        let exit = ExitReason::Failed(String::new());
        // The wait is the one that was written, without jitter: those who die together are few.
        let Some(wait) = self.restarts.after(&exit, now.saturating_sub(since), &policy, now, 1.0) else {
            return Step::Nothing;
        };
        self.plan += 1;
        self.state = State::Waiting { plan: self.plan };
        Step::Wait(wait, self.plan)
    }

    /// A wait is over.
    pub fn due(&mut self, plan: u64) -> Step {
        if self.state == (State::Waiting { plan }) { self.start() } else { Step::Nothing }
    }

    /// Starts after the first.
    pub fn restarts(&self) -> u64 {
        self.starts.saturating_sub(1)
    }

    fn start(&mut self) -> Step {
        self.state = State::Idle;
        Step::Start
    }

    fn end(&mut self) -> Step {
        self.state = State::Ending;
        Step::End
    }
}

/// `respawn_timeout 0` must not become a storm.
const SHORTEST: Duration = Duration::from_millis(100);
/// Waits double up to this.
const LONGEST: Duration = Duration::from_secs(60);
/// Who lived this long has worked: the next wait is the first one again.
const SETTLED: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running(keep: Keep) -> Kept<u32> {
        let mut kept = Kept::new(keep);
        assert_eq!(kept.want(1), Step::Start);
        kept.started(at(0));
        kept
    }

    #[test]
    fn a_child_that_keeps_dying_waits_ever_longer_and_one_that_lived_is_forgiven() {
        let mut kept = running(Keep::default());
        let mut now = at(0);
        let mut waits = Vec::new();
        for lived in [0, 1, 0, 3, 0, 0, 61, 0] {
            now += at(lived);
            let Step::Wait(wait, plan) = kept.exited(now) else { panic!("it is started again") };
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(kept.due(plan), Step::Start);
            assert_eq!(kept.due(plan), Step::Nothing, "once");
            kept.started(now);
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60, 5, 10]);
        assert_eq!(kept.restarts(), 8);
    }

    #[test]
    fn no_respawn_means_once_a_publish() {
        let mut kept = running(Keep { respawn: false, ..Keep::default() });
        assert_eq!(kept.exited(at(1)), Step::Nothing);
        assert_eq!(kept.want(2), Step::Start);
        assert_eq!(kept.unwant(), Step::Close);
    }

    #[test]
    fn a_successor_starts_when_the_one_before_is_gone() {
        let mut kept = running(Keep::default());
        assert_eq!(kept.want(2), Step::End);
        assert_eq!(kept.want(3), Step::Nothing);
        assert_eq!((kept.exited(at(1)), kept.wanted()), (Step::Start, Some(&3)));
        kept.started(at(1));
        assert_eq!(kept.unwant(), Step::End);
        assert_eq!(kept.unwant(), Step::Nothing);
        assert_eq!(kept.exited(at(2)), Step::Close);
    }

    #[test]
    fn a_publish_in_between_starts_at_once_and_overtakes_the_plan() {
        let mut kept = running(Keep::default());
        let Step::Wait(_, plan) = kept.exited(at(0)) else { panic!("it is started again") };
        assert_eq!(kept.want(2), Step::Start);
        kept.started(at(1));
        assert_eq!(kept.due(plan), Step::Nothing);
    }

    #[test]
    fn a_wait_of_nothing_is_still_a_wait() {
        let mut kept = running(Keep { respawn_timeout: Duration::ZERO, ..Keep::default() });
        assert!(matches!(kept.exited(at(0)), Step::Wait(wait, _) if wait == SHORTEST));
        let mut patient = running(Keep { respawn_timeout: at(90), ..Keep::default() });
        assert!(matches!(patient.exited(at(0)), Step::Wait(wait, _) if wait == at(90)));
    }
}
