//! livemill's own API.

pub mod types;
pub mod view;
