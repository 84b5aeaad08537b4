//! Who publishes and plays on this arbiter: entered by the sessions themselves, read by the arbiter's steward.
//!
//! Everything here stays on one thread. What changes with each frame (queues, bytes) is not copied here: it is looked at where
//! it lies, and only when somebody asks.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    ops::Bound,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;

use super::{body::SharedBody, kernel::Kernel, output::SharedOutput};
use crate::media::{key::StreamKey, queue::Drops};

/// One who publishes or plays, and where to look at it.
pub struct Client {
    who: Arc<Who>,
    tap: Tap,
    to: Recipient<Order>,
}

/// What of a client does not change.
#[derive(Clone, Debug)]
pub struct Who {
    /// The number of its connection: `clientid`.
    pub id: u64,
    pub role: ClientRole,
    /// `rtmp`, `rtmps`, `http-flv` and so on.
    pub protocol: &'static str,
    /// What it publishes or plays: a hook may have sent it there.
    pub key: StreamKey,
    /// None: a unix socket.
    pub address: Option<SocketAddr>,
    /// `flashVer`, or the name of a browser.
    pub agent: String,
    /// Addresses that it gave, without their queries.
    pub page_url: String,
    pub swf_url: String,
    pub tc_url: String,
    /// When its connection was accepted, and when it was let in, on the clock of the house.
    pub connected: Duration,
    pub began: Duration,
    /// A relay, ours or another server's.
    pub is_relay: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientRole {
    Publisher,
    Player,
}

impl Who {
    /// One of our own relays, which no arbiter has on its roll.
    pub fn is_our_relay(&self) -> bool {
        self.protocol == PUSH || self.protocol == PULL
    }
}

/// The protocols of our own relays.
pub const PUSH: &str = "push";
pub const PULL: &str = "pull";

impl ClientRole {
    pub fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Player => "player",
        }
    }
}

/// What of a client changes all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pulse {
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// What waits for it here, in bytes and in media time.
    pub queue_bytes: usize,
    pub queue_ms: i64,
    pub drops: Drops,
    pub paused: bool,
    /// Its socket takes nothing at the moment.
    pub blocked: bool,
    /// From being let in to its first frame.
    pub first_frame: Option<Duration>,
    /// None: not TCP, or not known.
    pub kernel: Option<Kernel>,
}

/// A client at one moment.
#[derive(Clone, Debug)]
pub struct ClientNow {
    pub who: Arc<Who>,
    pub pulse: Pulse,
}

/// To a session: what somebody who looks after the server wants of it.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub enum Order {
    /// It is told why, and closed.
    Leave { reason: Arc<str> },
    /// It publishes or plays this name of its application from now on; what follows `?` are its arguments.
    GoTo { name: Arc<str> },
}

/// Where to look at a client.
pub enum Tap {
    Output(SharedOutput),
    /// An HTTP answer, and its connection where it has one to be asked.
    Body(SharedBody, Option<Rc<dyn Fn() -> Option<Kernel>>>),
}

/// On the roll until this is dropped.
pub struct Enrolled(Rc<Client>);

/// Enters somebody who was let in. To be called on the thread of its connection.
pub fn enter(who: Who, tap: Tap, to: Recipient<Order>) -> Enrolled {
    let client = Rc::new(Client { who: Arc::new(who), tap, to });
    ROLL.with_borrow_mut(|roll| roll.insert(client.who.id, Rc::clone(&client)));
    Enrolled(client)
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        // At the end of a thread there is nothing left to leave.
        let _ = ROLL.try_with(|roll| {
            let Ok(mut roll) = roll.try_borrow_mut() else { return };
            if roll.get(&self.0.who.id).is_some_and(|known| Rc::ptr_eq(known, &self.0)) {
                roll.remove(&self.0.who.id);
            }
        });
    }
}

/// How many are here.
pub fn len() -> usize {
    ROLL.with_borrow(BTreeMap::len)
}

/// Looks at up to `limit` clients behind the one with the id `after`. None: those were the last.
pub fn look(after: Option<u64>, limit: usize, found: &mut Vec<ClientNow>) -> Option<u64> {
    ROLL.with_borrow(|roll| {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let last = Cell::new(None);
        let looked = roll.range((start, Bound::Unbounded)).take(limit).inspect(|(id, _)| last.set(Some(**id)));
        found.extend(looked.map(|(_, client)| client.now()));
        last.get().filter(|last| roll.range((Bound::Excluded(*last), Bound::Unbounded)).next().is_some())
    })
}

/// Whether somebody of this id is here.
pub fn has(id: u64) -> bool {
    ROLL.with_borrow(|roll| roll.contains_key(&id))
}

/// Gives an order to a client. False: there is nobody of this id here, or it cannot do that.
pub fn order(id: u64, order: &Order) -> bool {
    let client = ROLL.with_borrow(|roll| roll.get(&id).filter(|client| client.can(order)).map(Rc::clone));
    // At most one for each client and wish of an operator.
    client.inspect(|client| client.to.do_send(order.clone())).is_some()
}

impl Client {
    fn can(&self, order: &Order) -> bool {
        match (&self.tap, order) {
            (_, Order::Leave { .. }) | (Tap::Output(_), _) => true,
            (Tap::Body(body, _), Order::GoTo { .. }) => body.borrow().can_change_stream(),
        }
    }

    fn now(&self) -> ClientNow {
        let pulse = match &self.tap {
            Tap::Output(output) => output.borrow().pulse(),
            Tap::Body(body, kernel) => {
                let kernel = kernel.as_ref().and_then(|kernel| kernel());
                Pulse { kernel, ..body.borrow().pulse() }
            }
        };
        ClientNow { who: Arc::clone(&self.who), pulse }
    }
}

/// An address without its query, which may hold a key.
pub fn without_query(address: &str) -> String {
    address.split(['?', '#']).next().unwrap_or_default().to_owned()
}

thread_local! {
    static ROLL: RefCell<BTreeMap<u64, Rc<Client>>> = const { RefCell::new(BTreeMap::new()) };
}
