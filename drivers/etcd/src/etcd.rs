use std::{
    error::Error as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{
    Channel, Client, Compare, CompareOp, ConnectOptions, GetOptions, KeyValue, PutOptions,
    ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use tokio::time::timeout;
use tonic::{Code, ConnectError, Status, transport::Endpoint};
use tsoracle_core::{
    BootTime, Clock, Error, ErrorKind, Result, SystemClock,
    state::{REIGN, Reads},
};

use crate::{
    config::Config,
    keys::Keys,
    snapshot::{Snapshot, Write},
    version::Version,
};

/// How many operations one level of a transaction has. Nested transactions are what is above it:
/// three levels of so many keep below the 128 that etcd allows along any path.
const OPERATIONS: usize = 40;

/// The largest answer that is taken.
const LARGEST_ANSWER: usize = 256 << 20;

/// How many attempts a call is worth before it fails.
const ATTEMPTS: u32 = 6;

/// The pause between attempts, when no other member is left to ask.
const PAUSE: Duration = Duration::from_millis(25);

/// An etcd cluster, behind as many members as are known of it.
///
/// One member is asked at a time. Whoever does not answer in time, or answers that it cannot, is left
/// for the next. Every answer is checked for coming from the same cluster, not set back.
pub(crate) struct Etcd {
    pub(crate) keys: Keys,
    members: Vec<(String, Endpoint)>,
    clients: Mutex<Vec<Option<Client>>>,
    current: AtomicUsize,
    options: ConnectOptions,
    timeout: Duration,
    adopt: Option<u64>,
    cluster: Mutex<Option<u64>>,
    /// The highest revision that was seen.
    reached: AtomicI64,
    had_version: AtomicBool,
}

/// Who holds the election key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub(crate) created: i64,
    pub(crate) lease: i64,
    /// Where it serves; empty if it does not say.
    pub(crate) endpoint: String,
}

/// The version of the state, as of some revision.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The revision that wrote it; 0 if nothing was ever written.
    pub(crate) modified: i64,
    pub(crate) version: Option<Version>,
    /// What commits from here on are to say of the cluster.
    pub(crate) cluster: u64,
    pub(crate) era: u32,
    pub(crate) revision: i64,
}

/// What a look at the election finds.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) holder: Option<Holder>,
    pub(crate) found: Found,
    /// The revision that last wrote the reign record; 0 if none did.
    pub(crate) reign: i64,
}

/// What was fetched of the state.
pub(crate) struct Fetched {
    pub(crate) found: Found,
    /// The revision that last wrote the reign record, if that was among what was asked for.
    pub(crate) reign: Option<i64>,
}

/// What became of a transaction.
pub(crate) enum Outcome {
    /// Its conditions held, and its writes are made, in this revision.
    Done(i64),
    /// Its conditions did not hold.
    Refused { holder: Option<Holder>, found: Found },
}

