//! Listing sequences in pages, and seeding them.

use anyhow::{Result, bail, ensure};
use tsoracle_core::{
    Reject,
    state::{Answer, Command, Limits, Query, Reply, Seed},
};

use crate::rig::{Leader, Rig, advance, key};

checks!("listing":
    a_listing_is_in_the_byte_order_of_the_keys,
    a_listing_names_only_what_begins_with_its_prefix,
    pages_together_name_every_sequence_once,
    pages_name_everything_once_while_others_write,
    a_page_is_read_as_of_one_moment,
    a_listing_is_the_same_after_a_reopen [Reopen],
    a_seeded_sequence_starts_at_its_seed,
    a_seed_survives_a_reopen [Reopen],
    a_sequence_that_is_there_cannot_be_seeded,
    a_seed_counts_under_the_cap_of_keys,
    a_sequence_ends_with_64_bits,
    a_request_that_would_overflow_one_key_advances_none,
);

/// A page: names, with the next value of each.
async fn page(
    leader: &Leader,
    prefix: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<(String, u64)>> {
    let query = Query::Sequences { prefix: prefix.into(), after: after.into(), limit };
    match leader.driver.read(query).await? {
        Answer::Sequences(entries) => {
            ensure!(entries.len() <= limit, "{limit} were asked for, {} came", entries.len());
            Ok(entries.into_iter().map(|(key, next)| (key.into(), next)).collect())
        }
        other => bail!("a list was answered {other:?}"),
    }
}

/// Adds the page that follows on `names`. False if it is empty.
async fn turn_page(
    leader: &Leader,
    prefix: &str,
    limit: usize,
    names: &mut Vec<String>,
) -> Result<bool> {
    let after = names.last().cloned().unwrap_or_default();
    let page = page(leader, prefix, &after, limit).await?;
    let more = !page.is_empty();
    names.extend(page.into_iter().map(|(name, _)| name));
    Ok(more)
}

async fn use_all(leader: &Leader, names: &[&str]) -> Result<()> {
    for name in names {
        leader.take(name, 2).await?;
    }
    Ok(())
}

async fn a_listing_is_in_the_byte_order_of_the_keys(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let mut names = ["b", "a", "ab", "B", "é", "z", "a\0", "10", "9", "\u{10ffff}"];
    use_all(&leader, &names).await?;
    names.sort_unstable();
    let found = page(&leader, "", "", 100).await?;
    let expected: Vec<_> = names.iter().map(|name| ((*name).to_owned(), 2)).collect();
    ensure!(found == expected, "{found:?}");
    Ok(())
}

async fn a_listing_names_only_what_begins_with_its_prefix(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    use_all(&leader, &["a", "ab", "ab/1", "ab/2", "abc", "b", "AB"]).await?;
    for (prefix, expected) in [
        ("ab", &["ab", "ab/1", "ab/2", "abc"][..]),
        ("ab/", &["ab/1", "ab/2"]),
        ("b", &["b"]),
        ("c", &[]),
        ("", &["AB", "a", "ab", "ab/1", "ab/2", "abc", "b"]),
    ] {
        let found = page(&leader, prefix, "", 100).await?;
        let found: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        ensure!(found == expected, "{prefix:?}: {found:?}");
    }
    Ok(())
}

/// Names of sequences, of which each page holds a few.
fn many() -> Vec<String> {
    (0..50).map(|number| format!("key {number:03}")).collect()
}

async fn use_many(leader: &Leader) -> Result<Vec<String>> {
    let names = many();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    leader.done(advance(&entries)).await?;
    Ok(names)
}

async fn pages_together_name_every_sequence_once(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let expected = use_many(&leader).await?;
    leader.take("other", 1).await?;
    for limit in [1, 7, 50, 51] {
        let mut found = vec![];
        while turn_page(&leader, "key ", limit, &mut found).await? {}
        ensure!(found == expected, "in pages of {limit}: {found:?}");
    }
    Ok(())
}

async fn pages_name_everything_once_while_others_write(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let there_before = use_many(&leader).await?;
    let (mut found, mut number) = (vec![], 0);
    while turn_page(&leader, "", 7, &mut found).await? {
        // Before and behind where the listing is.
        leader.take(&format!("a {number}"), 1).await?;
        leader.take(&format!("key {number:03} more"), 1).await?;
        leader.take(&there_before[number], 3).await?;
        number += 1;
    }
    ensure!(found.is_sorted_by(|a, b| a < b), "not in order, or twice: {found:?}");
    let missing = there_before.iter().find(|name| !found.contains(name));
    ensure!(missing.is_none(), "{missing:?} was there all the time, and is not listed");
    Ok(())
}

async fn a_page_is_read_as_of_one_moment(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.done(advance(&[("a", 1), ("b", 1)])).await?;
    let committing = tokio::spawn({
        let leader = leader.clone();
        async move {
            for _ in 0..30 {
                leader.commit(vec![advance(&[("a", 1)]), advance(&[("b", 1)])]).await?;
            }
            anyhow::Ok(())
        }
    });
    while !committing.is_finished() {
        let found = page(&leader, "", "", 10).await?;
        ensure!(found.len() == 2 && found[0].1 == found[1].1, "a batch in part: {found:?}");
        tokio::task::yield_now().await;
    }
    committing.await?
}

async fn a_listing_is_the_same_after_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    use_many(&leader).await?;
    let before = page(&leader, "", "", 100).await?;
    let leader = rig.reign_again(leader).await?;
    let after = page(&leader, "", "", 100).await?;
    ensure!(before == after, "{before:?}, and then {after:?}");
    Ok(())
}

