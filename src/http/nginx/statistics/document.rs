//! What statistics say: one tree for all forms, in the order of nginx's documents.
//!
//! As JSON it is that of nginx-http-flv-module, always well-formed. What nginx's modules have and livemill has not yet (recorders,
//! files that are played) is empty or left out, as it is there where nothing is configured.

use std::{collections::HashMap, sync::LazyLock, time::Duration, time::UNIX_EPOCH};

use jiff::{Timestamp, tz::TimeZone};
use serde::{Serialize, Serializer};

use crate::{
    actors::support::{
        counters::{About, Protocol},
        roll::ClientRole,
        snapshot::{Client, Snapshot, StreamNow},
    },
    config::{Application, Config, ListenAddress, Server, http::statistics::Statistics},
    media::{codec::AudioCodec, key::StreamKey},
};

/// The whole document.
#[derive(Serialize)]
pub struct Document<'a> {
    pub nginx_version: &'static str,
    #[serde(rename = "nginx_http_flv_version")]
    pub module_version: &'static str,
    pub compiler: &'static str,
    pub built: &'static str,
    pub pid: u32,
    /// Seconds.
    pub uptime: u64,
    pub naccepted: u64,
    pub bw_in: u64,
    pub bytes_in: u64,
    pub bw_out: u64,
    pub bytes_out: u64,
    pub servers: Vec<ServerPart<'a>>,
}

/// With the name of its module around it.
#[derive(Serialize)]
pub struct Named<'a> {
    #[serde(rename = "http-flv")]
    document: &'a Document<'a>,
}

#[derive(Serialize)]
pub struct ServerPart<'a> {
    /// Of its first address; 0: it has none.
    pub port: u16,
    pub server_index: usize,
    pub applications: Vec<ApplicationPart<'a>>,
}

#[derive(Serialize)]
pub struct ApplicationPart<'a> {
    pub name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<LivePart<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorders: Option<RecordersPart>,
}

#[derive(Serialize)]
pub struct LivePart<'a> {
    pub streams: Vec<StreamPart<'a>>,
    pub nclients: usize,
}

/// There are none in this release.
#[derive(Serialize)]
pub struct RecordersPart {
    pub count: usize,
    pub lists: [(); 0],
}

#[derive(Serialize)]
pub struct StreamPart<'a> {
    pub name: &'a str,
    /// Milliseconds since there is the stream.
    pub time: u128,
    pub bw_in: u64,
    pub bytes_in: u64,
    pub bw_out: u64,
    pub bytes_out: u64,
    pub bw_audio: u64,
    pub bw_video: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clients: Option<Vec<ClientPart<'a>>>,
    pub records: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<MetaPart>,
    pub nclients: usize,
    pub publishing: bool,
    pub active: bool,
}

#[derive(Serialize)]
pub struct ClientPart<'a> {
    pub id: u64,
    pub address: String,
    /// Milliseconds since its connection was accepted.
    pub time: u128,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub flashver: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pageurl: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub swfurl: &'a str,
    pub dropped: u64,
    /// None: `interleave on`, where it says nothing.
    #[serde(serialize_with = "zero_for_none")]
    pub avsync: Option<i64>,
    pub timestamp: u32,
    pub publishing: bool,
    pub active: bool,
}

#[derive(Serialize)]
pub struct MetaPart {
    pub video: VideoPart,
    pub audio: AudioPart,
}

#[derive(Serialize, Default)]
pub struct VideoPart {
    pub width: u32,
    pub height: u32,
    pub frame_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<&'static str>,
    /// nginx-rtmp-module has it wherever there is a level.
    #[serde(skip_serializing_if = "is_none_or_zero")]
    pub compat: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<f32>,
}

#[derive(Serialize, Default)]
pub struct AudioPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
}

impl<'a> Document<'a> {
    pub fn new(snapshot: &'a Snapshot, config: &'a Config, rules: &Statistics) -> Self {
        let mut present = Present::of(snapshot);
        let server = &snapshot.server;
        Self {
            nginx_version: concat!("livemill/", env!("CARGO_PKG_VERSION")),
            module_version: HTTP_FLV_VERSION,
            compiler: env!("LIVEMILL_RUSTC"),
            built: &BUILT,
            pid: std::process::id(),
            uptime: server.uptime.as_secs(),
            naccepted: server.accepted,
            bw_in: server.bits_in,
            bytes_in: server.traffic.bytes_in,
            bw_out: server.bits_out,
            bytes_out: server.traffic.bytes_out,
            servers: config.servers.iter().map(|server| present.server(server, rules)).collect(),
        }
    }

