//! A snapshot in the text format of Prometheus, version 0.0.4.
//!
//! Written by hand: everything comes out of one snapshot, so a registry that keeps series between two scrapes would only have to
//! be emptied again. Labels are bounded: streams beyond the first thousand share one, and no connection has any.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::{Display, Write},
};

use super::view::{self, Beside};
use crate::{
    actors::support::{
        counters::Protocol,
        roll::ClientRole,
        snapshot::{Snapshot, StreamNow},
    },
    media::key::StreamKey,
};

/// Everything that can be summed up.
pub fn text(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    process(&mut text, snapshot);
    totals(&mut text, snapshot);
    streams(&mut text, snapshot);
    beside(&mut text, snapshot);
    text.text
}

fn process(text: &mut Text, snapshot: &Snapshot) {
    let server = &snapshot.server;
    text.family("livemill_build_info", GAUGE, "The version that runs.");
    text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("livemill_uptime_seconds", GAUGE, "Since the start.");
    text.sample(&[], server.uptime.as_secs_f64());
    text.family("livemill_connections", GAUGE, "Open connections, of RTMP and of HTTP.");
    text.sample(&[], server.connections);
    text.family("livemill_connections_accepted_total", COUNTER, "RTMP connections since the start.");
    text.sample(&[], server.accepted);
    text.family("livemill_bytes_total", COUNTER, "Bytes of all sockets of media since the start.");
    text.sample(&[("direction", "in")], server.traffic.bytes_in);
    text.sample(&[("direction", "out")], server.traffic.bytes_out);
    text.family("livemill_bits_per_second", GAUGE, "The same over the last ten seconds.");
    text.sample(&[("direction", "in")], server.bits_in);
    text.sample(&[("direction", "out")], server.bits_out);
    let arbiters: Vec<_> = server.arbiters.iter().map(|arbiter| (arbiter.index.to_string(), arbiter)).collect();
    text.family("livemill_arbiter_load", GAUGE, "The share of a core that a thread used over the last ten seconds.");
    for (index, arbiter) in &arbiters {
        text.sample(&[("arbiter", index)], arbiter.load);
    }
    text.family("livemill_arbiter_lag_seconds", GAUGE, "How late the last timer of a thread was.");
    for (index, arbiter) in &arbiters {
        text.sample(&[("arbiter", index)], arbiter.lag.as_secs_f64());
    }
    text.family("livemill_arbiter_clients", GAUGE, "Who publishes and plays on a thread.");
    for (index, arbiter) in &arbiters {
        text.sample(&[("arbiter", index)], arbiter.clients);
    }
    text.family("livemill_limit", GAUGE, "A bound, by the directive that sets it; 0 is none.");
    for limit in &server.limits {
        text.sample(&[("name", limit.name)], limit.max);
    }
    text.family("livemill_limit_used", GAUGE, "How much of a bound is used.");
    for limit in &server.limits {
        text.sample(&[("name", limit.name)], limit.used);
    }
}

fn totals(text: &mut Text, snapshot: &Snapshot) {
    let streams = &snapshot.streams;
    text.family("livemill_streams", GAUGE, "Names that somebody publishes, plays or waits for.");
    text.sample(&[], streams.len());
    text.family("livemill_streams_publishing", GAUGE, "Streams that somebody publishes.");
    text.sample(&[], streams.iter().filter(|stream| stream.publisher.is_some()).count());
    text.family("livemill_players", GAUGE, "Who watches, by protocol.");
    for protocol in Protocol::ALL {
        let count = |stream: &StreamNow| players(stream, protocol);
        text.sample(&[("protocol", protocol.name())], streams.iter().map(count).sum::<u64>());
    }
    let mut behind: BTreeMap<&str, u64> = ["window_full", "loss", "network", "unknown"].map(|name| (name, 0)).into();
    for client in &snapshot.clients {
        if let (ClientRole::Player, Some(hindrance)) = (client.who.role, client.hindrance) {
            *behind.entry(hindrance.name()).or_default() += 1;
        }
    }
    text.family("livemill_players_behind", GAUGE, "Players that are behind, by what hinders them.");
    for (reason, count) in behind {
        text.sample(&[("reason", reason)], count);
    }
}

/// What of a stream is one number, and can be summed up for those without labels of their own.
struct Sums {
    publishing: u64,
    players: Vec<(&'static str, u64)>,
    bits: [u64; 2],
    bytes: [u64; 2],
    jumps: u64,
    drops: [u64; 3],
}

impl Sums {
    fn of(stream: &StreamNow, beside: &Beside<'_>) -> Self {
        let drops = beside.drops(&stream.key);
        Self {
            publishing: stream.publisher.is_some().into(),
            players: stream.players.iter().map(|(protocol, count)| (protocol.name(), u64::from(*count))).collect(),
            bits: [stream.readings.bits_in, stream.readings.bits_out],
            bytes: [stream.bytes_in, stream.bytes_out],
            jumps: stream.jumps,
            drops: [drops.video, drops.audio, drops.skips],
        }
    }

