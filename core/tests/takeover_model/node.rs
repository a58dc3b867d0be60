//! What a node keeps in memory, all of which a crash takes away, and the commits on their way.

use crate::record::{Kind, Record, Version, Wait};

/// Where a node stands in the four steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Nothing to do but to wait for an answer, or to claim.
    Idle,
    /// The fence is stored; Open may be submitted once the boot clock reads `until`.
    Waiting {
        until: u16,
        floor: u8,
    },
    Leading,
    /// Its reign is closed, and a commit of it may be in flight.
    Stopping,
    /// Release is submitted.
    Releasing,
}

/// A reign as it is in memory: allocation word, ceiling, deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reign {
    pub(crate) epoch: u8,
    /// The next timestamp to grant.
    pub(crate) next: u8,
    pub(crate) ceiling: u8,
    /// The boot-clock reading at which the lease ends; 0 once it has lapsed.
    pub(crate) deadline: u16,
    pub(crate) closed: bool,
}

impl Reign {
    /// Raises ceiling and deadline, as an extension does: never the word, and never downwards.
    pub(crate) fn raise(&mut self, ceiling: u8, deadline: u16) {
        self.ceiling = self.ceiling.max(ceiling);
        self.deadline = self.deadline.max(deadline);
    }

    pub(crate) fn is_valid(&self, clock: u16) -> bool {
        !self.closed && clock < self.deadline
    }
}

/// A call that has arrived, loaded a reign and passed the lease check, and was paused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// The epoch of the reign it loaded.
    pub(crate) epoch: u8,
    /// The lowest timestamp above all that any client had received when this call was sent. `None`
    /// only in a model that checks the lease before the call has arrived.
    pub(crate) above: Option<u8>,
}

/// Which version this node has observed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Evidence {
    pub(crate) version: Version,
    pub(crate) at: u16,
}

/// What the present claim had stored last: the base of its next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) version: Version,
    pub(crate) record: Record,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// Of the present claim, as its fence writes it; 0 for none.
    pub(crate) epoch: u8,
    pub(crate) step: Step,
    pub(crate) held: Option<Held>,
    /// The reign that a call loads on arrival.
    pub(crate) reign: Option<Reign>,
    /// An older reign that a paused call still holds on to.
    pub(crate) old_reign: Option<Reign>,
    pub(crate) call: Option<Call>,
    pub(crate) seen: Option<Evidence>,
}

impl Node {
    pub(crate) fn started() -> Self {
        Self {
            epoch: 0,
            step: Step::Idle,
            held: None,
            reign: None,
            old_reign: None,
            call: None,
            seen: None,
        }
    }

    pub(crate) fn reign_of(&mut self, epoch: u8) -> Option<&mut Reign> {
        let reigns = [&mut self.reign, &mut self.old_reign];
        reigns.into_iter().flatten().find(|reign| reign.epoch == epoch)
    }

    pub(crate) fn reigns(&mut self) -> impl Iterator<Item = &mut Reign> {
        [&mut self.reign, &mut self.old_reign].into_iter().flatten()
    }

    /// Makes `reign` the one that calls load. A call that holds an older one keeps it.
    pub(crate) fn begin(&mut self, reign: Reign) {
        let replaced = self.reign.replace(reign);
        let held = self.call.map(|call| call.epoch);
        if replaced.is_some_and(|old| Some(old.epoch) == held) {
            self.old_reign = replaced;
        }
    }

    pub(crate) fn close(&mut self) {
        if let Some(reign) = &mut self.reign {
            reign.closed = true;
            reign.deadline = 0;
        }
    }
}

/// A commit on its way: submitted, perhaps stored, its answer not yet received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Commit {
    pub(crate) node: usize,
    /// Of the claim that submitted it.
    pub(crate) epoch: u8,
    pub(crate) kind: Kind,
    pub(crate) base: Version,
    /// The version that it makes.
    pub(crate) version: Version,
    /// The record as it is afterwards, and whether the commit writes it.
    pub(crate) record: Record,
    pub(crate) floor: u8,
    pub(crate) wait: Option<Wait>,
    /// The boot clock of the node when it submitted the commit.
    pub(crate) start: u16,
    /// Cleared when the node crashes.
    pub(crate) awaited: bool,
    pub(crate) stored: bool,
}
