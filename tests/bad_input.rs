//! What a peer may send without anyone else noticing: refused, bounded and forgotten.
//!
//! Every case runs beside a healthy stream that must lose no frame and meet no delay, on a server that must live and give
//! everything back ([`unharmed`]). "Refused" means an answer where one makes sense, and a closed connection soon.

mod common;

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use common::health::{unharmed, unharmed_once_more};
use common::peer::{
    AAC_CONFIG, AVC_CONFIG, Next, RawPeer, RtmpPeer, avc_frame, avc_frame_number, c0_c1, command_of, is_keyframe,
};
use common::server::TestServer;
use common::stream::playing;
use common::wire::{self, Amf, Message};

/// As users have it: every default.
const LIVE: &str = "rtmp {
    server {
        listen 127.0.0.1:@port@;
        application live { live on; }
    }
}";

/// Deadlines short enough to wait for.
const IMPATIENT: &str = "rtmp {
    @livemill handshake_timeout 1s; connect_timeout 1s; command_timeout 1s; first_media_timeout 1s;
    server {
        listen 127.0.0.1:@port@;
        application live { live on; }
    }
}";

/// Detection to closed socket: one second, and one more because this is a debug build on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// How often the server looks at the clock for a connection.
const LOOK: Duration = Duration::from_secs(1);

// --- connection and handshake ----------------------------------------------------------------------------------------------

#[test]
fn silent_connections_cost_little_and_end_at_the_handshake_deadline() {
    beside_with(IMPATIENT, |server| {
        let before = server.anonymous_kib();
        let mut peers: Vec<RawPeer> = (0..200).map(|_| RawPeer::connect(server.port())).collect();
        common::wait::until("all are accepted", SOON, || (server.fds() >= 200).then_some(()));
        let grown = server.anonymous_kib().saturating_sub(before);
        assert!(grown <= 200 * 4 + 512, "200 silent connections cost {grown} KiB");
        for peer in &mut peers {
            peer.assert_closed_within(SOON);
        }
    });
}

#[test]
fn the_handshake_deadline_is_for_all_of_it_not_for_each_read() {
    beside_with(IMPATIENT, |server| {
        let mut peer = RawPeer::connect(server.port());
        let began = std::time::Instant::now();
        for byte in c0_c1() {
            if !peer.try_send(&[byte]) || peer.closed_within(Duration::from_millis(50)).is_some() {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(3), "a byte each 50 ms keeps the handshake open");
        }
    });
}

#[test]
fn only_version_three_is_spoken() {
    beside(|server| {
        for version in [0, 1, 2, 6, 8, 9, 32, 255] {
            let mut hello = c0_c1();
            hello[0] = version;
            closes_after(server, &hello);
        }
        closes_after(server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        closes_after(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    });
}

#[test]
fn a_wrong_echo_is_accepted() {
    beside(|server| {
        let mut peer = RawPeer::connect(server.port());
        peer.send(&c0_c1());
        peer.receive(1 + 2 * 1536);
        peer.send(&[0x55; 1536]);
        peer.send(&connect_bytes("live"));
        peer.receive(16);
    });
}

#[test]
fn a_missing_c2_ends_at_the_deadline() {
    beside_with(IMPATIENT, |server| {
        let mut peer = RawPeer::connect(server.port());
        peer.send(&c0_c1());
        peer.receive(1 + 2 * 1536);
        peer.assert_closed_within(Duration::from_secs(1) + SOON);
    });
}

#[test]
fn handshake_and_connect_may_come_in_one_packet() {
    beside(|server| {
        let mut bytes = c0_c1();
        bytes.extend([0x55; 1536]);
        bytes.extend(connect_bytes("live"));
        let mut peer = RawPeer::connect(server.port());
        peer.send(&bytes);
        // The handshake's answer, and then something from the chunk layer.
        peer.receive(1 + 2 * 1536 + 16);
    });
}

#[test]
fn digest_offsets_that_point_anywhere_fall_back_to_the_simple_handshake() {
    beside(|server| {
        for filler in [0x00, 0x7f, 0xff] {
            let mut hello = vec![filler; 1537];
            hello[0] = 3;
            hello[5..9].copy_from_slice(&[0x80, 0, 7, 2]);
            let mut peer = RawPeer::connect(server.port());
            peer.send(&hello);
            let answer = peer.receive(1 + 2 * 1536);
            peer.send(&answer[1..1537]);
            peer.send(&connect_bytes("live"));
            peer.receive(16);
        }
    });
}

#[test]
fn one_address_gets_only_so_many_connections() {
    let mut server = TestServer::start(&LIVE.replace(
        "server {",
        "@livemill max_connections_per_address 12;
 server {",
    ));
    unharmed(&mut server, |server| {
        let mut peers: Vec<RawPeer> = (0..40).map(|_| RawPeer::connect(server.port())).collect();
        let refused = peers.iter_mut().filter_map(|peer| peer.closed_within(Duration::from_millis(20))).count();
        assert!(refused >= 28, "{refused} of 40 were refused");
    });
}

#[test]
fn a_churn_of_connections_starves_nobody() {
    beside(|server| {
        for _ in 0..2000 {
            drop(RawPeer::connect(server.port()));
        }
    });
}

#[test]
fn a_reset_in_the_handshake_is_no_error() {
    beside(|server| {
        for length in [0, 1, 700, 1537] {
            let mut peer = RawPeer::connect(server.port());
            peer.send(&c0_c1()[..length]);
            let socket = socket2::SockRef::from(&peer.stream);
            socket.set_linger(Some(Duration::ZERO)).expect("a socket option");
        }
        let mut peer = RawPeer::connect(server.port());
        peer.send(&c0_c1());
        peer.stream.shutdown(Shutdown::Write).expect("a shutdown");
        peer.assert_closed_within(SOON);
        assert!(!server.log().contains("[error]"), "{}", server.log());
    });
}

#[test]
fn a_vanished_peer_is_gone_after_the_ping_timeout() {
    let mut server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; ping 1s; ping_timeout 1s; application live { live on; } } }",
    );
    // Not beside the healthy stream, whose peers answer no pings either.
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "nobody");
    // The server looks at its clock once a second: a look to see that nothing came, and each of the two times may have a
    // moment left to go at one look and be over at the next.
    player.raw.assert_closed_within(Duration::from_secs(2) + 3 * LOOK + SOON);
    assert!(server.is_alive());
}

