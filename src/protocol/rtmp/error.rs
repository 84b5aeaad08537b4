//! Why a session cannot go on.

use super::chunk::ChunkError;
use super::handshake::HandshakeError;
use super::message::{AggregateError, ControlError};
use crate::protocol::amf::AmfError;

/// The end of a session by its peer's fault. `Display` is one good log line; [`reason`](Self::reason) labels a counter.
///
/// What is in the output should still be sent before closing: it may tell the peer what was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("chunk stream broken: {0}")]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("aggregate message broken: {0}")]
    Aggregate(#[from] AggregateError),
    #[error("command message broken: {0}")]
    Command(#[from] AmfError),
    #[error("command message without a command")]
    NoCommand,
    #[error("connect without an app")]
    NoApp,
    #[error("second connect on one connection")]
    SecondConnect,
    #[error("{count} commands out of order, the last of them {command}")]
    OutOfOrder { command: &'static str, count: u32 },
    #[error("more than {limit} media messages on streams that do not publish")]
    StrayMedia { limit: u32 },
    #[error("more than {limit} messages of unknown types, the last of type {kind}")]
    UnknownMessages { kind: u8, limit: u32 },
    #[error("more than {limit} control messages in a second")]
    ControlFlood { limit: u32 },
    #[error("more than {limit} tiny chunks in a second")]
    ThinChunks { limit: u32 },
    #[error("more than {limit} bytes sent on without waiting for an answer")]
    Impatient { limit: usize },
    #[error("the server gave no usable stream id")]
    NoStreamId,
}

impl SessionError {
    /// A short fixed word for counters.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(HandshakeError::Tls | HandshakeError::Http) => "wrong_protocol",
            Self::Handshake(_) => "bad_handshake",
            Self::Chunk(ChunkError::TooLong { .. }) => "message_too_long",
            Self::Chunk(ChunkError::TooMuchUnfinished { .. }) => "too_much_unfinished",
            Self::Chunk(ChunkError::TooManyChunkStreams { .. }) => "too_many_chunk_streams",
            Self::Chunk(ChunkError::NoPriorHeader { .. }) => "no_prior_header",
            Self::Chunk(ChunkError::LengthChanged { .. }) => "length_changed",
            Self::Chunk(ChunkError::TooManyRestarts { .. }) => "too_many_restarts",
            Self::Control(ControlError::ChunkSize(_)) => "bad_chunk_size",
            Self::Control(ControlError::Short { .. }) => "short_control",
            Self::Aggregate(_) => "bad_aggregate",
            Self::Command(_) | Self::NoCommand => "bad_command",
            Self::NoApp => "no_app",
            Self::SecondConnect => "second_connect",
            Self::OutOfOrder { .. } => "out_of_order",
            Self::StrayMedia { .. } => "stray_media",
            Self::UnknownMessages { .. } => "unknown_messages",
            Self::ControlFlood { .. } => "control_flood",
            Self::ThinChunks { .. } => "thin_chunks",
            Self::Impatient { .. } => "impatient",
            Self::NoStreamId => "no_stream_id",
        }
    }
}
