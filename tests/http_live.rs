//! Streams watched in an answer that never ends: HTTP-FLV, WebSocket-FLV, HTTP-TS.

mod common;

use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::exchange::ask;
use common::fixtures::Fixture;
use common::health;
use common::http::{self, End, FlvViewer, Tag, client_frame, frame, get, request};
use common::live_source::LiveSource;
use common::peer::{AAC_CONFIG, AVC_CONFIG, RtmpPeer, avc_frame, avc_frame_number};
use common::playing::Playing;
use common::server::{CLIENT_DEADLINE, Kind, TestServer};
use common::stream::{Publishing, audio_frame};
use common::tools::{Player, Publisher, Running};
use common::wait;

// --- what is in the answer ---------------------------------------------------------------------------------------------------

#[test]
fn ffmpeg_plays_over_http_what_was_published_bit_exact() {
    for fixture in [Fixture::H264Aac, Fixture::H264BFrames] {
        let server = server("");
        let name = format!("exact-{}", fixture.name());
        let url = format!("http://127.0.0.1:{}/live/{name}.flv", server.other_port(1));
        let mut playing: Vec<_> = [Player::FfmpegDebian, Player::FfmpegNewer]
            .into_iter()
            .map(|player| Playing::start(player, &url))
            .collect();
        server.wait_for_players(&name, playing.len());
        let mut publisher = Publisher::FfmpegDebian.publish(fixture, &server.url(&format!("live/{name}")));
        publisher.wait_for_success(CLIENT_DEADLINE);
        server.wait_for_log(&["publish ended"], Duration::from_secs(5));
        // ffmpeg throws away what it has buffered of an answer when it is told to end; at the end of the answer it does not.
        server.signal(nix::sys::signal::Signal::SIGTERM);
        for playing in &mut playing {
            let what = format!("{fixture:?} over HTTP by {:?}", playing.player);
            playing.assert_same_as(fixture, false, &what);
        }
    }
}

#[test]
fn a_late_viewer_starts_with_headers_and_a_keyframe() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..30);
    publisher.settle();
    for path in ["/live/name.flv", "/live/name.flv?x=y"] {
        let mut viewer = FlvViewer::watch(server.other_port(1), path);
        assert_eq!(viewer.flags, 5);
        let first = viewer.until("the newest frame", |tag| number(tag) == Some(29));
        let numbers: Vec<_> = first.iter().filter_map(number).collect();
        assert_eq!(numbers, [25, 26, 27, 28, 29]);
        assert_eq!(bodies(&first, 9)[0], AVC_CONFIG);
        assert_eq!(bodies(&first, 8)[0], AAC_CONFIG);
        assert!(first.iter().all(|tag| tag.time >= 25 * 40), "times are those of the stream: {first:?}");
    }
}

#[test]
fn a_viewer_that_asks_for_one_track_is_sent_and_promised_nothing_else() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..5);
    publisher.audio(200, 1);
    publisher.settle();
    for (query, flags, kind) in [("only=audio", 4, 8), ("video=0", 4, 8), ("only=video", 1, 9), ("audio=0", 1, 9)] {
        let mut viewer = FlvViewer::watch(server.other_port(1), &format!("/live/name.flv?{query}"));
        publisher.video(240, false, 6);
        publisher.audio(245, 2);
        publisher.video(280, false, 7);
        let is_last = |tag: &Tag| number(tag) == Some(7) || tag.body == audio_frame(2);
        let seen = viewer.until("the last of its track", |tag| tag.kind == kind && is_last(tag));
        assert_eq!(viewer.flags, flags, "{query}");
        assert!(seen.iter().all(|tag| tag.kind == kind), "{query}: {seen:?}");
    }
    assert_eq!(get(server.other_port(1), "/live/name.flv?audio=0&video=0").status, 400);
}

