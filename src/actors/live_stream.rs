//! One live stream: takes packets from its publisher, places them in time, hands each batch to every subscriber.
//!
//! It knows its subscribers as `Recipient<Deliver>` and its publisher as `Recipient<Replaced>`; it has never heard of
//! RTMP, files or HTTP, and it waits for nobody.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    router::Opened,
    source::{Deliver, Listen, Refusal, Subscribers},
    support::{
        counters::StreamCounters,
        facts::SessionFacts,
        link::{ExitReason, Link},
        route::Route,
    },
};
use crate::{
    config::{DuplicatePublisher, Live, Meta},
    media::{
        codec::{AudioCodec, Codec},
        gather::Gathered,
        gop::{GopCache, GopLimits},
        key::StreamKey,
        meter::{Meter, Readings},
        packet::{Batch, Packet, PacketKind, Track},
        timeline::{Notice, Timeline, TimelineRules},
    },
    protocol::{
        amf,
        flv::tag::{self, Reading},
        rtmp::metadata,
    },
};

pub struct LiveStream {
    key: StreamKey,
    rules: Arc<Rules>,
    started: Instant,
    timeline: Timeline,
    cache: GopCache,
    meter: Meter,
    publisher: Option<Publisher>,
    /// Bounded by [`MAX_NEWCOMERS`], and each waits no longer than [`REFUSAL_WAITS`].
    newcomers: VecDeque<Newcomer>,
    subscribers: Subscribers,
    /// Somebody watches, having come this way, and that has been told.
    wanted: Option<Route>,
    counters: Arc<StreamCounters>,
    /// The codecs of picture and sound that `counters` were told of.
    described: (Option<Codec>, Option<Codec>),
    /// When the log last told of a jump of the publisher's clock.
    jump_said: Option<Duration>,
    herald: Herald,
    link: Link,
}

/// What an application asks of its streams.
#[derive(Debug)]
pub struct Rules {
    pub live: Live,
    /// What the values in metadata may be.
    pub amf: amf::Limits,
    /// Its streams can come from elsewhere: who asks for one that nobody publishes may wait for it.
    pub is_fetched: bool,
}

/// Somebody wants to publish here. The answer is the last word on whether the name is free.
#[derive(Message)]
#[rtype(result = "Result<Publication, NameInUse>")]
pub struct Publish {
    /// Its id names the publisher from here on. Who publishes already and asks again goes on: nothing ends for the players.
    pub facts: Arc<SessionFacts>,
    /// Told when another publisher takes over.
    pub to: Recipient<Replaced>,
}

/// Would [`Publish`] be refused? Nothing is taken. As there, a refusal waits a moment for a publisher that is leaving.
#[derive(Message)]
#[rtype(result = "Result<(), NameInUse>")]
pub struct LookWhetherFree(pub Arc<SessionFacts>);

/// The right to send [`Ingest`]: it names the publisher in each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    pub session: u64,
}

/// Somebody else is publishing under this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("already publishing: {} sent media {silent_ms} ms ago", PeerName(.by))]
pub struct NameInUse {
    pub by: Option<SocketAddr>,
    pub silent_ms: u64,
}

/// To a publisher that has lost its place.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub enum Replaced {
    /// Somebody else has it.
    TakenOver,
    /// It may not publish, after all.
    Expelled(String),
}

/// The publisher that is there is to go.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Expel {
    pub reason: String,
}

/// What the publisher sent and what travels together, in its order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ingest {
    pub session: u64,
    pub messages: Gathered<Incoming>,
}

/// One message as it was published.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub medium: Medium,
    /// RTMP's own clock.
    pub time: u32,
    pub body: Bytes,
}

/// What a published message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Audio,
    Video,
    Metadata,
    Text,
}

/// What happens to a stream, for whoever makes something of it.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub enum StreamEvent {
    /// Somebody was let in to publish; nothing may have come yet.
    Published { key: StreamKey, opened: Opened, facts: Arc<SessionFacts> },
    /// Another publisher took the place of the one that was there; for the players nothing ends.
    Replaced { key: StreamKey, id: u64, facts: Arc<SessionFacts> },
    /// The publisher left; another one may come.
    Ended { key: StreamKey, id: u64 },
    /// Somebody watches, or waits for a publisher; `route` is the way one of them came. Told again when that changes.
    Wanted { key: StreamKey, opened: Opened, route: Route },
    /// Nobody does any more.
    Unwanted { key: StreamKey, id: u64 },
    /// The stream itself is no more, however it went.
    Gone { key: StreamKey, id: u64 },
}

/// Who hears of streams.
#[derive(Clone, Default)]
pub struct StreamEvents(Arc<[Recipient<StreamEvent>]>);

