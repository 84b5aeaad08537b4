//! HTTP on top of the actors: a request becomes a message, an answer becomes bytes.
//!
//! - [`server`]: sockets, connections, workers; the end in order.
//! - [`outlet`]: large answers from memory, past actix-http's copy of them.
//! - [`wire`]: one connection, plain, TLS or from a unix socket.
//! - [`tls`]: certificates by name.
//! - [`nginx`]: what nginx's `http {}` says about a request: servers, locations, files, error pages.
//! - [`address`]: media addresses, `/APP/NAME.flv` and so on.
//! - [`hls`]: playlists, manifests and segments.
//! - [`live`]: streams in an answer that never ends, over HTTP and WebSocket.
//! - [`mod@page`]: what is live, and a player of our own.
//! - [`scheduler`]: the calls of a cluster's nodes.
//! - [`control`]: nginx-rtmp's addresses that drop and redirect.
//!
//! A request comes to [`nginx::serve`], which finds its server and location; a location with `player on`, and every
//! request of a start without a configuration, comes to [`watch`] from there.

use std::net::IpAddr;
use std::sync::Arc;

use actix::{Addr, ArbiterHandle};
use actix_web::http::{Method, StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use tokio::sync::oneshot;

use crate::{
    actors::{
        control::Control,
        house::{House, Venue},
        outputs::Outputs,
        support::{bans::Banned, roll::ClientRole},
    },
    config::{Action, Config, Server},
    log::access::AccessLogs,
    media::key::StreamKey,
};

pub mod address;
mod admission;
pub mod api;
pub mod control;
pub mod hls;
pub mod live;
pub mod nginx;
pub mod outlet;
pub mod page;
pub mod scheduler;
pub mod server;
pub mod tls;
pub mod wire;

use address::Wanted;
use nginx::statistics::Renderings;
use wire::Caller;

/// What every request is given: shared by all workers.
pub struct Site {
    pub house: Arc<House>,
    pub outputs: Addr<Outputs>,
    pub control: Addr<Control>,
    /// The thread for work that may take its time.
    pub aside: ArbiterHandle,
    pub config: Arc<Config>,
    pub logs: AccessLogs,
    pub statistics: Renderings,
}

impl Site {
    /// Has work done where it holds up no media. None: the server is ending, or the work failed by a bug of ours.
    pub async fn aside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.aside.spawn_fn(move || {
            // Whoever asked may have left.
            let _ = done.send(work());
        });
        result.await.ok()
    }
}

/// A media address that means a stream of this server, with what decides about it.
#[derive(Clone)]
pub struct MediaRequest {
    pub key: StreamKey,
    pub venue: Arc<Venue>,
    pub server: Arc<Server>,
    /// None: a unix socket.
    pub peer: Option<IpAddr>,
    pub wanted: Wanted,
}

/// A request below a media address: `/APP/NAME.flv` and so on; tried by the built-in site always, by an nginx `location`
/// when no file is there. None: not a media address.
pub async fn media(site: &Site, request: &HttpRequest, payload: web::Payload) -> Option<HttpResponse> {
    media_at(site, request.path(), request, payload).await
}

/// The same for the part of the address behind the location. `path` is still percent-encoded.
pub async fn media_at(site: &Site, path: &str, request: &HttpRequest, payload: web::Payload) -> Option<HttpResponse> {
    let asked = find(site, path, request)?;
    Some(match asked {
        Err(refused) => refused.answer(),
        Ok(asked) => play(site, &asked, request, payload).await,
    })
}

/// The page, and every media address: what a start without a configuration serves, and `player on`. `path` is what
/// follows the location, with its first slash.
pub async fn watch(site: &Site, path: &str, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    if let Some(answer) = media_at(site, path, request, payload).await {
        return answer;
    }
    match *request.method() {
        Method::GET | Method::HEAD => page(site, path, request),
        Method::OPTIONS => HttpResponse::NoContent().insert_header((header::ALLOW, METHODS)).finish(),
        _ => method_not_allowed(),
    }
}

/// What may be asked for here.
pub const METHODS: &str = "GET, HEAD, OPTIONS";

pub fn method_not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, METHODS)).finish()
}

fn page(site: &Site, path: &str, request: &HttpRequest) -> HttpResponse {
    let answer = page::answer(path, request, || page::Live::now(site, request));
    answer.unwrap_or_else(|| HttpResponse::NotFound().finish())
}

async fn play(site: &Site, asked: &MediaRequest, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
        return method_not_allowed();
    }
    match &asked.wanted {
        Wanted::Endless(format) => live::answer(site, asked, *format, request, payload).await,
        Wanted::File(file) => hls::answer(site, asked, file, request).await,
    }
}

/// Why a media address is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Address rules.
    Denied,
    /// An operator keeps it out.
    Banned(Banned),
    /// A name that no stream can have.
    BadName,
}

impl Refused {
    pub fn answer(self) -> HttpResponse {
        let status = match self {
            Self::Denied | Self::Banned(_) => StatusCode::FORBIDDEN,
            Self::BadName => StatusCode::NOT_FOUND,
        };
        let mut answer = HttpResponse::build(status);
        // A page on another origin must be able to see why.
        answer.insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"));
        match self {
            Self::Banned(banned) => answer
                .insert_header((header::RETRY_AFTER, banned.left_s.to_string()))
                .insert_header((header::CACHE_CONTROL, "no-store"))
                .content_type("text/plain")
                .body(format!("{banned}\n")),
            Self::Denied | Self::BadName => answer.finish(),
        }
    }
}

/// Checks in the order of an RTMP player: the application, what it offers, the address rules, the name. None: no
/// application of this server is meant.
fn find(site: &Site, path: &str, request: &HttpRequest) -> Option<Result<MediaRequest, Refused>> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let server = rtmp_server(site, host_name(host), path)?;
    let is_named = |app: &str| server.applications.iter().any(|application| application.name == app);
    let (app, rest) = address::split(path, is_named).or_else(|| address::split_first(path))?;
    let venue = site.house.venue(server, app)?;
    let peer = request.conn_data::<Caller>().and_then(|caller| caller.peer).map(|peer| peer.ip());
    let exists = |name: &str| {
        let key = StreamKey::parse(&server.id, app, name).ok();
        key.is_some_and(|key| site.house.directory.find(&key).is_some())
    };
    let (name, wanted) = address::wanted(rest, exists)?;
    if !venue.application.access.allows(Action::Play, peer) {
        return Some(Err(Refused::Denied));
    }
    let Ok(key) = StreamKey::parse(&server.id, app, name) else { return Some(Err(Refused::BadName)) };
    if let Err(banned) = site.house.bans.check(ClientRole::Player, peer, &key, site.house.now()) {
        return Some(Err(Refused::Banned(banned)));
    }
    Some(Ok(MediaRequest { key, venue, server: Arc::clone(server), peer, wanted }))
}

/// The RTMP server whose streams are meant: the one named by the host, else the first with that application.
fn rtmp_server<'a>(site: &'a Site, host: &str, path: &str) -> Option<&'a Arc<Server>> {
    let servers = &site.config.servers;
    let named = crate::config::hosts::named(servers, host);
    let app = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    named.or_else(|| servers.iter().find(|server| server.application(app).is_some())).or_else(|| servers.first())
}

/// The host of a `Host` header, without its port.
pub fn host_name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}
