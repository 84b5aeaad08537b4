//! Pushes and pulls, one relay at a time: when they begin and end, what they say, and what a far end may do to them.

mod common;

use std::time::{Duration, Instant};

use common::far_end::FarEnd;
use common::fixtures::Fixture;
use common::health::HealthyStream;
use common::live_source::LiveSource;
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame, command_of};
use common::playing::Playing;
use common::server::{CLIENT_DEADLINE, Kind, TestServer};
use common::stream::{Publishing, frame_number, frame_numbers, playing, until_closed};
use common::tools::{Player, Publisher};
use common::wait;
use common::wire::{self, Amf, Message};

// --- over TLS -------------------------------------------------------------------------------------------------------------------

#[test]
fn over_tls_a_stream_is_pushed_and_pulled_bit_exact_where_the_certificate_is_known() {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let middle = TestServer::start_with_files(
        "rtmp { server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ ssl; ssl_certificate c.pem;
             ssl_certificate_key k.pem; application live { live on; publish_notify on; } } }",
        &[("c.pem", &certificate), ("k.pem", &key)],
    );
    let url = format!("rtmps://127.0.0.1:{}/live", middle.other_port(1));
    let trusting = [("SSL_CERT_FILE", "@dir@/conf/c.pem")];
    let start = |inside: &str, variables: &[(&str, &str)]| {
        TestServer::start_with_environment(&rtmp(inside), &[("c.pem", &certificate)], variables)
    };
    let origin = start(&format!("publish_notify on; push {url};"), &trusting);
    let edge = start(&format!("publish_notify on; pull_grace 100ms; pull {url};"), &trusting);
    let mut at_edge = Playing::start(Player::FfmpegDebian, &edge.url("live/name"));
    edge.wait_for_players("name", 1);
    middle.wait_for_players("name", 1);
    Publisher::FfmpegDebian.publish(Fixture::H264Aac, &origin.url("live/name")).wait_for_success(CLIENT_DEADLINE);
    at_edge.assert_same_as(Fixture::H264Aac, true, "pushed and pulled over TLS");

    let stranger = start(&format!("push {url};"), &[]);
    let _source = LiveSource::publish(stranger.port(), "live", "other");
    stranger.wait_for_log(&["relay", "certificate"], Duration::from_secs(10));
}

// --- when they begin and end ----------------------------------------------------------------------------------------------------

#[test]
fn one_pull_serves_all_players_and_ends_a_while_after_the_last() {
    let origin = server("");
    let edge = server(&format!("pull {}; pull_idle 500ms;", origin.url("live")));
    let mut source = Publishing::start(&origin, "name");
    source.send_frames(0..3);
    let mut players: Vec<_> = (0..5).map(|_| playing(edge.port(), "live", "name").0).collect();
    for player in &mut players {
        assert_eq!(frame_numbers(player, 3), [0, 1, 2]);
    }
    let pulls = || origin.log().lines().filter(|line| line.contains("playing")).count();
    assert_eq!(pulls(), 1);
    // Who comes back in time finds it still there.
    players.clear();
    let (mut player, _) = playing(edge.port(), "live", "name");
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    assert_eq!(pulls(), 1);
    drop(player);
    origin.wait_for_log(&["play ended"], Duration::from_secs(5));
    source.send_frames(3..6);
    assert_eq!(pulls(), 1);
}

#[test]
fn a_pull_waits_for_the_publisher_far_away_also_without_idle_streams() {
    let origin = server("idle_streams off;");
    let edge = server(&format!("pull {}; idle_streams off;", origin.url("live")));
    let (mut player, _) = playing(edge.port(), "live", "name");
    edge.wait_for_log(&["relay lost", "StreamNotFound"], Duration::from_secs(5));
    let _source = LiveSource::publish(origin.port(), "live", "name");
    frame_numbers(&mut player, 10);
}

#[test]
fn a_static_pull_needs_no_player_and_makes_way_for_who_publishes_here() {
    let origin = server("");
    let _source = LiveSource::publish(origin.port(), "live", "far");
    let edge = server(&format!("pull {} static name=near;", origin.url("live/far")));
    edge.wait_for_log(&["relaying", "live/near"], Duration::from_secs(5));
    let (mut player, _) = playing(edge.port(), "live", "near");
    frame_numbers(&mut player, 3);
    let mut local = Publishing::start(&edge, "near");
    local.send_frames(1_000_000..1_000_003);
    player.expect("what is published here", |message| (frame_number(message)? >= 1_000_000).then_some(()));
    edge.wait_for_log(&["relay ended"], Duration::from_secs(5));
    drop(local);
    player.expect("what is pulled again", |message| (frame_number(message)? < 1_000_000).then_some(()));
}

#[test]
fn when_the_first_url_leads_nowhere_the_next_one_is_tried() {
    let origin = server("");
    let _source = LiveSource::publish(origin.port(), "live", "name");
    let gone = FarEnd::bind().port();
    let edge = server(&format!("pull rtmp://127.0.0.1:{gone}/live rtmp://localhost:{}/live;", origin.port()));
    let (mut player, _) = playing(edge.port(), "live", "name");
    frame_numbers(&mut player, 10);
}

