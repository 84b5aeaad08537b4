//! The endless MP4 that everybody who watches over HTTP or WebSocket shares: an initialisation, then a fragment a batch.

use bytes::Bytes;
use smallvec::SmallVec;

use super::format::Format;
use super::fragment::{FragmentSample, Run, fragment};
use super::init::{InitTrack, init};
use super::source::{Beginning, Gate, Tracks};
use super::track::{Dresser, MAX_DRIFT_MS, ticks};
use crate::media::packet::{Packet, PacketKind, Track};
use crate::protocol::feed::Endless;
use crate::protocol::flv::sample::{self, MuxInput, Sample};

/// Makes one fragment of each batch, with all its tracks, and gives it away at once: nothing waits for the next frame to
/// know how long this one lasts. It is taken to last as long as the one before; when that was wrong, the next one makes
/// up for it, so that decoding times have no holes, while presentation times are always the publisher's.
#[derive(Debug)]
pub struct Mp4Feed {
    tracks: Tracks,
    gate: Option<Gate>,
    video: Option<Lane>,
    audio: Option<Lane>,
    /// A track has come that was not there at the beginning.
    has_newcomer: bool,
    header: Option<Bytes>,
    /// What was last given away as a `Config` or a header.
    announced: Option<Bytes>,
    sequence: u32,
    /// The time of the first sample of the fragment under way.
    first_ms: Option<i64>,
}

type Pieces = SmallVec<[Packet; 4]>;

impl Default for Mp4Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Mp4Feed {
    pub fn new() -> Self {
        Self {
            tracks: Tracks::default(),
            gate: Some(Gate::default()),
            video: None,
            audio: None,
            has_newcomer: false,
            header: None,
            announced: None,
            sequence: 0,
            first_ms: None,
        }
    }

    fn push(&mut self, sample: Sample, out: &mut Pieces) {
        if self.tracks.learn(&sample) {
            self.begin_anew(out);
        }
        let Some(format) = self.tracks.format(sample.track).filter(|format| format.codec == sample.codec) else {
            return;
        };
        if let Some(gate) = &mut self.gate {
            if gate.is_jump(&sample, MAX_GATE_STEP_MS) {
                *gate = Gate::default();
            }
            gate.push(sample, 0, |sample| Dresser::new(format).is_random_access(sample));
            if gate.is_open(&self.tracks) {
                self.begin(out);
            }
            return;
        }
        self.has_newcomer |= self.lane(sample.track).is_none();
        if self.has_newcomer && self.may_begin(&sample) {
            // What there is is known, and here a picture begins: nothing is lost.
            self.finish(out);
            let [video, audio] = [Track::Video, Track::Audio].map(|track| self.tracks.format(track).is_some());
            self.open(video, audio, out);
        }
        self.take(&sample, out);
    }

    /// Decoding can start at this sample, and no picture is under way that would be lost.
    fn may_begin(&self, sample: &Sample) -> bool {
        match (sample.track, self.tracks.format(Track::Video)) {
            (Track::Video, Some(format)) => Dresser::new(format).is_random_access(sample),
            (_, format) => format.is_none(),
        }
    }

    /// The gate is open: a header, then what has waited.
    fn begin(&mut self, out: &mut Pieces) {
        let Some(Beginning { samples, video, audio, .. }) = self.gate.take().and_then(Gate::into_samples) else {
            return;
        };
        self.open(video, audio, out);
        for sample in samples {
            self.take(&sample, out);
        }
    }

