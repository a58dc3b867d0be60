//! What a commit comes to: by the rules of the core, or by one rule less.

use std::num::NonZeroU64;

use tsoracle_core::{
    Committed, Epoch, Error, ErrorKind, MemoryStore, Reject, Result, SeqStore,
    state::{Answer, Command, Effect, Query, ReignRecord, Reply, Stage, answer, apply},
};

use crate::{flaw::Flaw, shared::State};

type Outcome = std::result::Result<Reply, Reject>;

/// Where the core keeps the reign record, and how it begins.
const REIGN: &[u8] = b"r";
const FORMAT: u8 = 1;

/// Commits to the shared state.
pub(crate) fn commit(
    state: &mut State,
    index: usize,
    epoch: Epoch,
    commands: &[Command],
) -> Result<Committed> {
    let epoch = match state.flaw {
        Some(Flaw::IgnoresTheEpoch) if !starts_a_reign(commands) => {
            reigning(&state.store)?.unwrap_or(epoch)
        }
        _ => epoch,
    };
    let misread: Vec<_> = commands.iter().map(|command| misread(state.flaw, command)).collect();
    let commands = misread.as_slice();
    let (mut results, effect) = worked_out(state, index, epoch, commands)?;
    if state.is(Flaw::LimitsTheWritesOfACommit) && effect.iter().count() > 128 {
        return Err(Error::new(ErrorKind::Unavailable, "more than 128 writes at once"));
    }
    let before = record(&state.store)?;
    let fences = matches!(commands.first(), Some(Command::Fence { .. }));
    let replaced_seen = fences.then_some(match state.flaw {
        Some(Flaw::TakesAnyWriteForEvidence) => state.members[index].opened,
        _ => state.reign_written,
    });
    if effect.iter().any(|(key, _)| key == REIGN) {
        state.reign_written = tsoracle_core::Clock::now(&tsoracle_core::SystemClock).boot;
    }
    if !effect.is_empty() {
        state.write(effect)?;
    }
    alter_record(state, before, commands, &mut results)?;
    alter_sequences(state, commands, &mut results)?;
    if state.is(Flaw::ReversesResults) && commands.iter().all(is_advance) {
        results.reverse();
    }
    Ok(Committed { results, replaced_seen })
}

/// What a flaw makes of a command before it is worked out.
fn misread(flaw: Option<Flaw>, command: &Command) -> Command {
    let mut command = command.clone();
    if let Command::Advance(advance) = &mut command {
        match (flaw, &mut advance.id) {
            (Some(Flaw::TakesRetriesForNewRequests), Some(id)) => id.retry = false,
            (Some(Flaw::KeepsAnswersForEver), Some(id)) => id.first_incomplete = NonZeroU64::MIN,
            (Some(Flaw::AppliesItsOwnCapOfSessions), _) => advance.limits.sessions = u64::MAX,
            (Some(Flaw::AppliesItsOwnCapOfOpenRequests), _) => {
                advance.limits.open_requests = u64::MAX;
            }
            (Some(Flaw::SortsTheKeysOfARequest), _) => advance.entries.sort(),
            _ => {}
        }
    }
    command
}

/// Commits to a state that nobody else sees.
pub(crate) fn commit_alone(
    store: &mut MemoryStore,
    epoch: Epoch,
    commands: &[Command],
) -> Result<Committed> {
    let (results, effect) = apply(store, epoch, commands)?;
    store.commit(effect)?;
    Ok(Committed { results, replaced_seen: None })
}

/// Works a commit out now, to be written behind the next one.
pub(crate) fn commit_late(state: &mut State, epoch: Epoch, commands: &[Command]) -> Result<()> {
    let (_, effect) = apply(&state.store, epoch, commands)?;
    state.late.merge(effect);
    Ok(())
}

/// The epoch on record.
pub(crate) fn reigning(store: &MemoryStore) -> Result<Option<Epoch>> {
    Ok(record(store)?.map(|record| record.epoch))
}

