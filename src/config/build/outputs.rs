//! The directives of HLS, DASH and HTTP to [`Outputs`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::diagnose::Problem;
use super::super::outputs::{
    ClockScheme, DashClock, DashFiles, Datetime, HlsFiles, HlsFormat, HttpOutput, HttpOutputs, Keys, Memory, Naming,
    Outputs, PlaylistKind, Slicing, Variant,
};
use super::super::syntax::{Directive, Place, Word};
use super::super::values;
use super::{Builder, Scope};

/// A folder that is cleaned, and where it was written: nobody else may have it.
pub(super) struct Folder {
    path: PathBuf,
    place: Place,
}

impl Builder {
    pub(super) fn outputs(&mut self, scope: &Scope<'_>) -> Result<Outputs, Problem> {
        let hls = scope.flag("hls") && !scope.word("hls_path").is_empty();
        let dash = scope.flag("dash") && !scope.word("dash_path").is_empty();
        for (on, path, has_files) in [("hls", "hls_path", hls), ("dash", "dash_path", dash)] {
            if let (true, false, Some(directive)) = (scope.flag(on), has_files, scope.effective(on)) {
                self.warn(directive, format!("writes no files without {path}: it is served from memory only"));
            }
        }
        let hls = hls.then(|| self.hls(scope)).transpose()?;
        let dash = dash.then(|| self.dash(scope)).transpose()?;
        Ok(Outputs { http: http_outputs(scope), memory: memory(scope), hls, dash })
    }

    fn hls(&mut self, scope: &Scope<'_>) -> Result<HlsFiles, Problem> {
        let path = folder(scope.word("hls_path"));
        let fragment = scope.time("hls_fragment");
        let keys = scope.flag("hls_keys").then(|| Keys {
            path: scope.written("hls_key_path").filter(|text| !text.is_empty()).map_or_else(|| path.clone(), folder),
            url: scope.word("hls_key_url").to_owned(),
            fragments_per_key: scope.number("hls_fragments_per_key"),
        });
        let variants = scope.own("hls_variant").filter_map(|directive| {
            let (suffix, attributes) = directive.args.split_first()?;
            let attributes = attributes.iter().map(|word| word.text.clone()).collect();
            Some(Variant { suffix: suffix.text.clone(), attributes })
        });
        let files = HlsFiles {
            fragment,
            max_fragment: match scope.written("hls_max_fragment") {
                Some(_) => scope.time("hls_max_fragment"),
                None => fragment.saturating_mul(10),
            },
            playlist_length: scope.time("hls_playlist_length"),
            sync: scope.time("hls_sync"),
            continuous: scope.flag("hls_continuous"),
            nested: scope.flag("hls_nested"),
            base_url: scope.word("hls_base_url").to_owned(),
            cleanup: scope.flag("hls_cleanup"),
            naming: match word(scope, "hls_fragment_naming").as_str() {
                "timestamp" => Naming::Timestamp,
                "system" => Naming::System,
                _ => Naming::Sequential,
            },
            naming_granularity: scope.number("hls_fragment_naming_granularity"),
            slicing: match word(scope, "hls_fragment_slicing").as_str() {
                "aligned" => Slicing::Aligned,
                _ => Slicing::Plain,
            },
            kind: match word(scope, "hls_type").as_str() {
                "event" => PlaylistKind::Event,
                _ => PlaylistKind::Live,
            },
            variants: variants.collect(),
            max_audio_delay: scope.time("hls_max_audio_delay"),
            audio_buffer_size: scope.size("hls_audio_buffer_size"),
            keys,
            datetime: match word(scope, "hls_datetime").as_str() {
                "system" => Datetime::System,
                "timestamp" => Datetime::Timestamp,
                _ => Datetime::None,
            },
            allow_client_cache: match word(scope, "hls_allow_client_cache").as_str() {
                "enabled" => Some(true),
                "disabled" => Some(false),
                _ => None,
            },
            dir_access: octal(scope.word("hls_dir_access")).unwrap_or(0o755),
            index: scope.word("hls_nested_index_filename").to_owned(),
            ..HlsFiles::at(path)
        };
        if files.is_cleaned() {
            self.take_folder(&files.path, scope, "hls_path")?;
        }
        Ok(files)
    }

