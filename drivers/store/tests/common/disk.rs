use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use rand::{Rng, rngs::StdRng};
use rustix::io::Errno;
use tsoracle_store::{Files, OpenFile};

/// For how long something is waited for, which a sound store does at once.
const LONG: Duration = Duration::from_secs(20);

/// What was done to a disk. A file is a number; its names come and go.
#[derive(Clone, Debug)]
pub enum Operation {
    Write { file: usize, offset: usize, data: Vec<u8> },
    Sync { file: usize },
    Create { name: String, file: usize },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncNames,
}

/// Which operations fail, and how: the next one only, or all from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    SyncOnce(io::ErrorKind),
    Growth(io::ErrorKind),
    Write(io::ErrorKind),
}

/// What lies on a disk.
#[derive(Clone, Default, Debug)]
pub struct Image {
    pub names: BTreeMap<String, usize>,
    pub files: BTreeMap<usize, Arc<Vec<u8>>>,
}

impl Image {
    pub fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.contents(self.names[name])
    }

    pub fn bytes(&self) -> usize {
        self.names.values().map(|file| self.files[file].len()).sum()
    }

    fn contents(&mut self, file: usize) -> &mut Vec<u8> {
        Arc::make_mut(self.files.entry(file).or_default())
    }

    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Write { file, offset, data } => self.write(*file, *offset, data),
            Operation::Create { name, file } => {
                self.contents(*file);
                self.names.insert(name.clone(), *file);
            }
            Operation::Rename { from, to } => {
                let file = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), file);
            }
            Operation::Remove { name } => drop(self.names.remove(name).unwrap()),
            Operation::Sync { .. } | Operation::SyncNames => {}
        }
    }

    fn write(&mut self, file: usize, offset: usize, data: &[u8]) {
        let contents = self.contents(file);
        let end = offset + data.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset..end].copy_from_slice(data);
    }
}

#[derive(Debug, Default)]
struct State {
    image: Image,
    journal: Vec<Operation>,
    /// In files of which name, and which.
    fault: Option<(&'static str, Fault)>,
    /// How many files are not created, and why.
    refused: (usize, i32),
    /// Operations asked for since the last fault struck, reads aside.
    since_fault: Option<usize>,
    /// Syncs of files whose names begin so do not end.
    held: Option<&'static str>,
    holds: bool,
    slow: Option<&'static str>,
    /// The most bytes that there were.
    peak: usize,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<(Mutex<State>, Condvar)>);

impl Disk {
    pub fn holding(image: Image) -> Self {
        let disk = Self::default();
        disk.state().image = image;
        disk
    }

    /// What the next process finds if the one that has `done` this is killed: all of it, synced or not.
    /// What was not is lost if the power goes before anyone has it synced.
    pub fn after_kill(began: Image, done: &[Operation]) -> Self {
        let disk = Self::holding(began);
        let mut state = disk.state();
        done.iter().for_each(|operation| state.image.apply(operation));
        state.journal = done.to_vec();
        drop(state);
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// What lies on it, synced or not.
    pub fn image(&self) -> Image {
        self.state().image.clone()
    }

    pub fn journal(&self) -> Vec<Operation> {
        self.state().journal.clone()
    }

    /// How many operations there have been.
    pub fn position(&self) -> usize {
        self.state().journal.len()
    }

    pub fn peak(&self) -> usize {
        self.state().peak
    }

    pub fn fail(&self, fault: Fault) {
        self.fail_in("", fault);
    }

    /// Lets only operations on files fail whose names begin so.
    pub fn fail_in(&self, name: &'static str, fault: Fault) {
        self.state().fault = Some((name, fault));
    }

    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Refuses to create so many files.
    pub fn refuse_to_create(&self, files: usize, why: Errno) {
        self.state().refused = (files, why.raw_os_error());
    }

    pub fn left_to_refuse(&self) -> usize {
        self.state().refused.0
    }

    /// How many writes and syncs were tried after one had failed.
    pub fn tried_since_fault(&self) -> Option<usize> {
        self.state().since_fault
    }

    /// Has no sync end of files whose names begin so, until what it returns is dropped.
    pub fn hold(&self, name: &'static str) -> Held {
        self.state().held = Some(name);
        Held(self.clone())
    }

    /// Waits until a sync is held.
    pub fn wait_until_held(&self) {
        let held = self.0.1.wait_timeout_while(self.state(), LONG, |state| !state.holds).unwrap();
        assert!(held.0.holds, "nothing is synced that could be held");
    }

    /// Makes each write to files whose names begin so take a moment.
    pub fn slow(&self, name: &'static str) {
        self.state().slow = Some(name);
    }

    /// Changes what lies on the disk behind the back of whoever uses it.
    pub fn change(&self, change: impl FnOnce(&mut Image)) {
        change(&mut self.state().image);
    }

    fn perform(&self, name: &str, operation: Operation) -> io::Result<()> {
        let mut state = self.state();
        let is_slow =
            |name: &str, slow: Option<&str>| slow.is_some_and(|slow| name.starts_with(slow));
        if is_slow(name, state.slow) && matches!(operation, Operation::Write { .. }) {
            drop(state);
            #[expect(clippy::disallowed_methods, reason = "a slow disk blocks its thread")]
            std::thread::sleep(Duration::from_millis(1));
            state = self.state();
        }
        while matches!(operation, Operation::Sync { .. })
            && state.held.is_some_and(|held| name.starts_with(held))
        {
            state.holds = true;
            self.0.1.notify_all();
            state = self.0.1.wait(state).unwrap();
        }
        let state = &mut *state;
        if let Some(tried) = &mut state.since_fault {
            *tried += 1;
        }
        let grows = match &operation {
            Operation::Write { file, offset, data } => {
                offset + data.len() > state.image.contents(*file).len()
            }
            Operation::Create { .. } => true,
            _ => false,
        };
        let fault = state.fault.filter(|(file, _)| name.starts_with(file));
        let failure = match (fault.map(|(_, fault)| fault), &operation) {
            (Some(Fault::SyncOnce(kind)), Operation::Sync { .. } | Operation::SyncNames) => {
                state.fault = None;
                Some(kind)
            }
            (Some(Fault::Growth(kind)), _) if grows => Some(kind),
            (Some(Fault::Write(kind)), Operation::Write { .. }) => Some(kind),
            _ => None,
        };
        if let Some(kind) = failure {
            state.since_fault.get_or_insert(0);
            return Err(io::Error::new(kind, "the disk was told to fail"));
        }
        state.image.apply(&operation);
        state.peak = state.peak.max(state.image.bytes());
        state.journal.push(operation);
        Ok(())
    }

    fn handle(&self, name: &str, file: usize) -> Box<dyn OpenFile> {
        Box::new(Handle { disk: self.clone(), name: name.into(), file })
    }
}

/// Syncs are held for as long as this is there.
pub struct Held(Disk);

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.held, state.holds) = (None, false);
        self.0.0.1.notify_all();
    }
}

