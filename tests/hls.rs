//! HLS from memory: what browsers, phones and ffmpeg are served, from the first request to the end of the stream.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::fixtures::Fixture;
use common::http::{get, request};
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame};
use common::playlist::{Playlist, children};
use common::server::TestServer;
use common::tools::{Running, ffmpeg_newer, ffprobe};
use common::wait;

#[test]
fn every_kind_of_stream_plays_in_ffmpeg_without_an_error() {
    let server = TestServer::start_without_a_file();
    let publishing: Vec<Running> = Fixture::ALL
        .iter()
        .map(|fixture| publish(*fixture, &server.url(&format!("live/{}", fixture.name()))))
        .collect();
    for fixture in Fixture::ALL {
        let url = format!("http://127.0.0.1:{}/live/{}/index.m3u8", server.other_port(1), fixture.name());
        let index = index(&server, fixture.name());
        let streams = play(&url);
        let (video, audio) = (fixture != Fixture::AudioOnly, fixture != Fixture::VideoOnly);
        assert_eq!(streams.contains("video"), video, "{fixture:?}: {streams}\n{index}");
        assert_eq!(streams.contains("audio"), audio, "{fixture:?}: {streams}\n{index}");
    }
    drop(publishing);
}

#[test]
fn a_player_that_asks_for_the_next_part_is_answered_when_it_is_there() {
    let server = TestServer::start_without_a_file();
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    index(&server, "a");
    let mut list = Playlist::get(port, "/live/a/video.m3u8");
    assert!(list.text.contains("CAN-BLOCK-RELOAD=YES") && list.text.contains("#EXT-X-PART-INF:PART-TARGET=0.200"));
    for _ in 0..15 {
        let (number, part) = next_part(&list);
        let asked = Instant::now();
        let next = Playlist::get(port, &format!("/live/a/video.m3u8?_HLS_msn={number}&_HLS_part={part}"));
        assert!(asked.elapsed() < Duration::from_secs(5), "parts come five times a second");
        assert!(next.text != list.text && next.sequence >= list.sequence, "something new: {}", next.text);
        assert_eq!(next.target, list.target, "promises are kept");
        list = next;
    }
    // The part that is announced can be asked for before it is there.
    let hint = list.hint.clone().expect("a live list announces its next part");
    let mut part = get(port, &format!("/live/a/{hint}"));
    assert_eq!((part.status, part.header("content-type")), (200, Some("video/iso.segment")));
    assert!(part.text().len() > 100);
    let (number, _) = next_part(&list);
    for (query, status) in [
        (format!("_HLS_msn={}", number + 10), 400),
        ("_HLS_part=1".to_owned(), 400),
        ("_HLS_msn=-1".to_owned(), 400),
        ("_HLS_msn=18446744073709551616".to_owned(), 400),
        ("_HLS_msn=0".to_owned(), 200),
        ("_HLS_skip=YES".to_owned(), 200),
    ] {
        assert_eq!(get(port, &format!("/live/a/video.m3u8?{query}")).status, status, "{query}");
    }
}

