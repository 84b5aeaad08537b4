//! MPEG-TS, for HLS and for endless streams. The only place that knows the `mpeg2ts` crate.
