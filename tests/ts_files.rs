//! MPEG-TS as ffmpeg reads it: segments behind a playlist and the endless form, compared frame by frame with what was published.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use common::fixtures::Fixture;
use common::tools;
use livemill::media::packet::Packet;
use livemill::protocol::feed::Endless as _;
use livemill::protocol::flv::sample;
use livemill::protocol::flv::tag::{self, Reading};
use livemill::protocol::hls::crypt::KeyRing;
use livemill::protocol::hls::nginx::NginxPlaylist;
use livemill::protocol::hls::rules::TsHlsRules;
use livemill::protocol::hls::segmenter::{Segment, TsSegmenter};
use livemill::protocol::ts::{TsFeed, TsRules};

#[test]
fn segments_decode_to_what_was_published() {
    for fixture in SPOKEN {
        check_segments(fixture, &one_second());
    }
}

#[test]
fn encrypted_segments_decode_to_what_was_published() {
    let rules = TsHlsRules { keys: true, fragments_per_key: 2, nested: true, ..one_second() };
    check_segments(Fixture::H264Aac, &rules);
}

#[test]
fn the_endless_form_decodes_to_what_was_published() {
    for fixture in SPOKEN {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("endless.ts");
        let mut feed = TsFeed::new(TsRules::default());
        let mut bytes = Vec::new();
        for batch in packets(&fixture.path()).chunks(5) {
            for chunk in feed.batch(batch) {
                bytes.extend_from_slice(chunk.payload());
            }
        }
        std::fs::write(&file, bytes).expect("the folder is writable");
        assert_same_frames(fixture, &file);
        assert_gstreamer_takes(fixture, &file);
    }
}

/// What FLV fixtures have no other use for: written by the newer ffmpeg, which knows how FLV carries them.
#[test]
fn every_audio_codec_that_ts_has_a_form_for_decodes_to_what_was_published() {
    for (name, options) in [
        ("mp3", &["libmp3lame", "-ar", "44100"][..]),
        ("mp3-low", &["libmp3lame", "-ar", "22050"]),
        ("ac3", &["ac3", "-ar", "48000"]),
        ("eac3", &["eac3", "-ar", "48000"]),
        ("opus", &["libopus", "-ar", "48000"]),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flv = folder.path().join("published.flv");
        let mut command = Command::new(tools::ffmpeg_newer());
        command.args([
            "-nostdin",
            "-loglevel",
            "error",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:duration=3",
            "-ac",
            "2",
        ]);
        command.arg("-c:a").args(options).args(["-b:a", "96k", "-f", "flv"]).arg(&flv);
        assert!(command.status().expect("ffmpeg starts").success(), "{name}");

        let mut segmenter = TsSegmenter::new(&one_second());
        let mut segments = segment_all(&mut segmenter, &packets(&flv));
        segments.extend(segmenter.finish());
        assert!((3..=4).contains(&segments.len()), "{name}: {} segments", segments.len());
        let playlist = write(folder.path(), &one_second(), &segments);
        let (was, is) = (decode(&tools::ffmpeg_newer(), &flv), decode(&tools::ffmpeg_newer(), &playlist));
        assert!(!was.is_empty());
        assert_eq!(was.len(), is.len(), "{name}: frames published and decoded");
        // Opus begins with samples that FLV's header says to drop; in TS nobody says so, and everybody may join anywhere.
        let from = usize::from(name == "opus");
        assert!(was[from..] == is[from..], "{name}: the frames differ");
    }
}

#[test]
fn a_publisher_who_comes_back_makes_one_discontinuity_and_both_halves_decode() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut segmenter = TsSegmenter::new(&one_second());
    let packets = packets(&Fixture::H264BFrames.path());
    let mut segments = segment_all(&mut segmenter, &packets);
    segments.extend(segmenter.restart());
    let later: Vec<Packet> = packets.iter().map(|packet| packet.at(packet.time_ms() + 3_200)).collect();
    segments.extend(segment_all(&mut segmenter, &later));
    segments.extend(segmenter.finish());
    assert_eq!(segments.iter().filter(|segment| segment.discontinuity).count(), 2, "the first, and the return");
    let playlist = write(folder.path(), &one_second(), &segments);
    let once = frames(Fixture::H264BFrames, &Fixture::H264BFrames.path());
    let twice = frames(Fixture::H264BFrames, &playlist);
    assert_eq!(twice.len(), once.len() * 2);
}

/// What TS can carry.
const SPOKEN: [Fixture; 5] =
    [Fixture::H264Aac, Fixture::H264BFrames, Fixture::AudioOnly, Fixture::VideoOnly, Fixture::Hevc];

fn one_second() -> TsHlsRules {
    TsHlsRules { fragment_ms: 1_000, max_fragment_ms: 10_000, ..TsHlsRules::default() }
}

#[track_caller]
fn check_segments(fixture: Fixture, rules: &TsHlsRules) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut segmenter = TsSegmenter::new(rules);
    let mut segments = segment_all(&mut segmenter, &packets(&fixture.path()));
    segments.extend(segmenter.finish());
    assert_eq!(segments.len(), 3, "{fixture:?}: three seconds of a keyframe a second");
    assert!(segments.iter().all(|segment| segment.independent && !segment.forced), "{fixture:?}");
    let playlist = write(folder.path(), rules, &segments);
    assert_same_frames(fixture, &playlist);
}