#[test]
fn a_proxy_header_is_read_where_it_is_asked_for_and_nowhere_else() {
    let mut server = TestServer::start(&IMPATIENT.replace(
        "listen 127.0.0.1:@port@;",
        "listen 127.0.0.1:@port@;\n@livemill listen 127.0.0.1:@port2@ proxy_protocol;\n",
    ));
    unharmed(&mut server, |server| {
        closes_after(server, b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 1935\r\n");
        let port = server.other_port(1);
        let mut peer = RawPeer::connect(port);
        peer.send(b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 1935\r\n");
        peer.shake();
        peer.send(&connect_bytes("live"));
        peer.receive(16);
        let v2 = b"\r\n\r\n\0\r\nQUIT\n";
        let malformed: [&[u8]; 4] = [
            b"PROXY TCP4 203.0.113.7\r\n",
            &[b'P'; 200],
            &[&v2[..], &[0x21, 0x11, 0x00, 0x03, 1, 2, 3]].concat(),
            &[&v2[..], &[0x91, 0x11, 0x00, 0x0c]].concat(),
        ];
        for header in malformed {
            let mut peer = RawPeer::connect(port);
            peer.send(header);
            peer.assert_closed_within(Duration::from_secs(1) + SOON);
        }
        let mut peer = RawPeer::connect(port);
        peer.send(&c0_c1());
        peer.assert_closed_within(Duration::from_secs(1) + SOON);
    });
}

// --- chunks ------------------------------------------------------------------------------------------------------------------

#[test]
fn a_declared_length_buys_no_memory_and_no_trust() {
    beside(|server| {
        closes_after_shake(server, &wire::header0(3, 0, 0xff_ffff, wire::AMF0_COMMAND, 0));
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "greedy");
        let before = server.anonymous_kib();
        publisher.raw.send(&wire::header0(6, 0, 8 << 20, wire::VIDEO, msid));
        publisher.raw.send(&[0; 128]);
        assert!(publisher.raw.closed_within(Duration::from_millis(200)).is_none(), "8 MiB is allowed after publish");
        assert!(server.anonymous_kib() < before + 512, "memory grows with what was sent, not with what was announced");
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "greedier");
        publisher.raw.send(&wire::header0(6, 0, 0xff_ffff, wire::VIDEO, msid));
        publisher.raw.assert_closed_within(SOON);
    });
}

#[test]
fn empty_media_is_ignored() {
    beside(|server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "empty");
        for _ in 0..3 {
            publisher.send_video(msid, 0, &[]);
            publisher.send_audio(msid, 0, &[]);
        }
        still_answers(&mut publisher);
    });
}

#[test]
fn an_empty_command_is_refused() {
    beside(|server| {
        let command = Message { csid: 3, time: 0, kind: wire::AMF0_COMMAND, msid: 0, payload: Vec::new() };
        closes_after_shake(server, &wire::chunks(128, &command));
    });
}

#[test]
fn a_length_must_not_change_inside_a_message() {
    beside(|server| {
        let mut bytes = wire::header0(4, 0, 1000, wire::AMF0_COMMAND, 0);
        bytes.extend([0; 128]);
        bytes.extend(wire::header1(4, 0, 10, wire::AMF0_COMMAND));
        bytes.extend([0; 10]);
        closes_after_shake(server, &bytes);
    });
}

#[test]
fn chunk_streams_are_counted() {
    beside(|server| {
        let mut bytes = Vec::new();
        for csid in 3..200 {
            bytes.extend(wire::header0(csid, 0, 1000, wire::AMF0_DATA, 0));
            bytes.extend([0; 128]);
        }
        closes_after_shake(server, &bytes);
    });
}

#[test]
fn every_form_of_a_chunk_stream_id_is_read() {
    beside(|server| {
        for csid in [3, 63, 64, 319, 320, 65_599] {
            let mut peer = RtmpPeer::shaken(server.port());
            let connect = Message { csid, ..connect_message("live") };
            peer.send(&connect);
            peer.expect("the answer to connect", command_of);
        }
        // The same id in its two-byte and its three-byte form is the same chunk stream.
        let mut peer = RtmpPeer::shaken(server.port());
        let connect = connect_message("live");
        assert!(connect.payload.len() > 128 && connect.payload.len() <= 256, "two chunks");
        let mut bytes = wire::basic_three(0, 100);
        bytes.extend(&wire::header0(3, 0, connect.payload.len(), connect.kind, 0)[1..]);
        bytes.extend(&connect.payload[..128]);
        bytes.extend(wire::basic(3, 100));
        bytes.extend(&connect.payload[128..]);
        peer.raw.send(&bytes);
        peer.expect("the answer to connect", command_of);
    });
}

#[test]
fn impossible_chunk_sizes_are_refused() {
    beside(|server| {
        for size in [0, 0x8000_0000, 0xffff_ffff_u32] {
            closes_after_shake(server, &wire::chunks(128, &wire::control(wire::SET_CHUNK_SIZE, &size.to_be_bytes())));
        }
        for body in [&[][..], &[0], &[0, 0, 16]] {
            closes_after_shake(server, &wire::chunks(128, &wire::control(wire::SET_CHUNK_SIZE, body)));
        }
    });
}

#[test]
fn extreme_chunk_sizes_work() {
    beside(|server| {
        for size in [1, 127, 65_536, 0xff_ffff, 0x7fff_ffff] {
            let mut peer = RtmpPeer::shaken(server.port());
            peer.set_chunk_size(size);
            let answer = peer.request_connect("live", &[]);
            assert_eq!(answer[0].as_str(), Some("_result"), "chunk size {size}");
        }
        let mut peer = RtmpPeer::shaken(server.port());
        peer.send(&wire::control(wire::SET_CHUNK_SIZE, &[0, 0, 0x10, 0, 99]));
        peer.chunk_size = 4096;
        assert_eq!(peer.request_connect("live", &[])[0].as_str(), Some("_result"), "what follows the size is ignored");
    });
}

