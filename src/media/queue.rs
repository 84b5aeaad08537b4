//! What waits to be written to one player, bounded in bytes and in time.

use std::collections::VecDeque;

use bytes::Bytes;

use super::packet::{Batch, Packet, PacketKind, Track};

/// How much may wait for a player, and what it is not sent before something else.
#[derive(Clone, Debug)]
pub struct QueueRules {
    /// Payload bytes that may wait.
    pub max_bytes: usize,
    /// Media time that may wait.
    pub max_ms: i64,
    /// Packets that may wait, for configurations that say `out_queue`.
    pub max_packets: Option<usize>,
    /// No video before a keyframe.
    pub wait_key: bool,
    /// No audio before the first video.
    pub wait_video: bool,
    /// A player that is behind by more than a hiccup when a keyframe comes goes straight to that keyframe.
    pub jump_to_keyframe: bool,
}

/// The queue of one player. It admits what the player wants, and when the player is behind it lets video go up to the
/// next keyframe, then audio; the newest configurations and control bytes are never dropped.
#[derive(Debug)]
pub struct SendQueue {
    rules: QueueRules,
    items: VecDeque<Item>,
    /// Payload bytes of the frames in `items`.
    bytes: usize,
    packets: usize,
    control_bytes: usize,
    /// What a join put here at once: it does not count against the bounds until the queue has been empty once.
    allowance: Allowance,
    gate: Gate,
    drops: Drops,
}

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Item {
    /// Bytes that are ready as they are: replies and events.
    Control(Bytes),
    /// All packets of a batch.
    Batch(Batch),
    /// One packet.
    Packet(Packet),
}

/// Frames a player was not given because it was behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    pub video: u64,
    pub audio: u64,
    /// How often the player fell behind.
    pub skips: u64,
}

impl SendQueue {
    pub fn new(rules: QueueRules) -> Self {
        let gate = Gate {
            wants_audio: true,
            wants_video: true,
            paused: false,
            video_waits_for_key: rules.wait_key,
            audio_waits_for_video: rules.wait_video,
        };
        Self {
            rules,
            items: VecDeque::new(),
            bytes: 0,
            packets: 0,
            control_bytes: 0,
            allowance: Allowance::default(),
            gate,
            drops: Drops::default(),
        }
    }

    /// Other rules from here on, and a gate as if nothing had been sent: somebody begins to play.
    pub fn configure(&mut self, rules: QueueRules) {
        let items = std::mem::take(&mut self.items);
        *self = Self { items, drops: self.drops, control_bytes: self.control_bytes, ..Self::new(rules) };
        self.drop_frames(Dropped::All);
    }

    /// Bytes that must arrive, in order with the media around them.
    pub fn control(&mut self, bytes: Bytes) {
        self.control_bytes += bytes.len();
        self.items.push_back(Item::Control(bytes));
    }

    /// Bytes that must arrive, ahead of everything that waits.
    pub fn control_first(&mut self, bytes: Bytes) {
        self.control_bytes += bytes.len();
        self.items.push_front(Item::Control(bytes));
    }

    /// What a joiner is sent first, whatever its size: its source is bounded already.
    pub fn join(&mut self, burst: &[Packet]) {
        for packet in burst {
            if self.gate.admits(packet) {
                self.allowance.bytes += packet.weight();
                self.allowance.packets += 1;
                self.allowance.until_ms = self.allowance.until_ms.max(packet.time_ms());
                self.push(packet.clone());
            }
        }
    }

    /// The stream's next packets.
    pub fn offer(&mut self, batch: &Batch) {
        let is_behind = self.bytes > 0 && self.span_ms(batch) >= HICCUP_MS;
        if self.rules.jump_to_keyframe && is_behind && batch.packets().iter().any(Packet::is_keyframe) {
            self.drop_frames(Dropped::All);
            self.drops.skips += 1;
        }
        if !self.fits(batch) {
            self.fall_behind(batch);
        }
        if self.gate.is_open() {
            self.bytes += batch.bytes();
            self.packets += batch.packets().len();
            self.items.push_back(Item::Batch(batch.clone()));
        } else {
            for packet in batch.packets() {
                if self.gate.admits(packet) {
                    self.push(packet.clone());
                }
            }
        }
    }

