use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use openraft::{EntryPayload, StoredMembership};
use tokio::sync::{oneshot, watch};
use tsoracle_cluster::{Cluster, Identity, LogEntry, Machine, snapshot};
use tsoracle_core::{Clock as _, Error, ErrorKind, NodeId, Result, SystemClock, state::Effect};
use tsoracle_store::{StateView, Store, Table};

use super::{
    fatal,
    job::{Job, Write},
};
use crate::{
    types::{Applied, Entry, Id, Meta, SnapshotFile, decode, encode},
    waiting::Waiting,
};

/// The name in directories.
const DRIVER: &str = "openraft";

/// The log: big-endian indexes to entries.
pub(crate) const LOG: Table = Table::new("log");

/// The vote, what was purged, and the current snapshot.
pub(crate) const RAFT: Table = Table::new("raft");

/// By which id each node is known.
pub(super) const KNOWN: Table = Table::new("known");

const SNAPSHOT: &[u8] = b"snapshot";

/// Jobs that are done before those among them that wait for a sync get it.
const SHARE: usize = 256;

/// What the names of whole snapshots begin with.
pub(crate) const BUILT: &str = "built-";

/// What was found in the store.
pub(crate) struct Opened {
    pub(crate) snapshot: Option<(Meta, SnapshotFile)>,
    pub(crate) last: Option<Id>,
    pub(crate) known: BTreeMap<u32, NodeId>,
}

type Started = oneshot::Sender<Result<(Identity, Opened)>>;

/// Where the snapshots of a directory are.
pub(super) fn snapshots(directory: &Path) -> PathBuf {
    directory.join("snapshots")
}

/// What the thread lets others see.
pub(super) struct Shows {
    pub(super) waiting: Arc<Waiting>,
    pub(super) failing: watch::Sender<Option<Arc<Error>>>,
    pub(super) syncing_since: Arc<AtomicU64>,
}

/// Opens the store, and does what is asked until told to stop.
pub(super) fn run(cluster: &Cluster, shows: Shows, queue: mpsc::Receiver<Job>, opened: Started) {
    match open(cluster, shows) {
        Ok((owner, found)) => {
            // If nobody waits any more, the queue is closed as well.
            let _ = opened.send(Ok((owner.identity.clone(), found)));
            owner.run(&queue);
        }
        // The store is dropped by now: it may be opened again at once.
        Err(error) => drop(opened.send(Err(error))),
    }
}

fn open(cluster: &Cluster, shows: Shows) -> Result<(Owner, Opened)> {
    let store = Store::open(&cluster.path, cluster.store)?;
    let identity = Identity::open(&store, DRIVER, cluster)?;
    let machine = Machine::open(&store, SystemClock.now().boot)?;
    let applied = Machine::applied(&store)?.map(|bytes| decode(&bytes)).transpose()?;
    let last = store.last(LOG)?.map(|(_, bytes)| decode::<Entry>(&bytes)).transpose()?;
    let found = Opened {
        snapshot: current_snapshot(&store, &cluster.path)?,
        last: last.map(|entry| entry.log_id),
        known: known(&store)?,
    };
    tidy(&snapshots(&cluster.path), found.snapshot.as_ref().map(|(_, file)| file), "")?;
    let owner = Owner {
        store,
        identity,
        machine,
        applied: applied.unwrap_or_default(),
        snapshot: found.snapshot.clone(),
        snapshots: snapshots(&cluster.path),
        shows,
        pending: vec![],
        latched: None,
    };
    Ok((owner, found))
}

/// The thread's side: the store, what is known of it, and the first error it gave.
struct Owner {
    store: Store,
    identity: Identity,
    machine: Machine,
    applied: Applied,
    snapshot: Option<(Meta, SnapshotFile)>,
    snapshots: PathBuf,
    shows: Shows,
    /// Writes that wait for the next sync.
    pending: Vec<Write>,
    latched: Option<Error>,
}

