//! Text to a tree of directives, each with its file, line and column.
//!
//! The grammar is nginx's, state for state: a word ends at a blank, `;` or `{`; quotes only count at the start of a word;
//! `\` guards the next character; `#` starts a comment where a word could start; `${` does not open a block. Besides,
//! a byte order mark is skipped, and comments may hold any bytes (GBK is common).
//!
//! An error does not lose what was read before it: nginx finds an unknown directive in line 3 before a missing brace
//! in line 90, so the tree so far is kept and looked at first.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnose::Problem;

/// One directive as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    pub name: Word,
    pub args: Vec<Word>,
    /// The directives between `{` and `}`, where there are braces.
    pub block: Option<Vec<Self>>,
    /// The line of the `;` or `{`: the one nginx names in its messages.
    pub end_line: u32,
}

/// One word and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub place: Place,
    /// Characters it takes in the file, with quotes and escapes.
    pub width: u32,
}

/// A spot in a file. Line and column count from 1; the column counts characters. Line 0: the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 { write!(f, ":{}", self.line) } else { Ok(()) }
    }
}

/// All files of one configuration.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// In reading order: what `-g` said, then the file, with what `include` brought in its place after the `include`.
    pub directives: Vec<Directive>,
    /// Where reading stopped, if it did. `directives` then holds what came before, unclosed blocks included.
    pub error: Option<Problem>,
    /// The files in the order of reading, for `-T` and for showing lines.
    pub sources: Vec<Source>,
}

/// One file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    pub name: Arc<str>,
    pub text: String,
}

/// Where included files come from.
pub trait Files {
    /// At most `limit` bytes and one more, so that the caller sees when there are too many.
    fn read(&mut self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// The files a pattern means, sorted.
    fn matches(&mut self, pattern: &str) -> Result<Vec<PathBuf>, String>;
}

/// The files of this machine.
#[derive(Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&mut self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn matches(&mut self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        // As glob(3) does it: no wildcard means a slash or a leading dot.
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let paths = glob::glob_with(pattern, options).map_err(|error| error.to_string())?;
        Ok(paths.filter_map(Result::ok).collect())
    }
}

/// Parses text in memory. `include` is left as it stands: nothing is read from anywhere.
pub fn parse(name: &str, bytes: &[u8]) -> Tree {
    let mut reader = Reader::new(None, PathBuf::new());
    reader.file(name, bytes);
    reader.tree
}

/// Reads a file and all it includes. `globals` is the text of `-g` and comes first.
pub fn read(path: &Path, globals: Option<&str>, files: &mut dyn Files) -> Tree {
    let conf_prefix = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut reader = Reader::new(Some(files), conf_prefix);
    if let Some(text) = globals {
        reader.command_line(text);
    }
    if reader.tree.error.is_none() {
        reader.top(path);
    }
    reader.tree
}

/// Writes directives so that [`parse`] reads the same ones again.
pub fn print(directives: &[Directive]) -> String {
    fn write(out: &mut String, directives: &[Directive], depth: usize) {
        for directive in directives {
            out.extend(std::iter::repeat_n("    ", depth));
            for (index, word) in std::iter::once(&directive.name).chain(&directive.args).enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                quote(out, &word.text);
            }
            match &directive.block {
                None => out.push_str(";\n"),
                Some(block) => {
                    out.push_str(" {\n");
                    write(out, block, depth + 1);
                    out.extend(std::iter::repeat_n("    ", depth));
                    out.push_str("}\n");
                }
            }
        }
    }
    let mut out = String::new();
    write(&mut out, directives, 0);
    out
}