    /// Nothing waits and nothing is held back: the next batch would go straight through.
    pub fn is_clear(&self) -> bool {
        self.items.is_empty() && self.gate.is_open()
    }

    /// Something between the stream and here was lost: nothing that depends on it may follow.
    pub fn gap(&mut self) {
        self.drops.skips += 1;
        self.gate.video_waits_for_key = true;
    }

    /// The next thing to write.
    pub fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front();
        match &item {
            Some(Item::Control(bytes)) => self.control_bytes -= bytes.len(),
            Some(Item::Batch(batch)) => {
                self.bytes -= batch.bytes();
                self.packets -= batch.packets().len();
            }
            Some(Item::Packet(packet)) => {
                self.bytes -= packet.weight();
                self.packets -= 1;
            }
            None => {
                self.allowance = Allowance::default();
                if self.items.capacity() > KEPT_CAPACITY {
                    self.items = VecDeque::new();
                }
            }
        }
        item
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Media time between the oldest and the newest frame that wait.
    pub fn waiting_ms(&self) -> i64 {
        let time = |item: &Item| match item {
            Item::Control(_) => None,
            Item::Batch(batch) => batch.packets().iter().map(Packet::time_ms).max(),
            Item::Packet(packet) => packet.is_frame().then(|| packet.time_ms()),
        };
        let (oldest, newest) = (self.items.iter().find_map(time), self.items.iter().rev().find_map(time));
        oldest.zip(newest).map_or(0, |(oldest, newest)| (newest - oldest).max(0))
    }

    pub fn is_paused(&self) -> bool {
        self.gate.paused
    }

    /// Payload bytes of media that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Control bytes that wait. They have no part in the media bound; the driver closes a peer that lets them pile up.
    pub fn control_bytes(&self) -> usize {
        self.control_bytes
    }

    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// The player asked for audio, or for none.
    pub fn want_audio(&mut self, wanted: bool) {
        self.gate.wants_audio = wanted;
    }

    /// The player asked for video, or for none; it comes back with a keyframe.
    pub fn want_video(&mut self, wanted: bool) {
        self.gate.video_waits_for_key |= wanted && !self.gate.wants_video;
        self.gate.wants_video = wanted;
    }

    /// A paused player is sent nothing, and starts again with a keyframe.
    pub fn pause(&mut self, paused: bool) {
        if paused {
            self.drop_frames(Dropped::All);
        }
        self.gate.video_waits_for_key |= self.gate.paused && !paused;
        self.gate.paused = paused;
    }

    /// A publisher came or went: the first video that follows must be a keyframe where the rules ask for that.
    pub fn restart(&mut self) {
        self.gate.video_waits_for_key |= self.rules.wait_key;
        self.gate.audio_waits_for_video |= self.rules.wait_video;
    }

    fn push(&mut self, packet: Packet) {
        self.bytes += packet.weight();
        self.packets += 1;
        self.items.push_back(Item::Packet(packet));
    }

    fn fits(&self, batch: &Batch) -> bool {
        if self.bytes == 0 {
            return true;
        }
        let within_packets = self
            .rules
            .max_packets
            .is_none_or(|max| self.packets + batch.packets().len() <= max + self.allowance.packets);
        let within_bytes = self.bytes + batch.bytes() <= self.rules.max_bytes + self.allowance.bytes;
        within_packets && within_bytes && self.span_ms(batch) <= self.rules.max_ms
    }

    /// Media time between the oldest frame that waits and the batch.
    fn span_ms(&self, batch: &Batch) -> i64 {
        let oldest = self.items.iter().find_map(|item| match item {
            Item::Control(_) => None,
            Item::Batch(batch) => batch.packets().first().map(Packet::time_ms),
            Item::Packet(packet) => packet.is_frame().then(|| packet.time_ms()),
        });
        let newest = batch.packets().iter().map(Packet::time_ms).max();
        match (oldest, newest) {
            (Some(oldest), Some(newest)) => newest - oldest.max(self.allowance.until_ms),
            _ => 0,
        }
    }

