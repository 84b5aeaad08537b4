//! What travels together: audio rides with the next video frame, or everything waits for a while, as the rules say.

use std::time::Duration;

use smallvec::SmallVec;

use super::packet::{Batch, Packet, Track};

/// A write to a player costs the same whatever its size, so packets wait for each other where nobody notices.
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

/// Gathers the packets of one stream into batches.
#[derive(Debug)]
pub struct Gather {
    rules: GatherRules,
    waiting: SmallVec<[Packet; 4]>,
    /// When the first of those that wait came.
    since: Duration,
    has_video: bool,
}

impl Gather {
    pub fn new(rules: GatherRules) -> Self {
        Self { rules, waiting: SmallVec::new(), since: Duration::ZERO, has_video: false }
    }

    /// Takes a packet that came at `now`. Ask [`Gather::ready`] once all that came together are in.
    pub fn push(&mut self, packet: Packet, now: Duration) {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.has_video |= packet.track() == Track::Video && packet.is_frame();
        self.waiting.push(packet);
    }

    /// The batch, if it must not wait any longer.
    pub fn ready(&mut self, now: Duration) -> Option<Batch> {
        let due = self.due()?;
        (now >= due).then(|| self.take()).flatten()
    }

    /// When what waits must go; none if nothing waits.
    pub fn due(&self) -> Option<Duration> {
        if self.waiting.is_empty() {
            return None;
        }
        let corked = self.rules.cork.is_some_and(|cork| self.waiting.len() >= cork);
        let wait = match self.rules {
            GatherRules { low_latency: true, .. } => Duration::ZERO,
            GatherRules { merge, .. } if !merge.is_zero() => {
                if corked {
                    Duration::ZERO
                } else {
                    merge
                }
            }
            _ if self.has_video => Duration::ZERO,
            GatherRules { audio_hold, .. } => audio_hold,
        };
        Some(self.since + wait)
    }

    /// Everything that waits, now.
    pub fn take(&mut self) -> Option<Batch> {
        self.has_video = false;
        (!self.waiting.is_empty()).then(|| Batch::new(std::mem::take(&mut self.waiting)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::packet::PacketKind;
    use bytes::Bytes;

    const RULES: GatherRules =
        GatherRules { low_latency: false, audio_hold: Duration::from_millis(40), merge: Duration::ZERO, cork: None };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn push(gather: &mut Gather, track: Track, ms: u64) -> usize {
        let kind = if track == Track::Audio { PacketKind::Audio } else { PacketKind::Inter };
        gather.push(Packet::new(track, kind, ms as i64, Bytes::new()), at(ms));
        gather.ready(at(ms)).map_or(0, |batch| batch.packets().len())
    }

    #[test]
    fn audio_rides_with_the_next_video_frame() {
        let mut gather = Gather::new(RULES);
        assert_eq!(push(&mut gather, Track::Audio, 0), 0);
        assert_eq!(push(&mut gather, Track::Audio, 23), 0);
        assert_eq!(push(&mut gather, Track::Video, 33), 3);
        assert_eq!(push(&mut gather, Track::Video, 66), 1, "video never waits");
        assert_eq!(gather.due(), None);
    }

    #[test]
    fn audio_without_video_waits_no_longer_than_the_hold() {
        let mut gather = Gather::new(RULES);
        assert_eq!(push(&mut gather, Track::Audio, 10), 0);
        assert_eq!(gather.due(), Some(at(50)));
        assert!(gather.ready(at(49)).is_none());
        assert_eq!(gather.ready(at(50)).map(|batch| batch.packets().len()), Some(1));
    }

    #[test]
    fn low_latency_never_waits() {
        let mut gather = Gather::new(GatherRules { low_latency: true, merge: at(350), ..RULES });
        assert_eq!(push(&mut gather, Track::Audio, 0), 1);
        assert_eq!(push(&mut gather, Track::Video, 1), 1);
    }

    #[test]
    fn merging_waits_for_its_time_or_for_the_cork() {
        let mut gather = Gather::new(GatherRules { merge: at(100), cork: Some(5), ..RULES });
        for ms in [0, 40, 80] {
            assert_eq!(push(&mut gather, Track::Video, ms), 0);
        }
        assert_eq!(push(&mut gather, Track::Video, 120), 4);
        let sent: usize = (200..205).map(|ms| push(&mut gather, Track::Audio, ms)).sum();
        assert_eq!(sent, 5, "the fifth is let out by the cork");
    }
}
