//! `SeqStore`, below the driver.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tsoracle_core::{Clock, Effect, Entry, KeyRange, SeqStore, SystemClock};

use crate::{
    Ability,
    model::{self, END, Entries, Random, SEED},
    rig::Rig,
};

checks!("store":
    a_key_that_was_never_written_has_no_value [Store],
    a_value_is_what_the_last_commit_left [Store],
    keys_and_values_may_be_any_bytes [Store],
    a_scan_is_ordered_by_key_byte_by_byte [Store],
    a_scan_includes_its_start_and_not_its_end [Store],
    a_scan_ends_at_its_limit [Store],
    a_scan_of_nothing_is_empty [Store],
    deleting_what_does_not_exist_is_no_error [Store],
    many_writes_are_one_commit [Store],
    random_commits_and_restarts_agree_with_a_sorted_map [Store],
    a_commit_of_megabytes_is_there_when_the_store_is_opened_again [Store],
    commits_are_there_when_the_store_is_opened_again [Store],
);

/// How many steps a random walk takes, unless told otherwise, and how long about.
const STEPS: u64 = 200;
const BUDGET: Duration = Duration::from_secs(2);

fn put(store: &mut dyn SeqStore, entries: &[(&[u8], &[u8])]) -> Result<()> {
    let mut effect = Effect::default();
    entries.iter().for_each(|&(key, value)| effect.put(key, value));
    Ok(store.commit(effect)?)
}

fn keys(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|(key, _)| key.as_slice()).collect()
}

async fn a_key_that_was_never_written_has_no_value(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    ensure!(store.get(b"missing")?.is_none());
    put(&mut *store, &[(b"there", b"1")])?;
    ensure!(store.get(b"missing")?.is_none());
    ensure!(store.get(b"ther")?.is_none());
    Ok(())
}

async fn a_value_is_what_the_last_commit_left(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"1")])?;
    put(&mut *store, &[(b"a", b"2")])?;
    ensure!(store.get(b"a")?.as_deref() == Some(&b"2"[..]), "an overwritten value is still there");
    let mut effect = Effect::default();
    effect.delete("a");
    effect.put("b", "3");
    store.commit(effect)?;
    ensure!(store.get(b"a")?.is_none(), "a deleted key is still there");
    ensure!(store.get(b"b")?.as_deref() == Some(&b"3"[..]));
    let found = store.scan(b"", b"\xff", 10)?;
    ensure!(found == [(b"b".to_vec(), b"3".to_vec())], "a scan does not find the same: {found:?}");
    Ok(())
}

async fn keys_and_values_may_be_any_bytes(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    let long = vec![7; 100_000];
    let entries: [(&[u8], &[u8]); 6] = [
        (&[0], b""),
        (&[0, 0], &[0]),
        (b"k\0", b"\xff\xfe not UTF-8"),
        (b"'; --", b"'\"\\%_"),
        (&[0xfe; 300], &long),
        (&[0xff, 0xff], b"high"),
    ];
    put(&mut *store, &entries)?;
    for (key, value) in entries {
        let key_text = key.escape_ascii();
        ensure!(store.get(key)?.as_deref() == Some(value), "the value of {key_text} has changed");
    }
    Ok(())
}

async fn a_scan_is_ordered_by_key_byte_by_byte(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    let mut names: Vec<Vec<u8>> = vec![
        vec![0x7f],
        vec![0x80],
        vec![0xff],
        b"a".into(),
        b"B".into(),
        b"ab".into(),
        b"a\0".into(),
        b"10".into(),
        b"9".into(),
        "é".into(),
        vec![0],
        vec![1, 0xff],
    ];
    for name in &names {
        put(&mut *store, &[(name.as_slice(), b"")])?;
    }
    names.sort();
    let found = store.scan(b"", &[0xff; 4], usize::MAX)?;
    ensure!(keys(&found) == names, "the order is {:?}", keys(&found));
    Ok(())
}

async fn a_scan_includes_its_start_and_not_its_end(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2"), (b"b\0", b"3"), (b"c", b"4"), (b"d", b"5")])?;
    let found = store.scan(b"b", b"d", 10)?;
    ensure!(keys(&found) == [b"b".as_slice(), b"b\0", b"c"], "found {:?}", keys(&found));
    let found = store.scan(b"aa", b"bb", 10)?;
    ensure!(keys(&found) == [b"b".as_slice(), b"b\0"], "found {:?}", keys(&found));
    Ok(())
}

async fn a_scan_ends_at_its_limit(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])?;
    for limit in 0..=3 {
        let found = store.scan(b"a", b"d", limit)?;
        ensure!(keys(&found) == [b"a", b"b", b"c"][..limit], "{limit}: {:?}", keys(&found));
    }
    ensure!(store.scan(b"a", b"d", usize::MAX)?.len() == 3);
    Ok(())
}

async fn a_scan_of_nothing_is_empty(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    ensure!(store.scan(b"", b"\xff", 10)?.is_empty());
    put(&mut *store, &[(b"a", b"1"), (b"c", b"2")])?;
    ensure!(store.scan(b"b", b"c", 10)?.is_empty());
    ensure!(store.scan(b"a", b"a", 10)?.is_empty());
    ensure!(store.scan(b"c", b"a", 10)?.is_empty());
    Ok(())
}

