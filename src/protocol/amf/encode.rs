//! Writes AMF0.

use super::{Properties, Value};

/// Appends one value. What AMF0 has no word for (a byte array) goes out as AMF3 behind marker 0x11.
pub fn encode(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(0x00);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(flag) => out.extend_from_slice(&[0x01, u8::from(*flag)]),
        Value::String(text) => match u16::try_from(text.len()) {
            Ok(_) => {
                out.push(0x02);
                encode_name(out, text);
            }
            Err(_) => {
                out.push(0x0c);
                encode_long(out, text.as_bytes());
            }
        },
        Value::Object(properties) => {
            out.push(0x03);
            encode_properties(out, properties);
        }
        Value::Null => out.push(0x05),
        Value::Undefined => out.push(0x06),
        Value::EcmaArray(properties) => {
            out.push(0x08);
            encode_count(out, properties.len());
            encode_properties(out, properties);
        }
        Value::StrictArray(items) => {
            out.push(0x0a);
            encode_count(out, items.len());
            for item in items {
                encode(out, item);
            }
        }
        Value::Date { ms, zone } => {
            out.push(0x0b);
            out.extend_from_slice(&ms.to_be_bytes());
            out.extend_from_slice(&zone.to_be_bytes());
        }
        Value::Unsupported => out.push(0x0d),
        Value::Xml(text) => {
            out.push(0x0f);
            encode_long(out, text.as_bytes());
        }
        Value::Typed { class, properties } => {
            out.push(0x10);
            encode_name(out, class);
            encode_properties(out, properties);
        }
        Value::ByteArray(bytes) => {
            out.extend_from_slice(&[0x11, 0x0c]);
            // U29 with the low bit set: inline, not a reference. 28 bits of length are more than any message holds.
            let (bytes, header) = match u32::try_from(bytes.len()) {
                Ok(len) if len < 1 << 28 => (bytes.as_ref(), (len << 1) | 1),
                _ => (&[][..], 1),
            };
            encode_u29(out, header);
            out.extend_from_slice(bytes);
        }
    }
}

/// The values of a message, one after the other.
pub fn encode_all(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        encode(&mut out, value);
    }
    out
}

fn encode_properties(out: &mut Vec<u8>, properties: &Properties) {
    for (name, value) in properties {
        encode_name(out, name);
        encode(out, value);
    }
    out.extend_from_slice(&[0, 0, 9]);
}

/// Names have no long form; one beyond 65,535 bytes is cut, which only our own code could ask for.
fn encode_name(out: &mut Vec<u8>, name: &str) {
    let mut cut = name.len().min(usize::from(u16::MAX));
    while !name.is_char_boundary(cut) {
        cut -= 1;
    }
    let name = name.get(..cut).unwrap_or_default();
    out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn encode_long(out: &mut Vec<u8>, bytes: &[u8]) {
    encode_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn encode_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn encode_u29(out: &mut Vec<u8>, value: u32) {
    let seven = |shift: u32| ((value >> shift) & 0x7f) as u8;
    match value {
        0..0x80 => out.push(seven(0)),
        0x80..0x4000 => out.extend_from_slice(&[seven(7) | 0x80, seven(0)]),
        0x4000..0x20_0000 => out.extend_from_slice(&[seven(14) | 0x80, seven(7) | 0x80, seven(0)]),
        // The fourth byte carries eight bits.
        _ => out.extend_from_slice(&[seven(22) | 0x80, seven(15) | 0x80, seven(8) | 0x80, (value & 0xff) as u8]),
    }
}
