//! What a daemon does with its process: background, pid file, user, limits, signals.
//!
//! The order of a start, which `cli` keeps: open logs and bind sockets (as root, where that is needed), go to the
//! background (before the first thread, which a fork would lose), write the pid file, start threads, give up privileges.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, Gid, Group, Pid, Uid, User};
use thiserror::Error;
use tokio::signal::unix::{self, SignalKind};

/// What the operator asks of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// TERM or INT: end now.
    Stop,
    /// QUIT: accept nobody new, let streams end.
    Quit,
    /// HUP: read the configuration again.
    Reload,
    /// USR1: open the logs anew.
    Reopen,
}

impl Signal {
    /// As `-s` spells it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "stop" => Some(Self::Stop),
            "quit" => Some(Self::Quit),
            "reload" => Some(Self::Reload),
            "reopen" => Some(Self::Reopen),
            _ => None,
        }
    }

    fn number(self) -> signal::Signal {
        match self {
            Self::Stop => signal::Signal::SIGTERM,
            Self::Quit => signal::Signal::SIGQUIT,
            Self::Reload => signal::Signal::SIGHUP,
            Self::Reopen => signal::Signal::SIGUSR1,
        }
    }
}

/// The signals this process receives, from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    user: unix::Signal,
}

impl Signals {
    /// Starts to listen. Inside a tokio runtime with I/O only; anywhere else it panics.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            quit: unix::signal(SignalKind::quit())?,
            hangup: unix::signal(SignalKind::hangup())?,
            user: unix::signal(SignalKind::user_defined1())?,
        })
    }

    /// The next signal. May be dropped and asked again: no signal is lost by that.
    pub async fn next(&mut self) -> Signal {
        // What ends the server comes last: of two that wait, the other is then still obeyed.
        tokio::select! {
            biased;
            _ = self.user.recv() => Signal::Reopen,
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.quit.recv() => Signal::Quit,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
        }
    }
}

/// Goes to the background: a new session, with the terminal's streams closed unless a log still writes to them.
///
/// Before the first thread: a fork takes only the one that calls it. The working directory stays, as in nginx.
pub fn daemonise(keeps_streams: bool) -> Result<(), ProcessError> {
    unistd::daemon(true, keeps_streams).map_err(|errno| ProcessError::Call { call: "daemon()".to_owned(), errno })
}

/// Makes sure that nothing this process makes can be written by everybody, however it was started.
pub fn tighten_umask() {
    let inherited = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    umask(inherited | Mode::S_IWGRP | Mode::S_IWOTH);
}

/// The pid file of a running server; gone when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    pid: u32,
    /// Open from when it was written: what cannot be removed without privileges can still be emptied. None: not a file.
    file: Option<File>,
}

impl PidFile {
    /// Writes this process's id, in place of what an earlier one left behind. Returns also what the operator should know.
    ///
    /// Sockets are bound before: a server that is still running on them has stopped the start by then, so a file that is
    /// found is stale.
    pub fn write(path: &Path) -> Result<Self, ProcessError> {
        let pid = std::process::id();
        let text = format!("{pid}\n");
        let fail = |source| ProcessError::Open { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
            fs::create_dir_all(folder).map_err(fail)?;
        }
        let file = if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            // `pid /dev/null;` and links are written through: a rename would replace the device or the link.
            fs::write(path, text).map_err(fail)?;
            None
        } else {
            // Whoever reads the file at the wrong moment must not find half a number: another process would be signalled.
            write_by_rename(path, text.as_bytes(), PID_FILE_MODE).map_err(fail)?;
            Some(OpenOptions::new().write(true).open(path).map_err(fail)?)
        };
        // Absolute from now on: after a change of directory the same file must be found again.
        Ok(Self { path: std::path::absolute(path).map_err(fail)?, pid, file })
    }

    /// The process id in a file, as nginx reads it.
    pub fn read(path: &Path) -> Result<Pid, ProcessError> {
        let text = fs::read_to_string(path).map_err(|source| ProcessError::Open { path: path.to_owned(), source })?;
        let text = text.trim();
        // 0 and negative numbers mean process groups to kill(2).
        let pid = text.parse::<i32>().ok().filter(|&pid| pid > 0);
        let invalid = || ProcessError::InvalidPid { text: text.to_owned(), path: path.to_owned() };
        pid.map(Pid::from_raw).ok_or_else(invalid)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another server may have started since and written its own.
        let is_ours = Self::read(&self.path).is_ok_and(|pid| u32::try_from(pid.as_raw()) == Ok(self.pid));
        if let (true, Some(file)) = (is_ours, &self.file) {
            // A number left behind would be somebody else's one day, and `-s stop` would stop that.
            let _ = fs::remove_file(&self.path).or_else(|_| file.set_len(0));
        }
    }
}

