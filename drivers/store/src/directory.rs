//! A state in its directory, locked, and there whole or not at all.

use std::{fs, path::Path};

use tsoracle_core::{Directory, Error, LockedToRead, Result};

use crate::{
    Options, Store, earlier,
    files::{DirectoryFiles, Place},
    frozen::FrozenFiles,
    recovery::{Recovered, initialize},
    tables::Tables,
};

/// The directory that holds the files, within the one that is locked.
const STATE: &str = "state.journal";

pub(crate) fn open(directory: &Path, options: Options) -> Result<Store> {
    let mut directory = Directory::lock(directory, STATE)?;
    directory.take_over(earlier::STATE, |from, to| {
        let state = earlier::read(from)?;
        make(to, state.commits, &state.tables, options)?;
        Ok(state.commits)
    })?;
    let path = directory.state(|path| make(path, 0, &Tables::default(), options))?;
    let recovered = Recovered::read(place(path)?)?;
    // Before anything is changed: what was acknowledged must not be cut off as if it never was.
    directory.verify(recovered.commits())?;
    directory.remove_earlier(recovered.commits(), |path| Ok(earlier::read(path)?.commits))?;
    Store::start(recovered, options, Some(directory))
}

/// The state of a directory as it is, in memory. What is written to it changes nothing on the disk.
///
/// # Errors
/// As of [`Store::inspect`].
pub(crate) fn inspect(directory: &Path) -> Result<(Store, Vec<String>)> {
    let locked = LockedToRead::lock(directory, STATE)?;
    let unusable = |source| Error::cannot_use(locked.state.display(), source);
    let files = DirectoryFiles::lock(&locked.state)?.into_lock();
    let frozen = FrozenFiles::read(&locked.state, files).map_err(unusable)?;
    let recovered = Recovered::read(Place::new(frozen, locked.state.display().to_string()))?;
    let mut notes = vec![];
    if let Some(acknowledged) = locked.acknowledged.filter(|last| *last > recovered.commits()) {
        notes.push(format!(
            "it is at commit {}, though {acknowledged} was acknowledged: it is an older copy, or damaged, and lacks what \
             came after",
            recovered.commits()
        ));
    }
    if let Some(whither) = &locked.moved {
        notes.push(format!("it is not to be served any more: {}", whither.trim()));
    }
    let store = Store::start(recovered, Options::default(), None)?;
    Ok((store.looked_at(locked), notes))
}

fn make(path: &Path, commits: u64, tables: &Tables, options: Options) -> Result<()> {
    fs::create_dir(path).map_err(|source| Error::cannot_use(path.display(), source))?;
    initialize(&place(path)?, commits, tables, options.journal_bytes)
}

fn place(path: &Path) -> Result<Place> {
    Ok(Place::new(DirectoryFiles::lock(path)?, path.display().to_string()))
}
