use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tsoracle_core::{
    BootTime, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, NodeId, Outcome, Random, Reads,
    Reject, Result, Version,
    state::{Answer, Command, Plan, Query, REIGN, Record, Reply, View, WorkingSet, answer},
};

/// How often a commit is worked out again on a newer version before it is given up.
const ATTEMPTS: usize = 64;

/// A driver with commands planned in front of it, as the engine plans them, but one call at a time and
/// without a reign: for checks of the rules, which hold over any driver that keeps its contract.
#[derive(Debug)]
pub(crate) struct Commanded {
    driver: Arc<dyn ConsensusDriver>,
    jobs: mpsc::UnboundedSender<Job>,
}

/// The outcome of a commit.
#[derive(Debug)]
pub(crate) struct Committed {
    /// Per command, in order.
    pub(crate) results: Vec<Result<Reply, Reject>>,
    /// If the commands began with a fence: when the driver had seen the commit that wrote the reign
    /// record which the fence replaced.
    pub(crate) replaced_seen: Option<BootTime>,
}

#[derive(Debug)]
struct Job {
    epoch: Epoch,
    commands: Vec<Command>,
    reply: oneshot::Sender<Result<Committed>>,
}

impl Commanded {
    pub(crate) fn over(driver: Arc<dyn ConsensusDriver>) -> Arc<Self> {
        let (jobs, queue) = mpsc::unbounded_channel();
        tokio::spawn(work(driver.clone(), queue));
        Arc::new(Self { driver, jobs })
    }

    /// The driver itself.
    pub(crate) fn driver(&self) -> &Arc<dyn ConsensusDriver> {
        &self.driver
    }

    pub(crate) fn node(&self) -> NodeId {
        self.driver.node()
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.driver.leadership()
    }

    /// How many commands one commit takes at least.
    pub(crate) fn most_commands(&self) -> usize {
        (self.driver.limits().writes / 512).clamp(1, 256)
    }

    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.driver.shutdown().await
    }

    /// Works out commands and commits them. Calls take effect in the order in which they were first polled,
    /// and dropping one does not undo it.
    pub(crate) async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let stopped = || Error::new(ErrorKind::Unavailable, "the driver has stopped");
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { epoch, commands, reply }).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    pub(crate) async fn read(&self, query: Query) -> Result<Answer> {
        let mut known = read(&*self.driver, query.reads()).await?;
        loop {
            let answered = answer(&known, &query);
            if !fetch(&*self.driver, &mut known, || query.reads()).await? {
                return answered;
            }
        }
    }
}

async fn work(driver: Arc<dyn ConsensusDriver>, mut queue: mpsc::UnboundedReceiver<Job>) {
    while let Some(Job { epoch, commands, reply }) = queue.recv().await {
        let _ = reply.send(commit(&*driver, epoch, commands).await);
    }
}

async fn commit(
    driver: &dyn ConsensusDriver,
    epoch: Epoch,
    commands: Vec<Command>,
) -> Result<Committed> {
    let random = Random::default();
    for _ in 0..ATTEMPTS {
        let mut known = read(driver, hints(&commands)).await?;
        let (plan, results) = loop {
            let planned = plan(&known, epoch, &commands, driver);
            if !fetch(driver, &mut known, || hints(&commands)).await? {
                break planned?;
            }
        };
        let replaced_seen = match commands.first() {
            Some(Command::Fence { .. }) => replaced(&known).and_then(|old| driver.seen(&old)),
            _ => None,
        };
        if plan.is_empty() {
            return Ok(Committed { results, replaced_seen });
        }
        let base = known.version();
        let (effect, _) = plan.finish(base.next(random.draw())?);
        match driver.commit(base, effect).await? {
            Outcome::Stored => return Ok(Committed { results, replaced_seen }),
            Outcome::Conflict { .. } => {}
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the state changes too quickly; ask again later"))
}

fn hints(commands: &[Command]) -> Reads {
    let mut all = Reads::default();
    for Reads { keys, ranges } in commands.iter().map(Command::reads) {
        all.keys.extend(keys);
        all.ranges.extend(ranges);
    }
    all
}

fn plan(
    known: &WorkingSet,
    epoch: Epoch,
    commands: &[Command],
    driver: &dyn ConsensusDriver,
) -> Result<(Plan, Vec<Result<Reply, Reject>>)> {
    let (mut plan, mut results) = (Plan::default(), Vec::new());
    for command in commands {
        let mut command = command.clone();
        if let Command::Fence { base, .. } = &mut command {
            *base = known.version();
        }
        match plan.add(known, epoch, &command, driver.limits())? {
            Some(result) => results.push(result),
            None => {
                let context = "the commands write more than one commit takes";
                return Err(Error::new(ErrorKind::Invalid, context));
            }
        }
    }
    Ok((plan, results))
}

/// The version of the commit that wrote the reign record, if there is one.
fn replaced(known: &WorkingSet) -> Option<Version> {
    match known.get(REIGN) {
        Ok(Some(Record::Reign(record))) => Some(record.version),
        _ => None,
    }
}

async fn read(driver: &dyn ConsensusDriver, wanted: Reads) -> Result<WorkingSet> {
    let snapshot = driver.read(&wanted).await?;
    let mut known = WorkingSet::at(snapshot.version);
    known.learn(wanted, snapshot)?;
    Ok(known)
}

/// Reads what was missing, or all of it again if the state has changed. False if nothing was.
async fn fetch(
    driver: &dyn ConsensusDriver,
    known: &mut WorkingSet,
    all: impl Fn() -> Reads,
) -> Result<bool> {
    let Some(missing) = known.take_missing() else { return Ok(false) };
    let snapshot = driver.read(&missing).await?;
    if snapshot.version == known.version() {
        known.learn(missing, snapshot)?;
    } else {
        *known = read(driver, all()).await?;
    }
    Ok(true)
}
