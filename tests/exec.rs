//! Children of `exec`, as the built server starts and ends them: real processes, seen in `/proc`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::fixtures::Fixture;
use common::http::FlvViewer;
use common::peer::{AAC_CONFIG, RtmpPeer};
use common::server::{CLIENT_DEADLINE, TestServer};
use common::stream::Publishing;
use common::tools::Running;
use common::{health, tools, wait};
use nix::sys::signal::Signal;

/// A child of a test, which wrote its own id into a file.
struct Witness(PathBuf);

impl Witness {
    fn of(server: &TestServer, name: &str) -> Self {
        Self(server.dir().join(name))
    }

    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.0).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_for(&self, count: usize) -> Vec<String> {
        let found = wait::within(CLIENT_DEADLINE, || Some(self.lines()).filter(|lines| lines.len() >= count));
        found.unwrap_or_else(|| panic!("not {count} lines in {}: {:?}", self.0.display(), self.lines()))
    }

    /// The processes that wrote their ids here.
    #[track_caller]
    fn pids(&self, count: usize) -> Vec<i32> {
        self.wait_for(count).iter().map(|line| line.trim().parse().expect("a process id")).collect()
    }
}

fn stat(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn runs(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

#[track_caller]
fn wait_until_gone(pids: &[i32], within: Duration) {
    let gone = wait::within(within, || (!pids.iter().any(|pid| runs(*pid))).then_some(()));
    assert!(gone.is_some(), "of {pids:?} there run {:?}", pids.iter().filter(|pid| runs(**pid)).collect::<Vec<_>>());
}

/// The children of the server, and in which state they are.
fn children(server: &TestServer) -> Vec<(i32, char)> {
    let processes = fs::read_dir("/proc").expect("there is one").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_server =
        |pid| stat(pid).filter(|(_, parent)| *parent == server.pid().cast_signed()).map(|(state, _)| (pid, state));
    pids.filter_map(of_server).collect()
}

#[track_caller]
fn wait_for_no_children(server: &TestServer) {
    let gone = wait::within(CLIENT_DEADLINE, || children(server).is_empty().then_some(()));
    assert!(gone.is_some(), "neither running nor zombies: {:?}", children(server));
}

fn count(server: &TestServer, words: &[&str]) -> usize {
    server.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn start(application: &str, files: &[(&str, &str)]) -> TestServer {
    let rtmp =
        format!("rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {application} }} }} }}");
    TestServer::start_with_files(&rtmp, files)
}

/// Writes its id, and that of a child of its own, and stays.
const STAYS: &str = "sleep 1000 &\necho $! >> $1\necho $$ >> $1\nwait\n";

const STUBBORN: &str = "trap '' TERM\nsleep 1000 &\necho $! >> $1\necho $$ >> $1\nwhile :; do wait; done\n";

#[test]
fn a_child_and_its_own_live_as_long_as_their_publish() {
    let server = start("exec bash @dir@/conf/stays.sh @dir@/pids;", &[("stays.sh", STAYS)]);
    let witness = Witness::of(&server, "pids");
    let (publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let pids = witness.pids(2);
    assert!(pids.iter().all(|pid| runs(*pid)));
    drop(publisher);
    wait_until_gone(&pids, Duration::from_secs(3));
    wait_for_no_children(&server);
    // The next publish has its own.
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    assert!(runs(witness.pids(4)[3]));
}

#[test]
fn who_ignores_the_signal_is_killed_with_all_its_own() {
    let server =
        start("exec_kill_signal term; exec bash @dir@/conf/stubborn.sh @dir@/pids;", &[("stubborn.sh", STUBBORN)]);
    let (publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let pids = Witness::of(&server, "pids").pids(2);
    drop(publisher);
    let began = Instant::now();
    wait_until_gone(&pids, Duration::from_secs(8));
    assert!(began.elapsed() > Duration::from_secs(4), "it had its time");
    wait_for_no_children(&server);
}

#[test]
fn nobody_outlives_a_server_that_ends() {
    let mut server = start(
        "exec_kill_signal term; exec bash @dir@/conf/stubborn.sh @dir@/pids; exec_static bash @dir@/conf/stays.sh @dir@/static;
         exec_publish_done bash -c 'echo done >> @dir@/done';",
        &[("stubborn.sh", STUBBORN), ("stays.sh", STAYS)],
    );
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let mut pids = Witness::of(&server, "pids").pids(2);
    pids.extend(Witness::of(&server, "static").pids(2));
    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_exit(Duration::from_secs(8)).success());
    wait_until_gone(&pids, Duration::from_secs(1));
    assert_eq!(Witness::of(&server, "done").wait_for(1), ["done"]);
}

#[test]
fn nobody_outlives_a_server_that_is_killed() {
    let mut server = start(
        "exec sleep 1000; exec bash -c 'echo push >> @dir@/began; exec sleep 1000'; exec_static sleep 1000;",
        &[],
    );
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    Witness::of(&server, "began").wait_for(1);
    let pids: Vec<i32> = children(&server).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(pids.len(), 3, "{}", server.log());
    server.signal(Signal::SIGKILL);
    server.wait_for_exit(Duration::from_secs(5));
    wait_until_gone(&pids, Duration::from_secs(2));
}

#[test]
fn a_child_is_given_nothing_of_the_servers() {
    let server = start(
        "exec_publish ls -l /proc/self/fd >@dir@/fds 2>&1;
         exec_publish cat /proc/self/status >@dir@/status;
         exec_publish env >@dir@/env 2>>@dir@/env-errors;
         exec_publish bash -c 'readlink /proc/self/cwd >@dir@/cwd';",
        &[],
    );
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let is_there = |name: &&str| server.dir().join(name).exists();
    wait::until("all four have begun", Duration::from_secs(10), || {
        ["fds", "status", "env", "cwd"].iter().all(is_there).then_some(())
    });
    wait_for_no_children(&server);
    let read =
        |name: &str| fs::read_to_string(server.dir().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let fds = read("fds");
    let fds: Vec<&str> = fds.lines().filter_map(|line| line.split(" -> ").nth(1)).collect();
    // The last one is the folder that is being listed.
    assert_eq!((fds.len(), fds[0]), (4, "/dev/null"), "{fds:?}");
    assert!(fds[1].ends_with("/fds") && fds[2].ends_with("/fds") && fds[3].ends_with("/fd"), "{fds:?}");
    let status = read("status");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
        u64::from_str_radix(line.trim(), 16).expect("a mask") & 0x7fff_ffff
    };
    // Those above are the C library's own.
    assert_eq!((mask("SigIgn:"), mask("SigBlk:")), (0, 0), "{status}");
    assert!(!status.contains("THP_enabled:\t0"), "{status}");
    let environment = read("env");
    assert!(environment.lines().any(|line| line.starts_with("PATH=")), "{environment}");
    let usual = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
    for line in environment.lines() {
        let name = line.split('=').next().unwrap_or_default();
        assert!(usual.contains(&name) || name.starts_with("LC_"), "{line}");
    }
    assert_eq!(Path::new(read("cwd").trim()), fs::canonicalize(server.dir()).expect("it is there"));
}

#[test]
fn what_the_server_inherited_goes_no_further_and_who_is_left_behind_is_reaped() {
    // As the first process of a container does, it has a child that it never started.
    let script = "exec 7</dev/null 9</dev/null; sleep 1 & echo $! > left-behind";
    let server = TestServer::start_in_place_of_shell(
        script,
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; exec_publish ls /proc/self/fd >@dir@/fds; } } }",
    );
    assert!(Path::new(&format!("/proc/{}/fd/7", server.pid())).exists(), "the server has it");
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let left_behind = Witness::of(&server, "left-behind").pids(1);
    wait_until_gone(&left_behind, CLIENT_DEADLINE);
    wait_for_no_children(&server);
    assert_eq!(Witness::of(&server, "fds").lines(), ["0", "1", "2", "3"], "the last one is the folder");
}

#[test]
fn what_a_child_says_is_in_the_log_or_where_the_line_sends_it() {
    let server = start(
        "exec_publish bash -c 'echo to the log; echo errors too >&2; printf no-end';
         exec_publish bash -c 'echo quiet; echo kept >&2' >/dev/null 2>>@dir@/err-$name.log;",
        &[],
    );
    for _ in 0..2 {
        drop(RtmpPeer::publish(server.port(), "live", "cam"));
        wait_for_no_children(&server);
    }
    for said in ["to the log", "errors too", "no-end"] {
        server.wait_for_log(&["bash[", said], CLIENT_DEADLINE);
    }
    // A publish may be over before its commands have begun.
    let kept = || (Witness::of(&server, "err-cam.log").lines() == ["kept", "kept"]).then_some(());
    wait::until("both have written", CLIENT_DEADLINE, kept);
    assert_eq!(count(&server, &["quiet"]) + count(&server, &["kept"]), 0, "{}", server.log());
}

#[test]
fn a_flood_costs_the_server_nothing_and_ends_with_its_publish() {
    let flood = "yes flood flood flood flood flood flood flood | head -c 1G\necho $$ >> $1\nsleep 1000\n";
    let mut server =
        start("exec_options on; exec bash @dir@/conf/flood.sh @dir@/pids name=cam;", &[("flood.sh", flood)]);
    health::unharmed(&mut server, |server| {
        let (publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
        server.wait_for_log(&["bash[", "lines left out)"], CLIENT_DEADLINE);
        server.wait_for_log(&["bash[", "lines left out)"], CLIENT_DEADLINE);
        let began = Instant::now();
        let before = count(server, &["flood flood"]);
        wait::until("three seconds of it", CLIENT_DEADLINE, || {
            (began.elapsed() > Duration::from_secs(3)).then_some(())
        });
        let lines = count(server, &["flood flood"]) - before;
        assert!((10..=60).contains(&lines), "{lines} lines in three seconds");
        drop(publisher);
        wait_for_no_children(server);
    });
}

#[test]
fn a_child_that_dies_at_once_is_no_storm() {
    let server = start("respawn_timeout 200ms; exec bash -c 'echo began >> @dir@/starts';", &[]);
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    let began = Instant::now();
    let witness = Witness::of(&server, "starts");
    // After 0.2, 0.4, 0.8 and 1.6 s.
    witness.wait_for(5);
    let took = began.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_millis(6000)).contains(&took), "{took:?}");
    assert!(children(&server).iter().all(|(_, state)| *state != 'Z'));
}

