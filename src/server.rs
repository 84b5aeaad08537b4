//! Runs the server: bind, start, wait, finish in order.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use actix::prelude::*;
use futures_util::future::select_all;
use nix::unistd::{Gid, Uid};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::{
    sync::{oneshot, watch},
    time::{interval, timeout},
};
use tracing::{info, warn};

use crate::{
    actors::{
        children::{Children, FinishChildren},
        control::Control,
        hooks::{FinishHooks, Hooks, StopAsking},
        house::{Desks, House},
        listener::{BoundSocket, CloseAll, Listener, ReloadCertificates, StopAccepting},
        live_stream::StreamEvents,
        oclp::{FinishOclp, Oclp},
        outputs::{FinishOutputs, Outputs},
        port::Port,
        relays::{FinishRelays, Relays},
        router::Router,
        steward::Steward,
        support::{
            census::Census,
            directory::Directory,
            pace::paced_arbiter,
            targets::OwnListens,
            tls::{TlsAcceptor, TlsError},
            viewers::Viewers,
        },
        sweeper::Sweeper,
    },
    config::{Config, Endpoint, Listen, ListenAddress, api::Api},
    http::{
        self, Site,
        api::{Keys, guard::Token},
        server::{HttpPort, Running, Serves},
    },
    log::Logs,
    process::{Signal, Signals},
};

/// All sockets of a configuration, bound and listening, and the certificates behind them.
pub struct Bound {
    ports: Vec<(Port, BoundSocket)>,
    http: Vec<(HttpPort, BoundSocket)>,
    api: Option<(Keys, Vec<(HttpPort, BoundSocket)>)>,
    /// Files of unix sockets, to be removed at the end.
    files: Vec<SocketFile>,
    pub warnings: Vec<String>,
}

/// What the API of a start needs beyond its configuration.
pub struct ApiStart {
    pub token: Token,
    /// None: there is no control socket.
    pub socket: Option<PathBuf>,
    /// False: its usual place, where that of another livemill may be.
    pub is_socket_written: bool,
    /// To whom the socket is to belong, where that is somebody else.
    pub owner: Option<(Uid, Gid)>,
}

