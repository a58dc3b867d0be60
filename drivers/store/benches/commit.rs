//! What a durable commit costs, beside the least that a disk can do: append, and fdatasync.

use std::{fs::File, io::Write as _};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tsoracle_core::{Effect, SeqStore as _};
use tsoracle_store::{Options, Store};

/// `keys` values of 16 bytes, as a group commit of that many requests writes them.
fn effect(keys: u64, round: u64) -> Effect {
    let mut effect = Effect::default();
    for key in 0..keys {
        effect.put(format!("sorders-{key}"), [round.to_be_bytes(), key.to_be_bytes()].concat());
    }
    effect
}

fn commits(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = Store::open(directory.path(), Options::default()).expect("a new store");
    let mut log = File::create(directory.path().join("log")).expect("a new file");
    let mut group = criterion.benchmark_group("commit");
    group.bench_function("bare append and fdatasync", |bencher| {
        bencher.iter(|| {
            log.write_all(&[7; 128]).expect("the disk has room");
            log.sync_data().expect("the disk works");
        });
    });
    let mut round = 0;
    for keys in [1, 64, 1_024] {
        group.throughput(Throughput::Elements(keys));
        group.bench_function(format!("{keys} keys"), |bencher| {
            bencher.iter(|| {
                round += 1;
                store.commit(effect(keys, round)).expect("the disk works");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
