//! What nginx's `http {}` says about a request.
//!
//! - [`uri`]: addresses, decoded once.
//! - [`matching`]: which location is meant.
//! - [`visit`]: a request on its way, and nginx's variables.
//! - [`files`], [`ranges`], [`listing`]: what lies on the disk.
//! - [`pages`]: the pages of a status.
//! - [`answer`]: what is done to an answer before it is sent.
//! - [`statistics`]: the documents of `rtmp_stat`.
//! - [`log`]: the access log.
//!
//! [`serve`] goes through nginx's phases: server, location, `return`, access, `try_files`, content, error page.

use std::{convert::Infallible, future::pending, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use actix_http::ConnectionType;
use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, BodyStream, BoxBody, MessageBody},
    http::{Method, header},
    web,
};
use bytes::Bytes;
use futures_util::stream;
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{
    Site,
    control::{self, Reply},
    live::{self, FlvLive},
    media_at, scheduler, watch,
    wire::Caller,
};
use crate::{
    config::{
        Action,
        http::{ControlSections, ErrorPage, Handler, LastTry, Location, Pattern, Precompressed, Return},
    },
    protocol::flv::stream::Tracks,
};
use answer::{Answer, Content, Measured};
use files::{Found, Look};
use visit::Visit;

pub mod answer;
pub mod files;
pub mod listing;
pub mod log;
pub mod matching;
pub mod pages;
pub mod ranges;
pub mod statistics;
pub mod uri;
pub mod visit;

/// Answers one request.
pub async fn serve(site: web::Data<Site>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let Some(caller) = request.conn_data::<Caller>().cloned() else {
        return HttpResponse::InternalServerError().finish();
    };
    caller.requests.set(caller.requests.get().saturating_add(1));
    caller.progress.made();
    if caller.progress.closes.get() {
        // The library would answer what it has read already. The last answer gets its moment to go out.
        let _ = timeout(BEFORE_HANG_UP, pending::<()>()).await;
        caller.hang_up.now();
        return pending().await;
    }
    let host = visit::host(&request);
    let local = caller.local.map(|local| local.ip());
    let server = Arc::clone(caller.port.endpoint.server_for(local, host.as_deref()));
    let uri = uri::normalize(request.uri().path(), server.merge_slashes);
    let mut visit = Visit {
        site,
        caller,
        host: host.clone().unwrap_or_default(),
        uri: uri.clone().unwrap_or_default(),
        args: request.uri().query().unwrap_or_default().to_owned(),
        location: Arc::clone(&server.outermost),
        server,
        captures: Vec::new(),
        method: request.method().clone(),
        started: Instant::now(),
        request,
    };
    let fault = match (&host, &uri) {
        (None, _) | (_, None) => Some(400),
        _ => visit.refused_at_once(),
    };
    let (answer, forced_status) = match fault {
        Some(status) => (Answer::page(&visit, status, None), None),
        None => Course { visit: &mut visit, payload: Some(payload) }.run().await,
    };
    let mut response = answer.finish(&visit, forced_status);
    if visit.request.method() == Method::HEAD {
        response = response.map_body(|_, body| match body.size() {
            BodySize::Sized(length) => BoxBody::new(Measured(length)),
            BodySize::None => BoxBody::new(()),
            BodySize::Stream => BoxBody::new(BodyStream::new(stream::empty::<Result<Bytes, Infallible>>())),
        });
    }
    if response.head().connection_type() == ConnectionType::Close && !response.head().upgrade() {
        visit.caller.progress.closes.set(true);
    }
    log::watch(Rc::new(visit), response)
}

