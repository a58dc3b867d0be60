//! The ways to the other nodes: messages, and states that go ahead of them.

use std::{collections::BTreeMap, mem, time::Duration};

use omnipaxos::messages::{
    Message,
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tsoracle_core::{BootTime, ErrorKind, Result, series::Counter};
use tsoracle_replica::{
    Cluster, Replica,
    message_parts::{self, Session},
    snapshot::Chunks,
};

use crate::{
    entry::Entry,
    message::{self, PeerMessage},
    meters,
};

/// How many messages wait for a state that goes ahead of them: a minute of them, under load. Beyond, the
/// session begins again.
const MOST_HELD: usize = 1 << 17;

/// What is to leave this node, in this order.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A message, or a part of one.
    Part { peer: u32, body: Vec<u8> },
    /// A state, in place of the one that was on its way to that peer. Its result comes by
    /// [`Event::Transferred`](crate::inbound::Event).
    State { peer: u32, transfer: u64, chunks: Box<Chunks> },
    /// The state on its way to that peer is of no use any more.
    Abandon { peer: u32 },
}

/// All peers.
pub(crate) struct Peers {
    outgoing: Vec<Outgoing>,
    links: BTreeMap<u32, Link>,
    /// The last session that was begun with any of them. Those of an earlier start of this node are before it,
    /// however many there were.
    session: Session,
    /// Numbers the states that are sent.
    transfers: u64,
}

/// One peer.
struct Link {
    session: Session,
    /// Messages of the session.
    sent: u32,
    heard: Option<BootTime>,
    transfer: Option<Transfer>,
    /// When it last received a state.
    transferred: Option<BootTime>,
    snapshots: Counter,
}

impl Link {
    fn to(node: u32) -> Self {
        Self {
            session: Session::default(),
            sent: 0,
            heard: None,
            transfer: None,
            transferred: None,
            snapshots: meters::snapshots(node),
        }
    }
}

/// A state on its way to a peer, and what is to follow it.
struct Transfer {
    number: u64,
    held: Vec<Message<Entry>>,
}

impl Peers {
    /// The peers of a node that has started so often.
    pub(crate) fn new(cluster: &Cluster, starts: u64) -> Self {
        let others = cluster.members.keys().filter(|node| **node != cluster.node);
        Self {
            outgoing: vec![],
            links: others.map(|node| (*node, Link::to(*node))).collect(),
            session: Session { start: starts, number: 0 },
            transfers: 0,
        }
    }

