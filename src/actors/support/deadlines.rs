//! How long one connection may take for each thing, and when it is asked whether it is still there.

use std::time::Duration;

use crate::config::{Limits, RtmpOptions};

/// Decides, once a second, whether a connection is still worth having. Plain numbers in, a verdict out.
#[derive(Debug)]
pub struct Deadlines {
    stage: Stage,
    since: Duration,
    received: u64,
    received_at: Duration,
    written: u64,
    written_at: Duration,
    pinged_at: Option<Duration>,
    /// When the peer began to owe the rest of a message, by the number of bytes received then.
    owing_since: Option<Duration>,
    media: u64,
    media_at: Duration,
}

/// How far a connection has come. What a stranger may cost grows with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing has come.
    Silent,
    /// PROXY header, TLS or RTMP handshake.
    Handshake,
    /// Shaken hands, no `connect`.
    Connect,
    /// Connected, neither publishing nor playing.
    Command,
    Publishing,
    Playing,
    /// Said goodbye; waiting for the peer to close its side.
    Closing,
}

/// What a connection looks like now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    /// Bytes received and written since the beginning.
    pub received: u64,
    pub written: u64,
    /// Something waits to be written.
    pub waits: bool,
    /// A message has begun and not ended.
    pub midway: bool,
    /// Audio and video messages received since the beginning.
    pub media: u64,
    /// TLS is still shaking hands.
    pub in_tls: bool,
}

/// The times that hold on this connection.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub first_byte: Duration,
    pub tls: Duration,
    pub handshake: Duration,
    pub connect: Duration,
    pub command: Duration,
    pub first_media: Duration,
    pub idle_publisher: Option<Duration>,
    pub slow_player: Duration,
    pub write: Duration,
    pub ping: Duration,
    pub ping_timeout: Duration,
    pub busy: bool,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Ask whether it is there.
    Ping,
    Close(Reason),
}

/// Why time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("nothing came")]
    Silent,
    #[error("TLS handshake not finished in time")]
    Tls,
    #[error("handshake not finished in time")]
    Handshake,
    #[error("no connect in time")]
    Connect,
    #[error("neither published nor played in time")]
    Command,
    #[error("no audio or video after publish")]
    NoMedia,
    #[error("drop idle publisher")]
    IdlePublisher,
    #[error("took no bytes for too long (slow player)")]
    SlowPlayer,
    #[error("took no bytes for too long")]
    WriteTimeout,
    #[error("the rest of a message did not come")]
    HalfMessage,
    #[error("no answer to ping")]
    PingTimeout,
    #[error("idle, and busy is on")]
    Busy,
    #[error("closed")]
    Closed,
}

impl Times {
    pub fn new(limits: &Limits, rtmp: &RtmpOptions) -> Self {
        Self {
            first_byte: FIRST_BYTE.min(limits.handshake_timeout),
            tls: limits.tls_handshake_timeout,
            handshake: limits.handshake_timeout.min(rtmp.timeout),
            connect: limits.connect_timeout,
            command: limits.command_timeout,
            first_media: limits.first_media_timeout,
            idle_publisher: None,
            slow_player: rtmp.timeout,
            write: rtmp.timeout,
            ping: rtmp.ping,
            ping_timeout: rtmp.ping_timeout,
            busy: rtmp.busy,
        }
    }
}

