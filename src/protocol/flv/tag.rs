//! Reads the head of an audio or video message, legacy and enhanced, into what it means.
//!
//! RTMP messages of type 8 and 9 carry the bodies of FLV tags, so this is the head of both. What comes out is
//! *normalised*: the default track alone, without extensions, in the oldest form that can say it. AVC, AAC and MP3
//! become legacy bodies, because browsers' FLV players fail on their FourCC; everything newer stays enhanced.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::media::codec::{AudioCodec, Codec, FourCc, VideoCodec};
use crate::media::packet::{PacketKind, Track};

/// A message that says something about the default track.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub track: Track,
    pub codec: Codec,
    /// What the header claims. Some encoders call every frame a keyframe, or a frame without IDR: who cuts segments
    /// asks the access unit itself (`media::codec::avc::has_idr`).
    pub kind: PacketKind,
    /// What to add to the decoding time to get the presentation time. As sent: it may be absurd.
    pub cts_ms: i32,
    /// The normalised body.
    pub payload: Bytes,
    /// The body as published, where normalising changed it.
    pub original: Option<Bytes>,
    /// Nanoseconds to add to the presentation time (ModEx), 0..=999_999.
    pub nanos: u32,
}

/// What a message body turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    Frame(Frame),
    /// The message speaks of `count` tracks, none of them the default one.
    OtherTrack {
        original: Bytes,
        count: u32,
        /// [`PacketKind::OtherTrackConfig`] of the first of them where it configures a decoder, else
        /// [`PacketKind::OtherTrack`].
        kind: PacketKind,
    },
    /// Nothing to forward: silence, a seek command, a frame without data, a packet type of the future.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TagError {
    #[error("the message ends inside its header")]
    Short,
    #[error("more than {MAX_MOD_EX} ModEx extensions in one message")]
    TooManyExtensions,
    #[error("more than {MAX_TRACKS} tracks in one message")]
    TooManyTracks,
    #[error("multitrack type {0} is not known")]
    MultitrackType(u8),
    #[error("packet type {0} inside a multitrack message")]
    NestedPacketType(u8),
}

/// Reads one message body; `video` says whether it came as type 9 rather than 8.
///
/// Bodies that are normal already (legacy, and enhanced single-track without extensions for what stays enhanced) are
/// not copied. Others are copied once, since the header in front of the data gets another length.
pub fn read(video: bool, body: Bytes) -> Result<Reading, TagError> {
    let Some(&first) = body.first() else {
        return Ok(Reading::Nothing);
    };
    match video {
        true if first & EX_VIDEO != 0 => read_enhanced(Medium::Video { frame_type: first >> 4 & 0x7 }, first, body),
        true => read_legacy_video(first, body),
        false if first >> 4 == EX_AUDIO => read_enhanced(Medium::Audio, first, body),
        false => read_legacy_audio(first, body),
    }
}

impl Frame {
    /// What follows the header: the configuration record, or the coded frame. Shares the payload's bytes.
    pub fn data(&self) -> Bytes {
        data(self.track == Track::Video, &self.payload)
    }
}

/// What follows the header in a normalised body. Shares its bytes; empty when the body is too short to have any.
pub fn data(video: bool, body: &Bytes) -> Bytes {
    let Some(&first) = body.first() else {
        return Bytes::new();
    };
    let header = match video {
        true if first & EX_VIDEO != 0 => {
            let has_cts = first & 0x0f == CODED_FRAMES && fourcc_at(body, 1).is_some_and(carries_cts);
            if has_cts { 8 } else { 5 }
        }
        true if is_avc_layout(first & 0x0f) => 5,
        true => 1,
        false if first >> 4 == EX_AUDIO => 5,
        false if first >> 4 == AAC => 2,
        false => 1,
    };
    if body.len() > header { body.slice(header..) } else { Bytes::new() }
}

/// The `hvc1` form of an HEVC body that came under the unofficial codec number 12, for players that announced `hvc1`.
/// Copies once; any other body is returned as it is.
pub fn hevc_enhanced(body: &Bytes) -> Bytes {
    let Some((&[first, packet_type, a, b, c], data)) = body.split_first_chunk() else {
        return body.clone();
    };
    if first & 0x8f != HEVC {
        return body.clone();
    }
    let cts = [a, b, c];
    let enhanced_type = match packet_type {
        0 => SEQUENCE_START,
        1 if cts == [0; 3] => CODED_FRAMES_X,
        1 => CODED_FRAMES,
        2 => SEQUENCE_END,
        _ => return body.clone(),
    };
    let mut out = BytesMut::with_capacity(8 + data.len());
    out.put_u8(EX_VIDEO | first & 0x70 | enhanced_type);
    out.put_slice(b"hvc1");
    if enhanced_type == CODED_FRAMES {
        out.put_slice(&cts);
    }
    out.put_slice(data);
    out.freeze()
}

