//! One request to the API at a time, over its socket or over TCP, with a deadline.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

use crate::protocol::http_answer::{AnswerError, AnswerReader, Piece};

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Socket(PathBuf),
    /// HOST:PORT.
    Tcp(String),
}

/// A request without what is the same in all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    /// With its query.
    pub path: String,
    /// JSON.
    pub body: Option<String>,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Request {
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: None }
    }

    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", path: path.into(), body: None }
    }

    /// What is sent is one of the API's own types, which are always JSON.
    pub fn post(path: impl Into<String>, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string(body).unwrap_or_default();
        Self { method: "POST", path: path.into(), body: Some(body) }
    }
}

impl Place {
    /// `--url http://HOST:PORT`.
    pub fn of_url(url: &str) -> Result<Self, AskError> {
        let host = url.strip_prefix("http://").ok_or(AskError::Url)?;
        let host = host.strip_suffix('/').unwrap_or(host);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        if host.is_empty() || !host.chars().all(is_plain) {
            return Err(AskError::Url);
        }
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        Ok(Self::Tcp(if has_port { host.to_owned() } else { format!("{host}:80") }))
    }

    /// `token` is asked for once somebody is there: that nobody is, is worth more to know than that there is no token.
    pub fn ask(
        &self,
        request: &Request,
        token: &Result<String, AskError>,
        patience: Duration,
    ) -> Result<Answer, AskError> {
        let deadline = Instant::now() + patience;
        match self {
            Self::Socket(path) => {
                let stream = connect_socket(path, patience)?;
                let request = self.write(request, token)?;
                exchange(&stream, &request, deadline, |left| stream.set_read_timeout(Some(left)))
            }
            Self::Tcp(host) => {
                let stream = self.connect_tcp(host, patience)?;
                let request = self.write(request, token)?;
                exchange(&stream, &request, deadline, |left| stream.set_read_timeout(Some(left)))
            }
        }
    }

