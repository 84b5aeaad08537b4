//! MP3: what a frame's own header says, since there is no record.

use super::AudioInfo;

/// ISO/IEC 11172-3, 2.4.1.3, and the lower rates of 13818-3 and MPEG 2.5.
pub(super) fn info(frame: &[u8]) -> Option<AudioInfo> {
    let &[0xff, second, third, fourth, ..] = frame else {
        return None;
    };
    if second & 0xe0 != 0xe0 {
        return None;
    }
    let rate = *[44_100, 48_000, 32_000].get(usize::from(third >> 2 & 3))?;
    let rate = match second >> 3 & 3 {
        0 => rate / 4,
        2 => rate / 2,
        3 => rate,
        _ => return None,
    };
    // Layers count backwards; object types 32, 33 and 34 are the three layers.
    let object_type = match second >> 1 & 3 {
        1 => 34,
        2 => 33,
        3 => 32,
        _ => return None,
    };
    // 15 is no bit rate.
    if third >> 4 == 15 {
        return None;
    }
    let channels = if fourth >> 6 == 3 { 1 } else { 2 };
    Some(AudioInfo { rate, channels: Some(channels), profile: "", codec_string: format!("mp4a.40.{object_type}") })
}

/// How many samples a frame holds.
pub fn frame_samples(frame: &[u8]) -> Option<u32> {
    let &[0xff, second, ..] = frame else {
        return None;
    };
    let full_rate = second >> 3 & 3 == 3;
    match second >> 1 & 3 {
        1 if full_rate => Some(1152),
        1 => Some(576),
        2 => Some(1152),
        3 => Some(384),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::hex;

    #[test]
    fn frames_describe_themselves() {
        for (frame, rate, channels, codec) in [
            ("fffb9064", 44_100, 2, "mp4a.40.34"),
            ("fffb94c4", 48_000, 1, "mp4a.40.34"),
            ("fff390c4", 22_050, 1, "mp4a.40.34"),
            ("ffe39064", 11_025, 2, "mp4a.40.34"),
            ("fffd9064", 44_100, 2, "mp4a.40.33"),
        ] {
            let info = info(&hex(frame)).unwrap();
            assert_eq!(frame_samples(&hex(frame)), Some(if rate >= 32_000 { 1152 } else { 576 }));
            assert_eq!(
                (info.rate, info.channels, info.codec_string.as_str()),
                (rate, Some(channels), codec),
                "{frame}"
            );
        }
    }

    #[test]
    fn other_bytes_are_no_frame() {
        for frame in ["", "fffb90", "fffb9c64", "fffbf064", "ffeb9064", "fff99064", "494433"] {
            assert_eq!(info(&hex(frame)), None, "{frame}");
        }
    }
}
