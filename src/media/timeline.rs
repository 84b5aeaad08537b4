//! The unwrapped 64-bit timeline of a stream.

use std::time::Duration;

use super::packet::{PacketKind, Track};

/// Turns the clocks of one publisher after another into one time that starts at 0 and never goes back.
///
/// What comes in is a 32-bit count of milliseconds per medium, which wraps at 2^31 or 2^32, starts anywhere, steps back
/// when a file is looped, stands still, or is simply wrong. Nothing is held back to see what comes next: a jump is
/// answered at once, and when the other medium jumps the same way within seconds it is moved by the same amount, so
/// that sound and picture stay together.
#[derive(Clone, Debug)]
pub struct Timeline {
    rules: TimelineRules,
    audio: Lane,
    video: Lane,
    /// The last time given to a data message.
    data_ms: i64,
    /// Where this session begins. No frame of it is placed before.
    floor_ms: i64,
    /// This session is not the stream's first, and its first frame is still to come.
    marks_restart: bool,
    /// What one medium did last, in case the other follows.
    jump: Option<Jump>,
    now: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimelineRules {
    /// A step forward beyond this is a jump, unless as much time has passed here. 0 believes every step.
    pub max_forward_ms: i64,
    /// A step back beyond this is a jump; a smaller one is a late frame, or a frame stamped in presentation order.
    pub max_backward_ms: i64,
    /// A clock that has stood still for longer than this while frames came is replaced by the time of arrival.
    pub stuck_ms: i64,
}

impl Default for TimelineRules {
    fn default() -> Self {
        // 10 s is where ffmpeg's reader stops believing a step, too.
        Self { max_forward_ms: 10_000, max_backward_ms: 1_000, stuck_ms: 500 }
    }
}

/// Where a packet belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// On the stream's timeline; per track it never decreases.
    pub time_ms: i64,
    /// The picture and sound from here on do not continue what came before. Set once for a jump of both media.
    pub discontinuity: bool,
    /// What is worth a line in the log.
    pub notice: Option<Notice>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The publisher's clock was off by this much from where it was expected.
    Jumped { by_ms: i64 },
    /// The clock of this medium stands still: the time of arrival is used from now on.
    ClockStuck,
    /// The clock of this medium moves again and is used again.
    ClockMoves,
}

impl Timeline {
    pub fn new(rules: TimelineRules) -> Self {
        Self {
            rules,
            audio: Lane::new(AUDIO_FRAME_MS),
            video: Lane::new(VIDEO_FRAME_MS),
            data_ms: 0,
            floor_ms: 0,
            marks_restart: false,
            jump: None,
            now: Duration::ZERO,
        }
    }

    /// A publisher begins, the first one or another. His clock has nothing to do with the one before; his first frame
    /// follows the last one by a frame's duration.
    pub fn begin_session(&mut self, arrival: Duration) {
        self.now = self.now.max(arrival);
        self.audio.clock = None;
        self.video.clock = None;
        self.jump = None;
        if let Some(last) = self.audio.last_ms.max(self.video.last_ms) {
            let lane = if self.video.last_ms == Some(last) { &self.video } else { &self.audio };
            self.floor_ms = last + lane.frame_ms;
            self.marks_restart = true;
        }
    }

    /// Places a packet with timestamp `raw` that arrived at `arrival`, a time that only grows.
    ///
    /// Headers and metadata never move the clock, since encoders stamp them carelessly: they go to the last time of
    /// their track. The composition time does not matter here: what is placed is the decoding time.
    pub fn place(&mut self, track: Track, raw: u32, kind: PacketKind, _cts_ms: i32, arrival: Duration) -> Placed {
        self.now = self.now.max(arrival);
        let is_frame = matches!(kind, PacketKind::Key | PacketKind::Inter | PacketKind::Disposable | PacketKind::Audio);
        let time_ms = match track {
            Track::Audio | Track::Video if is_frame => return self.place_frame(track, raw),
            Track::Audio => self.audio.lower_bound(self.floor_ms),
            Track::Video => self.video.lower_bound(self.floor_ms),
            Track::Data => {
                let time_ms = if kind == PacketKind::Text { self.data_time(raw) } else { None };
                self.data_ms = self.data_ms.max(time_ms.unwrap_or_else(|| self.latest_ms()));
                self.data_ms
            }
        };
        Placed { time_ms, discontinuity: false, notice: None }
    }

