//! Asks the hooks about those who watch over HTTP: about an endless answer when it begins, about a viewer of segments once.

use std::sync::{Arc, atomic::AtomicBool, atomic::Ordering};

use actix_web::{HttpRequest, HttpResponse, http::header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{MediaRequest, Site, live::record};
use crate::{
    actors::{
        gate::{self, Denied, Watcher},
        support::{
            counters::Protocol,
            facts::SessionFacts,
            guests::{GuestId, GuestName, Let},
            route::Route,
            sessions::Who,
        },
    },
    media::key::StreamKey,
};

/// Whether anybody has a say in who watches this.
pub fn is_needed(asked: &MediaRequest) -> bool {
    gate::minds_viewers(&asked.server, &asked.venue)
}

/// Asks about somebody who is about to watch.
pub async fn watch(
    site: &Site,
    asked: &MediaRequest,
    protocol: Protocol,
    request: &HttpRequest,
) -> Result<Watcher, Denied> {
    let record = record(asked, request);
    let query = request.query_string();
    let facts = SessionFacts {
        // As nginx-http-flv-module calls its viewers.
        flash_ver: format!("{}_live 1.1", protocol.name().rsplit('-').next().unwrap_or_default()),
        protocol: protocol.name(),
        ..SessionFacts::of(&record, query, &Route::default())
    };
    gate::watch(&site.house, &asked.server, &asked.venue, asked.key.clone(), facts).await
}

/// Lets a viewer of segments go on that is known, and asks about one that is not. Gives the stream it is to watch.
pub async fn go_on(
    site: &Site,
    asked: &MediaRequest,
    protocol: Protocol,
    who: &Who<'_>,
    request: &HttpRequest,
) -> Result<StreamKey, Denied> {
    let house = &site.house;
    let ask = async { Ok(let_in(site, watch(site, asked, protocol, request).await?)) };
    house.guests.admit(id(asked, who, request), house.now(), patience(asked), ask).await
}

/// Somebody who has been asked about was given a token: that is its name from now on.
pub fn remember(
    site: &Site,
    asked: &MediaRequest,
    who: &Who<'_>,
    watcher: Watcher,
    request: &HttpRequest,
) -> Result<(), Denied> {
    let house = &site.house;
    house.guests.enter(id(asked, who, request), Ok(let_in(site, watcher)), house.now(), patience(asked))
}

/// Sends a viewer to the stream that a hook has given it, where it is known by a token: pieces lie beside their playlist,
/// and say nothing of who asks for them. `watcher`: none where it is known by its habits here.
pub fn send_on(
    site: &Site,
    asked: &MediaRequest,
    who: &Who<'_>,
    to: &StreamKey,
    watcher: Option<Watcher>,
    file: &str,
    request: &HttpRequest,
) -> Result<HttpResponse, Denied> {
    let (house, now) = (&site.house, site.house.now());
    let token = format!("{:016x}", rand::random::<u64>());
    let there = GuestId { key: to.clone(), who: GuestName::Token(token.clone()) };
    match watcher {
        Some(watcher) => house.guests.enter(there, Ok(let_in(site, watcher)), now, patience(asked))?,
        None => house.guests.also_call(&id(asked, who, request), there),
    }
    let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let app = if to.app == asked.key.app { String::new() } else { format!("../{}/", escaped(&to.app)) };
    let and = if request.query_string().is_empty() { "" } else { "&" };
    let query = request.query_string();
    let location = format!("../{app}{}/{file}?session={token}{and}{query}", escaped(&to.name));
    Ok(HttpResponse::Found()
        .insert_header((header::LOCATION, location))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .finish())
}

fn id(asked: &MediaRequest, who: &Who<'_>, request: &HttpRequest) -> GuestId {
    let name = match who.token {
        Some(token) => GuestName::Token(token.to_owned()),
        None => {
            let (agent, query) = (who.agent.to_owned(), request.query_string().to_owned());
            GuestName::Habits { address: who.address, agent, query }
        }
    };
    GuestId { key: asked.key.clone(), who: name }
}

fn patience(asked: &MediaRequest) -> std::time::Duration {
    asked.venue.application.outputs.memory.viewer_timeout
}

/// From now on its session lasts.
fn let_in(site: &Site, mut watcher: Watcher) -> Let {
    let is_expelled = Arc::new(AtomicBool::new(false));
    let counters = site.house.directory.find(&watcher.key).map(|entry| entry.counters).unwrap_or_default();
    for debt in &mut watcher.debts {
        let flag = Arc::clone(&is_expelled);
        debt.begin_with(&counters, move |_| flag.store(true, Ordering::Relaxed));
    }
    Let { watcher, is_expelled }
}
