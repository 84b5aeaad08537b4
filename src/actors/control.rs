//! Sight and control of the whole server: what everybody is doing, who is to go, and where to.
//!
//! All that is served over HTTP about statistics and control translates to the messages of this actor. It asks arbiters,
//! streams and supervisors, holds no lock while it does, and asks them all only so often, whoever asks it.

use std::{cmp::Reverse, collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use actix::prelude::*;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::info;

use super::{
    children::ListChildren,
    hooks::ListHooks,
    house::House,
    live_stream::{Describe, StreamReading},
    outputs::{ListOutputs, Outputs},
    relays::{AddRelay, ListRelays, RelayAdded, RelayRefused, RemoveRelay},
    steward::{ArbiterNow, CallRoll, GiveOrder, Steward},
    support::{
        bans::{Ban, BanScope, TooManyBans},
        counters::Protocol,
        directory::Entry,
        relay_plan::Direction,
        relay_status::RelayView,
        roll::{ClientNow, ClientRole, Order, PULL, PUSH, Pulse, Who},
        snapshot::{Client, Limit, OutputNow, ServerNow, Snapshot, StreamNow},
        traffic::Traffic,
    },
};
use crate::media::{key::StreamKey, queue::Drops};

pub struct Control {
    house: Arc<House>,
    stewards: Vec<Addr<Steward>>,
    outputs: Option<Addr<Outputs>>,
    latest: Option<Latest>,
    /// Who waits for the next look at everything, and after how many changes they asked. One for each request that is being
    /// answered: bounded by the connections that may ask.
    waiting: Vec<(u64, oneshot::Sender<Arc<Snapshot>>)>,
    is_looking: bool,
    /// Counts what was changed through this actor: what was seen before is out of date then.
    changes: u64,
}

struct Latest {
    seen: Instant,
    /// How long it is as good as new: the longer it took, the longer it is.
    keeps: Duration,
    changes: u64,
    snapshot: Arc<Snapshot>,
}

/// Everything at one moment, which is a tenth of a second ago at the most.
#[derive(Message)]
#[rtype(result = "Arc<Snapshot>")]
pub struct Look;

/// Whom an operator means. What is not said means everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The id of the virtual host.
    pub server: Option<String>,
    pub app: Option<String>,
    pub name: Option<String>,
    pub address: Option<IpAddr>,
    pub id: Option<u64>,
    pub role: Option<ClientRole>,
}

/// Who wants something done, for the line in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// An address, or `unix:`.
    pub from: String,
    /// `api` or `rtmp_control`.
    pub via: &'static str,
}

/// Sends clients away, and keeps them out where a ban is asked for.
#[derive(Message, Clone, Debug)]
#[rtype(result = "Result<Dropped, TooManyBans>")]
pub struct DropClients {
    pub select: Selection,
    pub ban: Option<BanOrder>,
    /// Told to the client, and written to the log; empty: the usual one.
    pub reason: String,
    pub author: Author,
}

/// How long, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BanOrder {
    pub lasts: Duration,
    pub by: BanBy,
}

/// What a client that is banned is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanBy {
    Address,
    Name,
    Both,
}

/// What [`DropClients`] did.
#[derive(Clone, Debug, Default)]
pub struct Dropped {
    pub clients: Vec<Arc<Who>>,
    pub bans: Vec<Ban>,
}

/// Sends clients to another name of their application. Answers how many they are.
#[derive(Message, Clone, Debug)]
#[rtype(result = "usize")]
pub struct RedirectClients {
    pub select: Selection,
    /// What follows `?` are arguments.
    pub to: String,
    pub author: Author,
}

/// Who is kept out.
#[derive(Message)]
#[rtype(result = "Vec<Ban>")]
pub struct ListBans;

/// Keeps somebody out who need not be here.
#[derive(Message)]
#[rtype(result = "Result<Ban, TooManyBans>")]
pub struct AddBan {
    pub scope: BanScope,
    pub lasts: Duration,
    pub reason: String,
    pub author: Author,
}

/// Lets somebody in again. False: there is no such ban.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct LiftBan {
    pub id: u64,
    pub author: Author,
}