impl StreamEvents {
    pub fn to<const N: usize>(hearers: [Recipient<StreamEvent>; N]) -> Self {
        Self(hearers.into())
    }
}

/// The publisher has lost what it publishes, and will come back with [`Publish`] or give up with [`EndPublish`]. Until then the
/// players wait.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AwaitPublisher {
    pub session: u64,
}

/// Sends everybody away who waits for this stream: it is not to be had.
#[derive(Message)]
#[rtype(result = "()")]
pub struct TurnAway(pub Arc<Refusal>);

/// What a decoder must know of this stream, as its publisher sent it: for a publisher that goes on elsewhere, and will
/// not say it again.
#[derive(Message)]
#[rtype(result = "Vec<Incoming>")]
pub struct CopyHeaders;

/// How is it with the stream?
#[derive(Message)]
#[rtype(result = "StreamReading")]
pub struct Describe;

/// The answer to [`Describe`].
#[derive(Clone, Copy, Debug, Default, MessageResponse)]
pub struct StreamReading {
    /// The id of the session that publishes.
    pub publisher: Option<u64>,
    /// Media has come from it.
    pub active: bool,
    /// Since there is the stream.
    pub age: Duration,
    pub readings: Readings,
}

/// The publisher is done.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EndPublish {
    pub session: u64,
}

/// Tells of the stream, and by being dropped that it is gone.
struct Herald {
    key: StreamKey,
    id: u64,
    to: StreamEvents,
}

