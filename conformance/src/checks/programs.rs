//! Random programs of requests to an oracle over the driver, beside a model of what each must be answered.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use tsoracle_core::{ErrorKind, Oracle, Reject, RequestName, SeqBlock, SeqKey, SeqRequest};

use super::MakeFixture;
use crate::{
    Fixture,
    model::{Random, SEED, seeds},
    oracles::{NOON_MS, clock, oracle, pass},
};

checks!("oracle":
    names_and_deleted_sequences_are_as_a_model_says_over_restarts [reopens],
);

/// How often the oracle is started, and how many requests it then gets.
const ROUNDS: usize = 4;
const REQUESTS: usize = 30;

const KEYS: [&str; 3] = ["orders", "invoices", "a'; --"];
const NAMES: usize = 8;

/// What a request asks of each sequence.
type Entries = Vec<(SeqKey, u32)>;

/// What the requests so far must have led to.
#[derive(Default)]
struct Model {
    /// Per sequence that exists, where its next block starts.
    next: BTreeMap<SeqKey, u64>,
    /// Per name, the request and its blocks.
    named: BTreeMap<usize, (Entries, Vec<SeqBlock>)>,
}

async fn names_and_deleted_sequences_are_as_a_model_says_over_restarts(
    make: MakeFixture,
) -> Result<()> {
    for seed in seeds()? {
        let ran = run(&make(), seed).await;
        ran.with_context(|| format!("{SEED}={seed} repeats it"))?;
    }
    Ok(())
}

async fn run(fixture: &Fixture, seed: u64) -> Result<()> {
    let (mut random, mut model, clock) = (Random::new(seed), Model::default(), clock(NOON_MS));
    for _ in 0..ROUNDS {
        let oracle = oracle(fixture.open.run(()).await?, &clock)?;
        // The node may have to wait for the lease of the one that crashed.
        while oracle.try_get_ts(1)?.is_none() {
            pass(&clock, &oracle).await;
        }
        for _ in 0..REQUESTS {
            model.step(&oracle, &mut random).await?;
        }
        end(fixture, oracle, &mut random).await?;
    }
    Ok(())
}

/// Ends the oracle one way or another.
async fn end(fixture: &Fixture, oracle: Oracle, random: &mut Random) -> Result<()> {
    match &fixture.crash {
        Some(crash) if random.one_in(2) => {
            crash.run(()).await?;
            // It would ask its driver to stop.
            std::mem::forget(oracle);
        }
        _ => oracle.shutdown().await?,
    }
    Ok(())
}

impl Model {
    async fn step(&mut self, oracle: &Oracle, random: &mut Random) -> Result<()> {
        let key = SeqKey::new(*random.pick(&KEYS))?;
        match random.below(10) {
            0..=4 => self.ask_by_name(oracle, random).await,
            5 | 6 => {
                let entries = vec![(key, 1 + random.below(9) as u32)];
                let granted = oracle.get_seq(SeqRequest::new(entries.clone(), None)?).await?;
                self.take(&entries, &granted.blocks)
            }
            7 => self.delete(oracle, key).await,
            8 => self.seed(oracle, key, random.below(1_000) as u64).await,
            _ => {
                let (found, expected) = (oracle.read_seq(key.clone()).await?, self.next.get(&key));
                ensure!(found.as_ref() == expected, "{key} is at {found:?}, not at {expected:?}");
                Ok(())
            }
        }
    }

    /// The same name again: the same blocks. With another request it is refused.
    async fn ask_by_name(&mut self, oracle: &Oracle, random: &mut Random) -> Result<()> {
        let name = random.below(NAMES);
        let mut entries = vec![];
        for key in KEYS {
            if random.one_in(2) {
                continue;
            }
            entries.push((SeqKey::new(key)?, 1 + random.below(9) as u32));
        }
        match self.named.get(&name) {
            Some((before, _)) if !random.one_in(3) => entries = before.clone(),
            _ if entries.is_empty() => entries.push((SeqKey::new(KEYS[0])?, 1)),
            _ => {}
        }
        let text = RequestName::new(&format!("order {name}"))?;
        let answer = oracle.get_seq(SeqRequest::named(entries.clone(), text)?).await;
        match (answer, self.named.get(&name)) {
            (Ok(granted), None) => {
                self.take(&entries, &granted.blocks)?;
                self.named.insert(name, (entries, granted.blocks));
            }
            (Ok(granted), Some((before, blocks))) => {
                ensure!(*before == entries, "name {name} was used for {before:?}, and is answered");
                ensure!(
                    granted.blocks == *blocks,
                    "the request of name {name} got {blocks:?}, and now {:?}",
                    granted.blocks
                );
            }
            (Err(error), Some((before, _)))
                if *before != entries
                    && *error.kind() == ErrorKind::Rejected(Reject::NameReused) => {}
            (Err(error), before) => bail!("name {name}, used for {before:?}: {error:#}"),
        }
        Ok(())
    }

    /// What was granted follows on what was granted before, or begins a sequence.
    fn take(&mut self, entries: &[(SeqKey, u32)], blocks: &[SeqBlock]) -> Result<()> {
        ensure!(entries.len() == blocks.len(), "{entries:?} are answered {blocks:?}");
        for ((key, count), block) in entries.iter().zip(blocks) {
            let next = self.next.entry(key.clone()).or_default();
            let is_right = (&block.key, block.start, block.count) == (key, *next, *count);
            ensure!(is_right, "{key} is at {next}, and {block:?} was granted");
            *next += u64::from(*count);
        }
        Ok(())
    }

    async fn delete(&mut self, oracle: &Oracle, key: SeqKey) -> Result<()> {
        match (oracle.delete_seq(key.clone()).await, self.next.remove(&key)) {
            (Ok((found, _)), Some(next)) => {
                ensure!(found == next, "{key} was at {next}, and deleted at {found}");
                Ok(())
            }
            (Err(error), None) => match error.kind() {
                ErrorKind::Rejected(Reject::SequenceUnknown { .. }) => Ok(()),
                _ => Err(error.into()),
            },
            (answer, next) => bail!("{key} is at {next:?}, and deleting it is answered {answer:?}"),
        }
    }

    async fn seed(&mut self, oracle: &Oracle, key: SeqKey, start: u64) -> Result<()> {
        match (oracle.seed_seq(key.clone(), start).await, self.next.get(&key)) {
            (Ok((found, _)), None) => {
                ensure!(found == start, "{key} is seeded with {start}, and begins at {found}");
                self.next.insert(key, start);
                Ok(())
            }
            (Err(error), Some(&next)) => match error.kind() {
                ErrorKind::Rejected(Reject::SequenceExists { next: found, .. })
                    if *found == next =>
                {
                    Ok(())
                }
                _ => Err(error.into()),
            },
            (answer, next) => bail!("{key} is at {next:?}, and seeding it is answered {answer:?}"),
        }
    }
}
