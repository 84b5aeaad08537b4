//! What the API shows of a snapshot.

use std::{collections::BTreeMap, time::Duration};

use super::types;
use crate::{
    actors::{
        children::ChildView,
        hooks::HookStatus,
        steward::ArbiterNow,
        support::{
            bans,
            bans::BanScope,
            counters::About,
            kernel,
            relay_status::RelayView,
            roll::ClientRole,
            snapshot::{self, Snapshot, StreamNow},
        },
    },
    media::{key::StreamKey, queue::Drops},
};

pub fn server(snapshot: &Snapshot) -> types::ServerInfo {
    let server = &snapshot.server;
    types::ServerInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: server.uptime.as_secs(),
        connections: server.connections,
        accepted: server.accepted,
        bytes_in: server.traffic.bytes_in,
        bytes_out: server.traffic.bytes_out,
        bits_in: server.bits_in,
        bits_out: server.bits_out,
        streams: snapshot.streams.len() as u64,
        publishers: snapshot.streams.iter().filter(|stream| stream.publisher.is_some()).count() as u64,
        players: snapshot.streams.iter().map(players).sum(),
        arbiters: server.arbiters.iter().map(arbiter).collect(),
        limits: server.limits.iter().map(limit).collect(),
    }
}

fn arbiter(arbiter: &ArbiterNow) -> types::Arbiter {
    types::Arbiter {
        index: arbiter.index as u64,
        load: arbiter.load,
        lag_ms: milliseconds(arbiter.lag),
        clients: arbiter.clients as u64,
        bytes_in: arbiter.traffic.bytes_in,
        bytes_out: arbiter.traffic.bytes_out,
        bits_in: arbiter.bits_in,
        bits_out: arbiter.bits_out,
    }
}

fn limit(limit: &snapshot::Limit) -> types::Limit {
    types::Limit { name: limit.name.to_owned(), max: Some(limit.max).filter(|max| *max > 0), used: limit.used }
}

/// Who watches a stream, over all protocols.
pub fn players(stream: &StreamNow) -> u64 {
    stream.players.iter().map(|(_, count)| u64::from(*count)).sum()
}

/// What is looked up for each stream that is shown: gathered once for all of them.
pub struct Beside<'a> {
    drops: BTreeMap<&'a StreamKey, Drops>,
    relays: BTreeMap<&'a StreamKey, Vec<&'a RelayView>>,
}

impl<'a> Beside<'a> {
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut drops: BTreeMap<_, Drops> = BTreeMap::new();
        for client in &snapshot.clients {
            let sum = drops.entry(&client.who.key).or_default();
            let Drops { video, audio, skips } = client.pulse.drops;
            (sum.video, sum.audio, sum.skips) = (sum.video + video, sum.audio + audio, sum.skips + skips);
        }
        let mut relays: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for relay in &snapshot.relays {
            relays.entry(&relay.key).or_default().push(relay);
        }
        Self { drops, relays }
    }

    pub fn drops(&self, key: &StreamKey) -> Drops {
        self.drops.get(key).copied().unwrap_or_default()
    }

    pub fn stream(&self, stream: &StreamNow) -> types::Stream {
        let readings = &stream.readings;
        let (video, audio) = tracks(&stream.about);
        types::Stream {
            id: stream.id,
            server: stream.key.vhost.to_string(),
            app: stream.key.app.to_string(),
            name: stream.key.name.to_string(),
            publishing: stream.publisher.is_some(),
            active: stream.active,
            publisher: stream.publisher,
            age_s: stream.age.as_secs(),
            published_s: stream.published_for.map(|time| time.as_secs()),
            video,
            audio,
            fps: readings.fps,
            gop_ms: readings.gop.map(|gop| gop.ms),
            gop_frames: readings.gop.map(|gop| gop.frames),
            av_offset_ms: readings.av_offset_ms,
            jitter_ms: readings.jitter_ms,
            jumps: stream.jumps,
            bits_in: readings.bits_in,
            bits_audio: readings.bits_audio,
            bits_video: readings.bits_video,
            bits_out: readings.bits_out,
            bytes_in: stream.bytes_in,
            bytes_out: stream.bytes_out,
            video_frames: readings.totals.video_frames,
            audio_frames: readings.totals.audio_frames,
            keyframes: readings.totals.keyframes,
            refused_messages: stream.refused_messages,
            missed_deliveries: stream.missed_deliveries,
            players: players(stream),
            players_by_protocol: stream
                .players
                .iter()
                .map(|(protocol, count)| (protocol.name().to_owned(), u64::from(*count)))
                .collect(),
            drops: drops_of(self.drops(&stream.key)),
            outputs: stream.outputs.iter().map(output).collect(),
            relays: self.relays.get(&stream.key).into_iter().flatten().map(|view| relay(view)).collect(),
        }
    }
}

fn tracks(about: &About) -> (Option<types::Video>, Option<types::Audio>) {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let video = about.video.as_ref().map(|(codec, info)| {
        let info = info.as_ref();
        types::Video {
            codec: codec.name().to_owned(),
            codec_string: info.and_then(|info| text(&info.codec_string)),
            width: info.map(|info| info.width).filter(|width| *width > 0),
            height: info.map(|info| info.height).filter(|height| *height > 0),
            profile: info.and_then(|info| text(info.profile)),
            level: info.map(|info| info.level),
            bit_depth: info.map(|info| info.bit_depth),
            interlaced: info.map(|info| info.interlaced),
            declared_fps: info.and_then(|info| info.fps),
        }
    });
    let audio = about.audio.as_ref().map(|(codec, info)| {
        let info = info.as_ref();
        types::Audio {
            codec: codec.name().to_owned(),
            codec_string: info.and_then(|info| text(&info.codec_string)),
            profile: info.and_then(|info| text(info.profile)),
            sample_rate_hz: info.map(|info| info.rate),
            channels: info.and_then(|info| info.channels),
        }
    });
    (video, audio)
}

