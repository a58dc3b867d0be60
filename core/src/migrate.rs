//! Copying a whole state from one driver to another, while no server runs over either.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};

use crate::{
    Clock, CommitLimits, ConsensusDriver, Effect, Entry, Error, ErrorKind, MAX_BATCH, Reads,
    Reject, Result, Snapshot, Version,
    admin::execute,
    state::{Command, Import, REIGN, Record, ReignRecord, Reply, Stage, copied},
};

/// Pause before a read is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// How often that is done.
const ATTEMPTS: u32 = 50;

/// What a page of an import writes besides its entries.
const PAGE_WRITES: usize = 2;
const PAGE_BYTES: usize = 1_024;

/// Copies a whole state from one driver to another, while no server runs over either: timestamps go on
/// above the old ones, sequences, sessions and stamping leases are the same to the byte.
///
/// The copy is read again and compared before any node can reign over it. A copy that was interrupted
/// never serves.
#[derive(Debug)]
pub struct Migration {
    source: Arc<dyn ConsensusDriver>,
    /// The version that is copied.
    version: Version,
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
    /// Named requests.
    pub named_requests: u64,
    /// Stamping leases.
    pub leases: u64,
    /// Every timestamp of the copy will be later than this.
    pub high_water_ms: u64,
}

impl Migration {
    /// Looks at the state behind `source`.
    ///
    /// # Errors
    /// `Config` if there is nothing to be copied; those of the driver.
    pub async fn of(source: Arc<dyn ConsensusDriver>, clock: Arc<dyn Clock>) -> Result<Self> {
        let refuse = |context| Err(Error::new(ErrorKind::Config, context));
        let (version, record) = reign(&*source, &*clock).await?;
        match record {
            None => refuse(
                "the source was never used, so there is nothing to copy; is it the right one?",
            ),
            Some(record) if record.stage == Stage::Importing => refuse(
                "the source is itself a copy that did not become whole; migrate from where it came",
            ),
            Some(record) => Ok(Self { source, version, record, clock }),
        }
    }

    /// Begins the copy in `target`, which this node leads. From here on no node reigns over it before the
    /// copy is whole.
    ///
    /// # Errors
    /// `Config` if the target was used before; those of the driver.
    pub async fn begin(&self, target: &Arc<dyn ConsensusDriver>) -> Result<()> {
        self.step(target, Import::Begin, |base| base.era).await.map(drop)
    }

    /// Copies everything into `target`, in which the copy has begun. Reports how many entries are there,
    /// now and then.
    ///
    /// # Errors
    /// `Unavailable` if the source was used meanwhile; `Corrupt` if the copy is not the same; those
    /// of the drivers. In each case no node can reign over the target.
    pub async fn copy(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        mut progress: impl FnMut(u64),
    ) -> Result<Migrated> {
        let mut migrated =
            Migrated { high_water_ms: self.record.high_water_ms, ..Migrated::default() };
        let (mut after, mut digest) = (vec![], Sha256::new());
        let limits = target.limits();
        let most = CommitLimits {
            writes: limits.writes.saturating_sub(PAGE_WRITES),
            bytes: limits.bytes.saturating_sub(PAGE_BYTES),
        };
        loop {
            let (version, page) = self.export(&*self.source, &after).await?;
            if version != self.version {
                return Err(used_meanwhile());
            }
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            page.iter().for_each(|entry| add(&mut digest, entry));
            for part in split(page, most) {
                migrated.count(&part);
                let before = migrated.entries - part.len() as u64;
                let page = Import::Page { before, entries: part };
                self.step(target, page, |base| base.era).await?;
            }
            progress(migrated.entries);
        }
        self.check_source().await?;
        self.check_copy(&**target, digest).await?;
        let (entries, record) = (migrated.entries, Box::new(self.record.clone()));
        // Epochs of the copy begin above all of the source.
        let era = |base: Version| base.era.max(self.version.era).saturating_add(1);
        self.step(target, Import::Finish { entries, record }, era).await?;
        Ok(migrated)
    }

