//! Hooks: what they are asked and told, held against the real nginx-rtmp, and what their answers and faults do.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::exchange::ask;
use common::hook_server::{HookServer, Request, answer, answer_with};
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame};
use common::server::{Kind, TestServer};
use common::wait;
use common::wire::Amf;
use nix::sys::signal::Signal;

/// What a test asks of both servers in the same words.
fn conversation(kind: Kind, method: &str) -> Vec<Request> {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let url = hooks.url("");
    let server = TestServer::start_http(
        kind,
        &format!(
            "rtmp {{ access_log off; on_connect {url}/connect; on_disconnect {url}/disconnect; notify_method {method};
               server {{ listen @port@; application live {{ live on; on_publish {url}/publish; on_play {url}/play;
                 on_publish_done {url}/publish_done; on_play_done {url}/play_done; on_done {url}/done;
                 on_update {url}/update; notify_update_timeout 1s; }} }} }}"
        ),
    );
    // nginx keeps 32 bytes of a flashVer, and 128 of the others.
    let odd = "\u{1}!\"#$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~\u{7f}\u{e9}";
    let mut publisher = RtmpPeer::shaken(server.port());
    let answer = publisher.request_connect(
        "live?a=b&c=%20d",
        &[
            ("swfUrl", odd.into()),
            ("tcUrl", "rtmp://127.0.0.1/live?a=b&c=%20d".into()),
            ("pageUrl", "http://page/x y".into()),
        ],
    );
    assert_eq!(answer[0].as_str(), Some("_result"), "{answer:?}");
    let msid = publisher.create_stream();
    publisher.command(msid, "publish", &[Amf::Null, "cam?key=1&name=x%2f".into(), "live".into()]);
    assert_eq!(publisher.expect_status(msid), "NetStream.Publish.Start");
    publisher.send_video(msid, 40, AVC_CONFIG);
    publisher.send_video(msid, 80, &avc_frame(true, 1, 20));
    hooks.wait_for("update_publish");
    let (mut player, stream) = RtmpPeer::play(server.port(), "live", "cam");
    assert!(player.expect_status(stream).starts_with("NetStream.Play."));
    publisher.send_video(msid, 120, &avc_frame(true, 2, 20));
    assert!(player.sees_keyframe(Duration::from_secs(5)));
    hooks.wait_for("update_play");
    player.command(0, "deleteStream", &[Amf::Null, Amf::Number(stream.into())]);
    hooks.wait_for("done");
    drop(player);
    hooks.wait_for("disconnect");
    drop(publisher);
    hooks.wait_for("publish_done");
    wait::until("all is told", Duration::from_secs(5), || {
        let calls = hooks.calls();
        let count = |wanted: &str| calls.iter().filter(|call| *call == wanted).count();
        (count("done") == 2 && count("disconnect") >= 2).then_some(())
    });
    hooks.requests()
}

/// What must be the same in each request: where to, and the arguments in their order. Numbers of sessions and clocks are not.
fn comparable(requests: &[Request]) -> Vec<String> {
    let mut lines: Vec<String> = requests
        .iter()
        .map(|request| {
            let args = request.args().into_iter().map(|(name, value)| match name.as_str() {
                "clientid" | "epoch" => format!("{name}=N"),
                // An address has one form here.
                _ if request.method == "GET" => format!("{name}={}", value.replace("%27", "'")),
                _ => format!("{name}={value}"),
            });
            let path = request.target.split('?').next().unwrap_or_default().to_owned();
            format!("{} {path} {}", request.method, args.collect::<Vec<_>>().join("&"))
        })
        .collect();
    // Those of the two sessions come side by side, and an update more or less is a matter of a second.
    lines.sort();
    lines.dedup();
    lines.retain(|line| !line.contains("&time=") || line.contains("&time=1&"));
    // nginx tells of connections that never said a word, too.
    lines.retain(|line| !line.contains(" app=&"));
    lines
}

