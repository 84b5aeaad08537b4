//! Bytes from and to sockets, counted by each thread for itself.

use std::cell::Cell;

/// What this thread has read and written since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
}

thread_local! {
    static TRAFFIC: Cell<Traffic> = const { Cell::new(Traffic { bytes_in: 0, bytes_out: 0 }) };
}

pub fn note_read(bytes: usize) {
    let traffic = TRAFFIC.get();
    TRAFFIC.set(Traffic { bytes_in: traffic.bytes_in + bytes as u64, ..traffic });
}

pub fn note_written(bytes: usize) {
    let traffic = TRAFFIC.get();
    TRAFFIC.set(Traffic { bytes_out: traffic.bytes_out + bytes as u64, ..traffic });
}

/// Of this thread, so far.
pub fn so_far() -> Traffic {
    TRAFFIC.get()
}
