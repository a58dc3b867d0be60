//! What comes from the peers, on its way to the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tsoracle_core::{Effect, Error, ErrorKind, Result};
use tsoracle_replica::{
    Cluster, Tasks,
    message_parts::Joiner,
    transfer::{CHUNK, Inbox, Received},
    transport::{Handler, Remember, Sender},
};
use tsoracle_store::Table;

use crate::{
    entry::State,
    message::{self, PeerMessage},
    node::read_applied,
};

/// What reaches the node.
pub(crate) enum Event {
    /// A message has come; with a state, if it names one, and the index at which its entries begin.
    Message { peer: u32, message: PeerMessage, state: Option<(usize, Received)> },
    /// Something has come that is no whole message.
    Heard { peer: u32 },
    /// The session with a peer stands.
    Connected { peer: u32 },
    /// What is known of the cluster and its nodes has to be made durable.
    Remember { writes: Vec<(Table, Effect)>, reply: oneshot::Sender<Result<()>> },
    /// A state has reached a peer, or has not.
    Transferred { peer: u32, transfer: u64, outcome: Result<()> },
    /// The others know this node by another directory.
    Disowned { reason: String },
}

/// Puts the messages of the peers together.
pub(crate) struct Inbound {
    own: u32,
    members: BTreeSet<u32>,
    joiners: Mutex<BTreeMap<u32, Joiner>>,
    pub(crate) states: Inbox,
    events: mpsc::Sender<Event>,
    /// Why a message was ignored last.
    ignored: Mutex<String>,
}

impl Inbound {
    /// # Errors
    /// Those of the directory for states that come.
    pub(crate) fn new(cluster: &Cluster, events: mpsc::Sender<Event>) -> Result<Self> {
        Ok(Self {
            own: cluster.node,
            members: cluster.members.keys().copied().collect(),
            joiners: Mutex::default(),
            states: Inbox::open(&cluster.path)?,
            events,
            ignored: Mutex::default(),
        })
    }

    async fn take(&self, peer: u32, body: &[u8]) -> Result<Event> {
        let Some((message, named)) = self.decode(peer, body)? else {
            return Ok(Event::Heard { peer });
        };
        let state = match named {
            Some(named) => Some(check_state(
                named,
                self.states.finish(&Tasks::here(), peer, named.transfer).await?,
            )?),
            None => None,
        };
        Ok(Event::Message { peer, message, state })
    }

    /// The message that is whole with this part, and the state that it names, which has come before it.
    pub(crate) fn decode(
        &self,
        peer: u32,
        body: &[u8],
    ) -> Result<Option<(PeerMessage, Option<State>)>> {
        let joined = lock(&self.joiners).entry(peer).or_default().take(body)?;
        let Some(bytes) = joined else { return Ok(None) };
        let mut message = PeerMessage::decode(&bytes)?;
        let named = match &mut message {
            PeerMessage::Paxos(message) => {
                message::check(message, peer, self.own)?;
                message::take_state(message)
            }
            _ => None,
        };
        Ok(Some((message, named)))
    }

    /// Logs why a message is ignored, unless that was the reason last time.
    fn ignore(&self, peer: u32, error: &Error) {
        let (mut ignored, reason) = (lock(&self.ignored), format!("{error:#}"));
        if *ignored != reason {
            tracing::warn!(peer, reason, "ignoring a message from a peer");
            *ignored = reason;
        }
    }

    async fn send(&self, event: Event) {
        // A node that has stopped hears nothing.
        let _ = self.events.send(event).await;
    }
}

#[async_trait]
impl Handler for Inbound {
    fn admit(&self, sender: Sender) -> Result<()> {
        if self.members.contains(&sender.node) {
            return Ok(());
        }
        let context = format!("node {} is not among the peers of this one", sender.node);
        Err(Error::new(ErrorKind::Config, context))
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        self.send(Event::Heard { peer: sender.node }).await;
        match kind {
            CHUNK => self.states.take(&Tasks::here(), sender.node, &body).await,
            other => Err(Error::new(ErrorKind::Invalid, format!("no call is of kind {other}"))),
        }
    }

    async fn received(&self, sender: Sender, body: Bytes) {
        let peer = sender.node;
        let event = self.take(peer, &body).await.unwrap_or_else(|error| {
            self.ignore(peer, &error);
            Event::Heard { peer }
        });
        self.send(event).await;
    }

    fn connected(&self, peer: u32) {
        let events = self.events.clone();
        tokio::spawn(async move { events.send(Event::Connected { peer }).await });
    }
}

/// The state that has come, if it is the one that was named, and the index at which its entries begin.
pub(crate) fn check_state(named: State, received: Received) -> Result<(usize, Received)> {
    let applied = read_applied(&received.applied()?)?;
    if applied < named.index {
        let context = format!("a state of {applied} entries came in the place of {}", named.index);
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok((named.index, received))
}

/// Has the node, which owns the store, remember its cluster and its peers.
pub(crate) fn remember(events: mpsc::Sender<Event>) -> Remember {
    let stopped = |_| Error::new(ErrorKind::Unavailable, "the node has stopped");
    Box::new(move |writes| {
        let events = events.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            // An event that is not taken is dropped, with its reply.
            let _ = events.send(Event::Remember { writes, reply }).await;
            answer.await.map_err(stopped)?
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
