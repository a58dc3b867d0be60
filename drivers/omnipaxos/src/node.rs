//! The node: OmniPaxos and the replica, without a clock, a thread or a network of its own.
//!
//! It works in rounds. A round takes everything that has come, lets OmniPaxos handle it, appends what
//! is to be committed, applies what was decided, makes durable in one commit whatever has changed,
//! and only then returns what depends on it and is to be sent. [`Runner`](crate::runner::Runner) gives it
//! a thread, and a simulation steps it by itself.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use omnipaxos::{
    OmniPaxos,
    ballot_leader_election::Ballot,
    messages::{
        Message,
        ballot_leader_election::{BLEMessage, HeartbeatMsg, HeartbeatReply},
        sequence_paxos::{PaxosMessage, PaxosMsg},
    },
};
use tsoracle_core::{BootTime, Error, ErrorKind, Result};
use tsoracle_replica::{
    Addresses, Announcer, Cluster, Latch, Replica, Waiters, handover::Passing, leaps::Reached,
    transfer::Received,
};

use crate::{
    apply::Keep,
    entry::Entry,
    inbound::{Event, Progress},
    jobs::Job,
    leadership::Role,
    log::Log,
    message::{self, PeerMessage},
    meters::Meters,
    paxos::{FIRST_BALLOT, paxos},
    peers::{Outgoing, Peers},
    stop::Leaving,
    storage::SharedLog,
};

/// For how long a peer is not asked again for what a state that was sent to it has answered.
pub(crate) const ANSWERED: Duration = Duration::from_secs(2);

/// What one round takes at most, of each kind.
pub(crate) const MOST: usize = 1_024;

/// See the module.
pub(crate) struct Node {
    pub(crate) own: u32,
    pub(crate) members: BTreeMap<u32, Addresses>,
    pub(crate) replica: Replica,
    pub(crate) log: SharedLog,
    pub(crate) paxos: OmniPaxos<Entry, SharedLog>,
    pub(crate) peers: Peers,
    pub(crate) waiters: Arc<Waiters>,
    /// How many entries are applied. More than are decided here, once a state was installed.
    pub(crate) applied: usize,
    /// States that have come with messages, by the index at which the entries after them begin.
    pub(crate) states: BTreeMap<usize, Received>,
    pub(crate) role: Role,
    pub(crate) promise: Ballot,
    /// Who answered in the last round of heartbeats.
    pub(crate) neighbours: Vec<HeartbeatReply>,
    /// For how many of these rounds no majority has answered.
    pub(crate) missed: u32,
    /// How long a round of heartbeats takes.
    pub(crate) round_time: Duration,
    pub(crate) announcer: Option<Announcer>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) handover: Option<Passing>,
    /// Peers that have led, and handed over to this one or were handed over to, and when.
    pub(crate) led: BTreeMap<u32, BootTime>,
    pub(crate) keep: Keep,
    tick: Duration,
    tick_at: BootTime,
    pub(crate) ticks: u64,
    pub(crate) ticks_per_round: u64,
    /// Answers to the heartbeats of this round, kept until it ends, and the promise when it began.
    pub(crate) replies: Vec<Message<Entry>>,
    pub(crate) promise_before: Ballot,
    /// Something has to be done before the next round.
    pub(crate) owes: bool,
    /// When the round began that owes it.
    owes_since: BootTime,
    /// Decisions that the followers learn of with the next entries.
    pub(crate) decisions: Vec<Message<Entry>>,
    /// Per peer how far it is, and since when.
    pub(crate) progress: BTreeMap<u32, (usize, BootTime)>,
    /// How far this node has come.
    pub(crate) own_progress: Arc<Progress>,
    pub(crate) meters: Meters,
    latch: Latch,
}

