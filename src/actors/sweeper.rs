//! Looks after the folders of HLS and DASH: removes what no playlist needs any more, by its age.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use actix::prelude::*;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use super::support::disk::TEMPORARY_SUFFIX;
use crate::config::Config;

/// Sweeps each folder at the start and then every two lengths of its playlists, as the family's cache manager does.
pub struct Sweeper {
    folders: Vec<Folder>,
}

/// A folder, and when what is in it is old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    pub path: PathBuf,
    pub kind: Kind,
    pub playlist_length: Duration,
}

/// Whose files are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Hls,
    Dash,
}

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: usize,
    pub folders: usize,
}

impl Sweeper {
    /// None: there is nothing to look after.
    pub fn new(config: &Config) -> Option<Self> {
        let folders = folders(config);
        (!folders.is_empty()).then_some(Self { folders })
    }
}

impl Actor for Sweeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for folder in std::mem::take(&mut self.folders) {
            begin(folder, ctx);
        }
    }
}

/// Sweeps now, and again after a pause: a folder that takes long is never swept twice at a time.
fn begin(folder: Folder, ctx: &mut Context<Sweeper>) {
    let work = spawn_blocking(move || {
        match folder.sweep(jiff::Timestamp::now().into()) {
            Ok(swept) if swept != Swept::default() => debug!(path = %folder.path.display(), ?swept, "swept"),
            Ok(_) => {}
            Err(error) => warn!(path = %folder.path.display(), %error, "a folder could not be swept"),
        }
        folder
    });
    ctx.spawn(work.into_actor(&Sweeper { folders: Vec::new() }).map(|swept, _, ctx| {
        if let Ok(folder) = swept {
            let pause = folder.every();
            ctx.run_later(pause, move |_, ctx| begin(folder, ctx));
        }
    }));
}

impl Folder {
    fn every(&self) -> Duration {
        self.playlist_length.saturating_mul(2).max(SHORTEST_PAUSE)
    }

    /// How long a file of this name is kept; None: it is not ours to remove.
    fn keeps(&self, name: &str) -> Option<Duration> {
        if name.starts_with('.') {
            return None;
        }
        // What a crash left behind half written.
        let name = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name);
        let twice = self.playlist_length.saturating_mul(2);
        let (_, suffix) = name.rsplit_once('.')?;
        match (self.kind, suffix) {
            (Kind::Hls, "ts" | "key") | (Kind::Dash, "m4v" | "m4a" | "mpd") => Some(twice),
            (Kind::Hls, "m3u8") => Some(self.playlist_length),
            _ => None,
        }
    }

    /// Removes what is old by `now`, here and below. A folder below that is empty goes as well.
    pub fn sweep(&self, now: SystemTime) -> io::Result<Swept> {
        let mut swept = Swept::default();
        match self.sweep_folder(&self.path, now, &mut swept, MAX_DEPTH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(swept),
            done => done.map(|_| swept),
        }
    }

    /// How many entries stay.
    fn sweep_folder(&self, folder: &Path, now: SystemTime, swept: &mut Swept, depth: usize) -> io::Result<usize> {
        let mut stay = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            // Of the entry itself: no link leads a sweep out of its folder.
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            let is_gone = if about.is_dir() {
                let is_empty = depth > 0 && matches!(self.sweep_folder(&path, now, swept, depth - 1), Ok(0));
                let is_gone = is_empty && fs::remove_dir(&path).is_ok();
                swept.folders += usize::from(is_gone);
                is_gone
            } else {
                let is_old = self.is_old(folder, &entry.file_name().to_string_lossy(), about.modified(), now);
                let is_gone = is_old && fs::remove_file(&path).is_ok();
                swept.files += usize::from(is_gone);
                is_gone
            };
            stay += usize::from(!is_gone);
        }
        Ok(stay)
    }

    fn is_old(&self, folder: &Path, name: &str, modified: io::Result<SystemTime>, now: SystemTime) -> bool {
        let Some(keeps) = self.keeps(name) else { return false };
        // A file of the future is young: the clock was set back.
        let is_old = modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > keeps));
        is_old && !manifest_of(name).is_some_and(|manifest| folder.join(manifest).exists())
    }
}

/// The manifest that needs this initialisation: it is written once, and its age says nothing.
fn manifest_of(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".m4v").or_else(|| name.strip_suffix(".m4a"))?;
    match stem {
        "init" => Some("index.mpd".to_owned()),
        _ => stem.strip_suffix("-init").map(|name| format!("{name}.mpd")),
    }
}

