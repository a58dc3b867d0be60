//! Commands that are planned by one rule less.

use std::{num::NonZeroU64, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Leadership, Membership, MemoryStore, NodeId,
    Reject, Result, SeqStore,
    state::{Answer, Command, Query, ReignRecord, Reply, Stage, answer, apply},
    versioned::{self, Commanded, Effect, KeyRange, Reads},
};

use crate::{contender::Contender, flaw::Flaw, shared::new_id};

type Outcome = std::result::Result<Reply, Reject>;

/// Where the core keeps the reign record, and how it begins.
const REIGN: &[u8] = b"r";
const FORMAT: u8 = 1;

/// Plans commands in front of a sound driver, with a flaw in its rules.
#[derive(Debug)]
pub(crate) struct Misruled {
    flaw: Flaw,
    driver: Arc<Contender>,
    sound: Arc<Commanded>,
    /// One commit at a time, as ever. How many sequences the pages before have listed.
    listed: Mutex<usize>,
}

impl Misruled {
    pub(crate) fn over(driver: Arc<Contender>, flaw: Flaw) -> Arc<Self> {
        let sound = Commanded::over(driver.clone());
        Arc::new(Self { flaw, driver, sound, listed: Mutex::default() })
    }

    /// The whole state, and its version.
    async fn state(&self) -> Result<(versioned::Version, MemoryStore)> {
        use versioned::ConsensusDriver as _;
        let all = KeyRange { from: vec![], to: vec![0xff; 300], limit: usize::MAX };
        let mut found = self.driver.read(&Reads { keys: vec![], ranges: vec![all] }).await?;
        let mut entries = Effect::default();
        found.ranges.remove(0).into_iter().for_each(|(key, value)| entries.put(key, value));
        let mut store = MemoryStore::default();
        store.commit(entries)?;
        Ok((found.version, store))
    }
}

#[async_trait]
impl ConsensusDriver for Misruled {
    fn node(&self) -> NodeId {
        self.sound.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        ConsensusDriver::leadership(&*self.sound)
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let _one_at_a_time = self.listed.lock().await;
        let (driver, flaw) = (self.driver.clone(), self.flaw);
        loop {
            let (base, store) = self.state().await?;
            let mut plan = Plan { flaw, store, effect: Effect::default() };
            let results = plan.commands(epoch, &commands)?;
            let fences = matches!(commands.first(), Some(Command::Fence { .. }));
            let replaced_seen =
                if fences { versioned::ConsensusDriver::seen(&*driver, &base) } else { None };
            let Plan { mut effect, .. } = plan;
            if effect.is_empty() {
                return Ok(Committed { results, replaced_seen });
            }
            effect.set_version(base.next(new_id())?);
            match versioned::ConsensusDriver::commit(&*driver, base, effect).await? {
                versioned::Outcome::Stored => return Ok(Committed { results, replaced_seen }),
                versioned::Outcome::Conflict { .. } => {}
            }
        }
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let (Flaw::ListsByOffset, Query::Sequences { prefix, after, limit }) = (self.flaw, &query)
        else {
            return ConsensusDriver::read(&*self.sound, query).await;
        };
        let mut listed = self.listed.lock().await;
        *listed = if after.is_empty() { 0 } else { *listed + limit };
        let (prefix, after) = (prefix.clone(), String::new());
        let all = Query::Sequences { prefix, after, limit: *listed + limit };
        let Answer::Sequences(all) = answer(&self.state().await?.1, &all)? else { unreachable!() };
        Ok(Answer::Sequences(all.into_iter().skip(*listed).collect()))
    }

    fn limits(&self) -> CommitLimits {
        ConsensusDriver::limits(&*self.sound)
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        ConsensusDriver::shutdown(&*self.sound).await
    }

    fn versioned(&self) -> Option<Arc<dyn versioned::ConsensusDriver>> {
        Some(self.driver.clone())
    }
}

/// What some commands make of a state.
struct Plan {
    flaw: Flaw,
    store: MemoryStore,
    effect: Effect,
}

