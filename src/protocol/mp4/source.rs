//! What a stream turns out to carry: its tracks, and where to begin.

use super::format::Format;
use crate::media::codec::{AudioCodec, Codec, VideoCodec, VideoInfo, vp9};
use crate::media::packet::Track;
use crate::protocol::flv::sample::{MuxInput, Sample, audio_config};

/// The formats of a stream's tracks, as its configurations and, for codecs that have none, its frames tell them.
#[derive(Debug, Default)]
pub(super) struct Tracks {
    video: Option<Format>,
    audio: Option<Format>,
    /// VP9's record does not tell the size of the picture.
    sizeless: Option<(bytes::Bytes, VideoInfo)>,
}

impl Tracks {
    pub(super) fn format(&self, track: Track) -> Option<&Format> {
        match track {
            Track::Video => self.video.as_ref(),
            Track::Audio => self.audio.as_ref(),
            Track::Data => None,
        }
    }

    /// True when this changes a track that was known. What makes no sense, or has no place in MP4, ends its track.
    pub(super) fn configure(&mut self, input: &MuxInput) -> bool {
        match input {
            MuxInput::VideoConfig { codec, record, info } => {
                if same(&self.video, Codec::Video(*codec), record) {
                    return false;
                }
                self.sizeless = None;
                let format = info.as_ref().and_then(|info| match codec {
                    VideoCodec::Vp9 if info.width == 0 => {
                        self.sizeless = Some((record.clone(), info.clone()));
                        None
                    }
                    _ => Format::video(*codec, record, info),
                });
                std::mem::replace(&mut self.video, format).is_some()
            }
            MuxInput::AudioConfig { codec, record, info } => {
                let describes_itself =
                    matches!(codec, AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3 | AudioCodec::Opus);
                // An empty record says only that the first frame will tell.
                if same(&self.audio, Codec::Audio(*codec), record) || record.is_empty() && describes_itself {
                    return false;
                }
                let format = info.as_ref().and_then(|info| Format::audio(*codec, record, info));
                std::mem::replace(&mut self.audio, format).is_some()
            }
            MuxInput::Sample(_) | MuxInput::Other => false,
        }
    }

    /// Learns from a frame what its track has no record for. True when that changes a track that was known.
    pub(super) fn learn(&mut self, sample: &Sample) -> bool {
        if self.format(sample.track).is_some_and(|format| format.codec == sample.codec) {
            return false;
        }
        if sample.codec == Codec::Video(VideoCodec::Vp9) {
            if let Some((record, info)) = &self.sizeless
                && let Some((width, height)) = vp9::frame_size(&sample.data)
            {
                let info = VideoInfo { width, height, ..info.clone() };
                return std::mem::replace(&mut self.video, Format::video(VideoCodec::Vp9, record, &info)).is_some();
            }
            return false;
        }
        audio_config(sample).is_some_and(|config| self.configure(&config))
    }
}

/// The record is the one that is in use: most encoders repeat it before every keyframe.
fn same(format: &Option<Format>, codec: Codec, record: &[u8]) -> bool {
    format.as_ref().is_some_and(|format| format.codec == codec && format.record == record)
}

/// Keeps the first samples until it is known which tracks there are and a picture can begin.
#[derive(Debug, Default)]
pub(super) struct Gate {
    samples: Vec<(Sample, i64)>,
    bytes: usize,
    /// The earliest and the latest time that have come, of anything.
    first_ms: Option<i64>,
    last_ms: i64,
    /// A frame to begin with has come.
    has_start: bool,
    has_video: bool,
    has_audio: bool,
}

/// What the gate lets through.
#[derive(Debug)]
pub(super) struct Beginning {
    /// In order of time. Audio may be a little before the start, as encoders send it; what is older is left out.
    pub(super) samples: Vec<Sample>,
    /// Which tracks have come, even if all that has come of one is too old.
    pub(super) video: bool,
    pub(super) audio: bool,
    /// The time of the sample to begin with, and when it came by the wall clock.
    pub(super) start_ms: i64,
    pub(super) wall_ms: i64,
}

