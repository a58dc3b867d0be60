use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
    vec,
};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use tonic::Code;
use tsoracle_core::{
    Error, ErrorKind, Result,
    state::{REIGN, Reads},
};

use crate::{
    config::Config,
    keys::Keys,
    members::{Members, restored},
    seen::Seen,
    snapshot::{Snapshot, Write},
    version::Version,
};

/// How many operations one level of a transaction has. Nested transactions are what is above it:
/// three levels of so many keep below the 128 that etcd allows along any path.
const OPERATIONS: usize = 40;

/// The largest answer that is taken.
const LARGEST_ANSWER: usize = 256 << 20;

/// What the driver asks of etcd: all of it below one prefix.
pub(crate) struct Etcd {
    pub(crate) keys: Keys,
    pub(crate) members: Members,
    /// The cluster whose state is taken over though it was written in another one.
    adopt: Option<u64>,
    /// There is a version, or was.
    had_version: AtomicBool,
    pub(crate) seen: Seen,
}

/// Who holds the election key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) created: i64,
    pub(crate) lease: i64,
    /// Where it serves; empty if it does not say.
    pub(crate) endpoint: String,
}

/// What every answer tells beside what was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) holder: Option<Holder>,
    /// The revision that wrote the version of the state; 0 if nothing was ever written.
    pub(crate) modified: i64,
    /// The name of the commit that wrote it, if any did.
    pub(crate) commit: String,
    /// The revision that last wrote the reign record; 0 if none did.
    pub(crate) reign: i64,
    /// The version that commits from here on are to write, but for their names.
    pub(crate) next: Version,
}

/// What became of a transaction.
pub(crate) enum Outcome {
    /// Its conditions held, and its writes are made, in this revision.
    Done(i64),
    /// Its conditions did not hold.
    Refused(Found),
}