/// Sends a signal to the server whose pid file this is (`-s`).
pub fn send(request: Signal, pid_file: &Path) -> Result<(), ProcessError> {
    let pid = PidFile::read(pid_file)?;
    let number = request.number();
    signal::kill(pid, number).map_err(|errno| ProcessError::Kill { pid, number: number as i32, errno })
}

/// Who the process becomes once everything that needs privileges is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    name: CString,
    pub uid: Uid,
    pub gid: Gid,
}

impl Identity {
    /// Looks up the names of a `user` line. Without a group it is the one of the same name, else the user's own.
    pub fn find(user: &str, group: Option<&str>) -> Result<Self, ProcessError> {
        let unknown_user = || ProcessError::UnknownUser(user.to_owned());
        let entry = User::from_name(user).ok().flatten().ok_or_else(unknown_user)?;
        let found = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid);
        let gid = match group {
            Some(group) => found(group).ok_or_else(|| ProcessError::UnknownGroup(group.to_owned()))?,
            None => found(user).unwrap_or(entry.gid),
        };
        let name = CString::new(user).map_err(|_| unknown_user())?;
        Ok(Self { name, uid: entry.uid, gid })
    }

    /// Becomes this user, for good and on all threads: groups first, since a user without privileges cannot change them.
    pub fn assume(&self) -> Result<(), ProcessError> {
        let call = |call: String| move |errno| ProcessError::Call { call, errno };
        let name = self.name.to_string_lossy();
        unistd::initgroups(&self.name, self.gid).map_err(call(format!("initgroups({name}, {})", self.gid)))?;
        unistd::setgid(self.gid).map_err(call(format!("setgid({})", self.gid)))?;
        unistd::setuid(self.uid).map_err(call(format!("setuid({})", self.uid)))
    }
}

/// What a `user` line, or its absence, means for this process.
#[derive(Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Who to become; None: stay.
    pub become_user: Option<Identity>,
    pub warning: Option<&'static str>,
}

impl Privileges {
    /// Decides by the `user` line and whether the process is root now.
    pub fn plan(user: Option<(&str, Option<&str>)>) -> Result<Self, ProcessError> {
        Self::decide(user, unistd::geteuid().is_root())
    }

    /// Who files belong to that this process makes before it becomes that user.
    pub fn owner(&self) -> Option<(Uid, Gid)> {
        self.become_user.as_ref().map(|user| (user.uid, user.gid))
    }

    fn decide(user: Option<(&str, Option<&str>)>, is_root: bool) -> Result<Self, ProcessError> {
        match user {
            Some(_) if !is_root => Ok(Self { become_user: None, warning: Some(USER_WITHOUT_ROOT) }),
            Some((user, group)) => {
                let identity = Identity::find(user, group)?;
                // Configurations of the family say `user root;` because recording failed otherwise: they keep working.
                let warning = identity.uid.is_root().then_some(ROOT_IS_NOT_NEEDED);
                Ok(Self { become_user: (!identity.uid.is_root()).then_some(identity), warning })
            }
            None => Ok(Self { become_user: None, warning: is_root.then_some(ROOT_IS_NOT_NEEDED) }),
        }
    }
}

