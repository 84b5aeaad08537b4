//! RTMP: handshake, then chunks, then messages, then a session on either side.
//!
//! `server` and `client` are the two halves of a session: bytes in; events and bytes out. Both stand on `transport`, which
//! turns bytes to messages (`handshake`, `chunk`, `message`) and deals with acknowledgements and pings. Both speak in
//! `command`s, are bounded by `limits` and end in an `error`. `caps` is what clients announce of Enhanced RTMP, `url` what
//! they mean by app and name. `dialogues` tries the halves on each other and on what known clients send.

pub mod caps;
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
