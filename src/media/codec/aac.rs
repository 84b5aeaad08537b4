//! AAC: what an AudioSpecificConfig says.

use super::AudioInfo;
use super::bits::BitReader;

/// The parts of the configuration that somebody who writes AAC in another container needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AacConfig {
    /// Of the core: 2 for LC, also under HE-AAC.
    pub object_type: u8,
    /// Samples a second that the core codes; frames are counted at this rate.
    pub core_rate: u32,
    /// Samples a second that a decoder with spectral band replication puts out.
    pub rate: u32,
    /// `None` when a program config element describes the layout.
    pub channels: Option<u8>,
    /// 1024, or 960 as broadcasters use.
    pub frame_samples: u32,
    pub sbr: bool,
    /// Parametric stereo: one coded channel becomes two.
    pub ps: bool,
}

impl AacConfig {
    /// Samples a frame comes out as, at the output rate: twice the core's under HE-AAC.
    pub fn output_samples(&self) -> Option<u32> {
        let samples = u64::from(self.frame_samples) * u64::from(self.rate) / u64::from(self.core_rate);
        u32::try_from(samples).ok().filter(|samples| *samples > 0)
    }
}

pub(super) fn info(record: &[u8]) -> Option<AudioInfo> {
    let config = parse(record)?;
    let (profile, object_type) = match config.object_type {
        _ if config.ps => ("HEv2", 29),
        _ if config.sbr => ("HE", 5),
        1 => ("Main", 1),
        2 => ("LC", 2),
        3 => ("SSR", 3),
        4 => ("LTP", 4),
        other => ("", other),
    };
    let channels = if config.ps && config.channels == Some(1) { Some(2) } else { config.channels };
    Some(AudioInfo { rate: config.rate, channels, profile, codec_string: format!("mp4a.40.{object_type}") })
}

/// ISO/IEC 14496-3, 1.6.2.1. `None` for what cannot be decoded: the track is worth nothing then, though the stream may.
pub fn parse(record: &[u8]) -> Option<AacConfig> {
    let mut bits = BitReader::new(record);
    let mut object_type = read_object_type(&mut bits)?;
    let core_rate = read_rate(&mut bits)?;
    let layout = bits.bits(4)?;
    let (mut rate, mut ps, mut sbr) = (core_rate, false, false);
    if object_type == SBR || object_type == PS {
        // Explicit signalling: the rate and type of the core come second.
        (sbr, ps) = (true, object_type == PS);
        rate = read_rate(&mut bits)?;
        object_type = read_object_type(&mut bits)?;
        if object_type == ER_BSAC {
            bits.skip(4)?;
        }
    }
    if object_type == 0 || object_type > MAX_OBJECT_TYPE {
        return None;
    }
    let channels = match layout {
        0 => None,
        1..=6 => u8::try_from(layout).ok(),
        7 | 12 | 14 => Some(8),
        11 => Some(7),
        13 => Some(24),
        _ => return None,
    };
    let mut frame_samples = 1024;
    if HAS_GENERAL_CONFIG.contains(&object_type) {
        // Missing altogether in some short records, which decoders read as zeros.
        frame_samples = if bits.flag().unwrap_or(false) { 960 } else { 1024 };
        if !sbr
            && layout != 0
            && let Some((extended_rate, has_ps)) = read_extension(&mut bits, object_type)
        {
            (sbr, rate, ps) = (true, extended_rate, has_ps);
        }
    }
    Some(AacConfig { object_type, core_rate, rate, channels, frame_samples, sbr, ps })
}

/// Whether a frame wears an ADTS header, which does not belong inside FLV.
pub fn is_adts(frame: &[u8]) -> bool {
    matches!(frame, [0xff, second, ..] if second & 0xf6 == 0xf0)
}

/// The number that stands for a rate, in an AudioSpecificConfig and in ADTS.
pub fn rate_index(rate: u32) -> Option<u8> {
    RATES.iter().position(|known| *known == rate).and_then(|index| u8::try_from(index).ok())
}

fn read_object_type(bits: &mut BitReader<'_>) -> Option<u8> {
    let value = match bits.bits(5)? {
        31 => 32 + bits.bits(6)?,
        value => value,
    };
    u8::try_from(value).ok()
}

fn read_rate(bits: &mut BitReader<'_>) -> Option<u32> {
    let rate = match bits.bits(4)? {
        15 => bits.bits(24)?,
        index => *RATES.get(usize::try_from(index).ok()?)?,
    };
    (1..=MAX_RATE).contains(&rate).then_some(rate)
}

