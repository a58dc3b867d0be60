//! The state that releases before the journal have left: one redb file, read to be converted.

use std::{
    any::Any,
    fs::OpenOptions,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, TableHandle as _, backends::FileBackend,
};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::tables::Tables;

/// What the file is called.
pub(crate) const STATE: &str = "state.redb";

const FORMAT: &[u8] = b"tsoracle state, format \0\0\0\x01";

const META: &str = "meta";
const FORMAT_KEY: &[u8] = b"format";
const COMMITS_KEY: &[u8] = b"commits";

/// What the file holds.
#[derive(Debug)]
pub(crate) struct Earlier {
    /// How many commits there have been.
    pub(crate) commits: u64,
    pub(crate) tables: Tables,
}

/// Reads all of the file, and verifies it. redb may repair it, which loses nothing.
///
/// # Errors
/// `Corrupt` for any other file, and if it is damaged; `Config` and `Fatal` if it cannot be used.
pub(crate) fn read(path: &Path) -> Result<Earlier> {
    let name = path.display().to_string();
    // Whatever damage redb did not expect is still damage, not a reason to take the process down.
    catch_unwind(AssertUnwindSafe(|| read_file(path, &name)))
        .unwrap_or_else(|panic| Err(damaged(&name, &message(&*panic))))
}

fn read_file(path: &Path, name: &str) -> Result<Earlier> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|source| Error::cannot_use(name, source))?;
    // redb would make a new database of an empty file.
    if file.metadata().map_err(|source| Error::cannot_use(name, source))?.len() == 0 {
        return Err(damaged(name, "it is empty"));
    }
    let backend = FileBackend::new(file).map_err(|error| failed(name, error))?;
    let mut builder = Builder::new();
    let database = builder.set_check_integrity_on_open(true).create_with_backend(backend);
    let database: Database = database.map_err(|error| failed(name, error))?;
    let transaction = database.begin_read().map_err(|error| failed(name, error))?;
    let mut tables = Tables::default();
    for table in transaction.list_tables().map_err(|error| failed(name, error))? {
        read_table(&transaction, table.name(), name, &mut tables)?;
    }
    let meta = tables.table(META);
    if meta.get(FORMAT_KEY) != Some(FORMAT) {
        return Err(damaged(name, "it is not a state of format 1"));
    }
    let commits = meta.get(COMMITS_KEY).map(<[u8; 8]>::try_from);
    let Some(Ok(commits)) = commits.map(|bytes| bytes.map(u64::from_be_bytes)) else {
        return Err(damaged(name, "its count of commits is no number"));
    };
    // The journal has both of its own.
    meta.delete(FORMAT_KEY);
    meta.delete(COMMITS_KEY);
    Ok(Earlier { commits, tables })
}

fn read_table(
    transaction: &ReadTransaction,
    table: &str,
    name: &str,
    tables: &mut Tables,
) -> Result<()> {
    let definition = TableDefinition::<&[u8], &[u8]>::new(table);
    let stored: ReadOnlyTable<&[u8], &[u8]> =
        transaction.open_table(definition).map_err(|error| failed(name, error))?;
    let map = tables.table(table);
    for entry in stored.iter().map_err(|error| failed(name, error))? {
        let (key, record) = entry.map_err(|error| failed(name, error))?;
        let value = unseal(key.value(), record.value()).ok_or_else(|| {
            let key = key.value().escape_ascii();
            damaged(name, &format!("the value under {key} fails its checksum"))
        })?;
        map.put(key.value(), value);
    }
    Ok(())
}

/// The value in a record: a checksum over the key's length, the key and the value, then the value.
fn unseal<'a>(key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, value) = record.split_first_chunk::<4>()?;
    let length = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(length, key), value);
    (u32::from_le_bytes(*stored) == checksum).then_some(value)
}

fn failed(name: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => {
            Error::new(ErrorKind::Config, format!("{name} is in use by another process"))
        }
        // The two kinds where the file is shorter than it says.
        redb::Error::Io(source)
            if !matches!(
                source.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Error::cannot_use(name, source)
        }
        error => damaged(name, &format!("{error:#}")),
    }
}

fn damaged(name: &str, how: &str) -> Error {
    let context = format!("{name} is damaged, or not a state file: {how}; restore it");
    Error::new(ErrorKind::Corrupt, context)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