impl Plan {
    fn write(&mut self, effect: Effect) -> Result<()> {
        self.effect.merge(effect.clone());
        self.store.commit(effect)
    }

    fn commands(&mut self, epoch: Epoch, commands: &[Command]) -> Result<Vec<Outcome>> {
        let misread: Vec<_> = commands.iter().map(|command| misread(self.flaw, command)).collect();
        let commands = misread.as_slice();
        let epoch = match record(&self.store)? {
            Some(record) if self.flaw == Flaw::IgnoresTheEpoch && !starts_a_reign(commands) => {
                record.epoch
            }
            _ => epoch,
        };
        let (mut results, effect) = worked_out(self, epoch, commands)?;
        let before = record(&self.store)?;
        self.write(effect)?;
        alter_record(self, before, commands, &mut results)?;
        alter_sequences(self, commands, &mut results)?;
        if self.flaw == Flaw::ReversesResults && commands.iter().all(is_advance) {
            results.reverse();
        }
        Ok(results)
    }
}

/// What a flaw makes of a command before it is worked out.
fn misread(flaw: Flaw, command: &Command) -> Command {
    let mut command = command.clone();
    if let Command::Advance(advance) = &mut command {
        match (flaw, &mut advance.id) {
            (Flaw::TakesRetriesForNewRequests, Some(id)) => id.retry = false,
            (Flaw::KeepsAnswersForEver, Some(id)) => id.first_incomplete = NonZeroU64::MIN,
            (Flaw::AppliesItsOwnCapOfSessions, _) => advance.limits.sessions = u64::MAX,
            (Flaw::AppliesItsOwnCapOfOpenRequests, _) => {
                advance.limits.open_requests = u64::MAX;
            }
            (Flaw::SortsTheKeysOfARequest, _) => advance.entries.sort(),
            _ => {}
        }
    }
    command
}

fn worked_out(plan: &Plan, epoch: Epoch, commands: &[Command]) -> Result<(Vec<Outcome>, Effect)> {
    let store = &plan.store;
    let (mut results, mut effect) = apply(store, epoch, commands)?;
    match plan.flaw {
        Flaw::FailsABatchAsAWhole => {
            if let Some(Err(reject)) = results.iter().find(|result| result.is_err()).cloned() {
                results.fill(Err(reject));
                effect = Effect::default();
            }
        }
        Flaw::WorksABatchOutFromTheStateBefore if commands.iter().all(is_advance) => {
            (results, effect) = Default::default();
            for command in commands {
                let (result, writes) = apply(store, epoch, std::slice::from_ref(command))?;
                results.extend(result);
                effect.merge(writes);
            }
        }
        Flaw::AdvancesOneKeyOfAFailedBatch => {
            for (command, result) in commands.iter().zip(&results) {
                if let (Command::Advance(advance), Err(_)) = (command, result)
                    && advance.entries.len() > 1
                {
                    let mut first = advance.clone();
                    first.entries.truncate(1);
                    effect.merge(apply(store, epoch, &[Command::Advance(first)])?.1);
                }
            }
        }
        Flaw::ReleasesInWordsOnly if matches!(commands, [Command::Release]) => {
            effect = Effect::default();
        }
        Flaw::SpendsBlocksOfRefusedRequests => {
            for (command, result) in commands.iter().zip(&results) {
                if let (Command::Advance(advance), Err(Reject::TooManyKeys { .. })) =
                    (command, result)
                {
                    let mut uncapped = advance.clone();
                    uncapped.limits.keys = u64::MAX;
                    effect.merge(apply(store, epoch, &[Command::Advance(uncapped)])?.1);
                }
            }
        }
        _ => {}
    }
    Ok((results, effect))
}

