//! What a node keeps in memory, all of which a crash takes away.

use crate::record::{Author, Command, Reply};

/// Where a node stands in the four steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Nothing to do but to wait for a reply, or to claim.
    Idle,
    /// The fence was answered; Open may be submitted once the boot clock reads `until`.
    Waiting {
        until: u16,
        floor: u8,
        ceiling: u8,
    },
    Leading,
    Releasing,
}

/// A reign as it is in memory: allocation word, ceiling, deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reign {
    pub(crate) epoch: u8,
    /// The next timestamp to grant.
    pub(crate) next: u8,
    pub(crate) ceiling: u8,
    /// The boot-clock reading at which the lease ends; 0 once it has lapsed or is closed.
    pub(crate) deadline: u16,
}

impl Reign {
    /// Raises ceiling and deadline, as an extension does: never the word, and never downwards.
    pub(crate) fn raise(&mut self, ceiling: u8, deadline: u16) {
        self.ceiling = self.ceiling.max(ceiling);
        self.deadline = self.deadline.max(deadline);
    }
}

/// A call that has arrived, loaded a reign and passed the lease check, and was paused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// The epoch of the reign it loaded.
    pub(crate) epoch: u8,
    /// The lowest timestamp above all that anyone had received when this call was sent. `None`
    /// only in a model that checks the lease before the call is there.
    pub(crate) above: Option<u8>,
}

/// When this node saw which write of the reign record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Evidence {
    pub(crate) revision: u8,
    pub(crate) at: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) epoch: u8,
    pub(crate) step: Step,
    /// The reign that a call loads on arrival.
    pub(crate) reign: Option<Reign>,
    /// An older reign that a paused call still holds on to.
    pub(crate) old_reign: Option<Reign>,
    pub(crate) call: Option<Call>,
    pub(crate) seen: Option<Evidence>,
}

impl Node {
    pub(crate) fn started() -> Self {
        Self { epoch: 0, step: Step::Idle, reign: None, old_reign: None, call: None, seen: None }
    }

    pub(crate) fn reign_of(&mut self, epoch: u8) -> Option<&mut Reign> {
        let reigns = [&mut self.reign, &mut self.old_reign];
        reigns.into_iter().flatten().find(|reign| reign.epoch == epoch)
    }

    pub(crate) fn raise_all(&mut self, ceiling: u8, deadline: u16) {
        for reign in [&mut self.reign, &mut self.old_reign].into_iter().flatten() {
            reign.raise(ceiling, deadline);
        }
    }

    /// Makes `reign` the one that calls load. A call that holds an older one keeps it.
    pub(crate) fn begin(&mut self, reign: Reign) {
        let replaced = self.reign.replace(reign);
        let held = self.call.map(|call| call.epoch);
        if replaced.is_some_and(|old| Some(old.epoch) == held) {
            self.old_reign = replaced;
        }
    }
}

/// A commit on its way: submitted, perhaps landed, its answer not yet received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Commit {
    pub(crate) node: usize,
    pub(crate) author: Author,
    pub(crate) command: Command,
    /// The boot clock of the node when it submitted the commit.
    pub(crate) start: u16,
    /// Cleared when the node gives up on it (the outcome is uncertain) or crashes.
    pub(crate) awaited: bool,
    pub(crate) reply: Option<Reply>,
}

impl Commit {
    pub(crate) fn epoch(&self) -> u8 {
        self.author.epoch
    }

    pub(crate) fn may_land(&self) -> bool {
        self.reply.is_none()
    }
}
