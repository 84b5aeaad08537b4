//! One line of `exec` with its variables filled in: what a child is started with, or why it is not.
//!
//! There is no shell, so nothing that a peer sent can become a command. What is left is checked here: no value makes an
//! option of an argument that was written as none, none leads a file elsewhere, and none holds control characters.

use std::fmt::Write;

use super::facts::SessionFacts;
use crate::{
    config::exec::{ArgPart, ArgTemplate, Command, Redirection, Variable},
    media::key::StreamKey,
};

/// What a child is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    pub program: String,
    pub args: Vec<String>,
    pub redirections: Vec<Redirection<String>>,
}

/// Why a command is not run for this session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsafe {
    #[error("argument {0} would become an option")]
    Option(usize),
    #[error("${0} holds a control character")]
    Control(&'static str),
    #[error("${0} would lead a file elsewhere")]
    Path(&'static str),
    #[error("the arguments are longer than {MAX_BYTES} bytes")]
    TooLong,
}

/// What the variables of a line stand for.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// As the stream is called in the end, which names are checked for.
    pub key: &'a StreamKey,
    /// None: nobody in particular.
    pub session: Option<&'a SessionFacts>,
}

impl CommandLine {
    pub fn fill_in(command: &Command, values: Values<'_>) -> Result<Self, Unsafe> {
        let mut args = Vec::with_capacity(command.args.len());
        let mut bytes = 0_usize;
        for (index, template) in command.args.iter().enumerate() {
            let arg = values.fill_in(template, |_, _| Ok(()))?;
            // What its author did not write as an option is none, whoever the peer is.
            if arg.starts_with('-') && !template.is_option() {
                return Err(Unsafe::Option(index + 1));
            }
            bytes = bytes.saturating_add(arg.len());
            args.push(arg);
        }
        let file = |template: &ArgTemplate| values.fill_in(template, check_path);
        let redirections: Result<Vec<_>, _> = command.redirections.iter().map(|it| it.try_map(file)).collect();
        if bytes > MAX_BYTES {
            return Err(Unsafe::TooLong);
        }
        Ok(Self { program: command.program.clone(), args, redirections: redirections? })
    }

    /// For those who look on: without the secrets that addresses carry.
    pub fn masked(&self) -> String {
        let mut shown = self.program.clone();
        let mut hides_next = false;
        for arg in &self.args {
            let arg = if hides_next { HIDDEN.to_owned() } else { mask(arg) };
            hides_next = arg.starts_with('-') && !arg.contains('=') && is_secret(&arg);
            let _ = write!(shown, " {arg}");
        }
        shown
    }
}

impl<'a> Values<'a> {
    fn fill_in(
        &self,
        template: &ArgTemplate,
        check: impl Fn(&'static str, &str) -> Result<(), Unsafe>,
    ) -> Result<String, Unsafe> {
        let mut filled = String::new();
        for part in template.parts() {
            match part {
                ArgPart::Text(text) => filled.push_str(text),
                ArgPart::Variable(variable) => {
                    let address;
                    let value = match variable {
                        Variable::Addr => {
                            address = self.address();
                            address.as_str()
                        }
                        other => self.text(*other),
                    };
                    if value.chars().any(char::is_control) {
                        return Err(Unsafe::Control(variable.name()));
                    }
                    check(variable.name(), value)?;
                    filled.push_str(value);
                }
            }
        }
        Ok(filled)
    }

    fn text(&self, variable: Variable) -> &'a str {
        let of = |text: fn(&SessionFacts) -> &String| self.session.map_or("", |session| text(session).as_str());
        match variable {
            Variable::App => &self.key.app,
            Variable::Name => &self.key.name,
            Variable::Args => of(|session| &session.args),
            Variable::Flashver => of(|session| &session.flash_ver),
            Variable::Swfurl => of(|session| &session.swf_url),
            Variable::Tcurl => of(|session| &session.tc_url),
            Variable::Pageurl => of(|session| &session.page_url),
            Variable::Addr => "",
        }
    }

