//! How a stream is put on the wire: chunks, gathering, queues and the clock.

mod common;

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::peer::{AAC_CONFIG, DEADLINE, Next, RawPeer, RtmpPeer, avc_frame};
use common::server::TestServer;
use common::stream::{Publishing, expect_code, frame_number, playing, until_audio};
use common::wire::{self, Amf};

#[test]
fn what_connect_announces_is_what_was_written() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; chunk_size 1000; ack_window 300000; application live { live on; } } }",
    );
    let mut peer = RtmpPeer::shaken(server.port());
    let url = Amf::String("rtmp://127.0.0.1/live".to_owned());
    peer.command(0, "connect", &[Amf::object(&[("app", "live".into()), ("tcUrl", url)])]);
    let mut announced = Vec::new();
    peer.expect("the answer to connect", |message| {
        announced.push((message.kind, message.payload.clone()));
        (message.kind == wire::AMF0_COMMAND).then_some(())
    });
    let window = 300_000_u32.to_be_bytes();
    let bandwidth = [&window[..], &[2]].concat();
    announced.truncate(3);
    assert_eq!(
        announced,
        [
            (wire::WINDOW_ACK_SIZE, window.to_vec()),
            (wire::SET_PEER_BANDWIDTH, bandwidth),
            (wire::SET_CHUNK_SIZE, 1000_u32.to_be_bytes().to_vec())
        ]
    );
}

#[test]
fn frames_go_out_in_chunks_of_the_announced_size() {
    for size in [128, 1000, 60_000] {
        let server = TestServer::start(&format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@; chunk_size {size}; application live {{ live on; }} }} }}"
        ));
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        let frame = avc_frame(true, 7, 5000);
        publisher.peer.send_video(publisher.msid, 0, &frame);
        // The reader follows what was announced: with any other size this frame would come out torn.
        player.expect("the frame whole", |message| (message.payload == frame).then_some(()));
    }
}

#[test]
fn times_beyond_three_bytes_are_repeated_unless_play_time_fix_is_off() {
    let time: u32 = 0x0123_4567;
    for (option, repeated) in [("on", 8), ("off", 1)] {
        // A step of hours is believed only where nothing is fixed.
        let server = TestServer::start(&format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@; chunk_size 128;
                application live {{ live on; fix_timestamp 0; play_time_fix {option}; }} }} }}"
        ));
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        publisher.video(0, true, 0);
        player.expect("the first frame", frame_number);
        let frame = [&avc_frame(true, 1, 5)[..], &[0x5a; 986]].concat();
        publisher.peer.send_video(publisher.msid, time, &frame);
        let mut bytes = Vec::new();
        let began = Instant::now();
        while bytes.iter().filter(|byte| **byte == 0x5a).count() < 986 && began.elapsed() < DEADLINE {
            let mut some = [0; 4096];
            player.raw.stream.set_read_timeout(Some(DEADLINE)).expect("a socket option");
            let length = player.raw.stream.read(&mut some).expect("the frame comes");
            bytes.extend_from_slice(&some[..length]);
        }
        let times = bytes.windows(4).filter(|window| **window == time.to_be_bytes()).count();
        assert_eq!(times, repeated, "play_time_fix {option}");
    }
}

#[test]
fn interleave_puts_sound_and_picture_on_one_chunk_stream() {
    for (option, same) in [("on", true), ("off", false)] {
        let server = server(&format!("interleave {option};"));
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        publisher.video(0, true, 0);
        publisher.audio(1, 99);
        let (mut picture, mut sound) = (None, None);
        player.expect("both media", |message| {
            match message.kind {
                wire::VIDEO => picture = Some(message.csid),
                wire::AUDIO => sound = Some(message.csid),
                _ => {}
            }
            picture.zip(sound)
        });
        assert_eq!(picture == sound, same, "interleave {option}");
    }
}

// --- gathering ---------------------------------------------------------------------------------------------------------------

#[test]
fn merged_frames_come_in_one_write() {
    for options in ["merge 300ms;", "buffer 300ms;", "buffer on;"] {
        let server = server(options);
        let arrivals = arrivals(&server, 5);
        assert_eq!(arrivals.writes, 1, "{options}: {arrivals:?}");
        assert!(arrivals.first_after >= Duration::from_millis(290), "{options}: {arrivals:?}");
    }
}