impl Owner {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let mut goes_on = self.take(job);
            // Whatever came meanwhile shares the sync.
            for _ in 0..SHARE {
                match queue.try_recv() {
                    Ok(job) if goes_on => goes_on = self.take(job),
                    _ => break,
                }
            }
            self.flush();
            if !goes_on {
                return;
            }
        }
    }

    /// Does one job, or puts it with those that wait for the next sync. False once told to stop.
    fn take(&mut self, job: Job) -> bool {
        // A caller that has gone does not undo what was done for it.
        match job {
            Job::Write(write) => self.pending.push(write),
            Job::Apply { entries, reply } => {
                // What is applied must be on this node's disk as well: a crash undoes applying, and
                // it is done again from the log.
                let last = entries.last().map(|entry| entry.log_id.index);
                if self.pending.iter().any(|write| write.first <= last && write.first.is_some()) {
                    self.flush();
                }
                drop(reply.send(self.guard(|owner| owner.apply(entries))));
            }
            Job::Log { from, to, reply } => {
                self.flush();
                drop(reply.send(self.guard(|owner| owner.log(from, to))));
            }
            Job::Read { key, reply } => {
                self.flush();
                drop(reply.send(self.guard(|owner| owner.store.read(RAFT, key))));
            }
            Job::Applied { reply } => drop(reply.send(Ok(self.applied.clone()))),
            Job::Answer { query, reply } => {
                drop(reply.send(self.guard(|owner| owner.machine.answer(&owner.store, &query))));
            }
            Job::Claim { reply } => {
                self.flush();
                let claim = self.guard(|owner| owner.identity.raise_claim(&owner.store));
                drop(reply.send(claim));
            }
            Job::View { reply } => drop(reply.send(self.guard(Self::view))),
            Job::Publish { meta, file, reply } => {
                self.flush();
                drop(reply.send(self.guard(|owner| owner.publish(meta, file))));
            }
            Job::Install { meta, file, reply } => {
                self.flush();
                drop(reply.send(self.guard(|owner| owner.install(meta, file))));
            }
            Job::Stop => {
                self.flush();
                // What cannot be written is applied again by the next start.
                let _ = self.guard(Self::settle);
                return false;
            }
        }
        true
    }

    /// Makes what waits durable, with one sync.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let mut writes: Vec<_> =
            pending.iter_mut().flat_map(|write| std::mem::take(&mut write.writes)).collect();
        let now = SystemClock.now().boot.as_nanos();
        self.shows.syncing_since.store(now, Ordering::Release);
        let written = self.guard(|owner| {
            if owner.machine.is_due() {
                writes.extend(owner.settled()?);
            }
            owner.store.write(writes)
        });
        self.shows.syncing_since.store(0, Ordering::Release);
        for write in pending {
            for entry in write.seen {
                self.machine.observe(entry, write.now);
            }
            (write.done)(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(error.duplicate()),
            });
        }
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<()> {
        let mut applied = self.applied.clone();
        let mut commands = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(payload) => commands.push(LogEntry::decode(&payload.0)?),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            applied.log_id = Some(entry.log_id);
        }
        let answers = self.machine.apply(&self.store, &commands, SystemClock.now().boot)?;
        self.applied = applied;
        for (entry, committed) in commands.into_iter().zip(answers) {
            self.shows.waiting.applied(&entry, committed);
        }
        Ok(())
    }

    /// The writes that bring the store up to what was applied.
    fn settled(&mut self) -> Result<Vec<(Table, Effect)>> {
        Ok(self.machine.settle(&encode(&self.applied)?))
    }

    /// Brings the store up to what was applied. A crash undoes it, and it is applied again.
    fn settle(&mut self) -> Result<()> {
        match self.settled()? {
            writes if writes.is_empty() => Ok(()),
            writes => self.store.write_unsynced(writes),
        }
    }

    fn view(&mut self) -> Result<(Applied, StateView)> {
        self.settle()?;
        Ok((self.applied.clone(), self.store.view()?))
    }

    fn log(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>> {
        let most = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let entries = self.store.entries(LOG, &from.to_be_bytes(), &to.to_be_bytes(), most)?;
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The state that the snapshot holds is made durable by the same commit.
    fn publish(&mut self, meta: Meta, file: SnapshotFile) -> Result<bool> {
        let known = self.snapshot.as_ref().map(|(known, _)| known.last_log_id);
        let is_further = known.is_none_or(|known| known <= meta.last_log_id) && file.0.exists();
        if is_further {
            let mut writes = self.settled()?;
            writes.push(named(&meta, &file)?);
            self.store.write(writes)?;
            self.snapshot = Some((meta, file));
        }
        tidy(&self.snapshots, self.snapshot.as_ref().map(|(_, file)| file), BUILT)?;
        Ok(is_further)
    }

    fn install(&mut self, meta: Meta, file: SnapshotFile) -> Result<()> {
        let applied =
            Applied { log_id: meta.last_log_id, membership: meta.last_membership.clone() };
        let writes = [Machine::mark(&encode(&applied)?), named(&meta, &file)?];
        snapshot::install(&self.store, snapshot::load(&file.0)?, writes)?;
        self.machine.reload(&self.store, SystemClock.now().boot)?;
        self.applied = applied;
        self.snapshot = Some((meta, file));
        tidy(&self.snapshots, self.snapshot.as_ref().map(|(_, file)| file), BUILT)
    }

    /// Uses the store unless it has failed before, and latches its first error or panic.
    fn guard<T>(&mut self, call: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.latched {
            return Err(error.duplicate());
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| call(self)))
            .unwrap_or_else(|_| Err(fatal("the store or the state machine panicked")));
        outcome.inspect_err(|error| {
            tracing::error!(%error, "storage failed; this process serves no more");
            let kind = match error.kind() {
                ErrorKind::Corrupt => ErrorKind::Corrupt,
                _ => ErrorKind::Fatal,
            };
            let context = format!("storage failed, and is not tried again: {error}");
            let latched = Error::new(kind, context);
            self.shows.failing.send_replace(Some(Arc::new(latched.duplicate())));
            self.latched = Some(latched);
        })
    }
}

