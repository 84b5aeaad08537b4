//! Makes MPEG-TS segments of one stream for HLS: in memory, or on disk as nginx-rtmp does.
//!
//! Where to cut is decided by `protocol::hls::segmenter`, what the files are called and how they are listed by
//! `protocol::hls::nginx`; this actor hears the stream and carries segments to where they are fetched from.

use std::{collections::VecDeque, fs, io, path::PathBuf, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{debug, info, warn};

use super::{
    source::{Deliver, Source},
    support::{
        disk::{Disk, DiskQueue, Order, Outcome, Report},
        intake::{Heard, Intake},
        lifetime::{Due, Lifetime, LifetimeRules},
        link::{ExitReason, Link},
        segment_store::{Rendition, SegmentStore, names_of_their_own},
        shelf::Shelved,
    },
};
use crate::{
    config::outputs::{self as config, HlsFiles, Memory},
    media::key::StreamKey,
    protocol::{
        flv::sample::MuxInput,
        hls::{
            crypt::{Key, KeyRing},
            gauge::{Gauge, GaugeRules, Gauged},
            nginx::NginxPlaylist,
            rules::{Datetime, Naming, Slicing, TsHlsRules, Variant},
            segmenter::{Segment, TsSegmenter},
            window::{Container, Description, Part, Window, WindowRules},
        },
    },
};

/// One output of one stream.
pub struct HlsMuxer {
    key: StreamKey,
    stream: Option<Source>,
    intake: Option<Intake>,
    stage: Stage,
    sink: Sink,
    lifetime: Lifetime,
    started: Instant,
    /// For whoever looks after outputs on disk.
    link: Option<Link>,
}

/// How far it has come with knowing the stream.
enum Stage {
    Gauging(Box<Gauge>),
    Cutting(Box<TsSegmenter>),
}

enum Sink {
    Memory(Box<MemorySink>),
    Disk(Box<DiskSink>),
}

/// Segments that are fetched over HTTP.
struct MemorySink {
    shelved: Shelved,
    rules: Memory,
    description: Describer,
}

/// Files as nginx-rtmp writes them. A segment is listed when it lies on the disk, so they are written one after the other;
/// what comes meanwhile waits here.
struct DiskSink {
    folder: PathBuf,
    key_folder: PathBuf,
    rules: Arc<TsHlsRules>,
    playlist: NginxPlaylist,
    queue: DiskQueue,
    keys: Option<KeyRing>,
    waiting: VecDeque<Segment>,
    waiting_bytes: usize,
    /// What is being written: the segment without its bytes, and the key it is encrypted with.
    writing: Option<(Segment, Option<u64>)>,
    /// The key of the segment that is being written did not reach the disk.
    key_is_lost: bool,
    /// A segment is missing before the next one.
    has_hole: bool,
    /// Nothing will follow.
    is_ended: bool,
    /// Something is on its way to the disk.
    busy: watch::Sender<bool>,
    disk: Disk,
}

/// What the codecs of a stream are called, in its playlist.
#[derive(Default)]
struct Describer {
    video: String,
    audio: String,
    known: Description,
}

/// The process is about to end: what has come is to be written. Answered when it is.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FinishFiles;

/// To the muxer, from the disk.
#[derive(Message)]
#[rtype(result = "()")]
struct Reported(Report);

impl HlsMuxer {
    /// Starts an output in memory, whose store is on the shelf already. To be called on the arbiter where it is to live.
    pub fn start_in_memory(key: StreamKey, stream: Source, rules: Memory, shelved: Shelved) {
        let lifetime = LifetimeRules { idle: Some(rules.idle), end_after: rules.end_after, ended: rules.ended };
        let gauge = GaugeRules { fragment: rules.fragment, max_fragment: rules.max_fragment, part: Duration::ZERO };
        let stage = Stage::Gauging(Box::new(Gauge::new(gauge)));
        let sink = Sink::Memory(Box::new(MemorySink { shelved, rules, description: Describer::default() }));
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Self::new(key, stream, stage, sink, Lifetime::new(lifetime), None)
        });
    }

    /// Starts writing files on an arbiter.
    pub fn start_on_disk(
        key: StreamKey,
        stream: Source,
        files: &HlsFiles,
        end_after: Duration,
        disk: &Disk,
        link: Link,
        home: &ArbiterHandle,
    ) -> Addr<Self> {
        let lifetime = LifetimeRules { idle: None, end_after, ended: Duration::ZERO };
        let (files, disk) = (files.clone(), disk.clone());
        Self::start_in_arbiter(home, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let rules = Arc::new(ts_rules(&files));
            let segmenter = TsSegmenter::new(&rules);
            let sink = DiskSink::new(&key, &files, rules, &disk, ctx.address().recipient());
            let stage = Stage::Cutting(Box::new(segmenter));
            Self::new(key, stream, stage, Sink::Disk(Box::new(sink)), Lifetime::new(lifetime), Some(link))
        })
    }

    fn new(key: StreamKey, stream: Source, stage: Stage, sink: Sink, lifetime: Lifetime, link: Option<Link>) -> Self {
        let (stream, intake) = (Some(stream), None);
        Self { key, stream, intake, stage, sink, lifetime, started: Instant::now(), link }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Begin => {
                self.finish();
                self.restart();
                self.lifetime.begin();
                self.sink.begin();
            }
            Heard::Gap => self.restart(),
            Heard::Input(input, wall_ms) => self.push(input, wall_ms),
            Heard::End => {
                self.finish();
                self.lifetime.leave(self.started.elapsed());
            }
        }
    }

    fn push(&mut self, input: MuxInput, wall_ms: i64) {
        match &mut self.stage {
            Stage::Cutting(segmenter) => {
                self.sink.describe(&input);
                let whole = segmenter.push(input, wall_ms);
                self.sink.take(whole);
            }
            Stage::Gauging(gauge) => {
                if let Some(known) = gauge.push(input, wall_ms) {
                    self.begin_cutting(known);
                }
            }
        }
    }

    fn begin_cutting(&mut self, (gauged, held): (Gauged, Vec<(MuxInput, i64)>)) {
        debug!(stream = %self.key, ?gauged, "segments begin");
        let Sink::Memory(memory) = &mut self.sink else { return };
        self.stage = Stage::Cutting(Box::new(TsSegmenter::new(&memory.begin(gauged))));
        for (input, wall_ms) in held {
            self.push(input, wall_ms);
        }
    }

    /// What comes does not go on from what was before.
    fn restart(&mut self) {
        if let Stage::Cutting(segmenter) = &mut self.stage {
            let last = segmenter.restart();
            self.sink.take(last.into_iter().collect());
        }
    }

    /// What has come makes a last segment.
    fn finish(&mut self) {
        if let Stage::Gauging(gauge) = &mut self.stage
            && let Some(known) = gauge.finish()
        {
            self.begin_cutting(known);
        }
        if let Stage::Cutting(segmenter) = &mut self.stage {
            let last = segmenter.finish();
            self.sink.take(last.into_iter().collect());
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.lifetime.is_live() && self.intake.as_ref().is_some_and(Intake::is_forsaken) {
            self.take(Heard::End);
        }
        let idle = match &self.sink {
            Sink::Memory(memory) => {
                let store = memory.store();
                store.sessions().expire(store.now());
                store.idle_for()
            }
            Sink::Disk(_) => Duration::ZERO,
        };
        match self.lifetime.due(self.started.elapsed(), idle) {
            Due::Nothing => {}
            Due::End => {
                info!(stream = %self.key, "segments end: the publisher did not come back");
                if !self.sink.end() {
                    ctx.stop();
                }
            }
            // What is on its way to the disk is still listed when it gets there.
            Due::Stop if self.sink.is_busy() => {}
            Due::Stop => {
                info!(stream = %self.key, "segments stop: nobody needs them");
                ctx.stop();
            }
        }
    }
}

