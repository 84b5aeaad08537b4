//! What a DASH manifest says about the windows of a live stream.

use std::collections::VecDeque;
use std::fmt::Write as _;

use bytes::Bytes;

use crate::protocol::hls::date::iso;
use crate::protocol::hls::playlist::{Encoding, gzip};
use crate::protocol::hls::window::{Origin, Segment, Window};

/// The manifest of one stream, made of the same segments as its playlists and naming the same files.
///
/// It remembers what players rely on: when the stream became available, when each period began, when the content last changed.
#[derive(Debug)]
pub struct Manifest {
    rules: ManifestRules,
    /// The wall clock at the presentation's time 0: constant.
    start_ms: Option<i64>,
    /// Periods that some window still lists, oldest first.
    periods: VecDeque<Period>,
    publish_ms: i64,
    content: Content,
    rendered: Option<Rendered>,
}

#[derive(Clone, Debug, Default)]
pub struct ManifestRules {
    /// Where players learn what time it is, best first: without any they drift, or ask a server on the internet.
    pub clocks: Vec<Clock>,
    /// How far behind the newest segment players should stay. `None`: three targets.
    pub delay_ms: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Clock {
    pub scheme: ClockScheme,
    /// An address, seen from the manifest.
    pub value: String,
}

/// How the clock is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockScheme {
    /// The body of an answer is an ISO 8601 date.
    HttpIso,
    /// The body is an XML date-time; the same to all who ask.
    HttpXsdate,
    /// The `Date` of an answer's head.
    HttpHead,
    /// A network time server's name.
    Ntp,
}

impl ClockScheme {
    pub fn urn(self) -> &'static str {
        match self {
            Self::HttpIso => "urn:mpeg:dash:utc:http-iso:2014",
            Self::HttpXsdate => "urn:mpeg:dash:utc:http-xsdate:2014",
            Self::HttpHead => "urn:mpeg:dash:utc:http-head:2014",
            Self::Ntp => "urn:mpeg:dash:utc:ntp:2014",
        }
    }
}

/// One rendition as the manifest lists it.
#[derive(Clone, Copy, Debug)]
pub struct Track<'a> {
    pub kind: Kind,
    pub window: &'a Window,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Video,
    Audio,
}

impl Manifest {
    pub fn new(rules: ManifestRules) -> Self {
        Self {
            rules,
            start_ms: None,
            periods: VecDeque::new(),
            publish_ms: 0,
            content: Content::default(),
            rendered: None,
        }
    }

    /// The manifest as of now. `None` until each track has a codec and a segment.
    pub fn render(&mut self, tracks: &[Track<'_>], now_ms: i64, encoding: Encoding) -> Option<Bytes> {
        let known = |track: &Track<'_>| track.window.is_ready() && !track.window.description().codecs.is_empty();
        if tracks.is_empty() || !tracks.iter().all(known) {
            return None;
        }
        let changes: Vec<u64> = tracks.iter().map(|track| track.window.changes()).collect();
        if self.rendered.as_ref().is_none_or(|rendered| rendered.changes != changes) {
            self.note_periods(tracks);
            let content = self.content(tracks);
            // Parts come and go without a word here: what has not changed was not published anew.
            if content != self.content || self.rendered.is_none() {
                self.content = content;
                self.publish_ms = now_ms.max(self.publish_ms);
                self.rendered = Some(Rendered { plain: self.text(), gzip: None, changes });
            } else if let Some(rendered) = &mut self.rendered {
                rendered.changes = changes;
            }
        }
        let rendered = self.rendered.as_mut()?;
        Some(match encoding {
            Encoding::Plain => rendered.plain.clone(),
            Encoding::Gzip => rendered.gzip.get_or_insert_with(|| gzip(&rendered.plain)).clone(),
        })
    }

    fn text(&self) -> Bytes {
        let mut out = String::with_capacity(self.content.periods.len() + 1500);
        out.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\"");
        out.push_str(" profiles=\"urn:mpeg:dash:profile:isoff-live:2011\"");
        out.push_str(&self.content.attributes);
        let _ = writeln!(out, " publishTime=\"{}\">", iso(self.publish_ms));
        out.push_str(&self.content.periods);
        for clock in &self.rules.clocks {
            let value = escape(&clock.value);
            let _ = writeln!(out, "  <UTCTiming schemeIdUri=\"{}\" value=\"{value}\"/>", clock.scheme.urn());
        }
        out.push_str("</MPD>\n");
        Bytes::from(out)
    }