#[test]
fn a_new_chunk_size_holds_from_the_next_chunk_on_every_chunk_stream() {
    beside(|server| {
        let mut peer = RtmpPeer::shaken(server.port());
        let connect = connect_message("live");
        let mut bytes = wire::header0(3, 0, connect.payload.len(), connect.kind, 0);
        bytes.extend(&connect.payload[..128]);
        bytes.extend(wire::chunks(128, &wire::control(wire::SET_CHUNK_SIZE, &4096_u32.to_be_bytes())));
        bytes.extend(wire::header3(3, None));
        bytes.extend(&connect.payload[128..]);
        peer.raw.send(&bytes);
        peer.expect("the answer to connect", command_of);
    });
}

#[test]
fn one_byte_chunks_hurt_nobody() {
    beside(|server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "thin");
        publisher.set_chunk_size(1);
        let frame = wire::chunks(
            1,
            &Message { csid: 6, time: 0, kind: wire::VIDEO, msid, payload: avc_frame(true, 0, 50_000) },
        );
        for _ in 0..6 {
            if !publisher.raw.try_send(&frame) {
                break; // cut off for it, which is as good
            }
        }
    });
}

#[test]
fn a_flood_of_control_messages_is_cut_off() {
    beside(|server| {
        let floods = [
            wire::control(wire::SET_CHUNK_SIZE, &4096_u32.to_be_bytes()),
            wire::control(wire::ABORT, &9_u32.to_be_bytes()),
            wire::control(wire::SET_PEER_BANDWIDTH, &[0, 1, 0, 0, 2]),
            wire::control(wire::USER_CONTROL, &[0, 6, 0, 0, 0, 1]),
        ];
        for message in floods {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let kind = message.kind;
            let flood = wire::chunks(128, &message).repeat(10_000);
            let _ = peer.raw.try_send(&flood);
            assert!(peer.raw.closed_within(SOON).is_some(), "10,000 messages of type {kind} at once");
        }
    });
}

#[test]
fn a_header_that_refers_to_nothing_is_refused() {
    beside(|server| {
        closes_after_shake(server, &[wire::header3(5, None), vec![0; 128]].concat());
        closes_after_shake(server, &[wire::header2(5, 0), vec![0; 128]].concat());
    });
}

#[test]
fn a_message_begun_anew_is_forgiven_a_few_times() {
    beside(|server| {
        let unfinished = [wire::header0(4, 0, 1000, wire::AMF0_DATA, 0), vec![0; 128]].concat();
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.raw.send(&unfinished.repeat(3));
        still_answers(&mut peer);
        peer.raw.send(&unfinished.repeat(20));
        peer.raw.assert_closed_within(SOON);
    });
}

#[test]
fn an_abort_frees_its_chunk_stream_and_no_other() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.send(&wire::control(wire::ABORT, &777_u32.to_be_bytes()));
        peer.raw.send(&[wire::header0(4, 0, 1000, wire::AMF0_DATA, 0), vec![0; 128]].concat());
        peer.send(&wire::control(wire::ABORT, &4_u32.to_be_bytes()));
        still_answers(&mut peer);
    });
}

#[test]
fn audio_inside_a_video_message_is_told_apart() {
    beside(|server| {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "mixed");
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "mixed");
        publisher.send_video(msid, 0, AVC_CONFIG);
        publisher.send_audio(msid, 0, AAC_CONFIG);
        let video = avc_frame(true, 1, 3000);
        let audio: Vec<u8> = [0xaf, 1].into_iter().chain((0..300).map(|n| n as u8)).collect();
        let video_chunks =
            chunk_by_chunk(&Message { csid: 6, time: 0, kind: wire::VIDEO, msid, payload: video.clone() });
        let audio_chunks =
            chunk_by_chunk(&Message { csid: 4, time: 0, kind: wire::AUDIO, msid, payload: audio.clone() });
        for (at, chunk) in video_chunks.iter().enumerate() {
            publisher.raw.send(chunk);
            if let Some(chunk) = audio_chunks.get(at) {
                publisher.raw.send(chunk);
            }
        }
        publisher.send_video(msid, 40, &avc_frame(false, 2, 10));
        let (mut saw_audio, mut saw_video) = (false, false);
        player.expect("both messages whole", |message| {
            saw_video |= message.payload == video;
            saw_audio |= message.payload == audio;
            (saw_audio && saw_video).then_some(())
        });
    });
}

#[test]
fn both_dialects_of_extended_timestamps_are_understood() {
    beside(|server| {
        for repeated in [true, false] {
            let name = if repeated { "repeated" } else { "absent" };
            let (mut player, _) = RtmpPeer::play(server.port(), "live", name);
            let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", name);
            publisher.send_video(msid, 0, AVC_CONFIG);
            for (at, time) in [0x00ff_fff0_u32, 0x00ff_ffff, 0x0100_0020].into_iter().enumerate() {
                let number = at as u32;
                let frame = avc_frame(at == 0, number, 1000);
                let mut bytes = wire::header0(6, time, frame.len(), wire::VIDEO, msid);
                let extended = (repeated && time >= wire::EXTENDED).then_some(time);
                for (part, body) in frame.chunks(128).enumerate() {
                    if part > 0 {
                        bytes.extend(wire::header3(6, extended));
                    }
                    bytes.extend(body);
                }
                publisher.raw.send(&bytes);
            }
            let mut whole = 0;
            player.expect("three whole frames", |message| {
                let number = avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO)?;
                assert_eq!(message.payload, avc_frame(number == 0, number, 1000), "{name}");
                whole += 1;
                (whole == 3).then_some(())
            });
        }
    });
}

#[test]
fn an_extended_timestamp_below_its_threshold_is_accepted() {
    beside(|server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "below");
        let mut bytes = wire::header0(6, 0xff_ffff, AVC_CONFIG.len(), wire::VIDEO, msid);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&5_u32.to_be_bytes());
        bytes.extend(AVC_CONFIG);
        publisher.raw.send(&bytes);
        still_answers(&mut publisher);
    });
}

