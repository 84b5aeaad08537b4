//! nginx's language, typed: a file becomes a tree, the tree is held against one table, and what is left is a [`Config`].

pub mod access;
pub mod check;
pub mod diagnose;
pub mod directives;
pub mod syntax;
pub mod values;
