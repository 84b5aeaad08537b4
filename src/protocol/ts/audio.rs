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
        let told = time_ms.saturating_mul(TICKS_PER_MS);
        let counted = self.counting.map(|(base, count)| base.saturating_add(ticks(count, rate)));
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

fn ticks(samples: u64, rate: u32) -> i64 {
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
/// Two milliseconds, of which one is the publisher's rounding and the other that of whoever relayed it.
const ROUNDING: i64 = 2 * TICKS_PER_MS;
/// The part of a drift that is mended with each frame.
const MENDING: i64 = 64;
