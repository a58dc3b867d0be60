//! A store on a disk in memory, which one driver at a time may use: sound, or with a flaw.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
};

use async_trait::async_trait;
use serde::Deserialize;
use tsoracle_conformance::{Ability, Harness, Place};
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, DriverOption, Effect, Entry, Error, ErrorKind,
    LocalDriver, MemoryStore, Registry, Result, SeqStore, VERSION, state::NODE,
};

use crate::{
    flaw::Flaw,
    shared::{halves, without_version},
};

/// The harness of `LocalDriver` over such stores.
#[derive(Clone, Copy)]
pub(crate) struct Disks(pub(crate) Option<Flaw>);

#[async_trait]
impl Harness for Disks {
    fn lacks(&self, ability: Ability) -> Option<String> {
        match ability {
            Ability::Contend | Ability::CutOff => Some("one driver owns the disk".into()),
            Ability::Cluster | Ability::Pause | Ability::Partition => Some("one node".into()),
            Ability::Process => Some("the disk is in this process".into()),
            _ => None,
        }
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(DiskPlace { disk: Disk::new(self.0), opened: vec![] }))
    }

    fn registry(&self) -> Result<Registry> {
        Registry::default().register(DriverFactory {
            name: "disk",
            summary: "a disk in memory, by its name",
            options: &[DriverOption { name: "path", default: "0", help: "the disk's name" }],
            open: |config, _| Box::pin(open_config(config)),
        })
    }
}

/// Disks by name, so that config strings can tell which one is meant.
static NAMED: LazyLock<Mutex<BTreeMap<String, Disk>>> = LazyLock::new(Mutex::default);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(rename = "path")]
    _path: String,
}

#[derive(Deserialize)]
struct LenientOptions {
    path: String,
}

async fn open_config(config: DriverConfig) -> Result<Arc<dyn ConsensusDriver>> {
    let LenientOptions { path } = config.options()?;
    let disk = NAMED.lock().unwrap().get(&path).cloned();
    let disk = disk.ok_or_else(|| Error::new(ErrorKind::Config, "there is no such disk"))?;
    match config.options::<Options>() {
        Err(_) if disk.is(Flaw::IgnoresUnknownOptions) => {}
        Err(_) if disk.is(Flaw::SaysOnlyThatAnOptionIsWrong) => {
            return Err(Error::new(ErrorKind::Config, "`no_such_option` is wrong"));
        }
        options => drop(options?),
    }
    Ok(LocalDriver::open(disk.open()?).await?)
}

struct DiskPlace {
    disk: Disk,
    opened: Vec<Arc<dyn ConsensusDriver>>,
}

#[async_trait]
impl Place for DiskPlace {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let driver = LocalDriver::open(self.disk.open()?).await?;
        self.opened.push(driver.clone());
        Ok(driver)
    }

    async fn crash(&mut self) -> Result<()> {
        let written = self.disk.0.lock().unwrap().written.clone();
        self.disk = self.disk.holding(written);
        Ok(())
    }

    async fn lose_power(&mut self) -> Result<()> {
        let synced = self.disk.0.lock().unwrap().synced.clone();
        self.disk = self.disk.holding(synced);
        Ok(())
    }

    async fn fail_storage(&mut self) -> Result<()> {
        self.disk.0.lock().unwrap().fails = true;
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        self.disk.0.lock().unwrap().damaged = true;
        Ok(())
    }

    fn store(&mut self) -> Result<Box<dyn SeqStore>> {
        Ok(Box::new(self.disk.open()?))
    }

    fn config(&self) -> Result<String> {
        let name = self.disk.name();
        NAMED.lock().unwrap().insert(name.clone(), self.disk.clone());
        Ok(format!("disk:{name}"))
    }
}

impl Drop for DiskPlace {
    fn drop(&mut self) {
        NAMED.lock().unwrap().remove(&self.disk.name());
    }
}

/// A disk. Clones are the same one.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    flaw: Option<Flaw>,
    /// What is left when the process dies.
    written: MemoryStore,
    /// What is left when the power goes.
    synced: MemoryStore,
    in_use: bool,
    fails: bool,
    damaged: bool,
}