impl Sink {
    fn take(&mut self, whole: SmallVec<[Segment; 1]>) {
        for segment in whole {
            match self {
                Self::Memory(memory) => memory.put(segment),
                Self::Disk(disk) => disk.put(segment),
            }
        }
    }

    fn describe(&mut self, input: &MuxInput) {
        if let Self::Memory(memory) = self
            && let Some(description) = memory.description.read(input)
        {
            memory.store().update(|held| {
                if let Some(window) = held.window(PLAYLIST) {
                    window.describe(description);
                }
            });
        }
    }

    fn begin(&mut self) {
        match self {
            Self::Memory(_) => {}
            Self::Disk(disk) => {
                disk.is_ended = false;
                if let Some(keys) = &mut disk.keys {
                    keys.restart();
                }
            }
        }
    }

    /// Whether anything is left that could still be watched.
    fn end(&mut self) -> bool {
        match self {
            Self::Memory(memory) => memory.store().end(),
            Self::Disk(disk) => {
                disk.is_ended = true;
                disk.list();
                true
            }
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Disk(disk) if disk.writing.is_some())
    }
}

impl MemorySink {
    fn store(&self) -> &SegmentStore {
        self.shelved.store()
    }

    fn begin(&mut self, gauged: Gauged) -> TsHlsRules {
        let now_ms = wall_ms();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let rules = WindowRules {
            length_ms: millis(self.rules.playlist_length),
            // Seconds: no segment is shorter, so an output that follows this one goes on above it.
            first_number: u64::try_from(now_ms / 1000).unwrap_or(0),
            ..WindowRules::new(Container::Ts, &names_of_their_own(), gauged.target_s)
        };
        self.store().update(|held| held.renditions.push(Rendition { name: PLAYLIST, window: Window::new(rules) }));
        TsHlsRules {
            // A keyframe that is a hair early is in time: later it would be a whole GOP.
            fragment_ms: millis(self.rules.fragment).saturating_sub(EARLY_MS).max(1),
            max_fragment_ms: gauged.max_segment_ms.into(),
            sync_ms: AUDIO_SYNC_MS,
            ..TsHlsRules::default()
        }
    }

