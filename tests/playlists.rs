//! Playlists and manifests through the life of a stream, whatever is pushed: held against the rules of the formats.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::fragments::{FragmentTime, assert_continuous, fragment_times};
use common::manifest_rules::ManifestRules;
use common::playlist_rules::{Allowances, Playlist, PlaylistRules};
use livemill::media::codec::{AudioCodec, Codec, VideoCodec, audio_info, video_info};
use livemill::media::packet::Track as Medium;
use livemill::protocol::dash::manifest::{Kind, Manifest, ManifestRules as Rules, Track};
use livemill::protocol::flv::sample::{MuxInput, Sample};
use livemill::protocol::hls::playlist::{Answer, Encoding, Query, Rendition, multivariant};
use livemill::protocol::hls::window::{
    Container, Description, Faults, File, Part, Report, Window, WindowRules, report_to_each_other,
};
use livemill::protocol::mp4::chunker::{Chunk, ChunkRules, Chunker, Rendition as Lane};
use livemill::protocol::mp4::fragment::{FragmentSample, Run, fragment};
use proptest::prelude::*;

#[test]
fn parts_have_their_time_also_where_the_list_was_short() {
    for (ms, parts) in [(100, 3), (250, 3), (250, 5), (300, 7), (450, 3), (490, 2), (490, 3), (490, 4)] {
        let mut stream = Stream::new(&Plan { low_latency: true, ..Plan::default() });
        stream.take(Step::Part { ms: 6, key: true });
        stream.take(Step::Discontinuity);
        for number in 0..16_000 / ms {
            stream.take(Step::Part { ms, key: number % parts == 0 });
            stream.check();
        }
    }
}

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
    fn what_the_chunker_cuts_is_listed_by_the_rules(
        part_ms in prop_oneof![Just(None), (300u32..1000).prop_map(Some)],
        scenes in prop::collection::vec(scene(), 1..8),
    ) {
        let mut presentation = Presentation::new(part_ms);
        presentation.is_steady =
            scenes.iter().all(|scene| scene.audio && scene.video && !matches!(scene.then, Then::Jumps(_)));
        for scene in scenes {
            presentation.play(&scene);
        }
        presentation.end();
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

#[test]
fn a_jump_leaves_no_hole_in_either_rendition() {
    for (jump_ms, audio_first, ms) in [600, 1400, 2700, 5000, 10_000, 30_000].into_iter().flat_map(|jump_ms| {
        [(true, 6000), (false, 6000), (true, 7900), (false, 7900)].map(|(first, ms)| (jump_ms, first, ms))
    }) {
        let scene = Scene { gops: 1, gop: ms / 40, audio_first, then: Then::Jumps(jump_ms), ..Scene::default() };
        let mut presentation = Presentation::new(None);
        presentation.play(&scene);
        presentation.play(&Scene { gop: 50, gops: 5, ..scene });
        presentation.end();
    }
}

#[test]
fn audio_that_stops_within_a_segment_lasts_to_its_end() {
    for quiet_ms in [400, 1000, 3000, 9000, 20_000] {
        let scene = Scene { gop: 25, gops: 5, ..Scene::default() };
        let mut presentation = Presentation::new(None);
        presentation.play(&scene);
        presentation.play(&Scene { audio: false, gop: quiet_ms / 40, gops: 1, ..scene.clone() });
        presentation.play(&scene);
        presentation.end();
    }
}

/// Some seconds of a publisher that behaves in one way.
#[derive(Clone, Debug)]
struct Scene {
    frame_ms: i64,
    /// Frames from one keyframe to the next.
    gop: i64,
    gops: i64,
    audio: bool,
    video: bool,
    /// Of what is sent at the same time.
    audio_first: bool,
    /// How it ends.
    then: Then,
}

impl Default for Scene {
    fn default() -> Self {
        Self { frame_ms: 40, gop: 50, gops: 5, audio: true, video: true, audio_first: false, then: Then::GoesOn }
    }
}

#[derive(Clone, Debug)]
enum Then {
    GoesOn,
    Loses,
    Leaves,
    /// Its clock, ahead. The stream's timeline mends most jumps of more than ten seconds, and no others.
    Jumps(i64),
}

fn scene() -> impl Strategy<Value = Scene> {
    let jump = prop_oneof![50i64..12_000, 12_000i64..40_000].prop_map(Then::Jumps);
    let then = prop_oneof![3 => Just(Then::GoesOn), 1 => Just(Then::Loses), 1 => Just(Then::Leaves), 2 => jump];
    let media = prop_oneof![6 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true))];
    (16i64..=45, 1i64..150, 1i64..20, media, any::<bool>(), then).prop_map(
        |(frame_ms, gop, gops, (video, audio), audio_first, then)| {
            // Half a minute of a scene shows all there is.
            let gops = gops.min(30_000 / (frame_ms * gop)).max(1);
            Scene { frame_ms, gop, gops, audio, video, audio_first, then }
        },
    )
}

