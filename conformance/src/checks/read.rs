//! `read`: keys and ranges, all as of one version, and never older than what was known before.

use anyhow::{Result, ensure};
use tsoracle_core::{Effect, KeyRange, Reads};

use super::{
    MakeFixture,
    commit::{alike, similar_keys},
};
use crate::model::{Answer, END, Walk, read, send};

checks!("read":
    a_read_is_of_one_version,
    a_read_is_never_older_than_what_was_read_or_stored_before,
    every_read_after_a_commit_sees_its_writes,
    a_read_has_a_value_for_each_key_in_the_order_asked_for,
    a_range_has_its_first_entries_ordered_by_key_byte_by_byte,
    a_range_ends_before_its_end_and_at_its_limit,
);

/// Commits through the first driver, with reads of all keys and of their range before, meanwhile and after.
async fn commit_and_read(walk: &mut Walk, round: usize) -> Result<()> {
    walk.settle().await?;
    let leader = walk.leader().await?;
    let commit = walk.prepare(&alike(&round.to_string()));
    let mut reads = Reads::keys(commit.effect.iter().map(|(key, _)| key));
    reads.ranges = vec![range(b"a", b"b", 9), range(b"b", b"zz", 9)];
    let driver = walk.nodes[leader].driver.clone();
    let not_before = walk.nodes[leader].at();
    let reading = async {
        let mut found = vec![];
        for _ in 0..6 {
            found.push(read(&*driver, &reads).await?);
            tokio::task::yield_now().await;
        }
        anyhow::Ok(found)
    };
    let (answer, found) = futures::join!(send(&*driver, &commit), reading);
    match answer? {
        Answer::Conflict(found) => anyhow::bail!("a single commit conflicts with {found:?}"),
        Answer::Refused => walk.lose(&commit),
        Answer::Stored => {
            walk.doubt(commit.clone());
            walk.land(commit.next)?;
        }
        Answer::Uncertain => walk.doubt(commit),
    }
    let mut at = not_before;
    for found in found?.into_iter().flatten() {
        walk.judge(leader, at, &reads, &found)?;
        at = found.version.position();
    }
    Ok(())
}

async fn a_read_is_of_one_version(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
    for round in 0..30 {
        commit_and_read(&mut walk, round).await?;
    }
    Ok(())
}

async fn a_read_is_never_older_than_what_was_read_or_stored_before(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    for round in 0..30 {
        walk.commit(&alike(&round.to_string())).await?;
        for _ in 0..2 {
            let leader = walk.leader().await?;
            walk.read(leader, &Reads::keys(["a", "z"])).await?;
        }
    }
    Ok(())
}

async fn every_read_after_a_commit_sees_its_writes(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    for round in 0..30 {
        let commit = walk.commit(&alike(&round.to_string())).await?;
        let leader = walk.leader().await?;
        // Of each write by itself, and of none.
        let keys = commit.effect.iter().map(|(key, _)| Reads::keys([key]));
        for reads in keys.chain([Reads::default()]) {
            let found = walk.read(leader, &reads).await?;
            let is_there = found.is_none_or(|found| found.position() >= commit.next.position());
            ensure!(is_there, "{:?} was stored, and a read is of {found:?}", commit.next);
        }
    }
    Ok(())
}

async fn a_read_has_a_value_for_each_key_in_the_order_asked_for(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    walk.commit(&alike("1")).await?;
    let leader = walk.leader().await?;
    for keys in
        [&["z", "a", "b"][..], &["missing", "a", "a", "missing"], &["ab", "abc", "a\0"], &[]]
    {
        walk.read(leader, &Reads::keys(keys.iter().copied())).await?;
    }
    Ok(())
}

fn range(from: &[u8], to: &[u8], limit: usize) -> KeyRange {
    KeyRange { from: from.into(), to: to.into(), limit }
}

async fn a_range_has_its_first_entries_ordered_by_key_byte_by_byte(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    let mut effect = Effect::default();
    similar_keys().iter().for_each(|key| effect.put(key, ""));
    walk.commit(&effect).await?;
    let leader = walk.leader().await?;
    for limit in [1, 2, 7, 20, 500] {
        let ranges =
            vec![range(b"", END, limit), range(b"a", END, limit), range(b"\x7f", END, limit)];
        walk.read(leader, &Reads { ranges, ..Reads::default() }).await?;
    }
    Ok(())
}

async fn a_range_ends_before_its_end_and_at_its_limit(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 6).await?;
    let mut effect = Effect::default();
    ["a", "b", "b\0", "bb", "c", "d"].iter().for_each(|&key| effect.put(key, key));
    walk.commit(&effect).await?;
    let leader = walk.leader().await?;
    for (from, to) in [("a", "d"), ("b", "c"), ("aa", "bb"), ("a", "b\0"), ("a", "e")] {
        // Below, at and above what is there: a page that is not full says that there is no more.
        let ranges = (0..8).map(|limit| range(from.as_bytes(), to.as_bytes(), limit)).collect();
        walk.read(leader, &Reads { ranges, ..Reads::default() }).await?;
    }
    let nothing = [("b", "b"), ("c", "a"), ("e", "f"), ("bbb", "c")];
    let ranges = nothing.map(|(from, to)| range(from.as_bytes(), to.as_bytes(), 9)).into();
    walk.read(leader, &Reads { ranges, ..Reads::default() }).await?;
    Ok(())
}