    /// Makes lanes for these tracks, and a header that says so.
    fn open(&mut self, video: bool, audio: bool, out: &mut Pieces) {
        self.has_newcomer = false;
        self.video = self.tracks.format(Track::Video).filter(|_| video).map(|format| Lane::new(VIDEO_ID, format));
        self.audio = self.tracks.format(Track::Audio).filter(|_| audio).map(|format| Lane::new(AUDIO_ID, format));
        let tracks: SmallVec<[InitTrack<'_>; 2]> = [&self.video, &self.audio]
            .into_iter()
            .flatten()
            .map(|lane| InitTrack { id: lane.id, format: &lane.format })
            .collect();
        let header = init(&tracks);
        if self.announced.as_ref().is_some_and(|announced| *announced != header) {
            // Viewers that are there already have another one.
            out.push(Packet::new(Track::Video, PacketKind::Config, 0, header.clone()));
        }
        self.announced = Some(header.clone());
        self.header = Some(header);
    }

    fn take(&mut self, sample: &Sample, out: &mut Pieces) {
        let starts = sample.track == Track::Video
            && self.video.as_ref().is_some_and(|lane| lane.dresser.is_random_access(sample));
        let has_video = self.video.as_ref().is_some_and(|lane| !lane.run.is_empty());
        let Some(lane) = self.lane(sample.track) else {
            return;
        };
        let breaks = lane.is_jump(sample.dts_ms) && !lane.run.is_empty();
        // A viewer may begin with a fragment that begins with a keyframe; and a fragment has no holes.
        if starts && has_video || breaks {
            self.finish(out);
        }
        let first_ms = self.first_ms.unwrap_or(sample.dts_ms).min(sample.dts_ms);
        if let Some(lane) = self.lane(sample.track)
            && lane.push(sample, starts)
        {
            self.first_ms = Some(first_ms);
        }
    }

    /// Writes what has gathered as one fragment.
    fn finish(&mut self, out: &mut Pieces) {
        let Some(first_ms) = self.first_ms.take() else {
            return;
        };
        let runs: SmallVec<[Run<'_>; 2]> = [&self.video, &self.audio]
            .into_iter()
            .flatten()
            .filter(|lane| !lane.run.is_empty())
            .map(|lane| Run { track: lane.id, video: lane.id == VIDEO_ID, base: lane.base, samples: &lane.run })
            .collect();
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        fragment(self.sequence, &runs, &mut bytes);
        let key = runs.first().filter(|run| run.video).and_then(|run| run.samples.first()).map(|sample| sample.key);
        let (track, kind) = match key {
            Some(true) => (Track::Video, PacketKind::Key),
            Some(false) => (Track::Video, PacketKind::Inter),
            None => (Track::Audio, PacketKind::Audio),
        };
        drop(runs);
        out.push(Packet::new(track, kind, first_ms, bytes.into()));
        for lane in [&mut self.video, &mut self.audio].into_iter().flatten() {
            lane.run.clear();
        }
    }

    fn begin_anew(&mut self, out: &mut Pieces) {
        self.finish(out);
        (self.video, self.audio) = (None, None);
        self.gate = Some(Gate::default());
    }

    fn lane(&mut self, track: Track) -> Option<&mut Lane> {
        match track {
            Track::Video => self.video.as_mut(),
            Track::Audio => self.audio.as_mut(),
            Track::Data => None,
        }
    }
}

impl Endless for Mp4Feed {
    fn content_type(&self) -> &'static str {
        "video/mp4"
    }

    fn header(&self) -> Option<Bytes> {
        self.header.clone()
    }

    fn batch(&mut self, packets: &[Packet]) -> Pieces {
        let mut out = Pieces::new();
        for packet in packets {
            let Some(input) = sample::of(packet) else {
                continue;
            };
            if self.tracks.configure(&input) {
                self.begin_anew(&mut out);
            }
            if let MuxInput::Sample(sample) = input {
                self.push(sample, &mut out);
            }
        }
        self.finish(&mut out);
        out
    }

    /// The formats stay: where only packets were lost, no configuration comes again.
    fn restart(&mut self) {
        (self.video, self.audio) = (None, None);
        self.gate = Some(Gate::default());
        (self.header, self.first_ms, self.has_newcomer) = (None, None, false);
    }
}

/// One track on its way, a sample at a time.
#[derive(Debug)]
struct Lane {
    id: u32,
    format: Format,
    dresser: Dresser,
    /// Where the next sample begins, once there was one.
    at: Option<u64>,
    /// By the publisher's clock, of the last sample.
    last: u64,
    /// How long a frame usually lasts.
    usual: u32,
    base: u64,
    run: Vec<FragmentSample>,
}

impl Lane {
    fn new(id: u32, format: &Format) -> Self {
        Self {
            id,
            dresser: Dresser::new(format),
            at: None,
            last: 0,
            usual: format.timescale / 25,
            base: 0,
            run: Vec::new(),
            format: format.clone(),
        }
    }

