//! How a relay reaches its far end: its name is resolved when it is used, its addresses are judged and tried in turn.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};

use super::targets::{OwnListens, Target, TargetError, Trust};

/// A connection that stands.
pub struct Dialed {
    /// To be registered with the reactor of the arbiter that uses it.
    pub socket: std::net::TcpStream,
    pub peer: SocketAddr,
    /// Where TLS is spoken.
    pub tls: Option<Box<rustls::Connection>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("the name \"{0}\" cannot be resolved: {1}")]
    Name(String, io::Error),
    #[error("the name \"{0}\" is not resolved within {1:?}")]
    NameTime(String, Duration),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("{0} does not answer within {1:?}")]
    ConnectTime(SocketAddr, Duration),
    #[error("{0} is this very socket")]
    Itself(SocketAddr),
    #[error("TLS cannot begin: {0}")]
    Tls(String),
}

impl DialError {
    /// Whether it will hardly mend by itself.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Target(_) | Self::Tls(_))
    }
}

/// Connects to the first address that takes us. `turn` says with which of several to begin; each has `patience`, and all
/// together `ADDRESSES_IN_TIME` times that.
pub async fn dial(
    target: &Target,
    server_name: &str,
    trust: &Trust,
    own: &OwnListens,
    turn: usize,
    patience: Duration,
) -> Result<Dialed, DialError> {
    let mut addresses = trust.sift(resolve(&target.host, target.port).await?, own)?;
    let first = turn.checked_rem(addresses.len()).unwrap_or_default();
    addresses.rotate_left(first);
    let mut failed = DialError::Target(TargetError::NoAddress);
    for address in addresses.into_iter().take(ADDRESSES_IN_TIME) {
        match connect(address, patience).await {
            Ok(socket) => {
                let tls = if target.scheme.is_tls() { Some(start_tls(server_name).await?) } else { None };
                return Ok(Dialed { socket, peer: address, tls });
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let late = || DialError::NameTime(host.to_owned(), LOOK_UP_TIME);
    let name = (host.to_owned(), port);
    // Each look-up holds a thread for as long as the system's resolver likes, and its turn with it: also once nobody waits.
    let found = async {
        let turn = LOOK_UPS.acquire().await;
        let found = tokio::spawn(async move {
            let found = lookup_host(name).await.map(Iterator::collect);
            drop(turn);
            found
        });
        found.await.unwrap_or_else(|gone| Err(io::Error::other(gone)))
    };
    let found = timeout(LOOK_UP_TIME, found).await.map_err(|_| late())?;
    found.map_err(|error| DialError::Name(host.to_owned(), error))
}

async fn connect(address: SocketAddr, patience: Duration) -> Result<std::net::TcpStream, DialError> {
    let failed = |error| DialError::Connect(address, error);
    let socket = match timeout(patience, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(DialError::ConnectTime(address, patience)),
    };
    // The kernel may connect a socket to itself, where nobody listens on a port it gives out.
    if socket.local_addr().is_ok_and(|local| local == address) {
        return Err(DialError::Itself(address));
    }
    // Small words of the dialogue must not wait for acknowledgements.
    socket.set_nodelay(true).and_then(|()| socket.into_std()).map_err(failed)
}

/// Checks certificates with the roots of the system, or with those of `SSL_CERT_FILE`.
async fn start_tls(server_name: &str) -> Result<Box<rustls::Connection>, DialError> {
    let failed = |error: &dyn ToString| DialError::Tls(error.to_string());
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| failed(&error))?;
    // The first one reads the roots from files.
    let config = spawn_blocking(|| TLS.get_or_init(tls_config).clone()).await.map_err(|error| failed(&error))?;
    let client = config.and_then(|config| ClientConnection::new(config, name)).map_err(|error| failed(&error))?;
    Ok(Box::new(rustls::Connection::Client(client)))
}

fn tls_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_platform_verifier()?.with_no_client_auth()))
}

/// Names being looked up at the same time.
static LOOK_UPS: Semaphore = Semaphore::const_new(16);

static TLS: OnceLock<Result<Arc<ClientConfig>, rustls::Error>> = OnceLock::new();

const LOOK_UP_TIME: Duration = Duration::from_secs(5);

/// Addresses that one attempt tries; the next one begins with another.
const ADDRESSES_IN_TIME: usize = 4;