    /// Lets video go up to the next keyframe; if that is not enough, audio as well.
    fn fall_behind(&mut self, batch: &Batch) {
        self.drops.skips += 1;
        self.allowance = Allowance::default();
        self.drop_frames(Dropped::Video);
        if !self.fits(batch) {
            self.drop_frames(Dropped::All);
        }
        self.gate.video_waits_for_key = true;
    }

    fn drop_frames(&mut self, dropped: Dropped) {
        let items = std::mem::take(&mut self.items);
        self.bytes = 0;
        self.packets = 0;
        for item in items {
            match item {
                Item::Control(_) => self.items.push_back(item),
                Item::Batch(batch) => {
                    for packet in batch.packets() {
                        self.keep_or_drop(packet, dropped);
                    }
                }
                Item::Packet(packet) => self.keep_or_drop(&packet, dropped),
            }
        }
    }

    fn keep_or_drop(&mut self, packet: &Packet, dropped: Dropped) {
        let leaves = dropped == Dropped::All || packet.track() == Track::Video;
        match packet.kind() {
            PacketKind::Key | PacketKind::Inter | PacketKind::Disposable => self.drops.video += 1,
            PacketKind::Audio if leaves => self.drops.audio += 1,
            PacketKind::Text | PacketKind::OtherTrack if leaves => {}
            // The newest is all that a decoder needs once no frame of the older one is left.
            PacketKind::Config
            | PacketKind::SideConfig
            | PacketKind::OtherTrackConfig { .. }
            | PacketKind::Metadata
                if leaves =>
            {
                self.forget(packet.track(), packet.kind());
                self.push(packet.clone());
            }
            _ => self.push(packet.clone()),
        }
    }

    /// Drops what waits of this kind; called while batches are taken apart, so that it is a packet of its own.
    fn forget(&mut self, track: Track, kind: PacketKind) {
        let (mut bytes, mut packets) = (0, 0);
        self.items.retain(|item| {
            let found = matches!(item, Item::Packet(packet) if packet.track() == track && packet.kind() == kind);
            if let (true, Item::Packet(packet)) = (found, item) {
                bytes += packet.weight();
                packets += 1;
            }
            !found
        });
        self.bytes -= bytes;
        self.packets -= packets;
    }
}

/// Which frames leave when a player is behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Video,
    All,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: usize,
    packets: usize,
    until_ms: i64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { bytes: 0, packets: 0, until_ms: i64::MIN }
    }
}

/// What of a stream the player is sent now.
#[derive(Debug)]
struct Gate {
    wants_audio: bool,
    wants_video: bool,
    paused: bool,
    video_waits_for_key: bool,
    audio_waits_for_video: bool,
}

impl Gate {
    /// Everything passes, so that batches can be taken whole.
    fn is_open(&self) -> bool {
        self.wants_audio && self.wants_video && !self.paused && !self.video_waits_for_key && !self.audio_waits_for_video
    }

    fn admits(&mut self, packet: &Packet) -> bool {
        // Configurations pass even to who waits: a decoder must know the newest one whenever frames come again.
        if self.paused {
            return packet.is_config();
        }
        match (packet.track(), packet.kind()) {
            (Track::Video, PacketKind::Key) => {
                if self.wants_video {
                    self.video_waits_for_key = false;
                    self.audio_waits_for_video = false;
                }
                self.wants_video
            }
            (Track::Video, _) if packet.is_frame() => {
                let passes = self.wants_video && !self.video_waits_for_key;
                self.audio_waits_for_video &= !passes;
                passes
            }
            (Track::Audio, _) if packet.is_frame() => self.wants_audio && !self.audio_waits_for_video,
            _ => true,
        }
    }
}

/// Above this many slots an empty queue gives its memory back.
const KEPT_CAPACITY: usize = 16;

/// A player that did not read for this long will have caught up in a moment: what waits for it is worth more than a leap.
const HICCUP_MS: i64 = 300;

