//! What one peer, one address and the whole house may have, and how long each step may take.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::peer::{DEADLINE, RawPeer, RtmpPeer, avc_frame, c0_c1};
use common::server::TestServer;
use common::stream::{Publishing, answer_to, expect_code, frame_number, ping, playing, stays_open, until_closed};
use common::wait;
use common::wire::{self, Amf, Message};

// --- liveness ----------------------------------------------------------------------------------------------------------------

#[test]
fn a_quiet_peer_is_asked_and_stays_as_long_as_it_answers() {
    let server = server("ping 1s; ping_timeout 1s;", "");
    let (mut player, _) = playing(server.port(), "live", "name");
    for _ in 0..2 {
        let time = player.expect("a ping", |message| {
            (message.kind == wire::USER_CONTROL && message.payload[..2] == [0, 6])
                .then(|| message.payload[2..].to_vec())
        });
        player.send(&wire::control(wire::USER_CONTROL, &[&[0, 7][..], &time].concat()));
    }
    let began = Instant::now();
    until_closed(&mut player);
    assert!(began.elapsed() >= Duration::from_millis(1500), "a ping and its time: {:?}", began.elapsed());
    drop(player);
    server.wait_for_log(&["disconnect", "no answer to ping"], Duration::from_secs(5));
}

#[test]
fn busy_closes_who_would_be_asked() {
    let server = server("ping 1s; busy on;", "");
    let (mut player, _) = playing(server.port(), "live", "name");
    let messages = until_closed(&mut player);
    assert!(messages.iter().all(|message| message.kind != wire::USER_CONTROL || message.payload[..2] != [0, 6]));
    drop(player);
    server.wait_for_log(&["disconnect", "busy is on"], Duration::from_secs(5));
}

#[test]
fn ping_of_zero_asks_nobody() {
    let server = server("ping 0; ping_timeout 1s; busy on;", "");
    let (mut player, _) = playing(server.port(), "live", "name");
    assert!(stays_open(&mut player, Duration::from_millis(2500)));
}

#[test]
fn a_timeout_shorter_than_the_usual_bounds_the_handshake() {
    let server = server("timeout 1s;", "");
    let mut half = RawPeer::connect(server.port());
    half.send(&[3; 100]);
    half.assert_closed_within(Duration::from_secs(4));
}

// --- size --------------------------------------------------------------------------------------------------------------------

#[test]
fn a_keyframe_of_five_megabytes_passes_and_one_beyond_the_bound_closes() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; out_queue_bytes 20m; } }
                server { listen 127.0.0.1:@port2@; max_message 1m; application live { live on; } }
                server { listen 127.0.0.1:@port3@; max_message 12m; application live { live on; out_queue_bytes 20m; } } }",
    );
    for (index, size) in [(0, 5_000_000), (2, 11_000_000)] {
        let (mut player, _) = playing(server.other_port(index), "live", "large");
        let mut publisher = Publishing::start_at(server.other_port(index), "live", "large");
        let frame = avc_frame(true, 1, size);
        publisher.peer.send_video(publisher.msid, 0, &frame);
        player.expect("the large frame", |message| (message.payload == frame).then_some(()));
    }
    for (index, size) in [(0, 9_000_000), (1, 1_100_000)] {
        let mut publisher = Publishing::start_at(server.other_port(index), "live", "larger");
        publisher.peer.raw.try_send(&wire::header0(6, 0, size, wire::VIDEO, publisher.msid));
        until_closed(&mut publisher.peer);
    }
    let mut publisher = Publishing::start_at(server.other_port(1), "live", "fits");
    publisher.peer.send_video(publisher.msid, 0, &avc_frame(true, 1, 1_000_000));
    publisher.settle();
}

#[test]
fn max_message_before_publish_bounds_what_strangers_send() {
    let server = server("", "");
    let small = TestServer::start(
        "rtmp { max_message_before_publish 2k; server { listen 127.0.0.1:@port@; application live { live on; } } }",
    );
    for (server, passes) in [(&server, true), (&small, false)] {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let text = "x".repeat(3000);
        peer.command(0, "unknown", &[Amf::Null, text.as_str().into()]);
        if passes {
            ping(&mut peer, 1);
        } else {
            until_closed(&mut peer);
        }
    }
}

