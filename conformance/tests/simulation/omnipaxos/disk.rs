//! A disk that holds a node's store. What is written is lost in a crash, or not, until a sync has ended.

use std::{
    io, mem,
    sync::{Arc, Mutex, OnceLock},
};

use tsoracle_core::Result;
use tsoracle_store::{Options, StorageBackend, Store};

use crate::rng::Rng;

/// The disk of a machine.
#[derive(Debug)]
pub(crate) struct Disk {
    image: Vec<u8>,
    /// How often a process has begun to use it.
    starts: u64,
    /// As the process that runs sees it.
    mounted: Option<Mounted>,
}

/// A disk as a process sees it: all that it has written is there.
#[derive(Clone, Default, Debug)]
pub(crate) struct Mounted(Arc<Mutex<State>>);

#[derive(Default, Debug)]
struct State {
    image: Vec<u8>,
    durable: Vec<u8>,
    /// What was done since, the syncs that have not ended among it.
    pending: Vec<Operation>,
    syncs_lie: bool,
}

#[derive(Clone, Debug)]
enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

impl Default for Disk {
    fn default() -> Self {
        static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
        let made = || {
            let mounted = Mounted::default();
            Store::create_on(mounted.clone(), "new", OPTIONS).expect("memory does not fail");
            mounted.image()
        };
        Self { image: EMPTY.get_or_init(made).clone(), starts: 0, mounted: None }
    }
}

const OPTIONS: Options = Options { cache_bytes: 1 << 20 };

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

    /// Takes it from a process that has ended.
    pub(crate) fn sync_all(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            self.image = mounted.image();
        }
    }
}

impl Mounted {
    fn image(&self) -> Vec<u8> {
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
    fn survivor(&self, rng: &mut Rng) -> Vec<u8> {
        let ended = rng.between(0..=self.syncs() as u64);
        let mut state = self.0.lock().unwrap();
        let mut image = mem::take(&mut state.durable);
        if state.syncs_lie {
            return image;
        }
        let (kept_permille, mut syncs) = (*rng.pick(&[0, 500, 1_000]), 0);
        for operation in mem::take(&mut state.pending) {
            match operation {
                Operation::Sync if syncs == ended => break,
                Operation::Sync => syncs += 1,
                operation if syncs < ended || rng.chance(kept_permille) => {
                    operation.apply(&mut image);
                }
                _ => {}
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
    fn apply(self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[offset..end].copy_from_slice(&data);
            }
            Self::SetLen(len) => image.resize(len, 0),
            Self::Sync => {}
        }
    }
}

impl StorageBackend for Mounted {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let state = self.0.lock().unwrap();
        let stored = state.image.get(offset..offset + out.len());
        out.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.perform(Operation::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.perform(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.perform(Operation::Write { offset: offset as usize, data: data.into() })
    }
}
