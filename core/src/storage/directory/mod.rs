//! The directory of a store: its lock, and a state that exists whole or not at all.

mod lock;
mod place;

pub use lock::lock_file;

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind as Io, Write as _},
    path::{Path, PathBuf},
};

use self::lock::{Lock, Note};
use crate::{Error, ErrorKind, Result};

/// The file that each directory with a state has.
pub const LOCK_FILE: &str = "LOCK";
const LOCK: &str = LOCK_FILE;

/// The file that says where a state has gone that is served from elsewhere now.
const MOVED: &str = "MOVED";

/// Marks a directory, in which nobody has a store open, as one whose state has gone elsewhere: `whither` is told to
/// whoever opens it.
///
/// # Errors
/// `Config` or `Fatal` if the directory cannot be written to.
pub fn mark_moved(directory: &Path, whither: &str) -> Result<()> {
    let write = || {
        let mut file = File::create(directory.join(MOVED))?;
        file.write_all(whither.as_bytes())?;
        file.sync_all()?;
        sync_directory(&File::open(directory)?)
    };
    write().map_err(|source| unusable(directory, source))
}

/// A directory in which one process at a time keeps its state, in one file or one directory.
///
/// The file `LOCK` in it keeps every other process out until this is dropped, and remembers the last
/// acknowledged commit. So a store need not tell a fresh start from a loss by itself: state that was
/// there once and is missing, or that is older than what was acknowledged, is refused.
///
/// An example of a store that is built on it is the `tsoracle-file` driver's.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    state: PathBuf,
    /// Where an earlier release kept the state.
    earlier: Option<PathBuf>,
    lock: Lock,
    /// It is not where its `LOCK` says.
    is_copy: bool,
}

/// A directory of a stopped node, locked to be looked at. Nothing in it is changed.
#[derive(Debug)]
pub struct LockedToRead {
    /// Where the state is.
    pub state: PathBuf,
    /// The last commit that was acknowledged, as far as `LOCK` tells.
    pub acknowledged: Option<u64>,
    /// Where the state has gone, if it is not to be served from here any more.
    pub moved: Option<String>,
    _lock: Lock,
}

impl LockedToRead {
    /// Locks a directory in which there is a state. `state` is the name in it under which that is kept.
    ///
    /// # Errors
    /// `Config` if there is none, or the directory is in use or cannot be read.
    pub fn lock(path: &Path, state: &str) -> Result<Self> {
        let mut lock =
            Lock::acquire_to_read(&path.join(LOCK), state).map_err(|error| match error {
                TryLockError::Error(source) if source.kind() == Io::NotFound => {
                    let context = format!("there is no state in {}", path.display());
                    Error::new(ErrorKind::Config, context)
                }
                error => in_use(path, error),
            })?;
        let acknowledged = match lock.note().map_err(|source| unusable(path, source))? {
            Note::Used(acknowledged) => acknowledged,
            Note::New => None,
        };
        let moved = fs::read_to_string(path.join(MOVED)).ok();
        Ok(Self { state: path.join(state), acknowledged, moved, _lock: lock })
    }
}

impl Directory {
    /// Makes the directory if it is missing, and locks it. `state` is the name in it under which the
    /// state is kept.
    ///
    /// # Errors
    /// `Config` if the directory is in use or cannot be used; `Fatal` if the disk fails.
    pub fn lock(path: &Path, state: &str) -> Result<Self> {
        fs::create_dir_all(path).map_err(|source| unusable(path, source))?;
        let mut lock =
            Lock::acquire(&path.join(LOCK), state).map_err(|error| in_use(path, error))?;
        refuse_if_moved(path)?;
        let (state, is_copy) = (path.join(state), lock.find_copy());
        let mut is_copy = is_copy.map_err(|source| unusable(path, source))?;
        // A note that was there once and is gone tells nothing of the place.
        is_copy |=
            lock.note().map_err(|source| unusable(path, source))? == Note::New && state.exists();
        Ok(Self { path: path.into(), state, earlier: None, lock, is_copy })
    }

