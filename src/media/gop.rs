//! The GOP cache: what a late joiner is sent first.

use std::collections::VecDeque;

use bytes::Bytes;
use smallvec::SmallVec;

use super::packet::{Packet, PacketKind, Track};

/// Keeps what somebody who joins now needs to see a picture at once: the metadata, the configurations of both media,
/// and everything since a keyframe.
///
/// It is bounded whatever is published. When one GOP alone outgrows a bound, the cache gives it up as a whole and
/// waits for the next keyframe, since a torn GOP shows garbage. While it has no keyframe it keeps the last second of
/// audio, which is all that an audio-only stream needs.
#[derive(Debug)]
pub struct GopCache {
    limits: GopLimits,
    metadata: Option<Packet>,
    /// At most one of a kind and track, in the order published.
    configs: SmallVec<[Slot; 4]>,
    packets: VecDeque<Kept>,
    /// The GOP before, on its way out: one packet leaves for each that comes. Freed all at once, its memory would go back
    /// to the system and come again page by page, for every GOP of every stream.
    retired: VecDeque<Packet>,
    /// The times of the keyframes in `packets`, oldest first.
    keyframes: VecDeque<i64>,
    audio_frames: usize,
    video_frames: usize,
    /// Of `packets` alone.
    frame_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GopLimits {
    /// Off keeps metadata and configurations all the same: nothing decodes without them.
    pub enabled: bool,
    pub max_bytes: usize,
    /// How long the GOP may be that a player starts in.
    pub max_ms: u64,
    pub max_frames: Option<u32>,
    pub max_audio: Option<u32>,
    pub max_video: Option<u32>,
    /// Keep whole GOPs that cover at least this much, for players that want to start in the past. 0 keeps one GOP.
    pub keep_ms: u64,
}

impl Default for GopLimits {
    /// One GOP of up to 20 s, which is twice the longest that encoders are set to in practice, and 16 MiB, which is
    /// 6 Mbit/s for that long.
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 16 << 20,
            max_ms: 20_000,
            max_frames: None,
            max_audio: None,
            max_video: None,
            keep_ms: 0,
        }
    }
}

/// A frame, and what is asked of each at the end of a GOP: a look into hundreds of packets is as many places in memory
/// that this thread has not seen for seconds.
#[derive(Debug)]
struct Kept {
    packet: Packet,
    time_ms: i64,
    cost: usize,
    is_video: bool,
    is_keyframe: bool,
}

impl Kept {
    fn new(packet: &Packet) -> Self {
        Self {
            time_ms: packet.time_ms(),
            cost: cost(packet),
            is_video: packet.is_video_frame(),
            is_keyframe: packet.is_keyframe(),
            packet: packet.clone(),
        }
    }

    /// Whether an audio frame is worth sending to somebody whose picture starts at `keyframe_ms`.
    fn is_near(&self, keyframe_ms: i64) -> bool {
        self.time_ms >= keyframe_ms.saturating_sub(AUDIO_LEAD_MS)
    }
}

/// A configuration and whether frames have come since: then it describes them.
#[derive(Debug)]
struct Slot {
    packet: Packet,
    used: bool,
}

impl GopCache {
    pub fn new(limits: GopLimits) -> Self {
        Self {
            limits,
            metadata: None,
            configs: SmallVec::new(),
            packets: VecDeque::new(),
            retired: VecDeque::new(),
            keyframes: VecDeque::new(),
            audio_frames: 0,
            video_frames: 0,
            frame_bytes: 0,
        }
    }

    /// Takes note of the stream's next packet. What does not help a late joiner is ignored.
    pub fn push(&mut self, packet: &Packet) {
        match packet.kind() {
            PacketKind::Metadata => self.metadata = Some(packet.clone()),
            PacketKind::Config | PacketKind::SideConfig | PacketKind::OtherTrackConfig { .. } => {
                self.push_config(packet)
            }
            PacketKind::Key | PacketKind::Inter | PacketKind::Disposable | PacketKind::Audio => self.push_frame(packet),
            PacketKind::Text | PacketKind::End | PacketKind::OtherTrack => {}
        }
    }

    /// All that a late joiner is sent, in order: metadata, configurations, frames from the oldest keyframe that is
    /// kept, with their true times.
    pub fn burst(&self) -> impl Iterator<Item = &Packet> {
        self.metadata.iter().chain(self.configs()).chain(self.packets())
    }

    pub fn metadata(&self) -> Option<&Packet> {
        self.metadata.as_ref()
    }

