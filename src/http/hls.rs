//! Playlists, manifests and segments: one output of a stream, answered from memory.
//!
//! The first who asks for a stream's playlist or manifest opens its output, and waits until there is something to play. A
//! stream that nobody publishes is not there (404), also where RTMP players may wait for one (`idle_streams`): players of
//! playlists ask again by themselves, and a name that somebody invents must not cost anything. Where streams are fetched from
//! elsewhere the request waits for that.

use std::{ops::Range, sync::Arc, time::Duration};

use actix::Arbiter;
use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{Method, StatusCode, header},
};
use bytes::Bytes;

use super::{METHODS, MediaRequest, Site, admission, method_not_allowed, outlet};
use crate::{
    actors::{
        gate::Denied,
        router::{OpenStream, Purpose},
        segments,
        support::{
            counters::Protocol,
            segment_store::{CLOCK, Found, NotServed, SegmentStore, Wanted},
            sessions::Who,
            shelf::Format,
        },
        waiter,
    },
    config::{HttpOutput, outputs::HlsFormat},
    protocol::hls::{
        date,
        playlist::{Encoding, Query},
    },
};

/// Answers a request for `file` of a stream: `index.m3u8`, `manifest.mpd`, or what these name.
pub async fn answer(site: &Site, asked: &MediaRequest, file: &str, request: &HttpRequest) -> HttpResponse {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return preflight(),
        _ => return method_not_allowed(),
    }
    if file == CLOCK {
        return clock();
    }
    let query = request.query_string();
    let Some((wanted, protocol)) = read(file, query) else { return refuse(NotServed::BadRequest) };
    let outputs = &asked.venue.application.outputs;
    let needs = match protocol {
        Some(Protocol::Dash) => outputs.http.has(HttpOutput::Dash),
        Some(_) => outputs.http.has(HttpOutput::Hls),
        None => outputs.http.has(HttpOutput::Dash) || outputs.http.has(HttpOutput::Hls),
    };
    if !needs {
        return refuse(NotServed::NotFound);
    }
    let agent = request.headers().get(header::USER_AGENT).map(|agent| agent.as_bytes()).unwrap_or_default();
    let who = Who { token: session(query).filter(|token| is_token(token)), address: asked.peer, agent };
    // Whoever comes without a token is given one with its playlists; until then it is nobody we know.
    let is_new = who.token.is_none() && matches!(wanted, Wanted::Index { .. });
    let mut newcomer = None;
    if let Some(protocol) = protocol.filter(|_| admission::is_needed(asked)) {
        let admitted = if is_new {
            admission::watch(site, asked, protocol, request).await.map(|watcher| {
                let key = watcher.key.clone();
                newcomer = Some(watcher);
                key
            })
        } else {
            admission::go_on(site, asked, protocol, &who, request).await
        };
        match admitted {
            Ok(key) if key == asked.key => {}
            Ok(key) => {
                let sent = admission::send_on(site, asked, &who, &key, newcomer, file, request);
                return sent.unwrap_or_else(|denied| deny(&denied));
            }
            Err(denied) => return deny(&denied),
        }
    }
    let format = match (protocol, outputs.memory.format) {
        (Some(Protocol::Hls), HlsFormat::Ts) => Format::Ts,
        (None, _) if file.ends_with(".ts") => Format::Ts,
        _ => Format::Cmaf,
    };
    // Whoever asks for a piece has seen a playlist: a piece alone opens nothing.
    let store = match (site.house.shelf.find(&asked.key, format), protocol) {
        (Some(store), _) => Some(store),
        (None, Some(_)) => open(site, asked, format).await,
        (None, None) => None,
    };
    let Some(store) = store else { return refuse(NotServed::NotFound) };
    let encoding = encoding(request);
    let found = match (&wanted, protocol) {
        (Wanted::Index { .. }, Some(protocol)) => {
            let token = match who.token {
                Some(token) => Some(token.to_owned()),
                None => store.sessions().invite(&who, protocol, store.now()),
            };
            if let Some(watcher) = newcomer {
                let who = Who { token: token.as_deref(), ..who };
                if let Err(denied) = admission::remember(site, asked, &who, watcher, request) {
                    return deny(&denied);
                }
            }
            store.fetch(&Wanted::Index { token: token.as_deref() }, encoding).await
        }
        (wanted, Some(protocol)) => {
            if store.sessions().see(&who, protocol, store.now()).is_err() {
                return with_cors(HttpResponse::Forbidden()).finish();
            }
            store.fetch(wanted, encoding).await
        }
        (wanted, None) => store.fetch(wanted, encoding).await,
    };
    match found {
        Ok(Found::Text(bytes)) => text(bytes, encoding, protocol),
        Ok(Found::Media { bytes, content_type, keep }) => {
            let (answer, length) = media(bytes, content_type, keep.as_secs(), request);
            store.sessions().note_sent(length);
            answer
        }
        Err(reason) => refuse(reason),
    }
}