#[test]
fn every_event_is_told_in_the_words_of_nginx() {
    for method in ["post", "get"] {
        let [ours, nginxs] = [Kind::Livemill, Kind::Nginx].map(|kind| comparable(&conversation(kind, method)));
        assert_eq!(ours, nginxs, "{method}");
    }
}

/// livemill with these lines in the application `live`, and `@hook@` for the address of the hooks.
fn server(hooks: &HookServer, lines: &str) -> TestServer {
    server_that_waits("1s", hooks, lines)
}

fn server_that_waits(timeout: &str, hooks: &HookServer, lines: &str) -> TestServer {
    let lines = lines.replace("@hook@", &hooks.url(""));
    TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ access_log off; netcall_timeout {timeout}; server {{ listen @port@; application live {{ live on; {lines} }}
               application open {{ live on; }} }} }} http {{ access_log off; server {{ listen @port2@; location / {{ player on; }} }} }}"
        ),
    )
}

/// Tries to publish: the status, and the session where it was let in.
fn try_publish(server: &TestServer, name: &str) -> (String, RtmpPeer, u32) {
    let mut peer = RtmpPeer::connect(server.port(), "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
    let status = peer.expect_status(msid);
    (status, peer, msid)
}

fn send_some(peer: &mut RtmpPeer, msid: u32) {
    peer.send_video(msid, 0, AVC_CONFIG);
    for number in 0..5 {
        peer.send_video(msid, number * 40, &avc_frame(true, number, 20));
    }
}

fn sees(server: &TestServer, name: &str) -> bool {
    RtmpPeer::play(server.port(), "live", name).0.sees_keyframe(Duration::from_secs(5))
}

const LET_IN: &str = "NetStream.Publish.Start";
const DENIED: &str = "NetStream.Publish.Denied";

#[test]
fn a_status_means_what_it_means_to_nginx() {
    // The name of the stream is the status that its hook answers.
    let hooks = HookServer::start(|request| match request.arg("name").as_str() {
        "302n" => answer("302 Found"),
        status => answer(status),
    });
    let server = server(&hooks, "on_publish @hook@/publish; on_play @hook@/play; on_done @hook@/done;");
    for (status, expected) in [
        ("200", LET_IN),
        ("204", LET_IN),
        ("299", LET_IN),
        ("302n", LET_IN),
        ("304", LET_IN),
        ("400", DENIED),
        ("500", DENIED),
    ] {
        let (said, ..) = try_publish(&server, status);
        assert_eq!(said, expected, "publish {status}");
    }
    let (mut player, msid) = RtmpPeer::play(server.port(), "live", "403");
    assert_eq!(player.expect_status(msid), "NetStream.Play.Failed");
    wait::until("those who were let in are told of", Duration::from_secs(5), || {
        (hooks.calls().iter().filter(|call| *call == "done").count() == 5).then_some(())
    });
}

#[test]
fn who_may_not_connect_is_told_so() {
    let hooks = HookServer::start(|request| match request.arg("a").as_str() {
        "other" => answer_with("302 Found", "Location: live\r\n"),
        "go" => answer("200 OK"),
        _ => answer("403 No"),
    });
    let url = hooks.url("");
    let server = TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ access_log off; server {{ listen @port@; on_connect {url}/c; on_disconnect {url}/d;
               application live {{ live on; }} }} }}"
        ),
    );
    for (app, code) in [
        ("live?a=go", "NetConnection.Connect.Success"),
        ("live?a=no", "NetConnection.Connect.Rejected"),
        ("nowhere?a=go", "NetConnection.Connect.InvalidApp"),
        ("nowhere?a=other", "NetConnection.Connect.Success"),
    ] {
        let answer = RtmpPeer::shaken(server.port()).request_connect(app, &[]);
        assert_eq!(answer[3].property("code").and_then(Amf::as_str), Some(code), "{app}");
    }
    wait::until("both are told of", Duration::from_secs(5), || {
        (hooks.calls().iter().filter(|call| *call == "disconnect").count() == 2).then_some(())
    });
    assert!(hooks.requests().iter().filter(|r| r.call() == "disconnect").all(|r| r.arg("app") == "live"));
}

