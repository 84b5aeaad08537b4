//! Fragments of MP4: what a part of 200 ms costs, by hand and by mp4-atom, and what a stream costs that is cut into them.

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use livemill::media::codec::{AudioCodec, Codec, VideoCodec, audio_info, video_info};
use livemill::media::packet::Track;
use livemill::protocol::flv::sample::{MuxInput, Sample};
use livemill::protocol::mp4::chunker::{ChunkRules, Chunker};
use livemill::protocol::mp4::fragment::{FragmentSample, Run, fragment};
use mp4_atom::{Encode, Mdat, Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry};

fn main() {
    divan::main();
}

/// 200 ms of a stream of 5.5 Mbit/s: five frames of video, nine of audio.
fn part() -> (Vec<FragmentSample>, Vec<FragmentSample>) {
    let sample =
        |size: usize, duration, key| FragmentSample { duration, cts: 0, key, data: Bytes::from(vec![7; size]) };
    let video = (0..5).map(|at| sample(if at == 0 { 60_000 } else { 19_000 }, 3600, at == 0)).collect();
    (video, (0..9).map(|_| sample(170, 1024, true)).collect())
}

#[divan::bench]
fn part_by_hand(bencher: Bencher<'_, '_>) {
    let (video, audio) = part();
    let runs = [
        Run { track: 1, video: true, base: 90_000, samples: &video },
        Run { track: 2, video: false, base: 44_100, samples: &audio },
    ];
    let mut out = Vec::new();
    fragment(1, &runs, &mut out);
    bencher.counter(BytesCount::new(out.len())).bench_local(|| {
        let mut out = Vec::new();
        fragment(1, black_box(&runs), &mut out);
        out
    });
}

#[divan::bench]
fn part_by_mp4_atom(bencher: Bencher<'_, '_>) {
    let (video, audio) = part();
    let size: usize = video.iter().chain(&audio).map(|sample| sample.data.len()).sum();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        let traf = |track_id, samples: &[FragmentSample], offset| Traf {
            tfhd: Tfhd { track_id, default_base_is_moof: true, ..Tfhd::default() },
            tfdt: Some(Tfdt { base_media_decode_time: 1 << 33 }),
            trun: vec![Trun {
                data_offset: Some(offset),
                samples: samples
                    .iter()
                    .map(|sample| TrunEntry {
                        duration: Some(sample.duration),
                        size: Some(sample.data.len() as u32),
                        flags: Some(0x0200_0000),
                        cts: Some(sample.cts.into()),
                    })
                    .collect::<Vec<_>>()
                    .into(),
            }],
            ..Traf::default()
        };
        let moof = Moof {
            mfhd: Mfhd { sequence_number: 1 },
            traf: vec![traf(1, black_box(&video), 0), traf(2, black_box(&audio), 0)],
        };
        let mut data = Vec::with_capacity(size);
        video.iter().chain(&audio).for_each(|sample| data.extend_from_slice(&sample.data));
        let mut out = Vec::new();
        moof.encode(&mut out).expect("into memory");
        Mdat { data }.encode(&mut out).expect("into memory");
        out
    });
}

/// Ten seconds of a stream of 5 Mbit/s, a keyframe every two, through the chunker.
#[divan::bench(args = [true, false])]
fn ten_seconds_of_cmaf(bencher: Bencher<'_, '_>, low_latency: bool) {
    let inputs = ten_seconds();
    let size: usize =
        inputs.iter().map(|input| if let MuxInput::Sample(sample) = input { sample.data.len() } else { 0 }).sum();
    let rules = ChunkRules { part_ms: 210, fragment_ms: 2000, max_segment_ms: 6000, low_latency };
    bencher.counter(BytesCount::new(size)).with_inputs(|| inputs.clone()).bench_local_values(|inputs| {
        let mut chunker = Chunker::new(rules);
        inputs.into_iter().map(|input| chunker.push(input, 0).len()).sum::<usize>()
    });
}

fn ten_seconds() -> Vec<MuxInput> {
    let record = Bytes::from_static(b"\x01\x42\xc0\x1e\xff\xe1\0\0");
    let config = Bytes::from_static(b"\x12\x10");
    let mut inputs = vec![
        MuxInput::VideoConfig { codec: VideoCodec::Avc, info: video_info(VideoCodec::Avc, &record), record },
        MuxInput::AudioConfig { codec: AudioCodec::Aac, info: audio_info(AudioCodec::Aac, &config), record: config },
    ];
    let sample =
        |track, codec, dts_ms, key, data| MuxInput::Sample(Sample { track, codec, dts_ms, cts_ms: 0, key, data });
    let mut audio_at = 0;
    for frame in 0..250_i64 {
        let key = frame % 50 == 0;
        let size = if key { 120_000_u32 } else { 20_000 };
        let nal =
            [&(size - 4).to_be_bytes()[..], &[if key { 0x65 } else { 0x41 }], &vec![7; size as usize - 5]].concat();
        inputs.push(sample(Track::Video, Codec::Video(VideoCodec::Avc), frame * 40, key, nal.into()));
        while audio_at * 1024 * 1000 / 44_100 < (frame + 1) * 40 {
            let data = Bytes::from(vec![7; 170]);
            let time_ms = audio_at * 1024 * 1000 / 44_100;
            inputs.push(sample(Track::Audio, Codec::Audio(AudioCodec::Aac), time_ms, true, data));
            audio_at += 1;
        }
    }
    inputs
}
