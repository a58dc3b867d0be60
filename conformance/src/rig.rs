use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;
use tsoracle_core::{
    Clock, ConsensusDriver, Epoch, ErrorKind, Leadership, ManualClock, NodeId, Now, Oracle,
    OracleOptions, Phase, Reject, RequestId, SeqBlock, SeqKey, Session, SystemClock, Version,
    state::{Advance, Answer, Command, Limits, Query, ReignRecord, Reply},
};

use crate::{Harness, Place, commanded::Commanded};

/// The wall clock of commands, in milliseconds.
pub(crate) const NOON_MS: u64 = 1_800_000_000_000;

/// The lease of commands, in milliseconds.
pub(crate) const LEASE_MS: u64 = 1_000;

/// How far beyond the floor a fence reserves timestamps, in milliseconds.
pub(crate) const HEADROOM_MS: u64 = 3_000;

/// How long a check waits for what a driver must do by itself. Longer than any election.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a check works with: a place of its own.
pub(crate) struct Rig {
    pub(crate) harness: Arc<dyn Harness>,
    pub(crate) place: Box<dyn Place>,
}

impl Rig {
    pub(crate) async fn new(harness: Arc<dyn Harness>) -> Result<Self> {
        let place = harness.place().await?;
        Ok(Self { harness, place })
    }

    /// Opens a driver.
    pub(crate) async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        self.place.open().await.context("the driver did not open")
    }

    /// Opens a driver, with commands planned in front of it.
    pub(crate) async fn commanded(&mut self) -> tsoracle_core::Result<Arc<Commanded>> {
        commanded(&mut *self.place).await
    }

    /// Opens a driver, and waits until it leads. It has not fenced yet.
    pub(crate) async fn lead(&mut self) -> Result<Leader> {
        Leader::of(self.commanded().await.context("the driver did not open")?).await
    }

    /// Opens a driver that leads, and opens its reign.
    pub(crate) async fn reign(&mut self) -> Result<Leader> {
        let leader = self.lead().await?;
        leader.reign().await?;
        Ok(leader)
    }

    /// Stops the driver, and leads anew over what it left.
    pub(crate) async fn lead_again(&mut self, leader: Leader) -> Result<Leader> {
        leader.driver.shutdown().await.context("the driver did not stop")?;
        drop(leader);
        self.lead().await
    }

    /// As [`lead_again`](Self::lead_again), and opens the reign.
    pub(crate) async fn reign_again(&mut self, leader: Leader) -> Result<Leader> {
        let leader = self.lead_again(leader).await?;
        leader.reign().await?;
        Ok(leader)
    }

    /// Ends the driver as `kill -9` would, and opens a reign over what it left.
    pub(crate) async fn reign_after_crash(&mut self) -> Result<Leader> {
        self.place.crash().await.context("the rig could not crash the driver")?;
        self.reign().await
    }
}

/// Opens a driver in a place, with commands planned in front of it.
pub(crate) async fn commanded(place: &mut dyn Place) -> tsoracle_core::Result<Arc<Commanded>> {
    Ok(Commanded::over(place.open().await?))
}

/// A driver that leads.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    pub(crate) driver: Arc<Commanded>,
    /// That of its last fence.
    epoch: Arc<Mutex<Epoch>>,
}

/// What a fence was answered.
#[derive(Debug)]
pub(crate) struct Fenced {
    pub(crate) epoch: Epoch,
    pub(crate) floor_ms: u64,
    pub(crate) high_water_ms: u64,
    pub(crate) replaced: Option<ReignRecord>,
}

pub(crate) type Outcome = Result<Reply, Reject>;

impl Leader {
    /// Waits until `driver` leads.
    pub(crate) async fn of(driver: Arc<Commanded>) -> Result<Self> {
        let mut leadership = driver.leadership();
        let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
        let now = timeout(PATIENCE, leads)
            .await
            .context("the driver did not come to lead")?
            .context("the leadership channel closed before the driver led")?
            .clone();
        match now {
            Leadership::Leader { .. } => Ok(Self { driver, epoch: Arc::default() }),
            other => bail!("{other:?} is no claim"),
        }
    }

