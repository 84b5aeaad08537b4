//! The muxer: samples of a stream in, packets of MPEG-TS out.

use super::access_unit::{AccessUnits, Entry};
use super::audio::{AudioClock, AudioFrames};
use super::packets::{Lane, Packets, PesPacket};
use crate::media::codec::{AudioCodec, Codec, VideoCodec};
use crate::media::packet::Track;
use crate::protocol::flv::sample::{MuxInput, Sample};

/// Writes one program of at most one video and one audio stream. Counters, versions and clocks go on for as long as it lives, across
/// segments; nothing is allocated but room in `out` and, once, for the largest frame.
#[derive(Debug)]
pub struct TsMuxer {
    packets: Packets,
    video: Option<VideoTrack>,
    audio: Option<AudioTrack>,
    audio_clock: AudioClock,
    /// How far the clock stays behind what is to be decoded next.
    clock_delay: i64,
    last_pcr: Option<i64>,
    last_video_dts: Option<i64>,
    /// How far decoding times were moved ahead, because a publisher's composition times are negative.
    lead: i64,
    /// The next packet that carries the clock says that it does not go on.
    is_discontinuous: bool,
    /// What was configured or came since the last restart.
    seen: Seen,
    /// The frames of one PES packet in the making.
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TsRules {
    /// Audio times are counted in samples for as long as the publisher's are no further off: `hls_sync`. 0: never.
    pub audio_sync_ms: u32,
}

impl Default for TsRules {
    /// nginx-rtmp's 2 ms stand for perfect encoders. Real ones, and relays, jitter by more, and players hear a clock that follows.
    fn default() -> Self {
        Self { audio_sync_ms: 40 }
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    config: bool,
    video: bool,
    audio: bool,
}

#[derive(Debug)]
struct VideoTrack {
    codec: VideoCodec,
    record: bytes::Bytes,
    units: AccessUnits,
}

#[derive(Debug)]
struct AudioTrack {
    codec: AudioCodec,
    record: bytes::Bytes,
    frames: AudioFrames,
}

impl TsMuxer {
    pub fn new(rules: TsRules) -> Self {
        Self {
            packets: Packets::new(),
            video: None,
            audio: None,
            audio_clock: AudioClock::new(rules.audio_sync_ms),
            clock_delay: CLOCK_DELAY,
            last_pcr: None,
            last_video_dts: None,
            lead: 0,
            is_discontinuous: false,
            seen: Seen::default(),
            scratch: Vec::new(),
        }
    }

    /// Whether TS has a form for it that players know.
    pub fn takes(codec: Codec) -> bool {
        match codec {
            Codec::Video(codec) => matches!(codec, VideoCodec::Avc | VideoCodec::Hevc),
            Codec::Audio(codec) => matches!(
                codec,
                AudioCodec::Aac | AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3 | AudioCodec::Opus
            ),
        }
    }

    /// A configuration of the stream. Whether it changes what is decoded: then tables are due, and for HLS a discontinuity.
    pub fn configure(&mut self, input: &MuxInput) -> bool {
        match input {
            MuxInput::VideoConfig { codec, record, .. } => {
                (self.seen.config, self.seen.video) = (true, true);
                if self.video.as_ref().is_some_and(|video| video.codec == *codec && video.record == *record) {
                    return false;
                }
                let had = self.video.is_some();
                self.video = AccessUnits::new(*codec, record).map(|units| VideoTrack {
                    codec: *codec,
                    record: record.clone(),
                    units,
                });
                self.declare();
                had || self.video.is_some()
            }
            MuxInput::AudioConfig { codec, record, info } => {
                (self.seen.config, self.seen.audio) = (true, true);
                if self.audio.as_ref().is_some_and(|audio| audio.codec == *codec && audio.record == *record) {
                    return false;
                }
                let had = self.audio.is_some();
                self.audio = AudioFrames::new(*codec, record, info.as_ref()).map(|frames| AudioTrack {
                    codec: *codec,
                    record: record.clone(),
                    frames,
                });
                self.audio_clock.restart();
                self.declare();
                had || self.audio.is_some()
            }
            MuxInput::Sample(_) | MuxInput::Other => false,
        }
    }

    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    pub fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// Whether a sample is of the codec that was configured for its track: others are not written. Takes note that the track is there.
    pub fn accepts(&mut self, sample: &Sample) -> bool {
        let (seen, codec) = match sample.track {
            Track::Video => (&mut self.seen.video, self.video.as_ref().map(|video| Codec::Video(video.codec))),
            Track::Audio => (&mut self.seen.audio, self.audio.as_ref().map(|audio| Codec::Audio(audio.codec))),
            Track::Data => return false,
        };
        *seen = true;
        codec == Some(sample.codec)
    }

