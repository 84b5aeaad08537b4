//! Who does it, and when: one actor a file, its messages beside it.

pub mod support;
