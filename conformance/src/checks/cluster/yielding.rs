//! Leaders that cannot commit, though they live and are heard: another node serves before anything is mended.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use tsoracle_core::Epoch;

use super::loaded::{Loaded, NODES, ask};
use crate::{Direction, HungFiles, fixture::the};

cluster_checks!(NODES;
    some_node_serves_while_the_disk_of_the_leader_is_slow [slow_disk],
    some_node_serves_while_calls_to_files_of_the_leader_hang [hung_files],
    some_node_serves_while_the_link_of_the_leader_is_slow [slow_link],
    some_node_serves_while_the_leader_is_not_heard [one_way],
    some_node_serves_while_the_leader_hears_nothing [one_way],
    some_node_serves_while_two_disks_are_slow [slow_disk],
    leadership_does_not_return_to_a_disk_that_is_slow_now_and_then [slow_disk],
);

/// How many milliseconds each sync takes of a disk that is slow.
const SYNCS_MS: [u64; 4] = [500, 900, 1_500, 3_000];

/// How many milliseconds there and back takes where a link is slow.
const ROUND_TRIPS_MS: [u64; 4] = [50, 150, 300, 500];

async fn some_node_serves_while_the_disk_of_the_leader_is_slow(loaded: &mut Loaded) -> Result<()> {
    for sync in SYNCS_MS.map(Duration::from_millis) {
        let (old, _) = loaded.leader().await?;
        the(&loaded.cluster.slow_disk)?.begin.run((old, sync)).await?;
        loaded
            .serve_all_the_same()
            .await
            .with_context(|| format!("while a sync takes {sync:?}"))?;
        the(&loaded.cluster.slow_disk)?.end.run((old, sync)).await?;
        loaded.serve().await?;
    }
    Ok(())
}

/// While so much is written that the state is, too.
async fn some_node_serves_while_calls_to_files_of_the_leader_hang(
    loaded: &mut Loaded,
) -> Result<()> {
    let _writing = loaded.write_much()?;
    for kind in 0..loaded.cluster.hung_files.len() {
        let (old, _) = loaded.leader().await?;
        let HungFiles { word, hang, ends_commits } = &loaded.cluster.hung_files[kind];
        let while_they_hang = || format!("while {word} hang");
        hang.begin.run(old).await?;
        if *ends_commits {
            loaded.leader_besides(Some(old)).await.with_context(while_they_hang)?;
        }
        loaded.serve_all_the_same().await.with_context(while_they_hang)?;
        hang.end.run(old).await?;
        loaded.serve().await.with_context(|| format!("after {word} hung"))?;
    }
    Ok(())
}

async fn some_node_serves_while_the_link_of_the_leader_is_slow(loaded: &mut Loaded) -> Result<()> {
    for round_trip in ROUND_TRIPS_MS.map(Duration::from_millis) {
        let (old, _) = loaded.leader().await?;
        the(&loaded.cluster.slow_link)?.begin.run((old, round_trip)).await?;
        let served = loaded.serve_all_the_same().await;
        served.with_context(|| format!("while a round trip takes {round_trip:?}"))?;
        the(&loaded.cluster.slow_link)?.end.run((old, round_trip)).await?;
        loaded.serve().await?;
    }
    Ok(())
}

async fn some_node_serves_while_the_leader_is_not_heard(loaded: &mut Loaded) -> Result<()> {
    serves_one_way(loaded, Direction::Out).await
}

async fn some_node_serves_while_the_leader_hears_nothing(loaded: &mut Loaded) -> Result<()> {
    serves_one_way(loaded, Direction::In).await
}

async fn serves_one_way(loaded: &mut Loaded, direction: Direction) -> Result<()> {
    for _ in 0..2 {
        let (old, _) = loaded.leader().await?;
        the(&loaded.cluster.one_way)?.begin.run((old, direction)).await?;
        loaded.serve_all_the_same().await?;
        the(&loaded.cluster.one_way)?.end.run((old, direction)).await?;
        loaded.serve().await?;
    }
    Ok(())
}

/// The one that takes over may be the other one that cannot commit.
async fn some_node_serves_while_two_disks_are_slow(loaded: &mut Loaded) -> Result<()> {
    let sync = Duration::from_millis(1_500);
    for _ in 0..2 {
        let (old, _) = loaded.leader().await?;
        let slow = [old, (old + 1) % NODES];
        // A majority is slow then: what is committed waits for one of both.
        for node in slow {
            the(&loaded.cluster.slow_disk)?.begin.run((node, sync)).await?;
        }
        loaded.pass(loaded.cluster.lease * 2).await;
        the(&loaded.cluster.slow_disk)?.end.run((slow[1], sync)).await?;
        loaded.serve_all_the_same().await?;
        the(&loaded.cluster.slow_disk)?.end.run((slow[0], sync)).await?;
        loaded.serve().await?;
    }
    Ok(())
}

/// For how many seconds the disk is looked at that is slow every other second.
const SECONDS: u32 = 12;

/// How often leadership may change in that time. One that goes back as soon as the disk is sound would change
/// every other second.
const MOST_CHANGES: usize = 3;

async fn leadership_does_not_return_to_a_disk_that_is_slow_now_and_then(
    loaded: &mut Loaded,
) -> Result<()> {
    let (old, first) = loaded.leader().await?;
    let (slow, each) = ((old, Duration::from_millis(1_500)), Duration::from_secs(1));
    let mut epochs = BTreeSet::from([first.epoch]);
    for second in 0..SECONDS {
        let disk = the(&loaded.cluster.slow_disk)?;
        match second % 2 {
            0 => disk.begin.run(slow).await?,
            _ => disk.end.run(slow).await?,
        }
        loaded.pass(each / 2).await;
        epochs.extend(epochs_now(loaded).await);
        loaded.pass(each / 2).await;
    }
    loaded.serve().await?;
    epochs.extend(epochs_now(loaded).await);
    let changes = epochs.len() - 1;
    ensure!(changes <= MOST_CHANGES, "leadership has changed {changes} times: {epochs:?}");
    Ok(())
}

async fn epochs_now(loaded: &Loaded) -> Vec<Epoch> {
    let mut epochs = vec![];
    for node in 0..NODES {
        epochs.extend(ask(&loaded.node(node)).await.map(|granted| granted.epoch));
    }
    epochs
}
