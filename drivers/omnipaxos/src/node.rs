//! The node: one thread that owns OmniPaxos and the replica.
//!
//! It works in rounds. A round takes everything that has come, lets OmniPaxos handle it, appends what
//! is to be committed, applies what was decided, makes durable in one commit whatever has changed,
//! and only then sends what depends on it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use omnipaxos::{
    ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig,
    ballot_leader_election::Ballot,
    messages::{
        Message,
        ballot_leader_election::{BLEMessage, HeartbeatMsg, HeartbeatReply},
        sequence_paxos::{PaxosMessage, PaxosMsg},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
};
use tsoracle_core::{BootTime, Clock, Error, ErrorKind, Reads, Result, Snapshot, SystemClock};
use tsoracle_replica::{
    Addresses, Announcer, Cluster, Latch, Replica, Waiters, transfer::Received, transport::note,
};

use crate::{
    apply::Keep,
    entry::{Commit, Entry},
    inbound::Event,
    leadership::Role,
    log::Log,
    message::PeerMessage,
    peers::Peers,
    stop::{Leaving, Successors},
    storage::SharedLog,
};

/// What a caller asks for.
pub(crate) enum Job {
    /// It waits among the [`Waiters`].
    Commit(Commit),
    Read {
        wanted: Reads,
        reply: oneshot::Sender<Result<Snapshot>>,
    },
    Resign {
        claim: u64,
    },
    Stop,
}

/// For how long a peer is not asked again for what a state that was sent to it has answered.
pub(crate) const ANSWERED: Duration = Duration::from_secs(2);

/// What one round takes at most, of each kind.
const MOST: usize = 1_024;

/// How often the other tasks of this thread get their turn before it waits for the disk: a message
/// passes through two of them on its way out.
const TURNS: usize = 3;

/// After how many ticks a message that was not answered is sent again.
const RESEND_TICKS: u64 = 8;

/// The one configuration that there is.
const CONFIGURATION: u32 = 1;

/// What a new node has promised, which binds it to no other. Without it, every new node would begin by
/// leading, and each with a higher id depose the one before.
const FIRST_BALLOT: Ballot = Ballot { config_id: CONFIGURATION, n: 1, priority: 0, pid: 0 };

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
    /// Shows the task that hands over, while one does, who could lead.
    pub(crate) handover: Option<watch::Sender<Successors>>,
    pub(crate) keep: Keep,
    tick: Duration,
    pub(crate) ticks: u64,
    pub(crate) ticks_per_round: u64,
    /// Answers to the heartbeats of this round, kept until it ends, and the promise when it began.
    pub(crate) replies: Vec<Message<Entry>>,
    pub(crate) promise_before: Ballot,
    /// Something has to be made durable before the next round.
    pub(crate) owes: bool,
    /// Decisions that the followers learn of with the next entries.
    pub(crate) decisions: Vec<Message<Entry>>,
    /// Per peer how far it is, and since when.
    pub(crate) progress: BTreeMap<u32, (usize, BootTime)>,
}

impl Node {
    /// The node over what the replica's store holds.
    ///
    /// # Errors
    /// `Corrupt` if the log cannot be read, and those of the store.
    pub(crate) fn new(
        cluster: &Cluster,
        replica: Replica,
        peers: Peers,
        waiters: Arc<Waiters>,
        announcer: Announcer,
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
        Ok(Self {
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
            keep: Keep::new(cluster),
            tick: cluster.heartbeat,
            ticks: 0,
            ticks_per_round,
            replies: vec![],
            promise_before: promise,
            owes: false,
            decisions: vec![],
            progress: BTreeMap::new(),
        })
    }

    /// Works until told to stop, or until no caller is left.
    ///
    /// # Errors
    /// Those of the store, if what was applied cannot be written at the end.
    pub(crate) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<()> {
        let (mut asked, mut heard) = (Vec::new(), Vec::new());
        let mut latch = Latch::default();
        let mut tick_at = SystemClock.now().boot;
        while !self.leaving.as_ref().is_some_and(|leaving| leaving.has_ended) {
            tokio::select! {
                count = jobs.recv_many(&mut asked, MOST) => if count == 0 { break },
                _ = events.recv_many(&mut heard, MOST) => {}
                () = SystemClock.sleep_until(tick_at) => {}
            }
            // Whatever came on the other queue meanwhile goes along. A clock that ticks before what
            // has come is heard would take the others for dead after every stall of this node.
            asked.extend(std::iter::from_fn(|| jobs.try_recv().ok()).take(MOST));
            heard.extend(std::iter::from_fn(|| events.try_recv().ok()).take(MOST));
            let now = SystemClock.now().boot;
            let is_due = now >= tick_at;
            if is_due {
                tick_at = now + self.tick;
            }
            let mut worked =
                latch.guard(|| self.round(asked.drain(..), heard.drain(..), is_due, now));
            if worked.is_ok() && self.owes {
                // What is on its way to the peers leaves first, and their disks work beside this one.
                for _ in 0..TURNS {
                    yield_now().await;
                }
                worked = latch.guard(|| self.persist());
            }
            if let Err(error) = worked {
                asked.drain(..).for_each(|job| self.refuse(job, &error));
                heard.clear();
                self.fail(&error);
            }
        }
        // What is asked for now was not begun. Peers are not listened to any more, so that none of
        // them waits.
        drop(events);
        jobs.close();
        let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
        while let Ok(job) = jobs.try_recv() {
            self.refuse(job, &stopped);
        }
        self.end(latch).await
    }

