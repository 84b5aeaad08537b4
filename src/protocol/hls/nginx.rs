//! nginx-rtmp's playlists and file names, to the letter.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use smallvec::SmallVec;

use super::rules::{Datetime, Naming, TsHlsRules};
use super::segmenter::Segment;

/// The playlist of one stream: what is listed, under which names, and what comes next.
#[derive(Debug)]
pub struct NginxPlaylist {
    rules: Arc<TsHlsRules>,
    name: String,
    /// The place of the first listed segment in the stream.
    sequence: u64,
    /// How many discontinuities have left the list.
    discontinuity_sequence: u64,
    target_s: u64,
    entries: VecDeque<Entry>,
    /// A segment has left the list since it began.
    slides: bool,
}

/// A segment in the list.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The number in its name.
    pub id: u64,
    pub duration_ms: u64,
    pub discontinuity: bool,
    /// The number of the key it is encrypted with.
    pub key_id: Option<u64>,
    /// What `EXT-X-PROGRAM-DATE-TIME` says.
    pub date_ms: Option<i64>,
}

/// The names of one stream's files below `hls_path`, with `/` between folders, and their addresses in playlists.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub rules: &'a TsHlsRules,
    pub stream: &'a str,
}

impl NginxPlaylist {
    /// An empty one. `name` is the stream's, in a form that is safe in a path.
    pub fn new(rules: Arc<TsHlsRules>, name: String) -> Self {
        Self {
            target_s: rules.fragment_ms / 1000,
            rules,
            name,
            sequence: 0,
            discontinuity_sequence: 0,
            entries: VecDeque::new(),
            slides: false,
        }
    }

    /// One that goes on where the text of another ends, as `hls_continuous` wants. What it does not understand is as if it were not
    /// there: at worst the numbers start over.
    pub fn resume(rules: Arc<TsHlsRules>, name: String, text: &str) -> Self {
        let mut playlist = Self::new(rules, name);
        if text.lines().next().is_some_and(|first| first.trim_end() == "#EXTM3U") {
            playlist.read(text);
        }
        playlist
    }

    /// The number that the name of a segment will have, once it is pushed. A key that begins with it has the same.
    pub fn id_of(&self, segment: &Segment) -> u64 {
        let place = self.sequence.saturating_add(self.entries.len().try_into().unwrap_or(u64::MAX));
        let id = match self.rules.naming {
            Naming::Sequential => place,
            Naming::Timestamp => u64::try_from(segment.start_ms).unwrap_or(0).saturating_mul(90),
            Naming::System => u64::try_from(segment.wall_ms).unwrap_or(0),
        };
        let id = id.checked_div(self.rules.granularity).map_or(id, |count| count * self.rules.granularity);
        // Two files of one name cannot be listed. nginx-rtmp writes one over the other.
        let is_listed = |id| self.entries.iter().any(|entry| entry.id == id);
        if is_listed(id) { self.entries.iter().map(|entry| entry.id).max().unwrap_or(id).saturating_add(1) } else { id }
    }

    /// Lists a segment that is whole. Gives back those that left the list for it: players may still be loading them.
    pub fn push(&mut self, segment: &Segment, key_id: Option<u64>) -> SmallVec<[Entry; 1]> {
        let date_ms = match self.rules.datetime {
            Datetime::None => None,
            Datetime::System => Some(segment.wall_ms),
            Datetime::Timestamp => Some(segment.start_ms),
        };
        self.append(Entry {
            id: self.id_of(segment),
            duration_ms: segment.duration_ms,
            discontinuity: segment.discontinuity,
            key_id,
            date_ms,
        })
    }

