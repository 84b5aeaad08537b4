//! THE table: every directive once.
