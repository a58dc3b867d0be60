//! What the rules cost, over a state in memory.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tsoracle_core::{
    Epoch, MemoryStore, NodeId, RequestId, SeqKey, SeqStore, Session,
    state::{Advance, Command, Limits, apply, plan},
};

const EPOCH: Epoch = Epoch(1);

/// A state that is open under [`EPOCH`].
fn open_state() -> MemoryStore {
    let mut store = MemoryStore::default();
    let fence = Command::Fence { now_ms: 1_000, headroom_ms: 10, lease_ms: 1_000 };
    let open = Command::Open { node: NodeId(1), lease_ms: 1_000 };
    commit(&mut store, &[fence, open]);
    store
}

fn commit(store: &mut MemoryStore, commands: &[Command]) {
    let (results, effect) = apply(store, EPOCH, commands).expect("memory does not fail");
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    store.commit(effect).expect("memory does not fail");
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
    let mut store = open_state();
    commit(&mut store, &(1..=64).map(|n| advance(n, Some(n))).collect::<Vec<_>>());
    let mut group = criterion.benchmark_group("plan");
    let extend = Command::Extend { high_water_ms: 5_000, elapsed_ms: 300 };
    for (name, command) in [
        ("extend", extend),
        ("advance", advance(65, None)),
        ("advance, exactly once", advance(65, Some(65))),
        ("advance, asked again", advance(64, Some(64))),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| plan(&store, EPOCH, black_box(&command)).expect("memory"));
        });
    }
    group.finish();
}

/// A group commit of as many requests as callers wait.
fn groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for size in [1, 64, 1_024] {
        group.throughput(Throughput::Elements(size));
        let commands: Vec<_> = (1..=size).map(|n| advance(n, Some(n))).collect();
        group.bench_function(format!("{size} advances, exactly once"), |bencher| {
            bencher.iter_batched_ref(
                open_state,
                |store| apply(store, EPOCH, black_box(&commands)).expect("memory"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, plans, groups);
criterion_main!(benches);
