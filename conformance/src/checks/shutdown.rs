//! `shutdown`: commits in flight end first, then leadership ends and locks are released.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{
    FutureExt,
    future::{Either, join_all, select},
};
use tokio::time::timeout;
use tsoracle_core::{Effect, Reads};

use super::MakeFixture;
use crate::model::{Answer, Walk, send};

checks!("shutdown":
    it_may_be_called_again,
    it_may_be_called_while_another_call_is_under_way,
    it_may_be_called_again_after_a_call_that_was_dropped,
    every_call_fails_afterwards,
    no_call_changes_anything_afterwards [reopens],
    commits_in_flight_end_first [reopens],
    the_state_can_be_opened_again_at_once [reopens],
);

/// How long a caller may take to notice that it was answered.
const SOON: Duration = Duration::from_secs(1);

fn orders(value: &str) -> Effect {
    let mut effect = Effect::default();
    effect.put("orders", value);
    effect
}

async fn it_may_be_called_again(make: MakeFixture) -> Result<()> {
    let walk = Walk::open(make(), 1).await?;
    let driver = &walk.nodes[0].driver;
    driver.shutdown().await?;
    driver.shutdown().await?;
    Ok(())
}

async fn it_may_be_called_while_another_call_is_under_way(make: MakeFixture) -> Result<()> {
    let walk = Walk::open(make(), 2).await?;
    for stopped in join_all((0..4).map(|_| walk.nodes[0].driver.shutdown())).await {
        stopped?;
    }
    Ok(())
}

async fn it_may_be_called_again_after_a_call_that_was_dropped(make: MakeFixture) -> Result<()> {
    let walk = Walk::open(make(), 3).await?;
    let driver = &walk.nodes[0].driver;
    drop(driver.shutdown().now_or_never());
    driver.shutdown().await?;
    Ok(())
}

async fn every_call_fails_afterwards(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    let driver = walk.nodes[0].driver.clone();
    driver.shutdown().await?;
    let commit = walk.prepare(&orders("1"));
    let outcome = driver.commit(commit.base, commit.effect).await;
    ensure!(outcome.is_err(), "a commit was answered {outcome:?}");
    let answer = driver.read(&Reads::default()).await;
    ensure!(answer.is_err(), "a read was answered {answer:?}");
    Ok(())
}

async fn no_call_changes_anything_afterwards(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    walk.commit(&orders("1")).await?;
    let driver = walk.nodes[0].driver.clone();
    driver.shutdown().await?;
    for _ in 0..3 {
        let commit = walk.prepare(&orders("2"));
        drop(driver.commit(commit.base, commit.effect.clone()).await);
        walk.lose(&commit);
    }
    walk.reopen().await?;
    walk.compare().await
}

async fn commits_in_flight_end_first(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 6).await?;
    let driver = walk.nodes[0].driver.clone();
    let mut commits = vec![walk.prepare(&orders("0"))];
    for number in 1..10 {
        let base = commits[commits.len() - 1].next;
        commits.push(walk.prepare_on(base, &orders(&number.to_string())));
    }
    // All of them are polled, and so begun, before the stop is.
    let sending = Box::pin(join_all(commits.iter().map(|commit| send(&*driver, commit))));
    let answers = match select(sending, driver.shutdown()).await {
        Either::Left((answers, stopping)) => {
            stopping.await?;
            answers
        }
        Either::Right((stopped, sending)) => {
            stopped?;
            // They have ended; only their callers may not know it yet.
            let answers = timeout(SOON, sending).await;
            answers.context("the driver has stopped, and commits are still under way")?
        }
    };
    let mut last = None;
    for (commit, answer) in commits.into_iter().zip(answers) {
        let answer = answer?;
        if matches!(answer, Answer::Stored) {
            last = Some(commit.next);
        }
        match answer {
            Answer::Refused => walk.lose(&commit),
            _ => walk.doubt(commit),
        }
    }
    if let Some(last) = last {
        walk.land(last)?;
    }
    walk.reopen().await?;
    walk.compare().await
}

async fn the_state_can_be_opened_again_at_once(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 7).await?;
    let first = walk.nodes[0].driver.clone();
    // The first one still exists, though it has stopped.
    walk.reopen().await?;
    walk.commit(&orders("1")).await?;
    drop(first);
    Ok(())
}
