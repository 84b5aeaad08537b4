//! What a packet of a stream means to a muxer: a codec's own bytes, without the FLV around them.

use bytes::Bytes;

use super::tag::{self, Reading};
use crate::media::codec::{self, AudioCodec, AudioInfo, Codec, VideoCodec, VideoInfo, aac, avc, hevc};
use crate::media::packet::{Packet, PacketKind, Track};

/// A packet as muxers take it. The bytes are the packet's own: nothing is copied.
#[derive(Clone, PartialEq, Debug)]
pub enum MuxInput {
    /// `info` is `None` where the record says nothing or makes no sense. Publishers repeat records: compare.
    VideoConfig {
        codec: VideoCodec,
        record: Bytes,
        info: Option<VideoInfo>,
    },
    /// As for video. The record may be empty (Opus, AC-3); MP3, and old senders of the others, have none at all:
    /// see [`audio_config`].
    AudioConfig {
        codec: AudioCodec,
        record: Bytes,
        info: Option<AudioInfo>,
    },
    Sample(Sample),
    /// Nothing for a muxer: metadata, text, side data, the end of a sequence, another track.
    Other,
}

/// One coded frame: NAL units behind their lengths (H.264, HEVC), a temporal unit (AV1), or the frame as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    pub track: Track,
    pub codec: Codec,
    pub dts_ms: i64,
    /// What to add to get the presentation time. 0 where the publisher's was absurd.
    pub cts_ms: i32,
    /// What the publisher claims; true for audio. Who cuts asks [`Sample::is_random_access`].
    pub key: bool,
    pub data: Bytes,
}

/// `None`: a body nobody can read.
pub fn of(packet: &Packet) -> Option<MuxInput> {
    let video = match packet.track() {
        Track::Video => true,
        Track::Audio => false,
        Track::Data => return Some(MuxInput::Other),
    };
    if packet.is_other_track() {
        return Some(MuxInput::Other);
    }
    let Reading::Frame(frame) = tag::read(video, packet.payload().clone()).ok()? else {
        return Some(MuxInput::Other);
    };
    let data = frame.data();
    Some(match (frame.kind, frame.codec) {
        (PacketKind::Config, Codec::Video(codec)) => {
            let info = codec::video_info(codec, &data);
            MuxInput::VideoConfig { codec, record: data, info }
        }
        (PacketKind::Config, Codec::Audio(codec)) => {
            let info = codec::audio_info(codec, &data);
            MuxInput::AudioConfig { codec, record: data, info }
        }
        (PacketKind::Key | PacketKind::Inter | PacketKind::Disposable | PacketKind::Audio, codec) => {
            let data = if codec == Codec::Audio(AudioCodec::Aac) { without_adts(data) } else { data };
            if data.is_empty() {
                return Some(MuxInput::Other);
            }
            let cts_ms = if frame.cts_ms.unsigned_abs() <= MAX_CTS_MS { frame.cts_ms } else { 0 };
            let key = matches!(frame.kind, PacketKind::Key | PacketKind::Audio);
            MuxInput::Sample(Sample { track: frame.track, codec, dts_ms: packet.time_ms(), cts_ms, key, data })
        }
        _ => MuxInput::Other,
    })
}

/// The configuration of audio whose frames describe themselves (MP3, AC-3, E-AC-3, Opus), made from one frame. The
/// record is the head of the frame, but for Opus, where it is the OpusHead that the publisher left out. `None`: not such
/// a codec, or a frame that makes no sense.
pub fn audio_config(sample: &Sample) -> Option<MuxInput> {
    let Codec::Audio(codec) = sample.codec else {
        return None;
    };
    let (record, info) = match codec {
        AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3 => {
            let head = sample.data.slice(..sample.data.len().min(FRAME_HEAD_BYTES));
            let info = codec::audio_info(codec, &head)?;
            (head, info)
        }
        AudioCodec::Opus => {
            // RFC 6716, 3.1: the third bit from the right is the stereo flag.
            let head = if sample.data.first()? & 0x04 == 0 { OPUS_HEAD_MONO } else { OPUS_HEAD_STEREO };
            (Bytes::from_static(head), codec::audio_info(codec, head)?)
        }
        AudioCodec::Aac | AudioCodec::Flac | AudioCodec::Flv(_) | AudioCodec::Other(_) => return None,
    };
    Some(MuxInput::AudioConfig { codec, record, info: Some(info) })
}

/// How many bytes the length of a NAL unit takes, for codecs made of such; `None` for the others and for a record that
/// makes no sense.
pub fn nal_length_size(codec: VideoCodec, record: &[u8]) -> Option<usize> {
    match codec {
        VideoCodec::Avc => avc::length_size(record),
        VideoCodec::Hevc => hevc::length_size(record),
        _ => None,
    }
}

