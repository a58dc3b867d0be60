//! `limits`: how much one commit takes at most. Whatever keeps within it is taken.

use anyhow::{Context, Result, ensure};
use tsoracle_core::{Effect, MAX_BATCH, MAX_KEY_BYTES, VERSION};

use super::MakeFixture;
use crate::model::{LONGEST_KEY, Random, Walk};

checks!("limits":
    they_hold_the_largest_request,
    the_largest_commits_are_taken_and_there_after_every_restart,
    values_of_every_length_are_there_after_a_reopen [reopens],
);

/// More would only take longer.
const MOST_WRITES: usize = 20_000;
const MOST_BYTES: usize = 4 << 20;

async fn they_hold_the_largest_request(make: MakeFixture) -> Result<()> {
    let walk = Walk::open(make(), 1).await?;
    let limits = walk.nodes[0].driver.limits();
    // Each key and what is kept of its answer, and the records around them.
    let writes = 2 * MAX_BATCH;
    let bytes = writes * Effect::size_of(&[0; MAX_KEY_BYTES + 1], Some(&[0; 32]));
    ensure!(limits.writes >= writes, "{limits:?}, of at least {writes} writes");
    ensure!(limits.bytes >= bytes, "{limits:?}, of at least {bytes} bytes");
    Ok(())
}

/// Commits that are as large as the limits allow: in one value, in keys, and in writes.
fn largest(walk: &Walk) -> Vec<(&'static str, Effect)> {
    let limits = walk.nodes[0].driver.limits();
    let (bytes, writes) = (limits.bytes.min(MOST_BYTES), limits.writes.min(MOST_WRITES));
    let of_version = Effect::size_of(VERSION, Some(&[0; 33]));
    let mut one = Effect::default();
    let room = bytes - of_version - Effect::size_of(b"a/one", Some(&[]));
    one.put("a/one", Random::new(3).bytes(room));
    let mut keys = Effect::default();
    let mut left = bytes - of_version;
    for number in 0..writes - 1 {
        let key = format!("a/{number:0>width$}", width = LONGEST_KEY - 2).into_bytes();
        let size = Effect::size_of(&key, Some(b""));
        if size > left {
            break;
        }
        left -= size;
        keys.put(key, "");
    }
    // Half of them delete what never existed.
    let mut many = Effect::default();
    let fits = bytes / Effect::size_of(b"a/100000", Some(b"1")) - 10;
    for number in 0..(writes - 1).min(fits) {
        match number % 2 {
            0 => many.put(format!("a/{number}"), "1"),
            _ => many.delete(format!("a/{number}")),
        }
    }
    vec![
        ("one value of as many bytes as the limits allow", one),
        ("as many of the longest keys as the limits allow", keys),
        ("as many writes as the limits allow", many),
    ]
}

async fn the_largest_commits_are_taken_and_there_after_every_restart(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    for (what, effect) in largest(&walk) {
        walk.commit(&effect).await.context(what)?;
    }
    let limits = walk.nodes[0].driver.limits();
    ensure!(walk.model.entries.len() > 100, "the limits leave no room: {limits:?}");
    walk.compare().await?;
    if walk.fixture.crash.is_some() {
        walk.crash().await?;
        walk.compare().await.context("after a crash")?;
    }
    if walk.fixture.lose_power.is_some() {
        walk.lose_power().await?;
        walk.compare().await.context("after a power loss")?;
    }
    if walk.fixture.reopens {
        walk.reopen().await?;
        walk.compare().await.context("after a reopen")?;
    }
    Ok(())
}

/// A little shorter than a power of two, and a little longer.
async fn values_of_every_length_are_there_after_a_reopen(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    let limits = walk.nodes[0].driver.limits();
    let mut random = Random::new(4);
    let (mut effect, mut left) = (Effect::default(), limits.bytes.min(MOST_BYTES) / 2);
    for length in (0..22).flat_map(|power| (0..3).map(move |more| (1 << power) + more - 1)) {
        let key = format!("a/length {length}").into_bytes();
        let size = Effect::size_of(&key, Some(&[])) + length;
        if size > limits.bytes / 2 {
            break;
        }
        if size > left {
            walk.commit(&std::mem::take(&mut effect)).await?;
            left = limits.bytes.min(MOST_BYTES) / 2;
        }
        left = left.saturating_sub(size);
        effect.put(key, random.bytes(length));
    }
    walk.commit(&effect).await?;
    walk.compare().await?;
    walk.reopen().await?;
    walk.compare().await
}
