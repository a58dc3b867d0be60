//! Stopping.

use anyhow::{Result, ensure};
use futures::future::{join, join_all};
use tsoracle_core::state::Query;

use crate::rig::{Rig, advance};

checks!("shutdown":
    a_driver_may_be_stopped_twice,
    a_driver_may_be_stopped_by_many_at_once,
    a_stop_that_was_given_up_may_be_asked_for_again,
    calls_after_the_stop_are_refused,
    calls_after_the_stop_change_nothing [Reopen],
    commits_in_flight_end_before_the_stop_does [Reopen],
    a_stopped_driver_lets_go_of_its_place [Reopen],
);

async fn a_driver_may_be_stopped_twice(mut rig: Rig) -> Result<()> {
    let driver = rig.reign().await?.driver;
    driver.shutdown().await?;
    driver.shutdown().await?;
    Ok(())
}

async fn a_driver_may_be_stopped_by_many_at_once(mut rig: Rig) -> Result<()> {
    let driver = rig.reign().await?.driver;
    for stopped in join_all((0..4).map(|_| driver.shutdown())).await {
        stopped?;
    }
    Ok(())
}

async fn a_stop_that_was_given_up_may_be_asked_for_again(mut rig: Rig) -> Result<()> {
    let driver = rig.reign().await?.driver;
    drop(futures::FutureExt::now_or_never(driver.shutdown()));
    driver.shutdown().await?;
    Ok(())
}

async fn calls_after_the_stop_are_refused(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.driver.shutdown().await?;
    let outcome = leader.driver.commit(leader.epoch, vec![advance(&[("orders", 1)])]).await;
    ensure!(outcome.is_err(), "a commit was answered {outcome:?}");
    let answer = leader.driver.read(Query::Reign).await;
    ensure!(answer.is_err(), "a read was answered {answer:?}");
    Ok(())
}

async fn calls_after_the_stop_change_nothing(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("orders", 1).await?;
    leader.driver.shutdown().await?;
    for _ in 0..3 {
        drop(leader.driver.commit(leader.epoch, vec![advance(&[("orders", 5)])]).await);
    }
    let next = rig.reign().await?.next("orders").await?;
    ensure!(next == 1, "the sequence is at {next}");
    Ok(())
}

async fn commits_in_flight_end_before_the_stop_does(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    // All of them are polled, and so begun, before the stop is.
    let committing = join_all((0..10).map(|_| Box::pin(leader.take("orders", 1))));
    let (committed, stopped) = join(committing, leader.driver.shutdown()).await;
    stopped?;
    let answered = committed.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    let leader = rig.reign().await?;
    let next = leader.next("orders").await?;
    ensure!(next >= answered, "{answered} were answered, and the sequence is at {next}");
    Ok(())
}

async fn a_stopped_driver_lets_go_of_its_place(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    first.driver.shutdown().await?;
    // The first one is still there, though it has stopped.
    let second = rig.reign().await?;
    second.take("orders", 1).await?;
    drop(first);
    Ok(())
}
