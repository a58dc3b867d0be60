//! Stopping.

use anyhow::{Result, ensure};
use futures::future::{join, join_all};
use tsoracle_core::{Effect, Reads};

use crate::{
    model::{Answer, Walk, send},
    rig::Rig,
};

checks!("shutdown":
    a_driver_may_be_stopped_twice,
    a_driver_may_be_stopped_by_many_at_once,
    a_stop_that_was_given_up_may_be_asked_for_again,
    calls_after_the_stop_are_refused,
    calls_after_the_stop_change_nothing [Reopen],
    commits_in_flight_end_before_the_stop_does [Reopen],
    a_stopped_driver_releases_its_place [Reopen],
);

fn orders(value: &str) -> Effect {
    let mut effect = Effect::default();
    effect.put("orders", value);
    effect
}

async fn a_driver_may_be_stopped_twice(rig: Rig) -> Result<()> {
    let walk = Walk::open(rig, 1).await?;
    let driver = &walk.nodes[0].driver;
    driver.shutdown().await?;
    driver.shutdown().await?;
    Ok(())
}

async fn a_driver_may_be_stopped_by_many_at_once(rig: Rig) -> Result<()> {
    let walk = Walk::open(rig, 2).await?;
    for stopped in join_all((0..4).map(|_| walk.nodes[0].driver.shutdown())).await {
        stopped?;
    }
    Ok(())
}

async fn a_stop_that_was_given_up_may_be_asked_for_again(rig: Rig) -> Result<()> {
    let walk = Walk::open(rig, 3).await?;
    let driver = &walk.nodes[0].driver;
    drop(futures::FutureExt::now_or_never(driver.shutdown()));
    driver.shutdown().await?;
    Ok(())
}

async fn calls_after_the_stop_are_refused(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 4).await?;
    let driver = walk.nodes[0].driver.clone();
    driver.shutdown().await?;
    let commit = walk.prepare(&orders("1"));
    let outcome = driver.commit(commit.base, commit.effect).await;
    ensure!(outcome.is_err(), "a commit was answered {outcome:?}");
    let answer = driver.read(&Reads::default()).await;
    ensure!(answer.is_err(), "a read was answered {answer:?}");
    Ok(())
}

async fn calls_after_the_stop_change_nothing(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 5).await?;
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

async fn commits_in_flight_end_before_the_stop_does(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 6).await?;
    let driver = walk.nodes[0].driver.clone();
    let mut commits = vec![walk.prepare(&orders("0"))];
    for number in 1..10 {
        let base = commits[commits.len() - 1].next;
        commits.push(walk.prepare_on(base, &orders(&number.to_string())));
    }
    // All of them are polled, and so begun, before the stop is.
    let sending = join_all(commits.iter().map(|commit| send(&*driver, commit)));
    let (answers, stopped) = join(sending, driver.shutdown()).await;
    stopped?;
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

async fn a_stopped_driver_releases_its_place(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 7).await?;
    let first = walk.nodes[0].driver.clone();
    // The first one still exists, though it has stopped.
    walk.reopen().await?;
    walk.commit(&orders("1")).await?;
    drop(first);
    Ok(())
}