#[test]
fn without_respawn_a_child_has_one_life() {
    let server = start("respawn off; respawn_timeout 100ms; exec bash -c 'echo began >> @dir@/starts';", &[]);
    let (publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    server.wait_for_log(&["exec: exited with code 0"], CLIENT_DEADLINE);
    drop(publisher);
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    wait::until("its end", CLIENT_DEADLINE, || (count(&server, &["exec: exited with code 0"]) == 2).then_some(()));
    assert_eq!(Witness::of(&server, "starts").lines().len(), 2);
}

#[test]
fn a_command_that_cannot_be_run_is_told_from_one_that_failed() {
    let server = start(
        "exec no-such-command-7; exec @dir@/conf/plain.txt; exec @dir@/nowhere; exec bash -c 'exit 127';
         exec_publish true >@dir@/no-folder/x;",
        &[("plain.txt", "no program")],
    );
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam");
    for words in [
        &["cannot run \"no-such-command-7\": not found in PATH ("][..],
        &["cannot run", "plain.txt\": permission denied"],
        &["cannot run", "nowhere\": there is no such file"],
        &["exec: exited with code 127", "command: bash"],
        &["cannot run \"true\": open() ", "no-folder/x"],
    ] {
        server.wait_for_log(words, CLIENT_DEADLINE);
    }
}

#[test]
fn events_are_run_once_each_with_what_is_known_of_the_session() {
    let all = "$app|$name|$args|$addr|$flashver|$tcurl|$swfurl|$path|${name}x|$name_low";
    let line = |directive: &str| format!("{directive} bash @dir@/conf/note.sh @dir@/notes {directive} \"{all}\";\n");
    let events = ["exec_publish", "exec_publish_done", "exec_play", "exec_play_done"];
    let lines: String = events.iter().map(|event| line(event)).collect();
    let server = start(&lines, &[("note.sh", "echo \"$2 $3\" >> $1\n")]);
    let witness = Witness::of(&server, "notes");
    let (publisher, _) = RtmpPeer::publish(server.port(), "live", "cam?a=1&b=%20");
    witness.wait_for(1);
    let (player, _) = RtmpPeer::play(server.port(), "live", "cam?who=me");
    witness.wait_for(2);
    drop(player);
    witness.wait_for(3);
    drop(publisher);
    witness.wait_for(4);
    wait_for_no_children(&server);
    let said = |args: &str| {
        format!("live|cam|{args}|127.0.0.1|FMLE/3.0 (compatible; test)|rtmp://127.0.0.1/live|||camx|cam_low")
    };
    let expected = [
        format!("exec_publish {}", said("a=1&b=%20")),
        format!("exec_play {}", said("who=me")),
        format!("exec_play_done {}", said("who=me")),
        format!("exec_publish_done {}", said("a=1&b=%20")),
    ];
    assert_eq!(witness.lines(), expected);
}

#[test]
fn viewers_over_http_play_too() {
    let rtmp = "rtmp { server { listen 127.0.0.1:@port@; application live { live on;
        exec_play bash @dir@/conf/note.sh @dir@/notes began $name; exec_play_done bash @dir@/conf/note.sh @dir@/notes ended $name; } } }
        http { server { listen 127.0.0.1:@port2@; } }";
    let server = TestServer::start_with_files(rtmp, &[("note.sh", "echo \"$2 $3\" >> $1\n")]);
    let mut publisher = Publishing::start(&server, "cam");
    publisher.peer.send_audio(publisher.msid, 0, AAC_CONFIG);
    publisher.send_frames(0..30);
    publisher.settle();
    let witness = Witness::of(&server, "notes");
    let mut viewer = FlvViewer::watch(server.other_port(1), "/live/cam.flv");
    assert!(viewer.tag().is_some());
    witness.wait_for(1);
    drop(viewer);
    publisher.send_frames(30..60);
    witness.wait_for(2);
    assert_eq!(witness.lines(), ["began cam", "ended cam"]);
}