/// Pushes or pulls a stream from now on, whoever publishes or plays it, until it is told to stop.
#[derive(Message)]
#[rtype(result = "Result<RelayAdded, RelayRefused>")]
pub struct StartRelay {
    pub key: StreamKey,
    pub direction: Direction,
    pub url: String,
    pub author: Author,
}

/// Ends a relay. False: there is no such relay.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct StopRelay {
    pub id: u64,
    pub author: Author,
}

impl Selection {
    pub fn means(&self, who: &Who) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        is(&self.server, &who.key.vhost)
            && is(&self.app, &who.key.app)
            && is(&self.name, &who.key.name)
            && self.address.is_none_or(|address| {
                // An IPv4 client of a socket for both is one address, however it is written.
                who.address.is_some_and(|has| has.ip().to_canonical() == address.to_canonical())
            })
            && self.id.is_none_or(|id| id == who.id)
            && self.role.is_none_or(|role| role == who.role)
    }
}

impl Control {
    pub fn new(house: Arc<House>, stewards: Vec<Addr<Steward>>, outputs: Option<Addr<Outputs>>) -> Self {
        Self { house, stewards, outputs, latest: None, waiting: Vec::new(), is_looking: false, changes: 0 }
    }

    /// Looks at everything, unless somebody is at it.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if self.is_looking {
            return;
        }
        self.is_looking = true;
        let (changes, began) = (self.changes, Instant::now());
        let look = Eyes::of(self).look();
        ctx.spawn(look.into_actor(self).map(move |snapshot, control, ctx| {
            let snapshot = Arc::new(snapshot);
            control.is_looking = false;
            let keeps = (began.elapsed() * DUTY).min(LONGEST_KEPT);
            control.latest = Some(Latest { seen: Instant::now(), keeps, changes, snapshot: Arc::clone(&snapshot) });
            for (_, waiting) in control.waiting.extract_if(.., |(asked, _)| *asked <= changes) {
                // Who asked may have left.
                let _ = waiting.send(Arc::clone(&snapshot));
            }
            if !control.waiting.is_empty() {
                control.look(ctx);
            }
        }));
    }

    fn note_change(&mut self) {
        self.changes += 1;
    }
}

/// What it takes to see everybody: for futures, which outlive the handler that makes them.
#[derive(Clone)]
struct Eyes {
    house: Arc<House>,
    stewards: Vec<Addr<Steward>>,
    outputs: Option<Addr<Outputs>>,
}

impl Eyes {
    fn of(control: &Control) -> Self {
        let Control { house, stewards, outputs, .. } = control;
        Self { house: Arc::clone(house), stewards: stewards.clone(), outputs: outputs.clone() }
    }

    async fn look(self) -> Snapshot {
        let house = &self.house;
        let desks = &house.desks;
        let entries = house.directory.all();
        let called = join_all(self.stewards.iter().map(|steward| steward.send(CallRoll)));
        let streams = join_all(entries.iter().map(|(key, entry)| describe(key, entry)));
        let relays = async {
            match &desks.relays {
                Some(relays) => relays.send(ListRelays).await.unwrap_or_default(),
                None => Vec::new(),
            }
        };
        let hooks = async {
            match &desks.hooks {
                Some(hooks) => hooks.send(ListHooks).await.unwrap_or_default(),
                None => Default::default(),
            }
        };
        let children = async {
            match &desks.children {
                Some(children) => children.send(ListChildren).await.unwrap_or_default(),
                None => Vec::new(),
            }
        };
        let outputs = async {
            match &self.outputs {
                Some(outputs) => outputs.send(ListOutputs).await.unwrap_or_default(),
                None => Vec::new(),
            }
        };
        let (called, streams, relays, hooks, children, outputs) =
            tokio::join!(called, streams, relays, hooks, children, outputs);
        let (mut here, mut arbiters) = (Vec::new(), Vec::new());
        for called in called.into_iter().flatten() {
            here.extend(called.clients);
            arbiters.push(called.arbiter);
        }
        let now = house.now();
        let mut streams: Vec<_> = streams.into_iter().flatten().collect();
        streams.sort_by(|one: &StreamNow, other| one.key.cmp(&other.key));
        let find = |key: &StreamKey| streams.binary_search_by(|stream| stream.key.cmp(key)).ok();
        let bits = |key: &StreamKey| find(key).map_or(0, |at| streams[at].readings.bits_in);
        let mut clients: Vec<Client> = here
            .into_iter()
            .map(|client| {
                let bits = bits(&client.who.key);
                Client::new(client, bits)
            })
            .collect();
        clients.extend(relays.iter().filter_map(|relay| relay_client(relay, now)));
        let mut segmented = Vec::new();
        for shelved in house.shelf.all() {
            let store_now = shelved.store.now();
            let viewers = shelved.store.sessions().list();
            segmented.push((
                shelved.key.clone(),
                OutputNow {
                    kind: shelved.format.name(),
                    place: "memory",
                    viewers: viewers.len(),
                    waiting: shelved.store.blocked(),
                },
            ));
            clients.extend(viewers.into_iter().map(|(_, viewer)| viewer.client(&shelved.key, store_now, now)));
        }
        clients.sort_unstable_by_key(|client| Reverse(client.who.id));
        for (key, output) in outputs.into_iter().chain(segmented) {
            if let Ok(at) = streams.binary_search_by(|stream| stream.key.cmp(&key)) {
                streams[at].outputs.push(output);
            }
        }
        let server = self.server(now, arbiters, &streams);
        Snapshot { server, streams, clients, relays, hooks, children }
    }

