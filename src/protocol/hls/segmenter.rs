//! Cuts a stream into segments of MPEG-TS.

use bytes::Bytes;
use smallvec::SmallVec;

use super::rules::{Slicing, TsHlsRules};
use crate::media::packet::Track;
use crate::protocol::flv::sample::{self, MuxInput, Sample};
use crate::protocol::ts::access_unit::Entry;
use crate::protocol::ts::{TsMuxer, TsRules};

/// Takes what a stream carries and gives back each segment when it is whole. Where it cuts is what nginx-rtmp's directives say, but for
/// what its users complain of: segments end where the next one begins, whatever the audio does, and a jump makes one discontinuity.
#[derive(Debug)]
pub struct TsSegmenter {
    cut: CutRules,
    muxer: TsMuxer,
    open: Option<Open>,
    /// Audio that waits for more, to go into one packet with it.
    audio: Vec<Sample>,
    audio_bytes: usize,
    /// The next segment does not go on from the one before.
    discontinuity: bool,
    /// Times of the latest frames on the stream's line, and the last distance between two.
    last_video: Option<Last>,
    last_audio: Option<Last>,
    /// The publisher has sent a picture that nothing before is needed for. From then on his keyframe flag alone is not believed.
    has_clean_entries: bool,
    /// After a jump: the next picture begins a segment, whatever it is.
    resumes: bool,
    /// When waiting for the first entry began.
    waiting_since_ms: Option<i64>,
    /// What the last segment weighed: room for the next.
    last_bytes: usize,
}

/// A segment that is whole.
#[derive(Clone, PartialEq, Debug)]
pub struct Segment {
    pub bytes: Bytes,
    /// From its first frame to the first of the next.
    pub duration_ms: u64,
    /// The time of its first frame on the stream's line.
    pub start_ms: i64,
    /// The wall clock when that came.
    pub wall_ms: i64,
    /// It does not go on from the one before.
    pub discontinuity: bool,
    /// Decoding can start with it.
    pub independent: bool,
    /// It ended because it was too long or too large, and not where it should have.
    pub forced: bool,
}

#[derive(Debug)]
struct Open {
    out: Vec<u8>,
    start_ms: i64,
    wall_ms: i64,
    discontinuity: bool,
    independent: bool,
}

#[derive(Clone, Copy, Debug)]
struct CutRules {
    fragment_ms: i64,
    max_fragment_ms: i64,
    slicing: Slicing,
    max_audio_delay_ms: i64,
    audio_buffer_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    dts_ms: i64,
    frame_ms: i64,
}

/// What to do before a frame is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Append,
    /// The frame begins the next segment.
    Cut {
        forced: bool,
    },
    /// The same, and it does not go on.
    Break,
}

impl TsSegmenter {
    pub fn new(rules: &TsHlsRules) -> Self {
        let ms = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let fragment_ms = ms(rules.fragment_ms).max(1);
        Self {
            cut: CutRules {
                fragment_ms,
                max_fragment_ms: ms(rules.max_fragment_ms).max(fragment_ms),
                slicing: rules.slicing,
                max_audio_delay_ms: ms(rules.max_audio_delay_ms),
                audio_buffer_bytes: rules.audio_buffer_bytes,
            },
            muxer: TsMuxer::new(TsRules { audio_sync_ms: rules.sync_ms }),
            open: None,
            audio: Vec::new(),
            audio_bytes: 0,
            discontinuity: true,
            last_video: None,
            last_audio: None,
            has_clean_entries: false,
            resumes: false,
            waiting_since_ms: None,
            last_bytes: 0,
        }
    }

