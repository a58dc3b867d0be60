//! A batched stream: its two sides, and the task that reads its answers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Batches, Lost};
use crate::pool::Learner;

/// What the transport takes requests from.
pub(super) struct Outbound<B> {
    batches: Arc<B>,
    run: u64,
}

impl<B: Batches> Stream for Outbound<B> {
    type Item = B::Request;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<B::Request>> {
        self.batches.poll_seal(self.run, context)
    }
}

/// The task of the last stream, which ends with this.
#[derive(Default)]
pub(super) struct Task(Mutex<Option<AbortHandle>>);

impl Task {
    /// Opens a stream, and reads its answers in a task. Must be called within a runtime.
    pub(super) fn start<B: Batches>(
        &self,
        batches: Arc<B>,
        run: u64,
        channel: Channel,
        learner: Learner,
    ) {
        let task = tokio::spawn(serve(batches, run, channel, learner)).abort_handle();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(task) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// Runs one stream, from opening it to its end, which everyone who waits is told.
async fn serve<B: Batches>(batches: Arc<B>, run: u64, channel: Channel, learner: Learner) {
    let status = Status::unavailable("the client's runtime is shutting down");
    let mut end = End { batches: batches.clone(), run, lost: broken(status) };
    end.lost = tokio::select! {
        biased;
        lost = converse(&batches, run, channel, &learner) => lost,
        () = learner.superseded() => broken(Status::unavailable("another node leads by now")),
    };
}

/// Tells the end, even if the task is dropped.
struct End<B: Batches> {
    batches: Arc<B>,
    run: u64,
    lost: Lost,
}

impl<B: Batches> Drop for End<B> {
    fn drop(&mut self) {
        self.batches.end(self.run, &self.lost);
    }
}

async fn converse<B: Batches>(
    batches: &Arc<B>,
    run: u64,
    channel: Channel,
    learner: &Learner,
) -> Lost {
    let mut alarm = Alarm {
        batches: &**batches,
        learner,
        sleep: Box::pin(sleep_until(Instant::now())),
        set: None,
    };
    let opening = B::open(channel, Outbound { batches: batches.clone(), run });
    let mut answers = match alarm.beside(opening).await {
        Ok(response) => {
            learner.heard(response.metadata());
            batches.opened(run, response.metadata());
            response.into_inner()
        }
        Err(status) => {
            learner.heard(status.metadata());
            return unopened(status, learner);
        }
    };
    loop {
        let answer = match alarm.beside(answers.message()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return broken(Status::unavailable("the server has ended the stream")),
            Err(status) => return broken(status),
        };
        if let Err(reason) = batches.answer(answer, learner) {
            return broken(Status::unavailable(format!("the server has answered {reason}")));
        }
    }
}

pub(super) fn broken(status: Status) -> Lost {
    Lost::Broken { status: Arc::new(status), is_certain: false }
}

/// What is said before there is a stream. The methods of a service, and who may use it, are checked
/// before any request is read.
fn unopened(status: Status, learner: &Learner) -> Lost {
    let is_theirs = std::error::Error::source(&status).is_none();
    match status.code() {
        Code::Unimplemented if is_theirs => {
            learner.has_no_streams();
            Lost::Unserved
        }
        Code::PermissionDenied | Code::Unauthenticated if is_theirs => {
            Lost::Broken { status: Arc::new(status), is_certain: true }
        }
        _ => broken(status),
    }
}

/// Wakes those whose time is over: one timer for everyone on the stream.
struct Alarm<'a, B: Batches> {
    batches: &'a B,
    learner: &'a Learner,
    sleep: Pin<Box<Sleep>>,
    set: Option<Instant>,
}

impl<B: Batches> Alarm<'_, B> {
    /// Does `work`, and watches the time meanwhile.
    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.poll(context);
            work.as_mut().poll(context)
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        while let Some(next) = self.batches.watch(context) {
            // A timer that is set for an earlier time is left alone: it is set again once it goes off.
            if self.set.is_none_or(|set| next < set) {
                self.set = Some(next);
                self.sleep.as_mut().reset(next);
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                return;
            }
            self.set = None;
            if self.batches.expire(Instant::now()) {
                self.learner.suspect();
            }
        }
    }
}
