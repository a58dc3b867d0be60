//! The ways to the other nodes: messages, and states that are carried ahead of them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use omnipaxos::messages::Message;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};
use tsoracle_cluster::{
    Cluster, Identity,
    snapshot::Chunks,
    transport::{Sender, Transport},
};
use tsoracle_core::{BootTime, Error, ErrorKind, NodeId, Result, state::Effect};
use tsoracle_store::{Store, Table};

use crate::{
    entry::{Base, Entry, Image, Snapshot},
    node::Event,
    wire::{self, Said},
};

/// The id of each peer's directory, as it was when the peer was first heard of.
const KNOWN: Table = Table::new("paxos-peers");

/// The one configuration there is so far.
pub(crate) const CONFIGURATION: u32 = 1;

/// How long a peer may take to answer a call.
const CALL: Duration = Duration::from_secs(5);

/// How many messages wait for a state that is carried ahead of them: a minute of them, under load.
/// Beyond, it begins anew.
const MOST_HELD: usize = 1 << 17;

/// A state that comes in is held in memory, and may not fill it.
const MAX_IMAGE_BYTES: usize = 4 << 30;

/// All peers.
pub(crate) struct Peers {
    own: u32,
    own_id: NodeId,
    transport: Transport,
    events: mpsc::Sender<Event>,
    ways: BTreeMap<u32, Way>,
    /// Rises with every session and transfer, and with every start.
    counter: u64,
}

/// One peer.
#[derive(Default)]
struct Way {
    known: Option<NodeId>,
    session: u64,
    number: u32,
    inbox: wire::Inbox,
    heard: Option<BootTime>,
    carrying: Option<Carrying>,
    /// A state was carried to it lately.
    carried: Option<BootTime>,
    chunks: Vec<Vec<u8>>,
    chunks_of: u64,
    chunk_bytes: usize,
}

/// A state on its way to a peer, and what is to follow it.
struct Carrying {
    transfer: u64,
    task: JoinHandle<()>,
    messages: Vec<Message<Entry>>,
}

impl Peers {
    pub(crate) fn new(
        cluster: &Cluster,
        identity: &Identity,
        store: &Store,
        transport: Transport,
        events: mpsc::Sender<Event>,
    ) -> Result<Self> {
        let mut ways = BTreeMap::new();
        for &peer in cluster.members.keys().filter(|peer| **peer != cluster.node) {
            let known = store.read(KNOWN, &peer.to_be_bytes())?.map(|bytes| {
                let bytes = bytes.try_into().map_err(|_| {
                    let context = format!("the id of peer {peer} is damaged; restore this node");
                    Error::new(ErrorKind::Corrupt, context)
                })?;
                Ok::<_, Error>(NodeId(u128::from_be_bytes(bytes)))
            });
            ways.insert(peer, Way { known: known.transpose()?, ..Way::default() });
        }
        let counter = u64::from(identity.claim()) << 32;
        let (own, own_id) = (cluster.node, identity.id());
        Ok(Self { own, own_id, transport, events, ways, counter })
    }

    /// Whether a peer is the one that it was, which is noted when it is first heard of.
    ///
    /// # Errors
    /// `Config` if its directory is another one; those of the store.
    pub(crate) fn recognize(&mut self, store: &Store, sender: Sender) -> Result<()> {
        let Sender { node, id } = sender;
        let Some(way) = self.ways.get_mut(&node) else {
            let context = format!("node {node} is not among the peers of node {}", self.own);
            return Err(Error::new(ErrorKind::Config, context));
        };
        if let Some(known) = way.known {
            return match known == id {
                true => Ok(()),
                false => Err(Error::new(ErrorKind::Config, another_directory(node, self.own))),
            };
        }
        let mut note = Effect::default();
        note.put(node.to_be_bytes(), id.0.to_be_bytes());
        store.write([(KNOWN, note)])?;
        way.known = Some(id);
        Ok(())
    }

    /// By which id a peer is known here.
    pub(crate) fn known(&self, peer: u32) -> Option<NodeId> {
        self.ways.get(&peer)?.known
    }

