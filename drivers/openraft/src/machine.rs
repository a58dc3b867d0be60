use openraft::{RaftSnapshotBuilder, Snapshot, StoredMembership, storage::RaftStateMachine};
use tsoracle_cluster::{Addresses, snapshot};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::{
    keeper::{BUILT, Keeper},
    types::{Applied, Entries, Id, Meta, SnapshotFile, Stored, TypeConfig, encode, storage},
};

/// What the names of snapshots that are being received begin with.
const RECEIVED: &str = "received-";

/// Raft's state machine, which is the oracle's, in the store.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine(Keeper);

impl StateMachine {
    pub(crate) fn new(keeper: Keeper) -> Self {
        Self(keeper)
    }

    async fn build(&self) -> Result<Snapshot<TypeConfig>> {
        let _open = self.0.build().await?;
        let (Applied { log_id, membership }, view) = self.0.view().await?;
        let file = self.0.new_file(BUILT);
        let name = file.0.file_name().unwrap_or_default().to_string_lossy();
        let meta =
            Meta { last_log_id: log_id, last_membership: membership, snapshot_id: name.into() };
        let chunks = snapshot::Chunks::new(view, &encode(&meta)?);
        let path = file.0.clone();
        blocking(move || snapshot::save(&path, chunks)).await?;
        self.0.publish(meta.clone(), file.clone()).await?;
        Ok(Snapshot { meta, snapshot: Box::new(file) })
    }

    async fn install(&self, meta: &Meta, received: SnapshotFile) -> Result<()> {
        let _open = self.0.build().await?;
        let file = self.0.new_file(BUILT);
        let (from, to) = (received.0.clone(), file.0.clone());
        blocking(move || snapshot::save(&to, snapshot::load(&from)?)).await?;
        self.0.install(meta.clone(), file).await?;
        discard(&received);
        Ok(())
    }
}

/// Removes a received snapshot.
pub(crate) fn discard(received: &SnapshotFile) {
    let name = received.0.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with(RECEIVED) {
        // What cannot be removed is removed by the next start.
        let _ = std::fs::remove_file(&received.0);
    }
}

/// Where to put a snapshot that is about to be received.
pub(crate) fn receive(keeper: &Keeper) -> SnapshotFile {
    keeper.new_file(RECEIVED)
}

/// Runs what reads or writes whole files.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let panicked = |_| Error::new(ErrorKind::Fatal, "the work on a snapshot panicked");
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<TypeConfig>> {
        self.build().await.map_err(storage)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<Id>, StoredMembership<u64, Addresses>)> {
        let Applied { log_id, membership } = self.0.applied().await.map_err(storage)?;
        Ok((log_id, membership))
    }

    async fn apply<I: Entries>(&mut self, entries: I) -> Stored<Vec<()>> {
        let entries: Vec<_> = entries.into_iter().collect();
        let answers = vec![(); entries.len()];
        self.0.apply(entries).await.map_err(storage)?;
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<SnapshotFile>> {
        Ok(Box::new(receive(&self.0)))
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<SnapshotFile>) -> Stored<()> {
        self.install(meta, *snapshot).await.map_err(storage)
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<TypeConfig>>> {
        let current = self.0.current_snapshot();
        Ok(current.map(|(meta, file)| Snapshot { meta, snapshot: Box::new(file) }))
    }
}