impl Node {
    /// The node over what the replica's store holds; `now` is when its clock begins to tick.
    ///
    /// # Errors
    /// `Corrupt` if the log cannot be read, and those of the store.
    pub(crate) fn new(
        cluster: &Cluster,
        replica: Replica,
        peers: Peers,
        waiters: Arc<Waiters>,
        announcer: Announcer,
        now: BootTime,
    ) -> Result<Self> {
        let applied = replica.applied().map_or(Ok(0), read_applied)?;
        let mut log = Log::open(replica.store())?;
        if applied < log.first {
            let first = log.first;
            let context = format!("{applied} entries are applied, and the log begins at {first}");
            return Err(Error::new(ErrorKind::Corrupt, format!("{context}; restore this node")));
        }
        if log.promise.is_none() {
            log.set_promise(FIRST_BALLOT);
        }
        let log = SharedLog::new(log);
        let ticks_per_round =
            cluster.election.as_nanos().div_ceil(2 * cluster.heartbeat.as_nanos()) as u64;
        let paxos = paxos(cluster, ticks_per_round, log.clone())?;
        let promise = paxos.get_promise();
        let node = Self {
            own: cluster.node,
            members: cluster.members.clone(),
            replica,
            log,
            promise,
            paxos,
            peers,
            waiters,
            applied,
            states: BTreeMap::new(),
            role: Role::Follower,
            neighbours: vec![],
            missed: 0,
            round_time: cluster.heartbeat * ticks_per_round as u32,
            announcer: Some(announcer),
            leaving: None,
            handover: None,
            led: BTreeMap::new(),
            keep: Keep::new(cluster),
            tick: cluster.heartbeat,
            tick_at: now,
            ticks: 0,
            ticks_per_round,
            replies: vec![],
            promise_before: promise,
            owes: false,
            owes_since: now,
            decisions: vec![],
            progress: BTreeMap::new(),
            own_progress: Arc::default(),
            meters: Meters::new(cluster),
            latch: Latch::default(),
        };
        node.note_progress();
        Ok(node)
    }

    fn note_progress(&self) {
        let (term, index) = (self.paxos.get_promise().n.into(), self.log.borrow().end() as u64);
        self.own_progress.note(Reached { term, index });
    }

    /// When a round is due even if nothing comes.
    pub(crate) fn due(&self) -> BootTime {
        self.tick_at
    }

    /// One round: takes what has come, and returns what is to leave. If this node [owes](Self::owes)
    /// something then, [`pay`](Self::pay) comes next, and before the next round.
    ///
    /// After an error it takes part no more, and refuses what callers ask for.
    pub(crate) fn work(
        &mut self,
        jobs: &mut Vec<Job>,
        events: &mut Vec<Event>,
        now: BootTime,
    ) -> Vec<Outgoing> {
        self.guarded(|node| node.round(jobs.drain(..), events.drain(..), now));
        if let Some(error) = self.latch.error().cloned() {
            jobs.drain(..).for_each(|job| self.refuse(job, &error));
            events.clear();
        }
        self.peers.take_outgoing()
    }

    /// Whether something has to be made durable or applied before the next round, once what was to leave
    /// has left.
    pub(crate) fn owes(&self) -> bool {
        self.owes && self.latch.error().is_none()
    }

    /// Makes durable and applies what this node owes.
    pub(crate) fn pay(&mut self) {
        self.guarded(|node| {
            if node.log.borrow().urgent {
                node.persist()?;
            }
            node.owes = false;
            node.apply_decided(node.owes_since)
        });
    }

