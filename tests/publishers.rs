//! One name and who publishes under it: second publishers, silent ones, and those who come again.

mod common;

use std::time::{Duration, Instant};

use common::peer::{AVC_CONFIG, RtmpPeer, command_of};
use common::server::TestServer;
use common::stream::{
    Publishing, answer_to, expect_code, frame_number, frame_numbers, ping, playing, status_code, stays_open,
    until_closed,
};
use common::wire::{self, Amf};

#[test]
fn reject_keeps_the_first_publisher_however_silent() {
    let server = server("duplicate_publisher reject;");
    let mut first = Publishing::start(&server, "name");
    let (mut second, code) = answer_to("publish", server.port(), "live", "name");
    assert_eq!(code, "NetStream.Publish.BadName");
    until_closed(&mut second);
    let (mut player, _) = playing(server.port(), "live", "name");
    first.send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    server.wait_for_log(&["disconnect", "already publishing"], Duration::from_secs(5));
}

#[test]
fn replace_lets_the_newest_publisher_in_and_players_play_on() {
    let server = server("duplicate_publisher replace;");
    let (mut player, _) = playing(server.port(), "live", "name");
    let mut first = Publishing::start(&server, "name");
    first.send_frames(0..10);
    let mut times = Vec::new();
    let last_of = |player: &mut RtmpPeer, times: &mut Vec<u32>, last: u32| {
        player.expect("frames", |message| {
            times.extend(frame_number(message).map(|_| message.time));
            (frame_number(message) == Some(last)).then_some(())
        });
    };
    last_of(&mut player, &mut times, 9);
    let mut second = Publishing::start(&server, "name");
    // The old one is told and closed.
    expect_code(&mut first.peer, "NetStream.Publish.BadName");
    until_closed(&mut first.peer);
    second.video(5_000_000, true, 100);
    second.video(5_000_040, false, 101);
    last_of(&mut player, &mut times, 101);
    assert!(times.is_sorted() && times[11] < 5_000, "the player's clock goes on as if nothing had been: {times:?}");
    server.wait_for_log(&["publisher replaced"], Duration::from_secs(5));
    server.wait_for_log(&["disconnect", "another publisher took over"], Duration::from_secs(5));
}

#[test]
fn players_stay_for_the_publisher_that_takes_over_also_without_idle_streams() {
    let server = server("duplicate_publisher replace; idle_streams off;");
    let mut first = Publishing::start(&server, "name");
    first.send_frames(0..3);
    let (mut player, _) = playing(server.port(), "live", "name");
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    let mut second = Publishing::start(&server, "name");
    second.send_frames(25..28);
    assert_eq!(frame_numbers(&mut player, 3), [25, 26, 27]);
    drop(second);
    until_closed(&mut player);
}

#[test]
fn replace_if_stalled_waits_for_the_silence_that_was_written() {
    let server = server("duplicate_publisher replace_if_stalled 1s;");
    let mut first = Publishing::start(&server, "name");
    first.send_frames(0..1);
    first.settle();
    let silent_since = Instant::now();
    let (mut refused, code) = answer_to("publish", server.port(), "live", "name");
    assert_eq!(code, "NetStream.Publish.BadName");
    until_closed(&mut refused);
    common::wait::until("the stalled publisher is replaced", Duration::from_secs(5), || {
        (answer_to("publish", server.port(), "live", "name").1 == "NetStream.Publish.Start").then_some(())
    });
    assert!(silent_since.elapsed() >= Duration::from_millis(990), "{:?}", silent_since.elapsed());
    until_closed(&mut first.peer);
}

#[test]
fn a_publisher_without_media_is_dropped_from_publish_on() {
    let server = server("drop_idle_publisher 1s;");
    let (mut never, _) = RtmpPeer::publish(server.port(), "live", "never");
    let mut once = Publishing::start(&server, "once");
    once.send_frames(0..2);
    let began = Instant::now();
    until_closed(&mut never);
    until_closed(&mut once.peer);
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&began.elapsed()), "{:?}", began.elapsed());
    server.wait_for_log(&["disconnect", "drop idle publisher"], Duration::from_secs(5));
}

#[test]
fn off_keeps_an_idle_publisher() {
    let server = server("drop_idle_publisher off;");
    let mut publisher = Publishing::start(&server, "quiet");
    publisher.send_frames(0..2);
    assert!(stays_open(&mut publisher.peer, Duration::from_millis(2500)));
}

#[test]
fn one_connection_publishes_again_after_deleting_its_stream() {
    let server = server("");
    let (mut player, _) = playing(server.port(), "live", "first");
    let (mut second_player, _) = playing(server.port(), "live", "second");
    let mut publisher = Publishing::start(&server, "first");
    publisher.send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    let msid = publisher.msid;
    publisher.peer.command(0, "deleteStream", &[Amf::Null, f64::from(msid).into()]);
    publisher.msid = publisher.peer.create_stream();
    assert_ne!(publisher.msid, msid);
    let args = [Amf::Null, "second".into(), "live".into()];
    publisher.peer.command(publisher.msid, "publish", &args);
    expect_code(&mut publisher.peer, "NetStream.Publish.Start");
    let msid = publisher.msid;
    publisher.peer.send_video(msid, 0, AVC_CONFIG);
    publisher.send_frames(0..3);
    assert_eq!(frame_numbers(&mut second_player, 3), [0, 1, 2]);
    // The first name is free again.
    assert_eq!(answer_to("publish", server.port(), "live", "first").1, "NetStream.Publish.Start");
}

#[test]
fn closing_a_stream_frees_its_name_at_once_and_fcunpublish_is_not_answered() {
    let server = server("");
    let mut publisher = Publishing::start(&server, "name");
    publisher.send_frames(0..3);
    let asked = publisher.peer.command(0, "FCUnpublish", &[Amf::Null, "name".into()]);
    let msid = publisher.msid;
    publisher.peer.command(msid, "closeStream", &[Amf::Null]);
    expect_code(&mut publisher.peer, "NetStream.Unpublish.Success");
    publisher.peer.send(&wire::control(wire::USER_CONTROL, &[0, 6, 0, 0, 0, 9]));
    publisher.peer.expect("the answer to a ping", |message| {
        let answers = command_of(message).is_some_and(|values| values[1].as_number() == Some(asked));
        assert!(!answers && status_code(message).is_none(), "FCUnpublish was answered: {message:?}");
        (message.kind == wire::USER_CONTROL).then_some(())
    });
    assert_eq!(answer_to("publish", server.port(), "live", "name").1, "NetStream.Publish.Start");
    // The connection lives and may publish again, even on the same message stream.
    publisher.peer.command(msid, "publish", &[Amf::Null, "other".into(), "live".into()]);
    expect_code(&mut publisher.peer, "NetStream.Publish.Start");
    ping(&mut publisher.peer, 10);
}

fn server(options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {options} }} }} }}"
    ))
}