#[cfg(test)]
impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Control(bytes) => bytes.len(),
            Self::Batch(batch) => batch.packets().iter().map(Packet::weight).sum(),
            Self::Packet(packet) => packet.weight(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: QueueRules = QueueRules {
        max_bytes: 1000,
        max_ms: 10_000,
        max_packets: None,
        wait_key: true,
        wait_video: false,
        jump_to_keyframe: false,
    };

    fn packet(kind: PacketKind, time_ms: i64, len: usize) -> Packet {
        let track = match kind {
            PacketKind::Audio => Track::Audio,
            PacketKind::Metadata | PacketKind::Text => Track::Data,
            _ => Track::Video,
        };
        Packet::new(track, kind, time_ms, Bytes::from(vec![0; len]))
    }

    fn batch(packets: &[Packet]) -> Batch {
        Batch::new(packets.iter().cloned().collect())
    }

    fn offer(queue: &mut SendQueue, kind: PacketKind, time_ms: i64, len: usize) {
        queue.offer(&batch(&[packet(kind, time_ms, len)]));
    }

    fn drain(queue: &mut SendQueue) -> Vec<(PacketKind, i64)> {
        let mut seen = Vec::new();
        while let Some(item) = queue.pop() {
            match item {
                Item::Control(_) => seen.push((PacketKind::Text, -1)),
                Item::Batch(batch) => seen.extend(batch.packets().iter().map(|p| (p.kind(), p.time_ms()))),
                Item::Packet(packet) => seen.push((packet.kind(), packet.time_ms())),
            }
        }
        assert_eq!((queue.bytes, queue.packets, queue.control_bytes), (0, 0, 0), "the accounts must close");
        seen
    }

    #[test]
    fn video_starts_on_a_keyframe_and_audio_does_not_wait_for_it() {
        let mut queue = SendQueue::new(RULES);
        offer(&mut queue, PacketKind::Inter, 0, 10);
        offer(&mut queue, PacketKind::Audio, 1, 10);
        offer(&mut queue, PacketKind::Key, 40, 10);
        offer(&mut queue, PacketKind::Inter, 80, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Audio, 1), (PacketKind::Key, 40), (PacketKind::Inter, 80)]);
    }

    #[test]
    fn audio_waits_for_video_when_asked_to() {
        let mut queue = SendQueue::new(QueueRules { wait_video: true, ..RULES });
        offer(&mut queue, PacketKind::Audio, 0, 10);
        offer(&mut queue, PacketKind::Key, 40, 10);
        offer(&mut queue, PacketKind::Audio, 41, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Key, 40), (PacketKind::Audio, 41)]);
    }

    #[test]
    fn a_player_behind_in_bytes_loses_video_up_to_the_next_keyframe_and_keeps_audio() {
        let mut queue = SendQueue::new(RULES);
        offer(&mut queue, PacketKind::Key, 0, 500);
        offer(&mut queue, PacketKind::Audio, 10, 10);
        offer(&mut queue, PacketKind::Inter, 40, 400);
        offer(&mut queue, PacketKind::Inter, 80, 400); // does not fit
        offer(&mut queue, PacketKind::Audio, 90, 10);
        offer(&mut queue, PacketKind::Inter, 120, 10);
        offer(&mut queue, PacketKind::Key, 160, 10);
        assert_eq!(queue.drops(), Drops { video: 2, audio: 0, skips: 1 });
        assert_eq!(drain(&mut queue), [(PacketKind::Audio, 10), (PacketKind::Audio, 90), (PacketKind::Key, 160)]);
    }

    #[test]
    fn what_is_no_frame_does_not_pass_the_bound_either() {
        let other_track = |time_ms| {
            let original = Some(Bytes::from(vec![0; 100]));
            Packet::with_original(Track::Video, PacketKind::OtherTrack, time_ms, Bytes::new(), original)
        };
        let kinds = [PacketKind::Text, PacketKind::Metadata, PacketKind::Config, PacketKind::OtherTrack];
        for kind in kinds {
            let mut queue = SendQueue::new(RULES);
            for time_ms in 0..1000 {
                let next =
                    if kind == PacketKind::OtherTrack { other_track(time_ms) } else { packet(kind, time_ms, 100) };
                queue.offer(&batch(&[next]));
                queue.offer(&batch(&[packet(PacketKind::Audio, time_ms, 10)]));
            }
            let held: usize = queue.items.iter().map(Item::weight).sum();
            assert!(held <= RULES.max_bytes, "{kind:?}: {held} bytes wait");
            if kind != PacketKind::Text && kind != PacketKind::OtherTrack {
                let newest = drain(&mut queue).into_iter().rfind(|(held, _)| *held == kind);
                assert_eq!(newest, Some((kind, 999)), "the newest one stays");
            }
        }
    }

    #[test]
    fn a_player_behind_in_time_is_skipped_forward_too() {
        let mut queue = SendQueue::new(RULES);
        offer(&mut queue, PacketKind::Key, 0, 1);
        offer(&mut queue, PacketKind::Inter, 10_001, 1);
        assert_eq!(queue.drops().video, 1);
        offer(&mut queue, PacketKind::Key, 10_040, 1);
        assert_eq!(drain(&mut queue), [(PacketKind::Key, 10_040)]);
    }

    #[test]
    fn audio_alone_cannot_exceed_the_bound() {
        let mut queue = SendQueue::new(RULES);
        for i in 0..1000 {
            offer(&mut queue, PacketKind::Audio, i, 100);
            assert!(queue.bytes() <= RULES.max_bytes);
        }
        assert!(queue.drops().audio > 900);
    }

    #[test]
    fn configurations_and_control_bytes_are_never_dropped() {
        let mut queue = SendQueue::new(RULES);
        queue.control(Bytes::from_static(b"status"));
        offer(&mut queue, PacketKind::Key, 0, 900);
        offer(&mut queue, PacketKind::Config, 1, 50);
        offer(&mut queue, PacketKind::Inter, 2, 900);
        assert_eq!(drain(&mut queue), [(PacketKind::Text, -1), (PacketKind::Config, 1)]);
    }

    #[test]
    fn a_join_larger_than_the_bounds_is_not_cut() {
        let mut queue = SendQueue::new(RULES);
        queue.join(&[packet(PacketKind::Key, 0, 5000), packet(PacketKind::Inter, 12_000, 10)]);
        offer(&mut queue, PacketKind::Inter, 12_040, 10);
        assert_eq!(queue.drops(), Drops::default());
        assert_eq!(drain(&mut queue).len(), 3);
    }

    #[test]
    fn low_latency_jumps_to_a_new_keyframe() {
        let mut queue = SendQueue::new(QueueRules { jump_to_keyframe: true, ..RULES });
        offer(&mut queue, PacketKind::Key, 0, 10);
        offer(&mut queue, PacketKind::Audio, 1, 10);
        offer(&mut queue, PacketKind::Key, 500, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Key, 500)]);
    }

    #[test]
    fn low_latency_loses_nothing_to_a_hiccup() {
        let mut queue = SendQueue::new(QueueRules { jump_to_keyframe: true, ..RULES });
        offer(&mut queue, PacketKind::Key, 0, 10);
        offer(&mut queue, PacketKind::Audio, 1, 10);
        offer(&mut queue, PacketKind::Key, 40, 10);
        assert_eq!(drain(&mut queue).len(), 3);
    }

    #[test]
    fn a_paused_player_is_sent_nothing_and_resumes_on_a_keyframe() {
        let mut queue = SendQueue::new(RULES);
        offer(&mut queue, PacketKind::Key, 0, 10);
        queue.pause(true);
        offer(&mut queue, PacketKind::Inter, 40, 10);
        queue.pause(false);
        offer(&mut queue, PacketKind::Inter, 80, 10);
        offer(&mut queue, PacketKind::Key, 120, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Key, 120)]);
    }

    #[test]
    fn one_medium_can_be_switched_off() {
        let mut queue = SendQueue::new(RULES);
        queue.want_video(false);
        offer(&mut queue, PacketKind::Key, 0, 10);
        offer(&mut queue, PacketKind::Audio, 1, 10);
        queue.want_video(true);
        offer(&mut queue, PacketKind::Inter, 40, 10);
        offer(&mut queue, PacketKind::Key, 80, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Audio, 1), (PacketKind::Key, 80)]);
    }

    #[test]
    fn a_lost_batch_closes_the_gate_until_a_keyframe() {
        let mut queue = SendQueue::new(RULES);
        offer(&mut queue, PacketKind::Key, 0, 10);
        queue.gap();
        offer(&mut queue, PacketKind::Inter, 40, 10);
        offer(&mut queue, PacketKind::Key, 80, 10);
        assert_eq!(drain(&mut queue), [(PacketKind::Key, 0), (PacketKind::Key, 80)]);
    }
}
