//! Addresses as nginx reads them: decoded once, without dots and double slashes.

/// The path of a request, ready to be matched. None: nginx answers 400.
///
/// Escapes are decoded once, also those of dots and slashes, and then it is looked at where the path leads: above the
/// root is nowhere.
pub fn normalize(path: &str, merges_slashes: bool) -> Option<String> {
    let decoded = decode(path)?;
    let path = decoded.strip_prefix('/')?;
    let mut parts: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for part in path.split('/') {
        ends_open = false;
        match part {
            "." => ends_open = true,
            ".." => {
                parts.pop()?;
                ends_open = true;
            }
            "" if merges_slashes => ends_open = true,
            part => parts.push(part),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for part in &parts {
        out.push('/');
        out.push_str(part);
    }
    if ends_open || out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// A path as it may stand in a header: what is not plain is escaped.
pub fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        let is_plain = byte.is_ascii_graphic() && !b"\"#%?<>\\^`{|}".contains(&byte);
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `%41` is `A`. None: a percent sign that escapes nothing, a zero, or bytes that are no text.
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let mut plain = byte;
        if byte == b'%' {
            let (&[high, low], tail) = rest.split_first_chunk()?;
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            plain = digit(high)? << 4 | digit(low)?;
            rest = tail;
        }
        if plain == 0 {
            return None;
        }
        out.push(plain);
    }
    String::from_utf8(out).ok()
}

/// The value of an argument in a query, as it was written.
pub fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_read_as_nginx_reads_them() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/", "/a/"),
            ("/%61%2fb", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a%3Fb%23c%25", "/a?b#c%"),
            ("/%E7%9B%B4", "/直"),
            ("/...", "/..."),
            ("//", "/"),
        ] {
            assert_eq!(normalize(path, true).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(normalize("/a//b", false).as_deref(), Some("/a//b"));
        for bad in ["", "a", "/..", "/a/../../b", "/%", "/%4", "/%zz", "/%00", "/%2e%2e/etc", "/a%2f..%2f..%2fb"] {
            assert_eq!(normalize(bad, true), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_plain_is_escaped() {
        assert_eq!(escape("/a b/直?#%"), "/a%20b/%E7%9B%B4%3F%23%25");
    }

    #[test]
    fn arguments_are_found_by_name() {
        assert_eq!(argument("port=1935&app=live&stream=", "app"), Some("live"));
        assert_eq!(argument("port=1935&app=live&stream=", "stream"), Some(""));
        assert_eq!(argument("a&b=1", "a"), None);
    }

    proptest! {
        #[test]
        fn no_path_leads_above_the_root(path in "(/|\\.|%2e|%2f|a|\\\\|%5c){0,24}") {
            if let Some(path) = normalize(&path, true) {
                prop_assert!(path.starts_with('/'));
                prop_assert!(path.split('/').all(|part| part != ".." && part != "."), "{}", path);
            }
        }

        #[test]
        fn what_was_read_reads_the_same_again(path in "(/|\\.|%2e|a|b){0,24}") {
            if let Some(once) = normalize(&path, true) {
                prop_assert_eq!(normalize(&escape(&once), true), Some(once));
            }
        }
    }
}
