//! AMF0 and AMF3: the values inside RTMP commands and metadata.
//!
//! [`Value`] is what both formats mean; `decode` reads AMF0 and hands what follows marker 0x11 to `amf3`; `encode` writes AMF0
//! only, which every client reads. `reader` holds the one place where a message's budget is spent.

mod amf3;
mod decode;
mod encode;
mod reader;
mod value;

pub use decode::{Decoder, decode_all};
pub use encode::{encode, encode_all};
pub use reader::{AmfError, Limits};
pub use value::{Properties, Value};
