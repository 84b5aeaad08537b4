//! Codecs: their names, and what a configuration record says; one file a codec.
//!
//! Everything here reads bytes a publisher chose, so every read is checked and nothing is sized from what was read.
//! A record that makes no sense costs the description of a stream, never the stream: packets pass through all the same.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

mod bits;

pub mod aac;
pub mod ac3;
pub mod av1;
pub mod avc;
pub mod flac;
pub mod hevc;
pub mod mp3;
pub mod nal;
pub mod opus;
pub mod vp9;

use std::fmt;

use self::bits::BitReader;

/// What the frames of a track are encoded with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    Video(VideoCodec),
    Audio(AudioCodec),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VideoCodec {
    Avc,
    Hevc,
    Av1,
    Vp8,
    Vp9,
    Vvc,
    /// One of FLV's own numbers that has no configuration record: H.263, Screen, VP6.
    Flv(u8),
    /// A FourCC nobody here knows. It is passed on as it came.
    Other(FourCc),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AudioCodec {
    Aac,
    Mp3,
    Opus,
    Flac,
    Ac3,
    Eac3,
    /// One of FLV's own numbers that has no configuration record: PCM, Speex, Nellymoser.
    Flv(u8),
    /// A FourCC nobody here knows. It is passed on as it came.
    Other(FourCc),
}

/// What a configuration record says about the picture.
#[derive(Clone, PartialEq, Debug)]
pub struct VideoInfo {
    /// As shown, after cropping. 0 where the record does not tell, or what it tells is absurd.
    pub width: u32,
    pub height: u32,
    pub fps: Option<f32>,
    /// Frames may be made of two fields.
    pub interlaced: bool,
    pub bit_depth: u8,
    /// In words; empty for an unusual one.
    pub profile: &'static str,
    /// H.264's constraint flags; 0 for the others.
    pub compatibility: u8,
    /// As people write it: 3.1.
    pub level: f32,
    /// For a playlist's CODECS attribute and `MediaSource.isTypeSupported`.
    pub codec_string: String,
}

/// What a configuration record, or a frame that describes itself, says about the sound.
#[derive(Clone, PartialEq, Debug)]
pub struct AudioInfo {
    /// Samples a second that come out of the decoder.
    pub rate: u32,
    /// `None` where the record describes the layout at length instead.
    pub channels: Option<u8>,
    /// As nginx-rtmp spells it: LC, HE, HEv2; empty where a codec has none.
    pub profile: &'static str,
    pub codec_string: String,
}

/// Reads a video configuration record. `None`: this codec's record says nothing, or this one makes no sense.
pub fn video_info(codec: VideoCodec, record: &[u8]) -> Option<VideoInfo> {
    match codec {
        VideoCodec::Avc => avc::info(record),
        VideoCodec::Hevc => hevc::info(record),
        VideoCodec::Av1 => av1::info(record),
        VideoCodec::Vp9 => vp9::info(record),
        // VP8 and VVC: what can be learned is not worth a parser until something asks for it.
        VideoCodec::Vp8 | VideoCodec::Vvc | VideoCodec::Flv(_) | VideoCodec::Other(_) => None,
    }
}

/// Reads an audio configuration record. MP3, AC-3 and E-AC-3 have none: for them a frame is read.
pub fn audio_info(codec: AudioCodec, record: &[u8]) -> Option<AudioInfo> {
    match codec {
        AudioCodec::Aac => aac::info(record),
        AudioCodec::Opus => opus::info(record),
        AudioCodec::Flac => flac::info(record),
        AudioCodec::Mp3 => mp3::info(record),
        AudioCodec::Ac3 | AudioCodec::Eac3 => ac3::info(record),
        AudioCodec::Flv(_) | AudioCodec::Other(_) => None,
    }
}

/// How many samples a frame decodes to, at the rate that [`AudioInfo`] names. `None`: the frame makes no sense, or nobody
/// here knows the codec.
pub fn audio_frame_samples(codec: AudioCodec, record: &[u8], frame: &[u8]) -> Option<u32> {
    match codec {
        AudioCodec::Aac => aac::parse(record)?.output_samples(),
        AudioCodec::Opus => opus::frame_samples(frame),
        AudioCodec::Flac => flac::frame_samples(frame),
        AudioCodec::Mp3 => mp3::frame_samples(frame),
        AudioCodec::Ac3 | AudioCodec::Eac3 => ac3::parse(frame).map(|header| header.samples),
        AudioCodec::Flv(_) | AudioCodec::Other(_) => None,
    }
}

/// Four characters that name a codec.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

impl Codec {
    /// The name an operator knows, as nginx-rtmp's statistics spell it where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Video(codec) => codec.name(),
            Self::Audio(codec) => codec.name(),
        }
    }

    /// `None` for what only FLV's old numbers name.
    pub fn fourcc(self) -> Option<FourCc> {
        match self {
            Self::Video(codec) => codec.fourcc(),
            Self::Audio(codec) => codec.fourcc(),
        }
    }
}