/// Raises the limit of open files to what is wanted (`worker_rlimit_nofile`), else as far as the system lets it.
///
/// Returns the limit in effect, and a warning where less was granted than wanted.
pub fn raise_open_files(wanted: Option<u64>) -> Result<(u64, Option<String>), ProcessError> {
    let call = |errno| ProcessError::Call { call: "getrlimit(RLIMIT_NOFILE)".to_owned(), errno };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(call)?;
    let target = wanted.unwrap_or_else(|| hard.clamp(soft, soft.max(OPEN_FILES_WANTED)));
    let mut warning = None;
    // Only root may raise the hard limit; asking is how to find out.
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, target, hard.max(target)) {
        Ok(()) => target,
        Err(errno) => {
            let fallback = target.min(hard);
            let number = errno as i32;
            warning = Some(format!("setrlimit(RLIMIT_NOFILE, {target}) failed ({number}: {})", errno.desc()));
            setrlimit(Resource::RLIMIT_NOFILE, fallback, hard).map_or(soft, |()| fallback)
        }
    };
    check_open_files(limit)?;
    Ok((limit, warning))
}

/// Changes to the `working_directory`.
pub fn enter(directory: &Path) -> Result<(), ProcessError> {
    let call = || format!("chdir(\"{}\")", directory.display());
    unistd::chdir(directory).map_err(|errno| ProcessError::Call { call: call(), errno })
}

/// Writes a file in one step: no reader ever finds half of it, no crash leaves half of it.
pub fn write_by_rename(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes a file that must not exist yet, and has it on the disk when it returns.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A name in the same folder, so that a rename stays on one file system, that no other process uses.
pub fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{:08x}", std::process::id(), rand::random::<u32>()));
    path.with_file_name(name)
}

/// What went wrong with the process, in nginx's words.
#[derive(Debug, Error)]
pub enum ProcessError {
    #[error("open() \"{}\" failed ({})", path.display(), describe(source))]
    Open { path: PathBuf, source: io::Error },
    #[error("invalid PID number \"{text}\" in \"{}\"", path.display())]
    InvalidPid { text: String, path: PathBuf },
    #[error("kill({pid}, {number}) failed ({}: {})", *errno as i32, errno.desc())]
    Kill { pid: Pid, number: i32, errno: Errno },
    #[error("{call} failed ({}: {})", *errno as i32, errno.desc())]
    Call { call: String, errno: Errno },
    #[error("getpwnam(\"{0}\") failed: there is no such user")]
    UnknownUser(String),
    #[error("getgrnam(\"{0}\") failed: there is no such group")]
    UnknownGroup(String),
    #[error(
        "the limit of open files is {limit}, and {OPEN_FILES_NEEDED} is the least a server can work with: \
         raise it with \"ulimit -n 65536\", LimitNOFILE=65536 or worker_rlimit_nofile"
    )]
    TooFewFiles { limit: u64 },
}

/// As nginx writes it: `13: Permission denied`.
fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{code}: {}", Errno::from_raw(code).desc()),
        None => error.to_string(),
    }
}

fn check_open_files(limit: u64) -> Result<(), ProcessError> {
    if limit < OPEN_FILES_NEEDED { Err(ProcessError::TooFewFiles { limit }) } else { Ok(()) }
}

/// What `-s reload` is answered with until there is a reload.
pub const RELOAD_COMES_LATER: &str = "reload comes in a later release: the server keeps the configuration it was started with, and reads its certificates again";
/// nginx's words.
const USER_WITHOUT_ROOT: &str =
    "the \"user\" directive makes sense only if the master process runs with super-user privileges, ignored";
const ROOT_IS_NOT_NEEDED: &str =
    "running as root, which nothing here needs: name another user with \"user NAME;\", or start as one";
