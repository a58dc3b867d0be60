//! The node: one thread that owns OmniPaxos and the store.
//!
//! It works in rounds. A round takes everything that has come, lets OmniPaxos handle it, appends what
//! is to be committed, applies what was decided, makes durable in one commit whatever has changed,
//! and only then sends what tells of it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use omnipaxos::{
    ClusterConfig, OmniPaxos, OmniPaxosConfig, ServerConfig,
    ballot_leader_election::Ballot,
    messages::{Message, ballot_leader_election::HeartbeatReply},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
};
use tsoracle_cluster::{Addresses, Cluster, Identity, LogEntry, Machine, transport::Sender};
use tsoracle_core::{
    BootTime, Clock, Committed, Epoch, Error, ErrorKind, Leadership, Result, SystemClock,
    state::{Answer, Command, Query},
};
use tsoracle_store::Store;

use crate::{
    apply::Keep,
    entry::Entry,
    leave::Leaving,
    log::Log,
    office::Office,
    peers::{CONFIGURATION, Peers},
    storage::SharedLog,
    waiting::{Waiter, Waiting},
};

/// What a caller asks for.
pub(crate) enum Job {
    Commit { epoch: Epoch, commands: Vec<Command>, reply: oneshot::Sender<Result<Committed>> },
    Read { query: Query, reply: oneshot::Sender<Result<Answer>> },
    Stop,
}

/// What comes from the peers.
pub(crate) enum Event {
    /// A message.
    Body { sender: Sender, body: Bytes },
    /// A call.
    Call { sender: Sender, kind: u32, body: Bytes, reply: oneshot::Sender<Result<Bytes>> },
    /// The session with a peer stands.
    Connected { peer: u32 },
    /// By which id a peer knows this node.
    Known { peer: u32, known: tsoracle_core::NodeId },
    /// A state has come to a peer, or has not.
    Carried { peer: u32, transfer: u64, carried: Result<()> },
}

/// What one round takes at most, of each kind.
const MOST: usize = 1_024;

/// How often the other tasks of this thread get their turn before it waits for the disk: a message
/// passes through two of them on its way out.
const TURNS: usize = 3;

/// After how many ticks a message that was not answered is sent again.
const RESEND_TICKS: u64 = 8;

/// What a new node has promised to nobody. Without it, every new node would begin by leading, and each
/// with a higher id depose the one before.
const FIRST_BALLOT: Ballot = Ballot { config_id: CONFIGURATION, n: 1, priority: 0, pid: 0 };

/// See the module.
pub(crate) struct Node {
    pub(crate) own: u64,
    pub(crate) members: BTreeMap<u32, Addresses>,
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) machine: Machine,
    pub(crate) log: SharedLog,
    pub(crate) paxos: OmniPaxos<Entry, SharedLog>,
    pub(crate) peers: Peers,
    pub(crate) waiting: Waiting,
    /// How many entries are applied. More than are decided here, once a state was taken in.
    pub(crate) applied: usize,
    /// The highest epoch of all entries applied.
    pub(crate) epoch: Epoch,
    pub(crate) office: Office,
    pub(crate) promise: Ballot,
    /// Who answered in the last round of heartbeats.
    pub(crate) neighbours: Vec<HeartbeatReply>,
    /// For how many of these rounds no majority has answered.
    pub(crate) missed: u32,
    /// How long a round of heartbeats takes.
    pub(crate) heartbeats: Duration,
    pub(crate) lead: Option<watch::Sender<Leadership>>,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) keep: Keep,
    failed: Option<Error>,
    tick: Duration,
    pub(crate) ticks: u64,
    pub(crate) ticks_per_round: u64,
    /// Answers to the heartbeats of this round, kept until it ends, and the promise when it began.
    pub(crate) replies: Vec<Message<Entry>>,
    pub(crate) promise_before: Ballot,
    /// Something has to be made durable before the next round.
    pub(crate) owes: bool,
    /// Decisions that the followers are told of with the next entries.
    pub(crate) decisions: Vec<Message<Entry>>,
    /// Per peer how far it is, and since when.
    pub(crate) progress: BTreeMap<u32, (usize, BootTime)>,
    /// Why a message was dropped: said once.
    pub(crate) dropped: String,
}

