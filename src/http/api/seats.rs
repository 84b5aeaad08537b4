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
        let mut seats = self.0.borrow_mut();
        if seats.len() >= MAX_CONNECTIONS {
            let oldest = seats.iter().min_by_key(|(_, seat)| seat.last_sign()).map(|(id, _)| *id);
            // It goes by itself soon, and is not asked to again.
            if let Some(seat) = oldest.and_then(|id| seats.remove(&id)) {
                seat.hang_up.now();
            }
        }
        let seat = Seat {
            since: Instant::now(),
            progress: Rc::clone(&caller.progress),
            outlet: Rc::clone(&caller.outlet),
            hang_up: caller.hang_up.clone(),
        };
        seats.insert(caller.id, seat);
        Seated { seats: Rc::clone(self), id: caller.id }
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
