//! Muxing to MPEG-TS and cutting into segments: what each byte of a stream costs a core.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use livemill::media::codec::{AudioCodec, Codec, VideoCodec, audio_info};
use livemill::media::packet::Track;
use livemill::protocol::flv::sample::{MuxInput, Sample};
use livemill::protocol::hls::crypt::Key;
use livemill::protocol::hls::rules::TsHlsRules;
use livemill::protocol::hls::segmenter::TsSegmenter;
use livemill::protocol::ts::{TsMuxer, TsRules};

/// The server's own: what segments are kept in is a part of what they cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// An inter frame of a 1 Mbit/s stream, one of 10 Mbit/s, and a keyframe of that.
const SIZES: [usize; 3] = [4_000, 40_000, 400_000];
const AUDIO_FRAME: usize = 340;

/// High profile, with a set of each kind, as short as they are.
const AVC_RECORD: &[u8] = b"\x01\x64\x00\x28\xff\xe1\x00\x05\x67\x64\x00\x28\xac\x01\x00\x04\x68\xee\x3c\x80";
const AAC_RECORD: &[u8] = b"\x12\x10";

#[divan::bench(args = SIZES)]
fn video(bencher: Bencher<'_, '_>, size: usize) {
    let sample = frame(0, size, false);
    let mut muxer = muxer();
    let mut out = Vec::with_capacity(size * 2);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        muxer.write_video(black_box(&sample), &mut out);
        out.len()
    });
}

/// A PES packet of 300 ms.
#[divan::bench]
fn audio(bencher: Bencher<'_, '_>) {
    let samples: Vec<Sample> = (0..13).map(|at| sound(at * 23)).collect();
    let mut muxer = muxer();
    let mut out = Vec::with_capacity(AUDIO_FRAME * 26);
    bencher.counter(BytesCount::new(13 * AUDIO_FRAME)).bench_local(|| {
        out.clear();
        muxer.write_audio(black_box(&samples), &mut out);
        out.len()
    });
}

/// Ten seconds of 8 Mbit/s at 25 frames a second with a keyframe every two, and 128 kbit/s of audio: everything HLS costs but the files.
#[divan::bench]
fn segment_ten_seconds(bencher: Bencher<'_, '_>) {
    let inputs = ten_seconds();
    let size = inputs.iter().map(weight).sum::<usize>();
    let rules = TsHlsRules { fragment_ms: 2_000, ..TsHlsRules::default() };
    bencher.counter(BytesCount::new(size)).with_inputs(|| inputs.clone()).bench_local_values(|inputs| {
        let mut segmenter = TsSegmenter::new(&rules);
        let whole: usize = inputs.into_iter().map(|input| segmenter.push(input, 0).len()).sum();
        (whole, segmenter.finish())
    });
}

/// The same, counted in streams that one core could serve.
#[divan::bench]
fn streams_of_8_mbit(bencher: Bencher<'_, '_>) {
    let inputs = ten_seconds();
    let rules = TsHlsRules { fragment_ms: 2_000, ..TsHlsRules::default() };
    bencher.counter(ItemsCount::new(10_u32)).with_inputs(|| inputs.clone()).bench_local_values(|inputs| {
        let mut segmenter = TsSegmenter::new(&rules);
        inputs.into_iter().map(|input| segmenter.push(input, 0).len()).sum::<usize>()
    });
}

/// What `hls_keys` adds, for a segment of a megabyte.
#[divan::bench]
fn encrypt(bencher: Bencher<'_, '_>) {
    let segment = vec![7; 1 << 20];
    let key = Key::new(1, [5; 16]);
    bencher.counter(BytesCount::new(segment.len())).bench_local(|| key.encrypt(black_box(&segment)));
}

/// The floor: the same bytes moved once.
#[divan::bench(args = SIZES)]
fn copy(bencher: Bencher<'_, '_>, size: usize) {
    let from = vec![7_u8; size];
    let mut out = Vec::with_capacity(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        out.extend_from_slice(black_box(&from));
        out.len()
    });
}

fn muxer() -> TsMuxer {
    let mut muxer = TsMuxer::new(TsRules::default());
    for config in configs() {
        assert!(muxer.configure(&config));
    }
    muxer
}

fn configs() -> [MuxInput; 2] {
    let info = audio_info(AudioCodec::Aac, AAC_RECORD);
    [
        MuxInput::VideoConfig { codec: VideoCodec::Avc, record: Bytes::from_static(AVC_RECORD), info: None },
        MuxInput::AudioConfig { codec: AudioCodec::Aac, record: Bytes::from_static(AAC_RECORD), info },
    ]
}

fn ten_seconds() -> Vec<MuxInput> {
    let mut inputs = Vec::from(configs());
    let mut sound_ms = 0;
    for number in 0..250 {
        let time_ms = number * 40;
        let key = number % 50 == 0;
        inputs.push(MuxInput::Sample(frame(time_ms, if key { 240_000 } else { 36_000 }, key)));
        while sound_ms < time_ms {
            inputs.push(MuxInput::Sample(sound(sound_ms)));
            sound_ms += 23;
        }
    }
    inputs
}

fn weight(input: &MuxInput) -> usize {
    match input {
        MuxInput::Sample(sample) => sample.data.len(),
        _ => 0,
    }
}

/// One slice that fills the frame.
fn frame(dts_ms: i64, size: usize, key: bool) -> Sample {
    let length = u32::try_from(size - 4).expect("a frame's size");
    let mut data = Vec::with_capacity(size);
    data.extend_from_slice(&length.to_be_bytes());
    data.push(if key { 0x65 } else { 0x41 });
    data.resize(size, 0xa5);
    let codec = Codec::Video(VideoCodec::Avc);
    Sample { track: Track::Video, codec, dts_ms, cts_ms: 80, key, data: Bytes::from(data) }
}

fn sound(dts_ms: i64) -> Sample {
    let data = Bytes::from(vec![0x21; AUDIO_FRAME]);
    Sample { track: Track::Audio, codec: Codec::Audio(AudioCodec::Aac), dts_ms, cts_ms: 0, key: true, data }
}
