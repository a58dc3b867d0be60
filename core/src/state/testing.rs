//! What the tests of the rules share: a state to apply commands to, which checks itself.

use std::slice;

use super::{
    Advance, Answer, Command, Limits, NameRetention, Plan, Query, Record, ReignRecord, Reject,
    Reply, Stage, WorkingSet, answer, keys,
    record::{Leases, Meta, load},
};
use crate::{
    CommitLimits, Effect, Entry, Epoch, KeyRange, MemoryStore, NodeId, Reads, RequestId,
    RequestName, Result, SeqBlock, SeqKey, SeqStore, Session, VERSION, Version,
};

pub(super) const LEASE_MS: u64 = 1_000;
pub(super) const NODE: NodeId = NodeId(1);

/// Limits that no test reaches which is not about them.
pub(super) const ROOM: CommitLimits = CommitLimits { writes: usize::MAX, bytes: usize::MAX };

/// A state in memory, and the epoch that reigns over it.
#[derive(Default)]
pub(super) struct State {
    pub(super) store: MemoryStore,
    pub(super) epoch: Epoch,
    pub(super) elapsed_ms: u64,
    /// The era of the versions that are made.
    pub(super) era: u64,
}

impl State {
    /// A state that is open under epoch 1.
    pub(super) fn open() -> Self {
        let mut state = Self::default();
        state.take_over(1_000);
        state
    }

    /// The next epoch fences and opens.
    pub(super) fn take_over(&mut self, now_ms: u64) {
        self.elapsed_ms = 0;
        let fence = self.fence_command(now_ms, 10, LEASE_MS);
        match self.apply(&[fence]).remove(0) {
            Ok(Reply::Fenced { epoch, .. }) => self.epoch = epoch,
            other => panic!("a fence was answered with {other:?}"),
        }
        let open = Command::Open { node: NODE, lease_ms: LEASE_MS };
        self.apply(&[open])[0].as_ref().expect("a fenced epoch may open");
    }

    /// A fence that is planned on the present version.
    pub(super) fn fence_command(&self, now_ms: u64, headroom_ms: u64, lease_ms: u64) -> Command {
        Command::Fence { base: version(&self.store), now_ms, headroom_ms, lease_ms }
    }

    /// Commits a batch under the reigning epoch.
    pub(super) fn apply(&mut self, commands: &[Command]) -> Vec<Result<Reply, Reject>> {
        self.apply_as(self.epoch, commands)
    }

    /// Commits a batch. Checks that a batch has the same effect as its commands one by one, that
    /// each reads only what it names, and that refusals write nothing.
    pub(super) fn apply_as(
        &mut self,
        epoch: Epoch,
        commands: &[Command],
    ) -> Vec<Result<Reply, Reject>> {
        let mut singly = self.store.clone();
        let mut expected = Vec::new();
        for command in commands {
            let known = named(&singly, slice::from_ref(command));
            let mut plan = Plan::default();
            let planned = plan.add(&known, epoch, command, ROOM);
            assert_eq!(known.take_missing(), None, "{command:?} reads what it does not name");
            let result = planned.expect("all is known").expect("the first command fits");
            assert!(result.is_ok() || plan.is_empty(), "a refusal writes");
            commit(&mut singly, plan, self.era);
            expected.push(result);
        }
        let (results, plan) = plan_all(&self.store, epoch, commands);
        commit(&mut self.store, plan, self.era);
        assert_eq!(results, expected);
        assert_eq!(content(&self.store), content(&singly));
        self.check_counts();
        results
    }

    /// Asks for blocks in a batch of one.
    pub(super) fn advance(
        &mut self,
        entries: &[(&str, u32)],
        id: Option<RequestId>,
    ) -> Result<Vec<SeqBlock>, Reject> {
        let command = self.advance_command(entries, id, Limits::default());
        match self.apply(&[command]).remove(0)? {
            Reply::Advanced(blocks) => Ok(blocks),
            other => panic!("an advance was answered with {other:?}"),
        }
    }

    pub(super) fn advance_command(
        &self,
        entries: &[(&str, u32)],
        id: Option<RequestId>,
        limits: Limits,
    ) -> Command {
        let entries = entries.iter().map(|&(name, count)| (key(name), count)).collect();
        Command::Advance(Advance { entries, id, name: None, elapsed_ms: self.elapsed_ms, limits })
    }

    pub(super) fn named_command(
        &self,
        entries: &[(&str, u32)],
        name: &str,
        retention_ms: u64,
        limits: Limits,
    ) -> Command {
        let Command::Advance(advance) = self.advance_command(entries, None, limits) else {
            panic!("it is made above");
        };
        let name = RequestName::new(name).expect("test names are valid");
        let name = Some(NameRetention { name, retention_ms });
        Command::Advance(Advance { name, ..advance })
    }

    /// Lets the leader serve for `millis`, as its next extension reports.
    pub(super) fn pass(&mut self, millis: u64) {
        self.elapsed_ms += millis;
        let extend = Command::Extend { high_water_ms: 0, elapsed_ms: self.elapsed_ms };
        self.apply(&[extend])[0].as_ref().expect("the reign is open");
    }

    /// Expires what is due, once.
    pub(super) fn expire(&mut self) {
        let Answer::Expired(sessions) = self.ask(&Query::Expired { limit: 16 }) else {
            panic!("the answer fits the query");
        };
        let Answer::ExpiredNames(names) = self.ask(&Query::ExpiredNames { limit: 16 }) else {
            panic!("the answer fits the query");
        };
        for expired in self.apply(&[Command::Expire { sessions }, Command::ExpireNames { names }]) {
            expired.expect("the reign is open");
        }
    }

