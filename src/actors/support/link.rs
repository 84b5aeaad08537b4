//! Exit reports: whoever holds a [`Link`] is reported when it is gone, however it went.

use std::{fmt, mem};

use actix::prelude::*;

/// A field of an actor: tells the one who counts on it that it is gone, and why. It works by being dropped, so it
/// reports a stop, a panic and an arbiter's end alike.
pub struct Link {
    id: u64,
    reason: ExitReason,
    to: Recipient<Exited>,
}

/// An actor is gone.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Exited {
    pub id: u64,
    pub reason: ExitReason,
}

/// Why it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It had done its work.
    Stopped,
    /// It met a condition that is nobody's bug.
    Failed(String),
    /// A bug: counted, never retried for ever.
    Panicked,
}

impl Link {
    pub fn new(id: u64, to: Recipient<Exited>) -> Self {
        Self { id, reason: ExitReason::Stopped, to }
    }

    /// What the report will say unless the actor panics.
    pub fn set_reason(&mut self, reason: ExitReason) {
        self.reason = reason;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let reason = if std::thread::panicking() {
            ExitReason::Panicked
        } else {
            mem::replace(&mut self.reason, ExitReason::Stopped)
        };
        // `do_send` never blocks, and exits are rare by nature.
        self.to.do_send(Exited { id: self.id, reason });
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("reason", &self.reason).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    struct Parent(mpsc::Sender<Exited>);
    impl Actor for Parent {
        type Context = Context<Self>;
    }
    impl Handler<Exited> for Parent {
        type Result = ();
        fn handle(&mut self, exited: Exited, _: &mut Self::Context) {
            self.0.try_send(exited).expect("the test reads two reports at most");
        }
    }

    struct Child {
        link: Link,
    }
    impl Actor for Child {
        type Context = Context<Self>;
    }
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Fall(bool);
    impl Handler<Fall> for Child {
        type Result = ();
        fn handle(&mut self, Fall(panics): Fall, ctx: &mut Self::Context) {
            assert!(!panics, "asked to");
            self.link.set_reason(ExitReason::Failed("asked to".into()));
            ctx.stop();
        }
    }

    #[actix::test]
    async fn a_stop_and_a_panic_are_both_reported() {
        let (seen, mut exits) = mpsc::channel(2);
        let parent = Parent(seen).start();
        for (id, panics, expected) in
            [(1, false, ExitReason::Failed("asked to".into())), (2, true, ExitReason::Panicked)]
        {
            let child = Child { link: Link::new(id, parent.clone().recipient()) }.start();
            child.do_send(Fall(panics));
            let exited = exits.recv().await.expect("the parent lives");
            assert_eq!((exited.id, exited.reason), (id, expected));
        }
    }
}
