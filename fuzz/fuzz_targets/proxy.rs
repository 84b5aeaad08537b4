//! The PROXY header: exact about its end, and of one mind while it arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livemill::protocol::proxy::parse;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Some((header, consumed))) => {
            assert!(consumed <= bytes.len() && consumed <= 4096);
            assert_eq!(header.source.is_some(), header.destination.is_some());
            assert_eq!(parse(&bytes[..consumed]), Ok(Some((header, consumed))));
            for cut in 0..consumed.min(200) {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
        Ok(None) => assert!(bytes.len() < 4096),
        Err(error) => {
            // Once refused, more bytes do not help.
            assert_eq!(parse(&[bytes, b"\r\n"].concat()), Err(error));
        }
    }
});
