//! Audio frames as TS wants them, and the clock that counts their samples.

use crate::media::codec::aac::{self, AacConfig};
use crate::media::codec::{AudioCodec, AudioInfo, ac3, mp3, opus};

/// What the tables call an audio stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AudioStream {
    /// AAC, each frame behind a header of its own.
    Adts,
    /// MP3 at 32, 44.1 or 48 kHz.
    Mpeg1,
    /// MP3 at a lower rate.
    Mpeg2,
    Ac3,
    Eac3,
    Opus {
        channels: u8,
    },
}

/// How the frames of one track are written, and how long they last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AudioFrames {
    stream: AudioStream,
    aac: Option<AacConfig>,
    /// Samples a second, as the frames count them.
    rate: u32,
}

impl AudioFrames {
    /// `None`: TS has no form for it, or the record makes no sense.
    pub fn new(codec: AudioCodec, record: &[u8], info: Option<&AudioInfo>) -> Option<Self> {
        let plain = |stream| Some(Self { stream, aac: None, rate: info?.rate });
        match codec {
            AudioCodec::Aac => {
                let config = aac::parse(record).filter(|config| adts_header(config, 0).is_some())?;
                Some(Self { stream: AudioStream::Adts, aac: Some(config), rate: config.core_rate })
            }
            AudioCodec::Mp3 if info?.rate >= 32_000 => plain(AudioStream::Mpeg1),
            AudioCodec::Mp3 => plain(AudioStream::Mpeg2),
            AudioCodec::Ac3 => plain(AudioStream::Ac3),
            AudioCodec::Eac3 => plain(AudioStream::Eac3),
            AudioCodec::Opus => plain(AudioStream::Opus { channels: info?.channels.unwrap_or(2) }),
            AudioCodec::Flac | AudioCodec::Flv(_) | AudioCodec::Other(_) => None,
        }
    }

    pub fn stream(&self) -> AudioStream {
        self.stream
    }

    pub(super) fn stream_id(&self) -> u8 {
        match self.stream {
            AudioStream::Adts | AudioStream::Mpeg1 | AudioStream::Mpeg2 => 0xc0,
            AudioStream::Ac3 | AudioStream::Eac3 | AudioStream::Opus { .. } => PRIVATE_STREAM_1,
        }
    }

    /// Samples a second, as the frames count them.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// How many samples a frame holds, at [`AudioFrames::rate`]. 0: it does not tell.
    pub(super) fn samples(&self, frame: &[u8]) -> u32 {
        match self.stream {
            AudioStream::Adts => self.aac.map_or(0, |config| config.frame_samples),
            AudioStream::Mpeg1 | AudioStream::Mpeg2 => mp3::frame_samples(frame).unwrap_or(0),
            AudioStream::Ac3 | AudioStream::Eac3 => ac3::parse(frame).map_or(0, |header| header.samples),
            AudioStream::Opus { .. } => opus::frame_samples(frame).unwrap_or(0),
        }
    }

    /// Bytes that a frame becomes, at most.
    pub(super) fn written_size(&self, frame: &[u8]) -> usize {
        match self.stream {
            AudioStream::Adts => ADTS_HEADER + frame.len(),
            AudioStream::Opus { .. } => 3 + frame.len() / 255 + frame.len(),
            _ => frame.len(),
        }
    }

    /// `false`: the frame is too long for what stands in front of it, and nothing was written.
    pub(super) fn write(&self, frame: &[u8], out: &mut Vec<u8>) -> bool {
        match (self.stream, &self.aac) {
            (AudioStream::Adts, Some(config)) => {
                let Some(header) = adts_header(config, frame.len()) else { return false };
                out.extend_from_slice(&header);
            }
            (AudioStream::Opus { .. }, _) => {
                // The control header of the Opus mapping: a prefix, nothing trimmed, and the size in steps of 255.
                out.extend_from_slice(&[0x7f, 0xe0]);
                let mut left = frame.len();
                while left >= 255 {
                    out.push(255);
                    left -= 255;
                }
                out.push(u8::try_from(left).unwrap_or(0));
            }
            _ => {}
        }
        out.extend_from_slice(frame);
        true
    }
}

/// The presentation times of audio. RTMP counts milliseconds, in which no frame of AAC fits; some decoders (iOS) click when a frame is
/// a fraction early or late. So frames are counted, for as long as the milliseconds agree.
#[derive(Clone, Debug)]
pub(super) struct AudioClock {
    /// How far the publisher's time may be off before it is believed; `None` believes it always.
    tolerance: Option<i64>,
    /// Where counting began, and the samples since.
    counting: Option<(i64, u64)>,
    last: Option<i64>,
}

