//! The publisher's clock may do what it likes: the player's goes on.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::fixtures::Fixture;
use common::peer::{AAC_CONFIG, Next, RtmpPeer};
use common::server::TestServer;
use common::stream::{Publishing, audio_frame, frame_number, playing, until_audio};
use common::tools::{self, Running};
use common::wire::{self, Message};

#[test]
fn the_clock_may_wrap_at_either_end() {
    for wrap in [1_u64 << 31, 1 << 32] {
        let server = server();
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
        // A wrap at 2^31 goes back to 0 there.
        let stamp = |ms: u64| (ms % wrap) as u32;
        for number in 0..50 {
            let ms = wrap - 1000 + 40 * u64::from(number);
            publisher.audio(stamp(ms), number as u8);
            publisher.video(stamp(ms), number % 25 == 0, number);
        }
        publisher.audio(stamp(wrap + 1000), 99);
        let all = until_audio(&mut player, 99);
        let expected: Vec<u32> = (0..50).map(|number| number * 40).collect();
        assert_eq!(times(&all, wire::VIDEO), expected, "the wrap at {wrap}");
        assert_eq!(times(&all, wire::AUDIO), expected, "the wrap at {wrap}");
    }
}

#[test]
fn one_medium_alone_keeps_time_as_well() {
    for wrap in [1_u64 << 31, 1 << 32] {
        let server = server();
        let (mut listener, _) = playing(server.port(), "live", "sound");
        let (mut viewer, _) = playing(server.port(), "live", "picture");
        let mut sound = Publishing::new(RtmpPeer::publish(server.port(), "live", "sound").0, 1);
        let mut picture = Publishing::start(&server, "picture");
        sound.peer.send_audio(sound.msid, 0, AAC_CONFIG);
        let stamp = |number: u32| ((wrap - 200 + 20 * u64::from(number)) % wrap) as u32;
        for number in 0..20 {
            sound.audio(stamp(number), number as u8);
            picture.video(stamp(number), number == 0, number);
        }
        sound.audio(stamp(20), 99);
        let expected: Vec<u32> = (0..20).map(|number| number * 20).collect();
        assert_eq!(times(&until_audio(&mut listener, 99), wire::AUDIO), expected);
        let mut seen = Vec::new();
        viewer.expect("the last frame", |message| {
            seen.extend(frame_number(message).map(|_| message.time));
            (seen.len() == 20).then_some(())
        });
        assert_eq!(seen, expected);
    }
}

#[test]
fn leaps_of_the_clock_are_closed() {
    let server = server();
    let (mut player, _) = playing(server.port(), "live", "name");
    let mut publisher = Publishing::start(&server, "name");
    let starts = [50_000_u32, 9_000_000, 3_000, 0];
    for (round, start) in starts.into_iter().enumerate() {
        for number in 0..25 {
            publisher.video(start + number * 40, number == 0, round as u32 * 25 + number);
        }
    }
    let mut seen = Vec::new();
    player.expect("the last frame", |message| {
        seen.extend(frame_number(message).map(|_| message.time));
        (seen.len() == 25 * starts.len()).then_some(())
    });
    let steps: Vec<u32> = seen.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.iter().all(|step| (1..=80).contains(step)), "{steps:?}");
}

#[test]
fn fix_timestamp_says_which_step_is_still_believed() {
    for (options, believed) in [("fix_timestamp 60s;", true), ("fix_timestamp 10s;", false), ("", false)] {
        let server = TestServer::start(&format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {options} }} }} }}"
        ));
        let (mut player, _) = playing(server.port(), "live", "name");
        let mut publisher = Publishing::start(&server, "name");
        publisher.video(0, true, 0);
        publisher.video(40, false, 1);
        publisher.video(30_040, false, 2);
        let time = player
            .expect("the frame after the step", |message| (frame_number(message) == Some(2)).then_some(message.time));
        assert_eq!(time, if believed { 30_040 } else { 80 }, "{options}");
    }
}

#[test]
fn a_file_in_an_endless_loop_is_one_long_stream() {
    let server = server();
    let (mut player, _) = playing(server.port(), "live", "loop");
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-stream_loop", "3", "-i"]);
    command.arg(Fixture::H264Aac.path()).args(["-c", "copy", "-f", "flv"]).arg(server.url("live/loop"));
    command.stdin(Stdio::null());
    let mut ffmpeg = Running::start("ffmpeg", command);
    let mut all = Vec::new();
    while let Next::Message(message) = player.next(Duration::from_secs(4)) {
        let ends = message.payload == [0, 1, 0, 0, 0, 1];
        all.push(message);
        if ends {
            break;
        }
    }
    ffmpeg.wait_for_success(Duration::from_secs(5));
    for kind in [wire::VIDEO, wire::AUDIO] {
        let media: Vec<u32> = all.iter().filter(|m| m.kind == kind).map(|message| message.time).collect();
        assert!(media.is_sorted(), "the clock goes back: {media:?}");
        let (first, last) = (media.first().copied().unwrap_or(0), media.last().copied().unwrap_or(0));
        // Four times three seconds.
        assert!((11_500..=12_500).contains(&(last - first)), "{first} to {last}");
    }
    let frames = all.iter().filter(|m| m.kind == wire::VIDEO && m.payload[1] == 1).count();
    assert_eq!(frames, 4 * 75, "every frame of every round");
}

// --- shared ------------------------------------------------------------------------------------------------------------------

fn server() -> TestServer {
    TestServer::start("rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }")
}

/// The times of the frames of one medium.
fn times(messages: &[Message], kind: u8) -> Vec<u32> {
    let is_frame = |message: &&Message| {
        message.kind == kind
            && match kind {
                wire::VIDEO => frame_number(message).is_some(),
                _ => message.payload[..3] == audio_frame(0)[..3],
            }
    };
    messages.iter().filter(is_frame).map(|message| message.time).collect()
}