/// Opens the output of a stream that somebody publishes, here or where it can be fetched from.
async fn open(site: &Site, asked: &MediaRequest, format: Format) -> Option<Arc<SegmentStore>> {
    let (house, key, venue) = (&site.house, &asked.key, &asked.venue);
    let open = || segments::open(house, key, venue, format);
    if let Some(store) = open() {
        return Some(store);
    }
    if !venue.rules.is_fetched || !venue.application.live {
        return None;
    }
    let (rules, home) = (Arc::clone(&venue.rules), Arbiter::current());
    let open_stream = OpenStream { key: key.clone(), rules, purpose: Purpose::Play, home };
    let opened = house.router.send(open_stream).await.ok()?.ok()?;
    waiter::published(&opened.source(), FETCHED_WITHIN).await.ok()?;
    open()
}

/// What a name means, and whose it is; a segment may be anybody's. None: a query that makes no sense.
fn read<'a>(file: &'a str, query: &'a str) -> Option<(Wanted<'a>, Option<Protocol>)> {
    Some(match (file, file.strip_suffix(".m3u8")) {
        ("index.m3u8", _) => (Wanted::Index { token: None }, Some(Protocol::Hls)),
        ("manifest.mpd", _) => (Wanted::Manifest, Some(Protocol::Dash)),
        (_, Some(name)) => (Wanted::Playlist { name, query: Query::parse(query).ok()? }, Some(Protocol::Hls)),
        _ => (Wanted::File { name: file }, None),
    })
}

/// What `session=` says in a query.
fn session(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("session="))
}

/// A word that may be written into a playlist: ours, or one that looks like ours.
fn is_token(token: &str) -> bool {
    token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn encoding(request: &HttpRequest) -> Encoding {
    let accepts = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let is_gzip = |word: &str| {
        let mut parts = word.split(';').map(str::trim);
        let is_refused = |weight: &str| weight.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(is_refused)
    };
    match accepts {
        Some(accepts) if accepts.split(',').any(is_gzip) => Encoding::Gzip,
        _ => Encoding::Plain,
    }
}

fn text(bytes: Bytes, encoding: Encoding, protocol: Option<Protocol>) -> HttpResponse {
    let content_type = match protocol {
        Some(Protocol::Dash) => "application/dash+xml",
        _ => "application/vnd.apple.mpegurl",
    };
    let mut answer = with_cors(HttpResponse::Ok());
    answer
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::VARY, "Accept-Encoding"));
    if encoding == Encoding::Gzip {
        answer.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    answer.body(bytes)
}

/// The bytes of a name never change, so a cache may keep them for as long as anybody lists them.
/// Also says how long the answer is.
fn media(bytes: Bytes, content_type: &'static str, keep_s: u64, request: &HttpRequest) -> (HttpResponse, usize) {
    let length = bytes.len();
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok());
    let (status, bytes, content_range) = match range.map_or(Ranges::All, |range| read_range(range, length)) {
        Ranges::All => (StatusCode::OK, bytes, None),
        Ranges::One(range) => {
            let said = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, bytes.slice(range), Some(said))
        }
        Ranges::None => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(format!("bytes */{length}"))),
    };
    let mut answer = with_cors(HttpResponse::build(status));
    answer
        .insert_header((header::CONTENT_TYPE, content_type))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CACHE_CONTROL, format!("public, max-age={keep_s}, immutable")));
    if let Some(said) = content_range {
        answer.insert_header((header::CONTENT_RANGE, said));
    }
    let length = if *request.method() == Method::GET { bytes.len() } else { 0 };
    (outlet::answer(answer, bytes, request), length)
}

