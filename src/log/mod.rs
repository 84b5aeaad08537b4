//! The two logs: errors for the operator, accesses for the accountant.
//!
//! [`error`] turns `tracing` events into nginx's lines, [`access`] turns finished sessions into lines of a `log_format`.
//! Both hand finished lines to a [`queue`]: bounded, lossy, one writer thread each, so a slow disk or a dead pipe costs
//! lines and never a stream. [`flood`] bounds what one cause may write. [`mod@line`] makes text that a peer chose safe.

pub mod access;
pub mod error;
pub mod flood;
pub mod line;
pub mod queue;

use std::io;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use thiserror::Error;

use crate::config::Config;
use queue::Outlet;

/// Both logs of a running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Logs {
    pub error: error::ErrorLog,
    pub access: access::AccessLogs,
}

impl Logs {
    /// Opens every file anew under its name, as after a rotation (`-s reopen`, USR1).
    pub fn reopen(&self) {
        self.error.reopen();
        self.access.reopen();
    }

    /// Waits for the lines handed over so far, each log no longer than `patience`: for the end of the process.
    pub fn flush(&self, patience: Duration) {
        // Access first: what it has to say about itself goes to the error log.
        self.access.flush(patience);
        self.error.flush(patience);
    }

    /// Lines lost since the start, for the counters.
    pub fn lost(&self) -> u64 {
        self.error.lost() + self.access.lost()
    }
}

/// The files of both logs, open and without threads: what a process holds before it goes to the background.
#[derive(Debug)]
pub struct LogFiles {
    error: error::ErrorLogFiles,
    access: access::AccessLogFiles,
}

impl LogFiles {
    /// Opens everything the configuration names; new files belong to `owner`.
    pub fn open(config: &Config, owner: Option<(Uid, Gid)>) -> Result<Self, LogError> {
        Ok(Self {
            error: error::ErrorLogFiles::open(config, owner)?,
            access: access::AccessLogFiles::open(config, owner)?,
        })
    }

    /// What the operator should read at start.
    pub fn warnings(&self) -> &[String] {
        &self.access.warnings
    }

    /// Whether a log goes to a stream of the terminal, which must stay open then.
    pub fn use_streams(&self) -> bool {
        self.error.outlets().chain(self.access.outlets()).any(|it| matches!(it, Outlet::Stderr | Outlet::Stdout))
    }

    /// Starts the writer threads and makes the error log that of the process.
    pub fn start(self) -> io::Result<Logs> {
        let (layer, error) = self.error.start()?;
        layer.install();
        Ok(Logs { error, access: self.access.start()? })
    }
}

/// Why the logs cannot be opened.
#[derive(Debug, Error)]
pub enum LogError {
    #[error(transparent)]
    Error(#[from] queue::OpenError),
    #[error(transparent)]
    Access(#[from] access::AccessLogError),
}
