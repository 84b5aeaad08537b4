//! Streams watched in an answer that never ends: FLV, MPEG-TS and fragmented MP4, over HTTP and over WebSocket.

use std::{
    collections::HashMap,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use actix::prelude::*;
use actix_http::ws;
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    http::{Method, StatusCode, header},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::time::Instant;
use tokio::time::timeout;

use super::{
    METHODS, MediaRequest, Site,
    address::{Endless, Wanted},
    admission, host_name, method_not_allowed,
    wire::Caller,
};
use crate::{
    actors::{
        house::Venue,
        outputs::{Endlessly, OpenOutput, OutputHandle, OutputKind},
        router::{NoStream, OpenStream, Purpose},
        source::Source,
        support::{
            body::{BrokenOff, Form},
            counters::Protocol,
            route::{BadRoute, ROUTE_HEADER, Route},
        },
        viewer::{Viewer, Visit, Watching},
    },
    config::{Action, HttpOutput, ListenAddress},
    log::access::SessionRecord,
    media::key::StreamKey,
    protocol::{
        flv::stream::Tracks,
        websocket::{self, FrameReader, Heard, status},
    },
};

/// `flv_live PORT [app=NAME] [audio=0|1] [video=0|1]`, as AlexWoo's module has it.
#[derive(Clone, Debug)]
pub struct FlvLive {
    /// Of the RTMP server whose streams are meant; none: the first that has the application.
    pub port: Option<u16>,
    /// None: it is in the address.
    pub app: Option<String>,
    pub tracks: Tracks,
}

/// Answers a request for a stream. Who may not watch by address has been sent away before.
pub async fn answer(
    site: &Site,
    asked: &MediaRequest,
    format: Endless,
    request: &HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    watch(site, asked, format, Tracks::BOTH, request, payload).await
}

/// The same, with less on offer.
async fn watch(
    site: &Site,
    asked: &MediaRequest,
    format: Endless,
    offered: Tracks,
    request: &HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return preflight(),
        _ => return method_not_allowed(),
    }
    if !offers(&asked.venue, format) {
        return refuse(StatusCode::NOT_FOUND, "not offered");
    }
    let Some(tracks) = asked_tracks(request.query_string(), offered) else {
        return refuse(StatusCode::BAD_REQUEST, "neither audio nor video is asked for");
    };
    let route = match route(request, site) {
        Ok(route) => route,
        Err(bad @ BadRoute::Unreadable) => return refuse(StatusCode::BAD_REQUEST, &bad.to_string()),
        Err(bad) => return refuse(StatusCode::LOOP_DETECTED, &bad.to_string()),
    };
    let mut meant = None;
    let (mut debts, mut is_fetched) = (Vec::new(), false);
    if admission::is_needed(asked) && *request.method() == Method::GET {
        match admission::watch(site, asked, protocol(format, wants_websocket(request)), request).await {
            Ok(watcher) if offers(&watcher.venue, format) => {
                let (server, peer, wanted) = (Arc::clone(&asked.server), asked.peer, Wanted::Endless(format));
                meant = Some(MediaRequest { key: watcher.key, venue: watcher.venue, server, peer, wanted });
                (debts, is_fetched) = (watcher.debts, watcher.is_fetched);
            }
            Ok(_) => return refuse(StatusCode::NOT_FOUND, "not offered"),
            Err(denied) => return refuse(StatusCode::FORBIDDEN, &denied.to_string()),
        }
    }
    let asked = meant.as_ref().unwrap_or(asked);
    let application = &asked.venue.application;
    let is_live = site.house.directory.find(&asked.key).is_some_and(|entry| {
        let counters = &entry.counters;
        counters.publishing.load(Ordering::Relaxed)
    });
    // Said here as well as by the router, so that a crowd at the wrong address stays at the door.
    is_fetched |= asked.venue.rules.is_fetched;
    if !is_live && !application.live_options.idle_streams && !is_fetched {
        return refuse(StatusCode::NOT_FOUND, &NoStream::NotFound.to_string());
    }
    if *request.method() == Method::HEAD {
        let nothing = futures_util::stream::empty::<Result<Bytes, BrokenOff>>();
        return endless(format).body(BodyStream::new(nothing));
    }
    let upgrade = if wants_websocket(request) { Some(ws::handshake(request.head())) } else { None };
    let upgrade = match upgrade.transpose() {
        Ok(upgrade) => upgrade,
        Err(fault) => return HttpResponse::from(actix_http::Response::<BoxBody>::from(fault)),
    };
    let source = match open(site, asked, format, is_fetched).await {
        Ok(source) => source,
        Err(NoStream::NotFound) => return refuse(StatusCode::NOT_FOUND, &NoStream::NotFound.to_string()),
        Err(full) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &full.to_string()),
    };
    let form = match format {
        Endless::Flv => Form::flv(tracks, application.live_options.zero_start),
        Endless::Ts | Endless::Mp4 => Form::Ready,
    };
    let mut watching = Viewer::begin(Visit {
        house: Arc::clone(&site.house),
        record: record(asked, request),
        route,
        venue: Arc::clone(&asked.venue),
        key: asked.key.clone(),
        source,
        protocol: protocol(format, upgrade.is_some()),
        form,
        hang_up: request.conn_data::<Caller>().map(|caller| caller.hang_up.clone()),
        kernel: request.conn_data::<Caller>().map(Caller::kernel),
        debts,
    });
    // What is fetched may turn out not to be there, and a viewer over HTTP can be told so in the head of the answer only.
    let may_be_nowhere = !is_live && !application.live_options.idle_streams;
    let first = match may_be_nowhere && upgrade.is_none() {
        true => match timeout(FETCH_WAITS, poll_fn(|task| watching.poll_bytes(task))).await {
            Ok(Some(Ok(first))) => Some(first),
            Ok(None) => return refuse(StatusCode::NOT_FOUND, &NoStream::NotFound.to_string()),
            Ok(Some(Err(_))) | Err(_) => return refuse(StatusCode::SERVICE_UNAVAILABLE, "the stream has not come"),
        },
        false => None,
    };
    match upgrade {
        None => endless(format).body(Answer { first, watching }),
        Some(mut response) => {
            let body = BoxBody::new(Socket::new(watching, payload.into_inner()));
            HttpResponse::from(response.message_body(body).expect("the handshake writes headers that are right"))
        }
    }
}