/// Backward compatible signalling of HE-AAC, behind the general configuration of the core.
fn read_extension(bits: &mut BitReader<'_>, object_type: u8) -> Option<(u32, bool)> {
    if bits.flag()? {
        bits.skip(14)?;
    }
    let extended = bits.flag()?;
    if object_type == 6 || object_type == 20 {
        bits.skip(3)?;
    }
    if extended {
        match object_type {
            ER_BSAC => bits.skip(5 + 11)?,
            17 | 19 | 20 | 23 => bits.skip(3)?,
            _ => {}
        }
        bits.skip(1)?;
    }
    if bits.bits(11)? != SBR_SYNC || read_object_type(bits)? != SBR || !bits.flag()? {
        return None;
    }
    let rate = read_rate(bits)?;
    let ps = bits.bits(11) == Some(PS_SYNC) && bits.flag() == Some(true);
    Some((rate, ps))
}

const SBR: u8 = 5;
const PS: u8 = 29;
const ER_BSAC: u8 = 22;
/// The last that is assigned; an ADTS header taken for a configuration gives 95.
const MAX_OBJECT_TYPE: u8 = 46;
const HAS_GENERAL_CONFIG: [u8; 12] = [1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23];
const SBR_SYNC: u32 = 0x2b7;
const PS_SYNC: u32 = 0x548;
const MAX_RATE: u32 = 768_000;
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000, 7350];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    fn check(record: &str, rate: u32, channels: Option<u8>, profile: &str, codec: &str) {
        let info = info(&hex(record)).unwrap();
        assert_eq!(
            (info.rate, info.channels, info.profile, info.codec_string.as_str()),
            (rate, channels, profile, codec),
            "{record}"
        );
    }

    #[test]
    fn configurations_of_encoders_are_read() {
        check("121056e500", 44_100, Some(2), "LC", "mp4a.40.2");
        check("118856e500", 48_000, Some(1), "LC", "mp4a.40.2");
        check("11b056e500", 48_000, Some(6), "LC", "mp4a.40.2");
        check("1208", 44_100, Some(1), "LC", "mp4a.40.2");
        check("1190", 48_000, Some(2), "LC", "mp4a.40.2");
    }

    #[test]
    fn high_efficiency_is_recognised_however_it_is_signalled() {
        // Explicit: type 5, core at 24 kHz, output at 48 kHz. Type 29 adds parametric stereo to one channel.
        check("2b11 8800", 48_000, Some(2), "HE", "mp4a.40.5");
        check("eb09 8800", 48_000, Some(2), "HEv2", "mp4a.40.29");
        // Backward compatible: LC at 24 kHz, then the extension.
        check("1310 56e598", 48_000, Some(2), "HE", "mp4a.40.5");
        check("1308 56e59d4880", 48_000, Some(2), "HEv2", "mp4a.40.29");
        let config = parse(&hex("2b118800")).unwrap();
        assert_eq!((config.object_type, config.core_rate, config.rate), (2, 24_000, 48_000));
    }

    #[test]
    fn a_rate_outside_the_table_is_spelled_out() {
        // Type 2, index 15, 24 bits of 37,800, 2 channels.
        check("17 80 49 d4 10", 37_800, Some(2), "LC", "mp4a.40.2");
        assert_eq!(parse(&hex("1780")), None);
    }

    #[test]
    fn a_layout_described_at_length_has_no_channel_count() {
        check("1200 0500", 44_100, None, "LC", "mp4a.40.2");
    }

    #[test]
    fn broadcast_frames_are_shorter() {
        assert_eq!(parse(&hex("1194")).unwrap().frame_samples, 960);
        assert_eq!(parse(&hex("1190")).unwrap().frame_samples, 1024);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        // One byte, no type, reserved rate, reserved layout, ADTS headers.
        for record in ["", "12", "0210", "1690", "1248", "fff15080", "fff94c80"] {
            assert_eq!(info(&hex(record)), None, "{record}");
        }
        assert!(is_adts(&hex("fff15080")) && is_adts(&hex("fff94c80")) && !is_adts(&hex("2110")));
    }

    #[test]
    fn no_damaged_record_panics() {
        for record in ["121056e500", "1308 56e59d4880", "eb098800", "178049d410"] {
            hostile(&hex(record), |bytes| drop(info(bytes)));
        }
    }
}
