//! A scheduler of the test's own: answers as it is told, and can be told otherwise.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hook_server::{HookServer, answer, answer_with};
use super::wait;

pub struct Scheduler {
    server: HookServer,
    script: Script,
}

/// What is answered to a question, which is given with its query.
type Script = Arc<Mutex<Box<dyn Fn(&str) -> Reply + Send>>>;

/// One answer.
#[derive(Clone, Debug)]
pub enum Reply {
    Status(u16),
    /// 302 to this URL, with these header lines behind it.
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

    /// Says it; whoever asked may have left.
    fn give(&self, socket: &mut TcpStream) {
        let status = |status: u16| answer(&format!("{status} X"));
        let text = match self {
            Self::Status(code) => status(*code),
            Self::MovedTo(url, more) => answer_with("302 Found", &format!("Location: {url}\r\n{more}")),
            Self::MovedNowhere => status(302),
            Self::Raw(bytes) => return drop(socket.write_all(bytes)),
            Self::Late(time, code) => {
                // Nothing to wait for: the time itself is the point.
                wait::within(*time, || None::<()>);
                status(*code)
            }
            Self::Never => return drop(socket.read(&mut [0])),
        };
        let _ = socket.write_all(text.as_bytes());
    }
}

impl Scheduler {
    pub fn start(script: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let script: Script = Arc::new(Mutex::new(Box::new(script)));
        let answers = Arc::clone(&script);
        let server = HookServer::start_raw(move |request, socket| {
            let reply = (answers.lock().expect("no script panics"))(&request.target);
            reply.give(socket);
            false
        });
        Self { server, script }
    }

    /// From now on it answers otherwise.
    pub fn answer(&self, script: impl Fn(&str) -> Reply + Send + 'static) {
        *self.script.lock().expect("no script panics") = Box::new(script);
    }

    pub fn url(&self) -> String {
        self.server.url("/oclp")
    }

    /// The questions so far that hold all of `words`.
    pub fn asked(&self, words: &[&str]) -> Vec<String> {
        let asked = self.server.requests().into_iter().map(|request| request.target);
        asked.filter(|question| words.iter().all(|word| question.contains(word))).collect()
    }

    /// Waits until so many questions held all of `words`; the last of them.
    #[track_caller]
    pub fn wait_for(&self, words: &[&str], count: usize) -> String {
        let found = wait::within(PATIENCE, || self.asked(words).get(count - 1).cloned());
        found.unwrap_or_else(|| panic!("not asked {count} times for {words:?}: {:#?}", self.asked(&[])))
    }
}

/// On a busy machine; what is meant to come comes in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
