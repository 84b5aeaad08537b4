//! One listening address, and what is behind it.

use std::{fmt, io, time::Duration};

use socket2::{SockRef, TcpKeepalive};

use super::support::{socket::RawSocket, tls::TlsAcceptor};
use crate::config::{Endpoint, Keepalive};

/// Shared by the listener and the connections that came in here.
pub struct Port {
    pub endpoint: Endpoint,
    pub tls: Option<TlsAcceptor>,
}

impl Port {
    /// Sets on a new socket what its `listen` and its server ask for.
    pub fn prepare(&self, socket: &RawSocket) -> io::Result<()> {
        let RawSocket::Tcp(socket) = socket else { return Ok(()) };
        let socket = SockRef::from(socket);
        let rtmp = &self.endpoint.server_for(None, None).rtmp;
        // Small replies of the play exchange must not wait for acknowledgements: that costs 40 ms of the first picture.
        socket.set_tcp_nodelay(rtmp.tcp_nodelay)?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        match self.endpoint.listen.so_keepalive {
            Some(asked) => keep_alive(&socket, asked)?,
            None if rtmp.so_keepalive => socket.set_keepalive(true)?,
            None => {}
        }
        Ok(())
    }
}

/// What a `listen` says of `so_keepalive`.
pub fn keep_alive(socket: &SockRef<'_>, asked: Keepalive) -> io::Result<()> {
    let Keepalive::On { idle, interval, count } = asked else { return Ok(()) };
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = idle {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(count) = count {
        keepalive = keepalive.with_retries(count);
    }
    socket.set_keepalive(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

/// The address as the configuration names it, for the log.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.listen.address.fmt(f)
    }
}

/// Data that nobody acknowledges for this long ends a connection: the peer is gone without a word.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
