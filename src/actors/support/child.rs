//! Child processes as the system has them: started through this very program, signalled by their group, reaped.
//!
//! A child is first this program again, with `MARK` as its first argument: that one closes what it inherited, redirects,
//! asks to be told of its parent's end, and becomes the command. So it needs no code between fork and exec.

use std::{
    convert::Infallible,
    env,
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Command, Stdio},
};

use futures_util::stream::{self, LocalBoxStream, StreamExt};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::{self, Pid, getppid},
};

use tokio::signal::unix::{self, SignalKind};

use super::command_line::CommandLine;
use crate::config::exec::{Redirect, Redirection, Standard};

/// What can be done with child processes; another one in tests.
pub trait Processes: 'static {
    /// Tells when somebody may have ended.
    fn watch(&mut self) -> io::Result<LocalBoxStream<'static, ()>>;

    fn start(&mut self, order: &Order<'_>) -> io::Result<Started>;

    /// Signals a child and what it has started in its turn; without a signal it only looks. False: there is nobody left.
    fn signal(&mut self, pid: i32, signal: Option<Signal>) -> bool;

    /// Removes who has ended. `before` is asked while the number is still the child's own: whoever is left of its group gets
    /// the signal it names.
    fn reap(&mut self, before: &mut dyn FnMut(i32) -> Option<Signal>) -> Vec<Exit>;
}

/// A child that is to be started.
pub struct Order<'a> {
    pub line: &'a CommandLine,
    /// All of it: nothing is inherited.
    pub environment: &'a [(OsString, OsString)],
    /// What the child gets when this process is gone, however it went.
    pub death_signal: Option<Signal>,
    /// What it says is read.
    pub is_heard: bool,
}

/// A child that was started.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    /// What it says on output and error, where these are not redirected.
    pub output: Option<OwnedFd>,
    /// Why it did not become the command, once it has ended.
    pub failure: Option<Failure>,
}

/// The end of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Code(i32),
    Signal(Signal),
}

/// A pipe that closes when the child becomes the command, and tells the reason where it cannot.
#[derive(Debug)]
pub struct Failure(PipeReader);

impl Failure {
    /// The reason. Only to be asked when the child has ended: until then it could wait for one.
    pub fn reason(self) -> Option<String> {
        let mut text = Vec::new();
        let _ = self.0.take(MAX_REASON).read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "ended by {signal}"),
        }
    }
}

/// The real ones. To be used on one thread that lives as long as the process: the system takes the end of the thread that
/// started a child for the end of its parent.
#[derive(Debug, Default)]
pub struct System;

impl Processes for System {
    fn watch(&mut self) -> io::Result<LocalBoxStream<'static, ()>> {
        let ended = unix::signal(SignalKind::child())?;
        Ok(stream::unfold(ended, |mut ended| async { ended.recv().await.map(|()| ((), ended)) }).boxed_local())
    }

    fn start(&mut self, order: &Order<'_>) -> io::Result<Started> {
        let mut command = Command::new(SELF);
        command.arg0("livemill").arg(MARK);
        command.arg(std::process::id().to_string());
        command.arg(order.death_signal.map_or(0, |signal| signal as i32).to_string());
        for redirection in &order.line.redirections {
            command.arg(write_redirection(redirection));
        }
        command.arg(END_OF_REDIRECTIONS).arg(&order.line.program).args(&order.line.args);
        command.env_clear().envs(order.environment.iter().map(|(name, value)| (name, value)));
        command.process_group(0);
        // Its standard input carries the reason of a failure, until it is /dev/null.
        let (failure, reason) = io::pipe()?;
        command.stdin(reason);
        let output = if order.is_heard {
            let (output, said) = io::pipe()?;
            command.stdout(said.try_clone()?).stderr(said);
            Some(output.into())
        } else {
            command.stdout(Stdio::null()).stderr(Stdio::null());
            None
        };
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Started { pid, output, failure: Some(Failure(failure)) })
    }

    fn signal(&mut self, pid: i32, signal: Option<Signal>) -> bool {
        killpg(Pid::from_raw(pid), signal) != Err(Errno::ESRCH)
    }

    fn reap(&mut self, before: &mut dyn FnMut(i32) -> Option<Signal>) -> Vec<Exit> {
        let mut exits = Vec::new();
        // Everybody, and not only our own: as the first process of a container this one inherits what others leave behind.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        loop {
            let (pid, how) = match waitid(Id::All, look) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, How::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, How::Signal(signal)),
                Err(Errno::EINTR) => continue,
                _ => return exits,
            };
            if let Some(signal) = before(pid.as_raw()) {
                let _ = killpg(pid, signal);
            }
            if waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
                return exits;
            }
            exits.push(Exit { pid: pid.as_raw(), how });
        }
    }
}

