//! Several nodes, on real clocks, while callers ask all of them.

/// Declares checks of clusters: what is done to one of several nodes that is under load, and what that
/// needs besides.
macro_rules! cluster_checks {
    ($nodes:expr; $($sentence:ident $([$($need:ident),+])?),+ $(,)?) => {
        pub(in crate::checks) const CHECKS: &[$crate::Check<$crate::Cluster>] = &[
            $($crate::Check::new(
                "cluster",
                stringify!($sentence),
                $crate::fixture::needs!($crate::Cluster: $($($need),+)?),
                |make| {
                    let body: $crate::checks::cluster::loaded::Body =
                        |loaded| Box::pin($sentence(loaded));
                    Box::pin($crate::checks::cluster::loaded::under_load($nodes, make, body))
                },
            )),+
        ];
    };
}

pub(super) mod disks;
pub(super) mod five;
mod loaded;
pub(super) mod mixed;
pub(super) mod yielding;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail, ensure};
use tsoracle_core::{RequestId, SeqKey, SeqRequest, Session};

use self::loaded::{Loaded, NODES, ask};
use crate::fixture::the;

cluster_checks!(NODES;
    a_cluster_serves_after_its_start,
    one_node_serves_at_a_time,
    another_node_serves_after_the_leader_was_killed,
    a_second_failover_ends_as_the_first_did,
    a_stopped_follower_is_not_missed,
    a_node_far_behind_catches_up_before_it_is_counted_on,
    a_wiped_follower_does_no_harm [wipe],
    a_wiped_node_makes_no_majority_forget [wipe],
    everything_is_there_after_all_were_killed,
    order_holds_through_a_rolling_restart,
    no_call_of_a_client_fails_through_a_rolling_restart [client],
    no_call_of_a_client_fails_while_leadership_is_transferred [client, transfer],
    a_leader_paused_past_its_lease_refuses_when_resumed [pause],
    a_leader_that_comes_back_grants_above_all_before [pause],
    a_cluster_that_stood_still_serves_again [pause],
    a_leader_cut_off_from_the_others_stops_granting [partition],
    a_second_leader_cut_off_is_replaced_as_the_first_was [partition],
    a_follower_cut_off_from_the_others_is_not_missed [partition],
    a_follower_cut_off_from_the_leader_alone_does_no_harm [partition],
    no_call_of_a_client_fails_while_backing_services_die_in_turn [client, backing_services],
);

/// How many commits a node misses that is far behind: more than drivers keep, if their fixtures
/// have them keep few.
const MISSED: usize = 400;

/// How long nodes that ought not to serve are given to do so all the same.
const TEMPTATION: Duration = Duration::from_secs(6);

async fn a_cluster_serves_after_its_start(loaded: &mut Loaded) -> Result<()> {
    loaded.serve().await
}

async fn one_node_serves_at_a_time(loaded: &mut Loaded) -> Result<()> {
    let (leader, granted) = loaded.leader().await?;
    for node in (0..NODES).filter(|&node| node != leader) {
        if let Some(other) = ask(&loaded.node(node)).await {
            // The leadership may have changed in between.
            ensure!(other.epoch > granted.epoch, "{leader} and {node} serve under one epoch");
            ensure!(other.range.first() > granted.range.last(), "{node} granted {other:?}");
        }
    }
    Ok(())
}

async fn another_node_serves_after_the_leader_was_killed(loaded: &mut Loaded) -> Result<()> {
    let (old, before) = loaded.leader().await?;
    loaded.cluster.kill.run(old).await?;
    let (new, after) = loaded.leader().await?;
    ensure!(new != old, "the node that was killed serves");
    ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
    loaded.serve().await
}

async fn a_second_failover_ends_as_the_first_did(loaded: &mut Loaded) -> Result<()> {
    for _ in 0..4 {
        let (old, _) = loaded.leader().await?;
        loaded.cluster.kill.run(old).await?;
        loaded.leader_besides(Some(old)).await?;
        loaded.serve().await?;
        loaded.cluster.start.run(old).await?;
        loaded.serve().await?;
    }
    Ok(())
}

async fn a_stopped_follower_is_not_missed(loaded: &mut Loaded) -> Result<()> {
    let (leader, _) = loaded.leader().await?;
    let follower = (leader + 1) % NODES;
    loaded.cluster.stop.run(follower).await?;
    loaded.serve().await?;
    loaded.cluster.start.run(follower).await?;
    loaded.serve().await
}

async fn a_node_far_behind_catches_up_before_it_is_counted_on(loaded: &mut Loaded) -> Result<()> {
    let (leader, _) = loaded.leader().await?;
    let [behind, other] = [(leader + 1) % NODES, (leader + 2) % NODES];
    loaded.cluster.kill.run(behind).await?;
    loaded.commit(MISSED).await?;
    loaded.cluster.start.run(behind).await?;
    // From here on nothing is done without it.
    loaded.cluster.kill.run(other).await?;
    loaded.serve().await?;
    loaded.cluster.start.run(other).await?;
    loaded.serve().await?;
    let (leader, _) = loaded.leader().await?;
    let gone = if leader == behind { other } else { leader };
    loaded.cluster.kill.run(gone).await?;
    loaded.leader_besides(Some(gone)).await?;
    loaded.serve().await
}

