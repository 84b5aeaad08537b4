//! TLS for HTTP: the certificate that the client's server name asks for.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    actors::support::tls::{TlsError, certified_key},
    config::{Endpoint, TlsFiles, http::HttpServer},
};

/// The TLS side of one listening socket. Shared by all workers.
pub struct HttpTls {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
}

/// The certificates behind one socket, by their files: several servers may share a pair.
struct Certificates {
    endpoint: Endpoint<HttpServer>,
    loaded: RwLock<Vec<(TlsFiles, Arc<CertifiedKey>)>>,
}

impl HttpTls {
    pub fn load(endpoint: &Endpoint<HttpServer>) -> Result<Self, TlsError> {
        let certificates =
            Arc::new(Certificates { endpoint: endpoint.clone(), loaded: RwLock::new(load_all(endpoint)?) });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(&certificates) as _;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Protocol)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Only where it is asked for: HTTP/2 lets one connection cost what a hundred would.
        if endpoint.listen.http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Ok(Self { certificates, config: Arc::new(config) })
    }

    /// Reads the files again. A pair that does not work leaves all old ones in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = load_all(&self.certificates.endpoint)?;
        *self.certificates.loaded.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let server = self.endpoint.server_for(None, hello.server_name());
        let files = server.tls.as_ref().or_else(|| self.endpoint.tls())?;
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().find(|(known, _)| known == files).map(|(_, key)| Arc::clone(key))
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

fn load_all(endpoint: &Endpoint<HttpServer>) -> Result<Vec<(TlsFiles, Arc<CertifiedKey>)>, TlsError> {
    let mut loaded: Vec<(TlsFiles, Arc<CertifiedKey>)> = Vec::new();
    for files in endpoint.servers().filter_map(|server| server.tls.as_ref()) {
        if !loaded.iter().any(|(known, _)| known == files) {
            loaded.push((files.clone(), certified_key(files)?));
        }
    }
    Ok(loaded)
}
