//! Real clients publish and play; what comes out is what went in.
//!
//! `LIVEMILL_TEST_AGAINST=nginx` runs this against nginx with its RTMP module: the judge of the tests themselves.

mod common;

use std::time::Duration;

use common::core_wait::CoreWait;
use common::fixtures::Fixture;
use common::peer::{AAC_CONFIG, AVC_CONFIG, RtmpPeer, avc_frame, is_keyframe};
use common::playing::Playing;
use common::server::{CLIENT_DEADLINE, Kind, TestServer};
use common::tools::{Player, Publisher};

/// Players may come before their publisher, so that none misses the first frame.
const LIVE: &str = "rtmp { server { listen 127.0.0.1:@port@; application live { live on; idle_streams on; publish_notify on;\n\
                    } } }";

#[test]
fn what_debians_ffmpeg_publishes_everyone_plays_bit_exact() {
    everyone_plays_all_of(Publisher::FfmpegDebian);
}

#[test]
fn what_a_newer_ffmpeg_publishes_everyone_plays_bit_exact() {
    everyone_plays_all_of(Publisher::FfmpegNewer);
}

#[test]
fn what_gstreamer_publishes_everyone_plays_bit_exact() {
    everyone_plays_all_of(Publisher::GstRtmp2Sink);
}

#[test]
fn what_librtmp_publishes_everyone_plays_bit_exact() {
    everyone_plays_all_of(Publisher::GstRtmpSink);
}

#[test]
fn nginx_pushes_a_stream_here_bit_exact() {
    let server = TestServer::start(LIVE);
    let nginx = TestServer::start_nginx(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; publish_notify on; push {}; }} }} }}",
        server.url("live")
    ));
    for fixture in [Fixture::H264Aac, Fixture::H264BFrames] {
        let name = format!("pushed-{}", fixture.name());
        let mut playing = Playing::start(Player::FfmpegDebian, &server.url(&format!("live/{name}")));
        server.wait_for_players(&name, 1);
        let mut publisher = Publisher::FfmpegDebian.publish(fixture, &nginx.url(&format!("live/{name}")));
        publisher.wait_for_success(CLIENT_DEADLINE);
        // nginx sends nothing of what came before its own connection stood.
        playing.assert_same_as(fixture, true, &format!("{fixture:?} pushed by nginx"));
    }
}

#[test]
fn nginx_pulls_a_stream_from_here_bit_exact() {
    let server = TestServer::start(LIVE);
    let nginx = TestServer::start_nginx(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; publish_notify on; pull {}; }} }} }}",
        server.url("live")
    ));
    for fixture in [Fixture::H264Aac, Fixture::H264BFrames] {
        let name = format!("pulled-{}", fixture.name());
        let mut playing = Playing::start(Player::FfmpegDebian, &nginx.url(&format!("live/{name}")));
        server.wait_for_players(&name, 1);
        let mut publisher = Publisher::FfmpegDebian.publish(fixture, &server.url(&format!("live/{name}")));
        publisher.wait_for_success(CLIENT_DEADLINE);
        playing.assert_same_as(fixture, false, &format!("{fixture:?} pulled by nginx"));
    }
}

#[test]
fn a_late_player_sees_its_first_frame_from_the_cache_at_once() {
    if Kind::under_test() == Kind::Nginx {
        return; // it has no such cache: that is why this test is here
    }
    let server = TestServer::start(LIVE);
    let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "late");
    publisher.set_chunk_size(4096);
    publisher.send_video(msid, 0, AVC_CONFIG);
    publisher.send_audio(msid, 0, AAC_CONFIG);
    // One keyframe and then silence: whoever comes now can only be served from the cache.
    publisher.send_video(msid, 0, &avc_frame(true, 7, 20_000));
    publisher.send_video(msid, 40, &avc_frame(false, 8, 500));
    // A stream's first frames may still be on their way to it; the first player waits for them, the second is timed.
    for attempt in 0..2 {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "late");
        let clock = CoreWait::with_this_thread(server.pid());
        let asked = clock.now();
        let mut configured = false;
        let frame = player.expect("a keyframe", |message| {
            configured |= message.payload.as_slice() == AVC_CONFIG;
            is_keyframe(message).then(|| message.payload.clone())
        });
        assert!(configured, "the configuration comes before the first keyframe");
        assert_eq!(frame, avc_frame(true, 7, 20_000));
        let took = clock.now().later_than(&asked);
        assert!(attempt == 0 || took < Duration::from_millis(100), "the first keyframe took {took:?}");
    }
}

fn everyone_plays_all_of(publisher: Publisher) {
    let server = TestServer::start(LIVE);
    let mut wrong = Vec::new();
    for fixture in Fixture::ALL.into_iter().filter(|fixture| publisher.can(*fixture)) {
        if fixture.is_enhanced() && server.kind() == Kind::Nginx {
            continue; // it drops the configuration of a codec it does not know
        }
        let name = fixture.name();
        let url = server.url(&format!("live/{name}"));
        let players: Vec<Player> = Player::ALL.into_iter().filter(|player| player.can(fixture)).collect();
        let mut playing: Vec<Playing> = players.iter().map(|player| Playing::start(*player, &url)).collect();
        server.wait_for_players(name, playing.len());
        let mut publishing = publisher.publish(fixture, &url);
        publishing.wait_for_success(CLIENT_DEADLINE);
        for playing in &mut playing {
            wrong.extend(
                playing
                    .difference_from(fixture, false)
                    .map(|what| format!("{:?}, {fixture:?}: {what}", playing.player)),
            );
        }
    }
    assert!(wrong.is_empty(), "published by {publisher:?}:\n{}", wrong.join("\n"));
}