/// What children are given of the environment, and nothing else: the usual names and those of `env` lines.
pub fn environment(named: &[(String, Option<String>)]) -> Vec<(OsString, OsString)> {
    choose_environment(named, env::vars_os())
}

fn choose_environment(
    named: &[(String, Option<String>)],
    own: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let ours = |name: &OsStr| name.as_bytes().starts_with(OURS.as_bytes());
    let is_usual = |name: &OsStr| USUAL.iter().any(|usual| name == *usual) || name.as_bytes().starts_with(b"LC_");
    let is_kept = |name: &OsStr| named.iter().any(|(kept, value)| value.is_none() && OsStr::new(kept) == name);
    let mut chosen: Vec<_> = own.filter(|(name, _)| !ours(name) && (is_usual(name) || is_kept(name))).collect();
    for (name, value) in named {
        let (Some(value), false) = (value, ours(OsStr::new(name))) else { continue };
        chosen.retain(|(known, _)| known != OsStr::new(name));
        chosen.push((name.into(), value.into()));
    }
    chosen
}

/// Is this process to become a command? Then it does, or ends with this code.
pub fn become_command(mut args: impl Iterator<Item = OsString>) -> Option<u8> {
    args.next();
    if args.next()? != MARK {
        return None;
    }
    // What livemill wants for itself is not for its children.
    let _ = prctl::set_thp_disable(false);
    // Standard input is the way back; it closes by itself when the command begins.
    let Ok(mut way_back) = io::stdin().as_fd().try_clone_to_owned().map(File::from) else { return Some(FAILED) };
    let Err(reason) = try_become(args, &way_back);
    let _ = way_back.write_all(reason.as_bytes());
    Some(FAILED)
}

fn try_become(mut args: impl Iterator<Item = OsString>, way_back: &File) -> Result<Infallible, String> {
    let mut number = || args.next().and_then(|arg| arg.to_str()?.parse::<i32>().ok()).ok_or("this is not for people");
    let (parent, death_signal) = (number()?, number()?);
    close_inherited(way_back);
    if let Ok(signal) = Signal::try_from(death_signal) {
        prctl::set_pdeathsig(signal).map_err(|errno| format!("prctl() failed: {errno}"))?;
        // It may have gone before it could be watched.
        if getppid() != Pid::from_raw(parent) {
            return Err("the server is gone".to_owned());
        }
    }
    let nothing = File::open(NOTHING).map_err(|error| format!("{NOTHING}: {error}"))?;
    replace(Standard::Input, nothing.as_fd())?;
    drop(nothing);
    for arg in args.by_ref().take_while(|arg| arg != END_OF_REDIRECTIONS) {
        redirect(&arg)?;
    }
    let program = args.next().ok_or("no command")?;
    let error = Command::new(&program).args(args).exec();
    Err(match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) if !program.as_bytes().contains(&b'/') => {
            let path = env::var_os("PATH").unwrap_or_default();
            format!("not found in PATH ({})", path.to_string_lossy())
        }
        Some(Errno::ENOENT) => "there is no such file, or what it is to be run by is missing".to_owned(),
        Some(Errno::EACCES) => "permission denied: it cannot be run".to_owned(),
        _ => error.to_string(),
    })
}

/// What livemill opens is closed by itself; this is about what it was given by whoever started it.
fn close_inherited(way_back: &File) {
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|number| *number > 2 && *number != way_back.as_raw_fd()) {
        let _ = unistd::close(descriptor);
    }
}

fn replace(stream: Standard, with: impl AsFd) -> Result<(), String> {
    let done = match stream {
        Standard::Input => unistd::dup2_stdin(with),
        Standard::Output => unistd::dup2_stdout(with),
        Standard::Error => unistd::dup2_stderr(with),
    };
    done.map_err(|errno| format!("dup2() failed: {errno}"))
}