    /// Those who are meant, wherever they are.
    async fn find(&self, select: &Selection) -> Vec<Arc<Who>> {
        let called = join_all(self.stewards.iter().map(|steward| steward.send(CallRoll))).await;
        let here = called.into_iter().flatten().flat_map(|called| called.clients);
        let mut found: Vec<_> = here.map(|client: ClientNow| client.who).collect();
        // Who sends everybody away does not mean relays: they would be back at once, or not at all.
        if let (Some(relays), true) = (&self.house.desks.relays, select.id.is_some()) {
            let relays = relays.send(ListRelays).await.unwrap_or_default();
            found
                .extend(relays.iter().filter_map(|relay| relay_client(relay, Duration::ZERO)).map(|client| client.who));
        }
        for shelved in self.house.shelf.all() {
            let viewers = shelved.store.sessions().list().into_iter();
            found.extend(viewers.map(|(_, viewer)| viewer.client(&shelved.key, Duration::ZERO, Duration::ZERO).who));
        }
        found.retain(|who| select.means(who));
        found
    }

    async fn order(&self, clients: &[Arc<Who>], order: &Order) -> usize {
        let ids: Arc<[u64]> = clients.iter().map(|who| who.id).collect();
        let given =
            self.stewards.iter().map(|steward| steward.send(GiveOrder { ids: Arc::clone(&ids), order: order.clone() }));
        join_all(given).await.into_iter().flatten().sum()
    }

    /// Those whom no arbiter has on its roll: relays, and viewers of segments.
    async fn dismiss_others(&self, clients: &[Arc<Who>]) {
        let ids: HashSet<u64> = clients.iter().map(|who| who.id).collect();
        for shelved in self.house.shelf.all() {
            let sessions = shelved.store.sessions();
            for (id, _) in sessions.list().into_iter().filter(|(_, viewer)| ids.contains(&viewer.number)) {
                sessions.drop_viewer(id);
            }
        }
        if let Some(relays) = &self.house.desks.relays {
            for who in clients.iter().filter(|who| who.is_our_relay()) {
                let _ = relays.send(RemoveRelay { id: who.id }).await;
            }
        }
    }

    fn server(&self, now: Duration, arbiters: Vec<ArbiterNow>, streams: &[StreamNow]) -> ServerNow {
        let house = &self.house;
        let sum = |of: fn(&ArbiterNow) -> u64| arbiters.iter().map(of).sum();
        let publishing = streams.iter().filter(|stream| stream.publisher.is_some()).count() as u64;
        let most = house.census.most_of_one_address();
        ServerNow {
            uptime: now,
            now,
            accepted: house.accepted(),
            connections: house.census.connections(),
            traffic: Traffic { bytes_in: sum(|one| one.traffic.bytes_in), bytes_out: sum(|one| one.traffic.bytes_out) },
            bits_in: sum(|one| one.bits_in),
            bits_out: sum(|one| one.bits_out),
            limits: vec![
                Limit {
                    name: "max_connections",
                    max: house.census.max_connections(),
                    used: house.census.connections(),
                },
                Limit { name: "max_live_streams", max: house.limits.max_live_streams.into(), used: publishing },
                Limit {
                    name: "max_tls_handshakes",
                    max: house.max_tls_handshakes().into(),
                    used: house.tls_handshakes().into(),
                },
                Limit {
                    name: "max_connections_per_address",
                    max: house.limits.max_connections_per_address.max.into(),
                    used: most.connections.into(),
                },
                Limit {
                    name: "max_publishers_per_address",
                    max: house.limits.max_publishers_per_address.into(),
                    used: most.publishers.into(),
                },
            ],
            arbiters,
        }
    }
}

