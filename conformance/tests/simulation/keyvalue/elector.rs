//! Who leads: the node that has created the election key.

use std::{sync::Arc, time::Duration};

use tsoracle_core::{BootTime, Clock, LeaderHint, Leadership};

use super::{
    Claim, Shared,
    store::{Holder, Request, TTL},
};
use crate::reached::Reached;

/// How often a contender looks who leads, and which version the state is at.
const LOOK: Duration = Duration::from_millis(100);

/// The leader looks whether it still is one so often while its lease lasts.
const LOOKS_PER_TTL: u32 = 5;

/// How long a node that has resigned leaves it to others to lead.
const RESIGNED: Duration = Duration::from_secs(3);

pub(super) struct Elector {
    shared: Arc<Shared>,
    /// A lease to stand for election with, and when it was asked for.
    lease: Option<(u64, BootTime)>,
    /// Claims are numbered.
    claims: u64,
    campaigns_from: BootTime,
}

impl Elector {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lease: None, claims: 0, campaigns_from: BootTime::default() }
    }

    /// Takes part in the election until the node stops.
    pub(super) async fn run(mut self) {
        let mut answered = self.shared.clock.now().boot;
        while !self.shared.is_stopped() {
            let began = self.shared.clock.now().boot;
            match self.round(began).await {
                Some(()) => answered = began,
                // Once the store has been silent for as long as leases last, it is not known who leads.
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
        let claim = *self.shared.claim.lock().unwrap();
        let resigned = self.shared.resigned.lock().unwrap().take();
        if let Some(claim) = claim
            && resigned == Some(claim.number)
        {
            self.shared.world.reached(Reached::Resigned);
            self.give_up();
            self.campaigns_from = began + RESIGNED;
            return self.shared.ask_again(Request::Revoke(claim.lease)).await.map(drop);
        }
        let found = self.shared.ask(Request::Look).await?;
        let Some(holder) = found.holder else {
            self.give_up();
            return self.campaign(began).await;
        };
        let is_ours = self.lease.is_some_and(|(lease, _)| lease == holder.lease);
        match claim {
            Some(claim) if claim.created == holder.created => {
                // What is answered is a hint at most: the next look tells whether the key still exists.
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
        if began < self.campaigns_from || self.shared.is_stopped() {
            return Some(());
        }
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

    fn lead(&mut self, Holder { created, lease, .. }: Holder) -> Option<()> {
        self.claims += 1;
        let number = self.claims;
        *self.shared.claim.lock().unwrap() = Some(Claim { number, created, lease });
        self.shared.tell(Leadership::Leader { claim: number });
        Some(())
    }

    /// Tells who leads, and now and then takes it for dead, or itself for the leader, rightly or not.
    async fn follow(&mut self, holder: Holder) -> Option<()> {
        if self.shared.world.believes_to_lead() {
            self.shared.world.reached(Reached::FalseBelief);
            self.claims += 1;
            self.shared.tell(Leadership::Leader { claim: self.claims });
            return Some(());
        }
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
