//! Makes fragmented MP4 of one stream: parts and segments for HLS and DASH, in memory or on disk.
//!
//! What to cut where is decided by `protocol::mp4::chunker`; this actor hears the stream, and carries chunks to where they
//! are fetched from.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    hls_muxer::FinishFiles,
    source::{Deliver, Source},
    support::{
        dash_files::DashWriter,
        disk::{Disk, Report},
        intake::{Heard, Intake},
        lifetime::{Due, Lifetime, LifetimeRules},
        link::{ExitReason, Link},
        segment_store::{AUDIO, Held, Rendition as Kept, SegmentStore, VIDEO, names_of_their_own},
        shelf::Shelved,
    },
};
use crate::{
    config::outputs::{DashFiles, Memory},
    media::key::StreamKey,
    protocol::{
        flv::sample::MuxInput,
        hls::{
            gauge::{Gauge, GaugeRules, Gauged},
            window::{Container, Description, Part, Window, WindowRules},
        },
        mp4::chunker::{Chunk, ChunkRules, Chunker, Chunks, Rendition},
    },
};

/// One output of one stream.
pub struct CmafMuxer {
    key: StreamKey,
    intake: Option<Intake>,
    stream: Option<Source>,
    stage: Stage,
    sink: Sink,
    lifetime: Lifetime,
    started: Instant,
    /// For whoever looks after outputs on disk.
    link: Option<Link>,
}

enum Sink {
    Memory(Box<MemorySink>),
    Disk(Box<DashWriter>, Disk),
}

/// To the muxer, from the disk.
#[derive(Message)]
#[rtype(result = "()")]
struct Reported(Report);

/// How far it has come with knowing the stream.
enum Stage {
    Gauging(Box<Gauge>),
    Cutting(Box<Chunker>),
}

/// Segments that are fetched over HTTP.
struct MemorySink {
    shelved: Shelved,
    rules: Memory,
    /// What every name begins with, unlike in any other output, and not to be guessed: a hook is asked about who reads
    /// a playlist, and nobody else learns the names.
    prefix: String,
    first_number: u64,
    gauged: Option<Gauged>,
    video: Tail,
    audio: Tail,
}

/// Where a rendition ends so far.
#[derive(Clone, Copy, Default)]
struct Tail {
    end: u64,
    timescale: u32,
    /// Parts have come since the last segment ended.
    is_open: bool,
}