#[test]
fn a_publisher_goes_where_its_hook_sends_it() {
    let hooks = HookServer::start(|request| match request.call().as_str() {
        "publish" => answer_with("302 Found", "Location: inner\r\n"),
        _ => answer("200 OK"),
    });
    let server = server(&hooks, "on_publish @hook@/; on_publish_done @hook@/; on_done @hook@/;");
    let (said, mut peer, msid) = try_publish(&server, "secret?x=y");
    assert_eq!(said, LET_IN);
    send_some(&mut peer, msid);
    assert!(sees(&server, "inner"));
    drop(peer);
    let of_publisher = || hooks.requests().into_iter().filter(|request| request.arg("x") == "y").collect::<Vec<_>>();
    wait::until("its end is told", Duration::from_secs(5), || (of_publisher().len() == 3).then_some(()));
    let told: Vec<_> = of_publisher().iter().map(|request| (request.call(), request.arg("name"))).collect();
    assert_eq!(told, ["publish", "publish_done", "done"].map(|call| (call.to_owned(), "secret".to_owned())));
}

#[test]
fn a_hook_sends_publishers_and_players_on_to_another_server() {
    let other = TestServer::start_nginx("rtmp { server { listen @port@; application away { live on; } } }");
    let away = format!("rtmp://127.0.0.1:{}/away/copy", other.port());
    let hooks = HookServer::start({
        let away = away.clone();
        move |_| answer_with("302 Found", &format!("Location: {away}\r\n"))
    });
    let server = server(&hooks, "idle_streams off; on_publish @hook@/; on_play @hook@/;");
    let (said, mut peer, msid) = try_publish(&server, "cam");
    assert_eq!(said, LET_IN);
    let mut number = 0;
    let mut send = || {
        peer.send_video(
            msid,
            number * 40,
            if number == 0 { AVC_CONFIG.to_vec() } else { avc_frame(true, number, 20) }.as_slice(),
        );
        number += 1;
    };
    let (mut far, _) = RtmpPeer::play(other.port(), "away", "copy");
    wait::until("it is pushed", Duration::from_secs(10), || {
        send();
        far.sees_keyframe(Duration::from_millis(50)).then_some(())
    });
    let (mut near, _) = RtmpPeer::play(server.port(), "live", "elsewhere");
    wait::until("it is pulled", Duration::from_secs(10), || {
        send();
        near.sees_keyframe(Duration::from_millis(50)).then_some(())
    });
}

type Misdeed = fn(&mut TcpStream);

fn drip(stream: &mut TcpStream, text: &str) {
    for byte in text.bytes() {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        thread::sleep(Duration::from_secs(1));
    }
}

/// Sends on until the other side has had enough.
fn flood(stream: &mut TcpStream, piece: &[u8]) {
    while stream.write_all(piece).is_ok() {}
}

