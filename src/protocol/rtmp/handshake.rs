//! The handshake: simple, and digest in both layouts.