impl Sample {
    pub fn pts_ms(&self) -> i64 {
        self.dts_ms.saturating_add(self.cts_ms.into())
    }

    /// Whether decoding can start here, whatever the publisher's flag says: H.264 and HEVC are looked into.
    /// `length_size` is what [`nal_length_size`] told of the track's record.
    pub fn is_random_access(&self, length_size: Option<usize>) -> bool {
        match (self.codec, length_size) {
            (Codec::Video(VideoCodec::Avc), Some(size)) => self.key && avc::has_idr(&self.data, size),
            (Codec::Video(VideoCodec::Hevc), Some(size)) => self.key && hevc::has_irap(&self.data, size),
            _ => self.key,
        }
    }
}

/// An ADTS header does not belong inside FLV, and no container here takes it. A raw frame cannot begin like one: it
/// would be an end without anything before it.
fn without_adts(frame: Bytes) -> Bytes {
    if !aac::is_adts(&frame) {
        return frame;
    }
    // A clear last bit of the second byte means that a checksum follows.
    let header = if frame.get(1).is_some_and(|second| second & 1 == 0) { 9 } else { 7 };
    if frame.len() > header { frame.slice(header..) } else { Bytes::new() }
}

/// No encoder reorders over more than a second or two; the field has room for hours.
const MAX_CTS_MS: u32 = 10_000;

/// More than the headers that are read from it.
const FRAME_HEAD_BYTES: usize = 16;