fn named(meta: &Meta, file: &SnapshotFile) -> Result<(Table, Effect)> {
    let name = file.0.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| fatal("a snapshot's file has no name"))?;
    let mut effect = Effect::default();
    effect.put(SNAPSHOT, encode(&(meta, name))?);
    Ok((RAFT, effect))
}

fn current_snapshot(store: &Store, directory: &Path) -> Result<Option<(Meta, SnapshotFile)>> {
    let Some(bytes) = store.read(RAFT, SNAPSHOT)? else { return Ok(None) };
    let (meta, name) = decode::<(Meta, String)>(&bytes)?;
    let file = snapshots(directory).join(name);
    if !file.exists() {
        // The state itself holds more than it did; a new one is made when one is needed.
        tracing::warn!(?file, "the last snapshot is missing");
        return Ok(None);
    }
    Ok(Some((meta, SnapshotFile(file))))
}

fn known(store: &Store) -> Result<BTreeMap<u32, NodeId>> {
    let entries = store.entries(KNOWN, &[], &[u8::MAX; 5], usize::MAX)?;
    let known = entries.into_iter().map(|(node, id)| {
        let node = u32::from_be_bytes(node.try_into().ok()?);
        Some((node, NodeId(u128::from_be_bytes(id.try_into().ok()?))))
    });
    known.collect::<Option<_>>().ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the ids of the other nodes cannot be read; restore it")
    })
}

/// Removes files whose names begin with `kind`, but for the current snapshot, and what is still being
/// written under another name.
fn tidy(directory: &Path, current: Option<&SnapshotFile>, kind: &str) -> Result<()> {
    let unusable = |source| Error::cannot_use(directory.display(), source);
    fs::create_dir_all(directory).map_err(unusable)?;
    for found in fs::read_dir(directory).map_err(unusable)? {
        let path = found.map_err(unusable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_unfinished = name.ends_with(".new") && !kind.is_empty();
        let is_current = current.is_some_and(|current| current.0 == path);
        if name.starts_with(kind) && !is_unfinished && !is_current {
            fs::remove_file(&path).map_err(unusable)?;
        }
    }
    Ok(())
}