    fn dash(&mut self, scope: &Scope<'_>) -> Result<DashFiles, Problem> {
        let scheme = match word(scope, "dash_clock_compensation").as_str() {
            "ntp" => Some(ClockScheme::Ntp),
            "http_head" => Some(ClockScheme::HttpHead),
            "http_iso" => Some(ClockScheme::HttpIso),
            _ => None,
        };
        let files = DashFiles {
            fragment: scope.time("dash_fragment"),
            playlist_length: scope.time("dash_playlist_length"),
            nested: scope.flag("dash_nested"),
            cleanup: scope.flag("dash_cleanup"),
            clock: scheme.map(|scheme| DashClock { scheme, value: scope.word("dash_clock_helper_uri").to_owned() }),
            ..DashFiles::at(folder(scope.word("dash_path")))
        };
        if files.cleanup {
            self.take_folder(&files.path, scope, "dash_path")?;
        }
        Ok(files)
    }

    /// A folder that is cleaned belongs to the one directive that names it: two that clean it would each go by their own
    /// times. Applications that inherit it share it as they do in the family.
    fn take_folder(&mut self, path: &Path, scope: &Scope<'_>, name: &str) -> Result<(), Problem> {
        let Some(directive) = scope.effective(name) else { return Ok(()) };
        let place = &directive.name.place;
        match self.folders.iter().find(|folder| folder.path == path) {
            // nginx stops in the middle of its sentence, too.
            Some(folder) if folder.place != *place => Err(Problem::at(
                format!(
                    "the same path name \"{}\" used in {}:{} and",
                    path.display(),
                    folder.place.file,
                    folder.place.line
                ),
                directive,
            )
            .help("give each its own folder, or write `hls_cleanup off` (`dash_cleanup off`)")),
            Some(_) => Ok(()),
            None => {
                self.folders.push(Folder { path: path.to_owned(), place: place.clone() });
                Ok(())
            }
        }
    }
}

fn http_outputs(scope: &Scope<'_>) -> HttpOutputs {
    let Some(directive) = scope.effective("http_outputs") else { return HttpOutputs::ALL };
    directive.args.iter().fold(HttpOutputs::NONE, |set, word| match word.text.to_ascii_lowercase().as_str() {
        "all" => HttpOutputs::ALL,
        "flv" => set.with(HttpOutput::Flv),
        "ts" => set.with(HttpOutput::Ts),
        "mp4" => set.with(HttpOutput::Mp4),
        "hls" => set.with(HttpOutput::Hls),
        "dash" => set.with(HttpOutput::Dash),
        _ => set,
    })
}

