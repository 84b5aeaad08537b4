//! Reads AMF3, the format that Flash 9 brought, where AMF0 switches to it.

use super::reader::Reader;
use super::{AmfError, Properties, Value};
use bytes::Bytes;
use std::sync::Arc;

/// The reference tables of one message. Each switch from AMF0 goes on with the same tables, as Adobe's own reader does.
///
/// Tables point into the message: a repeated string is copied and charged when it is used, a repeated object is read again from
/// where it stands.
#[derive(Debug, Default)]
pub(super) struct Amf3<'a> {
    strings: Vec<&'a [u8]>,
    objects: Vec<Complex>,
    traits: Vec<Traits<'a>>,
    /// How many references we are inside of. What is repeated is in the tables already.
    pub(super) repeating: usize,
}

impl<'a> Amf3<'a> {
    /// One value; `depth` counts the containers around it, AMF0's included.
    pub(super) fn value(&mut self, reader: &mut Reader<'a>, depth: usize) -> Result<Value, AmfError> {
        let at = reader.at();
        let marker = reader.u8()?;
        match marker {
            0x00 => Ok(Value::Undefined),
            0x01 => Ok(Value::Null),
            0x02 => Ok(Value::Boolean(false)),
            0x03 => Ok(Value::Boolean(true)),
            0x04 => {
                // 29 bits, two's complement: the sign is bit 28.
                let integer = (u29(reader)? << 3).cast_signed() >> 3;
                Ok(Value::Number(f64::from(integer)))
            }
            0x05 => Ok(Value::Number(reader.f64()?)),
            0x06 => {
                let bytes = self.string(reader)?;
                Ok(Value::String(reader.text(bytes)?))
            }
            0x07..=0x11 => self.complex(reader, marker, at, depth),
            _ => Err(AmfError::Marker { marker, at }),
        }
    }

    /// Everything that goes by the object table. Its header is a reference (low bit 0) or a length of its own (low bit 1).
    fn complex(&mut self, reader: &mut Reader<'a>, marker: u8, at: usize, depth: usize) -> Result<Value, AmfError> {
        let header = u29(reader)?;
        let index = (header >> 1) as usize;
        if header & 1 == 0 {
            return self.reference(reader, marker, index, at, depth);
        }
        // Dates, XML and byte arrays are in the table as well, yet hold no values.
        let depth = if matches!(marker, 0x07 | 0x08 | 0x0b | 0x0c) { depth } else { depth + 1 };
        reader.check_depth(depth)?;
        if self.repeating > 0 {
            return self.content(reader, marker, header, depth);
        }
        let place = self.objects.len();
        self.objects.push(Complex { marker, at, finished: false });
        let value = self.content(reader, marker, header, depth)?;
        if let Some(complex) = self.objects.get_mut(place) {
            complex.finished = true;
        }
        Ok(value)
    }

    fn reference(
        &mut self,
        reader: &mut Reader<'a>,
        marker: u8,
        index: usize,
        at: usize,
        depth: usize,
    ) -> Result<Value, AmfError> {
        // Finished values only, so that no cycle can be built; of the kind that was announced, because a peer that mixes them up
        // counts its tables differently from us.
        let target = self.objects.get(index).filter(|complex| complex.finished && complex.marker == marker);
        let target = target.map(|complex| complex.at).ok_or(AmfError::Reference { index, at })?;
        let back = reader.at();
        self.repeating += 1;
        reader.seek(target);
        let value = self.value(reader, depth)?;
        reader.seek(back);
        self.repeating -= 1;
        Ok(value)
    }

    fn content(&mut self, reader: &mut Reader<'a>, marker: u8, header: u32, depth: usize) -> Result<Value, AmfError> {
        let len = (header >> 1) as usize;
        match marker {
            0x07 | 0x0b => {
                let bytes = reader.take_text(len)?;
                Ok(Value::Xml(reader.text(bytes)?))
            }
            0x08 => Ok(Value::Date { ms: reader.f64()?, zone: 0 }),
            0x09 => self.array(reader, len, depth),
            0x0a => self.object(reader, header, depth),
            0x0c => {
                let bytes = reader.take_text(len)?;
                reader.charge_text(len)?;
                // Copied, for the message that holds them is borrowed.
                Ok(Value::ByteArray(Bytes::copy_from_slice(bytes)))
            }
            0x0d => vector(reader, len, |reader| Ok(f64::from(reader.u32()?.cast_signed()))),
            0x0e => vector(reader, len, |reader| Ok(f64::from(reader.u32()?))),
            0x0f => vector(reader, len, Reader::f64),
            0x10 => {
                reader.u8()?; // whether its length is fixed
                self.string(reader)?; // the class of its items
                Ok(Value::StrictArray(self.items(reader, len, depth)?))
            }
            0x11 => {
                reader.u8()?; // whether its keys are weak
                self.dictionary(reader, len, depth)
            }
            _ => Err(AmfError::Marker { marker, at: reader.at() }),
        }
    }

