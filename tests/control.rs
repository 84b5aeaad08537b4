//! Control: who is sent away, kept out and sent elsewhere, by the calls of nginx-rtmp, held against the real one.

mod common;

use std::time::{Duration, Instant};

use common::core_wait::CoreWait;
use common::exchange::{Reply, ask};
use common::hook_server::{HookServer, answer};
use common::http::{End, FlvViewer};
use common::live_source::{Crowd, LiveSource};
use common::peer::{AVC_CONFIG, RtmpPeer, avc_frame_number, command_of};
use common::server::{Kind, TestServer};
use common::stream::{Publishing, answer_to, expect_code, frame_number, frame_numbers, playing, until_closed};
use common::wait;
use common::wire::{self, Amf};

fn start(kind: Kind, applications: &str) -> TestServer {
    let text = format!(
        "rtmp {{ access_log off; server {{ listen @port@; ping 1h; {applications} }} }}
         http {{ access_log off; server {{ listen 127.0.0.1:@port2@; location /control {{ rtmp_control all; }}
           location /some {{ rtmp_control drop; }} location / {{ player on; }} }} }}"
    );
    // The one line that nginx does not know.
    let text = if kind == Kind::Nginx { text.replace("location / { player on; }", "") } else { text };
    TestServer::start_http(kind, &text)
}

fn call(server: &TestServer, target: &str) -> Reply {
    ask(server.other_port(1), "GET", target, &[])
}

/// The number of those who were reached.
#[track_caller]
fn count(server: &TestServer, target: &str) -> usize {
    let reply = call(server, target);
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    reply.text().parse().unwrap_or_else(|_| panic!("{target}: {:?}", reply.text()))
}

