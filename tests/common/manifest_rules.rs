//! The rules of live DASH manifests: what each must say, and what may have changed since the one before.
//!
//! Written from the standard (ISO/IEC 23009-1) and not from the server: it takes text, and knows nothing of who wrote it.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Watches one manifest through its life: [`see`](Self::see) is given every snapshot in the order in which it was fetched.
#[derive(Debug, Default)]
pub struct ManifestRules {
    last: Option<(Mpd, String)>,
    /// Segments may end up to so many ms after the clock of the reader: clocks differ.
    pub early_ms: i64,
}

/// A manifest as it was read. Times in seconds unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mpd {
    pub dynamic: bool,
    pub available_ms: Option<i64>,
    pub published_ms: Option<i64>,
    pub depth: Option<f64>,
    pub delay: Option<f64>,
    pub update_period: Option<f64>,
    pub duration: Option<f64>,
    pub clocks: Vec<(String, String)>,
    pub periods: Vec<Period>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Period {
    pub id: String,
    pub start: f64,
    pub tracks: Vec<Track>,
}

/// One representation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Track {
    pub id: String,
    pub kind: String,
    pub codecs: String,
    pub bandwidth: u64,
    pub timescale: u64,
    pub offset: u64,
    pub media: String,
    pub init: String,
    pub start_number: u64,
    pub segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub number: u64,
    pub start: u64,
    pub duration: u64,
}

impl ManifestRules {
    pub fn new() -> Self {
        Self::default()
    }

    /// The next snapshot; panics where a rule is broken, with the text. `now_ms`: when it was fetched, where the dates are to be held
    /// against the clock.
    #[track_caller]
    pub fn see(&mut self, text: &str, now_ms: Option<i64>) -> Mpd {
        match self.check(text, now_ms) {
            Ok(mpd) => mpd,
            Err(broken) => panic!("{broken}\n--- the manifest ---\n{text}\n--- before ---\n{:#?}", self.last),
        }
    }

    /// As `see`, for whoever wants to know.
    pub fn check(&mut self, text: &str, now_ms: Option<i64>) -> Result<Mpd, String> {
        let mpd = read(text)?;
        self.check_alone(&mpd, now_ms)?;
        if let Some((last, last_text)) = &self.last {
            check_after(last, last_text, &mpd, text)?;
        }
        self.last = Some((mpd.clone(), text.to_owned()));
        Ok(mpd)
    }

    fn check_alone(&self, mpd: &Mpd, now_ms: Option<i64>) -> Result<(), String> {
        check(!mpd.periods.is_empty(), || "no period".into())?;
        check(mpd.published_ms.is_some(), || "no publishTime".into())?;
        if mpd.dynamic {
            check(mpd.available_ms.is_some(), || "dynamic without availabilityStartTime".into())?;
            check(mpd.update_period.is_some(), || {
                "dynamic without minimumUpdatePeriod: it is never read again".into()
            })?;
        } else {
            let end = mpd.periods.iter().map(Period::end).fold(0.0, f64::max);
            let duration = mpd.duration.ok_or("static without mediaPresentationDuration")?;
            check((duration - end).abs() < 0.01, || format!("it says it lasts {duration} s and lasts {end} s"))?;
        }
        for pair in mpd.periods.windows(2) {
            let [one, other] = pair else { continue };
            check(one.id != other.id, || format!("two periods are {}", one.id))?;
            check(other.start + 0.002 >= one.end(), || {
                format!("period {} begins at {} and the one before ends at {}", other.id, other.start, one.end())
            })?;
        }
        for period in &mpd.periods {
            check(!period.tracks.is_empty(), || format!("period {} is empty", period.id))?;
            for track in &period.tracks {
                self.check_track(mpd, period, track, now_ms)?;
            }
        }
        Ok(())
    }

