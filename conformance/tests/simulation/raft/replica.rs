//! A replica: one task that does one thing after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use tsoracle_core::{
    BootTime, Clock, Error, ErrorKind, Leadership, MemoryStore, Outcome, Result, Snapshot, Version,
};

use super::{Event, Message};
use crate::{
    clock::{NodeClock, pass},
    disk::{Commit, Disk, Entry, Hard, Payload, Write},
    evidence::Evidence,
    flaw::Flaw,
    herald::Herald,
    network::MOST_NODES,
    reached::Reached,
    world::{Point, World},
};

/// How many events share one sync at most.
const GROUP: usize = 32;

pub(crate) struct Replica {
    pub(super) world: Arc<World>,
    pub(super) me: usize,
    pub(super) clock: NodeClock,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) hard: Hard,
    pub(super) log: Vec<Entry>,
    /// When each entry was first seen here.
    pub(super) seen: Vec<BootTime>,
    pub(super) evidence: Arc<Mutex<Evidence>>,
    pub(super) role: Role,
    /// Whom this node follows, and when it last heard of it.
    pub(super) leader: Option<usize>,
    pub(super) heard_at: BootTime,
    pub(super) stand_at: BootTime,
    /// It has resigned, and leaves elections to others until then.
    pub(super) stands_from: BootTime,
    pub(super) ticked_at: BootTime,
    /// How many times this process has claimed leadership.
    pub(super) claims: u64,
    /// What was claimed last was resigned, or nothing was.
    pub(super) needs_a_new_claim: bool,
    pub(super) committed: u64,
    pub(super) applied: Applied,
    pub(super) waiters: BTreeMap<u64, Waiter>,
    pub(super) herald: Herald,
    /// Leave once what was written is durable.
    pub(super) outbox: Vec<(usize, Message)>,
    pub(super) news: Vec<Leadership>,
}

/// A sync that is under way, and what is said once it has ended.
struct Sync {
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    writes: usize,
    outbox: Vec<(usize, Message)>,
    news: Vec<Leadership>,
}

pub(super) enum Role {
    Follower,
    Candidate { votes: BTreeSet<usize>, ask_at: BootTime },
    Leader(Leading),
}

pub(super) struct Leading {
    pub(super) next: [u64; MOST_NODES],
    pub(super) matched: [u64; MOST_NODES],
    pub(super) heard: [BootTime; MOST_NODES],
    pub(super) beat_at: BootTime,
}

/// The state, as far as the log was applied.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) store: MemoryStore,
    pub(super) version: Version,
    pub(super) upto: u64,
    /// A copy of before, for sabotage.
    pub(super) behind: (MemoryStore, Version),
}

/// The caller that waits for the entry of this term at some place.
pub(super) struct Waiter {
    pub(super) term: u64,
    pub(super) reply: Reply,
}

pub(super) enum Reply {
    Commit {
        reply: oneshot::Sender<Result<Outcome>>,
        /// There is another copy of it in the log.
        is_doubled: bool,
    },
    Read(oneshot::Sender<Result<Snapshot>>),
}

