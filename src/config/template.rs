//! Text with nginx's variables in it: `$name`, `${name}`, `$1`.

/// Text between variables. A template without variables is one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(Vec<Part>);

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    Variable(String),
    /// `$1` to `$9`: what the location's pattern caught.
    Capture(usize),
}

impl Template {
    /// Splits text at its variables. Err: nginx's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            push_text(&mut parts, before);
            let (name, after) = name(after).ok_or_else(|| "invalid variable name".to_owned())?;
            let digit = name.chars().next().filter(|_| name.len() == 1).and_then(|digit| digit.to_digit(10));
            parts.push(match digit {
                Some(digit) => Part::Capture(digit as usize),
                None => Part::Variable(name.to_ascii_lowercase()),
            });
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Self(parts))
    }

    /// Text that holds no variable, whatever is in it.
    pub fn plain(text: impl Into<String>) -> Self {
        let mut parts = Vec::new();
        push_text(&mut parts, &text.into());
        Self(parts)
    }

    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The text, where there is no variable in it.
    pub fn as_plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Variable(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Puts text in front.
    #[must_use]
    pub fn after(mut self, text: &str) -> Self {
        match self.0.first_mut() {
            Some(Part::Text(first)) => first.insert_str(0, text),
            _ if text.is_empty() => {}
            _ => self.0.insert(0, Part::Text(text.to_owned())),
        }
        self
    }
}

/// Is this one of the variables of nginx's core that livemill fills in, or knows to be empty?
pub fn is_known(name: &str) -> bool {
    VARIABLES.contains(&name) || FAMILIES.iter().any(|start| name.starts_with(start))
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

/// The name after a `$`, and what follows it.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('{') {
        let (name, after) = inner.split_once('}')?;
        return (!name.is_empty() && name.bytes().all(is_name)).then_some((name, after));
    }
    // A capture is one digit, whatever follows.
    let length = match text.bytes().next()? {
        digit if digit.is_ascii_digit() => 1,
        _ => text.bytes().take_while(|byte| is_name(*byte)).count(),
    };
    (length > 0).then(|| text.split_at(length))
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

const FAMILIES: &[&str] = &["arg_", "http_", "cookie_", "sent_http_", "upstream_", "ssl_", "proxy_protocol_"];

const VARIABLES: &[&str] = &[
    "args",
    "binary_remote_addr",
    "body_bytes_sent",
    "bytes_sent",
    "connection",
    "connection_requests",
    "content_length",
    "content_type",
    "date_gmt",
    "date_local",
    "document_root",
    "document_uri",
    "gzip_ratio",
    "host",
    "hostname",
    "https",
    "invalid_referer",
    "is_args",
    "limit_rate",
    "msec",
    "nginx_version",
    "pid",
    "pipe",
    "proxy_add_x_forwarded_for",
    "query_string",
    "realip_remote_addr",
    "realpath_root",
    "remote_addr",
    "remote_port",
    "remote_user",
    "request",
    "request_body",
    "request_completion",
    "request_filename",
    "request_id",
    "request_length",
    "request_method",
    "request_time",
    "request_uri",
    "scheme",
    "server_addr",
    "server_name",
    "server_port",
    "server_protocol",
    "status",
    "time_iso8601",
    "time_local",
    "uri",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn variable(name: &str) -> Part {
        Part::Variable(name.to_owned())
    }

    #[test]
    fn text_is_split_at_its_variables() {
        let parts = |text: &str| Template::parse(text).unwrap().0;
        assert_eq!(parts("a$uri/b${Args}c"), [text("a"), variable("uri"), text("/b"), variable("args"), text("c")]);
        assert_eq!(parts("$1$12"), [Part::Capture(1), Part::Capture(1), text("2")]);
        assert_eq!(parts(""), []);
        assert_eq!(Template::parse("plain").unwrap().as_plain(), Some("plain"));
        for bad in ["$", "a$ b", "${", "${a", "${}", "$-"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text_can_be_put_in_front() {
        assert_eq!(Template::parse("b$uri").unwrap().after("a/").0, [text("a/b"), variable("uri")]);
        assert_eq!(Template::parse("$uri").unwrap().after("a").0, [text("a"), variable("uri")]);
        assert_eq!(Template::plain("$uri").as_plain(), Some("$uri"));
    }

    #[test]
    fn variables_are_known_by_name_or_family() {
        assert!(is_known("uri") && is_known("http_user_agent") && is_known("arg_x"));
        assert!(!is_known("blubb"));
    }
}
