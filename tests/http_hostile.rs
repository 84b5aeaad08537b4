//! What peers must not get away with over HTTP, each beside a healthy RTMP stream that must not notice.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::exchange::{Reply, ask, raw, replies, until_closed};
use common::health::{unharmed, unharmed_once_more};
use common::http::connect;
use common::server::{Kind, TestServer};
use common::wait;

/// Files at `/`, the player at `/tv/`, and streams beside the files.
fn server() -> TestServer {
    let server = TestServer::start_http(
        Kind::Livemill,
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }
         http { access_log off; client_header_timeout 2s; keepalive_timeout 4s;
           server { listen 127.0.0.1:@port2@; root @dir@/www; location /tv { player on; } location /list/ { autoindex on; } } }",
    );
    let www = server.dir().join("www");
    fs::create_dir_all(www.join("list/live")).expect("a folder in the temporary directory");
    for (name, contents) in [("a.txt", "0123456789"), ("list/b.m3u8", "#EXTM3U\n"), ("list/b.m3u8.bak", "old")] {
        fs::write(www.join(name), contents).expect("a file in the temporary directory");
    }
    fs::write(server.dir().join("secret"), "secret").expect("a file in the temporary directory");
    server
}

fn http(server: &TestServer) -> u16 {
    server.other_port(1)
}

const GET: &str = "GET /a.txt HTTP/1.1\r\nHost: localhost\r\n";

/// Sends bytes; the server must refuse the first request with one of these, and close.
#[track_caller]
fn refused(server: &TestServer, request: &str, statuses: &[u16]) {
    let answer = raw(http(server), request.as_bytes());
    let replies = replies(&answer, &["GET"; 8]);
    let shown: String = request.chars().take(120).collect();
    assert_eq!(replies.len(), 1, "one answer, and no second request in what was left: {shown:?}: {replies:?}");
    assert!(statuses.contains(&replies[0].status), "{shown:?}: {}", replies[0].status);
}

#[test]
fn a_head_that_does_not_end_is_waited_for_only_so_long() {
    let mut server = server();
    unharmed(&mut server, |server| {
        for begun in ["", "GET", GET, "GET /a.txt HTTP/1.1\r\nHost: localhost\r\nX: "] {
            let time = until_closed(http(server), begun.as_bytes());
            assert!(time < Duration::from_secs(6), "{begun:?} held its connection for {time:?}");
        }
        // The same behind a good request, byte by byte.
        let mut socket = connect(http(server));
        socket.write_all(format!("{GET}\r\n").as_bytes()).expect("a request");
        let began = Instant::now();
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket option");
        let closed = wait::within(Duration::from_secs(10), || {
            let mut buffer = [0; 4096];
            match socket.read(&mut buffer) {
                Ok(0) => return Some(()),
                Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Some(()),
                _ => {}
            }
            socket.write_all(b"G").is_err().then_some(())
        });
        assert!(closed.is_some(), "a request in drops holds its connection for {:?}", began.elapsed());
    });
}

#[test]
fn three_hundred_unfinished_heads_keep_nobody_out() {
    let mut server = server();
    unharmed_once_more(&mut server, |server| {
        let mut held: Vec<TcpStream> = (0..300).map(|_| connect(http(server))).collect();
        for socket in &mut held {
            let _ = socket.write_all(GET.as_bytes());
        }
        assert_eq!(ask(http(server), "GET", "/a.txt", &[]).status, 200);
    });
}

#[test]
fn heads_are_bounded() {
    let mut server = server();
    unharmed_once_more(&mut server, |server| {
        let many: String = (0..100).map(|at| format!("X-{at}: a\r\n")).collect();
        refused(server, &format!("{GET}{many}\r\n"), &[400, 431]);
        refused(server, &format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(9000)), &[414]);
        let answer = raw(http(server), format!("{GET}X: {}\r\n\r\n", "a".repeat(1_000_000)).as_bytes());
        assert!(replies(&answer, &["GET"]).iter().all(|reply| [400, 431].contains(&reply.status)));
    });
}

