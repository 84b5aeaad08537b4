//! AC-3 and E-AC-3: what a frame's own header says, since there is no record.

use super::AudioInfo;
use super::bits::BitReader;

/// ETSI TS 102 366, 4.3 and annex E.
pub(super) fn info(frame: &[u8]) -> Option<AudioInfo> {
    let mut bits = BitReader::new(frame.strip_prefix(&[0x0b, 0x77])?);
    // The identification stands at the same place in both, and tells them apart.
    let version = frame.get(5)? >> 3;
    let (rate, mode) = match version {
        0..=10 => {
            bits.skip(16)?;
            let rate = *RATES.get(usize::try_from(bits.bits(2)?).ok()?)?;
            bits.skip(6 + 5 + 3)?;
            let mode = bits.bits(3)?;
            // Mix levels, which are there for what they concern: a centre, surrounds, two-channel stereo.
            let centre = mode & 1 != 0 && mode != 1;
            bits.skip(if centre { 2 } else { 0 } + if mode & 4 != 0 { 2 } else { 0 } + if mode == 2 { 2 } else { 0 })?;
            // Versions 9 and 10 run at half and a quarter of the rate.
            (rate >> version.saturating_sub(8), mode)
        }
        11..=16 => {
            bits.skip(2 + 3 + 11)?;
            let (first, second) = (usize::try_from(bits.bits(2)?).ok()?, usize::try_from(bits.bits(2)?).ok()?);
            // A first code of 3 means half of the rate that the second names.
            let rate = if first == 3 { *RATES.get(second)? / 2 } else { *RATES.get(first)? };
            (rate, bits.bits(3)?)
        }
        _ => return None,
    };
    let low_frequency = u8::from(bits.flag()?);
    let channels = *CHANNELS.get(usize::try_from(mode).ok()?)? + low_frequency;
    let codec_string = if version <= 10 { "ac-3" } else { "ec-3" };
    Some(AudioInfo { rate, channels: Some(channels), profile: "", codec_string: codec_string.into() })
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
        }
    }

    #[test]
    fn damaged_frames_do_not_panic() {
        hostile(&hex(SURROUND), |bytes| drop(info(bytes)));
        hostile(&hex(STEREO), |bytes| drop(info(bytes)));
    }
}