/// A date as HTTP writes it.
pub fn http_date(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Any of the three forms of a date; None for everything else.
pub fn read_http_date(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(time) = rfc2822::DateTimeParser::new().parse_timestamp(text) {
        return Some(time.as_second());
    }
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    forms.iter().find_map(|form| {
        let time = jiff::civil::DateTime::strptime(form, text).ok()?;
        time.to_zoned(TimeZone::UTC).ok().map(|time| time.timestamp().as_second())
    })
}

impl Visit {
    /// What is wrong with a request before anything is looked for.
    fn refused_at_once(&self) -> Option<u16> {
        let head = self.request.head();
        if self.target().len() > LONGEST_TARGET {
            return Some(414);
        }
        if head.method == Method::TRACE || head.method == Method::CONNECT {
            return Some(405);
        }
        // What is expected beyond that is nothing anybody here could promise.
        if self.header("expect").is_some_and(|expected| !expected.eq_ignore_ascii_case("100-continue")) {
            return Some(417);
        }
        let length = self.header("content-length").and_then(|length| length.parse::<u64>().ok());
        let limit = self.location.settings.client_max_body_size;
        if limit > 0 && length.is_some_and(|length| length > limit) {
            return Some(413);
        }
        None
    }

    /// Finds the location of the address as it is now. None: the server itself.
    fn locate(&mut self) {
        let found = matching::find(&self.server.outermost.locations, &self.uri);
        self.enter(found);
    }

    fn enter(&mut self, found: Option<matching::Match>) {
        (self.location, self.captures) = match found {
            Some(found) => (found.location, found.captures),
            None => (Arc::clone(&self.server.outermost), Vec::new()),
        };
    }

    fn content_type(&self, path: &str) -> Option<String> {
        let settings = &self.location.settings;
        let name = path.rsplit('/').next().unwrap_or_default();
        let known = name.rsplit_once('.').and_then(|(_, ending)| settings.types.of(ending));
        Some(known.unwrap_or(&settings.default_type).to_owned()).filter(|kind| !kind.is_empty())
    }
}

/// A request on its way through locations.
struct Course<'a> {
    visit: &'a mut Visit,
    /// Taken by whoever answers with a connection of its own.
    payload: Option<web::Payload>,
}

/// Where one location leads.
enum Step {
    Answer(Answer),
    /// A status that an error page may stand for, and where a redirect leads.
    Status(u16, Option<String>),
    /// Another address, from inside.
    Address(String, Option<String>),
    /// A named location.
    Named(String),
}

