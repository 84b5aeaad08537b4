//! Files: found without leaving the root, read in blocks by threads of the runtime, never on a worker.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::fd::AsRawFd,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use actix_web::body::{BodySize, BodyStream, BoxBody, MessageBody, SizedStream};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use nix::{errno::Errno, libc};
use tokio::task::spawn_blocking;

/// A file that may be served.
#[derive(Debug)]
pub struct Found {
    file: File,
    pub len: u64,
    /// Seconds since 1970; a file from before counts from there.
    pub modified: i64,
    /// All of it, where it is small and somebody is going to send it: one way to another thread is enough then.
    whole: Option<Bytes>,
}

/// What is at a path.
#[derive(Debug)]
pub enum Look {
    File(Found),
    Folder,
    /// 404, or 403 where there is something that may not be read; with the reason.
    Nothing {
        status: u16,
        error: io::Error,
    },
}

/// Looks what is at `path`, which must be below `root` unless links may lead out of it.
pub async fn look(root: PathBuf, path: PathBuf, follows_links: bool) -> Look {
    look_and(root, path, follows_links, false).await
}

/// The same for a file that is going to be sent.
pub async fn fetch(root: PathBuf, path: PathBuf, follows_links: bool) -> Look {
    look_and(root, path, follows_links, true).await
}

async fn look_and(root: PathBuf, path: PathBuf, follows_links: bool, reads: bool) -> Look {
    spawn_blocking(move || look_now(&root, &path, follows_links, reads))
        .await
        .unwrap_or_else(|error| Look::Nothing { status: 500, error: io::Error::other(error) })
}

fn look_now(root: &Path, path: &Path, follows_links: bool, reads: bool) -> Look {
    match open(root, path, follows_links, reads) {
        Ok(look) => look,
        Err(error) => {
            let code = error.raw_os_error().map(Errno::from_raw);
            let status = match (code, error.kind()) {
                (Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG), _) => 404,
                (_, io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => 404,
                (Some(Errno::EACCES | Errno::EPERM | Errno::ELOOP), _) | (_, io::ErrorKind::PermissionDenied) => 403,
                _ => 500,
            };
            Look::Nothing { status, error }
        }
    }
}

fn open(root: &Path, path: &Path, follows_links: bool, reads: bool) -> io::Result<Look> {
    // Asked before it is opened: to open a device can mean something to it, and a named pipe would wait.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Ok(Look::Folder);
    }
    let nothing = || io::Error::from(Errno::ENOENT);
    // A path that ends in a slash and is a file is nothing, as the system says itself; what is neither is nothing, too.
    if !metadata.is_file() {
        return Err(nothing());
    }
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Asked again of what was opened, so that nothing can be put in its place in between.
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(nothing());
    }
    if !follows_links && !is_inside(root, path, Some(&file))? {
        return Err(io::Error::from(Errno::ELOOP));
    }
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut found_len = metadata.len();
    let mut whole = None;
    if reads && found_len <= SMALL {
        let mut bytes = Vec::with_capacity(usize::try_from(found_len).unwrap_or_default());
        (&mut file).take(SMALL + 1).read_to_end(&mut bytes)?;
        // A file that somebody writes in place is as long as what was read of it, so that no answer breaks off.
        if bytes.len() as u64 <= SMALL {
            found_len = bytes.len() as u64;
            whole = Some(Bytes::from(bytes));
        }
    }
    let modified = i64::try_from(modified).unwrap_or_default();
    Ok(Look::File(Found { file, len: found_len, modified, whole }))
}

/// Whether something is below a folder, with all links followed.
fn is_inside(root: &Path, path: &Path, file: Option<&File>) -> io::Result<bool> {
    let root = root.canonicalize()?;
    // The kernel knows where an open file is, whatever the path means by now.
    let known = file.and_then(|file| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok());
    let real = known.map_or_else(|| path.canonicalize(), Ok)?;
    Ok(real.starts_with(&root))
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_folder: bool,
    pub len: u64,
    pub modified: i64,
}

/// The entries of a folder, folders first, by name; hidden ones are left out.
pub async fn list(root: PathBuf, path: PathBuf, follows_links: bool) -> io::Result<Vec<Entry>> {
    let read = move || {
        if !follows_links && !is_inside(&root, &path, None)? {
            return Err(io::Error::from(Errno::ELOOP));
        }
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // A link is shown as what it leads to; one that leads nowhere as itself.
            let metadata = fs::metadata(entry.path()).or_else(|_| entry.metadata());
            let Some(metadata) = metadata.ok().filter(|_| !name.starts_with('.')) else { continue };
            let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            entries.push(Entry {
                name,
                is_folder: metadata.is_dir(),
                len: metadata.len(),
                modified: modified.and_then(|time| i64::try_from(time.as_secs()).ok()).unwrap_or_default(),
            });
        }
        entries.sort_by(|a, b| b.is_folder.cmp(&a.is_folder).then_with(|| a.name.cmp(&b.name)));
        Ok(entries)
    };
    spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// A piece of an answer.
#[derive(Debug, Clone)]
pub enum Piece {
    Text(Bytes),
    File(Range<u64>),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(range) => range.end - range.start,
        }
    }
}

