//! Browsers play: every web player of note, and our own, for a minute with a publisher that comes back in the middle.
//!
//! What is measured is what a viewer sees. The publisher paints its clock into the picture as a row of black and white
//! cells (`tests/browsers/sample.js` reads them back from the canvas), so the age of a picture needs no clock of the
//! stream's: those begin anew with the publisher, and each format has its own. Text (`drawtext`) would need reading, and
//! a message beside the picture would tell of bytes that came, not of frames that were shown.

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::fixtures::Fixture;
use common::server::TestServer;
use common::tools::{self, Running};
use common::wait;
use serde::Deserialize;
use serde_json::json;

/// A player, and what is asked of it.
struct Case {
    name: &'static str,
    player: &'static str,
    address: &'static str,
    /// How old the picture may be, as a rule (the median). Promised for what is made for low latency.
    latency: Duration,
    /// The longest time that the same picture stands still while nothing happens.
    still: Duration,
}

const fn case(name: &'static str, player: &'static str, address: &'static str, latency_ms: u64, still_ms: u64) -> Case {
    Case { name, player, address, latency: Duration::from_millis(latency_ms), still: Duration::from_millis(still_ms) }
}

impl Case {
    fn player(&self) -> serde_json::Value {
        json!({ "name": self.name, "player": self.player, "url": self.address })
    }
}

const CASES: &[Case] = &[
    case("our page", "page", "/play/live/test", 1000, 1500),
    case("our page without WebSocket", "page without sockets", "/play/live/test", 1000, 1500),
    case("hls.js, low latency", "hls.js", "/live/test/index.m3u8", 2000, 1500),
    case("mpegts.js, HTTP-FLV", "mpegts.js", "/live/test.flv", 1000, 1500),
    case("mpegts.js, WebSocket-FLV", "mpegts.js", "ws:/live/test.flv", 1000, 1500),
    case("mpegts.js, HTTP-TS", "mpegts.js", "/live/test.ts", 1500, 1500),
    case("dash.js", "dash.js", "/live/test/manifest.mpd", 20_000, 3000),
    case("video.js, HLS", "video.js", "/live/test/index.m3u8", 20_000, 3000),
];

#[test]
fn browsers_play_for_a_minute_and_outlive_a_publisher_that_comes_back() {
    let _alone = alone();
    let all: Vec<&Case> = CASES.iter().collect();
    let wrong = watch_for_a_minute(&all);
    if wrong.is_empty() {
        return;
    }
    // Decoding for eight players is much for a machine that does other things as well, and a browser that ran dry once asks
    // for more delay from then on. What fails among fewer as well is not the machine's.
    show(&format!(
        "not at the first attempt:\n{}",
        wrong.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>().join("\n")
    ));
    let again: Vec<&Case> = all.into_iter().filter(|case| wrong.iter().any(|(name, _)| *name == case.name)).collect();
    let wrong = watch_for_a_minute(&again);
    assert!(wrong.is_empty(), "\n{}", wrong.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>().join("\n"));
}

/// Says of which player what was wrong.
fn watch_for_a_minute(cases: &[&Case]) -> Vec<(&'static str, String)> {
    let server = TestServer::start_without_a_file();
    let publisher = publish(&[server.url("live/test")]);
    server.wait_for_log(&["live", "live/test"], START_DEADLINE);
    let mut browser = Browser::start(server.other_port(1), cases.iter().map(|case| case.player()), WATCHED);
    browser.wait_for("playing", START_DEADLINE);
    browser.wait_for("half", WATCHED);
    drop(publisher);
    server.wait_for_log(&["publish ended", "live/test"], START_DEADLINE);
    let _publisher = publish(&[server.url("live/test")]);

    let mut wrong = Vec::new();
    for (case, result) in cases.iter().zip(browser.results(cases.len())) {
        assert_eq!(case.name, result.name);
        let figures = Figures::of(&result);
        show(&format!("{:28} {figures}", case.name));
        wrong.extend(
            figures.against(case, &result).into_iter().map(|what| (case.name, format!("{}: {what}", case.name))),
        );
    }
    wrong
}