    /// Further from where it should be than can be made up for.
    fn is_jump(&self, dts_ms: i64) -> bool {
        let target = self.ticks(dts_ms);
        self.at.is_some_and(|at| target > at + self.ticks(MAX_CATCH_UP_MS))
    }

    /// False where there is too much audio for its time, and this is left out.
    fn push(&mut self, sample: &Sample, key: bool) -> bool {
        let video = self.id == VIDEO_ID;
        let target = self.ticks(sample.dts_ms);
        let mut start = self.at.unwrap_or(target);
        let late = target.saturating_sub(start);
        let nominal = self.dresser.ticks(sample);
        match nominal {
            Some(_) if start > target + self.ticks(MAX_DRIFT_MS) => return false,
            Some(_) if late > self.ticks(MAX_DRIFT_MS) => match self.run.last_mut() {
                // The sample before is stretched over the pause, if it has not been given away.
                Some(last) => {
                    last.duration = last.duration.saturating_add(u32::try_from(late).unwrap_or(0));
                    start = target;
                }
                None => start = target,
            },
            None if late > self.ticks(MAX_CATCH_UP_MS) => start = target,
            _ => {}
        }
        if self.run.is_empty() {
            self.base = start;
        }
        let duration = nominal.unwrap_or_else(|| {
            if let (Some(_), Ok(step)) = (self.at, u32::try_from(target.saturating_sub(self.last))) {
                self.usual = step.clamp(self.usual / 2, self.usual.saturating_mul(2)).max(1);
            }
            // So that the next one begins where it is expected.
            let end = target + u64::from(self.usual);
            u32::try_from(end.saturating_sub(start)).unwrap_or(u32::MAX).max(1)
        });
        let presented = i128::from(self.ticks(sample.pts_ms()));
        let cts = if video { i32::try_from(presented - i128::from(start)).unwrap_or(0) } else { 0 };
        self.last = target;
        self.at = Some(start + u64::from(duration));
        self.run.push(FragmentSample { duration, cts, key: key || !video, data: self.dresser.dress(sample) });
        true
    }

    fn ticks(&self, ms: i64) -> u64 {
        ticks(self.format.timescale, ms)
    }
}

const VIDEO_ID: u32 = 1;
const AUDIO_ID: u32 = 2;
/// What a viewer would see as a picture that stands still and then hurries. After more there is a hole.
const MAX_CATCH_UP_MS: i64 = 500;
const MAX_GATE_STEP_MS: i64 = 10_000;

#[cfg(test)]
mod tests {
    use mp4_atom::{DecodeMaybe, Ftyp, Mdat, Moof, Moov};

    use super::*;
    use crate::protocol::mp4::tests::{AAC_44100, AVC_RECORD, bytes};

    fn packet(video: bool, kind: PacketKind, time_ms: i64, body: &str) -> Packet {
        Packet::new(if video { Track::Video } else { Track::Audio }, kind, time_ms, bytes(body))
    }

    fn video_config() -> Packet {
        packet(true, PacketKind::Config, 0, &format!("17 00 000000 {AVC_RECORD}"))
    }

    fn audio_config() -> Packet {
        packet(false, PacketKind::Config, 0, &format!("af 00 {AAC_44100}"))
    }

    fn key(time_ms: i64) -> Packet {
        packet(true, PacketKind::Key, time_ms, "17 01 000000 00000002 6588")
    }

