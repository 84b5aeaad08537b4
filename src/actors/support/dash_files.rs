//! DASH on disk as nginx-rtmp writes it: which pieces make a fragment, when it may be listed, what the manifest says.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use tracing::info;

use super::disk::{Disk, DiskQueue, Order, Outcome, Report};
use crate::{
    config::outputs::{self as config, DashFiles},
    protocol::{
        dash::{
            manifest::{ClockScheme, Kind},
            nginx::{self, NginxAudio, NginxManifest, NginxVideo},
        },
        mp4::chunker::{Chunk, Chunks, Rendition},
    },
};

/// The files of one stream. A fragment is listed when it lies on the disk, so they are written one after the other.
pub struct DashWriter {
    files: DashFiles,
    name: String,
    queue: DiskQueue,
    video: Option<Lane>,
    audio: Option<Lane>,
    /// Fragments by their number that some rendition has not finished.
    open: BTreeMap<u64, Fragment>,
    waiting: VecDeque<Fragment>,
    /// What is being written, and how many of its files are not reported yet.
    writing: Option<(Fragment, usize)>,
    is_lost: bool,
    listed: VecDeque<(u64, u64)>,
    /// The wall clock at the stream's time 0.
    zero_ms: Option<i64>,
    /// Something is on its way to the disk.
    busy: watch::Sender<bool>,
}

/// What a rendition is, and how far it has come.
struct Lane {
    init: Bytes,
    codecs: String,
    width: u32,
    height: u32,
    fps: Option<f32>,
    sample_rate: u32,
    /// The first number that is not finished.
    next: u64,
    piece: Piece,
    bytes: u64,
    ms: u64,
}

#[derive(Default)]
struct Piece {
    start_ms: Option<u64>,
    ms: u64,
    parts: Vec<Bytes>,
}

#[derive(Default)]
struct Fragment {
    video: Piece,
    audio: Piece,
}

impl DashWriter {
    pub fn new(
        files: DashFiles,
        name: String,
        stream: String,
        disk: &Disk,
        tell: impl Fn(Report) + Send + Sync + 'static,
    ) -> Self {
        Self {
            files,
            name,
            queue: disk.queue(stream, FOLDER_MODE, tell),
            video: None,
            audio: None,
            open: BTreeMap::new(),
            waiting: VecDeque::new(),
            writing: None,
            is_lost: false,
            listed: VecDeque::new(),
            zero_ms: None,
            busy: watch::Sender::new(false),
        }
    }

    /// Whether something is on its way to the disk, and when that changes.
    pub fn busy(&self) -> watch::Receiver<bool> {
        self.busy.subscribe()
    }

    pub fn take(&mut self, chunks: Chunks) {
        chunks.into_iter().for_each(|chunk| self.take_one(chunk));
    }

