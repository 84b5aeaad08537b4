//! What must hold for every AMF message.

use livemill::protocol::amf::{Decoder, Limits, Value, decode_all, encode_all};

pub fn check(bytes: &[u8], limits: &Limits) {
    let mut decoder = Decoder::new(bytes, limits);
    let mut one_by_one = Vec::new();
    let all = decode_all(bytes, limits);
    loop {
        let before = decoder.rest().len();
        match decoder.next() {
            Ok(Some(value)) => {
                assert!(decoder.rest().len() < before, "a value takes at least a byte");
                one_by_one.push(value);
            }
            Ok(None) => {
                assert!(decoder.rest().is_empty());
                break;
            }
            Err(error) => {
                assert_eq!(all.as_ref().err(), Some(&error), "both ways to read fail alike");
                return;
            }
        }
    }
    let values = all.expect("reading one by one succeeded");

    let mut cost = Cost::default();
    values.iter().for_each(|value| cost.add(value, 0));
    assert!(cost.values <= limits.values, "{} values", cost.values);
    assert!(cost.depth <= limits.depth, "{} deep", cost.depth);
    // Invalid bytes become three each.
    let text = 3 * (bytes.len() + limits.string_bytes);
    assert!(cost.text <= text, "{} bytes of text from {}", cost.text, bytes.len());
    // A list may have grown to twice its length, and to no fewer than four.
    let lists = (4 * limits.values).min(64 * (bytes.len() + limits.string_bytes)) * size_of::<(String, Value)>();
    assert!(cost.lists <= lists, "{} bytes of lists from {}", cost.lists, bytes.len());

    // What has been read can be written, and reads back as the same bytes (values may be NaN, which equals nothing).
    let wide =
        Limits { string_bytes: usize::MAX / 2, depth: limits.depth, values: 2 * limits.values, keys: usize::MAX };
    let written = encode_all(&values);
    let again = decode_all(&written, &wide).expect("what we wrote can be read");
    assert_eq!(encode_all(&again), written);
}

#[derive(Default)]
struct Cost {
    values: usize,
    depth: usize,
    text: usize,
    lists: usize,
}

impl Cost {
    fn add(&mut self, value: &Value, depth: usize) {
        self.values += 1;
        self.depth = self.depth.max(depth);
        match value {
            Value::String(text) | Value::Xml(text) => self.text += text.len(),
            Value::ByteArray(bytes) => self.text += bytes.len(),
            Value::Object(properties) | Value::EcmaArray(properties) => self.properties(properties, depth),
            Value::Typed { class, properties } => {
                self.text += class.len();
                self.properties(properties, depth);
            }
            Value::StrictArray(items) => {
                self.lists += items.capacity() * size_of::<Value>();
                items.iter().for_each(|item| self.add(item, depth + 1));
            }
            Value::Number(_)
            | Value::Boolean(_)
            | Value::Null
            | Value::Undefined
            | Value::Date { .. }
            | Value::Unsupported => {}
        }
    }

    fn properties(&mut self, properties: &Vec<(String, Value)>, depth: usize) {
        self.lists += properties.capacity() * size_of::<(String, Value)>();
        for (name, value) in properties {
            self.text += name.len();
            self.add(value, depth + 1);
        }
    }
}
