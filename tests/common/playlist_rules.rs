//! The rules of live HLS playlists: what each must say, and what may have changed since the one before.
//!
//! Written from the standard (RFC 8216 and its second edition, with Apple's authoring rules where they are stricter) and not from the server:
//! it takes text, and knows nothing of who wrote it.

use std::collections::HashMap;

/// Watches one media playlist through its life: [`see`](Self::see) is given every snapshot in the order in which it was fetched.
#[derive(Debug, Default)]
pub struct PlaylistRules {
    last: Option<Playlist>,
    /// Which place each name has stood for.
    names: HashMap<String, String>,
    pub allowances: Allowances,
}

/// What a test may know to be broken for a reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowances {
    /// Parts may be shorter than 85 % of the target, as at the end of a source.
    pub short_parts: bool,
    /// Parts may be longer than their target.
    pub long_parts: bool,
    /// Fewer than three targets may be left, as where memory ran out.
    pub short_list: bool,
}

/// A media playlist as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playlist {
    pub version: u64,
    pub target_s: u64,
    pub part_target: Option<f64>,
    pub part_hold_back: Option<f64>,
    pub skip_until: Option<f64>,
    pub can_block: bool,
    pub media_sequence: u64,
    pub discontinuity_sequence: u64,
    pub independent: bool,
    pub skipped: u64,
    pub segments: Vec<Segment>,
    /// The segment that is not complete yet: its tags and parts.
    pub open: Segment,
    pub hint: Option<String>,
    pub reports: Vec<HashMap<String, String>>,
    pub ended: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    pub uri: String,
    pub duration: f64,
    pub discontinuity: bool,
    pub gap: bool,
    /// In ms since 1970.
    pub date_ms: Option<i64>,
    /// What applies to it, wherever it was said.
    pub map: Option<String>,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub uri: String,
    pub duration: f64,
    pub independent: bool,
    pub gap: bool,
}

impl PlaylistRules {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn allowing(allowances: Allowances) -> Self {
        Self { allowances, ..Self::default() }
    }

    /// The next snapshot; panics where a rule is broken, with the text. What a delta update leaves out is filled in from the one before.
    #[track_caller]
    pub fn see(&mut self, text: &str) -> Playlist {
        match self.check(text) {
            Ok(playlist) => playlist,
            Err(broken) => panic!("{broken}\n--- the playlist ---\n{text}\n--- before ---\n{:#?}", self.last),
        }
    }

    /// As `see`, for whoever wants to know.
    pub fn check(&mut self, text: &str) -> Result<Playlist, String> {
        let mut playlist = read(text)?;
        if playlist.skipped > 0 {
            self.fill_in(&mut playlist)?;
        }
        self.check_alone(&playlist, text)?;
        self.check_names(&playlist)?;
        if let Some(last) = self.last.take() {
            let verdict = self.check_after(&last, &playlist);
            self.last = Some(last);
            verdict?;
        }
        self.last = Some(playlist.clone());
        Ok(playlist)
    }

