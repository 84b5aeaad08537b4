//! RTMP: handshake, then chunks, then messages, then a session on either side.

pub mod chunk;
pub mod client;
pub mod handshake;
pub mod message;
pub mod metadata;
pub mod server;
pub mod url;
pub mod wire;
