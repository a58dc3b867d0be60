use std::{
    fmt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tsoracle_core::{Directory, Effect, Entry, Error, ErrorKind, LockedToRead, Result, SeqStore};

use crate::{
    checkpoint::Failure,
    directory,
    files::{Files, Place},
    journal::Journal,
    recovery::{Recovered, initialize},
    tables::{Map, Tables},
};

const DRIVER_KEY: &[u8] = b"driver";

/// The driver whose state has no note of it.
const UNNOTED: &str = "file";

const META: Table = Table::new("meta");
const STATE: Table = Table::new("state");

/// How a [`Store`] uses the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many bytes of the journal there are at least, before the state is written. The fewer, the
    /// less is read at a start, and the more often a small state is written.
    pub journal_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_bytes: 16 << 20 }
    }
}

/// One of the tables of a [`Store`]. Any name of at most 255 bytes is free, but `state` and `meta`.
#[derive(Clone, Copy, Debug)]
pub struct Table(&'static str);

impl Table {
    /// The table of that name; it is created by its first write.
    pub const fn new(name: &'static str) -> Self {
        assert!(name.len() < 256, "the name of a table is too long");
        Self(name)
    }
}

/// A durable, ordered key-value store: in memory, with a journal on disk. Locked against any second
/// process.
///
/// As a [`SeqStore`] it is one table. Drivers that keep more, such as a log, have further tables,
/// written in the same atomic commits.
///
/// The first error of the disk is final: afterwards every method fails with it.
pub struct Store {
    tables: Mutex<Held>,
    // Closed before the lock is released, since fields are dropped in this order.
    journal: Mutex<Journal>,
    failure: Failure,
    name: String,
    /// None where the files are not a directory's.
    directory: Mutex<Option<Directory>>,
    _looked_at: Option<LockedToRead>,
}

/// The tables, and what is to be laid over them.
struct Held {
    tables: Tables,
    /// A commit to the state that is on the disk, and that no reader has come for.
    owed: Option<Effect>,
}

impl Store {
    /// Locks `directory`, which is created if it is missing, and opens the state in it.
    ///
    /// Blocks, reading all files once to verify them.
    ///
    /// # Errors
    /// `Config` if the directory is in use or cannot be used; `Corrupt` if the state is damaged,
    /// missing although it was there once, or of an unknown format; `Fatal` if the disk fails.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        directory::open(directory, options)
    }

    /// The state in the directory of a node that is stopped, as it is, and what a person has to know of it. Nothing
    /// on the disk is changed, whatever is written. Until it is dropped, no process can open the directory.
    ///
    /// Blocks, reading all files into memory.
    ///
    /// # Errors
    /// `Config` if there is none, or it is in use; `Corrupt` if it is damaged, or of an unknown format.
    pub fn inspect(directory: &Path) -> Result<(Self, Vec<String>)> {
        directory::inspect(directory)
    }

    /// Keeps a directory locked that is looked at.
    pub(crate) fn looked_at(self, locked: LockedToRead) -> Self {
        Self { _looked_at: Some(locked), ..self }
    }

    /// Makes a new store of these files. `name` stands for their directory in errors.
    ///
    /// # Errors
    /// `Config` if there are any files; those of the file system.
    pub fn create_on(files: impl Files, name: impl Into<String>, options: Options) -> Result<()> {
        let place = Place::new(files, name);
        if !place.names()?.is_empty() {
            let context = format!("{} is not empty, and not written over", place.name());
            return Err(Error::new(ErrorKind::Config, context));
        }
        initialize(&place, 0, &Tables::default(), options.journal_bytes)
    }

    /// Opens what [`create_on`](Self::create_on) has made. `name` stands for the directory in errors.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_on(files: impl Files, name: impl Into<String>, options: Options) -> Result<Self> {
        Self::start(Recovered::read(Place::new(files, name))?, options, None)
    }

    pub(crate) fn start(
        recovered: Recovered,
        options: Options,
        directory: Option<Directory>,
    ) -> Result<Self> {
        let name = recovered.place.name().to_owned();
        let failure = Failure::default();
        let (journal, tables) = recovered.start(options.journal_bytes, failure.clone())?;
        let (tables, journal, directory) =
            (Mutex::new(Held { tables, owed: None }), Mutex::new(journal), Mutex::new(directory));
        Ok(Self { tables, journal, failure, name, directory, _looked_at: None })
    }

    /// Notes that the state is the driver's of that name, or finds that it is.
    ///
    /// # Errors
    /// `Config` if it is another driver's; and those of [`write`](Self::write).
    pub fn belong_to(&self, driver: &str) -> Result<()> {
        let owner = match self.read(META, DRIVER_KEY)? {
            Some(owner) => String::from_utf8_lossy(&owner).into_owned(),
            // The first driver there was leaves no note.
            None if driver == UNNOTED => return Ok(()),
            None if !self.entries(STATE, &[], &[u8::MAX], 1)?.is_empty() => UNNOTED.into(),
            None => {
                let mut note = Effect::default();
                note.put(DRIVER_KEY, driver);
                return self.write([(META, note)]);
            }
        };
        if owner == driver {
            return Ok(());
        }
        let name = &self.name;
        let context = format!(
            "{name} is the {owner} driver's, not the {driver} driver's; give this node another \
             path, or copy the state with `tsoracle migrate`"
        );
        Err(Error::new(ErrorKind::Config, context))
    }

    /// Whether the directory is a copy, as far as its `LOCK` tells.
    pub fn is_copy(&self) -> bool {
        self.directory().as_ref().is_some_and(Directory::is_copy)
    }

    /// Notes that the directory belongs where it is. Until this is done, it is found again to be a copy.
    ///
    /// # Errors
    /// `Fatal` if the disk fails.
    pub fn settle_here(&self) -> Result<()> {
        self.directory().as_mut().map_or(Ok(()), Directory::settle_here)
    }

    fn directory(&self) -> MutexGuard<'_, Option<Directory>> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state as of now, however it changes later. While it is kept, what changes takes memory twice.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn view(&self) -> Result<StateView> {
        let state = self.with(STATE, |map| Ok(map.cloned().unwrap_or_default()))?;
        Ok(StateView { state })
    }

    /// The value under `key` of `table`.
    ///
    /// # Errors
    /// `Fatal` or `Corrupt` once the store has failed.
    pub fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.with(table, |map| Ok(map.and_then(|map| map.get(key)).map(<[u8]>::to_vec)))
    }

    /// The first `limit` entries of `table` from `from` (inclusive) to `to` (exclusive), ordered by
    /// key, byte by byte.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn entries(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<Entry>> {
        self.with(table, |map| Ok(map.map_or(vec![], |map| map.entries(from, to, limit))))
    }

    /// The last entry of `table`, by key.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn last(&self, table: Table) -> Result<Option<Entry>> {
        self.with(table, |map| Ok(map.and_then(Map::last)))
    }

    fn with<T>(&self, table: Table, read: impl FnOnce(Option<&Map>) -> Result<T>) -> Result<T> {
        self.failure.check()?;
        read(self.held().tables.get(table.0))
    }

    /// The tables as of the last commit.
    fn held(&self) -> MutexGuard<'_, Held> {
        let mut held = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(effect) = held.owed.take() {
            held.tables.table(STATE.0).apply(&effect);
        }
        held
    }

    /// Makes all these writes, or none. On return they survive a power loss, and so does every
    /// earlier write. No reader sees them before that.
    ///
    /// # Errors
    /// `Fatal` or `Corrupt`; the writes may or may not have been made, but never in part.
    pub fn write(&self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        self.commit_writes(writes, true)
    }

    /// As [`write`](Self::write), without a sync: a crash undoes these writes, all of them and each
    /// later one, unless one that is synced came after. Only for what can be worked out again.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_unsynced(&self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        self.commit_writes(writes, false)
    }

    fn commit_writes(
        &self,
        writes: impl IntoIterator<Item = (Table, Effect)>,
        durable: bool,
    ) -> Result<()> {
        let writes: Vec<_> = writes.into_iter().map(|(table, effect)| (table.0, effect)).collect();
        self.commit_to(|journal| {
            journal.append(&writes)?;
            if durable {
                journal.sync()?;
            }
            let mut held = self.held();
            for (table, effect) in &writes {
                held.tables.table(table).apply(effect);
            }
            drop(held);
            journal.write_behind(|| self.held().tables.clone())
        })
    }

    /// Makes `entries` the whole state, in place of what it was, together with `writes`: all of
    /// it or nothing, and durable on return.
    ///
    /// # Errors
    /// As for [`write`](Self::write), and the first one among the entries, which changes nothing.
    pub fn replace_state(
        &self,
        entries: impl IntoIterator<Item = Result<Entry>>,
        writes: impl IntoIterator<Item = (Table, Effect)>,
    ) -> Result<()> {
        let mut state = Map::default();
        for entry in entries {
            let (key, value) = entry?;
            state.put(&key, &value);
        }
        self.commit_to(|journal| {
            let mut tables = self.held().tables.clone();
            *tables.table(STATE.0) = state;
            for (table, effect) in writes {
                tables.table(table.0).apply(&effect);
            }
            journal.replace(&tables)?;
            self.held().tables = tables;
            Ok(())
        })
    }

    /// Has the journal changed, and notes the last commit that is on the disk.
    fn commit_to(&self, change: impl FnOnce(&mut Journal) -> Result<()>) -> Result<()> {
        // What panicked may have written what is not in memory.
        let panicked = |_| Error::new(ErrorKind::Fatal, "the store panicked in an earlier commit");
        let mut journal = self.journal.lock().map_err(panicked)?;
        self.failure.check()?;
        let done = change(&mut journal).and_then(|()| self.acknowledge(&journal));
        done.map_err(|error| self.failure.latch(&error))
    }

    fn acknowledge(&self, journal: &Journal) -> Result<()> {
        match &mut *self.directory() {
            Some(directory) if journal.synced == journal.sequence => {
                directory.acknowledge(journal.sequence)
            }
            _ => Ok(()),
        }
    }
}

impl SeqStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(STATE, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        self.entries(STATE, from, to, limit)
    }

    /// The tables are changed by the next call, whichever it is, so that the one who has committed need not wait
    /// for that.
    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.commit_to(|journal| {
            let writes = [(STATE.0, effect)];
            journal.append(&writes)?;
            journal.sync()?;
            let [(_, effect)] = writes;
            self.held().owed = Some(effect);
            journal.write_behind(|| self.held().tables.clone())
        })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A state as it was, independent of the [`Store`] it comes from.
#[derive(Debug)]
pub struct StateView {
    state: Map,
}

impl StateView {
    /// As [`Store::entries`], of the state.
    ///
    /// # Errors
    /// None; what is read from it is in memory.
    pub fn entries(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        Ok(self.state.entries(from, to, limit))
    }
}
