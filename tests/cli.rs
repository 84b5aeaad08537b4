//! The command as a user types it.

// The lint's exception for tests does not reach the functions that tests share.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

#[path = "common/wait.rs"]
mod wait;

fn livemill(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_livemill"));
    command.args(args).env_remove("LIVEMILL_PUBLISH_KEY");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A folder with a configuration in it. `FOLDER` and `PORT` in the text are replaced.
struct Site {
    folder: TempDir,
    file: PathBuf,
}

impl Site {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nginx.conf");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = text.replace("FOLDER", folder.path().to_str().unwrap()).replace("PORT", &port.to_string());
        fs::write(&file, text).unwrap();
        Self { folder, file }
    }

    fn file(&self) -> &str {
        self.file.to_str().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the server shakes hands: by then it listens to signals too.
    fn is_served(&self) {
        wait::until("the server is healthy", START_DEADLINE, || {
            livemill(&["health", "-c", self.file()]).status.success().then_some(())
        });
    }

    fn signal(&self, name: &str) -> Output {
        livemill(&["-s", name, "-c", self.file()])
    }
}

const GOOD: &str = "
pid FOLDER/run/livemill.pid;
error_log stderr info;
api off;
events {}
rtmp {
    server {
        listen 127.0.0.1:PORT;
        access_log FOLDER/logs/access.log;
        application live { live on; }
    }
}
";

#[test]
fn the_version_is_on_standard_error_as_in_nginx() {
    let output = livemill(&["-v"]);
    assert!(output.status.success());
    assert_eq!(stderr(&output), format!("livemill version: livemill/{}\n", env!("CARGO_PKG_VERSION")));
    assert!(output.stdout.is_empty());
}

#[test]
fn the_build_names_compiler_and_target() {
    let text = stderr(&livemill(&["-V"]));
    assert!(text.contains("\nbuilt with rustc ") && text.contains("\ntarget: "), "{text}");
}

#[test]
fn what_is_not_an_option_is_refused_in_the_words_of_nginx() {
    let check = |args: &[&str], message: &str| {
        let output = livemill(args);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(1), message), "{args:?}");
    };
    check(&["-z"], "livemill: invalid option: \"z\"\n");
    check(&["start"], "livemill: invalid option: \"start\"\n");
    check(&["-c"], "livemill: option \"-c\" requires file name\n");
    check(&["-p"], "livemill: option \"-p\" requires directory name\n");
    check(&["-s"], "livemill: option \"-s\" requires parameter\n");
    check(&["-s", "dance"], "livemill: invalid option: \"-s dance\"\n");
}

#[test]
fn help_is_there_in_every_spelling() {
    for option in ["-h", "-?", "--help"] {
        let output = livemill(&[option]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("-s signal "), "{option}: {text}");
    }
}

#[test]
fn a_good_file_passes_the_test() {
    let site = Site::new(GOOD);
    let output = livemill(&["-t", "-c", site.file()]);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains(&format!("livemill: the configuration file {} syntax is ok\n", site.file())), "{text}");
    assert!(text.ends_with(&format!("livemill: configuration file {} test is successful\n", site.file())), "{text}");
    assert!(!site.path("run/livemill.pid").exists(), "a test is not a start");
}

#[test]
fn a_quiet_test_says_nothing_about_success() {
    let site = Site::new(GOOD);
    let output = livemill(&["-tq", "-c", site.file()]);
    assert!(output.status.success());
    assert!(!stderr(&output).contains("syntax is ok"));
}

