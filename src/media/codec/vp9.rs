//! VP9: what a `vpcC` record says, which is not the size of the picture.

use super::bits::BitReader;
use super::{MAX_DIMENSION, VideoInfo};

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

/// Width and height, which only a keyframe tells (VP9 bitstream specification, 6.2). `None` for other frames.
pub fn frame_size(frame: &[u8]) -> Option<(u32, u32)> {
    let mut bits = BitReader::new(frame);
    if bits.bits(2)? != 2 {
        return None;
    }
    let profile = bits.bits(1)? + 2 * bits.bits(1)?;
    if profile == 3 {
        bits.skip(1)?;
    }
    // A repetition of an earlier frame; a frame that is none for starting at (1 means inter here).
    if bits.flag()? || bits.flag()? {
        return None;
    }
    bits.skip(2)?;
    if bits.bits(24)? != SYNC {
        return None;
    }
    if profile >= 2 {
        bits.skip(1)?;
    }
    let rgb = bits.bits(3)? == 7;
    let odd = profile & 1 == 1;
    bits.skip(match (rgb, odd) {
        (false, false) => 1,
        (false, true) => 4,
        (true, false) => 0,
        (true, true) => 1,
    })?;
    let (width, height) = (bits.bits(16)? + 1, bits.bits(16)? + 1);
    (width <= MAX_DIMENSION && height <= MAX_DIMENSION).then_some((width, height))
}

const SYNC: u32 = 0x0049_8342;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    #[test]
    fn a_record_of_libvpx_is_read() {
        let read = info(&hex("010000000015820202020000")).unwrap();
        assert_eq!((read.codec_string.as_str(), read.bit_depth, read.level), ("vp09.00.21.08", 8, 2.1));
        assert_eq!((read.width, read.height), (0, 0));
    }

    #[test]
    fn a_keyframe_tells_the_size() {
        // Profile 0 of 320x180 as libvpx writes it: marker, key, shown, sync, colours.
        let key = hex("82 498342 0013f00b30");
        assert_eq!(frame_size(&key), Some((320, 180)));
        for frame in ["", "86", "82498342", "82498343 0013f00b30", "02498342 0013f00b30"] {
            assert_eq!(frame_size(&hex(frame)), None, "{frame}");
        }
        hostile(&key, |bytes| {
            let _ = frame_size(bytes);
        });
    }

    #[test]
    fn a_short_or_absurd_record_says_nothing() {
        assert_eq!(info(&hex("0100000000")), None);
        assert_eq!(info(&hex("010000000915820202020000")), None);
        assert_eq!(info(&hex("0100000000150202020200")), None);
    }
}
