//! A packet on its way through the server.