#[test]
fn twelve_bad_endpoints_cost_a_publisher_its_place_and_nobody_else_anything() {
    let misdeeds: [(&str, Misdeed, &str); 11] = [
        ("never", |_| thread::sleep(Duration::from_secs(6)), DENIED),
        ("drips", |stream| drip(stream, "HTTP/1.1 200 OK\r\n"), DENIED),
        (
            "huge",
            |stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n");
                flood(stream, &[0; 65536]);
            },
            LET_IN,
        ),
        (
            "headers",
            |stream| {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
                flood(stream, &[b'x'; 65536]);
            },
            DENIED,
        ),
        ("closes", |_| {}, DENIED),
        ("garbage", |stream| drop(stream.write_all(b"\x16\x03\x01 what?\r\n\r\n")), DENIED),
        ("short", |stream| drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx")), LET_IN),
        ("continues", |stream| flood(stream, b"HTTP/1.1 100 Continue\r\n\r\n"), DENIED),
        ("nothing", |stream| drop(stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")), LET_IN),
        ("unchanged", |stream| drop(stream.write_all(b"HTTP/1.0 304 Not Modified\r\n\r\n")), LET_IN),
        (
            "circle",
            |stream| drop(stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: a b\x01c\r\nContent-Length: 0\r\n\r\n")),
            DENIED,
        ),
    ];
    let hooks = HookServer::start_raw(move |request, stream| {
        let name = request.arg("name");
        if let Some((_, act, _)) = misdeeds.iter().find(|(known, ..)| *known == name) {
            act(stream);
        }
        false
    });
    // Three of them flood: those that answer well must get their turn on a busy machine too.
    let server = Arc::new(server_that_waits("4s", &hooks, "on_publish @hook@/;"));
    let tries = misdeeds.map(|(name, _, expected)| {
        let server = Arc::clone(&server);
        thread::spawn(move || {
            let began = Instant::now();
            let (said, ..) = try_publish(&server, name);
            (name, said, expected, began.elapsed())
        })
    });
    for tried in tries {
        let (name, said, expected, took) = tried.join().expect("it got an answer");
        assert_eq!(said, expected, "{name}");
        assert!(took < Duration::from_secs(8), "{name} took {took:?}");
    }
    assert!(server.anonymous_kib() < 100_000, "nothing of it is kept: {} KiB", server.anonymous_kib());
}

#[test]
fn a_certificate_nobody_knows_is_no_answer() {
    // It speaks no TLS at all, or with a certificate of its own: both are refused before a word is said.
    let hooks = HookServer::start(|_| answer("200 OK"));
    let lines = format!("on_publish https://127.0.0.1:{}/;", hooks.port());
    let server = server(&hooks, &lines);
    assert_eq!(try_publish(&server, "cam").0, DENIED);
    assert!(hooks.requests().is_empty());
}

#[test]
fn a_publisher_denied_late_was_seen_by_nobody_and_left_no_file() {
    let hooks = HookServer::start(|_| {
        thread::sleep(Duration::from_secs(2));
        answer("403 No")
    });
    let url = hooks.url("");
    let server = TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ access_log off; server {{ listen @port@; application live {{ live on; on_publish {url}/;
               hls on; hls_path @dir@/hls; hls_fragment 100ms; }} }} }}"
        ),
    );
    let (mut player, _) = RtmpPeer::play(server.port(), "live", "cam");
    let mut peer = RtmpPeer::connect(server.port(), "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, "cam".into(), "live".into()]);
    peer.send_video(msid, 0, AVC_CONFIG);
    for number in 0..30 {
        peer.send_video(msid, number * 40, &avc_frame(true, number, 1000));
    }
    assert_eq!(peer.expect_status(msid), DENIED);
    assert!(!player.sees_keyframe(Duration::from_millis(500)));
    assert!(!server.dir().join("hls").exists());
}

#[test]
fn an_update_that_is_refused_ends_the_session() {
    for (strict, status, ends) in
        [("off", "403", true), ("off", "302", false), ("on", "302", true), ("on", "200", false)]
    {
        let hooks = HookServer::start(move |_| answer(status));
        let lines =
            format!("on_update @hook@/; on_done @hook@/; notify_update_timeout 200ms; notify_update_strict {strict};");
        let server = server(&hooks, &lines);
        let (_, mut peer, msid) = try_publish(&server, "cam");
        hooks.wait_for("update_publish");
        if ends {
            assert_eq!(peer.expect_status(msid), DENIED, "{strict} {status}");
            hooks.wait_for("done");
        } else {
            wait::until("it is asked again", Duration::from_secs(5), || (hooks.calls().len() >= 3).then_some(()));
            assert!(!hooks.calls().contains(&"done".to_owned()));
        }
    }
}