impl VideoCodec {
    pub fn from_fourcc(fourcc: FourCc) -> Self {
        match &fourcc.0 {
            b"avc1" => Self::Avc,
            b"hvc1" => Self::Hevc,
            b"av01" => Self::Av1,
            b"vp08" => Self::Vp8,
            b"vp09" => Self::Vp9,
            b"vvc1" => Self::Vvc,
            _ => Self::Other(fourcc),
        }
    }

    pub fn fourcc(self) -> Option<FourCc> {
        Some(FourCc(match self {
            Self::Avc => *b"avc1",
            Self::Hevc => *b"hvc1",
            Self::Av1 => *b"av01",
            Self::Vp8 => *b"vp08",
            Self::Vp9 => *b"vp09",
            Self::Vvc => *b"vvc1",
            Self::Flv(_) => return None,
            Self::Other(fourcc) => return Some(fourcc),
        }))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Avc => "H264",
            Self::Hevc => "H265",
            Self::Av1 => "AV1",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::Vvc => "H266",
            Self::Flv(1) => "Jpeg",
            Self::Flv(2) => "Sorenson-H263",
            Self::Flv(3) => "ScreenVideo",
            Self::Flv(4) => "On2-VP6",
            Self::Flv(5) => "On2-VP6-Alpha",
            Self::Flv(6) => "ScreenVideo2",
            Self::Flv(_) | Self::Other(_) => "unknown",
        }
    }
}

impl AudioCodec {
    pub fn from_fourcc(fourcc: FourCc) -> Self {
        match &fourcc.0 {
            b"mp4a" => Self::Aac,
            b".mp3" => Self::Mp3,
            b"Opus" => Self::Opus,
            b"fLaC" => Self::Flac,
            b"ac-3" => Self::Ac3,
            b"ec-3" => Self::Eac3,
            _ => Self::Other(fourcc),
        }
    }

    pub fn fourcc(self) -> Option<FourCc> {
        Some(FourCc(match self {
            Self::Aac => *b"mp4a",
            Self::Mp3 => *b".mp3",
            Self::Opus => *b"Opus",
            Self::Flac => *b"fLaC",
            Self::Ac3 => *b"ac-3",
            Self::Eac3 => *b"ec-3",
            Self::Flv(_) => return None,
            Self::Other(fourcc) => return Some(fourcc),
        }))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Aac => "AAC",
            Self::Mp3 => "MP3",
            Self::Opus => "Opus",
            Self::Flac => "FLAC",
            Self::Ac3 => "AC-3",
            Self::Eac3 => "E-AC-3",
            Self::Flv(0) => "PCM",
            Self::Flv(1) => "ADPCM",
            Self::Flv(3) => "LinearLE",
            Self::Flv(4) => "Nellymoser16",
            Self::Flv(5) => "Nellymoser8",
            Self::Flv(6) => "Nellymoser",
            Self::Flv(7) => "G711A",
            Self::Flv(8) => "G711U",
            Self::Flv(11) => "Speex",
            Self::Flv(15) => "DeviceSpecific",
            Self::Flv(_) | Self::Other(_) => "unknown",
        }
    }
}

impl FourCc {
    /// The number onMetaData's `videocodecid` and `audiocodecid` carry for this codec.
    pub fn number(self) -> u32 {
        u32::from_be_bytes(self.0)
    }
}

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FourCc({self})")
    }
}

/// What a sequence parameter set says.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Picture {
    width: u32,
    height: u32,
    fps: Option<f32>,
    interlaced: bool,
    bit_depth: u8,
}

impl Default for Picture {
    fn default() -> Self {
        Self { width: 0, height: 0, fps: None, interlaced: false, bit_depth: 8 }
    }
}

