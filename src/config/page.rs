//! The page `docs/directives.md` out of the table.
