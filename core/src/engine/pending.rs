//! Requests on their way into a commit, and their callers.

use std::{
    collections::VecDeque,
    mem,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use crate::{
    Caller, CallerId, CallerLimits, Epoch, Error, ErrorKind, Reject, Result,
    caller::Places,
    state::{Command, Reply},
};

/// What became of a command, and under which epoch.
pub(crate) type Outcome = Result<(Reply, Epoch)>;

/// What became of each command of a call, in order.
pub(crate) type Outcomes = Vec<Outcome>;

/// Where the answers to the commands of one call are gathered: they are sent, all at once, when the last
/// part that refers to this is gone.
#[derive(Debug)]
struct Call {
    outcomes: Mutex<Vec<Option<Outcome>>>,
    reply: Option<oneshot::Sender<Outcomes>>,
}

impl Call {
    /// Answers a part of the commands, each by its place.
    fn answer(&self, part: Range<usize>, mut answer: impl FnMut() -> Outcome) {
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
        // Both parts of a call answer at their end what they have not answered before.
        let _ =
            reply.send(outcomes.map(|outcome| outcome.unwrap_or_else(|| Err(lost()))).collect());
    }
}

/// The commands of one call that wait to be submitted. Dropped, they tell their caller that nothing was
/// committed.
#[derive(Debug)]
pub(crate) struct Pending {
    commands: VecDeque<Command>,
    /// The place of the first of them in the call.
    first: usize,
    call: Arc<Call>,
    /// One for each, given back when it is submitted or dropped.
    places: Places,
}

impl Pending {
    pub(crate) fn new(
        commands: Vec<Command>,
        places: Places,
    ) -> (Self, oneshot::Receiver<Outcomes>) {
        let (reply, answer) = oneshot::channel();
        let outcomes = commands.iter().map(|_| None).collect();
        let call = Arc::new(Call { outcomes: Mutex::new(outcomes), reply: Some(reply) });
        (Self { commands: commands.into(), first: 0, call, places }, answer)
    }

    /// Tells the caller that nothing was committed, and why.
    pub(crate) fn fail(mut self, error: &Error) {
        let count = self.commands.len();
        self.submit(count).fail(error);
    }

    /// The caller is gone, so nothing must be spent for it.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.call.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    /// The commands, in order.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter()
    }

    pub(crate) fn commands_mut(&mut self) -> impl Iterator<Item = &mut Command> {
        self.commands.iter_mut()
    }

    /// Who has sent them, unless they come from this process.
    pub(crate) fn caller(&self) -> Option<CallerId> {
        self.places.caller().map(Caller::id)
    }

    /// What its caller may have, whatever others have.
    pub(crate) fn own_limits(&self) -> CallerLimits {
        self.places.caller().map_or(CallerLimits::NONE, Caller::limits)
    }

    /// Takes the first commands out, of which there are more.
    pub(crate) fn split(&mut self, count: usize) -> Self {
        let rest = self.commands.split_off(count);
        let commands = mem::replace(&mut self.commands, rest);
        let first = self.first;
        self.first += count;
        Self { commands, first, call: self.call.clone(), places: self.places.split(count) }
    }

    /// Submits the first commands, which were refused or are part of a commit: their caller.
    pub(crate) fn submit(&mut self, count: usize) -> Waiter {
        self.commands.drain(..count);
        drop(self.places.split(count));
        let part = self.first..self.first + count;
        self.first = part.end;
        Waiter { call: self.call.clone(), part }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let part = self.first..self.first + self.commands.len();
        self.call.answer(part, || {
            let context = "leadership ended before the request was submitted";
            Err(Error::new(ErrorKind::NotLeader(None), context))
        });
    }
}

/// The caller of commands that were submitted together. Dropped without an answer, it tells its caller
/// that the outcome is uncertain.
#[derive(Debug)]
pub(crate) struct Waiter {
    call: Arc<Call>,
    part: Range<usize>,
}

impl Waiter {
    /// Passes on the next results of all. What is committed stays so, even if the caller is gone.
    pub(crate) fn reply(
        mut self,
        results: &mut impl Iterator<Item = Result<Reply, Reject>>,
        epoch: Epoch,
    ) {
        self.call.answer(mem::take(&mut self.part), || match results.next() {
            Some(Ok(reply)) => Ok((reply, epoch)),
            Some(Err(reject)) => Err(reject.into()),
            None => Err(lost()),
        });
    }

    pub(crate) fn fail(mut self, error: &Error) {
        self.call.answer(mem::take(&mut self.part), || Err(error.clone()));
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.call.answer(self.part.clone(), || Err(lost()));
    }
}

pub(crate) fn lost() -> Error {
    let context = "it is not known what became of the commit, which may or may not have happened";
    Error::new(ErrorKind::Uncertain, context)
}
