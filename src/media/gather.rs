//! What travels together: audio rides with the next video frame, or everything waits for a while, as the rules say.

use std::time::Duration;

use smallvec::SmallVec;

/// A write to a player costs the same whatever its size, and so does a message to an actor: so what is published waits for
/// each other where nobody notices, before anybody is told of it.
#[derive(Clone, Copy, Debug)]
pub struct GatherRules {
    /// Nothing ever waits.
    pub low_latency: bool,
    /// How long audio may wait for a video frame to ride with.
    pub audio_hold: Duration,
    /// How long everything waits; zero: only audio does.
    pub merge: Duration,
    /// So many packets go at once while merging, without waiting longer.
    pub cork: Option<usize>,
}

/// Gathers what one publisher sends.
#[derive(Debug)]
pub struct Gather<T> {
    rules: GatherRules,
    waiting: Gathered<T>,
    /// When the first of those that wait came.
    since: Duration,
    has_video: bool,
}

/// What travels together, in its order.
pub type Gathered<T> = SmallVec<[T; 2]>;

impl<T> Gather<T> {
    pub fn new(rules: GatherRules) -> Self {
        Self { rules, waiting: SmallVec::new(), since: Duration::ZERO, has_video: false }
    }

    /// Takes what came at `now`. Ask [`Gather::ready`] once all that came together are in.
    pub fn push(&mut self, item: T, is_video: bool, now: Duration) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.has_video |= is_video;
        self.waiting.push(item);
    }

    /// Everything that waits, if it must not wait any longer.
    pub fn ready(&mut self, now: Duration) -> Option<Gathered<T>> {
        let due = self.due()?;
        (now >= due).then(|| self.take())
    }

    /// When what waits must go; none if nothing waits.
    pub fn due(&self) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let rules = &self.rules;
        let corked = rules.cork.is_some_and(|cork| self.waiting.len() >= cork);
        let wait = if rules.low_latency || corked {
            Duration::ZERO
        } else if !rules.merge.is_zero() {
            rules.merge
        } else if self.has_video {
            Duration::ZERO
        } else {
            rules.audio_hold
        };
        Some(self.since + wait)
    }

    /// Everything that waits, now.
    pub fn take(&mut self) -> Gathered<T> {
        self.has_video = false;
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: GatherRules =
        GatherRules { low_latency: false, audio_hold: Duration::from_millis(40), merge: Duration::ZERO, cork: None };

    const AUDIO: bool = false;
    const VIDEO: bool = true;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn push(gather: &mut Gather<u64>, is_video: bool, ms: u64) -> usize {
        gather.push(ms, is_video, at(ms));
        gather.ready(at(ms)).map_or(0, |together| together.len())
    }

    #[test]
    fn audio_rides_with_the_next_video_frame() {
        let mut gather = Gather::new(RULES);
        assert_eq!(push(&mut gather, AUDIO, 0), 0);
        assert_eq!(push(&mut gather, AUDIO, 23), 0);
        assert_eq!(push(&mut gather, VIDEO, 33), 3);
        assert_eq!(push(&mut gather, VIDEO, 66), 1, "video never waits");
        assert_eq!(gather.due(), None);
    }

    #[test]
    fn audio_without_video_waits_no_longer_than_the_hold() {
        let mut gather = Gather::new(RULES);
        assert_eq!(push(&mut gather, AUDIO, 10), 0);
        assert_eq!(gather.due(), Some(at(50)));
        assert!(gather.ready(at(49)).is_none());
        assert_eq!(gather.ready(at(50)).map(|together| together.len()), Some(1));
    }

    #[test]
    fn low_latency_never_waits() {
        let mut gather = Gather::new(GatherRules { low_latency: true, merge: at(350), ..RULES });
        assert_eq!(push(&mut gather, AUDIO, 0), 1);
        assert_eq!(push(&mut gather, VIDEO, 1), 1);
    }

    #[test]
    fn merging_waits_for_its_time_or_for_the_cork() {
        let mut gather = Gather::new(GatherRules { merge: at(100), cork: Some(5), ..RULES });
        for ms in [0, 40, 80] {
            assert_eq!(push(&mut gather, VIDEO, ms), 0);
        }
        assert_eq!(push(&mut gather, VIDEO, 120), 4);
        let sent: usize = (200..205).map(|ms| push(&mut gather, AUDIO, ms)).sum();
        assert_eq!(sent, 5, "the fifth is let out by the cork");
    }
}
