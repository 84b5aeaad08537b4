//! Fragmented MP4 (CMAF): initialisation, fragments, and what cuts a stream into them.
//!
//! - [`mod@format`]: what a track is, from its configuration record; [`init`]: the segment that says so.
//! - [`fragment`]: `moof` and `mdat`, written by hand.
//! - [`track`]: milliseconds into ticks without holes, samples into MP4's form.
//! - [`chunker`]: the parts and segments of a stream; [`feed`]: the same without an end, for all who watch it.

mod boxes;
mod source;

pub mod chunker;
pub mod feed;
pub mod format;
pub mod fragment;
pub mod init;
pub mod track;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::format::Format;
    use crate::media::codec::{AudioCodec, VideoCodec, audio_info, video_info};

    /// 1920x1080, High, 25 frames a second.
    pub(super) const AVC_RECORD: &str =
        "01640028ffe1001b67640028acd940780227e5c044000003000400000300c83c60c65801000468ef8fcbfdf8f800";
    pub(super) const AAC_44100: &str = "1210";

    pub(super) fn bytes(hex: &str) -> Bytes {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    pub(super) fn avc() -> Format {
        video(VideoCodec::Avc, AVC_RECORD)
    }

    pub(super) fn aac() -> Format {
        audio(AudioCodec::Aac, AAC_44100)
    }

    pub(super) fn video(codec: VideoCodec, record: &str) -> Format {
        let record = bytes(record);
        Format::video(codec, &record, &video_info(codec, &record).unwrap()).unwrap()
    }

    pub(super) fn audio(codec: AudioCodec, record: &str) -> Format {
        let record = bytes(record);
        Format::audio(codec, &record, &audio_info(codec, &record).unwrap()).unwrap()
    }
}
