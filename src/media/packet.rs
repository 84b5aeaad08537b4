//! A packet on its way through the server.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;

/// What a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Track {
    Audio,
    Video,
    /// Metadata, text, cue points: AMF values beside the media.
    Data,
}

/// What a packet is to somebody who starts, drops or cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketKind {
    /// A decoder configuration ("sequence header") of its track.
    Config,
    /// Side data a late joiner needs as much as the configuration: channel layout, colour description.
    SideConfig,
    /// A video frame that decodes by itself.
    Key,
    /// A video frame that needs the ones before it.
    Inter,
    /// A video frame nothing depends on.
    Disposable,
    /// An audio frame.
    Audio,
    /// `onMetaData`.
    Metadata,
    /// Any other data message.
    Text,
    /// The end of a sequence: the track stops here.
    End,
    /// A message that speaks only of tracks other than the default one.
    OtherTrack,
    /// The same, and a configuration: of the track with this id, or side data of it.
    OtherTrackConfig { id: u8, side: bool },
}

/// One audio, video or data message of a stream. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug)]
pub struct Packet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    track: Track,
    kind: PacketKind,
    time_ms: i64,
    payload: Bytes,
    original: Option<Bytes>,
    wire: OnceLock<Wire>,
}

impl Packet {
    /// `time_ms` is on the stream's own timeline; `payload` is the body of an RTMP message or FLV tag in the form
    /// every player understands.
    pub fn new(track: Track, kind: PacketKind, time_ms: i64, payload: Bytes) -> Self {
        Self(Arc::new(Inner { track, kind, time_ms, payload, original: None, wire: OnceLock::new() }))
    }

    /// As [`Packet::new`], keeping also the body as it was published, for players that asked for several tracks.
    pub fn with_original(
        track: Track,
        kind: PacketKind,
        time_ms: i64,
        payload: Bytes,
        original: Option<Bytes>,
    ) -> Self {
        Self(Arc::new(Inner { track, kind, time_ms, payload, original, wire: OnceLock::new() }))
    }

    /// The same packet at another time.
    pub fn at(&self, time_ms: i64) -> Self {
        let Inner { track, kind, payload, original, .. } = &*self.0;
        Self::with_original(*track, *kind, time_ms, payload.clone(), original.clone())
    }

    pub fn track(&self) -> Track {
        self.0.track
    }

    pub fn kind(&self) -> PacketKind {
        self.0.kind
    }

    pub fn time_ms(&self) -> i64 {
        self.0.time_ms
    }

    pub fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// The body as published, where it differs from [`Packet::payload`].
    pub fn original(&self) -> Option<&Bytes> {
        self.0.original.as_ref()
    }

    /// The body for a player: as published when it announced several tracks, else the default track's.
    pub fn body(&self, multitrack: bool) -> &Bytes {
        if multitrack { self.0.original.as_ref().unwrap_or(&self.0.payload) } else { &self.0.payload }
    }

    pub fn is_keyframe(&self) -> bool {
        self.0.kind == PacketKind::Key
    }

    /// A configuration or what belongs to it: needed by whoever joins, never dropped.
    pub fn is_config(&self) -> bool {
        matches!(self.0.kind, PacketKind::Config | PacketKind::SideConfig | PacketKind::OtherTrackConfig { .. })
    }

    /// Speaks only of tracks other than the default one: for players that asked for several.
    pub fn is_other_track(&self) -> bool {
        matches!(self.0.kind, PacketKind::OtherTrack | PacketKind::OtherTrackConfig { .. })
    }

    /// A coded frame of either medium, as opposed to headers and data.
    pub fn is_frame(&self) -> bool {
        matches!(self.0.kind, PacketKind::Key | PacketKind::Inter | PacketKind::Disposable | PacketKind::Audio)
    }

    pub fn is_video_frame(&self) -> bool {
        self.is_frame() && self.0.track == Track::Video
    }

