//! What a grant costs in the engine, without any transport.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tsoracle_core::{LocalDriver, MemoryStore, Oracle, OracleOptions};

fn grant(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be started");
    let oracle = runtime.block_on(async {
        let driver = LocalDriver::open(MemoryStore::default()).await.expect("memory opens");
        let oracle = Oracle::start(driver, OracleOptions::default()).expect("defaults are valid");
        oracle.get_ts(1).await.expect("it serves");
        oracle
    });
    let mut group = criterion.benchmark_group("grant");
    for count in [1, 64] {
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(format!("{count} timestamps"), |bencher| {
            bencher.iter(|| oracle.try_get_ts(black_box(count)).expect("a valid count"));
        });
    }
    group.finish();
    runtime.block_on(oracle.shutdown()).expect("it stops");
}

criterion_group!(benches, grant);
criterion_main!(benches);