/// `flv_live on`, as nginx-http-flv has it: the address says nothing, its query everything: `?port=&app=&stream=`.
pub async fn flv_live(site: &Site, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    if *request.method() == Method::OPTIONS {
        return preflight();
    }
    let query = query_of(request);
    let arg = |name: &str| query.get(name).map(String::as_str);
    let port = arg("port").map_or(Ok(DEFAULT_PORT), str::parse);
    let (Ok(port), Some(app)) = (port, arg("app").filter(|app| !app.is_empty())) else {
        return refuse(StatusCode::BAD_REQUEST, "the query must be ?port=PORT&app=APP&stream=NAME");
    };
    let name = arg("stream").unwrap_or_default();
    match asked_of_port(site, Some(port), app, name, request) {
        Ok(asked) => answer(site, &asked, Endless::Flv, request, payload).await,
        Err((status, why)) => refuse(status, &why),
    }
}

/// `flv_live PORT …`, as AlexWoo's module has it: the address is `/APP/NAME[.flv]`, or `/…/NAME[.flv]` where the location
/// names the application.
pub async fn flv_live_at(site: &Site, rule: &FlvLive, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    if *request.method() == Method::OPTIONS {
        return preflight();
    }
    let path = request.path().trim_start_matches('/');
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let query = query_of(request);
    let app = query.get("app").or(rule.app.as_ref()).map_or(folder, String::as_str);
    let name = name.strip_suffix(".flv").unwrap_or(name);
    if app.is_empty() || name.is_empty() {
        return refuse(StatusCode::BAD_REQUEST, "the address must be /APP/NAME.flv");
    }
    match asked_of_port(site, rule.port, app, name, request) {
        Ok(asked) => watch(site, &asked, Endless::Flv, rule.tracks, request, payload).await,
        Err((status, why)) => refuse(status, &why),
    }
}