    /// Whether it has stopped.
    pub(crate) fn has_ended(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.has_ended)
    }

    /// Why it takes part no more, if so.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.latch.error()
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        let mut latch = mem::take(&mut self.latch);
        let worked = latch.guard(|| work(self));
        self.latch = latch;
        if let Err(error) = worked {
            self.fail(&error);
        }
    }

    fn round(
        &mut self,
        jobs: impl Iterator<Item = Job>,
        events: impl Iterator<Item = Event>,
        now: BootTime,
    ) -> Result<()> {
        for event in events {
            self.take(event, now)?;
        }
        // A clock that ticked before what has come is heard would take the others for dead after every
        // stall of this node.
        let is_due = now >= self.tick_at;
        if is_due {
            self.tick_at = now + self.tick;
            self.tick(now)?;
        }
        self.update_role();
        for job in jobs {
            self.submit(job, now)?;
        }
        // The leader waits for what followers answer, and no caller for what they apply: so that comes after.
        let applies_later = self.role == Role::Follower;
        if !applies_later {
            self.apply_decided(now)?;
        }
        self.leave(now)?;
        self.announce(now);
        self.note_progress();
        self.send(is_due)?;
        self.owes_since = now;
        self.owes |= applies_later && self.applied < self.log.borrow().decided;
        Ok(())
    }

    /// Takes part no more. What was appended may or may not be decided by the others.
    fn fail(&mut self, error: &Error) {
        self.role = Role::Follower;
        self.announcer = None;
        self.waiters.give_up_all(&format!("the node failed before it knew the outcome: {error:#}"));
        // Nothing leaves that may depend on what is not durable.
        drop(self.peers.take_outgoing());
        self.peers.abandon_all();
        if let Some(leaving) = &mut self.leaving {
            leaving.has_ended = true;
        }
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) fn take(&mut self, event: Event, now: BootTime) -> Result<()> {
        match event {
            Event::Heard { peer } => self.peers.heard(peer, now),
            Event::Message { peer, message, state } => {
                self.peers.heard(peer, now);
                match message {
                    PeerMessage::Hello => self.paxos.reconnected(peer.into()),
                    PeerMessage::TakeOver => self.campaign(peer, now),
                    PeerMessage::Paxos(message) => self.handle(peer, message, state, now)?,
                }
            }
            Event::Connected { peer } => {
                self.peers.begin_session(peer)?;
                self.paxos.reconnected(peer.into());
            }
            Event::Remember { writes, reply } => {
                self.replica.write(writes)?;
                // The session may have ended.
                let _ = reply.send(Ok(()));
            }
            Event::Transferred { peer, transfer, outcome } => {
                let transfer = (peer, transfer);
                self.peers.transferred(transfer, outcome, &mut self.replica, now)?;
            }
            Event::Failed { error } if *error.kind() != ErrorKind::Excluded => return Err(error),
            Event::Failed { error } => {
                let context = format!(
                    "{error}. Restore the directory; if it is lost, copy the state of another \
                     node into a new cluster with `tsoracle migrate`"
                );
                return Err(Error::new(ErrorKind::Excluded, context));
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        peer: u32,
        mut message: Message<Entry>,
        state: Option<(usize, Received)>,
        now: BootTime,
    ) -> Result<()> {
        if !message::skip_decided(&mut message, self.log.borrow().decided) {
            return Ok(());
        }
        let state = state.filter(|(index, _)| message::begins_at(&mut message, *index));
        if !message::fits(&message, &self.log.borrow(), state.is_some()) {
            tracing::debug!(peer, "a message does not fit this node's log; it is ignored");
            return Ok(());
        }
        match message {
            Message::BLE(BLEMessage { msg: HeartbeatMsg::Reply(_), .. }) => {
                self.replies.push(message);
                return Ok(());
            }
            // Answered by the state that is on its way, and by what follows it.
            Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::Promise(_), .. })
                if self.is_elected() && self.peers.is_transferring(peer, now, ANSWERED) =>
            {
                return Ok(());
            }
            Message::SequencePaxos(PaxosMessage { ref msg, .. }) => self.note_logged(msg, now),
            Message::BLE(_) => {}
        }
        let taken = self.hand_in(message, state);
        taken.map_or(Ok(()), |state| self.install(state, now))
    }

    /// Has OmniPaxos handle a message. Returns the state that has taken the place of entries with that.
    pub(crate) fn hand_in(
        &mut self,
        message: Message<Entry>,
        state: Option<(usize, Received)>,
    ) -> Option<Received> {
        if let Some((index, state)) = state {
            self.log.borrow_mut().offer(index);
            self.states.insert(index, state);
        }
        self.paxos.handle_incoming(message);
        let taken = self.log.borrow_mut().take_state();
        taken.and_then(|index| self.states.remove(&index))
    }

    /// Makes durable what has changed, all in one commit; with the state, where entries that it is worked
    /// out from are dropped.
    pub(crate) fn persist(&mut self) -> Result<()> {
        self.owes = false;
        if self.log.borrow().shortened {
            self.replica.settle()?;
        }
        let writes = self.log.borrow_mut().take_writes();
        self.replica.write(writes)
    }

    /// Ends its work. What is applied is worked out again after a crash; after a stop it need not be.
    ///
    /// # Errors
    /// Those of the store, if what was applied cannot be written.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.announcer = None;
        self.waiters.give_up_all("the driver stopped before it knew the outcome");
        let mut latch = mem::take(&mut self.latch);
        match latch.error() {
            None => latch.guard(|| self.replica.settle().and_then(|()| self.persist())),
            Some(_) => Ok(()),
        }
    }
}

/// How many entries a state has applied, as it is stored with it.
pub(crate) fn read_applied(bytes: &[u8]) -> Result<usize> {
    let number = bytes.try_into().ok().map(u64::from_be_bytes);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        let context = "how far the state is cannot be read; restore this node";
        Error::new(ErrorKind::Corrupt, context)
    })
}
