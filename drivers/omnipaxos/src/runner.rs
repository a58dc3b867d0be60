//! The node's thread: it waits for what comes, has the node work, and carries out what that returns.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::mpsc,
    task::{JoinHandle, yield_now},
};
use tsoracle_core::{Clock, Error, ErrorKind, Result, SystemClock};
use tsoracle_replica::{
    Lifecycle, Tasks,
    snapshot::Chunks,
    transfer,
    transport::{Connections as _, Transport},
};

use crate::{
    inbound::Event,
    jobs::Job,
    node::{MOST, Node},
    peers::Outgoing,
};

/// How often the other tasks of this thread get their turn before it waits for the disk, or applies: a
/// message passes through two of them on its way out.
const TURNS: usize = 3;

/// What it is called where it panics.
pub(crate) const TASK: &str = "the log";

/// See the module.
pub(crate) struct Runner {
    node: Node,
    transport: Transport,
    events: mpsc::Sender<Event>,
    lifecycle: Arc<Lifecycle>,
    /// The states on their way to peers.
    transfers: BTreeMap<u32, JoinHandle<()>>,
}

impl Runner {
    pub(crate) fn new(
        node: Node,
        transport: Transport,
        events: mpsc::Sender<Event>,
        lifecycle: Arc<Lifecycle>,
    ) -> Self {
        Self { node, transport, events, lifecycle, transfers: BTreeMap::new() }
    }

    /// Works until it is stopped, or until no caller is left.
    ///
    /// # Errors
    /// Those of the store, if what was applied cannot be written at the end.
    pub(crate) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<()> {
        let (mut asked, mut heard) = (Vec::new(), Vec::new());
        let _names_panics = self.lifecycle.names_panics_of(TASK);
        let mut failure = self.transport.failure();
        while !self.node.has_ended() {
            tokio::select! {
                count = jobs.recv_many(&mut asked, MOST) => if count == 0 { break },
                _ = events.recv_many(&mut heard, MOST) => {}
                () = SystemClock.sleep_until(self.node.due()) => {}
            }
            // Whatever came on the other queue meanwhile goes along.
            asked.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(MOST));
            heard.extend(std::iter::from_fn(|| events.try_recv().ok()).take(MOST));
            let failed = failure.borrow_and_update().clone();
            heard.extend(failed.map(|error| Event::Failed { error }));
            let outgoing = self.node.work(&mut asked, &mut heard, SystemClock.now().boot);
            outgoing.into_iter().for_each(|outgoing| self.carry_out(outgoing));
            if self.node.owes() {
                // What is on its way to the peers leaves first, and their disks work beside this one.
                for _ in 0..TURNS {
                    yield_now().await;
                }
                self.node.pay();
            }
        }
        // What is asked for now was not begun. Peers are not listened to any more, so that none of
        // them waits.
        drop(events);
        jobs.close();
        let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
        while let Ok(job) = jobs.try_recv() {
            self.node.refuse(job, &stopped);
        }
        self.end().await
    }

    fn carry_out(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Part { peer, body } => self.transport.send(peer, body),
            Outgoing::State { peer, transfer, chunks } => {
                let sending = tokio::spawn(self.send_state(peer, transfer, *chunks));
                if let Some(before) = self.transfers.insert(peer, sending) {
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

    fn send_state(
        &self,
        peer: u32,
        transfer: u64,
        chunks: Chunks,
    ) -> impl Future<Output = ()> + use<> {
        let (transport, events) = (self.transport.clone(), self.events.clone());
        async move {
            let outcome = transfer::send(&transport, &Tasks::here(), peer, transfer, chunks).await;
            // The node may have ended.
            let _ = events.send(Event::Transferred { peer, transfer, outcome }).await;
        }
    }

    /// Releases everything. On return the directory and the address can be used again.
    async fn end(self) -> Result<()> {
        let Self { mut node, transport, transfers, events: _, lifecycle } = self;
        if let Some(error) = node.failure() {
            lifecycle.fail(error.clone());
        }
        let ended = node.end();
        // Stops speaking and listening.
        transfers.into_values().for_each(|sending| sending.abort());
        transport.shutdown().await;
        drop(node);
        ended
    }
}
