//! What HLS playlists say, and who has to wait for what they do not say yet.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::window::{Container, Segment, Window, seconds};

/// What a player asks of a playlist: `_HLS_msn`, `_HLS_part`, `_HLS_skip`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// Not before this segment is there, or this part of it.
    pub number: Option<u64>,
    pub part: Option<u64>,
    /// Old segments may be left out.
    pub skip: bool,
}

impl Query {
    /// Reads the query of an address. What is not ours is passed over; of a directive that is there twice the first counts.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut found = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "_HLS_msn" if found.number.is_none() => found.number = Some(whole(value)?),
                "_HLS_part" if found.part.is_none() => found.part = Some(whole(value)?),
                "_HLS_skip" => found.skip |= value == "YES" || value == "v2",
                _ => {}
            }
        }
        // rfc8216bis 6.2.5.2: a part of no segment in particular must be refused.
        if found.part.is_some() && found.number.is_none() {
            return Err(Refusal::BadRequest);
        }
        Ok(found)
    }
}

/// What asking for a playlist comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Ready(Bytes),
    /// Ask again when the window has changed.
    Wait,
    Refused(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It makes no sense, or is further ahead than a player that follows the playlist can ask for.
    BadRequest,
    /// What was asked for should have come by now.
    Unavailable,
}

impl Refusal {
    /// The status HTTP has for it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unavailable => 503,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    Plain,
    Gzip,
}

/// Playlists as they were last made: thousands ask for the same.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    full: Copies,
    delta: Copies,
}

#[derive(Debug, Default)]
struct Copies {
    plain: Option<Bytes>,
    gzip: Option<Bytes>,
}

impl Window {
    /// Answers one request for the media playlist. `waited` is how long it has been held already.
    pub fn answer(&mut self, query: &Query, encoding: Encoding, waited: Duration) -> Answer {
        match self.decide(query) {
            Decision::Ready => Answer::Ready(self.playlist(query.skip, encoding)),
            Decision::Refuse => Answer::Refused(Refusal::BadRequest),
            Decision::Wait if waited >= self.hold_limit() => Answer::Refused(Refusal::Unavailable),
            Decision::Wait => Answer::Wait,
        }
    }

    /// How long a request may be held: three targets (rfc8216bis 6.2.5.2).
    pub fn hold_limit(&self) -> Duration {
        Duration::from_micros(3 * self.target_us())
    }

    /// The media playlist as it is now, whether or not there is anything to play in it.
    pub fn playlist(&mut self, skip: bool, encoding: Encoding) -> Bytes {
        let skipped = if skip { self.skippable() } else { 0 };
        let mut copies = std::mem::take(if skipped > 0 { &mut self.rendered.delta } else { &mut self.rendered.full });
        let plain = copies.plain.get_or_insert_with(|| Bytes::from(self.render(skipped))).clone();
        let answer = match encoding {
            Encoding::Plain => plain,
            Encoding::Gzip => copies.gzip.get_or_insert_with(|| gzip(&plain)).clone(),
        };
        *(if skipped > 0 { &mut self.rendered.delta } else { &mut self.rendered.full }) = copies;
        answer
    }

    fn decide(&self, query: &Query) -> Decision {
        // rfc8216bis 6.2.5.2: once the list has ended there is nothing to wait for, and the directives are ignored.
        if self.ended {
            return Decision::Ready;
        }
        let ready = if self.is_ready() || self.is_silent() { Decision::Ready } else { Decision::Wait };
        let Some(number) = query.number.filter(|_| self.rules.blocking) else { return ready };
        let parts_open = self.open.as_ref().map_or(0, |open| open.parts.len() as u64);
        let last = self.segments.back().map(|segment| segment.number);
        let newest = match (last, &self.open) {
            (Some(last), _) if parts_open == 0 => last,
            (_, Some(open)) => open.number,
            _ => self.next_number,
        };
        if number > newest.saturating_add(AHEAD_MAX) {
            return Decision::Refuse;
        }
        let Some(last) = last else { return Decision::Wait };
        let part = query.part.filter(|_| self.rules.part_target_ms.is_some());
        let there = match part {
            None => number <= last,
            // hls.js asks for parts by the number that the last segment had, so a whole segment of them is not absurd.
            Some(part) if part > self.parts_of_a_segment() => return Decision::Refuse,
            Some(part) if number == last + 1 => part < parts_open,
            // A part behind the last of its segment is the first of the next.
            Some(part) if number == last => {
                parts_open > 0 || self.segments.back().is_some_and(|segment| part < segment.parts.len() as u64)
            }
            Some(_) => number < last,
        };
        if there { ready } else { Decision::Wait }
    }

