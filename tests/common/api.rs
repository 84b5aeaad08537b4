//! A caller of livemill's API, over TCP and over its control socket; this harness's own code.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::server::TestServer;

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What a list holds.
    pub fn items(&self) -> Vec<Value> {
        self.json()["items"].as_array().unwrap_or_else(|| panic!("no list: {self:?}")).clone()
    }

    fn read(mut socket: impl Read) -> Self {
        let mut bytes = Vec::new();
        // A server that has refused a body may reset the connection behind its answer.
        let _ = socket.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("an answer is text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an answer has a head: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        Self { status, headers, text: body.to_owned() }
    }
}

/// One who knows the token of a server.
pub struct Caller {
    pub port: u16,
    pub token: String,
}

impl Caller {
    pub fn of(server: &TestServer) -> Self {
        Self { port: server.api_port(), token: server.token() }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("Content-Type", "application/json")], Some(&body.to_string()))
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
        let token = format!("Bearer {}", self.token);
        let host = format!("127.0.0.1:{}", self.port);
        let mut all = vec![("Host", host.as_str()), ("Authorization", token.as_str())];
        all.extend_from_slice(headers);
        ask(self.port, method, path, &all, body)
    }
}

/// Asks with these headers and no others.
pub fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> Answer {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the API listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a fresh socket takes options");
    socket.write_all(request(method, path, headers, body).as_bytes()).expect("the request goes out");
    Answer::read(socket)
}

/// The same over a control socket.
pub fn ask_socket(path_of_socket: &std::path::Path, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut socket = UnixStream::connect(path_of_socket).expect("the control socket listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a fresh socket takes options");
    socket.write_all(request("GET", path, headers, None).as_bytes()).expect("the request goes out");
    Answer::read(socket)
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&str>) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body.unwrap_or_default());
    text
}

/// On a busy machine; what is meant to come comes in milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
