//! Playlists and manifests through the life of a stream, whatever is pushed: held against the rules of the formats.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::fragments::{FragmentTime, assert_continuous, fragment_times};
use common::manifest_rules::ManifestRules;
use common::playlist_rules::{Allowances, Playlist, PlaylistRules};
use livemill::protocol::dash::manifest::{Kind, Manifest, ManifestRules as Rules, Track};
use livemill::protocol::hls::playlist::{Answer, Encoding, Query, Rendition, multivariant};
use livemill::protocol::hls::window::{
    Container, Description, File, Part, Report, Window, WindowRules, report_to_each_other,
};
use livemill::protocol::mp4::fragment::{FragmentSample, Run, fragment};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_playlist_of_any_stream_keeps_the_rules(
        plan in plan(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut stream = Stream::new(&plan);
        for step in steps {
            stream.take(step);
            stream.check();
        }
        stream.window.end();
        stream.check();
    }

    #[test]
    fn no_query_breaks_a_window(text in "(_HLS_(msn|part|skip)=[-+0-9a-zA-Z%.]{0,22}&?){0,4}|\\PC{0,40}", segments in 0u64..4) {
        let mut stream = Stream::new(&Plan { low_latency: true, ..Plan::default() });
        for _ in 0..segments {
            stream.take(Step::Part { ms: 500, key: true });
            stream.take(Step::EndSegment);
        }
        if let Ok(query) = Query::parse(&text) {
            stream.window.answer(&query, Encoding::Plain, Duration::ZERO);
        }
    }
}