fn redirect(word: &OsStr) -> Result<(), String> {
    let (stream, kind, file) = read_redirection(word).ok_or("not a redirection")?;
    if kind == SAME {
        return match Standard::numbered(&file.to_string_lossy()).ok_or("not a stream")? {
            Standard::Input => replace(stream, io::stdin()),
            Standard::Output => replace(stream, io::stdout()),
            Standard::Error => replace(stream, io::stderr()),
        };
    }
    let mut options = OpenOptions::new();
    match kind {
        READ => options.read(true),
        WRITE => options.write(true).create(true).truncate(true),
        _ => options.append(true).create(true),
    };
    let opened =
        options.mode(FILE_MODE).open(file).map_err(|error| format!("open() \"{}\": {error}", file.display()))?;
    replace(stream, opened)
}

/// `2`, what is done, and the file: a name from a peer cannot be mistaken for anything else.
fn write_redirection(redirection: &Redirection<String>) -> OsString {
    let same;
    let (kind, file) = match &redirection.to {
        Redirect::Read(file) => (READ, file.as_str()),
        Redirect::Write(file) => (WRITE, file.as_str()),
        Redirect::Append(file) => (APPEND, file.as_str()),
        Redirect::Same(other) => {
            same = other.number().to_string();
            (SAME, same.as_str())
        }
    };
    format!("{}{}{file}", redirection.stream.number(), char::from(kind)).into()
}

fn read_redirection(word: &OsStr) -> Option<(Standard, u8, &OsStr)> {
    let (&stream, rest) = word.as_bytes().split_first()?;
    let (&kind, file) = rest.split_first()?;
    Some((Standard::numbered(&char::from(stream).to_string())?, kind, OsStr::from_bytes(file)))
}

const READ: u8 = b'<';
const WRITE: u8 = b'>';
const APPEND: u8 = b'+';
const SAME: u8 = b'&';

/// The first argument of a livemill that is to become a command. Nobody types this by accident.
const MARK: &str = "\u{1}become-a-command";
const END_OF_REDIRECTIONS: &str = "--";
/// This program, also after another one has been put in its place on the disk.
const SELF: &str = "/proc/self/exe";
const NOTHING: &str = "/dev/null";
/// What shells say of a command that cannot be run.
const FAILED: u8 = 127;
const FILE_MODE: u32 = 0o644;
const MAX_REASON: u64 = 4 << 10;

/// What programs need to find their way about.
const USUAL: &[&str] = &["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
/// Never passed on: keys are among them.
const OURS: &str = "LIVEMILL_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_given_what_is_usual_and_what_is_named() {
        let own = ["PATH=/bin", "HOME=/h", "LC_ALL=C", "SECRET=1", "LIVEMILL_KEY=2", "KEPT=3", "TZ=UTC"];
        let own = own.map(|pair| pair.split_once('=').expect("a pair"));
        let own = own.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let named =
            [("KEPT", None), ("LIVEMILL_KEY", None), ("LIVEMILL_X", Some("x")), ("TZ", Some("CET")), ("NONE", None)];
        let named = named.map(|(name, value): (&str, Option<&str>)| (name.to_owned(), value.map(str::to_owned)));
        let chosen = choose_environment(&named, own);
        let chosen: Vec<_> =
            chosen.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(chosen, ["PATH=/bin", "HOME=/h", "LC_ALL=C", "KEPT=3", "TZ=CET"]);
    }

    #[test]
    fn redirections_survive_the_way_through_a_command_line() {
        for to in [
            Redirect::Read("&1".to_owned()),
            Redirect::Write(">x".to_owned()),
            Redirect::Append("a b".to_owned()),
            Redirect::Same(Standard::Output),
        ] {
            let word = write_redirection(&Redirection { stream: Standard::Error, to: to.clone() });
            let (stream, kind, file) = read_redirection(&word).expect("it was just written");
            let file = file.to_str().expect("it was text").to_owned();
            let read = match kind {
                READ => Redirect::Read(file),
                WRITE => Redirect::Write(file),
                APPEND => Redirect::Append(file),
                _ => Redirect::Same(Standard::numbered(&file).expect("a number")),
            };
            assert_eq!((stream, read), (Standard::Error, to));
        }
    }

    #[test]
    fn people_do_not_become_commands() {
        for args in [&["livemill"][..], &["livemill", "-t"], &[]] {
            assert_eq!(become_command(args.iter().map(OsString::from)), None);
        }
    }
}
