//! Numbers that leap: terms, ballots and indexes far above all that is known.
//!
//! A number that is taken can never be taken back. One message with the last term or ballot that there is would
//! leave no later one for an election, on this node and, through it, on all others. So a number may be above what
//! this node has reached by [`MAX_LEAP`] at most; one that is further ahead is taken only if a majority of the
//! nodes that vote confirms it, which are asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use tsoracle_core::{BootTime, Error, ErrorKind, Result};

use crate::Calls;

/// How far above what is known a number may be.
pub const MAX_LEAP: u64 = 1 << 20;

/// The last number that is ever taken. At a million a second it is reached after two thousand years, and what is
/// above it leaves room to count on.
pub const MAX_NUMBER: u64 = 1 << 56;

/// The kind of the calls that ask how far a node has come. Their answer is an encoded [`Reached`].
pub const REACHED: u32 = u32::MAX - 1;

/// How long a node has to answer that.
const ANSWERED: Duration = Duration::from_millis(500);

/// In so much time a term rises by one leap at most, however many messages raise it.
const LEAP_TIME: Duration = Duration::from_secs(3_600);

/// For how long others are not asked again after they did not confirm a number.
const PAUSE: Duration = Duration::from_secs(1);

/// How far a node has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reached {
    /// Its term, or the number of its ballot.
    pub term: u64,
    /// The index after its log.
    pub index: u64,
}

impl Reached {
    /// The body of an answer to a call of kind [`REACHED`].
    pub fn encode(self) -> Bytes {
        [self.term.to_be_bytes(), self.index.to_be_bytes()].concat().into()
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let (term, index) = body.split_first_chunk()?;
        let index = index.try_into().ok()?;
        Some(Self { term: u64::from_be_bytes(*term), index: u64::from_be_bytes(index) })
    }
}

/// Tells leaps, and has them confirmed.
#[derive(Debug, Default)]
pub struct Leaps {
    known: Mutex<Known>,
    asking: tokio::sync::Mutex<Option<BootTime>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The term of this node at a time that is no longer ago than [`LEAP_TIME`].
    term: Option<(BootTime, u64)>,
    /// What a majority has confirmed.
    confirmed: Reached,
}

/// Who votes: each of these sets by its majority.
pub type Voters = [BTreeSet<u32>];

