//! A fragment: `moof`, which says where each sample is, and `mdat`, which holds them.

use bytes::Bytes;

use super::init::{NON_SYNC_SAMPLE, SYNC_SAMPLE};

/// One sample as it goes into a fragment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FragmentSample {
    /// In ticks of the track, as are all times here.
    pub duration: u32,
    /// What to add to the decoding time to get the presentation time.
    pub cts: i32,
    /// A place to start; every sample of audio is.
    pub key: bool,
    pub data: Bytes,
}

/// The samples of one track in a fragment.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub track: u32,
    pub video: bool,
    /// The decoding time of the first sample. The others follow from the durations.
    pub base: u64,
    pub samples: &'a [FragmentSample],
}

/// Appends `moof` and `mdat` to `out`, each run as one `traf`, with one allocation at most. By hand, since this is
/// what every part of every stream passes through; a test compares it with mp4-atom.
///
/// The samples of a fragment are far below 4 GiB: whoever collects them has a bound (`MAX_PART_BYTES`).
pub fn fragment(sequence: u32, runs: &[Run<'_>], out: &mut Vec<u8>) {
    let moof = MOOF_HEAD + runs.iter().map(traf_size).sum::<usize>();
    let media: usize = runs.iter().flat_map(|run| run.samples).map(|sample| sample.data.len()).sum();
    out.reserve(moof + 8 + media);

    head(out, moof, b"moof");
    head(out, 16, b"mfhd");
    number(out, 0);
    number(out, sequence);
    let mut offset = moof + 8;
    for run in runs {
        write_traf(out, run, offset);
        offset += run.samples.iter().map(|sample| sample.data.len()).sum::<usize>();
    }

    head(out, 8 + media, b"mdat");
    for sample in runs.iter().flat_map(|run| run.samples) {
        // The one copy: from here on the fragment is shared by all its viewers.
        out.extend_from_slice(&sample.data);
    }
}

fn write_traf(out: &mut Vec<u8>, run: &Run<'_>, offset: usize) {
    head(out, traf_size(run), b"traf");

    head(out, TFHD, b"tfhd");
    number(out, DEFAULT_BASE_IS_MOOF);
    number(out, run.track);

    head(out, TFDT, b"tfdt");
    number(out, VERSION_1);
    out.extend_from_slice(&run.base.to_be_bytes());

    head(out, trun_size(run), b"trun");
    let fields = if run.video { SAMPLE_FLAGS | SAMPLE_CTS } else { 0 };
    number(out, VERSION_1 | DATA_OFFSET | SAMPLE_DURATION | SAMPLE_SIZE | fields);
    number(out, to_u32(run.samples.len()));
    number(out, to_u32(offset));
    for sample in run.samples {
        number(out, sample.duration);
        number(out, to_u32(sample.data.len()));
        if run.video {
            number(out, if sample.key { SYNC_SAMPLE } else { NON_SYNC_SAMPLE });
            number(out, sample.cts.cast_unsigned());
        }
    }
}

fn traf_size(run: &Run<'_>) -> usize {
    8 + TFHD + TFDT + trun_size(run)
}

fn trun_size(run: &Run<'_>) -> usize {
    20 + run.samples.len() * if run.video { 16 } else { 8 }
}

fn head(out: &mut Vec<u8>, size: usize, kind: &[u8; 4]) {
    number(out, to_u32(size));
    out.extend_from_slice(kind);
}

fn number(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn to_u32(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// `moof`'s own head and `mfhd`.
const MOOF_HEAD: usize = 8 + 16;
const TFHD: usize = 16;
const TFDT: usize = 20;

const VERSION_1: u32 = 1 << 24;
const DEFAULT_BASE_IS_MOOF: u32 = 0x02_0000;
const DATA_OFFSET: u32 = 0x1;
const SAMPLE_DURATION: u32 = 0x100;
const SAMPLE_SIZE: u32 = 0x200;
const SAMPLE_FLAGS: u32 = 0x400;
const SAMPLE_CTS: u32 = 0x800;

#[cfg(test)]
mod tests {
    use mp4_atom::{DecodeMaybe, Encode, Mdat, Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry};

    use super::*;

    fn samples(count: usize, size: usize, duration: u32) -> Vec<FragmentSample> {
        (0..count)
            .map(|at| FragmentSample {
                duration,
                cts: if at % 2 == 0 { -3000 } else { 7200 },
                key: at == 0,
                data: Bytes::from(vec![at as u8; size + at]),
            })
            .collect()
    }

    /// The same fragment, built of mp4-atom's boxes.
    fn by_mp4_atom(sequence: u32, runs: &[Run<'_>]) -> Vec<u8> {
        let build = |start: usize| {
            let mut offset = start;
            let traf = |run: &Run<'_>| {
                let entry = |sample: &FragmentSample| TrunEntry {
                    duration: Some(sample.duration),
                    size: Some(sample.data.len() as u32),
                    flags: run.video.then_some(if sample.key { SYNC_SAMPLE } else { NON_SYNC_SAMPLE }),
                    cts: run.video.then_some(sample.cts.into()),
                };
                let trun = Trun {
                    data_offset: Some(offset as i32),
                    samples: run.samples.iter().map(entry).collect::<Vec<_>>().into(),
                };
                offset += run.samples.iter().map(|sample| sample.data.len()).sum::<usize>();
                Traf {
                    tfhd: Tfhd { track_id: run.track, default_base_is_moof: true, ..Tfhd::default() },
                    tfdt: Some(Tfdt { base_media_decode_time: run.base }),
                    trun: vec![trun],
                    ..Traf::default()
                }
            };
            let moof = Moof { mfhd: Mfhd { sequence_number: sequence }, traf: runs.iter().map(traf).collect() };
            let mut out = Vec::new();
            moof.encode(&mut out).unwrap();
            out
        };
        let mut out = build(build(0).len() + 8);
        let data = runs.iter().flat_map(|run| run.samples).flat_map(|sample| sample.data.to_vec()).collect();
        Mdat { data }.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn every_byte_is_as_mp4_atom_writes_it() {
        let (video, audio) = (samples(5, 400, 3600), samples(9, 100, 1024));
        // A time that needs 64 bits: mp4-atom writes shorter ones in 32.
        let video = Run { track: 1, video: true, base: 5 << 32, samples: &video };
        let audio = Run { track: 2, video: false, base: 7 << 32, samples: &audio };
        for runs in [&[video][..], &[audio], &[video, audio]] {
            let mut out = Vec::new();
            fragment(7, runs, &mut out);
            assert_eq!(out, by_mp4_atom(7, runs));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let video = samples(3, 10, 3600);
        let mut out = b"before".to_vec();
        fragment(9, &[Run { track: 1, video: true, base: 90_000, samples: &video }], &mut out);
        let mut rest = &out[6..];
        let moof = Moof::decode_maybe(&mut rest).unwrap().unwrap();
        let mdat = Mdat::decode_maybe(&mut rest).unwrap().unwrap();
        let (traf, moof_size) = (&moof.traf[0], out.len() - 6 - 8 - mdat.data.len());
        assert!(rest.is_empty());
        assert_eq!(moof.mfhd.sequence_number, 9);
        assert_eq!(traf.tfdt.as_ref().unwrap().base_media_decode_time, 90_000);
        assert_eq!(traf.trun[0].data_offset, Some((moof_size + 8) as i32));
        let read: Vec<_> = traf.trun[0].samples.iter().map(|entry| (entry.duration, entry.size, entry.cts)).collect();
        let written: Vec<_> = video
            .iter()
            .map(|sample| (Some(sample.duration), Some(sample.data.len() as u32), Some(i64::from(sample.cts))))
            .collect();
        assert_eq!(read, written);
        assert_eq!(mdat.data.len(), 10 + 11 + 12);
    }
}