    /// The last time given to a frame of either medium; 0 before the first.
    pub fn latest_ms(&self) -> i64 {
        self.audio.last_ms.max(self.video.last_ms).unwrap_or(0).max(self.floor_ms)
    }

    fn place_frame(&mut self, track: Track, raw: u32) -> Placed {
        let is_first_of_stream = self.audio.last_ms.is_none() && self.video.last_ms.is_none();
        let placed = match self.lane(track).clock {
            None => self.start(track, raw),
            Some(clock) if clock.stuck.is_some() => self.follow_arrival(track, clock, raw),
            Some(clock) => self.follow_clock(track, clock, raw),
        };
        debug_assert!(!is_first_of_stream || placed.time_ms == 0, "a stream starts at 0");
        self.lane_mut(track).last_ms = Some(placed.time_ms);
        placed
    }

    /// The first frame of a medium in this session.
    fn start(&mut self, track: Track, raw: u32) -> Placed {
        let lower_ms = self.lane(track).lower_bound(self.floor_ms);
        let mut clock = Clock::new(raw, self.now);
        let discontinuity = std::mem::take(&mut self.marks_restart);
        match self.other(track).clock {
            None => clock.offset_ms = lower_ms.max(self.floor_ms) - clock.raw_ms,
            Some(other) => {
                let step_ms = unwrapped_step(other.last_raw, raw);
                let raw_ms = other.raw_ms.saturating_add(step_ms);
                let short_ms = lower_ms - (raw_ms + other.offset_ms);
                // Both media run on one clock, as they should.
                if other.stuck.is_none() && step_ms.abs() <= SAME_CLOCK_MS && short_ms <= MAX_SHIFT_MS {
                    clock.raw_ms = raw_ms;
                    clock.offset_ms = other.offset_ms;
                    // This medium begins before the one that came first. Sent frames cannot be taken back, so the
                    // other one steps ahead.
                    if short_ms > 0 {
                        clock.offset_ms += short_ms;
                        self.shift_other(track, short_ms);
                    }
                } else {
                    let other_ms = self.other(track).lower_bound(self.floor_ms);
                    let time_ms = other_ms.saturating_add(millis(self.now.saturating_sub(other.last_arrival)));
                    clock.offset_ms = time_ms.max(lower_ms) - clock.raw_ms;
                }
            }
        }
        let time_ms = (clock.raw_ms + clock.offset_ms).max(lower_ms);
        self.lane_mut(track).clock = Some(clock);
        Placed { time_ms, discontinuity, notice: None }
    }

    fn follow_clock(&mut self, track: Track, mut clock: Clock, raw: u32) -> Placed {
        let step_ms = unwrapped_step(clock.last_raw, raw);
        let gap_ms = millis(self.now.saturating_sub(clock.last_arrival));
        clock.advance(raw, step_ms, self.now);

        if step_ms != 0 {
            (clock.still_since, clock.still_frames) = (self.now, 0);
        } else {
            clock.still_frames += 1;
            let still_ms = millis(self.now.saturating_sub(clock.still_since));
            // Two frames may well share a timestamp and be far apart on a bad line; it takes more to call it stuck.
            if still_ms > self.rules.stuck_ms && clock.still_frames >= STUCK_FRAMES {
                let start_ms = self.lane(track).lower_bound(self.floor_ms);
                clock.stuck = Some(Stuck { start_ms, since: clock.still_since, moving_frames: 0 });
                self.lane_mut(track).clock = Some(clock);
                let time_ms = start_ms.saturating_add(still_ms);
                return Placed { time_ms, discontinuity: false, notice: Some(Notice::ClockStuck) };
            }
        }

        let lower_ms = self.lane(track).lower_bound(self.floor_ms);
        let target_ms = clock.raw_ms + clock.offset_ms;
        if target_ms < lower_ms {
            let since = *clock.late_since.get_or_insert(self.now);
            clock.late_frames += 1;
            // Frames stamped in presentation order overtake each other for a moment. A clock that stays behind has
            // stepped back for good, if only a little.
            let stays_behind = millis(self.now.saturating_sub(since)) > self.rules.max_backward_ms
                || clock.late_frames > MAX_LATE_FRAMES;
            if step_ms < -self.rules.max_backward_ms || stays_behind {
                return self.jump(track, clock, target_ms, gap_ms);
            }
        } else {
            // Only a new highest time ends the lateness: a short loop reaches the old one again and again.
            if target_ms > lower_ms {
                (clock.late_since, clock.late_frames) = (None, 0);
            }
            let max_ms = if self.rules.max_forward_ms > 0 { self.rules.max_forward_ms } else { i64::MAX };
            // Being moved ahead to fit the other medium is no jump of this one.
            let is_too_far = step_ms > max_ms || target_ms - lower_ms > max_ms.max(MAX_SHIFT_MS + LONGEST_FRAME_MS);
            let has_passed_here = (gap_ms - step_ms).abs() <= PAUSE_TOLERANCE_MS + step_ms / 10;
            if step_ms < -self.rules.max_backward_ms || (is_too_far && !has_passed_here) {
                return self.jump(track, clock, target_ms, gap_ms);
            }
            self.rejoin(track, &mut clock, lower_ms, gap_ms);
        }
        let lane = self.lane_mut(track);
        if (1..=LONGEST_FRAME_MS).contains(&step_ms) {
            lane.frame_ms = step_ms;
        }
        lane.clock = Some(clock);
        let time_ms = (clock.raw_ms + clock.offset_ms).max(lower_ms);
        Placed { time_ms, discontinuity: false, notice: None }
    }

