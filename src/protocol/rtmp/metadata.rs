//! `onMetaData` as players can bear it.

use bytes::Bytes;

use crate::protocol::amf::{self, AmfError, Limits, Properties, Value};

/// Takes what a publisher sent after `@setDataFrame` and writes what its players get: an ECMA array with the publisher's
/// own properties in their order, less the values that stop a player (ffmpeg gives up on undefined, references, XML and
/// typed objects), and the name of this server.
pub fn for_players(published: &[u8], limits: &Limits) -> Result<Bytes, AmfError> {
    let values = amf::decode_all(published, limits)?;
    let mut kept: Properties = vec![("Server".to_owned(), Value::String(SERVER.to_owned()))];
    for value in &values {
        let Some(properties) = value.properties() else { continue };
        kept.extend(properties.iter().filter(|(name, _)| name != "Server").filter_map(bearable));
    }
    let message = [Value::String("onMetaData".to_owned()), Value::EcmaArray(kept)];
    Ok(amf::encode_all(&message).into())
}

fn bearable((name, value): &(String, Value)) -> Option<(String, Value)> {
    let value = match value {
        Value::Number(_) | Value::Boolean(_) | Value::String(_) | Value::Null | Value::Date { .. } => value.clone(),
        Value::Object(properties) | Value::Typed { properties, .. } => {
            Value::Object(properties.iter().filter_map(bearable).collect())
        }
        Value::EcmaArray(properties) => Value::EcmaArray(properties.iter().filter_map(bearable).collect()),
        Value::StrictArray(values) => Value::StrictArray(
            values
                .iter()
                .filter_map(|value| bearable(&(String::new(), value.clone())))
                .map(|(_, value)| value)
                .collect(),
        ),
        _ => return None,
    };
    Some((name.clone(), value))
}

/// What stands where nginx-rtmp names itself.
const SERVER: &str = concat!("livemill/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_get_the_publishers_properties_less_what_stops_them() {
        let published = amf::encode_all(&[
            Value::String("onMetaData".into()),
            Value::Object(vec![
                ("width".into(), Value::Number(1280.0)),
                ("broken".into(), Value::Undefined),
                ("nested".into(), Value::Object(vec![("x".into(), Value::Unsupported), ("y".into(), Value::Null)])),
            ]),
        ]);
        let seen = amf::decode_all(&for_players(&published, &Limits::DATA).unwrap(), &Limits::DATA).unwrap();
        assert_eq!(seen[0].as_str(), Some("onMetaData"));
        let Value::EcmaArray(properties) = &seen[1] else { panic!("players expect an ECMA array") };
        assert_eq!(
            properties[1..],
            [
                ("width".to_owned(), Value::Number(1280.0)),
                ("nested".to_owned(), Value::Object(vec![("y".to_owned(), Value::Null)])),
            ]
        );
    }

    #[test]
    fn what_is_not_amf_is_an_error() {
        assert!(for_players(&[0xFF; 9], &Limits::DATA).is_err());
    }
}