const PID_FILE_MODE: u32 = 0o644;
/// Below this a handful of strangers keeps everybody else out.
const OPEN_FILES_NEEDED: u64 = 1_024;
/// Containers offer a thousand million: more than this nobody uses, and tables in the kernel grow with it.
const OPEN_FILES_WANTED: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_spelled_as_nginx_spells_them() {
        let check = |name, expected| assert_eq!(Signal::named(name).map(Signal::number), expected, "{name}");
        check("stop", Some(signal::Signal::SIGTERM));
        check("quit", Some(signal::Signal::SIGQUIT));
        check("reload", Some(signal::Signal::SIGHUP));
        check("reopen", Some(signal::Signal::SIGUSR1));
        check("Stop", None);
    }

    #[test]
    fn a_pid_file_lives_as_long_as_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/livemill.pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(PidFile::read(&path).unwrap(), unistd::getpid());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left in the folder");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_pid_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("livemill.pid");
        fs::write(&path, "999999\n").unwrap();
        let _file = PidFile::write(&path).unwrap();
        assert_eq!(PidFile::read(&path).unwrap(), unistd::getpid());
    }

    #[test]
    fn the_pid_file_of_a_successor_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("livemill.pid");
        let file = PidFile::write(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_link_in_place_of_a_pid_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, real) = (folder.path().join("link"), folder.path().join("real"));
        std::os::unix::fs::symlink(&real, &path).unwrap();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(PidFile::read(&real).unwrap(), unistd::getpid());
        drop(file);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[test]
    fn what_stands_in_a_pid_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("livemill.pid");
        for text in ["", "xx", "0", "-1", "99999999999"] {
            fs::write(&path, text).unwrap();
            let error = send(Signal::Stop, &path).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid PID number \"{text}\" in \"{}\"", path.display()));
        }
    }

    #[test]
    fn a_missing_pid_file_or_process_is_told_in_the_words_of_nginx() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("livemill.pid");
        let missing = send(Signal::Stop, &path).unwrap_err().to_string();
        assert_eq!(missing, format!("open() \"{}\" failed (2: No such file or directory)", path.display()));
        // Above the largest pid Linux gives out.
        fs::write(&path, "4194305\n").unwrap();
        let gone = send(Signal::Stop, &path).unwrap_err().to_string();
        assert_eq!(gone, "kill(4194305, 15) failed (3: No such process)");
    }

    #[test]
    fn a_user_line_without_root_is_a_warning() {
        let plan = Privileges::decide(Some(("nobody", None)), false).unwrap();
        assert_eq!(plan, Privileges { become_user: None, warning: Some(USER_WITHOUT_ROOT) });
    }

    #[test]
    fn user_root_keeps_running_with_a_warning() {
        let plan = Privileges::decide(Some(("root", None)), true).unwrap();
        assert_eq!(plan, Privileges { become_user: None, warning: Some(ROOT_IS_NOT_NEEDED) });
        assert_eq!(Privileges::decide(None, true).unwrap(), plan);
        assert_eq!(Privileges::decide(None, false).unwrap(), Privileges { become_user: None, warning: None });
    }

    #[test]
    fn root_becomes_the_user_that_is_named() {
        let plan = Privileges::decide(Some(("nobody", None)), true).unwrap();
        assert!(plan.become_user.is_some_and(|user| !user.uid.is_root()));
        let unknown = Privileges::decide(Some(("no-such-user", None)), true).unwrap_err();
        assert_eq!(unknown.to_string(), "getpwnam(\"no-such-user\") failed: there is no such user");
    }

    #[test]
    fn a_start_with_too_few_files_is_refused() {
        assert!(check_open_files(1_023).is_err());
        assert!(check_open_files(1_024).is_ok());
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_by_rename(&path, b"one", 0o600).unwrap();
        write_by_rename(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(write_new(&path, b"three", 0o600).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_signal_reaches_whoever_listens() {
        let mut signals = Signals::listen().unwrap();
        signal::raise(signal::Signal::SIGUSR1).unwrap();
        assert_eq!(signals.next().await, Signal::Reopen);
        signal::raise(signal::Signal::SIGQUIT).unwrap();
        assert_eq!(signals.next().await, Signal::Quit);
    }
}
