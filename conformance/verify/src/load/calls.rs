use rand::Rng;
use tonic::{Code, Response, Status};
use tsoracle_proto::{
    SESSION_BYTES,
    v1::{
        self, sequence_service_client::SequenceServiceClient, tso_service_client::TsoServiceClient,
    },
};
use tsoracle_types::Epoch;

use super::{
    MAX_OPERATIONS,
    caller::{Caller, Keys, Offers, any_count, choice, is_rare},
    judge,
    log::Log,
};
use tsoracle_history::{Ask, Block, Blocks, Call, Next, Outcome, Timestamps};

use crate::{node::Channel, probe::Probe, wire::ids};

/// How often a request in doubt is sent again under its id.
const MAX_RETRIES: usize = 20;

/// How many requests of each caller have a name: the state keeps each for a month.
const MAX_NAMED: u32 = 50;

/// The requests of one session, one at a time.
struct Session {
    id: [u8; SESSION_BYTES],
    number: u64,
    /// It was answered, so that the state knows it.
    is_known: bool,
    /// How many requests may have a name of their own yet.
    names_left: u32,
}

impl Session {
    fn open() -> Self {
        Self { id: rand::random(), number: 0, is_known: false, names_left: MAX_NAMED }
    }

    fn request_id(&self, retry: bool) -> v1::RequestId {
        let (session, number) = (self.id.to_vec().into(), self.number);
        let first_incomplete = if self.is_known { number } else { 1 };
        v1::RequestId { session, number, first_incomplete, retry, ..Default::default() }
    }

    fn name(&self) -> String {
        format!("{:032x}/{}", u128::from_be_bytes(self.id), self.number)
    }
}

impl Caller {
    /// Calls one by one, over a connection of its own for as long as that node leads.
    pub(super) async fn call(&mut self, channel: Channel, node: String) {
        let mut at = (channel, node);
        let (mut session, mut own) = (Session::open(), self.keys.own());
        while self.goes_on() {
            let failed = match choice() {
                0..5 => self.timestamps(&at).await,
                5 if self.offers.names && session.names_left > 0 && is_rare() => {
                    session.names_left -= 1;
                    self.by_name(&mut at, &session).await
                }
                5..7 if self.offers.ids => {
                    session.number += 1;
                    let id = |is_retry| (session.request_id(is_retry), session.name());
                    let failed = self.exactly_once(&mut at, id).await;
                    session.is_known |= !failed;
                    failed
                }
                7..9 => self.batch(&at).await,
                9 if self.offers.deletions && is_rare() => self.delete(&mut own, &at).await,
                9 if self.offers.reads => self.read(&at).await,
                _ => {
                    let ask = vec![self.keys.any()];
                    self.sequence(&at, ask, None).await
                }
            };
            if failed {
                at = self.next_node(&at.1).await;
            }
        }
    }

    async fn timestamps(&mut self, (channel, node): &(Channel, String)) -> bool {
        let count = any_count();
        let mut tso = TsoServiceClient::new(channel.clone());
        let Some(start_ns) = self.log.begin() else { return false };
        let answer = tso.get_ts(v1::GetTsRequest { count }).await;
        let outcome = match &answer {
            Ok(answer) => Outcome::Answered(timestamps(answer.get_ref())),
            Err(status) => judge::failed(status),
        };
        self.log.end(&self.name("calls", node), start_ns, Call::GetTs { count, outcome });
        answer.is_err()
    }

    async fn batch(&mut self, at: &(Channel, String)) -> bool {
        let ask = self.keys.batch.to_vec();
        self.sequence(at, ask, None).await
    }

    /// Sends one request until there is a definite answer, and once more after that.
    async fn exactly_once(
        &mut self,
        at: &mut (Channel, String),
        id: impl Fn(bool) -> (v1::RequestId, String),
    ) -> bool {
        let ask = vec![self.keys.any()];
        let mut failed = false;
        for attempt in 0..MAX_RETRIES {
            let request_id = Some(id(attempt > 0));
            let before = self.log.operations.len();
            failed = self.sequence(at, ask.clone(), request_id).await;
            let is_open = self.log.operations[before..]
                .iter()
                .any(|one| matches!(one.call, Call::GetSeq { outcome: Outcome::Uncertain(_), .. }));
            let is_repeated = attempt > 0 || rand::rng().random_ratio(3, 4);
            if !is_open && (failed || is_repeated) {
                break;
            }
            if failed {
                *at = self.next_node(&at.1).await;
            }
        }
        failed
    }

