//! A track on its way into MP4: its samples brought into MP4's form, its clock in ticks without holes.

use bytes::Bytes;

use super::format::{Format, PARAMETER_SETS};
use super::fragment::FragmentSample;
use crate::media::codec::{self, AudioCodec, Codec, VideoCodec, nal};
use crate::protocol::flv::sample::{self, Sample};

/// Samples go in with milliseconds and come out, one later, with ticks: how long a sample lasts is known when the next
/// one is there.
///
/// What comes out has no holes: each begins where the one before ends. Video lasts from one decoding time to the next.
/// Audio lasts as long as its codec says, so that the milliseconds' rounding is never heard; when that has led it
/// [`MAX_DRIFT_MS`] astray from the publisher's clock, one sample is stretched or one left out.
#[derive(Debug)]
pub struct TrackClock {
    timescale: u32,
    video: bool,
    held: Option<Held>,
    /// Where the held sample begins. The next one that is taken begins there or later.
    at: u64,
    /// How long the last video sample lasted, which the one before a pause is taken to last as well.
    usual: u32,
    dropped: u64,
}

/// A sample with its place in time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timed {
    pub start: u64,
    pub sample: FragmentSample,
}

#[derive(Debug)]
struct Held {
    dts_ms: i64,
    key: bool,
    cts_ms: i32,
    data: Bytes,
    /// What the codec says: of audio only.
    nominal: Option<u32>,
}

impl TrackClock {
    /// `usual` is what the first video sample is taken to last where nothing follows it: a frame at 25 a second.
    pub fn new(format: &Format) -> Self {
        Self {
            timescale: format.timescale,
            video: format.is_video(),
            held: None,
            at: 0,
            usual: format.timescale / 25,
            dropped: 0,
        }
    }

    /// Takes a sample of the publisher's time; gives the one before it. `nominal` is how many ticks the codec says that
    /// it lasts: audio without one is timed like video.
    pub fn push(&mut self, sample: &Sample, data: Bytes, nominal: Option<u32>) -> Option<Timed> {
        let (dts_ms, key, cts_ms) = (sample.dts_ms, sample.key, sample.cts_ms);
        let nominal = nominal.filter(|ticks| *ticks > 0);
        let next = Held { dts_ms, key, cts_ms, data, nominal };
        let target = self.ticks(dts_ms);
        let Some(held) = &self.held else {
            self.at = self.at.max(target);
            self.held = Some(next);
            return None;
        };
        let duration = match held.nominal {
            None => to_duration(target.saturating_sub(self.at)),
            Some(nominal) => {
                let end = self.at + u64::from(nominal);
                let drift = self.ticks(MAX_DRIFT_MS);
                if end > target.saturating_add(drift) {
                    // Too many samples for the time that has passed.
                    self.dropped += 1;
                    return None;
                }
                if target > end + drift { to_duration(target - self.at) } else { nominal }
            }
        };
        let done = self.release(duration);
        self.held = Some(next);
        done
    }

    /// The sample that waits for the next one, which does not come.
    pub fn flush(&mut self) -> Option<Timed> {
        let duration = self.expected();
        self.release(duration)
    }

    /// As `flush`, where it is known that nothing comes before this time; none where the sample does not begin before it.
    pub fn flush_until(&mut self, until: u64) -> Option<Timed> {
        let left = until.checked_sub(self.at).filter(|left| *left > 0)?;
        self.release(to_duration(left))
    }

    /// Whether there is nothing for a while before a sample of this time.
    pub fn has_pause(&self, ms: i64) -> bool {
        let expected = if self.held.is_some() { self.expected() } else { 0 };
        self.ticks(ms) > self.at + u64::from(expected) + self.ticks(MAX_DRIFT_MS)
    }

    /// The next sample begins at this time or later. For a clock that holds none: there is a hole then.
    pub fn skip_to(&mut self, ms: i64) {
        self.at = self.at.max(self.ticks(ms));
    }

