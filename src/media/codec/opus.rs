//! Opus: what an OpusHead says.

use super::AudioInfo;

/// RFC 7845, 5.1. The rate of the source, which is also there, means nothing to a decoder: it always puts out 48 kHz.
pub(super) fn info(record: &[u8]) -> Option<AudioInfo> {
    let rest = record.strip_prefix(b"OpusHead")?;
    let &[version, channels, _, _, _, _, _, _, _, _, _, ..] = rest else {
        return None;
    };
    // The upper half of the version is the incompatible part.
    if version >> 4 != 0 || channels == 0 {
        return None;
    }
    Some(AudioInfo { rate: 48_000, channels: Some(channels), profile: "", codec_string: "opus".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    const STEREO: &str = "4f707573486561640102380180bb0000000000";

    #[test]
    fn a_record_of_libopus_is_read() {
        let info = info(&hex(STEREO)).unwrap();
        assert_eq!((info.rate, info.channels, info.codec_string.as_str()), (48_000, Some(2), "opus"));
    }

    #[test]
    fn an_empty_or_damaged_record_says_nothing() {
        assert_eq!(info(&[]), None);
        assert_eq!(info(b"OpusHead\x01\x00\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(info(b"OpusHead\x11\x02\0\0\0\0\0\0\0\0\0"), None);
        hostile(&hex(STEREO), |bytes| drop(info(bytes)));
    }
}
