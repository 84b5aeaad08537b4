//! Runs the server: bind, start, wait, finish in order.
