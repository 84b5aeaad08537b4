//! One call of a hook, as a value: what is sent, how it is signed, and what came back.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::HookSecret;

/// What is asked or told.
#[derive(Clone, Debug)]
pub struct HookCall {
    /// `publish`, `play_done` and so on: for logs.
    pub event: &'static str,
    /// The whole address, query included.
    pub url: String,
    /// None: it is a GET.
    pub body: Option<HookBody>,
    pub timeout: Duration,
    pub secret: Option<Arc<HookSecret>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookBody {
    pub content_type: &'static str,
    pub bytes: Bytes,
}

/// What a hook answered. Its body says nothing to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookAnswer {
    pub status: u16,
    /// At most 2 KiB, without control characters.
    pub location: Option<String>,
    /// The header `Domain`, under the same bounds.
    pub domain: Option<String>,
    /// Who answered: nothing nearer may be named in `location` (see `targets`).
    pub peer: Option<IpAddr>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// Nobody is there, or it went away without a word.
    #[error("{0}")]
    Refused(String),
    #[error("no answer in time")]
    Timeout,
    #[error("its answer is too long")]
    TooMuch,
    #[error("its answer makes no sense: {0}")]
    Garbage(String),
    #[error("too many calls are waiting")]
    Crowded,
    #[error("the server is ending")]
    Ending,
}

impl HookCall {
    pub fn method(&self) -> &'static str {
        if self.body.is_some() { "POST" } else { "GET" }
    }

    /// `scheme://host:port`: calls to one endpoint share its fate.
    pub fn endpoint(&self) -> &str {
        let host = self.url.find("://").map_or(0, |at| at + 3);
        let rest = self.url.get(host..).unwrap_or_default();
        let end = rest.find(['/', '?']).map_or(self.url.len(), |at| host + at);
        self.url.get(..end).unwrap_or_default()
    }

    /// The value of `X-Livemill-Signature` at this time: HMAC-SHA256 over `TIMESTAMP.METHOD.TARGET.BODY`, where TARGET is
    /// the path and query of the request line. None: it is not to be signed.
    pub fn signature(&self, unix_secs: i64) -> Option<String> {
        let secret = self.secret.as_ref()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()).ok()?;
        let target = self.url.get(self.endpoint().len()..).unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        mac.update(format!("{unix_secs}.{}.{slash}{target}.", self.method()).as_bytes());
        mac.update(self.body.as_ref().map_or(&[] as &[u8], |body| &body.bytes));
        let code = mac.finalize().into_bytes();
        Some(code.iter().fold("sha256=".to_owned(), |text, byte| text + &format!("{byte:02x}")))
    }
}

/// Whether the one who was told has heard it. Endpoints that are down, or whose proxy says so, are told again.
pub fn is_heard(outcome: &Result<HookAnswer, HookError>) -> bool {
    match outcome {
        Ok(answer) => !matches!(answer.status, 502..=504),
        Err(HookError::Garbage(_) | HookError::TooMuch) => true,
        Err(_) => false,
    }
}

/// A header of an answer that we act on; longer ones, and ones with control characters, are an attack or a mistake.
pub fn read_header(value: &[u8]) -> Result<String, HookError> {
    if value.len() > MAX_HEADER {
        return Err(HookError::TooMuch);
    }
    let text = std::str::from_utf8(value).map_err(|_| HookError::Garbage("a header is not UTF-8".to_owned()))?;
    if text.chars().any(char::is_control) {
        return Err(HookError::Garbage("a header has control characters".to_owned()));
    }
    Ok(text.trim().to_owned())
}

/// Longer addresses are no addresses.
const MAX_HEADER: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn call(url: &str, body: Option<&'static str>) -> HookCall {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        HookCall {
            event: "publish",
            url: url.to_owned(),
            body: body.map(|text| HookBody { content_type: "text/plain", bytes: bytes(text) }),
            timeout: Duration::from_secs(1),
            secret: Some(Arc::new(HookSecret::new("key"))),
        }
    }

    #[test]
    fn calls_to_one_host_and_port_share_an_endpoint() {
        for (url, endpoint) in [
            ("http://a:8080/b?c", "http://a:8080"),
            ("https://a?b=/c", "https://a"),
            ("http://[::1]:80/", "http://[::1]:80"),
        ] {
            assert_eq!(call(url, None).endpoint(), endpoint);
        }
    }

    /// `printf '1700000000.POST./a?b=c.d=e' | openssl dgst -sha256 -hmac key` says the same.
    #[test]
    fn a_signature_covers_time_method_target_and_body() {
        let signed = call("http://h:1/a?b=c", Some("d=e")).signature(1_700_000_000);
        assert_eq!(signed.as_deref(), Some("sha256=7d3000cba402b6299d15905e0eb2644bc1e9986603c0244159bd948ae065013d"));
        let others = [
            call("http://h:1/a?b=c", Some("d=e")).signature(1_700_000_001),
            call("http://h:1/a?b=c", Some("d=f")).signature(1_700_000_000),
            call("http://h:1/a?b=d", Some("d=e")).signature(1_700_000_000),
            call("http://h:1/a?b=c", None).signature(1_700_000_000),
        ];
        assert!(others.iter().all(|other| other.is_some() && *other != signed));
        let plain = HookCall { secret: None, ..call("http://h/", None) };
        assert_eq!(plain.signature(1), None);
    }

    #[test]
    fn what_a_proxy_answers_for_a_dead_endpoint_is_not_an_answer() {
        let status = |status| Ok(HookAnswer { status, ..HookAnswer::default() });
        for heard in [200, 302, 404, 500, 501] {
            assert!(is_heard(&status(heard)), "{heard}");
        }
        for lost in [502, 503, 504] {
            assert!(!is_heard(&status(lost)), "{lost}");
        }
        assert!(is_heard(&Err(HookError::Garbage("x".into()))) && !is_heard(&Err(HookError::Timeout)));
    }

    #[test]
    fn headers_are_bounded_text() {
        assert_eq!(read_header(b" rtmp://a/b "), Ok("rtmp://a/b".to_owned()));
        assert_eq!(read_header(&[b'a'; 2049]), Err(HookError::TooMuch));
        assert!(read_header(b"a\xff").is_err() && read_header(b"a\x01b").is_err());
    }
}
