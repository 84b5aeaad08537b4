//! A connected socket, plain or TLS, as an actor uses it: a stream of reads, and writes that are tried at once.

use std::{
    cell::RefCell,
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    os::fd::BorrowedFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use nix::sys::sendfile::sendfile;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{TcpStream, UnixStream, tcp, unix},
};

use super::{kernel::Kernel, traffic, wakeup};

/// Turns an accepted or connected socket of the standard library into its two halves on this thread's reactor.
pub fn split(raw: RawSocket) -> io::Result<(Reads, Writes)> {
    Ok(match raw {
        RawSocket::Tcp(stream) => {
            let (read, write) = TcpStream::from_std(stream)?.into_split();
            (Reads { half: ReadHalf::Tcp(read) }, Writes { half: WriteHalf::Tcp(write), tls: None })
        }
        RawSocket::Unix(stream) => {
            let (read, write) = UnixStream::from_std(stream)?.into_split();
            (Reads { half: ReadHalf::Unix(read) }, Writes { half: WriteHalf::Unix(write), tls: None })
        }
    })
}

/// A socket between threads: it must be registered anew with the reactor of the arbiter it arrives at.
#[derive(Debug)]
pub enum RawSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// What one read brought.
#[derive(Debug)]
pub enum Arrived {
    /// So many bytes lie at the start of the thread's scratch buffer: see [`with_scratch`].
    Bytes(usize),
    /// The peer closed its side.
    End,
    Failed(io::Error),
}

/// The reading half as a stream of [`Arrived`]. It owns no buffer: whoever handles an item finds the bytes in the
/// thread's scratch buffer and must take them before anything else on this thread reads. An idle socket costs nothing.
pub struct Reads {
    half: ReadHalf,
}

impl Stream for Reads {
    type Item = Arrived;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Arrived>> {
        let half = &mut self.get_mut().half;
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let polled = match half {
                ReadHalf::Tcp(half) => Pin::new(half).poll_read(task, &mut buffer),
                ReadHalf::Unix(half) => Pin::new(half).poll_read(task, &mut buffer),
                ReadHalf::Done => return Poll::Ready(None),
            };
            let arrived = match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Arrived::End,
                Poll::Ready(Ok(())) => {
                    traffic::note_read(buffer.filled().len());
                    Arrived::Bytes(buffer.filled().len())
                }
                Poll::Ready(Err(error)) => Arrived::Failed(error),
            };
            if !matches!(arrived, Arrived::Bytes(_)) {
                *half = ReadHalf::Done;
            }
            Poll::Ready(Some(arrived))
        })
    }
}

/// Gives access to the bytes that the last [`Arrived::Bytes`] of this thread spoke of.
pub fn with_scratch<R>(len: usize, take: impl FnOnce(&[u8]) -> R) -> R {
    SCRATCH.with_borrow(|scratch| take(&scratch[..len]))
}

/// The writing half, and the TLS state where there is one.
pub struct Writes {
    half: WriteHalf,
    tls: Option<Box<rustls::Connection>>,
}

impl Writes {
    /// For a connection that never came to be: nothing can be written.
    pub fn closed() -> Self {
        Self { half: WriteHalf::Closed, tls: None }
    }

