//! What was answered is there after a crash, and after a power loss.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tsoracle_core::{Oracle, OracleOptions};

use super::concurrency::cover;
use crate::{
    rig::{Leader, NOON_MS, Rig, advance, advance_as, clock, id, oracle, pass, serves, start},
    worker::{WITH_ID, WITHOUT_ID, Worker, asked},
};

checks!("crashes":
    an_answered_commit_survives_a_crash [Crash],
    an_answered_commit_survives_a_power_loss [LosePower],
    an_answered_extension_survives_a_crash [Crash],
    an_answered_extension_survives_a_power_loss [LosePower],
    a_batch_survives_a_crash_whole [Crash],
    a_batch_survives_a_power_loss_whole [LosePower],
    a_power_loss_after_each_commit_loses_none [LosePower],
    timestamps_after_a_crash_lie_above_all_before_it [Crash],
    nothing_answered_is_lost_when_killed_under_load [Process],
);

/// What a leader answered, all of which must be there later.
async fn answer_much(leader: &Leader) -> Result<()> {
    leader.take("orders", 7).await?;
    leader.take("invoices", 2).await?;
    leader.one(advance_as(id("s", 1, 1), &[("orders", 5)])).await?.map_err(anyhow::Error::msg)?;
    leader.take("orders", 1).await?;
    Ok(())
}

async fn is_all_there(leader: &Leader) -> Result<()> {
    let (orders, invoices) = (leader.next("orders").await?, leader.next("invoices").await?);
    ensure!((orders, invoices) == (13, 2), "orders are at {orders}, invoices at {invoices}");
    let again = start(&leader.one(advance_as(id("s", 1, 1), &[("orders", 5)])).await?)?;
    ensure!(again == 7, "the request with an id got 7, and now {again}");
    let block = leader.take("orders", 1).await?;
    ensure!(block.start == 13, "{block:?}");
    Ok(())
}

async fn an_answered_commit_survives_a_crash(mut rig: Rig) -> Result<()> {
    answer_much(&rig.reign().await?).await?;
    is_all_there(&rig.reign_after_crash().await?).await
}

async fn an_answered_commit_survives_a_power_loss(mut rig: Rig) -> Result<()> {
    answer_much(&rig.reign().await?).await?;
    rig.place.lose_power().await?;
    is_all_there(&rig.reign().await?).await
}

async fn an_answered_extension_survives_a_crash(mut rig: Rig) -> Result<()> {
    rig.reign().await?.extend(NOON_MS + 90_000).await?;
    rig.place.crash().await?;
    let fenced = rig.lead().await?.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == NOON_MS + 90_001, "{fenced:?}");
    Ok(())
}

async fn an_answered_extension_survives_a_power_loss(mut rig: Rig) -> Result<()> {
    rig.reign().await?.extend(NOON_MS + 90_000).await?;
    rig.place.lose_power().await?;
    let fenced = rig.lead().await?.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == NOON_MS + 90_001, "{fenced:?}");
    Ok(())
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// Batches over several keys; the last one is not waited for.
async fn commit_batches(leader: &Leader) -> Result<()> {
    let batch = || KEYS.map(|name| advance(&[(name, 2)])).to_vec();
    for _ in 0..5 {
        leader.commit(batch()).await?;
    }
    drop(futures::FutureExt::now_or_never(Box::pin(leader.commit(batch()))));
    Ok(())
}

async fn batches_are_whole(leader: &Leader) -> Result<()> {
    let mut nexts = vec![];
    for name in KEYS {
        nexts.push(leader.next(name).await?);
    }
    let whole = nexts.iter().all(|next| *next == nexts[0]) && [10, 12].contains(&nexts[0]);
    ensure!(whole, "five batches were answered, one was begun, and the keys are at {nexts:?}");
    Ok(())
}

async fn a_batch_survives_a_crash_whole(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    commit_batches(&leader).await?;
    // What was begun has ended by then: a copy is taken of what stands still.
    leader.next("a").await?;
    batches_are_whole(&rig.reign_after_crash().await?).await
}

