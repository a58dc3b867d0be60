use tracing::{Level, Span};

use super::{Oracle, SPANS, SeqGrant, unplanned};
use crate::{
    Epoch, Error, ErrorKind, Result, SeqKey, SeqRequest,
    engine::{Outcomes, Pending, lost},
    state::{Advance, Answer, Command, NameRetention, Query, Reply, millis},
};

/// Within the span of a request: from when its commands are queued until the commit that takes them is stored, or they are
/// refused.
fn commit_span(commands: usize) -> Option<Box<Span>> {
    if !tracing::enabled!(target: SPANS, Level::INFO) || Span::current().is_none() {
        return None;
    }
    // Collectors take signed numbers alone for what they are.
    let (commands, epoch) = (commands as i64, tracing::field::Empty);
    Some(Box::new(tracing::info_span!(target: SPANS, "commit", commands, epoch)))
}

impl Oracle {
    /// Hands out the blocks that are asked for, all or none, durably.
    ///
    /// Dropping the future withdraws a request that has not been submitted yet; one that has been
    /// goes on, and its blocks are spent.
    ///
    /// # Errors
    /// `Invalid` if a count exceeds [`max_seq_count`](crate::OracleOptions::max_seq_count);
    /// `NotLeader`, `Unavailable` and `Overloaded`: not committed; `Rejected`: refused, with the
    /// reason; `Uncertain`: send it again with the same id, if it has one; `Fatal`.
    pub async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        let advance = self.advance(request)?;
        let answered = self.submit(vec![advance]).await?.pop();
        self.granted(answered.unwrap_or_else(|| Err(lost())))
    }

    /// As [`get_seq`](Self::get_seq) for many requests, which are submitted together and succeed or
    /// fail each on its own. The outcomes come in the order of the requests, when all are known; what
    /// is an error already stays one.
    ///
    /// Dropping the future withdraws those that have not been submitted yet.
    pub async fn get_seqs(
        &self,
        requests: impl IntoIterator<Item = Result<SeqRequest>>,
    ) -> Vec<Result<SeqGrant>> {
        let requests = requests.into_iter();
        let mut advances = Vec::with_capacity(requests.size_hint().0);
        let checked = requests.map(|request| {
            advances.push(self.advance(request?)?);
            Ok(())
        });
        let checked: Vec<Result<()>> = checked.collect();
        if advances.is_empty() {
            return checked.into_iter().filter_map(|checked| checked.err().map(Err)).collect();
        }
        let (mut answered, whole) = match self.submit(advances).await {
            Ok(outcomes) => (outcomes.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        let mut next = || match &whole {
            Some(error) => Err(error.clone()),
            None => self.granted(answered.next().unwrap_or_else(|| Err(lost()))),
        };
        checked.into_iter().map(|checked| checked.and_then(|()| next())).collect()
    }

    /// The next value of a sequence, or `None` if it was never used.
    ///
    /// # Errors
    /// `NotLeader`, `Unavailable`, `Overloaded`, `Fatal`.
    pub async fn read_seq(&self, key: SeqKey) -> Result<Option<u64>> {
        match self.ask(|_| Query::Sequence(key.clone())).await?.0 {
            Answer::Sequence(next) => Ok(next),
            other => Err(unplanned("a sequence's query", &other)),
        }
    }

    /// Queues commands as one unit, and waits for their outcomes.
    pub(super) async fn submit(&self, commands: Vec<Command>) -> Result<Outcomes> {
        let asked = commands.len();
        let waiting = self.shared.waiting.enter(self.caller.as_ref(), asked)?;
        let reign = match self.reign() {
            Ok(reign) => reign,
            Err(_) => self.wait(|| self.reign()).await?,
        };
        reign.touch();
        let places = self.shared.queued.enter(self.caller.as_ref(), asked)?;
        let span = commit_span(asked);
        let (pending, answer) = Pending::new(commands, places);
        // A reign that has ended meanwhile drops the commands, which answers them.
        let _ = reign.queues.requests.send(pending);
        drop(reign);
        // The commands are answered even when they are dropped; should that ever fail, nothing is known.
        let answered: Result<Outcomes> = answer.await.map_err(|_| lost());
        if let Some(span) = span
            && let Some(Ok((_, epoch))) = answered.as_ref().ok().and_then(|all| all.first())
        {
            span.record("epoch", tracing::field::display(epoch));
        }
        drop(waiting);
        answered
    }

    /// Counts refusals.
    pub(super) fn counted<T>(&self, answered: Result<T>) -> Result<T> {
        if let Err(error) = &answered
            && matches!(error.kind(), ErrorKind::Rejected(_))
        {
            self.shared.meters.rejects.increment(1);
        }
        answered
    }

    /// Queues a command for the next commit, and waits for its reply.
    pub(super) async fn run(&self, command: Command) -> Result<(Reply, Epoch)> {
        let outcome = self.submit(vec![command]).await?.pop();
        self.counted(outcome.unwrap_or_else(|| Err(lost())))
    }

    fn granted(&self, answered: Result<(Reply, Epoch)>) -> Result<SeqGrant> {
        match self.counted(answered)? {
            (Reply::Advanced(blocks), epoch) => Ok(SeqGrant { blocks, epoch }),
            (other, _) => Err(unplanned("an advance", &other)),
        }
    }

    fn advance(&self, request: SeqRequest) -> Result<Command> {
        let most = self.shared.options.max_seq_count;
        if let Some((key, count)) = request.entries().iter().find(|(_, count)| *count > most) {
            let context = format!(
                "a block of sequence {key:?} has at most {most} values, not {count}; ask for \
                 several blocks"
            );
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let (entries, id, name) = request.into_parts();
        let limits = self.shared.options.limits;
        let retention_ms = millis(self.shared.options.name_retention);
        let name = name.map(|name| NameRetention { name, retention_ms });
        Ok(Command::Advance(Advance { entries, id, name, elapsed_ms: 0, limits }))
    }
}
