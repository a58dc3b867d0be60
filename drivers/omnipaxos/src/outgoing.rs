//! What goes to the peers, and what has to be durable before.

use omnipaxos::messages::{
    Message,
    ballot_leader_election::{BLEMessage, HeartbeatMsg},
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tsoracle_core::Result;

use crate::{entry::Entry, node::Node};

impl Node {
    /// Makes durable what has changed, and sends the messages that depend on it; or owes it until those
    /// that do not are on their way.
    ///
    /// Entries on their way to the followers need not wait for this node's own disk: its vote counts
    /// only in a later round, when they are durable here, and a leader that loses them in a crash
    /// has promised nothing by having sent them, since it never leads under that ballot again.
    pub(crate) fn send(&mut self, is_due: bool) -> Result<()> {
        let messages = self.outgoing(is_due);
        let precede = self.log.borrow().has_only_appended() && messages.iter().all(may_precede);
        if !precede && self.log.borrow().urgent {
            self.persist()?;
        }
        for mut message in messages {
            self.follow_promise(&mut message);
            self.peers.send(message, &mut self.replica)?;
        }
        self.owes = precede && self.log.borrow().urgent;
        Ok(())
    }

    /// What is to be sent now. That something was decided waits for what comes next, which is soon
    /// where there is much to do: only this leader has callers to answer. By itself it leaves when the
    /// clock ticks.
    fn outgoing(&mut self, is_due: bool) -> Vec<Message<Entry>> {
        let mut messages = Vec::new();
        self.paxos.take_outgoing_messages(&mut messages);
        let is_news = |message: &Message<Entry>| {
            matches!(message, Message::SequencePaxos(_)) && !is_decision(message)
        };
        if is_due || messages.iter().any(is_news) {
            let mut all = std::mem::take(&mut self.decisions);
            all.append(&mut messages);
            return all;
        }
        let (decisions, others): (Vec<_>, _) = messages.into_iter().partition(is_decision);
        self.decisions.extend(decisions);
        others
    }

    /// Shows that a node which has promised to follow a new leader does so. By itself, OmniPaxos would
    /// call it leaderless until its round of heartbeats ends, and a node that cannot reach the new
    /// leader would campaign against it.
    fn follow_promise(&self, message: &mut Message<Entry>) {
        if let Message::BLE(BLEMessage { msg: HeartbeatMsg::Reply(reply), .. }) = message {
            let promise = self.paxos.get_promise();
            if reply.leader < promise && promise.pid != u64::from(self.own) {
                (reply.leader, reply.happy) = (promise, true);
            }
        }
    }
}

fn is_decision(message: &Message<Entry>) -> bool {
    matches!(message, Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::Decide(_), .. }))
}

/// Whether a message may leave before what a leader has appended is durable.
fn may_precede(message: &Message<Entry>) -> bool {
    let Message::SequencePaxos(PaxosMessage { msg, .. }) = message else { return true };
    matches!(msg, PaxosMsg::AcceptDecide(_) | PaxosMsg::Decide(_))
}