/// The codec-12 form of a normalised `hvc1` body, for old players that know only that. Copies once; any body that is
/// not enhanced HEVC is returned as it is. `None`: old players have no form for this message (colour description).
pub fn hevc_legacy(body: &Bytes) -> Option<Bytes> {
    let (Some(&first), Some(fourcc)) = (body.first(), fourcc_at(body, 1)) else {
        return Some(body.clone());
    };
    if first & EX_VIDEO == 0 || fourcc != FourCc(*b"hvc1") {
        return Some(body.clone());
    }
    let rest = body.slice(5..);
    avc_layout(first >> 4 & 0x7, HEVC, first & 0x0f, &rest)
}

/// One medium's side of the enhanced grammar, which is the same for both but for a few numbers.
#[derive(Clone, Copy)]
enum Medium {
    Audio,
    Video { frame_type: u8 },
}

impl Medium {
    fn multitrack(self) -> u8 {
        match self {
            Self::Audio => 5,
            Self::Video { .. } => 6,
        }
    }

    fn track(self) -> Track {
        match self {
            Self::Audio => Track::Audio,
            Self::Video { .. } => Track::Video,
        }
    }

    /// The first byte of a plain enhanced message.
    fn first_byte(self, packet_type: u8) -> u8 {
        match self {
            Self::Audio => EX_AUDIO << 4 | packet_type,
            Self::Video { frame_type } => EX_VIDEO | frame_type << 4 | packet_type,
        }
    }
}

fn read_legacy_video(first: u8, body: Bytes) -> Result<Reading, TagError> {
    let (frame_type, id) = (first >> 4, first & 0x0f);
    // A command to the player (start or end of a seek), not a frame.
    if frame_type == COMMAND_FRAME {
        return Ok(Reading::Nothing);
    }
    if !is_avc_layout(id) {
        let codec = Codec::Video(VideoCodec::Flv(id));
        return Ok(frame_unless_empty(codec, video_kind(frame_type), 0, body, 1));
    }
    let codec = Codec::Video(match id {
        HEVC => VideoCodec::Hevc,
        AV1 => VideoCodec::Av1,
        _ => VideoCodec::Avc,
    });
    let packet_type = *body.get(1).ok_or(TagError::Short)?;
    match packet_type {
        // Encoders are seen to shorten the closing message, which says nothing after this byte.
        2 => Ok(Reading::Frame(plain(codec, PacketKind::End, 0, body))),
        0 | 1 => {
            let cts_ms = si24(&body, 2).ok_or(TagError::Short)?;
            match packet_type {
                0 => Ok(frame_unless_empty(codec, PacketKind::Config, 0, body, 5)),
                _ => Ok(frame_unless_empty(codec, video_kind(frame_type), cts_ms, body, 5)),
            }
        }
        _ => Ok(Reading::Nothing),
    }
}

fn read_legacy_audio(first: u8, body: Bytes) -> Result<Reading, TagError> {
    match first >> 4 {
        AAC => match body.get(1).ok_or(TagError::Short)? {
            0 => Ok(frame_unless_empty(Codec::Audio(AudioCodec::Aac), PacketKind::Config, 0, body, 2)),
            1 => Ok(frame_unless_empty(Codec::Audio(AudioCodec::Aac), PacketKind::Audio, 0, body, 2)),
            _ => Ok(Reading::Nothing),
        },
        id => {
            let codec = if id == MP3 || id == MP3_8K { AudioCodec::Mp3 } else { AudioCodec::Flv(id) };
            Ok(frame_unless_empty(Codec::Audio(codec), PacketKind::Audio, 0, body, 1))
        }
    }
}