#[test]
fn unmerged_frames_come_as_they_are_published() {
    for options in ["", "buffer off;", "low_latency on; merge 300ms;"] {
        let server = server(options);
        let (mut player, mut publisher) = started(&server);
        for number in 1..5 {
            let sent = Instant::now();
            publisher.video(number * 40, false, number);
            player.expect("the frame", |message| frame_number(message).filter(|came| *came == number));
            assert!(sent.elapsed() < Duration::from_millis(250), "{options}: {:?}", sent.elapsed());
        }
    }
}

#[test]
fn out_cork_ends_a_merge_early() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; out_cork 3; application live { live on; buffer 1s; } } }",
    );
    let arrivals = arrivals(&server, 6);
    assert_eq!(arrivals.writes, 2, "{arrivals:?}");
    assert!(arrivals.first_after < Duration::from_millis(900), "{arrivals:?}");
}

#[test]
fn sound_is_held_as_long_as_it_was_written_and_with_low_latency_not_at_all() {
    let cases = [
        ("audio_hold 500ms;", Duration::from_millis(490), Duration::from_secs(3)),
        ("audio_hold 0;", Duration::ZERO, Duration::from_millis(400)),
        ("audio_hold 5s; low_latency on;", Duration::ZERO, Duration::from_secs(2)),
    ];
    for (options, least, most) in cases {
        let server = server(options);
        let (mut player, mut publisher) = started(&server);
        publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
        let sent = Instant::now();
        publisher.audio(10, 99);
        until_audio(&mut player, 99);
        assert!((least..most).contains(&sent.elapsed()), "{options}: {:?}", sent.elapsed());
    }
}

#[test]
fn what_waits_in_the_socket_for_the_next_frame_comes_also_without_it() {
    let server = server("audio_hold 100ms;");
    let (mut player, mut publisher) = started(&server);
    publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
    for number in 1..=60 {
        publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(false, number, 2_000));
        player.expect("the frame", |message| frame_number(message).filter(|came| *came == number));
    }
    let sent = Instant::now();
    publisher.audio(2_410, 99);
    until_audio(&mut player, 99);
    assert!((90..1_000).contains(&sent.elapsed().as_millis()), "sound: {:?}", sent.elapsed());
    let sent = Instant::now();
    publisher.peer.send_video(publisher.msid, 2_440, &avc_frame(false, 61, 2_000));
    player.expect("the frame", |message| frame_number(message).filter(|came| *came == 61));
    assert!(sent.elapsed() < Duration::from_millis(90), "a large frame waits for nothing: {:?}", sent.elapsed());
    publisher.peer.send_video(publisher.msid, 2_480, &avc_frame(false, 62, 50));
    player.expect("the small frame", |message| frame_number(message).filter(|came| *came == 62));
    let sent = Instant::now();
    publisher.peer.send_video(publisher.msid, 2_520, &avc_frame(false, 63, 50));
    player.expect("the second small frame", |message| frame_number(message).filter(|came| *came == 63));
    assert!(sent.elapsed() < Duration::from_millis(90), "small frames are known by now: {:?}", sent.elapsed());
}

#[test]
fn commands_wait_no_longer_than_sound_and_not_at_all_once_the_publish_has_ended() {
    let server = server("audio_hold 5s;");
    let (mut player, mut publisher) = started(&server);
    for number in 1..=60 {
        publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(false, number, 2_000));
        player.expect("the frame", |message| frame_number(message).filter(|came| *came == number));
    }
    let sent = Instant::now();
    publisher.peer.command(publisher.msid, "closeStream", &[Amf::Null]);
    expect_code(&mut publisher.peer, "NetStream.Unpublish.Success");
    assert!(sent.elapsed() < Duration::from_millis(1_000), "{:?}", sent.elapsed());
    let sent = Instant::now();
    publisher.peer.create_stream();
    assert!(sent.elapsed() < Duration::from_millis(90), "{:?}", sent.elapsed());
}

// --- slow players ------------------------------------------------------------------------------------------------------------

