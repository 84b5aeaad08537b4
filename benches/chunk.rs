//! Chunk writing and reading, and AMF: what each message costs before anybody is sent anything.

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use livemill::protocol::amf::{self, Limits, Value};
use livemill::protocol::rtmp::chunk::{self, ChunkLimits, ChunkReader, WireStyle};
use livemill::protocol::rtmp::message::{csid, kind};

fn main() {
    divan::main();
}

/// An audio frame, a video frame of a 1 Mbit/s stream, and a keyframe of an 8 Mbit/s one.
const SIZES: [usize; 3] = [280, 4_000, 200_000];
const CHUNK_SIZES: [u32; 3] = [128, 4096, 65_536];

fn style(chunk_size: u32) -> WireStyle {
    WireStyle { chunk_size, repeat_extended: true }
}

/// A second of a stream as it comes over the wire: 25 video and 43 audio messages.
fn one_second(chunk_size: u32) -> Vec<u8> {
    let mut wire = Vec::new();
    let (video, audio) = (vec![1; 4_500], vec![2; 280]);
    for frame in 0..25 {
        chunk::write(&mut wire, style(chunk_size), csid::VIDEO, frame * 40, kind::VIDEO, 1, &video);
        for _ in 0..1 + u32::from(frame % 4 != 0) {
            chunk::write(&mut wire, style(chunk_size), csid::AUDIO, frame * 40, kind::AUDIO, 1, &audio);
        }
    }
    wire
}

#[divan::bench(args = SIZES)]
fn write(bencher: Bencher<'_, '_>, size: usize) {
    let payload = vec![1; size];
    let mut out = BytesMut::with_capacity(size * 2);
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        chunk::write(&mut out, style(4096), csid::VIDEO, 40, kind::VIDEO, 1, black_box(&payload));
        out.len()
    });
}

/// What a server does with a publisher's bytes, in reads of 16 KiB.
#[divan::bench(args = CHUNK_SIZES)]
fn read_one_second(bencher: Bencher<'_, '_>, chunk_size: u32) {
    let wire = one_second(chunk_size);
    bencher.counter(BytesCount::new(wire.len())).with_inputs(|| reader(chunk_size)).bench_local_values(|mut reader| {
        let mut messages = 0;
        for mut piece in wire.chunks(16 * 1024) {
            while let Some(message) = reader.read(&mut piece).expect("we wrote it") {
                black_box(message);
                messages += 1;
            }
        }
        messages
    });
}

fn reader(chunk_size: u32) -> ChunkReader {
    let mut reader = ChunkReader::new(ChunkLimits::default());
    reader.set_chunk_size(chunk_size);
    reader
}

fn connect() -> Vec<u8> {
    let text = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
    let number = |key: &str, value: f64| (key.to_owned(), Value::Number(value));
    amf::encode_all(&[
        Value::String("connect".to_owned()),
        Value::Number(1.0),
        Value::Object(vec![
            text("app", "live"),
            text("flashVer", "LNX 9,0,124,2"),
            text("tcUrl", "rtmp://media.example.net:1935/live"),
            ("fpad".to_owned(), Value::Boolean(false)),
            number("capabilities", 15.0),
            number("audioCodecs", 4071.0),
            number("videoCodecs", 252.0),
            number("videoFunction", 1.0),
        ]),
    ])
}

#[divan::bench]
fn amf_decode_connect(bencher: Bencher<'_, '_>) {
    let body = connect();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| amf::decode_all(black_box(&body), &Limits::COMMAND));
}

#[divan::bench]
fn amf_encode_connect(bencher: Bencher<'_, '_>) {
    let values = amf::decode_all(&connect(), &Limits::COMMAND).expect("we wrote it");
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| amf::encode_all(black_box(&values)));
}
