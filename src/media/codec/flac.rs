//! FLAC: what a STREAMINFO block says.

use super::AudioInfo;
use super::bits::BitReader;

/// The standard asks for `fLaC`, then the block with its header. ffmpeg sends the bare block, so all forms are read.
pub(super) fn info(record: &[u8]) -> Option<AudioInfo> {
    let block = stream_info(record)?;
    let mut bits = BitReader::new(block);
    let (smallest, largest) = (bits.bits(16)?, bits.bits(16)?);
    // Frame sizes.
    bits.skip(24 + 24)?;
    let rate = bits.bits(20)?;
    let channels = u8::try_from(bits.bits(3)? + 1).ok()?;
    // A frame is not a block: its sync code would be a block size above the next one.
    (rate > 0 && smallest <= largest).then(|| AudioInfo {
        rate,
        channels: Some(channels),
        profile: "",
        codec_string: "fLaC".into(),
    })
}

/// The 34 bytes of the STREAMINFO block in a record of any form.
pub fn stream_info(record: &[u8]) -> Option<&[u8; STREAM_INFO_BYTES]> {
    let block = record.strip_prefix(b"fLaC").unwrap_or(record);
    // Block type 0, of 34 bytes; the first bit says whether it is the last block.
    let block = match block {
        [0x00 | 0x80, 0, 0, 34, rest @ ..] => rest,
        bare => bare,
    };
    block.first_chunk()
}

/// RFC 9639, 9.1.1: how many samples a frame holds.
pub fn frame_samples(frame: &[u8]) -> Option<u32> {
    let &[0xff, 0xf8 | 0xf9, sizes, _, number, ..] = frame else {
        return None;
    };
    // The number of the frame is coded as in UTF-8, in up to seven bytes.
    let coded = match number.leading_ones() {
        0 => 1,
        1 | 8 => return None,
        ones => usize::try_from(ones).ok()?,
    };
    let after = frame.get(4 + coded..)?;
    match sizes >> 4 {
        0 => None,
        1 => Some(192),
        code @ 2..=5 => Some(576 << (code - 2)),
        6 => after.first().map(|low| u32::from(*low) + 1),
        7 => after.first_chunk().map(|two| u32::from(u16::from_be_bytes(*two)) + 1),
        code => Some(256 << (code - 8)),
    }
}

const STREAM_INFO_BYTES: usize = 34;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::tests::{hex, hostile};

    const BLOCK: &str = "040004000000000010980bb802f00000000000000000000000000000000000000000";

    #[test]
    fn the_block_is_read_in_every_wrapping() {
        for record in [BLOCK.to_owned(), format!("80000022{BLOCK}"), format!("664c614300000022{BLOCK}")] {
            let info = info(&hex(&record)).unwrap();
            assert_eq!((info.rate, info.channels), (48_000, Some(2)), "{record}");
        }
    }

    #[test]
    fn a_frame_tells_its_length() {
        for (frame, samples) in [
            ("fff8c91800", 4096),
            ("fff8591800", 4608),
            ("fff8191800", 192),
            ("fff86918c28063", 100),
            ("fff8791800ffff", 65_536),
        ] {
            assert_eq!(frame_samples(&hex(frame)), Some(samples), "{frame}");
        }
        for frame in ["", "fff8c918", "fff8091800", "fff8691800", "fff8c91880", "fff8c918ff", "fffbc91800"] {
            assert_eq!(frame_samples(&hex(frame)), None, "{frame}");
        }
    }

    #[test]
    fn a_damaged_record_does_not_panic() {
        assert_eq!(info(&hex("664c6143")), None);
        assert_eq!(info(&hex(&format!("fff8aa88{}", "00ff".repeat(20)))), None);
        hostile(&hex(BLOCK), |bytes| drop(info(bytes)));
    }
}
