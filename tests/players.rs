//! What a player is told and given: at its start, while publishers come and go, and when it asks for less.

mod common;

use std::time::{Duration, Instant};

use common::peer::{AAC_CONFIG, AVC_CONFIG, RtmpPeer, command_of, is_keyframe};
use common::server::TestServer;
use common::stream::{
    Publishing, answer_to, audio_frame, expect_code, frame_number, frame_numbers, ping, playing, status_code,
    until_audio, until_closed,
};
use common::wire::{self, Amf, Message};

// --- publishers come and go --------------------------------------------------------------------------------------------------

#[test]
fn without_idle_streams_nobody_waits_for_a_publisher() {
    let server = server("idle_streams off;");
    let (mut early, code) = answer_to("play", server.port(), "live", "name");
    assert_eq!(code, "NetStream.Play.StreamNotFound");
    until_closed(&mut early);
    let mut publisher = Publishing::start(&server, "name");
    publisher.send_frames(0..3);
    let (mut player, _) = playing(server.port(), "live", "name");
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    drop(publisher);
    let last = until_closed(&mut player);
    assert!(last.iter().any(|message| message.payload == [0, 1, 0, 0, 0, 1]), "StreamEOF: {last:?}");
    assert!(codes(&last).contains(&"NetStream.Play.UnpublishNotify".to_owned()), "{:?}", codes(&last));
    drop(player);
    server.wait_for_log(&["disconnect", "idle_streams is off"], Duration::from_secs(5));
}

#[test]
fn without_idle_streams_a_publisher_that_never_sent_a_frame_leaves_nobody_waiting() {
    let server = server("idle_streams off;");
    let publisher = RtmpPeer::publish(server.port(), "live", "name");
    let (mut player, _) = playing(server.port(), "live", "name");
    drop(publisher);
    until_closed(&mut player);
}

#[test]
fn with_idle_streams_players_wait_and_are_told_nothing_but_the_beginning_and_the_end() {
    let server = server("");
    let (mut player, _) = playing(server.port(), "live", "name");
    for _ in 0..2 {
        let mut publisher = Publishing::start(&server, "name");
        publisher.send_frames(0..2);
        let before = until_frame(&mut player, 1);
        assert!(before.iter().any(|message| message.payload == [0, 0, 0, 0, 0, 1]), "StreamBegin: {before:?}");
        assert_eq!(codes(&before), Vec::<String>::new());
        drop(publisher);
        player.expect("StreamEOF", |message| (message.payload == [0, 1, 0, 0, 0, 1]).then_some(()));
    }
}

#[test]
fn publish_notify_tells_when_a_publisher_comes_and_goes() {
    let server = server("publish_notify on;");
    let (mut player, _) = playing(server.port(), "live", "name");
    for _ in 0..2 {
        let mut publisher = Publishing::start(&server, "name");
        publisher.send_frames(0..2);
        assert_eq!(codes(&until_frame(&mut player, 1)), ["NetStream.Play.PublishNotify"]);
        drop(publisher);
        assert_eq!(player.expect_status(1), "NetStream.Play.UnpublishNotify");
    }
}

#[test]
fn play_restart_starts_and_stops_with_the_publisher() {
    let server = server("play_restart on;");
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "name");
    server.wait_for_players("name", 1);
    for round in 0..2 {
        let mut publisher = Publishing::start(&server, "name");
        publisher.send_frames(0..2);
        let told = codes(&until_frame(&mut player, 1));
        let expected: &[&str] =
            if round == 0 { &["NetStream.Play.Reset", "NetStream.Play.Start"] } else { &["NetStream.Play.Start"] };
        assert_eq!(told, expected);
        drop(publisher);
        assert_eq!(player.expect_status(1), "NetStream.Play.Stop");
    }
}

// --- the beginning -----------------------------------------------------------------------------------------------------------

#[test]
fn wait_key_decides_whether_a_picture_may_begin_in_the_middle() {
    for (options, expected) in [("gop_cache off;", [3, 4]), ("gop_cache off; wait_key off;", [2, 3])] {
        let server = server(options);
        let mut publisher = Publishing::start(&server, "name");
        publisher.video(0, true, 0);
        publisher.video(40, false, 1);
        publisher.settle();
        let (mut player, _) = playing(server.port(), "live", "name");
        for (number, key) in [(2, false), (3, true), (4, false)] {
            publisher.video(number * 40, key, number);
        }
        assert_eq!(frame_numbers(&mut player, 2), expected, "{options}");
    }
}

