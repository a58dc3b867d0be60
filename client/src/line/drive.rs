//! A line's stream: its two sides, and the task that reads its answers.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Kind, Lost, Shared};
use crate::pool::Learner;

/// What the transport takes requests from.
pub(crate) struct Outbound<K: Kind> {
    shared: Arc<Shared<K>>,
    run: u64,
}

impl<K: Kind> Stream for Outbound<K> {
    type Item = K::Request;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<K::Request>> {
        self.shared.lock().poll_seal(self.run, context)
    }
}

/// Runs one stream, from opening it to its end, which everyone who waits is told.
pub(super) async fn run<K: Kind>(
    shared: Arc<Shared<K>>,
    run: u64,
    channel: Channel,
    learner: Learner,
) {
    let status = Status::unavailable("the client's runtime is shutting down");
    let mut end = End { shared: shared.clone(), run, lost: broken(status) };
    end.lost = tokio::select! {
        biased;
        lost = converse(&shared, run, channel, &learner) => lost,
        () = learner.superseded() => broken(Status::unavailable("another node leads by now")),
    };
}

/// Tells the end, even if the task is dropped.
struct End<K: Kind> {
    shared: Arc<Shared<K>>,
    run: u64,
    lost: Lost,
}

impl<K: Kind> Drop for End<K> {
    fn drop(&mut self) {
        let wake = self.shared.lock().end(self.run, &self.lost);
        wake.into_iter().for_each(Waker::wake);
    }
}

async fn converse<K: Kind>(
    shared: &Arc<Shared<K>>,
    run: u64,
    channel: Channel,
    learner: &Learner,
) -> Lost {
    let mut alarm = Alarm { shared, sleep: Box::pin(sleep_until(Instant::now())), set: None };
    let opening = K::open(channel, Outbound { shared: shared.clone(), run });
    let mut answers = match alarm.beside(opening).await {
        Ok(response) => {
            learner.heard(response.metadata());
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
        let epoch = K::epoch(&answer);
        let (wake, result) = shared.lock().answer(answer);
        if let (Some(epoch), Ok(())) = (epoch, &result) {
            learner.served(epoch);
        }
        wake.into_iter().for_each(Waker::wake);
        if let Err(why) = result {
            return broken(Status::unavailable(format!("the server has answered {why}")));
        }
    }
}

fn broken(status: Status) -> Lost {
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

/// Wakes those whose time is over: one timer for everyone on the line.
struct Alarm<'a, K: Kind> {
    shared: &'a Shared<K>,
    sleep: Pin<Box<Sleep>>,
    set: Option<Instant>,
}

impl<K: Kind> Alarm<'_, K> {
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
        while let Some(earliest) = { self.shared.lock().watch(context) } {
            if self.set != Some(earliest) {
                self.set = Some(earliest);
                self.sleep.as_mut().reset(earliest);
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                return;
            }
            self.set = None;
            let late = self.shared.lock().expire(Instant::now());
            late.into_iter().for_each(Waker::wake);
        }
    }
}