impl AudioClock {
    /// 0 never counts, as `hls_sync` has it.
    pub(super) fn new(tolerance_ms: u32) -> Self {
        let tolerance = (tolerance_ms > 0).then_some(i64::from(tolerance_ms) * TICKS_PER_MS);
        Self { tolerance, counting: None, last: None }
    }

    /// What comes next does not go on from what was before.
    pub(super) fn restart(&mut self) {
        self.counting = None;
    }

    /// Where a frame of so many samples belongs, in counts of 90 kHz.
    pub(super) fn place(&mut self, time_ms: i64, samples: u32, rate: u32) -> i64 {
        let told = ticks(time_ms);
        let counted = self.counting.map(|(base, count)| base.saturating_add(length(count, rate)));
        let mut at = told;
        let mut next = (told, 0);
        if let (Some(counted), Some(tolerance), Some((base, count))) = (counted, self.tolerance, self.counting)
            && let Some(off) = told.checked_sub(counted)
            && off.abs() <= tolerance
        {
            at = counted;
            // Rounding explains this much. What is beyond is drift, and mended so slowly that nobody hears it.
            let drift = off.signum() * (off.abs() - ROUNDING).max(0);
            next = (base.saturating_add(drift / MENDING), count);
        }
        at = self.last.map_or(at, |last| at.max(last.saturating_add(1)));
        self.last = Some(at);
        let counts = samples > 0 && rate > 0;
        self.counting = counts.then(|| (next.0, next.1.saturating_add(samples.into())));
        at
    }
}

/// Milliseconds as counts of 90 kHz, kept far from where sums would overflow: 35000 years.
pub(super) fn ticks(ms: i64) -> i64 {
    ms.clamp(-MAX_MS, MAX_MS) * TICKS_PER_MS
}

/// Of samples, in counts of 90 kHz.
fn length(samples: u64, rate: u32) -> i64 {
    i64::try_from(u128::from(samples) * 90_000 / u128::from(rate.max(1))).unwrap_or(i64::MAX)
}

/// ISO/IEC 14496-3, 1.A.2.2. `None`: a codec or rate that the header cannot name, or a frame too long for it.
fn adts_header(config: &AacConfig, frame_size: usize) -> Option<[u8; ADTS_HEADER]> {
    // Two bits. HE-AAC is written as its core, which is LC; decoders find the rest by themselves.
    let profile = config.object_type.checked_sub(1).filter(|profile| *profile < 4)?;
    let rate = aac::rate_index(config.core_rate)?;
    let channels = match config.channels {
        None => 0,
        Some(count @ 1..=6) => count,
        Some(8) => 7,
        Some(_) => return None,
    };
    let size = u16::try_from(frame_size + ADTS_HEADER).ok().filter(|size| *size < 1 << 13)?;
    let [high, low] = (size << 3).to_be_bytes();
    Some([
        0xff,
        0xf1,
        profile << 6 | rate << 2 | channels >> 2,
        (channels & 3) << 6 | high >> 6 & 3,
        high << 2 | low >> 6,
        // The buffer's fullness, all ones: not told.
        low << 2 & 0xe0 | 0x1f,
        0xfc,
    ])
}

