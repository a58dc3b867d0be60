use std::time::Duration;

use super::{Oracle, unplanned};
use crate::{
    Epoch, Error, ErrorKind, LeaseHolder, LeaseId, MAX_KEY_BYTES, Result, SafeFrontier, SeqKey,
    StampingLease,
    engine::lost,
    state::{Answer, Command, LeaseAsk, Moment, Query, Reply, Seed, millis},
};

/// The most sequences that one page lists.
pub const MAX_SEQ_PAGE: usize = 1_000;

/// How many commands that end expired leases one reading of the frontier waits for.
const MOST_EXPIRIES: usize = 16;

/// A reading of the frontier.
struct Frontier {
    safe: SafeFrontier,
    /// It may go on once leases that have expired are ended.
    expired: bool,
}

/// Which sequences to list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SeqList {
    /// Only those whose keys begin with this; empty for all.
    pub prefix: String,
    /// Only those after this key, the last one of the page before; empty for the first page.
    pub after: String,
    /// How many at most: 1 to [`MAX_SEQ_PAGE`].
    pub limit: usize,
}

/// A page of sequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqListing {
    /// Keys in byte order, each with the value its next block starts with.
    pub entries: Vec<(SeqKey, u64)>,
    /// There are more after the last one.
    pub more: bool,
}

impl Oracle {
    /// A page of the sequences, in the byte order of their keys, as of one moment.
    ///
    /// A page follows the last key of the one before, so that listing goes on rightly whatever is
    /// used or seeded meanwhile.
    ///
    /// # Errors
    /// `Invalid` if the limit is not 1 to [`MAX_SEQ_PAGE`] or a text is longer than any key;
    /// `NotLeader`, `Unavailable`, `Overloaded`, `Fatal`.
    pub async fn list_seqs(&self, list: SeqList) -> Result<SeqListing> {
        let SeqList { prefix, after, limit } = list;
        let invalid = |context| Err(Error::new(ErrorKind::Invalid, context));
        if !(1..=MAX_SEQ_PAGE).contains(&limit) {
            return invalid(format!("a page has 1 to {MAX_SEQ_PAGE} sequences, not {limit}"));
        }
        if let Some(text) = [&prefix, &after].into_iter().find(|text| text.len() > MAX_KEY_BYTES) {
            let given = text.len();
            return invalid(format!(
                "no key is longer than {MAX_KEY_BYTES} bytes, so none begins \
                 with or follows one of {given}"
            ));
        }
        // One more is asked for, to see whether there is any.
        let query = Query::Sequences { prefix, after, limit: limit + 1 };
        match self.ask(|_| query.clone()).await?.0 {
            Answer::Sequences(mut entries) => {
                let more = entries.len() > limit;
                entries.truncate(limit);
                Ok(SeqListing { entries, more })
            }
            other => Err(unplanned("a list of sequences", &other)),
        }
    }

    /// Sets the first value of a sequence that was never used, and returns it.
    ///
    /// # Errors
    /// `Rejected` with [`Reject::SequenceExists`](crate::Reject::SequenceExists) for one that was
    /// used or seeded before, with this value or another one: after `Uncertain`, read the sequence.
    /// Otherwise as [`get_seq`](Self::get_seq).
    pub async fn seed_seq(&self, key: SeqKey, start: u64) -> Result<(u64, Epoch)> {
        let limits = self.shared.options.limits;
        match self.run(Command::Seed(Seed { key, start, limits })).await? {
            (Reply::Seeded(next), epoch) => Ok((next, epoch)),
            (other, _) => Err(unplanned("a seed", &other)),
        }
    }

