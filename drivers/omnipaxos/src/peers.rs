//! The ways to the other nodes: messages, and states that go ahead of them.

use std::{collections::BTreeMap, time::Duration};

use omnipaxos::messages::{
    Message,
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tsoracle_core::{BootTime, Error, ErrorKind, Result};
use tsoracle_replica::{Cluster, Identity, Replica, message_parts, transfer, transport::Transport};

use crate::{
    entry::Entry,
    inbound::Event,
    message::{self, PeerMessage},
};

/// How many messages wait for a state that goes ahead of them: a minute of them, under load. Beyond, the
/// session begins again.
const MOST_HELD: usize = 1 << 17;

/// All peers.
pub(crate) struct Peers {
    transport: Transport,
    disowned: watch::Receiver<Option<String>>,
    events: mpsc::Sender<Event>,
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
    /// When a state has come to it last.
    transferred: Option<BootTime>,
}

/// A state on its way to a peer, and what is to follow it.
struct Transfer {
    number: u64,
    task: JoinHandle<()>,
    held: Vec<Message<Entry>>,
}

impl Peers {
    pub(crate) fn new(
        cluster: &Cluster,
        identity: &Identity,
        transport: Transport,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let others = cluster.members.keys().filter(|node| **node != cluster.node);
        Self {
            disowned: transport.disowned(),
            transport,
            events,
            links: others.map(|node| (*node, Link::default())).collect(),
            counter: identity.starts() << 32,
        }
    }

    pub(crate) fn events(&self) -> mpsc::Sender<Event> {
        self.events.clone()
    }

    /// Fails if the others know this node by another directory: it has forgotten what it promised, and
    /// must not vote.
    pub(crate) fn check_owned(&self) -> Result<()> {
        match &*self.disowned.borrow() {
            None => Ok(()),
            Some(reason) => {
                let context = format!(
                    "{reason}. Restore the directory; if it is lost, copy the state of another \
                     node into a new cluster with `tsoracle migrate`"
                );
                Err(Error::new(ErrorKind::Config, context))
            }
        }
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
            link.stop_transfer();
        }
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
        let chunks = replica.snapshot()?;
        let (transport, events) = (self.transport.clone(), self.events.clone());
        let task = tokio::spawn(async move {
            let outcome = transfer::send(&transport, peer, number, chunks).await;
            // The node may have ended.
            let _ = events.send(Event::Transferred { peer, transfer: number, outcome }).await;
        });
        if let Some(link) = self.links.get_mut(&peer) {
            link.transfer = Some(Transfer { number, task, held: vec![message] });
        }
        Ok(())
    }

    /// A state has come to `peer`, or has not: sends what waited for it.
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
                tracing::warn!(peer, %error, "the state could not be sent; it is tried again");
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
    pub(crate) fn stop_transfers(&mut self) {
        for link in self.links.values_mut() {
            link.transferred = None;
            link.stop_transfer();
        }
    }

    /// Stops speaking and listening.
    pub(crate) async fn close(mut self) {
        self.stop_transfers();
        self.transport.shutdown().await;
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn transmit(&mut self, peer: u32, message: &PeerMessage) -> Result<()> {
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let parts = message_parts::split(&message.encode()?, link.session, link.sent)?;
        link.sent = link.sent.wrapping_add(1);
        parts.into_iter().for_each(|part| self.transport.send(peer, part));
        Ok(())
    }
}

impl Link {
    fn stop_transfer(&mut self) {
        if let Some(transfer) = self.transfer.take() {
            transfer.task.abort();
        }
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
