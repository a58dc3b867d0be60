//! Gapless blocks, key by key and in batches.

use anyhow::{Result, ensure};
use tsoracle_core::{
    MAX_BATCH, MAX_KEY_BYTES, Reject,
    state::{Advance, Command, Limits},
};

use crate::rig::{Leader, Rig, advance, blocks, key, request, start};

checks!("sequences":
    blocks_start_at_0_and_leave_no_gap,
    each_key_counts_on_its_own,
    similar_keys_are_different_keys,
    a_key_that_was_never_used_has_no_value,
    many_keys_advance_all_or_none,
    the_blocks_of_a_request_come_in_the_order_asked_for,
    results_come_in_the_order_of_their_commands,
    commands_of_a_batch_see_those_before_them,
    commands_of_a_batch_succeed_or_fail_each_on_its_own,
    a_refused_command_leaves_no_trace,
    the_cap_of_keys_counts_each_key_once,
    the_cap_of_keys_is_kept_across_a_reopen [Reopen],
    a_read_sees_every_commit_answered_before_it,
    a_gapless_run_goes_on_after_a_reopen [Reopen],
    a_gapless_run_goes_on_under_another_leader [Contend],
);

async fn blocks_start_at_0_and_leave_no_gap(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let mut next = 0;
    for count in [1, 64, 1, 7, u32::MAX, 1] {
        let block = leader.take("orders", count).await?;
        ensure!(block == (next..next + u64::from(count)), "{next} was next, not {block:?}");
        next = block.end;
        ensure!(leader.next("orders").await? == next);
    }
    Ok(())
}

async fn each_key_counts_on_its_own(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for round in 0..5 {
        for (name, count) in [("orders", 1), ("invoices", 10), ("users", 3)] {
            let block = leader.take(name, count).await?;
            let expected = round * u64::from(count);
            ensure!(block.start == expected, "{name}: {expected} was next, not {block:?}");
        }
    }
    Ok(())
}

async fn similar_keys_are_different_keys(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let long = "k".repeat(MAX_KEY_BYTES);
    let almost = "k".repeat(MAX_KEY_BYTES - 1);
    let names = ["a", "A", "a ", "ab", "a\0", "a/b", "a%b", "á", "a\u{301}", "'", &long, &almost];
    for name in names {
        let block = leader.take(name, 3).await?;
        ensure!(block == (0..3), "{name:?} is not a key of its own: {block:?}");
    }
    for name in names {
        ensure!(leader.next(name).await? == 3, "{name:?} has changed");
    }
    Ok(())
}

async fn a_key_that_was_never_used_has_no_value(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("orders", 1).await?;
    for name in ["order", "orders2", "Orders"] {
        let next = leader.sequence(name).await?;
        ensure!(next.is_none(), "{name:?} is at {next:?}");
    }
    Ok(())
}

/// A request for the keys given under a cap on how many there may be.
fn capped(entries: &[(&str, u32)], keys: u64) -> Command {
    let limits = Limits { keys, ..Limits::default() };
    Command::Advance(Advance { limits, ..request(entries, None) })
}