async fn describe(key: &StreamKey, entry: &Entry) -> Option<StreamNow> {
    use std::sync::atomic::Ordering::Relaxed;
    let reading: StreamReading = entry.stream.upgrade()?.send(Describe).await.ok()?;
    let counters = &entry.counters;
    let about = counters.about();
    let players = Protocol::ALL.into_iter().map(|protocol| (protocol, counters.players.of(protocol)));
    let segments = counters.segment_bytes_out.load(Relaxed);
    Some(StreamNow {
        key: key.clone(),
        id: counters.id,
        publisher: reading.publisher,
        active: reading.active,
        age: reading.age,
        published_for: about.since.map(|since| since.elapsed()),
        about,
        readings: reading.readings,
        bytes_in: counters.bytes_in.load(Relaxed),
        packets_in: counters.packets_in.load(Relaxed),
        bytes_out: reading.readings.totals.bytes_out + segments,
        clock_ms: counters.clock_ms.load(Relaxed),
        jumps: counters.jumps.load(Relaxed),
        refused_messages: counters.refused_messages.load(Relaxed),
        missed_deliveries: counters.missed_deliveries.load(Relaxed),
        players: players.filter(|(_, count)| *count > 0).collect(),
        outputs: Vec::new(),
    })
}

/// A relay is a client, too: a pull publishes, a push plays. None: it is waiting for its next attempt.
fn relay_client(relay: &RelayView, now: Duration) -> Option<Client> {
    let peer = relay.peer?;
    let is_push = relay.direction == Direction::Push.name();
    let since = now.saturating_sub(Duration::from_secs(relay.since_s));
    let who = Who {
        id: relay.id,
        role: if is_push { ClientRole::Player } else { ClientRole::Publisher },
        protocol: if is_push { PUSH } else { PULL },
        key: relay.key.clone(),
        address: Some((peer, 0).into()),
        agent: "ngx-local-relay".to_owned(),
        page_url: String::new(),
        swf_url: String::new(),
        tc_url: relay.url.clone(),
        connected: since,
        began: since,
        is_relay: true,
    };
    let pulse = Pulse {
        bytes_in: if is_push { 0 } else { relay.bytes },
        bytes_out: if is_push { relay.bytes } else { 0 },
        queue_ms: relay.lag_ms as i64,
        drops: Drops { video: relay.drops, ..Drops::default() },
        ..Pulse::default()
    };
    Some(Client::new(ClientNow { who: Arc::new(who), pulse }, 0))
}

impl Actor for Control {
    type Context = Context<Self>;
}

impl Handler<Look> for Control {
    type Result = ResponseFuture<Arc<Snapshot>>;

    fn handle(&mut self, _: Look, ctx: &mut Self::Context) -> Self::Result {
        let good = self
            .latest
            .as_ref()
            .filter(|latest| latest.changes == self.changes && latest.seen.elapsed() < latest.keeps);
        if let Some(latest) = good {
            return Box::pin(std::future::ready(Arc::clone(&latest.snapshot)));
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.push((self.changes, answer));
        self.look(ctx);
        Box::pin(async move { answered.await.unwrap_or_default() })
    }
}

impl Handler<DropClients> for Control {
    type Result = ResponseFuture<Result<Dropped, TooManyBans>>;

