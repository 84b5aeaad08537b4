//! One arbiter as seen from inside: who publishes and plays there, and how busy it is.
//!
//! It walks its clients in steps, and between two of them the arbiter serves its sockets: whoever asks for everybody costs
//! nobody a frame.

use std::time::Duration;

use actix::prelude::*;
use nix::time::{ClockId, clock_gettime};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::support::{
    roll::{self, ClientNow, Order},
    traffic::{self, Traffic},
};

pub struct Steward {
    index: usize,
    /// One sample a second, the newest last; the first of each pair is when it was due.
    samples: Vec<Sample>,
    next: Instant,
    lag: Duration,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: Duration,
    traffic: Traffic,
}

/// Who is here, and how busy is it?
#[derive(Message)]
#[rtype(result = "Called")]
pub struct CallRoll;

/// The answer to [`CallRoll`].
#[derive(MessageResponse)]
pub struct Called {
    /// In the order of their ids.
    pub clients: Vec<ClientNow>,
    pub arbiter: ArbiterNow,
}

/// An arbiter at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ArbiterNow {
    pub index: usize,
    /// The share of one core that it used over the last ten seconds: 0 to 1.
    pub load: f32,
    /// How late its last timer of a second was.
    pub lag: Duration,
    pub clients: usize,
    /// Of its sockets since it began, and bits a second over the last ten.
    pub traffic: Traffic,
    pub bits_in: u64,
    pub bits_out: u64,
}

/// Passes an order on to those of these clients who are here; answers how many they are.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct GiveOrder {
    pub ids: std::sync::Arc<[u64]>,
    pub order: Order,
}

impl Steward {
    pub fn new(index: usize) -> Self {
        Self { index, samples: Vec::with_capacity(SAMPLES), next: Instant::now(), lag: Duration::ZERO }
    }

    fn sample(&mut self, now: Instant) {
        if self.samples.len() == SAMPLES {
            self.samples.remove(0);
        }
        self.samples.push(Sample { at: now, cpu: cpu_time(), traffic: traffic::so_far() });
    }

    fn now(&self, now: Instant) -> ArbiterNow {
        let traffic = traffic::so_far();
        let first = self.samples.first().copied().unwrap_or(Sample { at: now, cpu: cpu_time(), traffic });
        let passed = now.saturating_duration_since(first.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |bytes: u64| (bytes as f64 * 8.0 / passed) as u64;
        ArbiterNow {
            index: self.index,
            load: (cpu_time().saturating_sub(first.cpu).as_secs_f64() / passed).min(1.0) as f32,
            lag: self.lag,
            clients: roll::len(),
            traffic,
            bits_in: rate(traffic.bytes_in.saturating_sub(first.traffic.bytes_in)),
            bits_out: rate(traffic.bytes_out.saturating_sub(first.traffic.bytes_out)),
        }
    }
}

impl Actor for Steward {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.sample(Instant::now());
        self.next = Instant::now() + SECOND;
        ctx.run_interval(SECOND, |steward, _| {
            let now = Instant::now();
            steward.lag = now.saturating_duration_since(steward.next);
            steward.next = now + SECOND;
            steward.sample(now);
        });
    }
}

impl Handler<CallRoll> for Steward {
    type Result = ResponseFuture<Called>;

    fn handle(&mut self, _: CallRoll, _: &mut Self::Context) -> Self::Result {
        let arbiter = self.now(Instant::now());
        Box::pin(async move {
            let mut clients = Vec::with_capacity(arbiter.clients);
            let mut after = None;
            loop {
                after = roll::look(after, CLIENTS_A_STEP, &mut clients);
                if after.is_none() {
                    break;
                }
                yield_now().await;
            }
            Called { clients, arbiter }
        })
    }
}

impl Handler<GiveOrder> for Steward {
    type Result = usize;

    fn handle(&mut self, GiveOrder { ids, order }: GiveOrder, _: &mut Self::Context) -> usize {
        ids.iter().filter(|id| roll::order(**id, &order)).count()
    }
}

/// Of this thread, since it began.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

const SECOND: Duration = Duration::from_secs(1);

/// Ten seconds of them, and the one before.
const SAMPLES: usize = 11;

/// So many take less than a fifth of a millisecond: a frame that comes meanwhile hardly waits.
const CLIENTS_A_STEP: usize = 64;
