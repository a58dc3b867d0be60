//! The end of a reign: leadership is handed over, or this node stops.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::Service;
use crate::{
    Result,
    engine::{Ended, Handover, Pending, Phase, group::Group, takeover::BACKOFF},
    state::{Command, Moment},
};

impl Service<'_> {
    /// Whether leadership is to be handed over: not if the caller is gone.
    pub(super) fn is_to_hand_over(&mut self, handover: Handover) -> bool {
        self.handover = Some(handover).filter(|handover| !handover.is_abandoned());
        self.handover.is_some()
    }

    /// Ends the reign gracefully: closes it in memory, commits what was accepted, and releases, so
    /// that the successor need not wait for the lease.
    pub(super) async fn release(mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        self.reign.close();
        self.shared.reign.store(None);
        let handover = self.handover.take();
        self.shared.enter(match handover {
            Some(_) => Phase::Electing,
            None => Phase::Stopping,
        });
        if let Err(ended) = self.commit_accepted().await {
            return ended;
        }
        loop {
            match self.commit_release().await {
                Err(ended) => return ended,
                Ok(Ok(())) => break,
                Ok(Err(_)) if handover.is_none() => return Ended::Stopped,
                // Without a release the successor would have to wait for the lease.
                Ok(Err(_)) => tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
                    () = self.shared.clock.sleep(self.pause) => {}
                },
            }
            self.pause = (self.pause * 2).min(BACKOFF.1);
        }
        match handover {
            Some(handover) => {
                handover.go_on();
                Ended::HandedOver
            }
            None => Ended::Stopped,
        }
    }

    async fn commit_release(&mut self) -> Result<Result<()>, Ended> {
        let at = self.planner.moment(self.shared.clock.now());
        let mut none = VecDeque::new();
        match self.planner.group(&[Command::Release], &mut none, at).await {
            // An attempt before this one, or a later reign, has ended it.
            Ok(group) if group.is_fenced() => Ok(Ok(())),
            Ok(group) => self.store(group, none).await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// Works out accepted requests. The lease may be over: where they write nothing, a renewal goes along,
    /// so that nothing is refused or repeated without a commit. It reserves nothing, and the release follows.
    async fn accepted_group(&mut self, dealt: &mut VecDeque<Pending>, at: Moment) -> Result<Group> {
        let group = self.planner.group(&[], dealt, at).await?;
        if !group.is_empty() || group.commands() == 0 {
            return Ok(group);
        }
        let renewal = Command::Extend { high_water_ms: 0, elapsed_ms: at.elapsed_ms };
        self.planner.group(&[renewal], dealt, at).await
    }

    /// Commits the requests that are there already, and closes the queue.
    async fn commit_accepted(&mut self) -> Result<(), Ended> {
        if !self.planner.ahead.is_empty() {
            self.drop_plans();
        }
        self.arrivals.requests.close();
        while let Some(accepted) = self.arrivals.requests.recv().await {
            self.backlog.push(accepted);
        }
        let at = self.planner.moment(self.shared.clock.now());
        // What cannot be planned now is given back to its callers as not committed.
        while !self.backlog.is_empty() {
            let mut dealt = self.backlog.deal();
            let Ok(group) = self.accepted_group(&mut dealt, at).await else { break };
            if group.commands() == 0 {
                break;
            }
            if group.is_fenced() {
                return Err(Ended::Fenced);
            }
            if self.store(group, dealt).await?.is_err() {
                break;
            }
        }
        Ok(())
    }
}