const ADTS_HEADER: usize = 7;
const PRIVATE_STREAM_1: u8 = 0xbd;
const TICKS_PER_MS: i64 = 90;
const MAX_MS: i64 = 1 << 50;
/// Two milliseconds, of which one is the publisher's rounding and the other that of whoever relayed it.
const ROUNDING: i64 = 2 * TICKS_PER_MS;
/// The part of a drift that is mended with each frame.
const MENDING: i64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::audio_info;

    fn frames(codec: AudioCodec, record: &[u8]) -> Option<AudioFrames> {
        AudioFrames::new(codec, record, audio_info(codec, record).as_ref())
    }

    fn written(codec: AudioCodec, record: &[u8], frame: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(frames(codec, record).unwrap().write(frame, &mut out));
        out
    }

    #[test]
    fn an_aac_frame_stands_behind_a_header_of_its_own() {
        // As ffmpeg writes it for LC at 44.1 kHz in stereo.
        assert_eq!(written(AudioCodec::Aac, b"\x12\x10", b"\x21\x10\x05"), b"\xff\xf1\x50\x80\x01\x5f\xfc\x21\x10\x05");
        assert_eq!(written(AudioCodec::Aac, b"\x11\x88", &[1; 505])[..7], *b"\xff\xf1\x4c\x40\x40\x1f\xfc");
    }

    #[test]
    fn he_aac_is_written_and_counted_as_its_core() {
        // Explicit SBR: 24 kHz inside, 48 kHz out, stereo.
        let record = b"\x2b\x11\x88\x00";
        assert_eq!(written(AudioCodec::Aac, record, b"\x21")[..4], *b"\xff\xf1\x58\x80");
        let frames = frames(AudioCodec::Aac, record).unwrap();
        assert_eq!((frames.rate(), frames.samples(&[])), (24_000, 1024));
    }

    #[test]
    fn frames_of_960_samples_are_counted_as_such() {
        assert_eq!(frames(AudioCodec::Aac, b"\x11\x94").unwrap().samples(&[]), 960);
    }

    #[test]
    fn what_the_header_cannot_say_is_not_taken() {
        // Enhanced low delay (39), a rate of its own, and a frame longer than 13 bits.
        assert_eq!(frames(AudioCodec::Aac, b"\xf8\xe8\x50\x00"), None);
        assert_eq!(frames(AudioCodec::Aac, b"\x17\x80\x5d\xc1\x10"), None);
        assert_eq!(frames(AudioCodec::Flac, b"fLaC"), None);
        let mut out = Vec::new();
        assert!(!frames(AudioCodec::Aac, b"\x12\x10").unwrap().write(&[0; 8185], &mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn an_opus_packet_stands_behind_its_size() {
        let head = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
        assert_eq!(written(AudioCodec::Opus, head, &[9; 3])[..4], [0x7f, 0xe0, 3, 9]);
        assert_eq!(written(AudioCodec::Opus, head, &[9; 510])[..6], [0x7f, 0xe0, 255, 255, 0, 9]);
    }

    #[test]
    fn mp3_is_told_apart_by_its_rate() {
        let stream = |frame: &[u8]| frames(AudioCodec::Mp3, frame).unwrap();
        assert_eq!(stream(b"\xff\xfb\x90\x64").stream(), AudioStream::Mpeg1);
        assert_eq!(stream(b"\xff\xf3\x90\xc4").stream(), AudioStream::Mpeg2);
        assert_eq!(stream(b"\xff\xf3\x90\xc4").samples(b"\xff\xf3\x90\xc4"), 576);
    }

    /// The times of AAC frames at 44.1 kHz whose publisher says `told`, beginning with 0.
    fn place(tolerance_ms: u32, told: impl Iterator<Item = i64>) -> Vec<i64> {
        let mut clock = AudioClock::new(tolerance_ms);
        told.map(|time_ms| clock.place(time_ms, 1024, 44_100)).collect()
    }

    /// In whole milliseconds, as RTMP has it.
    fn exact(count: i64) -> impl Iterator<Item = i64> {
        (0..count).map(|at| at * 1_024_000 / 44_100)
    }

    #[test]
    fn frames_are_counted_and_not_rounded() {
        for tolerance in [2, 40] {
            let placed = place(tolerance, exact(10_000));
            for (at, pts) in placed.into_iter().enumerate() {
                assert_eq!(pts, at as i64 * 1024 * 90_000 / 44_100);
            }
        }
    }

    #[test]
    fn beyond_the_tolerance_the_publisher_is_believed() {
        let placed = place(2, exact(100).map(|time| if time > 1_000 { time + 500 } else { time }));
        let gaps: Vec<i64> =
            placed.windows(2).map(|two| two[1] - two[0]).filter(|gap| !(2089..=2090).contains(gap)).collect();
        assert_eq!(gaps.len(), 1);
        assert!((gaps[0] - 2090 - 45_000).abs() <= 180, "{gaps:?}");
    }

    #[test]
    fn without_a_tolerance_every_time_is_believed() {
        assert_eq!(place(0, [0, 23, 46, 70].into_iter()), [0, 23 * 90, 46 * 90, 70 * 90]);
    }

    #[test]
    fn a_clock_that_runs_slow_is_followed_without_a_step() {
        // One part in a thousand: a second in a quarter of an hour.
        let placed = place(40, exact(40_000).map(|time| time + time / 1_000));
        let steps: Vec<i64> = placed.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(steps.iter().all(|step| (2080..2110).contains(step)), "{:?}", steps.iter().max());
        let told = exact(40_000).last().unwrap();
        assert!((placed.last().unwrap() - (told + told / 1_000) * 90).abs() < 10 * 90);
    }

    #[test]
    fn times_grow_whatever_is_told() {
        let placed = place(2, [100, 100, 100, 50, 50, 200].into_iter());
        assert!(placed.windows(2).all(|two| two[0] < two[1]), "{placed:?}");
    }
}