fn output(output: &snapshot::OutputNow) -> types::Output {
    types::Output {
        kind: output.kind.to_owned(),
        place: output.place.to_owned(),
        viewers: output.viewers as u64,
        waiting: output.waiting as u64,
    }
}

fn drops_of(Drops { video, audio, skips }: Drops) -> types::Drops {
    types::Drops { video, audio, skips }
}

/// `now`: on the clock of the house.
pub fn client(client: &snapshot::Client, now: Duration) -> types::Client {
    let snapshot::Client { who, pulse, behind_ms, hindrance, idle } = client;
    types::Client {
        id: who.id,
        role: who.role.name().to_owned(),
        protocol: who.protocol.to_owned(),
        server: who.key.vhost.to_string(),
        app: who.key.app.to_string(),
        name: who.key.name.to_string(),
        // Of the far end of a relay only the address is known.
        address: who.address.map(|at| if at.port() == 0 { at.ip().to_string() } else { at.to_string() }),
        agent: who.agent.clone(),
        page_url: who.page_url.clone(),
        swf_url: who.swf_url.clone(),
        tc_url: who.tc_url.clone(),
        is_relay: who.is_relay,
        connected_s: now.saturating_sub(who.connected).as_secs(),
        began_s: now.saturating_sub(who.began).as_secs(),
        queue: types::Queue { bytes: pulse.queue_bytes as u64, ms: u64::try_from(pulse.queue_ms).unwrap_or_default() },
        behind_ms: *behind_ms,
        reason: hindrance.map(|hindrance| hindrance.name().to_owned()),
        drops: drops_of(pulse.drops),
        paused: pulse.paused,
        blocked: pulse.blocked,
        idle_ms: idle.map(whole_milliseconds),
        first_frame_ms: pulse.first_frame.map(whole_milliseconds),
        bytes_in: pulse.bytes_in,
        bytes_out: pulse.bytes_out,
        kernel: pulse.kernel.as_ref().map(kernel_of),
    }
}

fn kernel_of(kernel: &kernel::Kernel) -> types::Kernel {
    types::Kernel {
        rtt_ms: kernel.rtt_us as f32 / 1000.0,
        retransmits: kernel.retransmits,
        window_bytes: kernel.window,
        congestion_window_bytes: kernel.congestion_window,
        unsent_bytes: kernel.unsent.into(),
        unacknowledged_bytes: kernel.unacknowledged,
        delivery_bits_s: kernel.delivery_rate,
        busy_ms: kernel.busy_ms,
        window_full_ms: kernel.window_full_ms,
    }
}

pub fn relay(relay: &RelayView) -> types::Relay {
    types::Relay {
        id: relay.id,
        direction: relay.direction.to_owned(),
        server: relay.key.vhost.to_string(),
        app: relay.key.app.to_string(),
        name: relay.key.name.to_string(),
        origin: relay.origin.to_owned(),
        url: relay.url.clone(),
        peer: relay.peer.map(|peer| peer.to_string()),
        state: relay.state.name().to_owned(),
        attempt: relay.attempt,
        last_error: relay.last_error.clone(),
        next_try_ms: relay.next_try_ms,
        bytes: relay.bytes,
        lag_ms: relay.lag_ms,
        drops: relay.drops,
        age_s: relay.since_s,
    }
}

/// `now`: on the clock of the house.
pub fn ban(ban: &bans::Ban, now: Duration) -> types::Ban {
    let (by, address, name) = match &ban.scope {
        BanScope::Address(address) => ("address", Some(*address), None),
        BanScope::Name { key, role } => ("name", None, Some((key, *role))),
        BanScope::Both { address, key, role } => ("both", *address, Some((key, *role))),
    };
    let key = name.map(|(key, _)| key);
    types::Ban {
        id: ban.id,
        by: by.to_owned(),
        address: address.map(|address| address.to_string()),
        server: key.map(|key| key.vhost.to_string()),
        app: key.map(|key| key.app.to_string()),
        name: key.map(|key| key.name.to_string()),
        role: name.map(|(_, role): (_, ClientRole)| role.name().to_owned()),
        reason: ban.reason.clone(),
        age_s: now.saturating_sub(ban.since).as_secs(),
        left_s: ban.until.saturating_sub(now).as_millis().div_ceil(1000) as u64,
    }
}

pub fn hooks(hooks: &HookStatus) -> types::Hooks {
    let endpoints = hooks.endpoints.iter().map(|endpoint| types::HookEndpoint {
        endpoint: endpoint.endpoint.clone(),
        asked: endpoint.asked,
        failed: endpoint.failed,
        waiting: endpoint.waiting as u64,
        delivered: endpoint.delivered,
        lost: endpoint.lost,
        last_error: endpoint.last_error.clone(),
    });
    types::Hooks {
        asking: hooks.asking as u64,
        updating: hooks.updating as u64,
        crowded: hooks.crowded,
        endpoints: endpoints.collect(),
    }
}

pub fn child(child: &ChildView) -> types::Child {
    types::Child {
        stream: child.stream.clone(),
        directive: child.kind.to_owned(),
        command: child.command.clone(),
        pid: child.pid,
        running_ms: child.running_ms,
        restarts: child.restarts,
        last_exit: child.last_exit.clone(),
    }
}

fn milliseconds(time: Duration) -> f32 {
    time.as_secs_f32() * 1000.0
}

fn whole_milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