    /// The configurations of both media and the side data that belongs to them, in the order published.
    pub fn configs(&self) -> impl Iterator<Item = &Packet> {
        self.configs.iter().map(|slot| &slot.packet)
    }

    /// The configuration record of one medium.
    pub fn config(&self, track: Track) -> Option<&Packet> {
        self.configs().find(|packet| packet.track() == track && packet.kind() == PacketKind::Config)
    }

    /// The frames: from a keyframe on, or audio alone.
    pub fn packets(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter().map(|kept| &kept.packet)
    }

    /// Whether a joiner would be shown a picture at once.
    pub fn has_keyframe(&self) -> bool {
        !self.keyframes.is_empty()
    }

    /// Payload bytes held, headers and metadata included.
    pub fn bytes(&self) -> usize {
        self.frame_bytes + self.metadata.iter().chain(self.configs()).map(cost).sum::<usize>()
    }

    /// Frames held.
    pub fn frames(&self) -> usize {
        self.packets.len()
    }

    /// Forgets everything: the next packets are of another publisher.
    pub fn clear(&mut self) {
        self.metadata = None;
        self.configs.clear();
        self.retired = VecDeque::new();
        self.clear_frames();
    }

    fn push_config(&mut self, packet: &Packet) {
        let (track, kind) = (packet.track(), packet.kind());
        let of_same_slot = |slot: &Slot| slot.packet.track() == track && slot.packet.kind() == kind;
        if let Some(slot) = self.configs.iter_mut().find(|slot| of_same_slot(slot)) {
            // Many encoders repeat their headers before every keyframe. That changes nothing.
            if slot.packet.payload() == packet.payload() {
                *slot = Slot { packet: packet.clone(), used: false };
                return;
            }
            if kind == PacketKind::Config {
                // Other parameters: what is cached does not decode with them, and side data that served the old
                // frames does not describe the new ones. Side data may also come ahead of the record it belongs to;
                // then no frame has used it yet.
                self.configs.retain(|slot| {
                    let serves_old_frames = slot.packet.kind() == PacketKind::SideConfig && slot.used;
                    slot.packet.track() != track || !serves_old_frames
                });
                self.retain_frames(|kept| kept.packet.track() != track);
            }
            self.configs.retain(|slot| !of_same_slot(slot));
        }
        self.configs.push(Slot { packet: packet.clone(), used: false });
    }

    fn push_frame(&mut self, packet: &Packet) {
        for slot in self.configs.iter_mut().filter(|slot| slot.packet.track() == packet.track()) {
            slot.used = true;
        }
        if !self.limits.enabled {
            return;
        }
        let frame = Kept::new(packet);
        let time = frame.time_ms;
        if frame.is_video {
            if frame.is_keyframe {
                if self.keyframes.is_empty() {
                    self.retain_frames(|audio| audio.is_near(time));
                }
                self.keyframes.push_back(time);
            } else if self.keyframes.is_empty() {
                return;
            }
            self.video_frames += 1;
        } else {
            if self.keyframes.front().is_some_and(|keyframe| !frame.is_near(*keyframe)) {
                return;
            }
            self.audio_frames += 1;
        }
        self.retired.pop_front();
        self.frame_bytes += frame.cost;
        self.packets.push_back(frame);
        self.trim(time);
    }

    /// Lets go of what is not asked for, then of what does not fit.
    fn trim(&mut self, now_ms: i64) {
        let keep_ms = i64::try_from(self.limits.keep_ms).unwrap_or(i64::MAX);
        while self.keyframes.get(1).is_some_and(|second| now_ms.saturating_sub(*second) >= keep_ms) {
            self.drop_first_gop();
        }
        while self.exceeds(now_ms) {
            match self.keyframes.len() {
                0 => self.drop_first(),
                1 => self.clear_frames(),
                _ => self.drop_first_gop(),
            }
        }
    }

    fn exceeds(&self, now_ms: i64) -> bool {
        let Some(oldest) = self.packets.front() else {
            return false;
        };
        let (start, max_ms) = match self.keyframes.front() {
            // What is kept on purpose comes on top of the GOP it starts in.
            Some(keyframe) => (*keyframe, self.limits.max_ms.saturating_add(self.limits.keep_ms)),
            None => (oldest.time_ms, AUDIO_ONLY_MS),
        };
        let over = |count: usize, max: Option<u32>| max.is_some_and(|max| count as u64 > u64::from(max));
        u64::try_from(now_ms.saturating_sub(start)).is_ok_and(|span| span > max_ms)
            || self.frame_bytes > self.limits.max_bytes
            || over(self.packets.len(), self.limits.max_frames)
            || over(self.audio_frames, self.limits.max_audio)
            || over(self.video_frames, self.limits.max_video)
    }