/// `off` beside other words would say two things.
pub(super) fn check_http_outputs(directive: &Directive) -> Result<(), Problem> {
    let off = directive.args.iter().find(|word| word.text.eq_ignore_ascii_case("off"));
    match off {
        Some(word) if directive.args.len() > 1 => {
            Err(Problem::at_word("invalid number of arguments in \"http_outputs\" directive", directive, word)
                .help("`off` stands alone"))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_dir_access(directive: &Directive) -> Result<(), Problem> {
    match directive.args.first().filter(|word| octal(&word.text).is_none()) {
        Some(word) => Err(Problem::at_word("\"hls_dir_access\" directive invalid value", directive, word)
            .help("it takes a mode in octal, like 0755")),
        None => Ok(()),
    }
}

/// A name becomes part of a path: it must stay one.
pub(super) fn check_index(directive: &Directive) -> Result<(), Problem> {
    let bad = |word: &&Word| word.text.is_empty() || word.text.contains('/') || word.text.starts_with('.');
    match directive.args.first().filter(bad) {
        Some(word) => {
            let message = format!("invalid value \"{}\" in \"{}\" directive", word.text, directive.name.text);
            Err(Problem::at_word(message, directive, word).help("it takes the name of a file, without a folder"))
        }
        None => Ok(()),
    }
}

fn memory(scope: &Scope<'_>) -> Memory {
    // P has HLS from memory under names of its own.
    let time = |name: &str, pingos: &str| match scope.written(name) {
        None if scope.written(pingos).is_some() => scope.time(pingos),
        _ => scope.time(name),
    };
    let fragment = time("http_fragment", "hls2_fragment").max(MIN_FRAGMENT);
    Memory {
        format: match word(scope, "hls_format").as_str() {
            "ts" => HlsFormat::Ts,
            _ => HlsFormat::Fmp4,
        },
        part: match scope.time("hls_part") {
            Duration::ZERO => Duration::ZERO,
            part => part.max(MIN_PART),
        },
        fragment,
        max_fragment: time("http_max_fragment", "hls2_max_fragment").max(fragment),
        playlist_length: time("http_playlist_length", "hls2_playlist_length"),
        blocked_requests: scope.number("hls_blocked_requests") as usize,
        idle: scope.time("http_idle"),
        end_after: scope.time("http_end_after"),
        ended: scope.time("http_ended"),
        viewer_timeout: time("http_viewer_timeout", "hls2_timeout"),
    }
}

/// A word of a list, in the spelling of the list.
fn word(scope: &Scope<'_>, name: &str) -> String {
    scope.word(name).to_ascii_lowercase()
}

/// nginx takes one slash off the end before it compares folders.
fn folder(text: &str) -> PathBuf {
    PathBuf::from(text.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(text))
}

fn octal(text: &str) -> Option<u32> {
    values::number(text)?;
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// Shorter segments are all overhead; the least a playlist can say of its target is a second.
const MIN_FRAGMENT: Duration = Duration::from_millis(500);

/// Shorter parts hold less than one frame of most video.
const MIN_PART: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::super::super::{Application, Config};
    use super::*;

    fn load(text: &str) -> Config {
        let text = format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
        Config::parse("x.conf", text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
    }

    fn outputs(text: &str) -> Outputs {
        let config = load(text);
        assert_eq!(config.warnings, []);
        let application: &Application = &config.servers[0].applications[0];
        application.outputs.clone()
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        let error = Config::parse("x.conf", text.as_bytes()).expect_err(text);
        assert_eq!(error.message, message, "{text}");
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_structs() {
        assert_eq!(outputs(""), Outputs::default());
        assert_eq!(outputs("hls on; hls_path h;").hls, Some(HlsFiles::at("h".into())));
        assert_eq!(outputs("dash on; dash_path d/;").dash, Some(DashFiles::at("d".into())));
    }

    #[test]
    fn every_setting_of_hls_files_reaches_its_field() {
        let read = outputs(
            "hls on; hls_path /p/; hls_fragment 3; hls_max_fragment 7s; hls_playlist_length 60; hls_sync 1ms;
             hls_continuous off; hls_nested on; hls_base_url http://c/; hls_cleanup off; hls_fragment_naming system;
             hls_fragment_naming_granularity 10; hls_fragment_slicing aligned; hls_type event; hls_variant _a BANDWIDTH=1
             RESOLUTION=2x2; hls_variant _b; hls_max_audio_delay 1s; hls_audio_buffer_size 2m; hls_keys on; hls_key_path /k;
             hls_key_url https://k/; hls_fragments_per_key 4; hls_datetime timestamp; hls_allow_client_cache disabled;
             hls_dir_access 0700; hls_nested_index_filename main; hls_muxdelay 1s;",
        );
        let expected = HlsFiles {
            path: "/p".into(),
            fragment: Duration::from_secs(3),
            max_fragment: Duration::from_secs(7),
            playlist_length: Duration::from_secs(60),
            sync: Duration::from_millis(1),
            continuous: false,
            nested: true,
            base_url: "http://c/".to_owned(),
            cleanup: false,
            naming: Naming::System,
            naming_granularity: 10,
            slicing: Slicing::Aligned,
            kind: PlaylistKind::Event,
            variants: vec![
                Variant { suffix: "_a".into(), attributes: vec!["BANDWIDTH=1".into(), "RESOLUTION=2x2".into()] },
                Variant { suffix: "_b".into(), attributes: vec![] },
            ],
            max_audio_delay: Duration::from_secs(1),
            audio_buffer_size: 2 << 20,
            keys: Some(Keys { path: "/k".into(), url: "https://k/".into(), fragments_per_key: 4 }),
            datetime: Datetime::Timestamp,
            allow_client_cache: Some(false),
            dir_access: 0o700,
            index: "main".to_owned(),
        };
        assert_eq!(read.hls, Some(expected));
    }

    #[test]
    fn every_setting_of_dash_files_reaches_its_field() {
        let read = outputs(
            "dash on; dash_path /d; dash_fragment 2; dash_playlist_length 20; dash_nested on; dash_cleanup off;
             dash_clock_compensation http_iso; dash_clock_helper_uri https://t/;",
        );
        let expected = DashFiles {
            path: "/d".into(),
            fragment: Duration::from_secs(2),
            playlist_length: Duration::from_secs(20),
            nested: true,
            cleanup: false,
            clock: Some(DashClock { scheme: ClockScheme::HttpIso, value: "https://t/".into() }),
        };
        assert_eq!(read.dash, Some(expected));
    }

    #[test]
    fn every_setting_of_memory_reaches_its_field() {
        let read = outputs(
            "http_outputs flv hls; hls_format ts; hls_part 0; http_fragment 4; http_max_fragment 3; http_playlist_length 20;
             hls_blocked_requests 5; http_idle 6; http_end_after 7; http_ended 8; http_viewer_timeout 9;",
        );
        let seconds = Duration::from_secs;
        let memory = Memory {
            format: HlsFormat::Ts,
            part: Duration::ZERO,
            fragment: seconds(4),
            max_fragment: seconds(4),
            playlist_length: seconds(20),
            blocked_requests: 5,
            idle: seconds(6),
            end_after: seconds(7),
            ended: seconds(8),
            viewer_timeout: seconds(9),
        };
        assert_eq!(read.memory, memory);
        assert_eq!(read.http, HttpOutputs::NONE.with(HttpOutput::Flv).with(HttpOutput::Hls));
        assert_eq!(outputs("http_outputs off;").http, HttpOutputs::NONE);
        assert_eq!(outputs("http_outputs flv all;").http, HttpOutputs::ALL);
    }

    #[test]
    fn pingos_names_hold_where_ours_are_not_written() {
        let read =
            outputs("hls2 on; hls2_fragment 3s; hls2_playlist_length 12s; hls2_timeout 5s; http_playlist_length 24s;");
        assert_eq!(read.memory.fragment, Duration::from_secs(3));
        assert_eq!(read.memory.playlist_length, Duration::from_secs(24));
        assert_eq!(read.memory.viewer_timeout, Duration::from_secs(5));
    }

    #[test]
    fn without_a_path_no_files_are_written_and_that_is_said() {
        let config = load("hls on;");
        assert_eq!(config.servers[0].applications[0].outputs.hls, None);
        assert_eq!(
            config.warnings[0].to_string(),
            "x.conf:1: \"hls\" writes no files without hls_path: it is served from memory only"
        );
        assert_eq!(outputs("hls_path /p;").hls, None, "a path alone switches nothing on");
    }

    #[test]
    fn one_folder_is_cleaned_by_one_directive_only() {
        check_error(
            "rtmp { server {\napplication a { hls on; hls_path /p; }\napplication b { hls on; hls_path /p/; } } }",
            "the same path name \"/p\" used in x.conf:2 and in x.conf:3",
        );
        check_error(
            "rtmp { server { application a { hls on; hls_path /p;\ndash on; dash_path /p; } } }",
            "the same path name \"/p\" used in x.conf:1 and in x.conf:2",
        );
        for text in [
            "hls_path /p; hls on; application a { } application b { }",
            "application a { hls on; hls_path /p; } application b { hls on; hls_path /p; hls_cleanup off; }",
            "application a { hls on; hls_path /p; } application b { hls_path /p; }",
        ] {
            let text = format!("rtmp {{ server {{ {text} }} }}");
            assert!(Config::parse("x.conf", text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn words_that_say_two_things_are_refused() {
        let inside = |text: &str| format!("rtmp {{ server {{ application a {{ {text} }} }} }}");
        for (text, message) in [
            ("http_outputs off hls;", "invalid number of arguments in \"http_outputs\" directive in x.conf:1"),
            ("http_outputs rtmp;", "invalid value \"rtmp\" in x.conf:1"),
            ("hls_dir_access 0999;", "\"hls_dir_access\" directive invalid value in x.conf:1"),
            (
                "hls_nested_index_filename ../x;",
                "invalid value \"../x\" in \"hls_nested_index_filename\" directive in x.conf:1",
            ),
        ] {
            check_error(&inside(text), message);
        }
    }
}