fn offers(venue: &Venue, format: Endless) -> bool {
    venue.application.live && venue.application.outputs.http.has(output(format))
}

fn output(format: Endless) -> HttpOutput {
    match format {
        Endless::Flv => HttpOutput::Flv,
        Endless::Ts => HttpOutput::Ts,
        Endless::Mp4 => HttpOutput::Mp4,
    }
}

fn content_type(format: Endless) -> &'static str {
    match format {
        Endless::Flv => "video/x-flv",
        Endless::Ts => "video/mp2t",
        Endless::Mp4 => "video/mp4",
    }
}

fn protocol(format: Endless, is_websocket: bool) -> Protocol {
    match (format, is_websocket) {
        (Endless::Flv, false) => Protocol::HttpFlv,
        (Endless::Flv, true) => Protocol::WsFlv,
        (Endless::Ts, false) => Protocol::HttpTs,
        (Endless::Ts, true) => Protocol::WsTs,
        (Endless::Mp4, false) => Protocol::HttpMp4,
        (Endless::Mp4, true) => Protocol::WsMp4,
    }
}

/// What a location with `flv_live` means by port, application and name, checked in the order of an RTMP player.
fn asked_of_port(
    site: &Site,
    port: Option<u16>,
    app: &str,
    name: &str,
    request: &HttpRequest,
) -> Result<MediaRequest, (StatusCode, String)> {
    let connection = request.connection_info();
    let host = host_name(connection.host());
    let endpoints = site.config.endpoints();
    let is_meant = |address: &ListenAddress| match (address, port) {
        (ListenAddress::Tcp(address), Some(port)) => address.port() == port,
        (_, port) => port.is_none(),
    };
    let meant = endpoints.iter().filter(|endpoint| is_meant(&endpoint.listen.address));
    let mut servers = meant.map(|endpoint| endpoint.server_for(None, Some(host)));
    let server = servers.find(|server| server.application(app).is_some());
    let venue = server.and_then(|server| Some((Arc::clone(server), site.house.venue(server, app)?)));
    let Some((server, venue)) = venue else { return Err((StatusCode::NOT_FOUND, "no such application".to_owned())) };
    let peer = peer(request).map(|peer| peer.ip());
    if !venue.application.access.allows(Action::Play, peer) {
        return Err((StatusCode::FORBIDDEN, "access forbidden by rule".to_owned()));
    }
    let key = StreamKey::parse(&server.id, app, name);
    let key = key.map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))?;
    Ok(MediaRequest { key, venue, server, peer, wanted: Wanted::Endless(Endless::Flv) })
}

async fn open(site: &Site, asked: &MediaRequest, format: Endless, is_fetched: bool) -> Result<Source, NoStream> {
    let (key, venue) = (asked.key.clone(), &asked.venue);
    let kind = match format {
        Endless::Flv => {
            let (rules, home) = (Arc::clone(&venue.rules), Arbiter::current());
            let purpose = if is_fetched { Purpose::PlayFetched } else { Purpose::Play };
            let open = OpenStream { key, rules, purpose, home };
            let opened = site.house.router.send(open).await;
            return Ok(opened.unwrap_or(Err(NoStream::NotFound))?.source());
        }
        Endless::Ts => Endlessly::Ts,
        Endless::Mp4 => Endlessly::Mp4,
    };
    let open = OpenOutput { key, venue: Arc::clone(venue), kind: OutputKind::Endless(kind) };
    let opened = site.outputs.send(open).await;
    let OutputHandle::Feed(source) = opened.unwrap_or(Err(NoStream::NotFound))?;
    Ok(source)
}

