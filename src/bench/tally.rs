//! What the players saw: who got which frame, how late, and what never came.

use super::histogram::Histogram;
use super::media::{self, Stamp};

/// One player's place in its stream.
#[derive(Debug)]
pub struct Viewing {
    /// The publisher whose frames it should see.
    stream: u64,
    connecting_ns: u64,
    asked_ns: Option<u64>,
    video: Track,
    audio: Track,
    /// Whether a keyframe has come: from then on it is a player that works.
    watching: bool,
    /// Video frames inside the window.
    frames: u64,
}

/// All players together.
#[derive(Default)]
pub struct Tally {
    /// Only what arrives in the window goes into the latencies; everything else counts from each player's first frame.
    pub in_window: bool,
    pub video_latency_ns: Histogram,
    pub audio_latency_ns: Histogram,
    pub connect_to_key_ns: Histogram,
    pub play_to_key_ns: Histogram,
    pub lost: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// Frames of another publisher's stream.
    pub foreign: u64,
}

impl Viewing {
    pub fn new(stream: u64, connecting_ns: u64) -> Self {
        Self {
            stream,
            connecting_ns,
            asked_ns: None,
            video: Track::default(),
            audio: Track::default(),
            watching: false,
            frames: 0,
        }
    }

    pub fn play_asked(&mut self, now_ns: u64) {
        self.asked_ns = Some(now_ns);
    }

    pub fn is_watching(&self) -> bool {
        self.watching
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes the body of an audio or video message.
    pub fn media(&mut self, video: bool, body: &[u8], now_ns: u64, tally: &mut Tally) {
        let Some(Stamp { publisher, sequence, sent_ns }) = media::read_stamp(body) else { return };
        if publisher != self.stream {
            tally.foreign += 1;
            return;
        }
        if video && !self.watching && media::is_keyframe(body) {
            self.watching = true;
            tally.connect_to_key_ns.record(now_ns - self.connecting_ns);
            tally.play_to_key_ns.record(now_ns - self.asked_ns.unwrap_or(self.connecting_ns));
        }
        let track = if video { &mut self.video } else { &mut self.audio };
        match track.arrive(sequence) {
            Arrival::InOrder => {}
            Arrival::After(missing) => tally.lost += missing,
            Arrival::Again => tally.duplicates += 1,
            Arrival::Late => tally.reordered += 1,
        }
        if tally.in_window {
            // The clock is one and monotonic, but a publisher elsewhere may have another.
            let latency_ns = now_ns.saturating_sub(sent_ns);
            if video {
                self.frames += 1;
                tally.video_latency_ns.record(latency_ns);
            } else {
                tally.audio_latency_ns.record(latency_ns);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Track {
    /// The sequence number that should come next, once one has come.
    next: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Arrival {
    InOrder,
    /// So many frames before this one have not come.
    After(u64),
    /// The frame that came last has come once more.
    Again,
    Late,
}

impl Track {
    fn arrive(&mut self, sequence: u64) -> Arrival {
        let expected = self.next.unwrap_or(sequence);
        if sequence < expected {
            return if sequence + 1 == expected { Arrival::Again } else { Arrival::Late };
        }
        self.next = Some(sequence + 1);
        if sequence == expected { Arrival::InOrder } else { Arrival::After(sequence - expected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::media::Due;

    fn frame(publisher: u64, video: bool, keyframe: bool, sequence: u64) -> Vec<u8> {
        let mut body = Vec::new();
        let due = Due { video, keyframe, sequence, at_ns: 0, time_ms: 0, len: 200 };
        media::write_frame(&mut body, &due, &Stamp { publisher, sequence, sent_ns: 1_000 });
        body
    }

    #[test]
    fn gaps_repeats_and_latecomers_are_told_apart() {
        let mut track = Track::default();
        let arrivals = [70, 71, 74, 74, 72, 75].map(|sequence| track.arrive(sequence));
        use Arrival::*;
        assert_eq!(arrivals, [InOrder, InOrder, After(2), Again, Late, InOrder]);
    }

    #[test]
    fn the_wait_ends_with_the_first_keyframe() {
        let mut tally = Tally::default();
        let mut viewing = Viewing::new(0, 100);
        viewing.play_asked(600);
        viewing.media(true, &media::video_config(), 700, &mut tally);
        viewing.media(true, &frame(0, true, false, 8), 800, &mut tally);
        assert!(!viewing.is_watching());
        viewing.media(true, &frame(0, true, true, 9), 1_100, &mut tally);
        viewing.media(true, &frame(0, true, true, 10), 5_000, &mut tally);
        assert!(viewing.is_watching());
        assert_eq!((tally.connect_to_key_ns.count(), tally.connect_to_key_ns.max()), (1, 1_000));
        assert_eq!(tally.play_to_key_ns.max(), 500);
    }

    #[test]
    fn latency_counts_inside_the_window_only_and_per_track() {
        let mut tally = Tally::default();
        let mut viewing = Viewing::new(0, 0);
        viewing.media(true, &frame(0, true, true, 0), 9_000, &mut tally);
        tally.in_window = true;
        viewing.media(true, &frame(0, true, false, 1), 1_020, &mut tally);
        viewing.media(false, &frame(0, false, false, 0), 1_500, &mut tally);
        assert_eq!((tally.video_latency_ns.count(), tally.video_latency_ns.max()), (1, 20));
        assert_eq!((tally.audio_latency_ns.count(), tally.audio_latency_ns.max()), (1, 500));
        assert_eq!(viewing.frames(), 1);
    }

    #[test]
    fn frames_of_another_stream_are_foreign() {
        let mut tally = Tally::default();
        Viewing::new(3, 0).media(true, &frame(4, true, true, 0), 1, &mut tally);
        assert_eq!(tally.foreign, 1);
    }
}
