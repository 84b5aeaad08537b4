//! The players of one stream on one arbiter: hears the stream once for all of them and writes to each in turn.
//!
//! A message to an actor for each player and batch costs more than a microsecond by the time caches are cold, which is
//! a fifth of what the write itself costs; a message to each arbiter and a loop over its players costs a tenth of that.
//! So the stream tells an audience, and the audience walks its seats. Everything here stays on one thread.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::prelude::*;
use bytes::Bytes;
use tracing::error;

use super::{
    live_stream::{CatchUp, Deliver, LiveStream, Subscribe, Unsubscribe},
    router::Opened,
    support::{counters::StreamCounters, outbox::Progress, output::SharedOutput},
};

/// One ear of a stream, for all its players on this arbiter.
pub struct Audience {
    /// The id of the stream.
    stream: u64,
    seats: Seats,
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
        Self { player, output, begin_words, end_words, to, begun: false }
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
            Audience { stream: stream.id(), seats: Rc::clone(&seats) }
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

impl Handler<Deliver> for Audience {
    type Result = ();

    fn handle(&mut self, message: Deliver, _: &mut Self::Context) {
        let mut seats = self.seats.borrow_mut();
        match message {
            Deliver::Media { batch, gap } => {
                for seat in seats.iter().filter(|seat| seat.begun) {
                    seat.note(seat.output.borrow_mut().send(&batch, gap));
                }
            }
            Deliver::Begin { listener, burst } => {
                let is_meant = |seat: &Seat| listener.is_none_or(|listener| listener == seat.player && !seat.begun);
                for seat in seats.iter_mut().filter(|seat| is_meant(seat)) {
                    seat.begun = true;
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

/// Deliveries that may wait while the arbiter is busy: about two seconds of a stream.
const MAILBOX: usize = 64;

static NEXT_SUBSCRIBER: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The audiences of this arbiter, by the id of their stream.
    static HALLS: RefCell<HashMap<u64, Rc<Hall>>> = RefCell::default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::support::{output::Output, socket::Writes};
    use tokio::sync::mpsc;

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

    #[actix::test]
    async fn players_are_told_when_their_audience_is_gone() {
        let (seen, mut notices) = mpsc::channel(1);
        let output = Rc::new(RefCell::new(Output::new(Writes::closed())));
        let seat = Seat::new(7, output, Bytes::new(), Bytes::new(), Player(seen).start().recipient());
        let audience = Audience { stream: 1, seats: Rc::new(RefCell::new(vec![seat])) }.start();
        drop(audience);
        let notice = notices.recv().await;
        assert!(matches!(notice, Some(PlayerNotice::Broken(_))), "nobody is left to write for this player");
    }
}