#[test]
fn over_a_websocket_it_is_the_same_file_in_binary_messages_until_a_goodbye() {
    let server = server("idle_streams off;");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..3);
    publisher.settle();
    let mut viewer = FlvViewer::watch_over_websocket(server.other_port(1), "/live/name.flv");
    assert_eq!(viewer.flags, 5);
    let seen = viewer.until("the newest frame", |tag| number(tag) == Some(2));
    assert_eq!(seen.iter().filter_map(number).collect::<Vec<_>>(), [0, 1, 2]);
    drop(publisher);
    let last: Vec<u8> = std::iter::from_fn(|| viewer.answer.piece()).flatten().collect();
    assert_eq!(frame(&last), Some((8, 1000_u16.to_be_bytes().to_vec(), 4)));
}

#[test]
fn a_ts_viewer_starts_with_tables_and_shares_its_feed_with_the_next() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..30);
    publisher.settle();
    for _ in 0..2 {
        let mut answer = get(server.other_port(1), "/live/name.ts");
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("video/mp2t")));
        let first = answer.piece().expect("there is a keyframe");
        assert_eq!((first[0], first[188], first.len() % 188), (0x47, 0x47, 0));
        assert_eq!((u16::from_be_bytes([first[1], first[2]]) & 0x1FFF), 0, "the first table");
    }
}

#[test]
fn an_mp4_viewer_starts_with_its_own_header_over_http_and_websocket() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..30);
    publisher.audio(1170, 1);
    publisher.settle();
    let mut answer = get(server.other_port(1), "/live/name.mp4");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("video/mp4")));
    let first = answer.piece().expect("there is a keyframe");
    assert_eq!(first[4..8], *b"ftyp");
    assert_eq!(first.windows(4).filter(|name| *name == b"moov").count(), 1);
    assert!(first.windows(4).any(|name| name == b"moof"));
    let mut answer = http::websocket(server.other_port(1), "/live/name.mp4");
    let mut seen = Vec::new();
    while frames(&seen).is_empty() {
        seen.extend(answer.piece().expect("there is a keyframe"));
    }
    assert_eq!(frames(&seen)[0].1[4..8], *b"ftyp");
}

#[test]
fn ffmpeg_reads_every_endless_format_without_an_error() {
    let server = server("");
    let mut publisher = Publisher::FfmpegDebian.publish_in_real_time(Fixture::H264Aac, &server.url("live/name"));
    server.wait_for_log(&["live, stream: live/name"], CLIENT_DEADLINE);
    let watch = |format: &'static str| {
        let url = format!("http://127.0.0.1:{}/live/name.{format}", server.other_port(1));
        let mut command = std::process::Command::new(common::tools::ffmpeg_debian());
        // TS says nowhere that all its tracks have been seen: ffmpeg would look for more for as long as the fixture lasts.
        command.args(["-v", "error", "-xerror", "-err_detect", "explode", "-analyzeduration", "500000", "-i"]).arg(url);
        command.args(["-map", "0:v", "-map", "0:a", "-t", "1", "-f", "null", "-"]);
        Running::start(format, command)
    };
    for mut viewer in ["flv", "ts", "mp4"].map(watch) {
        viewer.wait_for_success(CLIENT_DEADLINE);
        assert_eq!(viewer.output(), "");
    }
    publisher.wait_for_success(CLIENT_DEADLINE);
}

// --- who may watch, and when ---------------------------------------------------------------------------------------------------

#[test]
fn a_stream_nobody_publishes_is_waited_for_or_not_found() {
    let server = server("");
    let mut early = get(server.other_port(1), "/live/name.flv");
    assert_eq!(early.status, 200, "{:?}", early.headers);
    assert_eq!(get(server.other_port(1), "/strict/name.flv").status, 404);
    assert_eq!(request(server.other_port(1), "HEAD", "/strict/name.flv", &[]).status, 404);
    assert_eq!(get(server.other_port(1), "/nowhere/name.flv").status, 404);
    assert_eq!(get(server.other_port(1), "/guarded/name.flv").status, 403);
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    assert_eq!(early.piece().expect("it has waited")[..5], *b"FLV\x01\x05");
    let mut strict = Publishing::start_at(server.port(), "strict", "name");
    strict.send_frames(0..2);
    strict.settle();
    assert_eq!(get(server.other_port(1), "/strict/name.flv").status, 200);
}

