//! FLAC: what a STREAMINFO block says.

use super::AudioInfo;
use super::bits::BitReader;

/// The standard asks for `fLaC`, then the block with its header. ffmpeg sends the bare block, so all forms are read.
pub(super) fn info(record: &[u8]) -> Option<AudioInfo> {
    let block = record.strip_prefix(b"fLaC").unwrap_or(record);
    // Block type 0, of 34 bytes; the first bit says whether it is the last block.
    let block = match block {
        [0x00 | 0x80, 0, 0, 34, rest @ ..] => rest,
        bare => bare,
    };
    if block.len() < STREAM_INFO_BYTES {
        return None;
    }
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
    fn a_damaged_record_does_not_panic() {
        assert_eq!(info(&hex("664c6143")), None);
        assert_eq!(info(&hex(&format!("fff8aa88{}", "00ff".repeat(20)))), None);
        hostile(&hex(BLOCK), |bytes| drop(info(bytes)));
    }
}