    pub(super) fn ask(&self, query: &Query) -> Answer {
        answer(&whole(&self.store), query).expect("all is known")
    }

    pub(super) fn record(&self) -> ReignRecord {
        let known = whole(&self.store);
        ReignRecord::load(&known).expect("all is known").expect("it was fenced").clone()
    }

    pub(super) fn knows(&self, session: Session) -> bool {
        self.store.get(&keys::session(session)).expect("memory does not fail").is_some()
    }

    pub(super) fn knows_name(&self, name: RequestName) -> bool {
        self.store.get(&keys::named(name)).expect("memory does not fail").is_some()
    }

    /// How many entries there are of a kind, by the first byte of their keys.
    pub(super) fn count(&self, kind: u8) -> usize {
        let entries = self.store.scan(&[kind], &[kind + 1], usize::MAX);
        entries.expect("memory does not fail").len()
    }

    fn check_counts(&self) {
        let known = whole(&self.store);
        let record = ReignRecord::load(&known).expect("readable");
        if record.is_some_and(|record| record.stage == Stage::Importing) {
            // Only once it is whole do the counts fit.
            return;
        }
        let meta = Meta::load(&known).expect("readable");
        assert_eq!(meta.keys, self.count(b's') as u64);
        assert_eq!(meta.sessions, self.count(b'u') as u64);
        assert_eq!(meta.sessions, self.count(b'x') as u64, "each session is indexed once");
        let named = load::<u64>(&known, keys::NAMED).expect("readable").copied();
        for kind in [b'q', b'y'] {
            assert_eq!(
                named.unwrap_or_default(),
                self.count(kind) as u64,
                "each name is kept once"
            );
        }
        let leases = load::<Leases>(&known, keys::LEASES).expect("readable").cloned();
        let count = leases.unwrap_or_default().count;
        for (kind, what) in [(b'l', "kept"), (b'e', "indexed by its end"), (b'b', "by its bound")] {
            assert_eq!(count, self.count(kind) as u64, "each lease is {what} once");
        }
    }
}

pub(super) fn key(name: &str) -> SeqKey {
    SeqKey::new(name).expect("test keys are valid")
}

/// Request `number` of session `session`, which waits for everything from `first` on.
pub(super) fn id(session: u8, number: u64, first: u64) -> RequestId {
    RequestId::new(Session([session; 16]), number, first).expect("test ids are valid")
}

pub(super) fn version(store: &MemoryStore) -> Version {
    let stored = store.get(VERSION).expect("memory does not fail");
    Version::decode(stored.as_deref()).expect("it was stored here")
}

/// What is known of a state after reading these.
pub(super) fn read(store: &MemoryStore, reads: Reads) -> WorkingSet {
    let snapshot = reads.read_from(store).expect("memory does not fail");
    let mut known = WorkingSet::at(snapshot.version);
    known.learn(reads, snapshot).expect("readable");
    known
}

/// What the commands name to be read.
fn named(store: &MemoryStore, commands: &[Command]) -> WorkingSet {
    let mut reads = Reads::default();
    for mut named in commands.iter().map(Command::reads) {
        reads.keys.append(&mut named.keys);
        reads.ranges.append(&mut named.ranges);
    }
    read(store, reads)
}

/// All there is.
pub(super) fn whole(store: &MemoryStore) -> WorkingSet {
    let all = KeyRange { from: vec![], to: vec![255], limit: usize::MAX };
    read(store, Reads { keys: vec![], ranges: vec![all] })
}

/// Works out a batch as a leader does: from what its commands name, and what more they turn out to need.
pub(super) fn plan_all(
    store: &MemoryStore,
    epoch: Epoch,
    commands: &[Command],
) -> (Vec<Result<Reply, Reject>>, Plan) {
    let mut known = named(store, commands);
    loop {
        let mut plan = Plan::default();
        let planned = commands.iter().map(|command| plan.add(&known, epoch, command, ROOM));
        let planned: Result<Option<Vec<_>>> = planned.collect();
        let Some(missing) = known.take_missing() else {
            return (planned.expect("all is known").expect("there is room"), plan);
        };
        let snapshot = missing.read_from(store).expect("memory does not fail");
        known.learn(missing, snapshot).expect("readable");
    }
}

/// Stores what was worked out, if anything is to be written.
pub(super) fn commit(store: &mut MemoryStore, plan: Plan, era: u64) -> Effect {
    if plan.is_empty() {
        return Effect::default();
    }
    let base = version(store);
    let next = base.next(u128::from(base.number) + 1_000).expect("there are numbers left");
    let (effect, _) = plan.finish(Version { era, ..next });
    store.commit(effect.clone()).expect("memory does not fail");
    effect
}

/// All entries but the version, with a reign record that does not note its own.
pub(super) fn content(store: &MemoryStore) -> Vec<Entry> {
    let mut all = store.scan(&[], &[255], usize::MAX).expect("memory does not fail");
    all.retain(|(key, _)| key != VERSION);
    for (key, value) in &mut all {
        if key == keys::REIGN
            && let Ok(Record::Reign(record)) = Record::decode(key, value.clone())
        {
            *value = Record::from(ReignRecord { version: Version::EMPTY, ..*record }).encode();
        }
    }
    all
}

/// A store to which a write was applied, for tests that build states by hand.
pub(super) fn with(mut store: MemoryStore, key: Vec<u8>, value: Vec<u8>) -> MemoryStore {
    let mut effect = Effect::default();
    effect.put(key, value);
    store.commit(effect).expect("memory does not fail");
    store
}