#[test]
fn everything_that_is_listed_can_be_fetched_and_nothing_else() {
    let server = TestServer::start_without_a_file();
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    for child in children(&index(&server, "a")) {
        let list = Playlist::get(port, &format!("/live/a/{child}"));
        let names = list.uris().into_iter().map(str::to_owned).chain(list.parts.clone()).chain(list.init.clone());
        for name in names.collect::<Vec<_>>() {
            let answer = get(port, &format!("/live/a/{name}"));
            assert_eq!(answer.status, 200, "{name}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
            assert!(answer.header("cache-control").is_some_and(|cache| cache.contains("immutable")), "{name}");
        }
    }
    for name in
        ["x.m4s", "..%2fconf%2ftest.m4s", "%2e%2e/x.m4s", "other.m3u8", "video.m3u8.bak", "1-p99999.m4s", "i0.mp4"]
    {
        assert_eq!(get(port, &format!("/live/a/{name}")).status, 404, "{name}");
    }
    let mut nobody = get(port, "/live/nobody/index.m3u8");
    assert_eq!(nobody.status, 404);
    assert!(nobody.text().contains("nobody publishes this stream"), "who opens it in a browser reads why");
    assert_eq!(get(port, "/other/a/index.m3u8").status, 404);
}

#[test]
fn answers_are_what_players_and_caches_expect() {
    let server = TestServer::start_without_a_file();
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    index(&server, "a");
    let list = get(port, "/live/a/video.m3u8");
    assert_eq!(list.header("content-type"), Some("application/vnd.apple.mpegurl"));
    assert_eq!(list.header("cache-control"), Some("no-cache"));
    let zipped = request(port, "GET", "/live/a/video.m3u8", &[("Accept-Encoding", "gzip")]);
    assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
    let segment =
        Playlist::get(port, "/live/a.m3u8".replace("a.m3u8", "a/video.m3u8").as_str()).segments[0].uri.clone();
    let path = format!("/live/a/{segment}");
    let mut whole = get(port, &path);
    let length: usize = whole.header("content-length").and_then(|length| length.parse().ok()).expect("a length");
    assert!(whole.text().len() > 100);
    let part = request(port, "GET", &path, &[("Range", "bytes=4-7")]);
    assert_eq!((part.status, part.header("content-range")), (206, Some(format!("bytes 4-7/{length}").as_str())));
    assert_eq!(request(port, "GET", &path, &[("Range", "bytes=99999999-")]).status, 416);
    let head = request(port, "HEAD", &path, &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(length.to_string().as_str())));
    let options = request(port, "OPTIONS", "/live/a/index.m3u8", &[("Origin", "http://elsewhere")]);
    assert_eq!((options.status, options.header("access-control-allow-origin")), (204, Some("*")));
    assert_eq!(request(port, "POST", "/live/a/index.m3u8", &[]).status, 405);
    // The short address is the same playlist.
    assert!(get(port, "/live/a.m3u8").text().contains("#EXT-X-STREAM-INF"));
}

#[test]
fn a_publisher_that_comes_back_ends_nothing_and_one_that_stays_away_does() {
    let server = with_http("http_end_after 3s; http_ended 5s;");
    let port = server.other_port(1);
    let first = publish(Fixture::H264Aac, &server.url("live/a"));
    index(&server, "a");
    let before = Playlist::get(port, "/live/a/video.m3u8");
    drop(first);
    server.wait_for_log(&["publish ended"], PATIENCE);
    let second = publish(Fixture::H264Aac, &server.url("live/a"));
    let after = wait::until("segments of the second publisher", PATIENCE, || {
        let list = Playlist::get(port, "/live/a/video.m3u8");
        assert!(!list.is_ended, "{}", list.text);
        list.segments.iter().any(|segment| segment.discontinuity).then_some(list)
    });
    assert_eq!(after.sequence, before.sequence, "it goes on");
    assert_eq!(after.segments.iter().filter(|segment| segment.discontinuity).count(), 1, "{}", after.text);
    assert_eq!(after.segments[0].uri, before.segments[0].uri);
    drop(second);
    let ended = wait::until("the end", PATIENCE, || {
        Some(Playlist::get(port, "/live/a/video.m3u8")).filter(|list| list.is_ended)
    });
    assert!(ended.hint.is_none(), "after the end nothing is announced: {}", ended.text);
    play(&format!("http://127.0.0.1:{port}/live/a/index.m3u8"));
    wait::until("nothing", PATIENCE, || (get(port, "/live/a/video.m3u8").status == 404).then_some(()));
}

#[test]
fn whoever_waits_is_counted_and_let_go_when_the_stream_ends() {
    let server = with_http("hls_blocked_requests 5; http_end_after 1s;");
    let port = server.other_port(1);
    let mut publisher = Encoder::start(&server, "a", 25);
    publisher.until("the first playlist", || (get(port, "/live/a/video.m3u8").status == 200).then_some(()));
    let list = Playlist::get(port, "/live/a/video.m3u8");
    let path = format!("/live/a/video.m3u8?_HLS_msn={}", list.next() + 1);
    let (tell, answers) = mpsc::channel();
    for _ in 0..8 {
        let (tell, path) = (tell.clone(), path.clone());
        std::thread::spawn(move || {
            let mut answer = get(port, &path);
            tell.send((answer.status, answer.text())).expect("the test listens");
        });
    }
    let next = || answers.recv_timeout(PATIENCE).expect("everybody is answered");
    for _ in 0..3 {
        assert_eq!(next().0, 503, "three too many");
    }
    drop(publisher);
    for _ in 0..5 {
        let (status, text) = next();
        assert!(status == 200 && text.ends_with("#EXT-X-ENDLIST\n"), "{status}: {text}");
    }
}

