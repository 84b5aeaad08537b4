//! What HTTP reads of one output: its windows, behind a lock that is never held for longer than a look.
//!
//! A muxer writes, requests of any thread read. Who asks for something that is not there yet waits for the next change, in
//! bounded numbers and for a bounded time; when the output ends, everybody who waits is answered.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::sessions::Sessions;
use crate::protocol::{
    dash::manifest::{Clock, ClockScheme, Kind, Manifest, ManifestRules, Track},
    hls::{
        playlist::{self, Answer, Encoding, Query, Refusal},
        window::{File, Window, report_to_each_other},
    },
};

/// One output of one stream, as those who fetch it see it.
pub struct SegmentStore {
    held: Mutex<Held>,
    /// Counts changes: who waits is woken by each.
    changes: watch::Sender<u64>,
    blocked: AtomicUsize,
    limits: StoreLimits,
    sessions: Sessions,
    started: Instant,
    /// When somebody last asked for something, in milliseconds since the start.
    used_ms: AtomicU64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLimits {
    /// Requests that may wait at a time.
    pub blocked_requests: usize,
    /// How long somebody waits where no playlist says how long that may be: for the first one.
    pub patience: Duration,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The playlist above the others. The word goes behind each address in it, as its query.
    Index { token: Option<&'a str> },
    /// The media playlist of this name.
    Playlist { name: &'a str, query: Query },
    /// DASH's manifest.
    Manifest,
    /// A segment, a part, an initialisation.
    File { name: &'a str },
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A playlist or manifest, in the encoding that was asked for.
    Text(Bytes),
    /// Media. `keep` is how long the same bytes are under this name.
    Media { bytes: Bytes, content_type: &'static str, keep: Duration },
}

/// Why there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    #[error("nobody publishes this stream, or it has no such file")]
    NotFound,
    #[error("a request that no player makes")]
    BadRequest,
    #[error("it should have come by now")]
    TooLate,
    #[error("too many requests wait already")]
    Crowded,
}

/// What a muxer writes to.
pub struct Held {
    /// Video first; all of them begin together. Empty until it is known what is in the stream.
    pub renditions: Vec<Rendition>,
    manifest: Manifest,
    is_closed: bool,
}

/// One window, and the name of its playlist without `.m3u8`.
pub struct Rendition {
    pub name: &'static str,
    pub window: Window,
}

enum Look {
    Found(Found),
    Wait(Option<Duration>),
    Not(NotServed),
}

impl SegmentStore {
    pub fn new(limits: StoreLimits, sessions: Sessions) -> Self {
        Self {
            held: Mutex::new(Held {
                renditions: Vec::new(),
                manifest: Manifest::new(manifest_rules()),
                is_closed: false,
            }),
            changes: watch::Sender::new(0),
            blocked: AtomicUsize::new(0),
            limits,
            sessions,
            started: Instant::now(),
            used_ms: AtomicU64::new(0),
        }
    }

    /// Changes what is held, and wakes who waits.
    pub fn update<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held();
        let done = change(&mut held);
        held.report_positions();
        drop(held);
        self.changes.send_modify(|count| *count += 1);
        done
    }

    /// A look at what is held, which changes nothing.
    pub fn look<T>(&self, at: impl FnOnce(&Held) -> T) -> T {
        at(&self.held())
    }

    /// Nothing more comes; false: and nothing has come. What has can still be fetched.
    pub fn end(&self) -> bool {
        self.update(|held| {
            held.end();
            !held.renditions.is_empty()
        })
    }

    /// Nothing more comes, and nothing is served any more.
    pub fn close(&self) {
        self.update(|held| {
            held.is_closed = true;
            held.renditions.clear();
        });
    }

    /// False: whoever has this asks for another.
    pub fn is_open(&self) -> bool {
        !self.held().is_closed
    }

    /// How long nobody has asked for anything. Who waits has asked just now.
    pub fn idle_for(&self) -> Duration {
        if self.blocked() > 0 {
            return Duration::ZERO;
        }
        self.started.elapsed().saturating_sub(Duration::from_millis(self.used_ms.load(Ordering::Relaxed)))
    }

    /// Who watches.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What the sessions' clock says: time since the output began.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Requests that wait.
    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Answers a request, when it can be answered.
    pub async fn fetch(&self, wanted: &Wanted<'_>, encoding: Encoding) -> Result<Found, NotServed> {
        let now = Instant::now();
        self.used_ms.store(millis(now.duration_since(self.started)), Ordering::Relaxed);
        // Before the first look: a change between the look and the wait counts.
        let mut changes = self.changes.subscribe();
        let mut slot = None;
        loop {
            let bound = match self.find(wanted, encoding, now.elapsed()) {
                Look::Found(found) => return Ok(found),
                Look::Not(reason) => return Err(reason),
                Look::Wait(bound) => bound.unwrap_or(self.limits.patience),
            };
            if slot.is_none() {
                slot = Some(self.block()?);
            }
            // The sender is ours, so a change is all that can end the wait.
            if timeout_at(now + bound, changes.changed()).await.is_err() {
                return Err(NotServed::TooLate);
            }
        }
    }

    fn find(&self, wanted: &Wanted<'_>, encoding: Encoding, waited: Duration) -> Look {
        let mut held = self.held();
        if held.is_closed {
            return Look::Not(NotServed::NotFound);
        }
        match wanted {
            Wanted::Index { token } => held.index(*token, encoding),
            Wanted::Playlist { name, query } => held.playlist(name, query, encoding, waited),
            Wanted::Manifest => held.manifest(encoding),
            Wanted::File { name } => held.file(name),
        }
    }

    fn block(&self) -> Result<Blocked<'_>, NotServed> {
        if self.blocked.fetch_add(1, Ordering::Relaxed) >= self.limits.blocked_requests {
            self.blocked.fetch_sub(1, Ordering::Relaxed);
            return Err(NotServed::Crowded);
        }
        Ok(Blocked(self))
    }

    /// A panic under the lock leaves windows that are behind at most.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits, until this is dropped: answered, given up, or its connection gone.
struct Blocked<'a>(&'a SegmentStore);

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        // It was used until now: an output whose viewers wait for it is not idle.
        self.0.used_ms.store(millis(self.0.started.elapsed()), Ordering::Relaxed);
        self.0.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// The window of this name.
    pub fn window(&mut self, name: &str) -> Option<&mut Window> {
        self.renditions.iter_mut().find(|rendition| rendition.name == name).map(|rendition| &mut rendition.window)
    }

    fn end(&mut self) {
        self.renditions.iter_mut().for_each(|rendition| rendition.window.end());
    }

    fn is_ended(&self) -> bool {
        self.renditions.iter().any(|rendition| rendition.window.is_ended())
    }

    fn index(&self, token: Option<&str>, encoding: Encoding) -> Look {
        let query = token.map(|token| format!("?session={token}")).unwrap_or_default();
        let uris: Vec<String> = self.renditions.iter().map(|held| format!("{}.m3u8{query}", held.name)).collect();
        let mut all = self
            .renditions
            .iter()
            .zip(&uris)
            .filter(|(held, _)| !held.window.is_silent())
            .map(|(held, uri): (_, &String)| playlist::Rendition { uri, window: &held.window });
        let (Some(first), audio) = (all.next(), all.next()) else { return Look::Wait(None) };
        match playlist::multivariant(&[first], audio) {
            Some(text) if encoding == Encoding::Gzip => Look::Found(Found::Text(playlist::gzip(text.as_bytes()))),
            Some(text) => Look::Found(Found::Text(Bytes::from(text))),
            // A stream that ended before it had anything to play.
            None if self.is_ended() => Look::Not(NotServed::NotFound),
            None => Look::Wait(None),
        }
    }

    fn playlist(&mut self, name: &str, query: &Query, encoding: Encoding, waited: Duration) -> Look {
        if self.renditions.is_empty() {
            return Look::Wait(None);
        }
        let Some(window) = self.window(name) else { return Look::Not(NotServed::NotFound) };
        // A list without anything in it is an error to most players: before the first segment everybody waits.
        if !window.is_ready() && !window.is_silent() && query.number.is_none() {
            return if window.is_ended() { Look::Not(NotServed::NotFound) } else { Look::Wait(None) };
        }
        match window.answer(query, encoding, waited) {
            Answer::Ready(bytes) => Look::Found(Found::Text(bytes)),
            Answer::Wait => Look::Wait(Some(window.hold_limit())),
            Answer::Refused(Refusal::BadRequest) => Look::Not(NotServed::BadRequest),
            Answer::Refused(Refusal::Unavailable) => Look::Not(NotServed::TooLate),
        }
    }

    fn manifest(&mut self, encoding: Encoding) -> Look {
        let tracks: Vec<_> = self
            .renditions
            .iter()
            .filter(|held| !held.window.is_silent())
            .map(|held| Track {
                kind: if held.name == AUDIO { Kind::Audio } else { Kind::Video },
                window: &held.window,
            })
            .collect();
        match self.manifest.render(&tracks, jiff::Timestamp::now().as_millisecond(), encoding) {
            Some(bytes) => Look::Found(Found::Text(bytes)),
            None if self.is_ended() => Look::Not(NotServed::NotFound),
            None => Look::Wait(None),
        }
    }

    fn file(&self, name: &str) -> Look {
        if self.renditions.is_empty() {
            return Look::Not(NotServed::NotFound);
        }
        for Rendition { window, .. } in &self.renditions {
            match window.file(name) {
                File::Ready(bytes, kind) => {
                    let container = window.rules().container;
                    let keep = Duration::from_secs(u64::from(window.target_s()) * 6);
                    return Look::Found(Found::Media { bytes, content_type: kind.content_type(container), keep });
                }
                File::Wait => return Look::Wait(Some(window.hold_limit())),
                // Players of DASH ask for it by the clock, and theirs may be a little ahead; ffmpeg asks as soon as it has the one
                // before, and gives up after a hundred refusals.
                File::Unknown if is_next(window, name) => return Look::Wait(Some(window.hold_limit())),
                File::Unknown => {}
            }
        }
        Look::Not(NotServed::NotFound)
    }

    /// Tells each playlist where the others are.
    fn report_positions(&mut self) {
        if self.renditions.len() < 2 {
            return;
        }
        let names: Vec<String> = self.renditions.iter().map(|held| format!("{}.m3u8", held.name)).collect();
        let windows = self.renditions.iter_mut().map(|held| &mut held.window);
        let mut named: Vec<_> = names.iter().map(String::as_str).zip(windows).collect();
        report_to_each_other(&mut named);
    }
}

/// The name is that of the segment that is being made.
fn is_next(window: &Window, name: &str) -> bool {
    let last = window.segments().next_back();
    !window.is_ended() && last.is_some_and(|last| window.segment_name(last.number + 1) == name)
}

/// Whoever serves the manifest answers there with the time.
fn manifest_rules() -> ManifestRules {
    ManifestRules { clocks: vec![Clock { scheme: ClockScheme::HttpIso, value: CLOCK.to_owned() }], delay_ms: None }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The names of playlists.
pub const VIDEO: &str = "video";
pub const AUDIO: &str = "audio";

/// Beside the manifest: what time it is, for its players.
pub const CLOCK: &str = "now.time";

/// What the names of one output begin with.
pub fn names_of_their_own() -> String {
    format!("{:012x}", rand::random::<u64>() >> 16)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::protocol::hls::window::{Container, Description, Part, WindowRules};

    use super::*;

    fn store(blocked_requests: usize) -> Arc<SegmentStore> {
        let limits = StoreLimits { blocked_requests, patience: Duration::from_secs(10) };
        Arc::new(SegmentStore::new(limits, Sessions::new(Duration::from_secs(30), Arc::default(), || 1)))
    }

    fn fill(store: &SegmentStore) {
        store.update(|held| {
            for name in ["video", "audio"] {
                let rules = WindowRules { part_target_ms: Some(200), ..WindowRules::new(Container::Fmp4, name, 2) };
                let mut window = Window::new(rules);
                window.push_init(
                    Bytes::from_static(b"init"),
                    Description { codecs: "avc1.640028".to_owned(), ..Description::default() },
                );
                held.renditions.push(Rendition { name, window });
            }
        });
    }

    fn part(store: &SegmentStore, number: u64) {
        store.update(|held| {
            for rendition in &mut held.renditions {
                rendition.window.push_part(Part {
                    bytes: Bytes::from_static(b"media"),
                    start: number * 200,
                    duration: 200,
                    timescale: 1000,
                    independent: number.is_multiple_of(10),
                    date_ms: 200 * number as i64,
                });
                if number % 10 == 9 {
                    rendition.window.end_segment(true);
                }
            }
        });
    }

    #[tokio::test]
    async fn a_rendition_that_has_gone_quiet_is_shown_to_those_who_have_it_only() {
        let store = store(10);
        fill(&store);
        (0..10).for_each(|number| part(&store, number));
        let of_both = text(&store, &Wanted::Index { token: None }).await.unwrap();
        for number in 1..10_u64 {
            store.update(|held| {
                for rendition in &mut held.renditions {
                    let media = Part {
                        bytes: Bytes::from_static(b"media"),
                        start: number * 2000,
                        duration: 2000,
                        timescale: 1000,
                        independent: true,
                        date_ms: 2000 * number as i64,
                    };
                    match rendition.name {
                        "video" => rendition.window.push_segment(media),
                        _ => rendition.window.push_gap(media),
                    }
                }
            });
        }
        let index = text(&store, &Wanted::Index { token: None }).await.unwrap();
        assert!(of_both.contains("audio.m3u8") && !index.contains("audio.m3u8") && index.contains("video.m3u8"));
        assert!(!text(&store, &Wanted::Manifest).await.unwrap().contains("audio"));
        let audio = Wanted::Playlist { name: "audio", query: Query::default() };
        assert!(text(&store, &audio).await.unwrap().contains("#EXT-X-GAP"));
    }

    fn playlist(text: &str) -> Wanted<'static> {
        Wanted::Playlist { name: "video", query: Query::parse(text).expect("a good query") }
    }

    async fn text(store: &SegmentStore, wanted: &Wanted<'_>) -> Result<String, NotServed> {
        store.fetch(wanted, Encoding::Plain).await.map(|found| match found {
            Found::Text(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Found::Media { bytes, .. } => format!("{} bytes", bytes.len()),
        })
    }

    /// Until so many requests wait.
    async fn blocked(store: &SegmentStore, count: usize) {
        while store.blocked() != count {
            tokio::task::yield_now().await;
        }
    }

    #[actix::test]
    async fn a_request_waits_for_the_part_it_asks_for() {
        tokio::time::pause();
        let store = store(10);
        fill(&store);
        (0..10).for_each(|number| part(&store, number));
        let waiting = tokio::task::spawn_local({
            let store = Arc::clone(&store);
            async move { text(&store, &playlist("_HLS_msn=1&_HLS_part=0")).await }
        });
        blocked(&store, 1).await;
        part(&store, 10);
        let answer = waiting.await.expect("it does not panic").expect("the part is there");
        assert!(answer.contains("INDEPENDENT=YES"), "{answer}");
        assert!(answer.contains("EXT-X-RENDITION-REPORT:URI=\"audio.m3u8\",LAST-MSN=1,LAST-PART=0"), "{answer}");
        assert_eq!(store.blocked(), 0);
    }

    #[actix::test]
    async fn the_segment_that_is_being_made_can_be_waited_for_and_none_after_it() {
        tokio::time::pause();
        let store = store(10);
        fill(&store);
        (0..15).for_each(|number| part(&store, number));
        let waiting = tokio::task::spawn_local({
            let store = Arc::clone(&store);
            async move { text(&store, &Wanted::File { name: "video-1.m4s" }).await }
        });
        blocked(&store, 1).await;
        assert_eq!(text(&store, &Wanted::File { name: "video-2.m4s" }).await, Err(NotServed::NotFound));
        (15..20).for_each(|number| part(&store, number));
        assert_eq!(waiting.await.expect("it does not panic").as_deref(), Ok("50 bytes"));
    }

    #[actix::test]
    async fn what_does_not_come_is_given_up_after_three_targets() {
        tokio::time::pause();
        let store = store(10);
        fill(&store);
        (0..10).for_each(|number| part(&store, number));
        let begun = Instant::now();
        assert_eq!(text(&store, &playlist("_HLS_msn=1&_HLS_part=0")).await, Err(NotServed::TooLate));
        assert_eq!(begun.elapsed().as_secs(), 6);
        assert_eq!(text(&store, &playlist("_HLS_msn=99")).await, Err(NotServed::BadRequest));
        assert_eq!(text(&store, &Wanted::File { name: "../secret" }).await, Err(NotServed::NotFound));
    }

    #[actix::test]
    async fn only_so_many_wait_and_all_are_answered_at_the_end() {
        tokio::time::pause();
        let store = store(2);
        fill(&store);
        (0..10).for_each(|number| part(&store, number));
        let wait = || {
            let store = Arc::clone(&store);
            tokio::task::spawn_local(async move { text(&store, &playlist("_HLS_msn=1")).await })
        };
        let waiting = [wait(), wait()];
        blocked(&store, 2).await;
        assert_eq!(text(&store, &playlist("_HLS_msn=1")).await, Err(NotServed::Crowded));
        assert_eq!(store.idle_for(), Duration::ZERO, "who waits is not idle");
        assert!(store.end());
        for answer in waiting {
            let answer = answer.await.expect("it does not panic").expect("the end is an answer");
            assert!(answer.ends_with("#EXT-X-ENDLIST\n"), "{answer}");
        }
        store.close();
        assert_eq!(text(&store, &playlist("")).await, Err(NotServed::NotFound));
        assert!(!store.is_open());
    }

    #[actix::test]
    async fn the_first_viewer_waits_until_there_is_something_to_play() {
        tokio::time::pause();
        let store = store(10);
        let waiting = tokio::task::spawn_local({
            let store = Arc::clone(&store);
            async move { text(&store, &Wanted::Index { token: Some("ab") }).await }
        });
        blocked(&store, 1).await;
        fill(&store);
        (0..10).for_each(|number| part(&store, number));
        let index = waiting.await.expect("it does not panic").expect("a segment is there");
        assert!(
            index.contains("video.m3u8?session=ab\n") && index.contains("URI=\"audio.m3u8?session=ab\""),
            "{index}"
        );
    }

    #[actix::test]
    async fn nobody_waits_for_ever_for_a_stream_that_gives_nothing() {
        tokio::time::pause();
        let begun = Instant::now();
        let store = store(10);
        assert_eq!(text(&store, &Wanted::Index { token: None }).await, Err(NotServed::TooLate));
        assert_eq!(begun.elapsed().as_secs(), 10);
        assert_eq!(
            text(&store, &Wanted::File { name: "x.m4s" }).await,
            Err(NotServed::NotFound),
            "a guess waits for nothing"
        );
    }

    #[actix::test]
    async fn idleness_is_counted_from_the_last_request() {
        tokio::time::pause();
        let store = store(10);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(store.idle_for(), Duration::from_secs(5));
        let _ = text(&store, &Wanted::File { name: "x" }).await;
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(store.idle_for(), Duration::from_secs(3));
    }
}
