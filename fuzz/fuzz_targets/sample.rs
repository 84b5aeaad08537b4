//! Bodies of audio and video messages as muxers take them: never more bytes than came, never an absurd time.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use livemill::media::packet::{Packet, PacketKind, Track};
use livemill::protocol::flv::sample::{MuxInput, audio_config, nal_length_size, of};
use livemill::protocol::flv::tag::{self, Reading};

fuzz_target!(|bytes: &[u8]| {
    let Some((&medium, body)) = bytes.split_first() else { return };
    let (video, body) = (medium & 1 != 0, Bytes::copy_from_slice(body));
    let (track, kind) = if video { (Track::Video, PacketKind::Key) } else { (Track::Audio, PacketKind::Audio) };
    check(&Packet::new(track, kind, 1000, body.clone()));
    if let Ok(Reading::Frame(frame)) = tag::read(video, body) {
        check(&Packet::new(frame.track, frame.kind, 1000, frame.payload));
    }
});

fn check(packet: &Packet) {
    match of(packet) {
        Some(MuxInput::Sample(sample)) => {
            assert!(!sample.data.is_empty() && sample.data.len() < packet.len(), "{sample:?}");
            assert!((sample.pts_ms() - packet.time_ms()).abs() <= 10_000, "{sample:?}");
            assert!(!sample.is_random_access(Some(4)) || sample.key);
            if let Some(MuxInput::AudioConfig { info, .. }) = audio_config(&sample) {
                assert!(info.is_some_and(|info| info.rate > 0 && info.channels != Some(0)));
            }
        }
        Some(MuxInput::VideoConfig { codec, record, .. }) => {
            assert!(record.len() < packet.len());
            assert!(nal_length_size(codec, &record).is_none_or(|size| [1, 2, 4].contains(&size)));
        }
        Some(MuxInput::AudioConfig { record, .. }) => assert!(record.len() < packet.len()),
        Some(MuxInput::Other) | None => {}
    }
}