impl Herald {
    /// At most twice a publish, twice for all who watch at a time, and once for the stream: it may not get lost.
    fn tell(&self, event: impl FnOnce(StreamKey, u64) -> StreamEvent) {
        let event = event(self.key.clone(), self.id);
        for to in self.to.0.iter() {
            to.do_send(event.clone());
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        self.tell(|key, id| StreamEvent::Gone { key, id });
    }
}

struct Publisher {
    facts: Arc<SessionFacts>,
    to: Recipient<Replaced>,
    began: Duration,
    last_media: Duration,
    /// Media has come: players have been told.
    active: bool,
    /// It has lost what it publishes, and said that it will come back.
    is_away: bool,
}

/// Somebody who wants to publish here while the last publisher may be about to leave.
struct Newcomer {
    asked: Publish,
    answer: oneshot::Sender<Result<Publication, NameInUse>>,
}

impl LiveStream {
    pub fn new(
        key: StreamKey,
        rules: Arc<Rules>,
        counters: Arc<StreamCounters>,
        events: StreamEvents,
        link: Link,
    ) -> Self {
        let herald = Herald { key: key.clone(), id: counters.id, to: events };
        let live = &rules.live;
        let cache = GopCache::new(gop_limits(live));
        let timeline = Timeline::new(TimelineRules {
            max_forward_ms: live.fix_timestamp.as_millis() as i64,
            ..TimelineRules::default()
        });
        Self {
            key,
            rules,
            started: Instant::now(),
            timeline,
            cache,
            meter: Meter::default(),
            publisher: None,
            newcomers: VecDeque::new(),
            subscribers: Subscribers::default(),
            wanted: None,
            counters,
            described: (None, None),
            jump_said: None,
            herald,
            link,
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether a newcomer may take the place of the publisher that is there.
    fn may_replace(&self, publisher: &Publisher, newcomer: &SessionFacts, now: Duration) -> bool {
        // A relay stands in for a publisher: it makes way for one, and takes nobody's place.
        if newcomer.is_relay || publisher.facts.is_relay {
            return publisher.facts.is_relay && !newcomer.is_relay;
        }
        match self.rules.live.duplicate_publisher {
            DuplicatePublisher::Reject => false,
            DuplicatePublisher::Replace => true,
            DuplicatePublisher::ReplaceIfStalled(stalled) => now.saturating_sub(publisher.last_media) >= stalled,
        }
    }

    fn take(&mut self, message: Incoming, now: Duration) -> Option<Packet> {
        self.counters.packets_in.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(message.body.len() as u64, Ordering::Relaxed);
        let track = match message.medium {
            Medium::Audio => Track::Audio,
            Medium::Video => Track::Video,
            Medium::Metadata | Medium::Text => Track::Data,
        };
        self.meter.count_in(track, message.body.len(), now);
        let packet = match message.medium {
            Medium::Audio | Medium::Video => self.take_media(message, now),
            Medium::Metadata => self.take_metadata(&message),
            Medium::Text => self.take_text(message, now),
        };
        if let Some(packet) = &packet {
            self.cache.push(packet);
        }
        // Before the first audio or video nobody has been told of this publisher: who waits is told with the burst.
        packet.filter(|_| self.is_active())
    }

    fn take_media(&mut self, message: Incoming, now: Duration) -> Option<Packet> {
        let video = message.medium == Medium::Video;
        self.counters.clock_ms.store(message.time, Ordering::Relaxed);
        match tag::read(video, message.body) {
            Ok(Reading::Frame(frame)) => {
                self.describe(&frame);
                let placed = self.timeline.place(frame.track, message.time, frame.kind, frame.cts_ms, now);
                if let Some(notice) = placed.notice {
                    self.note_clock(frame.track, notice, now);
                }
                self.meter.frame(frame.track, frame.kind, placed.time_ms, now);
                if let Some(publisher) = &mut self.publisher {
                    publisher.last_media = now;
                }
                Some(Packet::with_original(frame.track, frame.kind, placed.time_ms, frame.payload, frame.original))
            }
            Ok(Reading::OtherTrack { original, count, kind }) => {
                self.counters.other_tracks.fetch_add(u64::from(count), Ordering::Relaxed);
                let track = if video { Track::Video } else { Track::Audio };
                let placed = self.timeline.place(track, message.time, kind, 0, now);
                Some(Packet::with_original(track, kind, placed.time_ms, Bytes::new(), Some(original)))
            }
            Ok(Reading::Nothing) => None,
            Err(error) => {
                let refused = self.counters.refused_messages.fetch_add(1, Ordering::Relaxed);
                // Each is counted; the log says the first and then every thousandth.
                if refused.is_multiple_of(REFUSALS_PER_LINE) {
                    warn!(stream = %self.key, %error, refused = refused + 1, "a message nobody can read was dropped");
                }
                None
            }
        }
    }

    /// Codecs without a configuration are described by their first frame.
    fn describe(&mut self, frame: &tag::Frame) {
        let known = match frame.track {
            Track::Video => &mut self.described.0,
            _ => &mut self.described.1,
        };
        let is_config = frame.kind == PacketKind::Config;
        if !is_config && *known == Some(frame.codec) {
            return;
        }
        *known = Some(frame.codec);
        let has_no_config = matches!(frame.codec, Codec::Audio(AudioCodec::Mp3 | AudioCodec::Ac3 | AudioCodec::Eac3));
        let record = if is_config || has_no_config { frame.data() } else { Bytes::new() };
        self.counters.describe(frame.codec, &record);
    }

    fn note_clock(&mut self, track: Track, notice: Notice, now: Duration) {
        match notice {
            Notice::Jumped { by_ms } => {
                let jumps = self.counters.jumps.fetch_add(1, Ordering::Relaxed) + 1;
                // A clock may jump with every frame; each is counted, and the log says one a second.
                if self.jump_said.is_none_or(|said| now.saturating_sub(said) >= JUMP_LINE_EVERY) {
                    self.jump_said = Some(now);
                    info!(stream = %self.key, ?track, by_ms, jumps, "the publisher's clock jumped");
                }
            }
            Notice::ClockStuck => warn!(stream = %self.key, ?track, "the publisher's clock stands still, using ours"),
            Notice::ClockMoves => info!(stream = %self.key, ?track, "the publisher's clock moves again"),
        }
    }

    fn take_metadata(&self, message: &Incoming) -> Option<Packet> {
        let body = match self.rules.live.meta {
            Meta::Off => return None,
            Meta::Copy => message.body.clone(),
            Meta::On => match metadata::for_players(&message.body, &self.rules.amf) {
                Ok(body) => body,
                Err(error) => {
                    self.counters.refused_messages.fetch_add(1, Ordering::Relaxed);
                    debug!(stream = %self.key, %error, "metadata nobody can read was dropped");
                    return None;
                }
            },
        };
        Some(Packet::new(Track::Data, PacketKind::Metadata, 0, body))
    }

    fn take_text(&mut self, message: Incoming, now: Duration) -> Option<Packet> {
        let placed = self.timeline.place(Track::Data, message.time, PacketKind::Text, 0, now);
        Some(Packet::new(Track::Data, PacketKind::Text, placed.time_ms, message.body))
    }

    /// What somebody who joins now is sent first. Headers stand at the time of the first frame, so that no player
    /// sees its clock leap from them to the present.
    fn burst(&self) -> Arc<[Packet]> {
        let first = self.cache.burst().find(|packet| packet.is_frame()).map(Packet::time_ms);
        let first = first.unwrap_or_else(|| self.timeline.latest_ms());
        self.cache.burst().map(|packet| if packet.is_config() { packet.at(first) } else { packet.clone() }).collect()
    }

    fn begin_playing(&mut self) {
        info!(stream = %self.key, "live");
        self.subscribers.tell(&Deliver::Begin { listener: None, burst: self.burst() });
    }

    fn end_publisher(&mut self) {
        self.counters.publishing.store(false, Ordering::Relaxed);
        self.counters.end();
        self.cache.clear();
        self.publisher = None;
        self.subscribers.tell(&Deliver::End);
        self.herald.tell(|key, id| StreamEvent::Ended { key, id });
    }

    fn opened(&self, ctx: &Context<Self>) -> Opened {
        Opened { stream: ctx.address(), counters: Arc::clone(&self.counters) }
    }

    /// Says whether somebody watches and by which way, when that has changed.
    fn note_wanted(&mut self, ctx: &Context<Self>) {
        let wants = self.subscribers.wants();
        if wants == self.wanted.as_ref() {
            return;
        }
        self.wanted = wants.cloned();
        match self.wanted.clone() {
            Some(route) => {
                let opened = self.opened(ctx);
                self.herald.tell(|key, _| StreamEvent::Wanted { key, opened, route });
            }
            None => self.herald.tell(|key, id| StreamEvent::Unwanted { key, id }),
        }
    }

    fn is_active(&self) -> bool {
        self.publisher.as_ref().is_some_and(|publisher| publisher.active)
    }
}

impl Actor for LiveStream {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.counters.publishing.store(false, Ordering::Relaxed);
        self.link.set_reason(ExitReason::Stopped);
    }
}

impl Handler<Publish> for LiveStream {
    type Result = ResponseFuture<Result<Publication, NameInUse>>;