#[test]
fn a_push_says_goodbye_when_the_publisher_leaves_and_when_the_server_ends() {
    for ends in [false, true] {
        let far = FarEnd::bind();
        let server = server(&format!("push rtmp://127.0.0.1:{}/far/$name-$app?k=v;", far.port()));
        let mut source = Publishing::start(&server, "name");
        source.send_frames(0..3);
        let mut guest = far.guest().lets_publish();
        assert_eq!(guest.name, "name-live?k=v");
        assert_eq!(guest.connect.property("app").and_then(Amf::as_str), Some("far"));
        assert_eq!(guest.connect.property("livemillRoute").and_then(Amf::as_str).map(str::len), Some(16));
        assert_eq!(frame_numbers(&mut guest.peer, 3), [0, 1, 2]);
        if ends {
            server.signal(nix::sys::signal::Signal::SIGTERM);
        } else {
            drop(source);
        }
        let said = until_closed(&mut guest.peer);
        let said: Vec<_> =
            said.iter().filter_map(command_of).filter_map(|values| values[0].as_str().map(str::to_owned)).collect();
        assert_eq!(said, ["FCUnpublish", "deleteStream"], "{ends}");
    }
}

#[test]
fn metadata_are_pushed_as_what_is_to_be_set() {
    let far = FarEnd::bind();
    let server = server(&format!("push rtmp://127.0.0.1:{}/far;", far.port()));
    let mut source = Publishing::start(&server, "name");
    let mut payload = Vec::new();
    [Amf::from("@setDataFrame"), "onMetaData".into(), Amf::object(&[("width", Amf::Number(640.0))])]
        .iter()
        .for_each(|value| value.write(&mut payload));
    source.peer.send(&Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid: source.msid, payload });
    source.send_frames(0..3);
    let mut guest = far.guest().lets_publish();
    let said = guest
        .peer
        .expect("metadata", |message| (message.kind == wire::AMF0_DATA).then(|| Amf::read_all(&message.payload)));
    assert_eq!(said[0].as_str(), Some("@setDataFrame"));
    assert_eq!(said[1].as_str(), Some("onMetaData"));
    assert_eq!(said[2].property("width").and_then(Amf::as_number), Some(640.0));
}

#[test]
fn a_far_end_that_asks_to_connect_again_is_followed_where_it_may_lead() {
    let (far, other) = (FarEnd::bind(), FarEnd::bind());
    let server = server(&format!("pull rtmp://127.0.0.1:{}/a;", far.port()));
    let (mut player, _) = playing(server.port(), "live", "name");
    let mut guest = far.guest().lets_play();
    show(&mut guest.peer, 0, 1);
    frame_numbers(&mut player, 1);
    let tc_url = format!("rtmp://127.0.0.1:{}/b", other.port());
    let info = Amf::object(&[
        ("level", "status".into()),
        ("code", "NetConnection.Connect.ReconnectRequest".into()),
        ("tcUrl", Amf::String(tc_url)),
    ]);
    guest.peer.send(&wire::command(0, "onStatus", 0.0, &[Amf::Null, info]));
    let mut moved = other.guest().lets_play();
    assert_eq!(moved.connect.property("app").and_then(Amf::as_str), Some("b"));
    show(&mut moved.peer, 0, 2);
    assert_eq!(frame_numbers(&mut player, 1), [2]);
    assert!(!player.collect(Duration::from_millis(100)).1, "for the player nothing ended");
}

// --- what a far end may do to them ----------------------------------------------------------------------------------------------

#[test]
fn who_refuses_is_asked_again_much_later_and_the_log_says_so() {
    let far = FarEnd::bind();
    let server = server(&format!("push rtmp://127.0.0.1:{}/far; push_reconnect 100ms;", far.port()));
    let _source = LiveSource::publish(server.port(), "live", "name");
    far.guest().status("error", "NetStream.Publish.Denied");
    server.wait_for_log(&["refused", "NetStream.Publish.Denied"], Duration::from_secs(5));
    let refused = Instant::now();
    far.accept();
    assert!(refused.elapsed() >= Duration::from_millis(450), "{:?}", refused.elapsed());
}

