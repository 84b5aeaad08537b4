//! Heads of audio and video messages: read or refused, and once normalised they stay as they are.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livemill::protocol::flv::tag::{Reading, hevc_enhanced, read};

fuzz_target!(|bytes: &[u8]| {
    let Some((&medium, body)) = bytes.split_first() else { return };
    let video = medium & 1 != 0;
    let Ok(Reading::Frame(frame)) = read(video, Bytes::copy_from_slice(body)) else { return };
    assert!(frame.payload.len() <= body.len() + 16, "{frame:?}");
    assert!(frame.nanos <= 999_999, "{frame:?}");
    assert!(frame.data().len() <= frame.payload.len());

    match read(video, frame.payload.clone()) {
        Ok(Reading::Frame(again)) => {
            assert_eq!(again.payload, frame.payload);
            assert_eq!((again.codec, again.kind, again.cts_ms), (frame.codec, frame.kind, frame.cts_ms));
            assert_eq!(again.original, None, "what is normal is not changed");
        }
        other => panic!("{frame:?} reads back as {other:?}"),
    }
    if video {
        let enhanced = hevc_enhanced(&frame.payload);
        assert!(matches!(read(video, enhanced), Ok(Reading::Frame(_) | Reading::Nothing)));
    }
});