#[test]
fn players_get_a_steady_clock_whatever_the_publisher_sends() {
    beside(|server| {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "clock");
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "clock");
        publisher.send_video(msid, 0, AVC_CONFIG);
        let hour = 3_600_000;
        let times = [
            0,
            40,
            80,
            hour,
            hour + 40,
            40,
            80,
            0x7fff_fff0,
            0x7fff_fff0 + 40,
            16,
            56,
            0xffff_fff0,
            0xffff_fff0 + 10,
            30,
            70,
            u32::MAX,
            0,
        ];
        for (at, time) in times.into_iter().enumerate() {
            publisher.send_video(msid, time, &avc_frame(at == 0, at as u32, 100));
        }
        let mut last = None;
        player.expect("every frame", |message| {
            let number = avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO)?;
            if let Some(last) = last {
                assert!(message.time >= last, "frame {number} goes back from {last} to {}", message.time);
                assert!(message.time - last <= 10_000, "frame {number} jumps from {last} to {}", message.time);
            }
            last = Some(message.time);
            (number as usize == times.len() - 1).then_some(())
        });
    });
}

#[test]
fn deltas_may_overflow() {
    beside(|server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "overflow");
        publisher.send_video(msid, 0, AVC_CONFIG);
        for number in 0..50 {
            let frame = avc_frame(number == 0, number, 10);
            let header = wire::header1(6, 0xffff_fffe, frame.len(), wire::VIDEO);
            publisher.raw.send(&[header, frame].concat());
        }
        still_answers(&mut publisher);
    });
}

#[test]
fn media_on_a_stream_that_was_never_made_is_dropped_and_then_refused() {
    beside(|server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "strays");
        for stray in [0, msid + 1, u32::MAX] {
            publisher.send_video(stray, 0, &avc_frame(true, 0, 10));
        }
        still_answers(&mut publisher);
        for _ in 0..150 {
            let stray = Message { csid: 6, time: 0, kind: wire::VIDEO, msid: 99, payload: vec![0x17; 20] };
            if !publisher.raw.try_send(&wire::chunks(128, &stray)) {
                break;
            }
        }
        publisher.raw.assert_closed_within(SOON);
    });
}

#[test]
fn an_aggregate_is_split_and_its_lies_are_not_believed() {
    beside(|server| {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "aggregate");
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "aggregate");
        publisher.set_chunk_size(4096);
        publisher.send_video(msid, 0, AVC_CONFIG);
        let tag = |kind: u8, size: u32, time: u32, body: &[u8]| {
            let mut tag = vec![kind];
            tag.extend(wire::u24(size));
            tag.extend(wire::u24(time));
            tag.extend([0, 0, 0, 0]);
            tag.extend(body);
            tag.extend((11 + size).to_be_bytes());
            tag
        };
        let aggregate = |payload: Vec<u8>| Message { csid: 4, time: 1000, kind: wire::AGGREGATE, msid, payload };
        let frames: Vec<Vec<u8>> = (0..3).map(|number| avc_frame(number == 0, number, 50)).collect();
        let tags: Vec<u8> = frames.iter().zip(0..).flat_map(|(f, n)| tag(9, f.len() as u32, n * 40, f)).collect();
        publisher.send(&aggregate(tags));
        let mut next = 0;
        player.expect("the frames of the aggregate", |message| {
            if message.payload == frames[next] {
                next += 1;
            }
            (next == frames.len()).then_some(())
        });
        // Past its end, and one inside another: dropped or refused, but nothing of them is played.
        let lie = tag(9, 0xff_ffff, 200, &frames[1]);
        let nested = tag(22, 30, 240, &tag(9, 4, 0, &[0x27, 1, 0, 0]));
        for payload in [lie, nested, vec![9, 0], vec![]] {
            let _ = publisher.raw.try_send(&wire::chunks(4096, &aggregate(payload)));
        }
        let (messages, _) = player.collect(Duration::from_millis(200));
        assert!(!messages.iter().any(|message| message.kind == wire::VIDEO), "{messages:?}");
    });
}

#[test]
fn unknown_message_types_are_ignored_up_to_a_point() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let stray = |kind| Message { csid: 4, time: 0, kind, msid: 0, payload: vec![1, 2, 3] };
        for kind in [0, 7, 10, 11, 12, 13, 14, 21, 23, 100, 255] {
            peer.send(&stray(kind));
        }
        still_answers(&mut peer);
        let flood = wire::chunks(128, &stray(200)).repeat(150);
        let _ = peer.raw.try_send(&flood);
        peer.raw.assert_closed_within(SOON);
        drop(peer);
        // The closing line of a session says what was wrong with it.
        server.wait_for_log(&["disconnect", "more than 100 messages of unknown types"], SOON);
    });
}

#[test]
fn a_clock_that_jumps_with_every_frame_does_not_fill_the_log() {
    beside(|server| {
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", "jumpy");
        for number in 0..500 {
            peer.send_video(msid, (number % 2) * 100_000_000 + number, &avc_frame(true, number, 100));
        }
        still_answers(&mut peer);
        server.wait_for_log(&["the publisher's clock jumped", "live/jumpy"], SOON);
        let log = server.log();
        let lines = log.lines().filter(|line| line.contains("the publisher's clock jumped")).count();
        assert!(lines <= 10, "{lines} lines");
    });
}

#[test]
fn odd_windows_and_bandwidths_change_nothing() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        for window in [0, 1, u32::MAX] {
            peer.send(&wire::control(wire::WINDOW_ACK_SIZE, &window.to_be_bytes()));
        }
        for body in [&[0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 9], &[0xff, 0xff, 0xff, 0xff, 2]] {
            peer.send(&wire::control(wire::SET_PEER_BANDWIDTH, body));
        }
        peer.send(&wire::control(wire::ACKNOWLEDGEMENT, &[0xff; 4]));
        still_answers(&mut peer);
    });
}

