//! Reads AMF0, liberally: objects and ECMA arrays alike, end markers optional, counts taken as hints.

use super::amf3::Amf3;
use super::reader::Reader;
use super::{AmfError, Limits, Properties, Value};

/// Reads a message one value at a time.
///
/// ```
/// use livemill::protocol::amf::{Decoder, Limits, Value};
/// let mut decoder = Decoder::new(b"\x02\x00\x02ok\x05", &Limits::COMMAND);
/// assert_eq!(decoder.next(), Ok(Some(Value::String("ok".into()))));
/// assert_eq!(decoder.rest(), b"\x05");
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    reader: Reader<'a>,
    /// The objects and arrays so far. A reference reads its target again from where it stands in the message: nothing has to be
    /// kept for a feature that almost no message uses, and what is repeated pays like everything else.
    complex: Vec<Complex>,
    amf3: Amf3<'a>,
    /// Inside a repeated value, whose parts are in the tables already.
    repeating: bool,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        Self { reader: Reader::new(bytes, limits), complex: Vec::new(), amf3: Amf3::default(), repeating: false }
    }

    /// The next value, or `None` at the end of the message. After an error there is no next value to find: give up the message.
    #[allow(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Value>, AmfError> {
        if self.reader.rest().is_empty() {
            return Ok(None);
        }
        self.value(0).map(Some)
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// `depth` is the number of containers around the value; it bounds the recursion here and in everything that later walks or
    /// frees the value.
    fn value(&mut self, depth: usize) -> Result<Value, AmfError> {
        self.reader.charge_value()?;
        let at = self.reader.at();
        let marker = self.reader.u8()?;
        match marker {
            0x00 => Ok(Value::Number(self.reader.f64()?)),
            0x01 => Ok(Value::Boolean(self.reader.u8()? != 0)),
            0x02 => Ok(Value::String(self.string()?)),
            0x03 => self.complex(at, depth, |this, depth| Ok(Value::Object(this.properties(depth)?))),
            0x05 => Ok(Value::Null),
            0x06 => Ok(Value::Undefined),
            0x07 => self.reference(at, depth),
            0x08 => self.complex(at, depth, |this, depth| {
                // The count is a hint: OBS writes 20 whatever follows.
                this.reader.u32()?;
                Ok(Value::EcmaArray(this.properties(depth)?))
            }),
            0x0a => self.complex(at, depth, |this, depth| Ok(Value::StrictArray(this.items(depth)?))),
            0x0b => Ok(Value::Date { ms: self.reader.f64()?, zone: self.reader.u16()?.cast_signed() }),
            0x0c => Ok(Value::String(self.long_string()?)),
            0x0d => Ok(Value::Unsupported),
            0x0f => Ok(Value::Xml(self.long_string()?)),
            0x10 => self.complex(at, depth, |this, depth| {
                Ok(Value::Typed { class: this.string()?, properties: this.properties(depth)? })
            }),
            0x11 => self.amf3.value(&mut self.reader, depth),
            // 04 movie clip and 0E record set are reserved, 09 only ends an object.
            _ => Err(AmfError::Marker { marker, at }),
        }
    }

    /// Reads a container, and makes it known to references once it is finished, so that no cycle can be built.
    fn complex(
        &mut self,
        at: usize,
        depth: usize,
        read: impl FnOnce(&mut Self, usize) -> Result<Value, AmfError>,
    ) -> Result<Value, AmfError> {
        let depth = depth + 1;
        self.reader.check_depth(depth)?;
        if self.repeating {
            return read(self, depth);
        }
        // The place in the table goes by where a value begins.
        let index = self.complex.len();
        self.complex.push(Complex { at, finished: false });
        let value = read(self, depth)?;
        if let Some(complex) = self.complex.get_mut(index) {
            complex.finished = true;
        }
        Ok(value)
    }

    fn reference(&mut self, at: usize, depth: usize) -> Result<Value, AmfError> {
        let index = usize::from(self.reader.u16()?);
        let target = self.complex.get(index).filter(|complex| complex.finished).map(|complex| complex.at);
        let target = target.ok_or(AmfError::Reference { index, at })?;
        let (back, was_repeating) = (self.reader.at(), self.repeating);
        self.repeating = true;
        self.amf3.repeating += 1;
        self.reader.seek(target);
        // Only containers are in the table, so each repetition also goes one deeper and the recursion stays bounded.
        let value = self.value(depth)?;
        self.reader.seek(back);
        self.amf3.repeating -= 1;
        self.repeating = was_repeating;
        Ok(value)
    }

    fn properties(&mut self, depth: usize) -> Result<Properties, AmfError> {
        let mut properties = Properties::new();
        loop {
            // Some encoders (Envivio) leave out the end marker of the last array: the end of the message ends it too.
            match self.reader.rest() {
                [] | [0] | [0, 0] => {
                    self.reader.take(self.reader.rest().len())?;
                    return Ok(properties);
                }
                [0, 0, 9, ..] => {
                    self.reader.take(3)?;
                    return Ok(properties);
                }
                _ => {}
            }
            self.reader.check_keys(properties.len() + 1)?;
            let key = self.string()?;
            let value = self.value(depth)?;
            properties.push((key, value));
        }
    }

    fn items(&mut self, depth: usize) -> Result<Vec<Value>, AmfError> {
        let count = self.reader.u32()?;
        // The count is a promise by the peer: the list grows with what is really there.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth)?);
        }
        Ok(items)
    }

    fn string(&mut self) -> Result<String, AmfError> {
        let len = self.reader.u16()?;
        let bytes = self.reader.take_text(usize::from(len))?;
        self.reader.text(bytes)
    }

    fn long_string(&mut self) -> Result<String, AmfError> {
        let len = self.reader.u32()?;
        let bytes = self.reader.take_text(usize::try_from(len).unwrap_or(usize::MAX))?;
        self.reader.text(bytes)
    }
}

