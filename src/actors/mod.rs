//! Who does it, and when: one actor a file, its messages beside it.
//!
//! | from | message | to | meaning |
//! |---|---|---|---|
//! | `Listener` | (starts) | `Connection` | somebody was let in |
//! | `Connection` | `OpenStream` | `Router` | which stream does this name mean? |
//! | `Router` | (starts) | `LiveStream` | the first one to ask for a name makes its stream |
//! | `Connection` | `Publish`, `Ingest`, `EndPublish` | `LiveStream` | a publisher begins, goes on, ends |
//! | `Connection` | (starts) | `Audience` | the first player of a stream on an arbiter opens its audience, the last closes it |
//! | `Connection`, `Viewer` | `Listen` | `LiveStream`, `Feed` | an audience opens, has a newcomer, closes |
//! | `LiveStream`, `Feed` | `Deliver` | `Audience`, `Feed` | what a subscriber is told |
//! | `Audience` | `PlayerNotice` | `Connection`, `Viewer` | the socket is full, failed, or the publisher left |
//! | `http` | (starts) | `Viewer` | somebody watches over HTTP |
//! | `http` | `OpenOutput` | `Outputs` | what is made of this stream? |
//! | `Outputs` | `OpenStream` | `Router` | as a player does |
//! | `Outputs` | (starts), `EndFeed` | `Feed` | the first viewer of a format starts it; nobody watches any more |
//! | `LiveStream` | `StreamEvent` | `Outputs` | somebody publishes, left, the stream is gone |
//! | `Feed` | `Exited` | `Outputs` | the feed is gone, however it went |
//! | whoever ends viewers | `Dismiss` | `Viewer` | go |
//! | `LiveStream` | `Replaced` | `Connection` | another publisher took over |
//! | `LiveStream` | `Exited` | `Router` | the stream is gone, however it went |
//! | `Connection` | `Exited` | `Listener` | the connection is gone, however it went |
//! | `server` | `StopAccepting`, `CloseAll`, `ReloadCertificates` | `Listener` | the operator's signals |
//!
//! An audience writes to its players' sockets by itself, and an answer takes what its audience queued: no message passes for
//! that.
//!
//! Waiting goes one way: connection → router, connection → stream, http → outputs → router. Streams, feeds, audiences and
//! the router wait for nobody.

pub mod audience;
pub mod cmaf_muxer;
pub mod connection;
pub mod feed;
pub mod hls_muxer;
pub mod house;
pub mod listener;
pub mod live_stream;
pub mod outputs;
pub mod port;
pub mod router;
pub mod segments;
pub mod source;
pub mod support;
pub mod sweeper;
pub mod viewer;
