//! Everything between the decision to send and the body of one HTTP answer that never ends.

use std::{
    cell::RefCell,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::roll::Pulse;
use crate::{
    media::{
        packet::{Batch, Packet, PacketKind},
        queue::{Drops, Item, QueueRules, SendQueue},
    },
    protocol::flv::stream::{self, FlvForm, Opening, Tracks},
};

/// The sending side of a viewer. Its actor, its audience and the answer share it: all three live on one thread, and none
/// calls another while it holds it.
pub type SharedBody = Rc<RefCell<Body>>;

/// The queue of one viewer, in the form its answer has. The answer takes out what waits whenever its connection has room;
/// until then things only queue.
pub struct Body {
    queue: SendQueue,
    form: Form,
    /// The answer waits for something to come.
    waker: Option<Waker>,
    end: Option<End>,
    /// Taken from the queue, and not handed out yet.
    rest: Bytes,
    taken: u64,
    asked: Instant,
    /// How long it took until there was something to see.
    first_frame: Option<Duration>,
}

/// What the bytes of an answer are.
pub enum Form {
    Flv(Box<FlvBody>),
    /// Packets are pieces of the answer as they are.
    Ready,
}

/// An FLV file in the making.
pub struct FlvBody {
    tags: FlvForm,
    /// Until it is known what is in the stream nothing is sent.
    opening: Option<Opening>,
    has: Tracks,
    from_zero: bool,
    /// The first frame has set the viewer's clock.
    has_begun: bool,
    /// The newest time it was sent, in its own times; and from which it goes on with another stream.
    newest_ms: i64,
    goes_on: bool,
}

/// The answer was broken off: its viewer must not take it for a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was broken off")]
pub struct BrokenOff;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// What waits is still sent.
    Whole,
    /// It ends where it is.
    BrokenOff,
}

impl Form {
    /// With `from_zero` the viewer's clock starts with its first frame.
    pub fn flv(wants: Tracks, from_zero: bool) -> Self {
        let opening = Some(Opening::new(wants));
        Self::Flv(Box::new(FlvBody {
            tags: FlvForm::new(wants),
            opening,
            has: wants,
            from_zero,
            has_begun: false,
            newest_ms: 0,
            goes_on: false,
        }))
    }
}

impl Body {
    pub fn new(form: Form, rules: QueueRules) -> Self {
        let mut queue = SendQueue::new(rules);
        if let Form::Flv(flv) = &form {
            queue.want_audio(flv.tags.wants.audio);
            queue.want_video(flv.tags.wants.video);
        }
        Self {
            queue,
            form,
            waker: None,
            end: None,
            rest: Bytes::new(),
            taken: 0,
            asked: Instant::now(),
            first_frame: None,
        }
    }

    /// A publisher is there: the packets that come first.
    pub fn begin(&mut self, burst: &[Packet]) {
        if self.end.is_none() {
            self.see(burst);
            self.queue.restart();
            self.queue.join(burst);
        }
    }

    /// From here on come the packets of another stream. False: this form of answer cannot go on with one.
    pub fn change_stream(&mut self) -> bool {
        let Form::Flv(flv) = &mut self.form else { return false };
        if flv.has_begun {
            (flv.has_begun, flv.goes_on) = (false, true);
        }
        // What waits of the old one would stand in the times of the new one.
        self.queue.pause(true);
        self.queue.pause(false);
        true
    }

    pub fn can_change_stream(&self) -> bool {
        matches!(self.form, Form::Flv(_))
    }

    /// The source's next packets. `gap`: some before them were lost on the way here.
    pub fn offer(&mut self, batch: &Batch, gap: bool) {
        if self.end.is_some() {
            return;
        }
        if self.see(batch.packets()) {
            return self.finish();
        }
        if gap {
            self.queue.gap();
        }
        self.queue.offer(batch);
    }

    /// Tells the answer that something waits.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What waits is the last that is sent.
    pub fn finish(&mut self) {
        self.end.get_or_insert(End::Whole);
        self.wake();
    }

