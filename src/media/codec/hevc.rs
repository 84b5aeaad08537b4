//! H.265: what an `hvcC` record says.

use super::bits::BitReader;
use super::{MAX_DIMENSION, Picture, VideoInfo, nal};

pub(super) fn info(record: &[u8]) -> Option<VideoInfo> {
    let (&[version, first, c0, c1, c2, c3], rest) = record.split_first_chunk()?;
    let (constraints, rest) = rest.split_first_chunk::<6>()?;
    let (&[level, _, _, _, _, luma_depth, _, rate_high, rate_low, _], _) = rest.split_first_chunk()?;
    // Some encoders write 0 for the version; the layout is the same.
    if version > 1 {
        return None;
    }
    let profile = first & 0x1f;
    let picture = first_sps(record).and_then(parse_sps).unwrap_or_default();
    let average = u16::from_be_bytes([rate_high, rate_low]);
    let fps = picture.fps.or((average > 0).then(|| f32::from(average) / 256.0));
    Some(VideoInfo {
        width: picture.width,
        height: picture.height,
        fps,
        interlaced: picture.interlaced,
        bit_depth: (luma_depth & 7) + 8,
        profile: match profile {
            1 => "Main",
            2 => "Main 10",
            3 => "Main Still Picture",
            4 => "Rext",
            _ => "",
        },
        compatibility: 0,
        level: f32::from(level) / 30.0,
        codec_string: codec_string(first, u32::from_be_bytes([c0, c1, c2, c3]), constraints, level),
    })
}

/// How many bytes the lengths of NAL units take.
pub fn length_size(record: &[u8]) -> Option<usize> {
    record.get(21).map(|byte| usize::from(byte & 3) + 1).filter(|size| *size != 3)
}

/// Whether decoding can start at this access unit: an IRAP picture, which is IDR, CRA or BLA.
pub fn has_irap(access_unit: &[u8], length_size: usize) -> bool {
    nal::units(access_unit, length_size).any(|unit| unit_type(unit).is_some_and(|kind| (16..=21).contains(&kind)))
}

fn unit_type(unit: &[u8]) -> Option<u8> {
    unit.first().map(|header| header >> 1 & 0x3f)
}

/// ISO/IEC 14496-15, annex E.3: the profile space as a letter, the compatibility flags with their bits reversed, and
/// the constraint bytes up to the last that is not zero.
fn codec_string(first: u8, compatibility: u32, constraints: &[u8], level: u8) -> String {
    let space = ["", "A", "B", "C"].get(usize::from(first >> 6)).copied().unwrap_or_default();
    let tier = if first & 0x20 == 0 { 'L' } else { 'H' };
    let mut text = format!("hvc1.{space}{}.{:X}.{tier}{level}", first & 0x1f, compatibility.reverse_bits());
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in constraints.iter().take(used) {
        text.push_str(&format!(".{byte:X}"));
    }
    text
}