    /// As many as there can be when each is as short as it may be, those before keyframes aside, and twice that for good measure.
    fn parts_of_a_segment(&self) -> u64 {
        let part_us = u64::from(self.rules.part_target_ms.unwrap_or(1)) * 1000;
        let listed =
            self.segments.iter().rev().take(3).chain(&self.open).map(|segment| segment.parts.len() as u64).max();
        (2 * self.target_us() / part_us + PARTS_AHEAD).max(listed.unwrap_or(0) + PARTS_AHEAD)
    }

    /// Delta updates are for low latency, where a list is fetched several times a second. Without parts they save little, and
    /// video.js 8.24 (VHS) stops for good: to it a longer list that leaves out as much as it has gained is the list it knows.
    fn offers_deltas(&self) -> bool {
        self.rules.blocking && self.rules.part_target_ms.is_some()
    }

    /// How many segments a delta update leaves out: those that lie behind the skip boundary altogether.
    fn skippable(&self) -> usize {
        if self.ended || !self.offers_deltas() {
            return 0;
        }
        let open_us = self.open.as_ref().filter(|open| !open.parts.is_empty()).map_or(0, |open| open.duration_us);
        let mut behind_us = self.listed_us.saturating_add(open_us);
        let reach_us = SKIP_TARGETS * self.target_us();
        self.segments
            .iter()
            .take_while(|segment| {
                behind_us = behind_us.saturating_sub(segment.duration_us);
                behind_us > reach_us
            })
            .count()
    }

    fn render(&self, skipped: usize) -> String {
        let text: usize =
            self.segments.iter().skip(skipped).map(|segment| segment.head.len() + segment.tail.len()).sum();
        let parts: usize = self.segments.iter().skip(skipped).map(|segment| segment.listed_parts().len()).sum();
        let mut out = String::with_capacity(text + (parts + PARTS_MARGIN) * PART_LINE);
        self.render_header(skipped, &mut out);
        let mut init = None;
        for (at, segment) in self.segments.iter().enumerate().skip(skipped) {
            self.render_head(segment, at == skipped, &mut init, &mut out);
            self.render_parts(segment, &mut out);
            out.push_str(&segment.tail);
        }
        if let Some(open) = self.open.as_ref().filter(|open| !open.parts.is_empty()) {
            self.render_head(open, self.segments.len() == skipped, &mut init, &mut out);
            self.render_parts(open, &mut out);
        }
        if self.ended {
            out.push_str("#EXT-X-ENDLIST\n");
            return out;
        }
        if let Some(name) = self.hinted_part() {
            let _ = writeln!(out, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{name}\"");
        }
        for report in &self.reports {
            let _ = write!(out, "#EXT-X-RENDITION-REPORT:URI=\"{}\",LAST-MSN={}", report.uri, report.position.number);
            if let Some(part) = report.position.part {
                let _ = write!(out, ",LAST-PART={part}");
            }
            out.push('\n');
        }
        out
    }

    fn render_header(&self, skipped: usize, out: &mut String) {
        let version = match self.rules.container {
            _ if skipped > 0 => 9,
            Container::Fmp4 => 6,
            Container::Ts => 3,
        };
        let _ = write!(out, "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{}\n", self.target_s);
        if self.rules.blocking {
            out.push_str("#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES");
            if let Some(ms) = self.rules.part_target_ms {
                // rfc8216bis 4.4.3.8: twice the part target at least, three times it should be.
                let _ = write!(out, ",PART-HOLD-BACK={}", millis(u64::from(ms) * 3));
            }
            if self.offers_deltas() {
                let _ = write!(out, ",CAN-SKIP-UNTIL={}.0", SKIP_TARGETS * u64::from(self.target_s));
            }
            out.push('\n');
        }
        if let Some(ms) = self.rules.part_target_ms {
            let _ = writeln!(out, "#EXT-X-PART-INF:PART-TARGET={}", millis(u64::from(ms)));
        }
        let first = self.segments.front().or(self.open.as_ref()).map_or(self.next_number, |segment| segment.number);
        let _ = writeln!(out, "#EXT-X-MEDIA-SEQUENCE:{first}");
        // Always there: a list that will ever hold a discontinuity must say so from the start (Apple 8).
        let _ = writeln!(out, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence);
        if self.independent {
            out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        if skipped > 0 {
            let _ = writeln!(out, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}");
        }
    }

    /// What stands before the first part of a segment. `init` is the initialisation that the lines so far end with.
    fn render_head(&self, segment: &Segment, first: bool, init: &mut Option<u32>, out: &mut String) {
        out.push_str(&segment.head);
        if let Some(number) = segment.init.filter(|number| first || *init != Some(*number)) {
            let _ = writeln!(out, "#EXT-X-MAP:URI=\"{}\"", self.init_name(number));
            *init = Some(number);
        }
    }

    fn render_parts(&self, segment: &Segment, out: &mut String) {
        for part in segment.listed_parts() {
            let duration = seconds(part.duration_us);
            let _ = write!(out, "#EXT-X-PART:DURATION={duration},URI=\"{}\"", self.part_name(part.number));
            out.push_str(if part.independent { ",INDEPENDENT=YES\n" } else { "\n" });
        }
    }
}

/// A playlist that a multivariant playlist names.
#[derive(Clone, Copy, Debug)]
pub struct Rendition<'a> {
    /// Of its media playlist, seen from the multivariant one, with whatever query the viewer is to be known by.
    pub uri: &'a str,
    pub window: &'a Window,
}