    async fn by_name(&mut self, at: &mut (Channel, String), session: &Session) -> bool {
        let name = format!("{}, named {}", session.name(), session.names_left);
        self.exactly_once(at, |_| (ids::named(&name), name.clone())).await
    }

    /// Takes values of a key that no other caller uses, and deletes it. One whose deletion is in doubt is not used any more.
    async fn delete(&mut self, own: &mut Ask, at: &(Channel, String)) -> bool {
        let taken = choice() % 3;
        for _ in 0..taken {
            if self.sequence(at, vec![own.clone()], None).await {
                return true;
            }
        }
        let (channel, node) = at;
        let mut sequences = SequenceServiceClient::new(channel.clone());
        let Some(start_ns) = self.log.begin() else { return false };
        let request = v1::DeleteSeqRequest { key: own.key.to_string() };
        let answer = sequences.delete_seq(request).await;
        let key = own.key.clone();
        let call = match answer {
            // Nothing was deleted, and the key was found unused.
            Err(status) if status.code() == Code::NotFound => {
                let outcome = Outcome::Answered(Next { next: 0, epoch: None });
                Call::ReadSeq { key, outcome }
            }
            Err(status) => Call::DeleteSeq { key, outcome: judge::failed(&status) },
            Ok(answer) => {
                let v1::DeleteSeqResponse { next, epoch, .. } = answer.into_inner();
                let epoch = epoch.map(|epoch| Epoch::from_parts(epoch.hi, epoch.lo));
                Call::DeleteSeq { key, outcome: Outcome::Answered(Next { next, epoch }) }
            }
        };
        let is_in_doubt = matches!(call, Call::DeleteSeq { outcome: Outcome::Uncertain(_), .. });
        let failed = matches!(
            call,
            Call::DeleteSeq { outcome: Outcome::Uncertain(_) | Outcome::Refused(_), .. }
        );
        self.log.end(&self.name("calls", node), start_ns, call);
        if is_in_doubt {
            *own = self.keys.own();
        }
        failed
    }

    async fn sequence(
        &mut self,
        (channel, node): &(Channel, String),
        ask: Vec<Ask>,
        id: Option<(v1::RequestId, String)>,
    ) -> bool {
        let mut tso = TsoServiceClient::new(channel.clone());
        let (request_id, id) = id.unzip();
        let Some(start_ns) = self.log.begin() else { return false };
        let answer = sequence(&mut tso, &ask, request_id).await;
        let failed = answer.is_err();
        let outcome = answer.map_or_else(|status| judge::failed(&status), Outcome::Answered);
        let request_id = id.map(Into::into);
        let call = Call::GetSeq { ask, request_id, outcome };
        self.log.end(&self.name("calls", node), start_ns, call);
        failed
    }

    async fn read(&mut self, (channel, node): &(Channel, String)) -> bool {
        let key = self.keys.any().key;
        let request = v1::ReadSeqRequest { key: key.to_string() };
        let mut sequences = SequenceServiceClient::new(channel.clone());
        let Some(start_ns) = self.log.begin() else { return false };
        let outcome = read(sequences.read_seq(request).await);
        let failed = !matches!(outcome, Outcome::Answered(_));
        self.log.end(&self.name("calls", node), start_ns, Call::ReadSeq { key, outcome });
        failed
    }
}

