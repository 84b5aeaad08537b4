//! Enhanced RTMP over the wire: what is published, and what old and new players get of it, to the byte.

mod common;

use common::peer::RtmpPeer;
use common::server::TestServer;
use common::stream::{Publishing, expect_code, playing, until_audio};
use common::wire::{self, Amf, Message};

#[test]
fn codecs_that_only_the_new_form_can_say_pass_untouched() {
    check(
        &[video(b"\x90hvc1\x01\x01\x60\0\0\0"), video(b"\x91hvc1\0\0\x50key"), video(b"\xa3hvc1inter")],
        &[b"\x90hvc1\x01\x01\x60\0\0\0", b"\x91hvc1\0\0\x50key", b"\xa3hvc1inter"],
    );
    check(&[video(b"\x90av01\x81\0\x0c\0"), video(b"\x91av01obu")], &[b"\x90av01\x81\0\x0c\0", b"\x91av01obu"]);
    check(
        &[audio(b"\x90OpusOpusHead\x01\x02"), audio(b"\x94Opus\x01\x02\0\0\0\x03"), audio(b"\x91Opus\xf8\x9e")],
        &[b"\x90OpusOpusHead\x01\x02", b"\x94Opus\x01\x02\0\0\0\x03", b"\x91Opus\xf8\x9e"],
    );
}

#[test]
fn codecs_that_the_old_form_can_say_come_in_the_old_form() {
    check(
        &[video(b"\x90avc1avcC"), video(b"\x91avc1\0\0\x50key"), video(b"\xa3avc1inter")],
        &[b"\x17\0\0\0\0avcC", b"\x17\x01\0\0\x50key", b"\x27\x01\0\0\0inter"],
    );
    check(&[audio(b"\x90mp4a\x12\x10"), audio(b"\x91mp4araw")], &[b"\xaf\0\x12\x10", b"\xaf\x01raw"]);
}

#[test]
fn extensions_of_a_message_are_taken_off() {
    check(
        &[video(b"\x90hvc1hvcC"), video(b"\x97\x02\0\x03\xe8\x01hvc1\0\0\x50key")],
        &[b"\x90hvc1hvcC", b"\x91hvc1\0\0\x50key"],
    );
    check(
        &[audio(b"\x90OpusOpusHead"), audio(b"\x97\x02\0\x03\xe8\x01Opus\xf8")],
        &[b"\x90OpusOpusHead", b"\x91Opus\xf8"],
    );
}

#[test]
fn players_that_announced_nothing_get_the_default_track_alone() {
    check(
        &TRACKS,
        &[
            b"\x90hvc1hvcC",
            b"\xaf\0\x12\x10",
            b"\x91hvc1\0\0\x50key",
            b"\xaf\x01raw",
            // Of a message with both tracks, the first.
            b"\xa1hvc1\0\0\0both",
        ],
    );
}

#[test]
fn players_that_announced_several_tracks_get_them_as_published() {
    let server = server();
    let caps = [("capsEx", Amf::Number(2.0))];
    let mut early = player(server.port(), &caps);
    let mut publisher = Publishing::new(RtmpPeer::publish(server.port(), "live", "name").0, 1);
    send(&mut publisher, &TRACKS);
    publisher.audio(1000, 99);
    let published: Vec<&[u8]> = TRACKS.iter().map(|message| message.body).collect();
    assert_bodies(&media(until_audio(&mut early, 99)), &published);
    // Who comes late gets the configurations of every track, and then what comes.
    let mut late = player(server.port(), &caps);
    publisher.audio(1040, 98);
    let burst = media(until_audio(&mut late, 98));
    for config in TRACKS.iter().filter(|message| message.is_config) {
        let first = burst.iter().position(|message| message.payload == config.body);
        let frame = burst.iter().position(|message| message.payload.ends_with(b"key"));
        assert!(first.is_some() && first < frame, "{:?} is in {burst:?}", config.body.escape_ascii().to_string());
    }
    let count = burst.iter().filter(|message| message.payload == TRACKS[1].body).count();
    assert_eq!(count, 1, "each once");
}

#[test]
fn hevc_under_number_12_stays_what_it_is_but_for_those_who_know_the_new_form() {
    let published = [video(b"\x1c\0\0\0\0hvcC"), video(b"\x1c\x01\0\0\x50key"), video(b"\x2c\x01\0\0\0inter")];
    check(&published, &[b"\x1c\0\0\0\0hvcC", b"\x1c\x01\0\0\x50key", b"\x2c\x01\0\0\0inter"]);
    let new: [&[u8]; 3] = [b"\x90hvc1hvcC", b"\x91hvc1\0\0\x50key", b"\xa3hvc1inter"];
    let announcements = [
        ("fourCcList", Amf::Strict(vec!["av01".into(), "hvc1".into()])),
        ("fourCcList", Amf::Strict(vec!["*".into()])),
        ("videoFourCcInfoMap", Amf::object(&[("hvc1", 1.0.into())])),
    ];
    for announced in announcements {
        let server = server();
        let mut early = player(server.port(), std::slice::from_ref(&announced));
        let mut publisher = Publishing::new(RtmpPeer::publish(server.port(), "live", "name").0, 1);
        send(&mut publisher, &published);
        publisher.audio(1000, 99);
        assert_bodies(&media(until_audio(&mut early, 99)), &new);
        let mut late = player(server.port(), std::slice::from_ref(&announced));
        publisher.audio(1040, 98);
        let burst = media(until_audio(&mut late, 98));
        assert_bodies(&burst[..3], &new);
    }
}

