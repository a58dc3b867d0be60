use std::{collections::VecDeque, sync::Arc};

use futures::channel::mpsc::{UnboundedSender, unbounded};
use rand::Rng;
use tonic::{Status, Streaming};
use tsoracle_proto::v1::{
    self, seq_outcome::Outcome as Became, tso_service_client::TsoServiceClient,
};

use super::{
    caller::{Caller, any_count},
    calls, judge,
};
use tsoracle_history::{Ask, Blocks, Call, Outcome};

use crate::node::Channel;

/// How many messages wait for their answers at a time.
const IN_FLIGHT: usize = 4;

/// Messages that were sent: when, and what they ask.
type Sent<Q> = VecDeque<(u64, Q)>;

impl Caller {
    /// Asks for timestamps on one stream, several messages ahead.
    pub(super) async fn stream_ts(&mut self, channel: Channel, node: String) {
        let mut at = (channel, node);
        while self.goes_on() {
            let name = self.name("StreamTs", &at.1);
            let mut sent = Sent::new();
            let ended = self.one_stream_ts(&at.0, &name, &mut sent).await;
            let Err(status) = ended else { return };
            for (start_ns, count) in sent {
                let outcome = judge::failed(&status);
                self.log.end(&name, start_ns, Call::GetTs { count, outcome });
            }
            at = self.next_node(&at.1).await;
        }
    }

    async fn one_stream_ts(
        &mut self,
        channel: &Channel,
        name: &Arc<str>,
        sent: &mut Sent<u32>,
    ) -> Result<(), Status> {
        let (requests, receiver) = unbounded();
        let mut tso = TsoServiceClient::new(channel.clone());
        let mut answers = tso.stream_ts(receiver).await?.into_inner();
        loop {
            while sent.len() < IN_FLIGHT && self.goes_on() {
                let Some(start_ns) = self.log.begin() else { break };
                let count = any_count();
                sent.push_back((start_ns, count));
                send(&requests, v1::GetTsRequest { count })?;
            }
            let Some((start_ns, count)) = sent.front().copied() else { return Ok(()) };
            let answer = next(&mut answers).await?;
            sent.pop_front();
            let outcome = Outcome::Answered(calls::timestamps(&answer));
            self.log.end(name, start_ns, Call::GetTs { count, outcome });
        }
    }

    /// Asks for sequence values on one stream, several messages ahead and several keys in each.
    pub(super) async fn stream_seq(&mut self, channel: Channel, node: String) {
        let mut at = (channel, node);
        while self.goes_on() {
            let name = self.name("StreamSeq", &at.1);
            let mut sent = Sent::new();
            let ended = self.one_stream_seq(&at.0, &name, &mut sent).await;
            let Err(status) = ended else { return };
            // Whatever ended the stream may say so of the last message only.
            let (why, _) = judge::reason(&status);
            for (start_ns, asks) in sent {
                for ask in asks {
                    self.ended(&name, (start_ns, ask), Outcome::Uncertain(why.clone()));
                }
            }
            at = self.next_node(&at.1).await;
        }
    }

    async fn one_stream_seq(
        &mut self,
        channel: &Channel,
        name: &Arc<str>,
        sent: &mut Sent<Vec<Ask>>,
    ) -> Result<(), Status> {
        let (requests, receiver) = unbounded();
        let mut tso = TsoServiceClient::new(channel.clone());
        let mut answers = tso.stream_seq(receiver).await?.into_inner();
        loop {
            while sent.len() < IN_FLIGHT && self.goes_on() {
                let Some((start_ns, asks)) = self.message() else { break };
                let requests_of = asks.iter().map(|ask| v1::GetSeqRequest {
                    key: ask.key.to_string(),
                    count: ask.count,
                    request_id: None,
                });
                let message = v1::StreamSeqRequest { requests: requests_of.collect(), run: None };
                sent.push_back((start_ns, asks));
                send(&requests, message)?;
            }
            if sent.is_empty() {
                return Ok(());
            }
            let answer = next(&mut answers).await?;
            let Some((start_ns, asks)) = sent.pop_front() else { return Ok(()) };
            let mut outcomes = answer.outcomes.into_iter();
            for ask in asks {
                let outcome = match outcomes.next().and_then(|outcome| outcome.outcome) {
                    Some(Became::Granted(granted)) => Outcome::Answered(calls::block(granted)),
                    Some(Became::Failed(failure)) => judge::refused(&failure),
                    None => Outcome::Uncertain("no outcome".into()),
                };
                self.ended(name, (start_ns, ask), outcome);
            }
        }
    }

    /// What to ask in one message, if that many operations may still begin.
    fn message(&mut self) -> Option<(u64, Vec<Ask>)> {
        let entries = rand::rng().random_range(1..=4);
        let mut first_ns = None;
        let mut asks = Vec::new();
        for _ in 0..entries {
            let Some(start_ns) = self.log.begin() else { break };
            first_ns.get_or_insert(start_ns);
            asks.push(self.keys.any());
        }
        Some((first_ns?, asks))
    }

    fn ended(&mut self, name: &Arc<str>, (start_ns, ask): (u64, Ask), outcome: Outcome<Blocks>) {
        let call = Call::GetSeq { ask: vec![ask], request_id: None, outcome };
        self.log.end(name, start_ns, call);
    }
}

fn send<Q>(requests: &UnboundedSender<Q>, message: Q) -> Result<(), Status> {
    requests.unbounded_send(message).map_err(|_| lost())
}

async fn next<A>(answers: &mut Streaming<A>) -> Result<A, Status> {
    answers.message().await?.ok_or_else(lost)
}

/// The stream ended although messages wait for answers.
fn lost() -> Status {
    Status::unknown("the stream ended without a status")
}
