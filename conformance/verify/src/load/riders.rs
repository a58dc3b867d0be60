use std::sync::Arc;

use tsoracle_client::{Client, Error, ErrorKind};
use tsoracle_types::SeqBlock;

use super::{
    caller::{Caller, any_count, choice},
    judge,
};
use tsoracle_history::{Ask, Block, Blocks, Call, Next, Outcome, Timestamps};

/// How many requests of its own id a caller makes: each is a session that the server must keep.
const MAX_NAMED: usize = 16;

impl Caller {
    /// Calls through our client, which finds the leader, retries, and makes callers share messages.
    pub(super) async fn ride(&mut self, client: Client) {
        let client = client.with_timeout(self.timeout);
        let name = self.name("client", "any");
        let mut named = 0;
        while self.goes_on() {
            let Some(start_ns) = self.log.begin() else { return };
            let call = match choice() {
                0..5 => timestamps(&client).await,
                5..7 => {
                    let ask = self.keys.any();
                    let answer = client.get_seq(&ask.key, ask.count).await;
                    blocks(vec![ask], None, answer.map(|block| vec![block]))
                }
                7 => {
                    let ask = self.keys.batch.to_vec();
                    let entries: Vec<_> = ask.iter().map(|ask| (&*ask.key, ask.count)).collect();
                    let answer = client.get_seq_batch(&entries).await;
                    blocks(ask, None, answer)
                }
                8 if self.offers.ids && named < MAX_NAMED => {
                    // Each id twice: the second time it is the same block.
                    named += 1;
                    let ask = self.keys.single[named / 2 % self.keys.single.len()].clone();
                    let id = format!("{}#{}#{}", ask.key, self.number, named / 2);
                    let answer = client.get_seq_as(&id, &ask.key, ask.count).await;
                    blocks(vec![ask], Some(&id), answer.map(|block| vec![block]))
                }
                _ if self.offers.reads => read(&client, self.keys.any().key).await,
                _ => timestamps(&client).await,
            };
            self.log.end(&name, start_ns, call);
        }
    }
}

async fn timestamps(client: &Client) -> Call {
    let count = any_count();
    let range = if count == 1 {
        client.get_ts().await.map(|first| (first, 1))
    } else {
        client.get_ts_batch(count).await.map(|range| (range.first(), range.count()))
    };
    let outcome = match range {
        Ok((first, count)) => Outcome::Answered(Timestamps {
            physical_ms: first.physical_ms(),
            logical: first.logical(),
            count,
            epoch: None,
        }),
        Err(error) => judge::reported(error.kind()),
    };
    Call::GetTs { count, outcome }
}

fn blocks(ask: Vec<Ask>, id: Option<&str>, answer: Result<Vec<SeqBlock>, Error>) -> Call {
    let outcome = match answer {
        Ok(blocks) => {
            let block = |block: SeqBlock| Block {
                key: block.key.as_str().into(),
                start: block.start,
                count: block.count,
            };
            let blocks = blocks.into_iter().map(block).collect();
            Outcome::Answered(Blocks { blocks, epoch: None })
        }
        Err(error) => judge::reported(error.kind()),
    };
    Call::GetSeq { ask, request_id: id.map(Into::into), outcome }
}

async fn read(client: &Client, key: Arc<str>) -> Call {
    let outcome = match client.read_seq(&key).await {
        Ok(next) => Outcome::Answered(Next { next, epoch: None }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Outcome::Answered(Next { next: 0, epoch: None })
        }
        Err(error) => judge::reported(error.kind()),
    };
    Call::ReadSeq { key, outcome }
}