    /// Nothing more is sent, and the answer ends as one that was broken off.
    pub fn break_off(&mut self) {
        self.end = Some(End::BrokenOff);
        self.queue.pause(true);
        self.wake();
    }

    /// The next bytes of the answer: everything that waits, up to what one write is worth.
    pub fn poll_bytes(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if self.end == Some(End::BrokenOff) {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        if self.rest.is_empty() {
            self.rest = self.take().unwrap_or_default();
        }
        if !self.rest.is_empty() {
            let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
            self.taken += piece.len() as u64;
            return Poll::Ready(Some(Ok(piece)));
        }
        if self.end.is_some() {
            return Poll::Ready(None);
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            self.waker = Some(task.waker().clone());
        }
        Poll::Pending
    }

    /// The answer has not come back for more: its connection is full, or about to come.
    pub fn is_blocked(&self) -> bool {
        self.waker.is_none()
    }

    /// Bytes the answer has taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How it is with whoever is at the other end.
    pub fn pulse(&self) -> Pulse {
        Pulse {
            bytes_out: self.taken,
            queue_bytes: self.queue.bytes() + self.rest.len(),
            queue_ms: self.queue.waiting_ms(),
            drops: self.drops(),
            blocked: self.is_blocked(),
            first_frame: self.first_frame,
            ..Pulse::default()
        }
    }

    pub fn drops(&self) -> Drops {
        self.queue.drops()
    }

    /// Takes note of what comes; `true` if the viewer's clock is used up and this is a good moment to send it away.
    fn see(&mut self, packets: &[Packet]) -> bool {
        if self.first_frame.is_none() && packets.iter().any(Packet::is_frame) {
            self.first_frame = Some(self.asked.elapsed());
        }
        let Form::Flv(flv) = &mut self.form else { return false };
        if let Some(opening) = &mut flv.opening {
            packets.iter().for_each(|packet| opening.see(packet));
            if let Some(has) = opening.decided() {
                flv.opening = None;
                flv.has = has;
                self.queue.control_first(stream::header(has));
            }
        }
        if !flv.has_begun
            && let Some(first) = packets.iter().find(|packet| packet.is_frame())
        {
            flv.has_begun = true;
            match std::mem::take(&mut flv.goes_on) {
                true => flv.tags.go_on(first.time_ms(), flv.newest_ms + 1),
                false => flv.tags.begin(first.time_ms(), flv.from_zero),
            }
        }
        if let Some(newest) = packets.iter().rev().find(|packet| packet.is_frame()) {
            flv.newest_ms = flv.newest_ms.max(flv.tags.own_time(newest.time_ms()));
        }
        let is_start = |packet: &Packet| packet.is_keyframe() || !flv.has.video;
        packets.iter().any(|packet| is_start(packet) && flv.tags.is_used_up(packet.time_ms()))
    }

    fn take(&mut self) -> Option<Bytes> {
        if matches!(&self.form, Form::Flv(flv) if flv.opening.is_some()) {
            return None;
        }
        let mut item = self.queue.pop()?;
        // What is alone goes as it is; what has piled up goes together.
        if let Some(bytes) = self.whole(&item).filter(|bytes| self.queue.is_empty() || bytes.len() >= WRITE_BYTES) {
            return Some(bytes);
        }
        let mut out = BytesMut::with_capacity(WRITE_BYTES.min(self.queue.bytes() + SLACK_BYTES));
        loop {
            self.write(&mut out, &item);
            if out.len() >= WRITE_BYTES {
                break;
            }
            let Some(next) = self.queue.pop() else { break };
            item = next;
        }
        // Nothing of what was popped may have been for this viewer.
        if out.is_empty() { self.take() } else { Some(out.freeze()) }
    }

    /// The bytes of an item where they need not be made.
    fn whole(&self, item: &Item) -> Option<Bytes> {
        let bytes = match (item, &self.form) {
            (Item::Control(bytes), _) => bytes,
            (Item::Batch(batch), Form::Flv(flv)) => flv.tags.shared(batch)?,
            (Item::Batch(batch), Form::Ready) if batch.packets().len() == 1 => batch.packets().first()?.payload(),
            (Item::Packet(packet), Form::Ready) => packet.payload(),
            _ => return None,
        };
        (!bytes.is_empty()).then(|| bytes.clone())
    }

    fn write(&self, out: &mut BytesMut, item: &Item) {
        match item {
            Item::Control(bytes) => out.extend_from_slice(bytes),
            Item::Batch(batch) => match &self.form {
                Form::Flv(flv) if let Some(bytes) = flv.tags.shared(batch) => out.extend_from_slice(bytes),
                _ => batch.packets().iter().for_each(|packet| self.write_packet(out, packet)),
            },
            Item::Packet(packet) => self.write_packet(out, packet),
        }
    }

    fn write_packet(&self, out: &mut BytesMut, packet: &Packet) {
        match &self.form {
            Form::Flv(flv) if packet.kind() == PacketKind::Metadata => flv.tags.write_metadata(out, packet, flv.has),
            Form::Flv(flv) => flv.tags.write(out, packet),
            Form::Ready => out.extend_from_slice(packet.payload()),
        }
    }
}

/// The answer is handed out in pieces of this size, whatever the size of a frame: actix-http copies each into a buffer of the
/// connection, and keeps that buffer at the size it once had. (Measured: 75 KiB a viewer without this.)
const PIECE_BYTES: usize = 7 * 1024;

/// So much is taken from the queue at a time; what waits beyond it can still be dropped.
const WRITE_BYTES: usize = 32 * 1024;

/// Room for what tags add to the packets that wait.
const SLACK_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::media::packet::Track;

