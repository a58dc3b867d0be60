//! A state in memory that several drivers share, of which one leads: sound, or with a flaw.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;
use tsoracle_conformance::{Action, Fault, Fixture, Shared};
use tsoracle_core::{
    BootTime, Clock, ConsensusDriver, Effect, Error, ErrorKind, Leadership, MemoryStore, NodeId,
    Outcome, Result, SeqStore, SystemClock, VERSION, Version,
};

use crate::{contender::Contender, sabotage::Flaw};

/// Drivers that contend for one state.
pub(crate) fn fixture(flaw: Option<Flaw>) -> Fixture {
    let state = Shared::new(SharedState::new(flaw));
    let act = |act: fn(&SharedState)| -> Action {
        state.action(move |state, ()| {
            act(state);
            Box::pin(async { Ok(()) })
        })
    };
    let cut = |is_cut_off| {
        state.action(move |state, index| {
            let member = state.lock().first + index;
            match is_cut_off {
                true => state.cut_off_member(member),
                false => state.heal_member(member),
            }
            Box::pin(async { Ok(()) })
        })
    };
    let lose_answers = |are_lost: bool| {
        state.action(move |state: &mut SharedState, index: usize| {
            let mut state = state.lock();
            let member = state.first + index;
            state.members[member].answers_are_lost = are_lost;
            Box::pin(async { Ok(()) })
        })
    };
    Fixture {
        contends: true,
        crash: Some(act(SharedState::crash)),
        lose_power: Some(act(SharedState::crash)),
        cut_off: Some(Fault { begin: cut(true), end: cut(false) }),
        lose_answers: Some(Fault { begin: lose_answers(true), end: lose_answers(false) }),
        fail_storage: Some(act(|state| state.lock().storage_fails = true)),
        ..Fixture::new(state.action(|state, ()| Box::pin(async { Ok(state.join().1) })))
    }
}

/// An id that no other state or driver of this process has.
pub(crate) fn new_id() -> u128 {
    static IDS: AtomicU64 = AtomicU64::new(1);
    IDS.fetch_add(1, Ordering::Relaxed).into()
}

/// The state, and who contends for it. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct SharedState(Arc<Mutex<State>>);

#[derive(Debug)]
pub(crate) struct State {
    id: u128,
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
    /// Which driver resigned last, and from which claim.
    resigned: Option<(usize, u64)>,
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
    /// Its commits are carried out, and their answers lost.
    pub(crate) answers_are_lost: bool,
    /// What the state was when it was cut off.
    pub(crate) cut_off_from: MemoryStore,
}

impl SharedState {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        Self(Arc::new(Mutex::new(State {
            id: new_id(),
            flaw,
            store: MemoryStore::default(),
            saved: MemoryStore::default(),
            unsaved: Effect::default(),
            members: vec![],
            first: 0,
            leader: None,
            claims: 0,
            resigned: None,
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
                answers_are_lost: false,
                cut_off_from: store,
            });
            state.elect();
            let flaw = state.flaw;
            let shared = flaw == Some(Flaw::GivesContendersOneNodeId);
            let node = if shared { state.id } else { new_id() };
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

    /// Ends all drivers as `kill -9` would.
    fn crash(&self) {
        let mut state = self.lock();
        state.unsaved = Effect::default();
        state.store = state.saved.clone();
        state.leader = None;
        state.first = state.members.len();
        for member in &mut state.members {
            member.lead = None;
            member.connected = None;
        }
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
            (Some(Flaw::ComparesHalfOfTheName), _)
                if (base.position(), base.name as u64)
                    == (current.position(), current.name as u64) => {}
            (Some(Flaw::IgnoresTheEra), _)
                if (base.number, base.name) == (current.number, current.name) => {}
            (Some(Flaw::IgnoresTheNumber), _)
                if (base.era, base.name) == (current.era, current.name) => {}
            (Some(Flaw::SaysStoredOfAConflict), Some(_)) => return Ok(Outcome::Stored),
            (Some(Flaw::ConflictsThoughItIsBehind), None) => {
                return Ok(Outcome::Conflict { found: current });
            }
            (Some(Flaw::DeletesThoughItConflicts), Some(conflict)) => {
                let mut deletions = Effect::default();
                let deleted = effect.iter().filter(|(_, value)| value.is_none());
                deleted.for_each(|(key, _)| deletions.delete(key));
                self.store.commit(deletions)?;
                return Ok(conflict);
            }
            (_, Some(conflict)) => return Ok(conflict),
            (_, None) => {
                return Err(Error::new(ErrorKind::Unavailable, "the state is behind the base"));
            }
        }
        let effect = match effect.len() > MOST_WRITES {
            true if self.is(Flaw::DropsTheTailOfALargeCommit) => head(&effect, MOST_WRITES),
            _ => effect,
        };
        // Of one, or else nothing works.
        let is_denied = self.is(Flaw::SaysConflictOfWhatItStored) && effect.touches(b"round 7");
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
            if let Leadership::Leader { claim } = *lead.borrow() {
                self.resigned = Some((index, claim));
            }
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
        let claim = match self.resigned {
            Some((node, claim)) if node == index && self.is(Flaw::RepeatsAResignedClaim) => claim,
            _ if self.is(Flaw::HasOneClaimForAll) => 1,
            _ => self.claims,
        };
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
}

/// More than that is much for a commit.
const MOST_WRITES: usize = 500;

/// The first writes of an effect, and its version.
fn head(effect: &Effect, writes: usize) -> Effect {
    let mut head = Effect::default();
    for (key, value) in effect.iter().take(writes) {
        match value {
            Some(value) => head.put(key, value),
            None => head.delete(key),
        }
    }
    if let Ok(version) = effect.version() {
        head.set_version(version);
    }
    head
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