/// The file of a unix socket, and which one it is: another server may have put its own in this place.
struct SocketFile {
    path: PathBuf,
    number: Option<u64>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), number: Self::number(path) }
    }

    fn number(path: &Path) -> Option<u64> {
        std::fs::symlink_metadata(path).ok().map(|file| file.ino())
    }

    fn remove(self) {
        if self.number.is_some() && Self::number(&self.path) == self.number {
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// Why the server could not start, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("bind() to {address} failed ({source})")]
    Bind { address: String, source: io::Error },
    #[error("nothing to listen on")]
    Nothing,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start a worker: {0}")]
    Arbiters(io::Error),
    #[error("the {0} failed by a bug in livemill")]
    Failed(&'static str),
}

/// Binds every address of the configuration, so that what is wrong shows before anything else happens.
///
/// The two wildcards of the built-in configuration are one wish: where the machine has no IPv6, IPv4 alone will do.
pub fn bind(config: &Config, api: Option<ApiStart>) -> Result<Bound, ServerError> {
    let mut bound = Bound { ports: Vec::new(), http: Vec::new(), api: None, files: Vec::new(), warnings: Vec::new() };
    for endpoint in config.endpoints() {
        let tls = load_tls(&endpoint)?;
        let is_first = bound.ports.is_empty();
        if let Some(socket) = bound.listen(&endpoint.listen, is_first)? {
            bound.ports.push((Port { endpoint, tls }, socket));
        }
    }
    for endpoint in config.http.iter().flat_map(|http| http.endpoints()) {
        let is_first = bound.http.is_empty();
        let port = HttpPort::new(endpoint)?;
        if let Some(socket) = bound.listen(&port.endpoint.listen, is_first)? {
            bound.http.push((port, socket));
        }
    }
    if bound.ports.is_empty() && bound.http.is_empty() {
        return Err(ServerError::Nothing);
    }
    if let (Some(api), Some(start)) = (&config.api, api) {
        bound.bind_api(api, start)?;
    }
    Ok(bound)
}

/// Loads every certificate of the configuration, to see whether a start would.
pub fn try_certificates(config: &Config) -> Result<(), TlsError> {
    config.endpoints().iter().try_for_each(|endpoint| load_tls(endpoint).map(drop))?;
    let http = config.http.iter().flat_map(|http| http.endpoints());
    let api = config.api.iter().flat_map(|api| api.endpoints(None));
    http.chain(api).map(HttpPort::new).try_for_each(|port| port.map(drop))
}

impl Bound {
    /// None: an IPv6 wildcard on a machine without IPv6, where something else listens already.
    fn listen(&mut self, wanted: &Listen, is_first: bool) -> Result<Option<BoundSocket>, ServerError> {
        let address = wanted.address.to_string();
        match listen(wanted) {
            Ok(socket) => {
                if let ListenAddress::Unix(path) = &wanted.address {
                    self.files.push(SocketFile::new(path));
                }
                Ok(Some(socket))
            }
            Err(source) if is_missing_ipv6(wanted, &source) && !is_first => {
                self.warnings.push(format!("{address} is left out: this machine has no IPv6 ({source})"));
                Ok(None)
            }
            Err(source) => Err(ServerError::Bind { address, source }),
        }
    }

    /// What nobody wrote is left out where it cannot be had: another livemill runs here.
    fn bind_api(&mut self, api: &Api, start: ApiStart) -> Result<(), ServerError> {
        let mut ports = Vec::new();
        for endpoint in api.endpoints(start.socket.as_deref()) {
            let port = HttpPort::new(endpoint)?;
            let wanted = &port.endpoint.listen;
            let (is_written, bound) = match &wanted.address {
                ListenAddress::Tcp(_) => (api.is_listen_written, listen(wanted)),
                ListenAddress::Unix(path) => (start.is_socket_written, listen_control(wanted, path, start.owner)),
            };
            let address = wanted.address.to_string();
            match bound {
                Ok(socket) => {
                    if let ListenAddress::Unix(path) = &wanted.address {
                        self.files.push(SocketFile::new(path));
                    }
                    ports.push((port, socket));
                }
                Err(source) if is_written => return Err(ServerError::Bind { address, source }),
                Err(source) => self.warnings.push(format!(
                    "the API does not listen on {address} ({source}); api_listen and api_socket choose other places"
                )),
            }
        }
        let keys = Keys { token: start.token, hosts: api.hosts.clone() };
        self.api = Some((keys, ports)).filter(|(_, ports)| !ports.is_empty());
        Ok(())
    }

    /// What listens, as addresses to show; ports that the system chose are filled in.
    pub fn addresses(&self) -> Vec<String> {
        self.ports
            .iter()
            .map(|(port, socket)| match socket {
                BoundSocket::Tcp(listener) => {
                    listener.local_addr().map_or_else(|_| port.to_string(), |address| address.to_string())
                }
                BoundSocket::Unix(_) => port.to_string(),
            })
            .collect()
    }
}

/// Runs until a signal ends it. To be called on the main thread, after the process is what it is to be.
///
/// `max_connections` is what the process can carry at the most.
pub fn run(config: &Config, bound: Bound, logs: &Logs, max_connections: u64) -> Result<(), ServerError> {
    let Bound { ports, http, api, files, .. } = bound;
    let ended = System::new().block_on(serve(config, ports, http, api, logs, max_connections));
    files.into_iter().for_each(SocketFile::remove);
    ended
}

async fn serve(
    config: &Config,
    ports: Vec<(Port, BoundSocket)>,
    http: Vec<(HttpPort, BoundSocket)>,
    api: Option<(Keys, Vec<(HttpPort, BoundSocket)>)>,
    logs: &Logs,
    max_connections: u64,
) -> Result<(), ServerError> {
    let mut signals = Signals::listen().map_err(ServerError::Signals)?;
    info!(severity = "notice", version = env!("CARGO_PKG_VERSION"), "started");
    let arbiters = start_arbiters(config).map_err(ServerError::Arbiters)?;
    for arbiter in &arbiters {
        arbiter.spawn(give_memory_back());
    }
    let aside = start_aside().map_err(ServerError::Arbiters)?;
    let directory = Directory::default();
    let (router_alive, router_gone) = oneshot::channel();
    // Each of the two knows the other.
    let outputs = Context::<Outputs>::new();
    let (mut hooks, mut relays) = (Context::<Hooks>::new(), Context::<Relays>::new());
    let (mut children, mut oclp) = (Context::<Children>::new(), Context::<Oclp>::new());
    let desks_gone = [gone(&mut hooks), gone(&mut relays), gone(&mut children), gone(&mut oclp)];
    let events = StreamEvents::to([
        outputs.address().recipient(),
        hooks.address().recipient(),
        oclp.address().recipient(),
        relays.address().recipient(),
        children.address().recipient(),
    ]);
    let router = Router::new(config.limits.clone(), directory.clone(), events, router_alive).start();
    let census = Census::new(config.limits.clone(), config.limits.max_connections.unwrap_or(max_connections));
    let house = House::new(router, census, directory, config, &logs.access, arbiters.len() as u32);
    let desks =
        Desks { hooks: Some(hooks.address()), relays: Some(relays.address()), children: Some(children.address()) };
    let house = std::sync::Arc::new(house.with_desks(desks));
    let hooks = hooks.run(Hooks::new(std::sync::Arc::clone(&house)));
    let oclp = oclp.run(Oclp::new(std::sync::Arc::clone(&house), &config.oclp_starts));
    let children = children.run(Children::new(std::sync::Arc::clone(&house), config));
    let homes: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
    // No relay that a hook names may come to the API either.
    let api_ports = api.as_ref().map(|(_, ports)| ports.as_slice()).unwrap_or_default();
    let own_listens = std::sync::Arc::new(OwnListens::new([own_http(&http), own_http(api_ports)].concat()));
    let relays = relays.run(Relays::new(house.clone(), config.servers.clone(), homes.clone(), own_listens));
    let outputs = outputs.run(Outputs::new(std::sync::Arc::clone(&house), homes));
    let stewards = arbiters
        .iter()
        .enumerate()
        .map(|(index, arbiter)| Steward::start_in_arbiter(&arbiter.handle(), move |_| Steward::new(index)));
    let stewards = stewards.collect();
    let (control_alive, control_gone) = oneshot::channel();
    let control = Control::start_in_arbiter(&aside.handle(), {
        let (house, outputs) = (std::sync::Arc::clone(&house), outputs.clone());
        move |ctx| {
            hold(control_alive, ctx);
            Control::new(house, stewards, Some(outputs))
        }
    });
    // It lives for as long as it has a timer.
    drop(Sweeper::new(config).map(Sweeper::start));
    let (count, connections) = watch::channel(0);
    let (listener_alive, listener_gone) = oneshot::channel();
    let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
    let site = std::sync::Arc::new(Site {
        house: std::sync::Arc::clone(&house),
        outputs,
        control,
        aside: aside.handle(),
        config: std::sync::Arc::new(config.clone()),
        logs: logs.access.clone(),
        statistics: Default::default(),
    });
    let http = http::server::start(&Serves::Site(std::sync::Arc::clone(&site)), http, &handles);
    // A thread of its own: what is rendered there, and who reads it slowly, costs no stream a frame.
    let api = api.map(|(keys, ports)| {
        http::server::start(&Serves::Api(std::sync::Arc::clone(&site), keys), ports, &[aside.handle()])
    });
    let viewers = house.viewers.clone();
    let listener = Listener::new(house, ports, handles, count, listener_alive).start();

    let mut finish = Finish {
        listener,
        hooks,
        oclp,
        outputs: site.outputs.clone(),
        children,
        relays,
        http,
        api,
        viewers,
        connections,
        patience: config.process.worker_shutdown_timeout,
    };
    let mut gone = Box::pin(async move {
        tokio::select! {
            _ = router_gone => "router",
            _ = listener_gone => "listener",
            _ = control_gone => "desk of control",
            (_, which, _) = select_all(desks_gone) => DESKS.get(which).copied().unwrap_or_default(),
        }
    });
    let outcome = loop {
        tokio::select! {
            who = &mut gone => break Err(ServerError::Failed(who)),
            signal = signals.next() => match signal {
                Signal::Stop => break Ok(()),
                Signal::Quit => {
                    info!(severity = "notice", "gracefully shutting down");
                    tokio::select! {
                        () = finish.gracefully() => {}
                        () = until_stop(&mut signals, logs) => {}
                    }
                    break Ok(());
                }
                Signal::Reopen => {
                    info!(severity = "notice", "reopening logs");
                    logs.reopen();
                }
                Signal::Reload => {
                    warn!("reloading the configuration is not supported yet: it stays as it was; certificates are read again");
                    finish.listener.do_send(ReloadCertificates);
                    finish.http.reload_certificates();
                    finish.api.iter().for_each(Running::reload_certificates);
                }
            },
        }
    };
    info!(severity = "notice", "shutting down");
    finish.now().await;
    for arbiter in arbiters.iter().chain([&aside]) {
        arbiter.stop();
    }
    outcome
}

/// The thread of those who look at the server, so that they cost the others nothing. (Measured on one core with 200 streams and 2000
/// players, everything asked for four times a second: frames as late as without; a lower priority for it changes nothing.)
fn start_aside() -> io::Result<Arbiter> {
    let arbiter = Arbiter::try_new()?;
    arbiter.spawn(give_memory_back());
    Ok(arbiter)
}

/// The threads that do the work. Where somebody asked for low latency, none of them rests.
fn start_arbiters(config: &Config) -> io::Result<Vec<Arbiter>> {
    let mut applications = config.servers.iter().flat_map(|server| &server.applications);
    let hurries = applications.any(|application| application.live_options.low_latency);
    let start = || if hurries { Arbiter::try_new() } else { paced_arbiter() };
    (0..config.process.workers.get()).map(|_| start()).collect()
}

/// Resolves when the actor of this context is no more, however it went.
fn gone<A: Actor<Context = Context<A>>>(context: &mut Context<A>) -> oneshot::Receiver<()> {
    let (alive, gone) = oneshot::channel();
    hold(alive, context);
    gone
}

/// Drops this with the actor of the context.
fn hold<A: Actor<Context = Context<A>>>(alive: oneshot::Sender<()>, context: &mut Context<A>) {
    let held = async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    };
    context.spawn(fut::wrap_future(held));
}

/// The allocator gives memory back to the system when it is called, not when time passes: a server that has become idle
/// would keep what its busiest hour needed. So each thread calls it now and then, for nothing. (Measured: 25 MiB that
/// stayed after a 40 Mbit/s stream with stuck players became 13 MiB.)
async fn give_memory_back() {
    let mut tick = interval(MEMORY_TICK);
    loop {
        tick.tick().await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(UNTOUCHED_BYTES)));
    }
}

