//! DASH from memory: the same segments as HLS in a manifest, from the first request to the end of the stream.

mod common;

use std::process::Command;
use std::time::Duration;

use common::fixtures::Fixture;
use common::http::{get, request};
use common::server::TestServer;
use common::tools::{Running, ffmpeg_newer};
use common::wait;

#[test]
fn every_kind_of_stream_plays_in_ffmpeg_without_an_error() {
    let server = TestServer::start_without_a_file();
    let _publishing: Vec<Running> = Fixture::ALL
        .iter()
        .map(|fixture| publish(*fixture, &server.url(&format!("live/{}", fixture.name()))))
        .collect();
    for fixture in Fixture::ALL {
        let text = manifest(&server, fixture.name());
        assert_eq!(text.contains("contentType=\"video\""), fixture != Fixture::AudioOnly, "{text}");
        assert_eq!(text.contains("contentType=\"audio\""), fixture != Fixture::VideoOnly, "{text}");
        play(&format!("http://127.0.0.1:{}/live/{}/manifest.mpd", server.other_port(1), fixture.name()));
    }
}

#[test]
fn what_players_rely_on_never_changes_and_every_segment_is_there() {
    let server = TestServer::start_without_a_file();
    let port = server.other_port(1);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    let first = manifest(&server, "a");
    let later = wait::until("three more segments", PATIENCE, || {
        Some(manifest(&server, "a")).filter(|text| durations(text) >= durations(&first) + 6)
    });
    for name in ["availabilityStartTime", "suggestedPresentationDelay", "type", "minBufferTime"] {
        assert_eq!(attribute(&first, name), attribute(&later, name), "{name}");
    }
    assert_eq!(attribute(&later, "type").as_deref(), Some("dynamic"));
    for set in later.split("<AdaptationSet").skip(1) {
        let init = attribute(set, "initialization").expect("an initialisation");
        assert_eq!(get(port, &format!("/live/a/{init}")).status, 200, "{init}");
        let media = attribute(set, "media").expect("a template");
        let mut number: u64 = attribute(set, "startNumber").and_then(|number| number.parse().ok()).expect("a number");
        let list = set.split("<S ").skip(1).take_while(|rest| rest.contains("/>"));
        for entry in list {
            let repeated: u64 =
                attribute(entry.split("/>").next().unwrap_or_default(), "r").map_or(0, |r| r.parse().expect("r"));
            for _ in 0..=repeated {
                let name = media.replace("$Number$", &number.to_string());
                assert_eq!(get(port, &format!("/live/a/{name}")).status, 200, "{name} of {set}");
                number += 1;
            }
        }
    }
    // The clock is beside the manifest, and right.
    let clock = attribute(&later, "value").filter(|_| later.contains("UTCTiming"));
    assert!(clock.is_some(), "{later}");
    let said: jiff::Timestamp = get(port, "/live/a/now.time").text().parse().expect("a date");
    let off = jiff::Timestamp::now().duration_since(said).abs();
    assert!(off < jiff::SignedDuration::from_secs(5), "{off:?}");
}

#[test]
fn answers_are_what_players_expect() {
    let server = TestServer::start_without_a_file();
    let port = server.other_port(1);
    assert_eq!(get(port, "/live/nobody/manifest.mpd").status, 404);
    let _publishing = publish(Fixture::H264Aac, &server.url("live/a"));
    manifest(&server, "a");
    let answer = get(port, "/live/a.mpd");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/dash+xml")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let zipped = request(port, "GET", "/live/a/manifest.mpd", &[("Accept-Encoding", "gzip")]);
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!(request(port, "HEAD", "/live/a/manifest.mpd", &[]).status, 200);
}

#[test]
fn a_publisher_that_comes_back_begins_a_period_and_one_that_stays_away_makes_it_static() {
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@; application live { live on; http_end_after 3s; } } }
         http { server { listen 127.0.0.1:@port2@; location / { player on; } } }",
    );
    let first = publish(Fixture::H264Aac, &server.url("live/a"));
    let before = manifest(&server, "a");
    drop(first);
    server.wait_for_log(&["publish ended"], PATIENCE);
    let second = publish(Fixture::H264Aac, &server.url("live/a"));
    let after = wait::until("another period", PATIENCE, || {
        Some(manifest(&server, "a")).filter(|text| text.matches("<Period").count() == 2)
    });
    assert_eq!(attribute(&after, "availabilityStartTime"), attribute(&before, "availabilityStartTime"));
    assert_eq!(attribute(&after, "type").as_deref(), Some("dynamic"));
    drop(second);
    let ended = wait::until("the end", PATIENCE, || {
        Some(manifest(&server, "a")).filter(|text| attribute(text, "type").as_deref() == Some("static"))
    });
    assert!(ended.contains("mediaPresentationDuration") && !ended.contains("minimumUpdatePeriod"), "{ended}");
    play(&format!("http://127.0.0.1:{}/live/a/manifest.mpd", server.other_port(1)));
}

/// The manifest, once the stream is published.
fn manifest(server: &TestServer, name: &str) -> String {
    let path = format!("/live/{name}/manifest.mpd");
    wait::until("the manifest", PATIENCE, || {
        let mut answer = get(server.other_port(1), &path);
        (answer.status == 200).then(|| answer.text())
    })
}

fn attribute(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!(" {name}=\""))?;
    Some(rest.split('"').next()?.to_owned())
}

/// Segments in all renditions.
fn durations(text: &str) -> usize {
    let entries = text.split("<S ").skip(1).map(|rest| rest.split("/>").next().unwrap_or_default());
    entries.map(|entry| 1 + attribute(&format!(" {entry}"), "r").map_or(0, |r| r.parse().expect("a number"))).sum()
}

/// Publishes a fixture over and over, as fast as life.
fn publish(fixture: Fixture, url: &str) -> Running {
    let mut command = Command::new(ffmpeg_newer());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(fixture.path()).args(["-c", "copy", "-f", "flv", url]);
    Running::start(&format!("publishing {}", fixture.name()), command)
}

/// Plays three seconds with errors fatal.
fn play(url: &str) {
    let mut ffmpeg = Command::new(ffmpeg_newer());
    ffmpeg.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-i", url, "-t", "3", "-f", "null", "-"]);
    let played = ffmpeg.output().expect("ffmpeg runs");
    let said = String::from_utf8_lossy(&played.stderr);
    let mut faults = said.lines().filter(|line| !line.ends_with("Skipped it") && !line.is_empty());
    assert!(played.status.success() && faults.next().is_none(), "{url}: {said}");
}

/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