    fn inter(time_ms: i64) -> Packet {
        packet(true, PacketKind::Inter, time_ms, "27 01 000000 00000002 4188")
    }

    fn audio(time_ms: i64) -> Packet {
        packet(false, PacketKind::Audio, time_ms, "af 01 2110")
    }

    fn kinds(pieces: &[Packet]) -> Vec<(PacketKind, i64)> {
        pieces.iter().map(|piece| (piece.kind(), piece.time_ms())).collect()
    }

    fn moof(piece: &Packet) -> Moof {
        let mut rest = &piece.payload()[..];
        let moof = Moof::decode_maybe(&mut rest).unwrap().unwrap();
        Mdat::decode_maybe(&mut rest).unwrap().unwrap();
        assert!(rest.is_empty());
        moof
    }

    /// Of a track in each piece that has it: where it begins and where it ends.
    fn spans(pieces: &[Packet], track: u32) -> Vec<(u64, u64)> {
        let span = |piece: &Packet| {
            let moof = moof(piece);
            let traf = moof.traf.iter().find(|traf| traf.tfhd.track_id == track)?;
            let base = traf.tfdt.as_ref().unwrap().base_media_decode_time;
            let length: u64 = traf.trun[0].samples.iter().map(|sample| u64::from(sample.duration.unwrap())).sum();
            Some((base, base + length))
        };
        pieces.iter().filter(|piece| piece.kind() != PacketKind::Config).filter_map(span).collect()
    }

    fn tracks(header: &[u8]) -> Vec<u32> {
        let mut rest = header;
        Ftyp::decode_maybe(&mut rest).unwrap().unwrap();
        let moov = Moov::decode_maybe(&mut rest).unwrap().unwrap();
        assert!(rest.is_empty());
        moov.trak.iter().map(|trak| trak.tkhd.track_id).collect()
    }

    /// A feed that has begun with both tracks.
    fn begun() -> (Mp4Feed, Pieces) {
        let mut feed = Mp4Feed::new();
        assert_eq!(feed.header(), None);
        let pieces = feed.batch(&[video_config(), audio_config(), key(0), audio(0)]);
        (feed, pieces)
    }

    #[test]
    fn each_batch_is_a_fragment_at_once() {
        let (mut feed, pieces) = begun();
        assert_eq!(tracks(&feed.header().unwrap()), [1, 2]);
        assert_eq!(kinds(&pieces), [(PacketKind::Key, 0)]);
        assert_eq!(kinds(&feed.batch(&[audio(23), inter(40)])), [(PacketKind::Inter, 23)]);
        assert_eq!(kinds(&feed.batch(&[audio(46)])), [(PacketKind::Audio, 46)]);
        assert_eq!(moof(&pieces[0]).traf.len(), 2);
    }

    #[test]
    fn a_keyframe_begins_a_fragment_of_its_own() {
        let (mut feed, _) = begun();
        let pieces = feed.batch(&[inter(40), audio(23), key(80), audio(46), inter(120)]);
        assert_eq!(kinds(&pieces), [(PacketKind::Inter, 23), (PacketKind::Key, 46)]);
    }

    #[test]
    fn times_have_no_holes_though_nothing_waits() {
        let (mut feed, mut pieces) = begun();
        for at in 1..100 {
            // 30 a second, one lost, and the milliseconds' rounding.
            if at != 50 {
                pieces.extend(feed.batch(&[inter(at * 1000 / 30)]));
            }
            pieces.extend(feed.batch(&[audio(at * 1024 * 1000 / 44_100)]));
        }
        for track in [1, 2] {
            let spans = spans(&pieces, track);
            assert!(spans.len() >= 99);
            assert!(spans.windows(2).all(|two| two[0].1 == two[1].0), "{spans:?}");
        }
    }