    /// Where the sample that waits begins, or the next one would.
    pub fn position(&self) -> u64 {
        self.at
    }

    pub fn position_ms(&self) -> i64 {
        self.ms(self.at)
    }

    /// The time by the publisher's clock of the sample that waits.
    pub fn held_ms(&self) -> Option<i64> {
        self.held.as_ref().map(|held| held.dts_ms)
    }

    /// How long the sample that waits will last if nothing unusual happens.
    pub fn expected(&self) -> u32 {
        self.held.as_ref().and_then(|held| held.nominal).unwrap_or(self.usual)
    }

    /// Audio samples that were left out because there were too many for their time.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn ticks(&self, ms: i64) -> u64 {
        ticks(self.timescale, ms)
    }

    pub fn ms(&self, ticks: u64) -> i64 {
        i64::try_from(u128::from(ticks) * 1000 / u128::from(self.timescale.max(1))).unwrap_or(i64::MAX)
    }

    fn release(&mut self, duration: u32) -> Option<Timed> {
        let held = self.held.take()?;
        let start = self.at;
        let cts = if self.video { self.composition(&held, start) } else { 0 };
        if self.video {
            // One pause does not make a slow camera.
            self.usual = duration.clamp(self.usual / 2, self.usual.saturating_mul(2)).max(1);
        }
        self.at = start + u64::from(duration);
        Some(Timed { start, sample: FragmentSample { duration, cts, key: held.key, data: held.data } })
    }

    /// The presentation time stays where the publisher put it, also where the decoding time had to move.
    fn composition(&self, held: &Held, start: u64) -> i32 {
        let presented = self.ticks(held.dts_ms.saturating_add(held.cts_ms.into()));
        let offset = i128::from(presented) - i128::from(start);
        i32::try_from(offset).unwrap_or(0)
    }
}

/// Brings a track's samples into the form that MP4 wants.
#[derive(Clone, Debug)]
pub struct Dresser {
    codec: Codec,
    record: Bytes,
    length_size: Option<usize>,
    /// What each frame lasts where all last the same.
    constant: Option<u32>,
}

impl Dresser {
    pub fn new(format: &Format) -> Self {
        let (length_size, constant) = match format.codec {
            Codec::Video(codec) => (sample::nal_length_size(codec, &format.record), None),
            Codec::Audio(AudioCodec::Aac) => (None, codec::audio_frame_samples(AudioCodec::Aac, &format.record, &[])),
            Codec::Audio(_) => (None, None),
        };
        Self { codec: format.codec, record: format.record.clone(), length_size, constant }
    }

    /// The bytes of the sample, shared with the stream wherever nothing has to go.
    pub fn dress(&self, sample: &Sample) -> Bytes {
        match self.codec {
            Codec::Video(VideoCodec::Av1) => without_temporal_delimiter(&sample.data),
            Codec::Video(VideoCodec::Hevc) if sample.key => match self.length_size {
                Some(size) => without_parameter_sets(&sample.data, size, &self.record),
                None => sample.data.clone(),
            },
            _ => sample.data.clone(),
        }
    }

    /// How many ticks of the track's clock the codec says that the sample lasts.
    pub fn ticks(&self, sample: &Sample) -> Option<u32> {
        match self.codec {
            Codec::Audio(codec) => {
                self.constant.or_else(|| codec::audio_frame_samples(codec, &self.record, &sample.data))
            }
            Codec::Video(_) => None,
        }
    }

    /// Whether decoding can start at the sample: the publisher's flag, checked.
    pub fn is_random_access(&self, sample: &Sample) -> bool {
        sample.is_random_access(self.length_size)
    }
}

/// MP4 does not want the OBU that only says that a frame begins.
fn without_temporal_delimiter(unit: &Bytes) -> Bytes {
    match unit[..] {
        [0x12, 0x00, _, ..] => unit.slice(2..),
        // Without a size, or with an extension: nobody writes it, and the rest would be lost if we were wrong.
        _ => unit.clone(),
    }
}