/// An answer's body out of pieces of a file; `gzip` compresses it on the way, at this level.
pub fn body(found: Found, pieces: Vec<Piece>, gzip: Option<u32>) -> BoxBody {
    let size = pieces.iter().map(Piece::len).sum();
    if let (Some(whole), None) = (&found.whole, gzip) {
        return BoxBody::new(joined(whole, &pieces));
    }
    let encoder = gzip.map(|level| GzEncoder::new(Vec::new(), Compression::new(level)));
    let reading = Reading { file: found.file, pieces: pieces.into(), encoder, is_done: false };
    let blocks = stream::try_unfold(reading, |mut reading| async move {
        if reading.is_done {
            return Ok(None);
        }
        spawn_blocking(move || reading.block().map(|block| block.map(|block| (block, reading))))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    });
    // A stream of blocking reads must not be polled after its end, which the two types below promise.
    if gzip.is_some() {
        return BoxBody::new(BodyStream::new(Box::pin(blocks)));
    }
    match size {
        0 => BoxBody::new(()),
        size => BoxBody::new(SizedStream::new(size, Box::pin(blocks))),
    }
}

/// The pieces of a file that is in memory.
fn joined(whole: &Bytes, pieces: &[Piece]) -> Bytes {
    let part = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::File(range) => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(whole.len());
            whole.slice(at(range.start)..at(range.end))
        }
    };
    match pieces {
        [one] => part(one),
        several => several
            .iter()
            .map(part)
            .fold(Vec::new(), |mut out, part| {
                out.extend_from_slice(&part);
                out
            })
            .into(),
    }
}

/// The same for bytes in memory.
pub fn gzip_bytes(bytes: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// How long a body is, if that is known.
pub fn length(body: &impl MessageBody) -> Option<u64> {
    match body.size() {
        BodySize::Sized(length) => Some(length),
        BodySize::None => Some(0),
        BodySize::Stream => None,
    }
}

struct Reading {
    file: File,
    pieces: std::collections::VecDeque<Piece>,
    encoder: Option<GzEncoder<Vec<u8>>>,
    is_done: bool,
}

impl Reading {
    /// The next block; None at the end.
    fn block(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(raw) = self.raw()? else {
                self.is_done = true;
                let rest = self.encoder.take().map(GzEncoder::finish).transpose()?;
                return Ok(rest.filter(|rest| !rest.is_empty()).map(Bytes::from));
            };
            let Some(encoder) = &mut self.encoder else { return Ok(Some(raw)) };
            encoder.write_all(&raw)?;
            if !encoder.get_ref().is_empty() {
                return Ok(Some(Bytes::from(std::mem::take(encoder.get_mut()))));
            }
        }
    }

    fn raw(&mut self) -> io::Result<Option<Bytes>> {
        match self.pieces.pop_front() {
            None => Ok(None),
            Some(Piece::Text(text)) => Ok(Some(text)),
            Some(Piece::File(range)) => {
                self.file.seek(SeekFrom::Start(range.start))?;
                let wanted = (range.end - range.start).min(BLOCK);
                let mut block = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
                let read = (&mut self.file).take(wanted).read_to_end(&mut block)? as u64;
                if read == 0 {
                    // The length was promised: what is left of the connection cannot be used any more.
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if range.start + read < range.end {
                    self.pieces.push_front(Piece::File(range.start + read..range.end));
                }
                Ok(Some(Bytes::from(block)))
            }
        }
    }
}

/// Playlists, pages, scripts: what is asked for often. Segments come in blocks.
const SMALL: u64 = 64 << 10;

/// Large enough that the way to another thread and back does not count.
const BLOCK: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    async fn status(root: &Path, path: &str) -> u16 {
        match look(root.to_owned(), root.join(path), false).await {
            Look::File(_) => 200,
            Look::Folder => 301,
            Look::Nothing { status, .. } => status,
        }
    }

    async fn text(found: Found, pieces: Vec<Piece>) -> Vec<u8> {
        actix_web::body::to_bytes(body(found, pieces, None)).await.unwrap().to_vec()
    }

    #[actix::test]
    async fn only_files_below_the_root_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "0123456789").unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
        link(&folder.path().join("a.txt"), "inner");
        link(&outside.path().join("secret"), "outer");
        link(outside.path(), "way");
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, expected) in [
            ("a.txt", 200),
            ("inner", 200),
            ("d", 301),
            ("none", 404),
            ("a.txt/", 404),
            ("a.txt/b", 404),
            ("outer", 403),
            ("way/secret", 403),
            ("pipe", 404),
            (&"x".repeat(300), 404),
        ] {
            assert_eq!(status(folder.path(), path).await, expected, "{path}");
        }
        let found = look(folder.path().to_owned(), folder.path().join("outer"), true).await;
        assert!(matches!(found, Look::File(_)), "where links may lead anywhere");
    }

    #[actix::test]
    async fn a_body_is_made_of_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "0123456789").unwrap();
        let find = || async {
            match look(folder.path().to_owned(), path.clone(), false).await {
                Look::File(found) => found,
                other => panic!("{other:?}"),
            }
        };
        let found = find().await;
        assert_eq!(found.len, 10);
        let pieces = vec![Piece::Text("<".into()), Piece::File(2..4), Piece::Text("|".into()), Piece::File(9..10)];
        assert_eq!(text(found, pieces).await, b"<23|9");
        let found = find().await;
        fs::write(&path, "01").unwrap();
        let small = match fetch(folder.path().to_owned(), path.clone(), false).await {
            Look::File(found) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(small, vec![Piece::Text("<".into()), Piece::File(1..2)]).await, b"<1");
        let shorter = actix_web::body::to_bytes(body(found, vec![Piece::File(0..10)], None)).await;
        assert!(shorter.is_err(), "a file that became shorter ends in an error");
    }
}