    fn connect_tcp(&self, host: &str, patience: Duration) -> Result<TcpStream, AskError> {
        let nobody = |source| AskError::nobody(host.to_owned(), source);
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in host.to_socket_addrs().map_err(nobody)? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => {
                    stream.set_write_timeout(Some(patience))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(nobody(last))
    }

    fn write(&self, request: &Request, token: &Result<String, AskError>) -> Result<String, AskError> {
        let token = token.as_ref().map_err(Clone::clone)?;
        let host = match self {
            Self::Socket(_) => "localhost",
            Self::Tcp(host) => host,
        };
        let Request { method, path, body } = request;
        let mut text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: livemill-ctl/{}\r\nAccept: */*\r\n\
             Authorization: Bearer {token}\r\nConnection: close\r\n",
            env!("CARGO_PKG_VERSION")
        );
        if let Some(body) = body {
            text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body.as_deref().unwrap_or_default());
        Ok(text)
    }
}

fn connect_socket(path: &Path, patience: Duration) -> Result<UnixStream, AskError> {
    let connect = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Where the server takes nobody in at the moment, connecting waits as long as writing would.
        socket.set_write_timeout(Some(patience))?;
        socket.connect(&SockAddr::unix(path)?)?;
        Ok(UnixStream::from(socket))
    };
    connect().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => AskError::NoSocket { path: path.to_owned() },
        io::ErrorKind::WouldBlock => AskError::Late,
        _ => AskError::nobody(path.display().to_string(), source),
    })
}

fn exchange<S>(
    mut stream: S,
    request: &str,
    deadline: Instant,
    wait_at_most: impl Fn(Duration) -> io::Result<()>,
) -> Result<Answer, AskError>
where
    S: Read + Write,
{
    stream.write_all(request.as_bytes())?;
    let (mut reader, mut buffer) = (AnswerReader::default(), vec![0; READ_BUFFER]);
    let mut answer = Answer { status: 0, body: Vec::new() };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AskError::Late);
        }
        wait_at_most(left)?;
        let count = match stream.read(&mut buffer) {
            Ok(0) if reader.may_end() => return Ok(answer),
            Ok(0) => return Err(AskError::Short),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let mut input = buffer.get(..count).unwrap_or_default();
        while let Some(piece) = reader.read(&mut input)? {
            match piece {
                Piece::Head(head) => answer.status = head.status,
                Piece::Body(part) if answer.body.len() + part.len() > LONGEST_ANSWER => return Err(AskError::Long),
                Piece::Body(part) => answer.body.extend_from_slice(part),
                Piece::End => return Ok(answer),
            }
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// It is not repeated: it may be another address, with a key.
    #[error("--url: http://HOST:PORT is meant")]
    Url,
    #[error(
        "no server is there: there is no socket \"{}\" (-c FILE, --socket PATH or --url http://HOST:PORT say where it is)",
        path.display()
    )]
    NoSocket { path: PathBuf },
    #[error("no server is at {place}: {why}")]
    Nobody { place: String, why: String },
    #[error("{0}")]
    Token(String),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the server closed the connection before its answer was whole")]
    Short,
    #[error("the answer is longer than {} MiB", LONGEST_ANSWER >> 20)]
    Long,
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("{0}")]
    Io(String),
}

impl AskError {
    fn nobody(place: String, source: io::Error) -> Self {
        Self::Nobody { place, why: crate::log::queue::describe(&source) }
    }
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Io(crate::log::queue::describe(&error)),
        }
    }
}

/// From connecting to the end of the answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A thousand clients are a megabyte.
const LONGEST_ANSWER: usize = 64 << 20;
const READ_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// Answers one request; a body ends with its first closing brace.
    fn serve<S: Read + Write>(mut stream: S, answer: &str) -> Vec<u8> {
        let mut request = Vec::new();
        let is_whole = |request: &[u8]| match request.starts_with(b"POST") {
            true => request.ends_with(b"}"),
            false => request.ends_with(b"\r\n\r\n"),
        };
        while !is_whole(&request) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        // Who has heard enough may have gone.
        let _ = stream.write_all(answer.as_bytes());
        request
    }

    fn tcp(answer: &str) -> (Place, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::of_url(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let answer = answer.to_owned();
        (place, thread::spawn(move || serve(listener.accept().unwrap().0, &answer)))
    }

    fn token() -> Result<String, AskError> {
        Ok("s3cret".to_owned())
    }

    fn get(answer: &str) -> Result<Answer, AskError> {
        tcp(answer).0.ask(&Request::get("/api/v1/server"), &token(), PATIENCE)
    }

    #[test]
    fn an_answer_is_read_whole_with_a_length_in_chunks_and_to_the_end() {
        let body = |answer| get(answer).map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"), Ok((200, "ab".to_owned())));
        let chunked = "HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
        assert_eq!(body(chunked), Ok((401, "ab".to_owned())));
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nab"), Ok((200, "ab".to_owned())));
        assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Err(AskError::Short));
        assert_eq!(body("RTMP"), Err(AskError::Answer(AnswerError::NotHttp)));
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(LONGEST_ANSWER + 1));
        assert_eq!(get(&long), Err(AskError::Long));
    }

    #[test]
    fn the_token_and_a_body_are_sent_over_a_socket_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let asked = thread::spawn(move || serve(listener.accept().unwrap().0, answer));
        let request = Request::post("/api/v1/x", &serde_json::json!({"to": "y"}));
        let answer = Place::Socket(path).ask(&request, &token(), PATIENCE).unwrap();
        assert_eq!(answer, Answer { status: 200, body: Vec::new() });
        let asked = String::from_utf8(asked.join().unwrap()).unwrap();
        assert!(asked.starts_with("POST /api/v1/x HTTP/1.1\r\nHost: localhost\r\n"), "{asked}");
        assert!(asked.contains("\r\nAuthorization: Bearer s3cret\r\n"), "{asked}");
        assert!(asked.ends_with("\r\nContent-Length: 10\r\n\r\n{\"to\":\"y\"}"), "{asked}");
    }

    #[test]
    fn that_nobody_is_there_comes_before_a_token_that_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Err(AskError::Token("there is no token".to_owned()));
        let ask = |place: Place| place.ask(&Request::get("/"), &missing, PATIENCE).unwrap_err();
        let path = folder.path().join("control.sock");
        assert_eq!(ask(Place::Socket(path.clone())), AskError::NoSocket { path: path.clone() });
        drop(UnixListener::bind(&path).unwrap());
        let refused = ask(Place::Socket(path.clone())).to_string();
        assert!(refused.starts_with("no server is at ") && refused.contains("refused"), "{refused}");
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let refused = ask(Place::Tcp(free.to_string())).to_string();
        assert!(refused.starts_with(&format!("no server is at {free}: ")), "{refused}");
        let _listener = TcpListener::bind(free).unwrap();
        assert_eq!(ask(Place::Tcp(free.to_string())).to_string(), "there is no token");
    }

    #[test]
    fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place::Tcp(listener.local_addr().unwrap().to_string());
        let late = place.ask(&Request::get("/"), &token(), Duration::from_millis(50));
        assert_eq!(late, Err(AskError::Late));
    }

    #[test]
    fn addresses_are_plain_http_and_nothing_else() {
        let place = |url| Place::of_url(url).ok();
        assert_eq!(place("http://127.0.0.1:9935"), Some(Place::Tcp("127.0.0.1:9935".to_owned())));
        assert_eq!(place("http://[::1]/"), Some(Place::Tcp("[::1]:80".to_owned())));
        for wrong in ["https://h:1", "h:1", "http://", "http://h:1/api", "http://h\r\nX: y"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
