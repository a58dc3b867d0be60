//! The files of a directory as they were, in memory: whatever is written there changes nothing on the disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::files::{Files, OpenFile};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct FrozenFiles {
    files: Mutex<BTreeMap<String, Bytes>>,
    /// Locked as long as this is there.
    _directory: File,
}

#[derive(Debug)]
struct FrozenFile(Bytes);

impl FrozenFiles {
    /// Reads all files of a directory, which the caller has locked by `directory`.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn read(path: &Path, directory: File) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let bytes = Arc::new(Mutex::new(fs::read(entry.path())?));
            files.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
        }
        Ok(Self { files: Mutex::new(files), _directory: directory })
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files for FrozenFiles {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let bytes = Bytes::default();
        self.files().insert(name.into(), bytes.clone());
        Ok(Box::new(FrozenFile(bytes)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let bytes = self.files().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FrozenFile(bytes)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl FrozenFile {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenFile for FrozenFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let held = self.bytes();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(bytes.len());
        let found = held.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut held = self.bytes();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start + bytes.len();
        if held.len() < end {
            held.resize(end, 0);
        }
        held[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_cached(&self) {}
}
