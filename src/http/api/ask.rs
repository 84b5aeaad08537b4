//! One request, taken apart: arguments of the path and of the query, and the body.

use std::{net::IpAddr, rc::Rc, str::FromStr, time::Duration};

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{Api, problem::Problem};
use crate::{
    actors::control::{Author, BanBy, BanOrder},
    config::values,
};

/// What a route is asked.
pub struct Ask {
    pub api: Rc<Api>,
    /// The parts of the path in braces, in their order, decoded.
    pub path: Vec<String>,
    pub query: Query,
    pub body: Bytes,
    /// None: the control socket.
    pub peer: Option<IpAddr>,
}

impl Ask {
    /// Who asks, for the log.
    pub fn author(&self) -> Author {
        Author {
            from: self.peer.map_or_else(|| "unix:".to_owned(), |peer| peer.to_canonical().to_string()),
            via: "api",
        }
    }

    /// A part of the path.
    pub fn part(&self, index: usize) -> &str {
        self.path.get(index).map(String::as_str).unwrap_or_default()
    }

    /// A part of the path that is a number, as JSON has them.
    pub fn id(&self) -> Result<u64, Problem> {
        let text = self.part(0);
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let id = text.parse().ok().filter(|id| is_number && *id <= i64::MAX as u64);
        id.ok_or_else(|| Problem::bad("an id is a number from 0 to 2^63 - 1"))
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_slice(&self.body).map_err(|error| Problem::bad(format!("the body: {error}")))
    }
}

/// The arguments behind `?`. What nobody has asked for at the end was not meant for this path.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut arguments: Vec<(String, String)> = Vec::new();
        for argument in text.split('&').filter(|argument| !argument.is_empty()) {
            let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if arguments.iter().any(|(known, _)| *known == name) {
                return Err(Problem::bad("an argument is written twice"));
            }
            if arguments.len() == MAX_ARGUMENTS {
                return Err(Problem::bad("too many arguments"));
            }
            arguments.push((name, value));
        }
        Ok(Self(arguments))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn take_as<T: FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Problem::bad(format!("\"{name}\" is to be {what}")))
    }

    /// One of these words.
    pub fn take_one<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let known = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        let expected = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        known.map(Some).ok_or_else(|| Problem::bad(format!("\"{name}\" is to be one of {}", expected())))
    }

    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        self.take_one(name, &[("true", true), ("false", false)])
    }

    /// `ban=60s&ban_by=both`.
    pub fn take_ban(&mut self) -> Result<Option<BanOrder>, Problem> {
        let words = [("both", BanBy::Both), ("address", BanBy::Address), ("name", BanBy::Name)];
        let by = self.take_one("ban_by", &words)?;
        match self.take("ban") {
            Some(text) => Ok(Some(BanOrder { lasts: ban_time("ban", &text)?, by: by.unwrap_or(BanBy::Both) })),
            None if by.is_some() => Err(Problem::bad("\"ban_by\" says nothing without \"ban\"")),
            None => Ok(None),
        }
    }

    pub fn take_reason(&mut self) -> Result<String, Problem> {
        let reason = self.take("reason").unwrap_or_default();
        check_reason(&reason)?;
        Ok(reason)
    }

    /// Nothing else may be left.
    pub fn finish(&self) -> Result<(), Problem> {
        match self.0.is_empty() {
            true => Ok(()),
            // Its name is not repeated: somebody may have put a token there.
            false => Err(Problem::bad("there is an argument that this path does not know")),
        }
    }
}

/// A reason goes to a log and to a client: one short line.
pub fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(Problem::bad(format!("\"reason\" is to be one line of up to {MAX_REASON} characters")));
    }
    Ok(())
}

/// How long a ban lasts.
pub fn ban_time(name: &str, text: &str) -> Result<Duration, Problem> {
    let time = values::time(text).filter(|time| !time.is_zero() && *time <= LONGEST_BAN);
    time.ok_or_else(|| Problem::bad(format!("\"{name}\" is to be a time as \"60s\" or \"5m\", up to ten years")))
}

/// A part of a path, decoded.
pub fn decode_part(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
}

fn decode(text: &str) -> Result<String, Problem> {
    let text = text.replace('+', " ");
    decode_part(&text).ok_or_else(|| Problem::bad("an argument is no UTF-8"))
}

/// Reads a JSON body, as far as it is one and not too much of one.
pub async fn read_body(request: &HttpRequest, mut payload: web::Payload) -> Result<Bytes, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    // A form that a page of another site sends has one of the types that a browser sends without asking first.
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is to be application/json"));
    }
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is to have {MAX_BODY} bytes at the most"));
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    let read = async {
        while let Some(piece) = payload.next().await {
            let piece = piece.map_err(|_| Problem::bad("the body broke off"))?;
            if body.len() + piece.len() > MAX_BODY {
                return Err(too_large());
            }
            body.extend_from_slice(&piece);
        }
        Ok(())
    };
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body took too long");
    timeout(BODY_PATIENCE, read).await.map_err(late)??;
    Ok(body.freeze())
}

/// More than any path knows.
const MAX_ARGUMENTS: usize = 32;

/// Fits into a status of RTMP.
const MAX_REASON: usize = 200;

const LONGEST_BAN: Duration = Duration::from_secs(3650 * 86_400);

/// What is written here has a few names in it.
const MAX_BODY: usize = 64 << 10;

/// For the whole body.
const BODY_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_taken_once_and_nothing_is_left_over() {
        let mut query = Query::parse("app=live&name=a%2Fb+c&limit=5").expect("good");
        assert_eq!(query.take("name").as_deref(), Some("a/b c"));
        assert_eq!(query.take_as("limit", "a number"), Ok(Some(5)));
        assert!(query.finish().is_err(), "app was not asked for");
        assert_eq!(query.take("app").as_deref(), Some("live"));
        assert_eq!((query.take("app"), query.finish()), (None, Ok(())));
    }

    #[test]
    fn odd_queries_are_refused_and_not_repeated() {
        for bad in ["a=1&a=2", "a=1&%61=2", "a=%ff", "x&y"] {
            let problem = Query::parse(bad).and_then(|query| query.finish()).expect_err(bad);
            assert_eq!(problem.status, StatusCode::BAD_REQUEST);
            assert!(!problem.detail.contains('='), "{problem:?}");
        }
        let many: String = (0..99).map(|number| format!("a{number}=&")).collect();
        assert!(Query::parse(&many).is_err());
    }

    #[test]
    fn a_ban_is_a_time_as_nginx_writes_it() {
        let ban = |text: &str| Query::parse(text).expect("good").take_ban();
        let order = |seconds, by| Ok(Some(BanOrder { lasts: Duration::from_secs(seconds), by }));
        assert_eq!(ban(""), Ok(None));
        assert_eq!(ban("ban=60s"), order(60, BanBy::Both));
        assert_eq!(ban("ban=5m&ban_by=address"), order(300, BanBy::Address));
        assert_eq!(ban("ban=7&ban_by=name"), order(7, BanBy::Name));
        for bad in
            ["ban=", "ban=0", "ban=-1", "ban=x", "ban=99999999999999999999", "ban=11y", "ban_by=both", "ban=1&ban_by=x"]
        {
            assert!(ban(bad).is_err(), "{bad}");
        }
    }
}