#[test]
fn pings_are_answered_and_unasked_answers_ignored() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.send(&wire::control(wire::USER_CONTROL, &[0, 7, 1, 2, 3, 4]));
        peer.send(&wire::control(wire::USER_CONTROL, &[0, 6, 1, 2, 3, 4]));
        peer.expect("the answer to a ping", |message| {
            (message.kind == wire::USER_CONTROL && message.payload == [0, 7, 1, 2, 3, 4]).then_some(())
        });
        still_answers(&mut peer);
    });
}

#[test]
fn messages_without_a_body_use_up_a_budget_too() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.raw.send(&wire::header0(4, 0, 0, wire::AUDIO, 1));
        let nothing = vec![0xc4; 64 << 10];
        for _ in 0..32 {
            if !peer.raw.try_send(&nothing) {
                break;
            }
        }
    });
}

// --- commands ----------------------------------------------------------------------------------------------------------------

#[test]
fn deep_values_are_refused_not_followed() {
    beside(|server| {
        for depth in [33, 1000, 10_000] {
            let arrays = [0x0a, 0, 0, 0, 1].repeat(depth);
            let objects = [3, 0, 1, b'a'].repeat(depth);
            let maps = [8, 0, 0, 0, 1, 0, 1, b'a'].repeat(depth.min(7000));
            for nested in [arrays, objects, maps] {
                let mut payload = command_head("connect", 1.0);
                payload.extend(nested);
                closes_after_shake(server, &wire::chunks(128, &command_with(payload)));
            }
        }
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "deep");
        publisher.set_chunk_size(65_536);
        let mut payload = Vec::new();
        Amf::from("@setDataFrame").write(&mut payload);
        Amf::from("onMetaData").write(&mut payload);
        payload.extend([0x0a, 0, 0, 0, 1].repeat(200_000));
        let _ = publisher
            .raw
            .try_send(&wire::chunks(65_536, &Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid, payload }));
        // Whether the publisher survives its metadata is its own affair.
        publisher.collect(Duration::from_millis(200));
    });
}

#[test]
fn counts_are_not_believed() {
    beside(|server| {
        let lies: [&[u8]; 5] = [
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 5, 5, 5, 5, 5],
            &[12, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[2, 0xff, 0xff, b'a'],
            &[3, 0xff, 0xff, b'a'],
            &[0],
        ];
        for lie in lies {
            let mut payload = command_head("connect", 1.0);
            payload.extend(lie);
            closes_after_shake(server, &wire::chunks(128, &command_with(payload)));
        }
    });
}

#[test]
fn sloppy_objects_of_real_encoders_are_accepted() {
    beside(|server| {
        for (what, start, end) in [
            ("an ECMA array that counts nothing", &[8, 0, 0, 0, 0][..], &[0, 0, 9][..]),
            ("an ECMA array that counts too much", &[8, 0xff, 0xff, 0xff, 0xff], &[0, 0, 9]),
            ("an object without its end", &[3], &[]),
        ] {
            let mut payload = command_head("connect", 1.0);
            payload.extend(start);
            payload.extend([0, 3]);
            payload.extend(b"app");
            Amf::from("live").write(&mut payload);
            payload.extend([0, 5]);
            payload.extend(b"tcUrl");
            Amf::from("rtmp://127.0.0.1/live").write(&mut payload);
            payload.extend(end);
            let mut peer = RtmpPeer::shaken(server.port());
            peer.send(&command_with(payload));
            let answer = peer.expect(what, command_of);
            assert_eq!(answer[0].as_str(), Some("_result"), "{what}: {answer:?}");
        }
    });
}

#[test]
fn too_many_keys_and_values_are_refused() {
    beside(|server| {
        let keys: Vec<(String, Amf)> = (0..5000).map(|n| (format!("k{n}"), Amf::Null)).collect();
        closes_after_shake(server, &wire::chunks(128, &wire::command(0, "connect", 1.0, &[Amf::Object(keys)])));
        let values = vec![Amf::Null; 20_000];
        closes_after_shake(server, &wire::chunks(128, &wire::command(0, "connect", 1.0, &[Amf::Strict(values)])));
        let long = Amf::String("x".repeat(20_000));
        closes_after_shake(
            server,
            &wire::chunks(128, &wire::command(0, "connect", 1.0, &[Amf::object(&[("app", long)])])),
        );
    });
}

#[test]
fn references_to_nothing_are_refused() {
    beside(|server| {
        let lies: [&[u8]; 5] = [
            &[7, 0, 5],                            // AMF0 reference
            &[0x11, 0x06, 0x04],                   // AMF3 string reference 2
            &[0x11, 0x0a, 0x02],                   // AMF3 object reference 1
            &[0x11, 0x0a, 0x05],                   // AMF3 traits reference 1
            &[0x11, 0x09, 0x03, 0x01, 0x09, 0x00], // AMF3 array that holds itself
        ];
        for lie in lies {
            let mut payload = command_head("connect", 1.0);
            payload.extend(lie);
            closes_after_shake(server, &wire::chunks(128, &command_with(payload)));
        }
    });
}

#[test]
fn types_nobody_asked_for_are_plain_data() {
    beside(|server| {
        let odd: [&[u8]; 4] = [
            &[0x10, 0, 14, b'j', b'a', b'v', b'a', b'.', b'l', b'a', b'n', b'g', b'.', b'E', b'v', b'i', b'l', 0, 0, 9],
            &[0x0f, 0, 0, 0, 4, b'<', b'a', b'/', b'>'],
            &[0x0d],
            &[0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ];
        for value in odd {
            let mut message = connect_message("live");
            message.payload.extend(value);
            let mut peer = RtmpPeer::shaken(server.port());
            peer.send(&message);
            let answer = peer.expect("the answer to connect", command_of);
            assert_eq!(answer[0].as_str(), Some("_result"), "{value:?}: {answer:?}");
        }
    });
}

#[test]
fn impossible_numbers_do_no_harm() {
    beside(|server| {
        let numbers = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -0.0, -1.0, 9_007_199_254_740_993.0];
        let mut peer = RtmpPeer::connect(server.port(), "live");
        for number in numbers {
            peer.send(&wire::command(0, "getStreamLength", number, &[Amf::Null, "x".into()]));
            peer.send(&wire::command(0, "deleteStream", 0.0, &[Amf::Null, number.into()]));
        }
        still_answers(&mut peer);
        for number in numbers {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let msid = peer.create_stream();
            peer.command(msid, "play", &[Amf::Null, "healthy".into(), number.into(), number.into(), number.into()]);
            peer.command(msid, "seek", &[Amf::Null, number.into()]);
            peer.expect("a keyframe", |message| is_keyframe(message).then_some(()));
        }
    });
}