fn seed(name: &str, start: u64, keys: u64) -> Command {
    let limits = Limits { keys, ..Limits::default() };
    Command::Seed(Seed { key: key(name), start, limits })
}

async fn seeded(leader: &Leader, name: &str, start: u64) -> Result<()> {
    let reply = leader.done(seed(name, start, 100)).await?;
    ensure!(reply == Reply::Seeded(start), "{reply:?}");
    Ok(())
}

async fn a_seeded_sequence_starts_at_its_seed(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for start in [0, 1, 1_000_000, u64::MAX - 10] {
        let name = format!("from {start}");
        seeded(&leader, &name, start).await?;
        ensure!(leader.sequence(&name).await? == Some(start));
        let block = leader.take(&name, 3).await?;
        ensure!(block == (start..start + 3), "{block:?}");
    }
    Ok(())
}

async fn a_seed_survives_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    seeded(&leader, "orders", 1_000).await?;
    let leader = rig.reign_again(leader).await?;
    let block = leader.take("orders", 1).await?;
    ensure!(block.start == 1_000, "{block:?}");
    Ok(())
}

async fn a_sequence_that_is_there_cannot_be_seeded(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("used", 5).await?;
    seeded(&leader, "seeded", 5).await?;
    for name in ["used", "seeded"] {
        for start in [0, 5, 1_000] {
            let outcome = leader.one(seed(name, start, 100)).await?;
            let exists = Reject::SequenceExists { key: key(name), next: 5 };
            ensure!(outcome == Err(exists), "{name} at 5, seeded with {start}: {outcome:?}");
        }
        ensure!(leader.take(name, 1).await?.start == 5, "{name} has changed");
    }
    Ok(())
}

async fn a_seed_counts_under_the_cap_of_keys(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.done(seed("a", 5, 1)).await?;
    let outcome = leader.one(seed("b", 5, 1)).await?;
    ensure!(outcome == Err(Reject::TooManyKeys { limit: 1 }), "{outcome:?}");
    ensure!(leader.sequence("b").await?.is_none());
    Ok(())
}

async fn a_sequence_ends_with_64_bits(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let start = u64::MAX - 3;
    seeded(&leader, "orders", start).await?;
    leader.take("orders", 1).await?;
    let overflow = Reject::Overflow { key: key("orders"), next: start + 1 };
    let outcome = leader.one(advance(&[("orders", 3)])).await?;
    ensure!(outcome == Err(overflow), "{outcome:?}");
    let block = leader.take("orders", 2).await?;
    ensure!(block == (start + 1..u64::MAX), "{block:?}");
    for _ in 0..2 {
        let outcome = leader.one(advance(&[("orders", 1)])).await?;
        ensure!(matches!(outcome, Err(Reject::Overflow { .. })), "{outcome:?}");
    }
    Ok(())
}

async fn a_request_that_would_overflow_one_key_advances_none(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    seeded(&leader, "full", u64::MAX - 1).await?;
    let outcome = leader.one(advance(&[("a", 2), ("full", 2), ("b", 2)])).await?;
    ensure!(matches!(outcome, Err(Reject::Overflow { .. })), "{outcome:?}");
    ensure!(leader.sequence("a").await?.is_none() && leader.sequence("b").await?.is_none());
    ensure!(leader.next("full").await? == u64::MAX - 1);
    Ok(())
}