impl Deadlines {
    pub fn new(now: Duration) -> Self {
        Self {
            stage: Stage::Silent,
            since: now,
            received: 0,
            received_at: now,
            written: 0,
            written_at: now,
            pinged_at: None,
            owing_since: None,
            media: 0,
            media_at: now,
        }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The connection has come this far now. Stages of the handshake share one deadline.
    pub fn enter(&mut self, stage: Stage, now: Duration) {
        if self.stage != stage {
            let one_deadline = self.stage == Stage::Silent && stage == Stage::Handshake;
            self.stage = stage;
            if !one_deadline {
                self.since = now;
            }
            self.media_at = now;
            self.written_at = now;
        }
    }

    pub fn check(&mut self, sight: Sight, times: &Times, now: Duration) -> Verdict {
        self.look(sight, now);
        let in_stage = now.saturating_sub(self.since);
        let silent = now.saturating_sub(self.received_at);
        let stuck = now.saturating_sub(self.written_at);
        let overdue = match self.stage {
            Stage::Silent | Stage::Handshake if sight.in_tls && in_stage >= times.tls => Some(Reason::Tls),
            Stage::Silent if in_stage >= times.first_byte => Some(Reason::Silent),
            Stage::Handshake if in_stage >= times.handshake => Some(Reason::Handshake),
            Stage::Connect if in_stage >= times.connect => Some(Reason::Connect),
            Stage::Command if in_stage >= times.command => Some(Reason::Command),
            Stage::Publishing if sight.media == 0 && in_stage >= times.first_media => Some(Reason::NoMedia),
            Stage::Publishing if times.idle_publisher.is_some_and(|idle| now.saturating_sub(self.media_at) >= idle) => {
                Some(Reason::IdlePublisher)
            }
            Stage::Playing if sight.waits && stuck >= times.slow_player => Some(Reason::SlowPlayer),
            Stage::Closing if in_stage >= LINGER => Some(Reason::Closed),
            _ if sight.waits && stuck >= times.write => Some(Reason::WriteTimeout),
            _ if self.owing_since.is_some_and(|since| now.saturating_sub(since) >= HALF_MESSAGE) => {
                Some(Reason::HalfMessage)
            }
            _ => None,
        };
        if let Some(reason) = overdue {
            return Verdict::Close(reason);
        }
        if let Some(pinged_at) = self.pinged_at {
            return if now.saturating_sub(pinged_at) >= times.ping_timeout {
                Verdict::Close(Reason::PingTimeout)
            } else {
                Verdict::Fine
            };
        }
        let pingable = matches!(self.stage, Stage::Command | Stage::Publishing | Stage::Playing);
        if pingable && !times.ping.is_zero() && silent >= times.ping {
            if times.busy {
                return Verdict::Close(Reason::Busy);
            }
            self.pinged_at = Some(now);
            return Verdict::Ping;
        }
        Verdict::Fine
    }

    /// How long until the next check is worth its while; `waits` as in [`Sight`].
    pub fn next_look(&self, waits: bool, times: &Times) -> Duration {
        // Whoever plays and reads has nothing due for long; a thousand of them are a thousand looks a second.
        let is_calm = self.stage == Stage::Playing && !waits && self.pinged_at.is_none();
        match is_calm {
            true if times.ping.is_zero() => CALM_LOOK,
            true => times.ping.clamp(LOOK, CALM_LOOK),
            false => LOOK,
        }
    }

    fn look(&mut self, sight: Sight, now: Duration) {
        if sight.received != self.received {
            self.received = sight.received;
            self.received_at = now;
            self.pinged_at = None;
            self.owing_since = None;
        }
        if sight.midway {
            self.owing_since.get_or_insert(now);
        } else {
            self.owing_since = None;
        }
        if sight.written != self.written || !sight.waits {
            self.written = sight.written;
            self.written_at = now;
        }
        if sight.media != self.media {
            self.media = sight.media;
            self.media_at = now;
        }
    }
}

/// How often a connection looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// The same for a player that takes what it is given.
const CALM_LOOK: Duration = Duration::from_secs(5);

/// A connection that sends nothing at all gets no longer than this.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// Half a message may wait this long for its next byte.
const HALF_MESSAGE: Duration = Duration::from_secs(15);

/// After the last word the peer has this long to close its side, so that the word reaches it.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> Times {
        Times {
            idle_publisher: Some(Duration::from_secs(7)),
            slow_player: Duration::from_secs(15),
            ..Times::new(&Limits::default(), &RtmpOptions::default())
        }
    }

    /// Runs a connection for so many seconds with a sight that does not change, and tells when and why it was closed.
    fn closed_after(stage: Stage, sight: Sight) -> Option<(u64, Reason)> {
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(stage, Duration::ZERO);
        (1..300).find_map(|second| match deadlines.check(sight, &times(), Duration::from_secs(second)) {
            Verdict::Close(reason) => Some((second, reason)),
            _ => None,
        })
    }

    #[test]
    fn each_stage_has_its_own_patience() {
        let quiet = Sight::default();
        assert_eq!(closed_after(Stage::Silent, quiet), Some((5, Reason::Silent)));
        assert_eq!(closed_after(Stage::Handshake, quiet), Some((10, Reason::Handshake)));
        assert_eq!(closed_after(Stage::Connect, quiet), Some((5, Reason::Connect)));
        assert_eq!(closed_after(Stage::Command, quiet), Some((10, Reason::Command)));
        assert_eq!(closed_after(Stage::Closing, quiet), Some((1, Reason::Closed)));
    }

    #[test]
    fn a_calm_player_is_looked_at_as_often_as_its_ping_needs() {
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(Stage::Publishing, Duration::ZERO);
        assert_eq!(deadlines.next_look(false, &times()), LOOK);
        deadlines.enter(Stage::Playing, Duration::ZERO);
        assert_eq!(deadlines.next_look(true, &times()), LOOK, "one that takes nothing");
        let next = |deadlines: &Deadlines, ping| deadlines.next_look(false, &Times { ping, ..times() });
        for (ping_secs, look_secs) in [(0, 5), (1, 1), (3, 3), (60, 5)] {
            assert_eq!(next(&deadlines, Duration::from_secs(ping_secs)), Duration::from_secs(look_secs));
        }
        assert_eq!(deadlines.check(Sight::default(), &times(), Duration::from_secs(60)), Verdict::Ping);
        assert_eq!(next(&deadlines, Duration::from_secs(60)), LOOK, "the answer is awaited");
    }

    #[test]
    fn a_tls_handshake_has_a_deadline_of_its_own() {
        let shaking = Sight { in_tls: true, ..Sight::default() };
        assert_eq!(closed_after(Stage::Silent, shaking), Some((3, Reason::Tls)));
        assert_eq!(closed_after(Stage::Handshake, shaking), Some((3, Reason::Tls)));
    }

    #[test]
    fn a_publisher_that_never_sends_media_is_idle_from_publish_on() {
        assert_eq!(closed_after(Stage::Publishing, Sight::default()), Some((7, Reason::IdlePublisher)));
    }

    #[test]
    fn the_deadline_of_the_handshake_counts_from_the_accept() {
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(Stage::Handshake, Duration::from_secs(4));
        let verdict = deadlines.check(Sight { received: 9, ..Sight::default() }, &times(), Duration::from_secs(10));
        assert_eq!(verdict, Verdict::Close(Reason::Handshake));
    }

    #[test]
    fn a_player_that_reads_nothing_is_closed_and_one_that_reads_a_little_is_not() {
        assert_eq!(
            closed_after(Stage::Playing, Sight { waits: true, ..Sight::default() }),
            Some((15, Reason::SlowPlayer))
        );
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(Stage::Playing, Duration::ZERO);
        for second in 1..120 {
            let sight = Sight { waits: true, written: second / 10, received: second, ..Sight::default() };
            assert_eq!(deadlines.check(sight, &times(), Duration::from_secs(second)), Verdict::Fine);
        }
    }

    #[test]
    fn a_quiet_player_is_pinged_and_then_given_up() {
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(Stage::Playing, Duration::ZERO);
        let mut seen = Vec::new();
        for second in 1..=120 {
            match deadlines.check(Sight::default(), &times(), Duration::from_secs(second)) {
                Verdict::Fine => {}
                verdict => seen.push((second, verdict)),
            }
        }
        assert_eq!(seen[..2], [(60, Verdict::Ping), (90, Verdict::Close(Reason::PingTimeout))]);
    }

    #[test]
    fn half_a_message_is_not_waited_for_for_ever() {
        let half = Sight { midway: true, media: 1, ..Sight::default() };
        let mut deadlines = Deadlines::new(Duration::ZERO);
        deadlines.enter(Stage::Command, Duration::ZERO);
        let times = Times { command: Duration::from_secs(100), ..times() };
        let closed = (1..60).find(|&second| {
            deadlines.check(half, &times, Duration::from_secs(second)) == Verdict::Close(Reason::HalfMessage)
        });
        assert_eq!(closed, Some(16));
    }
}