    fn handle(&mut self, asked: DropClients, ctx: &mut Self::Context) -> Self::Result {
        let reason = Some(&asked.reason).filter(|reason| !reason.is_empty());
        let reason = reason.map_or(DEFAULT_REASON, String::as_str).to_owned();
        let asked = DropClients { reason, ..asked };
        let (eyes, control) = (Eyes::of(self), ctx.address());
        Box::pin(async move {
            let clients = eyes.find(&asked.select).await;
            // Kept out before it is sent away: it may be back at once.
            let bans = match asked.ban {
                Some(ban) => ban_all(&eyes.house, &clients, ban, &asked.reason)?,
                None => Vec::new(),
            };
            eyes.order(&clients, &Order::Leave { reason: asked.reason.as_str().into() }).await;
            eyes.dismiss_others(&clients).await;
            let Author { from, via } = &asked.author;
            let (count, banned, reason) = (clients.len(), bans.len(), &asked.reason);
            info!(severity = "notice", from, via, select = %asked.select, count, banned, reason, "control: drop");
            control.do_send(Changed);
            Ok(Dropped { clients, bans })
        })
    }
}

/// Something was changed, and has happened by now.
#[derive(Message)]
#[rtype(result = "()")]
struct Changed;

impl Handler<Changed> for Control {
    type Result = ();

    fn handle(&mut self, _: Changed, _: &mut Self::Context) {
        self.note_change();
    }
}

fn ban_all(house: &House, clients: &[Arc<Who>], ban: BanOrder, reason: &str) -> Result<Vec<Ban>, TooManyBans> {
    let mut scopes = Vec::new();
    for who in clients.iter().filter(|who| !who.is_our_relay()) {
        let address = who.address.map(|address| address.ip());
        let scope = match ban.by {
            BanBy::Address => address.map(BanScope::address),
            BanBy::Name => Some(BanScope::Name { key: who.key.clone(), role: who.role }),
            BanBy::Both => Some(BanScope::both(address, who.key.clone(), who.role)),
        };
        scopes.extend(scope.filter(|scope| !scopes.contains(scope)));
    }
    scopes.into_iter().map(|scope| house.bans.add(scope, reason, house.now(), ban.lasts)).collect()
}

impl Handler<RedirectClients> for Control {
    type Result = ResponseFuture<usize>;

    fn handle(&mut self, asked: RedirectClients, ctx: &mut Self::Context) -> Self::Result {
        let (eyes, control) = (Eyes::of(self), ctx.address());
        Box::pin(async move {
            let clients = eyes.find(&asked.select).await;
            let count = eyes.order(&clients, &Order::GoTo { name: asked.to.as_str().into() }).await;
            let Author { from, via } = &asked.author;
            let to = asked.to.split('?').next().unwrap_or_default();
            info!(severity = "notice", from, via, select = %asked.select, to, count, "control: redirect");
            control.do_send(Changed);
            count
        })
    }
}

impl Handler<ListBans> for Control {
    type Result = MessageResult<ListBans>;

    fn handle(&mut self, _: ListBans, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.house.bans.list(self.house.now()))
    }
}

impl Handler<AddBan> for Control {
    type Result = Result<Ban, TooManyBans>;

    fn handle(&mut self, asked: AddBan, _: &mut Self::Context) -> Self::Result {
        let ban = self.house.bans.add(asked.scope, &asked.reason, self.house.now(), asked.lasts)?;
        let Author { from, via } = &asked.author;
        info!(severity = "notice", from, via, ban = ban.id, scope = %ban.scope, seconds = asked.lasts.as_secs(), "control: ban");
        Ok(ban)
    }
}

impl Handler<LiftBan> for Control {
    type Result = bool;

    fn handle(&mut self, LiftBan { id, author }: LiftBan, _: &mut Self::Context) -> bool {
        let lifted = self.house.bans.lift(id);
        let Author { from, via } = &author;
        let scope = lifted.as_ref().map_or_else(|| "there is no such ban".to_owned(), |ban| ban.scope.to_string());
        info!(severity = "notice", from, via, ban = id, scope, "control: ban lifted");
        lifted.is_some()
    }
}

impl Handler<StartRelay> for Control {
    type Result = ResponseFuture<Result<RelayAdded, RelayRefused>>;