/// Every value of a message.
pub fn decode_all(bytes: &[u8], limits: &Limits) -> Result<Vec<Value>, AmfError> {
    let mut decoder = Decoder::new(bytes, limits);
    let mut values = Vec::new();
    while let Some(value) = decoder.next()? {
        values.push(value);
    }
    Ok(values)
}

#[derive(Debug)]
struct Complex {
    at: usize,
    finished: bool,
}

#[cfg(test)]
mod tests {
    use super::super::{encode, encode_all};
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Value>, AmfError> {
        decode_all(bytes, &Limits::DATA)
    }

    fn text(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn every_marker_reads_as_the_standard_says() {
        for (bytes, expected) in [
            (&b"\x00\x3f\xf0\0\0\0\0\0\0"[..], Value::Number(1.0)),
            (b"\x01\x00", Value::Boolean(false)),
            (b"\x01\x02", Value::Boolean(true)),
            (b"\x02\x00\x04live", text("live")),
            (b"\x02\x00\x00", text("")),
            (b"\x03\x00\x01a\x05\x00\x00\x09", Value::Object(vec![("a".into(), Value::Null)])),
            (b"\x03\x00\x00\x09", Value::Object(vec![])),
            (b"\x05", Value::Null),
            (b"\x06", Value::Undefined),
            (
                b"\x08\x00\x00\x00\x01\x00\x01a\x01\x01\x00\x00\x09",
                Value::EcmaArray(vec![("a".into(), Value::Boolean(true))]),
            ),
            (b"\x0a\x00\x00\x00\x02\x05\x06", Value::StrictArray(vec![Value::Null, Value::Undefined])),
            (b"\x0b\x40\x00\0\0\0\0\0\0\xff\xc4", Value::Date { ms: 2.0, zone: -60 }),
            (b"\x0c\x00\x00\x00\x03abc", text("abc")),
            (b"\x0d", Value::Unsupported),
            (b"\x0f\x00\x00\x00\x04<a/>", Value::Xml("<a/>".into())),
            (
                b"\x10\x00\x01C\x00\x01a\x05\x00\x00\x09",
                Value::Typed { class: "C".into(), properties: vec![("a".into(), Value::Null)] },
            ),
        ] {
            assert_eq!(decode(bytes), Ok(vec![expected]), "{bytes:02x?}");
        }
    }

    #[test]
    fn reserved_and_unknown_markers_are_refused() {
        for marker in [0x04, 0x09, 0x0e, 0x12, 0xff] {
            assert_eq!(decode(&[0x05, marker, 0, 0]), Err(AmfError::Marker { marker, at: 1 }), "{marker:#x}");
        }
    }

    #[test]
    fn a_connect_as_ffmpeg_sends_it_reads_in_order() {
        let values = [
            text("connect"),
            Value::Number(1.0),
            Value::Object(vec![
                ("app".into(), text("live")),
                ("fourCcList".into(), Value::StrictArray(vec![text("hvc1"), text("av01"), text("vp09")])),
                ("type".into(), text("nonprivate")),
                ("flashVer".into(), text("FMLE/3.0 (compatible; Lavf62.3.100)")),
                ("tcUrl".into(), text("rtmp://127.0.0.1:1935/live")),
            ]),
        ];
        let bytes = encode_all(&values);
        assert_eq!(decode_all(&bytes, &Limits::COMMAND), Ok(values.to_vec()));
        let mut decoder = Decoder::new(&bytes, &Limits::COMMAND);
        assert_eq!(decoder.next(), Ok(Some(text("connect"))));
        assert_eq!(decoder.rest().first(), Some(&0x00));
    }

    #[test]
    fn an_ecma_array_ends_at_its_marker_whatever_its_count_says() {
        for count in [0_u32, 1, 20, u32::MAX] {
            let mut bytes = vec![0x08];
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(b"\x00\x01a\x05\x00\x01b\x06\x00\x00\x09\x05");
            let array = Value::EcmaArray(vec![("a".into(), Value::Null), ("b".into(), Value::Undefined)]);
            assert_eq!(decode(&bytes), Ok(vec![array, Value::Null]), "{count}");
        }
    }

    #[test]
    fn a_missing_end_marker_is_forgiven_at_the_end_of_the_message() {
        let array = Value::EcmaArray(vec![("a".into(), Value::Null)]);
        for end in [&b""[..], b"\x00", b"\x00\x00", b"\x00\x00\x09"] {
            let bytes = [b"\x08\x00\x00\x00\x01\x00\x01a\x05", end].concat();
            assert_eq!(decode(&bytes), Ok(vec![array.clone()]), "{end:02x?}");
        }
        assert_eq!(decode(b"\x03\x00\x01a\x03"), Ok(vec![Value::Object(vec![("a".into(), Value::Object(vec![]))])]));
    }

    #[test]
    fn a_message_cut_inside_a_value_is_an_error() {
        let whole = encode_all(&[
            text("@setDataFrame"),
            Value::StrictArray(vec![Value::Number(1.0), Value::Date { ms: 1.0, zone: 0 }, Value::Xml("x".into())]),
        ]);
        let boundary = encode_all(&[text("@setDataFrame")]).len();
        for cut in (1..whole.len()).filter(|cut| *cut != boundary) {
            assert!(matches!(decode(&whole[..cut]), Err(AmfError::Truncated { .. })), "{cut}");
        }
    }

    #[test]
    fn nesting_is_read_to_the_limit_and_refused_beyond() {
        for (open, name) in [
            (&b"\x0a\x00\x00\x00\x01"[..], "strict"),
            (b"\x03\x00\x01a", "object"),
            (b"\x08\0\0\0\x01\x00\x01a", "ecma"),
        ] {
            let nested = |depth: usize| [open.repeat(depth), vec![0x05]].concat();
            assert!(decode(&nested(32)).is_ok(), "{name}");
            for depth in [33, 200_000] {
                let error = decode(&nested(depth)).expect_err(name);
                assert!(matches!(error, AmfError::TooDeep { limit: 32, .. }), "{name} {error}");
            }
        }
    }

    #[test]
    fn a_count_is_no_reason_to_allocate() {
        assert_eq!(decode(b"\x0a\xff\xff\xff\xff\x05\x05\x05\x05\x05"), Err(AmfError::Truncated { at: 10 }));
        assert!(matches!(decode(b"\x0c\xff\xff\xff\xffabcde"), Err(AmfError::TooLong { .. })));
        assert!(matches!(decode(b"\x0f\xff\xff\xff\xffabcde"), Err(AmfError::TooLong { .. })));
        assert_eq!(decode(b"\x02\x00\x06abcde"), Err(AmfError::Truncated { at: 3 }));
    }

    #[test]
    fn values_keys_and_strings_have_limits() {
        let nulls = vec![0x05; 10_001];
        assert!(decode(&nulls[1..]).is_ok());
        assert_eq!(decode(&nulls), Err(AmfError::TooManyValues { limit: 10_000, at: 10_000 }));

        let keys = |count: usize| [vec![0x03], b"\x00\x01a\x05".repeat(count)].concat();
        assert!(decode(&keys(1_024)).is_ok());
        assert!(matches!(decode(&keys(1_025)), Err(AmfError::TooManyKeys { limit: 1_024, .. })));

        let string = |len: usize| [vec![0x0c], (len as u32).to_be_bytes().to_vec(), vec![b'a'; len]].concat();
        assert!(decode_all(&string(8_192), &Limits::COMMAND).is_ok());
        assert!(matches!(decode_all(&string(8_193), &Limits::COMMAND), Err(AmfError::TooLong { len: 8_193, .. })));
        assert!(decode(&string(65_536)).is_ok());
        assert!(matches!(decode(&string(65_537)), Err(AmfError::TooLong { .. })));
        let long_key = [&b"\x03\xff\xff"[..], &[b'k'; 65_535], &[0x05]].concat();
        assert!(matches!(decode_all(&long_key, &Limits::COMMAND), Err(AmfError::TooLong { .. })));
    }

    #[test]
    fn invalid_utf8_becomes_the_replacement_character() {
        assert_eq!(decode(b"\x02\x00\x03a\xff\x00"), Ok(vec![text("a\u{fffd}\0")]));
        // A lone surrogate, as Java's "modified UTF-8" would write one.
        assert_eq!(decode(b"\x02\x00\x03\xed\xa0\x80"), Ok(vec![text("\u{fffd}\u{fffd}\u{fffd}")]));
    }

    #[test]
    fn duplicate_and_empty_names_are_kept_as_sent() {
        let object =
            Value::Object(vec![("a".into(), Value::Null), ("".into(), Value::Undefined), ("a".into(), text("x"))]);
        assert_eq!(decode(&encode_all(std::slice::from_ref(&object))), Ok(vec![object]));
    }

    #[test]
    fn a_reference_repeats_a_finished_value() {
        // {a: [null]} and then references to the object (0) and to the array inside it (1).
        let object = Value::Object(vec![("a".into(), Value::StrictArray(vec![Value::Null]))]);
        let bytes = b"\x03\x00\x01a\x0a\x00\x00\x00\x01\x05\x00\x00\x09\x07\x00\x00\x07\x00\x01\x06";
        let array = Value::StrictArray(vec![Value::Null]);
        assert_eq!(decode(bytes), Ok(vec![object.clone(), object, array, Value::Undefined]));
    }

    #[test]
    fn a_reference_to_nothing_finished_is_an_error() {
        assert_eq!(decode(b"\x07\x00\x00"), Err(AmfError::Reference { index: 0, at: 0 }));
        // An array that holds itself.
        assert_eq!(decode(b"\x0a\x00\x00\x00\x01\x07\x00\x00"), Err(AmfError::Reference { index: 0, at: 5 }));
        assert_eq!(decode(b"\x03\x00\x01a\x07\x00\x01"), Err(AmfError::Reference { index: 1, at: 4 }));
    }

    #[test]
    fn references_that_double_run_out_of_values() {
        // Array n holds two references to array n - 1: 2^n values from 11 bytes each.
        let mut bomb = b"\x0a\x00\x00\x00\x01\x05".to_vec();
        for index in 0..30_u8 {
            bomb.extend_from_slice(b"\x0a\x00\x00\x00\x02\x07\x00");
            bomb.push(index);
            bomb.extend_from_slice(b"\x07\x00");
            bomb.push(index);
        }
        assert!(matches!(decode(&bomb), Err(AmfError::TooManyValues { .. })));
    }

    #[test]
    fn references_that_chain_run_into_the_depth_limit() {
        let mut chain = b"\x0a\x00\x00\x00\x00".to_vec();
        for index in 0..40_u8 {
            chain.extend_from_slice(b"\x0a\x00\x00\x00\x01\x07\x00");
            chain.push(index);
        }
        assert!(matches!(decode(&chain), Err(AmfError::TooDeep { .. })));
    }

    #[test]
    fn references_that_repeat_text_run_out_of_text() {
        let mut bomb = [&b"\x0a\x00\x00\x00\x01\x0c\x00\x00\xff\xff"[..], &[b'a'; 65_535]].concat();
        bomb.extend(b"\x07\x00\x00".repeat(4_000));
        assert!(matches!(decode(&bomb), Err(AmfError::TooMuchText { .. })));
    }

    #[test]
    fn strange_numbers_are_read_as_they_are() {
        for number in [f64::INFINITY, f64::NEG_INFINITY, 1e308, -0.0, 9_007_199_254_740_993.0] {
            let decoded = decode(&encode_all(&[Value::Number(number)])).expect("a number");
            assert_eq!(decoded[0].as_number().map(f64::to_bits), Some(number.to_bits()));
        }
        assert!(decode(b"\x00\x7f\xf8\0\0\0\0\0\0").expect("NaN")[0].as_number().is_some_and(f64::is_nan));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            prop::num::f64::ANY.prop_filter("NaN equals nothing", |number| !number.is_nan()).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            ".{0,12}".prop_map(Value::String),
            Just(Value::String("long".repeat(20_000))),
            Just(Value::Null),
            Just(Value::Undefined),
            Just(Value::Unsupported),
            ".{0,12}".prop_map(Value::Xml),
            (-1e15..1e15_f64, any::<i16>()).prop_map(|(ms, zone)| Value::Date { ms, zone }),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::ByteArray(Bytes::from(bytes))),
        ];
        leaf.prop_recursive(6, 60, 6, |inner| {
            let properties = prop::collection::vec((".{0,6}", inner.clone()), 0..6);
            prop_oneof![
                properties.clone().prop_map(Value::Object),
                properties.clone().prop_map(Value::EcmaArray),
                prop::collection::vec(inner, 0..6).prop_map(Value::StrictArray),
                (".{0,6}", properties).prop_map(|(class, properties)| Value::Typed { class, properties }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(values in prop::collection::vec(any_value(), 0..4)) {
            let limits = Limits { string_bytes: 1 << 20, ..Limits::DATA };
            prop_assert_eq!(decode_all(&encode_all(&values), &limits), Ok(values));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(values) = decode(&bytes) {
                let mut again = Vec::new();
                values.iter().for_each(|value| encode(&mut again, value));
                prop_assert!(values.len() <= bytes.len());
            }
        }
    }
}
