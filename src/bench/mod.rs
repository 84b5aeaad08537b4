//! The load tool: publishers and players by the thousand from one cheap process.