    /// What comes next. `wall_ms` is the wall clock, in milliseconds since 1970. Gives back what became whole: nothing, or a segment.
    pub fn push(&mut self, input: MuxInput, wall_ms: i64) -> SmallVec<[Segment; 1]> {
        let mut whole = SmallVec::new();
        match input {
            MuxInput::VideoConfig { .. } | MuxInput::AudioConfig { .. } => whole.extend(self.configure(&input)),
            MuxInput::Sample(sample) if sample.track == Track::Audio => self.push_audio(sample, wall_ms, &mut whole),
            MuxInput::Sample(sample) => self.push_video(&sample, wall_ms, &mut whole),
            MuxInput::Other => {}
        }
        whole
    }

    /// Another publisher begins, or frames were lost: what is open ends here, and what comes does not go on from it.
    pub fn restart(&mut self) -> Option<Segment> {
        let last = self.finish();
        self.discontinuity = true;
        self.muxer.restart();
        last
    }

    /// The publisher has left. What is open is the last segment, or nothing.
    pub fn finish(&mut self) -> Option<Segment> {
        self.flush_audio(i64::MAX);
        let last = self.close(None, false);
        (self.last_video, self.last_audio, self.waiting_since_ms, self.has_clean_entries) = (None, None, None, false);
        self.resumes = false;
        self.audio.clear();
        self.audio_bytes = 0;
        last
    }

