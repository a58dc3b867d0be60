//! A node that a simulation steps: the code of the driver, without its thread, its transport and its clock.
//! And ways to do wrong, each of which some promise forbids.

use std::sync::Arc;

use omnipaxos::messages::{
    Message,
    sequence_paxos::{PaxosMessage, PaxosMsg},
};
use tokio::sync::mpsc;
use tsoracle_core::{BootTime, Clock, Error, ErrorKind, NodeId, Reads, Result, Snapshot, Version};
use tsoracle_replica::{Config, Lifecycle, transfer};
use tsoracle_store::Store;

use crate::{
    driver::{OmnipaxosDriver, QUEUE, check, connect},
    entry::Commit,
    inbound::{Decoded, Event, Inbound, check_state},
    jobs::Job,
    leadership::Role,
    message::PeerMessage,
    node::{MOST, Node},
    peers,
};

/// What is done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Entries are applied once this node has them, decided or not.
    AppliesTheUndecided,
    /// When a leader brings its log, this node applies up to what is decided from its own one first.
    AppliesItsOwnEntries,
    /// The log is shortened before the state that it led to is written.
    ShortensBeforeTheState,
    /// A state that has come is installed by a second write, after the log that begins behind it.
    InstallsInTwoWrites,
    /// Leadership is announced before everything is applied that was decided before the election.
    AnnouncesAtOnce,
}

/// What is to leave a node, in this order.
pub enum Outgoing {
    /// A message, or a part of one.
    Part {
        /// To which node.
        peer: u32,
        /// For [`Stepped::hear`].
        body: Vec<u8>,
    },
    /// A state.
    State {
        /// To which node.
        peer: u32,
        /// For [`Stepped::transferred`].
        transfer: u64,
        /// What calls carry it, one after the other, for [`Stepped::take_chunk`].
        calls: Box<dyn Iterator<Item = Result<Vec<u8>>> + Send>,
    },
    /// The state on its way to that node is of no use any more.
    Abandon {
        /// To which node.
        peer: u32,
    },
}

/// A node that works when it is stepped.
pub struct Stepped {
    node: Node,
    inbound: Inbound,
    jobs: mpsc::Receiver<Job>,
    asked: Vec<Job>,
    heard: Vec<Event>,
    lifecycle: Arc<Lifecycle>,
    sabotage: Option<Sabotage>,
}

impl Stepped {
    /// A node over what is in `store`, which has started so often under that id, and the driver over it.
    ///
    /// # Errors
    /// As for [`open`](crate::open).
    pub fn open(
        config: Config,
        store: Store,
        id: (NodeId, u64),
        clock: Arc<dyn Clock>,
        sabotage: Option<Sabotage>,
    ) -> Result<(Self, OmnipaxosDriver)> {
        let cluster = check(config)?;
        let (asking, jobs) = mpsc::channel(QUEUE);
        let (unused, _) = mpsc::channel(1);
        let (driver, node) = connect(&cluster, store, id, clock.clone(), asking)?;
        let inbound = Inbound::new(&cluster, unused, node.own_progress.clone(), clock)?;
        let lifecycle = driver.lifecycle.clone();
        let (asked, heard) = (vec![], vec![]);
        Ok((Self { node, inbound, jobs, asked, heard, lifecycle, sabotage }, driver))
    }

    /// Returns once a caller asks for something; false if none is left.
    pub async fn asked(&mut self) -> bool {
        self.jobs.recv_many(&mut self.asked, MOST).await > 0
    }

    /// Takes a part of a message.
    ///
    /// # Errors
    /// The reason why it is ignored.
    pub fn hear(&mut self, peer: u32, body: &[u8]) -> Result<()> {
        let taken = self.inbound.decode(peer, body).and_then(|decoded| {
            let Some(Decoded { message, state, .. }) = decoded else { return Ok(None) };
            let state = state.map(|named| {
                let received = self.inbound.states.blocking_finish(peer, named.transfer)?;
                check_state(named, received)
            });
            Ok(Some((message, state.transpose()?)))
        });
        let (event, outcome) = match taken {
            Ok(Some((message, state))) => (Event::Message { peer, message, state }, Ok(())),
            Ok(None) => (Event::Heard { peer }, Ok(())),
            Err(error) => (Event::Heard { peer }, Err(error)),
        };
        self.heard.push(event);
        outcome
    }

    /// Takes a call that carries a part of a state.
    ///
    /// # Errors
    /// That of the answer.
    pub fn take_chunk(&mut self, peer: u32, body: &[u8]) -> Result<()> {
        self.heard.push(Event::Heard { peer });
        self.inbound.states.blocking_take(peer, body)
    }

    /// A session with that peer stands.
    pub fn connected(&mut self, peer: u32) {
        self.heard.push(Event::Connected { peer });
    }

    /// A state has reached that peer, or has not.
    pub fn transferred(&mut self, peer: u32, transfer: u64, outcome: Result<()>) {
        self.heard.push(Event::Transferred { peer, transfer, outcome });
    }

    /// When a round is due even if nothing comes.
    pub fn due(&self) -> BootTime {
        self.node.due()
    }