    pub fn named(&'a self) -> Named<'a> {
        Named { document: self }
    }
}

/// Who is here: each stream is taken by the first application that it belongs to.
struct Present<'a> {
    now: Duration,
    streams: HashMap<(&'a str, &'a str), Vec<&'a StreamNow>>,
    /// The newest first.
    clients: HashMap<&'a StreamKey, Vec<&'a Client>>,
}

impl<'a> Present<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut streams: HashMap<_, Vec<_>> = HashMap::new();
        for stream in &snapshot.streams {
            streams.entry((&*stream.key.vhost, &*stream.key.app)).or_default().push(stream);
        }
        let mut clients: HashMap<_, Vec<_>> = HashMap::new();
        for client in &snapshot.clients {
            clients.entry(&client.who.key).or_default().push(client);
        }
        Self { now: snapshot.server.now, streams, clients }
    }

    fn server(&mut self, server: &'a Server, rules: &Statistics) -> ServerPart<'a> {
        let mut applications = Vec::new();
        for application in &server.applications {
            if application.name != "*" {
                applications.push(self.application(server, application, &application.name, rules));
                continue;
            }
            // What it catches, by its real names.
            let is_caught = |(vhost, app): &(&str, &str)| {
                let named = || server.applications.iter().any(|known| known.name == *app);
                *vhost == server.id && !named()
            };
            let mut names: Vec<&'a str> =
                self.streams.keys().filter(|key| is_caught(key)).map(|(_, app)| *app).collect();
            names.sort_unstable();
            applications.extend(names.into_iter().map(|name| self.application(server, application, name, rules)));
        }
        let port = server.listens.iter().find_map(|listen| match listen.address {
            ListenAddress::Tcp(address) => Some(address.port()),
            ListenAddress::Unix(_) => None,
        });
        ServerPart { port: port.unwrap_or_default(), server_index: server.index, applications }
    }

    fn application(
        &mut self,
        server: &'a Server,
        application: &'a Application,
        name: &'a str,
        rules: &Statistics,
    ) -> ApplicationPart<'a> {
        let live = (rules.live && application.live).then(|| {
            let streams = self.streams.remove(&(server.id.as_str(), name)).unwrap_or_default();
            let interleaves = application.live_options.interleave;
            let streams: Vec<_> =
                streams.into_iter().map(|stream| self.stream(stream, interleaves, rules.clients)).collect();
            LivePart { nclients: streams.iter().map(|stream| stream.nclients).sum(), streams }
        });
        let recorders = rules.records.then_some(RecordersPart { count: 0, lists: [] });
        ApplicationPart { name, live, recorders }
    }

    fn stream(&self, stream: &'a StreamNow, interleaves: bool, lists_clients: bool) -> StreamPart<'a> {
        let clients = self.clients.get(&stream.key).map(Vec::as_slice).unwrap_or_default();
        let readings = &stream.readings;
        let part = |client: &&'a Client| ClientPart::new(client, stream, interleaves, self.now);
        StreamPart {
            name: &stream.key.name,
            time: stream.age.as_millis(),
            bw_in: readings.bits_in,
            bytes_in: stream.bytes_in,
            bw_out: readings.bits_out,
            bytes_out: stream.bytes_out,
            bw_audio: readings.bits_audio,
            bw_video: readings.bits_video,
            clients: lists_clients.then(|| clients.iter().map(part).collect()),
            records: [],
            meta: stream.publisher.map(|_| MetaPart::new(&stream.about, readings.fps)),
            nclients: clients.len(),
            publishing: stream.publisher.is_some(),
            active: stream.active,
        }
    }
}

