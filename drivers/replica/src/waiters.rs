use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tsoracle_core::{BootTime, Clock, Error, ErrorKind, Outcome, Result, Version};

/// How often to look whether all are answered.
const LOOK: Duration = Duration::from_millis(2);

/// Where a caller gets the outcome of its commit.
pub type Answer = oneshot::Receiver<Result<Outcome>>;

/// Callers that wait for their commits, by the versions that these make.
#[derive(Default, Debug)]
pub struct Waiters(Mutex<BTreeMap<Key, Waiter>>);

/// Of a version. Callers are answered in this order.
type Key = ((u64, u64), u128);

fn key(next: &Version) -> Key {
    (next.position(), next.name)
}

#[derive(Debug)]
struct Waiter {
    /// One, unless a commit is sent again while it is waited for.
    replies: Vec<oneshot::Sender<Result<Outcome>>>,
    since: BootTime,
    /// Whether this node has put the commit into its log: from there on it may be stored, by a later
    /// leader and even if this node has removed it again.
    begun: bool,
}

impl Waiters {
    /// Waits for the commit that makes `next`. The caller proposes it if nothing waited for it before,
    /// which is the second value.
    pub fn wait(&self, next: Version, now: BootTime) -> (Answer, bool) {
        let (reply, answer) = oneshot::channel();
        let mut waiters = self.waiters();
        let waiter = Waiter { replies: vec![], since: now, begun: false };
        let waiter = waiters.entry(key(&next)).or_insert(waiter);
        waiter.replies.push(reply);
        (answer, waiter.replies.len() == 1)
    }

    /// Notes that the commit is about to be in this node's log.
    pub fn begun(&self, next: &Version) {
        if let Some(waiter) = self.waiters().get_mut(&key(next)) {
            waiter.begun = true;
        }
    }

    /// Answers with what [`Replica::apply`](crate::Replica::apply) has returned.
    pub fn answer(&self, next: &Version, outcome: Result<Outcome>) {
        if let Some(mut waiter) = self.waiters().remove(&key(next)) {
            waiter.answer(&outcome);
        }
    }

    /// Answers that the commit was refused: with the reason if that was before it was begun. Afterwards,
    /// that it is gone from this node's log says nothing of the others.
    pub fn refuse(&self, next: &Version, refused: Error) {
        let Some(mut waiter) = self.waiters().remove(&key(next)) else { return };
        let error = if waiter.begun { uncertain(&refused.to_string()) } else { refused };
        waiter.answer(&Err(error));
    }

    /// Answers that it will not be known here what became of the commit.
    pub fn give_up(&self, next: &Version, reason: &str) {
        self.answer(next, Err(uncertain(reason)));
    }

    /// Gives up all commits.
    pub fn give_up_all(&self, reason: &str) {
        self.give_up_those(|_| true, reason);
    }

    /// Gives up the commits that have waited since before `then`.
    pub fn expire(&self, then: BootTime, reason: &str) {
        self.give_up_those(|waiter| waiter.since < then, reason);
    }

    fn give_up_those(&self, which: impl Fn(&Waiter) -> bool, reason: &str) {
        self.waiters().retain(|_, waiter| {
            let is_over = which(waiter);
            if is_over {
                waiter.answer(&Err(uncertain(reason)));
            }
            !is_over
        });
    }

    /// Whether no caller waits.
    pub fn is_empty(&self) -> bool {
        self.waiters().is_empty()
    }

    /// Returns when no caller waits any more, or after `max`.
    pub async fn drained(&self, clock: &dyn Clock, max: Duration) {
        let drained = async {
            while !self.is_empty() {
                clock.sleep(LOOK).await;
            }
        };
        let _ = timeout(max, drained).await;
    }

    fn waiters(&self) -> MutexGuard<'_, BTreeMap<Key, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    fn answer(&mut self, outcome: &Result<Outcome>) {
        for reply in self.replies.drain(..) {
            // A caller that has gone does not undo what was done for it.
            let _ = reply.send(match outcome {
                Ok(outcome) => Ok(*outcome),
                Err(error) => Err(error.clone()),
            });
        }
    }
}

fn uncertain(reason: &str) -> Error {
    let context = format!("the commit was begun, and may or may not be stored: {reason}");
    Error::new(ErrorKind::Uncertain, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: Version = Version { era: 0, number: 2, name: 3 };

    fn at(nanos: u64) -> BootTime {
        BootTime::from_nanos(nanos)
    }

    fn waits() -> (Waiters, Answer) {
        let waiters = Waiters::default();
        let (answer, is_first) = waiters.wait(NEXT, at(5));
        assert!(is_first);
        (waiters, answer)
    }

    fn refused() -> Error {
        Error::new(ErrorKind::NotLeader(None), "another node leads")
    }

    fn kind(mut answer: Answer) -> ErrorKind {
        answer.try_recv().unwrap().unwrap_err().kind().clone()
    }

    #[test]
    fn only_what_was_refused_before_it_was_begun_is_certainly_not_stored() {
        let (waiters, answer) = waits();
        waiters.refuse(&NEXT, refused());
        assert_eq!(kind(answer), ErrorKind::NotLeader(None));

        let (waiters, answer) = waits();
        waiters.begun(&NEXT);
        waiters.refuse(&NEXT, refused());
        assert_eq!(kind(answer), ErrorKind::Uncertain);

        let (waiters, answer) = waits();
        waiters.give_up(&NEXT, "no node knows");
        assert_eq!(kind(answer), ErrorKind::Uncertain);
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_commit_that_is_sent_twice_is_proposed_once_and_answered_twice() {
        let (waiters, mut first) = waits();
        let (mut second, is_first) = waiters.wait(NEXT, at(6));
        assert!(!is_first);
        waiters.answer(&NEXT, Ok(Outcome::Stored));
        for answer in [&mut first, &mut second] {
            assert_eq!(answer.try_recv().unwrap().unwrap(), Outcome::Stored);
        }
    }

    #[test]
    fn those_that_have_waited_too_long_are_given_up() {
        let (waiters, mut old) = waits();
        let (young, _) = waiters.wait(Version { number: 3, ..NEXT }, at(9));
        waiters.expire(at(5), "too long");
        old.try_recv().unwrap_err();
        waiters.expire(at(6), "too long");
        assert_eq!(kind(old), ErrorKind::Uncertain);
        waiters.give_up_all("the end");
        assert_eq!(kind(young), ErrorKind::Uncertain);
    }
}