impl Node {
    /// The node over what the store holds.
    ///
    /// # Errors
    /// `Corrupt` if the log cannot be read, and those of the store.
    pub(crate) fn new(
        cluster: &Cluster,
        store: Store,
        identity: Identity,
        peers: Peers,
        lead: watch::Sender<Leadership>,
    ) -> Result<Self> {
        let machine = Machine::open(&store, SystemClock.now().boot)?;
        let applied = match Machine::applied(&store)? {
            Some(bytes) => read_applied(&bytes)?,
            None => 0,
        };
        let mut log = Log::open(&store)?;
        if applied < log.first() {
            let first = log.first();
            let context = format!("{applied} entries are applied, and the log begins at {first}");
            return Err(Error::new(ErrorKind::Corrupt, format!("{context}; restore this node")));
        }
        if log.promise().is_none() {
            log.set_promise(FIRST_BALLOT);
        }
        let log = SharedLog::new(log);
        let ticks_per_round =
            cluster.election.as_nanos().div_ceil(2 * cluster.heartbeat.as_nanos()) as u64;
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
        let paxos = config.build(log.clone()).map_err(|source| {
            Error::new(ErrorKind::Config, format!("OmniPaxos takes no such cluster: {source}"))
        })?;
        let promise = paxos.get_promise();
        Ok(Self {
            own: cluster.node.into(),
            members: cluster.members.clone(),
            store,
            identity,
            machine,
            log,
            promise,
            paxos,
            peers,
            waiting: Waiting::default(),
            applied,
            epoch: Epoch::default(),
            office: Office::None,
            neighbours: vec![],
            missed: 0,
            heartbeats: cluster.heartbeat * ticks_per_round as u32,
            lead: Some(lead),
            leaving: None,
            keep: Keep::new(cluster),
            failed: None,
            tick: cluster.heartbeat,
            ticks: 0,
            ticks_per_round,
            replies: vec![],
            promise_before: promise,
            owes: false,
            decisions: vec![],
            progress: BTreeMap::new(),
            dropped: String::new(),
        })
    }

