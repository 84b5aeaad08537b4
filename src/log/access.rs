//! The access log: one line a session, in the format the configuration names.
