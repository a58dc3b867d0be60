//! Drivers as the tests of faults use them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Effect, Error, ErrorKind, Leadership, OpenContext,
    Oracle, OracleOptions, Outcome, Reads, Registry, RequestId, Result, SeqKey, SeqRequest,
    Session, SystemClock, Version,
};
use tsoracle_etcd as _;

use super::PATIENCE;

pub(crate) type Driver = Arc<dyn ConsensusDriver>;

/// Opens a driver by its config string. It serves at `endpoint`, if that is not empty.
pub(crate) async fn open(config: &str, endpoint: &str) -> Result<Driver> {
    let service_endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
    let context = OpenContext { service_endpoint, ..OpenContext::default() };
    Registry::linked()?.open(DriverConfig::parse(config)?, context).await
}

/// A version that follows on `base`, under a name that no other has.
pub(crate) fn after(base: Version) -> Version {
    static NAMES: AtomicU64 = AtomicU64::new(1);
    base.next(NAMES.fetch_add(1, Ordering::Relaxed).into()).unwrap()
}

/// An effect that makes a version and nothing else.
pub(crate) fn effect(version: Version) -> Effect {
    let mut effect = Effect::default();
    effect.set_version(version);
    effect
}

pub(crate) async fn version(driver: &Driver) -> Result<Version> {
    Ok(driver.read(&Reads::default()).await?.version)
}

/// The next number of a counter.
pub(crate) async fn next(driver: &Driver, name: &str) -> Result<u64> {
    Ok(counter(driver, name).await?.1)
}

async fn counter(driver: &Driver, name: &str) -> Result<(Version, u64)> {
    let snapshot = driver.read(&Reads::keys([name])).await?;
    let number = snapshot.values[0].as_ref().map(|value| value.as_slice().try_into().unwrap());
    Ok((snapshot.version, number.map_or(0, u64::from_be_bytes)))
}

/// Takes `count` numbers of a counter. Returns the first one, and the version that was made.
pub(crate) async fn take(driver: &Driver, name: &str, count: u64) -> Result<(u64, Version)> {
    let (base, number) = counter(driver, name).await?;
    let next = after(base);
    let mut effect = effect(next);
    effect.put(name, (number + count).to_be_bytes());
    match driver.commit(base, effect).await? {
        Outcome::Stored => Ok((number, next)),
        Outcome::Conflict { found } => {
            Err(Error::new(ErrorKind::Unavailable, format!("{found:?} followed on {base:?}")))
        }
    }
}

/// Waits until `driver` should lead. Returns its claim.
pub(crate) async fn led(driver: &Driver) -> u64 {
    match wait_for(driver, |now| matches!(now, Leadership::Leader { .. })).await {
        Leadership::Leader { claim } => claim,
        _ => unreachable!("it was waited for"),
    }
}

/// Waits until a driver reports such leadership.
pub(crate) async fn wait_for(driver: &Driver, what: impl FnMut(&Leadership) -> bool) -> Leadership {
    let mut leadership = driver.leadership();
    let waited = timeout(PATIENCE, leadership.wait_for(what)).await;
    waited.expect("it did not come to that").expect("the channel has closed").clone()
}

/// Waits until something is there.
pub(crate) async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = SystemClock.now().boot + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(SystemClock.now().boot < end, "what was waited for did not come");
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for blocks of one sequence, each under a number of its own, and again until it gets it.
pub(crate) struct Asker {
    oracle: Oracle,
    session: Session,
    number: u64,
    next: u64,
}

impl Asker {
    /// Asks an engine over a driver of its own.
    pub(crate) async fn over(config: &str, session: &str) -> Self {
        let config = DriverConfig::parse(config).unwrap();
        let registry = Registry::linked().unwrap();
        let driver = registry.open(config, OpenContext::default()).await.unwrap();
        let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
        Self { oracle, session: Session::from_text(session), number: 0, next: 0 }
    }

    /// The next blocks, which follow on those before without a gap.
    pub(crate) async fn ask(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.number += 1;
            let id = RequestId::new(self.session, self.number, self.number).unwrap();
            let oracle = &self.oracle;
            let block = until(async || {
                let key = SeqKey::new("orders").unwrap();
                let request = SeqRequest::new(vec![(key, 3)], Some(id)).unwrap();
                match oracle.get_seq(request).await {
                    Ok(mut grant) => Some(grant.blocks.remove(0)),
                    Err(error) if error.is_retryable() => None,
                    Err(error) => panic!("{error}"),
                }
            })
            .await;
            assert_eq!(block.start, self.next, "request {}", self.number);
            self.next += 3;
        }
    }

    pub(crate) async fn stop(self) {
        self.oracle.shutdown().await.unwrap();
    }
}

pub(crate) fn is<T>(result: Result<T>, kind: impl FnOnce(&Error) -> bool, what: &str) -> Error {
    let Err(error) = result else { panic!("{what} was accepted") };
    assert!(kind(&error), "{what}: {:?}: {error}", error.kind());
    error
}
