//! A player that writes what it gets into a file, held against what was published.

use std::path::PathBuf;
use std::time::Duration;

use super::fixtures::Fixture;
use super::flv;
use super::tools::{Player, Running};

/// A player that runs, and the file it writes.
pub struct Playing {
    pub player: Player,
    client: Running,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Playing {
    pub fn start(player: Player, url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("played.flv");
        let client = player.play(url, &file);
        Self { player, client, file, _folder: folder }
    }

    /// `late`: it came when the stream was already running ([`flv::same_media`]).
    pub fn difference_from(&mut self, fixture: Fixture, late: bool) -> Option<String> {
        let mut sent = flv::frames(&fixture.path());
        let file = self.file.clone();
        let frames = || {
            if file.exists() && file.metadata().is_ok_and(|m| m.len() > 13) { flv::frames(&file) } else { Vec::new() }
        };
        self.client.finish(LAST_FRAME_DEADLINE, || {
            let received = frames();
            let coded = |frames: &[flv::Frame]| frames.iter().filter(|frame| !frame.config).count();
            coded(&received) >= coded(&sent)
        });
        let received = frames();
        if self.player.may_miss_the_last_frame() {
            let last = sent.iter().rposition(|frame| !frame.config).expect("a fixture has frames");
            if received.last().is_some_and(|frame| frame.data != sent[last].data) {
                sent.remove(last);
            }
        }
        let difference = flv::same_media(&sent, &received, late).err()?;
        Some(format!("{difference}\n{}", self.client.output()))
    }

    #[track_caller]
    pub fn assert_same_as(&mut self, fixture: Fixture, late: bool, what: &str) {
        if let Some(difference) = self.difference_from(fixture, late) {
            panic!("{what}: {difference}");
        }
    }
}

/// From the publisher's end to the last frame in a player's file. rtmpdump and ffmpeg hold some back until they are asked to end.
const LAST_FRAME_DEADLINE: Duration = Duration::from_secs(3);