impl Files for Disk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().image.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.state();
        if state.refused.0 > 0 {
            state.refused.0 -= 1;
            return Err(io::Error::from_raw_os_error(state.refused.1));
        }
        drop(state);
        let file = self.state().image.files.last_key_value().map_or(0, |(last, _)| last + 1);
        self.perform(name, Operation::Create { name: name.into(), file })?;
        Ok(self.handle(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let file = self.state().image.names.get(name).copied();
        Ok(self.handle(name, file.ok_or(io::ErrorKind::NotFound)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.perform(from, Operation::Rename { from: from.into(), to: to.into() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.perform(name, Operation::Remove { name: name.into() })
    }

    fn sync(&self) -> io::Result<()> {
        self.perform("", Operation::SyncNames)
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    /// What it was called when it was opened.
    name: String,
    file: usize,
}

impl OpenFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state().image.contents(self.file).len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let mut state = self.disk.state();
        let stored = state.image.contents(self.file).get(offset..offset + bytes.len());
        bytes.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, offset, data) = (self.file, offset as usize, bytes.into());
        self.disk.perform(&self.name, Operation::Write { file, offset, data })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.perform(&self.name, Operation::Sync { file: self.file })
    }

    fn forget_cached(&self) {}
}

/// Calls `crash` for every moment at which the power could go: with the number of operations that
/// had begun, what was certainly on disk, and what may have been.
pub fn at_every_operation(
    image: Image,
    journal: &[Operation],
    mut crash: impl FnMut(usize, &Image, &[Operation]),
) {
    let (mut synced, mut unsynced) = (image, vec![]);
    crash(0, &synced, &unsynced);
    for (position, operation) in journal.iter().enumerate() {
        let is_done = |pending: &Operation| match (operation, pending) {
            (Operation::Sync { file: synced }, Operation::Write { file, .. }) => file == synced,
            (Operation::Sync { .. }, _) => false,
            (Operation::SyncNames, pending) => !matches!(pending, Operation::Write { .. }),
            _ => false,
        };
        let (done, rest): (Vec<_>, Vec<_>) = unsynced.into_iter().partition(is_done);
        done.iter().for_each(|operation| synced.apply(operation));
        unsynced = rest;
        if !matches!(operation, Operation::Sync { .. } | Operation::SyncNames) {
            unsynced.push(operation.clone());
        }
        crash(position + 1, &synced, &unsynced);
    }
}

/// What is found after the power went. Of what was written and not synced, each piece is there, or lost,
/// or there in part; of the changes of names, so many of the first.
pub fn survivor(synced: &Image, unsynced: &[Operation], random: &mut StdRng) -> Image {
    const SECTOR: usize = 512;
    let mut image = synced.clone();
    let how = random.random_range(0..5);
    let names = unsynced.iter().filter(|operation| !matches!(operation, Operation::Write { .. }));
    let kept = match (how, random.random_range(0..3)) {
        (0, _) | (_, 0) => 0,
        (1, _) | (_, 1) => usize::MAX,
        _ => random.random_range(0..=names.clone().count()),
    };
    names.take(kept).for_each(|operation| image.apply(operation));
    for operation in unsynced {
        let Operation::Write { file, offset, data } = operation else { continue };
        match how {
            0 => {}
            1 => image.apply(operation),
            2 => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if random.random() {
                        image.write(*file, offset + index * SECTOR, sector);
                    }
                }
            }
            3 => {
                let kept = random.random_range(0..=data.len());
                image.write(*file, *offset, &data[..kept]);
            }
            _ => {
                if random.random() {
                    image.apply(operation);
                }
            }
        }
    }
    image
}
