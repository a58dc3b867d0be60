use std::sync::Arc;

use async_trait::async_trait;

use super::Oracle;
use crate::{Error, ErrorKind, Members, Membership, MembershipChange, Result, engine::Handover};

impl Oracle {
    /// The nodes of the cluster, if the driver lets them be changed.
    ///
    /// A transfer ends the reign as [`shutdown`](Self::shutdown) does, before the driver is asked to
    /// move leadership: the next leader need not wait for the lease. If no other node takes over, this
    /// node serves again under a claim of its own. One transfer is made at a time; one whose future
    /// is dropped before it was begun is not made. Any other change is the driver's to order: it may have
    /// to wait for a node, and holds up nothing here.
    pub fn membership(&self) -> Option<Arc<dyn Membership>> {
        let driver = self.shared.guard.driver().membership()?;
        Some(Arc::new(Changes { oracle: self.clone(), driver }))
    }
}

/// The driver's members, whose lead is handed over and not just moved.
#[derive(Debug)]
struct Changes {
    oracle: Oracle,
    driver: Arc<dyn Membership>,
}

#[async_trait]
impl Membership for Changes {
    async fn members(&self) -> Result<Members> {
        self.driver.members().await
    }

    async fn change(&self, change: MembershipChange) -> Result<()> {
        if let MembershipChange::Transfer { to } = change
            && let Some(handed) = self.hand_over(to).await
        {
            return handed;
        }
        let driver = self.driver.clone();
        let changing = tokio::spawn(async move { driver.change(change).await });
        changing.await.unwrap_or_else(|panic| {
            let context = "the driver panicked in a change of members, which may have been made";
            Err(Error::new(ErrorKind::Uncertain, context).with_source(panic))
        })
    }
}

impl Changes {
    /// Has the open reign released, and then leadership moved. Nothing if there is no reign, or the
    /// driver would not move it: it knows what to say then.
    async fn hand_over(&self, to: Option<u64>) -> Option<Result<()>> {
        let alone = self.oracle.control.transferring.clone().lock_owned().await;
        let members = self.driver.members().await.ok()?;
        let is_other = |id| members.leader != Some(id) && to.is_none_or(|to| to == id);
        if !members.members.iter().any(|member| member.votes && is_other(member.id)) {
            return None;
        }
        // One that is about to open would cost its successor the lease.
        let reign = self.oracle.wait(|| self.oracle.reign()).await.ok()?;
        let (handover, outcome) = Handover::new(self.driver.clone(), to, alone);
        // A reign that has ended meanwhile drops it.
        let _ = reign.queues.handovers.send(handover);
        drop(reign);
        outcome.await.ok()
    }
}