/// Waits for the signal that ends a graceful end.
async fn until_stop(signals: &mut Signals, logs: &Logs) {
    loop {
        match signals.next().await {
            Signal::Stop => return,
            Signal::Reopen => logs.reopen(),
            Signal::Quit | Signal::Reload => {}
        }
    }
}

/// How the server ends: actors are asked, and given time, before anything is torn down.
struct Finish {
    listener: Addr<Listener>,
    hooks: Addr<Hooks>,
    oclp: Addr<Oclp>,
    outputs: Addr<Outputs>,
    children: Addr<Children>,
    relays: Addr<Relays>,
    http: Running,
    api: Option<Running>,
    viewers: Viewers,
    connections: watch::Receiver<usize>,
    patience: Option<Duration>,
}

impl Finish {
    /// Takes nobody new and waits until everybody has left, or for as long as the configuration says.
    async fn gracefully(&mut self) {
        let _ = self.listener.send(StopAccepting).await;
        self.http.stop_accepting();
        // The server that comes after this one finds its address free.
        self.api.iter_mut().for_each(Running::stop_accepting);
        let left = async {
            let _ = self.connections.wait_for(|left| *left == 0).await;
            self.http.finished().await;
        };
        match self.patience {
            Some(patience) => {
                if timeout(patience, left).await.is_err() {
                    warn!("worker_shutdown_timeout is over: closing the sessions that are left");
                }
            }
            None => left.await,
        }
    }

