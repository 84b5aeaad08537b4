//! Which streams exist: written by the router, read by whoever looks.

use std::sync::{Arc, atomic::Ordering};

use actix::WeakAddr;
use dashmap::DashMap;

use super::counters::StreamCounters;
use crate::{actors::live_stream::LiveStream, media::key::StreamKey};

/// All streams of the process. A clone is another handle on the same table; no guard leaves this file.
#[derive(Clone, Default)]
pub struct Directory(Arc<DashMap<StreamKey, Entry>>);

/// A stream as others know it. The address is weak: a table of names must not keep a stream alive.
#[derive(Clone)]
pub struct Entry {
    pub stream: WeakAddr<LiveStream>,
    pub counters: Arc<StreamCounters>,
}

impl Directory {
    pub fn find(&self, key: &StreamKey) -> Option<Entry> {
        self.0.get(key).map(|entry| entry.clone())
    }

    pub fn insert(&self, key: StreamKey, entry: Entry) {
        self.0.insert(key, entry);
    }

    /// Forgets the stream with this id; a newer one of the same name stays.
    pub fn remove(&self, key: &StreamKey, id: u64) {
        self.0.remove_if(key, |_, entry| entry.counters.id == id);
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<(StreamKey, Entry)> {
        self.0.iter().map(|entry| (entry.key().clone(), entry.clone())).collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The streams of this server that have a publisher now, in no order.
    pub fn published(&self, vhost: &str) -> Vec<(StreamKey, Arc<StreamCounters>)> {
        let is_meant =
            |key: &StreamKey, entry: &Entry| &*key.vhost == vhost && entry.counters.publishing.load(Ordering::Relaxed);
        let entries = self.0.iter().filter(|entry| is_meant(entry.key(), entry));
        entries.map(|entry| (entry.key().clone(), Arc::clone(&entry.counters))).collect()
    }

    /// Streams that have a publisher now.
    pub fn publishing(&self) -> usize {
        self.0.iter().filter(|entry| entry.counters.publishing.load(Ordering::Relaxed)).count()
    }
}
