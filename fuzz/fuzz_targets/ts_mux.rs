//! Arbitrary records and frames through the segmenter: what comes out is whole packets that begin with tables.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livemill::media::codec::{AudioCodec, Codec, VideoCodec, audio_info};
use livemill::media::packet::Track;
use livemill::protocol::flv::sample::{MuxInput, Sample};
use livemill::protocol::hls::rules::TsHlsRules;
use livemill::protocol::hls::segmenter::{Segment, TsSegmenter};

fuzz_target!(|bytes: &[u8]| {
    let rules = TsHlsRules { fragment_ms: 1_000, max_fragment_ms: 5_000, ..TsHlsRules::default() };
    let mut segmenter = TsSegmenter::new(&rules);
    let mut rest = bytes;
    let mut dts_ms = 0;
    // Each step: what, a step in time, a composition time, the size of what follows.
    while let Some((&[what, step, cts, size], after)) = rest.split_first_chunk() {
        let (data, after) = after.split_at(usize::from(size).min(after.len()));
        rest = after;
        dts_ms += i64::from(step) * if what & 0x80 == 0 { 1 } else { 100 };
        let data = Bytes::copy_from_slice(data);
        let video = if what & 0x10 == 0 { VideoCodec::Avc } else { VideoCodec::Hevc };
        let audio = [AudioCodec::Aac, AudioCodec::Mp3, AudioCodec::Opus, AudioCodec::Eac3][usize::from(what >> 5 & 3)];
        let cts_ms = i32::from(cts.cast_signed()) * 10;
        let input = match what & 7 {
            0 => MuxInput::VideoConfig { codec: video, record: data, info: None },
            1 => MuxInput::AudioConfig { codec: audio, info: audio_info(audio, &data), record: data },
            2 => {
                check(segmenter.restart());
                continue;
            }
            3 => {
                let codec = Codec::Audio(audio);
                MuxInput::Sample(Sample { track: Track::Audio, codec, dts_ms, cts_ms: 0, key: true, data })
            }
            kind => {
                let codec = Codec::Video(video);
                MuxInput::Sample(Sample { track: Track::Video, codec, dts_ms, cts_ms, key: kind == 4, data })
            }
        };
        check(segmenter.push(input, 0));
    }
    check(segmenter.finish());
});

fn check(segments: impl IntoIterator<Item = Segment>) {
    for segment in segments {
        assert_eq!(segment.bytes.len() % 188, 0);
        assert!(segment.bytes.chunks(188).all(|packet| packet[0] == 0x47));
        assert_eq!(segment.bytes[1..3], [0x40, 0]);
        assert_eq!(segment.bytes[189..191], [0x50, 0x01]);
        assert!(segment.duration_ms > 0);
    }
}
