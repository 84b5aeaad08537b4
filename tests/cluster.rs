//! Several servers as one: origins, middles and edges of both kinds, and a scheduler that says where what is.

mod common;

use std::time::Duration;

use common::health::HealthyStream;
use common::http;
use common::live_source::{Crowd, LiveSource};
use common::peer::{RtmpPeer, avc_frame_number};
use common::scheduler::{Reply, Scheduler};
use common::server::{Kind, TestServer, free_ports};
use common::stream::{frame_numbers, status_code};
use common::{wait, wire};

// --- chains -------------------------------------------------------------------------------------------------------------------

use Kind::{Livemill, Nginx};
use Link::{Pull, PullHttp, Push};

/// How a stream comes from one server to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Pull,
    PullHttp,
    Push,
}

const KINDS: [[Kind; 3]; 8] = [
    [Livemill, Livemill, Livemill],
    [Livemill, Livemill, Nginx],
    [Livemill, Nginx, Livemill],
    [Nginx, Livemill, Livemill],
    [Livemill, Nginx, Nginx],
    [Nginx, Livemill, Nginx],
    [Nginx, Nginx, Livemill],
    [Nginx, Nginx, Nginx],
];

#[test]
fn pulled_and_pulled_again_a_stream_arrives_whole_whoever_serves_it() {
    KINDS.iter().filter(|kinds| kinds.contains(&Livemill)).for_each(|kinds| carries(*kinds, [Pull, Pull]));
}

#[test]
fn pushed_and_pushed_again_a_stream_arrives_whole_whoever_serves_it() {
    KINDS.iter().filter(|kinds| kinds.contains(&Livemill)).for_each(|kinds| carries(*kinds, [Push, Push]));
}

#[test]
fn pushed_and_then_pulled_a_stream_arrives_whole_whoever_serves_it() {
    KINDS.iter().filter(|kinds| kinds.contains(&Livemill)).for_each(|kinds| carries(*kinds, [Push, Pull]));
}

#[test]
fn pulled_over_http_a_stream_arrives_whole() {
    carries([Livemill; 3], [PullHttp, PullHttp]);
    carries([Livemill, Livemill, Nginx], [PullHttp, Pull]);
    carries([Nginx, Livemill, Livemill], [Pull, PullHttp]);
    carries([Nginx, Livemill, Livemill], [Push, PullHttp]);
}

/// Publishes at the first of three servers and plays at the last: no frame may be missing from the first keyframe on.
#[track_caller]
fn carries(kinds: [Kind; 3], links: [Link; 2]) {
    let ports = [free_ports(), free_ports(), free_ports()];
    let servers: Vec<_> = (0..3).map(|at| start_in_chain(at, kinds, links, ports)).collect();
    let _source = LiveSource::publish(ports[0][0], "live", "name");
    let (mut player, _) = RtmpPeer::play(ports[2][0], "live", "name");
    let numbers = frame_numbers(&mut player, 30);
    let expected: Vec<u32> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "{kinds:?} {links:?}");
    drop(player);
    for server in &servers {
        assert!(!server.log().contains("panicked at"), "{kinds:?} {links:?}:\n{}", server.log());
    }
}

fn start_in_chain(at: usize, kinds: [Kind; 3], links: [Link; 2], ports: [[u16; 4]; 3]) -> TestServer {
    let comes = match (at.checked_sub(1), at.checked_sub(1).map(|before| links[before])) {
        (Some(from), Some(Pull)) => format!("pull rtmp://127.0.0.1:{}/live;", ports[from][0]),
        (Some(from), Some(PullHttp)) => format!("pull http://127.0.0.1:{}/live/$name.flv;", ports[from][1]),
        _ => String::new(),
    };
    let goes = match links.get(at) {
        Some(Push) => format!("push rtmp://127.0.0.1:{}/live;", ports[at + 1][0]),
        _ => String::new(),
    };
    let text = format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {comes} {goes} }} }} }}\n\
         @livemill http {{ server {{ listen 127.0.0.1:@port2@; location / {{ player on; }} }} }}"
    );
    TestServer::start_at(kinds[at], ports[at], &text)
}

// --- when the origin goes -------------------------------------------------------------------------------------------------------

