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
    // Which demuxer it takes to come to the picture, and to the sound. CMAF has them apart.
    let forms: [(&str, &str, &str); 6] = [
        ("live/name.flv", "flvdemux", "flvdemux"),
        ("live/name.ts", "tsdemux", "tsdemux"),
        ("live/name.mp4", "qtdemux", "qtdemux"),
        ("live/name/video.m3u8", "hlsdemux ! qtdemux", ""),
        ("live/name/audio.m3u8", "", "hlsdemux ! qtdemux"),
        ("ts/name/index.m3u8", "hlsdemux ! tsdemux", "hlsdemux ! tsdemux"),
    ];
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut players = Vec::new();
    for (form, picture, sound) in forms.into_iter().chain([("live/name/manifest.mpd", "dashdemux ! qtdemux", "")]) {
        let url = format!("http://127.0.0.1:{}/{form}", server.other_port(1));
        // A demuxer links what fits the parser behind it.
        let picture = (picture, "h264parse ! avdec_h264 ! video/x-raw,format=I420", PICTURE_BYTES);
        let sound = (sound, "aacparse ! avdec_aac ! audioconvert ! audio/x-raw,format=S16LE,channels=1", SOUND_BYTES);
        for (demuxers, decoders, enough) in [picture, sound].into_iter().filter(|(demuxers, ..)| !demuxers.is_empty()) {
            let file = dir.path().join(players.len().to_string());
            let pipeline =
                format!("souphttpsrc is-live=true location={url} ! {demuxers} ! {decoders} ! queue ! filesink buffer-mode=2");
            let mut command = Command::new(tools::gst_launch());
            command.arg("-q").args(pipeline.split(' ')).arg(format!("location={}", file.display()));
            players.push((Running::start(&format!("{form}, {decoders}"), command), file, enough, form));
        }
    }
    for (player, file, enough, form) in &mut players {
        let written = || std::fs::metadata(&*file).map_or(0, |file| file.len());
        let came = wait::within(CLIENT_DEADLINE, || (written() >= *enough || !player.is_running()).then(written));
        let output = player.output();
        assert!(came >= Some(*enough), "{form}: {came:?} of {enough} bytes:\n{output}");
        assert!(!output.contains("ERROR"), "{form}:\n{output}");
    }
}

/// H.264 and AAC at the pace of the clock, with a keyframe each second.
fn encoder(url: &str) -> Running {
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-v", "error", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]);
    command.args(["-re", "-f", "lavfi", "-i", "sine=440", "-t", &TIME.as_secs().to_string()]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p"]);
    command.args(["-c:a", "aac", "-f", "flv", url]);
    Running::start("an encoder", command)
}

/// Longer than the test takes.
const TIME: Duration = Duration::from_secs(300);

/// Two seconds and a half of picture.
const PICTURE_BYTES: u64 = 62 * 320 * 180 * 3 / 2;

/// As much of sound: 44.1 kHz, mono.
const SOUND_BYTES: u64 = 5 * 44_100;
