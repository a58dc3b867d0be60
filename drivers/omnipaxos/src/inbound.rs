//! What comes from the peers, on its way to the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tsoracle_core::{Clock, Effect, Error, ErrorKind, Result};
use tsoracle_replica::{
    Calls, Cluster, Tasks,
    leaps::{Leaps, REACHED, Reached},
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
    /// This node must end.
    Failed { error: Error },
}

/// How far a node has come, for readers on any thread.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    ballot: AtomicU64,
    end: AtomicU64,
    /// How many entries nodes lack, as far as this one knows.
    lags: Mutex<BTreeMap<u32, u64>>,
}

impl Progress {
    pub(crate) fn note(&self, reached: Reached) {
        self.ballot.store(reached.term, Ordering::Release);
        self.end.store(reached.index, Ordering::Release);
    }

    pub(crate) fn note_lags(&self, lags: BTreeMap<u32, u64>) {
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    pub(crate) fn lags(&self) -> BTreeMap<u32, u64> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reached(&self) -> Reached {
        let (ballot, end) = (&self.ballot, &self.end);
        Reached { term: ballot.load(Ordering::Acquire), index: end.load(Ordering::Acquire) }
    }
}

/// A message that is whole, and what it names.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) message: PeerMessage,
    /// The state that has come before it.
    pub(crate) state: Option<State>,
    /// Its ballot, and up to where the log is known by the state.
    named: Reached,
}

/// Puts the messages of the peers together.
pub(crate) struct Inbound {
    own: u32,
    members: BTreeSet<u32>,
    joiners: Mutex<BTreeMap<u32, Joiner>>,
    pub(crate) states: Inbox,
    events: mpsc::Sender<Event>,
    progress: Arc<Progress>,
    leaps: Leaps,
    clock: Arc<dyn Clock>,
    /// Why a message was ignored last.
    ignored: Mutex<String>,
}

impl Inbound {
    /// # Errors
    /// Those of the directory for states that come.
    pub(crate) fn new(
        cluster: &Cluster,
        events: mpsc::Sender<Event>,
        progress: Arc<Progress>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Ok(Self {
            own: cluster.node,
            members: cluster.members.keys().copied().collect(),
            joiners: Mutex::default(),
            states: Inbox::open(&cluster.path, cluster.transfer_bytes)?,
            events,
            progress,
            leaps: Leaps::default(),
            clock,
            ignored: Mutex::default(),
        })
    }

    async fn take(&self, peers: &dyn Calls, peer: u32, body: &[u8]) -> Result<Event> {
        let Some(Decoded { message, state, named }) = self.decode(peer, body)? else {
            return Ok(Event::Heard { peer });
        };
        let (own, now) = (self.progress.reached(), self.clock.now().boot);
        if self.leaps.check(own, named, now).is_err() {
            let voters = [self.members.clone()];
            self.leaps.admit((self.own, own), named, &voters, (peers, now)).await?;
        }
        let state = match state {
            Some(named) => Some(check_state(
                named,
                self.states.finish(&Tasks::here(), peer, named.transfer).await?,
            )?),
            None => None,
        };
        Ok(Event::Message { peer, message, state })
    }

    /// The message that is whole with this part.
    pub(crate) fn decode(&self, peer: u32, body: &[u8]) -> Result<Option<Decoded>> {
        let joined = lock(&self.joiners).entry(peer).or_default().take(body)?;
        let Some(bytes) = joined else { return Ok(None) };
        let mut message = PeerMessage::decode(&bytes)?;
        let (mut state, mut named) = (None, Reached::default());
        if let PeerMessage::Paxos(message) = &mut message {
            named.term = message::check(message, (peer, self.own), &self.members)?.into();
            state = message::take_state(message);
            named.index = state.map_or(0, |state| state.index as u64);
        }
        Ok(Some(Decoded { message, state, named }))
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

/// What comes from the peers, with the connections to ask them.
pub(crate) struct Listener {
    pub(crate) inbound: Inbound,
    pub(crate) peers: Arc<dyn Calls>,
}

#[async_trait]
impl Handler for Listener {
    fn admit(&self, sender: Sender) -> Result<()> {
        if self.inbound.members.contains(&sender.node) {
            return Ok(());
        }
        let context = format!("node {} is not among the peers of this one", sender.node);
        Err(Error::new(ErrorKind::Config, context))
    }

    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes> {
        self.inbound.send(Event::Heard { peer: sender.node }).await;
        match kind {
            REACHED => Ok(self.inbound.progress.reached().encode()),
            CHUNK => self.inbound.states.take(&Tasks::here(), sender.node, &body).await,
            other => Err(Error::new(ErrorKind::Invalid, format!("no call is of kind {other}"))),
        }
    }

    async fn received(&self, sender: Sender, body: Bytes) {
        let peer = sender.node;
        let event = self.inbound.take(&*self.peers, peer, &body).await.unwrap_or_else(|error| {
            self.inbound.ignore(peer, &error);
            Event::Heard { peer }
        });
        self.inbound.send(event).await;
    }

    fn connected(&self, peer: u32) {
        let events = self.inbound.events.clone();
        tokio::spawn(async move { events.send(Event::Connected { peer }).await });
    }

    fn disconnected(&self, peer: u32) {
        self.inbound.states.abandon(peer);
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
