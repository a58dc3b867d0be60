//! A disk that holds a node's store. What is written is lost in a crash, or not, until a sync has ended.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{Arc, Mutex, OnceLock},
};

use tsoracle_core::Result;
use tsoracle_store::{Files, OpenFile, Options, Store};

use crate::{
    clock::pass,
    rng::Rng,
    world::{Point, World},
};

/// The disk of a machine.
#[derive(Debug)]
pub(crate) struct Disk {
    image: Image,
    /// How often a process has begun to use it.
    starts: u64,
    /// As the process that runs sees it.
    mounted: Option<Mounted>,
}

/// What is on a disk.
#[derive(Clone, Default, Debug)]
struct Image {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
}

/// A disk as a process sees it: all that it has written is there.
#[derive(Clone, Default, Debug)]
pub(crate) struct Mounted(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    image: Image,
    durable: Image,
    /// What was done since, the syncs that have not ended among it.
    pending: Vec<Operation>,
    syncs_lie: bool,
}

/// A sync is one of everything before it: what a store owes to each of its files its own tests show.
#[derive(Clone, Debug)]
enum Operation {
    Write { file: usize, offset: usize, data: Vec<u8> },
    Create(String),
    Rename(String, String),
    Remove(String),
    Sync,
}

/// A file of it.
#[derive(Debug)]
struct Open {
    on: Mounted,
    file: usize,
}

impl Default for Disk {
    fn default() -> Self {
        static EMPTY: OnceLock<Image> = OnceLock::new();
        let made = || {
            let mounted = Mounted::default();
            Store::create_on(mounted.clone(), "new", OPTIONS).expect("memory does not fail");
            mounted.image()
        };
        Self { image: EMPTY.get_or_init(made).clone(), starts: 0, mounted: None }
    }
}

/// More than a run writes: a thread would write a snapshot at a time of its own.
const OPTIONS: Options = Options { journal_bytes: 8 << 20 };

impl Disk {
    /// The store on it for a new process, and how many processes there were, this one included. If its
    /// syncs lie, nothing is durable before the process has ended.
    pub(crate) fn open(&mut self, syncs_lie: bool) -> Result<(Store, Mounted, u64)> {
        self.starts += 1;
        let state = State {
            image: self.image.clone(),
            durable: self.image.clone(),
            pending: vec![],
            syncs_lie,
        };
        let mounted = Mounted(Arc::new(Mutex::new(state)));
        self.mounted = Some(mounted.clone());
        let store = Store::open_on(mounted.clone(), "disk", OPTIONS)?;
        mounted.end_syncs();
        Ok((store, mounted, self.starts))
    }

    /// Takes it from a process that loses its power.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        if let Some(mounted) = self.mounted.take() {
            self.image = mounted.survivor(rng);
        }
    }

    /// Drops all that is on it.
    pub(crate) fn scrap(&mut self) {
        self.image = Image::default();
        if let Some(mounted) = self.mounted.take() {
            *mounted.0.lock().unwrap() = State::default();
        }
    }

    /// Takes it from a process that has ended.
    pub(crate) fn sync_all(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            self.image = mounted.image();
        }
    }
}

impl World {
    /// Returns when the syncs have ended that a node has begun.
    pub(crate) async fn end_syncs(self: &Arc<Self>, node: usize, disk: &Mounted) {
        let syncs = disk.syncs();
        if syncs > 0 {
            self.hazard(node, Point::Sync).await;
            for number in 0..syncs {
                if number > 0 {
                    self.hazard(node, Point::BetweenSyncs).await;
                }
                pass(self.sync_time()).await;
            }
            self.nodes[node].disk_answers().await;
            disk.end_syncs();
        }
    }
}

impl Mounted {
    fn image(&self) -> Image {
        self.0.lock().unwrap().image.clone()
    }

    /// How many syncs were begun that have not ended.
    pub(crate) fn syncs(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.pending.iter().filter(|operation| matches!(operation, Operation::Sync)).count()
    }

    /// Ends the syncs that were begun.
    pub(crate) fn end_syncs(&self) {
        let mut state = self.0.lock().unwrap();
        let State { durable, pending, syncs_lie, .. } = &mut *state;
        if *syncs_lie {
            return pending.retain(|operation| !matches!(operation, Operation::Sync));
        }
        let is_sync = |operation: &Operation| matches!(operation, Operation::Sync);
        if let Some(last) = pending.iter().rposition(is_sync) {
            pending.drain(..=last).for_each(|operation| operation.apply(durable));
        }
    }

    /// What is found after the power went. Of the syncs that had not ended some are done; of what was
    /// written after them, anything may be there.
    fn survivor(&self, rng: &mut Rng) -> Image {
        let ended = rng.between(0..=self.syncs() as u64);
        let mut state = self.0.lock().unwrap();
        let mut image = mem::take(&mut state.durable);
        if state.syncs_lie {
            return image;
        }
        let (kept_permille, mut syncs) = (*rng.pick(&[0, 500, 1_000]), 0);
        // No name is changed of which an earlier change is lost.
        let mut names_change = true;
        for operation in mem::take(&mut state.pending) {
            let kept = syncs < ended || rng.chance(kept_permille);
            match operation {
                Operation::Sync if syncs == ended => break,
                Operation::Sync => syncs += 1,
                Operation::Write { .. } if kept => operation.apply(&mut image),
                Operation::Write { .. } => {}
                Operation::Create(_) | Operation::Rename(..) | Operation::Remove(_) => {
                    names_change &= kept;
                    operation.apply_named(&mut image, names_change);
                }
            }
        }
        image
    }

    fn perform(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        operation.clone().apply(&mut state.image);
        state.pending.push(operation);
        Ok(())
    }
}

impl Operation {
    fn apply(self, image: &mut Image) {
        self.apply_named(image, true);
    }

    /// A file that was created is there, if only without its name.
    fn apply_named(self, image: &mut Image, names_change: bool) {
        match self {
            Self::Write { file, offset, data } => {
                let bytes = &mut image.files[file];
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[offset..end].copy_from_slice(&data);
            }
            Self::Create(name) => {
                image.files.push(vec![]);
                if names_change {
                    image.names.insert(name, image.files.len() - 1);
                }
            }
            Self::Rename(from, to) if names_change => {
                if let Some(file) = image.names.remove(&from) {
                    image.names.insert(to, file);
                }
            }
            Self::Remove(name) if names_change => drop(image.names.remove(&name)),
            Self::Rename(..) | Self::Remove(_) | Self::Sync => {}
        }
    }
}

impl Files for Mounted {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().image.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        self.perform(Operation::Create(name.into()))?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn OpenFile>> {
        let file = self.0.lock().unwrap().image.names.get(name).copied();
        Ok(Box::new(Open { on: self.clone(), file: file.ok_or(io::ErrorKind::NotFound)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.perform(Operation::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.perform(Operation::Remove(name.into()))
    }

    fn sync(&self) -> io::Result<()> {
        self.perform(Operation::Sync)
    }
}

impl OpenFile for Open {
    fn size(&self) -> io::Result<u64> {
        Ok(self.on.0.lock().unwrap().image.files[self.file].len() as u64)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (offset, state) = (offset as usize, self.on.0.lock().unwrap());
        let stored = state.image.files[self.file].get(offset..offset + bytes.len());
        bytes.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, offset) = (self.file, offset as usize);
        self.on.perform(Operation::Write { file, offset, data: bytes.into() })
    }

    fn sync(&self) -> io::Result<()> {
        self.on.perform(Operation::Sync)
    }

    fn forget_cached(&self) {}
}