#[test]
fn our_page_plays_what_the_browser_can_and_names_what_it_cannot() {
    let _alone = alone();
    // Debian's Chromium decodes no HEVC, and no MP3 in MP4.
    let cases = [
        (Fixture::H264BFrames, "avc1,mp4a.40.2", 320, ""),
        (Fixture::Av1Opus, "av01,opus", 320, ""),
        (Fixture::VideoOnly, "avc1", 320, ""),
        (Fixture::AudioOnly, "mp4a.40.2", 0, ""),
        (Fixture::Hevc, "mp4a.40.2", 0, "No picture: this browser cannot play H.265 (HEVC)."),
    ];
    let server = TestServer::start_without_a_file();
    let _publishers = cases.map(|(fixture, ..)| publish_without_end(&server, fixture));
    for (fixture, ..) in cases {
        server.wait_for_log(&[" live,", fixture.name()], START_DEADLINE);
    }
    let player = |(fixture, ..): &(Fixture, _, _, _)| json!({ "name": fixture.name(), "player": "page", "clock": false, "url": format!("/play/live/{}", fixture.name()) });
    let mut browser = Browser::start(server.other_port(1), cases.iter().map(player), LOOKED_AT);
    browser.wait_for("playing", START_DEADLINE);
    for ((fixture, codecs, width, note), played) in cases.into_iter().zip(browser.results(cases.len())) {
        let page = played.page.unwrap_or_default();
        let seen = (page.state.as_str(), page.width, page.note.as_str());
        assert_eq!(seen, ("playing", width, note), "{fixture:?}: {:?}", played.said);
        // Profile and level are the encoder's.
        let mut told = page.codecs.split(',');
        let is_as_said = codecs.split(',').all(|family| told.next().is_some_and(|codec| codec.starts_with(family)));
        assert!(is_as_said && told.next().is_none(), "{fixture:?}: {}", page.codecs);
        assert!(width == 0 || page.frames > 2 * FRAMES_A_SECOND, "{fixture:?}: {} frames", page.frames);
        assert!(page.latency_s.is_some_and(|late| late < 1.0), "{fixture:?}: {:?} s late", page.latency_s);
    }
}

#[test]
fn segments_as_nginx_has_them_play_from_memory_and_from_disk() {
    let _alone = alone();
    // Document C: files of nginx's kind, served by a location to a page on another origin.
    let server = TestServer::start(
        "rtmp { server { listen 127.0.0.1:@port@;
             application memory { live on; hls_format ts; }
             application disk { live on; hls on; hls_path @dir@/hls; hls_fragment 2s; hls_nested on; } } }
         http { server { listen 127.0.0.1:@port2@;
             location / { player on; }
             location /hls { root @dir@; add_header Access-Control-Allow-Origin *; add_header Cache-Control no-cache;
                 types { application/vnd.apple.mpegurl m3u8; video/mp2t ts; } } } }",
    );
    let _publisher = publish(&[server.url("memory/test"), server.url("disk/test")]);
    wait::until("a playlist on disk", START_DEADLINE, || {
        let list = std::fs::read_to_string(server.dir().join("hls/test/index.m3u8")).ok()?;
        (list.matches("#EXTINF").count() >= 3).then_some(())
    });
    let cases = [
        ("hls.js, memory", "hls.js", "/memory/test/index.m3u8"),
        ("video.js, memory", "video.js", "/memory/test/index.m3u8"),
        ("hls.js, disk", "hls.js", "/hls/test/index.m3u8"),
        ("video.js, disk", "video.js", "/hls/test/index.m3u8"),
    ];
    let player = |(name, player, url): &(&str, &str, &str)| json!({ "name": name, "player": player, "url": url });
    let mut browser = Browser::start(server.other_port(1), cases.iter().map(player), WATCHED_SHORTLY);
    browser.wait_for("playing", START_DEADLINE);
    for result in browser.results(cases.len()) {
        let samples: Vec<Sample> = result.samples.iter().copied().filter(|sample| sample.at >= result.began).collect();
        let (still, latency) = (longest_still(&samples, result.began, result.ended), median(&samples));
        show(&format!("{:28} latency {:.0} ms; longest still {still:.0} ms", result.name, latency.unwrap_or(f64::NAN)));
        assert_eq!(result.errors, [] as [&str; 0], "{}: {:?}", result.name, result.said);
        assert!(still < 3000.0, "{}: it stood still for {still:.0} ms: {:?}", result.name, result.said);
        // Three segments and a little.
        assert!(latency.is_some_and(|latency| latency < 12_000.0), "{}: {latency:?} ms old", result.name);
        assert!(samples.iter().all(|sample| sample.width == WIDTH), "{}", result.name);
    }
}

/// What the driver says of one player.
#[derive(Deserialize)]
struct Played {
    name: String,
    began: f64,
    half: f64,
    ended: f64,
    samples: Vec<Sample>,
    errors: Vec<String>,
    /// Pictures whose clock could not be read.
    unreadable: u32,
    /// Warnings and errors on the browser's console.
    said: Vec<String>,
    page: Option<Page>,
}

/// What our own page says of itself.
#[derive(Deserialize, Default)]
struct Page {
    state: String,
    note: String,
    codecs: String,
    width: u32,
    frames: u32,
    latency_s: Option<f64>,
}