    /// Finds out whether `peer` knows this node by `known`, as it says.
    ///
    /// # Errors
    /// `Config` if it does not: this node has forgotten what it promised, and must not vote.
    pub(crate) fn known_as(&self, peer: u32, known: NodeId) -> Result<()> {
        match known == self.own_id {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Config, another_directory(self.own, peer))),
        }
    }

    /// The session with `peer` stands.
    pub(crate) fn connected(&mut self, peer: u32) {
        self.greet(peer);
        self.begin_session(peer);
    }

    /// Asks a peer by which id it knows this node.
    fn greet(&self, peer: u32) {
        let (transport, events) = (self.transport.clone(), self.events.clone());
        tokio::spawn(async move {
            let answer = transport.call(peer, wire::GREET, Bytes::new(), CALL).await;
            let known = answer.ok().and_then(|body| <[u8; 16]>::try_from(&body[..]).ok());
            if let Some(known) = known {
                let known = NodeId(u128::from_be_bytes(known));
                // The node may have ended.
                let _ = events.send(Event::Known { peer, known }).await;
            }
        });
    }

    /// Tells a peer that messages may have been lost, so that it asks for what it lacks.
    pub(crate) fn begin_session(&mut self, peer: u32) {
        let session = self.next_number();
        if let Some(way) = self.ways.get_mut(&peer) {
            (way.session, way.number) = (session, 0);
            way.drop_carrying();
            self.transmit(peer, wire::hello(session));
        }
    }

    /// Asks a peer to stand for election.
    pub(crate) fn hand_over(&self, peer: u32) {
        if let Some(way) = self.ways.get(&peer) {
            self.transmit(peer, wire::take_over(way.session));
        }
    }

    /// Takes what a peer has sent.
    ///
    /// # Errors
    /// `Config` if the peer is not the one it was, `Invalid` if the message is not sound: it is
    /// dropped then. Anything else is an error of the store.
    pub(crate) fn take(
        &mut self,
        store: &Store,
        sender: Sender,
        body: &[u8],
        now: BootTime,
    ) -> Result<Option<Said>> {
        self.recognize(store, sender)?;
        let Some(way) = self.ways.get_mut(&sender.node) else { return Ok(None) };
        way.heard = Some(now);
        let mut said = way.inbox.take(body)?;
        if let Some(Said::Message(message)) = &mut said {
            wire::check(message, sender.node.into(), self.own.into(), CONFIGURATION)?;
            if let Some(Snapshot { base: Base::Image(image), .. }) = wire::snapshot_of(message) {
                if image.transfer != way.chunks_of || way.chunks.is_empty() {
                    let context = "a message names a state that has not come; it is dropped";
                    return Err(Error::new(ErrorKind::Invalid, context));
                }
                image.chunks = std::mem::take(&mut way.chunks);
            }
        }
        Ok(said)
    }

    /// Takes a chunk of a state.
    ///
    /// # Errors
    /// `Unavailable` if those before it are missing.
    pub(crate) fn take_chunk(&mut self, peer: u32, body: &[u8], now: BootTime) -> Result<Bytes> {
        let (transfer, index, start) = wire::read_chunk(body)?;
        let Some(way) = self.ways.get_mut(&peer) else { return Ok(Bytes::new()) };
        way.heard = Some(now);
        if index == 0 {
            (way.chunks_of, way.chunk_bytes) = (transfer, 0);
            way.chunks.clear();
        }
        let chunk = &body[start..];
        if way.chunks_of != transfer
            || way.chunks.len() != index as usize
            || way.chunk_bytes + chunk.len() > MAX_IMAGE_BYTES
        {
            let context = format!("chunk {index} of the state does not follow, or is too much");
            return Err(Error::new(ErrorKind::Unavailable, context));
        }
        way.chunk_bytes += chunk.len();
        way.chunks.push(chunk.to_vec());
        Ok(Bytes::new())
    }

    /// Sends a message of OmniPaxos, if need be after a state.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn send(
        &mut self,
        store: &Store,
        applied: usize,
        mut message: Message<Entry>,
    ) -> Result<()> {
        let Ok(peer) = u32::try_from(message.get_receiver()) else { return Ok(()) };
        let transfer = self.next_number();
        let Some(way) = self.ways.get_mut(&peer) else { return Ok(()) };
        // Heartbeats overtake: they only say that this node is there.
        let waits = matches!(message, Message::SequencePaxos(_));
        if let Some(carrying) = way.carrying.as_mut().filter(|_| waits) {
            carrying.messages.push(message);
            if carrying.messages.len() > MOST_HELD {
                tracing::warn!(peer, "the peer takes too long to take in the state");
                self.begin_session(peer);
            }
            return Ok(());
        }
        if let Some(snapshot) = wire::snapshot_of(&mut message)
            && snapshot.base == Base::Here
        {
            let image = Image { transfer, chunks: vec![] };
            *snapshot = Snapshot { base: Base::Image(image), entries: vec![] };
            tracing::info!(
                peer,
                applied,
                "the peer lacks more than the log has; it gets the state"
            );
            let chunks = Chunks::new(store.view()?, &(applied as u64).to_be_bytes());
            let (transport, events) = (self.transport.clone(), self.events.clone());
            let task = tokio::spawn(async move {
                let carried = carry(&transport, peer, transfer, chunks).await;
                // The node may have ended.
                let _ = events.send(Event::Carried { peer, transfer, carried }).await;
            });
            way.carrying = Some(Carrying { transfer, task, messages: vec![message] });
            return Ok(());
        }
        let bodies = wire::message(&message, way.session, way.number)?;
        way.number = way.number.wrapping_add(1);
        bodies.into_iter().for_each(|body| self.transmit(peer, body));
        Ok(())
    }

    /// A state has come to `peer`, or has not: sends what waited for it.
    ///
    /// # Errors
    /// Those of the store, also those met on the way.
    pub(crate) fn carried(
        &mut self,
        store: &Store,
        applied: usize,
        (peer, transfer): (u32, u64),
        carried: Result<()>,
        now: BootTime,
    ) -> Result<()> {
        let Some(way) = self.ways.get_mut(&peer) else { return Ok(()) };
        let Some(carrying) = way.carrying.take_if(|carrying| carrying.transfer == transfer) else {
            return Ok(());
        };
        match carried {
            Ok(()) => {
                way.carried = Some(now);
                let mut messages = carrying.messages.into_iter();
                messages.try_for_each(|message| self.send(store, applied, message))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fatal) => {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(peer, %error, "the state could not be sent; it is tried again");
                self.begin_session(peer);
                Ok(())
            }
        }
    }

    /// Gives up all states on their way: those who wait for them have another leader now.
    pub(crate) fn drop_carrying(&mut self) {
        for way in self.ways.values_mut() {
            way.carried = None;
            way.drop_carrying();
        }
    }

    /// Whether a state is on its way to `peer`, or came to it within `lately`.
    pub(crate) fn is_carrying(&self, peer: u32, now: BootTime, lately: Duration) -> bool {
        self.ways.get(&peer).is_some_and(|way| {
            way.carrying.is_some() || way.carried.is_some_and(|at| now.since(at) < lately)
        })
    }

    /// Whether `peer` was heard of within `lately`.
    pub(crate) fn is_heard(&self, peer: u32, now: BootTime, lately: Duration) -> bool {
        let heard = self.ways.get(&peer).and_then(|way| way.heard);
        heard.is_some_and(|heard| now.since(heard) <= lately)
    }

    /// Stops speaking and listening. What reads the store for a peer has ended on return.
    pub(crate) async fn close(mut self) {
        for way in self.ways.values_mut() {
            if let Some(carrying) = way.carrying.take() {
                carrying.task.abort();
                let _ = carrying.task.await;
            }
        }
        self.transport.shutdown().await;
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn transmit(&self, peer: u32, body: Vec<u8>) {
        self.transport.send(peer, body);
    }
}

impl Way {
    fn drop_carrying(&mut self) {
        if let Some(carrying) = self.carrying.take() {
            carrying.task.abort();
        }
    }
}

/// Brings a state to a peer, chunk by chunk.
async fn carry(transport: &Transport, peer: u32, transfer: u64, mut chunks: Chunks) -> Result<()> {
    for index in 0.. {
        let reading = spawn_blocking(move || (chunks.next(), chunks));
        let (chunk, rest) = reading.await.map_err(|source| {
            Error::new(ErrorKind::Unavailable, "reading the state ended").with_source(source)
        })?;
        chunks = rest;
        let Some(chunk) = chunk else { break };
        let body = wire::chunk(transfer, index, &chunk?);
        transport.call(peer, wire::CHUNK, body, CALL).await?;
    }
    Ok(())
}

/// Why node `who` is not listened to by node `by`.
fn another_directory(who: u32, by: u32) -> String {
    format!(
        "the directory of node {who} is not the one that node {by} knows it by: it was wiped or \
         exchanged, and with it what the node had promised to the others. Restore the directory; \
         if it is lost, copy the state of another node into a new cluster with `tsoracle migrate`"
    )
}
