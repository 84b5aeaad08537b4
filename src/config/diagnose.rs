//! An error with its line, a caret under the word and "did you mean".

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use thiserror::Error;

use super::syntax::{Directive, Place, Source, Word};

/// Why a configuration cannot be used. `Display` is nginx's line, then the source line with a caret and advice.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{message}{detail}")]
pub struct ConfigError {
    /// nginx's one line, without `livemill: [emerg] `.
    pub message: String,
    /// The source line, the caret and the advice; begins with a line feed, or is empty.
    pub detail: String,
}

/// Something wrong at one place, before it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// nginx's words, without `in FILE:LINE`.
    pub message: String,
    /// What the message names: nginx's line, which is the last one of a directive.
    pub place: Place,
    /// Where the caret goes. Its line may be an earlier one.
    pub caret: Place,
    pub width: u32,
    pub help: Option<String>,
    /// False where the message says itself where it is.
    says_place: bool,
}

impl Problem {
    pub fn new(message: impl Into<String>, place: Place, width: u32) -> Self {
        let caret = place.clone();
        Self { message: message.into(), place, caret, width, help: None, says_place: true }
    }

    /// A problem with a whole file: no line to show.
    pub fn nowhere(message: impl Into<String>, place: Place) -> Self {
        Self { says_place: false, ..Self::new(message, place, 0) }
    }

    /// A problem with one word of a directive.
    pub fn at_word(message: impl Into<String>, directive: &Directive, word: &Word) -> Self {
        let mut problem = Self::new(message, word.place.clone(), word.width);
        if problem.place.line > 0 {
            // nginx counts to the end of the directive; the caret knows better.
            problem.place.line = directive.end_line;
            problem.place.file = directive.name.place.file.clone();
        }
        problem
    }

    pub fn at(message: impl Into<String>, directive: &Directive) -> Self {
        Self::at_word(message, directive, &directive.name)
    }

    /// Moves the caret to a word.
    #[must_use]
    pub fn points_at(self, word: &Word) -> Self {
        Self { caret: word.place.clone(), width: word.width, ..self }
    }

    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    #[must_use]
    pub fn maybe_help(self, help: Option<String>) -> Self {
        Self { help: help.or(self.help.clone()), ..self }
    }

    /// The error as the operator reads it.
    pub fn show(&self, sources: &[Source]) -> ConfigError {
        let message =
            if self.says_place { format!("{} in {}", self.message, self.place) } else { self.message.clone() };
        let source = sources.iter().find(|source| source.name == self.caret.file);
        let picture = source.and_then(|source| self.picture(source));
        let mut detail = picture.map(|picture| format!("\n{picture}")).unwrap_or_default();
        if let (true, Some(help)) = (detail.is_empty(), &self.help) {
            detail = format!("\nhelp: {help}");
        }
        ConfigError { message, detail }
    }

    fn picture(&self, source: &Source) -> Option<String> {
        let index = (self.caret.line as usize).checked_sub(1)?;
        let line = source.text.lines().nth(index)?;
        let line = line.replace('\t', " ");
        let offset = |characters: usize| line.char_indices().nth(characters).map_or(line.len(), |(at, _)| at);
        let first = (self.caret.column as usize).saturating_sub(1);
        let start = offset(first);
        let end = offset(first.saturating_add(self.width.max(1) as usize)).max(start);
        let snippet = Snippet::source(line.as_str())
            .line_start(self.caret.line as usize)
            .path(source.name.as_ref())
            .annotation(AnnotationKind::Primary.span(start..end));
        let mut group = Group::with_level(Level::ERROR).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Some(Renderer::plain().render(&[group]))
    }
}

/// The candidate a mistyped word most likely meant, if one is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in short words, two in longer ones: "on" must not suggest "of" for everything.
    let allowed = match word.chars().count() {
        0..=2 => return None,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    let lower = word.to_ascii_lowercase();
    let near = candidates.into_iter().filter_map(|candidate| {
        let distance = strsim::damerau_levenshtein(&lower, candidate);
        (distance <= allowed).then_some((distance, candidate))
    });
    near.min().map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::syntax;

    #[test]
    fn an_error_shows_its_line_and_a_caret() {
        let tree = syntax::parse("x.conf", "rtmp {\n    # 直播\n    直 lstien 1935;\n}".as_bytes());
        let inner = &tree.directives[0].block.as_ref().unwrap()[0];
        let problem =
            Problem::at_word("unknown directive \"lstien\"", inner, &inner.args[0]).help("did you mean `listen`?");
        let shown = problem.show(&tree.sources).to_string();
        assert_eq!(
            shown,
            "unknown directive \"lstien\" in x.conf:3
 --> x.conf:3:7
  |
3 |     直 lstien 1935;
  |        ^^^^^^
  |
  = help: did you mean `listen`?"
        );
    }

    #[test]
    fn only_near_words_are_suggested() {
        let names = ["listen", "live", "hls_path", "application"];
        assert_eq!(nearest("lsiten", names), Some("listen"));
        assert_eq!(nearest("hls_pat", names), Some("hls_path"));
        assert_eq!(nearest("aplication", names), Some("application"));
        assert_eq!(nearest("Live", names), Some("live"));
        assert_eq!(nearest("lua_code", names), None);
        assert_eq!(nearest("on", names), None);
    }
}
