//! Video frames as byte streams: units behind start codes instead of lengths, with everything a decoder needs to begin.

use smallvec::SmallVec;

use crate::media::codec::{VideoCodec, avc, hevc, nal};

/// Converts the frames of one track.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessUnits {
    family: Family,
    length_size: usize,
    /// The newest parameter sets, in the order in which they depend on each other.
    sets: SmallVec<[Set; 4]>,
}

/// Whether decoding can begin with a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Entry {
    /// It needs what came before.
    None,
    /// The publisher calls it a keyframe, and nothing in it says so.
    Claimed,
    /// A picture builds up from here on: intra refresh, open GOP.
    Recovery,
    /// Nothing after it needs anything before it.
    Clean,
}

impl AccessUnits {
    /// `None`: another codec, or a record that makes no sense.
    pub fn new(codec: VideoCodec, record: &[u8]) -> Option<Self> {
        let (family, length_size) = match codec {
            VideoCodec::Avc => (Family::Avc, avc::length_size(record)?),
            VideoCodec::Hevc => (Family::Hevc, hevc::length_size(record)?),
            _ => return None,
        };
        let mut units = Self { family, length_size, sets: SmallVec::new() };
        match family {
            Family::Avc => units.read_avc_record(record),
            Family::Hevc => units.read_hevc_record(record),
        };
        units.sets.sort_by_key(|set| set.kind);
        Some(units)
    }

    /// What kind of entry a frame is. `key` is what the publisher says.
    pub fn entry(&self, frame: &[u8], key: bool) -> Entry {
        let mut entry = if key { Entry::Claimed } else { Entry::None };
        for unit in nal::units(frame, self.length_size) {
            entry = entry.max(match self.family.role(unit) {
                Role::CleanSlice => return Entry::Clean,
                Role::Sei if key && self.family.has_recovery_point(unit) => Entry::Recovery,
                _ => Entry::None,
            });
        }
        entry
    }

    /// Writes a frame as one access unit: the delimiter first, parameter sets where decoding can begin, then its units.
    /// What kind of entry it is; `None` for a frame without any unit, of which nothing is written.
    pub fn write(&mut self, frame: &[u8], key: bool, out: &mut Vec<u8>) -> Option<Entry> {
        let entry = self.entry(frame, key);
        let begins = entry != Entry::None;
        if begins {
            self.learn(frame);
        }
        let mut is_empty = true;
        let start = out.len();
        // Room for a few start codes more than there are lengths.
        out.reserve(frame.len() + 256);
        // ISO/IEC 13818-1, 2.14: each access unit begins with a delimiter; Android's player insists.
        out.extend_from_slice(self.family.delimiter());
        if begins {
            for set in &self.sets {
                out.extend_from_slice(&START_CODE);
                out.extend_from_slice(&set.unit);
            }
        }
        for unit in nal::units(frame, self.length_size) {
            match self.family.role(unit) {
                Role::Dropped => continue,
                Role::Set(_) if begins => continue,
                _ => {}
            }
            is_empty = false;
            out.extend_from_slice(&START_CODE);
            out.extend_from_slice(unit);
        }
        if is_empty {
            out.truncate(start);
            return None;
        }
        Some(entry)
    }

    /// Parameter sets inside a frame are newer than the record, where they differ: they take the place of those of their kind.
    fn learn(&mut self, frame: &[u8]) {
        // Nearly always they are the same again, which must cost nothing.
        let changed = nal::units(frame, self.length_size)
            .filter_map(|unit| self.new_set(unit))
            .fold(0_u8, |kinds, kind| kinds | 1 << kind);
        if changed == 0 {
            return;
        }
        let is_changed = |kind: u8| changed >> kind & 1 == 1;
        self.sets.retain(|set| !is_changed(set.kind));
        for unit in nal::units(frame, self.length_size) {
            if let Some(kind) = self.new_set(unit).filter(|kind| is_changed(*kind))
                && self.sets.len() < MAX_SETS
            {
                self.sets.push(Set { kind, unit: unit.into() });
            }
        }
        self.sets.sort_by_key(|set| set.kind);
    }

    /// The kind of a parameter set that is not known yet.
    fn new_set(&self, unit: &[u8]) -> Option<u8> {
        match self.family.role(unit) {
            Role::Set(kind) if unit.len() <= MAX_SET_BYTES => {
                let is_known = self.sets.iter().any(|set| *set.unit == *unit);
                (!is_known).then_some(kind)
            }
            _ => None,
        }
    }

    /// ISO/IEC 14496-15, 5.3.3.1. Ends quietly where the record does.
    fn read_avc_record(&mut self, record: &[u8]) -> Option<()> {
        let mut rest = record.get(5..)?;
        for mask in [0x1f, 0xff] {
            let (count, after) = rest.split_first()?;
            rest = self.read_sets(count & mask, after)?;
        }
        // For some profiles, behind three bytes: sequence parameter set extensions.
        let (count, after) = rest.get(3..)?.split_first()?;
        self.read_sets(*count, after)?;
        Some(())
    }