#[test]
fn requests_that_come_all_at_once_are_answered_in_order() {
    let mut server = server();
    unharmed_once_more(&mut server, |server| {
        let mut socket = connect(http(server));
        let mut writer = socket.try_clone().expect("a second handle");
        let count = 10_000;
        let writing = std::thread::spawn(move || {
            let _ = writer.write_all(format!("{GET}\r\n").repeat(count - 1).as_bytes());
            let _ = writer.write_all(format!("{GET}Connection: close\r\n\r\n").as_bytes());
        });
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes);
        writing.join().expect("the writer met no panic");
        let replies = replies(&bytes, &[]);
        assert_eq!(replies.len(), count);
        assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == b"0123456789"));
    });
}

#[test]
fn a_body_is_not_the_next_request() {
    let mut server = server();
    unharmed(&mut server, |server| {
        let next = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let body = format!("{GET}Content-Length: {}\r\nConnection: close\r\n\r\n{next}", next.len());
        let answers = replies(&raw(http(server), body.as_bytes()), &["GET"; 8]);
        assert_eq!(answers.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200]);
        for head in [
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            "Content-Length: +5\r\n\r\nhello",
            "Content-Length: 5, 5\r\n\r\nhello",
            "Content-Length: 0x5\r\n\r\nhello",
            "Content-Length: 99999999999999999999999\r\n\r\nhello",
            "Transfer-Encoding: chunked , x\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "X: a\r\n b: c\r\n\r\n",
            " X: a\r\n\r\n",
            "X\r\n\r\n",
            "X\0: a\r\n\r\n",
            "Host: other\r\n\r\n",
        ] {
            refused(server, &format!("{GET}{head}{next}"), &[400]);
        }
        refused(server, &format!("GET /a.txt HTTP/1.1\r\n\r\n{next}"), &[400]);
        refused(server, &format!("GET /a.txt HTTP/1.1\r\nHost: a b\r\n\r\n{next}"), &[400]);
        refused(server, &format!("GET /a.txt HTTP/9.9\r\nHost: localhost\r\n\r\n{next}"), &[400, 505]);
        refused(server, &format!("GET /a.txt\r\nHost: localhost\r\n\r\n{next}"), &[400]);
    });
}

#[test]
fn an_address_with_a_host_in_it_means_that_host() {
    let server = TestServer::start_http(
        Kind::Livemill,
        "http { access_log off; server { listen 127.0.0.1:@port@; return 200 first; }
           server { listen 127.0.0.1:@port@; server_name other; return 200 other; } }",
    );
    let reply = ask(server.port(), "GET", "http://other/a.txt", &[("Host", "localhost")]);
    assert_eq!((reply.status, reply.text().as_str()), (200, "other"));
}

#[test]
fn http2_is_not_spoken_where_nobody_asked_for_it() {
    let mut server = server();
    unharmed(&mut server, |server| {
        refused(server, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400]);
        let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
        let answer = raw(http(server), format!("{GET}{upgrade}").as_bytes());
        assert_eq!(replies(&answer, &["GET"])[0].status, 200, "the request is answered as it is");
        refused(server, "\x16\x03\x01\x02\x00\x01\x00", &[400]);
    });
}

#[test]
fn ranges_lead_nowhere_but_into_the_file() {
    let mut server = server();
    unharmed(&mut server, |server| {
        let many = format!("bytes={}", vec!["0-0"; 1000].join(","));
        let overlapping = format!("bytes={}", ["0-9"; 8].join(","));
        for (range, status) in [
            ("bytes=0-", 206),
            ("bytes=-0", 416),
            ("bytes=-1", 206),
            ("bytes=5-2", 416),
            ("bytes=18446744073709551616-", 416),
            ("bytes=0-18446744073709551615", 416),
            ("bytes=9223372036854775807-9223372036854775807", 416),
            ("bytes=-9223372036854775807", 206),
            ("bytes=", 200),
            ("bytes=,", 416),
            ("bytes=0-0,-1", 206),
            (many.as_str(), 200),
            (overlapping.as_str(), 200),
            ("", 200),
            ("bytes", 200),
        ] {
            let reply = ask(http(server), "GET", "/a.txt", &[("Range", range)]);
            let shown: String = range.chars().take(40).collect();
            assert_eq!(reply.status, status, "{shown}");
            assert!(reply.status == 416 || reply.body.len() < 600, "{shown}: {} bytes", reply.body.len());
        }
    });
}

