//! Everything between the decision to send and the socket of one connection.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    bulk::Bulk,
    outbox::{Outbox, Progress},
    roll::Pulse,
    socket::Writes,
};
use crate::{
    media::{
        packet::{Batch, Packet},
        queue::{Drops, Item, QueueRules, SendQueue},
    },
    protocol::rtmp::wire::PlayForm,
};

/// The sending side of a connection. Its connection and the audience it sits in share it: both live on one arbiter, so
/// it is never used by two at a time.
pub type SharedOutput = Rc<RefCell<Output>>;

/// Queue, outbox and socket of one connection.
pub struct Output {
    socket: Writes,
    queue: SendQueue,
    outbox: Outbox,
    /// Somebody waits for the socket to take bytes again: until then things only queue.
    waiting: bool,
    /// Bytes that have come from the peer.
    received: u64,
    player: Option<Player>,
}

struct Player {
    form: PlayForm,
    /// The player's clock is to start with its first frame.
    zero_start: bool,
    asked: Instant,
    /// How long it took until there was something to see.
    first_frame: Option<Duration>,
}

impl Output {
    pub fn new(socket: Writes) -> Self {
        Self {
            socket,
            queue: SendQueue::new(CONTROL_ONLY),
            outbox: Outbox::default(),
            waiting: false,
            received: 0,
            player: None,
        }
    }

    /// From here on packets are taken, in this form and under these rules.
    pub fn play(&mut self, form: PlayForm, rules: QueueRules, zero_start: bool) {
        self.queue.configure(rules);
        self.player = Some(Player { form, zero_start, asked: Instant::now(), first_frame: None });
    }

    /// From here on packets are refused; those that wait are forgotten.
    pub fn stop_playing(&mut self) {
        if self.player.take().is_some() {
            self.queue.pause(true);
        }
    }

    /// Bytes that must arrive, in order with the media around them.
    pub fn control(&mut self, bytes: Bytes) {
        self.queue.control(bytes);
    }

    /// A publisher is there: what the player is told, and the packets that come first.
    pub fn begin(&mut self, words: Bytes, burst: &[Packet]) {
        self.start_clock(burst);
        self.note_first(burst);
        self.queue.control(words);
        self.queue.restart();
        self.queue.join(burst);
    }

    /// The stream's next packets, and a try to write them. `gap`: some before them were lost on the way here; `bulk` is
    /// that of all who are sent them.
    pub fn send(&mut self, batch: &Batch, gap: bool, bulk: &mut Bulk) -> io::Result<Progress> {
        let Some(player) = &mut self.player else { return Ok(Progress::Done) };
        if player.first_frame.is_none() {
            player.first_frame = Some(player.asked.elapsed());
        }
        // Nearly every player, nearly always, waits for nothing: then the shared bytes go into the socket as they are.
        // Each queue they do not pass is a place in memory that this thread has not seen for a thousand players.
        let goes_through = !self.waiting
            && !gap
            && !player.zero_start
            && self.outbox.is_empty()
            && self.queue.is_clear()
            && !self.socket.is_tls();
        if goes_through && let Some(bytes) = player.form.shared(batch) {
            let written = self.outbox.write_through(bytes, bulk, &mut self.socket)?;
            self.waiting = written == Progress::Blocked;
            return Ok(written);
        }
        self.offer(batch, gap);
        self.write()
    }

    /// The stream's next packets, to be written with what follows.
    pub fn offer(&mut self, batch: &Batch, gap: bool) {
        if self.player.is_none() {
            return;
        }
        self.start_clock(batch.packets());
        self.note_first(batch.packets());
        if gap {
            self.queue.gap();
        }
        self.queue.offer(batch);
    }

    /// Writes what the socket takes now. After `Blocked` nothing is written until [`Output::resume`] is called.
    pub fn write(&mut self) -> io::Result<Progress> {
        if self.waiting {
            return Ok(Progress::Done);
        }
        loop {
            while self.outbox.has_room() {
                let Some(item) = self.queue.pop() else { break };
                let bytes = match (item, &self.player) {
                    (Item::Control(bytes), _) => bytes,
                    (Item::Batch(batch), Some(player)) => player.form.batch(&batch),
                    (Item::Packet(packet), Some(player)) => player.form.packet(&packet),
                    (_, None) => continue, // media for a player that has left
                };
                self.outbox.push(bytes);
            }
            if self.outbox.is_empty() {
                break;
            }
            if self.outbox.write(&mut self.socket)? == Progress::Blocked {
                self.waiting = true;
                return Ok(Progress::Blocked);
            }
        }
        match self.socket.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.waiting = true;
                Ok(Progress::Blocked)
            }
            flushed => flushed.map(|()| Progress::Done),
        }
    }

    /// Ready when a blocked socket takes bytes again; [`Output::resume`] then lets them flow.
    pub fn poll_writable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_writable(task)
    }

    pub fn resume(&mut self) {
        self.waiting = false;
    }

    /// Whether the socket is what everything waits for.
    pub fn is_blocked(&self) -> bool {
        self.waiting
    }

    /// Whether everything has gone into the socket.
    pub fn is_drained(&self) -> bool {
        !self.waiting && self.queue.is_empty() && self.outbox.is_empty()
    }

    /// Bytes the socket has taken so far.
    pub fn written(&self) -> u64 {
        self.outbox.written()
    }

    /// Control bytes that wait; a peer that lets them pile up asks and does not read the answers.
    pub fn control_bytes(&self) -> usize {
        self.queue.control_bytes()
    }

    /// How it is with whoever is at the other end.
    pub fn pulse(&self) -> Pulse {
        Pulse {
            bytes_in: self.received,
            bytes_out: self.written(),
            queue_bytes: self.queue.bytes() + self.outbox.bytes(),
            queue_ms: self.queue.waiting_ms(),
            drops: self.drops(),
            paused: self.queue.is_paused(),
            blocked: self.waiting,
            first_frame: self.player.as_ref().and_then(|player| player.first_frame),
            kernel: self.socket.kernel(),
        }
    }

    /// So many bytes have come from the peer.
    pub fn note_received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Bytes that have come from the peer so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn drops(&self) -> Drops {
        self.queue.drops()
    }

    pub fn queue(&mut self) -> &mut SendQueue {
        &mut self.queue
    }

    pub fn socket(&mut self) -> &mut Writes {
        &mut self.socket
    }

    /// Lets go of the socket, whoever else still holds this.
    pub fn close(&mut self) {
        self.stop_playing();
        self.socket = Writes::closed();
    }

    /// There is something to see from now on.
    fn note_first(&mut self, packets: &[Packet]) {
        if let Some(player) = self.player.as_mut().filter(|player| player.first_frame.is_none())
            && packets.iter().any(Packet::is_frame)
        {
            player.first_frame = Some(player.asked.elapsed());
        }
    }

    fn start_clock(&mut self, packets: &[Packet]) {
        if let Some(player) = self.player.as_mut().filter(|player| player.zero_start)
            && let Some(first) = packets.iter().find(|packet| packet.is_frame())
        {
            player.zero_start = false;
            player.form.origin_ms = first.time_ms();
        }
    }
}

/// Before anything is played only control bytes wait.
const CONTROL_ONLY: QueueRules = QueueRules {
    max_bytes: 0,
    max_ms: 0,
    max_packets: None,
    wait_key: false,
    wait_video: false,
    jump_to_keyframe: false,
};
