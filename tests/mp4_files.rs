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
        check_renditions(&Source::from(fixture), rules);
    }
}

#[test]
fn whole_segments_are_what_was_published() {
    for fixture in Fixture::ALL {
        check_renditions(&Source::from(fixture), WHOLE_SEGMENTS);
    }
}

#[test]
fn the_endless_file_is_what_was_published() {
    for fixture in Fixture::ALL {
        let source = Source::from(fixture);
        let mut feed = Mp4Feed::new();
        let packets = packets(&source.path);
        // As they travel: audio with the next video frame.
        let pieces: Vec<Packet> = packets.chunks(3).flat_map(|batch| feed.batch(batch)).collect();
        let header = feed.header().expect("three seconds have gone by");
        let pieces = pieces.iter().flat_map(|piece| piece.payload().to_vec());
        let file: Vec<u8> = header.iter().copied().chain(pieces).collect();
        let scene = Scene::new(&source, "endless", &file);
        for (track, tolerance_ms) in &source.tracks {
            scene.check(track, *tolerance_ms, false);
        }
    }
}

#[test]
fn codecs_that_need_the_newer_ffmpeg_are_what_was_published() {
    let tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=3", "-c:a"];
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=3", "-c:v"];
    for codec in ["libmp3lame", "flac", "ac3", "eac3"] {
        check_renditions(&Source::make(codec, &[&tone[..], &[codec]].concat(), "a"), WHOLE_SEGMENTS);
    }
    let vp9 = ["libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "25", "-pix_fmt", "yuv420p"];
    check_renditions(&Source::make("vp9", &[&picture[..], &vp9].concat(), "v"), WHOLE_SEGMENTS);
}

const WHOLE_SEGMENTS: ChunkRules =
    ChunkRules { part_ms: 210, fragment_ms: 1000, max_segment_ms: 4000, low_latency: false };

/// Each rendition as a file of its own: its initialisation and all its segments.
fn check_renditions(source: &Source, rules: ChunkRules) {
    let mut chunker = Chunker::new(rules);
    let mut chunks = Vec::new();
    for packet in packets(&source.path) {
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
            Chunk::Discontinuity => panic!("{} is of one piece", source.name),
        }
    }
    assert!(segments.values().all(|count| (2..=4).contains(count)), "{}: {segments:?}", source.name);
    for (track, tolerance_ms) in &source.tracks {
        let name = if rules.low_latency { "parts" } else { "segments" };
        let file = files.get(&(*track == "v")).unwrap_or_else(|| panic!("{}: no {track}", source.name));
        Scene::new(source, &format!("{name}-{track}"), file).check(track, *tolerance_ms, true);
    }
}

/// What was published.
struct Source {
    name: String,
    path: PathBuf,
    /// Debian's ffmpeg cannot read it.
    is_newer: bool,
    /// Each with how far its decoding times may be from the published ones: audio is counted in samples, and milliseconds
    /// are rounded.
    tracks: Vec<(&'static str, i64)>,
    _folder: Option<tempfile::TempDir>,
}

impl From<Fixture> for Source {
    fn from(fixture: Fixture) -> Self {
        let tracks = match fixture {
            Fixture::AudioOnly => vec![AUDIO],
            Fixture::VideoOnly => vec![VIDEO],
            _ => vec![VIDEO, AUDIO],
        };
        let (name, is_newer) = (fixture.name().to_owned(), fixture.is_enhanced());
        Self { name, path: fixture.path(), is_newer, tracks, _folder: None }
    }
}

impl Source {
    fn make(name: &str, arguments: &[&str], track: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(format!("{name}.flv"));
        let mut command = Command::new(tools::ffmpeg_newer());
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]).args(arguments).arg(&path);
        let output = command.stdin(Stdio::null()).output().expect("ffmpeg starts");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let tracks = vec![if track == "v" { VIDEO } else { AUDIO }];
        Self { name: name.to_owned(), path, is_newer: true, tracks, _folder: Some(folder) }
    }
}

const VIDEO: (&str, i64) = ("v", 1);
const AUDIO: (&str, i64) = ("a", 2);

struct Scene<'a> {
    source: &'a Source,
    made: PathBuf,
    _folder: tempfile::TempDir,
}

impl<'a> Scene<'a> {
    fn new(source: &'a Source, name: &str, file: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = folder.path().join(format!("{}-{name}.mp4", source.name));
        std::fs::write(&made, file).expect("the temporary folder is writable");
        Self { source, made, _folder: folder }
    }

    /// One track is the published one: each packet, at its time, and what decodes.
    fn check(&self, track: &str, tolerance_ms: i64, exact_dts: bool) {
        let (mut was, is) = (self.copied(&self.source.path, track), self.copied(&self.made, track));
        let label = self.made.display();
        // Segments begin with the first picture: sound that began before it has none to be in.
        let published = was.len();
        if track == "a" && exact_dts && self.source.tracks.contains(&VIDEO) {
            let first_picture_ms = self.copied(&self.source.path, "v")[0].dts_ms;
            was.retain(|packet| packet.dts_ms >= first_picture_ms);
            assert!(published - was.len() <= 1, "{label}: more than a frame of sound before the picture");
        }
        assert_eq!(was.len(), is.len(), "{label}: packets of {track}");
        let is_av1 = self.source.name == Fixture::Av1Opus.name() && track == "v";
        for (at, (was, is)) in was.iter().zip(&is).enumerate() {
            // MP4 wants AV1 without the two bytes that only say that a frame begins: the pictures below tell.
            let same = (was.size, &was.crc) == (is.size, &is.crc) || is_av1 && was.size == is.size + 2;
            assert!(same, "{label}: packet {at} of {track}: {was:?} became {is:?}");
            let moved = (is.pts_ms - was.pts_ms).abs().max(if exact_dts { (is.dts_ms - was.dts_ms).abs() } else { 0 });
            assert!(moved <= tolerance_ms, "{label}: packet {at} of {track} moved from {was:?} to {is:?}");
        }
        if was.len() == published {
            assert_eq!(self.decoded(&self.source.path, track), self.decoded(&self.made, track), "{label}: {track}");
        }
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
        // Out of FLV also come packets without data, where a configuration was.
        out.lines().filter(|line| !line.starts_with('#')).map(packet).filter(|packet| packet.size > 0).collect()
    }

    /// A hash of all that is decoded.
    fn decoded(&self, file: &Path, track: &str) -> String {
        self.ffmpeg(file, &["-map", &format!("0:{track}:0"), "-fps_mode", "passthrough", "-f", "streamhash", "-"])
    }

    /// Runs ffmpeg with every error fatal.
    fn ffmpeg(&self, file: &Path, out: &[&str]) -> String {
        let program = if self.source.is_newer { tools::ffmpeg_newer() } else { tools::ffmpeg_debian() };
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
