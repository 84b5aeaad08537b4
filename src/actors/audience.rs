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

use actix::{WeakAddr, prelude::*};
use bytes::Bytes;

use super::{
    live_stream::{CatchUp, Deliver, LiveStream, Subscribe, Unsubscribe},
    router::Opened,
    support::{counters::StreamCounters, outbox::Progress, output::SharedOutput},
};

/// One ear of a stream, for all its players on this arbiter.
pub struct Audience {
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
    /// Weak: the stream's recipient is what keeps the audience alive.
    audience: WeakAddr<Audience>,
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
    let hall = HALLS.with_borrow_mut(|halls| match halls.get(&stream.id()).filter(|hall| hall.lives()) {
        Some(hall) => Rc::clone(hall),
        None => {
            let hall = Hall::open(stream);
            halls.insert(stream.id(), Rc::clone(&hall));
            hall
        }
    });
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
            Audience { seats: Rc::clone(&seats) }
        });
        let weak = audience.downgrade();
        stream.stream.do_send(Subscribe { id: subscriber, to: audience.recipient() });
        Rc::new(Self { subscriber, stream: stream.clone(), seats, audience: weak })
    }

    /// Whether anybody here will ever hear anything: a bug may have ended the stream, or the audience alone.
    fn lives(&self) -> bool {
        self.stream.stream.connected() && self.audience.upgrade().is_some_and(|audience| audience.connected())
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
            HALLS.with_borrow_mut(|halls| {
                let id = self.house.stream.id();
                // After one that failed there may be another.
                if halls.get(&id).is_some_and(|hall| Rc::ptr_eq(hall, &self.house)) {
                    halls.remove(&id);
                }
            });
        }
    }
}

impl Ticket {
    /// `false` once there is nothing more to come for the player, whoever publishes.
    pub fn lives(&self) -> bool {
        self.house.lives()
    }

    pub fn counters(&self) -> &Arc<StreamCounters> {
        &self.house.stream.counters
    }
}

impl Actor for Audience {
    type Context = Context<Self>;
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
                for seat in seats.iter_mut().filter(|seat| !seat.begun) {
                    if listener.is_none_or(|listener| listener == seat.player) {
                        seat.begun = true;
                        let mut output = seat.output.borrow_mut();
                        output.begin(seat.begin_words.clone(), &burst);
                        seat.note(output.write());
                    }
                }
            }
            Deliver::End => {
                for seat in seats.iter_mut().filter(|seat| seat.begun) {
                    seat.begun = false;
                    let mut output = seat.output.borrow_mut();
                    output.control(seat.end_words.clone());
                    seat.note(output.write());
                    seat.to.do_send(PlayerNotice::Ended);
                }
            }
        }
    }
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
    use crate::actors::{
        live_stream::Rules,
        support::{
            link::{Exited, Link},
            output::Output,
            socket::Writes,
        },
    };
    use crate::{config::Live, media::key::StreamKey, protocol::amf};

    struct Ears;
    impl Actor for Ears {
        type Context = Context<Self>;
    }
    impl Handler<PlayerNotice> for Ears {
        type Result = ();
        fn handle(&mut self, _: PlayerNotice, _: &mut Self::Context) {}
    }
    impl Handler<Exited> for Ears {
        type Result = ();
        fn handle(&mut self, _: Exited, _: &mut Self::Context) {}
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Fail;
    impl Handler<Fail> for Audience {
        type Result = ();
        fn handle(&mut self, _: Fail, ctx: &mut Self::Context) {
            ctx.stop();
        }
    }

    #[actix::test]
    async fn players_of_an_audience_that_failed_learn_it_and_newcomers_find_another() {
        let ears = Ears.start();
        let key = StreamKey::parse("default", "live", "test").expect("a good name");
        let counters = Arc::new(StreamCounters { id: 1, ..StreamCounters::default() });
        let rules = Arc::new(Rules { live: Live::default(), cork: None, amf: amf::Limits::DATA });
        let link = Link::new(1, ears.clone().recipient());
        let stream = LiveStream::new(key, rules, Arc::clone(&counters), link).start();
        let opened = Opened { stream, counters };
        let seat = |player| {
            let output = Rc::new(RefCell::new(Output::new(Writes::closed())));
            Seat::new(player, output, Bytes::new(), Bytes::new(), ears.clone().recipient())
        };
        let first = join(&opened, seat(1));
        assert!(first.lives() && join(&opened, seat(2)).lives());
        let audience = first.house.audience.upgrade().expect("it lives");
        audience.send(Fail).await.expect("it hears");
        while audience.connected() {
            tokio::task::yield_now().await;
        }
        assert!(!first.lives());
        let second = join(&opened, seat(3));
        assert!(second.lives());
        drop(first);
        assert_eq!(opened.counters.players.load(Ordering::Relaxed), 1);
        let third = join(&opened, seat(4));
        assert!(Rc::ptr_eq(&second.house, &third.house), "the one that failed did not take the new one along");
        drop((second, third));
        assert_eq!(opened.counters.players.load(Ordering::Relaxed), 0);
        assert!(HALLS.with_borrow(HashMap::is_empty));
    }
}
