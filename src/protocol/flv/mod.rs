//! FLV: the media message bodies that RTMP carries.

pub mod sample;
pub mod tag;
