//! `SeqStore`, below the driver.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use tsoracle_core::{
    SeqStore,
    state::{Effect, Entry},
};

use crate::rig::Rig;

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
    random_commits_read_as_in_a_sorted_map [Store],
    commits_are_there_when_the_store_is_opened_again [Store],
);

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

async fn random_commits_read_as_in_a_sorted_map(mut rig: Rig) -> Result<()> {
    let mut store = rig.place.store()?;
    let mut model = BTreeMap::new();
    let mut random = Random(7);
    for _ in 0..60 {
        let mut effect = Effect::default();
        for _ in 0..random.below(12) {
            let key = vec![random.below(6) as u8; 1 + random.below(3)];
            match random.below(3) {
                0 => effect.delete(key),
                _ => effect.put(key, vec![random.below(256) as u8; random.below(40)]),
            }
        }
        for (key, value) in effect.clone() {
            match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            }
        }
        store.commit(effect)?;
        let (from, to) = (vec![random.below(6) as u8], vec![random.below(8) as u8, 3]);
        let limit = random.below(9);
        let expected: Vec<Entry> = model
            .iter()
            .filter(|(key, _)| **key >= from && **key < to)
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        ensure!(store.scan(&from, &to, limit)? == expected, "{from:?} to {to:?}, at most {limit}");
    }
    Ok(())
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

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}
