//! The access log of HTTP: one line an answer, when its last byte has gone or its client has.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
};
use bytes::Bytes;

use super::visit::{Sent, Visit};
use crate::{
    config::{http::HttpLog, template::Part},
    http::outlet::Outlet,
    log::line::{cut, mask_text, push_escaped},
};

/// Sees to it that the answer is logged when it is over.
pub fn watch(visit: Rc<Visit>, response: HttpResponse) -> HttpResponse {
    if visit.location.settings.access_log.is_empty() {
        return response;
    }
    let status = response.status().as_u16();
    // Some of it may go past the body.
    let outlet = (Rc::clone(&visit.caller.outlet), visit.caller.outlet.written());
    response.map_body(|_, body| {
        BoxBody::new(Counted { body, line: Line { visit, outlet, sent: Sent { status, ..Sent::default() } } })
    })
}

/// A body that counts what it gives.
struct Counted {
    body: BoxBody,
    line: Line,
}

/// Written when it is dropped, whichever way the answer ended.
struct Line {
    visit: Rc<Visit>,
    /// With what had gone this way before.
    outlet: (Rc<Outlet>, u64),
    sent: Sent,
}

impl MessageBody for Counted {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            this.line.sent.body_bytes = this.line.sent.body_bytes.saturating_add(bytes.len() as u64);
        }
        polled
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.sent.duration = self.visit.started.elapsed();
        let (outlet, before) = &self.outlet;
        self.sent.body_bytes = self.sent.body_bytes.saturating_add(outlet.written().saturating_sub(*before));
        for log in &self.visit.location.settings.access_log {
            let line = line(&self.visit, log, &self.sent);
            self.visit.site.logs.write_line(&log.log.target, line);
        }
    }
}

fn line(visit: &Visit, log: &HttpLog, sent: &Sent) -> String {
    let mut line = String::with_capacity(256);
    for part in log.template.parts() {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Capture(at) => push(&mut line, visit.captures.get(*at).map(String::as_str)),
            Part::Variable(name) => push(&mut line, visit.variable(name, Some(sent)).as_deref()),
        }
    }
    line.push('\n');
    line
}

/// What a peer sent must not look like another line; an absent value is a dash, and secrets are masked.
fn push(line: &mut String, value: Option<&str>) {
    match value {
        None | Some("") => line.push('-'),
        Some(value) => push_escaped(line, &mask_text(cut(value, LONGEST_VALUE))),
    }
}

/// Longer than any honest address or browser's name.
const LONGEST_VALUE: usize = 4096;