#[test]
fn bounds_of_amf_hold_for_commands_and_metadata() {
    let nested = |depth: usize| (0..depth).fold(Amf::Null, |inner, _| Amf::object(&[("a", inner)]));
    let cases: [(&str, Amf); 3] = [
        ("amf_max_depth 4;", nested(8)),
        ("amf_max_values 30;", Amf::Strict(vec![Amf::Null; 60])),
        ("amf_max_string 300;", Amf::String("x".repeat(600))),
    ];
    for (option, value) in cases {
        for (written, passes) in [("", true), (option, false)] {
            let server = TestServer::start(&format!(
                "rtmp {{ {written} server {{ listen 127.0.0.1:@port@; application live {{ live on; }} }} }}"
            ));
            let mut peer = RtmpPeer::connect(server.port(), "live");
            peer.command(0, "unknown", &[Amf::Null, value.clone()]);
            if passes {
                ping(&mut peer, 1);
            } else {
                until_closed(&mut peer);
            }
        }
    }
    // Metadata that is too much is dropped, and its publisher goes on.
    let long = Amf::object(&[("comment", Amf::String("x".repeat(600)))]);
    for (written, passes) in [("", true), ("amf_max_data_string 300;", false)] {
        let server = TestServer::start(&format!(
            "rtmp {{ {written} server {{ listen 127.0.0.1:@port@; application live {{ live on; }} }} }}"
        ));
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        let mut payload = Vec::new();
        for value in [&Amf::from("@setDataFrame"), &"onMetaData".into(), &long] {
            value.write(&mut payload);
        }
        let msid = publisher.msid;
        publisher.peer.send(&Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid, payload });
        publisher.video(0, true, 0);
        let mut described = false;
        player.expect("the frame", |message| {
            described |= message.kind == wire::AMF0_DATA && message.payload.len() > 600;
            frame_number(message)
        });
        assert_eq!(described, passes, "{written}");
    }
}

// --- number ------------------------------------------------------------------------------------------------------------------

#[test]
fn max_streams_counts_chunk_streams() {
    let server = server("max_streams 8;", "");
    let mut publisher = Publishing::start(&server, "name");
    // In use already: 2 and 3 for control and commands, 6 for video.
    for csid in 10..15 {
        publisher.peer.send(&Message {
            csid,
            time: 0,
            kind: wire::AUDIO,
            msid: publisher.msid,
            payload: vec![0x2f, 1],
        });
    }
    publisher.settle();
    publisher.peer.send(&Message {
        csid: 15,
        time: 0,
        kind: wire::AUDIO,
        msid: publisher.msid,
        payload: vec![0x2f, 1],
    });
    until_closed(&mut publisher.peer);
}

#[test]
fn max_message_streams_counts_what_createstream_makes() {
    let server = TestServer::start(
        "rtmp { max_message_streams 2; server { listen 127.0.0.1:@port@; application live { live on; } } }",
    );
    let mut peer = RtmpPeer::connect(server.port(), "live");
    peer.create_stream();
    peer.create_stream();
    assert_eq!(peer.request(0, "createStream", &[Amf::Null])[0].as_str(), Some("_error"));
}

#[test]
fn max_connections_bounds_the_house_wherever_it_stands() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; max_connections 3; } } }",
    );
    let mut inside = fill(&server, 3);
    server.wait_for_log(&["limit: too many connections"], Duration::from_secs(5));
    inside.pop();
    // Whoever leaves makes room.
    wait::until("there is room again", Duration::from_secs(5), || enters(&server).then_some(()));
}

#[test]
fn one_address_gets_what_was_written_even_the_loopback() {
    let server = TestServer::start(
        "rtmp { max_connections_per_address 2; server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol;
            application live { live on; } } }",
    );
    let _inside = fill(&server, 2);
    // Others have their own count.
    let _one = RtmpPeer::connect_from("203.0.113.1", server.other_port(1), "live");
    let _two = RtmpPeer::connect_from("203.0.113.1", server.other_port(1), "live");
    assert!(!enters_from("203.0.113.1", &server), "the third of that address");
    assert!(enters_from("203.0.113.2", &server));
}

#[test]
fn connections_of_one_address_come_no_faster_than_written() {
    let server = TestServer::start(
        "rtmp { connection_rate 1 burst=3; server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol;
            application live { live on; } } }",
    );
    let entered = (0..6).filter(|_| enters_from("203.0.113.1", &server)).count();
    assert!((3..=4).contains(&entered), "{entered}");
    assert!(enters_from("203.0.113.2", &server), "each address has a rate of its own");
    wait::until("a second later there is room", Duration::from_secs(4), || {
        enters_from("203.0.113.1", &server).then_some(())
    });
}

