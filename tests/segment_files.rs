//! Segments on disk: the files, names and lists of nginx-rtmp, and what must not hurt a stream.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::fixtures::Fixture;
use common::peer::RtmpPeer;
use common::playlist::Playlist;
use common::server::TestServer;
use common::tools::{Running, ffmpeg_newer};
use common::wait;

#[test]
fn document_a_is_written_and_its_folder_may_be_moved_away_while_the_stream_goes_on() {
    let server = with(
        "hls on; wait_key on; hls_path @dir@/usr/data/video/hls; hls_nested on; hls_fragment 1s; hls_playlist_length 900s;
         hls_continuous on; http_end_after 2s;",
    );
    let folder = server.dir().join("usr/data/video/hls/n");
    let publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    let list = list_with(&folder.join("index.m3u8"), 2);
    assert_eq!((list.sequence, list.uris()[..2].to_vec()), (0, vec!["0.ts", "1.ts"]));
    assert!(list.segments[0].discontinuity && !list.segments[1].discontinuity, "{}", list.text);
    let kept = server.dir().join("kept");
    fs::rename(&folder, &kept).expect("a move on one disk");
    let moved = Playlist::read(&fs::read_to_string(kept.join("index.m3u8")).expect("the playlist moved along"));
    let after = list_with(&folder.join("index.m3u8"), 2);
    assert_eq!(after.sequence, moved.next(), "numbers go on, and nothing is listed that is not there: {}", after.text);
    check_files(&folder, &after);
    check_files(&kept, &moved);
    drop(publishing);
    let ended =
        wait::until("the end of the list", PATIENCE, || read(&folder.join("index.m3u8")).filter(|l| l.is_ended));
    check_files(&folder, &ended);
    play(&folder.join("index.m3u8"));
    // Moved away after the end: nothing comes back.
    assert!(names(&folder).iter().all(|name| !name.ends_with(".bak")), "{:?}", names(&folder));
}

#[test]
fn a_publisher_that_comes_back_later_finds_its_numbers() {
    let server = with("hls on; hls_path @dir@/hls; hls_fragment 1s; http_end_after 0;");
    let path = server.dir().join("hls/n.m3u8");
    let first = publish(Fixture::H264Aac, &server.url("live/n"));
    list_with(&path, 2);
    drop(first);
    server.wait_for_log(&["segments stop"], PATIENCE);
    let before = read(&path).expect("a playlist");
    let _second = publish(Fixture::H264Aac, &server.url("live/n"));
    let after = list_with(&path, before.segments.len() + 2);
    assert_eq!(after.sequence, before.sequence);
    assert_eq!(after.segments[..before.segments.len()], before.segments[..]);
    let number = before.next();
    let next = &after.segments[before.segments.len()];
    assert_eq!((next.uri.as_str(), next.discontinuity), (format!("n-{number}.ts").as_str(), true), "{}", after.text);
    assert!(!after.is_ended, "{}", after.text);
    check_files(&server.dir().join("hls"), &after);
}

#[test]
fn document_b_writes_plain_names_and_a_loop_goes_on() {
    let server = with("hls on; hls_path @dir@/html/cctvf; hls_fragment 1s; hls_playlist_length 4s;");
    let folder = server.dir().join("html/cctvf");
    let _publishing = publish(Fixture::H264Aac, &server.url("live/cam"));
    let list = wait::until("a list that slides", PATIENCE, || {
        read(&folder.join("cam.m3u8")).filter(|list| list.sequence >= 3 && list.segments.len() == 4)
    });
    let number = list.sequence;
    assert_eq!(list.segments[0].uri, format!("cam-{number}.ts"));
    assert_eq!(list.text.lines().take(2).collect::<Vec<_>>(), ["#EXTM3U", "#EXT-X-VERSION:3"]);
    check_files(&folder, &list);
}

#[test]
fn document_c_has_a_list_of_variants_also_where_the_key_is_empty() {
    let server = with(
        "hls on; hls_fragment_naming system; hls_fragment 1; hls_playlist_length 10; hls_path @dir@/opt/data/hls; hls_nested on;
         hls_variant _720p2628kbs BANDWIDTH=2628000,RESOLUTION=1280x720; hls_variant _480p1128kbs BANDWIDTH=1128000;",
    );
    let folder = server.dir().join("opt/data/hls");
    let _named = publish(Fixture::H264Aac, &server.url("live/cam_720p2628kbs"));
    let _unnamed = publish(Fixture::H264Aac, &server.url("live/_720p2628kbs"));
    for (name, master, prefix) in [("cam_720p2628kbs", "cam.m3u8", "cam"), ("_720p2628kbs", "index.m3u8", "")] {
        let list = list_with(&folder.join(name).join("index.m3u8"), 2);
        let id: u64 = list.segments[0].uri.strip_suffix(".ts").and_then(|id| id.parse().ok()).expect("a number");
        assert!(id > 1_500_000_000_000, "milliseconds of the wall clock: {id}");
        let text = fs::read_to_string(folder.join(master)).expect("the list of variants");
        assert_eq!(
            text,
            format!(
                "#EXTM3U\n#EXT-X-VERSION:3\n\
                 #EXT-X-STREAM-INF:PROGRAM-ID=1,BANDWIDTH=2628000,RESOLUTION=1280x720\n{prefix}_720p2628kbs/index.m3u8\n\
                 #EXT-X-STREAM-INF:PROGRAM-ID=1,BANDWIDTH=1128000\n{prefix}_480p1128kbs/index.m3u8\n"
            )
        );
        play(&folder.join(name).join("index.m3u8"));
    }
}