/// A picture that was not there at the look before.
#[derive(Deserialize, Clone, Copy)]
struct Sample {
    at: f64,
    late_ms: f64,
    time_s: f64,
    width: u32,
}

/// What a minute of playing comes to.
struct Figures {
    /// Medians of the picture's age in milliseconds: before the publisher left, and when all has settled again.
    before_ms: Option<f64>,
    after_ms: Option<f64>,
    /// The longest stand-still in milliseconds, in the same times.
    still_ms: f64,
    /// And around the restart.
    gap_ms: f64,
    pictures: usize,
}

impl Figures {
    fn of(result: &Played) -> Self {
        let within = |from: f64, to: f64| {
            result.samples.iter().copied().filter(move |sample| sample.at >= from && sample.at < to).collect::<Vec<_>>()
        };
        let before = within(result.began + SETTLING_MS, result.half);
        let after = within(result.half + RESTART_MS, result.ended);
        let between = within(result.half - 1000.0, result.half + RESTART_MS + 1000.0);
        let bounds =
            [(&before, result.began + SETTLING_MS, result.half), (&after, result.half + RESTART_MS, result.ended)];
        Self {
            before_ms: median(&before),
            after_ms: median(&after),
            still_ms: bounds.iter().map(|(samples, from, to)| longest_still(samples, *from, *to)).fold(0.0, f64::max),
            gap_ms: longest_still(&between, result.half - 1000.0, result.half + RESTART_MS + 1000.0),
            pictures: result.samples.len(),
        }
    }

    fn against(&self, case: &Case, result: &Played) -> Vec<String> {
        let mut wrong = Vec::new();
        let limit = case.latency.as_secs_f64() * 1000.0;
        for (when, latency) in [("before the restart", self.before_ms), ("after it", self.after_ms)] {
            match latency {
                None => wrong.push(format!("no picture {when}")),
                Some(latency) if latency > limit => {
                    wrong.push(format!("the picture is {latency:.0} ms old {when}, not {limit:.0}"));
                }
                Some(_) => {}
            }
        }
        if self.still_ms > case.still.as_secs_f64() * 1000.0 {
            wrong.push(format!("it stood still for {:.0} ms", self.still_ms));
        }
        if let Some(sample) = result.samples.iter().find(|sample| sample.width != WIDTH) {
            wrong.push(format!("a picture {} wide", sample.width));
        }
        let back =
            result.samples.windows(2).find(|pair| pair[1].time_s < pair[0].time_s && !case.player.starts_with("page"));
        if let Some(pair) = back {
            wrong.push(format!("its time went back from {} s to {} s", pair[0].time_s, pair[1].time_s));
        }
        wrong.extend(result.errors.iter().map(|error| format!("fatal: {error}")));
        if !wrong.is_empty() {
            wrong.extend(result.said.iter().map(|line| format!("  it said {line}")));
            wrong.extend((result.unreadable > 0).then(|| format!("  {} pictures without a clock", result.unreadable)));
        }
        wrong
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let latency = |ms: Option<f64>| ms.map_or_else(|| "none".to_owned(), |ms| format!("{ms:.0} ms"));
        write!(
            f,
            "latency {} before the restart, {} after; longest still {:.0} ms, at the restart {:.0} ms; {} pictures",
            latency(self.before_ms),
            latency(self.after_ms),
            self.still_ms,
            self.gap_ms,
            self.pictures
        )
    }
}

fn median(samples: &[Sample]) -> Option<f64> {
    let mut ages: Vec<f64> = samples.iter().map(|sample| sample.late_ms).collect();
    ages.sort_by(f64::total_cmp);
    ages.get(ages.len() / 2).copied()
}

