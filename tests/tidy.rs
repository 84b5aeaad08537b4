//! The conventions of the house, enforced: who may depend on whom, and what no file may contain.
//!
//! A rule that only a document knows is broken within a month. Each list below is meant to be edited in review, with its reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which top-level modules each one may name. What is not listed is not allowed; a new arrow is discussed first.
const ARROWS: &[(&str, &[&str])] = &[
    ("media", &[]),
    ("protocol", &["media"]),
    ("config", &[]),
    ("log", &["config"]),
    ("process", &["config", "log"]),
    ("bench", &["media", "protocol"]),
    ("actors", &["media", "protocol", "config", "log"]),
    ("http", &["media", "protocol", "config", "log", "actors"]),
    ("server", &["actors", "config", "http", "log", "process"]),
    ("cli", &["actors", "bench", "config", "http", "log", "media", "process", "protocol", "server"]),
    ("main", &["actors", "bench", "cli", "config", "http", "log", "media", "process", "protocol", "server"]),
    ("lib", &[]),
];

/// What no file may say, where, and why. Searched in code only: comments and string literals do not count.
const FORBIDDEN: &[Rule] = &[
    Rule {
        folders: &["src", "tests", "benches"],
        text: "todo!",
        why: "unfinished work is an issue, not a macro",
        except: &[],
    },
    Rule {
        folders: &["src", "tests", "benches"],
        text: "unimplemented!",
        why: "unfinished work is an issue",
        except: &[],
    },
    Rule { folders: &["src", "tests", "benches"], text: "dbg!", why: "log an event instead", except: &[] },
    Rule {
        folders: &["src", "tests"],
        text: "thread::sleep",
        why: "wait for the condition, with a deadline (tests/common/wait.rs)",
        except: &[
            ("src/actors/support/pace.rs", "a thread that has nothing to do, and is not to wake up for each event"),
            ("tests/common/wait.rs", "the one place that polls"),
            ("tests/common/health.rs", "a live source is paced by the clock; it waits for no condition"),
            ("tests/hooks.rs", "its endpoints are slow by the clock, and a live source is paced by it"),
        ],
    },
    Rule {
        folders: &["src", "tests"],
        text: "time::sleep",
        why: "an actor asks for a notice at a time (run_later); a test owns the clock",
        except: &[("src/actors/relays.rs", "its tests let virtual time pass")],
    },
    Rule {
        folders: &["src", "tests"],
        text: "unbounded",
        why: "every queue has a bound and every bound a name",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "tokio::",
        why: "media and protocol are sans-IO",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "actix::",
        why: "media and protocol are sans-IO",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "std::fs",
        why: "media and protocol are sans-IO",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "TcpStream",
        why: "media and protocol are sans-IO",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "Mutex",
        why: "media and protocol hold no locks",
        except: &[],
    },
    Rule {
        folders: &["src/media", "src/protocol"],
        text: "RwLock",
        why: "media and protocol hold no locks",
        except: &[],
    },
    Rule { folders: &["src"], text: "SystemTime::now", why: "time comes in as an argument", except: &[] },
];

/// The files of `src` that may read the monotonic clock of the system; everyone else is told the time.
const CLOCK_READERS: &[(&str, &str)] = &[
    ("src/cli/ctl/client.rs", "a command of its own, with a deadline for its answer"),
    ("src/cli/health.rs", "a command of its own, with a deadline for its answer"),
    ("src/log/error.rs", "notes when the log began, to say how often a line was held back"),
    ("src/log/queue.rs", "the writer's own thread waits by the clock"),
];

/// Paths of somebody's machine, in any text of the repository. Written in halves so that this file does not hold them.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Temporary paths in Rust files: tests ask the system for a directory of their own.
const TEMPORARY_PATH: &str = concat!("/tm", "p/");
const TEMPORARY_PATH_ALLOWED: &[(&str, &str)] = &[
    ("src/config/directives.rs", "nginx's own defaults"),
    ("src/config/values.rs", "a socket's address as an example, never opened"),
];

