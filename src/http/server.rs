//! Takes HTTP connections from all listening sockets, and serves them: nginx's site on the workers that serve RTMP, the API on
//! a thread of its own.
//!
//! actix-web answers the requests; the connections are our own, so that one count and one set of limits holds for both
//! protocols, a viewer shares its worker's audience with the RTMP players there, and everything ends in one order.

use std::{
    cell::Cell,
    future::pending,
    io,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use actix::ArbiterHandle;
use actix_http::{HttpService, Protocol};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, map_config};
use actix_web::{App, dev::AppConfig, web};
use futures_util::StreamExt;
use socket2::SockRef;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, error, warn};

use super::{
    Site,
    api::{self, Api, Keys},
    nginx,
    tls::HttpTls,
    wire::{Caller, Open, Socket, Wire},
};
use crate::{
    actors::{
        house::TlsHandshake,
        listener::{Accepted, Accepts, BoundSocket},
        port,
        support::{
            census::Presence,
            hang_up::HangUp,
            socket::RawSocket,
            tls::{TlsError, is_hang_up},
        },
    },
    config::{Endpoint, http::HttpServer},
};

/// One listening address, and the servers behind it.
pub struct HttpPort {
    pub endpoint: Endpoint<HttpServer>,
    pub tls: Option<HttpTls>,
}

impl HttpPort {
    /// Reads the certificates that the address needs.
    pub fn new(endpoint: Endpoint<HttpServer>) -> Result<Self, TlsError> {
        let tls = endpoint.listen.ssl.then(|| HttpTls::load(&endpoint)).transpose()?;
        Ok(Self { endpoint, tls })
    }
}

/// What is served behind a set of sockets.
#[derive(Clone)]
pub enum Serves {
    Site(Arc<Site>),
    Api(Arc<Site>, Keys),
}

impl Serves {
    fn site(&self) -> &Arc<Site> {
        let (Self::Site(site) | Self::Api(site, _)) = self;
        site
    }

    /// None: there is nothing to serve.
    fn timeouts(&self) -> Option<Timeouts> {
        match self {
            Self::Site(site) => site.config.http.as_ref().map(|http| Timeouts {
                keepalive: http.keepalive_timeout,
                header: http.client_header_timeout,
                reading: None,
            }),
            Self::Api(..) => {
                Some(Timeouts { keepalive: API_KEEPALIVE, header: API_HEADER, reading: Some(API_READING) })
            }
        }
    }
}

/// How long a connection may take.
#[derive(Clone, Copy)]
struct Timeouts {
    keepalive: Duration,
    header: Duration,
    /// For the whole of an answer; None: as long as it gets on.
    reading: Option<Duration>,
}

/// HTTP while it runs.
pub struct Running {
    ports: Vec<Arc<HttpPort>>,
    accepting: Vec<JoinHandle<()>>,
    phase: watch::Sender<Phase>,
    open: watch::Receiver<usize>,
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// Answers are finished, nothing new is begun.
    Ending,
    /// Everybody out.
    Closing,
}

/// Starts serving on these sockets. To be called in the System's own thread; requests run on the arbiters.
pub fn start(serves: &Serves, bound: Vec<(HttpPort, BoundSocket)>, arbiters: &[ArbiterHandle]) -> Running {
    let (phase, phases) = watch::channel(Phase::Serving);
    let (open, count) = watch::channel(0);
    let workers: Vec<mpsc::Sender<Arrival>> = arbiters
        .iter()
        .filter(|_| !bound.is_empty())
        .map(|arbiter| {
            let (arrivals, waiting) = mpsc::channel(MAX_ARRIVALS);
            let (serves, phase) = (serves.clone(), phases.clone());
            // False: the arbiter is gone, and with it the process.
            let _ = arbiter.spawn_fn(move || {
                tokio::task::spawn_local(work(serves, waiting, phase));
            });
            arrivals
        })
        .collect();
    let mut running = Running { ports: Vec::new(), accepting: Vec::new(), phase, open: count };
    let door = Rc::new(Door { serves: serves.clone(), workers, refused: Cell::new(0), open });
    for (at, (port, socket)) in bound.into_iter().enumerate() {
        let port = Arc::new(port);
        running.ports.push(Arc::clone(&port));
        let tls = port.tls.is_some().then(|| Arc::clone(&serves.site().house));
        match Accepts::new(socket, at, tls) {
            Ok(mut accepts) => {
                let door = Rc::clone(&door);
                running.accepting.push(tokio::task::spawn_local(async move {
                    while let Some(accepted) = accepts.next().await {
                        door.welcome(&port, accepted).await;
                    }
                }));
            }
            Err(error) => error!(%error, "cannot watch a listening socket"),
        }
    }
    running
}