#[test]
fn players_at_the_edge_stay_through_a_restart_of_the_origin_and_see_pictures_two_seconds_after() {
    for (pull, deadline) in [("rtmp://127.0.0.1:@/live", 2), ("http://127.0.0.1:@2/live/$name.flv", 2)] {
        let mut origin = livemill("live on;");
        let pull = pull.replace("@2", &origin.other_port(1).to_string()).replace('@', &origin.port().to_string());
        let edge = livemill(&format!("live on; idle_streams off; pull {pull};"));
        let source = LiveSource::publish(origin.port(), "live", "name");
        let crowd = Crowd::play(edge.port(), "live", "name", 50);
        crowd.wait_for(1, Duration::from_secs(20));
        origin.kill();
        // Down for so long that the edge has become patient.
        wait::within(Duration::from_secs(3), || None::<()>);
        let number = source.next_number();
        origin.start_again();
        let took = crowd.wait_for(number, Duration::from_secs(20));
        assert!(took <= Duration::from_secs(deadline), "{pull}: {took:?}\n{}", edge.log());
        assert_eq!(crowd.closed(), 0, "{pull}: {}", edge.log());
    }
}

#[test]
fn an_origin_that_moves_is_followed_and_the_timeline_goes_on() {
    let (mut first, second) = (livemill("live on;"), livemill("live on;"));
    let at = |server: &TestServer| server.url("live/name");
    let (here, there) = (at(&first), at(&second));
    let scheduler = Scheduler::start(move |_| Reply::moved_to(&here));
    let edge = livemill(&format!("live on; idle_streams off; oclp_pull {};", scheduler.url()));
    let _sources =
        (LiveSource::publish(first.port(), "live", "name"), LiveSource::publish(second.port(), "live", "name"));
    let (mut player, _) = RtmpPeer::play(edge.port(), "live", "name");
    frame_numbers(&mut player, 30);
    scheduler.answer(move |_| Reply::moved_to(&there));
    first.kill();
    let mut last = None;
    let mut after = 0;
    player.expect("frames from the second origin", |message| {
        let code = status_code(message).unwrap_or_default();
        assert!(!code.contains("Unpublish") && !code.contains("Stop"), "{code}");
        avc_frame_number(&message.payload).filter(|_| message.kind == wire::VIDEO)?;
        let before = last.replace(message.time).unwrap_or(message.time);
        assert!((before..before + 5000).contains(&message.time), "{before} -> {}", message.time);
        after += 1;
        (after >= 100).then_some(())
    });
    assert!(scheduler.asked(&["call=pull", "act=start"]).len() >= 2);
}

// --- what a scheduler may answer ------------------------------------------------------------------------------------------------

#[test]
fn whatever_a_scheduler_answers_first_its_next_good_word_brings_the_stream() {
    let origin = livemill("live on;");
    let _source = LiveSource::publish(origin.port(), "live", "name");
    let nowhere = format!("rtmp://127.0.0.1:{}/live/name", free_ports()[0]);
    let rows = [
        ("302 to nowhere", Reply::moved_to(nowhere)),
        ("302 without a target", Reply::MovedNowhere),
        ("302 to a file", Reply::moved_to("file:///etc/passwd")),
        ("late", Reply::Late(Duration::from_millis(1500), 404)),
        ("never", Reply::Never),
        ("garbage", Reply::Raw(b"\x03\0\0\0RTMP\r\n\r\n")),
        ("nothing", Reply::Raw(b"")),
    ];
    for (what, reply) in rows {
        let scheduler = Scheduler::start(move |_| reply.clone());
        let edge = livemill(&format!("live on; idle_streams off; oclp_pull {} timeout=1s;", scheduler.url()));
        let (mut player, _) = RtmpPeer::play(edge.port(), "live", "name");
        scheduler.wait_for(&["call=pull", "act=start"], 2);
        let good = origin.url("live/name");
        scheduler.answer(move |_| Reply::moved_to(&good));
        assert!(!frame_numbers(&mut player, 5).is_empty(), "{what}");
    }
}

#[test]
fn a_scheduler_that_says_no_sends_players_and_viewers_away() {
    for status in [400, 403, 404, 500, 503] {
        let scheduler = Scheduler::start(move |_| Reply::Status(status));
        let edge = livemill(&format!("live on; idle_streams off; oclp_pull {};", scheduler.url()));
        let (mut player, msid) = RtmpPeer::play(edge.port(), "live", "name");
        let code = wait::within(Duration::from_secs(5), || {
            Some(player.expect_status(msid))
                .filter(|code| code != "NetStream.Play.Start" && code != "NetStream.Play.Reset")
        });
        assert_eq!(code.as_deref(), Some("NetStream.Play.StreamNotFound"), "{status}");
        let answer = http::get(edge.other_port(1), "/live/name.flv");
        assert_eq!(answer.status, 404, "{status}");
    }
}

