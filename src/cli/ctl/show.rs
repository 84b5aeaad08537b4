//! What the API answers, as a person reads it.

use std::fmt::{Display, Write};

use super::table::{Facts, NONE, Table, bits, bytes, milliseconds, number, or_none, seconds, text};
use crate::http::api::types::{
    Arbiter, Audio, Ban, Banned, Child, Client, Dropped, Drops, HookEndpoint, Hooks, Lifted, Limit, Page, Redirected,
    Relay, Removed, ServerInfo, Stream, Video,
};

pub fn server(server: &ServerInfo) -> String {
    let ServerInfo { version, pid, uptime_s, connections, accepted, streams, publishers, players, .. } = server;
    let mut facts = Facts::default();
    facts.add("livemill", format!("{version}, process {pid}, up {}", seconds(*uptime_s)));
    let waiting = streams.saturating_sub(*publishers);
    facts.add("streams", format!("{publishers} live, {waiting} without a publisher"));
    facts.add("players", players.to_string());
    facts.add("connections", format!("{connections} open, {accepted} of RTMP since the start"));
    facts.add("in", format!("{}, {} since the start", bits(server.bits_in), bytes(server.bytes_in)));
    facts.add("out", format!("{}, {} since the start", bits(server.bits_out), bytes(server.bytes_out)));
    format!("{facts}\n{}\n{}", arbiters(&server.arbiters), limits(&server.limits))
}

fn arbiters(arbiters: &[Arbiter]) -> Table {
    let mut table =
        Table::new(&[number("ARBITER"), number("LOAD"), number("LAG"), number("CLIENTS"), number("IN"), number("OUT")]);
    for arbiter in arbiters {
        table.row([
            arbiter.index.to_string(),
            format!("{:.0} %", arbiter.load * 100.0),
            format!("{:.1} ms", arbiter.lag_ms),
            arbiter.clients.to_string(),
            bits(arbiter.bits_in),
            bits(arbiter.bits_out),
        ]);
    }
    table
}

fn limits(limits: &[Limit]) -> Table {
    let mut table = Table::new(&[text("LIMIT", 40), number("USED"), number("OF")]);
    for limit in limits {
        table.row([limit.name.clone(), limit.used.to_string(), or_none(limit.max, |max| max.to_string())]);
    }
    table
}

pub fn streams(page: &Page<Stream>) -> String {
    let several = several(page.items.iter().map(|stream| &*stream.server));
    let mut table = Table::new(&[
        text("STREAM", WIDEST_NAME),
        text("STATE", 8),
        number("LIVE FOR"),
        text("VIDEO", 18),
        number("FPS"),
        text("AUDIO", 14),
        number("IN"),
        number("OUT"),
        number("PLAYERS"),
    ]);
    for stream in &page.items {
        table.row([
            name(&stream.server, &stream.app, &stream.name, several),
            state(stream).to_owned(),
            or_none(stream.published_s, seconds),
            or_none(stream.video.as_ref(), short_video),
            or_none(Some(stream.fps).filter(|fps| *fps > 0.0), |fps| format!("{fps:.1}")),
            or_none(stream.audio.as_ref(), short_audio),
            bits(stream.bits_in),
            bits(stream.bits_out),
            stream.players.to_string(),
        ]);
    }
    listing(&table, page, "no streams")
}

fn state(stream: &Stream) -> &'static str {
    match (stream.publishing, stream.active) {
        (true, true) => "live",
        (true, false) => "silent",
        (false, _) => "waiting",
    }
}