fn first_sps(record: &[u8]) -> Option<&[u8]> {
    let (&arrays, mut rest) = record.get(22..)?.split_first()?;
    for _ in 0..arrays {
        let (&[kind, high, low], tail) = rest.split_first_chunk()?;
        rest = tail;
        for _ in 0..u16::from_be_bytes([high, low]) {
            let (&[high, low], tail) = rest.split_first_chunk()?;
            let (unit, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
            rest = tail;
            if kind & 0x3f == SPS {
                return Some(unit);
            }
        }
    }
    None
}

/// ISO/IEC 23008-2, 7.3.2.2.1.
fn parse_sps(unit: &[u8]) -> Option<Picture> {
    if unit_type(unit)? != SPS {
        return None;
    }
    let rbsp = nal::unescaped(unit);
    let mut bits = BitReader::new(&rbsp);
    bits.skip(16 + 4)?;
    let sub_layers = bits.bits(3)?;
    if sub_layers > 6 {
        return None;
    }
    bits.skip(1)?;
    skip_profile_tier_level(&mut bits, sub_layers)?;
    bits.ue_up_to(15)?;
    let chroma_format = bits.ue_up_to(3)?;
    let separate_planes = chroma_format == 3 && bits.flag()?;
    let (mut width, mut height) = (bits.ue_up_to(MAX_DIMENSION)?, bits.ue_up_to(MAX_DIMENSION)?);
    if bits.flag()? {
        let (unit_x, unit_y) = match chroma_format {
            1 if !separate_planes => (2, 2),
            2 if !separate_planes => (2, 1),
            _ => (1, 1),
        };
        let mut crop = |unit: u32| bits.ue()?.checked_add(bits.ue()?)?.checked_mul(unit);
        width = width.checked_sub(crop(unit_x)?)?;
        height = height.checked_sub(crop(unit_y)?)?;
    }
    if width == 0 || height == 0 {
        return None;
    }
    let bit_depth = 8 + u8::try_from(bits.ue_up_to(8)?).ok()?;
    let (interlaced, fps) = parse_timing(&mut bits, sub_layers).unwrap_or_default();
    Some(Picture { width, height, fps, interlaced, bit_depth })
}

fn skip_profile_tier_level(bits: &mut BitReader<'_>, sub_layers: u32) -> Option<()> {
    bits.skip(96)?;
    let mut extra = 0;
    for _ in 0..sub_layers {
        extra += if bits.flag()? { 88 } else { 0 };
        extra += if bits.flag()? { 8 } else { 0 };
    }
    if sub_layers > 0 {
        bits.skip(2 * (8 - usize::try_from(sub_layers).ok()?))?;
    }
    bits.skip(extra)
}

/// From the chroma bit depth on: whether pictures are fields, and the frame rate.
fn parse_timing(bits: &mut BitReader<'_>, sub_layers: u32) -> Option<(bool, Option<f32>)> {
    bits.ue_up_to(8)?;
    let order_bits = bits.ue_up_to(12)? + 4;
    let layers = if bits.flag()? { sub_layers + 1 } else { 1 };
    for _ in 0..3 * layers {
        bits.ue()?;
    }
    for _ in 0..6 {
        bits.ue()?;
    }
    if bits.flag()? && bits.flag()? {
        skip_scaling_lists(bits)?;
    }
    bits.skip(2)?;
    if bits.flag()? {
        bits.skip(8)?;
        bits.ue()?;
        bits.ue()?;
        bits.skip(1)?;
    }
    skip_reference_sets(bits)?;
    if bits.flag()? {
        for _ in 0..bits.ue_up_to(32)? {
            bits.bits(order_bits)?;
            bits.skip(1)?;
        }
    }
    bits.skip(2)?;
    if !bits.flag()? {
        return Some((false, None));
    }
    super::skip_vui_to_timing(bits)?;
    bits.skip(1)?;
    let fields = bits.flag()?;
    bits.skip(1)?;
    if bits.flag()? {
        for _ in 0..4 {
            bits.ue()?;
        }
    }
    Some((fields, super::read_timing(bits)))
}

fn skip_scaling_lists(bits: &mut BitReader<'_>) -> Option<()> {
    for size in 0..4 {
        for _ in (0..6).step_by(if size == 3 { 3 } else { 1 }) {
            if !bits.flag()? {
                bits.ue()?;
                continue;
            }
            let coefficients = 64.min(1 << (4 + (size << 1))) + u32::from(size > 1);
            for _ in 0..coefficients {
                bits.skip_se()?;
            }
        }
    }
    Some(())
}

fn skip_reference_sets(bits: &mut BitReader<'_>) -> Option<()> {
    let sets = bits.ue_up_to(64)?;
    let mut pictures = 0;
    for set in 0..sets {
        if set > 0 && bits.flag()? {
            // Predicted from the set before.
            bits.skip(1)?;
            bits.ue()?;
            let mut kept = 0;
            for _ in 0..=pictures {
                if bits.flag()? || bits.flag()? {
                    kept += 1;
                }
            }
            pictures = kept;
        } else {
            pictures = bits.ue_up_to(16)? + bits.ue_up_to(16)?;
            for _ in 0..pictures {
                bits.ue()?;
                bits.skip(1)?;
            }
        }
    }
    Some(())
}

const SPS: u8 = 33;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    const FULL_HD: &str = "01016000000090000000000078f000fcfdf8f800000f03200001001840010c01ffff016000000300900000030000\
        030078958409210001002b420101016000000300900000030000030078a003c0801107cb965654a4c2f0168080000003008000000c8422\
        000100064401c073c189";
    const MAIN_10: &str = "0102200000009000000000005af000fcfdfafa00000f03200001001840010c01ffff022000000300900000030000\
        03005a959409210001002c42010102200000030090000003000003005aa006c201e1cdb6595952930bc05a020000030002000003003210\
        22000100064401c073c189";

    #[test]
    fn records_of_x265_are_read() {
        let full = info(&hex(FULL_HD)).unwrap();
        assert_eq!((full.width, full.height, full.fps, full.bit_depth), (1920, 1080, Some(25.0), 8));
        assert_eq!((full.profile, full.level, full.interlaced), ("Main", 4.0, false));
        assert_eq!(full.codec_string, "hvc1.1.6.L120.90");

        let ten = info(&hex(MAIN_10)).unwrap();
        assert_eq!((ten.width, ten.height, ten.fps, ten.bit_depth), (854, 480, Some(25.0), 10));
        assert_eq!((ten.profile, ten.level), ("Main 10", 3.0));
        assert_eq!(ten.codec_string, "hvc1.2.4.L90.90");
    }

    #[test]
    fn codec_strings_follow_annex_e() {
        assert_eq!(codec_string(0x01, 0x6000_0000, &[0xb0, 0, 0, 0, 0, 0], 93), "hvc1.1.6.L93.B0");
        assert_eq!(codec_string(0x62, 0x2000_0000, &[0xb0, 0, 8, 0, 0, 0], 153), "hvc1.A2.4.H153.B0.0.8");
        assert_eq!(codec_string(0x01, 0, &[0; 6], 30), "hvc1.1.0.L30");
    }

    #[test]
    fn random_access_is_read_from_the_units() {
        assert!(has_irap(&hex("00000003 4e0105 00000003 2601ac"), 4));
        assert!(has_irap(&hex("00000003 2a01ac"), 4));
        assert!(!has_irap(&hex("00000003 0201d0"), 4));
        assert_eq!(length_size(&hex(FULL_HD)), Some(4));
    }

    #[test]
    fn without_a_parameter_set_the_profile_is_still_known() {
        let record = hex(FULL_HD);
        let bare = info(&record[..23]).unwrap();
        assert_eq!((bare.width, bare.height, bare.profile), (0, 0, "Main"));
        assert_eq!(info(&record[..15]), None);
    }

    #[test]
    fn no_damaged_record_panics() {
        for record in [FULL_HD, MAIN_10] {
            hostile(&hex(record), |bytes| {
                let _ = (info(bytes), length_size(bytes), has_irap(bytes, 4));
            });
        }
    }
}
