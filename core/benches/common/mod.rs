//! A state to plan on, and requests.

use tsoracle_core::{
    CommitLimits, Epoch, KeyRange, MemoryStore, NodeId, Reads, RequestId, SeqKey, Session, Version,
    state::{Advance, Command, Limits, Plan, WorkingSet},
};

pub(crate) const EPOCH: Epoch = Epoch(1);
const ROOM: CommitLimits = CommitLimits { writes: usize::MAX, bytes: usize::MAX };

/// A state that is open under [`EPOCH`], of which all is known.
pub(crate) fn open_state() -> WorkingSet {
    let all = KeyRange { from: vec![], to: vec![255], limit: usize::MAX };
    let reads = Reads { keys: vec![], ranges: vec![all] };
    let snapshot = reads.read_from(&MemoryStore::default()).expect("memory");
    let mut known = WorkingSet::at(Version::EMPTY);
    known.learn(reads, snapshot).expect("nothing cannot be damaged");
    let base = known.version();
    let fence = Command::Fence { base, now_ms: 1_000, headroom_ms: 10, lease_ms: 1_000 };
    let open = Command::Open { node: NodeId(1), lease_ms: 1_000 };
    commit(&mut known, &[fence, open]);
    known
}

pub(crate) fn planned(known: &WorkingSet, commands: &[Command]) -> Plan {
    let mut plan = Plan::default();
    for command in commands {
        let added = plan.add(known, EPOCH, command, ROOM).expect("all is known");
        added.expect("there is room").expect("no command is refused");
    }
    plan
}

pub(crate) fn commit(known: &mut WorkingSet, commands: &[Command]) {
    let next = known.version().next(7).expect("there are numbers left");
    let (_, writes) = planned(known, commands).finish(next);
    known.advance(next, writes);
}

/// Asks for one value of one of 64 keys; with `number`, exactly once.
pub(crate) fn advance(key: u64, number: Option<u64>) -> Command {
    let key = SeqKey::new(format!("orders-{}", key % 64)).expect("a valid key");
    let id = number.map(|number| {
        RequestId::new(Session([7; 16]), number, number.saturating_sub(63).max(1))
            .expect("a valid id")
    });
    let limits = Limits::default();
    Command::Advance(Advance { entries: vec![(key, 1)], id, name: None, elapsed_ms: 0, limits })
}
