//! The whole server at one moment: what statistics, metrics and lists are made of. Made once, shared by all who asked for it.

use std::{sync::Arc, time::Duration};

use super::{
    counters::{About, Protocol},
    relay_status::RelayView,
    roll::{ClientNow, ClientRole, Pulse, Who},
    traffic::Traffic,
};
use crate::{
    actors::{children::ChildView, hooks::HookStatus, steward::ArbiterNow},
    media::{key::StreamKey, meter::Readings},
};

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub server: ServerNow,
    /// By name.
    pub streams: Vec<StreamNow>,
    /// Publishers, players, viewers and relays, the newest first.
    pub clients: Vec<Client>,
    pub relays: Vec<RelayView>,
    pub hooks: HookStatus,
    pub children: Vec<ChildView>,
}

/// The process.
#[derive(Clone, Debug, Default)]
pub struct ServerNow {
    pub uptime: Duration,
    /// The clock of the house, which the times of clients are on.
    pub now: Duration,
    /// RTMP connections since the start.
    pub accepted: u64,
    /// Connections that are open, of both protocols.
    pub connections: u64,
    /// Of all sockets since the start, and bits a second over the last ten.
    pub traffic: Traffic,
    pub bits_in: u64,
    pub bits_out: u64,
    pub arbiters: Vec<ArbiterNow>,
    pub limits: Vec<Limit>,
}

/// A bound of the process and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The directive that sets it.
    pub name: &'static str,
    /// 0: none.
    pub max: u64,
    pub used: u64,
}

/// One stream.
#[derive(Clone, Debug)]
pub struct StreamNow {
    pub key: StreamKey,
    /// Tells it from others of the same name before it and after it.
    pub id: u64,
    /// The id of the session that publishes.
    pub publisher: Option<u64>,
    /// Media has come from it.
    pub active: bool,
    /// Since there is the stream, and since somebody publishes it.
    pub age: Duration,
    pub published_for: Option<Duration>,
    pub about: About,
    pub readings: Readings,
    pub bytes_in: u64,
    pub packets_in: u64,
    pub bytes_out: u64,
    /// The publisher's own clock.
    pub clock_ms: u32,
    pub jumps: u64,
    pub refused_messages: u64,
    pub missed_deliveries: u64,
    /// Who watches, by protocol: those that nobody watches over are left out.
    pub players: Vec<(Protocol, u32)>,
    pub outputs: Vec<OutputNow>,
}

/// Something that is made of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputNow {
    /// `ts`, `mp4`: endless; `hls`, `dash`: segments.
    pub kind: &'static str,
    /// `memory` or `disk`.
    pub place: &'static str,
    pub viewers: usize,
    /// Requests that wait for something to come.
    pub waiting: usize,
}

/// A client, and how far it is behind.
#[derive(Clone, Debug)]
pub struct Client {
    pub who: Arc<Who>,
    pub pulse: Pulse,
    /// What waits for it here and in the kernel, as media time at the rate of its stream.
    pub behind_ms: u64,
    pub hindrance: Option<Hindrance>,
    /// It watches segments: what it has asked for last, in time that has passed.
    pub idle: Option<Duration>,
}

/// What keeps a client from being up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It does not read what it is sent as fast as it comes: its TCP window is full.
    WindowFull,
    /// The network loses what it is sent.
    Loss,
    /// The network is slower than the stream.
    Network,
    /// It is behind, and nothing says why.
    Unknown,
}

impl Hindrance {
    /// The word for it in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::WindowFull => "window_full",
            Self::Loss => "loss",
            Self::Network => "network",
            Self::Unknown => "unknown",
        }
    }
}

impl Client {
    /// `bits`: what its stream has, a second.
    pub fn new(client: ClientNow, bits: u64) -> Self {
        let ClientNow { who, pulse } = client;
        let in_kernel = pulse.kernel.map_or(0, |kernel| u64::from(kernel.unsent));
        let in_kernel_ms = (in_kernel * 8000).checked_div(bits).unwrap_or_default();
        let behind_ms = u64::try_from(pulse.queue_ms).unwrap_or_default() + in_kernel_ms;
        let hindrance = if who.role == ClientRole::Player { hindrance(&pulse, behind_ms) } else { None };
        Self { who, pulse, behind_ms, hindrance, idle: None }
    }

    /// The larger, the slower.
    pub fn slowness(&self) -> (u64, u64, u64) {
        let Pulse { queue_bytes, drops, .. } = self.pulse;
        (self.behind_ms, queue_bytes as u64, drops.skips)
    }
}

fn hindrance(pulse: &Pulse, behind_ms: u64) -> Option<Hindrance> {
    if behind_ms < BEHIND_MS && !pulse.blocked && pulse.queue_bytes == 0 {
        return None;
    }
    let Some(kernel) = pulse.kernel else { return Some(Hindrance::Unknown) };
    // A window smaller than what lies here, or one that was full for most of the time.
    let window_is_full = u64::from(kernel.window) < SEGMENT.max(kernel.unacknowledged);
    Some(if window_is_full || kernel.window_full_ms * 2 > kernel.busy_ms {
        Hindrance::WindowFull
    } else if kernel.retransmits >= FEW {
        Hindrance::Loss
    } else {
        Hindrance::Network
    })
}

impl Snapshot {
    /// How many connections there are to a stream, by what they do.
    pub fn clients_of<'a>(&'a self, key: &'a StreamKey) -> impl Iterator<Item = &'a Client> {
        self.clients.iter().filter(move |client| client.who.key == *key)
    }
}

/// A hiccup of any network.
const BEHIND_MS: u64 = 300;

/// A window below a segment takes nothing.
const SEGMENT: u64 = 1460;

/// Segments that were sent again before that counts as a reason.
const FEW: u32 = 10;

#[cfg(test)]
mod tests {
    use super::super::kernel::Kernel;
    use super::*;

    #[test]
    fn a_client_that_is_behind_is_told_what_hinders_it() {
        let kernel = Kernel { window: 60_000, busy_ms: 10_000, ..Kernel::default() };
        for (kernel, expected) in [
            (Some(Kernel { window: 0, ..kernel }), Hindrance::WindowFull),
            (Some(Kernel { window_full_ms: 6_000, ..kernel }), Hindrance::WindowFull),
            (Some(Kernel { retransmits: 50, ..kernel }), Hindrance::Loss),
            (Some(kernel), Hindrance::Network),
            (None, Hindrance::Unknown),
        ] {
            let pulse = Pulse { queue_bytes: 1, kernel, ..Pulse::default() };
            assert_eq!(hindrance(&pulse, 0), Some(expected), "{kernel:?}");
        }
        assert_eq!(hindrance(&Pulse { kernel: Some(kernel), ..Pulse::default() }, 299), None);
    }
}