    /// Makes the second keyframe the first. Audio is interleaved loosely: what belongs to the second GOP may have come
    /// before its keyframe, and what came after it may belong to the first.
    fn drop_first_gop(&mut self) {
        self.keyframes.pop_front();
        let Some(start) = self.keyframes.front().copied() else {
            return;
        };
        self.retired.clear();
        let mut keyframes_seen = 0;
        self.sort_out(|kept| {
            keyframes_seen += usize::from(kept.is_keyframe);
            if kept.is_video { keyframes_seen > 1 } else { kept.is_near(start) }
        });
    }

    fn drop_first(&mut self) {
        if let Some(frame) = self.packets.pop_front() {
            self.frame_bytes -= frame.cost;
            if frame.is_video { self.video_frames -= 1 } else { self.audio_frames -= 1 }
        }
    }

    fn retain_frames(&mut self, keep: impl FnMut(&Kept) -> bool) {
        self.sort_out(keep);
        self.retired.clear();
    }

    /// Retires what is not to stay.
    fn sort_out(&mut self, mut stays: impl FnMut(&Kept) -> bool) {
        for _ in 0..self.packets.len() {
            let Some(frame) = self.packets.pop_front() else { break };
            if stays(&frame) {
                self.packets.push_back(frame);
                continue;
            }
            self.frame_bytes -= frame.cost;
            if frame.is_video {
                self.video_frames -= 1
            } else {
                self.audio_frames -= 1
            }
            self.retired.push_back(frame.packet);
        }
        if self.video_frames == 0 {
            self.keyframes.clear();
        }
    }

    fn clear_frames(&mut self) {
        self.packets.clear();
        self.keyframes.clear();
        (self.audio_frames, self.video_frames, self.frame_bytes) = (0, 0, 0);
    }
}

/// What a packet holds in memory: also the body as it was published, where that is another one.
fn cost(packet: &Packet) -> usize {
    packet.len() + packet.original().map_or(0, Bytes::len)
}

