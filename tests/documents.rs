//! The configurations that people bring, unchanged but for their ports, and what they do with them.

mod common;

use std::path::Path;
use std::time::Duration;

use common::fixtures::Fixture;
use common::hook_server::{HookServer, answer};
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame, is_keyframe};
use common::playing::Playing;
use common::server::{CLIENT_DEADLINE, TestServer};
use common::tools::{Player, Publisher, Running};
use common::{tools, wire};

#[test]
fn the_medical_uploads_server_takes_a_phone() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let server = start_changed("document_a.conf", &[("http://192.0.2.10:80", &hooks.url(""))]);
    publish_then_play(&server, "hls/patient-7");
    let asked = hooks.wait_for("publish");
    assert_eq!((asked.arg("app"), asked.arg("name")), ("hls".to_owned(), "patient-7".to_owned()));
}

#[test]
fn the_camera_server_shows_an_endless_loop() {
    let server = start("document_b.conf");
    let url = server.url("cctvf/gate");
    let mut command = std::process::Command::new(tools::ffmpeg_debian());
    // As in the document, but four times as fast: the clock of the file starts again every 0.75 s.
    command.args(["-nostdin", "-loglevel", "error", "-readrate", "4", "-stream_loop", "-1", "-i"]);
    command.arg(Fixture::H264BFrames.path()).args(["-vcodec", "copy", "-acodec", "copy", "-f", "flv", "-y", &url]);
    let mut camera = Running::start("the camera", command);

    let mut player = common::wait::until("a player of the camera", CLIENT_DEADLINE, || {
        let (mut player, _) = RtmpPeer::play(server.port(), "cctvf", "gate");
        player.sees_keyframe(Duration::from_millis(500)).then_some(player)
    });
    let mut last = [None; 2];
    let mut keyframes = 0;
    player.expect("four rounds of the loop", |message| {
        let track = usize::from(message.kind.checked_sub(wire::AUDIO).filter(|track| *track < 2)?);
        if let Some(last) = last[track] {
            assert!(message.time >= last, "track {track} goes back from {last} to {}", message.time);
            assert!(message.time - last < 1000, "track {track} jumps from {last} to {}", message.time);
        }
        last[track] = Some(message.time);
        keyframes += u32::from(is_keyframe(message));
        (keyframes >= 4 * 3).then_some(())
    });
    assert!(camera.is_running(), "{}", camera.output());
}

#[test]
fn the_home_platform_takes_an_empty_key() {
    let server = start("document_c.conf");
    // ffmpeg given only the application.
    let mut publishing = Publisher::FfmpegDebian.publish_in_real_time(Fixture::H264Aac, &server.url("stream"));
    wait_for_keyframe(&server, "stream", "", &mut publishing);
    publishing.wait_for_success(CLIENT_DEADLINE);
    // OBS with its key field left empty.
    let (mut publisher, msid) = common::wait::until("the name is free again", CLIENT_DEADLINE, || {
        let mut peer = RtmpPeer::connect(server.port(), "stream");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[wire::Amf::Null, "".into(), "live".into()]);
        (peer.expect_status(msid) == "NetStream.Publish.Start").then_some((peer, msid))
    });
    publisher.send_video(msid, 0, AVC_CONFIG);
    publisher.send_video(msid, 0, &avc_frame(true, 0, 1000));
    let (mut player, _) = RtmpPeer::play(server.port(), "stream", "");
    player.expect("a keyframe", |message| is_keyframe(message).then_some(()));
}

#[test]
fn the_clusters_applications_all_carry_streams() {
    let server = start("document_d.conf");
    for app in ["live", "core", "test", "edge", "pub"] {
        publish_then_play(&server, &format!("{app}/name"));
    }
}

/// Publishes two seconds and more, and lets a player come when it is under way.
#[track_caller]
fn publish_then_play(server: &TestServer, path: &str) {
    let url = server.url(path);
    let mut publishing = Publisher::FfmpegDebian.publish_in_real_time(Fixture::H264Aac, &url);
    let (app, name) = path.split_once('/').expect("an application and a name");
    wait_for_keyframe(server, app, name, &mut publishing);
    // rtmpdump writes what it gets at once; ffmpeg would hold back the last of it, for nobody tells it of the end here.
    let mut playing = Playing::start(Player::Rtmpdump, &url);
    publishing.wait_for_success(CLIENT_DEADLINE);
    playing.assert_same_as(Fixture::H264Aac, true, path);
}

#[track_caller]
fn wait_for_keyframe(server: &TestServer, app: &str, name: &str, publishing: &mut Running) {
    common::wait::until("the stream is there", CLIENT_DEADLINE, || {
        assert!(publishing.is_running(), "{}", publishing.output());
        let (mut probe, _) = RtmpPeer::play(server.port(), app, name);
        probe.sees_keyframe(Duration::from_millis(200)).then_some(())
    });
}

#[track_caller]
fn start(document: &str) -> TestServer {
    start_changed(document, &[])
}

/// With these addresses in the place of those that exist nowhere.
#[track_caller]
fn start_changed(document: &str, changes: &[(&str, &str)]) -> TestServer {
    let read = |name: &str| {
        let path = Path::new("tests/fixtures").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let text = read(document);
    assert!(text.contains("listen 1935;"), "{document} has a listen line");
    let text = text.replace("listen 1935;", "listen 127.0.0.1:@port@;");
    let text = text
        .replace("listen       8080;", "listen 127.0.0.1:@port2@;")
        .replace("listen 80;", "listen 127.0.0.1:@port2@;");
    let text = changes.iter().fold(text, |text, (from, to)| text.replace(from, to));
    TestServer::start_whole(&text, &[("mime.types", &read("mime.types"))])
}
