//! A queue as the stream's task and the transport see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use crate::peers::Channel;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};
use tsoracle_proto::MAX_TS_COUNT;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{GetTsRequest, GetTsResponse};
use tsoracle_types::{Epoch, Timestamp, TimestampRange};

use super::answers::Answer;
use super::flight::{MAX_IN_FLIGHT, Sealed};
use super::queue::{Queue, TICK};
use crate::peers::{PeerState, SUSPECT_AFTER};
use crate::stream::batches::{Batches, Lost, Outbound};

/// The most callers that share one batch after another. More are split in two batches, of which one is under
/// way while the callers of the other take their answers and ask again.
const SPLIT_ABOVE: usize = 512;

impl Batches for Queue {
    type Request = GetTsRequest;
    type Response = GetTsResponse;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<GetTsResponse>>, Status> {
        TsoServiceClient::new(channel).stream_ts(outbound).await
    }

    fn poll_seal(&self, run: u64, context: &mut Context<'_>) -> Poll<Option<GetTsRequest>> {
        let mut flight = self.lock();
        if flight.run != run || !flight.is_running {
            return Poll::Ready(None);
        }
        if flight.sealed.len() >= MAX_IN_FLIGHT {
            flight.outbound = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Before it is checked whether callers wait, so that later ones see it.
        self.is_idle.store(true, Ordering::Relaxed);
        let queued = self.queued();
        if queued == 0 {
            flight.outbound = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.is_idle.store(false, Ordering::Relaxed);
        // The callers that were woken by the last answer are about to ask again. They may run first for as long as
        // each pass of the scheduler brings more, so that they share a batch; no caller waits for them.
        let expected = match self.in_flight.load(Ordering::Relaxed) {
            0 if flight.last_size > SPLIT_ABOVE => flight.last_size / 2,
            0 => flight.last_size,
            in_flight => in_flight,
        };
        if queued < expected && queued > flight.put_off_at {
            flight.put_off_at = queued;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        flight.put_off_at = 0;
        Poll::Ready(Some(self.seal(&mut flight)))
    }

    fn answer(&self, answer: GetTsResponse, peer: &PeerState) -> Result<(), Arc<str>> {
        let now = Instant::now();
        let mut flight = self.lock();
        let Some(sealed) = flight.sealed.pop_front() else {
            return Err("an answer without a request".into());
        };
        flight.silent_since = now;
        flight.last_size = sealed.callers();
        self.in_flight.fetch_sub(flight.last_size, Ordering::Relaxed);
        if flight.next_tick.is_some() {
            self.clock.store(self.millis(now), Ordering::Relaxed);
        }
        let read = read(sealed.width, &answer);
        let outcome = match &read {
            Ok((range, epoch)) => {
                peer.served(*epoch);
                Ok(range.first().as_u64())
            }
            Err(reason) => Err(flight.lose(Lost::Malformed(reason.clone()))),
        };
        let mut offset = 0;
        for (shard, part) in &sealed.parts {
            let answer = match outcome {
                Ok(first) => Answer::First(first + u64::from(offset)),
                Err(loss) => Answer::Lost(loss),
            };
            self.shards[*shard].answers.write(part.number, answer);
            offset += part.width;
        }
        // An idle transport is woken by a caller.
        let outbound = match self.is_idle.load(Ordering::Relaxed) {
            true => None,
            false => flight.outbound.take(),
        };
        drop(flight);
        self.wake(sealed);
        outbound.into_iter().for_each(Waker::wake);
        read.map(drop)
    }

    fn end(&self, run: u64, lost: &Lost) {
        let mut flight = self.lock();
        if flight.run != run || !flight.is_running {
            return;
        }
        flight.is_running = false;
        let loss = flight.lose(lost.clone());
        let mut ended: Vec<_> = flight.sealed.drain(..).collect();
        let mut rest = Sealed { parts: vec![], width: 0 };
        for (index, shard) in self.shards.iter().enumerate() {
            let mut queued = shard.lock();
            queued.is_open = false;
            while let Some(part) = queued.take(MAX_TS_COUNT, &mut flight.spare) {
                rest.parts.push((index, part));
            }
        }
        ended.push(rest);
        for (shard, part) in ended.iter().flat_map(|sealed| &sealed.parts) {
            self.shards[*shard].answers.write(part.number, Answer::Lost(loss));
        }
        self.in_flight.store(0, Ordering::Relaxed);
        self.is_idle.store(false, Ordering::Relaxed);
        self.clock.store(0, Ordering::Relaxed);
        (flight.next_tick, flight.task, flight.last_size) = (None, None, 0);
        let (outbound, held) = (flight.outbound.take(), flight.held.take());
        drop(flight);
        drop(held);
        ended.into_iter().for_each(|sealed| self.wake(sealed));
        outbound.into_iter().for_each(Waker::wake);
    }

    fn next_check(&self, context: &Context<'_>) -> Option<Instant> {
        let mut flight = self.lock();
        match &mut flight.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        flight.next_tick
    }

    fn expire(&self, now: Instant) -> bool {
        let mut flight = self.lock();
        let now_ms = self.millis(now);
        // Before it is checked whether callers wait, so that later ones start it again.
        self.clock.store(0, Ordering::Relaxed);
        let (mut late, mut waiting) = (Vec::new(), 0);
        for shard in &self.shards {
            let mut queued = shard.lock();
            waiting += queued.len();
            queued.parts().for_each(|part| part.expire(now_ms, &mut late));
        }
        for (_, part) in flight.sealed.iter_mut().flat_map(|sealed| &mut sealed.parts) {
            waiting += part.live();
            part.expire(now_ms, &mut late);
        }
        flight.next_tick = (waiting > 0).then(|| now + TICK);
        let is_silent =
            waiting > 0 && now.saturating_duration_since(flight.silent_since) >= SUSPECT_AFTER;
        if is_silent {
            flight.silent_since = now;
        }
        let mut held = None;
        match waiting {
            0 => held = flight.held.take(),
            _ => self.clock.store(now_ms, Ordering::Relaxed),
        }
        drop(flight);
        drop(held);
        late.into_iter().for_each(Waker::wake);
        is_silent
    }
}

/// Checks an answer against the count that was requested.
fn read(count: u32, answer: &GetTsResponse) -> Result<(TimestampRange, Epoch), Arc<str>> {
    if answer.count != count {
        return Err(format!("{} timestamps instead of {count}", answer.count).into());
    }
    let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
    Timestamp::from_parts(answer.physical_ms, answer.logical_start)
        .and_then(|first| TimestampRange::new(first, count))
        .map(|range| (range, epoch))
        .map_err(|error| error.to_string().into())
}
