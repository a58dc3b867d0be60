use std::time::Duration;

use super::{Oracle, unplanned};
use crate::{
    Caller, Error, ErrorKind, LeaseHolder, LeaseId, Result, SafeFrontier, StampingLease,
    state::{Answer, Command, LeaseAsk, Moment, Query, Reply, Requester, millis},
};

/// How many commands that end expired leases one reading of the frontier waits for.
const MOST_EXPIRIES: usize = 16;

/// A reading of the frontier.
struct Frontier {
    safe: SafeFrontier,
    /// It may go on once leases that have expired are ended.
    expired: bool,
}

impl Oracle {
    /// Grants a stamping lease for `ttl`, or returns the live one of the same holder and holder's
    /// epoch. A higher epoch supersedes the holder's lease, whose bound still counts until it has
    /// expired. Asking again is safe. A lease that a [caller](Caller::with_identity) with a proven identity has
    /// acquired is refused to others, with [`Reject::LeaseOfAnother`](crate::Reject::LeaseOfAnother), here and below.
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
        let by = self.requester();
        self.leased(LeaseAsk::Acquire { by, holder, holder_epoch, ttl_ms, limits }).await
    }

    /// Lets a live lease run for its whole time again. Its bound never falls.
    ///
    /// # Errors
    /// `Rejected` with [`LeaseUnknown`](crate::Reject::LeaseUnknown),
    /// [`LeaseOver`](crate::Reject::LeaseOver) or
    /// [`LeaseSuperseded`](crate::Reject::LeaseSuperseded); otherwise as
    /// [`get_seq`](Self::get_seq).
    pub async fn renew_lease(&self, id: LeaseId) -> Result<StampingLease> {
        self.leased(LeaseAsk::Renew { by: self.requester(), id }).await
    }

    /// Ends a lease, whose holder must not stamp any more. Releasing an unknown lease is not an error.
    ///
    /// # Errors
    /// As [`get_seq`](Self::get_seq).
    pub async fn release_lease(&self, id: LeaseId) -> Result<()> {
        match self.run(lease(LeaseAsk::Release { by: self.requester(), id })).await? {
            (Reply::LeaseReleased, _) => Ok(()),
            (other, _) => Err(unplanned("the release of a lease", &other)),
        }
    }

    /// The least of the high-water and the bounds of all leases that may still be relied on.
    ///
    /// It never falls, whatever the clocks do and whichever node leads. Leases that have expired are ended
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
        // What has expired and was not ended yet holds the frontier back, which does no harm.
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

    fn requester(&self) -> Requester {
        self.caller.as_ref().map_or(Requester::Process, Caller::requester)
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
}

/// A request about leases; when it was made is filled in when it is submitted.
fn lease(ask: LeaseAsk) -> Command {
    Command::Lease { ask, at: Moment::default() }
}
