//! The muxer: samples of a stream in, packets of MPEG-TS out.

use super::access_unit::{AccessUnits, Entry};
use super::audio::{AudioClock, AudioFrames, ticks};
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
        let told = BASE + ticks(sample.dts_ms);
        let pts = told + ticks(sample.cts_ms.into());
        self.lead = self.lead.max(told - pts).min(MAX_LEAD);
        let mut dts = told - self.lead;
        if let Some(last) = self.last_video_dts {
            dts = dts.max(last + 1);
        }
        self.last_video_dts = Some(dts);
        (pts.max(dts), dts)
    }

    /// The clock for a packet whose content is decoded at `dts`; `None` where it would stand still or go back. Clock packets
    /// before it close a gap that is too long for one.
    fn clock_before(&mut self, dts: i64, out: &mut Vec<u8>) -> Option<i64> {
        let pcr = dts - self.clock_delay;
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
        let now = dts - self.clock_delay;
        // Beyond this nothing was missed: the stream itself stood still.
        if now - last > MAX_CLOCK_GAP {
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
const MAX_JITTER: i64 = 180;

#[cfg(test)]
mod tests {
    use mpeg2ts::es::StreamType;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ts::oracle::{self, AUDIO, Oracle, VIDEO, aac, audio_frame, avc, frame_of, video_frame};

    fn muxer(configs: &[MuxInput]) -> TsMuxer {
        let mut muxer = TsMuxer::new(TsRules::default());
        for config in configs {
            assert!(muxer.configure(config));
        }
        muxer
    }

    /// Tables and what `write` writes, read back.
    #[track_caller]
    fn written(muxer: &mut TsMuxer, write: impl FnOnce(&mut TsMuxer, &mut Vec<u8>)) -> oracle::Seen {
        let mut out = Vec::new();
        muxer.write_tables(&mut out);
        write(muxer, &mut out);
        Oracle::default().read(&out)
    }

    fn aac_frames(first_ms: i64, count: i64) -> Vec<Sample> {
        (0..count).map(|at| audio_frame(AudioCodec::Aac, first_ms + at * 1_024_000 / 44_100, &[0x21; 300])).collect()
    }

    #[test]
    fn the_tables_declare_what_is_there_and_nothing_else() {
        let streams =
            |configs: &[MuxInput]| written(&mut muxer(configs), |_, _| {}).streams.into_iter().collect::<Vec<_>>();
        assert_eq!(streams(&[avc()]), [(VIDEO, StreamType::H264)]);
        assert_eq!(streams(&[aac()]), [(AUDIO, StreamType::AdtsAac)]);
        assert_eq!(streams(&[avc(), aac()]), [(VIDEO, StreamType::H264), (AUDIO, StreamType::AdtsAac)]);
        assert_eq!(streams(&[]), []);
    }

    #[test]
    fn each_codec_is_called_what_players_call_it() {
        use StreamType::{
            DolbyDigitalPlusUpTo16ChannelAudioForAtsc, DolbyDigitalUpToSixChannelAudio, H265, Mpeg1Audio,
            Mpeg2HalvedSampleRateAudio, Mpeg2PacketizedData,
        };
        let check = |config: MuxInput, kind, descriptors: &[(u8, &[u8])]| {
            let seen = written(&mut muxer(&[config]), |_, _| {});
            assert_eq!(seen.streams.values().copied().collect::<Vec<_>>(), [kind]);
            let has: Vec<(u8, &[u8])> = seen.descriptors.iter().map(|(tag, data)| (*tag, &data[..])).collect();
            assert_eq!(has, descriptors);
        };
        let hevc = [&[1; 21][..], b"\x03\x00"].concat();
        check(
            MuxInput::VideoConfig { codec: VideoCodec::Hevc, record: hevc.into(), info: None },
            H265,
            &[(5, b"HEVC")],
        );
        check(oracle::audio(AudioCodec::Mp3, b"\xff\xfb\x90\x64"), Mpeg1Audio, &[]);
        check(oracle::audio(AudioCodec::Mp3, b"\xff\xf3\x90\xc4"), Mpeg2HalvedSampleRateAudio, &[]);
        let ac3 = b"\x0b\x77\x50\xb5\x1e\x40\xeb\xf8\x40\x3e\xff\x99";
        check(oracle::audio(AudioCodec::Ac3, ac3), DolbyDigitalUpToSixChannelAudio, &[(5, b"AC-3")]);
        let eac3 = b"\x0b\x77\x01\x7f\x34\x87\xc0\x00\x20\x84\x21\x08\x38";
        check(oracle::audio(AudioCodec::Eac3, eac3), DolbyDigitalPlusUpTo16ChannelAudioForAtsc, &[(5, b"EAC3")]);
        let opus = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
        check(oracle::audio(AudioCodec::Opus, opus), Mpeg2PacketizedData, &[(5, b"Opus"), (0x7f, &[0x80, 2])]);
    }

    #[test]
    fn the_version_of_the_tables_grows_only_when_they_change() {
        let mut muxer = muxer(&[avc()]);
        let version = |muxer: &mut TsMuxer| written(muxer, |_, _| {}).pmt_version;
        let first = version(&mut muxer);
        assert!(!muxer.configure(&avc()), "publishers repeat themselves");
        assert_eq!(version(&mut muxer), first);
        muxer.configure(&aac());
        assert_eq!(version(&mut muxer), first + 1);
    }

    #[test]
    fn other_parameter_sets_are_another_configuration_under_the_same_tables() {
        let mut muxer = muxer(&[avc()]);
        let before = written(&mut muxer, |_, _| {}).pmt_version;
        let record: Vec<u8> = oracle::AVC_RECORD.iter().map(|byte| if *byte == 0xac { 0xad } else { *byte }).collect();
        assert!(muxer.configure(&MuxInput::VideoConfig { codec: VideoCodec::Avc, record: record.into(), info: None }));
        assert_eq!(written(&mut muxer, |_, _| {}).pmt_version, before);
    }

    #[test]
    fn a_track_that_the_next_publisher_does_not_have_leaves_the_tables() {
        let mut muxer = muxer(&[avc(), aac()]);
        muxer.restart();
        assert!(!muxer.configure(&avc()));
        assert!(muxer.accepts(&video_frame(0, 0, true, 100)));
        let seen = written(&mut muxer, |_, _| {});
        assert_eq!(seen.streams.into_keys().collect::<Vec<_>>(), [VIDEO]);
    }

    #[test]
    fn after_a_loss_both_tracks_are_still_there() {
        let mut muxer = muxer(&[avc(), aac()]);
        muxer.restart();
        assert!(muxer.accepts(&video_frame(0, 0, true, 100)));
        assert_eq!(written(&mut muxer, |_, _| {}).streams.len(), 2);
    }

    #[test]
    fn counters_go_on_across_segments() {
        let mut muxer = muxer(&[avc(), aac()]);
        let mut oracle = Oracle::default();
        for segment in 0..20 {
            let mut out = Vec::new();
            muxer.write_tables(&mut out);
            for frame in 0..5 {
                let time_ms = segment * 200 + frame * 40;
                muxer.write_video(&video_frame(time_ms, 0, frame == 0, 1000), &mut out);
                muxer.write_audio(&aac_frames(time_ms, 2), &mut out);
            }
            oracle.read(&out);
        }
    }

    #[test]
    fn a_keyframe_is_where_one_can_enter_and_carries_the_clock() {
        let seen = written(&mut muxer(&[avc()]), |muxer, out| {
            muxer.write_video(&video_frame(0, 80, true, 500), out);
            muxer.write_video(&video_frame(40, 0, false, 500), out);
        });
        let video = seen.pes_of(VIDEO);
        assert_eq!((video[0].random_access, video[1].random_access), (true, false));
        assert_eq!((video[0].pts, video[0].dts), (126_000 + 7_200, Some(126_000)));
        assert_eq!((video[1].pts, video[1].dts), (126_000 + 3_600, None), "one time where both are the same");
        assert_eq!(seen.pcrs, [(63_000, 0), (66_600, 1)]);
    }

    #[test]
    fn a_frame_too_long_for_a_length_leaves_it_open() {
        let seen = written(&mut muxer(&[avc()]), |muxer, out| {
            muxer.write_video(&video_frame(0, 0, true, 100_000), out);
            muxer.write_video(&video_frame(40, 0, false, 40_000), out);
        });
        assert_eq!(seen.pes_of(VIDEO)[0].length, 0);
        assert_eq!(seen.pes_of(VIDEO)[1].length, 8 + 6 + 4 + 40_001);
    }

    #[test]
    fn frames_of_every_length_come_back_whole() {
        let mut muxer = muxer(&[avc()]);
        for size in 0..600 {
            let seen = written(&mut muxer, |muxer, out| {
                muxer.write_video(&video_frame(size * 40, 0, false, size as usize), out)
            });
            let data = &seen.pes_of(VIDEO)[0].data;
            assert_eq!(data.len(), 6 + 4 + 1 + size as usize);
            assert!(data.ends_with(&vec![0x88; size as usize]));
        }
    }

    #[test]
    fn audio_frames_share_a_packet_until_there_is_a_gap() {
        let seen = written(&mut muxer(&[avc(), aac()]), |muxer, out| {
            let mut samples = aac_frames(0, 5);
            samples.extend(aac_frames(1_000, 5));
            muxer.write_audio(&samples, out);
        });
        let audio = seen.pes_of(AUDIO);
        assert_eq!(audio.iter().map(|pes| pes.pts).collect::<Vec<_>>(), [126_000, 126_000 + 90_000]);
        assert!(audio.iter().all(|pes| pes.data.len() == 5 * 307));
    }

    #[test]
    fn more_audio_than_a_length_can_say_is_split() {
        let samples: Vec<Sample> =
            (0..30).map(|at| audio_frame(AudioCodec::Aac, at * 1_024_000 / 44_100, &[1; 8000])).collect();
        let seen = written(&mut muxer(&[aac()]), |muxer, out| muxer.write_audio(&samples, out));
        assert!(seen.pes.len() > 3);
        assert_eq!(seen.pes.iter().map(|pes| pes.data.len()).sum::<usize>(), 30 * 8007);
    }

    #[test]
    fn audio_alone_carries_the_clock() {
        let seen = written(&mut muxer(&[aac()]), |muxer, out| {
            for start in 0..10 {
                muxer.write_audio(&aac_frames(start * 1_024_000 * 13 / 44_100, 13), out);
            }
        });
        assert_eq!(seen.pcr_pid, AUDIO);
        assert_clock(&seen);
    }

    #[test]
    fn a_picture_that_comes_seldom_still_has_a_clock() {
        let seen = written(&mut muxer(&[avc()]), |muxer, out| {
            for second in 0..10 {
                muxer.write_video(&video_frame(second * 1_000, 0, second % 5 == 0, 500), out);
            }
        });
        assert_clock(&seen);
    }

    #[test]
    fn a_picture_that_stops_leaves_the_clock_to_the_audio() {
        let seen = written(&mut muxer(&[avc(), aac()]), |muxer, out| {
            muxer.write_video(&video_frame(0, 0, true, 500), out);
            for at in 0..20 {
                muxer.write_audio(&aac_frames(at * 232, 10), out);
            }
        });
        assert!(seen.pcrs.len() > 40);
        assert_clock(&seen);
    }

    #[test]
    fn negative_composition_times_move_the_decoding_time_and_never_the_picture() {
        let seen = written(&mut muxer(&[avc()]), |muxer, out| {
            for (at, cts) in [-80, 40, -80, -40, 40, -80].into_iter().enumerate() {
                muxer.write_video(&video_frame(200 + at as i64 * 40, cts, at == 0, 50), out);
            }
        });
        let times: Vec<(u64, u64)> = seen.pes.iter().map(|pes| (pes.pts, pes.dts.unwrap_or(pes.pts))).collect();
        let pts: Vec<u64> = times.iter().map(|(pts, _)| (pts - 126_000) / 90).collect();
        assert_eq!(pts, [120, 280, 200, 280, 400, 320]);
        assert!(
            times.iter().all(|(pts, dts)| dts <= pts) && times.windows(2).all(|two| two[0].1 < two[1].1),
            "{times:?}"
        );
    }

    #[test]
    fn times_start_over_after_33_bits_without_a_word() {
        let wrap_ms = (1_i64 << 33) / 90 - 1_400;
        let seen = written(&mut muxer(&[avc(), aac()]), |muxer, out| {
            for at in 0..50 {
                let time_ms = wrap_ms - 1_000 + at * 40;
                muxer.write_video(&video_frame(time_ms, 80, at == 0, 100), out);
                muxer.write_audio(&aac_frames(time_ms, 2), out);
            }
        });
        let first = seen.pes_of(VIDEO).into_iter().map(|pes| pes.dts.unwrap_or(pes.pts)).collect::<Vec<_>>();
        assert!(first[0] > 1 << 32 && first[49] < 1 << 32);
        assert!(first.windows(2).all(|two| (two[1].wrapping_sub(two[0])) & ((1 << 33) - 1) == 3_600));
        assert_eq!(seen.discontinuities, 0);
        assert_clock(&seen);
    }

    #[test]
    fn a_discontinuity_is_marked_once_where_the_clock_is() {
        let mut muxer = muxer(&[avc()]);
        let mut oracle = Oracle::default();
        let mut read = |muxer: &mut TsMuxer, time_ms| {
            let mut out = Vec::new();
            muxer.write_tables(&mut out);
            muxer.write_video(&video_frame(time_ms, 0, true, 100), &mut out);
            muxer.write_video(&video_frame(time_ms + 40, 0, false, 100), &mut out);
            oracle.read(&out).discontinuities
        };
        assert_eq!(read(&mut muxer, 0), 0);
        muxer.discontinuity();
        assert_eq!(read(&mut muxer, 60_000), 1);
        assert_eq!(read(&mut muxer, 60_080), 0);
    }

    #[test]
    fn nothing_is_written_of_what_was_not_configured() {
        let mut out = Vec::new();
        let mut muxer = muxer(&[aac()]);
        muxer.write_video(&video_frame(0, 0, true, 100), &mut out);
        muxer.write_audio(&[audio_frame(AudioCodec::Mp3, 0, b"\xff\xfb\x90\x64")], &mut out);
        let mut absurd = MuxInput::AudioConfig { codec: AudioCodec::Flac, record: bytes::Bytes::new(), info: None };
        assert!(muxer.configure(&absurd), "the audio that was there is gone");
        absurd = MuxInput::VideoConfig { codec: VideoCodec::Av1, record: bytes::Bytes::new(), info: None };
        assert!(!muxer.configure(&absurd));
        muxer.write_audio(&aac_frames(0, 1), &mut out);
        assert!(out.is_empty());
    }

    /// ISO/IEC 13818-1, 2.7.2, and that nothing is to be decoded before its time has come.
    #[track_caller]
    fn assert_clock(seen: &oracle::Seen) {
        let modulo = |later: u64, earlier: u64| later.wrapping_sub(earlier) & ((1 << 33) - 1);
        for two in seen.pcrs.windows(2) {
            let step = modulo(two[1].0, two[0].0);
            assert!((1..=9_000).contains(&step), "{two:?}");
        }
        for (pcr, at) in &seen.pcrs {
            for pes in &seen.pes[*at..] {
                let ahead = modulo(pes.dts.unwrap_or(pes.pts), *pcr);
                assert!(ahead < 1 << 32, "clock {pcr}, then {pes:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_rhythm_the_rules_hold(
            steps in prop::collection::vec((1_i64..400, 0_i32..200, 1_usize..3_000, any::<bool>()), 1..60),
            audio_lag_ms in 0_i64..300,
        ) {
            let mut time_ms = 0;
            let mut audio_ms = 0;
            let mut oracle = Oracle::default();
            let mut muxer = muxer(&[avc(), aac()]);
            let mut out = Vec::new();
            muxer.write_tables(&mut out);
            for (step, cts, size, key) in steps {
                time_ms += step;
                muxer.write_video(&video_frame(time_ms, cts, key, size), &mut out);
                let mut samples = Vec::new();
                while audio_ms + audio_lag_ms < time_ms {
                    samples.push(audio_frame(AudioCodec::Aac, audio_ms, &[1; 200]));
                    audio_ms += 23;
                }
                muxer.write_audio(&samples, &mut out);
            }
            let seen = oracle.read(&out);
            assert_clock(&seen);
            let dts: Vec<u64> = seen.pes_of(VIDEO).iter().map(|pes| pes.dts.unwrap_or(pes.pts)).collect();
            prop_assert!(dts.windows(2).all(|two| two[0] < two[1]));
        }

        #[test]
        fn no_times_and_no_bytes_panic(
            frames in prop::collection::vec((any::<i64>(), any::<i32>(), any::<bool>(), any::<bool>(), any::<Vec<u8>>()), 0..20),
        ) {
            let mut muxer = muxer(&[avc(), aac()]);
            let mut out = Vec::new();
            for (time, cts, video, key, bytes) in frames {
                if video {
                    muxer.write_video(&Sample { cts_ms: cts, ..frame_of(time, 0, key, &[&bytes]) }, &mut out);
                } else {
                    muxer.write_audio(&[audio_frame(AudioCodec::Aac, time, &bytes)], &mut out);
                }
            }
            prop_assert_eq!(out.len() % 188, 0);
        }
    }
}
