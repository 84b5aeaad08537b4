//! FLV: the media message bodies that RTMP carries.

pub mod tag;