pub fn record(asked: &MediaRequest, request: &HttpRequest) -> SessionRecord {
    let text = |name: header::HeaderName| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let connection = request.connection_info();
    let caller = request.conn_data::<Caller>();
    SessionRecord {
        connection: caller.map_or(0, |caller| caller.id),
        remote: peer(request),
        local: caller.and_then(|caller| caller.local),
        host: connection.host().to_owned(),
        tc_url: format!("{}://{}/{}", connection.scheme(), connection.host(), asked.key.app),
        server_id: asked.server.id.clone(),
        app: asked.key.app.to_string(),
        name: asked.key.name.to_string(),
        args: request.query_string().to_owned(),
        flash_ver: text(header::USER_AGENT),
        page_url: text(header::REFERER),
        ..SessionRecord::default()
    }
}

/// The nodes that a relay of ours comes through.
fn route(request: &HttpRequest, site: &Site) -> Result<Route, BadRoute> {
    let Some(said) = request.headers().get(ROUTE_HEADER) else { return Ok(Route::default()) };
    Route::parse(said.to_str().map_err(|_| BadRoute::Unreadable)?, site.house.node)
}

fn peer(request: &HttpRequest) -> Option<SocketAddr> {
    request.conn_data::<Caller>().and_then(|caller| caller.peer)
}

/// What a query leaves of what is offered: `only=audio`, `only=video`, `audio=0`, `video=0`. None: nothing.
fn asked_tracks(query: &str, offered: Tracks) -> Option<Tracks> {
    let query = parse_query(query);
    let is_on = |name: &str| !query.get(name).is_some_and(|value| matches!(value.as_str(), "0" | "off" | "false"));
    let only = query.get("only").map(String::as_str);
    let audio = offered.audio && is_on("audio") && only != Some("video");
    let video = offered.video && is_on("video") && only != Some("audio");
    (audio || video).then_some(Tracks { audio, video })
}

/// The query of a request, also where its question mark came escaped.
fn query_of(request: &HttpRequest) -> HashMap<String, String> {
    let escaped = || {
        let path = request.uri().path();
        let at = path.find("%3F").or_else(|| path.find("%3f"))?;
        path.get(at + 3..)
    };
    match request.query_string() {
        "" => parse_query(escaped().unwrap_or_default()),
        query => parse_query(query),
    }
}

fn parse_query(query: &str) -> HashMap<String, String> {
    // The first of several wins, as everywhere here.
    let pairs = web::Query::<Vec<(String, String)>>::from_query(query).map(web::Query::into_inner).unwrap_or_default();
    pairs.into_iter().take(MAX_ARGS).rev().collect()
}

fn wants_websocket(request: &HttpRequest) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.to_ascii_lowercase().contains("websocket"))
}

/// An answer that a page on another origin may look at.
fn open_to_all(status: StatusCode) -> HttpResponseBuilder {
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"));
    answer
}

fn refuse(code: StatusCode, why: &str) -> HttpResponse {
    open_to_all(code)
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .content_type("text/plain")
        .body(format!("{why}\n"))
}

fn preflight() -> HttpResponse {
    open_to_all(StatusCode::NO_CONTENT)
        .insert_header((header::ALLOW, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "*"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}

/// The head of an answer that never ends. Asked for a range of it, one gets it from here on all the same.
fn endless(format: Endless) -> HttpResponseBuilder {
    let mut answer = open_to_all(StatusCode::OK);
    answer
        .content_type(content_type(format))
        .insert_header((header::CACHE_CONTROL, "no-cache, no-store"))
        .insert_header((header::EXPIRES, "-1"))
        // nginx in front of us must not collect what is meant for now.
        .insert_header(("X-Accel-Buffering", "no"));
    answer
}

/// The body of an answer over plain HTTP.
struct Answer {
    /// Taken out before it was known that there is an answer.
    first: Option<Bytes>,
    watching: Watching,
}

impl MessageBody for Answer {
    type Error = BrokenOff;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let this = self.get_mut();
        match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => this.watching.poll_bytes(task),
        }
    }
}

/// The same over WebSocket: each piece is a binary message. What the peer says is read here as well, so that whoever does
/// not take our answers is not listened to either.
struct Socket {
    watching: Watching,
    heard: actix_web::dev::Payload,
    frames: FrameReader,
    /// What is said ahead of the next message.
    replies: BytesMut,
    /// The message whose header has gone out.
    message: Option<Bytes>,
    pings: PingRate,
    is_closed: bool,
}