#[test]
fn a_connect_without_a_proper_app_is_rejected() {
    beside(|server| {
        let wrong: [&[Amf]; 6] = [
            &[],
            &[Amf::Null],
            &[Amf::object(&[])],
            &[Amf::object(&[("app", Amf::Number(7.0))])],
            &[Amf::object(&[("app", Amf::Null)])],
            &[Amf::object(&[("app", Amf::object(&[]))])],
        ];
        for arguments in wrong {
            closes_after_shake(server, &wire::chunks(128, &wire::command(0, "connect", 1.0, arguments)));
        }
        let mut peer = RtmpPeer::shaken(server.port());
        let answer = peer.request_connect("nosuchapp", &[]);
        assert_eq!(answer[0].as_str(), Some("_error"), "{answer:?}");
        peer.raw.assert_closed_within(SOON);
    });
}

#[test]
fn commands_out_of_order_are_refused() {
    beside(|server| {
        let publish = |msid| wire::command(msid, "publish", 2.0, &[Amf::Null, "early".into(), "live".into()]);
        closes_after_shake(server, &wire::chunks(128, &publish(1)).repeat(4));
        for msid in [0, 1, 77] {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            for _ in 0..4 {
                let _ = peer.raw.try_send(&wire::chunks(128, &publish(msid)));
            }
            peer.raw.assert_closed_within(SOON);
        }
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.send(&connect_message("live"));
        peer.raw.assert_closed_within(SOON);
    });
}

#[test]
fn one_message_stream_has_one_job() {
    beside(|server| {
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", "first");
        peer.command(msid, "publish", &[Amf::Null, "second".into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.BadName");
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", "third");
        peer.command(msid, "play", &[Amf::Null, "healthy".into()]);
        let (messages, _) = peer.collect(Duration::from_millis(300));
        assert!(!messages.iter().any(|message| message.kind == wire::VIDEO), "a publisher's stream plays nothing");
    });
}

#[test]
fn a_second_role_on_one_connection_is_refused_and_the_first_goes_on() {
    beside(|server| {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "first");
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", "first");
        let other = peer.create_stream();
        for (command, refusal) in [("play", "NetStream.Play.Failed"), ("publish", "NetStream.Publish.BadName")] {
            peer.command(other, command, &[Amf::Null, "first".into()]);
            assert_eq!(peer.expect_status(other), refusal);
        }
        peer.send_video(msid, 0, AVC_CONFIG);
        peer.send_video(msid, 40, &avc_frame(true, 7, 100));
        player.expect("the first goes on", |message| (avc_frame_number(&message.payload) == Some(7)).then_some(()));
        drop(peer);
        server.wait_for_log(&["disconnect", "name: first", "received"], SOON);
    });
}

#[test]
fn a_second_publisher_of_a_living_stream_is_refused() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, "healthy".into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.BadName");
        peer.raw.assert_closed_within(SOON);
    });
}

#[test]
fn a_publisher_gone_silent_is_replaced() {
    beside(|server| {
        let (mut silent, msid) = RtmpPeer::publish(server.port(), "live", "taken");
        silent.send_video(msid, 0, AVC_CONFIG);
        silent.send_video(msid, 0, &avc_frame(true, 0, 100));
        let taken_over = || {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let msid = peer.create_stream();
            peer.command(msid, "publish", &[Amf::Null, "taken".into(), "live".into()]);
            (peer.expect_status(msid) == "NetStream.Publish.Start").then_some(peer)
        };
        let _publisher = common::wait::until("the silent one is replaced", Duration::from_secs(5), taken_over);
        silent.raw.assert_closed_within(SOON);
    });
}

#[test]
fn message_streams_are_counted() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let answers: Vec<bool> =
            (0..18).map(|_| peer.request(0, "createStream", &[Amf::Null])[0].as_str() == Some("_result")).collect();
        assert_eq!(answers.iter().filter(|made| **made).count(), 16, "{answers:?}");
    });
}

#[test]
fn closing_what_is_not_open_does_nothing() {
    beside(|server| {
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", "closing");
        for _ in 0..2 {
            for id in [0.0, 1.0, f64::from(msid) + 1.0, 4e9] {
                peer.command(0, "deleteStream", &[Amf::Null, id.into()]);
            }
            peer.command(0, "deleteStream", &[Amf::Null, "closing".into()]);
            peer.command(msid, "closeStream", &[Amf::Null]);
            peer.command(99, "closeStream", &[Amf::Null]);
            peer.command(0, "FCUnpublish", &[Amf::Null, "somebody else's".into()]);
        }
        still_answers(&mut peer);
    });
}

#[test]
fn unknown_commands_are_answered_at_a_walking_pace() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        peer.send(&wire::command(0, "nonsense", 0.0, &[Amf::Null]));
        still_answers(&mut peer);
        let flood: Vec<u8> = (0..5000)
            .flat_map(|n| wire::chunks(128, &wire::command(0, "nonsense", f64::from(n) + 100.0, &[Amf::Null])))
            .collect();
        let _ = peer.raw.try_send(&flood);
        let (messages, _) = peer.collect(Duration::from_millis(500));
        let answers = messages.iter().filter(|message| message.kind == wire::AMF0_COMMAND).count();
        assert!(answers <= 60, "{answers} answers to 5,000 unknown commands");
    });
}

#[test]
fn a_flood_of_seeks_and_pauses_is_no_work() {
    beside(|server| {
        let (mut peer, msid) = RtmpPeer::play(server.port(), "live", "healthy");
        peer.expect("a keyframe", |message| is_keyframe(message).then_some(()));
        let mut flood = Vec::new();
        for n in 0..2000 {
            let (name, argument) = match n % 3 {
                0 => ("seek", Amf::Number(f64::NAN)),
                1 => ("pause", Amf::Boolean(n % 2 == 0)),
                _ => ("receiveVideo", Amf::Boolean(n % 2 == 0)),
            };
            flood.extend(wire::chunks(128, &wire::command(msid, name, 0.0, &[Amf::Null, argument, Amf::Number(1.0)])));
        }
        let _ = peer.raw.try_send(&flood);
        peer.collect(Duration::from_millis(100));
    });
}

