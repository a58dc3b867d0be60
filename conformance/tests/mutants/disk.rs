//! A store on a disk in memory, which one driver at a time may use: sound, or with a flaw.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard},
};

use serde::Deserialize;
use tsoracle_conformance::{Action, Config, Fixture, Shared};
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, DriverOption, Effect, Entry, Error, ErrorKind,
    LocalDriver, MemoryStore, Registry, Result, SeqStore, VERSION, state::NODE,
};

use crate::{
    sabotage::Flaw,
    shared::{halves, without_version},
};

/// `LocalDriver` over such a store.
pub(crate) fn fixture(flaw: Option<Flaw>) -> Fixture {
    let disk = Shared::new(Mounted { disk: Disk::new(flaw), opened: vec![] });
    let act = |act: fn(&mut Mounted)| -> Action {
        disk.action(move |disk, ()| {
            act(disk);
            Box::pin(async { Ok(()) })
        })
    };
    Fixture {
        locks: true,
        crash: Some(act(|mounted| {
            let written = mounted.disk.lock().written.clone();
            mounted.disk = mounted.disk.holding(written);
        })),
        lose_power: Some(act(|mounted| {
            let synced = mounted.disk.lock().synced.clone();
            mounted.disk = mounted.disk.holding(synced);
        })),
        fail_storage: Some(act(|mounted| mounted.disk.lock().fails = true)),
        damage: Some(act(|mounted| mounted.disk.lock().damaged = true)),
        store: Some(disk.action(|mounted, ()| {
            Box::pin(async { Ok(Box::new(mounted.disk.open()?) as Box<dyn SeqStore>) })
        })),
        config: Some(disk.action(|mounted, ()| {
            let name = mounted.disk.name();
            NAMED.lock().unwrap().insert(name.clone(), mounted.disk.clone());
            let config = Config { string: format!("disk:{name}"), service_endpoint: None };
            Box::pin(async { Ok(config) })
        })),
        registry: Registry::default()
            .register(DriverFactory {
                name: "disk",
                summary: "a disk in memory, by its name",
                options: &[DriverOption { name: "path", default: "0", help: "the disk's name" }],
                open: |config, _| Box::pin(open_config(config)),
            })
            .ok(),
        ..Fixture::new(disk.action(|mounted, ()| Box::pin(mounted.open())))
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

struct Mounted {
    disk: Disk,
    opened: Vec<Arc<dyn ConsensusDriver>>,
}

impl Mounted {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let driver = LocalDriver::open(self.disk.open()?).await?;
        self.opened.push(driver.clone());
        Ok(driver)
    }
}

impl Drop for Mounted {
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
    /// How often it was opened.
    opens: u32,
    in_use: bool,
    fails: bool,
    damaged: bool,
}

impl Disk {
    fn new(flaw: Option<Flaw>) -> Self {
        let (written, synced) = Default::default();
        let (in_use, fails, damaged) = Default::default();
        Self(Arc::new(Mutex::new(Contents {
            flaw,
            written,
            synced,
            opens: 0,
            in_use,
            fails,
            damaged,
        })))
    }

    fn holding(&self, contents: MemoryStore) -> Self {
        let opens = self.lock().opens;
        let other = Self::new(self.lock().flaw);
        {
            let mut new = other.lock();
            new.opens = opens;
            new.written = contents.clone();
            new.synced = contents;
        }
        other
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }

    fn name(&self) -> String {
        format!("{:p}", Arc::as_ptr(&self.0))
    }

    fn is(&self, flaw: Flaw) -> bool {
        self.lock().flaw == Some(flaw)
    }

    fn open(&self) -> Result<Store> {
        let mut disk = self.lock();
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
            Some(Flaw::TakesAnEmptyValueForDeleted) => {
                kept(&disk.written, |_, value| !value.is_empty())?
            }
            Some(Flaw::ForgetsTheNamesOfRequests) => without(&disk.written, b"q")?,
            Some(Flaw::ForgetsLongKeysAtRestart) => kept(&disk.written, |key, _| key.len() <= 300)?,
            _ => disk.written.clone(),
        };
        disk.opens += 1;
        let opens = disk.opens;
        let is_reopened = memory != MemoryStore::default();
        drop(disk);
        let (held_back, first) = Default::default();
        Ok(Store {
            disk: self.clone(),
            flaw,
            memory,
            is_reopened,
            opens,
            commits: 0,
            first,
            held_back,
        })
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
    /// How often the disk was opened until now.
    opens: u32,
    commits: u32,
    /// The first value of each key that this session has written.
    first: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Writes that were answered and are not where they should be.
    held_back: Effect,
}

impl Drop for Store {
    fn drop(&mut self) {
        let held_back = std::mem::take(&mut self.held_back);
        let mut disk = self.disk.lock();
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
        if self.flaw == Some(Flaw::OrdersBytesAsSignedOnDisk) && self.is_reopened {
            found.sort_by_key(|(key, _)| key.iter().map(|&byte| byte as i8).collect::<Vec<_>>());
        }
        Ok(found)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        let effect = self.altered(effect);
        let disk = self.disk.clone();
        let mut disk = disk.lock();
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
            Some(Flaw::DeletesWithTheNextCommit) => {
                let (puts, deletes) = apart(effect);
                let mut all = puts;
                all.merge(later);
                disk.written.commit(all.clone())?;
                disk.synced.commit(all)?;
                self.held_back = deletes;
            }
            Some(Flaw::SyncsAllButEveryTenth) if self.commits.is_multiple_of(10) => {
                disk.written.commit(effect.clone())?;
                disk.synced.commit(later)?;
                self.held_back = effect;
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
            Some(Flaw::EndsKeysAtZero) if key.len() > 1 && key[0] != 0 => {
                key.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
            }
            _ => key.to_vec(),
        }
    }

    /// The part of a commit that reaches the disk; all of it is in memory.
    fn saved(&mut self, effect: Effect) -> Effect {
        self.commits += 1;
        let is_large = match self.flaw {
            Some(Flaw::SavesPartOfALargeCommit) => effect.size() > 200_000,
            Some(Flaw::SavesHalfOfAThousandWrites) => effect.len() > 1_000,
            _ => false,
        };
        if is_large {
            let mut half = halves(&effect).0;
            if let Ok(version) = effect.version() {
                half.set_version(version);
            }
            return half;
        }
        let is_lost = match self.flaw {
            Some(Flaw::LosesWhatFollowsTheFirstReopen) => self.opens == 2,
            Some(Flaw::LosesTheFirstRecordOfASegment) => self.commits.is_multiple_of(50),
            _ => false,
        };
        let mut saved = Effect::default();
        for (key, value) in effect.into_iter().filter(|(key, _)| !is_lost || key == VERSION) {
            let is_a_deleted_sequence = value.is_none() && key.starts_with(b"s");
            if self.flaw == Some(Flaw::BringsBackDeletedSequences) && is_a_deleted_sequence {
                continue;
            }
            if self.flaw == Some(Flaw::ReplaysTheOlderValue) && key != VERSION {
                let first = self.first.entry(key.clone()).or_insert(value).clone();
                put(&mut saved, key, first);
            } else {
                put(
                    &mut saved,
                    self.key_on_disk(key),
                    value.map(|value| self.value_on_disk(value)),
                );
            }
        }
        if self.flaw == Some(Flaw::BringsBackWhatWasDeleted) {
            saved = apart(saved).0;
        }
        saved
    }

    fn key_on_disk(&self, mut key: Vec<u8>) -> Vec<u8> {
        match self.flaw {
            Some(Flaw::DropsATrailingZeroOfKeys) if key.len() > 1 && key.ends_with(&[0]) => {
                key.truncate(key.len() - 1);
            }
            Some(Flaw::FoldsTheCaseOfKeysOnDisk) => key.make_ascii_lowercase(),
            Some(Flaw::CutsKeysAt250) => key.truncate(250),
            _ => {}
        }
        key
    }

    fn value_on_disk(&self, mut value: Vec<u8>) -> Vec<u8> {
        match self.flaw {
            Some(Flaw::CutsValuesAt64KiB) => value.truncate(1 << 16),
            Some(Flaw::TrimsZerosOfValues) => {
                while value.len() < 16 && value.ends_with(&[0]) {
                    value.truncate(value.len() - 1);
                }
            }
            _ => {}
        }
        value
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

/// What an effect writes, and what it deletes.
fn apart(effect: Effect) -> (Effect, Effect) {
    let (mut puts, mut deletes) = (Effect::default(), Effect::default());
    for (key, value) in effect {
        match value {
            Some(value) => puts.put(key, value),
            None => deletes.delete(key),
        }
    }
    (puts, deletes)
}

fn put(effect: &mut Effect, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => effect.put(key, value),
        None => effect.delete(key),
    }
}

/// One commit of three, so that most checks do not see the flaw.
fn is_third(effect: &Effect) -> bool {
    effect.version().is_ok_and(|version| version.number.is_multiple_of(3))
}
