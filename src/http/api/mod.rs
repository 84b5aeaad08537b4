//! livemill's own API, and its metrics: what is asked of [`Control`], as JSON.
//!
//! - [`guard`]: who may ask. [`ask`]: a request, taken apart. [`problem`]: why it was not done.
//! - [`types`]: what is taken and answered. [`view`]: a snapshot as such types. [`list`]: lists in pages.
//! - [`about`], [`streams`], [`clients`], [`relays`], [`bans`]: one file a subject, one function a route.
//! - [`metrics`]: the same snapshot for Prometheus. [`document`]: OpenAPI, made of the types and the routes.
//! - [`seats`]: connections of the API and what they have not read yet.
//!
//! It has a thread of its own: rendering, and those who read slowly, cost no stream a frame.
//!
//! [`Control`]: crate::actors::control::Control

use std::{cell::RefCell, net::IpAddr, rc::Rc, sync::Arc};

use actix::MailboxError;
use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;

use super::{Site, outlet, wire::Caller};
use crate::actors::{control::Look, support::snapshot::Snapshot};

pub mod about;
pub mod ask;
pub mod bans;
pub mod clients;
pub mod document;
pub mod guard;
pub mod list;
pub mod metrics;
pub mod problem;
pub mod relays;
pub mod seats;
pub mod streams;
pub mod types;
pub mod view;

use ask::{Ask, Query};
use guard::{Asked, Guard, Token};
use problem::Problem;
use seats::Seats;

/// Everything that is served here, besides what `about` says of the document.
pub const ROUTES: &[Route] = &[
    Route { method: Method::GET, path: "/api/v1/server", run: |ask| Box::pin(about::server(ask)) },
    Route { method: Method::GET, path: "/api/v1/streams", run: |ask| Box::pin(streams::list(ask)) },
    Route { method: Method::GET, path: "/api/v1/streams/{app}/{name}", run: |ask| Box::pin(streams::one(ask)) },
    Route {
        method: Method::DELETE,
        path: "/api/v1/streams/{app}/{name}",
        run: |ask| Box::pin(streams::drop_stream(ask)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/streams/{app}/{name}/redirect",
        run: |ask| Box::pin(streams::redirect(ask)),
    },
    Route { method: Method::GET, path: "/api/v1/clients", run: |ask| Box::pin(clients::list(ask)) },
    Route { method: Method::GET, path: "/api/v1/clients/{id}", run: |ask| Box::pin(clients::one(ask)) },
    Route { method: Method::DELETE, path: "/api/v1/clients/{id}", run: |ask| Box::pin(clients::drop_client(ask)) },
    Route { method: Method::POST, path: "/api/v1/clients/{id}/redirect", run: |ask| Box::pin(clients::redirect(ask)) },
    Route { method: Method::GET, path: "/api/v1/relays", run: |ask| Box::pin(relays::list(ask)) },
    Route { method: Method::POST, path: "/api/v1/relays", run: |ask| Box::pin(relays::add(ask)) },
    Route { method: Method::GET, path: "/api/v1/relays/{id}", run: |ask| Box::pin(relays::one(ask)) },
    Route { method: Method::DELETE, path: "/api/v1/relays/{id}", run: |ask| Box::pin(relays::remove(ask)) },
    Route { method: Method::GET, path: "/api/v1/bans", run: |ask| Box::pin(bans::list(ask)) },
    Route { method: Method::POST, path: "/api/v1/bans", run: |ask| Box::pin(bans::add(ask)) },
    Route { method: Method::DELETE, path: "/api/v1/bans/{id}", run: |ask| Box::pin(bans::lift(ask)) },
    Route { method: Method::GET, path: "/api/v1/hooks", run: |ask| Box::pin(about::hooks(ask)) },
    Route { method: Method::GET, path: "/api/v1/children", run: |ask| Box::pin(about::children(ask)) },
    Route { method: Method::GET, path: "/api/v1/openapi.json", run: |ask| Box::pin(about::openapi(ask)) },
    Route { method: Method::GET, path: "/metrics", run: |ask| Box::pin(about::metrics(ask)) },
];

/// One thing that can be asked for.
pub struct Route {
    pub method: Method,
    /// `{name}` may hold slashes; other parts in braces may not. Where a name ends in `/redirect`, that slash is encoded.
    pub path: &'static str,
    pub run: fn(Ask) -> LocalBoxFuture<'static, Result<Reply, Problem>>,
}

/// What an answer is made of.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    content_type: &'static str,
    location: Option<String>,
    body: Bytes,
}

