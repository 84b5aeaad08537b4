//! A living stream: who may have it, who is slow, who comes back, and how it ends.

mod common;

use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use common::core_wait::CoreWait;
use common::health::{unharmed, unharmed_once_more};
use common::peer::{AAC_CONFIG, AVC_CONFIG, Next, RtmpPeer, avc_frame, avc_frame_number, is_keyframe};
use common::server::TestServer;
use common::stream::{Publishing, frame_numbers, playing};
use common::wire::{self, Amf, Message};
use nix::sys::signal::Signal;

const LIVE: &str = "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }";

#[test]
fn many_players_on_all_workers_get_every_frame() {
    let server = TestServer::start(LIVE);
    let mut players: Vec<RtmpPeer> = (0..100).map(|_| RtmpPeer::play(server.port(), "live", "many").0).collect();
    server.wait_for_players("many", players.len());
    let mut publisher = Publishing::start(&server, "many");
    publisher.send_frames(0..50);
    for player in &mut players {
        assert_eq!(frame_numbers(player, 50), (0..50).collect::<Vec<u32>>());
    }
}

#[test]
fn players_stay_when_their_publisher_comes_back() {
    let server = TestServer::start(LIVE);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "again");
    let mut times = Vec::new();
    for round in 0..2 {
        let mut publisher = Publishing::start(&server, "again");
        // The second time with other parameters, as after a change in the encoder.
        let config = [AVC_CONFIG, &[round]].concat();
        publisher.peer.send_video(publisher.msid, 0, &config);
        publisher.send_frames(0..25);
        let mut configured = false;
        player.expect("the frames of this publisher", |message| {
            configured |= message.payload == config;
            let number = avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO)?;
            assert!(configured, "the configuration of round {round} comes before its frames");
            times.push(message.time);
            (number == 24).then_some(())
        });
    }
    assert!(times.is_sorted(), "the player's clock never goes back: {times:?}");
    assert_eq!(times.len(), 50);
}

#[test]
fn a_late_player_of_sound_alone_hears_it_at_once() {
    let server = TestServer::start(LIVE);
    let mut publisher = Publishing::start(&server, "radio");
    publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
    for number in 0..40_u32 {
        publisher.peer.send_audio(publisher.msid, number * 23, &[0xaf, 1, 0x21, number as u8]);
    }
    let (mut first, _) = RtmpPeer::play(server.port(), "live", "radio");
    let last = |message: &Message| (message.payload == [0xaf, 1, 0x21, 39]).then_some(());
    first.expect("the newest audio frame, from the cache", last);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "radio");
    let clock = CoreWait::with_this_thread(server.pid());
    let asked = clock.now();
    let mut configured = false;
    player.expect("the newest audio frame, from the cache", |message| {
        configured |= message.payload == AAC_CONFIG;
        last(message)
    });
    let took = clock.now().later_than(&asked);
    assert!(configured && took < Duration::from_millis(100), "after {took:?}");
}

#[test]
fn metadata_comes_first_and_at_time_zero() {
    let server = TestServer::start(LIVE);
    let mut publisher = Publishing::start(&server, "described");
    let mut payload = Vec::new();
    Amf::from("@setDataFrame").write(&mut payload);
    Amf::from("onMetaData").write(&mut payload);
    Amf::Array(vec![("width".to_owned(), 320.0.into()), ("height".to_owned(), 180.0.into())]).write(&mut payload);
    let metadata = Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid: publisher.msid, payload };
    publisher.peer.send(&metadata);
    publisher.send_frames(0..10);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "described");
    let values = player.expect("metadata", |message| {
        assert!(!is_keyframe(message), "metadata comes before media");
        let values =
            Some(&message.payload).filter(|_| message.kind == wire::AMF0_DATA).map(|body| Amf::read_all(body))?;
        assert_eq!(message.time, 0);
        (values[0].as_str() == Some("onMetaData")).then_some(values)
    });
    assert_eq!(values[1].property("width").and_then(Amf::as_number), Some(320.0));
}