    /// How much of the segment in the making there is: bytes in memory.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.out.len()) + self.audio_bytes
    }

    fn configure(&mut self, config: &MuxInput) -> Option<Segment> {
        // What was collected belongs to the old configuration.
        self.flush_audio(i64::MAX);
        if !self.muxer.configure(config) || self.open.is_none() {
            return None;
        }
        // RFC 8216, 4.3.2.3: another codec or number of tracks must be a discontinuity, other parameters should.
        let last = self.close(None, false);
        self.discontinuity = true;
        self.muxer.discontinuity();
        last
    }

    fn push_video(&mut self, sample: &Sample, wall_ms: i64, whole: &mut SmallVec<[Segment; 1]>) {
        if !self.muxer.accepts(sample) {
            return;
        }
        let entry = self.muxer.entry(sample);
        self.has_clean_entries |= entry == Entry::Clean;
        let enters = entry >= Entry::Recovery || entry == Entry::Claimed && !self.has_clean_entries;
        let verdict = self.judge(sample.dts_ms, self.last_video, enters);
        let previous = self.last_video.replace(Last::after(self.last_video, sample.dts_ms, VIDEO_FRAME_MS));
        match verdict {
            Verdict::Append => self.flush_late_audio(sample.dts_ms),
            Verdict::Cut { forced } => {
                self.flush_audio(sample.dts_ms);
                whole.extend(self.close(Some(sample.dts_ms), forced));
            }
            Verdict::Break => {
                self.flush_audio(i64::MAX);
                self.last_video = previous;
                whole.extend(self.close(None, false));
                self.last_video = Some(Last { dts_ms: sample.dts_ms, frame_ms: VIDEO_FRAME_MS });
                self.discontinuity = true;
                self.muxer.discontinuity();
            }
        }
        if self.open.is_none() {
            let is_continued = self.resumes || verdict != Verdict::Append;
            let since_ms = *self.waiting_since_ms.get_or_insert(sample.dts_ms);
            let waited = sample.dts_ms.saturating_sub(since_ms) >= self.cut.max_wait_ms();
            if !enters && !is_continued && !waited {
                return;
            }
            self.begin(sample.dts_ms, wall_ms, entry == Entry::Clean);
        }
        if let Some(open) = &mut self.open {
            self.muxer.write_video(sample, &mut open.out);
        }
    }

    fn push_audio(&mut self, sample: Sample, wall_ms: i64, whole: &mut SmallVec<[Segment; 1]>) {
        if !self.muxer.accepts(&sample) {
            // MP3 and AC-3 announce themselves by coming.
            let Some(config) = sample::audio_config(&sample) else { return };
            whole.extend(self.configure(&config));
        }
        if !self.muxer.accepts(&sample) {
            return;
        }
        if self.open.is_none() {
            self.waiting_since_ms.get_or_insert(sample.dts_ms);
        }
        let has_picture = self.has_picture(sample.dts_ms);
        let verdict = match self.judge(sample.dts_ms, self.last_audio, !has_picture) {
            // The picture decides where to cut, for as long as there is one.
            Verdict::Cut { .. } if has_picture => Verdict::Append,
            verdict => verdict,
        };
        match verdict {
            Verdict::Append => {}
            Verdict::Cut { forced } => {
                self.flush_audio(i64::MAX);
                whole.extend(self.close(Some(sample.dts_ms), forced));
            }
            Verdict::Break => {
                self.flush_audio(i64::MAX);
                whole.extend(self.close(None, false));
                self.discontinuity = true;
                self.muxer.discontinuity();
                (self.last_audio, self.last_video) = (None, None);
                (self.waiting_since_ms, self.resumes) = (Some(sample.dts_ms), true);
            }
        }
        let has_picture = self.has_picture(sample.dts_ms);
        self.last_audio = Some(Last::after(self.last_audio, sample.dts_ms, AUDIO_FRAME_MS));
        let goes_on = matches!(verdict, Verdict::Cut { .. });
        if self.open.is_none() && (goes_on || !has_picture) {
            self.begin(sample.dts_ms, wall_ms, true);
        }
        self.audio_bytes += sample.data.len();
        let is_full = self.audio_bytes >= self.cut.audio_buffer_bytes;
        let now_ms = sample.dts_ms;
        self.audio.push(sample);
        if self.open.is_none() {
            // Nothing to write it to before the first keyframe. What is too old by then would only be heard without a picture.
            self.drop_audio_before(now_ms.saturating_sub(self.cut.max_audio_delay_ms.max(MIN_KEPT_AUDIO_MS)));
            return;
        }
        // Alone it need not wait for a picture.
        let delay_ms = if has_picture { self.cut.max_audio_delay_ms } else { self.cut.max_audio_delay_ms / 2 };
        let first_ms = self.audio.first().map_or(now_ms, |first| first.dts_ms);
        if is_full || now_ms.saturating_sub(first_ms) >= delay_ms {
            self.flush_audio(i64::MAX);
        }
    }

    /// `enters`: a segment may begin with this frame.
    fn judge(&self, dts_ms: i64, last: Option<Last>, enters: bool) -> Verdict {
        let latest = self.last_video.map(|last| last.dts_ms).max(self.last_audio.map(|last| last.dts_ms));
        let (Some(open), Some(latest_ms)) = (&self.open, latest) else {
            return Verdict::Append;
        };
        let step_ms = dts_ms.saturating_sub(latest_ms);
        let back_ms = last.map_or(0, |last| last.dts_ms.saturating_sub(dts_ms));
        // Nothing for longer than a segment is a hole, which the playlist must not count as media.
        if step_ms > self.cut.fragment_ms.max(MIN_JUMP_MS) || back_ms > MAX_LATE_MS {
            return Verdict::Break;
        }
        let long_ms = dts_ms.saturating_sub(open.start_ms);
        let is_due = match self.cut.slicing {
            Slicing::Plain => long_ms >= self.cut.fragment_ms,
            Slicing::Aligned => {
                dts_ms.div_euclid(self.cut.fragment_ms) != open.start_ms.div_euclid(self.cut.fragment_ms)
            }
        };
        if enters && is_due && long_ms > 0 {
            return Verdict::Cut { forced: false };
        }
        // Written, the frame would be shown beyond the maximum, which a playlist may have promised.
        let end_ms = long_ms.saturating_add(last.map_or(0, |last| last.frame_ms));
        let is_too_much = end_ms > self.cut.max_fragment_ms || open.out.len() >= MAX_SEGMENT_BYTES;
        if is_too_much && long_ms > 0 { Verdict::Cut { forced: true } } else { Verdict::Append }
    }

    /// Whether there is a picture that decides: it is configured, and comes.
    fn has_picture(&self, now_ms: i64) -> bool {
        if !self.muxer.has_video() {
            return false;
        }
        let since_ms = match (self.last_video, &self.open) {
            (Some(last), _) => last.dts_ms,
            // None yet: it is waited for.
            (None, Some(open)) => open.start_ms,
            (None, None) => self.waiting_since_ms.unwrap_or(now_ms),
        };
        now_ms.saturating_sub(since_ms) < self.cut.max_wait_ms()
    }

    fn begin(&mut self, start_ms: i64, wall_ms: i64, independent: bool) {
        let mut out = Vec::with_capacity(self.last_bytes.saturating_add(self.last_bytes / 8).min(MAX_SEGMENT_BYTES));
        self.muxer.write_tables(&mut out);
        let discontinuity = std::mem::take(&mut self.discontinuity);
        self.open = Some(Open { out, start_ms, wall_ms, discontinuity, independent });
        (self.waiting_since_ms, self.resumes) = (None, false);
        self.drop_audio_before(start_ms.saturating_sub(MIN_KEPT_AUDIO_MS));
    }

    /// Ends what is open. `next_ms`: where the next segment begins; without one it ends with its last frame.
    fn close(&mut self, next_ms: Option<i64>, forced: bool) -> Option<Segment> {
        let Open { mut out, start_ms, wall_ms, discontinuity, independent } = self.open.take()?;
        let end_ms = next_ms.unwrap_or_else(|| {
            let end = |last: Option<Last>| last.map(|last| last.dts_ms.saturating_add(last.frame_ms));
            // What is longer is heard or seen alone to its end.
            end(self.last_video).max(end(self.last_audio)).unwrap_or(start_ms)
        });
        self.last_bytes = out.len();
        // Some keep it for as long as it is listed: room that was not needed goes back.
        if out.capacity() - out.len() > out.len() / 4 {
            out.shrink_to_fit();
        }
        let duration_ms = u64::try_from(end_ms.saturating_sub(start_ms)).unwrap_or(0).max(1);
        Some(Segment { bytes: Bytes::from(out), duration_ms, start_ms, wall_ms, discontinuity, independent, forced })
    }

    fn flush_late_audio(&mut self, now_ms: i64) {
        let first = self.audio.first().map(|first| first.dts_ms);
        if first.is_some_and(|first_ms| now_ms.saturating_sub(first_ms) >= self.cut.max_audio_delay_ms) {
            self.flush_audio(i64::MAX);
        }
    }

    /// Writes the audio that waits into the open segment, up to a time: what is later belongs to the next one.
    fn flush_audio(&mut self, before_ms: i64) {
        let Some(open) = &mut self.open else { return };
        let count = self.audio.iter().take_while(|sample| sample.dts_ms < before_ms).count();
        self.muxer.write_audio(self.audio.get(..count).unwrap_or_default(), &mut open.out);
        self.audio.drain(..count);
        self.audio_bytes = self.audio.iter().map(|sample| sample.data.len()).sum();
    }

    fn drop_audio_before(&mut self, time_ms: i64) {
        self.audio.retain(|sample| sample.dts_ms >= time_ms);
        self.audio_bytes = self.audio.iter().map(|sample| sample.data.len()).sum();
    }
}