    fn take_one(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Init { rendition, bytes, codecs, width, height, fps, sample_rate, .. } => {
                let next = [&self.video, &self.audio].into_iter().flatten().map(|lane| lane.next).max().unwrap_or(0);
                let is_change = self.lane(rendition).is_some();
                let lane = Lane {
                    init: bytes,
                    codecs,
                    width,
                    height,
                    fps,
                    sample_rate,
                    next,
                    piece: Piece::default(),
                    bytes: 0,
                    ms: 0,
                };
                match rendition {
                    Rendition::Video => self.video = Some(lane),
                    Rendition::Audio => self.audio = Some(lane),
                }
                if is_change {
                    // What was made with another initialisation cannot be played with this one, and the family's manifest has
                    // no place to say so.
                    self.listed.clear();
                }
                self.write_init(rendition);
            }
            Chunk::Part { rendition, bytes, duration, timescale, start, wall_ms, .. } => {
                let ms = |ticks: u64| {
                    let ms = u128::from(ticks) * 1000 / u128::from(timescale.max(1));
                    u64::try_from(ms).unwrap_or(u64::MAX)
                };
                let (start_ms, end_ms) = (ms(start), ms(start.saturating_add(duration)));
                self.zero_ms.get_or_insert(wall_ms.saturating_sub(i64::try_from(start_ms).unwrap_or(i64::MAX)));
                let Some(lane) = self.lane(rendition) else { return };
                lane.piece.start_ms.get_or_insert(start_ms);
                lane.piece.ms = lane.piece.ms.saturating_add(end_ms.saturating_sub(start_ms));
                lane.bytes = lane.bytes.saturating_add(bytes.len() as u64);
                lane.ms = lane.ms.saturating_add(end_ms.saturating_sub(start_ms));
                lane.piece.parts.push(bytes);
            }
            Chunk::SegmentEnd { rendition, number, .. } => {
                let Some(lane) = self.lane(rendition) else { return };
                let piece = std::mem::take(&mut lane.piece);
                lane.next = number.saturating_add(1);
                let fragment = self.open.entry(number).or_default();
                match rendition {
                    Rendition::Video => fragment.video = piece,
                    Rendition::Audio => fragment.audio = piece,
                }
                self.close_finished();
            }
            Chunk::Discontinuity => {}
        }
    }

    /// Fragments that every rendition has finished go to the disk.
    fn close_finished(&mut self) {
        let finished = [&self.video, &self.audio].into_iter().flatten().map(|lane| lane.next).min().unwrap_or(0);
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < finished) {
            let fragment = entry.remove();
            if fragment.start_ms().is_none() {
                continue;
            }
            if self.waiting.len() >= MAX_WAITING {
                self.queue.note_lost(&self.path(nginx::manifest_file(&self.name, self.files.nested)));
                continue;
            }
            self.waiting.push_back(fragment);
        }
        self.write_next();
    }

    fn write_init(&self, rendition: Rendition) {
        let lane = match rendition {
            Rendition::Video => &self.video,
            Rendition::Audio => &self.audio,
        };
        if let Some(lane) = lane {
            let path = self.path(nginx::init_file(&self.name, self.files.nested, kind(rendition)));
            self.queue.push(Order::Rewrite { path, bytes: lane.init.clone() });
        }
    }

    fn write_next(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let Some(fragment) = self.waiting.pop_front() else {
            self.busy.send_replace(false);
            return;
        };
        self.busy.send_replace(true);
        let start_ms = fragment.start_ms().unwrap_or(0);
        let pieces = [(Rendition::Video, &fragment.video), (Rendition::Audio, &fragment.audio)];
        let there: Vec<_> = pieces.into_iter().filter(|(_, piece)| !piece.parts.is_empty()).collect();
        for (rendition, piece) in &there {
            let file = nginx::fragment_file(&self.name, self.files.nested, kind(*rendition), start_ms);
            let order = Order::Write { path: self.path(file), bytes: piece.join(), cipher: None, of: 0 };
            self.queue.push(order);
        }
        let count = there.len();
        let timed = |piece: &Piece| Piece { start_ms: piece.start_ms, ms: piece.ms, parts: Vec::new() };
        let written = Fragment { video: timed(&fragment.video), audio: timed(&fragment.audio) };
        self.is_lost = false;
        self.writing = Some((written, count));
    }

    /// What became of a file. `now_ms` is the wall clock.
    pub fn hear(&mut self, report: &Report, now_ms: i64) {
        let Some((fragment, left)) = &mut self.writing else { return };
        self.is_lost |= report.outcome == Outcome::Lost;
        if report.outcome == Outcome::InNewFolder && !self.listed.is_empty() {
            info!(stream = self.name, "the files of this stream were moved away: its manifest begins anew");
            self.listed.clear();
            for rendition in [Rendition::Video, Rendition::Audio] {
                let path_of = nginx::init_file(&self.name, self.files.nested, kind(rendition));
                let lane = if rendition == Rendition::Video { &self.video } else { &self.audio };
                if let Some(lane) = lane {
                    let path = self.files.path.join(path_of);
                    self.queue.push(Order::Rewrite { path, bytes: lane.init.clone() });
                }
            }
        }
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        let times = (fragment.start_ms().unwrap_or(0), fragment.ms());
        self.writing = None;
        if !self.is_lost {
            self.listed.push_back(times);
            while self.listed.len() > self.files.segments() {
                self.listed.pop_front();
            }
            self.list(now_ms);
        }
        self.write_next();
    }

    fn list(&mut self, now_ms: i64) {
        let (fragments, rate) = (self.listed.make_contiguous(), |lane: &Lane| lane.bytes * 8000 / lane.ms.max(1));
        let manifest = NginxManifest {
            name: &self.name,
            nested: self.files.nested,
            start_ms: self.zero_ms.unwrap_or(now_ms),
            now_ms,
            fragment_ms: u64::try_from(self.files.fragment.as_millis()).unwrap_or(u64::MAX),
            video: self.video.as_ref().map(|lane| NginxVideo {
                codecs: &lane.codecs,
                codec_name: codec_name(&lane.codecs),
                width: lane.width,
                height: lane.height,
                fps: lane.fps.map_or(0, |fps| fps.round() as u32),
                bandwidth: rate(lane),
            }),
            audio: self.audio.as_ref().map(|lane| NginxAudio {
                codecs: &lane.codecs,
                codec_name: codec_name(&lane.codecs),
                sample_rate: lane.sample_rate,
                bandwidth: rate(lane),
            }),
            fragments,
            clock: self.files.clock.as_ref().map(|clock| (scheme(clock.scheme), clock.value.as_str())),
        };
        let bytes = Bytes::from(manifest.render());
        let path = self.path(nginx::manifest_file(&self.name, self.files.nested));
        self.queue.push(Order::Rewrite { path, bytes });
    }

    fn path(&self, file: String) -> PathBuf {
        self.files.path.join(file)
    }

    fn lane(&mut self, rendition: Rendition) -> Option<&mut Lane> {
        match rendition {
            Rendition::Video => self.video.as_mut(),
            Rendition::Audio => self.audio.as_mut(),
        }
    }
}

