//! One request on its way: what nginx's variables say about it.

use std::{fmt::Write, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest,
    http::{Method, Version, header},
    web,
};
use jiff::Zoned;
use tokio::time::Instant;

use super::uri::argument;
use crate::{
    config::{
        http::{HttpServer, Location, Root},
        template::{Part, Template},
    },
    http::{Site, wire::Caller},
};

/// A request, and how far it has come.
pub struct Visit {
    pub site: web::Data<Site>,
    pub request: HttpRequest,
    pub caller: Caller,
    pub server: Arc<HttpServer>,
    /// The host that is meant, in lower case and without its port.
    pub host: String,
    /// The address as it is now: error pages and index files change it.
    pub uri: String,
    pub args: String,
    pub location: Arc<Location>,
    /// `GET` for an error page, whatever was asked for.
    pub method: Method,
    /// What the location's pattern caught.
    pub captures: Vec<String>,
    pub started: Instant,
}

/// What is known when an answer is over, for the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sent {
    pub status: u16,
    pub body_bytes: u64,
    pub duration: Duration,
}

impl Visit {
    /// The text of a template for this request.
    pub fn text(&self, template: &Template) -> String {
        self.text_after(template, None)
    }

    /// The same when the answer is over.
    pub fn text_after(&self, template: &Template, sent: Option<&Sent>) -> String {
        if let Some(plain) = template.as_plain() {
            return plain.to_owned();
        }
        let mut out = String::new();
        for part in template.parts() {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Capture(at) => out.push_str(self.captures.get(*at).map_or("", String::as_str)),
                Part::Variable(name) => out.push_str(&self.variable(name, sent).unwrap_or_default()),
            }
        }
        out
    }

    /// The file or folder that an address means here.
    pub fn path_of(&self, uri: &str) -> String {
        match &self.location.settings.root {
            Root::Root(root) => format!("{}{uri}", self.text(root).trim_end_matches('/')),
            Root::Alias(path, Some(matched)) => {
                format!("{}{}", self.text(path), uri.get(*matched..).unwrap_or_default())
            }
            Root::Alias(path, None) => self.text(path),
        }
    }

    /// `$document_root`: what no file may lead out of.
    pub fn root(&self) -> String {
        let (Root::Root(path) | Root::Alias(path, _)) = &self.location.settings.root;
        self.text(path)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.request.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// A variable's value. None: it has none, which the log writes as `-`.
    pub fn variable(&self, name: &str, sent: Option<&Sent>) -> Option<String> {
        let head = self.request.head();
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let now = Zoned::now;
        Some(match name {
            "uri" | "document_uri" => self.uri.clone(),
            "request_uri" => self.target(),
            "args" | "query_string" => return some(&self.args),
            "is_args" => if self.args.is_empty() { "" } else { "?" }.to_owned(),
            "host" => self.host.clone(),
            "server_name" => self.server.name.clone(),
            "hostname" => nix::sys::utsname::uname().ok()?.nodename().to_str()?.to_owned(),
            "scheme" => self.scheme().to_owned(),
            "https" => return self.caller.is_tls.then(|| "on".to_owned()),
            "remote_addr" | "realip_remote_addr" | "proxy_add_x_forwarded_for" => match self.caller.peer {
                Some(peer) => peer.ip().to_canonical().to_string(),
                None => "unix:".to_owned(),
            },
            "remote_port" => self.caller.peer?.port().to_string(),
            "server_addr" => self.caller.local?.ip().to_canonical().to_string(),
            "server_port" => self.caller.local?.port().to_string(),
            "request_method" => head.method.to_string(),
            "server_protocol" => protocol(head.version).to_owned(),
            "request" => format!("{} {} {}", head.method, self.target(), protocol(head.version)),
            "request_filename" => self.path_of(&self.uri),
            "document_root" | "realpath_root" => self.root(),
            "content_type" => return self.header("content-type").and_then(some),
            "content_length" => return self.header("content-length").and_then(some),
            "status" => match sent {
                Some(sent) => format!("{:03}", sent.status),
                None => "000".to_owned(),
            },
            "body_bytes_sent" | "bytes_sent" => sent.map_or(0, |sent| sent.body_bytes).to_string(),
            "request_time" => {
                let time = sent.map_or_else(|| self.started.elapsed(), |sent| sent.duration);
                format!("{}.{:03}", time.as_secs(), time.subsec_millis())
            }
            "request_length" => {
                let lines = self.request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
                (head.method.as_str().len() + self.target().len() + 14 + lines.sum::<usize>()).to_string()
            }
            "request_completion" => return sent.map(|_| "OK".to_owned()),
            "connection" => self.caller.id.to_string(),
            "connection_requests" => self.caller.requests.get().to_string(),
            "msec" => now().strftime("%s.%3f").to_string(),
            "time_local" | "date_local" => now().strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
            "time_iso8601" => now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            "date_gmt" => super::http_date(now().timestamp().as_second()),
            "pid" => std::process::id().to_string(),
            "nginx_version" => env!("CARGO_PKG_VERSION").to_owned(),
            "pipe" => ".".to_owned(),
            "request_id" => {
                let time = now().timestamp().as_microsecond();
                format!("{time:016x}{:08x}{:08x}", std::process::id(), self.caller.id)
            }
            "limit_rate" => "0".to_owned(),
            _ => return self.variable_of_family(name),
        })
    }

    fn variable_of_family(&self, name: &str) -> Option<String> {
        let text = |text: &str| Some(text.to_owned());
        if let Some(argument_name) = name.strip_prefix("arg_") {
            return argument(&self.args, argument_name).and_then(text);
        }
        if let Some(header_name) = name.strip_prefix("http_") {
            return self.header(&header_name.replace('_', "-")).and_then(text);
        }
        if let Some(cookie) = name.strip_prefix("cookie_") {
            let pairs = self.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
            return pairs.filter(|(key, _)| key.eq_ignore_ascii_case(cookie)).find_map(|(_, value)| text(value));
        }
        None
    }

    /// The address as it was asked for.
    pub fn target(&self) -> String {
        let uri = self.request.uri();
        match uri.query() {
            Some(query) => format!("{}?{query}", uri.path()),
            None => uri.path().to_owned(),
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.caller.is_tls { "https" } else { "http" }
    }

    /// A redirect's target as it is sent: with scheme and host, unless the configuration says otherwise.
    pub fn absolute(&self, location: &str) -> String {
        let settings = &self.location.settings;
        if !location.starts_with('/') || location.starts_with("//") || !settings.absolute_redirect {
            return location.to_owned();
        }
        let named = Some(&self.server.name).filter(|name| settings.server_name_in_redirect && !name.is_empty());
        let mut out = format!("{}://{}", self.scheme(), named.unwrap_or(&self.host));
        let usual = if self.caller.is_tls { 443 } else { 80 };
        let port =
            self.caller.local.map(|local| local.port()).filter(|port| settings.port_in_redirect && *port != usual);
        if let Some(port) = port {
            // Writing to a String cannot fail.
            let _ = write!(out, ":{port}");
        }
        out.push_str(location);
        out
    }
}

pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// The host that a request means: that of its address, else its `Host`. None: one must be given and is not, or is no host.
pub fn host(request: &HttpRequest) -> Option<String> {
    let mut given = request.headers().get_all(header::HOST);
    let header = given.next();
    if given.next().is_some() {
        return None;
    }
    let text = match (request.uri().authority(), header) {
        (Some(authority), _) => authority.as_str().rsplit('@').next().unwrap_or_default(),
        (None, Some(header)) => header.to_str().ok()?,
        (None, None) if request.version() <= Version::HTTP_10 => return Some(String::new()),
        (None, None) => return None,
    };
    let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/\\\"<>`{}|^?#@%".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_host) {
        return None;
    }
    let name = match text.strip_prefix('[') {
        Some(_) => text.split_inclusive(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    };
    Some(name.trim_end_matches('.').to_ascii_lowercase())
}
