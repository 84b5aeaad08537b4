//! Commands that are run beside streams: one line of `exec` and its kin, typed.

use std::time::Duration;

use super::diagnose::nearest;

/// What an application runs, and how its children are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Exec {
    /// In the order they are started.
    pub rules: Vec<ExecRule>,
    pub keep: Keep,
    /// Children of one stream at a time.
    pub max_children: u32,
}

/// How children that belong to a stream are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    pub respawn: bool,
    /// The wait before the first restart; each further one doubles it.
    pub respawn_timeout: Duration,
    /// By number.
    pub kill_signal: i32,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRule {
    pub event: ExecEvent,
    pub command: Command,
    /// Names of streams it is for (`name=STREAM` after `exec_options on`). Empty: all.
    pub only: Vec<String>,
}

/// What a command is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExecEvent {
    /// Somebody publishes: lives as long as that.
    Push,
    /// Somebody wants to play: lives as long as anybody does.
    Pull,
    Publish,
    PublishDone,
    Play,
    PlayDone,
    /// The server runs: lives as long as that.
    Static,
}

/// A command with what its arguments are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Looked up in PATH where it has no slash. No variables.
    pub program: String,
    pub args: Vec<ArgTemplate>,
    /// In the order they are written.
    pub redirections: Vec<Redirection<ArgTemplate>>,
}

/// An argument before its variables have values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArgTemplate(Vec<ArgPart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgPart {
    Text(String),
    Variable(Variable),
}

/// What a session or stream can tell a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    App,
    Name,
    Args,
    Addr,
    Flashver,
    Swfurl,
    Tcurl,
    Pageurl,
}

/// Where one of the three standard streams of a child goes to, or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirection<File> {
    pub stream: Standard,
    pub to: Redirect<File>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect<File> {
    /// `<file`
    Read(File),
    /// `>file`
    Write(File),
    /// `>>file`
    Append(File),
    /// `2>&1`: the same as this one.
    Same(Standard),
}

/// Standard input, output and error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standard {
    Input,
    Output,
    Error,
}

/// A word of a line that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRedirection;

impl Exec {
    /// Does it fetch streams that nobody publishes?
    pub fn pulls(&self) -> bool {
        self.has(ExecEvent::Pull)
    }

    pub fn has(&self, event: ExecEvent) -> bool {
        self.rules.iter().any(|rule| rule.event == event)
    }
}

impl Default for Exec {
    fn default() -> Self {
        Self { rules: Vec::new(), keep: Keep::default(), max_children: 16 }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self { respawn: true, respawn_timeout: Duration::from_secs(5), kill_signal: KILL }
    }
}

impl ExecRule {
    pub fn is_for(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

impl ExecEvent {
    /// As the file spells it; `exec` is also known as `exec_push`.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Push => "exec",
            Self::Pull => "exec_pull",
            Self::Publish => "exec_publish",
            Self::PublishDone => "exec_publish_done",
            Self::Play => "exec_play",
            Self::PlayDone => "exec_play_done",
            Self::Static => "exec_static",
        }
    }

    /// The event of a directive's name.
    pub fn named(directive: &str) -> Option<Self> {
        Some(match directive {
            "exec" | "exec_push" => Self::Push,
            "exec_pull" => Self::Pull,
            "exec_publish" => Self::Publish,
            "exec_publish_done" => Self::PublishDone,
            "exec_play" => Self::Play,
            "exec_play_done" => Self::PlayDone,
            "exec_static" => Self::Static,
            _ => return None,
        })
    }

    /// Its child lives as long as what it is for, and is started again when it dies.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Push | Self::Pull | Self::Static)
    }

    /// Is there a value for this variable?
    pub fn knows(self, variable: Variable) -> bool {
        match self {
            Self::Static => false,
            // A stream is pulled for whoever comes, so nobody in particular is meant.
            Self::Pull => matches!(variable, Variable::App | Variable::Name),
            _ => true,
        }
    }
}