/// One more block of each key, and a read, so that whatever was granted before shows; and before
/// that, a request that must be refused, so that what refusals spend shows in any deployment.
pub(super) async fn look_at_each_key(probe: &Probe, keys: &Keys, offers: Offers) -> Log {
    let mut log = Log::new(std::sync::Arc::new(MAX_OPERATIONS.into()));
    let name = "afterwards".into();
    for ask in keys.single.iter().chain(&*keys.batch) {
        let ask = vec![ask.clone()];
        let Some(start_ns) = log.begin() else { continue };
        let outcome = refused(probe, &ask[0]).await;
        log.end(&name, start_ns, Call::GetSeq { ask: ask.clone(), request_id: None, outcome });
        let Some(start_ns) = log.begin() else { continue };
        let answer = probe.get_seq(&ask[0].key, ask[0].count).await;
        let outcome = match answer {
            Ok(answer) => Outcome::Answered(block(answer)),
            Err(status) => judge::failed(&status),
        };
        let key = ask[0].key.clone();
        log.end(&name, start_ns, Call::GetSeq { ask, request_id: None, outcome });
        if offers.reads {
            let Some(start_ns) = log.begin() else { continue };
            let answer = crate::wire::listing::read(probe, &key).await;
            let outcome = read(answer.map(Response::new));
            log.end(&name, start_ns, Call::ReadSeq { key, outcome });
        }
    }
    log
}

/// Asks for values in a batch whose other entry is invalid.
async fn refused(probe: &Probe, ask: &Ask) -> Outcome<Blocks> {
    let entries = [(&*ask.key, ask.count), (&probe.key(), 0)];
    match probe.get_seq_batch(&entries).await {
        Ok(answer) => {
            let mut blocks = batch(answer);
            blocks.blocks.retain(|block| block.key == ask.key);
            Outcome::Answered(blocks)
        }
        Err(status) if status.code() == Code::InvalidArgument => {
            Outcome::Refused(judge::INVALID.into())
        }
        Err(status) => judge::failed(&status),
    }
}

async fn sequence(
    tso: &mut TsoServiceClient<Channel>,
    ask: &[Ask],
    request_id: Option<v1::RequestId>,
) -> Result<Blocks, Status> {
    if let [Ask { key, count }] = ask {
        let request = v1::GetSeqRequest { key: key.to_string(), count: *count, request_id };
        return Ok(block(tso.get_seq(request).await?.into_inner()));
    }
    let entry = |ask: &Ask| v1::SeqRequestEntry { key: ask.key.to_string(), count: ask.count };
    let entries = ask.iter().map(entry).collect();
    let answer = tso.get_seq_batch(v1::GetSeqBatchRequest { entries, request_id }).await?;
    Ok(batch(answer.into_inner()))
}

fn batch(answer: v1::GetSeqBatchResponse) -> Blocks {
    let block = |grant: v1::SeqGrantEntry| Block {
        key: grant.key.into(),
        start: grant.start,
        count: grant.count,
    };
    let blocks = answer.grants.into_iter().map(block).collect();
    Blocks { blocks, epoch: answer.epoch.map(|epoch| Epoch::from_parts(epoch.hi, epoch.lo)) }
}

fn read(answer: Result<Response<v1::ReadSeqResponse>, Status>) -> Outcome<Next> {
    match answer {
        Ok(answer) => {
            let v1::ReadSeqResponse { next, epoch, .. } = answer.into_inner();
            let epoch = epoch.map(|epoch| Epoch::from_parts(epoch.hi, epoch.lo));
            Outcome::Answered(Next { next, epoch })
        }
        Err(status) if status.code() == Code::NotFound => {
            Outcome::Answered(Next { next: 0, epoch: None })
        }
        Err(status) => judge::failed(&status),
    }
}

pub(super) fn timestamps(answer: &v1::GetTsResponse) -> Timestamps {
    Timestamps {
        physical_ms: answer.physical_ms,
        logical: answer.logical_start,
        count: answer.count,
        epoch: Some(Epoch::from_parts(answer.epoch_hi, answer.epoch_lo)),
    }
}

pub(super) fn block(answer: v1::GetSeqResponse) -> Blocks {
    let v1::GetSeqResponse { key, start, count, epoch } = answer;
    Blocks {
        blocks: vec![Block { key: key.into(), start, count }],
        epoch: epoch.map(|epoch| Epoch::from_parts(epoch.hi, epoch.lo)),
    }
}
