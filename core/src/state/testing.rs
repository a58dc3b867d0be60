//! What the tests of the rules share: a state to apply commands to, which checks itself.

use super::{
    Advance, Command, Effect, Entry, Limits, Query, Reads, ReignRecord, Reject, Reply, Stage, View,
    answer, apply, keys, plan,
    record::{Leases, Meta, load},
};
use crate::{Epoch, MemoryStore, NodeId, RequestId, Result, SeqBlock, SeqKey, SeqStore, Session};

pub(super) const LEASE_MS: u64 = 1_000;
pub(super) const NODE: NodeId = NodeId(1);

/// A state in memory, and the epoch that reigns over it.
#[derive(Default)]
pub(super) struct State {
    pub(super) store: MemoryStore,
    pub(super) epoch: Epoch,
    pub(super) elapsed_ms: u64,
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
        self.epoch = Epoch(self.epoch.0 + 1);
        self.elapsed_ms = 0;
        let fence = Command::Fence { now_ms, headroom_ms: 10, lease_ms: LEASE_MS };
        self.apply(&[fence])[0].as_ref().expect("a new epoch may fence");
        let open = Command::Open { node: NODE, lease_ms: LEASE_MS };
        self.apply(&[open])[0].as_ref().expect("a fenced epoch may open");
    }

    /// Commits a batch under the reigning epoch.
    pub(super) fn apply(&mut self, commands: &[Command]) -> Vec<Result<Reply, Reject>> {
        self.apply_as(self.epoch, commands)
    }

    /// Commits a batch. Checks that a batch comes to the same as its commands one by one, that
    /// each reads only what it names, and that refusals write nothing.
    pub(super) fn apply_as(
        &mut self,
        epoch: Epoch,
        commands: &[Command],
    ) -> Vec<Result<Reply, Reject>> {
        let mut singly = self.store.clone();
        let mut expected = Vec::new();
        for command in commands {
            let named = OnlyNamed { below: &singly, reads: command.reads() };
            let planned = plan(&named, epoch, command).expect("memory does not fail");
            expected.push(planned.map(|(reply, effect)| {
                singly.commit(effect).expect("memory does not fail");
                reply
            }));
            let size = postcard::to_stdvec(command).expect("commands can be encoded").len();
            assert!(size <= command.size_hint(), "{command:?} takes {size} bytes");
        }
        let (results, effect) = apply(&self.store, epoch, commands).expect("memory does not fail");
        self.store.commit(effect).expect("memory does not fail");
        assert_eq!(results, expected);
        assert_eq!(self.store, singly);
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
        Command::Advance(Advance { entries, id, elapsed_ms: self.elapsed_ms, limits })
    }

    /// Lets the leader serve for `millis`, as its next extension reports.
    pub(super) fn pass(&mut self, millis: u64) {
        self.elapsed_ms += millis;
        let extend = Command::Extend { high_water_ms: 0, elapsed_ms: self.elapsed_ms };
        self.apply(&[extend])[0].as_ref().expect("the reign is open");
    }

    /// Expires what is due, once.
    pub(super) fn expire(&mut self) {
        let super::Answer::Expired(sessions) =
            answer(&self.store, &Query::Expired { limit: 16 }).expect("memory does not fail")
        else {
            panic!("the answer fits the query");
        };
        self.apply(&[Command::Expire { sessions }])[0].as_ref().expect("the reign is open");
    }

    pub(super) fn record(&self) -> ReignRecord {
        ReignRecord::load(&self.store).expect("it can be read").expect("it was fenced")
    }

    pub(super) fn knows(&self, session: Session) -> bool {
        View::get(&self.store, &keys::session(session)).expect("memory does not fail").is_some()
    }

    /// How many entries there are of a kind, by the first byte of their keys.
    pub(super) fn count(&self, kind: u8) -> usize {
        View::scan(&self.store, &[kind], &[kind + 1], usize::MAX)
            .expect("memory does not fail")
            .len()
    }

    fn check_counts(&self) {
        let record = ReignRecord::load(&self.store).expect("readable");
        if record.is_some_and(|record| record.stage == Stage::Importing) {
            // Only once it is whole do the counts fit.
            return;
        }
        let meta: Meta = load(&self.store, keys::META).expect("readable").unwrap_or_default();
        assert_eq!(meta.keys, self.count(b's') as u64);
        assert_eq!(meta.sessions, self.count(b'u') as u64);
        assert_eq!(meta.sessions, self.count(b'x') as u64, "each session is indexed once");
        let leases: Leases = load(&self.store, keys::LEASES).expect("readable").unwrap_or_default();
        for (kind, what) in [(b'l', "kept"), (b'e', "indexed by its end"), (b'b', "by its bound")] {
            assert_eq!(leases.count, self.count(kind) as u64, "each lease is {what} once");
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

/// A view that lets through only the reads that a command has named.
struct OnlyNamed<'a> {
    below: &'a MemoryStore,
    reads: Reads,
}

impl View for OnlyNamed<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        assert!(self.reads.keys.iter().any(|named| named == key), "{:?}", key.escape_ascii());
        View::get(self.below, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        let is_named = self
            .reads
            .ranges
            .iter()
            .any(|(start, end, most)| start.as_slice() <= from && end == to && *most == limit);
        assert!(is_named, "{:?}", (from, to, limit));
        View::scan(self.below, from, to, limit)
    }
}

/// A store to which an effect was applied, for tests that build states by hand.
pub(super) fn with(mut store: MemoryStore, key: Vec<u8>, value: Vec<u8>) -> MemoryStore {
    let mut effect = Effect::default();
    effect.put(key, value);
    store.commit(effect).expect("memory does not fail");
    store
}