    /// The epoch of its last fence; the lowest one if it has not fenced.
    pub(crate) fn epoch(&self) -> Epoch {
        *self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits, each command being answered.
    pub(crate) async fn commit(&self, commands: Vec<Command>) -> Result<Vec<Outcome>> {
        self.commit_as(self.epoch(), commands).await
    }

    /// As [`commit`](Self::commit), under an epoch that need not be this leader's.
    pub(crate) async fn commit_as(
        &self,
        epoch: Epoch,
        commands: Vec<Command>,
    ) -> Result<Vec<Outcome>> {
        let asked = commands.len();
        let results = self.driver.commit(epoch, commands).await.context("a commit failed")?.results;
        ensure!(results.len() == asked, "{asked} commands got {} answers", results.len());
        Ok(results)
    }

    pub(crate) async fn one(&self, command: Command) -> Result<Outcome> {
        Ok(self.commit(vec![command]).await?.remove(0))
    }

    /// Commits one command, which must succeed.
    pub(crate) async fn done(&self, command: Command) -> Result<Reply> {
        let text = format!("{command:?}");
        match self.one(command).await? {
            Ok(reply) => Ok(reply),
            Err(reject) => bail!("{text} was refused: {reject}"),
        }
    }

    pub(crate) async fn fence_at(&self, now_ms: u64) -> Result<Fenced> {
        match self.done(fence(now_ms)).await? {
            Reply::Fenced { epoch, floor_ms, high_water_ms, replaced } => {
                *self.epoch.lock().unwrap_or_else(PoisonError::into_inner) = epoch;
                let replaced = replaced.map(|record| *record);
                Ok(Fenced { epoch, floor_ms, high_water_ms, replaced })
            }
            other => bail!("a fence was answered {other:?}"),
        }
    }

    /// Fences and opens.
    pub(crate) async fn reign(&self) -> Result<Fenced> {
        let fenced = self.fence_at(NOON_MS).await?;
        self.open().await?;
        Ok(fenced)
    }

    pub(crate) async fn open(&self) -> Result<()> {
        let open = Command::Open { node: self.driver.node(), lease_ms: LEASE_MS };
        ensure!(self.done(open).await? == Reply::Opened, "an open was not answered as one");
        Ok(())
    }

    pub(crate) async fn extend(&self, high_water_ms: u64) -> Result<()> {
        match self.done(Command::Extend { high_water_ms, elapsed_ms: 0 }).await? {
            Reply::Extended { .. } => Ok(()),
            other => bail!("an extend was answered {other:?}"),
        }
    }

    /// The block that a request without an id gets, which must succeed.
    pub(crate) async fn take(&self, name: &str, count: u32) -> Result<Range<u64>> {
        let outcome = self.one(advance(&[(name, count)])).await?;
        let blocks = blocks(&outcome)?;
        ensure!(blocks.len() == 1, "one block was asked for, and {} came", blocks.len());
        ensure!(blocks[0].key.as_str() == name, "{name:?} was asked for, not {:?}", blocks[0].key);
        ensure!(blocks[0].count == count, "{count} were asked for, not {}", blocks[0].count);
        Ok(blocks[0].range())
    }

    /// The next value of a sequence, 0 if it was never used.
    pub(crate) async fn next(&self, name: &str) -> Result<u64> {
        Ok(self.sequence(name).await?.unwrap_or(0))
    }

    pub(crate) async fn sequence(&self, name: &str) -> Result<Option<u64>> {
        match self.driver.read(Query::Sequence(key(name))).await? {
            Answer::Sequence(next) => Ok(next),
            other => bail!("a sequence's query was answered {other:?}"),
        }
    }

    pub(crate) async fn record(&self) -> Result<ReignRecord> {
        match self.driver.read(Query::Reign).await? {
            Answer::Reign(Some(record)) => Ok(record),
            other => bail!("the query of the reign was answered {other:?}"),
        }
    }

    /// Commits under an epoch that is over: it must be refused, and leave no trace.
    pub(crate) async fn refuses(&self, epoch: Epoch, command: Command) -> Result<()> {
        let text = format!("{command:?}");
        match self.driver.commit(epoch, vec![command]).await {
            Ok(committed) => match &committed.results[..] {
                [Err(Reject::Fenced { .. })] => Ok(()),
                other => bail!("{text} of epoch {epoch} was answered {other:?}"),
            },
            Err(error) if matches!(error.kind(), ErrorKind::NotLeader(_)) => Ok(()),
            Err(error) => bail!("{text} of epoch {epoch} failed otherwise: {error:#}"),
        }
    }
}

/// A clock that the check moves. Its boot clock starts with the machine's, by which drivers tell when
/// they saw a write.
pub(crate) fn clock(wall_ms: u64) -> ManualClock {
    ManualClock::starting_at(Now { wall_ms, boot: SystemClock.now().boot })
}

/// An oracle over `driver`, on a clock that the check moves.
pub(crate) fn oracle(driver: Arc<dyn ConsensusDriver>, clock: &ManualClock) -> Result<Oracle> {
    let options = OracleOptions {
        clock: Arc::new(clock.clone()),
        lease: Duration::from_millis(LEASE_MS),
        ..OracleOptions::default()
    };
    Ok(Oracle::start(driver, options)?)
}

/// Waits until an oracle on the machine's clock serves. It may have to be elected, and to wait for the
/// lease of a node that was killed.
pub(crate) async fn serves(oracle: &Oracle) -> Result<()> {
    let mut phase = oracle.phase();
    let serving = phase.wait_for(|phase| matches!(phase, Phase::Serving { .. }));
    timeout(PATIENCE, serving).await.context("no reign was opened")?.context("it has ended")?;
    Ok(())
}

/// Lets a little time pass for an oracle that is to do something by itself.
pub(crate) async fn pass(clock: &ManualClock, oracle: &Oracle) {
    clock.advance(Duration::from_millis(10));
    // The engine and the driver have work of their own to do meanwhile.
    let mut phase = oracle.phase();
    drop(timeout(Duration::from_millis(2), phase.changed()).await);
}

pub(crate) fn fence(now_ms: u64) -> Command {
    Command::Fence { base: Version::EMPTY, now_ms, headroom_ms: HEADROOM_MS, lease_ms: LEASE_MS }
}

pub(crate) fn extend(high_water_ms: u64) -> Command {
    Command::Extend { high_water_ms, elapsed_ms: 0 }
}

/// Asks for blocks without an id.
pub(crate) fn advance(entries: &[(&str, u32)]) -> Command {
    Command::Advance(request(entries, None))
}

/// Asks for blocks under an id.
pub(crate) fn advance_as(id: RequestId, entries: &[(&str, u32)]) -> Command {
    Command::Advance(request(entries, Some(id)))
}

pub(crate) fn request(entries: &[(&str, u32)], id: Option<RequestId>) -> Advance {
    let entries = entries.iter().map(|&(name, count)| (key(name), count)).collect();
    Advance { entries, id, elapsed_ms: 0, limits: Limits::default() }
}

/// Request `number` of the session named so, which waits for `first_incomplete` and above.
pub(crate) fn id(session: &str, number: u64, first_incomplete: u64) -> RequestId {
    RequestId::new(Session::from_text(session), number, first_incomplete)
        .expect("checks use valid numbers")
}

pub(crate) fn key(name: &str) -> SeqKey {
    SeqKey::new(name).expect("checks use valid keys")
}

/// The blocks of an answer that must be some.
pub(crate) fn blocks(outcome: &Outcome) -> Result<&[SeqBlock]> {
    match outcome {
        Ok(Reply::Advanced(blocks)) => Ok(blocks),
        Ok(other) => bail!("an advance was answered {other:?}"),
        Err(reject) => bail!("an advance was refused: {reject}"),
    }
}

/// The first value of the only block of an answer.
pub(crate) fn start(outcome: &Outcome) -> Result<u64> {
    match blocks(outcome)? {
        [block] => Ok(block.start),
        other => bail!("one block was asked for, and {} came", other.len()),
    }
}

/// A node that is not the one under test.
pub(crate) const SOMEBODY: NodeId = NodeId(0x50_6e_b0_d1);