    /// Whether this directory was copied, restored or moved, or its `LOCK` removed, since it was last opened: then
    /// no process of before can be told to have ended by the lock.
    pub fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Notes where the directory is. Until this is done, it is found again to be a copy.
    ///
    /// # Errors
    /// `Fatal` if the disk fails.
    pub fn settle_here(&mut self) -> Result<()> {
        let here = self.lock.here().map_err(|source| unusable(&self.path, source))?;
        self.lock.note_place(here).map_err(|source| unusable(&self.path, source))?;
        self.is_copy = false;
        Ok(())
    }

    /// Takes over a state that an earlier release has kept under the name `earlier`, if that is all there
    /// is. `convert` makes one of its own of it, as [`state`](Self::state)'s `create` does, and returns
    /// how many commits it holds. The earlier one stays until [`remove_earlier`](Self::remove_earlier).
    ///
    /// # Errors
    /// `Corrupt` if it lacks a commit that was acknowledged; those of `convert`; and those of
    /// [`lock`](Self::lock).
    pub fn take_over(
        &mut self,
        earlier: &str,
        convert: impl FnOnce(&Path, &Path) -> Result<u64>,
    ) -> Result<()> {
        self.lock.accept(earlier);
        let earlier = self.path.join(earlier);
        if !self.exists(&earlier)? {
            return Ok(());
        }
        if !self.exists(&self.state)? {
            let unfinished = self.unfinished()?;
            let commits = convert(&earlier, &unfinished)?;
            self.check(&earlier, commits)?;
            self.finish(&unfinished)?;
        }
        self.earlier = Some(earlier);
        Ok(())
    }

    /// Removes what [`take_over`](Self::take_over) has converted, now or in a start that was cut short.
    /// `commits_of` tells how many commits a state of the earlier release holds.
    ///
    /// # Errors
    /// `Config` if that are others than the opened state's `commits`; those of `commits_of`; `Fatal` if
    /// the disk fails.
    pub fn remove_earlier(
        &mut self,
        commits: u64,
        commits_of: impl FnOnce(&Path) -> Result<u64>,
    ) -> Result<()> {
        let Some(earlier) = self.earlier.take() else { return Ok(()) };
        let found = commits_of(&earlier)?;
        let (state, name) = (self.state.display(), earlier.display());
        if found != commits {
            let context = format!(
                "there are two states, {name} at commit {found} and {state} at {commits}; move away \
                 the one that is not to be used"
            );
            return Err(Error::new(ErrorKind::Config, context));
        }
        tracing::info!("{name} was converted to {state}, and is removed");
        fs::remove_file(&earlier).map_err(|source| unusable(&self.path, source))?;
        sync_names(&self.path).map_err(|source| unusable(&self.path, source))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Io::NotFound => Ok(false),
            Err(error) => Err(unusable(&self.path, error)),
        }
    }

    /// The name under which a state is made; no file has it.
    fn unfinished(&self) -> Result<PathBuf> {
        let mut unfinished = self.state.clone().into_os_string();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        remove(&unfinished).map_err(|source| unusable(&self.path, source))?;
        Ok(unfinished)
    }

    fn finish(&self, unfinished: &Path) -> Result<()> {
        fs::rename(unfinished, &self.state).map_err(|source| unusable(&self.path, source))?;
        sync_names(&self.path).map_err(|source| unusable(&self.path, source))
    }

    /// Where the state is. If there never was any, `create` makes it, under another name which
    /// becomes its name only when `create` has returned; all of it MUST be on disk by then.
    ///
    /// # Errors
    /// `Corrupt` if the state was there once and is missing; those of `create`; and those of
    /// [`lock`](Self::lock).
    pub fn state(&mut self, create: impl FnOnce(&Path) -> Result<()>) -> Result<&Path> {
        if self.exists(&self.state)? {
            sync_names(&self.path).map_err(|source| unusable(&self.path, source))?;
            return Ok(&self.state);
        }
        let note = self.lock.note().map_err(|source| unusable(&self.path, source))?;
        if note != Note::New {
            let context = format!(
                "{} is missing, though it was there; restore it, or remove {LOCK} too to begin anew \
                 from 0",
                self.state.display()
            );
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let unfinished = self.unfinished()?;
        create(&unfinished)?;
        self.finish(&unfinished)?;
        Ok(&self.state)
    }

    /// Compares the last commit that the opened state holds with the last one acknowledged.
    ///
    /// # Errors
    /// `Corrupt` if the state lacks a commit that was acknowledged; `Fatal` if the disk fails.
    pub fn verify(&mut self, commit: u64) -> Result<()> {
        self.check(&self.state.clone(), commit)?;
        self.acknowledge(commit)?;
        self.lock.sync().map_err(|source| unusable(&self.path, source))
    }

    /// Compares the last commit of a state with the last one acknowledged.
    fn check(&mut self, state: &Path, commit: u64) -> Result<()> {
        let name = state.display();
        match self.lock.note().map_err(|source| unusable(&self.path, source))? {
            Note::Used(Some(acknowledged)) if acknowledged > commit => {
                let context = format!(
                    "{name} is at commit {commit}, though {acknowledged} was acknowledged: it is \
                     an older copy, or damaged; restore the right one, or remove {LOCK} to go on \
                     without what is lost"
                );
                return Err(Error::new(ErrorKind::Corrupt, context));
            }
            Note::Used(None) => tracing::warn!(
                "{LOCK} beside {name} cannot be read, so whether the last commit is complete is \
                 not known"
            ),
            _ => {}
        }
        Ok(())
    }

    /// Remembers that this commit, which is durable, is about to be acknowledged.
    ///
    /// Not synced, so that it costs next to nothing: a killed process loses none of these notes, a
    /// power loss those of the last seconds.
    ///
    /// # Errors
    /// `Fatal` or `Config`, and then the commit must not be acknowledged.
    pub fn acknowledge(&mut self, commit: u64) -> Result<()> {
        self.lock.acknowledge(commit).map_err(|source| unusable(&self.path, source))
    }
}

