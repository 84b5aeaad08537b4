//! The callbacks of a cluster: what is asked and told, word for word, and who is let in.

mod common;

use std::time::Duration;

use nix::sys::signal::Signal;

use common::hook_server::{HookServer, Request, answer};
use common::http;
use common::peer::{RtmpPeer, command_of};
use common::server::{Kind, TestServer};
use common::stream::{Publishing, frame_numbers, playing, status_code, until_closed};
use common::wait;
use common::wire::Amf;

/// An application as document D has it, asking at `hooks`.
fn server(hooks: &HookServer, application: &str) -> TestServer {
    let application = application.replace("@hook@", &hooks.url("/oclp"));
    TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ oclp_proc {}; server {{ listen 127.0.0.1:@port@; application test {{ live on; {application} }} }} }}
             http {{ server {{ listen 127.0.0.1:@port2@; location / {{ player on; }} }} }}",
            hooks.url("/start?node=1")
        ),
    )
}

/// The targets of the calls about this event, without those that come by the clock.
fn targets(hooks: &HookServer, call: &str) -> Vec<String> {
    let is_meant = |request: &Request| request.call() == call && request.arg("act") != "update";
    hooks.requests().into_iter().filter(is_meant).map(|request| request.target).collect()
}

#[track_caller]
fn wait_for(hooks: &HookServer, call: &str, act: &str) -> Request {
    let found = || hooks.requests().into_iter().find(|request| request.call() == call && request.arg("act") == act);
    wait::until(&format!("{call} {act}"), Duration::from_secs(10), found)
}

/// The level, code and description of the answer to a command.
fn status(port: u16, command: &str, name: &str) -> (String, String, String, RtmpPeer) {
    let mut peer = RtmpPeer::connect(port, "test");
    let msid = peer.create_stream();
    peer.command(msid, command, &[Amf::Null, name.into()]);
    let told = peer.expect("an onStatus", |message| {
        let values = command_of(message).filter(|_| status_code(message).is_some())?;
        let word = |key: &str| values[3].property(key).and_then(Amf::as_str).unwrap_or_default().to_owned();
        Some((word("level"), word("code"), word("description")))
    });
    (told.0, told.1, told.2, peer)
}

#[test]
fn sessions_and_streams_are_asked_about_and_told_of_to_the_letter() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let words = |group: &str| format!("args=a=c&b=d groupid={group} stage=start,update,done timeout=3s update=1s");
    let server = server(
        &hooks,
        &format!(
            "oclp_publish @hook@ {}; oclp_play @hook@ {}; oclp_stream @hook@ {};",
            words("publish"),
            words("play"),
            words("stream")
        ),
    );
    assert_eq!(hooks.wait_for("init_process").target, "/start?node=1&call=init_process&worker_id=0");
    let mut publisher = Publishing::start_at(server.port(), "test", "cam?k=v");
    let (mut player, _) = playing(server.port(), "test", "cam");
    publisher.send_frames(0..3);
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    let query = |call: &str, act: &str| {
        format!("/oclp?call={call}&act={act}&domain=127.0.0.1&app=test&name=cam&groupid={call}&a=c&b=d")
    };
    for call in ["publish", "play", "stream"] {
        assert_eq!(wait_for(&hooks, call, "update").target, query(call, "update"));
    }
    drop(player);
    wait_for(&hooks, "play", "done");
    assert_eq!(targets(&hooks, "stream"), [query("stream", "start")], "it has a publisher");
    drop(publisher);
    wait_for(&hooks, "stream", "done");
    wait_for(&hooks, "publish", "done");
    for call in ["publish", "play", "stream"] {
        assert_eq!(targets(&hooks, call), [query(call, "start"), query(call, "done")]);
    }
    assert!(hooks.requests().iter().all(|request| request.method == "GET" && request.body.is_empty()));
}

#[test]
fn who_is_forbidden_hears_it_in_the_module_s_words() {
    for refusal in ["403 Forbidden", "302 Found", "500 Internal Server Error"] {
        let hooks = HookServer::start(move |_| answer(refusal));
        let server = server(&hooks, "oclp_publish @hook@ stage=start,done; oclp_play @hook@ stage=start,done;");
        for (command, code, description) in [
            ("publish", "NetStream.Publish.Forbidden", "Publish stream Forbidden"),
            ("play", "NetStream.Play.Forbidden", "Play stream Forbidden"),
        ] {
            let (level, told, text, mut peer) = status(server.port(), command, "cam");
            assert_eq!((level.as_str(), told.as_str(), text.as_str()), ("status", code, description), "{refusal}");
            until_closed(&mut peer);
        }
        assert_eq!(http::get(server.other_port(1), "/test/cam.flv").status, 403);
        assert!(targets(&hooks, "publish").iter().all(|target| target.contains("act=start")), "nothing began");
    }
}

#[test]
fn without_an_answer_the_spelling_decides() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let nowhere = format!("http://127.0.0.1:{}/oclp", free_port());
    for (rule, is_let_in) in [
        (format!("oclp_publish {nowhere} stage=start,done;"), true),
        (format!("on_publish {nowhere} stage=start,done;"), false),
        (format!("on_publish {nowhere} stage=start; ignore_invalid_notify on;"), true),
    ] {
        let server = server(&hooks, &rule);
        let (_, code, _, _peer) = status(server.port(), "publish", "cam");
        let expected = if is_let_in { "NetStream.Publish.Start" } else { "NetStream.Publish.Forbidden" };
        assert_eq!(code, expected, "{rule}");
    }
}

#[test]
fn a_slow_scheduler_is_waited_for_as_long_as_its_timeout() {
    let hooks = HookServer::start_raw(|_, stream| {
        // Never answers: the connection stays until the server gives up.
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(stream, &mut rest);
        false
    });
    let server = server(&hooks, "on_play @hook@ timeout=300ms;");
    let (_, code, _, _peer) = status(server.port(), "play", "cam");
    assert_eq!(code, "NetStream.Play.Forbidden");
}

#[test]
fn pingos_rules_say_the_client_and_fill_in_variables() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let server = server(&hooks, "on_publish @hook@ args=q=$pargs&ip=$remote_addr&p=$protocol;");
    let _publisher = Publishing::start_at(server.port(), "test", "cam?k=v");
    let asked = wait_for(&hooks, "publish", "start");
    assert!(asked.target.ends_with("&q=k=v&ip=127.0.0.1&p=rtmp"), "{}", asked.target);
    let client = asked.arg("clientid");
    server.wait_for_log(&[&format!("*{client} "), "publishing"], Duration::from_secs(5));
}

#[test]
fn the_end_of_the_process_is_told_of_each_stream_and_session() {
    let hooks = HookServer::start(|_| answer("200 OK"));
    let mut server =
        server(&hooks, "oclp_publish @hook@ stage=start,done; oclp_stream @hook@ stage=start,done args=role=$role;");
    let _publisher = Publishing::start_at(server.port(), "test", "cam");
    let started = wait_for(&hooks, "stream", "start");
    assert_eq!(started.arg("role"), "origin");
    server.signal(Signal::SIGTERM);
    server.wait_for_exit(Duration::from_secs(10));
    assert_eq!(targets(&hooks, "publish").len(), 2, "{:?}", hooks.requests());
    assert_eq!(targets(&hooks, "stream").len(), 2, "{:?}", hooks.requests());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
