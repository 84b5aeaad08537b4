//! Waits for a publisher on behalf of a request that needs one: a playlist of a stream that must be fetched first.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::source::{Deliver, Listen, Refusal, Source, next_subscriber};
use crate::actors::support::route::Route;

/// Listens until there is something to hear. To be called on an arbiter.
///
/// Err: there is nothing to be had, and why where that is known.
pub async fn published(source: &Source, patience: Duration) -> Result<(), Option<Arc<Refusal>>> {
    let (answer, answered) = oneshot::channel();
    let subscriber = next_subscriber();
    let waiter = Waiter { answer: Some(answer), leaves: Leaves { source: source.clone(), subscriber } };
    let to = Waiter::create(|ctx| {
        ctx.run_later(patience, |_, ctx| ctx.stop());
        waiter
    });
    source.to.do_send(Listen::Join { subscriber, to: to.recipient(), wants: Some(Route::default()) });
    source.to.do_send(Listen::CatchUp { subscriber, listener: subscriber });
    answered.await.unwrap_or(Err(None))
}

struct Waiter {
    answer: Option<oneshot::Sender<Result<(), Option<Arc<Refusal>>>>>,
    leaves: Leaves,
}

/// Leaves the stream by being dropped.
struct Leaves {
    source: Source,
    subscriber: u64,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        // Once for each that waits.
        self.source.to.do_send(Listen::Leave { subscriber: self.subscriber });
    }
}

impl Actor for Waiter {
    type Context = Context<Self>;
}

impl Handler<Deliver> for Waiter {
    type Result = ();

    fn handle(&mut self, message: Deliver, ctx: &mut Self::Context) {
        let outcome = match message {
            Deliver::Begin { listener, .. } if listener.is_none_or(|listener| listener == self.leaves.subscriber) => {
                Ok(())
            }
            Deliver::TurnedAway(refusal) => Err(Some(refusal)),
            Deliver::Begin { .. } | Deliver::Media { .. } | Deliver::End => return,
        };
        if let Some(answer) = self.answer.take() {
            // Who asked may have gone.
            let _ = answer.send(outcome);
        }
        ctx.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    struct Stream(mpsc::Sender<Listen>);
    impl Actor for Stream {
        type Context = Context<Self>;
    }
    impl Handler<Listen> for Stream {
        type Result = ();
        fn handle(&mut self, message: Listen, _: &mut Self::Context) {
            self.0.try_send(message).expect("the test reads what it causes");
        }
    }

    fn source() -> (Source, mpsc::Receiver<Listen>) {
        let (to, asked) = mpsc::channel(10);
        (Source { id: 1, to: Stream(to).start().recipient(), counters: Arc::default() }, asked)
    }

    async fn joined(asked: &mut mpsc::Receiver<Listen>) -> Recipient<Deliver> {
        let Some(Listen::Join { to, wants: Some(_), .. }) = asked.recv().await else { panic!("it wants the stream") };
        assert!(matches!(asked.recv().await, Some(Listen::CatchUp { .. })));
        to
    }

    #[actix::test]
    async fn it_hears_of_the_publisher_or_that_there_is_none_and_leaves() {
        let refusal = Arc::new(Refusal { code: "NetStream.Play.StreamNotFound", reason: "nobody has it".to_owned() });
        let told = [
            (Deliver::Begin { listener: None, burst: Arc::new([]) }, Ok(())),
            (Deliver::TurnedAway(Arc::clone(&refusal)), Err(Some(refusal))),
        ];
        for (told, expected) in told {
            let (source, mut asked) = source();
            let waiting = actix::spawn(async move { published(&source, Duration::from_secs(10)).await });
            joined(&mut asked).await.do_send(told);
            assert_eq!(waiting.await.expect("it does not panic"), expected);
            assert!(matches!(asked.recv().await, Some(Listen::Leave { .. })));
        }
    }

    #[actix::test]
    async fn its_patience_ends() {
        tokio::time::pause();
        let (source, mut asked) = source();
        assert_eq!(published(&source, Duration::from_secs(10)).await, Err(None));
        joined(&mut asked).await;
        assert!(matches!(asked.recv().await, Some(Listen::Leave { .. })));
    }
}