    /// Grants a stamping lease for `ttl`, or returns the live one of the same holder and holder's
    /// epoch. A higher epoch supersedes the holder's lease, whose bound still counts until it has
    /// expired. Asking again is safe.
    ///
    /// # Errors
    /// `Invalid` if `ttl` is outside of [`lease_ttl`](crate::OracleOptions::lease_ttl); `Rejected`
    /// with [`Reject::StaleHolder`](crate::Reject::StaleHolder) below the epoch of the live lease,
    /// or at the cap; otherwise as [`get_seq`](Self::get_seq).
    pub async fn acquire_lease(
        &self,
        holder: LeaseHolder,
        holder_epoch: u64,
        ttl: Duration,
    ) -> Result<StampingLease> {
        let (least, most) = self.shared.options.lease_ttl;
        if ttl < least || ttl > most {
            let context = format!("a stamping lease runs for {least:?} to {most:?}, not {ttl:?}");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let limits = self.shared.options.limits;
        let ttl_ms = millis(ttl);
        self.leased(LeaseAsk::Acquire { holder, holder_epoch, ttl_ms, limits }).await
    }

    /// Lets a live lease run for its whole time again. Its bound never falls.
    ///
    /// # Errors
    /// `Rejected` with [`LeaseUnknown`](crate::Reject::LeaseUnknown),
    /// [`LeaseOver`](crate::Reject::LeaseOver) or
    /// [`LeaseSuperseded`](crate::Reject::LeaseSuperseded); otherwise as
    /// [`get_seq`](Self::get_seq).
    pub async fn renew_lease(&self, id: LeaseId) -> Result<StampingLease> {
        self.leased(LeaseAsk::Renew { id }).await
    }

    /// Ends a lease, whose holder must not stamp any more. Releasing an unknown lease is not an error.
    ///
    /// # Errors
    /// As [`get_seq`](Self::get_seq).
    pub async fn release_lease(&self, id: LeaseId) -> Result<()> {
        match self.run(lease(LeaseAsk::Release { id })).await? {
            (Reply::LeaseReleased, _) => Ok(()),
            (other, _) => Err(unplanned("the release of a lease", &other)),
        }
    }

    /// The least of the high-water and the bounds of all leases that may still be relied on.
    ///
    /// It never falls, whatever the clocks do and whoever leads. Leases that have expired are ended
    /// for good before it passes their bounds.
    ///
    /// # Errors
    /// As [`get_seq`](Self::get_seq).
    pub async fn safe_frontier(&self) -> Result<SafeFrontier> {
        let mut frontier = self.read_frontier().await?;
        for _ in 0..MOST_EXPIRIES {
            if !frontier.expired {
                break;
            }
            match self.run(lease(LeaseAsk::Expire)).await? {
                (Reply::LeasesExpired(_), _) => frontier = self.read_frontier().await?,
                (other, _) => return Err(unplanned("the expiry of leases", &other)),
            }
        }
        // What has expired and was not ended yet holds the frontier back, which harms nobody.
        Ok(frontier.safe)
    }

    async fn read_frontier(&self) -> Result<Frontier> {
        let query = |elapsed_ms| Query::Frontier { elapsed_ms };
        match self.ask(query).await? {
            (Answer::Frontier { frontier_ms: physical_ms, expired }, epoch) => {
                Ok(Frontier { safe: SafeFrontier { physical_ms, epoch }, expired })
            }
            (other, _) => Err(unplanned("a frontier's query", &other)),
        }
    }

    async fn leased(&self, ask: LeaseAsk) -> Result<StampingLease> {
        match self.run(lease(ask)).await? {
            (Reply::Leased(grant), epoch) => {
                // The high-water was raised to it.
                self.shared.reserve(grant.bound_ms);
                Ok(StampingLease {
                    id: grant.id,
                    bound_ms: grant.bound_ms,
                    expires_at_ms: grant.expires_at_ms,
                    remaining: Duration::from_millis(grant.remaining_ms),
                    epoch,
                })
            }
            (other, _) => Err(unplanned("a lease", &other)),
        }
    }

    /// Queues a command for the next commit, and waits for its reply.
    async fn run(&self, command: Command) -> Result<(Reply, Epoch)> {
        let outcome = self.submit(vec![command]).await?.pop();
        self.counted(outcome.unwrap_or_else(|| Err(lost())))
    }
}

/// A request about leases; when it was made is filled in when it is submitted.
fn lease(ask: LeaseAsk) -> Command {
    Command::Lease { ask, at: Moment::default() }
}
