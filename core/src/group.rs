//! Group commit: requests that arrive while a commit is in flight go together into the next one.

use std::{
    collections::VecDeque,
    mem,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    CommitLimits, Epoch, Error, ErrorKind, Reject, Result, SeqBlock,
    errand::{Errand, Errander},
    state::{Advance, Command, Moment, Reply},
};

/// Blocks that are committed, and the epoch they were committed under.
pub(crate) type Committed = (Vec<SeqBlock>, Epoch);

/// What became of each request of a call, in order.
pub(crate) type Outcomes = Vec<Result<Committed>>;

/// Where the answers to the requests of one call come together: they are sent, all at once, when
/// the last part that holds on to this is gone.
#[derive(Debug)]
struct Call {
    outcomes: Mutex<Vec<Option<Result<Committed>>>>,
    reply: Option<oneshot::Sender<Outcomes>>,
}

impl Call {
    /// Answers a part of the requests, each by its place.
    fn answer(&self, part: Range<usize>, mut answer: impl FnMut() -> Result<Committed>) {
        // Every outcome is written whole, so a panic elsewhere leaves nothing half done.
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in &mut outcomes[part] {
            *outcome = Some(answer());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        let outcomes = mem::take(&mut self.outcomes).into_inner();
        let outcomes = outcomes.unwrap_or_else(PoisonError::into_inner).into_iter();
        // Both parts of a call answer at their end for whatever they have not answered before.
        let _ =
            reply.send(outcomes.map(|outcome| outcome.unwrap_or_else(|| Err(lost()))).collect());
    }
}

/// The sequence requests of one call that wait to be submitted. Dropped, they tell their caller that
/// nothing was committed.
#[derive(Debug)]
pub(crate) struct Pending {
    advances: VecDeque<Advance>,
    /// The place of the first of them in the call.
    first: usize,
    call: Arc<Call>,
    /// Their places in the queue, each given back when its request is submitted or dropped.
    places: OwnedSemaphorePermit,
}

impl Pending {
    pub(crate) fn new(
        advances: Vec<Advance>,
        places: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Outcomes>) {
        let (reply, answer) = oneshot::channel();
        let outcomes = advances.iter().map(|_| None).collect();
        let call = Arc::new(Call { outcomes: Mutex::new(outcomes), reply: Some(reply) });
        (Self { advances: advances.into(), first: 0, call, places }, answer)
    }

    /// Nobody waits for them any more, so they must not spend anything.
    fn is_abandoned(&self) -> bool {
        self.call.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn submit_next(&mut self, elapsed_ms: u64) -> Option<Command> {
        let advance = Advance { elapsed_ms, ..self.advances.pop_front()? };
        drop(self.places.split(1));
        Some(Command::Advance(advance))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let part = self.first..self.first + self.advances.len();
        self.call.answer(part, || {
            let context = "leadership ended before the request was submitted";
            Err(Error::new(ErrorKind::NotLeader(None), context))
        });
    }
}

/// The caller of requests that were submitted together. Dropped without an answer, it tells its
/// caller that the outcome is uncertain.
#[derive(Debug)]
pub(crate) struct Waiter {
    call: Arc<Call>,
    part: Range<usize>,
}

impl Waiter {
    /// Passes the answers on. A caller that has gone is nobody's concern: the blocks are committed.
    fn answer(mut self, answer: impl FnMut() -> Result<Committed>) {
        self.call.answer(mem::take(&mut self.part), answer);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.call.answer(self.part.clone(), || Err(lost()));
    }
}

pub(crate) fn lost() -> Error {
    let context = "the commit was lost sight of, and may or may not have happened";
    Error::new(ErrorKind::Uncertain, context)
}

/// What goes into one commit, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) commands: Vec<Command>,
    /// Who waits for errands: after the engine's own commands, and before the waiters'.
    pub(crate) erranders: Vec<Errander>,
    /// The waiters of the last commands.
    pub(crate) waiters: Vec<Waiter>,
}

impl Group {
    /// Adds what fits of `pending`, in order, passing over what is abandoned. A call that does not
    /// fit goes on in the next group.
    pub(crate) fn fill(
        &mut self,
        pending: &mut VecDeque<Pending>,
        limits: CommitLimits,
        elapsed_ms: u64,
    ) {
        let mut bytes: usize = self.commands.iter().map(Command::size_hint).sum();
        let mut is_first = true;
        while let Some(next) = pending.front_mut() {
            if next.is_abandoned() {
                pending.pop_front();
                continue;
            }
            let from = next.first;
            while let Some(advance) = next.advances.front() {
                let size = advance.size_hint();
                if self.commands.len() >= limits.commands
                    || (bytes + size > limits.bytes && !is_first)
                {
                    break;
                }
                (bytes, is_first) = (bytes + size, false);
                self.commands.extend(next.submit_next(elapsed_ms));
                next.first += 1;
            }
            if next.first > from {
                self.waiters.push(Waiter { call: next.call.clone(), part: from..next.first });
            }
            if !next.advances.is_empty() {
                return;
            }
            pending.pop_front();
        }
    }

    /// Adds what fits of `errands`, in order, before any sequence request is added.
    pub(crate) fn run_errands(
        &mut self,
        errands: &mut VecDeque<Errand>,
        limits: CommitLimits,
        now: Moment,
    ) {
        let mut bytes: usize = self.commands.iter().map(Command::size_hint).sum();
        while let Some(errand) = errands.pop_front() {
            bytes += errand.size_hint();
            let fits = self.commands.len() < limits.commands && bytes <= limits.bytes;
            if !fits && !self.commands.is_empty() {
                errands.push_front(errand);
                return;
            }
            if let Some((command, errander)) = errand.submit(now) {
                self.commands.push(command);
                self.erranders.push(errander);
            }
        }
    }

    /// How many of the commands are the engine's own.
    pub(crate) fn own(&self) -> usize {
        let waited_for: usize = self.waiters.iter().map(|waiter| waiter.part.len()).sum();
        self.commands.len() - self.erranders.len() - waited_for
    }
}

/// Tells every waiter what became of its commands. `results` are those of the waiters' commands.
pub(crate) fn answer_all(
    waiters: Vec<Waiter>,
    results: Result<Vec<Result<Reply, Reject>>>,
    epoch: Epoch,
) {
    match results {
        Ok(results) => {
            let mut results = results.into_iter();
            for waiter in waiters {
                waiter.answer(|| match results.next() {
                    Some(Ok(Reply::Advanced(blocks))) => Ok((blocks, epoch)),
                    Some(Err(reject)) => Err(reject.into()),
                    other => Err(Error::new(
                        ErrorKind::Fatal,
                        format!("the driver answered an advance with {other:?}"),
                    )),
                });
            }
        }
        Err(error) => {
            waiters.into_iter().for_each(|waiter| waiter.answer(|| Err(error.duplicate())))
        }
    }
}