#[test]
fn a_scheduler_that_sees_no_need_starts_nothing() {
    let scheduler = Scheduler::start(|_| Reply::Status(200));
    let edge = livemill(&format!("live on; idle_streams off; oclp_pull {} stage=start,update,done;", scheduler.url()));
    let (mut player, _) = RtmpPeer::play(edge.port(), "live", "name");
    scheduler.wait_for(&["call=pull", "act=start", "app=live", "name=name"], 1);
    // A publisher that comes by itself is what the player waits for.
    let _source = LiveSource::publish(edge.port(), "live", "name");
    frame_numbers(&mut player, 5);
    drop(player);
    assert_eq!(
        (scheduler.asked(&[]).len(), scheduler.asked(&["act=done"]).len()),
        (1, 0),
        "{:?}",
        scheduler.asked(&[])
    );
}

// --- the cluster of document D, unchanged but for its addresses ---------------------------------------------------------------------

#[test]
fn the_scheduler_of_document_d_hears_of_everything_in_its_test_application() {
    let scheduler = Scheduler::start(|_| Reply::Status(200));
    let mut server = document_d(&scheduler, &far_end());
    scheduler.wait_for(&["call=init_process", "worker_id="], 1);
    let source = LiveSource::publish(server.port(), "test", "name");
    // Who comes before it is sent away.
    wait::until("it publishes", Duration::from_secs(10), || (source.next_number() > 0).then_some(()));
    let (mut player, _) = RtmpPeer::play(server.port(), "test", "name");
    frame_numbers(&mut player, 5);
    let about = |call: &str, act: &str| {
        format!("/oclp?call={call}&act={act}&domain=127.0.0.1&app=test&name=name&groupid={call}&a=c&b=d")
    };
    for call in ["publish", "play", "stream"] {
        assert_eq!(scheduler.wait_for(&[&format!("call={call}&")], 1), about(call, "start"));
    }
    drop((player, source));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    for call in ["publish", "play", "stream"] {
        assert_eq!(scheduler.wait_for(&[&format!("call={call}&"), "act=done"], 1), about(call, "done"));
    }
    assert!(server.wait_for_exit(Duration::from_secs(10)).success());
    for call in ["publish", "play", "stream"] {
        assert_eq!(scheduler.asked(&[&format!("call={call}&")]).len(), 2, "{:#?}", scheduler.asked(&[]));
    }
}

#[test]
fn an_edge_of_document_d_pulls_what_its_scheduler_names_over_rtmp_and_http() {
    let far = far_end();
    let _source = LiveSource::publish(far.port(), "core", "name");
    let urls = [far.url("core/name"), format!("http://127.0.0.1:{}/core/name", far.other_port(1))];
    for url in urls {
        let moved = url.clone();
        let scheduler = Scheduler::start(move |_| Reply::MovedTo(moved.clone(), "Domain: live.example\r\n"));
        let mut server = document_d(&scheduler, &far);
        let (mut player, _) = RtmpPeer::play(server.port(), "edge", "name");
        frame_numbers(&mut player, 5);
        let asked = scheduler.wait_for(&["call=pull"], 1);
        assert!(asked.ends_with("&app=edge&name=name&groupid=pull&a=c&b=d") && asked.contains("act=start"), "{asked}");
        server.signal(nix::sys::signal::Signal::SIGTERM);
        scheduler.wait_for(&["call=pull", "act=done"], 1);
        assert!(server.wait_for_exit(Duration::from_secs(10)).success(), "{url}");
    }
}

#[test]
fn an_origin_of_document_d_pushes_where_its_scheduler_says() {
    let far = far_end();
    let moved = far.url("live/name");
    let scheduler = Scheduler::start(move |_| Reply::moved_to(moved.clone()));
    let server = document_d(&scheduler, &far);
    let _source = LiveSource::publish(server.port(), "pub", "name");
    scheduler.wait_for(&["call=meta", "act=start", "app=pub", "name=name", "a=c&b=d"], 1);
    let (mut player, _) = RtmpPeer::play(far.port(), "live", "name");
    frame_numbers(&mut player, 5);
}

#[test]
fn the_fixed_lines_of_document_d_push_and_pull() {
    let far = far_end();
    let server = document_d(&Scheduler::start(|_| Reply::Status(200)), &far);
    for (from, app, to, name) in
        [(&server, "live", &far, "out"), (&far, "live", &server, "in"), (&far, "core", &server, "http")]
    {
        let _source = LiveSource::publish(from.port(), app, name);
        let (mut player, _) = RtmpPeer::play(to.port(), app, name);
        frame_numbers(&mut player, 5);
    }
}