#[test]
fn an_empty_key_has_files_that_can_be_found() {
    let server = with("hls on; hls_path @dir@/hls; hls_fragment 1s;");
    let mut command = Command::new(ffmpeg_newer());
    command.args(["-nostdin", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i"]).arg(Fixture::H264Aac.path());
    command.args(["-c", "copy", "-f", "flv", "-rtmp_playpath", "", &server.url("live")]);
    let _publishing = Running::start("publishing with an empty key", command);
    let list = list_with(&server.dir().join("hls/%.m3u8"), 1);
    assert_eq!(list.segments[0].uri, "%25-0.ts", "an address, in which a percent sign is escaped");
    assert!(server.dir().join("hls/%-0.ts").exists());
}

#[test]
fn encrypted_segments_play_with_their_keys() {
    let server = with(
        "hls on; hls_path @dir@/hls; hls_fragment 1s; hls_keys on; hls_key_path @dir@/keys; hls_key_url ../keys/;
         hls_fragments_per_key 2;",
    );
    let path = server.dir().join("hls/n.m3u8");
    let _publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    let list = list_with(&path, 4);
    let keys: Vec<&str> = list.segments.iter().filter_map(|segment| segment.key.as_deref()).collect();
    assert_eq!(keys[..4], ["../keys/n-0.key", "../keys/n-0.key", "../keys/n-2.key", "../keys/n-2.key"]);
    assert_eq!(fs::read(server.dir().join("keys/n-0.key")).expect("the key").len(), 16);
    let segment = fs::read(server.dir().join("hls/n-0.ts")).expect("a segment");
    assert!(!segment.len().is_multiple_of(188) || segment[0] != 0x47, "it is encrypted");
    play(&path);
}

#[test]
fn every_kind_of_stream_that_ts_can_carry_is_written_and_plays() {
    let server = with("hls on; hls_path @dir@/hls; hls_fragment 1s; hls_nested on;");
    let fixtures = [Fixture::H264BFrames, Fixture::AudioOnly, Fixture::VideoOnly, Fixture::Hevc];
    let _publishing: Vec<Running> =
        fixtures.iter().map(|fixture| publish(*fixture, &server.url(&format!("live/{}", fixture.name())))).collect();
    for fixture in fixtures {
        let folder = server.dir().join("hls").join(fixture.name());
        check_files(&folder, &list_with(&folder.join("index.m3u8"), 3));
        play(&folder.join("index.m3u8"));
    }
}

#[test]
fn a_disk_that_takes_nothing_costs_files_and_no_stream() {
    let server =
        with("hls on; hls_path @dir@/file/hls; hls_fragment 1s; dash on; dash_path @dir@/file/dash; dash_fragment 1s;");
    fs::write(server.dir().join("file"), "where a folder should be").expect("a file");
    let _publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    server.wait_for_log(&["a file was not written"], PATIENCE);
    let mut player = RtmpPeer::play(server.port(), "live", "n").0;
    assert!(player.sees_keyframe(Duration::from_secs(20)), "the stream goes on");
    fs::remove_file(server.dir().join("file")).expect("our own file");
    let list = list_with(&server.dir().join("file/hls/n.m3u8"), 2);
    assert_eq!(list.segments[0].uri, "n-0.ts", "what was lost was never listed");
    check_files(&server.dir().join("file/hls"), &list);
    server.wait_for_log(&["files are written again"], PATIENCE);
    wait::until("a manifest", PATIENCE, || server.dir().join("file/dash/n.mpd").exists().then_some(()));
    let said = server.log().matches("a file was not written").count();
    assert!(said <= 2, "one line for each output, not one for each file: {said}");
}

#[test]
fn the_end_of_the_server_writes_the_last_files() {
    let mut server =
        with("hls on; hls_path @dir@/hls; hls_fragment 10s; dash on; dash_path @dir@/dash; dash_fragment 10s;");
    let _publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    let mut player = RtmpPeer::play(server.port(), "live", "n").0;
    assert!(player.sees_keyframe(Duration::from_secs(20)));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait_for_exit(PATIENCE);
    let list = read(&server.dir().join("hls/n.m3u8")).expect("what had come is listed");
    check_files(&server.dir().join("hls"), &list);
    assert!(server.dir().join("dash/n.mpd").exists());
}

#[test]
fn dash_is_written_with_the_names_of_the_family_and_plays() {
    let server = with(
        "dash on; dash_path @dir@/dash; dash_fragment 1s; dash_playlist_length 30s; dash_nested on;
         dash_clock_compensation http_head; dash_clock_helper_uri https://time.example/;",
    );
    let folder = server.dir().join("dash/n");
    let _publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    let text = wait::until("a manifest with some fragments", PATIENCE, || {
        let text = fs::read_to_string(folder.join("index.mpd")).ok()?;
        (text.matches("<S t=").count() >= 12).then_some(text)
    });
    assert!(
        text.contains("id=\"n_H264\"") && text.contains("id=\"n_AAC\"") && text.contains("media=\"$Time$.m4v\""),
        "{text}"
    );
    assert!(text.contains("urn:mpeg:dash:utc:http-head:2014") && text.contains("https://time.example/"), "{text}");
    for start in text.split("<S t=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        for suffix in ["m4v", "m4a"] {
            assert!(folder.join(format!("{start}.{suffix}")).exists(), "{start}.{suffix}");
        }
    }
    // ffmpeg finds the files of a manifest only where it came over HTTP.
    play(format!("http://127.0.0.1:{}/dash/n/index.mpd", server.other_port(1)).as_ref());
}

#[test]
fn old_files_are_swept_and_what_is_not_ours_stays() {
    let server =
        with("hls on; hls_path @dir@/hls; hls_fragment 1s; hls_playlist_length 2s; hls_nested on; http_end_after 0;");
    let folder = server.dir().join("hls");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("page.html"), "ours").expect("a file");
    let publishing = publish(Fixture::H264Aac, &server.url("live/n"));
    list_with(&folder.join("n/index.m3u8"), 2);
    wait::until("the first segment to be swept", PATIENCE, || (!folder.join("n/0.ts").exists()).then_some(()));
    check_files(&folder.join("n"), &read(&folder.join("n/index.m3u8")).expect("the list is young"));
    drop(publishing);
    wait::until("the folder to be swept", PATIENCE, || (!folder.join("n").exists()).then_some(()));
    assert_eq!(names(&folder), ["page.html"]);
}