#[test]
fn wait_video_holds_sound_until_the_first_picture() {
    for (options, expected) in [("wait_video on;", vec![2, 3]), ("", vec![0, 1, 2, 3])] {
        let server = server(options);
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
        publisher.audio(0, 0);
        publisher.audio(20, 1);
        publisher.video(40, true, 0);
        publisher.audio(60, 2);
        publisher.audio(80, 3);
        publisher.audio(100, 99);
        let all = until_audio(&mut player, 99);
        assert_eq!(sounds(&all), expected, "{options}");
        assert!(all.iter().any(|message| message.payload == AAC_CONFIG), "its configuration is never held");
    }
}

#[test]
fn the_gop_cache_gives_a_first_picture_at_once_or_not_at_all() {
    for (options, expected) in [("gop_cache on;", vec![0, 1, 2]), ("gop_cache off;", vec![])] {
        let server = server(options);
        let mut publisher = Publishing::start(&server, "name");
        publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
        publisher.send_frames(0..3);
        let late = burst(&server, &mut publisher);
        assert_eq!(numbers(&late), expected, "{options}");
        for config in [AVC_CONFIG, AAC_CONFIG] {
            assert!(late.iter().any(|message| message.payload == config), "configurations come in any case");
        }
    }
}

#[test]
fn a_gop_beyond_its_bounds_is_not_kept() {
    let fitting =
        "gop_max_frame_count 21; gop_max_video_count 11; gop_max_audio_count 10; gop_max_bytes 8k; gop_max_time 5s;";
    let cases = [
        (fitting, true),
        ("gop_max_frame_count 20;", false),
        ("gop_max_video_count 10;", false),
        ("gop_max_audio_count 9;", false),
        ("gop_max_bytes 5k;", false),
        ("gop_max_time 300ms;", false),
    ];
    for (options, kept) in cases {
        let server = server(options);
        let mut publisher = Publishing::start(&server, "name");
        for number in 0..11 {
            if number > 0 {
                publisher.audio(number * 40 - 10, number as u8);
            }
            publisher.video(number * 40, number == 0, number);
        }
        let late = burst(&server, &mut publisher);
        assert_eq!(numbers(&late).first(), kept.then_some(&0), "{options}: {:?}", numbers(&late));
    }
}

#[test]
fn cache_time_starts_a_player_that_far_back() {
    for (options, first) in [("", 150), ("cache_time 3s;", 75)] {
        let server = server(options);
        let mut publisher = Publishing::start(&server, "name");
        publisher.send_frames(0..151);
        let late = burst(&server, &mut publisher);
        assert_eq!(numbers(&late).first(), Some(&first), "{options}");
        assert!(late.iter().find(|message| frame_number(message).is_some()).is_some_and(is_keyframe));
    }
}

#[test]
fn zero_start_gives_each_player_a_clock_of_its_own() {
    for (options, expected) in [("zero_start on;", 0), ("", 4000)] {
        let server = server(options);
        let mut publisher = Publishing::start(&server, "name");
        publisher.send_frames(0..103);
        let late = burst(&server, &mut publisher);
        let times: Vec<u32> = late.iter().filter(|m| frame_number(m).is_some()).map(|m| m.time).collect();
        assert_eq!(times, [expected, expected + 40, expected + 80], "{options}");
    }
}

