//! Crashes on purpose: the fuzzer has to find it, or it would find nothing elsewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // One byte at a time, as coverage leads.
    if let [b'm', b'i', b'l', b'l', ..] = bytes {
        panic!("the canary sings");
    }
});
