//! Clients of every protocol: who is slow and why, and sending one away.

use std::{cmp::Reverse, net::IpAddr};

use super::{
    Reply,
    ask::Ask,
    document,
    list::Wanted,
    problem::Problem,
    streams::{Named, drop_selected, redirect_selected},
    types, view,
};
use crate::actors::{
    control::Selection,
    support::{roll::ClientRole, snapshot::Client},
};

/// Who publishes and plays, over every protocol, relays included; the newest first. `sort=slowest` says who is behind.
#[utoipa::path(
    get, path = "/api/v1/clients", tag = "clients", params(document::OfStream, document::ClientFilter, document::Paging),
    responses((status = 200, body = types::Page<types::Client>))
)]
pub async fn list(mut ask: Ask) -> Result<Reply, Problem> {
    let sorts = [
        ("newest", Sort::Newest),
        ("slowest", Sort::Slowest),
        ("bytes_in", Sort::BytesIn),
        ("bytes_out", Sort::BytesOut),
    ];
    let wanted = Wanted::take(&mut ask.query, &sorts)?;
    let named = Named::take(&mut ask);
    let roles = [("publisher", ClientRole::Publisher), ("player", ClientRole::Player)];
    let role = ask.query.take_one("role", &roles)?;
    let protocol = ask.query.take("protocol");
    let address = ask.query.take_as::<IpAddr>("address", "an IP address")?.map(|address| address.to_canonical());
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let fits = |client: &&Client| {
        let who = &client.who;
        named.fits(&who.key)
            && role.is_none_or(|role| role == who.role)
            && protocol.as_ref().is_none_or(|protocol| protocol == who.protocol)
            && address.is_none_or(|wanted| who.address.is_some_and(|has| has.ip().to_canonical() == wanted))
    };
    let key = |client: &&Client| {
        let rank = match wanted.sort {
            Sort::Newest => (0, 0, 0),
            Sort::Slowest => client.slowness(),
            Sort::BytesIn => (client.pulse.bytes_in, 0, 0),
            Sort::BytesOut => (client.pulse.bytes_out, 0, 0),
        };
        Reverse((rank, client.who.id, client.who.role == ClientRole::Player))
    };
    let now = seen.server.now;
    Reply::ok(&wanted.page(seen.clients.iter().filter(fits).collect(), key, |client| view::client(client, now))?)
}

#[derive(Clone, Copy)]
enum Sort {
    Newest,
    Slowest,
    BytesIn,
    BytesOut,
}

/// One client.
#[utoipa::path(
    get, path = "/api/v1/clients/{id}", tag = "clients", params(document::Id),
    responses((status = 200, body = types::Client), (status = 404, description = "no such client"))
)]
pub async fn one(ask: Ask) -> Result<Reply, Problem> {
    let id = ask.id()?;
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let client = seen.clients.iter().find(|client| client.who.id == id);
    let client = client.ok_or_else(|| Problem::missing("there is no such client"))?;
    Reply::ok(&view::client(client, seen.server.now))
}

/// Sends a client away; it is told why. One that has gone is no error.
#[utoipa::path(
    delete, path = "/api/v1/clients/{id}", tag = "clients", params(document::Id, document::Banning),
    responses((status = 200, body = types::Dropped), (status = 409, description = "there are too many bans"))
)]
pub async fn drop_client(ask: Ask) -> Result<Reply, Problem> {
    let select = Selection { id: Some(ask.id()?), ..Selection::default() };
    drop_selected(ask, select).await
}

/// Sends a client to another name of its application. One that has gone is no error.
#[utoipa::path(
    post, path = "/api/v1/clients/{id}/redirect", tag = "clients", params(document::Id),
    request_body = types::RedirectClient, responses((status = 200, body = types::Redirected))
)]
pub async fn redirect(ask: Ask) -> Result<Reply, Problem> {
    let select = Selection { id: Some(ask.id()?), ..Selection::default() };
    let types::RedirectClient { to } = ask.json()?;
    redirect_selected(ask, select, to).await
}
