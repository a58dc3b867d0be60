//! The log, as OmniPaxos sees it.

use std::{
    cell::{Ref, RefCell, RefMut},
    rc::Rc,
};

use omnipaxos::{
    ballot_leader_election::Ballot,
    storage::{NoSnapshot, StopSign, Storage, StorageOp, StorageResult},
};
use tsoracle_core::{Error, ErrorKind};

use crate::{
    entry::{Commit, Entry},
    log::Log,
};

/// A handle on the log: OmniPaxos has one, and the driver another.
#[derive(Clone, Debug)]
pub(crate) struct SharedLog(Rc<RefCell<Log>>);

impl SharedLog {
    pub(crate) fn new(log: Log) -> Self {
        Self(Rc::new(RefCell::new(log)))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Log> {
        self.0.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Log> {
        self.0.borrow_mut()
    }

    /// What is decided beyond the end of the log is never stored: no start would open such a log.
    fn check_decided(&self) -> StorageResult<()> {
        let (decided, end) = (self.borrow().decided, self.borrow().end());
        if decided <= end {
            return Ok(());
        }
        let context = format!("{decided} entries are to be decided, and the log ends at {end}");
        Err(Error::new(ErrorKind::Fatal, context).into())
    }
}

/// What the library does only when it is told to compact its log or to end its configuration, which it
/// is not: its messages about that are refused.
fn unused<T>() -> StorageResult<T> {
    Err(Error::new(ErrorKind::Fatal, "OmniPaxos compacts or ends its log by itself").into())
}

fn commits(entries: Vec<Entry>) -> StorageResult<Vec<Commit>> {
    let commits = entries.into_iter().map(|entry| match entry {
        Entry::Commit(commit) => Ok(commit),
        Entry::State(_) => unused(),
    });
    commits.collect()
}

impl Storage<Entry> for SharedLog {
    /// All is staged, and the driver writes what is staged in one commit: so this is atomic.
    fn write_atomically(&mut self, operations: Vec<StorageOp<Entry>>) -> StorageResult<()> {
        for operation in operations {
            match operation {
                StorageOp::AppendEntry(entry) => self.append_entry(entry)?,
                StorageOp::AppendEntries(entries) => self.append_entries(entries)?,
                StorageOp::AppendOnPrefix(from, entries) => self.append_on_prefix(from, entries)?,
                StorageOp::SetPromise(ballot) => self.set_promise(ballot)?,
                // Before the entries, which may reach further.
                StorageOp::SetDecidedIndex(index) => self.borrow_mut().set_decided(index),
                StorageOp::SetAcceptedRound(ballot) => self.set_accepted_round(ballot)?,
                StorageOp::SetCompactedIdx(_)
                | StorageOp::Trim(_)
                | StorageOp::SetStopsign(_)
                | StorageOp::SetSnapshot(_) => unused()?,
            }
        }
        self.check_decided()
    }

    fn append_entry(&mut self, entry: Entry) -> StorageResult<()> {
        self.append_entries(vec![entry])
    }

    fn append_entries(&mut self, entries: Vec<Entry>) -> StorageResult<()> {
        self.borrow_mut().append(commits(entries)?);
        Ok(())
    }

    fn append_on_prefix(&mut self, from: usize, entries: Vec<Entry>) -> StorageResult<()> {
        Ok(self.borrow_mut().replace(from, commits(entries)?)?)
    }

    fn set_promise(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.borrow_mut().set_promise(ballot);
        Ok(())
    }

    fn set_decided_idx(&mut self, index: usize) -> StorageResult<()> {
        self.borrow_mut().set_decided(index);
        self.check_decided()
    }

    fn get_decided_idx(&self) -> StorageResult<usize> {
        Ok(self.borrow().decided)
    }

    fn set_accepted_round(&mut self, ballot: Ballot) -> StorageResult<()> {
        self.borrow_mut().set_accepted(ballot);
        Ok(())
    }

    fn get_accepted_round(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.borrow().accepted)
    }

    fn get_entries(&self, from: usize, to: usize) -> StorageResult<Vec<Entry>> {
        Ok(self.borrow().range(from, to).into_iter().map(Entry::Commit).collect())
    }

    fn get_log_len(&self) -> StorageResult<usize> {
        let log = self.borrow();
        Ok(log.end() - log.first)
    }

    fn get_suffix(&self, from: usize) -> StorageResult<Vec<Entry>> {
        Ok(self.borrow().suffix(from))
    }

    fn get_promise(&self) -> StorageResult<Option<Ballot>> {
        Ok(self.borrow().promise)
    }

    fn set_stopsign(&mut self, _: Option<StopSign>) -> StorageResult<()> {
        unused()
    }

    fn get_stopsign(&self) -> StorageResult<Option<StopSign>> {
        Ok(None)
    }

    fn trim(&mut self, _: usize) -> StorageResult<()> {
        unused()
    }

    fn set_compacted_idx(&mut self, _: usize) -> StorageResult<()> {
        unused()
    }

    /// Read only when the library starts. What the driver drops from the log later, it need not know.
    fn get_compacted_idx(&self) -> StorageResult<usize> {
        Ok(self.borrow().first)
    }

    fn set_snapshot(&mut self, _: Option<NoSnapshot>) -> StorageResult<()> {
        unused()
    }

    fn get_snapshot(&self) -> StorageResult<Option<NoSnapshot>> {
        Ok(None)
    }
}