    /// Closes everybody and waits a moment for the last words to be read.
    async fn now(&mut self) {
        let _ = self.listener.send(StopAccepting).await;
        // Who waits for a hook's answer would hear nothing else until it came.
        let _ = self.hooks.send(StopAsking).await;
        let _ = self.listener.send(CloseAll).await;
        // Publishers are gone by now, and their pushes with them; pulls are not.
        if timeout(LAST_WORDS, self.relays.send(FinishRelays)).await.is_err() {
            warn!("some relays did not close in time");
        }
        // Answers that never end are ended as whole ones, so that no viewer takes the end for a fault.
        if self.viewers.dismiss("the server is ending", |_| true) > 0 {
            let _ = timeout(VIEWERS_LEAVE, self.viewers.gone()).await;
        }
        self.http.close_all();
        self.api.iter_mut().for_each(Running::close_all);
        let left = async {
            let _ = self.connections.wait_for(|left| *left == 0).await;
            self.http.finished().await;
        };
        if timeout(LAST_WORDS, left).await.is_err() {
            let left = *self.connections.borrow() + self.http.open();
            warn!(left, "some peers did not close in time");
        }
        let files = timeout(LAST_FILES, self.outputs.send(FinishOutputs));
        let children = timeout(LAST_CHILDREN, self.children.send(FinishChildren));
        let (files, children) = tokio::join!(files, children);
        if files.is_err() {
            warn!("the disk did not take the last files in time");
        }
        if children.is_err() {
            warn!("some children of exec did not end in time");
        }
        // Everybody has left by now, so everything that is owed is known.
        let _ = self.oclp.send(FinishOclp).await;
        if timeout(LAST_CALLS, self.hooks.send(FinishHooks)).await.is_err() {
            warn!("not every hook has heard what is over");
        }
    }
}