    fn check_track(&self, mpd: &Mpd, period: &Period, track: &Track, now_ms: Option<i64>) -> Result<(), String> {
        let name = format!("{} of period {}", track.id, period.id);
        check(!track.codecs.is_empty() && track.bandwidth > 0, || format!("{name}: no codecs, or no bandwidth"))?;
        check(track.media.contains("$Number$") != track.media.contains("$Time$"), || {
            format!("{name}: {}", track.media)
        })?;
        check(!track.segments.is_empty(), || format!("{name}: no segments"))?;
        for pair in track.segments.windows(2) {
            let [one, other] = pair else { continue };
            check(other.start >= one.start + one.duration, || format!("{name}: {other:?} overlaps {one:?}"))?;
        }
        let seconds = |ticks: u64| ticks as f64 / track.timescale as f64;
        for segment in &track.segments {
            check(segment.start >= track.offset, || format!("{name}: {segment:?} begins before its period"))?;
            let end = period.start + seconds(segment.start + segment.duration - track.offset);
            if let (Some(available), Some(now), true) = (mpd.available_ms, now_ms, mpd.dynamic) {
                let end_ms = available + (end * 1000.0) as i64;
                check(end_ms <= now + self.early_ms, || {
                    format!("{name}: {segment:?} is available in {} ms", end_ms - now)
                })?;
            }
        }
        // One segment may lie across the edge.
        if let Some(depth) = mpd.depth {
            let longest = track.segments.iter().map(|segment| seconds(segment.duration)).fold(0.0, f64::max);
            let listed: f64 = track.segments.iter().map(|segment| seconds(segment.duration)).sum();
            check(listed <= depth + longest + 0.01, || {
                format!("{name}: {listed} s are listed, and the depth is {depth}")
            })?;
        }
        Ok(())
    }
}

fn check_after(last: &Mpd, last_text: &str, mpd: &Mpd, text: &str) -> Result<(), String> {
    check(last.dynamic || !mpd.dynamic, || "it was static and lives again".into())?;
    check(!mpd.dynamic || mpd.available_ms == last.available_ms, || "availabilityStartTime has changed".into())?;
    check(mpd.published_ms >= last.published_ms, || "publishTime went back".into())?;
    let same = Mpd { published_ms: None, ..mpd.clone() } == Mpd { published_ms: None, ..last.clone() };
    check(!same || text == last_text, || "it was published anew and says the same".into())?;
    for period in &mpd.periods {
        let Some(before) = last.periods.iter().find(|before| before.id == period.id) else {
            let newer = last.periods.iter().all(|before| before.start <= period.start);
            check(newer, || format!("period {} has come between others", period.id))?;
            continue;
        };
        check(before.start == period.start, || format!("period {} was moved", period.id))?;
        for track in &period.tracks {
            let Some(before) = before.tracks.iter().find(|before| before.id == track.id) else { continue };
            let frame = |track: &Track| (track.timescale, track.offset, track.media.clone(), track.init.clone());
            check(frame(before) == frame(track), || format!("{} has another template", track.id))?;
            for segment in &track.segments {
                let was = before.segments.iter().find(|was| was.number == segment.number);
                check(was.is_none_or(|was| was == segment), || format!("{was:?} became {segment:?}"))?;
            }
            check(before.start_number <= track.start_number, || format!("the numbers of {} went back", track.id))?;
        }
    }
    Ok(())
}

impl Mpd {
    /// Every file that the manifest promises can be fetched now.
    pub fn files(&self) -> Vec<String> {
        let tracks = self.periods.iter().flat_map(|period| &period.tracks);
        let mut files: Vec<String> = tracks.flat_map(Track::files).collect();
        files.sort();
        files.dedup();
        files
    }
}

impl Period {
    /// When the last segment of it ends, since the start of everything.
    pub fn end(&self) -> f64 {
        let ends = self.tracks.iter().filter_map(|track| {
            let last = track.segments.last()?;
            let ticks = (last.start + last.duration).saturating_sub(track.offset);
            Some(self.start + ticks as f64 / track.timescale as f64)
        });
        ends.fold(self.start, f64::max)
    }
}

impl Track {
    fn files(&self) -> Vec<String> {
        let media = |segment: &Segment| {
            self.media
                .replace("$Number$", &segment.number.to_string())
                .replace("$Time$", &segment.start.to_string())
                .replace("$RepresentationID$", &self.id)
        };
        self.segments.iter().map(media).chain([self.init.clone()]).collect()
    }
}

/// Reads a manifest: well-formed XML, and of its elements those that a live stream of one representation a set needs.
pub fn read(text: &str) -> Result<Mpd, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut mpd = Mpd::default();
    let mut open: Vec<String> = Vec::new();
    let mut kind = String::new();
    loop {
        let event = reader.read_event().map_err(|error| format!("at {}: {error}", reader.buffer_position()))?;
        match event {
            Event::Start(element) => {
                open.push(String::from_utf8_lossy(element.name().as_ref()).into_owned());
                begin(&element, &mut mpd, &mut kind)?;
            }
            Event::Empty(element) => begin(&element, &mut mpd, &mut kind)?,
            Event::End(_) => {
                open.pop();
            }
            Event::Text(text) => check(text.iter().all(u8::is_ascii_whitespace), || "text between elements".into())?,
            Event::Eof => break,
            _ => {}
        }
    }
    check(open.is_empty(), || format!("{open:?} are open"))?;
    Ok(mpd)
}

