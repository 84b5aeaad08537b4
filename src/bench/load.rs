//! The load itself: every publisher and player on one thread and one epoll.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Client, ClientError, Destination, Event, Role};
use super::clock::now_ns;
use super::histogram::Histogram;
use super::http::{HttpViewer, Page};
use super::media::{self, Schedule, Shape, Stamp};
use super::poll::{Polled, Pollers, Polling};
use super::tally::{Tally, Viewing};
use super::usage::{self, Usage};
use super::{BenchError, progress};
use crate::protocol::rtmp::message::{csid, kind};

/// What to do, with everything decided.
pub struct Plan {
    pub address: SocketAddr,
    /// One for each stream.
    pub destinations: Vec<Destination>,
    /// Where players go, one for each stream, if not to the same place over RTMP.
    pub pages: Option<(SocketAddr, Vec<Page>)>,
    /// Whether the streams are published from here; else they are expected to be there.
    pub publish: bool,
    pub players: usize,
    pub slow: usize,
    pub idle: usize,
    pub shape: Shape,
    /// New connections a second.
    pub ramp: u32,
    pub ready_timeout: Duration,
    pub warmup: Duration,
    pub window: Duration,
    pub server_pid: Option<u32>,
    pub polling: Polling,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub tally: Tally,
    pub lateness_ns: Histogram,
    pub connect_ns: Histogram,
    pub publishers_live: usize,
    pub publishers_cut_off: usize,
    pub players_ready: usize,
    pub players_cut_off: usize,
    pub idle_ready: usize,
    pub idle_cut_off: usize,
    pub slow_cut_off: usize,
    /// Video frames of each player that was there for the whole window.
    pub frames_min: u64,
    pub frames_max: u64,
    pub received_bytes: u64,
    pub window_ns: u64,
    /// Of the server before the players came, at the start of the window and at its end.
    pub server: Option<[Usage; 3]>,
    /// CPU time of this process in the window.
    pub tool_cpu_ns: u64,
    /// One for each address that was asked meanwhile.
    pub polled: Vec<Polled>,
    /// Why connections failed, the first few.
    pub complaints: Vec<String>,
}

/// Runs the plan to its end.
pub fn run(plan: &Plan) -> Result<Outcome, BenchError> {
    let mut load = Load::new(plan)?;
    load.run()?;
    Ok(load.finish())
}

struct Load<'a> {
    plan: &'a Plan,
    epoll: Epoll,
    timer: TimerFd,
    timer_at: Option<u64>,
    connections: Vec<Connection>,
    /// When which publisher sends next.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    phase: Phase,
    /// When the phase began.
    since: u64,
    buffer: Vec<u8>,
    body: Vec<u8>,
    usage_before: Option<Usage>,
    usage_start: Option<Usage>,
    tool_start: Usage,
    sampled_at: u64,
    pollers: Option<Pollers>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Publishers connect.
    Publishers,
    /// They are alone for a while.
    Lead,
    /// Everybody else connects.
    Ramp,
    /// The last players wait for their first keyframe.
    Ready,
    Warmup,
    /// Reading `/proc` takes a moment in which nobody reads sockets: it must be over before the window opens.
    Settle,
    Window,
    Done,
}

struct Connection {
    /// `None` once closed.
    socket: Option<Socket>,
    connected: bool,
    dialogue: Dialogue,
    out: Vec<u8>,
    stream: usize,
    part: Part,
    begun_ns: u64,
}

/// How a connection speaks.
enum Dialogue {
    Rtmp(Client),
    Http(HttpViewer),
}

enum Part {
    Publisher { schedule: Schedule, start_ns: Option<u64> },
    Player(Viewing),
    Slow { deaf: bool },
    Idle { ready: bool },
}

impl<'a> Load<'a> {
    fn new(plan: &'a Plan) -> Result<Self, BenchError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(io::Error::from)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).map_err(io::Error::from)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&timer, EpollEvent::new(flags, TIMER)).map_err(io::Error::from)?;
        Ok(Self {
            plan,
            epoll,
            timer,
            timer_at: None,
            connections: Vec::new(),
            due: BinaryHeap::new(),
            phase: Phase::Publishers,
            since: now_ns(),
            buffer: vec![0; READ_BUFFER],
            body: Vec::new(),
            usage_before: None,
            usage_start: None,
            tool_start: Usage::default(),
            sampled_at: 0,
            pollers: None,
            outcome: Outcome::default(),
        })
    }

