//! Who does it, and when: one actor a file, its messages beside it.
//!
//! | from | message | to | meaning |
//! |---|---|---|---|
//! | `Listener` | (starts) | `Connection` | somebody was let in |
//! | `Connection` | `OpenStream` | `Router` | which stream does this name mean? |
//! | `Router` | (starts) | `LiveStream` | the first one to ask for a name makes its stream |
//! | `Connection` | `Publish`, `Ingest`, `EndPublish` | `LiveStream` | a publisher begins, goes on, ends |
//! | `Connection` | `Subscribe`, `Unsubscribe` | `LiveStream` | a player comes and goes |
//! | `LiveStream` | `Deliver` | `Connection` | what a subscriber is told |
//! | `LiveStream` | `Replaced` | `Connection` | another publisher took over |
//! | `LiveStream` | `Exited` | `Router` | the stream is gone, however it went |
//! | `Connection` | `Exited` | `Listener` | the connection is gone, however it went |
//! | `server` | `StopAccepting`, `CloseAll`, `ReloadCertificates` | `Listener` | the operator's signals |
//!
//! Waiting goes one way: connection → router, connection → stream. Streams and the router wait for nobody.

pub mod audience;
pub mod connection;
pub mod house;
pub mod listener;
pub mod live_stream;
pub mod port;
pub mod router;
pub mod support;