/// Each folder of the configuration once, with the longest time that anybody asks for.
fn folders(config: &Config) -> Vec<Folder> {
    let mut found: BTreeMap<(PathBuf, Kind), Duration> = BTreeMap::new();
    let mut add = |path: &Path, kind, length: Duration| {
        let known = found.entry((path.to_owned(), kind)).or_default();
        *known = length.max(*known);
    };
    for application in config.servers.iter().flat_map(|server| &server.applications) {
        if let Some(hls) = application.outputs.hls.as_ref().filter(|hls| hls.is_cleaned()) {
            add(&hls.path, Kind::Hls, hls.playlist_length);
            if let Some(keys) = &hls.keys {
                add(&keys.path, Kind::Hls, hls.playlist_length);
            }
        }
        if let Some(dash) = application.outputs.dash.as_ref().filter(|dash| dash.cleanup) {
            add(&dash.path, Kind::Dash, dash.playlist_length);
        }
    }
    found.into_iter().map(|((path, kind), playlist_length)| Folder { path, kind, playlist_length }).collect()
}

/// Playlists of no length must not keep a thread busy.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);

/// Nested outputs are one folder deep; whoever has more below keeps it.
const MAX_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn folder(dir: &TempDir, kind: Kind) -> Folder {
        Folder { path: dir.path().to_owned(), kind, playlist_length: Duration::from_secs(30) }
    }

    fn put(dir: &TempDir, name: &str) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("below the temporary directory")).expect("a folder");
        fs::write(path, "x").expect("a file");
    }

    fn left(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("the folder is there")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn in_seconds(seconds: u64) -> SystemTime {
        SystemTime::from(jiff::Timestamp::now()) + Duration::from_secs(seconds)
    }

    #[test]
    fn playlists_go_after_one_length_and_media_after_two() {
        let dir = TempDir::new().expect("a temporary directory");
        for name in ["a.m3u8", "a-0.ts", "a-0.key", "a-1.ts.bak", "page.html", ".hidden.ts", "noext"] {
            put(&dir, name);
        }
        let folder = folder(&dir, Kind::Hls);
        let sweep = |seconds| folder.sweep(in_seconds(seconds)).expect("a folder that can be read").files;
        assert_eq!(sweep(25), 0);
        assert_eq!(sweep(40), 1);
        assert!(!left(dir.path()).contains(&"a.m3u8".to_owned()));
        assert_eq!(sweep(70), 3);
        assert_eq!(left(dir.path()), [".hidden.ts", "noext", "page.html"], "what is not ours stays");
        assert_eq!(sweep(10_000_000), 0);
    }

    #[test]
    fn empty_folders_below_go_and_the_folder_itself_stays() {
        let dir = TempDir::new().expect("a temporary directory");
        put(&dir, "ended/0.ts");
        put(&dir, "kept/0.ts");
        put(&dir, "kept/.keep");
        let swept = folder(&dir, Kind::Hls).sweep(in_seconds(100)).expect("a folder that can be read");
        assert_eq!(swept, Swept { files: 2, folders: 1 });
        assert_eq!(left(dir.path()), ["kept"]);
    }

    #[test]
    fn no_link_leads_out_of_the_folder() {
        let (dir, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("another"));
        put(&elsewhere, "0.ts");
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).expect("a link");
        folder(&dir, Kind::Hls).sweep(in_seconds(100)).expect("a folder that can be read");
        assert_eq!(left(elsewhere.path()), ["0.ts"]);
        assert_eq!(left(dir.path()), ["link"]);
    }

    #[test]
    fn an_initialisation_stays_as_long_as_its_manifest() {
        let dir = TempDir::new().expect("a temporary directory");
        for name in ["a-init.m4v", "a-100.m4v", "n/init.m4a", "n/index.mpd"] {
            put(&dir, name);
        }
        let folder = folder(&dir, Kind::Dash);
        let keep = dir.path().join("a.mpd");
        fs::write(&keep, "x").expect("a manifest");
        let file = fs::File::options().append(true).open(&keep).expect("the manifest");
        file.set_modified(in_seconds(90)).expect("its age can be set");
        folder.sweep(in_seconds(100)).expect("a folder that can be read");
        assert_eq!(left(dir.path()), ["a-init.m4v", "a.mpd"]);
        folder.sweep(in_seconds(1000)).expect("a folder that can be read");
        folder.sweep(in_seconds(1000)).expect("a folder that can be read");
        assert_eq!(left(dir.path()), [""; 0]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_error() {
        let dir = TempDir::new().expect("a temporary directory");
        let missing = Folder { path: dir.path().join("no"), ..folder(&dir, Kind::Hls) };
        assert_eq!(missing.sweep(in_seconds(0)).expect("no error"), Swept::default());
    }

    #[test]
    fn a_folder_shared_by_inheritance_is_swept_once_by_its_longest_time() {
        let text = "rtmp { server { hls_path /h; hls on;
            application a { hls_playlist_length 10s; } application b { hls_playlist_length 60s; hls_keys on; }
            application c { dash on; dash_path /d; hls_type event; hls_path /e; } } }";
        let config = Config::parse("x.conf", text.as_bytes()).expect("a configuration");
        let found: Vec<(String, Kind, u64)> = folders(&config)
            .into_iter()
            .map(|folder| (folder.path.display().to_string(), folder.kind, folder.playlist_length.as_secs()))
            .collect();
        assert_eq!(found, [("/d".to_owned(), Kind::Dash, 30), ("/h".to_owned(), Kind::Hls, 60)]);
    }
}