async fn many_keys_advance_all_or_none(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.done(advance(&[("a", 2), ("b", 2)])).await?;
    let outcome = leader.one(capped(&[("a", 5), ("b", 5), ("c", 5), ("d", 5)], 3)).await?;
    ensure!(outcome == Err(Reject::TooManyKeys { limit: 3 }), "{outcome:?}");
    for (name, next) in [("a", 2), ("b", 2), ("c", 0), ("d", 0)] {
        let found = leader.next(name).await?;
        ensure!(found == next, "{name} is at {found}, though its request was refused at {next}");
    }
    let names: Vec<_> = (0..MAX_BATCH).map(|index| format!("key {index}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), 4)).collect();
    leader.done(advance(&entries)).await?;
    for name in &names {
        ensure!(leader.next(name).await? == 4, "{name} did not advance with the others");
    }
    Ok(())
}

async fn the_blocks_of_a_request_come_in_the_order_asked_for(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for entries in [[("b", 2), ("c", 3), ("a", 1)], [("c", 1), ("a", 2), ("b", 3)]] {
        let outcome = leader.one(advance(&entries)).await?;
        let found: Vec<_> =
            blocks(&outcome)?.iter().map(|block| (block.key.as_str(), block.count)).collect();
        ensure!(found == entries, "{entries:?} were asked for, and {found:?} came");
    }
    Ok(())
}

async fn results_come_in_the_order_of_their_commands(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let names = ["d", "a", "c", "b"];
    let results = leader.commit(names.map(|name| advance(&[(name, 1)])).into()).await?;
    for (name, result) in names.iter().zip(&results) {
        let found = &blocks(result)?[0].key;
        ensure!(*found == key(name), "{name} was asked for, and {found} came");
    }
    Ok(())
}

async fn commands_of_a_batch_see_those_before_them(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let batch = (1..=20).map(|count| advance(&[("orders", count)])).collect();
    let results = leader.commit(batch).await?;
    let mut next = 0;
    for (count, result) in (1..).zip(&results) {
        let found = start(result)?;
        ensure!(found == next, "in one batch, {found} came where {next} was next");
        next += count;
    }
    ensure!(leader.next("orders").await? == next);
    Ok(())
}

async fn commands_of_a_batch_succeed_or_fail_each_on_its_own(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let batch = vec![
        capped(&[("a", 1)], 1),
        capped(&[("b", 1)], 1),
        capped(&[("a", 2)], 1),
        capped(&[("a", 1), ("b", 1)], 1),
        capped(&[("a", 3)], 1),
    ];
    let results = leader.commit(batch).await?;
    let accepted: Vec<_> = results.iter().map(Result::is_ok).collect();
    ensure!(accepted == [true, false, true, false, true], "{results:?}");
    let starts = [start(&results[0])?, start(&results[2])?, start(&results[4])?];
    ensure!(starts == [0, 1, 3], "{starts:?}");
    ensure!(leader.next("a").await? == 6 && leader.sequence("b").await?.is_none());
    Ok(())
}

async fn a_refused_command_leaves_no_trace(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("a", 1).await?;
    for _ in 0..3 {
        let outcome = leader.one(capped(&[("b", 9)], 1)).await?;
        ensure!(outcome == Err(Reject::TooManyKeys { limit: 1 }), "{outcome:?}");
    }
    ensure!(leader.sequence("b").await?.is_none(), "a refused key is there");
    let block = leader.take("b", 1).await?;
    ensure!(block == (0..1), "a refused request was counted: {block:?}");
    Ok(())
}

async fn the_cap_of_keys_counts_each_key_once(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for name in ["a", "a", "b", "a", "b"] {
        ensure!(leader.one(capped(&[(name, 1)], 2)).await?.is_ok(), "{name} was refused");
    }
    cap_is_reached(&leader).await
}

async fn cap_is_reached(leader: &Leader) -> Result<()> {
    let outcome = leader.one(capped(&[("c", 1)], 2)).await?;
    ensure!(outcome == Err(Reject::TooManyKeys { limit: 2 }), "{outcome:?}");
    Ok(())
}

async fn the_cap_of_keys_is_kept_across_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.done(capped(&[("a", 1), ("b", 1)], 2)).await?;
    let leader = rig.reign_again(leader).await?;
    cap_is_reached(&leader).await?;
    leader.done(capped(&[("a", 1)], 2)).await?;
    Ok(())
}

async fn a_read_sees_every_commit_answered_before_it(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for round in 1..=30 {
        leader.take("orders", 1).await?;
        let next = leader.next("orders").await?;
        ensure!(next == round, "{round} were handed out, and a read says {next}");
    }
    Ok(())
}

async fn a_gapless_run_goes_on_after_a_reopen(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    let mut next = 0;
    for round in 1..=5 {
        // The last one of a reign is the one most easily lost.
        for count in [round, 3] {
            let block = leader.take("orders", count).await?;
            ensure!(block.start == next, "{next} was next, not {block:?}");
            next = block.end;
        }
        leader = rig.reign_again(leader).await?;
    }
    ensure!(leader.next("orders").await? == next);
    Ok(())
}

async fn a_gapless_run_goes_on_under_another_leader(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    let mut next = 0;
    for _ in 0..3 {
        let block = leader.take("orders", 5).await?;
        ensure!(block.start == next, "{next} was next, not {block:?}");
        next = block.end;
        let other = rig.commanded().await?;
        leader.driver.shutdown().await?;
        leader = Leader::of(other).await?;
        leader.reign().await?;
    }
    Ok(())
}
