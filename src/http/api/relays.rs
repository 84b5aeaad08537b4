//! Pushes and pulls: their state, new ones, and the end of one.

use actix_web::http::StatusCode;

use super::{
    Api, Reply,
    ask::Ask,
    document, gone,
    list::Wanted,
    problem::Problem,
    streams::Named,
    types::{self, RelayDirection},
    view,
};
use crate::{
    actors::{
        control::{StartRelay, StopRelay},
        relays::RelayRefused,
        support::{relay_plan::Direction, relay_status::RelayView},
    },
    media::key::StreamKey,
};

/// Relays, the oldest first.
#[utoipa::path(
    get, path = "/api/v1/relays", tag = "relays", params(document::OfStream, document::Paging),
    responses((status = 200, body = types::Page<types::Relay>))
)]
pub async fn list(mut ask: Ask) -> Result<Reply, Problem> {
    let wanted = Wanted::take(&mut ask.query, &[("oldest", ())])?;
    let named = Named::take(&mut ask);
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let relays: Vec<&RelayView> = seen.relays.iter().filter(|relay| named.fits(&relay.key)).collect();
    Reply::ok(&wanted.page(relays, |relay| relay.id, |relay| view::relay(relay))?)
}

/// One relay.
#[utoipa::path(
    get, path = "/api/v1/relays/{id}", tag = "relays", params(document::Id),
    responses((status = 200, body = types::Relay), (status = 404, description = "no such relay"))
)]
pub async fn one(ask: Ask) -> Result<Reply, Problem> {
    let id = ask.id()?;
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let relay = seen.relays.iter().find(|relay| relay.id == id);
    Reply::ok(&view::relay(relay.ok_or_else(|| Problem::missing("there is no such relay"))?))
}

/// Pushes or pulls a stream from now on, until it is told to stop. One that is there already is no error.
#[utoipa::path(
    post, path = "/api/v1/relays", tag = "relays", request_body = types::NewRelay,
    responses(
        (status = 201, description = "it is new", body = types::Relay),
        (status = 200, description = "it was there already", body = types::Relay),
        (status = 404, description = "no such application"),
        (status = 409, description = "there are too many relays"),
    )
)]
pub async fn add(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    let types::NewRelay { direction, server, app, name, url } = ask.json()?;
    let direction = match direction {
        RelayDirection::Push => Direction::Push,
        RelayDirection::Pull => Direction::Pull,
    };
    let key = key_of(&ask.api, server.as_deref(), &app, &name)?;
    let order = StartRelay { key, direction, url, author: ask.author() };
    let added = ask.api.site.control.send(order).await.map_err(gone)?.map_err(refused)?;
    let status = if added.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Reply::json(status, &view::relay(&added.relay))?.at(format!("/api/v1/relays/{}", added.relay.id)))
}

fn refused(refused: RelayRefused) -> Problem {
    let status = match refused {
        RelayRefused::NoApplication(_) => StatusCode::NOT_FOUND,
        RelayRefused::TooMany => StatusCode::CONFLICT,
        RelayRefused::Ending => StatusCode::SERVICE_UNAVAILABLE,
        RelayRefused::Target(_) | RelayRefused::PushScheme => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, refused.to_string())
}

/// The name of a stream of this server, whether there is one or not.
pub fn key_of(api: &Api, server: Option<&str>, app: &str, name: &str) -> Result<StreamKey, Problem> {
    let mut servers = api.site.config.servers.iter();
    let found = match server {
        Some(id) => servers.find(|server| server.id == id),
        None => servers.find(|server| server.application(app).is_some()),
    };
    let found = found.filter(|server| server.application(app).is_some());
    let server = found.ok_or_else(|| Problem::missing("there is no such application"))?;
    StreamKey::parse(&server.id, app, name).map_err(|error| Problem::bad(format!("\"name\": {error}")))
}

/// Ends a relay. One that has gone is no error; one of the configuration comes back with the next publisher or player.
#[utoipa::path(
    delete, path = "/api/v1/relays/{id}", tag = "relays", params(document::Id),
    responses((status = 200, body = types::Removed))
)]
pub async fn remove(ask: Ask) -> Result<Reply, Problem> {
    let id = ask.id()?;
    ask.query.finish()?;
    let is_over = ask.api.site.control.send(StopRelay { id, author: ask.author() }).await.map_err(gone)?;
    Reply::ok(&types::Removed { removed: is_over.into() })
}
