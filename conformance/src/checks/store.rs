//! `SeqStore`, below the driver.

use anyhow::{Result, ensure};
use tsoracle_core::{Effect, Entry, KeyRange, SeqStore};

use super::{MakeFixture, commit::similar_keys};
use crate::{
    Fixture,
    fixture::the,
    model::{END, Entries, Random},
};

checks!("store":
    a_value_is_what_the_last_commit_left [store],
    keys_and_values_may_be_any_bytes [store],
    a_scan_is_ordered_by_key_byte_by_byte [store],
    a_scan_includes_its_start_and_not_its_end [store],
    a_scan_has_the_first_entries_up_to_its_limit [store],
    a_scan_is_empty_if_its_start_is_not_before_its_end [store],
    deleting_a_key_that_does_not_exist_is_no_error [store],
    opening_again_gives_what_the_last_commit_left [store],
    a_commit_of_megabytes_is_there_when_the_store_is_opened_again [store],
);

async fn open(fixture: &Fixture) -> Result<Box<dyn SeqStore>> {
    Ok(the(&fixture.store)?.run(()).await?)
}

fn put(store: &mut dyn SeqStore, entries: &[(&[u8], &[u8])]) -> Result<()> {
    let mut effect = Effect::default();
    entries.iter().for_each(|&(key, value)| effect.put(key, value));
    Ok(store.commit(effect)?)
}

fn keys(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|(key, _)| key.as_slice()).collect()
}

async fn a_value_is_what_the_last_commit_left(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    ensure!(store.get(b"a")?.is_none(), "a key that was never written has a value");
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

async fn keys_and_values_may_be_any_bytes(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    let long = vec![7; 100 << 10];
    let values: [&[u8]; 5] = [b"", &[0], b"\xff\xfe not UTF-8", b"'\"\\%_", &long];
    let keys = similar_keys();
    let entries: Vec<_> = keys.iter().map(Vec::as_slice).zip(values.into_iter().cycle()).collect();
    put(&mut *store, &entries)?;
    for (key, value) in entries {
        let key_text = key.escape_ascii();
        ensure!(store.get(key)?.as_deref() == Some(value), "the value of {key_text} has changed");
    }
    Ok(())
}

async fn a_scan_is_ordered_by_key_byte_by_byte(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    let mut names = similar_keys();
    for name in &names {
        put(&mut *store, &[(name.as_slice(), b"")])?;
    }
    names.sort();
    let found = store.scan(b"", END, usize::MAX)?;
    ensure!(keys(&found) == names, "the order is {:?}", keys(&found));
    Ok(())
}

async fn a_scan_includes_its_start_and_not_its_end(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2"), (b"b\0", b"3"), (b"c", b"4"), (b"d", b"5")])?;
    let found = store.scan(b"b", b"d", 10)?;
    ensure!(keys(&found) == [b"b".as_slice(), b"b\0", b"c"], "found {:?}", keys(&found));
    let found = store.scan(b"aa", b"bb", 10)?;
    ensure!(keys(&found) == [b"b".as_slice(), b"b\0"], "found {:?}", keys(&found));
    Ok(())
}

async fn a_scan_has_the_first_entries_up_to_its_limit(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])?;
    for limit in 0..=3 {
        let found = store.scan(b"a", b"d", limit)?;
        ensure!(keys(&found) == [b"a", b"b", b"c"][..limit], "{limit}: {:?}", keys(&found));
    }
    ensure!(store.scan(b"a", b"d", usize::MAX)?.len() == 3);
    Ok(())
}

async fn a_scan_is_empty_if_its_start_is_not_before_its_end(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    ensure!(store.scan(b"", b"\xff", 10)?.is_empty());
    put(&mut *store, &[(b"a", b"1"), (b"c", b"2")])?;
    ensure!(store.scan(b"b", b"c", 10)?.is_empty());
    ensure!(store.scan(b"a", b"a", 10)?.is_empty());
    ensure!(store.scan(b"c", b"a", 10)?.is_empty());
    Ok(())
}

async fn deleting_a_key_that_does_not_exist_is_no_error(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    let mut effect = Effect::default();
    effect.delete("missing");
    effect.put("there", "1");
    store.commit(effect)?;
    ensure!(store.get(b"there")?.as_deref() == Some(&b"1"[..]));
    store.commit(Effect::default())?;
    Ok(())
}

async fn opening_again_gives_what_the_last_commit_left(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let mut store = open(&fixture).await?;
    put(&mut *store, &[(b"a", b"1"), (b"b", b"2")])?;
    let mut effect = Effect::default();
    effect.delete("a");
    effect.put("c", "3");
    store.commit(effect)?;
    drop(store);
    let found = open(&fixture).await?.scan(b"", b"\xff", 10)?;
    ensure!(keys(&found) == [b"b", b"c"], "found {:?}", keys(&found));
    Ok(())
}

async fn a_commit_of_megabytes_is_there_when_the_store_is_opened_again(
    make: MakeFixture,
) -> Result<()> {
    let (fixture, mut entries) = (make(), Entries::default());
    let mut random = Random::new(1);
    let mut first = Effect::default();
    first.put("a/one", random.bytes(2 << 20));
    for length in [0, 1, (1 << 16) - 1, 1 << 16, (1 << 16) + 1] {
        first.put(format!("a/length {length}"), random.bytes(length));
    }
    // Most of it goes again, and the store goes on.
    let mut second = Effect::default();
    second.put("a/one", "");
    for number in 0..5_000 {
        first.put(format!("a/{number}"), number.to_string());
        first.delete(format!("a/missing {number}"));
        if number < 4_990 {
            second.delete(format!("a/{number}"));
        }
    }
    for effect in [first, second] {
        entries.write(&effect);
        open(&fixture).await?.commit(effect)?;
        let store = open(&fixture).await?;
        let everything = KeyRange { from: vec![], to: END.into(), limit: usize::MAX };
        let found = store.scan(&everything.from, &everything.to, everything.limit)?;
        entries.expect_range(&everything, &found)?;
        for (key, value) in found {
            entries.expect(&key, store.get(&key)?.filter(|found| *found == value).as_deref())?;
        }
    }
    Ok(())
}