/// An application `live` with these directives.
fn with(application: &str) -> TestServer {
    TestServer::start(&format!(
        "rtmp {{ server {{ listen 127.0.0.1:@port@; application live {{ live on; {application} }} }} }}
         http {{ server {{ listen 127.0.0.1:@port2@; location / {{ root @dir@; }} }} }}"
    ))
}

/// Publishes a fixture over and over, as fast as life.
fn publish(fixture: Fixture, url: &str) -> Running {
    let mut command = Command::new(ffmpeg_newer());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(fixture.path()).args(["-c", "copy", "-f", "flv", url]);
    Running::start(&format!("publishing {}", fixture.name()), command)
}

fn read(path: &Path) -> Option<Playlist> {
    fs::read_to_string(path).ok().map(|text| Playlist::read(&text))
}

/// The playlist, once it has so many segments.
fn list_with(path: &Path, count: usize) -> Playlist {
    wait::until(&format!("{count} segments in {}", path.display()), PATIENCE, || {
        read(path).filter(|list| list.segments.len() >= count)
    })
}

/// What is listed is there.
#[track_caller]
fn check_files(folder: &Path, list: &Playlist) {
    for segment in &list.segments {
        let about = fs::metadata(folder.join(&segment.uri)).unwrap_or_else(|error| panic!("{}: {error}", segment.uri));
        assert!(about.len() > 0, "{}", segment.uri);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("the folder is there")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Plays some seconds with errors fatal.
fn play(path: &Path) {
    let mut ffmpeg = Command::new(ffmpeg_newer());
    ffmpeg.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-allowed_extensions", "ALL"]);
    if path.extension().is_some_and(|suffix| suffix == "mpd") {
        ffmpeg = Command::new(ffmpeg_newer());
        ffmpeg.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror"]);
    }
    ffmpeg.arg("-i").arg(path).args(["-t", "2", "-f", "null", "-"]);
    let played = ffmpeg.output().expect("ffmpeg runs");
    let said = String::from_utf8_lossy(&played.stderr);
    let mut faults = said.lines().filter(|line| !line.ends_with("Skipped it") && !line.is_empty());
    assert!(played.status.success() && faults.next().is_none(), "{}: {said}", path.display());
}

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
