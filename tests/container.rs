//! The container file, as far as it can be checked without a container engine.
//!
//! Checked: every instruction is one we know, every file it copies exists and is not ignored, the user is a number and not root, and
//! the start script picks the configuration as documented. Not checked: that the image builds and runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

#[test]
fn every_instruction_is_known_and_the_last_stage_is_complete() {
    let last_stage: BTreeMap<String, String> =
        instructions().into_iter().fold(BTreeMap::new(), |mut stage, (word, rest)| {
            let known = [
                "FROM",
                "WORKDIR",
                "COPY",
                "RUN",
                "USER",
                "ENV",
                "VOLUME",
                "EXPOSE",
                "STOPSIGNAL",
                "HEALTHCHECK",
                "CMD",
            ];
            assert!(known.contains(&word.as_str()), "{word} {rest}");
            if word == "FROM" {
                stage.clear();
            }
            stage.insert(word, rest);
            stage
        });
    assert_eq!(last_stage["USER"], "10001:10001", "a number, and not root");
    assert_eq!(last_stage["EXPOSE"], "1935 8080");
    assert_eq!(last_stage["CMD"], r#"["start"]"#);
    assert!(last_stage["HEALTHCHECK"].ends_with(r#"CMD ["start", "health"]"#));
    assert!(last_stage["FROM"].ends_with("-slim"), "a small base");
}

#[test]
fn everything_it_copies_exists_and_is_not_ignored() {
    let ignore = fs::read_to_string(".containerignore").expect(".containerignore is there");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    // What the build needs: cargo takes up build.rs by itself, and fails over the path of a bench that it names.
    for needed in ["Cargo.toml", "Cargo.lock", "build.rs", "src", "benches", "container"] {
        assert!(kept.contains(&needed), ".containerignore leaves out {needed}");
    }
    for (_, rest) in instructions().into_iter().filter(|(word, rest)| word == "COPY" && !rest.starts_with("--from")) {
        let words: Vec<&str> = rest.split_whitespace().filter(|word| !word.starts_with("--")).collect();
        let (_target, sources) = words.split_last().expect("COPY has a target");
        for source in sources {
            assert!(Path::new(source).exists(), "COPY {source}: no such file");
            if *source == "." {
                continue;
            }
            let top = source.split('/').next().expect("split gives at least one part");
            assert!(kept.contains(&top), "COPY {source}: .containerignore leaves it out");
        }
    }
}

#[test]
fn the_start_script_prefers_a_mounted_configuration() {
    // A root of its own: the script's absolute paths are moved below a temporary folder.
    let root = tempfile::tempdir().expect("a temporary directory");
    let at = |path: &str| root.path().join(path);
    for folder in ["bin", "usr/local/nginx/conf", "etc/nginx"] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    let script = fs::read_to_string("container/start").expect("the script is there");
    let prefix = root.path().display().to_string();
    let moved = script
        .replace("/usr/local/nginx", &format!("{prefix}/usr/local/nginx"))
        .replace("/etc/", &format!("{prefix}/etc/"));
    executable(&at("bin/start"), &moved);
    executable(&at("bin/livemill"), "#!/bin/sh\necho \"livemill $*\"\n");
    let run = |arguments: &[&str]| {
        let path = format!("{}:/usr/bin:/bin", at("bin").display());
        let output = Command::new(at("bin/start")).args(arguments).env("PATH", path).output().expect("sh runs it");
        String::from_utf8(output.stdout).expect("text").replace(&prefix, "").trim().to_owned()
    };

    assert_eq!(run(&[]), "livemill");
    assert_eq!(run(&["health"]), "livemill health");
    fs::write(at("etc/nginx/nginx.conf"), "").expect("a file");
    assert_eq!(run(&["health"]), "livemill -p /usr/local/nginx -c /etc/nginx/nginx.conf health");
    fs::write(at("usr/local/nginx/conf/nginx.conf"), "").expect("a file");
    let with_globals = "livemill -p /usr/local/nginx -c /usr/local/nginx/conf/nginx.conf -g daemon off;";
    assert_eq!(run(&["-g", "daemon off;"]), with_globals);
}

#[test]
fn the_start_script_is_a_program() {
    let mode = fs::metadata("container/start").expect("the script is there").permissions().mode();
    assert!(mode & 0o111 == 0o111, "{mode:o}");
}

/// The instructions with continuation lines joined and comments left out.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string("Containerfile").expect("the container file is there");
    let joined = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\\\n", " ");
    let split = |line: &str| {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        (word.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    joined.lines().filter(|line| !line.trim().is_empty()).map(split).collect()
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}