impl Running {
    /// Takes no more connections, and closes those that wait for another request; answers go on.
    pub fn stop_accepting(&mut self) {
        for accepting in self.accepting.drain(..) {
            accepting.abort();
        }
        self.advance(Phase::Ending);
    }

    /// Closes everybody.
    pub fn close_all(&mut self) {
        self.stop_accepting();
        self.advance(Phase::Closing);
    }

    /// Waits for the last connection to go.
    pub async fn finished(&mut self) {
        // The other end is gone when nobody is left to count.
        let _ = self.open.wait_for(|open| *open == 0).await;
    }

    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Reads certificates and keys again.
    pub fn reload_certificates(&self) {
        for tls in self.ports.iter().filter_map(|port| port.tls.as_ref()) {
            match tls.reload() {
                Ok(()) => tracing::info!("certificates of HTTP read again"),
                Err(error) => error!(%error, "the old certificate stays in use"),
            }
        }
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = to > *phase;
            *phase = to.max(*phase);
            is_later
        });
    }
}

/// Lets connections in and deals them to the workers in turn.
struct Door {
    serves: Serves,
    workers: Vec<mpsc::Sender<Arrival>>,
    refused: Cell<u64>,
    open: watch::Sender<usize>,
}

/// A connection on its way to its worker.
struct Arrival {
    id: u64,
    accepted: Accepted,
    port: Arc<HttpPort>,
    presence: Option<Presence>,
    open: Open,
}

impl Door {
    async fn welcome(&self, port: &Arc<HttpPort>, accepted: Accepted) {
        let house = &self.serves.site().house;
        let address = accepted.peer.map(|peer| peer.ip());
        // Who looks after the server gets in also when it is full.
        let is_counted = matches!(self.serves, Serves::Site(_));
        let presence = match is_counted.then(|| house.census.admit(address, house.now())).transpose() {
            Ok(presence) => presence,
            Err(crowded) => {
                self.refused.set(self.refused.get().saturating_add(1));
                let refused = self.refused.get();
                warn!(client = ?accepted.peer, reason = crowded.label(), refused, "limit: {crowded}");
                return;
            }
        };
        if let Err(error) = prepare(port, &accepted.socket) {
            debug!(client = ?accepted.peer, %error, "a new connection was gone before it was served");
            return;
        }
        let id = house.next_connection();
        let open = Open::new(&self.open);
        let arrival = Arrival { id, accepted, port: Arc::clone(port), presence, open };
        let worker = usize::try_from(id).unwrap_or_default().checked_rem(self.workers.len());
        if let Some(worker) = worker.and_then(|at| self.workers.get(at)) {
            // A worker that is busy holds up the door: the rest waits in the kernel's backlog.
            let _ = worker.send(arrival).await;
        }
    }
}

/// Sets on a new socket what its `listen` asks for.
fn prepare(port: &HttpPort, socket: &RawSocket) -> io::Result<()> {
    let RawSocket::Tcp(socket) = socket else { return Ok(()) };
    let socket = SockRef::from(socket);
    // Frames and parts are written when they are whole: nothing is gained by waiting for more.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(asked) = port.endpoint.listen.so_keepalive {
        port::keep_alive(&socket, asked)?;
    }
    Ok(())
}

