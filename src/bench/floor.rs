//! The least a server could do: built messages, a list of sockets, a write each.
//!
//! No streams, no names, no publishers, no rules: it generates the stream itself and sends it to whoever asks to play. What a
//! real server costs above this is its own doing; what it costs below, nobody can save.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use clap::Args;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::clock::now_ns;
use super::media::{self, Schedule, Shape, Stamp};
use super::{BenchError, MediaArgs};
use crate::protocol::amf::{self, Limits, Value};
use crate::protocol::rtmp::chunk::{self, ChunkLimits, ChunkReader, DEFAULT_CHUNK_SIZE, WireStyle};
use crate::protocol::rtmp::handshake::{Progress, ServerHandshake};
use crate::protocol::rtmp::message::{Control, csid, kind};

#[derive(Args, Clone, Debug)]
pub struct FloorArgs {
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1935")]
    pub listen: SocketAddr,
    /// each: a write for each message. ride: audio waits for the next video frame. tick:MS: everything waits for the tick.
    #[arg(long, value_name = "each|ride|tick:MS", default_value = "each", value_parser = Mode::parse)]
    pub mode: Mode,
    #[command(flatten)]
    pub media: MediaArgs,
}

/// What is gathered into one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Each,
    Ride,
    Tick(Duration),
}

impl Mode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "each" => Ok(Self::Each),
            "ride" => Ok(Self::Ride),
            _ => text
                .strip_prefix("tick:")
                .and_then(|ms| ms.parse().ok())
                .filter(|ms| *ms > 0)
                .map(|ms| Self::Tick(Duration::from_millis(ms)))
                .ok_or_else(|| "each, ride or tick:MILLISECONDS".to_owned()),
        }
    }
}

/// The command.
pub fn serve(args: &FloorArgs) -> Result<Infallible, BenchError> {
    super::raise_open_files(0)?;
    Floor::new(args)?.run()
}

/// The loop and its sockets.
pub struct Floor {
    mode: Mode,
    shape: Shape,
    listener: TcpListener,
    epoll: Epoll,
    timer: TimerFd,
    peers: Vec<Option<Peer>>,
    /// Who is sent everything, and who waits for the next keyframe: places in `peers`.
    watching: Vec<usize>,
    waiting: Vec<usize>,
    schedule: Schedule,
    start_ns: u64,
    next_tick_ns: u64,
    /// Messages built and not yet written.
    batch: Vec<u8>,
    body: Vec<u8>,
}

struct Peer {
    socket: TcpStream,
    handshake: Option<Box<ServerHandshake>>,
    chunks: ChunkReader,
    unsent: Vec<u8>,
}

impl Floor {
    pub fn new(args: &FloorArgs) -> Result<Self, BenchError> {
        let listener = TcpListener::bind(args.listen)?;
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).map_err(io::Error::from)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).map_err(io::Error::from)?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&timer, EpollEvent::new(edge, TIMER)).map_err(io::Error::from)?;
        let shape = args.media.shape()?;
        let start_ns = now_ns();
        Ok(Self {
            mode: args.mode,
            shape,
            listener,
            epoll,
            timer,
            peers: Vec::new(),
            watching: Vec::new(),
            waiting: Vec::new(),
            schedule: Schedule::new(shape),
            start_ns,
            next_tick_ns: start_ns,
            batch: Vec::new(),
            body: Vec::new(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it fails or is killed.
    pub fn run(&mut self) -> Result<Infallible, BenchError> {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let next = self.send_due();
            let at = Expiration::OneShot(TimeSpec::from(Duration::from_nanos(next)));
            self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(io::Error::from)?;
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    TIMER => {}
                    LISTENER => self.accept()?,
                    index => self.serve(index as usize),
                }
            }
        }
    }

    /// Builds and writes what is due; says when to come again.
    fn send_due(&mut self) -> u64 {
        loop {
            let now = now_ns();
            let frame = self.schedule.peek();
            let at = self.start_ns + frame.at_ns;
            if let Mode::Tick(tick) = self.mode
                && self.next_tick_ns <= now.min(at)
            {
                self.next_tick_ns += tick.as_nanos() as u64;
                self.flush();
                continue;
            }
            if at > now {
                return if matches!(self.mode, Mode::Tick(_)) { at.min(self.next_tick_ns) } else { at };
            }
            self.schedule.advance();
            if frame.keyframe && !self.waiting.is_empty() {
                self.flush();
                self.admit();
            }
            let stamp = Stamp { publisher: 0, sequence: frame.sequence, sent_ns: now };
            media::write_frame(&mut self.body, &frame, &stamp);
            let (csid, kind) = if frame.video { (csid::VIDEO, kind::VIDEO) } else { (csid::AUDIO, kind::AUDIO) };
            chunk::write(&mut self.batch, STYLE, csid, frame.time_ms, kind, MSID, &self.body);
            if self.mode == Mode::Each || (self.mode == Mode::Ride && frame.video) {
                self.flush();
            }
        }
    }

    /// Writes the batch to everybody: the whole of the work that is measured.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (peers, batch) = (&mut self.peers, &self.batch);
        self.watching.retain(|&index| {
            let Some(place) = peers.get_mut(index) else { return false };
            let alive = place.as_mut().is_some_and(|peer| peer.write(batch));
            if !alive {
                *place = None;
            }
            alive
        });
        self.batch.clear();
    }

    /// Lets those who wait join, with the decoder configuration.
    fn admit(&mut self) {
        let mut opening = Vec::new();
        chunk::write(&mut opening, STYLE, csid::VIDEO, 0, kind::VIDEO, MSID, &media::video_config());
        if self.shape.audio {
            chunk::write(&mut opening, STYLE, csid::AUDIO, 0, kind::AUDIO, MSID, &media::audio_config());
        }
        for index in self.waiting.drain(..) {
            if let Some(peer) = self.peers.get_mut(index).and_then(Option::as_mut)
                && peer.write(&opening)
            {
                self.watching.push(index);
            }
        }
    }

    fn accept(&mut self) -> Result<(), BenchError> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
            self.epoll.add(&socket, EpollEvent::new(flags, self.peers.len() as u64)).map_err(io::Error::from)?;
            let handshake = Some(Box::new(ServerHandshake::new([7; 32])));
            self.peers.push(Some(Peer {
                socket,
                handshake,
                chunks: ChunkReader::new(ChunkLimits::default()),
                unsent: Vec::new(),
            }));
        }
    }

    fn serve(&mut self, index: usize) {
        let Some(place) = self.peers.get_mut(index) else { return };
        let Some(peer) = place else { return };
        match peer.converse() {
            Some(true) => self.waiting.push(index),
            Some(false) => {}
            None => *place = None,
        }
    }
}

