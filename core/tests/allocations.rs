//! What the path of a grant does not do. A program of its own: it counts what every thread
//! allocates.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tsoracle_core::{LocalDriver, MemoryStore, Oracle, OracleOptions};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Now and then another thread may allocate as well, but not while each of so many runs is counted.
const RUNS: usize = 20;
const GRANTS: u32 = 5_000;

#[tokio::test]
async fn a_grant_allocates_nothing() {
    let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
    let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
    oracle.get_ts(1).await.unwrap();
    let mut fewest = usize::MAX;
    for _ in 0..RUNS {
        let mut granted = 0;
        let region = Region::new(COUNTING);
        for _ in 0..GRANTS {
            granted += oracle.get_ts(1).await.unwrap().range.count();
        }
        let change = region.change();
        fewest = fewest.min(change.allocations + change.reallocations);
        assert_eq!(granted, GRANTS);
    }
    assert_eq!(fewest, 0);
    oracle.shutdown().await.unwrap();
}