    /// The clock of this medium stood still: frames are placed by their arrival until it moves again.
    fn follow_arrival(&mut self, track: Track, mut clock: Clock, raw: u32) -> Placed {
        let Some(mut stuck) = clock.stuck else {
            return self.follow_clock(track, clock, raw);
        };
        let step_ms = unwrapped_step(clock.last_raw, raw);
        clock.advance(raw, step_ms, self.now);
        // One step may be a clock of whole seconds, or an encoder's mood.
        stuck.moving_frames = if step_ms == 0 { 0 } else { stuck.moving_frames + 1 };
        clock.stuck = Some(stuck);
        let lower_ms = self.lane(track).lower_bound(self.floor_ms);
        let arrival_ms = stuck.start_ms.saturating_add(millis(self.now.saturating_sub(stuck.since))).max(lower_ms);

        let mut placed = Placed { time_ms: arrival_ms, discontinuity: false, notice: None };
        if stuck.moving_frames >= STUCK_FRAMES {
            // Back to the offset it had, or the other medium's, where that fits: so both are in step again.
            let offsets = [Some(clock.offset_ms), self.healthy_offset(self.other(track))];
            let fitting = offsets
                .into_iter()
                .flatten()
                .find(|offset_ms| (clock.raw_ms.saturating_add(*offset_ms) - arrival_ms).abs() <= SAME_JUMP_MS);
            clock.offset_ms = fitting.unwrap_or(arrival_ms - clock.raw_ms);
            clock.stuck = None;
            (clock.still_since, clock.still_frames) = (self.now, 0);
            (clock.late_since, clock.late_frames) = (None, 0);
            placed.time_ms = (clock.raw_ms + clock.offset_ms).max(lower_ms);
            placed.notice = Some(Notice::ClockMoves);
        }
        self.lane_mut(track).clock = Some(clock);
        placed
    }

    /// This medium's clock is not where it can be. Time goes on from the last frame.
    fn jump(&mut self, track: Track, mut clock: Clock, target_ms: i64, gap_ms: i64) -> Placed {
        let lane = self.lane(track);
        let lower_ms = lane.lower_bound(self.floor_ms);
        let frame_ms = lane.frame_ms;
        // After real silence the other medium may have gone on, so the silence counts.
        let expected_ms = lower_ms.saturating_add(if gap_ms > LONGEST_FRAME_MS { gap_ms } else { frame_ms });
        let by_ms = target_ms - expected_ms;

        let tolerance_ms = (SAME_JUMP_MS + by_ms.saturating_abs() / 20).min(MAX_SHIFT_MS);
        let followed = self.jump.take().filter(|jump| {
            jump.track != track
                && millis(self.now.saturating_sub(jump.arrival)) <= PAIR_WINDOW_MS
                && (jump.by_ms - by_ms).abs() <= tolerance_ms
        });
        let shared_offset_ms = self
            .healthy_offset(self.other(track))
            .filter(|offset_ms| (clock.raw_ms.saturating_add(*offset_ms) - expected_ms).abs() <= SAME_JUMP_MS);
        let offset_ms = match followed {
            // The other medium went first: the same correction keeps the two together.
            Some(jump) => Some(clock.offset_ms + jump.correction_ms),
            // The other medium's clock explains where this one is now.
            None => shared_offset_ms,
        };
        let correction_ms = match offset_ms {
            Some(offset_ms) => {
                let short_ms = (lower_ms + frame_ms - (clock.raw_ms + offset_ms)).max(0);
                self.shift_other(track, short_ms);
                offset_ms + short_ms - clock.offset_ms
            }
            None => -by_ms,
        };
        clock.offset_ms += correction_ms;
        (clock.late_since, clock.late_frames) = (None, 0);
        // The time that passed is accounted for: it does not count for a stuck clock as well.
        (clock.still_since, clock.still_frames) = (self.now, 0);
        let time_ms = (clock.raw_ms + clock.offset_ms).max(lower_ms);
        self.lane_mut(track).clock = Some(clock);
        if followed.is_some() {
            return Placed { time_ms, discontinuity: false, notice: None };
        }
        self.jump = Some(Jump { track, by_ms, correction_ms, arrival: self.now });
        Placed { time_ms, discontinuity: true, notice: Some(Notice::Jumped { by_ms }) }
    }