    fn run(&mut self) -> Result<(), BenchError> {
        let mut events = [EpollEvent::empty(); 256];
        while self.phase != Phase::Done {
            let now = now_ns();
            self.send_due(now)?;
            self.go_on(now)?;
            self.arm()?;
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            for event in events.iter().take(count).filter(|event| event.data() != TIMER) {
                let now = self.handle(event.data() as usize, event.events())?;
                // A thousand players to be read must not make the publishers late.
                if self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
                    self.send_due(now)?;
                }
            }
        }
        Ok(())
    }

    /// Moves on to the next phase when this one has what it waits for, and connects whoever is to come by now.
    fn go_on(&mut self, now: u64) -> Result<(), BenchError> {
        let elapsed = Duration::from_nanos(now.saturating_sub(self.since));
        match self.phase {
            Phase::Publishers => {
                let wanted = if self.plan.publish { self.plan.destinations.len() } else { 0 };
                self.connect_until(wanted, now)?;
                let live =
                    self.count(|connection| matches!(connection.part, Part::Publisher { start_ns: Some(_), .. }));
                let alive = self.count(|connection| connection.socket.is_some());
                let all_said = self.connections.len() == wanted && live == alive;
                if all_said || elapsed > self.ramp_time(wanted) + self.plan.ready_timeout {
                    if live == 0 && wanted > 0 {
                        return Err(BenchError::NobodyPublishes(self.outcome.complaints.concat()));
                    }
                    if wanted > 0 {
                        progress(&format!("{live} of {wanted} publishers live"));
                    }
                    self.enter(Phase::Lead, now);
                }
            }
            Phase::Lead => {
                if elapsed >= self.lead() {
                    self.usage_before = self.server_usage()?;
                    progress(&format!("connecting {} players", self.plan.players + self.plan.slow + self.plan.idle));
                    self.enter(Phase::Ramp, now_ns());
                }
            }
            Phase::Ramp => {
                let publishers = self.publishers();
                let wanted = publishers + self.plan.idle + self.plan.slow + self.plan.players;
                self.connect_until(wanted, now)?;
                if self.connections.len() == wanted {
                    self.enter(Phase::Ready, now);
                }
            }
            Phase::Ready => {
                let waiting = self.count(|connection| {
                    connection.socket.is_some()
                        && match &connection.part {
                            Part::Publisher { .. } => false,
                            Part::Player(viewing) => !viewing.is_watching(),
                            Part::Slow { deaf } => !deaf,
                            Part::Idle { ready } => !ready,
                        }
                });
                if waiting == 0 || elapsed > self.plan.ready_timeout {
                    if waiting > 0 {
                        self.complain(format!("{waiting} connections got no answer or no keyframe"));
                    }
                    self.enter(Phase::Warmup, now);
                }
            }
            Phase::Warmup => {
                if elapsed >= self.plan.warmup {
                    progress(&format!("measuring for {} s", self.plan.window.as_secs_f64()));
                    self.usage_start = self.server_usage()?;
                    self.tool_start = own_usage();
                    self.sampled_at = now_ns();
                    self.enter(Phase::Settle, self.sampled_at);
                }
            }
            Phase::Settle => {
                if elapsed >= SETTLE {
                    self.outcome.tally.in_window = true;
                    self.pollers = Some(Pollers::start(&self.plan.polling));
                    self.enter(Phase::Window, now);
                }
            }
            Phase::Window => {
                if elapsed >= self.plan.window {
                    self.outcome.tally.in_window = false;
                    let end = self.server_usage()?;
                    self.outcome.tool_cpu_ns = own_usage().cpu_ns_since(&self.tool_start);
                    self.outcome.window_ns = now_ns() - self.sampled_at;
                    self.outcome.server = self.usage_before.zip(self.usage_start).zip(end).map(|((a, b), c)| [a, b, c]);
                    self.enter(Phase::Done, now);
                }
            }
            Phase::Done => {}
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase, now: u64) {
        self.phase = phase;
        self.since = now;
    }

    /// Sets the timer to whatever comes first: a frame that is due, a connection to make, the end of a phase.
    fn arm(&mut self) -> Result<(), BenchError> {
        let tick = match self.phase {
            // Coarse: these phases also look at what the players have got.
            Phase::Publishers | Phase::Ramp | Phase::Ready => now_ns() + CONNECT_TICK_NS,
            Phase::Lead => self.since + self.lead().as_nanos() as u64,
            Phase::Warmup => self.since + self.plan.warmup.as_nanos() as u64,
            Phase::Settle => self.since + SETTLE.as_nanos() as u64,
            Phase::Window | Phase::Done => self.since + self.plan.window.as_nanos() as u64,
        };
        let at = self.due.peek().map_or(tick, |Reverse((due, _))| tick.min(*due));
        if self.timer_at != Some(at) {
            let time = Expiration::OneShot(TimeSpec::from(Duration::from_nanos(at)));
            self.timer.set(time, TimerSetTimeFlags::TFD_TIMER_ABSTIME).map_err(io::Error::from)?;
            self.timer_at = Some(at);
        }
        Ok(())
    }

    /// Makes connections up to `wanted`, no faster than the ramp.
    fn connect_until(&mut self, wanted: usize, now: u64) -> Result<(), BenchError> {
        let base = if self.phase == Phase::Publishers { 0 } else { self.publishers() };
        let elapsed = now.saturating_sub(self.since) as u128;
        let by_now = base + 1 + (elapsed * u128::from(self.plan.ramp) / 1_000_000_000) as usize;
        while self.connections.len() < wanted.min(by_now) {
            self.connect_next()?;
        }
        Ok(())
    }

    fn connect_next(&mut self) -> Result<(), BenchError> {
        let index = self.connections.len();
        let streams = self.plan.destinations.len();
        let publishers = self.publishers();
        let begun_ns = now_ns();
        // Order of coming: publishers, idle connections, players that never read, players.
        let nth = index.saturating_sub(publishers);
        let (role, stream, part) = if index < publishers {
            let schedule = Schedule::new(self.plan.shape);
            (Role::Publish, index, Part::Publisher { schedule, start_ns: None })
        } else if nth < self.plan.idle {
            (Role::Idle, 0, Part::Idle { ready: false })
        } else if nth < self.plan.idle + self.plan.slow {
            (Role::Play, nth % streams, Part::Slow { deaf: false })
        } else {
            let stream = (nth - self.plan.idle - self.plan.slow) % streams;
            (Role::Play, stream, Part::Player(Viewing::new(stream as u64, begun_ns)))
        };
        let mut out = Vec::new();
        let page = match (&self.plan.pages, role) {
            (Some((address, pages)), Role::Play) => pages.get(stream).map(|page| (*address, page)),
            _ => None,
        };
        let dialogue = match page {
            Some((_, page)) => Dialogue::Http(HttpViewer::new(page, &mut out)),
            None => Dialogue::Rtmp(Client::new(role, &mut out)),
        };
        let address = page.map_or(self.plan.address, |(address, _)| address);
        let socket = match open(address) {
            Ok(socket) => {
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
                self.epoll.add(socket.as_fd(), EpollEvent::new(flags, index as u64)).map_err(io::Error::from)?;
                Some(socket)
            }
            Err(error) => {
                self.complain(format!("{address}: {error}"));
                None
            }
        };
        self.connections.push(Connection { socket, connected: false, dialogue, out, stream, part, begun_ns });
        Ok(())
    }

    /// Sends every frame whose time has come.
    fn send_due(&mut self, now: u64) -> Result<(), BenchError> {
        while let Some(&Reverse((at, index))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let Part::Publisher { schedule, start_ns: Some(start) } = &mut connection.part else { continue };
            if connection.socket.is_none() {
                continue;
            }
            let frame = schedule.peek();
            schedule.advance();
            let next = *start + schedule.peek().at_ns;
            let sent_ns = now_ns();
            self.outcome.lateness_ns.record(sent_ns.saturating_sub(at));
            let stamp = Stamp { publisher: connection.stream as u64, sequence: frame.sequence, sent_ns };
            media::write_frame(&mut self.body, &frame, &stamp);
            let (csid, kind) = if frame.video { (csid::VIDEO, kind::VIDEO) } else { (csid::AUDIO, kind::AUDIO) };
            if let Dialogue::Rtmp(client) = &connection.dialogue {
                client.publish(csid, frame.time_ms, kind, &self.body, &mut connection.out);
            }
            self.due.push(Reverse((next, index)));
            if connection.out.len() > MAX_UNSENT {
                self.close(index, "the server has stopped reading from a publisher");
            } else if let Err(error) = connection.flush() {
                self.close(index, &error.to_string());
            }
        }
        Ok(())
    }

    /// Reads and writes what one connection can. Returns the time.
    fn handle(&mut self, index: usize, flags: EpollFlags) -> Result<u64, BenchError> {
        let mut now = now_ns();
        let Some(connection) = self.connections.get_mut(index) else { return Ok(now) };
        if !connection.connected && flags.intersects(EpollFlags::EPOLLOUT) {
            connection.connected = true;
            if let Some(socket) = &connection.socket {
                let _ = socket.set_tcp_nodelay(true);
            }
        }
        if let Err(error) = connection.flush() {
            self.close(index, &error.to_string());
            return Ok(now);
        }
        if matches!(connection.part, Part::Slow { deaf: true }) {
            if flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.close(index, "closed by the server");
            }
            return Ok(now);
        }
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
        {
            return Ok(now);
        }
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return Ok(now) };
            let Some(mut socket) = connection.socket.as_ref() else { return Ok(now) };
            let count = match socket.read(&mut self.buffer) {
                Ok(0) => {
                    self.close(index, "closed by the server");
                    return Ok(now);
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(now),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.close(index, &error.to_string());
                    return Ok(now);
                }
            };
            now = now_ns();
            let Some(bytes) = self.buffer.get(..count) else { return Ok(now) };
            self.outcome.received_bytes += if self.outcome.tally.in_window { count as u64 } else { 0 };
            match connection.receive(bytes, now, self.plan, &mut self.outcome) {
                Ok(Some(first_due)) => self.due.push(Reverse((first_due, index))),
                Ok(None) => {}
                Err(error) => {
                    self.close(index, &error.to_string());
                    return Ok(now);
                }
            }
            // A read that did not fill the buffer has emptied the socket; what comes later is a new edge.
            if count < READ_BUFFER {
                return Ok(now);
            }
        }
    }

    fn close(&mut self, index: usize, why: &str) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.socket.take().is_none() {
            return;
        }
        let who = match &connection.part {
            Part::Publisher { start_ns, .. } => {
                self.outcome.publishers_cut_off += usize::from(start_ns.is_some());
                "publisher"
            }
            Part::Player(viewing) => {
                self.outcome.players_cut_off += usize::from(viewing.is_watching());
                "player"
            }
            Part::Slow { .. } => {
                self.outcome.slow_cut_off += 1;
                return;
            }
            Part::Idle { ready } => {
                self.outcome.idle_cut_off += usize::from(*ready);
                "idle connection"
            }
        };
        self.complain(format!("{who} {index}: {why}"));
    }

    fn complain(&mut self, what: String) {
        if self.outcome.complaints.len() < MAX_COMPLAINTS {
            self.outcome.complaints.push(what);
        }
    }

    fn publishers(&self) -> usize {
        if self.plan.publish { self.plan.destinations.len() } else { 0 }
    }

    fn lead(&self) -> Duration {
        let gop = Duration::from_secs_f64(self.plan.shape.gop_seconds).min(MAX_LEAD);
        if self.plan.publish { gop + LEAD } else { Duration::ZERO }
    }

    fn ramp_time(&self, connections: usize) -> Duration {
        Duration::from_secs_f64(connections as f64 / f64::from(self.plan.ramp.max(1)))
    }

    fn count(&self, what: impl Fn(&Connection) -> bool) -> usize {
        self.connections.iter().filter(|connection| what(connection)).count()
    }

    fn server_usage(&self) -> Result<Option<Usage>, BenchError> {
        let Some(pid) = self.plan.server_pid else { return Ok(None) };
        usage::of_tree(pid).map(Some).ok_or(BenchError::NoSuchProcess(pid))
    }

    fn finish(mut self) -> Outcome {
        // While everybody is still here: the last answers are to be about them.
        self.outcome.polled = self.pollers.take().map(Pollers::finish).unwrap_or_default();
        let mut frames = (u64::MAX, 0);
        for connection in &self.connections {
            match &connection.part {
                Part::Publisher { start_ns, .. } => self.outcome.publishers_live += usize::from(start_ns.is_some()),
                Part::Player(viewing) if viewing.is_watching() => {
                    self.outcome.players_ready += 1;
                    if connection.socket.is_some() {
                        frames = (frames.0.min(viewing.frames()), frames.1.max(viewing.frames()));
                    }
                }
                Part::Idle { ready: true } => self.outcome.idle_ready += 1,
                Part::Player(_) | Part::Slow { .. } | Part::Idle { .. } => {}
            }
        }
        (self.outcome.frames_min, self.outcome.frames_max) = (frames.0.min(frames.1), frames.1);
        self.outcome
    }
}

