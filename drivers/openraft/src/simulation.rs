//! A node that a simulation runs: the code of the driver and the library, over a store that is stepped, behind a
//! gate, and with clock, randomness and connections that are given to it. And ways to do wrong, each of which some
//! promise forbids.

use std::{fmt::Debug, ops::RangeBounds, sync::Arc};

use openraft::{
    LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, StoredMembership,
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use tsoracle_core::{Clock, NodeId, Random, Result, Version};
use tsoracle_replica::{
    Addresses, Config, Gate, Replica, SteppedStore, StoreThread, Tasks, transport::Connections,
};
use tsoracle_store::Store;

use crate::{
    driver::{OpenraftDriver, Outside, start},
    log::{self, Log},
    machine::StateMachine,
    runtime::Within,
    store,
    types::{
        Applied, Entries, Entry, Id, Meta, Snapshot, SnapshotData, Stored, TypeConfig, Vote,
        next_index, storage,
    },
    wire,
};

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Entries are announced as committed which this leader's disk does not have.
    TellsAheadOfItsDisk,
    /// A leader that is started again leads on in its term.
    LeadsOnAfterARestart,
    /// A follower acknowledges entries before its disk has them.
    AcknowledgesAheadOfItsDisk,
    /// The log is shortened before the state that it led to is written.
    ShortensBeforeTheState,
    /// The log is shortened before the state has come that stands for it.
    ShortensBeforeAStateComes,
}

/// The kind of a call that asks for a vote.
pub const VOTE: u32 = wire::VOTE;

/// The kind of a call that installs a state which has come.
pub const INSTALL: u32 = wire::INSTALL;

/// What a simulated node has from outside.
pub struct World {
    /// Who it is.
    pub id: NodeId,
    /// Through it all its tasks go on, or do not.
    pub gate: Arc<dyn Gate>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its randomness.
    pub random: Random,
    /// Its connections.
    pub connections: Arc<dyn Connections>,
    /// What it does wrong.
    pub sabotage: Option<Sabotage>,
}

/// Opens a node over what is in `store`. The driver is there once the future is, for which the store has to be
/// stepped.
///
/// # Errors
/// As for [`open`](crate::open).
pub fn open(
    config: Config,
    store: Store,
    world: World,
) -> Result<(SteppedStore, impl Future<Output = Result<OpenraftDriver>> + Send + use<>)> {
    let World { id, gate, clock, random, connections: transport, sabotage } = world;
    let cluster = config.check()?;
    let (replica, found) = store::read(store, &cluster, clock.now().boot)?;
    let (store, stepped) = StoreThread::simulated(clock.clone(), replica);
    let tasks = Tasks::behind(gate);
    let outside = Outside { id, tasks: tasks.clone(), clock, random, transport };
    let node = u64::from(cluster.node);
    let own = store.clone();
    let starting = start(cluster, store, found, outside, move |(network, log, machine)| {
        let log = SpoiledLog { log, store: own, node, sabotage };
        (network, log, SpoiledMachine { machine, sabotage })
    });
    let starting = Within { tasks: tasks.clone(), future: Box::pin(starting) };
    Ok((stepped, tasks.gated(starting)))
}

/// How many entries are applied in a replica, and what that has made.
///
/// # Errors
/// `Corrupt` if it has noted something else.
pub fn progress(replica: &Replica) -> Result<(u64, Version)> {
    let applied = Applied::read(replica.applied().unwrap_or_default())?;
    Ok((next_index(applied.log_id.as_ref()), replica.version()))
}

/// A log that does wrong.
struct SpoiledLog {
    log: Log,
    store: StoreThread,
    node: u64,
    sabotage: Option<Sabotage>,
}

impl RaftLogReader<TypeConfig> for SpoiledLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry>> {
        self.log.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Stored<Vec<Entry>> {
        self.log.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<TypeConfig> for SpoiledLog {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Stored<LogState<TypeConfig>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.log.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Stored<()> {
        self.log.save_vote(vote).await
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote>> {
        let vote = self.log.read_vote().await?;
        if self.sabotage == Some(Sabotage::LeadsOnAfterARestart) {
            let stored: Option<Vote> = log::read(&self.store, log::VOTE).await.map_err(storage)?;
            let is_own = |vote: &Vote| vote.leader_id.node_id == self.node;
            if let Some(stored) = stored.filter(is_own) {
                self.log.lead_on(stored);
                return Ok(Some(stored));
            }
        }
        Ok(vote)
    }

    async fn append<I: Entries>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Stored<()> {
        let entries: Vec<_> = entries.into_iter().collect();
        match self.sabotage {
            Some(Sabotage::AcknowledgesAheadOfItsDisk) => {
                callback.log_io_completed(Ok(()));
                self.log.append_entries(entries, |_| {}).map_err(storage)
            }
            Some(Sabotage::TellsAheadOfItsDisk) => {
                let last = entries.last().map(|entry| entry.log_id);
                self.log.append(entries, callback).await?;
                self.log.pretend_durable(last);
                Ok(())
            }
            _ => self.log.append(entries, callback).await,
        }
    }

    async fn truncate(&mut self, log_id: Id) -> Stored<()> {
        self.log.truncate(log_id).await
    }

    async fn purge(&mut self, log_id: Id) -> Stored<()> {
        if self.sabotage == Some(Sabotage::ShortensBeforeAStateComes) {
            self.log.applied(Some(log_id));
        }
        self.log.purge(log_id).await
    }
}

/// A state machine that does wrong.
#[derive(Clone)]
struct SpoiledMachine {
    machine: StateMachine,
    sabotage: Option<Sabotage>,
}

impl RaftSnapshotBuilder<TypeConfig> for SpoiledMachine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot> {
        if self.sabotage == Some(Sabotage::ShortensBeforeTheState) {
            let (log_id, membership) = self.machine.applied_state().await?;
            let meta = Applied { log_id, membership }.into_meta();
            let nothing = SnapshotData(Box::new(std::iter::empty()));
            return Ok(Snapshot { meta, snapshot: Box::new(nothing) });
        }
        self.machine.build_snapshot().await
    }
}

impl RaftStateMachine<TypeConfig> for SpoiledMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Stored<(Option<Id>, StoredMembership<u64, Addresses>)> {
        self.machine.applied_state().await
    }

    async fn apply<I: Entries>(&mut self, entries: I) -> Stored<Vec<()>> {
        self.machine.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<SnapshotData>> {
        self.machine.begin_receiving_snapshot().await
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<SnapshotData>) -> Stored<()> {
        self.machine.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot>> {
        self.machine.get_current_snapshot().await
    }
}
