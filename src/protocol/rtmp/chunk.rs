//! Chunks to messages and messages to chunks.
