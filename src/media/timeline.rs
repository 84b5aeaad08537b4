//! The unwrapped 64-bit timeline of a stream.
