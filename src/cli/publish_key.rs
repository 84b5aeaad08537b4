//! Secrets that a server makes for itself: the publish key of a start without a configuration, and the token of the API.
//! Made once, kept in a file only its owner can read.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::geteuid;
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

use crate::process::{temporary_beside, write_new};

/// A key, and what the operator should be told about it. No `Debug`: it would end up in a log.
pub struct FoundKey {
    pub key: String,
    pub origin: Origin,
}

/// Where a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the environment says it.
    Environment,
    /// It was in the file.
    Kept(PathBuf),
    /// It was made now and is in the file.
    Made(PathBuf),
    /// It was made now and could not be kept, as with a read-only file system: the next start makes another.
    NotKept { path: PathBuf, reason: String },
}

/// What decides where keys are: the environment, as values, so that a test can have its own.
#[derive(Debug, Clone, Default)]
pub struct Places {
    pub publish_key: Option<OsString>,
    pub api_token: Option<OsString>,
    pub runtime_directory: Option<OsString>,
    pub state_directory: Option<OsString>,
    pub xdg_state_home: Option<OsString>,
    pub home: Option<OsString>,
}

impl Places {
    pub fn from_environment() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            // Set to nothing is a mistake worth telling, not the same as unset: it would open the server.
            publish_key: std::env::var_os(PUBLISH_KEY.variable),
            api_token: std::env::var_os(API_TOKEN.variable),
            runtime_directory: set("RUNTIME_DIRECTORY"),
            state_directory: set("STATE_DIRECTORY"),
            xdg_state_home: set("XDG_STATE_HOME"),
            home: set("HOME"),
        }
    }

    /// The folder this server keeps things in from one start to the next.
    pub fn state_folder(&self) -> PathBuf {
        if let Some(folders) = &self.state_directory {
            return first_folder(folders);
        }
        match (&self.xdg_state_home, &self.home) {
            (Some(state), _) => Path::new(state).join("livemill"),
            (None, Some(home)) => Path::new(home).join(".local/state/livemill"),
            (None, None) => PathBuf::from("."),
        }
    }

    /// The key to ask of publishers: the environment's, else the one that is kept, else a new one.
    pub fn find_key(&self) -> Result<FoundKey, KeyError> {
        PUBLISH_KEY.find(self.publish_key.as_ref(), || self.state_folder().join(PUBLISH_KEY.file))
    }

    /// The token to ask of whoever calls the API, in the same way; `file` where the configuration names one.
    pub fn find_api_token(&self, file: Option<&Path>) -> Result<FoundKey, KeyError> {
        API_TOKEN.find(self.api_token.as_ref(), || file.map_or_else(|| self.api_token_file(), Path::to_owned))
    }

    /// Where the token is kept unless the configuration says otherwise.
    pub fn api_token_file(&self) -> PathBuf {
        self.state_folder().join(API_TOKEN.file)
    }

    /// Where the control socket is unless the configuration says otherwise.
    pub fn control_socket(&self) -> PathBuf {
        let folder = self.runtime_directory.as_ref().map(first_folder);
        folder.unwrap_or_else(|| self.state_folder()).join(CONTROL_SOCKET)
    }
}

/// A service manager names several with colons between; the first is ours.
fn first_folder(folders: &OsString) -> PathBuf {
    let first = folders.as_bytes().split(|&byte| byte == b':').next().unwrap_or_default();
    PathBuf::from(std::ffi::OsStr::from_bytes(first))
}

/// A kind of secret.
struct Secret {
    what: &'static str,
    /// The environment variable that takes the place of the kept one.
    variable: &'static str,
    file: &'static str,
}

impl Secret {
    fn find(&self, given: Option<&OsString>, path: impl FnOnce() -> PathBuf) -> Result<FoundKey, KeyError> {
        if let Some(given) = given {
            let bad = KeyError::BadOverride { variable: self.variable };
            let key = given.to_str().filter(|key| is_usable(key)).ok_or(bad)?;
            return Ok(FoundKey { key: key.to_owned(), origin: Origin::Environment });
        }
        let path = path();
        if let Some(key) = read(&path, self.what)? {
            return Ok(FoundKey { key, origin: Origin::Kept(path) });
        }
        let key = make()?;
        match keep(&path, &key) {
            Ok(()) => Ok(FoundKey { key, origin: Origin::Made(path) }),
            // Another start was faster: its key is the one that is kept.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read(&path, self.what)? {
                Some(key) => Ok(FoundKey { key, origin: Origin::Kept(path) }),
                None => Ok(FoundKey { key, origin: Origin::NotKept { path, reason: error.to_string() } }),
            },
            Err(error) => Ok(FoundKey { key, origin: Origin::NotKept { path, reason: error.to_string() } }),
        }
    }
}

