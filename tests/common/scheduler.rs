//! A scheduler of the test's own: an HTTP server that answers as it is told, and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait;

pub struct Scheduler {
    port: u16,
    script: Script,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What is answered to a question, which is given with its query.
type Script = Arc<Mutex<Box<dyn Fn(&str) -> Reply + Send>>>;

/// One answer.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    /// 302 to this URL, with these headers behind it.
    MovedTo(String, &'static str),
    /// 302 without a word of where to.
    MovedNowhere,
    /// Whatever this is, in place of an answer.
    Raw(&'static [u8]),
    /// This status, after this time.
    Late(Duration, u16),
    /// The connection is held and nothing is said.
    Never,
}

impl Reply {
    pub fn moved_to(url: impl Into<String>) -> Self {
        Self::MovedTo(url.into(), "")
    }
}

impl Scheduler {
    pub fn start(script: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let script: Script = Arc::new(Mutex::new(Box::new(script)));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, notes) = (Arc::clone(&script), Arc::clone(&asked));
        // It ends with the process: a listener cannot be told to stop waiting.
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (answers, notes) = (Arc::clone(&answers), Arc::clone(&notes));
                std::thread::spawn(move || serve(socket, &answers, &notes));
            }
        });
        Self { port, script, asked }
    }

    /// From now on it answers otherwise.
    pub fn answer(&self, script: impl Fn(&str) -> Reply + Send + 'static) {
        *self.script.lock().expect("no script panics") = Box::new(script);
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/oclp", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The questions so far that hold all of `words`.
    pub fn asked(&self, words: &[&str]) -> Vec<String> {
        let asked = self.asked.lock().expect("no other thread panics");
        asked.iter().filter(|question| words.iter().all(|word| question.contains(word))).cloned().collect()
    }

    /// Waits until so many questions held all of `words`; the last of them.
    #[track_caller]
    pub fn wait_for(&self, words: &[&str], count: usize) -> String {
        let found = wait::within(PATIENCE, || self.asked(words).get(count - 1).cloned());
        found.unwrap_or_else(|| panic!("not asked {count} times for {words:?}: {:#?}", self.asked(&[])))
    }
}

fn serve(mut socket: TcpStream, script: &Script, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(socket.try_clone().expect("a descriptor more")).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let question = first.split(' ').nth(1).unwrap_or_default().to_owned();
        // Its headers; a scheduler is asked by GET.
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        asked.lock().expect("no other thread panics").push(question.clone());
        let reply = (script.lock().expect("no script panics"))(&question);
        let head = |status: u16, more: &str| format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{more}\r\n");
        let sent = match reply {
            Reply::Status(status) => socket.write_all(head(status, "").as_bytes()),
            Reply::MovedTo(url, more) => socket.write_all(head(302, &format!("Location: {url}\r\n{more}")).as_bytes()),
            Reply::MovedNowhere => socket.write_all(head(302, "").as_bytes()),
            Reply::Raw(bytes) => {
                let _ = socket.write_all(bytes);
                return;
            }
            Reply::Late(time, status) => {
                // Nothing to wait for: the time itself is the point.
                wait::within(time, || None::<()>);
                socket.write_all(head(status, "").as_bytes())
            }
            Reply::Never => {
                let _ = socket.read(&mut [0]);
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// On a busy machine; what is meant to come comes in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