impl ArgTemplate {
    /// Splits a word at its variables. The second value: names that are no variable, and stay empty.
    ///
    /// `$name` ends at the first character that is not a letter, so that `$name_low` is the name and `_low`; `${name}` ends
    /// where it says; `\` takes the meaning from what follows.
    pub fn parse(word: &str) -> (Self, Vec<String>) {
        let (mut parts, mut unknown) = (Vec::new(), Vec::new());
        let mut text = String::new();
        let mut rest = word;
        while let Some(c) = rest.chars().next() {
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
            let name = match c {
                '\\' => {
                    let next = rest.chars().next();
                    text.extend(next);
                    rest = rest.get(next.map_or(0, char::len_utf8)..).unwrap_or_default();
                    continue;
                }
                '$' => match rest.strip_prefix('{') {
                    Some(inner) => {
                        let (name, after) = inner.split_once('}').unwrap_or((inner, ""));
                        rest = after;
                        name
                    }
                    None => {
                        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
                        let (name, after) = rest.split_at(end);
                        rest = after;
                        name
                    }
                },
                other => {
                    text.push(other);
                    continue;
                }
            };
            match Variable::named(name) {
                Some(variable) => {
                    if !text.is_empty() {
                        parts.push(ArgPart::Text(std::mem::take(&mut text)));
                    }
                    parts.push(ArgPart::Variable(variable));
                }
                None => unknown.push(name.to_owned()),
            }
        }
        if !text.is_empty() {
            parts.push(ArgPart::Text(text));
        }
        (Self(parts), unknown)
    }

    /// A word in which nothing is special.
    pub fn plain(word: &str) -> Self {
        Self(if word.is_empty() { Vec::new() } else { vec![ArgPart::Text(word.to_owned())] })
    }

    pub fn parts(&self) -> &[ArgPart] {
        &self.0
    }

    pub fn variables(&self) -> impl Iterator<Item = Variable> {
        self.0.iter().filter_map(|part| match part {
            ArgPart::Variable(variable) => Some(*variable),
            ArgPart::Text(_) => None,
        })
    }

    /// Does whoever wrote it mean an option?
    pub fn is_option(&self) -> bool {
        matches!(self.0.first(), Some(ArgPart::Text(text)) if text.starts_with('-'))
    }
}

impl Variable {
    pub fn named(name: &str) -> Option<Self> {
        VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, variable)| *variable)
    }

    pub fn name(self) -> &'static str {
        VARIABLES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// Set for recordings only.
    pub fn is_of_recordings(name: &str) -> bool {
        OF_RECORDINGS.contains(&name)
    }

    /// The variable that a name most likely means.
    pub fn nearest(name: &str) -> Option<&'static str> {
        nearest(name, VARIABLES.iter().map(|(known, _)| *known))
    }
}

impl Redirection<String> {
    /// Reads a word such as `2>>file`. None: it is no redirection, but an argument.
    pub fn parse(word: &str) -> Option<Result<Self, BadRedirection>> {
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let (number, rest) = word.split_at(digits);
        let reads = rest.starts_with('<');
        let target = rest.strip_prefix(['<', '>'])?;
        let (appends, target) = match target.strip_prefix('>') {
            Some(target) if !reads => (true, target),
            _ => (false, target),
        };
        // As in the family, a blank ends the word: what follows it is an argument.
        if target.is_empty() {
            return None;
        }
        let stream = if number.is_empty() { Some(Standard::usual(reads)) } else { Standard::numbered(number) };
        let to = match target.strip_prefix('&') {
            Some(other) if !appends && !reads => Standard::numbered(other).map(Redirect::Same),
            Some(_) => None,
            None if target.starts_with(['<', '>']) => None,
            None if reads => Some(Redirect::Read(target.to_owned())),
            None if appends => Some(Redirect::Append(target.to_owned())),
            None => Some(Redirect::Write(target.to_owned())),
        };
        Some(stream.zip(to).map(|(stream, to)| Self { stream, to }).ok_or(BadRedirection))
    }
}