    /// A medium that jumped alone and now jumps back, by too little to be called a jump, belongs with the other again.
    fn rejoin(&mut self, track: Track, clock: &mut Clock, lower_ms: i64, gap_ms: i64) {
        let target_ms = clock.raw_ms + clock.offset_ms;
        if target_ms - lower_ms - gap_ms <= SAME_JUMP_MS {
            return;
        }
        let expected_ms = lower_ms + self.lane(track).frame_ms;
        if let Some(offset_ms) = self.healthy_offset(self.other(track))
            && (clock.raw_ms.saturating_add(offset_ms) - expected_ms).abs() <= SAME_JUMP_MS
        {
            clock.offset_ms = offset_ms;
        }
    }

    /// Where a data message belongs by the clock of the media, if it carries a time of that clock at all.
    fn data_time(&self, raw: u32) -> Option<i64> {
        let clock = self.video.clock.or(self.audio.clock).filter(|clock| clock.stuck.is_none())?;
        let step_ms = unwrapped_step(clock.last_raw, raw);
        let time_ms = (clock.raw_ms + clock.offset_ms).saturating_add(step_ms).max(self.floor_ms);
        (step_ms.abs() <= SAME_CLOCK_MS).then_some(time_ms)
    }

    fn healthy_offset(&self, lane: &Lane) -> Option<i64> {
        lane.clock.filter(|clock| clock.stuck.is_none()).map(|clock| clock.offset_ms)
    }

    fn shift_other(&mut self, track: Track, by_ms: i64) {
        if let Some(clock) = &mut self.other_mut(track).clock {
            clock.offset_ms += by_ms;
        }
    }

    fn lane(&self, track: Track) -> &Lane {
        if track == Track::Audio { &self.audio } else { &self.video }
    }

    fn lane_mut(&mut self, track: Track) -> &mut Lane {
        if track == Track::Audio { &mut self.audio } else { &mut self.video }
    }

    fn other(&self, track: Track) -> &Lane {
        if track == Track::Audio { &self.video } else { &self.audio }
    }

    fn other_mut(&mut self, track: Track) -> &mut Lane {
        if track == Track::Audio { &mut self.video } else { &mut self.audio }
    }
}

/// One medium of the stream, across publishers.
#[derive(Clone, Debug)]
struct Lane {
    last_ms: Option<i64>,
    /// How far apart frames are, to guess where the next one belongs.
    frame_ms: i64,
    clock: Option<Clock>,
}

impl Lane {
    fn new(frame_ms: i64) -> Self {
        Self { last_ms: None, frame_ms, clock: None }
    }

    fn lower_bound(&self, floor_ms: i64) -> i64 {
        self.last_ms.map_or(floor_ms, |last_ms| last_ms.max(floor_ms))
    }
}

/// The publisher's clock for one medium: the time on the timeline is `raw_ms + offset_ms`.
#[derive(Clone, Copy, Debug)]
struct Clock {
    last_raw: u32,
    /// The raw time without its wraps.
    raw_ms: i64,
    offset_ms: i64,
    last_arrival: Duration,
    still_since: Duration,
    still_frames: u32,
    late_since: Option<Duration>,
    late_frames: u32,
    stuck: Option<Stuck>,
}

#[derive(Clone, Copy, Debug)]
struct Stuck {
    start_ms: i64,
    since: Duration,
    moving_frames: u32,
}

#[derive(Clone, Copy, Debug)]
struct Jump {
    track: Track,
    by_ms: i64,
    correction_ms: i64,
    arrival: Duration,
}