impl Course<'_> {
    /// The second value: the status that the answer gets, whatever it had.
    async fn run(mut self) -> (Answer, Option<u16>) {
        let mut forced = None;
        let mut is_error_page = false;
        let mut is_internal = false;
        let mut is_named = false;
        for _ in 0..MAX_REDIRECTS {
            let step = match self.visit.server.outermost.answer.clone().filter(|_| !is_named) {
                Some(returned) => {
                    self.visit.enter(None);
                    self.returned(&returned)
                }
                None => {
                    if !is_named {
                        self.visit.locate();
                    }
                    match self.folder_of_player() {
                        Some(folder) => Step::Status(301, Some(folder)),
                        None => self.step(is_internal).await,
                    }
                }
            };
            is_named = false;
            match step {
                Step::Answer(answer) => return (answer, forced),
                Step::Address(uri, args) => {
                    self.visit.uri = uri;
                    self.visit.args = args.unwrap_or_default();
                    is_internal = true;
                }
                Step::Named(name) => match matching::named(&self.visit.server.outermost.locations, &name) {
                    Some(found) => {
                        self.visit.enter(Some(found));
                        (is_named, is_internal) = (true, true);
                    }
                    None => return (Answer::page(self.visit, 500, None), None),
                },
                Step::Status(444, _) => {
                    let mut nothing = Answer::bytes(444, None, Bytes::new());
                    nothing.closes = true;
                    return (nothing, None);
                }
                Step::Status(status, location) => {
                    let page = self.error_page(status).filter(|_| !is_error_page);
                    let Some(page) = page else { return (Answer::page(self.visit, status, location), None) };
                    is_error_page = true;
                    if self.visit.method != Method::HEAD {
                        self.visit.method = Method::GET;
                    }
                    let becomes = page.becomes.unwrap_or(Some(status));
                    let target = self.visit.text(&page.target);
                    if let Some(name) = target.strip_prefix('@') {
                        forced = becomes;
                        self.visit.enter(matching::named(&self.visit.server.outermost.locations, name));
                        (is_named, is_internal) = (true, true);
                    } else if target.starts_with('/') {
                        forced = becomes;
                        let (uri, args) = target.split_once('?').unwrap_or((&target, ""));
                        self.visit.uri = uri.to_owned();
                        self.visit.args = args.to_owned();
                        is_internal = true;
                    } else {
                        let redirects = [301, 302, 303, 307, 308];
                        let code = page.becomes.flatten().filter(|code| redirects.contains(code)).unwrap_or(302);
                        return (Answer::page(self.visit, code, Some(target)), None);
                    }
                }
            }
        }
        warn!(uri = %self.visit.uri, "rewrite or internal redirection cycle");
        (Answer::page(self.visit, 500, None), None)
    }

    /// `/tv` where `/tv/` is the player: as nginx sends on to what it passes on.
    fn folder_of_player(&self) -> Option<String> {
        let folder = format!("{}/", self.visit.uri);
        let is_it = |location: &Arc<Location>| {
            location.handler == Handler::Player
                && matches!(&location.pattern, Pattern::Prefix { text, .. } if *text == folder)
        };
        self.visit.server.outermost.locations.iter().any(is_it).then(|| uri::escape(&folder))
    }

    /// What the location that was found makes of the request.
    async fn step(&mut self, is_internal: bool) -> Step {
        let location = Arc::clone(&self.visit.location);
        if location.is_internal && !is_internal {
            return Step::Status(404, None);
        }
        if let Some(returned) = &location.answer {
            return self.returned(returned);
        }
        let peer = self.visit.caller.peer.map(|peer| peer.ip());
        if !location.settings.access.allows(Action::Play, peer) {
            warn!(client = ?self.visit.caller.peer, uri = %self.visit.uri, "access forbidden by rule");
            return Step::Status(403, None);
        }
        if let Handler::Guarded(name) = &location.handler {
            return self.short(403, &format!("guarded by \"{name}\", which livemill does not do"));
        }
        if let Some(step) = self.try_files(&location).await {
            return step;
        }
        match &location.handler {
            Handler::Files => self.file().await,
            Handler::Player => self.watch(&location).await,
            Handler::FlvByQuery | Handler::FlvByPath { .. } => self.flv(&location).await,
            Handler::Control(sections) => self.control(*sections).await,
            Handler::Scheduler(rules) => {
                let visit = &self.visit;
                let response = scheduler::answer(&visit.site, rules, &visit.request, peer, &visit.host);
                Step::Answer(Answer::ready(response))
            }
            Handler::Statistics(rules) => match statistics::document(&self.visit.site, rules).await {
                Some(document) => {
                    Step::Answer(Answer::bytes(200, Some(statistics::content_type(rules).to_owned()), document))
                }
                None => Step::Status(500, None),
            },
            Handler::NotBuilt(name) => self.short(501, &format!("\"{name}\" comes in a later release of livemill")),
            Handler::Elsewhere(name) => {
                self.short(502, &format!("\"{name}\" is not livemill's work: keep nginx in front for it"))
            }
            Handler::Guarded(_) => Step::Status(403, None),
        }
    }

    async fn control(&mut self, sections: ControlSections) -> Step {
        let visit = &self.visit;
        let from = visit.caller.peer.map_or_else(|| "unix:".to_owned(), |peer| peer.ip().to_string());
        let call = control::Call { path: visit.request.uri().path(), query: &visit.args, from };
        match control::answer(&visit.site, sections, &call).await {
            Reply::Text(text) => Step::Answer(Answer::bytes(200, None, text)),
            Reply::Status(500, why) => {
                warn!(uri = %visit.uri, why, "rtmp_control");
                Step::Status(500, None)
            }
            Reply::Status(status, why) => self.short(status, &why),
            Reply::Declined => self.file().await,
        }
    }

    fn short(&self, status: u16, text: &str) -> Step {
        Step::Answer(Answer::bytes(status, Some("text/plain".to_owned()), format!("{text}\n")))
    }

    fn returned(&self, returned: &Return) -> Step {
        let text = returned.text.as_ref().map(|text| self.visit.text(text));
        match (returned.code, text) {
            (301 | 302 | 303 | 307 | 308, text) => Step::Status(returned.code, Some(text.unwrap_or_default())),
            (code @ 400.., None) => Step::Status(code, None),
            (code, text) => {
                let content_type = self.visit.content_type(&self.visit.uri);
                Step::Answer(Answer::bytes(code, content_type.filter(|_| code != 204), text.unwrap_or_default()))
            }
        }
    }

    fn error_page(&self, status: u16) -> Option<ErrorPage> {
        let pages = &self.visit.location.settings.error_pages;
        pages.iter().find(|page| page.codes.contains(&status)).cloned()
    }

    async fn try_files(&mut self, location: &Location) -> Option<Step> {
        let tried = location.try_files.as_ref()?;
        for (template, wants_folder) in &tried.files {
            let name = self.visit.text(template);
            let name = uri::normalize(&uri::escape(&name), true).unwrap_or(name);
            let is_there = match (self.look(&name).await, wants_folder) {
                (Look::Folder, true) | (Look::File(_), false) => true,
                (Look::Folder | Look::File(_) | Look::Nothing { .. }, _) => false,
            };
            if is_there {
                self.visit.uri = name;
                return None;
            }
        }
        Some(match &tried.last {
            LastTry::Code(code) => Step::Status(*code, None),
            LastTry::Named(name) => Step::Named(name.clone()),
            LastTry::Uri(template) => {
                let target = self.visit.text(template);
                match target.split_once('?') {
                    Some((uri, args)) => Step::Address(uri.to_owned(), Some(args.to_owned())),
                    // Arguments come along only where they are written, as `$is_args$args`.
                    None => Step::Address(target, None),
                }
            }
        })
    }

    async fn look(&self, uri: &str) -> Look {
        let (root, path) = (self.visit.root(), self.visit.path_of(uri));
        files::look(PathBuf::from(root), PathBuf::from(path), self.visit.location.settings.follows_links).await
    }

    async fn file(&mut self) -> Step {
        let method = self.visit.method.clone();
        let is_read = method == Method::GET || method == Method::HEAD;
        if !is_read && method != Method::POST {
            return match self.media().await {
                Some(answer) => Step::Answer(answer),
                None => Step::Status(405, None),
            };
        }
        let uri = self.visit.uri.clone();
        if uri.ends_with('/') {
            return self.folder(&uri).await;
        }
        if let Some(answer) = self.precompressed(&uri, is_read).await {
            return Step::Answer(answer);
        }
        let (root, path) = (PathBuf::from(self.visit.root()), PathBuf::from(self.visit.path_of(&uri)));
        let look = match is_read {
            true => files::fetch(root, path, self.visit.location.settings.follows_links).await,
            false => files::look(root, path, self.visit.location.settings.follows_links).await,
        };
        match look {
            Look::Folder => {
                let mut target = format!("{}/", uri::escape(&uri));
                if !self.visit.args.is_empty() {
                    target.push('?');
                    target.push_str(&self.visit.args);
                }
                Step::Status(301, Some(target))
            }
            Look::File(_) if !is_read => Step::Status(405, None),
            Look::File(found) => Step::Answer(self.found(found, &uri)),
            Look::Nothing { status, error } => {
                if status == 404
                    && let Some(answer) = self.media().await
                {
                    return Step::Answer(answer);
                }
                if status != 404 || self.visit.location.settings.log_not_found {
                    let path = self.visit.path_of(&uri);
                    warn!(client = ?self.visit.caller.peer, %path, %error, "cannot open a file");
                }
                Step::Status(status, None)
            }
        }
    }

    fn found(&self, found: Found, uri: &str) -> Answer {
        let content_type = self.visit.content_type(uri);
        let mut answer = Answer::bytes(200, content_type, Bytes::new());
        answer.last_modified = Some(found.modified);
        answer.content = Content::File(found);
        answer
    }

    /// `gzip_static`: the compressed file beside the one that was asked for.
    async fn precompressed(&self, uri: &str, is_read: bool) -> Option<Answer> {
        let gzip = &self.visit.location.settings.gzip;
        let is_wanted = match gzip.precompressed {
            Precompressed::Off => false,
            Precompressed::On => answer::accepts_gzip(self.visit, gzip),
            Precompressed::Always => true,
        };
        if !is_wanted || !is_read {
            return None;
        }
        let Look::File(found) = self.look(&format!("{uri}.gz")).await else { return None };
        let mut answer = self.found(found, uri);
        answer.is_precompressed = true;
        Some(answer)
    }

    /// A folder: its index file, its list, or nothing.
    async fn folder(&mut self, uri: &str) -> Step {
        let settings = self.visit.location.settings.clone();
        let is_post = self.visit.method == Method::POST;
        let mut is_there = None;
        for index in &settings.index {
            let name = self.visit.text(index);
            if name.starts_with('/') {
                return Step::Address(name, Some(self.visit.args.clone()));
            }
            if let Look::File(_) = self.look(&format!("{uri}{name}")).await {
                return Step::Address(format!("{uri}{name}"), Some(self.visit.args.clone()));
            }
            if is_there.is_none() {
                is_there = Some(matches!(self.look(uri).await, Look::Folder));
            }
            if is_there == Some(false) {
                break;
            }
        }
        let is_there = match is_there {
            Some(known) => known,
            None => matches!(self.look(uri).await, Look::Folder),
        };
        if !is_there {
            return Step::Status(404, None);
        }
        let Some(how) = settings.autoindex.filter(|_| !is_post) else {
            info!(client = ?self.visit.caller.peer, %uri, "directory index is forbidden");
            return Step::Status(403, None);
        };
        let (root, path) = (self.visit.root(), self.visit.path_of(uri));
        match files::list(PathBuf::from(root), PathBuf::from(path), settings.follows_links).await {
            Ok(entries) if how.is_json => {
                Step::Answer(Answer::bytes(200, Some("application/json".to_owned()), listing::json(&entries)))
            }
            Ok(entries) => {
                Step::Answer(Answer::bytes(200, Some("text/html".to_owned()), listing::html(uri, &entries, how)))
            }
            Err(error) => {
                warn!(client = ?self.visit.caller.peer, %uri, %error, "cannot list a folder");
                Step::Status(403, None)
            }
        }
    }

    /// A stream of this server, where no file is: `/hls/NAME.flv` works beside the files of `/hls`.
    async fn media(&mut self) -> Option<Answer> {
        let readable = [Method::GET, Method::HEAD, Method::OPTIONS];
        if !readable.contains(self.visit.request.method()) {
            return None;
        }
        let path = uri::escape(&self.visit.uri);
        // Only what names an application is worth giving the connection away for.
        let _ = super::find(&self.visit.site, &path, &self.visit.request)?;
        let payload = self.payload.take()?;
        media_at(&self.visit.site, &path, &self.visit.request, payload).await.map(Answer::ready)
    }

    async fn watch(&mut self, location: &Location) -> Step {
        let path = uri::escape(&self.visit.uri);
        let matched = match &location.pattern {
            Pattern::Prefix { text, .. } => uri::escape(text).trim_end_matches('/').len(),
            _ => 0,
        };
        let rest = match path.get(matched..) {
            Some(rest) if rest.starts_with('/') => rest.to_owned(),
            // Links on the page are relative to its folder.
            Some("") => return Step::Status(301, Some(format!("{path}/"))),
            _ => return Step::Status(404, None),
        };
        let Some(payload) = self.payload.take() else { return Step::Status(500, None) };
        let response = watch(&self.visit.site, &rest, &self.visit.request, payload).await;
        // Plain refusals look like the server's other pages.
        if response.status().as_u16() >= 400 && answer::length(&response) == Some(0) {
            let status = response.status().as_u16();
            let mut page = Answer::page(self.visit, status, None);
            if response.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN)
                || response.headers().contains_key(header::ALLOW)
            {
                page = Answer::ready(response);
            }
            return Step::Answer(page);
        }
        Step::Answer(Answer::ready(response))
    }

    async fn flv(&mut self, location: &Location) -> Step {
        let readable = [Method::GET, Method::HEAD, Method::OPTIONS];
        if !readable.contains(self.visit.request.method()) {
            return Step::Status(405, None);
        }
        let Some(payload) = self.payload.take() else { return Step::Status(500, None) };
        let (site, request) = (&self.visit.site, &self.visit.request);
        let response = match &location.handler {
            Handler::FlvByPath { port, app, audio, video } => {
                let tracks = Tracks { audio: *audio, video: *video };
                let rule = FlvLive { port: *port, app: app.clone(), tracks };
                live::flv_live_at(site, &rule, request, payload).await
            }
            _ => live::flv_live(site, request, payload).await,
        };
        Step::Answer(Answer::ready(response))
    }
}

/// A request's first line, as nginx bounds it (`large_client_header_buffers`).
const LONGEST_TARGET: usize = 8 << 10;

/// Long enough for the answer before to be written.
const BEFORE_HANG_UP: Duration = Duration::from_millis(100);

/// How often a request may be sent elsewhere from inside: nginx's number.
const MAX_REDIRECTS: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_all_three_forms() {
        let time = 784_111_777;
        assert_eq!(http_date(time), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(read_http_date(text), Some(time), "{text}");
        }
        for bad in ["", "yesterday", "Sun, 99 Nov 1994 08:49:37 GMT", "0"] {
            assert_eq!(read_http_date(bad), None, "{bad}");
        }
    }
}
