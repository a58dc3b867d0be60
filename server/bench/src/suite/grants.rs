use std::time::Duration;

use tsoracle_core::{LocalDriver, MemoryStore, Oracle, OracleOptions};

use super::Results;
use tsoracle::{bench::load::now, failure::Failure};

/// How many grants are made between two looks at the clock.
const GRANTS: u32 = 1_000;

/// What one grant takes in the engine, in nanoseconds, from one thread.
pub(super) async fn measure(
    rounds: u32,
    slice: Duration,
    results: &mut Results,
) -> Result<(), Failure> {
    let oracle =
        Oracle::start(LocalDriver::open(MemoryStore::default()).await?, OracleOptions::default())?;
    oracle.get_ts(1).await?;
    for _ in 0..rounds {
        let started = now();
        let mut grants = 0_u64;
        let mut elapsed = Duration::ZERO;
        while elapsed < slice {
            for _ in 0..GRANTS {
                oracle.get_ts(1).await?;
            }
            grants += u64::from(GRANTS);
            elapsed = now() - started;
        }
        results.add("grant", elapsed.as_nanos() as f64 / grants as f64);
    }
    Ok(oracle.shutdown().await?)
}