/// The playlist above the media playlists: each of `variants` (video, or the only thing there is) with the sound of `audio` beside it.
///
/// `None` until every one of them has a codec and a segment to measure: a player asks for this once, and believes it.
pub fn multivariant(variants: &[Rendition<'_>], audio: Option<Rendition<'_>>) -> Option<String> {
    let known =
        |rendition: &Rendition<'_>| rendition.window.is_ready() && !rendition.window.description().codecs.is_empty();
    if variants.is_empty() || !variants.iter().chain(&audio).all(known) {
        return None;
    }
    let windows = || variants.iter().chain(&audio).map(|rendition| rendition.window);
    let version = if windows().any(|window| window.rules.container == Container::Fmp4) { 6 } else { 3 };
    let mut out = format!("#EXTM3U\n#EXT-X-VERSION:{version}\n");
    if windows().all(Window::is_independent) {
        out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    if let Some(audio) = audio {
        let _ = write!(out, "\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"audio\",DEFAULT=YES,AUTOSELECT=YES",);
        if let Some(channels) = audio.window.description().channels {
            let _ = write!(out, ",CHANNELS=\"{channels}\"");
        }
        let _ = writeln!(out, ",URI=\"{}\"", audio.uri);
    }
    for variant in variants {
        let description = variant.window.description();
        let sound = audio.map(|audio| audio.window);
        let peak = variant.window.peak_bandwidth() + sound.map_or(0, Window::peak_bandwidth);
        let average = variant.window.average_bandwidth() + sound.map_or(0, Window::average_bandwidth);
        let _ = write!(
            out,
            "\n#EXT-X-STREAM-INF:BANDWIDTH={},AVERAGE-BANDWIDTH={},CODECS=\"{}",
            peak.max(1),
            average.max(1),
            description.codecs
        );
        if let Some(sound) = sound {
            let _ = write!(out, ",{}", sound.description().codecs);
        }
        out.push('"');
        if description.width > 0 && description.height > 0 {
            let _ = write!(out, ",RESOLUTION={}x{}", description.width, description.height);
        }
        if let Some(fps) = description.fps.filter(|fps| fps.is_finite() && *fps > 0.0) {
            let _ = write!(out, ",FRAME-RATE={fps:.3}");
        }
        if sound.is_some() {
            out.push_str(",AUDIO=\"audio\"");
        }
        let _ = writeln!(out, "\n{}", variant.uri);
    }
    Some(out)
}

/// As small as playlists get for the time it takes: they are compressed once for each change.
pub fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4 + 64), Compression::new(GZIP_LEVEL));
    // Writing into memory does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().map(Bytes::from).unwrap_or_default()
}

enum Decision {
    Ready,
    Wait,
    Refuse,
}

/// A decimal-integer of the standard: digits and nothing else, up to 2^64 - 1.
fn whole(value: &str) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().ok_or(Refusal::BadRequest)
}

