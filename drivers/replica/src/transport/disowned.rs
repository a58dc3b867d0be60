use std::{collections::BTreeSet, sync::Mutex};

use tokio::sync::watch;
use tsoracle_core::{Error, ErrorKind};

use super::lock;

/// Whether the members know this node by another directory than it has: then it was wiped, and must not take
/// part as if it had not been.
///
/// One member alone is not believed: it may be a stray node of another cluster with the same name.
#[derive(Default)]
pub(super) struct Disowned {
    votes: Mutex<Votes>,
    failure: watch::Sender<Option<Error>>,
}

#[derive(Default)]
struct Votes {
    /// The other members, as far as this node knows.
    others: BTreeSet<u32>,
    disowning: BTreeSet<u32>,
}

impl Disowned {
    /// `node` is a member.
    pub(super) fn note_member(&self, node: u32) {
        lock(&self.votes).others.insert(node);
    }

    /// These are the other members from now on.
    pub(super) fn set_members(&self, others: BTreeSet<u32>) {
        // A node that is removed itself may learn it by the word of those that it knew before.
        if !others.is_empty() {
            lock(&self.votes).others = others;
        }
    }

    /// The member `node` refuses this one, for that reason. It is believed once a majority of the members does,
    /// or all others of two.
    pub(super) fn vote(&self, node: u32, reason: &str) {
        let mut votes = lock(&self.votes);
        if !votes.others.contains(&node) {
            return;
        }
        votes.disowning.insert(node);
        let majority = votes.others.len().div_ceil(2) + 1;
        if votes.disowning.len() >= majority.min(votes.others.len()) {
            self.fail(Error::new(ErrorKind::Excluded, reason));
        }
    }

    /// This node must end, for that reason if there was none before.
    pub(super) fn fail(&self, error: Error) {
        self.failure.send_if_modified(|known| {
            let is_new = known.is_none();
            known.get_or_insert(error);
            is_new
        });
    }

    /// Why this node must end, once it must.
    pub(super) fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.failure.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes_until_believed(members: u32) -> Option<usize> {
        let disowned = Disowned::default();
        (2..=members).for_each(|node| disowned.note_member(node));
        (2..=members).position(|node| {
            disowned.vote(node, "it was wiped");
            disowned.vote(node, "it was wiped");
            disowned.vote(members + 1, "a node that is no member");
            disowned.failure().borrow().is_some()
        })
    }

    #[test]
    fn a_majority_of_the_members_is_believed() {
        let votes = (1..=5).map(votes_until_believed).collect::<Vec<_>>();
        assert_eq!(votes, [None, Some(0), Some(1), Some(2), Some(2)]);
    }
}
