//! Copying a whole state from one driver to another, while nobody serves from either.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    Clock, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, MAX_BATCH, Reject, Result,
    asked::{self, nonsense},
    state::{Answer, Command, Entry, Import, Query, ReignRecord, Reply, Stage},
};

/// Pause before a commit whose outcome is not known is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// How often that is done.
const ATTEMPTS: u32 = 50;

/// Copies a whole state from one driver to another, while nobody serves from either: timestamps go on
/// above the old ones, sequences, sessions and stamping leases are the same to the byte.
///
/// The copy is read again and compared before anybody can reign over it. A copy that was interrupted
/// never serves.
#[derive(Debug)]
pub struct Migration {
    source: Arc<dyn ConsensusDriver>,
    claim: Epoch,
    record: ReignRecord,
    clock: Arc<dyn Clock>,
}

/// What was copied.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Migrated {
    /// Entries of the state, which the others below are made up of.
    pub entries: u64,
    /// Sequences.
    pub sequences: u64,
    /// Sessions kept for exactly-once requests.
    pub sessions: u64,
    /// Stamping leases.
    pub leases: u64,
    /// Every timestamp of the copy will be later than this.
    pub high_water_ms: u64,
}

/// Waits until a driver leads, and says under which epoch.
///
/// # Errors
/// `Unavailable` if it does not within `patience`, or never will.
pub async fn elected(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
    patience: Duration,
) -> Result<Epoch> {
    let mut leadership = driver.leadership();
    let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
    let context = tokio::select! {
        biased;
        led = leads => match led.as_deref() {
            Ok(Leadership::Leader { epoch }) => return Ok(*epoch),
            _ => "the driver has failed".into(),
        },
        () = clock.sleep(patience) => {
            format!("this node was not elected within {patience:?}; are the others running?")
        }
    };
    Err(Error::new(ErrorKind::Unavailable, context))
}

impl Migration {
    /// Looks at the state behind `source`, which leads under `claim`.
    ///
    /// # Errors
    /// `Config` if there is nothing to be copied; those of the driver.
    pub async fn of(
        source: Arc<dyn ConsensusDriver>,
        claim: Epoch,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let refuse = |context| Err(Error::new(ErrorKind::Config, context));
        match reign(&*source).await? {
            None => refuse(
                "the source was never used, so there is nothing to copy; is it the right one?",
            ),
            Some(record) if record.stage == Stage::Importing => refuse(
                "the source is itself a copy that did not become whole; migrate from where it came",
            ),
            Some(record) => Ok(Self { source, claim, record, clock }),
        }
    }

    /// The last epoch that reigned over the source.
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// Begins the copy in `target`, which leads under `epoch`. From here on nobody reigns over it
    /// before the copy is whole, which takes an epoch that is not below `floor`.
    ///
    /// # Errors
    /// `Config` if the target was used before; those of the driver.
    pub async fn begin(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        epoch: Epoch,
        floor: Epoch,
    ) -> Result<()> {
        self.step(target, epoch, Import::Begin { floor }).await.map(drop)
    }

    /// Copies everything into `target`, in which the copy has begun and which leads under `epoch`.
    /// Tells how many entries are there, now and then.
    ///
    /// # Errors
    /// `Unavailable` if the source was used meanwhile; `Corrupt` if the copy is not the same; those
    /// of the drivers. In each case nobody can reign over the target.
    pub async fn copy(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        epoch: Epoch,
        mut told: impl FnMut(u64),
    ) -> Result<Migrated> {
        let mut migrated =
            Migrated { high_water_ms: self.record.high_water_ms, ..Migrated::default() };
        let (mut after, mut digest) = (vec![], Sha256::new());
        let most_bytes = target.limits().bytes / 2;
        loop {
            let page = export(&*self.source, &after).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            page.iter().for_each(|entry| add(&mut digest, entry));
            for part in split(page, most_bytes) {
                migrated.count(&part);
                let before = migrated.entries - part.len() as u64;
                self.step(target, epoch, Import::Page { before, entries: part }).await?;
            }
            told(migrated.entries);
        }
        self.check_source().await?;
        self.check_copy(&**target, digest).await?;
        let (entries, record) = (migrated.entries, self.record.clone());
        self.step(target, epoch, Import::Finish { entries, record }).await?;
        Ok(migrated)
    }

