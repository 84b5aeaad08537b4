//! A server of the test's own: the built binary with a configuration, on ports that the system picked.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::wait;

/// A running server; ended by its own process id when dropped.
pub struct TestServer {
    /// How it was started.
    command: Command,
    child: Child,
    ports: [u16; PORTS],
    dir: TempDir,
    log: Arc<Mutex<String>>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Livemill,
    /// nginx with its RTMP module: a peer for relays, and with `LIVEMILL_TEST_AGAINST=nginx` the judge of these tests themselves.
    Nginx,
}

impl Kind {
    /// The server that the tests are about.
    pub fn under_test() -> Self {
        match std::env::var("LIVEMILL_TEST_AGAINST").as_deref() {
            Ok("nginx") => Self::Nginx,
            Ok(other) => panic!("LIVEMILL_TEST_AGAINST={other}: only nginx can stand in for livemill"),
            Err(_) => Self::Livemill,
        }
    }
}

impl TestServer {
    /// Starts the server under test with the `rtmp` block `rtmp` and waits until it accepts connections.
    ///
    /// `@port@`, `@port2@`, `@port3@`, `@api@` and `@dir@` stand for free ports of 127.0.0.1 and a folder of its own. A line that starts
    /// with `@livemill` goes to livemill only.
    pub fn start(rtmp: &str) -> Self {
        Self::start_with_files(rtmp, &[])
    }

    /// The same with these files beside the configuration.
    pub fn start_with_files(rtmp: &str, files: &[(&str, &str)]) -> Self {
        Self::start_kind(Kind::under_test(), rtmp, files)
    }

    /// The same with these variables in its environment; `@dir@` stands for its folder in them, too.
    pub fn start_with_environment(rtmp: &str, files: &[(&str, &str)], variables: &[(&str, &str)]) -> Self {
        let kind = Kind::under_test();
        Self::start_somewhere(kind, |ports, dir| {
            let mut command = command(kind, write_config(kind, preamble(kind), rtmp, files, ports, dir), dir);
            let dir = dir.display().to_string();
            command.envs(variables.iter().map(|(name, value)| (name, value.replace("@dir@", &dir))));
            command
        })
    }

    /// With a whole configuration that somebody else wrote; the marks of [`Self::start`] may have been put into it.
    pub fn start_whole(text: &str, files: &[(&str, &str)]) -> Self {
        Self::start_marked(Kind::under_test(), "", text, files)
    }

    /// livemill with this `rtmp` block in the place of a shell that has run `script`: it inherits what that leaves open or behind.
    pub fn start_in_place_of_shell(script: &str, rtmp: &str) -> Self {
        let kind = Kind::Livemill;
        Self::start_somewhere(kind, |ports, dir| {
            let config = write_config(kind, preamble(kind), rtmp, &[], ports, dir);
            let mut command = Command::new("bash");
            command.arg("-c").arg(format!("{script}\nexec \"$0\" \"$@\""));
            command.arg(binary(kind)).arg("-p").arg(dir).arg("-c").arg(&config);
            without_api(&mut command, &config);
            command
        })
    }

    /// livemill started with nothing: no file, RTMP on the first port and HTTP on the second, open to everybody.
    pub fn start_without_a_file() -> Self {
        Self::start_somewhere(Kind::Livemill, |ports, dir| {
            let mut command = Command::new(binary(Kind::Livemill));
            command.args(["--open", "--port", &ports[0].to_string(), "--http-port", &ports[1].to_string()]);
            command.args(["--api-port", "0"]);
            command.env("STATE_DIRECTORY", dir);
            command
        })
    }

    /// livemill with its API on a port and a socket of its own, and these lines in front of its `rtmp` block: see
    /// [`Self::api_port`] and [`Self::token`].
    pub fn start_with_api(text: &str) -> Self {
        Self::start_kind(Kind::Livemill, &format!("{API}{text}"), &[])
    }

