//! What one rendition of a live stream holds in memory for those who fetch it piece by piece.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;

use bytes::{Bytes, BytesMut};

use super::date;
use super::playlist::Rendered;

/// Segments that a playlist lists, their parts, and what has left the list but may still be asked for.
///
/// Filled from the front ([`push_init`](Self::push_init), [`push_part`](Self::push_part), [`end_segment`](Self::end_segment)) and emptied
/// from the back by itself, counted in media time: nothing goes because a clock was moved, and nothing goes while nothing comes.
/// What it says of itself (`playlist`, `file`) is for people who guess: a name is looked up among those it gave out, never taken apart.
#[derive(Debug)]
pub struct Window {
    pub(super) rules: WindowRules,
    /// EXT-X-TARGETDURATION: constant, but for a stream that leaves no choice (see `Faults`).
    pub(super) target_s: u32,
    pub(super) description: Description,
    /// Complete and listed, oldest first, their numbers without a hole.
    pub(super) segments: VecDeque<Segment>,
    /// What is being made: its parts are out already.
    pub(super) open: Option<Segment>,
    /// Off the list, oldest first.
    retired: VecDeque<Retired>,
    inits: Vec<Init>,
    /// What may be asked for, by its name.
    files: HashMap<String, (Bytes, FileKind)>,
    /// The number of the next segment to be opened.
    pub(super) next_number: u64,
    next_part: u64,
    next_init: u32,
    /// Discontinuities that left the list with their segments.
    pub(super) discontinuity_sequence: u64,
    /// Discontinuities so far, those that left included.
    periods: u64,
    /// The next segment begins with a discontinuity.
    discontinues: bool,
    /// Every segment so far began with a keyframe.
    pub(super) independent: bool,
    pub(super) ended: bool,
    /// Media time pushed so far.
    position_us: u64,
    /// What is being pushed at this moment and not yet part of that: what leaves because of it leaves behind it.
    coming_us: u64,
    /// Media time of `segments`.
    pub(super) listed_us: u64,
    longest_us: u64,
    bytes: usize,
    rates: Rates,
    faults: Faults,
    pub(super) reports: Vec<Report>,
    pub(super) rendered: Rendered,
    changes: u64,
}

/// What a window keeps and what its playlists promise. Promises are constant: players give up on a playlist that changes its mind.
#[derive(Clone, Debug)]
pub struct WindowRules {
    pub container: Container,
    /// What every name begins with: unlike any before it, so that no cache between here and a player serves a file of an earlier session.
    /// Letters, digits, `-` and `_`; anything else is left out.
    pub prefix: String,
    /// What no segment is longer than, to the rounding.
    pub target_s: u32,
    /// What no part is longer than. `None`: no low latency, parts are not told of.
    pub part_target_ms: Option<u32>,
    /// How much media the playlist lists; three targets at least.
    pub length_ms: u64,
    /// How many bytes are held, whatever else is promised.
    pub bytes_max: usize,
    /// Whether a playlist may be asked for before it is there (`_HLS_msn`).
    pub blocking: bool,
    /// The number of the first segment. One that comes back under the same address goes on above where it was.
    pub first_number: u64,
    /// How many discontinuities there were before, in other renditions of the same stream.
    pub first_period: u64,
    /// Segments that are said to have been missed before the first: AVPlayer starts in low latency only where the list is long enough
    /// already. [`LEADING_GAPS`] or 0.
    pub leading_gaps: u32,
}

impl WindowRules {
    /// A window of `target_s` segments, without low latency and with six of them listed.
    pub fn new(container: Container, prefix: &str, target_s: u32) -> Self {
        Self {
            container,
            prefix: prefix.to_owned(),
            target_s,
            part_target_ms: None,
            length_ms: u64::from(target_s) * 6000,
            bytes_max: BYTES_MAX,
            blocking: true,
            first_number: 0,
            first_period: 0,
            leading_gaps: 0,
        }
    }

    /// The same for another rendition that joins now: numbers and discontinuities have to agree.
    pub fn joining(window: &Window, prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            first_number: window.open.as_ref().map_or(window.next_number, |open| open.number),
            first_period: window.periods + u64::from(window.discontinues),
            leading_gaps: 0,
            ..window.rules.clone()
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    Ts,
    Fmp4,
}

impl Container {
    /// What ends the name of a segment or part: ffmpeg refuses those it does not expect.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Fmp4 => "m4s",
        }
    }
}

/// What is in the media, for the playlist above this one. Empty strings and zeros where nobody knows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Description {
    pub codecs: String,
    pub width: u32,
    pub height: u32,
    pub fps: Option<f32>,
    pub channels: Option<u8>,
    pub sample_rate: u32,
}

/// A piece of media that can be fetched by itself, or the whole of a segment.
#[derive(Clone, Debug)]
pub struct Part {
    pub bytes: Bytes,
    /// When it begins and how long it lasts, in units of `timescale`.
    pub start: u64,
    pub duration: u64,
    /// Units in a second: the same in all parts of a segment.
    pub timescale: u32,
    /// Holds a keyframe.
    pub independent: bool,
    /// The wall clock at its first frame, in ms since 1970 ([`ProgramDate`](super::date::ProgramDate)).
    pub date_ms: i64,
}

