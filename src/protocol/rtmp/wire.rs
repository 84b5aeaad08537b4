//! The bytes of packets as RTMP players get them: built once, and shared by all players of one form.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{
    chunk::{self, WireStyle},
    message::{csid, kind},
};
use crate::media::packet::{Batch, Packet, PacketKind, Track};

/// How one player is sent packets. Nearly all players of a stream share one form, and with it the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlayForm {
    pub chunks: WireStyle,
    /// Audio and video on one chunk stream.
    pub interleave: bool,
    pub msid: u32,
    /// The player announced several tracks: it gets what was published, not the default track alone.
    pub multitrack: bool,
    /// The player announced enhanced HEVC: it gets that also where the publisher uses the older codec id 12.
    pub enhanced_hevc: bool,
    /// Taken from every timestamp: the stream's time at which this player's clock is 0.
    pub origin_ms: i64,
    /// The peer is a server that we publish to: metadata are what it is to set.
    pub publishes: bool,
}

impl PlayForm {
    /// The form nearly everybody has.
    pub fn new(chunks: WireStyle, interleave: bool) -> Self {
        Self { chunks, interleave, msid: 1, multitrack: false, enhanced_hevc: false, origin_ms: 0, publishes: false }
    }

    /// The bytes of a whole batch.
    pub fn batch(&self, batch: &Batch) -> Bytes {
        self.shared(batch).cloned().unwrap_or_else(|| self.build(batch.packets()))
    }

    /// The bytes of a whole batch, where they are those that all players share.
    pub fn shared<'a>(&self, batch: &'a Batch) -> Option<&'a Bytes> {
        let style = self.style(batch.packets())?;
        batch.wire(style, |packets| self.build(packets))
    }

    /// The bytes of one packet.
    pub fn packet(&self, packet: &Packet) -> Bytes {
        let Some(style) = self.style(std::slice::from_ref(packet)) else {
            return self.build(std::slice::from_ref(packet));
        };
        if let Some(bytes) = packet.wire(style) {
            return bytes.clone();
        }
        let bytes = self.build(std::slice::from_ref(packet));
        packet.keep_wire(style, bytes.clone());
        bytes
    }

    /// A number for the forms whose bytes are shared; none for a form that is one player's own.
    fn style(&self, packets: &[Packet]) -> Option<u64> {
        // All else is the same for whom we publish to and for who plays.
        let sets = self.publishes && packets.iter().any(|packet| packet.kind() == PacketKind::Metadata);
        let own = sets || self.msid != 1 || self.multitrack || self.enhanced_hevc || self.origin_ms != 0;
        let flags = u64::from(self.chunks.repeat_extended) << 32 | u64::from(self.interleave) << 33;
        (!own).then_some(u64::from(self.chunks.chunk_size) | flags)
    }

    fn build(&self, packets: &[Packet]) -> Bytes {
        let mut out = BytesMut::with_capacity(packets.iter().map(|packet| self.len(packet)).sum());
        for packet in packets {
            self.write(&mut out, packet);
        }
        out.freeze()
    }

    fn write(&self, out: &mut BytesMut, packet: &Packet) {
        if let Some((csid, kind)) = self.lane(packet) {
            let body = self.body(packet);
            chunk::write(out, self.chunks, csid, self.time(packet), kind, self.msid, &body);
        }
    }

    fn len(&self, packet: &Packet) -> usize {
        self.lane(packet)
            .map_or(0, |(csid, _)| chunk::wire_len(self.chunks, csid, self.time(packet), self.body(packet).len()))
    }

    fn body<'a>(&self, packet: &'a Packet) -> Cow<'a, [u8]> {
        let body = packet.body(self.multitrack);
        if self.enhanced_hevc && packet.track() == Track::Video {
            return Cow::Owned(crate::protocol::flv::tag::hevc_enhanced(body).into());
        }
        if self.publishes && packet.kind() == PacketKind::Metadata {
            return Cow::Owned([SET_DATA_FRAME, body].concat());
        }
        Cow::Borrowed(body)
    }

    /// The chunk stream and message type of a packet; none for what this player is not sent.
    fn lane(&self, packet: &Packet) -> Option<(u32, u8)> {
        if packet.is_other_track() && !self.multitrack {
            return None;
        }
        Some(match packet.track() {
            Track::Audio => (csid::AUDIO, kind::AUDIO),
            Track::Video if self.interleave => (csid::AUDIO, kind::VIDEO),
            Track::Video => (csid::VIDEO, kind::VIDEO),
            Track::Data => (csid::STATUS, kind::DATA),
        })
    }

    /// RTMP's clock is 32 bits and wraps; metadata always stands at 0, or ffmpeg takes it for a track of its own.
    fn time(&self, packet: &Packet) -> u32 {
        match packet.kind() {
            PacketKind::Metadata => 0,
            _ => (packet.time_ms() - self.origin_ms).max(0) as u32,
        }
    }
}

