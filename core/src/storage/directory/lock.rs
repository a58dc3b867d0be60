use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use super::place::Place;

/// The file by which a directory is locked, and which remembers the last acknowledged commit.
///
/// After a crash, a database cannot tell a last commit that was never finished from one that was
/// acknowledged and damaged since: it goes back to the commit before either. So each acknowledged
/// commit is noted here. A note that is ahead of the state proves that something was lost.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// What the state is called, and what an earlier release called it.
    state: String,
    earlier: Option<String>,
    /// Where the directory is said to be, in each note.
    place: Option<Place>,
    /// The last commit that was noted.
    noted: u64,
}

/// What a [`Lock`]'s file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    /// There was never any state.
    New,
    /// There was state. The last commit known to be acknowledged, unless that cannot be read.
    Used(Option<u64>),
}

impl Lock {
    /// The file is never deleted: a process that still had it open would hold a lock that no other sees.
    pub(crate) fn acquire(path: &Path, state: &str) -> Result<Self, TryLockError> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(TryLockError::Error)?;
        lock_file(&file)?;
        Ok(Self { file, state: state.into(), earlier: None, place: None, noted: 0 })
    }

    /// As [`acquire`](Self::acquire), of a file that exists, and is only read.
    pub(crate) fn acquire_to_read(path: &Path, state: &str) -> Result<Self, TryLockError> {
        let file = File::open(path).map_err(TryLockError::Error)?;
        lock_file(&file)?;
        Ok(Self { file, state: state.into(), earlier: None, place: None, noted: 0 })
    }

    /// Takes the notes of an earlier release, which called the state otherwise, for good.
    pub(crate) fn accept(&mut self, earlier: &str) {
        self.earlier = Some(earlier.into());
    }

    /// Where the directory is.
    pub(crate) fn here(&self) -> io::Result<Option<Place>> {
        Place::of(&self.file)
    }

    /// Where the directory was, as far as that is noted.
    pub(crate) fn noted_place(&mut self) -> io::Result<Option<Place>> {
        let bytes = self.read()?;
        Ok(str::from_utf8(&bytes).ok().and_then(|text| text.lines().find_map(Place::read)))
    }

    /// Whether the directory is not where it was. Notes go on to say where that is.
    pub(crate) fn find_copy(&mut self) -> io::Result<bool> {
        let (here, noted) = (self.here()?, self.noted_place()?);
        let is_copy = match (&here, &noted) {
            (Some(here), Some(noted)) => !here.is_still(noted),
            _ => false,
        };
        self.place = if is_copy { noted } else { here };
        Ok(is_copy)
    }

    /// Says so at once, in the last note.
    pub(crate) fn note_place(&mut self, place: Option<Place>) -> io::Result<()> {
        self.place = place;
        self.acknowledge(self.noted)?;
        self.sync()
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn note(&mut self) -> io::Result<Note> {
        let bytes = self.read()?;
        if bytes.is_empty() {
            return Ok(Note::New);
        }
        let commit = str::from_utf8(&bytes).ok().and_then(|text| {
            let (_, commit) = text.trim_end().rsplit_once("\ncommit ")?;
            commit.split(' ').next()?.parse().ok()
        });
        let names = [Some(&self.state), self.earlier.as_ref()].into_iter().flatten();
        let mut names = names.map(String::as_str);
        let place = str::from_utf8(&bytes).ok().and_then(|text| text.lines().find_map(Place::read));
        let mut is_whole =
            |at| names.any(|name| bytes == text(name, place.as_ref(), at).as_bytes());
        Ok(Note::Used(commit.filter(|&at| is_whole(at))))
    }

    pub(crate) fn acknowledge(&mut self, commit: u64) -> io::Result<()> {
        self.noted = commit;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(text(&self.state, self.place.as_ref(), commit).as_bytes())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// Always of the same length for one name, so that a note replaces the one before in place.
fn text(state: &str, place: Option<&Place>, commit: u64) -> String {
    let line = format!("commit {commit:020}");
    // Releases of before noted no place.
    let place = place.map(|place| place.line() + "\n").unwrap_or_default();
    format!(
        "This directory holds the state of a tsoracle node, in {state}. Keep this file beside it:\n\
         it locks the directory, and remembers the last acknowledged commit.\n\
         {place}{line} {:08x}\n",
        crc32c::crc32c(line.as_bytes())
    )
}

/// How often a lock that another process holds is tried again, and after how long.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(5);

/// Locks a file against any other process.
///
/// A process that this one, or another thread of it, has just started holds the locks of its parent
/// until its own program begins. So a lock that was let go may seem to be held for a moment yet.
///
/// # Errors
/// `WouldBlock` if another process holds it, and goes on to.
pub fn lock_file(file: &File) -> Result<(), TryLockError> {
    for _ in 1..ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => pause(),
            locked => return locked,
        }
    }
    file.try_lock()
}

#[expect(
    clippy::disallowed_methods,
    reason = "opening a directory blocks anyway, and on real disks"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn a_lock_let_go_is_free_though_processes_are_started_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let locked = (0..2_000).map(|_| Lock::acquire(&path, "state")).find(Result::is_err);
            done.store(true, Ordering::Relaxed);
            assert!(locked.is_none(), "{locked:?}");
        });
    }

    #[test]
    fn a_note_is_read_as_written_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let mut lock = Lock::acquire(&path, "state").unwrap();
        assert_eq!(lock.note().unwrap(), Note::New);
        for commit in [u64::MAX, 0, 42] {
            lock.acknowledge(commit).unwrap();
            assert_eq!(lock.note().unwrap(), Note::Used(Some(commit)));
            assert_eq!(lock.noted_place().unwrap(), None);
        }
        let here = lock.here().unwrap();
        lock.note_place(here.clone()).unwrap();
        assert_eq!(lock.note().unwrap(), Note::Used(Some(42)));
        assert_eq!(lock.noted_place().unwrap(), here);
        let written = std::fs::read(&path).unwrap();
        for bit in 0..written.len() * 8 {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(lock.note().unwrap(), Note::Used(None), "bit {bit}");
        }
        std::fs::write(&path, "x").unwrap();
        assert_eq!(lock.note().unwrap(), Note::Used(None));
    }

    #[test]
    fn a_note_of_an_earlier_release_is_read_where_that_is_accepted_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let mut earlier = Lock::acquire(&path, "state.old").unwrap();
        earlier.acknowledge(7).unwrap();
        drop(earlier);
        let mut lock = Lock::acquire(&path, "state.newer").unwrap();
        assert_eq!(lock.note().unwrap(), Note::Used(None));
        lock.accept("state.old");
        assert_eq!(lock.note().unwrap(), Note::Used(Some(7)));
        lock.acknowledge(8).unwrap();
        assert_eq!(lock.note().unwrap(), Note::Used(Some(8)));
    }
}
