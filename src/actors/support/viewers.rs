//! Who watches over HTTP: entered by the viewers, read by whoever looks for them or ends them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use actix::prelude::*;
use dashmap::DashMap;
use tokio::sync::watch;

use super::counters::Protocol;
use crate::{actors::viewer::Dismiss, media::key::StreamKey};

/// All viewers of the process whose answer never ends. A clone is another handle on the same table; no guard leaves this
/// file.
#[derive(Clone, Default)]
pub struct Viewers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    next: AtomicU64,
    table: DashMap<u64, Entry>,
    count: watch::Sender<usize>,
}

/// A viewer as others know it.
#[derive(Clone)]
pub struct Entry {
    pub key: StreamKey,
    pub protocol: Protocol,
    pub remote: Option<SocketAddr>,
    pub to: Recipient<Dismiss>,
}

/// A viewer that is in the table until this is dropped.
pub struct Entered {
    viewers: Viewers,
    id: u64,
}

impl Viewers {
    pub fn enter(&self, entry: Entry) -> Entered {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.table.insert(id, entry);
        self.0.count.send_modify(|count| *count += 1);
        Entered { viewers: self.clone(), id }
    }

    /// Ends those that `is_meant` says, and tells how many they were.
    pub fn dismiss(&self, reason: &'static str, is_meant: impl Fn(&Entry) -> bool) -> usize {
        let meant: Vec<_> = self.0.table.iter().filter(|entry| is_meant(entry)).map(|entry| entry.to.clone()).collect();
        for viewer in &meant {
            // Once in the life of each, and it must not get lost.
            viewer.do_send(Dismiss { reason });
        }
        meant.len()
    }

    pub fn len(&self) -> usize {
        *self.0.count.borrow()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for the last one to go.
    pub async fn gone(&self) {
        // The other end is ours.
        let _ = self.0.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.viewers.0.table.remove(&self.id);
        self.viewers.0.count.send_modify(|count| *count = count.saturating_sub(1));
    }
}