    pub fn names(&self) -> Names<'_> {
        Names { rules: &self.rules, stream: &self.name }
    }

    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The place of the first listed segment in the stream: `EXT-X-MEDIA-SEQUENCE`.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The media playlist. `ended`: nothing will ever follow, which nginx-rtmp never says.
    pub fn text(&self, ended: bool) -> String {
        let mut text = String::with_capacity(128 + 64 * self.entries.len());
        text.push_str("#EXTM3U\n#EXT-X-VERSION:3\n");
        let _ = writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{}", self.sequence);
        let _ = writeln!(text, "#EXT-X-TARGETDURATION:{}", self.target_s.max(1));
        // nginx-rtmp leaves it out, and players lose count when a discontinuity has left the list. Nothing is the same as 0.
        if self.discontinuity_sequence > 0 {
            let _ = writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence);
        }
        // Without the blank that nginx-rtmp has behind the colon and players stumble over, and for as long as it is true: what has
        // lost its beginning is no event (RFC 8216, 4.3.3.5).
        if self.rules.event && !self.slides {
            text.push_str("#EXT-X-PLAYLIST-TYPE:EVENT\n");
        }
        if let Some(allowed) = self.rules.allow_client_cache {
            let _ = writeln!(text, "#EXT-X-ALLOW-CACHE:{}", if allowed { "YES" } else { "NO" });
        }
        let names = self.names();
        let mut key = None;
        for entry in &self.entries {
            if entry.discontinuity {
                text.push_str("#EXT-X-DISCONTINUITY\n");
            }
            if entry.key_id != key {
                match entry.key_id {
                    Some(id) => {
                        let uri = names.key_uri(id);
                        let _ = writeln!(text, "#EXT-X-KEY:METHOD=AES-128,URI=\"{uri}\",IV=0x{id:032X}");
                    }
                    None => text.push_str("#EXT-X-KEY:METHOD=NONE\n"),
                }
                key = entry.key_id;
            }
            if let Some(date) = entry.date_ms.and_then(iso_date) {
                let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{date}");
            }
            let _ = writeln!(text, "#EXTINF:{}.{:03},", entry.duration_ms / 1000, entry.duration_ms % 1000);
            let _ = writeln!(text, "{}", names.segment_uri(entry.id));
        }
        if ended {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }

    /// A playlist that goes on where this one ends, and lists nothing of it: for [`NginxPlaylist::resume`].
    pub fn text_without_entries(&self) -> String {
        let discontinuities = self.entries.iter().filter(|entry| entry.discontinuity).count() as u64;
        format!(
            "#EXTM3U\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-DISCONTINUITY-SEQUENCE:{}\n",
            self.target_s,
            self.sequence.saturating_add(self.entries.len() as u64),
            self.discontinuity_sequence.saturating_add(discontinuities),
        )
    }

    fn append(&mut self, entry: Entry) -> SmallVec<[Entry; 1]> {
        // Rounded, as players compare it. It never shrinks again, though nginx-rtmp's does: RFC 8216, 4.3.3.1 wants it constant.
        self.target_s = self.target_s.max(entry.duration_ms.saturating_add(500) / 1000);
        self.entries.push_back(entry);
        let mut gone = SmallVec::new();
        while self.entries.len() > self.rules.window() {
            let Some(entry) = self.entries.pop_front() else { break };
            self.sequence = self.sequence.saturating_add(1);
            self.discontinuity_sequence = self.discontinuity_sequence.saturating_add(entry.discontinuity.into());
            self.slides = true;
            gone.push(entry);
        }
        gone
    }

    /// Reads what [`NginxPlaylist::text`] and nginx-rtmp write.
    fn read(&mut self, text: &str) {
        let mut next = Entry { id: 0, duration_ms: 0, discontinuity: false, key_id: None, date_ms: None };
        for line in text.lines().map(str::trim) {
            if let Some(value) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                self.sequence = value.parse().unwrap_or(0).min(MAX_NUMBER);
            } else if let Some(value) = line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:") {
                self.discontinuity_sequence = value.parse().unwrap_or(0).min(MAX_NUMBER);
            } else if let Some(value) = line.strip_prefix("#EXT-X-TARGETDURATION:") {
                self.target_s = self.target_s.max(value.parse().unwrap_or(0).min(MAX_TARGET_S));
            } else if line == "#EXT-X-DISCONTINUITY" {
                next.discontinuity = true;
            } else if let Some(attributes) = line.strip_prefix("#EXT-X-KEY:") {
                let hex = attributes.rsplit_once("IV=0x").map(|(_, hex)| hex.split(',').next().unwrap_or(hex));
                next.key_id =
                    hex.and_then(|hex| u128::from_str_radix(hex, 16).ok()).and_then(|id| u64::try_from(id).ok());
            } else if let Some(value) = line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:") {
                next.date_ms = value.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
            } else if let Some(value) = line.strip_prefix("#EXTINF:") {
                next.duration_ms = duration_ms(value).unwrap_or(0);
            } else if !line.is_empty() && !line.starts_with('#') {
                // An address without a length is nothing that was written here.
                if let (Some(id), 1..) = (id_in(line), next.duration_ms) {
                    drop(self.append(next.clone().with_id(id)));
                }
                // The key stays until another is named.
                next = Entry { duration_ms: 0, discontinuity: false, date_ms: None, ..next };
            }
        }
        self.slides = self.sequence > 0;
    }
}