impl Etcd {
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let members = config.endpoints()?;
        let mut options =
            ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let Some((user, password)) = config.user()? {
            options = options.with_user(user, password);
        }
        Ok(Self {
            keys: Keys::new(config.prefix()?),
            clients: Mutex::new(vec![None; members.len()]),
            members,
            current: AtomicUsize::new(0),
            options,
            timeout: config.timeout,
            adopt: config.adopt()?,
            cluster: Mutex::new(None),
            reached: AtomicI64::new(0),
            had_version: AtomicBool::new(false),
        })
    }

    /// How many members there are.
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// When a call that begins now is given up.
    pub(crate) fn patience(&self) -> BootTime {
        SystemClock.now().boot + self.timeout * ATTEMPTS
    }

    /// Who leads, and what the state is at.
    pub(crate) async fn look(&self) -> Result<Look> {
        let keys = &self.keys;
        let some = GetOptions::new().with_prefix().with_limit(1).with_keys_only();
        let look = Txn::new().and_then([
            get(&keys.leader),
            get(&keys.version),
            get(keys.state(REIGN)),
            TxnOp::get(keys.state(b""), Some(some)),
        ]);
        let answer = self.transact(look).await?;
        let mut answers = answer.kvs.into_iter();
        let mut next = || answers.next().unwrap_or_default();
        let (leader, version, reign) = (next(), next(), next());
        let found = self.found(version.first(), answer.revision)?;
        if found.modified == 0 && !next().is_empty() {
            return Err(self.lost_version());
        }
        let reign = reign.first().map_or(0, KeyValue::mod_revision);
        Ok(Look { holder: leader.first().map(holder), found, reign })
    }

    /// Fetches `reads` into `snapshot`, as of `revision`, or of the newest one if that is 0.
    pub(crate) async fn fetch(
        &self,
        reads: Reads,
        revision: i64,
        snapshot: &mut Snapshot,
    ) -> Result<Fetched> {
        let at = |options: GetOptions| Some(options.with_revision(revision));
        let mut operations = vec![TxnOp::get(self.keys.version.as_str(), at(GetOptions::new()))];
        let single = |key: &Vec<u8>| TxnOp::get(self.keys.state(key), at(GetOptions::new()));
        operations.extend(reads.keys.iter().map(single));
        operations.extend(reads.ranges.iter().map(|(from, to, limit)| {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let range = GetOptions::new().with_range(self.keys.state(to)).with_limit(limit);
            TxnOp::get(self.keys.state(from), at(range))
        }));
        let answer = self.transact(Txn::new().and_then(nest(operations))).await?;
        let mut answers = answer.kvs.into_iter();
        let version = answers.next().unwrap_or_default();
        let found = self.found(version.first(), answer.revision)?;
        if let Some(known) = &snapshot.of
            && *known != found.modified
        {
            // What was known before is of another version; what came now is of one.
            snapshot.clear();
        }
        snapshot.of = Some(found.modified);
        let mut reign = None;
        for key in reads.keys {
            let entry = answers.next().and_then(|entries| entries.into_iter().next());
            if key == REIGN {
                reign = Some(entry.as_ref().map_or(0, KeyValue::mod_revision));
            }
            snapshot.learn_key(key, entry.map(|entry| entry.into_key_value().1));
        }
        for range in reads.ranges {
            let entries = answers.next().unwrap_or_default().into_iter().map(|entry| {
                let (key, value) = entry.into_key_value();
                (self.keys.inner(&key), value)
            });
            snapshot.learn_range(range, entries.collect());
        }
        Ok(Fetched { found, reign })
    }

    /// Takes the election key if nobody has it.
    pub(crate) async fn campaign(&self, lease: i64, endpoint: &str) -> Result<Outcome> {
        let leader = self.keys.leader.as_str();
        let put = TxnOp::put(leader, endpoint, Some(PutOptions::new().with_lease(lease)));
        self.decide(vec![Compare::create_revision(leader, CompareOp::Equal, 0)], vec![put]).await
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
        Ok(self.attempt(granting, |_| None).await?.id())
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
        self.attempt(keeping, |_| None).await
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
        self.attempt(revoking, |()| None).await
    }

    fn is_held(&self, created: i64) -> Compare {
        Compare::create_revision(self.keys.leader.as_str(), CompareOp::Equal, created)
    }

    /// Makes changes if conditions hold. Either way the election key and the version are read, so that
    /// this is no stale read even without any change.
    async fn decide(&self, conditions: Vec<Compare>, changes: Vec<TxnOp>) -> Result<Outcome> {
        let look = || [get(&self.keys.leader), get(&self.keys.version)];
        let done = match changes.is_empty() {
            true => look().to_vec(),
            false => nest(changes),
        };
        let answer =
            self.transact(Txn::new().when(conditions).and_then(done).or_else(look())).await?;
        if answer.succeeded {
            return Ok(Outcome::Done(answer.revision));
        }
        let mut answers = answer.kvs.into_iter();
        let leader = answers.next().unwrap_or_default();
        let version = answers.next().unwrap_or_default();
        let found = self.found(version.first(), answer.revision)?;
        Ok(Outcome::Refused { holder: leader.first().map(holder), found })
    }

    async fn transact(&self, txn: Txn) -> Result<Answer> {
        let transacting = |client: Client| async move {
            client.kv_client().max_decoding_message_size(LARGEST_ANSWER).txn(txn).await
        };
        let answer = self.attempt(transacting, TxnResponse::header).await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        let mut kvs = Vec::new();
        flatten(&answer, &mut kvs);
        Ok(Answer { succeeded: answer.succeeded(), revision, kvs })
    }

    /// Asks the current member once. Whoever does not answer is left for the next one.
    ///
    /// # Errors
    /// `Unavailable` if nothing can have been done, `Uncertain` if something may have been; `Config`
    /// if etcd does not let this user in, or refuses the request; `Fatal` if it is another cluster,
    /// or was set back.
    async fn attempt<T, F>(
        &self,
        call: impl FnOnce(Client) -> F,
        header: impl Fn(&T) -> Option<&ResponseHeader>,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let at = self.current.load(Ordering::Acquire) % self.members.len();
        let reached = self.reached.load(Ordering::Acquire);
        let silent = |kind| {
            let (member, limit) = (&self.members[at].0, self.timeout);
            Error::new(kind, format!("etcd at {member} did not answer within {limit:?}"))
        };
        let client = match timeout(self.timeout, self.client(at)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(self.failed(at, error, ErrorKind::Unavailable)),
            Err(_) => {
                self.leave(at);
                return Err(silent(ErrorKind::Unavailable));
            }
        };
        match timeout(self.timeout, call(client)).await {
            Ok(Ok(answer)) => {
                if let Some(header) = header(&answer) {
                    self.check(header, reached)?;
                }
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(at, error, ErrorKind::Uncertain)),
            Err(_) => {
                self.leave(at);
                Err(silent(ErrorKind::Uncertain))
            }
        }
    }

    /// The client of one member, which is let in already.
    async fn client(&self, at: usize) -> Result<Client, etcd_client::Error> {
        if let Some(client) = &self.clients()[at] {
            return Ok(client.clone());
        }
        let channel = Channel::Tonic(self.members[at].1.connect_lazy());
        let client = Client::from_channel(channel, Some(self.options.clone())).await?;
        self.clients()[at] = Some(client.clone());
        Ok(client)
    }

    fn clients(&self) -> std::sync::MutexGuard<'_, Vec<Option<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks another member from now on.
    fn leave(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        // Somebody else may have gone on already.
        let _ = self.current.compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What an error means. `otherwise` is what it is if it does not say that nothing was done.
    fn failed(&self, at: usize, error: etcd_client::Error, otherwise: ErrorKind) -> Error {
        let kind = match &error {
            etcd_client::Error::GRpcStatus(status) => meaning(status).unwrap_or(otherwise),
            _ => otherwise,
        };
        match kind {
            // Whoever was let in once has to ask anew.
            ErrorKind::Config => self.clients()[at] = None,
            _ => self.leave(at),
        }
        Error::new(kind, format!("etcd at {}", self.members[at].0)).with_source(error)
    }

    /// Checks that an answer comes from the cluster that the others came from, and holds what was
    /// there when it was asked for.
    fn check(&self, header: &ResponseHeader, reached: i64) -> Result<()> {
        let (cluster, revision) = (header.cluster_id(), header.revision());
        let first =
            *self.cluster.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cluster);
        if first != cluster {
            let (is, was) = (format!("cluster {cluster:x}"), format!("cluster {first:x}"));
            return Err(self.restored(cluster, &is, &was));
        }
        if revision < reached {
            let (is, was) = (format!("revision {revision}"), format!("revision {reached}"));
            return Err(self.restored(cluster, &is, &was));
        }
        self.reached.fetch_max(revision, Ordering::AcqRel);
        Ok(())
    }

    /// Reads the version, and checks that it was written in this cluster.
    fn found(&self, entry: Option<&KeyValue>, revision: i64) -> Result<Found> {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
        let Some(entry) = entry else {
            if self.had_version.load(Ordering::Acquire) {
                return Err(self.lost_version());
            }
            return Ok(Found { modified: 0, version: None, cluster, era: 0, revision });
        };
        let version = Version::parse(&self.keys.version, entry.value())?;
        let mut era = version.era;
        if version.cluster != cluster || version.revision > revision {
            if self.adopt != Some(cluster) {
                let place = |id: u64, at| format!("revision {at} of cluster {id:x}");
                let was = place(version.cluster, version.revision);
                return Err(self.restored(cluster, &place(cluster, revision), &was));
            }
            era = era.checked_add(1).ok_or_else(|| {
                Error::new(ErrorKind::Fatal, "the state was adopted too often: eras are used up")
            })?;
        }
        self.had_version.store(true, Ordering::Release);
        Ok(Found { modified: entry.mod_revision(), version: Some(version), cluster, era, revision })
    }

    fn restored(&self, cluster: u64, is: &str, was: &str) -> Error {
        let prefix = &self.keys.prefix;
        let context = format!(
            "etcd is at {is}, and the state below {prefix} was last seen at {was}: it was restored \
             from a backup or replaced, and lacks what was issued since; stop all nodes and run \
             `tsoracle raise --physical-ms N`, with a time above every timestamp that was issued, over \
             this etcd with adopt={cluster:x} among its options; sequence numbers issued after the \
             backup are lost, and will be issued again"
        );
        Error::new(ErrorKind::Fatal, context)
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
    kvs: Vec<Vec<KeyValue>>,
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

fn get(key: impl AsRef<[u8]>) -> TxnOp {
    TxnOp::get(key.as_ref(), None)
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

/// What an error of etcd says for certain, if anything.
fn meaning(status: &Status) -> Option<ErrorKind> {
    let text = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Some(ErrorKind::Config),
        // A wrong password, a missing user name, or a request beyond etcd's limits.
        Code::InvalidArgument => Some(ErrorKind::Config),
        Code::FailedPrecondition if text.contains("authentication") => Some(ErrorKind::Config),
        // The space is used up, or too much is under way.
        Code::ResourceExhausted => Some(ErrorKind::Unavailable),
        // What was to be read is compacted.
        Code::OutOfRange => Some(ErrorKind::Unavailable),
        Code::Unavailable if text == "etcdserver: no leader" => Some(ErrorKind::Unavailable),
        _ if is_unconnected(status) => Some(ErrorKind::Unavailable),
        _ => None,
    }
}

/// Whether the request never left, since there was no connection.
fn is_unconnected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Pauses before the next attempt. False once `until` has come.
pub(crate) async fn pause(until: BootTime) -> bool {
    SystemClock.sleep(PAUSE).await;
    SystemClock.now().boot < until
}