async fn a_batch_survives_a_power_loss_whole(mut rig: Rig) -> Result<()> {
    commit_batches(&rig.reign().await?).await?;
    rig.place.lose_power().await?;
    batches_are_whole(&rig.reign().await?).await
}

async fn a_power_loss_after_each_commit_loses_none(mut rig: Rig) -> Result<()> {
    for round in 0..8 {
        let leader = rig.reign().await?;
        for step in 0..round {
            let name = format!("{round} {step}");
            leader.take(&name, 1).await?;
        }
        let block = leader.take("orders", 1).await?;
        ensure!(block == (round..round + 1), "after {round} power losses: {block:?}");
        rig.place.lose_power().await?;
    }
    Ok(())
}

async fn timestamps_after_a_crash_lie_above_all_before_it(mut rig: Rig) -> Result<()> {
    // A clock that is an hour back after each crash.
    let mut before = None;
    for round in 0..3 {
        let clock = clock(NOON_MS - round * 3_600_000);
        let oracle = oracle(rig.open().await?, &clock)?;
        // The node may have to wait for the lease of the one that crashed.
        while oracle.try_get_ts(1)?.is_none() {
            pass(&clock, &oracle).await;
        }
        for count in [1, 100, 1_000] {
            let range = oracle.get_ts(count).await?.range;
            ensure!(before < Some(range.first()), "{} came after {before:?}", range.first());
            before = Some(range.last());
        }
        rig.place.crash().await?;
    }
    Ok(())
}

/// What a worker said, until it was killed.
#[derive(Default)]
struct Said {
    /// Per session and number asked: the block's start, if it was answered.
    with_id: BTreeMap<(String, u64), Option<u64>>,
    plain_asked: u64,
    plain: Vec<u64>,
    last_timestamp: u64,
}

impl Said {
    fn hear(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ask", session, number] => {
                self.with_id.insert((session.into(), number.parse()?), None);
            }
            ["got", session, number, start] => {
                self.with_id.insert((session.into(), number.parse()?), Some(start.parse()?));
            }
            ["plain"] => self.plain_asked += 1,
            ["had", start] => self.plain.push(start.parse()?),
            ["time", last] => self.last_timestamp = self.last_timestamp.max(last.parse()?),
            _ => {}
        }
        Ok(())
    }
}

/// How often the process is killed, and how much it says before.
const KILLS: usize = 3;
const LINES: usize = 300;

async fn nothing_answered_is_lost_when_killed_under_load(mut rig: Rig) -> Result<()> {
    let mut said = Said::default();
    for _ in 0..KILLS {
        let mut worker = Worker::start(&*rig.place, "load")?;
        worker.line_that_begins("up").await?;
        for _ in 0..LINES {
            let line = worker.line().await?.context("the other process ended by itself")?;
            said.hear(&line)?;
        }
        for line in worker.kill().await? {
            said.hear(&line)?;
        }
    }
    let oracle = Oracle::start(rig.open().await?, OracleOptions::default())?;
    serves(&oracle).await?;
    let first = oracle.get_ts(1).await?.range.first();
    ensure!(first.as_u64() > said.last_timestamp, "{first} came after {}", said.last_timestamp);
    let mut taken = vec![];
    for ((session, number), answered) in said.with_id {
        let block = oracle.get_seq(asked(&session, number)?).await?.blocks.remove(0);
        let text = format!("request {number} of {session} got {answered:?}, and now {block:?}");
        ensure!(answered.is_none_or(|start| start == block.start), "{text}");
        taken.push(block.range());
    }
    let next = oracle.read_seq(crate::rig::key(WITH_ID)).await?.unwrap_or(0);
    cover(taken, next)?;
    said.plain.sort_unstable();
    let doubled = said.plain.windows(2).find(|pair| pair[1] < pair[0] + 3);
    ensure!(doubled.is_none(), "blocks of 3 began at {doubled:?}");
    let next = oracle.read_seq(crate::rig::key(WITHOUT_ID)).await?.unwrap_or(0);
    let end = said.plain.last().map_or(0, |start| start + 3);
    ensure!(end <= next && next <= said.plain_asked * 3, "answered to {end}, the next is {next}");
    oracle.shutdown().await?;
    Ok(())
}