/// A word as it may stand in a file.
fn quote(out: &mut String, text: &str) {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=*,+%@$".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// Reads files one into the other until one is wrong.
struct Reader<'a> {
    files: Option<&'a mut dyn Files>,
    /// The folder of the main file: relative includes start there, also those of included files.
    conf_prefix: PathBuf,
    tree: Tree,
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn new(files: Option<&'a mut dyn Files>, conf_prefix: PathBuf) -> Self {
        Self { files, conf_prefix, tree: Tree::default(), bytes: 0 }
    }

    fn command_line(&mut self, text: &str) {
        let name: Arc<str> = Arc::from(COMMAND_LINE);
        self.tree.sources.push(Source { name: Arc::clone(&name), text: text.to_owned() });
        let mut directives = Vec::new();
        self.tree.error = self.parse(Lexer::new(name, text.as_bytes(), true), &mut directives, 0).err();
        self.tree.directives.append(&mut directives);
    }

    fn top(&mut self, path: &Path) {
        let bytes = match self.open(path) {
            Ok(bytes) => bytes,
            Err(message) => {
                let place = Place { file: path.to_string_lossy().into(), line: 0, column: 0 };
                self.tree.error = Some(Problem::nowhere(message, place));
                return;
            }
        };
        self.file(&path.to_string_lossy(), &bytes);
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        let mut directives = Vec::new();
        self.tree.error = self.source(name, bytes, &mut directives, 0).err();
        self.tree.directives.append(&mut directives);
    }

    fn source(&mut self, name: &str, bytes: &[u8], out: &mut Vec<Directive>, depth: usize) -> Result<(), Problem> {
        let name: Arc<str> = Arc::from(name);
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        self.tree.sources.push(Source { name: Arc::clone(&name), text: String::from_utf8_lossy(bytes).into_owned() });
        self.parse(Lexer::new(name, bytes, false), out, depth)
    }

    fn open(&mut self, path: &Path) -> Result<Vec<u8>, String> {
        let Some(files) = &mut self.files else { return Ok(Vec::new()) };
        let bytes = files.read(path, MAX_BYTES).map_err(|error| {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let code = error.raw_os_error().unwrap_or_default();
            format!("open() \"{}\" failed ({code}: {text})", path.display())
        })?;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MAX_BYTES {
            return Err(format!("configuration is larger than {} MiB with \"{}\"", MAX_BYTES >> 20, path.display()));
        }
        Ok(bytes)
    }

    /// Statements until the end of one file, nested blocks on a stack of our own.
    fn parse(&mut self, mut lexer: Lexer<'_>, out: &mut Vec<Directive>, depth: usize) -> Result<(), Problem> {
        let mut open: Vec<Directive> = Vec::new();
        let result = self.statements(&mut lexer, out, &mut open, depth);
        // Close what an error or the end of the file left open, the innermost first.
        while let Some(inner) = open.pop() {
            open.last_mut().and_then(|outer| outer.block.as_mut()).unwrap_or(out).push(inner);
        }
        result
    }

    fn statements(
        &mut self,
        lexer: &mut Lexer<'_>,
        out: &mut Vec<Directive>,
        open: &mut Vec<Directive>,
        depth: usize,
    ) -> Result<(), Problem> {
        loop {
            let Statement { mut words, end } = lexer.statement()?;
            let block = match end {
                End::Semicolon => None,
                End::Open if lexer.command_line => {
                    return Err(lexer.problem("block directives are not supported in -g option"));
                }
                End::Open if open.len() >= MAX_DEPTH => {
                    return Err(lexer.problem(format!("blocks are nested deeper than {MAX_DEPTH}")));
                }
                End::Open => Some(Vec::new()),
                End::Close => {
                    let Some(done) = open.pop() else {
                        return Err(lexer.problem("unexpected \"}\""));
                    };
                    open.last_mut().and_then(|outer| outer.block.as_mut()).unwrap_or(out).push(done);
                    continue;
                }
                End::File => {
                    let Some(unclosed) = open.last() else { return Ok(()) };
                    let problem = lexer.problem_at_end("unexpected end of file, expecting \"}\"");
                    return Err(problem.points_at(&unclosed.name).help(format!(
                        "the `{}` block of line {} is not closed",
                        unclosed.name.text, unclosed.name.place.line
                    )));
                }
            };
            let args = words.split_off(1.min(words.len()));
            let Some(name) = words.pop() else { continue };
            let directive = Directive { name, args, block, end_line: lexer.line };
            if directive.block.is_some() {
                open.push(directive);
                continue;
            }
            let list = open.last_mut().and_then(|outer| outer.block.as_mut()).unwrap_or(out);
            if directive.name.text == "include" && self.files.is_some() {
                let found = self.include(&directive, depth);
                list.push(directive);
                let (mut directives, result) = found;
                list.append(&mut directives);
                result?;
            } else {
                list.push(directive);
            }
        }
    }

    /// What one `include` brings, up to its first error.
    fn include(&mut self, directive: &Directive, depth: usize) -> (Vec<Directive>, Result<(), Problem>) {
        let mut out = Vec::new();
        let [word] = directive.args.as_slice() else {
            // Wrong arity: the table says so, in the same words as for every other directive.
            return (out, Ok(()));
        };
        let at = |message: String| Problem::at_word(message, directive, word);
        if depth >= MAX_INCLUDE_DEPTH {
            let problem = at(format!("includes are nested deeper than {MAX_INCLUDE_DEPTH}"));
            return (out, Err(problem.help("does a file include itself?")));
        }
        let path = self.conf_prefix.join(&word.text);
        let paths = if word.text.contains(['*', '?', '[']) {
            let files = self.files.as_mut().map(|files| files.matches(&path.to_string_lossy()));
            match files.unwrap_or(Ok(Vec::new())) {
                Ok(paths) => paths,
                Err(error) => return (out, Err(at(format!("glob() \"{}\" failed ({error})", path.display())))),
            }
        } else {
            vec![path]
        };
        for path in paths {
            if self.tree.sources.len() >= MAX_FILES {
                return (out, Err(at(format!("more than {MAX_FILES} files are included"))));
            }
            let result = match self.open(&path) {
                Ok(bytes) => self.source(&path.to_string_lossy(), &bytes, &mut out, depth + 1),
                // A configuration that was copied alone must not fail for a table that everybody has.
                Err(message) if message.contains(NOT_FOUND) && path.ends_with(MIME_TYPES) => {
                    self.source(MIME_TYPES_NAME, BUILT_IN_TYPES.as_bytes(), &mut out, depth + 1)
                }
                Err(message) => Err(at(message)),
            };
            if result.is_err() {
                return (out, result);
            }
        }
        (out, Ok(()))
    }
}

