//! Owners of keys: each is the only one who uses, deletes and seeds its key, one call at a time, and so knows exactly
//! what must come.

use tsoracle_conformance::history::{Ask, Block, Blocks, Call, Next};
use tsoracle_core::{Error, ErrorKind, Oracle, Reject, Result, SeqKey, SeqRequest, state::Capped};

use crate::{
    callers::{Caller, KEYS, Request},
    naming::Named,
    reached::Reached,
};

/// One key for each owner.
pub(crate) const OWNED: [&str; 2] = ["owned 0", "owned 1"];

/// How often something is tried once the run is over.
const PERSEVERANCE: u32 = 200;

/// How many requests have names.
const ORDERS: usize = 3;

/// A key, as its owner knows it.
struct Owned {
    key: &'static str,
    /// Where its next block starts, if it exists.
    next: Option<u64>,
    /// What was granted under names.
    orders: Vec<(Request, u64)>,
}

/// The owner cannot tell any more what its key is.
struct Lost;

type Known<T> = std::result::Result<T, Lost>;

impl Caller {
    pub(crate) async fn own(self, key: &'static str) {
        let mut caller = self.without_hurry();
        let mut owned = Owned { key, next: None, orders: vec![] };
        while caller.world().is_open() {
            let step = match caller.rng().between(0..=99) {
                0..=34 => caller.advance(&mut owned).await,
                35..=49 => caller.order(&mut owned).await,
                50..=59 => caller.order_again(&mut owned).await,
                60..=74 => caller.delete(&mut owned).await,
                75..=84 => caller.seed(&mut owned).await,
                _ => caller.look(&mut owned).await,
            };
            if let Err(Lost) = step {
                return;
            }
            caller.rest().await;
        }
    }

    async fn advance(&mut self, owned: &mut Owned) -> Known<()> {
        let (key, count) = (owned.key, self.rng().between(1..=9) as u32);
        let start = owned.next.unwrap_or(0);
        let asking = move |oracle: Oracle| async move {
            let grant = oracle.get_seq(SeqRequest::single(SeqKey::new(key)?, count)?).await?;
            Ok(grant.blocks[0].start)
        };
        let answer = self.answered(asking).await;
        let after = Some(start + u64::from(count));
        let told = |start| {
            let block = Block { key: key.into(), start, count };
            Blocks { blocks: vec![block], epoch: None }
        };
        let ask = vec![Ask { key: key.into(), count }];
        let call = |outcome| Call::GetSeq { ask, request_id: None, outcome };
        let known = self.settled(owned, answer, start, after).await?;
        self.conclude(known, told, call).await;
        Ok(())
    }

    async fn delete(&mut self, owned: &mut Owned) -> Known<()> {
        let (key, next) = (owned.key, owned.next);
        let asking = move |oracle: Oracle| async move {
            oracle.delete_seq(SeqKey::new(key)?).await.map(|(next, _)| next)
        };
        let answer = self.answered(asking).await;
        let known = self.settled(owned, answer, next.unwrap_or(0), None).await?;
        if known.0.is_ok() {
            self.world().reached(Reached::Deleted);
        }
        let told = |next| Next { next, epoch: None };
        let call = |outcome| Call::DeleteSeq { key: key.into(), outcome };
        self.conclude(known, told, call).await;
        Ok(())
    }

    async fn seed(&mut self, owned: &mut Owned) -> Known<()> {
        let (key, start) = (owned.key, self.rng().between(1..=1_000_000));
        let asking = move |oracle: Oracle| async move {
            oracle.seed_seq(SeqKey::new(key)?, start).await.map(|(start, _)| start)
        };
        let answer = self.answered(asking).await;
        let known = self.settled(owned, answer, start, Some(start)).await?;
        if known.0.is_ok() {
            self.world().reached(Reached::Seeded);
        }
        let told = |next| Next { next, epoch: None };
        let call = |outcome| Call::SeedSeq { key: key.into(), outcome };
        self.conclude(known, told, call).await;
        Ok(())
    }

    /// Asks under a name until there is an answer.
    async fn order(&mut self, owned: &mut Owned) -> Known<()> {
        // Of a name that expires meanwhile, no owner knows how often it was carried out.
        if owned.orders.len() >= ORDERS || self.world().names_expire() {
            return Ok(());
        }
        let (key, count) = (owned.key, self.rng().between(1..=9) as u32);
        let name = Named::new(format!("order {} of {key}", owned.orders.len() + 1));
        let request = Request::named(name, vec![(key, count)]);
        for attempt in 0.. {
            match self.get_seq(&request).await {
                Ok(starts) => {
                    let expected = owned.next.unwrap_or(0);
                    self.compare(owned, "a block", starts[0], expected)?;
                    owned.next = Some(expected + u64::from(count));
                    owned.orders.push((request, expected));
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Rejected(_)) => return Ok(()),
                Err(_) if !self.world().is_open() && attempt > PERSEVERANCE => return Err(Lost),
                Err(_) => self.rest().await,
            }
        }
        Err(Lost)
    }