/// Version 1, one channel, a pre-skip of 312 samples as libopus has at 48 kHz, no gain, mapping family 0.
const OPUS_HEAD_MONO: &[u8] = b"OpusHead\x01\x01\x38\x01\x80\xbb\x00\x00\x00\x00\x00";
const OPUS_HEAD_STEREO: &[u8] = b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Bytes {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// As a stream hands it on: normalised, at 1000 ms.
    fn input(video: bool, hex: &str) -> MuxInput {
        let Ok(Reading::Frame(frame)) = tag::read(video, bytes(hex)) else { panic!("{hex}") };
        of(&Packet::new(frame.track, frame.kind, 1000, frame.payload)).unwrap()
    }

    fn sample(video: bool, hex: &str) -> Sample {
        match input(video, hex) {
            MuxInput::Sample(sample) => sample,
            other => panic!("{hex}: {other:?}"),
        }
    }

    fn check_sample(video: bool, hex: &str, codec: Codec, key: bool, cts_ms: i32, data: &str) {
        let track = if video { Track::Video } else { Track::Audio };
        let expected = Sample { track, codec, dts_ms: 1000, cts_ms, key, data: bytes(data) };
        assert_eq!(sample(video, hex), expected, "{hex}");
    }

    fn record(video: bool, hex: &str) -> (Codec, Bytes, bool) {
        match input(video, hex) {
            MuxInput::VideoConfig { codec, record, info } => (Codec::Video(codec), record, info.is_some()),
            MuxInput::AudioConfig { codec, record, info } => (Codec::Audio(codec), record, info.is_some()),
            other => panic!("{hex}: {other:?}"),
        }
    }

    #[test]
    fn a_frame_of_each_codec_is_its_own_bytes() {
        let video = |hex, codec, key, cts, data| check_sample(true, hex, Codec::Video(codec), key, cts, data);
        video("17 01 000050 00000001 65", VideoCodec::Avc, true, 80, "0000000165");
        video("27 01 ffffd8 00000001 41", VideoCodec::Avc, false, -40, "0000000141");
        video("37 01 000000 00000001 01", VideoCodec::Avc, false, 0, "0000000101");
        video("91 68766331 000050 00000001 26", VideoCodec::Hevc, true, 80, "0000000126");
        video("a3 68766331 00000001 02", VideoCodec::Hevc, false, 0, "0000000102");
        video("2c 01 000028 0000000102", VideoCodec::Hevc, false, 40, "0000000102");
        video("91 61763031 0a0b0c0d", VideoCodec::Av1, true, 0, "0a0b0c0d");
        video("a1 76703039 8601", VideoCodec::Vp9, false, 0, "8601");
        let audio = |hex, codec, data| check_sample(false, hex, Codec::Audio(codec), true, 0, data);
        audio("af 01 2110", AudioCodec::Aac, "2110");
        audio("2f fffb90", AudioCodec::Mp3, "fffb90");
        audio("91 4f707573 f89e", AudioCodec::Opus, "f89e");
        audio("91 664c6143 fff8", AudioCodec::Flac, "fff8");
        audio("91 61632d33 0b77", AudioCodec::Ac3, "0b77");
        audio("91 65632d33 0b77", AudioCodec::Eac3, "0b77");
    }

    #[test]
    fn a_configuration_is_its_record_and_what_it_says() {
        let (avc, hevc) = (Codec::Video(VideoCodec::Avc), Codec::Video(VideoCodec::Hevc));
        assert_eq!(record(true, "17 00 000000 0142c01effe1"), (avc, bytes("0142c01effe1"), true));
        assert_eq!(record(true, "1c 00 000000 0101"), (hevc, bytes("0101"), false));
        assert_eq!(record(true, "90 68766331 0101"), (hevc, bytes("0101"), false));
        assert_eq!(record(false, "af 00 1210"), (Codec::Audio(AudioCodec::Aac), bytes("1210"), true));
        assert_eq!(record(false, "90 61632d33"), (Codec::Audio(AudioCodec::Ac3), Bytes::new(), false));
    }

    #[test]
    fn what_is_no_media_is_nothing_for_a_muxer() {
        for (video, hex) in [(true, "17 02 000000"), (true, "d4 68766331 02 0009 636f"), (false, "94 4f707573 0101")] {
            assert_eq!(input(video, hex), MuxInput::Other, "{hex}");
        }
        let data = Packet::new(Track::Data, PacketKind::Metadata, 0, bytes("02"));
        let other = Packet::new(Track::Video, PacketKind::OtherTrack, 0, bytes("a6 01 61766331 01 0000a0 41"));
        assert_eq!([of(&data), of(&other)], [Some(MuxInput::Other), Some(MuxInput::Other)]);
        assert_eq!(of(&Packet::new(Track::Video, PacketKind::Key, 0, bytes("17"))), None);
    }

    #[test]
    fn an_absurd_composition_time_is_none() {
        assert_eq!(sample(true, "27 01 002710 41").cts_ms, 10_000);
        assert_eq!(sample(true, "27 01 002711 41").cts_ms, 0);
        assert_eq!(sample(true, "27 01 800000 41").cts_ms, 0);
    }

    #[test]
    fn an_adts_header_inside_flv_is_taken_off() {
        assert_eq!(sample(false, "af 01 fff15080013ffc 2110").data, bytes("2110"));
        assert_eq!(sample(false, "af 01 fff05080013ffcaabb 2110").data, bytes("2110"));
        assert_eq!(input(false, "af 01 fff15080013ffc"), MuxInput::Other);
    }

    #[test]
    fn audio_without_a_record_is_known_by_its_first_frame() {
        for (hex, rate, channels, string) in [
            ("2f fffb9064", 44_100, 2, "mp4a.40.34"),
            ("91 4f707573 fc9e", 48_000, 2, "opus"),
            ("91 4f707573 f89e", 48_000, 1, "opus"),
        ] {
            let Some(MuxInput::AudioConfig { info: Some(info), .. }) = audio_config(&sample(false, hex)) else {
                panic!("{hex}");
            };
            assert_eq!((info.rate, info.channels, &*info.codec_string), (rate, Some(channels), string));
        }
        assert_eq!(audio_config(&sample(false, "af 01 2110")), None);
        assert_eq!(audio_config(&sample(true, "17 01 000000 65")), None);
    }

    #[test]
    fn a_keyframe_flag_without_an_idr_is_no_place_to_start() {
        let starts = |hex| sample(true, hex).is_random_access(Some(4));
        assert!(starts("17 01 000000 00000001 65"));
        assert!(!starts("17 01 000000 00000001 41"));
        assert!(!starts("27 01 000000 00000001 65"));
        assert!(starts("93 68766331 00000001 26"));
        assert!(!starts("93 68766331 00000001 02"));
        assert!(starts("91 61763031 0a0b"));
        assert_eq!(nal_length_size(VideoCodec::Avc, &bytes("0142c01effe1")), Some(4));
        assert_eq!(nal_length_size(VideoCodec::Av1, &bytes("81000c00")), None);
    }

    proptest! {
        #[test]
        fn no_body_panics(video: bool, time in any::<i64>(), body in prop::collection::vec(any::<u8>(), 0..24)) {
            let (track, kind) = if video { (Track::Video, PacketKind::Key) } else { (Track::Audio, PacketKind::Audio) };
            let packet = Packet::new(track, kind, time, Bytes::from(body));
            if let Some(MuxInput::Sample(sample)) = of(&packet) {
                prop_assert!(!sample.data.is_empty() && sample.data.len() < packet.len());
                let _ = (audio_config(&sample), sample.is_random_access(Some(4)), sample.pts_ms());
            }
        }
    }
}
