use super::{
    Oracle, SeqGrant,
    waiting::{Waiting, overloaded},
};
use crate::{
    Error, ErrorKind, Result, SeqKey, SeqRequest,
    asked::nonsense,
    group::{Outcomes, Pending, lost},
    state::{Advance, Answer, Query},
};

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
        let mut advances = Vec::new();
        let checked = requests.into_iter().map(|request| {
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
            Some(error) => Err(error.duplicate()),
            None => self.granted(answered.next().unwrap_or_else(|| Err(lost()))),
        };
        checked.into_iter().map(|checked| checked.and_then(|()| next())).collect()
    }

    /// The next value of a sequence, or `None` if it was never used.
    ///
    /// # Errors
    /// `NotLeader`, `Unavailable`, `Overloaded`, `Fatal`.
    pub async fn read_seq(&self, key: SeqKey) -> Result<Option<u64>> {
        let _waiting = Waiting::enter(&self.shared, 1)?;
        self.wait(|| self.reign()).await?.touch();
        match self.read(Query::Sequence(key)).await? {
            Answer::Sequence(next) => Ok(next),
            other => Err(nonsense("a sequence's query", &other)),
        }
    }

    /// Queues requests as one unit, and waits for their outcomes.
    async fn submit(&self, advances: Vec<Advance>) -> Result<Outcomes> {
        let asked = advances.len();
        let waiting = Waiting::enter(&self.shared, asked)?;
        let reign = self.wait(|| self.reign()).await?;
        reign.touch();
        let places = u32::try_from(asked).ok();
        let places =
            places.and_then(|asked| reign.places.clone().try_acquire_many_owned(asked).ok());
        let Some(places) = places else {
            return Err(overloaded(self.shared.options.max_waiting));
        };
        let (pending, answer) = Pending::new(advances, places);
        // A reign that has ended meanwhile drops the requests, which answers them.
        let _ = reign.queues.sequences.send(pending);
        drop(reign);
        // Whoever holds the requests answers them, even when dropped; should that ever fail, nothing
        // is known.
        let answered = answer.await.map_err(|_| lost());
        drop(waiting);
        answered
    }

    fn granted(&self, answered: Result<crate::group::Committed>) -> Result<SeqGrant> {
        if let Err(error) = &answered
            && matches!(error.kind(), ErrorKind::Rejected(_))
        {
            self.shared.meters.rejects.increment(1);
        }
        answered.map(|(blocks, epoch)| SeqGrant { blocks, epoch })
    }

    fn advance(&self, request: SeqRequest) -> Result<Advance> {
        let most = self.shared.options.max_seq_count;
        if let Some((key, count)) = request.entries().iter().find(|(_, count)| *count > most) {
            let context = format!(
                "a block of sequence {key:?} has at most {most} values, not {count}; ask for \
                 several blocks"
            );
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let (entries, id) = request.into_parts();
        Ok(Advance { entries, id, elapsed_ms: 0, limits: self.shared.options.limits })
    }
}
