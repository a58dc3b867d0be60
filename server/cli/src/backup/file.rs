use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with},
    io::Errno,
};
use tsoracle_core::sync_directory;

use crate::failure::Failure;

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
        let name = path.file_name().filter(|_| !path.is_dir());
        let Some(name) = name else {
            return Err(Failure::failed(format!("{} is no file's name", path.display())));
        };
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let part = path.with_file_name([name, "part".as_ref()].join(".".as_ref()));
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let opened = options.open(&part).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "; there is no such directory",
                _ => "",
            };
            Failure::failed(format!("cannot write {}: {error}{hint}", part.display()))
        });
        let file = opened?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::failed(format!("another process writes {} already", part.display()))
        })?;
        let new = Self { part, path: path.into(), force, file };
        // What an earlier process has left goes, and its permissions.
        let emptied = new.file.set_len(0).and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            new.file.set_permissions(fs::Permissions::from_mode(0o600))
        });
        emptied.map_err(|error| new.failed(error))?;
        Ok(new)
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
        self.file.sync_all().map_err(|error| self.failed(error))?;
        match self.rename() {
            // There is nothing to be removed any more.
            Ok(()) => self.part = PathBuf::new(),
            Err(Errno::EXIST) => return Err(exists(&self.path)),
            Err(error) => return Err(self.failed(error.into())),
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

    fn failed(&self, error: io::Error) -> Failure {
        Failure::failed(format!("cannot write {}: {error}", self.part.display()))
    }
}

/// What did not become whole goes.
impl Drop for NewFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.part);
    }
}

fn exists(path: &Path) -> Failure {
    let path = path.display();
    Failure::failed(format!("{path} exists, and was left as it is; --force replaces it"))
}