#[test]
fn each_bound_of_a_queue_makes_a_slow_player_skip() {
    let generous = "out_queue_bytes 100m; out_queue_time 1h;";
    let cases = [
        ("", generous, false),
        ("out_queue 20;", generous, true),
        ("", "out_queue_bytes 200k; out_queue_time 1h;", true),
        ("", "out_queue_bytes 100m; out_queue_time 2s;", true),
    ];
    for (server_options, options, skips) in cases {
        let server = TestServer::start(&format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@ sndbuf=8k; {server_options} application live {{ live on; {options} }} }} }}"
        ));
        let mut stuck = narrow_player(server.port());
        let mut publisher = Publishing::start(&server, "name");
        for number in 0..150 {
            publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 25 == 0, number, 10_000));
        }
        publisher.video(150 * 40, true, 150);
        publisher.settle();
        let mut before: Option<u32> = None;
        let mut skipped = false;
        stuck.expect("the last frame", |message| {
            let number = frame_number(message)?;
            skipped |= before.is_some_and(|before| number != before + 1);
            before = Some(number);
            (number == 150).then_some(())
        });
        assert_eq!(skipped, skips, "{server_options} {options}");
        drop(stuck);
        let counted = if skips { "skips: " } else { "skips: 0" };
        server.wait_for_log(&["play ended", counted], Duration::from_secs(5));
        assert_eq!(server.log().contains("skips: 0"), !skips, "what was dropped is counted");
    }
}

#[test]
fn a_player_that_is_behind_leaps_to_a_new_keyframe_with_low_latency() {
    for (options, leaps) in [("low_latency on;", true), ("", false)] {
        let server = TestServer::start(&format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@ sndbuf=8k; application live {{ live on; {options} }} }} }}"
        ));
        let mut stuck = narrow_player(server.port());
        let mut publisher = Publishing::start(&server, "name");
        for number in 0..60 {
            publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 25 == 0, number, 20_000));
        }
        publisher.settle();
        let mut numbers = Vec::new();
        stuck.expect("the last frame", |message| {
            numbers.extend(frame_number(message));
            (numbers.last() == Some(&59)).then_some(())
        });
        assert_eq!(numbers.len() < 60, leaps, "{options}: {numbers:?}");
    }
}

// --- shared ------------------------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Arrivals {
    /// Reads that brought frames.
    writes: usize,
    /// From the first frame published to the first that came.
    first_after: Duration,
}

/// Publishes frames one by one, each read by the server before the next is sent, and sees how they arrive.
fn arrivals(server: &TestServer, frames: usize) -> Arrivals {
    let (mut player, mut publisher) = started(server);
    let began = Instant::now();
    let mut arrivals = Arrivals { writes: 0, first_after: Duration::ZERO };
    let mut seen = 0;
    for number in 1.. {
        if (number as usize) <= frames {
            publisher.video(number * 40, false, number);
            publisher.settle();
        }
        let mut wait = if (number as usize) < frames { Duration::from_millis(20) } else { DEADLINE };
        let mut came = false;
        while let Next::Message(message) = player.next(wait) {
            seen += usize::from(frame_number(&message).is_some());
            came |= frame_number(&message).is_some();
            // What came with it in one write is there without waiting.
            wait = Duration::ZERO;
        }
        if came && arrivals.writes == 0 {
            arrivals.first_after = began.elapsed();
        }
        arrivals.writes += usize::from(came);
        if seen == frames {
            break;
        }
        assert!(came || (number as usize) < frames, "only {seen} frames came");
    }
    arrivals
}

/// A player that has seen the first frame of its publisher.
fn started(server: &TestServer) -> (RtmpPeer, Publishing) {
    let (mut player, _) = playing(server.port(), "live", "name");
    let mut publisher = Publishing::start(server, "name");
    publisher.video(0, true, 0);
    player.expect("the first frame", frame_number);
    (player, publisher)
}

/// A player whose socket holds next to nothing, and which does not read.
fn narrow_player(port: u16) -> RtmpPeer {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket option");
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("the server accepts");
    let mut raw = RawPeer { stream: socket.into() };
    raw.shake();
    let mut peer = RtmpPeer::over(raw);
    peer.request_connect("live", &[]);
    let msid = peer.create_stream();
    peer.command(msid, "play", &[Amf::Null, "name".into()]);
    expect_code(&mut peer, "NetStream.Play.Start");
    peer
}

fn server(options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {options} }} }} }}"
    ))
}