    /// Makes a step of the import, again if it is not known whether it was made.
    async fn step(
        &self,
        target: &Arc<dyn ConsensusDriver>,
        step: Import,
        era: impl Fn(Version) -> u64,
    ) -> Result<u64> {
        let command = Command::Import(step);
        match execute(target, &*self.clock, &command, era).await {
            Ok(Reply::Imported { entries }) => Ok(entries),
            Err(error) if *error.kind() == ErrorKind::Rejected(Reject::NotEmpty) => {
                Err(Error::new(
                    ErrorKind::Config,
                    "the target holds state already, which was left as it is; migrate into a new one",
                ))
            }
            Ok(other) => {
                Err(Error::new(ErrorKind::Fatal, format!("an import was answered {other:?}")))
            }
            Err(error) => Err(error),
        }
    }

    /// That no server has changed the source since it was looked at.
    async fn check_source(&self) -> Result<()> {
        let (version, _) = reign(&*self.source, &*self.clock).await?;
        if version == self.version { Ok(()) } else { Err(used_meanwhile()) }
    }

    /// That what is in the target is what was in the source.
    async fn check_copy(&self, target: &dyn ConsensusDriver, expected: Sha256) -> Result<()> {
        let (mut after, mut digest) = (vec![], Sha256::new());
        loop {
            let (_, page) = self.export(target, &after).await?;
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

    /// A page of the entries behind `after`; none at the end.
    async fn export(
        &self,
        driver: &dyn ConsensusDriver,
        after: &[u8],
    ) -> Result<(Version, Vec<Entry>)> {
        let wanted = Reads { keys: vec![], ranges: copied(after, MAX_BATCH) };
        let snapshot = read(driver, &*self.clock, &wanted).await?;
        let mut page = Vec::new();
        for entries in snapshot.ranges {
            // What follows a range that is not read to its end comes with the next page.
            let is_whole = entries.len() < MAX_BATCH;
            page.extend(entries);
            if !is_whole {
                break;
            }
        }
        Ok((snapshot.version, page))
    }
}

impl Migrated {
    fn count(&mut self, entries: &[Entry]) {
        self.entries += entries.len() as u64;
        for (key, _) in entries {
            match key.first() {
                Some(b's') => self.sequences += 1,
                Some(b'u') => self.sessions += 1,
                Some(b'q') => self.named_requests += 1,
                Some(b'l') => self.leases += 1,
                _ => {}
            }
        }
    }
}

/// The state's version, and its reign record.
async fn reign(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
) -> Result<(Version, Option<ReignRecord>)> {
    let snapshot = read(driver, clock, &Reads::keys([REIGN])).await?;
    let stored = snapshot.values.into_iter().next().flatten();
    let record = stored.map(|bytes| Record::decode(REIGN, bytes)).transpose()?;
    Ok((
        snapshot.version,
        match record {
            Some(Record::Reign(record)) => Some(*record),
            _ => None,
        },
    ))
}

/// Reads, again while the driver cannot answer.
async fn read(driver: &dyn ConsensusDriver, clock: &dyn Clock, wanted: &Reads) -> Result<Snapshot> {
    for _ in 1..ATTEMPTS {
        match driver.read(wanted).await {
            Err(error) if error.is_retryable() => clock.sleep(PAUSE).await,
            read => return read,
        }
    }
    driver.read(wanted).await
}

fn used_meanwhile() -> Error {
    let context = "the source was used while it was copied; stop all of its nodes, and migrate \
                   again into a new target";
    Error::new(ErrorKind::Unavailable, context)
}

/// In parts that each go into one commit.
fn split(page: Vec<Entry>, most: CommitLimits) -> Vec<Vec<Entry>> {
    let mut parts: Vec<Vec<Entry>> = vec![];
    let mut bytes = 0;
    for entry in page {
        let size = Effect::size_of(&entry.0, Some(&entry.1));
        match parts.last_mut() {
            Some(part) if bytes + size <= most.bytes && part.len() < most.writes => {
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