/// `hvc1` has its parameter sets in the record. Those that say the same again go; others stay, since the frame may need
/// them and players cope.
fn without_parameter_sets(access_unit: &Bytes, length_size: usize, record: &[u8]) -> Bytes {
    let is_repeated = |unit: &[u8]| {
        let kind = unit.first().map(|head| head >> 1 & 0x3f);
        kind.is_some_and(|kind| PARAMETER_SETS.contains(&kind))
            && record.windows(unit.len()).any(|window| window == unit)
    };
    if !nal::is_well_formed(access_unit, length_size)
        || !nal::units(access_unit, length_size).take(MAX_HEAD_UNITS).any(is_repeated)
    {
        return access_unit.clone();
    }
    // A copy, of a keyframe only: what stays is no longer in one piece.
    let mut out = Vec::with_capacity(access_unit.len());
    for (at, unit) in nal::units(access_unit, length_size).enumerate() {
        if at < MAX_HEAD_UNITS && is_repeated(unit) {
            continue;
        }
        let length = unit.len().to_be_bytes();
        out.extend_from_slice(length.get(length.len() - length_size..).unwrap_or_default());
        out.extend_from_slice(unit);
    }
    if out.is_empty() { access_unit.clone() } else { out.into() }
}

/// A time of the stream in ticks; what is before its beginning is at it.
pub(super) fn ticks(timescale: u32, ms: i64) -> u64 {
    let ms = u64::try_from(ms).unwrap_or(0).min(MAX_TIME_MS);
    // To the nearest: cutting off would be a tick early.
    (ms * u64::from(timescale) + 500) / 1000
}

/// Never 0: two samples may not begin at the same time.
fn to_duration(ticks: u64) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
}

