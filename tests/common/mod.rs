//! What whole-server tests share: a server of their own, peers that speak RTMP, real clients, media to send.
//!
//! - [`server`]: starts the built binary on free ports and ends it again.
//! - [`wire`]: RTMP bytes, written and read by this harness's own code, so that a bug in livemill's cannot hide itself.
//! - [`peer`]: a blocking RTMP client over it; legal by default, as rude as a test wants.
//! - [`core_wait`]: times without what a busy machine adds.
//! - [`health`]: a publisher and a player beside a test that must never notice it.
//! - [`stream`]: a publisher of numbered frames, and what players make of them.
//! - [`tools`], [`fixtures`], [`flv`], [`playing`]: ffmpeg, GStreamer and librtmp; what they publish; what came out.
//! - [`playlist_rules`], [`manifest_rules`], [`fragments`]: what HLS and DASH must say, and when fragments of MP4 are.
//! - [`hook_server`]: an endpoint for hooks that writes down what it is asked and answers as a test wants.
//! - [`api`]: a caller of livemill's own API.
//! - [`http`]: answers over HTTP as they come, FLV files and WebSocket frames in them.
//! - [`exchange`]: one request in raw bytes, and its whole answer.
//! - [`playlist`]: HLS playlists as a player reads them.
//! - [`live_source`]: a publisher in real time that comes back when its server does, and many players.
//! - [`scheduler`]: an HTTP server that answers what relays ask as it is told.
//! - [`far_end`]: an RTMP server that does what a test wants, for relays to come to.
//! - [`wait`]: conditions with a deadline.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod api;
pub mod core_wait;
pub mod exchange;
pub mod far_end;
pub mod fixtures;
pub mod flv;
pub mod fragments;
pub mod health;
pub mod hook_server;
pub mod http;
pub mod live_source;
pub mod manifest_rules;
pub mod peer;
pub mod playing;
pub mod playlist;
pub mod playlist_rules;
pub mod scheduler;
pub mod server;
pub mod stream;
pub mod tools;
pub mod wait;
pub mod wire;
