//! Commands: the remote calls of RTMP, and their answers.

use bytes::Bytes;

use super::message::kind;
use crate::protocol::amf::{self, AmfError, Decoder, Limits, Value};

/// One command message: a name, a transaction to answer to, and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    pub name: String,
    /// What the answer refers to; 0 asks for no answer.
    pub transaction: u32,
    /// The third value. An object in connect, null in nearly all others.
    pub object: Value,
    pub arguments: Vec<Value>,
}

impl Command {
    /// Reads a message of type 20 or 17. `Ok(None)`: it holds no name.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Option<Self>, AmfError> {
        let mut values = amf::decode_all(without_format(payload), limits)?.into_iter();
        let Some(Value::String(name)) = values.next() else { return Ok(None) };
        // Fractions, NaN and what no answer could refer to count as "no answer wanted".
        let transaction = values.next().and_then(|value| value.as_u32()).unwrap_or_default();
        let object = values.next().unwrap_or(Value::Null);
        Ok(Some(Self { name, transaction, object, arguments: values.collect() }))
    }

    pub fn text(&self, argument: usize) -> Option<&str> {
        self.arguments.get(argument)?.as_str()
    }

    /// A finite number, else `None`.
    pub fn number(&self, argument: usize) -> Option<f64> {
        self.arguments.get(argument)?.as_number().filter(|number| number.is_finite())
    }

    pub fn whole_number(&self, argument: usize) -> Option<u32> {
        self.arguments.get(argument)?.as_u32()
    }

    /// A flag, or a number that stands for one.
    pub fn flag(&self, argument: usize) -> Option<bool> {
        match self.arguments.get(argument)? {
            Value::Boolean(flag) => Some(*flag),
            Value::Number(number) => Some(*number != 0.0),
            _ => None,
        }
    }
}

/// The body of a command message: name, transaction, object and arguments.
pub fn encode(name: &str, transaction: u32, object: Value, arguments: &[Value]) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    amf::encode(&mut body, &name.into());
    amf::encode(&mut body, &f64::from(transaction).into());
    amf::encode(&mut body, &object);
    for argument in arguments {
        amf::encode(&mut body, argument);
    }
    body
}

/// The object of an onStatus, and of an `_error`.
pub fn status(level: &str, code: &str, description: &str) -> Value {
    Value::Object(vec![
        ("level".into(), level.into()),
        ("code".into(), code.into()),
        ("description".into(), description.into()),
    ])
}

/// A refusal that says where to go instead, as Flash media servers send it.
pub fn redirection(code: &str, description: &str, to: &str) -> Value {
    Value::Object(vec![
        ("level".into(), "error".into()),
        ("code".into(), code.into()),
        ("description".into(), description.into()),
        ("ex".into(), Value::Object(vec![("code".into(), 302.0.into()), ("redirect".into(), to.into())])),
    ])
}

/// What a data message (type 18 or 15) is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataMessage {
    /// `onMetaData` and its value, as AMF0 bytes. A `@setDataFrame` in front has been cut off.
    Metadata(Bytes),
    /// Another event (`onTextData`, `onCuePoint`, `onFI`, ...). The payload has the name in front.
    Event { name: String, payload: Bytes },
    /// What concerns only the two ends of a connection, or has no name.
    Nothing,
}

impl DataMessage {
    pub fn parse(kind: u8, payload: &Bytes, limits: &Limits) -> Result<Self, AmfError> {
        let payload = match kind {
            kind::DATA_AMF3 => payload.slice(payload.len() - without_format(payload).len()..),
            _ => payload.clone(),
        };
        let (mut name, mut body, rest) = Self::name(payload.clone(), limits)?;
        if name.eq_ignore_ascii_case("@setDataFrame") {
            (name, body, _) = Self::name(rest, limits)?;
        }
        Ok(match name.as_str() {
            "" | "@clearDataFrame" | "|RtmpSampleAccess" => Self::Nothing,
            text if text.eq_ignore_ascii_case("onMetaData") => Self::Metadata(body),
            _ => Self::Event { name, payload: body },
        })
    }

    /// The name in front (empty when there is none), the bytes with it, and those behind it.
    fn name(payload: Bytes, limits: &Limits) -> Result<(String, Bytes, Bytes), AmfError> {
        let mut decoder = Decoder::new(&payload, limits);
        let first = decoder.next()?;
        let rest = payload.slice(payload.len() - decoder.rest().len()..);
        match first {
            Some(Value::String(name)) => Ok((name, payload, rest)),
            _ => Ok((String::new(), payload, rest)),
        }
    }
}

/// Types 15 and 17 begin with one byte 0, the format selector; some senders leave it out. No AMF0 name begins with 0.
fn without_format(payload: &[u8]) -> &[u8] {
    payload.strip_prefix(&[0]).unwrap_or(payload)
}

/// The property of `connect` in which relays of livemill say the nodes they come through. Others leave it alone.
pub const ROUTE: &str = "livemillRoute";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_read_with_and_without_the_format_byte() {
        let body = encode("publish", 5, Value::Null, &["cam".into(), "live".into()]);
        let with = [&[0][..], &body].concat();
        let plain = Command::parse(&body, &Limits::COMMAND).expect("sound").expect("named");
        assert_eq!(Command::parse(&with, &Limits::COMMAND), Ok(Some(plain.clone())));
        assert_eq!((plain.name.as_str(), plain.transaction, plain.text(0)), ("publish", 5, Some("cam")));
    }

    #[test]
    fn transactions_that_are_no_whole_numbers_ask_for_no_answer() {
        for number in [f64::NAN, f64::INFINITY, -1.0, 0.5, 1e308] {
            let body = amf::encode_all(&["x".into(), number.into()]);
            assert_eq!(
                Command::parse(&body, &Limits::COMMAND).map(|command| command.map(|c| c.transaction)),
                Ok(Some(0))
            );
        }
    }

    #[test]
    fn command_without_a_name_is_none() {
        assert_eq!(Command::parse(&[], &Limits::COMMAND), Ok(None));
        assert_eq!(Command::parse(&amf::encode_all(&[Value::Null]), &Limits::COMMAND), Ok(None));
    }

    #[test]
    fn metadata_loses_its_set_data_frame() {
        let value = Value::EcmaArray(vec![("width".into(), 640.0.into())]);
        let bare = Bytes::from(amf::encode_all(&["onMetaData".into(), value.clone()]));
        let framed = Bytes::from(amf::encode_all(&["@setDataFrame".into(), "onMetaData".into(), value]));
        for (kind, payload) in
            [(18, bare.clone()), (18, framed.clone()), (15, framed.clone()), (15, [&[0][..], &framed].concat().into())]
        {
            assert_eq!(DataMessage::parse(kind, &payload, &Limits::DATA), Ok(DataMessage::Metadata(bare.clone())));
        }
    }

    #[test]
    fn other_data_keeps_its_name() {
        let text = Bytes::from(amf::encode_all(&["onTextData".into(), "hi".into()]));
        assert_eq!(
            DataMessage::parse(18, &text, &Limits::DATA),
            Ok(DataMessage::Event { name: "onTextData".into(), payload: text.clone() })
        );
        for own in ["@clearDataFrame", "|RtmpSampleAccess"] {
            let payload = Bytes::from(amf::encode_all(&[own.into(), true.into()]));
            assert_eq!(DataMessage::parse(18, &payload, &Limits::DATA), Ok(DataMessage::Nothing));
        }
        assert_eq!(DataMessage::parse(18, &Bytes::new(), &Limits::DATA), Ok(DataMessage::Nothing));
    }
}
