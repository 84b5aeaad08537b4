//! Real clients: ffmpeg (Debian's and a newer one), GStreamer, librtmp.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::fixtures::Fixture;
use super::wait;

/// What publishes a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Publisher {
    FfmpegDebian,
    FfmpegNewer,
    /// GStreamer's own RTMP.
    GstRtmp2Sink,
    /// GStreamer over librtmp.
    GstRtmpSink,
}

/// What plays a stream into an FLV file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Player {
    FfmpegDebian,
    FfmpegNewer,
    Rtmpdump,
    GstRtmp2Src,
    GstRtmpSrc,
}

impl Publisher {
    pub const ALL: [Self; 4] = [Self::FfmpegDebian, Self::FfmpegNewer, Self::GstRtmp2Sink, Self::GstRtmpSink];

    /// Debian's ffmpeg and GStreamer know no Enhanced RTMP; GStreamer gives no sound judgement of B-frames, because its parser
    /// and muxer make composition times of their own.
    pub fn can(self, fixture: Fixture) -> bool {
        match self {
            Self::FfmpegNewer => true,
            Self::FfmpegDebian => !fixture.is_enhanced(),
            Self::GstRtmp2Sink | Self::GstRtmpSink => !fixture.is_enhanced() && fixture != Fixture::H264BFrames,
        }
    }

    /// Starts publishing the file; four times as fast as life, where the client can be told.
    pub fn publish(self, fixture: Fixture, url: &str) -> Running {
        self.publish_at(fixture, url, "4")
    }

    /// As fast as life, where the client can be told.
    pub fn publish_in_real_time(self, fixture: Fixture, url: &str) -> Running {
        self.publish_at(fixture, url, "1")
    }

    fn publish_at(self, fixture: Fixture, url: &str, rate: &str) -> Running {
        let file = fixture.path();
        let name = format!("{self:?} publishing {fixture:?}");
        match self {
            Self::FfmpegDebian | Self::FfmpegNewer => {
                let mut command =
                    Command::new(if self == Self::FfmpegDebian { ffmpeg_debian() } else { ffmpeg_newer() });
                command.args(["-nostdin", "-hide_banner", "-loglevel", "info", "-readrate", rate, "-i"]).arg(file);
                command.args(["-map", "0", "-c", "copy", "-f", "flv"]).args(any_certificate(url)).arg(url);
                Running::start(&name, command)
            }
            Self::GstRtmp2Sink | Self::GstRtmpSink => {
                let mut command = Command::new(gst_launch());
                command
                    .args(["-e", "filesrc"])
                    .arg(format!("location={}", file.display()))
                    .args(["!", "flvdemux", "name=d"]);
                if fixture != Fixture::AudioOnly {
                    command.args(["d.video", "!", "queue", "!", "m.video"]);
                }
                if fixture != Fixture::VideoOnly {
                    command.args(["d.audio", "!", "queue", "!", "m.audio"]);
                }
                command.args(["flvmux", "name=m", "streamable=true", "!"]);
                match self {
                    Self::GstRtmp2Sink => command.args(["rtmp2sink", ANY_CERTIFICATE, &format!("location={url}")]),
                    _ => command.args(["rtmpsink", &format!("location={url} live=1")]),
                };
                Running::start(&name, command)
            }
        }
    }
}

impl Player {
    pub const ALL: [Self; 5] =
        [Self::FfmpegDebian, Self::FfmpegNewer, Self::Rtmpdump, Self::GstRtmp2Src, Self::GstRtmpSrc];

    /// rtmpdump and GStreamer write the messages as they come, whatever the codec; Debian's ffmpeg has to know it.
    pub fn can(self, fixture: Fixture) -> bool {
        match self {
            Self::FfmpegDebian => !fixture.is_enhanced(),
            Self::FfmpegNewer | Self::Rtmpdump | Self::GstRtmp2Src | Self::GstRtmpSrc => true,
        }
    }

    /// GStreamer's rtmp2src drops what it holds, its last message, when it reads the end of the stream (seen against nginx too).
    pub fn may_miss_the_last_frame(self) -> bool {
        self == Self::GstRtmp2Src
    }

