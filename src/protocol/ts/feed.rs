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
                // The frame, a fortieth of packet headers, and the tables.
                let mut out = Vec::with_capacity(sample.data.len() + sample.data.len() / 40 + 1024);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::flv::tag::{self, Reading};
    use crate::protocol::ts::oracle::{AUDIO, AVC_RECORD, Oracle, VIDEO};

    fn packet(video: bool, time_ms: i64, head: &[u8], data: &[u8]) -> Packet {
        let body = Bytes::from([head, data].concat());
        let Ok(Reading::Frame(frame)) = tag::read(video, body) else { panic!("{head:?}") };
        Packet::new(frame.track, frame.kind, time_ms, frame.payload)
    }

    fn avc_config() -> Packet {
        packet(true, 0, b"\x17\0\0\0\0", AVC_RECORD)
    }

    fn aac_config() -> Packet {
        packet(false, 0, b"\xaf\0", b"\x12\x10")
    }

    fn video(time_ms: i64, key: bool) -> Packet {
        let unit = if key { b"\0\0\0\x02\x65\x88" } else { b"\0\0\0\x02\x41\x9a" };
        packet(true, time_ms, if key { b"\x17\x01\0\0\0" } else { b"\x27\x01\0\0\0" }, unit)
    }

    fn audio(time_ms: i64) -> Packet {
        packet(false, time_ms, b"\xaf\x01", b"\x21\x10\x04")
    }

    fn feed(packets: &[Packet]) -> (TsFeed, SmallVec<[Packet; 4]>) {
        let mut feed = TsFeed::new(TsRules::default());
        let chunks = feed.batch(packets);
        (feed, chunks)
    }

    fn kinds(chunks: &[Packet]) -> Vec<(PacketKind, i64)> {
        chunks.iter().map(|chunk| (chunk.kind(), chunk.time_ms())).collect()
    }

    #[test]
    fn a_chunk_is_a_video_frame_or_the_audio_of_a_batch() {
        let (_, chunks) =
            feed(&[avc_config(), aac_config(), video(0, true), audio(0), audio(23), video(40, false), audio(46)]);
        use PacketKind::{Audio, Inter, Key};
        assert_eq!(kinds(&chunks), [(Key, 0), (Audio, 0), (Inter, 40), (Audio, 46)]);
    }

    #[test]
    fn whoever_begins_at_a_keyframe_has_all_he_needs() {
        let (mut feed, _) = feed(&[avc_config(), aac_config(), video(0, true), video(40, false)]);
        let chunks = feed.batch(&[video(80, true), audio(80)]);
        assert_eq!(feed.header().as_deref(), Some(&[][..]));
        let seen = Oracle::default().read(&[&chunks[0].payload()[..], chunks[1].payload()].concat());
        assert_eq!(seen.streams.len(), 2);
        assert!(seen.pes_of(VIDEO)[0].random_access && seen.pes_of(AUDIO).len() == 1);
    }

    #[test]
    fn whoever_begins_anywhere_in_audio_is_given_the_tables_first() {
        let (mut feed, first) = feed(&[aac_config(), audio(0)]);
        let chunks = feed.batch(&[audio(23), audio(46)]);
        let header = feed.header().unwrap();
        assert_eq!(header.len(), 2 * 188);
        Oracle::default().read(&[&header[..], chunks[0].payload()].concat());
        // Also when the next tables come soon, nothing is missing in between.
        let later = feed.batch(&[audio(600)]);
        let seen = Oracle::default().read(&[&header[..], chunks[0].payload(), later[0].payload()].concat());
        assert_eq!(seen.pes_of(AUDIO).len(), 2);
        Oracle::default().read(&[&first[0].payload()[..], chunks[0].payload(), later[0].payload()].concat());
    }

    #[test]
    fn nobody_can_begin_before_a_track_is_known() {
        let (feed, chunks) = feed(&[audio(0)]);
        assert!(chunks.is_empty());
        assert_eq!(feed.header(), None);
    }

    #[test]
    fn mp3_announces_itself_by_coming() {
        let (feed, chunks) = feed(&[packet(false, 0, b"\x2f", b"\xff\xfb\x90\x64 and so on")]);
        assert_eq!(chunks.len(), 1);
        assert!(feed.header().is_some());
    }

    #[test]
    fn a_restart_is_a_marked_discontinuity() {
        let (mut feed, first) = feed(&[avc_config(), aac_config(), video(0, true)]);
        feed.restart();
        let second = feed.batch(&[avc_config(), aac_config(), video(5_000, true)]);
        let mut oracle = Oracle::default();
        assert_eq!(oracle.read(first[0].payload()).discontinuities, 0);
        assert_eq!(oracle.read(second[0].payload()).discontinuities, 1);
    }

    #[test]
    fn a_codec_that_ts_does_not_know_is_left_out() {
        let av1 = packet(true, 0, b"\x91av01", b"\x12\x00");
        let (feed, chunks) = feed(&[packet(true, 0, b"\x90av01", b"\x81\x05\x0c\x00"), aac_config(), av1, audio(0)]);
        assert_eq!(kinds(&chunks), [(PacketKind::Audio, 0)]);
        assert_eq!(feed.header().map(|header| header.len()), Some(376));
    }
}