    fn handle(&mut self, asked: StartRelay, ctx: &mut Self::Context) -> Self::Result {
        let (relays, control) = (self.house.desks.relays.clone(), ctx.address());
        Box::pin(async move {
            let StartRelay { key, direction, url, author: Author { from, via } } = asked;
            let relays = relays.ok_or(RelayRefused::Ending)?;
            let add = AddRelay { key: key.clone(), direction, url };
            let added = relays.send(add).await.unwrap_or(Err(RelayRefused::Ending))?;
            let (relay, to, is_new) = (added.relay.id, &added.relay.url, added.is_new);
            info!(severity = "notice", from, via, relay, %direction, stream = %key, to, is_new, "control: relay added");
            control.do_send(Changed);
            Ok(added)
        })
    }
}

impl Handler<StopRelay> for Control {
    type Result = ResponseFuture<bool>;

    fn handle(&mut self, StopRelay { id, author }: StopRelay, ctx: &mut Self::Context) -> Self::Result {
        let (relays, control) = (self.house.desks.relays.clone(), ctx.address());
        Box::pin(async move {
            let Some(relays) = relays else { return false };
            let is_over = relays.send(RemoveRelay { id }).await.unwrap_or_default();
            let Author { from, via } = &author;
            info!(severity = "notice", from, via, relay = id, was_there = is_over, "control: relay removed");
            control.do_send(Changed);
            is_over
        })
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.role.map_or("client", ClientRole::name))?;
        for (what, value) in [("srv", &self.server), ("app", &self.app), ("name", &self.name)] {
            if let Some(value) = value {
                write!(f, " {what}={value}")?;
            }
        }
        self.address.iter().try_for_each(|address| write!(f, " addr={address}"))?;
        self.id.iter().try_for_each(|id| write!(f, " clientid={id}"))
    }
}

/// What a client is told that nobody gave a reason for.
const DEFAULT_REASON: &str = "dropped by the operator";

/// Looking takes a tenth of the time at the most, however many ask.
const DUTY: u32 = 10;

