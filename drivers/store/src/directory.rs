//! A state file in its directory, locked, and there whole or not at all.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::Path,
};

use redb::backends::FileBackend;
use tsoracle_core::{Directory, Error, ErrorKind, Result, lock_file};

use crate::{Options, Store};

pub(crate) fn open(directory: &Path, options: Options) -> Result<Store> {
    let mut directory = Directory::lock(directory, "state.redb")?;
    let state = directory.state(|path| create(path, options))?;
    let name = state.display().to_string();
    let unusable = |source: io::Error| Error::cannot_use(&name, source);
    let file = OpenOptions::new().read(true).write(true).open(state).map_err(unusable)?;
    // This keeps out tools that know redb's files, but not this directory.
    lock_file(&file).map_err(|error| match error {
        TryLockError::WouldBlock => {
            Error::new(ErrorKind::Config, format!("{name} is in use by another process"))
        }
        TryLockError::Error(source) => Error::cannot_use(&name, source),
    })?;
    forget_cached(&file).map_err(unusable)?;
    let store = Store::open_on(backend(file)?, name.as_str(), options)?;
    directory.verify(store.commits()?)?;
    Ok(store.in_directory(directory))
}

/// Has the file read from the disk, not from memory.
///
/// After a sync that failed, the kernel may keep the pages in memory as if they had been written. A
/// process that was started anew would read and build on what the next power loss takes away.
fn forget_cached(file: &File) -> io::Result<()> {
    file.sync_all()?;
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    {
        use rustix::fs::{Advice, fadvise};
        // Advice only: a file system that does not follow it has to be trusted.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
        let _ = fadvise(file, 0, None, Advice::WillNeed);
    }
    Ok(())
}

fn create(path: &Path, options: Options) -> Result<()> {
    let name = path.display().to_string();
    let unusable = |source: io::Error| Error::cannot_use(&name, source);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = file.map_err(unusable)?;
    let written = file.try_clone().map_err(unusable)?;
    Store::create_on(backend(file)?, name.as_str(), options)?.close()?;
    written.sync_all().map_err(unusable)
}

fn backend(file: File) -> Result<FileBackend> {
    FileBackend::new(file).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot use the state file").with_source(source)
    })
}
