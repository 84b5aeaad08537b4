//! A healthy stream beside a test: a publisher and a player who must never notice what else happens on the server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::core_wait::{CoreWait, Moment};
use super::peer::{AVC_CONFIG, Next, RtmpPeer, avc_frame, avc_frame_number};
use super::server::TestServer;
use super::{wait, wire};

/// Runs `case` with a healthy stream beside it, then asserts that the stream lost nothing and was not held up, that the server
/// lives, and that its memory and descriptors are back where they were.
#[track_caller]
pub fn unharmed(server: &mut TestServer, case: impl FnOnce(&TestServer)) {
    let stream = HealthyStream::beside(server);
    case(server);
    stream.check(server);
}

/// The same for a case so heavy that the allocator keeps a few MiB of what it needed, for the next time: the case has run
/// twice before anything is measured, so a third time must find room in what is there. A leak shows all the same.
#[track_caller]
pub fn unharmed_once_more(server: &mut TestServer, case: impl Fn(&TestServer)) {
    for _ in 0..2 {
        case(server);
    }
    unharmed(server, case);
}

/// 25 frames a second, numbered, published by one thread and played by another.
pub struct HealthyStream {
    stop: Arc<AtomicBool>,
    sent: Frames,
    played: Frames,
    threads: Vec<JoinHandle<()>>,
    descriptors: usize,
    memory_kib: u64,
}

/// When each frame was sent, or arrived.
type Frames = Arc<Mutex<BTreeMap<u32, Moment>>>;

impl HealthyStream {
    /// Returns when frames flow and the server's use of memory and descriptors has been noted.
    pub fn beside(server: &TestServer) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, played) = (Frames::default(), Frames::default());
        let core_wait = Arc::new(CoreWait::new(server.pid()));
        let (mut player, _) = RtmpPeer::play(server.port(), APP, NAME);
        let (mut publisher, msid) = RtmpPeer::publish(server.port(), APP, NAME);

        let mut threads = Vec::new();
        let (stopped, frames, clock) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&core_wait));
        threads.push(std::thread::spawn(move || {
            clock.add_this_thread();
            publisher.set_chunk_size(4096);
            publisher.send_video(msid, 0, AVC_CONFIG);
            let began = Instant::now();
            for number in 0.. {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let frame = avc_frame(number % GOP_FRAMES == 0, number, FRAME_BYTES);
                frames.lock().expect("no other thread panics").insert(number, clock.now());
                publisher.send_video(msid, number * FRAME_MS, &frame);
                let next = Duration::from_millis(u64::from((number + 1) * FRAME_MS));
                std::thread::sleep(next.saturating_sub(began.elapsed()));
            }
        }));
        let (stopped, frames, clock) = (Arc::clone(&stop), Arc::clone(&played), core_wait);
        threads.push(std::thread::spawn(move || {
            clock.add_this_thread();
            loop {
                match player.next(Duration::from_millis(50)) {
                    Next::Message(message) if message.kind == wire::VIDEO => {
                        if let Some(number) = avc_frame_number(&message.payload) {
                            frames.lock().expect("no other thread panics").insert(number, clock.now());
                        }
                    }
                    Next::Message(_) => {}
                    Next::Nothing if stopped.load(Ordering::Acquire) => return,
                    Next::Nothing => {}
                    Next::Closed => return,
                }
            }
        }));
        let mut stream = Self { stop, sent, played, threads, descriptors: 0, memory_kib: 0 };
        stream.wait_for_frames(BASELINE_FRAMES);
        stream.descriptors = server.fds();
        stream.memory_kib = server.anonymous_kib();
        stream
    }

    /// Ends the stream and asserts everything that [`unharmed`] promises.
    #[track_caller]
    pub fn check(mut self, server: &mut TestServer) {
        let so_far = self.played.lock().expect("no other thread panics").len();
        assert!(server.is_alive(), "the server ended:\n{}", server.log());
        let log = server.log();
        assert!(!log.contains("panicked at"), "a panic:\n{log}");
        self.wait_for_frames(so_far + BASELINE_FRAMES);

        let back = wait::within(RETURN_DEADLINE, || {
            let fits =
                server.fds() <= self.descriptors && server.anonymous_kib() <= self.memory_kib + MEMORY_ALLOWANCE_KIB;
            fits.then_some(())
        });
        assert!(
            back.is_some(),
            "not back within {RETURN_DEADLINE:?}: {} descriptors (were {}), {} KiB (were {})\n{log}",
            server.fds(),
            self.descriptors,
            server.anonymous_kib(),
            self.memory_kib
        );

        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("the healthy stream met no error");
        }
        self.assert_nothing_noticed();
    }

    #[track_caller]
    fn assert_nothing_noticed(&self) {
        let sent = self.sent.lock().expect("no other thread panics");
        let played = self.played.lock().expect("no other thread panics");
        let first = *played.keys().next().expect("frames were played");
        let lost: Vec<u32> =
            sent.range(first..).map(|(number, _)| *number).filter(|n| !played.contains_key(n)).collect();
        assert!(lost.is_empty(), "the healthy stream lost frames {lost:?} of {}", sent.len());

        let delay = |number: &u32| played[number].later_than(&sent[number]);
        let baseline = played.keys().take(BASELINE_FRAMES).map(delay).max().expect("the baseline was waited for");
        let worst = played.keys().max_by_key(|number| delay(number)).expect("frames were played");
        assert!(
            delay(worst) <= baseline + DELAY_ALLOWANCE,
            "frame {worst} of the healthy stream was held up for {:?} (baseline {baseline:?}; from send to arrival it took {:?})",
            delay(worst),
            played[worst].at - sent[worst].at
        );
    }

    #[track_caller]
    fn wait_for_frames(&self, count: usize) {
        wait::until("frames of the healthy stream", Duration::from_secs(10), || {
            (self.played.lock().expect("no other thread panics").len() >= count).then_some(())
        });
    }
}

impl Drop for HealthyStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

const APP: &str = "live";
const NAME: &str = "healthy";
const FRAME_MS: u32 = 40;
const GOP_FRAMES: u32 = 25;
const FRAME_BYTES: usize = 1500;
const BASELINE_FRAMES: usize = 5;
/// What a bad neighbour may add to a frame's way.
const DELAY_ALLOWANCE: Duration = Duration::from_millis(100);
const RETURN_DEADLINE: Duration = Duration::from_secs(10);
const MEMORY_ALLOWANCE_KIB: u64 = 2048;
