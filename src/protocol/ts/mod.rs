//! MPEG-TS, for HLS and for endless streams. The only place that knows the `mpeg2ts` crate.
//!
//! [`muxer`] is the front: samples in, packets out. Under it [`access_unit`] turns video frames into the byte stream form that TS
//! wants, [`audio`] does the same for sound and keeps its clock, and `packets` cuts what they made into packets of 188 bytes.

pub mod access_unit;
pub mod audio;
pub mod feed;
pub mod muxer;
mod packets;

pub use self::feed::TsFeed;
pub use self::muxer::{TsMuxer, TsRules};

#[cfg(test)]
pub(crate) mod oracle;