#[test]
fn no_name_becomes_an_option_or_a_command() {
    let server = start(
        "exec_publish bash @dir@/conf/args.sh @dir@/args $name u?$args; exec_publish bash @dir@/conf/args.sh @dir@/bare $args;",
        &[("args.sh", "into=$1\nshift\nfor arg in \"$@\"; do printf '<%s>' \"$arg\"; done >> $into\necho >> $into\n")],
    );
    // Names that could be something else are no names.
    for name in ["-i", "--help", "a b", ";rm", "$(x)", "%00", "a%0ab", "../x", "%2d%2dhelp"] {
        let mut peer = RtmpPeer::connect(server.port(), "live");
        let msid = peer.create_stream();
        peer.command(msid, "publish", &[common::wire::Amf::Null, name.into(), "live".into()]);
        assert_eq!(peer.expect_status(msid), "NetStream.Publish.BadName", "{name}");
    }
    assert_eq!(count(&server, &["exec: started"]), 0);
    // What comes after the name is less certain.
    let (_publisher, _) = RtmpPeer::publish(server.port(), "live", "cam?;touch x $(touch y) `z` \"'* 2>>w");
    let args = Witness::of(&server, "args");
    let expected = "<cam><u?;touch x $(touch y) `z` \"'* 2>>w>";
    assert_eq!(args.wait_for(1), [expected]);
    assert_eq!(Witness::of(&server, "bare").wait_for(1), ["<;touch x $(touch y) `z` \"'* 2>>w>"]);
    let (_other, _) = RtmpPeer::publish(server.port(), "live", "two?--help");
    server.wait_for_log(&["exec: not started: argument 3 would become an option"], CLIENT_DEADLINE);
    let (_third, _) = RtmpPeer::publish(server.port(), "live", "three?a\nb");
    server.wait_for_log(&["exec: not started: $args holds a control character"], CLIENT_DEADLINE);
    wait_for_no_children(&server);
    assert_eq!(Witness::of(&server, "bare").lines().len(), 1);
}

