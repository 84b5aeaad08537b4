//! Those who watch one source on one arbiter: hears it once for all of them and writes to each in turn.
//!
//! A message to an actor for each player and batch costs more than a microsecond by the time caches are cold, which is
//! a fifth of what the write itself costs; a message to each arbiter and a loop over its players costs a tenth of that.
//! So the source tells an audience, and the audience walks its seats. Everything here stays on one thread.
//!
//! A walk past a thousand seats takes milliseconds. So it goes in steps, and between two of them the arbiter reads its
//! sockets: a frame that comes in the middle of a walk goes to those who have not been served yet together with the one
//! before it, in one write. The busier the arbiter, the more goes in one write.

use std::{
    cell::{Cell, RefCell},
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
    source::{Deliver, Listen, Refusal, Source, next_subscriber},
    support::{
        body::SharedBody,
        bulk::Bulk,
        counters::{Protocol, StreamCounters},
        outbox::Progress,
        output::SharedOutput,
        route::Route,
    },
};
use crate::media::packet::{Batch, Packet};

/// One subscriber of a source, for all its players on this arbiter.
pub struct Audience {
    /// The id of the source.
    source: u64,
    seats: Seats,
    /// What some seats have still to be sent, oldest first. Bounded by [`MAX_BACKLOG`].
    backlog: VecDeque<(Batch, bool)>,
    /// The number of the first batch in the backlog: batches are counted from 0.
    first: u64,
    /// What of it is large enough to be lent to the kernel.
    bulk: Bulk,
    /// The seat that the walk comes to next.
    place: usize,
    is_walking: bool,
}

/// A player's place. It is left by being dropped.
pub struct Ticket {
    player: u64,
    protocol: Protocol,
    hall: Rc<Hall>,
}

/// What a player brings to its place.
pub struct Seat {
    /// Tells this player from all others.
    player: u64,
    pub protocol: Protocol,
    pub ear: Ear,
    /// What the player is told when a publisher comes, and when it goes.
    pub begin_words: Bytes,
    pub end_words: Bytes,
    /// The way it came, where it is a relay.
    pub route: Route,
    /// Where to tell what the player's connection must do.
    pub to: Recipient<PlayerNotice>,
    /// A publisher is there and this player has been told.
    begun: bool,
    /// The number of the batch it is sent next.
    next: u64,
}

/// Where a player hears.
pub enum Ear {
    /// A socket of ours.
    Socket(SharedOutput),
    /// The answer to an HTTP request.
    Body(SharedBody),
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
    /// There is nothing to wait for.
    TurnedAway(Arc<Refusal>),
}

type Seats = Rc<RefCell<Vec<Seat>>>;

/// What the tickets of one audience share.
struct Hall {
    /// Under which the source knows this audience.
    subscriber: u64,
    source: Source,
    seats: Seats,
    /// The source knows only of relays here.
    is_for_relays: Cell<bool>,
}

impl Seat {
    /// Somebody who plays over RTMP.
    pub fn rtmp(output: SharedOutput, begin_words: Bytes, end_words: Bytes, to: Recipient<PlayerNotice>) -> Self {
        Self::new(Protocol::Rtmp, Ear::Socket(output), begin_words, end_words, to)
    }

    /// Somebody who watches over HTTP: the answer is all that is said to it.
    pub fn http(protocol: Protocol, body: SharedBody, to: Recipient<PlayerNotice>) -> Self {
        Self::new(protocol, Ear::Body(body), Bytes::new(), Bytes::new(), to)
    }