    /// Named values up to an empty name, then `count` values without.
    fn array(&mut self, reader: &mut Reader<'a>, count: usize, depth: usize) -> Result<Value, AmfError> {
        let mut properties = self.named(reader, Properties::new(), depth)?;
        let items = self.items(reader, count, depth)?;
        if properties.is_empty() {
            return Ok(Value::StrictArray(items));
        }
        // AMF0 has no array with both; there, too, the items of an ECMA array are named by their index.
        properties.extend(items.into_iter().enumerate().map(|(index, item)| (index.to_string(), item)));
        Ok(Value::EcmaArray(properties))
    }

    fn object(&mut self, reader: &mut Reader<'a>, header: u32, depth: usize) -> Result<Value, AmfError> {
        let traits = self.traits(reader, header)?;
        let mut properties = Properties::new();
        for name in traits.names.iter() {
            let name = reader.text(name)?;
            reader.charge_value()?;
            properties.push((name, self.value(reader, depth)?));
        }
        if traits.dynamic {
            properties = self.named(reader, properties, depth)?;
        }
        if traits.class.is_empty() {
            return Ok(Value::Object(properties));
        }
        Ok(Value::Typed { class: reader.text(traits.class)?, properties })
    }

    /// The class, its fixed names, and whether more may follow: described here or by reference to an earlier description.
    fn traits(&mut self, reader: &mut Reader<'a>, header: u32) -> Result<Traits<'a>, AmfError> {
        if header & 0b10 == 0 {
            let index = (header >> 2) as usize;
            return self.traits.get(index).cloned().ok_or(AmfError::Reference { index, at: reader.at() });
        }
        if header & 0b100 != 0 {
            return Err(AmfError::Externalizable { at: reader.at() });
        }
        let dynamic = header & 0b1000 != 0;
        let count = (header >> 4) as usize;
        reader.check_keys(count)?;
        let class = self.string(reader)?;
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(self.string(reader)?);
        }
        let traits = Traits { class, dynamic, names: names.into() };
        if self.repeating == 0 {
            self.traits.push(traits.clone());
        }
        Ok(traits)
    }

    fn dictionary(&mut self, reader: &mut Reader<'a>, count: usize, depth: usize) -> Result<Value, AmfError> {
        let mut properties = Properties::new();
        for _ in 0..count {
            reader.check_keys(properties.len() + 1)?;
            reader.charge_value()?;
            // Keys may be of any type. Those without a plain spelling keep their place under an empty name.
            let key = match self.value(reader, depth)? {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Boolean(flag) => flag.to_string(),
                _ => String::new(),
            };
            reader.charge_value()?;
            properties.push((key, self.value(reader, depth)?));
        }
        Ok(Value::Object(properties))
    }

    fn named(
        &mut self,
        reader: &mut Reader<'a>,
        mut properties: Properties,
        depth: usize,
    ) -> Result<Properties, AmfError> {
        loop {
            let name = self.string(reader)?;
            if name.is_empty() {
                return Ok(properties);
            }
            reader.check_keys(properties.len() + 1)?;
            reader.charge_value()?;
            let name = reader.text(name)?;
            properties.push((name, self.value(reader, depth)?));
        }
    }

    fn items(&mut self, reader: &mut Reader<'a>, count: usize, depth: usize) -> Result<Vec<Value>, AmfError> {
        // Every item takes at least a byte, and the list grows with what is really there.
        let mut items = Vec::new();
        for _ in 0..count {
            reader.charge_value()?;
            items.push(self.value(reader, depth)?);
        }
        Ok(items)
    }

