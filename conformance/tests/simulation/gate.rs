//! Pausing and killing a node: everything it does passes here.

use std::{
    fmt,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::time::Instant;

/// Goes through only while its node runs. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Until when the node is paused, if it is, and since when.
    paused: Option<(Instant, Instant)>,
    dead: bool,
    waiting: Vec<Waker>,
    /// What was interrupted by the pause, and goes on before anything else.
    interrupted: Vec<Box<dyn FnOnce() + Send>>,
}

impl Gate {
    /// Polls `work` only while the node runs. Nothing of a dead node is ever done again.
    pub(crate) async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            ready!(self.poll_open(context));
            work.as_mut().poll(context)
        })
        .await
    }

    fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.dead {
            return Poll::Pending;
        }
        if state.paused.is_some() {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Pauses the node until then, or longer if it is paused for longer already.
    pub(crate) fn pause(&self, until: Instant) {
        let mut state = self.0.lock().unwrap();
        let (since, before) = state.paused.unwrap_or((Instant::now(), until));
        state.paused = Some((since, until.max(before)));
    }

    /// Ends the pause that there is, to be resumed at once.
    pub(crate) fn end_pause(&self) {
        if let Some((_, until)) = &mut self.0.lock().unwrap().paused {
            *until = Instant::now();
        }
    }

    /// Has `rest` done at the very moment the node goes on.
    pub(crate) fn interrupt(&self, rest: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap().interrupted.push(Box::new(rest));
    }

    /// Lets the node go on if its pause is over, and passes on how long it was.
    pub(crate) fn resume(&self, then: impl FnOnce(Duration)) {
        let (since, waiting, interrupted) = {
            let mut state = self.0.lock().unwrap();
            let now = Instant::now();
            match state.paused {
                Some((since, until)) if until <= now && !state.dead => {
                    state.paused = None;
                    let waiting = std::mem::take(&mut state.waiting);
                    (since, waiting, std::mem::take(&mut state.interrupted))
                }
                _ => return,
            }
        };
        then(since.elapsed());
        interrupted.into_iter().for_each(|rest| rest());
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn kill(&self) {
        let mut state = self.0.lock().unwrap();
        state.dead = true;
        let dropped = std::mem::take(&mut state.interrupted);
        drop(state);
        drop(dropped);
    }
}

impl tsoracle_replica::Gate for Gate {
    fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_open(context)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
