//! Stamping leases, and the frontier that keeps behind the bounds of all of them.
//!
//! A bound never lies below the high-water, and the high-water is raised to it: so the frontier never
//! falls, and the next leader grants above everything that any holder may have stamped. Bounds
//! come from the wall clock and not from each other, so that leases do not push them on. Expiry comes
//! from session time, which no wall clock moves and which runs only while a leader serves.

use super::{
    Answer, Capped, LeaseAsk, LeaseGrant, Moment, Record, ReignRecord, Reject, Reply, Requester,
    View, Writes, keys,
    plan::Planned,
    record::{LEASE_RULES, LeaseRecord, Leases, Meta, OWNER_RULES, cast, load},
    reign,
    view::Write,
};
use crate::{Epoch, LeaseId, Result, engine::MAX_HIGH_WATER_MS};

/// How many expired leases a command ends at most.
pub(super) const EXPIRE_LEASES: usize = 64;

pub(super) fn lease(view: &dyn View, epoch: Epoch, ask: &LeaseAsk, at: Moment) -> Planned {
    let reign = reign::serving(view, epoch)?.clone();
    let mut table = Table::load(view, reign, at)?;
    let reply = match ask {
        LeaseAsk::Acquire { holder, .. } => {
            let current = table.find(view, &keys::lease_of(holder))?;
            table.acquire(ask, current)?
        }
        LeaseAsk::Renew { by, id } => {
            let lease = table.find(view, &keys::lease(*id))?;
            table.renew(by, *id, lease)?
        }
        LeaseAsk::Release { by, id } => match table.find(view, &keys::lease(*id))? {
            Some(lease) if !by.may_act_for(lease.owner.as_ref()) => {
                return Err(Reject::LeaseOfAnother { id: *id }.into());
            }
            lease => {
                lease.iter().for_each(|lease| table.remove(lease));
                Reply::LeaseReleased
            }
        },
        LeaseAsk::Expire => Reply::LeasesExpired(table.ended.len() as u64),
    };
    Ok((reply, table.finish(view)?))
}

/// The least of the high-water and all bounds. Leases count until a command has ended them, so that
/// what was answered holds under every later leader.
pub(super) fn frontier(view: &dyn View, elapsed_ms: u64) -> Result<Answer> {
    let Some(reign) = ReignRecord::load(view)? else {
        return Ok(Answer::Frontier { frontier_ms: 0, expired: false });
    };
    let (from, to) = keys::lease_bounds();
    let lowest = view.scan(&from, &to, 1)?;
    let lowest = lowest.first().and_then(|(key, _)| keys::bound_of(key));
    let (from, to) = keys::lease_ends();
    let first = view.scan(&from, &to, 1)?;
    let first = first.first().map(|(key, record)| cast::<LeaseRecord>(key, record)).transpose()?;
    let session_ms = reign.session_time(elapsed_ms);
    Ok(Answer::Frontier {
        frontier_ms: lowest.map_or(reign.high_water_ms, |bound| bound.min(reign.high_water_ms)),
        expired: first.is_some_and(|lease| lease.expires_ms() <= session_ms),
    })
}

impl LeaseRecord {
    /// The session time from which on no holder relies on the lease: its holder's clock may run slower
    /// than the leader's by a tenth.
    fn expires_ms(&self) -> u64 {
        self.until_ms.saturating_add(self.ttl_ms / 10 + 1)
    }
}

/// The leases as one command changes them.
struct Table {
    reign: ReignRecord,
    leases: Leases,
    now_ms: u64,
    session_ms: u64,
    /// What had expired and was ended along.
    ended: Vec<LeaseId>,
    writes: Writes,
}

impl Table {
    fn load(view: &dyn View, mut reign: ReignRecord, at: Moment) -> Result<Self> {
        let session_ms = reign.session_time(at.elapsed_ms);
        reign.session_ms = session_ms;
        let leases = load(view, keys::LEASES)?.cloned().unwrap_or_default();
        let (writes, now_ms) = (Writes::default(), at.now_ms);
        let mut table = Self { reign, leases, now_ms, session_ms, ended: vec![], writes };
        table.end_expired(view)?;
        Ok(table)
    }

    /// Ends what no holder relies on any more, up to a limit.
    fn end_expired(&mut self, view: &dyn View) -> Result<()> {
        let (from, _) = keys::lease_ends();
        // Not beyond what has expired: many commands of one commit would look at all leases there are.
        let to = keys::lease_end(self.session_ms.saturating_add(1), LeaseId(0));
        for (key, record) in view.scan(&from, &to, EXPIRE_LEASES)? {
            let lease: &LeaseRecord = cast(key, record)?;
            if lease.expires_ms() > self.session_ms {
                break;
            }
            self.remove(lease);
            self.ended.push(lease.id);
        }
        Ok(())
    }

    /// A lease that was not ended along.
    fn find(&self, view: &dyn View, key: &[u8]) -> Result<Option<LeaseRecord>> {
        let found = load::<LeaseRecord>(view, key)?;
        Ok(found.filter(|lease| !self.ended.contains(&lease.id)).cloned())
    }