    /// What kind of entry a video frame is.
    pub fn entry(&self, sample: &Sample) -> Entry {
        self.video.as_ref().map_or(Entry::None, |video| video.units.entry(&sample.data, sample.key))
    }

    /// Every segment begins with them.
    pub fn write_tables(&mut self, out: &mut Vec<u8>) {
        self.forget_what_left();
        self.packets.write_tables(out);
    }

    /// For somebody who joins between two times that they are written: they count as those before the next.
    pub fn write_tables_before(&self, out: &mut Vec<u8>) {
        self.packets.write_tables_before(out);
    }

    /// Writes a video frame. Nothing is written of a frame without any unit, or of another codec than was configured.
    pub fn write_video(&mut self, sample: &Sample, out: &mut Vec<u8>) {
        let Some(video) = self.video.as_mut().filter(|video| sample.codec == Codec::Video(video.codec)) else {
            return;
        };
        self.scratch.clear();
        let Some(entry) = video.units.write(&sample.data, sample.key, &mut self.scratch) else {
            return;
        };
        let (pts, dts) = self.place_video(sample);
        let pcr = self.clock_before(dts, out);
        self.packets.write_pes(
            out,
            &PesPacket {
                lane: Lane::Video,
                stream_id: VIDEO_STREAM_ID,
                pts,
                dts: (pts != dts).then_some(dts),
                pcr,
                random_access: entry >= Entry::Recovery,
                discontinuity: pcr.is_some() && std::mem::take(&mut self.is_discontinuous),
                data: &self.scratch,
            },
        );
    }

    /// Writes audio frames, as many as possible together in one PES packet: as long as they follow each other without a gap.
    pub fn write_audio(&mut self, samples: &[Sample], out: &mut Vec<u8>) {
        let Some(AudioTrack { codec, frames, .. }) = self.audio.as_ref() else {
            return;
        };
        let (codec, frames) = (Codec::Audio(*codec), *frames);
        self.scratch.clear();
        // The time of the packet in the making, and where its next frame is expected.
        let mut first = None;
        let mut expected = 0;
        for sample in samples.iter().filter(|sample| sample.codec == codec) {
            let size = frames.written_size(&sample.data);
            if size > MAX_AUDIO_BYTES {
                continue;
            }
            let (count, rate) = (frames.samples(&sample.data), frames.rate());
            let pts = BASE + self.audio_clock.place(sample.dts_ms, count, rate);
            // A frame and a half late is a gap, which must show; jitter within one PES packet must not.
            let length = i64::from(count) * 90_000 / i64::from(rate.max(1));
            let is_gap = (pts - expected).abs() > length / 2 + MAX_JITTER;
            if let Some(at) = first
                && (is_gap || self.scratch.len() + size > MAX_AUDIO_BYTES)
            {
                self.write_audio_packet(at, frames.stream_id(), out);
                first = None;
            }
            if frames.write(&sample.data, &mut self.scratch) {
                first.get_or_insert(pts);
                expected = pts + length;
            }
        }
        if let Some(at) = first {
            self.write_audio_packet(at, frames.stream_id(), out);
        }
    }

    /// Another publisher comes, or packets were lost. A track that is not heard of again is taken out of the tables.
    pub fn restart(&mut self) {
        self.seen = Seen::default();
        self.discontinuity();
    }

    /// What comes next does not go on from what was before.
    pub fn discontinuity(&mut self) {
        self.is_discontinuous = self.last_pcr.is_some();
        self.last_pcr = None;
        self.audio_clock.restart();
    }

    /// A publisher who came and configured one track does not have the other, if nothing is heard of it.
    fn forget_what_left(&mut self) {
        if self.seen.config && !(self.seen.video && self.seen.audio) {
            if !self.seen.video {
                self.video = None;
            }
            if !self.seen.audio {
                self.audio = None;
            }
            self.declare();
        }
    }