/// The order of these checks is the one of E-RTMP v2, for audio and video alike.
fn read_enhanced(medium: Medium, first: u8, original: Bytes) -> Result<Reading, TagError> {
    let mut rest = original.slice(1..);
    let mut packet_type = first & 0x0f;
    let mut nanos = 0;
    let mut plain_header = true;

    let mut extensions = 0;
    while packet_type == MOD_EX {
        extensions += 1;
        if extensions > MAX_MOD_EX {
            return Err(TagError::TooManyExtensions);
        }
        plain_header = false;
        let mut size = usize::from(take_u8(&mut rest)?) + 1;
        if size == 256 {
            size = usize::from(rest.try_get_u16().map_err(|_| TagError::Short)?) + 1;
        }
        let extension = take(&mut rest, size)?;
        let next = take_u8(&mut rest)?;
        packet_type = next & 0x0f;
        if next >> 4 == TIMESTAMP_OFFSET_NANO {
            // Out of range is outside the standard; then the milliseconds alone count.
            nanos = u24(&extension, 0).filter(|nanos| *nanos < 1_000_000).unwrap_or(0);
        }
    }

    // A command (start or end of a seek) has neither FourCC nor frame. For Metadata the frame type means nothing.
    if matches!(medium, Medium::Video { frame_type: COMMAND_FRAME }) && packet_type != METADATA {
        return Ok(Reading::Nothing);
    }

    if packet_type != medium.multitrack() {
        let fourcc = take_fourcc(&mut rest)?;
        let kept = plain_header.then(|| original.clone());
        return Ok(normalise(medium, packet_type, fourcc, rest, nanos, kept, original));
    }

    let byte = take_u8(&mut rest)?;
    let (multitrack_type, packet_type) = (byte >> 4, byte & 0x0f);
    if multitrack_type > MANY_TRACKS_MANY_CODECS {
        return Err(TagError::MultitrackType(multitrack_type));
    }
    if packet_type == MOD_EX || packet_type == medium.multitrack() {
        return Err(TagError::NestedPacketType(packet_type));
    }
    let shared = if multitrack_type == MANY_TRACKS_MANY_CODECS { None } else { Some(take_fourcc(&mut rest)?) };
    let mut default_track = None;
    let mut first_id = None;
    let mut count = 0;
    while !rest.is_empty() {
        count += 1;
        if count > MAX_TRACKS {
            return Err(TagError::TooManyTracks);
        }
        let fourcc = match shared {
            Some(fourcc) => fourcc,
            None => take_fourcc(&mut rest)?,
        };
        let id = take_u8(&mut rest)?;
        first_id.get_or_insert(id);
        let data = if multitrack_type == ONE_TRACK {
            std::mem::take(&mut rest)
        } else {
            let size = rest.try_get_uint(3).map_err(|_| TagError::Short)?;
            take(&mut rest, usize::try_from(size).map_err(|_| TagError::Short)?)?
        };
        if id == 0 && default_track.is_none() {
            default_track = Some((fourcc, data));
        }
    }
    match default_track {
        Some((fourcc, data)) => Ok(normalise(medium, packet_type, fourcc, data, nanos, None, original)),
        None => Ok(first_id.map_or(Reading::Nothing, |id| {
            // Such are kept for late players: what a publisher may have us keep is bounded here.
            let is_kept = id <= MAX_KEPT_TRACK && original.len() <= MAX_KEPT_CONFIG_BYTES;
            let kind = match enhanced_kind(medium, packet_type).filter(|_| is_kept) {
                Some(PacketKind::Config) => PacketKind::OtherTrackConfig { id, side: false },
                Some(PacketKind::SideConfig) => PacketKind::OtherTrackConfig { id, side: true },
                _ => PacketKind::OtherTrack,
            };
            Reading::OtherTrack { original, count, kind }
        })),
    }
}

