//! Who a node is, and who is kept out.

use anyhow::{Result, bail, ensure};
use tsoracle_core::ErrorKind;

use crate::{rig::Rig, worker::Worker};

checks!("identity":
    two_places_have_different_node_ids,
    a_node_id_lasts_as_long_as_the_storage_it_locks [Lock, Reopen],
    contenders_over_one_place_have_different_node_ids [Contend],
    a_second_driver_is_kept_out_while_the_first_lives [Lock],
    a_second_process_is_kept_out_until_the_first_has_ended [Lock, Process],
    damaged_state_is_refused_and_not_taken_for_empty [Damage, Reopen],
);

async fn two_places_have_different_node_ids(mut rig: Rig) -> Result<()> {
    let mut other = Rig::new(rig.harness.clone()).await?;
    let (a, b) = (rig.commanded().await?, other.commanded().await?);
    ensure!(a.node() != b.node(), "both are {:?}", a.node());
    Ok(())
}

async fn a_node_id_lasts_as_long_as_the_storage_it_locks(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    let before = leader.driver.node();
    let after = rig.lead_again(leader).await?.driver.node();
    ensure!(before == after, "the node id was {before:?}, and is {after:?}");
    Ok(())
}

async fn contenders_over_one_place_have_different_node_ids(mut rig: Rig) -> Result<()> {
    let (a, b) = (rig.commanded().await?, rig.commanded().await?);
    ensure!(a.node() != b.node(), "both are {:?}", a.node());
    Ok(())
}

async fn a_second_driver_is_kept_out_while_the_first_lives(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    match rig.commanded().await {
        Ok(_) => bail!("a second driver opened"),
        Err(error) => {
            ensure!(*error.kind() == ErrorKind::Config, "not an error of kind Config: {error:#}");
        }
    }
    leader.take("orders", 1).await?;
    Ok(())
}

async fn a_second_process_is_kept_out_until_the_first_has_ended(mut rig: Rig) -> Result<()> {
    let mut worker = Worker::start(&*rig.place, "hold")?;
    worker.line_that_begins("up").await?;
    match rig.commanded().await {
        Ok(_) => bail!("a second process opened the place"),
        Err(error) => {
            ensure!(*error.kind() == ErrorKind::Config, "not an error of kind Config: {error:#}");
        }
    }
    worker.kill().await?;
    rig.reign().await?.take("orders", 1).await?;
    Ok(())
}

async fn damaged_state_is_refused_and_not_taken_for_empty(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("orders", 5).await?;
    leader.driver.shutdown().await?;
    drop(leader);
    rig.place.damage().await?;
    match rig.commanded().await {
        Ok(_) => bail!("damaged state was opened"),
        Err(error) => {
            ensure!(*error.kind() == ErrorKind::Corrupt, "not an error of kind Corrupt: {error:#}");
        }
    }
    Ok(())
}