/// The wall clock, for players of DASH: theirs may be wrong.
fn clock() -> HttpResponse {
    let now = date::iso(jiff::Timestamp::now().as_millisecond());
    with_cors(HttpResponse::Ok())
        .insert_header((header::CONTENT_TYPE, "text/plain"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(now)
}

fn deny(denied: &Denied) -> HttpResponse {
    let mut answer = with_cors(HttpResponse::Forbidden());
    answer.insert_header((header::CACHE_CONTROL, "no-store")).content_type("text/plain").body(format!("{denied}\n"))
}

fn refuse(reason: NotServed) -> HttpResponse {
    let status = match reason {
        NotServed::NotFound => StatusCode::NOT_FOUND,
        NotServed::BadRequest => StatusCode::BAD_REQUEST,
        NotServed::TooLate | NotServed::Crowded => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = with_cors(HttpResponse::build(status));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer.insert_header((header::RETRY_AFTER, "1"));
    }
    // What is not there yet may be there in a moment.
    answer.insert_header((header::CACHE_CONTROL, "no-cache")).content_type("text/plain").body(format!("{reason}\n"))
}

fn preflight() -> HttpResponse {
    with_cors(HttpResponse::NoContent())
        .insert_header((header::ALLOW, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
        .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, "Range"))
        .insert_header((header::ACCESS_CONTROL_MAX_AGE, "86400"))
        .finish()
}

/// Pages of any origin may play, and read what their players need to know.
fn with_cors(mut answer: HttpResponseBuilder) -> HttpResponseBuilder {
    answer
        .insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"))
        .insert_header((header::ACCESS_CONTROL_EXPOSE_HEADERS, "Content-Length, Content-Range, Date"));
    answer
}

#[derive(Debug, PartialEq, Eq)]
enum Ranges {
    /// No range, or one that may be ignored: several, or what cannot be read.
    All,
    One(Range<usize>),
    None,
}

/// RFC 9110, 14.1.2: one range of bytes. The end is cut to what there is.
fn read_range(text: &str, length: usize) -> Ranges {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.trim().split_once('-')) else {
        return Ranges::All;
    };
    let number = |text: &str| match text {
        "" => Some(None),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(text.parse().unwrap_or(u64::MAX))),
        _ => None,
    };
    let total = length as u64;
    let (start, end) = match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if first <= last => (first, last.saturating_add(1).min(total)),
        (Some(Some(first)), Some(None)) => (first, total),
        (Some(None), Some(Some(count))) => (total.saturating_sub(count), total),
        _ => return Ranges::All,
    };
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) if start < end => Ranges::One(start..end),
        _ => Ranges::None,
    }
}

/// More than any token of ours.
const MAX_TOKEN: usize = 32;

/// How long a request waits for a stream that is fetched from elsewhere: players give up after about as long.
const FETCHED_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn ranges_are_cut_to_what_there_is() {
        for (text, expected) in [
            ("bytes=0-", Ranges::One(0..10)),
            ("bytes=2-4", Ranges::One(2..5)),
            ("bytes=2-99", Ranges::One(2..10)),
            ("bytes=-3", Ranges::One(7..10)),
            ("bytes=-30", Ranges::One(0..10)),
            ("bytes=0-18446744073709551615", Ranges::One(0..10)),
            ("bytes=0-99999999999999999999999", Ranges::One(0..10)),
            ("bytes=10-", Ranges::None),
            ("bytes=-0", Ranges::None),
            ("bytes=5-2", Ranges::All),
            ("bytes=-", Ranges::All),
            ("bytes=", Ranges::All),
            ("bytes=0-1,3-4", Ranges::All),
            ("lines=0-1", Ranges::All),
            ("bytes=+1-2", Ranges::All),
        ] {
            assert_eq!(read_range(text, 10), expected, "{text}");
        }
        assert_eq!(read_range("bytes=0-", 0), Ranges::None);
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let of = |accepts: &'static str| {
            encoding(&TestRequest::default().insert_header((header::ACCEPT_ENCODING, accepts)).to_http_request())
        };
        assert_eq!(of("gzip, deflate, br"), Encoding::Gzip);
        assert_eq!(of("br;q=1, GZIP;q=0.5"), Encoding::Gzip);
        assert_eq!(of("br, gzip;q=0"), Encoding::Plain);
        assert_eq!(of("identity"), Encoding::Plain);
        assert_eq!(encoding(&TestRequest::default().to_http_request()), Encoding::Plain);
    }

    #[test]
    fn names_say_what_is_wanted_and_whose_it_is() {
        assert_eq!(read("index.m3u8", "a=b"), Some((Wanted::Index { token: None }, Some(Protocol::Hls))));
        assert_eq!(read("manifest.mpd", ""), Some((Wanted::Manifest, Some(Protocol::Dash))));
        assert_eq!(read("x-1.m4s", "_HLS_part=1"), Some((Wanted::File { name: "x-1.m4s" }, None)));
        let query = Query { number: Some(3), ..Query::default() };
        assert_eq!(
            read("video.m3u8", "session=a&_HLS_msn=3"),
            Some((Wanted::Playlist { name: "video", query }, Some(Protocol::Hls)))
        );
        assert_eq!(read("video.m3u8", "_HLS_part=3"), None);
        assert_eq!(read("video.m3u8", "_HLS_msn=-1"), None);
    }

    #[test]
    fn a_session_is_a_word_that_harms_no_playlist() {
        assert_eq!(session("a=b&session=c0ffee&d"), Some("c0ffee"));
        assert_eq!(session("asession=x"), None);
        assert!(is_token("c0ffee") && !is_token("a\"b") && !is_token("%0a") && !is_token(&"a".repeat(33)));
    }
}