    /// A round with everything that has come.
    pub fn work(&mut self, now: BootTime) -> Vec<Outgoing> {
        while let Ok(job) = self.jobs.try_recv() {
            self.asked.push(job);
        }
        self.spoil_before(now);
        let outgoing = self.node.work(&mut self.asked, &mut self.heard, now);
        self.spoil_after(now);
        outgoing.into_iter().map(Outgoing::from).collect()
    }

    /// Whether [`pay`](Self::pay) comes next, once what was returned has left.
    pub fn owes(&self) -> bool {
        self.node.owes()
    }

    /// Makes durable and applies what is owed.
    pub fn pay(&mut self) {
        self.node.pay();
    }

    /// Whether the node was stopped, and has ended.
    pub fn has_ended(&self) -> bool {
        self.node.has_ended()
    }

    /// Why it takes part no more, if it has failed.
    pub fn failure(&self) -> Option<String> {
        self.node.failure().map(Error::to_string)
    }

    /// Ends its work, and closes the store.
    pub fn end(self) {
        let Self { mut node, mut jobs, lifecycle, .. } = self;
        jobs.close();
        let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
        while let Ok(job) = jobs.try_recv() {
            node.refuse(job, &stopped);
        }
        let ended = node.end();
        drop(node);
        lifecycle.end(ended);
    }

    /// How many entries it has applied, and what that has made.
    pub fn progress(&self) -> (usize, Version) {
        (self.node.applied, self.node.replica.version())
    }

    /// Reads from what it has applied.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.node.replica.read(wanted)
    }

    /// At which indexes it has which commits.
    pub fn log(&self) -> Vec<(usize, Version)> {
        let log = self.node.log.borrow();
        let commits = log.range(log.first, log.end());
        (log.first..).zip(commits.iter().map(Commit::next)).collect()
    }

    /// What it has promised to follow.
    pub fn promise(&self) -> (u32, u64) {
        (self.node.promise.n, self.node.promise.pid)
    }
}

/// Sabotage.
impl Stepped {
    fn spoil_before(&mut self, now: BootTime) {
        match self.sabotage {
            Some(Sabotage::AppliesItsOwnEntries) => {
                let raised = self.heard.iter().filter_map(decided_by_a_sync).max();
                self.apply_up_to(raised.unwrap_or_default(), now);
            }
            Some(Sabotage::InstallsInTwoWrites) => {
                for event in std::mem::take(&mut self.heard) {
                    self.install_in_two_writes(event, now);
                }
            }
            _ => {}
        }
    }

    fn spoil_after(&mut self, now: BootTime) {
        let node = &mut self.node;
        match self.sabotage {
            Some(Sabotage::AppliesTheUndecided) => {
                let end = node.log.borrow().end();
                self.apply_up_to(end, now);
            }
            Some(Sabotage::ShortensBeforeTheState) => {
                let mut log = node.log.borrow_mut();
                let first = node.applied.min(log.decided).min(log.end());
                if !log.shortened {
                    log.trim(first);
                    log.shortened = false;
                }
            }
            Some(Sabotage::AnnouncesAtOnce) => {
                if let Role::Elected { end, .. } = &mut node.role {
                    *end = 0;
                    node.announce(now);
                }
            }
            _ => {}
        }
    }

    /// Applies this node's own entries before `end`.
    fn apply_up_to(&mut self, end: usize, now: BootTime) {
        let node = &mut self.node;
        let commits = {
            let log = node.log.borrow();
            log.range(node.applied, end.min(log.end()))
        };
        for commit in &commits {
            node.apply(commit, now).expect("memory does not fail");
        }
        if !commits.is_empty() {
            node.applied += commits.len();
            node.replica.set_applied((node.applied as u64).to_be_bytes().into());
        }
    }

    fn install_in_two_writes(&mut self, event: Event, now: BootTime) {
        let node = &mut self.node;
        let Event::Message { message: PeerMessage::Paxos(message), state: Some(state), .. } = event
        else {
            return node.take(event, now).expect("memory does not fail");
        };
        if let Some(state) = node.hand_in(message, Some(state)) {
            let writes = node.log.borrow_mut().take_writes();
            node.replica.write(writes).expect("memory does not fail");
            node.install(state, now).expect("memory does not fail");
        }
    }
}

/// Up to where entries are decided, as a message says that brings a log.
fn decided_by_a_sync(event: &Event) -> Option<usize> {
    let Event::Message { message: PeerMessage::Paxos(message), .. } = event else { return None };
    match message {
        Message::SequencePaxos(PaxosMessage { msg: PaxosMsg::AcceptSync(sync), .. }) => {
            Some(sync.decided_idx)
        }
        _ => None,
    }
}

impl From<peers::Outgoing> for Outgoing {
    fn from(outgoing: peers::Outgoing) -> Self {
        match outgoing {
            peers::Outgoing::Part { peer, body } => Self::Part { peer, body },
            peers::Outgoing::State { peer, transfer, chunks } => {
                Self::State { peer, transfer, calls: Box::new(transfer::calls(transfer, chunks)) }
            }
            peers::Outgoing::Abandon { peer } => Self::Abandon { peer },
        }
    }
}
