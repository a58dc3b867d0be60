//! The ways to the other nodes: messages, and states that go ahead of them.

use std::{collections::BTreeMap, mem, time::Duration};

use omnipaxos::messages::{
    Message,
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tsoracle_core::{BootTime, ErrorKind, Result};
use tsoracle_replica::{Cluster, Replica, message_parts, snapshot::Chunks};

use crate::{
    entry::Entry,
    message::{self, PeerMessage},
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
    /// Rises with every session and transfer, and with every start.
    counter: u64,
}

/// One peer.
#[derive(Default)]
struct Link {
    session: u64,
    /// Messages of the session.
    sent: u32,
    heard: Option<BootTime>,
    transfer: Option<Transfer>,
    /// When it last received a state.
    transferred: Option<BootTime>,
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
            links: others.map(|node| (*node, Link::default())).collect(),
            counter: starts << 32,
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
        let session = self.next_number();
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
        let number = self.next_number();
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
            state.transfer = number;
            return self.transfer(peer, number, message, replica);
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

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
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