impl Replica {
    pub(super) fn load(
        world: Arc<World>,
        me: usize,
        clock: NodeClock,
        evidence: Arc<Mutex<Evidence>>,
        herald: Herald,
    ) -> Self {
        let disk = world.nodes[me].disk.clone();
        let (hard, log) = disk.lock().unwrap().load();
        let now = clock.now().boot;
        let mut replica = Self {
            world,
            me,
            clock,
            disk,
            hard,
            seen: vec![now; log.len()],
            log,
            evidence,
            role: Role::Follower,
            leader: None,
            heard_at: now,
            stand_at: now,
            stands_from: now,
            ticked_at: now,
            claims: 0,
            needs_a_new_claim: true,
            committed: 0,
            applied: Applied::default(),
            waiters: BTreeMap::new(),
            herald,
            outbox: vec![],
            news: vec![],
        };
        replica.put_off_standing();
        if replica.hard.led && replica.world.has(Flaw::LeadsOnAfterARestart) {
            replica.lead();
        }
        replica
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Event>) {
        let mut sync: Option<Sync> = None;
        let mut stopped = None;
        loop {
            let due = match &self.role {
                Role::Leader(leading) => leading.beat_at,
                Role::Candidate { ask_at, .. } => self.stand_at.min(*ask_at),
                Role::Follower => self.stand_at,
            };
            let is_busy = sync.is_some() && !self.world.temper.is_early || stopped.is_some();
            let mut next = tokio::select! {
                biased;
                () = ended(&mut sync), if sync.is_some() => {
                    if let Some(sync) = sync.take() {
                        self.disk.lock().unwrap().sync(sync.writes);
                        self.speak(sync.outbox, sync.news).await;
                    }
                    None
                }
                event = inbox.recv(), if !is_busy => event,
                () = self.clock.sleep_until(due), if !is_busy => None,
            };
            for _ in 0..GROUP {
                match next {
                    Some(Event::Stop { reply }) => stopped = Some(reply),
                    Some(event) => self.handle(event),
                    None => break,
                }
                next = inbox.try_recv().ok();
            }
            if !is_busy {
                self.tick();
            }
            if sync.is_none() {
                sync = self.persist().await;
            }
            self.apply();
            if sync.is_none()
                && let Some(reply) = stopped
            {
                // Dropping the rest tells those who wait that they do so in vain.
                let _ = reply.send(());
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Message { from, message } => self.receive(from, message),
            Event::Commit { commit, reply } => self.asked_to_commit(commit, reply),
            Event::Read { wanted, reply } => {
                if self.world.has(Flaw::ReadsGoBack) && self.world.chance(50) {
                    let _ = reply.send(wanted.read_from(&self.applied.behind.0));
                } else if self.world.temper.reads_locally {
                    let _ = reply.send(wanted.read_from(&self.applied.store));
                } else if let Role::Leader(_) = self.role {
                    self.propose(Payload::Read(wanted), Some(Reply::Read(reply)));
                } else {
                    let _ = reply.send(Err(unavailable()));
                }
            }
            Event::Resign { claim } => self.resign(claim),
            Event::Stand => self.stand_now(),
            Event::Stop { .. } => unreachable!("the loop handles it"),
        }
    }

    fn asked_to_commit(&mut self, commit: Commit, reply: oneshot::Sender<Result<Outcome>>) {
        let leader = self.leader.filter(|_| self.world.has(Flaw::IgnoresTheVersion));
        if let Role::Leader(_) = self.role {
            let found = self.applied.behind.1;
            if self.world.has(Flaw::ConflictFromBehind) && self.world.chance(10) {
                // The caller may have gone, here and below.
                return drop(reply.send(Ok(Outcome::Conflict { found })));
            }
            let is_doubled = self.world.doubles_a_commit();
            let again = is_doubled.then(|| Payload::Commit(commit.clone()));
            self.propose(Payload::Commit(commit), Some(Reply::Commit { reply, is_doubled }));
            if let Some(again) = again {
                self.propose(again, None);
            }
        } else if let Some(leader) = leader {
            self.world.nodes[leader].tell(Event::Commit { commit, reply });
        } else {
            let _ = reply.send(Err(not_leader()));
        }
    }

    fn receive(&mut self, from: usize, message: Message) {
        if matches!(message, Message::AskVote { .. }) && self.hears_a_leader() {
            self.world.reached(Reached::VoteIgnored);
            return;
        }
        if message.term() > self.hard.term {
            let term = message.term();
            self.hard = Hard { term, voted_for: None, led: false };
            self.store_hard();
            self.follow(None);
        }
        match message {
            Message::AskVote { term, last } => self.asked_for_vote(from, term, last),
            Message::Vote { term, granted } => self.voted_for(from, term, granted),
            Message::Append { term, before, entries, committed } => {
                self.append(from, term, before, entries, committed);
            }
            Message::Appended { term, matched } => self.appended(from, term, matched),
        }
    }

    /// Begins to sync what was written, which takes a while; if there is nothing, what is to be said is
    /// said at once.
    async fn persist(&mut self) -> Option<Sync> {
        let (outbox, mut news) = (std::mem::take(&mut self.outbox), std::mem::take(&mut self.news));
        if self.world.temper.is_early {
            // Who sends heartbeats before its disk answers must be known to lead before it does: only an engine
            // that knows can resign.
            news.drain(..).for_each(|news| self.herald.tell(news));
        }
        let writes = self.disk.lock().unwrap().unsynced();
        if writes == 0 {
            self.speak(outbox, news).await;
            return None;
        }
        self.world.hazard(self.me, Point::Sync).await;
        let (world, me) = (self.world.clone(), self.me);
        let ended = Box::pin(async move {
            pass(world.sync_time()).await;
            world.nodes[me].disk_answers().await;
        });
        Some(Sync { ended, writes, outbox, news })
    }

    /// Says what has become durable.
    async fn speak(&mut self, outbox: Vec<(usize, Message)>, news: Vec<Leadership>) {
        let voted = |(_, message): &_| matches!(message, Message::Vote { granted: true, .. });
        let voted = outbox.iter().any(voted);
        outbox.into_iter().for_each(|(to, message)| self.world.send(self.me, to, message));
        news.into_iter().for_each(|news| self.herald.tell(news));
        if voted {
            self.world.hazard(self.me, Point::Voted).await;
        }
    }

    pub(super) fn store_hard(&mut self) {
        self.disk.lock().unwrap().write(Write::Hard(self.hard.clone()));
    }

    /// Replaces the log from `from` on.
    pub(super) fn store_log(&mut self, from: u64, entries: Vec<Entry>) {
        let now = self.clock.now().boot;
        self.log.truncate(from as usize - 1);
        self.log.extend(entries.iter().cloned());
        let commits = entries.iter().filter_map(Entry::commit);
        commits.for_each(|commit| self.evidence.lock().unwrap().logged(commit.next, now));
        self.seen.truncate(from as usize - 1);
        self.seen.resize(self.log.len(), now);
        self.disk.lock().unwrap().write(Write::Log { from, entries });
    }

    /// Term and place of the last entry.
    pub(super) fn last(&self) -> (u64, u64) {
        (self.term_at(self.log.len() as u64), self.log.len() as u64)
    }

    pub(super) fn term_at(&self, place: u64) -> u64 {
        match place {
            0 => 0,
            place => self.log.get(place as usize - 1).map_or(0, |entry| entry.term),
        }
    }

    pub(super) fn majority(&self) -> usize {
        self.world.nodes.len() / 2 + 1
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.world.nodes.len()).filter(move |&node| node != me)
    }

    pub(super) fn after(&self, millis: u64) -> BootTime {
        self.clock.now().boot + Duration::from_millis(millis)
    }
}

async fn ended(sync: &mut Option<Sync>) {
    if let Some(sync) = sync {
        sync.ended.as_mut().await;
    }
}

impl Reply {
    pub(super) fn uncertain(self) {
        // The caller may have gone.
        match self {
            Self::Commit { reply, .. } => {
                let context = "leadership ended before the entry was committed";
                let _ = reply.send(Err(Error::new(ErrorKind::Uncertain, context)));
            }
            Self::Read(reply) => drop(reply.send(Err(unavailable()))),
        }
    }

    /// Another entry was committed in its place.
    pub(super) fn replaced(self) {
        match self {
            Self::Commit { is_doubled: true, .. } => self.uncertain(),
            Self::Commit { reply, .. } => drop(reply.send(Err(not_leader()))),
            Self::Read(reply) => drop(reply.send(Err(unavailable()))),
        }
    }
}

fn not_leader() -> Error {
    Error::new(ErrorKind::NotLeader(None), "this node does not lead")
}

fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "this node cannot read now")
}
