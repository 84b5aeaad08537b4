//! Media addresses: which stream a path means, and in what form it is wanted.

/// What is wanted of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// `NAME.flv` and so on: one answer without an end.
    Endless(Endless),
    /// A playlist, a manifest, a segment: `index.m3u8`, `manifest.mpd`, …
    File(String),
}

/// The formats without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endless {
    Flv,
    Ts,
    Mp4,
}

/// Splits a path into the application and the rest. An application's name may hold slashes: the longest that is known
/// wins. None: no application is meant.
pub fn split(path: &str, is_app: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    let cuts: Vec<usize> = path.match_indices('/').map(|(at, _)| at).take(MAX_APP_PARTS).collect();
    let at = cuts.into_iter().rev().find(|at| path.get(..*at).is_some_and(&is_app))?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

/// The same where an application of any name will do (`application *`): its name is the first part.
pub fn split_first(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

/// Which stream is meant by what follows the application, and what is wanted of it. `exists` is asked where an address
/// can be read two ways: `a/b.ts` is the stream `a/b`, or a segment of the stream `a`.
pub fn wanted(rest: &str, exists: impl Fn(&str) -> bool) -> Option<(&str, Wanted)> {
    let (stem, ending) = rest.rsplit_once('.')?;
    // `NAME/FILE`; an empty name has no folder before the slash.
    let inside = rest.rsplit_once('/').or(Some(("", rest)).filter(|_| rest == PLAYLIST || rest == MANIFEST));
    let is_inside = inside.is_some_and(|(name, _)| exists(name));
    let of_folder = || inside.map(|(name, file)| (name, Wanted::File(file.to_owned())));
    match ending {
        "flv" => Some((stem, Wanted::Endless(Endless::Flv))),
        // A segment of a stream that is there, unless there is a stream of the longer name.
        "ts" | "mp4" if is_inside && !exists(stem) => of_folder(),
        "ts" => Some((stem, Wanted::Endless(Endless::Ts))),
        "mp4" => Some((stem, Wanted::Endless(Endless::Mp4))),
        "m3u8" if is_inside || rest.ends_with(PLAYLIST) && inside.is_some() => of_folder(),
        "mpd" if is_inside || rest.ends_with(MANIFEST) && inside.is_some() => of_folder(),
        "m3u8" => Some((stem, Wanted::File(PLAYLIST.to_owned()))),
        "mpd" => Some((stem, Wanted::File(MANIFEST.to_owned()))),
        _ if FILES.contains(&ending) => of_folder(),
        _ => None,
    }
}

const PLAYLIST: &str = "index.m3u8";
const MANIFEST: &str = "manifest.mpd";

/// Endings of files that belong to a stream.
const FILES: &[&str] = &["m3u8", "mpd", "m4s", "m4v", "m4a", "aac", "key", "vtt", "init", "time"];

/// An application's name has no more parts than this.
const MAX_APP_PARTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rest: &str, known: &[&str], name: &str, expected: &Wanted) {
        assert_eq!(wanted(rest, |name| known.contains(&name)), Some((name, expected.clone())), "{rest}");
    }

    fn file(name: &str) -> Wanted {
        Wanted::File(name.to_owned())
    }

    #[test]
    fn the_longest_application_that_is_known_wins() {
        let is_app = |app: &str| ["live", "a/b"].contains(&app);
        assert_eq!(split("/live/x/y.flv", is_app), Some(("live", "x/y.flv")));
        assert_eq!(split("/a/b/x.flv", is_app), Some(("a/b", "x.flv")));
        assert_eq!(split("/other/x.flv", is_app), None);
        assert_eq!(split("/live", is_app), None);
        assert_eq!(split_first("/any/x/index.m3u8"), Some(("any", "x/index.m3u8")));
        assert_eq!(split_first("/any"), None);
    }

    #[test]
    fn the_ending_says_what_is_wanted() {
        check("x.flv", &[], "x", &Wanted::Endless(Endless::Flv));
        check("x/y.ts", &[], "x/y", &Wanted::Endless(Endless::Ts));
        check("x.mp4", &[], "x", &Wanted::Endless(Endless::Mp4));
        check("x/index.m3u8", &[], "x", &file("index.m3u8"));
        check("x/manifest.mpd", &[], "x", &file("manifest.mpd"));
        check("x.m3u8", &[], "x", &file("index.m3u8"));
        check("x.mpd", &[], "x", &file("manifest.mpd"));
        check("a/x.m3u8", &[], "a/x", &file("index.m3u8"));
        check("x/v-1.m4s", &[], "x", &file("v-1.m4s"));
        check(".flv", &[], "", &Wanted::Endless(Endless::Flv));
        assert_eq!(wanted("x.html", |_| true), None);
        assert_eq!(wanted("x", |_| true), None);
        assert_eq!(wanted("v.m4s", |_| true), None);
    }

    #[test]
    fn a_segment_and_a_stream_are_told_apart_by_what_is_there() {
        check("x/1.ts", &["x"], "x", &file("1.ts"));
        check("x/1.ts", &["x", "x/1"], "x/1", &Wanted::Endless(Endless::Ts));
        check("x/video.m3u8", &["x"], "x", &file("video.m3u8"));
        check("x/video.m3u8", &[], "x/video", &file("index.m3u8"));
    }
}
