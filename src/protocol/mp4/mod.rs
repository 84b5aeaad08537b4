//! Fragmented MP4 (CMAF): initialisation, fragments, and what cuts a stream into them.
//!
//! - [`format`]: what a track is, from its configuration record; [`init`]: the segment that says so.
//! - [`fragment`]: `moof` and `mdat`, written by hand.

mod boxes;

pub mod format;
pub mod fragment;
pub mod init;