#[test]
fn connections_that_are_kept_serve_many_calls_without_a_stall() {
    let hooks = HookServer::start_raw(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok").is_ok()
    });
    let server = server(&hooks, "on_publish @hook@/; on_play @hook@/;");
    let began = Instant::now();
    let peers: Vec<_> = (0..10).map(|number| try_publish(&server, &format!("cam{number}"))).collect();
    assert!(peers.iter().all(|(said, ..)| said == LET_IN));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(hooks.connections() < 8, "{} connections", hooks.connections());
}

#[test]
fn what_is_over_is_told_at_the_end_of_the_process() {
    let hooks = HookServer::start(|_| {
        thread::sleep(Duration::from_millis(300));
        answer("200 OK")
    });
    let mut server = server(&hooks, "on_publish_done @hook@/; on_play_done @hook@/; on_done @hook@/;");
    let (_, _peer, _) = try_publish(&server, "cam");
    let (mut player, msid) = RtmpPeer::play(server.port(), "live", "cam");
    player.expect_status(msid);
    server.wait_for_players("cam", 1);
    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_exit(Duration::from_secs(10)).success());
    let mut calls = hooks.calls();
    calls.sort();
    assert_eq!(calls, ["done", "done", "play_done", "publish_done"]);
}

#[test]
fn what_an_endpoint_missed_is_told_when_it_is_back() {
    let port = HookServer::start(|_| answer("200 OK")).port();
    let nobody = HookServer::start(|_| answer("200 OK"));
    let server = server(&nobody, &format!("on_done http://127.0.0.1:{port}/;"));
    for name in ["one", "two"] {
        drop(try_publish(&server, name));
    }
    server.wait_for_log(&["notify: not heard"], Duration::from_secs(5));
    let failures = AtomicU32::new(0);
    let hooks = HookServer::start_at(port, move |_| match failures.fetch_add(1, Ordering::Relaxed) {
        0 => answer("503 Soon"),
        _ => answer("200 OK"),
    });
    wait::until("all is heard", Duration::from_secs(15), || (hooks.requests().len() >= 3).then_some(()));
    let mut names: Vec<String> = hooks.requests().iter().skip(1).map(|request| request.arg("name")).collect();
    names.sort();
    assert_eq!(names, ["one", "two"], "each once, but for the one that was told to come again");
}

#[test]
fn a_crowd_at_a_slow_hook_slows_nobody_else() {
    let hooks = HookServer::start(|_| {
        thread::sleep(Duration::from_millis(500));
        answer("403 No")
    });
    let server = server(&hooks, "on_publish @hook@/;");
    let mut publisher = RtmpPeer::connect(server.port(), "open");
    let msid = publisher.create_stream();
    publisher.command(msid, "publish", &[Amf::Null, "healthy".into(), "live".into()]);
    assert_eq!(publisher.expect_status(msid), LET_IN);
    publisher.send_video(msid, 0, AVC_CONFIG);
    let (mut player, _) = RtmpPeer::play(server.port(), "open", "healthy");
    let crowd: Vec<RtmpPeer> = (0..CROWD)
        .map(|number| {
            let mut peer = RtmpPeer::connect(server.port(), "live");
            let msid = peer.create_stream();
            peer.command(msid, "publish", &[Amf::Null, format!("cam{number}").as_str().into(), "live".into()]);
            peer
        })
        .collect();
    for number in 1..25 {
        let sent = Instant::now();
        publisher.send_video(msid, number * 40, &avc_frame(true, number, 20));
        assert!(player.sees_keyframe(Duration::from_secs(2)), "frame {number}");
        assert!(sent.elapsed() < Duration::from_secs(1), "frame {number} took {:?}", sent.elapsed());
    }
    assert!(hooks.connections() <= CROWD);
    drop(crowd);
}

/// A debug build and its client share two cores.
const CROWD: usize = 300;