    /// Starts playing into the file `into` until the stream ends.
    pub fn play(self, url: &str, into: &Path) -> Running {
        let name = format!("{self:?} playing {url}");
        let mut command = match self {
            Self::FfmpegDebian => Command::new(ffmpeg_debian()),
            Self::FfmpegNewer => Command::new(ffmpeg_newer()),
            Self::Rtmpdump => Command::new(find("rtmpdump", "rtmpdump")),
            Self::GstRtmp2Src | Self::GstRtmpSrc => Command::new(gst_launch()),
        };
        match self {
            Self::FfmpegDebian | Self::FfmpegNewer => {
                command.args(["-nostdin", "-hide_banner", "-loglevel", "info"]);
                command.args(any_certificate(url)).args(["-i", url, "-map", "0"]);
                command.args(["-c", "copy", "-copyts", "-flush_packets", "1", "-y", "-f", "flv"]).arg(into)
            }
            Self::Rtmpdump => command.args(["--live", "--rtmp", url, "--flv"]).arg(into),
            Self::GstRtmp2Src => command
                .args(["-e", "rtmp2src", ANY_CERTIFICATE, &format!("location={url}"), "!"])
                .args(UNBUFFERED_FILE)
                .arg(location(into)),
            Self::GstRtmpSrc => command
                .args(["-e", "rtmpsrc", &format!("location={url} live=1"), "!"])
                .args(UNBUFFERED_FILE)
                .arg(location(into)),
        };
        Running::start(&name, command)
    }
}

/// A client that runs; ended by its own process id when dropped.
pub struct Running {
    name: String,
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Running {
    pub fn start(name: &str, mut command: Command) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let writer = |file: &File| Stdio::from(file.try_clone().expect("a descriptor more"));
        command.stdin(Stdio::null()).stdout(writer(output.as_file())).stderr(writer(output.as_file()));
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, output }
    }

    /// What it has written to its terminal.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path()).unwrap_or_default()).into_owned()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = wait::within(deadline, || child.try_wait().expect("our own child can be asked"));
        status.unwrap_or_else(|| panic!("{} still runs after {deadline:?}:\n{}", self.name, self.output()))
    }

    #[track_caller]
    pub fn wait_for_success(&mut self, deadline: Duration) {
        let status = self.wait(deadline);
        assert!(status.success(), "{}: {status}:\n{}", self.name, self.output());
    }

    /// Waits until it has taken in what a test expects; then, if it does not end by itself, asks it to (it writes out what it holds).
    #[track_caller]
    pub fn finish(&mut self, deadline: Duration, mut complete: impl FnMut() -> bool) {
        wait::within(deadline, || (complete() || !self.is_running()).then_some(()));
        if self.is_running() {
            // ffmpeg looks at the first signal between two reads only; the second one interrupts the read.
            for _ in 0..2 {
                self.interrupt();
                let child = &mut self.child;
                if wait::within(deadline / 2, || child.try_wait().expect("our own child can be asked")).is_some() {
                    return;
                }
            }
            panic!("{} does not end when asked to:\n{}", self.name, self.output());
        }
    }

    fn interrupt(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("our own child can be signalled");
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child can be asked").is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn ffmpeg_debian() -> PathBuf {
    find("ffmpeg", "ffmpeg")
}

pub fn ffprobe() -> PathBuf {
    find("ffprobe", "ffmpeg")
}

pub fn gst_launch() -> PathBuf {
    find("gst-launch-1.0", "gstreamer1.0-tools")
}

/// The build inside the PyPI package `imageio-ffmpeg`: the one that speaks Enhanced RTMP.
pub fn ffmpeg_newer() -> PathBuf {
    if let Some(path) = std::env::var_os("LIVEMILL_TEST_FFMPEG") {
        return PathBuf::from(path);
    }
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/lib");
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(&lib)
        .flat_map(|python| entries(&python.join("site-packages/imageio_ffmpeg/binaries")).collect::<Vec<_>>())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ffmpeg-")))
        .unwrap_or_else(|| panic!("no newer ffmpeg (PyPI package imageio-ffmpeg): run scripts/test.sh --prepare"))
}

/// The web players and what drives a browser, as npm has put them.
pub fn node_modules() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/node/node_modules");
    assert!(folder.join("puppeteer-core").is_dir(), "no web players (npm packages): run scripts/test.sh --prepare");
    folder
}

/// Where a program is; panics naming the Debian package when it is not there. Nothing is ever skipped for that.
pub fn find(program: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    folders
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("no {program} (Debian package {package}): run scripts/test.sh --prepare"))
}

/// Test certificates are nobody's, and ffmpeg looks at them since its version 8.
fn any_certificate(url: &str) -> &'static [&'static str] {
    if url.starts_with("rtmps:") { &["-tls_verify", "0"] } else { &[] }
}

/// The same for GStreamer.
const ANY_CERTIFICATE: &str = "tls-validation-flags=0";
const UNBUFFERED_FILE: [&str; 2] = ["filesink", "buffer-mode=unbuffered"];

fn location(path: &Path) -> String {
    format!("location={}", path.display())
}
