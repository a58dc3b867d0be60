//! `node`, the locks, and damage: who a node is, and who is kept out.

use anyhow::{Context, Result, bail, ensure};
use tsoracle_core::ErrorKind;

use super::{MakeFixture, commit::alike};
use crate::{fixture::the, model::Walk, worker::Worker};

checks!("identity":
    two_states_have_different_node_ids,
    a_node_id_lasts_as_long_as_the_storage_it_locks [locks, reopens],
    nodes_over_one_state_have_different_ids [contends],
    a_second_driver_is_kept_out_while_the_first_lives [locks],
    a_second_process_is_kept_out_until_the_first_has_ended [locks, config, process],
    damaged_state_is_refused_and_not_taken_for_empty [damage, reopens],
);

async fn two_states_have_different_node_ids(make: MakeFixture) -> Result<()> {
    // Fixtures own what their drivers rest on.
    let (one, other) = (make(), make());
    let (a, b) = (one.open.run(()).await?, other.open.run(()).await?);
    ensure!(a.node() != b.node(), "both are {:?}", a.node());
    Ok(())
}

async fn a_node_id_lasts_as_long_as_the_storage_it_locks(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    let before = walk.nodes[0].driver.node();
    for _ in 0..2 {
        walk.reopen().await?;
        let after = walk.nodes[0].driver.node();
        ensure!(before == after, "the node id was {before:?}, and is {after:?}");
    }
    Ok(())
}

async fn nodes_over_one_state_have_different_ids(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let (a, b) = (fixture.open.run(()).await?, fixture.open.run(()).await?);
    ensure!(a.node() != b.node(), "both are {:?}", a.node());
    Ok(())
}

/// Opens a driver, which must fail with that kind of error.
async fn is_refused(walk: &Walk, kind: ErrorKind, what: &str) -> Result<()> {
    match walk.fixture.open.run(()).await {
        Ok(_) => bail!("{what} was opened"),
        Err(error) => ensure!(*error.kind() == kind, "not an error of kind {kind:?}: {error:#}"),
    }
    Ok(())
}

async fn a_second_driver_is_kept_out_while_the_first_lives(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
    is_refused(&walk, ErrorKind::Config, "a second driver").await?;
    walk.commit(&alike("1")).await?;
    walk.compare().await
}

async fn a_second_process_is_kept_out_until_the_first_has_ended(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let config = the(&fixture.config)?.run(()).await?;
    let mut worker = Worker::start(config, "hold")?;
    worker.line_that_begins("up").await?;
    match fixture.open.run(()).await {
        Ok(_) => bail!("a second process opened the state"),
        Err(error) => {
            ensure!(*error.kind() == ErrorKind::Config, "not an error of kind Config: {error:#}");
        }
    }
    worker.kill().await?;
    Walk::open(fixture, 6).await.context("after the first process was killed").map(drop)
}

async fn damaged_state_is_refused_and_not_taken_for_empty(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 7).await?;
    walk.commit(&alike("1")).await?;
    let stopped = walk.nodes.remove(0);
    stopped.driver.shutdown().await?;
    drop(stopped);
    the(&walk.fixture.damage)?.run(()).await?;
    is_refused(&walk, ErrorKind::Corrupt, "damaged state").await
}