/// Changes the reign record behind the rules' back.
fn alter_record(
    plan: &mut Plan,
    before: Option<ReignRecord>,
    commands: &[Command],
    results: &mut [Outcome],
) -> Result<()> {
    let Some(mut altered) = record(&plan.store)? else { return Ok(()) };
    let sound = altered.clone();
    for (command, result) in commands.iter().zip(results) {
        match (plan.flaw, command, &mut *result) {
            (
                Flaw::RewritesTheHighWater,
                Command::Extend { high_water_ms, .. },
                Ok(Reply::Extended { high_water_ms: answered }),
            ) => {
                altered.high_water_ms = *high_water_ms;
                *answered = *high_water_ms;
            }
            (
                Flaw::StoresWhatIsOutOfRange,
                Command::Extend { high_water_ms, .. },
                Err(Reject::OutOfRange { .. }),
            ) => altered.high_water_ms = *high_water_ms,
            (Flaw::FencesWithItsOwnLease, Command::Fence { lease_ms, .. }, Ok(_)) => {
                altered.lease_ms = *lease_ms;
            }
            (Flaw::ForgetsTheReleaseInAFence, Command::Fence { .. }, Ok(_)) => {
                altered.released = false;
            }
            (
                Flaw::FencesFromTheClock,
                Command::Fence { now_ms, headroom_ms, .. },
                Ok(Reply::Fenced { floor_ms, high_water_ms, .. }),
            ) => {
                (*floor_ms, *high_water_ms) = (*now_ms, now_ms + headroom_ms);
                altered.high_water_ms = *high_water_ms;
            }
            (
                Flaw::FencesWithoutTheRecord,
                Command::Fence { .. },
                Ok(Reply::Fenced { replaced, .. }),
            ) => *replaced = None,
            (Flaw::OpensWithTheFence, Command::Fence { .. }, Ok(_)) => {
                altered.stage = Stage::Open;
            }
            (Flaw::StaysReleasedWhenOpened, Command::Open { .. }, Ok(_)) => {
                altered.released = before.as_ref().is_some_and(|before| before.released);
            }
            (Flaw::LeavesTheHighWaterBelowBounds, Command::Lease { .. }, Ok(_)) => {
                altered.high_water_ms =
                    before.as_ref().map_or(altered.high_water_ms, |before| before.high_water_ms);
            }
            (
                Flaw::PushesTheHighWaterOnWithEachLease,
                Command::Lease { .. },
                Ok(Reply::Leased(_)),
            ) => altered.high_water_ms += 1_000,
            (Flaw::StartsSessionTimeAnew, Command::Fence { .. }, Ok(_)) => {
                (altered.session_ms, altered.session_base_ms) = (0, 0);
            }
            _ => {}
        }
    }
    if altered != sound {
        let bytes = postcard::to_extend(&altered, vec![FORMAT]).unwrap();
        let mut effect = Effect::default();
        effect.put(REIGN, bytes);
        plan.write(effect)?;
    }
    Ok(())
}

/// Changes sequences behind the rules' back.
fn alter_sequences(plan: &mut Plan, commands: &[Command], results: &mut [Outcome]) -> Result<()> {
    let mut effect = Effect::default();
    for (command, result) in commands.iter().zip(results) {
        let (key, next) = match (plan.flaw, command, &result) {
            (Flaw::SeedsWhatIsThere, Command::Seed(seed), Err(Reject::SequenceExists { .. })) => {
                *result = Ok(Reply::Seeded(seed.start));
                (&seed.key, seed.start)
            }
            (
                Flaw::StartsAgainAfter64Bits,
                Command::Advance(advance),
                Err(Reject::Overflow { .. }),
            ) => (&advance.entries[0].0, 0),
            _ => continue,
        };
        let bytes = postcard::to_extend(&next, vec![FORMAT]).unwrap();
        effect.put(["s", key.as_str()].concat(), bytes);
    }
    if !effect.is_empty() {
        plan.write(effect)?;
    }
    Ok(())
}

fn record(store: &MemoryStore) -> Result<Option<ReignRecord>> {
    match answer(store, &Query::Reign)? {
        Answer::Reign(record) => Ok(record),
        other => panic!("{other:?}"),
    }
}

fn is_advance(command: &Command) -> bool {
    matches!(command, Command::Advance(_))
}

fn starts_a_reign(commands: &[Command]) -> bool {
    commands.iter().any(|command| {
        matches!(command, Command::Fence { .. } | Command::Open { .. } | Command::Init { .. })
    })
}
