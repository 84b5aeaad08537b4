//! Bans: who is kept out, and for how long.

use std::net::IpAddr;

use actix_web::http::StatusCode;

use super::{
    Reply,
    ask::{self, Ask},
    document, gone,
    list::Wanted,
    problem::Problem,
    relays::key_of,
    types::{self, Role},
    view,
};
use crate::actors::{
    control::{AddBan, LiftBan, ListBans},
    support::{
        bans::{Ban, BanScope, TooManyBans},
        roll::ClientRole,
    },
};

/// Bans that hold, the oldest first.
#[utoipa::path(
    get, path = "/api/v1/bans", tag = "bans", params(document::Paging),
    responses((status = 200, body = types::Page<types::Ban>))
)]
pub async fn list(mut ask: Ask) -> Result<Reply, Problem> {
    let wanted = Wanted::take(&mut ask.query, &[("oldest", ())])?;
    ask.query.finish()?;
    let bans = ask.api.site.control.send(ListBans).await.map_err(gone)?;
    let now = ask.api.site.house.now();
    Reply::ok(&wanted.page(bans, |ban: &Ban| ban.id, |ban| view::ban(ban, now))?)
}

/// Keeps somebody out, whether he is here or not; who is here stays.
#[utoipa::path(
    post, path = "/api/v1/bans", tag = "bans", request_body = types::NewBan,
    responses(
        (status = 201, body = types::Banned),
        (status = 404, description = "no such application"),
        (status = 409, description = "there are too many bans"),
    )
)]
pub async fn add(ask: Ask) -> Result<Reply, Problem> {
    ask.query.finish()?;
    let asked: types::NewBan = ask.json()?;
    let lasts = ask::ban_time("for", &asked.lasts)?;
    let reason = asked.reason.clone().unwrap_or_default();
    ask::check_reason(&reason)?;
    let mut bans = Vec::new();
    for scope in scopes(&ask, &asked)? {
        let order = AddBan { scope, lasts, reason: reason.clone(), author: ask.author() };
        bans.push(ask.api.site.control.send(order).await.map_err(gone)?.map_err(too_many)?);
    }
    let now = ask.api.site.house.now();
    Reply::json(StatusCode::CREATED, &types::Banned { bans: bans.iter().map(|ban| view::ban(ban, now)).collect() })
}

fn scopes(ask: &Ask, asked: &types::NewBan) -> Result<Vec<BanScope>, Problem> {
    let address = asked.address.as_ref().map(|address| address.parse::<IpAddr>());
    let address = address.transpose().map_err(|_| Problem::bad("\"address\" is to be an IP address"))?;
    let key = match (&asked.app, &asked.name) {
        (Some(app), Some(name)) => Some(key_of(&ask.api, asked.server.as_deref(), app, name)?),
        (None, None) => None,
        _ => return Err(Problem::bad("\"app\" and \"name\" come together")),
    };
    let roles = match asked.role {
        Some(Role::Publisher) => vec![ClientRole::Publisher],
        Some(Role::Player) => vec![ClientRole::Player],
        None => vec![ClientRole::Publisher, ClientRole::Player],
    };
    match (address, key) {
        (Some(address), None) if asked.role.is_none() && asked.server.is_none() => Ok(vec![BanScope::address(address)]),
        (Some(_), None) => {
            Err(Problem::bad("a ban by address alone is of everything: it takes no \"role\" and no \"server\""))
        }
        (None, Some(key)) => Ok(roles.into_iter().map(|role| BanScope::Name { key: key.clone(), role }).collect()),
        (Some(address), Some(key)) => {
            Ok(roles.into_iter().map(|role| BanScope::both(Some(address), key.clone(), role)).collect())
        }
        (None, None) => Err(Problem::bad("a ban needs \"address\", or \"app\" and \"name\", or all of them")),
    }
}

/// Lets somebody in again. A ban that has gone is no error.
#[utoipa::path(
    delete, path = "/api/v1/bans/{id}", tag = "bans", params(document::Id),
    responses((status = 200, body = types::Lifted))
)]
pub async fn lift(ask: Ask) -> Result<Reply, Problem> {
    let id = ask.id()?;
    ask.query.finish()?;
    let is_lifted = ask.api.site.control.send(LiftBan { id, author: ask.author() }).await.map_err(gone)?;
    Reply::ok(&types::Lifted { lifted: is_lifted.into() })
}

pub fn too_many(error: TooManyBans) -> Problem {
    Problem::new(StatusCode::CONFLICT, error.to_string())
}
