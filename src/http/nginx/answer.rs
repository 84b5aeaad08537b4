//! An answer before it is sent: nginx's filters in nginx's order.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    http::{
        StatusCode, Version,
        header::{self, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use jiff::Timestamp;

use super::{
    files::{self, Found, Piece},
    http_date, pages,
    ranges::{self, Asked},
    read_http_date,
    visit::Visit,
};
use crate::{
    config::http::{Expires, Gzip, IfModifiedSince},
    http::outlet,
};

/// What a location answers.
pub struct Answer {
    pub status: u16,
    pub content_type: Option<String>,
    pub location: Option<String>,
    pub content: Content,
    /// Of a file: what conditions are held against.
    pub last_modified: Option<i64>,
    /// `gzip_static` chose the compressed file.
    pub is_precompressed: bool,
    /// No other request may follow on this connection.
    pub closes: bool,
}

/// Where the bytes come from.
pub enum Content {
    Bytes(Bytes),
    File(Found),
    /// Another part of livemill has answered.
    Ready(Box<HttpResponse>),
}

impl Answer {
    pub fn bytes(status: u16, content_type: Option<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type,
            location: None,
            content: Content::Bytes(bytes.into()),
            last_modified: None,
            is_precompressed: false,
            closes: false,
        }
    }

    pub fn ready(response: HttpResponse) -> Self {
        let status = response.status().as_u16();
        Self { content: Content::Ready(Box::new(response)), ..Self::bytes(status, None, Bytes::new()) }
    }

    /// nginx's page for a status.
    pub fn page(visit: &Visit, status: u16, location: Option<String>) -> Self {
        let text = pages::page(status, visit.location.settings.server_tokens);
        let shown = if (494..=497).contains(&status) { 400 } else { status };
        let closes = matches!(status, 400 | 413 | 414 | 494..=497 | 500 | 501);
        let content_type = Some("text/html".to_owned());
        Self { location, closes, ..Self::bytes(shown, content_type, text.unwrap_or_default()) }
    }

    /// The response, after everything the location's settings do to it.
    pub fn finish(mut self, visit: &Visit, forced_status: Option<u16>) -> HttpResponse {
        if let Some(status) = forced_status {
            self.status = status;
        }
        let settings = &visit.location.settings;
        let etag = match &self.content {
            Content::File(found) => Some(format!("{:x}-{:x}", found.modified, found.len)).filter(|_| settings.etag),
            _ => None,
        };
        let mut etag = etag.map(|tag| format!("\"{tag}\""));
        if self.status == 200 && self.last_modified.is_some() {
            match condition(visit, self.last_modified.unwrap_or_default(), etag.as_deref()) {
                Condition::Met => {}
                Condition::NotModified => {
                    self.status = 304;
                    self.content_type = None;
                    self.content = Content::Bytes(Bytes::new());
                }
                Condition::Failed => return Self::page(visit, 412, None).finish(visit, None),
            }
        }
        let mut response = match std::mem::replace(&mut self.content, Content::Bytes(Bytes::new())) {
            Content::Ready(response) => {
                let mut response = *response;
                self.add_headers(visit, &mut response, true);
                set(&mut response, header::SERVER, pages::server_name(settings.server_tokens));
                return response;
            }
            other => {
                self.content = other;
                HttpResponse::new(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            }
        };
        let plain_type = self.content_type.clone();
        self.content_type = self.content_type.map(|kind| with_charset(visit, kind));
        let ranges_allowed = self.status == 200 && matches!(self.content, Content::File(_)) && settings.max_ranges > 0;
        let gzip = Some(settings.gzip.level).filter(|_| self.is_compressed(visit, plain_type.as_deref()));
        if gzip.is_some() {
            etag = etag.map(|tag| format!("W/{tag}"));
        }
        let vary = settings.gzip.vary && self.may_vary(&settings.gzip, plain_type.as_deref());
        if let Some(modified) = self.last_modified.filter(|_| matches!(self.status, 200 | 206 | 304)) {
            set(&mut response, header::LAST_MODIFIED, &http_date(modified));
        }
        if let Some(etag) = &etag {
            set(&mut response, header::ETAG, etag);
        }
        if let Some(kind) = &self.content_type {
            set(&mut response, header::CONTENT_TYPE, kind);
        }
        if let Some(location) = &self.location {
            set(&mut response, header::LOCATION, &visit.absolute(location));
        }
        set(&mut response, header::SERVER, pages::server_name(settings.server_tokens));
        self.add_headers(visit, &mut response, false);
        if gzip.is_some() || self.is_precompressed {
            set(&mut response, header::CONTENT_ENCODING, "gzip");
        }
        if vary {
            append(&mut response, header::VARY, "Accept-Encoding");
        }
        if self.closes || settings.closes {
            response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
        }
        match self.content {
            Content::Ready(response) => *response,
            Content::Bytes(bytes) => match gzip.and_then(|level| files::gzip_bytes(&bytes, level).ok()) {
                Some(compressed) => response.set_body(BoxBody::new(compressed)),
                None if matches!(self.status, 204 | 304) => response.set_body(BoxBody::new(())),
                None => outlet::answer_with(response, bytes, &visit.request),
            },
            Content::File(found) => {
                let mut pieces = vec![Piece::File(0..found.len)];
                if ranges_allowed && gzip.is_none() {
                    match asked_ranges(visit, found.len, self.last_modified.unwrap_or_default(), etag.as_deref()) {
                        Asked::Whole => set(&mut response, header::ACCEPT_RANGES, "bytes"),
                        Asked::Unsatisfiable => return unsatisfiable(visit, response, found.len),
                        Asked::Some(asked) => {
                            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                            pieces = parts(&mut response, &asked, found.len, self.content_type.as_deref());
                        }
                    }
                }
                let body = files::body(found, pieces, gzip);
                let without_chunks = gzip.is_some() && !settings.chunked;
                if without_chunks {
                    response.head_mut().set_connection_type(actix_http::ConnectionType::Close);
                    response.head_mut().no_chunking(true);
                }
                response.set_body(body)
            }
        }
    }

    /// `expires`, then `add_header`. What another part of livemill said under the same name is replaced: a page must not
    /// get two answers to whether it may read this.
    fn add_headers(&self, visit: &Visit, response: &mut HttpResponse, replaces: bool) {
        let settings = &visit.location.settings;
        let is_good = GOOD.contains(&self.status);
        if is_good {
            expires(settings.expires, self.last_modified, response);
        }
        for added in settings.headers.iter().filter(|added| is_good || added.always) {
            let value = visit.text(&added.value);
            let (Ok(name), Ok(text)) = (HeaderName::try_from(added.name.as_str()), HeaderValue::from_str(&value))
            else {
                continue;
            };
            let only_one = name == header::LAST_MODIFIED || name == header::ETAG;
            if only_one || (replaces && name != header::SET_COOKIE) {
                response.headers_mut().remove(&name);
            }
            if !value.is_empty() {
                response.headers_mut().append(name, text);
            }
        }
    }

    /// Is the client one that gets this compressed?
    fn is_compressed(&self, visit: &Visit, content_type: Option<&str>) -> bool {
        let gzip = &visit.location.settings.gzip;
        let length = match &self.content {
            // Files are compressed by threads of the runtime; this would hold up a worker.
            Content::Bytes(bytes) if bytes.len() > LONGEST_COMPRESSED => return false,
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(found) => found.len,
            Content::Ready(_) => return false,
        };
        gzip.on
            && !self.is_precompressed
            && matches!(self.status, 200 | 403 | 404)
            && length >= gzip.min_length.max(1)
            && is_type(gzip, content_type)
            && accepts_gzip(visit, gzip)
    }

    fn may_vary(&self, gzip: &Gzip, content_type: Option<&str>) -> bool {
        let is_long = match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64 >= gzip.min_length,
            Content::File(found) => found.len >= gzip.min_length,
            Content::Ready(_) => false,
        };
        self.is_precompressed
            || (gzip.on && is_long && matches!(self.status, 200 | 403 | 404) && is_type(gzip, content_type))
    }
}

