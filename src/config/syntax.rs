//! Text to a tree of directives, each with its file, line and column.
