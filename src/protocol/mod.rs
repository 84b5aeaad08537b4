//! Every format we speak, sans-IO: no sockets, no clock, no actors. Peers never make this code panic.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic)]

pub mod amf;
pub mod dash;
pub mod feed;
pub mod flv;
pub mod hls;
pub mod http_answer;
pub mod mp4;
pub mod proxy;
pub mod rtmp;
pub mod ts;
pub mod websocket;
