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
        for kind in [0, 1, 2, 3] {
            let mut news: SmallVec<[Set; 4]> = SmallVec::new();
            let mut is_new = false;
            for unit in nal::units(frame, self.length_size) {
                if self.family.role(unit) != Role::Set(kind) || unit.len() > MAX_SET_BYTES || news.len() == MAX_SETS {
                    continue;
                }
                is_new |= !self.sets.iter().any(|set| *set.unit == *unit);
                if !news.iter().any(|set| *set.unit == *unit) {
                    news.push(Set { kind, unit: unit.into() });
                }
            }
            if is_new {
                self.sets.retain(|set| set.kind != kind);
                self.sets.append(&mut news);
                self.sets.sort_by_key(|set| set.kind);
            }
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