impl Connection {
    /// Takes in what was read. `Some`: a publisher has been let in, and its first frame is due then.
    fn receive(
        &mut self,
        bytes: &[u8],
        now: u64,
        plan: &Plan,
        outcome: &mut Outcome,
    ) -> Result<Option<u64>, ClientError> {
        let Some(destination) = plan.destinations.get(self.stream) else { return Ok(None) };
        let (begun_ns, stream) = (self.begun_ns, self.stream);
        let mut first_due = None;
        let mut accepted = false;
        let part = &mut self.part;
        let on_event = |event: Event<'_>| match (event, &mut *part) {
            (Event::Connected, Part::Idle { ready }) => {
                *ready = true;
                outcome.connect_ns.record(now - begun_ns);
            }
            (Event::Connected, _) => outcome.connect_ns.record(now - begun_ns),
            (Event::PlayAsked, Part::Player(viewing)) => viewing.play_asked(now),
            (Event::PlayAsked, Part::Slow { deaf }) => *deaf = true,
            (Event::Media { video, body }, Part::Player(viewing)) => {
                viewing.media(video, body, now, &mut outcome.tally);
            }
            (Event::Publishing, Part::Publisher { start_ns, .. }) if start_ns.is_none() => {
                // Publishers begin spread over one frame: encoders of the world do not tick together.
                let frame_ns = (1e9 / plan.shape.fps) as u64;
                let start = now + frame_ns * stream as u64 / plan.destinations.len().max(1) as u64;
                *start_ns = Some(start);
                (first_due, accepted) = (Some(start), true);
            }
            _ => {}
        };
        match &mut self.dialogue {
            Dialogue::Rtmp(client) => client.receive(bytes, destination, &mut self.out, on_event)?,
            Dialogue::Http(viewer) => viewer.receive(bytes, on_event)?,
        }
        if let (true, Dialogue::Rtmp(client)) = (accepted, &self.dialogue) {
            let out = &mut self.out;
            client.publish(csid::AUDIO, 0, kind::DATA, &media::metadata(&plan.shape), out);
            client.publish(csid::VIDEO, 0, kind::VIDEO, &media::video_config(), out);
            if plan.shape.audio {
                client.publish(csid::AUDIO, 0, kind::AUDIO, &media::audio_config(), out);
            }
        }
        self.flush()?;
        Ok(first_due)
    }

    /// Writes what the socket takes of what is waiting.
    fn flush(&mut self) -> io::Result<()> {
        let Some(mut socket) = self.socket.as_ref().filter(|_| self.connected) else { return Ok(()) };
        while !self.out.is_empty() {
            match socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A socket on its way to be connected.
fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => Err(error),
        _ => Ok(socket),
    }
}

fn own_usage() -> Usage {
    usage::of_process(std::process::id()).unwrap_or_default()
}

const TIMER: u64 = u64::MAX;
/// One for all connections; a keyframe of a usual stream fits.
const READ_BUFFER: usize = 256 * 1024;
/// A publisher that cannot get rid of this much is not publishing any more: minutes of a usual stream.
const MAX_UNSENT: usize = 64 << 20;
/// Publishers are ahead of the players by a whole GOP and a little: what the server caches is there, and in its memory, by then.
const LEAD: Duration = Duration::from_millis(500);
const MAX_LEAD: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_millis(100);
const CONNECT_TICK_NS: u64 = 1_000_000;
const MAX_COMPLAINTS: usize = 5;
