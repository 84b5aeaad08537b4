//! Media to publish, made once by ffmpeg and kept below the build folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::tools;

/// A few seconds of a small picture and a tone, as FLV.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fixture {
    H264Aac,
    H264BFrames,
    AudioOnly,
    VideoOnly,
    Hevc,
    Av1Opus,
}

impl Fixture {
    pub const ALL: [Self; 6] =
        [Self::H264Aac, Self::H264BFrames, Self::AudioOnly, Self::VideoOnly, Self::Hevc, Self::Av1Opus];

    /// Only what speaks Enhanced RTMP can carry it.
    pub fn is_enhanced(self) -> bool {
        matches!(self, Self::Hevc | Self::Av1Opus)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::H264Aac => "h264-aac",
            Self::H264BFrames => "h264-b-frames",
            Self::AudioOnly => "audio-only",
            Self::VideoOnly => "video-only",
            Self::Hevc => "hevc",
            Self::Av1Opus => "av1-opus",
        }
    }

    /// The file, made if it is not there yet.
    pub fn path(self) -> PathBuf {
        static MAKING: Mutex<()> = Mutex::new(());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fixtures-{RECIPE}"));
        let path = folder.join(format!("{}.flv", self.name()));
        let _one_at_a_time = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !path.exists() {
            std::fs::create_dir_all(&folder).expect("the build folder is writable");
            self.make(&path);
        }
        path
    }

    fn make(self, path: &Path) {
        let picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=3"];
        let tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=3"];
        let x264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-b:v", "300k", "-g", "25"];
        let aac = ["-c:a", "aac", "-b:a", "64k", "-ac", "2"];
        // Written under a name of its own and renamed, so that a parallel test run never reads half a file.
        let unfinished = path.with_extension(format!("{}.part", std::process::id()));

        let mut command = Command::new(if self.is_enhanced() { tools::ffmpeg_newer() } else { tools::ffmpeg_debian() });
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"]);
        match self {
            Self::H264Aac => command.args(picture).args(tone).args(x264).args(["-bf", "0"]).args(aac),
            Self::H264BFrames => command.args(picture).args(tone).args(x264).args(["-bf", "3"]).args(aac),
            Self::AudioOnly => command.args(tone).args(aac),
            Self::VideoOnly => command.args(picture).args(x264).args(["-bf", "0"]),
            Self::Hevc => command.args(picture).args(tone).args(aac).args([
                "-c:v",
                "libx265",
                "-preset",
                "ultrafast",
                "-pix_fmt",
                "yuv420p",
                "-b:v",
                "300k",
                "-g",
                "25",
                "-x265-params",
                "log-level=error",
            ]),
            Self::Av1Opus => command.args(picture).args(tone).args([
                "-c:v",
                "libsvtav1",
                "-preset",
                "12",
                "-pix_fmt",
                "yuv420p",
                "-g",
                "25",
                "-c:a",
                "libopus",
                "-ac",
                "2",
                "-ar",
                "48000",
                "-b:a",
                "64k",
            ]),
        };
        command.args(["-f", "flv"]).arg(&unfinished).stdin(Stdio::null());
        let output = command.output().expect("ffmpeg starts");
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::rename(&unfinished, path).expect("a rename within a folder");
    }
}

/// Part of the folder's name: another recipe makes other files.
const RECIPE: u32 = 1;
