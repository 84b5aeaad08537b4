//! One second of a stream to a thousand players, all but the system calls: what the server adds to what the kernel takes.

use std::time::Duration;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use livemill::media::gather::{Gather, GatherRules};
use livemill::media::packet::{Batch, Packet, PacketKind, Track};
use livemill::media::queue::{Item, QueueRules, SendQueue};
use livemill::protocol::rtmp::chunk::WireStyle;
use livemill::protocol::rtmp::wire::PlayForm;

fn main() {
    divan::main();
}

const PLAYERS: [usize; 3] = [1, 100, 1000];

const LOW_LATENCY: GatherRules = GatherRules { low_latency: true, ..DEFAULT };
const DEFAULT: GatherRules =
    GatherRules { low_latency: false, audio_hold: Duration::from_millis(40), merge: Duration::ZERO, cork: None };
const MERGE_100: GatherRules = GatherRules { merge: Duration::from_millis(100), ..DEFAULT };

const QUEUE: QueueRules = QueueRules {
    max_bytes: 4 << 20,
    max_ms: 10_000,
    max_packets: None,
    wait_key: false,
    wait_video: false,
    jump_to_keyframe: false,
};

#[divan::bench(args = PLAYERS)]
fn low_latency(bencher: Bencher<'_, '_>, players: usize) {
    fan_out(bencher, players, LOW_LATENCY);
}

#[divan::bench(args = PLAYERS)]
fn audio_rides(bencher: Bencher<'_, '_>, players: usize) {
    fan_out(bencher, players, DEFAULT);
}

#[divan::bench(args = PLAYERS)]
fn merge_100_ms(bencher: Bencher<'_, '_>, players: usize) {
    fan_out(bencher, players, MERGE_100);
}

/// The counter is players: its inverse is the time per player and second.
fn fan_out(bencher: Bencher<'_, '_>, players: usize, rules: GatherRules) {
    let form = PlayForm::new(WireStyle { chunk_size: 4096, repeat_extended: true }, false);
    let mut queues: Vec<SendQueue> = (0..players).map(|_| SendQueue::new(QUEUE)).collect();
    // The packets anew each time: their bytes are built once and kept.
    bencher.counter(ItemsCount::new(players)).with_inputs(one_second).bench_local_values(|packets| {
        let mut gather = Gather::new(rules);
        let mut written = 0;
        for (packet, at) in packets {
            let is_video = packet.track() == Track::Video;
            gather.push(packet, is_video, at);
            let Some(together) = gather.ready(at) else { continue };
            let batch = Batch::new(together.into_iter().collect());
            for queue in &mut queues {
                queue.offer(&batch);
                while let Some(item) = queue.pop() {
                    let bytes = match item {
                        Item::Control(bytes) => bytes,
                        Item::Batch(batch) => form.batch(&batch),
                        Item::Packet(packet) => form.packet(&packet),
                    };
                    written += black_box(bytes).len();
                }
            }
        }
        written
    });
}

/// 25 video frames and 43 audio frames, in the order of their times.
fn one_second() -> Vec<(Packet, Duration)> {
    let video = Bytes::from(vec![0x27; 4_500]);
    let audio = Bytes::from(vec![0xaf; 280]);
    let frames = (0..25).map(|frame| (frame * 40, Track::Video, PacketKind::Inter, &video));
    let sounds = (0..43).map(|sound| (sound * 1000 / 43, Track::Audio, PacketKind::Audio, &audio));
    let mut all: Vec<_> = frames.chain(sounds).collect();
    all.sort_by_key(|(ms, ..)| *ms);
    all.into_iter()
        .map(|(ms, track, kind, body)| (Packet::new(track, kind, ms, body.clone()), Duration::from_millis(ms as u64)))
        .collect()
}
