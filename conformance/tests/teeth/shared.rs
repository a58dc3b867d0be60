//! A state in memory that several drivers share, of which one leads: sound, or with a flaw.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_conformance::{Ability, Cluster, Harness, Place};
use tsoracle_core::{
    BootTime, Clock, ConsensusDriver, Effect, Error, ErrorKind, Leadership, MemoryStore, NodeId,
    Outcome, Result, SeqStore, SystemClock, VERSION, Version,
};

use crate::{contender::Contender, flaw::Flaw, nodes::Nodes};

/// The harness of drivers that contend for one state.
#[derive(Clone, Copy)]
pub(crate) struct Contenders(pub(crate) Option<Flaw>);

#[async_trait]
impl Harness for Contenders {
    fn lacks(&self, ability: Ability) -> Option<String> {
        match ability {
            Ability::Lock => Some("several drivers may be open at once".into()),
            Ability::Store | Ability::Damage => Some("the state is in memory".into()),
            Ability::Configure => Some("it has no name".into()),
            Ability::Process => Some("the state is in this process".into()),
            Ability::Wipe | Ability::HangDisk => {
                Some("the nodes store nothing of their own".into())
            }
            Ability::Client | Ability::Transfer | Ability::Companion => {
                Some("the nodes are in this process".into())
            }
            _ => None,
        }
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(Shared::new(self.0)))
    }

    async fn cluster(&self, nodes: usize) -> Result<Box<dyn Cluster>> {
        Ok(Box::new(Nodes::start(Shared::new(self.0), nodes)?))
    }
}

/// An id that no other place or driver of this process has.
pub(crate) fn new_id() -> u128 {
    static IDS: AtomicU64 = AtomicU64::new(1);
    IDS.fetch_add(1, Ordering::Relaxed).into()
}

/// The state, and who contends for it. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
pub(crate) struct State {
    place: u128,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) store: MemoryStore,
    /// What is there after a crash.
    saved: MemoryStore,
    unsaved: Effect,
    pub(crate) members: Vec<Member>,
    /// The first driver since the last crash.
    first: usize,
    leader: Option<usize>,
    claims: u64,
    pub(crate) storage_fails: bool,
    /// When each version was made, which all see at once.
    pub(crate) seen: HashMap<Version, BootTime>,
    pub(crate) commits: u64,
    pub(crate) reads: u64,
    /// The state before the last commit.
    pub(crate) before: MemoryStore,
}

/// A driver over the state.
#[derive(Debug)]
pub(crate) struct Member {
    /// Until it has stopped.
    lead: Option<watch::Sender<Leadership>>,
    /// Until it has crashed.
    connected: Option<watch::Sender<bool>>,
    pub(crate) opened: BootTime,
    /// What the state was when it was cut off.
    pub(crate) cut_off_from: MemoryStore,
}

