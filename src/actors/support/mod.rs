//! What actors share: sockets, exit reports, restarts, the directory.