/// One track's message, written the plainest way. `rest` is what follows the FourCC; `kept` is the body itself when it
/// is plain already and need not be written again if its codec stays enhanced.
fn normalise(
    medium: Medium,
    packet_type: u8,
    fourcc: FourCc,
    rest: Bytes,
    nanos: u32,
    kept: Option<Bytes>,
    original: Bytes,
) -> Reading {
    let codec = match medium {
        Medium::Audio => Codec::Audio(AudioCodec::from_fourcc(fourcc)),
        Medium::Video { .. } => Codec::Video(VideoCodec::from_fourcc(fourcc)),
    };
    let Some(kind) = enhanced_kind(medium, packet_type) else {
        return Reading::Nothing;
    };
    let mut cts_ms = 0;
    let mut header = 0;
    if packet_type == CODED_FRAMES && matches!(medium, Medium::Video { .. }) && carries_cts(fourcc) {
        // Too short for its composition time is a frame without data like any other.
        let Some(cts) = si24(&rest, 0) else {
            return Reading::Nothing;
        };
        (cts_ms, header) = (cts, 3);
    }
    let is_empty = rest.len() <= header;
    let says_nothing_when_empty = match kind {
        PacketKind::End => false,
        // These codecs have no record to send, and say so with an empty one.
        PacketKind::Config => !matches!(
            codec,
            Codec::Audio(AudioCodec::Opus | AudioCodec::Ac3 | AudioCodec::Eac3 | AudioCodec::Other(_))
                | Codec::Video(VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Other(_))
        ),
        _ => true,
    };
    if is_empty && says_nothing_when_empty {
        return Reading::Nothing;
    }

    let legacy = match (medium, codec) {
        (_, Codec::Audio(AudioCodec::Aac)) => legacy_aac(packet_type, &rest),
        (_, Codec::Audio(AudioCodec::Mp3)) => legacy_mp3(packet_type, &rest),
        (Medium::Video { frame_type }, Codec::Video(VideoCodec::Avc)) => {
            avc_layout(frame_type, AVC, packet_type, &rest)
        }
        _ => None,
    };
    if legacy.is_none() && has_legacy_form(codec) {
        // What the legacy form cannot say (the end of audio, a channel layout, colours) is said nowhere: the FourCC would
        // upset the players that this form is for. Layout and colours stand in the configuration record as well.
        return Reading::Nothing;
    }
    let (payload, original) = match (legacy, kept) {
        (Some(payload), _) => (payload, Some(original)),
        (None, Some(kept)) => (kept, None),
        (None, None) => {
            let mut out = BytesMut::with_capacity(5 + rest.len());
            out.put_u8(medium.first_byte(packet_type));
            out.put_slice(&fourcc.0);
            // Copied once: what stood between the first byte and the data is gone.
            out.put_slice(&rest);
            (out.freeze(), Some(original))
        }
    };
    Reading::Frame(Frame { track: medium.track(), codec, kind, cts_ms, payload, original, nanos })
}

/// `None` for packet types that mean nothing here, today or yet.
fn enhanced_kind(medium: Medium, packet_type: u8) -> Option<PacketKind> {
    Some(match (medium, packet_type) {
        (_, SEQUENCE_START) => PacketKind::Config,
        (_, SEQUENCE_END) => PacketKind::End,
        (Medium::Audio, CODED_FRAMES) => PacketKind::Audio,
        (Medium::Audio, MULTICHANNEL_CONFIG) => PacketKind::SideConfig,
        (Medium::Video { frame_type }, CODED_FRAMES | CODED_FRAMES_X) => video_kind(frame_type),
        (Medium::Video { .. }, METADATA) => PacketKind::SideConfig,
        (Medium::Video { .. }, MPEG2TS_SEQUENCE_START) => PacketKind::Config,
        _ => return None,
    })
}

fn video_kind(frame_type: u8) -> PacketKind {
    match frame_type {
        // 4 is a keyframe that a server generated.
        1 | 4 => PacketKind::Key,
        3 => PacketKind::Disposable,
        // 2, and numbers without a meaning, which promise nothing and so must be taken to depend on others.
        _ => PacketKind::Inter,
    }
}

/// The legacy body of AVC's layout. `rest` is what follows the FourCC of the enhanced one.
fn avc_layout(frame_type: u8, id: u8, packet_type: u8, rest: &[u8]) -> Option<Bytes> {
    let (legacy_type, cts, data) = match packet_type {
        SEQUENCE_START => (0, [0; 3], rest),
        CODED_FRAMES => {
            let (cts, data) = rest.split_first_chunk::<3>()?;
            (1, *cts, data)
        }
        CODED_FRAMES_X => (1, [0; 3], rest),
        SEQUENCE_END => (2, [0; 3], rest),
        _ => return None,
    };
    let mut out = BytesMut::with_capacity(5 + data.len());
    out.put_slice(&[frame_type << 4 | id, legacy_type]);
    out.put_slice(&cts);
    out.put_slice(data);
    Some(out.freeze())
}

fn legacy_aac(packet_type: u8, rest: &[u8]) -> Option<Bytes> {
    // The rate and channel bits are fixed for AAC: its own configuration tells them.
    let mut out = BytesMut::with_capacity(2 + rest.len());
    match packet_type {
        SEQUENCE_START => out.put_slice(&[0xaf, 0]),
        CODED_FRAMES => out.put_slice(&[0xaf, 1]),
        _ => return None,
    }
    out.put_slice(rest);
    Some(out.freeze())
}

fn legacy_mp3(packet_type: u8, rest: &[u8]) -> Option<Bytes> {
    if packet_type != CODED_FRAMES {
        return None;
    }
    // Of the MPEG audio header: the version and the channel mode. FLV knows 11, 22 and 44 kHz, and labels every rate of
    // a version alike (48 kHz as 44).
    let (version, mode) = match rest {
        [0xff, b, _, d, ..] => (b >> 3 & 3, d >> 6),
        _ => (3, 0),
    };
    let flv_rate = match version {
        3 => 3,
        2 => 2,
        _ => 1,
    };
    let stereo = u8::from(mode != 3);
    let mut out = BytesMut::with_capacity(1 + rest.len());
    out.put_u8(MP3 << 4 | flv_rate << 2 | 1 << 1 | stereo);
    out.put_slice(rest);
    Some(out.freeze())
}