    /// Writes what is in `scratch`, and clears it.
    fn write_audio_packet(&mut self, pts: i64, stream_id: u8, out: &mut Vec<u8>) {
        // Audio that comes this late must still find the clock before it.
        if let Some(dts) = self.last_video_dts {
            self.clock_delay = self.clock_delay.max((dts - pts + CLOCK_MARGIN).min(MAX_CLOCK_DELAY));
        }
        let has_clock = self.packets.clock_lane() == Lane::Audio;
        let pcr = if has_clock {
            self.clock_before(pts, out)
        } else {
            // The picture stands still, or comes less often than the clock has to.
            self.keep_clock(pts, out);
            None
        };
        self.packets.write_pes(
            out,
            &PesPacket {
                lane: Lane::Audio,
                stream_id,
                pts,
                dts: None,
                pcr,
                // Every audio frame is an entry; told where there is nothing else to enter by.
                random_access: has_clock,
                discontinuity: pcr.is_some() && std::mem::take(&mut self.is_discontinuous),
                data: &self.scratch,
            },
        );
        self.scratch.clear();
    }

    /// Presentation and decoding time. The latter grows with every frame and is never after the former, which is never moved.
    fn place_video(&mut self, sample: &Sample) -> (i64, i64) {
        let told = BASE.saturating_add(sample.dts_ms.saturating_mul(TICKS_PER_MS));
        let pts = told.saturating_add(i64::from(sample.cts_ms) * TICKS_PER_MS);
        self.lead = self.lead.max(told.saturating_sub(pts)).min(MAX_LEAD);
        let mut dts = told.saturating_sub(self.lead);
        if let Some(last) = self.last_video_dts {
            dts = dts.max(last.saturating_add(1));
        }
        self.last_video_dts = Some(dts);
        (pts.max(dts), dts)
    }

    /// The clock for a packet whose content is decoded at `dts`; `None` where it would stand still or go back. Clock packets
    /// before it close a gap that is too long for one.
    fn clock_before(&mut self, dts: i64, out: &mut Vec<u8>) -> Option<i64> {
        let pcr = dts.saturating_sub(self.clock_delay);
        if self.last_pcr.is_some_and(|last| pcr <= last) {
            return None;
        }
        self.keep_clock(dts, out);
        self.last_pcr = Some(pcr);
        Some(pcr)
    }

    /// Clock packets where the last one is longer ago than players allow.
    fn keep_clock(&mut self, dts: i64, out: &mut Vec<u8>) {
        let Some(mut last) = self.last_pcr else { return };
        let now = dts.saturating_sub(self.clock_delay);
        // Beyond this nothing was missed: the stream itself stood still.
        if now.saturating_sub(last) > MAX_CLOCK_GAP {
            self.is_discontinuous = true;
            return;
        }
        while now - last > CLOCK_INTERVAL {
            last += CLOCK_INTERVAL;
            self.packets.write_clock(out, last, false);
        }
        self.last_pcr = Some(last);
    }

    fn declare(&mut self) {
        let audio = self.audio.as_ref().map(|audio| audio.frames.stream());
        self.packets.declare(self.video.as_ref().map(|video| video.codec), audio.as_ref());
    }
}

const VIDEO_STREAM_ID: u8 = 0xe0;
const TICKS_PER_MS: i64 = 90;
/// Where a stream's line begins: as ffmpeg has it, so that the clock, and a decoding time that is moved ahead, stay above zero.
const BASE: i64 = 126_000;
/// 0.7 s, as ffmpeg and nginx-rtmp have it: how much a decoder may buffer.
const CLOCK_DELAY: i64 = 63_000;
const MAX_CLOCK_DELAY: i64 = 10 * 90_000;
/// What is left between the clock and audio that comes late.
const CLOCK_MARGIN: i64 = 18_000;
/// ISO/IEC 13818-1, 2.7.2: at least every 100 ms.
const CLOCK_INTERVAL: i64 = 9_000;
const MAX_CLOCK_GAP: i64 = 10 * 90_000;
/// The largest negative composition time that is believed.
const MAX_LEAD: i64 = 10 * 90_000;
/// What an audio PES packet may hold: its length has 16 bits.
const MAX_AUDIO_BYTES: usize = 65_000;
const MAX_JITTER: i64 = 2 * TICKS_PER_MS;
