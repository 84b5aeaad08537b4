//! GStreamer plays every form a stream has over HTTP.

mod common;

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
    let _publishers = ["live/name", "ts/name"].map(|name| encoder(&server.url(name)));
    for stream in ["live/name", "ts/name"] {
        server.wait_for_log(&["live, stream: ", stream], CLIENT_DEADLINE);
    }
    // What it takes to come to picture and sound. CMAF has them apart.
    let both: &[&(&str, u64)] = &[&PICTURE, &SOUND];
    let forms = [
        ("live/name.flv", "flvdemux", both),
        ("live/name.ts", "tsdemux", both),
        ("live/name.mp4", "qtdemux", both),
        ("live/name/video.m3u8", "hlsdemux ! qtdemux", &[&PICTURE]),
        ("live/name/audio.m3u8", "hlsdemux ! qtdemux", &[&SOUND]),
        ("live/name/manifest.mpd", "dashdemux ! qtdemux", &[&PICTURE]),
        ("ts/name/index.m3u8", "hlsdemux ! tsdemux", both),
    ];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut players = Vec::new();
    for (at, (form, demuxers, media)) in forms.into_iter().enumerate() {
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

/// H.264 and AAC at the pace of the clock, with a keyframe each second.
fn encoder(url: &str) -> Running {
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
    command.args(["-re", "-f", "lavfi", "-i", "sine=440", "-t", &TIME.as_secs().to_string()]);
    command.args([
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "zerolatency",
        "-g",
        "25",
        "-pix_fmt",
        "yuv420p",
    ]);
    command.args(["-c:a", "aac", "-f", "flv", url]);
    Running::start("an encoder", command)
}

/// Longer than the test takes.
const TIME: Duration = Duration::from_secs(300);

/// How GStreamer decodes it, and what two seconds and a half of it are in bytes. A demuxer links what fits the parser.
const PICTURE: (&str, u64) = ("h264parse ! avdec_h264 ! video/x-raw,format=I420", 62 * 320 * 180 * 3 / 2);
const SOUND: (&str, u64) = ("aacparse ! avdec_aac ! audioconvert ! audio/x-raw,format=S16LE,channels=1", 5 * 44_100);