#[test]
fn viewers_over_http_are_asked_about() {
    let hooks = HookServer::start(|request| match request.arg("key").as_str() {
        "good" => answer("200 OK"),
        _ if request.call().ends_with("done") => answer("200 OK"),
        _ => answer("403 No"),
    });
    let server = server(&hooks, "on_play @hook@/; on_play_done @hook@/; http_viewer_timeout 2s;");
    let (_, mut peer, msid) = try_publish(&server, "cam");
    peer.send_video(msid, 0, AVC_CONFIG);
    let is_over = Arc::new(Mutex::new(false));
    let sending = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            for number in 0.. {
                if *is_over.lock().expect("nobody panics") {
                    return;
                }
                peer.send_video(msid, number * 40, &avc_frame(number % 25 == 0, number, 200));
                thread::sleep(Duration::from_millis(40));
            }
        }
    });
    let port = server.other_port(1);
    assert_eq!(ask(port, "GET", "/live/cam.flv?key=bad", &[]).status, 403);
    assert_eq!(ask(port, "GET", "/live/cam/index.m3u8?key=bad", &[]).status, 403);
    assert_eq!(ask(port, "GET", "/live/cam/manifest.mpd?key=bad", &[]).status, 403);
    let denied = hooks.requests().len();
    assert_eq!(denied, 3);
    let play = &hooks.requests()[0];
    assert_eq!(play.arg("flashver"), "flv_live%201.1");
    assert_eq!((play.call(), play.arg("name")), ("play".to_owned(), "cam".to_owned()));
    let index = ask(port, "GET", "/live/cam/index.m3u8?key=good", &[]);
    assert_eq!(index.status, 200, "{}", index.text());
    let playlist = index.text().lines().find(|line| line.contains(".m3u8?")).expect("a playlist").to_owned();
    for _ in 0..5 {
        assert_eq!(ask(port, "GET", &format!("/live/cam/{playlist}"), &[]).status, 200);
    }
    assert_eq!(hooks.requests().len(), denied + 1, "each is asked about once");
    let done = hooks.wait_for("play_done");
    assert_eq!(done.arg("name"), "cam");
    *is_over.lock().expect("nobody panics") = true;
    sending.join().expect("it sent");
}

#[test]
fn calls_can_be_json_and_signed() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let server = server(&hooks, "on_publish @hook@/p?q=1; notify_format json; hook_secret s3cret;");
    assert_eq!(try_publish(&server, "cam?name=x").0, LET_IN);
    let request = hooks.requests().remove(0);
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/p?q=1"));
    let body: serde_json::Value = serde_json::from_str(&request.body).expect("it is JSON");
    assert_eq!((body["name"].as_str(), body["args"].as_str()), (Some("cam"), Some("name=x")));
    let timestamp = request.header("X-Livemill-Timestamp").expect("it is there");
    let signed = format!("{timestamp}.POST./p?q=1.{}", request.body);
    let output = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" | openssl dgst -sha256 -hmac s3cret -r", "sh", &signed])
        .output()
        .expect("openssl runs");
    let digest = String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    assert_eq!(request.header("X-Livemill-Signature"), Some(format!("sha256={digest}").as_str()));
}

#[test]
fn playlists_on_disk_are_told_of() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let server = server(&hooks, "on_playlist @hook@/; hls on; hls_path @dir@/hls; hls_fragment 100ms;");
    let (_, mut peer, msid) = try_publish(&server, "cam");
    peer.send_video(msid, 0, AVC_CONFIG);
    let mut number = 0;
    let told = wait::until("a playlist is told of", Duration::from_secs(10), || {
        number += 1;
        peer.send_video(msid, number * 40, &avc_frame(true, number, 200));
        hooks.requests().pop()
    });
    assert_eq!(told.call(), "playlist");
    let path = told.arg("path");
    assert!(path.ends_with("/hls/cam.m3u8") && std::path::Path::new(&path).exists(), "{path}");
    assert_eq!(told.arg("name"), "cam");
}
