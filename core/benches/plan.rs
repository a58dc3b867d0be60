//! What the rules cost, over a state of which all is known.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tsoracle_core::{
    CommitLimits, Epoch, KeyRange, MemoryStore, NodeId, Reads, RequestId, SeqKey, Session, Version,
    state::{Advance, Command, Limits, Plan, WorkingSet, plan},
};

const EPOCH: Epoch = Epoch(1);
const ROOM: CommitLimits = CommitLimits { writes: usize::MAX, bytes: usize::MAX };

/// A state that is open under [`EPOCH`], of which all is known.
fn open_state() -> WorkingSet {
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

fn planned(known: &WorkingSet, commands: &[Command]) -> Plan {
    let mut plan = Plan::default();
    for command in commands {
        let added = plan.add(known, EPOCH, command, ROOM).expect("all is known");
        added.expect("there is room").expect("no command is refused");
    }
    plan
}

fn commit(known: &mut WorkingSet, commands: &[Command]) {
    let next = known.version().next(7).expect("there are numbers left");
    let (_, writes) = planned(known, commands).finish(next);
    known.advance(next, writes);
}

/// Asks for one value of one of 64 keys; with `number`, exactly once.
fn advance(key: u64, number: Option<u64>) -> Command {
    let key = SeqKey::new(format!("orders-{}", key % 64)).expect("a valid key");
    let id = number.map(|number| {
        RequestId::new(Session([7; 16]), number, number.saturating_sub(63).max(1))
            .expect("a valid id")
    });
    let limits = Limits::default();
    Command::Advance(Advance { entries: vec![(key, 1)], id, elapsed_ms: 0, limits })
}

fn plans(criterion: &mut Criterion) {
    let mut known = open_state();
    commit(&mut known, &(1..=64).map(|n| advance(n, Some(n))).collect::<Vec<_>>());
    let mut group = criterion.benchmark_group("plan");
    let extend = Command::Extend { high_water_ms: 5_000, elapsed_ms: 300 };
    for (name, command) in [
        ("extend", extend),
        ("advance", advance(65, None)),
        ("advance, exactly once", advance(65, Some(65))),
        ("advance, asked again", advance(64, Some(64))),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| plan(&known, EPOCH, black_box(&command)).expect("all is known"));
        });
    }
    group.finish();
}

/// A group commit of as many requests as callers wait, up to the effect that is stored.
fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("group");
    for size in [1, 64, 1_024] {
        group.throughput(Throughput::Elements(size));
        let commands: Vec<_> = (1..=size).map(|n| advance(n, Some(n))).collect();
        let known = open_state();
        let next = known.version().next(7).expect("there are numbers left");
        group.bench_function(format!("{size} advances, exactly once"), |bencher| {
            bencher.iter(|| planned(&known, black_box(&commands)).finish(next));
        });
    }
    group.finish();
}

criterion_group!(benches, plans, groups);
criterion_main!(benches);