    fn handle(&mut self, asked: Publish, ctx: &mut Self::Context) -> Self::Result {
        let in_use = match self.claim(&asked, ctx) {
            Err(in_use) if self.newcomers.len() < MAX_NEWCOMERS => in_use,
            answer => return Box::pin(std::future::ready(answer)),
        };
        // An encoder that reconnects at once may be here before the end of its last session is: on different arbiters
        // the two do not come in order. So the refusal waits a moment for that end.
        let (answer, answered) = oneshot::channel();
        self.newcomers.push_back(Newcomer { asked, answer });
        ctx.run_later(REFUSAL_WAITS, |stream, ctx| stream.answer_newcomer(ctx));
        Box::pin(async move { answered.await.unwrap_or(Err(in_use)) })
    }
}

impl Handler<LookWhetherFree> for LiveStream {
    type Result = ResponseFuture<Result<(), NameInUse>>;

    fn handle(&mut self, LookWhetherFree(newcomer): LookWhetherFree, ctx: &mut Self::Context) -> Self::Result {
        let Err(in_use) = self.in_use(&newcomer, self.now()) else { return Box::pin(std::future::ready(Ok(()))) };
        let (answer, answered) = oneshot::channel();
        ctx.run_later(REFUSAL_WAITS, move |stream, _| {
            // Who asked may have gone.
            let _ = answer.send(stream.in_use(&newcomer, stream.now()));
        });
        Box::pin(async move { answered.await.unwrap_or(Err(in_use)) })
    }
}

impl LiveStream {
    /// Who has the stream, where somebody has whose place this newcomer may not take.
    fn in_use(&self, newcomer: &SessionFacts, now: Duration) -> Result<(), NameInUse> {
        match &self.publisher {
            Some(publisher) if publisher.facts.id != newcomer.id && !self.may_replace(publisher, newcomer, now) => {
                let silent_ms = now.saturating_sub(publisher.last_media).as_millis() as u64;
                Err(NameInUse { by: publisher.facts.address, silent_ms })
            }
            _ => Ok(()),
        }
    }

    /// Gives the stream to this publisher, or says who has it.
    fn claim(&mut self, asked: &Publish, ctx: &Context<Self>) -> Result<Publication, NameInUse> {
        let now = self.now();
        self.in_use(&asked.facts, now)?;
        if let Some(publisher) = &self.publisher {
            if publisher.facts.id != asked.facts.id {
                let (old, new) = (PeerName(&publisher.facts.address), PeerName(&asked.facts.address));
                warn!(stream = %self.key, %old, %new, "publisher replaced");
                // A full mailbox means that it is busy dying; its next Ingest is refused in any case.
                let _ = publisher.to.try_send(Replaced::TakenOver);
            }
            // For the players nothing ends: they are told of the new one when its media come.
            self.cache.clear();
        }
        let Publish { facts, to } = asked;
        self.timeline.begin_session(now);
        self.meter.begin(now);
        let replaced = self.publisher.replace(Publisher {
            facts: Arc::clone(facts),
            to: to.clone(),
            began: now,
            last_media: now,
            active: false,
            is_away: false,
        });
        self.described = (None, None);
        self.counters.begin(Instant::now());
        self.counters.publishing.store(true, Ordering::Relaxed);
        let new = Arc::clone(facts);
        match replaced {
            // Now that it can be seen: whoever hears of it looks.
            None => {
                let opened = self.opened(ctx);
                self.herald.tell(|key, _| StreamEvent::Published { key, opened, facts: new });
            }
            Some(old) if old.facts.id != facts.id => {
                self.herald.tell(|key, id| StreamEvent::Replaced { key, id, facts: new });
            }
            Some(_) => {}
        }
        Ok(Publication { session: facts.id })
    }