    /// One round.
    fn round(
        &mut self,
        jobs: impl Iterator<Item = Job>,
        events: impl Iterator<Item = Event>,
        is_due: bool,
        now: BootTime,
    ) -> Result<()> {
        for event in events {
            self.take(event, now)?;
        }
        if is_due {
            self.tick(now)?;
        }
        self.update_role();
        for job in jobs {
            self.submit(job, now)?;
        }
        self.apply_decided(now)?;
        self.announce(now);
        self.send(is_due)?;
        self.leave(now);
        Ok(())
    }

    /// Takes part no more. What was appended may or may not be decided by the others.
    fn fail(&mut self, error: &Error) {
        self.role = Role::Follower;
        self.announcer = None;
        self.waiters.give_up_all(&format!("the node failed before it knew the outcome: {error}"));
        self.peers.stop_transfers();
        if let Some(leaving) = &mut self.leaving {
            leaving.has_ended = true;
        }
    }

    fn refuse(&mut self, job: Job, error: &Error) {
        match job {
            Job::Commit(commit) => self.waiters.refuse(&commit.next(), error.duplicate()),
            // The caller may have gone.
            Job::Read { reply, .. } => drop(reply.send(Err(error.duplicate()))),
            Job::Resign { .. } => {}
            Job::Stop => self.leaving = Some(Leaving::at_once()),
        }
    }

    fn submit(&mut self, job: Job, now: BootTime) -> Result<()> {
        match job {
            Job::Commit(commit) => match self.admit(now) {
                Ok(()) => self.append(commit, now),
                Err(error) => {
                    self.waiters.refuse(&commit.next(), error);
                    Ok(())
                }
            },
            Job::Read { wanted, reply } => {
                // The caller may have gone.
                let _ = reply.send(Ok(self.replica.read(&wanted)?));
                Ok(())
            }
            Job::Resign { claim } => {
                self.resign(claim);
                Ok(())
            }
            Job::Stop => {
                self.leaving.get_or_insert_with(|| Leaving::begin(now));
                Ok(())
            }
        }
    }

    /// Appends to the log of the leader, which this node is.
    fn append(&mut self, commit: Commit, now: BootTime) -> Result<()> {
        self.waiters.begun(&commit.next());
        self.replica.evidence().logged(commit.next(), now);
        self.paxos.append(Entry::Commit(commit)).map_err(|refused| {
            Error::new(ErrorKind::Fatal, format!("OmniPaxos refused an entry: {refused:?}"))
        })
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
                    PeerMessage::TakeOver => self.campaign(peer),
                    PeerMessage::Paxos(message) => self.handle(peer, message, state, now)?,
                }
            }
            Event::Connected { peer } => {
                self.peers.begin_session(peer)?;
                self.paxos.reconnected(peer.into());
            }
            Event::Remember { peer, id, reply } => {
                self.replica.write([note(peer, id)])?;
                // The session may have ended.
                let _ = reply.send(Ok(()));
            }
            Event::Transferred { peer, transfer, outcome } => {
                let transfer = (peer, transfer);
                self.peers.transferred(transfer, outcome, &mut self.replica, now)?;
            }
            Event::Campaign { peer } => {
                self.peers.take_over(peer)?;
                self.step_down();
            }
            Event::HandedOver => self.handover = None,
        }
        Ok(())
    }

    fn handle(
        &mut self,
        peer: u32,
        message: Message<Entry>,
        state: Option<(usize, Received)>,
        now: BootTime,
    ) -> Result<()> {
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
        if let Some((index, state)) = state {
            self.log.borrow_mut().offer(index);
            self.states.insert(index, state);
        }
        self.paxos.handle_incoming(message);
        let taken = self.log.borrow_mut().take_state();
        let taken = taken.and_then(|index| self.states.remove(&index));
        taken.map_or(Ok(()), |state| self.install(state, now))
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

    /// Releases everything. On return the directory and the address can be used again.
    async fn end(mut self, mut latch: Latch) -> Result<()> {
        self.announcer = None;
        self.waiters.give_up_all("the driver stopped before it knew the outcome");
        // What is applied is worked out again after a crash; after a stop it need not be.
        let persisted = match latch.error() {
            None => latch.guard(|| self.replica.settle().and_then(|()| self.persist())),
            Some(_) => Ok(()),
        };
        let Self { peers, replica, .. } = self;
        peers.close().await;
        drop(replica);
        persisted
    }
}

pub(crate) fn paxos(
    cluster: &Cluster,
    ticks_per_round: u64,
    log: SharedLog,
) -> Result<OmniPaxos<Entry, SharedLog>> {
    let config = OmniPaxosConfig {
        cluster_config: ClusterConfig {
            configuration_id: CONFIGURATION,
            nodes: cluster.members.keys().copied().map(u64::from).collect(),
            flexible_quorum: None,
        },
        server_config: ServerConfig {
            pid: cluster.node.into(),
            election_tick_timeout: ticks_per_round,
            resend_message_tick_timeout: RESEND_TICKS,
            buffer_size: MOST,
            ..ServerConfig::default()
        },
    };
    config.build(log).map_err(|source| {
        Error::new(ErrorKind::Config, format!("OmniPaxos takes no such cluster: {source}"))
    })
}

/// How many entries a state has applied, as it is stored with it.
pub(crate) fn read_applied(bytes: &[u8]) -> Result<usize> {
    let number = bytes.try_into().ok().map(u64::from_be_bytes);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        let context = "how far the state is cannot be read; restore this node";
        Error::new(ErrorKind::Corrupt, context)
    })
}