/// Words up to the character that ends them.
struct Statement {
    words: Vec<Word>,
    end: End,
}

enum End {
    Semicolon,
    Open,
    Close,
    File,
}

struct Lexer<'a> {
    name: Arc<str>,
    bytes: &'a [u8],
    at: usize,
    line: u32,
    column: u32,
    command_line: bool,
}

/// Where the current word began.
struct Start {
    offset: usize,
    line: u32,
    column: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

impl<'a> Lexer<'a> {
    fn new(name: Arc<str>, bytes: &'a [u8], command_line: bool) -> Self {
        Self { name, bytes, at: 0, line: 1, column: 0, command_line }
    }

    /// One statement, after `ngx_conf_read_token`.
    fn statement(&mut self) -> Result<Statement, Problem> {
        let mut words: Vec<Word> = Vec::new();
        let mut between = true; // no word has begun
        let mut need_blank = false; // a quoted word has just ended
        let mut comment = false;
        let mut escaped = false;
        let mut variable = false;
        let mut quote = Quote::None;
        let mut start = Start { offset: 0, line: 1, column: 1 };
        loop {
            let Some(c) = self.advance() else {
                if words.is_empty() && between {
                    return Ok(Statement { words, end: End::File });
                }
                return Err(self.unexpected_end(&words, quote, &start));
            };
            if c == b'\n' {
                comment = false;
            }
            if comment {
                continue;
            }
            if escaped {
                escaped = false;
                continue;
            }
            if need_blank {
                match c {
                    b' ' | b'\t' | b'\r' | b'\n' => {
                        between = true;
                        need_blank = false;
                        continue;
                    }
                    b';' => return Ok(Statement { words, end: End::Semicolon }),
                    b'{' => return Ok(Statement { words, end: End::Open }),
                    b')' => {
                        between = true;
                        need_blank = false;
                    }
                    _ => {
                        let problem = self.problem(format!("unexpected \"{}\"", self.character()));
                        return Err(problem.help("after a closing quote a blank, `;` or `{` must follow"));
                    }
                }
            }
            if between {
                start = Start { offset: self.at - 1, line: self.line, column: self.column };
                variable = false;
                match c {
                    b' ' | b'\t' | b'\r' | b'\n' => continue,
                    b';' | b'{' if words.is_empty() => {
                        return Err(self.problem(format!("unexpected \"{}\"", char::from(c))));
                    }
                    b';' => return Ok(Statement { words, end: End::Semicolon }),
                    b'{' => return Ok(Statement { words, end: End::Open }),
                    b'}' if words.is_empty() => return Ok(Statement { words, end: End::Close }),
                    b'}' => return Err(missing_semicolon(self.problem("unexpected \"}\""), &words)),
                    b'#' => {
                        comment = true;
                        continue;
                    }
                    b'\\' => escaped = true,
                    b'"' => quote = Quote::Double,
                    b'\'' => quote = Quote::Single,
                    b'$' => variable = true,
                    _ => {}
                }
                between = false;
                continue;
            }
            if c == b'{' && variable {
                continue;
            }
            variable = false;
            match (quote, c) {
                (_, b'\\') => escaped = true,
                (_, b'$') => variable = true,
                (Quote::Double, b'"') | (Quote::Single, b'\'') => {
                    words.push(self.word(&start, 1)?);
                    quote = Quote::None;
                    need_blank = true;
                }
                (Quote::None, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') => {
                    words.push(self.word(&start, 0)?);
                    between = true;
                    match c {
                        b';' => return Ok(Statement { words, end: End::Semicolon }),
                        b'{' => return Ok(Statement { words, end: End::Open }),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    /// The next byte. Columns count characters, so the inner bytes of UTF-8 do not move them.
    fn advance(&mut self) -> Option<u8> {
        let before = self.at.checked_sub(1).and_then(|at| self.bytes.get(at));
        let c = *self.bytes.get(self.at)?;
        if before == Some(&b'\n') {
            self.line = self.line.saturating_add(1);
            self.column = 0;
        }
        if c & 0xc0 != 0x80 {
            self.column = self.column.saturating_add(1);
        }
        self.at += 1;
        Some(c)
    }

    /// The word from `start` to before the current byte, with `quotes` (0 or 1) marks at its start and end.
    fn word(&self, start: &Start, quotes: usize) -> Result<Word, Problem> {
        let raw = self.bytes.get(start.offset + quotes..self.at - 1).unwrap_or_default();
        let place = self.place(start.line, start.column);
        let width = raw.iter().filter(|b| **b & 0xc0 != 0x80).count() + 2 * quotes;
        let width = u32::try_from(width).unwrap_or(u32::MAX);
        if raw.len() > MAX_WORD {
            return Err(Problem::new(format!("too long parameter, more than {MAX_WORD} bytes"), place, 1));
        }
        match String::from_utf8(unescape(raw)) {
            Ok(text) => Ok(Word { text, place, width }),
            Err(_) => Err(Problem::new("parameter is not UTF-8 text", place, width)
                .help("save the file as UTF-8; only comments may hold other bytes")),
        }
    }

    fn place(&self, line: u32, column: u32) -> Place {
        let (line, column) = if self.command_line { (0, 0) } else { (line, column) };
        Place { file: Arc::clone(&self.name), line, column }
    }

    /// A problem at the byte just read.
    fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(message, self.place(self.line, self.column), 1)
    }

    /// A problem behind the last byte. nginx counts the empty line after the last line feed.
    fn problem_at_end(&self, message: impl Into<String>) -> Problem {
        let mut problem = self.problem(message);
        problem.place.line += u32::from(self.bytes.ends_with(b"\n") && !self.command_line);
        problem
    }

    /// The character that begins at the byte just read, for a message.
    fn character(&self) -> String {
        let rest = self.bytes.get(self.at - 1..).unwrap_or_default();
        let piece = rest.get(..4.min(rest.len())).unwrap_or_default();
        String::from_utf8_lossy(piece).chars().take(1).collect()
    }

    fn unexpected_end(&self, words: &[Word], quote: Quote, start: &Start) -> Problem {
        if self.command_line {
            return self.problem("unexpected end of parameter, expecting \";\"");
        }
        let mut problem = self.problem_at_end("unexpected end of file, expecting \";\" or \"}\"");
        match (quote, words.last()) {
            (Quote::None, Some(word)) => missing_semicolon(problem.points_at(word), words),
            (Quote::None, None) => {
                problem.caret = self.place(start.line, start.column);
                problem
            }
            _ => {
                problem.caret = self.place(start.line, start.column);
                problem.help(format!("the quote opened in line {} is never closed", start.line))
            }
        }
    }
}

fn missing_semicolon(problem: Problem, words: &[Word]) -> Problem {
    match words.last() {
        Some(word) => problem.help(format!("is a `;` missing at the end of line {}?", word.place.line)),
        None => problem,
    }
}

/// nginx's escapes, which also count outside quotes: `\"`, `\'`, `\\`, `\t`, `\r`, `\n`; any other `\` stays.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.iter().copied().peekable();
    while let Some(c) = bytes.next() {
        let known = match (c, bytes.peek()) {
            (b'\\', Some(&next @ (b'"' | b'\'' | b'\\'))) => Some(next),
            (b'\\', Some(b't')) => Some(b'\t'),
            (b'\\', Some(b'r')) => Some(b'\r'),
            (b'\\', Some(b'n')) => Some(b'\n'),
            _ => None,
        };
        if known.is_some() {
            bytes.next();
        }
        out.push(known.unwrap_or(c));
    }
    out
}

/// How `-g` is called in messages, as in nginx.
pub const COMMAND_LINE: &str = "command line";

/// All files of a configuration together. The largest seen in the wild, with tens of thousands of map lines, has 2 MiB.
const MAX_BYTES: usize = 16 << 20;

/// One word. nginx stops at 4096 bytes; certificates and scripts written in place need more.
const MAX_WORD: usize = 64 << 10;

/// `rtmp { server { application { recorder {` is 4; deep http blocks reach 8.
const MAX_DEPTH: usize = 64;

/// nginx's table of types, and the one that takes its place where there is no such file.
const MIME_TYPES: &str = "mime.types";
const MIME_TYPES_NAME: &str = "mime.types (built in)";
pub(super) const BUILT_IN_TYPES: &str = include_str!("http/mime.types");

/// ENOENT, as messages spell it.
const NOT_FOUND: &str = " failed (2: ";

/// A file that includes itself ends here.
const MAX_INCLUDE_DEPTH: usize = 16;

const MAX_FILES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The tree as text: names and words without their places.
    fn shape(directives: &[Directive]) -> String {
        let one = |d: &Directive| {
            let words: Vec<String> = std::iter::once(&d.name).chain(&d.args).map(|w| format!("<{}>", w.text)).collect();
            let block = d.block.as_ref().map(|b| format!("{{{}}}", shape(b))).unwrap_or_default();
            format!("{}{block}", words.join(""))
        };
        directives.iter().map(one).collect::<Vec<_>>().join(";")
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let tree = parse("x.conf", text.as_bytes());
        assert_eq!(tree.error, None, "{text}");
        assert_eq!(shape(&tree.directives), expected, "{text}");
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        let error = parse("x.conf", text.as_bytes()).error.expect(text);
        assert_eq!(format!("{} in {}", error.message, error.place), message, "{text}");
    }

    #[test]
    fn words_end_at_blanks_semicolons_and_braces() {
        check("a;", "<a>");
        check("a b\tc\r\nd;", "<a><b><c><d>");
        check("rtmp{server{listen 1935;}}", "<rtmp>{<server>{<listen><1935>}}");
        check("a{}b;", "<a>{};<b>");
        check("a b}c;", "<a><b}c>");
    }

    #[test]
    fn quotes_count_at_the_start_of_a_word_only() {
        check("a 'b c;{}#' \"d 'e'\";", "<a><b c;{}#><d 'e'>");
        check("a b'c d'e;", "<a><b'c><d'e>");
        check("a '';", "<a><>");
        check("a 'b'{}", "<a><b>{}");
        check("a ('b');", "<a><('b')>");
        check("a 'b'); c;", "<a><b><)>;<c>");
    }

    #[test]
    fn escapes_are_those_of_nginx() {
        check(r#"a "b\"c" d\ e f\;g "\t\r\n\\\'" \d;"#, "<a><b\"c><d\\ e><f\\;g><\t\r\n\\'><\\d>");
    }

    #[test]
    fn a_variable_in_braces_opens_no_block() {
        check("a ${b}c $d{}", "<a><${b}c><$d>{}");
        check("a \"${b}\";", "<a><${b}>");
    }

    #[test]
    fn comments_start_where_a_word_could() {
        check("# 直播\na b; # 推流 {\nc#d;#", "<a><b>;<c#d>");
        check("a 'b' # c\n;", "<a><b>");
    }

    #[test]
    fn comments_may_hold_any_bytes() {
        let tree = parse("x.conf", b"a; # \xd6\xb1\xb2\xa5\nb;");
        assert_eq!(tree.error, None);
        assert_eq!(shape(&tree.directives), "<a>;<b>");
        let error = parse("x.conf", b"a \xff\xb1;").error.unwrap();
        assert_eq!(error.message, "parameter is not UTF-8 text");
    }

    #[test]
    fn byte_order_mark_and_crlf_are_tolerated() {
        check("\u{feff}a;\r\nb;\r\n", "<a>;<b>");
    }

    #[test]
    fn places_count_lines_and_characters() {
        let tree = parse("x.conf", "a;\n  推 流 'x y';\n".as_bytes());
        let second = &tree.directives[1];
        let at = |word: &Word| (word.place.line, word.place.column, word.width);
        assert_eq!(at(&second.name), (2, 3, 1));
        assert_eq!(at(&second.args[0]), (2, 5, 1));
        assert_eq!(at(&second.args[1]), (2, 7, 5));
        assert_eq!(parse("x", b"a\nb\n;").directives[0].end_line, 3);
    }

    #[test]
    fn errors_are_worded_as_nginx_words_them() {
        check_error("rtmp {", "unexpected end of file, expecting \"}\" in x.conf:1");
        check_error("a {\n live on", "unexpected end of file, expecting \";\" or \"}\" in x.conf:2");
        check_error("a 'b;\n\n", "unexpected end of file, expecting \";\" or \"}\" in x.conf:3");
        check_error("a { live on }", "unexpected \"}\" in x.conf:1");
        check_error("a;\n}", "unexpected \"}\" in x.conf:2");
        check_error("a {;}", "unexpected \";\" in x.conf:1");
        check_error("a {{}}", "unexpected \"{\" in x.conf:1");
        check_error("a 'b'x;", "unexpected \"x\" in x.conf:1");
        check_error("a 'b'直;", "unexpected \"直\" in x.conf:1");
    }

    #[test]
    fn what_came_before_an_error_is_kept() {
        let tree = parse("x.conf", b"a; rtmp { b; server { c; d }");
        assert_eq!(shape(&tree.directives), "<a>;<rtmp>{<b>;<server>{<c>}}");
        assert!(tree.error.is_some());
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "a{".repeat(10_000);
        assert_eq!(parse("x", deep.as_bytes()).error.unwrap().message, "blocks are nested deeper than 64");
    }

    struct Memory(BTreeMap<&'static str, &'static str>);

    impl Files for Memory {
        fn read(&mut self, path: &Path, _: usize) -> io::Result<Vec<u8>> {
            let text = path.to_str().and_then(|path| self.0.get(path));
            text.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::Error::from_raw_os_error(2))
        }

        fn matches(&mut self, pattern: &str) -> Result<Vec<PathBuf>, String> {
            let pattern = glob::Pattern::new(pattern).map_err(|e| e.to_string())?;
            Ok(self.0.keys().filter(|name| pattern.matches(name)).map(PathBuf::from).collect())
        }
    }

    fn read_memory(files: &[(&'static str, &'static str)], globals: Option<&str>) -> Tree {
        read(Path::new("/etc/n/nginx.conf"), globals, &mut Memory(files.iter().copied().collect()))
    }

    #[test]
    fn includes_start_at_the_folder_of_the_main_file() {
        let tree = read_memory(
            &[
                ("/etc/n/nginx.conf", "rtmp { include sub/a.conf; z; }"),
                ("/etc/n/sub/a.conf", "a; include b.conf;"),
                ("/etc/n/b.conf", "b;"),
            ],
            None,
        );
        assert_eq!(tree.error, None);
        assert_eq!(shape(&tree.directives), "<rtmp>{<include><sub/a.conf>;<a>;<include><b.conf>;<b>;<z>}");
        assert_eq!(tree.sources.len(), 3);
    }

    #[test]
    fn a_pattern_may_match_nothing_but_a_name_must_exist() {
        assert_eq!(read_memory(&[("/etc/n/nginx.conf", "include *.d/x;")], None).error, None);
        let error = read_memory(&[("/etc/n/nginx.conf", "a;\ninclude x;")], None).error.unwrap();
        assert_eq!(error.message, "open() \"/etc/n/x\" failed (2: No such file or directory)");
        assert_eq!(error.place.to_string(), "/etc/n/nginx.conf:2");
    }

    #[test]
    fn patterns_bring_their_files_in_order() {
        let tree = read_memory(
            &[("/etc/n/nginx.conf", "include d/*.conf;"), ("/etc/n/d/2.conf", "b;"), ("/etc/n/d/1.conf", "a;")],
            None,
        );
        assert_eq!(shape(&tree.directives), "<include><d/*.conf>;<a>;<b>");
    }

    #[test]
    fn a_file_that_includes_itself_ends_with_an_error() {
        let error = read_memory(&[("/etc/n/nginx.conf", "a; include nginx.conf;")], None).error.unwrap();
        assert_eq!(error.message, "includes are nested deeper than 16");
    }

    #[test]
    fn an_included_file_closes_its_own_blocks() {
        let tree = read_memory(&[("/etc/n/nginx.conf", "a { include x; }"), ("/etc/n/x", "b; }")], None);
        let error = tree.error.unwrap();
        assert_eq!(format!("{} in {}", error.message, error.place), "unexpected \"}\" in /etc/n/x:1");
    }

    #[test]
    fn the_command_line_comes_first() {
        let tree = read_memory(&[("/etc/n/nginx.conf", "a;")], Some("daemon off; pid /x;"));
        assert_eq!(shape(&tree.directives), "<daemon><off>;<pid></x>;<a>");
        for (globals, message) in [
            ("daemon on", "unexpected end of parameter, expecting \";\" in command line"),
            ("a {", "block directives are not supported in -g option in command line"),
        ] {
            let error = read_memory(&[], Some(globals)).error.unwrap();
            assert_eq!(format!("{} in {}", error.message, error.place), message);
        }
    }

    fn directive() -> impl Strategy<Value = Directive> {
        fn word(text: String) -> Word {
            Word { text, place: Place { file: "".into(), line: 1, column: 1 }, width: 1 }
        }
        let words = || proptest::collection::vec("[ -~\t\n直播\\\\\"'${};#]{0,6}", 1..4);
        let plain = |words: Vec<String>, block: Option<Vec<Directive>>| {
            let mut words = words.into_iter().map(word);
            Directive { name: words.next().unwrap(), args: words.collect(), block, end_line: 1 }
        };
        let leaf = words().prop_map(move |words| plain(words, None));
        leaf.prop_recursive(4, 24, 4, move |inner| {
            (words(), proptest::option::of(proptest::collection::vec(inner, 0..4)))
                .prop_map(move |(words, block)| plain(words, block))
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse("x", &bytes);
        }

        #[test]
        fn no_words_of_the_grammar_make_it_panic(text in "([a-c\\\\\"'${};#\n \t)]|直){0,60}") {
            parse("x", text.as_bytes());
        }

        #[test]
        fn printed_directives_read_the_same(directives in proptest::collection::vec(directive(), 0..4)) {
            let text = print(&directives);
            let tree = parse("x", text.as_bytes());
            prop_assert_eq!(&tree.error, &None, "{}", text);
            prop_assert_eq!(shape(&tree.directives), shape(&directives), "{}", text);
        }
    }
}
