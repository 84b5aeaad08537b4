//! The endless FLV file that one HTTP or WebSocket viewer is sent.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    media::packet::{Batch, Packet, PacketKind, Track},
    protocol::amf::{self, Limits, Properties, Value},
};

/// How one viewer is sent packets. Nearly all viewers of a stream share one form, and with it the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlvForm {
    /// What the viewer asked for.
    pub wants: Tracks,
    /// Taken from every timestamp.
    origin_ms: i64,
}

/// Audio, video, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracks {
    pub audio: bool,
    pub video: bool,
}

impl Tracks {
    pub const BOTH: Self = Self { audio: true, video: true };

    pub fn has(self, track: Track) -> bool {
        match track {
            Track::Audio => self.audio,
            Track::Video => self.video,
            Track::Data => true,
        }
    }
}

/// The first bytes of the file. The flags say what is in it: players wait for what is promised, and some never look at
/// what is not.
pub fn header(tracks: Tracks) -> Bytes {
    let flags = u8::from(tracks.audio) << 2 | u8::from(tracks.video);
    // Signature, version 1, flags, the length of this header, and the size of the tag before the first: none.
    Bytes::copy_from_slice(&[b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0])
}

impl FlvForm {
    pub fn new(wants: Tracks) -> Self {
        Self { wants, origin_ms: 0 }
    }

    /// The viewer's first frame stands at this time of the stream. Times in a file have 31 bits, which last 24 days; who
    /// comes to an older stream is given times that begin anew, the same for all who come within twelve days. With
    /// `from_zero` they begin at this very frame, for this viewer alone.
    pub fn begin(&mut self, first_ms: i64, from_zero: bool) {
        self.origin_ms = if from_zero { first_ms } else { first_ms.div_euclid(EPOCH_MS) * EPOCH_MS };
    }

    /// The viewer goes on with another stream: its first frame there stands at `at_ms` of the viewer's own times.
    pub fn go_on(&mut self, first_ms: i64, at_ms: i64) {
        self.origin_ms = first_ms - at_ms;
    }

    /// Where a time of the stream stands in the viewer's own.
    pub fn own_time(&self, time_ms: i64) -> i64 {
        time_ms - self.origin_ms
    }

    /// At this time of the stream the viewer's times are nearly used up: it should be sent away, to come back.
    pub fn is_used_up(&self, time_ms: i64) -> bool {
        time_ms - self.origin_ms > LAST_MS
    }

    /// The bytes of a whole batch, where they are those that all viewers share.
    pub fn shared<'a>(&self, batch: &'a Batch) -> Option<&'a Bytes> {
        let style = self.style()?;
        batch.tags(style, |packets| {
            let mut out = BytesMut::with_capacity(packets.iter().map(|packet| self.len(packet)).sum());
            packets.iter().for_each(|packet| self.write(&mut out, packet));
            out.freeze()
        })
    }

    /// The bytes one packet takes; 0 for what this viewer is not sent.
    pub fn len(&self, packet: &Packet) -> usize {
        self.kind(packet).map_or(0, |_| TAG_HEADER_BYTES + packet.len() + BACK_POINTER_BYTES)
    }

    pub fn write(&self, out: &mut BytesMut, packet: &Packet) {
        self.write_body(out, packet, packet.payload());
    }

    /// Metadata that says what really is in this file, whatever the publisher said or left out.
    pub fn write_metadata(&self, out: &mut BytesMut, packet: &Packet, has: Tracks) {
        match with_tracks(packet.payload(), has) {
            Some(body) => self.write_body(out, packet, &body),
            None => self.write(out, packet),
        }
    }

    fn write_body(&self, out: &mut BytesMut, packet: &Packet, body: &[u8]) {
        let Some(kind) = self.kind(packet) else { return };
        let time = match packet.kind() {
            // ffmpeg takes metadata at any other time for a track of its own.
            PacketKind::Metadata => 0,
            // What is late may stand before the first frame, and no time stands before 0.
            _ => (packet.time_ms() - self.origin_ms).clamp(0, i64::from(i32::MAX)) as u32,
        };
        let len = body.len() as u32;
        let [time_top, time_low @ ..] = time.to_be_bytes();
        let [_, size @ ..] = len.to_be_bytes();
        out.put_u8(kind);
        out.put_slice(&size);
        out.put_slice(&time_low);
        out.put_u8(time_top);
        out.put_slice(&[0; 3]);
        out.put_slice(body);
        out.put_u32(len + TAG_HEADER_BYTES as u32);
    }

    /// The tag type of a packet; none for what this viewer is not sent.
    fn kind(&self, packet: &Packet) -> Option<u8> {
        // Side data has packet types that browsers' FLV players fail on.
        let is_for_others = packet.is_other_track() || packet.kind() == PacketKind::SideConfig;
        if is_for_others || !self.wants.has(packet.track()) || packet.len() > MAX_BODY_BYTES {
            return None;
        }
        Some(match packet.track() {
            Track::Audio => 8,
            Track::Video => 9,
            Track::Data => 18,
        })
    }

    /// A number for the forms whose bytes are shared; none for a form that is one viewer's own.
    fn style(&self) -> Option<u64> {
        let is_shared = self.wants == Tracks::BOTH && self.origin_ms % EPOCH_MS == 0;
        is_shared.then_some(self.origin_ms as u64)
    }
}

