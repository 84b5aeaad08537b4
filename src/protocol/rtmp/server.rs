//! The server's half of an RTMP session.
