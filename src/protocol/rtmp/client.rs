//! The client's half of an RTMP session.