impl CutRules {
    /// How long a segment waits for the picture, or for a keyframe, before it does without.
    fn max_wait_ms(&self) -> i64 {
        self.fragment_ms.max(MIN_JUMP_MS)
    }
}

impl Last {
    fn after(last: Option<Self>, dts_ms: i64, usual_ms: i64) -> Self {
        let frame_ms =
            last.map(|last| dts_ms.saturating_sub(last.dts_ms)).filter(|step| (1..=MAX_FRAME_MS).contains(step));
        Self { dts_ms, frame_ms: frame_ms.or(last.map(|last| last.frame_ms)).unwrap_or(usual_ms) }
    }
}

/// 25 frames a second, and 1024 samples at 44.1 kHz: until a publisher shows his own.
const VIDEO_FRAME_MS: i64 = 40;
const AUDIO_FRAME_MS: i64 = 23;
/// No frame is believed to be shown for longer.
const MAX_FRAME_MS: i64 = 2_000;
/// A stream of one frame a second is a stream.
const MIN_JUMP_MS: i64 = 2_000;
/// nginx-rtmp's measure: a step back by more is a jump.
const MAX_LATE_MS: i64 = 1_000;
/// Audio that belongs to the first picture, from before it: players start both together.
const MIN_KEPT_AUDIO_MS: i64 = 100;
/// A minute of 8 Mbit/s. Whoever sends more gets shorter segments, and not our memory.
const MAX_SEGMENT_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::{AudioCodec, VideoCodec};
    use crate::protocol::ts::oracle::{self, AUDIO, Oracle, Seen, VIDEO, aac, avc, frame_of};

    /// A stream made for a test: what is pushed, and what came of it.
    struct Stream {
        segmenter: TsSegmenter,
        segments: Vec<Segment>,
        sound_ms: i64,
    }

    impl Stream {
        fn new(rules: &TsHlsRules, configs: &[MuxInput]) -> Self {
            let mut stream = Self { segmenter: TsSegmenter::new(rules), segments: Vec::new(), sound_ms: 0 };
            for config in configs {
                stream.push(config.clone());
            }
            stream
        }

        fn push(&mut self, input: MuxInput) {
            self.segments.extend(self.segmenter.push(input, 1_700_000_000_000));
        }

        fn picture(&mut self, time_ms: i64, key: bool) {
            self.push(MuxInput::Sample(oracle::video_frame(time_ms, 0, key, 40)));
        }

        fn sound(&mut self, time_ms: i64) {
            self.push(MuxInput::Sample(oracle::audio_frame(AudioCodec::Aac, time_ms, &[0x21; 20])));
        }

        /// 25 frames a second from `from_ms` on, with a keyframe every `gop_ms`, and the audio that belongs to them.
        fn play(mut self, from_ms: i64, to_ms: i64, gop_ms: i64) -> Self {
            self.sound_ms = self.sound_ms.max(from_ms);
            for time_ms in (from_ms..to_ms).step_by(40) {
                if self.segmenter.muxer.has_video() {
                    self.picture(time_ms, (time_ms - from_ms) % gop_ms == 0);
                }
                while self.segmenter.muxer.has_audio() && self.sound_ms < time_ms + 40 {
                    self.sound(self.sound_ms);
                    self.sound_ms += 20;
                }
            }
            self
        }

        fn end(mut self) -> Vec<Segment> {
            self.segments.extend(self.segmenter.finish());
            // Whatever the case: each segment stands by itself, and counters go on.
            let mut oracle = Oracle::default();
            for segment in &self.segments {
                oracle.read(&segment.bytes);
            }
            self.segments
        }
    }

    fn rules(fragment_ms: u64) -> TsHlsRules {
        TsHlsRules { fragment_ms, max_fragment_ms: fragment_ms * 10, ..TsHlsRules::default() }
    }

    fn durations(segments: &[Segment]) -> Vec<u64> {
        segments.iter().map(|segment| segment.duration_ms).collect()
    }

    fn discontinuities(segments: &[Segment]) -> Vec<bool> {
        segments.iter().map(|segment| segment.discontinuity).collect()
    }

    fn read(segment: &Segment) -> Seen {
        Oracle::default().read(&segment.bytes)
    }

    #[test]
    fn a_segment_ends_with_the_first_keyframe_after_the_fragment() {
        let segments = Stream::new(&rules(5_000), &[avc(), aac()]).play(0, 20_000, 2_000).end();
        assert_eq!(durations(&segments), [6_000, 6_000, 6_000, 2_000]);
        assert!(segments.iter().all(|segment| segment.independent && !segment.forced));
        assert_eq!(discontinuities(&segments), [true, false, false, false]);
        assert_eq!(segments[1].start_ms, 6_000);
        assert!(segments.iter().all(|segment| read(segment).pes_of(VIDEO)[0].random_access));
    }

    #[test]
    fn a_gop_longer_than_the_fragment_makes_a_longer_segment() {
        let segments = Stream::new(&rules(5_000), &[avc(), aac()]).play(0, 65_000, 30_000).end();
        assert_eq!(durations(&segments), [30_000, 30_000, 5_000]);
    }

    #[test]
    fn a_keyframe_each_frame_makes_segments_of_the_fragment() {
        let segments = Stream::new(&rules(2_000), &[avc(), aac()]).play(0, 6_000, 40).end();
        assert_eq!(durations(&segments), [2_000, 2_000, 2_000]);
    }

    #[test]
    fn without_another_keyframe_a_segment_ends_at_the_maximum() {
        let segments = Stream::new(&rules(1_000), &[avc(), aac()]).play(0, 25_000, 1_000_000).end();
        assert_eq!(durations(&segments), [10_000, 10_000, 5_000]);
        let flags: Vec<_> = segments.iter().map(|s| (s.forced, s.independent, s.discontinuity)).collect();
        assert_eq!(flags, [(true, true, true), (true, false, false), (false, false, false)]);
    }

    #[test]
    fn a_keyframe_flag_without_an_idr_cuts_only_where_there_are_no_idrs() {
        let claimed = |time_ms| MuxInput::Sample(frame_of(time_ms, 0, true, &[b"\x41\x9a\x01"]));
        let mut stream = Stream::new(&rules(1_000), &[avc()]);
        for time_ms in (0..4_000).step_by(40) {
            stream.push(claimed(time_ms));
        }
        let segments = stream.end();
        assert_eq!(durations(&segments), [1_000; 4]);
        assert!(segments.iter().all(|segment| !segment.independent));

        let mut stream = Stream::new(&rules(1_000), &[avc()]);
        for time_ms in (0..4_000).step_by(40) {
            if time_ms % 2_000 == 0 { stream.picture(time_ms, true) } else { stream.push(claimed(time_ms)) }
        }
        assert_eq!(durations(&stream.end()), [2_000, 2_000]);
    }

    #[test]
    fn audio_alone_is_cut_by_time() {
        let segments = Stream::new(&rules(5_000), &[aac()]).play(0, 12_000, 1).end();
        assert_eq!(durations(&segments), [5_000, 5_000, 2_000]);
        assert_eq!(read(&segments[1]).streams.len(), 1);
    }

    #[test]
    fn a_picture_that_never_comes_does_not_hold_up_the_sound() {
        let mut stream = Stream::new(&rules(2_000), &[avc(), aac()]);
        for time_ms in (0..10_000).step_by(20) {
            stream.sound(time_ms);
        }
        let segments = stream.end();
        assert!(segments.len() >= 4, "{:?}", durations(&segments));
        assert!(durations(&segments).iter().all(|duration| *duration <= 2_000));
    }

    #[test]
    fn a_picture_that_stops_leaves_the_cuts_to_the_sound() {
        let mut stream = Stream::new(&rules(2_000), &[avc(), aac()]).play(0, 4_000, 2_000);
        for time_ms in (4_000..12_000).step_by(20) {
            stream.sound(time_ms);
        }
        let segments = stream.end();
        assert_eq!(segments.iter().map(|segment| segment.duration_ms).sum::<u64>(), 12_000);
        assert!(durations(&segments).iter().all(|duration| *duration <= 4_000), "{:?}", durations(&segments));
    }

    #[test]
    fn nothing_is_written_before_the_first_keyframe() {
        let mut stream = Stream::new(&rules(2_000), &[avc(), aac()]);
        for time_ms in (0..1_000).step_by(40) {
            stream.picture(time_ms, false);
            stream.sound(time_ms);
            stream.sound(time_ms + 20);
        }
        let segments = stream.play(1_000, 5_000, 1_000).end();
        assert_eq!((segments[0].start_ms, segments[0].duration_ms), (1_000, 2_000));
        let audio = read(&segments[0]).pes_of(AUDIO)[0].pts;
        assert!(audio >= 126_000 + 900 * 90, "the sound of what is not shown is dropped: {audio}");
    }

    #[test]
    fn no_audio_crosses_a_cut() {
        let segments = Stream::new(&rules(1_000), &[avc(), aac()]).play(0, 5_000, 1_000).end();
        for segment in &segments {
            let (start, end) = (segment.start_ms * 90, (segment.start_ms + segment.duration_ms as i64) * 90);
            for pes in read(segment).pes_of(AUDIO) {
                let pts = pes.pts as i64 - 126_000;
                let frames = pes.data.len() as i64 / 27;
                assert!(pts >= start - 180 && pts + (frames - 1) * 2_090 < end, "{start} {pts} {frames} {end}");
            }
        }
        assert_eq!(segments.iter().map(|s| read(s).pes_of(VIDEO).len()).sum::<usize>(), 125);
    }

    #[test]
    fn audio_waits_no_longer_than_configured() {
        let rules = TsHlsRules { max_audio_delay_ms: 100, ..rules(10_000) };
        let segments = Stream::new(&rules, &[avc(), aac()]).play(0, 5_000, 1_000).end();
        let seen = read(&segments[0]);
        assert!(seen.pes_of(AUDIO).iter().all(|pes| pes.data.len() <= 7 * 27));
        assert!(seen.pes_of(AUDIO).len() >= 36);
    }

    #[test]
    fn a_publisher_who_comes_back_makes_one_discontinuity() {
        let mut stream = Stream::new(&rules(2_000), &[avc(), aac()]).play(0, 5_000, 1_000);
        let last = stream.segmenter.finish();
        stream.segments.extend(last);
        assert_eq!(stream.segmenter.restart(), None);
        stream.push(avc());
        stream.push(aac());
        let segments = stream.play(5_040, 10_040, 1_000).end();
        assert_eq!(discontinuities(&segments), [true, false, false, true, false, false]);
        assert_eq!(durations(&segments), [2_000, 2_000, 1_000, 2_000, 2_000, 1_000]);
    }

    #[test]
    fn other_parameters_make_a_discontinuity_and_the_same_again_do_not() {
        let mut stream = Stream::new(&rules(2_000), &[avc(), aac()]).play(0, 4_000, 1_000);
        stream.push(avc());
        stream.push(aac());
        let mut stream = stream.play(4_000, 5_000, 1_000);
        let record: Vec<u8> = oracle::AVC_RECORD.iter().map(|byte| if *byte == 0xac { 0xad } else { *byte }).collect();
        stream.push(MuxInput::VideoConfig { codec: VideoCodec::Avc, record: record.into(), info: None });
        let segments = stream.play(5_000, 8_000, 1_000).end();
        assert_eq!(discontinuities(&segments), [true, false, false, true, false]);
        assert_eq!(durations(&segments), [2_000, 2_000, 1_000, 2_000, 1_000]);
        assert_eq!(read(&segments[3]).streams.len(), 2, "both tracks go on");
    }

    #[test]
    fn a_picture_that_comes_late_begins_another_segment() {
        let mut stream = Stream::new(&rules(2_000), &[aac()]).play(0, 3_000, 1);
        stream.push(avc());
        let segments = stream.play(3_000, 7_000, 1_000).end();
        assert_eq!(discontinuities(&segments), [true, false, true, false]);
        assert_eq!(segments.iter().map(|s| read(s).streams.len()).collect::<Vec<_>>(), [1, 1, 2, 2]);
    }

    #[test]
    fn a_hole_is_a_discontinuity_and_no_media() {
        let segments =
            Stream::new(&rules(2_000), &[avc(), aac()]).play(0, 3_000, 1_000).play(60_000, 62_500, 1_000).end();
        assert_eq!(discontinuities(&segments), [true, false, true, false]);
        assert_eq!(durations(&segments), [2_000, 1_000, 2_000, 520]);
        assert_eq!(segments[2].start_ms, 60_000);
    }

    #[test]
    fn aligned_segments_end_at_multiples_of_the_fragment() {
        let rules = TsHlsRules { slicing: Slicing::Aligned, ..rules(5_000) };
        let early = Stream::new(&rules, &[avc(), aac()]).play(0, 20_000, 1_000).end();
        let late = Stream::new(&rules, &[avc(), aac()]).play(3_000, 20_000, 1_000).end();
        let starts = |segments: &[Segment]| segments.iter().map(|segment| segment.start_ms).collect::<Vec<_>>();
        assert_eq!(starts(&early), [0, 5_000, 10_000, 15_000]);
        assert_eq!(starts(&late), [3_000, 5_000, 10_000, 15_000]);
    }

    #[test]
    fn audio_only_with_mp3_announces_itself() {
        let mut stream = Stream::new(&rules(2_000), &[]);
        for time_ms in (0..5_000).step_by(26) {
            stream.push(MuxInput::Sample(oracle::audio_frame(AudioCodec::Mp3, time_ms, b"\xff\xfb\x90\x64 sound")));
        }
        assert_eq!(stream.end().len(), 3);
    }

    #[test]
    fn a_stream_without_media_makes_no_segment() {
        assert!(Stream::new(&rules(2_000), &[]).play(0, 5_000, 1_000).end().is_empty());
        assert!(Stream::new(&rules(2_000), &[avc(), aac()]).end().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_rhythm_no_frame_is_lost_and_segments_follow_each_other(
            steps in prop::collection::vec((1_i64..500, any::<bool>(), any::<bool>()), 1..200),
            aligned: bool,
        ) {
            let slicing = if aligned { Slicing::Aligned } else { Slicing::Plain };
            let mut stream = Stream::new(&TsHlsRules { slicing, ..rules(1_000) }, &[avc(), aac()]);
            let (mut time_ms, mut pictures, mut sounds) = (0, 1, 0);
            stream.picture(0, true);
            for (step, is_picture, key) in steps {
                time_ms += step;
                if is_picture {
                    stream.picture(time_ms, key);
                    pictures += 1;
                } else {
                    stream.sound(time_ms);
                    sounds += 1;
                }
            }
            let segments = stream.end();
            let (mut shown, mut heard) = (0, 0);
            let mut oracle = Oracle::default();
            for segment in &segments {
                let seen = oracle.read(&segment.bytes);
                shown += seen.pes_of(VIDEO).len();
                heard += seen.pes_of(AUDIO).iter().map(|pes| pes.data.len() / 27).sum::<usize>();
                prop_assert!(segment.duration_ms <= 10_500);
            }
            prop_assert_eq!((shown, heard), (pictures, sounds));
            for two in segments.windows(2) {
                if !two[1].discontinuity {
                    prop_assert_eq!(two[0].start_ms + two[0].duration_ms as i64, two[1].start_ms);
                }
            }
        }

        #[test]
        fn no_times_panic(times in prop::collection::vec((any::<i64>(), 0_u8..6), 0..50)) {
            let mut stream = Stream::new(&rules(1_000), &[]);
            for (time_ms, what) in times {
                match what {
                    0 => stream.push(avc()),
                    1 => stream.push(aac()),
                    2 => stream.picture(time_ms, true),
                    3 => stream.picture(time_ms, false),
                    4 => stream.sound(time_ms),
                    _ => drop(stream.segmenter.restart()),
                }
            }
            let _ = stream.segmenter.finish();
        }
    }
}