pub fn stream(stream: &Stream) -> String {
    let mut facts = Facts::default();
    let said = match (stream.publishing, stream.active) {
        (true, true) => "live",
        (true, false) => "somebody publishes, and has sent no media",
        (false, _) => "nobody publishes",
    };
    facts.add("stream", name(&stream.server, &stream.app, &stream.name, false));
    facts.add("server", &stream.server);
    let publisher = stream.publisher.map_or(String::new(), |id| format!(", by client {id}"));
    let since = stream.published_s.map_or(String::new(), |since| format!(" for {}", seconds(since)));
    facts.add("state", format!("{said}{since}{publisher}"));
    if let Some(video) = &stream.video {
        facts.add("video", long_video(video));
    }
    if let Some(audio) = &stream.audio {
        facts.add("audio", long_audio(audio));
    }
    facts.add("frames", frames(stream));
    let gop = stream.gop_ms.zip(stream.gop_frames);
    facts.add("keyframes", or_none(gop, |(ms, frames)| format!("every {ms} ms, {frames} frames")));
    let offset = or_none(stream.av_offset_ms, |offset| match offset {
        0 => "audio and video are together".to_owned(),
        ahead @ 1.. => format!("audio is {ahead} ms ahead of video"),
        behind => format!("audio is {} ms behind video", behind.unsigned_abs()),
    });
    facts.add("sync", offset);
    facts.add("jitter", format!("{:.1} ms, the clock jumped {} times", stream.jitter_ms, stream.jumps));
    let Stream { bits_in, bits_video, bits_audio, bits_out, bytes_in, bytes_out, .. } = stream;
    facts.add(
        "in",
        format!(
            "{} (video {}, audio {}), {} so far",
            bits(*bits_in),
            bits(*bits_video),
            bits(*bits_audio),
            bytes(*bytes_in)
        ),
    );
    facts.add("out", format!("{}, {} so far", bits(*bits_out), bytes(*bytes_out)));
    let by: Vec<String> =
        stream.players_by_protocol.iter().map(|(protocol, players)| format!("{protocol} {players}")).collect();
    let by = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
    facts.add("players", format!("{}{by}", stream.players));
    facts.add("drops", drops(&stream.drops));
    if stream.refused_messages + stream.missed_deliveries > 0 {
        let Stream { refused_messages, missed_deliveries, .. } = stream;
        facts.add("trouble", format!("{refused_messages} messages refused, {missed_deliveries} deliveries missed"));
    }
    let mut said = facts.to_string();
    if !stream.outputs.is_empty() {
        let mut table = Table::new(&[text("OUTPUT", 12), text("PLACE", 12), number("VIEWERS"), number("WAITING")]);
        for output in &stream.outputs {
            let (viewers, waiting) = (output.viewers.to_string(), output.waiting.to_string());
            table.row([output.kind.clone(), output.place.clone(), viewers, waiting]);
        }
        // Writing to a String cannot fail.
        let _ = write!(said, "\n{table}");
    }
    if !stream.relays.is_empty() {
        let _ = write!(said, "\n{}", relay_table(&stream.relays, false));
    }
    said
}

fn frames(stream: &Stream) -> String {
    let Stream { fps, video_frames, audio_frames, keyframes, .. } = stream;
    format!("{fps:.1} a second; {video_frames} of video ({keyframes} keyframes) and {audio_frames} of audio so far")
}

fn short_video(video: &Video) -> String {
    match (video.width, video.height) {
        (Some(width), Some(height)) => format!("{} {width}x{height}", video.codec),
        _ => video.codec.clone(),
    }
}

fn long_video(video: &Video) -> String {
    let mut words = vec![short_video(video)];
    words.extend(video.profile.as_ref().map(|profile| format!("profile {profile}")));
    words.extend(video.level.map(|level| format!("level {level}")));
    words.extend(video.bit_depth.map(|bits| format!("{bits} bit")));
    words.extend(video.interlaced.filter(|is| *is).map(|_| "interlaced".to_owned()));
    words.extend(video.declared_fps.map(|fps| format!("{fps} frames a second declared")));
    words.extend(video.codec_string.as_ref().map(|codecs| format!("({codecs})")));
    words.join(", ")
}

fn short_audio(audio: &Audio) -> String {
    let rate = audio.sample_rate_hz.map_or(String::new(), |rate| format!(" {}k", f64::from(rate) / 1000.0));
    format!("{}{rate}", audio.codec)
}

fn long_audio(audio: &Audio) -> String {
    let mut words = vec![audio.codec.clone()];
    words.extend(audio.profile.as_ref().map(|profile| format!("profile {profile}")));
    words.extend(audio.sample_rate_hz.map(|rate| format!("{rate} Hz")));
    words.extend(audio.channels.map(|channels| match channels {
        1 => "mono".to_owned(),
        2 => "stereo".to_owned(),
        many => format!("{many} channels"),
    }));
    words.extend(audio.codec_string.as_ref().map(|codecs| format!("({codecs})")));
    words.join(", ")
}