impl Etcd {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(config.prefix()?),
            members: Members::new(config)?,
            adopt: config.adopt()?,
            had_version: AtomicBool::new(false),
            seen: Seen::default(),
        })
    }

    /// Who leads, and what the state is at.
    pub(crate) async fn look(&self) -> Result<Found> {
        let some = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let mut look = self.head(0).to_vec();
        look.push(TxnOp::get(self.keys.state(b""), Some(some)));
        let mut answer = self.transact(Txn::new().and_then(look)).await?;
        let found = self.found(&mut answer)?;
        if found.modified == 0 && answer.kvs.next().is_some_and(|some| !some.is_empty()) {
            return Err(self.lost_version());
        }
        Ok(found)
    }

    /// Fetches `reads` into `snapshot`, as of `revision`, or of the newest one if that is 0.
    pub(crate) async fn fetch(
        &self,
        reads: Reads,
        revision: i64,
        snapshot: &mut Snapshot,
    ) -> Result<Found> {
        let at = |options: GetOptions| Some(options.with_revision(revision));
        let mut operations = self.head(revision).to_vec();
        let single = |key: &Vec<u8>| TxnOp::get(self.keys.state(key), at(GetOptions::new()));
        operations.extend(reads.keys.iter().map(single));
        operations.extend(reads.ranges.iter().map(|(from, to, limit)| {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let range = GetOptions::new().with_range(self.keys.state(to)).with_limit(limit);
            TxnOp::get(self.keys.state(from), at(range))
        }));
        let mut answer = self.transact(Txn::new().and_then(nest(operations))).await?;
        let found = self.found(&mut answer)?;
        if snapshot.of.is_some_and(|known| known != found.modified) {
            // What was known before is of another version; what came now is of one.
            snapshot.clear();
        }
        snapshot.of = Some(found.modified);
        for key in reads.keys {
            let entry = answer.kvs.next().and_then(|entries| entries.into_iter().next());
            snapshot.learn_key(key, entry.map(|entry| entry.into_key_value().1));
        }
        for range in reads.ranges {
            let entries = answer.kvs.next().unwrap_or_default().into_iter().map(|entry| {
                let (key, value) = entry.into_key_value();
                (self.keys.inner(&key), value)
            });
            snapshot.learn_range(range, entries.collect());
        }
        Ok(found)
    }

    /// Takes the election key if nobody has it.
    pub(crate) async fn campaign(&self, lease: i64, endpoint: &str) -> Result<Outcome> {
        let leader = self.keys.leader.as_str();
        let put = TxnOp::put(leader, endpoint, Some(PutOptions::new().with_lease(lease)));
        self.decide(vec![self.is_held(0)], vec![put]).await
    }

    /// Removes the election key that was created in this revision.
    pub(crate) async fn depose(&self, created: i64) -> Result<Outcome> {
        let leader = self.keys.leader.as_str();
        self.decide(vec![self.is_held(created)], vec![TxnOp::delete(leader, None)]).await
    }

    /// Makes `writes` and raises the version, if the election key is the one created then, and the
    /// version is still the one written in `modified`. With no version to write, only asks whether.
    pub(crate) async fn commit(
        &self,
        created: i64,
        modified: i64,
        version: Option<&Version>,
        writes: &[Write],
    ) -> Result<Outcome> {
        let conditions = vec![
            self.is_held(created),
            Compare::mod_revision(self.keys.version.as_str(), CompareOp::Equal, modified),
        ];
        let mut operations = Vec::with_capacity(writes.len() + 1);
        if let Some(version) = version {
            operations.push(TxnOp::put(self.keys.version.as_str(), version.to_string(), None));
        }
        operations.extend(writes.iter().map(|write| self.keys.operation(write)));
        let outcome = self.decide(conditions, operations).await?;
        if version.is_some() && matches!(outcome, Outcome::Done(_)) {
            self.had_version.store(true, Ordering::Release);
        }
        Ok(outcome)
    }

    /// Asks for a lease. Returns its id.
    pub(crate) async fn grant(&self, ttl: Duration) -> Result<i64> {
        let seconds = ttl.as_millis().div_ceil(1_000) as i64;
        let granting = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        Ok(self.members.attempt(granting, |_| None).await?.id())
    }

    /// Asks that a lease go on. False if it is over, as far as the member knows.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<bool> {
        let keeping = |mut client: Client| async move {
            match client.lease_keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.members.attempt(keeping, |_| None).await
    }

    /// Ends a lease, and with it the key that hangs on it. That there is none is no error.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<()> {
        let revoking = |mut client: Client| async move {
            match client.lease_revoke(lease).await {
                Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::NotFound => {
                    Ok(())
                }
                answer => answer.map(drop),
            }
        };
        self.members.attempt(revoking, |()| None).await
    }

    fn is_held(&self, created: i64) -> Compare {
        Compare::create_revision(self.keys.leader.as_str(), CompareOp::Equal, created)
    }

    /// What every answer begins with, as of a revision.
    fn head(&self, revision: i64) -> [TxnOp; 3] {
        let Keys { leader, version, .. } = &self.keys;
        [leader.clone().into_bytes(), version.clone().into_bytes(), self.keys.state(REIGN)]
            .map(|key| TxnOp::get(key, Some(GetOptions::new().with_revision(revision))))
    }

    /// Makes changes if conditions hold. Something is read either way, so that this is no stale read
    /// even without any change.
    async fn decide(&self, conditions: Vec<Compare>, changes: Vec<TxnOp>) -> Result<Outcome> {
        let done = match changes.is_empty() {
            true => self.head(0).to_vec(),
            false => nest(changes),
        };
        let decision = Txn::new().when(conditions).and_then(done).or_else(self.head(0));
        let mut answer = self.transact(decision).await?;
        match answer.succeeded {
            true => Ok(Outcome::Done(answer.revision)),
            false => Ok(Outcome::Refused(self.found(&mut answer)?)),
        }
    }

    async fn transact(&self, txn: Txn) -> Result<Answer> {
        let transacting = |client: Client| async move {
            client.kv_client().max_decoding_message_size(LARGEST_ANSWER).txn(txn).await
        };
        let answer = self.members.attempt(transacting, TxnResponse::header).await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        let mut kvs = Vec::new();
        flatten(&answer, &mut kvs);
        Ok(Answer { succeeded: answer.succeeded(), revision, kvs: kvs.into_iter() })
    }

    /// Takes what an answer begins with, and checks that it was written in this cluster.
    fn found(&self, answer: &mut Answer) -> Result<Found> {
        let mut next = || answer.kvs.next().and_then(|entries| entries.into_iter().next());
        let (leader, version, reign) = (next(), next(), next());
        let (cluster, revision) = (self.members.cluster(), answer.revision);
        let mut found = Found {
            holder: leader.as_ref().map(holder),
            modified: version.as_ref().map_or(0, KeyValue::mod_revision),
            commit: String::new(),
            reign: reign.as_ref().map_or(0, KeyValue::mod_revision),
            next: Version { cluster, era: 0, revision, commit: String::new() },
        };
        self.seen.note(found.reign);
        let Some(entry) = version else {
            return match self.had_version.load(Ordering::Acquire) {
                true => Err(self.lost_version()),
                false => Ok(found),
            };
        };
        let version = Version::parse(&self.keys.version, entry.value())?;
        (found.commit, found.next.era) = (version.commit, version.era);
        if version.cluster != cluster || version.revision > revision {
            if self.adopt != Some(cluster) {
                let place = |id: u64, at| format!("revision {at} of cluster {id:x}");
                let was = place(version.cluster, version.revision);
                return Err(restored(cluster, &place(cluster, revision), &was));
            }
            found.next.era = version.era.checked_add(1).ok_or_else(|| {
                Error::new(ErrorKind::Fatal, "the state was adopted too often: eras are used up")
            })?;
        }
        self.had_version.store(true, Ordering::Release);
        Ok(found)
    }

    fn lost_version(&self) -> Error {
        let Keys { prefix, version, .. } = &self.keys;
        let context = format!(
            "the key {version} is missing in etcd, though there is, or was, state below {prefix}: \
             restore it, or give another prefix to begin anew from 0"
        );
        Error::new(ErrorKind::Corrupt, context)
    }
}

/// The answer to a transaction: what its reads found, in their order.
struct Answer {
    succeeded: bool,
    revision: i64,
    kvs: vec::IntoIter<Vec<KeyValue>>,
}

fn flatten(answer: &TxnResponse, kvs: &mut Vec<Vec<KeyValue>>) {
    for answer in answer.op_responses() {
        match answer {
            TxnOpResponse::Get(mut got) => kvs.push(got.take_kvs()),
            TxnOpResponse::Txn(nested) => flatten(&nested, kvs),
            TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) => {}
        }
    }
}

/// Puts operations into nested transactions, as many levels of them as it takes.
fn nest(mut operations: Vec<TxnOp>) -> Vec<TxnOp> {
    while operations.len() > OPERATIONS {
        let size = operations.len().div_ceil(OPERATIONS).clamp(2, OPERATIONS);
        let mut rest = operations.into_iter().peekable();
        operations = Vec::new();
        while rest.peek().is_some() {
            let chunk: Vec<_> = rest.by_ref().take(size).collect();
            operations.push(TxnOp::txn(Txn::new().and_then(chunk)));
        }
    }
    operations
}

fn holder(entry: &KeyValue) -> Holder {
    Holder {
        created: entry.create_revision(),
        lease: entry.lease(),
        endpoint: String::from_utf8_lossy(entry.value()).into_owned(),
    }
}
