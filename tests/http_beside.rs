//! What livemill adds to nginx's `http {}`: streams beside files, the player below a location, and what it leaves alone.

mod common;

use std::fs;
use std::time::Duration;

use common::exchange::ask;
use common::http::{FlvViewer, connect, get};
use common::peer::{AAC_CONFIG, AVC_CONFIG, RtmpPeer};
use common::server::{Kind, TestServer};
use common::stream::Publishing;
use common::wait;
use nix::sys::signal::Signal;

const SITE: &str =
    "rtmp { server { listen 127.0.0.1:@port@; application hls { live on; } application live { live on; } } }
    http { access_log logs/http.log; root @dir@/www; default_type text/plain;
      server { listen 127.0.0.1:@port2@;
        location /hls { add_header Access-Control-Allow-Origin https://page.example; add_header X-Ours yes; }
        location /tv/ { player on; }
        location /elsewhere/ { proxy_pass http://127.0.0.1:1; }
        location /guarded/ { auth_basic secret; }
        location /ts { ts_live on; }
        location /asked { if ($arg_key) { return 403; } } } }";

fn site() -> TestServer {
    let server = TestServer::start_http(Kind::Livemill, SITE);
    for (name, contents) in [
        ("hls/onfile/index.m3u8", "a file\n"),
        ("hls/a.flv", "a file too\n"),
        ("elsewhere/x", "never"),
        ("guarded/x", "never"),
        ("asked", "never"),
    ] {
        let path = server.dir().join("www").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder in the temporary directory");
        fs::write(path, contents).expect("a file in the temporary directory");
    }
    server
}

/// A publisher of both media: the header of FLV waits until it is known which there are.
fn published(server: &TestServer, app: &str) -> Publishing {
    let (peer, msid) = RtmpPeer::publish(server.port(), app, "cam");
    let mut stream = Publishing::new(peer, msid);
    stream.peer.send_video(msid, 0, AVC_CONFIG);
    stream.peer.send_audio(msid, 0, AAC_CONFIG);
    stream
}

#[test]
fn a_stream_is_found_where_no_file_is() {
    let server = site();
    let mut stream = published(&server, "hls");
    stream.send_frames(0..30);
    let port = server.other_port(1);
    let viewer = FlvViewer::watch(port, "/hls/cam.flv");
    let header = |name: &str| -> Vec<&str> {
        let named = viewer.answer.headers.iter().filter(|(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(header("access-control-allow-origin"), ["https://page.example"], "the location's word, and only once");
    assert_eq!((header("x-ours"), header("content-type")), (vec!["yes"], vec!["video/x-flv"]));
    assert_eq!(ask(port, "GET", "/hls/a.flv", &[]).text(), "a file too\n", "a file comes first");
    assert_eq!(ask(port, "GET", "/hls/onfile/index.m3u8", &[]).text(), "a file\n");
    assert_eq!(ask(port, "GET", "/hls/none.html", &[]).status, 404);
    assert_eq!(ask(port, "POST", "/hls/cam.flv", &[]).status, 404, "to nginx it is a file that is not there");
}

#[test]
fn the_player_lives_below_its_location() {
    let server = site();
    let mut stream = published(&server, "live");
    stream.send_frames(0..30);
    let port = server.other_port(1);
    let moved = ask(port, "GET", "/tv", &[]);
    assert_eq!((moved.status, moved.header("location").is_some_and(|to| to.ends_with("/tv/"))), (301, true));
    let page = ask(port, "GET", "/tv/", &[]);
    assert_eq!((page.status, page.header("content-type").map(|kind| &kind[..9])), (200, Some("text/html")));
    let list = wait::until("the stream is on the list", Duration::from_secs(10), || {
        Some(ask(port, "GET", "/tv/live.json", &[]).text()).filter(|text| text.contains("cam"))
    });
    assert!(!list.contains("key"), "{list}");
    assert_eq!(get(port, "/tv/live/cam.flv").status, 200);
    assert_eq!(ask(port, "GET", "/tv/nothing", &[]).status, 404);
    assert_eq!(ask(port, "GET", "/live.json", &[]).status, 404, "and nowhere else");
}

#[test]
fn what_livemill_does_not_do_is_never_a_file() {
    let server = site();
    for (target, status) in [("/elsewhere/x", 502), ("/guarded/x", 403), ("/ts", 501), ("/asked", 403)] {
        let reply = ask(server.other_port(1), "GET", target, &[]);
        assert_eq!(reply.status, status, "{target}");
        assert!(!reply.text().contains("never"), "{target}: {}", reply.text());
    }
    for name in ["proxy_pass", "auth_basic", "ts_live", "\"if\""] {
        assert!(server.log().contains(name), "a warning about {name}:\n{}", server.log());
    }
}

#[test]
fn a_viewer_is_logged_with_what_it_got() {
    let server = site();
    let mut stream = published(&server, "hls");
    stream.send_frames(0..30);
    let mut viewer = FlvViewer::watch(server.other_port(1), "/hls/cam.flv?key=0123456789abcdef");
    viewer.until("video", |tag| tag.kind == 9);
    drop(viewer);
    let log = server.dir().join("logs/http.log");
    let line = wait::until("the line of the viewer", Duration::from_secs(10), || {
        fs::read_to_string(&log).ok()?.lines().find(|line| line.contains("cam.flv")).map(str::to_owned)
    });
    assert!(line.contains("\"GET /hls/cam.flv?key=****cdef HTTP/1.1\" 200 "), "{line}");
    let sent = line.split("\" 200 ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(sent.is_some_and(|bytes| bytes > 100), "{line}");
}

#[test]
fn one_address_may_not_have_every_connection() {
    let server = TestServer::start_http(
        Kind::Livemill,
        "rtmp { max_connections_per_address 8; server { listen 127.0.0.1:@port@; application live { live on; } } }
         http { access_log off; server { listen 127.0.0.1:@port2@; return 200 in; } }",
    );
    let port = server.other_port(1);
    let held: Vec<_> = (0..8).map(|_| connect(port)).collect();
    wait::until("the ninth is sent away", Duration::from_secs(5), || {
        (ask(port, "GET", "/", &[]).status == 0).then_some(())
    });
    server.wait_for_log(&["max_connections_per_address"], Duration::from_secs(5));
    drop(held);
    wait::until("there is room again", Duration::from_secs(5), || {
        (ask(port, "GET", "/", &[]).status == 200).then_some(())
    });
}

#[test]
fn a_graceful_end_waits_for_viewers_and_takes_nobody_new() {
    let mut server = site();
    let mut stream = published(&server, "hls");
    stream.send_frames(0..30);
    let port = server.other_port(1);
    let mut viewer = FlvViewer::watch(port, "/hls/cam.flv");
    let idle = connect(port);
    server.signal(Signal::SIGQUIT);
    wait::until("the door is closed", Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
    });
    stream.send_frames(30..60);
    viewer.until("a frame sent after the signal", |tag| tag.kind == 9 && tag.time >= 40 * 30);
    drop(idle);
    drop(viewer);
    drop(stream);
    assert!(server.wait_for_exit(Duration::from_secs(15)).success());
}