impl<'a> ClientPart<'a> {
    fn new(client: &'a Client, stream: &StreamNow, interleaves: bool, now: Duration) -> Self {
        let (who, pulse) = (&client.who, &client.pulse);
        let publishing = who.role == ClientRole::Publisher;
        let readings = &stream.readings;
        let timestamp = match publishing {
            true => stream.clock_ms,
            // Where it is on the line of the stream; RTMP's clock begins anew after 2^32 ms.
            false => {
                readings.audio_ms.max(readings.video_ms).map_or(0, |newest| (newest - pulse.queue_ms).max(0) as u32)
            }
        };
        Self {
            id: who.id,
            address: who.address.map_or_else(|| "unix:".to_owned(), |peer| peer.ip().to_canonical().to_string()),
            time: now.saturating_sub(who.connected).as_millis(),
            flashver: flash_version(who.protocol, &who.agent),
            pageurl: &who.page_url,
            swfurl: &who.swf_url,
            dropped: pulse.drops.video + pulse.drops.audio,
            avsync: (!interleaves).then(|| readings.av_offset_ms.unwrap_or_default()),
            timestamp,
            publishing,
            active: stream.active && !pulse.paused,
        }
    }
}

/// What stands in the place of `flashVer`: that of RTMP; the word of nginx-http-flv-module for its players; the protocol of
/// everybody else, so that a script can tell them apart by a handful of words.
fn flash_version<'a>(protocol: &'static str, agent: &'a str) -> &'a str {
    if protocol == Protocol::HttpFlv.name() {
        return "flv_live 1.1";
    }
    let is_http = Protocol::ALL.into_iter().any(|known| known != Protocol::Rtmp && known.name() == protocol);
    if is_http { protocol } else { agent }
}

impl MetaPart {
    /// `measured_fps`: for streams whose headers name no rate.
    fn new(about: &About, measured_fps: f32) -> Self {
        let video = about.video.as_ref().map(|(codec, info)| {
            let (width, height) = info.as_ref().map_or((0, 0), |info| (info.width, info.height));
            let fps = info.as_ref().and_then(|info| info.fps).unwrap_or_else(|| measured_fps.round());
            VideoPart {
                width,
                height,
                frame_rate: (f64::from(fps) * 1000.0).round() / 1000.0,
                // The modules leave out what FLV had no number for; whoever looks wants to know that it is H265.
                codec: Some(codec.name()).filter(|name| *name != UNKNOWN),
                profile: info.as_ref().map(|info| info.profile),
                // 0 for codecs without: there are exporters that know no picture without one.
                compat: info.as_ref().map(|info| info.compatibility),
                level: info.as_ref().map(|info| info.level).filter(|level| *level > 0.0),
            }
        });
        let audio = about.audio.as_ref().map(|(codec, info)| AudioPart {
            codec: audio_name(*codec),
            profile: info.as_ref().filter(|_| *codec == AudioCodec::Aac).map(|info| info.profile),
            channels: info.as_ref().and_then(|info| info.channels).filter(|channels| *channels > 0),
            sample_rate: info.as_ref().map(|info| info.rate).filter(|rate| *rate > 0),
        });
        Self { video: video.unwrap_or_default(), audio: audio.unwrap_or_default() }
    }
}

fn audio_name(codec: AudioCodec) -> Option<&'static str> {
    match codec {
        AudioCodec::Flv(0) => Some("Uncompressed"),
        AudioCodec::Flv(14) => Some("MP3-8K"),
        _ => Some(codec.name()).filter(|name| *name != UNKNOWN),
    }
}

fn zero_for_none<S: Serializer>(value: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(value.unwrap_or_default())
}

fn is_none_or_zero(value: &Option<u8>) -> bool {
    value.unwrap_or_default() == 0
}

/// The releases whose documents these are. The server's own name and version stand where nginx's do.
pub const RTMP_VERSION: &str = "1.1.4";
const HTTP_FLV_VERSION: &str = "1.2.14";

/// What a codec is called that nobody knows.
const UNKNOWN: &str = "unknown";

/// When the program was made, as a C compiler writes it. Nothing of it is in the program, whose bytes shall depend on its source
/// alone: so it is the time of its file.
static BUILT: LazyLock<String> = LazyLock::new(|| {
    let written = std::env::current_exe().and_then(std::fs::metadata).and_then(|file| file.modified());
    let seconds = written.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|time| time.as_secs());
    let time = seconds.and_then(|seconds| Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
    time.map(|time| time.to_zoned(TimeZone::UTC).strftime("%b %e %Y %H:%M:%S").to_string()).unwrap_or_default()
});
