//! When the fragments of a fMP4 file begin and how long they last, read from their boxes by this harness's own code.

/// One track of one fragment, in its ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentTime {
    pub track: u32,
    pub start: u64,
    pub duration: u64,
}

/// Reads segments, parts, or any run of them one behind the other; panics where the boxes make no sense.
pub fn fragment_times(bytes: &[u8]) -> Vec<FragmentTime> {
    let mut times = Vec::new();
    for (_, moof) in boxes(bytes).filter(|(kind, _)| kind == b"moof") {
        for (_, traf) in boxes(moof).filter(|(kind, _)| kind == b"traf") {
            times.push(traf_time(traf));
        }
    }
    times
}

/// Asserts that each track goes on where it was, across all that is given in order.
#[track_caller]
pub fn assert_continuous(times: &[FragmentTime]) {
    let mut ends: Vec<(u32, u64)> = Vec::new();
    for time in times {
        match ends.iter_mut().find(|(track, _)| *track == time.track) {
            Some((_, end)) => {
                assert_eq!(time.start, *end, "track {} does not go on where it was", time.track);
                *end += time.duration;
            }
            None => ends.push((time.track, time.start + time.duration)),
        }
    }
}

/// The boxes of a run, each with what it holds.
pub fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let size = number(bytes, 0) as usize;
        assert!(size >= 8 && size <= bytes.len(), "a box of {size} bytes in {}", bytes.len());
        let kind = bytes[4..8].try_into().expect("four bytes");
        let content = &bytes[8..size];
        bytes = &bytes[size..];
        Some((kind, content))
    })
}

fn traf_time(traf: &[u8]) -> FragmentTime {
    let find = |wanted: &[u8; 4]| boxes(traf).find(|(kind, _)| kind == wanted).map(|(_, content)| content);
    let tfhd = find(b"tfhd").expect("a tfhd");
    let tfdt = find(b"tfdt").expect("a tfdt");
    let start = match tfdt[0] {
        0 => u64::from(number(tfdt, 4)),
        _ => u64::from_be_bytes(tfdt[4..12].try_into().expect("eight bytes")),
    };
    let mut at = 8;
    let flags = number(tfhd, 0);
    for (flag, size) in [(0x1, 8), (0x2, 4)] {
        at += if flags & flag != 0 { size } else { 0 };
    }
    let default = if flags & 0x8 != 0 { Some(number(tfhd, at)) } else { None };
    let runs = boxes(traf).filter(|(kind, _)| kind == b"trun");
    FragmentTime { track: number(tfhd, 4), start, duration: runs.map(|(_, trun)| run_duration(trun, default)).sum() }
}

fn run_duration(trun: &[u8], default: Option<u32>) -> u64 {
    let flags = number(trun, 0);
    let samples = number(trun, 4) as usize;
    if flags & 0x100 == 0 {
        return samples as u64 * u64::from(default.expect("a duration, of each sample or of all"));
    }
    let head: usize = 8 + [0x1, 0x4].iter().filter(|flag| flags & **flag != 0).count() * 4;
    let sample: usize = [0x100, 0x200, 0x400, 0x800].iter().filter(|flag| flags & **flag != 0).count() * 4;
    (0..samples).map(|at| u64::from(number(trun, head + at * sample))).sum()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