impl Entry {
    fn with_id(self, id: u64) -> Self {
        Self { id, ..self }
    }
}

impl Names<'_> {
    pub fn playlist(&self) -> String {
        let Self { rules, stream } = self;
        if rules.nested { format!("{stream}/{}.m3u8", rules.nested_index) } else { format!("{stream}.m3u8") }
    }

    pub fn segment(&self, id: u64) -> String {
        format!("{}{}{id}.ts", self.stream, self.separator())
    }

    /// Below `hls_key_path`.
    pub fn key(&self, id: u64) -> String {
        format!("{}{}{id}.key", self.stream, self.separator())
    }

    pub fn segment_uri(&self, id: u64) -> String {
        self.uri(&self.rules.base_url, id, "ts")
    }

    pub fn key_uri(&self, id: u64) -> String {
        self.uri(&self.rules.key_url, id, "key")
    }

    /// Of a stream whose name ends with one of the `hls_variant` suffixes: the file of its master playlist, and its text.
    pub fn master(&self) -> Option<(String, String)> {
        let Self { rules, stream } = self;
        let base = rules.variants.iter().find_map(|variant| stream.strip_suffix(variant.suffix.as_str()))?;
        let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:3\n");
        for variant in &rules.variants {
            text.push_str("#EXT-X-STREAM-INF:PROGRAM-ID=1");
            for attribute in &variant.attributes {
                let _ = write!(text, ",{attribute}");
            }
            let index = if rules.nested { format!("/{}", rules.nested_index) } else { String::new() };
            let _ = writeln!(text, "\n{}{}{}{index}.m3u8", rules.base_url, escaped(base), escaped(&variant.suffix));
        }
        Some((format!("{base}.m3u8"), text))
    }

    fn separator(&self) -> char {
        if self.rules.nested { '/' } else { '-' }
    }

    fn uri(&self, prefix: &str, id: u64, extension: &str) -> String {
        // A nested playlist lies beside its segments.
        if self.rules.nested && prefix.is_empty() {
            return format!("{id}.{extension}");
        }
        format!("{prefix}{}{}{id}.{extension}", escaped(self.stream), self.separator())
    }
}

/// nginx-rtmp writes names into addresses as they are. What would end the path, or the line, is escaped here.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for char in name.chars() {
        if char.is_ascii_control() || matches!(char, ' ' | '"' | '#' | '%' | '?') {
            let _ = write!(out, "%{:02X}", u32::from(char));
        } else {
            out.push(char);
        }
    }
    out
}

/// The number at the end of `…/12.ts`, `name-12.ts`, `12.ts?x`.
fn id_in(address: &str) -> Option<u64> {
    let path = address.split(['?', '#']).next()?;
    let stem = path.strip_suffix(".ts")?;
    let digits = stem.bytes().rev().take_while(u8::is_ascii_digit).count();
    stem.get(stem.len().checked_sub(digits)?..)?.parse().ok().filter(|id| *id <= MAX_NUMBER)
}

/// Of `5.000,title`.
fn duration_ms(value: &str) -> Option<u64> {
    let seconds: f64 = value.split(',').next()?.trim().parse().ok()?;
    // Positive and below what anybody cuts; not a number is neither.
    (seconds > 0.0 && seconds < MAX_TARGET_S as f64).then(|| ((seconds * 1000.0).round() as u64).max(1))
}

/// With milliseconds and the zone as a number, as ffmpeg and nginx write it.
fn iso_date(ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(ms).ok()?;
    Some(format!("{}+00:00", time.strftime("%Y-%m-%dT%H:%M:%S%.3f")))
}

/// Below what any sum here could overflow.
const MAX_NUMBER: u64 = 1 << 62;
/// A day. No segment is longer, whatever a file says.
const MAX_TARGET_S: u64 = 86_400;