    fn acquire(&mut self, ask: &LeaseAsk, current: Option<LeaseRecord>) -> Result<Reply, Reject> {
        let LeaseAsk::Acquire { ref by, ref holder, holder_epoch, ttl_ms, limits } = *ask else {
            unreachable!("called for an acquisition only")
        };
        let live = current.as_ref().filter(|lease| self.is_live(lease));
        if let Some(live) = live {
            if !by.may_act_for(live.owner.as_ref()) {
                return Err(Reject::LeaseOfAnother { id: live.id });
            }
            if live.holder_epoch > holder_epoch {
                return Err(Reject::StaleHolder { current: live.holder_epoch });
            }
            if live.holder_epoch == holder_epoch {
                return Ok(Reply::Leased(self.grant(live)));
            }
        }
        // Its holder may not know yet: it counts until it has expired.
        if let Some(current) = current {
            self.put(&LeaseRecord { superseded: true, ..current });
        }
        if self.leases.count >= limits.leases {
            return Err(Reject::TooMany { what: Capped::Leases, limit: limits.leases });
        }
        self.leases.count += 1;
        self.leases.last_id += 1;
        let (id, holder) = (LeaseId(self.leases.last_id), holder.clone());
        let mut lease = LeaseRecord {
            id,
            holder,
            holder_epoch,
            ttl_ms,
            bound_ms: 0,
            expires_at_ms: 0,
            until_ms: 0,
            superseded: false,
            owner: by.owner().cloned(),
        };
        self.run(&mut lease)?;
        self.put(&lease);
        Ok(Reply::Leased(self.grant(&lease)))
    }

    fn renew(
        &mut self,
        by: &Requester,
        id: LeaseId,
        lease: Option<LeaseRecord>,
    ) -> Result<Reply, Reject> {
        let over = match id.0 {
            1.. if id.0 <= self.leases.last_id => Reject::LeaseOver { id },
            _ => Reject::LeaseUnknown { id },
        };
        let mut lease = lease.filter(|lease| self.is_live(lease)).ok_or(over)?;
        if !by.may_act_for(lease.owner.as_ref()) {
            return Err(Reject::LeaseOfAnother { id });
        }
        if lease.superseded {
            return Err(Reject::LeaseSuperseded { id });
        }
        self.writes.delete(keys::lease_end(lease.expires_ms(), id));
        self.writes.delete(keys::lease_bound(lease.bound_ms, id));
        self.run(&mut lease)?;
        self.put(&lease);
        Ok(Reply::Leased(self.grant(&lease)))
    }

    /// Lets a lease run for its whole time from now on.
    fn run(&mut self, lease: &mut LeaseRecord) -> Result<(), Reject> {
        let until_ms = self.now_ms.saturating_add(lease.ttl_ms);
        if until_ms > MAX_HIGH_WATER_MS {
            return Err(Reject::OutOfRange { high_water_ms: until_ms });
        }
        self.reign.high_water_ms = self.reign.high_water_ms.max(until_ms);
        lease.bound_ms = self.reign.high_water_ms;
        lease.expires_at_ms = until_ms;
        lease.until_ms = self.session_ms.saturating_add(lease.ttl_ms);
        Ok(())
    }

    /// Whether its holder may rely on it.
    fn is_live(&self, lease: &LeaseRecord) -> bool {
        self.session_ms < lease.until_ms
    }

    fn grant(&self, lease: &LeaseRecord) -> LeaseGrant {
        LeaseGrant {
            id: lease.id,
            bound_ms: lease.bound_ms,
            expires_at_ms: lease.expires_at_ms,
            remaining_ms: lease.until_ms.saturating_sub(self.session_ms),
        }
    }

    fn put(&mut self, lease: &LeaseRecord) {
        if !lease.superseded {
            self.writes.put(keys::lease_of(&lease.holder), lease.clone());
        }
        // The index holds the whole record: what a scan finds could not be looked up any more.
        self.writes.put(keys::lease_end(lease.expires_ms(), lease.id), lease.clone());
        self.writes.put(keys::lease_bound(lease.bound_ms, lease.id), Record::Mark);
        self.writes.put(keys::lease(lease.id), lease.clone());
    }

    fn remove(&mut self, lease: &LeaseRecord) {
        if !lease.superseded {
            self.writes.delete(keys::lease_of(&lease.holder));
        }
        self.writes.delete(keys::lease_end(lease.expires_ms(), lease.id));
        self.writes.delete(keys::lease_bound(lease.bound_ms, lease.id));
        self.writes.delete(keys::lease(lease.id));
        self.leases.count = self.leases.count.saturating_sub(1);
    }

    /// The writes to make: none if no lease has changed.
    fn finish(mut self, view: &dyn View) -> Result<Writes> {
        if self.writes.is_empty() {
            return Ok(self.writes);
        }
        let mut meta = Meta::load(view)?;
        let is_owned = |(_, write): &(_, Write)| matches!(write, Write::Put(Record::Lease(lease)) if lease.owner.is_some());
        let rules = match self.writes.iter().any(is_owned) {
            true => OWNER_RULES,
            false => LEASE_RULES,
        };
        if meta.rules < rules {
            meta.rules = rules;
            self.writes.put(keys::META, meta);
        }
        self.writes.put(keys::LEASES, self.leases);
        self.writes.put(keys::REIGN, self.reign);
        Ok(self.writes)
    }
}
