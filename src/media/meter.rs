//! What the frames of a stream tell about it: rates of the last seconds, the length of its GOPs, how far sound and picture
//! are apart.

use std::time::Duration;

use super::packet::{PacketKind, Track};

/// Measures one stream while it is published. Plain numbers in; what they come to is asked for rarely.
#[derive(Debug, Default)]
pub struct Meter {
    began: Option<Duration>,
    seconds: [Second; SECONDS],
    /// The second that is being counted.
    newest: u64,
    totals: Totals,
    audio_ms: Option<i64>,
    video_ms: Option<i64>,
    /// The last keyframe, and frames since then.
    key_ms: Option<i64>,
    since_key: u32,
    gop: Option<Gop>,
    /// When the last frame of the track that sets the pace came, and its time.
    paced: Option<(Duration, i64)>,
    jitter_us: u64,
}

/// One second of the recent past.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    audio: u64,
    video: u64,
    data: u64,
    out: u64,
    video_frames: u32,
    audio_frames: u32,
}

/// Since the publisher came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub video_frames: u64,
    pub audio_frames: u64,
    pub keyframes: u64,
    /// Since there is the stream.
    pub bytes_out: u64,
}

/// From one keyframe to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gop {
    pub ms: i64,
    pub frames: u32,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// Bits a second over the last ten.
    pub bits_in: u64,
    pub bits_audio: u64,
    pub bits_video: u64,
    pub bits_out: u64,
    /// Frames of video a second over the last ten.
    pub fps: f32,
    pub gop: Option<Gop>,
    /// How far audio is ahead of video; none where there is only one of them.
    pub av_offset_ms: Option<i64>,
    /// How unevenly frames come, as RFC 3550 reckons it.
    pub jitter_ms: f32,
    /// The newest of each, on the stream's timeline.
    pub audio_ms: Option<i64>,
    pub video_ms: Option<i64>,
    pub totals: Totals,
}

impl Meter {
    /// A publisher begins: what is known of the one before it is of no use.
    pub fn begin(&mut self, now: Duration) {
        let totals = Totals { bytes_out: self.totals.bytes_out, ..Totals::default() };
        *self = Self { began: Some(now), newest: now.as_secs(), totals, ..Self::default() };
    }

    /// A message came.
    pub fn count_in(&mut self, track: Track, bytes: usize, now: Duration) {
        let second = self.second(now);
        match track {
            Track::Audio => second.audio += bytes as u64,
            Track::Video => second.video += bytes as u64,
            Track::Data => second.data += bytes as u64,
        }
    }

    /// So many bytes went to those who watch.
    pub fn count_out(&mut self, bytes: u64, now: Duration) {
        self.second(now).out += bytes;
        self.totals.bytes_out += bytes;
    }

    /// A frame has its place in time.
    pub fn frame(&mut self, track: Track, kind: PacketKind, time_ms: i64, now: Duration) {
        match kind {
            PacketKind::Audio => {
                self.second(now).audio_frames += 1;
                self.totals.audio_frames += 1;
                self.audio_ms = Some(time_ms);
                if self.video_ms.is_none() {
                    self.pace(time_ms, now);
                }
            }
            PacketKind::Key | PacketKind::Inter | PacketKind::Disposable if track == Track::Video => {
                self.second(now).video_frames += 1;
                self.totals.video_frames += 1;
                if self.video_ms.is_none() {
                    // The picture sets the pace from here on.
                    self.paced = None;
                }
                self.video_ms = Some(time_ms);
                if kind == PacketKind::Key {
                    let frames = self.since_key;
                    self.gop = self.key_ms.map(|key_ms| Gop { ms: time_ms - key_ms, frames }).or(self.gop);
                    self.key_ms = Some(time_ms);
                    self.since_key = 0;
                    self.totals.keyframes += 1;
                }
                self.since_key = self.since_key.saturating_add(1);
                self.pace(time_ms, now);
            }
            _ => {}
        }
    }

    pub fn read(&self, now: Duration) -> Readings {
        let Some(began) = self.began else {
            return Readings { totals: self.totals, ..Readings::default() };
        };
        // Whole seconds only, and not the one in which the publisher came, unless there is no other.
        let end = now.as_secs();
        let start = end.saturating_sub(SECONDS as u64 - 1).max(began.as_secs() + 1).min(end.saturating_sub(1));
        let is_counted = |second: u64| second <= self.newest && second + SECONDS as u64 > self.newest;
        let counted = (start..end).filter(|second| is_counted(*second));
        let sum = counted.fold(Second::default(), |sum, at| {
            let one = self.seconds[(at % SECONDS as u64) as usize];
            Second {
                audio: sum.audio + one.audio,
                video: sum.video + one.video,
                data: sum.data + one.data,
                out: sum.out + one.out,
                video_frames: sum.video_frames + one.video_frames,
                audio_frames: sum.audio_frames + one.audio_frames,
            }
        });
        let seconds = end.saturating_sub(start).max(1);
        let bits = |bytes: u64| bytes * 8 / seconds;
        Readings {
            bits_in: bits(sum.audio + sum.video + sum.data),
            bits_audio: bits(sum.audio),
            bits_video: bits(sum.video),
            bits_out: bits(sum.out),
            fps: sum.video_frames as f32 / seconds as f32,
            gop: self.gop,
            av_offset_ms: self.audio_ms.zip(self.video_ms).map(|(audio, video)| audio - video),
            jitter_ms: self.jitter_us as f32 / 1000.0,
            audio_ms: self.audio_ms,
            video_ms: self.video_ms,
            totals: self.totals,
        }
    }

