//! The page `docs/directives.md` out of the table.

use std::fmt::Write as _;

use super::directives::{GROUPS, Inherit, Repeat, Row, Verdict, When};

/// The whole page.
pub fn page() -> String {
    let mut out = String::from(HEAD);
    for group in GROUPS {
        let _ = write!(out, "\n## {}\n\n{COLUMNS}", group.title);
        for row in group.rows {
            line(&mut out, row);
        }
    }
    out.push_str(TAIL);
    out
}

fn line(out: &mut String, row: &Row) {
    let default = match (row.default, row.reason) {
        ("", "") => "–".to_owned(),
        ("", reason) => reason.to_owned(),
        (default, "") => format!("`{default}`"),
        (default, reason) => format!("`{default}`: {reason}"),
    };
    let repeat = match (row.repeat, row.inherit) {
        (Repeat::Once, _) if row.contexts.names().len() == 1 => "once",
        (Repeat::Adds, _) if row.contexts.names().len() == 1 => "adds up",
        (Repeat::Once, Inherit::Not) => "once",
        (Repeat::Once, _) => "once; inner replaces",
        (Repeat::LastWins, _) => "last wins; inner replaces",
        (Repeat::Adds, Inherit::OwnFirst) => "adds up; own first, then outer",
        (Repeat::Adds, Inherit::ListReplaces) => "adds up; inner list replaces",
        (Repeat::Adds, _) => "adds up; not inherited",
    };
    let verdict = match row.verdict {
        Verdict::Works => "works".to_owned(),
        Verdict::Better(how) => format!("works better: {how}"),
        Verdict::NoEffect(why) => format!("no effect: {why}"),
        Verdict::NotYet(what) => format!("**not yet**: {what}"),
    };
    let when = match row.when {
        When::Live => "live",
        When::NextSession => "next session",
        When::Restart => "restart",
    };
    let _ = writeln!(
        out,
        "| `{}` | {} | {} | {} | {default} | {repeat} | {verdict} | {when} |",
        row.name,
        letters(row.forks),
        row.contexts.names().join(", "),
        row.args.describe(),
    );
}

/// `ASW` reads better as `A S W`; words stay.
fn letters(forks: &str) -> String {
    if forks.chars().all(char::is_uppercase) {
        forks.chars().map(String::from).collect::<Vec<_>>().join(" ")
    } else {
        forks.to_owned()
    }
}

const HEAD: &str = "# Directives

This page is made from the table in `src/config/directives.rs` by `LIVEMILL_BLESS=1 cargo test --lib directives_page`; do not edit it.

*Known to* names the modules that have the directive: A nginx-rtmp-module (arut), S its fork by Sergey Dryabzhinsky,
W nginx-http-flv-module (winshining), X nginx-rtmp-module (AlexWoo), P pingos; `nginx` is nginx itself, `livemill` is ours.

*What it does here* is one of
- **works**: as in the modules;
- **works better**: it does what it says, and more;
- **no effect**: it is accepted, and what it was for needs nothing here;
- **not yet**: it is accepted, said in one line at start, and missing.

*A change takes effect* at restart, for every directive: reload comes in a later release. `-s reload` reads certificates again.

Values: a flag is `on` or `off`; a number is decimal; a size is bytes, or with `k`, `m`, `g`; a time is `500ms`, `30s`,
`1m30s`, `2h`, `1d`, and **a number without a unit is seconds**. `livemill check FILE` says for one file what this page says for all.
";

const COLUMNS: &str = "| Directive | Known to | Where | Takes | Default | Repeated, inherited | What it does here | A change takes effect |
|---|---|---|---|---|---|---|---|
";

const TAIL: &str = "
## Everything else in `http {}`

`http {}` is read whole and kept. Directives of nginx's own http modules wait for the release that serves http; what proxies
(`proxy_pass`, `fastcgi_pass`, `upstream` and their kin) is not livemill's work: keep nginx in front for it. A directive that
nobody here has heard of is kept and named in a warning; only a mistake in the syntax is an error there.
";

#[cfg(test)]
mod tests {
    #[test]
    fn directives_page_is_in_step_with_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/directives.md");
        let page = super::page();
        if std::env::var_os("LIVEMILL_BLESS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).unwrap();
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page,
            "docs/directives.md is out of step; run `LIVEMILL_BLESS=1 cargo test --lib directives_page` and commit it"
        );
    }
}
