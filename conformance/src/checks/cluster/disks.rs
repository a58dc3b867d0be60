//! Disks that hang, and what they lose with the power.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tsoracle_core::{RequestId, SeqKey, SeqRequest, Session};

use super::loaded::{Loaded, NODES};
use crate::{Service, fixture::the};

cluster_checks!(NODES;
    a_leader_whose_disk_hangs_is_replaced [disk],
    what_a_leader_lost_with_the_power_is_asked_for_again_and_done_once [disk],
    what_a_minority_holds_after_a_power_loss_binds_no_node [disk, partition],
);

/// How long what is under way is given to get to the others, and to be answered too early.
const UNDER_WAY: Duration = Duration::from_millis(500);

async fn a_leader_whose_disk_hangs_is_replaced(loaded: &mut Loaded) -> Result<()> {
    let (old, before) = loaded.leader().await?;
    the(&loaded.cluster.disk)?.hang.begin.run(old).await?;
    let (new, after) = loaded.leader_besides(Some(old)).await?;
    ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
    loaded.serve().await?;
    the(&loaded.cluster.disk)?.hang.end.run(old).await?;
    loaded.serve().await?;
    // It follows: with the new leader gone, nothing is done without it.
    loaded.cluster.kill.run(new).await?;
    loaded.leader_besides(Some(new)).await?;
    loaded.serve().await
}

async fn what_a_leader_lost_with_the_power_is_asked_for_again_and_done_once(
    loaded: &mut Loaded,
) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    let askers: Vec<_> =
        (0..ASKERS).map(|number| tokio::spawn(Asker { number }.ask(loaded.node(old)))).collect();
    loaded.serve().await?;
    the(&loaded.cluster.disk)?.hang.begin.run(old).await?;
    loaded.leader_besides(Some(old)).await?;
    the(&loaded.cluster.disk)?.lose_power.run(old).await?;
    loaded.cluster.start.run(old).await?;
    for (number, asker) in askers.into_iter().enumerate() {
        let (asker, answered) = (Asker { number }, asker.await?);
        ensure!(answered > 0, "nothing was answered before the disk hung");
        // The others may have it, or may not. What was answered stands in any case.
        let lost = asker.request(answered + 1)?;
        for _ in 0..2 {
            let got = loaded.sequence(lost.clone()).await?;
            ensure!(got[0].start == answered, "after {answered} values were answered, {got:?} was");
        }
        let next = loaded.sequence(asker.request(answered + 2)?).await?;
        ensure!(next[0].start == answered + 1, "it was done twice: then came {next:?}");
    }
    Ok(())
}

/// Enough that some of them have a request in the very commit that hangs.
const ASKERS: usize = 4;

/// A caller that requests one value after the other, each under an id.
#[derive(Clone, Copy)]
struct Asker {
    number: usize,
}

impl Asker {
    fn request(self, number: u64) -> Result<SeqRequest> {
        let name = format!("asker {}", self.number);
        let id = RequestId::new(Session::from_text(&name), number, number)?;
        Ok(SeqRequest::new(vec![(SeqKey::new(&name)?, 1)], Some(id))?)
    }

    /// Asks a node until it fails, and says how many times it has answered.
    async fn ask(self, node: Arc<dyn Service>) -> u64 {
        let mut answered = 0;
        while let Ok(request) = self.request(answered + 1)
            && node.get_seq(request).await.is_ok()
        {
            answered += 1;
        }
        answered
    }
}

/// What comes to one follower only, and is lost by the leader, was held by no majority. The two
/// others go on without it, in its place.
async fn what_a_minority_holds_after_a_power_loss_binds_no_node(loaded: &mut Loaded) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    let [knows, other] = [(old + 1) % NODES, (old + 2) % NODES];
    the(&loaded.cluster.partition)?.link.begin.run((old, other)).await?;
    the(&loaded.cluster.disk)?.hang.begin.run(old).await?;
    // The load goes on asking, so that there is something under way.
    loaded.pass(UNDER_WAY).await;
    // It keeps what it has received, also what it has only in memory.
    the(&loaded.cluster.partition)?.node.begin.run(knows).await?;
    the(&loaded.cluster.disk)?.lose_power.run(old).await?;
    the(&loaded.cluster.partition)?.link.end.run((old, other)).await?;
    loaded.cluster.start.run(old).await?;
    // Little, so that the one that is cut off gets it from the log, and not as a snapshot of the state.
    loaded.commit(1).await.context("without what was lost")?;
    the(&loaded.cluster.partition)?.node.end.run(knows).await?;
    loaded.serve().await?;
    // From here on nothing is done without the one that knew of it, nor, soon, by any other.
    for gone in [other, old] {
        loaded.cluster.kill.run(gone).await?;
        loaded.leader_besides(Some(gone)).await.context("with the one that knew")?;
        loaded.serve().await?;
        loaded.cluster.start.run(gone).await?;
        loaded.serve().await?;
    }
    Ok(())
}
