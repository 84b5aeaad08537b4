//! MPEG-TS without end, made once for all its viewers.

use bytes::Bytes;
use smallvec::SmallVec;

use super::muxer::{TsMuxer, TsRules};
use crate::media::packet::{Packet, PacketKind, Track};
use crate::protocol::feed::Endless;
use crate::protocol::flv::sample::{self, MuxInput, Sample};

/// Turns the packets of a stream into chunks of TS, one for each video frame and one for the audio of a batch.
#[derive(Debug)]
pub struct TsFeed {
    muxer: TsMuxer,
    /// The audio of this batch so far.
    audio: Vec<Sample>,
    /// When tables were last written, on the stream's line; `None`: they are due.
    tables_ms: Option<i64>,
    /// Whether anything can come: a track is configured.
    is_known: bool,
}

impl TsFeed {
    pub fn new(rules: TsRules) -> Self {
        Self { muxer: TsMuxer::new(rules), audio: Vec::new(), tables_ms: None, is_known: false }
    }

    fn take(&mut self, input: MuxInput, chunks: &mut SmallVec<[Packet; 4]>) {
        match input {
            MuxInput::VideoConfig { .. } | MuxInput::AudioConfig { .. } => self.configure(&input, chunks),
            MuxInput::Sample(sample) if sample.track == Track::Audio => {
                if !self.muxer.accepts(&sample) {
                    // MP3 and AC-3 announce themselves by coming.
                    let Some(config) = sample::audio_config(&sample) else { return };
                    self.configure(&config, chunks);
                }
                self.audio.push(sample);
            }
            MuxInput::Sample(sample) => {
                if !self.muxer.accepts(&sample) {
                    return;
                }
                // What came before the picture goes before it.
                self.flush_audio(chunks);
                let mut out = Vec::new();
                if sample.key || self.are_tables_due(sample.dts_ms) {
                    self.write_tables(sample.dts_ms, &mut out);
                }
                let tables = out.len();
                self.muxer.write_video(&sample, &mut out);
                if out.len() > tables {
                    let kind = if sample.key { PacketKind::Key } else { PacketKind::Inter };
                    chunks.push(Packet::new(Track::Video, kind, sample.dts_ms, Bytes::from(out)));
                }
            }
            MuxInput::Other => {}
        }
    }

    fn configure(&mut self, config: &MuxInput, chunks: &mut SmallVec<[Packet; 4]>) {
        self.flush_audio(chunks);
        if self.muxer.configure(config) {
            self.tables_ms = None;
        }
        self.is_known = self.muxer.has_video() || self.muxer.has_audio();
    }

    fn flush_audio(&mut self, chunks: &mut SmallVec<[Packet; 4]>) {
        let Some(first) = self.audio.first() else { return };
        let time_ms = first.dts_ms;
        let mut out = Vec::new();
        if self.are_tables_due(time_ms) {
            self.write_tables(time_ms, &mut out);
        }
        let tables = out.len();
        self.muxer.write_audio(&self.audio, &mut out);
        self.audio.clear();
        if out.len() > tables {
            chunks.push(Packet::new(Track::Audio, PacketKind::Audio, time_ms, Bytes::from(out)));
        }
    }

    fn are_tables_due(&self, time_ms: i64) -> bool {
        self.tables_ms.is_none_or(|last| !(0..TABLES_MS).contains(&time_ms.saturating_sub(last)))
    }

    fn write_tables(&mut self, time_ms: i64, out: &mut Vec<u8>) {
        self.muxer.write_tables(out);
        self.tables_ms = Some(time_ms);
    }
}

impl Endless for TsFeed {
    fn content_type(&self) -> &'static str {
        "video/mp2t"
    }

    /// With a picture, a joiner begins at a keyframe, which has the tables in front. Without, he begins anywhere.
    fn header(&self) -> Option<Bytes> {
        if !self.is_known {
            return None;
        }
        let mut out = Vec::new();
        if !self.muxer.has_video() {
            self.muxer.write_tables_before(&mut out);
        }
        Some(Bytes::from(out))
    }

    fn batch(&mut self, packets: &[Packet]) -> SmallVec<[Packet; 4]> {
        let mut chunks = SmallVec::new();
        for packet in packets {
            if let Some(input) = sample::of(packet) {
                self.take(input, &mut chunks);
            }
        }
        self.flush_audio(&mut chunks);
        chunks
    }

    fn restart(&mut self) {
        self.audio.clear();
        self.muxer.restart();
        self.tables_ms = None;
    }
}

/// How often tables come in between: a player that lost some finds its way within half a second.
const TABLES_MS: i64 = 500;