#[test]
fn commands_in_amf3_messages_are_read_with_and_without_their_first_byte() {
    beside(|server| {
        for prefix in [&[0][..], &[]] {
            let mut peer = RtmpPeer::shaken(server.port());
            let mut message = connect_message("live");
            message.kind = wire::AMF3_COMMAND;
            message.payload = [prefix, &message.payload].concat();
            peer.send(&message);
            let answer = peer.expect("the answer to connect", command_of);
            assert_eq!(answer[0].as_str(), Some("_result"), "{answer:?}");
        }
    });
}

#[test]
fn a_flood_of_metadata_reaches_players_at_a_trickle() {
    beside(|server| {
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "metadata");
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "metadata");
        publisher.set_chunk_size(65_536);
        for n in 0..120 {
            let mut payload = Vec::new();
            Amf::from("@setDataFrame").write(&mut payload);
            Amf::from("onMetaData").write(&mut payload);
            Amf::Array(vec![
                ("n".to_owned(), f64::from(n).into()),
                ("text".to_owned(), Amf::String("x".repeat(50_000))),
            ])
            .write(&mut payload);
            publisher.send(&Message { csid: 4, time: 0, kind: wire::AMF0_DATA, msid, payload });
        }
        publisher.send_video(msid, 0, AVC_CONFIG);
        publisher.send_video(msid, 0, &avc_frame(true, 0, 100));
        let (messages, closed) = player.collect(Duration::from_secs(1));
        let metadata =
            messages.iter().filter(|message| message.kind == wire::AMF0_DATA && message.payload.len() > 50_000).count();
        assert!(!closed && metadata <= 6, "{metadata} metadata messages, closed: {closed}");
    });
}

#[test]
fn a_session_may_end_at_any_byte() {
    beside(|server| {
        let mut session = c0_c1();
        let handshake = session.len() + 1536;
        session.resize(handshake, 0x55);
        let commands = [
            connect_message("live"),
            wire::command(0, "releaseStream", 2.0, &[Amf::Null, "cut".into()]),
            wire::command(0, "createStream", 3.0, &[Amf::Null]),
            wire::command(1, "publish", 4.0, &[Amf::Null, "cut".into(), "live".into()]),
            Message { csid: 6, time: 0, kind: wire::VIDEO, msid: 1, payload: AVC_CONFIG.to_vec() },
            Message { csid: 6, time: 0, kind: wire::VIDEO, msid: 1, payload: avc_frame(true, 0, 150) },
        ];
        session.extend(commands.iter().flat_map(|message| wire::chunks(128, message)));
        for cut in (0..handshake).step_by(256).chain(handshake..=session.len()) {
            let mut peer = RawPeer::connect(server.port());
            let _ = peer.stream.write_all(&session[..cut]);
        }
    });
}

// --- names -------------------------------------------------------------------------------------------------------------------

#[test]
fn names_that_could_be_paths_are_refused() {
    let long = "x".repeat(600);
    let names = [
        "..",
        "../x",
        "a/../../b",
        ".",
        ".hidden",
        "a//..",
        "-rf",
        "a/-b",
        "%2e%2e%2fx",
        "..%2fx",
        "..%5cx",
        "a%00b",
        "a%2fb",
        "%252e%252e",
        "C:\\x",
        "\\\\host\\share",
        "mp4:../x",
        "flv:..",
        "a b",
        "a\0b",
        "a\r\nb",
        "a;b",
        "$(x)",
        "`x`",
        "{x}",
        "a\"b",
        "a'b",
        "a/b/c/d/e/f/g/h/i",
        "\u{202e}x",
        "caf\u{e9}",
        "\u{200b}",
        &long,
    ];
    beside(|server| {
        for name in names {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let msid = peer.create_stream();
            peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
            let (messages, closed) = peer.collect(SOON);
            let started = messages.iter().filter_map(command_of).any(|values| {
                values.get(3).and_then(|info| info.property("code")).and_then(Amf::as_str)
                    == Some("NetStream.Publish.Start")
            });
            assert!(!started && closed, "{name:?}: started {started}, closed {closed}");
        }
    });
}

#[test]
fn a_name_of_bytes_that_are_no_text_is_refused() {
    beside(|server| {
        for bytes in [&[0xff, 0xfe][..], &[0xc0, 0xaf], &[0xed, 0xa0, 0x80]] {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let msid = peer.create_stream();
            let mut message = wire::command(msid, "publish", 5.0, &[Amf::Null]);
            message.payload.extend([2, 0, bytes.len() as u8]);
            message.payload.extend(bytes);
            Amf::from("live").write(&mut message.payload);
            peer.send(&message);
            peer.raw.assert_closed_within(SOON);
        }
    });
}

#[test]
fn an_app_that_could_be_a_path_is_refused() {
    beside(|server| {
        for app in ["", "..", "../live", "%2e%2e", "/etc/passwd", "nosuch"] {
            let mut peer = RtmpPeer::shaken(server.port());
            peer.send(&wire::command(0, "connect", 1.0, &[Amf::object(&[("app", app.into())])]));
            peer.raw.assert_closed_within(SOON);
        }
        // The start of a name may stand in the app (OBS with all of it in one field): refused as soon as it is a name.
        let mut peer = RtmpPeer::connect(server.port(), "live/../live");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[Amf::Null, "x".into(), "live".into()]);
        peer.raw.assert_closed_within(SOON);
    });
}