/// One worker: makes its own actix-web application, and serves connections with it until nobody brings more.
async fn work(serves: Serves, mut arrivals: mpsc::Receiver<Arrival>, phase: watch::Receiver<Phase>) {
    let Some(timeouts) = serves.timeouts() else { return };
    let site = Arc::clone(serves.site());
    let mut seats = None;
    let app = App::new();
    let app = match serves {
        Serves::Site(site) => app.app_data(web::Data::from(site)).default_service(web::to(nginx::serve)),
        Serves::Api(site, keys) => {
            let api = Rc::new(Api::new(site, keys));
            seats = Some(Rc::clone(&api.seats));
            app.app_data(api).default_service(web::to(api::serve))
        }
    };
    let ending = phase.clone();
    let service = HttpService::build()
        .keep_alive(timeouts.keepalive)
        .client_request_timeout(timeouts.header)
        .client_disconnect_timeout(LAST_WORDS)
        // Whoever closes its side has left: a viewer who waits for a publisher would never be missed otherwise.
        .h1_allow_half_closed(false)
        .h1_write_buffer_size(WRITE_BUFFER_BYTES)
        .graceful_shutdown_signal(move || {
            let mut phase = ending.clone();
            async move {
                let _ = phase.wait_for(|phase| *phase >= Phase::Ending).await;
            }
        })
        .on_connect_ext(|wire: &Wire, extensions| {
            extensions.insert(wire.caller.clone());
        })
        .finish(map_config(app.into_factory().map_err(|error: actix_web::Error| error.error_response()), |()| {
            AppConfig::default()
        }));
    let Ok(service) = service.new_service(()).await else {
        error!("HTTP does not start on a worker, by a bug in livemill");
        return;
    };
    let service = Rc::new(service);
    while let Some(arrival) = arrivals.recv().await {
        let seats = seats.clone();
        let (service, mut phase, house) = (Rc::clone(&service), phase.clone(), Arc::clone(&site.house));
        tokio::task::spawn_local(async move {
            let serve = async move {
                let patience = house.limits.tls_handshake_timeout;
                let handshake = arrival.port.tls.is_some().then(|| TlsHandshake::begin(&house));
                let connected = timeout(patience, connect(arrival)).await;
                drop(handshake);
                match connected {
                    Ok(Ok((wire, protocol))) => {
                        let wire = if seats.is_some() { wire.one_at_a_time() } else { wire };
                        let (peer, hang_up) = (wire.caller.peer, wire.caller.hang_up.clone());
                        let progress = Rc::clone(&wire.caller.progress);
                        let _seat = seats.as_ref().map(|seats| seats.take(&wire.caller));
                        let reading = async {
                            match timeouts.reading {
                                Some(patience) => progress.too_slow_to_read(patience).await,
                                None => pending().await,
                            }
                        };
                        tokio::select! {
                            served = service.call((wire, protocol, peer)) => if let Err(error) = served {
                                debug!(client = ?peer, %error, "a connection ended early");
                            },
                            () = hang_up.asked() => {}
                            () = reading => debug!(client = ?peer, "an answer was not read in time"),
                            () = progress.too_slow(timeouts.header) => debug!(client = ?peer, "a request took too long"),
                        }
                    }
                    Ok(Err(error)) if is_hang_up(&error) => {}
                    Ok(Err(error)) => debug!(%error, "a connection failed before its first request"),
                    Err(_) => debug!("a TLS handshake took too long"),
                }
            };
            tokio::select! {
                () = serve => {}
                _ = phase.wait_for(|phase| *phase == Phase::Closing) => {}
            }
        });
    }
}

/// Registers a socket with this worker, and shakes hands where TLS is asked for.
async fn connect(arrival: Arrival) -> io::Result<(Wire, Protocol)> {
    let Arrival { id, accepted, port, presence, open } = arrival;
    let mut local = None;
    let mut protocol = Protocol::Http1;
    let socket = match accepted.socket {
        RawSocket::Unix(socket) => Socket::Unix(UnixStream::from_std(socket)?),
        RawSocket::Tcp(socket) => {
            local = socket.local_addr().ok();
            let socket = TcpStream::from_std(socket)?;
            match &port.tls {
                None => Socket::Tcp(socket),
                Some(tls) => {
                    let socket = tls.acceptor().accept(socket).await?;
                    if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
                        protocol = Protocol::Http2;
                    }
                    Socket::Tls(Box::new(socket))
                }
            }
        }
    };
    let is_tls = port.tls.is_some();
    let caller = Caller {
        id,
        peer: accepted.peer,
        local,
        port,
        is_tls,
        requests: Rc::default(),
        hang_up: HangUp::default(),
        progress: Rc::default(),
        outlet: Rc::default(),
        socket: Weak::new(),
    };
    Ok((Wire::new(socket, caller, presence, open), protocol))
}

/// The API's: a request is short and so is what is read of it.
const API_HEADER: Duration = Duration::from_secs(5);
const API_KEEPALIVE: Duration = Duration::from_secs(60);

/// An answer of the API is taken within this time, or its connection is closed.
const API_READING: Duration = Duration::from_secs(10);

/// Connections that may wait for one worker.
const MAX_ARRIVALS: usize = 256;

/// Data that nobody acknowledges for this long ends a connection: the peer is gone without a word.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer is asked for more while less than this waits to be written: it is in memory for each viewer.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;

/// How long a closing connection waits for its peer to read the last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