#[test]
fn viewers_stay_for_the_next_publisher_and_are_sent_its_headers() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    let mut viewer = FlvViewer::watch(server.other_port(1), "/live/name.flv");
    let before = viewer.until("the first publisher", |tag| number(tag) == Some(1));
    drop(publisher);
    server.wait_for_log(&["publish ended"], Duration::from_secs(5));
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..3);
    let after = viewer.until("the second publisher", |tag| number(tag) == Some(2));
    assert_eq!(bodies(&after, 9)[0], AVC_CONFIG);
    let times: Vec<_> = before.iter().chain(&after).filter(|tag| number(tag).is_some()).map(|tag| tag.time).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "time goes on: {times:?}");
}

#[test]
fn without_idle_streams_the_answer_ends_with_the_publisher_as_a_whole_one() {
    let server = server("idle_streams off;");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    publisher.settle();
    let mut answer = get(server.other_port(1), "/live/name.flv");
    assert_eq!(answer.status, 200);
    answer.piece().expect("there is a keyframe");
    drop(publisher);
    assert_eq!(answer.end(), End::Whole);
    server.wait_for_log(&["play ended", "http-flv", "idle_streams is off"], Duration::from_secs(5));
}

#[test]
fn the_end_of_the_server_is_the_end_of_a_whole_answer() {
    let mut server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    let mut answer = get(server.other_port(1), "/live/name.flv");
    answer.piece().expect("there is a keyframe");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(answer.end(), End::Whole);
    assert!(server.wait_for_exit(Duration::from_secs(10)).success());
}

#[test]
fn other_methods_get_their_due() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    publisher.settle();
    let port = server.other_port(1);
    let head = request(port, "HEAD", "/live/name.flv", &[]);
    assert_eq!((head.status, head.header("content-type")), (200, Some("video/x-flv")));
    let ranged = request(port, "GET", "/live/name.flv", &[("Range", "bytes=0-")]);
    assert_eq!((ranged.status, ranged.header("accept-ranges"), ranged.header("content-length")), (200, None, None));
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("cache-control", "no-cache, no-store"),
        ("x-accel-buffering", "no"),
        ("transfer-encoding", "chunked"),
    ] {
        assert_eq!(ranged.header(name), Some(value), "{name}");
    }
    let preflight = request(port, "OPTIONS", "/live/name.flv", &[("Origin", "http://elsewhere")]);
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    for method in ["TRACE", "PUT", "BREW"] {
        assert_eq!(request(port, method, "/live/name.flv", &[]).status, 405, "{method}");
    }
}

#[test]
fn a_relay_that_came_too_far_is_refused_before_anything_else() {
    let server = server("");
    let node = "0123456789abcdef";
    let far = [node; 6].join(",");
    for (route, status, why) in
        [(node, 200, ""), (&far, 508, "relayed more than 5 times\n"), ("?", 400, "a route that is none\n")]
    {
        for path in ["/live/name.flv", "/live/name.ts", "/by-query?port=@&app=live&stream=name"] {
            let path = path.replace('@', &server.port().to_string());
            let mut answer = request(server.other_port(1), "GET", &path, &[("X-Livemill-Route", route)]);
            assert_eq!((answer.status, &answer.text()[..]), (status, why), "{path} by way of {route}");
        }
    }
}

#[test]
fn flv_live_finds_a_stream_by_its_query_or_by_its_address() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    publisher.settle();
    let (rtmp, port) = (server.port(), server.other_port(1));
    for path in [
        format!("/by-query?port={rtmp}&app=live&stream=name"),
        format!("/by-query%3Fport={rtmp}&app=live&stream=name"),
        "/live/name.flv".to_owned(),
        "/by-address/live/name".to_owned(),
        "/by-name/name.flv".to_owned(),
    ] {
        // X's whole folder is the application; ours is told by `app=`.
        let path = path.replace("/by-address/live/name", "/by-address/name?app=live");
        let mut viewer = FlvViewer::watch(port, &path);
        viewer.until(&path, |tag| number(tag) == Some(1));
    }
    for (path, status) in [
        (format!("/by-query?port={rtmp}&stream=name"), 400),
        (format!("/by-query?port={rtmp}&app=nowhere&stream=name"), 404),
        ("/by-query?port=1&app=live&stream=name".to_owned(), 404),
        (format!("/by-query?port={rtmp}&app=guarded&stream=name"), 403),
        (format!("/by-query?port={rtmp}&app=strict&stream=name"), 404),
    ] {
        assert_eq!(get(port, &path).status, status, "{path}");
    }
}