fn with_charset(visit: &Visit, mut kind: String) -> String {
    let settings = &visit.location.settings;
    if let Some(charset) = &settings.charset
        && !kind.contains(';')
        && settings.charset_types.iter().any(|known| *known == kind || known == "*")
    {
        kind.push_str("; charset=");
        kind.push_str(charset);
    }
    kind
}

fn is_type(gzip: &Gzip, content_type: Option<&str>) -> bool {
    content_type.is_some_and(|kind| gzip.types.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(kind)))
}

/// Does this client take gzip, by nginx's rules?
pub fn accepts_gzip(visit: &Visit, gzip: &Gzip) -> bool {
    let is_new = visit.request.version() >= Version::HTTP_11 || gzip.http_1_0;
    let is_direct = gzip.proxied || visit.header("via").is_none();
    let agent = visit.header("user-agent").unwrap_or_default();
    let is_disabled = gzip.disable.iter().any(|pattern| pattern.0.is_match(agent));
    let accepted = visit.header("accept-encoding").unwrap_or_default();
    let takes = |list: &str| {
        let wanted = list.split(',').map(|item| item.split(';').map(str::trim));
        let mut known = wanted.filter_map(|mut item| {
            let coding = item.next()?;
            let is_zero =
                item.filter_map(|option| option.strip_prefix("q=")).any(|q| q.trim_end_matches(['0', '.']).is_empty());
            coding.eq_ignore_ascii_case("gzip").then_some(!is_zero)
        });
        known.next().unwrap_or(false)
    };
    is_new && is_direct && !is_disabled && takes(accepted)
}

enum Condition {
    Met,
    NotModified,
    Failed,
}