impl Shared {
    fn new(flaw: Option<Flaw>) -> Self {
        Self(Arc::new(Mutex::new(State {
            place: new_id(),
            flaw,
            store: MemoryStore::default(),
            saved: MemoryStore::default(),
            unsaved: Effect::default(),
            members: vec![],
            first: 0,
            leader: None,
            claims: 0,
            storage_fails: false,
            seen: HashMap::new(),
            commits: 0,
            reads: 0,
            before: MemoryStore::default(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Opens a driver, and says which number it has.
    pub(crate) fn join(&self) -> (usize, Arc<dyn ConsensusDriver>) {
        let (lead, leadership) = watch::channel(Leadership::Unknown);
        let (connected, connection) = watch::channel(true);
        let (index, node, flaw) = {
            let mut state = self.lock();
            let index = state.members.len();
            let store = state.store.clone();
            state.members.push(Member {
                lead: Some(lead),
                connected: Some(connected),
                opened: SystemClock.now().boot,
                cut_off_from: store,
            });
            state.elect();
            let flaw = state.flaw;
            let shared = flaw == Some(Flaw::GivesContendersOneNodeId);
            let node = if shared { state.place } else { new_id() };
            (index, NodeId(node), flaw)
        };
        let contender = Contender::start(self.clone(), index, node, flaw, leadership, connection);
        (index, contender)
    }

    pub(crate) fn cut_off_member(&self, index: usize) {
        let mut state = self.lock();
        let store = state.store.clone();
        let member = &mut state.members[index];
        member.cut_off_from = store;
        if let Some(connected) = &member.connected {
            connected.send_replace(false);
        }
        state.elect();
    }

    pub(crate) fn heal_member(&self, index: usize) {
        let mut state = self.lock();
        let told = state.flaw != Some(Flaw::MissesAReElection);
        let leads = state.leader == Some(index);
        let member = &state.members[index];
        if let (Some(lead), false, true) = (&member.lead, leads, told) {
            lead.send_replace(Leadership::Follower { leader: None });
        }
        if let Some(connected) = &member.connected {
            connected.send_replace(true);
        }
        state.elect();
    }

    /// Ends a driver as `kill -9` would.
    pub(crate) fn kill_member(&self, index: usize) {
        let mut state = self.lock();
        state.members[index].connected = None;
        state.leave(index);
    }
}

impl State {
    pub(crate) fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Makes writes that survive whatever comes.
    pub(crate) fn write(&mut self, effect: Effect) -> Result<()> {
        self.before = self.store.clone();
        self.commits += 1;
        self.store.commit(effect.clone())?;
        if let Ok(version) = effect.version() {
            self.observe(version);
        }
        let answers_early = self.is(Flaw::AnswersBeforeTheCommit);
        let unsaved = std::mem::replace(&mut self.unsaved, effect);
        self.saved.commit(unsaved)?;
        if !answers_early {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        let unsaved = std::mem::take(&mut self.unsaved);
        self.saved.commit(unsaved)
    }

    pub(crate) fn observe(&mut self, version: Version) {
        self.seen.entry(version).or_insert_with(|| SystemClock.now().boot);
    }

    /// What a driver does with a commit: by the contract, or a little less.
    pub(crate) fn compare_and_store(&mut self, base: Version, effect: Effect) -> Result<Outcome> {
        let current = Version::decode(self.store.get(VERSION)?.as_deref())?;
        let next = effect.version()?;
        match (self.flaw, base.admits(next, current)) {
            (Some(Flaw::StoresADuplicateAgain), _) if self.seen.contains_key(&next) => {}
            (Some(Flaw::AnswersADuplicateWithAConflict), _) if current == next => {
                return Ok(Outcome::Conflict { found: current });
            }
            (_, Some(Outcome::Stored)) if current == next => return Ok(Outcome::Stored),
            (_, Some(Outcome::Stored)) | (Some(Flaw::DoesNotCompareTheBase), _) => {}
            (Some(Flaw::ComparesTheNumberAlone), _) if base.position() == current.position() => {}
            (Some(Flaw::ConflictsThoughItIsBehind), None) => {
                return Ok(Outcome::Conflict { found: current });
            }
            (_, Some(conflict)) => return Ok(conflict),
            (_, None) => {
                return Err(Error::new(ErrorKind::Unavailable, "the state is behind the base"));
            }
        }
        // Of a few, or else nothing works.
        let is_denied = self.is(Flaw::SaysConflictOfWhatItStored) && effect.touches(b"z");
        self.write(effect)?;
        if is_denied {
            let found = Version { name: !next.name, ..next };
            return Ok(Outcome::Conflict { found });
        }
        Ok(Outcome::Stored)
    }

    /// This driver cannot renew its lease: another one leads, if there is one.
    pub(crate) fn resign(&mut self, index: usize) {
        let Some(next) =
            (0..self.members.len()).find(|&other| other != index && self.can_lead(other))
        else {
            return;
        };
        if let Some(lead) = &self.members[index].lead {
            lead.send_replace(Leadership::Follower { leader: None });
        }
        self.leader = Some(next);
        self.claim(next);
    }

    /// A driver has stopped, or is done for.
    pub(crate) fn leave(&mut self, index: usize) {
        let lead = self.members[index].lead.take();
        if self.is(Flaw::LeadsAfterItHasStopped) {
            // The channel stays open for good.
            std::mem::forget(lead);
        }
        self.elect();
    }

    fn can_lead(&self, index: usize) -> bool {
        let member = &self.members[index];
        member.lead.is_some() && member.connected.as_ref().is_some_and(|now| *now.borrow())
    }

    fn elect(&mut self) {
        if self.is(Flaw::LetsTwoLead) {
            for index in 0..self.members.len() {
                let lead = self.members[index].lead.as_ref();
                if lead.is_some_and(|lead| *lead.borrow() == Leadership::Unknown) {
                    self.claim(index);
                }
            }
            return;
        }
        if self.leader.is_some_and(|leader| self.can_lead(leader)) {
            return;
        }
        self.leader = (0..self.members.len()).find(|&index| self.can_lead(index));
        if let Some(leader) = self.leader {
            self.claim(leader);
        }
    }

    fn claim(&mut self, index: usize) {
        self.claims += 1;
        let claim = self.claims;
        if self.is(Flaw::ForgetsSessionsWithTheLeader) && index > 0 {
            self.forget(&[b"u", b"a"]);
        }
        let told = !self.is(Flaw::MissesAReElection);
        for (other, member) in self.members.iter().enumerate() {
            let Some(lead) = &member.lead else { continue };
            let led = matches!(*lead.borrow(), Leadership::Leader { .. });
            if other == index && (told || !led) {
                lead.send_replace(Leadership::Leader { claim });
            } else if *lead.borrow() == Leadership::Unknown {
                lead.send_replace(Leadership::Follower { leader: None });
            }
        }
    }

    fn forget(&mut self, prefixes: &[&[u8]]) {
        let mut effect = Effect::default();
        for (key, _) in self.store.scan(&[], &[0xff; 300], usize::MAX).unwrap() {
            if prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                effect.delete(key);
            }
        }
        self.store.commit(effect).unwrap();
    }
}

/// Both halves of what a commit writes.
pub(crate) fn halves(effect: &Effect) -> (Effect, Effect) {
    let (mut first, mut second) = (Effect::default(), Effect::default());
    let middle = effect.len().div_ceil(2);
    for (index, (key, value)) in effect.iter().enumerate() {
        let half = if index < middle { &mut first } else { &mut second };
        match value {
            Some(value) => half.put(key, value),
            None => half.delete(key),
        }
    }
    (first, second)
}

pub(crate) fn without_version(effect: &Effect) -> Effect {
    let mut rest = Effect::default();
    for (key, value) in effect.iter().filter(|(key, _)| *key != VERSION) {
        match value {
            Some(value) => rest.put(key, value),
            None => rest.delete(key),
        }
    }
    rest
}

#[async_trait]
impl Place for Shared {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        Ok(self.join().1)
    }

    async fn crash(&mut self) -> Result<()> {
        let mut state = self.lock();
        state.unsaved = Effect::default();
        state.store = state.saved.clone();
        state.leader = None;
        state.first = state.members.len();
        for member in &mut state.members {
            member.lead = None;
            member.connected = None;
        }
        Ok(())
    }

    async fn lose_power(&mut self) -> Result<()> {
        self.crash().await
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let first = self.lock().first;
        self.cut_off_member(first + index);
        Ok(())
    }

    async fn heal(&mut self, index: usize) -> Result<()> {
        let first = self.lock().first;
        self.heal_member(first + index);
        Ok(())
    }

    async fn fail_storage(&mut self) -> Result<()> {
        self.lock().storage_fails = true;
        Ok(())
    }
}