    /// Answers the newcomer that has waited longest, whatever the answer is by now. Each brings one timer; a publisher's
    /// end answers one before its time, and then the last timer finds nobody.
    fn answer_newcomer(&mut self, ctx: &Context<Self>) {
        if let Some(Newcomer { asked, answer }) = self.newcomers.pop_front() {
            if answer.is_closed() {
                return; // it did not wait
            }
            let claimed = self.claim(&asked, ctx);
            // If it is gone by now, its connection's end says so to nobody: the seat is given back here.
            if answer.send(claimed.clone()).is_err() && claimed.is_ok() {
                self.end_publisher();
            }
        }
    }
}

impl Handler<Ingest> for LiveStream {
    type Result = ();

    fn handle(&mut self, ingest: Ingest, ctx: &mut Self::Context) {
        let Some(publisher) = self.publisher.as_mut().filter(|publisher| publisher.facts.id == ingest.session) else {
            return; // somebody else has taken over
        };
        let begins = !publisher.active
            && ingest.messages.iter().any(|message| matches!(message.medium, Medium::Audio | Medium::Video));
        if begins {
            publisher.active = true;
            self.begin_playing();
        }
        let now = self.now();
        let packets: SmallVec<_> = ingest.messages.into_iter().filter_map(|message| self.take(message, now)).collect();
        if !packets.is_empty() {
            let batch = Batch::new(packets);
            self.subscribers.deliver(&batch, false, &self.counters);
            self.meter.count_out(batch.bytes() as u64 * u64::from(self.counters.players.endless()), now);
            // Who is gone without a word has been forgotten.
            self.note_wanted(ctx);
        }
    }
}

impl Handler<EndPublish> for LiveStream {
    type Result = ();

    fn handle(&mut self, EndPublish { session }: EndPublish, ctx: &mut Self::Context) {
        let Some(publisher) = self.publisher.as_ref().filter(|publisher| publisher.facts.id == session) else { return };
        let lasted = self.now().saturating_sub(publisher.began);
        debug!(stream = %self.key, seconds = lasted.as_secs(), "publisher gone");
        self.end_publisher();
        self.answer_newcomer(ctx);
    }
}

impl Handler<Listen> for LiveStream {
    type Result = ();

    fn handle(&mut self, listen: Listen, ctx: &mut Self::Context) {
        match listen {
            Listen::Join { subscriber, to, wants } => self.subscribers.join(subscriber, to, wants),
            Listen::Wants { subscriber, route } => self.subscribers.want(subscriber, route),
            Listen::CatchUp { subscriber, listener } if self.is_active() => {
                self.subscribers.begin(subscriber, listener, || self.burst());
            }
            Listen::CatchUp { .. } => {} // told with everybody else, when a publisher comes
            Listen::Leave { subscriber } => self.subscribers.leave(subscriber),
        }
        self.note_wanted(ctx);
    }
}

impl Handler<AwaitPublisher> for LiveStream {
    type Result = ();

    fn handle(&mut self, AwaitPublisher { session }: AwaitPublisher, _: &mut Self::Context) {
        if let Some(publisher) = self.publisher.as_mut().filter(|publisher| publisher.facts.id == session) {
            publisher.is_away = true;
            // Who comes now waits for what comes then.
            publisher.active = false;
            self.cache.clear();
        }
    }
}

impl Handler<Expel> for LiveStream {
    type Result = ();

    fn handle(&mut self, Expel { reason }: Expel, _: &mut Self::Context) {
        if let Some(publisher) = &self.publisher {
            // Once in the life of a publisher, and it leaves by itself then.
            publisher.to.do_send(Replaced::Expelled(reason));
        }
    }
}

impl Handler<CopyHeaders> for LiveStream {
    type Result = MessageResult<CopyHeaders>;

    fn handle(&mut self, _: CopyHeaders, _: &mut Self::Context) -> Self::Result {
        let time = self.counters.clock_ms.load(Ordering::Relaxed);
        let headers = self.cache.metadata().into_iter().chain(self.cache.configs()).map(|packet| {
            let medium = match packet.track() {
                Track::Audio => Medium::Audio,
                Track::Video => Medium::Video,
                Track::Data => Medium::Metadata,
            };
            Incoming { medium, time, body: packet.body(true).clone() }
        });
        MessageResult(headers.collect())
    }
}

impl Handler<Describe> for LiveStream {
    type Result = StreamReading;