fn has_legacy_form(codec: Codec) -> bool {
    matches!(codec, Codec::Audio(AudioCodec::Aac | AudioCodec::Mp3) | Codec::Video(VideoCodec::Avc))
}

fn frame_unless_empty(codec: Codec, kind: PacketKind, cts_ms: i32, body: Bytes, header: usize) -> Reading {
    if body.len() > header { Reading::Frame(plain(codec, kind, cts_ms, body)) } else { Reading::Nothing }
}

fn plain(codec: Codec, kind: PacketKind, cts_ms: i32, payload: Bytes) -> Frame {
    let track = match codec {
        Codec::Audio(_) => Track::Audio,
        Codec::Video(_) => Track::Video,
    };
    Frame { track, codec, kind, cts_ms, payload, original: None, nanos: 0 }
}

/// Only the codecs that reorder carry a composition time in CodedFrames.
fn carries_cts(fourcc: FourCc) -> bool {
    matches!(&fourcc.0, b"avc1" | b"hvc1" | b"vvc1")
}

fn is_avc_layout(id: u8) -> bool {
    matches!(id, AVC | HEVC | AV1)
}

fn fourcc_at(bytes: &[u8], at: usize) -> Option<FourCc> {
    bytes.get(at..)?.first_chunk().map(|four| FourCc(*four))
}

fn u24(bytes: &[u8], at: usize) -> Option<u32> {
    let &[a, b, c] = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes([0, a, b, c]))
}

fn si24(bytes: &[u8], at: usize) -> Option<i32> {
    let &[a, b, c] = bytes.get(at..)?.first_chunk()?;
    // Shifting down from the top extends the sign.
    Some(i32::from_be_bytes([a, b, c, 0]) >> 8)
}

fn take_u8(rest: &mut Bytes) -> Result<u8, TagError> {
    rest.try_get_u8().map_err(|_| TagError::Short)
}

fn take(rest: &mut Bytes, size: usize) -> Result<Bytes, TagError> {
    if size > rest.len() {
        return Err(TagError::Short);
    }
    Ok(rest.split_to(size))
}

fn take_fourcc(rest: &mut Bytes) -> Result<FourCc, TagError> {
    let fourcc = fourcc_at(rest, 0).ok_or(TagError::Short)?;
    rest.advance(4);
    Ok(fourcc)
}

/// Each extension costs a peer three bytes and us a step; nobody sends more than one.
const MAX_MOD_EX: usize = 8;
/// A track number is one byte.
const MAX_TRACKS: u32 = 256;

/// OBS numbers its tracks up to 5.
const MAX_KEPT_TRACK: u8 = 15;
/// Far more than the configuration of any track has.
const MAX_KEPT_CONFIG_BYTES: usize = 16 << 10;

const EX_VIDEO: u8 = 0x80;
const EX_AUDIO: u8 = 9;
const COMMAND_FRAME: u8 = 5;

const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const SEQUENCE_END: u8 = 2;
const CODED_FRAMES_X: u8 = 3;
const METADATA: u8 = 4;
const MULTICHANNEL_CONFIG: u8 = 4;
const MPEG2TS_SEQUENCE_START: u8 = 5;
const MOD_EX: u8 = 7;

const TIMESTAMP_OFFSET_NANO: u8 = 0;
const ONE_TRACK: u8 = 0;
const MANY_TRACKS_MANY_CODECS: u8 = 2;