impl CmafMuxer {
    /// Starts an output in memory, whose store is on the shelf already. To be called on the arbiter where it is to live.
    pub fn start_in_memory(key: StreamKey, stream: Source, rules: Memory, shelved: Shelved) {
        let lifetime = LifetimeRules { idle: Some(rules.idle), end_after: rules.end_after, ended: rules.ended };
        let gauge =
            Gauge::new(GaugeRules { fragment: rules.fragment, max_fragment: rules.max_fragment, part: rules.part });
        let now_ms = wall_ms();
        let sink = MemorySink {
            shelved,
            rules,
            prefix: names_of_their_own(),
            // Seconds: no segment is shorter, so an output that follows this one goes on above it.
            first_number: u64::try_from(now_ms / 1000).unwrap_or(0),
            gauged: None,
            video: Tail::default(),
            audio: Tail::default(),
        };
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let (sink, stage) = (Sink::Memory(Box::new(sink)), Stage::Gauging(Box::new(gauge)));
            Self::new(key, stream, stage, sink, Lifetime::new(lifetime), None)
        });
    }

    /// Starts writing files for DASH on an arbiter.
    pub fn start_on_disk(
        key: StreamKey,
        stream: Source,
        files: &DashFiles,
        end_after: Duration,
        disk: &Disk,
        link: Link,
        home: &ArbiterHandle,
    ) -> Addr<Self> {
        let lifetime = LifetimeRules { idle: None, end_after, ended: Duration::ZERO };
        let fragment_ms = u32::try_from(files.fragment.as_millis()).unwrap_or(u32::MAX).max(1);
        // As the family: twice as long, and it ends without a keyframe.
        let rules = ChunkRules {
            part_ms: fragment_ms,
            fragment_ms,
            max_segment_ms: fragment_ms.saturating_mul(2),
            low_latency: false,
        };
        let (files, disk) = (files.clone(), disk.clone());
        Self::start_in_arbiter(home, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let to = ctx.address().recipient();
            // One for each file, which are seconds apart.
            let tell = move |report| to.do_send(Reported(report));
            let writer = DashWriter::new(files, key.file_stem().into_owned(), key.to_string(), &disk, tell);
            let (sink, stage) = (Sink::Disk(Box::new(writer), disk), Stage::Cutting(Box::new(Chunker::new(rules))));
            Self::new(key, stream, stage, sink, Lifetime::new(lifetime), Some(link))
        })
    }

    fn new(key: StreamKey, stream: Source, stage: Stage, sink: Sink, lifetime: Lifetime, link: Option<Link>) -> Self {
        let (stream, intake) = (Some(stream), None);
        Self { key, intake, stream, stage, sink, lifetime, started: Instant::now(), link }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Begin => {
                // After a takeover nobody has said that the last one is gone.
                self.finish();
                self.lifetime.begin();
            }
            Heard::Gap => {
                if let Stage::Cutting(chunker) = &mut self.stage {
                    let chunks = chunker.gap();
                    self.sink.take(chunks);
                }
            }
            Heard::Input(input, wall_ms) => self.push(input, wall_ms),
            Heard::End => {
                self.finish();
                self.lifetime.leave(self.started.elapsed());
            }
        }
    }

    fn push(&mut self, input: MuxInput, wall_ms: i64) {
        match &mut self.stage {
            Stage::Cutting(chunker) => {
                let chunks = chunker.push(input, wall_ms);
                self.sink.take(chunks);
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
        let mut chunker = Chunker::new(memory.begin(gauged));
        for (input, wall_ms) in held {
            self.sink.take(chunker.push(input, wall_ms));
        }
        self.stage = Stage::Cutting(Box::new(chunker));
    }

    /// What has come makes a last segment.
    fn finish(&mut self) {
        if let Stage::Gauging(gauge) = &mut self.stage
            && let Some(known) = gauge.finish()
        {
            self.begin_cutting(known);
        }
        if let Stage::Cutting(chunker) = &mut self.stage {
            let chunks = chunker.end();
            self.sink.take(chunks);
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
            Sink::Disk(..) => Duration::ZERO,
        };
        match self.lifetime.due(self.started.elapsed(), idle) {
            Due::Nothing => {}
            Due::End => {
                info!(stream = %self.key, "segments end: the publisher did not come back");
                if let Sink::Memory(memory) = &self.sink
                    && !memory.store().end()
                {
                    ctx.stop();
                }
            }
            // What is on its way to the disk is still listed when it gets there.
            Due::Stop if matches!(&self.sink, Sink::Disk(writer, _) if *writer.busy().borrow()) => {}
            Due::Stop => {
                info!(stream = %self.key, "segments stop: nobody needs them");
                ctx.stop();
            }
        }
    }
}

impl Sink {
    fn take(&mut self, chunks: Chunks) {
        match self {
            Self::Memory(memory) => memory.take(chunks),
            Self::Disk(writer, _) => writer.take(chunks),
        }
    }
}

impl MemorySink {
    fn store(&self) -> &SegmentStore {
        self.shelved.store()
    }

    fn begin(&mut self, gauged: Gauged) -> ChunkRules {
        self.gauged = Some(gauged);
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        ChunkRules {
            part_ms: gauged.part_ms,
            fragment_ms: millis(self.rules.fragment),
            max_segment_ms: gauged.max_segment_ms,
            low_latency: !self.rules.part.is_zero(),
        }
    }

    fn take(&mut self, chunks: Chunks) {
        if chunks.is_empty() {
            return;
        }
        let store = Arc::clone(self.shelved.store());
        store.update(|held| chunks.into_iter().for_each(|chunk| self.put(held, chunk)));
    }

    fn put(&mut self, held: &mut Held, chunk: Chunk) {
        match chunk {
            Chunk::Init { rendition, bytes, codecs, width, height, fps, channels, sample_rate, timescale, .. } => {
                self.tail_of(rendition).rescale(timescale);
                let sample_rate = if rendition == Rendition::Audio { sample_rate } else { 0 };
                let description = Description { codecs, width, height, fps, channels, sample_rate };
                let name = name_of(rendition);
                if held.window(name).is_none() {
                    let prefix = format!("{}{}", self.prefix, if rendition == Rendition::Video { 'v' } else { 'a' });
                    let window = Window::new(match held.renditions.first() {
                        // One that comes later has the numbers of the one that is there.
                        Some(first) => WindowRules::joining(&first.window, &prefix),
                        None => self.window_rules(&prefix),
                    });
                    // Video first: it is what a player looks for in the list.
                    let place = if rendition == Rendition::Video { 0 } else { held.renditions.len() };
                    held.renditions.insert(place, Kept { name, window });
                }
                if let Some(window) = held.window(name) {
                    window.push_init(bytes, description);
                }
            }
            Chunk::Part { rendition, bytes, duration, timescale, independent, start, wall_ms } => {
                if let Some(window) = held.window(name_of(rendition)) {
                    window.push_part(Part { bytes, start, duration, timescale, independent, date_ms: wall_ms });
                    *self.tail_of(rendition) = Tail { end: start.saturating_add(duration), timescale, is_open: true };
                }
            }
            Chunk::SegmentEnd { rendition, independent, start_ms, end_ms, wall_ms, .. } => {
                let Some(window) = held.window(name_of(rendition)) else { return };
                let tail = self.tail_of(rendition);
                if std::mem::take(&mut tail.is_open) {
                    window.end_segment(independent);
                } else {
                    let timescale = tail.timescale;
                    let start = ticks(start_ms, timescale).max(tail.end);
                    // Never nothing, so that both renditions have the same numbers.
                    let duration = ticks(end_ms, timescale).saturating_sub(start).max(1);
                    tail.end = start.saturating_add(duration);
                    let bytes = Bytes::new();
                    window.push_gap(Part { bytes, start, duration, timescale, independent: false, date_ms: wall_ms });
                }
            }
            Chunk::Discontinuity => held.renditions.iter_mut().for_each(|held| held.window.discontinuity()),
        }
    }

    fn window_rules(&self, prefix: &str) -> WindowRules {
        let target_s = self.gauged.map_or(1, |gauged| gauged.target_s);
        let is_low_latency = !self.rules.part.is_zero();
        WindowRules {
            part_target_ms: self.gauged.filter(|_| is_low_latency).map(|gauged| gauged.part_ms),
            length_ms: u64::try_from(self.rules.playlist_length.as_millis()).unwrap_or(u64::MAX),
            first_number: self.first_number,
            ..WindowRules::new(Container::Fmp4, prefix, target_s)
        }
    }

    fn tail_of(&mut self, rendition: Rendition) -> &mut Tail {
        match rendition {
            Rendition::Video => &mut self.video,
            Rendition::Audio => &mut self.audio,
        }
    }
}

impl Tail {
    /// Another configuration may count in other units.
    fn rescale(&mut self, timescale: u32) {
        self.end = match self.timescale {
            0 => 0,
            before => {
                u64::try_from(u128::from(self.end) * u128::from(timescale) / u128::from(before)).unwrap_or(u64::MAX)
            }
        };
        self.timescale = timescale;
    }
}

/// To the nearest, as the samples beside a gap are placed.
fn ticks(ms: i64, timescale: u32) -> u64 {
    let ticks = (u128::from(u64::try_from(ms).unwrap_or(0)) * u128::from(timescale) + 500) / 1000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

impl Actor for CmafMuxer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(stream) = self.stream.take() {
            self.intake = Some(Intake::new(stream, ctx.address().recipient(), matches!(self.sink, Sink::Memory(_))));
        }
        ctx.run_interval(TICK, Self::tick);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(link) = &mut self.link {
            link.set_reason(ExitReason::Stopped);
        }
    }
}