    /// Whatever became of the key, what was granted under a name is granted again, and nothing else.
    async fn order_again(&mut self, owned: &mut Owned) -> Known<()> {
        if owned.orders.is_empty() {
            return Ok(());
        }
        let (request, granted) = self.rng().pick(&owned.orders).clone();
        match self.get_seq(&request).await {
            Ok(starts) => self.compare(owned, "a block under a known name", starts[0], granted),
            Err(_) => Ok(()),
        }
    }

    async fn look(&mut self, owned: &mut Owned) -> Known<()> {
        let found = self.find(owned.key, true).await?;
        self.compare(owned, "it", found, owned.next)
    }

    fn compare<T: PartialEq + std::fmt::Debug>(
        &self,
        Owned { key, next, .. }: &Owned,
        what: &str,
        found: T,
        expected: T,
    ) -> Known<()> {
        if found == expected {
            return Ok(());
        }
        self.world().found(format!(
            "G3 deletion: {key} is at {next:?}, and {what} is {found:?} and not {expected:?}"
        ));
        Err(Lost)
    }

    /// What came of a call that is answered `expected` and leaves the key at `after`, if it is carried out.
    async fn settled(
        &mut self,
        owned: &mut Owned,
        (answer, start_ns): (Result<u64>, u64),
        expected: u64,
        after: Option<u64>,
    ) -> Known<(Result<u64>, u64)> {
        let settled = match answer {
            Ok(answer) => {
                self.compare(owned, "an answer", answer, expected)?;
                let had_nothing_to_do = owned.next.is_none() && after.is_none();
                self.compare(owned, "deleting nothing", had_nothing_to_do, false)?;
                owned.next = after;
                Ok(answer)
            }
            Err(error) => match error.kind() {
                ErrorKind::Uncertain | ErrorKind::Fatal | ErrorKind::Corrupt => {
                    self.world().reached(Reached::Settled);
                    self.pass_a_barrier().await?;
                    let found = self.find(owned.key, false).await?;
                    if found == owned.next {
                        Err(Error::new(ErrorKind::Unavailable, "it was not carried out"))
                    } else {
                        self.compare(owned, "after a call it", found, after)?;
                        owned.next = after;
                        Ok(expected)
                    }
                }
                ErrorKind::Rejected(reject) => {
                    let is_right = match reject {
                        Reject::SequenceUnknown { .. }
                        | Reject::TooMany { what: Capped::Sequences, .. } => owned.next.is_none(),
                        Reject::SequenceExists { next, .. } => owned.next == Some(*next),
                        _ => false,
                    };
                    self.compare(owned, "a refusal", is_right, true)?;
                    Err(error)
                }
                _ => Err(error),
            },
        };
        Ok((settled, start_ns))
    }

    /// Returns once a commit was stored that began after all of this caller's calls had ended: what these have not
    /// stored by then is based on a version that is gone.
    async fn pass_a_barrier(&mut self) -> Known<()> {
        for attempt in 0.. {
            if self.get_seq(&Request::plain(vec![(KEYS[0], 1)])).await.is_ok() {
                return Ok(());
            }
            self.rest_unless_over(attempt).await?;
        }
        Err(Lost)
    }

    /// Reads the key, however often that has to be tried. What is read while another call is looked into belongs to that
    /// call, and is not a call of its own in the history.
    async fn find(&mut self, key: &'static str, is_noted: bool) -> Known<Option<u64>> {
        for attempt in 0.. {
            let asking =
                move |oracle: Oracle| async move { oracle.read_seq(SeqKey::new(key)?).await };
            let (answer, start_ns) = self.answered(asking).await;
            let found = answer.as_ref().ok().copied();
            let told = |next: Option<u64>| Next { next: next.unwrap_or(0), epoch: None };
            let call = |outcome| Call::ReadSeq { key: key.into(), outcome };
            match is_noted {
                true => drop(self.conclude((answer, start_ns), told, call).await),
                false => self.turn(&answer),
            }
            match found {
                Some(found) => return Ok(found),
                None => self.rest_unless_over(attempt).await?,
            }
        }
        Err(Lost)
    }

    async fn rest_unless_over(&mut self, attempt: u32) -> Known<()> {
        if !self.world().is_open() && attempt > PERSEVERANCE {
            return Err(Lost);
        }
        self.rest().await;
        Ok(())
    }
}