/// A publisher, the chunker it feeds, the windows behind that, and whoever looks at them after every frame that changes them.
struct Presentation {
    chunker: Chunker,
    part_ms: Option<u32>,
    /// No medium pauses, nothing jumps.
    is_steady: bool,
    windows: Vec<(Lane, Window, PlaylistRules)>,
    /// Where each window's media ends, in ticks, and whether a segment is open.
    tails: Vec<(u64, u32, bool)>,
    manifest: Manifest,
    manifest_rules: ManifestRules,
    at_ms: i64,
    wall_ms: i64,
}

impl Presentation {
    fn new(part_ms: Option<u32>) -> Self {
        let rules = ChunkRules {
            part_ms: part_ms.unwrap_or(2000),
            fragment_ms: 2000,
            max_segment_ms: 4000,
            low_latency: part_ms.is_some(),
        };
        Self {
            chunker: Chunker::new(rules),
            part_ms,
            is_steady: false,
            windows: Vec::new(),
            tails: Vec::new(),
            manifest: Manifest::new(Rules::default()),
            manifest_rules: ManifestRules::new(),
            at_ms: 0,
            wall_ms: 1_795_154_974_692,
        }
    }

    fn play(&mut self, scene: &Scene) {
        self.configure(scene);
        let mut audio = 0;
        for frame in 0..scene.gop * scene.gops {
            let at_ms = self.at_ms + frame * scene.frame_ms;
            if scene.video && !scene.audio_first {
                self.push(picture(at_ms, frame % scene.gop == 0));
            }
            while scene.audio && self.at_ms + audio * 1024 * 1000 / 44_100 <= at_ms {
                self.push(sound(self.at_ms + audio * 1024 * 1000 / 44_100));
                audio += 1;
            }
            if scene.video && scene.audio_first {
                self.push(picture(at_ms, frame % scene.gop == 0));
            }
            self.wall_ms += scene.frame_ms;
        }
        self.at_ms += scene.gop * scene.gops * scene.frame_ms;
        match scene.then {
            Then::GoesOn => {}
            Then::Loses => {
                let chunks = self.chunker.gap();
                self.take(chunks);
            }
            Then::Leaves => {
                let chunks = self.chunker.end();
                self.take(chunks);
                self.wall_ms += 5000;
            }
            Then::Jumps(ms) => self.at_ms += ms,
        }
    }

    fn configure(&mut self, scene: &Scene) {
        if scene.video {
            let record =
                hex("01640028ffe1001b67640028acd940780227e5c044000003000400000300c83c60c65801000468ef8fcbfdf8f800");
            let info = video_info(VideoCodec::Avc, &record);
            self.push(MuxInput::VideoConfig { codec: VideoCodec::Avc, record, info });
        }
        if scene.audio {
            let record = hex("1210");
            let info = audio_info(AudioCodec::Aac, &record);
            self.push(MuxInput::AudioConfig { codec: AudioCodec::Aac, record, info });
        }
    }

    fn push(&mut self, input: MuxInput) {
        let chunks = self.chunker.push(input, self.wall_ms);
        self.take(chunks);
    }

    fn take(&mut self, chunks: impl IntoIterator<Item = Chunk>) {
        let mut changed = false;
        for chunk in chunks {
            self.put(chunk);
            changed = true;
        }
        if changed {
            self.check();
        }
    }

