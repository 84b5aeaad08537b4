//! The two logs: errors for the operator, accesses for the accountant.
//!
//! [`error`] turns `tracing` events into nginx's lines, [`access`] turns finished sessions into lines of a `log_format`.
//! Both hand finished lines to a [`queue`]: bounded, lossy, one writer thread each, so a slow disk or a dead pipe costs
//! lines and never a stream. [`flood`] bounds what one cause may write. [`line`] makes text that a peer chose safe.

pub mod access;
pub mod error;
pub mod flood;
pub mod line;
pub mod queue;
