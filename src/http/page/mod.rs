//! The page: what is live, and a player for each stream. Plain files in the program, nothing fetched from elsewhere.
//!
//! | path | what |
//! |---|---|
//! | `/` | the list |
//! | `/play/APP/NAME` | the player, to look at or to put into another page |
//! | `/live.json` | what is live, for both |
//! | `/-/…` | their parts; no application's name can begin with a dash |
//!
//! Paths are relative to where the page is mounted, and so are all addresses in it: it works below a location, or behind
//! another server's.

mod live;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{self, ContentType},
    },
};
use sha2::{Digest, Sha256};

pub use live::{Live, Stream};

/// Answers a GET or HEAD for the page or one of its parts. `path` is what follows the mount, with its first slash;
/// `live` is asked only when the list is wanted. None: nothing of the page's.
pub fn answer(path: &str, request: &HttpRequest, live: impl FnOnce() -> Live) -> Option<HttpResponse> {
    match path {
        "/" => Some(document(INDEX, path, Framing::Nobody, request)),
        // Without its last slash the mount's address would lead beside it.
        "" => Some(
            HttpResponse::PermanentRedirect()
                .insert_header((header::LOCATION, format!("{}/", request.path())))
                .finish(),
        ),
        "/live.json" => Some(list(&live())),
        _ => match path.strip_prefix("/-/") {
            Some(name) => PARTS.iter().find(|part| part.name == name).map(|part| asset(part, request)),
            // Whether there is such a stream, and who may see it, is for the media's own address to say.
            None => path
                .strip_prefix("/play/")
                .filter(|stream| stream.contains('/'))
                .map(|_| document(PLAY, path, Framing::Anybody, request)),
        },
    }
}

/// A part of the page: a file beside this one.
struct Part {
    name: &'static str,
    content_type: &'static str,
    body: &'static str,
}

/// Who may show a document in a frame.
#[derive(Clone, Copy)]
enum Framing {
    Nobody,
    Anybody,
}

fn list(live: &Live) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .json(live)
}

fn asset(part: &Part, request: &HttpRequest) -> HttpResponse {
    cached(part.body.to_owned(), part.content_type, request, |_| {})
}

/// A document at `path`, with the way back to the mount written into its addresses.
fn document(text: &str, path: &str, framing: Framing, request: &HttpRequest) -> HttpResponse {
    let depth = path.matches('/').count().saturating_sub(1);
    let root = if depth == 0 { "./".to_owned() } else { "../".repeat(depth) };
    let ancestors = match framing {
        Framing::Nobody => "'none'",
        Framing::Anybody => "*",
    };
    let html = ContentType::html().0;
    cached(text.replace("@root@", &root), html.as_ref(), request, |answer| {
        answer.insert_header((header::CONTENT_SECURITY_POLICY, format!("{POLICY}; frame-ancestors {ancestors}")));
        answer.insert_header((header::REFERRER_POLICY, "same-origin"));
    })
}

