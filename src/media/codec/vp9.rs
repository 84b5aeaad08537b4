//! VP9: what a `vpcC` record says, which is not the size of the picture.

use super::VideoInfo;

pub(super) fn info(record: &[u8]) -> Option<VideoInfo> {
    // A full box's version, 1 since that is what ever was in use, and flags.
    let &[1, _, _, _, profile, level, depth, ..] = record else {
        return None;
    };
    let bit_depth = depth >> 4;
    if profile > 3 || !matches!(bit_depth, 8 | 10 | 12) {
        return None;
    }
    Some(VideoInfo {
        width: 0,
        height: 0,
        fps: None,
        interlaced: false,
        bit_depth,
        profile: match profile {
            0 => "Profile 0",
            1 => "Profile 1",
            2 => "Profile 2",
            _ => "Profile 3",
        },
        compatibility: 0,
        level: f32::from(level) / 10.0,
        codec_string: format!("vp09.{profile:02}.{level:02}.{bit_depth:02}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::hex;

    #[test]
    fn a_record_of_libvpx_is_read() {
        let read = info(&hex("010000000015820202020000")).unwrap();
        assert_eq!((read.codec_string.as_str(), read.bit_depth, read.level), ("vp09.00.21.08", 8, 2.1));
        assert_eq!((read.width, read.height), (0, 0));
    }

    #[test]
    fn a_short_or_absurd_record_says_nothing() {
        assert_eq!(info(&hex("0100000000")), None);
        assert_eq!(info(&hex("010000000915820202020000")), None);
        assert_eq!(info(&hex("0100000000150202020200")), None);
    }
}
