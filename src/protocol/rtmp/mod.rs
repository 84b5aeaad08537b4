//! RTMP: handshake, then chunks, then messages, then a session on either side.
//!
//! `server` and `client` are the two halves of a session. Both stand on `transport` (bytes to messages, acknowledgements,
//! pings), speak in `command`s, and are bounded by `limits`.

pub mod chunk;
pub mod client;
pub mod command;
#[cfg(test)]
mod dialogues;
pub mod error;
pub mod handshake;
pub mod limits;
pub mod message;
pub mod metadata;
pub mod server;
mod transport;
pub mod url;
pub mod wire;