    /// What a playlist says to somebody who has seen no other.
    fn check_alone(&self, list: &Playlist, text: &str) -> Result<(), String> {
        let target = list.target_s as f64;
        let all: Vec<&Segment> = list.segments.iter().collect();
        check(list.target_s >= 1, || "TARGETDURATION is less than 1".into())?;
        for segment in &all {
            check(segment.duration.round() <= target, || {
                format!("{} lasts {} and the target is {target}", segment.uri, segment.duration)
            })?;
        }
        let needed = [(text.contains("#EXT-X-SKIP"), 9), (text.contains("#EXT-X-MAP"), 6), (true, 3)];
        for (used, version) in needed {
            check(!used || list.version >= version, || {
                format!("VERSION {} is too low, {version} is needed", list.version)
            })?;
        }
        if let (Some(first), None) = (all.first().filter(|first| first.date_ms.is_none()), &self.last) {
            return Err(format!("{}: the list has no date", first.uri));
        }
        // A date follows from the one before and what lies between, but for a new beginning.
        for pair in list.segments.windows(2) {
            let [before, after] = pair else { continue };
            check(!after.discontinuity || after.date_ms.is_some(), || {
                format!("{}: a discontinuity without a date", after.uri)
            })?;
            if let (Some(one), Some(other), false) = (before.date_ms, after.date_ms, after.discontinuity) {
                let off = other - one - (before.duration * 1000.0) as i64;
                // A gap may be longer than a segment may be.
                let is_gap = (before.gap || after.gap) && off > 0;
                check(off.abs() < 1000 || is_gap, || format!("{}: the date is off by {off} ms", after.uri))?;
            }
            check(after.map.is_some() == before.map.is_some(), || format!("{}: a MAP for some only", after.uri))?;
        }
        check(list.ended == text.trim_end().ends_with("#EXT-X-ENDLIST"), || "something follows ENDLIST".into())?;
        check(!list.ended || list.hint.is_none(), || "a PRELOAD-HINT after the end".into())?;
        if let Some(skip_until) = list.skip_until {
            check(skip_until >= 6.0 * target, || format!("CAN-SKIP-UNTIL={skip_until} for a target of {target}"))?;
        }
        self.check_parts(list)
    }

    fn check_parts(&self, list: &Playlist) -> Result<(), String> {
        let Some(target) = list.part_target else {
            let parts = list.segments.iter().chain([&list.open]).any(|segment| !segment.parts.is_empty());
            return check(!parts && list.hint.is_none(), || "parts without PART-INF".into());
        };
        check(list.part_hold_back.is_some_and(|hold_back| hold_back >= 3.0 * target - TOLERANCE), || {
            format!("PART-HOLD-BACK is {:?} for parts of {target}", list.part_hold_back)
        })?;
        check(list.hint.is_some() || list.ended, || "no PRELOAD-HINT".into())?;
        let open_s: f64 = list.open.parts.iter().map(|part| part.duration).sum();
        let mut behind_s: f64 = list.segments.iter().map(|segment| segment.duration).sum::<f64>() + open_s;
        for segment in list.segments.iter().chain([&list.open]) {
            check(segment.parts.is_empty() || behind_s <= 3.0 * list.target_s as f64 + 0.01, || {
                format!("{}: parts are listed {behind_s} s before the end", segment.uri)
            })?;
            behind_s -= segment.duration;
            for (at, part) in segment.parts.iter().enumerate() {
                check(self.allowances.long_parts || part.duration <= target + TOLERANCE, || {
                    format!("{}: {} s, and PART-TARGET is {target}", part.uri, part.duration)
                })?;
                // The last of a segment may be short, and of an open segment nobody knows which is the last.
                let next = segment.parts.get(at + 1);
                let may_be_short = self.allowances.short_parts
                    || part.independent
                    || part.gap
                    || next.is_none_or(|next| next.gap)
                    || segment.uri.is_empty() && next.is_none();
                check(may_be_short || part.duration >= 0.85 * target - TOLERANCE, || {
                    format!("{}: {} s is less than 85 % of {target}", part.uri, part.duration)
                })?;
            }
            let sum: f64 = segment.parts.iter().map(|part| part.duration).sum();
            let all = segment.parts.is_empty() || segment.uri.is_empty();
            check(all || (sum - segment.duration).abs() < 0.001 + segment.parts.len() as f64 * TOLERANCE, || {
                format!("{}: its parts last {sum} s and it lasts {} s", segment.uri, segment.duration)
            })?;
        }
        Ok(())
    }

