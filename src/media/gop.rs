//! The GOP cache: what a late joiner is sent first.
