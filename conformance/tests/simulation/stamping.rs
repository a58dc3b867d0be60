//! Holders of stamping leases, readers of the frontier, and what must hold between them.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use tsoracle_core::{ErrorKind, LeaseHolder, LeaseId, Oracle, Reject, Result, StampingLease};

use crate::{callers::Caller, reached::Reached, refusals::Asked};

/// How many callers hold leases.
pub(crate) const HOLDERS: u64 = 2;

/// What holders believe, and readers have read. All times are those of the run.
#[derive(Default)]
pub(crate) struct Stamping(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    holdings: Vec<Holding>,
    /// Renewals and releases whose outcome is not known: they may change the lease at any time.
    in_doubt: BTreeMap<LeaseId, u32>,
    frontiers: Vec<Frontier>,
}

/// A lease, as its holder believes in it until it hears otherwise.
struct Holding {
    id: LeaseId,
    bound_ms: u64,
    until_ns: u64,
}

struct Frontier {
    start_ns: u64,
    end_ns: u64,
    physical_ms: u64,
}

impl Stamping {
    fn holds(&self, lease: &StampingLease, start_ns: u64) {
        let until_ns = start_ns + lease.remaining.as_nanos() as u64;
        let (id, bound_ms) = (lease.id, lease.bound_ms);
        let mut seen = self.0.lock().unwrap();
        if seen.in_doubt.get(&id).is_none_or(|requests| *requests == 0) {
            seen.holdings.push(Holding { id, bound_ms, until_ns });
        }
    }

    /// A request is about to be sent by which the lease may end, or get another bound.
    fn lets_go(&self, id: LeaseId, now_ns: u64) {
        let mut seen = self.0.lock().unwrap();
        *seen.in_doubt.entry(id).or_default() += 1;
        let held = seen.holdings.iter_mut().filter(|holding| holding.id == id);
        held.for_each(|holding| holding.until_ns = holding.until_ns.min(now_ns));
    }

    /// The outcome of such a request is known.
    fn knows(&self, id: LeaseId) {
        *self.0.lock().unwrap().in_doubt.entry(id).or_default() -= 1;
    }

    fn read(&self, frontier: Frontier) {
        self.0.lock().unwrap().frontiers.push(frontier);
    }

    /// What of it contradicts the promises.
    pub(crate) fn findings(&self) -> Vec<String> {
        let mut seen = self.0.lock().unwrap();
        let Seen { holdings, frontiers, .. } = &mut *seen;
        let mut found = Vec::new();
        for Frontier { end_ns, physical_ms, .. } in &*frontiers {
            let passed = holdings
                .iter()
                .find(|held| held.until_ns > *end_ns && held.bound_ms < *physical_ms);
            if let Some(Holding { id, bound_ms, until_ns }) = passed {
                found.push(format!(
                    "frontier: {physical_ms} was answered at {end_ns}, past lease {id}, whose holder may \
                     stamp up to {bound_ms} until {until_ns}"
                ));
            }
        }
        frontiers.sort_by_key(|frontier| frontier.start_ns);
        let mut ended: Vec<_> = frontiers.iter().collect();
        ended.sort_by_key(|frontier| frontier.end_ns);
        let (mut ended, mut highest_ms) = (ended.into_iter().peekable(), 0);
        for Frontier { start_ns, physical_ms, .. } in &*frontiers {
            while let Some(before) = ended.next_if(|before| before.end_ns < *start_ns) {
                highest_ms = highest_ms.max(before.physical_ms);
            }
            if *physical_ms < highest_ms {
                found.push(format!("frontier: it fell from {highest_ms} to {physical_ms}"));
            }
        }
        found
    }
}

impl Caller {
    pub(crate) async fn hold_leases(mut self, number: u64) {
        // Two callers may share a name, and so supersede each other; but no epoch, as that makes a holder one.
        let mut holder_epoch = 1 + number;
        while self.world().is_open() {
            let name = self.rng().pick(&["one", "one", "two", "three"]).to_string();
            holder_epoch += HOLDERS * self.rng().between(0..=1);
            let ttl = self.rng().millis(100..=3_000);
            if let Some(lease) = self.acquire(name, holder_epoch, ttl).await {
                self.keep(lease).await;
            }
            self.rest().await;
        }
    }

    async fn acquire(&mut self, name: String, epoch: u64, ttl: Duration) -> Option<StampingLease> {
        let holder = LeaseHolder::new(name).unwrap();
        let acquire =
            move |oracle: Oracle| async move { oracle.acquire_lease(holder, epoch, ttl).await };
        let lease = self.lease_answered(None, acquire).await.ok()?;
        self.world().reached(Reached::LeaseGranted);
        Some(lease)
    }

    /// Renews a lease now and then, then releases it or lets it run out.
    async fn keep(&mut self, lease: StampingLease) {
        let id = lease.id;
        while self.world().is_open() && self.rng().chance(700) {
            self.rest().await;
            let now_ns = self.world().stamp_ns();
            self.world().stamping.lets_go(id, now_ns);
            let renew = move |oracle: Oracle| async move { oracle.renew_lease(id).await };
            match self.lease_answered(Some(id), renew).await {
                Ok(_) => self.world().reached(Reached::LeaseRenewed),
                Err(Some(Reject::LeaseOver { .. } | Reject::LeaseSuperseded { .. })) => return,
                Err(_) => {}
            }
        }
        if self.rng().chance(300) {
            let now_ns = self.world().stamp_ns();
            self.world().stamping.lets_go(id, now_ns);
            let release = move |oracle: Oracle| async move { oracle.release_lease(id).await };
            let (answer, start_ns) = self.answered(release).await;
            self.judge(
                &answer,
                start_ns,
                Asked { keys: vec![], id: None, name: None, lease: Some(id) },
            );
            self.turn(&answer);
        }
    }

    async fn lease_answered<F>(
        &mut self,
        lease: Option<LeaseId>,
        ask: impl FnOnce(Oracle) -> F + Send + 'static,
    ) -> Result<StampingLease, Option<Reject>>
    where
        F: Future<Output = Result<StampingLease>> + Send + 'static,
    {
        let (answer, start_ns) = self.answered(ask).await;
        self.judge(&answer, start_ns, Asked { keys: vec![], id: None, name: None, lease });
        self.turn(&answer);
        if let Some(id) = lease
            && is_known(&answer)
        {
            self.world().stamping.knows(id);
        }
        match answer {
            Ok(granted) => {
                let world = self.world();
                world.stamping.holds(&granted, start_ns);
                world.refusals.granted(world.stamp_ns(), granted.id);
                Ok(granted)
            }
            Err(error) => match error.kind() {
                ErrorKind::Rejected(reject) => Err(Some(reject.clone())),
                _ => Err(None),
            },
        }
    }

    pub(crate) async fn read_frontiers(mut self) {
        while self.world().is_open() {
            let read = |oracle: Oracle| async move { oracle.safe_frontier().await };
            let (answer, start_ns) = self.answered(read).await;
            self.turn(&answer);
            if let Ok(frontier) = answer {
                let (end_ns, physical_ms) = (self.world().stamp_ns(), frontier.physical_ms);
                self.world().stamping.read(Frontier { start_ns, end_ns, physical_ms });
                self.world().reached(Reached::Frontier);
            }
            self.rest().await;
        }
    }
}

fn is_known<T>(answer: &Result<T>) -> bool {
    !matches!(answer, Err(error) if *error.kind() == ErrorKind::Uncertain)
}
