//! FLV tags, which are also the bodies of RTMP messages; what they mean to a muxer; FLV as a stream.

pub mod reader;
pub mod sample;
pub mod stream;
pub mod tag;