#[test]
fn dates_that_are_none_are_no_conditions() {
    let mut server = server();
    let old = fs::File::open(server.dir().join("www/a.txt")).expect("our own file");
    old.set_modified(UNIX_EPOCH - Duration::from_secs(86_400 * 365 * 20)).expect("our own file takes a time");
    unharmed(&mut server, |server| {
        for date in
            ["", "nonsense", "Sun, 99 Foo 9999 99:99:99 GMT", "-1", "Mon, 01 Jan 0000 00:00:00 GMT", &"9".repeat(4000)]
        {
            let reply = ask(http(server), "GET", "/a.txt", &[("If-Modified-Since", date)]);
            assert_eq!(reply.status, 200, "{date}");
            let reply = ask(http(server), "GET", "/a.txt", &[("If-Range", date), ("Range", "bytes=0-0")]);
            assert_eq!(reply.status, 200, "{date}");
        }
        let tags = ["\"x\""; 1000].join(",");
        assert_eq!(ask(http(server), "GET", "/a.txt", &[("If-None-Match", &tags)]).status, 200);
    });
}

#[test]
fn nothing_outside_the_root_is_served_and_no_name_is_guessed() {
    let mut server = server();
    let www = server.dir().join("www");
    std::os::unix::fs::symlink(server.dir().join("secret"), www.join("link")).expect("a link");
    std::os::unix::fs::symlink(server.dir(), www.join("way")).expect("a link");
    nix::unistd::mkfifo(&www.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::os::unix::fs::symlink("/dev/zero", www.join("zero")).expect("a link");
    unharmed(&mut server, |server| {
        for target in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/%2e%2e%2fsecret",
            "/list/../../secret",
            "/list/%2e%2e/%2e%2e/secret",
            "/..%5csecret",
            "/....//secret",
            "/%252e%252e/secret",
            "/link",
            "/way/secret",
            "/way/",
            "/pipe",
            "/zero",
            "//etc/passwd",
            "/a.txt%00.html",
            "/a.txt%0a",
            "/tv/../secret",
            "/tv/live/../../secret",
            "/tv/live/%2e%2e/%2e%2e/secret.flv",
            "/live/nothing/seg-1.m4s",
            "/live/nothing/index.m3u8.bak",
            "/live/nothing/",
            "/live/../../secret.ts",
            "/tv/live/",
            "/list/live/x.flv/",
            "/tv/live/x.m3u8/..",
            "/tv/live/a%2fb.flv%00",
        ] {
            let reply = ask(http(server), "GET", target, &[]);
            assert!([400, 403, 404].contains(&reply.status), "{target}: {}", reply.status);
            assert!(!reply.text().contains("secret"), "{target}: {}", reply.text());
        }
        assert_eq!(ask(http(server), "GET", "/list/", &[]).status, 200, "a list is there where somebody asked for one");
        assert_eq!(ask(http(server), "GET", "/", &[]).status, 403, "and nowhere else");
    });
}

#[test]
fn methods_do_what_they_may() {
    let mut server = server();
    unharmed(&mut server, |server| {
        let ask = |method: &str, target: &str, headers: &[(&str, &str)]| -> Reply {
            ask(http(server), method, target, headers)
        };
        for (method, target, status) in [
            ("HEAD", "/a.txt", 200),
            ("HEAD", "/none", 404),
            ("OPTIONS", "/tv/", 204),
            ("POST", "/tv/", 405),
            ("PUT", "/a.txt", 405),
            ("DELETE", "/a.txt", 405),
            ("TRACE", "/a.txt", 405),
            ("TRACE", "/tv/", 405),
            ("BREW", "/a.txt", 405),
            ("BREW", "/tv/live/x.flv", 405),
            ("POST", "/tv/live/x.flv", 405),
        ] {
            assert_eq!(ask(method, target, &[]).status, status, "{method} {target}");
        }
        let head = ask("HEAD", "/a.txt", &[]);
        assert_eq!((head.header("content-length"), head.body.len()), (Some("10"), 0));
        assert_eq!(ask("GET", "/a.txt", &[("Expect", "a miracle")]).status, 417);
        assert_eq!(ask("POST", "/a.txt", &[("Content-Length", "99999999999")]).status, 413);
        // A body that nobody waits for: it is refused before it comes.
        let answer = raw(http(server), b"POST /a.txt HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n");
        let statuses: Vec<u16> = replies(&answer, &["POST"; 2]).iter().map(|reply| reply.status).collect();
        assert!(statuses.ends_with(&[405]), "{statuses:?}");
    });
}
