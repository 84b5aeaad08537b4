//! When an output goes on, ends for its viewers, and goes: a pure decision for muxers.

use std::time::Duration;

/// Where an output stands. Times are on any clock that only grows.
#[derive(Debug, Clone)]
pub struct Lifetime {
    rules: LifetimeRules,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifetimeRules {
    /// An output nobody asks for ends after this; none: it is not made for whoever asks.
    pub idle: Option<Duration>,
    /// How long a publisher that left may take to come back.
    pub end_after: Duration,
    /// How long an ended output can still be fetched.
    pub ended: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Somebody publishes, or is about to.
    Live,
    /// The publisher left and may come back.
    Grace { since: Duration },
    /// Over for good.
    Ended { since: Duration },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Tell the viewers that it is over.
    End,
    /// Nobody needs it any more.
    Stop,
}

impl Lifetime {
    pub fn new(rules: LifetimeRules) -> Self {
        Self { rules, phase: Phase::Live }
    }

    /// A publisher is there. False: it is too late, what has ended stays so.
    pub fn begin(&mut self) -> bool {
        if !self.is_ended() {
            self.phase = Phase::Live;
        }
        !self.is_ended()
    }

    /// The publisher left.
    pub fn leave(&mut self, now: Duration) {
        if self.phase == Phase::Live {
            self.phase = Phase::Grace { since: now };
        }
    }

    /// As far as is known here somebody publishes.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// To be asked now and then. `idle` is how long nobody has asked for anything.
    pub fn due(&mut self, now: Duration, idle: Duration) -> Due {
        match self.phase {
            Phase::Live | Phase::Grace { .. } if self.rules.idle.is_some_and(|bound| idle >= bound) => Due::Stop,
            Phase::Grace { since } if now.saturating_sub(since) >= self.rules.end_after => {
                self.phase = Phase::Ended { since: now };
                Due::End
            }
            Phase::Ended { since } if now.saturating_sub(since) >= self.rules.ended => Due::Stop,
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lifetime() -> Lifetime {
        Lifetime::new(LifetimeRules { idle: Some(at(30)), end_after: at(15), ended: at(60) })
    }

    #[test]
    fn a_publisher_that_comes_back_in_time_ends_nothing() {
        let mut lifetime = lifetime();
        lifetime.leave(at(10));
        assert_eq!(lifetime.due(at(24), at(0)), Due::Nothing);
        assert!(lifetime.begin());
        assert_eq!(lifetime.due(at(100), at(0)), Due::Nothing);
    }

    #[test]
    fn one_that_stays_away_ends_it_and_then_it_goes() {
        let mut lifetime = lifetime();
        lifetime.leave(at(10));
        lifetime.leave(at(20));
        assert_eq!(lifetime.due(at(25), at(0)), Due::End);
        assert!(!lifetime.begin() && lifetime.is_ended());
        assert_eq!(lifetime.due(at(84), at(50)), Due::Nothing, "an ended one is kept for its time");
        assert_eq!(lifetime.due(at(85), at(0)), Due::Stop);
    }

    #[test]
    fn what_nobody_asks_for_goes() {
        let mut lifetime = lifetime();
        assert_eq!(lifetime.due(at(1000), at(29)), Due::Nothing);
        assert_eq!(lifetime.due(at(1000), at(30)), Due::Stop);
        let rules = LifetimeRules { idle: None, end_after: at(15), ended: at(0) };
        let mut on_disk = Lifetime::new(rules);
        assert_eq!(on_disk.due(at(1000), at(1000)), Due::Nothing);
        on_disk.leave(at(1000));
        assert_eq!(on_disk.due(at(1015), at(1000)), Due::End);
        assert_eq!(on_disk.due(at(1015), at(1000)), Due::Stop);
    }
}
