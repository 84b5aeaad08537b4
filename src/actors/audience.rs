//! The players of one stream on one arbiter: hears the stream once for all of them and writes to each in turn.
//!
//! A message to an actor for each player and batch costs more than a microsecond by the time caches are cold, which is
//! a fifth of what the write itself costs; a message to each arbiter and a loop over its players costs a tenth of that.
//! So the stream tells an audience, and the audience walks its seats. Everything here stays on one thread.
//!
//! A walk past a thousand seats takes milliseconds. So it goes in steps, and between two of them the arbiter reads its
//! sockets: a frame that comes in the middle of a walk goes to those who have not been served yet together with the one
//! before it, in one write. The busier the arbiter, the more goes in one write.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::prelude::*;
use bytes::Bytes;
use tokio::task::yield_now;
use tracing::error;

use super::{
    live_stream::{CatchUp, Deliver, LiveStream, Subscribe, Unsubscribe},
    router::Opened,
    support::{counters::StreamCounters, outbox::Progress, output::SharedOutput},
};
use crate::media::packet::Batch;

/// One ear of a stream, for all its players on this arbiter.
pub struct Audience {
    /// The id of the stream.
    stream: u64,
    seats: Seats,
    /// What some seats have still to be sent, oldest first. Bounded by [`MAX_BACKLOG`].
    backlog: VecDeque<(Batch, bool)>,
    /// The number of the first batch in the backlog: batches are counted from 0.
    first: u64,
    /// The seat that the walk comes to next.
    place: usize,
    is_walking: bool,
}

/// A player's place. It is left by being dropped.
pub struct Ticket {
    player: u64,
    house: Rc<Hall>,
}

/// What a player brings to its place.
pub struct Seat {
    /// The id of the player's connection.
    pub player: u64,
    pub output: SharedOutput,
    /// What the player is told when a publisher comes, and when it goes.
    pub begin_words: Bytes,
    pub end_words: Bytes,
    /// Where to tell what the player's connection must do.
    pub to: Recipient<PlayerNotice>,
    /// A publisher is there and this player has been told.
    begun: bool,
    /// The number of the batch it is sent next.
    next: u64,
}

/// To a player's connection, from the audience that writes for it.
#[derive(Message)]
#[rtype(result = "()")]
pub enum PlayerNotice {
    /// The socket takes no more: wait until it does.
    Blocked,
    /// The socket failed.
    Broken(io::Error),
    /// The publisher left.
    Ended,
}

type Seats = Rc<RefCell<Vec<Seat>>>;

/// What the tickets of one audience share.
struct Hall {
    /// Under which the stream knows this audience.
    subscriber: u64,
    stream: Opened,
    seats: Seats,
}

impl Seat {
    pub fn new(
        player: u64,
        output: SharedOutput,
        begin_words: Bytes,
        end_words: Bytes,
        to: Recipient<PlayerNotice>,
    ) -> Self {
        Self { player, output, begin_words, end_words, to, begun: false, next: 0 }
    }

    /// Tells the connection what only it can deal with.
    fn note(&self, written: io::Result<Progress>) {
        match written {
            Ok(Progress::Done) => {}
            // Once until the connection resumes, or once for ever: both are rare, and neither may get lost.
            Ok(Progress::Blocked) => self.to.do_send(PlayerNotice::Blocked),
            Err(error) => self.to.do_send(PlayerNotice::Broken(error)),
        }
    }
}

/// Seats a player in the audience of its stream on this arbiter; the first one opens it.
pub fn join(stream: &Opened, seat: Seat) -> Ticket {
    let hall = HALLS.with_borrow_mut(|halls| Rc::clone(halls.entry(stream.id()).or_insert_with(|| Hall::open(stream))));
    let player = seat.player;
    hall.seats.borrow_mut().push(seat);
    hall.stream.counters.players.fetch_add(1, Ordering::Relaxed);
    hall.stream.stream.do_send(CatchUp { subscriber: hall.subscriber, listener: player });
    Ticket { player, house: hall }
}

impl Hall {
    fn open(stream: &Opened) -> Rc<Self> {
        let subscriber = NEXT_SUBSCRIBER.fetch_add(1, Ordering::Relaxed);
        let seats = Seats::default();
        let audience = Audience::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Audience::new(stream.id(), Rc::clone(&seats))
        });
        stream.stream.do_send(Subscribe { id: subscriber, to: audience.recipient() });
        Rc::new(Self { subscriber, stream: stream.clone(), seats })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut seats = self.house.seats.borrow_mut();
        if let Some(place) = seats.iter().position(|seat| seat.player == self.player) {
            seats.swap_remove(place);
            self.house.stream.counters.players.fetch_sub(1, Ordering::Relaxed);
        }
        if seats.is_empty() {
            // The stream lets go of its recipient, and with it the audience ends.
            self.house.stream.stream.do_send(Unsubscribe { id: self.house.subscriber });
            forget(self.house.stream.id(), &self.house.seats);
        }
    }
}