    fn handle(&mut self, _: Describe, _: &mut Self::Context) -> StreamReading {
        let now = self.now();
        StreamReading {
            publisher: self.publisher.as_ref().map(|publisher| publisher.facts.id),
            active: self.is_active(),
            age: now,
            readings: self.meter.read(now),
        }
    }
}

impl Handler<TurnAway> for LiveStream {
    type Result = ();

    fn handle(&mut self, TurnAway(refusal): TurnAway, _: &mut Self::Context) {
        // Somebody may have come to publish meanwhile.
        if self.publisher.as_ref().is_none_or(|publisher| publisher.is_away) {
            self.subscribers.tell(&Deliver::TurnedAway(refusal));
        }
    }
}

/// An address in a sentence.
pub struct PeerName<'a>(pub &'a Option<SocketAddr>);

impl std::fmt::Display for PeerName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("unix:"),
        }
    }
}

/// What late joiners are kept, as the configuration says.
pub fn gop_limits(live: &Live) -> GopLimits {
    GopLimits {
        enabled: live.gop_cache || !live.cache_time.is_zero(),
        max_bytes: live.gop_max_bytes,
        max_ms: live.gop_max_time.as_millis() as u64,
        max_frames: Some(live.gop_max_frame_count),
        max_audio: Some(live.gop_max_audio_count),
        max_video: Some(live.gop_max_video_count),
        keep_ms: live.cache_time.as_millis() as u64,
    }
}

/// The least time between two lines of the log about a clock that jumps.
const JUMP_LINE_EVERY: Duration = Duration::from_secs(1);

/// How long a refusal waits for the end of the publisher that is there.
const REFUSAL_WAITS: Duration = Duration::from_millis(100);

/// Newcomers that wait like this; more are refused at once.
const MAX_NEWCOMERS: usize = 8;

