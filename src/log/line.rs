//! Makes text that a peer chose safe for a log line.

use std::borrow::Cow;
use std::fmt::Write;

/// Appends `text` with everything escaped that could forge a line, a field or a terminal sequence.
///
/// The form is nginx's: `\xHH` for each byte. Quotes and backslashes are escaped too, so a quoted field ends where it
/// seems to. Letters of any script stay readable.
pub fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        if character == '"' || character == '\\' || is_unsafe(character) {
            push_bytes_escaped(out, character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            out.push(character);
        }
    }
}

/// Appends bytes that are not text, each as `\xHH`.
pub fn push_bytes_escaped(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02X}");
    }
}

/// Whether a character would be acted on, not shown, by a terminal or a log reader: control characters, and the marks that
/// reorder or hide the text around them.
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// Hides the value of every secret argument in a query (`a=1&key=…`) or in an address that ends in one.
///
/// The last four characters stay, so that an operator can tell keys apart; of a value too short for that, none.
pub fn mask_query(text: &str) -> Cow<'_, str> {
    mask(text, |character| character == '&')
}

/// As [`mask_query`], for prose that may hold an address: a value also ends at a blank, a quote or a comma.
pub fn mask_text(text: &str) -> Cow<'_, str> {
    mask(text, |character| character.is_whitespace() || matches!(character, '&' | '#' | ',' | '"' | '\''))
}

/// Whether a query argument of this name carries a secret. The name may be percent-encoded: the server would decode it too.
pub fn is_secret_argument(name: &str) -> bool {
    let name = decode_percent(name);
    SECRET_ARGUMENTS.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// What stands in a log for a secret value.
pub fn masked_value(value: &str) -> String {
    let length = value.chars().count();
    let shown = if length >= SHORTEST_SHOWN { SHOWN_CHARACTERS } else { 0 };
    let tail: String = value.chars().skip(length - shown).collect();
    format!("****{tail}")
}

/// Cuts `text` to at most `limit` bytes, on a character.
pub fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

fn mask(text: &str, ends_value: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains('=') {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut copied = 0;
    let mut from = 0;
    while let Some(equals) = text.get(from..).and_then(|rest| rest.find('=')).map(|at| from + at) {
        let head = text.get(from..equals).unwrap_or_default();
        let name = head.rsplit(|character: char| !is_name_character(character)).next().unwrap_or_default();
        let value_start = equals + 1;
        from = value_start;
        if !is_secret_argument(name) {
            continue;
        }
        let rest = text.get(value_start..).unwrap_or_default();
        let value = rest.get(..rest.find(&ends_value).unwrap_or(rest.len())).unwrap_or_default();
        if !value.is_empty() {
            out.push_str(text.get(copied..value_start).unwrap_or_default());
            out.push_str(&masked_value(value));
            copied = value_start + value.len();
        }
        // A value may hold `=` itself; what follows it belongs to the secret.
        from = value_start + value.len();
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

fn is_name_character(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '-' | '%' | '.')
}

fn decode_percent(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = (byte == b'%')
            .then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match decoded {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// `key` is the publish key; the others are what the family's encoders and hooks call theirs.
const SECRET_ARGUMENTS: &[&str] = &["key", "token", "secret", "password", "pass", "streamkey", "stream_key"];
const SHOWN_CHARACTERS: usize = 4;
/// Four characters of a shorter value would give too much of it away.
const SHORTEST_SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        push_escaped(&mut out, text);
        out
    }

    #[test]
    fn control_bytes_and_quotes_cannot_forge_a_line() {
        assert_eq!(escaped("a\r\nb\t\u{1b}[31m\"\\\0"), r"a\x0D\x0Ab\x09\x1B[31m\x22\x5C\x00");
    }

    #[test]
    fn marks_that_reorder_text_are_shown_as_bytes() {
        assert_eq!(escaped("a\u{202E}b\u{85}"), r"a\xE2\x80\xAEb\xC2\x85");
    }

    #[test]
    fn letters_of_any_script_stay_readable() {
        assert_eq!(escaped("直播 école"), "直播 école");
    }

    #[test]
    fn a_secret_argument_keeps_its_last_four_characters() {
        assert_eq!(mask_query("a=1&key=0123456789abcdef&b=2"), "a=1&key=****cdef&b=2");
        assert_eq!(mask_query("rtmp://host/live?token=0123456789abcdef"), "rtmp://host/live?token=****cdef");
    }

    #[test]
    fn a_short_secret_is_hidden_whole() {
        assert_eq!(mask_query("key=hunter2"), "key=****");
    }

    #[test]
    fn a_secret_is_found_in_any_spelling_of_its_name() {
        assert_eq!(mask_query("KEY=0123456789abcdef"), "KEY=****cdef");
        assert_eq!(mask_query("%6bey=0123456789abcdef"), "%6bey=****cdef");
    }

    #[test]
    fn a_secret_holding_equals_signs_and_blanks_is_hidden_whole() {
        assert_eq!(mask_query("key=0123=4567 89&c=d=e"), "key=****7 89&c=d=e");
    }

    #[test]
    fn arguments_that_only_look_like_a_secret_stay() {
        assert_eq!(mask_query("monkey=0123456789abcdef&k=1&key="), "monkey=0123456789abcdef&k=1&key=");
    }

    #[test]
    fn prose_after_an_address_is_not_hidden() {
        assert_eq!(mask_text("refused \"x?key=0123456789abcdef\", by rule"), "refused \"x?key=****cdef\", by rule");
    }

    proptest! {
        #[test]
        fn no_text_reaches_a_line_unescaped(text in ".*") {
            let line = escaped(&text);
            prop_assert!(!line.chars().any(|character| is_unsafe(character) || character == '"'));
        }

        #[test]
        fn no_secret_survives_masking(before in ".*", secret in "[A-Za-z0-9]{16,64}", after in "(&[^k].*)?") {
            let query = format!("{before}&key={secret}{after}");
            prop_assert!(!mask_query(&query).contains(&secret));
            prop_assert!(!mask_text(&query).contains(&secret));
        }

        #[test]
        fn text_without_secrets_is_left_alone(text in "[^=]*(=[^=]*)?") {
            prop_assume!(!text.to_lowercase().contains(['k', 't', 's', 'p']) && !text.contains('%'));
            prop_assert_eq!(mask_query(&text), text.as_str());
        }
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("直播", 4), "直");
        assert_eq!(cut("ab", 9), "ab");
    }
}
