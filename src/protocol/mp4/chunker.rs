//! Cuts a stream into the parts and segments of CMAF, video and audio each for itself at the same times.

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use super::format::Format;
use super::fragment::{FragmentSample, Run, fragment};
use super::init::{InitTrack, init};
use super::source::{Beginning, Gate, MAX_BACK_MS, Tracks};
use super::track::{Dresser, MAX_DRIFT_MS, Timed, TrackClock};
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
/// Within a rendition times have no holes: where nothing comes the last sample is stretched to the end of its segment,
/// and then there are gaps. Whatever would make a segment too long is a [`Chunk::Discontinuity`].
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
        /// When it began and ended, in milliseconds of the stream, for a gap has no parts to tell. What is before it may
        /// last a sample longer.
        start_ms: i64,
        end_ms: i64,
        /// When it began by the wall clock.
        wall_ms: i64,
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
            start_ms: 0,
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
            if gate.is_jump(&sample, self.rules.max_segment_ms.into()) {
                // What waits is all there is of its time.
                if !gate.has_begun() {
                    self.gate = Some(Gate::default());
                } else {
                    self.begin();
                }
                return self.push_sample(sample, wall_ms);
            }
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
        let may_begin = || match sample.track {
            Track::Video => dresser().is_random_access(&sample),
            _ => self.audio_leads(),
        };
        if self.has_newcomer && may_begin() || is_known && !is_stalled && self.is_jump(&shifted) {
            self.start_over();
            return self.push_sample(sample, wall_ms);
        }
        if is_known && !is_stalled {
            self.take(shifted);
        }
    }

    /// The gate is open: its samples go where all others go.
    fn begin(&mut self) {
        let Some(Beginning { samples, video, audio, start_ms, wall_ms }) =
            self.gate.take().and_then(Gate::into_samples)
        else {
            return;
        };
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

        self.begin_lane(Track::Video, video);
        self.begin_lane(Track::Audio, audio);
        for lane in [&mut self.video, &mut self.audio].into_iter().flatten() {
            lane.clock.skip_to(start_ms);
            lane.segment_start_ms = start_ms;
            let first = samples.iter().find(|sample| sample.track == Track::Video);
            lane.independent =
                lane.rendition == Rendition::Audio || first.is_some_and(|sample| lane.dresser.is_random_access(sample));
        }
        let leader = if video { &self.video } else { &self.audio };
        self.segment_start = leader.as_ref().map_or(0, |lane| lane.clock.ticks(start_ms));
        for sample in samples {
            let dts_ms = sample.dts_ms.saturating_add(self.shift_ms);
            self.take(Sample { dts_ms, ..sample });
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
            // What is before the first picture has no segment to be in, and in DASH no period.
            Track::Audio if sample.dts_ms < self.start_ms => {}
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
        let longest = longest + (usual / 2).min(lane.ticks(MAX_EXCESS_MS));
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
            self.take_one_audio(&sample, 0);
        }
    }

    /// Where audio leads, a segment may be longer than the target by `excess_ms`.
    fn take_one_audio(&mut self, sample: &Sample, excess_ms: u32) {
        let leads = self.audio_leads();
        if leads {
            self.cut_before_first(sample.dts_ms);
        }
        let dts_ms = self.end_pause(sample.dts_ms);
        let Some(lane) = &mut self.audio else {
            return;
        };
        let (fragment, longest) =
            (lane.ticks(self.rules.fragment_ms), lane.ticks(self.rules.max_segment_ms + excess_ms));
        let done = lane.push(&Sample { dts_ms, ..sample.clone() });
        if let Some(done) = done {
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
        // What is only to bridge the time until video comes back need not be cut often.
        let is_due = !self.video_stalled && length + usual.min(fragment) / 2 >= fragment || length + usual > longest;
        if leads && lane.has_samples && is_due {
            self.cut(next, true);
        } else {
            self.close_full_part(Rendition::Audio);
        }
    }

    /// Audio leads and has its first sample so late that segments end before it.
    fn cut_before_first(&mut self, first_ms: i64) {
        for _ in 0..MAX_EMPTY_SEGMENTS {
            let Some(lane) = self.audio.as_ref().filter(|lane| !lane.has_samples && lane.clock.held_ms().is_none())
            else {
                return;
            };
            let end = self.segment_start + lane.ticks(self.rules.max_segment_ms);
            if lane.clock.ticks(first_ms) <= end {
                return;
            }
            self.cut(end, true);
        }
    }

    /// Audio goes on at this time. A pause within a segment is left to the clock. Where a segment ended meanwhile it lasts
    /// to its end, those after it are gaps, and what comes now begins with the one it is in: gives that time. So one
    /// sample is early, in silence, and there is no hole.
    fn end_pause(&mut self, next_ms: i64) -> i64 {
        while let Some(lane) = &self.audio
            && let Some(cut) = lane.cuts.front()
            && cut.at_ms.saturating_add(MAX_DRIFT_MS) < next_ms
            && lane.clock.has_pause(next_ms)
        {
            self.end_short_segment(Rendition::Audio);
        }
        match &self.audio {
            Some(lane)
                if lane.clock.held_ms().is_none()
                    && lane.segment_start_ms > self.start_ms
                    && next_ms.saturating_sub(lane.segment_start_ms) <= self.rules.max_segment_ms.into() =>
            {
                next_ms.min(lane.segment_start_ms)
            }
            _ => next_ms,
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
            // Audio that has jumped shows where the video will be.
            if self.first_after_jump() < self.ahead.len() {
                return self.start_over();
            }
            self.stall_video();
        }
        while let Some(lane) = &self.audio
            && lane.cuts.front().is_some_and(|cut| video_ms.saturating_sub(cut.at_ms) > MAX_LAG_MS)
        {
            self.end_short_segment(Rendition::Audio);
        }
    }

    /// From here on audio leads, until video comes back.
    fn stall_video(&mut self) {
        if self.audio_leads() {
            return;
        }
        let start_ms = self.video.as_ref().map_or(0, |lane| lane.clock.ms(self.segment_start));
        self.segment_start = self.audio.as_ref().map_or(0, |lane| lane.clock.ticks(start_ms));
        self.video_stalled = true;
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
        {
            if position >= lane.clock.ticks(cut.at_ms) {
                self.end_segment(rendition);
            } else if !lane.active || is_stalled {
                self.end_short_segment(rendition);
            } else {
                return;
            }
        }
    }

    /// Ends a segment before whose end nothing more comes: the sample that waits lasts until then, if it belongs to it.
    fn end_short_segment(&mut self, rendition: Rendition) {
        let last = self.lane(rendition).and_then(|lane| {
            let cut = lane.cuts.front()?;
            lane.clock.flush_until(lane.clock.ticks(cut.at_ms))
        });
        if let Some(last) = last {
            self.place(rendition, last);
        }
        self.end_segment(rendition);
    }

    fn end_segment(&mut self, rendition: Rendition) {
        self.close_part(rendition);
        let wall_offset_ms = self.wall_offset_ms;
        let Some(lane) = self.lane(rendition) else { return };
        let Some(cut) = lane.cuts.pop_front() else { return };
        let end = Chunk::SegmentEnd {
            rendition,
            independent: lane.has_samples && lane.independent,
            number: lane.number,
            start_ms: lane.segment_start_ms,
            end_ms: cut.at_ms,
            wall_ms: lane.segment_start_ms.saturating_add(wall_offset_ms),
        };
        lane.number += 1;
        lane.has_samples = false;
        lane.independent = cut.independent;
        lane.segment_start_ms = cut.at_ms;
        if lane.clock.held_ms().is_none() {
            lane.clock.skip_to(cut.at_ms);
        }
        self.out.push(end);
    }

    /// Puts a sample into the current part, or, where it does not fit any more, into the next.
    fn place(&mut self, rendition: Rendition, timed: Timed) {
        let rules = self.rules;
        let Some(lane) = self.lane(rendition) else { return };
        let (target, duration) = (lane.ticks(rules.part_ms), u64::from(timed.sample.duration));
        // What fits no part at all does not make the one before it short as well.
        let may_close = duration <= target || lane.is_long_enough(target);
        let is_full = rules.low_latency && may_close && lane.part_ticks + duration > target
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
        if lane.is_long_enough(target) && lane.part_ticks + u64::from(lane.clock.expected()) > target {
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
        // No video is to come that would show where the audio belongs.
        if let Some(lane) = &self.audio
            && lane.active
        {
            self.stall_video();
        }
        self.ahead.truncate(self.first_after_jump());
        for sample in std::mem::take(&mut self.ahead) {
            // What is just over is no reason for a segment that has hardly any video.
            self.take_one_audio(&sample, MAX_EXCESS_MS);
        }
        for rendition in [Rendition::Video, Rendition::Audio] {
            let position = self.lane(rendition).map_or(0, |lane| lane.clock.position());
            self.close_reached(rendition, position);
            while self.lane(rendition).is_some_and(|lane| !lane.cuts.is_empty()) {
                self.end_short_segment(rendition);
            }
            let last = self.lane(rendition).and_then(|lane| lane.clock.flush());
            if let Some(last) = last {
                self.place(rendition, last);
            }
        }
        let lanes = || [&self.video, &self.audio].into_iter().flatten();
        let has_samples = lanes().any(|lane| lane.has_samples);
        let end_ms = lanes().map(|lane| lane.clock.position_ms()).max().unwrap_or(0);
        if has_samples {
            self.number += 1;
            for rendition in [Rendition::Video, Rendition::Audio] {
                if let Some(lane) = self.lane(rendition) {
                    lane.cuts.push_back(Cut { at_ms: end_ms, independent: true });
                }
                self.end_segment(rendition);
            }
        }
        self.gate = Some(Gate::default());
    }

    /// Ends everything that has begun, for what is coming does not continue it. Audio of that which is there already
    /// waits at the gate.
    fn start_over(&mut self) {
        let coming = self.ahead.split_off(self.first_after_jump());
        self.close_all();
        let Some(gate) = &mut self.gate else { return };
        for sample in coming {
            let wall_ms = sample.dts_ms.saturating_add(self.wall_offset_ms);
            let dts_ms = sample.dts_ms.saturating_sub(self.shift_ms);
            gate.push(Sample { dts_ms, ..sample }, wall_ms, |_| false);
        }
    }

    /// Where the audio that is ahead leaves the time of what was before; its length where it does not.
    fn first_after_jump(&self) -> usize {
        let mut before_ms = self.audio.as_ref().and_then(|lane| lane.clock.held_ms());
        let is_jump = |sample: &Sample| {
            let step_ms = before_ms.replace(sample.dts_ms).map_or(0, |before| sample.dts_ms.saturating_sub(before));
            step_ms > i64::from(self.rules.max_segment_ms)
        };
        self.ahead.iter().position(is_jump).unwrap_or(self.ahead.len())
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
    segment_start_ms: i64,
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
            segment_start_ms: i64::MIN,
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

    /// The part, for a target of so many ticks.
    fn is_long_enough(&self, target: u64) -> bool {
        self.part_ticks * 100 >= target * MIN_PART_PERCENT
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
/// Nobody begins one medium later than that after the other: longer gaps are told of as far as they can be.
const MAX_EMPTY_SEGMENTS: usize = 16;
/// How much longer than its longest a segment may be rather than be cut: rounding makes no more of it.
const MAX_EXCESS_MS: u32 = 40;
/// 40 s at 6 Mbit/s.
const MAX_PART_BYTES: usize = 32 << 20;
const MAX_PART_SAMPLES: usize = 4096;

#[cfg(test)]
mod tests {
    use mp4_atom::{DecodeMaybe, Mdat, Moof};
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::{AudioCodec, Codec, VideoCodec, audio_info, video_info};
    use crate::protocol::mp4::tests::{AAC_44100, AVC_RECORD, bytes};

    const RULES: ChunkRules = ChunkRules { part_ms: 210, fragment_ms: 2000, max_segment_ms: 6000, low_latency: true };

    fn video_config() -> MuxInput {
        let record = bytes(AVC_RECORD);
        MuxInput::VideoConfig { codec: VideoCodec::Avc, info: video_info(VideoCodec::Avc, &record), record }
    }

    fn audio_config(record: &str) -> MuxInput {
        let record = bytes(record);
        MuxInput::AudioConfig { codec: AudioCodec::Aac, info: audio_info(AudioCodec::Aac, &record), record }
    }

    fn video(dts_ms: i64, key: bool) -> MuxInput {
        let data = bytes(if key { "00000002 6588" } else { "00000002 4188" });
        MuxInput::Sample(Sample {
            track: Track::Video,
            codec: Codec::Video(VideoCodec::Avc),
            dts_ms,
            cts_ms: 0,
            key,
            data,
        })
    }

    fn audio(dts_ms: i64) -> MuxInput {
        let codec = Codec::Audio(AudioCodec::Aac);
        MuxInput::Sample(Sample { track: Track::Audio, codec, dts_ms, cts_ms: 0, key: true, data: bytes("2110") })
    }

    /// Frames of video at `fps`, each `gop`-th a keyframe, and AAC of 44.1 kHz, in order of time, from `from` to `to`.
    fn stream(from: i64, to: i64, fps: i64, gop: i64, with: (bool, bool)) -> Vec<MuxInput> {
        let mut timed: Vec<(i64, MuxInput)> = Vec::new();
        if with.0 {
            let frames = (0..).map(|at| (at, from + at * 1000 / fps)).take_while(|(_, ms)| *ms < to);
            timed.extend(frames.map(|(at, ms)| (ms, video(ms, at % gop == 0))));
        }
        if with.1 {
            let frames = (0..).map(|at| from + at * 1024 * 1000 / 44_100).take_while(|ms| *ms < to);
            timed.extend(frames.map(|ms| (ms, audio(ms))));
        }
        timed.sort_by_key(|(ms, _)| *ms);
        timed.into_iter().map(|(_, input)| input).collect()
    }

    fn both(from: i64, to: i64, fps: i64, gop: i64) -> Vec<MuxInput> {
        [vec![video_config(), audio_config(AAC_44100)], stream(from, to, fps, gop, (true, true))].concat()
    }

    fn run(chunker: &mut Chunker, inputs: Vec<MuxInput>) -> Vec<Chunk> {
        inputs.into_iter().flat_map(|input| chunker.push(input, 0)).collect()
    }

    /// All of it and the end.
    fn chunks(rules: ChunkRules, inputs: Vec<MuxInput>) -> Vec<Chunk> {
        let mut chunker = Chunker::new(rules);
        let mut out = run(&mut chunker, inputs);
        out.extend(chunker.end());
        out
    }

    #[derive(Clone, PartialEq, Debug)]
    struct Segment {
        number: u64,
        independent: bool,
        start_ms: f64,
        parts_ms: Vec<f64>,
        discontinuities_before: usize,
    }

    impl Segment {
        fn ms(&self) -> f64 {
            self.parts_ms.iter().sum()
        }
    }

    /// The segments of a rendition, having checked what must hold of every chunk whatever came in.
    fn segments(chunks: &[Chunk], wanted: Rendition) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        let (mut parts, mut discontinuities, mut next, mut initialised) = (Vec::new(), 0, None, false);
        let mut start_ms = None;
        let mut last_sequence = 0;
        for chunk in chunks {
            match chunk {
                Chunk::Init { rendition, bytes, .. } if *rendition == wanted => {
                    assert!(parts.is_empty(), "an init within a segment");
                    assert!(bytes.starts_with(&[0, 0, 0, 44]) && bytes[4..8] == *b"ftyp");
                    initialised = true;
                }
                Chunk::Part { rendition, bytes, duration, timescale, independent, start, .. }
                    if *rendition == wanted =>
                {
                    assert!(initialised, "a part before its init");
                    let mut rest = &bytes[..];
                    let moof = Moof::decode_maybe(&mut rest).unwrap().unwrap();
                    let mdat = Mdat::decode_maybe(&mut rest).unwrap().unwrap();
                    assert!(rest.is_empty());
                    assert_eq!(moof.mfhd.sequence_number, last_sequence + 1);
                    last_sequence += 1;
                    let traf = &moof.traf[0];
                    assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, *start);
                    let samples = &traf.trun[0].samples;
                    let sum: u64 = samples.iter().map(|sample| u64::from(sample.duration.unwrap())).sum();
                    assert_eq!(sum, *duration);
                    assert_eq!(
                        samples.iter().map(|sample| sample.size.unwrap() as usize).sum::<usize>(),
                        mdat.data.len()
                    );
                    let any_key = samples.iter().any(|sample| sample.flags.is_none_or(|flags| flags == 0x0200_0000));
                    assert_eq!(any_key, *independent);
                    if let Some(next) = next {
                        let hole = *start - next;
                        assert_eq!(hole, 0, "a hole");
                    }
                    next = Some(start + duration);
                    let ms = |ticks: u64| ticks as f64 * 1000.0 / f64::from(*timescale);
                    start_ms.get_or_insert(ms(*start));
                    parts.push(ms(*duration));
                }
                Chunk::SegmentEnd { rendition, independent, number, end_ms, .. } if *rendition == wanted => {
                    if let Some(last) = segments.last() {
                        assert_eq!(*number, last.number + 1);
                    }
                    if parts.is_empty() {
                        next = None;
                        assert!(!independent);
                    }
                    segments.push(Segment {
                        number: *number,
                        independent: *independent,
                        start_ms: start_ms.take().unwrap_or(*end_ms as f64),
                        parts_ms: std::mem::take(&mut parts),
                        discontinuities_before: discontinuities,
                    });
                }
                Chunk::Discontinuity => {
                    assert!(parts.is_empty(), "a discontinuity within a segment");
                    discontinuities += 1;
                    next = None;
                }
                _ => {}
            }
        }
        assert!(parts.is_empty(), "parts without an end");
        segments
    }

    /// Both renditions, which must have the same segments.
    fn same_segments(chunks: &[Chunk]) -> (Vec<Segment>, Vec<Segment>) {
        let (video, audio) = (segments(chunks, Rendition::Video), segments(chunks, Rendition::Audio));
        let numbers = |segments: &[Segment]| -> Vec<(u64, usize)> {
            segments.iter().map(|segment| (segment.number, segment.discontinuities_before)).collect()
        };
        assert_eq!(numbers(&video), numbers(&audio));
        (video, audio)
    }

    fn check_parts(segments: &[Segment], target_ms: f64) {
        for segment in segments {
            for (at, part) in segment.parts_ms.iter().enumerate() {
                let is_last = at + 1 == segment.parts_ms.len();
                assert!(*part <= target_ms + 0.01, "{part} in {segment:?}");
                assert!(is_last || *part >= target_ms * 0.85 - 0.01, "{part} in {segment:?}");
            }
        }
    }

    /// To the millisecond that the last frame is guessed by.
    fn check_lengths(segments: &[Segment], expected: &[u64]) {
        let lengths = lengths(segments);
        let is_near = lengths.iter().zip(expected).all(|(is, wanted)| is.abs_diff(*wanted) <= 2);
        assert!(is_near && lengths.len() == expected.len(), "{lengths:?} instead of {expected:?}");
    }

    fn lengths(segments: &[Segment]) -> Vec<u64> {
        segments.iter().map(|segment| segment.ms().round() as u64).collect()
    }

    #[test]
    fn segments_begin_with_keyframes_and_audio_is_cut_with_them() {
        let (video, audio) = same_segments(&chunks(RULES, both(0, 10_000, 25, 25)));
        assert_eq!(lengths(&video), [2000; 5]);
        assert!(video.iter().all(|segment| segment.independent));
        for (video, audio) in video.iter().zip(&audio) {
            let late = audio.start_ms - video.start_ms;
            assert!((0.0..23.3).contains(&late), "{late}");
            assert!(audio.independent);
        }
        check_parts(&video, 210.0);
        check_parts(&audio, 210.0);
    }

    #[test]
    fn rates_that_milliseconds_cannot_say_still_fill_their_parts() {
        for fps in [24, 30, 50, 60] {
            let (video, audio) = same_segments(&chunks(RULES, both(0, 20_000, fps, fps * 2)));
            check_lengths(&video, &[2000; 10]);
            check_parts(&video, 210.0);
            check_parts(&audio, 210.0);
        }
    }

    #[test]
    fn a_part_is_given_away_as_soon_as_it_is_full() {
        let mut chunker = Chunker::new(RULES);
        let mut out = run(&mut chunker, vec![video_config(), audio_config(AAC_44100), audio(0)]);
        for at in 0..5 {
            out.extend(run(&mut chunker, vec![video(at * 40, at == 0)]));
        }
        assert!(!out.iter().any(|chunk| matches!(chunk, Chunk::Part { .. })));
        // The fifth frame's duration is known now, and a sixth would not fit.
        let now = run(&mut chunker, vec![video(200, false)]);
        assert!(matches!(now[..], [Chunk::Part { rendition: Rendition::Video, duration: 18_000, .. }]), "{now:?}");
    }

    #[test]
    fn without_low_latency_a_segment_is_one_part() {
        let rules = ChunkRules { low_latency: false, ..RULES };
        let (video, audio) = same_segments(&chunks(rules, both(0, 10_000, 25, 50)));
        assert_eq!((lengths(&video), video.len()), (vec![2000; 5], audio.len()));
        assert!(video.iter().chain(&audio).all(|segment| segment.parts_ms.len() == 1));
    }

    #[test]
    fn keyframes_all_the_time_do_not_make_segments_short() {
        let (video, _) = same_segments(&chunks(RULES, both(0, 10_000, 25, 1)));
        assert_eq!(lengths(&video), [2000; 5]);
        check_parts(&video, 210.0);
    }

    #[test]
    fn a_long_gop_is_cut_at_the_target_and_again_at_its_end() {
        let (video, _) = same_segments(&chunks(RULES, both(0, 30_000, 25, 250)));
        assert_eq!(lengths(&video), [6000, 4000, 6000, 4000, 6000, 4000]);
        let independent: Vec<bool> = video.iter().map(|segment| segment.independent).collect();
        assert_eq!(independent, [true, false, true, false, true, false]);
        check_parts(&video, 210.0);
    }

    #[test]
    fn slow_frames_do_not_make_a_segment_longer_than_its_target() {
        for fps in 1..12 {
            let (video, audio) = same_segments(&chunks(RULES, both(0, 30_000, fps, 1_000_000)));
            for segment in video.iter().chain(&audio) {
                assert!(segment.ms() <= 6000.0 + f64::from(MAX_EXCESS_MS) + 25.0, "{fps}: {segment:?}");
            }
        }
    }

    #[test]
    fn a_gop_as_long_as_the_target_is_not_cut_before_its_end() {
        let (video, _) = same_segments(&chunks(RULES, both(0, 30_000, 30, 180)));
        check_lengths(&video, &[6000; 5]);
        assert!(video.iter().all(|segment| segment.independent));
    }

    #[test]
    fn a_stream_without_further_keyframes_goes_on() {
        let (video, _) = same_segments(&chunks(RULES, both(0, 20_000, 25, 1_000_000)));
        assert_eq!(lengths(&video), [6000, 6000, 6000, 2000]);
    }

    #[test]
    fn recovery_points_are_where_intra_refresh_is_cut() {
        let mut inputs = both(0, 20_000, 25, 1_000_000);
        for input in &mut inputs {
            if let MuxInput::Sample(sample) = input
                && sample.track == Track::Video
            {
                sample.key = sample.dts_ms % 1000 == 0;
            }
        }
        let (video, _) = same_segments(&chunks(RULES, inputs));
        assert_eq!(lengths(&video), [6000, 2000, 2000, 2000, 2000, 2000, 2000, 2000]);
        assert!(video[0].independent && !video[1].independent);
    }

    #[test]
    fn a_stream_that_has_never_a_keyframe_begins_all_the_same() {
        let mut inputs = both(0, 12_000, 25, 1_000_000);
        for input in &mut inputs {
            if let MuxInput::Sample(sample) = input
                && sample.track == Track::Video
            {
                (sample.key, sample.data) = (false, bytes("00000002 4188"));
            }
        }
        let (video, _) = same_segments(&chunks(RULES, inputs));
        assert!(video[0].start_ms < 5100.0 && !video[0].independent, "{video:?}");
    }

    #[test]
    fn audio_alone_is_cut_by_time() {
        let inputs = [vec![audio_config(AAC_44100)], stream(0, 10_000, 25, 25, (false, true))].concat();
        let out = chunks(RULES, inputs);
        let audio = segments(&out, Rendition::Audio);
        assert!(
            audio[..5].iter().all(|segment| segment.independent && (segment.ms() - 2000.0).abs() < 24.0),
            "{audio:?}"
        );
        check_parts(&audio, 210.0);
        assert!(segments(&out, Rendition::Video).is_empty());
    }

    #[test]
    fn video_alone_is_cut_at_keyframes() {
        let inputs = [vec![video_config()], stream(0, 10_000, 25, 25, (true, false))].concat();
        let out = chunks(RULES, inputs);
        assert_eq!(lengths(&segments(&out, Rendition::Video)), [2000; 5]);
        assert!(segments(&out, Rendition::Audio).is_empty());
    }

    fn inits(chunks: &[Chunk]) -> Vec<(Rendition, u32)> {
        let init = |chunk: &Chunk| match chunk {
            Chunk::Init { rendition, generation, .. } => Some((*rendition, *generation)),
            _ => None,
        };
        chunks.iter().filter_map(init).collect()
    }

    #[test]
    fn audio_within_a_second_is_there_from_the_beginning() {
        let mut inputs = vec![video_config()];
        inputs.extend(stream(0, 600, 25, 25, (true, false)));
        inputs.push(audio_config(AAC_44100));
        inputs.extend(stream(600, 8000, 25, 25, (true, true)));
        let out = chunks(RULES, inputs);
        assert_eq!(inits(&out), [(Rendition::Video, 1), (Rendition::Audio, 2)]);
        same_segments(&out);
    }

    #[test]
    fn audio_that_comes_later_joins_at_a_keyframe_after_a_discontinuity() {
        let mut inputs = vec![video_config()];
        inputs.extend(stream(0, 5000, 25, 25, (true, false)));
        inputs.push(audio_config(AAC_44100));
        inputs.extend(stream(5000, 11_000, 25, 50, (true, true)));
        let out = chunks(RULES, inputs);
        let (video, audio) = (segments(&out, Rendition::Video), segments(&out, Rendition::Audio));
        assert_eq!(inits(&out), [(Rendition::Video, 1), (Rendition::Audio, 2)]);
        // No frame of the video is missing.
        assert_eq!(lengths(&video).iter().sum::<u64>(), 11_000);
        assert_eq!(audio[0].number, video.iter().find(|segment| segment.discontinuities_before == 1).unwrap().number);
        assert_eq!(audio.last().unwrap().number, video.last().unwrap().number);
    }

    #[test]
    fn video_that_comes_later_joins_after_a_discontinuity() {
        let mut inputs = vec![audio_config(AAC_44100)];
        inputs.extend(stream(0, 3000, 25, 25, (false, true)));
        inputs.push(video_config());
        inputs.extend(stream(3000, 9000, 25, 50, (true, true)));
        let out = chunks(RULES, inputs);
        let (video, audio) = (segments(&out, Rendition::Video), segments(&out, Rendition::Audio));
        assert_eq!(lengths(&video), [2000; 3]);
        assert_eq!(video[0].number, audio.iter().find(|segment| segment.discontinuities_before == 1).unwrap().number);
    }

    #[test]
    fn another_codec_configuration_is_a_new_generation_after_a_discontinuity() {
        let mut inputs = both(0, 5000, 25, 25);
        inputs.push(audio_config("1190"));
        inputs.extend(stream(5000, 9000, 25, 25, (true, true)));
        // The same again changes nothing.
        inputs.extend([audio_config("1190"), video_config()]);
        inputs.extend(stream(9000, 13_000, 25, 25, (true, true)));
        let out = chunks(RULES, inputs);
        assert_eq!(inits(&out), [(Rendition::Video, 1), (Rendition::Audio, 2), (Rendition::Audio, 3)]);
        let (video, _) = same_segments(&out);
        assert_eq!(lengths(&video), [2000, 2000, 1000, 2000, 2000, 2000, 2000]);
    }

    #[test]
    fn a_publisher_that_comes_back_goes_on_after_a_discontinuity() {
        let mut chunker = Chunker::new(RULES);
        let mut out = run(&mut chunker, both(0, 5000, 25, 25));
        out.extend(chunker.end());
        out.extend(run(&mut chunker, both(7000, 11_000, 25, 25)));
        out.extend(chunker.end());
        assert_eq!(inits(&out), [(Rendition::Video, 1), (Rendition::Audio, 2)]);
        let (video, _) = same_segments(&out);
        assert_eq!(lengths(&video), [2000, 2000, 1000, 2000, 2000]);
        assert_eq!((video[2].discontinuities_before, video[3].discontinuities_before), (0, 1));
        assert_eq!(video[3].start_ms, 7000.0);
    }

    #[test]
    fn lost_packets_are_a_discontinuity_up_to_the_next_keyframe() {
        let mut chunker = Chunker::new(RULES);
        let mut out = run(&mut chunker, both(0, 4480, 25, 25));
        out.extend(chunker.gap());
        let rest = both(0, 9000, 25, 25)
            .into_iter()
            .skip(2)
            .filter(|input| matches!(input, MuxInput::Sample(sample) if sample.dts_ms >= 4600));
        out.extend(run(&mut chunker, rest.collect()));
        out.extend(chunker.end());
        let (video, _) = same_segments(&out);
        assert_eq!(video[3].start_ms, 5000.0);
        assert_eq!((video[3].discontinuities_before, video[3].independent), (1, true));
    }

    #[test]
    fn a_jump_is_a_discontinuity_and_time_never_goes_back() {
        for to in [3_600_000, 1000] {
            let mut inputs = both(100_000, 105_000, 25, 25);
            inputs.extend(stream(to, to + 4000, 25, 25, (true, true)));
            let out = chunks(RULES, inputs);
            let (video, audio) = same_segments(&out);
            assert_eq!(lengths(&video), [2000, 2000, 1000, 2000, 2000], "{to}");
            let start = if to > 105_000 { to as f64 } else { 105_000.0 };
            assert!((video[3].start_ms - start).abs() < 30.0, "{video:?}");
            assert!(audio[3].start_ms >= video[3].start_ms - 100.0);
        }
    }

    #[test]
    fn audio_that_stops_leaves_gaps_and_comes_back() {
        let mut inputs = both(0, 5000, 25, 25);
        inputs.extend(stream(5000, 25_000, 25, 25, (true, false)));
        inputs.extend(stream(25_000, 35_000, 25, 25, (true, true)));
        let out = chunks(RULES, inputs);
        let (video, audio) = same_segments(&out);
        assert_eq!(lengths(&video).iter().sum::<u64>(), 35_000);
        assert!(audio.iter().filter(|segment| segment.parts_ms.is_empty()).count() >= 8, "{audio:?}");
        assert!(video.iter().all(|segment| segment.discontinuities_before == 0));
        assert!(!audio.last().unwrap().parts_ms.is_empty());
    }

    #[test]
    fn video_that_stops_leaves_gaps_while_audio_goes_on() {
        let mut inputs = both(0, 5000, 25, 25);
        inputs.extend(stream(5000, 25_000, 25, 25, (false, true)));
        inputs.extend(stream(25_000, 35_000, 25, 25, (true, true)));
        let out = chunks(RULES, inputs);
        let (video, audio) = same_segments(&out);
        assert!(video.iter().filter(|segment| segment.parts_ms.is_empty()).count() >= 2, "{video:?}");
        assert!(audio.iter().all(|segment| segment.ms() < 6100.0), "{audio:?}");
        assert_eq!(video.last().unwrap().discontinuities_before, 1);
    }

    #[test]
    fn a_publisher_who_comes_back_without_sound_leaves_gaps() {
        let mut chunker = Chunker::new(RULES);
        let mut out = run(&mut chunker, both(0, 4000, 25, 25));
        out.extend(chunker.end());
        out.extend(run(&mut chunker, vec![video_config()]));
        out.extend(run(&mut chunker, stream(7000, 15_000, 25, 25, (true, false))));
        out.extend(chunker.end());
        let (video, audio) = same_segments(&out);
        assert_eq!(video.len(), 6);
        assert!(audio[2..].iter().all(|segment| segment.parts_ms.is_empty()), "{audio:?}");
    }

    #[test]
    fn audio_that_stops_within_a_segment_lasts_to_its_end() {
        let mut inputs = both(0, 5300, 25, 50);
        inputs.extend(stream(5320, 20_000, 25, 50, (true, false)));
        let (video, audio) = same_segments(&chunks(RULES, inputs));
        let end = |segment: &Segment| segment.start_ms + segment.ms();
        assert!((end(&audio[2]) - end(&video[2])).abs() < 1.0, "{audio:?}");
    }

    #[test]
    fn audio_that_comes_back_after_gaps_begins_with_its_segment() {
        let mut inputs = both(0, 4000, 25, 50);
        inputs.extend(stream(4000, 11_000, 25, 50, (true, false)));
        inputs.extend(stream(11_000, 16_000, 25, 50, (true, true)));
        let (_, audio) = same_segments(&chunks(RULES, inputs));
        let first = audio.iter().skip(2).find(|segment| !segment.parts_ms.is_empty()).unwrap();
        let before = audio.iter().find(|segment| segment.number + 1 == first.number).unwrap();
        // A segment is said to begin where its first part does, and a gap where it ends.
        assert!((first.start_ms - before.start_ms).abs() < 1.0, "{audio:?}");
    }

    #[test]
    fn audio_five_seconds_ahead_or_behind_is_cut_at_the_same_times() {
        for offset in [-5000, 5000] {
            // As they arrive: one medium's frames are beside the other's of five seconds before.
            let mut timed: Vec<(i64, MuxInput)> = Vec::new();
            for input in both(5000, 30_000, 25, 25).into_iter().skip(2) {
                if let MuxInput::Sample(sample) = input {
                    let arrival = sample.dts_ms + if sample.track == Track::Audio { offset } else { 0 };
                    timed.push((arrival, MuxInput::Sample(sample)));
                }
            }
            timed.sort_by_key(|(ms, _)| *ms);
            let inputs =
                [vec![video_config(), audio_config(AAC_44100)], timed.into_iter().map(|(_, input)| input).collect()];
            let out = chunks(RULES, inputs.concat());
            let (video, audio) = (segments(&out, Rendition::Video), segments(&out, Rendition::Audio));
            assert_eq!(audio.last().unwrap().number, video.last().unwrap().number);
            // Who comes five seconds late joins later; the other has gaps meanwhile.
            let common: Vec<_> = (0..video.len().min(audio.len()))
                .map(|back| (&video[video.len() - 1 - back], &audio[audio.len() - 1 - back]))
                .take_while(|(_, audio)| !audio.parts_ms.is_empty())
                .collect();
            assert!(common.len() >= 9, "{common:?}");
            for (video, audio) in &common[..9] {
                let late = audio.start_ms - video.start_ms;
                assert!((0.0..25.0).contains(&late), "{offset}: {late} at {}", video.start_ms);
            }
        }
    }

    #[test]
    fn a_picture_every_five_seconds_is_a_stream() {
        let inputs = [vec![video_config()], (0..10).map(|at| video(at * 5000, at % 2 == 0)).collect()].concat();
        let video = segments(&chunks(RULES, inputs), Rendition::Video);
        assert_eq!(lengths(&video)[..9], [5000; 9]);
    }

    #[test]
    fn clocks_that_stand_still_do_not_gather_samples_for_ever() {
        let mut chunker = Chunker::new(RULES);
        run(&mut chunker, vec![video_config(), audio_config(AAC_44100), video(0, true), audio(0)]);
        let parts = (0..20_000)
            .flat_map(|_| [chunker.push(video(0, false), 0), chunker.push(audio(0), 0)].concat())
            .filter(|chunk| matches!(chunk, Chunk::Part { .. }))
            .count();
        assert!(parts > 0);
        assert!(chunker.ahead.len() <= MAX_AHEAD_SAMPLES);
    }

    #[test]
    fn the_wall_clock_advances_with_the_media() {
        let mut chunker = Chunker::new(RULES);
        let mut walls = Vec::new();
        for (at, input) in both(10_000, 14_000, 25, 25).into_iter().enumerate() {
            // The first packets came at 1 000 000; later ones with whatever delay.
            for chunk in chunker.push(input, 1_000_000 + at as i64 * 3) {
                if let Chunk::Part { start, timescale, wall_ms, .. } = chunk {
                    walls.push(wall_ms - (start * 1000 / u64::from(timescale)) as i64);
                }
            }
        }
        assert!(!walls.is_empty());
        assert!(walls.iter().all(|offset| (offset - walls[0]).abs() <= 1), "{walls:?}");
        assert!((walls[0] - 990_000).abs() < 10, "{}", walls[0]);
    }

    /// What publishers do to a chunker.
    #[derive(Clone, Debug)]
    enum Deed {
        /// Milliseconds, frames a second, length of a GOP, which media.
        Play(i64, i64, i64, (bool, bool)),
        Pause(i64),
        Jump(i64),
        Reconfigure,
        Gap,
        Leave,
    }

    fn any_deed() -> impl Strategy<Value = Deed> {
        let media = prop::sample::select(vec![(true, true), (true, true), (true, false), (false, true)]);
        prop_oneof![
            4 => (10_i64..9000, 1_i64..70, 1_i64..400, media).prop_map(|(ms, fps, gop, with)| Deed::Play(ms, fps, gop, with)),
            1 => (0_i64..9000).prop_map(Deed::Pause),
            1 => (-20_000_i64..20_000).prop_map(Deed::Jump),
            1 => Just(Deed::Reconfigure),
            1 => Just(Deed::Gap),
            1 => Just(Deed::Leave),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_published_both_renditions_have_the_same_segments_without_holes(
            low_latency: bool,
            deeds in prop::collection::vec(any_deed(), 1..9),
        ) {
            let mut chunker = Chunker::new(ChunkRules { low_latency, ..RULES });
            let mut out = run(&mut chunker, vec![video_config(), audio_config(AAC_44100)]);
            let (mut now, mut other) = (0, false);
            for deed in deeds {
                match deed {
                    Deed::Play(ms, fps, gop, with) => {
                        out.extend(run(&mut chunker, stream(now, now + ms, fps, gop, with)));
                        now += ms;
                    }
                    Deed::Pause(ms) => now += ms,
                    Deed::Jump(ms) => now = (now + ms).max(0),
                    Deed::Reconfigure => {
                        other = !other;
                        out.extend(run(&mut chunker, vec![audio_config(if other { "1190" } else { AAC_44100 })]));
                    }
                    Deed::Gap => out.extend(chunker.gap()),
                    Deed::Leave => {
                        out.extend(chunker.end());
                        out.extend(run(&mut chunker, vec![video_config(), audio_config(AAC_44100)]));
                        other = false;
                    }
                }
            }
            out.extend(chunker.end());
            let (video, audio) = (segments(&out, Rendition::Video), segments(&out, Rendition::Audio));
            if let (Some(video), Some(audio)) = (video.last(), audio.last()) {
                prop_assert_eq!(video.number, audio.number);
            }
            for segment in video.iter().chain(&audio) {
                // What is allowed for rounding; a sample of audio, or its drift.
                prop_assert!(segment.ms() <= 6000.0 + f64::from(MAX_EXCESS_MS) + MAX_DRIFT_MS as f64 + 25.0, "{:?}", segment);
            }
            for two in video.windows(2).chain(audio.windows(2)) {
                prop_assert!(two[0].start_ms <= two[1].start_ms + 0.01, "{:?}", two);
            }
        }
    }
}
