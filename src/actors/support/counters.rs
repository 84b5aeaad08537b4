//! What a stream counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::time::Instant;

use crate::media::codec::{self, AudioCodec, AudioInfo, Codec, VideoCodec, VideoInfo};

/// What a stream counts while it runs. Read at any time by anybody; written by the stream and by those who watch it.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Tells this stream from another one of the same name before or after it.
    pub id: u64,
    pub publishing: AtomicBool,
    pub players: Players,
    pub bytes_in: AtomicU64,
    pub packets_in: AtomicU64,
    /// What viewers of segments were sent.
    pub segment_bytes_out: AtomicU64,
    /// Messages nobody could read, and tracks nobody asked for.
    pub refused_messages: AtomicU64,
    pub other_tracks: AtomicU64,
    /// Batches that found a subscriber's mailbox full.
    pub missed_deliveries: AtomicU64,
    /// The publisher's clock, as its last message of media said it.
    pub clock_ms: AtomicU32,
    /// How often the publisher's clock jumped.
    pub jumps: AtomicU64,
    /// Written when a publisher comes or goes and when a configuration changes, never with a frame.
    pub(in crate::actors) about: Mutex<About>,
}

/// What is being published, as far as its headers tell.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// When this publisher came; None: nobody publishes.
    pub since: Option<Instant>,
    pub video: Option<(VideoCodec, Option<VideoInfo>)>,
    pub audio: Option<(AudioCodec, Option<AudioInfo>)>,
}

impl StreamCounters {
    pub fn about(&self) -> About {
        self.about.lock().map(|about| about.clone()).unwrap_or_default()
    }

    /// A publisher came: nothing is known of what it will send.
    pub fn begin(&self, now: Instant) {
        self.set_about(|about| *about = About { since: Some(now), ..About::default() });
    }

    pub fn end(&self) {
        self.set_about(|about| *about = About::default());
    }

    /// Notes the codec of a track, with the record that configures it or, where a codec has none, a frame.
    pub fn describe(&self, codec: Codec, record: &[u8]) {
        self.set_about(|about| match codec {
            Codec::Video(codec) => about.video = Some((codec, codec::video_info(codec, record))),
            Codec::Audio(codec) => about.audio = Some((codec, codec::audio_info(codec, record))),
        });
    }

    fn set_about(&self, change: impl FnOnce(&mut About)) {
        // Nothing that panics is done under this lock; were it poisoned, a description is all that is lost.
        if let Ok(mut about) = self.about.lock() {
            change(&mut about);
        }
    }
}

impl About {
    /// The names of the codecs, audio and video; empty where there is none.
    pub fn codec_names(&self) -> (&'static str, &'static str) {
        let audio = self.audio.as_ref().map_or("", |(codec, _)| codec.name());
        let video = self.video.as_ref().map_or("", |(codec, _)| codec.name());
        (audio, video)
    }
}

/// How somebody watches a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    Rtmp,
    HttpFlv,
    WsFlv,
    HttpTs,
    WsTs,
    HttpMp4,
    WsMp4,
    Hls,
    Dash,
}

impl Protocol {
    pub const ALL: [Self; 9] = [
        Self::Rtmp,
        Self::HttpFlv,
        Self::WsFlv,
        Self::HttpTs,
        Self::WsTs,
        Self::HttpMp4,
        Self::WsMp4,
        Self::Hls,
        Self::Dash,
    ];

    /// The word it goes by in logs and statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::HttpFlv => "http-flv",
            Self::WsFlv => "ws-flv",
            Self::HttpTs => "http-ts",
            Self::WsTs => "ws-ts",
            Self::HttpMp4 => "http-mp4",
            Self::WsMp4 => "ws-mp4",
            Self::Hls => "hls",
            Self::Dash => "dash",
        }
    }
}

/// Who watches a stream, by protocol.
#[derive(Debug, Default)]
pub struct Players([AtomicU32; Protocol::ALL.len()]);

impl Players {
    pub fn come(&self, protocol: Protocol) {
        self.0[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn go(&self, protocol: Protocol) {
        self.0[protocol as usize].fetch_sub(1, Ordering::Relaxed);
    }

    pub fn of(&self, protocol: Protocol) -> u32 {
        self.0[protocol as usize].load(Ordering::Relaxed)
    }

    /// Who is sent every frame, as opposed to those who fetch segments.
    pub fn endless(&self) -> u32 {
        self.total().saturating_sub(self.of(Protocol::Hls) + self.of(Protocol::Dash))
    }

    /// Over all protocols.
    pub fn total(&self) -> u32 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}