/// Finds out what is in a stream, from its first packets.
#[derive(Clone, Debug)]
pub struct Opening {
    wants: Tracks,
    seen: Tracks,
    /// What the publisher's metadata names; none before there is any.
    promised: Option<Tracks>,
    /// The times of the first and the latest frame.
    span: Option<(i64, i64)>,
}

impl Opening {
    pub fn new(wants: Tracks) -> Self {
        Self { wants, seen: Tracks { audio: false, video: false }, promised: None, span: None }
    }

    pub fn see(&mut self, packet: &Packet) {
        match (packet.track(), packet.kind()) {
            (Track::Data, PacketKind::Metadata) => self.promised = promised(packet.payload()),
            (Track::Audio, PacketKind::Config | PacketKind::Audio) => self.seen.audio = true,
            (Track::Video, PacketKind::Config) => self.seen.video = true,
            (Track::Video, _) if packet.is_frame() => self.seen.video = true,
            _ => {}
        }
        if packet.is_frame() && self.wants.has(packet.track()) {
            let time = packet.time_ms();
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first, last.max(time)));
        }
    }

    /// What is in the stream and wanted, once that can be said: when everything wanted has come, or when what is missing has
    /// had its time. A promise buys it more of that.
    pub fn decided(&self) -> Option<Tracks> {
        let found = Tracks { audio: self.seen.audio && self.wants.audio, video: self.seen.video && self.wants.video };
        if found == self.wants {
            return Some(found);
        }
        let (first, last) = self.span?;
        let missing_is_promised = self.promised.is_some_and(|promised| {
            (promised.audio && self.wants.audio && !found.audio) || (promised.video && self.wants.video && !found.video)
        });
        let patience = if missing_is_promised { PROMISE_MS } else { SURPRISE_MS };
        (last - first >= patience).then_some(found)
    }
}

/// What metadata says is in the stream.
fn promised(metadata: &[u8]) -> Option<Tracks> {
    let values = amf::decode_all(metadata, &Limits::DATA).ok()?;
    let properties = values.iter().find(|value| value.properties().is_some())?;
    let has = |flag: &str, codec: &str| {
        let said = properties.property(flag).and_then(Value::as_bool);
        said.unwrap_or_else(|| properties.property(codec).is_some())
    };
    Some(Tracks { audio: has("hasAudio", "audiocodecid"), video: has("hasVideo", "videocodecid") })
}

/// The metadata with `hasAudio` and `hasVideo` as they are; none if it is nothing that has properties.
fn with_tracks(metadata: &[u8], has: Tracks) -> Option<Vec<u8>> {
    let mut values = amf::decode_all(metadata, &Limits::DATA).ok()?;
    let flags = [("hasAudio", has.audio), ("hasVideo", has.video)];
    let properties = values.iter_mut().find_map(|value| match value {
        Value::EcmaArray(properties) | Value::Object(properties) => Some(properties),
        _ => None,
    })?;
    let is_flag = |name: &str| flags.iter().any(|(flag, _)| *flag == name);
    let kept = std::mem::take(properties).into_iter().filter(|(name, _)| !is_flag(name));
    let said = flags.into_iter().map(|(name, has)| (name.to_owned(), Value::Boolean(has)));
    *properties = kept.chain(said).collect::<Properties>();
    Some(amf::encode_all(&values))
}