/// Sends `body`, or says that whoever asks has it already.
fn cached(
    body: String,
    content_type: &str,
    request: &HttpRequest,
    more: impl FnOnce(&mut actix_web::HttpResponseBuilder),
) -> HttpResponse {
    let tag = tag_of(body.as_bytes());
    let held = request.headers().get(header::IF_NONE_MATCH).and_then(|held| held.to_str().ok()).unwrap_or_default();
    let is_held = held.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag);
    let mut answer = HttpResponse::build(if is_held { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    // Asked for each time and rarely sent: a new version of the server is seen at once.
    answer.insert_header((header::CACHE_CONTROL, "no-cache"));
    answer.insert_header((header::ETAG, tag));
    answer.insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    more(&mut answer);
    if is_held { answer.finish() } else { answer.content_type(content_type).body(body) }
}

fn tag_of(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    let hex: String = digest.iter().take(TAG_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

const INDEX: &str = include_str!("index.html");
const PLAY: &str = include_str!("play.html");

const PARTS: &[Part] = &[
    Part { name: "style.css", content_type: "text/css; charset=utf-8", body: include_str!("style.css") },
    Part { name: "icon.svg", content_type: "image/svg+xml", body: include_str!("icon.svg") },
    Part { name: "common.js", content_type: JAVASCRIPT, body: include_str!("common.js") },
    Part { name: "index.js", content_type: JAVASCRIPT, body: include_str!("index.js") },
    Part { name: "mp4.js", content_type: JAVASCRIPT, body: include_str!("mp4.js") },
    Part { name: "play.js", content_type: JAVASCRIPT, body: include_str!("play.js") },
    Part { name: "player.js", content_type: JAVASCRIPT, body: include_str!("player.js") },
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page's own files and nothing else. `blob:` is what a media source is called.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      media-src 'self' blob:; base-uri 'none'; form-action 'none'";

/// 64 bits tell a handful of files apart.
const TAG_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use actix_web::{body::to_bytes, test::TestRequest};
    use bytes::Bytes;

    use super::*;

    fn nothing_live() -> Live {
        Live { now_ms: 5, rtmp_port: Some(1935), applications: vec!["live".into()], streams: Vec::new() }
    }

    fn get(path: &str) -> Option<HttpResponse> {
        answer(path, &TestRequest::default().to_http_request(), nothing_live)
    }

    fn header_of(answer: &HttpResponse, name: header::HeaderName) -> &str {
        answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    async fn text(answer: HttpResponse) -> String {
        let body = to_bytes(answer.into_body()).await.unwrap_or_else(|_| Bytes::new());
        String::from_utf8_lossy(&body).into_owned()
    }

    #[actix::test]
    async fn every_file_that_a_document_or_a_script_names_is_there() {
        let parts = PARTS.iter().map(|part| part.body).chain([INDEX, PLAY]);
        let mut named = 0;
        for (before, body) in parts.flat_map(|body| [("@root@-/", body), ("from './", body)]) {
            for (at, _) in body.match_indices(before) {
                let rest = &body[at + before.len()..];
                let name = &rest[..rest.find(['"', '\'']).expect("a name in quotes ends")];
                assert!(get(&format!("/-/{name}")).is_some(), "{name}");
                named += 1;
            }
        }
        assert!(named > 8, "{named}");
    }

    #[actix::test]
    async fn addresses_lead_back_to_the_mount_from_any_depth() {
        for (path, back) in
            [("/", "\"./-/style"), ("/play/live/x", "\"../../-/style"), ("/play/a/b/c", "\"../../../-/style")]
        {
            let page = text(get(path).expect("a document")).await;
            assert!(page.contains(back) && !page.contains("@root@"), "{path}");
        }
    }

    #[test]
    fn nothing_may_come_from_elsewhere_and_only_the_player_may_be_framed() {
        let policy = |path| header_of(&get(path).expect("a document"), header::CONTENT_SECURITY_POLICY).to_owned();
        assert!(policy("/").starts_with("default-src 'none'; script-src 'self';"));
        assert!(policy("/").ends_with("frame-ancestors 'none'"));
        assert!(policy("/play/live/x").ends_with("frame-ancestors *"));
        for body in PARTS.iter().map(|part| part.body).chain([INDEX, PLAY]) {
            for forbidden in ["https://", "<style", "style=\"", "onclick", "eval("] {
                assert!(!body.contains(forbidden), "{forbidden}");
            }
        }
    }

    #[test]
    fn a_file_that_is_held_already_is_not_sent_again() {
        let first = get("/-/player.js").expect("a part");
        assert_eq!(header_of(&first, header::CONTENT_TYPE), JAVASCRIPT);
        let tag = header_of(&first, header::ETAG).to_owned();
        for (held, status) in [(tag.as_str(), 304), (&format!("\"x\", W/{tag}"), 304), ("\"x\"", 200)] {
            let request = TestRequest::default().insert_header((header::IF_NONE_MATCH, held)).to_http_request();
            let answer = answer("/-/player.js", &request, nothing_live).expect("a part");
            assert_eq!(answer.status().as_u16(), status, "{held}");
        }
    }

    #[test]
    fn other_paths_are_not_the_pages() {
        for path in ["/x", "/-/", "/-/mod.rs", "/play", "/play/", "/play/live", "/live.json/"] {
            assert!(get(path).is_none(), "{path}");
        }
    }
}
