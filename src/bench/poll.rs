//! Asks HTTP addresses again and again while the load runs: what statistics and lists cost those who look at them.
//!
//! Each address has a thread with a blocking socket of its own, so that the thread that measures media waits for none of them.
//! Every request makes a new connection: what accepting costs is part of what is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::BenchError;
use super::clock::now_ns;
use super::histogram::Histogram;
use crate::protocol::http_answer::{AnswerError, AnswerReader, Piece};

/// One address that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub url: String,
    address: SocketAddr,
    request: String,
}

/// How often all of them are asked.
#[derive(Clone, Debug, Default)]
pub struct Polling {
    pub places: Vec<Place>,
    /// From the beginning of one request to that of the next. Where an answer takes longer, the next follows at once.
    pub every: Duration,
}

/// What came of one address.
#[derive(Default)]
pub struct Polled {
    pub url: String,
    /// Of each whole answer with status 200: from before the connection to its last byte.
    pub answer_ns: Histogram,
    /// Of their bodies.
    pub bytes: u64,
    /// Anything else that came of a request.
    pub failures: u64,
    /// Why the first of them failed.
    pub complaint: Option<String>,
}

impl Place {
    /// `token`: what the server wants to see before it answers.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, BenchError> {
        let wrong = || BenchError::Poll(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        // What would end the request early is no address.
        let is_one_word = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
        if host.is_empty() || !is_one_word(rest) || !token.is_none_or(is_one_word) {
            return Err(wrong());
        }
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = with_port.to_socket_addrs()?.next().ok_or_else(|| BenchError::NoAddress(host.to_owned()))?;
        let slash = if path.starts_with('/') { "" } else { "/" };
        let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {slash}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: livemill-bench\r\nAccept: */*\r\n{bearer}Connection: close\r\n\r\n"
        );
        Ok(Self { url: url.to_owned(), address, request })
    }

    /// One request. Gives the size of the body of a whole answer.
    fn ask(&self, buffer: &mut [u8]) -> Result<u64, PollError> {
        let deadline_ns = now_ns() + PATIENCE.as_nanos() as u64;
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(self.request.as_bytes())?;
        let (mut reader, mut bytes) = (AnswerReader::default(), 0);
        loop {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
            if left.is_zero() {
                return Err(PollError::Late);
            }
            stream.set_read_timeout(Some(left))?;
            let count = match stream.read(buffer) {
                Ok(0) if reader.may_end() => return Ok(bytes),
                Ok(0) => return Err(PollError::Short),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(PollError::Late),
                Err(error) => return Err(error.into()),
            };
            let mut input = buffer.get(..count).unwrap_or_default();
            while let Some(piece) = reader.read(&mut input)? {
                match piece {
                    Piece::Head(head) if head.status != 200 => return Err(PollError::Status(head.status)),
                    Piece::Head(_) => {}
                    Piece::Body(part) => bytes += part.len() as u64,
                    Piece::End => return Ok(bytes),
                }
            }
        }
    }
}

/// The threads that ask.
pub struct Pollers {
    threads: Vec<JoinHandle<Polled>>,
    /// Gone: they are to come to an end.
    stop: Vec<Sender<()>>,
}

impl Pollers {
    pub fn start(polling: &Polling) -> Self {
        let count = polling.places.len() as u32;
        let (mut threads, mut stop) = (Vec::new(), Vec::new());
        for (index, place) in (0..).zip(&polling.places) {
            // Spread over the interval: several who look do not look in step.
            let begin = polling.every * index / count.max(1);
            let (sender, stopped) = channel();
            let (place, every) = (place.clone(), polling.every);
            threads.push(thread::spawn(move || poll(&place, every, begin, &stopped)));
            stop.push(sender);
        }
        Self { threads, stop }
    }

    /// Lets the answers come that are on their way, and gives what came of all.
    pub fn finish(self) -> Vec<Polled> {
        drop(self.stop);
        self.threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    }
}

fn poll(place: &Place, every: Duration, begin: Duration, stopped: &Receiver<()>) -> Polled {
    let mut polled = Polled { url: place.url.clone(), ..Polled::default() };
    let mut buffer = vec![0; READ_BUFFER];
    let mut next_ns = now_ns() + begin.as_nanos() as u64;
    loop {
        let wait = Duration::from_nanos(next_ns.saturating_sub(now_ns()));
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return polled;
        }
        let begun_ns = now_ns();
        next_ns = begun_ns.max(next_ns) + every.as_nanos() as u64;
        match place.ask(&mut buffer) {
            Ok(bytes) => {
                polled.answer_ns.record(now_ns() - begun_ns);
                polled.bytes += bytes;
            }
            Err(error) => {
                polled.failures += 1;
                polled.complaint.get_or_insert_with(|| error.to_string());
                // Who refuses at once is not to be asked in a loop.
                next_ns = next_ns.max(now_ns() + AFTER_FAILURE.as_nanos() as u64);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("the answer is not there within {} s", PATIENCE.as_secs())]
    Late,
    #[error("the connection ended before the answer did")]
    Short,
    #[error("status {0}")]
    Status(u16),
    #[error("{0}")]
    Answer(#[from] AnswerError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Longer is a failure, and not a slow answer.
const PATIENCE: Duration = Duration::from_secs(10);
const AFTER_FAILURE: Duration = Duration::from_millis(100);
const READ_BUFFER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection in turn, then listens no more. Gives what it was asked.
    fn server(answers: &[&'static str]) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/stat?a=b", listener.local_addr().unwrap());
        let answers = answers.to_vec();
        let asked = thread::spawn(move || {
            let answer = |answer: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            };
            answers.iter().map(answer).collect()
        });
        (url, asked)
    }

    fn ask(answer: &'static str) -> Result<u64, PollError> {
        Place::new(&server(&[answer]).0, None).unwrap().ask(&mut [0; 7])
    }

    #[test]
    fn only_a_whole_answer_with_200_counts() {
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789").unwrap(), 9);
        assert_eq!(ask("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").unwrap(), 3);
        assert_eq!(ask("HTTP/1.0 200 OK\r\n\r\nabcd").unwrap(), 4);
        assert!(matches!(ask("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n12345678"), Err(PollError::Short)));
        assert!(matches!(ask("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), Err(PollError::Status(401))));
        assert!(matches!(ask("RTMP"), Err(PollError::Answer(_))));
    }

    #[test]
    fn an_address_is_asked_with_its_token_until_it_is_enough() {
        const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let (url, asked) = server(&[GOOD, "HTTP/1.1 503 No\r\n\r\n", GOOD]);
        let places = vec![Place::new(&url, Some("s3cret")).unwrap()];
        let pollers = Pollers::start(&Polling { places, every: Duration::from_millis(1) });
        let asked = asked.join().unwrap();
        let [polled] = <[Polled; 1]>::try_from(pollers.finish()).ok().unwrap();
        assert_eq!((polled.answer_ns.count(), polled.bytes), (2, 4));
        assert!(polled.failures >= 1 && polled.complaint.as_deref() == Some("status 503"), "{:?}", polled.complaint);
        let good = |request: &String| {
            request.starts_with("GET /stat?a=b HTTP/1.1\r\nHost: 127.0.0.1:")
                && request.contains("\r\nAuthorization: Bearer s3cret\r\n")
        };
        assert!(asked.iter().all(good), "{asked:?}");
    }

    #[test]
    fn what_is_no_plain_http_address_is_refused() {
        for wrong in ["https://127.0.0.1/", "/stat", "http://", "http://127.0.0.1/a b", "http://127.0.0.1/\r\nX: y"] {
            assert!(matches!(Place::new(wrong, None), Err(BenchError::Poll(_))), "{wrong}");
        }
        assert!(Place::new("http://127.0.0.1/", Some("a\r\nX: y")).is_err());
        assert!(Place::new("http://127.0.0.1?a", None).unwrap().request.starts_with("GET /?a HTTP/1.1\r\n"));
    }
}
