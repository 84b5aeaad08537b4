//! The error log: nginx's levels, files that can be reopened, text or JSON.