/// What is answered to a publish: a code, and the words with it.
fn published(server: &TestServer, name: &str) -> (RtmpPeer, String, String) {
    let mut peer = RtmpPeer::connect(server.port(), "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[Amf::Null, name.into(), "live".into()]);
    let (code, words) = peer.expect("an onStatus", |message| {
        let values = command_of(message).filter(|values| values[0].as_str() == Some("onStatus"))?;
        let text = |name| values[3].property(name).and_then(Amf::as_str).unwrap_or_default().to_owned();
        Some((text("code"), text("description")))
    });
    (peer, code, words)
}

/// One conversation with a server: what it answered, and where everybody was in the end.
fn conversation(kind: Kind) -> Vec<(String, u16, String, bool)> {
    let server = start(kind, "application live { live on; } application other { live on; }");
    let mut said = Vec::new();
    let mut say = |target: &str| {
        let reply = call(&server, target);
        // The words of an error are each server's own.
        let body = if reply.status == 200 { reply.text() } else { String::new() };
        said.push((
            target.to_owned(),
            reply.status,
            body,
            reply.header("content-type").is_some() && reply.status == 200,
        ));
    };
    let mut publisher = Publishing::start(&server, "cam");
    publisher.send_frames(0..2);
    let mut players: Vec<_> = (0..3).map(|_| playing(server.port(), "live", "cam").0).collect();
    publisher.send_frames(25..27);
    players.iter_mut().for_each(|player| assert!(player.sees_keyframe(Duration::from_secs(5))));
    for target in [
        "/control/drop/subscriber?app=live&name=nobody",
        "/control/drop/subscriber?app=other&name=cam",
        "/control/drop/subscriber?app=nowhere",
        "/control/drop/subscriber?app=live&name=cam&addr=127.0.0.2",
        "/control/drop/subscriber?app=live&name=cam&clientid=987654",
        "/control/drop/everybody?app=live",
        "/control/drop/client?srv=7",
        "/control/redirect/client?app=live&name=cam",
        "/control/redirect/nobody?app=live&name=cam&newname=x",
        "/control/stop/client",
        "/control/drop",
        "/control",
        "/some/redirect/client?newname=x",
        "/some/deep/down/drop/subscriber?app=other",
        "/control/redirect/subscriber?app=live&name=cam&newname=elsewhere",
    ] {
        say(target);
    }
    // All three wait for another stream now.
    let mut elsewhere = Publishing::start(&server, "elsewhere");
    elsewhere.send_frames(100..102);
    for player in &mut players {
        let number =
            player.expect("a frame of the other stream", |message| frame_number(message).filter(|n| *n >= 100));
        assert_eq!(number, 100, "from its first keyframe on");
    }
    say("/control/redirect/publisher?app=live&name=elsewhere&newname=third");
    let (mut late, _) = playing(server.port(), "live", "third");
    wait::until("the publisher goes on under its new name", Duration::from_secs(5), || {
        elsewhere.send_frames(125..126);
        late.sees_keyframe(Duration::from_millis(100)).then_some(())
    });
    say("/control/drop/client?app=live&name=elsewhere&addr=127.0.0.1");
    players.iter_mut().for_each(|player| drop(until_closed(player)));
    say("/control/drop/publisher?app=live&name=elsewhere");
    say("/control/drop/publisher?app=live");
    until_closed(&mut elsewhere.peer);
    until_closed(&mut publisher.peer);
    say("/control/drop/client");
    said
}

#[test]
fn the_same_calls_get_the_same_answers_from_nginx() {
    let (nginx, ours) = (conversation(Kind::Nginx), conversation(Kind::Livemill));
    for (theirs, ours) in nginx.iter().zip(&ours) {
        assert_eq!(theirs, ours);
    }
    assert_eq!(nginx.len(), ours.len());
}

#[test]
fn a_publisher_is_gone_within_a_tenth_of_a_second_and_stays_out_for_its_time() {
    const PLAYERS: usize = 500;
    let server =
        start(Kind::Livemill, "application live { live on; } application strict { live on; idle_streams off; }");
    let clock = CoreWait::with_this_thread(server.pid());
    let sources = ["live", "strict"].map(|app| LiveSource::publish(server.port(), app, "other"));
    let mut publisher = Publishing::start(&server, "cam");
    publisher.send_frames(0..1);
    let mut strict = Publishing::start_at(server.port(), "strict", "cam");
    strict.send_frames(0..1);
    let patient = Crowd::play(server.port(), "live", "cam", PLAYERS / 2);
    let leaving = Crowd::play(server.port(), "strict", "cam", PLAYERS / 2);
    let bystanders = Crowd::play(server.port(), "live", "other", 20);
    patient.wait_for(0, Duration::from_secs(60));
    leaving.wait_for(0, Duration::from_secs(60));

    let (began, kicked) = (clock.now(), Instant::now());
    assert_eq!(count(&server, "/control/drop/publisher?name=cam&ban=4s&reason=not%20now"), 2);
    let last_words = until_closed(&mut publisher.peer);
    let took = clock.now().later_than(&began);
    assert!(took < Duration::from_millis(100), "gone after {took:?}");
    let words = last_words.iter().filter_map(command_of).find(|values| values[0].as_str() == Some("onStatus"));
    let description = words.and_then(|values| values[3].property("description")?.as_str().map(str::to_owned));
    assert_eq!(description.as_deref(), Some("not now"));
    until_closed(&mut strict.peer);
    wait::until("players without idle_streams are told to go", Duration::from_secs(10), || {
        (leaving.closed() == PLAYERS / 2).then_some(())
    });

    // Back at once: it is told for how long it is kept out, and why.
    let (_, code, words) = published(&server, "cam");
    assert_eq!(code, "NetStream.Publish.Denied");
    assert!(words.starts_with("banned for another ") && words.ends_with(" s: not now"), "{words}");
    // Another name is another matter.
    assert_eq!(published(&server, "cam2").1, "NetStream.Publish.Start");
    // So is playing.
    assert_eq!(answer_to("play", server.port(), "live", "cam").1, "NetStream.Play.Reset");
    assert_eq!(patient.closed(), 0, "players of an application with idle_streams wait");
    let mut again = wait::until("the ban ends", Duration::from_secs(10), || {
        let (peer, code, _) = published(&server, "cam");
        (code == "NetStream.Publish.Start").then_some(peer)
    });
    let out_for = kicked.elapsed();
    assert!(out_for >= Duration::from_secs(4) && out_for < Duration::from_secs(6), "{out_for:?}");
    again.set_chunk_size(65_536);
    again.send_video(1, 0, AVC_CONFIG);
    again.send_video(1, 0, &common::peer::avc_frame(true, 77, 500));
    patient.wait_for(77, Duration::from_secs(20));
    // Nobody else has noticed anything.
    bystanders.wait_for(sources[0].next_number(), Duration::from_secs(5));
    assert_eq!(bystanders.closed(), 0);
    server.wait_for_log(&["control: drop", "rtmp_control", "name=cam", "count: 2", "not now"], Duration::from_secs(5));
}

#[test]
fn viewers_over_http_are_dropped_and_kept_out_like_players() {
    let server = start(Kind::Livemill, "application live { live on; }");
    let (http, source) = (server.other_port(1), LiveSource::publish(server.port(), "live", "cam"));
    wait::until("the stream is there", Duration::from_secs(10), || (source.next_number() > 20).then_some(()));
    let mut flv = FlvViewer::watch(http, "/live/cam.flv?only=video");
    flv.until("a frame", |tag| tag.kind == 9);
    let index = ask(http, "GET", "/live/cam/index.m3u8", &[]);
    let text = index.text();
    let playlist = text.lines().find(|line| !line.starts_with('#') && line.contains("session="));
    let media = format!("/live/cam/{}", playlist.unwrap_or_else(|| panic!("a playlist with a session: {text}")));
    assert_eq!(ask(http, "GET", &media, &[]).status, 200);

    assert_eq!(count(&server, "/control/drop/subscriber?app=live&name=cam"), 2);
    while flv.tag().is_some() {}
    assert_eq!(flv.answer.end(), End::Whole, "the answer ends as a whole one");
    assert_eq!(ask(http, "GET", &media, &[]).status, 403);
    // Nobody said that they may not come back.
    let mut flv = FlvViewer::watch(http, "/live/cam.flv?only=video");
    flv.until("a frame", |tag| tag.kind == 9);
    assert_eq!(ask(http, "GET", "/live/cam/index.m3u8", &[]).status, 200);

    assert_eq!(count(&server, "/control/drop/subscriber?app=live&name=cam&ban=1m&reason=enough"), 1);
    while flv.tag().is_some() {}
    for path in ["/live/cam.flv", "/live/cam.ts", "/live/cam/index.m3u8", "/live/cam/manifest.mpd"] {
        let refused = ask(http, "GET", path, &[]);
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text().contains("enough"), "{path}: {}", refused.text());
        let again: u32 =
            refused.header("retry-after").and_then(|after| after.parse().ok()).expect("when to come again");
        assert!((1..=60).contains(&again), "{again}");
    }
    // Publishing goes on.
    let before = source.next_number();
    wait::until("frames go on", Duration::from_secs(5), || (source.next_number() > before + 10).then_some(()));
}