#[test]
fn no_far_end_disturbs_anybody_and_each_is_left_and_tried_again() {
    let times = "relay_ready_timeout 1s; pull_first_frame_timeout 1s; pull_first_keyframe_timeout 1s; pull_timeout 1s;
                 pull_idle 100ms; failed_reconnect 100ms; pull_reconnect 100ms;";
    let badly: [(&str, Behaviour); 7] = [
        ("again_ms", |far| drop(far.accept())),
        ("does not say yes", |far| wait_for_end(&mut far.accept().stream)),
        ("does not say yes", |far| {
            // A handshake without an end.
            let mut peer = far.accept();
            while peer.try_send(&[3; 16]) {
                wait::within(Duration::from_millis(50), || None::<()>);
            }
        }),
        ("", |far| {
            // A message that is larger than any may be.
            let mut guest = far.guest().lets_play();
            let header = wire::header0(6, 0, 0xff_ffff, wire::VIDEO, 1);
            let _ = guest.peer.raw.try_send(&header);
            let block = vec![0xc6; 1 << 20];
            while guest.peer.raw.try_send(&block) {}
        }),
        ("neither audio nor video", |far| {
            let mut guest = far.guest().lets_play();
            let mut payload = Vec::new();
            ["onMetaData".into(), Amf::object(&[("a", "b".into())])].iter().for_each(|value| value.write(&mut payload));
            let message = Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid: 1, payload };
            while guest.peer.raw.try_send(&wire::chunks(65_536, &message)) {
                wait::within(Duration::from_millis(20), || None::<()>);
            }
        }),
        ("no keyframe", |far| {
            let mut guest = far.guest().lets_play();
            let frame = |number| Message {
                csid: 6,
                time: number * 20,
                kind: wire::VIDEO,
                msid: 1,
                payload: avc_frame(false, number, 100),
            };
            for number in 0.. {
                if !guest.peer.raw.try_send(&wire::chunks(65_536, &frame(number))) {
                    return;
                }
                wait::within(Duration::from_millis(20), || None::<()>);
            }
        }),
        ("sent nothing", |far| {
            let mut guest = far.guest().lets_play();
            show(&mut guest.peer, 0, 1);
            wait_for_end(&mut guest.peer.raw.stream);
        }),
    ];
    for (reason, behave) in badly {
        let far = FarEnd::bind();
        let mut server = server(&format!("{times} pull rtmp://127.0.0.1:{}/far name=bad;", far.port()));
        let healthy = HealthyStream::beside(&server);
        let player = playing(server.port(), "live", "bad");
        behave(&far);
        server.wait_for_log(&["relay", reason], Duration::from_secs(5));
        far.accept();
        drop(player);
        healthy.check(&mut server);
    }
}

#[test]
fn a_push_that_nobody_reads_is_opened_anew_and_keeps_little() {
    let far = FarEnd::bind();
    let mut server = server(&format!("push_timeout 1s; push rtmp://127.0.0.1:{}/far name=name;", far.port()));
    let (mut source, msid) = RtmpPeer::publish(server.port(), "live", "name");
    source.set_chunk_size(65_536);
    source.send_video(msid, 0, AVC_CONFIG);
    let stuck = far.guest().lets_publish();
    let before = server.anonymous_kib();
    for number in 0..300 {
        source.send_video(msid, number * 40, &avc_frame(number % 25 == 0, number, 200_000));
    }
    server.wait_for_log(&["relay lost", "taken nothing"], Duration::from_secs(10));
    assert!(server.anonymous_kib() < before + 40_000, "{} KiB and then {}", before, server.anonymous_kib());
    drop(stuck);
    far.guest();
    assert!(server.is_alive());
}

// --- beside nginx ---------------------------------------------------------------------------------------------------------------

#[test]
fn nginx_takes_what_is_pushed_and_gives_what_is_pulled_bit_exact() {
    let nginx = TestServer::start_nginx(&rtmp("publish_notify on;"));
    let origin = server(&format!("push {};", nginx.url("live")));
    let edge = server(&format!("publish_notify on; pull_grace 100ms; pull {};", nginx.url("live")));
    for fixture in [Fixture::H264Aac, Fixture::H264BFrames] {
        let name = format!("through-{}", fixture.name());
        let mut playing = Playing::start(Player::FfmpegDebian, &edge.url(&format!("live/{name}")));
        edge.wait_for_players(&name, 1);
        nginx.wait_for_players(&name, 1);
        let url = origin.url(&format!("live/{name}"));
        Publisher::FfmpegDebian.publish(fixture, &url).wait_for_success(CLIENT_DEADLINE);
        playing.assert_same_as(fixture, true, &format!("{fixture:?} through nginx"));
    }
}

// --- helpers --------------------------------------------------------------------------------------------------------------------

fn rtmp(inside: &str) -> String {
    format!("rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {inside} }} }} }}")
}

fn server(inside: &str) -> TestServer {
    assert_eq!(Kind::under_test(), Kind::Livemill, "this is about livemill's own relays");
    TestServer::start(&rtmp(inside))
}

/// What a far end does to the relay that comes.
type Behaviour = fn(&FarEnd);

/// A picture: its configuration and a keyframe.
fn show(peer: &mut RtmpPeer, time: u32, number: u32) {
    peer.send_video(1, time, AVC_CONFIG);
    peer.send_video(1, time, &avc_frame(true, number, 500));
}

/// Reads until the other side closes.
fn wait_for_end(stream: &mut std::net::TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket option");
    let mut scratch = [0; 4096];
    while std::io::Read::read(stream, &mut scratch).is_ok_and(|read| read > 0) {}
}
