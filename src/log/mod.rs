//! The two logs: errors for the operator, accesses for the accountant.

pub mod access;
pub mod error;
