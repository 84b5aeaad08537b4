//! What waits to be written to one player, bounded in bytes and in time.
