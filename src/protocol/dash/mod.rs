//! DASH manifests.
//!
//! `manifest` describes the windows that HLS lists, for the same files; `nginx` is what nginx-rtmp writes into a folder.

pub mod manifest;
pub mod nginx;
