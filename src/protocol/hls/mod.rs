//! HLS: playlists and the windows of segments behind them.
//!
//! `window` is what one rendition holds in memory: initialisations, segments, their parts. `playlist` says what is in it, to many who ask at
//! once, and decides who has to wait; `dash::manifest` says the same in DASH. `date` places media time on the wall clock, once for all
//! renditions of a stream.
//!
//! `segmenter` makes the segments of MPEG-TS, by the `rules` that the nginx-rtmp family has directives for; `nginx` lists them as it does,
//! and `crypt` encrypts them.

pub mod crypt;
pub mod date;
pub mod gauge;
pub mod nginx;
pub mod playlist;
pub mod rules;
pub mod segmenter;
pub mod window;
