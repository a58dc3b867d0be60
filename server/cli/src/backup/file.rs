use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, open, renameat_with},
    io::Errno,
    process::geteuid,
};
use tsoracle_core::sync_directory;

use crate::{
    failure::Failure,
    regular::{has_regular, kind},
};

/// How often it is begun, if another process removes what this one has created.
const ATTEMPTS: u32 = 8;

/// A file that appears under its name once it is whole and on disk, or not at all. Until then it is one beside it,
/// whose name ends in `.part`.
#[derive(Debug)]
pub(crate) struct NewFile {
    part: PathBuf,
    path: PathBuf,
    force: bool,
    file: File,
}

impl NewFile {
    /// Begins it. Only one process at a time writes it, and only its owner may read it.
    pub(crate) fn create(path: &Path, force: bool) -> Result<Self, Failure> {
        let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let Some(name) = path.file_name().filter(|_| !is_directory) else {
            return Err(Failure::failed(format!("{} is no file's name", path.display())));
        };
        check(path, force)?;
        let part = path.with_file_name([name, "part".as_ref()].join(".".as_ref()));
        for _ in 0..ATTEMPTS {
            match open_new(&part) {
                Ok(file) if lock(&file, &part)? => {
                    return Ok(Self { part, path: path.into(), force, file });
                }
                // Another process took it for one that was left, before the lock.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_left(&part)?,
                Err(error) => return Err(failed(&part, &error)),
            }
        }
        Err(in_use(&part))
    }

    /// The directory that it is in.
    pub(crate) fn directory(path: &Path) -> PathBuf {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
            _ => ".".into(),
        }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, durably.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| failed(&self.part, &error))?;
        // It may have come since it was begun.
        check(&self.path, self.force)?;
        match self.rename() {
            // There is nothing to be removed any more.
            Ok(()) => self.part = PathBuf::new(),
            Err(Errno::EXIST) => return Err(exists(&self.path)),
            Err(error) => return Err(failed(&self.part, &error.into())),
        }
        let directory = Self::directory(&self.path);
        let synced = File::open(directory).and_then(|directory| sync_directory(&directory));
        synced.map_err(|error| {
            Failure::failed(format!(
                "{} may not survive a power loss: {error}",
                self.path.display()
            ))
        })
    }

    fn rename(&self) -> Result<(), Errno> {
        if self.force {
            return renameat_with(CWD, &self.part, CWD, &self.path, RenameFlags::empty());
        }
        match renameat_with(CWD, &self.part, CWD, &self.path, RenameFlags::NOREPLACE) {
            // Not every file system can do that.
            Err(Errno::INVAL | Errno::NOSYS) if self.path.symlink_metadata().is_err() => {
                renameat_with(CWD, &self.part, CWD, &self.path, RenameFlags::empty())
            }
            Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
            renamed => renamed,
        }
    }
}

/// What did not become whole goes.
impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

/// Checks that a file may appear at `path`.
fn check(path: &Path, force: bool) -> Result<(), Failure> {
    match has_regular(path)? && !force {
        true => Err(exists(path)),
        false => Ok(()),
    }
}

/// Creates the file, whose name no other one has.
fn open_new(part: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)
}

/// Locks a file, and tells whether it has that name still.
fn lock(file: &File, part: &Path) -> Result<bool, Failure> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|_| in_use(part))?;
    let own = file.metadata().map_err(|error| failed(part, &error))?;
    let is_own = |named: Metadata| (named.dev(), named.ino()) == (own.dev(), own.ino());
    Ok(part.symlink_metadata().is_ok_and(is_own))
}

/// Removes what a process of this user that is gone has left. Whoever removes it holds its lock.
fn remove_left(part: &Path) -> Result<(), Failure> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let foreign = |what: &str| {
        Failure::failed(format!(
            "cannot write {}: it exists and is {what}; remove it, or name another file",
            part.display()
        ))
    };
    let is_left = |metadata: &Metadata| match metadata.is_file() {
        false => Err(foreign(kind(metadata))),
        true if metadata.uid() != geteuid().as_raw() => Err(foreign("another user's")),
        true => Ok(()),
    };
    let left = match part.symlink_metadata() {
        Ok(metadata) => {
            is_left(&metadata).map(|()| open(part, OFlags::WRONLY | flags, Mode::empty()))?
        }
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    };
    let left = match left {
        Ok(left) => File::from(left),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(part, &error.into())),
    };
    is_left(&left.metadata().map_err(|error| failed(part, &error))?)?;
    match lock(&left, part)? {
        true => fs::remove_file(part).map_err(|error| failed(part, &error)),
        false => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; there is no such directory",
        _ => "",
    };
    Failure::failed(format!("cannot write {}: {error}{hint}", path.display()))
}

fn in_use(part: &Path) -> Failure {
    Failure::failed(format!("another process writes {} already", part.display()))
}

fn exists(path: &Path) -> Failure {
    let path = path.display();
    Failure::failed(format!("{path} exists, and was left as it is; --force replaces it"))
}
