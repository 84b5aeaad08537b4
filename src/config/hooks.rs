//! Who is asked and told over HTTP about sessions.

use std::{fmt, sync::Arc, time::Duration};

/// The hooks of a server or an application.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hooks {
    pub notify: NotifyRules,
}

/// `on_*` and `notify_*`, as nginx-rtmp has them.
#[derive(Debug, Clone, PartialEq)]
pub struct NotifyRules {
    pub connect: Option<HookUrl>,
    pub disconnect: Option<HookUrl>,
    pub publish: Option<HookUrl>,
    pub play: Option<HookUrl>,
    pub publish_done: Option<HookUrl>,
    pub play_done: Option<HookUrl>,
    pub done: Option<HookUrl>,
    pub update: Option<HookUrl>,
    pub record_done: Option<HookUrl>,
    pub record_started: Option<HookUrl>,
    pub playlist: Option<HookUrl>,
    pub method: HookMethod,
    pub format: HookFormat,
    pub update_every: Duration,
    /// Anything but 2xx ends the session, not only a refusal.
    pub update_strict: bool,
    /// A stream that is sent to `rtmp://` is called by the MD5 of that address here.
    pub relay_redirect: bool,
    /// A client is told where to go, where a hook says so.
    pub send_redirect: bool,
    /// How long one call may take.
    pub timeout: Duration,
    pub secret: Option<Arc<HookSecret>>,
}

impl Default for NotifyRules {
    fn default() -> Self {
        Self {
            connect: None,
            disconnect: None,
            publish: None,
            play: None,
            publish_done: None,
            play_done: None,
            done: None,
            update: None,
            record_done: None,
            record_started: None,
            playlist: None,
            method: HookMethod::Post,
            format: HookFormat::Form,
            update_every: Duration::from_secs(30),
            update_strict: false,
            relay_redirect: false,
            send_redirect: false,
            timeout: Duration::from_secs(10),
            secret: None,
        }
    }
}

/// Where a hook is: `http://` or `https://`, a host, a port, a path, perhaps a query. Checked when the file was read.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookMethod {
    Get,
    Post,
}

/// What the body of a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookFormat {
    /// `application/x-www-form-urlencoded`, as nginx-rtmp sends it.
    Form,
    Json,
}

/// What calls are signed with. It never shows in a log: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct HookSecret(String);

impl HookUrl {
    /// Reads an address as it is written in a file; a scheme may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        // The parser of browsers is lenient with slashes.
        let (_, rest) = whole.split_once("://")?;
        let url = reqwest::Url::parse(&whole).ok().filter(|_| !rest.starts_with(['/', '?']))?;
        let is_ours = matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && url.username().is_empty()
            && url.password().is_none()
            && url.port() != Some(0)
            && url.fragment().is_none();
        is_ours.then(|| Self(url.as_str().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HookSecret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// For signing, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_host_and_may_lack_a_scheme() {
        for (text, read) in [
            ("http://a/b?c=d", Some("http://a/b?c=d")),
            ("a:8080/b", Some("http://a:8080/b")),
            ("127.0.0.1", Some("http://127.0.0.1/")),
            ("https://[::1]:443/x", Some("https://[::1]/x")),
            ("rtmp://a/b", None),
            ("file:///etc/passwd", None),
            ("http://", None),
            ("http://a:0/", None),
            ("http://a:99999/", None),
            ("http://user:pass@a/", None),
            ("", None),
        ] {
            assert_eq!(HookUrl::parse(text).as_ref().map(HookUrl::as_str), read, "{text}");
        }
    }

    #[test]
    fn a_secret_does_not_show() {
        assert!(!format!("{:?}", HookSecret::new("s3cret")).contains("s3cret"));
    }
}
