use std::{fmt, path::Path};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, ErrorKind as RocksKind,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use tsoracle_core::{Directory, Effect, Entry, Error, ErrorKind, Result, Seal, SeqStore, new_node};

use crate::{Config, log};

/// The format this release writes, and the only one it reads.
const FORMAT: u32 = 1;

/// What the record of the format begins with, so that no other program's data is taken for ours.
const MAGIC: &[u8] = b"tsoracle state, format ";

/// Keys of the state begin with this byte, the store's own keys with another.
const STATE: u8 = b's';
const FORMAT_KEY: &[u8] = b"meta format";
const SEAL_KEY: &[u8] = b"meta seal";

/// A [`SeqStore`] in a RocksDB database, in a directory locked against any second process.
///
/// After an error it must not be used any more.
pub struct Store {
    // Closed before the lock is let go, since fields are dropped in this order.
    database: DB,
    name: String,
    seal: Seal,
    directory: Directory,
}

impl Store {
    /// Locks the directory, which is created if it is missing, and opens the state in it.
    ///
    /// Blocks, reading all of the state once to verify it.
    ///
    /// # Errors
    /// `Config` if the directory is in use or cannot be used; `Corrupt` if the state is damaged,
    /// missing although it was there once, or of an unknown format; `Fatal` if the disk fails.
    pub fn open(config: &Config) -> Result<Self> {
        let mut directory = Directory::lock(&config.path, "state.rocksdb")?;
        let state = directory.state(|path| create(path, config))?;
        let name = state.display().to_string();
        let damage = log::find_damage(state).map_err(|error| Error::cannot_use(&name, error))?;
        if let Some((log, position)) = damage {
            return Err(damaged(&log.display().to_string(), &format!("at byte {position}")));
        }
        let database = DB::open(&options(config, &name)?, state).map_err(|e| failed(&name, e))?;
        check_format(&database, &name)?;
        let seal = verify(&database, &name)?;
        directory.verify(seal.commits())?;
        let mut store = Self { database, name, seal, directory };
        if store.directory.is_copy() {
            store.commit(new_node()?)?;
            store.directory.settle_here()?;
        }
        Ok(store)
    }

    fn failed(&self, error: rocksdb::Error) -> Error {
        failed(&self.name, error)
    }
}

impl SeqStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.database.get(own(key)).map_err(|error| self.failed(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        if from >= to {
            return Ok(vec![]);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(own(to));
        let mut iterator = self.database.raw_iterator_opt(options);
        iterator.seek(own(from));
        let mut entries = Vec::new();
        while let Some((key, value)) = iterator.item().filter(|_| entries.len() < limit) {
            entries.push((key[1..].to_vec(), value.to_vec()));
            iterator.next();
        }
        iterator.status().map_err(|error| self.failed(error))?;
        Ok(entries)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        let seal = self.seal.after(&effect, |key| self.get(key))?;
        let mut batch = WriteBatch::default();
        for (key, value) in effect {
            match value {
                Some(value) => batch.put(own(&key), value),
                None => batch.delete(own(&key)),
            }
        }
        batch.put(SEAL_KEY, seal.encode());
        write(&self.database, batch).map_err(|error| self.failed(error))?;
        self.seal = seal;
        self.directory.acknowledge(seal.commits())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("name", &self.name).finish_non_exhaustive()
    }
}

fn options(config: &Config, name: &str) -> Result<Options> {
    // After an error of its background work RocksDB would try again by itself.
    let mut options = Options::default()
        .get_options_from_string("max_bgerror_resume_count=0")
        .map_err(|error| failed(name, error))?;
    options.set_paranoid_checks(true);
    // The one mode that accepts a last record cut short, which was never acknowledged, and refuses
    // all other damage, where the default would drop what follows it without a word.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);

    let megabytes = |count: u16| usize::from(count) << 20;
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(megabytes(config.cache_mb)));
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::None);
    let write_buffer = megabytes(config.write_buffer_mb.max(1));
    options.set_write_buffer_size(write_buffer);
    options.set_target_file_size_base(write_buffer as u64 * 2);
    options.set_max_open_files(config.open_files.max(20).into());
    options.set_max_background_jobs(2);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_persist_period_sec(0);
    options.set_stats_dump_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    Ok(options)
}

fn create(path: &Path, config: &Config) -> Result<()> {
    let name = path.display().to_string();
    let mut options = options(config, &name)?;
    options.create_if_missing(true);
    options.set_error_if_exists(true);
    let create = || {
        let database = DB::open(&options, path)?;
        let mut batch = WriteBatch::default();
        batch.put(FORMAT_KEY, [MAGIC, &FORMAT.to_be_bytes()].concat());
        batch.put(SEAL_KEY, Seal::default().encode());
        write(&database, batch)
    };
    create().map_err(|error| failed(&name, error))
}

fn write(database: &DB, batch: WriteBatch) -> Result<(), rocksdb::Error> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    database.write_opt(batch, &options)
}

fn check_format(database: &DB, name: &str) -> Result<()> {
    let record = database.get(FORMAT_KEY).map_err(|error| failed(name, error))?;
    let Some(format) = record.as_deref().and_then(|record| record.strip_prefix(MAGIC)) else {
        return Err(damaged(name, "it is not a state of tsoracle's"));
    };
    if format != FORMAT.to_be_bytes() {
        return Err(match format.try_into().map(u32::from_be_bytes) {
            Ok(found) => Error::unknown_format(name, found.into(), FORMAT.into()),
            Err(_) => damaged(name, "its format is no number"),
        });
    }
    Ok(())
}

/// Reads all of the state once, which has RocksDB verify every block, and compares it with its seal.
fn verify(database: &DB, name: &str) -> Result<Seal> {
    let seal = database.get(SEAL_KEY).map_err(|error| failed(name, error))?;
    let Some(seal) = seal.as_deref().and_then(Seal::decode) else {
        return Err(damaged(name, "it has no seal"));
    };
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    let mut iterator = database.raw_iterator_opt(options);
    iterator.seek([STATE]);
    let mut found = Seal::default();
    while let Some((key, value)) = iterator.item() {
        found.add(&key[1..], value);
        iterator.next();
    }
    iterator.status().map_err(|error| failed(name, error))?;
    if !found.same_entries(&seal) {
        let how = format!("its entries are not those of commit {}", seal.commits());
        return Err(damaged(name, &how));
    }
    Ok(seal)
}

fn own(key: &[u8]) -> Vec<u8> {
    [&[STATE], key].concat()
}

fn failed(name: &str, error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    match error.kind() {
        RocksKind::Corruption | RocksKind::InvalidArgument | RocksKind::NotFound => {
            damaged(name, text)
        }
        _ if text.contains("No such file") => damaged(name, text),
        RocksKind::IOError if text.contains("/LOCK: ") => {
            Error::new(ErrorKind::Config, format!("{name} is in use by another process"))
        }
        _ => Error::new(ErrorKind::Fatal, format!("cannot use {name}")).with_source(error),
    }
}

fn damaged(name: &str, how: &str) -> Error {
    let context = format!("{name} is damaged, or not a state of tsoracle's: {how}; restore it");
    Error::new(ErrorKind::Corrupt, context)
}
