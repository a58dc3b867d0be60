//! Whether this node leads, and what it tells of that.

use omnipaxos::ballot_leader_election::Ballot;
use tsoracle_cluster::EntryId;
use tsoracle_core::{BootTime, Epoch, Error, ErrorKind, LeaderHint, Leadership, Result};

use crate::{
    epoch::{epoch, is_under},
    node::Node,
};

/// After so many rounds of heartbeats without a majority a leader gives up its claim.
const MISSES: u32 = 3;

/// How many bytes the log may take before nothing more is appended. It is cut long before, unless
/// nothing is decided any more. All of it has to fit into what waits for a peer.
const MOST_BYTES: usize = 32 << 20;

/// This node's claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Office {
    /// It has none.
    None,
    /// It was elected, and its claim is worth something once the entry that says so is applied: by
    /// then a majority has agreed to it, and everything decided before is applied as well.
    Claims { ballot: Ballot, epoch: Epoch, entry: EntryId },
    /// It leads.
    Leads { ballot: Ballot, epoch: Epoch },
}

impl Node {
    /// Makes a claim if this node was elected, and gives it up if it was not.
    pub(crate) fn mind_office(&mut self, now: BootTime) -> Result<()> {
        let promise = self.paxos.get_promise();
        if promise != self.promise {
            self.promise = promise;
            self.peers.drop_carrying();
        }
        let is_elected = self.paxos.get_current_leader() == Some((self.own, true));
        let is_heard = self.missed < MISSES;
        if let Office::Claims { ballot, .. } | Office::Leads { ballot, .. } = self.office {
            if is_elected && is_heard && ballot == promise {
                return Ok(());
            }
            tracing::info!(?ballot, is_elected, is_heard, "this node does not lead any more");
            self.office = Office::None;
            // They may yet be decided by the next leader.
            self.waiting.give_up("leadership was lost before a majority had answered");
        }
        if is_elected && self.missed == 0 && self.leaving.is_none() {
            let claim = self.identity.raise_claim(&self.store)?;
            let epoch = epoch(promise, claim.into())?;
            let entry = self.append(epoch, vec![], now)?;
            self.office = Office::Claims { ballot: promise, epoch, entry };
        }
        Ok(())
    }

    /// An entry was applied: it may be the one that the claim waits for.
    pub(crate) fn was_applied(&mut self, id: EntryId, under: Epoch) {
        self.epoch = self.epoch.max(under);
        if let Office::Claims { ballot, epoch, entry } = self.office
            && entry == id
        {
            tracing::info!(%epoch, ?ballot, "this node leads");
            self.office = Office::Leads { ballot, epoch };
        }
    }

    /// The epoch under which a call is carried out: that of this node's claim, and no other.
    ///
    /// # Errors
    /// `NotLeader` and `Unavailable`: OmniPaxos would forward the entry of a follower, and never say
    /// what became of it.
    pub(crate) fn admit(&self, asked: Option<Epoch>, now: BootTime) -> Result<Epoch> {
        if self.leaving.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "the driver is stopping"));
        }
        match self.office {
            Office::Leads { epoch, .. } if asked.is_none_or(|asked| asked == epoch) => {
                if self.log.borrow().bytes() > MOST_BYTES {
                    let context = "too much waits for a majority already";
                    return Err(Error::new(ErrorKind::Unavailable, context));
                }
                Ok(epoch)
            }
            Office::Leads { epoch, .. } => {
                let asked = asked.unwrap_or_default();
                let context = format!("epoch {asked} is not this leader's, which is {epoch}");
                Err(Error::new(ErrorKind::NotLeader(None), context))
            }
            _ => {
                let hint = self.leader(now);
                Err(Error::new(ErrorKind::NotLeader(hint), "this node does not lead"))
            }
        }
    }

    /// Tells everyone who leads, as far as this node knows.
    pub(crate) fn announce(&self, now: BootTime) {
        let leadership = match self.office {
            Office::Leads { epoch, .. } => Leadership::Leader { epoch },
            _ => match self.leader(now) {
                Some(leader) => Leadership::Follower { leader: Some(leader) },
                None => Leadership::Unknown,
            },
        };
        if let Some(lead) = &self.lead {
            lead.send_if_modified(|known| {
                let is_new = *known != leadership;
                *known = leadership;
                is_new
            });
        }
    }

    /// Where the leader is, unless that is this node, or nobody is known to be one.
    fn leader(&self, now: BootTime) -> Option<LeaderHint> {
        // The one that this node follows, if it is still there; or the one that a neighbour follows,
        // where not every node reaches every other.
        let followed = self.paxos.get_current_leader().filter(|(leader, is_accepting)| {
            let peer = u32::try_from(*leader).unwrap_or_default();
            *is_accepting && self.peers.is_heard(peer, now, self.heartbeats * 2)
        });
        let ballot = match followed {
            Some(_) => self.promise,
            None => {
                let happy = self.neighbours.iter().filter(|reply| reply.happy);
                happy.map(|reply| reply.leader).max()?
            }
        };
        let node = u32::try_from(ballot.pid).ok().filter(|node| u64::from(*node) != self.own)?;
        let endpoint = self.members.get(&node)?.service.clone();
        let epoch = Some(self.epoch).filter(|epoch| is_under(*epoch, ballot));
        Some(LeaderHint { endpoint, epoch })
    }
}