/// The longest time without a new picture between these two.
fn longest_still(samples: &[Sample], from: f64, to: f64) -> f64 {
    let times = std::iter::once(from).chain(samples.iter().map(|sample| sample.at)).chain(std::iter::once(to));
    let times: Vec<f64> = times.collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

/// Chromium with all players, and the script that drives it.
struct Browser {
    driver: Child,
    lines: std::sync::mpsc::Receiver<serde_json::Value>,
}

impl Browser {
    /// `players` as the driver takes them, with addresses of the server at this port.
    fn start(port: u16, players: impl Iterator<Item = serde_json::Value>, watched: Duration) -> Self {
        let players: Vec<serde_json::Value> = players
            .map(|mut player| {
                let address = player["url"].as_str().expect("a player has an address");
                player["url"] = match address.strip_prefix("ws:") {
                    Some(path) => format!("ws://127.0.0.1:{port}{path}").into(),
                    None => format!("http://127.0.0.1:{port}{address}").into(),
                };
                player
            })
            .collect();
        let mut driver = Command::new(tools::find("node", "nodejs"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browsers/drive.js"))
            .arg(tools::node_modules())
            .arg(tools::find("chromium", "chromium"))
            .arg(watched.as_secs().to_string())
            .arg(serde_json::Value::from(players).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("node starts");
        let output = driver.stdout.take().expect("stdout is piped");
        let (say, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "event": "failed", "error": line }));
                if say.send(line).is_err() {
                    break;
                }
            }
        });
        Self { driver, lines }
    }

    #[track_caller]
    fn wait_for(&mut self, event: &str, deadline: Duration) {
        while self.next(event, deadline)["event"] != event {}
    }

    #[track_caller]
    fn results(&mut self, count: usize) -> Vec<Played> {
        let mut results = Vec::new();
        while results.len() < count {
            let line = self.next("result", WATCHED);
            if line["event"] == "result" {
                results.push(serde_json::from_value(line).expect("the driver's own form"));
            }
        }
        results
    }

    #[track_caller]
    fn next(&mut self, event: &str, deadline: Duration) -> serde_json::Value {
        let line = wait::until(event, deadline, || self.lines.try_recv().ok());
        assert_ne!(line["event"], "failed", "{}", line["error"]);
        line
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Puppeteer ends the browser when it is asked to end itself.
        let pid = nix::unistd::Pid::from_raw(self.driver.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        if wait::within(END_DEADLINE, || self.driver.try_wait().ok().flatten()).is_none() {
            let _ = self.driver.kill();
            let _ = self.driver.wait();
        }
    }
}

/// One browser at a time: two of them would measure each other.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static BROWSER: std::sync::Mutex<()> = std::sync::Mutex::new(());
    BROWSER.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Publishes a small picture with the clock in it to each of these addresses: H.264 with a keyframe a second, and AAC.
fn publish(urls: &[String]) -> Running {
    // The clock becomes the frame's time and back, because only a time is the same for all pixels of a frame. It is read
    // in a filter of the output: those of an input run ahead of what is sent.
    let clock = format!(
        "settb=1/1000,setpts=RTCTIME/1000,split[picture][clock];\
         [clock]crop=32:2:0:0,format=yuv420p,geq=lum='255*mod(floor(round(T*1000)/pow(2,31-X)),2)':cb=128:cr=128,\
         scale={WIDTH}:16:flags=neighbor[cells];[picture][cells]overlay=0:0:format=yuv420,settb=1/25,setpts=N"
    );
    let mut command = Command::new(tools::ffmpeg_debian());
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning"]);
    command.args(["-re", "-f", "lavfi", "-i", &format!("testsrc2=size={WIDTH}x180:rate=25")]);
    command.args(["-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-vf", &clock]);
    command.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]);
    command.args(["-g", "25", "-sc_threshold", "0", "-b:v", "400k", "-c:a", "aac", "-b:a", "64k", "-ac", "2"]);
    let outputs: Vec<String> = urls.iter().map(|url| format!("[f=flv]{url}")).collect();
    command.args(["-flags", "+global_header", "-map", "0:v", "-map", "1:a", "-f", "tee", &outputs.join("|")]);
    Running::start("the publisher with a clock in its picture", command)
}

/// Publishes a fixture again and again, as long as life.
fn publish_without_end(server: &TestServer, fixture: Fixture) -> Running {
    let ffmpeg = if fixture.is_enhanced() { tools::ffmpeg_newer() } else { tools::ffmpeg_debian() };
    let mut command = Command::new(ffmpeg);
    command.args(["-nostdin", "-hide_banner", "-loglevel", "warning", "-re", "-stream_loop", "-1", "-i"]);
    command.arg(fixture.path()).args(["-c", "copy", "-f", "flv", &server.url(&format!("live/{}", fixture.name()))]);
    Running::start(&format!("publishing {fixture:?}"), command)
}

/// What was measured is worth seeing also when it was good enough (`--nocapture`).
#[allow(clippy::print_stdout)]
fn show(report: &str) {
    println!("{report}");
}

const WIDTH: u32 = 320;
const FRAMES_A_SECOND: u32 = 25;
/// Half of it before the publisher goes, half after.
const WATCHED: Duration = Duration::from_secs(64);
/// Long enough for a playlist to move on several times.
const WATCHED_SHORTLY: Duration = Duration::from_secs(20);
/// For what needs no measuring.
const LOOKED_AT: Duration = Duration::from_secs(6);
/// For a server, a publisher or a browser with eight players to start on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(5);
/// Players take a while to find their distance to live; what they promise holds from then on.
const SETTLING_MS: f64 = 10_000.0;
/// The publisher is away for a second or two, and again they need a while.
const RESTART_MS: f64 = 12_000.0;