    fn put(&mut self, segment: Segment) {
        self.store().update(|held| {
            let Some(window) = held.window(PLAYLIST) else { return };
            if segment.discontinuity {
                window.discontinuity();
            }
            window.push_segment(Part {
                bytes: segment.bytes,
                start: u64::try_from(segment.start_ms).unwrap_or(0),
                duration: segment.duration_ms,
                timescale: 1000,
                independent: segment.independent,
                date_ms: segment.wall_ms,
            });
        });
    }
}

impl Describer {
    /// What holds from here on, if that is new.
    fn read(&mut self, input: &MuxInput) -> Option<Description> {
        let mut next = self.known.clone();
        match input {
            MuxInput::VideoConfig { info: Some(info), .. } => {
                self.video.clone_from(&info.codec_string);
                (next.width, next.height, next.fps) = (info.width, info.height, info.fps);
            }
            MuxInput::AudioConfig { info: Some(info), .. } => {
                self.audio.clone_from(&info.codec_string);
                (next.channels, next.sample_rate) = (info.channels, info.rate);
            }
            // MP3 and AC-3 announce themselves by coming.
            MuxInput::Sample(sample) if self.audio.is_empty() => {
                return self.read(&crate::protocol::flv::sample::audio_config(sample)?);
            }
            _ => return None,
        }
        let codecs = [&self.video, &self.audio].into_iter().filter(|codec| !codec.is_empty()).map(String::as_str);
        next.codecs = codecs.collect::<Vec<_>>().join(",");
        (next != self.known).then(|| {
            self.known = next;
            self.known.clone()
        })
    }
}

impl DiskSink {
    fn new(key: &StreamKey, files: &HlsFiles, rules: Arc<TsHlsRules>, disk: &Disk, to: Recipient<Reported>) -> Self {
        // One for each file, which are seconds apart.
        let queue = disk.queue(key.to_string(), files.dir_access, move |report| to.do_send(Reported(report)));
        Self {
            playlist: NginxPlaylist::new(Arc::clone(&rules), key.file_stem().into_owned()),
            keys: files.keys.as_ref().map(|keys| KeyRing::new(keys.fragments_per_key.into())),
            key_folder: files.keys.as_ref().map_or_else(|| files.path.clone(), |keys| keys.path.clone()),
            folder: files.path.clone(),
            rules,
            queue,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            writing: None,
            key_is_lost: false,
            has_hole: false,
            is_ended: false,
            busy: watch::Sender::new(false),
            disk: disk.clone(),
        }
    }

    fn path_of_playlist(&self) -> PathBuf {
        self.folder.join(self.playlist.names().playlist())
    }

