//! An error with its line, a caret under the word and "did you mean".

use thiserror::Error;

/// Why a configuration cannot be used. `Display` is nginx's line, then the source line with a caret.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("{message}{detail}")]
pub struct ConfigError {
    /// nginx's one line, without `livemill: [emerg] `.
    pub message: String,
    /// The source line, the caret and the advice; begins with a line feed, or is empty.
    pub detail: String,
}