/// Where HTTP is served: no relay that a hook names may go there.
fn own_http(ports: &[(HttpPort, BoundSocket)]) -> Vec<SocketAddr> {
    let address = |socket: &BoundSocket| match socket {
        BoundSocket::Tcp(listener) => listener.local_addr().ok(),
        BoundSocket::Unix(_) => None,
    };
    ports.iter().filter_map(|(_, socket)| address(socket)).collect()
}

fn load_tls(endpoint: &Endpoint) -> Result<Option<TlsAcceptor>, TlsError> {
    match endpoint.servers().find_map(|server| server.tls.as_ref()) {
        Some(files) if endpoint.listen.ssl => TlsAcceptor::load(files).map(Some),
        _ => Ok(None),
    }
}

fn listen(listen: &Listen) -> io::Result<BoundSocket> {
    match &listen.address {
        ListenAddress::Tcp(address) => listen_tcp(listen, *address),
        ListenAddress::Unix(path) => listen_unix(listen, path),
    }
}

fn listen_tcp(listen: &Listen, address: SocketAddr) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if listen.reuseport {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(listen.ipv6only)?;
    }
    if let Some(size) = listen.rcvbuf {
        socket.set_recv_buffer_size(size)?;
    }
    if let Some(size) = listen.sndbuf {
        socket.set_send_buffer_size(size)?;
    }
    socket.bind(&address.into())?;
    socket.listen(listen.backlog)?;
    socket.set_nonblocking(true)?;
    Ok(BoundSocket::Tcp(socket.into()))
}

fn listen_unix(listen: &Listen, path: &Path) -> io::Result<BoundSocket> {
    let socket = bind_unix(path)?;
    socket.listen(listen.backlog)?;
    socket.set_nonblocking(true)?;
    Ok(BoundSocket::Unix(socket.into()))
}

/// Bound and not listening yet.
fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    if socket.bind(&address).is_err() {
        // A socket file that nobody listens on is what a killed server leaves behind.
        let is_socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
        let is_used = std::os::unix::net::UnixStream::connect(path).is_ok();
        if !is_socket || is_used {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    Ok(socket)
}

/// The control socket: for its owner and his group, from the moment on at which it can be connected to.
fn listen_control(listen: &Listen, path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<BoundSocket> {
    let socket = bind_unix(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(CONTROL_MODE))?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(path, Some(user.as_raw()), Some(group.as_raw()))?;
    }
    socket.listen(listen.backlog)?;
    socket.set_nonblocking(true)?;
    Ok(BoundSocket::Unix(socket.into()))
}

fn is_missing_ipv6(listen: &Listen, error: &io::Error) -> bool {
    let is_v6 = matches!(&listen.address, ListenAddress::Tcp(address) if address.is_ipv6());
    let missing = [nix::errno::Errno::EAFNOSUPPORT, nix::errno::Errno::EADDRNOTAVAIL];
    is_v6 && error.raw_os_error().is_some_and(|code| missing.contains(&nix::errno::Errno::from_raw(code)))
}

/// Those who look after what happens outside, as they are named when one of them fails.
const DESKS: [&str; 4] =
    ["desk of hooks", "supervisor of relays", "desk of children", "desk of the cluster's callbacks"];

/// Who may connect to the control socket; what he may do there is a matter of the token.
const CONTROL_MODE: u32 = 0o660;

const MEMORY_TICK: Duration = Duration::from_secs(1);

/// Large enough to be a matter between the allocator and the system; never touched, so it costs address space only.
const UNTOUCHED_BYTES: usize = 1 << 20;

/// How long viewers over HTTP have to read the end of their answers.
const VIEWERS_LEAVE: Duration = Duration::from_millis(500);

/// How long the end of the process waits for peers to read the last words and close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long it waits for files that are being written.
const LAST_FILES: Duration = Duration::from_secs(3);

/// How long it waits for children of exec, which are killed before that.
const LAST_CHILDREN: Duration = Duration::from_secs(4);
/// How long it waits for hooks to hear what is over.
const LAST_CALLS: Duration = Duration::from_secs(3);
