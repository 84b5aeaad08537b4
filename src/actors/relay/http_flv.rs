//! Pulls over HTTP-FLV: the request, and what its answer means.

use std::{error::Error, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use reqwest::{
    Client, Response, Url,
    header::{HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, REFERER, USER_AGENT},
    redirect,
};

use crate::actors::support::{route::ROUTE_HEADER, targets::Target};

/// What is asked for, and what is said with it.
#[derive(Clone, Debug)]
pub struct FlvRequest {
    /// Whole: nothing is left to be taken from the local stream.
    pub target: Target,
    /// Where the target lies. Nothing else is connected to, whatever its name may mean by then.
    pub addresses: Vec<SocketAddr>,
    /// Left out when empty.
    pub referer: String,
    /// Our own when empty.
    pub user_agent: String,
    /// The nodes that this relay comes through.
    pub route: String,
}

/// Why there is no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFile {
    #[error("{0}")]
    Unreachable(String),
    #[error("the far end answers {0}")]
    Refused(u16),
    /// It is elsewhere, says the far end. Where to is for others to judge.
    #[error("the far end sends us elsewhere")]
    Moved(String),
    #[error("it cannot be asked for over HTTP")]
    Unspeakable,
}

impl FlvRequest {
    /// Asks, and returns once the head of a good answer has come: the file as it comes. It is read no faster than it is taken.
    ///
    /// `connect` is for the connection; how long the answer may take is for the caller to say.
    pub async fn open(
        &self,
        tls: rustls::ClientConfig,
        connect: Duration,
    ) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, NoFile> {
        let (url, headers) = self.words().ok_or(NoFile::Unspeakable)?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(connect);
        if let Some(name) = url.domain() {
            client = client.resolve_to_addrs(name, &self.addresses);
        }
        let client = client.build().map_err(unreachable)?;
        let response = client.get(url).headers(headers).send().await.map_err(unreachable)?;
        Ok(judge(response)?.bytes_stream().map_err(|error| io::Error::other(describe(error))))
    }

    /// None: there are characters in it that no request can hold, or no address is left to go to.
    fn words(&self) -> Option<(Url, HeaderMap)> {
        let Target { scheme, app, name, args, .. } = &self.target;
        // The name that is asked for is also the one that a certificate must hold; where it leads is known already.
        let host = match &self.target.domain {
            Some(domain) if domain.contains(':') => format!("[{domain}]"),
            Some(domain) => domain.clone(),
            None => self.target.authority(),
        };
        let mut url = Url::parse(&format!("{}://{host}/", scheme.name())).ok()?;
        let first = self.addresses.first()?;
        if url.domain().is_none() {
            // A number instead of a name would be connected to as it is.
            url.set_ip_host(first.ip()).ok()?;
        }
        url.set_port(Some(self.target.port)).ok()?;
        url.set_path(&format!("/{app}/{name}"));
        url.set_query(Some(args.as_str()).filter(|args| !args.is_empty()));
        let user_agent = if self.user_agent.is_empty() { OUR_NAME } else { &self.user_agent };
        let said = [
            (HOST, host.as_str()),
            (REFERER, &self.referer),
            (USER_AGENT, user_agent),
            (HeaderName::from_static(ROUTE_HEADER), &self.route),
        ];
        let said = said.into_iter().filter(|(_, text)| !text.is_empty());
        let headers =
            said.map(|(name, text)| Some((name, HeaderValue::from_str(text).ok()?))).collect::<Option<_>>()?;
        Some((url, headers))
    }
}

impl NoFile {
    /// What players here are told, as X and P tell them. None: nothing; it is tried again.
    pub fn play_status(&self) -> Option<&'static str> {
        match self {
            Self::Refused(400) => Some("NetStream.Play.BadName"),
            Self::Refused(403) => Some("NetStream.Play.Forbidden"),
            Self::Refused(404) => Some("NetStream.Play.StreamNotFound"),
            Self::Refused(503) => Some("NetStream.Play.ServiceUnavailable"),
            _ => None,
        }
    }

    /// Asking again soon would change nothing.
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Refused(400 | 401 | 403 | 405 | 407 | 410 | 451 | 508) | Self::Unspeakable)
    }
}

fn judge(response: Response) -> Result<Response, NoFile> {
    let status = response.status();
    if status.is_redirection() {
        let said = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let target = said.and_then(|location| response.url().join(location).ok());
        return Err(target.map_or(NoFile::Refused(status.as_u16()), |target| NoFile::Moved(target.into())));
    }
    if status.is_success() { Ok(response) } else { Err(NoFile::Refused(status.as_u16())) }
}

fn unreachable(error: reqwest::Error) -> NoFile {
    NoFile::Unreachable(describe(error))
}

/// The innermost reason, without the URL: that may hold a secret.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

