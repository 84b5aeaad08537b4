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
    source::{Deliver, Source},
    support::{
        intake::{Heard, Intake},
        lifetime::{Due, Lifetime, LifetimeRules},
        segment_store::{AUDIO, Held, Rendition as Kept, SegmentStore, VIDEO},
        shelf::Shelved,
    },
};
use crate::{
    config::outputs::Memory,
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
    sink: MemorySink,
    lifetime: Lifetime,
    started: Instant,
}

/// How far it has come with knowing the stream.
enum Stage {
    Gauging(Box<Gauge>),
    Cutting(Box<Chunker>),
}

/// Segments that are fetched over HTTP.
struct MemorySink {
    shelved: Shelved,
    rules: Memory,
    /// What every name begins with, unlike in any other output.
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
    date_ms: i64,
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
        Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Self {
                key,
                intake: None,
                stream: Some(stream),
                stage: Stage::Gauging(Box::new(gauge)),
                sink: MemorySink {
                    shelved,
                    rules,
                    prefix: format!("{now_ms:x}"),
                    // Seconds: no segment is shorter, so an output that follows this one goes on above it.
                    first_number: u64::try_from(now_ms / 1000).unwrap_or(0),
                    gauged: None,
                    video: Tail::default(),
                    audio: Tail::default(),
                },
                lifetime: Lifetime::new(lifetime),
                started: Instant::now(),
            }
        });
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
        let mut chunker = Chunker::new(self.sink.begin(gauged));
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
        // A stream that failed says nothing any more.
        if self.intake.as_ref().is_some_and(Intake::is_orphaned) {
            self.take(Heard::End);
        }
        let store = self.sink.store();
        store.sessions().expire(store.now());
        match self.lifetime.due(self.started.elapsed(), store.idle_for()) {
            Due::Nothing => {}
            Due::End => {
                info!(stream = %self.key, "segments end: the publisher did not come back");
                store.update(Held::end);
            }
            Due::Stop => ctx.stop(),
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
            Chunk::Init { rendition, bytes, codecs, width, height, fps, channels, sample_rate, .. } => {
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
                    let tail = self.tail_of(rendition);
                    *tail = Tail { end: start.saturating_add(duration), timescale, is_open: true, ..*tail };
                    tail.date_ms = wall_ms.saturating_add(millis_of(duration, timescale));
                }
            }
            Chunk::SegmentEnd { rendition, independent, end_ms, .. } => {
                let Some(window) = held.window(name_of(rendition)) else { return };
                let tail = self.tail_of(rendition);
                if std::mem::take(&mut tail.is_open) {
                    window.end_segment(independent);
                } else if let Some(duration) = tail.until(end_ms) {
                    let (start, timescale, date_ms) = (tail.end, tail.timescale, tail.date_ms);
                    let bytes = Bytes::new();
                    window.push_gap(Part { bytes, start, duration, timescale, independent: false, date_ms });
                    tail.end = tail.end.saturating_add(duration);
                    tail.date_ms = tail.date_ms.saturating_add(millis_of(duration, timescale));
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
    /// How long it is from here to there; none where that is nothing.
    fn until(&self, end_ms: i64) -> Option<u64> {
        let end = u64::try_from(i128::from(end_ms) * i128::from(self.timescale) / 1000).ok()?;
        end.checked_sub(self.end).filter(|duration| *duration > 0)
    }
}

fn millis_of(duration: u64, timescale: u32) -> i64 {
    i64::try_from(u128::from(duration) * 1000 / u128::from(timescale.max(1))).unwrap_or(i64::MAX)
}

impl Actor for CmafMuxer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(stream) = self.stream.take() {
            self.intake = Some(Intake::new(stream, ctx.address().recipient()));
        }
        ctx.run_interval(TICK, Self::tick);
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