    /// A name stands for one thing for ever.
    fn check_names(&mut self, list: &Playlist) -> Result<(), String> {
        for (at, segment) in list.segments.iter().chain([&list.open]).enumerate() {
            let number = list.media_sequence + at as u64;
            let mut named: Vec<(String, String)> = Vec::new();
            if !segment.uri.is_empty() {
                named.push((segment.uri.clone(), format!("segment {number}")));
            }
            named.extend(
                segment.parts.iter().enumerate().map(|(at, part)| (part.uri.clone(), format!("part {at} of {number}"))),
            );
            for (name, place) in named {
                let known = self.names.entry(name.clone()).or_insert_with(|| place.clone());
                check(*known == place, || format!("{name} is {place} and was {known}"))?;
            }
        }
        Ok(())
    }

    fn check_after(&self, last: &Playlist, list: &Playlist) -> Result<(), String> {
        check(list.target_s == last.target_s, || "TARGETDURATION has changed".into())?;
        check(list.part_target == last.part_target, || "PART-TARGET has changed".into())?;
        check(list.can_block == last.can_block, || "SERVER-CONTROL has changed".into())?;
        check(!last.ended || list == last, || "it has changed after the end".into())?;
        let Some(removed) = list.media_sequence.checked_sub(last.media_sequence) else {
            return Err(format!("MEDIA-SEQUENCE went back from {} to {}", last.media_sequence, list.media_sequence));
        };
        let removed = usize::try_from(removed).map_err(|_| "MEDIA-SEQUENCE jumped")?;
        // With what is open now: a reader may have slept while that became a segment and left.
        let known: Vec<&Segment> = last.segments.iter().chain([&last.open]).collect();
        let gone = known.iter().take(removed).filter(|segment| segment.discontinuity).count() as u64;
        let grown = list.discontinuity_sequence.checked_sub(last.discontinuity_sequence);
        let exact = removed <= last.segments.len();
        check(grown.is_some_and(|grown| grown == gone || (!exact && grown >= gone)), || {
            format!("DISCONTINUITY-SEQUENCE grew by {grown:?}, and {gone} discontinuities have left")
        })?;
        let left_s: f64 = list.segments.iter().map(|segment| segment.duration).sum();
        check(removed == 0 || self.allowances.short_list || left_s >= 3.0 * list.target_s as f64 - 0.01, || {
            format!("{removed} segments were removed, and only {left_s} s are left")
        })?;
        // What was said of a segment stays so; only its parts may go, all at once.
        for (was, is) in last.segments.iter().skip(removed).zip(&list.segments) {
            let same = Segment { parts: was.parts.clone(), ..is.clone() } == *was;
            check(same, || format!("{} has changed: {was:?} became {is:?}", was.uri))?;
            check(is.parts.is_empty() || is.parts == was.parts, || format!("the parts of {} have changed", was.uri))?;
        }
        check(
            list.media_sequence + list.segments.len() as u64 >= last.media_sequence + last.segments.len() as u64,
            || "it ends before the one before".into(),
        )?;
        // The parts of the segment that was open are still its first.
        if let Some(at) = last.segments.len().checked_sub(removed) {
            let now = list.segments.get(at).unwrap_or(&list.open);
            let kept = now.parts.is_empty() && at < list.segments.len() || now.parts.starts_with(&last.open.parts);
            check(kept, || format!("the parts of the open segment have changed: {:?} {:?}", last.open, now))?;
        }
        // A name that was hinted at is the next that comes.
        let before = last.open.parts.len();
        if let (Some(hint), Some(at)) = (&last.hint, last.segments.len().checked_sub(removed)) {
            let coming =
                list.segments.iter().chain([&list.open]).skip(at).flat_map(|segment| &segment.parts).nth(before);
            let known = list.segments.get(at).is_none_or(|segment| !segment.parts.is_empty());
            check(!known || coming.is_none_or(|part| part.uri == *hint), || {
                format!("{hint} was hinted at, and {coming:?} came")
            })?;
        }
        Ok(())
    }