impl Handler<FinishFiles> for CmafMuxer {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FinishFiles, _: &mut Self::Context) -> Self::Result {
        self.finish();
        let Sink::Disk(writer, disk) = &self.sink else { return Box::pin(std::future::ready(())) };
        let (mut busy, disk) = (writer.busy(), disk.clone());
        Box::pin(async move {
            // An error means that the muxer is gone.
            let _ = busy.wait_for(|busy| !busy).await;
            disk.idle().await;
        })
    }
}

impl Handler<Reported> for CmafMuxer {
    type Result = ();

    fn handle(&mut self, Reported(report): Reported, _: &mut Self::Context) {
        if let Sink::Disk(writer, _) = &mut self.sink {
            writer.hear(&report, wall_ms());
        }
    }
}

impl Handler<Deliver> for CmafMuxer {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        if self.lifetime.is_ended() && matches!(message, Deliver::Begin { .. }) {
            // What has ended stays so. Whoever wants to see the new publisher finds another output.
            return ctx.stop();
        }
        let Some(mut intake) = self.intake.take() else { return };
        intake.hear(message, wall_ms(), |heard| self.take(heard));
        self.intake = Some(intake);
    }
}

/// The names of playlists.
fn name_of(rendition: Rendition) -> &'static str {
    match rendition {
        Rendition::Video => VIDEO,
        Rendition::Audio => AUDIO,
    }
}