/// Audio off by less is in sync to everybody (ITU-R BT.1359 puts what is noticed at 45 ms early and 125 ms late), and
/// phones jitter by tens of milliseconds.
pub const MAX_DRIFT_MS: i64 = 100;
/// 34 years: below it no product overflows.
const MAX_TIME_MS: u64 = 1 << 40;
/// Parameter sets come before the picture, behind a delimiter at most.
const MAX_HEAD_UNITS: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::{audio_info, video_info};
    use crate::media::packet::Track;
    use crate::protocol::mp4::tests::{AAC_44100, AVC_RECORD, aac, avc, bytes};

    fn sample(dts_ms: i64, data: &str) -> Sample {
        Sample {
            track: Track::Audio,
            codec: Codec::Audio(AudioCodec::Aac),
            dts_ms,
            cts_ms: 0,
            key: true,
            data: bytes(data),
        }
    }

    /// Pushes samples at these times; tells start and duration of what comes out.
    fn times(clock: &mut TrackClock, nominal: Option<u32>, ms: &[i64]) -> Vec<(u64, u32)> {
        let mut out: Vec<_> =
            ms.iter().filter_map(|at| clock.push(&sample(*at, "aa"), Bytes::new(), nominal)).collect();
        out.extend(clock.flush());
        out.into_iter().map(|timed| (timed.start, timed.sample.duration)).collect()
    }

    #[test]
    fn video_lasts_until_the_next_decoding_time() {
        let mut clock = TrackClock::new(&avc());
        assert_eq!(times(&mut clock, None, &[0, 33, 67, 100]), [(0, 2970), (2970, 3060), (6030, 2970), (9000, 2970)]);
    }

    #[test]
    fn audio_lasts_as_long_as_its_codec_says_whatever_the_milliseconds() {
        let mut clock = TrackClock::new(&aac());
        let out = times(&mut clock, Some(1024), &[0, 23, 46, 70, 93]);
        assert_eq!(out, [(0, 1024), (1024, 1024), (2048, 1024), (3072, 1024), (4096, 1024)]);
    }

    #[test]
    fn a_gap_in_audio_stretches_one_sample() {
        let mut clock = TrackClock::new(&aac());
        let out = times(&mut clock, Some(1024), &[0, 23, 223, 246]);
        assert_eq!(out, [(0, 1024), (1024, 8810), (9834, 1024), (10_858, 1024)]);
    }

    #[test]
    fn too_much_audio_loses_a_sample() {
        let mut clock = TrackClock::new(&aac());
        // A sample every millisecond is 23 times too many.
        let ms: Vec<i64> = (0..1000).collect();
        let out = times(&mut clock, Some(1024), &ms);
        assert!(clock.dropped() > 900);
        let end = out.last().map(|(start, duration)| start + u64::from(*duration)).unwrap();
        assert!(end < 44_100 + 4410 + 2048, "{end}");
    }

    #[test]
    fn equal_and_backward_decoding_times_still_move_on() {
        let mut clock = TrackClock::new(&avc());
        assert_eq!(times(&mut clock, None, &[40, 40, 0, 80]), [(3600, 1), (3601, 1), (3602, 3598), (7200, 1800)]);
    }

    #[test]
    fn the_presentation_time_stays_when_the_decoding_time_moves() {
        let mut clock = TrackClock::new(&avc());
        let mut presented = Vec::new();
        for (dts_ms, cts_ms) in [(40, 0), (40, 40), (80, -20), (120, 0)] {
            let sample = Sample { dts_ms, cts_ms, ..sample(0, "aa") };
            presented.extend(clock.push(&sample, Bytes::new(), None));
        }
        let presented: Vec<i64> =
            presented.iter().map(|timed| timed.start as i64 + i64::from(timed.sample.cts)).collect();
        assert_eq!(presented, [3600, 7200, 5400]);
    }

    #[test]
    fn temporal_delimiters_of_av1_go() {
        assert_eq!(without_temporal_delimiter(&bytes("1200 0a0b")), bytes("0a0b"));
        assert_eq!(without_temporal_delimiter(&bytes("0a0b")), bytes("0a0b"));
        assert_eq!(without_temporal_delimiter(&bytes("1200")), bytes("1200"));
    }

    #[test]
    fn parameter_sets_of_hevc_that_the_record_has_go() {
        let record = bytes("0000 400c01 0000 4201aa 0000 4401cc");
        let strip = |unit: &str| without_parameter_sets(&bytes(unit), 4, &record);
        let picture = "00000003 2601ac";
        let with = format!("00000002 4601 00000003 400c01 00000003 4201aa 00000003 4401cc {picture}");
        assert_eq!(strip(&with), bytes(&format!("00000002 4601 {picture}")));
        let other = format!("00000003 4201ab {picture}");
        assert_eq!(strip(&other), bytes(&other));
        assert_eq!(strip("000000ff 4201aa"), bytes("000000ff 4201aa"));
    }

    #[test]
    fn formats_tell_what_their_frames_last() {
        let dresser = Dresser::new(&aac());
        assert_eq!(dresser.ticks(&sample(0, "2110")), Some(1024));
        assert_eq!(Dresser::new(&avc()).ticks(&sample(0, "2110")), None);
        assert!(audio_info(AudioCodec::Aac, &bytes(AAC_44100)).is_some());
        assert!(video_info(VideoCodec::Avc, &bytes(AVC_RECORD)).is_some());
    }

    proptest! {
        #[test]
        fn what_comes_out_has_no_holes(
            video: bool,
            nominal in prop::option::of(1_u32..5000),
            steps in prop::collection::vec(-100_i64..3000, 1..60),
        ) {
            let mut clock = TrackClock::new(&if video { avc() } else { aac() });
            let mut at = 0;
            let ms: Vec<i64> = steps.iter().map(|step| { at += step; at }).collect();
            let out = times(&mut clock, nominal.filter(|_| !video), &ms);
            prop_assert!(!out.is_empty());
            for two in out.windows(2) {
                prop_assert_eq!(two[0].0 + u64::from(two[0].1), two[1].0);
                prop_assert!(two[0].1 > 0);
            }
        }
    }
}