impl Ticket {
    pub fn stream(&self) -> &Addr<LiveStream> {
        &self.house.stream.stream
    }

    pub fn counters(&self) -> &Arc<StreamCounters> {
        &self.house.stream.counters
    }
}

impl Actor for Audience {
    type Context = Context<Self>;
}

/// Whoever still has a seat would wait for ever: it is told to go. That is the end of the stream, or a bug of ours.
impl Drop for Audience {
    fn drop(&mut self) {
        forget(self.stream, &self.seats);
        let Ok(seats) = self.seats.try_borrow() else { return };
        if std::thread::panicking() {
            error!(players = seats.len(), "an audience failed by a bug in livemill; its players are closed");
        }
        for seat in seats.iter() {
            // Once in the life of a player.
            seat.to.do_send(PlayerNotice::Broken(io::Error::other("the stream failed")));
        }
    }
}

impl Audience {
    fn new(stream: u64, seats: Seats) -> Self {
        Self { stream, seats, backlog: VecDeque::new(), first: 0, place: 0, is_walking: false }
    }

    /// Serves some seats, and comes back for the others when the arbiter has looked at its sockets.
    fn step(&mut self, ctx: &mut Context<Self>) {
        self.is_walking = !self.walk(SEATS_A_STEP);
        if self.is_walking {
            ctx.spawn(yield_now().into_actor(self).map(|(), audience, ctx| audience.step(ctx)));
        }
    }

    /// Brings up to so many seats up to date; `true` once all of them are.
    fn walk(&mut self, mut limit: usize) -> bool {
        let mut seats = self.seats.borrow_mut();
        let head = self.head();
        loop {
            while let Some(seat) = seats.get_mut(self.place) {
                if limit == 0 {
                    return false;
                }
                self.place += 1;
                if seat.begun && seat.next < head {
                    limit -= 1;
                    let missing = seat.next.saturating_sub(self.first) as usize;
                    let mut output = seat.output.borrow_mut();
                    let written = match self.backlog.range(missing..) {
                        one if one.len() == 1 => one.map(|(batch, gap)| output.send(batch, *gap)).last(),
                        several => {
                            several.for_each(|(batch, gap)| output.offer(batch, *gap));
                            Some(output.write())
                        }
                    };
                    drop(output);
                    seat.next = head;
                    seat.note(written.unwrap_or(Ok(Progress::Done)));
                }
            }
            // Who left moved another into its seat, perhaps behind the walk's back; and more may have come meanwhile.
            self.place = 0;
            if !seats.iter().any(|seat| seat.begun && seat.next < head) {
                self.backlog.clear();
                self.first = head;
                return true;
            }
        }
    }

    /// The number of the batch that comes next.
    fn head(&self) -> u64 {
        self.first + self.backlog.len() as u64
    }
}

impl Handler<Deliver> for Audience {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        let is_for_all = !matches!(&message, Deliver::Media { .. } | Deliver::Begin { listener: Some(_), .. });
        if is_for_all || self.backlog.len() >= MAX_BACKLOG {
            // What everybody is told comes after all that came before it.
            self.walk(usize::MAX);
        }
        let head = self.head();
        let seats = Rc::clone(&self.seats);
        let mut seats = seats.borrow_mut();
        match message {
            // A small audience is served at once.
            Deliver::Media { batch, gap } if self.backlog.is_empty() && seats.len() <= SEATS_A_STEP => {
                for seat in seats.iter().filter(|seat| seat.begun) {
                    seat.note(seat.output.borrow_mut().send(&batch, gap));
                }
            }
            Deliver::Media { batch, gap } => {
                drop(seats);
                self.backlog.push_back((batch, gap));
                if !self.is_walking {
                    self.step(ctx);
                }
            }
            Deliver::Begin { listener, burst } => {
                let is_meant = |seat: &Seat| listener.is_none_or(|listener| listener == seat.player && !seat.begun);
                for seat in seats.iter_mut().filter(|seat| is_meant(seat)) {
                    seat.begun = true;
                    seat.next = head; // what is in the backlog is in the burst as well
                    let mut output = seat.output.borrow_mut();
                    output.begin(seat.begin_words.clone(), &burst);
                    seat.note(output.write());
                }
            }
            Deliver::End => {
                for seat in seats.iter_mut() {
                    if std::mem::take(&mut seat.begun) {
                        let mut output = seat.output.borrow_mut();
                        output.control(seat.end_words.clone());
                        seat.note(output.write());
                    }
                    // Also to who still waited for the first frame.
                    seat.to.do_send(PlayerNotice::Ended);
                }
            }
        }
    }
}