const TAG_HEADER_BYTES: usize = 11;
const BACK_POINTER_BYTES: usize = 4;

/// The size of a tag has 24 bits.
const MAX_BODY_BYTES: usize = 0xFF_FFFF;

/// Half of what 31 bits of milliseconds hold: every viewer has at least this long.
const EPOCH_MS: i64 = 1 << 30;

/// An hour before times are used up: there is a keyframe within it.
const LAST_MS: i64 = (1 << 31) - 3_600_000;

/// How much of a stream goes by before a track that nothing speaks of counts as absent …
const SURPRISE_MS: i64 = 500;

/// … and one that the metadata promises.
const PROMISE_MS: i64 = 1500;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(track: Track, kind: PacketKind, time_ms: i64, body: &'static [u8]) -> Packet {
        Packet::new(track, kind, time_ms, Bytes::from_static(body))
    }

    fn batch(packets: &[Packet]) -> Batch {
        Batch::new(packets.iter().cloned().collect())
    }

    fn metadata(properties: &[(&str, Value)]) -> Packet {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let body = amf::encode_all(&[Value::String("onMetaData".into()), Value::EcmaArray(properties)]);
        Packet::new(Track::Data, PacketKind::Metadata, 77, body.into())
    }

    /// The tags in some bytes, as (type, time, size of the body).
    fn tags(mut bytes: &[u8]) -> Vec<(u8, i32, usize)> {
        let mut seen = Vec::new();
        while let [kind, s1, s2, s3, t1, t2, t3, t0, 0, 0, 0, rest @ ..] = bytes {
            let size = u32::from_be_bytes([0, *s1, *s2, *s3]) as usize;
            let (_, rest) = rest.split_at(size);
            let (back, rest) = rest.split_at(4);
            assert_eq!(back, (size as u32 + 11).to_be_bytes());
            seen.push((*kind, i32::from_be_bytes([*t0, *t1, *t2, *t3]), size));
            bytes = rest;
        }
        assert!(bytes.is_empty(), "whole tags only");
        seen
    }

    fn written(form: &FlvForm, packet: &Packet) -> Vec<(u8, i32, usize)> {
        let mut out = BytesMut::new();
        form.write(&mut out, packet);
        assert_eq!(out.len(), form.len(packet));
        tags(&out)
    }

    #[test]
    fn the_flags_say_what_is_in_the_file() {
        for (audio, video, flags) in [(true, true, 5), (true, false, 4), (false, true, 1)] {
            let header = header(Tracks { audio, video });
            assert_eq!(header[..], [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn all_viewers_of_one_form_share_the_same_bytes_and_rtmp_players_keep_theirs() {
        let both = batch(&[
            packet(Track::Audio, PacketKind::Audio, 20, b"abc"),
            packet(Track::Video, PacketKind::Key, 40, b"defgh"),
        ]);
        let chunks = both.wire(128, |_| Bytes::from_static(b"chunks")).cloned();
        let form = FlvForm::new(Tracks::BOTH);
        let (first, second) = (form.shared(&both).cloned().unwrap(), form.shared(&both).cloned().unwrap());
        assert_eq!(first.as_ptr(), second.as_ptr());
        assert_eq!(tags(&first), [(8, 20, 3), (9, 40, 5)]);
        assert_eq!(chunks.as_ref(), both.wire(128, |_| unreachable!("it is kept")));
    }

    #[test]
    fn whoever_asked_for_one_track_is_sent_nothing_of_the_other() {
        let form = FlvForm::new(Tracks { audio: true, video: false });
        assert_eq!(form.shared(&batch(&[packet(Track::Video, PacketKind::Key, 0, b"v")])), None);
        assert_eq!(written(&form, &packet(Track::Video, PacketKind::Config, 0, b"v")), []);
        assert_eq!(written(&form, &packet(Track::Audio, PacketKind::Audio, 5, b"a")), [(8, 5, 1)]);
        assert_eq!(written(&form, &packet(Track::Data, PacketKind::Metadata, 5, b"m")), [(18, 0, 1)]);
    }

    #[test]
    fn what_browsers_fail_on_is_left_out() {
        let form = FlvForm::new(Tracks::BOTH);
        assert_eq!(written(&form, &packet(Track::Video, PacketKind::SideConfig, 0, b"hdr")), []);
        assert_eq!(written(&form, &packet(Track::Video, PacketKind::OtherTrack, 0, b"")), []);
    }

    #[test]
    fn times_stay_within_31_bits_however_old_the_stream_is() {
        let day = 24 * 3_600_000;
        for (joined, now) in [(0, 5), (day * 30, day * 30 + 40), (day * 400, day * 412)] {
            let mut form = FlvForm::new(Tracks::BOTH);
            form.begin(joined, false);
            let seen = written(&form, &packet(Track::Audio, PacketKind::Audio, now, b"a"));
            assert!((0..=i32::MAX - 3_600_000).contains(&seen[0].1), "{seen:?}");
            assert!(!form.is_used_up(now));
        }
        let mut form = FlvForm::new(Tracks::BOTH);
        form.begin(day * 30, false);
        assert!(form.is_used_up(day * 60), "in time to come back");
        form.begin(1234, true);
        assert_eq!(written(&form, &packet(Track::Audio, PacketKind::Audio, 1240, b"a")), [(8, 6, 1)]);
        assert_eq!(written(&form, &packet(Track::Audio, PacketKind::Audio, 1200, b"a")), [(8, 0, 1)]);
    }

    #[test]
    fn metadata_says_what_is_in_the_file_and_keeps_the_rest() {
        let published = metadata(&[("hasVideo", Value::Boolean(true)), ("width", Value::Number(640.0))]);
        let mut out = BytesMut::new();
        FlvForm::new(Tracks::BOTH).write_metadata(&mut out, &published, Tracks { audio: true, video: false });
        assert_eq!(tags(&out)[0].1, 0);
        let values = amf::decode_all(&out[11..out.len() - 4], &Limits::DATA).unwrap();
        assert_eq!(values[1].property("width"), Some(&Value::Number(640.0)));
        assert_eq!(values[1].property("hasVideo"), Some(&Value::Boolean(false)));
        assert_eq!(values[1].property("hasAudio"), Some(&Value::Boolean(true)));
    }

    #[test]
    fn what_is_in_a_stream_is_known_at_once_when_both_tracks_are() {
        let mut opening = Opening::new(Tracks::BOTH);
        opening.see(&packet(Track::Video, PacketKind::Config, 0, b"v"));
        assert_eq!(opening.decided(), None);
        opening.see(&packet(Track::Audio, PacketKind::Config, 0, b"a"));
        assert_eq!(opening.decided(), Some(Tracks::BOTH));
    }

    #[test]
    fn a_missing_track_is_waited_for_longer_when_it_was_promised() {
        let alone = Tracks { audio: false, video: true };
        let said = [("videocodecid", Value::Number(7.0)), ("audiocodecid", Value::Number(10.0))];
        for (promise, patience) in [(&said[..0], 500), (&said[..1], 500), (&said[..], 1500)] {
            let mut opening = Opening::new(Tracks::BOTH);
            opening.see(&metadata(promise));
            let known = (0..5000).step_by(20).find(|&time_ms| {
                opening.see(&packet(Track::Video, PacketKind::Inter, time_ms, b"v"));
                opening.decided() == Some(alone)
            });
            assert_eq!(known, Some(patience));
        }
    }

    #[test]
    fn who_wants_one_track_waits_for_no_other() {
        let wants = Tracks { audio: true, video: false };
        let mut opening = Opening::new(wants);
        opening.see(&packet(Track::Video, PacketKind::Config, 0, b"v"));
        assert_eq!(opening.decided(), None);
        opening.see(&packet(Track::Audio, PacketKind::Audio, 0, b"a"));
        assert_eq!(opening.decided(), Some(wants));
    }
}
