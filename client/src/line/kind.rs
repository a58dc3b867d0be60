use std::future::Future;

use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use tsoracle_core::{Epoch, Timestamp, TimestampRange};
use tsoracle_proto::MAX_TS_COUNT;
use tsoracle_proto::v1::seq_outcome::Outcome;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{
    GetSeqRequest, GetSeqResponse, GetTsRequest, GetTsResponse, SeqFailure, StreamSeqRequest,
    StreamSeqResponse,
};

use super::drive::Outbound;

/// What goes over a line: how the requests of many callers become one, and its answer theirs.
pub(crate) trait Kind: Sized + Send + Sync + 'static {
    /// What one caller asks for.
    type Entry: Send;
    /// What is sent for all of a batch.
    type Request: Send + 'static;
    /// What must be known of it to read the answer.
    type Sent: Send;
    /// What is answered.
    type Response: Send + 'static;
    /// The same, checked.
    type Answer: Send + Sync;
    /// What one caller gets.
    type Output: Send;

    /// How wide a batch may be, which bounds its callers as well.
    const MOST: u32;
    /// The most batches in flight.
    const MOST_IN_FLIGHT: usize;
    /// Behind what is in flight, a batch waits until it is as large as the one answered last was.
    const GATHERS: bool;

    fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;

    /// How much of a batch this takes.
    fn width(entry: &Self::Entry) -> u32;

    /// The request of a batch that is so wide. Callers who have left have no entry.
    fn gather(
        width: u32,
        entries: impl Iterator<Item = Option<Self::Entry>>,
    ) -> (Self::Request, Self::Sent);

    /// Checks an answer against what was sent.
    fn read(sent: Self::Sent, answer: Self::Response) -> Result<Self::Answer, String>;

    /// The epoch of an answer, for the kind whose callers do not read it.
    fn epoch(answer: &Self::Response) -> Option<Epoch>;

    /// What the caller whose part begins at `first` gets.
    fn pick(answer: &Self::Answer, first: u32) -> Self::Output;
}

/// So many timestamps for each caller, which gets the first of them.
#[derive(Debug)]
pub(crate) struct Timestamps;

impl Kind for Timestamps {
    type Entry = u32;
    type Request = GetTsRequest;
    type Sent = u32;
    type Response = GetTsResponse;
    type Answer = (TimestampRange, Epoch);
    type Output = (Timestamp, Epoch);

    const MOST: u32 = MAX_TS_COUNT;
    const MOST_IN_FLIGHT: usize = 4;
    const GATHERS: bool = false;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<GetTsResponse>>, Status> {
        TsoServiceClient::new(channel).stream_ts(outbound).await
    }

    fn width(&count: &u32) -> u32 {
        count
    }

    /// Whoever has left is counted as well: a timestamp is not missed.
    fn gather(width: u32, _: impl Iterator<Item = Option<u32>>) -> (GetTsRequest, u32) {
        (GetTsRequest { count: width }, width)
    }

    fn read(count: u32, answer: GetTsResponse) -> Result<Self::Answer, String> {
        if answer.count != count {
            return Err(format!("{} timestamps instead of {count}", answer.count));
        }
        let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
        Timestamp::from_parts(answer.physical_ms, answer.logical_start)
            .and_then(|first| TimestampRange::new(first, count))
            .map(|range| (range, epoch))
            .map_err(|error| error.to_string())
    }

    fn epoch(answer: &GetTsResponse) -> Option<Epoch> {
        Some(Epoch::from_parts(answer.epoch_hi, answer.epoch_lo))
    }

    fn pick((range, epoch): &Self::Answer, first: u32) -> Self::Output {
        (Timestamp::from_u64(range.first().as_u64() + u64::from(first)), *epoch)
    }
}

/// A sequence request of each caller.
#[derive(Debug)]
pub(crate) struct Sequences;

impl Kind for Sequences {
    type Entry = GetSeqRequest;
    type Request = StreamSeqRequest;
    /// The indices of the callers whose requests were sent, in order.
    type Sent = Vec<u32>;
    type Response = StreamSeqResponse;
    type Answer = (Vec<u32>, Vec<Outcome>);
    type Output = Result<GetSeqResponse, SeqFailure>;

    /// A commit of so many costs much more than its sync, so that larger messages would save nothing.
    /// Smaller ones than there are callers let the server commit one while the callers of another
    /// take their answers and ask again.
    const MOST: u32 = 256;
    const MOST_IN_FLIGHT: usize = 4;
    /// What a small commit costs does not depend much on how many share it, so few large ones are
    /// better than many small ones.
    const GATHERS: bool = true;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<StreamSeqResponse>>, Status> {
        TsoServiceClient::new(channel).stream_seq(outbound).await
    }

    fn width(_: &GetSeqRequest) -> u32 {
        1
    }

    /// Whoever has left spends no number.
    fn gather(
        _: u32,
        entries: impl Iterator<Item = Option<GetSeqRequest>>,
    ) -> (StreamSeqRequest, Vec<u32>) {
        let entries =
            entries.zip(0..).filter_map(|(entry, index)| entry.map(|entry| (entry, index)));
        let (requests, sent) = entries.unzip();
        (StreamSeqRequest { requests }, sent)
    }

    fn read(sent: Vec<u32>, answer: StreamSeqResponse) -> Result<Self::Answer, String> {
        let (asked, answered) = (sent.len(), answer.outcomes.len());
        let outcomes: Option<Vec<_>> =
            answer.outcomes.into_iter().map(|outcome| outcome.outcome).collect();
        match outcomes {
            Some(outcomes) if asked == answered => Ok((sent, outcomes)),
            _ => Err(format!("{answered} outcomes, or empty ones, to {asked} requests")),
        }
    }

    fn epoch(_: &StreamSeqResponse) -> Option<Epoch> {
        None
    }

    fn pick((sent, outcomes): &Self::Answer, first: u32) -> Self::Output {
        let outcome = sent.binary_search(&first).ok().and_then(|place| outcomes.get(place));
        match outcome {
            Some(Outcome::Granted(granted)) => Ok(granted.clone()),
            Some(Outcome::Failed(failed)) => Err(failed.clone()),
            // Only those who have left were not sent, and they do not ask.
            None => Err(SeqFailure::default()),
        }
    }
}
