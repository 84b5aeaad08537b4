//! AC-3 and E-AC-3: what a frame's own header says, since there is no record.

use super::AudioInfo;
use super::bits::BitReader;

pub(super) fn info(frame: &[u8]) -> Option<AudioInfo> {
    let header = parse(frame)?;
    let full_band = *CHANNELS.get(usize::from(header.coding_mode))?;
    let codec_string = if header.is_enhanced { "ec-3" } else { "ac-3" };
    Some(AudioInfo {
        rate: header.rate,
        channels: Some(full_band + u8::from(header.low_frequency)),
        profile: "",
        codec_string: codec_string.into(),
    })
}

/// What the head of a frame says, in the codes that other containers repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub is_enhanced: bool,
    /// Samples a second.
    pub rate: u32,
    pub rate_code: u8,
    pub stream_identification: u8,
    pub stream_mode: u8,
    pub coding_mode: u8,
    pub low_frequency: bool,
    /// AC-3 only.
    pub bit_rate_code: u8,
    /// E-AC-3 only: bytes of the frame.
    pub bytes: u32,
    /// How long the frame is.
    pub samples: u32,
}

/// ETSI TS 102 366, 4.3 and annex E.
pub fn parse(frame: &[u8]) -> Option<FrameHeader> {
    let mut bits = BitReader::new(frame.strip_prefix(&[0x0b, 0x77])?);
    // The identification stands at the same place in both, and tells them apart.
    let version = frame.get(5)? >> 3;
    let mut header = FrameHeader {
        is_enhanced: version > 10,
        rate: 0,
        rate_code: 0,
        stream_identification: version,
        stream_mode: 0,
        coding_mode: 0,
        low_frequency: false,
        bit_rate_code: 0,
        bytes: 0,
        samples: 256 * 6,
    };
    let small = |value: u32| u8::try_from(value).ok();
    match version {
        0..=10 => {
            bits.skip(16)?;
            header.rate_code = small(bits.bits(2)?)?;
            // Versions 9 and 10 run at half and a quarter of the rate.
            header.rate = *RATES.get(usize::from(header.rate_code))? >> version.saturating_sub(8);
            header.bit_rate_code = small(bits.bits(6)? >> 1)?;
            bits.skip(5)?;
            header.stream_mode = small(bits.bits(3)?)?;
            let mode = bits.bits(3)?;
            header.coding_mode = small(mode)?;
            // Mix levels, which are there for what they concern: a centre, surrounds, two-channel stereo.
            let centre = mode & 1 != 0 && mode != 1;
            bits.skip(if centre { 2 } else { 0 } + if mode & 4 != 0 { 2 } else { 0 } + if mode == 2 { 2 } else { 0 })?;
        }
        11..=16 => {
            bits.skip(2 + 3)?;
            header.bytes = 2 * (bits.bits(11)? + 1);
            let (first, second) = (bits.bits(2)?, bits.bits(2)?);
            header.rate_code = small(first)?;
            // A first code of 3 means half of the rate that the second names, and then six blocks.
            if first == 3 {
                header.rate = *RATES.get(usize::try_from(second).ok()?)? / 2;
            } else {
                header.rate = *RATES.get(usize::try_from(first).ok()?)?;
                header.samples = 256 * *[1, 2, 3, 6].get(usize::try_from(second).ok()?)?;
            }
            header.coding_mode = small(bits.bits(3)?)?;
        }
        _ => return None,
    }
    header.low_frequency = bits.flag()?;
    Some(header)
}

const RATES: [u32; 3] = [48_000, 44_100, 32_000];
/// Of the full band, by coding mode; the first is two separate programs.
const CHANNELS: [u8; 8] = [2, 1, 2, 3, 3, 4, 4, 5];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    const SURROUND: &str = "0b7750b51e40ebf8403eff99";
    const STEREO: &str = "0b77017f3487c0002084210838";

    #[test]
    fn frames_describe_themselves() {
        for (frame, rate, channels, codec) in [(SURROUND, 48_000, 6, "ac-3"), (STEREO, 48_000, 2, "ec-3")] {
            let info = info(&hex(frame)).unwrap();
            assert_eq!(
                (info.rate, info.channels, info.codec_string.as_str()),
                (rate, Some(channels), codec),
                "{frame}"
            );
            assert_eq!(parse(&hex(frame)).unwrap().samples, 1536, "{frame}");
        }
    }

    #[test]
    fn damaged_frames_do_not_panic() {
        hostile(&hex(SURROUND), |bytes| drop(info(bytes)));
        hostile(&hex(STEREO), |bytes| drop(info(bytes)));
    }
}