#[test]
fn dependence_points_one_way() {
    let modules: BTreeSet<&str> = ARROWS.iter().map(|(from, _)| *from).collect();
    let mut wrong = Vec::new();
    for file in rust_files(&["src"]) {
        let module = module_path(&file);
        let home = module.first().map_or("lib", String::as_str);
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == home) else {
            wrong.push(format!("{}: '{home}' has no row in ARROWS", file.display()));
            continue;
        };
        if home == "lib" {
            continue; // it declares every module and uses none
        }
        for (line, target) in top_level_names(&code_of(&file), &module) {
            if target != home && modules.contains(target.as_str()) && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}:{line}: {home} may not use {target}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_file_says_what_is_forbidden() {
    let mut wrong = Vec::new();
    for rule in FORBIDDEN {
        for file in rust_files(rule.folders) {
            let name = file.display().to_string();
            let lines = lines_with(&code_of(&file), rule.text);
            if rule.except.iter().any(|(path, _)| *path == name) {
                if lines.is_empty() {
                    wrong.push(format!("{name}: no '{}' any more: take it off the exceptions", rule.text));
                }
                continue;
            }
            wrong.extend(lines.iter().map(|line| format!("{name}:{line}: '{}': {}", rule.text, rule.why)));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn only_named_files_read_the_clock() {
    let mut wrong = Vec::new();
    for file in rust_files(&["src"]) {
        let name = file.display().to_string();
        let code = code_of(&file);
        // tokio's Instant stands still with the test's clock, so it is no clock of its own.
        let is_tokio = code.contains("tokio::time::Instant")
            || code.lines().any(|line| line.contains("use tokio::time::{") && line.contains("Instant"));
        let lines = if is_tokio { Vec::new() } else { lines_with(&code, "Instant::now") };
        match CLOCK_READERS.iter().any(|(path, _)| *path == name) {
            true if lines.is_empty() => {
                wrong.push(format!("{name}: reads no clock any more: take it off CLOCK_READERS"))
            }
            true => {}
            false => wrong.extend(
                lines.iter().map(|line| format!("{name}:{line}: reads the clock; take the time as an argument")),
            ),
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is() {
    let wrong: Vec<String> = rust_files(&["src", "tests", "benches"])
        .into_iter()
        .filter(|file| !read(file).starts_with("//! "))
        .map(|file| format!("{}: the first line is no `//! …` sentence", file.display()))
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_text_names_somebodys_machine() {
    let mut files = rust_files(&["src", "tests", "benches", "fuzz"]);
    files.extend(files_below(Path::new("."), &["md", "toml", "sh", "conf", "yml", "yaml"]));
    files.extend([PathBuf::from("Containerfile"), PathBuf::from(".ci/run")]);
    let mut wrong = Vec::new();
    for file in files {
        let text = read(&file);
        for path in MACHINE_PATHS {
            wrong.extend(lines_with(&text, path).iter().map(|line| format!("{}:{line}: '{path}'", file.display())));
        }
        let name = file.display().to_string();
        if name.ends_with(".rs") && !TEMPORARY_PATH_ALLOWED.iter().any(|(path, _)| *path == name) {
            let lines = lines_with(&text, TEMPORARY_PATH);
            wrong.extend(
                lines.iter().map(|line| format!("{name}:{line}: '{TEMPORARY_PATH}': use a temporary directory")),
            );
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn the_reader_of_use_lines_sees_groups_paths_and_parents() {
    let module: Vec<String> = ["actors", "support", "link"].map(String::from).to_vec();
    let code = "use crate::{media::{key, gop},\n protocol::rtmp};\nfn f() { super::super::super::log::error(); super::x(); }\nuse crate::config;";
    let seen: Vec<String> =
        top_level_names(code, &module).into_iter().map(|(line, name)| format!("{line}:{name}")).collect();
    assert_eq!(seen, ["1:media", "2:protocol", "3:log", "3:actors", "4:config"]);
}

#[test]
fn comments_and_strings_are_not_code() {
    let source = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l 'm' '\\'' n: &'static o b\"p\"";
    let words: Vec<String> = strip(source).split_whitespace().map(String::from).collect();
    assert_eq!(words, ["a", "e", "i", "l", "n:", "&'static", "o"]);
}

struct Rule {
    folders: &'static [&'static str],
    text: &'static str,
    why: &'static str,
    except: &'static [(&'static str, &'static str)],
}

/// Every top-level module that the code names through `crate::…` or by climbing with `super::`, with its line.
fn top_level_names(code: &str, module: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if !starts_a_path(code, at) {
            continue;
        }
        let after = at + "crate::".len();
        match code[after..].strip_prefix('{') {
            Some(group) => found.extend(heads_of_group(group).map(|(offset, name)| (after + 1 + offset, name))),
            None => found.extend(identifier(&code[after..]).map(|name| (after, name))),
        }
    }
    for (at, _) in code.match_indices("super::") {
        if !starts_a_path(code, at) {
            continue;
        }
        let mut rest = &code[at..];
        let mut depth = module.len();
        while let Some(shorter) = rest.strip_prefix("super::") {
            rest = shorter;
            depth = depth.saturating_sub(1);
        }
        // Inside `mod tests` the first `super` only leaves that; reading it as one folder more stays inside the same top-level module.
        let target = if depth == 0 { identifier(rest) } else { module.first().cloned() };
        found.extend(target.map(|name| (at, name)));
    }
    found.sort();
    found.into_iter().map(|(at, name)| (code[..at].matches('\n').count() + 1, name)).collect()
}

/// The first identifier of each member of a `{…}` group, with its offset.
fn heads_of_group(group: &str) -> impl Iterator<Item = (usize, String)> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut expecting = true;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            _ if expecting && depth == 0 && !character.is_whitespace() => {
                expecting = false;
                heads.extend(identifier(&group[at..]).map(|name| (at, name)));
            }
            _ => {}
        }
    }
    heads.into_iter()
}

fn identifier(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

fn starts_a_path(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$')
}

/// `src/a/b.rs` is `[a, b]`, `src/a/mod.rs` is `[a]`, `src/lib.rs` is `[]`.
fn module_path(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix("src").expect("only called for files of src").with_extension("");
    let mut path: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

/// The source without comments and literals, line numbers kept.
fn strip(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) =
            raw_string(rest).filter(|_| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            length
        } else if first == '"' || rest.starts_with("b\"") {
            quoted(rest, usize::from(first == 'b') + 1)
        } else if let Some(length) = char_literal(rest) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.extend(rest[..taken].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[taken..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let step = if text[at..].starts_with("/*") {
            depth += 1;
            2
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            2
        } else {
            text[at..].chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let open = body[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = open.find(&close).map_or(open.len(), |at| at + close.len());
    Some(text.len() - open.len() + end)
}

fn quoted(text: &str, start: usize) -> usize {
    let mut escaped = false;
    for (at, character) in text[start..].char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return start + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A lifetime also starts with a quote, but no second one follows its first character.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix("b'").or_else(|| text.strip_prefix('\''))?;
    let start = text.len() - body.len();
    if let Some(escape) = body.strip_prefix('\\') {
        let close = escape.char_indices().skip(1).find(|(_, c)| *c == '\'')?;
        return Some(start + 1 + close.0 + 1);
    }
    let first = body.chars().next()?;
    body[first.len_utf8()..].starts_with('\'').then(|| start + first.len_utf8() + 1)
}

fn lines_with(text: &str, needle: &str) -> Vec<usize> {
    text.lines().enumerate().filter(|(_, line)| line.contains(needle)).map(|(at, _)| at + 1).collect()
}

fn code_of(file: &Path) -> String {
    strip(&read(file))
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    folders.iter().flat_map(|folder| files_below(Path::new(folder), &["rs"])).collect()
}

/// Files below a folder with one of the extensions, sorted; `target` and hidden folders left out, a missing folder empty.
fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries.map(|entry| entry.expect("a readable folder entry")) {
        let path = entry.path().strip_prefix(".").map_or_else(|_| entry.path(), Path::to_path_buf);
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "corpus" {
            continue;
        }
        if path.is_dir() {
            files.extend(files_below(&path, extensions));
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted)) {
            files.push(path);
        }
    }
    files.sort();
    files
}
