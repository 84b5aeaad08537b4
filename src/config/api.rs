//! Where livemill's own API listens, and what opens it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hosts;
use super::http::{Handler, HttpServer, Location, Pattern, ServerTokens, Settings};
use super::{Endpoint, Listen, ListenAddress, TlsFiles};

/// The API of a start. Its token is no part of it: that is in a file of its own, or in the environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    /// Addresses; none: the socket alone.
    pub listens: Vec<Listen>,
    /// False: the default, which another livemill may have already.
    pub is_listen_written: bool,
    pub socket: ApiSocket,
    /// None: a file in the state folder.
    pub token_file: Option<PathBuf>,
    /// Names that requests may come under besides those of the loopback and the addresses.
    pub hosts: Vec<String>,
    pub tls: Option<TlsFiles>,
}

/// Where the control socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiSocket {
    Off,
    /// In the folder of the service manager, or in the state folder: decided at start.
    Usual,
    At(PathBuf),
}

impl Default for Api {
    fn default() -> Self {
        Self::at_port(API_PORT, false)
    }
}

impl Api {
    /// On the loopback; port 0 is none.
    pub fn at_port(port: u16, is_written: bool) -> Self {
        let address = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self {
            listens: (port > 0).then(|| Listen::new(address)).into_iter().collect(),
            is_listen_written: is_written,
            socket: ApiSocket::Usual,
            token_file: None,
            hosts: Vec::new(),
            tls: None,
        }
    }

    /// The sockets to bind, as HTTP knows them; `socket` is where the control socket is to be.
    pub fn endpoints(&self, socket: Option<&Path>) -> Vec<Endpoint<HttpServer>> {
        let socket = socket.map(|path| Listen::new(ListenAddress::Unix(path.to_owned())));
        // What a client does not read waits with us, where it is counted, and not in the kernel.
        let bounded = |listen: Listen| Listen { sndbuf: Some(SEND_BUFFER_BYTES), ..listen };
        let outermost = Location {
            pattern: Pattern::Server,
            settings: Settings { server_tokens: ServerTokens::Off, ..Settings::default() },
            answer: None,
            try_files: None,
            handler: Handler::Files,
            is_internal: false,
            locations: Vec::new(),
        };
        let server = HttpServer {
            index: 0,
            names: Vec::new(),
            name: String::new(),
            listens: self.listens.iter().cloned().chain(socket).map(bounded).collect(),
            tls: self.tls.clone(),
            merge_slashes: false,
            outermost: Arc::new(outermost),
        };
        hosts::endpoints(&[Arc::new(server)])
    }
}

/// Where the API listens unless told otherwise.
pub const API_PORT: u16 = 9935;

/// For each connection. The kernel doubles it.
const SEND_BUFFER_BYTES: usize = 64 << 10;
