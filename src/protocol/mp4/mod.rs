//! Fragmented MP4 (CMAF): initialisation, fragments, and what cuts a stream into them.
