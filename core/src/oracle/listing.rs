use super::{Oracle, unplanned};
use crate::{
    Epoch, Error, ErrorKind, MAX_KEY_BYTES, Result, SeqKey,
    state::{Answer, Command, Query, Reply, Seed},
};

/// The most sequences that one page lists.
pub const MAX_SEQ_PAGE: usize = 1_000;

/// Which sequences to list.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SeqList {
    /// Only those whose keys begin with this; empty for all.
    pub prefix: String,
    /// Only those after this key, the last one of the page before; empty for the first page.
    pub after: String,
    /// How many at most: 1 to [`MAX_SEQ_PAGE`].
    pub limit: usize,
}

/// A page of sequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqListing {
    /// Keys in byte order, each with the value its next block starts with.
    pub entries: Vec<(SeqKey, u64)>,
    /// There are more after the last one.
    pub more: bool,
}

impl Oracle {
    /// A page of the sequences, in the byte order of their keys, as of one moment.
    ///
    /// A page follows the last key of the one before, so that listing goes on rightly whatever is
    /// used or seeded meanwhile.
    ///
    /// # Errors
    /// `Invalid` if the limit is not 1 to [`MAX_SEQ_PAGE`] or a text is longer than any key;
    /// `NotLeader`, `Unavailable`, `Overloaded`, `Fatal`.
    pub async fn list_seqs(&self, list: SeqList) -> Result<SeqListing> {
        let SeqList { prefix, after, limit } = list;
        let invalid = |context| Err(Error::new(ErrorKind::Invalid, context));
        if !(1..=MAX_SEQ_PAGE).contains(&limit) {
            return invalid(format!("a page has 1 to {MAX_SEQ_PAGE} sequences, not {limit}"));
        }
        if let Some(text) = [&prefix, &after].into_iter().find(|text| text.len() > MAX_KEY_BYTES) {
            let given = text.len();
            return invalid(format!(
                "no key is longer than {MAX_KEY_BYTES} bytes, so none begins \
                 with or follows one of {given}"
            ));
        }
        // One more is read, to see whether there is any.
        let query = Query::Sequences { prefix, after, limit: limit + 1 };
        match self.ask(|_| query.clone()).await?.0 {
            Answer::Sequences(mut entries) => {
                let more = entries.len() > limit;
                entries.truncate(limit);
                Ok(SeqListing { entries, more })
            }
            other => Err(unplanned("a list of sequences", &other)),
        }
    }

    /// Forgets a sequence, and returns the value that its next block would have started with. It is as if it had
    /// never been used: what was granted from it before is granted once more.
    ///
    /// # Errors
    /// `Rejected` with [`Reject::SequenceUnknown`](crate::Reject::SequenceUnknown) for one that was never
    /// used: after `Uncertain`, read the sequence. Otherwise as [`get_seq`](Self::get_seq).
    pub async fn delete_seq(&self, key: SeqKey) -> Result<(u64, Epoch)> {
        match self.run(Command::Delete { key }).await? {
            (Reply::Deleted(next), epoch) => Ok((next, epoch)),
            (other, _) => Err(unplanned("a deletion", &other)),
        }
    }

    /// Sets the first value of a sequence that was never used, and returns it.
    ///
    /// # Errors
    /// `Rejected` with [`Reject::SequenceExists`](crate::Reject::SequenceExists) for one that was
    /// used or seeded before, with this value or another one: after `Uncertain`, read the sequence.
    /// Otherwise as [`get_seq`](Self::get_seq).
    pub async fn seed_seq(&self, key: SeqKey, start: u64) -> Result<(u64, Epoch)> {
        let limits = self.shared.options.limits;
        match self.run(Command::Seed(Seed { key, start, limits })).await? {
            (Reply::Seeded(next), epoch) => Ok((next, epoch)),
            (other, _) => Err(unplanned("a seed", &other)),
        }
    }
}