    /// nginx with its RTMP module, whatever is under test.
    pub fn start_nginx(rtmp: &str) -> Self {
        Self::start_kind(Kind::Nginx, rtmp, &[])
    }

    /// A server of this kind with the `http` block (and what else is in `text`), behind the usual first lines.
    pub fn start_http(kind: Kind, text: &str) -> Self {
        Self::start_kind(kind, text, &[])
    }

    /// The same with these files beside the configuration.
    pub fn start_http_with(kind: Kind, text: &str, files: &[(&str, &str)]) -> Self {
        Self::start_kind(kind, text, files)
    }

    /// On ports that are known before it starts, so that two servers can name each other.
    pub fn start_at(kind: Kind, ports: [u16; PORTS], rtmp: &str) -> Self {
        let text = preamble(kind).to_owned() + rtmp;
        let command = |ports, dir: &Path| command(kind, write_config(kind, "", &text, &[], ports, dir), dir);
        Self::try_start(kind, ports, command).unwrap_or_else(|log| panic!("{kind:?} did not start:\n{log}"))
    }

    fn start_kind(kind: Kind, rtmp: &str, files: &[(&str, &str)]) -> Self {
        Self::start_marked(kind, preamble(kind), rtmp, files)
    }

    fn start_marked(kind: Kind, preamble: &str, marked: &str, files: &[(&str, &str)]) -> Self {
        Self::start_somewhere(kind, |ports, dir| {
            command(kind, write_config(kind, preamble, marked, files, ports, dir), dir)
        })
    }

    fn start_somewhere(kind: Kind, command: impl Fn([u16; PORTS], &Path) -> Command) -> Self {
        let mut refusal = String::new();
        // Another process may take a port between our letting go of it and the server's bind.
        for _ in 0..START_ATTEMPTS {
            match Self::try_start(kind, free_ports(), &command) {
                Ok(server) => return server,
                Err(log) if log.contains("in use") => refusal = log,
                Err(log) => panic!("{kind:?} did not start:\n{log}"),
            }
        }
        panic!("{kind:?} found no free ports in {START_ATTEMPTS} attempts:\n{refusal}");
    }

    fn try_start(
        kind: Kind,
        ports: [u16; PORTS],
        command: impl Fn([u16; PORTS], &Path) -> Command,
    ) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("livemill-test-").tempdir().expect("a temporary directory");
        for folder in ["logs", "conf"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder in the temporary directory");
        }
        let mut command = command(ports, dir.path());
        command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let log = Arc::new(Mutex::new(String::new()));
        let child = launch(&mut command, &log);
        let mut server = Self { command, child, ports, dir, log, kind };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Ends it as a power cut would: nobody is told.
    pub fn kill(&mut self) {
        self.child.kill().expect("our own child can be ended");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Starts it again as it was, after [`Self::kill`].
    pub fn start_again(&mut self) {
        self.child = launch(&mut self.command, &self.log);
        self.wait_until_ready().unwrap_or_else(|log| panic!("{:?} did not start again:\n{log}", self.kind));
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        match wait::within(START_DEADLINE, || self.ready()) {
            Some(Ok(())) => Ok(()),
            Some(Err(status)) => Err(format!("it ended with {status}:\n{}", self.log())),
            None => Err(format!("it does not listen after {START_DEADLINE:?}:\n{}", self.log())),
        }
    }

    fn ready(&mut self) -> Option<Result<(), ExitStatus>> {
        if let Some(status) = self.child.try_wait().expect("our own child can be asked") {
            // Its last words may still be on the way through the pipe.
            wait::within(Duration::from_millis(200), || (!self.log().is_empty()).then_some(()));
            return Some(Err(status));
        }
        if !self.listens() {
            return None;
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[0])).ok().map(|_| Ok(()))
    }

