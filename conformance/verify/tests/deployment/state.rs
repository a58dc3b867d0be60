//! A whole oracle in a few lines: one lock, nothing kept.

use std::collections::{BTreeMap, HashMap};

use tonic::{Code, Status, metadata::MetadataMap};
use tsoracle_proto::{metadata, v1};

use crate::liar::Lie;

const FIRST_MS: u64 = 1_800_000_000_000;

pub(crate) const EPOCH: v1::EpochWire = v1::EpochWire { hi: 0, lo: 7 };

/// Keys and counts, or the blocks granted for them.
pub(crate) type Entries = Vec<(String, u32)>;
pub(crate) type Blocks = Vec<(String, u64, u32)>;

pub(crate) struct State {
    pub(crate) lie: Option<Lie>,
    pub(crate) ms: u64,
    logical: u32,
    high_water_ms: u64,
    keys: BTreeMap<String, u64>,
    sessions: HashMap<Vec<u8>, Session>,
    leases: HashMap<Vec<u8>, Lease>,
    superseded: Vec<u64>,
    calls: u64,
}

#[derive(Default)]
struct Session {
    first_incomplete: u64,
    answers: HashMap<u64, (Entries, Blocks)>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: u64,
    holder_epoch: u64,
    bound_ms: u64,
}

fn refuse<T>(code: Code) -> Result<T, Status> {
    Err(Status::new(code, "refused"))
}

fn flagged(code: Code, flag: &'static str) -> Status {
    let mut trailers = MetadataMap::new();
    metadata::insert_flag(&mut trailers, flag);
    Status::with_metadata(code, "as it says", trailers)
}

impl State {
    pub(crate) fn new(lie: Option<Lie>) -> Self {
        Self {
            lie,
            ms: FIRST_MS,
            logical: 0,
            high_water_ms: FIRST_MS + 3_000,
            keys: BTreeMap::new(),
            sessions: HashMap::new(),
            leases: HashMap::new(),
            superseded: Vec::new(),
            calls: 0,
        }
    }

    pub(crate) fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    /// Whether to lie this time: now and then, once the load has begun.
    fn lies_now(&mut self, lie: Lie) -> bool {
        self.lies_each(lie, 20)
    }

    /// Whether to lie this time, which is so each `nth` time once the load has begun.
    fn lies_each(&mut self, lie: Lie, nth: u64) -> bool {
        if self.lies(lie) && self.keys.keys().any(|key| key.contains("/load/")) {
            self.calls += 1;
            return self.calls.is_multiple_of(nth);
        }
        false
    }

    pub(crate) fn get_ts(&mut self, count: u32) -> Result<v1::GetTsResponse, Status> {
        let zero =
            if self.lies(Lie::ZeroIsOutOfRange) { Code::OutOfRange } else { Code::InvalidArgument };
        if !(1..=1 << 18).contains(&count) && !self.lies(Lie::AnyCount) {
            return refuse(if count == 0 { zero } else { Code::InvalidArgument });
        }
        if self.lies_now(Lie::InternalError) {
            return refuse(Code::Internal);
        }
        let reissues = self.lies_now(Lie::ReissuesTimestamps);
        if self.logical.saturating_add(count) > 1 << 18 && !self.lies(Lie::LeavesTheMillisecond) {
            (self.ms, self.logical) = (self.ms + 1, 0);
        }
        let mut answer = v1::GetTsResponse {
            physical_ms: self.ms,
            logical_start: self.logical,
            count,
            epoch_hi: EPOCH.hi,
            epoch_lo: EPOCH.lo,
        };
        if !reissues {
            self.logical = self.logical.saturating_add(count);
        }
        if self.lies_now(Lie::GoesBack) {
            // Where no timestamp ever was, so that only the order is wrong.
            answer.physical_ms = FIRST_MS - self.calls;
        }
        if self.lies_now(Lie::EpochGoesBack) {
            answer.epoch_lo = 1;
        }
        if self.lies(Lie::FewerTimestamps) && count > 1 {
            answer.count -= 1;
        }
        Ok(answer)
    }

