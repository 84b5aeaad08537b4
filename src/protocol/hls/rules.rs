//! What the `hls_*` directives of the nginx-rtmp family say of segments and playlists. Where files go, and when they are swept, is not here.

/// The `hls_*` values of one application. The defaults are the family's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TsHlsRules {
    /// `hls_fragment`: a segment ends with the first keyframe after this long.
    pub fragment_ms: u64,
    /// `hls_max_fragment`: a segment never gets longer than this.
    pub max_fragment_ms: u64,
    /// `hls_playlist_length`.
    pub playlist_length_ms: u64,
    /// `hls_sync`: see [`crate::protocol::ts::TsRules::audio_sync_ms`].
    pub sync_ms: u32,
    /// `hls_continuous`: numbers go on where the playlist that is there already ends.
    pub continuous: bool,
    /// `hls_nested`: a folder for each stream.
    pub nested: bool,
    /// `hls_nested_index_filename`: the playlist's name in it, without `.m3u8`.
    pub nested_index: String,
    /// `hls_base_url`: literally in front of addresses of segments and variants.
    pub base_url: String,
    pub naming: Naming,
    /// `hls_fragment_naming_granularity`: numbers in names are rounded down to a multiple; 0 and 1 do not.
    pub granularity: u64,
    pub slicing: Slicing,
    /// `hls_type event`.
    pub event: bool,
    pub variants: Vec<Variant>,
    /// `hls_max_audio_delay`: audio waits at most this long for more audio.
    pub max_audio_delay_ms: u64,
    /// `hls_audio_buffer_size`: and no more than this much of it.
    pub audio_buffer_bytes: usize,
    /// `hls_keys`: segments are encrypted.
    pub keys: bool,
    /// `hls_key_url`: literally in front of addresses of keys.
    pub key_url: String,
    /// `hls_fragments_per_key`; 0: one key for each publish.
    pub fragments_per_key: u64,
    pub datetime: Datetime,
    /// `hls_allow_client_cache`; `None`: nothing is said.
    pub allow_client_cache: Option<bool>,
}

/// `hls_fragment_naming`: what the number in a segment's name is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Naming {
    /// Its place in the stream.
    #[default]
    Sequential,
    /// The time of its first frame on the stream's line, in counts of 90 kHz.
    Timestamp,
    /// The wall clock when it began, in milliseconds.
    System,
}

/// `hls_fragment_slicing`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Slicing {
    /// At the first keyframe after `hls_fragment`.
    #[default]
    Plain,
    /// At the first keyframe in another multiple of `hls_fragment` on the stream's line, so that variants are cut alike.
    Aligned,
}

/// `hls_datetime` of sergey-dryabzhinsky's fork.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Datetime {
    #[default]
    None,
    /// The wall clock when the segment began.
    System,
    /// The stream's own time, read as a time since 1970.
    Timestamp,
}

/// `hls_variant SUFFIX ATTRIBUTE…`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    pub suffix: String,
    /// As written, `BANDWIDTH=160000` and the like.
    pub attributes: Vec<String>,
}

impl TsHlsRules {
    /// How many segments a playlist lists: none where it is shorter than one.
    pub fn window(&self) -> usize {
        usize::try_from(self.playlist_length_ms / self.fragment_ms.max(1)).unwrap_or(usize::MAX).min(MAX_WINDOW)
    }
}

impl Default for TsHlsRules {
    fn default() -> Self {
        Self {
            fragment_ms: 5_000,
            max_fragment_ms: 50_000,
            playlist_length_ms: 30_000,
            sync_ms: 2,
            continuous: true,
            nested: false,
            nested_index: "index".to_owned(),
            base_url: String::new(),
            naming: Naming::default(),
            granularity: 0,
            slicing: Slicing::default(),
            event: false,
            variants: Vec::new(),
            max_audio_delay_ms: 300,
            audio_buffer_bytes: 1 << 20,
            keys: false,
            key_url: String::new(),
            fragments_per_key: 0,
            datetime: Datetime::default(),
            allow_client_cache: None,
        }
    }
}

/// A day of seconds: what a playlist may list, whatever a configuration says.
const MAX_WINDOW: usize = 86_400;
