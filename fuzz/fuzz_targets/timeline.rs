//! Arbitrary timestamps: the time that comes out never goes back on a track, and never leaps without cause.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use livemill::media::packet::{PacketKind, Track};
use livemill::media::timeline::{Timeline, TimelineRules};

fuzz_target!(|bytes: &[u8]| {
    let rules = TimelineRules::default();
    let mut timeline = Timeline::new(rules);
    let mut arrival = Duration::ZERO;
    timeline.begin_session(arrival);
    let mut raw = 0_u32;
    let mut last = [0_i64; 3];
    let mut elapsed_ms = 0;
    for op in bytes.chunks_exact(6) {
        let &[what, how, a, b, c, wait] = op else { return };
        let step_ms = u64::from(wait) * u64::from(wait) / 8;
        arrival += Duration::from_millis(step_ms);
        elapsed_ms += step_ms as i64;
        let value = u32::from_be_bytes([0, a, b, c]);
        raw = match how & 7 {
            0 => raw.wrapping_add(value),
            1 => raw.wrapping_sub(value),
            2 => value << 8,
            3 => 0x7fff_ff00_u32.wrapping_add(value & 0xfff),
            4 => 0xffff_ff00_u32.wrapping_add(value & 0xfff),
            5 => raw & 0x7fff_ffff,
            _ => raw.wrapping_add(value & 0x3f),
        };
        if what & 0xf0 == 0xf0 {
            timeline.begin_session(arrival);
        }
        let (track, kind, lane) = match what & 7 {
            0 | 1 => (Track::Audio, PacketKind::Audio, 0),
            2 => (Track::Audio, PacketKind::Config, 0),
            3 => (Track::Video, PacketKind::Key, 1),
            4 => (Track::Video, PacketKind::Disposable, 1),
            5 => (Track::Video, PacketKind::Config, 1),
            6 => (Track::Data, PacketKind::Metadata, 2),
            _ => (Track::Video, PacketKind::Inter, 1),
        };
        let placed = timeline.place(track, raw, kind, i32::from(how) - 128, arrival);
        let before = last[lane];
        assert!(placed.time_ms >= before, "{placed:?} after {before}");
        // From the latest of all tracks: a track may have been silent for long.
        let latest = last.into_iter().max().unwrap_or_default();
        assert!(
            placed.time_ms - latest <= rules.max_forward_ms + elapsed_ms + 1_000,
            "{placed:?} is far after {latest}, {elapsed_ms} ms of arrival"
        );
        last[lane] = placed.time_ms;
    }
});
