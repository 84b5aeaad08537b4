//! livemill: a live media server, an actor-model stream router that runs an nginx-rtmp configuration unchanged.
//!
//! ```text
//! media ← protocol ← actors ← http ← server, cli, main
//!            ↑          config and log stand beside and are read from the right
//!          bench
//! ```
//!
//! - [`media`]: what we mean: packets, names, time, caches, queues. No wire bytes, no actors, no clock.
//! - [`protocol`]: every format we speak, sans-IO: bytes and a time in, values out.
//! - [`config`]: nginx's language, typed; one table holds every directive.
//! - [`actors`]: who does it, and when: one actor a file, its messages beside it.
//! - [`http`]: on top of the actors: what is watched over HTTP, and nginx's http block.
//! - [`log`]: the error log and the access log.
//! - [`server`]: binds, starts, waits and finishes, in order.
//! - [`mod@bench`]: the load tool behind `livemill bench`.
//! - [`cli`], [`process`]: the command line, and what a daemon does with its process.

pub mod actors;
pub mod bench;
pub mod cli;
pub mod config;
pub mod http;
pub mod log;
pub mod media;
pub mod process;
pub mod protocol;
pub mod server;
