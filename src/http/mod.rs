//! HTTP on top of the actors: a request becomes a message, an answer becomes bytes.

pub mod page;