    /// Works until told to stop, or until nobody is left who could.
    pub(crate) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut events: mpsc::Receiver<Event>,
    ) -> Result<()> {
        let (mut asked, mut heard) = (Vec::new(), Vec::new());
        let mut tick_at = SystemClock.now().boot;
        while !self.leaving.as_ref().is_some_and(Leaving::has_ended) {
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
            self.guard(|node| node.round(asked.drain(..), heard.drain(..), is_due, now));
            if self.owes {
                // What is on its way to the peers leaves first, and their disks work beside this one.
                for _ in 0..TURNS {
                    yield_now().await;
                }
                self.guard(Self::persist);
            }
        }
        // Whatever is asked for now was not begun. Peers are not listened to any more, so that none
        // of them waits.
        drop(events);
        jobs.close();
        let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
        while let Ok(job) = jobs.try_recv() {
            self.refuse(job, &stopped);
        }
        self.end().await
    }

    /// The first error or panic is final.
    fn guard(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Fatal, "the consensus library panicked, or this driver did"))
        });
        if let Err(error) = outcome {
            self.fail(&error);
        }
    }

    /// One round.
    fn round(
        &mut self,
        jobs: impl Iterator<Item = Job>,
        events: impl Iterator<Item = Event>,
        is_due: bool,
        now: BootTime,
    ) -> Result<()> {
        if let Some(error) = &self.failed {
            let error = error.duplicate();
            jobs.for_each(|job| self.refuse(job, &error));
            events.for_each(drop);
            return Ok(());
        }
        for event in events {
            self.hear(event, now)?;
        }
        if is_due {
            self.tick(now)?;
        }
        self.mind_office(now)?;
        self.submit(jobs, now)?;
        self.settle(now)?;
        self.announce(now);
        self.send(is_due)?;
        self.leave(now);
        Ok(())
    }

    /// Serves no more. What was submitted may or may not be decided by the others.
    fn fail(&mut self, error: &Error) {
        tracing::error!(%error, "this node failed; it takes no part any more");
        let kind = match error.kind() {
            ErrorKind::Corrupt => ErrorKind::Corrupt,
            _ => ErrorKind::Fatal,
        };
        self.failed = Some(Error::new(kind, format!("the node has failed for good: {error}")));
        self.office = Office::None;
        self.lead = None;
        self.waiting.give_up(&format!("the node failed before it knew the outcome: {error}"));
        self.peers.drop_carrying();
        if let Some(leaving) = &mut self.leaving {
            leaving.end();
        }
    }

    fn refuse(&mut self, job: Job, error: &Error) {
        // Whoever has gone does not need to be told.
        match job {
            Job::Commit { reply, .. } => drop(reply.send(Err(error.duplicate()))),
            Job::Read { reply, .. } => drop(reply.send(Err(error.duplicate()))),
            Job::Stop => self.leaving = Some(Leaving::at_once()),
        }
    }

    /// Takes jobs. Everything is appended to the log, in the order in which it was asked for; reads
    /// wait for the last of what is appended now, or for an entry that does nothing.
    fn submit(&mut self, jobs: impl Iterator<Item = Job>, now: BootTime) -> Result<()> {
        let (mut reads, mut last) = (Vec::new(), None);
        for job in jobs {
            match job {
                Job::Stop => drop(self.leaving.get_or_insert_with(|| Leaving::begin(now))),
                Job::Commit { epoch, reply, commands } => match self.admit(Some(epoch), now) {
                    Err(error) => drop(reply.send(Err(error))),
                    Ok(epoch) => {
                        if let Some((entry, waiter)) = last.take() {
                            self.waiting.add(entry, now, waiter);
                        }
                        let entry = self.append(epoch, commands, now)?;
                        last = Some((entry, Waiter { commit: Some(reply), reads: vec![] }));
                    }
                },
                Job::Read { query, reply } => match self.admit(None, now) {
                    Err(error) => drop(reply.send(Err(error))),
                    Ok(epoch) => reads.push((epoch, (query, reply))),
                },
            }
        }
        if let (None, Some((epoch, _))) = (&last, reads.first()) {
            let entry = self.append(*epoch, vec![], now)?;
            last = Some((entry, Waiter::default()));
        }
        if let Some((entry, mut waiter)) = last {
            waiter.reads = reads.into_iter().map(|(_, asked)| asked).collect();
            self.waiting.add(entry, now, waiter);
        }
        Ok(())
    }

    /// Appends an entry to the log of the leader, which this node is.
    pub(crate) fn append(
        &mut self,
        epoch: Epoch,
        commands: Vec<Command>,
        now: BootTime,
    ) -> Result<tsoracle_cluster::EntryId> {
        let id = self.identity.next_entry();
        let entry = Entry::new(&LogEntry { id, epoch, commands })?;
        self.machine.observe(id, now);
        match self.paxos.append(entry) {
            Ok(()) => Ok(id),
            Err(refused) => {
                let context = format!("OmniPaxos refused an entry: {refused:?}");
                Err(Error::new(ErrorKind::Fatal, context))
            }
        }
    }

    /// Makes durable what has changed, all in one commit; with the state, where what it is worked out
    /// from is let go of.
    pub(crate) fn persist(&mut self) -> Result<()> {
        let is_due = self.machine.is_due() || self.log.borrow().has_let_go();
        let state = if is_due { self.settled() } else { vec![] };
        self.owes = false;
        let log = self.log.borrow_mut().take_writes();
        self.store.write(log.into_iter().chain(state))
    }

    /// Lets go of everything. On return the directory and the address can be used again.
    async fn end(mut self) -> Result<()> {
        self.lead = None;
        self.waiting.give_up("the driver stopped before it knew the outcome");
        // What is applied is worked out again after a crash; after a stop it need not be.
        let persisted = match self.failed {
            None => self.write_state().and_then(|()| self.persist()),
            Some(_) => Ok(()),
        };
        let Self { peers, store, .. } = self;
        peers.close().await;
        drop(store);
        persisted
    }
}

/// How far a state is, as it is stored with it.
pub(crate) fn read_applied(bytes: &[u8]) -> Result<usize> {
    let number = bytes.try_into().ok().map(u64::from_be_bytes);
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        let context = "how far the state is cannot be read; restore this node";
        Error::new(ErrorKind::Corrupt, context)
    })
}