/// Unreadable messages between two lines of the log.
const REFUSALS_PER_LINE: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::support::link::Exited;
    use smallvec::smallvec;
    use tokio::sync::mpsc;

    /// Keeps what it is told.
    struct Probe(mpsc::Sender<Deliver>);
    impl Actor for Probe {
        type Context = Context<Self>;
    }
    impl Handler<Deliver> for Probe {
        type Result = ();
        fn handle(&mut self, message: Deliver, _: &mut Self::Context) {
            self.0.try_send(message).expect("tests read what they cause");
        }
    }
    impl Handler<Replaced> for Probe {
        type Result = ();
        fn handle(&mut self, _: Replaced, _: &mut Self::Context) {}
    }

    struct Parent;
    impl Actor for Parent {
        type Context = Context<Self>;
    }
    impl Handler<Exited> for Parent {
        type Result = ();
        fn handle(&mut self, _: Exited, _: &mut Self::Context) {}
    }

    struct Player {
        address: Addr<Probe>,
        seen: mpsc::Receiver<Deliver>,
    }

    impl Player {
        fn new() -> Self {
            let (to, seen) = mpsc::channel(100);
            Self { address: Probe(to).start(), seen }
        }

        async fn join(stream: &Addr<LiveStream>, id: u64) -> Self {
            let player = Self::new();
            let to = player.address.clone().recipient();
            stream
                .send(Listen::Join { subscriber: id, to, wants: Some(Route::default()) })
                .await
                .expect("the stream lives");
            stream.send(Listen::CatchUp { subscriber: id, listener: 0 }).await.expect("the stream lives");
            player
        }

        /// The next packets, as (kind, time).
        async fn next(&mut self) -> Vec<(PacketKind, i64)> {
            let about = |packets: &[Packet]| packets.iter().map(|p| (p.kind(), p.time_ms())).collect();
            match self.seen.recv().await.expect("the stream lives") {
                Deliver::Begin { burst, .. } => about(&burst),
                Deliver::Media { batch, .. } => about(batch.packets()),
                Deliver::End | Deliver::TurnedAway(_) => vec![(PacketKind::End, 0)],
            }
        }
    }

    fn stream(live: Live) -> Addr<LiveStream> {
        let key = StreamKey::parse("default", "live", "test").expect("a good name");
        let link = Link::new(1, Parent.start().recipient());
        LiveStream::new(
            key,
            Arc::new(Rules { live, amf: amf::Limits::DATA, is_fetched: false }),
            Arc::default(),
            StreamEvents::default(),
            link,
        )
        .start()
    }

    fn facts(id: u64) -> Arc<SessionFacts> {
        Arc::new(SessionFacts { id, ..SessionFacts::default() })
    }

    async fn publish(stream: &Addr<LiveStream>, session: u64) -> Result<Publication, NameInUse> {
        let to = Player::new().address.recipient();
        stream.send(Publish { facts: facts(session), to }).await.expect("the stream lives")
    }

    async fn send(stream: &Addr<LiveStream>, session: u64, messages: &[(Medium, u32, &'static [u8])]) {
        let messages = messages
            .iter()
            .map(|&(medium, time, body)| Incoming { medium, time, body: Bytes::from_static(body) })
            .collect();
        stream.send(Ingest { session, messages }).await.expect("the stream lives");
    }

    const AVC_CONFIG: &[u8] = &[0x17, 0, 0, 0, 0, 1, 66, 0, 30, 0xFF, 0xE0, 0];
    const KEY: &[u8] = &[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65];
    const INTER: &[u8] = &[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41];
    const AAC_CONFIG: &[u8] = &[0xAF, 0, 0x12, 0x10];
    const AAC: &[u8] = &[0xAF, 1, 1, 2, 3];

    #[actix::test]
    async fn a_late_joiner_starts_on_a_keyframe_with_the_headers_before_it() {
        tokio::time::pause();
        let stream = stream(Live::default());
        publish(&stream, 1).await.expect("the name is free");
        send(&stream, 1, &[(Medium::Video, 0, AVC_CONFIG), (Medium::Audio, 0, AAC_CONFIG)]).await;
        send(&stream, 1, &[(Medium::Video, 500, KEY), (Medium::Video, 540, INTER), (Medium::Audio, 545, AAC)]).await;
        let mut late = Player::join(&stream, 7).await;
        assert_eq!(
            late.next().await,
            [
                (PacketKind::Config, 0),
                (PacketKind::Config, 0),
                (PacketKind::Key, 0),
                (PacketKind::Inter, 40),
                (PacketKind::Audio, 45)
            ]
        );
        send(&stream, 1, &[(Medium::Video, 580, INTER)]).await;
        assert_eq!(late.next().await, [(PacketKind::Inter, 80)], "nothing comes twice");
    }

    #[actix::test]
    async fn a_name_is_taken_until_its_publisher_has_been_silent_for_two_seconds() {
        tokio::time::pause();
        let stream = stream(Live::default());
        publish(&stream, 1).await.expect("the name is free");
        send(&stream, 1, &[(Medium::Video, 0, KEY)]).await;
        tokio::time::advance(Duration::from_millis(1800)).await;
        let refused = publish(&stream, 2).await.expect_err("it sent media a moment ago");
        assert!((1900..2000).contains(&refused.silent_ms), "{refused}");
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(publish(&stream, 3).await, Ok(Publication { session: 3 }));
        let mut player = Player::join(&stream, 7).await;
        send(&stream, 1, &[(Medium::Video, 40, KEY)]).await;
        send(&stream, 3, &[(Medium::Video, 9000, KEY)]).await;
        assert_eq!(player.next().await, [], "only the new publisher is heard");
        assert_eq!(player.next().await.len(), 1);
    }

    #[actix::test]
    async fn an_encoder_that_comes_back_before_its_last_session_has_ended_is_let_in() {
        tokio::time::pause();
        let stream = stream(Live { duplicate_publisher: DuplicatePublisher::Reject, ..Live::default() });
        publish(&stream, 1).await.expect("the name is free");
        let to = Player::new().address.recipient();
        let asked = stream.send(Publish { facts: facts(2), to });
        stream.do_send(EndPublish { session: 1 });
        assert_eq!(asked.await.expect("the stream lives"), Ok(Publication { session: 2 }));
        let began = Instant::now();
        assert!(publish(&stream, 3).await.is_err());
        assert!(began.elapsed() >= REFUSAL_WAITS, "a refusal waits for the end that may be on its way");
    }

    #[actix::test]
    async fn players_wait_for_a_publisher_that_comes_back_and_their_clock_goes_on() {
        tokio::time::pause();
        let stream = stream(Live::default());
        let mut player = Player::join(&stream, 7).await;
        for (session, time) in [(1, 5000), (2, 77)] {
            publish(&stream, session).await.expect("the name is free");
            send(&stream, session, &[(Medium::Video, time, KEY), (Medium::Video, time + 40, INTER)]).await;
            stream.send(EndPublish { session }).await.expect("the stream lives");
        }
        assert_eq!(player.next().await, []);
        assert_eq!(player.next().await, [(PacketKind::Key, 0), (PacketKind::Inter, 40)]);
        assert_eq!(player.next().await, [(PacketKind::End, 0)]);
        assert_eq!(player.next().await, []);
        let resumed = player.next().await;
        assert!(resumed[0].1 > 40, "{resumed:?}");
    }

    #[actix::test]
    async fn who_waits_is_given_metadata_that_came_long_before_the_first_frame_and_once() {
        tokio::time::pause();
        for before in [1500, 10] {
            let stream = stream(Live { meta: Meta::Copy, ..Live::default() });
            let mut player = Player::join(&stream, 7).await;
            publish(&stream, 1).await.expect("the name is free");
            send(&stream, 1, &[(Medium::Metadata, 0, b"size")]).await;
            tokio::time::advance(Duration::from_millis(before)).await;
            send(&stream, 1, &[(Medium::Video, 0, AVC_CONFIG), (Medium::Video, 0, KEY)]).await;
            let mut told = Vec::new();
            while told.last().is_none_or(|&(kind, _)| kind != PacketKind::Key) {
                let begin = matches!(player.seen.recv().await, Some(Deliver::Begin { burst, .. }) if {
                    told.extend(burst.iter().map(|p| (p.kind(), p.time_ms())));
                    true
                });
                assert!(begin, "nothing is told before the begin");
                told.extend(player.next().await);
            }
            assert_eq!(told, [(PacketKind::Metadata, 0), (PacketKind::Config, 0), (PacketKind::Key, 0)]);
        }
    }

    #[actix::test]
    async fn a_subscriber_whose_mailbox_is_full_is_told_of_the_gap_and_nobody_waits_for_it() {
        tokio::time::pause();
        let stream = stream(Live { low_latency: true, ..Live::default() });
        publish(&stream, 1).await.expect("the name is free");
        let mut slow = Player::join(&stream, 7).await;
        // All in one turn of the arbiter: the probe cannot empty its mailbox in between.
        for time in 0..40 {
            stream.do_send(Ingest {
                session: 1,
                messages: smallvec![Incoming { medium: Medium::Video, time, body: Bytes::from_static(INTER) }],
            });
        }
        stream.send(EndPublish { session: 1 }).await.expect("the stream lives");
        publish(&stream, 2).await.expect("the name is free");
        send(&stream, 2, &[(Medium::Video, 0, KEY)]).await;
        let mut gaps = 0;
        let mut packets = 0;
        while packets == 0 || gaps == 0 {
            match slow.seen.recv().await.expect("the stream lives") {
                Deliver::Media { gap, batch } => {
                    packets += batch.packets().len();
                    gaps += u32::from(gap);
                }
                Deliver::Begin { .. } | Deliver::End | Deliver::TurnedAway(_) => {}
            }
        }
        assert_eq!(gaps, 1);
        assert!(packets < 41, "some were lost, and that is what the gap says");
    }

    #[actix::test]
    async fn a_joiner_is_given_the_newest_metadata() {
        tokio::time::pause();
        let stream = stream(Live { low_latency: true, meta: Meta::Copy, ..Live::default() });
        publish(&stream, 1).await.expect("the name is free");
        send(&stream, 1, &[(Medium::Video, 0, KEY)]).await;
        send(&stream, 1, &[(Medium::Metadata, 0, b"older")]).await;
        send(&stream, 1, &[(Medium::Metadata, 0, b"newest")]).await;
        let late = Player::join(&stream, 8).await.seen.recv().await;
        let Some(Deliver::Begin { burst, .. }) = late else { panic!("a joiner is told how things stand") };
        assert_eq!(&burst[0].payload()[..], b"newest");
    }

    #[actix::test]
    async fn a_relay_that_lost_its_source_goes_on_under_the_same_players_and_makes_way_for_a_publisher() {
        tokio::time::pause();
        let stream = stream(Live { idle_streams: false, ..Live::default() });
        let relay = Arc::new(SessionFacts { id: 1, is_relay: true, ..SessionFacts::default() });
        let ask =
            |facts: &Arc<SessionFacts>| Publish { facts: Arc::clone(facts), to: Player::new().address.recipient() };
        stream.send(ask(&relay)).await.expect("the stream lives").expect("the name is free");
        let mut player = Player::join(&stream, 1).await;
        send(&stream, 1, &[(Medium::Video, 0, AVC_CONFIG), (Medium::Video, 0, KEY)]).await;
        let begun = player.next().await;
        let before = player.next().await;
        stream.send(AwaitPublisher { session: 1 }).await.expect("the stream lives");
        stream.send(ask(&relay)).await.expect("the stream lives").expect("it was expected");
        send(&stream, 1, &[(Medium::Video, 7000, AVC_CONFIG), (Medium::Video, 7000, KEY)]).await;
        let (begun_again, after) = (player.next().await, player.next().await);
        assert_eq!((begun.len(), begun_again.len()), (0, 0), "nothing ended for the player, it began anew");
        let time = |packets: &[(PacketKind, i64)]| packets.last().map(|(_, time)| *time);
        assert!(time(&before) < time(&after), "{before:?} {after:?}");

        let other = Arc::new(SessionFacts { id: 2, is_relay: true, ..SessionFacts::default() });
        assert!(stream.send(ask(&other)).await.expect("the stream lives").is_err(), "no relay takes another's place");
        publish(&stream, 3).await.expect("a relay makes way for a publisher");
        assert!(stream.send(ask(&relay)).await.expect("the stream lives").is_err(), "and does not come back");
    }
}
