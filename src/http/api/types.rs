//! What the API takes and answers, as types: JSON, the OpenAPI document and `livemill ctl` are all made of these.
//!
//! Names end with their unit: `_ms`, `_s`, `_bytes`, `_hz`; `bits_` are bits a second over the last ten seconds. What is not
//! known is `null`. No key, token or query argument is in any of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// How many there are with these filters, on all pages.
    pub total: u64,
    /// `cursor` of the next page; null: this is the last one.
    pub next: Option<String>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    pub version: String,
    pub pid: u32,
    pub uptime_s: u64,
    /// Open now, of RTMP and of HTTP.
    pub connections: u64,
    /// RTMP connections since the start.
    pub accepted: u64,
    /// Of all sockets of media since the start.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub bits_in: u64,
    pub bits_out: u64,
    /// Names that somebody publishes, plays or waits for.
    pub streams: u64,
    /// Streams that somebody publishes.
    pub publishers: u64,
    pub players: u64,
    pub arbiters: Vec<Arbiter>,
    pub limits: Vec<Limit>,
}

/// One of the threads that do the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Arbiter {
    pub index: u64,
    /// The share of one core that it used over the last ten seconds: 0 to 1.
    pub load: f32,
    /// How late its last timer was.
    pub lag_ms: f32,
    pub clients: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub bits_in: u64,
    pub bits_out: u64,
}

/// A bound of the process, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    /// The directive that sets it.
    pub name: String,
    /// null: there is none.
    pub max: Option<u64>,
    pub used: u64,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stream {
    /// Tells it from others of the same name before it and after it.
    pub id: u64,
    /// The virtual host.
    pub server: String,
    pub app: String,
    pub name: String,
    pub publishing: bool,
    /// Media has come from its publisher.
    pub active: bool,
    /// The client that publishes it.
    pub publisher: Option<u64>,
    /// Since there is the stream.
    pub age_s: u64,
    /// Since somebody publishes it.
    pub published_s: Option<u64>,
    pub video: Option<Video>,
    pub audio: Option<Audio>,
    /// Frames of video a second, as measured over the last ten.
    pub fps: f32,
    /// From one keyframe to the next.
    pub gop_ms: Option<i64>,
    pub gop_frames: Option<u32>,
    /// How far audio is ahead of video.
    pub av_offset_ms: Option<i64>,
    /// How unevenly frames come, as RFC 3550 reckons it.
    pub jitter_ms: f32,
    /// How often the publisher's clock jumped.
    pub jumps: u64,
    pub bits_in: u64,
    pub bits_audio: u64,
    pub bits_video: u64,
    pub bits_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Since its publisher came.
    pub video_frames: u64,
    pub audio_frames: u64,
    pub keyframes: u64,
    /// Messages that nobody could read.
    pub refused_messages: u64,
    /// Batches that found a subscriber's mailbox full.
    pub missed_deliveries: u64,
    /// Who watches, over all protocols and by protocol.
    pub players: u64,
    pub players_by_protocol: BTreeMap<String, u64>,
    /// Frames that those who watch now have missed.
    pub drops: Drops,
    pub outputs: Vec<Output>,
    pub relays: Vec<Relay>,
}

/// What the headers of a stream say of its picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Video {
    pub codec: String,
    /// As in a playlist's CODECS.
    pub codec_string: Option<String>,
    pub width: Option<u32>,
    pub height: Option<u32>,
    pub profile: Option<String>,
    pub level: Option<f32>,
    pub bit_depth: Option<u8>,
    pub interlaced: Option<bool>,
    /// Frames a second that the headers promise.
    pub declared_fps: Option<f32>,
}

/// What the headers of a stream say of its sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Audio {
    pub codec: String,
    pub codec_string: Option<String>,
    pub profile: Option<String>,
    pub sample_rate_hz: Option<u32>,
    pub channels: Option<u8>,
}

/// Something that is made of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Output {
    /// `ts`, `mp4`: endless; `hls`, `dash`: segments.
    pub kind: String,
    /// `memory` or `disk`.
    pub place: String,
    pub viewers: u64,
    /// Requests that wait for something to come.
    pub waiting: u64,
}

/// Frames that were left out because a client was behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drops {
    pub video: u64,
    pub audio: u64,
    /// How often it fell behind.
    pub skips: u64,
}

/// Somebody who publishes or plays, over any protocol; relays too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Client {
    pub id: u64,
    /// `publisher` or `player`.
    pub role: String,
    /// `rtmp`, `rtmps`, `http-flv`, `hls` and so on; `push` and `pull` are relays.
    pub protocol: String,
    pub server: String,
    pub app: String,
    pub name: String,
    /// IP:PORT; null: a unix socket.
    pub address: Option<String>,
    pub agent: String,
    /// Addresses that it gave, without their queries.
    pub page_url: String,
    pub swf_url: String,
    pub tc_url: String,
    pub is_relay: bool,
    /// Since its connection was accepted, and since it publishes or plays.
    pub connected_s: u64,
    pub began_s: u64,
    /// What waits for it in the server.
    pub queue: Queue,
    /// How far it is behind, with what waits in the kernel.
    pub behind_ms: u64,
    /// Why it is behind: `window_full`, `loss`, `network` or `unknown`; null: it is not.
    pub reason: Option<String>,
    pub drops: Drops,
    pub paused: bool,
    /// Its socket takes nothing at the moment.
    pub blocked: bool,
    /// It fetches segments: since its last request.
    pub idle_ms: Option<u64>,
    /// From being let in to its first frame.
    pub first_frame_ms: Option<u64>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// null: no TCP connection of its own.
    pub kernel: Option<Kernel>,
}

