use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use tsoracle_proto::{MAX_SEQ_BATCH_ENTRIES, MAX_TS_COUNT};
use tsoracle_types::{
    BootTime, Clock, LeaseHolder, LeaseId, RequestName, SeqBlock, SeqKey, Timestamp, TimestampRange,
};

use crate::call::{Cluster, Limit, Oracles, TimestampCall};
use crate::error::{Error, ErrorKind, Result};
use crate::rpc::{
    AcquireLease, CloseSession, DeleteSeq, GetCurrentMaxSafe, GetSafeFrontier, GetSeq, GetSeqBatch,
    ListSeqs, ReadSeq, ReleaseLease, RenewLease, Rpc, SeedSeq,
};
use crate::values::{MaxSafe, SafeFrontier, SeqPage, StampingLease};

/// Closing only helps the server, and is not worth more of the caller's time than this.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many sequences a page has at most.
const PAGE: u32 = 1_000;

/// Gets timestamps and sequence values from whichever node leads.
///
/// Cloning is cheap, and clones share connections: make one client and clone it to wherever it is
/// needed. Every call finds the leader by itself, follows it when it changes, and retries
/// until its timeout ([`ClientBuilder::timeout`](crate::ClientBuilder::timeout), [`Client::with_timeout`]) has
/// passed, which also covers connecting.
///
/// # Cancellation
/// Any future returned here may be dropped. A dropped [`get_seq`](Self::get_seq) may have been
/// carried out: its values are then spent, and no caller has seen them.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    /// The part of it that the first attempt at a call for timestamps may take.
    first_attempt_ms: u64,
}

struct Shared {
    oracles: Oracles,
    clock: Arc<dyn Clock>,
}

impl Client {
    pub(crate) fn new(oracles: Oracles, clock: Arc<dyn Clock>, timeout: Duration) -> Self {
        Self::over(Arc::new(Shared { oracles, clock }), timeout)
    }

    fn over(shared: Arc<Shared>, timeout: Duration) -> Self {
        let first_attempt = shared.oracles.main.time_of_attempt(timeout);
        let first_attempt_ms = u64::try_from(first_attempt.as_millis()).unwrap_or(u64::MAX);
        Self { shared, timeout, first_attempt_ms }
    }

