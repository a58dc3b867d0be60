use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::peers::Channel;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};
use tsoracle_proto::metadata::{self, SEQ_RUNS};
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{StreamSeqRequest, StreamSeqResponse};

use super::batch::Entry;
use super::queue::{Place, Queue};
use crate::peers::PeerState;
use crate::session::Sessions;
use crate::stream::batches::{Batches, Lost, Outbound};
use crate::stream::task::Task;

/// A stream to one peer, opened when it is needed, and again after it has broken.
#[derive(Default)]
pub(crate) struct BatchedStream {
    pub(super) shared: Arc<Shared>,
    task: Task,
}

/// What opens the stream, if it is not open, and numbers its requests.
#[derive(Clone, Copy)]
pub(crate) struct StreamOpener<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) peer: &'a Arc<PeerState>,
    pub(crate) sessions: &'a Arc<Sessions>,
}

/// What callers, the stream's task and the transport share.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchedStream {
    /// Joins the next batch and wakes its sender. `None` if too many callers wait.
    pub(super) fn join(
        &self,
        opener: StreamOpener<'_>,
        entry: Entry,
        until: Instant,
        waker: &Waker,
    ) -> Option<Place> {
        let mut queue = self.shared.lock();
        let (place, wake) = queue.join(entry, until, waker)?;
        let run = (!queue.is_running).then(|| queue.begin(opener.sessions));
        drop(queue);
        wake.into_iter().flatten().for_each(Waker::wake);
        if let Some(run) = run {
            let (channel, peer) = (opener.channel.clone(), opener.peer.clone());
            self.task.start(self.shared.clone(), run, channel, peer);
        }
        Some(place)
    }
}

impl Batches for Shared {
    type Request = StreamSeqRequest;
    type Response = StreamSeqResponse;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<StreamSeqResponse>>, Status> {
        TsoServiceClient::new(channel).stream_seq(outbound).await
    }

    fn opened(&self, run: u64, headers: &MetadataMap) {
        if metadata::has_flag(headers, SEQ_RUNS) {
            self.lock().send_runs(run);
        }
    }

    fn poll_seal(&self, run: u64, context: &mut Context<'_>) -> Poll<Option<StreamSeqRequest>> {
        self.lock().poll_seal(run, context)
    }

    fn answer(&self, response: StreamSeqResponse, peer: &PeerState) -> Result<(), Arc<str>> {
        let answered = self.lock().answer(response);
        if let Some(epoch) = answered.epoch {
            peer.served(epoch);
        }
        answered.wake.into_iter().for_each(Waker::wake);
        answered.result
    }

    fn end(&self, run: u64, lost: &Lost) {
        let wake = self.lock().end(run, lost);
        wake.into_iter().for_each(Waker::wake);
    }

    fn next_check(&self, context: &Context<'_>) -> Option<Instant> {
        self.lock().next_check(context)
    }

    fn expire(&self, now: Instant) -> bool {
        let late = self.lock().expire(now);
        late.into_iter().for_each(Waker::wake);
        // Callers that wait for long suspect the peer by themselves.
        false
    }
}
