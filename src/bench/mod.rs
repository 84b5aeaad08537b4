//! The load tool: publishers and players by the thousand from one cheap process.

pub mod clock;
pub mod histogram;
pub mod scan;
pub mod usage;