#[test]
fn the_server_announces_that_it_forwards_everything() {
    let server = server();
    let mut peer = RtmpPeer::shaken(server.port());
    let answer = peer.request_connect("live", &[]);
    for object in &answer[2..4] {
        let all = |map: &str| object.property(map).and_then(|map| map.property("*")).and_then(Amf::as_number);
        assert_eq!((all("videoFourCcInfoMap"), all("audioFourCcInfoMap")), (Some(4.0), Some(4.0)), "{answer:?}");
        assert!(object.property("capsEx").and_then(Amf::as_number).is_some_and(|caps| caps as u32 & 2 != 0));
    }
}

// --- shared ------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Published {
    kind: u8,
    body: &'static [u8],
    is_config: bool,
}

const fn video(body: &'static [u8]) -> Published {
    Published { kind: wire::VIDEO, body, is_config: false }
}

const fn audio(body: &'static [u8]) -> Published {
    Published { kind: wire::AUDIO, body, is_config: false }
}

const fn config(message: Published) -> Published {
    Published { is_config: true, ..message }
}

/// Two tracks of each medium: as OBS sends them, the first plain or old, the others wrapped.
const TRACKS: [Published; 9] = [
    config(video(b"\x96\0hvc1\0hvcC")),
    config(video(b"\x96\0avc1\x01avcC")),
    config(audio(b"\xaf\0\x12\x10")),
    config(audio(b"\x95\0mp4a\x01\x12\x08")),
    video(b"\x96\x01hvc1\0\0\0\x50key"),
    video(b"\x96\x01avc1\x01\0\0\x50other key"),
    audio(b"\xaf\x01raw"),
    audio(b"\x95\x01mp4a\x01other raw"),
    // Both tracks in one message, one codec.
    video(b"\xa6\x11hvc1\0\0\0\x07\0\0\0both\x01\0\0\x08\0\0\0other"),
];

/// What players that announced nothing get of it, those who wait for it and those who come late.
#[track_caller]
fn check(published: &[Published], expected: &[&[u8]]) {
    let server = server();
    let (mut early, _) = playing(server.port(), "live", "name");
    let mut publisher = Publishing::new(RtmpPeer::publish(server.port(), "live", "name").0, 1);
    send(&mut publisher, published);
    publisher.audio(1000, 99);
    assert_bodies(&media(until_audio(&mut early, 99)), expected);
    let (mut late, _) = playing(server.port(), "live", "name");
    publisher.audio(1040, 98);
    let mut burst = media(until_audio(&mut late, 98));
    burst.retain(|message| message.payload != common::stream::audio_frame(99));
    assert_bodies(&burst, expected);
}

fn send(publisher: &mut Publishing, messages: &[Published]) {
    for (number, message) in messages.iter().enumerate() {
        let time = 20 * number as u32;
        match message.kind {
            wire::VIDEO => publisher.peer.send_video(publisher.msid, time, message.body),
            _ => publisher.peer.send_audio(publisher.msid, time, message.body),
        }
    }
}

#[track_caller]
fn assert_bodies(messages: &[Message], expected: &[&[u8]]) {
    let text = |bodies: &mut dyn Iterator<Item = &[u8]>| {
        bodies.map(|body| body.escape_ascii().to_string()).collect::<Vec<_>>()
    };
    let got = text(&mut messages.iter().map(|message| message.payload.as_slice()));
    assert_eq!(got, text(&mut expected.iter().copied()));
}

fn media(messages: Vec<Message>) -> Vec<Message> {
    messages.into_iter().filter(|message| [wire::AUDIO, wire::VIDEO].contains(&message.kind)).collect()
}

/// A player that announces something in its connect.
fn player(port: u16, announced: &[(&str, Amf)]) -> RtmpPeer {
    let mut peer = RtmpPeer::shaken(port);
    peer.request_connect("live", announced);
    let msid = peer.create_stream();
    peer.command(msid, "play", &[Amf::Null, "name".into()]);
    expect_code(&mut peer, "NetStream.Play.Start");
    peer
}

fn server() -> TestServer {
    TestServer::start("rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }")
}