    /// The same client, whose calls may take as long as `timeout`. Connections stay shared.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self::over(self.shared.clone(), timeout)
    }

    /// Waits until there is a connection to any endpoint.
    pub(crate) async fn wait_for_connection(&self) -> Result<()> {
        self.main().connect(self.limit()).await
    }

    /// Gets one timestamp, greater than every timestamp of any call, of any client, that was
    /// answered before this one began.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` if no leader served in time.
    pub async fn get_ts(&self) -> Result<Timestamp> {
        let call = self.main().timestamps(1, self.timeout, self.first_attempt_ms);
        Ok(call.await?.first())
    }

    /// Gets `count` contiguous timestamps, 1 to 262,144, ordered as in [`get_ts`](Self::get_ts).
    ///
    /// # Errors
    /// `Invalid` if `count` is out of range; `Unavailable` or `Timeout` if no leader served in
    /// time.
    pub fn get_ts_batch(&self, count: u32) -> impl Future<Output = Result<TimestampRange>> + Send {
        match check_ts_count(count) {
            Ok(()) => self.main().timestamps(count, self.timeout, self.first_attempt_ms),
            Err(error) => TimestampCall::refused(self.main(), error),
        }
    }

    /// Gets the next `count` values of `key`, exactly once: if an answer is lost, the same block is
    /// asked for again, through any later leader.
    ///
    /// Against a server that ignores request ids, a lost answer is reported as `Uncertain`.
    ///
    /// # Errors
    /// `Invalid` if the key is empty or over 128 bytes, or the count 0 or above the server's limit;
    /// `Refused` if the counter would overflow; `Exhausted` at a limit; `Unavailable` or `Timeout`
    /// if no leader served in time, and certainly none spent anything; `Uncertain` if it may have
    /// been carried out.
    pub async fn get_seq(&self, key: impl AsRef<str>, count: u32) -> Result<SeqBlock> {
        let key = checked(key.as_ref(), count)?;
        self.shared.oracles.of(&key).sequence(key, count, self.limit()).await
    }

    /// Gets a block for each of 1 to 128 distinct keys, all or none of them, exactly once. The
    /// blocks come in the order of `requests`.
    ///
    /// # Errors
    /// As of [`get_seq`](Self::get_seq); `Invalid` also for a key that comes twice, and for keys that
    /// are [routed](crate::ClientBuilder::route) to different oracles.
    pub async fn get_seq_batch<K: AsRef<str>>(
        &self,
        requests: &[(K, u32)],
    ) -> Result<Vec<SeqBlock>> {
        let entries = checked_batch(requests)?;
        let (oracle, limit) = (self.shared.oracles.of_all(&entries)?, self.limit());
        let request = oracle.begin_request(limit).await?;
        oracle.call(&GetSeqBatch { entries, request }, limit).await
    }

    /// Gets the block that `request_id` identifies: the same id, key and count give the same block
    /// again, also from another client or after a restart of this one.
    ///
    /// The server remembers an id for 30 days, unless it is configured otherwise; a later request with it is a
    /// new one. Use an id of 1 to 128 bytes for one request only, and one that no other program uses.
    ///
    /// # Errors
    /// As of [`get_seq`](Self::get_seq); `Invalid` also if the id is empty or too long, or was used with another
    /// key or count; `Unimplemented` if the server ignores request ids, without having asked it.
    pub async fn get_seq_as(
        &self,
        request_id: impl AsRef<str>,
        key: impl AsRef<str>,
        count: u32,
    ) -> Result<SeqBlock> {
        let key = checked(key.as_ref(), count)?;
        let request_id = request_id.as_ref();
        if let Err(error) = RequestName::new(request_id) {
            let context = format!("{error}: choose one that no other program uses");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let oracle = self.shared.oracles.of(&key);
        let request = oracle.sessions.named(request_id);
        oracle.call(&GetSeq { key, count, request, named: true }, self.limit()).await
    }

    /// Reads the value that the next block of `key` starts with. Grants nothing.
    ///
    /// # Errors
    /// `NotFound` if the key has never been used; `Unimplemented` if the server cannot read sequences;
    /// `Unavailable` or `Timeout` if no leader served in time.
    pub async fn read_seq(&self, key: impl AsRef<str>) -> Result<u64> {
        let key = checked(key.as_ref(), 1)?;
        self.shared.oracles.of(&key).call(&ReadSeq { key }, self.limit()).await
    }

    /// Lists sequences whose keys begin with `prefix`, in byte order, a page at a time: those after
    /// the key `after`, the last one of the previous page, or from the first one on if it is empty.
    ///
    /// Each page is as of one moment. Whatever is used or seeded between two pages, none comes twice.
    /// With [routes](crate::ClientBuilder::route), each oracle is asked for the keys that are its own, each as
    /// of a moment of its own, and all of them must answer.
    ///
    /// # Errors
    /// `Invalid` if a text is longer than any key; otherwise as [`read_seq`](Self::read_seq).
    pub async fn list_seqs(
        &self,
        prefix: impl Into<String>,
        after: impl Into<String>,
    ) -> Result<SeqPage> {
        let (prefix, mut after, limit) = (prefix.into(), after.into(), self.limit());
        let oracles = &self.shared.oracles;
        loop {
            let listing = oracles.parts(&prefix).into_iter().map(|part| {
                let (prefix, after) = (part.prefix.into(), after.clone());
                let rpc = ListSeqs { prefix, after, page_size: PAGE };
                async move { part.oracle.call(&rpc, limit).await.map(|page| (part, page)) }
            });
            match oracles.merge(try_join_all(listing).await?) {
                Ok(page) => return Ok(page),
                Err(behind) => after = behind.into(),
            }
        }
    }

    /// Deletes a key, and returns the value that its next block would have started with. The key is as if it had
    /// never been used: unless it is seeded it starts at 0, and grants once more what it has granted.
    ///
    /// # Errors
    /// `NotFound` if the key has never been used; `Uncertain` if it may have been this call that deleted it:
    /// read the key. Otherwise as [`get_seq`](Self::get_seq).
    pub async fn delete_seq(&self, key: impl AsRef<str>) -> Result<u64> {
        let key = checked(key.as_ref(), 1)?;
        self.shared.oracles.of(&key).call(&DeleteSeq { key }, self.limit()).await
    }

    /// Sets the value that the first block of a key starts with, which was never used.
    ///
    /// # Errors
    /// `Refused` if the key was used or seeded before, with this value or another one; `Uncertain`
    /// if it may have been this call that did so: read the key. `Exhausted` at a limit; otherwise as
    /// [`get_seq`](Self::get_seq).
    pub async fn seed_seq(&self, key: impl AsRef<str>, start: u64) -> Result<()> {
        let key = checked(key.as_ref(), 1)?;
        self.shared.oracles.of(&key).call(&SeedSeq { key, start }, self.limit()).await
    }

    /// Acquires a stamping lease: for `ttl`, the holder may stamp events by itself, up to the
    /// lease's bound. The holder is named by 1 to 128 bytes, and has one lease at a time.
    ///
    /// With the epoch of the holder's live lease, that lease is returned unchanged; a higher one
    /// supersedes it.
    ///
    /// # Errors
    /// `Invalid` for a bad holder or TTL (5 s to 300 s by default); `Refused` for a lower epoch;
    /// `Exhausted` at a limit; `Uncertain` if it may have been granted: ask again; `Unavailable` or
    /// `Timeout` if no leader served in time.
    pub async fn acquire_lease(
        &self,
        holder: impl AsRef<[u8]>,
        holder_epoch: u64,
        ttl: Duration,
    ) -> Result<StampingLease> {
        let holder = LeaseHolder::new(holder.as_ref()).map_err(invalid)?;
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let began = self.boot_time();
        self.call(&AcquireLease { holder, holder_epoch, ttl_ms, began }, self.limit()).await
    }

    /// Renews a live lease for its whole time. Its bound never falls.
    ///
    /// # Errors
    /// `NotFound` if the lease is unknown; `Refused` if it has run out, was released or
    /// superseded; otherwise as [`acquire_lease`](Self::acquire_lease).
    pub async fn renew_lease(&self, id: LeaseId) -> Result<StampingLease> {
        self.call(&RenewLease { id, began: self.boot_time() }, self.limit()).await
    }

    /// Releases a lease, under which nothing must be stamped any more. Releasing an unknown lease is not an
    /// error.
    ///
    /// # Errors
    /// As [`acquire_lease`](Self::acquire_lease).
    pub async fn release_lease(&self, id: LeaseId) -> Result<()> {
        self.call(&ReleaseLease { id }, self.limit()).await
    }

    /// Reads the safe frontier: the least of the high-water and the bounds of all leases that may
    /// still be relied on. It never falls.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` if no leader served in time.
    pub async fn get_safe_frontier(&self) -> Result<SafeFrontier> {
        self.call(&GetSafeFrontier, self.limit()).await
    }

    /// Reads the physical time up to which every issued timestamp is durably covered.
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` if no leader served in time.
    pub async fn get_current_max_safe(&self) -> Result<MaxSafe> {
        self.call(&GetCurrentMaxSafe, self.limit()).await
    }

    /// Closes the sessions of this client, so that servers need not keep its answers any longer. Optional:
    /// a session that is not closed expires. Call it when no request is under way; clones stay usable.
    pub async fn close(self) {
        let limit = Limit::starting_now(self.timeout.min(CLOSE_TIMEOUT));
        let closing = self.shared.oracles.iter().map(async |oracle| {
            if let Some(id) = oracle.sessions.close() {
                // If it fails, the session expires on the server.
                let _ = oracle.call(&CloseSession { id }, limit).await;
            }
        });
        join_all(closing).await;
    }

    /// A call to the main oracle.
    async fn call<R: Rpc>(&self, rpc: &R, limit: Limit) -> Result<R::Output> {
        self.main().call(rpc, limit).await
    }

    fn main(&self) -> &Cluster {
        &self.shared.oracles.main
    }

    /// The time of this machine's boot clock.
    pub(crate) fn boot_time(&self) -> BootTime {
        self.shared.clock.now().boot
    }

    fn limit(&self) -> Limit {
        Limit::starting_now(self.timeout)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

pub(crate) fn check_ts_count(count: u32) -> Result<()> {
    if (1..=MAX_TS_COUNT).contains(&count) {
        return Ok(());
    }
    let context = format!("{count} timestamps: ask for 1 to {MAX_TS_COUNT} at a time");
    Err(Error::new(ErrorKind::Invalid, context))
}

fn invalid(error: tsoracle_types::Invalid) -> Error {
    Error::new(ErrorKind::Invalid, error.to_string())
}

fn checked(key: &str, count: u32) -> Result<SeqKey> {
    let key = SeqKey::new(key).map_err(invalid)?;
    if count == 0 {
        let context = format!("0 values of {key:?}: ask for at least 1");
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok(key)
}

fn checked_batch<K: AsRef<str>>(requests: &[(K, u32)]) -> Result<Vec<(SeqKey, u32)>> {
    let len = requests.len();
    if !(1..=MAX_SEQ_BATCH_ENTRIES).contains(&len) {
        let context = format!("a batch of {len} keys: ask for 1 to {MAX_SEQ_BATCH_ENTRIES}");
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    let mut seen = HashSet::with_capacity(len);
    let mut entries = Vec::with_capacity(len);
    for (key, count) in requests {
        let key = checked(key.as_ref(), *count)?;
        if !seen.insert(key.clone()) {
            let context = format!("key {key:?} comes twice in a batch: add up its counts");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        entries.push((key, *count));
    }
    Ok(entries)
}
