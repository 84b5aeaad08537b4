//! Who may publish and play what: applications, names in every spelling, rules for addresses.

mod common;

use std::time::Duration;

use common::peer::{AVC_CONFIG, Next, RtmpPeer};
use common::server::TestServer;
use common::stream::{Publishing, answer_to, expect_code, frame_numbers, playing, status_code, until_closed};
use common::wire::{self, Amf};

#[test]
fn the_exact_application_comes_before_the_one_for_all() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@;
            application * { live on; deny publish all; } application live { live on; } } }",
    );
    assert_eq!(answer_to("publish", server.port(), "live", "cam").1, "NetStream.Publish.Start");
    assert_eq!(answer_to("publish", server.port(), "anything", "cam").1, "NetStream.Publish.Denied");
    // Two applications that only the rule for all knows are two all the same.
    let server = TestServer::start("rtmp { server { listen 127.0.0.1:@port@; application * { live on; } } }");
    let (_one, code) = answer_to("publish", server.port(), "one", "cam");
    assert_eq!(code, "NetStream.Publish.Start");
    assert_eq!(answer_to("publish", server.port(), "two", "cam").1, "NetStream.Publish.Start");
    assert_eq!(answer_to("publish", server.port(), "one", "cam").1, "NetStream.Publish.BadName");
}

#[test]
fn an_unknown_application_is_refused_in_words_and_closed() {
    let server = TestServer::start(LIVE);
    let mut peer = RtmpPeer::shaken(server.port());
    let answer = peer.request_connect("nowhere", &[]);
    assert_eq!(answer[0].as_str(), Some("_error"));
    assert_eq!(answer[3].property("code").and_then(Amf::as_str), Some("NetConnection.Connect.InvalidApp"));
    until_closed(&mut peer);
    server.wait_for_log(&["application not found: 'nowhere'"], Duration::from_secs(5));
}

#[test]
fn an_application_that_is_not_live_says_so() {
    let server = TestServer::start("rtmp { server { listen 127.0.0.1:@port@; application files { live off; } } }");
    for (command, code) in [("publish", "NetStream.Publish.Denied"), ("play", "NetStream.Play.Failed")] {
        let mut peer = RtmpPeer::connect(server.port(), "files");
        let msid = peer.create_stream();
        peer.command(msid, command, &[Amf::Null, "cam".into()]);
        let description = peer.expect("an onStatus", |message| {
            let values = common::peer::command_of(message).filter(|_| status_code(message).is_some())?;
            assert_eq!(status_code(message).as_deref(), Some(code));
            values[3].property("description").and_then(Amf::as_str).map(str::to_owned)
        });
        assert!(description.contains("live is off"), "{description}");
        until_closed(&mut peer);
    }
}

#[test]
fn however_a_client_splits_its_url_it_means_the_same_stream() {
    let server = TestServer::start(LIVE);
    // Publisher and player of `rtmp://host/live/…`, as app and name.
    let cases = [
        [("live", "one"), ("live/", "one")],
        [("live", "two"), ("live/_definst_", "two")],
        [("live?token=1", "three"), ("live", "three?token=2")],
        [("live", "four/five"), ("live/four", "five")],
        [("live/six/seven", "eight"), ("live", "six/seven/eight")],
        // OBS with everything in its server field.
        [("live/nine", ""), ("live", "nine")],
        [("live//", "ten"), ("live", "ten?a=b")],
        // ffmpeg, and a slash in the query.
        [("live/eleven?token=a", "b"), ("live", "eleven")],
    ];
    for [(app, name), (player_app, player_name)] in cases {
        let (mut player, _) = playing(server.port(), player_app, player_name);
        let mut publisher = Publishing::start_at(server.port(), app, name);
        publisher.send_frames(0..3);
        assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2], "{app} {name} → {player_app} {player_name}");
    }
}

#[test]
fn rules_of_the_application_come_before_those_around_it() {
    let server = TestServer::start(
        "rtmp { deny publish 203.0.113.0/24;
            server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol;
                allow play 198.51.100.7; deny play 198.51.100.0/24;
                application plain { live on; }
                application mine { live on; allow publish 203.0.113.8; deny publish 192.0.2.0/24; allow play all; }
                application closed { live on; deny all; }
            } }",
    );
    let cases = [
        ("plain", "publish", "203.0.113.8", false),
        ("plain", "publish", "203.0.114.8", true),
        ("plain", "play", "198.51.100.7", true),
        ("plain", "play", "198.51.100.8", false),
        ("plain", "play", "203.0.113.8", true),
        ("mine", "publish", "203.0.113.8", true),
        ("mine", "publish", "203.0.113.9", false),
        ("mine", "publish", "192.0.2.1", false),
        ("mine", "play", "198.51.100.8", true),
        ("closed", "publish", "192.0.2.9", false),
        ("closed", "play", "192.0.2.9", false),
    ];
    for (number, (app, command, source, allowed)) in cases.into_iter().enumerate() {
        let mut peer = RtmpPeer::connect_from(source, server.other_port(1), app);
        let msid = peer.create_stream();
        peer.command(msid, command, &[Amf::Null, format!("s{number}").as_str().into()]);
        let code = peer.expect_status(msid);
        let refused = ["NetStream.Publish.Denied", "NetStream.Play.Failed"].contains(&code.as_str());
        assert_eq!(!refused, allowed, "{command} in {app} from {source}: {code}");
        if refused {
            until_closed(&mut peer);
        }
    }
}

#[test]
fn a_refused_publisher_leaves_no_trace() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; publish_notify on; deny publish all; } } }",
    );
    let (mut player, _) = playing(server.port(), "live", "guarded");
    let mut peer = RtmpPeer::connect(server.port(), "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, "guarded".into(), "live".into()]);
    // As encoders do that do not wait for the answer.
    peer.send_video(msid, 0, AVC_CONFIG);
    expect_code(&mut peer, "NetStream.Publish.Denied");
    until_closed(&mut peer);
    drop(peer);
    server.wait_for_log(&["disconnect", "access forbidden by rule"], Duration::from_secs(5));
    while let Next::Message(message) = player.next(Duration::from_millis(50)) {
        let told = status_code(&message).unwrap_or_default();
        assert!(message.kind != wire::VIDEO && !told.contains("Publish"), "{told}");
    }
    assert!(!server.log().contains(" publishing,"), "{}", server.log());
}

const LIVE: &str = "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }";