/// The next player opens an audience of its own, unless somebody has done so already.
fn forget(stream: u64, seats: &Seats) {
    // At the end of a thread there is nothing left to forget.
    let _ = HALLS.try_with(|halls| {
        let Ok(mut halls) = halls.try_borrow_mut() else { return };
        if halls.get(&stream).is_some_and(|hall| Rc::ptr_eq(&hall.seats, seats)) {
            halls.remove(&stream);
        }
    });
}

/// So many writes are half a millisecond: a frame that comes meanwhile hardly waits.
const SEATS_A_STEP: usize = 128;

/// Batches that may be on their way to the last seats; then the walk goes on without steps until all are served, and
/// deliveries pile up where they are counted.
const MAX_BACKLOG: usize = 16;

/// Deliveries that may wait while the arbiter is busy: about two seconds of a stream.
const MAILBOX: usize = 64;

static NEXT_SUBSCRIBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The audiences of this arbiter, by the id of their stream.
    static HALLS: RefCell<HashMap<u64, Rc<Hall>>> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use super::*;
    use crate::{
        actors::support::{
            output::Output,
            socket::{self, RawSocket, Writes},
        },
        media::{
            packet::{Packet, PacketKind, Track},
            queue::QueueRules,
        },
        protocol::rtmp::{chunk::WireStyle, wire::PlayForm},
    };
    use tokio::{io::AsyncReadExt, sync::mpsc, time::timeout};

    const RULES: QueueRules = QueueRules {
        max_bytes: 1 << 20,
        max_ms: 10_000,
        max_packets: None,
        wait_key: false,
        wait_video: false,
        jump_to_keyframe: false,
    };

    struct Player(mpsc::Sender<PlayerNotice>);
    impl Actor for Player {
        type Context = Context<Self>;
    }
    impl Handler<PlayerNotice> for Player {
        type Result = ();
        fn handle(&mut self, notice: PlayerNotice, _: &mut Self::Context) {
            self.0.try_send(notice).expect("the test reads all of them");
        }
    }

    fn audio(number: u8) -> Batch {
        let packet = Packet::new(Track::Audio, PacketKind::Audio, i64::from(number), Bytes::from(vec![number; 9]));
        Batch::new([packet].into_iter().collect())
    }

    #[actix::test]
    async fn everybody_gets_everything_once_and_in_order_however_the_walk_is_interrupted() {
        let (seen, _notices) = mpsc::channel(1000);
        let player = Player(seen).start();
        let form = PlayForm::new(WireStyle { chunk_size: 128, repeat_extended: true }, false);
        let mut ears = Vec::new();
        let mut seats = Vec::new();
        for id in 0..SEATS_A_STEP as u64 * 2 + 50 {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            ours.set_nonblocking(true).and(theirs.set_nonblocking(true)).expect("both take it");
            let (_, writes) = socket::split(RawSocket::Unix(ours)).expect("the reactor has room");
            // A socket that the reactor has not looked at yet takes nothing.
            std::future::poll_fn(|task| writes.poll_writable(task)).await.expect("it is open");
            let mut output = Output::new(writes);
            output.play(form, RULES, false);
            let end = Bytes::from_static(b"end");
            seats.push(Seat::new(id, Rc::new(RefCell::new(output)), Bytes::new(), end, player.clone().recipient()));
            ears.push(tokio::net::UnixStream::from_std(theirs).expect("the reactor has room"));
        }
        let audience = Audience::new(1, Rc::new(RefCell::new(seats))).start();
        audience.do_send(Deliver::Begin { listener: None, burst: Arc::new([]) });
        let batches: Vec<Batch> = (0..40).map(audio).collect();
        for (number, batch) in batches.iter().enumerate() {
            audience.do_send(Deliver::Media { batch: batch.clone(), gap: false });
            if number % 7 == 0 {
                yield_now().await; // a step or two of the walk, then more comes
            }
        }
        audience.do_send(Deliver::End);
        let mut expected: Vec<u8> = batches.iter().flat_map(|batch| form.batch(batch)).collect();
        expected.extend_from_slice(b"end");
        for ear in &mut ears {
            let mut heard = vec![0; expected.len()];
            timeout(Duration::from_secs(10), ear.read_exact(&mut heard)).await.expect("in time").expect("it all comes");
            assert!(heard == expected, "a seat was left out or served twice");
        }
    }

    #[actix::test]
    async fn players_are_told_when_their_audience_is_gone() {
        let (seen, mut notices) = mpsc::channel(1);
        let output = Rc::new(RefCell::new(Output::new(Writes::closed())));
        let seat = Seat::new(7, output, Bytes::new(), Bytes::new(), Player(seen).start().recipient());
        let audience = Audience::new(1, Rc::new(RefCell::new(vec![seat]))).start();
        drop(audience);
        let notice = notices.recv().await;
        assert!(matches!(notice, Some(PlayerNotice::Broken(_))), "nobody is left to write for this player");
    }
}