    fn add(&mut self, other: Self) {
        self.publishing += other.publishing;
        for (protocol, count) in other.players {
            match self.players.iter_mut().find(|(known, _)| *known == protocol) {
                Some((_, sum)) => *sum += count,
                None => self.players.push((protocol, count)),
            }
        }
        let add = |sums: &mut [u64], more: &[u64]| sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        add(&mut self.bits, &other.bits);
        add(&mut self.bytes, &other.bytes);
        add(&mut self.drops, &other.drops);
        self.jumps += other.jumps;
    }
}

fn streams(text: &mut Text, snapshot: &Snapshot) {
    let beside = Beside::of(snapshot);
    let mut shown: Vec<&StreamNow> = snapshot.streams.iter().collect();
    shown.sort_by_cached_key(|stream| (Reverse(view::players(stream)), &stream.key));
    let rest = shown.split_off(shown.len().min(MAX_STREAMS));
    shown.sort_unstable_by_key(|stream| &stream.key);
    let shown: Vec<_> = shown.into_iter().map(|stream| (labels(&stream.key), stream)).collect();
    let mut sums: Vec<_> = shown.iter().map(|(labels, stream)| (labels.clone(), Sums::of(stream, &beside))).collect();
    let other = rest.iter().map(|stream| Sums::of(stream, &beside)).reduce(|mut sum, more| {
        sum.add(more);
        sum
    });
    // No application has an empty name.
    let nobody = [("server", String::new()), ("app", String::new()), ("name", OTHER.to_owned())];
    sums.extend(other.map(|other| (nobody, other)));

    text.family("livemill_stream_publishing", GAUGE, "1: somebody publishes it.");
    for (labels, sums) in &sums {
        text.of_stream(labels, None, sums.publishing);
    }
    text.family("livemill_stream_players", GAUGE, "Who watches a stream, by protocol.");
    for (labels, sums) in &sums {
        for (protocol, count) in &sums.players {
            text.of_stream(labels, Some(("protocol", protocol)), count);
        }
    }
    text.family("livemill_stream_bits_per_second", GAUGE, "Over the last ten seconds.");
    for (labels, sums) in &sums {
        text.of_stream(labels, Some(("direction", "in")), sums.bits[0]);
        text.of_stream(labels, Some(("direction", "out")), sums.bits[1]);
    }
    text.family("livemill_stream_bytes_total", COUNTER, "Since there is the stream.");
    for (labels, sums) in &sums {
        text.of_stream(labels, Some(("direction", "in")), sums.bytes[0]);
        text.of_stream(labels, Some(("direction", "out")), sums.bytes[1]);
    }
    text.family("livemill_stream_jumps_total", COUNTER, "How often the publisher's clock jumped.");
    for (labels, sums) in &sums {
        text.of_stream(labels, None, sums.jumps);
    }
    text.family(
        "livemill_stream_dropped",
        GAUGE,
        "What those who watch now have missed: frames of video and audio, and how often they fell behind.",
    );
    for (labels, sums) in &sums {
        for (kind, count) in ["video", "audio", "skips"].into_iter().zip(sums.drops) {
            text.of_stream(labels, Some(("kind", kind)), count);
        }
    }
    text.family("livemill_stream_fps", GAUGE, "Frames of video a second over the last ten.");
    for (labels, stream) in &shown {
        text.of_stream(labels, None, stream.readings.fps);
    }
    text.family("livemill_stream_gop_seconds", GAUGE, "From one keyframe to the next.");
    for (labels, stream) in &shown {
        if let Some(gop) = stream.readings.gop {
            text.of_stream(labels, None, gop.ms as f64 / 1000.0);
        }
    }
    text.family("livemill_stream_av_offset_seconds", GAUGE, "How far audio is ahead of video.");
    for (labels, stream) in &shown {
        if let Some(offset_ms) = stream.readings.av_offset_ms {
            text.of_stream(labels, None, offset_ms as f64 / 1000.0);
        }
    }
    text.family("livemill_stream_jitter_seconds", GAUGE, "How unevenly frames come, as RFC 3550 reckons it.");
    for (labels, stream) in &shown {
        text.of_stream(labels, None, f64::from(stream.readings.jitter_ms) / 1000.0);
    }
}

fn labels(key: &StreamKey) -> [(&'static str, String); 3] {
    [("server", key.vhost.to_string()), ("app", key.app.to_string()), ("name", key.name.to_string())]
}

fn beside(text: &mut Text, snapshot: &Snapshot) {
    let mut states: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for relay in &snapshot.relays {
        *states.entry((relay.direction, relay.state.name())).or_default() += 1;
    }
    text.family("livemill_relays", GAUGE, "Pushes and pulls, by what they are at.");
    for ((direction, state), count) in states {
        text.sample(&[("direction", direction), ("state", state)], count);
    }
    let hooks = &snapshot.hooks;
    text.family("livemill_hooks_asking", GAUGE, "Sessions that wait for the answer of a hook.");
    text.sample(&[], hooks.asking);
    text.family("livemill_hooks_crowded_total", COUNTER, "Questions that found too many others waiting.");
    text.sample(&[], hooks.crowded);
    let endpoints = || hooks.endpoints.iter().take(MAX_ENDPOINTS);
    text.family("livemill_hook_asked_total", COUNTER, "Questions to an endpoint.");
    endpoints().for_each(|endpoint| text.sample(&[("endpoint", &endpoint.endpoint)], endpoint.asked));
    text.family("livemill_hook_failed_total", COUNTER, "Questions without an answer.");
    endpoints().for_each(|endpoint| text.sample(&[("endpoint", &endpoint.endpoint)], endpoint.failed));
    text.family("livemill_hook_waiting", GAUGE, "Words that an endpoint has not heard yet.");
    endpoints().for_each(|endpoint| text.sample(&[("endpoint", &endpoint.endpoint)], endpoint.waiting));
    text.family("livemill_hook_delivered_total", COUNTER, "Words that it has heard.");
    endpoints().for_each(|endpoint| text.sample(&[("endpoint", &endpoint.endpoint)], endpoint.delivered));
    text.family("livemill_hook_lost_total", COUNTER, "Words that were given up.");
    endpoints().for_each(|endpoint| text.sample(&[("endpoint", &endpoint.endpoint)], endpoint.lost));
    let mut children: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for child in &snapshot.children {
        *children.entry((child.kind, child.pid.is_some())).or_default() += 1;
    }
    text.family(
        "livemill_children",
        GAUGE,
        "Processes of exec: those that run, and those that are to be started again.",
    );
    for ((directive, is_running), count) in children {
        text.sample(&[("directive", directive), ("state", if is_running { "running" } else { "waiting" })], count);
    }
}

fn players(stream: &StreamNow, wanted: Protocol) -> u64 {
    let counts = stream.players.iter().filter(|(protocol, _)| *protocol == wanted);
    counts.map(|(_, count)| u64::from(*count)).sum()
}

/// Families of samples, one behind the other.
#[derive(Default)]
struct Text {
    text: String,
    family: &'static str,
}

// Writing to a String cannot fail.
impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.family);
        for (at, (name, label)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if at == 0 { '{' } else { ',' });
            for character in label.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn of_stream(&mut self, labels: &[(&str, String); 3], more: Option<(&str, &str)>, value: impl Display) {
        let [server, app, name] = labels.each_ref().map(|(label, value)| (*label, value.as_str()));
        match more {
            Some(more) => self.sample(&[server, app, name, more], value),
            None => self.sample(&[server, app, name], value),
        }
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

/// Streams with labels of their own: those with most players.
const MAX_STREAMS: usize = 1000;
const OTHER: &str = "other";

/// Hooks that a configuration names are few; more have no place in labels.
const MAX_ENDPOINTS: usize = 100;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{actors::support::counters::About, media::meter::Readings};

    fn stream(number: u32) -> StreamNow {
        StreamNow {
            key: StreamKey::parse("default", "live", &format!("s{number}")).expect("a good name"),
            id: number.into(),
            publisher: Some(1),
            active: true,
            age: Duration::from_secs(1),
            published_for: None,
            about: About::default(),
            readings: Readings { bits_in: 10, fps: 25.0, ..Readings::default() },
            bytes_in: 7,
            packets_in: 0,
            bytes_out: 0,
            clock_ms: 0,
            jumps: 1,
            refused_messages: 0,
            missed_deliveries: 0,
            players: vec![(Protocol::Rtmp, number)],
            outputs: Vec::new(),
        }
    }

    #[test]
    fn streams_beyond_the_first_thousand_share_a_label() {
        let snapshot = Snapshot { streams: (0..1200).map(stream).collect(), ..Snapshot::default() };
        let text = text(&snapshot);
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(lines("livemill_stream_players{"), 1001);
        let other = format!(
            "livemill_stream_players{{server=\"\",app=\"\",name=\"other\",protocol=\"rtmp\"}} {}",
            (0..200).sum::<u32>()
        );
        assert!(text.contains(&other), "{other}");
        assert!(
            text.contains("livemill_stream_bytes_total{server=\"\",app=\"\",name=\"other\",direction=\"in\"} 1400\n")
        );
        assert!(text.contains("name=\"s1199\"") && !text.contains("name=\"s0\""), "those with most players stay");
        assert!(text.contains("livemill_streams 1200\n"));
    }

    #[test]
    fn each_family_is_told_once_and_holds_its_samples_only() {
        let text = text(&Snapshot { streams: vec![stream(3)], ..Snapshot::default() });
        let mut family = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(rest) => {
                    family = rest.split(' ').next().expect("a name").to_owned();
                    assert!(seen.insert(family.clone()), "{family} is there twice");
                }
                None if line.starts_with("# HELP ") => {}
                None => assert_eq!(line.split(['{', ' ']).next(), Some(family.as_str()), "{line}"),
            }
        }
        assert!(!text.contains("clientid") && !text.contains("address"));
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.family("x", GAUGE, "");
        text.sample(&[("a", "q\"b\\n\n")], 1);
        assert!(text.text.ends_with("x{a=\"q\\\"b\\\\n\\n\"} 1\n"), "{}", text.text);
    }
}