#[test]
fn sound_waits_for_the_next_picture_but_not_for_long() {
    let server = TestServer::start(LIVE);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "ride");
    server.wait_for_players("ride", 1);
    let mut publisher = Publishing::start(&server, "ride");
    publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
    publisher.send_frames(0..1);
    frame_numbers(&mut player, 1);
    let clock = CoreWait::with_this_thread(server.pid());
    // No picture comes any more.
    for number in 0..4_u8 {
        publisher.peer.send_audio(publisher.msid, 23 * u32::from(number), &[0xaf, 1, 0x21, number]);
    }
    let sent = clock.now();
    player.expect("the last sound", |message| (message.payload == [0xaf, 1, 0x21, 3]).then_some(()));
    let took = clock.now().later_than(&sent);
    assert!(took < Duration::from_millis(140), "40 ms, and what a debug build takes: {took:?}");
    // And what is still held when the publisher goes is played, too.
    publisher.peer.send_audio(publisher.msid, 92, &[0xaf, 1, 0x21, 4]);
    drop(publisher);
    player.expect("the very last sound", |message| (message.payload == [0xaf, 1, 0x21, 4]).then_some(()));
}

// --- who may -----------------------------------------------------------------------------------------------------------------

#[test]
fn a_wrong_key_is_refused_and_guessing_is_stopped() {
    let mut server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; listen 127.0.0.1:@port2@ proxy_protocol;
            application live { live on; publish_key s3cret; } } }",
    );
    unharmed(&mut server, |server| {
        let port = server.other_port(1);
        let publish = |source: &str, name: &str| {
            let mut peer = RtmpPeer::connect_from(source, port, "live");
            let msid = peer.create_stream();
            peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
            peer.expect_status(msid)
        };
        assert_eq!(publish("203.0.113.7", "keyed?key=s3cret"), "NetStream.Publish.Start");
        for wrong in ["keyed", "keyed?key=", "keyed?key=s3cre", "keyed?key=s3cret2", "keyed?token=s3cret"] {
            assert_eq!(publish("203.0.113.8", wrong), "NetStream.Publish.Denied", "{wrong}");
        }
        for _ in 0..10 {
            publish("203.0.113.9", "keyed?key=guess");
        }
        assert_eq!(publish("203.0.113.9", "other?key=s3cret"), "NetStream.Publish.Denied", "a guesser has to wait");
        assert_eq!(publish("203.0.113.10", "other?key=s3cret"), "NetStream.Publish.Start", "others have not");
        assert!(!server.log().contains("s3cret"), "keys do not show in logs:\n{}", server.log());
    });
}

#[test]
fn addresses_are_let_in_by_rule() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@ proxy_protocol;
            application live { live on; allow publish 203.0.113.0/24; deny publish all; deny play 198.51.100.0/24; } } }",
    );
    let status = |source: &str, command: &str| {
        let mut peer = RtmpPeer::connect_from(source, server.port(), "live");
        let msid = peer.create_stream();
        peer.command(msid, command, &[Amf::Null, source.into(), "live".into()]);
        peer.expect_status(msid)
    };
    assert_eq!(status("203.0.113.7", "publish"), "NetStream.Publish.Start");
    assert_eq!(status("198.51.100.1", "publish"), "NetStream.Publish.Denied");
    assert!(status("203.0.113.8", "play").starts_with("NetStream.Play."));
    let refused = status("198.51.100.1", "play");
    assert!(
        refused.starts_with("NetStream.Play.") && !refused.ends_with("Start") && !refused.ends_with("Reset"),
        "{refused}"
    );
}

// --- slow players --------------------------------------------------------------------------------------------------------------

#[test]
fn a_player_that_reads_nothing_is_closed_and_nobody_else_notices() {
    let mut server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; slow_player_timeout 1s; out_queue_bytes 1m; } } }",
    );
    // What the sockets and the queue held stays in the allocator's hands for the next time.
    unharmed_once_more(&mut server, |server| {
        let closed_before = slow_closes(server);
        let (mut stuck, _) = playing(server.port(), "live", "full");
        let mut publisher = Publishing::start(server, "full");
        let began = Instant::now();
        let mut number = 0;
        // Fills the socket's buffers, which the kernel lets grow to several megabytes, and then the queue.
        while began.elapsed() < Duration::from_secs(10) && slow_closes(server) == closed_before {
            publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 25 == 0, number, 200_000));
            number += 1;
        }
        assert!(slow_closes(server) > closed_before, "the closing line says that it was slow");
        // What was on its way still comes, and then the end.
        let (_, closed) = stuck.collect(Duration::from_secs(2));
        assert!(closed);
    });
}