fn worked_out(
    state: &State,
    index: usize,
    epoch: Epoch,
    commands: &[Command],
) -> Result<(Vec<Outcome>, Effect)> {
    let fences = matches!(commands.first(), Some(Command::Fence { .. }));
    let store = match state.flaw {
        Some(Flaw::FencesFromAnEarlierRead) if fences => &state.members[index].opened_over,
        _ => &state.store,
    };
    let (mut results, mut effect) = apply(store, epoch, commands)?;
    match state.flaw {
        Some(Flaw::FailsABatchAsAWhole) => {
            if let Some(Err(reject)) = results.iter().find(|result| result.is_err()).cloned() {
                results.fill(Err(reject));
                effect = Effect::default();
            }
        }
        Some(Flaw::WorksABatchOutFromTheStateBefore) if commands.iter().all(is_advance) => {
            (results, effect) = Default::default();
            for command in commands {
                let (result, writes) = apply(store, epoch, std::slice::from_ref(command))?;
                results.extend(result);
                effect.merge(writes);
            }
        }
        Some(Flaw::AdvancesOneKeyOfAFailedBatch) => {
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
        Some(Flaw::ReleasesInWordsOnly) if matches!(commands, [Command::Release]) => {
            effect = Effect::default();
        }
        Some(Flaw::SpendsBlocksOfRefusedRequests) => {
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
    state: &mut State,
    before: Option<ReignRecord>,
    commands: &[Command],
    results: &mut [Outcome],
) -> Result<()> {
    let Some(mut altered) = record(&state.store)? else { return Ok(()) };
    let sound = altered.clone();
    for (command, result) in commands.iter().zip(results) {
        match (state.flaw, command, &mut *result) {
            (
                Some(Flaw::RewritesTheHighWater),
                Command::Extend { high_water_ms, .. },
                Ok(Reply::Extended { high_water_ms: answered }),
            ) => {
                altered.high_water_ms = *high_water_ms;
                *answered = *high_water_ms;
            }
            (
                Some(Flaw::StoresWhatIsOutOfRange),
                Command::Extend { high_water_ms, .. },
                Err(Reject::OutOfRange { .. }),
            ) => altered.high_water_ms = *high_water_ms,
            (Some(Flaw::FencesWithItsOwnLease), Command::Fence { lease_ms, .. }, Ok(_)) => {
                altered.lease_ms = *lease_ms;
            }
            (Some(Flaw::ForgetsTheReleaseInAFence), Command::Fence { .. }, Ok(_)) => {
                altered.released = false;
            }
            (
                Some(Flaw::FencesFromTheClock),
                Command::Fence { now_ms, headroom_ms, .. },
                Ok(Reply::Fenced { floor_ms, high_water_ms, .. }),
            ) => {
                (*floor_ms, *high_water_ms) = (*now_ms, now_ms + headroom_ms);
                altered.high_water_ms = *high_water_ms;
            }
            (
                Some(Flaw::FencesWithoutTheRecord),
                Command::Fence { .. },
                Ok(Reply::Fenced { replaced, .. }),
            ) => *replaced = None,
            (Some(Flaw::OpensWithTheFence), Command::Fence { .. }, Ok(_)) => {
                altered.stage = Stage::Open;
            }
            (Some(Flaw::StaysReleasedWhenOpened), Command::Open { .. }, Ok(_)) => {
                altered.released = before.as_ref().is_some_and(|before| before.released);
            }
            (Some(Flaw::LeavesTheHighWaterBelowBounds), Command::Lease { .. }, Ok(_)) => {
                altered.high_water_ms =
                    before.as_ref().map_or(altered.high_water_ms, |before| before.high_water_ms);
            }
            (
                Some(Flaw::PushesTheHighWaterOnWithEachLease),
                Command::Lease { .. },
                Ok(Reply::Leased(_)),
            ) => altered.high_water_ms += 1_000,
            (Some(Flaw::StartsSessionTimeAnew), Command::Fence { .. }, Ok(_)) => {
                (altered.session_ms, altered.session_base_ms) = (0, 0);
            }
            _ => {}
        }
    }
    if altered != sound {
        let bytes = postcard::to_extend(&altered, vec![FORMAT]).unwrap();
        let mut effect = Effect::default();
        effect.put(REIGN, bytes);
        state.write(effect)?;
    }
    Ok(())
}

/// Changes sequences behind the rules' back.
fn alter_sequences(state: &mut State, commands: &[Command], results: &mut [Outcome]) -> Result<()> {
    let mut effect = Effect::default();
    for (command, result) in commands.iter().zip(results) {
        let (key, next) = match (state.flaw, command, &result) {
            (
                Some(Flaw::SeedsWhatIsThere),
                Command::Seed(seed),
                Err(Reject::SequenceExists { .. }),
            ) => {
                *result = Ok(Reply::Seeded(seed.start));
                (&seed.key, seed.start)
            }
            (
                Some(Flaw::StartsAgainAfter64Bits),
                Command::Advance(advance),
                Err(Reject::Overflow { .. }),
            ) => (&advance.entries[0].0, 0),
            _ => continue,
        };
        let bytes = postcard::to_extend(&next, vec![FORMAT]).unwrap();
        effect.put(["s", key.as_str()].concat(), bytes);
    }
    if !effect.is_empty() {
        state.write(effect)?;
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
