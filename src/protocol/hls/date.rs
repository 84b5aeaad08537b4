//! Which moment of the wall clock a moment of media time is.

use std::fmt::Write;

use jiff::Timestamp;

/// One for all renditions of a stream: what they say of the same media time must agree.
///
/// Media time is in milliseconds on the line of the stream, wall time in milliseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct ProgramDate {
    /// Wall time at media time 0; `None` until the first packet is seen.
    zero_ms: Option<i64>,
}

impl ProgramDate {
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest packet at hand has this media time: what came with it (a burst from the cache) is older by as much as its time says.
    /// Said at the start and with each discontinuity; anything else would make dates jump within a run.
    pub fn anchor(&mut self, newest_ms: i64, now_ms: i64) {
        self.zero_ms = Some(now_ms.saturating_sub(newest_ms));
    }

    /// The newest packet has this media time. A publisher's clock that goes wrong by more than a second is followed, in steps that no
    /// player notices; what the network delays now and then is not.
    pub fn follow(&mut self, newest_ms: i64, now_ms: i64) {
        let Some(zero_ms) = self.zero_ms else { return self.anchor(newest_ms, now_ms) };
        let ahead_ms = now_ms.saturating_sub(newest_ms).saturating_sub(zero_ms);
        if ahead_ms.saturating_abs() > DRIFT_MS {
            self.zero_ms = Some(zero_ms.saturating_add(ahead_ms.signum() * STEP_MS));
        }
    }

    /// The date of a moment of media time, 1970 before anything is known.
    pub fn of(&self, media_ms: i64) -> i64 {
        self.zero_ms.unwrap_or(0).saturating_add(media_ms)
    }
}

/// As playlists and manifests spell it: `2026-11-20T06:09:34.692Z`. A date no calendar has is written as 1970.
pub fn iso(date_ms: i64) -> String {
    let date = Timestamp::from_millisecond(date_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut text = String::with_capacity(24);
    // Writing into a string fails only for a wrong pattern, and this one is right.
    let _ = write!(text, "{}", date.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"));
    text
}

/// How far the dates may be from the wall clock before they are moved.
const DRIFT_MS: i64 = 1000;
/// By how much they are moved for each packet that is asked about: far less than a packet lasts, so that time never stands still.
const STEP_MS: i64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_older_than_what_came_last() {
        let mut date = ProgramDate::new();
        date.anchor(2000, 1_000_000);
        assert_eq!(date.of(0), 998_000);
        assert_eq!(date.of(2000), 1_000_000);
    }

    #[test]
    fn hiccups_do_not_move_the_dates_and_drift_does() {
        let mut date = ProgramDate::new();
        date.anchor(0, 1_000_000);
        date.follow(100, 1_000_900);
        assert_eq!(date.of(0), 1_000_000);
        for packet in 1..=1000 {
            date.follow(packet * 40, 1_000_000 + packet * 40 + 3000);
        }
        assert!((1_001_998..=1_002_002).contains(&date.of(0)), "{}", date.of(0));
    }

    #[test]
    fn dates_are_spelled_with_milliseconds_and_zone() {
        assert_eq!(iso(1_795_154_974_692), "2026-11-20T06:09:34.692Z");
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(i64::MAX), "1970-01-01T00:00:00.000Z");
    }
}