    fn new(protocol: Protocol, ear: Ear, begin_words: Bytes, end_words: Bytes, to: Recipient<PlayerNotice>) -> Self {
        let player = NEXT_PLAYER.fetch_add(1, Ordering::Relaxed);
        Self { player, protocol, ear, begin_words, end_words, route: Route::default(), to, begun: false, next: 0 }
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

/// Seats a player in the audience of its source on this arbiter; the first one opens it.
pub fn join(source: &Source, seat: Seat) -> Ticket {
    let hall = HALLS
        .with_borrow_mut(|halls| Rc::clone(halls.entry(source.id).or_insert_with(|| Hall::open(source, &seat.route))));
    let (player, protocol, is_at_home) = (seat.player, seat.protocol, seat.route.is_empty());
    hall.seats.borrow_mut().push(seat);
    hall.source.counters.players.come(protocol);
    if is_at_home && hall.is_for_relays.replace(false) {
        hall.source.to.do_send(Listen::Wants { subscriber: hall.subscriber, route: Route::default() });
    }
    hall.source.to.do_send(Listen::CatchUp { subscriber: hall.subscriber, listener: player });
    Ticket { player, protocol, hall }
}

impl Hall {
    fn open(source: &Source, route: &Route) -> Rc<Self> {
        let subscriber = next_subscriber();
        let seats = Seats::default();
        let audience = Audience::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            Audience::new(source.id, Rc::clone(&seats))
        });
        source.to.do_send(Listen::Join { subscriber, to: audience.recipient(), wants: Some(route.clone()) });
        Rc::new(Self { subscriber, source: source.clone(), seats, is_for_relays: Cell::new(!route.is_empty()) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut seats = self.hall.seats.borrow_mut();
        if let Some(place) = seats.iter().position(|seat| seat.player == self.player) {
            seats.swap_remove(place);
            self.hall.source.counters.players.go(self.protocol);
        }
        if seats.is_empty() {
            // The source lets go of its recipient, and with it the audience ends.
            self.hall.source.to.do_send(Listen::Leave { subscriber: self.hall.subscriber });
            forget(self.hall.source.id, &self.hall.seats);
        }
    }
}

impl Ticket {
    pub fn source(&self) -> &Source {
        &self.hall.source
    }

    pub fn counters(&self) -> &Arc<StreamCounters> {
        &self.hall.source.counters
    }
}

impl Ear {
    /// The source's next packets, and a try to write them.
    fn send(&self, batch: &Batch, gap: bool, bulk: &mut Bulk) -> io::Result<Progress> {
        match self {
            Self::Socket(output) => output.borrow_mut().send(batch, gap, bulk),
            Self::Body(body) => {
                let mut body = body.borrow_mut();
                body.offer(batch, gap);
                body.wake();
                Ok(Progress::Done)
            }
        }
    }

    /// The source's next packets, to be written with what follows.
    fn offer(&self, batch: &Batch, gap: bool) {
        match self {
            Self::Socket(output) => output.borrow_mut().offer(batch, gap),
            Self::Body(body) => body.borrow_mut().offer(batch, gap),
        }
    }

    /// Writes what it takes now.
    fn write(&self) -> io::Result<Progress> {
        match self {
            Self::Socket(output) => output.borrow_mut().write(),
            Self::Body(body) => {
                body.borrow_mut().wake();
                Ok(Progress::Done)
            }
        }
    }

    /// A publisher is there: what the player is told, and the packets that come first.
    fn begin(&self, words: Bytes, burst: &[Packet]) -> io::Result<Progress> {
        match self {
            Self::Socket(output) => {
                let mut output = output.borrow_mut();
                output.begin(words, burst);
                output.write()
            }
            Self::Body(body) => {
                let mut body = body.borrow_mut();
                body.begin(burst);
                body.wake();
                Ok(Progress::Done)
            }
        }
    }

    /// The publisher has left: what the player is told.
    fn end(&self, words: Bytes) -> io::Result<Progress> {
        match self {
            Self::Socket(output) => {
                let mut output = output.borrow_mut();
                output.control(words);
                output.write()
            }
            Self::Body(_) => Ok(Progress::Done),
        }
    }
}

impl Actor for Audience {
    type Context = Context<Self>;
}

/// Whoever still has a seat would wait for ever: it is told to go. That is the end of the stream, or a bug of ours.
impl Drop for Audience {
    fn drop(&mut self) {
        forget(self.source, &self.seats);
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
    fn new(source: u64, seats: Seats) -> Self {
        Self { source, seats, backlog: VecDeque::new(), first: 0, bulk: Bulk::default(), place: 0, is_walking: false }
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
        self.bulk.set_readers(seats.len());
        loop {
            while let Some(seat) = seats.get_mut(self.place) {
                if limit == 0 {
                    return false;
                }
                self.place += 1;
                if seat.begun && seat.next < head {
                    limit -= 1;
                    let missing = seat.next.saturating_sub(self.first) as usize;
                    let ear = &seat.ear;
                    let waiting = self.backlog.range(missing..);
                    let written = match self.backlog.back().filter(|_| waiting.len() == 1) {
                        Some((batch, gap)) => ear.send(batch, *gap, &mut self.bulk),
                        None => {
                            waiting.for_each(|(batch, gap)| ear.offer(batch, *gap));
                            ear.write()
                        }
                    };
                    seat.next = head;
                    seat.note(written);
                }
            }
            // Who left moved another into its seat, perhaps behind the walk's back; and more may have come meanwhile.
            self.place = 0;
            if !seats.iter().any(|seat| seat.begun && seat.next < head) {
                self.backlog.clear();
                self.bulk.clear();
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
                self.bulk.set_readers(seats.len());
                for seat in seats.iter().filter(|seat| seat.begun) {
                    seat.note(seat.ear.send(&batch, gap, &mut self.bulk));
                }
                self.bulk.clear();
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
                    seat.note(seat.ear.begin(seat.begin_words.clone(), &burst));
                }
            }
            Deliver::End => {
                for seat in seats.iter_mut() {
                    if std::mem::take(&mut seat.begun) {
                        seat.note(seat.ear.end(seat.end_words.clone()));
                    }
                    // Also to who still waited for the first frame.
                    seat.to.do_send(PlayerNotice::Ended);
                }
            }
            Deliver::TurnedAway(refusal) => {
                for seat in seats.iter() {
                    seat.to.do_send(PlayerNotice::TurnedAway(Arc::clone(&refusal)));
                }
            }
        }
    }
}

/// The next player opens an audience of its own, unless somebody has done so already.
fn forget(source: u64, seats: &Seats) {
    // At the end of a thread there is nothing left to forget.
    let _ = HALLS.try_with(|halls| {
        let Ok(mut halls) = halls.try_borrow_mut() else { return };
        if halls.get(&source).is_some_and(|hall| Rc::ptr_eq(&hall.seats, seats)) {
            halls.remove(&source);
        }
    });
}

/// So many writes are a quarter of a millisecond: a frame that comes meanwhile hardly waits.
const SEATS_A_STEP: usize = 32;

/// Batches that may be on their way to the last seats; then the walk goes on without steps until all are served, and
/// deliveries pile up where they are counted.
const MAX_BACKLOG: usize = 16;

/// Deliveries that may wait while the arbiter is busy: about two seconds of a stream.
const MAILBOX: usize = 64;

static NEXT_PLAYER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The audiences of this arbiter, by the id of their source.
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
            packet::{PacketKind, Track},
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
        for _ in 0..SEATS_A_STEP * 2 + 50 {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            ours.set_nonblocking(true).and(theirs.set_nonblocking(true)).expect("both take it");
            let (_, writes) = socket::split(RawSocket::Unix(ours)).expect("the reactor has room");
            // A socket that the reactor has not looked at yet takes nothing.
            std::future::poll_fn(|task| writes.poll_writable(task)).await.expect("it is open");
            let mut output = Output::new(writes);
            output.play(form, RULES, false);
            let end = Bytes::from_static(b"end");
            seats.push(Seat::rtmp(Rc::new(RefCell::new(output)), Bytes::new(), end, player.clone().recipient()));
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
        let seat = Seat::rtmp(output, Bytes::new(), Bytes::new(), Player(seen).start().recipient());
        let audience = Audience::new(1, Rc::new(RefCell::new(vec![seat]))).start();
        drop(audience);
        let notice = notices.recv().await;
        assert!(matches!(notice, Some(PlayerNotice::Broken(_))), "nobody is left to write for this player");
    }
}