    /// Whether the first port is this server's own: another test's may have taken it, and would answer as well.
    fn listens(&self) -> bool {
        let port = format!(":{:04X}", self.ports[0]);
        let sockets: Vec<PathBuf> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|table| {
                let table = fs::read_to_string(table).unwrap_or_default();
                let inode = |line: &str| {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let is_listening = words.get(1)?.ends_with(&port) && *words.get(3)? == "0A";
                    is_listening.then(|| words.get(9).map(|inode| PathBuf::from(format!("socket:[{inode}]")))).flatten()
                };
                table.lines().filter_map(inode).collect::<Vec<_>>()
            })
            .collect();
        let open = fs::read_dir(self.proc("fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| sockets.contains(&target))
    }

    /// The number that `@port@` stood for.
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// The number that `@port2@` (1), `@port3@` (2) stood for.
    pub fn other_port(&self, index: usize) -> u16 {
        self.ports[index]
    }

    /// The number that `@api@` stood for.
    pub fn api_port(&self) -> u16 {
        self.ports[PORTS - 1]
    }

    /// The token of its API, as it was made at the start.
    pub fn token(&self) -> String {
        fs::read_to_string(self.dir().join("api.token")).expect("it was made").trim().to_owned()
    }

    pub fn url(&self, app_and_name: &str) -> String {
        format!("rtmp://127.0.0.1:{}/{app_and_name}", self.port())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it has said on stderr so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// Waits until a log line holds all of `words`.
    pub fn wait_for_log(&self, words: &[&str], deadline: Duration) {
        let found = wait::within(deadline, || {
            self.log().lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
        assert!(found.is_some(), "no log line with {words:?} within {deadline:?}:\n{}", self.log());
    }

    /// Waits until it has taken up `count` players of the stream `name`, by its own opening lines.
    pub fn wait_for_players(&self, name: &str, count: usize) {
        let (verb, subject) = match self.kind {
            Kind::Nginx => ("play: name=", format!("'{name}'")),
            Kind::Livemill => ("playing", name.to_owned()),
        };
        let found = wait::within(CLIENT_DEADLINE, || {
            let log = self.log();
            let seen = log.lines().filter(|line| line.contains(verb) && line.contains(&subject)).count();
            (seen >= count).then_some(())
        });
        assert!(found.is_some(), "not {count} players of '{name}' within {CLIENT_DEADLINE:?}:\n{}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our own child can be asked").is_none()
    }

    /// Resident memory, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Resident memory without the pages of the program file, which only grow as more of its code is used, in KiB.
    pub fn anonymous_kib(&self) -> u64 {
        self.memory("RssAnon:")
    }

    /// Open file descriptors.
    pub fn fds(&self) -> usize {
        fs::read_dir(self.proc("fd")).expect("the server is alive").count()
    }

    /// CPU time spent so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).expect("the server is alive");
        // The second field is the name in parentheses; the 14th and 15th are the ticks.
        let after_name = stat.rsplit(')').next().expect("rsplit gives at least one part");
        let ticks = |n: usize| after_name.split_whitespace().nth(n).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        Duration::from_millis((ticks(11) + ticks(12)) * 1000 / TICKS_PER_SECOND)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("our own child can be signalled");
    }

    /// Waits for it to end by itself (after a signal), and gives its exit status.
    pub fn wait_for_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        wait::until("the server ends", deadline, || child.try_wait().expect("our own child can be asked"))
    }

    fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).expect("the server is alive");
        let line = status.lines().find(|line| line.starts_with(key)).expect("the kernel tells it");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("it is a number of KiB")
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid()))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.is_alive() {
            self.signal(Signal::SIGTERM);
            let child = &mut self.child;
            if wait::within(END_DEADLINE, || child.try_wait().ok().flatten()).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::thread::panicking() {
            eprintln_log(&self.log());
        }
    }
}

/// The log of a server belongs to the report of the test that failed.
#[allow(clippy::print_stderr)]
fn eprintln_log(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    eprintln!("--- the server said, in the last of {} lines:\n{}\n---", lines.len(), last.join("\n"));
}

