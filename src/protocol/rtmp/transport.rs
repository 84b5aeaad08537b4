//! What both halves of a session do alike: handshake, chunks, control messages, acknowledgements.

use std::time::Duration;

use bytes::Bytes;

use super::chunk::{self, ChunkLimits, ChunkReader, WireStyle};
use super::error::SessionError;
use super::handshake::{ClientHandshake, HandshakeError, Progress, ServerHandshake};
use super::limits::{Rate, SessionLimits};
use super::message::{Control, LIMIT_DYNAMIC, Message, UserEvent, csid};

#[derive(Debug)]
pub(super) struct Transport {
    /// Gone, with its buffers, when it is over.
    handshake: Option<Handshake>,
    reader: ChunkReader,
    out: Vec<u8>,
    style: WireStyle,
    /// Bytes received so far, the handshake among them.
    received: u64,
    acknowledged: u64,
    /// After how many bytes the peer wants to hear from us.
    peer_window: u32,
    /// The window last announced to the peer.
    own_window: u32,
    control: Rate,
    pings: Rate,
    thin: Rate,
    thin_seen: u64,
}

#[derive(Debug)]
pub(super) enum Handshake {
    Server(Box<ServerHandshake>),
    Client(Box<ClientHandshake>),
}

/// What the session above has to deal with.
#[derive(Debug)]
pub(super) enum Incoming {
    HandshakeDone,
    /// Any message that is not protocol control.
    Message(Message),
    /// A control message that tells something; it has been obeyed already.
    Control(Control),
}

impl Transport {
    pub(super) fn new(handshake: Handshake, out: Vec<u8>, limits: &SessionLimits, repeat_extended: bool) -> Self {
        let chunk_limits = ChunkLimits {
            max_message: limits.max_message_before,
            max_csids: limits.max_csids,
            max_restarts: limits.max_restarts,
        };
        Self {
            handshake: Some(handshake),
            reader: ChunkReader::new(chunk_limits),
            out,
            style: WireStyle { repeat_extended, ..WireStyle::default() },
            received: 0,
            acknowledged: 0,
            peer_window: DEFAULT_WINDOW,
            own_window: 0,
            control: Rate::default(),
            pings: Rate::default(),
            thin: Rate::default(),
            thin_seen: 0,
        }
    }

    /// Takes from `input` up to the next thing the session has to deal with. `Ok(None)`: the input is used up.
    pub(super) fn read(
        &mut self,
        input: &mut &[u8],
        now: Duration,
        limits: &SessionLimits,
    ) -> Result<Option<Incoming>, SessionError> {
        if let Some(handshake) = &mut self.handshake {
            return match handshake.receive(input, &mut self.out)? {
                Progress::NeedMore => Ok(None),
                Progress::Done => {
                    self.handshake = None;
                    Ok(Some(Incoming::HandshakeDone))
                }
            };
        }
        loop {
            let message = self.reader.read(input)?;
            let thin = self.reader.thin_chunks() - self.thin_seen;
            if thin > 0 {
                self.thin_seen += thin;
                let limit = limits.thin_chunks_per_second;
                if self.thin.charge(now, u32::try_from(thin).unwrap_or(u32::MAX)) > limit {
                    return Err(SessionError::ThinChunks { limit });
                }
            }
            let Some(message) = message else { return Ok(None) };
            let Some(control) = Control::parse(message.kind, &message.payload)? else {
                return Ok(Some(Incoming::Message(message)));
            };
            self.charge_control(now, limits)?;
            if self.obey(control, now, limits) {
                return Ok(Some(Incoming::Control(control)));
            }
        }
    }

    /// Counts a message that carries no media.
    pub(super) fn charge_control(&mut self, now: Duration, limits: &SessionLimits) -> Result<(), SessionError> {
        let limit = limits.control_per_second;
        if self.control.allows(now, limit) { Ok(()) } else { Err(SessionError::ControlFlood { limit }) }
    }

    /// Does what a control message asks; says whether the session has to know.
    fn obey(&mut self, control: Control, now: Duration, limits: &SessionLimits) -> bool {
        match control {
            Control::SetChunkSize(size) => self.reader.set_chunk_size(size),
            Control::Abort(csid) => self.reader.abort(csid),
            // A tiny window would have us answer every few bytes, and one of 0 for ever.
            Control::WindowAckSize(window) => self.peer_window = window.clamp(MIN_WINDOW, MAX_WINDOW),
            Control::SetPeerBandwidth { window, .. } => {
                if window != 0 && window != self.own_window {
                    self.own_window = window;
                    self.send_control(Control::WindowAckSize(window));
                }
            }
            Control::User(UserEvent::PingRequest(time)) => {
                if self.pings.allows(now, limits.pings_per_second) {
                    self.send_control(Control::User(UserEvent::PingResponse(time)));
                }
            }
            Control::User(UserEvent::Other(_)) => {}
            Control::Acknowledgement(_) | Control::User(_) => return true,
        }
        false
    }

