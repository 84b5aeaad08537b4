//! HLS playlists as a player reads them, line by line; this harness's own code.

use std::time::Duration;

use super::http;

/// A media playlist.
#[derive(Clone, Debug, Default)]
pub struct Playlist {
    pub text: String,
    pub sequence: u64,
    pub discontinuity_sequence: u64,
    pub target: u64,
    pub segments: Vec<Segment>,
    /// Names of parts, those of segments that are not complete included.
    pub parts: Vec<String>,
    pub init: Option<String>,
    pub hint: Option<String>,
    pub is_ended: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    pub uri: String,
    pub seconds: f64,
    pub discontinuity: bool,
    pub key: Option<String>,
}

impl Playlist {
    pub fn read(text: &str) -> Self {
        assert!(text.starts_with("#EXTM3U\n"), "no playlist: {text}");
        let mut found = Self { text: text.to_owned(), ..Self::default() };
        let mut next = Segment::default();
        for line in text.lines() {
            let value = line.split_once(':').map_or("", |(_, value)| value);
            let number = || value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            match line.split(':').next().unwrap_or_default() {
                "#EXT-X-MEDIA-SEQUENCE" => found.sequence = number(),
                "#EXT-X-DISCONTINUITY-SEQUENCE" => found.discontinuity_sequence = number(),
                "#EXT-X-TARGETDURATION" => found.target = number(),
                "#EXT-X-DISCONTINUITY" => next.discontinuity = true,
                "#EXT-X-KEY" => next.key = attribute(value, "URI"),
                "#EXT-X-MAP" => found.init = attribute(value, "URI"),
                "#EXT-X-PART" => found.parts.extend(attribute(value, "URI")),
                "#EXT-X-PRELOAD-HINT" => found.hint = attribute(value, "URI"),
                "#EXT-X-ENDLIST" => found.is_ended = true,
                "#EXTINF" => {
                    next.seconds = value.split(',').next().and_then(|text| text.parse().ok()).expect("a duration");
                }
                _ if !line.starts_with('#') && !line.is_empty() => {
                    next.uri = line.to_owned();
                    let key = next.key.clone();
                    found.segments.push(std::mem::take(&mut next));
                    next.key = key;
                }
                _ => {}
            }
        }
        for segment in &found.segments {
            assert!(segment.seconds.round() <= found.target as f64, "longer than the target: {text}");
        }
        found
    }

    /// Fetches a playlist that is there.
    pub fn get(port: u16, path: &str) -> Self {
        let mut answer = http::get(port, path);
        let text = answer.text();
        assert_eq!(answer.status, 200, "{path}: {text}");
        Self::read(&text)
    }

    /// The number of the segment after the last.
    pub fn next(&self) -> u64 {
        self.sequence + self.segments.len() as u64
    }

    pub fn uris(&self) -> Vec<&str> {
        self.segments.iter().map(|segment| segment.uri.as_str()).collect()
    }

    pub fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.segments.iter().map(|segment| segment.seconds).sum())
    }
}

/// The playlists that a multivariant one names: in `URI="…"` and on lines of their own.
pub fn children(index: &str) -> Vec<String> {
    let quoted =
        index.lines().filter(|line| line.starts_with("#EXT-X-MEDIA:")).filter_map(|line| attribute(line, "URI"));
    let plain = index.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned);
    plain.chain(quoted).collect()
}

fn attribute(list: &str, name: &str) -> Option<String> {
    let (_, rest) = list.split_once(&format!("{name}=\""))?;
    Some(rest.split('"').next()?.to_owned())
}
