//! Ending a connection from outside, whatever it is doing.

use std::rc::Rc;

use tokio::sync::Notify;

/// Whoever serves a connection holds one, and whoever may end it another: both on one thread. A connection whose peer does
/// not read is stuck in a write, where no other word reaches it.
#[derive(Clone, Default)]
pub struct HangUp(Rc<Notify>);

impl HangUp {
    /// Closes the connection at once, without its last words.
    pub fn now(&self) {
        self.0.notify_one();
    }

    /// Ready once the connection is to be closed.
    pub async fn asked(&self) {
        self.0.notified().await;
    }
}
