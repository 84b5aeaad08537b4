//! Stream names: parsed once, safe as a file name from then on.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// What a stream is called. Two keys are equal exactly when they mean the same stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct StreamKey {
    /// The id of the configured server, never what a peer typed.
    pub vhost: Box<str>,
    pub app: Box<str>,
    /// Empty when the publisher gave no stream key, which OBS allows.
    pub name: Box<str>,
}

/// Why a name that a peer sent is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    #[error("the application name is empty")]
    NoApplication,
    #[error("a part between slashes is empty")]
    EmptySegment,
    #[error("a part between slashes is longer than {MAX_SEGMENT_BYTES} bytes")]
    SegmentTooLong,
    #[error("more than {MAX_SEGMENTS} parts between slashes")]
    TooManySegments,
    #[error("application and name are longer than {MAX_TOTAL_BYTES} bytes together")]
    TooLong,
    #[error("a part begins with '.' or '-', or ends with '.'")]
    BadEdge,
    #[error("byte 0x{0:02x} is not allowed in a name")]
    BadByte(u8),
    #[error("a percent sign without two hexadecimal digits")]
    BadEscape,
}

impl StreamKey {
    /// Takes `app` and `name` as a peer sent them, without their query. A prefix `mp4:`, `flv:` or `mp3:` of the name
    /// is stripped, then both are percent-decoded once. What remains is plain ASCII that no shell, log, playlist or
    /// file system reads as anything but a name; whatever else came is refused.
    pub fn parse(vhost: &str, app: &str, name: &str) -> Result<Self, NameError> {
        let name = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let (app, name) = (decode(app)?, decode(name)?);
        if app.is_empty() {
            return Err(NameError::NoApplication);
        }
        if app.len() + name.len() > MAX_TOTAL_BYTES {
            return Err(NameError::TooLong);
        }
        check_path(&app)?;
        if !name.is_empty() {
            check_path(&name)?;
        }
        Ok(Self { vhost: vhost.into(), app: app.into(), name: name.into() })
    }

    /// The stream's name as one component of a path: different names give different stems, and none leads elsewhere.
    /// It is the name itself wherever that is possible, because people look for it; a slash becomes `%2F`, and a name
    /// too long for a file keeps its beginning and ends in a digest.
    pub fn file_stem(&self) -> Cow<'_, str> {
        if self.name.is_empty() {
            // A lone escape sign, which no other stem consists of; an empty stem would make a hidden `.m3u8`.
            return Cow::Borrowed("%");
        }
        if self.name.len() <= MAX_STEM_BYTES && !self.name.contains('/') {
            return Cow::Borrowed(&self.name);
        }
        let mut stem = self.name.replace('/', "%2F");
        if stem.len() > MAX_STEM_BYTES {
            let digest = Sha256::digest(self.name.as_bytes());
            stem.truncate(MAX_STEM_BYTES - 1 - 2 * DIGEST_BYTES);
            stem.push('%');
            for byte in digest.iter().take(DIGEST_BYTES) {
                // Lower case: no digest can be mistaken for the escape of a slash.
                stem.push_str(&format!("{byte:02x}"));
            }
        }
        Cow::Owned(stem)
    }
}

/// `app/name`, as the logs and the control interface spell it.
impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

/// Decodes `%41` once. A slash or a zero that comes escaped is refused by its value, since whoever hides it means no
/// good by it: the other byte values are judged afterwards like any that came in the open.
fn decode(text: &str) -> Result<String, NameError> {
    let mut out = String::with_capacity(text.len().min(MAX_TOTAL_BYTES));
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let mut plain = byte;
        if byte == b'%' {
            let Some((&[high, low], tail)) = rest.split_first_chunk() else {
                return Err(NameError::BadEscape);
            };
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                return Err(NameError::BadEscape);
            };
            plain = high << 4 | low;
            rest = tail;
            if plain == b'/' {
                return Err(NameError::BadByte(plain));
            }
        }
        if !is_allowed(plain) && plain != b'/' {
            return Err(NameError::BadByte(plain));
        }
        if out.len() == MAX_TOTAL_BYTES {
            return Err(NameError::TooLong);
        }
        out.push(char::from(plain));
    }
    Ok(out)
}

fn check_path(path: &str) -> Result<(), NameError> {
    for (index, segment) in path.split('/').enumerate() {
        if index == MAX_SEGMENTS {
            return Err(NameError::TooManySegments);
        }
        if segment.is_empty() {
            return Err(NameError::EmptySegment);
        }
        if segment.len() > MAX_SEGMENT_BYTES {
            return Err(NameError::SegmentTooLong);
        }
        // '.' hides files and climbs out of folders, '-' becomes an option of a program, and a last '.' is lost on some
        // file systems.
        if segment.starts_with(['.', '-']) || segment.ends_with('.') {
            return Err(NameError::BadEdge);
        }
    }
    Ok(())
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~@+=,!-".contains(&byte)
}

