//! AV1: what an `av1C` record and its sequence header say.

use super::bits::BitReader;
use super::{MAX_DIMENSION, VideoInfo};

pub(super) fn info(record: &[u8]) -> Option<VideoInfo> {
    let (&[marker, first, second, _], units) = record.split_first_chunk()?;
    // A marker bit and version 1.
    if marker != 0x81 {
        return None;
    }
    let (profile, level) = (first >> 5, first & 0x1f);
    let tier = if second & 0x80 == 0 { 'M' } else { 'H' };
    let bit_depth = match (second & 0x40 != 0, second & 0x20 != 0) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    let sequence = sequence_header(units).and_then(parse_sequence_header);
    let (width, height, fps) = sequence.unwrap_or_default();
    Some(VideoInfo {
        width,
        height,
        fps,
        interlaced: false,
        bit_depth,
        profile: match profile {
            0 => "Main",
            1 => "High",
            2 => "Professional",
            _ => "",
        },
        compatibility: 0,
        // Four minor levels to a major one, starting at 2.0.
        level: f32::from(2 + (level >> 2)) + f32::from(level & 3) / 10.0,
        codec_string: format!("av01.{profile}.{level:02}{tier}.{bit_depth:02}"),
    })
}

/// The payload of the first sequence header among OBUs.
fn sequence_header(mut units: &[u8]) -> Option<&[u8]> {
    loop {
        let (&header, rest) = units.split_first()?;
        let rest = if header & 0x04 != 0 { rest.get(1..)? } else { rest };
        let (unit, rest) = if header & 0x02 != 0 {
            let (size, rest) = leb128(rest)?;
            rest.split_at_checked(size)?
        } else {
            (rest, &[][..])
        };
        if header >> 3 & 0x0f == SEQUENCE_HEADER {
            return Some(unit);
        }
        units = rest;
    }
}

fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().enumerate().take(8) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(index + 1..)?));
        }
    }
    None
}

/// AV1 bitstream specification, 5.5.1: width, height and frame rate.
fn parse_sequence_header(unit: &[u8]) -> Option<(u32, u32, Option<f32>)> {
    let mut bits = BitReader::new(unit);
    bits.skip(3 + 1)?;
    let reduced = bits.flag()?;
    let mut fps = None;
    if reduced {
        bits.skip(5)?;
    } else {
        let mut delay_bits = None;
        if bits.flag()? {
            let (units, scale) = (bits.bits(32)?, bits.bits(32)?);
            if bits.flag()? {
                let ticks = bits.ue()?.checked_add(1)?;
                fps = units.checked_mul(ticks).and_then(|units| super::rate(scale, units));
            }
            if bits.flag()? {
                delay_bits = Some(usize::try_from(bits.bits(5)? + 1).ok()?);
                bits.skip(32 + 5 + 5)?;
            }
        }
        let display_delays = bits.flag()?;
        for _ in 0..=bits.bits(5)? {
            bits.skip(12)?;
            if bits.bits(5)? > 7 {
                bits.skip(1)?;
            }
            if let Some(delay_bits) = delay_bits
                && bits.flag()?
            {
                bits.skip(2 * delay_bits + 1)?;
            }
            if display_delays && bits.flag()? {
                bits.skip(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
    let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
    (width <= MAX_DIMENSION && height <= MAX_DIMENSION).then_some((width, height, fps))
}

const SEQUENCE_HEADER: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{binary, hex, hostile};

    const FULL_HD: &str = "81080c000a0c02000042955dfe1b805f0008";

    #[test]
    fn a_record_of_svt_av1_is_read() {
        let info = info(&hex(FULL_HD)).unwrap();
        assert_eq!((info.width, info.height, info.fps, info.bit_depth), (1920, 1080, None, 8));
        assert_eq!((info.profile, info.level), ("Main", 4.0));
        assert_eq!(info.codec_string, "av01.0.08M.08");
    }

    #[test]
    fn a_ten_bit_record_of_libaom_is_read() {
        let info = info(&hex("81044c00 0a0b0000000cc5036936be5010")).unwrap();
        assert_eq!((info.width, info.height, info.bit_depth), (642, 362, 10));
        assert_eq!(info.codec_string, "av01.0.04M.10");
    }

    #[test]
    fn without_a_sequence_header_the_profile_is_still_known() {
        let bare = info(&hex("81 24 e0 00")).unwrap();
        assert_eq!((bare.width, bare.profile, bare.bit_depth), (0, "High", 12));
        assert_eq!(bare.codec_string, "av01.1.04H.12");
        assert_eq!(info(&hex("01 24 c0 00")), None);
    }

    #[test]
    fn timing_gives_the_frame_rate() {
        // Profile 0; timing 1001/30000 with equal intervals of one tick; no decoder model; one operating point.
        let bits = format!(
            "00000 1{:032b}{:032b}1 1 0 0 {:05b}{:012b}{:05b} {:04b}{:04b}{:010b}{:09b}",
            1001, 30000, 0, 0, 4, 9, 8, 853, 479
        );
        let bytes = binary(&bits);
        assert_eq!(parse_sequence_header(&bytes), Some((854, 480, Some(29.97003))));
    }

    #[test]
    fn no_damaged_record_panics() {
        hostile(&hex(FULL_HD), |bytes| drop(info(bytes)));
        hostile(&hex("12000a0c02000042955dfe1b805f0008"), |bytes| _ = sequence_header(bytes));
    }
}