/// What waits for a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Queue {
    pub bytes: u64,
    /// The same as media time.
    pub ms: u64,
}

/// A connection as the kernel sees it (TCP_INFO).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    pub rtt_ms: f32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// What the peer is ready to take. 0: it does not read ("TCP Window Full").
    pub window_bytes: u32,
    /// What the network is trusted to carry.
    pub congestion_window_bytes: u64,
    pub unsent_bytes: u64,
    /// Sent, and nobody has acknowledged it.
    pub unacknowledged_bytes: u64,
    /// As lately measured.
    pub delivery_bits_s: u64,
    /// For how long there was something to send, and for how much of that the peer's window was in the way.
    pub busy_ms: u64,
    pub window_full_ms: u64,
}

/// A push or a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Relay {
    pub id: u64,
    /// `push` or `pull`.
    pub direction: String,
    pub server: String,
    pub app: String,
    pub name: String,
    /// Who asked for it: `configuration`, `hook`, `scheduler` or `api`.
    pub origin: String,
    /// Without its query.
    pub url: String,
    /// The address that took it.
    pub peer: Option<String>,
    /// `waiting`, `asking`, `connecting`, `starting`, `running`, `ending`, `failed` or `idle`.
    pub state: String,
    /// Attempts since it last worked.
    pub attempt: u32,
    pub last_error: Option<String>,
    /// null: it is at it.
    pub next_try_ms: Option<u64>,
    pub bytes: u64,
    /// How far the far end is behind.
    pub lag_ms: u64,
    /// Frames that a push left out.
    pub drops: u64,
    pub age_s: u64,
}

/// Somebody who is kept out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ban {
    pub id: u64,
    /// What it goes by: `address`, `name` or `both`.
    pub by: String,
    /// null in a ban by both: a unix socket.
    pub address: Option<String>,
    pub server: Option<String>,
    pub app: Option<String>,
    pub name: Option<String>,
    /// What of: `publisher` or `player`; null: of everything.
    pub role: Option<String>,
    pub reason: String,
    pub age_s: u64,
    /// Until it ends.
    pub left_s: u64,
}

/// What is asked of hooks, and what they have not heard yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hooks {
    /// Sessions that wait for an answer.
    pub asking: u64,
    /// Sessions that are asked about from time to time.
    pub updating: u64,
    /// Questions that found too many others waiting.
    pub crowded: u64,
    pub endpoints: Vec<HookEndpoint>,
}

/// One server that is asked and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookEndpoint {
    /// `scheme://host:port`.
    pub endpoint: String,
    pub asked: u64,
    /// Questions without an answer.
    pub failed: u64,
    /// Words that have not been heard yet.
    pub waiting: u64,
    pub delivered: u64,
    /// Given up: too old, or too many.
    pub lost: u64,
    pub last_error: Option<String>,
}

/// A process of `exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Child {
    /// null: it belongs to the server.
    pub stream: Option<String>,
    pub directive: String,
    /// Without its secrets.
    pub command: String,
    /// null: it is not running now.
    pub pid: Option<i32>,
    pub running_ms: Option<u64>,
    pub restarts: u64,
    pub last_exit: Option<String>,
}

/// The answer to a drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// 0: there was nobody.
    pub dropped: u64,
    pub bans: Vec<Ban>,
}

/// The answer to a redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Redirected {
    pub redirected: u64,
}

/// The answer to the removal of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// 0: there was no such relay.
    pub removed: u64,
}

/// The answer to the end of a ban.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lifted {
    /// 0: there was no such ban.
    pub lifted: u64,
}

/// To which name of its application a client is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectClient {
    /// What follows `?` are arguments.
    #[schema(min_length = 1, max_length = 1024)]
    pub to: String,
}

/// To which name of its application those of a stream are to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectStream {
    /// What follows `?` are arguments.
    #[schema(min_length = 1, max_length = 1024)]
    pub to: String,
    #[serde(default)]
    pub role: RedirectRole,
}

/// Who of a stream is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectRole {
    Publisher,
    Player,
    #[default]
    All,
}

/// A push or a pull to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRelay {
    pub direction: RelayDirection,
    /// The virtual host; without it the first that has this application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    pub app: String,
    pub name: String,
    #[schema(pattern = "^[A-Za-z]+://")]
    pub url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelayDirection {
    Push,
    Pull,
}

/// A ban to be: by address, by application and name, or by both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBan {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The virtual host; without it the first that has this application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What of; without it of both, which makes two bans of one by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// As nginx writes times: `60s`, `5m`, a bare number is seconds.
    #[serde(rename = "for")]
    #[schema(pattern = "^([0-9]+(ms|[smhdwMy])?)+$")]
    pub lasts: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to a new ban.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Banned {
    pub bans: Vec<Ban>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Publisher,
    Player,
}

/// Why something was not done (RFC 9457), as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says it all.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
}