#[test]
fn a_broken_file_fails_the_test_with_its_line() {
    let site = Site::new("events {}\nrtmp { server { listen 127.0.0.1:PORT; aplication live { live on; } } }\n");
    let output = livemill(&["-t", "-c", site.file()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    let first = format!("livemill: [emerg] unknown directive \"aplication\" in {}:2\n", site.file());
    assert!(text.starts_with(&first), "{text}");
    assert!(text.ends_with(&format!("livemill: configuration file {} test failed\n", site.file())), "{text}");
}

#[test]
fn a_certificate_that_is_not_there_fails_the_test() {
    let tls = "listen 127.0.0.1:PORT ssl; ssl_certificate none.pem; ssl_certificate_key none.key;";
    let site = Site::new(&format!("events {{}}\nrtmp {{ server {{ {tls} application live {{ live on; }} }} }}\n"));
    let output = livemill(&["-t", "-c", site.file()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("[emerg] cannot load certificate") && text.contains("none.pem"), "{text}");
    assert!(text.ends_with(&format!("livemill: configuration file {} test failed\n", site.file())), "{text}");
}

#[test]
fn an_unknown_variable_in_a_log_format_fails_the_test() {
    let site = Site::new(&GOOD.replace("server {", "log_format f '$remote_adr'; server { access_log FOLDER/a.log f;"));
    let output = livemill(&["-t", "-c", site.file()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("unknown \"remote_adr\" variable"), "{text}");
}

#[test]
fn a_dump_holds_every_file() {
    let site = Site::new(&GOOD.replace("rtmp {", "rtmp { include FOLDER/extra.conf;"));
    fs::write(site.path("extra.conf"), "chunk_size 4000;\n").unwrap();
    let output = livemill(&["-T", "-c", site.file()]);
    let dump = String::from_utf8(output.stdout).unwrap();
    assert!(dump.starts_with(&format!("# configuration file {}:\n", site.file())), "{dump}");
    let extra = format!("# configuration file {}:\nchunk_size 4000;\n", site.path("extra.conf").display());
    assert!(dump.contains(&extra), "{dump}");
}

#[test]
fn check_tells_by_its_exit_code_whether_anything_is_lost() {
    let code = |text: &str| livemill(&["check", Site::new(text).file()]).status.code();
    assert_eq!(code(GOOD), Some(0));
    assert_eq!(code(&GOOD.replace("live on;", "live on")), Some(2));
    assert_eq!(livemill(&["check"]).status.code(), Some(2));
}

#[test]
fn a_signal_without_a_server_says_why() {
    let site = Site::new(GOOD);
    let pid = site.path("run/livemill.pid");
    let output = livemill(&["-s", "stop", "-c", site.file()]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("livemill: [error] open() \"{}\" failed (2: No such file or directory)\n", pid.display());
    assert!(stderr(&output).ends_with(&expected), "{}", stderr(&output));

    fs::create_dir(pid.parent().unwrap()).unwrap();
    fs::write(&pid, "4194305\n").unwrap();
    let output = livemill(&["-s", "stop", "-c", site.file()]);
    let expected = "livemill: [alert] kill(4194305, 15) failed (3: No such process)\n";
    assert!(stderr(&output).ends_with(expected), "{}", stderr(&output));
}

#[test]
fn a_server_in_the_foreground_obeys_its_signals() {
    let site = Site::new(GOOD);
    let mut server = command(&["-c", site.file()]).stderr(Stdio::piped()).spawn().unwrap();
    site.is_served();
    let pid = fs::read_to_string(site.path("run/livemill.pid")).unwrap();
    assert_eq!(pid, format!("{}\n", server.id()));

    let reload = site.signal("reload");
    assert_eq!(reload.status.code(), Some(1), "nobody must take it for a reload");
    wait_for(&mut BufReader::new(server.stderr.take().unwrap()), "reload");

    assert!(site.signal("quit").status.success());
    assert!(server.wait().unwrap().success());
    assert!(!site.path("run/livemill.pid").exists());
}

#[test]
fn a_server_in_the_background_outlives_its_start() {
    let site = Site::new(&format!("daemon on;{GOOD}"));
    let mut start = command(&["-c", site.file()]).stderr(Stdio::piped()).spawn().unwrap();
    // The log on standard error keeps the stream open, so its end is the end of the server.
    let mut log = start.stderr.take().unwrap();
    assert!(start.wait().unwrap().success());
    site.is_served();
    let pid = fs::read_to_string(site.path("run/livemill.pid")).unwrap();
    assert_ne!(pid, format!("{}\n", start.id()));
    assert!(Path::new("/proc").join(pid.trim()).exists());

    assert!(site.signal("stop").status.success());
    log.read_to_string(&mut String::new()).unwrap();
    assert!(!site.path("run/livemill.pid").exists());
}

#[test]
fn a_rotated_log_is_opened_anew() {
    let site = Site::new(&GOOD.replace("error_log stderr info;", "error_log FOLDER/e.log info;"));
    let mut server = command(&["-c", site.file()]).spawn().unwrap();
    site.is_served();
    fs::rename(site.path("e.log"), site.path("e.log.1")).unwrap();
    assert!(site.signal("reopen").status.success());
    wait::until("a new log", START_DEADLINE, || site.path("e.log").exists().then_some(()));
    assert!(site.signal("stop").status.success());
    assert!(server.wait().unwrap().success());
    assert!(!fs::read_to_string(site.path("e.log.1")).unwrap().contains("shutting down"));
    assert!(fs::read_to_string(site.path("e.log")).unwrap().contains("shutting down"));
}

#[test]
fn a_port_in_use_stops_the_start() {
    let site = Site::new(GOOD);
    let text = fs::read_to_string(site.file()).unwrap();
    let address = text.split("listen ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let _taken = TcpListener::bind(address).unwrap();
    let output = livemill(&["-c", site.file()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("[emerg]"), "{}", stderr(&output));
    assert!(!site.path("run/livemill.pid").exists());
}

#[test]
fn started_with_nothing_a_port_in_use_is_answered_with_a_way_out() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let state = tempfile::tempdir().unwrap();
    let mut start = command(&["--open", "--port", &port, "--http-port", "0"]);
    let output = start.env("STATE_DIRECTORY", state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains(&format!("bind() to 0.0.0.0:{port} failed")) && said.contains("--http-port"), "{said}");
}

#[test]
fn health_of_nobody_is_one() {
    let site = Site::new(GOOD);
    let output = livemill(&["health", "-c", site.file()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("livemill: health: 127.0.0.1:"), "{}", stderr(&output));
}

const START_DEADLINE: Duration = Duration::from_secs(10);

/// Reads lines until one holds `text`; the end of the log is a failure.
fn wait_for(log: &mut impl BufRead, text: &str) {
    let mut read = String::new();
    while !read.lines().last().is_some_and(|line| line.contains(text)) {
        assert!(log.read_line(&mut read).unwrap() > 0, "no \"{text}\" in\n{read}");
    }
}
