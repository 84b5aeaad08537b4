//! What every connection is given: where to ask, what is allowed, and where to write down that it was here.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;
use tokio::time::Instant;

use super::{
    children::Children,
    hooks::Hooks,
    live_stream::Rules,
    relays::Relays,
    router::Router,
    support::{
        bans::Bans,
        census::Census,
        deadlines::Times,
        directory::Directory,
        disk::Disk,
        guests::Guests,
        registry::{InMemory, StreamDirectory},
        route::NodeId,
        shelf::Shelf,
        viewers::Viewers,
    },
};
use crate::{
    config::{Application, Config, Limits, RtmpOptions, Server},
    log::access::{AccessLog, AccessLogs},
    media::{gather::GatherRules, key::StreamKey, queue::QueueRules},
    protocol::{
        amf,
        rtmp::{limits::SessionLimits, server::SessionConfig},
    },
};

/// Shared by all connections; holds no state of its own but counts.
pub struct House {
    pub router: Addr<Router>,
    pub census: Census,
    pub directory: Directory,
    pub viewers: Viewers,
    /// Who is kept out.
    pub bans: Bans,
    /// Viewers of segments that hooks were asked about.
    pub guests: Guests,
    /// Outputs made of segments that are in memory.
    pub shelf: Shelf,
    pub disk: Disk,
    pub limits: Limits,
    pub desks: Desks,
    /// What the scheduler of this process knows.
    pub scheduler: Arc<dyn StreamDirectory>,
    /// Tells relays of this process from those of others.
    pub node: NodeId,
    /// The applications of each server, by its index.
    floors: Vec<Floor>,
    started: Instant,
    numbers: Numbers,
    /// RTMP connections that were let in.
    accepted: AtomicU64,
    tls_handshakes: AtomicU32,
    max_tls_handshakes: u32,
}

/// Those who look after what happens outside of this process. None of them: nothing does.
#[derive(Default)]
pub struct Desks {
    pub hooks: Option<Addr<Hooks>>,
    pub relays: Option<Addr<Relays>>,
    pub children: Option<Addr<Children>>,
}

impl House {
    pub fn new(
        router: Addr<Router>,
        census: Census,
        directory: Directory,
        config: &Config,
        logs: &AccessLogs,
        arbiters: u32,
    ) -> Self {
        let limits = config.limits.clone();
        let max_tls_handshakes = limits.max_tls_handshakes.saturating_mul(arbiters);
        let floors = config.servers.iter().map(|server| Floor::new(server, &limits, logs)).collect();
        Self {
            router,
            census,
            directory,
            viewers: Viewers::default(),
            bans: Bans::default(),
            guests: Guests::default(),
            shelf: Shelf::default(),
            disk: Disk::default(),
            limits,
            desks: Desks::default(),
            scheduler: Arc::new(InMemory::default()),
            node: NodeId::random(),
            floors,
            started: Instant::now(),
            numbers: Numbers::default(),
            accepted: AtomicU64::new(0),
            tls_handshakes: AtomicU32::new(0),
            max_tls_handshakes,
        }
    }

    /// The same, with those who look after what happens outside.
    #[must_use]
    pub fn with_desks(self, desks: Desks) -> Self {
        Self { desks, ..self }
    }

    /// Time since the server started.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The number of a new connection, of either protocol: the `*1` of the logs.
    pub fn next_connection(&self) -> u64 {
        self.numbers.next()
    }

    /// For those who give numbers to clients that are no connections.
    pub fn numbers(&self) -> Numbers {
        self.numbers.clone()
    }

    /// An RTMP connection was let in.
    pub fn note_accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// RTMP connections that were let in since the start.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn tls_handshakes(&self) -> u32 {
        self.tls_handshakes.load(Ordering::Relaxed)
    }

    pub fn max_tls_handshakes(&self) -> u32 {
        self.max_tls_handshakes
    }

    /// The application of this name, as the running server has it.
    pub fn venue(&self, server: &Server, name: &str) -> Option<Arc<Venue>> {
        let application = server.application(name)?;
        let floor = self.floors.get(server.index)?;
        floor.venues.iter().find(|venue| Arc::ptr_eq(&venue.application, application)).map(Arc::clone)
    }

    /// The application that a stream belongs to.
    pub fn venue_of(&self, key: &StreamKey) -> Option<Arc<Venue>> {
        let floors = self.floors.iter().filter(|floor| *floor.id == *key.vhost);
        floors.into_iter().find_map(|floor| {
            let named = |name: &str| floor.venues.iter().find(|venue| venue.application.name == name);
            named(&key.app).or_else(|| named("*")).map(Arc::clone)
        })
    }

    /// Those of all servers.
    pub fn applications(&self) -> impl Iterator<Item = &Application> {
        self.floors.iter().flat_map(|floor| &floor.venues).map(|venue| &*venue.application)
    }

    /// What sessions with this server have in common.
    pub fn session_config(&self, server: &Server) -> Arc<SessionConfig> {
        self.floors.get(server.index).map(|floor| Arc::clone(&floor.session)).unwrap_or_default()
    }

    /// How long a connection to this server may take before it has said which application it wants.
    pub fn times(&self, server: &Server) -> Option<Arc<Times>> {
        self.floors.get(server.index).map(|floor| Arc::clone(&floor.times))
    }

    pub fn tls_is_crowded(&self) -> bool {
        self.max_tls_handshakes > 0 && self.tls_handshakes.load(Ordering::Relaxed) >= self.max_tls_handshakes
    }
}