async fn a_wiped_follower_does_no_harm(loaded: &mut Loaded) -> Result<()> {
    let (leader, _) = loaded.leader().await?;
    let wiped = (leader + 1) % NODES;
    loaded.cluster.kill.run(wiped).await?;
    loaded.serve().await?;
    the(&loaded.cluster.wipe)?.run(wiped).await?;
    // A driver may refuse to start without what it had.
    let started = loaded.cluster.start.run(wiped).await;
    loaded.serve().await?;
    if started.is_ok() {
        loaded.cluster.kill.run(wiped).await?;
    }
    loaded.serve().await
}

/// Of three nodes, one is behind and one has lost everything: they are two, but of what was
/// acknowledged only the third one knows.
async fn a_wiped_node_makes_no_majority_forget(loaded: &mut Loaded) -> Result<()> {
    let (leader, _) = loaded.leader().await?;
    let [behind, wiped] = [(leader + 1) % NODES, (leader + 2) % NODES];
    loaded.cluster.kill.run(behind).await?;
    loaded.serve().await?;
    let request = SeqRequest::single(SeqKey::new("acknowledged")?, 5)?;
    loaded.sequence(request.clone()).await?;
    loaded.cluster.kill.run(wiped).await?;
    loaded.cluster.kill.run(leader).await?;
    the(&loaded.cluster.wipe)?.run(wiped).await?;
    loaded.cluster.start.run(behind).await?;
    // A driver may refuse to start without what it had. One that keeps nothing on its nodes serves
    // here, and rightly so.
    drop(loaded.cluster.start.run(wiped).await);
    loaded.serves(TEMPTATION).await;
    loaded.cluster.start.run(leader).await?;
    let next = loaded.sequence(request).await?;
    ensure!(next[0].start == 5, "after 0 to 4 were acknowledged, {next:?} was");
    Ok(())
}

async fn everything_is_there_after_all_were_killed(loaded: &mut Loaded) -> Result<()> {
    let (_, before) = loaded.leader().await?;
    let id = RequestId::new(Session::from_text("before"), 1, 1)?;
    let request = SeqRequest::new(vec![(SeqKey::new("orders")?, 5)], Some(id))?;
    let block = loaded.sequence(request.clone()).await?;
    for node in 0..NODES {
        loaded.cluster.kill.run(node).await?;
    }
    for node in 0..NODES {
        loaded.cluster.start.run(node).await?;
    }
    loaded.serve().await?;
    let (_, after) = loaded.leader().await?;
    ensure!(after.range.first() > before.range.last(), "{after:?} came after {before:?}");
    let again = loaded.sequence(request).await?;
    ensure!(again == block, "the same request got {block:?}, and then {again:?}");
    Ok(())
}

async fn order_holds_through_a_rolling_restart(loaded: &mut Loaded) -> Result<()> {
    for node in 0..NODES {
        loaded.cluster.stop.run(node).await?;
        loaded.serve().await?;
        loaded.cluster.start.run(node).await?;
        loaded.serve().await?;
    }
    Ok(())
}

/// One restart right after the other, as an impatient operator would. That none of the client's
/// calls failed is looked at when the load ends.
async fn no_call_of_a_client_fails_through_a_rolling_restart(loaded: &mut Loaded) -> Result<()> {
    for _ in 0..2 {
        for node in 0..NODES {
            loaded.cluster.stop.run(node).await?;
            loaded.cluster.start.run(node).await?;
            loaded.serve().await?;
        }
    }
    Ok(())
}

/// That none of the client's calls failed is looked at when the load ends.
async fn no_call_of_a_client_fails_while_leadership_is_transferred(
    loaded: &mut Loaded,
) -> Result<()> {
    for _ in 0..5 {
        let before = loaded.transfer().await?;
        let (_, after) = loaded.leader().await?;
        ensure!(after.range.first() > before.range.last(), "{after:?} came after {before:?}");
        ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
        loaded.serve().await?;
    }
    Ok(())
}

async fn a_leader_paused_past_its_lease_refuses_when_resumed(loaded: &mut Loaded) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    the(&loaded.cluster.pause)?.begin.run(old).await?;
    let (_, new) = loaded.leader_besides(Some(old)).await?;
    // One question waits for it, and another one comes at once.
    let node = loaded.node(old);
    let waiting = tokio::spawn(async move { node.get_ts(1).await.ok() });
    the(&loaded.cluster.pause)?.end.run(old).await?;
    let at_once = ask(&loaded.node(old)).await;
    for granted in [at_once, waiting.await?].into_iter().flatten() {
        // It may have been elected again, of course.
        ensure!(granted.range.first() > new.range.last(), "{new:?}, and then resumed {granted:?}");
        ensure!(granted.epoch > new.epoch, "it serves under its old epoch: {granted:?}");
    }
    loaded.serve().await
}

