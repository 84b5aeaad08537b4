//! How a connection comes to publish or play: names become a stream, rules are asked, and then the router and the stream.
//!
//! The order is fixed: is it live, address rules, key, name, counts, a look whether the name is free, the hooks of the
//! configuration, and last the stream's word on whether the name is free. Nothing has happened yet when any of them refuses.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use tracing::info;

use super::{Connection, Flow, Place, PlayerRole, PublisherRole, Role};
use crate::{
    actors::{
        audience::{self, Seat},
        children::Attendance,
        gate::{self, Admitted, Denied, PlayWish},
        hooks::Debt,
        house::{House, Venue},
        live_stream::{CopyHeaders, LookWhetherFree, NameInUse, Publish},
        router::{NoStream, OpenStream, Opened, Purpose},
        support::{
            bans::Banned,
            census::{Crowded, Publishing},
            deadlines::Stage,
            facts::SessionFacts,
            feeder::Feeder,
            roll::{self, ClientRole, Enrolled, Tap, Who, without_query},
            route::Route,
            wakeup::Wakeup,
        },
    },
    config::{Action, Application, Live, Server},
    media::key::{NameError, StreamKey},
    protocol::rtmp::{
        chunk::WireStyle,
        server::{ConnectRequest, PlayStart},
        url,
        wire::PlayForm,
    },
};

