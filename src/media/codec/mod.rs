//! Codecs: their names, and what a configuration record says; one file a codec.
//!
//! Everything here reads bytes a publisher chose, so every read is checked and nothing is sized from what was read.
//! A record that makes no sense costs the description of a stream, never the stream: packets pass through all the same.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

use std::fmt;

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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn hostile_bytes_in_a_fourcc_print_harmlessly() {
        assert_eq!(FourCc([0x1b, b'[', b'2', b'J']).to_string(), "\\x1b[2J");
    }
}