#[test]
fn segments_are_bounded_whatever_the_keyframes() {
    let server = with_http("http_max_fragment 4s;");
    let port = server.other_port(1);
    for (name, every, target) in [("each", 1, 2), ("second", 25, 2), ("long", 75, 3), ("never", 10_000, 4)] {
        let mut publisher = Encoder::start(&server, name, every);
        let list = publisher.until("a playlist", || {
            let mut answer = get(port, &format!("/live/{name}/video.m3u8"));
            let list = (answer.status == 200).then(|| Playlist::read(&answer.text()))?;
            (list.segments.len() >= 3).then_some(list)
        });
        assert_eq!(list.target, target, "{name}: {}", list.text);
        let is_cut_alike = list.segments.iter().all(|s| (s.seconds - target as f64).abs() < 0.5);
        assert!(is_cut_alike, "{name}: {}", list.text);
        assert_eq!(list.text.contains("INDEPENDENT-SEGMENTS"), name != "never", "{name}: {}", list.text);
    }
}

#[test]
fn ts_segments_are_served_where_the_configuration_says_so() {
    let server = with_http("hls_format ts; http_fragment 1s;");
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    let index = index(&server, "a");
    assert!(index.contains("CODECS=\"avc1.") && index.contains("mp4a.40.2\"") && index.contains("RESOLUTION=320x180"));
    let list = Playlist::get(port, "/live/a/main.m3u8");
    let segment = get(port, &format!("/live/a/{}", list.segments[0].uri));
    assert_eq!((segment.status, segment.header("content-type")), (200, Some("video/mp2t")));
    let streams = play(&format!("http://127.0.0.1:{port}/live/a/index.m3u8"));
    assert!(streams.contains("video") && streams.contains("audio"), "{streams}");
}

#[test]
fn without_parts_a_playlist_is_as_plain_as_players_of_old_want_it() {
    let server = with_http("hls_part 0;");
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    index(&server, "a");
    let list = Playlist::get(port, "/live/a/video.m3u8");
    assert!(list.parts.is_empty() && list.hint.is_none() && !list.text.contains("PART"), "{}", list.text);
    play(&format!("http://127.0.0.1:{port}/live/a/index.m3u8"));
}

#[test]
fn an_output_that_nobody_asks_for_ends_and_comes_back_above_where_it_was() {
    let server = with_http("http_idle 1s;");
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    index(&server, "a");
    let before = Playlist::get(port, "/live/a/video.m3u8");
    let piece = format!("/live/a/{}", before.segments[0].uri);
    server.wait_for_log(&["segments stop"], PATIENCE);
    assert_eq!(get(port, &piece).status, 404, "a piece alone opens nothing");
    index(&server, "a");
    let after = Playlist::get(port, "/live/a/video.m3u8");
    assert!(after.sequence >= before.next(), "{} {}", after.sequence, before.next());
    assert_ne!(after.init, before.init, "no cache serves a file of the one before");
}

#[test]
fn outputs_that_are_switched_off_are_not_there() {
    let server = with_http("http_outputs flv dash;");
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    wait::until("a manifest", PATIENCE, || (get(port, "/live/a/manifest.mpd").status == 200).then_some(()));
    assert_eq!(get(port, "/live/a/index.m3u8").status, 404);
    assert_eq!(get(port, "/live/a/video.m3u8").status, 404);
}

#[test]
fn large_segments_arrive_whole_however_slowly_they_are_read_and_whatever_is_asked_behind_them() {
    let server = with_http("");
    let port = server.other_port(1);
    let mut publisher = Encoder { size: 20_000, ..Encoder::start(&server, "a", 25) };
    let uri = publisher.until("a segment", || {
        let mut answer = get(port, "/live/a/video.m3u8");
        let list = (answer.status == 200).then(|| Playlist::read(&answer.text()))?;
        list.segments.first().map(|segment| segment.uri.clone())
    });
    let ask = format!("GET /live/a/{uri} HTTP/1.1\r\nHost: x\r\n\r\n");
    let socket = |receive_buffer: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(receive_buffer).expect("a socket option");
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).expect("the server listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        TcpStream::from(socket)
    };
    let mut wide = socket(4 << 20);
    wide.write_all(ask.as_bytes()).expect("the server reads");
    let whole = body(&mut BufReader::new(wide));
    assert!(whole.len() > 400_000, "{} bytes", whole.len());
    // Three at once, through a socket that takes a little at a time, and then once more.
    let mut narrow = socket(4096);
    narrow.write_all(ask.repeat(3).as_bytes()).expect("the server reads");
    let mut reader = BufReader::with_capacity(1000, narrow.try_clone().expect("a descriptor more"));
    for _ in 0..3 {
        assert!(body(&mut reader) == whole, "another segment than before");
    }
    narrow.write_all(ask.as_bytes()).expect("the connection lives on");
    assert!(body(&mut reader) == whole, "another segment than before");
}