    /// ISO/IEC 14496-15, 8.3.3.1.
    fn read_hevc_record(&mut self, record: &[u8]) -> Option<()> {
        let (arrays, mut rest) = record.get(22..)?.split_first()?;
        for _ in 0..*arrays {
            let (&[_, high, low], after) = rest.split_first_chunk()?;
            let count = u8::try_from(u16::from_be_bytes([high, low])).ok()?;
            rest = self.read_sets(count, after)?;
        }
        Some(())
    }

    fn read_sets<'a>(&mut self, count: u8, mut rest: &'a [u8]) -> Option<&'a [u8]> {
        for _ in 0..count {
            let (&size, after) = rest.split_first_chunk()?;
            let (unit, after) = after.split_at_checked(u16::from_be_bytes(size).into())?;
            rest = after;
            if let Role::Set(kind) = self.family.role(unit)
                && self.sets.len() < MAX_SETS
            {
                self.sets.push(Set { kind, unit: unit.into() });
            }
        }
        Some(rest)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Set {
    /// Their order: video, sequence, its extension, picture.
    kind: u8,
    unit: Box<[u8]>,
}

/// What a unit means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Set(u8),
    /// A slice of a picture that needs no other.
    CleanSlice,
    Sei,
    /// Delimiters, which are written anew, and filler.
    Dropped,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Avc,
    Hevc,
}

impl Family {
    fn role(self, unit: &[u8]) -> Role {
        let Some(first) = unit.first() else {
            return Role::Dropped;
        };
        match self {
            Self::Avc => match first & 0x1f {
                5 => Role::CleanSlice,
                6 => Role::Sei,
                7 => Role::Set(1),
                13 | 15 => Role::Set(2),
                8 => Role::Set(3),
                9 | 12 => Role::Dropped,
                _ => Role::Other,
            },
            Self::Hevc => match first >> 1 & 0x3f {
                16..=21 => Role::CleanSlice,
                39 => Role::Sei,
                32 => Role::Set(0),
                33 => Role::Set(1),
                34 => Role::Set(3),
                35 | 38 => Role::Dropped,
                _ => Role::Other,
            },
        }
    }

    /// With its start code: any kind of slice may follow.
    fn delimiter(self) -> &'static [u8] {
        match self {
            Self::Avc => &[0, 0, 0, 1, 0x09, 0xf0],
            Self::Hevc => &[0, 0, 0, 1, 0x46, 0x01, 0x50],
        }
    }

    /// Whether supplemental information holds a recovery point, which is type 6 in both standards. Emulation prevention is not
    /// undone: at worst a message behind one that it lengthened is not seen.
    fn has_recovery_point(self, unit: &[u8]) -> bool {
        let mut rest = unit.get(if self == Self::Avc { 1 } else { 2 }..).unwrap_or_default();
        // The last byte is the trailing bits.
        while rest.len() > 1 {
            let (Some(kind), Some(size)) = (coded_number(&mut rest), coded_number(&mut rest)) else { return false };
            if kind == RECOVERY_POINT {
                return true;
            }
            let Some(after) = rest.get(size..) else { return false };
            rest = after;
        }
        false
    }
}

/// Types and sizes of supplemental information: as many 255s as fit, and the rest.
fn coded_number(rest: &mut &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        sum += usize::from(byte);
        if byte != 0xff {
            return Some(sum);
        }
    }
}

