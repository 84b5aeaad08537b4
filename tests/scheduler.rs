//! The scheduler: a cluster's nodes say what they have, and ask where to find the rest.

mod common;

use std::time::Duration;

use common::exchange::{self, Reply};
use common::server::{Kind, TestServer};
use common::stream::{Publishing, answer_to, frame_numbers, playing};
use common::wait;

/// A scheduler that has streams of its own, too. RTMP on its first port, HTTP on its second.
fn scheduler(settings: &str) -> TestServer {
    TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@; application own {{ live on; scheduler on; }} }} }}
             http {{ server {{ listen 127.0.0.1:@port2@; location = /oclp {{ scheduler; {settings} }} }} }}"
        ),
    )
}

/// A node that tells the scheduler who publishes, and under which port it is to be found.
fn node(scheduler: &TestServer, more: &str) -> TestServer {
    let url = format!("http://127.0.0.1:{}/oclp", scheduler.other_port(1));
    TestServer::start_http(
        Kind::Livemill,
        &format!(
            "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on;
                oclp_publish {url} args=port=@port@&update=1 stage=start,update,done update=1s; {more} }} }} }}"
        ),
    )
}

fn call(scheduler: &TestServer, query: &str) -> Reply {
    exchange::ask(scheduler.other_port(1), "GET", &format!("/oclp?{query}"), &[])
}

/// Where somebody is sent who plays this.
fn pull(scheduler: &TestServer, app: &str, name: &str) -> (u16, String) {
    let query = format!("call=pull&act=start&domain=edge&app={app}&name={name}&port=1");
    let reply = call(scheduler, &query);
    (reply.status, reply.header("location").unwrap_or_default().to_owned())
}

#[track_caller]
fn wait_for_pull(scheduler: &TestServer, name: &str, expected: &(u16, String)) {
    let what = format!("{name} at {expected:?}");
    wait::until(&what, Duration::from_secs(10), || (pull(scheduler, "live", name) == *expected).then_some(()));
}

const NOWHERE: (u16, String) = (404, String::new());

#[test]
fn what_is_published_on_any_node_is_found_from_every_other() {
    let scheduler = scheduler("");
    let (one, two) = (node(&scheduler, ""), node(&scheduler, ""));
    assert_eq!(pull(&scheduler, "live", "a"), NOWHERE);
    let publisher = Publishing::start_at(one.port(), "live", "a");
    let _other = Publishing::start_at(two.port(), "live", "b");
    let at = |node: &TestServer, name: &str| (302, format!("rtmp://127.0.0.1:{}/live/{name}", node.port()));
    // It was told before its publisher was let in.
    assert_eq!(pull(&scheduler, "live", "a"), at(&one, "a"));
    assert_eq!(pull(&scheduler, "live", "b"), at(&two, "b"));
    let itself = format!("call=pull&act=start&domain=&app=live&name=a&port={}", one.port());
    assert_eq!(call(&scheduler, &itself).status, 404, "nobody is sent to himself");
    drop(publisher);
    wait_for_pull(&scheduler, "a", &NOWHERE);
    assert_eq!(pull(&scheduler, "live", "b"), at(&two, "b"));
}

#[test]
fn a_player_at_any_edge_sees_what_is_published_at_any_origin() {
    let scheduler = scheduler("");
    let origin = node(&scheduler, "");
    let pulls = format!(
        "idle_streams off; oclp_pull http://127.0.0.1:{}/oclp args=port=@port@ stage=start,update,done;",
        scheduler.other_port(1)
    );
    let (edge, other_edge) = (node(&scheduler, &pulls), node(&scheduler, &pulls));
    assert_eq!(answer_to("play", edge.port(), "live", "cam").1, "NetStream.Play.StreamNotFound");
    let mut publisher = Publishing::start_at(origin.port(), "live", "cam");
    publisher.send_frames(0..3);
    publisher.settle();
    for edge in [&edge, &other_edge] {
        let (mut player, _) = playing(edge.port(), "live", "cam");
        assert_eq!(frame_numbers(&mut player, 3), [0, 1, 2]);
    }
    let (mut player, _) = playing(edge.port(), "live", "cam");
    publisher.send_frames(3..5);
    assert_eq!(frame_numbers(&mut player, 5), [0, 1, 2, 3, 4]);
    let list = call(&scheduler, "call=list").text();
    assert_eq!(list.matches("published").count(), 1, "an edge is no origin: {list}");
}

#[test]
fn players_stay_while_their_origin_moves() {
    let scheduler = scheduler("");
    let (one, two) = (node(&scheduler, ""), node(&scheduler, ""));
    let pulls = format!(
        "oclp_pull http://127.0.0.1:{}/oclp args=port=@port@ stage=start,update,done;",
        scheduler.other_port(1)
    );
    let edge = node(&scheduler, &pulls);
    let mut publisher = Publishing::start_at(one.port(), "live", "cam");
    publisher.send_frames(0..2);
    publisher.settle();
    let (mut player, _) = playing(edge.port(), "live", "cam");
    assert_eq!(frame_numbers(&mut player, 2), [0, 1]);
    let mut next = Publishing::start_at(two.port(), "live", "cam");
    next.send_frames(100..103);
    next.settle();
    one.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(frame_numbers(&mut player, 3), [100, 101, 102]);
}

