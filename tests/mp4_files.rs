//! MP4 as ffmpeg reads it: what the muxers make of a stream is, packet by packet and picture by picture, what was published.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use livemill::media::packet::Packet;
use livemill::protocol::feed::Endless;
use livemill::protocol::flv::sample;
use livemill::protocol::flv::tag::{self, Reading};
use livemill::protocol::mp4::chunker::{Chunk, ChunkRules, Chunker, Rendition};
use livemill::protocol::mp4::feed::Mp4Feed;

use common::fixtures::Fixture;
use common::tools;
use common::wire::u24_at;

#[test]
fn parts_of_low_latency_are_what_was_published() {
    let rules = ChunkRules { part_ms: 210, fragment_ms: 1000, max_segment_ms: 4000, low_latency: true };
    for fixture in Fixture::ALL {
        check_renditions(fixture, rules);
    }
}

#[test]
fn whole_segments_are_what_was_published() {
    let rules = ChunkRules { part_ms: 210, fragment_ms: 1000, max_segment_ms: 4000, low_latency: false };
    for fixture in Fixture::ALL {
        check_renditions(fixture, rules);
    }
}

#[test]
fn the_endless_file_is_what_was_published() {
    for fixture in Fixture::ALL {
        let mut feed = Mp4Feed::new();
        let packets = packets(&fixture.path());
        // As they travel: audio with the next video frame.
        let pieces: Vec<Packet> = packets.chunks(3).flat_map(|batch| feed.batch(batch)).collect();
        let header = feed.header().expect("three seconds have gone by");
        let file =
            [&header[..], &pieces.iter().flat_map(|piece| piece.payload().to_vec()).collect::<Vec<u8>>()].concat();
        let scene = Scene::new(fixture, "endless", &file);
        for (track, with) in tracks(fixture) {
            scene.check(track, with, false);
        }
    }
}

/// Each rendition as a file of its own: its initialisation and all its segments.
fn check_renditions(fixture: Fixture, rules: ChunkRules) {
    let mut chunker = Chunker::new(rules);
    let mut chunks = Vec::new();
    for packet in packets(&fixture.path()) {
        let input = sample::of(&packet).expect("ffmpeg writes what can be read");
        chunks.extend(chunker.push(input, packet.time_ms()));
    }
    chunks.extend(chunker.end());
    let mut files: BTreeMap<bool, Vec<u8>> = BTreeMap::new();
    let mut segments: BTreeMap<bool, u32> = BTreeMap::new();
    for chunk in &chunks {
        match chunk {
            Chunk::Init { rendition, bytes, .. } | Chunk::Part { rendition, bytes, .. } => {
                files.entry(*rendition == Rendition::Video).or_default().extend_from_slice(bytes);
            }
            Chunk::SegmentEnd { rendition, .. } => *segments.entry(*rendition == Rendition::Video).or_default() += 1,
            Chunk::Discontinuity => panic!("{fixture:?} is of one piece"),
        }
    }
    assert!(segments.values().all(|count| (2..=4).contains(count)), "{fixture:?}: {segments:?}");
    for (track, with) in tracks(fixture) {
        let name = if rules.low_latency { "parts" } else { "segments" };
        let file = &files[&(track == "v")];
        Scene::new(fixture, &format!("{name}-{track}"), file).check(track, with, true);
    }
}

/// The tracks of a fixture, each with how far its decoding times may be from the published ones: audio is counted in
/// samples, and milliseconds are rounded.
fn tracks(fixture: Fixture) -> Vec<(&'static str, i64)> {
    let video = ("v", 1);
    let audio = ("a", 2);
    match fixture {
        Fixture::AudioOnly => vec![audio],
        Fixture::VideoOnly => vec![video],
        _ => vec![video, audio],
    }
}

struct Scene {
    fixture: Fixture,
    made: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(fixture: Fixture, name: &str, file: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = folder.path().join(format!("{}-{name}.mp4", fixture.name()));
        std::fs::write(&made, file).expect("the temporary folder is writable");
        Self { fixture, made, _folder: folder }
    }