const AVC: u8 = 7;
/// Not in Adobe's list: what Kingsoft began and Chinese networks, SRS and ffmpeg (reading) share.
const HEVC: u8 = 12;
/// Not in Adobe's list either; a few forks put AV1 here, in AVC's layout.
const AV1: u8 = 13;
const MP3: u8 = 2;
const AAC: u8 = 10;
const MP3_8K: u8 = 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Bytes {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    fn frame(video: bool, hex: &str) -> Frame {
        match read(video, bytes(hex)) {
            Ok(Reading::Frame(frame)) => frame,
            other => panic!("{hex}: {other:?}"),
        }
    }

    /// Reads, and tells codec, kind, composition time and normalised body.
    fn check(video: bool, hex: &str, codec: Codec, kind: PacketKind, cts_ms: i32, payload: &str) {
        let frame = frame(video, hex);
        assert_eq!((frame.codec, frame.kind, frame.cts_ms), (codec, kind, cts_ms), "{hex}");
        assert_eq!(frame.payload, bytes(payload), "{hex}");
        let changed = bytes(hex) != frame.payload;
        assert_eq!(frame.original, changed.then(|| bytes(hex)), "{hex}");
    }

    const AVC: Codec = Codec::Video(VideoCodec::Avc);
    const HEVC: Codec = Codec::Video(VideoCodec::Hevc);
    const AAC: Codec = Codec::Audio(AudioCodec::Aac);
    const OPUS: Codec = Codec::Audio(AudioCodec::Opus);

    #[test]
    fn legacy_bodies_are_read_and_left_alone() {
        use PacketKind::*;
        let untouched = |video, hex: &str, codec, kind, cts| check(video, hex, codec, kind, cts, hex);
        untouched(true, "17 00 000000 01640028", AVC, Config, 0);
        untouched(true, "17 01 000050 00000001 65", AVC, Key, 80);
        untouched(true, "27 01 ffffd8 00000001 41", AVC, Inter, -40);
        untouched(true, "37 01 000000 00000001 01", AVC, Disposable, 0);
        untouched(true, "47 01 000000 00000001 65", AVC, Key, 0);
        untouched(true, "17 02 000000", AVC, End, 0);
        untouched(true, "17 02", AVC, End, 0);
        untouched(true, "1c 00 000000 0101", HEVC, Config, 0);
        untouched(true, "2c 01 000028 0000000102", HEVC, Inter, 40);
        untouched(true, "12 aabb", Codec::Video(VideoCodec::Flv(2)), Key, 0);
        untouched(true, "24 aabb", Codec::Video(VideoCodec::Flv(4)), Inter, 0);
        untouched(false, "af 00 1210", AAC, Config, 0);
        untouched(false, "af 01 2110", AAC, Audio, 0);
        untouched(false, "2f fffb90", Codec::Audio(AudioCodec::Mp3), Audio, 0);
        untouched(false, "ee fffb90", Codec::Audio(AudioCodec::Mp3), Audio, 0);
        untouched(false, "b2 aabb", Codec::Audio(AudioCodec::Flv(11)), Audio, 0);
    }

    #[test]
    fn what_ffmpeg_sends_as_enhanced_single_tracks_stays_enhanced() {
        use PacketKind::*;
        let untouched = |video, hex: &str, codec, kind, cts| check(video, hex, codec, kind, cts, hex);
        untouched(true, "90 68766331 01 01 60000000 90", HEVC, Config, 0);
        untouched(true, "91 68766331 000050 00000001 26", HEVC, Key, 80);
        untouched(true, "a1 68766331 0000a0 00000001 02", HEVC, Inter, 160);
        untouched(true, "a3 68766331 00000001 02", HEVC, Inter, 0);
        untouched(true, "d4 68766331 02 0009 636f6c6f72496e666f", HEVC, SideConfig, 0);
        untouched(false, "90 4f707573 4f70757348656164 01", OPUS, Config, 0);
        untouched(false, "94 4f707573 01 01 00000004", OPUS, SideConfig, 0);
        untouched(false, "91 4f707573 f89e", OPUS, Audio, 0);
        untouched(true, "91 61763031 0a0b0c0d", Codec::Video(VideoCodec::Av1), Key, 0);
        untouched(true, "95 61763031 0a0b", Codec::Video(VideoCodec::Av1), Config, 0);
        untouched(true, "92 68766331", HEVC, End, 0);
        untouched(false, "90 61632d33", Codec::Audio(AudioCodec::Ac3), Config, 0);
    }

    #[test]
    fn the_default_track_of_a_multitrack_publisher_becomes_a_legacy_body() {
        use PacketKind::*;
        check(true, "96 00 61766331 00 0142c01e", AVC, Config, 0, "17 00 000000 0142c01e");
        check(true, "96 01 61766331 00 000050 00000001 65", AVC, Key, 80, "17 01 000050 00000001 65");
        check(true, "a6 01 61766331 00 0000a0 00000001 41", AVC, Inter, 160, "27 01 0000a0 00000001 41");
        check(false, "95 00 6d703461 00 1208", AAC, Config, 0, "af 00 1208");
        check(false, "95 01 6d703461 00 2110", AAC, Audio, 0, "af 01 2110");
        check(false, "95 04 4f707573 00 01 01 00000004", OPUS, SideConfig, 0, "94 4f707573 01 01 00000004");
    }

    #[test]
    fn tracks_above_the_default_one_are_named_as_such() {
        let config = |side| PacketKind::OtherTrackConfig { id: 1, side };
        for (video, hex, kind) in [
            (true, "96 00 61766331 01 0142c01e", config(false)),
            (true, "96 00 61766331 10 0142c01e", PacketKind::OtherTrack),
            (true, "96 01 61766331 01 000050 00000001 65", PacketKind::OtherTrack),
            (true, "a6 01 61766331 01 0000a0 00000001 41", PacketKind::OtherTrack),
            (false, "95 00 6d703461 01 1208", config(false)),
            (false, "95 04 6d703461 01 01 01 00000004", config(true)),
            (false, "95 01 6d703461 01 2110", PacketKind::OtherTrack),
        ] {
            let expected = Reading::OtherTrack { original: bytes(hex), count: 1, kind };
            assert_eq!(read(video, bytes(hex)), Ok(expected), "{hex}");
        }
    }

    #[test]
    fn the_default_track_is_found_among_many() {
        use PacketKind::*;
        let many = "96 11 61766331 01 000004 000000ff 00 000005 000028 aabb";
        check(true, many, AVC, Key, 40, "17 01 000028 aabb");
        let codecs = "96 21 61766331 01 000004 000000ff 68766331 00 000005 000028 aabb";
        check(true, codecs, HEVC, Key, 40, "91 68766331 000028 aabb");
        let audio = "95 21 6d703461 00 000002 2110 4f707573 01 000001 f8";
        check(false, audio, AAC, Audio, 0, "af 01 2110");
    }

    #[test]
    fn fourccs_of_old_codecs_become_old_numbers() {
        use PacketKind::*;
        check(true, "90 61766331 0142c01e", AVC, Config, 0, "17 00 000000 0142c01e");
        check(true, "a3 61766331 00000001 41", AVC, Inter, 0, "27 01 000000 00000001 41");
        check(true, "92 61766331", AVC, End, 0, "17 02 000000");
        check(false, "91 6d703461 2110", AAC, Audio, 0, "af 01 2110");
        let mp3 = Codec::Audio(AudioCodec::Mp3);
        check(false, "91 2e6d7033 fffb9064", mp3, Audio, 0, "2f fffb9064");
        check(false, "91 2e6d7033 fff390c4", mp3, Audio, 0, "2a fff390c4");
    }

    #[test]
    fn extensions_are_stripped_and_their_nanoseconds_kept() {
        let with_nanos = "97 02 000320 01 68766331 000050 00000001 26";
        let read = frame(true, with_nanos);
        assert_eq!((read.nanos, read.cts_ms, read.kind), (800, 80, PacketKind::Key));
        assert_eq!(read.payload, bytes("91 68766331 000050 00000001 26"));
        assert_eq!(read.original, Some(bytes(with_nanos)));
        // A long extension, of an unknown kind, then the known one.
        let long = format!("97 ff 0000 aa 17 02 000001 01 4f707573 {}", "f8");
        assert_eq!(frame(false, &long).nanos, 1);
        assert_eq!(frame(false, &long).payload, bytes("91 4f707573 f8"));
    }

    #[test]
    fn nanoseconds_of_a_millisecond_or_more_are_not_believed() {
        assert_eq!(frame(false, "97 02 0f4240 01 4f707573 f8").nanos, 0);
    }

    #[test]
    fn a_chain_of_extensions_ends_after_eight() {
        let chain = |n: usize| format!("97 {} 4f707573 f8", "00 aa 07".repeat(n - 1) + "00 aa 01");
        assert!(matches!(read(false, bytes(&chain(8))), Ok(Reading::Frame(_))));
        assert_eq!(read(false, bytes(&chain(9))), Err(TagError::TooManyExtensions));
    }

    #[test]
    fn an_unknown_fourcc_passes_through_untouched() {
        let codec = Codec::Video(VideoCodec::Other(FourCc(*b"zz99")));
        check(true, "91 7a7a3939 0102", codec, PacketKind::Key, 0, "91 7a7a3939 0102");
        check(true, "90 7a7a3939", codec, PacketKind::Config, 0, "90 7a7a3939");
    }

    #[test]
    fn what_carries_nothing_is_nothing() {
        for (video, hex) in [
            (true, ""),
            (false, ""),
            (true, "17 01 000000"),
            (true, "17 00 000000"),
            (false, "af 01"),
            (false, "af 00"),
            (false, "2f"),
            (true, "12"),
            (true, "57 00"),
            (true, "d1 00"),
            (true, "d0"),
            (true, "91 68766331 000050"),
            (true, "91 68766331 00"),
            (true, "90 68766331"),
            (true, "9f 68766331 00"),
            (false, "9f 4f707573 00"),
            (false, "92 6d703461"),
            (false, "90 2e6d7033"),
            (false, "94 6d703461 01 06 0000003f"),
            (true, "d4 61766331 02 0009 636f6c6f72496e666f"),
            (true, "96 01 61766331"),
            (true, "17 09 000000 aa"),
        ] {
            assert_eq!(read(video, bytes(hex)), Ok(Reading::Nothing), "{hex}");
        }
    }

    #[test]
    fn a_header_cut_short_is_an_error() {
        for (video, hex) in [
            (true, "17"),
            (true, "17 01 0000"),
            (true, "17 00"),
            (false, "af"),
            (true, "91 6876"),
            (false, "91 4f70"),
            (true, "97"),
            (true, "97 05 0000"),
            (true, "97 ff 00"),
            (true, "97 00 aa"),
            (true, "96"),
            (true, "96 01 6176"),
            (true, "96 21 61766331"),
            (true, "96 11 61766331 00 0000"),
            (true, "96 11 61766331 00 000005 aa"),
        ] {
            assert_eq!(read(video, bytes(hex)), Err(TagError::Short), "{hex}");
        }
        assert_eq!(read(true, bytes("96 31 61766331")), Err(TagError::MultitrackType(3)));
        assert_eq!(read(true, bytes("96 06 61766331")), Err(TagError::NestedPacketType(6)));
        let crowd = format!("96 11 61766331 {}", "01 000000".repeat(257));
        assert_eq!(read(true, bytes(&crowd)), Err(TagError::TooManyTracks));
    }

    #[test]
    fn the_data_is_what_follows_the_header() {
        for (video, hex, data) in [
            (true, "17 01 000050 aabb", "aabb"),
            (true, "12 aabb", "aabb"),
            (true, "91 68766331 000050 aabb", "aabb"),
            (true, "93 68766331 aabb", "aabb"),
            (true, "91 61763031 aabb", "aabb"),
            (true, "90 68766331 aabb", "aabb"),
            (false, "af 01 aabb", "aabb"),
            (false, "2f aabb", "aabb"),
            (false, "91 4f707573 aabb", "aabb"),
        ] {
            assert_eq!(frame(video, hex).data(), bytes(data), "{hex}");
        }
        assert!(data(true, &bytes("17")).is_empty());
    }

    #[test]
    fn hevc_converts_to_the_other_form_and_back() {
        for (legacy, enhanced) in [
            ("1c 00 000000 0101", "90 68766331 0101"),
            ("1c 01 000050 aabb", "91 68766331 000050 aabb"),
            ("2c 01 000000 aabb", "a3 68766331 aabb"),
            ("1c 02 000000", "92 68766331"),
        ] {
            assert_eq!(hevc_enhanced(&bytes(legacy)), bytes(enhanced));
            assert_eq!(hevc_legacy(&bytes(enhanced)), Some(bytes(legacy)));
        }
        assert_eq!(hevc_enhanced(&bytes("17 01 000000 aa")), bytes("17 01 000000 aa"));
        assert_eq!(hevc_legacy(&bytes("91 61763031 aa")), Some(bytes("91 61763031 aa")));
        assert_eq!(hevc_legacy(&bytes("94 68766331 aa")), None);
        assert_eq!(hevc_enhanced(&bytes("1c")), bytes("1c"));
    }

    /// Bodies with plausible heads, so that the deep branches are reached.
    fn any_body() -> impl Strategy<Value = Vec<u8>> {
        let fourcc =
            prop::sample::select(vec![&b"avc1"[..], b"hvc1", b"av01", b"mp4a", b".mp3", b"Opus", b"none", b""]);
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..4), fourcc, prop::collection::vec(any::<u8>(), 0..24))
            .prop_map(|(first, extra, fourcc, data)| [&[first], &extra[..], fourcc, &data].concat())
    }

    proptest! {
        #[test]
        fn no_body_panics_and_normalising_twice_changes_nothing(video: bool, body in any_body()) {
            if let Ok(Reading::Frame(frame)) = read(video, Bytes::from(body)) {
                prop_assert!(frame.nanos < 1_000_000);
                let _ = hevc_legacy(&hevc_enhanced(&frame.payload));
                let again = match read(video, frame.payload.clone()) {
                    Ok(Reading::Frame(again)) => again,
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(again.data(), frame.data());
                prop_assert_eq!(again, Frame { original: None, nanos: 0, ..frame });
            }
        }
    }
}