#[test]
fn who_is_sent_elsewhere_is_asked_about_again_and_misses_no_header() {
    let hooks = HookServer::start(|request| match request.arg("name").as_str() {
        "forbidden" => answer("403 Forbidden"),
        _ => answer("200 OK"),
    });
    let url = hooks.url("");
    let server = start(
        Kind::Livemill,
        &format!(
            "on_connect {url}/connect; on_disconnect {url}/disconnect; notify_method get;
             application live {{ live on; on_publish {url}/publish; on_play {url}/play; on_play_done {url}/play_done;
               on_publish_done {url}/publish_done; notify_method get; }}"
        ),
    );
    let http = server.other_port(1);
    let mut publisher = Publishing::start_at(server.port(), "live", "a?key=secret");
    publisher.send_frames(0..3);
    let mut other = Publishing::start(&server, "b");
    other.send_frames(1000..1003);
    let (mut player, msid) = playing(server.port(), "live", "a?token=mine");
    assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    let mut flv = FlvViewer::watch(http, "/live/a.flv?only=video");
    let before = flv.until("three frames", |tag| avc_frame_number(&tag.body) == Some(2));
    let last_time = before.last().expect("there were tags").time;

    assert_eq!(count(&server, "/control/redirect/subscriber?app=live&name=a&newname=b"), 2);
    player.expect("its play begins anew", |message| {
        let values = command_of(message)?;
        let code = values.get(3)?.property("code")?.as_str()?;
        (message.msid == msid && code == "NetStream.Play.Start").then_some(())
    });
    let keyframe = player.expect("frames of the other stream", frame_number);
    assert_eq!(keyframe, 1000);
    let after = flv.until("frames of the other stream", |tag| avc_frame_number(&tag.body) == Some(1002));
    assert!(after.iter().any(|tag| tag.kind == 9 && tag.body == AVC_CONFIG), "its headers come first");
    let times: Vec<u32> =
        after.iter().filter(|tag| avc_frame_number(&tag.body).is_some()).map(|tag| tag.time).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]) && times[0] > last_time, "{last_time} {times:?}");
    let told = wait::until("the hooks have heard of it", Duration::from_secs(5), || {
        let told: Vec<String> =
            hooks.requests().iter().map(|request| format!("{} {}", request.call(), request.arg("name"))).collect();
        (told.iter().filter(|call| *call == "play_done a").count() == 2).then_some(told)
    });
    assert_eq!(told.iter().filter(|call| *call == "play b").count(), 2, "{told:?}");
    assert!(!told.iter().any(|call| call.starts_with("disconnect")), "they are connected as before: {told:?}");
    let play = hooks.requests().into_iter().rfind(|asked| asked.call() == "play" && asked.arg("token") == "mine");
    assert_eq!(play.expect("it keeps its arguments").arg("name"), "b");

    assert_eq!(count(&server, "/control/redirect/publisher?app=live&name=a&newname=c"), 1);
    let (mut late, _) = playing(server.port(), "live", "c");
    let first = wait::until("the publisher goes on", Duration::from_secs(5), || {
        publisher.send_frames(25..26);
        let (messages, _) = late.collect(Duration::from_millis(50));
        messages.into_iter().find(|message| message.kind == wire::VIDEO)
    });
    assert_eq!(first.payload, AVC_CONFIG, "the encoder did not send it again");
    // It is moved where it may not be: its session ends, and says why.
    assert_eq!(count(&server, "/control/redirect/publisher?app=live&name=c&newname=forbidden"), 1);
    expect_code(&mut publisher.peer, "NetStream.Publish.Denied");
    assert!(!server.log().contains("secret"), "no argument reaches the log");
}

#[test]
fn bans_by_address_and_by_name_keep_out_whom_they_say() {
    let server = start(Kind::Livemill, "application live { live on; }");
    let publish = |name: &str| published(&server, name).1;
    let kick = |name: &str, more: &str| {
        let (mut peer, _, _) = published(&server, name);
        assert_eq!(count(&server, &format!("/control/drop/publisher?app=live&name={name}&{more}")), 1);
        until_closed(&mut peer);
    };
    kick("x", "ban=1m&ban_by=name");
    assert_eq!((publish("x").as_str(), publish("y").as_str()), ("NetStream.Publish.Denied", "NetStream.Publish.Start"));
    kick("y", "ban=2s&ban_by=address");
    assert_eq!(publish("z"), "NetStream.Publish.Denied");
    assert_eq!(answer_to("play", server.port(), "live", "z").1, "NetStream.Play.Failed");
    wait::until("the ban of the address ends", Duration::from_secs(10), || {
        (publish("z") == "NetStream.Publish.Start").then_some(())
    });
    for bad in ["ban=soon", "ban=0", "ban=1s&ban_by=colour"] {
        assert_eq!(call(&server, &format!("/control/drop/publisher?app=live&{bad}")).status, 400, "{bad}");
    }
}