impl Disk {
    fn new(flaw: Option<Flaw>) -> Self {
        let (written, synced) = Default::default();
        let (in_use, fails, damaged) = Default::default();
        Self(Arc::new(Mutex::new(Contents { flaw, written, synced, in_use, fails, damaged })))
    }

    fn holding(&self, contents: MemoryStore) -> Self {
        let other = Self::new(self.0.lock().unwrap().flaw);
        {
            let mut new = other.0.lock().unwrap();
            new.written = contents.clone();
            new.synced = contents;
        }
        other
    }

    fn name(&self) -> String {
        format!("{:p}", Arc::as_ptr(&self.0))
    }

    fn is(&self, flaw: Flaw) -> bool {
        self.0.lock().unwrap().flaw == Some(flaw)
    }

    fn open(&self) -> Result<Store> {
        let mut disk = self.0.lock().unwrap();
        let flaw = disk.flaw;
        if disk.in_use && flaw != Some(Flaw::LetsASecondDriverIn) {
            return Err(Error::new(ErrorKind::Config, "the disk is in use"));
        }
        if disk.damaged && flaw == Some(Flaw::TakesDamageForAnEmptyStore) {
            (disk.written, disk.synced) = Default::default();
        } else if disk.damaged {
            return Err(Error::new(ErrorKind::Corrupt, "the disk is damaged"));
        }
        disk.in_use = true;
        let memory = match flaw {
            Some(Flaw::DrawsANewNodeId) => without(&disk.written, NODE)?,
            Some(Flaw::ForgetsSessionsAtRestart) => without(&without(&disk.written, b"u")?, b"a")?,
            Some(Flaw::ForgetsLeasesAtRestart) => without(&without(&disk.written, b"l")?, b"h")?,
            Some(Flaw::ForgetsTheLastLeaseIdAtRestart) => without(&disk.written, b"k")?,
            Some(Flaw::ForgetsTheCountOfKeysAtRestart) => without(&disk.written, b"m")?,
            Some(Flaw::TakesAnEmptyValueForDeleted) => {
                kept(&disk.written, |_, value| !value.is_empty())?
            }
            _ => disk.written.clone(),
        };
        let is_reopened = memory != MemoryStore::default();
        drop(disk);
        Ok(Store { disk: self.clone(), flaw, memory, is_reopened, held_back: Effect::default() })
    }
}

/// What a store holds besides the keys that begin so.
fn without(store: &MemoryStore, prefix: &[u8]) -> Result<MemoryStore> {
    kept(store, |key, _| !key.starts_with(prefix))
}

fn kept(store: &MemoryStore, is_kept: impl Fn(&[u8], &[u8]) -> bool) -> Result<MemoryStore> {
    let mut kept = Effect::default();
    for (key, value) in store.scan(&[], &[0xff; 1_000], usize::MAX)? {
        if is_kept(&key, &value) {
            kept.put(key, value);
        }
    }
    let mut store = MemoryStore::default();
    store.commit(kept)?;
    Ok(store)
}

#[derive(Debug)]
struct Store {
    disk: Disk,
    flaw: Option<Flaw>,
    /// What the process sees.
    memory: MemoryStore,
    /// Whether there was anything on the disk.
    is_reopened: bool,
    /// Writes that were answered and are not where they should be.
    held_back: Effect,
}

impl Drop for Store {
    fn drop(&mut self) {
        let held_back = std::mem::take(&mut self.held_back);
        let mut disk = self.disk.0.lock().unwrap();
        disk.in_use = false;
        if self.flaw != Some(Flaw::LosesTheLastWriteOnReopen) {
            disk.written.commit(held_back.clone()).unwrap();
            disk.synced.commit(held_back).unwrap();
        }
    }
}