/// What Flash players put before the name of a file; for a live stream it means nothing.
const PREFIXES: [&str; 3] = ["mp4:", "flv:", "mp3:"];
const MAX_SEGMENT_BYTES: usize = 128;
const MAX_SEGMENTS: usize = 8;
const MAX_TOTAL_BYTES: usize = 512;
/// File systems take 255 bytes; this leaves room for what is put behind a stem, such as `-1234567890.ts.tmp`.
const MAX_STEM_BYTES: usize = 200;
/// 128 bits: nobody finds two names with the same ones.
const DIGEST_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Result<StreamKey, NameError> {
        StreamKey::parse("default", "live", name)
    }

    #[test]
    fn ordinary_names_are_taken_as_they_are() {
        for name in ["stream", "a/b/c", "user@host", "room_1~x", "2024-01-01,12+1=!", "_720p2628kbs", ""] {
            assert_eq!(key(name).unwrap().name.as_ref(), name);
        }
        assert_eq!(key("a/b").unwrap().to_string(), "live/a/b");
    }

    #[test]
    fn a_prefix_is_stripped_once_and_escapes_are_decoded_once() {
        assert_eq!(key("mp4:movie").unwrap().name.as_ref(), "movie");
        assert_eq!(key("%61%2Db").unwrap().name.as_ref(), "a-b");
        assert_eq!(key("mp4:mp4:movie"), Err(NameError::BadByte(b':')));
        assert_eq!(key("%2561"), Err(NameError::BadByte(b'%')));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        use NameError::*;
        for (name, error) in [
            ("..", BadEdge),
            ("../x", BadEdge),
            ("a/../../b", BadEdge),
            ("....//", BadEdge),
            (".", BadEdge),
            ("name.", BadEdge),
            (".hidden", BadEdge),
            ("-o/x", BadEdge),
            ("a/-x", BadEdge),
            ("%2e%2e%2f", BadByte(b'/')),
            ("%252e", BadByte(b'%')),
            ("..%5c", BadByte(b'\\')),
            ("a%00", BadByte(0)),
            ("%c0%ae", BadByte(0xc0)),
            ("/etc/x", EmptySegment),
            ("a//b", EmptySegment),
            ("a/", EmptySegment),
            ("C:\\x", BadByte(b':')),
            ("\\\\host\\share", BadByte(b'\\')),
            ("file:x", BadByte(b':')),
            ("mp4:../x", BadEdge),
            ("a\r\nb", BadByte(b'\r')),
            ("a\"b", BadByte(b'"')),
            ("$(id)", BadByte(b'$')),
            ("a;b", BadByte(b';')),
            ("a b", BadByte(b' ')),
            ("a?b", BadByte(b'?')),
            ("\u{202e}abc", BadByte(0xe2)),
            ("100%", BadEscape),
            ("%zz", BadEscape),
            ("a/b/c/d/e/f/g/h/i", TooManySegments),
        ] {
            assert_eq!(key(name), Err(error), "{name:?}");
        }
        assert_eq!(key(&"a".repeat(129)), Err(SegmentTooLong));
        assert_eq!(key(&"a".repeat(5000)), Err(TooLong));
        assert_eq!(StreamKey::parse("v", "", "x"), Err(NoApplication));
        assert_eq!(StreamKey::parse("v", "../x", "x"), Err(BadEdge));
    }

    #[test]
    fn a_name_without_slashes_is_its_own_stem() {
        assert_eq!(key("room_1").unwrap().file_stem(), "room_1");
        assert_eq!(key("a-b/c").unwrap().file_stem(), "a-b%2Fc");
        assert_eq!(key("a/b-c").unwrap().file_stem(), "a%2Fb-c");
        assert_eq!(key("").unwrap().file_stem(), "%");
    }

    #[test]
    fn long_names_that_differ_at_the_end_get_different_stems() {
        let long = |end: &str| key(&format!("{}/{}{end}", "a".repeat(128), "b".repeat(100))).unwrap();
        let (one, two) = (long("1"), long("2"));
        assert_ne!(one.file_stem(), two.file_stem());
        assert_eq!(one.file_stem().len(), MAX_STEM_BYTES);
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z0-9._~@+=,!/%-]{0,40}",
            "[a-c/]{0,12}",
            prop::collection::vec("[ab2F]{60,128}", 1..5).prop_map(|parts| parts.join("/")),
        ]
    }

    proptest! {
        #[test]
        fn different_names_have_different_stems(one in any_name(), two in any_name()) {
            if let (Ok(one), Ok(two)) = (key(&one), key(&two)) {
                prop_assert_eq!(one.name == two.name, one.file_stem() == two.file_stem());
            }
        }

        #[test]
        fn a_stem_is_one_harmless_component(name in any_name()) {
            if let Ok(key) = key(&name) {
                let stem = key.file_stem().into_owned();
                let components: Vec<_> = Path::new(&stem).components().collect();
                prop_assert_eq!(components, vec![Component::Normal(stem.as_ref())]);
                prop_assert!(stem.len() <= MAX_STEM_BYTES && !stem.starts_with(['.', '-']));
                prop_assert!(stem.bytes().all(|byte| byte == b'%' || is_allowed(byte)));
            }
        }

        #[test]
        fn no_bytes_from_a_peer_panic(app in ".{0,40}", name in ".{0,600}") {
            if let Ok(key) = StreamKey::parse("v", &app, &name) {
                prop_assert!(key.app.len() + key.name.len() <= MAX_TOTAL_BYTES);
                prop_assert!(key.name.bytes().all(|byte| byte == b'/' || is_allowed(byte)));
            }
        }
    }
}