/// Makes a folder that only its owner looks into, where there is none.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(folder)
}

/// Why there is no key to start with.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("{variable} must be 1 to 128 letters, digits or any of \"-._~\": it stands in addresses and headers")]
    BadOverride { variable: &'static str },
    #[error(
        "the {what} in \"{}\" can be read by others (mode {mode:04o}): \
         make it private with \"chmod 600\", or remove it for a new one", path.display()
    )]
    Exposed { what: &'static str, path: PathBuf, mode: u32 },
    #[error("the {what} in \"{}\" belongs to another user: remove it, or start as that user", path.display())]
    Foreign { what: &'static str, path: PathBuf },
    #[error("\"{}\" holds no {what}: remove it for a new one", path.display())]
    Broken { what: &'static str, path: PathBuf },
    #[error("cannot read the {what} in \"{}\": {source}", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: io::Error },
    #[error("the system gives no random bytes for a secret: {0}")]
    NoRandomness(String),
}

/// None: there is no such file.
fn read(path: &Path, what: &'static str) -> Result<Option<String>, KeyError> {
    let unreadable = |source| KeyError::Unreadable { what, path: path.to_owned(), source };
    // Not through a link, and not held up by a named pipe that somebody put there.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    // Asked of the open file, so that nothing can be put in its place in between.
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        return Err(KeyError::Broken { what, path: path.to_owned() });
    }
    if mode & OTHERS != 0 {
        return Err(KeyError::Exposed { what, path: path.to_owned(), mode });
    }
    if metadata.uid() != geteuid().as_raw() && metadata.uid() != 0 {
        return Err(KeyError::Foreign { what, path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(LONGEST_FILE).read_to_string(&mut text).map_err(unreadable)?;
    let key = text.trim_end();
    if is_usable(key) { Ok(Some(key.to_owned())) } else { Err(KeyError::Broken { what, path: path.to_owned() }) }
}

fn make() -> Result<String, KeyError> {
    let mut bytes = [0; KEY_BYTES];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| KeyError::NoRandomness(error.to_string()))?;
    Ok(bytes.iter().fold(String::with_capacity(2 * KEY_BYTES), |mut key, byte| {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
        key
    }))
}

/// Puts the key in place in one step, unless there is one: a link, unlike a rename, never replaces what it finds.
fn keep(path: &Path, key: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_private_folder(folder)?;
    let temporary = temporary_beside(path);
    let kept = write_new(&temporary, format!("{key}\n").as_bytes(), PRIVATE_FILE)
        .and_then(|()| fs::hard_link(&temporary, path))
        // The name is on the disk only when the folder is.
        .and_then(|()| File::open(folder)?.sync_all());
    let _ = fs::remove_file(&temporary);
    kept
}

fn is_usable(key: &str) -> bool {
    (1..=LONGEST_KEY).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

const PUBLISH_KEY: Secret = Secret { what: "publish key", variable: "LIVEMILL_PUBLISH_KEY", file: "publish.key" };
const API_TOKEN: Secret = Secret { what: "API token", variable: API_TOKEN_VARIABLE, file: "api.token" };
/// The environment variable that takes the place of the kept token.
pub const API_TOKEN_VARIABLE: &str = "LIVEMILL_API_TOKEN";
const CONTROL_SOCKET: &str = "control.sock";
/// 256 bits: not to be guessed.
const KEY_BYTES: usize = 32;
const LONGEST_KEY: usize = 128;
const LONGEST_FILE: u64 = 4096;
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;
const OTHERS: u32 = 0o077;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn places(folder: &Path) -> Places {
        Places { state_directory: Some(folder.join("state").into()), ..Places::default() }
    }

    #[test]
    fn a_key_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/publish.key");
        let made = places(folder.path()).find_key().unwrap();
        assert_eq!(made.origin, Origin::Made(path.clone()));
        assert_eq!(made.key.len(), 64);
        let kept = places(folder.path()).find_key().unwrap();
        assert_eq!((kept.key, kept.origin), (made.key, Origin::Kept(path.clone())));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        places(folder.path()).find_key().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode("state"), mode("state/publish.key")), (0o700, 0o600));
    }

    #[test]
    fn a_key_that_others_can_read_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        places(folder.path()).find_key().unwrap();
        let path = folder.path().join("state/publish.key");
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = places(folder.path()).find_key().err().unwrap();
            assert!(matches!(error, KeyError::Exposed { mode: found, .. } if found == mode), "{error}");
        }
    }

    #[test]
    fn a_link_in_place_of_the_key_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("state/publish.key")).unwrap();
        assert!(matches!(places(folder.path()).find_key(), Err(KeyError::Unreadable { .. })));
    }

    #[test]
    fn a_file_without_a_key_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        for text in ["", "two words", "a&b"] {
            let path = folder.path().join("state/publish.key");
            let _ = fs::remove_file(&path);
            write_new(&path, text.as_bytes(), PRIVATE_FILE).unwrap();
            assert!(matches!(places(folder.path()).find_key(), Err(KeyError::Broken { .. })), "{text}");
        }
    }

    #[test]
    fn of_two_first_starts_one_key_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("publish.key");
        keep(&path, "first").unwrap();
        assert_eq!(keep(&path, "second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path, "key").unwrap().as_deref(), Some("first"));
    }

    #[test]
    fn a_place_that_cannot_be_written_costs_only_the_keeping() {
        let places = Places { state_directory: Some("/proc/none".into()), ..Places::default() };
        let found = places.find_key().unwrap();
        assert!(matches!(found.origin, Origin::NotKept { .. }));
        assert_eq!(found.key.len(), 64);
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let given = |key: &str| Places { publish_key: Some(key.into()), ..Places::default() };
        assert_eq!(given("s3cret").find_key().unwrap().key, "s3cret");
        for bad in ["", "a b", "a&b", "a\nb", &"x".repeat(129)] {
            assert!(matches!(given(bad).find_key(), Err(KeyError::BadOverride { .. })), "{bad}");
        }
    }

    #[test]
    fn the_state_folder_is_the_first_that_is_named() {
        let all = Places {
            state_directory: Some("/var/lib/livemill:/var/lib/other".into()),
            xdg_state_home: Some("/x".into()),
            home: Some("/users/u".into()),
            ..Places::default()
        };
        assert_eq!(all.state_folder(), Path::new("/var/lib/livemill"));
        let without_service = Places { state_directory: None, ..all.clone() };
        assert_eq!(without_service.state_folder(), Path::new("/x/livemill"));
        let home_only = Places { xdg_state_home: None, ..without_service };
        assert_eq!(home_only.state_folder(), Path::new("/users/u/.local/state/livemill"));
        assert_eq!(Places::default().state_folder(), Path::new("."));
    }

    #[test]
    fn the_api_has_a_token_of_its_own_where_the_configuration_says() {
        let folder = tempfile::tempdir().unwrap();
        let key = places(folder.path()).find_key().unwrap();
        let token = places(folder.path()).find_api_token(None).unwrap();
        assert_eq!(token.origin, Origin::Made(folder.path().join("state/api.token")));
        assert_ne!(token.key, key.key);
        let elsewhere = folder.path().join("elsewhere");
        let other = places(folder.path()).find_api_token(Some(&elsewhere)).unwrap();
        assert_eq!(other.origin, Origin::Made(elsewhere.clone()));
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o644)).unwrap();
        let error = places(folder.path()).find_api_token(Some(&elsewhere)).err().unwrap();
        assert!(error.to_string().contains("the API token in"), "{error}");
        let given = Places { api_token: Some("t".into()), ..Places::default() };
        assert_eq!(given.find_api_token(Some(&elsewhere)).unwrap().key, "t");
    }

    #[test]
    fn the_control_socket_is_where_services_keep_theirs() {
        let places = places("/x".as_ref());
        assert_eq!(places.control_socket(), Path::new("/x/state/control.sock"));
        let service = Places { runtime_directory: Some("/run/livemill:/run/other".into()), ..places };
        assert_eq!(service.control_socket(), Path::new("/run/livemill/control.sock"));
    }
}
