//! How long the segments of a stream will be: found out before the first of them is listed.
//!
//! A playlist must name its target duration at once and may never change it. What an encoder does shows in its first two
//! keyframes; a first segment cannot be whole before the second of them, so waiting for it costs nobody any time.

use std::time::Duration;

use crate::media::packet::Track;
use crate::protocol::flv::sample::MuxInput;

/// Holds what comes until it knows.
#[derive(Debug)]
pub struct Gauge {
    rules: GaugeRules,
    held: Vec<(MuxInput, i64)>,
    bytes: usize,
    has_video: bool,
    first_ms: Option<i64>,
    first_key_ms: Option<i64>,
    last_video_ms: Option<i64>,
    frames: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeRules {
    /// How long a segment is at least, where keyframes allow it.
    pub fragment: Duration,
    /// Whoever sends fewer keyframes than this gets segments without.
    pub max_fragment: Duration,
    /// About how long a part is to be; zero: there are none.
    pub part: Duration,
}

/// What holds from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauged {
    /// What the playlist names as its target duration.
    pub target_s: u32,
    /// What no segment is longer than: what still rounds to the target.
    pub max_segment_ms: u32,
    /// What no part is longer than: whole frames, so that one part is like the next.
    pub part_ms: u32,
}

impl Gauge {
    pub fn new(rules: GaugeRules) -> Self {
        Self {
            rules,
            held: Vec::new(),
            bytes: 0,
            has_video: false,
            first_ms: None,
            first_key_ms: None,
            last_video_ms: None,
            frames: Vec::new(),
        }
    }

    /// Takes what came at `wall_ms`. Once it knows it gives all of it back, and is of no more use.
    pub fn push(&mut self, input: MuxInput, wall_ms: i64) -> Option<(Gauged, Vec<(MuxInput, i64)>)> {
        let decided = self.look(&input);
        if let MuxInput::Sample(sample) = &input {
            self.bytes += sample.data.len();
        }
        self.held.push((input, wall_ms));
        let segment_ms = decided.or((self.bytes >= MAX_BYTES).then(|| self.longest_ms()))?;
        Some((self.gauged(segment_ms), std::mem::take(&mut self.held)))
    }

    /// Nothing more comes: what has come has to do. None: there was nothing.
    pub fn finish(&mut self) -> Option<(Gauged, Vec<(MuxInput, i64)>)> {
        let fragment_ms = millis(self.rules.fragment);
        self.first_ms?;
        Some((self.gauged(fragment_ms), std::mem::take(&mut self.held)))
    }

    /// How long a segment will be, if that shows by now.
    fn look(&mut self, input: &MuxInput) -> Option<i64> {
        let sample = match input {
            MuxInput::VideoConfig { .. } => {
                self.has_video = true;
                return None;
            }
            MuxInput::Sample(sample) => sample,
            MuxInput::AudioConfig { .. } | MuxInput::Other => return None,
        };
        let first_ms = *self.first_ms.get_or_insert(sample.dts_ms);
        let passed_ms = sample.dts_ms.saturating_sub(first_ms);
        let fragment_ms = millis(self.rules.fragment);
        if sample.track == Track::Video {
            self.has_video = true;
            let step_ms = self.last_video_ms.replace(sample.dts_ms).map(|last| sample.dts_ms.saturating_sub(last));
            self.frames
                .extend(step_ms.filter(|step| (1..=MAX_FRAME_MS).contains(step) && self.frames.len() < MAX_FRAMES));
            match self.first_key_ms {
                None if sample.key => self.first_key_ms = Some(sample.dts_ms),
                Some(key_ms) if sample.key && sample.dts_ms > key_ms => {
                    // A segment takes as many GOPs as make it long enough; a hair short is as good.
                    let gop_ms = sample.dts_ms.saturating_sub(key_ms);
                    let gops =
                        fragment_ms.saturating_sub(MAX_JITTER_MS).max(1).saturating_add(gop_ms - 1).div_euclid(gop_ms);
                    return Some(gops.max(1).saturating_mul(gop_ms));
                }
                _ => {}
            }
        } else if !self.has_video && passed_ms >= AUDIO_ALONE_MS {
            return Some(fragment_ms);
        }
        (passed_ms >= self.longest_ms()).then(|| self.longest_ms())
    }

    fn longest_ms(&self) -> i64 {
        millis(self.rules.max_fragment.max(self.rules.fragment)).clamp(1, MAX_SEGMENT_MS)
    }

    fn gauged(&mut self, segment_ms: i64) -> Gauged {
        let segment_ms = segment_ms.clamp(1, self.longest_ms());
        let target_s = u32::try_from((segment_ms + 500) / 1000).unwrap_or(u32::MAX).max(1);
        // RFC 8216 4.3.3.1: a duration that rounds to the target is not longer. A frame below that, for encoders that jitter.
        let max_segment_ms = target_s.saturating_mul(1000).saturating_add(450);
        Gauged { target_s, max_segment_ms, part_ms: self.part_ms() }
    }

