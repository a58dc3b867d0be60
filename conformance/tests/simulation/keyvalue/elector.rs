//! Who leads: whoever has created the election key.

use std::{sync::Arc, time::Duration};

use tsoracle_core::{BootTime, Clock, LeaderHint, Leadership};

use super::{
    Claim, Shared,
    store::{Holder, Request, TTL},
};

/// How often a contender looks who leads, and what was written of the reign.
const LOOK: Duration = Duration::from_millis(100);

/// The leader looks whether it still is one so often while its lease lasts.
const LOOKS_PER_TTL: u32 = 5;

pub(super) struct Elector {
    shared: Arc<Shared>,
    /// A lease to stand for election with, and when it was asked for.
    lease: Option<(u64, BootTime)>,
}

impl Elector {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lease: None }
    }

    /// Takes part in the election, for as long as the node runs.
    pub(super) async fn run(mut self) {
        let mut answered = self.shared.clock.now().boot;
        loop {
            let began = self.shared.clock.now().boot;
            match self.round(began).await {
                Some(()) => answered = began,
                // Once the store has been silent for as long as leases last, nobody knows who leads.
                None if began.since(answered) >= TTL => {
                    self.give_up();
                    self.shared.tell(Leadership::Unknown);
                }
                None => {}
            }
            let leads = self.shared.claim.lock().unwrap().is_some();
            let pause = if leads { TTL / LOOKS_PER_TTL } else { LOOK };
            tokio::select! {
                biased;
                () = self.shared.look.notified() => {}
                () = self.shared.clock.sleep(pause) => {}
            }
        }
    }

    /// Looks who leads, and does what is to be done about it. `None` if the store did not answer.
    async fn round(&mut self, began: BootTime) -> Option<()> {
        let found = self.shared.ask(Request::Look).await?;
        self.shared.saw_reign(found.state.reign);
        let claim = *self.shared.claim.lock().unwrap();
        let Some(holder) = found.holder else {
            self.give_up();
            return self.campaign(began).await;
        };
        let is_ours = self.lease.is_some_and(|(lease, _)| lease == holder.lease);
        match claim {
            Some(claim) if claim.created == holder.created => {
                // What is answered is a hint at most: whether the key is there, the next look tells.
                self.shared.ask(Request::KeepAlive(claim.lease)).await.map(drop)
            }
            // An answer to a campaign of this node was lost.
            None if is_ours => self.lead(holder),
            _ => {
                self.give_up();
                self.follow(holder).await
            }
        }
    }

    async fn campaign(&mut self, began: BootTime) -> Option<()> {
        let lease = match self.lease {
            // One that was asked for long ago would run out soon.
            Some((lease, granted)) if began.since(granted) < TTL / 2 => lease,
            _ => {
                let lease = self.shared.ask(Request::Grant).await?.lease;
                self.lease = Some((lease, began));
                lease
            }
        };
        let campaign = Request::Campaign { node: self.shared.me, lease };
        let holder = self.shared.ask(campaign).await?.holder;
        match holder.filter(|holder| holder.lease == lease) {
            Some(holder) => self.lead(holder),
            None => Some(()),
        }
    }

    fn lead(&self, Holder { created, lease, .. }: Holder) -> Option<()> {
        let claim = Claim { created, lease };
        *self.shared.claim.lock().unwrap() = Some(claim);
        self.shared.tell(Leadership::Leader { epoch: claim.epoch() });
        Some(())
    }

    /// Says who leads, and now and then takes it for dead, rightly or not.
    async fn follow(&self, holder: Holder) -> Option<()> {
        let hint = LeaderHint { endpoint: holder.node.to_string(), epoch: None };
        self.shared.tell(Leadership::Follower { leader: Some(hint) });
        if self.shared.world.takes_the_leader_for_dead() {
            self.shared.ask(Request::Depose(holder.created)).await?;
            self.shared.look.notify_one();
        }
        Some(())
    }

    /// Ends the claim, if there is one: its key is not this node's any more, or will not be for long.
    fn give_up(&mut self) {
        if self.shared.claim.lock().unwrap().take().is_some() {
            self.lease = None;
            self.shared.tell(Leadership::Unknown);
        }
    }
}