fn millis(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// rfc8216bis 6.2.5.2: a request for more than two segments ahead should be refused.
const AHEAD_MAX: u64 = 2;
/// How many parts ahead are not absurd whatever the segment has.
const PARTS_AHEAD: u64 = 3;
/// rfc8216bis 4.4.3.8: CAN-SKIP-UNTIL is at least six targets.
const SKIP_TARGETS: u64 = 6;
const GZIP_LEVEL: u32 = 4;
/// About what a line of a part takes, and how many lines the rest is worth, to ask for memory once.
const PART_LINE: usize = 96;
const PARTS_MARGIN: usize = 32;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::protocol::hls::window::tests::{low_latency, part, push_segments, segment_of_parts};
    use crate::protocol::hls::window::{Description, Report, WindowRules, report_to_each_other};

    #[test]
    fn a_low_latency_playlist_says_what_is_there_and_what_comes() {
        let mut window = low_latency();
        segment_of_parts(&mut window, 2);
        window.push_part(part(&mut 2000, 500, false));
        window.set_reports(vec![Report { uri: "audio.m3u8".into(), position: window.position().unwrap() }]);
        assert_eq!(
            text(&mut window, false),
            "#EXTM3U\n\
             #EXT-X-VERSION:6\n\
             #EXT-X-TARGETDURATION:2\n\
             #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.500,CAN-SKIP-UNTIL=12.0\n\
             #EXT-X-PART-INF:PART-TARGET=0.500\n\
             #EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z\n\
             #EXT-X-MAP:URI=\"s-i0.mp4\"\n\
             #EXT-X-PART:DURATION=0.50000,URI=\"s-p0.m4s\",INDEPENDENT=YES\n\
             #EXT-X-PART:DURATION=0.50000,URI=\"s-p1.m4s\"\n\
             #EXTINF:1.00000,\n\
             s-0.m4s\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:02.000Z\n\
             #EXT-X-PART:DURATION=0.50000,URI=\"s-p2.m4s\"\n\
             #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"s-p3.m4s\"\n\
             #EXT-X-RENDITION-REPORT:URI=\"audio.m3u8\",LAST-MSN=1,LAST-PART=0\n"
        );
    }

    #[test]
    fn a_ts_playlist_has_segments_only() {
        let mut window = Window::new(WindowRules { blocking: false, ..WindowRules::new(Container::Ts, "s", 2) });
        window.push_segment(part(&mut 0, 1960, true));
        window.discontinuity();
        window.push_segment(part(&mut 5000, 2000, true));
        window.end();
        assert_eq!(
            text(&mut window, true),
            "#EXTM3U\n\
             #EXT-X-VERSION:3\n\
             #EXT-X-TARGETDURATION:2\n\
             #EXT-X-MEDIA-SEQUENCE:0\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:0\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z\n\
             #EXTINF:1.96000,\n\
             s-0.ts\n\
             #EXT-X-DISCONTINUITY\n\
             #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:05.000Z\n\
             #EXTINF:2.00000,\n\
             s-1.ts\n\
             #EXT-X-ENDLIST\n"
        );
    }

    #[test]
    fn directives_are_read_or_refused() {
        let query = |number, part, skip| Ok(Query { number, part, skip });
        for (text, expected) in [
            ("", query(None, None, false)),
            ("_HLS_msn=7", query(Some(7), None, false)),
            ("_HLS_msn=7&_HLS_part=3&_HLS_skip=YES&token=a=b", query(Some(7), Some(3), true)),
            ("_HLS_skip=v2", query(None, None, true)),
            ("_HLS_skip=no", query(None, None, false)),
            ("_HLS_msn=18446744073709551615", query(Some(u64::MAX), None, false)),
            ("_HLS_msn=18446744073709551616", Err(Refusal::BadRequest)),
            ("_HLS_msn=-1", Err(Refusal::BadRequest)),
            ("_HLS_msn=+1", Err(Refusal::BadRequest)),
            ("_HLS_msn=", Err(Refusal::BadRequest)),
            ("_HLS_msn", Err(Refusal::BadRequest)),
            ("_HLS_msn=1.0", Err(Refusal::BadRequest)),
            ("_HLS_msn=%31", Err(Refusal::BadRequest)),
            ("_HLS_part=0", Err(Refusal::BadRequest)),
            ("_HLS_msn=0&_HLS_part=nan", Err(Refusal::BadRequest)),
        ] {
            assert_eq!(Query::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn whoever_asks_ahead_waits_and_whoever_asks_absurdly_is_refused() {
        let mut window = low_latency();
        for _ in 0..3 {
            segment_of_parts(&mut window, 4);
        }
        // Segments 0 to 2 are complete, with four parts each; of segment 3 there are two.
        for at in 0..2 {
            window.push_part(part(&mut 0, 500, at == 0));
        }
        for (query, expected) in [
            ("", "ready"),
            ("_HLS_msn=0", "ready"),
            ("_HLS_msn=2", "ready"),
            ("_HLS_msn=3", "wait"),
            ("_HLS_msn=5", "wait"),
            ("_HLS_msn=6", "400"),
            ("_HLS_msn=18446744073709551615", "400"),
            ("_HLS_msn=2&_HLS_part=3", "ready"),
            // Behind the last part of segment 2 is the first of segment 3.
            ("_HLS_msn=2&_HLS_part=4", "ready"),
            ("_HLS_msn=3&_HLS_part=1", "ready"),
            ("_HLS_msn=3&_HLS_part=2", "wait"),
            // hls.js without low latency asks for the last part of the segment.
            ("_HLS_msn=3&_HLS_part=3", "wait"),
            ("_HLS_msn=4&_HLS_part=3", "wait"),
            ("_HLS_msn=3&_HLS_part=1000", "400"),
            ("_HLS_msn=3&_HLS_part=18446744073709551615", "400"),
        ] {
            assert_eq!(verdict(&mut window, query), expected, "{query}");
        }
        window.end_segment(true);
        assert_eq!(verdict(&mut window, "_HLS_msn=3"), "ready");
        assert_eq!(verdict(&mut window, "_HLS_msn=3&_HLS_part=2"), "wait", "it is the first part of segment 4");
        assert_eq!(verdict(&mut window, "_HLS_msn=5"), "wait");
        assert_eq!(verdict(&mut window, "_HLS_msn=6"), "400");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut window = low_latency();
        segment_of_parts(&mut window, 4);
        let query = Query::parse("_HLS_msn=1").unwrap();
        assert_eq!(window.answer(&query, Encoding::Plain, Duration::from_millis(5999)), Answer::Wait);
        let late = window.answer(&query, Encoding::Plain, Duration::from_secs(6));
        assert_eq!(late, Answer::Refused(Refusal::Unavailable));
        window.end();
        assert_eq!(verdict(&mut window, "_HLS_msn=1"), "ready", "nothing more comes");
        assert_eq!(verdict(&mut window, "_HLS_msn=9999"), "ready");
    }

    #[test]
    fn a_playlist_is_not_there_before_its_first_segment() {
        let mut window = low_latency();
        assert_eq!(verdict(&mut window, ""), "wait");
        window.push_part(part(&mut 0, 500, true));
        assert_eq!(verdict(&mut window, ""), "wait");
        assert_eq!(verdict(&mut window, "_HLS_msn=0&_HLS_part=0"), "wait");
        assert_eq!(verdict(&mut window, "_HLS_msn=3"), "400");
        window.end_segment(true);
        assert_eq!(verdict(&mut window, ""), "ready");
    }

    #[test]
    fn without_blocking_directives_mean_nothing() {
        let mut window = Window::new(WindowRules { blocking: false, ..WindowRules::new(Container::Ts, "s", 2) });
        window.push_segment(part(&mut 0, 2000, true));
        assert_eq!(verdict(&mut window, "_HLS_msn=100"), "ready");
        assert!(!text(&mut window, true).contains("SERVER-CONTROL"));
    }

    #[test]
    fn a_delta_update_leaves_out_what_is_behind_the_boundary() {
        let mut window = Window::new(WindowRules { length_ms: 60_000, ..low_latency().rules().clone() });
        window.push_init(Bytes::from_static(b"init"), Description::default());
        push_segments(&mut window, 10);
        let full = text(&mut window, false);
        let delta = text(&mut window, true);
        assert!(!full.contains("SKIP:"));
        assert!(full.contains("#EXT-X-VERSION:6\n") && delta.contains("#EXT-X-VERSION:9\n"));
        // 20 s are listed and 12 s must be there: the segments that end at 2, 4 and 6 s are out, that at 8 s lies on the boundary.
        assert!(delta.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n"), "{delta}");
        assert!(!delta.contains("s-2.m4s") && delta.contains("s-3.m4s"));
        assert_eq!(delta.matches("#EXT-X-MAP").count(), 1, "what the first one listed needs is said again");
        assert!(delta.contains("#EXT-X-MEDIA-SEQUENCE:0\n"));
        window.end();
        assert!(!text(&mut window, true).contains("SKIP:"));
    }

    #[test]
    fn without_parts_nothing_is_left_out() {
        let mut window = Window::new(WindowRules { length_ms: 60_000, ..WindowRules::new(Container::Ts, "s", 2) });
        for _ in 0..10 {
            window.push_segment(part(&mut 0, 2000, true));
        }
        let list = text(&mut window, true);
        assert!(list.contains("#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES\n") && !list.contains("SKIP"), "{list}");
        assert_eq!(list.matches("#EXTINF").count(), 10);
    }

    #[test]
    fn everyone_is_given_the_same_bytes() {
        let mut window = low_latency();
        push_segments(&mut window, 20);
        for encoding in [Encoding::Plain, Encoding::Gzip] {
            for skip in [false, true] {
                let one = window.playlist(skip, encoding);
                assert_eq!(one.as_ptr(), window.playlist(skip, encoding).as_ptr());
            }
        }
        let plain = window.playlist(false, Encoding::Plain);
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*window.playlist(false, Encoding::Gzip)).read_to_end(&mut unpacked).unwrap();
        assert_eq!(plain, unpacked);
        window.push_part(part(&mut 0, 500, true));
        assert_ne!(plain, window.playlist(false, Encoding::Plain));
    }

    #[test]
    fn gaps_make_a_young_list_long_enough() {
        let mut window =
            Window::new(WindowRules { leading_gaps: 7, length_ms: 16_000, ..low_latency().rules().clone() });
        segment_of_parts(&mut window, 4);
        let list = text(&mut window, false);
        assert_eq!(list.matches("#EXT-X-GAP\n#EXTINF:2.00000,\n").count(), 7);
        assert!(list.contains("\ns-7.m4s\n") && list.contains("#EXT-X-MEDIA-SEQUENCE:0\n"));
        assert!(list.contains("TIME:1969-12-31T23:59:46.000Z"));
        assert_eq!(verdict(&mut window, "_HLS_msn=7"), "ready");
    }

    #[test]
    fn the_multivariant_playlist_waits_for_codecs_and_figures() {
        let mut video = low_latency();
        let mut audio = low_latency();
        let both = |video: &Window, audio: &Window| {
            multivariant(
                &[Rendition { uri: "video.m3u8?id=1", window: video }],
                Some(Rendition { uri: "audio.m3u8?id=1", window: audio }),
            )
        };
        assert_eq!(both(&video, &audio), None);
        video.describe(Description {
            codecs: "avc1.64001f".into(),
            width: 1280,
            height: 720,
            fps: Some(29.97),
            ..Description::default()
        });
        audio.describe(Description { codecs: "mp4a.40.2".into(), channels: Some(2), ..Description::default() });
        video.push_segment(part(&mut 0, 2000, true));
        assert_eq!(both(&video, &audio), None);
        audio.push_segment(part(&mut 0, 2000, true));
        // A part of the tests has 100 bytes.
        assert_eq!(
            both(&video, &audio).unwrap(),
            "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n\n\
             #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"audio\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",\
             URI=\"audio.m3u8?id=1\"\n\n\
             #EXT-X-STREAM-INF:BANDWIDTH=800,AVERAGE-BANDWIDTH=800,CODECS=\"avc1.64001f,mp4a.40.2\",\
             RESOLUTION=1280x720,FRAME-RATE=29.970,AUDIO=\"audio\"\nvideo.m3u8?id=1\n"
        );
        let alone = multivariant(&[Rendition { uri: "audio.m3u8", window: &audio }], None).unwrap();
        assert!(alone.contains("BANDWIDTH=400,") && alone.contains("CODECS=\"mp4a.40.2\"\naudio.m3u8"));
    }

    #[test]
    fn renditions_tell_of_each_other() {
        let (mut video, mut audio) = (low_latency(), low_latency());
        push_segments(&mut video, 2);
        push_segments(&mut audio, 3);
        report_to_each_other(&mut [("v.m3u8", &mut video), ("a.m3u8", &mut audio)]);
        assert!(text(&mut video, false).ends_with("REPORT:URI=\"a.m3u8\",LAST-MSN=2,LAST-PART=3\n"));
        assert!(text(&mut audio, false).ends_with("REPORT:URI=\"v.m3u8\",LAST-MSN=1,LAST-PART=3\n"));
    }

    fn text(window: &mut Window, skip: bool) -> String {
        String::from_utf8(window.playlist(skip, Encoding::Plain).to_vec()).unwrap()
    }

    fn verdict(window: &mut Window, query: &str) -> &'static str {
        match window.answer(&Query::parse(query).unwrap(), Encoding::Plain, Duration::ZERO) {
            Answer::Ready(_) => "ready",
            Answer::Wait => "wait",
            Answer::Refused(Refusal::BadRequest) => "400",
            Answer::Refused(Refusal::Unavailable) => "503",
        }
    }
}
