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
//! | `LiveStream` | `StreamEvent` | `Outputs`, `Hooks`, `Oclp`, `Relays`, `Children` | somebody publishes, left, watches, watches no more, the stream is gone |
//! | `http` | (starts) | `Waiter` | a playlist is asked for whose stream must be fetched first |
//! | `http` | (starts) | `CmafMuxer`, `HlsMuxer` | the first who asks for a playlist or manifest opens an output in memory |
//! | `Outputs` | (starts), `FinishFiles` | `HlsMuxer`, `CmafMuxer` | somebody publishes where files are to be written; the process is about to end |
//! | `HlsMuxer`, `CmafMuxer` | `Listen` | `LiveStream` | a muxer joins, and leaves |
//! | `LiveStream` | `Deliver` | `HlsMuxer`, `CmafMuxer` | what a subscriber is told |
//! | `support::disk` | `Reported` | `HlsMuxer`, `CmafMuxer` | a file lies on the disk, or is lost |
//! | `Feed`, a muxer that writes files | `Exited` | `Outputs` | the feed is gone, however it went |
//! | `Connection`, `Viewer` | `PlayBegan`, `PlayEnded` | `Children` | a command is to be run for each player |
//! | `server` | `FinishChildren` | `Children` | the process is about to end |
//! | `Oclp` | `Ask`, `Tell` | `Hooks` | a stream began, is over |
//! | `server` | `FinishOclp` | `Oclp` | the process is about to end |
//! | whoever ends viewers | `Dismiss` | `Viewer` | go |
//! | `LiveStream` | `Replaced` | `Connection`, `Relay` | another publisher took over, or it may not publish after all |
//! | `Relays` | (starts), `EndRelay` | `Relay` | an attempt of a relay; nobody needs it any more |
//! | `Relay` | `Publish`, `Ingest`, `Listen` | `LiveStream` | a pull publishes, a push listens |
//! | `Relays` | `AwaitPublisher`, `EndPublish`, `TurnAway`, `Expel` | `LiveStream` | a pull comes back, is over, or has nothing; a scheduler refuses a push |
//! | `Relay` | `Exited` | `Relays` | the attempt is over, however it went |
//! | `LiveStream` | `Exited` | `Router` | the stream is gone, however it went |
//! | `Connection` | `Exited` | `Listener` | the connection is gone, however it went |
//! | `http` | `Look`, `DropClients`, `RedirectClients`, `StartRelay` and so on | `Control` | how is it with the server? who is to go? |
//! | `Control` | `CallRoll`, `GiveOrder` | `Steward` | who is on your arbiter? tell these to go |
//! | `Steward` | `Order` | `Connection`, `Viewer` | leave, or go to another name |
//! | `Control` | `Describe`, `ListRelays`, `ListHooks`, `ListChildren`, `ListOutputs` | `LiveStream`, `Relays`, `Hooks`, `Children`, `Outputs` | how is it with you? |
//! | `Control` | `AddRelay`, `RemoveRelay` | `Relays` | an operator wants a relay, or none |
//! | `Connection` | `CopyHeaders` | `LiveStream` | its publisher is sent elsewhere and will not say them again |
//! | `server` | `StopAccepting`, `CloseAll`, `ReloadCertificates` | `Listener` | the operator's signals |
//!
//! An audience writes to its players' sockets by itself, and an answer takes what its audience queued: no message passes for
//! that. Nor for segments: a muxer writes them into a store (`support::segment_store`) that requests read on any thread.
//!
//! Waiting goes one way: connection → router, connection → stream, http → outputs → router, http → control → everybody. Streams,
//! feeds, audiences and the router wait for nobody.

pub mod audience;
pub mod children;
pub mod cmaf_muxer;
pub mod connection;
pub mod control;
pub mod feed;
pub mod gate;
pub mod hls_muxer;
pub mod hooks;
pub mod house;
pub mod listener;
pub mod live_stream;
pub mod oclp;
pub mod outputs;
pub mod port;
pub mod relay;
pub mod relays;
pub mod router;
pub mod segments;
pub mod source;
pub mod steward;
pub mod support;
pub mod sweeper;
pub mod viewer;
pub mod waiter;