pub fn clients(page: &Page<Client>) -> String {
    let several = several(page.items.iter().map(|client| &*client.server));
    let mut table = Table::new(&[
        number("ID"),
        text("ROLE", 10),
        text("PROTOCOL", 10),
        text("STREAM", WIDEST_NAME),
        text("ADDRESS", WIDEST_ADDRESS),
        number("SINCE"),
        number("IN"),
        number("OUT"),
        number("BEHIND"),
        text("AGENT", WIDEST_AGENT),
    ]);
    for client in &page.items {
        table.row([
            client.id.to_string(),
            if client.is_relay { format!("{} *", client.role) } else { client.role.clone() },
            client.protocol.clone(),
            name(&client.server, &client.app, &client.name, several),
            address(client),
            seconds(client.began_s),
            bytes(client.bytes_in),
            bytes(client.bytes_out),
            behind(client),
            client.agent.clone(),
        ]);
    }
    let relays = if page.items.iter().any(|client| client.is_relay) { "* a relay\n" } else { "" };
    listing(&format!("{table}{relays}"), page, "no clients")
}

pub fn slowest(page: &Page<Client>) -> String {
    let several = several(page.items.iter().map(|client| &*client.server));
    let mut table = Table::new(&[
        number("ID"),
        text("STREAM", WIDEST_NAME),
        text("PROTOCOL", 10),
        text("ADDRESS", WIDEST_ADDRESS),
        number("BEHIND"),
        text("WHY", 12),
        number("QUEUE"),
        number("UNSENT"),
        number("DROPPED"),
        number("SKIPS"),
        number("RTT"),
        number("RESENT"),
        number("WINDOW"),
        text("AGENT", WIDEST_AGENT),
    ]);
    for client in &page.items {
        let kernel = client.kernel.as_ref();
        table.row([
            client.id.to_string(),
            name(&client.server, &client.app, &client.name, several),
            client.protocol.clone(),
            address(client),
            behind(client),
            or_none(client.reason.as_ref(), |reason| reason.replace('_', " ")),
            bytes(client.queue.bytes),
            or_none(kernel, |kernel| bytes(kernel.unsent_bytes)),
            (client.drops.video + client.drops.audio).to_string(),
            client.drops.skips.to_string(),
            or_none(kernel, |kernel| format!("{:.1} ms", kernel.rtt_ms)),
            or_none(kernel, |kernel| kernel.retransmits.to_string()),
            or_none(kernel, |kernel| bytes(kernel.window_bytes.into())),
            client.agent.clone(),
        ]);
    }
    let has = |reason: &str| page.items.iter().any(|client| client.reason.as_deref() == Some(reason));
    let legend: String =
        REASONS.iter().filter(|(reason, _)| has(reason)).map(|(_, says)| format!("{says}\n")).collect();
    let gap = if legend.is_empty() { "" } else { "\n" };
    // That there are more who are not as slow needs no word.
    if page.items.is_empty() { "no clients\n".to_owned() } else { format!("{table}{gap}{legend}") }
}

fn address(client: &Client) -> String {
    match &client.address {
        Some(address) => address.clone(),
        None => "unix:".to_owned(),
    }
}

fn behind(client: &Client) -> String {
    match (client.idle_ms, client.behind_ms) {
        (Some(idle), _) => format!("idle {}", milliseconds(idle)),
        (None, 0) => NONE.to_owned(),
        (None, behind) => milliseconds(behind),
    }
}

fn drops(drops: &Drops) -> String {
    let Drops { video, audio, skips } = drops;
    format!("{video} frames of video and {audio} of audio, in {skips} skips")
}

pub fn relays(page: &Page<Relay>) -> String {
    let several = several(page.items.iter().map(|relay| &*relay.server));
    listing(&relay_table(&page.items, several), page, "no relays")
}

fn relay_table(relays: &[Relay], several: bool) -> Table {
    let mut table = Table::new(&[
        number("ID"),
        text("WAY", 6),
        text("STREAM", WIDEST_NAME),
        text("FAR END", 48),
        text("STATE", 12),
        text("FROM", 14),
        number("BYTES"),
        number("LAG"),
        number("DROPPED"),
        number("ATTEMPT"),
        number("NEXT TRY"),
        text("LAST ERROR", 48),
    ]);
    for relay in relays {
        table.row([
            relay.id.to_string(),
            relay.direction.clone(),
            name(&relay.server, &relay.app, &relay.name, several),
            relay.url.clone(),
            relay.state.clone(),
            relay.origin.clone(),
            bytes(relay.bytes),
            milliseconds(relay.lag_ms),
            relay.drops.to_string(),
            relay.attempt.to_string(),
            or_none(relay.next_try_ms, milliseconds),
            or_none(relay.last_error.clone(), |error| error),
        ]);
    }
    table
}