/// `@setDataFrame` as AMF0 writes a string.
const SET_DATA_FRAME: &[u8] = b"\x02\0\x0d@setDataFrame";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rtmp::chunk::{ChunkLimits, ChunkReader};

    const FORM: PlayForm = PlayForm {
        chunks: WireStyle { chunk_size: 128, repeat_extended: true },
        interleave: false,
        msid: 1,
        multitrack: false,
        enhanced_hevc: false,
        origin_ms: 0,
        publishes: false,
    };

    fn audio(time_ms: i64, len: usize) -> Packet {
        Packet::new(Track::Audio, PacketKind::Audio, time_ms, vec![7; len].into())
    }

    fn read(bytes: &[u8]) -> Vec<(u32, u32, u8, u32, usize)> {
        let mut reader = ChunkReader::new(ChunkLimits { max_message: 1 << 20, max_csids: 8, max_restarts: 0 });
        let mut input = bytes;
        let mut seen = Vec::new();
        while let Some(m) = reader.read(&mut input).expect("our own bytes are right") {
            seen.push((m.csid, m.time, m.kind, m.msid, m.payload.len()));
        }
        assert!(!reader.is_midway());
        seen
    }

    #[test]
    fn all_players_of_one_form_share_the_same_bytes() {
        let batch = Batch::new([audio(1, 300), audio(24, 5)].into_iter().collect());
        let (first, second) = (FORM.batch(&batch), FORM.batch(&batch));
        assert_eq!(first.as_ptr(), second.as_ptr());
        let (one, again) = (FORM.packet(&batch.packets()[1]), FORM.packet(&batch.packets()[1]));
        assert_eq!((&one[..], one.as_ptr()), (&first[first.len() - 17..], again.as_ptr()));
        assert_eq!(read(&first), [(6, 1, 8, 1, 300), (6, 24, 8, 1, 5)]);
    }

    #[test]
    fn a_player_of_its_own_form_does_not_disturb_the_others() {
        let batch = Batch::new([audio(1000, 10)].into_iter().collect());
        let own = PlayForm { msid: 3, origin_ms: 990, ..FORM };
        assert_eq!(read(&own.batch(&batch)), [(6, 10, 8, 3, 10)]);
        assert_eq!(read(&FORM.batch(&batch)), [(6, 1000, 8, 1, 10)]);
        assert_eq!(FORM.batch(&batch).as_ptr(), FORM.batch(&batch).as_ptr());
    }

    #[test]
    fn time_beyond_24_and_32_bits_is_written_as_rtmp_says() {
        for time_ms in [0xFF_FFFE_i64, 0xFF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x1_0000_0005] {
            let bytes = FORM.packet(&audio(time_ms, 200));
            assert_eq!(read(&bytes), [(6, time_ms as u32, 8, 1, 200)]);
        }
    }

    #[test]
    fn other_tracks_go_only_to_players_that_announced_them() {
        let other = Packet::with_original(
            Track::Video,
            PacketKind::OtherTrack,
            0,
            Bytes::new(),
            Some(Bytes::from_static(b"track one")),
        );
        assert!(FORM.packet(&other).is_empty());
        let several = PlayForm { multitrack: true, ..FORM };
        assert_eq!(read(&several.packet(&other)), [(7, 0, 9, 1, 9)]);
    }

    #[test]
    fn metadata_stands_at_zero() {
        let meta = Packet::new(Track::Data, PacketKind::Metadata, 5000, Bytes::from_static(b"m"));
        assert_eq!(read(&FORM.packet(&meta)), [(5, 0, 18, 1, 1)]);
    }

    #[test]
    fn a_server_we_publish_to_is_told_to_set_the_metadata_and_shares_all_other_bytes() {
        let meta = Packet::new(Track::Data, PacketKind::Metadata, 0, Bytes::from_static(b"m"));
        let publishes = PlayForm { publishes: true, ..FORM };
        assert_eq!(read(&publishes.packet(&meta)), [(5, 0, 18, 1, 17)]);
        assert_eq!(read(&FORM.packet(&meta)), [(5, 0, 18, 1, 1)]);
        let batch = Batch::new([audio(1, 300)].into_iter().collect());
        assert_eq!(FORM.batch(&batch).as_ptr(), publishes.batch(&batch).as_ptr());
    }
}