impl<File> Redirection<File> {
    /// The same with another word for the file.
    pub fn try_map<Other, E>(&self, with: impl FnOnce(&File) -> Result<Other, E>) -> Result<Redirection<Other>, E> {
        let to = match &self.to {
            Redirect::Read(file) => Redirect::Read(with(file)?),
            Redirect::Write(file) => Redirect::Write(with(file)?),
            Redirect::Append(file) => Redirect::Append(with(file)?),
            Redirect::Same(other) => Redirect::Same(*other),
        };
        Ok(Redirection { stream: self.stream, to })
    }

    pub fn file(&self) -> Option<&File> {
        match &self.to {
            Redirect::Read(file) | Redirect::Write(file) | Redirect::Append(file) => Some(file),
            Redirect::Same(_) => None,
        }
    }
}

impl Standard {
    fn usual(reads: bool) -> Self {
        if reads { Self::Input } else { Self::Output }
    }

    pub fn numbered(number: &str) -> Option<Self> {
        match number {
            "0" => Some(Self::Input),
            "1" => Some(Self::Output),
            "2" => Some(Self::Error),
            _ => None,
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Error => 2,
        }
    }
}

/// SIGKILL, the family's way to end a child.
const KILL: i32 = 9;

const VARIABLES: &[(&str, Variable)] = &[
    ("app", Variable::App),
    ("name", Variable::Name),
    ("args", Variable::Args),
    ("addr", Variable::Addr),
    ("flashver", Variable::Flashver),
    ("swfurl", Variable::Swfurl),
    ("tcurl", Variable::Tcurl),
    ("pageurl", Variable::Pageurl),
];

const OF_RECORDINGS: &[&str] = &["path", "filename", "basename", "dirname", "recorder"];

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(word: &str) -> String {
        let (template, unknown) = ArgTemplate::parse(word);
        let parts = template.parts().iter().map(|part| match part {
            ArgPart::Text(text) => text.clone(),
            ArgPart::Variable(variable) => format!("<{}>", variable.name()),
        });
        parts.collect::<Vec<_>>().join("|") + &unknown.iter().map(|name| format!(" ?{name}")).collect::<String>()
    }

    #[test]
    fn a_variable_ends_where_letters_do() {
        for (word, expected) in [
            ("rtmp://h/a/$name_low", "rtmp://h/a/|<name>|_low"),
            ("$name_720p2628kbs", "<name>|_720p2628kbs"),
            ("${name}low", "<name>|low"),
            ("$namelow", " ?namelow"),
            ("$app/$name?$args", "<app>|/|<name>|?|<args>"),
            ("$name1", "<name>|1"),
            (r"\$name", "$name"),
            (r"a\\b\", r"a\b"),
            ("${name", "<name>"),
            ("$", " ?"),
            ("a$$name", "a|<name> ?"),
            ("", ""),
            ("直$name播", "直|<name>|播"),
        ] {
            assert_eq!(shown(word), expected, "{word}");
        }
    }

    #[test]
    fn redirections_are_words_of_their_own() {
        let file = |word: &str| word.to_owned();
        let check =
            |word, stream, to| assert_eq!(Redirection::parse(word), Some(Ok(Redirection { stream, to })), "{word}");
        check(">out", Standard::Output, Redirect::Write(file("out")));
        check("1>out", Standard::Output, Redirect::Write(file("out")));
        check("2>>e.log", Standard::Error, Redirect::Append(file("e.log")));
        check("<in", Standard::Input, Redirect::Read(file("in")));
        check("2>&1", Standard::Error, Redirect::Same(Standard::Output));
        check(">&2", Standard::Output, Redirect::Same(Standard::Error));
        for word in ["", "a", "2", "-", "a>b", ">", ">>", "2>", "<", "2>>"] {
            assert_eq!(Redirection::parse(word), None, "{word}");
        }
        for word in ["3>x", "10>x", "2>&3", "2>&-", "<&1", "<<x", "<>x", ">>>x", ">>&1", "2>&"] {
            assert_eq!(Redirection::parse(word), Some(Err(BadRedirection)), "{word}");
        }
    }
}
