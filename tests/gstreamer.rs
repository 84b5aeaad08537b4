//! GStreamer plays every form a stream has over HTTP.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::server::{CLIENT_DEADLINE, TestServer};
use common::tools::{self, Running};
use common::wait;

#[test]
fn gstreamer_decodes_picture_and_sound_of_every_form() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } application ts { live on; hls_format ts; } } }\n\
         http { server { listen 127.0.0.1:@port2@; location / { player on; } } }",
    );
    let h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-c:a", "aac"];
    let _publishers = ["live/name", "ts/name"].map(|name| encoder(tools::ffmpeg_debian(), &server, name, &h264));
    all_play(
        &server,
        &[
            ("live/name.flv", "flvdemux", &[&H264, &AAC]),
            ("live/name.ts", "tsdemux", &[&H264, &AAC]),
            ("live/name.mp4", "qtdemux", &[&H264, &AAC]),
            // CMAF has picture and sound apart.
            ("live/name/video.m3u8", "hlsdemux ! qtdemux", &[&H264]),
            ("live/name/audio.m3u8", "hlsdemux ! qtdemux", &[&AAC]),
            ("live/name/manifest.mpd", "dashdemux ! qtdemux", &[&H264]),
            ("ts/name/index.m3u8", "hlsdemux ! tsdemux", &[&H264, &AAC]),
        ],
    );
}

#[test]
fn gstreamer_decodes_the_codecs_of_enhanced_rtmp() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }\n\
         http { server { listen 127.0.0.1:@port2@; location / { player on; } } }",
    );
    let codecs: [(&str, &[&str]); 3] = [
        ("live/hevc", &["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-c:a", "aac"]),
        ("live/av1", &["-c:v", "libsvtav1", "-preset", "12", "-c:a", "libopus"]),
        ("live/vp9", &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "flac"]),
    ];
    let _publishers = codecs.map(|(name, codecs)| encoder(tools::ffmpeg_newer(), &server, name, codecs));
    all_play(
        &server,
        &[
            ("live/hevc.ts", "tsdemux", &[&HEVC, &AAC]),
            ("live/hevc.mp4", "qtdemux", &[&HEVC, &AAC]),
            ("live/hevc/video.m3u8", "hlsdemux ! qtdemux", &[&HEVC]),
            ("live/hevc/manifest.mpd", "dashdemux ! qtdemux", &[&HEVC]),
            ("live/av1.mp4", "qtdemux", &[&AV1, &OPUS]),
            ("live/av1/video.m3u8", "hlsdemux ! qtdemux", &[&AV1]),
            ("live/av1/audio.m3u8", "hlsdemux ! qtdemux", &[&OPUS]),
            ("live/vp9.mp4", "qtdemux", &[&VP9, &FLAC]),
            ("live/vp9/audio.m3u8", "hlsdemux ! qtdemux", &[&FLAC]),
        ],
    );
}

/// An address, the demuxers that lead to what is in it, and how each medium is decoded.
type Form = (&'static str, &'static str, &'static [&'static Medium]);

/// Decoders, and what is enough of what they give, in bytes. A demuxer links what fits the first of them.
type Medium = (&'static str, u64);

#[track_caller]
fn all_play(server: &TestServer, forms: &[Form]) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut players = Vec::new();
    for (at, (form, demuxers, media)) in forms.iter().enumerate() {
        let url = format!("http://127.0.0.1:{}/{form}", server.other_port(1));
        let mut pipeline = format!("souphttpsrc is-live=true location={url} ! {demuxers} name=d");
        let mut files = Vec::new();
        for (medium, (decoders, enough)) in media.iter().enumerate() {
            let file = dir.path().join(format!("{at}-{medium}"));
            pipeline += &format!(" d. ! {decoders} ! queue ! filesink buffer-mode=2 location={}", file.display());
            files.push((file, *enough));
        }
        let mut command = Command::new(tools::gst_launch());
        command.arg("-q").args(pipeline.split(' '));
        players.push((form, Running::start(form, command), files));
    }
    for (form, player, files) in &mut players {
        for (file, enough) in files {
            let written = || std::fs::metadata(&*file).map_or(0, |file| file.len());
            let came = wait::within(CLIENT_DEADLINE, || (written() >= *enough || !player.is_running()).then(written));
            assert!(came >= Some(*enough), "{form}: {came:?} of {enough} bytes:\n{}", player.output());
        }
        assert!(!player.output().contains("ERROR"), "{form}:\n{}", player.output());
    }
}

/// Publishes at the pace of the clock, with a keyframe each second; returns once it is live.
fn encoder(ffmpeg: PathBuf, server: &TestServer, name: &str, codecs: &[&str]) -> Running {
    let mut command = Command::new(ffmpeg);
    command.args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
    command.args(["-re", "-f", "lavfi", "-i", "sine=440", "-t", &TIME.as_secs().to_string()]);
    command.args(["-pix_fmt", "yuv420p", "-g", "25"]).args(codecs).args(["-f", "flv", &server.url(name)]);
    let running = Running::start(name, command);
    server.wait_for_log(&["live, stream: ", name], CLIENT_DEADLINE);
    running
}

/// Longer than the test takes.
const TIME: Duration = Duration::from_secs(300);

const H264: Medium = ("h264parse ! avdec_h264", PICTURE_BYTES);
const HEVC: Medium = ("h265parse ! avdec_h265", PICTURE_BYTES);
const AV1: Medium = ("av1parse ! av1dec", PICTURE_BYTES);
const VP9: Medium = ("vp9dec", PICTURE_BYTES);
const AAC: Medium = ("aacparse ! avdec_aac", SOUND_BYTES);
const OPUS: Medium = ("opusdec", SOUND_BYTES);
const FLAC: Medium = ("flacparse ! flacdec", SOUND_BYTES);

/// Two seconds and a half of picture.
const PICTURE_BYTES: u64 = 62 * 320 * 180 * 3 / 2;

/// As much of sound, with two bytes a sample at least.
const SOUND_BYTES: u64 = 5 * 44_100;