    /// From here on the socket speaks TLS.
    pub fn start_tls(&mut self, connection: rustls::Connection) {
        self.tls = Some(Box::new(connection));
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Writes what the socket takes now. `WouldBlock` means: wait for [`Writes::poll_writable`].
    pub fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.half.try_write(slices) };
        flush_tls(tls, &self.half)?;
        let taken = tls.writer().write_vectored(slices)?;
        match flush_tls(tls, &self.half) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ if taken == 0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(taken),
        }
    }

    /// Hands the beginning of a file to a plain socket of the network; `None`: it must be written.
    pub fn try_lend(&self, file: BorrowedFd<'_>, len: usize) -> Option<io::Result<usize>> {
        let (WriteHalf::Tcp(half), None) = (&self.half, &self.tls) else { return None };
        let half: &TcpStream = half.as_ref();
        let lend = || Ok(sendfile(half, file, Some(&mut 0), len)?);
        Some(half.try_io(Interest::WRITABLE, lend).inspect(|lent| traffic::note_written(*lent)))
    }

    /// Writes what TLS itself has to say (handshake, alerts); `WouldBlock` as above.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush_tls(tls, &self.half),
            None => Ok(()),
        }
    }

    /// Whether TLS holds bytes that the socket has not taken.
    pub fn wants_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Feeds bytes from the wire and hands on what they mean: themselves on a plain socket, else what they decrypt to.
    pub fn decrypt<E>(
        &mut self,
        wire: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), ReadError<E>> {
        let Some(tls) = &mut self.tls else { return take(wire).map_err(ReadError::Taker) };
        let mut wire = wire;
        let mut plain = [0; PLAIN_BYTES];
        while !wire.is_empty() {
            tls.read_tls(&mut wire).map_err(ReadError::Socket)?;
            let state = tls.process_new_packets().map_err(|error| {
                // The alert that tells the peer why; it may not get there, and then nothing is lost.
                let _ = flush_tls(tls, &self.half);
                ReadError::Tls(error)
            })?;
            let mut left = state.plaintext_bytes_to_read();
            while left > 0 {
                let read = tls.reader().read(&mut plain).map_err(ReadError::Socket)?;
                take(&plain[..read]).map_err(ReadError::Taker)?;
                left -= read;
            }
        }
        Ok(())
    }

    /// Says goodbye where the protocol has a word for it.
    pub fn close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = flush_tls(tls, &self.half);
        }
    }

    /// Ready when the socket takes bytes again.
    pub fn poll_writable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.half {
            WriteHalf::Tcp(half) => half.as_ref().poll_write_ready(task),
            WriteHalf::Unix(half) => half.as_ref().poll_write_ready(task),
            WriteHalf::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Closing throws away what the peer has not read, and tells it so.
    pub fn reset_on_close(&self) {
        // A socket that refuses is closed the slow way.
        let _ = match &self.half {
            WriteHalf::Tcp(half) => SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO)),
            WriteHalf::Unix(_) | WriteHalf::Closed => Ok(()),
        };
    }

    /// Lets acknowledgements wait a little, for more to acknowledge. The kernel forgets this from time to time, so it is
    /// said again with each read.
    pub fn acknowledge_lazily(&self) {
        if let WriteHalf::Tcp(half) = &self.half {
            // Where it is not known, every read is acknowledged at once, as ever.
            let _ = SockRef::from(half.as_ref()).set_tcp_quickack(false);
        }
    }

    /// How many bytes must have arrived before the reading half is woken. The end of the stream always wakes it.
    pub fn wake_at(&self, bytes: u32) {
        if let (WriteHalf::Tcp(half), None) = (&self.half, &self.tls) {
            wakeup::set_threshold(half.as_ref(), bytes);
        }
    }

    /// What the kernel knows of the connection. None: it is no TCP.
    pub fn kernel(&self) -> Option<Kernel> {
        match &self.half {
            WriteHalf::Tcp(half) => {
                let half: &TcpStream = half.as_ref();
                Kernel::of(half)
            }
            WriteHalf::Unix(_) | WriteHalf::Closed => None,
        }
    }

    /// Closes our side: the peer reads what was written, then the end.
    pub fn shut_down(&self) -> io::Result<()> {
        match &self.half {
            WriteHalf::Tcp(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            WriteHalf::Unix(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            WriteHalf::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// What can go wrong between the wire and who takes the bytes.
#[derive(Debug)]
pub enum ReadError<E> {
    Socket(io::Error),
    Tls(rustls::Error),
    Taker(E),
}

enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Done,
}

enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Closed,
}

impl WriteHalf {
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match (self, slices) {
            (Self::Tcp(half), [one]) => half.try_write(one),
            (Self::Tcp(half), _) => half.try_write_vectored(slices),
            (Self::Unix(half), [one]) => half.try_write(one),
            (Self::Unix(half), _) => half.try_write_vectored(slices),
            (Self::Closed, _) => Err(io::ErrorKind::BrokenPipe.into()),
        };
        written.inspect(|written| traffic::note_written(*written))
    }
}

fn flush_tls(tls: &mut rustls::Connection, half: &WriteHalf) -> io::Result<()> {
    struct Wire<'a>(&'a WriteHalf);
    impl Write for Wire<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.try_write(&[IoSlice::new(bytes)])
        }
        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            self.0.try_write(slices)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    while tls.wants_write() {
        tls.write_tls(&mut Wire(half))?;
    }
    Ok(())
}

/// One read brings at most this much; a thread has one such buffer whatever the number of its connections.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Decrypted bytes are handed on in pieces of this size.
const PLAIN_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}
