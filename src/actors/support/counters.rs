//! What a stream counts.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// What a stream counts while it runs. Read at any time by anybody, written by the stream alone.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Tells this stream from another one of the same name before or after it.
    pub id: u64,
    pub publishing: AtomicBool,
    pub players: AtomicU32,
    pub bytes_in: AtomicU64,
    pub packets_in: AtomicU64,
    /// Messages nobody could read, and tracks nobody asked for.
    pub refused_messages: AtomicU64,
    pub other_tracks: AtomicU64,
    /// Batches that found a subscriber's mailbox full.
    pub missed_deliveries: AtomicU64,
    /// How often the publisher's clock jumped.
    pub jumps: AtomicU64,
}