/// Reads one answer that says its length.
fn body(reader: &mut impl BufRead) -> Vec<u8> {
    let mut length = 0;
    for line in reader.by_ref().lines() {
        let line = line.expect("a head");
        if line.is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("as much as was said");
    body
}

/// With these directives in the application `live`, watched on the second port.
fn with_http(application: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {application} }} }} }}
         http {{ server {{ listen 127.0.0.1:@port2@; location / {{ player on; }} }} }}"
    ))
}

/// Publishes pictures that nobody can decode, several times as fast as life.
struct Encoder {
    peer: RtmpPeer,
    msid: u32,
    gop: u32,
    /// Bytes of a frame.
    size: usize,
    next: u32,
}

impl Encoder {
    fn start(server: &TestServer, name: &str, gop: u32) -> Self {
        let (mut peer, msid) = RtmpPeer::publish(server.port(), "live", name);
        peer.send_video(msid, 0, AVC_CONFIG);
        Self { peer, msid, gop, size: 500, next: 0 }
    }

    /// Goes on until the question, asked beside it, has an answer.
    fn until<T: Send>(&mut self, what: &str, mut question: impl FnMut() -> Option<T> + Send) -> T {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| wait::until(what, PATIENCE, &mut question));
            while !asking.is_finished() {
                for number in self.next..self.next + 5 {
                    let frame = avc_frame(number.is_multiple_of(self.gop), number, self.size);
                    self.peer.send_video(self.msid, number * 40, &frame);
                }
                self.next += 5;
                wait::within(Duration::from_millis(40), || asking.is_finished().then_some(()));
            }
            asking.join().expect("an answer in time")
        })
    }
}

/// Publishes a fixture over and over, as fast as life.
fn publish(fixture: Fixture, url: &str) -> Running {
    let mut command = Command::new(ffmpeg_newer());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(fixture.path()).args(["-c", "copy", "-f", "flv", url]);
    Running::start(&format!("publishing {}", fixture.name()), command)
}

/// The multivariant playlist, once the stream is published.
fn index(server: &TestServer, name: &str) -> String {
    let path = format!("/live/{name}/index.m3u8");
    wait::until("the first playlist", PATIENCE, || {
        let mut answer = get(server.other_port(1), &path);
        (answer.status == 200).then(|| answer.text())
    })
}

/// Plays three seconds with errors fatal; what was in it.
fn play(url: &str) -> String {
    let mut ffmpeg = Command::new(ffmpeg_newer());
    ffmpeg.args([
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "warning",
        "-xerror",
        "-i",
        url,
        "-t",
        "3",
        "-f",
        "null",
        "-",
    ]);
    let played = ffmpeg.output().expect("ffmpeg runs");
    let said = String::from_utf8_lossy(&played.stderr);
    // ffmpeg reads the initialisation again with each playlist, and then wonders.
    let mut said =
        said.lines().filter(|line| !line.ends_with("Found duplicated MOOV Atom. Skipped it") && !line.is_empty());
    assert!(played.status.success() && said.next().is_none(), "{url}: {}", String::from_utf8_lossy(&played.stderr));
    let mut ffprobe = Command::new(ffprobe());
    ffprobe.args(["-loglevel", "error", "-show_entries", "stream=codec_type,codec_name", "-of", "csv=p=0", url]);
    String::from_utf8_lossy(&ffprobe.output().expect("ffprobe runs").stdout).into_owned()
}

/// What a player of low latency asks for next.
fn next_part(list: &Playlist) -> (u64, usize) {
    let open = list.text.lines().rev().take_while(|line| !line.starts_with("#EXTINF"));
    (list.next(), open.filter(|line| line.starts_with("#EXT-X-PART:")).count())
}

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
