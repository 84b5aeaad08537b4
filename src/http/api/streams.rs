//! Streams: what is live, and sending those away who make or watch it.

use std::cmp::Reverse;

use super::{
    Reply,
    ask::Ask,
    document, gone,
    list::Wanted,
    problem::Problem,
    types::{self, RedirectRole},
    view::{self, Beside},
};
use crate::{
    actors::{
        control::{DropClients, RedirectClients, Selection},
        support::{roll::ClientRole, snapshot::StreamNow},
    },
    media::key::StreamKey,
};

/// Streams, by name unless told otherwise.
#[utoipa::path(
    get, path = "/api/v1/streams", tag = "streams", params(document::OfStream, document::StreamFilter, document::Paging),
    responses((status = 200, body = types::Page<types::Stream>))
)]
pub async fn list(mut ask: Ask) -> Result<Reply, Problem> {
    let sorts = [("name", Sort::Name), ("bitrate", Sort::Bitrate), ("players", Sort::Players), ("age", Sort::Age)];
    let wanted = Wanted::take(&mut ask.query, &sorts)?;
    let named = Named::take(&mut ask);
    let search = ask.query.take("search");
    let publishing = ask.query.take_flag("publishing")?;
    ask.query.finish()?;
    let seen = ask.api.look().await?;
    let fits = |stream: &&StreamNow| {
        named.fits(&stream.key)
            && search.as_ref().is_none_or(|part| stream.key.name.contains(part.as_str()))
            && publishing.is_none_or(|wanted| wanted == stream.publisher.is_some())
    };
    let key = |stream: &&StreamNow| {
        let StreamKey { vhost, app, name } = &stream.key;
        let rank = match wanted.sort {
            Sort::Name => 0,
            Sort::Bitrate => stream.readings.bits_in,
            Sort::Players => view::players(stream),
            // Ages grow between two pages; who came first stays the first.
            Sort::Age => u64::MAX - stream.id,
        };
        (Reverse(rank), app.to_string(), name.to_string(), vhost.to_string())
    };
    let beside = Beside::of(&seen);
    Reply::ok(&wanted.page(seen.streams.iter().filter(fits).collect(), key, |stream| beside.stream(stream))?)
}

#[derive(Clone, Copy)]
enum Sort {
    Name,
    Bitrate,
    Players,
    Age,
}

/// One stream. Its name may hold slashes, encoded or not.
#[utoipa::path(
    get, path = "/api/v1/streams/{app}/{name}", tag = "streams", params(document::StreamPath, document::OfServer),
    responses((status = 200, body = types::Stream), (status = 404, description = "no such stream"))
)]
pub async fn one(mut ask: Ask) -> Result<Reply, Problem> {
    let server = ask.query.take("server");
    ask.query.finish()?;
    let named = Named { server, app: Some(ask.part(0).to_owned()), name: Some(ask.part(1).to_owned()) };
    let seen = ask.api.look().await?;
    let stream = seen.streams.iter().find(|stream| named.fits(&stream.key));
    let stream = stream.ok_or_else(|| Problem::missing("there is no such stream"))?;
    Reply::ok(&Beside::of(&seen).stream(stream))
}

/// Sends the publisher of a stream away, and with `players=true` everybody who watches it; with `publisher=false` those alone.
/// Nobody there is no error.
#[utoipa::path(
    delete, path = "/api/v1/streams/{app}/{name}", tag = "streams",
    params(document::StreamPath, document::OfServer, document::WithPlayers, document::Banning),
    responses((status = 200, body = types::Dropped), (status = 409, description = "there are too many bans"))
)]
pub async fn drop_stream(mut ask: Ask) -> Result<Reply, Problem> {
    let with_publisher = ask.query.take_flag("publisher")?.unwrap_or(true);
    let with_players = ask.query.take_flag("players")?.unwrap_or(false);
    let role = match (with_publisher, with_players) {
        (true, false) => Some(ClientRole::Publisher),
        (false, true) => Some(ClientRole::Player),
        (true, true) => None,
        (false, false) => return Err(Problem::bad("\"publisher=false\" without \"players=true\" leaves nobody")),
    };
    let select = Selection { role, ..selection(&mut ask) };
    drop_selected(ask, select).await
}

/// Sends those of a stream to another name of their application. Nobody there is no error.
#[utoipa::path(
    post, path = "/api/v1/streams/{app}/{name}/redirect", tag = "streams",
    params(document::StreamPath, document::OfServer), request_body = types::RedirectStream,
    responses((status = 200, body = types::Redirected))
)]
pub async fn redirect(mut ask: Ask) -> Result<Reply, Problem> {
    let select = selection(&mut ask);
    let types::RedirectStream { to, role } = ask.json()?;
    let role = match role {
        RedirectRole::Publisher => Some(ClientRole::Publisher),
        RedirectRole::Player => Some(ClientRole::Player),
        RedirectRole::All => None,
    };
    redirect_selected(ask, Selection { role, ..select }, to).await
}

fn selection(ask: &mut Ask) -> Selection {
    Selection {
        server: ask.query.take("server"),
        app: Some(ask.part(0).to_owned()),
        name: Some(ask.part(1).to_owned()),
        ..Selection::default()
    }
}

/// What remains of a request to drop once it is known who is meant.
pub async fn drop_selected(mut ask: Ask, select: Selection) -> Result<Reply, Problem> {
    let ban = ask.query.take_ban()?;
    let reason = ask.query.take_reason()?;
    ask.query.finish()?;
    let site = &ask.api.site;
    let order = DropClients { select, ban, reason, author: ask.author() };
    let dropped = site.control.send(order).await.map_err(gone)?.map_err(super::bans::too_many)?;
    let now = site.house.now();
    Reply::ok(&types::Dropped {
        dropped: dropped.clients.len() as u64,
        bans: dropped.bans.iter().map(|ban| view::ban(ban, now)).collect(),
    })
}

/// The same for a redirect.
pub async fn redirect_selected(ask: Ask, select: Selection, to: String) -> Result<Reply, Problem> {
    ask.query.finish()?;
    let name = to.split('?').next().unwrap_or_default();
    StreamKey::parse("", "app", name).map_err(|error| Problem::bad(format!("\"to\": {error}")))?;
    if name.is_empty() || to.len() > MAX_TARGET_BYTES || to.chars().any(char::is_control) {
        return Err(Problem::bad(format!("\"to\" is to be a name, with its arguments up to {MAX_TARGET_BYTES} bytes")));
    }
    let order = RedirectClients { select, to, author: ask.author() };
    let redirected = ask.api.site.control.send(order).await.map_err(gone)?;
    Reply::ok(&types::Redirected { redirected: redirected as u64 })
}

/// Which names are meant. What is not said means all.
pub struct Named {
    server: Option<String>,
    app: Option<String>,
    name: Option<String>,
}

impl Named {
    pub fn take(ask: &mut Ask) -> Self {
        let query = &mut ask.query;
        Self { server: query.take("server"), app: query.take("app"), name: query.take("name") }
    }

    pub fn fits(&self, key: &StreamKey) -> bool {
        let is = |wanted: &Option<String>, has: &str| wanted.as_ref().is_none_or(|wanted| wanted == has);
        is(&self.server, &key.vhost) && is(&self.app, &key.app) && is(&self.name, &key.name)
    }
}

/// A name and its arguments.
const MAX_TARGET_BYTES: usize = 1024;
