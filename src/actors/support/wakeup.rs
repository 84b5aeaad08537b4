//! How many bytes must lie in a publisher's socket before they are worth waking up for.
//!
//! Audio that rides with the next video frame anyway may as well wait for it in the kernel: that costs nothing, where
//! reading it costs as much as reading a frame. (Measured with 200 publishers: about 18 µs a read, three in five of audio.)

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use actix::prelude::*;
use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::setsockopt};
use tokio::time::Instant;
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

/// Decides the threshold for one publisher.
#[derive(Debug)]
pub struct Wakeup {
    /// How long audio may wait for video; zero: it never waits.
    hold: Duration,
    threshold: u32,
    /// How much the frames of the recent past speak for waiting.
    trust: u32,
    /// When waiting ends, whatever has come.
    due: Option<Duration>,
    /// Waiting has ended: what is read next has waited long enough.
    overdue: bool,
}

impl Wakeup {
    /// For a publisher whose audio may wait so long.
    pub fn new(hold: Duration) -> Self {
        Self { hold: hold.min(MAX_HOLD), threshold: ANY, trust: 0, due: None, overdue: false }
    }

    /// Whether what lies in the socket waits for more.
    pub fn gathers(&self) -> bool {
        self.threshold > ANY
    }

    /// A video frame of so many bytes came. One that is too small to wake anybody must not come to wait.
    pub fn saw_video(&mut self, len: usize) {
        let is_large = len >= LARGE as usize;
        self.trust = if is_large { (self.trust + 1).min(MAX_TRUST) } else { 0 };
    }

    /// Something was read at `now`; `midway`: the last message is not complete. Returns the socket's new threshold
    /// where it is to change.
    pub fn read(&mut self, midway: bool, now: Duration) -> Option<u32> {
        self.overdue = false;
        // The rest of a frame may be small, and nothing may hold it up.
        let waits = !midway && !self.hold.is_zero() && self.trust >= ENOUGH_TRUST;
        self.due = waits.then(|| now + self.hold + GRACE);
        self.set(if waits { LARGE } else { ANY })
    }

    /// When waiting ends, if anything is waited for.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// The time is up: whatever lies in the socket is wanted now.
    pub fn time_is_up(&mut self) -> Option<u32> {
        self.due = None;
        self.overdue = true;
        self.trust = self.trust.saturating_sub(LATE_COSTS);
        self.set(ANY)
    }

    /// Since when what is being read at `now` counts as waiting.
    pub fn waits_since(&self, now: Duration) -> Duration {
        if self.overdue { now.saturating_sub(self.hold) } else { now }
    }

    fn set(&mut self, threshold: u32) -> Option<u32> {
        let changes = self.threshold != threshold;
        self.threshold = threshold;
        changes.then_some(threshold)
    }
}

/// An actor that waits for its publisher in this way.
pub trait Waiter: Actor {
    /// How long is left to wait. None ends the timer: nothing is waited for.
    fn left(&mut self) -> Option<Duration>;

    /// The time is up.
    fn stop_waiting(&mut self);
}

/// The timer of one [`Wakeup`]. Each read puts it off, which costs next to nothing as long as it has not gone off.
pub struct Patience {
    sleep: Pin<Box<Sleep>>,
}

impl Patience {
    pub fn new(left: Duration) -> Self {
        Self { sleep: Box::pin(sleep(left)) }
    }
}

