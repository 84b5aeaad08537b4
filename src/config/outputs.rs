//! What becomes of an application's streams for those who watch over HTTP.

use std::path::PathBuf;
use std::time::Duration;

/// What is made of each stream of an application, beside RTMP.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outputs {
    /// The addresses that exist below `/APP/NAME`.
    pub http: HttpOutputs,
    /// How segments are made and kept for those addresses.
    pub memory: Memory,
    /// Files as nginx-rtmp writes them: `hls on` with an `hls_path`.
    pub hls: Option<HlsFiles>,
    /// `dash on` with a `dash_path`.
    pub dash: Option<DashFiles>,
}

/// One kind of address below `/APP/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpOutput {
    /// `NAME.flv`, endless.
    Flv,
    /// `NAME.ts`, endless.
    Ts,
    /// `NAME.mp4`, endless.
    Mp4,
    /// `NAME/index.m3u8` and what it names.
    Hls,
    /// `NAME/manifest.mpd` and what it names.
    Dash,
}

/// The addresses an application has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpOutputs(u8);

/// How segments for HTTP are made on demand, and how long they are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    pub format: HlsFormat,
    /// How long a part is at most; zero: no low latency.
    pub part: Duration,
    /// A segment ends at the first keyframe at or after this.
    pub fragment: Duration,
    /// A segment without a keyframe ends here.
    pub max_fragment: Duration,
    /// What a playlist covers.
    pub playlist_length: Duration,
    /// Requests that may wait for something new of one stream.
    pub blocked_requests: usize,
    /// An output nobody asked for during this time ends.
    pub idle: Duration,
    /// A publisher that left may come back within this time, and the playlist goes on; then it ends.
    pub end_after: Duration,
    /// How long an ended playlist can still be fetched.
    pub ended: Duration,
    /// A viewer that asked for nothing during this time is gone.
    pub viewer_timeout: Duration,
}

/// What segments in memory are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HlsFormat {
    Ts,
    Fmp4,
}

/// `hls on`, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct HlsFiles {
    pub path: PathBuf,
    pub fragment: Duration,
    pub max_fragment: Duration,
    pub playlist_length: Duration,
    /// Audio is put on the ideal clock of its codec while it is this close to it.
    pub sync: Duration,
    pub continuous: bool,
    pub nested: bool,
    pub base_url: String,
    pub cleanup: bool,
    pub naming: Naming,
    /// Ids are rounded down to a multiple of this, 0: not.
    pub naming_granularity: u32,
    pub slicing: Slicing,
    pub kind: PlaylistKind,
    pub variants: Vec<Variant>,
    pub max_audio_delay: Duration,
    pub audio_buffer_size: usize,
    pub keys: Option<Keys>,
    pub datetime: Datetime,
    pub allow_client_cache: Option<bool>,
    /// The mode of folders that are made.
    pub dir_access: u32,
    /// The name of a nested playlist, without its suffix.
    pub index: String,
}

/// What the number in a segment's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The media sequence number.
    Sequential,
    /// The 90 kHz timestamp of its first frame.
    Timestamp,
    /// Milliseconds of the wall clock.
    System,
}

/// Where segments end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slicing {
    /// At the first keyframe at or after `hls_fragment`.
    Plain,
    /// At the first keyframe in a new multiple of `hls_fragment`, so that variants are cut alike.
    Aligned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaylistKind {
    Live,
    Event,
}

/// One `hls_variant`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    pub suffix: String,
    /// As written: `BANDWIDTH=…`, and so on.
    pub attributes: Vec<String>,
}

/// `hls_keys on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub path: PathBuf,
    pub url: String,
    /// 0: one key a publish.
    pub fragments_per_key: u32,
}

/// Where the dates in a playlist come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datetime {
    None,
    System,
    Timestamp,
}

/// `dash on`, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct DashFiles {
    pub path: PathBuf,
    pub fragment: Duration,
    pub playlist_length: Duration,
    pub nested: bool,
    pub cleanup: bool,
    pub clock: Option<DashClock>,
}

