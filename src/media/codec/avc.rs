//! H.264: what an `avcC` record says.

use super::bits::BitReader;
use super::{MAX_DIMENSION, Picture, VideoInfo, nal};

pub(super) fn info(record: &[u8]) -> Option<VideoInfo> {
    let &[1, profile, constraints, level, _, sps_count, ..] = record else {
        return None;
    };
    let picture = if sps_count & 0x1f > 0 { first_sps(record).and_then(parse_sps) } else { None }.unwrap_or_default();
    Some(VideoInfo {
        width: picture.width,
        height: picture.height,
        fps: picture.fps,
        interlaced: picture.interlaced,
        bit_depth: picture.bit_depth,
        profile: match profile {
            66 => "Baseline",
            77 => "Main",
            88 => "Extended",
            100 => "High",
            110 => "High 10",
            122 => "High 4:2:2",
            244 => "High 4:4:4",
            _ => "",
        },
        compatibility: constraints,
        level: f32::from(level) / 10.0,
        codec_string: format!("avc1.{profile:02x}{constraints:02x}{level:02x}"),
    })
}

/// How many bytes the lengths of NAL units take.
pub fn length_size(record: &[u8]) -> Option<usize> {
    let &[1, _, _, _, byte, ..] = record else {
        return None;
    };
    Some(usize::from(byte & 3) + 1).filter(|size| *size != 3)
}

/// Whether decoding can start at this access unit whatever came before. FLV's keyframe flag does not promise it:
/// streams with intra refresh set it at recovery points, and some encoders at every frame.
pub fn has_idr(access_unit: &[u8], length_size: usize) -> bool {
    nal::units(access_unit, length_size).any(|unit| unit.first().is_some_and(|header| header & 0x1f == 5))
}

fn first_sps(record: &[u8]) -> Option<&[u8]> {
    let (&[high, low], rest) = record.get(6..)?.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes([high, low])))
}

