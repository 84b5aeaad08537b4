//! `livemill health`: asks a running server for a handshake, so that a container needs no other tool to know that it lives.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{Config, Listen, ListenAddress, RTMP_PORT};

/// Where to ask, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub address: ListenAddress,
    /// The listener expects a PROXY header first.
    pub proxy_protocol: bool,
    /// Only the connection is tried: a certificate says nothing about the server's health.
    pub tls: bool,
}

impl Target {
    /// The server of a start without a configuration.
    pub fn standard() -> Self {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), RTMP_PORT);
        Self { address: ListenAddress::Tcp(address), proxy_protocol: false, tls: false }
    }

    /// `--address HOST:PORT`; the port may be left out.
    pub fn named(text: &str) -> Result<Self, HealthError> {
        let found = text.to_socket_addrs().or_else(|_| (text, RTMP_PORT).to_socket_addrs());
        let address = found.ok().and_then(|mut all| all.next());
        let address = address.ok_or_else(|| HealthError::BadAddress(text.to_owned()))?;
        Ok(Self { address: ListenAddress::Tcp(address), proxy_protocol: false, tls: false })
    }

    /// The listener of a configuration that is the simplest to ask: plain before TLS, without a PROXY header before with.
    pub fn of(config: &Config) -> Option<Self> {
        let listens = config.servers.iter().flat_map(|server| &server.listens);
        listens.min_by_key(|listen| (listen.ssl, listen.proxy_protocol)).map(Self::of_listen)
    }

    fn of_listen(listen: &Listen) -> Self {
        let address = match &listen.address {
            ListenAddress::Tcp(tcp) if tcp.ip().is_unspecified() => {
                let loopback: IpAddr =
                    if tcp.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                ListenAddress::Tcp(SocketAddr::new(loopback, tcp.port()))
            }
            other => other.clone(),
        };
        Self { address, proxy_protocol: listen.proxy_protocol, tls: listen.ssl }
    }

    /// Connects and shakes hands; an answer in time is health.
    pub fn ask(&self, patience: Duration) -> Result<(), HealthError> {
        let deadline = Instant::now() + patience;
        match &self.address {
            ListenAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, patience)?;
                stream.set_write_timeout(Some(patience))?;
                self.talk(&stream, deadline, |left| stream.set_read_timeout(Some(left)))
            }
            ListenAddress::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(patience))?;
                self.talk(&stream, deadline, |left| stream.set_read_timeout(Some(left)))
            }
        }
    }

    fn talk<S>(
        &self,
        mut stream: S,
        deadline: Instant,
        wait_at_most: impl Fn(Duration) -> io::Result<()>,
    ) -> Result<(), HealthError>
    where
        S: Read + Write,
    {
        if self.tls {
            return Ok(());
        }
        let mut hello = Vec::with_capacity(PROXY_UNKNOWN.len() + 1 + HANDSHAKE_BYTES);
        if self.proxy_protocol {
            hello.extend_from_slice(PROXY_UNKNOWN);
        }
        // C0, then C1 with zero time and version: the simple handshake, which asks for no randomness.
        hello.push(RTMP_VERSION);
        hello.resize(hello.len() + HANDSHAKE_BYTES, 0);
        stream.write_all(&hello)?;
        // S0, S1 and S2.
        let mut answer = [0; 1 + 2 * HANDSHAKE_BYTES];
        let mut filled = 0;
        while let Some(rest) = answer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HealthError::NoAnswer);
            }
            wait_at_most(left)?;
            match stream.read(rest) {
                Ok(0) => return Err(HealthError::Closed),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if answer[0] != RTMP_VERSION {
                return Err(HealthError::NotRtmp);
            }
        }
        // C2 echoes S1, so that the server sees a whole handshake and then a close, not an error.
        stream.write_all(answer.get(1..=HANDSHAKE_BYTES).unwrap_or_default())?;
        Ok(())
    }
}