fn wall_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Batches that may wait: two seconds of them. A muxer that is further behind misses some, and goes on at a keyframe.
const MAILBOX: usize = 128;

/// How often it is looked whether anybody needs this.
const TICK: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use smallvec::SmallVec;
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        actors::{
            source::Listen,
            support::{
                segment_store::{StoreLimits, Wanted},
                sessions::Sessions,
                shelf::{Format, Shelf},
            },
        },
        media::packet::{Batch, Packet, PacketKind, Track},
        protocol::hls::playlist::Encoding,
    };

    /// A stream that tells what it is asked.
    struct Stream(mpsc::Sender<Listen>);
    impl Actor for Stream {
        type Context = Context<Self>;
    }
    impl Handler<Listen> for Stream {
        type Result = ();
        fn handle(&mut self, listen: Listen, _: &mut Self::Context) {
            let _ = self.0.try_send(listen);
        }
    }

    struct Bench {
        shelf: Shelf,
        key: StreamKey,
        store: Arc<SegmentStore>,
        asked: mpsc::Receiver<Listen>,
        muxer: Recipient<Deliver>,
        subscriber: u64,
        _stream: Addr<Stream>,
    }

    impl Bench {
        async fn start() -> Self {
            tokio::time::pause();
            let (tell, mut asked) = mpsc::channel(8);
            let stream = Stream(tell).start();
            let source = Source { id: 1, to: stream.clone().recipient(), counters: Arc::default() };
            let (shelf, key) = (Shelf::default(), StreamKey::parse("default", "live", "a").expect("a good name"));
            let limits = StoreLimits { blocked_requests: 1, patience: Duration::from_secs(1) };
            let sessions = Sessions::new(Duration::from_secs(30), Arc::default(), || 1);
            let shelved =
                shelf.put(&key, Format::Cmaf, || SegmentStore::new(limits, sessions)).ok().expect("the first");
            let store = Arc::clone(shelved.store());
            let rules = Memory { idle: Duration::from_secs(100), ..Memory::default() };
            CmafMuxer::start_in_memory(key.clone(), source, rules, shelved);
            let Some(Listen::Join { subscriber, to: muxer, .. }) = asked.recv().await else { panic!("it joins first") };
            let catch_up = asked.recv().await;
            assert!(matches!(catch_up, Some(Listen::CatchUp { listener, .. }) if listener == subscriber));
            Self { shelf, key, store, asked, muxer, subscriber, _stream: stream }
        }

        async fn tell(&self, message: Deliver) {
            self.muxer.send(message).await.expect("the muxer lives");
        }

        async fn begin(&self, listener: Option<u64>, from: i64) {
            let burst = std::iter::once(config()).chain((from..from + 10).map(frame)).collect();
            self.tell(Deliver::Begin { listener, burst }).await;
        }

        async fn media(&self, frames: std::ops::Range<i64>, gap: bool) {
            let packets: SmallVec<[Packet; 4]> = frames.map(frame).collect();
            self.tell(Deliver::Media { batch: Batch::new(packets), gap }).await;
        }

        /// Its segments: how many, how many of them begin with a discontinuity, and whether it has ended.
        fn list(&self) -> (usize, usize, bool) {
            self.store.look(|held| {
                held.renditions.first().map_or((0, 0, false), |held| {
                    let segments: Vec<_> = held.window.segments().collect();
                    let breaks = segments.iter().filter(|segment| segment.discontinuity).count();
                    (segments.len(), breaks, held.window.is_ended())
                })
            })
        }

        async fn pass(&self, seconds: u64) {
            for _ in 0..seconds {
                tokio::time::advance(Duration::from_secs(1)).await;
                tokio::task::yield_now().await;
            }
        }
    }

    fn config() -> Packet {
        let body: &[u8] = &[
            0x17, 0, 0, 0, 0, 1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 24, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xec,
            0x04, 0x40, 0, 0, 3, 0, 0x40, 0, 0, 0x0c, 0x83, 0xc5, 0x0a, 0xa8, 1, 0, 4, 0x68, 0xce, 0x0f, 0xc8,
        ];
        Packet::new(Track::Video, PacketKind::Config, 0, Bytes::from_static(body))
    }

    /// 25 a second, a keyframe each.
    fn frame(number: i64) -> Packet {
        let key = number % 25 == 0;
        let (kind, first, unit) = if key { (PacketKind::Key, 0x17, 0x65) } else { (PacketKind::Inter, 0x27, 0x41) };
        let body = vec![first, 1, 0, 0, 0, 0, 0, 0, 4, unit, 0x88, 0x80, 0x10];
        Packet::new(Track::Video, kind, number * 40, Bytes::from(body))
    }

    #[actix::test]
    async fn a_burst_and_what_follows_become_segments_once() {
        let bench = Bench::start().await;
        bench.media(0..5, false).await;
        assert_eq!(bench.list(), (0, 0, false), "nothing counts before the burst");
        bench.begin(None, 0).await;
        bench.begin(Some(bench.subscriber), 0).await;
        bench.begin(Some(bench.subscriber + 1), 0).await;
        bench.media(10..151, false).await;
        assert_eq!(bench.list(), (3, 0, false));
    }

    #[actix::test]
    async fn what_was_lost_is_a_discontinuity() {
        let bench = Bench::start().await;
        bench.begin(None, 0).await;
        bench.media(10..101, false).await;
        bench.media(125..251, true).await;
        let (segments, breaks, _) = bench.list();
        assert!(segments >= 3 && breaks == 1, "{segments} {breaks}");
    }

    #[actix::test]
    async fn a_takeover_and_a_return_go_on_and_staying_away_ends() {
        let mut bench = Bench::start().await;
        bench.begin(None, 0).await;
        bench.media(10..101, false).await;
        bench.begin(None, 100).await;
        bench.media(110..201, false).await;
        assert_eq!(bench.list().1, 1, "another publisher took over");
        bench.tell(Deliver::End).await;
        bench.pass(10).await;
        bench.begin(None, 300).await;
        bench.media(310..401, false).await;
        assert_eq!((bench.list().1, bench.list().2), (2, false), "a publisher came back");
        bench.tell(Deliver::End).await;
        bench.pass(17).await;
        assert!(bench.list().2, "it stayed away");
        assert!(bench.shelf.find(&bench.key, Format::Cmaf).is_some(), "and can still be watched");
        bench.pass(62).await;
        assert!(bench.shelf.find(&bench.key, Format::Cmaf).is_none() && !bench.store.is_open());
        assert!(matches!(bench.asked.recv().await, Some(Listen::Leave { .. })));
    }

    #[actix::test]
    async fn a_publisher_that_left_before_it_was_heard_is_waited_for_as_any_other() {
        let mut bench = Bench::start().await;
        for _ in 0..14 {
            bench.pass(1).await;
            let _ = bench.store.fetch(&Wanted::File { name: "x" }, Encoding::Plain).await;
            assert!(bench.store.is_open());
        }
        bench.pass(3).await;
        assert!(bench.shelf.find(&bench.key, Format::Cmaf).is_none(), "it has nothing that could still be watched");
        assert!(matches!(bench.asked.recv().await, Some(Listen::Leave { .. })));
    }

    #[actix::test]
    async fn what_nobody_asks_for_leaves_the_stream() {
        let mut bench = Bench::start().await;
        bench.begin(None, 0).await;
        bench.pass(99).await;
        assert!(bench.store.is_open());
        bench.pass(3).await;
        assert!(!bench.store.is_open());
        assert!(matches!(bench.asked.recv().await, Some(Listen::Leave { .. })));
    }
}