/// Why somebody may not publish or play.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("access forbidden by rule")]
    Access,
    #[error("publishing from {0} needs the key: rtmp://HOST/APP/NAME?key=KEY")]
    Key(String),
    #[error("too many wrong keys from this address, try again in a minute")]
    Guessing,
    #[error("live is off in application \"{0}\"")]
    NotLive(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Crowded(#[from] Crowded),
    #[error(transparent)]
    Banned(#[from] Banned),
    #[error(transparent)]
    NoStream(#[from] NoStream),
    #[error("{0}")]
    InUse(#[from] NameInUse),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the server is ending")]
    Ending,
}

/// What a command's names mean here.
struct Wanted {
    target: url::Target,
    venue: Arc<Venue>,
    key: Result<StreamKey, NameError>,
    /// The query of the name alone: those of the application belong to `connect`.
    args: String,
}

/// Somebody who was let in, and to which stream.
struct Entry {
    key: StreamKey,
    opened: Opened,
    admitted: Admitted,
}

impl Connection {
    pub(super) fn connect(&mut self, request: ConnectRequest, ctx: &mut Context<Self>) -> Flow {
        let now = self.now();
        let host = url::resolve(&request.tc_url, &request.app, "").host;
        let local = self.record.local.map(|local| local.ip());
        let server = Arc::clone(self.port.endpoint.server_for(local, Some(&host)));
        let target = url::resolve_in(&request.tc_url, &request.app, "", |app| has(&server.applications, app));
        let (app, _) = url::split_app(&request.app);
        info!(
            connection = self.id,
            client = self.client(),
            app,
            flashver = request.flash_ver,
            // Its query may hold a key.
            tc_url = without_query(&request.tc_url),
            "connect"
        );
        let record = &mut self.record;
        record.milestones.connect = Some(now.into());
        record.host = host;
        record.server_id.clone_from(&server.id);
        record.app.clone_from(&target.app);
        record.flash_ver = request.flash_ver;
        record.swf_url = request.swf_url;
        record.page_url = request.page_url;
        record.tc_url = request.tc_url;
        record.audio_codecs = request.audio_codecs;
        record.video_codecs = request.video_codecs;
        let route = match Route::parse(&request.route, self.house.node) {
            Ok(route) => route,
            Err(bad) => {
                self.session.reject_connect("NetConnection.Connect.Rejected", &bad.to_string());
                self.end(&format!("connect: {bad}"), ctx);
                return Flow::Go;
            }
        };
        if !gate::minds_connections(&server) {
            self.enter_application(server, request.app, &target.app, route, ctx);
            return Flow::Go;
        }
        let (_, connect_args) = url::split_app(&request.app);
        let facts = SessionFacts::of(&self.record, connect_args, &route);
        let (house, epoch_ms) = (Arc::clone(&self.house), self.opened.as_millis() as u32);
        let asked = {
            let server = Arc::clone(&server);
            async move { gate::connect(&house, &server, &facts, epoch_ms).await }
        };
        ctx.wait(asked.into_actor(self).map(move |answer, connection, ctx| {
            match answer {
                Ok(admitted) => {
                    let (app, resolved) = match admitted.name {
                        Some(name) => (name.clone(), name),
                        None => (request.app, target.app),
                    };
                    connection.enter_application(server, app, &resolved, route, ctx);
                }
                Err(denied) => {
                    let code = "NetConnection.Connect.Rejected";
                    match &denied.redirect {
                        Some(to) => connection.session.redirect_connect(code, &denied.reason, to),
                        None => connection.session.reject_connect(code, &denied.reason),
                    }
                    connection.end(&format!("connect: {denied}"), ctx);
                }
            }
            connection.go_on(ctx);
        }));
        Flow::Wait
    }

    /// Whoever was let in is shown where it wanted to go. `app` is as `connect` said it, query and all; `resolved` is what
    /// that means here.
    fn enter_application(
        &mut self,
        server: Arc<Server>,
        app: String,
        resolved: &str,
        route: Route,
        ctx: &mut Context<Self>,
    ) {
        let (name, connect_args) = url::split_app(&app);
        let venue = self.house.venue(&server, name).or_else(|| self.house.venue(&server, resolved));
        let Some(venue) = venue else {
            self.session.reject_connect("NetConnection.Connect.InvalidApp", &format!("no application \"{name}\""));
            return self.end(&format!("connect: application not found: '{name}'"), ctx);
        };
        resolved.clone_into(&mut self.record.app);
        let debt = if gate::minds_connections(&server) {
            gate::connected(&self.house, &server, &SessionFacts::of(&self.record, connect_args, &route))
        } else {
            Debt::default()
        };
        self.times = Arc::clone(&venue.times);
        self.deadlines.enter(Stage::Command, self.now());
        self.place = Some(Box::new(Place { server, venue, app, route, _debt: debt }));
        let read_on = self.session.accept_connect();
        self.read_on(read_on, ctx);
    }

    pub(super) fn publish(&mut self, msid: u32, name: &str, kind: &str, ctx: &mut Context<Self>) -> Flow {
        if self.is_occupied() {
            return self.turn_down(msid, "NetStream.Publish.BadName", ctx);
        }
        let Some(wanted) = self.wanted(name) else { return Flow::Go };
        let (app, name) = (&wanted.target.app, &wanted.target.name);
        info!(connection = self.id, client = self.client(), app, name, kind, "publish");
        match self.may_publish(&wanted) {
            Ok((key, counted)) => {
                let asked = self.ask_to_publish(key, &wanted, kind, ctx);
                ctx.wait(asked.into_actor(self).map(move |answer, connection, ctx| {
                    match answer {
                        Ok(entry) => connection.begin_publishing(msid, entry, &wanted.venue, counted, ctx),
                        Err(refused) => connection.refuse_publish(msid, &refused, ctx),
                    }
                    connection.go_on(ctx);
                }));
                Flow::Wait
            }
            Err(refused) => {
                self.refuse_publish(msid, &refused, ctx);
                Flow::Go
            }
        }
    }

    pub(super) fn play(&mut self, msid: u32, name: &str, wish: PlayWish, ctx: &mut Context<Self>) -> Flow {
        if self.is_occupied() {
            return self.turn_down(msid, "NetStream.Play.Failed", ctx);
        }
        let Some(wanted) = self.wanted(name) else { return Flow::Go };
        let (app, name) = (&wanted.target.app, &wanted.target.name);
        info!(connection = self.id, client = self.client(), app, name, "play");
        match self.may_play(&wanted) {
            Ok(key) => {
                let asked = self.ask_to_play(key, &wanted, wish);
                ctx.wait(asked.into_actor(self).map(move |answer, connection, ctx| {
                    match answer {
                        Ok(entry) => connection.begin_playing(msid, entry, &wanted.venue, ctx),
                        Err(refused) => connection.refuse_play(msid, &refused, ctx),
                    }
                    connection.go_on(ctx);
                }));
                Flow::Wait
            }
            Err(refused) => {
                self.refuse_play(msid, &refused, ctx);
                Flow::Go
            }
        }
    }

    /// What is known of this session now.
    fn facts(&self, args: &str) -> SessionFacts {
        let (_, connect_args) = self.place.as_ref().map_or(("", ""), |place| url::split_app(&place.app));
        let route = self.place.as_ref().map(|place| place.route.clone()).unwrap_or_default();
        SessionFacts { args: args.to_owned(), ..SessionFacts::of(&self.record, connect_args, &route) }
    }

    fn is_occupied(&self) -> bool {
        !matches!(self.role, Role::None)
    }

    /// One connection publishes or plays one stream. The first wins, and goes on.
    fn turn_down(&mut self, msid: u32, code: &str, ctx: &mut Context<Self>) -> Flow {
        let read_on = self.session.turn_down(msid, code, "one connection publishes or plays one stream");
        self.read_on(read_on, ctx);
        Flow::Go
    }

    fn wanted(&mut self, name: &str) -> Option<Wanted> {
        let place = self.place.as_ref()?;
        let applications = &place.server.applications;
        let target = url::resolve_in(&self.record.tc_url, &place.app, name, |app| has(applications, app));
        let venue = self.house.venue(&place.server, &target.app).unwrap_or_else(|| Arc::clone(&place.venue));
        let key = StreamKey::parse(&place.server.id, &target.app, &target.name);
        self.record.app.clone_from(&target.app);
        self.record.name.clone_from(&target.name);
        self.record.args.clone_from(&target.query);
        let args = match name.split_once('?') {
            Some((_, args)) => args.to_owned(),
            // Where the query of the application holds the name.
            None if target.query != url::split_app(&place.app).1 => target.query.clone(),
            None => String::new(),
        };
        Some(Wanted { target, venue, key, args })
    }

    /// All that can be said without asking the stream, cheapest first.
    fn may_publish(&self, wanted: &Wanted) -> Result<(StreamKey, Publishing), Refused> {
        let application = &wanted.venue.application;
        self.may_enter(application, Action::Publish)?;
        let (census, peer, now) = (&self.house.census, self.peer_ip(), self.house.now());
        if application.publish_key.is_some() && census.is_guessing(peer, now) {
            return Err(Refused::Guessing);
        }
        if !application.key_opens(peer, wanted.target.arg("key")) {
            census.note_wrong_key(peer, now);
            return Err(Refused::Key(self.client()));
        }
        let key = wanted.key.clone()?;
        self.house.bans.check(ClientRole::Publisher, peer, &key, now)?;
        let counted = census.admit_publisher(peer, fingerprint(&key), now)?;
        Ok((key, counted))
    }

    fn may_play(&self, wanted: &Wanted) -> Result<StreamKey, Refused> {
        self.may_enter(&wanted.venue.application, Action::Play)?;
        let key = wanted.key.clone()?;
        self.house.bans.check(ClientRole::Player, self.peer_ip(), &key, self.house.now())?;
        Ok(key)
    }

    fn may_enter(&self, application: &Application, action: Action) -> Result<(), Refused> {
        if !application.live {
            return Err(Refused::NotLive(application.name.clone()));
        }
        if !application.access.allows(action, self.peer_ip()) {
            return Err(Refused::Access);
        }
        Ok(())
    }

    /// Asks whoever has a say in who publishes, and then the stream.
    fn ask_to_publish(
        &self,
        mut key: StreamKey,
        wanted: &Wanted,
        kind: &str,
        ctx: &mut Context<Self>,
    ) -> impl Future<Output = Result<Entry, Refused>> + 'static {
        let (house, venue, to) = (Arc::clone(&self.house), Arc::clone(&wanted.venue), ctx.address());
        let facts = Arc::new(self.facts(&wanted.args));
        // Copied only for somebody who asks for it.
        let kind = gate::minds_publishers(&venue).then(|| kind.to_owned());
        async move {
            let mut admitted = Admitted::default();
            if let Some(kind) = kind {
                look_whether_free(&house, &key, &facts).await?;
                admitted = gate::publish(&house, &venue, Arc::clone(&facts), &kind).await?;
                key = admitted.key(key)?;
                house.bans.check(ClientRole::Publisher, facts.address.map(|peer| peer.ip()), &key, house.now())?;
                if let Some(named) = admitted.relay.take() {
                    gate::push_to(&house, &key, &facts, named);
                }
            }
            for _ in 0..STREAM_TRIES {
                let opened = open_stream(&house, &key, &venue, Purpose::Publish).await?;
                let publish = Publish { facts: Arc::clone(&facts), to: to.clone().recipient() };
                match opened.stream.send(publish).await {
                    Ok(answer) => return answer.map(|_| Entry { key, opened, admitted }).map_err(Refused::from),
                    // Everybody had left the stream, and it ended between the router's answer and our message.
                    Err(_) => continue,
                }
            }
            Err(Refused::Ending)
        }
    }

    /// Asks whoever has a say in who plays, and then for the stream.
    fn ask_to_play(
        &self,
        mut key: StreamKey,
        wanted: &Wanted,
        wish: PlayWish,
    ) -> impl Future<Output = Result<Entry, Refused>> + 'static {
        let (house, venue) = (Arc::clone(&self.house), Arc::clone(&wanted.venue));
        let facts = gate::minds_players(&venue).then(|| Arc::new(self.facts(&wanted.args)));
        async move {
            let mut admitted = Admitted::default();
            let mut purpose = Purpose::Play;
            if let Some(facts) = facts {
                admitted = gate::play(&house, &venue, Arc::clone(&facts), wish).await?;
                key = admitted.key(key)?;
                house.bans.check(ClientRole::Player, facts.address.map(|peer| peer.ip()), &key, house.now())?;
                if let Some(named) = admitted.relay.take() {
                    gate::pull_from(&house, &key, &facts, named);
                    purpose = Purpose::PlayFetched;
                }
            }
            let opened = open_stream(&house, &key, &venue, purpose).await?;
            Ok(Entry { key, opened, admitted })
        }
    }

    fn begin_publishing(
        &mut self,
        msid: u32,
        entry: Entry,
        venue: &Arc<Venue>,
        counted: Publishing,
        ctx: &mut Context<Self>,
    ) {
        let now = self.now();
        let Entry { key, opened, admitted } = entry;
        let mut debt = admitted.debt;
        debt.begin(&opened.counters, || ctx.address().recipient());
        if admitted.name.is_some() {
            self.record.name = key.name.to_string();
        }
        info!(connection = self.id, client = self.client(), stream = %key, "publishing");
        self.times = Arc::clone(&venue.times);
        self.deadlines.enter(Stage::Publishing, now);
        self.record.milestones.start = Some(now.into());
        self.record.published = true;
        let enrolled = self.enrol(ClientRole::Publisher, &key, ctx);
        let waits = !venue.gather.low_latency && self.port.tls.is_none();
        self.role = Role::Publisher(Box::new(PublisherRole {
            msid,
            key,
            counters: opened.counters,
            feeder: Feeder::new(self.id, opened.stream, venue.gather),
            wakeup: Wakeup::new(if waits { venue.gather.audio_hold } else { Duration::ZERO }),
            has_patience: false,
            _counted: counted,
            _enrolled: enrolled,
            _debt: debt,
        }));
        self.send_carried(now, ctx);
        let read_on = self.session.accept_publish(msid);
        self.read_on(read_on, ctx);
    }

    fn begin_playing(&mut self, msid: u32, entry: Entry, venue: &Arc<Venue>, ctx: &mut Context<Self>) {
        let now = self.now();
        let Entry { key, opened, admitted } = entry;
        let mut debt = admitted.debt;
        debt.begin(&opened.counters, || ctx.address().recipient());
        if admitted.name.is_some() {
            self.record.name = key.name.to_string();
        }
        info!(connection = self.id, client = self.client(), stream = %key, "playing");
        let live = &venue.application.live_options;
        let start = PlayStart { stream_begin: true, reset: true, publish_notify: false, start: !live.play_restart };
        let read_on = self.session.accept_play(msid, start);
        self.take_output();
        let (begin_words, end_words) = self.words(msid, live);
        let caps = self.session.caps();
        let chunks = WireStyle { repeat_extended: live.play_time_fix, ..self.session.wire_style() };
        let form = PlayForm {
            msid,
            multitrack: caps.takes_multitrack(),
            enhanced_hevc: caps.takes_video(*b"hvc1"),
            ..PlayForm::new(chunks, live.interleave)
        };
        self.output.borrow_mut().play(form, venue.queue_rules(), live.zero_start);
        self.times = Arc::clone(&venue.times);
        self.deadlines.enter(Stage::Playing, now);
        self.record.milestones.start = Some(now.into());
        self.record.played = true;
        let mut seat = Seat::rtmp(self.output.clone(), begin_words, end_words, ctx.address().recipient());
        seat.route = self.place.as_ref().map(|place| place.route.clone()).unwrap_or_default();
        let ticket = audience::join(&opened.source(), seat);
        let attendance = Attendance::begin(&self.house, venue, &key, || self.facts(&self.record.args));
        let venue = Arc::clone(venue);
        let enrolled = self.enrol(ClientRole::Player, &key, ctx);
        let role = PlayerRole { msid, key, ticket, venue, _attendance: attendance, _enrolled: enrolled, _debt: debt };
        self.role = Role::Player(Box::new(role));
        self.read_on(read_on, ctx);
    }

    /// Puts whoever was let in on the roll of this arbiter.
    fn enrol(&self, role: ClientRole, key: &StreamKey, ctx: &Context<Self>) -> Enrolled {
        let record = &self.record;
        let who = Who {
            id: self.id,
            role,
            protocol: record.protocol,
            key: key.clone(),
            address: record.remote,
            agent: record.flash_ver.clone(),
            page_url: without_query(&record.page_url),
            swf_url: without_query(&record.swf_url),
            tc_url: without_query(&record.tc_url),
            connected: self.opened,
            began: self.house.now(),
            is_relay: self.place.as_ref().is_some_and(|place| !place.route.is_empty()),
        };
        roll::enter(who, Tap::Output(self.output.clone()), ctx.address().recipient())
    }

    /// An operator sends this session to another name. It leaves what it does, and asks for that as if it had come by itself:
    /// rules and hooks are asked again. Arguments that it came with stay unless `name` brings others.
    pub(super) fn go_to(&mut self, name: &str, ctx: &mut Context<Self>) {
        let args = &self.record.args;
        let name = if name.contains('?') || args.is_empty() { name.to_owned() } else { format!("{name}?{args}") };
        match &self.role {
            Role::None => {}
            Role::Player(role) => {
                let msid = role.msid;
                self.part();
                if self.session.ask_again(msid) && self.play(msid, &name, PlayWish::default(), ctx) == Flow::Go {
                    self.go_on(ctx);
                }
            }
            Role::Publisher(role) => {
                let (msid, headers) = (role.msid, role.feeder.stream().send(CopyHeaders));
                ctx.wait(headers.into_actor(self).map(move |headers, connection, ctx| {
                    connection.carried = headers.ok().map(Vec::into_boxed_slice);
                    connection.part();
                    if connection.session.ask_again(msid) && connection.publish(msid, &name, "live", ctx) == Flow::Go {
                        connection.go_on(ctx);
                    }
                }));
            }
        }
    }

    /// A publisher that was sent here does not say again what it has said elsewhere.
    fn send_carried(&mut self, now: Duration, ctx: &mut Context<Self>) {
        let (Some(carried), Role::Publisher(role)) = (self.carried.take(), &mut self.role) else { return };
        carried.into_iter().for_each(|incoming| role.feeder.push(incoming, now));
        if let Some(sent) = self.hand_over(ctx) {
            self.wait_for_stream(sent, None, ctx);
        }
    }

    /// What this player is told when a publisher comes and when it goes, said in advance: the audience says it later.
    fn words(&mut self, msid: u32, live: &Live) -> (bytes::Bytes, bytes::Bytes) {
        self.session.stream_begin(msid);
        if live.publish_notify {
            self.session.publish_notify(msid);
        }
        if live.play_restart {
            self.session.play_started(msid);
        }
        let begin = self.session.take_output().unwrap_or_default();
        self.session.stream_eof(msid);
        if live.publish_notify || !live.idle_streams {
            self.session.status(msid, "status", "NetStream.Play.UnpublishNotify", "Stop publishing");
        }
        if live.play_restart || !live.idle_streams {
            self.session.status(msid, "status", "NetStream.Play.Stop", "Stop live");
        }
        (begin, self.session.take_output().unwrap_or_default())
    }

    fn refuse_publish(&mut self, msid: u32, refused: &Refused, ctx: &mut Context<Self>) {
        let code = match refused {
            Refused::InUse(_) | Refused::Name(_) => "NetStream.Publish.BadName",
            Refused::Access
            | Refused::Key(_)
            | Refused::Guessing
            | Refused::NotLive(_)
            | Refused::Denied(_)
            | Refused::Banned(_) => "NetStream.Publish.Denied",
            Refused::Crowded(_) | Refused::NoStream(_) | Refused::Ending => "NetStream.Publish.Rejected",
        };
        match refused {
            Refused::Denied(Denied { reason, redirect: Some(to), .. }) => self.session.redirect(msid, code, reason, to),
            // Word for word as X says it, and at its level.
            Refused::Denied(Denied { is_forbidden: true, .. }) => {
                self.session.status(msid, "status", "NetStream.Publish.Forbidden", "Publish stream Forbidden");
            }
            _ => self.session.refuse_publish(msid, code, &refused.to_string()),
        }
        self.end(&format!("publish: {refused}"), ctx);
    }

    fn refuse_play(&mut self, msid: u32, refused: &Refused, ctx: &mut Context<Self>) {
        let code = match refused {
            Refused::NoStream(NoStream::NotFound) | Refused::Name(_) => "NetStream.Play.StreamNotFound",
            _ => "NetStream.Play.Failed",
        };
        match refused {
            Refused::Denied(Denied { reason, redirect: Some(to), .. }) => self.session.redirect(msid, code, reason, to),
            Refused::Denied(Denied { is_forbidden: true, .. }) => {
                self.session.status(msid, "status", "NetStream.Play.Forbidden", "Play stream Forbidden");
            }
            _ => self.session.refuse_play(msid, code, &refused.to_string()),
        }
        self.end(&format!("play: {refused}"), ctx);
    }
}

async fn open_stream(house: &House, key: &StreamKey, venue: &Venue, purpose: Purpose) -> Result<Opened, Refused> {
    let open = OpenStream { key: key.clone(), rules: Arc::clone(&venue.rules), purpose, home: Arbiter::current() };
    house.router.send(open).await.map_err(|_| Refused::Ending)?.map_err(Refused::from)
}

/// No hook is asked about a name that somebody has.
async fn look_whether_free(house: &House, key: &StreamKey, facts: &Arc<SessionFacts>) -> Result<(), Refused> {
    let Some(stream) = house.directory.find(key).and_then(|entry| entry.stream.upgrade()) else { return Ok(()) };
    // A stream that ends meanwhile has no publisher.
    Ok(stream.send(LookWhetherFree(Arc::clone(facts))).await.unwrap_or(Ok(()))?)
}

fn has(applications: &[Arc<Application>], name: &str) -> bool {
    applications.iter().any(|application| application.name == name)
}

/// A number for a name, for counting different ones.
fn fingerprint(key: &StreamKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// How often a stream may end under our hands before we give up.
const STREAM_TRIES: usize = 3;