async fn deleting_what_does_not_exist_is_no_error(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    let mut effect = Effect::default();
    effect.delete("missing");
    effect.put("there", "1");
    store.commit(effect)?;
    ensure!(store.get(b"there")?.as_deref() == Some(&b"1"[..]));
    store.commit(Effect::default())?;
    Ok(())
}

async fn many_writes_are_one_commit(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    let mut effect = Effect::default();
    for index in 0..5_000_u32 {
        effect.put(index.to_be_bytes(), index.to_le_bytes());
    }
    store.commit(effect)?;
    let found = store.scan(&[], &[0xff; 5], usize::MAX)?;
    ensure!(found.len() == 5_000, "{} of 5000 are there", found.len());
    Ok(())
}

async fn random_commits_and_restarts_agree_with_a_sorted_map(rig: Rig) -> Result<()> {
    let harness = rig.harness.clone();
    drop(rig);
    for seed in model::seeds()? {
        let mut trial = Trial::open(Rig::new(harness.clone()).await?, seed)?;
        let begun = SystemClock.now().boot;
        for step in 0..model::steps().unwrap_or(STEPS) {
            if model::steps().is_none() && SystemClock.now().boot.since(begun) > BUDGET {
                break;
            }
            trial.step().await.with_context(|| format!("step {step}; {SEED}={seed} repeats it"))?;
        }
        trial.compare().with_context(|| format!("at the end; {SEED}={seed} repeats it"))?;
    }
    Ok(())
}

/// A store, and the map that it is compared with.
struct Trial {
    rig: Rig,
    random: Random,
    entries: Entries,
    store: Option<Box<dyn SeqStore>>,
    /// What has crashed is not dropped before the check has ended.
    crashed: Vec<Box<dyn SeqStore>>,
}

impl Trial {
    fn open(mut rig: Rig, seed: u64) -> Result<Self> {
        let store = Some(rig.place.store()?);
        let (entries, crashed) = Default::default();
        Ok(Self { rig, random: Random::new(seed), entries, store, crashed })
    }

    fn store(&mut self) -> &mut dyn SeqStore {
        &mut **self.store.as_mut().expect("a store is open between restarts")
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.below(40) {
            0 => self.reopen(),
            1 if self.can(Ability::Crash) => {
                self.rig.place.crash().await?;
                self.crashed.extend(self.store.take());
                self.reopen()
            }
            2 if self.can(Ability::LosePower) => {
                self.rig.place.lose_power().await?;
                self.crashed.extend(self.store.take());
                self.reopen()
            }
            3..=24 => {
                let effect = model::effect(&mut self.random, &self.entries);
                self.commit(effect)
            }
            _ => {
                let reads = model::reads(&mut self.random);
                for key in &reads.keys {
                    let found = self.store().get(key)?;
                    self.entries.expect(key, found.as_deref())?;
                }
                for range in &reads.ranges {
                    let found = self.store().scan(&range.from, &range.to, range.limit)?;
                    self.entries.expect_range(range, &found)?;
                }
                Ok(())
            }
        }
    }

    fn can(&self, ability: Ability) -> bool {
        self.rig.harness.lacks(ability).is_none()
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.entries.write(&effect);
        Ok(self.store().commit(effect)?)
    }

    fn reopen(&mut self) -> Result<()> {
        self.store = None;
        self.store = Some(self.rig.place.store()?);
        self.compare().context("after a restart")
    }

    /// Compares all entries, and then each by itself.
    fn compare(&mut self) -> Result<()> {
        let everything = KeyRange { from: vec![], to: END.into(), limit: usize::MAX };
        let found = self.store().scan(&everything.from, &everything.to, everything.limit)?;
        self.entries.expect_range(&everything, &found)?;
        for (key, _) in found {
            let value = self.store().get(&key)?;
            self.entries.expect(&key, value.as_deref())?;
        }
        Ok(())
    }
}

async fn a_commit_of_megabytes_is_there_when_the_store_is_opened_again(rig: Rig) -> Result<()> {
    let mut trial = Trial::open(rig, 1)?;
    let mut effect = Effect::default();
    effect.put("a/one", trial.random.bytes(2 << 20));
    for length in [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1] {
        effect.put(format!("a/length {length}"), trial.random.bytes(length));
    }
    for number in 0..5_000 {
        effect.put(format!("a/{number}"), number.to_string());
        effect.delete(format!("a/missing {number}"));
    }
    trial.commit(effect)?;
    trial.reopen()?;
    // Most of it goes again, and the store goes on.
    let mut effect = Effect::default();
    (0..4_990).for_each(|number| effect.delete(format!("a/{number}")));
    effect.put("a/one", "");
    trial.commit(effect)?;
    trial.reopen()
}

async fn commits_are_there_when_the_store_is_opened_again(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2")])?;
    let mut effect = Effect::default();
    effect.delete("a");
    effect.put("c", "3");
    store.commit(effect)?;
    drop(store);
    let found = rig.place.store()?.scan(b"", b"\xff", 10)?;
    ensure!(keys(&found) == [b"b", b"c"], "found {:?}", keys(&found));
    Ok(())
}