#[test]
fn a_stream_is_pulled_from_the_first_player_to_the_last() {
    let file = Fixture::H264Aac.path();
    let pull = format!(
        "exec_pull ffmpeg -nostdin -loglevel error -re -stream_loop -1 -i {} -c copy -f flv rtmp://127.0.0.1:@port@/$app/$name;",
        file.display()
    );
    // A player must be able to wait, also where waiting is off.
    let server = start(&format!("idle_streams off; pull_idle 2s; {pull}"), &[]);
    assert_eq!(children(&server), []);
    let (mut first, _) = RtmpPeer::play(server.port(), "live", "cam");
    assert!(first.sees_keyframe(CLIENT_DEADLINE), "{}", server.log());
    let (mut second, _) = RtmpPeer::play(server.port(), "live", "cam");
    assert!(second.sees_keyframe(CLIENT_DEADLINE));
    drop(first);
    assert!(second.sees_keyframe(CLIENT_DEADLINE));
    let pids: Vec<i32> = children(&server).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!((pids.len(), count(&server, &["exec: started", "kind: exec_pull"])), (1, 1));
    drop(second);
    // Who comes back soon finds it.
    let (mut third, _) = RtmpPeer::play(server.port(), "live", "cam");
    assert!(third.sees_keyframe(CLIENT_DEADLINE));
    drop(third);
    wait_until_gone(&pids, CLIENT_DEADLINE);
    assert_eq!(count(&server, &["exec: started", "kind: exec_pull"]), 1);
    wait_for_no_children(&server);
}