pub fn relay(relay: &Relay) -> String {
    let Relay { id, direction, state, url, .. } = relay;
    let stream = name(&relay.server, &relay.app, &relay.name, false);
    said(&format!("relay {id}: {direction} {stream} {url}, {state}"))
}

pub fn bans(page: &Page<Ban>) -> String {
    listing(&ban_table(&page.items), page, "no bans")
}

fn ban_table(bans: &[Ban]) -> Table {
    let several = several(bans.iter().filter_map(|ban| ban.server.as_deref()));
    let mut table = Table::new(&[
        number("ID"),
        text("BY", 8),
        text("ADDRESS", WIDEST_ADDRESS),
        text("STREAM", WIDEST_NAME),
        text("OF", 10),
        number("LEFT"),
        text("REASON", 60),
    ]);
    for ban in bans {
        let stream = ban.app.as_deref().zip(ban.name.as_deref());
        let server = ban.server.as_deref().unwrap_or_default();
        table.row([
            ban.id.to_string(),
            ban.by.clone(),
            match (&ban.address, ban.by.as_str()) {
                (Some(address), _) => address.clone(),
                (None, "both") => "unix:".to_owned(),
                (None, _) => "any".to_owned(),
            },
            stream.map_or_else(|| "any".to_owned(), |(app, stream)| name(server, app, stream, several)),
            ban.role.clone().unwrap_or_else(|| "everything".to_owned()),
            seconds(ban.left_s),
            ban.reason.clone(),
        ]);
    }
    table
}

pub fn banned(banned: &Banned) -> String {
    ban_table(&banned.bans).to_string()
}

pub fn dropped(dropped: &Dropped) -> String {
    let count = match dropped.dropped {
        0 => "nobody was there\n".to_owned(),
        1 => "1 client dropped\n".to_owned(),
        many => format!("{many} clients dropped\n"),
    };
    if dropped.bans.is_empty() { count } else { format!("{count}\n{}", ban_table(&dropped.bans)) }
}

pub fn redirected(redirected: &Redirected) -> String {
    match redirected.redirected {
        0 => "nobody was there who can be redirected\n".to_owned(),
        1 => "1 client redirected\n".to_owned(),
        many => format!("{many} clients redirected\n"),
    }
}

pub fn removed(removed: &Removed) -> String {
    if removed.removed == 0 { "there is no such relay\n".to_owned() } else { "relay removed\n".to_owned() }
}

pub fn lifted(lifted: &Lifted) -> String {
    if lifted.lifted == 0 { "there is no such ban\n".to_owned() } else { "ban lifted\n".to_owned() }
}

pub fn hooks(hooks: &Hooks) -> String {
    let mut facts = Facts::default();
    facts.add("asking", format!("{} sessions wait for an answer", hooks.asking));
    facts.add("updating", format!("{} sessions are asked about from time to time", hooks.updating));
    facts.add("crowded", format!("{} questions found too many others waiting", hooks.crowded));
    let mut table = Table::new(&[
        text("ENDPOINT", 48),
        number("ASKED"),
        number("FAILED"),
        number("WAITING"),
        number("DELIVERED"),
        number("LOST"),
        text("LAST ERROR", 60),
    ]);
    for endpoint in &hooks.endpoints {
        let HookEndpoint { endpoint, asked, failed, waiting, delivered, lost, last_error } = endpoint;
        table.row([
            endpoint.clone(),
            asked.to_string(),
            failed.to_string(),
            waiting.to_string(),
            delivered.to_string(),
            lost.to_string(),
            or_none(last_error.clone(), |error| error),
        ]);
    }
    if hooks.endpoints.is_empty() { facts.to_string() } else { format!("{facts}\n{table}") }
}

pub fn children(page: &Page<Child>) -> String {
    let mut table = Table::new(&[
        text("STREAM", WIDEST_NAME),
        text("DIRECTIVE", 20),
        number("PROCESS"),
        number("RUNNING"),
        number("RESTARTS"),
        text("LAST EXIT", 30),
        text("COMMAND", 60),
    ]);
    for child in &page.items {
        table.row([
            or_none(child.stream.clone(), |stream| stream),
            child.directive.clone(),
            or_none(child.pid, |pid| pid.to_string()),
            or_none(child.running_ms, milliseconds),
            child.restarts.to_string(),
            or_none(child.last_exit.clone(), |exit| exit),
            child.command.clone(),
        ]);
    }
    listing(&table, page, "no processes")
}