#[test]
fn two_renditions_make_one_presentation() {
    let mut video = window("v", true);
    let mut audio = window("a", true);
    video.push_init(Bytes::from_static(b"video"), description("avc1.64001f"));
    audio.push_init(Bytes::from_static(b"audio"), description("mp4a.40.2"));
    let (mut video_rules, mut audio_rules) = (PlaylistRules::new(), PlaylistRules::new());
    let mut manifest = Manifest::new(Rules::default());
    let mut manifest_rules = ManifestRules::new();
    let mut video_at = 0;
    let mut audio_at = 0;
    for segment in 0..40 {
        if segment % 15 == 14 {
            video.discontinuity();
            audio.discontinuity();
            (video_at, audio_at) = (video_at + 5 * 90_000, video_at / 90_000 * 48_000 + 5 * 48_000 + 300);
        }
        for number in 0..4 {
            video.push_part(media(video_at, 45_000, 90_000, number == 0));
            // 23 or 24 frames of AAC: as near to half a second as they come.
            let frames = if number % 2 == 0 { 23 } else { 22 };
            audio.push_part(media(audio_at, frames * 1024, 48_000, true));
            video_at += 45_000;
            audio_at += frames * 1024;
            report_to_each_other(&mut [("v.m3u8", &mut video), ("a.m3u8", &mut audio)]);
            video_rules.see(&text(&mut video, number == 2));
            audio_rules.see(&text(&mut audio, number == 2));
        }
        video.end_segment(true);
        audio.end_segment(true);
        report_to_each_other(&mut [("v.m3u8", &mut video), ("a.m3u8", &mut audio)]);
        let playlist = video_rules.see(&text(&mut video, false));
        assert_eq!(
            playlist.reports[0]["LAST-MSN"],
            audio_rules.see(&text(&mut audio, false)).last_number().to_string()
        );

        let tracks = [Track { kind: Kind::Video, window: &video }, Track { kind: Kind::Audio, window: &audio }];
        let bytes = manifest.render(&tracks, segment * 2000, Encoding::Plain).expect("both are there");
        let mpd = manifest_rules.see(std::str::from_utf8(&bytes).expect("manifests are text"), None);
        for name in mpd.files() {
            assert!([&video, &audio].iter().any(|window| matches!(window.file(&name), File::Ready(..))), "{name}");
        }
    }
    let variants = [Rendition { uri: "v.m3u8", window: &video }];
    let text = multivariant(&variants, Some(Rendition { uri: "a.m3u8", window: &audio })).expect("all is known");
    let master = m3u8_rs::parse_master_playlist_res(text.as_bytes()).expect("another reader reads it");
    assert_eq!(master.variants[0].codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"));
    assert_eq!(master.variants[0].audio.as_deref(), Some("audio"));
    assert_eq!(master.alternatives.len(), 1);
}

#[derive(Clone, Debug, Default)]
struct Plan {
    low_latency: bool,
    ts: bool,
    length_ms: u64,
    gaps: u32,
    first_number: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Part { ms: u64, key: bool },
    EndSegment,
    Gap { ms: u64 },
    Discontinuity,
    Init(u8),
    Reports(u64),
}

fn plan() -> impl Strategy<Value = Plan> {
    (any::<bool>(), any::<bool>(), 0u64..40_000, 0u32..8, 0u64..3).prop_map(
        |(low_latency, ts, length_ms, gaps, first_number)| Plan { low_latency, ts, length_ms, gaps, first_number },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (1u64..=500, any::<bool>()).prop_map(|(ms, key)| Step::Part { ms, key }),
        5 => Just(Step::EndSegment),
        1 => (1u64..=2400).prop_map(|ms| Step::Gap { ms }),
        1 => Just(Step::Discontinuity),
        1 => (0u8..3).prop_map(Step::Init),
        1 => (0u64..3).prop_map(Step::Reports),
    ]
}

/// A window, what is pushed into it, and whoever looks at it.
struct Stream {
    window: Window,
    ts: bool,
    /// Where the media is, in ms.
    at_ms: u64,
    /// Moves with every discontinuity, as a publisher's clock would.
    shift_ms: u64,
    begun: bool,
    rules: PlaylistRules,
    delta_rules: PlaylistRules,
    manifest: Manifest,
    manifest_rules: ManifestRules,
    last: Playlist,
    longest_s: f64,
    /// Names that left the list, and the media time until which they must be there.
    promised: Vec<(String, f64)>,
    steps: u32,
}

impl Stream {
    fn new(plan: &Plan) -> Self {
        let container = if plan.ts { Container::Ts } else { Container::Fmp4 };
        let mut window = Window::new(WindowRules {
            part_target_ms: plan.low_latency.then_some(500),
            length_ms: plan.length_ms,
            leading_gaps: plan.gaps,
            first_number: plan.first_number,
            ..WindowRules::new(container, "s", 2)
        });
        if plan.ts {
            window.describe(description("avc1.64001f"));
        } else {
            window.push_init(Bytes::from_static(b"first"), description("avc1.64001f"));
        }
        let allowed = Allowances { short_parts: true, ..Allowances::default() };
        Self {
            window,
            ts: plan.ts,
            at_ms: 0,
            shift_ms: 0,
            begun: false,
            rules: PlaylistRules::allowing(allowed),
            delta_rules: PlaylistRules::allowing(allowed),
            manifest: Manifest::new(Rules::default()),
            manifest_rules: ManifestRules::new(),
            last: Playlist::default(),
            longest_s: 0.0,
            promised: Vec::new(),
            steps: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Part { ms, key } => {
                self.window.push_part(self.media(ms, key));
                self.at_ms += ms;
                self.begun = true;
            }
            Step::EndSegment => self.window.end_segment(true),
            Step::Gap { ms } => {
                let gap = Part { bytes: Bytes::new(), ..self.media(ms, false) };
                self.window.push_gap(gap);
                self.at_ms += ms;
                self.begun = true;
            }
            Step::Discontinuity => {
                self.shift_ms += u64::from(self.begun) * 3000;
                self.window.discontinuity();
            }
            Step::Init(_) if self.ts => {}
            Step::Init(number) => {
                self.window.push_init(Bytes::from(vec![number; 10]), description("avc1.64001f"));
            }
            Step::Reports(number) => {
                let Some(position) = self.window.position() else { return };
                let report = Report { uri: format!("other-{number}.m3u8"), position };
                self.window.set_reports(vec![report; number as usize]);
            }
        }
    }

    fn media(&self, ms: u64, key: bool) -> Part {
        let start_ms = self.at_ms + self.shift_ms;
        media(start_ms * 90, ms * 90, 90_000, key)
    }

    fn check(&mut self) {
        self.steps += 1;
        let full = text(&mut self.window, false);
        if !full.contains("#EXTINF") {
            return;
        }
        let list = self.rules.see(&full);
        // Whoever reads only now and then, and then only what is new.
        if self.steps.is_multiple_of(3) {
            let mut seen = self.delta_rules.see(&text(&mut self.window, self.steps > 3));
            seen.skipped = 0;
            let without_parts = |list: &Playlist| {
                let mut list = list.clone();
                list.segments.iter_mut().for_each(|segment| segment.parts.clear());
                list.version = 0;
                list
            };
            assert_eq!(without_parts(&seen), without_parts(&list), "a delta update says the same in fewer words");
        }
        m3u8_rs::parse_media_playlist_res(full.as_bytes()).expect("another reader reads it");
        self.check_files(&list);
        self.check_manifest();
        self.last = list;
    }

    fn check_files(&mut self, list: &Playlist) {
        for name in list.files() {
            assert!(matches!(self.window.file(name), File::Ready(..)), "{name} is listed");
        }
        assert_eq!(list.hint.as_deref().map(|name| self.window.file(name)), list.hint.as_ref().map(|_| File::Wait));
        for run in list.segments.chunk_by(|_, next| !next.discontinuity && !next.gap) {
            let times: Vec<FragmentTime> = run.iter().flat_map(|segment| self.times(&segment.uri)).collect();
            assert_continuous(&times);
        }
        for segment in list.segments.iter().filter(|segment| !segment.parts.is_empty()) {
            let of_parts: Vec<FragmentTime> = segment.parts.iter().flat_map(|part| self.times(&part.uri)).collect();
            assert_eq!(of_parts, self.times(&segment.uri), "a segment is its parts");
        }
        let now_s = self.at_ms as f64 / 1000.0;
        let kept: Vec<&str> = list.files();
        for segment in &self.last.segments {
            let gone = segment.parts.iter().filter(|part| !kept.contains(&part.uri.as_str()));
            self.promised.extend(gone.map(|part| (part.uri.clone(), now_s + 6.0)));
            if !segment.gap && !kept.contains(&segment.uri.as_str()) {
                self.promised.push((segment.uri.clone(), now_s + segment.duration + self.longest_s));
            }
        }
        // For what leaves later: the list that is new now never held what has left.
        let long_s: f64 = list.segments.iter().map(|segment| segment.duration).sum();
        self.longest_s = self.longest_s.max(long_s);
        self.promised.retain(|(_, until_s)| now_s + 0.001 < *until_s);
        for (name, until_s) in &self.promised {
            assert!(
                matches!(self.window.file(name), File::Ready(..)),
                "{name} must be there until {until_s}, at {now_s}"
            );
        }
        let Answer::Ready(answer) = self.window.answer(&Query::default(), Encoding::Plain, Duration::ZERO) else {
            return;
        };
        assert_eq!(answer, text(&mut self.window, false));
    }

    fn check_manifest(&mut self) {
        if self.ts {
            return;
        }
        let tracks = [Track { kind: Kind::Video, window: &self.window }];
        let Some(bytes) = self.manifest.render(&tracks, i64::from(self.steps), Encoding::Plain) else { return };
        let mpd = self.manifest_rules.see(std::str::from_utf8(&bytes).expect("manifests are text"), None);
        for name in mpd.files() {
            assert!(matches!(self.window.file(&name), File::Ready(..)), "{name} is in the manifest");
        }
        // What the manifest says of a segment is what is in it.
        for track in mpd.periods.iter().flat_map(|period| &period.tracks) {
            for segment in &track.segments {
                let times = self.times(&track.media.replace("$Number$", &segment.number.to_string()));
                if let Some(first) = times.first() {
                    let duration: u64 = times.iter().map(|time| time.duration).sum();
                    assert_eq!((first.start, duration), (segment.start, segment.duration));
                }
            }
        }
    }

    fn times(&self, name: &str) -> Vec<FragmentTime> {
        match self.window.file(name) {
            File::Ready(bytes, _) if name.ends_with(".m4s") => fragment_times(&bytes),
            _ => Vec::new(),
        }
    }
}

fn window(prefix: &str, low_latency: bool) -> Window {
    Window::new(WindowRules {
        part_target_ms: low_latency.then_some(500),
        length_ms: 16_000,
        ..WindowRules::new(Container::Fmp4, prefix, 2)
    })
}

fn description(codecs: &str) -> Description {
    Description { codecs: codecs.to_owned(), ..Description::default() }
}

/// A fragment of one sample, dated by its time.
fn media(start: u64, duration: u64, timescale: u32, key: bool) -> Part {
    let sample = FragmentSample { duration: duration as u32, cts: 0, key, data: Bytes::from_static(b"frame") };
    let mut out = Vec::new();
    fragment(1, &[Run { track: 1, video: true, base: start, samples: &[sample] }], &mut out);
    let date_ms = 1_795_154_974_692 + (start * 1000 / u64::from(timescale)) as i64;
    Part { bytes: Bytes::from(out), start, duration, timescale, independent: key, date_ms }
}

fn text(window: &mut Window, skip: bool) -> String {
    String::from_utf8(window.playlist(skip, Encoding::Plain).to_vec()).expect("playlists are text")
}