impl Clock {
    fn new(raw: u32, now: Duration) -> Self {
        Self {
            last_raw: raw,
            raw_ms: i64::from(raw),
            offset_ms: 0,
            last_arrival: now,
            still_since: now,
            still_frames: 0,
            late_since: None,
            late_frames: 0,
            stuck: None,
        }
    }

    fn advance(&mut self, raw: u32, step_ms: i64, now: Duration) {
        self.last_raw = raw;
        self.raw_ms = self.raw_ms.saturating_add(step_ms);
        self.last_arrival = now;
    }
}

/// How far the clock went, by serial arithmetic. ffmpeg and OBS mask the top bit of the FLV timestamp, so a step back
/// by nearly 2^31 is their wrap, and a step forward by nearly 2^31 is a late frame from before it.
fn unwrapped_step(last_raw: u32, raw: u32) -> i64 {
    let step = i64::from(raw.wrapping_sub(last_raw).cast_signed());
    if step <= -HALF + WRAP_WINDOW_MS {
        step + HALF
    } else if step >= HALF - WRAP_WINDOW_MS {
        step - HALF
    } else {
        step
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

const HALF: i64 = 1 << 31;
/// How far from a wrap at 2^31 a frame may be to be counted as belonging to it.
const WRAP_WINDOW_MS: i64 = 60_000;
/// Until the publisher has shown better: AAC at 44.1 kHz, and 30 frames a second.
const AUDIO_FRAME_MS: i64 = 23;
const VIDEO_FRAME_MS: i64 = 33;
/// A longer step is a gap, not the rhythm of the stream.
const LONGEST_FRAME_MS: i64 = 1000;
/// Two tracks whose timestamps begin no further apart than this run on one clock.
const SAME_CLOCK_MS: i64 = 10_000;
/// How much the arrival of a frame after a pause may differ from its timestamp, plus a tenth of the pause.
const PAUSE_TOLERANCE_MS: i64 = 2000;
/// Two media that jump within this time of each other, by the same within `SAME_JUMP_MS` (and a twentieth of the jump,
/// since the two ends of a looped file are rarely flush), jumped together.
const PAIR_WINDOW_MS: i64 = 10_000;
const SAME_JUMP_MS: i64 = 1000;
/// The most that one medium is moved ahead so that the other fits. With a frame's step it stays below a jump.
const MAX_SHIFT_MS: i64 = 6000;
/// So many frames in a row say that a clock stands still, or moves again.
const STUCK_FRAMES: u32 = 3;
/// Nobody reorders as many frames; this counts when everything arrives at once and no time passes.
const MAX_LATE_FRAMES: u32 = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A publisher that sends a video frame every 40 ms and an audio frame every 20 ms, at the pace of the wall clock.
    struct Feed {
        timeline: Timeline,
        now: Duration,
        discontinuities: usize,
        notices: Vec<Notice>,
        last: [Option<i64>; 2],
    }

    impl Feed {
        fn new() -> Self {
            let mut timeline = Timeline::new(TimelineRules::default());
            timeline.begin_session(Duration::ZERO);
            Self { timeline, now: Duration::ZERO, discontinuities: 0, notices: Vec::new(), last: [None; 2] }
        }

        fn wait(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn frame(&mut self, track: Track, raw: u32) -> i64 {
            let kind = if track == Track::Audio { PacketKind::Audio } else { PacketKind::Inter };
            let placed = self.timeline.place(track, raw, kind, 0, self.now);
            self.discontinuities += usize::from(placed.discontinuity);
            self.notices.extend(placed.notice);
            let last = &mut self.last[usize::from(track == Track::Video)];
            assert!(last.is_none_or(|last| placed.time_ms >= last), "{track:?} went back: {last:?} {placed:?}");
            *last = Some(placed.time_ms);
            placed.time_ms
        }

        fn audio(&mut self, raw: u32) -> i64 {
            self.frame(Track::Audio, raw)
        }

        fn video(&mut self, raw: u32) -> i64 {
            self.frame(Track::Video, raw)
        }

        /// Plays `ms` of both media whose raw clocks start at these values; returns the times of the last frames.
        fn run(&mut self, audio: u32, video: u32, ms: u32) -> (i64, i64) {
            let mut times = (0, 0);
            for at in (0..ms).step_by(20) {
                if at % 40 == 0 {
                    times.1 = self.video(video.wrapping_add(at));
                }
                times.0 = self.audio(audio.wrapping_add(at));
                self.wait(20);
            }
            times
        }
    }

    #[test]
    fn any_start_becomes_zero() {
        for start in [0, 16_776_000, (1 << 31) - 2000, u32::MAX - 2000] {
            let mut feed = Feed::new();
            assert_eq!(feed.video(start), 0, "{start}");
            assert_eq!(feed.audio(start), 0, "{start}");
            assert_eq!(feed.run(start.wrapping_add(20), start.wrapping_add(40), 10_000), (10_000, 10_000), "{start}");
            assert_eq!((feed.discontinuities, feed.notices.len()), (0, 0), "{start}");
        }
    }

    #[test]
    fn a_31_bit_clock_that_wraps_goes_on() {
        let mut feed = Feed::new();
        feed.video(2_147_483_600);
        assert_eq!(feed.video(2_147_483_640), 40);
        assert_eq!(feed.video(32), 80);
        assert_eq!(feed.video(72), 120);
        // The other medium crosses it a moment later, and one frame is late from before it.
        assert_eq!(feed.audio(2_147_483_630), 30);
        assert_eq!(feed.audio(2), 50);
        assert_eq!(feed.audio(2_147_483_640), 50);
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn a_medium_that_starts_across_the_wrap_is_on_the_same_clock() {
        let mut feed = Feed::new();
        feed.video(2_147_483_640);
        assert_eq!(feed.audio(12), 20);
        assert_eq!(feed.video(32), 40);
        assert_eq!(feed.audio(32), 40);
    }

    #[test]
    fn headers_do_not_move_the_clock() {
        let mut feed = Feed::new();
        let at = feed.now;
        let config = |feed: &mut Feed, track| feed.timeline.place(track, 0, PacketKind::Config, 0, at).time_ms;
        assert_eq!(config(&mut feed, Track::Video), 0);
        assert_eq!(feed.video(5_000_000), 0);
        assert_eq!(feed.video(5_000_040), 40);
        assert_eq!(config(&mut feed, Track::Video), 40);
        assert_eq!(config(&mut feed, Track::Audio), 0);
        assert_eq!(feed.video(5_000_080), 80);
        assert_eq!(feed.timeline.place(Track::Data, 0, PacketKind::Metadata, 0, at).time_ms, 80);
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn data_follows_the_clock_of_the_media() {
        let mut feed = Feed::new();
        let text = |feed: &mut Feed, raw| feed.timeline.place(Track::Data, raw, PacketKind::Text, 0, feed.now).time_ms;
        assert_eq!(text(&mut feed, 77), 0);
        feed.video(5_000_000);
        feed.video(5_000_400);
        assert_eq!(text(&mut feed, 5_000_420), 420);
        assert_eq!(text(&mut feed, 5_000_100), 420);
        assert_eq!(text(&mut feed, 0), 420);
    }

    #[test]
    fn audio_five_seconds_ahead_stays_ahead() {
        let mut feed = Feed::new();
        feed.video(0);
        assert_eq!(feed.audio(5000), 5000);
        assert_eq!(feed.run(5020, 40, 10_000), (15_000, 10_000));
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn a_medium_that_starts_behind_the_first_moves_the_first_ahead() {
        let mut feed = Feed::new();
        assert_eq!(feed.audio(5000), 0);
        assert_eq!(feed.video(0), 0);
        assert_eq!(feed.audio(5020), 5020);
        assert_eq!(feed.video(40), 40);
    }

    #[test]
    fn media_with_unrelated_clocks_are_aligned_by_arrival() {
        let mut feed = Feed::new();
        feed.audio(7_000_000);
        feed.wait(300);
        assert_eq!(feed.video(100), 300);
        assert_eq!(feed.run(7_000_320, 140, 1000), (1300, 1300));
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn one_medium_alone_is_a_stream() {
        for track in [Track::Audio, Track::Video] {
            let mut feed = Feed::new();
            let times: Vec<_> = (0..5).map(|n| feed.frame(track, 1000 + n * 25)).collect();
            assert_eq!(times, [0, 25, 50, 75, 100]);
        }
    }

    #[test]
    fn video_that_appears_late_keeps_its_place() {
        let mut feed = Feed::new();
        for n in 0..150 {
            feed.audio(n * 20);
            feed.wait(20);
        }
        assert_eq!(feed.video(3000), 3000);
        assert_eq!(feed.run(3000, 3040, 1000), (3980, 4000));
    }

    #[test]
    fn a_clock_that_stands_still_is_replaced_by_arrival_and_believed_again_when_it_moves() {
        let mut feed = Feed::new();
        for _ in 0..101 {
            feed.video(0);
            feed.audio(0);
            feed.wait(20);
        }
        assert_eq!(feed.notices, [Notice::ClockStuck, Notice::ClockStuck]);
        assert_eq!(feed.last, [Some(2000), Some(2000)]);
        feed.run(9_000_000, 9_000_000, 2000);
        assert_eq!(&feed.notices[2..], [Notice::ClockMoves, Notice::ClockMoves]);
        let [audio, video] = feed.last.map(Option::unwrap);
        assert!((3900..=4100).contains(&audio) && (audio - video).abs() <= 60, "{audio} {video}");
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn a_clock_that_was_frozen_for_a_while_finds_its_old_place() {
        let mut feed = Feed::new();
        feed.run(0, 0, 1000);
        for _ in 0..50 {
            feed.video(960);
            feed.wait(20);
        }
        assert_eq!(feed.notices, [Notice::ClockStuck]);
        assert_eq!(feed.run(2000, 2000, 1000), (2980, 2960));
    }

    #[test]
    fn frames_that_share_a_timestamp_are_no_stuck_clock() {
        let mut feed = Feed::new();
        feed.video(0);
        feed.wait(3000);
        assert_eq!(feed.video(0), 0);
        assert_eq!(feed.video(40), 40);
        for _ in 0..100 {
            assert_eq!(feed.video(80), 80);
        }
        assert!(feed.notices.is_empty());
    }

    #[test]
    fn a_gap_before_a_stuck_clock_is_counted_once() {
        let mut feed = Feed::new();
        feed.run(2000, 2000, 40);
        feed.video(1040);
        feed.video(1040);
        feed.wait(14_000);
        for _ in 0..10 {
            assert_eq!(feed.video(1040), 14_000);
        }
    }

    #[test]
    fn timestamps_in_presentation_order_never_go_back() {
        let mut feed = Feed::new();
        let times: Vec<_> = [0, 120, 40, 80, 240, 160, 200, 360].map(|raw| feed.video(raw)).into();
        assert_eq!(times, [0, 120, 120, 120, 240, 240, 240, 360]);
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn a_step_back_of_both_media_goes_on_in_step() {
        let mut feed = Feed::new();
        assert_eq!(feed.run(10_000, 10_000, 5000), (4980, 4960));
        assert_eq!(feed.run(13_000, 13_000, 1000), (5980, 5960));
        assert_eq!(feed.discontinuities, 1);
        assert!(matches!(feed.notices[..], [Notice::Jumped { by_ms: -2000 }]));
    }

    #[test]
    fn a_step_back_of_one_medium_leaves_the_other_alone() {
        let mut feed = Feed::new();
        feed.run(10_000, 10_000, 5000);
        assert_eq!(feed.run(13_000, 15_000, 5000), (9980, 9960));
        assert_eq!(feed.discontinuities, 1);
        // And when it comes back, sound and picture are where they were.
        assert_eq!(feed.run(20_000, 20_000, 1000), (10_980, 10_960));
    }

    #[test]
    fn a_looped_file_goes_on_in_step_however_its_ends_fit() {
        for (audio_end, video_end) in [(10_000, 10_000), (9_500, 10_000), (10_000, 9_300), (8_600, 10_000)] {
            let mut feed = Feed::new();
            for _ in 0..5 {
                for at in (0..10_000).step_by(20) {
                    if at % 40 == 0 && at < video_end {
                        feed.video(at);
                    }
                    if at < audio_end {
                        feed.audio(at);
                    }
                    feed.wait(20);
                }
            }
            let [audio, video] = feed.last.map(Option::unwrap);
            let skew = (audio - video) - i64::from(audio_end) + i64::from(video_end);
            assert!(skew.abs() <= 60, "{audio_end} {video_end}: {audio} {video}");
            assert!((45_000..=51_000).contains(&audio), "{audio}");
            assert_eq!(feed.discontinuities, 4);
        }
    }

    #[test]
    fn a_loop_shorter_than_a_jump_still_makes_progress() {
        let mut feed = Feed::new();
        for _ in 0..100 {
            feed.run(0, 0, 800);
        }
        let [audio, video] = feed.last.map(Option::unwrap);
        assert!(audio > 25_000 && (audio - video).abs() < 1000, "{audio} {video}");
    }

    #[test]
    fn a_jump_of_an_hour_ahead_is_not_believed() {
        let mut feed = Feed::new();
        feed.run(0, 0, 5000);
        assert_eq!(feed.run(3_605_000, 3_605_000, 1000), (5980, 5960));
        assert_eq!(feed.discontinuities, 1);
    }

    #[test]
    fn a_pause_that_really_passed_is_kept() {
        let mut feed = Feed::new();
        feed.run(0, 0, 5000);
        feed.wait(3_599_000);
        assert_eq!(feed.run(3_605_000, 3_605_000, 1000), (3_605_980, 3_605_960));
        assert_eq!(feed.discontinuities, 0);
    }

    #[test]
    fn a_first_frame_at_zero_before_the_real_clock_does_no_harm() {
        let mut feed = Feed::new();
        feed.audio(0);
        feed.wait(20);
        assert_eq!(feed.run(5_000_000, 5_000_000, 1000), (1003, 983));
        assert_eq!(feed.discontinuities, 1);
    }

    #[test]
    fn a_new_publisher_goes_on_after_the_last_frame_of_both() {
        let mut feed = Feed::new();
        feed.run(0, 0, 5000);
        assert_eq!(feed.audio(6000), 6000);
        feed.timeline.begin_session(feed.now);
        let config = feed.timeline.place(Track::Video, 0, PacketKind::Config, 0, feed.now);
        assert_eq!((config.time_ms, config.discontinuity), (6020, false));
        assert_eq!(feed.run(777_000, 777_000, 1000), (7000, 6980));
        assert_eq!(feed.discontinuities, 1);
        // A publisher that left without a frame changes nothing.
        feed.timeline.begin_session(feed.now);
        feed.timeline.begin_session(feed.now);
        assert_eq!(feed.audio(1), 7020);
    }

    #[test]
    fn media_that_start_apart_in_a_new_session_stay_above_the_old_one() {
        let mut feed = Feed::new();
        feed.run(0, 0, 1000);
        feed.timeline.begin_session(feed.now);
        assert_eq!(feed.audio(5000), 1000);
        assert_eq!(feed.video(0), 1000);
        assert_eq!(feed.audio(5020), 6020);
        assert_eq!(feed.video(40), 1040);
    }

    proptest! {
        #[test]
        fn no_clock_makes_time_go_back_or_leap(
            steps in prop::collection::vec(
                (any::<bool>(), prop_oneof![4 => 0_u32..60, 2 => any::<u32>(), 1 => Just(0), 1 => 4_294_960_000_u32..], 0_u64..2000, 0_u8..200),
                0..400,
            ),
        ) {
            let mut feed = Feed::new();
            let mut raw = [0_u32; 2];
            let mut starts = [false; 2];
            // When the clock last moved time: one that stood still makes up for all of it at once.
            let mut arrivals = [None; 2];
            for (is_video, step, wait, choice) in steps {
                feed.wait(if choice < 20 { wait * 20 } else { wait / 20 });
                if choice == 199 {
                    feed.timeline.begin_session(feed.now);
                    starts = [true; 2];
                }
                let track = if is_video { Track::Video } else { Track::Audio };
                let lane = usize::from(is_video);
                raw[lane] = raw[lane].wrapping_add(step);
                let before = feed.last;
                let time = feed.frame(track, raw[lane]);
                if let (Some(last), Some(arrival)) = (before[lane], arrivals[lane]) {
                    let gap = millis(feed.now - arrival);
                    // A medium that starts in a session finds its place beside the other.
                    let newest = if std::mem::take(&mut starts[lane]) { before[0].max(before[1]).unwrap() } else { last };
                    let allowed = newest + 10_000_i64.max(gap * 5 / 4 + 8_000);
                    prop_assert!(time <= allowed, "{last} -> {time} after {gap} ms");
                }
                if before[lane] != Some(time) && step != 0 {
                    arrivals[lane] = Some(feed.now);
                }
            }
        }

        #[test]
        fn sound_and_picture_stay_together_when_both_jump(
            start: u32,
            jumps in prop::collection::vec((any::<u32>(), 0_u32..800, any::<bool>()), 1..8),
        ) {
            let mut feed = Feed::new();
            feed.run(start, start, 3000);
            for (at, apart, audio_first) in jumps {
                let (audio, video) = if audio_first { (at, at.wrapping_add(apart)) } else { (at.wrapping_add(apart), at) };
                let (audio_ms, video_ms) = feed.run(audio, video, 3000);
                let skew = (audio_ms - video_ms) - i64::from(audio.wrapping_sub(video).cast_signed());
                prop_assert!(skew.abs() <= 1000, "{audio_ms} {video_ms} {audio} {video}");
            }
        }
    }
}
