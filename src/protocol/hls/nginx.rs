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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::hls::rules::Variant;

    fn segment(start_ms: i64, duration_ms: u64, discontinuity: bool) -> Segment {
        Segment {
            bytes: Bytes::from_static(b"ts"),
            duration_ms,
            start_ms,
            wall_ms: 1_700_000_000_123 + start_ms,
            discontinuity,
            independent: true,
            forced: false,
        }
    }

    fn playlist(rules: TsHlsRules) -> NginxPlaylist {
        NginxPlaylist::new(Arc::new(rules), "cam".to_owned())
    }

    /// So many segments of five seconds, the first of a publish.
    fn filled(rules: TsHlsRules, count: i64) -> NginxPlaylist {
        let mut playlist = playlist(rules);
        for at in 0..count {
            playlist.push(&segment(at * 5_000, 5_000, at == 0), None);
        }
        playlist
    }

    #[test]
    fn a_playlist_reads_as_nginx_rtmp_writes_it() {
        let mut playlist = playlist(TsHlsRules::default());
        playlist.push(&segment(0, 6_006, true), None);
        playlist.push(&segment(6_006, 5_000, false), None);
        assert_eq!(
            playlist.text(false),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-TARGETDURATION:6\n\
             #EXT-X-DISCONTINUITY\n#EXTINF:6.006,\ncam-0.ts\n#EXTINF:5.000,\ncam-1.ts\n"
        );
    }

    #[test]
    fn what_leaves_the_window_is_counted() {
        let playlist = filled(TsHlsRules { playlist_length_ms: 10_000, ..TsHlsRules::default() }, 5);
        assert_eq!(
            playlist.text(false),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-TARGETDURATION:5\n\
             #EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXTINF:5.000,\ncam-3.ts\n#EXTINF:5.000,\ncam-4.ts\n"
        );
    }

    #[test]
    fn what_left_is_given_back() {
        let mut playlist = filled(TsHlsRules { playlist_length_ms: 10_000, ..TsHlsRules::default() }, 2);
        let gone = playlist.push(&segment(10_000, 5_000, false), None);
        assert_eq!(gone.iter().map(|entry| entry.id).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn a_window_shorter_than_a_segment_lists_none() {
        let playlist = filled(TsHlsRules { playlist_length_ms: 4_000, ..TsHlsRules::default() }, 3);
        assert_eq!((playlist.entries().len(), playlist.sequence()), (0, 3));
    }

    #[test]
    fn document_a_lists_a_quarter_of_an_hour_in_a_nested_folder() {
        let playlist = filled(TsHlsRules { playlist_length_ms: 900_000, nested: true, ..TsHlsRules::default() }, 200);
        assert_eq!(playlist.entries().len(), 180);
        assert_eq!(playlist.names().playlist(), "cam/index.m3u8");
        assert!(playlist.text(false).ends_with("#EXTINF:5.000,\n199.ts\n"));
    }

    #[test]
    fn names_and_addresses_are_those_of_nginx_rtmp() {
        let check = |rules: &TsHlsRules, expected: [&str; 5]| {
            let names = Names { rules, stream: "cam" };
            let made = [names.playlist(), names.segment(7), names.key(7), names.segment_uri(7), names.key_uri(7)];
            assert_eq!(made, expected);
        };
        let plain = TsHlsRules { key_url: "https://keys/".into(), ..TsHlsRules::default() };
        check(&plain, ["cam.m3u8", "cam-7.ts", "cam-7.key", "cam-7.ts", "https://keys/cam-7.key"]);
        let based = TsHlsRules { base_url: "http://cdn/".into(), ..TsHlsRules::default() };
        check(&based, ["cam.m3u8", "cam-7.ts", "cam-7.key", "http://cdn/cam-7.ts", "cam-7.key"]);
        let nested = TsHlsRules { nested: true, nested_index: "live".into(), ..TsHlsRules::default() };
        check(&nested, ["cam/live.m3u8", "cam/7.ts", "cam/7.key", "7.ts", "7.key"]);
        let both = TsHlsRules { nested: true, ..based };
        check(&both, ["cam/index.m3u8", "cam/7.ts", "cam/7.key", "http://cdn/cam/7.ts", "7.key"]);
    }

    #[test]
    fn a_name_cannot_end_the_address_it_stands_in() {
        let rules = TsHlsRules::default();
        assert_eq!(Names { rules: &rules, stream: "a b?c#d%e\n\"" }.segment_uri(1), "a%20b%3Fc%23d%25e%0A%22-1.ts");
        assert_eq!(Names { rules: &rules, stream: "zürich" }.segment_uri(1), "zürich-1.ts");
    }

    #[test]
    fn segments_are_named_by_time_where_that_is_wanted() {
        let id = |naming, granularity| {
            playlist(TsHlsRules { naming, granularity, ..TsHlsRules::default() }).id_of(&segment(5_000, 5_000, false))
        };
        assert_eq!(id(Naming::Sequential, 0), 0);
        assert_eq!(id(Naming::Timestamp, 0), 450_000);
        assert_eq!(id(Naming::Timestamp, 100_000), 400_000);
        assert_eq!(id(Naming::System, 0), 1_700_000_005_123);
        assert_eq!(id(Naming::System, 1_000), 1_700_000_005_000);
    }

    #[test]
    fn two_listed_segments_never_have_one_name() {
        let rules = TsHlsRules { naming: Naming::System, granularity: 60_000, ..TsHlsRules::default() };
        let playlist = filled(rules, 6);
        let mut ids: Vec<u64> = playlist.entries().map(|entry| entry.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 6, "{ids:?}");
    }

    #[test]
    fn the_target_grows_with_a_long_segment_and_stays() {
        let mut playlist = playlist(TsHlsRules { playlist_length_ms: 10_000, ..TsHlsRules::default() });
        for duration_ms in [5_000, 30_400, 5_000, 5_000, 5_000] {
            playlist.push(&segment(0, duration_ms, false), None);
            let longest = if playlist.sequence() + (playlist.entries().len() as u64) < 2 { 5 } else { 30 };
            assert!(playlist.text(false).contains(&format!("#EXT-X-TARGETDURATION:{longest}\n")));
        }
    }

    #[test]
    fn keys_are_named_where_they_change() {
        let mut playlist = playlist(TsHlsRules { keys: true, key_url: "/k/".into(), ..TsHlsRules::default() });
        for (at, key) in [(0, 0), (1, 0), (2, 2)] {
            playlist.push(&segment(at * 5_000, 5_000, at == 0), Some(key));
        }
        assert!(playlist.text(false).ends_with(
            "#EXT-X-DISCONTINUITY\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"/k/cam-0.key\",IV=0x00000000000000000000000000000000\n\
             #EXTINF:5.000,\ncam-0.ts\n#EXTINF:5.000,\ncam-1.ts\n\
             #EXT-X-KEY:METHOD=AES-128,URI=\"/k/cam-2.key\",IV=0x00000000000000000000000000000002\n\
             #EXTINF:5.000,\ncam-2.ts\n"
        ));
    }

    #[test]
    fn additions_of_the_forks_stand_where_they_put_them() {
        let rules = TsHlsRules {
            event: true,
            datetime: Datetime::System,
            allow_client_cache: Some(false),
            playlist_length_ms: 5_000,
            ..TsHlsRules::default()
        };
        let mut playlist = playlist(rules);
        playlist.push(&segment(0, 5_000, true), None);
        let text = playlist.text(true);
        assert!(
            text.contains("#EXT-X-TARGETDURATION:5\n#EXT-X-PLAYLIST-TYPE:EVENT\n#EXT-X-ALLOW-CACHE:NO\n"),
            "{text}"
        );
        assert!(text.contains("#EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.123+00:00\n#EXTINF:"), "{text}");
        assert!(text.ends_with("cam-0.ts\n#EXT-X-ENDLIST\n"));
        playlist.push(&segment(5_000, 5_000, false), None);
        assert!(!playlist.text(false).contains("EVENT"), "what has lost its beginning is no event");
    }

    #[test]
    fn a_stream_that_comes_back_goes_on_where_the_playlist_ends() {
        let rules = TsHlsRules { playlist_length_ms: 20_000, ..TsHlsRules::default() };
        let before = filled(rules.clone(), 6);
        let mut after = NginxPlaylist::resume(Arc::new(rules), "cam".into(), &before.text(true));
        assert_eq!(after.text(false), before.text(false));
        after.push(&segment(0, 5_000, true), None);
        assert_eq!(
            after.text(false),
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:3\n#EXT-X-TARGETDURATION:5\n#EXT-X-DISCONTINUITY-SEQUENCE:1\n\
             #EXTINF:5.000,\ncam-3.ts\n#EXTINF:5.000,\ncam-4.ts\n#EXTINF:5.000,\ncam-5.ts\n\
             #EXT-X-DISCONTINUITY\n#EXTINF:5.000,\ncam-6.ts\n"
        );
    }

    #[test]
    fn a_playlist_of_nginx_rtmp_is_read_with_its_keys_and_its_blank() {
        let text = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-MEDIA-SEQUENCE:12\n#EXT-X-TARGETDURATION:9\n#EXT-X-PLAYLIST-TYPE: EVENT\n\
                    #EXT-X-DISCONTINUITY\n#EXT-X-KEY:METHOD=AES-128,URI=\"/k/12.key\",IV=0x0000000000000000000000000000000C\n\
                    #EXTINF:8.533,\nhttp://cdn/cam/1450000.ts\n#EXTINF:5.000,\nhttp://cdn/cam/1900000.ts\n";
        let playlist = NginxPlaylist::resume(Arc::new(TsHlsRules::default()), "cam".into(), text);
        let entry =
            |id, duration_ms, discontinuity| Entry { id, duration_ms, discontinuity, key_id: Some(12), date_ms: None };
        assert_eq!(
            playlist.entries().cloned().collect::<Vec<_>>(),
            [entry(1_450_000, 8_533, true), entry(1_900_000, 5_000, false)]
        );
        assert_eq!((playlist.sequence(), playlist.target_s), (12, 9));
    }

    #[test]
    fn a_file_that_is_no_playlist_is_as_if_there_were_none() {
        for text in [
            "",
            "hello",
            "<html>#EXTINF:5,\n1.ts",
            "#EXTM3U\n#EXTINF:-5,\n1.ts\n#EXTINF:nan,\n2.ts\n#EXTINF:5,\nx.mp4\n",
        ] {
            let playlist = NginxPlaylist::resume(Arc::new(TsHlsRules::default()), "cam".into(), text);
            assert_eq!((playlist.entries().len(), playlist.sequence()), (0, 0), "{text}");
        }
    }

    #[test]
    fn a_variant_rewrites_the_master_of_its_name() {
        let variant = |suffix: &str, attributes: &[&str]| Variant {
            suffix: suffix.into(),
            attributes: attributes.iter().map(|text| (*text).to_owned()).collect(),
        };
        let rules = TsHlsRules {
            nested: true,
            variants: vec![
                variant("_low", &["BANDWIDTH=160000"]),
                variant("_hi", &["BANDWIDTH=900000", "RESOLUTION=640x360"]),
            ],
            ..TsHlsRules::default()
        };
        let (path, text) = Names { rules: &rules, stream: "cam_hi" }.master().unwrap();
        assert_eq!(path, "cam.m3u8");
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-STREAM-INF:PROGRAM-ID=1,BANDWIDTH=160000\ncam_low/index.m3u8\n\
             #EXT-X-STREAM-INF:PROGRAM-ID=1,BANDWIDTH=900000,RESOLUTION=640x360\ncam_hi/index.m3u8\n"
        );
        assert_eq!(Names { rules: &rules, stream: "cam" }.master(), None);
    }

    /// What a player must be able to rely on, from one text to the next.
    fn assert_follows(before: &m3u8_rs::MediaPlaylist, after: &m3u8_rs::MediaPlaylist) {
        let gone = after.media_sequence - before.media_sequence;
        assert_eq!(before.segments.len() as u64 - gone + 1, after.segments.len() as u64, "one came");
        let kept = &before.segments[gone as usize..];
        assert!(kept.iter().zip(&after.segments).all(|(was, is)| (&was.uri, was.duration) == (&is.uri, is.duration)));
        let tags = before.segments[..gone as usize].iter().filter(|segment| segment.discontinuity).count() as u64;
        assert_eq!(before.discontinuity_sequence + tags, after.discontinuity_sequence);
        assert!(after.target_duration >= before.target_duration);
    }

    proptest! {
        #[test]
        fn playlists_obey_the_rules(
            pushes in prop::collection::vec((1_u64..40_000, any::<bool>(), any::<bool>()), 1..60),
            length_ms in 5_000_u64..60_000,
            timed: bool,
        ) {
            let naming = if timed { Naming::Timestamp } else { Naming::Sequential };
            let rules = Arc::new(TsHlsRules { playlist_length_ms: length_ms, naming, ..TsHlsRules::default() });
            let mut playlist = NginxPlaylist::new(Arc::clone(&rules), "cam".into());
            let read = |text: &str| m3u8_rs::parse_media_playlist_res(text.as_bytes()).unwrap();
            let mut before = read(&playlist.text(false));
            let mut start_ms = 0;
            for (duration_ms, discontinuity, returns) in pushes {
                if returns {
                    // Another process, which has nothing but the file; its clock begins anew.
                    playlist = NginxPlaylist::resume(Arc::clone(&rules), "cam".into(), &playlist.text(true));
                    start_ms = 0;
                }
                playlist.push(&segment(start_ms, duration_ms, discontinuity || returns), None);
                start_ms += duration_ms as i64;
                let text = playlist.text(false);
                let after = read(&text);
                assert_follows(&before, &after);
                prop_assert!(after.segments.iter().all(|segment| segment.duration.round() as u64 <= after.target_duration));
                let mut names: Vec<&str> = after.segments.iter().map(|segment| segment.uri.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                prop_assert_eq!(names.len(), after.segments.len());
                before = after;
            }
        }

        #[test]
        fn no_text_panics(lines in prop::collection::vec((0_usize..9, "[0-9A-Zx.,:=\\-]{0,24}"), 0..40), tail: String) {
            const HEADS: [&str; 9] = [
                "#EXT-X-MEDIA-SEQUENCE:", "#EXT-X-DISCONTINUITY-SEQUENCE:", "#EXT-X-TARGETDURATION:", "#EXTINF:", "",
                "#EXT-X-KEY:METHOD=AES-128,IV=0x", "#EXT-X-DISCONTINUITY", "#EXT-X-PROGRAM-DATE-TIME:", "#EXTINF:5.000,\ncam-7",
            ];
            let body: String = lines.iter().map(|(at, rest)| format!("{}{rest}.ts\n", HEADS[*at])).collect();
            let rules = Arc::new(TsHlsRules::default());
            let mut playlist = NginxPlaylist::resume(Arc::clone(&rules), "cam".into(), &format!("#EXTM3U\n{body}{tail}"));
            prop_assert!(playlist.entries().len() <= rules.window());
            playlist.push(&segment(0, 5_000, true), None);
            let text = playlist.text(false);
            let again = NginxPlaylist::resume(rules, "cam".into(), &text);
            prop_assert_eq!(again.text(false), text);
        }
    }
}