#[test]
fn publishers_and_names_of_one_address_are_counted() {
    let server = TestServer::start(
        "rtmp { max_publishers_per_address 2; max_names_per_address 3;
            server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol; application live { live on; } } }",
    );
    let publish = |name: &str| {
        let mut peer = RtmpPeer::connect_from("203.0.113.1", server.other_port(1), "live");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
        let code = peer.expect_status(msid);
        (peer, msid, code)
    };
    let (mut one, msid, code) = publish("one");
    assert_eq!(code, "NetStream.Publish.Start");
    let (_two, _, code) = publish("two");
    assert_eq!(code, "NetStream.Publish.Start");
    assert_eq!(publish("three").2, "NetStream.Publish.Rejected", "two publish at a time");
    one.command(msid, "closeStream", &[Amf::Null]);
    expect_code(&mut one, "NetStream.Unpublish.Success");
    let (mut three, msid, code) = publish("three");
    assert_eq!(code, "NetStream.Publish.Start");
    three.command(msid, "closeStream", &[Amf::Null]);
    expect_code(&mut three, "NetStream.Unpublish.Success");
    assert_eq!(publish("four").2, "NetStream.Publish.Rejected", "three names within the hour");
    assert_eq!(publish("one").2, "NetStream.Publish.Start", "a name that is known costs nothing");
}

#[test]
fn max_live_streams_counts_published_and_awaited_names_apart_and_gives_them_back() {
    let server = TestServer::start(
        "rtmp { max_live_streams 1; server { listen 127.0.0.1:@port@; application live { live on; } } }",
    );
    let first = Publishing::start(&server, "one");
    assert_eq!(answer_to("publish", server.port(), "live", "two").1, "NetStream.Publish.Rejected");
    let player = playing(server.port(), "live", "one");
    // Whoever waits for names that nobody publishes keeps no publisher out, and is bounded all the same.
    let waiting = playing(server.port(), "live", "two");
    assert_eq!(answer_to("play", server.port(), "live", "three").1, "NetStream.Play.Failed");
    assert_eq!(answer_to("publish", server.port(), "live", "two").1, "NetStream.Publish.Rejected");
    drop((first, player, waiting));
    wait::until("the place is free again", Duration::from_secs(5), || {
        (answer_to("publish", server.port(), "live", "two").1 == "NetStream.Publish.Start").then_some(())
    });
}

#[test]
fn unknown_commands_are_answered_at_the_rate_that_was_written() {
    let server = TestServer::start(
        "rtmp { max_unknown_command_rate 3; server { listen 127.0.0.1:@port@; application live { live on; } } }",
    );
    let mut peer = RtmpPeer::connect(server.port(), "live");
    for _ in 0..20 {
        peer.command(0, "whatever", &[Amf::Null]);
    }
    peer.send(&wire::control(wire::USER_CONTROL, &[0, 6, 0, 0, 0, 1]));
    let mut answers = 0;
    peer.expect("the answer to a ping", |message| {
        answers += usize::from(message.kind == wire::AMF0_COMMAND);
        (message.kind == wire::USER_CONTROL).then_some(())
    });
    assert!((3..=6).contains(&answers), "a second may have begun in between: {answers}");
}

#[test]
fn a_flood_of_commands_ends_at_the_rate_that_was_written() {
    let server = TestServer::start(
        "rtmp { max_control_rate 50; server { listen 127.0.0.1:@port@; application live { live on; } } }",
    );
    let mut peer = RtmpPeer::connect(server.port(), "live");
    let bytes = wire::chunks(128, &wire::command(0, "whatever", 0.0, &[Amf::Null])).repeat(200);
    peer.raw.try_send(&bytes);
    until_closed(&mut peer);
}

// --- shared ------------------------------------------------------------------------------------------------------------------

fn server(server_options: &str, options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; {server_options} application live {{ live on; {options} }} }} }}"
    ))
}

/// Enters until nobody more is let in, and asserts how many that were.
fn fill(server: &TestServer, count: usize) -> Vec<RtmpPeer> {
    let mut inside = Vec::new();
    wait::until("the house is full", Duration::from_secs(5), || {
        if inside.len() < count {
            inside.extend(try_enter(server));
        }
        (inside.len() == count).then_some(())
    });
    assert!(!enters(server), "{count} are inside");
    inside
}

fn try_enter(server: &TestServer) -> Option<RtmpPeer> {
    let mut raw = RawPeer::connect(server.port());
    answered(&mut raw, b"").then(|| {
        raw.send(&[0; 1536]);
        raw.receive(1536 + 1536);
        let mut peer = RtmpPeer::over(raw);
        peer.request_connect("live", &[]);
        peer
    })
}

fn enters(server: &TestServer) -> bool {
    answered(&mut RawPeer::connect(server.port()), b"")
}

fn enters_from(source: &str, server: &TestServer) -> bool {
    let port = server.other_port(1);
    answered(&mut RawPeer::connect(port), format!("PROXY TCP4 {source} 127.0.0.1 40000 {port}\r\n").as_bytes())
}

/// Whether the server shakes hands: its version byte has been read then.
fn answered(raw: &mut RawPeer, first: &[u8]) -> bool {
    raw.try_send(&[first, &c0_c1()].concat());
    raw.stream.set_read_timeout(Some(DEADLINE)).expect("a socket option");
    matches!(raw.stream.read(&mut [0; 1]), Ok(1))
}