impl Reply {
    pub fn ok(body: &impl Serialize) -> Result<Self, Problem> {
        Self::json(StatusCode::OK, body)
    }

    pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(Self { status, content_type: "application/json", location: None, body: body.into() })
    }

    pub fn text(content_type: &'static str, body: Bytes) -> Self {
        Self { status: StatusCode::OK, content_type, location: None, body }
    }

    #[must_use]
    pub fn at(self, location: String) -> Self {
        Self { location: Some(location), ..self }
    }
}

/// What opens the API, and under which names it may be asked.
#[derive(Clone)]
pub struct Keys {
    pub token: Token,
    pub hosts: Vec<String>,
}

/// The API on its thread.
pub struct Api {
    pub site: Arc<Site>,
    pub seats: Rc<Seats>,
    guard: RefCell<Guard>,
    /// What was last rendered for Prometheus, and of what: many may scrape at once.
    pub metrics: RefCell<Option<(Arc<Snapshot>, Bytes)>>,
}

impl Api {
    pub fn new(site: Arc<Site>, keys: Keys) -> Self {
        let guard = RefCell::new(Guard::new(keys.token, keys.hosts));
        Self { site, seats: Rc::default(), guard, metrics: RefCell::default() }
    }

    /// The whole server as it is now.
    pub async fn look(&self) -> Result<Arc<Snapshot>, Problem> {
        self.site.control.send(Look).await.map_err(gone)
    }
}

/// Control is gone: so is the process, soon.
pub fn gone(_: MailboxError) -> Problem {
    Problem::ending()
}

/// Every request to the API.
pub async fn serve(request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let (Some(api), Some(caller)) = (request.app_data::<Rc<Api>>(), request.conn_data::<Caller>()) else {
        return HttpResponse::InternalServerError().finish();
    };
    caller.progress.asked();
    let mut answer = match reply(Rc::clone(api), caller, &request, payload).await {
        Ok(reply) => {
            api.seats.make_room(reply.body.len());
            let mut answer = HttpResponse::build(reply.status);
            answer.content_type(reply.content_type);
            if let Some(location) = reply.location {
                answer.insert_header((header::LOCATION, location));
            }
            outlet::answer(answer, reply.body, &request)
        }
        Err(problem) => {
            let mut answer = problem.answer();
            if *request.method() == Method::POST {
                // What is left of its body is not read.
                answer.head_mut().set_connection_type(actix_http::ConnectionType::Close);
            }
            answer
        }
    };
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    answer
}

async fn reply(api: Rc<Api>, caller: &Caller, request: &HttpRequest, payload: web::Payload) -> Result<Reply, Problem> {
    let ip = |address: std::net::SocketAddr| address.ip();
    let peer: Option<IpAddr> = caller.peer.map(ip);
    let asked = Asked::of(request, peer, caller.local.map(ip));
    api.guard.borrow_mut().admit(&asked, api.site.house.now())?;
    // In the form "GET http://HOST/": it is the same server, whatever the host is, as the header has been looked at.
    let (route, path) = find(request.method(), request.uri().path())?;
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let body = match route.method {
        Method::POST => {
            caller.progress.wants_body();
            ask::read_body(request, payload).await?
        }
        _ => Bytes::new(),
    };
    (route.run)(Ask { api, path, query, body, peer }).await
}

/// The route of a request, and the parts of its path.
pub fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Problem> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    let fitting: Vec<_> = ROUTES.iter().filter_map(|route| Some((route, parts(route.path, path)?))).collect();
    let allowed: Vec<&str> = fitting.iter().map(|(route, _)| route.method.as_str()).collect();
    let allowed = allowed.join(", ");
    let found = fitting.into_iter().find(|(route, _)| route.method == method);
    found.ok_or_else(|| match allowed.as_str() {
        "" => Problem::missing("there is nothing at this path: see /api/v1/openapi.json"),
        _ => Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path knows {allowed}"))
            .with(header::ALLOW, allowed),
    })
}

