//! One connection: a socket, TLS around it where it is asked for, and what it counts as.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, interval};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::watch,
};
use tokio_rustls::server::TlsStream;

use super::{outlet::Outlet, server::HttpPort};
use crate::actors::support::{census::Presence, hang_up::HangUp, kernel::Kernel, traffic};

/// A connection as its requests see it.
#[derive(Clone)]
pub struct Caller {
    /// Counts from 1.
    pub id: u64,
    /// None: a unix socket.
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub port: Arc<HttpPort>,
    pub is_tls: bool,
    /// Requests so far, the current one included.
    pub requests: Rc<Cell<u64>>,
    pub hang_up: HangUp,
    pub progress: Rc<Progress>,
    pub outlet: Rc<Outlet>,
    /// Its socket, for as long as it has one.
    pub socket: Weak<RefCell<Socket>>,
}

impl Caller {
    /// What asks the kernel about this connection, from any place on its thread.
    pub fn kernel(&self) -> Rc<dyn Fn() -> Option<Kernel>> {
        let socket = Weak::clone(&self.socket);
        Rc::new(move || match &*socket.upgrade()?.try_borrow().ok()? {
            Socket::Tcp(socket) => Kernel::of(socket),
            Socket::Tls(socket) => Kernel::of(socket.get_ref().0),
            Socket::Unix(_) => None,
        })
    }
}

/// Whether a connection gets anywhere: since when it has sent bytes that made no request and got no answer.
#[derive(Default)]
pub struct Progress {
    /// An answer said `Connection: close`: what comes behind its request is not to be answered.
    pub closes: Cell<bool>,
    unanswered_since: Cell<Option<Instant>>,
    /// Since when the peer has not taken all that it was answered.
    unread_since: Cell<Option<Instant>>,
    last_request: Cell<Option<Instant>>,
}

impl Progress {
    /// A request is whole, or a part of an answer went out.
    pub fn made(&self) {
        self.unanswered_since.set(None);
    }

    /// A request is whole: its sender is somebody who does something.
    pub fn asked(&self) {
        self.made();
        self.last_request.set(Some(Instant::now()));
    }

    pub fn last_request(&self) -> Option<Instant> {
        self.last_request.get()
    }

    fn writing(&self) {
        if self.unread_since.get().is_none() {
            self.unread_since.set(Some(Instant::now()));
        }
    }

    fn all_read(&self) {
        self.unread_since.set(None);
    }

    /// Ends when somebody has taken longer than this to read what he was answered, however little he reads at a time.
    pub async fn too_slow_to_read(&self, patience: Duration) {
        let mut tick = interval((patience / 40).max(SHORTEST_TICK));
        loop {
            tick.tick().await;
            if self.unread_since.get().is_some_and(|since| since.elapsed() >= patience) {
                return;
            }
        }
    }

    fn heard(&self) {
        if self.unanswered_since.get().is_none() {
            self.unanswered_since.set(Some(Instant::now()));
        }
    }

    /// Ends when somebody has taken longer than this to say what he wants. The library looks only at the first request of
    /// a connection.
    pub async fn too_slow(&self, patience: Duration) {
        let mut tick = interval(patience.max(SHORTEST_TICK));
        loop {
            tick.tick().await;
            if self.unanswered_since.get().is_some_and(|since| since.elapsed() >= patience) {
                return;
            }
        }
    }
}

/// A timeout of zero must not become a loop without rest.
const SHORTEST_TICK: Duration = Duration::from_millis(100);

/// What the server reads from and writes to. Counted until it is dropped.
pub struct Wire {
    socket: Rc<RefCell<Socket>>,
    pub caller: Caller,
    /// None: the API, which has a count of its own.
    _presence: Option<Presence>,
    _open: Open,
}

/// The kinds of connections.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One of the connections that are open, for whoever waits for the last one.
pub struct Open(watch::Sender<usize>);

impl Open {
    pub fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Wire {
    pub fn new(socket: Socket, caller: Caller, presence: Option<Presence>, open: Open) -> Self {
        let socket = Rc::new(RefCell::new(socket));
        let caller = Caller { socket: Rc::downgrade(&socket), ..caller };
        Self { socket, caller, _presence: presence, _open: open }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = match &mut *this.socket.borrow_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            traffic::note_read(buffer.filled().len() - before);
            this.caller.progress.heard();
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let behind = this.caller.outlet.rest();
        this.caller.progress.writing();
        let polled = match &mut *this.socket.borrow_mut() {
            // A head and what is behind it go in one write.
            Socket::Tcp(socket) if !behind.is_empty() => {
                Pin::new(socket).poll_write_vectored(cx, &[IoSlice::new(bytes), IoSlice::new(&behind)])
            }
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
            Socket::Tls(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        let Poll::Ready(Ok(written)) = polled else { return polled };
        traffic::note_written(written);
        this.caller.progress.made();
        let first = written.min(bytes.len());
        drop(behind);
        this.caller.outlet.advance(written - first);
        Poll::Ready(Ok(first))
    }

    /// Once the head has gone, what is behind it goes here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.caller.outlet.is_empty() {
            let behind = this.caller.outlet.rest();
            let written = ready!(match &mut *this.socket.borrow_mut() {
                Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, &behind),
                Socket::Unix(socket) => Pin::new(socket).poll_write(cx, &behind),
                Socket::Tls(socket) => Pin::new(socket).poll_write(cx, &behind),
            })?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(behind);
            traffic::note_written(written);
            this.caller.progress.made();
            this.caller.outlet.advance(written);
        }
        ready!(match &mut *this.socket.borrow_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_flush(cx),
        })?;
        this.caller.progress.all_read();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.get_mut().socket.borrow_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
