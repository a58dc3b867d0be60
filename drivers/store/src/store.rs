use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, StorageBackend,
    TableDefinition, TableError, WriteTransaction,
};
use tsoracle_core::{Directory, Effect, Entry, Error, ErrorKind, Result, SeqStore};

use crate::{directory, record, verified::Verified};

/// The format this release writes, and the only one it reads.
const FORMAT: u32 = 1;

/// What the record of the format begins with, so that no other program's file is taken for ours.
const MAGIC: &[u8] = b"tsoracle state, format ";

type ReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

const DRIVER_KEY: &[u8] = b"driver";

/// The driver whose state has no note of it.
const UNNOTED: &str = "file";

const FORMAT_KEY: &[u8] = b"format";
const COMMITS_KEY: &[u8] = b"commits";
const META: Table = Table::new("meta");
const STATE: Table = Table::new("state");

/// How a [`Store`] uses the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much of the file is kept in memory, at most. It bounds a store's memory, whatever the
    /// number of keys.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 4 << 20 }
    }
}

/// One of the tables of a [`Store`]. Any name but `state` and `meta` is free.
#[derive(Clone, Copy, Debug)]
pub struct Table(&'static str);

impl Table {
    /// The table of that name, which comes to be when it is first written to.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    const fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// A durable, ordered key-value store in one file, locked against any second process.
///
/// As a [`SeqStore`] it is one table. Drivers that keep more, such as a log, have further tables,
/// written in the same atomic commits.
///
/// After an error it must not be used any more. Where the disk failed it would refuse: a failed sync
/// is never tried again.
pub struct Store {
    /// The state as of the last commit, while nothing is written: to open it takes longer than a read.
    state: Mutex<Option<ReadTable>>,
    // Closed before the lock is let go, since fields are dropped in this order.
    database: Database,
    name: String,
    /// None on a backend that is not a directory's file.
    directory: Mutex<Option<Directory>>,
}

impl Store {
    /// Locks `directory`, which is created if it is missing, and opens the state in it.
    ///
    /// Blocks, reading the whole file once to verify it.
    ///
    /// # Errors
    /// `Config` if the directory is in use or cannot be used; `Corrupt` if the state is damaged,
    /// missing although it was there once, or of an unknown format; `Fatal` if the disk fails.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        directory::open(directory, options)
    }

    /// Initializes an empty backend. `name` stands for it in errors.
    ///
    /// # Errors
    /// `Config` if the backend is not empty; `Fatal` if it fails.
    pub fn create_on(
        backend: impl StorageBackend,
        name: impl Into<String>,
        options: Options,
    ) -> Result<Self> {
        let name = name.into();
        if backend.len().map_err(|error| failed("cannot look at", &name, error))? > 0 {
            let context = format!("{name} is not empty, and not written over");
            return Err(Error::new(ErrorKind::Config, context));
        }
        let store = Self::start(backend, name, options)?;
        let mut format = Effect::default();
        format.put(FORMAT_KEY, [MAGIC, &FORMAT.to_be_bytes()].concat());
        store.write([(META, format), (STATE, Effect::default())])?;
        Ok(store)
    }

    /// Opens what [`create_on`](Self::create_on) has made. `name` stands for it in errors.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_on(
        backend: impl StorageBackend,
        name: impl Into<String>,
        options: Options,
    ) -> Result<Self> {
        let name = name.into();
        // redb would make a new database of an empty file.
        if backend.len().map_err(|error| failed("cannot look at", &name, error))? == 0 {
            let context = format!("{name} is empty, though it held state; restore it");
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let store = Self::start(backend, name, options)?;
        store.check_format()?;
        Ok(store)
    }

    pub(crate) fn in_directory(mut self, directory: Directory) -> Self {
        self.directory = Mutex::new(Some(directory));
        self
    }

    /// How many commits there have been.
    pub(crate) fn commits(&self) -> Result<u64> {
        match self.read(META, COMMITS_KEY)?.map(<[u8; 8]>::try_from) {
            None => Ok(0),
            Some(Ok(bytes)) => Ok(u64::from_be_bytes(bytes)),
            Some(Err(_)) => Err(damaged(&self.name, "its count of commits is no number")),
        }
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

    /// The state as of now, however it changes later. While it is kept, the file grows.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn view(&self) -> Result<StateView> {
        let table = self.table(STATE)?.ok_or_else(|| damaged(&self.name, "it has no state"))?;
        Ok(StateView { table, name: self.name.clone() })
    }

    /// Closes the file, which dropping does as well, but tells whether that went well.
    pub(crate) fn close(self) -> Result<()> {
        let Self { state, database, name, directory: _ } = self;
        drop(state);
        database.close().map_err(|error| failed("cannot close", &name, error))
    }

    fn start(backend: impl StorageBackend, name: String, options: Options) -> Result<Self> {
        let open = || {
            Builder::new()
                .set_cache_size(options.cache_bytes)
                .set_check_integrity_on_open(true)
                .create_with_backend(Verified::new(backend))
        };
        // Whatever damage redb did not expect is still damage, not a reason to take the process
        // down.
        let database = catch_unwind(AssertUnwindSafe(open))
            .map_err(|panic| damaged(&name, &said(&*panic)))?
            .map_err(|error| failed("cannot open", &name, error))?;
        Ok(Self { state: Mutex::default(), database, name, directory: Mutex::new(None) })
    }

    fn check_format(&self) -> Result<()> {
        let record = self.read(META, FORMAT_KEY)?;
        let Some(format) = record.as_deref().and_then(|record| record.strip_prefix(MAGIC)) else {
            return Err(damaged(&self.name, "it is not a file of tsoracle's"));
        };
        if format != FORMAT.to_be_bytes() {
            let name = &self.name;
            let found = match format.try_into() {
                Ok(bytes) => u32::from_be_bytes(bytes).to_string(),
                Err(_) => format.escape_ascii().to_string(),
            };
            let context = format!("{name} has format {found}, this release reads {FORMAT}");
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        match self.table(STATE)? {
            Some(_) => Ok(()),
            None => Err(damaged(&self.name, "it has no state")),
        }
    }

    /// The value under `key` of `table`.
    ///
    /// # Errors
    /// `Corrupt` if what is stored is damaged; `Fatal` if the disk fails.
    pub fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.table(table)?.map_or(Ok(None), |table| self.value(&table, key))
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
        self.table(table)?.map_or(Ok(vec![]), |table| self.range(&table, from, to, limit))
    }

    fn value(&self, table: &ReadTable, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let record = table.get(key).map_err(|error| self.failed(error))?;
        record.map(|record| self.unseal(key, record.value())).transpose()
    }

    fn range(&self, table: &ReadTable, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        range(table, &self.name, from, to, limit)
    }

    /// The last entry of `table`, by key.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn last(&self, table: Table) -> Result<Option<Entry>> {
        use redb::ReadableTable as _;
        let Some(table) = self.table(table)? else { return Ok(None) };
        let entry = table.last().map_err(|error| self.failed(error))?;
        let owned = entry.map(|(key, record)| {
            let value = self.unseal(key.value(), record.value())?;
            Ok((key.value().to_vec(), value))
        });
        owned.transpose()
    }

    /// Makes all these writes, or none. On return they survive a power loss, and so does every
    /// earlier write.
    ///
    /// # Errors
    /// `Fatal` or `Corrupt`; the writes may or may not have been made, but never in part.
    pub fn write(&self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        let now = Durability::Immediate;
        self.transact(now, |transaction| self.make(transaction, writes))
    }

    /// As [`write`](Self::write), without a sync: a crash undoes these writes, all of them and each
    /// later one, unless one that is synced came after. Only for what can be worked out again.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_unsynced(&self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        self.transact(Durability::None, |transaction| self.make(transaction, writes))
    }

    /// Makes `entries` the whole state, in place of what it was, together with `writes`: all of
    /// it or nothing, and durable on return.
    ///
    /// # Errors
    /// As for [`write`](Self::write), and the first one among the entries.
    pub fn replace_state(
        &self,
        entries: impl IntoIterator<Item = Result<Entry>>,
        writes: impl IntoIterator<Item = (Table, Effect)>,
    ) -> Result<()> {
        self.transact(Durability::Immediate, |transaction| {
            transaction.delete_table(STATE.definition()).map_err(|error| self.failed(error))?;
            let mut state =
                transaction.open_table(STATE.definition()).map_err(|error| self.failed(error))?;
            for entry in entries {
                let (key, value) = entry?;
                let record = record::seal(&key, &value);
                state.insert(&*key, &*record).map_err(|error| self.failed(error))?;
            }
            drop(state);
            self.make(transaction, writes)
        })
    }

    fn make(
        &self,
        transaction: &WriteTransaction,
        writes: impl IntoIterator<Item = (Table, Effect)>,
    ) -> Result<()> {
        for (table, effect) in writes {
            let mut table =
                transaction.open_table(table.definition()).map_err(|error| self.failed(error))?;
            for (key, value) in effect.iter() {
                let done = match value {
                    Some(value) => table.insert(key, &*record::seal(key, value)).map(drop),
                    None => table.remove(key).map(drop),
                };
                done.map_err(|error| self.failed(error))?;
            }
        }
        Ok(())
    }

    /// Commits what `change` has written, and counts it.
    fn transact(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<()>,
    ) -> Result<()> {
        let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
        // It would keep the pages of the last commit from being used again.
        self.state().take();
        let commit = self.commits()? + 1;
        let mut count = Effect::default();
        count.put(COMMITS_KEY, commit.to_be_bytes());
        let mut transaction = self.database.begin_write().map_err(|error| self.failed(error))?;
        transaction.set_durability(durability).map_err(|error| self.failed(error))?;
        change(&transaction)?;
        self.make(&transaction, [(META, count)])?;
        transaction.commit().map_err(|error| self.failed(error))?;
        // Somebody may have read meanwhile.
        self.state().take();
        match (&mut *directory, durability) {
            (Some(directory), Durability::Immediate) => directory.acknowledge(commit),
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<ReadTable>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the state, as of the last commit.
    fn with_state<T>(&self, read: impl FnOnce(&ReadTable) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        if state.is_none() {
            *state = self.table(STATE)?;
        }
        read(state.as_ref().ok_or_else(|| damaged(&self.name, "it has no state"))?)
    }

    fn table(&self, table: Table) -> Result<Option<ReadTable>> {
        let transaction = self.database.begin_read().map_err(|error| self.failed(error))?;
        match transaction.open_table(table.definition()) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn unseal(&self, key: &[u8], record: &[u8]) -> Result<Vec<u8>> {
        unseal(&self.name, key, record)
    }

    fn failed(&self, error: impl Into<redb::Error>) -> Error {
        failed("cannot use", &self.name, error)
    }
}

impl SeqStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.with_state(|state| self.value(state, key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        self.with_state(|state| self.range(state, from, to, limit))
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.write([(STATE, effect)])
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A state as it was, independent of the [`Store`] it comes from.
pub struct StateView {
    table: ReadTable,
    name: String,
}

impl StateView {
    /// As [`Store::entries`], of the state.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn entries(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        range(&self.table, &self.name, from, to, limit)
    }
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateView").field("name", &self.name).finish_non_exhaustive()
    }
}

fn range(
    table: &ReadTable,
    name: &str,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<Entry>> {
    if from >= to {
        return Ok(vec![]);
    }
    let range = table.range(from..to).map_err(|error| failed("cannot use", name, error))?;
    let entries = range.take(limit).map(|entry| {
        let (key, record) = entry.map_err(|error| failed("cannot use", name, error))?;
        let value = unseal(name, key.value(), record.value())?;
        Ok((key.value().to_vec(), value))
    });
    entries.collect()
}

fn unseal(name: &str, key: &[u8], record: &[u8]) -> Result<Vec<u8>> {
    match record::open(key, record) {
        Some(value) => Ok(value.to_vec()),
        None => {
            let key = key.escape_ascii();
            Err(damaged(name, &format!("the value under {key} fails its checksum")))
        }
    }
}

fn failed(what: &str, name: &str, error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let damage = match &error {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => true,
        // The latter where the file is shorter than it says.
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    if damage {
        return damaged(name, &error.to_string());
    }
    Error::new(ErrorKind::Fatal, format!("{what} {name}")).with_source(error)
}

fn damaged(name: &str, how: &str) -> Error {
    let context = format!("{name} is damaged, or not a state file: {how}; restore it");
    Error::new(ErrorKind::Corrupt, context)
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_unknown_format_is_refused_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Store::open(directory.path(), Options::default());
        let store = open().unwrap();
        let mut format = Effect::default();
        format.put(FORMAT_KEY, [MAGIC, &7_u32.to_be_bytes()].concat());
        store.write([(META, format)]).unwrap();
        drop(store);
        let error = open().unwrap_err();
        let state: PathBuf = directory.path().join("state.redb");
        let expected = format!("{} has format 7, this release reads 1", state.display());
        assert_eq!(error.to_string(), expected);
        assert_eq!(*error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn tables_are_separate_and_written_together() {
        const LOG: Table = Table::new("log");
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), Options::default()).unwrap();
        assert_eq!(store.last(LOG).unwrap(), None);
        let effect = |value: &[u8]| {
            let mut effect = Effect::default();
            (0..3_u8).for_each(|key| effect.put([key], value));
            effect
        };
        store.write([(LOG, effect(b"entry"))]).unwrap();
        store.commit(effect(b"state")).unwrap();
        assert_eq!(store.last(LOG).unwrap(), Some((vec![2], b"entry".to_vec())));
        assert_eq!(store.get(&[2]).unwrap(), Some(b"state".to_vec()));
        let entries = store.entries(LOG, &[1], &[3], 1).unwrap();
        assert_eq!(entries, [(vec![1], b"entry".to_vec())]);
        assert_eq!(store.entries(LOG, &[3], &[1], 1).unwrap(), []);
    }
}
