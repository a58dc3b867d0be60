//! The calls of a connection, carried out by the task that serves it.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    task::Poll,
};

use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use hyper::rt::Executor;
use tokio::sync::mpsc;

/// After so many calls were answered, what there is goes out: a client that asks again has its next requests here
/// while the rest is answered.
const ANSWERED_AT_ONCE: usize = 16;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The calls under way on one connection.
///
/// A task for each of them would write its answer alone, and would have to be woken: calls that are answered by the
/// same commit are answered in one write.
pub(crate) struct Calls {
    arrived: mpsc::UnboundedReceiver<Call>,
    under_way: FuturesUnordered<Call>,
}

/// Where the connection puts calls that have come.
#[derive(Clone)]
pub(crate) struct Arrivals(mpsc::UnboundedSender<Call>);

impl Calls {
    pub(crate) fn new() -> (Self, Arrivals) {
        let (arrivals, arrived) = mpsc::unbounded_channel();
        (Self { arrived, under_way: FuturesUnordered::new() }, Arrivals(arrivals))
    }

    /// Awaits the end of the connection, and carries out its calls meanwhile. Those that are left then are dropped.
    pub(crate) async fn carried_out<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
    ) -> C::Output {
        poll_fn(|context| {
            loop {
                let mut answered = 0;
                while answered < ANSWERED_AT_ONCE
                    && let Poll::Ready(Some(())) = self.under_way.poll_next_unpin(context)
                {
                    answered += 1;
                }
                // Writes the answers, and reads what has come.
                if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                    return Poll::Ready(ended);
                }
                let before = self.under_way.len();
                while let Ok(call) = self.arrived.try_recv() {
                    self.under_way.push(call);
                }
                if answered < ANSWERED_AT_ONCE && self.under_way.len() == before {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Arrivals {
    fn execute(&self, call: F) {
        // A panic ends the call, and not the others of its connection.
        let call = AssertUnwindSafe(call).catch_unwind().map(drop);
        // There is no call once the connection has ended.
        let _ = self.0.send(Box::pin(call));
    }
}
