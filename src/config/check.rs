//! The migration report behind `livemill check FILE`.

use std::fmt;
use std::path::Path;

use super::directives::{self, Contexts, Row, Verdict as Says};
use super::syntax::{Directive, Place, Tree, Word};
use super::{Config, ConfigError, LoadOptions, build, verify};

/// What livemill does with each directive of a configuration. `Display` is the text for people.
#[derive(Debug, Clone)]
pub struct Report {
    /// In the order of the file.
    pub used: Vec<Used>,
    /// Set where the file cannot be used at all.
    pub error: Option<ConfigError>,
    /// Lines for the operator that are not about a missing feature.
    pub remarks: Vec<String>,
}

/// One directive as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub place: Place,
    pub directive: String,
    /// Inside `http {}`.
    pub in_http: bool,
    pub verdict: Verdict,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Works,
    WorksBetter(&'static str),
    NoEffect(&'static str),
    NotYet(&'static str),
    /// Inside `http {}`, and nobody here has heard of it.
    Unknown,
}

impl Verdict {
    /// Would the operator miss something?
    pub fn is_loss(self) -> bool {
        matches!(self, Self::NotYet(_) | Self::Unknown)
    }
}

impl Report {
    /// 0: nothing is lost. 1: something is. 2: the file is broken.
    pub fn exit_code(&self) -> u8 {
        match (&self.error, self.used.iter().any(|used| used.verdict.is_loss())) {
            (Some(_), _) => 2,
            (None, true) => 1,
            (None, false) => 0,
        }
    }

    fn count(&self, which: impl Fn(&Verdict) -> bool) -> usize {
        self.used.iter().filter(|used| which(&used.verdict)).count()
    }
}

/// Reads a file and says what livemill makes of it.
pub fn report_file(path: &Path, options: &LoadOptions) -> Report {
    let tree = build::read(path, options);
    let mut report = report(&tree);
    match Config::from_tree(&tree, path, options) {
        Err(error) => report.error = Some(error),
        Ok(config) => {
            let said = build::missing(&tree);
            let remarks = config.warnings.iter().filter(|notice| !said.contains(notice));
            report.remarks = remarks.map(ToString::to_string).collect();
        }
    }
    report
}

/// What livemill makes of a tree. Only what the table knows of a directive is said; a broken tree is reported as far as
/// it was read.
pub fn report(tree: &Tree) -> Report {
    let mut used = Vec::new();
    rtmp(&tree.directives, Contexts::ROOT, &mut used);
    Report { used, error: None, remarks: Vec::new() }
}

fn rtmp(directives: &[Directive], context: Contexts, used: &mut Vec<Used>) {
    for directive in directives {
        let Some(row) = directives::find(&directive.name.text, context) else { continue };
        used.push(entry(directive, false, verdict(row, directive)));
        let Some(block) = &directive.block else { continue };
        match verify::context_of(row.name, context) {
            Some(Contexts::HTTP) => http(block, Contexts::HTTP, used),
            Some(inside) => rtmp(block, inside, used),
            None => {}
        }
    }
}

fn http(directives: &[Directive], context: Contexts, used: &mut Vec<Used>) {
    for directive in directives {
        let name = directive.name.text.as_str();
        let verdict = match (directives::find(name, context), directives::http_verdict(name)) {
            (Some(row), _) => verdict(row, directive),
            (None, Some(says)) => unless_off(says, directive),
            (None, None) => Verdict::Unknown,
        };
        used.push(entry(directive, true, verdict));
        if let (Some(block), Some(inside)) = (&directive.block, verify::context_of(name, context)) {
            http(block, inside, used);
        }
    }
}

/// `auth_basic off` and the like ask for nothing.
fn unless_off(says: Says, directive: &Directive) -> Verdict {
    match directive.args.as_slice() {
        [word] if word.text.eq_ignore_ascii_case("off") => Verdict::Works,
        _ => translate(says),
    }
}

fn entry(directive: &Directive, in_http: bool, verdict: Verdict) -> Used {
    Used { place: directive.name.place.clone(), directive: directive.name.text.clone(), in_http, verdict }
}

/// What is not built is not missed where the file says `off`: `hls off`, `record off`.
fn verdict(row: &Row, directive: &Directive) -> Verdict {
    let is_off = |words: &[Word]| matches!(words, [word] if word.text.eq_ignore_ascii_case("off"));
    let first = directive.args.first().map_or("", |word| word.text.as_str());
    match row.name {
        "error_log" | "access_log" if first.starts_with("syslog:") => {
            return Verdict::NotYet("logs go to files, stderr and stdout, not to syslog");
        }
        "error_log" if first.starts_with("memory:") => return Verdict::NoEffect("a means to debug nginx itself"),
        "access_log" if directive.args.iter().any(|word| word.text.starts_with("trunc=")) => {
            return Verdict::NotYet("one line is written, at the end of a session: trunc= comes in a later release");
        }
        _ => {}
    }
    match translate(row.verdict) {
        Verdict::NotYet(_) if row.default == "off" && is_off(&directive.args) => Verdict::Works,
        verdict => verdict,
    }
}

fn translate(says: Says) -> Verdict {
    match says {
        Says::Works => Verdict::Works,
        Says::Better(how) => Verdict::WorksBetter(how),
        Says::NoEffect(why) => Verdict::NoEffect(why),
        Says::NotYet(what) => Verdict::NotYet(what),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.used;
        let places: Vec<String> = shown.iter().map(|used| used.place.to_string()).collect();
        let place_width = places.iter().map(String::len).max().unwrap_or(0);
        let name_width = shown.iter().map(|used| used.directive.len()).max().unwrap_or(0);
        for (used, place) in shown.iter().zip(&places) {
            write!(f, "{place:place_width$}  {:name_width$}  ", used.directive)?;
            match used.verdict {
                Verdict::Works => writeln!(f, "works")?,
                Verdict::WorksBetter(how) => writeln!(f, "works better: {how}")?,
                Verdict::NoEffect(why) => writeln!(f, "accepted, no effect: {why}")?,
                Verdict::NotYet(what) => writeln!(f, "not yet: {what}")?,
                Verdict::Unknown => writeln!(f, "not yet: unknown to livemill, kept as it is")?,
            }
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        if !self.used.is_empty() {
            writeln!(
                f,
                "\n{} directives: {} work, {} work better, {} without effect, {} not yet",
                self.used.len(),
                self.count(|verdict| *verdict == Verdict::Works),
                self.count(|verdict| matches!(verdict, Verdict::WorksBetter(_))),
                self.count(|verdict| matches!(verdict, Verdict::NoEffect(_))),
                self.count(|verdict| verdict.is_loss()),
            )?;
        }
        match (&self.error, self.exit_code()) {
            (Some(error), _) => writeln!(f, "the file is broken: {error}"),
            (None, 0) => writeln!(f, "nothing is lost"),
            (None, _) => {
                let lost = self.used.iter().filter(|used| used.verdict.is_loss());
                let lost = distinct(&lost.collect::<Vec<_>>());
                writeln!(f, "lost in this release: {}", lost.join(" "))
            }
        }
    }
}

/// Each name once, where it first comes.
fn distinct<'a>(used: &[&'a Used]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in used.iter().map(|used| used.directive.as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::syntax;

    fn of_fixture(name: &str) -> Report {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        report_file(&path, &LoadOptions::default())
    }

    fn of_text(text: &str) -> Report {
        report(&syntax::parse("x.conf", text.as_bytes()))
    }

    #[test]
    fn a_live_server_loses_nothing() {
        let report = of_text(
            "worker_processes auto; events { worker_connections 1024; }
             rtmp { server { listen 1935; chunk_size 4096; application live { live on; record off; hls off; } } }",
        );
        assert_eq!(report.exit_code(), 0, "{report}");
        assert!(report.to_string().ends_with("nothing is lost\n"), "{report}");
    }

    #[test]
    fn what_is_missing_is_named_and_counted() {
        let report =
            of_text("rtmp_auto_push on;\nrtmp { server { application live { live on; record all; wait_key on; } } }");
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.to_string(),
            "x.conf:1  rtmp_auto_push  accepted, no effect: one process with one view of all streams: there is nothing to pass between workers
x.conf:2  rtmp            works
x.conf:2  server          works
x.conf:2  application     works
x.conf:2  live            works
x.conf:2  record          not yet: recording comes in a later release
x.conf:2  wait_key        works

7 directives: 5 work, 0 work better, 1 without effect, 1 not yet
lost in this release: record
"
        );
    }

    #[test]
    fn what_http_says_is_reported_like_everything_else() {
        let report =
            of_text("http { sendfile on; server { listen 80; location / { proxy_pass http://a; } auth_basic off; } }");
        assert_eq!(
            report.to_string(),
            "x.conf:1  http        works
x.conf:1  sendfile    accepted, no effect: files are read in blocks by threads of the runtime
x.conf:1  server      works
x.conf:1  listen      works
x.conf:1  location    works
x.conf:1  proxy_pass  not yet: not livemill's work: keep nginx in front for it; until then such a location answers 502
x.conf:1  auth_basic  works

7 directives: 5 work, 0 work better, 1 without effect, 1 not yet
lost in this release: proxy_pass
"
        );
    }

    #[test]
    fn a_log_that_goes_nowhere_is_a_loss() {
        assert_eq!(of_text("error_log syslog:server=192.0.2.1;").exit_code(), 1);
        assert_eq!(of_text("rtmp { access_log a.log combined trunc=60s; }").exit_code(), 1);
        assert_eq!(of_text("error_log stderr;").exit_code(), 0);
    }

    #[test]
    fn a_broken_file_is_reported_with_its_error() {
        let path = std::env::temp_dir().join("livemill-check-no-such-file.conf");
        let report = report_file(&path, &LoadOptions::default());
        assert_eq!(report.exit_code(), 2);
        assert!(report.to_string().starts_with("the file is broken: open() "), "{report}");
    }

    #[test]
    fn the_documents_lose_nothing() {
        let report = of_fixture("document_c.conf");
        assert_eq!(report.exit_code(), 0, "{report}");
        let [open] = &report.remarks[..] else { panic!("{report}") };
        assert!(
            open.ends_with("\"rtmp_stat\" is open to the world: guard it with `allow 127.0.0.1; deny all;`"),
            "{open}"
        );
        for name in ["document_a.conf", "document_b.conf", "document_d.conf"] {
            assert_eq!(of_fixture(name).exit_code(), 0);
        }
    }
}
