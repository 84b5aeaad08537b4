//! A publisher in real time: numbered frames until it is dropped. When its server goes, it comes back with it.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::peer::{AVC_CONFIG, Next, RtmpPeer, avc_frame, avc_frame_number};
use super::wait;
use super::wire::{self, Message};

pub struct LiveSource {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

impl LiveSource {
    /// Fifty frames a second, each tenth a keyframe: quick, so that tests are.
    pub fn publish(port: u16, app: &str, name: &str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, number, app, name) = (Arc::clone(&stop), Arc::clone(&sent), app.to_owned(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                // Nobody listens while the server is down.
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    send(port, &app, &name, &stopped, &number);
                }
                pause(Duration::from_millis(5), &stopped);
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// The number of the frame that is sent next.
    pub fn next_number(&self) -> u32 {
        self.sent.load(Ordering::Acquire)
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(port: u16, app: &str, name: &str, stopped: &AtomicBool, number: &AtomicU32) {
    let (mut peer, msid) = RtmpPeer::publish(port, app, name);
    peer.set_chunk_size(65_536);
    let began = Instant::now();
    let mut say = |time: u32, payload: &[u8]| {
        let message = Message { csid: 6, time, kind: wire::VIDEO, msid, payload: payload.to_vec() };
        peer.raw.try_send(&wire::chunks(65_536, &message))
    };
    let mut goes_on = say(0, AVC_CONFIG);
    for frame in 0.. {
        if !goes_on || stopped.load(Ordering::Acquire) {
            return;
        }
        let time = frame * FRAME_MS;
        let frame_number = number.fetch_add(1, Ordering::AcqRel);
        goes_on = say(time, &avc_frame(frame % GOP_FRAMES == 0, frame_number, 500));
        pause(Duration::from_millis(u64::from(time + FRAME_MS)).saturating_sub(began.elapsed()), stopped);
    }
}

/// Many who play one stream, each on a thread of its own.
pub struct Crowd {
    players: Vec<Arc<Seen>>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// What one of them has seen.
#[derive(Default)]
struct Seen {
    frames: AtomicU32,
    latest: AtomicU32,
    closed: AtomicBool,
}

impl Crowd {
    pub fn play(port: u16, app: &str, name: &str, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let players: Vec<Arc<Seen>> = (0..count).map(|_| Arc::default()).collect();
        let threads = players.iter().map(|seen| {
            let (seen, stopped, app, name) = (Arc::clone(seen), Arc::clone(&stop), app.to_owned(), name.to_owned());
            std::thread::spawn(move || {
                let (mut peer, _) = RtmpPeer::play(port, &app, &name);
                while !stopped.load(Ordering::Acquire) {
                    match peer.next(Duration::from_millis(100)) {
                        Next::Message(message) if message.kind == wire::VIDEO => {
                            if let Some(number) = avc_frame_number(&message.payload) {
                                seen.latest.store(number, Ordering::Release);
                                seen.frames.fetch_add(1, Ordering::AcqRel);
                            }
                        }
                        Next::Message(_) | Next::Nothing => {}
                        Next::Closed => return seen.closed.store(true, Ordering::Release),
                    }
                }
            })
        });
        let threads = threads.collect();
        Self { players, threads, stop }
    }

    /// Waits until every one has seen a frame of this number or a later one; how long that took.
    #[track_caller]
    pub fn wait_for(&self, number: u32, deadline: Duration) -> Duration {
        let began = Instant::now();
        let are_there = || {
            let seen = |player: &Arc<Seen>| {
                player.frames.load(Ordering::Acquire) > 0 && player.latest.load(Ordering::Acquire) >= number
            };
            self.players.iter().filter(|player| seen(player)).count()
        };
        let all = wait::within(deadline, || (are_there() == self.players.len()).then_some(()));
        assert!(all.is_some(), "{} of {} see frame {number} within {deadline:?}", are_there(), self.players.len());
        began.elapsed()
    }

    pub fn closed(&self) -> usize {
        self.players.iter().filter(|player| player.closed.load(Ordering::Acquire)).count()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn pause(time: Duration, stopped: &AtomicBool) {
    wait::within(time, || stopped.load(Ordering::Acquire).then_some(()));
}

const FRAME_MS: u32 = 20;
const GOP_FRAMES: u32 = 10;
