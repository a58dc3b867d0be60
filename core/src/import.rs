//! Bringing a whole state into a driver that was never used: from another driver, or from a backup.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Clock, CommitLimits, ConsensusDriver, Effect, Entry, Error, ErrorKind, MAX_BATCH, Reads,
    Reject, Result, Snapshot, Version,
    admin::execute,
    state::{Command, Import, ReignRecord, Reply, copied},
};

/// Pause before a read is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// How often that is done.
const ATTEMPTS: u32 = 50;

/// What a page of an import writes besides its entries.
const PAGE_WRITES: usize = 2;
const PAGE_BYTES: usize = 1_024;

/// How much there is of each kind in a state that was copied, and where its timestamps stand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct StateCounts {
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
    /// Every timestamp that it grants will be later than this.
    pub high_water_ms: u64,
}

/// An import under way. Until it is finished, no node reigns over the target.
#[derive(Debug)]
pub(crate) struct Importer<'a> {
    target: &'a Arc<dyn ConsensusDriver>,
    clock: &'a dyn Clock,
    digest: Sha256,
    brought: StateCounts,
}

/// Begins an import into a driver that this node leads.
///
/// # Errors
/// `Config` if it was used before; those of the driver.
pub(crate) async fn begin(target: &Arc<dyn ConsensusDriver>, clock: &dyn Clock) -> Result<()> {
    step(target, clock, Import::Begin, |base| base.era).await.map(drop)
}

impl<'a> Importer<'a> {
    /// Goes on where [`begin`] has begun.
    pub(crate) fn new(target: &'a Arc<dyn ConsensusDriver>, clock: &'a dyn Clock) -> Self {
        Self { target, clock, digest: Sha256::new(), brought: StateCounts::default() }
    }

    /// Brings entries, in the order of their keys. Returns how many there are by now.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) async fn bring(&mut self, entries: Vec<Entry>) -> Result<u64> {
        entries.iter().for_each(|entry| add(&mut self.digest, entry));
        let limits = self.target.limits();
        let most = CommitLimits {
            writes: limits.writes.saturating_sub(PAGE_WRITES),
            bytes: limits.bytes.saturating_sub(PAGE_BYTES),
        };
        for part in split(entries, most) {
            let before = self.brought.entries;
            self.brought.count(&part);
            let page = Import::Page { before, entries: part };
            step(self.target, self.clock, page, |base| base.era).await?;
        }
        Ok(self.brought.entries)
    }

    /// That what is in the target is what was brought.
    ///
    /// # Errors
    /// `Corrupt` if it is not; those of the driver.
    pub(crate) async fn check(&mut self) -> Result<()> {
        let (mut after, mut digest) = (vec![], Sha256::new());
        loop {
            let (_, page) = export(&**self.target, self.clock, &after).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.clone();
            page.iter().for_each(|entry| add(&mut digest, entry));
        }
        if digest.finalize() == self.digest.clone().finalize() {
            return Ok(());
        }
        let context =
            "what the target holds is not what was copied; its driver or its disk is broken";
        Err(Error::new(ErrorKind::Corrupt, context))
    }

    /// Makes the state whole, under this reign record. Epochs begin above all of `era`.
    ///
    /// # Errors
    /// Those of the driver.
    pub(crate) async fn finish(self, record: ReignRecord, era: u64) -> Result<StateCounts> {
        let (entries, high_water_ms) = (self.brought.entries, record.high_water_ms);
        let finish = Import::Finish { entries, record: Box::new(record) };
        let era = |base: Version| base.era.max(era).saturating_add(1);
        step(self.target, self.clock, finish, era).await?;
        Ok(StateCounts { high_water_ms, ..self.brought })
    }
}

impl StateCounts {
    pub(crate) fn count(&mut self, entries: &[Entry]) {
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

/// In words, without the time.
impl fmt::Display for StateCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sequences, sessions, named_requests, leases, .. } = self;
        write!(
            f,
            "{sequences} sequences, {sessions} sessions, {named_requests} named requests and {leases} stamping leases"
        )
    }
}

/// Makes a step of an import, again if it is not known whether it was made.
async fn step(
    target: &Arc<dyn ConsensusDriver>,
    clock: &dyn Clock,
    step: Import,
    era: impl Fn(Version) -> u64,
) -> Result<u64> {
    match execute(target, clock, &Command::Import(step), era).await {
        Ok(Reply::Imported { entries }) => Ok(entries),
        Err(error) if *error.kind() == ErrorKind::Rejected(Reject::NotEmpty) => Err(Error::new(
            ErrorKind::Config,
            "the target holds state already, which was left as it is; take a new one",
        )),
        Ok(other) => Err(Error::new(ErrorKind::Fatal, format!("an import was answered {other:?}"))),
        Err(error) => Err(error),
    }
}

/// A page of the entries behind `after`, and its version; none at the end.
pub(crate) async fn export(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
    after: &[u8],
) -> Result<(Version, Vec<Entry>)> {
    let wanted = Reads { keys: vec![], ranges: copied(after, MAX_BATCH) };
    let snapshot = read(driver, clock, &wanted).await?;
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

/// Reads, again while the driver cannot answer.
pub(crate) async fn read(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
    wanted: &Reads,
) -> Result<Snapshot> {
    for _ in 1..ATTEMPTS {
        match driver.read(wanted).await {
            Err(error) if error.is_retryable() => clock.sleep(PAUSE).await,
            read => return read,
        }
    }
    driver.read(wanted).await
}

/// In parts of bounded size.
pub(crate) fn split(page: Vec<Entry>, most: CommitLimits) -> Vec<Vec<Entry>> {
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
