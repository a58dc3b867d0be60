use std::sync::Arc;

use openraft::{
    BasicNode, EntryPayload, RaftSnapshotBuilder, StoredMembership, storage::RaftStateMachine,
};
use tsoracle_core::{Clock as _, Result, SystemClock};
use tsoracle_replica::{LogEntry, Replica, StoreThread, Waiters, store_thread::After};

use crate::{
    ledger,
    types::{
        Applied, Command, Id, LogRecord, LogRecords, Meta, Response, Snapshot, State, Stored,
        TypeConfig, encode, storage,
    },
};

/// Raft's state machine: the service's accounts, and the oracle's replica.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    pub(crate) store: StoreThread,
    pub(crate) waiters: Arc<Waiters>,
}

/// Applies entries, and answers those that wait for the oracle's. Returns what the others result in.
fn apply(
    replica: &mut Replica,
    entries: Vec<LogRecord>,
    waiters: &Waiters,
) -> Result<Vec<Response>> {
    let now = SystemClock.now().boot;
    let mut applied = Applied::read(replica.applied())?;
    let (mut accounts, mut answers) = (ledger::Batch::default(), vec![]);
    let mut responses = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut response = Response::default();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(Command::Deposit(deposit)) => {
                response.balance = accounts.apply(replica.store(), deposit)?;
            }
            EntryPayload::Normal(Command::Oracle(bytes)) => {
                let commit = LogEntry::decode(&bytes)?;
                let (base, next) = (commit.base(), commit.next());
                answers.push((next, replica.apply(base, commit.into_effect(), now)?));
            }
            EntryPayload::Membership(membership) => {
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        applied.log_id = Some(entry.log_id);
        responses.push(response);
    }
    replica.set_applied(encode(&applied)?);
    // In one write with how far the log is applied: a deposit that is applied again after a crash must not
    // be there already.
    replica.settle_with(accounts.into_writes())?;
    answers.into_iter().for_each(|(next, answer)| waiters.answer(&next, answer));
    Ok(responses)
}

/// Both parts of the state as of one moment, and how far they have come.
fn snapshot(replica: &mut Replica) -> Result<Snapshot> {
    let chunks = replica.snapshot()?;
    let meta = Applied::read(Some(chunks.applied()))?.into_meta();
    let accounts = ledger::all(replica.store())?;
    let oracle = chunks.collect::<Result<_>>()?;
    Ok(Snapshot { meta, snapshot: Box::new(State { accounts, oracle }) })
}

/// Replaces both parts of the state, and how far they have come, in one write.
fn install(replica: &mut Replica, state: State) -> Result<()> {
    let accounts = ledger::replace(replica.store(), state.accounts)?;
    let chunks = state.oracle.into_iter().map(Ok);
    replica.restore(chunks, [accounts], SystemClock.now().boot)
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot> {
        self.store.run(After::Anytime, snapshot).await.map_err(storage)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<Id>, StoredMembership<u64, BasicNode>)> {
        let read = |replica: &mut Replica| Applied::read(replica.applied());
        let applied = self.store.run(After::Anytime, read).await.map_err(storage)?;
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<I: LogRecords>(&mut self, entries: I) -> Stored<Vec<Response>> {
        let entries: Vec<_> = entries.into_iter().collect();
        let after = entries.last().map_or(After::Anytime, |last| After::Log(last.log_id.index));
        let waiters = self.waiters.clone();
        let applied = self.store.run(after, move |replica| apply(replica, entries, &waiters));
        applied.await.map_err(storage)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<State>> {
        // The network brings them whole.
        Ok(Box::new(State { accounts: vec![], oracle: vec![] }))
    }

    async fn install_snapshot(&mut self, _: &Meta, state: Box<State>) -> Stored<()> {
        let install = move |replica: &mut Replica| install(replica, *state);
        self.store.run(After::Everything, install).await.map_err(storage)
    }

    /// One is made of the state as it is when it is to be sent.
    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot>> {
        let snapshot = self.build_snapshot().await?;
        Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use openraft::CommittedLeaderId;
    use tsoracle_core::{Effect, Version};
    use tsoracle_store::Store;

    use super::*;
    use crate::ledger::Deposit;

    fn open(path: &Path) -> Replica {
        let store = Store::open(path, Default::default()).unwrap();
        Replica::open(store, SystemClock.now().boot).unwrap()
    }

    /// A deposit of 5 at every even index, and a commit of the oracle at every odd one.
    fn entry(index: u64) -> LogRecord {
        let command = if index.is_multiple_of(2) {
            Command::Deposit(Deposit { account: "a".into(), amount: 5 })
        } else {
            let version = |number| match number {
                0 => Version::EMPTY,
                number => Version { era: 0, number, name: number.into() },
            };
            let (base, next) = (version(index / 2), version(index / 2 + 1));
            let mut effect = Effect::default();
            effect.put(*b"key", index.to_be_bytes());
            effect.set_version(next);
            Command::Oracle(LogEntry::new(base, effect).unwrap().encode().unwrap())
        };
        let log_id = Id::new(CommittedLeaderId::new(1, 1), index);
        LogRecord { log_id, payload: EntryPayload::Normal(command) }
    }

    /// What is applied, the number of the oracle's version, and the balance.
    fn state(replica: &Replica) -> (Option<u64>, u64, Option<u64>) {
        let applied = Applied::read(replica.applied()).unwrap().log_id;
        let balances = ledger::balances(replica.store()).unwrap();
        let balance = balances.get("a").copied();
        (applied.map(|log_id| log_id.index), replica.version().number, balance)
    }

    #[test]
    fn a_crash_leaves_both_parts_as_of_one_entry() {
        let directory = tempfile::tempdir().unwrap();
        let waiters = Waiters::default();
        let mut replica = open(directory.path());
        apply(&mut replica, (0..6).map(entry).collect(), &waiters).unwrap();
        // Writes of the log come between, and take with them what was applied when there is much of it.
        replica.write([]).unwrap();
        apply(&mut replica, vec![entry(6)], &waiters).unwrap();
        assert_eq!(state(&replica), (Some(6), 3, Some(20)));
        drop(replica);
        let mut replica = open(directory.path());
        let (applied, ..) = state(&replica);
        let from = applied.map_or(0, |applied| applied + 1);
        apply(&mut replica, (from..8).map(entry).collect(), &waiters).unwrap();
        assert_eq!(state(&replica), (Some(7), 4, Some(20)));
    }

    #[test]
    fn a_snapshot_replaces_both_parts() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let waiters = Waiters::default();
        let mut source = open(from.path());
        apply(&mut source, (0..6).map(entry).collect(), &waiters).unwrap();
        let taken = snapshot(&mut source).unwrap();
        apply(&mut source, (6..9).map(entry).collect(), &waiters).unwrap();
        let mut target = open(to.path());
        let other = Deposit { account: "b".into(), amount: 1 };
        let payload = EntryPayload::Normal(Command::Deposit(other));
        apply(&mut target, vec![LogRecord { payload, ..entry(0) }], &waiters).unwrap();
        install(&mut target, *taken.snapshot).unwrap();
        drop(target);
        let target = open(to.path());
        assert_eq!(state(&target), (Some(5), 3, Some(15)));
        assert_eq!(ledger::balances(target.store()).unwrap().len(), 1);
    }
}
