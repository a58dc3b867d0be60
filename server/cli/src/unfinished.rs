//! Directories that a state is brought into: until it is whole, nothing else opens them.
//!
//! The first commit of a copy says so in the state itself, but a driver makes an empty state before there is any commit,
//! which would serve as a new one.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tsoracle_core::{DriverConfig, LOCK_FILE, sync_directory};

use crate::{drivers, failure::Failure};

/// The file that is there from before the driver makes anything until the state is whole.
const UNFINISHED: &str = "UNFINISHED";

const TEXT: &str = "\
A state is being brought here by tsoracle restore or migrate, or was, and is not whole. Nothing serves from
this directory: run that command again, or remove the directory.
";

/// The mark of one directory.
#[derive(Debug)]
pub(crate) struct Mark {
    directory: PathBuf,
    /// The directory was made for it.
    is_made: bool,
}

/// Marks the directory of a driver in which there is no state yet; nothing where there is one, or no directory.
pub(crate) fn mark(config: &DriverConfig) -> Result<Option<Mark>, Failure> {
    let Some(directory) = drivers::directory(config)? else { return Ok(None) };
    if directory.join(LOCK_FILE).exists() && !is_marked(&directory) {
        return Ok(None);
    }
    drivers::keep_to_oneself();
    let write = || {
        let is_made = !directory.exists();
        fs::create_dir_all(&directory)?;
        let mut file = File::create(directory.join(UNFINISHED))?;
        file.write_all(TEXT.as_bytes())?;
        file.sync_all()?;
        sync(&directory)?;
        Ok(is_made)
    };
    match write() {
        Ok(is_made) => Ok(Some(Mark { directory, is_made })),
        Err(error) => Err(cannot_mark(&directory, &error)),
    }
}

impl Mark {
    /// The state is whole.
    pub(crate) fn remove(self) -> Result<(), Failure> {
        let removed = fs::remove_file(self.directory.join(UNFINISHED));
        let removed = removed.and_then(|()| sync(&self.directory));
        removed.map_err(|error| cannot_mark(&self.directory, &error))
    }

    /// Nothing came of it. Where the driver has made something, the mark stays.
    pub(crate) fn undo(self) {
        if self.directory.join(LOCK_FILE).exists() {
            return;
        }
        // What cannot be removed refuses to be opened, and says why.
        let _ = fs::remove_file(self.directory.join(UNFINISHED));
        if self.is_made {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// Whether a state is there that is not whole.
pub(crate) fn is_marked(directory: &Path) -> bool {
    fs::symlink_metadata(directory.join(UNFINISHED)).is_ok()
}

/// That the state in a driver's directory, if it has one, is whole.
pub(crate) fn refuse(config: &DriverConfig) -> Result<(), Failure> {
    match drivers::directory(config)? {
        Some(directory) if is_marked(&directory) => Err(Failure::failed(format!(
            "a restore or a migration into {} was begun and is not finished, so that its state is not whole: run that \
             command again, or remove the directory",
            directory.display()
        ))),
        _ => Ok(()),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    sync_directory(&File::open(directory)?)
}

fn cannot_mark(directory: &Path, error: &io::Error) -> Failure {
    let file = directory.join(UNFINISHED);
    Failure::failed(format!("the target: {} cannot be written or removed: {error}", file.display()))
}
