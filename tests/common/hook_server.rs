//! An endpoint for hooks: writes down what it is asked, and answers as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wait;

/// Runs until it is dropped; then its port is closed.
pub struct HookServer {
    port: u16,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    is_over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub at: Instant,
}

impl Request {
    /// The arguments, from the query or the body, in their order and as they were sent.
    pub fn args(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let text = if self.method == "GET" { query } else { self.body.as_str() };
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        text.split('&').map(pair).collect()
    }

    /// The first argument of this name; empty where there is none.
    pub fn arg(&self, name: &str) -> String {
        self.args().into_iter().find(|(known, _)| known == name).map(|(_, value)| value).unwrap_or_default()
    }

    pub fn call(&self) -> String {
        self.arg("call")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl HookServer {
    /// Answers each request with what `answer` makes of it: a whole answer, in bytes. The connection is closed behind it.
    pub fn start(answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        Self::start_raw(move |request, stream| {
            let _ = stream.write_all(answer(request).as_bytes());
            false
        })
    }

    /// The same on a port that was chosen before.
    pub fn start_at(port: u16, answer: impl Fn(&Request) -> String + Send + Sync + 'static) -> Self {
        let listener = wait::until("the port is free", Duration::from_secs(5), || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
        });
        Self::serve(listener, move |request, stream| {
            let _ = stream.write_all(answer(request).as_bytes());
            false
        })
    }

    /// Does with each request whatever `act` does; `true` keeps the connection for the next one.
    pub fn start_raw(act: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        Self::serve(listener, act)
    }

    fn serve(listener: TcpListener, act: impl Fn(&Request, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let heard = Arc::new(Heard::default());
        let (shared, act) = (Arc::clone(&heard), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (heard, act) = (Arc::clone(&shared), Arc::clone(&act));
                if let Ok(copy) = stream.try_clone() {
                    heard.open.lock().expect("no writer panics").push(copy);
                }
                std::thread::spawn(move || converse(stream, &heard, &*act));
            }
        });
        Self { port, heard }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.heard.requests.lock().expect("no writer panics").clone()
    }

    /// The `call` of each request so far.
    pub fn calls(&self) -> Vec<String> {
        self.requests().iter().map(Request::call).collect()
    }

    pub fn connections(&self) -> usize {
        self.heard.connections.load(Ordering::Relaxed)
    }

    /// Waits for a request with this `call`, and gives it.
    #[track_caller]
    pub fn wait_for(&self, call: &str) -> Request {
        let found = wait::within(DEADLINE, || self.requests().into_iter().find(|request| request.call() == call));
        found.unwrap_or_else(|| panic!("no {call} within {DEADLINE:?}: {:?}", self.calls()))
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.heard.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        for stream in self.heard.open.lock().expect("no writer panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// An answer as most endpoints give it.
pub fn answer(status: &str) -> String {
    answer_with(status, "")
}

/// The same with these header lines, each with its end.
pub fn answer_with(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{headers}Connection: close\r\n\r\n")
}

fn converse(mut stream: TcpStream, heard: &Heard, act: &(dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync)) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut reading = BufReader::new(reading);
    while let Some(request) = read_request(&mut reading) {
        heard.requests.lock().expect("no writer panics").push(request.clone());
        if !act(&request, &mut stream) || heard.is_over.load(Ordering::Relaxed) {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(reading: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reading.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reading.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.and_then(|(_, length)| length.parse().ok()).unwrap_or(0)];
    reading.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Request { method, target, headers, body, at: Instant::now() })
}

/// For a call to come.
const DEADLINE: Duration = Duration::from_secs(10);