    fn string(&mut self, reader: &mut Reader<'a>) -> Result<&'a [u8], AmfError> {
        let at = reader.at();
        let header = u29(reader)?;
        let len = (header >> 1) as usize;
        if header & 1 == 0 {
            return self.strings.get(len).copied().ok_or(AmfError::Reference { index: len, at });
        }
        let bytes = reader.take_text(len)?;
        // The empty string is never sent by reference and takes no place in the table.
        if !bytes.is_empty() && self.repeating == 0 {
            self.strings.push(bytes);
        }
        Ok(bytes)
    }
}

/// Seven bits a byte while the top bit is set, and all eight of the fourth.
fn u29(reader: &mut Reader<'_>) -> Result<u32, AmfError> {
    let mut value = 0;
    for _ in 0..3 {
        let byte = reader.u8()?;
        value = value << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Ok(value << 8 | u32::from(reader.u8()?))
}

fn vector<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    item: impl Fn(&mut Reader<'a>) -> Result<f64, AmfError>,
) -> Result<Value, AmfError> {
    reader.u8()?; // whether its length is fixed
    let mut items = Vec::new();
    for _ in 0..count {
        reader.charge_value()?;
        items.push(Value::Number(item(reader)?));
    }
    Ok(Value::StrictArray(items))
}

#[derive(Debug)]
struct Complex {
    marker: u8,
    at: usize,
    finished: bool,
}

#[derive(Debug, Clone)]
struct Traits<'a> {
    class: &'a [u8],
    dynamic: bool,
    /// Shared, for thousands of objects may be of one class.
    names: Arc<[&'a [u8]]>,
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, decode_all};
    use super::*;

    /// Decodes AMF0 that switches to AMF3 before each of the values.
    fn decode(values: &[&[u8]]) -> Result<Vec<Value>, AmfError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| [&[0x11], *value].concat()).collect();
        decode_all(&bytes, &Limits::DATA)
    }

    fn one(value: &[u8]) -> Result<Value, AmfError> {
        decode(&[value]).map(|mut values| values.remove(0))
    }

    fn text(text: &str) -> Value {
        Value::String(text.into())
    }

    fn numbers(numbers: &[f64]) -> Value {
        Value::StrictArray(numbers.iter().copied().map(Value::Number).collect())
    }

    #[test]
    fn every_marker_reads_as_the_standard_says() {
        for (bytes, expected) in [
            (&b"\x00"[..], Value::Undefined),
            (b"\x01", Value::Null),
            (b"\x02", Value::Boolean(false)),
            (b"\x03", Value::Boolean(true)),
            (b"\x04\x7f", Value::Number(127.0)),
            (b"\x04\x81\x00", Value::Number(128.0)),
            (b"\x04\x81\x80\x00", Value::Number(16_384.0)),
            (b"\x04\x80\xc0\x80\x00", Value::Number(2_097_152.0)),
            (b"\x04\xbf\xff\xff\xff", Value::Number(268_435_455.0)),
            (b"\x04\xc0\x80\x80\x00", Value::Number(-268_435_456.0)),
            (b"\x04\xff\xff\xff\xff", Value::Number(-1.0)),
            (b"\x05\x3f\xf0\0\0\0\0\0\0", Value::Number(1.0)),
            (b"\x06\x09live", text("live")),
            (b"\x06\x01", text("")),
            (b"\x07\x09<a/>", Value::Xml("<a/>".into())),
            (b"\x08\x01\x40\0\0\0\0\0\0\0", Value::Date { ms: 2.0, zone: 0 }),
            (b"\x09\x05\x01\x01\x03", Value::StrictArray(vec![Value::Null, Value::Boolean(true)])),
            (b"\x09\x01\x01", Value::StrictArray(vec![])),
            (
                b"\x09\x03\x03a\x01\x01\x03",
                Value::EcmaArray(vec![("a".into(), Value::Null), ("0".into(), Value::Boolean(true))]),
            ),
            (b"\x0a\x0b\x01\x03a\x01\x01", Value::Object(vec![("a".into(), Value::Null)])),
            (b"\x0a\x13\x01\x03a\x01", Value::Object(vec![("a".into(), Value::Null)])),
            (
                b"\x0a\x1b\x03C\x03a\x01\x03b\x03\x01",
                Value::Typed {
                    class: "C".into(),
                    properties: vec![("a".into(), Value::Null), ("b".into(), Value::Boolean(true))],
                },
            ),
            (b"\x0b\x09<a/>", Value::Xml("<a/>".into())),
            (b"\x0c\x07\x01\x02\x03", Value::ByteArray(Bytes::from_static(&[1, 2, 3]))),
            (b"\x0d\x05\x00\xff\xff\xff\xff\x00\x00\x00\x02", numbers(&[-1.0, 2.0])),
            (b"\x0e\x03\x01\xff\xff\xff\xff", numbers(&[4_294_967_295.0])),
            (b"\x0f\x03\x00\x3f\xf0\0\0\0\0\0\0", numbers(&[1.0])),
            (b"\x10\x03\x00\x03C\x06\x03x", Value::StrictArray(vec![text("x")])),
            (
                b"\x11\x05\x00\x06\x03k\x01\x04\x05\x03",
                Value::Object(vec![("k".into(), Value::Null), ("5".into(), Value::Boolean(true))]),
            ),
        ] {
            assert_eq!(one(bytes), Ok(expected), "{bytes:02x?}");
        }
    }

    #[test]
    fn every_value_cut_short_is_an_error() {
        for bytes in [
            &b"\x04\x80\xc0\x80\x00"[..],
            b"\x05\x3f\xf0\0\0\0\0\0\0",
            b"\x06\x09live",
            b"\x08\x01\x40\0\0\0\0\0\0\0",
            b"\x09\x03\x03a\x01\x01\x03",
            b"\x0a\x1b\x03C\x03a\x01\x03b\x03\x01",
            b"\x0c\x07\x01\x02\x03",
            b"\x0d\x05\x00\xff\xff\xff\xff\x00\x00\x00\x02",
            b"\x10\x03\x00\x03C\x06\x03x",
            b"\x11\x05\x00\x06\x03k\x01\x04\x05\x03",
        ] {
            for cut in 0..bytes.len() {
                assert!(matches!(one(&bytes[..cut]), Err(AmfError::Truncated { .. })), "{bytes:02x?} {cut}");
            }
        }
    }

    #[test]
    fn references_to_strings_traits_and_objects_are_followed_across_the_message() {
        let object = |value: Value| Value::Typed { class: "C".into(), properties: vec![("a".into(), value)] };
        let values = decode(&[
            b"\x0a\x13\x03C\x03a\x06\x03x", // strings C, a, x; traits 0; object 0
            b"\x0a\x01\x06\x04",            // traits 0, string 2
            b"\x0a\x00",                    // object 0
            b"\x06\x02",                    // string 1
        ]);
        assert_eq!(values, Ok(vec![object(text("x")), object(text("x")), object(text("x")), text("a")]));
    }

    #[test]
    fn what_a_reference_repeats_takes_no_new_places() {
        // Object 0 describes its traits and strings inline; after repeating it, string 3 must still be the next new one.
        let values =
            decode(&[b"\x0a\x13\x03C\x03a\x06\x03x", b"\x0a\x00", b"\x06\x03y", b"\x06\x06"]).expect("readable");
        assert_eq!(values[2..], [text("y"), text("y")]);
    }

    #[test]
    fn references_out_of_range_unfinished_or_of_another_kind_are_errors() {
        for bytes in [
            &b"\x06\x00"[..],                    // no string yet
            b"\x06\xff\xff\xff\xfe",             // string 2^28 - 1
            b"\x09\x00",                         // no object yet
            b"\x0a\xff\xff\xff\xfe",             // object 2^28 - 1
            b"\x0a\x01",                         // no traits yet
            b"\x0a\xff\xff\xff\xfd",             // traits 2^27 - 1
            b"\x09\x03\x01\x09\x00",             // an array that holds itself
            b"\x0a\x0b\x01\x03a\x0a\x00\x01",    // an object that holds itself
            b"\x09\x05\x01\x09\x01\x01\x0a\x02", // an array called an object
        ] {
            assert!(matches!(one(bytes), Err(AmfError::Reference { .. })), "{bytes:02x?} {:?}", one(bytes));
        }
    }

    #[test]
    fn private_formats_and_unknown_markers_are_refused() {
        assert!(matches!(one(b"\x0a\x07\x03C"), Err(AmfError::Externalizable { .. })));
        assert_eq!(one(b"\x12"), Err(AmfError::Marker { marker: 0x12, at: 1 }));
    }

    #[test]
    fn counts_and_lengths_are_no_reason_to_allocate() {
        let huge = b"\xff\xff\xff\xff";
        for (marker, after) in [
            (0x09, &b"\x01"[..]),
            (0x0d, b"\x00"),
            (0x0e, b"\x00"),
            (0x0f, b"\x00"),
            (0x10, b"\x00\x01"),
            (0x11, b"\x00"),
        ] {
            let bytes = [&[marker], &huge[..], after, &[1; 5]].concat();
            assert!(matches!(one(&bytes), Err(AmfError::Truncated { .. })), "{marker:#x} {:?}", one(&bytes));
        }
        for marker in [0x06, 0x07, 0x0b, 0x0c] {
            let bytes = [&[marker], &huge[..], &[1; 5]].concat();
            assert!(matches!(one(&bytes), Err(AmfError::TooLong { .. })), "{marker:#x}");
        }
        // Fixed names by the million.
        assert!(matches!(one(&[&b"\x0a"[..], huge].concat()), Err(AmfError::Externalizable { .. })));
        assert!(matches!(one(b"\x0a\xff\xff\xff\xfb"), Err(AmfError::TooManyKeys { .. })));
    }

    #[test]
    fn nesting_is_read_to_the_limit_and_refused_beyond() {
        for (open, name) in
            [(&b"\x09\x03\x01"[..], "array"), (b"\x0a\x13\x01\x03a", "object"), (b"\x10\x03\x00\x01", "vector")]
        {
            let nested = |depth: usize| [open.repeat(depth), vec![0x01]].concat();
            assert!(one(&nested(32)).is_ok(), "{name}");
            for depth in [33, 200_000] {
                assert!(matches!(one(&nested(depth)), Err(AmfError::TooDeep { limit: 32, .. })), "{name}");
            }
        }
        // A switch inside AMF0 containers goes on counting.
        let mixed = [b"\x0a\x00\x00\x00\x01".repeat(20), vec![0x11], b"\x09\x03\x01".repeat(13), vec![0x01]].concat();
        assert!(matches!(decode_all(&mixed, &Limits::DATA), Err(AmfError::TooDeep { .. })));
    }

    #[test]
    fn reference_bombs_run_out_of_budget() {
        // Array n holds array n - 1 twice, so 2^n values.
        let mut doubling: Vec<Vec<u8>> = vec![b"\x09\x03\x01\x01".to_vec()];
        for index in 0..30_u8 {
            doubling.push(vec![0x09, 0x05, 0x01, 0x09, index << 1, 0x09, index << 1]);
        }
        let doubling: Vec<&[u8]> = doubling.iter().map(Vec::as_slice).collect();
        assert!(matches!(decode(&doubling), Err(AmfError::TooManyValues { .. })));

        // One long string, and then the same again for two bytes each.
        let long = [&b"\x06\x83\xff\x7f"[..], &[b'a'; 32_767]].concat();
        let again = b"\x06\x00";
        let text: Vec<&[u8]> = std::iter::once(long.as_slice()).chain(std::iter::repeat_n(&again[..], 4_000)).collect();
        assert!(matches!(decode(&text), Err(AmfError::TooMuchText { .. })));

        // The same by way of names: a class of long names, and objects of that class.
        let name = [&[0x83, 0xff, 0x7f][..], &[b'n'; 32_767]].concat();
        let class = [&b"\x0a\x13\x01"[..], &name, &[0x01]].concat();
        let object = b"\x0a\x01\x01";
        let names: Vec<&[u8]> =
            std::iter::once(class.as_slice()).chain(std::iter::repeat_n(&object[..], 3_000)).collect();
        assert!(matches!(decode(&names), Err(AmfError::TooMuchText { .. })));
    }

    #[test]
    fn an_amf0_reference_may_repeat_amf3() {
        // A strict array around an AMF3 string, that array again, then the string again.
        let bytes = b"\x0a\x00\x00\x00\x01\x11\x06\x03x\x07\x00\x00\x11\x06\x03y\x11\x06\x02";
        let array = Value::StrictArray(vec![text("x")]);
        assert_eq!(decode_all(bytes, &Limits::DATA), Ok(vec![array.clone(), array, text("y"), text("y")]));
    }
}
