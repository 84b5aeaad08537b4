//! What a peer may cost a session.

use std::time::Duration;

use crate::protocol::amf;

/// The bounds of one session. Each is far above what known clients do, and low enough that a hostile peer is only a nuisance.
#[derive(Debug, Clone)]
pub struct SessionLimits {
    /// The longest message until a publish is accepted: commands and metadata fit many times over.
    pub max_message_before: usize,
    /// The longest message of an accepted publisher. A keyframe has to fit.
    pub max_message: usize,
    /// Chunk streams in use at once.
    pub max_csids: usize,
    /// Message streams (createStream) at once.
    pub max_streams: usize,
    /// Bytes kept while the application decides about connect, publish or play. Real encoders send on without waiting.
    pub max_parked: usize,
    /// The longest metadata or data message; longer ones are dropped.
    pub max_data: usize,
    /// Metadata handed on in a second. Of what comes faster, only the newest is kept.
    pub metadata_per_second: u32,
    /// Chunks of less than 128 bytes in a second: they cost more than their bytes.
    pub thin_chunks_per_second: u32,
    /// Control, command and data messages in a second.
    pub control_per_second: u32,
    /// Answers in a second to commands that need none.
    pub courtesies_per_second: u32,
    /// Pause, seek, receiveAudio and the like in a second; more are ignored.
    pub requests_per_second: u32,
    /// Pings answered in a second.
    pub pings_per_second: u32,
    /// Messages left unfinished for a new one on the same chunk stream.
    pub max_restarts: u32,
    /// Messages of types that nobody defined.
    pub max_unknown_messages: u32,
    /// Media on message streams that do not publish.
    pub max_stray_media: u32,
    /// What the AMF values of a command may be, and of metadata and data.
    pub amf_command: amf::Limits,
    pub amf_data: amf::Limits,
    /// Commands in an order that makes no sense, such as publish before connect.
    pub max_strikes: u32,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            max_message_before: 64 << 10,
            max_message: super::chunk::DEFAULT_MAX_MESSAGE,
            max_csids: 64,
            max_streams: 16,
            max_parked: 512 << 10,
            max_data: 64 << 10,
            metadata_per_second: 2,
            thin_chunks_per_second: 200_000,
            control_per_second: 1000,
            courtesies_per_second: 20,
            requests_per_second: 20,
            pings_per_second: 10,
            max_restarts: 10,
            max_unknown_messages: 100,
            max_stray_media: 100,
            max_strikes: 3,
            amf_command: amf::Limits::COMMAND,
            amf_data: amf::Limits::DATA,
        }
    }
}

/// How often something happened in the present second.
///
/// Seconds are counted from the start of the session, so two bursts may meet at a border: the bounds have room for that.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    second: u32,
    count: u32,
}

impl Rate {
    /// Counts `amount` more; says how many there were in this second.
    pub(super) fn charge(&mut self, now: Duration, amount: u32) -> u32 {
        let second = now.as_secs() as u32;
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        self.count = self.count.saturating_add(amount);
        self.count
    }

    /// Counts one more; says whether it is within `limit`.
    pub(super) fn allows(&mut self, now: Duration, limit: u32) -> bool {
        self.charge(now, 1) <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_starts_anew_each_second() {
        let mut rate = Rate::default();
        assert!(rate.allows(Duration::from_millis(10), 2));
        assert!(rate.allows(Duration::from_millis(20), 2));
        assert!(!rate.allows(Duration::from_millis(999), 2));
        assert!(rate.allows(Duration::from_millis(1000), 2));
    }

    #[test]
    fn rate_does_not_overflow() {
        let mut rate = Rate::default();
        rate.charge(Duration::ZERO, u32::MAX);
        assert_eq!(rate.charge(Duration::ZERO, 9), u32::MAX);
    }
}