/// Why the server does not count as healthy.
#[derive(Debug, Error)]
pub enum HealthError {
    #[error("\"{0}\" is no address: HOST:PORT is")]
    BadAddress(String),
    #[error("the server closed the connection during the handshake")]
    Closed,
    #[error("no answer in time")]
    NoAnswer,
    #[error("the answer is not RTMP")]
    NotRtmp,
    #[error("{}", explain(.0))]
    Io(#[from] io::Error),
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => crate::log::queue::describe(error),
    }
}

/// Long enough for a busy machine, shorter than a container engine waits.
pub const PATIENCE: Duration = Duration::from_secs(5);
const RTMP_VERSION: u8 = 3;
const HANDSHAKE_BYTES: usize = 1536;
const PROXY_UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\n";

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::config::BuiltIn;

    /// Asks a server that reads `expected` bytes, answers and then reads C2.
    fn ask(answer: Vec<u8>, expected: usize, proxy_protocol: bool) -> (Result<(), HealthError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = vec![0; expected];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&answer).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut hello);
            hello
        });
        let result = Target { address, proxy_protocol, tls: false }.ask(PATIENCE);
        (result, server.join().unwrap())
    }

    fn handshake() -> Vec<u8> {
        let mut answer = vec![3];
        answer.extend_from_slice(&[7; HANDSHAKE_BYTES]);
        answer.extend_from_slice(&[0; HANDSHAKE_BYTES]);
        answer
    }

    #[test]
    fn a_server_that_shakes_hands_is_healthy() {
        let (result, received) = ask(handshake(), 1 + HANDSHAKE_BYTES, false);
        result.unwrap();
        assert_eq!(received.len(), 1 + 2 * HANDSHAKE_BYTES);
        assert!(received[1 + HANDSHAKE_BYTES..].iter().all(|&byte| byte == 7), "C2 echoes S1");
    }

    #[test]
    fn a_proxy_header_comes_first_where_it_is_expected() {
        let (result, received) = ask(handshake(), PROXY_UNKNOWN.len() + 1 + HANDSHAKE_BYTES, true);
        result.unwrap();
        assert!(received.starts_with(b"PROXY UNKNOWN\r\n\x03"));
    }

    #[test]
    fn a_server_of_another_kind_is_not_healthy() {
        let (result, _) = ask(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), 1, false);
        assert!(matches!(result, Err(HealthError::NotRtmp)), "{result:?}");
    }

    #[test]
    fn a_server_that_hangs_up_is_not_healthy() {
        let (result, _) = ask(vec![3], 1 + HANDSHAKE_BYTES, false);
        assert!(matches!(result, Err(HealthError::Closed)), "{result:?}");
    }

    #[test]
    fn a_server_that_says_nothing_is_not_healthy() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ListenAddress::Tcp(listener.local_addr().unwrap());
        let target = Target { address, proxy_protocol: false, tls: false };
        let error = target.ask(Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.to_string(), "no answer in time");
    }

    #[test]
    fn the_address_comes_from_the_configuration() {
        let mut config = Config::built_in(BuiltIn { port: 19_350, ..BuiltIn::default() });
        assert_eq!(Target::of(&config).unwrap().address.to_string(), "127.0.0.1:19350");
        let server = Arc::get_mut(&mut config.servers[0]).unwrap();
        server.listens[0].ssl = true;
        assert_eq!(Target::of(&config).unwrap().address.to_string(), "[::1]:19350");
        config.servers.clear();
        assert_eq!(Target::of(&config), None);
    }

    #[test]
    fn an_address_may_leave_out_the_port() {
        assert_eq!(Target::named("127.0.0.1").unwrap().address.to_string(), "127.0.0.1:1935");
        assert_eq!(Target::named("[::1]:2000").unwrap().address.to_string(), "[::1]:2000");
        assert!(Target::named("no such host:x").is_err());
    }
}
