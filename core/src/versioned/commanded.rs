use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
};

use super::{Entry, KeyRange, Leadership as Hint, Outcome, Reads, Snapshot, Version};
use crate::{
    Clock as _, CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership,
    Membership, NodeId, Result, SystemClock,
    state::{Answer, Command, Query, View, answer, apply},
};

/// How often a commit is worked out again on a newer version before it is given up.
const ATTEMPTS: usize = 64;

/// Pause before a claim whose state could not be read is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// The largest page of a query.
const PAGE: usize = 1_024;

/// A driver of commands over one that compares and stores, for as long as both contracts are in use.
///
/// Its epochs are made up of the counter in the reign record and a number drawn at random.
#[derive(Debug)]
pub struct Commanded {
    driver: Arc<dyn super::ConsensusDriver>,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::UnboundedSender<Job>,
}

#[derive(Debug)]
struct Job {
    epoch: Epoch,
    commands: Vec<Command>,
    reply: oneshot::Sender<Result<Committed>>,
}

impl Commanded {
    /// Lets commands be committed through `driver`.
    pub fn over(driver: Arc<dyn super::ConsensusDriver>) -> Arc<Self> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (says, leadership) = watch::channel(Leadership::Unknown);
        tokio::spawn(work(driver.clone(), queue));
        tokio::spawn(claim(driver.clone(), says));
        Arc::new(Self { driver, leadership, jobs })
    }
}

async fn work(driver: Arc<dyn super::ConsensusDriver>, mut queue: mpsc::UnboundedReceiver<Job>) {
    while let Some(Job { epoch, commands, reply }) = queue.recv().await {
        let _ = reply.send(commit(&*driver, epoch, &commands).await);
    }
}

/// Makes an epoch of each claim.
async fn claim(driver: Arc<dyn super::ConsensusDriver>, says: watch::Sender<Leadership>) {
    let mut hints = driver.leadership();
    let mut last = Epoch::default();
    loop {
        let hint = hints.borrow_and_update().clone();
        let now = match hint {
            Hint::Leader { .. } => match Known::default().ask(&*driver, &Query::Reign).await {
                Ok(Answer::Reign(record)) => {
                    let counter = record.map_or(0, |record| record.epoch.hi()).max(last.hi());
                    last = Epoch::from_parts(counter + 1, draw() as u64);
                    Leadership::Leader { epoch: last }
                }
                _ => {
                    SystemClock.sleep(PAUSE).await;
                    if hints.has_changed().is_err() {
                        return;
                    }
                    continue;
                }
            },
            Hint::Follower { leader } => Leadership::Follower { leader },
            Hint::Unknown => Leadership::Unknown,
        };
        says.send_if_modified(|said| {
            let is_news = *said != now;
            *said = now;
            is_news
        });
        if hints.changed().await.is_err() {
            return;
        }
    }
}