    /// Remembers the start of periods that are new, and forgets those that nobody lists any more.
    fn note_periods(&mut self, tracks: &[Track<'_>]) {
        let mut numbers: Vec<u64> = tracks.iter().flat_map(|track| listed(track.window).map(|s| s.period)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            if self.periods.back().is_some_and(|last| last.number >= number) {
                continue;
            }
            let origins = tracks.iter().filter_map(|track| {
                listed(track.window).find(|segment| segment.period == number).map(|segment| segment.origin)
            });
            // What begins first begins the period, so that nothing in it lies before its start.
            let Some(origin) = origins.reduce(|one, other| if before(other, one) { other } else { one }) else {
                continue;
            };
            let start_ms = *self.start_ms.get_or_insert(origin.date_ms);
            let previous_end_us = self.periods.back().map_or(0, |last| last.end_us(tracks));
            let offset_us = u64::try_from(origin.date_ms.saturating_sub(start_ms)).unwrap_or(0).saturating_mul(1000);
            // Rounded up to a millisecond, which is what a start is written in.
            let start_us = offset_us.max(previous_end_us).div_ceil(1000).saturating_mul(1000);
            self.periods.push_back(Period { number, origin, start_us });
        }
        let oldest = tracks.iter().filter_map(|track| listed(track.window).next().map(|segment| segment.period)).min();
        while self.periods.len() > 1
            && self.periods.front().is_some_and(|first| oldest.is_some_and(|oldest| first.number < oldest))
        {
            self.periods.pop_front();
        }
    }

    fn content(&self, tracks: &[Track<'_>]) -> Content {
        let ended = tracks.iter().all(|track| track.window.is_ended());
        let target_s = tracks.iter().map(|track| track.window.target_s()).max().unwrap_or(1);
        let mut attributes = String::new();
        if ended {
            let end_us = self.periods.back().map_or(0, |last| last.end_us(tracks));
            let _ = write!(attributes, " type=\"static\" mediaPresentationDuration=\"{}\"", duration(end_us));
        } else {
            let depth_us = tracks.iter().map(|track| depth_us(track.window)).max().unwrap_or(0);
            let delay_ms = self.rules.delay_ms.unwrap_or(u64::from(target_s) * 3000);
            let _ = write!(
                attributes,
                " type=\"dynamic\" availabilityStartTime=\"{}\" minimumUpdatePeriod=\"{}\" timeShiftBufferDepth=\"{}\" \
                 suggestedPresentationDelay=\"{}\"",
                iso(self.start_ms.unwrap_or(0)),
                duration((u64::from(target_s) * 500_000).max(1_000_000)),
                duration(depth_us),
                duration(delay_ms.saturating_mul(1000)),
            );
        }
        let target = duration(u64::from(target_s) * 1_000_000);
        let _ = write!(attributes, " minBufferTime=\"{target}\" maxSegmentDuration=\"{target}\"");
        let mut periods = String::new();
        for period in &self.periods {
            period.render(tracks, &mut periods);
        }
        Content { attributes, periods }
    }
}

/// What is said, apart from when it was first said.
#[derive(Debug, Default, PartialEq)]
struct Content {
    attributes: String,
    periods: String,
}

#[derive(Debug)]
struct Rendered {
    plain: Bytes,
    gzip: Option<Bytes>,
    changes: Vec<u64>,
}

/// From one discontinuity to the next.
#[derive(Debug)]
struct Period {
    number: u64,
    /// What is shown at its start.
    origin: Origin,
    /// When that is, since the start of everything.
    start_us: u64,
}

impl Period {
    /// When the last of it has been shown, as far as it is listed.
    fn end_us(&self, tracks: &[Track<'_>]) -> u64 {
        let last = |track: &Track<'_>| {
            let segment = listed(track.window).rfind(|segment| segment.period == self.number)?;
            let end = segment.start.saturating_add(segment.duration).saturating_sub(self.offset_in(segment.timescale));
            Some(self.start_us.saturating_add(scaled(end, segment.timescale, 1_000_000)))
        };
        tracks.iter().filter_map(last).max().unwrap_or(self.start_us)
    }

    /// The media time of its start, in the units of a track.
    fn offset_in(&self, timescale: u32) -> u64 {
        scaled(self.origin.start, self.origin.timescale, timescale)
    }

    fn render(&self, tracks: &[Track<'_>], out: &mut String) {
        let _ = writeln!(out, "  <Period id=\"p{}\" start=\"{}\">", self.number, duration(self.start_us));
        for (at, track) in tracks.iter().enumerate() {
            let mut segments = listed(track.window).filter(|segment| segment.period == self.number).peekable();
            let Some(&first) = segments.peek() else { continue };
            self.render_head(at, *track, first, out);
            render_timeline(segments, out);
            out.push_str("        </SegmentTemplate>\n      </Representation>\n    </AdaptationSet>\n");
        }
        out.push_str("  </Period>\n");
    }

    fn render_head(&self, at: usize, track: Track<'_>, first: &Segment, out: &mut String) {
        let window = track.window;
        let description = window.description();
        let kind = match track.kind {
            Kind::Video => "video",
            Kind::Audio => "audio",
        };
        let _ = write!(out, "    <AdaptationSet id=\"{}\" contentType=\"{kind}\" mimeType=\"{kind}/mp4\"", at + 1);
        out.push_str(" segmentAlignment=\"true\"");
        if window.is_independent() {
            out.push_str(" startWithSAP=\"1\"");
        }
        let _ = write!(
            out,
            ">\n      <Representation id=\"{kind}{}\" codecs=\"{}\" bandwidth=\"{}\"",
            at + 1,
            escape(&description.codecs),
            window.peak_bandwidth().max(1)
        );
        match track.kind {
            Kind::Video => {
                if description.width > 0 && description.height > 0 {
                    let _ = write!(out, " width=\"{}\" height=\"{}\"", description.width, description.height);
                }
                if let Some(rate) = description.fps.and_then(frame_rate) {
                    let _ = write!(out, " frameRate=\"{rate}\"");
                }
                out.push_str(">\n");
            }
            Kind::Audio => {
                if description.sample_rate > 0 {
                    let _ = write!(out, " audioSamplingRate=\"{}\"", description.sample_rate);
                }
                out.push_str(">\n");
                if let Some(channels) = description.channels {
                    let _ = writeln!(
                        out,
                        "        <AudioChannelConfiguration \
                         schemeIdUri=\"urn:mpeg:dash:23003:3:audio_channel_configuration:2011\" value=\"{channels}\"/>"
                    );
                }
            }
        }
        let timescale = first.timescale;
        let _ = write!(out, "        <SegmentTemplate timescale=\"{timescale}\"");
        if let Some(init) = window.init_name_of(first) {
            let _ = write!(out, " initialization=\"{init}\"");
        }
        let _ = writeln!(
            out,
            " media=\"{}\" startNumber=\"{}\" presentationTimeOffset=\"{}\">",
            window.segment_template("$Number$"),
            first.number,
            self.offset_in(timescale)
        );
    }
}

/// Runs of equal length are one line.
fn render_timeline<'a>(segments: impl Iterator<Item = &'a Segment>, out: &mut String) {
    out.push_str("          <SegmentTimeline>\n");
    let mut run: Option<Run> = None;
    let mut end = None;
    for segment in segments {
        let follows = end == Some(segment.start);
        end = Some(segment.start.saturating_add(segment.duration));
        match &mut run {
            Some(run) if follows && run.duration == segment.duration => run.more += 1,
            _ => {
                if let Some(run) = run.take() {
                    run.render(out);
                }
                let start = (!follows).then_some(segment.start);
                run = Some(Run { start, duration: segment.duration, more: 0 });
            }
        }
    }
    if let Some(run) = run {
        run.render(out);
    }
    out.push_str("          </SegmentTimeline>\n");
}

struct Run {
    start: Option<u64>,
    duration: u64,
    more: u64,
}

impl Run {
    fn render(self, out: &mut String) {
        out.push_str("            <S");
        if let Some(start) = self.start {
            let _ = write!(out, " t=\"{start}\"");
        }
        let _ = write!(out, " d=\"{}\"", self.duration);
        if self.more > 0 {
            let _ = write!(out, " r=\"{}\"", self.more);
        }
        out.push_str("/>\n");
    }
}

/// The gaps that HLS lists before the first segment lie before the start of everything.
fn listed(window: &Window) -> impl DoubleEndedIterator<Item = &Segment> {
    window.segments().filter(|segment| !segment.before_start)
}

fn depth_us(window: &Window) -> u64 {
    let least_us = u64::from(window.target_s()) * 3_000_000;
    window.rules().length_ms.saturating_mul(1000).max(least_us)
}

fn before(one: Origin, other: Origin) -> bool {
    u128::from(one.start) * u128::from(other.timescale) < u128::from(other.start) * u128::from(one.timescale)
}

/// Rounded to the nearest.
fn scaled(ticks: u64, from: u32, to: u32) -> u64 {
    let from = u128::from(from.max(1));
    u64::try_from((u128::from(ticks) * u128::from(to) + from / 2) / from).unwrap_or(u64::MAX)
}

/// `PT12.345S`.
fn duration(us: u64) -> String {
    let ms = us.div_ceil(1000);
    match ms % 1000 {
        0 => format!("PT{}S", ms / 1000),
        rest => format!("PT{}.{rest:03}S", ms / 1000),
    }
}

/// A whole number or a fraction, as the standard wants it; the rates of television are 1000/1001 of whole ones.
fn frame_rate(fps: f32) -> Option<String> {
    if !(fps.is_finite() && (0.001..=1_000_000.0).contains(&fps)) {
        return None;
    }
    let fps = f64::from(fps);
    let near = |value: f64| (fps - value).abs() < 0.005;
    let television = (fps * 1.001).round();
    Some(if near(fps.round()) {
        format!("{}", fps.round())
    } else if near(television / 1.001) {
        format!("{}/1001", television * 1000.0)
    } else {
        format!("{}/1000", (fps * 1000.0).round())
    })
}

pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other if other.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::hls::window::tests::{low_latency, part, push_segments};
    use crate::protocol::hls::window::{Container, Description, Part, WindowRules};

    #[test]
    fn the_manifest_names_what_the_playlist_names() {
        let (mut video, mut audio) = (video(), audio());
        push_segments(&mut video, 2);
        // Audio begins 10 ms later and its segments are 21 ms longer or shorter.
        push_audio(&mut audio, 480, 96_256);
        push_audio(&mut audio, 480 + 96_256, 95_232);
        let clocks = vec![Clock { scheme: ClockScheme::HttpIso, value: "/time?a&b".into() }];
        let mut manifest = Manifest::new(ManifestRules { clocks, delay_ms: None });
        assert_eq!(
            text(&mut manifest, &video, &audio, 5000),
            r#"<?xml version="1.0" encoding="UTF-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="dynamic" availabilityStartTime="1970-01-01T00:00:00.000Z" minimumUpdatePeriod="PT1S" timeShiftBufferDepth="PT12S" suggestedPresentationDelay="PT6S" minBufferTime="PT2S" maxSegmentDuration="PT2S" publishTime="1970-01-01T00:00:05.000Z">
  <Period id="p0" start="PT0S">
    <AdaptationSet id="1" contentType="video" mimeType="video/mp4" segmentAlignment="true" startWithSAP="1">
      <Representation id="video1" codecs="avc1.64001f" bandwidth="1600" width="1280" height="720" frameRate="30000/1001">
        <SegmentTemplate timescale="90000" initialization="s-i0.mp4" media="s-$Number$.m4s" startNumber="0" presentationTimeOffset="0">
          <SegmentTimeline>
            <S t="0" d="180000" r="1"/>
          </SegmentTimeline>
        </SegmentTemplate>
      </Representation>
    </AdaptationSet>
    <AdaptationSet id="2" contentType="audio" mimeType="audio/mp4" segmentAlignment="true" startWithSAP="1">
      <Representation id="audio2" codecs="mp4a.40.2" bandwidth="403" audioSamplingRate="48000">
        <AudioChannelConfiguration schemeIdUri="urn:mpeg:dash:23003:3:audio_channel_configuration:2011" value="2"/>
        <SegmentTemplate timescale="48000" initialization="a-i0.mp4" media="a-$Number$.m4s" startNumber="0" presentationTimeOffset="0">
          <SegmentTimeline>
            <S t="480" d="96256"/>
            <S d="95232"/>
          </SegmentTimeline>
        </SegmentTemplate>
      </Representation>
    </AdaptationSet>
  </Period>
  <UTCTiming schemeIdUri="urn:mpeg:dash:utc:http-iso:2014" value="/time?a&amp;b"/>
</MPD>
"#
        );
    }

    #[test]
    fn it_is_published_anew_only_when_it_says_something_new() {
        let mut video = video();
        let mut manifest = Manifest::new(ManifestRules::default());
        push_segments(&mut video, 1);
        let first = alone(&mut manifest, &video, 1000);
        video.push_part(part(&mut 2000, 500, true));
        assert_eq!(alone(&mut manifest, &video, 2000), first, "parts are not in it");
        video.end_segment(true);
        let second = alone(&mut manifest, &video, 3000);
        assert!(second.contains("publishTime=\"1970-01-01T00:00:03.000Z\""));
        assert!(second.contains("availabilityStartTime=\"1970-01-01T00:00:00.000Z\""));
    }

    #[test]
    fn a_discontinuity_begins_a_period_at_its_date() {
        let (mut video, mut audio) = (video(), audio());
        push_segments(&mut video, 2);
        push_audio(&mut audio, 0, 96_000);
        push_audio(&mut audio, 96_000, 96_000);
        let mut manifest = Manifest::new(ManifestRules::default());
        text(&mut manifest, &video, &audio, 0);
        for window in [&mut video, &mut audio] {
            window.discontinuity();
        }
        // A publisher that comes back ten seconds later, its sound 5 ms before its picture.
        video.push_segment(Part { date_ms: 14_005, ..part(&mut 60_005, 2000, true) });
        audio.push_segment(Part { date_ms: 14_000, ..audio_part(60 * 48_000, 96_000) });
        let text = text(&mut manifest, &video, &audio, 0);
        assert!(text.contains("<Period id=\"p1\" start=\"PT14S\">"), "{text}");
        assert!(text.contains("startNumber=\"2\" presentationTimeOffset=\"5400000\""), "{text}");
        assert!(text.contains("startNumber=\"2\" presentationTimeOffset=\"2880000\""), "{text}");
        assert!(text.contains("<S t=\"5400450\" d=\"180000\"/>"), "{text}");
    }

    #[test]
    fn a_period_does_not_begin_before_the_one_before_has_ended() {
        let mut video = video();
        push_segments(&mut video, 2);
        video.discontinuity();
        video.push_segment(Part { date_ms: 1000, ..part(&mut 0, 2000, true) });
        let text = alone(&mut Manifest::new(ManifestRules::default()), &video, 0);
        assert!(text.contains("<Period id=\"p1\" start=\"PT4S\">"), "{text}");
    }

    #[test]
    fn periods_keep_their_start_when_their_first_segments_leave() {
        let mut video = video();
        let mut manifest = Manifest::new(ManifestRules::default());
        push_segments(&mut video, 1);
        video.discontinuity();
        push_segments(&mut video, 1);
        alone(&mut manifest, &video, 0);
        push_segments(&mut video, 20);
        let text = alone(&mut manifest, &video, 0);
        assert!(text.contains("<Period id=\"p1\" start=\"PT2S\">") && !text.contains("\"p0\""), "{text}");
        assert!(text.contains("startNumber=\"16\" presentationTimeOffset=\"180000\""), "{text}");
        assert!(text.contains("<S t=\"2880000\" d=\"180000\" r=\"5\"/>"), "{text}");
    }

    #[test]
    fn a_stream_that_has_ended_is_static() {
        let mut video = video();
        push_segments(&mut video, 3);
        video.end();
        let text = alone(&mut Manifest::new(ManifestRules::default()), &video, 0);
        assert!(text.contains("type=\"static\" mediaPresentationDuration=\"PT6S\""), "{text}");
        assert!(!text.contains("minimumUpdatePeriod") && !text.contains("availabilityStartTime"));
    }

    #[test]
    fn nothing_is_said_before_everything_is_known() {
        let (mut video, audio) = (video(), audio());
        push_segments(&mut video, 1);
        let tracks = [Track { kind: Kind::Video, window: &video }, Track { kind: Kind::Audio, window: &audio }];
        assert_eq!(Manifest::new(ManifestRules::default()).render(&tracks, 0, Encoding::Plain), None);
        assert_eq!(Manifest::new(ManifestRules::default()).render(&[], 0, Encoding::Plain), None);
    }

    #[test]
    fn frame_rates_are_whole_or_fractions() {
        for (fps, expected) in [
            (25.0, Some("25")),
            (29.97, Some("30000/1001")),
            (23.976, Some("24000/1001")),
            (59.94, Some("60000/1001")),
            (12.5, Some("12500/1000")),
            (0.0, None),
            (f32::NAN, None),
        ] {
            assert_eq!(frame_rate(fps).as_deref(), expected, "{fps}");
        }
    }

    fn video() -> Window {
        let mut window = low_latency();
        window.describe(Description {
            codecs: "avc1.64001f".into(),
            width: 1280,
            height: 720,
            fps: Some(29.97),
            ..Description::default()
        });
        window
    }

    fn audio() -> Window {
        let mut window = Window::new(WindowRules::new(Container::Fmp4, "a", 2));
        let description = Description {
            codecs: "mp4a.40.2".into(),
            channels: Some(2),
            sample_rate: 48_000,
            ..Description::default()
        };
        window.push_init(Bytes::from_static(b"audio"), description);
        window
    }

    fn audio_part(start: u64, duration: u64) -> Part {
        Part {
            bytes: Bytes::from(vec![0; 100]),
            start,
            duration,
            timescale: 48_000,
            independent: true,
            date_ms: (start / 48) as i64,
        }
    }

    fn push_audio(window: &mut Window, start: u64, duration: u64) {
        window.push_segment(audio_part(start, duration));
    }

    fn text(manifest: &mut Manifest, video: &Window, audio: &Window, now_ms: i64) -> String {
        let tracks = [Track { kind: Kind::Video, window: video }, Track { kind: Kind::Audio, window: audio }];
        String::from_utf8(manifest.render(&tracks, now_ms, Encoding::Plain).unwrap().to_vec()).unwrap()
    }

    fn alone(manifest: &mut Manifest, video: &Window, now_ms: i64) -> String {
        let tracks = [Track { kind: Kind::Video, window: video }];
        String::from_utf8(manifest.render(&tracks, now_ms, Encoding::Plain).unwrap().to_vec()).unwrap()
    }
}