    /// One track is the published one: each packet, at its time, and what decodes.
    fn check(&self, track: &str, tolerance_ms: i64, exact_dts: bool) {
        let (was, is) = (self.copied(&self.fixture.path(), track), self.copied(&self.made, track));
        let label = self.made.display();
        assert_eq!(was.len(), is.len(), "{label}: packets of {track}");
        let is_av1 = self.fixture == Fixture::Av1Opus && track == "v";
        for (at, (was, is)) in was.iter().zip(&is).enumerate() {
            // MP4 wants AV1 without the two bytes that only say that a frame begins: the pictures below tell.
            let same = (was.size, &was.crc) == (is.size, &is.crc) || is_av1 && was.size == is.size + 2;
            assert!(same, "{label}: packet {at} of {track}: {was:?} became {is:?}");
            let moved = (is.pts_ms - was.pts_ms).abs().max(if exact_dts { (is.dts_ms - was.dts_ms).abs() } else { 0 });
            assert!(moved <= tolerance_ms, "{label}: packet {at} of {track} moved from {was:?} to {is:?}");
        }
        assert_eq!(self.decoded(&self.fixture.path(), track), self.decoded(&self.made, track), "{label}: {track}");
    }

    fn copied(&self, file: &Path, track: &str) -> Vec<PacketLine> {
        let out = self.ffmpeg(file, &["-map", &format!("0:{track}:0"), "-c", "copy", "-f", "framecrc", "-"]);
        let base = out.lines().find_map(|line| line.strip_prefix("#tb 0: ")).expect("a time base");
        let (num, den) = base.trim().split_once('/').expect("a fraction");
        let (num, den): (i64, i64) = (num.parse().expect("a number"), den.parse().expect("a number"));
        let ms = |ticks: &str| ticks.trim().parse::<i64>().expect("a time") * num * 1000 / den;
        let packet = |line: &str| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            PacketLine {
                dts_ms: ms(fields[1]),
                pts_ms: ms(fields[2]),
                size: fields[4].parse().expect("a size"),
                crc: fields[5].to_owned(),
            }
        };
        out.lines().filter(|line| !line.starts_with('#')).map(packet).collect()
    }

    /// A hash of all that is decoded.
    fn decoded(&self, file: &Path, track: &str) -> String {
        self.ffmpeg(file, &["-map", &format!("0:{track}:0"), "-fps_mode", "passthrough", "-f", "streamhash", "-"])
    }

    /// Runs ffmpeg with every error fatal.
    fn ffmpeg(&self, file: &Path, out: &[&str]) -> String {
        let program = if self.fixture.is_enhanced() { tools::ffmpeg_newer() } else { tools::ffmpeg_debian() };
        let mut command = Command::new(program);
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-err_detect", "explode"]);
        command.args(["-copyts", "-i"]).arg(file).args(out).stdin(Stdio::null());
        let output = command.output().expect("ffmpeg starts");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", file.display());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A packet as ffmpeg reads it.
#[derive(Debug)]
struct PacketLine {
    dts_ms: i64,
    pts_ms: i64,
    size: usize,
    crc: String,
}

/// The packets of a file as a stream hands them on.
fn packets(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut at = 9 + 4;
    let mut packets = Vec::new();
    while let Some(header) = bytes.get(at..at + 11) {
        let size = u24_at(header, 1) as usize;
        let time_ms = i64::from(u24_at(header, 4) | u32::from(header[7]) << 24);
        let body = Bytes::copy_from_slice(&bytes[at + 11..at + 11 + size]);
        if let kind @ (8 | 9) = header[0] & 0x1f
            && let Ok(Reading::Frame(frame)) = tag::read(kind == 9, body)
        {
            packets.push(Packet::new(frame.track, frame.kind, time_ms, frame.payload));
        }
        at += 11 + size + 4;
    }
    packets
}
