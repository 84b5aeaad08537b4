//! AMF3 from a hostile peer: the input is split at 0xFE bytes, and each part follows a switch from AMF0.
#![no_main]

#[path = "common/amf.rs"]
mod amf;

use libfuzzer_sys::fuzz_target;
use livemill::protocol::amf::Limits;

fuzz_target!(|bytes: &[u8]| {
    let mut message = Vec::new();
    for part in bytes.split(|byte| *byte == 0xfe) {
        message.push(0x11);
        message.extend_from_slice(part);
    }
    for limits in [Limits::COMMAND, Limits::DATA] {
        amf::check(&message, &limits);
    }
});
