//! Takes connections from all listening sockets, lets in those there is room for, and spreads them over the arbiters.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use actix::prelude::*;
use futures_util::Stream;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    time::{Sleep, sleep},
};
use tracing::{error, warn};

use super::{
    connection::{Arrival, Connection, Finish},
    house::House,
    port::Port,
    support::{
        link::{ExitReason, Exited, Link},
        socket::RawSocket,
    },
};

pub struct Listener {
    house: Arc<House>,
    ports: Vec<Arc<Port>>,
    sockets: Vec<BoundSocket>,
    accepting: Vec<SpawnHandle>,
    arbiters: Vec<ArbiterHandle>,
    next_arbiter: usize,
    connections: HashMap<u64, Addr<Connection>>,
    /// How many connections there are, for whoever waits for the last one.
    count: watch::Sender<usize>,
    refused: u64,
    /// Dropped with the listener: whoever holds the other end learns that it is gone.
    _alive: tokio::sync::oneshot::Sender<()>,
}

/// A socket that listens already.
#[derive(Debug)]
pub enum BoundSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Take no more connections; those that are there go on.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopAccepting;

/// Everybody out: the sessions that are left are closed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseAll;

/// Read certificates and keys again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ReloadCertificates;

impl Listener {
    pub fn new(
        house: Arc<House>,
        bound: Vec<(Port, BoundSocket)>,
        arbiters: Vec<ArbiterHandle>,
        count: watch::Sender<usize>,
        alive: tokio::sync::oneshot::Sender<()>,
    ) -> Self {
        let (ports, sockets): (Vec<_>, Vec<_>) =
            bound.into_iter().map(|(port, socket)| (Arc::new(port), socket)).unzip();
        Self {
            house,
            ports,
            sockets,
            accepting: Vec::new(),
            arbiters,
            next_arbiter: 0,
            connections: HashMap::new(),
            count,
            refused: 0,
            _alive: alive,
        }
    }

    fn welcome(&mut self, port: usize, socket: RawSocket, peer: Option<SocketAddr>, ctx: &mut Context<Self>) {
        let Some(port) = self.ports.get(port).map(Arc::clone) else { return };
        // A proxy stands for many clients: they are counted by their own address once it is known.
        let counted = if port.endpoint.listen.proxy_protocol { None } else { peer.map(|peer| peer.ip()) };
        let presence = match self.house.census.admit(counted, self.house.now()) {
            Ok(presence) => presence,
            Err(crowded) => {
                self.refused += 1;
                warn!(client = ?peer, reason = crowded.label(), refused = self.refused, "limit: {crowded}");
                return;
            }
        };
        if let Err(error) = port.prepare(&socket) {
            warn!(client = ?peer, %error, "a new connection was gone before it was served");
            return;
        }
        let id = self.house.next_connection();
        self.house.note_accepted();
        let arrival = Arrival {
            id,
            socket,
            peer,
            port,
            presence,
            link: Link::new(id, ctx.address().recipient()),
            house: Arc::clone(&self.house),
        };
        let arbiter = &self.arbiters[self.next_arbiter % self.arbiters.len()];
        self.next_arbiter = self.next_arbiter.wrapping_add(1);
        self.connections.insert(id, Connection::open(arrival, arbiter));
        self.count.send_replace(self.connections.len());
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for (port, socket) in std::mem::take(&mut self.sockets).into_iter().enumerate() {
            let tls = self.ports[port].tls.is_some().then(|| Arc::clone(&self.house));
            match Accepts::new(socket, port, tls) {
                Ok(accepts) => self.accepting.push(ctx.add_stream(accepts)),
                Err(error) => error!(%error, "cannot watch a listening socket"),
            }
        }
        ctx.run_interval(SWEEP, |listener, _| listener.house.census.sweep(listener.house.now()));
    }
}

