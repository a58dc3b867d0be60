//! Commands other than an advance, on their way into a commit, and who waits for them.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    Epoch, Error, ErrorKind, Reject, Result,
    group::lost,
    state::{Command, Moment, Reply},
};

/// What became of a command, and under which epoch.
pub(crate) type Outcome = Result<(Reply, Epoch)>;

/// A command that waits to be submitted. Dropped, it tells its caller that nothing was committed.
#[derive(Debug)]
pub(crate) struct Errand {
    command: Option<Command>,
    errander: Errander,
    _place: OwnedSemaphorePermit,
}

/// Whoever waits for a command that was submitted. Dropped without an answer, it tells them that the
/// outcome is uncertain.
#[derive(Debug)]
pub(crate) struct Errander(Option<oneshot::Sender<Outcome>>);

impl Errand {
    pub(crate) fn new(
        command: Command,
        place: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Outcome>) {
        let (reply, answer) = oneshot::channel();
        let errander = Errander(Some(reply));
        (Self { command: Some(command), errander, _place: place }, answer)
    }

    /// The command as it is submitted at this moment, and who waits for it. Nothing if nobody does.
    pub(crate) fn submit(mut self, now: Moment) -> Option<(Command, Errander)> {
        let errander = Errander(self.errander.0.take_if(|reply| !reply.is_closed()));
        errander.0.as_ref()?;
        let command = match self.command.take()? {
            Command::Lease { ask, .. } => Command::Lease { ask, at: now },
            other => other,
        };
        Some((command, errander))
    }

    pub(crate) fn size_hint(&self) -> usize {
        self.command.as_ref().map_or(0, Command::size_hint)
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(reply) = self.errander.0.take() {
            let context = "leadership ended before the request was submitted";
            let _ = reply.send(Err(Error::new(ErrorKind::NotLeader(None), context)));
        }
    }
}

impl Errander {
    /// Passes the answer on. A caller that has gone is nobody's concern: the command is committed.
    pub(crate) fn answer(mut self, result: Result<Reply, Reject>, epoch: Epoch) {
        self.send(result.map(|reply| (reply, epoch)).map_err(Error::from));
    }

    pub(crate) fn fail(mut self, error: &Error) {
        self.send(Err(error.duplicate()));
    }

    fn send(&mut self, outcome: Outcome) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(outcome);
        }
    }
}

impl Drop for Errander {
    fn drop(&mut self) {
        self.send(Err(lost()));
    }
}
