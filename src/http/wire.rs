//! One connection: a socket, TLS around it where it is asked for, and what it counts as.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::BytesMut;
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
    turn: Cell<Turn>,
    /// Who waits for his turn to read.
    reader: Cell<Option<Waker>>,
}

/// Where one request at a time is taken: whose turn it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// The peer's, to say what he wants.
    #[default]
    Head,
    /// His still: what he wants has a body.
    Body,
    /// Ours.
    Answer,
}

/// Gives the library one request at a time. It would take all that a peer sends ahead of its answers, and each request costs fifty
/// times what it took to send. (Measured: 6.8 MB for a thousand on one connection.)
#[derive(Default)]
struct OneAtATime {
    /// Read and not given yet.
    held: BytesMut,
    /// What of the head was seen: whether there is a line, and how long the last one is.
    has_line: bool,
    line: usize,
}

impl OneAtATime {
    /// How many bytes of what is held belong to the head, and whether it ends with them.
    fn head(&mut self, limit: usize) -> (usize, bool) {
        for (at, byte) in self.held.iter().take(limit).enumerate() {
            match byte {
                b'\n' if self.line == 0 && self.has_line => {
                    (self.has_line, self.line) = (false, 0);
                    return (at + 1, true);
                }
                b'\n' => (self.has_line, self.line) = (self.has_line || self.line > 0, 0),
                b'\r' => {}
                _ => self.line += 1,
            }
        }
        (self.held.len().min(limit), false)
    }
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
        if self.unread_since.take().is_some() {
            self.turn(Turn::Head);
        }
    }

    /// The body of the request that came is wanted.
    pub fn wants_body(&self) {
        self.turn(Turn::Body);
    }

    fn turn(&self, turn: Turn) {
        self.turn.set(turn);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
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

/// What is read at a time where requests come one at a time.
const READ_BYTES: usize = 4096;

/// What the server reads from and writes to. Counted until it is dropped.
pub struct Wire {
    socket: Rc<RefCell<Socket>>,
    pub caller: Caller,
    one_at_a_time: Option<OneAtATime>,
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
        Self { socket, caller, one_at_a_time: None, _presence: presence, _open: open }
    }

    /// Nothing of the next request is read before the last one was answered.
    #[must_use]
    pub fn one_at_a_time(self) -> Self {
        Self { one_at_a_time: Some(OneAtATime::default()), ..self }
    }

    fn poll_socket(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = match &mut *self.socket.borrow_mut() {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buffer),
            Socket::Tls(socket) => Pin::new(socket).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            traffic::note_read(buffer.filled().len() - before);
            self.caller.progress.heard();
        }
        polled
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut one) = this.one_at_a_time.take() else { return this.poll_socket(cx, buffer) };
        let polled = this.poll_one(&mut one, cx, buffer);
        this.one_at_a_time = Some(one);
        polled
    }
}

impl Wire {
    fn poll_one(&self, one: &mut OneAtATime, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = &self.caller.progress;
        if progress.turn.get() == Turn::Answer {
            progress.reader.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        if one.held.is_empty() {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(self.poll_socket(cx, &mut read))?;
            one.held.extend_from_slice(read.filled());
        }
        let limit = buffer.remaining();
        let count = match progress.turn.get() {
            Turn::Head => {
                let (count, is_whole) = one.head(limit);
                if is_whole {
                    progress.turn.set(Turn::Answer);
                }
                count
            }
            Turn::Body | Turn::Answer => one.held.len().min(limit),
        };
        buffer.put_slice(&one.held.split_to(count));
        if one.held.is_empty() {
            one.held = BytesMut::new();
        }
        Poll::Ready(Ok(()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(text: &str, limit: usize) -> Vec<String> {
        let mut one = OneAtATime { held: BytesMut::from(text), ..OneAtATime::default() };
        let (mut heads, mut head) = (Vec::new(), String::new());
        while !one.held.is_empty() {
            let (count, is_whole) = one.head(limit);
            head.push_str(std::str::from_utf8(&one.held.split_to(count)).expect("it was text"));
            if is_whole {
                heads.push(std::mem::take(&mut head));
            }
        }
        heads.push(head);
        heads
    }

    #[test]
    fn heads_are_told_apart_however_they_come_and_end() {
        for limit in [1, 2, 7, 1000] {
            assert_eq!(
                heads("GET / H\r\na: b\r\n\r\nGET /2 H\r\n\r\nGE", limit),
                ["GET / H\r\na: b\r\n\r\n", "GET /2 H\r\n\r\n", "GE"]
            );
            assert_eq!(
                heads("GET / H\n\nGET /2 H\n\r\n", limit),
                ["GET / H\n\n", "GET /2 H\n\r\n", ""],
                "as the library reads them"
            );
            assert_eq!(
                heads("\r\n\r\nGET / H\r\n\r\n", limit),
                ["\r\n\r\nGET / H\r\n\r\n", ""],
                "empty lines before it"
            );
        }
    }
}