impl Gate {
    /// `starts` looks into a video frame.
    pub(super) fn push(&mut self, sample: Sample, wall_ms: i64, starts: impl FnOnce(&Sample) -> bool) {
        let first_ms = *self.first_ms.get_or_insert(sample.dts_ms);
        self.last_ms = self.last_ms.max(sample.dts_ms).max(first_ms);
        match sample.track {
            Track::Video => {
                self.has_video = true;
                if !self.has_start {
                    // Where nothing better comes, a recovery point has to do, and in the end any frame.
                    let waited = self.waited_ms();
                    let will_do = starts(&sample) || sample.key && waited > RECOVERY_POINT_MS || waited > ANY_FRAME_MS;
                    if !will_do {
                        return;
                    }
                    self.has_start = true;
                }
            }
            Track::Audio => self.has_audio = true,
            Track::Data => return,
        }
        self.bytes += sample.data.len();
        self.samples.push((sample, wall_ms));
        if !self.has_start && self.has_video && self.samples.len() > MAX_WAITING_SAMPLES / 2 {
            // Audio that waits for a picture: the oldest will be before it.
            self.samples.drain(..MAX_WAITING_SAMPLES / 4);
        }
    }

    /// The time of a track does not go on from where it was.
    pub(super) fn is_jump(&self, sample: &Sample, longest_ms: i64) -> bool {
        let before = self.samples.iter().rev().find(|(before, _)| before.track == sample.track);
        before.is_some_and(|(before, _)| {
            let step_ms = sample.dts_ms.saturating_sub(before.dts_ms);
            step_ms < -MAX_BACK_MS || step_ms > longest_ms
        })
    }

    /// There is something to begin with, were no more to come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_start || !self.has_video && self.has_audio
    }

    pub(super) fn is_open(&self, tracks: &Tracks) -> bool {
        if self.samples.is_empty() {
            return false;
        }
        let full = self.bytes > MAX_WAITING_BYTES || self.samples.len() > MAX_WAITING_SAMPLES;
        let waited = full || self.waited_ms() >= LATE_TRACK_MS;
        // Video that is on its way is waited for until it has a frame to begin with.
        let video = self.has_start || !self.has_video && waited || self.waited_ms() > 2 * ANY_FRAME_MS;
        let audio = self.has_audio && tracks.format(Track::Audio).is_some() || waited;
        video && audio
    }

    /// What has waited. None where nothing has.
    pub(super) fn into_samples(mut self) -> Option<Beginning> {
        let first = self.samples.iter().find(|(sample, _)| sample.track == Track::Video || !self.has_start)?;
        let (start_ms, wall_ms) = (first.0.dts_ms, first.1);
        self.samples.sort_by_key(|(sample, _)| sample.dts_ms);
        let samples = self.samples.into_iter().map(|(sample, _)| sample);
        let samples = samples.filter(|sample| sample.dts_ms >= start_ms.saturating_sub(MAX_EARLY_MS)).collect();
        Some(Beginning { samples, video: self.has_start, audio: self.has_audio, start_ms, wall_ms })
    }

    fn waited_ms(&self) -> i64 {
        self.last_ms.saturating_sub(self.first_ms.unwrap_or(self.last_ms))
    }
}

/// How much media a track may come later than the other and still be there from the beginning.
const LATE_TRACK_MS: i64 = 1000;
/// Less is disorder, which the clock of the track mends.
pub(super) const MAX_BACK_MS: i64 = 1000;
/// How much older than the first picture audio may be.
const MAX_EARLY_MS: i64 = 100;
const RECOVERY_POINT_MS: i64 = 2000;
const ANY_FRAME_MS: i64 = 5000;
const MAX_WAITING_SAMPLES: usize = 4096;
const MAX_WAITING_BYTES: usize = 16 << 20;