/// ISO/IEC 14496-10, 7.3.2.1.1.
fn parse_sps(unit: &[u8]) -> Option<Picture> {
    let rbsp = nal::unescaped(unit);
    let mut bits = BitReader::new(&rbsp);
    let header = bits.byte()?;
    if header & 0x1f != 7 {
        return None;
    }
    let profile = bits.byte()?;
    bits.skip(16)?;
    bits.ue_up_to(31)?;
    let (mut chroma_format, mut separate_planes, mut bit_depth) = (1, false, 8);
    if HAS_CHROMA_FORMAT.contains(&profile) {
        chroma_format = bits.ue_up_to(3)?;
        separate_planes = chroma_format == 3 && bits.flag()?;
        bit_depth = 8 + u8::try_from(bits.ue_up_to(6)?).ok()?;
        bits.ue_up_to(6)?;
        bits.skip(1)?;
        if bits.flag()? {
            for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                if bits.flag()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.ue_up_to(12)?;
    match bits.ue_up_to(2)? {
        0 => {
            bits.ue_up_to(12)?;
        }
        1 => {
            bits.skip(1)?;
            bits.skip_se()?;
            bits.skip_se()?;
            for _ in 0..bits.ue_up_to(255)? {
                bits.skip_se()?;
            }
        }
        _ => {}
    }
    bits.ue()?;
    bits.skip(1)?;
    let columns = bits.ue_up_to(MAX_DIMENSION / 16 - 1)? + 1;
    let rows = bits.ue_up_to(MAX_DIMENSION / 16 - 1)? + 1;
    let frames_only = bits.flag()?;
    if !frames_only {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    let fields = if frames_only { 1 } else { 2 };
    let (mut width, mut height) = (columns * 16, rows * 16 * fields);
    if bits.flag()? {
        let (unit_x, unit_y) = match chroma_format {
            1 if !separate_planes => (2, 2 * fields),
            2 if !separate_planes => (2, fields),
            _ => (1, fields),
        };
        let mut crop = |unit: u32| bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit);
        width = width.checked_sub(crop(unit_x)?)?;
        height = height.checked_sub(crop(unit_y)?)?;
    }
    if width == 0 || height == 0 || height > MAX_DIMENSION {
        return None;
    }
    // Encoders count fields, two to a frame.
    let fps = frame_rate(&mut bits).map(|rate| rate / 2.0);
    Some(Picture { width, height, fps, interlaced: !frames_only, bit_depth })
}

/// Time scale by tick, where the usability information has them.
fn frame_rate(bits: &mut BitReader<'_>) -> Option<f32> {
    if !bits.flag()? {
        return None;
    }
    super::skip_vui_to_timing(bits)?;
    super::read_timing(bits)
}

fn skip_scaling_list(bits: &mut BitReader<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..size {
        if next != 0 {
            let code = i64::from(bits.ue()?);
            let delta = if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 };
            next = (last + delta).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// Profiles whose parameter sets tell the chroma format and bit depth.
const HAS_CHROMA_FORMAT: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{binary, golomb, hex, hostile};

    /// Width, height, frame rate, interlaced, profile, level and codec string of an encoder's record.
    fn check(record: &str, expected: (u32, u32, Option<f32>, bool, &str, f32, &str)) {
        let info = info(&hex(record)).unwrap();
        let read =
            (info.width, info.height, info.fps, info.interlaced, info.profile, info.level, info.codec_string.as_str());
        assert_eq!(read, expected, "{record}");
    }

    const FULL_HD: &str =
        "01640028ffe1001b67640028acd940780227e5c044000003000400000300c83c60c65801000468ef8fcbfdf8f800";

    #[test]
    fn records_of_x264_are_read() {
        check(FULL_HD, (1920, 1080, Some(25.0), false, "High", 4.0, "avc1.640028"));
        check(
            "0142c028ffe100196742c028da01e0089f97011000000300100000030320f1832a01000468ce0fc8",
            (1920, 1080, Some(25.0), false, "Baseline", 4.0, "avc1.42c028"),
        );
        check(
            "014d401fffe10017674d401feca06c1ef37808800001f480007530078c18cb01000468ef8fc8",
            (854, 480, Some(29.97003), false, "Main", 3.1, "avc1.4d401f"),
        );
        check(
            "0142c01effe100196742c01eda0280bfe5c044000003000400000300c83c58ba8001000468ce0fc8",
            (640, 360, Some(25.0), false, "Baseline", 3.0, "avc1.42c01e"),
        );
        check(
            "01640028ffe1001a67640028acd94078044fde0220000003002000000643e2c5b2c001000468fe8fcbfdf8f800",
            (1920, 1080, Some(25.0), true, "High", 4.0, "avc1.640028"),
        );
        check(
            "017a001effe1001b677a001eb6cd940a42fe227c0440000003004000000c83c58b658001000468ef8fcbfefafa00",
            (642, 362, Some(25.0), false, "High 4:2:2", 3.0, "avc1.7a001e"),
        );
    }

    #[test]
    fn bit_depth_is_that_of_luma() {
        let depth = |record: &str| info(&hex(record)).unwrap().bit_depth;
        assert_eq!(depth(FULL_HD), 8);
        assert_eq!(
            depth("017a001effe1001b677a001eb6cd940a42fe227c0440000003004000000c83c58b658001000468ef8fcbfefafa00"),
            10
        );
    }

    #[test]
    fn without_a_parameter_set_the_profile_is_still_known() {
        for record in ["01640028ffe0", "01640028ffe1", "01640028ffe1ffff67", "01640028ffe1000267"] {
            check(record, (0, 0, None, false, "High", 4.0, "avc1.640028"));
        }
        assert_eq!(info(&hex("00640028ffe0")), None);
        assert_eq!(info(&[]), None);
    }

    /// A baseline parameter set of this many macroblocks less one each way, and this cropping on the right.
    fn sized(columns: u32, rows: u32, crop: u32) -> Option<(u32, u32)> {
        let start = hex("67 42c028");
        let rest = format!("1 1 011 1 0 {} {} 1 0 1 1 {} 1 1 0 1", golomb(columns), golomb(rows), golomb(crop));
        parse_sps(&[start, binary(&rest)].concat()).map(|picture| (picture.width, picture.height))
    }

    #[test]
    fn absurd_parameter_sets_have_no_size() {
        assert_eq!(sized(119, 67, 0), Some((1920, 1088)));
        assert_eq!(sized(1023, 1023, 0), Some((16_384, 16_384)));
        assert_eq!(sized(1024, 67, 0), None);
        assert_eq!(sized(65_535, 65_535, 0), None);
        assert_eq!(sized(119, 67, 959), Some((2, 1088)));
        assert_eq!(sized(119, 67, 960), None);
        assert_eq!(sized(119, 67, u32::MAX - 2), None);
    }

    #[test]
    fn an_idr_is_told_from_a_keyframe_flag_without_one() {
        assert!(has_idr(&hex("00000002 0605 00000002 6588"), 4));
        assert!(!has_idr(&hex("00000002 0605 00000002 4188"), 4));
        assert!(!has_idr(&hex("000000ff 6588"), 4));
        assert_eq!(length_size(&hex(FULL_HD)), Some(4));
        assert_eq!(length_size(&hex("0164002800")), Some(1));
        assert_eq!(length_size(&hex("01640028fe")), None);
    }

    #[test]
    fn no_damaged_record_panics() {
        hostile(&hex(FULL_HD), |bytes| {
            let _ = (info(bytes), length_size(bytes), has_idr(bytes, 4));
        });
    }
}
