//! livemill's own API and its metrics, as scripts, dashboards and strangers call them.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::api::{Caller, ask, ask_socket, request};
use common::far_end::FarEnd;
use common::live_source::LiveSource;
use common::peer::RtmpPeer;
use common::server::{Kind, TestServer, free_ports};
use common::stream::{Publishing, answer_to, playing};
use common::wait;
use serde_json::{Value, json};

const LIVE: &str =
    "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } application other { live on; } } }";

fn start() -> (TestServer, Caller) {
    let server = TestServer::start_with_api(LIVE);
    let caller = Caller::of(&server);
    (server, caller)
}

/// The list at this path, once it holds so many.
#[track_caller]
fn items(caller: &Caller, path: &str, count: usize) -> Vec<Value> {
    wait::until(&format!("{count} at {path}"), SOON, || {
        Some(caller.get(path).items()).filter(|items| items.len() == count)
    })
}

fn texts<'a>(items: &'a [Value], field: &str) -> Vec<&'a str> {
    items.iter().map(|item| item[field].as_str().unwrap_or_else(|| panic!("{field} in {item}"))).collect()
}

// --- sight ----------------------------------------------------------------------------------------------------------------------

#[test]
fn a_stream_and_its_clients_are_described_as_they_are() {
    let (server, caller) = start();
    let _source = LiveSource::publish(server.port(), "live", "one");
    let (_player, _) = playing(server.port(), "live", "one");
    let stream = wait::until("it has been measured", Duration::from_secs(10), || {
        let stream = caller.get("/api/v1/streams/live/one");
        Some(stream.json()).filter(|stream| stream["fps"].as_f64() > Some(20.0) && stream["players"] == 1)
    });
    assert_eq!(stream["video"]["codec"], "H264", "{stream}");
    assert_eq!(stream["players_by_protocol"], json!({"rtmp": 1}));
    assert_eq!(
        (&stream["gop_frames"], &stream["publishing"], &stream["server"]),
        (&json!(10), &json!(true), &json!("default"))
    );
    assert!(stream["bits_in"].as_u64() > Some(50_000) && stream["bytes_in"].as_u64() > Some(1000), "{stream}");

    let clients = items(&caller, "/api/v1/clients?name=one", 2);
    assert!(clients[0]["id"].as_u64() > clients[1]["id"].as_u64(), "the newest first");
    let player = clients.iter().find(|client| client["role"] == "player").expect("one plays");
    assert_eq!(
        (&player["protocol"], &player["app"], &player["behind_ms"]),
        (&json!("rtmp"), &json!("live"), &json!(0))
    );
    assert!(player["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{player}");
    assert!(player["kernel"]["window_bytes"].as_u64() > Some(0) && player["first_frame_ms"].is_u64(), "{player}");
    let one = caller.get(&format!("/api/v1/clients/{}", player["id"]));
    assert_eq!((one.status, &one.json()["id"]), (200, &player["id"]));

    let server_now = caller.get("/api/v1/server").json();
    assert_eq!(
        (&server_now["streams"], &server_now["publishers"], &server_now["players"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!(server_now["pid"], server.pid());
    assert_eq!(server_now["arbiters"].as_array().map(Vec::len), Some(2));
    for path in ["/api/v1/hooks", "/api/v1/children", "/api/v1/bans", "/api/v1/relays"] {
        assert_eq!(caller.get(path).status, 200, "{path}");
    }
}

#[test]
fn lists_are_filtered_sorted_and_paged_while_streams_come_and_go() {
    let (server, caller) = start();
    let publish = |app: &str, name: &str| Publishing::start_at(server.port(), app, name);
    let mut held: Vec<_> = (0..5).map(|number| publish("live", &format!("s{number}"))).collect();
    held.push(publish("other", "deep/er"));
    let all = items(&caller, "/api/v1/streams", 6);
    assert_eq!(texts(&all, "name"), ["s0", "s1", "s2", "s3", "s4", "deep/er"]);
    for (path, expected) in [
        ("/api/v1/streams?sort=-name", &["deep/er", "s4", "s3", "s2", "s1", "s0"][..]),
        ("/api/v1/streams?app=other", &["deep/er"]),
        ("/api/v1/streams?name=s3", &["s3"]),
        ("/api/v1/streams?search=ep/", &["deep/er"]),
        ("/api/v1/streams?publishing=false", &[]),
        ("/api/v1/streams?publishing=true&app=live&limit=2", &["s0", "s1"]),
        ("/api/v1/clients?app=other", &["deep/er"]),
        ("/api/v1/clients?role=player", &[]),
        ("/api/v1/clients?protocol=rtmp&sort=-newest&limit=1", &["s0"]),
        ("/api/v1/clients?address=127.0.0.1&name=s2", &["s2"]),
        ("/api/v1/clients?address=::ffff:127.0.0.1&name=s2", &["s2"]),
        ("/api/v1/clients?address=192.0.2.1", &[]),
    ] {
        assert_eq!(texts(&caller.get(path).items(), "name"), expected, "{path}");
    }
    for path in ["/api/v1/streams/other/deep/er", "/api/v1/streams/other/deep%2Fer"] {
        assert_eq!(caller.get(path).json()["name"], "deep/er");
    }
    // By age, the oldest first; and page by page, though all of them grow older meanwhile.
    let mut path = "/api/v1/streams?sort=age&limit=1".to_owned();
    for expected in ["s0", "s1", "s2", "s3", "s4", "deep/er"] {
        let page = caller.get(&path);
        assert_eq!(texts(&page.items(), "name"), [expected]);
        path = format!("/api/v1/streams?sort=age&limit=1&cursor={}", page.json()["next"].as_str().unwrap_or_default());
    }
    let first = caller.get("/api/v1/streams?limit=2").json();
    assert_eq!(first["total"], 6);
    let next = first["next"].as_str().expect("there is more").to_owned();
    // The last of the page goes, and one comes in front of it.
    held.remove(1);
    let _early = publish("live", "a");
    items(&caller, "/api/v1/streams", 6);
    let second = caller.get(&format!("/api/v1/streams?limit=2&cursor={next}"));
    assert_eq!(texts(&second.items(), "name"), ["s2", "s3"]);
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let (server, caller) = start();
    let _source = LiveSource::publish(server.port(), "live", "one");
    let (_player, _) = playing(server.port(), "live", "one");
    items(&caller, "/api/v1/clients", 2);
    let answer = caller.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let labels = r#"server="default",app="live",name="one""#;
    for line in [
        "livemill_streams_publishing 1",
        &format!("livemill_stream_publishing{{{labels}}} 1"),
        &format!("livemill_stream_players{{{labels},protocol=\"rtmp\"}} 1"),
    ] {
        assert!(answer.text.lines().any(|known| known == line), "{line}\n{}", answer.text);
    }
    assert!(!answer.text.contains("127.0.0.1"), "no connection has a label");
    let mut parser = Command::new(python());
    parser.args(["-c", "import sys; from prometheus_client.parser import text_string_to_metric_families as read\nprint(len(list(read(sys.stdin.read()))))"]);
    let mut parser = parser.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
    parser.stdin.take().expect("it is piped").write_all(answer.text.as_bytes()).expect("it reads");
    let read = parser.wait_with_output().expect("it ends");
    let families = String::from_utf8_lossy(&read.stdout).trim().parse::<usize>();
    assert!(read.status.success() && families.as_ref().is_ok_and(|families| *families > 25), "{families:?}");
}

// --- control --------------------------------------------------------------------------------------------------------------------

#[test]
fn who_is_dropped_and_banned_stays_out_until_the_ban_is_lifted() {
    let (server, caller) = start();
    let (mut publisher, _) = RtmpPeer::publish(server.port(), "live", "one");
    let id = items(&caller, "/api/v1/clients", 1)[0]["id"].clone();
    let path = format!("/api/v1/clients/{id}?ban=60s&ban_by=name&reason=too%20loud");
    let dropped = caller.delete(&path).json();
    assert_eq!((&dropped["dropped"], &dropped["bans"][0]["reason"]), (&json!(1), &json!("too loud")), "{dropped}");
    common::stream::until_closed(&mut publisher);
    server.wait_for_log(&["control: drop", "api", "127.0.0.1", "too loud"], SOON);
    let gone = caller.delete(&path).json();
    assert_eq!(gone, json!({"dropped": 0, "bans": []}), "a second time there is nobody");
    assert_eq!(caller.get(&format!("/api/v1/clients/{id}")).status, 404);

    let again = answer_to("publish", server.port(), "live", "one").1;
    assert_ne!(again, "NetStream.Publish.Start");
    let ban = items(&caller, "/api/v1/bans", 1)[0].clone();
    assert_eq!((&ban["by"], &ban["name"], &ban["role"]), (&json!("name"), &json!("one"), &json!("publisher")));
    assert!(ban["left_s"].as_u64().is_some_and(|left| (50..=60).contains(&left)), "{ban}");
    let lifted = caller.delete(&format!("/api/v1/bans/{}", ban["id"])).json();
    assert_eq!(lifted, json!({"lifted": 1}));
    assert_eq!(caller.delete(&format!("/api/v1/bans/{}", ban["id"])).json(), json!({"lifted": 0}));
    assert_eq!(answer_to("publish", server.port(), "live", "one").1, "NetStream.Publish.Start");
}

#[test]
fn a_stream_is_dropped_with_or_without_those_who_watch_it() {
    let (server, caller) = start();
    let (mut publisher, _) = RtmpPeer::publish(server.port(), "live", "a/b");
    let (mut player, _) = playing(server.port(), "live", "a/b");
    items(&caller, "/api/v1/clients", 2);
    assert_eq!(caller.delete("/api/v1/streams/live/a/b").json()["dropped"], 1);
    common::stream::until_closed(&mut publisher);
    assert_eq!(texts(&items(&caller, "/api/v1/clients", 1), "role"), ["player"]);
    assert_eq!(caller.delete("/api/v1/streams/live/a%2Fb?players=true").json()["dropped"], 1);
    common::stream::until_closed(&mut player);
    assert_eq!(caller.delete("/api/v1/streams/live/a/b?players=true").json()["dropped"], 0);
}

#[test]
fn who_is_redirected_goes_on_under_another_name() {
    let (server, caller) = start();
    let _one = LiveSource::publish(server.port(), "live", "one");
    let _two = LiveSource::publish(server.port(), "live", "two");
    let (_player, _) = playing(server.port(), "live", "one");
    let path = "/api/v1/clients?role=player&name=";
    let id = items(&caller, &format!("{path}one"), 1)[0]["id"].clone();
    let redirect = |to: &str| caller.post(&format!("/api/v1/clients/{id}/redirect"), &json!({"to": to}));
    assert_eq!(redirect("two").json(), json!({"redirected": 1}));
    items(&caller, &format!("{path}two"), 1);
    let back = caller.post("/api/v1/streams/live/two/redirect", &json!({"to": "one", "role": "player"}));
    assert_eq!(back.json(), json!({"redirected": 1}));
    items(&caller, &format!("{path}one"), 1);
    for bad in ["", "?x", "../x", "a b", &"x".repeat(2000)] {
        assert_eq!(redirect(bad).status, 400, "{bad}");
    }
}

#[test]
fn relays_are_added_and_removed_while_live() {
    let (server, caller) = start();
    let far = FarEnd::bind();
    let _source = LiveSource::publish(server.port(), "live", "one");
    let url = format!("rtmp://127.0.0.1:{}/live/x?secret=hush", far.port());
    let wanted = json!({"direction": "push", "app": "live", "name": "one", "url": url});
    let added = caller.post("/api/v1/relays", &wanted);
    assert_eq!(added.status, 201, "{added:?}");
    let location = added.header("location").expect("where it is").to_owned();
    assert_eq!(location, format!("/api/v1/relays/{}", added.json()["id"]));
    assert_eq!(caller.post("/api/v1/relays", &wanted).status, 200, "it is there already");
    let _guest = far.guest().lets_publish();
    let relay =
        wait::until("it runs", SOON, || Some(caller.get(&location).json()).filter(|it| it["state"] == "running"));
    assert_eq!((&relay["origin"], &relay["direction"]), (&json!("api"), &json!("push")));
    let stream = caller.get("/api/v1/streams/live/one").json();
    assert_eq!(stream["relays"][0]["id"], relay["id"]);
    assert!(!format!("{relay}{stream}").contains("hush"), "a URL is shown without its query");
    assert_eq!(caller.delete(&location).json(), json!({"removed": 1}));
    assert_eq!(caller.delete(&location).json(), json!({"removed": 0}));
    items(&caller, "/api/v1/relays", 0);
    for (wrong, status) in [
        (json!({"direction": "push", "app": "none", "name": "one", "url": url}), 404),
        (json!({"direction": "push", "app": "live", "name": "one", "url": "gopher://x/y"}), 400),
        (json!({"direction": "push", "app": "live", "name": "../x", "url": url}), 400),
        (json!({"direction": "sideways", "app": "live", "name": "one", "url": url}), 400),
        (json!({"direction": "push", "app": "live", "name": "one", "url": url, "more": 1}), 400),
    ] {
        assert_eq!(caller.post("/api/v1/relays", &wrong).status, status, "{wrong}");
    }
}

#[test]
fn bans_are_made_of_what_somebody_is_known_by() {
    let (server, caller) = start();
    for (body, by) in [
        (json!({"address": "192.0.2.1", "for": "60s"}), &["address"][..]),
        (json!({"app": "live", "name": "x", "for": "5m", "role": "publisher"}), &["name"]),
        (json!({"app": "live", "name": "x", "for": "5m"}), &["name", "name"]),
        (json!({"address": "192.0.2.1", "app": "live", "name": "x", "for": "9", "role": "player"}), &["both"]),
    ] {
        let made = caller.post("/api/v1/bans", &body);
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(texts(made.json()["bans"].as_array().expect("bans"), "by"), by, "{body}");
    }
    assert_eq!(items(&caller, "/api/v1/bans", 4).len(), 4, "the same one twice is one");
    assert_ne!(answer_to("publish", server.port(), "live", "x").1, "NetStream.Publish.Start");
    for (wrong, status) in [
        (json!({"for": "60s"}), 400),
        (json!({"address": "192.0.2.1"}), 400),
        (json!({"address": "192.0.2.1", "for": "0"}), 400),
        (json!({"address": "nobody", "for": "60s"}), 400),
        (json!({"app": "live", "for": "60s"}), 400),
        (json!({"app": "none", "name": "x", "for": "60s"}), 404),
        (json!({"address": "192.0.2.1", "for": "60s", "reason": "two\nlines"}), 400),
    ] {
        assert_eq!(caller.post("/api/v1/bans", &wrong).status, status, "{wrong}");
    }
}

// --- who may ask ----------------------------------------------------------------------------------------------------------------

#[test]
fn nothing_is_told_without_the_token_wherever_it_is_asked() {
    let (server, caller) = start();
    let mode =
        |name: &str| std::fs::metadata(server.dir().join(name)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("api.token"), mode("control.sock")), (0o600, 0o660));
    let host = ("Host", "localhost");
    let token = caller.token.as_str();
    let bearer = format!("Bearer {token}");
    for path in ["/api/v1/server", "/metrics", "/api/v1/openapi.json", "/", "/nothing"] {
        let answer = ask(caller.port, "GET", path, &[host], None);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(
            (answer.header("cache-control"), answer.header("x-content-type-options")),
            (Some("no-store"), Some("nosniff"))
        );
    }
    let in_url = ask(caller.port, "GET", &format!("/api/v1/server?token={token}&access_token={token}"), &[host], None);
    assert_eq!(in_url.status, 401);
    assert_eq!(caller.get(&format!("/api/v1/server?token={token}")).status, 400, "nobody gets used to it");
    let socket = server.dir().join("control.sock");
    assert_eq!(ask_socket(&socket, "/api/v1/server", &[host]).status, 401);
    let over_socket = ask_socket(&socket, "/api/v1/server", &[("Host", "whatever"), ("Authorization", &bearer)]);
    assert_eq!((over_socket.status, &over_socket.json()["pid"]), (200, &json!(server.pid())));

    // One guess a second; who knows it is not held up by who guesses.
    let guess = || ask(caller.port, "GET", "/api/v1/server", &[host, ("Authorization", "Bearer guess")], None);
    assert_eq!(guess().status, 401);
    wait::until("there were too many guesses", SOON, || (guess().status == 429).then_some(()));
    assert!(guess().header("retry-after").is_some());
    assert_eq!(caller.get("/api/v1/server").status, 200);
    assert!(!server.log().contains(token), "it is in no log");
}

#[test]
fn pages_in_a_browser_cannot_ask() {
    let (_server, caller) = start();
    let bearer = format!("Bearer {}", caller.token);
    let asked = |method: &str, headers: &[(&str, &str)]| {
        let all = [&[("Authorization", bearer.as_str())], headers].concat();
        ask(caller.port, method, "/api/v1/server", &all, None)
    };
    let local = ("Host", "127.0.0.1");
    for (headers, expected) in [
        (&[local][..], 200),
        (&[("Host", "[::1]:9935")], 200),
        (&[("Host", "evil.example")], 421),
        (&[("Host", "127.0.0.1.evil.example")], 421),
        (&[], 400),
        (&[local, ("Origin", "https://evil.example")], 403),
        (&[local, ("Origin", "null")], 403),
        (&[local, ("Sec-Fetch-Site", "cross-site")], 403),
        (&[local, ("Sec-Fetch-Site", "same-site")], 403),
        (&[local, ("Origin", "http://127.0.0.1"), ("Sec-Fetch-Site", "same-origin")], 200),
    ] {
        let answer = asked("GET", headers);
        assert_eq!(answer.status, expected, "{headers:?}");
        assert!(!answer.headers.iter().any(|(name, _)| name.starts_with("access-control")), "{answer:?}");
    }
    let before_asking = asked("OPTIONS", &[local, ("Access-Control-Request-Method", "DELETE")]);
    assert_eq!((before_asking.status, before_asking.header("allow")), (405, Some("GET")));
    let body = r#"{"address":"192.0.2.1","for":"60s"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        assert_eq!(caller.ask("POST", "/api/v1/bans", &[("Content-Type", kind)], Some(body)).status, 415, "{kind}");
    }
    assert_eq!(caller.get("/api/v1/server?callback=x").status, 400, "no JSONP");
}

#[test]
fn other_names_are_those_that_the_configuration_says() {
    let server = TestServer::start_with_api(&format!("api_host media.example;\n{LIVE}"));
    let bearer = format!("Bearer {}", server.token());
    for (host, expected) in [("Media.Example:443", 200), ("other.example", 421)] {
        let headers = [("Host", host), ("Authorization", bearer.as_str())];
        assert_eq!(ask(server.api_port(), "GET", "/api/v1/server", &headers, None).status, expected, "{host}");
    }
}

#[test]
fn no_secret_is_in_any_answer() {
    let text = "rtmp { server { listen 127.0.0.1:@port@; application live { live on; publish_key hush-key;
         on_publish_done http://127.0.0.1:9/done?secret=hush; push rtmp://127.0.0.1:9/live/x?key=hush;
         exec sleep 60 rtmp://127.0.0.1/x?key=hush; } } }";
    let server = TestServer::start_with_api(text);
    let caller = Caller::of(&server);
    for _ in 0..2 {
        let (publisher, _) = RtmpPeer::publish(server.port(), "live?app=hush", "one?key=hush-key&arg=hush");
        let (_player, _) = RtmpPeer::play(server.port(), "live?app=hush", "one?arg=hush");
        items(&caller, "/api/v1/clients", 2);
        items(&caller, "/api/v1/children", 1);
        items(&caller, "/api/v1/relays", 1);
        for route in livemill::http::api::ROUTES.iter().filter(|route| route.method.as_str() == "GET") {
            let id = caller.get("/api/v1/clients").items()[0]["id"].to_string();
            let path = route.path.replace("{app}", "live").replace("{name}", "one").replace("{id}", &id);
            let answer = caller.get(&path);
            assert!(answer.status == 200 || path.contains("/relays/"), "{path}: {answer:?}");
            assert!(!answer.text.contains("hush") && !answer.text.contains(&caller.token), "{path}: {}", answer.text);
        }
        // What it owes its hooks is told, and fails.
        drop(publisher);
        wait::until("the hook was called", SOON, || {
            let hooks = caller.get("/api/v1/hooks").json();
            hooks["endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty()).then_some(())
        });
    }
    server.wait_for_log(&["not heard", "publish_done"], SOON);
    assert!(!server.log().contains(&caller.token));
}

#[test]
fn what_follows_a_request_without_being_asked_for_is_not_taken_for_one() {
    let (mut server, caller) = start();
    let bearer = format!("Bearer {}", caller.token);
    let headers = [("Host", "localhost"), ("Authorization", bearer.as_str()), ("Content-Length", "10000000000")];
    let began = Instant::now();
    let answer = ask(caller.port, "GET", "/api/v1/server", &headers, Some(""));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!([200, 400].contains(&answer.status), "{answer:?}");
    let many: String = (0..1000)
        .map(|_| request("GET", "/api/v1/openapi.json", &headers[..2], None).replace("Connection: close\r\n", ""))
        .collect();
    let mut socket = TcpStream::connect(("127.0.0.1", caller.port)).expect("it listens");
    assert_eq!(caller.get("/api/v1/openapi.json").status, 200);
    let before = server.anonymous_kib();
    let _ = socket.write_all(many.as_bytes());
    assert_eq!(caller.get("/api/v1/server").status, 200);
    let grown = server.anonymous_kib().saturating_sub(before);
    assert!(grown < 2 << 10, "requests ahead of their answers are bounded: {grown} KiB");
    show(&format!("1000 requests ahead of their answers: {grown} KiB"));
    assert!(server.is_alive());
}

// --- hostile input --------------------------------------------------------------------------------------------------------------

#[test]
fn hostile_queries_and_bodies_are_refused_and_never_an_error_of_the_server() {
    let (mut server, caller) = start();
    for (path, expected) in [
        ("/api/v1/clients/0", 404),
        ("/api/v1/clients/-1", 400),
        ("/api/v1/clients/18446744073709551616", 400),
        ("/api/v1/clients/1e400", 400),
        ("/api/v1/clients/NaN", 400),
        ("/api/v1/clients?limit=0", 400),
        ("/api/v1/clients?limit=1001", 400),
        ("/api/v1/clients?limit=18446744073709551616", 400),
        ("/api/v1/clients?limit=5&limit=6", 400),
        ("/api/v1/clients?cursor=5b22", 400),
        ("/api/v1/clients?sort=__proto__", 400),
        ("/api/v1/clients?unknown=1", 400),
        ("/api/v1/clients?app=%ff", 400),
        ("/api/v1/clients?address=127.1", 400),
        ("/api/v1/streams?publishing=yes", 400),
        ("/api/v1/streams/live/%ff", 404),
        ("/api/v1/streams/live/..%2f..%2fetc%2fpasswd", 404),
        ("/api/v1/streams/live/%00", 404),
        ("/api/v2/server", 404),
    ] {
        let answer = caller.get(path);
        assert_eq!(answer.status, expected, "{path}");
        let problem = answer.json();
        assert_eq!((&problem["status"], &problem["type"]), (&json!(expected), &json!("about:blank")), "{path}");
    }
    for (path, expected) in
        [("/api/v1/clients/7?ban=-1", 400), ("/api/v1/clients/7?ban_by=both", 400), ("/api/v1/clients/7", 200)]
    {
        assert_eq!(caller.delete(path).status, expected, "{path}");
    }
    let json = [("Content-Type", "application/json; charset=utf-8")];
    let deep = "[".repeat(10_000);
    let long = format!("{{\"address\":\"{}\"}}", "x".repeat(70_000));
    for (body, expected) in [
        ("", 400),
        ("null", 400),
        ("[]", 400),
        (&*deep, 400),
        (&*format!("{{\"address\":{deep}"), 400),
        (r#"{"address":"192.0.2.1","address":"192.0.2.2","for":"60s"}"#, 400),
        (r#"{"address":"192.0.2.1","for":NaN}"#, 400),
        (r#"{"address":"192.0.2.1","for":1e400}"#, 400),
        (r#"{"address":"192.0.2.1","for":"60s","__proto__":{}}"#, 400),
        ("{\"address\":\"\u{0}\",\"for\":\"60s\"}", 400),
        (&*long, 413),
    ] {
        assert_eq!(
            caller.ask("POST", "/api/v1/bans", &json, Some(body)).status,
            expected,
            "{}",
            &body[..body.len().min(80)]
        );
    }
    let huge = [
        ("Host", "localhost"),
        ("Authorization", &*format!("Bearer {}", caller.token)),
        json[0],
        ("Content-Length", "10000000000"),
    ];
    assert_eq!(ask(caller.port, "POST", "/api/v1/bans", &huge, None).status, 413, "its body is not waited for");
    assert!(server.is_alive() && caller.get("/api/v1/bans").json()["total"] == 0);
}

#[test]
fn a_body_that_comes_slowly_is_not_waited_for() {
    let (_server, caller) = start();
    let mut socket = TcpStream::connect(("127.0.0.1", caller.port)).expect("it listens");
    let bearer = format!("Bearer {}", caller.token);
    let headers = [
        ("Host", "localhost"),
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
        ("Content-Length", "100"),
    ];
    socket.write_all(request("POST", "/api/v1/bans", &headers, None).as_bytes()).expect("it reads");
    let began = Instant::now();
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!((4..9).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[test]
fn two_hundred_who_read_a_byte_a_second_hold_up_nobody_and_are_gone_in_time() {
    let (server, caller) = start();
    // Three hundred streams: metrics of some hundred kilobytes.
    let publishers: Vec<_> =
        (0..10).map(|number| Publishing::start_at(server.port(), "live", &format!("s{number}"))).collect();
    let players: Vec<_> = (0..300)
        .map(|number| RtmpPeer::play(server.port(), "other", &format!("{}{number}", "x".repeat(100))))
        .collect();
    wait::until("they are there", SOON, || (caller.get("/api/v1/server").json()["streams"] == 310).then_some(()));
    let length = caller.get("/metrics").text.len();
    assert!(length > 400_000, "{length}");
    let (before, base) = (server.anonymous_kib(), server.fds());
    let bearer = format!("Bearer {}", caller.token);
    let headers = [("Host", "localhost"), ("Authorization", bearer.as_str())];
    let slow: Vec<_> = (0..200)
        .map(|_| {
            // A small window, as that of who reads slowly.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_recv_buffer_size(4096).expect("a socket option");
            let address: std::net::SocketAddr = ([127, 0, 0, 1], caller.port).into();
            socket.connect(&address.into()).expect("it listens");
            let mut socket = TcpStream::from(socket);
            socket.write_all(request("GET", "/metrics", &headers, None).as_bytes()).expect("it reads");
            socket
        })
        .collect();
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut peak = before;
    let mut sips = 0;
    wait::until("all of them are connected", SOON, || (server.fds() >= base + 200).then_some(()));
    // They sip until all of them have been closed.
    wait::until("they are closed", Duration::from_secs(40), || {
        if began.elapsed() >= Duration::from_secs(sips) {
            sips += 1;
            for socket in &slow {
                let _ = (&*socket).read(&mut [0]);
            }
            let asked = Instant::now();
            assert_eq!(caller.get("/api/v1/clients?sort=slowest&limit=1000").status, 200);
            slowest = slowest.max(asked.elapsed());
            peak = peak.max(server.anonymous_kib());
        }
        (server.fds() <= base + 2).then_some(())
    });
    let took = began.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(30)).contains(&took), "{took:?}");
    assert!(slowest < Duration::from_secs(2), "the 201st waited {slowest:?}");
    assert!(peak - before < 40 << 10, "{} KiB for {length} bytes to each", peak - before);
    show(&format!(
        "200 slow readers of {length} bytes: {} KiB, closed after {took:?}, others answered within {slowest:?}",
        peak - before
    ));
    drop((publishers, players));
}

#[test]
fn connections_beyond_the_bound_take_the_place_of_those_that_do_nothing() {
    let (_server, caller) = start();
    let idle: Vec<_> = (0..600).map(|_| TcpStream::connect(("127.0.0.1", caller.port)).expect("it listens")).collect();
    assert_eq!(caller.get("/api/v1/server").status, 200);
    let closed = |socket: &&TcpStream| {
        socket.set_nonblocking(true).expect("a socket option");
        matches!((&**socket).read(&mut [0]), Ok(0))
    };
    wait::until("the oldest are closed", SOON, || (idle.iter().filter(closed).count() >= 80).then_some(()));
}

// --- starts ---------------------------------------------------------------------------------------------------------------------

#[test]
fn an_address_in_use_ends_a_start_that_asked_for_it() {
    let (server, caller) = start();
    let config = server.dir().join("conf/second.conf");
    let text = format!(
        "error_log stderr;\npid second.pid;\napi_listen 127.0.0.1:{};\napi_token_file t;\nevents {{}}\nrtmp {{ server {{ listen 127.0.0.1:{}; }} }}\n",
        caller.port,
        free_ports()[0]
    );
    std::fs::write(&config, text).expect("it can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_livemill"))
        .arg("-p")
        .arg(server.dir())
        .arg("-c")
        .arg(&config)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(&format!("127.0.0.1:{}", caller.port)), "{said}");
}

#[test]
fn the_environment_gives_the_token_and_a_second_server_keeps_its_hands_off_the_first_ones_socket() {
    let text =
        "api_listen 127.0.0.1:@api@;\nrtmp { server { listen 127.0.0.1:@port@; application live { live on; } } }";
    let first =
        TestServer::start_with_environment(text, &[], &[("LIVEMILL_API_TOKEN", "given"), ("STATE_DIRECTORY", "@dir@")]);
    let state = first.dir().display().to_string();
    let second =
        TestServer::start_with_environment(text, &[], &[("LIVEMILL_API_TOKEN", "given"), ("STATE_DIRECTORY", &state)]);
    assert!(!first.dir().join("api.token").exists());
    for server in [&first, &second] {
        let headers = [("Host", "localhost"), ("Authorization", "Bearer given")];
        assert_eq!(ask(server.api_port(), "GET", "/api/v1/server", &headers, None).json()["pid"], server.pid());
    }
    assert!(second.log().contains("control.sock"), "it says that it has no socket:\n{}", second.log());
    drop(second);
    let over_socket = ask_socket(
        &first.dir().join("control.sock"),
        "/api/v1/server",
        &[("Host", "x"), ("Authorization", "Bearer given")],
    );
    assert_eq!(over_socket.json()["pid"], first.pid());
}

#[test]
fn where_no_token_can_be_kept_the_server_goes_on_without_its_api() {
    let text = format!("api_listen 127.0.0.1:@api@;\napi_socket off;\napi_token_file /proc/none/token;\n{LIVE}");
    let server = TestServer::start_http(Kind::Livemill, &text);
    server.wait_for_log(&["the API is off", "/proc/none/token", "LIVEMILL_API_TOKEN"], SOON);
    assert!(TcpStream::connect(("127.0.0.1", server.api_port())).is_err());
    let given = TestServer::start_with_environment(&text, &[], &[("LIVEMILL_API_TOKEN", "given")]);
    let headers = [("Host", "localhost"), ("Authorization", "Bearer given")];
    assert_eq!(ask(given.api_port(), "GET", "/api/v1/server", &headers, None).status, 200);
    assert_eq!(ask(given.api_port(), "GET", "/api/v1/children", &headers, None).json()["total"], 0);
}

#[test]
fn over_tls_it_is_served_to_other_machines() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let text = "api_listen 0.0.0.0:@api@ ssl;\napi_certificate c.pem;\napi_certificate_key k.pem;\napi_token_file @dir@/api.token;\napi_socket off;\n";
    let server = TestServer::start_http_with(
        Kind::Livemill,
        &format!("{text}{LIVE}"),
        &[("c.pem", &certificate), ("k.pem", &key)],
    );
    let output = Command::new(python())
        .args(["-c", "import sys, http.client, ssl\nc = http.client.HTTPSConnection('localhost', int(sys.argv[1]), context=ssl.create_default_context(cafile=sys.argv[2]))\nc.request('GET', '/api/v1/server', headers={'Authorization': 'Bearer ' + sys.argv[3]})\nprint(c.getresponse().status)"])
        .arg(server.api_port().to_string())
        .arg(server.dir().join("conf/c.pem"))
        .arg(server.token())
        .output()
        .expect("python runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200", "{}", String::from_utf8_lossy(&output.stderr));
}

// --- the document ---------------------------------------------------------------------------------------------------------------

#[test]
fn the_api_does_what_its_document_says() {
    let (server, caller) = start();
    let _source = LiveSource::publish(server.port(), "live", "one");
    let (_player, _) = playing(server.port(), "live", "one");
    let mut schemathesis = Command::new(python());
    schemathesis
        .current_dir(server.dir())
        .args(["-m", "schemathesis.cli", "run", &format!("http://127.0.0.1:{}/api/v1/openapi.json", caller.port)])
        .args(["-H", &format!("Authorization: Bearer {}", caller.token)])
        // Bounded in examples and in time; the same ones each time.
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--max-time", "30", "--seed", "5"])
        .args(["--continue-on-failure", "--generation-database", "none", "--no-color"])
        // No schema says which cursors were given, or what goes together.
        .args(["--exclude-checks", "positive_data_acceptance"]);
    let output = schemathesis.output().expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "schemathesis (PyPI package, by scripts/test.sh --prepare) found:\n{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(caller.get("/api/v1/server").status, 200);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Python with the packages that scripts/test.sh installs.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/bin/python3");
    assert!(python.exists(), "no target/test-tools/venv: run scripts/test.sh --prepare");
    python
}

/// What was measured, with `--nocapture`.
#[allow(clippy::print_stdout)]
fn show(text: &str) {
    println!("{text}");
}

const SOON: Duration = Duration::from_secs(10);