/// A clock that players are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashClock {
    pub scheme: ClockScheme,
    pub value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockScheme {
    Ntp,
    HttpHead,
    HttpIso,
}

impl HttpOutputs {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0b1_1111);

    pub fn has(self, output: HttpOutput) -> bool {
        self.0 & output.bit() != 0
    }

    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    #[must_use]
    pub fn with(self, output: HttpOutput) -> Self {
        Self(self.0 | output.bit())
    }
}

impl Default for HttpOutputs {
    fn default() -> Self {
        Self::ALL
    }
}

impl HttpOutput {
    fn bit(self) -> u8 {
        match self {
            Self::Flv => 1,
            Self::Ts => 1 << 1,
            Self::Mp4 => 1 << 2,
            Self::Hls => 1 << 3,
            Self::Dash => 1 << 4,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            format: HlsFormat::Fmp4,
            part: Duration::from_millis(200),
            fragment: Duration::from_secs(2),
            max_fragment: Duration::from_secs(10),
            playlist_length: Duration::from_secs(30),
            blocked_requests: 2000,
            idle: Duration::from_secs(30),
            end_after: Duration::from_secs(15),
            ended: Duration::from_secs(60),
            viewer_timeout: Duration::from_secs(30),
        }
    }
}

impl HlsFiles {
    /// What holds where only a path is written.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            fragment: Duration::from_secs(5),
            max_fragment: Duration::from_secs(50),
            playlist_length: Duration::from_secs(30),
            sync: Duration::from_millis(2),
            continuous: true,
            nested: false,
            base_url: String::new(),
            cleanup: true,
            naming: Naming::Sequential,
            naming_granularity: 0,
            slicing: Slicing::Plain,
            kind: PlaylistKind::Live,
            variants: Vec::new(),
            max_audio_delay: Duration::from_millis(300),
            audio_buffer_size: 1 << 20,
            keys: None,
            datetime: Datetime::None,
            allow_client_cache: None,
            dir_access: 0o755,
            index: "index".to_owned(),
        }
    }

    /// Entries of a playlist. As in the family none where the playlist is shorter than a fragment.
    pub fn segments(&self) -> usize {
        segments(self.playlist_length, self.fragment)
    }

    /// Old files are looked for in these folders, if at all: an event keeps everything.
    pub fn is_cleaned(&self) -> bool {
        self.cleanup && self.kind == PlaylistKind::Live
    }
}

impl DashFiles {
    /// What holds where only a path is written.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            fragment: Duration::from_secs(5),
            playlist_length: Duration::from_secs(30),
            nested: false,
            cleanup: true,
            clock: None,
        }
    }

    pub fn segments(&self) -> usize {
        segments(self.playlist_length, self.fragment)
    }
}

fn segments(playlist: Duration, fragment: Duration) -> usize {
    let count = playlist.as_millis() / fragment.as_millis().max(1);
    usize::try_from(count).unwrap_or(MAX_SEGMENTS).min(MAX_SEGMENTS)
}

/// A day of two-second segments: a longer list is a mistake in the file, and would be rewritten with each segment.
const MAX_SEGMENTS: usize = 43_200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_addresses_knows_its_members() {
        let some = HttpOutputs::NONE.with(HttpOutput::Flv).with(HttpOutput::Dash);
        assert!(some.has(HttpOutput::Flv) && some.has(HttpOutput::Dash) && !some.has(HttpOutput::Hls));
        assert!(HttpOutputs::ALL.has(HttpOutput::Ts) && HttpOutputs::NONE.is_empty());
    }

    #[test]
    fn a_playlist_holds_whole_fragments() {
        let with = |playlist, fragment| HlsFiles {
            playlist_length: Duration::from_millis(playlist),
            fragment: Duration::from_millis(fragment),
            ..HlsFiles::at(PathBuf::new())
        };
        assert_eq!(with(900_000, 5000).segments(), 180);
        assert_eq!(with(10_000, 3000).segments(), 3);
        assert_eq!(with(1000, 5000).segments(), 0);
        assert_eq!(with(u64::MAX / 2, 0).segments(), MAX_SEGMENTS);
    }
}
