use std::sync::Arc;

use openraft::{EntryPayload, RaftSnapshotBuilder, StoredMembership, storage::RaftStateMachine};
use tokio::sync::watch;
use tsoracle_core::{BootTime, Clock, Result};
use tsoracle_replica::{Addresses, LogEntry, Replica, StoreThread, Waiters, store_thread::After};

use crate::{
    log::Log,
    types::{
        Applied, Committed, Entries, Entry, Id, Membership, Meta, Snapshot, SnapshotData, Stored,
        TypeConfig, encode, storage,
    },
};

/// Raft's state machine, which is the replica.
///
/// The replica itself stands for its snapshots: one is made of the state as it is when it is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    pub(crate) store: StoreThread,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: Log,
    /// The members as of what is applied.
    pub(crate) committed: Arc<watch::Sender<Committed>>,
}

impl StateMachine {
    pub(crate) fn new(
        store: StoreThread,
        waiters: Arc<Waiters>,
        clock: Arc<dyn Clock>,
        log: Log,
    ) -> Self {
        Self { store, waiters, clock, log, committed: Arc::default() }
    }

    fn note_members<'a>(&self, members: impl IntoIterator<Item = &'a Membership>) {
        members.into_iter().for_each(|members| {
            self.committed.send_if_modified(|committed| committed.change(members));
        });
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let chunks = self.store.snapshot().await?;
        let meta = Applied::read(chunks.applied())?.into_meta();
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotData(Box::new(chunks))) })
    }
}

/// Applies entries, and answers those that wait for them.
fn apply(
    replica: &mut Replica,
    entries: Vec<Entry>,
    waiters: &Waiters,
    now: BootTime,
) -> Result<Vec<Membership>> {
    let mut members = vec![];
    let mut applied = Applied::read(replica.applied().unwrap_or_default())?;
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(payload) => {
                let commit = LogEntry::decode(&payload.0)?;
                let (base, next) = (commit.base(), commit.next());
                answers.push((next, replica.apply(base, commit.into_effect(), now)?));
            }
            EntryPayload::Membership(membership) => {
                members.push(membership.clone());
                applied.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
        }
        applied.log_id = Some(entry.log_id);
    }
    replica.set_applied(encode(&applied)?);
    answers.into_iter().for_each(|(next, answer)| waiters.answer(&next, answer));
    Ok(members)
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    /// What the snapshot holds becomes durable with the log's next write, which purges it from there.
    async fn build_snapshot(&mut self) -> Stored<Snapshot> {
        self.snapshot().await.map_err(storage)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<Id>, StoredMembership<u64, Addresses>)> {
        let read = |replica: &mut Replica| Applied::read(replica.applied().unwrap_or_default());
        let applied = self.store.run(After::Anytime, read).await.map_err(storage)?;
        self.note_members([applied.membership.membership()]);
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<I: Entries>(&mut self, entries: I) -> Stored<Vec<()>> {
        let entries: Vec<_> = entries.into_iter().collect();
        let answers = vec![(); entries.len()];
        let after = entries.last().map_or(After::Anytime, |last| After::Log(last.log_id.index));
        let last = entries.last().map(|entry| entry.log_id);
        let (waiters, clock) = (self.waiters.clone(), self.clock.clone());
        let applied = self
            .store
            .run(after, move |replica| apply(replica, entries, &waiters, clock.now().boot));
        self.note_members(&applied.await.map_err(storage)?);
        self.log.applied(last);
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<SnapshotData>> {
        // They come through the inbox of the transfers, whole.
        Ok(Box::new(SnapshotData(Box::new(std::iter::empty()))))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<SnapshotData>) -> Stored<()> {
        let clock = self.clock.clone();
        let restored = self.store.run(After::Everything, move |replica| {
            replica.restore(snapshot.0, [], clock.now().boot)
        });
        restored.await.map_err(storage)?;
        self.note_members([meta.last_membership.membership()]);
        self.log.applied(meta.last_log_id);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot>> {
        let snapshot = self.snapshot().await.map_err(storage)?;
        Ok(Some(snapshot).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}