/// Leaders are paused, one after the other, until one leads that has led before.
async fn a_leader_that_comes_back_grants_above_all_before(loaded: &mut Loaded) -> Result<()> {
    let mut led = BTreeSet::new();
    for _ in 0..=NODES {
        let (old, before) = loaded.leader().await?;
        if !led.insert(old) {
            return loaded.serve().await;
        }
        the(&loaded.cluster.pause)?.begin.run(old).await?;
        let (_, after) = loaded.leader_besides(Some(old)).await?;
        ensure!(after.range.first() > before.range.last(), "{after:?} came after {before:?}");
        the(&loaded.cluster.pause)?.end.run(old).await?;
        loaded.serve().await?;
    }
    bail!("{led:?} led, and none of them again")
}

async fn a_cluster_that_stood_still_serves_again(loaded: &mut Loaded) -> Result<()> {
    for node in 0..NODES {
        the(&loaded.cluster.pause)?.begin.run(node).await?;
    }
    // Past every lease and every election.
    let lease = loaded.cluster.lease;
    loaded.pass(lease * 3).await;
    for node in 0..NODES {
        the(&loaded.cluster.pause)?.end.run(node).await?;
    }
    loaded.serve().await
}

async fn a_leader_cut_off_from_the_others_stops_granting(loaded: &mut Loaded) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    the(&loaded.cluster.partition)?.node.begin.run(old).await?;
    let (_, new) = loaded.leader_besides(Some(old)).await?;
    let granted = ask(&loaded.node(old)).await;
    ensure!(granted.is_none(), "{new:?}, and then the one that is cut off: {granted:?}");
    loaded.serve().await?;
    the(&loaded.cluster.partition)?.node.end.run(old).await?;
    loaded.serve().await
}

async fn a_second_leader_cut_off_is_replaced_as_the_first_was(loaded: &mut Loaded) -> Result<()> {
    for _ in 0..3 {
        let (old, _) = loaded.leader().await?;
        the(&loaded.cluster.partition)?.node.begin.run(old).await?;
        loaded.leader_besides(Some(old)).await?;
        loaded.serve().await?;
        the(&loaded.cluster.partition)?.node.end.run(old).await?;
        loaded.serve().await?;
    }
    Ok(())
}

async fn a_follower_cut_off_from_the_others_is_not_missed(loaded: &mut Loaded) -> Result<()> {
    let (leader, _) = loaded.leader().await?;
    let follower = (leader + 1) % NODES;
    the(&loaded.cluster.partition)?.node.begin.run(follower).await?;
    loaded.commit(MISSED / 4).await?;
    let granted = ask(&loaded.node(follower)).await;
    ensure!(granted.is_none(), "a node that is cut off granted {granted:?}");
    the(&loaded.cluster.partition)?.node.end.run(follower).await?;
    loaded.serve().await?;
    // It is in touch again: nothing is done without it.
    let (leader, _) = loaded.leader().await?;
    let gone = if leader == follower { (follower + 1) % NODES } else { leader };
    loaded.cluster.kill.run(gone).await?;
    loaded.leader_besides(Some(gone)).await?;
    loaded.serve().await
}

/// Of three links one is cut. The follower hears from no leader, but from a node that does.
async fn a_follower_cut_off_from_the_leader_alone_does_no_harm(loaded: &mut Loaded) -> Result<()> {
    for _ in 0..2 {
        let (leader, _) = loaded.leader().await?;
        let follower = (leader + 1) % NODES;
        the(&loaded.cluster.partition)?.link.begin.run((leader, follower)).await?;
        // Elections come and go meanwhile.
        for _ in 0..3 {
            loaded.pass(loaded.cluster.lease).await;
            loaded.serve().await?;
        }
        the(&loaded.cluster.partition)?.link.end.run((leader, follower)).await?;
        loaded.serve().await?;
    }
    Ok(())
}

/// One at a time, and with that also whichever leads the others. That none of the client's calls
/// failed is looked at when the load ends.
async fn no_call_of_a_client_fails_while_backing_services_die_in_turn(
    loaded: &mut Loaded,
) -> Result<()> {
    for service in 0..the(&loaded.cluster.backing_services)?.count {
        the(&loaded.cluster.backing_services)?.kill.begin.run(service).await?;
        loaded.commit(MISSED / 4).await?;
        loaded.serve().await?;
        the(&loaded.cluster.backing_services)?.kill.end.run(service).await?;
        loaded.commit(MISSED / 4).await?;
        loaded.serve().await?;
    }
    Ok(())
}