/// The start of the video usability information, which H.264 and H.265 have in common.
fn skip_vui_to_timing(bits: &mut BitReader<'_>) -> Option<()> {
    // Aspect ratio, of which 255 is one that is spelled out.
    if bits.flag()? && bits.byte()? == 255 {
        bits.skip(32)?;
    }
    // Overscan.
    if bits.flag()? {
        bits.skip(1)?;
    }
    // Signal type and colour description.
    if bits.flag()? {
        bits.skip(4)?;
        if bits.flag()? {
            bits.skip(24)?;
        }
    }
    // Chroma sample location.
    if bits.flag()? {
        bits.ue()?;
        bits.ue()?;
    }
    Some(())
}

/// Ticks a second, where they are given.
fn read_timing(bits: &mut BitReader<'_>) -> Option<f32> {
    if !bits.flag()? {
        return None;
    }
    let (units, scale) = (bits.bits(32)?, bits.bits(32)?);
    rate(scale, units)
}

/// `None` for rates that no camera has.
fn rate(scale: u32, units: u32) -> Option<f32> {
    let rate = f64::from(scale) / f64::from(units);
    (rate > 0.0 && rate <= MAX_RATE).then_some(rate as f32)
}

/// 16K. Larger pictures are a mistake or an attack.
const MAX_DIMENSION: u32 = 16_384;
const MAX_RATE: f64 = 2000.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(super) fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    /// Bits as text, spaces between them ignored, filled up with zeros.
    pub(super) fn binary(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').map(|byte| byte - b'0').collect();
        digits.chunks(8).map(|eight| (0..8).fold(0, |sum, at| sum << 1 | eight.get(at).unwrap_or(&0))).collect()
    }

    /// An unsigned Exp-Golomb number as text.
    pub(super) fn golomb(value: u32) -> String {
        let plain = format!("{:b}", u64::from(value) + 1);
        "0".repeat(plain.len() - 1) + &plain
    }

    /// Feeds `read` every prefix of a good record, and the record with each bit flipped and each byte saturated.
    pub(super) fn hostile(record: &[u8], read: impl Fn(&[u8])) {
        for end in 0..=record.len() {
            read(&record[..end]);
        }
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            for bit in 0..8 {
                damaged[at] = record[at] ^ 1 << bit;
                read(&damaged);
            }
            for value in [0, 0xff] {
                damaged[at..].fill(value);
                read(&damaged);
                damaged.copy_from_slice(record);
            }
        }
    }

    #[test]
    fn a_rate_no_camera_has_is_not_believed() {
        assert_eq!(rate(50, 2), Some(25.0));
        assert_eq!([rate(0, 1), rate(1, 0), rate(0, 0), rate(u32::MAX, 1)], [None; 4]);
    }

    #[test]
    fn a_fourcc_and_its_codec_name_each_other() {
        for text in [b"avc1", b"hvc1", b"av01", b"vp08", b"vp09", b"vvc1", b"zzzz"] {
            assert_eq!(VideoCodec::from_fourcc(FourCc(*text)).fourcc(), Some(FourCc(*text)));
        }
        for text in [b"mp4a", b".mp3", b"Opus", b"fLaC", b"ac-3", b"ec-3", b"zzzz"] {
            assert_eq!(AudioCodec::from_fourcc(FourCc(*text)).fourcc(), Some(FourCc(*text)));
        }
    }

    #[test]
    fn the_number_in_metadata_is_the_fourcc_in_big_endian() {
        assert_eq!(FourCc(*b"av01").number(), 1_635_135_537);
        assert_eq!(FourCc(*b"Opus").number(), 1_332_770_163);
    }

    proptest! {
        #[test]
        fn no_record_panics_or_claims_an_absurd_picture(first in 0_u8..0x90, rest: Vec<u8>) {
            let record = [&[first][..], &rest].concat();
            for codec in [VideoCodec::Avc, VideoCodec::Hevc, VideoCodec::Av1, VideoCodec::Vp9] {
                if let Some(info) = video_info(codec, &record) {
                    prop_assert!(info.width <= MAX_DIMENSION && info.height <= MAX_DIMENSION);
                }
            }
            for codec in [AudioCodec::Aac, AudioCodec::Opus, AudioCodec::Flac, AudioCodec::Mp3, AudioCodec::Ac3] {
                if let Some(info) = audio_info(codec, &record) {
                    prop_assert!(info.rate > 0 && info.channels != Some(0));
                }
            }
        }
    }

    #[test]
    fn hostile_bytes_in_a_fourcc_print_harmlessly() {
        assert_eq!(FourCc([0x1b, b'[', b'2', b'J']).to_string(), "\\x1b[2J");
    }
}
