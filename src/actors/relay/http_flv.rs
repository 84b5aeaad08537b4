//! A far end that answers HTTP: a pull asks there for FLV.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::far_end::{Errand, FarEnd, Said};
use crate::{
    actors::{
        live_stream::{Incoming, Medium},
        support::{relay_plan::Leg, relay_status::Fate, route::ROUTE_HEADER},
    },
    protocol::{
        flv::reader::{FlvLimits, FlvReader, FlvTag, TagKind},
        http_answer::{AnswerReader, Head, Piece},
    },
};

pub(super) struct HttpFarEnd {
    request: Option<Bytes>,
    answer: AnswerReader,
    file: FlvReader,
    said: VecDeque<Said>,
}

impl HttpFarEnd {
    pub(super) fn new(errand: &Errand<'_>) -> Self {
        let limits = &errand.session.limits;
        let limits = FlvLimits { max_body: limits.max_message, max_data: limits.max_data, amf: limits.amf_data };
        Self {
            request: Some(request(errand.leg, errand.route).into()),
            answer: AnswerReader::default(),
            file: FlvReader::new(limits),
            said: VecDeque::new(),
        }
    }
}

impl FarEnd for HttpFarEnd {
    fn receive(&mut self, mut bytes: &[u8], _: Duration) -> Result<(), String> {
        while let Some(piece) = self.answer.read(&mut bytes).map_err(|error| error.to_string())? {
            match piece {
                Piece::Head(head) => self.said.push_back(judge(head)),
                Piece::Body(mut body) => {
                    while let Some(tag) = self.file.read(&mut body).map_err(|error| error.to_string())? {
                        self.said.push_back(Said::Media(incoming(tag)));
                    }
                }
                Piece::End => self.said.push_back(Said::Over(Fate::Retry, "its answer ended".to_owned())),
            }
            // What stands in the body of a refusal is for people.
            if matches!(self.said.back(), Some(Said::Over(..))) {
                break;
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<Said> {
        let said = self.said.pop_front();
        if said.is_none() && self.said.capacity() > KEPT {
            self.said = VecDeque::new();
        }
        said
    }

    fn take_output(&mut self) -> Option<Bytes> {
        self.request.take()
    }
}

fn judge(Head { status, location }: Head) -> Said {
    let fate = match (status, location) {
        (200..300, _) => return Said::Ready,
        (300..400, Some(location)) => Fate::Moved(location),
        // It does not know us, does not want us, or has been here before; 404 and 5xx may be over any moment.
        (400 | 401 | 403 | 405 | 410 | 451 | 508, _) => Fate::Refused,
        _ => Fate::Retry,
    };
    Said::Over(fate, format!("it answers {status}"))
}

fn incoming(FlvTag { kind, time, body }: FlvTag) -> Incoming {
    let medium = match kind {
        TagKind::Audio => Medium::Audio,
        TagKind::Video => Medium::Video,
        TagKind::Metadata => Medium::Metadata,
        TagKind::Text => Medium::Text,
    };
    Incoming { medium, time, body }
}

/// One request, after whose answer the connection ends.
fn request(leg: &Leg, route: &str) -> String {
    let host = leg.target.domain.clone().unwrap_or_else(|| leg.target.authority());
    let user_agent = if leg.user_agent.is_empty() { OUR_NAME } else { &leg.user_agent };
    let mut text = format!("GET {} HTTP/1.1\r\n", address(&leg.app, &leg.stream));
    let headers = [
        ("Host", host.as_str()),
        ("User-Agent", user_agent),
        ("Referer", &leg.referer),
        ("Accept", "*/*"),
        (ROUTE_HEADER, route),
        ("Connection", "close"),
    ];
    for (name, value) in headers {
        // A client may have had its say in these; it is not to begin a header of its own.
        if !value.is_empty() && !value.contains(char::is_control) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    text + "\r\n"
}

/// `/app/name?args`; both may come with a query, as they do in RTMP.
fn address(app: &str, stream: &str) -> String {
    let (app, app_args) = app.split_once('?').unwrap_or((app, ""));
    let (name, name_args) = stream.split_once('?').unwrap_or((stream, ""));
    let args: Vec<_> = [name_args, app_args].into_iter().filter(|args| !args.is_empty()).collect();
    let mark = if args.is_empty() { "" } else { "?" };
    let escaped = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    format!("/{}/{}{mark}{}", escaped(app), escaped(name), escaped(&args.join("&")))
}

/// What a URL cannot hold. A percent sign stays: who wrote it has escaped something already.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

const OUR_NAME: &str = concat!("livemill/", env!("CARGO_PKG_VERSION"));

/// Room for words that is kept between two reads.
const KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actors::support::{relay_plan::Direction, targets::Target},
        media::key::StreamKey,
        protocol::rtmp::server::SessionConfig,
    };

    fn leg(target: &str) -> Leg {
        let key = StreamKey::parse("", "live", "cam").expect("a name");
        Leg::to(Target::parse(target).expect("a target"), &key)
    }

    /// What a far end with this answer says, in words.
    fn hear(answer: &[u8]) -> Vec<String> {
        let leg = leg("http://h/live/cam");
        let session = SessionConfig::default();
        let errand =
            Errand { direction: Direction::Pull, leg: &leg, route: "", session: &session, buffer: Duration::ZERO };
        let mut far_end = HttpFarEnd::new(&errand);
        let failed = far_end.receive(answer, Duration::ZERO).err();
        let words = std::iter::from_fn(|| far_end.poll()).map(|said| match said {
            Said::Ready => "ready".to_owned(),
            Said::Media(Incoming { medium, time, body }) => format!("{medium:?} {time} {}", body.len()),
            Said::Over(fate, why) => format!("{fate:?}: {why}"),
        });
        words.chain(failed).collect()
    }

    #[test]
    fn a_request_says_who_is_meant_and_who_asks() {
        let whole = request(&leg("http://h:8080/live/cam?k=v"), "0123456789abcdef");
        assert!(whole.starts_with("GET /live/cam?k=v HTTP/1.1\r\nHost: h:8080\r\nUser-Agent: livemill/"), "{whole}");
        assert!(whole.ends_with("\r\nx-livemill-route: 0123456789abcdef\r\nConnection: close\r\n\r\n"), "{whole}");
        assert!(!whole.contains("Referer"));

        let mut said = leg("http://h/live/cam");
        said.target = said.target.for_domain(Some("v.example"));
        (said.referer, said.user_agent) = ("http://page/".to_owned(), "X\r\nEvil: yes".to_owned());
        let whole = request(&said, "");
        assert!(
            whole.contains("\r\nHost: v.example\r\n") && whole.contains("\r\nReferer: http://page/\r\n"),
            "{whole}"
        );
        assert!(!whole.contains("Evil") && !whole.contains("route"), "{whole}");
    }

    #[test]
    fn an_address_is_app_and_name_with_the_queries_of_both() {
        for (app, stream, expected) in [
            ("live", "cam", "/live/cam"),
            ("live", "a/b?x=1&y", "/live/a/b?x=1&y"),
            ("live?k=v", "cam?x", "/live/cam?x&k=v"),
            ("live", "%61 b\u{e9}#?<c d>", "/live/%61%20b%C3%A9%23?%3Cc%20d%3E"),
        ] {
            assert_eq!(address(app, stream), expected);
        }
    }

    #[test]
    fn an_answer_is_read_as_rtmp_would_have_brought_it() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let header = b"d\r\nFLV\x01\x05\0\0\0\x09\0\0\0\0\r\n";
        let sound = b"11\r\n\x08\0\0\x02\0\0\x05\x01\0\0\0\xaf\x01\0\0\0\x0d\r\n0\r\n\r\n";
        let words = hear(&[&head[..], header, sound].concat());
        assert_eq!(words, ["ready", "Audio 16777221 2", "Retry: its answer ended"]);
        assert_eq!(hear(b"HTTP/1.1 200 OK\r\n\r\n<html><body>"), ["ready", "not an FLV file"]);
        assert_eq!(hear(b"SSH-2.0-x\r\n"), ["this is no answer of an HTTP/1 server"]);
    }

    #[test]
    fn a_refusal_says_whether_it_may_mend_and_a_redirection_where_to() {
        for (status, said) in [
            ("403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n", "Refused: it answers 403"),
            ("508 Loop Detected\r\n\r\nrelay loop", "Refused: it answers 508"),
            ("404 Not Found\r\n\r\n", "Retry: it answers 404"),
            ("503 Service Unavailable\r\n\r\n", "Retry: it answers 503"),
            ("302 Found\r\nLocation: http://else/live/cam\r\n\r\n", "Moved(\"http://else/live/cam\"): it answers 302"),
            ("302 Found\r\n\r\n", "Retry: it answers 302"),
        ] {
            assert_eq!(hear(format!("HTTP/1.1 {status}").as_bytes()), [said]);
        }
    }
}
