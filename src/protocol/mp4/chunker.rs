//! Cuts a stream into the parts and segments of CMAF, video and audio each for itself at the same times.

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use super::format::Format;
use super::fragment::{FragmentSample, Run, fragment};
use super::init::{InitTrack, init};
use super::source::{Gate, Tracks};
use super::track::{Dresser, Timed, TrackClock};
use crate::media::packet::Track;
use crate::protocol::flv::sample::{MuxInput, Sample};

/// Takes what a stream carries and gives what manifests list.
///
/// Video leads: a segment ends before the first frame at or after `fragment_ms` that decoding can start at, or, where no
/// such frame comes, before the frame that would make it longer than `max_segment_ms`. Audio follows: a sample belongs
/// to the segment in which it begins. So both renditions have the same segments, one perhaps a little later. Without
/// video, audio leads. A rendition that has nothing for a while still ends its segments with the other, and such a
/// segment has no parts: a gap.
///
/// Within a rendition times have no holes, except where a gap or a [`Chunk::Discontinuity`] is.
#[derive(Debug)]
pub struct Chunker {
    rules: ChunkRules,
    tracks: Tracks,
    /// What has come before it is known which tracks there are, and where to begin.
    gate: Option<Gate>,
    video: Option<Lane>,
    audio: Option<Lane>,
    /// Audio that is ahead of the video: where the next segment begins is not known yet.
    ahead: VecDeque<Sample>,
    /// Nothing has come of the video while six seconds of audio have: audio leads until it comes back.
    video_stalled: bool,
    /// A track has come that was not there at the beginning, or not any more: all begin anew at the next keyframe.
    has_newcomer: bool,
    /// Where the renditions began after the last discontinuity.
    start_ms: i64,
    /// What to add to the stream's time, so that the time written never goes back.
    shift_ms: i64,
    /// What to add to the time written to get the wall clock's.
    wall_offset_ms: i64,
    generation: u32,
    /// Segments that have begun, less one.
    number: u64,
    /// Where the current segment of the leading rendition began, in its ticks.
    segment_start: u64,
    out: Chunks,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkRules {
    /// The longest that a part may be: what a playlist names as PART-TARGET.
    pub part_ms: u32,
    /// How long a segment is at least, where keyframes allow it.
    pub fragment_ms: u32,
    /// How long a segment is at most: what a playlist names as TARGETDURATION.
    pub max_segment_ms: u32,
    /// Off: each segment is one part.
    pub low_latency: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rendition {
    Video,
    Audio,
}

/// What comes out, in the order in which it is to be listed.
#[derive(Clone, PartialEq, Debug)]
pub enum Chunk {
    /// What the parts of this rendition need from here on.
    Init {
        rendition: Rendition,
        bytes: Bytes,
        /// RFC 6381.
        codecs: String,
        /// 0 for audio, and where nothing tells.
        width: u32,
        height: u32,
        fps: Option<f32>,
        channels: Option<u8>,
        sample_rate: u32,
        timescale: u32,
        /// Grows whenever any rendition changes; never twice the same for different bytes of one rendition.
        generation: u32,
    },
    /// `moof` and `mdat`. The parts of a segment, one behind the other, are the segment.
    Part {
        rendition: Rendition,
        bytes: Bytes,
        /// In ticks, as `start`.
        duration: u64,
        timescale: u32,
        /// Decoding can start somewhere in it.
        independent: bool,
        /// The decoding time of its first sample.
        start: u64,
        /// When that was by the wall clock, in milliseconds; advances with media time up to the next discontinuity.
        wall_ms: i64,
    },
    /// The parts since the last one form a segment. Without any it is a gap.
    SegmentEnd {
        rendition: Rendition,
        /// Decoding can start at its first sample.
        independent: bool,
        /// From 0; the same for what both renditions have at the same time. A rendition that joins later begins later.
        number: u64,
        /// When it ended, in milliseconds of the stream: how long a gap was that has no parts to tell.
        end_ms: i64,
    },
    /// Of both renditions, between two segments: what follows is of another publisher, another codec, another time.
    Discontinuity,
}

pub type Chunks = SmallVec<[Chunk; 4]>;

impl Chunker {
    pub fn new(rules: ChunkRules) -> Self {
        Self {
            rules,
            tracks: Tracks::default(),
            gate: Some(Gate::default()),
            video: None,
            audio: None,
            ahead: VecDeque::new(),
            video_stalled: false,
            has_newcomer: false,
            start_ms: i64::MIN,
            shift_ms: 0,
            wall_offset_ms: 0,
            generation: 0,
            number: 0,
            segment_start: 0,
            out: Chunks::new(),
        }
    }

    /// Takes what came at `wall_ms` by the wall clock. For what comes out of a cache that is the time at which it would
    /// have come: earlier by as much as its own time is before that of the newest.
    pub fn push(&mut self, input: MuxInput, wall_ms: i64) -> Chunks {
        if self.tracks.configure(&input) {
            self.close_all();
        }
        if let MuxInput::Sample(sample) = input {
            self.push_sample(sample, wall_ms);
        }
        std::mem::take(&mut self.out)
    }

    /// Packets were lost: what is there is closed, and after a discontinuity it goes on at the next keyframe.
    pub fn gap(&mut self) -> Chunks {
        self.close_all();
        std::mem::take(&mut self.out)
    }

    /// The publisher has left. What it sent is closed; another one begins after a discontinuity, with its own
    /// configurations.
    pub fn end(&mut self) -> Chunks {
        self.close_all();
        self.tracks = Tracks::default();
        std::mem::take(&mut self.out)
    }

    fn push_sample(&mut self, sample: Sample, wall_ms: i64) {
        if self.tracks.learn(&sample) {
            self.close_all();
        }
        let Some(format) = self.tracks.format(sample.track).filter(|format| format.codec == sample.codec) else {
            return;
        };
        let dresser = || Dresser::new(format);
        if let Some(gate) = &mut self.gate {
            gate.push(sample, wall_ms, |sample| dresser().is_random_access(sample));
            if gate.is_open(&self.tracks) {
                self.begin();
            }
            return;
        }
        let shifted = Sample { dts_ms: sample.dts_ms.saturating_add(self.shift_ms), ..sample.clone() };
        let lane = if sample.track == Track::Video { &self.video } else { &self.audio };
        let is_known = lane.as_ref().is_some_and(|lane| lane.active);
        let is_stalled = self.video_stalled && sample.track == Track::Video;
        self.has_newcomer |= !is_known || is_stalled;
        // Without a picture under way nothing is lost by beginning at once.
        let may_begin = self.audio_leads() && sample.track == Track::Audio
            || sample.track == Track::Video && dresser().is_random_access(&sample);
        if self.has_newcomer && may_begin || is_known && !is_stalled && self.is_jump(&shifted) {
            self.close_all();
            return self.push_sample(sample, wall_ms);
        }
        if is_known && !is_stalled && shifted.dts_ms >= self.start_ms {
            self.take(shifted);
        }
    }

    /// The gate is open: its samples go where all others go.
    fn begin(&mut self) {
        let Some((samples, start)) = self.gate.take().and_then(Gate::into_samples) else {
            return;
        };
        let (start_ms, wall_ms) = start;
        let had_output = self.video.is_some() || self.audio.is_some();
        if had_output {
            self.out.push(Chunk::Discontinuity);
        }
        let end_ms = [&self.video, &self.audio].into_iter().flatten().map(|lane| lane.clock.position_ms()).max();
        // The stream's time went back: ours does not.
        self.shift_ms = end_ms.map_or(0, |end| end.saturating_sub(start_ms).max(0));
        let start_ms = start_ms.saturating_add(self.shift_ms);
        self.wall_offset_ms = wall_ms.saturating_sub(start_ms);
        self.start_ms = start_ms;
        (self.video_stalled, self.has_newcomer) = (false, false);

        let has = |track| samples.iter().any(|sample| sample.track == track);
        self.begin_lane(Track::Video, has(Track::Video));
        self.begin_lane(Track::Audio, has(Track::Audio));
        for lane in [&mut self.video, &mut self.audio].into_iter().flatten() {
            lane.clock.skip_to(start_ms);
            let first = samples.iter().find(|sample| sample.track == Track::Video);
            lane.independent =
                lane.rendition == Rendition::Audio || first.is_some_and(|sample| lane.dresser.is_random_access(sample));
        }
        let leader = if has(Track::Video) { &self.video } else { &self.audio };
        self.segment_start = leader.as_ref().map_or(0, |lane| lane.clock.ticks(start_ms));
        for sample in samples {
            let sample = Sample { dts_ms: sample.dts_ms.saturating_add(self.shift_ms), ..sample };
            // Audio from before the first picture has no segment to be in.
            if sample.dts_ms >= start_ms {
                self.take(sample);
            }
        }
    }

    /// Makes a rendition ready for what begins now, and says what it is where that is new.
    fn begin_lane(&mut self, track: Track, active: bool) {
        let format = self.tracks.format(track).cloned();
        let lane = if track == Track::Video { &mut self.video } else { &mut self.audio };
        let (Some(format), true) = (format, active) else {
            if let Some(lane) = lane {
                lane.active = false;
            }
            return;
        };
        match lane {
            Some(lane) if lane.format == format => lane.restart(),
            _ => {
                self.generation += 1;
                let rendition = if track == Track::Video { Rendition::Video } else { Rendition::Audio };
                let sequence = lane.as_ref().map_or(0, |lane| lane.sequence);
                self.out.push(describe(rendition, &format, self.generation));
                *lane = Some(Lane::new(rendition, format, sequence, self.number));
            }
        }
    }

    fn take(&mut self, sample: Sample) {
        match sample.track {
            Track::Video => self.take_video(&sample),
            Track::Audio => {
                self.ahead.push_back(sample);
                self.take_audio();
            }
            Track::Data => {}
        }
    }

    fn take_video(&mut self, sample: &Sample) {
        let Some(lane) = &mut self.video else {
            return;
        };
        let starts = lane.dresser.is_random_access(sample);
        let claims = sample.key;
        let held_starts = lane.held_starts;
        let done = lane.push(&Sample { key: starts, ..sample.clone() });
        lane.held_starts = starts;
        let (next, usual) = (lane.clock.position(), u64::from(lane.clock.expected()));
        let (fragment, longest) = (lane.ticks(self.rules.fragment_ms), lane.ticks(self.rules.max_segment_ms));
        // Half a frame more is allowed, since milliseconds are rounded: a keyframe may come exactly then.
        let longest = longest + usual / 2;
        if let Some(done) = done {
            let end = done.start + u64::from(done.sample.duration);
            // It lasted longer than was to be expected.
            if lane.has_samples && end > self.segment_start + longest {
                self.cut(done.start, held_starts);
            }
            self.place(Rendition::Video, done);
        }
        let Some(lane) = &self.video else { return };
        let length = next.saturating_sub(self.segment_start);
        // Where a stream has no frames to start at (intra refresh), its own marks are the best places to cut.
        let is_mark = starts || claims && !lane.independent;
        // Half a frame early is nearer than one GOP late, and milliseconds are rounded.
        let is_due = length + usual.min(fragment) / 2 >= fragment;
        if lane.has_samples && (is_mark && is_due || length + usual > longest) {
            self.cut(next, starts);
        } else {
            self.close_full_part(Rendition::Video);
        }
        self.take_audio();
    }

    /// Takes as much of the waiting audio as is sure to belong to a segment that has begun.
    fn take_audio(&mut self) {
        self.check_lag();
        while let Some(first) = self.ahead.front() {
            if let Some(video) = self.video.as_ref().filter(|lane| lane.active)
                && !self.video_stalled
                && first.dts_ms >= video.clock.position_ms()
            {
                return;
            }
            let Some(sample) = self.ahead.pop_front() else { return };
            self.take_one_audio(&sample);
        }
    }

    fn take_one_audio(&mut self, sample: &Sample) {
        let leads = self.audio_leads();
        let Some(lane) = &mut self.audio else {
            return;
        };
        let (fragment, longest) = (lane.ticks(self.rules.fragment_ms), lane.ticks(self.rules.max_segment_ms));
        // After a pause that no segment can hold there is a hole.
        let pause = sample.dts_ms.saturating_sub(lane.clock.position_ms());
        let flushed = if pause > i64::from(self.rules.max_segment_ms) { lane.clock.flush() } else { None };
        let done = [flushed, lane.push(sample)];
        for done in done.into_iter().flatten() {
            self.close_reached(Rendition::Audio, done.start);
            let end = done.start + u64::from(done.sample.duration);
            let has_samples = self.audio.as_ref().is_some_and(|lane| lane.has_samples);
            if leads && has_samples && end > self.segment_start + longest {
                self.cut(done.start, true);
            }
            self.place(Rendition::Audio, done);
        }
        let Some(lane) = &self.audio else { return };
        let (next, usual) = (lane.clock.position(), u64::from(lane.clock.expected()));
        self.close_reached(Rendition::Audio, next);
        let Some(lane) = &self.audio else { return };
        let length = next.saturating_sub(self.segment_start);
        let is_due = length + usual.min(fragment) / 2 >= fragment || length + usual > longest;
        if leads && lane.has_samples && is_due {
            self.cut(next, true);
        } else {
            self.close_full_part(Rendition::Audio);
        }
    }

    /// One medium may be behind the other by as much as publishers are seen to be. When it is by more it has stopped.
    fn check_lag(&mut self) {
        let (Some(video), Some(audio)) = (&self.video, &self.audio) else {
            return;
        };
        if !video.active || !audio.active {
            return;
        }
        let video_ms = video.clock.position_ms();
        let newest_ms = self.ahead.back().map_or(i64::MIN, |sample| sample.dts_ms);
        let too_many = self.ahead.len() > MAX_AHEAD_SAMPLES;
        if !self.video_stalled && (newest_ms.saturating_sub(video_ms) > MAX_LAG_MS || too_many) {
            self.video_stalled = true;
            let last = self.video.as_mut().and_then(|lane| lane.clock.flush());
            if let Some(last) = last {
                self.place(Rendition::Video, last);
            }
            // From here on the current segment is measured by audio.
            let start_ms = self.video.as_ref().map_or(0, |lane| lane.clock.ms(self.segment_start));
            self.segment_start = self.audio.as_ref().map_or(0, |lane| lane.clock.ticks(start_ms));
        }
        while let Some(lane) = &mut self.audio
            && lane.cuts.front().is_some_and(|cut| video_ms.saturating_sub(cut.at_ms) > MAX_LAG_MS)
        {
            // What it holds begins before that, or the segment would have ended.
            if let Some(last) = lane.clock.flush() {
                self.place(Rendition::Audio, last);
            }
            self.end_segment(Rendition::Audio);
        }
    }

    /// A segment ends at this time of the leading rendition: there at once, in the other one when it gets there.
    fn cut(&mut self, at: u64, independent: bool) {
        let (leader, follower, rendition) = if self.audio_leads() {
            (&mut self.audio, &mut self.video, Rendition::Audio)
        } else {
            (&mut self.video, &mut self.audio, Rendition::Video)
        };
        let at_ms = leader.as_ref().map_or(0, |lane| lane.clock.ms(at));
        let cut = Cut { at_ms, independent };
        if let Some(lane) = leader {
            lane.cuts.push_back(cut);
        }
        if let Some(lane) = follower {
            lane.cuts.push_back(Cut { at_ms, independent: independent || lane.rendition == Rendition::Audio });
        }
        self.segment_start = at;
        self.number += 1;
        self.end_segment(rendition);
        for rendition in [Rendition::Video, Rendition::Audio] {
            let position = self.lane(rendition).map_or(0, |lane| lane.clock.position());
            self.close_reached(rendition, position);
        }
    }

    /// Ends the segments that a rendition has passed when it is at `position`, or that it has nothing for.
    fn close_reached(&mut self, rendition: Rendition, position: u64) {
        let is_stalled = rendition == Rendition::Video && self.video_stalled;
        while let Some(lane) = self.lane(rendition)
            && let Some(cut) = lane.cuts.front()
            && (position >= lane.clock.ticks(cut.at_ms) || !lane.active || is_stalled)
        {
            self.end_segment(rendition);
        }
    }

    fn end_segment(&mut self, rendition: Rendition) {
        self.close_part(rendition);
        let Some(lane) = self.lane(rendition) else { return };
        let Some(cut) = lane.cuts.pop_front() else { return };
        let end = Chunk::SegmentEnd {
            rendition,
            independent: lane.has_samples && lane.independent,
            number: lane.number,
            end_ms: cut.at_ms,
        };
        lane.number += 1;
        lane.has_samples = false;
        lane.independent = cut.independent;
        self.out.push(end);
    }

    /// Puts a sample into the current part, or, where it does not fit any more, into the next.
    fn place(&mut self, rendition: Rendition, timed: Timed) {
        let rules = self.rules;
        let Some(lane) = self.lane(rendition) else { return };
        let is_full = rules.low_latency && lane.part_ticks + u64::from(timed.sample.duration) > lane.ticks(rules.part_ms)
            // Bounds against absurd rates, which no real part comes near.
            || lane.part_bytes + timed.sample.data.len() > MAX_PART_BYTES
            || lane.part.len() >= MAX_PART_SAMPLES;
        if is_full {
            self.close_part(rendition);
        }
        let Some(lane) = self.lane(rendition) else { return };
        if lane.part.is_empty() {
            lane.part_start = timed.start;
        }
        lane.part_ticks += u64::from(timed.sample.duration);
        lane.part_bytes += timed.sample.data.len();
        lane.part_starts |= timed.sample.key;
        lane.has_samples = true;
        lane.part.push(timed.sample);
    }

    /// Closes the part when one more sample like the last would not fit and it is long enough already.
    fn close_full_part(&mut self, rendition: Rendition) {
        if !self.rules.low_latency {
            return;
        }
        let part_ms = self.rules.part_ms;
        let Some(lane) = self.lane(rendition) else { return };
        let target = lane.ticks(part_ms);
        let is_long_enough = lane.part_ticks * 100 >= target * MIN_PART_PERCENT;
        if is_long_enough && lane.part_ticks + u64::from(lane.clock.expected()) > target {
            self.close_part(rendition);
        }
    }

    fn close_part(&mut self, rendition: Rendition) {
        let wall_offset_ms = self.wall_offset_ms;
        let Some(lane) = self.lane(rendition) else { return };
        if lane.part.is_empty() {
            return;
        }
        lane.sequence = lane.sequence.wrapping_add(1);
        let video = rendition == Rendition::Video;
        let run = Run { track: TRACK_ID, video, base: lane.part_start, samples: &lane.part };
        let mut bytes = Vec::new();
        fragment(lane.sequence, &[run], &mut bytes);
        let part = Chunk::Part {
            rendition,
            bytes: bytes.into(),
            duration: lane.part_ticks,
            timescale: lane.format.timescale,
            independent: lane.part_starts,
            start: lane.part_start,
            wall_ms: lane.clock.ms(lane.part_start).saturating_add(wall_offset_ms),
        };
        lane.part.clear();
        (lane.part_ticks, lane.part_bytes, lane.part_starts) = (0, 0, false);
        self.out.push(part);
    }

    /// Ends everything that has begun, in both renditions, and waits at the gate for what comes.
    fn close_all(&mut self) {
        if self.gate.is_some() {
            self.gate = Some(Gate::default());
            return;
        }
        // Nothing is to come that would show where it belongs.
        let ahead = std::mem::take(&mut self.ahead);
        for sample in ahead {
            self.take_one_audio(&sample);
        }
        for rendition in [Rendition::Video, Rendition::Audio] {
            let last = self.lane(rendition).and_then(|lane| lane.clock.flush());
            if let Some(last) = last {
                self.close_reached(rendition, last.start);
                self.place(rendition, last);
            }
        }
        let lanes = || [&self.video, &self.audio].into_iter().flatten();
        let has_samples = lanes().any(|lane| lane.has_samples);
        let pending = lanes().map(|lane| lane.cuts.len()).max().unwrap_or(0);
        let end_ms = lanes().map(|lane| lane.clock.position_ms()).max().unwrap_or(0);
        if has_samples || pending > 0 {
            self.number += 1;
            for rendition in [Rendition::Video, Rendition::Audio] {
                if let Some(lane) = self.lane(rendition) {
                    lane.cuts.push_back(Cut { at_ms: end_ms, independent: true });
                }
                while self.lane(rendition).is_some_and(|lane| !lane.cuts.is_empty()) {
                    self.end_segment(rendition);
                }
            }
        }
        self.gate = Some(Gate::default());
    }

    /// The time of the stream does not go on from where it was.
    fn is_jump(&self, sample: &Sample) -> bool {
        let longest = i64::from(self.rules.max_segment_ms);
        let lane = match sample.track {
            Track::Video => &self.video,
            _ => &self.audio,
        };
        let Some(lane) = lane else { return false };
        let step = sample.dts_ms.saturating_sub(self.newest_ms(lane));
        match sample.track {
            // A pause of the one that follows is its own affair.
            Track::Audio if !self.audio_leads() => step < -MAX_LAG_MS,
            _ => step < -MAX_BACK_MS || step > longest,
        }
    }

    fn newest_ms(&self, lane: &Lane) -> i64 {
        let waiting = self.ahead.back().filter(|_| lane.rendition == Rendition::Audio);
        waiting.map_or_else(|| lane.clock.position_ms(), |sample| sample.dts_ms)
    }

    fn audio_leads(&self) -> bool {
        self.video_stalled || !self.video.as_ref().is_some_and(|lane| lane.active)
    }

    fn lane(&mut self, rendition: Rendition) -> Option<&mut Lane> {
        match rendition {
            Rendition::Video => self.video.as_mut(),
            Rendition::Audio => self.audio.as_mut(),
        }
    }
}

/// One rendition on its way.
#[derive(Debug)]
struct Lane {
    rendition: Rendition,
    format: Format,
    dresser: Dresser,
    clock: TrackClock,
    /// The publisher of now has this track.
    active: bool,
    sequence: u32,
    number: u64,
    /// Ends of segments that were decided and that it has not reached.
    cuts: VecDeque<Cut>,
    /// Of the current segment.
    has_samples: bool,
    independent: bool,
    part: Vec<FragmentSample>,
    part_start: u64,
    part_ticks: u64,
    part_bytes: usize,
    part_starts: bool,
    /// Decoding can start at the sample that the clock holds.
    held_starts: bool,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    at_ms: i64,
    /// Of the segment that begins there.
    independent: bool,
}

impl Lane {
    fn new(rendition: Rendition, format: Format, sequence: u32, number: u64) -> Self {
        Self {
            rendition,
            dresser: Dresser::new(&format),
            clock: TrackClock::new(&format),
            format,
            active: true,
            sequence,
            number,
            cuts: VecDeque::new(),
            has_samples: false,
            independent: true,
            part: Vec::new(),
            part_start: 0,
            part_ticks: 0,
            part_bytes: 0,
            part_starts: false,
            held_starts: false,
        }
    }

    /// Another publisher with the same format.
    fn restart(&mut self) {
        self.active = true;
        self.held_starts = false;
    }

    fn push(&mut self, sample: &Sample) -> Option<Timed> {
        self.clock.push(sample, self.dresser.dress(sample), self.dresser.ticks(sample))
    }

    fn ticks(&self, ms: u32) -> u64 {
        self.clock.ticks(ms.into())
    }
}

fn describe(rendition: Rendition, format: &Format, generation: u32) -> Chunk {
    Chunk::Init {
        rendition,
        bytes: init(&[InitTrack { id: TRACK_ID, format }]),
        codecs: format.codecs.clone(),
        width: format.width,
        height: format.height,
        fps: format.fps,
        channels: format.channels,
        sample_rate: format.sample_rate,
        timescale: format.timescale,
        generation,
    }
}

/// Each rendition is a file of its own.
const TRACK_ID: u32 = 1;
/// draft-pantos-hls-rfc8216bis: a part is no shorter, but for the last of its segment and independent ones.
const MIN_PART_PERCENT: u64 = 85;
/// Publishers are seen to send one medium five seconds ahead of the other.
const MAX_LAG_MS: i64 = 6000;
/// Two minutes of AAC: by then the clock of the other medium stands still.
const MAX_AHEAD_SAMPLES: usize = 6000;
/// Less is disorder, which the clock of the track mends.
const MAX_BACK_MS: i64 = 1000;
/// 40 s at 6 Mbit/s.
const MAX_PART_BYTES: usize = 32 << 20;
const MAX_PART_SAMPLES: usize = 4096;