    /// Without the port, as in the family.
    fn address(&self) -> String {
        match self.session.map(|session| session.address) {
            Some(Some(address)) => address.ip().to_canonical().to_string(),
            Some(None) => "unix:".to_owned(),
            None => String::new(),
        }
    }
}

/// The rules that stream names keep anyway.
fn check_path(name: &'static str, value: &str) -> Result<(), Unsafe> {
    let is_bad = value.starts_with('/') || value.split('/').any(|part| part.starts_with('.'));
    if is_bad { Err(Unsafe::Path(name)) } else { Ok(()) }
}

/// Hides what opens doors: the user and the query of an address, the key behind the application of somebody else's server, and
/// the value of what is called a key.
fn mask(arg: &str) -> String {
    if let Some((scheme, rest)) = arg.split_once("://") {
        let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?…"));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let user = if host.len() < authority.len() { "…@" } else { "" };
        let is_here = host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]");
        let path = match path.split_once('/') {
            Some((app, key)) if !key.is_empty() && !is_here && scheme.contains("rtmp") => format!("{app}/{HIDDEN}"),
            _ => path.to_owned(),
        };
        let slash = if authority.len() < rest.len() { "/" } else { "" };
        return format!("{scheme}://{user}{host}{slash}{path}{query}");
    }
    match arg.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={HIDDEN}"),
        _ => arg.to_owned(),
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|secret| name.contains(secret))
}

const SECRETS: &[&str] = &["key", "pass", "secret", "token", "auth", "cookie", "headers"];
const HIDDEN: &str = "…";