    fn put(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Init { rendition, bytes, codecs, timescale, .. } => {
                let at = self.windows.iter().position(|(lane, ..)| *lane == rendition).unwrap_or_else(|| {
                    let prefix = format!("{rendition:?}");
                    let rules = match self.windows.first() {
                        Some((_, first, _)) => WindowRules::joining(first, &prefix),
                        None => WindowRules {
                            part_target_ms: self.part_ms,
                            ..WindowRules::new(Container::Fmp4, &prefix, 4)
                        },
                    };
                    // A frame that lasts over a pause is as long as that, whatever is left for the part before it.
                    let uneven = !self.is_steady;
                    let allowed = Allowances { long_parts: uneven, short_parts: uneven, ..Allowances::default() };
                    self.windows.push((rendition, Window::new(rules), PlaylistRules::allowing(allowed)));
                    self.tails.push((0, timescale, false));
                    self.windows.len() - 1
                });
                self.windows[at].1.push_init(bytes, description(&codecs));
            }
            Chunk::Part { rendition, bytes, duration, timescale, independent, start, wall_ms } => {
                let at = self.place(rendition);
                self.windows[at].1.push_part(Part { bytes, start, duration, timescale, independent, date_ms: wall_ms });
                self.tails[at] = (start + duration, timescale, true);
            }
            Chunk::SegmentEnd { rendition, independent, start_ms, end_ms, wall_ms, .. } => {
                let at = self.place(rendition);
                let (start, timescale, open) = self.tails[at];
                self.tails[at].2 = false;
                if open {
                    self.windows[at].1.end_segment(independent);
                    return;
                }
                let ticks = |ms: i64| (ms.max(0) as u64 * u64::from(timescale) + 500) / 1000;
                let start = start.max(ticks(start_ms));
                let end = ticks(end_ms).max(start + 1);
                let (bytes, duration) = (Bytes::new(), end - start);
                let gap = Part { bytes, start, duration, timescale, independent: false, date_ms: wall_ms };
                self.windows[at].1.push_gap(gap);
                self.tails[at].0 = end;
            }
            Chunk::Discontinuity => self.windows.iter_mut().for_each(|(_, window, _)| window.discontinuity()),
        }
    }

    fn place(&self, rendition: Lane) -> usize {
        self.windows.iter().position(|(lane, ..)| *lane == rendition).expect("an initialisation came first")
    }

    fn check(&mut self) {
        for (lane, window, rules) in &mut self.windows {
            let text = text(window, false);
            if !text.contains("#EXTINF") {
                continue;
            }
            let list = rules.see(&text);
            for name in list.files() {
                assert!(matches!(window.file(name), File::Ready(..)), "{name} is listed");
            }
            for run in list.segments.chunk_by(|_, next| !next.discontinuity && !next.gap) {
                let times = run.iter().flat_map(|segment| match window.file(&segment.uri) {
                    File::Ready(bytes, _) => fragment_times(&bytes),
                    _ => Vec::new(),
                });
                assert_continuous(&times.collect::<Vec<_>>());
            }
            // Gaps and all: what a list says to last is what passes.
            for pair in list.segments.windows(2).filter(|pair| !pair[1].discontinuity) {
                let [Some(one), Some(other)] = [pair[0].date_ms, pair[1].date_ms] else { continue };
                let off = other - one - (pair[0].duration * 1000.0) as i64;
                assert!(off.abs() < 150, "{lane:?}: {} begins {off} ms late\n{text}", pair[1].uri);
            }
            let long_parts = if self.is_steady { 0 } else { window.faults().long_parts };
            assert_eq!(window.faults(), Faults { long_parts, ..Faults::default() }, "{lane:?}");
        }
        let tracks: Vec<Track<'_>> = self
            .windows
            .iter()
            .map(|(lane, window, _)| Track {
                kind: if *lane == Lane::Video { Kind::Video } else { Kind::Audio },
                window,
            })
            .collect();
        let Some(bytes) = self.manifest.render(&tracks, self.wall_ms, Encoding::Plain) else { return };
        let mpd = self.manifest_rules.see(std::str::from_utf8(&bytes).expect("manifests are text"), None);
        for name in mpd.files() {
            assert!(tracks.iter().any(|track| matches!(track.window.file(&name), File::Ready(..))), "{name}");
        }
    }

    fn end(&mut self) {
        let chunks = self.chunker.end();
        self.take(chunks);
        self.windows.iter_mut().for_each(|(_, window, _)| window.end());
        self.check();
    }
}

fn sound(dts_ms: i64) -> MuxInput {
    MuxInput::Sample(Sample {
        track: Medium::Audio,
        codec: Codec::Audio(AudioCodec::Aac),
        dts_ms,
        cts_ms: 0,
        key: true,
        data: Bytes::from_static(b"aac"),
    })
}

fn picture(dts_ms: i64, key: bool) -> MuxInput {
    MuxInput::Sample(Sample {
        track: Medium::Video,
        codec: Codec::Video(VideoCodec::Avc),
        dts_ms,
        cts_ms: 0,
        key,
        data: Bytes::from_static(if key { b"\0\0\0\x02\x65\x88" } else { b"\0\0\0\x02\x41\x9a" }),
    })
}

fn hex(digits: &str) -> Bytes {
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect()
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
    /// A whole list before it: deltas are for who has one.
    has_read: bool,
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
            has_read: false,
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
            let knows = std::mem::replace(&mut self.has_read, true);
            let mut seen = self.delta_rules.see(&text(&mut self.window, knows));
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
