//! The files of a store, as tests can replace them by some that fail and lose power.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io, mem,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::io::Errno;
use tsoracle_core::{Error, ErrorKind, Result, lock_file, sync_directory};

/// How soon to look for a descriptor again.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

/// The files of one directory.
///
/// # Contract
/// What is created, renamed and removed may be undone by a power loss until [`sync`](Self::sync) has
/// returned, but never a later change without an earlier one. What is written to a file may be lost,
/// kept, or kept in part until [`OpenFile::sync`] of that file has returned.
pub trait Files: fmt::Debug + Send + Sync + 'static {
    /// The names that there are.
    ///
    /// # Errors
    /// Those of the file system, as for all methods here.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file, in place of one of that name.
    ///
    /// # Errors
    /// Those of the file system.
    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>>;

    /// Opens a file that exists.
    ///
    /// # Errors
    /// Those of the file system.
    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>>;

    /// Gives a file another name, in place of a file that has it.
    ///
    /// # Errors
    /// Those of the file system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable which names there are.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is open to be read and written.
pub trait OpenFile: fmt::Debug + Send + 'static {
    /// How many bytes it has.
    ///
    /// # Errors
    /// Those of the file system, as for all methods here.
    fn size(&self) -> io::Result<u64>;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; those of the file system.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`. The file grows if it has to.
    ///
    /// # Errors
    /// Those of the file system.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the contents durable.
    ///
    /// # Errors
    /// Those of the file system. What was written may be lost then, whatever a later sync says.
    fn sync(&self) -> io::Result<()>;

    /// Has the file read from the disk from now on, not from memory.
    ///
    /// After a sync that failed, the kernel may keep in memory what it could not write, as if it had. A
    /// process that was started again would read and build on what the next power loss takes away.
    fn forget_cached(&self);
}

/// Where the files are, and what errors call that.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) files: Arc<dyn Files>,
    name: Arc<str>,
}

impl Place {
    pub(crate) fn new(files: impl Files, name: impl Into<String>) -> Self {
        Self { files: Arc::new(files), name: name.into().into() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What an error on one of the files becomes, as an argument of `map_err`.
    pub(crate) fn failed<'a>(&'a self, file: &'a str) -> impl Fn(io::Error) -> Error + 'a {
        move |source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(file, "it is cut short"),
            _ => Error::cannot_use(self.path(file), source),
        }
    }

    pub(crate) fn damaged(&self, file: &str, how: impl fmt::Display) -> Error {
        let context = format!("{} is damaged: {how}; restore the directory", self.path(file));
        Error::new(ErrorKind::Corrupt, context)
    }

    /// Creates a file while the store runs, for as long as it takes.
    ///
    /// Without descriptors left, the process's or the system's, nothing is wrong with the disk, and nothing was done
    /// yet: there will be some again, and who waits here is waited for like a slow disk.
    ///
    /// # Errors
    /// Any other of the file system.
    pub(crate) fn create(&self, file: &str) -> Result<Box<dyn OpenFile>> {
        let mut said = false;
        loop {
            match self.files.create(file) {
                Err(error) if is_shortage(&error) => {
                    if !mem::replace(&mut said, true) {
                        let path = self.path(file);
                        tracing::warn!(path, %error, "cannot create a file now; trying again");
                    }
                    pause();
                }
                created => return created.map_err(self.failed(file)),
            }
        }
    }

    pub(crate) fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    pub(crate) fn names(&self) -> Result<Vec<String>> {
        self.files.names().map_err(|source| Error::cannot_use(&self.name, source))
    }

    pub(crate) fn sync_names(&self) -> Result<()> {
        self.files.sync().map_err(|source| Error::cannot_use(&self.name, source))
    }
}

/// Whether the machine, and not the disk, lacks something for now.
fn is_shortage(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

#[expect(
    clippy::disallowed_methods,
    reason = "threads that own a store may wait for a disk as well"
)]
fn pause() {
    thread::sleep(SHORTAGE_PAUSE);
}

/// The files of a directory on disk, which no other process can use meanwhile.
#[derive(Debug)]
pub(crate) struct DirectoryFiles {
    path: PathBuf,
    directory: File,
}

impl DirectoryFiles {
    /// # Errors
    /// `Config` if another process has locked it, and for what is no directory.
    pub(crate) fn lock(path: &Path) -> Result<Self> {
        let unusable = |source| Error::cannot_use(path.display(), source);
        let directory = OpenOptions::new().read(true).open(path).map_err(unusable)?;
        if !directory.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        // A process that got past a removed lock of the directory above is kept out here.
        lock_file(&directory).map_err(|error| match error {
            TryLockError::WouldBlock => {
                let context = format!("{} is in use by another process", path.display());
                Error::new(ErrorKind::Config, context)
            }
            TryLockError::Error(source) => unusable(source),
        })?;
        Ok(Self { path: path.into(), directory })
    }

    /// What holds the lock.
    pub(crate) fn into_lock(self) -> File {
        self.directory
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Files for DirectoryFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).open(self.at(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(self.at(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_directory(&self.directory)
    }
}

impl OpenFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn forget_cached(&self) {
        #[cfg(any(target_os = "linux", target_os = "freebsd"))]
        {
            use rustix::fs::{Advice, fadvise};
            // Advice only: a file system that does not follow it has to be trusted.
            let _ = fadvise(self, 0, None, Advice::DontNeed);
            let _ = fadvise(self, 0, None, Advice::WillNeed);
        }
    }
}