    /// Makes a step of the import, again if it is not known whether it was made.
    async fn step(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        epoch: Epoch,
        step: Import,
    ) -> Result<u64> {
        let mut attempts = 1;
        loop {
            let commands = vec![Command::Import(step.clone())];
            let committed = match asked::commit(target.clone(), epoch, commands).await {
                Err(error) if error.is_retryable() && attempts < ATTEMPTS => {
                    attempts += 1;
                    self.clock.sleep(PAUSE).await;
                    continue;
                }
                committed => committed?,
            };
            return match committed.results.into_iter().next() {
                Some(Ok(Reply::Imported { entries })) => Ok(entries),
                Some(Err(Reject::NotEmpty)) => Err(Error::new(
                    ErrorKind::Config,
                    "the target holds state already, which was left as it is; migrate into a new one",
                )),
                Some(Err(reject)) => Err(reject.into()),
                other => Err(nonsense("an import", &other)),
            };
        }
    }

    /// That nobody has served from the source since it was opened.
    async fn check_source(&self) -> Result<()> {
        let record = reign(&*self.source).await?;
        let claim = Leadership::Leader { epoch: self.claim };
        if record.as_ref() == Some(&self.record) && *self.source.leadership().borrow() == claim {
            return Ok(());
        }
        let context = "the source was used while it was copied; stop all of its nodes, and migrate \
                       again into a new target";
        Err(Error::new(ErrorKind::Unavailable, context))
    }

    /// That what is in the target is what was in the source.
    async fn check_copy(&self, target: &dyn ConsensusDriver, expected: Sha256) -> Result<()> {
        let (mut after, mut digest) = (vec![], Sha256::new());
        loop {
            let page = export(target, &after).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            page.iter().for_each(|entry| add(&mut digest, entry));
        }
        if digest.finalize() == expected.finalize() {
            return Ok(());
        }
        let context =
            "what the target holds is not what was copied; its driver or its disk is broken";
        Err(Error::new(ErrorKind::Corrupt, context))
    }
}

impl Migrated {
    fn count(&mut self, entries: &[Entry]) {
        self.entries += entries.len() as u64;
        for (key, _) in entries {
            match key.first() {
                Some(b's') => self.sequences += 1,
                Some(b'u') => self.sessions += 1,
                Some(b'l') => self.leases += 1,
                _ => {}
            }
        }
    }
}

async fn reign(driver: &dyn ConsensusDriver) -> Result<Option<ReignRecord>> {
    match driver.read(Query::Reign).await? {
        Answer::Reign(record) => Ok(record),
        other => Err(nonsense("who reigns", &other)),
    }
}

/// A page of entries; none at the end.
async fn export(driver: &dyn ConsensusDriver, after: &[u8]) -> Result<Vec<Entry>> {
    let query = Query::Export { after: after.to_vec(), limit: MAX_BATCH };
    let answer = driver.read(query.clone()).await?;
    asked::check(&query, &answer)?;
    match answer {
        Answer::Exported(entries) => Ok(entries),
        other => Err(nonsense("an export", &other)),
    }
}

/// In parts that each go into one commit. A driver takes at least a request of so many entries.
fn split(page: Vec<Entry>, most_bytes: usize) -> Vec<Vec<Entry>> {
    let mut parts: Vec<Vec<Entry>> = vec![];
    let mut bytes = 0;
    for entry in page {
        let size = Command::entry_size(&entry);
        match parts.last_mut() {
            Some(part) if bytes + size <= most_bytes => {
                bytes += size;
                part.push(entry);
            }
            _ => {
                bytes = size;
                parts.push(vec![entry]);
            }
        }
    }
    parts
}

/// Lengths go along, so that no two different lists of entries add up to the same.
fn add(digest: &mut Sha256, (key, value): &Entry) {
    for part in [key, value] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
}