    fn fill_in(&self, list: &mut Playlist) -> Result<(), String> {
        let last = self.last.as_ref().ok_or("a delta update for somebody who knows nothing")?;
        let known = list.media_sequence.checked_sub(last.media_sequence).ok_or("MEDIA-SEQUENCE went back")? as usize;
        let skipped = list.skipped as usize;
        let old = last.segments.get(known..known + skipped).ok_or("more is left out than was known")?;
        let boundary = list.skip_until.ok_or("a delta update without CAN-SKIP-UNTIL")?;
        let rest_s: f64 = list.segments.iter().chain([&list.open]).map(|segment| segment.duration).sum();
        let open_s: f64 = list.open.parts.iter().map(|part| part.duration).sum();
        check(rest_s + open_s >= boundary - 0.01, || {
            format!("{} s are left in a delta update, and the boundary is {boundary}", rest_s + open_s)
        })?;
        let mut segments: Vec<Segment> =
            old.iter().map(|segment| Segment { parts: Vec::new(), ..segment.clone() }).collect();
        segments.append(&mut list.segments);
        list.segments = segments;
        Ok(())
    }
}

impl Playlist {
    /// Every file that the list promises can be fetched now.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = Vec::new();
        for segment in self.segments.iter().chain([&self.open]) {
            files.extend(segment.map.as_deref());
            files.extend(segment.parts.iter().filter(|part| !part.gap).map(|part| part.uri.as_str()));
            if !segment.uri.is_empty() && !segment.gap {
                files.push(&segment.uri);
            }
        }
        files.dedup();
        files
    }

    /// The number of the newest complete segment.
    pub fn last_number(&self) -> u64 {
        (self.media_sequence + self.segments.len() as u64).saturating_sub(1)
    }
}