/// Audio that much older than the picture is still useful: a decoder drops its first frames. Older is heard as a delay.
const AUDIO_LEAD_MS: i64 = 100;
/// Enough to start playing without a stutter.
const AUDIO_ONLY_MS: u64 = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(track: Track, kind: PacketKind, time_ms: i64, size: usize) -> Packet {
        Packet::new(track, kind, time_ms, Bytes::from(vec![0; size]))
    }

    fn key(time_ms: i64) -> Packet {
        packet(Track::Video, PacketKind::Key, time_ms, 10)
    }

    fn inter(time_ms: i64) -> Packet {
        packet(Track::Video, PacketKind::Inter, time_ms, 10)
    }

    fn audio(time_ms: i64) -> Packet {
        packet(Track::Audio, PacketKind::Audio, time_ms, 10)
    }

    fn config(track: Track, kind: PacketKind, text: &'static str) -> Packet {
        Packet::new(track, kind, 0, Bytes::from_static(text.as_bytes()))
    }

    fn filled(limits: GopLimits, packets: impl IntoIterator<Item = Packet>) -> GopCache {
        let mut cache = GopCache::new(limits);
        packets.into_iter().for_each(|packet| cache.push(&packet));
        cache
    }

    /// The frames held, as a letter and a time each.
    fn held(cache: &GopCache) -> String {
        let letter = |packet: &Packet| match packet.kind() {
            PacketKind::Key => 'K',
            PacketKind::Audio => 'A',
            _ => 'p',
        };
        cache.packets().map(|packet| format!("{}{}", letter(packet), packet.time_ms())).collect::<Vec<_>>().join(" ")
    }

    fn check(limits: GopLimits, packets: impl IntoIterator<Item = Packet>, expected: &str) {
        assert_eq!(held(&filled(limits, packets)), expected);
    }

    fn one_gop() -> GopLimits {
        GopLimits::default()
    }

    fn payloads(cache: &GopCache) -> Vec<&[u8]> {
        cache.configs().map(|packet| packet.payload().as_ref()).collect()
    }

    #[test]
    fn late_joiner_starts_on_the_last_keyframe() {
        check(one_gop(), [inter(0), key(40), inter(80), key(120), inter(160)], "K120 p160");
    }

    #[test]
    fn every_frame_a_keyframe_keeps_one() {
        check(one_gop(), [key(0), key(40), key(80)], "K80");
    }

    #[test]
    fn the_burst_is_metadata_then_configurations_then_frames() {
        let meta = packet(Track::Data, PacketKind::Metadata, 0, 3);
        let sps = config(Track::Video, PacketKind::Config, "sps");
        let cache = filled(one_gop(), [sps, key(0), meta, inter(40)]);
        let kinds: Vec<_> = cache.burst().map(Packet::kind).collect();
        assert_eq!(kinds, [PacketKind::Metadata, PacketKind::Config, PacketKind::Key, PacketKind::Inter]);
        assert!(cache.metadata().is_some() && cache.config(Track::Video).is_some());
        assert!(cache.config(Track::Audio).is_none());
    }

    #[test]
    fn audio_older_than_the_keyframe_is_not_sent_but_audio_ahead_of_it_is() {
        let packets = [key(0), audio(880), audio(900), audio(5000), key(1000), audio(890), audio(910)];
        check(one_gop(), packets, "A900 A5000 K1000 A910");
    }

    #[test]
    fn whole_gops_covering_the_asked_time_are_kept() {
        let limits = GopLimits { keep_ms: 2500, ..one_gop() };
        let seconds = |range: std::ops::Range<i64>| range.map(|s| key(s * 1000));
        check(limits, seconds(0..3), "K0 K1000 K2000");
        check(limits, seconds(0..7), "K3000 K4000 K5000 K6000");
        check(limits, seconds(0..7).chain([inter(6500)]), "K4000 K5000 K6000 p6500");
    }

    #[test]
    fn audio_alone_keeps_its_last_second() {
        let cache = filled(one_gop(), (0..1000).map(|n| audio(n * 20)));
        assert_eq!(cache.packets().next().map(Packet::time_ms), Some(999 * 20 - 1000));
        assert_eq!(cache.frames(), 51);
    }

    #[test]
    fn audio_before_the_first_keyframe_goes_when_it_comes() {
        check(one_gop(), [audio(0), audio(500), audio(950), key(1000)], "A950 K1000");
    }

    #[test]
    fn without_any_keyframe_no_video_is_kept() {
        check(one_gop(), (0..100).map(|n| inter(n * 40)), "");
    }

    #[test]
    fn a_gop_beyond_a_bound_is_given_up_until_the_next_keyframe() {
        let long = |limits: GopLimits| {
            let cache = filled(limits, std::iter::once(key(0)).chain((1..100).map(|n| inter(n * 40))));
            (held(&cache), cache.bytes())
        };
        let nothing = (String::new(), 0);
        assert_eq!(long(GopLimits { max_ms: 2000, ..one_gop() }), nothing);
        assert_eq!(long(GopLimits { max_bytes: 500, ..one_gop() }), nothing);
        assert_eq!(long(GopLimits { max_frames: Some(50), ..one_gop() }), nothing);
        assert_eq!(long(GopLimits { max_video: Some(50), ..one_gop() }), nothing);
        let limits = GopLimits { max_video: Some(2), ..one_gop() };
        check(limits, [key(0), inter(1), inter(2), inter(3), key(4), inter(5)], "K4 p5");
    }

    #[test]
    fn several_gops_beyond_a_bound_lose_the_oldest() {
        let limits = GopLimits { keep_ms: 10_000, max_bytes: 45, ..one_gop() };
        check(limits, [key(0), inter(40), key(80), inter(120), key(160)], "K80 p120 K160");
    }

    #[test]
    fn video_that_stops_does_not_keep_audio_for_ever() {
        let cache = filled(one_gop(), std::iter::once(key(0)).chain((0..3000).map(|n| audio(n * 20))));
        assert!(cache.frames() <= 51 && !cache.has_keyframe());
    }

    #[test]
    fn switched_off_it_keeps_only_headers() {
        let sps = config(Track::Video, PacketKind::Config, "sps");
        let cache = filled(GopLimits { enabled: false, ..one_gop() }, [sps, key(0), audio(0)]);
        assert_eq!((cache.burst().count(), cache.frames()), (1, 0));
    }

    #[test]
    fn configurations_come_in_the_order_published_whichever_is_first() {
        let colour = config(Track::Video, PacketKind::SideConfig, "colour");
        let sps = config(Track::Video, PacketKind::Config, "sps");
        let asc = config(Track::Audio, PacketKind::Config, "asc");
        let layout = config(Track::Audio, PacketKind::SideConfig, "layout");
        let cache = filled(one_gop(), [colour.clone(), sps.clone(), asc, layout, key(0), colour, sps]);
        assert_eq!(payloads(&cache), [&b"colour"[..], b"sps", b"asc", b"layout"]);
        assert_eq!(cache.frames(), 1);
    }

    #[test]
    fn changed_parameters_drop_the_frames_they_do_not_fit() {
        let sps = |text| config(Track::Video, PacketKind::Config, text);
        let cache = filled(one_gop(), [sps("old"), key(0), audio(0), sps("new"), inter(40), audio(20)]);
        assert_eq!(held(&cache), "A0 A20");
        assert_eq!(payloads(&cache), [b"new"]);
    }

    #[test]
    fn side_data_lives_and_dies_with_its_record() {
        let video = |kind, text| config(Track::Video, kind, text);
        let hdr = [video(PacketKind::SideConfig, "hdr"), video(PacketKind::Config, "one"), key(0)];
        // A new record without side data: the old one describes nothing any more.
        let mut cache = filled(one_gop(), hdr);
        cache.push(&video(PacketKind::Config, "two"));
        assert_eq!(payloads(&cache), [b"two"]);
        // A new record whose side data came first, though it says the same as before.
        cache.push(&video(PacketKind::SideConfig, "sdr"));
        cache.push(&key(40));
        cache.push(&video(PacketKind::SideConfig, "sdr"));
        cache.push(&video(PacketKind::Config, "three"));
        assert_eq!(payloads(&cache), [&b"sdr"[..], b"three"]);
    }

    #[test]
    fn the_newest_configuration_of_each_other_track_is_kept() {
        let other = |id, side, text: &'static str| {
            let kind = PacketKind::OtherTrackConfig { id, side };
            Packet::with_original(Track::Video, kind, 0, Bytes::new(), Some(Bytes::from_static(text.as_bytes())))
        };
        let published =
            [other(1, false, "old"), other(1, true, "side"), other(2, false, "two"), other(1, false, "new")];
        let cache = filled(one_gop(), published);
        let kept: Vec<_> = cache.configs().filter_map(Packet::original).map(|body| body.to_vec()).collect();
        assert_eq!(kept, [&b"new"[..], b"side", b"two"]);
    }

    #[test]
    fn clearing_forgets_everything() {
        let mut cache = filled(one_gop(), [config(Track::Video, PacketKind::Config, "sps"), key(0)]);
        cache.clear();
        assert_eq!((cache.burst().count(), cache.bytes(), cache.frames()), (0, 0, 0));
    }

    fn any_packet() -> impl Strategy<Value = (u8, i64, usize)> {
        (0_u8..8, 0_i64..200, 0_usize..40)
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_held_and_within_bounds(
            steps in prop::collection::vec(any_packet(), 0..300),
            keep_ms in 0_u64..3000,
            max_bytes in 50_usize..2000,
        ) {
            let limits = GopLimits { keep_ms, max_bytes, max_ms: 2000, max_audio: Some(60), ..one_gop() };
            let mut cache = GopCache::new(limits);
            let mut time = 0;
            for (choice, step, size) in steps {
                time += step;
                cache.push(&match choice {
                    0 => packet(Track::Video, PacketKind::Key, time, size),
                    1..=3 => packet(Track::Video, PacketKind::Inter, time, size),
                    4 => packet(Track::Audio, PacketKind::Audio, time - 150, size),
                    5 => packet(Track::Audio, PacketKind::Audio, time, size),
                    6 => packet(Track::Data, PacketKind::Metadata, time, size),
                    _ => packet(Track::Video, PacketKind::Config, time, size % 2),
                });
                prop_assert_eq!(cache.bytes(), cache.burst().map(cost).sum::<usize>());
                prop_assert_eq!(cache.frames(), cache.packets().count());
                prop_assert!(cache.packets().map(cost).sum::<usize>() <= max_bytes);
                let keyframes: Vec<_> = cache.packets().filter(|p| p.is_keyframe()).map(Packet::time_ms).collect();
                prop_assert_eq!(&keyframes, &cache.keyframes.iter().copied().collect::<Vec<_>>());
                let mut video = cache.packets().filter(|packet| packet.is_video_frame());
                prop_assert!(video.next().is_none_or(Packet::is_keyframe));
                let audio = cache.packets().filter(|packet| packet.track() == Track::Audio);
                prop_assert!(audio.count() <= 60);
            }
        }
    }
}