impl Part {
    /// Without its beginning.
    fn shortened(self, to_us: u64, from_us: u64) -> Self {
        let ticks = u64::try_from(u128::from(to_us) * u128::from(self.timescale) / 1_000_000).unwrap_or(u64::MAX);
        let skipped = self.duration.saturating_sub(ticks);
        let skipped_ms = i64::try_from((from_us - to_us) / 1000).unwrap_or(i64::MAX);
        Self {
            start: self.start.saturating_add(skipped),
            duration: self.duration - skipped,
            date_ms: self.date_ms.saturating_add(skipped_ms),
            ..self
        }
    }
}

/// What asking for a file comes to.
#[derive(Clone, PartialEq, Debug)]
pub enum File {
    Ready(Bytes, FileKind),
    /// The part that comes next, as the playlist says: it is answered when it is there.
    Wait,
    /// Never heard of it, or no longer here.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    Init,
    Segment,
    Part,
}

impl FileKind {
    pub fn content_type(self, container: Container) -> &'static str {
        match (container, self) {
            (Container::Ts, _) => "video/mp2t",
            (Container::Fmp4, Self::Init) => "video/mp4",
            (Container::Fmp4, Self::Segment | Self::Part) => "video/iso.segment",
        }
    }
}

/// Where another rendition of the same stream is, so that a player which changes over asks for the right thing at once.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Of its playlist, seen from this one's.
    pub uri: String,
    pub position: Position,
}

/// The newest there is: a segment, and its newest part where parts are told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub number: u64,
    pub part: Option<u64>,
}

/// What could not be kept because of what was pushed. Zero in a stream that was cut as its rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Single parts longer than a segment may be: the target duration was raised for each.
    pub target_raised: u64,
    /// Parts longer than the part target: told of with the length they have.
    pub long_parts: u64,
    /// Segments ended where nobody asked for it, to keep the target duration or the bounds.
    pub cut_early: u64,
    /// Segments let go while they were listed and three targets were not left: `bytes_max` is too small for the stream.
    pub starved: u64,
}

/// A segment in the list, or the one being made.
#[derive(Clone, Debug)]
pub struct Segment {
    pub number: u64,
    /// When it begins and how long it lasts, in units of `timescale`.
    pub start: u64,
    pub duration: u64,
    pub timescale: u32,
    pub date_ms: i64,
    /// Begins with a keyframe.
    pub independent: bool,
    /// Begins with a discontinuity.
    pub discontinuity: bool,
    /// How many discontinuities there were up to here: segments of one period have one timeline, one initialisation and one origin.
    pub period: u64,
    pub origin: Origin,
    /// Said to have been missed.
    pub gap: bool,
    /// One of the gaps before the first segment, which the timeline does not have.
    pub before_start: bool,
    pub(super) init: Option<u32>,
    pub(super) duration_us: u64,
    /// Tags before the parts, and what follows them.
    pub(super) head: String,
    pub(super) tail: String,
    pub(super) parts: Vec<ListedPart>,
    bytes: usize,
    part_bytes: Vec<Bytes>,
    /// Media time at its end, once it is complete.
    end_us: u64,
    /// Where the parts stop being fetchable, once they have left the list.
    parts_until_us: Option<u64>,
}

/// Where a period began.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Origin {
    pub start: u64,
    pub timescale: u32,
    pub date_ms: i64,
}

impl Segment {
    fn new(number: u64, here: Origin, period: u64, init: Option<u32>) -> Self {
        Self {
            number,
            start: here.start,
            duration: 0,
            timescale: here.timescale,
            date_ms: here.date_ms,
            independent: true,
            discontinuity: false,
            period,
            origin: here,
            gap: false,
            before_start: false,
            init,
            duration_us: 0,
            head: String::new(),
            tail: String::new(),
            parts: Vec::new(),
            bytes: 0,
            part_bytes: Vec::new(),
            end_us: 0,
            parts_until_us: None,
        }
    }

    /// Parts leave the list three targets after the segment began, all at once: players count them within their segment.
    pub(super) fn listed_parts(&self) -> &[ListedPart] {
        if self.parts_until_us.is_none() { &self.parts } else { &[] }
    }
}

#[derive(Clone, Debug)]
pub(super) struct ListedPart {
    pub(super) number: u64,
    pub(super) duration_us: u64,
    pub(super) independent: bool,
}