const OUR_NAME: &str = concat!("livemill/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn request(target: &str, domain: Option<&str>, address: &str) -> FlvRequest {
        FlvRequest {
            target: Target::parse(target).expect("a target").for_domain(domain),
            addresses: vec![address.parse().expect("an address")],
            referer: String::new(),
            user_agent: String::new(),
            route: "0123456789abcdef".to_owned(),
        }
    }

    #[test]
    fn a_request_says_the_virtual_host_and_goes_where_it_may() {
        let far = "192.0.2.1:8080";
        for (target, domain, url, host) in [
            ("http://h:8080/live/a", None, "http://h:8080/live/a", "h:8080"),
            ("http://h/live/a?k=v&x", None, "http://h/live/a?k=v&x", "h"),
            ("https://h/live/a/b.flv", None, "https://h/live/a/b.flv", "h"),
            ("http://h:8080/live/a", Some("v.example"), "http://v.example:8080/live/a", "v.example"),
            // The number is said, and not gone to.
            ("http://h:8080/live/a", Some("127.0.0.1"), "http://192.0.2.1:8080/live/a", "127.0.0.1"),
            ("http://h:8080/live/a", Some("2130706433"), "http://192.0.2.1:8080/live/a", "2130706433"),
            ("http://2130706433:8080/live/a", None, "http://192.0.2.1:8080/live/a", "2130706433:8080"),
            ("http://[::1]:8080/live/a", None, "http://192.0.2.1:8080/live/a", "[::1]:8080"),
            ("http://h/live/../../%2e%2e/a\u{e9}", None, "http://h/a%C3%A9", "h"),
        ] {
            let (made, headers) = request(target, domain, far).words().expect(target);
            assert_eq!(made.as_str(), url, "{target} {domain:?}");
            assert_eq!(headers[HOST], host, "{target}");
            assert_eq!(
                (&headers["x-livemill-route"], headers.get(REFERER)),
                (&"0123456789abcdef".parse().unwrap(), None)
            );
        }
        let mut said = request("http://h/live/a", None, far);
        (said.referer, said.user_agent) = ("http://page/".to_owned(), "X".to_owned());
        let (_, headers) = said.words().expect("it can be said");
        assert_eq!(
            (&headers[REFERER], &headers[USER_AGENT]),
            (&"http://page/".parse().unwrap(), &"X".parse().unwrap())
        );
        said.user_agent = "X\r\nHost: y".to_owned();
        assert!(said.words().is_none());
    }

    #[test]
    fn the_far_end_s_refusal_becomes_ours() {
        for (status, said, is_for_good) in [
            (400, Some("NetStream.Play.BadName"), true),
            (403, Some("NetStream.Play.Forbidden"), true),
            (404, Some("NetStream.Play.StreamNotFound"), false),
            (503, Some("NetStream.Play.ServiceUnavailable"), false),
            (508, None, true),
            (500, None, false),
        ] {
            let refused = NoFile::Refused(status);
            assert_eq!((refused.play_status(), refused.is_for_good()), (said, is_for_good), "{status}");
        }
    }

    /// Asks a server that gives this answer; what it was asked, and what became of it.
    async fn ask(answer: &'static str, target: &str) -> (String, Result<Vec<u8>, NoFile>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a request");
            let mut asked = vec![0; 4096];
            let read = socket.read(&mut asked).await.expect("a request");
            socket.write_all(answer.as_bytes()).await.expect("it listens");
            String::from_utf8(asked[..read].to_vec()).expect("a request is text")
        });
        let target = target.replace('@', &address.port().to_string());
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let file = match request(&target, None, &address.to_string()).open(tls, Duration::from_secs(5)).await {
            Ok(pieces) => Ok(pieces.map_ok(|piece| piece.to_vec()).try_concat().await.expect("a whole answer")),
            Err(error) => Err(error),
        };
        (server.await.expect("it does not fail"), file)
    }

    #[tokio::test]
    async fn what_comes_in_chunks_is_the_file_and_the_name_is_never_looked_up() {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nFLV\r\n2\r\n\x01\x05\r\n0\r\n\r\n";
        let (asked, file) = ask(answer, "http://nowhere.invalid:@/live/a?k=v").await;
        assert!(asked.starts_with("GET /live/a?k=v HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_ascii_lowercase().contains("\r\nhost: nowhere.invalid:"), "{asked}");
        assert_eq!(file, Ok(b"FLV\x01\x05".to_vec()));
    }

    #[tokio::test]
    async fn a_redirection_is_an_answer_and_is_not_followed() {
        let moved = |location: &'static str| ask(location, "http://nowhere.invalid:@/live/a");
        let (_, file) = moved("HTTP/1.1 302 Found\r\nLocation: http://else/live/b\r\n\r\n").await;
        assert_eq!(file, Err(NoFile::Moved("http://else/live/b".to_owned())));
        let (asked, file) = moved("HTTP/1.1 301 Moved\r\nLocation: /b\r\n\r\n").await;
        let host = asked.split("\r\n").find_map(|line| line.strip_prefix("host: ")).expect("a host");
        assert_eq!(file, Err(NoFile::Moved(format!("http://{host}/b"))));
        let (_, file) = moved("HTTP/1.1 302 Found\r\n\r\n").await;
        assert_eq!(file, Err(NoFile::Refused(302)));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_without_the_secret_in_the_url() {
        for answer in ["", "garbage\r\n\r\n"] {
            let (_, file) = ask(answer, "http://nowhere.invalid:@/live/a?secret").await;
            let Err(NoFile::Unreachable(why)) = file else { panic!("{file:?}") };
            assert!(!why.contains("secret") && !why.is_empty(), "{why}");
        }
    }
}
