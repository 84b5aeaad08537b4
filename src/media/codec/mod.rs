//! One file a codec: what its configuration record says.
