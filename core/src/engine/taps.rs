//! Who follows what an open reign commits, to take a copy of the state meanwhile.
//!
//! The task of the reign keeps the taps, so that a tap has every commit after the one that was stored when it began,
//! and ends with the reign. What waits to be taken is bounded: a follower that is too slow loses its tap, and never
//! holds up a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{mpsc, oneshot};

use crate::{Effect, Error, ErrorKind, Result, Version};

/// How many bytes of effects may wait for one follower.
const MOST_BYTES: usize = 64 << 20;

/// How many followers there may be.
const MOST_TAPS: usize = 4;

/// What each effect counts at least, for what it takes besides its writes.
const EFFECT_BYTES: usize = 256;

/// A commit that was stored.
#[derive(Clone, Debug)]
pub(crate) struct Tapped {
    /// The version that it was made on.
    pub(crate) base: Version,
    pub(crate) effect: Arc<Effect>,
}

/// A wish for a tap. Dropped, it tells that the reign is over.
pub(crate) type TapRequest = oneshot::Sender<Result<Tap>>;

/// What a reign commits from now on, in order.
#[derive(Debug)]
pub(crate) struct Tap {
    commits: mpsc::UnboundedReceiver<Result<Tapped>>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Follower {
    commits: mpsc::UnboundedSender<Result<Tapped>>,
    waiting: Arc<AtomicUsize>,
}

/// The taps of a reign.
#[derive(Default, Debug)]
pub(crate) struct Taps(Vec<Follower>);

impl Tap {
    /// The next commit, once it is stored.
    ///
    /// # Errors
    /// `Unavailable` if there was one that is not known here: the copy has to be taken again.
    pub(crate) async fn next(&mut self) -> Result<Tapped> {
        let next = self.commits.recv().await;
        self.taken(next.unwrap_or_else(|| Err(over())))
    }

    /// The next commit, if there is one already.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub(crate) fn try_next(&mut self) -> Result<Option<Tapped>> {
        match self.commits.try_recv() {
            Ok(next) => self.taken(next).map(Some),
            Err(mpsc::error::TryRecvError::Empty) => Ok(None),
            Err(mpsc::error::TryRecvError::Disconnected) => Err(over()),
        }
    }

    fn taken(&self, next: Result<Tapped>) -> Result<Tapped> {
        let next = next?;
        self.waiting.fetch_sub(cost(&next.effect), Ordering::AcqRel);
        Ok(next)
    }
}

impl Taps {
    /// Gives a tap to a follower, if there is one left.
    pub(crate) fn attach(&mut self, request: TapRequest) {
        self.0.retain(|follower| !follower.commits.is_closed());
        let tap = match self.0.len() {
            MOST_TAPS.. => Err(Error::new(
                ErrorKind::Overloaded,
                format!("{MOST_TAPS} copies of the state are taken already; take this one later"),
            )),
            _ => {
                let (sender, commits) = mpsc::unbounded_channel();
                let waiting = Arc::<AtomicUsize>::default();
                self.0.push(Follower { commits: sender, waiting: waiting.clone() });
                Ok(Tap { commits, waiting })
            }
        };
        let _ = request.send(tap);
    }

    /// What is to be passed on if the commit is stored: nothing if nobody follows.
    pub(crate) fn copy(&self, effect: &Effect) -> Option<Arc<Effect>> {
        (!self.0.is_empty()).then(|| Arc::new(effect.clone()))
    }

    /// Passes on a commit that was stored.
    pub(crate) fn stored(&mut self, base: Version, effect: &Arc<Effect>) {
        let cost = cost(effect);
        self.0.retain(|follower| {
            let waiting = follower.waiting.fetch_add(cost, Ordering::AcqRel);
            if waiting + cost > MOST_BYTES {
                let context = "the copy of the state was taken more slowly than it changed; take it again, nearer to \
                               the server or when there is less to do";
                let _ = follower.commits.send(Err(Error::new(ErrorKind::Overloaded, context)));
                return false;
            }
            let tapped = Tapped { base, effect: effect.clone() };
            follower.commits.send(Ok(tapped)).is_ok()
        });
    }

    /// Ends all taps: the state may have gone on by a commit that is not known.
    pub(crate) fn lose(&mut self) {
        for follower in self.0.drain(..) {
            let context = "it is not known what became of a commit meanwhile; take the copy again";
            let _ = follower.commits.send(Err(Error::new(ErrorKind::Unavailable, context)));
        }
    }
}

fn cost(effect: &Effect) -> usize {
    effect.size() + EFFECT_BYTES
}

fn over() -> Error {
    let context = "the leader has changed while the copy of the state was taken; take it again";
    Error::new(ErrorKind::Unavailable, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(bytes: usize, number: u64) -> Effect {
        let mut effect = Effect::default();
        effect.put("a", vec![0; bytes]);
        effect.set_version(Version { era: 0, number, name: number.into() });
        effect
    }

    async fn attached(taps: &mut Taps) -> Tap {
        let (request, tap) = oneshot::channel();
        taps.attach(request);
        tap.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn there_are_only_so_many_and_those_that_are_gone_make_room() {
        let mut taps = Taps::default();
        let mut held = vec![];
        for _ in 0..MOST_TAPS {
            held.push(attached(&mut taps).await);
        }
        let (request, tap) = oneshot::channel();
        taps.attach(request);
        let error = tap.await.unwrap().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Overloaded, "{error}");
        held.pop();
        held.push(attached(&mut taps).await);
    }

    #[tokio::test]
    async fn small_commits_count_for_what_they_take_besides() {
        let mut taps = Taps::default();
        let mut slow = attached(&mut taps).await;
        let most = MOST_BYTES / EFFECT_BYTES;
        let effect = taps.copy(&effect(0, 1)).expect("there is a follower");
        for _ in 0..most {
            taps.stored(Version::default(), &effect);
        }
        let mut taken = 0;
        while slow.next().await.is_ok() {
            taken += 1;
        }
        assert!(taken < most, "as many as {taken} were kept");
    }

    #[tokio::test]
    async fn all_are_over_where_a_commit_is_not_known() {
        let mut taps = Taps::default();
        let mut tap = attached(&mut taps).await;
        let stored = taps.copy(&effect(1, 1)).expect("there is a follower");
        taps.stored(Version::default(), &stored);
        taps.lose();
        assert!(taps.copy(&effect(1, 2)).is_none());
        assert!(tap.next().await.is_ok(), "what was passed on before counts");
        let error = tap.next().await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("what became of a commit"), "{error}");
    }

    #[tokio::test]
    async fn a_follower_that_is_too_slow_loses_its_tap_and_no_other_does() {
        let mut taps = Taps::default();
        assert!(taps.copy(&effect(1, 1)).is_none(), "nothing is kept for no follower");
        let (mut slow, mut fast) = (attached(&mut taps).await, attached(&mut taps).await);
        let commits = MOST_BYTES / (1 << 20) + 10;
        for number in 1..=commits as u64 {
            let effect = taps.copy(&effect(1 << 20, number)).expect("there are followers");
            taps.stored(Version::default(), &effect);
            let passed = fast.next().await.unwrap();
            assert_eq!(passed.effect.version().unwrap().number, number);
        }
        let mut taken = 0;
        let error = loop {
            match slow.next().await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(*error.kind(), ErrorKind::Overloaded, "{error}");
        assert!(taken < commits && taken > commits / 2, "{taken} were kept");
        assert!(fast.try_next().unwrap().is_none());
    }
}