    fn put(&mut self, segment: Segment) {
        if segment.forced {
            debug!(
                stream = self.playlist.names().stream,
                seconds = segment.duration_ms / 1000,
                "hls: force fragment split"
            );
        }
        let bytes = segment.bytes.len();
        if self.waiting.len() >= MAX_WAITING || self.waiting_bytes.saturating_add(bytes) > MAX_WAITING_BYTES {
            self.has_hole = true;
            self.queue.note_lost(&self.path_of_playlist());
            return;
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(segment);
        self.write_next();
    }

    fn write_next(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let Some(mut segment) = self.waiting.pop_front() else {
            self.busy.send_replace(false);
            return;
        };
        self.busy.send_replace(true);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(segment.bytes.len());
        segment.discontinuity |= std::mem::take(&mut self.has_hole);
        let id = self.playlist.id_of(&segment);
        let key = self.keys.as_mut().map(|keys| keys.next(id, rand::random));
        let key = key.map(|(key, is_new)| self.write_key(key, is_new));
        let path = self.folder.join(self.playlist.names().segment(id));
        let bytes = std::mem::take(&mut segment.bytes);
        self.writing = Some((segment, key.as_ref().map(|key| key.id)));
        self.queue.push(Order::Write { path, bytes, cipher: key, of: SEGMENT });
    }

    /// A key lies on the disk before the first segment that needs it, and stays young while it is needed.
    fn write_key(&self, key: Key, is_new: bool) -> Key {
        let path = self.key_folder.join(self.playlist.names().key(key.id));
        self.queue.push(match is_new {
            true => Order::Write { path, bytes: Bytes::copy_from_slice(key.bytes()), cipher: None, of: KEY },
            false => Order::Touch { path },
        });
        key
    }

    fn hear(&mut self, report: &Report) {
        if report.of == KEY {
            self.key_is_lost |= report.outcome == Outcome::Lost;
            return;
        }
        let Some((segment, key_id)) = self.writing.take() else { return };
        let key_is_lost = std::mem::take(&mut self.key_is_lost);
        if report.outcome == Outcome::Lost || key_is_lost {
            self.has_hole = true;
            if let Some(keys) = self.keys.as_mut().filter(|_| key_is_lost) {
                keys.restart();
            }
        } else {
            if report.outcome == Outcome::InNewFolder {
                self.forget_files();
            }
            self.playlist.push(&segment, key_id);
            self.list();
        }
        self.write_next();
    }

    /// The folder had to be made: what is in the list was moved away, and must not be listed any more.
    fn forget_files(&mut self) {
        if self.playlist.entries().len() == 0 {
            return;
        }
        let name = self.playlist.names().stream.to_owned();
        info!(stream = name, "the files of this stream were moved away: its playlist begins anew");
        let empty = self.playlist.text_without_entries();
        self.playlist = NginxPlaylist::resume(Arc::clone(&self.rules), name, &empty);
        if let Some(keys) = &mut self.keys {
            keys.restart();
        }
    }

    /// Writes the playlist as it is now, and the one above it.
    fn list(&mut self) {
        if self.playlist.entries().len() == 0 && self.is_ended {
            return;
        }
        let is_over = self.is_ended && self.waiting.is_empty() && self.writing.is_none();
        let bytes = Bytes::from(self.playlist.text(is_over));
        let path = self.path_of_playlist();
        if is_over {
            return self.queue.push(Order::Amend { path, bytes });
        }
        self.queue.push(Order::Rewrite { path, bytes });
        if let Some((file, text)) = self.playlist.names().master() {
            // Of an empty stream key: the family writes none, and a name of a suffix alone would be hidden.
            let file = if file == ".m3u8" { "index.m3u8" } else { &file };
            self.queue.push(Order::Rewrite { path: self.folder.join(file), bytes: Bytes::from(text) });
        }
    }
}

impl Actor for HlsMuxer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(TICK, Self::tick);
        if let Sink::Disk(disk) = &self.sink
            && disk.rules.continuous
        {
            // Nobody waits for this actor, and a disk that hangs is not waited for.
            let path = disk.path_of_playlist();
            let read = tokio::time::timeout(MAX_READ_TIME, spawn_blocking(move || read_playlist(&path)));
            ctx.wait(read.into_actor(self).map(|text, muxer, ctx| {
                if let (Sink::Disk(disk), Ok(Ok(Some(text)))) = (&mut muxer.sink, text) {
                    let name = disk.playlist.names().stream.to_owned();
                    disk.playlist = NginxPlaylist::resume(Arc::clone(&disk.rules), name, &text);
                }
                muxer.join(ctx);
            }));
        } else {
            self.join(ctx);
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(link) = &mut self.link {
            link.set_reason(ExitReason::Stopped);
        }
    }
}

impl HlsMuxer {
    fn join(&mut self, ctx: &mut Context<Self>) {
        if let Some(stream) = self.stream.take() {
            self.intake = Some(Intake::new(stream, ctx.address().recipient(), matches!(self.sink, Sink::Memory(_))));
        }
    }
}

