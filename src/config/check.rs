//! The migration report behind `livemill check FILE`.
