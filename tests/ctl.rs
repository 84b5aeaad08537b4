//! `livemill ctl` as an operator types it, against a server that somebody publishes to and plays from.

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use common::far_end::FarEnd;
use common::peer::{RtmpPeer, avc_frame};
use common::server::TestServer;
use common::stream::{Publishing, answer_to, expect_code, frame_number, frame_numbers, playing, until_closed};
use common::wait;
use common::wire::Amf;
use serde_json::Value;

/// A server whose API is at its usual place: a socket and a token in its state folder.
fn start(application: &str) -> TestServer {
    let text = format!(
        "api_listen off;\nrtmp {{ server {{ listen @port@; ping 1h; application live {{ live on; {application} }} }} }}"
    );
    TestServer::start_with_environment(&text, &[], &[("STATE_DIRECTORY", "@dir@"), ("RUNTIME_DIRECTORY", "")])
}

/// The command as somebody runs it who has this state folder.
fn command(state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_livemill"));
    command.arg("ctl").args(words).env("STATE_DIRECTORY", state);
    command.env_remove("LIVEMILL_API_TOKEN").env_remove("RUNTIME_DIRECTORY");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[track_caller]
fn ctl(server: &TestServer, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let output = command(server.dir(), &words).output().expect("the command starts");
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn json(server: &TestServer, words: &str) -> Value {
    serde_json::from_str(&ctl(server, &format!("--json {words}"))).expect("JSON")
}

/// A command that fails with this code; what it says.
#[track_caller]
fn fails(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// The row of a table that begins with this, taken apart.
#[track_caller]
fn row(table: &str, begins: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.trim_start().starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("no row {begins:?} in:\n{table}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

/// Who publishes `live/cam`, and players of it that have seen its first frame.
fn on_air(server: &TestServer, players: usize) -> (Publishing, Vec<RtmpPeer>) {
    let mut publisher = Publishing::start(server, "cam");
    publisher.send_frames(0..1);
    let mut players: Vec<_> = (0..players).map(|_| playing(server.port(), "live", "cam").0).collect();
    players.iter_mut().for_each(|player| assert_eq!(frame_numbers(player, 1), [0]));
    (publisher, players)
}

#[test]
fn what_is_live_is_shown_to_people_and_to_scripts() {
    let server = start("");
    let (_publisher, _players) = on_air(&server, 2);
    let (_waiting, _) = RtmpPeer::play(server.port(), "live", "nobody");
    let streams = wait::until("all are listed", Duration::from_secs(5), || {
        let streams = ctl(&server, "streams");
        (streams.contains("live/nobody") && row(&streams, "live/cam").last()? == "2").then_some(streams)
    });
    assert_eq!(row(&streams, "live/cam")[1], "live", "{streams}");
    assert_eq!(row(&streams, "live/nobody")[1], "waiting", "{streams}");
    assert!(!ctl(&server, "streams --search ca").contains("nobody"));
    let one = ctl(&server, "stream live/cam");
    assert!(one.contains("\nplayers    2 (rtmp 2)\n"), "{one}");
    let clients = ctl(&server, "clients");
    assert_eq!(clients.matches(" live/cam ").count(), 3, "{clients}");
    assert_eq!(ctl(&server, "clients --role publisher").lines().count(), 2);
    let part = ctl(&server, "clients --limit 1");
    assert!(part.contains("\n1 of 4 shown; --cursor "), "{part}");
    let stat = ctl(&server, "stat");
    assert!(stat.contains("\nstreams      1 live, 1 without a publisher\n"), "{stat}");
    assert_eq!(row(&stat, "max_live_streams")[1], "1", "{stat}");
    for (words, says) in [
        ("relays", "no relays\n"),
        ("bans", "no bans\n"),
        ("children", "no processes\n"),
        ("hooks", "0 sessions wait for an answer\n"),
        ("metrics", "# TYPE "),
        ("slowest 2", "BEHIND"),
    ] {
        let said = ctl(&server, words);
        assert!(said.contains(says), "{words}: {said}");
    }

    let streams = json(&server, "streams");
    assert_eq!((&streams["items"][0]["name"], &streams["items"][0]["players"]), (&"cam".into(), &2.into()));
    assert_eq!(json(&server, "stat")["publishers"], 1);
    assert_eq!(json(&server, "clients --app live --name cam")["total"], 3);
    for words in ["stream live/cam", "slowest", "relays", "bans", "hooks", "children", "openapi"] {
        assert!(json(&server, words).is_object(), "{words}");
    }
}

#[test]
fn a_publisher_that_is_dropped_with_a_ban_stays_out_until_it_is_lifted() {
    let server = start("");
    let (mut publisher, mut players) = on_air(&server, 1);
    let said = ctl(&server, "drop publisher live/cam --ban 60s --reason rude");
    assert!(said.starts_with("1 client dropped\n"), "{said}");
    until_closed(&mut publisher.peer);
    assert_eq!(answer_to("publish", server.port(), "live", "cam").1, "NetStream.Publish.Denied");
    let bans = ctl(&server, "bans");
    let ban = row(&bans, "1 ");
    assert_eq!(ban[1..5], ["both", "127.0.0.1", "live/cam", "publisher"], "{bans}");
    assert_eq!(ban[6], "rude", "{bans}");
    assert_eq!(ctl(&server, "ban lift 1"), "ban lifted\n");
    assert_eq!(ctl(&server, "ban lift 1"), "there is no such ban\n");
    let mut again = Publishing::start(&server, "cam");
    again.send_frames(100..101);
    assert_eq!(frame_numbers(&mut players[0], 1), [100], "who watched has waited for it");

    let added = ctl(&server, "ban add --stream live/other --role publisher --for 5m --reason rights");
    assert_eq!(row(&added, "2 ")[1..5], ["name", "any", "live/other", "publisher"], "{added}");
    assert_eq!(answer_to("publish", server.port(), "live", "other").1, "NetStream.Publish.Denied");
    assert_eq!(ctl(&server, "drop publisher live/nobody"), "nobody was there\n");
}

#[test]
fn one_client_or_all_players_are_dropped_and_the_publisher_stays() {
    let server = start("");
    let (mut publisher, mut players) = on_air(&server, 3);
    let ids = json(&server, "clients --role player");
    // The newest is listed first.
    let oldest = &ids["items"][2]["id"];
    assert_eq!(ctl(&server, &format!("drop client {oldest}")), "1 client dropped\n");
    until_closed(&mut players[0]);
    assert_eq!(ctl(&server, "drop players live/cam"), "2 clients dropped\n");
    players[1..].iter_mut().for_each(|player| drop(until_closed(player)));
    let (mut player, _) = playing(server.port(), "live", "cam");
    publisher.send_frames(25..26);
    assert_eq!(frame_numbers(&mut player, 2), [0, 25]);
    assert_eq!(ctl(&server, "drop stream live/cam"), "2 clients dropped\n");
    until_closed(&mut player);
    until_closed(&mut publisher.peer);
}

#[test]
fn players_and_publishers_go_to_another_name() {
    let server = start("");
    let (mut publisher, mut players) = on_air(&server, 1);
    let mut other = Publishing::start(&server, "other");
    other.send_frames(100..101);
    assert_eq!(ctl(&server, "redirect players live/cam other"), "1 client redirected\n");
    let number = players[0].expect("a frame of the other", |message| frame_number(message).filter(|n| *n >= 100));
    assert_eq!(number, 100);
    assert_eq!(ctl(&server, "redirect publisher live/cam third"), "1 client redirected\n");
    let (mut late, _) = playing(server.port(), "live", "third");
    wait::until("the publisher goes on under its new name", Duration::from_secs(5), || {
        publisher.send_frames(25..26);
        late.sees_keyframe(Duration::from_millis(100)).then_some(())
    });
    assert_eq!(ctl(&server, "redirect client 999999 other"), "nobody was there who can be redirected\n");
}

#[test]
fn a_relay_is_added_once_and_removed() {
    let server = start("");
    let far_end = FarEnd::bind();
    let (_publisher, _players) = on_air(&server, 0);
    let add = format!("relay add push live/cam rtmp://127.0.0.1:{}/live/there?key=s3cret", far_end.port());
    let added = ctl(&server, &add);
    assert!(added.starts_with("relay ") && added.contains(": push live/cam rtmp://"), "{added}");
    assert!(!added.contains("s3cret"), "{added}");
    let id = added.split([' ', ':']).nth(1).expect("an id");
    let again = json(&server, &add);
    assert_eq!(again["id"].to_string(), id);
    let relays = ctl(&server, "relays");
    assert_eq!(row(&relays, id)[1..3], ["push", "live/cam"], "{relays}");
    assert!(!relays.contains("s3cret"), "{relays}");
    assert_eq!(ctl(&server, &format!("relay remove {id}")), "relay removed\n");
    assert_eq!(ctl(&server, &format!("relay remove {id}")), "there is no such relay\n");
}

#[test]
fn who_does_not_read_heads_the_slowest_with_the_reason() {
    let server = start("");
    let mut publisher = Publishing::start(&server, "cam");
    publisher.send_frames(0..1);
    let (_deaf, _) = playing(server.port(), "live", "cam");
    let id = json(&server, "clients --role player")["items"][0]["id"].to_string();
    let (mut reader, _) = playing(server.port(), "live", "cam");
    let mut number = 1;
    let slowest = wait::until("the deaf one is seen", Duration::from_secs(30), || {
        for _ in 0..10 {
            publisher.peer.send_video(publisher.msid, number * 40, &avc_frame(number % 25 == 0, number, 100_000));
            assert_eq!(reader.expect("a frame", |message| frame_number(message).filter(|n| *n >= number)), number);
            number += 1;
        }
        let slowest = ctl(&server, "slowest 1");
        slowest.contains("window full").then_some(slowest)
    });
    assert_eq!(row(&slowest, &id)[1], "live/cam", "{slowest}");
    assert!(slowest.contains("\nwindow full: it reads more slowly"), "{slowest}");
    let reader = json(&server, "clients --role player")["items"][0].clone();
    assert!(reader["reason"].is_null(), "{reader}");
}

#[test]
fn what_a_peer_calls_itself_does_not_steer_the_terminal() {
    let server = start("");
    let hostile = "cam\x1b]0;owned\x07\u{9b}2J\u{202e}";
    let mut peer = RtmpPeer::shaken(server.port());
    let properties =
        [("app", Amf::from("live")), ("flashVer", hostile.into()), ("tcUrl", "rtmp://127.0.0.1/live".into())];
    peer.request(0, "connect", &[Amf::object(&properties)]);
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, "cam".into(), "live".into()]);
    expect_code(&mut peer, "NetStream.Publish.Start");
    for words in ["streams", "clients", "slowest", "stat"] {
        let shown = ctl(&server, words);
        assert!(words == "stat" || shown.contains("live/cam") || shown.contains("no clients"), "{shown:?}");
        let unfit = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.contains(unfit), "{words}: {shown:?}");
        assert!(json(&server, words).is_object());
    }
    let clients = json(&server, "clients");
    assert_eq!(clients["items"][0]["agent"], hostile, "a script gets it as it is");
    let missing = command(server.dir(), &["stream", "live/\x1b[2J"]).output().expect("the command starts");
    assert!(!fails(missing, 1).contains('\x1b'));
}

#[test]
fn a_wrong_token_no_token_and_no_server_are_told_apart() {
    let server = start("");
    let run = |mut command: Command| command.output().expect("the command starts");
    let mut wrong = command(server.dir(), &["stat"]);
    wrong.env("LIVEMILL_API_TOKEN", "wrong");
    let said = fails(run(wrong), 1);
    assert_eq!(said, "livemill ctl: the server does not accept the token from LIVEMILL_API_TOKEN\n");

    let empty = tempfile::tempdir().expect("a folder");
    let socket = server.dir().join("control.sock");
    let socket = socket.to_str().expect("text");
    let said = fails(run(command(empty.path(), &["--socket", socket, "stat"])), 1);
    assert!(said.starts_with("livemill ctl: there is no token: "), "{said}");
    let token = server.dir().join("api.token");
    let words = ["stat", "--socket", socket, "--token-file", token.to_str().expect("text")];
    let mut named = command(empty.path(), &words);
    named.env("LIVEMILL_API_TOKEN", "wrong");
    assert!(run(named).status.success(), "what is written on the line is meant");

    let said = fails(run(command(empty.path(), &["stat"])), 1);
    assert!(said.starts_with("livemill ctl: no server is there: there is no socket "), "{said}");
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let said = fails(run(command(server.dir(), &["--url", &format!("http://{nobody}"), "stat"])), 1);
    assert!(said.starts_with(&format!("livemill ctl: no server is at {nobody}: ")), "{said}");

    let said = fails(run(command(server.dir(), &["stream", "live/nobody"])), 1);
    assert!(said.starts_with("livemill ctl: Not Found: "), "{said}");
    let said = fails(run(command(server.dir(), &["drop", "client", "1", "--ban", "soon"])), 1);
    assert!(said.starts_with("livemill ctl: Bad Request: "), "{said}");
    fails(run(command(server.dir(), &["drop", "client", "nobody"])), 2);
    fails(run(command(server.dir(), &["dance"])), 2);
    fails(run(command(server.dir(), &["--url", "https://127.0.0.1", "stat"])), 2);
}

#[test]
fn the_configuration_says_where_the_api_is() {
    let text = "api_listen 127.0.0.1:@port2@;\napi_socket @dir@/here.sock;\napi_token_file @dir@/here.token;\n\
        rtmp { server { listen @port@; application live { live on; } } }";
    let server = TestServer::start_with_environment(text, &[], &[("STATE_DIRECTORY", "@dir@/state")]);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let file = server.dir().join("conf/test.conf");
    let file = file.to_str().expect("text");
    let url = format!("http://127.0.0.1:{}", server.other_port(1));
    for words in [&["-c", file, "stat"][..], &["stat", "-c", file], &["-c", file, "--url", &url, "--json", "stat"]] {
        let output = command(elsewhere.path(), words).output().expect("the command starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for (directive, says) in [("api off;", "the configuration says \"api off\""), ("api_socket off;", "--url http://")]
    {
        let mut config = tempfile::NamedTempFile::new().expect("a file");
        write!(config, "{directive} rtmp {{ server {{ listen 1935; application live {{ live on; }} }} }}")
            .expect("written");
        let words = ["-c", config.path().to_str().expect("text"), "stat"];
        let said = fails(command(elsewhere.path(), &words).output().expect("the command starts"), 1);
        assert!(said.contains(says), "{said}");
    }
}