/// Well below what the system takes for all arguments together.
const MAX_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::exec::{Redirect, Standard};

    fn command(words: &[&str]) -> Command {
        let mut command = Command { program: "p".to_owned(), args: Vec::new(), redirections: Vec::new() };
        for word in words {
            match Redirection::parse(word) {
                Some(redirection) => {
                    let redirection = redirection.expect("a good one");
                    let template = redirection.try_map(|file| Ok::<_, ()>(ArgTemplate::parse(file).0));
                    command.redirections.push(template.expect("it cannot fail"));
                }
                None => command.args.push(ArgTemplate::parse(word).0),
            }
        }
        command
    }

    fn key(name: &str) -> StreamKey {
        // Not parsed: what is tested here must hold by itself.
        StreamKey { vhost: "default".into(), app: "live".into(), name: name.into() }
    }

    fn facts() -> SessionFacts {
        SessionFacts {
            address: Some("192.0.2.7:5000".parse().expect("an address")),
            args: "a=1&b=%41".to_owned(),
            flash_ver: "FMLE/3.0 (x; y)".to_owned(),
            tc_url: "rtmp://h/live".to_owned(),
            ..SessionFacts::default()
        }
    }

    fn fill_in(words: &[&str], name: &str, facts: &SessionFacts) -> Result<CommandLine, Unsafe> {
        CommandLine::fill_in(&command(words), Values { key: &key(name), session: Some(facts) })
    }

    #[test]
    fn variables_are_filled_in_as_they_came() {
        for (word, expected) in [
            ("rtmp://h/hls/$name_low", "rtmp://h/hls/cam_low"),
            ("${app}/${name}x", "live/camx"),
            ("rtmp://h/live/$name?$args", "rtmp://h/live/cam?a=1&b=%41"),
            ("$addr", "192.0.2.7"),
            ("$flashver", "FMLE/3.0 (x; y)"),
            ("$tcurl", "rtmp://h/live"),
            ("$swfurl", ""),
            ("-metadata", "-metadata"),
            ("-$name", "-cam"),
        ] {
            let line = fill_in(&[word], "cam", &facts()).expect(word);
            assert_eq!(line.args, [expected], "{word}");
        }
        let nobody = Values { key: &key("cam"), session: None };
        let line = CommandLine::fill_in(&command(&["$name", "$addr", "$args"]), nobody).expect("a good line");
        assert_eq!(line.args, ["cam", "", ""]);
    }

    #[test]
    fn a_name_is_one_argument_whatever_it_looks_like() {
        for name in ["a b", ";rm", "$(x)", "`x`", "%00", "a\"b", "'", "*", "2>>x", ">x", "|", "直播"] {
            let line = fill_in(&["-i", "$name"], name, &facts()).expect(name);
            assert_eq!((line.args, line.redirections.len()), (vec!["-i".to_owned(), name.to_owned()], 0));
        }
    }

    #[test]
    fn what_a_peer_sent_never_becomes_an_option() {
        for name in ["-i", "--help", "-", "-y"] {
            assert_eq!(fill_in(&["x", "$name"], name, &facts()), Err(Unsafe::Option(2)), "{name}");
            assert_eq!(fill_in(&["$swfurl$name"], name, &facts()), Err(Unsafe::Option(1)), "{name}");
            assert!(fill_in(&["rtmp://h/$name"], name, &facts()).is_ok(), "{name}");
        }
    }

    #[test]
    fn control_characters_start_nothing() {
        for name in ["a\0b", "a\nb", "\r", "a\u{7f}", "a\u{85}b"] {
            assert_eq!(fill_in(&["x$name"], name, &facts()), Err(Unsafe::Control("name")), "{name:?}");
        }
        let long = SessionFacts { args: "x".repeat(MAX_BYTES + 1), ..facts() };
        assert_eq!(fill_in(&["$args"], "a", &long), Err(Unsafe::TooLong));
    }

    #[test]
    fn files_stay_where_the_line_says() {
        let line = fill_in(&["2>>logs/$name.log"], "a/b", &facts()).expect("a name may have folders");
        let expected = Redirection { stream: Standard::Error, to: Redirect::Append("logs/a/b.log".to_owned()) };
        assert_eq!(line.redirections, [expected]);
        for args in ["../x", "a/../../x", "/etc/x", ".x", "a/.x"] {
            let facts = SessionFacts { args: args.to_owned(), ..facts() };
            assert_eq!(fill_in(&[">logs/$args"], "a", &facts), Err(Unsafe::Path("args")), "{args}");
            assert!(fill_in(&["logs/$args"], "a", &facts).is_ok(), "an argument is no file of ours: {args}");
        }
    }

    #[test]
    fn who_looks_on_sees_no_secrets() {
        for (words, expected) in [
            (&["-i", "rtmp://127.0.0.1/live/cam?key=s3"][..], "p -i rtmp://127.0.0.1/live/cam?…"),
            (&["rtmp://a.example/live2/abcd-efgh"], "p rtmp://a.example/live2/…"),
            (&["https://user:s3@h/path/x"], "p https://…@h/path/x"),
            (&["-passphrase", "s3", "-y"], "p -passphrase … -y"),
            (&["token=s3", "scale=2"], "p token=… scale=2"),
            (&["http://h"], "p http://h"),
        ] {
            let line = fill_in(words, "cam", &facts()).expect("a good line");
            assert_eq!(line.masked(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_peer_adds_an_argument_an_option_or_a_way_out(name in any::<String>(), args in any::<String>()) {
            let facts = SessionFacts { args: args.clone(), ..facts() };
            let words = ["-i", "$name", "$args", "u/$name?$args", "2>>l/$args.log", "-o"];
            if let Ok(line) = fill_in(&words, &name, &facts) {
                prop_assert_eq!(line.args.len(), 5);
                let options: Vec<_> = line.args.iter().filter(|arg| arg.starts_with('-')).collect();
                prop_assert_eq!(options, ["-i", "-o"]);
                prop_assert!(!line.args.iter().any(|arg| arg.contains(['\0', '\n', '\r'])));
                let file = line.redirections[0].file().expect("it has one");
                prop_assert!(file.starts_with("l/") && !file.split('/').any(|part| part == ".."));
            }
        }

        #[test]
        fn any_word_can_be_read_and_masked(word in any::<String>(), name in any::<String>()) {
            let (template, _) = ArgTemplate::parse(&word);
            let line = Command { program: "p".to_owned(), args: vec![template], redirections: Vec::new() };
            if let Ok(line) = CommandLine::fill_in(&line, Values { key: &key(&name), session: None }) {
                let _ = line.masked();
            }
            let _ = Redirection::parse(&word);
        }
    }
}
