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

/// RFC 6716, 3.1 and 3.2: how many samples at 48 kHz a packet decodes to. At most 120 ms.
pub fn frame_samples(packet: &[u8]) -> Option<u32> {
    let &toc = packet.first()?;
    let config = toc >> 3;
    let one = match config {
        // SILK: 10, 20, 40, 60 ms. Hybrid: 10, 20. CELT: 2.5, 5, 10, 20.
        0..=11 => *[480, 960, 1920, 2880].get(usize::from(config & 3))?,
        12..=15 => *[480, 960].get(usize::from(config & 1))?,
        _ => 120 << (config & 3),
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    Some(one * count).filter(|samples| (1..=MAX_PACKET_SAMPLES).contains(samples))
}

const MAX_PACKET_SAMPLES: u32 = 5760;

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
    fn the_first_bytes_of_a_packet_tell_its_length() {
        // Of 48 kHz: 20 ms of CELT, two of them, three of them by count; SILK of 60 ms; 2.5 ms.
        for (packet, samples) in [("fc", 960), ("fd", 1920), ("ff03", 2880), ("18", 2880), ("e0", 120), ("68", 960)] {
            assert_eq!(frame_samples(&hex(packet)), Some(samples), "{packet}");
        }
        for packet in ["", "ff", "ff00", "ff3f", "1b03"] {
            assert_eq!(frame_samples(&hex(packet)), None, "{packet}");
        }
    }

    #[test]
    fn an_empty_or_damaged_record_says_nothing() {
        assert_eq!(info(&[]), None);
        assert_eq!(info(b"OpusHead\x01\x00\0\0\0\0\0\0\0\0\0"), None);
        assert_eq!(info(b"OpusHead\x11\x02\0\0\0\0\0\0\0\0\0"), None);
        hostile(&hex(STEREO), |bytes| drop(info(bytes)));
    }
}
