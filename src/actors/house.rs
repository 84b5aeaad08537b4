//! What every connection is given: where to ask, what is allowed, and where to write down that it was here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use tokio::time::Instant;

use super::{
    router::Router,
    support::{census::Census, directory::Directory},
};
use crate::{config::Limits, log::access::AccessLogs};

/// Shared by all connections; holds no state of its own but counts.
pub struct House {
    pub router: Addr<Router>,
    pub census: Census,
    pub directory: Directory,
    pub limits: Limits,
    pub access_logs: AccessLogs,
    started: Instant,
    tls_handshakes: AtomicU32,
    max_tls_handshakes: u32,
}

impl House {
    pub fn new(
        router: Addr<Router>,
        census: Census,
        directory: Directory,
        limits: Limits,
        access_logs: AccessLogs,
        arbiters: u32,
    ) -> Self {
        let max_tls_handshakes = limits.max_tls_handshakes.saturating_mul(arbiters);
        Self {
            router,
            census,
            directory,
            limits,
            access_logs,
            started: Instant::now(),
            tls_handshakes: AtomicU32::new(0),
            max_tls_handshakes,
        }
    }

    /// Time since the server started.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn tls_is_crowded(&self) -> bool {
        self.max_tls_handshakes > 0 && self.tls_handshakes.load(Ordering::Relaxed) >= self.max_tls_handshakes
    }
}

/// A TLS handshake in progress: counted until this is dropped.
pub struct TlsHandshake(Arc<House>);

impl TlsHandshake {
    pub fn begin(house: &Arc<House>) -> Self {
        house.tls_handshakes.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(house))
    }
}

impl Drop for TlsHandshake {
    fn drop(&mut self) {
        self.0.tls_handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}