/// The document's server, with this scheduler, and with this far end in the place of all others.
fn document_d(scheduler: &Scheduler, far: &TestServer) -> TestServer {
    let text = std::fs::read_to_string("tests/fixtures/document_d.conf").expect("the document is there");
    let replaced = [
        ("listen 1935;", "listen 127.0.0.1:@port@;".to_owned()),
        ("http://127.0.0.1:6200/oclp", scheduler.url()),
        ("101.200.241.232:11939", format!("127.0.0.1:{}", far.other_port(1))),
        ("rtmp://192.0.2.11/live", far.url("live")),
        ("rtmp://192.0.2.12/live", far.url("live")),
    ];
    let text = replaced.iter().fold(text, |text, (theirs, ours)| {
        assert!(text.contains(theirs), "{theirs}");
        text.replace(theirs, ours)
    });
    TestServer::start_whole(&text, &[])
}

/// What the document's servers push to and pull from.
fn far_end() -> TestServer {
    TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; } application core { live on; } } }\n\
         http { server { listen 127.0.0.1:@port2@; location /core/ { flv_live @port@; } } }",
    )
}

// --- circles --------------------------------------------------------------------------------------------------------------------

#[test]
fn two_servers_that_pull_from_each_other_find_what_is_there_and_nothing_else() {
    for urls in [["rtmp://127.0.0.1:@/live"; 2], ["http://127.0.0.1:@2/live/$name.flv"; 2]] {
        let ports = [free_ports(), free_ports()];
        let other = |at: usize| {
            let [rtmp, http, ..] = ports[1 - at];
            let url = urls[at].replace("@2", &http.to_string()).replace('@', &rtmp.to_string());
            TestServer::start_at(Livemill, ports[at], &config(&format!("live on; pull {url};")))
        };
        let (mut one, mut two) = (other(0), other(1));
        let (mut at_one, _) = RtmpPeer::play(one.port(), "live", "name");
        two.wait_for_log(&["a relay is refused"], Duration::from_secs(10));
        // Whoever is at home there has nothing to do with that circle.
        let (mut at_two, _) = RtmpPeer::play(two.port(), "live", "name");
        for publishes in [one.port(), two.port()] {
            let source = LiveSource::publish(publishes, "live", "name");
            for player in [&mut at_one, &mut at_two] {
                frame_numbers(player, 10);
            }
            drop(source);
            // What is over must not go round for ever.
            let echoes = |player: &mut RtmpPeer| {
                player.collect(Duration::from_millis(500));
                let (late, is_closed) = player.collect(Duration::from_secs(1));
                (late.iter().filter(|message| message.kind == wire::VIDEO).count(), is_closed)
            };
            assert_eq!([&mut at_one, &mut at_two].map(echoes), [(0, false); 2], "{}", two.log());
        }
        assert!(one.is_alive() && two.is_alive());
        assert!(one.fds() + two.fds() < 200, "{} {}", one.fds(), two.fds());
    }
}

#[test]
fn a_push_that_comes_back_is_refused_under_whatever_name() {
    let applications = [
        "application live { live on; push rtmp://127.0.0.1:@port@/live; }",
        "application live { live on; push rtmp://127.0.0.1:@port@/live/other; }",
        "application live { live on; push rtmp://127.0.0.1:@port@/b/x; } application b { live on; push rtmp://127.0.0.1:@port@/live/y; }",
    ];
    for applications in applications {
        let mut server = TestServer::start(&format!("rtmp {{ server {{ listen 127.0.0.1:@port@; {applications} }} }}"));
        let _source = LiveSource::publish(server.port(), "live", "name");
        server.wait_for_log(&["relay loop"], Duration::from_secs(10));
        let (mut player, _) = RtmpPeer::play(server.port(), "live", "name");
        frame_numbers(&mut player, 20);
        assert!(server.is_alive() && server.fds() < 100, "{}", server.fds());
    }
}

// --- far ends that are not there -----------------------------------------------------------------------------------------------

#[test]
fn five_hundred_relays_to_a_dead_host_are_nobody_elses_trouble() {
    let dead = free_ports()[0];
    let pulls: String =
        (0..500).map(|at| format!("pull rtmp://127.0.0.1:{dead}/live/n{at} name=n{at} static;\n")).collect();
    let mut server = TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; }}\napplication dead {{ live on;\n{pulls} }} }} }}"
    ));
    let stream = HealthyStream::beside(&server);
    wait::within(Duration::from_secs(4), || None::<()>);
    stream.check(&mut server);
}

// --- helpers --------------------------------------------------------------------------------------------------------------------

/// livemill with one application of this name and with HTTP.
fn livemill(inside: &str) -> TestServer {
    TestServer::start(&config(inside))
}

fn config(inside: &str) -> String {
    format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ {inside} }} }} }}\n\
         http {{ server {{ listen 127.0.0.1:@port2@; location / {{ player on; }} }} }}"
    )
}
