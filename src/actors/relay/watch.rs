//! Whether an attempt is still worth having: every step has its time.

use std::time::Duration;

use crate::{
    actors::{
        live_stream::{Incoming, Medium},
        support::relay_plan::Direction,
    },
    config::relays::RelayTimes,
};

/// Watches one attempt from its connection on.
#[derive(Debug)]
pub(super) struct Watch {
    direction: Direction,
    times: RelayTimes,
    ready: Option<Duration>,
    first_frame: Option<Duration>,
    last_media: Duration,
    has_video: bool,
    has_keyframe: bool,
    /// Bytes the far end had taken, and when that last changed.
    taken: (u64, Duration),
    ending: Option<Duration>,
    lag: Lag,
}

/// Why an attempt is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Late {
    #[error("it does not say yes within {0:?}")]
    Ready(Duration),
    #[error("it sends neither audio nor video within {0:?}")]
    FirstFrame(Duration),
    #[error("it sends no keyframe within {0:?}")]
    FirstKeyframe(Duration),
    #[error("it has sent nothing for {0:?}")]
    Silent(Duration),
    #[error("it has taken nothing for {0:?}")]
    Stuck(Duration),
    #[error("it does not close")]
    Goodbye,
}

impl Watch {
    pub(super) fn new(direction: Direction, times: RelayTimes) -> Self {
        Self {
            direction,
            times,
            ready: None,
            first_frame: None,
            last_media: Duration::ZERO,
            has_video: false,
            has_keyframe: false,
            taken: (0, Duration::ZERO),
            ending: None,
            lag: Lag::default(),
        }
    }

    pub(super) fn note_ready(&mut self, now: Duration) {
        self.ready.get_or_insert(now);
    }

    pub(super) fn note_media(&mut self, incoming: &Incoming, now: Duration) {
        match incoming.medium {
            Medium::Audio => {}
            Medium::Video => {
                self.has_video = true;
                self.has_keyframe = self.has_keyframe || is_keyframe(&incoming.body);
            }
            // Metadata for ever are no stream.
            Medium::Metadata | Medium::Text => return,
        }
        self.first_frame.get_or_insert(now);
        self.last_media = now;
        self.lag.note(incoming.time, now);
    }

    pub(super) fn note_ending(&mut self, now: Duration) {
        self.ending.get_or_insert(now);
    }

    /// For how long media have flowed.
    pub(super) fn worked(&self, now: Duration) -> Duration {
        let since = match self.direction {
            Direction::Push => self.ready,
            Direction::Pull => self.first_frame,
        };
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since).max(Duration::from_millis(1)))
    }

    pub(super) fn lag_ms(&self) -> u64 {
        self.lag.ms
    }

    /// `taken`: bytes the socket has taken; `waits`: whether it is what everything waits for.
    pub(super) fn check(&mut self, taken: u64, waits: bool, now: Duration) -> Result<(), Late> {
        if taken != self.taken.0 || !waits {
            self.taken = (taken, now);
        }
        let times = &self.times;
        let over = |since: Duration, time: Duration| now.saturating_sub(since) >= time;
        if let Some(since) = self.ending {
            return if over(since, GOODBYE) { Err(Late::Goodbye) } else { Ok(()) };
        }
        if over(self.taken.1, times.push_stuck) {
            return Err(Late::Stuck(times.push_stuck));
        }
        let Some(ready) = self.ready else {
            return if over(Duration::ZERO, times.ready) { Err(Late::Ready(times.ready)) } else { Ok(()) };
        };
        if self.direction == Direction::Push {
            return Ok(());
        }
        match self.first_frame {
            None if over(ready, times.first_frame) => Err(Late::FirstFrame(times.first_frame)),
            None => Ok(()),
            Some(first) if self.has_video && !self.has_keyframe && over(first, times.first_keyframe) => {
                Err(Late::FirstKeyframe(times.first_keyframe))
            }
            Some(_) if over(self.last_media, times.pull_silent) => Err(Late::Silent(times.pull_silent)),
            Some(_) => Ok(()),
        }
    }
}

/// How much later frames come than the most punctual one did.
#[derive(Debug, Default)]
struct Lag {
    first: Option<(u32, Duration)>,
    least_ms: i64,
    ms: u64,
}