#[test]
fn publishers_that_come_and_go_do_not_pile_up_words_for_a_player_that_reads_nothing() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; publish_notify on; slow_player_timeout 60s; } } }",
    );
    let (_stuck, _) = RtmpPeer::play(server.port(), "live", "flapping");
    server.wait_for_players("flapping", 1);
    let mut publisher = Publishing::start(&server, "flapping");
    for number in 0..60 {
        publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number == 0, number, 200_000));
    }
    let Publishing { mut peer, msid, .. } = publisher;
    for _ in 0..400 {
        peer.command(msid, "closeStream", &[Amf::Null]);
        assert_eq!(peer.expect_status(msid), "NetStream.Unpublish.Success");
        peer.command(msid, "publish", &[Amf::Null, "flapping".into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.Start");
        peer.send_video(msid, 0, AVC_CONFIG);
    }
    server.wait_for_log(&["disconnect", "name: flapping", "does not read"], Duration::from_secs(3));
}

#[test]
fn a_player_that_fell_behind_goes_on_with_a_keyframe() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; out_queue_bytes 1m; } } }",
    );
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "behind");
    server.wait_for_players("behind", 1);
    let mut publisher = Publishing::start(&server, "behind");
    // More than socket buffers and queue can hold while nobody reads.
    let last = 200;
    for number in 0..=last {
        publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 10 == 0, number, 100_000));
    }
    // The server has read all of it once it answers this.
    publisher.peer.request(0, "createStream", &[Amf::Null]);
    let mut before: Option<u32> = None;
    let mut skipped = 0;
    while let Next::Message(message) = player.next(Duration::from_secs(1)) {
        let Some(number) = avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO) else { continue };
        if before.is_some_and(|before| number != before + 1) {
            assert!(is_keyframe(&message), "after {before:?} comes {number}, which is no keyframe");
            skipped += 1;
        }
        assert_eq!(message.payload, avc_frame(number % 10 == 0, number, 100_000), "no frame is torn");
        before = Some(number);
    }
    assert!(skipped > 0, "20 MB were never too much, so this showed nothing");
    assert_eq!(before, Some(last), "the newest frame is there in the end");
}

// --- the end -------------------------------------------------------------------------------------------------------------------

#[test]
fn quit_takes_nobody_new_and_lets_streams_end() {
    let mut server = TestServer::start(LIVE);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "last");
    let mut publisher = Publishing::start(&server, "last");
    publisher.send_frames(0..5);
    server.signal(Signal::SIGQUIT);
    common::wait::until("the port is closed", Duration::from_secs(5), || {
        TcpStream::connect(("127.0.0.1", server.port())).is_err().then_some(())
    });
    publisher.send_frames(5..10);
    assert_eq!(frame_numbers(&mut player, 10), (0..10).collect::<Vec<u32>>(), "who was there goes on");
    assert!(server.is_alive());
    drop((publisher, player));
    assert!(server.wait_for_exit(Duration::from_secs(5)).success());
}

#[test]
fn quit_waits_no_longer_than_it_was_told() {
    let mut server = TestServer::start(LIVE);
    let _player = RtmpPeer::play(server.port(), "live", "endless");
    server.signal(Signal::SIGQUIT);
    assert!(!ends_within(&mut server, Duration::from_millis(500)), "without a limit it waits");

    let whole = "worker_processes 2; worker_shutdown_timeout 1s; error_log stderr info; events {}\n".to_owned() + LIVE;
    let mut server = TestServer::start_whole(&whole, &[]);
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "endless");
    player.expect("an answer", |message| (message.kind == wire::AMF0_COMMAND).then_some(()));
    server.signal(Signal::SIGQUIT);
    assert!(server.wait_for_exit(Duration::from_secs(5)).success());
}

#[test]
fn terminate_ends_everything_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = TestServer::start(LIVE);
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "short");
        let mut publisher = Publishing::start(&server, "short");
        publisher.send_frames(0..5);
        frame_numbers(&mut player, 5);
        server.signal(signal);
        let status = server.wait_for_exit(Duration::from_secs(4));
        assert!(status.success() && status.signal().is_none(), "{status}");
    }
}

// --- shared ----------------------------------------------------------------------------------------------------------------------

/// How many players were closed because they were slow.
fn slow_closes(server: &TestServer) -> usize {
    server.log().lines().filter(|line| line.contains("full") && line.contains("slow")).count()
}

fn ends_within(server: &mut TestServer, deadline: Duration) -> bool {
    common::wait::within(deadline, || (!server.is_alive()).then_some(())).is_some()
}
