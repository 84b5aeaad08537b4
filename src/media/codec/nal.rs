//! NAL units, of which H.264 and H.265 access units are made.

use std::borrow::Cow;

/// The units of an access unit as FLV carries it: each behind its length, which takes 1, 2 or 4 bytes. Ends at the
/// first length that does not fit.
#[derive(Clone, Debug)]
pub struct NalUnits<'a> {
    rest: &'a [u8],
    length_size: usize,
}

/// `length_size` is what the configuration record says.
pub fn units(access_unit: &[u8], length_size: usize) -> NalUnits<'_> {
    NalUnits { rest: access_unit, length_size }
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (length, rest) = self.rest.split_at_checked(self.length_size)?;
            let length =
                length.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()))?;
            let (unit, rest) = rest.split_at_checked(length)?;
            self.rest = rest;
            // A length of zero is padding that some encoders leave; without a size of its own a length is no step.
            if !unit.is_empty() {
                return Some(unit);
            }
            if self.length_size == 0 {
                return None;
            }
        }
    }
}

/// Whether the lengths of the units fill the access unit exactly, and there are not absurdly many.
pub fn is_well_formed(access_unit: &[u8], length_size: usize) -> bool {
    let mut units = units(access_unit, length_size);
    let count = units.by_ref().take(MAX_UNITS + 1).count();
    (1..=MAX_UNITS).contains(&count) && units.rest.is_empty()
}

/// The unit without its emulation prevention bytes (the 3 of 0 0 3), as its syntax is written. Copies, unless there
/// are none; what comes after the first few KiB is left out, since no parameter set is that long.
pub(super) fn unescaped(unit: &[u8]) -> Cow<'_, [u8]> {
    let unit = unit.get(..MAX_PARAMETER_SET_BYTES).unwrap_or(unit);
    if !unit.windows(3).any(|three| three == [0, 0, 3]) {
        return Cow::Borrowed(unit);
    }
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    Cow::Owned(out)
}

/// A frame of 8K has a few hundred slices at most.
const MAX_UNITS: usize = 1024;
const MAX_PARAMETER_SET_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_by_their_lengths_and_empty_ones_skipped() {
        let bytes = [0, 0, 0, 2, 9, 8, 0, 0, 0, 0, 0, 0, 0, 1, 7];
        assert_eq!(units(&bytes, 4).collect::<Vec<_>>(), [&[9, 8][..], &[7]]);
        assert_eq!(units(&[1, 5, 2, 6, 7], 1).collect::<Vec<_>>(), [&[5][..], &[6, 7]]);
        assert!(is_well_formed(&bytes, 4));
    }

    #[test]
    fn lengths_that_lie_end_the_list() {
        for bytes in [&[0, 0, 0, 9, 1][..], &[0xff; 5], &[0, 0, 0], &[]] {
            assert_eq!(units(bytes, 4).count(), 0);
            assert!(!is_well_formed(bytes, 4));
        }
        assert_eq!(units(&[1, 2, 3], 0).count(), 0);
        assert!(!is_well_formed(&[1, 7].repeat(MAX_UNITS + 1), 1));
        assert!(!is_well_formed(&[0; 4000], 4));
    }

    #[test]
    fn emulation_prevention_is_undone() {
        assert_eq!(unescaped(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3]).as_ref(), [0, 0, 1, 0, 0, 0, 0]);
        assert!(matches!(unescaped(&[1, 0, 3, 0]), Cow::Borrowed(_)));
        assert_eq!(unescaped(&[1; 9000]).len(), MAX_PARAMETER_SET_BYTES);
    }
}
