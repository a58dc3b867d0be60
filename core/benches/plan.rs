//! What the rules cost, over a state of which all is known.

mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tsoracle_core::state::{Command, plan};

use common::{EPOCH, advance, commit, open_state, planned};

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