impl Window {
    pub fn new(mut rules: WindowRules) -> Self {
        rules.prefix.retain(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        rules.target_s = rules.target_s.max(1);
        rules.part_target_ms = rules.part_target_ms.map(|ms| ms.max(1));
        Self {
            target_s: rules.target_s,
            description: Description::default(),
            segments: VecDeque::new(),
            open: None,
            retired: VecDeque::new(),
            inits: Vec::new(),
            files: HashMap::new(),
            next_number: rules.first_number,
            next_part: 0,
            next_init: 0,
            discontinuity_sequence: rules.first_period,
            periods: rules.first_period,
            discontinues: false,
            independent: true,
            ended: false,
            position_us: 0,
            coming_us: 0,
            listed_us: 0,
            longest_us: 0,
            bytes: 0,
            rates: Rates::default(),
            faults: Faults::default(),
            reports: Vec::new(),
            rendered: Rendered::default(),
            changes: 0,
            rules,
        }
    }

    /// What the media is, for MPEG-TS, whose segments say it themselves.
    pub fn describe(&mut self, description: Description) {
        if self.description != description {
            self.description = description;
            self.changed();
        }
    }

    /// What players need before the parts that follow. The same bytes as before change nothing; others are a discontinuity, which all
    /// renditions must have at the same place.
    pub fn push_init(&mut self, bytes: Bytes, description: Description) {
        if self.ended {
            return;
        }
        self.describe(description);
        match self.inits.last() {
            Some(init) if init.bytes == bytes => return,
            Some(_) => self.discontinuity(),
            None => {}
        }
        let number = self.next_init;
        self.next_init += 1;
        self.bytes += bytes.len() + ENTRY_BYTES;
        self.files.insert(self.init_name(number), (bytes.clone(), FileKind::Init));
        self.inits.push(Init { number, bytes });
        self.forget_inits();
        self.bound();
    }

    /// The next piece of the segment being made; the first one opens it.
    pub fn push_part(&mut self, part: Part) {
        if self.ended {
            return;
        }
        let timescale = part.timescale.max(1);
        let duration_us = micros(part.duration, timescale);
        self.coming_us = duration_us;
        let too_long = self.open.as_ref().is_some_and(|open| {
            open.duration_us + duration_us > longest_us(self.target_s) || open.part_bytes.len() >= PARTS_MAX
        });
        if too_long {
            self.faults.cut_early += 1;
            self.close();
        }
        // RFC 8216 4.3.3.1: rounded to the nearest integer, no segment is longer than the target.
        if duration_us > longest_us(self.target_s) {
            self.faults.target_raised += 1;
            self.target_s = u32::try_from((duration_us + 500_010) / 1_000_000).unwrap_or(u32::MAX);
        }
        let number = self.next_part;
        self.next_part += 1;
        if let Some(target_ms) = self.rules.part_target_ms {
            if duration_us > u64::from(target_ms) * 1000 + ROUNDING_US {
                self.faults.long_parts += 1;
            }
            self.files.insert(self.part_name(number), (part.bytes.clone(), FileKind::Part));
            self.bytes += ENTRY_BYTES;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.new_segment(&part, timescale),
        };
        open.duration = open.duration.saturating_add(part.duration);
        open.duration_us += duration_us;
        open.bytes += part.bytes.len();
        open.part_bytes.push(part.bytes.clone());
        if self.rules.part_target_ms.is_some() {
            open.parts.push(ListedPart { number, duration_us, independent: part.independent });
        }
        self.arrived();
        self.bytes += part.bytes.len();
        let too_many_bytes = open.bytes > self.rules.bytes_max;
        self.open = Some(open);
        if too_many_bytes {
            self.faults.cut_early += 1;
            self.close();
        }
        self.expire();
        self.bound();
        self.changed();
    }

    /// The parts since the last one form a segment. Nothing, where there are none. `independent`: it begins with a keyframe.
    pub fn end_segment(&mut self, independent: bool) {
        if let Some(open) = &mut self.open {
            open.independent = independent;
        }
        self.close();
    }

    /// A whole segment at once.
    pub fn push_segment(&mut self, segment: Part) {
        let independent = segment.independent;
        self.close();
        self.push_part(segment);
        self.end_segment(independent);
    }

    /// There is nothing here for so long, while other renditions have something: a segment that players do not fetch. Who does is given
    /// what holds no frame. Of `gap` the bytes and `independent` do not matter.
    pub fn push_gap(&mut self, gap: Part) {
        if self.ended {
            return;
        }
        let timescale = gap.timescale.max(1);
        let whole_us = micros(gap.duration, timescale);
        // One that is longer than a segment may be is told of as far as it can be, its end where its end is.
        let duration_us = whole_us.min(longest_us(self.target_s));
        let gap = if duration_us < whole_us { gap.shortened(duration_us, whole_us) } else { gap };
        self.coming_us = duration_us;
        self.close();
        let mut segment = self.new_segment(&gap, timescale);
        segment.duration = gap.duration;
        segment.duration_us = duration_us;
        segment.gap = true;
        self.arrived();
        self.list(segment, self.nothing());
    }

    /// What follows does not continue what was before: other codecs, another publisher, a jump in time.
    pub fn discontinuity(&mut self) {
        if self.ended {
            return;
        }
        self.close();
        self.discontinues = true;
    }

    /// The stream is over for good: the playlist says so, and whoever waits for more is to be answered.
    pub fn end(&mut self) {
        self.close();
        self.ended = true;
        self.changed();
    }

    /// Looks a name up. A name this window never gave out is unknown, whatever it looks like.
    pub fn file(&self, name: &str) -> File {
        match self.files.get(name) {
            Some((bytes, kind)) => File::Ready(bytes.clone(), *kind),
            None if self.hinted_part().is_some_and(|hinted| hinted == name) => File::Wait,
            None => File::Unknown,
        }
    }

    /// Where the other renditions of the stream are now, for EXT-X-RENDITION-REPORT.
    pub fn set_reports(&mut self, reports: Vec<Report>) {
        if self.reports != reports {
            self.reports = reports;
            self.changed();
        }
    }

    /// `None` until there is a segment.
    pub fn position(&self) -> Option<Position> {
        match &self.open {
            Some(open) if !open.parts.is_empty() => {
                Some(Position { number: open.number, part: Some(open.parts.len() as u64 - 1) })
            }
            _ => self.segments.back().map(|last| Position {
                number: last.number,
                part: self.rules.part_target_ms.is_some().then(|| (last.parts.len() as u64).saturating_sub(1)),
            }),
        }
    }

    /// Whether there is anything to play: a playlist without a segment is an error to most players.
    pub fn is_ready(&self) -> bool {
        self.segments.iter().any(|segment| !segment.gap)
    }

    /// Nothing has come for as long as the list is, while other renditions had something. Whoever is there already is shown
    /// the gaps; whoever comes now is better off without it.
    pub fn is_silent(&self) -> bool {
        !self.is_ready() && self.open.is_none() && self.segments.iter().any(|segment| !segment.before_start)
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    pub fn rules(&self) -> &WindowRules {
        &self.rules
    }

    /// What EXT-X-TARGETDURATION says.
    pub fn target_s(&self) -> u32 {
        self.target_s
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Complete and listed, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Every segment so far began with a keyframe.
    pub fn is_independent(&self) -> bool {
        self.independent
    }

    /// Bits a second of the busiest stretch so far of about a target; 0 before the first segment.
    pub fn peak_bandwidth(&self) -> u64 {
        self.rates.peak()
    }

    /// Bits a second of all segments so far; 0 before the first.
    pub fn average_bandwidth(&self) -> u64 {
        self.rates.average()
    }

    /// Bytes held: media, and what keeping an account of it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Grows with every change of what can be asked for.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn segment_name(&self, number: u64) -> String {
        format!("{}-{number}.{}", self.rules.prefix, self.rules.container.suffix())
    }

    /// What all segment names have in common, with `placeholder` for the number.
    pub fn segment_template(&self, placeholder: &str) -> String {
        format!("{}-{placeholder}.{}", self.rules.prefix, self.rules.container.suffix())
    }

    /// The initialisation of a segment; `None` for MPEG-TS.
    pub fn init_name_of(&self, segment: &Segment) -> Option<String> {
        segment.init.map(|number| self.init_name(number))
    }

    /// The part that comes next, whatever it will be: parts are numbered through, so that it keeps its name when the segment ends before
    /// it or a discontinuity comes.
    pub fn hinted_part(&self) -> Option<String> {
        (self.rules.part_target_ms.is_some() && !self.ended).then(|| self.part_name(self.next_part))
    }

    pub(super) fn part_name(&self, number: u64) -> String {
        format!("{}-p{number}.{}", self.rules.prefix, self.rules.container.suffix())
    }

    pub(super) fn init_name(&self, number: u32) -> String {
        format!("{}-i{number}.mp4", self.rules.prefix)
    }

    pub(super) fn target_us(&self) -> u64 {
        u64::from(self.target_s) * 1_000_000
    }

    fn close(&mut self) {
        let Some(mut segment) = self.open.take() else { return };
        // The bytes are put together once, and from then on the parts are slices of the whole: nothing is held twice, and whoever serves
        // it has one piece to write.
        let pieces = std::mem::take(&mut segment.part_bytes);
        let whole = join(&pieces);
        let mut at = 0;
        for (part, piece) in segment.parts.iter().zip(&pieces) {
            let name = self.part_name(part.number);
            if let Some((bytes, _)) = self.files.get_mut(&name) {
                *bytes = whole.slice(at..at + piece.len());
            }
            at += piece.len();
        }
        self.independent &= segment.independent;
        self.rates.segment(whole.len(), segment.duration_us, u64::from(self.rules.target_s) * 1_000_000);
        self.list(segment, whole);
    }

    fn list(&mut self, mut segment: Segment, whole: Bytes) {
        let name = self.segment_name(segment.number);
        segment.end_us = self.position_us;
        let gap = if segment.gap { "#EXT-X-GAP\n" } else { "" };
        segment.tail = format!("{gap}#EXTINF:{},\n{name}\n", seconds(segment.duration_us));
        self.files.insert(name, (whole, FileKind::Segment));
        self.bytes += ENTRY_BYTES;
        self.listed_us += segment.duration_us;
        self.segments.push_back(segment);
        self.shorten();
        self.longest_us = self.longest_us.max(self.listed_us);
        self.expire();
        self.bound();
        self.changed();
    }

    /// What a player that fetches a gap is given.
    fn nothing(&self) -> Bytes {
        Bytes::from_static(match self.rules.container {
            Container::Ts => &NULL_PACKET,
            Container::Fmp4 => STYP,
        })
    }

    fn new_segment(&mut self, first: &Part, timescale: u32) -> Segment {
        let here = Origin { start: first.start, timescale, date_ms: first.date_ms };
        let pending = std::mem::take(&mut self.discontinues);
        self.periods += u64::from(pending);
        // Before the first segment there is nothing to be told apart from: it counts, as in the other renditions, as one that has left.
        let first_ever = self.next_number == self.rules.first_number;
        let discontinuity = pending && !first_ever;
        if first_ever {
            self.discontinuity_sequence += u64::from(pending);
            self.lead_with_gaps(here);
        }
        let origin = match self.segments.back() {
            Some(last) if !discontinuity => last.origin,
            _ => here,
        };
        let number = self.next_number;
        self.next_number += 1;
        let mut head = String::new();
        if discontinuity {
            head.push_str("#EXT-X-DISCONTINUITY\n");
        }
        let _ = writeln!(head, "#EXT-X-PROGRAM-DATE-TIME:{}", date::iso(first.date_ms));
        let mut segment = Segment::new(number, here, self.periods, self.inits.last().map(|init| init.number));
        segment.origin = origin;
        segment.independent = first.independent;
        segment.discontinuity = discontinuity;
        segment.head = head;
        segment
    }

    fn lead_with_gaps(&mut self, first: Origin) {
        let gaps = self.rules.leading_gaps.min(LEADING_GAPS_MAX);
        let target_ms = i64::from(self.target_s) * 1000;
        for gap in 0..gaps {
            let number = self.next_number;
            self.next_number += 1;
            let date_ms = first.date_ms.saturating_sub(i64::from(gaps - gap) * target_ms);
            let mut segment = Segment::new(number, first, self.periods, self.inits.last().map(|init| init.number));
            segment.date_ms = date_ms;
            segment.duration = u64::from(self.target_s) * u64::from(first.timescale);
            segment.duration_us = self.target_us();
            segment.head = format!("#EXT-X-PROGRAM-DATE-TIME:{}\n", date::iso(date_ms));
            segment.gap = true;
            segment.before_start = true;
            self.list(segment, self.nothing());
        }
    }

    /// Takes off the list what the list is long enough without.
    fn shorten(&mut self) {
        // RFC 8216 6.2.2: a segment must not be removed when less than three targets would be left.
        let least_us = (self.rules.length_ms.saturating_mul(1000)).max(3 * self.target_us());
        while let Some(first) = self.segments.front() {
            let rest_us = self.listed_us.saturating_sub(first.duration_us);
            if self.segments.len() <= 1 || (rest_us < least_us && self.segments.len() <= SEGMENTS_MAX) {
                break;
            }
            self.retire();
        }
    }

    fn retire(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        self.listed_us = self.listed_us.saturating_sub(segment.duration_us);
        self.discontinuity_sequence += u64::from(segment.discontinuity);
        // RFC 8216 6.2.2: still there for the length of itself and of the longest playlist that listed it.
        let now_us = self.position_us.saturating_add(self.coming_us);
        let segment_us = now_us.saturating_add(segment.duration_us).saturating_add(self.longest_us);
        // Parts that were listed until now have their own time, which is longer where the list was short.
        let parts_us = match segment.parts_until_us {
            _ if segment.parts.is_empty() => 0,
            Some(until_us) => until_us,
            None => now_us.saturating_add(3 * self.target_us()),
        };
        let until_us = segment_us.max(parts_us);
        self.retired.push_back(Retired { segment, until_us });
    }

    /// Forgets what nobody may ask for any more.
    fn expire(&mut self) {
        while self.retired.front().is_some_and(|retired| retired.until_us <= self.position_us) {
            self.forget();
        }
        let reach_us = 3 * self.target_us();
        let now_us = self.position_us.saturating_add(self.coming_us);
        let mut gone = Vec::new();
        let newest_first =
            self.segments.iter_mut().rev().chain(self.retired.iter_mut().rev().map(|old| &mut old.segment));
        for segment in newest_first {
            let start_us = segment.end_us.saturating_sub(segment.duration_us);
            if segment.gap || self.position_us.saturating_sub(start_us) <= reach_us {
                continue;
            }
            if segment.parts.is_empty() {
                // Those before it have lost theirs as well.
                break;
            }
            match segment.parts_until_us {
                None => segment.parts_until_us = Some(now_us.saturating_add(reach_us)),
                Some(until_us) if until_us <= self.position_us => gone.append(&mut segment.parts),
                Some(_) => {}
            }
        }
        for part in gone {
            self.remove_part(&part);
        }
    }

    /// Whatever was promised, memory has an end: first what is off the list goes, then the list itself.
    fn bound(&mut self) {
        while self.bytes > self.rules.bytes_max {
            if self.retired.is_empty() {
                if self.segments.len() <= 1 {
                    break;
                }
                let rest_us =
                    self.listed_us.saturating_sub(self.segments.front().map_or(0, |segment| segment.duration_us));
                self.faults.starved += u64::from(rest_us < 3 * self.target_us());
                self.retire();
            }
            self.forget();
        }
    }

    fn forget(&mut self) {
        let Some(Retired { segment, .. }) = self.retired.pop_front() else { return };
        for part in &segment.parts {
            self.remove_part(part);
        }
        if self.files.remove(&self.segment_name(segment.number)).is_some() {
            self.bytes = self.bytes.saturating_sub(segment.bytes + ENTRY_BYTES);
        }
        self.forget_inits();
    }

    fn remove_part(&mut self, part: &ListedPart) {
        if self.files.remove(&self.part_name(part.number)).is_some() {
            self.bytes = self.bytes.saturating_sub(ENTRY_BYTES);
        }
    }

    /// An initialisation goes with the last segment that needs it; the newest stays.
    fn forget_inits(&mut self) {
        while self.inits.len() > 1 {
            let Some(oldest) = self.inits.first().map(|init| init.number) else { return };
            let needs = |segment: &Segment| segment.init == Some(oldest);
            if self.retired.iter().any(|retired| needs(&retired.segment))
                || self.segments.iter().chain(&self.open).any(needs)
            {
                return;
            }
            let init = self.inits.remove(0);
            self.files.remove(&self.init_name(init.number));
            self.bytes = self.bytes.saturating_sub(init.bytes.len() + ENTRY_BYTES);
        }
    }

    fn arrived(&mut self) {
        self.position_us = self.position_us.saturating_add(std::mem::take(&mut self.coming_us));
    }

    fn changed(&mut self) {
        self.changes += 1;
        self.rendered = Rendered::default();
    }
}

/// Tells each window where the others are. `uri` is what a playlist calls another's.
pub fn report_to_each_other(windows: &mut [(&str, &mut Window)]) {
    let positions: Vec<(String, Option<Position>)> =
        windows.iter().map(|(uri, window)| ((*uri).to_owned(), window.position())).collect();
    for (at, (_, window)) in windows.iter_mut().enumerate() {
        let others = positions.iter().enumerate().filter(|(other, _)| *other != at);
        window.set_reports(
            others
                .filter_map(|(_, (uri, position))| position.map(|position| Report { uri: uri.clone(), position }))
                .collect(),
        );
    }
}

#[derive(Debug)]
struct Retired {
    segment: Segment,
    /// The media time until which it may be asked for.
    until_us: u64,
}

#[derive(Debug)]
struct Init {
    number: u32,
    bytes: Bytes,
}

/// How many bits a second there were.
#[derive(Debug, Default)]
struct Rates {
    peak: u64,
    bytes: u64,
    us: u64,
    /// Segments that are too short to be measured by themselves.
    short_bytes: u64,
    short_us: u64,
}

impl Rates {
    /// The standard measures runs of half a target to one and a half.
    fn segment(&mut self, bytes: usize, us: u64, target_us: u64) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.us = self.us.saturating_add(us);
        self.short_bytes = self.short_bytes.saturating_add(bytes as u64);
        self.short_us = self.short_us.saturating_add(us);
        if self.short_us >= target_us / 2 {
            self.peak = self.peak.max(rate(self.short_bytes, self.short_us));
            self.short_bytes = 0;
            self.short_us = 0;
        }
    }

    fn peak(&self) -> u64 {
        self.peak.max(self.average())
    }

    fn average(&self) -> u64 {
        rate(self.bytes, self.us)
    }
}

fn rate(bytes: u64, us: u64) -> u64 {
    let bits = u128::from(bytes) * 8_000_000;
    u64::try_from(bits / u128::from(us.max(1))).unwrap_or(u64::MAX)
}

fn join(pieces: &[Bytes]) -> Bytes {
    if let [only] = pieces {
        return only.clone();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

/// Rounded to the nearest.
fn micros(ticks: u64, timescale: u32) -> u64 {
    let scale = u128::from(timescale.max(1));
    let us = (u128::from(ticks) * 1_000_000 + scale / 2) / scale;
    u64::try_from(us).unwrap_or(u64::MAX).min(DURATION_MAX_US)
}

/// How a playlist writes a time: with five digits, ten microseconds.
pub(super) fn seconds(us: u64) -> String {
    let units = (us + 5) / 10;
    format!("{}.{:05}", units / 100_000, units % 100_000)
}

/// What still rounds to the target, also after it was written with five digits.
fn longest_us(target_s: u32) -> u64 {
    u64::from(target_s) * 1_000_000 + 499_990
}

/// What `seconds` can hide.
const ROUNDING_US: u64 = 4;
/// More than a day in one piece is a mistake of a clock; sums of it must not overflow.
const DURATION_MAX_US: u64 = 86_400_000_000;
/// A segment type box and nothing behind it.
const STYP: &[u8] = b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix";
/// A packet that carries nothing.
const NULL_PACKET: [u8; 188] = {
    let mut packet = [0xff; 188];
    packet[0] = 0x47;
    packet[1] = 0x1f;
    packet[3] = 0x10;
    packet
};
/// What gohlslib found AVPlayer to be content with.
pub const LEADING_GAPS: u32 = 7;
const LEADING_GAPS_MAX: u32 = 100;
/// What a window holds where nobody says otherwise: 12 s of 50 Mbit/s, listed and retired, with room.
pub const BYTES_MAX: usize = 256 << 20;
/// What a name and its entries take, about: many tiny files must count too.
const ENTRY_BYTES: usize = 300;
/// Hours of segments; a list of tiny ones must have an end even where it is short in time.
const SEGMENTS_MAX: usize = 10_000;
/// Frames of a segment of ten seconds, each a part of its own.
const PARTS_MAX: usize = 1200;

#[cfg(test)]
pub(in crate::protocol) mod tests {
    use super::*;
    use crate::protocol::hls::playlist::Encoding;

    #[test]
    fn the_list_keeps_its_length_and_the_sequence_counts_what_left() {
        let mut window = low_latency();
        push_segments(&mut window, 10);
        // 12 s are six segments of 2 s.
        assert_eq!(numbers(&window), [4, 5, 6, 7, 8, 9]);
        let list = list(&mut window);
        assert!(list.contains("#EXT-X-MEDIA-SEQUENCE:4\n"));
    }

    #[test]
    fn three_targets_stay_whatever_the_length_says() {
        let mut window = Window::new(WindowRules { length_ms: 1, ..low_latency().rules });
        push_segments(&mut window, 10);
        assert_eq!(numbers(&window), [7, 8, 9]);
    }

    #[test]
    fn a_discontinuity_counts_when_its_segment_leaves() {
        let mut window = low_latency();
        push_segments(&mut window, 2);
        window.discontinuity();
        window.discontinuity();
        push_segments(&mut window, 6);
        assert_eq!(numbers(&window), [2, 3, 4, 5, 6, 7]);
        let before = list(&mut window);
        assert_eq!(before.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
        assert!(before.contains("#EXT-X-DISCONTINUITY-SEQUENCE:0\n"));
        push_segments(&mut window, 1);
        let after = list(&mut window);
        assert_eq!(after.matches("#EXT-X-DISCONTINUITY\n").count(), 0);
        assert!(after.contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n"));
    }

    #[test]
    fn another_initialisation_is_a_discontinuity_and_the_same_is_none() {
        let mut window = low_latency();
        push_segments(&mut window, 1);
        window.push_init(Bytes::from_static(b"init"), Description::default());
        push_segments(&mut window, 1);
        window.push_init(Bytes::from_static(b"other"), Description::default());
        push_segments(&mut window, 1);
        let list = list(&mut window);
        assert_eq!(list.matches("#EXT-X-DISCONTINUITY\n").count(), 1);
        assert_eq!(list.matches("#EXT-X-MAP").count(), 2);
        assert_eq!(ready(&window, "s-i0.mp4"), "init");
        assert_eq!(ready(&window, "s-i1.mp4"), "other");
        push_segments(&mut window, 20);
        assert_eq!(window.file("s-i0.mp4"), File::Unknown, "nothing that can be fetched needs it");
    }

    #[test]
    fn a_segment_is_its_parts_and_holds_their_bytes_once() {
        let mut window = low_latency();
        let before = window.bytes();
        segment_of_parts(&mut window, 4);
        let File::Ready(whole, FileKind::Segment) = window.file("s-0.m4s") else { panic!("a segment") };
        assert_eq!(whole.len(), 400);
        for number in 0..4 {
            let File::Ready(part, FileKind::Part) = window.file(&format!("s-p{number}.m4s")) else { panic!("a part") };
            assert_eq!(part.as_ptr(), whole[number * 100..].as_ptr());
        }
        assert_eq!(window.bytes() - before, 400 + 5 * ENTRY_BYTES);
    }

    #[test]
    fn a_segment_that_left_the_list_can_be_fetched_for_as_long_as_players_may_ask() {
        let mut window = low_latency();
        push_segments(&mut window, 7);
        assert_eq!(numbers(&window)[0], 1);
        // The list was 12 s long, the segment 2 s.
        push_segments(&mut window, 6);
        assert!(matches!(window.file("s-0.m4s"), File::Ready(..)));
        push_segments(&mut window, 1);
        assert_eq!(window.file("s-0.m4s"), File::Unknown);
    }

    #[test]
    fn parts_leave_the_list_after_three_targets_and_stay_for_three_more() {
        let mut window = Window::new(WindowRules { length_ms: 60_000, ..low_latency().rules });
        push_segments(&mut window, 3);
        assert!(list(&mut window).contains("s-p0.m4s"));
        push_segments(&mut window, 1);
        assert!(!list(&mut window).contains("s-p3.m4s"), "all of a segment or none");
        assert!(list(&mut window).contains("s-p4.m4s"));
        assert_eq!(ready(&window, "s-p0.m4s").len(), 100);
        push_segments(&mut window, 4);
        assert_eq!(window.file("s-p0.m4s"), File::Unknown);
        assert_eq!(ready(&window, "s-0.m4s").len(), 400);
    }

    #[test]
    fn only_names_that_were_given_out_are_known() {
        let mut window = low_latency();
        push_segments(&mut window, 2);
        for name in [
            "",
            "0.m4s",
            "s-00.m4s",
            "s-2.m4s",
            "s-+1.m4s",
            "../s-0.m4s",
            "s-0.m4s.bak",
            "s-0.ts",
            "s-p-1.m4s",
            "s-p9.m4s",
        ] {
            assert_eq!(window.file(name), File::Unknown, "{name}");
        }
        assert_eq!(window.file("s-p8.m4s"), File::Wait, "it was hinted at");
        window.end();
        assert_eq!(window.file("s-p8.m4s"), File::Unknown, "it will not come");
    }

    #[test]
    fn a_hinted_part_comes_under_its_name_also_behind_a_discontinuity() {
        let mut window = low_latency();
        push_segments(&mut window, 1);
        let hinted = window.hinted_part().unwrap();
        window.discontinuity();
        window.push_init(Bytes::from_static(b"other"), Description::default());
        window.push_part(part(&mut 0, 500, true));
        assert_eq!(ready(&window, &hinted).len(), 100);
    }

    #[test]
    fn the_target_is_kept_by_ending_a_segment_where_nobody_asked() {
        let mut window = low_latency();
        for at in 0..6 {
            window.push_part(part(&mut 0, 500, at == 0));
        }
        window.end_segment(true);
        // 2.499 s still rounds to 2, 2.5 s does not.
        assert_eq!(window.segments().map(|segment| segment.duration_us).collect::<Vec<_>>(), [2_000_000, 1_000_000]);
        assert_eq!(window.target_s(), 2);
        assert_eq!(window.faults().cut_early, 1);
    }

    #[test]
    fn one_piece_longer_than_the_target_raises_it_and_is_counted() {
        let mut window = Window::new(WindowRules::new(Container::Ts, "s", 2));
        window.push_segment(part(&mut 0, 2499, true));
        assert_eq!(window.target_s(), 2);
        window.push_segment(part(&mut 0, 30_000, true));
        assert_eq!(window.target_s(), 30);
        assert_eq!(window.faults().target_raised, 1);
    }

    #[test]
    fn memory_has_an_end_whatever_comes() {
        let mut window = Window::new(WindowRules { bytes_max: 20_000, ..low_latency().rules });
        for _ in 0..100 {
            window.push_part(Part { bytes: Bytes::from(vec![0; 3000]), ..part(&mut 0, 400, true) });
            window.end_segment(true);
            assert!(window.bytes() <= 20_000, "{}", window.bytes());
        }
        assert!(window.faults().starved > 0);
        let first = numbers(&window)[0];
        assert!(list(&mut window).contains(&format!("#EXT-X-MEDIA-SEQUENCE:{first}\n")));
    }

    #[test]
    fn all_that_is_held_is_counted_and_given_back() {
        let mut window = Window::new(WindowRules { length_ms: 0, ..low_latency().rules });
        push_segments(&mut window, 50);
        let steady = window.bytes();
        push_segments(&mut window, 50);
        assert_eq!(window.bytes(), steady);
        let held: usize = window
            .files
            .values()
            .map(|(bytes, kind)| ENTRY_BYTES + if *kind == FileKind::Part { 0 } else { bytes.len() })
            .sum();
        assert_eq!(steady, held);
    }

    #[test]
    fn a_prefix_cannot_break_a_playlist() {
        let window = Window::new(WindowRules { prefix: "../a\"b\n$Number$".into(), ..low_latency().rules });
        assert_eq!(window.segment_name(3), "abNumber-3.m4s");
    }

    #[test]
    fn a_gap_takes_a_number_and_has_a_file_without_frames() {
        let mut window = low_latency();
        push_segments(&mut window, 1);
        window.push_gap(part(&mut 2000, 1500, false));
        push_segments(&mut window, 1);
        assert_eq!(numbers(&window), [0, 1, 2]);
        assert!(list(&mut window).contains("#EXT-X-GAP\n#EXTINF:1.50000,\ns-1.m4s\n"));
        let File::Ready(nothing, _) = window.file("s-1.m4s") else { panic!("a file") };
        assert_eq!(nothing, STYP);
        push_segments(&mut window, 6);
        assert_eq!(window.file("s-p0.m4s"), File::Unknown, "gaps do not keep old parts");
    }

    #[test]
    fn a_gap_longer_than_a_segment_ends_where_it_ends() {
        let mut window = low_latency();
        push_segments(&mut window, 1);
        window.push_gap(part(&mut 2000, 10_000, false));
        let gap = window.segments().last().unwrap();
        assert_eq!(gap.start + gap.duration, 12_000 * 90);
        assert_eq!(gap.date_ms, 12_000 - 2500);
        assert!(list(&mut window).contains("#EXT-X-GAP\n#EXTINF:2.49999,\n"));
    }

    #[test]
    fn a_rendition_that_joins_late_counts_as_the_others_do() {
        let mut video = low_latency();
        push_segments(&mut video, 2);
        video.discontinuity();
        let mut audio = Window::new(WindowRules::joining(&video, "a"));
        for window in [&mut video, &mut audio] {
            window.push_init(Bytes::from_static(b"another"), Description::default());
            push_segments(window, 3);
            window.discontinuity();
            push_segments(window, 6);
        }
        for window in [&mut video, &mut audio] {
            let list = list(window);
            assert!(list.contains("#EXT-X-MEDIA-SEQUENCE:5\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n"), "{list}");
        }
        let periods = |window: &Window| window.segments().map(|segment| segment.period).collect::<Vec<_>>();
        assert_eq!(periods(&video), periods(&audio));
    }

    #[test]
    fn a_discontinuity_before_anything_counts_in_every_rendition() {
        let (mut with, mut without) = (low_latency(), low_latency());
        push_segments(&mut with, 1);
        for window in [&mut with, &mut without] {
            window.discontinuity();
            window.discontinuity();
            push_segments(window, 1);
        }
        assert!(list(&mut without).contains("#EXT-X-DISCONTINUITY-SEQUENCE:1\n"));
        assert!(!list(&mut without).contains("#EXT-X-DISCONTINUITY\n"));
        assert_eq!(with.segments().last().unwrap().period, without.segments().last().unwrap().period);
    }

    #[test]
    fn after_the_end_nothing_changes() {
        let mut window = low_latency();
        push_segments(&mut window, 2);
        window.end();
        let ended = list(&mut window);
        push_segments(&mut window, 2);
        window.push_init(Bytes::from_static(b"other"), Description::default());
        window.discontinuity();
        assert_eq!(list(&mut window), ended);
    }

    #[test]
    fn clocks_gone_mad_do_not_break_the_sums() {
        let mut window = low_latency();
        for timescale in [0, 1, u32::MAX] {
            window.push_segment(Part { duration: u64::MAX, start: u64::MAX, timescale, ..part(&mut 0, 0, true) });
        }
        window.push_segment(Part { date_ms: i64::MIN, ..part(&mut 0, 0, true) });
        list(&mut window);
    }

    /// Segments of 2 s, parts of half a second, 12 s of list; an initialisation is there.
    pub(in crate::protocol) fn low_latency() -> Window {
        let mut window =
            Window::new(WindowRules { part_target_ms: Some(500), ..WindowRules::new(Container::Fmp4, "s", 2) });
        window.push_init(Bytes::from_static(b"init"), Description::default());
        window
    }

    /// 100 bytes that begin at a time and move it on.
    pub(in crate::protocol) fn part(at_ms: &mut u64, duration_ms: u64, independent: bool) -> Part {
        let start_ms = *at_ms;
        *at_ms += duration_ms;
        Part {
            bytes: Bytes::from(vec![0; 100]),
            start: start_ms * 90,
            duration: duration_ms * 90,
            timescale: 90_000,
            independent,
            date_ms: start_ms as i64,
        }
    }

    pub(in crate::protocol) fn segment_of_parts(window: &mut Window, parts: u64) {
        let mut at_ms = window.position_us / 1000;
        for number in 0..parts {
            window.push_part(part(&mut at_ms, 500, number == 0));
        }
        window.end_segment(true);
    }

    /// Of 2 s, in four parts.
    pub(in crate::protocol) fn push_segments(window: &mut Window, count: usize) {
        for _ in 0..count {
            segment_of_parts(window, 4);
        }
    }

    fn list(window: &mut Window) -> String {
        String::from_utf8(window.playlist(false, Encoding::Plain).to_vec()).unwrap()
    }

    fn numbers(window: &Window) -> Vec<u64> {
        window.segments().map(|segment| segment.number).collect()
    }

    fn ready(window: &Window, name: &str) -> String {
        match window.file(name) {
            File::Ready(bytes, _) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }
}