impl SeqStore for Store {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.memory.get(&self.stored(key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        let mut to = to.to_vec();
        let mut limit = limit;
        match self.flaw {
            Some(Flaw::ScansIncludeTheirEnd) => to.push(0),
            Some(Flaw::ScansIgnoreTheirLimit) => limit = usize::MAX,
            _ => {}
        }
        let mut found = self.memory.scan(from, &to, limit)?;
        if self.flaw == Some(Flaw::ScansAreOrderedByText) {
            found.sort_by_key(|(key, _)| key.to_ascii_lowercase());
        }
        if self.flaw == Some(Flaw::OrdersKeysDifferentlyOnDisk) && self.is_reopened {
            found.sort_by_key(|(key, _)| (key.len(), key.clone()));
        }
        Ok(found)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        let effect = self.altered(effect);
        let mut disk = self.disk.0.lock().unwrap();
        if std::mem::take(&mut disk.fails) && self.flaw != Some(Flaw::TriesAFailedSyncAgain) {
            return Err(Error::new(ErrorKind::Fatal, "the disk was told to fail"));
        }
        let is_first = self.memory == MemoryStore::default();
        self.memory.commit(effect.clone())?;
        let effect = self.saved(effect);
        let later = std::mem::take(&mut self.held_back);
        let (first, second) = halves(&effect);
        match self.flaw {
            Some(Flaw::LosesTheLastWriteOnReopen) if is_third(&effect) => {
                disk.written.commit(later.clone())?;
                disk.synced.commit(later)?;
                self.held_back = effect;
            }
            Some(Flaw::SavesTheVersionWithTheNextCommit) if !is_first => {
                let mut all = later;
                all.merge(without_version(&effect));
                disk.written.commit(all.clone())?;
                disk.synced.commit(all)?;
                if let Ok(version) = effect.version() {
                    self.held_back.set_version(version);
                }
            }
            Some(Flaw::WritesOnlyWhenClosed) => {
                self.held_back = later;
                self.held_back.merge(effect);
            }
            Some(Flaw::AnswersBeforeTheSync) => {
                disk.written.commit(effect.clone())?;
                disk.synced.commit(later)?;
                self.held_back = effect;
            }
            Some(Flaw::SyncsHalfOfACommit) if !is_first => {
                disk.written.commit(effect)?;
                disk.synced.commit(later)?;
                disk.synced.commit(first)?;
                self.held_back = second;
            }
            _ => {
                let mut all = later;
                all.merge(effect);
                disk.written.commit(all.clone())?;
                disk.synced.commit(all)?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// What a key is stored under.
    fn stored(&self, key: &[u8]) -> Vec<u8> {
        match self.flaw {
            Some(Flaw::FoldsTheCaseOfKeys) => key.to_ascii_lowercase(),
            Some(Flaw::EndsKeysAtZero) if key.first() == Some(&b's') => {
                key.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
            }
            _ => key.to_vec(),
        }
    }

    /// The part of a commit that reaches the disk; all of it is in memory.
    fn saved(&self, effect: Effect) -> Effect {
        let mut saved = Effect::default();
        if self.flaw == Some(Flaw::SavesPartOfALargeCommit) && effect.size() > 200_000 {
            saved = halves(&effect).0;
            if let Ok(version) = effect.version() {
                saved.set_version(version);
            }
            return saved;
        }
        for (key, value) in effect {
            match value {
                Some(mut value) => {
                    if self.flaw == Some(Flaw::CutsValuesAt64KiB) {
                        value.truncate(1 << 16);
                    }
                    saved.put(key, value);
                }
                None if self.flaw == Some(Flaw::BringsBackWhatWasDeleted) => {}
                None => saved.delete(key),
            }
        }
        saved
    }

    fn altered(&self, effect: Effect) -> Effect {
        let (mut altered, mut breaks_off) = (Effect::default(), false);
        for (key, value) in effect {
            let stored = self.stored(&key);
            if breaks_off && key != VERSION && key != NODE {
                continue;
            }
            match value {
                Some(value) => altered.put(stored, value),
                None if self.flaw == Some(Flaw::KeepsWhatIsDeleted) => {}
                None if self.memory.get(&stored).is_ok_and(|value| value.is_none()) => {
                    breaks_off = self.flaw == Some(Flaw::BreaksOffAtAMissingKey);
                }
                None => altered.delete(stored),
            }
        }
        altered
    }
}

/// One commit of three, so that most checks do not see the flaw.
fn is_third(effect: &Effect) -> bool {
    effect.version().is_ok_and(|version| version.number.is_multiple_of(3))
}
