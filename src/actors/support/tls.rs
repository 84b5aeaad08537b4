//! TLS for listening sockets: certificate and key, read at start and again when asked.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::config::TlsFiles;

/// Makes the TLS side of accepted connections. Shared by all arbiters.
pub struct TlsAcceptor {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

/// What is wrong with a certificate or its key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot load certificate \"{}\": {error}", path.display())]
    Certificate { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("no certificate in \"{}\"", path.display())]
    NoCertificate { path: PathBuf },
    #[error("cannot load certificate key \"{}\": {error}", path.display())]
    Key { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("TLS cannot be set up: {0}")]
    Protocol(rustls::Error),
    #[error("certificate \"{}\" and key \"{}\" do not work: {error}", files.certificate.display(), files.key.display())]
    Pair { files: TlsFiles, error: rustls::Error },
}

impl TlsAcceptor {
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { files: files.clone(), current: RwLock::new(read(files)?) })
    }

    /// Reads the files again. A pair that does not work leaves the old one in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The TLS state of one new connection.
    pub fn accept(&self) -> Result<rustls::Connection, rustls::Error> {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        ServerConnection::new(config).map(rustls::Connection::Server)
    }

    pub fn certificate(&self) -> &Path {
        &self.files.certificate
    }
}

/// Reads a certificate with its key, for whoever chooses between several.
pub fn certified_key(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = read_pair(files)?;
    let pair = |error| TlsError::Pair { files: files.clone(), error };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider.key_provider.load_private_key(key).map_err(pair)?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        // A kind of key that cannot be compared may be right.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(Arc::new(certified)),
        Err(error) => Err(pair(error)),
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = read_pair(files)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map(Arc::new)
        .map_err(|error| TlsError::Pair { files: files.clone(), error })
}

fn read_pair(files: &TlsFiles) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certificate = |error| TlsError::Certificate { path: files.certificate.clone(), error };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(certificate)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: files.certificate.clone() });
    }
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Key { path: files.key.clone(), error })?;
    Ok((chain, key))
}

/// Whether a socket error is the peer's leaving rather than a fault.
pub fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::TimedOut
            | io::ErrorKind::NotConnected
    )
}