async fn commit(
    driver: &dyn super::ConsensusDriver,
    epoch: Epoch,
    commands: &[Command],
) -> Result<Committed> {
    let begins_with_fence = matches!(commands.first(), Some(Command::Fence { .. }));
    let mut known = Known::default();
    for command in commands {
        known.want(command.reads());
    }
    for _ in 0..ATTEMPTS {
        known.fetch(driver).await?;
        let (results, mut effect) = loop {
            match apply(&known, epoch, commands) {
                Err(_) if known.lacks_anything() => known.fetch(driver).await?,
                planned => break planned?,
            }
        };
        let base = known.version;
        let replaced_seen = match begins_with_fence {
            true => driver.seen(&base),
            false => None,
        };
        if effect.is_empty() {
            return Ok(Committed { results, replaced_seen });
        }
        effect.set_version(base.next(draw())?);
        match driver.commit(base, effect).await? {
            Outcome::Stored => return Ok(Committed { results, replaced_seen }),
            Outcome::Conflict { .. } => known = known.wanting_the_same(),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the state changes too quickly; ask again later"))
}

fn draw() -> u128 {
    let mut name = [0; 16];
    getrandom::fill(&mut name).expect("the system has randomness");
    u128::from_be_bytes(name)
}

/// What is known of one version of the state. It answers exactly, or notes what is missing.
#[derive(Default, Debug)]
struct Known {
    version: Version,
    keys: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Per first key: the key behind the last one, and all entries between both.
    ranges: Vec<(Vec<u8>, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)>,
    missing: RefCell<Reads>,
    wanted: Reads,
}

impl Known {
    fn want(&mut self, reads: crate::state::Reads) {
        let ranges = reads.ranges.into_iter().filter(|(from, to, _)| from < to);
        let missing = self.missing.get_mut();
        missing.keys.extend(reads.keys);
        missing.ranges.extend(ranges.map(|(from, to, limit)| KeyRange { from, to, limit }));
    }

    fn wanting_the_same(self) -> Self {
        Self { missing: RefCell::new(self.wanted), ..Self::default() }
    }

    fn lacks_anything(&self) -> bool {
        !self.missing.borrow().is_empty()
    }

    /// Fetches what is missing. If the state has changed meanwhile, all of it is fetched anew.
    async fn fetch(&mut self, driver: &dyn super::ConsensusDriver) -> Result<()> {
        let missing = self.missing.take();
        let is_first = self.wanted.is_empty();
        self.wanted.keys.extend(missing.keys.iter().cloned());
        self.wanted.ranges.extend(missing.ranges.iter().cloned());
        let mut snapshot = driver.read(&missing).await?;
        let mut reads = missing;
        if !is_first && snapshot.version != self.version {
            reads = std::mem::take(&mut self.wanted);
            *self = Self { wanted: reads.clone(), ..Self::default() };
            snapshot = driver.read(&reads).await?;
        }
        self.learn(reads, snapshot);
        Ok(())
    }

    fn learn(&mut self, reads: Reads, snapshot: Snapshot) {
        self.version = snapshot.version;
        self.keys.extend(reads.keys.into_iter().zip(snapshot.values));
        for (KeyRange { from, mut to, limit }, entries) in
            reads.ranges.into_iter().zip(snapshot.ranges)
        {
            if entries.len() >= limit
                && let Some((last, _)) = entries.last()
            {
                to = [last, &[0][..]].concat();
            }
            let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
            match self.ranges.iter_mut().find(|(_, end, _)| *end == from) {
                Some((_, end, known)) => {
                    *end = to;
                    known.append(&mut entries);
                }
                None => self.ranges.push((from, to, entries)),
            }
        }
    }

    async fn ask(mut self, driver: &dyn super::ConsensusDriver, query: &Query) -> Result<Answer> {
        loop {
            self.fetch(driver).await?;
            match answer(&self, query) {
                Err(_) if self.lacks_anything() => {}
                answered => return answered,
            }
        }
    }
}

impl View for Known {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.keys.get(key).cloned().ok_or_else(|| {
            self.missing.borrow_mut().keys.push(key.into());
            unknown()
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        if limit == 0 || from >= to {
            return Ok(vec![]);
        }
        let ranges = self.ranges.iter();
        let covers =
            ranges.filter(|(first, end, _)| first.as_slice() <= from && from < end.as_slice());
        let want = |from: &[u8]| {
            let range = KeyRange { from: from.into(), to: to.into(), limit: limit.min(PAGE) };
            self.missing.borrow_mut().ranges.push(range);
            unknown()
        };
        let (_, end, entries) = covers.max_by_key(|(_, end, _)| end).ok_or_else(|| want(from))?;
        let bounds = (Bound::Included(from), Bound::Excluded(to.min(end.as_slice())));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        let found: Vec<_> = entries.range::<[u8], _>(bounds).take(limit).map(owned).collect();
        if found.len() < limit && end.as_slice() < to {
            return Err(want(end));
        }
        Ok(found)
    }
}

fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, "a part of the state has to be fetched first")
}

#[async_trait]
impl ConsensusDriver for Commanded {
    fn node(&self) -> NodeId {
        self.driver.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Error::new(ErrorKind::Unavailable, "the driver has stopped");
        unconstrained(async { self.jobs.send(Job { epoch, commands, reply }) })
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        Known::default().ask(&*self.driver, &query).await
    }

    fn limits(&self) -> CommitLimits {
        // What a command may write follows from its own limits, so few of them always fit.
        let limits = self.driver.limits();
        CommitLimits { commands: (limits.writes / 512).clamp(1, 256), bytes: limits.bytes / 2 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        self.driver.membership()
    }

    async fn shutdown(&self) -> Result<()> {
        self.driver.shutdown().await
    }

    fn versioned(&self) -> Option<Arc<dyn super::ConsensusDriver>> {
        Some(self.driver.clone())
    }
}