impl StreamHandler<Accepted> for Listener {
    fn handle(&mut self, Accepted { port, socket, peer }: Accepted, ctx: &mut Self::Context) {
        self.welcome(port, socket, peer, ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {
        // One listening socket less is no reason to end the others.
    }
}

impl Handler<Exited> for Listener {
    type Result = ();

    fn handle(&mut self, Exited { id, reason }: Exited, _: &mut Self::Context) {
        self.connections.remove(&id);
        self.count.send_replace(self.connections.len());
        if reason == ExitReason::Panicked {
            error!(connection = id, "a connection failed by a bug in livemill and was closed");
        }
    }
}

impl Handler<StopAccepting> for Listener {
    type Result = ();

    fn handle(&mut self, _: StopAccepting, ctx: &mut Self::Context) {
        for accepting in self.accepting.drain(..) {
            ctx.cancel_future(accepting);
        }
    }
}

impl Handler<CloseAll> for Listener {
    type Result = ();

    fn handle(&mut self, _: CloseAll, _: &mut Self::Context) {
        for connection in self.connections.values() {
            // Once for each connection, at the end of the process: rare by nature, and it must not fail.
            connection.do_send(Finish);
        }
    }
}

impl Handler<ReloadCertificates> for Listener {
    type Result = ();

    fn handle(&mut self, _: ReloadCertificates, _: &mut Self::Context) {
        for tls in self.ports.iter().filter_map(|port| port.tls.as_ref()) {
            match tls.reload() {
                Ok(()) => tracing::info!(certificate = %tls.certificate().display(), "certificate read again"),
                Err(error) => error!(%error, "the old certificate stays in use"),
            }
        }
    }
}

/// A connection that was taken from a listening socket.
pub struct Accepted {
    pub port: usize,
    pub socket: RawSocket,
    pub peer: Option<SocketAddr>,
}

/// The connections of one listening socket, as a stream. Accepted sockets are handed out unregistered, since they are
/// going to live on another thread's reactor.
pub struct Accepts {
    socket: Watched,
    port: usize,
    /// Set while there is no file or memory left for another connection.
    pause: Option<Pin<Box<Sleep>>>,
    /// For TLS: where handshakes in progress are counted.
    tls: Option<Arc<House>>,
}

impl Accepts {
    /// `tls`: where handshakes in progress are counted, for a socket whose connections begin with one.
    pub fn new(socket: BoundSocket, port: usize, tls: Option<Arc<House>>) -> io::Result<Self> {
        let socket = match socket {
            BoundSocket::Tcp(socket) => Watched::Tcp(TcpListener::from_std(socket)?),
            BoundSocket::Unix(socket) => Watched::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Self { socket, port, pause: None, tls })
    }

    fn pause(&mut self, time: Duration) {
        self.pause = Some(Box::pin(sleep(time)));
    }
}

impl Stream for Accepts {
    type Item = Accepted;

    fn poll_next(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Option<Accepted>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(task));
                this.pause = None;
            }
            if this.tls.as_ref().is_some_and(|house| house.tls_is_crowded()) {
                // The rest waits in the backlog: those who are shaking hands come first.
                this.pause(TLS_PAUSE);
                continue;
            }
            match ready!(this.socket.poll_accept(task)) {
                Ok((socket, peer)) => return Poll::Ready(Some(Accepted { port: this.port, socket, peer })),
                Err(error) if is_exhausted(&error) => {
                    warn!(%error, "no room for new connections, trying again shortly");
                    this.pause(EXHAUSTED_PAUSE);
                }
                // The peer left between its SYN and now, or a signal came: the next one may be fine.
                Err(_) => {}
            }
        }
    }
}

/// A listening socket on this thread's reactor.
enum Watched {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Watched {
    fn poll_accept(&self, task: &mut Task<'_>) -> Poll<io::Result<(RawSocket, Option<SocketAddr>)>> {
        Poll::Ready(match self {
            Self::Tcp(listener) => ready!(listener.poll_accept(task))
                .and_then(|(socket, peer)| Ok((RawSocket::Tcp(socket.into_std()?), Some(peer)))),
            Self::Unix(listener) => ready!(listener.poll_accept(task))
                .and_then(|(socket, _)| Ok((RawSocket::Unix(socket.into_std()?), None))),
        })
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.contains(&Errno::from_raw(code)))
}

/// How long to wait when there are no files left: long enough not to burn a core, short enough not to be noticed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

const TLS_PAUSE: Duration = Duration::from_millis(10);

/// How often addresses that left are forgotten.
const SWEEP: Duration = Duration::from_secs(60);
