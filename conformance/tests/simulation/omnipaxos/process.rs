//! A node at work: what its thread, its transport and its disk are in a real one.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::mpsc, task::AbortHandle};
use tsoracle_core::{Clock, Error, ErrorKind, Result};
use tsoracle_omnipaxos::simulation::{Outgoing, Stepped};

use super::Input;
use crate::{
    clock::NodeClock,
    flaw::Flaw,
    gate::Gate,
    reached::Reached,
    real_driver::{id, node},
    store_disk::Mounted,
    world::{Point, World},
};

pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) me: usize,
    pub(super) gate: Gate,
    pub(super) clock: NodeClock,
    pub(super) node: Stepped,
    pub(super) disk: Mounted,
    pub(super) inbox: mpsc::UnboundedSender<Input>,
    /// The states on their way to peers.
    pub(super) transfers: BTreeMap<u32, AbortHandle>,
    /// What the node had promised when it was last looked at, and how much it had applied.
    pub(super) promise: (u32, u64),
    pub(super) applied: usize,
}

impl Process {
    pub(super) async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        while !self.node.has_ended() {
            let due = self.node.due();
            tokio::select! {
                biased;
                is_wanted = self.node.asked() => if !is_wanted { break },
                Some(input) = inputs.recv() => self.take(input),
                () = self.clock.sleep_until(due) => {}
            }
            while let Ok(input) = inputs.try_recv() {
                self.take(input);
            }
            let outgoing = self.node.work(self.clock.now().boot);
            // The disk was written to, and its answer was waited for.
            self.world.end_syncs(self.me, &self.disk).await;
            outgoing.into_iter().for_each(|outgoing| self.carry_out(outgoing));
            if self.looks_promised() {
                self.world.hazard(self.me, Point::Voted).await;
            }
            if self.node.owes() {
                self.node.pay();
                self.world.end_syncs(self.me, &self.disk).await;
            }
            self.look();
            if let Some(failure) = self.node.failure() {
                self.world.found(format!("node {} failed: {failure}", self.me));
                break;
            }
        }
        self.node.end();
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Part { peer, body } => {
                let ignored = self.node.hear(id(peer), &body).err();
                // That a state is not there, or not whole, is no fault of the message.
                let ignored = ignored.filter(|error| *error.kind() == ErrorKind::Invalid);
                if let Some(error) = ignored {
                    self.world.found(format!("node {} ignored a message: {error}", self.me));
                }
            }
            Input::Call { peer, body, reply } => {
                // The caller may have gone.
                let _ = reply.send(self.node.take_chunk(id(peer), &body).is_ok());
            }
            Input::Connected { peer } => self.node.connected(id(peer)),
            Input::Transferred { peer, transfer, outcome } => {
                self.node.transferred(id(peer), transfer, outcome);
            }
        }
    }

    fn carry_out(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Part { peer, body } => self.world.send_part(self.me, node(peer), body),
            Outgoing::State { peer, transfer, calls } => {
                self.world.reached(Reached::StateSent);
                let (world, me, inbox) = (self.world.clone(), self.me, self.inbox.clone());
                let (to, gate) = (node(peer), self.gate.clone());
                let sending = async move {
                    let outcome = send_state(&world, me, to, calls).await;
                    // The node may have ended.
                    let _ = inbox.send(Input::Transferred { peer: to, transfer, outcome });
                };
                let sending = tokio::spawn(async move { gate.run(sending).await });
                if let Some(before) = self.transfers.insert(peer, sending.abort_handle()) {
                    before.abort();
                }
            }
            Outgoing::Abandon { peer } => {
                if let Some(sending) = self.transfers.remove(&peer) {
                    sending.abort();
                }
            }
        }
    }

    fn looks_promised(&mut self) -> bool {
        let promise = self.node.promise();
        std::mem::replace(&mut self.promise, promise) != promise
    }

    /// Compares what this node has applied with what others have.
    fn look(&mut self) {
        let (applied, _) = self.node.progress();
        if self.world.has(Flaw::AnswersByIndex) {
            let mut places = self.world.nodes[self.me].places.lock().unwrap();
            places.applied = applied;
            for (index, version) in self.node.log() {
                places.indexes.entry(version.name).or_insert(index);
            }
        }
        if applied == self.applied {
            return;
        }
        self.applied = applied;
        self.world.compare(applied as u64, |wanted| self.node.read(wanted));
    }
}

async fn send_state(
    world: &Arc<World>,
    from: usize,
    to: usize,
    calls: impl Iterator<Item = Result<Vec<u8>>>,
) -> Result<()> {
    for call in calls {
        if !world.call(from, to, call?).await {
            return Err(Error::new(ErrorKind::Unavailable, "the call was not answered"));
        }
    }
    Ok(())
}