// --- what viewers must not get away with ---------------------------------------------------------------------------------------

/// Case 96.
#[test]
fn a_viewer_that_never_reads_is_cut_off_and_nobody_else_notices() {
    let mut server = server("slow_player_timeout 2s; out_queue_bytes 256k;");
    health::unharmed_once_more(&mut server, |server| {
        let cut_off = || server.log().lines().filter(|line| line.contains("slow player")).count();
        let before = cut_off();
        let mut publisher = published(server, "name");
        publisher.peer.send_video(publisher.msid, 0, &avc_frame(true, 0, 4_000_000));
        publisher.settle();
        let mut stuck = get(server.other_port(1), "/live/name.flv");
        let began = Instant::now();
        let mut number = 1;
        let cut = wait::within(Duration::from_secs(25), || {
            publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 10 == 0, number, 100_000));
            number += 1;
            (cut_off() > before).then_some(())
        });
        assert!(cut.is_some(), "it is still there after {:?}:\n{}", began.elapsed(), server.log());
        assert_eq!(stuck.end(), End::BrokenOff);
        drop(publisher);
    });
}

#[test]
fn a_viewer_that_is_behind_goes_on_at_a_keyframe() {
    let server = server("out_queue_bytes 256k;");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    let mut viewer = FlvViewer::watch(server.other_port(1), "/live/name.flv");
    let mut well = FlvViewer::watch(server.other_port(1), "/live/name.flv");
    viewer.until("the newest", |tag| number(tag) == Some(1));
    well.until("the newest", |tag| number(tag) == Some(1));
    for number in 2..=400 {
        publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 50 == 0, number, 60_000));
        well.until("every frame", |tag| self::number(tag) == Some(number));
    }
    let seen: Vec<_> =
        viewer.until("the last keyframe", |tag| number(tag) == Some(400)).iter().filter_map(number).collect();
    let leaps: Vec<_> = seen.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| pair[1]).collect();
    assert!(!leaps.is_empty(), "24 MB do not fit into sockets");
    assert!(leaps.iter().all(|number| number % 50 == 0), "it leaps to keyframes: {leaps:?}");
}

/// Case 97.
#[test]
fn a_crowd_at_a_stream_that_does_not_exist_is_sent_away_at_once() {
    let mut server = server("");
    health::unharmed_once_more(&mut server, |server| {
        let began = Instant::now();
        for _ in 0..500 {
            let answer = get(server.other_port(1), "/strict/nothing.flv");
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (404, Some("*")));
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    });
}

#[test]
fn a_viewer_that_hangs_up_while_it_waits_is_forgotten() {
    let server = server("");
    let answer = get(server.other_port(1), "/live/nothing.flv");
    server.wait_for_players("live/nothing", 1);
    answer.socket().shutdown(Shutdown::Write).expect("it is open");
    server.wait_for_log(&["play ended", "the viewer left"], Duration::from_secs(5));
}