    fn second(&mut self, now: Duration) -> &mut Second {
        let second = now.as_secs();
        if second > self.newest {
            for passed in (self.newest + 1..=second).rev().take(SECONDS) {
                self.seconds[(passed % SECONDS as u64) as usize] = Second::default();
            }
            self.newest = second;
        }
        &mut self.seconds[(self.newest % SECONDS as u64) as usize]
    }

    /// RFC 3550, 6.4.1: how much later or earlier than its time says a frame comes after the one before it.
    fn pace(&mut self, time_ms: i64, now: Duration) {
        if let Some((came, of_ms)) = self.paced {
            let apart_us = now.saturating_sub(came).as_micros() as i64;
            // A clock that leaps is counted as a jump, not as uneven coming.
            let meant_us = (time_ms - of_ms).clamp(-LEAP_MS, LEAP_MS) * 1000;
            let off_us = (apart_us - meant_us).unsigned_abs().min(LEAP_MS as u64 * 1000);
            self.jitter_us = (self.jitter_us * 15 + off_us) / 16;
        }
        self.paced = Some((now, time_ms));
    }
}

/// Ten whole seconds and the one that is being counted.
const SECONDS: usize = 11;

/// Frames further apart than this say nothing about evenness.
const LEAP_MS: i64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// 25 frames of 5000 bytes and 43 of 278 each second, a keyframe every two.
    fn live(meter: &mut Meter, from_ms: u64, to_ms: u64) {
        for ms in from_ms..to_ms {
            if ms % 40 == 0 {
                let kind = if ms % 2000 == 0 { PacketKind::Key } else { PacketKind::Inter };
                meter.count_in(Track::Video, 5000, at(ms));
                meter.frame(Track::Video, kind, ms as i64, at(ms));
                meter.count_out(5000 * 3, at(ms));
            }
            if ms % 23 == 0 {
                meter.count_in(Track::Audio, 278, at(ms));
                meter.frame(Track::Audio, PacketKind::Audio, ms as i64 + 80, at(ms));
            }
        }
    }

    #[test]
    fn rates_are_those_of_the_last_whole_seconds() {
        let mut meter = Meter::default();
        meter.begin(at(300));
        live(&mut meter, 300, 25_500);
        let read = meter.read(at(25_500));
        assert_eq!((read.bits_video, read.bits_out, read.fps), (1_000_000, 3_000_000, 25.0));
        assert!((95_000..99_000).contains(&read.bits_audio), "{read:?}");
        assert_eq!(read.bits_in, read.bits_audio + read.bits_video);
        assert_eq!(read.gop, Some(Gop { ms: 2000, frames: 50 }));
        assert!((40..130).contains(&read.av_offset_ms.expect("there are both")), "{read:?}");
        assert!(read.jitter_ms < 1.0, "{read:?}");
    }

    #[test]
    fn a_stream_is_measured_from_its_second_second_on_and_forgotten_when_it_is_silent() {
        let mut meter = Meter::default();
        meter.begin(at(300));
        live(&mut meter, 300, 2_400);
        assert_eq!(meter.read(at(2_400)).fps, 25.0);
        assert_eq!(meter.read(at(7_400)).fps, 35.0 / 6.0, "1.4 seconds of six");
        assert_eq!((meter.read(at(15_000)).fps, meter.read(at(15_000)).bits_in), (0.0, 0));
        meter.begin(at(15_000));
        assert_eq!((meter.read(at(15_100)).gop, meter.read(at(15_100)).av_offset_ms), (None, None));
        assert_eq!(meter.read(at(15_100)).totals.bytes_out, 5000 * 3 * 52, "what went out went out");
    }

    #[test]
    fn frames_that_come_in_bursts_show_as_jitter() {
        let mut meter = Meter::default();
        meter.begin(at(0));
        for burst in 0..50_u64 {
            for frame in 0..10 {
                let time_ms = (burst * 400 + frame * 40) as i64;
                meter.frame(Track::Video, PacketKind::Inter, time_ms, at(burst * 400));
            }
        }
        assert!(meter.read(at(20_000)).jitter_ms > 20.0, "{:?}", meter.read(at(20_000)));
    }

    #[test]
    fn a_leap_of_the_clock_is_no_panic() {
        let mut meter = Meter::default();
        meter.begin(at(0));
        for time_ms in [0, i64::from(u32::MAX), -5, 1 << 40] {
            meter.frame(Track::Video, PacketKind::Key, time_ms, at(1_000));
        }
        assert!(meter.read(at(86_400_000)).jitter_ms <= 10_000.0);
    }
}