#[test]
fn what_the_server_runs_beside_itself_is_started_again() {
    let server =
        start("respawn_timeout 100ms; exec_static bash @dir@/conf/stays.sh @dir@/pids;", &[("stays.sh", STAYS)]);
    let witness = Witness::of(&server, "pids");
    let first = witness.pids(2);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first[1]), Signal::SIGKILL).expect("it runs");
    let second = witness.pids(4);
    assert!(runs(second[3]));
    wait_until_gone(&first, Duration::from_secs(2));
}

#[test]
fn a_crowd_of_players_starts_a_bounded_crowd_of_children() {
    let server = start("exec_max_children 3; exec_play sleep 1000;", &[]);
    let players: Vec<_> = (0..6).map(|_| RtmpPeer::play(server.port(), "live", "cam")).collect();
    server.wait_for_log(&["exec: not started: exec_max_children is reached"], CLIENT_DEADLINE);
    server.wait_for_players("cam", 6);
    let (_other, _) = RtmpPeer::play(server.port(), "live", "other");
    wait::until("the other stream's", CLIENT_DEADLINE, || (children(&server).len() == 4).then_some(()));
    assert_eq!(count(&server, &["exec: started"]), 4);
    drop(players);
    // Nobody keeps them: the test does.
    for (pid, _) in children(&server) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }
    wait_for_no_children(&server);
}

#[test]
fn document_c_makes_five_renditions_and_a_playlist_of_them() {
    let text = fs::read_to_string("tests/fixtures/document_c.conf").expect("the fixture");
    // As it is, but for ports and folders; the encoder of its image is not free, so it is in no distribution.
    let text = text
        .replace("listen 1935;", "listen 127.0.0.1:@port@;")
        .replace("listen 80;", "listen 127.0.0.1:@port2@;")
        .replace("localhost:1935", "127.0.0.1:@port@")
        .replace("libfdk_aac", "aac")
        .replace("/opt/data", "@dir@")
        .replace("/dev/stdout", "stderr");
    let mime_types = fs::read_to_string("tests/fixtures/mime.types").expect("the fixture");
    let server = TestServer::start_whole(&text, &[("mime.types", &mime_types)]);
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i"]).arg(Fixture::H264Aac.path());
    command.args(["-c", "copy", "-f", "flv", &server.url("stream/tv")]).stdin(Stdio::null());
    let publishing = Running::start("the camera", command);

    let suffixes = ["_720p2628kbs", "_480p1128kbs", "_360p878kbs", "_240p528kbs", "_240p264kbs"];
    for suffix in suffixes {
        let playlist = server.dir().join(format!("hls/tv{suffix}/index.m3u8"));
        let there = wait::within(RENDITIONS_DEADLINE, || playlist.is_file().then_some(()));
        assert!(there.is_some(), "{}: {}", playlist.display(), server.log());
    }
    let (mut player, _) = RtmpPeer::play(server.port(), "hls", "tv_240p264kbs");
    assert!(player.sees_keyframe(CLIENT_DEADLINE));
    let master = common::http::get(server.other_port(1), "/live/tv.m3u8").text();
    for suffix in suffixes {
        assert!(master.contains(&format!("tv{suffix}/index.m3u8")), "{master}");
    }
    assert_eq!(count(&server, &["exec: started", "kind: exec,", "command: ffmpeg"]), 1, "{}", server.log());
    let pids: Vec<i32> = children(&server).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(pids.len(), 1);
    drop(publishing);
    wait_until_gone(&pids, CLIENT_DEADLINE);
    wait_for_no_children(&server);
}

/// Five encoders on whatever machine this is.
const RENDITIONS_DEADLINE: Duration = Duration::from_secs(120);