/// Case 102.
#[test]
fn what_a_websocket_viewer_must_not_say_ends_it() {
    let mut server = server("");
    health::unharmed(&mut server, |server| {
        let mut publisher = published(server, "name");
        publisher.send_frames(0..2);
        publisher.settle();
        let huge = [0x82, 0xFF, 0x7F, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0];
        let flood: Vec<u8> = (0..40).flat_map(|_| client_frame(0x89, b"ping")).collect();
        for (said, status) in [
            (&huge[..], 1009_u16),
            (&[0x82, 0x05, 1, 2, 3, 4, 5], 1002),
            (&[0xC2, 0x80, 0, 0, 0, 0], 1002),
            (&[0x09, 0x80, 0, 0, 0, 0], 1002),
            (&flood, 1008),
            (&client_frame(0x88, &1000_u16.to_be_bytes()), 1000),
        ] {
            let mut viewer = FlvViewer::watch_over_websocket(server.other_port(1), "/live/name.flv");
            viewer.until("the newest", |tag| number(tag) == Some(1));
            viewer.answer.send(said);
            let rest: Vec<u8> = std::iter::from_fn(|| viewer.answer.piece()).flatten().collect();
            assert_eq!(last_frame(&rest), Some((8, status.to_be_bytes().to_vec())), "{said:?}");
        }
    });
    let port = server.other_port(1);
    let handshake = |without: &str| {
        let kept: Vec<_> = http::WEBSOCKET.iter().copied().filter(|(name, _)| *name != without).collect();
        request(port, "GET", "/live/name.flv", &kept).status
    };
    assert_eq!((handshake("Sec-WebSocket-Key"), handshake("Sec-WebSocket-Version")), (400, 400));
}

#[test]
fn a_ping_is_answered_in_the_middle_of_the_stream() {
    let server = server("");
    let mut publisher = published(&server, "name");
    publisher.send_frames(0..2);
    publisher.settle();
    let mut answer = http::websocket(server.other_port(1), "/live/name.flv");
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    answer.send(&client_frame(0x89, b"are you there"));
    let mut seen = Vec::new();
    while !frames(&seen).contains(&(10, b"are you there".to_vec())) {
        seen.extend(answer.piece().expect("it goes on"));
    }
}

// --- helpers ---------------------------------------------------------------------------------------------------------------------

/// `options` hold in application `live`; nobody waits in `strict`, and nobody may play in `guarded`.
fn server(options: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@;\n\
         application live {{ live on; {options} }}\n\
         application strict {{ live on; idle_streams off; }}\n\
         application guarded {{ live on; deny play all; }}\n\
         }} }}\n\
         http {{ server {{ listen 127.0.0.1:@port2@;\n\
         location / {{ player on; }}\n\
         location /by-query {{ flv_live on; }}\n\
         location /by-address/ {{ flv_live @port@; }}\n\
         location /by-name/ {{ flv_live @port@ app=live; }}\n\
         }} }}"
    ))
}

/// A publisher of both media.
fn published(server: &TestServer, name: &str) -> Publishing {
    let (peer, msid) = RtmpPeer::publish(server.port(), "live", name);
    let mut publisher = Publishing::new(peer, msid);
    publisher.peer.send_video(msid, 0, AVC_CONFIG);
    publisher.peer.send_audio(msid, 0, AAC_CONFIG);
    publisher
}

fn number(tag: &Tag) -> Option<u32> {
    avc_frame_number(&tag.body).filter(|_| tag.kind == 9)
}

fn bodies(tags: &[Tag], kind: u8) -> Vec<&[u8]> {
    tags.iter().filter(|tag| tag.kind == kind).map(|tag| &tag.body[..]).collect()
}

fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut seen = Vec::new();
    while let Some((opcode, body, used)) = frame_or_none(bytes) {
        seen.push((opcode, body));
        bytes = &bytes[used..];
    }
    seen
}

fn last_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>)> {
    frames(bytes).pop()
}

fn frame_or_none(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    if bytes.is_empty() { None } else { frame(bytes) }
}

#[test]
fn an_application_of_any_name_takes_no_address_from_one_that_is_named() {
    let server = TestServer::start_http(
        Kind::Livemill,
        "rtmp { access_log off; server { listen @port@; application live { live on; } application * { live on; } } }
         http { access_log off; server { listen 127.0.0.1:@port2@; location / { player on; } } }",
    );
    let sources = ["live", "any"].map(|app| LiveSource::publish(server.port(), app, "cam"));
    for (app, source) in ["live", "any"].iter().zip(&sources) {
        wait::until("it publishes", Duration::from_secs(10), || (source.next_number() > 0).then_some(()));
        let index = ask(server.other_port(1), "GET", &format!("/{app}/cam/index.m3u8"), &[]);
        assert_eq!(index.status, 200, "{app}: {}", index.text());
    }
}