#[test]
fn a_log_line_cannot_be_forged() {
    beside(|server| {
        let evil = "x\r\n1970/01/01 00:00:00 [error] forged\u{1b}[31m";
        let extra = ["flashVer", "swfUrl", "pageUrl", "tcUrl"].map(|key| (key, Amf::from(evil)));
        let mut peer = RtmpPeer::shaken(server.port());
        let mut properties = vec![("app", Amf::from("live"))];
        properties.extend(extra);
        peer.send(&wire::command(0, "connect", 1.0, &[Amf::object(&properties)]));
        peer.collect(Duration::from_millis(300));
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let msid = peer.create_stream();
        peer.command(msid, "play", &[Amf::Null, format!("a?{evil}").as_str().into()]);
        peer.command(0, evil, &[Amf::Null]);
        peer.collect(Duration::from_millis(300));
        let log = server.log();
        assert!(!log.lines().any(|line| line.starts_with("1970")), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
    });
}

#[test]
fn long_urls_and_queries_are_bounded() {
    beside(|server| {
        let queries = ["a=1&".repeat(1000), format!("auth={}", "x".repeat(7000)), "?".repeat(3000), "&=".repeat(2000)];
        for query in &queries {
            for app in ["live".to_owned(), format!("live?{query}")] {
                let mut peer = RtmpPeer::shaken(server.port());
                let tc_url = format!("rtmp://127.0.0.1/live?vhost=a&vhost=b&{query}");
                peer.send(&wire::command(
                    0,
                    "connect",
                    1.0,
                    &[Amf::object(&[("app", app.as_str().into()), ("tcUrl", tc_url.as_str().into())])],
                ));
                if let Next::Closed = peer.next(SOON) {
                    continue;
                }
                peer.command(0, "createStream", &[Amf::Null]);
                peer.command(1, "play", &[Amf::Null, format!("x?{query}").as_str().into()]);
                peer.collect(Duration::from_millis(50));
            }
        }
    });
}

#[test]
fn a_token_of_four_thousand_characters_is_accepted() {
    beside(|server| {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let msid = peer.create_stream();
        let name = format!("token?jwt={}", "x".repeat(4000));
        peer.command(msid, "publish", &[Amf::Null, name.as_str().into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.Start");
    });
}

// --- slow ones ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_player_that_never_reads_costs_its_queue_and_no_more() {
    let config = LIVE.replace("live on;", "live on;\n@livemill out_queue_bytes 1M;\n");
    let mut server = TestServer::start(&config);
    // 40 MB of video leave some MiB in the allocator's hands, which later use finds there.
    unharmed_once_more(&mut server, |server| {
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), "live", "heavy");
        publisher.set_chunk_size(65_536);
        publisher.send_video(msid, 0, AVC_CONFIG);
        let stuck: Vec<RtmpPeer> = (0..4).map(|_| playing(server.port(), "live", "heavy").0).collect();
        let before = server.anonymous_kib();
        // 40 MB; the frames are shared, so that four queues cost hardly more than one.
        for number in 0..400 {
            publisher.send_video(msid, number * 40, &avc_frame(number % 25 == 0, number, 100_000));
        }
        still_answers(&mut publisher);
        let grown = server.anonymous_kib().saturating_sub(before);
        assert!(grown < 24 * 1024, "{grown} KiB for four stuck players and one GOP cache");
        drop(stuck);
    });
}

#[test]
fn deadlines_end_those_who_connect_and_then_say_nothing() {
    beside_with(IMPATIENT, |server| {
        let mut shaken = RtmpPeer::shaken(server.port());
        let mut connected = RtmpPeer::connect(server.port(), "live");
        let (mut publishing, _) = RtmpPeer::publish(server.port(), "live", "silent");
        shaken.raw.assert_closed_within(Duration::from_secs(1) + SOON);
        connected.raw.assert_closed_within(Duration::from_secs(1) + SOON);
        publishing.raw.assert_closed_within(Duration::from_secs(1) + SOON);
    });
}

// --- shared ------------------------------------------------------------------------------------------------------------------

#[track_caller]
fn beside(case: impl FnOnce(&TestServer)) {
    beside_with(LIVE, case);
}

#[track_caller]
fn beside_with(config: &str, case: impl FnOnce(&TestServer)) {
    unharmed(&mut TestServer::start(config), case);
}

/// Sends these as the very first bytes.
#[track_caller]
fn closes_after(server: &TestServer, bytes: &[u8]) {
    let mut peer = RawPeer::connect(server.port());
    let _ = peer.try_send(bytes);
    peer.assert_closed_within(SOON);
}

/// Sends these after the handshake.
#[track_caller]
fn closes_after_shake(server: &TestServer, bytes: &[u8]) {
    let mut peer = RawPeer::connect_and_shake(server.port());
    let _ = peer.try_send(bytes);
    // Sooner than the deadline for a `connect` (5 s), so that it is the bytes which close it.
    peer.assert_closed_within(SOON);
}

#[track_caller]
fn still_answers(peer: &mut RtmpPeer) {
    let answer = peer.request(0, "createStream", &[Amf::Null]);
    assert!(answer[0].as_str().is_some(), "{answer:?}");
}

fn connect_message(app: &str) -> Message {
    let properties = [
        ("app", Amf::from(app)),
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0 (compatible; test)".into()),
        ("tcUrl", Amf::String(format!("rtmp://127.0.0.1/{app}"))),
        ("swfUrl", Amf::String(format!("rtmp://127.0.0.1/{app}"))),
    ];
    wire::command(0, "connect", 1.0, &[Amf::object(&properties)])
}

fn connect_bytes(app: &str) -> Vec<u8> {
    wire::chunks(128, &connect_message(app))
}

fn command_head(name: &str, transaction: f64) -> Vec<u8> {
    let mut payload = Vec::new();
    Amf::from(name).write(&mut payload);
    Amf::Number(transaction).write(&mut payload);
    payload
}

fn command_with(payload: Vec<u8>) -> Message {
    Message { csid: 3, time: 0, kind: wire::AMF0_COMMAND, msid: 0, payload }
}

/// The chunks of a message one by one, 128 bytes each.
fn chunk_by_chunk(message: &Message) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    for (at, body) in message.payload.chunks(128).enumerate() {
        let header = match at {
            0 => wire::header0(message.csid, message.time, message.payload.len(), message.kind, message.msid),
            _ => wire::header3(message.csid, None),
        };
        chunks.push([header, body.to_vec()].concat());
    }
    chunks
}
