//! The connections of the API, and what they have not read yet. Whoever has done nothing for longest makes room.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use tokio::time::Instant;

use crate::actors::support::hang_up::HangUp;
use crate::http::{
    outlet::Outlet,
    wire::{Caller, Progress},
};

/// Everybody who is connected.
#[derive(Default)]
pub struct Seats(RefCell<BTreeMap<u64, Seat>>);

struct Seat {
    since: Instant,
    progress: Rc<Progress>,
    outlet: Rc<Outlet>,
    hang_up: HangUp,
}

/// A place until this is dropped.
pub struct Seated {
    seats: Rc<Seats>,
    id: u64,
}

impl Seats {
    /// Takes a place; where there is none left, the one that has been idle or slow for longest loses its own.
    pub fn take(self: &Rc<Self>, caller: &Caller) -> Seated {
        let seat = Seat {
            since: Instant::now(),
            progress: Rc::clone(&caller.progress),
            outlet: Rc::clone(&caller.outlet),
            hang_up: caller.hang_up.clone(),
        };
        self.seat(caller.id, seat)
    }

    fn seat(self: &Rc<Self>, id: u64, seat: Seat) -> Seated {
        let mut seats = self.0.borrow_mut();
        if seats.len() >= MAX_CONNECTIONS {
            let oldest = seats.iter().min_by_key(|(_, seat)| seat.last_sign()).map(|(id, _)| *id);
            // It goes by itself soon, and is not asked to again.
            if let Some(seat) = oldest.and_then(|id| seats.remove(&id)) {
                seat.hang_up.now();
            }
        }
        seats.insert(id, seat);
        Seated { seats: Rc::clone(self), id }
    }

    /// Before an answer of so many bytes: those who have read at theirs for longest make room for it.
    pub fn make_room(&self, bytes: usize) {
        let mut seats = self.0.borrow_mut();
        let mut held: Vec<_> =
            seats.iter().map(|(id, seat)| (seat.last_sign(), *id, seat.outlet.rest().len())).collect();
        let mut total = bytes + held.iter().map(|(_, _, bytes)| bytes).sum::<usize>();
        if total <= MAX_UNREAD_BYTES {
            return;
        }
        held.retain(|(_, _, bytes)| *bytes > 0);
        held.sort_unstable();
        for (_, id, bytes) in held {
            if total <= MAX_UNREAD_BYTES {
                return;
            }
            total -= bytes;
            if let Some(seat) = seats.remove(&id) {
                seat.hang_up.now();
            }
        }
    }
}

impl Seat {
    /// When it last asked for something.
    fn last_sign(&self) -> Instant {
        self.progress.last_request().unwrap_or(self.since)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seats.0.borrow_mut().remove(&self.id);
    }
}

/// Connections of the API at one time.
pub const MAX_CONNECTIONS: usize = 512;

/// What may wait to be read by all of them together.
const MAX_UNREAD_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    struct Sitting {
        place: Seated,
        progress: Rc<Progress>,
        hang_up: HangUp,
    }

    /// With so many bytes unread, one a second after the other.
    async fn sit(seats: &Rc<Seats>, ids: std::ops::Range<u64>, bytes: usize) -> Vec<Sitting> {
        let mut sitting = Vec::new();
        for id in ids {
            let (progress, hang_up) = (Rc::new(Progress::default()), HangUp::default());
            let outlet = Rc::new(Outlet::default());
            outlet.hold(Bytes::from(vec![0; bytes]));
            let since = Instant::now();
            let seat = Seat { since, progress: Rc::clone(&progress), outlet, hang_up: hang_up.clone() };
            sitting.push(Sitting { place: seats.seat(id, seat), progress, hang_up });
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        sitting
    }

    fn sent_away(sitting: &[Sitting]) -> Vec<u64> {
        let is_asked = |one: &&Sitting| one.hang_up.asked().now_or_never().is_some();
        sitting.iter().filter(is_asked).map(|one| one.place.id).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_read_at_his_answer_for_longest_makes_room_for_the_next() {
        let seats = Rc::new(Seats::default());
        let readers = sit(&seats, 0..4, 15 << 20).await;
        let _idle = sit(&seats, 4..5, 0).await;
        readers[0].progress.asked();
        seats.make_room(4 << 20);
        assert_eq!(sent_away(&readers), [0_u64; 0], "there is room");
        seats.make_room(20 << 20);
        assert_eq!(sent_away(&readers), [1, 2], "the first asked again just now");
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_places_and_no_more() {
        let seats = Rc::new(Seats::default());
        let mut sitting = sit(&seats, 0..MAX_CONNECTIONS as u64, 0).await;
        sitting[0].progress.asked();
        sitting.extend(sit(&seats, 1000..1002, 0).await);
        assert_eq!(sent_away(&sitting), [1, 2]);
        assert_eq!(seats.0.borrow().len(), MAX_CONNECTIONS);
        drop(sitting);
        assert_eq!(seats.0.borrow().len(), 0);
    }
}