    fn part_ms(&mut self) -> u32 {
        let part_ms = millis(self.rules.part);
        // Encoders round to milliseconds in either direction: the mean of many is what they mean.
        let count = i64::try_from(self.frames.len()).unwrap_or(0);
        let frame_us = (self.frames.iter().sum::<i64>() * 1000).checked_div(count).unwrap_or(0);
        let whole_us = match (part_ms * 1000).checked_div(frame_us) {
            Some(_) => frame_us * ((part_ms * 1000 + frame_us / 2) / frame_us).max(1),
            None => part_ms * 1000,
        };
        u32::try_from((whole_us + 999) / 1000).unwrap_or(u32::MAX)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).min(MAX_SEGMENT_MS)
}

/// Without a picture for this long there is none.
const AUDIO_ALONE_MS: i64 = 1000;

/// A keyframe this much before its time is in time.
const MAX_JITTER_MS: i64 = 50;

/// No frame is believed to be shown for longer.
const MAX_FRAME_MS: i64 = 2000;

/// Frames that are enough to know their rate.
const MAX_FRAMES: usize = 250;

/// What is held at the most: ten seconds of 25 Mbit/s.
const MAX_BYTES: usize = 32 << 20;

/// A target of a minute leaves players three minutes behind.
const MAX_SEGMENT_MS: i64 = 60_000;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::media::codec::{AudioCodec, Codec, VideoCodec};
    use crate::protocol::flv::sample::Sample;

    fn rules() -> GaugeRules {
        GaugeRules {
            fragment: Duration::from_secs(2),
            max_fragment: Duration::from_secs(10),
            part: Duration::from_millis(200),
        }
    }

    fn frame(track: Track, dts_ms: i64, key: bool) -> MuxInput {
        let codec = match track {
            Track::Audio => Codec::Audio(AudioCodec::Aac),
            _ => Codec::Video(VideoCodec::Avc),
        };
        MuxInput::Sample(Sample { track, codec, dts_ms, cts_ms: 0, key, data: Bytes::from_static(b"x") })
    }

    /// A picture every `frame_ms` (a thousandth of them, as encoders round), a keyframe every `gop` of them.
    fn of_video(frame_us: i64, gop: usize) -> (Gauged, usize) {
        let mut gauge = Gauge::new(rules());
        for number in 0..100_000_usize {
            let dts_ms = number as i64 * frame_us / 1000;
            if let Some((gauged, held)) = gauge.push(frame(Track::Video, dts_ms, number % gop == 0), dts_ms) {
                return (gauged, held.len());
            }
        }
        panic!("it never knew");
    }

    #[test]
    fn a_segment_is_as_many_gops_as_make_it_long_enough() {
        for (frame_us, gop, target_s, held) in [
            (40_000, 50, 2, 51),
            (40_000, 1, 2, 2),
            (40_000, 25, 2, 26),
            (33_333, 60, 2, 61),
            (40_000, 36, 3, 37),
            (40_000, 49, 2, 50),
            (40_000, 100, 4, 101),
            (40_000, 750, 10, 251),
            (40_000, usize::MAX, 10, 251),
        ] {
            let (gauged, count) = of_video(frame_us, gop);
            assert_eq!((gauged.target_s, count), (target_s, held), "{frame_us} {gop}");
            assert_eq!(gauged.max_segment_ms, target_s * 1000 + 450);
        }
    }

    #[test]
    fn parts_are_whole_frames() {
        for (frame_us, part_ms) in
            [(40_000, 200), (33_333, 200), (41_667, 209), (66_667, 200), (100_000, 200), (16_667, 200), (500_000, 500)]
        {
            let (gauged, _) = of_video(frame_us, 100);
            assert!(gauged.part_ms.abs_diff(part_ms) <= 1, "{frame_us}: {}", gauged.part_ms);
        }
    }

    #[test]
    fn sound_alone_is_known_after_a_second() {
        let mut gauge = Gauge::new(rules());
        let known = (0..1000).find_map(|number| gauge.push(frame(Track::Audio, number * 21, true), 0));
        let (gauged, held) = known.expect("sound alone is enough");
        assert_eq!((gauged.target_s, gauged.part_ms, held.len()), (2, 200, 49));
    }

    #[test]
    fn a_picture_that_is_announced_and_never_comes_is_not_waited_for_for_ever() {
        let mut gauge = Gauge::new(rules());
        let config = MuxInput::VideoConfig { codec: VideoCodec::Avc, record: Bytes::new(), info: None };
        assert!(gauge.push(config, 0).is_none());
        let known = (0..1000).find_map(|number| gauge.push(frame(Track::Audio, number * 21, true), 0));
        assert_eq!(known.expect("ten seconds are enough").0.target_s, 10);
    }

    #[test]
    fn absurd_rules_and_times_are_survived() {
        for fragment in [Duration::ZERO, Duration::MAX] {
            let mut gauge = Gauge::new(GaugeRules { fragment, max_fragment: Duration::MAX, part: Duration::MAX });
            for dts_ms in [i64::MIN, i64::MAX, 0, i64::MAX, i64::MIN] {
                if let Some((gauged, _)) = gauge.push(frame(Track::Video, dts_ms, true), i64::MIN) {
                    assert!((1..=60).contains(&gauged.target_s));
                    break;
                }
            }
        }
    }
}