#[test]
fn a_publisher_that_moves_is_found_where_it_is() {
    let scheduler = scheduler("");
    let (one, two) = (node(&scheduler, ""), node(&scheduler, ""));
    let first = Publishing::start_at(one.port(), "live", "a");
    let _second = Publishing::start_at(two.port(), "live", "a");
    let there = (302, format!("rtmp://127.0.0.1:{}/live/a", two.port()));
    assert_eq!(pull(&scheduler, "live", "a"), there);
    drop(first);
    // The first one's last word takes nothing from the second.
    wait::until("the first one's end is heard", Duration::from_secs(10), || {
        let list = call(&scheduler, "call=list").text();
        (!list.contains(&format!(":{}\"", one.port()))).then_some(())
    });
    assert_eq!(pull(&scheduler, "live", "a"), there);
}

#[test]
fn a_node_that_dies_without_a_word_is_forgotten_after_three_updates() {
    let scheduler = scheduler("");
    let one = node(&scheduler, "");
    let _publisher = Publishing::start_at(one.port(), "live", "a");
    assert_eq!(pull(&scheduler, "live", "a").0, 302);
    one.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for_pull(&scheduler, "a", &NOWHERE);
}

#[test]
fn updates_tell_a_scheduler_that_knows_nothing() {
    let scheduler = scheduler("");
    // What a node of nginx says in the middle of a publish, to a scheduler that was started anew.
    let update = "call=publish&act=update&domain=live.example&app=live&name=a&a=c&b=d";
    assert_eq!(call(&scheduler, update).status, 200);
    let reply = call(&scheduler, "call=pull&act=start&domain=x&app=live&name=a&port=1");
    assert_eq!(reply.header("location"), Some("rtmp://127.0.0.1:1935/live/a"));
    assert_eq!(reply.header("domain"), Some("live.example"));
}

#[test]
fn streams_of_the_scheduler_itself_are_found() {
    let scheduler = scheduler("");
    let publisher = Publishing::start_at(scheduler.port(), "own", "a");
    let there = (302, format!("rtmp://127.0.0.1:{}/own/a", scheduler.port()));
    wait::until("it is listed", Duration::from_secs(10), || (pull(&scheduler, "own", "a") == there).then_some(()));
    let list = call(&scheduler, "call=list");
    let list: serde_json::Value = serde_json::from_slice(&list.body).expect("JSON");
    assert_eq!((&list["total"], &list["streams"][0]["name"]), (&1.into(), &"a".into()), "{list}");
    drop(publisher);
    wait::until("it is gone", Duration::from_secs(10), || (pull(&scheduler, "own", "a") == NOWHERE).then_some(()));
}

#[test]
fn names_are_read_as_nginx_and_as_livemill_write_them() {
    let scheduler = scheduler("");
    let one = node(&scheduler, "");
    let _publisher = Publishing::start_at(one.port(), "live", "caf%C3%A9");
    let expected = format!("rtmp://127.0.0.1:{}/live", one.port());
    assert_eq!(pull(&scheduler, "live", "caf%C3%A9"), (302, expected), "the name is the caller's own");
}

#[test]
fn pushes_follow_the_rules() {
    let scheduler = scheduler("scheduler_push rtmp://127.0.0.9/cdn groupid=cdn;");
    let push = |groupid: &str| call(&scheduler, &format!("call=push&act=start&app=live&name=a&groupid={groupid}"));
    assert_eq!((push("cdn").status, push("cdn").header("location")), (302, Some("rtmp://127.0.0.9/cdn")));
    assert_eq!(push("none").status, 200);
}

#[test]
fn who_is_not_allowed_changes_and_learns_nothing() {
    let guarded = scheduler("allow 192.0.2.0/24; deny all;");
    for query in ["call=list", "call=publish&act=start&domain=&app=live&name=a"] {
        assert_eq!(call(&guarded, query).status, 403, "{query}");
    }
    let scheduler = scheduler("scheduler_secret key;");
    assert_eq!(call(&scheduler, "call=list").status, 403);
    let one = node(&scheduler, "");
    let mut peer = common::peer::RtmpPeer::connect(one.port(), "live");
    let msid = peer.create_stream();
    peer.command(msid, "publish", &[common::wire::Amf::Null, "a".into()]);
    assert_eq!(peer.expect_status(msid), "NetStream.Publish.Forbidden", "its calls are not signed");
    let two = node(&scheduler, "hook_secret key;");
    let _publisher = Publishing::start_at(two.port(), "live", "a");
}

#[test]
fn what_is_no_call_is_refused() {
    let scheduler = scheduler("");
    for query in ["", "call=x", "call=pull&act=start", "call=publish&act=start&app=a&name=b&origin=file:///x"] {
        assert_eq!(call(&scheduler, query).status, 400, "{query}");
    }
    assert_eq!(exchange::ask(scheduler.other_port(1), "POST", "/oclp?call=list", &[]).status, 405);
}
