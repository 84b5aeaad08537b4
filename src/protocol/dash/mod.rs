//! DASH manifests.
