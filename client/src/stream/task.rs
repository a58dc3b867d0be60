//! The task of a batched stream: it opens the stream, reads its answers, and watches the time of its callers.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Context;

use crate::peers::Channel;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use super::batches::{Batches, Lost, Outbound};
use crate::peers::PeerState;

/// The task of the last stream, aborted when this is dropped.
#[derive(Default)]
pub(super) struct Task(Mutex<Option<AbortHandle>>);

impl Task {
    /// Opens a stream, and reads its answers in a task. Must be called within a runtime.
    pub(super) fn start<B: Batches>(
        &self,
        batches: Arc<B>,
        run: u64,
        channel: Channel,
        peer: Arc<PeerState>,
    ) {
        let task = tokio::spawn(serve(batches, run, channel, peer)).abort_handle();
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

/// Runs one stream, from opening it to its end, of which every waiting caller is notified.
async fn serve<B: Batches>(batches: Arc<B>, run: u64, channel: Channel, peer: Arc<PeerState>) {
    let status = Status::unavailable("the client's runtime is shutting down");
    let mut end = End { batches: batches.clone(), run, lost: Lost::broken(status) };
    end.lost = tokio::select! {
        biased;
        lost = read_answers(&batches, run, channel, &peer) => lost,
        () = peer.superseded() => Lost::broken(Status::unavailable("another node leads by now")),
    };
}

/// Ends the batches of the stream, even if the task is dropped.
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

async fn read_answers<B: Batches>(
    batches: &Arc<B>,
    run: u64,
    channel: Channel,
    peer: &Arc<PeerState>,
) -> Lost {
    let sleep = Box::pin(sleep_until(Instant::now()));
    let mut timer = Timer { batches: &**batches, peer, sleep, set: None };
    let opening = B::open(channel, Outbound { batches: batches.clone(), run });
    let mut answers = match timer.during(opening).await {
        Ok(response) => {
            peer.note_headers(response.metadata());
            batches.opened(run, response.metadata());
            response.into_inner()
        }
        Err(status) => {
            peer.note_headers(status.metadata());
            return not_opened(status, peer);
        }
    };
    loop {
        let answer = match timer.during(answers.message()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                return Lost::broken(Status::unavailable("the server has ended the stream"));
            }
            Err(status) => return Lost::broken(status),
        };
        if let Err(reason) = batches.answer(answer, peer) {
            let reason = format!("the server has answered {reason}");
            return Lost::broken(Status::unavailable(reason));
        }
    }
}

/// Judges the status that came instead of a stream. Servers check the method and the caller's rights before
/// they read any request.
fn not_opened(status: Status, peer: &PeerState) -> Lost {
    let is_from_server = status.source().is_none();
    match status.code() {
        Code::Unimplemented if is_from_server => {
            peer.set_lacks_streams();
            Lost::NoStreams
        }
        Code::PermissionDenied | Code::Unauthenticated if is_from_server => {
            Lost::Broken { status: Arc::new(status), is_certain: true }
        }
        _ => Lost::broken(status),
    }
}

/// Wakes callers whose time is over: one timer for all callers of the stream.
struct Timer<'a, B: Batches> {
    batches: &'a B,
    peer: &'a Arc<PeerState>,
    sleep: Pin<Box<Sleep>>,
    set: Option<Instant>,
}

impl<B: Batches> Timer<'_, B> {
    /// Awaits `work`, and watches the time meanwhile.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.poll(context);
            work.as_mut().poll(context)
        })
        .await
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        while let Some(next) = self.batches.next_check(context) {
            // A timer that is set for an earlier time is left alone: it is set again once it fires.
            if self.set.is_none_or(|set| next < set) {
                self.set = Some(next);
                self.sleep.as_mut().reset(next);
            }
            if self.sleep.as_mut().poll(context).is_pending() {
                return;
            }
            self.set = None;
            if self.batches.expire(Instant::now()) {
                self.peer.suspect();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is certain that nothing was carried out on a stream which was refused so.
    fn is_certain(status: Status) -> bool {
        let peer = PeerState::alone();
        let lost = not_opened(status, &peer);
        assert!(peer.may_have_streams(), "{lost:?}");
        matches!(lost, Lost::Broken { is_certain: true, .. })
    }

    #[test]
    fn what_a_server_refuses_by_the_callers_rights_was_not_carried_out() {
        assert!(is_certain(Status::permission_denied("not you")));
        assert!(is_certain(Status::unauthenticated("who are you")));
        assert!(!is_certain(Status::unavailable("some proxy")));
        // What only looks like a server's answer.
        let broken = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unimplemented] {
            let mut status = Status::new(code, "made up here");
            status.set_source(Arc::new(broken()));
            assert!(!is_certain(status), "{code}");
        }
    }
}