const RECOVERY_POINT: usize = 6;
const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// Encoders send one to three. A publisher could send as many as fit into a frame, and each would be kept.
const MAX_SETS: usize = 16;
const MAX_SET_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ts::oracle::{AVC_RECORD, PPS, SPS, frame_of};

    const IDR: &[u8] = b"\x65\x88\x80";
    const SLICE: &[u8] = b"\x41\x9a";
    const DELIMITER: &[u8] = b"\x09\xf0";
    const FILLER: &[u8] = b"\x0c\xff\xff";

    fn units() -> AccessUnits {
        AccessUnits::new(VideoCodec::Avc, AVC_RECORD).unwrap()
    }

    /// The units of a frame after conversion, without start codes.
    #[track_caller]
    fn check(units: &mut AccessUnits, frame: &[&[u8]], key: bool, expected: &[&[u8]]) {
        let mut out = Vec::new();
        units.write(&frame_of(0, 0, key, frame).data, key, &mut out).unwrap();
        let expected: Vec<u8> = expected.iter().flat_map(|unit| [&START_CODE[..], unit].concat()).collect();
        assert_eq!(out, expected);
    }

    #[test]
    fn the_delimiter_comes_first_and_the_parameter_sets_before_every_idr() {
        let mut units = units();
        check(&mut units, &[IDR], true, &[DELIMITER, SPS, PPS, IDR]);
        check(&mut units, &[SLICE], false, &[DELIMITER, SLICE]);
        check(&mut units, &[IDR], true, &[DELIMITER, SPS, PPS, IDR]);
        check(&mut units, &[IDR], false, &[DELIMITER, SPS, PPS, IDR]);
    }

    #[test]
    fn what_is_written_anyway_is_not_written_twice() {
        check(
            &mut units(),
            &[DELIMITER, SPS, PPS, b"\x06\x05\x01\xff\x80", FILLER, IDR],
            true,
            &[DELIMITER, SPS, PPS, b"\x06\x05\x01\xff\x80", IDR],
        );
    }

    #[test]
    fn parameter_sets_inside_a_frame_replace_those_of_the_record() {
        let newer: &[u8] = b"\x67\x64\x00\x1f\xad";
        let mut units = units();
        check(&mut units, &[newer, PPS, IDR], true, &[DELIMITER, newer, PPS, IDR]);
        check(&mut units, &[IDR], true, &[DELIMITER, newer, PPS, IDR]);
    }

    #[test]
    fn a_change_of_parameters_inside_a_gop_is_left_where_it_is() {
        check(&mut units(), &[b"\x68\x01", SLICE], false, &[DELIMITER, b"\x68\x01", SLICE]);
    }

    #[test]
    fn lengths_of_one_and_two_bytes_are_read() {
        for (size, frame) in [(1_u8, &b"\x03\x65\x88\x80"[..]), (2, b"\x00\x03\x65\x88\x80")] {
            let mut record = AVC_RECORD.to_vec();
            record[4] = 0xfc | (size - 1);
            let mut out = Vec::new();
            let mut units = AccessUnits::new(VideoCodec::Avc, &record).unwrap();
            assert_eq!(units.write(frame, true, &mut out), Some(Entry::Clean));
            assert!(out.ends_with(b"\0\0\0\x01\x65\x88\x80"));
        }
    }

    #[test]
    fn hevc_has_its_own_delimiter_and_three_kinds_of_sets() {
        let (vps, sps, pps): (&[u8], &[u8], &[u8]) = (b"\x40\x01\x0c", b"\x42\x01\x01", b"\x44\x01\xc0");
        // The arrays of a record may stand in any order.
        let record =
            [&[1; 21][..], b"\x03\x03", b"\xa2\0\x01\0\x03", pps, b"\xa0\0\x01\0\x03", vps, b"\xa1\0\x01\0\x03", sps];
        let mut units = AccessUnits::new(VideoCodec::Hevc, &record.concat()).unwrap();
        check(&mut units, &[b"\x26\x01\xaf"], true, &[b"\x46\x01\x50", vps, sps, pps, b"\x26\x01\xaf"]);
        check(&mut units, &[b"\x46\x01\x10", b"\x02\x01\xd0"], false, &[b"\x46\x01\x50", b"\x02\x01\xd0"]);
    }

    #[test]
    fn an_entry_is_what_the_frame_says_and_not_what_its_flag_claims() {
        let recovery: &[u8] = b"\x06\x05\x02\xaa\xbb\x06\x01\xc4\x80";
        let units = units();
        let entry = |frame: &[&[u8]], key| units.entry(&frame_of(0, 0, key, frame).data, key);
        assert_eq!(entry(&[SLICE, IDR], false), Entry::Clean);
        assert_eq!(entry(&[recovery, SLICE], true), Entry::Recovery);
        assert_eq!(entry(&[recovery, SLICE], false), Entry::None);
        assert_eq!(entry(&[b"\x06\x05\x02\xaa\xbb\x80", SLICE], true), Entry::Claimed);
        assert_eq!(entry(&[SLICE], false), Entry::None);
    }

    #[test]
    fn a_frame_without_units_leaves_nothing() {
        for frame in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 9, 1], &[0, 0, 0, 2, 9, 0xf0]] {
            let mut out = vec![7];
            assert_eq!(units().write(frame, true, &mut out), None, "{frame:?}");
            assert_eq!(out, [7]);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_kept_is_bounded(record: Vec<u8>, frames: Vec<Vec<u8>>, key: bool, hevc: bool) {
            let codec = if hevc { VideoCodec::Hevc } else { VideoCodec::Avc };
            let mut record = [AVC_RECORD, &record].concat();
            record.resize(record.len().max(23), 3);
            if let Some(mut units) = AccessUnits::new(codec, &record) {
                for frame in frames {
                    let mut out = Vec::new();
                    let written = units.write(&frame, key, &mut out);
                    prop_assert_eq!(written.is_none(), out.is_empty());
                    prop_assert!(units.sets.len() <= MAX_SETS);
                }
            }
        }
    }
}
