//! Reads bits, most significant first, and never past the end.

/// Every read is `None` once the bytes are used up.
#[derive(Clone, Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Bits consumed.
    position: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.position / 8)?;
        let shift = 7 - self.position % 8;
        self.position += 1;
        Some(byte >> shift & 1 == 1)
    }

    /// Up to 32 bits.
    pub(super) fn bits(&mut self, count: u32) -> Option<u32> {
        debug_assert!(count <= 32);
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.bits(8).and_then(|value| u8::try_from(value).ok())
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        let position = self.position.checked_add(count)?;
        if position > self.bytes.len().checked_mul(8)? {
            return None;
        }
        self.position = position;
        Some(())
    }

    /// An unsigned Exp-Golomb number, the `ue(v)` of H.264 and H.265. More than 31 leading zeros is nothing that any
    /// field may hold.
    pub(super) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.bits(zeros)?;
        ((1_u32 << zeros) - 1).checked_add(rest)
    }

    /// As [`BitReader::ue`], refusing what the standard does not allow in this field.
    pub(super) fn ue_up_to(&mut self, max: u32) -> Option<u32> {
        self.ue().filter(|value| *value <= max)
    }

    /// Steps over a signed Exp-Golomb number, which has the length of an unsigned one.
    pub(super) fn skip_se(&mut self) -> Option<()> {
        self.ue().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_golomb_numbers_are_read_as_the_standard_lists_them() {
        // 1, 010, 011, 00100, 00101
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        assert_eq!([bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue()], [0, 1, 2, 3, 4].map(Some));
    }

    #[test]
    fn endless_zeros_are_refused() {
        assert_eq!(BitReader::new(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]).ue(), None);
        assert_eq!(BitReader::new(&[0, 0, 0]).ue(), None);
        assert_eq!(BitReader::new(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).ue(), Some(u32::MAX - 1));
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut bits = BitReader::new(&[0xff]);
        assert_eq!((bits.bits(7), bits.bits(2), bits.skip(1), bits.position), (Some(0x7f), None, None, 8));
        assert_eq!(bits.skip(usize::MAX), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, reads: Vec<(u8, u8)>) {
            let mut bits = BitReader::new(&bytes);
            for (kind, count) in reads {
                let before = bits.position;
                match kind % 3 {
                    0 => _ = bits.ue(),
                    1 => _ = bits.bits(u32::from(count) % 33),
                    _ => _ = bits.skip(usize::from(count)),
                }
                prop_assert!(before <= bits.position && bits.position <= 8 * bytes.len());
            }
        }
    }
}