impl<A: Waiter> ActorFuture<A> for Patience {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, actor: &mut A, _: &mut A::Context, task: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            let Some(left) = actor.left() else { return Poll::Ready(()) };
            if left.is_zero() {
                actor.stop_waiting();
                continue;
            }
            self.sleep.as_mut().reset(Instant::now() + left);
            if self.sleep.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Tells the kernel.
pub fn set_threshold(socket: &TcpStream, bytes: u32) {
    // A kernel that cannot wakes us for every byte, as ever.
    let _ = setsockopt(socket, ReceiveThreshold, &bytes);
}

sockopt_impl!(ReceiveThreshold, SetOnly, libc::SOL_SOCKET, libc::SO_RCVLOWAT, u32);

/// Everything is worth waking up for.
const ANY: u32 = 1;

/// What two frames of audio between two of video rarely reach, and a frame of video rarely misses.
const LARGE: u32 = 768;

/// So many large frames one after the other, a second of them, and the next is expected to be large.
const ENOUGH_TRUST: u32 = 25;
const MAX_TRUST: u32 = 4 * ENOUGH_TRUST;

/// What a frame that was waited for in vain takes away: one in ten may be late.
const LATE_COSTS: u32 = 10;

/// Commands wait as audio does; nobody should notice.
const MAX_HOLD: Duration = Duration::from_millis(100);

/// Audio that came right behind a frame waits this much longer for the next, so that at 25 frames a second it still meets it.
const GRACE: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_millis(40);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A publisher whose last so many frames were large, each read whole.
    fn steady(frames: u64) -> Wakeup {
        let mut wakeup = Wakeup::new(HOLD);
        for frame in 0..frames {
            wakeup.saw_video(5_000);
            wakeup.read(false, at(40 * frame));
        }
        wakeup
    }

    #[test]
    fn audio_waits_in_the_socket_once_frames_have_been_large_for_a_while() {
        let mut wakeup = steady(24);
        assert_eq!(wakeup.due(), None);
        wakeup.saw_video(5_000);
        assert_eq!(wakeup.read(false, at(2_000)), Some(LARGE));
        assert_eq!(wakeup.due(), Some(at(2_044)));
        wakeup.saw_video(5_000);
        assert_eq!(wakeup.read(false, at(2_040)), None, "nothing changes, so the kernel is not told again");
        assert_eq!(wakeup.due(), Some(at(2_084)), "but the waiting begins anew");
    }

    #[test]
    fn the_rest_of_a_frame_is_waited_for_with_everything_awake() {
        let mut wakeup = steady(60);
        assert_eq!(wakeup.read(true, at(2_400)), Some(ANY));
        assert_eq!(wakeup.due(), None);
        assert_eq!(wakeup.read(false, at(2_401)), Some(LARGE));
    }

    #[test]
    fn a_small_frame_ends_the_waiting_for_a_second() {
        let mut wakeup = steady(100);
        wakeup.saw_video(90);
        assert_eq!(wakeup.read(false, at(4_000)), Some(ANY));
        for _ in 0..24 {
            wakeup.saw_video(5_000);
            assert_eq!(wakeup.read(false, at(4_040)), None);
        }
        wakeup.saw_video(5_000);
        assert_eq!(wakeup.read(false, at(6_000)), Some(LARGE));
    }

    #[test]
    fn what_has_waited_its_time_is_overdue_and_nobody_waits_until_it_is_read() {
        let mut wakeup = steady(60);
        assert_eq!(wakeup.time_is_up(), Some(ANY));
        assert_eq!(wakeup.waits_since(at(2_450)), at(2_410));
        assert_eq!(wakeup.due(), None);
        assert_eq!(wakeup.read(false, at(2_450)), Some(LARGE), "one late frame is forgiven");
        assert_eq!(wakeup.waits_since(at(2_460)), at(2_460));
    }

    #[test]
    fn video_that_stays_away_ends_the_waiting() {
        let mut wakeup = steady(60);
        let waits = (0..10).filter(|_| {
            wakeup.time_is_up();
            wakeup.read(false, at(2_500));
            wakeup.due().is_some()
        });
        assert_eq!(waits.count(), 3);
    }

    #[test]
    fn low_latency_waits_for_nothing() {
        let mut wakeup = Wakeup::new(Duration::ZERO);
        for _ in 0..200 {
            wakeup.saw_video(5_000);
            assert_eq!(wakeup.read(false, at(1)), None);
        }
        assert_eq!(wakeup.due(), None);
    }
}