/// Reads a media playlist, strictly: an unknown tag, a tag out of place, a line that says nothing are errors.
pub fn read(text: &str) -> Result<Playlist, String> {
    let mut list = Playlist::default();
    let mut lines = text.lines();
    check(lines.next() == Some("#EXTM3U"), || "it does not begin with #EXTM3U".into())?;
    let mut segment = Segment::default();
    let mut map: Option<String> = None;
    let mut duration = None;
    let mut seen: Vec<&str> = Vec::new();
    for line in lines {
        let (tag, value) = match line.split_once(':') {
            Some((tag, value)) if line.starts_with('#') => (tag, value),
            _ => (line, ""),
        };
        let once = [
            "#EXT-X-VERSION",
            "#EXT-X-TARGETDURATION",
            "#EXT-X-MEDIA-SEQUENCE",
            "#EXT-X-DISCONTINUITY-SEQUENCE",
            "#EXT-X-SERVER-CONTROL",
            "#EXT-X-PART-INF",
            "#EXT-X-SKIP",
            "#EXT-X-PRELOAD-HINT",
        ];
        if once.contains(&tag) {
            check(!seen.contains(&tag), || format!("{tag} is there twice"))?;
            seen.push(tag);
        }
        match tag {
            "#EXT-X-VERSION" => list.version = whole(value)?,
            "#EXT-X-TARGETDURATION" => list.target_s = whole(value)?,
            "#EXT-X-MEDIA-SEQUENCE" => {
                check(list.segments.is_empty(), || "MEDIA-SEQUENCE after a segment".into())?;
                list.media_sequence = whole(value)?;
            }
            "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                check(list.segments.is_empty() && !segment.discontinuity, || "DISCONTINUITY-SEQUENCE is late".into())?;
                list.discontinuity_sequence = whole(value)?;
            }
            "#EXT-X-INDEPENDENT-SEGMENTS" => list.independent = true,
            "#EXT-X-SERVER-CONTROL" => {
                let of = attributes(value)?;
                list.can_block = of.get("CAN-BLOCK-RELOAD").is_some_and(|value| value == "YES");
                list.part_hold_back = of.get("PART-HOLD-BACK").map(|value| decimal(value)).transpose()?;
                list.skip_until = of.get("CAN-SKIP-UNTIL").map(|value| decimal(value)).transpose()?;
            }
            "#EXT-X-PART-INF" => {
                let of = attributes(value)?;
                list.part_target = Some(decimal(of.get("PART-TARGET").ok_or("PART-INF without PART-TARGET")?)?);
            }
            "#EXT-X-SKIP" => {
                list.skipped = whole(attributes(value)?.get("SKIPPED-SEGMENTS").ok_or("SKIP of nothing")?)?;
                check(list.skipped > 0 && list.segments.is_empty(), || "SKIP out of place".into())?;
            }
            "#EXT-X-MAP" => {
                check(segment.parts.is_empty(), || "MAP after a part it is for".into())?;
                map = Some(attributes(value)?.get("URI").ok_or("MAP without URI")?.clone());
            }
            "#EXT-X-DISCONTINUITY" => {
                check(segment.parts.is_empty() && !segment.discontinuity, || "DISCONTINUITY out of place".into())?;
                segment.discontinuity = true;
            }
            "#EXT-X-PROGRAM-DATE-TIME" => {
                check(segment.parts.is_empty(), || "a date after the part it is for".into())?;
                segment.date_ms = Some(date(value)?);
            }
            "#EXT-X-GAP" => segment.gap = true,
            "#EXT-X-PART" => {
                let of = attributes(value)?;
                let yes = |name: &str| of.get(name).is_some_and(|value| value == "YES");
                segment.parts.push(Part {
                    uri: of.get("URI").ok_or("PART without URI")?.clone(),
                    duration: decimal(of.get("DURATION").ok_or("PART without DURATION")?)?,
                    independent: yes("INDEPENDENT"),
                    gap: yes("GAP"),
                });
                segment.map.clone_from(&map);
            }
            "#EXTINF" => duration = Some(decimal(value.split_once(',').ok_or("EXTINF without a comma")?.0)?),
            "#EXT-X-PRELOAD-HINT" => {
                list.hint = Some(attributes(value)?.get("URI").ok_or("a hint without URI")?.clone());
            }
            "#EXT-X-RENDITION-REPORT" => list.reports.push(attributes(value)?),
            "#EXT-X-ENDLIST" => list.ended = true,
            _ if line.starts_with('#') || line.trim() != line || line.is_empty() => {
                return Err(format!("what is '{line}'?"));
            }
            uri => {
                segment.uri = uri.to_owned();
                segment.duration = duration.take().ok_or_else(|| format!("{uri} has no EXTINF"))?;
                segment.map.clone_from(&map);
                list.segments.push(std::mem::take(&mut segment));
            }
        }
    }
    check(duration.is_none(), || "EXTINF without a URI".into())?;
    check(!segment.parts.is_empty() || segment == Segment::default(), || "tags for no segment".into())?;
    for required in ["#EXT-X-TARGETDURATION", "#EXT-X-MEDIA-SEQUENCE", "#EXT-X-DISCONTINUITY-SEQUENCE"] {
        check(seen.contains(&required), || format!("{required} is missing"))?;
    }
    list.open = segment;
    Ok(list)
}

fn attributes(mut list: &str) -> Result<HashMap<String, String>, String> {
    let mut found = HashMap::new();
    while !list.is_empty() {
        let (name, rest) = list.split_once('=').ok_or_else(|| format!("no attribute: {list}"))?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (value, rest) = quoted.split_once('"').ok_or("an open quote")?;
                (value, rest.strip_prefix(',').unwrap_or(rest))
            }
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        check(found.insert(name.to_owned(), value.to_owned()).is_none(), || format!("{name} twice"))?;
        list = rest;
    }
    Ok(found)
}

fn date(text: &str) -> Result<i64, String> {
    let date: jiff::Timestamp = text.parse().map_err(|error| format!("{text}: {error}"))?;
    Ok(date.as_millisecond())
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}

fn decimal(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| *number >= 0.0).ok_or_else(|| format!("'{text}' is no duration"))
}

fn check(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}

/// Of durations written with five digits.
const TOLERANCE: f64 = 0.000_02;
