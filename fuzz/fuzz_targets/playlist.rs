//! Playlists somebody left behind: read without harm, and what is written of them reads back the same.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use livemill::protocol::hls::nginx::NginxPlaylist;
use livemill::protocol::hls::rules::TsHlsRules;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let rules = Arc::new(TsHlsRules::default());
    let playlist = NginxPlaylist::resume(Arc::clone(&rules), "name".to_owned(), text);
    assert!(playlist.entries().len() <= rules.window());
    let written = playlist.text(false);
    let again = NginxPlaylist::resume(rules, "name".to_owned(), &written);
    assert_eq!(again.text(false), written);
});
