//! Large answers from memory, written to the socket as they lie there.
//!
//! actix-http copies every body into the buffer of its connection first. For a segment of some hundred kilobytes that copy costs
//! as much as the write itself. (Measured against nginx's sendfile, requests for each second of CPU: 0.89 with the copy.) So such a
//! body gives actix-http nothing: it leaves its bytes in the outlet of the connection, whose [`Wire`](super::wire::Wire) writes them
//! behind the head, and it ends when they have gone.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodySize, BoxBody, MessageBody},
    http::{Method, Version, header::CONTENT_LENGTH},
};
use bytes::{Buf, Bytes};

use super::wire::Caller;

/// What a connection is to write behind the head of its answer.
#[derive(Default)]
pub struct Outlet {
    bytes: RefCell<Bytes>,
    /// The body that waits for the last of them to go.
    waiting: RefCell<Option<Waker>>,
    written: Cell<u64>,
}

impl Outlet {
    /// What is still to be written.
    pub fn rest(&self) -> Bytes {
        self.bytes.borrow().clone()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    #[cfg(test)]
    pub fn hold(&self, bytes: Bytes) {
        self.bytes.replace(bytes);
    }

    /// So many have gone.
    pub fn advance(&self, count: usize) {
        self.written.set(self.written.get() + count as u64);
        let mut bytes = self.bytes.borrow_mut();
        bytes.advance(count);
        if bytes.is_empty() {
            // The segment itself may be dropped now, however long the connection lives.
            *bytes = Bytes::new();
            if let Some(waker) = self.waiting.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// What has gone this way since the connection began.
    pub fn written(&self) -> u64 {
        self.written.get()
    }
}

/// Finishes an answer with bytes that lie in memory.
pub fn answer(mut answer: HttpResponseBuilder, bytes: Bytes, request: &HttpRequest) -> HttpResponse {
    answer_with(answer.finish(), bytes, request)
}

/// The same for a response that has its head already.
pub fn answer_with(mut response: HttpResponse, bytes: Bytes, request: &HttpRequest) -> HttpResponse {
    let is_plain = request.version() <= Version::HTTP_11 && *request.method() != Method::HEAD;
    match request.conn_data::<Caller>() {
        Some(caller) if is_plain && bytes.len() >= WORTH_BYTES => {
            response.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
            response.head_mut().no_chunking(true);
            response.set_body(BoxBody::new(Direct { bytes: Some(bytes), outlet: Rc::clone(&caller.outlet) }))
        }
        _ => response.set_body(BoxBody::new(bytes)),
    }
}

/// A body that goes past actix-http. Its length is in the head already.
struct Direct {
    bytes: Option<Bytes>,
    outlet: Rc<Outlet>,
}

impl MessageBody for Direct {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if let Some(bytes) = self.bytes.take() {
            self.outlet.bytes.replace(bytes);
        }
        if self.outlet.is_empty() {
            return Poll::Ready(None);
        }
        self.outlet.waiting.replace(Some(task.waker().clone()));
        Poll::Pending
    }
}

/// Below this the copy costs less than the way around it.
const WORTH_BYTES: usize = 12 * 1024;