impl Leaps {
    /// Whether a message that names `named` may be taken by a node that has reached `own` by itself, without
    /// asking others. An index of 0 says nothing.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub fn check(&self, own: Reached, named: Reached, now: BootTime) -> Result<()> {
        let mut known = self.known();
        let before = known.term.filter(|(since, _)| now.since(*since) < LEAP_TIME);
        let (_, term) = *known.term.insert(before.unwrap_or((now, own.term)));
        let limit = |own: u64, confirmed: u64| own.max(confirmed).saturating_add(MAX_LEAP);
        let term = limit(term, known.confirmed.term).min(MAX_NUMBER);
        if named.term > term {
            return Err(leaps("term", named.term, own.term));
        }
        if named.index > limit(own.index, known.confirmed.index).min(MAX_NUMBER) {
            return Err(leaps("index", named.index, own.index));
        }
        Ok(())
    }

    /// As [`check`](Self::check); what leaps is asked about, of all that vote.
    ///
    /// A term has to be confirmed by a majority. An index is refused if so many say that they are not nearly
    /// there that no majority can be: a node that was away for long may have to learn from the only one left
    /// where the log has come meanwhile. One that belongs to no cluster yet learns it from whoever takes it in.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub async fn admit(
        &self,
        (node, own): (u32, Reached),
        named: Reached,
        voters: &Voters,
        (peers, now): (&dyn Calls, BootTime),
    ) -> Result<()> {
        let Err(error) = self.check(own, named, now) else { return Ok(()) };
        if named.term.max(named.index) > MAX_NUMBER {
            return Err(error);
        }
        let Ok(mut asked) = self.asking.try_lock() else { return Err(error) };
        if asked.is_some_and(|asked| now.since(asked) < PAUSE) {
            return Err(error);
        }
        *asked = Some(now);
        let others: BTreeSet<_> =
            voters.iter().flatten().copied().filter(|id| *id != node).collect();
        let answers = others.into_iter().map(|other| async move {
            let answer = peers.call(other, REACHED, Bytes::new(), ANSWERED).await.ok();
            (other, answer.and_then(|answer| Reached::decode(&answer)))
        });
        let answers: BTreeMap<_, _> = join_all(answers).await.into_iter().collect();
        self.confirm(named, voters, &answers);
        self.check(own, named, now)
    }

    fn confirm(&self, named: Reached, voters: &Voters, answers: &BTreeMap<u32, Option<Reached>>) {
        let least = Reached {
            term: named.term.saturating_sub(MAX_LEAP),
            index: named.index.saturating_sub(MAX_LEAP),
        };
        let is_majority = |confirms: &dyn Fn(&Option<Reached>) -> bool| {
            voters.iter().all(|voters| {
                let confirming = voters.iter().filter(|id| answers.get(id).is_some_and(confirms));
                confirming.count() * 2 > voters.len()
            })
        };
        let mut known = self.known();
        if !voters.is_empty()
            && is_majority(&|said| said.is_some_and(|said| said.term >= least.term))
        {
            known.confirmed.term = known.confirmed.term.max(least.term);
        }
        if is_majority(&|said| said.is_none_or(|said| said.index >= least.index)) {
            known.confirmed.index = known.confirmed.index.max(least.index);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leaps(what: &str, named: u64, own: u64) -> Error {
    let context = format!(
        "the {what} {named} is more than {MAX_LEAP} ahead of {own}, and no majority of the nodes has confirmed \
         it; it is ignored. A node that is damaged, or no member, names such numbers"
    );
    Error::new(ErrorKind::Unavailable, context)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// How far the others say that they are; those that are not here do not answer.
    #[derive(Debug, Default)]
    struct Others(BTreeMap<u32, Reached>);

    #[async_trait]
    impl Calls for Others {
        async fn call(&self, to: u32, kind: u32, _: Bytes, _: Duration) -> Result<Bytes> {
            assert_eq!(kind, REACHED);
            let reached = self.0.get(&to).map(|reached| reached.encode());
            reached.ok_or_else(|| Error::new(ErrorKind::Unavailable, "it is down"))
        }
    }

    const OWN: Reached = Reached { term: 7, index: 100 };
    const FAR: Reached = Reached { term: 1 << 40, index: 1 << 40 };

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    async fn admits(others: &[(u32, Reached)], named: Reached, voters: u32) -> bool {
        let others = Others(others.iter().copied().collect());
        let voters = if voters == 0 { vec![] } else { vec![(1..=voters).collect()] };
        let leaps = Leaps::default();
        let admitted = leaps.admit((1, OWN), named, &voters, (&others, at(1))).await;
        assert_eq!(admitted.is_ok(), leaps.check(OWN, named, at(2)).is_ok());
        admitted.is_ok()
    }

    fn term(term: u64) -> Reached {
        Reached { term, index: 0 }
    }

    fn index(index: u64) -> Reached {
        Reached { term: 7, index }
    }

    #[tokio::test]
    async fn a_number_that_leaps_is_refused_until_a_majority_confirms_it() {
        assert!(admits(&[], term(OWN.term + MAX_LEAP), 3).await);
        assert!(admits(&[], index(OWN.index + MAX_LEAP), 3).await);
        let (far, near) = (term(1 << 40), term(9));
        for (others, confirmed) in [
            (&[][..], false),
            (&[(2, far)], false),
            (&[(2, far), (3, near)], false),
            (&[(2, far), (3, far)], true),
        ] {
            assert_eq!(admits(others, far, 3).await, confirmed, "{others:?}");
        }
        // This node alone is no majority, nor is it one of two.
        assert!(!admits(&[], far, 1).await);
        assert!(!admits(&[(2, far)], far, 2).await);
        assert!(!admits(&[(2, far)], far, 0).await);
    }

    #[tokio::test]
    async fn an_index_is_refused_where_a_majority_is_not_nearly_there() {
        let (far, near) = (index(FAR.index), index(110));
        // A node that comes back while another is down has only one to learn from.
        assert!(admits(&[(2, far)], far, 3).await);
        assert!(admits(&[(2, far), (3, far)], far, 3).await);
        assert!(!admits(&[(2, far), (3, near)], far, 3).await);
        assert!(admits(&[(2, far), (3, far), (4, near)], far, 5).await);
        assert!(!admits(&[(2, far), (3, near), (4, near)], far, 5).await);
        assert!(admits(&[], far, 0).await);
    }

    #[tokio::test]
    async fn the_last_numbers_are_never_taken() {
        let last = Reached { term: u64::MAX, index: u64::MAX };
        let others = [(2, last), (3, last)];
        assert!(!admits(&others, term(u64::MAX), 3).await);
        assert!(!admits(&others, index(u64::MAX), 3).await);
        assert!(!admits(&others, index(MAX_NUMBER + 1), 0).await);
    }

    #[tokio::test]
    async fn about_what_can_never_be_taken_no_node_is_asked() {
        let (leaps, far) = (Leaps::default(), term(1 << 40));
        let (voters, others) = ([(1..=3).collect()], Others([(2, far), (3, far)].into()));
        for never in [term(MAX_NUMBER + 1), index(MAX_NUMBER + 1)] {
            leaps.admit((1, OWN), never, &voters, (&others, at(1))).await.unwrap_err();
        }
        // It would have to wait if they had been asked.
        leaps.admit((1, OWN), far, &voters, (&others, at(1))).await.unwrap();
    }

    #[test]
    fn a_term_does_not_rise_in_many_steps_either() {
        let leaps = Leaps::default();
        leaps.check(OWN, term(MAX_LEAP), at(1)).unwrap();
        let raised = Reached { term: MAX_LEAP, ..OWN };
        leaps.check(raised, term(2 * MAX_LEAP), at(2)).unwrap_err();
        leaps.check(raised, term(2 * MAX_LEAP), at(3_602)).unwrap();
        // The log grows by what comes, and not by what is named.
        let grown = Reached { index: 5 * MAX_LEAP, ..OWN };
        leaps.check(grown, index(6 * MAX_LEAP), at(4)).unwrap();
    }

    #[tokio::test]
    async fn others_are_not_asked_again_at_once() {
        let (leaps, far) = (Leaps::default(), term(1 << 40));
        let voters = [(1..=3).collect()];
        let (down, up) = (Others::default(), Others([(2, far), (3, far)].into()));
        leaps.admit((1, OWN), far, &voters, (&down, at(1))).await.unwrap_err();
        leaps.admit((1, OWN), far, &voters, (&up, at(1))).await.unwrap_err();
        leaps.admit((1, OWN), far, &voters, (&up, at(2))).await.unwrap();
    }

    #[test]
    fn how_far_a_node_is_is_read_as_sent() {
        assert_eq!(Reached::decode(&FAR.encode()), Some(FAR));
        assert_eq!(Reached::decode(&FAR.encode()[1..]), None);
    }
}
