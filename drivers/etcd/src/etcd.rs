use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
    vec,
};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tonic::Code;
use tsoracle_core::{
    CommitLimits, Effect, Entry, Error, ErrorKind, KeyRange, Reads, Result, Snapshot, Version,
};

use crate::{config::Config, keys::Keys, members::Members};

/// How many operations a transaction has, and how many each transaction nested in it has. etcd takes
/// 128 by default along any path through them.
const OPERATIONS: usize = 64;

/// With the longest prefix these come to less than 1.4 MiB on the wire, and etcd takes 1.5 MiB by
/// default. One operation is left for the format.
pub(crate) const LIMITS: CommitLimits =
    CommitLimits { writes: OPERATIONS * OPERATIONS - 1, bytes: 1 << 20 };

/// How many keys or ranges are read at once. Reads are not nested: etcd would take them for writes.
const READS: usize = 120;

/// The largest answer that is taken.
const LARGEST_ANSWER: usize = 256 << 20;

/// What the driver asks of etcd: all of it below one prefix.
pub(crate) struct Etcd {
    pub(crate) keys: Keys,
    pub(crate) members: Members,
    /// The cluster whose state is taken over though it was written in another one.
    adopt: Option<u64>,
    /// The id of the cluster; 0 until one has answered.
    cluster: AtomicU64,
    /// The state was written in another cluster, and is to be adopted before anything else.
    is_foreign: AtomicBool,
}

/// The election key, as one node created it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) created: i64,
    pub(crate) lease: i64,
    /// Where it serves; empty if that is not known.
    pub(crate) endpoint: String,
}

/// What every answer begins with.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) holder: Option<Holder>,
    pub(crate) version: Version,
}