    pub fn len(&self) -> usize {
        self.0.payload.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.payload.is_empty()
    }

    /// What the packet is to a player at the most, in bytes: some are sent the body as published.
    pub fn weight(&self) -> usize {
        self.len().max(self.0.original.as_ref().map_or(0, Bytes::len))
    }

    /// The packet's bytes in a wire form, if they have been built in `style`.
    pub fn wire(&self, style: u64) -> Option<&Bytes> {
        self.0.wire.get().filter(|wire| wire.style == style).map(|wire| &wire.bytes)
    }

    /// Keeps the packet's bytes in a wire form for everyone to share. The first style wins: it is the style of the
    /// stream's own players, and whoever needs another one builds it for himself.
    pub fn keep_wire(&self, style: u64, bytes: Bytes) {
        let _ = self.0.wire.set(Wire { style, bytes });
    }
}

/// Packets that travel together: what a stream gathered before it told its subscribers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch(Arc<BatchInner>);

#[derive(Debug)]
struct BatchInner {
    packets: SmallVec<[Packet; 4]>,
    bytes: usize,
    wire: OnceLock<Wire>,
    /// Apart from `wire`, so that RTMP and FLV players of one stream do not take the place from each other. Batches are
    /// gone once everybody has been sent them; single packets stay in the cache and keep no tags.
    tags: OnceLock<Wire>,
}

impl Batch {
    pub fn new(packets: SmallVec<[Packet; 4]>) -> Self {
        let bytes = packets.iter().map(Packet::weight).sum();
        Self(Arc::new(BatchInner { packets, bytes, wire: OnceLock::new(), tags: OnceLock::new() }))
    }

    pub fn packets(&self) -> &[Packet] {
        &self.0.packets
    }

    /// What all packets together weigh: see [`Packet::weight`].
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// The bytes of the whole batch in wire form `style`. `build` runs at most once for the first style that is asked
    /// for, whoever asks; `None` means the batch is kept in another style.
    pub fn wire(&self, style: u64, build: impl FnOnce(&[Packet]) -> Bytes) -> Option<&Bytes> {
        self.kept(&self.0.wire, style, build)
    }

    /// The same for the whole batch as FLV tags.
    pub fn tags(&self, style: u64, build: impl FnOnce(&[Packet]) -> Bytes) -> Option<&Bytes> {
        self.kept(&self.0.tags, style, build)
    }

    fn kept<'a>(
        &'a self,
        slot: &'a OnceLock<Wire>,
        style: u64,
        build: impl FnOnce(&[Packet]) -> Bytes,
    ) -> Option<&'a Bytes> {
        let wire = slot.get_or_init(|| Wire { style, bytes: build(&self.0.packets) });
        (wire.style == style).then_some(&wire.bytes)
    }
}

/// Bytes in the one wire form that was built first.
#[derive(Debug)]
struct Wire {
    style: u64,
    bytes: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(text: &'static str) -> Packet {
        Packet::new(Track::Audio, PacketKind::Audio, 0, Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn the_bytes_of_a_batch_are_built_once() {
        let batch = Batch::new([packet("ab"), packet("cde")].into_iter().collect());
        let built = batch.wire(1, |_| Bytes::from_static(b"first")).cloned();
        let again = batch.wire(1, |_| unreachable!("it is there already")).cloned();
        assert_eq!((built.as_deref(), batch.bytes()), (Some(&b"first"[..]), 5));
        assert_eq!(built, again);
    }

    #[test]
    fn another_style_is_not_mistaken_for_the_kept_one() {
        let batch = Batch::new([packet("ab")].into_iter().collect());
        assert!(batch.wire(1, |_| Bytes::new()).is_some());
        assert!(batch.wire(2, |_| Bytes::new()).is_none());
        let one = packet("x");
        one.keep_wire(7, Bytes::from_static(b"wire"));
        assert!(one.wire(7).is_some() && one.wire(8).is_none());
    }
}
