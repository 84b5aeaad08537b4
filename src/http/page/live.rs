//! What the page is told of the server: which streams there are, and what they are made of.

use std::net::IpAddr;

use actix_web::{HttpRequest, http::header};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    actors::support::counters::StreamCounters,
    config::{Action, HttpOutput, HttpOutputs, ListenAddress, Server},
    http::{Site, host_name, rtmp_server, wire::Caller},
    media::{codec::Codec, key::StreamKey},
};

/// What the page is told of the server.
#[derive(Debug, Serialize)]
pub struct Live {
    /// The server's clock: from it players learn how old a picture is.
    pub now_ms: u64,
    /// Where RTMP is taken, as those who look at the page reach it. None: nowhere that a page could name.
    pub rtmp_port: Option<u16>,
    /// Names of applications that take streams, the one to propose first.
    pub applications: Vec<String>,
    pub streams: Vec<Stream>,
}

/// A stream that somebody publishes now.
#[derive(Debug, Serialize, PartialEq)]
pub struct Stream {
    pub app: String,
    pub name: String,
    pub since_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Audio>,
    pub viewers: u32,
    /// Which addresses there are: `flv`, `ts`, `mp4`, `hls`, `dash`.
    pub outputs: Vec<&'static str>,
}

/// What the headers of a picture say. What they leave open is left out.
#[derive(Debug, Serialize, PartialEq)]
pub struct Video {
    pub codec: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f32>,
    /// For `MediaSource.isTypeSupported`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codecs: Option<String>,
}

/// What the headers of a sound say.
#[derive(Debug, Serialize, PartialEq)]
pub struct Audio {
    pub codec: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codecs: Option<String>,
}

impl Live {
    /// As whoever asks may know it: the streams that the media addresses of this host mean, and that he may play.
    pub fn now(site: &Site, request: &HttpRequest) -> Self {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let peer = request.conn_data::<Caller>().and_then(|caller| caller.peer).map(|peer| peer.ip());
        let server = rtmp_server(site, host_name(host), "");
        let streams = site.config.servers.iter().flat_map(|server| streams(site, server, host_name(host), peer));
        let now_ms = jiff::Timestamp::now().as_millisecond();
        Self {
            now_ms: u64::try_from(now_ms).unwrap_or_default(),
            rtmp_port: server.and_then(|server| rtmp_port(server)),
            applications: server.map(|server| applications(server)).unwrap_or_default(),
            streams: streams.collect(),
        }
    }
}

fn streams(site: &Site, server: &Server, host: &str, peer: Option<IpAddr>) -> Vec<Stream> {
    let now = Instant::now();
    let published = site.house.directory.published(&server.id);
    let shown = published.iter().filter_map(|(key, counters)| {
        // Servers may share an application's name: only one of them is meant by an address.
        let is_meant = rtmp_server(site, host, &key.app).is_some_and(|meant| meant.index == server.index);
        let application = server.application(&key.app).filter(|_| is_meant)?;
        let outputs = application.outputs.http;
        let may_play = application.access.allows(Action::Play, peer) && !outputs.is_empty();
        may_play.then(|| Stream::new(key, counters, outputs, now))
    });
    shown.collect()
}

/// The first port where anybody could publish without TLS.
fn rtmp_port(server: &Server) -> Option<u16> {
    server.listens.iter().filter(|listen| !listen.ssl).find_map(|listen| match listen.address {
        ListenAddress::Tcp(address) => Some(address.port()),
        ListenAddress::Unix(_) => None,
    })
}

/// What has a name of its own and takes streams.
fn applications(server: &Server) -> Vec<String> {
    let named = server.applications.iter().filter(|application| application.live && application.name != "*");
    named.map(|application| application.name.clone()).take(MAX_APPLICATIONS).collect()
}

impl Stream {
    fn new(key: &StreamKey, counters: &StreamCounters, outputs: HttpOutputs, now: Instant) -> Self {
        let about = counters.about();
        let video = about.video.map(|(codec, info)| {
            let (width, height) = info.as_ref().map_or((0, 0), |info| (info.width, info.height));
            let is_known = width > 0 && height > 0;
            Video {
                codec: Codec::Video(codec).name(),
                width: is_known.then_some(width),
                height: is_known.then_some(height),
                fps: info.as_ref().and_then(|info| info.fps),
                codecs: info.map(|info| info.codec_string),
            }
        });
        let audio = about.audio.map(|(codec, info)| Audio {
            codec: Codec::Audio(codec).name(),
            channels: info.as_ref().and_then(|info| info.channels),
            sample_rate: info.as_ref().map(|info| info.rate),
            codecs: info.map(|info| info.codec_string),
        });
        Self {
            app: key.app.to_string(),
            name: key.name.to_string(),
            since_s: about.since.map_or(0, |since| now.saturating_duration_since(since).as_secs()),
            video,
            audio,
            viewers: counters.players.total(),
            outputs: OUTPUTS.iter().filter(|(output, _)| outputs.has(*output)).map(|(_, word)| *word).collect(),
        }
    }
}

const OUTPUTS: &[(HttpOutput, &str)] = &[
    (HttpOutput::Flv, "flv"),
    (HttpOutput::Ts, "ts"),
    (HttpOutput::Mp4, "mp4"),
    (HttpOutput::Hls, "hls"),
    (HttpOutput::Dash, "dash"),
];

/// More are no help to whoever wants to publish.
const MAX_APPLICATIONS: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::media::codec::{AudioCodec, VideoCodec};

    #[test]
    fn a_stream_is_listed_with_what_its_headers_told() {
        let counters = StreamCounters::default();
        let now = Instant::now();
        counters.begin(now);
        counters.describe(Codec::Video(VideoCodec::Hevc), &[]);
        counters.describe(Codec::Audio(AudioCodec::Aac), &[0x12, 0x10]);
        let key = StreamKey::parse("default", "live", "x").expect("a good name");
        let outputs = HttpOutputs::NONE.with(HttpOutput::Hls).with(HttpOutput::Flv);
        let stream = || Stream::new(&key, &counters, outputs, now + Duration::from_secs(90));
        let expected = "{\"app\":\"live\",\"name\":\"x\",\"since_s\":90,\"video\":{\"codec\":\"H265\"},\
            \"audio\":{\"codec\":\"AAC\",\"channels\":2,\"sample_rate\":44100,\"codecs\":\"mp4a.40.2\"},\"viewers\":0,\
            \"outputs\":[\"flv\",\"hls\"]}";
        assert_eq!(serde_json::to_string(&stream()).expect("it has no odd keys"), expected);
        counters.end();
        assert_eq!((stream().video, stream().audio, stream().since_s), (None, None, 0));
    }
}