/// What is older than this is no answer any more.
const LONGEST_KEPT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        actors::{
            live_stream::StreamEvents,
            router::Router,
            support::{
                census::Census,
                directory::Directory,
                output::Output,
                roll::{self, Enrolled, Tap},
                socket::Writes,
            },
        },
        config::{BuiltIn, Config},
        log::access::AccessLogFiles,
    };

    /// A client that writes down its orders.
    struct Session(Arc<std::sync::Mutex<Vec<String>>>);
    impl Actor for Session {
        type Context = Context<Self>;
    }
    impl Handler<Order> for Session {
        type Result = ();
        fn handle(&mut self, order: Order, _: &mut Self::Context) {
            self.0.lock().expect("no test panics here").push(format!("{order:?}"));
        }
    }

    struct Scene {
        control: Addr<Control>,
        house: Arc<House>,
        orders: Arc<std::sync::Mutex<Vec<String>>>,
        enrolled: Vec<Enrolled>,
    }

    impl Scene {
        fn new() -> Self {
            let config = Config::built_in(BuiltIn::default());
            let (directory, (alive, _)) = (Directory::default(), oneshot::channel());
            let router = Router::new(config.limits.clone(), directory.clone(), StreamEvents::default(), alive).start();
            let logs = AccessLogFiles::open(&Config { servers: Vec::new(), http: None, ..config.clone() }, None)
                .expect("there is nothing to open")
                .start()
                .expect("there is nothing to start");
            let census = Census::new(config.limits.clone(), 100);
            let house = Arc::new(House::new(router, census, directory, &config, &logs, 1));
            let control = Control::new(Arc::clone(&house), vec![Steward::new(0).start()], None).start();
            Self { control, house, orders: Arc::default(), enrolled: Vec::new() }
        }

        fn enter(&mut self, id: u64, role: ClientRole, name: &str, address: [u8; 4]) {
            let who = Who {
                id,
                role,
                protocol: "rtmp",
                key: StreamKey::parse("default", "live", name).expect("a good name"),
                address: Some((address, 1000).into()),
                agent: String::new(),
                page_url: String::new(),
                swf_url: String::new(),
                tc_url: String::new(),
                connected: Duration::ZERO,
                began: Duration::ZERO,
                is_relay: false,
            };
            let output = std::rc::Rc::new(std::cell::RefCell::new(Output::new(Writes::closed())));
            let session = Session(Arc::clone(&self.orders)).start();
            self.enrolled.push(roll::enter(who, Tap::Output(output), session.recipient()));
        }

        async fn look(&self) -> Arc<Snapshot> {
            self.control.send(Look).await.expect("it lives")
        }

        async fn drop_them(&self, select: Selection, ban: Option<BanOrder>) -> Vec<u64> {
            let reason = "enough".to_owned();
            let asked = DropClients { select, ban, reason, author: Author::default() };
            let dropped = self.control.send(asked).await.expect("it lives").expect("there is room");
            dropped.clients.iter().map(|who| who.id).collect()
        }
    }

    #[actix::test]
    async fn however_many_ask_it_looks_once() {
        tokio::time::pause();
        let mut scene = Scene::new();
        // More than one step of the walk.
        (1..=200).for_each(|id| scene.enter(id, ClientRole::Player, "x", [192, 0, 2, 1]));
        let all = join_all((0..50).map(|_| scene.look())).await;
        let different: BTreeSet<_> = all.iter().map(Arc::as_ptr).collect();
        assert_eq!((different.len(), all[0].clients.len()), (1, 200));
        let ids: Vec<u64> = all[0].clients.iter().map(|client| client.who.id).collect();
        assert_eq!(ids, (1..=200).rev().collect::<Vec<_>>(), "the newest first");
        let before = scene.look().await;
        scene.drop_them(Selection { id: Some(7), ..Selection::default() }, None).await;
        let after = scene.look().await;
        assert!(!Arc::ptr_eq(&before, &after), "what was changed is looked at again");
    }

    #[actix::test]
    async fn those_who_are_meant_get_the_order_and_nobody_else() {
        let mut scene = Scene::new();
        scene.enter(1, ClientRole::Publisher, "x", [192, 0, 2, 1]);
        scene.enter(2, ClientRole::Player, "x", [192, 0, 2, 1]);
        scene.enter(3, ClientRole::Player, "y", [192, 0, 2, 2]);
        let players = Selection { role: Some(ClientRole::Player), ..Selection::default() };
        for (select, expected) in [
            (Selection { name: Some("x".into()), ..players.clone() }, vec![2]),
            (Selection { address: Some([192, 0, 2, 1].into()), ..Selection::default() }, vec![1, 2]),
            (Selection { address: "::ffff:192.0.2.2".parse().ok(), ..Selection::default() }, vec![3]),
            (Selection { app: Some("other".into()), ..Selection::default() }, vec![]),
            (Selection { server: Some("default".into()), ..players }, vec![2, 3]),
        ] {
            scene.orders.lock().expect("no test panics here").clear();
            assert_eq!(scene.drop_them(select.clone(), None).await, expected, "{select}");
            // The orders have been given; each session takes its own in its turn.
            tokio::task::yield_now().await;
            let orders = scene.orders.lock().expect("no test panics here");
            assert_eq!(*orders, vec!["Leave { reason: \"enough\" }"; expected.len()], "{select}");
        }
        scene.enrolled.clear();
        assert!(scene.drop_them(Selection::default(), None).await.is_empty(), "all have left");
    }

    #[actix::test]
    async fn one_ban_is_made_of_many_who_are_the_same() {
        let mut scene = Scene::new();
        (1..=20).for_each(|id| scene.enter(id, ClientRole::Player, "x", [192, 0, 2, 1]));
        scene.enter(21, ClientRole::Player, "x", [192, 0, 2, 2]);
        let ban = |by| Some(BanOrder { lasts: Duration::from_secs(60), by });
        scene.drop_them(Selection::default(), ban(BanBy::Both)).await;
        let bans = scene.control.send(ListBans).await.expect("it lives");
        assert_eq!(bans.len(), 2, "{bans:?}");
        let key = StreamKey::parse("default", "live", "x").expect("a good name");
        let check = |role| scene.house.bans.check(role, Some([192, 0, 2, 1].into()), &key, scene.house.now());
        assert!(check(ClientRole::Player).is_err() && check(ClientRole::Publisher).is_ok());
        for ban in bans {
            let lift = LiftBan { id: ban.id, author: Author::default() };
            assert!(scene.control.send(lift).await.expect("it lives"));
        }
        assert!(check(ClientRole::Player).is_ok());
    }
}
