//! AMF0 from a hostile peer: read or refused, within the budget, and stable once it has been read.
#![no_main]

#[path = "common/amf.rs"]
mod amf;

use libfuzzer_sys::fuzz_target;
use livemill::protocol::amf::Limits;

fuzz_target!(|bytes: &[u8]| {
    for limits in [Limits::COMMAND, Limits::DATA] {
        amf::check(bytes, &limits);
    }
});