/// A table, and how much of the list it leaves out.
fn listing<T>(table: &dyn Display, page: &Page<T>, none: &str) -> String {
    let shown = page.items.len() as u64;
    if page.total == 0 {
        format!("{none}\n")
    } else if shown < page.total {
        let next = page.next.as_deref().map_or(String::new(), |next| format!("; --cursor {next} shows the next"));
        format!("{table}{}", said(&format!("{shown} of {} shown{next}", page.total)))
    } else {
        table.to_string()
    }
}

/// One line.
fn said(line: &str) -> String {
    format!("{}\n", super::table::clean(line))
}

/// Whether the virtual host is worth a word.
fn several<'a>(mut servers: impl Iterator<Item = &'a str>) -> bool {
    servers.next().is_some_and(|first| servers.any(|other| other != first))
}

fn name(server: &str, app: &str, name: &str, several: bool) -> String {
    if several { format!("{app}/{name} @{server}") } else { format!("{app}/{name}") }
}

const REASONS: &[(&str, &str)] = &[
    ("window_full", "window full: it reads more slowly than its stream comes (TCP Window Full)"),
    ("loss", "loss: the network between here and there loses what is sent"),
    ("network", "network: the network between here and there is slower than the stream"),
    ("unknown", "unknown: it is behind, and nothing here says why"),
];
const WIDEST_NAME: usize = 40;
/// An IPv6 address in brackets with its port.
const WIDEST_ADDRESS: usize = 47;
const WIDEST_AGENT: usize = 32;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn client() -> Value {
        json!({
            "id": 7, "role": "player", "protocol": "rtmp", "server": "default", "app": "live", "name": "x",
            "address": "192.0.2.1:5000", "agent": "a\u{1b}[31m", "page_url": "", "swf_url": "", "tc_url": "",
            "is_relay": false, "connected_s": 3, "began_s": 192, "queue": {"bytes": 2048, "ms": 10}, "behind_ms": 3200,
            "reason": "window_full", "drops": {"video": 5, "audio": 1, "skips": 2}, "paused": false, "blocked": true,
            "idle_ms": null, "first_frame_ms": 4, "bytes_in": 0, "bytes_out": 1_048_576,
            "kernel": {
                "rtt_ms": 1.25, "retransmits": 3, "window_bytes": 0, "congestion_window_bytes": 1, "unsent_bytes": 1024,
                "unacknowledged_bytes": 1, "delivery_bits_s": 1, "busy_ms": 1, "window_full_ms": 1
            }
        })
    }

    fn page(items: &[Value], total: u64) -> Page<Client> {
        serde_json::from_value(json!({"items": items, "total": total, "next": null})).unwrap()
    }

    #[test]
    fn the_slowest_are_shown_with_what_hinders_them_and_what_that_means() {
        let shown = slowest(&page(&[client()], 9));
        let mut lines = shown.lines().skip(1);
        let row: Vec<&str> = lines.next().unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
        let expected = [
            "7",
            "live/x",
            "rtmp",
            "192.0.2.1:5000",
            "3.20 s",
            "window full",
            "2.00 KiB",
            "1.00 KiB",
            "6",
            "2",
            "1.2 ms",
            "3",
            "0 B",
            "a\u{fffd}[31m",
        ];
        assert_eq!(row, expected);
        assert!(shown.ends_with("\n\nwindow full: it reads more slowly than its stream comes (TCP Window Full)\n"));
        assert_eq!(slowest(&page(&[], 0)), "no clients\n");
    }

    #[test]
    fn the_virtual_host_is_named_where_there_are_several_and_a_part_says_that_it_is_one() {
        let mut other = client();
        other["server"] = "second".into();
        other["is_relay"] = true.into();
        let shown = clients(&page(&[client(), other], 3));
        assert!(shown.contains("  live/x @default  ") && shown.contains("  live/x @second  "), "{shown}");
        assert!(shown.contains(" player *  ") && shown.ends_with("\n* a relay\n2 of 3 shown\n"), "{shown}");
        assert!(clients(&page(&[client()], 1)).contains("  live/x  "));
    }
}