impl Peer {
    /// Reads and answers. `Some(true)`: it wants to play; `None`: it has gone.
    fn converse(&mut self) -> Option<bool> {
        let mut wants_to_play = false;
        let mut buffer = [0; 8192];
        if !self.write(&[]) {
            return None;
        }
        loop {
            let count = match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(wants_to_play),
                Err(_) => return None,
            };
            let mut input = buffer.get(..count)?;
            let mut out = Vec::new();
            if let Some(handshake) = &mut self.handshake
                && handshake.receive(&mut input, &mut out).ok()? == Progress::Done
            {
                self.handshake = None;
            }
            if self.handshake.is_none() {
                while let Some(message) = self.chunks.read(&mut input).ok()? {
                    if message.kind == kind::COMMAND {
                        wants_to_play |= answer(&message.payload, &mut out);
                    }
                }
            }
            if !self.write(&out) {
                return None;
            }
        }
    }

    /// Writes, behind what could not be written before. `false`: it is gone, or hopelessly behind.
    fn write(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() && self.unsent.is_empty() {
            return true;
        }
        if self.unsent.is_empty() {
            let written = match self.socket.write(bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return false,
            };
            self.unsent.extend_from_slice(bytes.get(written..).unwrap_or_default());
            return true;
        }
        self.unsent.extend_from_slice(bytes);
        match self.socket.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        self.unsent.len() < MAX_UNSENT
    }
}

/// The few words without which no client plays. Whether it was the play command.
fn answer(body: &[u8], out: &mut Vec<u8>) -> bool {
    let Ok(values) = amf::decode_all(body, &Limits::COMMAND) else { return false };
    let transaction = values.get(1).and_then(Value::as_number).unwrap_or_default();
    let name = values.first().and_then(Value::as_str).unwrap_or_default();
    let information = |level: &str, code: &str| {
        let pair = |key: &str, value: &str| (key.to_owned(), Value::String(value.to_owned()));
        Value::Object(vec![pair("level", level), pair("code", code)])
    };
    let string = |text: &str| Value::String(text.to_owned());
    let reply = match name {
        "connect" => {
            let size = Control::SetChunkSize(STYLE.chunk_size);
            chunk::write(out, FIRST, csid::CONTROL, 0, size.kind(), 0, &size.encode());
            let success = information("status", "NetConnection.Connect.Success");
            [string("_result"), Value::Number(transaction), Value::Null, success]
        }
        "createStream" => [string("_result"), Value::Number(transaction), Value::Null, Value::Number(f64::from(MSID))],
        "play" => [string("onStatus"), Value::Number(0.0), Value::Null, information("status", "NetStream.Play.Start")],
        _ => return false,
    };
    let msid = if name == "play" { MSID } else { 0 };
    chunk::write(out, STYLE, csid::COMMAND, 0, kind::COMMAND, msid, &amf::encode_all(&reply));
    name == "play"
}

const TIMER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const MSID: u32 = 1;
/// Before the peer has heard of another chunk size, and after.
const FIRST: WireStyle = WireStyle { chunk_size: DEFAULT_CHUNK_SIZE, repeat_extended: true };
const STYLE: WireStyle = WireStyle { chunk_size: 4096, repeat_extended: true };
/// A peer this far behind has stopped reading.
const MAX_UNSENT: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_spelled_as_documented() {
        assert_eq!(Mode::parse("each"), Ok(Mode::Each));
        assert_eq!(Mode::parse("ride"), Ok(Mode::Ride));
        assert_eq!(Mode::parse("tick:100"), Ok(Mode::Tick(Duration::from_millis(100))));
        assert!(["", "tick", "tick:", "tick:0", "tick:x"].into_iter().all(|text| Mode::parse(text).is_err()));
    }
}