/// What it says on stderr is added to `log`.
fn launch(command: &mut Command, log: &Arc<Mutex<String>>) -> Child {
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let stderr = child.stderr.take().expect("stderr is piped");
    let into = Arc::clone(log);
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = into.lock().expect("no writer panics");
            log.push_str(&line);
            log.push('\n');
        }
    });
    child
}

/// A server with this configuration, in this folder.
fn command(kind: Kind, config: PathBuf, dir: &Path) -> Command {
    let mut command = Command::new(binary(kind));
    command.arg("-p").arg(dir).arg("-c").arg(&config);
    if kind == Kind::Livemill {
        without_api(&mut command, &config);
    }
    command
}

/// Servers of tests do not fight for the usual port of the API: it is there where a configuration says so.
fn without_api(command: &mut Command, config: &Path) {
    if !fs::read_to_string(config).is_ok_and(|text| text.contains("api_listen")) {
        command.args(["-g", "api off;"]);
    }
}

/// Puts the marks of [`TestServer::start`] into a configuration, and gives its path.
fn write_config(
    kind: Kind,
    preamble: &str,
    marked: &str,
    files: &[(&str, &str)],
    ports: [u16; PORTS],
    dir: &Path,
) -> PathBuf {
    let mut text = preamble.to_owned();
    for line in marked.lines() {
        match line.trim_start().strip_prefix("@livemill ") {
            Some(only) if kind == Kind::Livemill => text.push_str(only),
            Some(_) => continue,
            None => text.push_str(line),
        }
        text.push('\n');
    }
    let text = text
        .replace("@port@", &ports[0].to_string())
        .replace("@port2@", &ports[1].to_string())
        .replace("@port3@", &ports[2].to_string())
        .replace("@api@", &ports[PORTS - 1].to_string())
        .replace("@dir@", &dir.display().to_string());
    let config = dir.join("conf/test.conf");
    fs::write(&config, text).expect("the configuration can be written");
    for (name, contents) in files {
        fs::write(config.with_file_name(name), contents).expect("a file beside the configuration");
    }
    config
}

fn preamble(kind: Kind) -> &'static str {
    match kind {
        Kind::Livemill => "worker_processes 2;\nerror_log stderr info;\npid @dir@/logs/server.pid;\nevents {}\n",
        // One process, so that all streams are in one place and the process id is the one that works.
        Kind::Nginx => {
            "load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;\ndaemon off;\nmaster_process off;\n\
             error_log stderr info;\npid @dir@/logs/server.pid;\nevents { worker_connections 2048; }\n"
        }
    }
}

fn binary(kind: Kind) -> PathBuf {
    match kind {
        Kind::Livemill => PathBuf::from(env!("CARGO_BIN_EXE_livemill")),
        Kind::Nginx => super::tools::find("nginx", "nginx and libnginx-mod-rtmp"),
    }
}

/// Held together until all are known, so that they differ.
pub fn free_ports() -> [u16; PORTS] {
    let listeners: Vec<TcpListener> =
        (0..PORTS).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")).collect();
    std::array::from_fn(|at| listeners[at].local_addr().expect("a bound listener has an address").port())
}

const PORTS: usize = 4;

/// The API of a test's server.
const API: &str = "api_listen 127.0.0.1:@api@;\napi_socket @dir@/control.sock;\napi_token_file @dir@/api.token;\n";
const START_ATTEMPTS: usize = 5;
/// A debug build on a busy machine; a healthy start takes milliseconds.
const START_DEADLINE: Duration = Duration::from_secs(20);
const END_DEADLINE: Duration = Duration::from_secs(5);
/// For a real client to start, connect and ask.
pub const CLIENT_DEADLINE: Duration = Duration::from_secs(30);
const LOG_LINES_SHOWN: usize = 40;
/// `USER_HZ`, which Linux fixes for user space.
pub const TICKS_PER_SECOND: u64 = 100;