fn segment_all(segmenter: &mut TsSegmenter, packets: &[Packet]) -> Vec<Segment> {
    packets.iter().filter_map(sample::of).flat_map(|input| segmenter.push(input, 0)).collect()
}

/// Writes segments, keys and the playlist as they would lie in `hls_path`.
fn write(folder: &Path, rules: &TsHlsRules, segments: &[Segment]) -> std::path::PathBuf {
    let mut playlist = NginxPlaylist::new(Arc::new(rules.clone()), "name".to_owned());
    let mut keys = KeyRing::new(rules.fragments_per_key);
    let save = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder is writable");
        std::fs::write(path, bytes).expect("the folder is writable");
    };
    for segment in segments {
        let id = playlist.id_of(segment);
        let name = playlist.names().segment(id);
        if rules.keys {
            let (key, is_new) = keys.next(id, || [id as u8 + 1; 16]);
            if is_new {
                save(&playlist.names().key(key.id), key.bytes());
            }
            save(&name, &key.encrypt(&segment.bytes));
            playlist.push(segment, Some(key.id));
        } else {
            save(&name, &segment.bytes);
            playlist.push(segment, None);
        }
    }
    save(&playlist.names().playlist(), playlist.text(true).as_bytes());
    folder.join(playlist.names().playlist())
}

#[track_caller]
fn assert_same_frames(fixture: Fixture, made: &Path) {
    let (was, is) = (frames(fixture, &fixture.path()), frames(fixture, made));
    assert!(!was.is_empty());
    assert_eq!(was.len(), is.len(), "{fixture:?}: frames published and decoded");
    assert!(was == is, "{fixture:?}: the frames differ");
}

/// GStreamer finds the streams by their types, and its parsers take every frame.
#[track_caller]
fn assert_gstreamer_takes(fixture: Fixture, file: &Path) {
    let video = if fixture == Fixture::Hevc { "h265parse" } else { "h264parse" };
    let mut command = Command::new(tools::gst_launch());
    command.args(["-q", "filesrc"]).arg(format!("location={}", file.display())).args(["!", "tsdemux", "name=d"]);
    if fixture != Fixture::AudioOnly {
        command.args(["d.", "!", "queue", "!", video, "!", "fakesink", "sync=false"]);
    }
    if fixture != Fixture::VideoOnly {
        command.args(["d.", "!", "queue", "!", "aacparse", "!", "fakesink", "sync=false"]);
    }
    let output = command.env("GST_DEBUG", "2").env("GST_DEBUG_NO_COLOR", "1").output().expect("GStreamer starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let about_media =
        complaints.lines().filter(|line| line.contains("tsdemux") || line.contains("parse")).collect::<Vec<_>>();
    assert!(output.status.success() && about_media.is_empty(), "{fixture:?}: {complaints}");
}

/// The decoded frames of a file, as ffmpeg's hashes, by stream; any complaint of its is a failure.
#[track_caller]
fn frames(fixture: Fixture, file: &Path) -> Vec<String> {
    decode(&if fixture.is_enhanced() { tools::ffmpeg_newer() } else { tools::ffmpeg_debian() }, file)
}

#[track_caller]
fn decode(ffmpeg: &Path, file: &Path) -> Vec<String> {
    let mut command = Command::new(ffmpeg);
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-xerror", "-err_detect", "explode"]);
    if file.extension().is_some_and(|extension| extension == "m3u8") {
        command.args(["-allowed_extensions", "ALL", "-protocol_whitelist", "file,crypto"]);
    }
    command.arg("-i").arg(file).args([
        "-map",
        "0:v?",
        "-map",
        "0:a?",
        "-fps_mode",
        "passthrough",
        "-f",
        "framehash",
        "-",
    ]);
    let output = command.stdin(Stdio::null()).output().expect("ffmpeg starts");
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", file.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let hash = |line: &str| {
        let columns: Vec<&str> = line.split(',').map(str::trim).collect();
        format!("{} {}", columns[0], columns[5])
    };
    let mut frames: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(hash).collect();
    // By stream: how they are interleaved is the reader's affair.
    frames.sort_by_key(|frame| frame.split(' ').next().map(str::to_owned));
    frames
}

/// A file as a stream hands it to its subscribers.
fn packets(path: &Path) -> Vec<Packet> {
    let bytes = Bytes::from(std::fs::read(path).expect("the fixture is there"));
    let mut at = 9 + 4;
    let mut packets = Vec::new();
    while let Some(header) = bytes.get(at..at + 11) {
        let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let time = i64::from(u32::from_be_bytes([header[7], header[4], header[5], header[6]]));
        let (kind, body) = (header[0] & 0x1f, bytes.slice(at + 11..at + 11 + size));
        if (kind == 8 || kind == 9)
            && let Ok(Reading::Frame(frame)) = tag::read(kind == 9, body)
        {
            packets.push(Packet::new(frame.track, frame.kind, time, frame.payload));
        }
        at += 11 + size + 4;
    }
    packets
}