    pub(crate) fn get_seq(
        &mut self,
        entries: Entries,
        id: Option<v1::RequestId>,
    ) -> Result<Blocks, Status> {
        let Some(id) = id.filter(|_| !self.lies(Lie::NoAdditions)) else {
            // Few requests come without an id. One with an id would be sent again, and leave a gap.
            if entries.len() > 1 && self.lies_each(Lie::HalfABatch, 3) {
                self.grant(&entries[..1]);
                return refuse(Code::Unavailable);
            }
            return self.advance(&entries);
        };
        let is_named = !id.name.is_empty();
        if !is_named && id.session.len() != 16 && !self.lies(Lie::AnySession) {
            return refuse(Code::InvalidArgument);
        }
        // A name is kept like a session that has one request.
        let id = match is_named {
            true => v1::RequestId {
                session: id.name.into_bytes().into(),
                number: 1,
                first_incomplete: 1,
                ..v1::RequestId::default()
            },
            false => id,
        };
        if (id.retry || id.first_incomplete > 1)
            && !self.sessions.contains_key(&*id.session)
            && !self.lies(Lie::NewSessionOnRetry)
        {
            return Err(flagged(Code::FailedPrecondition, metadata::SESSION_UNKNOWN));
        }
        let session = self.sessions.entry(id.session.to_vec()).or_default();
        session.first_incomplete = session.first_incomplete.max(id.first_incomplete);
        if id.close {
            self.sessions.remove(&*id.session);
            return Ok(Vec::new());
        }
        if id.number < session.first_incomplete {
            return refuse(Code::FailedPrecondition);
        }
        let known = session.answers.get(&id.number).cloned();
        let forgets = self.lies(Lie::ForgetsIds)
            || is_named
                && (self.lies(Lie::ForgetsNames) || self.lies_each(Lie::ForgetsNamesUnderLoad, 5));
        if let Some((asked, answer)) = known.filter(|_| !forgets) {
            if asked != entries && !self.lies(Lie::ReusesIds) {
                return refuse(Code::InvalidArgument);
            }
            if !self.lies_now(Lie::AnswersOtherwise) {
                return Ok(answer);
            }
        }
        let answer = self.advance(&entries)?;
        if let Some(session) = self.sessions.get_mut(&*id.session) {
            session.answers.insert(id.number, (entries, answer.clone()));
        }
        Ok(answer)
    }

    fn advance(&mut self, entries: &Entries) -> Result<Blocks, Status> {
        let mut keys: Vec<&String> = entries.iter().map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let is_good = |(key, count): &(String, u32)| {
            (1..=128).contains(&key.len()) && (1..=65_536).contains(count)
        };
        let is_sound = keys.len() == entries.len() && (1..=128).contains(&keys.len());
        if !is_sound || !entries.iter().all(is_good) {
            if self.lies(Lie::RefusedBatchesSpend) && entries.len() > 1 {
                *self.keys.entry(entries[0].0.clone()).or_default() += 1;
            }
            if !self.lies(Lie::AnyKey) || entries.len() != 1 || entries[0].1 != 1 {
                return refuse(Code::InvalidArgument);
            }
        }
        let beyond = |(key, count): &(String, u32)| {
            let next = self.keys.get(key).copied().unwrap_or(0);
            next.checked_add(u64::from(*count)).is_none()
        };
        if entries.iter().any(beyond) {
            return refuse(if self.lies(Lie::OverflowIsInternal) {
                Code::Internal
            } else {
                Code::FailedPrecondition
            });
        }
        let blocks = self.grant(entries);
        if self.lies_now(Lie::RefusalsSpend) {
            return refuse(Code::ResourceExhausted);
        }
        if self.lies_now(Lie::UncommittedSpends) {
            return Err(flagged(Code::Unavailable, metadata::UNCOMMITTED));
        }
        Ok(blocks)
    }

    fn grant(&mut self, entries: &[(String, u32)]) -> Blocks {
        let first = u64::from(self.lies(Lie::StartsAt1));
        let (skips, repeats) = (self.lies_now(Lie::SkipsValues), self.lies_now(Lie::RepeatsBlocks));
        let mut blocks = Blocks::new();
        for (key, count) in entries {
            let next = self.keys.entry(key.clone()).or_insert(first);
            *next += u64::from(skips);
            blocks.push((key.clone(), *next, *count));
            *next += if repeats { 0 } else { u64::from(*count) };
        }
        blocks
    }

    pub(crate) fn read(&mut self, key: &str) -> Result<u64, Status> {
        let unknown =
            if self.lies(Lie::UnusedKeysAreZero) { Ok(0) } else { refuse(Code::NotFound) };
        let next = match self.keys.get(key) {
            _ if key.is_empty() => refuse(Code::InvalidArgument),
            Some(next) => Ok(*next),
            None => unknown,
        }?;
        Ok(if self.lies_now(Lie::ReadsOldValues) { 0 } else { next })
    }