fn condition(visit: &Visit, modified: i64, etag: Option<&str>) -> Condition {
    let unmodified_since = visit.header("if-unmodified-since");
    let is_newer = |text: &str| read_http_date(text).is_some_and(|time| modified > time);
    let bad_date = |text: &str| read_http_date(text).is_none();
    if unmodified_since.is_some_and(|text| is_newer(text) || bad_date(text)) {
        return Condition::Failed;
    }
    if visit.header("if-match").is_some_and(|list| !matches(list, etag, false)) {
        return Condition::Failed;
    }
    let (since, none_match) = (visit.header("if-modified-since"), visit.header("if-none-match"));
    if since.is_none() && none_match.is_none() {
        return Condition::Met;
    }
    let is_modified = |text: &str| match visit.location.settings.if_modified_since {
        IfModifiedSince::Off => true,
        IfModifiedSince::Exact => read_http_date(text) != Some(modified),
        IfModifiedSince::Before => read_http_date(text).is_none_or(|time| time < modified),
    };
    if since.is_some_and(is_modified) || none_match.is_some_and(|list| !matches(list, etag, true)) {
        return Condition::Met;
    }
    Condition::NotModified
}

fn matches(list: &str, etag: Option<&str>, is_weak: bool) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    list.split(',').map(str::trim).any(|item| {
        let item = if is_weak { item.strip_prefix("W/").unwrap_or(item) } else { item };
        item == etag
    })
}

fn asked_ranges(visit: &Visit, length: u64, modified: i64, etag: Option<&str>) -> Asked {
    let Some(asked) = visit.header("range") else { return Asked::Whole };
    if let Some(condition) = visit.header("if-range") {
        let holds = if condition.ends_with('"') {
            etag == Some(condition)
        } else {
            read_http_date(condition) == Some(modified)
        };
        if !holds {
            return Asked::Whole;
        }
    }
    ranges::read(asked, length, visit.location.settings.max_ranges)
}

/// One part as it is, several with lines between them.
fn parts(
    response: &mut HttpResponse,
    asked: &[std::ops::Range<u64>],
    length: u64,
    content_type: Option<&str>,
) -> Vec<Piece> {
    let content_range = |range: &std::ops::Range<u64>| format!("bytes {}-{}/{length}", range.start, range.end - 1);
    if let [range] = asked {
        set(response, header::CONTENT_RANGE, &content_range(range));
        return vec![Piece::File(range.clone())];
    }
    let boundary = format!("{:020}", rand::random::<u64>());
    set(response, header::CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
    let kind = content_type.map(|kind| format!("Content-Type: {kind}\r\n")).unwrap_or_default();
    let mut pieces = Vec::new();
    for range in asked {
        let head = format!("\r\n--{boundary}\r\n{kind}Content-Range: {}\r\n\r\n", content_range(range));
        pieces.extend([Piece::Text(head.into()), Piece::File(range.clone())]);
    }
    pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into()));
    pieces
}

/// 416: the headers of the location have been added already, as in nginx.
fn unsatisfiable(visit: &Visit, mut response: HttpResponse, length: u64) -> HttpResponse {
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    for name in [header::LAST_MODIFIED, header::ETAG] {
        response.headers_mut().remove(name);
    }
    set(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
    set(&mut response, header::CONTENT_TYPE, &with_charset(visit, "text/html".to_owned()));
    let page = pages::page(416, visit.location.settings.server_tokens).unwrap_or_default();
    response.set_body(BoxBody::new(page))
}

fn expires(rule: Expires, last_modified: Option<i64>, response: &mut HttpResponse) {
    let now = Timestamp::now().as_second();
    let (date, age) = match rule {
        Expires::Off => return,
        Expires::Epoch => ("Thu, 01 Jan 1970 00:00:01 GMT".to_owned(), None),
        Expires::Max => ("Thu, 31 Dec 2037 23:55:55 GMT".to_owned(), Some(315_360_000)),
        Expires::Access(seconds) => (http_date(now + seconds), Some(seconds)),
        Expires::Modified(seconds) => {
            let at = last_modified.unwrap_or(now).saturating_add(seconds);
            (http_date(at), Some(at - now))
        }
        Expires::Daily(second) => {
            let midnight = jiff::Zoned::now().start_of_day().map_or(now, |day| day.timestamp().as_second());
            let today = midnight + i64::from(second);
            let at = if today > now { today } else { today + 86_400 };
            (http_date(at), Some(at - now))
        }
    };
    set(response, header::EXPIRES, &date);
    match age.filter(|age| *age >= 0) {
        Some(age) => set(response, header::CACHE_CONTROL, &format!("max-age={age}")),
        None => set(response, header::CACHE_CONTROL, "no-cache"),
    }
}

fn set(response: &mut HttpResponse, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn append(response: &mut HttpResponse, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().append(name, value);
    }
}

/// A body for `HEAD`: as long as the real one, which is not even read.
pub struct Measured(pub u64);

impl MessageBody for Measured {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// What a body of another part is worth to the log.
pub fn length(response: &HttpResponse) -> Option<u64> {
    match response.body().size() {
        BodySize::Sized(length) => Some(length),
        _ => None,
    }
}

/// What a worker compresses at once.
const LONGEST_COMPRESSED: usize = 64 << 10;

/// The answers that `add_header` and `expires` are for.
const GOOD: &[u16] = &[200, 201, 204, 206, 301, 302, 303, 304, 307, 308];
