use std::path::Path;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use tsoracle_core::{Directory, Effect, Entry, Error, ErrorKind, Result, Seal, SeqStore};

use crate::Config;

/// Marks a database as ours, and which format it has.
const APPLICATION: u32 = 0x7473_6f72;
const FORMAT: u32 = 1;

/// The state in one table, and its seal in another.
const TABLES: &str = "
    CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE seal (seal BLOB NOT NULL);";

/// A store in `state.sqlite`, in a directory that is locked.
#[derive(Debug)]
pub struct Store {
    // Closed before the lock is released, since fields are dropped in this order.
    database: Connection,
    seal: Seal,
    directory: Directory,
}

impl Store {
    /// Locks the directory, which is made if it is missing, and opens the state in it.
    ///
    /// # Errors
    /// `Config` if the directory is in use or cannot be used; `Corrupt` if the state is damaged,
    /// missing although it was there once, or of an unknown format; `Fatal` if the disk fails.
    pub fn open(config: &Config) -> Result<Self> {
        let mut directory = Directory::lock(&config.path, "state.sqlite")?;
        let path = directory.state(create)?;
        let name = path.display().to_string();
        let database = connect(path).map_err(|error| failed(&name, error))?;
        let seal = verify(&database, config).map_err(|error| failed(&name, error))?;
        let seal = seal.map_err(|how| damaged(&name, &how))?;
        directory.verify(seal.commits())?;
        Ok(Self { database, seal, directory })
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failed(self.database.path().unwrap_or("state.sqlite"), error)
    }

    fn try_get(&self, key: &[u8]) -> rusqlite::Result<Option<Vec<u8>>> {
        let sql = "SELECT value FROM entries WHERE key = ?";
        self.database.prepare_cached(sql)?.query_one([key], |row| row.get(0)).optional()
    }

    fn try_scan(&self, from: &[u8], to: &[u8], limit: i64) -> rusqlite::Result<Vec<Entry>> {
        let sql = "SELECT key, value FROM entries WHERE key >= ? AND key < ? ORDER BY key LIMIT ?";
        let mut statement = self.database.prepare_cached(sql)?;
        let rows =
            statement.query_map(params![from, to, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    fn try_commit(&mut self, effect: &Effect, seal: &Seal) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        for (key, value) in effect.iter() {
            match value {
                Some(value) => transaction
                    .prepare_cached("INSERT OR REPLACE INTO entries VALUES (?, ?)")?
                    .execute([key, value])?,
                None => transaction
                    .prepare_cached("DELETE FROM entries WHERE key = ?")?
                    .execute([key])?,
            };
        }
        transaction.execute("UPDATE seal SET seal = ?", [seal.encode()])?;
        transaction.commit()
    }
}

impl SeqStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.try_get(key).map_err(|error| self.failed(error))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.try_scan(from, to, limit).map_err(|error| self.failed(error))
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        let seal = self.seal.after(&effect, |key| self.get(key))?;
        self.try_commit(&effect, &seal).map_err(|error| self.failed(error))?;
        self.seal = seal;
        self.directory.acknowledge(seal.commits())
    }
}

/// Opens a database so that a commit is on disk when it returns.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "DELETE")?;
    database.pragma_update(None, "synchronous", "EXTRA")?;
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(database)
}

fn create(path: &Path) -> Result<()> {
    let create = || {
        let mut database = connect(path)?;
        let transaction = database.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute("INSERT INTO seal VALUES (?)", [Seal::default().encode()])?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()
    };
    create().map_err(|error| failed(&path.display().to_string(), error))
}

/// The seal of a database that is ours and undamaged, or what is wrong with it.
fn verify(database: &Connection, config: &Config) -> rusqlite::Result<Result<Seal, String>> {
    database.pragma_update(None, "cache_size", -1_024 * i64::from(config.cache_mb))?;
    let number = |name| database.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (application, format) = (number("application_id")?, number("user_version")?);
    if application != APPLICATION {
        return Ok(Err("it is not a state of tsoracle's".into()));
    }
    if format != FORMAT {
        return Ok(Err(format!("it has format {format}, this release reads {FORMAT}")));
    }
    let found: String = database.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    if found != "ok" {
        return Ok(Err(found));
    }
    let seal: Vec<u8> = database.query_one("SELECT seal FROM seal", [], |row| row.get(0))?;
    // SQLite has no checksums, so each entry is read.
    let mut found = Seal::default();
    let mut statement = database.prepare("SELECT key, value FROM entries")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found.add(row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_blob()?);
    }
    let seal = Seal::decode(&seal).filter(|seal| seal.same_entries(&found));
    Ok(seal.ok_or_else(|| "its entries are not those of its last commit".into()))
}

fn failed(name: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
            damaged(name, &format!("{error:#}"))
        }
        Some(ErrorCode::DatabaseBusy) => {
            Error::new(ErrorKind::Config, format!("{name} is in use by another process"))
        }
        Some(_) => Error::new(ErrorKind::Fatal, format!("cannot use {name}")).with_source(error),
    }
}

fn damaged(name: &str, how: &str) -> Error {
    let context = format!("{name} is damaged, or not ours: {how}; restore it");
    Error::new(ErrorKind::Corrupt, context)
}
