//! FLV: the media message bodies that RTMP carries, and the endless file that HTTP-FLV is.

pub mod sample;
pub mod stream;
pub mod tag;