fn begin(element: &BytesStart<'_>, mpd: &mut Mpd, kind: &mut String) -> Result<(), String> {
    let of = attributes(element)?;
    let seconds = |name: &str| of.get(name).map(|value| duration(value)).transpose();
    let date = |name: &str| of.get(name).map(|value| date(value)).transpose();
    let number = |name: &str| of.get(name).map(|value| whole(value)).transpose();
    let word = |name: &str| of.get(name).cloned().unwrap_or_default();
    let period = mpd.periods.last_mut();
    match element.name().as_ref() {
        b"MPD" => {
            check(word("xmlns") == "urn:mpeg:dash:schema:mpd:2011", || "another namespace".into())?;
            check(word("profiles").contains("urn:mpeg:dash:profile:isoff-live:2011"), || "no profile".into())?;
            check(seconds("minBufferTime")?.is_some(), || "no minBufferTime".into())?;
            mpd.dynamic = word("type") == "dynamic";
            mpd.available_ms = date("availabilityStartTime")?;
            mpd.published_ms = date("publishTime")?;
            mpd.depth = seconds("timeShiftBufferDepth")?;
            mpd.delay = seconds("suggestedPresentationDelay")?;
            mpd.update_period = seconds("minimumUpdatePeriod")?;
            mpd.duration = seconds("mediaPresentationDuration")?;
        }
        b"Period" => {
            let start = seconds("start")?.ok_or("a period without start")?;
            mpd.periods.push(Period { id: word("id"), start, tracks: Vec::new() });
        }
        b"AdaptationSet" => {
            *kind = word("contentType");
        }
        b"Representation" => {
            let track = Track {
                id: word("id"),
                kind: kind.clone(),
                codecs: word("codecs"),
                bandwidth: number("bandwidth")?.ok_or("no bandwidth")?,
                ..Track::default()
            };
            period.ok_or("a representation outside of periods")?.tracks.push(track);
        }
        b"SegmentTemplate" => {
            let track = period.and_then(|period| period.tracks.last_mut()).ok_or("a template for nothing")?;
            track.timescale = number("timescale")?.unwrap_or(1);
            check(track.timescale > 0, || "timescale 0".into())?;
            track.offset = number("presentationTimeOffset")?.unwrap_or(0);
            track.start_number = number("startNumber")?.unwrap_or(1);
            track.media = word("media");
            track.init = word("initialization");
        }
        b"S" => {
            let track = period.and_then(|period| period.tracks.last_mut()).ok_or("an S for nothing")?;
            let duration = number("d")?.ok_or("an S without d")?;
            for at in 0..=number("r")?.unwrap_or(0) {
                let follows = track.segments.last().map_or(0, |last| last.start + last.duration);
                let start = number("t")?.filter(|_| at == 0).unwrap_or(follows);
                track.segments.push(Segment {
                    number: track.start_number + track.segments.len() as u64,
                    start,
                    duration,
                });
            }
        }
        b"UTCTiming" => mpd.clocks.push((word("schemeIdUri"), word("value"))),
        _ => {}
    }
    Ok(())
}

fn attributes(element: &BytesStart<'_>) -> Result<BTreeMap<String, String>, String> {
    element
        .attributes()
        .map(|attribute| {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let raw = String::from_utf8_lossy(&attribute.value).into_owned();
            let value = quick_xml::escape::unescape(&raw).map_err(|error| error.to_string())?.into_owned();
            Ok((String::from_utf8_lossy(attribute.key.as_ref()).into_owned(), value))
        })
        .collect()
}

/// `PT1H2M3.5S`, without days and longer.
fn duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is no duration");
    let mut rest = text.strip_prefix("PT").filter(|rest| !rest.is_empty()).ok_or_else(wrong)?;
    let mut seconds = 0.0;
    for (unit, length) in [('H', 3600.0), ('M', 60.0), ('S', 1.0)] {
        if let Some((number, after)) = rest.split_once(unit) {
            seconds += number.parse::<f64>().map_err(|_| wrong())? * length;
            rest = after;
        }
    }
    check(rest.is_empty(), wrong)?;
    Ok(seconds)
}

fn date(text: &str) -> Result<i64, String> {
    let date: jiff::Timestamp = text.parse().map_err(|error| format!("{text}: {error}"))?;
    Ok(date.as_millisecond())
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}

fn check(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}
