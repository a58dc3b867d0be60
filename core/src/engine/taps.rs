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