impl Etcd {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            keys: Keys::new(config.prefix()?),
            members: Members::new(config)?,
            adopt: config.adopt()?,
            cluster: AtomicU64::new(0),
            is_foreign: AtomicBool::new(false),
        })
    }

    /// Looks at the election key and the version of the state.
    ///
    /// # Errors
    /// `Corrupt` if this is no state of this release; `Fatal` if it is one of another cluster; otherwise
    /// those of etcd.
    pub(crate) async fn look(&self) -> Result<Found> {
        let has_no_version =
            Compare::create_revision(self.keys.version.as_slice(), CompareOp::Equal, 0);
        let any = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let mut with_any = self.head(0).to_vec();
        with_any.push(TxnOp::get(self.keys.state(b""), Some(any)));
        let look = Txn::new().when([has_no_version]).and_then(with_any).or_else(self.head(0));
        let mut answer = self.transact(look).await?;
        let found = self.found(&mut answer)?;
        if answer.kvs.next().is_some_and(|any| !any.is_empty()) {
            return Err(self.has_no_version());
        }
        Ok(found)
    }

    /// Reads keys and ranges as of one version, which is the newest when this is called.
    pub(crate) async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let mut gets: Vec<_> = wanted.keys.iter().map(|key| (self.keys.state(key), None)).collect();
        for KeyRange { from, to, limit } in wanted.ranges.iter().filter(|range| !is_empty(range)) {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            gets.push((self.keys.state(from), Some((self.keys.state(to), limit))));
        }
        let mut gets = gets.into_iter();
        let (mut revision, mut answers) = (0, Vec::new());
        let version = loop {
            let mut operations = self.head(revision).to_vec();
            for (from, range) in gets.by_ref().take(READS) {
                let mut options = GetOptions::new().with_revision(revision);
                if let Some((to, limit)) = range {
                    options = options.with_range(to).with_limit(limit);
                }
                operations.push(TxnOp::get(from, Some(options)));
            }
            let mut answer = self.transact(Txn::new().and_then(operations)).await?;
            let found = self.found(&mut answer)?;
            answers.extend(answer.kvs);
            if gets.len() == 0 {
                break found.version;
            }
            // The rest is read as of the revision that the first part was of.
            if revision == 0 {
                revision = answer.revision;
            }
        };
        let mut answers = answers.into_iter();
        let value = |found| first(found).map(|entry| entry.into_key_value().1);
        let values = wanted.keys.iter().map(|_| answers.next().and_then(value)).collect();
        let ranges = wanted.ranges.iter().map(|range| match is_empty(range) {
            true => vec![],
            false => self.entries(answers.next().unwrap_or_default()),
        });
        Ok(Snapshot { version, values, ranges: ranges.collect() })
    }

    fn entries(&self, found: Vec<KeyValue>) -> Vec<Entry> {
        let entries = found.into_iter().map(KeyValue::into_key_value);
        entries.map(|(key, value)| (self.keys.inner(&key), value)).collect()
    }

    /// Refuses what must not be stored over a state of another cluster: all but its adoption, which raises
    /// the era and the time in one commit.
    ///
    /// # Errors
    /// `Unavailable`, with what is to be done first.
    pub(crate) fn check_home(&self, base: Version, next: Version) -> Result<()> {
        if !self.is_foreign.load(Ordering::Acquire) || next.era > base.era {
            return Ok(());
        }
        let context = "the state was written in another etcd cluster, and is not adopted yet: stop \
                       all nodes and run `tsoracle raise --physical-ms N` with the same options, and \
                       a time above every timestamp that was issued";
        Err(Error::new(ErrorKind::Unavailable, context))
    }

    /// Makes the writes of `effect`, which makes the version `next`, if the state is at `base`. Returns
    /// the version that it is at if it is not.
    pub(crate) async fn commit(
        &self,
        base: Version,
        next: Version,
        effect: &Effect,
    ) -> Result<Option<Version>> {
        let key = self.keys.version.as_slice();
        let is_at_base = match base {
            Version::EMPTY => Compare::create_revision(key, CompareOp::Equal, 0),
            base => Compare::value(key, CompareOp::Equal, base.encode()),
        };
        let mut writes: Vec<_> = effect.iter().map(|write| self.keys.write(write)).collect();
        if base == Version::EMPTY || next.era > base.era {
            // An answer has shown the state to be at the base, and which cluster this is.
            match self.cluster.load(Ordering::Acquire) {
                0 => return Err(Error::new(ErrorKind::Unavailable, "etcd has not answered yet")),
                cluster => writes.push(self.keys.write_format(cluster)),
            }
        }
        let commit = Txn::new().when([is_at_base]).and_then(nest(writes)).or_else(self.head(0));
        let mut answer = self.transact(commit).await?;
        if answer.succeeded {
            // A commit that is stored has just moved the state here, if it was not.
            self.is_foreign.store(false, Ordering::Release);
            return Ok(None);
        }
        Ok(Some(self.found(&mut answer)?.version))
    }

    /// Takes the election key if no node has it.
    pub(crate) async fn campaign(&self, lease: i64, endpoint: &str) -> Result<()> {
        let leader = self.keys.leader.as_str();
        let put = TxnOp::put(leader, endpoint, Some(PutOptions::new().with_lease(lease)));
        self.transact(Txn::new().when([self.is_held(0)]).and_then([put])).await.map(drop)
    }

    /// Removes the election key that was created in this revision.
    pub(crate) async fn depose(&self, created: i64) -> Result<()> {
        let delete = TxnOp::delete(self.keys.leader.as_str(), None);
        self.transact(Txn::new().when([self.is_held(created)]).and_then([delete])).await.map(drop)
    }

    fn is_held(&self, created: i64) -> Compare {
        Compare::create_revision(self.keys.leader.as_str(), CompareOp::Equal, created)
    }

    /// Asks for a lease. Returns its id.
    pub(crate) async fn grant(&self, ttl: Duration) -> Result<i64> {
        let seconds = ttl.as_millis().div_ceil(1_000) as i64;
        let granting = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        Ok(self.members.attempt(granting).await?.id())
    }

    /// Asks that a lease be prolonged. False if it is over, as far as the member knows.
    pub(crate) async fn keep_alive(&self, lease: i64) -> Result<bool> {
        let keeping = |mut client: Client| async move {
            match client.lease_keep_alive(lease).await {
                Ok(_) => Ok(true),
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.members.attempt(keeping).await
    }

    /// Ends a lease, and with it the key that is attached to it. An unknown lease is not an error.
    pub(crate) async fn revoke(&self, lease: i64) -> Result<()> {
        let revoking = |mut client: Client| async move {
            match client.lease_revoke(lease).await {
                Err(etcd_client::Error::GRpcStatus(status)) if status.code() == Code::NotFound => {
                    Ok(())
                }
                answer => answer.map(drop),
            }
        };
        self.members.attempt(revoking).await
    }

    /// The reads that every answer begins with, as of a revision.
    fn head(&self, revision: i64) -> [TxnOp; 3] {
        let Keys { leader, format, version, .. } = &self.keys;
        [leader.as_bytes(), format.as_bytes(), version.as_slice()]
            .map(|key| TxnOp::get(key, Some(GetOptions::new().with_revision(revision))))
    }

    async fn transact(&self, transaction: Txn) -> Result<Answer> {
        let transacting = |client: Client| async move {
            client.kv_client().max_decoding_message_size(LARGEST_ANSWER).txn(transaction).await
        };
        let answer = self.members.attempt(transacting).await?;
        let (cluster, revision) =
            answer.header().map_or((0, 0), |header| (header.cluster_id(), header.revision()));
        let kvs = answer.op_responses().into_iter().filter_map(|answer| match answer {
            TxnOpResponse::Get(mut got) => Some(got.take_kvs()),
            _ => None,
        });
        let kvs = kvs.collect::<Vec<_>>().into_iter();
        Ok(Answer { succeeded: answer.succeeded(), cluster, revision, kvs })
    }

    /// Takes what an answer begins with, and checks that the state belongs to this cluster.
    fn found(&self, answer: &mut Answer) -> Result<Found> {
        let mut next = || answer.kvs.next().and_then(first);
        let (leader, format, version) = (next(), next(), next());
        let version = Version::decode(version.as_ref().map(KeyValue::value))?;
        let cluster = answer.cluster;
        let home = format.map(|format| self.keys.read_format(format.value())).transpose()?;
        if home.is_some() != (version != Version::EMPTY) {
            return Err(self.has_no_version());
        }
        let is_foreign = home.is_some_and(|home| home != cluster);
        if is_foreign && self.adopt != Some(cluster) {
            return Err(restored(cluster, home.unwrap_or_default()));
        }
        self.cluster.store(cluster, Ordering::Release);
        self.is_foreign.store(is_foreign, Ordering::Release);
        Ok(Found { holder: leader.map(holder), version })
    }

    fn has_no_version(&self) -> Error {
        let Keys { prefix, format, version, .. } = &self.keys;
        let version = version.escape_ascii();
        let context = format!(
            "of the keys {format} and {version} one is missing in etcd, though there is state below \
             {prefix}: restore it, or give another prefix to begin again from 0"
        );
        Error::new(ErrorKind::Corrupt, context)
    }
}

/// The answer to a transaction: what its reads found, in their order.
struct Answer {
    succeeded: bool,
    cluster: u64,
    revision: i64,
    kvs: vec::IntoIter<Vec<KeyValue>>,
}

/// Whether nothing is to be read, where etcd would take it for something else.
fn is_empty(range: &KeyRange) -> bool {
    range.limit == 0 || range.from >= range.to
}

/// Puts operations into nested transactions if they are too many for one.
fn nest(operations: Vec<TxnOp>) -> Vec<TxnOp> {
    if operations.len() <= OPERATIONS {
        return operations;
    }
    let nested = operations.chunks(OPERATIONS);
    nested.map(|nested| TxnOp::txn(Txn::new().and_then(nested))).collect()
}

fn first(found: Vec<KeyValue>) -> Option<KeyValue> {
    found.into_iter().next()
}

fn holder(entry: KeyValue) -> Holder {
    let (created, lease) = (entry.create_revision(), entry.lease());
    let endpoint = String::from_utf8_lossy(entry.value()).into_owned();
    Holder { created, lease, endpoint }
}

/// The error of a state in a cluster that it was not written in.
fn restored(cluster: u64, home: u64) -> Error {
    let context = format!(
        "this is etcd cluster {cluster:x}, and the state was written in cluster {home:x}: it was \
         restored from a backup or copied, and lacks what was issued since; stop all nodes and run \
         `tsoracle raise --physical-ms N`, with a time above every timestamp that was issued, over \
         this etcd with adopt={cluster:x} among its options; sequence numbers issued after the \
         backup are lost, and will be issued again"
    );
    Error::new(ErrorKind::Fatal, context)
}
