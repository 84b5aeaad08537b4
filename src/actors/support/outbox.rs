//! What is on its way into one socket: written at once if the socket takes it, else kept in order until it does.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf, Bytes};

use super::{bulk::Bulk, socket::Writes};

/// Bytes that have left the queue and may not be dropped any more: a message once begun must be finished.
#[derive(Debug, Default)]
pub struct Outbox {
    parts: VecDeque<Bytes>,
    bytes: usize,
    written: u64,
}

impl Outbox {
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.parts.push_back(bytes);
        }
    }

    /// Writes bytes that need not wait behind others: for an empty outbox. Only what the socket does not take is kept.
    pub fn write_through(&mut self, bytes: &Bytes, bulk: &mut Bulk, socket: &mut Writes) -> io::Result<Progress> {
        let lent = bulk.file(bytes).and_then(|file| socket.try_lend(file, bytes.len()));
        let taken = match lent.unwrap_or_else(|| socket.try_write(&[IoSlice::new(bytes)])) {
            Ok(taken) => taken,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.written += taken as u64;
        if taken == bytes.len() {
            return Ok(Progress::Done);
        }
        self.push(bytes.slice(taken..));
        Ok(Progress::Blocked)
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes more only while it holds less than one good write's worth: what waits in the queue can still be dropped.
    pub fn has_room(&self) -> bool {
        self.bytes < WRITE_BYTES && self.parts.len() < WRITE_PARTS
    }

    /// Bytes that wait here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes the socket has taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes until empty or until the socket would block.
    pub fn write(&mut self, socket: &mut Writes) -> io::Result<Progress> {
        while !self.parts.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_PARTS];
            let mut count = 0;
            let mut asked = 0;
            for (slice, part) in slices.iter_mut().zip(&self.parts) {
                *slice = IoSlice::new(part);
                count += 1;
                asked += part.len();
            }
            match socket.try_write(&slices[..count]) {
                Ok(taken) => {
                    self.advance(taken);
                    if taken < asked {
                        return Ok(Progress::Blocked);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.parts.capacity() > KEPT_PARTS {
            self.parts = VecDeque::new();
        }
        Ok(Progress::Done)
    }

    fn advance(&mut self, taken: usize) {
        self.written += taken as u64;
        self.bytes -= taken;
        let mut left = taken;
        while let Some(front) = self.parts.front_mut() {
            if left < front.len() {
                front.advance(left);
                return;
            }
            left -= front.len();
            self.parts.pop_front();
        }
    }
}

/// Whether everything went out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Done,
    Blocked,
}

/// One write is worth about this much; more would only sit in the kernel where nothing can be dropped any more.
const WRITE_BYTES: usize = 64 * 1024;

/// Slices in one write.
const WRITE_PARTS: usize = 32;

/// Above this many slots an empty outbox gives its memory back.
const KEPT_PARTS: usize = 4;