impl Fragment {
    fn start_ms(&self) -> Option<u64> {
        self.video.start_ms.or(self.audio.start_ms)
    }

    fn ms(&self) -> u64 {
        if self.video.start_ms.is_some() { self.video.ms } else { self.audio.ms }
    }
}

impl Piece {
    fn join(&self) -> Bytes {
        match self.parts.as_slice() {
            [one] => one.clone(),
            parts => {
                let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                whole.freeze()
            }
        }
    }
}

fn kind(rendition: Rendition) -> Kind {
    match rendition {
        Rendition::Video => Kind::Video,
        Rendition::Audio => Kind::Audio,
    }
}

fn scheme(scheme: config::ClockScheme) -> ClockScheme {
    match scheme {
        config::ClockScheme::Ntp => ClockScheme::Ntp,
        config::ClockScheme::HttpHead => ClockScheme::HttpHead,
        config::ClockScheme::HttpIso => ClockScheme::HttpIso,
    }
}

/// As nginx-rtmp's statistics spell it, by the first word of RFC 6381.
fn codec_name(codecs: &str) -> &'static str {
    match codecs.split('.').next().unwrap_or_default() {
        "avc1" => "H264",
        "hvc1" => "H265",
        "av01" => "AV1",
        "vp09" => "VP9",
        "mp4a" if codecs.ends_with(".34") || codecs.ends_with("6B") => "MP3",
        "mp4a" => "AAC",
        "opus" | "Opus" => "OPUS",
        "fLaC" | "flac" => "FLAC",
        "ac-3" => "AC3",
        "ec-3" => "EAC3",
        _ => "OTHER",
    }
}

/// As for HLS: others may serve the files.
const FOLDER_MODE: u32 = 0o755;

/// Fragments that may wait for a disk that does not keep up.
const MAX_WAITING: usize = 8;