/// Pings answered within the second that began then.
struct PingRate {
    since: Instant,
    count: u32,
}

impl Socket {
    fn new(watching: Watching, heard: actix_web::dev::Payload) -> Self {
        Self {
            watching,
            heard,
            frames: FrameReader::default(),
            replies: BytesMut::new(),
            message: None,
            pings: PingRate { since: Instant::now(), count: 0 },
            is_closed: false,
        }
    }

    /// Says goodbye; nothing follows it.
    fn close(&mut self, status: u16) {
        if !self.is_closed {
            self.is_closed = true;
            websocket::write_close(&mut self.replies, status);
        }
    }

    /// Reads what has come from the peer.
    fn hear(&mut self, task: &mut Context<'_>) {
        while !self.is_closed {
            match Pin::new(&mut self.heard).poll_next(task) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(bytes))) => self.take_frames(&bytes),
                // It closed its side without a goodbye.
                Poll::Ready(_) => self.is_closed = true,
            }
        }
    }

    fn take_frames(&mut self, mut bytes: &[u8]) {
        while !self.is_closed {
            match self.frames.read(&mut bytes) {
                Ok(None) => return,
                Ok(Some(Heard::Ping(_))) if self.pings.is_too_fast(Instant::now()) => self.close(status::POLICY),
                Ok(Some(Heard::Ping(said))) => websocket::write_pong(&mut self.replies, &said),
                Ok(Some(Heard::Close)) => self.close(status::NORMAL),
                Err(error) => self.close(error.status()),
            }
        }
    }
}

impl PingRate {
    fn is_too_fast(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        self.count > MAX_PINGS
    }
}

impl MessageBody for Socket {
    type Error = BrokenOff;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let this = self.get_mut();
        // Nothing may come between the header of a message and the message.
        if let Some(message) = this.message.take() {
            return Poll::Ready(Some(Ok(message)));
        }
        this.hear(task);
        if this.replies.is_empty() && !this.is_closed {
            match ready!(this.watching.poll_bytes(task)) {
                Some(Ok(message)) => {
                    let header = websocket::message_header(message.len());
                    this.message = Some(message);
                    return Poll::Ready(Some(Ok(header)));
                }
                Some(Err(broken_off)) => return Poll::Ready(Some(Err(broken_off))),
                None => this.close(status::NORMAL),
            }
        }
        match this.replies.is_empty() {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(this.replies.split().freeze()))),
        }
    }
}

/// RTMP's own, where a query names no other.
const DEFAULT_PORT: u16 = 1935;

/// How long a viewer waits for the head of its answer when its stream is fetched from elsewhere: a little longer than a
/// pull has to bring its first frame.
const FETCH_WAITS: Duration = Duration::from_secs(12);

/// Arguments of a query that are looked at.
const MAX_ARGS: usize = 64;

/// Pings a second that are answered.
const MAX_PINGS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_asks_for_less_than_is_offered() {
        let both = Some(Tracks::BOTH);
        let audio = Some(Tracks { audio: true, video: false });
        let video = Some(Tracks { audio: false, video: true });
        for (query, expected) in [
            ("", both),
            ("audio=1&video=1", both),
            ("video=0", audio),
            ("only=audio", audio),
            ("audio=0", video),
            ("only=video&x=y", video),
            ("only=video&video=0", None),
            ("audio=0&video=off", None),
            ("audio=0&audio=1", video),
        ] {
            assert_eq!(asked_tracks(query, Tracks::BOTH), expected, "{query}");
        }
        assert_eq!(asked_tracks("audio=1", Tracks { audio: false, video: true }), video);
    }

    #[tokio::test]
    async fn pings_are_answered_ten_times_a_second() {
        tokio::time::pause();
        let mut rate = PingRate { since: Instant::now(), count: 0 };
        let answered = |rate: &mut PingRate| (0..30).filter(|_| !rate.is_too_fast(Instant::now())).count();
        assert_eq!(answered(&mut rate), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(answered(&mut rate), 10);
    }
}