    const RULES: QueueRules = QueueRules {
        max_bytes: 1 << 20,
        max_ms: 10_000,
        max_packets: None,
        wait_key: true,
        wait_video: false,
        jump_to_keyframe: false,
    };

    fn packet(kind: PacketKind, time_ms: i64, len: usize) -> Packet {
        let track = if kind == PacketKind::Audio { Track::Audio } else { Track::Video };
        Packet::new(track, kind, time_ms, vec![time_ms as u8; len].into())
    }

    fn batch(packets: &[Packet]) -> Batch {
        Batch::new(packets.iter().cloned().collect())
    }

    fn joined(form: Form, rules: QueueRules) -> Body {
        let mut body = Body::new(form, rules);
        let audio = Packet::new(Track::Audio, PacketKind::Config, 0, vec![0xAF; 2].into());
        body.begin(&[packet(PacketKind::Config, 0, 3), audio, packet(PacketKind::Key, 0, 10)]);
        body
    }

    fn poll(body: &mut Body) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        body.poll_bytes(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn next(body: &mut Body) -> Bytes {
        match poll(body) {
            Poll::Ready(Some(Ok(bytes))) => bytes,
            other => panic!("something waits: {other:?}"),
        }
    }

    /// The types and times of the tags.
    fn tags(mut bytes: &[u8]) -> Vec<(u8, u8)> {
        let mut seen = Vec::new();
        while let [kind, _, _, size, _, _, time, ..] = bytes {
            seen.push((*kind, *time));
            bytes = &bytes[usize::from(*size) + 15..];
        }
        seen
    }

    #[test]
    fn a_viewer_starts_with_the_header_and_gets_what_piled_up_in_one_piece() {
        let mut body = joined(Form::flv(Tracks::BOTH, false), RULES);
        body.offer(&batch(&[packet(PacketKind::Audio, 20, 5), packet(PacketKind::Inter, 40, 5)]), false);
        let first = next(&mut body);
        assert_eq!(first[..13], [b'F', b'L', b'V', 1, 5, 0, 0, 0, 9, 0, 0, 0, 0]);
        assert_eq!(tags(&first[13..]), [(9, 0), (8, 0), (9, 0), (8, 20), (9, 40)]);
        assert!(poll(&mut body).is_pending());
        assert_eq!(body.taken(), first.len() as u64);
    }

    #[test]
    fn nothing_is_sent_before_it_is_known_what_is_in_the_stream() {
        let mut body = Body::new(Form::flv(Tracks::BOTH, false), RULES);
        body.begin(&[packet(PacketKind::Config, 0, 3), packet(PacketKind::Key, 0, 10)]);
        assert!(poll(&mut body).is_pending());
        body.offer(&batch(&[packet(PacketKind::Inter, 600, 10)]), false);
        assert_eq!(next(&mut body)[4], 1, "video alone");
    }

    #[test]
    fn viewers_who_keep_up_are_given_the_same_bytes() {
        let mut bodies: Vec<_> = (0..2).map(|_| joined(Form::flv(Tracks::BOTH, false), RULES)).collect();
        let frame = batch(&[packet(PacketKind::Inter, 40, 500)]);
        let ready = batch(&[packet(PacketKind::Inter, 40, 500)]);
        let mut given = Vec::new();
        for body in &mut bodies {
            next(body);
            body.offer(&frame, false);
            given.push(next(body).as_ptr());
        }
        let mut body = joined(Form::Ready, RULES);
        next(&mut body);
        body.offer(&ready, false);
        assert_eq!(given[0], given[1]);
        assert_eq!(next(&mut body).as_ptr(), ready.packets()[0].payload().as_ptr());
    }

    #[test]
    fn who_asked_for_audio_is_sent_no_video_and_told_of_none() {
        let mut body = joined(Form::flv(Tracks { audio: true, video: false }, false), RULES);
        body.offer(&batch(&[packet(PacketKind::Inter, 40, 5), packet(PacketKind::Audio, 45, 5)]), false);
        let first = next(&mut body);
        assert_eq!(first[4], 4);
        assert_eq!(tags(&first[13..]), [(8, 0), (8, 45)]);
    }

    #[test]
    fn a_viewer_that_is_behind_goes_on_at_a_keyframe() {
        let mut body = joined(Form::flv(Tracks::BOTH, false), QueueRules { max_bytes: 400, ..RULES });
        next(&mut body);
        assert!(poll(&mut body).is_pending());
        body.wake();
        for time_ms in (10..100).step_by(10) {
            body.offer(&batch(&[packet(PacketKind::Inter, time_ms, 100)]), false);
        }
        assert!(body.is_blocked());
        body.offer(&batch(&[packet(PacketKind::Key, 100, 100)]), false);
        body.offer(&batch(&[packet(PacketKind::Inter, 110, 100)]), false);
        assert_eq!(tags(&next(&mut body)), [(9, 100), (9, 110)]);
        assert_eq!((body.drops().video, body.drops().skips), (4, 1), "those that waited");
    }

    #[test]
    fn an_end_lets_out_what_waits_and_a_break_does_not() {
        let mut body = joined(Form::flv(Tracks::BOTH, false), RULES);
        body.finish();
        body.offer(&batch(&[packet(PacketKind::Inter, 40, 5)]), false);
        assert_eq!(tags(&next(&mut body)[13..]), [(9, 0), (8, 0), (9, 0)]);
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
        let mut body = joined(Form::Ready, RULES);
        body.break_off();
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(BrokenOff)))));
    }

    #[test]
    fn a_viewer_whose_times_are_used_up_is_sent_away_at_a_keyframe() {
        let mut body = joined(Form::flv(Tracks::BOTH, false), RULES);
        next(&mut body);
        let late = i64::from(i32::MAX) - 1000;
        body.offer(&batch(&[packet(PacketKind::Inter, late, 5)]), false);
        next(&mut body);
        assert!(poll(&mut body).is_pending());
        body.offer(&batch(&[packet(PacketKind::Key, late + 40, 5)]), false);
        assert!(matches!(poll(&mut body), Poll::Ready(None)));
    }
}