impl Handler<Deliver> for HlsMuxer {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        let begins = matches!(message, Deliver::Begin { .. });
        if begins && self.lifetime.is_ended() {
            // What has ended stays so. Whoever wants the new publisher's starts another output.
            return ctx.stop();
        }
        let Some(mut intake) = self.intake.take() else { return };
        intake.hear(message, wall_ms(), |heard| self.take(heard));
        self.intake = Some(intake);
    }
}

impl Handler<FinishFiles> for HlsMuxer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishFiles, _: &mut Self::Context) -> Self::Result {
        self.finish();
        let Sink::Disk(sink) = &self.sink else { return Box::pin(std::future::ready(())) };
        let (mut busy, disk) = (sink.busy.subscribe(), sink.disk.clone());
        Box::pin(async move {
            // An error means that the muxer is gone.
            let _ = busy.wait_for(|busy| !busy).await;
            disk.idle().await;
        })
    }
}

impl Handler<Reported> for HlsMuxer {
    type Result = ();

    fn handle(&mut self, Reported(report): Reported, _: &mut Self::Context) {
        if let Sink::Disk(disk) = &mut self.sink {
            disk.hear(&report);
        }
    }
}

/// What lies there from before, if it can be read.
fn read_playlist(path: &std::path::Path) -> Option<String> {
    use io::Read;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                warn!(path = %path.display(), %error, "a playlist cannot be read: its numbers begin anew");
            }
            return None;
        }
    };
    let mut text = String::new();
    file.take(MAX_PLAYLIST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// What the configuration says, in the words of the protocol.
fn ts_rules(files: &HlsFiles) -> TsHlsRules {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let keys = files.keys.as_ref();
    TsHlsRules {
        fragment_ms: millis(files.fragment),
        max_fragment_ms: millis(files.max_fragment),
        playlist_length_ms: millis(files.playlist_length),
        sync_ms: u32::try_from(files.sync.as_millis()).unwrap_or(u32::MAX),
        continuous: files.continuous,
        nested: files.nested,
        nested_index: files.index.clone(),
        base_url: files.base_url.clone(),
        naming: match files.naming {
            config::Naming::Sequential => Naming::Sequential,
            config::Naming::Timestamp => Naming::Timestamp,
            config::Naming::System => Naming::System,
        },
        granularity: files.naming_granularity.into(),
        slicing: match files.slicing {
            config::Slicing::Plain => Slicing::Plain,
            config::Slicing::Aligned => Slicing::Aligned,
        },
        event: files.kind == config::PlaylistKind::Event,
        variants: files
            .variants
            .iter()
            .map(|variant| Variant { suffix: variant.suffix.clone(), attributes: variant.attributes.clone() })
            .collect(),
        max_audio_delay_ms: millis(files.max_audio_delay),
        audio_buffer_bytes: files.audio_buffer_size,
        keys: keys.is_some(),
        key_url: keys.map(|keys| keys.url.clone()).unwrap_or_default(),
        fragments_per_key: keys.map_or(0, |keys| keys.fragments_per_key.into()),
        datetime: match files.datetime {
            config::Datetime::None => Datetime::None,
            config::Datetime::System => Datetime::System,
            config::Datetime::Timestamp => Datetime::Timestamp,
        },
        allow_client_cache: files.allow_client_cache,
    }
}

fn wall_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The name of the only playlist there is in memory.
const PLAYLIST: &str = "main";

/// What a report is about.
const SEGMENT: u64 = 0;
const KEY: u64 = 1;

/// Batches that may wait: two seconds of them. A muxer that is further behind misses some, and goes on at a keyframe.
const MAILBOX: usize = 128;

/// Segments that may wait for a disk that does not keep up, and what memory they may take.
const MAX_WAITING: usize = 32;
const MAX_WAITING_BYTES: usize = 64 << 20;

/// How often it is looked whether anybody needs this.
const TICK: Duration = Duration::from_secs(1);

/// A disk that takes longer to give a playlist is not waited for.
const MAX_READ_TIME: Duration = Duration::from_secs(2);

/// A day of segments.
const MAX_PLAYLIST_BYTES: u64 = 16 << 20;

/// A keyframe that is this much before its time is in time.
const EARLY_MS: u64 = 50;

/// As `TsRules::default`: real encoders jitter by more than the family's 2 ms.
const AUDIO_SYNC_MS: u32 = 40;