    pub(crate) fn delete(&mut self, key: &str) -> Result<u64, Status> {
        if key.is_empty() {
            return refuse(Code::InvalidArgument);
        }
        let stays =
            self.lies(Lie::DeletesNothing) || self.lies_each(Lie::DeletesNothingUnderLoad, 2);
        let next = if stays { self.keys.get(key).copied() } else { self.keys.remove(key) };
        next.map_or_else(|| refuse(Code::NotFound), Ok)
    }

    pub(crate) fn seed(&mut self, key: &str, start: u64) -> Result<u64, Status> {
        if self.keys.contains_key(key) && !self.lies(Lie::SeedsAgain) {
            return refuse(Code::AlreadyExists);
        }
        self.keys.insert(key.to_owned(), start);
        Ok(start)
    }

    pub(crate) fn list(&self, request: &v1::ListSeqsRequest) -> (Vec<v1::SeqEntry>, bool) {
        let mut entries: Vec<_> = self
            .keys
            .iter()
            .filter(|(key, _)| key.starts_with(&request.prefix) && **key > request.start_after)
            .map(|(key, next)| v1::SeqEntry { key: key.clone(), next: *next })
            .collect();
        let page = if request.page_size == 0 { 1_000 } else { request.page_size as usize };
        let more = entries.len() > page;
        entries.truncate(page);
        if self.lies(Lie::ListsOutOfOrder) {
            entries.reverse();
        }
        (entries, more && !self.lies(Lie::ListsOnePage))
    }

    pub(crate) fn max_safe_ms(&self) -> u64 {
        if self.lies(Lie::NothingIsSafe) { 0 } else { self.high_water_ms - 3_001 }
    }

    pub(crate) fn frontier_ms(&self) -> u64 {
        let bounds = self.leases.values().map(|lease| lease.bound_ms);
        let ahead = u64::from(self.lies(Lie::FrontierRunsAhead)) * 1_000;
        bounds.chain([self.high_water_ms]).min().unwrap_or_default() + ahead
    }

    pub(crate) fn acquire(
        &mut self,
        request: v1::AcquireLeaseRequest,
    ) -> Result<v1::AcquireLeaseResponse, Status> {
        let v1::AcquireLeaseRequest { holder, holder_epoch, ttl_ms } = request;
        if holder.is_empty() || !(5_000..=300_000).contains(&ttl_ms) {
            return refuse(Code::InvalidArgument);
        }
        let live = self.leases.get(&*holder).copied();
        if live.is_some_and(|live| live.holder_epoch > holder_epoch) {
            return refuse(Code::FailedPrecondition);
        }
        let same = live.filter(|live| live.holder_epoch == holder_epoch);
        let lease = same.filter(|_| !self.lies(Lie::LeasesTwice)).unwrap_or_else(|| {
            self.superseded.extend(live.map(|live| live.id));
            self.calls += 1;
            Lease { id: self.calls, holder_epoch, bound_ms: self.bound(ttl_ms) }
        });
        self.leases.insert(holder.to_vec(), lease);
        Ok(v1::AcquireLeaseResponse {
            lease_id: lease.id,
            ts_upper_bound: lease.bound_ms,
            expires_at_ms: self.ms + ttl_ms,
            epoch: Some(EPOCH),
            remaining_ms: ttl_ms,
        })
    }

    fn bound(&mut self, ttl_ms: u64) -> u64 {
        self.high_water_ms = if self.lies(Lie::LeasesPushTime) {
            self.high_water_ms + ttl_ms
        } else {
            self.high_water_ms.max(self.ms + ttl_ms)
        };
        self.high_water_ms
    }

    pub(crate) fn renew(&mut self, id: u64) -> Result<v1::RenewLeaseResponse, Status> {
        if self.superseded.contains(&id) && !self.lies(Lie::RenewsSuperseded) {
            return refuse(Code::FailedPrecondition);
        }
        let is_known = self.leases.values().any(|lease| lease.id == id);
        if !is_known && !self.superseded.contains(&id) && !self.lies(Lie::RenewsUnknown) {
            return refuse(Code::NotFound);
        }
        let bound_ms = self.bound(5_000);
        if let Some(lease) = self.leases.values_mut().find(|lease| lease.id == id) {
            lease.bound_ms = bound_ms;
        }
        let epoch = Some(EPOCH);
        let expires_at_ms = self.ms + 300_000;
        let remaining_ms = 300_000;
        Ok(v1::RenewLeaseResponse { ts_upper_bound: bound_ms, expires_at_ms, epoch, remaining_ms })
    }

    pub(crate) fn release(&mut self, id: u64) {
        self.leases.retain(|_, lease| lease.id != id);
    }
}
