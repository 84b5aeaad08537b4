//! One request in raw bytes, and its whole answer: for what no well-behaved client would send.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::http::connect;

/// A whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 0: the connection ended without an answer.
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// Chunks joined.
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request of these lines with `Connection: close`, and reads its answer.
pub fn ask(port: u16, method: &str, target: &str, headers: &[(&str, &str)]) -> Reply {
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: localhost\r\n");
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("Connection: close\r\n\r\n");
    let bytes = raw(port, head.as_bytes());
    replies(&bytes, &[method]).into_iter().next().unwrap_or_default()
}

/// Sends bytes, and gives everything that comes until the server closes.
pub fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut socket = connect(port);
    // A server that closes early may do so while we still write.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server keeps the connection; it said {:?}", String::from_utf8_lossy(&answer))
            }
            Err(_) => return answer,
        }
    }
}

/// Sends bytes, then waits until the server closes; how long that took.
pub fn until_closed(port: u16, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    raw(port, bytes);
    began.elapsed()
}

/// Answers that follow each other on one connection, to requests with these methods.
pub fn replies(bytes: &[u8], methods: &[&str]) -> Vec<Reply> {
    let mut rest = bytes;
    let mut replies = Vec::new();
    while let Some((reply, after)) = reply(rest, methods.get(replies.len()).copied().unwrap_or("GET")) {
        replies.push(reply);
        rest = after;
    }
    replies
}

fn reply<'a>(bytes: &'a [u8], method: &str) -> Option<(Reply, &'a [u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut rest = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if method == "HEAD" || status == 304 || status == 204 || status < 200 {
    } else if header("transfer-encoding") == Some("chunked") {
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            let chunk = rest.get(line + 2..line + 2 + size)?;
            body.extend_from_slice(chunk);
            rest = rest.get(line + 2 + size + 2..)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length").and_then(|length| length.parse::<usize>().ok()) {
        body.extend_from_slice(rest.get(..length)?);
        rest = &rest[length..];
    } else {
        body.extend_from_slice(rest);
        rest = &[];
    }
    Some((Reply { status, headers, body }, rest))
}