/// Numbers of clients, each given once. A clone goes on where the others are.
#[derive(Clone, Default)]
pub struct Numbers(Arc<AtomicU64>);

impl Numbers {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// One application, with what is made of it once and shared by its sessions.
pub struct Venue {
    pub application: Arc<Application>,
    pub rules: Arc<Rules>,
    /// What of a publisher waits for what.
    pub gather: GatherRules,
    /// How long its publishers and players may take.
    pub times: Arc<Times>,
    pub access_log: AccessLog,
    /// What its sessions have in common.
    pub session: Arc<SessionConfig>,
    /// Packets that may wait for a player, where the configuration says so.
    pub max_packets: Option<usize>,
}

impl Venue {
    /// What waits for a player here, at the most.
    pub fn queue_rules(&self) -> QueueRules {
        let live = &self.application.live_options;
        QueueRules {
            max_bytes: live.out_queue_bytes,
            max_ms: live.out_queue_time.as_millis() as i64,
            max_packets: self.max_packets,
            wait_key: live.wait_key,
            wait_video: live.wait_video,
            jump_to_keyframe: live.low_latency,
        }
    }
}

struct Floor {
    /// The virtual host in stream names.
    id: String,
    venues: Vec<Arc<Venue>>,
    session: Arc<SessionConfig>,
    times: Arc<Times>,
}

impl Floor {
    fn new(server: &Server, limits: &Limits, logs: &AccessLogs) -> Self {
        // Bytes and seconds bound the queue; a number of packets does so as well only where somebody chose one.
        let usual = RtmpOptions::default().out_queue;
        let session = Arc::new(session_config(server, limits));
        let venue = |application: &Arc<Application>| {
            let live = application.live_options.clone();
            Arc::new(Venue {
                gather: GatherRules {
                    low_latency: live.low_latency,
                    audio_hold: live.audio_hold,
                    merge: live.merge,
                    cork: server.rtmp.out_cork,
                },
                times: Arc::new(Times {
                    idle_publisher: live.drop_idle_publisher,
                    slow_player: live.slow_player_timeout,
                    ..Times::new(limits, &server.rtmp)
                }),
                rules: Arc::new(Rules {
                    live,
                    amf: amf_limits(limits, limits.amf_max_data_string),
                    is_fetched: is_fetched(application),
                }),
                access_log: logs.of(&application.access_log),
                session: Arc::clone(&session),
                max_packets: (server.rtmp.out_queue != usual).then_some(server.rtmp.out_queue),
                application: Arc::clone(application),
            })
        };
        Self {
            id: server.id.clone(),
            venues: server.applications.iter().map(venue).collect(),
            session,
            times: Arc::new(Times::new(limits, &server.rtmp)),
        }
    }
}

/// Whether streams of this application may come from elsewhere.
fn is_fetched(application: &Application) -> bool {
    !application.relays.pulls.is_empty() || application.oclp.pull.is_some() || application.exec.pulls()
}

fn session_config(server: &Server, limits: &Limits) -> SessionConfig {
    let rtmp = &server.rtmp;
    let usual = SessionConfig::default();
    SessionConfig {
        chunk_size: rtmp.chunk_size,
        ack_window: rtmp.ack_window,
        repeat_extended: rtmp.play_time_fix,
        limits: SessionLimits {
            max_message_before: limits.max_message_before_publish,
            max_message: rtmp.max_message,
            max_csids: rtmp.max_streams as usize,
            max_streams: limits.max_message_streams as usize,
            control_per_second: limits.max_control_rate,
            courtesies_per_second: limits.max_unknown_command_rate,
            amf_command: amf::Limits {
                values: amf::Limits::COMMAND.values.min(limits.amf_max_values),
                ..amf_limits(limits, limits.amf_max_string)
            },
            amf_data: amf_limits(limits, limits.amf_max_data_string),
            ..usual.limits.clone()
        },
        ..usual
    }
}

fn amf_limits(limits: &Limits, string_bytes: usize) -> amf::Limits {
    let usual = amf::Limits::DATA;
    amf::Limits { depth: limits.amf_max_depth, values: limits.amf_max_values, string_bytes, ..usual }
}

/// A TLS handshake in progress: counted until this is dropped.
pub struct TlsHandshake(Arc<House>);

impl TlsHandshake {
    pub fn begin(house: &Arc<House>) -> Self {
        house.tls_handshakes.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(house))
    }
}

impl Drop for TlsHandshake {
    fn drop(&mut self) {
        self.0.tls_handshakes.fetch_sub(1, Ordering::Relaxed);
    }
}