#[test]
fn metadata_is_written_anew_or_copied_or_left_out() {
    let mut published = Vec::new();
    Amf::from("onMetaData").write(&mut published);
    Amf::object(&[("width", 320.0.into()), ("encoder", "a test".into())]).write(&mut published);
    let mut sent = Vec::new();
    Amf::from("@setDataFrame").write(&mut sent);
    sent.extend(&published);
    for options in ["meta on;", "meta copy;", "meta off;"] {
        let server = server(options);
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        let msid = publisher.msid;
        publisher.peer.send(&Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid, payload: sent.clone() });
        publisher.audio(0, 99);
        let all = until_audio(&mut player, 99);
        let named = |message: &&Message| {
            message.kind == wire::AMF0_DATA && Amf::read_all(&message.payload)[0].as_str() == Some("onMetaData")
        };
        let got: Vec<&Message> = all.iter().filter(named).collect();
        match options {
            "meta off;" => assert!(got.is_empty()),
            "meta copy;" => assert_eq!(got[0].payload, published),
            _ => {
                let values = Amf::read_all(&got[0].payload);
                assert_eq!(values[1].property("width").and_then(Amf::as_number), Some(320.0));
                assert_eq!(values[1].property("encoder").and_then(Amf::as_str), Some("a test"));
                let server = values[1].property("Server").and_then(Amf::as_str).unwrap_or_default();
                assert!(server.starts_with("livemill/"), "{server}");
            }
        }
    }
}

// --- what a player asks for --------------------------------------------------------------------------------------------------

#[test]
fn a_paused_player_gets_nothing_and_goes_on_with_a_keyframe() {
    let server = server("");
    let mut publisher = Publishing::start(&server, "name");
    let (mut player, msid) = playing(server.port(), "live", "name");
    publisher.send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    player.command(msid, "pause", &[Amf::Null, Amf::Boolean(true), 0.0.into()]);
    assert_eq!(player.expect_status(msid), "NetStream.Pause.Notify");
    publisher.send_frames(3..10);
    publisher.settle();
    player.command(msid, "pause", &[Amf::Null, Amf::Boolean(false), 0.0.into()]);
    let paused = until(&mut player, |message| status_code(message).as_deref() == Some("NetStream.Unpause.Notify"));
    assert_eq!(numbers(&paused), Vec::<u32>::new());
    publisher.send_frames(20..27);
    assert_eq!(frame_numbers(&mut player, 2), [25, 26]);
}

#[test]
fn a_player_may_do_without_picture_or_sound() {
    let server = server("");
    let mut publisher = Publishing::start(&server, "name");
    let (mut player, msid) = playing(server.port(), "live", "name");
    let ask = |player: &mut RtmpPeer, command: &str, on: bool| {
        player.command(msid, command, &[Amf::Null, Amf::Boolean(on)]);
        if on {
            expect_code(player, "NetStream.Play.Start");
        } else {
            ping(player, 1);
        }
    };
    ask(&mut player, "receiveVideo", false);
    publisher.audio(0, 1);
    publisher.send_frames(0..3);
    publisher.audio(100, 98);
    let heard = until_audio(&mut player, 98);
    assert_eq!((numbers(&heard), sounds(&heard)), (vec![], vec![1]));
    // The picture comes back with a keyframe.
    ask(&mut player, "receiveVideo", true);
    publisher.send_frames(23..27);
    assert_eq!(frame_numbers(&mut player, 2), [25, 26]);
    ask(&mut player, "receiveAudio", false);
    publisher.audio(1090, 2);
    publisher.send_frames(28..30);
    assert_eq!(sounds(&until_frame(&mut player, 29)), [0_u8; 0]);
    ask(&mut player, "receiveAudio", true);
    publisher.audio(1200, 3);
    publisher.audio(1220, 99);
    assert_eq!(sounds(&until_audio(&mut player, 99)), [3]);
}

#[test]
fn one_connection_plays_one_name_after_another() {
    let server = server("");
    let mut publishers = ["one", "two", "three", "four"].map(|name| Publishing::start(&server, name));
    for (index, publisher) in publishers.iter_mut().enumerate() {
        let start = 100 * index as u32;
        publisher.send_frames(start..start + 3);
        publisher.settle();
    }
    let (mut player, msid) = playing(server.port(), "live", "one");
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    player.command(msid, "closeStream", &[Amf::Null]);
    expect_code(&mut player, "NetStream.Play.Stop");
    // On the same message stream, on a new one, and without closing at all.
    player.command(msid, "play", &[Amf::Null, "two".into()]);
    assert_eq!(frame_numbers(&mut player, 3), [100, 101, 102]);
    player.command(0, "deleteStream", &[Amf::Null, f64::from(msid).into()]);
    let msid = player.create_stream();
    player.command(msid, "play", &[Amf::Null, "three".into()]);
    assert_eq!(frame_numbers(&mut player, 3), [200, 201, 202]);
    player.command(msid, "play", &[Amf::Null, "four".into()]);
    assert_eq!(frame_numbers(&mut player, 3), [300, 301, 302]);
    publishers[0].send_frames(3..6);
    publishers[3].send_frames(303..306);
    assert_eq!(frame_numbers(&mut player, 3), [303, 304, 305], "nothing of what was closed comes any more");
}

