//! What we mean: packets, names, time, caches and queues. No wire bytes, no actors, no clock.

pub mod codec;
pub mod gather;
pub mod gop;
pub mod key;
pub mod meter;
pub mod packet;
pub mod queue;
pub mod timeline;