/// A state that is served from elsewhere by now would hand out the same once more.
fn refuse_if_moved(directory: &Path) -> Result<()> {
    match fs::read_to_string(directory.join(MOVED)) {
        Ok(whither) => {
            let context = format!(
                "the state in {} is not to be served any more: {}; if that is wrong, remove the file {MOVED} there",
                directory.display(),
                whither.trim()
            );
            Err(Error::new(ErrorKind::Config, context))
        }
        Err(error) if error.kind() == Io::NotFound => Ok(()),
        Err(error) => Err(unusable(directory, error)),
    }
}

/// Removes what an earlier start left unfinished, if anything.
fn remove(unfinished: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(unfinished) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(unfinished),
        Ok(_) => fs::remove_file(unfinished),
        Err(error) if error.kind() == Io::NotFound => return Ok(()),
        Err(error) => Err(error),
    };
    removed.inspect(|()| tracing::info!(?unfinished, "removed what an earlier start left"))
}

/// Makes the names of the files last, and those of the directories above, which may be new as well.
///
/// Done at every start: the one that made them may have been killed before it came to this.
fn sync_names(directory: &Path) -> io::Result<()> {
    let directory = directory.canonicalize()?;
    sync_directory(&File::open(&directory)?)?;
    // One that cannot be opened was there before.
    directory.ancestors().skip(1).flat_map(File::open).try_for_each(|above| sync_directory(&above))
}

/// Makes durable which names there are in a directory.
///
/// # Errors
/// Those of the file system; none if there is nothing to sync.
pub fn sync_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        // So says a file system on which there is nothing to sync.
        Err(error) if matches!(error.kind(), Io::InvalidInput | Io::Unsupported) => Ok(()),
        synced => synced,
    }
}

fn unusable(directory: &Path, source: io::Error) -> Error {
    Error::cannot_use(format_args!("directory {}", directory.display()), source)
}

fn in_use(directory: &Path, error: TryLockError) -> Error {
    match error {
        TryLockError::WouldBlock => {
            let context = format!(
                "directory {} is in use by another process; stop that one, or give this one \
                 another path",
                directory.display()
            );
            Error::new(ErrorKind::Config, context)
        }
        TryLockError::Error(source) => unusable(directory, source),
    }
}