    /// What is to leave since it was last taken.
    pub(crate) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        mem::take(&mut self.outgoing)
    }

    pub(crate) fn heard(&mut self, peer: u32, now: BootTime) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.heard = Some(now);
        }
    }

    /// Whether `peer` was heard of within `lately`.
    pub(crate) fn is_heard(&self, peer: u32, now: BootTime, lately: Duration) -> bool {
        let heard = self.links.get(&peer).and_then(|link| link.heard);
        heard.is_some_and(|heard| now.since(heard) <= lately)
    }

    /// Tells a peer that messages may have been lost, so that it asks for what it lacks.
    pub(crate) fn begin_session(&mut self, peer: u32) -> Result<()> {
        self.session.number += 1;
        let session = self.session;
        if let Some(link) = self.links.get_mut(&peer) {
            (link.session, link.sent) = (session, 0);
        }
        self.abandon(peer);
        self.transmit(peer, &PeerMessage::Hello)
    }

    /// Has a peer campaign.
    pub(crate) fn take_over(&mut self, peer: u32) -> Result<()> {
        self.transmit(peer, &PeerMessage::TakeOver)
    }

    /// Sends a message of OmniPaxos, if need be after a state.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn send(
        &mut self,
        mut message: Message<Entry>,
        replica: &mut Replica,
    ) -> Result<()> {
        let Ok(peer) = u32::try_from(message.get_receiver()) else { return Ok(()) };
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        // Heartbeats overtake: they only show that this node is there.
        let waits = matches!(message, Message::SequencePaxos(_));
        if let Some(transfer) = link.transfer.as_mut().filter(|_| waits) {
            transfer.hold(message);
            if transfer.held.len() > MOST_HELD {
                tracing::warn!(peer, "the peer takes too long to take the state");
                return self.begin_session(peer);
            }
            return Ok(());
        }
        if let Some(state) = message::state_of(&mut message)
            && state.transfer == 0
        {
            self.transfers += 1;
            state.transfer = self.transfers;
            return self.transfer(peer, self.transfers, message, replica);
        }
        self.transmit(peer, &PeerMessage::Paxos(message))
    }

    /// Brings the state to a peer, ahead of the message that names it.
    fn transfer(
        &mut self,
        peer: u32,
        number: u64,
        message: Message<Entry>,
        replica: &mut Replica,
    ) -> Result<()> {
        tracing::info!(peer, "the peer lacks more than the log has; it gets the state");
        let chunks = Box::new(replica.snapshot()?);
        self.outgoing.push(Outgoing::State { peer, transfer: number, chunks });
        if let Some(link) = self.links.get_mut(&peer) {
            link.transfer = Some(Transfer { number, held: vec![message] });
        }
        Ok(())
    }

    /// A state has reached `peer`, or has not: sends what waited for it.
    ///
    /// # Errors
    /// Those of the store, also those met on the way.
    pub(crate) fn transferred(
        &mut self,
        (peer, number): (u32, u64),
        outcome: Result<()>,
        replica: &mut Replica,
        now: BootTime,
    ) -> Result<()> {
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let transfer = link.transfer.take_if(|transfer| transfer.number == number);
        let Some(transfer) = transfer else { return Ok(()) };
        match outcome {
            Ok(()) => {
                link.transferred = Some(now);
                link.snapshots.increment(1);
                transfer.held.into_iter().try_for_each(|message| self.send(message, replica))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fatal) => {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(peer, error = %format_args!("{error:#}"), "the state could not be sent; it is tried again");
                self.begin_session(peer)
            }
        }
    }

    /// Whether a state is on its way to `peer`, or came to it within `lately`.
    pub(crate) fn is_transferring(&self, peer: u32, now: BootTime, lately: Duration) -> bool {
        self.links.get(&peer).is_some_and(|link| {
            link.transfer.is_some() || link.transferred.is_some_and(|at| now.since(at) < lately)
        })
    }

    /// Gives up all states on their way: those who wait for them have another leader now.
    pub(crate) fn abandon_all(&mut self) {
        for peer in self.links.keys().copied().collect::<Vec<_>>() {
            self.abandon(peer);
        }
        self.links.values_mut().for_each(|link| link.transferred = None);
    }

    fn abandon(&mut self, peer: u32) {
        let link = self.links.get_mut(&peer);
        if link.and_then(|link| link.transfer.take()).is_some() {
            self.outgoing.push(Outgoing::Abandon { peer });
        }
    }

    fn transmit(&mut self, peer: u32, message: &PeerMessage) -> Result<()> {
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let parts = message_parts::split(&message.encode()?, link.session, link.sent)?;
        link.sent = link.sent.wrapping_add(1);
        self.outgoing.extend(parts.into_iter().map(|body| Outgoing::Part { peer, body }));
        Ok(())
    }
}

impl Transfer {
    /// Keeps a message for later. A promise that is repeated while the state is on its way would have it
    /// sent once more.
    fn hold(&mut self, message: Message<Entry>) {
        let promised = |message: &Message<Entry>| match message {
            Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::Promise(promise), .. }) => {
                Some(promise.n)
            }
            _ => None,
        };
        let ballot = promised(&message);
        if ballot.is_none() || self.held.iter().all(|held| promised(held) != ballot) {
            self.held.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_core::BootTime;
    use tsoracle_replica::message_parts::Joiner;
    use tsoracle_store::Store;

    use super::*;
    use crate::{message::tests::heartbeat, testing::config};

    #[test]
    fn a_node_is_heard_after_a_restart_however_much_it_had_sent() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = config(directory.path(), 1, 3).check().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut replica = Replica::open(store, BootTime::default()).unwrap();
        let mut joiner = Joiner::default();
        let mut hears = |peers: &mut Peers| {
            peers.begin_session(2).unwrap();
            peers.send(heartbeat(), &mut replica).unwrap();
            let sent = peers.take_outgoing().into_iter();
            let taken = sent.filter(|sent| match sent {
                Outgoing::Part { body, .. } => joiner.take(body).unwrap().is_some(),
                _ => false,
            });
            assert_eq!(taken.count(), 2);
        };
        let mut peers = Peers::new(&cluster, 1);
        // More than fits into 32 bits, as after some months under load.
        peers.session.number = 1 << 40;
        peers.links.get_mut(&2).unwrap().sent = u32::MAX;
        hears(&mut peers);
        hears(&mut Peers::new(&cluster, 2));
    }
}
