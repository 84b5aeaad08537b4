//! The values that AMF carries, in one type for both versions.

use bytes::Bytes;

/// One AMF value. AMF3 is decoded into the same variants: an integer becomes a number, a vector a strict array.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Boolean(bool),
    String(String),
    Object(Properties),
    Null,
    Undefined,
    /// An object that its sender called an array. Clients use either word for the same thing, and so must readers.
    EcmaArray(Properties),
    StrictArray(Vec<Self>),
    Date {
        ms: f64,
        /// Minutes from UTC; the format reserves it and everyone sends 0.
        zone: i16,
    },
    Unsupported,
    /// XML as text. It is never parsed.
    Xml(String),
    Typed {
        class: String,
        properties: Properties,
    },
    ByteArray(Bytes),
}

/// Names and values in the order in which they were sent. A `Vec`, because the number is small and because names that a peer
/// chose must not meet a hash function.
pub type Properties = Vec<(String, Value)>;

impl Value {
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The number as a transaction, stream or millisecond count: a whole number in range, else `None` (NaN, infinities,
    /// fractions and negatives are all things that peers send).
    pub fn as_u32(&self) -> Option<u32> {
        let number = self.as_number()?;
        let whole = number.trunc() == number && (0.0..=f64::from(u32::MAX)).contains(&number);
        whole.then_some(number as u32)
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The properties of an object, typed object or ECMA array.
    pub fn properties(&self) -> Option<&Properties> {
        match self {
            Self::Object(properties) | Self::EcmaArray(properties) | Self::Typed { properties, .. } => Some(properties),
            _ => None,
        }
    }

    /// The property of that name: exactly so spelt, else in any case (some clients send `tcurl`). Of duplicates the first wins.
    pub fn property(&self, name: &str) -> Option<&Self> {
        let properties = self.properties()?;
        let exact = properties.iter().find(|(key, _)| key == name);
        let found = exact.or_else(|| properties.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Boolean(flag)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_prefers_the_exact_name_then_takes_any_case() {
        let object = Value::Object(vec![
            ("tcurl".into(), "lower".into()),
            ("tcUrl".into(), "exact".into()),
            ("App".into(), "live".into()),
        ]);
        assert_eq!(object.property("tcUrl").and_then(Value::as_str), Some("exact"));
        assert_eq!(object.property("TCURL").and_then(Value::as_str), Some("lower"));
        assert_eq!(object.property("app").and_then(Value::as_str), Some("live"));
        assert_eq!(object.property("pageUrl"), None);
        assert_eq!(Value::Null.property("app"), None);
    }

    #[test]
    fn of_duplicate_names_the_first_wins() {
        let object = Value::EcmaArray(vec![("app".into(), "one".into()), ("app".into(), "two".into())]);
        assert_eq!(object.property("app").and_then(Value::as_str), Some("one"));
    }

    #[test]
    fn only_whole_numbers_in_range_are_counts() {
        for (number, expected) in [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (7.0, Some(7)),
            (4_294_967_295.0, Some(u32::MAX)),
            (4_294_967_296.0, None),
            (9_007_199_254_740_993.0, None),
            (1e308, None),
            (0.5, None),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::NEG_INFINITY, None),
        ] {
            assert_eq!(Value::Number(number).as_u32(), expected, "{number}");
        }
    }

    #[test]
    fn a_value_stays_small() {
        // A message of nulls turns each byte into one of these; the budget of values was chosen with this size.
        assert!(size_of::<Value>() <= 56, "{}", size_of::<Value>());
    }
}
