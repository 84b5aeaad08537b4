//! A cursor over one message that knows what the message may still cost.

use thiserror::Error;

/// What one message may cost its reader. A peer chooses every count and every length in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Containers within containers.
    pub depth: usize,
    /// Values in the message, counting those that references repeat.
    pub values: usize,
    /// Properties of one object.
    pub keys: usize,
    /// Bytes of one string, name or byte array.
    pub string_bytes: usize,
}

impl Limits {
    /// For commands. The largest connect seen has about 20 values, among them one list of FourCCs; a thousand leaves room and
    /// keeps what a peer costs before it is accepted near the 64 KiB that is allowed for it.
    pub const COMMAND: Self = Self { depth: 32, values: 1_000, keys: 1_024, string_bytes: 8 * 1024 };

    /// For metadata, which may hold the keyframe index of a whole film.
    pub const DATA: Self = Self { depth: 32, values: 10_000, keys: 1_024, string_bytes: 64 * 1024 };
}

/// Why a message could not be read. `at` is the offset in the message where the trouble starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AmfError {
    #[error("AMF value ends in mid-air at byte {at}")]
    Truncated { at: usize },
    #[error("AMF marker {marker:#04x} at byte {at} is unknown or reserved")]
    Marker { marker: u8, at: usize },
    #[error("AMF nesting deeper than {limit} at byte {at}")]
    TooDeep { limit: usize, at: usize },
    #[error("more than {limit} AMF values in one message at byte {at}")]
    TooManyValues { limit: usize, at: usize },
    #[error("more than {limit} properties in one AMF object at byte {at}")]
    TooManyKeys { limit: usize, at: usize },
    #[error("AMF string of {len} bytes at byte {at}; the limit is {limit}")]
    TooLong { len: usize, limit: usize, at: usize },
    #[error("AMF references at byte {at} repeat more text than the message may cost")]
    TooMuchText { at: usize },
    #[error("AMF reference {index} at byte {at} names nothing that is finished")]
    Reference { index: usize, at: usize },
    #[error("AMF3 object at byte {at} has a format private to its class")]
    Externalizable { at: usize },
}

/// The bytes, where we are in them, and what is left of the budget.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    limits: Limits,
    values_left: usize,
    /// Without references the text of a message cannot exceed the message, so this only ever ends a reference bomb.
    text_left: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        let text_left = bytes.len().saturating_add(limits.string_bytes);
        Self { bytes, at: 0, limits: *limits, values_left: limits.values, text_left }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes back to where a finished value began. What is read from there costs as it did the first time.
    pub(super) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn charge_value(&mut self) -> Result<(), AmfError> {
        let error = AmfError::TooManyValues { limit: self.limits.values, at: self.at };
        self.values_left = self.values_left.checked_sub(1).ok_or(error)?;
        Ok(())
    }

    pub(super) fn check_depth(&self, depth: usize) -> Result<(), AmfError> {
        if depth > self.limits.depth {
            return Err(AmfError::TooDeep { limit: self.limits.depth, at: self.at });
        }
        Ok(())
    }

    pub(super) fn check_keys(&self, keys: usize) -> Result<(), AmfError> {
        if keys > self.limits.keys {
            return Err(AmfError::TooManyKeys { limit: self.limits.keys, at: self.at });
        }
        Ok(())
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], AmfError> {
        let (taken, _) = self.rest().split_at_checked(len).ok_or(AmfError::Truncated { at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    /// The bytes of a string or byte array whose length the peer chose. Nothing is copied yet.
    pub(super) fn take_text(&mut self, len: usize) -> Result<&'a [u8], AmfError> {
        if len > self.limits.string_bytes {
            return Err(AmfError::TooLong { len, limit: self.limits.string_bytes, at: self.at });
        }
        self.take(len)
    }

    /// Pays for a copy of bytes that may have been copied before.
    pub(super) fn charge_text(&mut self, len: usize) -> Result<(), AmfError> {
        self.text_left = self.text_left.checked_sub(len).ok_or(AmfError::TooMuchText { at: self.at })?;
        Ok(())
    }

    /// Invalid UTF-8 becomes U+FFFD; names for streams are validated by those who use them, and refuse it.
    pub(super) fn text(&mut self, bytes: &[u8]) -> Result<String, AmfError> {
        self.charge_text(bytes.len())?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], AmfError> {
        let (taken, _) = self.rest().split_first_chunk::<N>().ok_or(AmfError::Truncated { at: self.at })?;
        self.at += N;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, AmfError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, AmfError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, AmfError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn f64(&mut self) -> Result<f64, AmfError> {
        self.array().map(f64::from_be_bytes)
    }
}