#[test]
fn a_live_stream_has_no_place_to_seek_to() {
    let server = server("");
    let mut publisher = Publishing::start(&server, "name");
    let (mut player, msid) = playing(server.port(), "live", "name");
    let asked = player.command(msid, "seek", &[Amf::Null, 5000.0.into()]);
    player.send(&wire::control(wire::USER_CONTROL, &[0, 3, 0, 0, 0, 1, 0, 0, 0x0b, 0xb8]));
    ping(&mut player, 1);
    publisher.send_frames(0..3);
    let mut seen = Vec::new();
    player.expect("frames", |message| {
        let answers = command_of(message).is_some_and(|values| values[1].as_number() == Some(asked));
        assert!(!answers && status_code(message).is_none(), "{message:?}");
        seen.extend(frame_number(message));
        (seen.len() == 3).then_some(())
    });
    assert_eq!(seen, [0, 1, 2]);
}

#[test]
fn the_answer_to_play_is_the_one_clients_know() {
    let server = server("");
    let mut publisher = Publishing::start(&server, "name");
    publisher.send_frames(0..1);
    publisher.settle();
    let asked = Instant::now();
    let (mut player, msid) = RtmpPeer::play(server.port(), "live", "name");
    let all = until_frame(&mut player, 0);
    assert!(asked.elapsed() < Duration::from_secs(2), "nothing is waited for: {:?}", asked.elapsed());
    assert_eq!(codes(&all), ["NetStream.Play.Reset", "NetStream.Play.Start"]);
    let position = |wanted: &dyn Fn(&Message) -> bool| all.iter().position(wanted).expect("it is sent");
    let begin = position(&|message| message.payload == [0, 0, 0, 0, 0, 1]);
    let start = position(&|message| status_code(message).as_deref() == Some("NetStream.Play.Start"));
    let access = position(&|message| message.kind == wire::AMF0_DATA);
    let config = position(&|message| message.payload == AVC_CONFIG);
    assert!(begin < start && start < access && access < config, "{all:?}");
    let values = Amf::read_all(&all[access].payload);
    assert_eq!(values, [Amf::from("|RtmpSampleAccess"), Amf::Boolean(true), Amf::Boolean(true)]);
    assert!([start, access, config].iter().all(|&index| all[index].msid == msid));
}

// --- shared ------------------------------------------------------------------------------------------------------------------

fn server(options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {options} }} }} }}"
    ))
}

/// What a player that comes now is sent before anything new.
fn burst(server: &TestServer, publisher: &mut Publishing) -> Vec<Message> {
    publisher.settle();
    let (mut player, _) = playing(server.port(), "live", "name");
    publisher.audio(100_000, 99);
    until_audio(&mut player, 99)
}

fn until(player: &mut RtmpPeer, last: impl Fn(&Message) -> bool) -> Vec<Message> {
    let mut before = Vec::new();
    player.expect("the message that ends it", |message| {
        let is_last = last(message);
        before.push(message.clone());
        is_last.then_some(())
    });
    before
}

fn until_frame(player: &mut RtmpPeer, number: u32) -> Vec<Message> {
    until(player, |message| frame_number(message) == Some(number))
}

fn codes(messages: &[Message]) -> Vec<String> {
    messages.iter().filter_map(status_code).collect()
}

fn numbers(messages: &[Message]) -> Vec<u32> {
    messages.iter().filter_map(frame_number).collect()
}

/// The numbers of the audio frames.
fn sounds(messages: &[Message]) -> Vec<u8> {
    let number = |message: &Message| *message.payload.last().expect("a sound has a number");
    let is_sound = |message: &&Message| message.kind == wire::AUDIO && message.payload[..3] == audio_frame(0)[..3];
    messages.iter().filter(is_sound).map(number).collect()
}