    #[test]
    fn presentation_times_are_the_publishers() {
        let (mut feed, _) = begun();
        for time_ms in [40, 75, 123, 160, 320, 360] {
            let pieces = feed.batch(&[inter(time_ms)]);
            let traf = &moof(&pieces[0]).traf[0];
            let base = traf.tfdt.as_ref().unwrap().base_media_decode_time;
            let sample = traf.trun[0].samples.get(0).unwrap();
            assert_eq!(base as i64 + sample.cts.unwrap(), time_ms * 90);
        }
    }

    #[test]
    fn a_pause_that_cannot_be_made_up_for_leaves_a_hole() {
        let (mut feed, mut pieces) = begun();
        pieces.extend(feed.batch(&[inter(40), inter(5000), audio(5000)]));
        let spans = spans(&pieces, 1);
        assert_eq!(spans.last().unwrap().0, 450_000);
    }

    #[test]
    fn without_audio_it_begins_after_a_second() {
        let mut feed = Mp4Feed::new();
        assert!(feed.batch(&[video_config(), key(0)]).is_empty());
        let frames: Vec<_> = (1..25).map(|at| inter(at * 40)).collect();
        assert!(feed.batch(&frames).is_empty());
        assert_eq!(feed.header(), None);
        assert_eq!(kinds(&feed.batch(&[inter(1000)])), [(PacketKind::Key, 0)]);
        assert_eq!(tracks(&feed.header().unwrap()), [1]);
    }

    #[test]
    fn audio_alone_is_given_away_as_audio() {
        let mut feed = Mp4Feed::new();
        let frames: Vec<_> = (0..60).map(|at| audio(at * 1024 * 1000 / 44_100)).collect();
        let pieces = feed.batch(&[&[audio_config()], &frames[..]].concat());
        assert!(pieces.iter().all(|piece| piece.kind() == PacketKind::Audio));
        assert_eq!(spans(&pieces, 2).last().unwrap().1, 60 * 1024);
    }

    #[test]
    fn a_track_that_comes_late_is_a_new_header_at_the_next_keyframe() {
        let mut feed = Mp4Feed::new();
        let mut frames = vec![video_config(), key(0)];
        frames.extend((1..50).map(|at| inter(at * 40)));
        feed.batch(&frames);
        assert_eq!(tracks(&feed.header().unwrap()), [1]);
        assert_eq!(kinds(&feed.batch(&[audio_config(), audio(2000), inter(2000)])), [(PacketKind::Inter, 2000)]);
        let pieces = feed.batch(&[audio(2023), key(2040), audio(2046)]);
        assert_eq!(kinds(&pieces), [(PacketKind::Config, 0), (PacketKind::Key, 2040)]);
        assert_eq!(tracks(pieces[0].payload()), [1, 2]);
        assert_eq!(feed.header().as_ref(), Some(pieces[0].payload()));
    }

    #[test]
    fn another_configuration_is_a_new_header() {
        let (mut feed, _) = begun();
        let other = packet(false, PacketKind::Config, 40, "af 00 1190");
        assert!(feed.batch(&[other, inter(40)]).is_empty());
        assert_eq!(kinds(&feed.batch(&[key(80), audio(80)])), [(PacketKind::Config, 0), (PacketKind::Key, 80)]);
        // The same again changes nothing.
        assert_eq!(kinds(&feed.batch(&[video_config(), inter(120)])), [(PacketKind::Inter, 120)]);
    }

    #[test]
    fn after_a_restart_it_goes_on_at_a_keyframe_with_the_same_header() {
        let (mut feed, _) = begun();
        let header = feed.header();
        feed.restart();
        assert_eq!(feed.header(), None);
        assert!(feed.batch(&[inter(40), audio(46)]).is_empty());
        let pieces = feed.batch(&[key(80), audio(93)]);
        // With the sound that is hardly older than the picture.
        assert_eq!(kinds(&pieces), [(PacketKind::Key, 46)]);
        assert_eq!(feed.header(), header);
    }
}
