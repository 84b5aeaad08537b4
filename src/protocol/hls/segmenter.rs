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
        if self.open.is_none() && !has_picture {
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
        let is_too_much = long_ms >= self.cut.max_fragment_ms || open.out.len() >= MAX_SEGMENT_BYTES;
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
        let Open { out, start_ms, wall_ms, discontinuity, independent } = self.open.take()?;
        let end_ms = next_ms.unwrap_or_else(|| {
            let end = |last: Option<Last>| last.map(|last| last.dts_ms.saturating_add(last.frame_ms));
            // What is longer is heard or seen alone to its end.
            end(self.last_video).max(end(self.last_audio)).unwrap_or(start_ms)
        });
        self.last_bytes = out.len();
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