impl Lag {
    fn note(&mut self, time: u32, now: Duration) {
        let (first, began) = *self.first.get_or_insert((time, now));
        let media_ms = i64::from(time.wrapping_sub(first).cast_signed());
        let late_ms = now.saturating_sub(began).as_millis() as i64 - media_ms;
        if late_ms.abs_diff(self.least_ms) > JUMP_MS {
            // The clock of the far end has jumped: it begins anew.
            *self = Self { first: Some((time, now)), ..Self::default() };
            return;
        }
        self.least_ms = self.least_ms.min(late_ms);
        self.ms = (late_ms - self.least_ms).unsigned_abs();
    }
}

/// A frame that a decoder can begin with, of either kind of header.
fn is_keyframe(body: &[u8]) -> bool {
    let (Some(first), second) = (body.first(), body.get(1)) else { return false };
    let is_enhanced = first & 0x80 != 0;
    let kind = first >> 4 & 7;
    // The configuration of a codec is written as a keyframe, too.
    let is_frame = match first & 15 {
        packet if is_enhanced => matches!(packet, 1 | 3 | 6),
        7 | 12 | 13 => second != Some(&0),
        _ => true,
    };
    kind == 1 && is_frame
}

/// How long the far end has to read the last words and close.
const GOODBYE: Duration = Duration::from_secs(1);

/// Nobody is so late: it is another clock.
const JUMP_MS: u64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn frame(medium: Medium, body: &'static [u8]) -> Incoming {
        Incoming { medium, time: 0, body: bytes::Bytes::from_static(body) }
    }

    fn pull() -> Watch {
        Watch::new(Direction::Pull, RelayTimes::default())
    }

    #[test]
    fn a_far_end_that_never_says_yes_is_left() {
        let mut watch = pull();
        assert_eq!(watch.check(0, false, at(9)), Ok(()));
        assert_eq!(watch.check(0, false, at(10)), Err(Late::Ready(at(10))));
    }

    #[test]
    fn metadata_for_ever_are_no_stream() {
        let mut watch = pull();
        watch.note_ready(at(1));
        (1..11).for_each(|s| watch.note_media(&frame(Medium::Metadata, b"m"), at(s)));
        assert_eq!(watch.check(0, false, at(10)), Ok(()));
        assert_eq!(watch.check(0, false, at(11)), Err(Late::FirstFrame(at(10))));
    }

    #[test]
    fn pictures_without_a_keyframe_are_left_and_sound_alone_is_fine() {
        for (medium, body, late) in [
            (Medium::Video, b"\x27\x01".as_slice(), true),
            (Medium::Video, b"\x17\x00", true),
            (Medium::Video, b"\x17\x01", false),
            (Medium::Video, b"\x90hvc1", true),
            (Medium::Video, b"\x93hvc1", false),
            (Medium::Audio, b"\xaf\x01", false),
        ] {
            let mut watch = pull();
            watch.note_ready(at(0));
            (0..=20).for_each(|s| watch.note_media(&frame(medium, body), at(s)));
            assert_eq!(watch.check(0, false, at(20)).is_err(), late, "{body:?}");
        }
    }

    #[test]
    fn a_pull_that_falls_silent_is_opened_anew() {
        let mut watch = pull();
        watch.note_ready(at(0));
        watch.note_media(&frame(Medium::Audio, b"\xaf\x01"), at(1));
        assert_eq!(watch.check(0, false, at(15)), Ok(()));
        assert_eq!(watch.check(0, false, at(16)), Err(Late::Silent(at(15))));
    }

    #[test]
    fn a_push_that_nobody_reads_is_left_and_one_with_nothing_to_say_is_not() {
        let mut watch = Watch::new(Direction::Push, RelayTimes::default());
        watch.note_ready(at(0));
        assert_eq!(watch.check(7, false, at(1000)), Ok(()));
        assert_eq!(watch.check(9, true, at(1001)), Ok(()));
        assert_eq!(watch.check(9, true, at(1010)), Ok(()));
        assert_eq!(watch.check(9, true, at(1011)), Err(Late::Stuck(at(10))));
    }

    #[test]
    fn lag_is_how_much_later_a_frame_is_than_the_most_punctual_one() {
        let mut lag = Lag::default();
        let mut after = |time: u32, ms: u64| {
            lag.note(time, Duration::from_millis(ms));
            lag.ms
        };
        let last = u32::MAX - 99;
        assert_eq!([after(last, 0), after(0, 80), after(100, 300), after(200, 320)], [0, 0, 120, 40]);
    }
}
