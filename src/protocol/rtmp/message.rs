//! Message types, control messages and commands.
