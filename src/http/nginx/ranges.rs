//! `Range`: which bytes of a file are asked for.

use std::ops::Range;

/// What becomes of a `Range` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The whole: there is no range in it, or too many.
    Whole,
    Some(Vec<Range<u64>>),
    /// 416
    Unsatisfiable,
}

/// Reads the header for something of this length, as nginx does: what overlaps to more than the whole is the whole.
pub fn read(header: &str, length: u64, max_ranges: usize) -> Asked {
    // nginx does not even look at one that is too short to say anything.
    let Some(list) = header
        .get(..6)
        .filter(|unit| unit.eq_ignore_ascii_case("bytes="))
        .and(header.get(6..))
        .filter(|list| !list.is_empty())
    else {
        return Asked::Whole;
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut size: u64 = 0;
    for item in list.split(',') {
        let Some((first, last)) = item.trim_matches(' ').split_once('-') else { return Asked::Unsatisfiable };
        let number = |text: &str| {
            let text = text.trim_matches(' ');
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|number| is_number && *number <= i64::MAX as u64)
        };
        let (start, end) = match (first.is_empty(), last.trim_matches(' ').is_empty()) {
            (true, true) => return Asked::Unsatisfiable,
            (true, false) => match number(last) {
                // The last bytes.
                Some(suffix) => (length.saturating_sub(suffix), length),
                None => return Asked::Unsatisfiable,
            },
            (false, true) => match number(first) {
                Some(start) => (start, length),
                None => return Asked::Unsatisfiable,
            },
            (false, false) => match (number(first), number(last)) {
                (Some(start), Some(end)) => (start, end.saturating_add(1).min(length)),
                _ => return Asked::Unsatisfiable,
            },
        };
        if start < end {
            if ranges.len() >= max_ranges.min(MAX_RANGES) {
                return Asked::Whole;
            }
            size = size.saturating_add(end - start);
            ranges.push(start..end);
        } else if start == 0 {
            return Asked::Whole;
        }
    }
    if ranges.is_empty() {
        return Asked::Unsatisfiable;
    }
    if size > length { Asked::Whole } else { Asked::Some(ranges) }
}

/// A player asks for one, a document viewer for a few.
const MAX_RANGES: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(ranges: &[Range<u64>]) -> Asked {
        Asked::Some(ranges.to_vec())
    }

    fn one(start: u64, end: u64) -> Asked {
        Asked::Some(Vec::from_iter([Range { start, end }]))
    }

    #[test]
    fn ranges_are_those_of_nginx() {
        for (header, expected) in [
            ("bytes=0-0", one(0, 1)),
            ("bytes=0-", one(0, 10)),
            ("bytes=-3", one(7, 10)),
            ("bytes=-30", one(0, 10)),
            ("bytes=5-20", one(5, 10)),
            ("bytes=0-1, 8-9", some(&[0..2, 8..10])),
            ("Bytes=1-2", one(1, 3)),
            ("bytes=10-", Asked::Unsatisfiable),
            ("bytes=5-2", Asked::Unsatisfiable),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Unsatisfiable),
            ("bytes=a-b", Asked::Unsatisfiable),
            ("bytes=99999999999999999999-", Asked::Unsatisfiable),
            ("bytes=0-99999999999999999999", Asked::Unsatisfiable),
            ("bytes=0-9,0-9", Asked::Whole),
            ("lines=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(read(header, 10, usize::MAX), expected, "{header}");
        }
        assert_eq!(read("bytes=0-", 0, usize::MAX), Asked::Whole);
        let many = format!("bytes={}", ["0-0"; 1000].join(","));
        assert_eq!(read(&many, 10_000, usize::MAX), Asked::Whole);
        assert_eq!(read("bytes=0-1", 10, 0), Asked::Whole);
    }

    proptest! {
        #[test]
        fn no_header_leads_outside(header in "bytes=[-0-9, ]{0,40}", length in 0_u64..100) {
            if let Asked::Some(ranges) = read(&header, length, usize::MAX) {
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= length));
            }
        }
    }
}