    /// Counts bytes that came from the socket.
    pub(super) fn count_received(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Tells the peer how far we are, when it is due.
    pub(super) fn acknowledge(&mut self) {
        if self.handshake.is_none() && self.received - self.acknowledged >= u64::from(self.peer_window) {
            self.acknowledged = self.received;
            // 32 bits on the wire: it wraps, and nobody minds.
            self.send_control(Control::Acknowledgement(self.received as u32));
        }
    }

    pub(super) fn send_control(&mut self, control: Control) {
        self.send(csid::CONTROL, control.kind(), 0, &control.encode());
    }

    pub(super) fn send(&mut self, csid: u32, kind: u8, msid: u32, payload: &[u8]) {
        chunk::write(&mut self.out, self.style, csid, 0, kind, msid, payload);
    }

    /// Announces the window after which we expect an acknowledgement.
    pub(super) fn announce_window(&mut self, window: u32) {
        self.own_window = window;
        self.send_control(Control::WindowAckSize(window));
    }

    pub(super) fn ask_for_bandwidth(&mut self, window: u32) {
        self.send_control(Control::SetPeerBandwidth { window, limit: LIMIT_DYNAMIC });
    }

    /// Sends with this chunk size from now on. It is announced even where it is the default: ffmpeg sends in chunks of the
    /// size that it was told, and in 128 bytes for ever if it was told nothing.
    pub(super) fn announce_chunk_size(&mut self, size: u32) {
        self.send_control(Control::SetChunkSize(size));
        self.style.chunk_size = size;
    }

    pub(super) fn set_max_message(&mut self, bytes: usize) {
        self.reader.set_max_message(bytes);
    }

    pub(super) fn take_output(&mut self) -> Option<Bytes> {
        (!self.out.is_empty()).then(|| std::mem::take(&mut self.out).into())
    }

    pub(super) fn wire_style(&self) -> WireStyle {
        self.style
    }

    pub(super) fn is_midway(&self) -> bool {
        self.handshake.is_some() || self.reader.is_midway()
    }

    pub(super) fn in_handshake(&self) -> bool {
        self.handshake.is_some()
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    #[cfg(test)]
    pub(super) fn reader_heap_bytes(&self) -> usize {
        self.reader.heap_bytes()
    }

    pub(super) fn restarts(&self) -> u32 {
        self.reader.restarts()
    }
}

impl Handshake {
    fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Progress, HandshakeError> {
        match self {
            Self::Server(server) => server.receive(input, out),
            Self::Client(client) => client.receive(input, out),
        }
    }
}

/// What a peer is taken to want until it says so.
pub(super) const DEFAULT_WINDOW: u32 = 2_500_000;
const MIN_WINDOW: u32 = 32 << 10;
const MAX_WINDOW: u32 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rtmp::message::kind;

    fn transport() -> Transport {
        let handshake = Handshake::Server(Box::new(ServerHandshake::new([1; 32])));
        let mut transport = Transport::new(handshake, Vec::new(), &SessionLimits::default(), true);
        let mut hello = [0; 1 + 2 * 1536];
        hello[0] = 3;
        let mut input = &hello[..];
        let done = transport.read(&mut input, Duration::ZERO, &SessionLimits::default());
        assert!(matches!(done, Ok(Some(Incoming::HandshakeDone))));
        transport.take_output();
        transport
    }

    fn tell(transport: &mut Transport, kind: u8, payload: &[u8]) {
        let mut out = Vec::new();
        chunk::write(&mut out, WireStyle::default(), csid::CONTROL, 0, kind, 0, payload);
        let told = transport.read(&mut &out[..], Duration::ZERO, &SessionLimits::default());
        assert!(matches!(told, Ok(None)), "obeyed, and nothing to report");
    }

    #[test]
    fn byte_count_wraps_at_4_gib() {
        let mut transport = transport();
        transport.count_received(u32::MAX as usize);
        transport.count_received(101);
        transport.acknowledge();
        let output = transport.take_output().expect("an acknowledgement is due");
        assert_eq!(output.last_chunk::<4>(), Some(&100u32.to_be_bytes()));
        transport.count_received(DEFAULT_WINDOW as usize - 1);
        transport.acknowledge();
        assert_eq!(transport.take_output(), None);
    }

    #[test]
    fn window_of_the_peer_is_clamped() {
        for (window, clamped) in [(0u32, 32 << 10), (1, 32 << 10), (100_000, 100_000), (u32::MAX, 64 << 20)] {
            let mut transport = transport();
            tell(&mut transport, kind::WINDOW_ACK_SIZE, &window.to_be_bytes());
            assert_eq!(transport.peer_window, clamped);
        }
    }

    #[test]
    fn abort_reaches_the_chunk_reader() {
        let mut transport = transport();
        let begun = [&[6, 0, 0, 0, 0, 0, 200, 9, 1, 0, 0, 0][..], &[1; 128]].concat();
        assert!(matches!(transport.read(&mut &begun[..], Duration::ZERO, &SessionLimits::default()), Ok(None)));
        assert!(transport.is_midway());
        tell(&mut transport, kind::ABORT, &6u32.to_be_bytes());
        assert!(!transport.is_midway());
    }

    #[test]
    fn nothing_is_acknowledged_during_the_handshake() {
        let handshake = Handshake::Server(Box::new(ServerHandshake::new([1; 32])));
        let mut transport = Transport::new(handshake, Vec::new(), &SessionLimits::default(), true);
        transport.count_received(u32::MAX as usize);
        transport.acknowledge();
        assert_eq!(transport.take_output(), None);
    }
}