/// What stands in the place of the braces. None: the path is another one.
fn parts(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut segments: Vec<&str> = path.split('/').collect();
    let (before, after) = match pattern.split_once("{name}") {
        Some((before, after)) => (before.trim_end_matches('/'), Some(after.trim_start_matches('/'))),
        None => (pattern, None),
    };
    let mut found = Vec::new();
    let before: Vec<&str> = before.split('/').collect();
    if segments.len() < before.len() {
        return None;
    }
    let rest = segments.split_off(before.len());
    for (expected, segment) in before.iter().zip(&segments) {
        match expected.starts_with('{') {
            true => found.push(ask::decode_part(segment).filter(|part| !part.is_empty())?),
            false if expected == segment => {}
            false => return None,
        }
    }
    let Some(after) = after else { return rest.is_empty().then_some(found) };
    let (_, name) = match (after, rest.split_last()) {
        (_, None) => return None,
        ("", Some((last, before))) if before.is_empty() || *last != "redirect" => ("", &rest[..]),
        (after, Some((last, name))) if after == *last && !name.is_empty() => (after, name),
        _ => return None,
    };
    found.push(ask::decode_part(&name.join("/"))?);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Result<(String, Vec<String>), u16> {
        let found = find(&method, path).map_err(|problem| problem.status.as_u16())?;
        Ok((format!("{} {}", found.0.method, found.0.path), found.1))
    }

    #[test]
    fn a_path_finds_its_route_and_its_parts() {
        for (method, path, route, parts) in [
            (Method::GET, "/metrics", "GET /metrics", &[][..]),
            (Method::HEAD, "/api/v1/server", "GET /api/v1/server", &[]),
            (Method::GET, "/api/v1/clients/7", "GET /api/v1/clients/{id}", &["7"]),
            (Method::GET, "/api/v1/streams/live/a", "GET /api/v1/streams/{app}/{name}", &["live", "a"]),
            (Method::GET, "/api/v1/streams/live/a/b%2Fc%20d", "GET /api/v1/streams/{app}/{name}", &["live", "a/b/c d"]),
            (Method::GET, "/api/v1/streams/a%2Fb/%25", "GET /api/v1/streams/{app}/{name}", &["a/b", "%"]),
            (Method::GET, "/api/v1/streams/live/", "GET /api/v1/streams/{app}/{name}", &["live", ""]),
            (
                Method::POST,
                "/api/v1/streams/live/a/b/redirect",
                "POST /api/v1/streams/{app}/{name}/redirect",
                &["live", "a/b"],
            ),
            (
                Method::DELETE,
                "/api/v1/streams/live/a%2Fredirect",
                "DELETE /api/v1/streams/{app}/{name}",
                &["live", "a/redirect"],
            ),
        ] {
            let parts = parts.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(found(method, path), Ok((route.to_owned(), parts)), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_found_and_what_cannot_be_done_is_not_allowed() {
        for (method, path, expected) in [
            (Method::GET, "/", 404),
            (Method::GET, "/api/v1", 404),
            (Method::GET, "/api/v1/server/", 404),
            (Method::GET, "/api/v1/clients/", 404),
            (Method::GET, "/api/v1/clients/7/8", 404),
            (Method::GET, "/api/v1/streams/live", 404),
            (Method::GET, "/api/v1/streams//a", 404),
            (Method::GET, "/api/v1/streams/live/%ff", 404),
            (Method::POST, "/api/v1/server", 405),
            (Method::POST, "/api/v1/streams/live/redirect", 405),
            (Method::OPTIONS, "/api/v1/clients", 405),
            (Method::PATCH, "/api/v1/clients/7", 405),
            (Method::DELETE, "/api/v1/streams/live/a/redirect", 405),
        ] {
            assert_eq!(found(method, path), Err(expected), "{path}");
        }
        let problem = find(&Method::PUT, "/api/v1/clients/7").err().expect("no such method");
        assert!(problem.detail.contains("GET, DELETE"), "{problem:?}");
    }
}
