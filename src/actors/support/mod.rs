//! What actors share: sockets, writing, exit reports, who is counted, which streams exist.

pub mod body;
pub mod bulk;
pub mod census;
pub mod counters;
pub mod dash_files;
pub mod deadlines;
pub mod directory;
pub mod disk;
pub mod facts;
pub mod hang_up;
pub mod intake;
pub mod lifetime;
pub mod link;
pub mod outbox;
pub mod output;
pub mod restart;
pub mod route;
pub mod segment_store;
pub mod sessions;
pub mod shelf;
pub mod socket;
pub mod targets;
pub mod tls;
pub mod viewers;
pub mod wakeup;
