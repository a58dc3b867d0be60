//! Drivers as the tests of faults use them.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tsoracle_core::{
    Clock, Committed, ConsensusDriver, DriverConfig, Epoch, Error, Leadership, Oracle,
    OracleOptions, Registry, RequestId, Result, SeqKey, SeqRequest, Session, Surroundings,
    SystemClock,
    state::{Advance, Answer, Command, Limits, Query, Reply},
};
use tsoracle_etcd as _;

use super::PATIENCE;

/// Opens a driver by its config string. It serves at `endpoint`, if that is not empty.
pub(crate) async fn open(config: &str, endpoint: &str) -> Result<Arc<dyn ConsensusDriver>> {
    let service_endpoint = (!endpoint.is_empty()).then(|| endpoint.to_owned());
    let config = DriverConfig::parse(config)?;
    Registry::linked()?.open(config, Surroundings { service_endpoint }).await
}

/// A driver that leads.
#[derive(Clone)]
pub(crate) struct Leader {
    pub(crate) driver: Arc<dyn ConsensusDriver>,
    pub(crate) epoch: Epoch,
}

impl Leader {
    /// Waits until `driver` leads.
    pub(crate) async fn of(driver: &Arc<dyn ConsensusDriver>) -> Self {
        let now = wait_for(driver, |now| matches!(now, Leadership::Leader { .. })).await;
        let Leadership::Leader { epoch } = now else { unreachable!("it was waited for") };
        Self { driver: driver.clone(), epoch }
    }

    pub(crate) async fn commit(&self, commands: Vec<Command>) -> Result<Committed> {
        self.driver.commit(self.epoch, commands).await
    }

    pub(crate) async fn done(&self, command: Command) -> Reply {
        self.commit(vec![command]).await.unwrap().results.remove(0).unwrap()
    }

    /// Fences and opens. Returns what the fence was answered.
    pub(crate) async fn reign(&self) -> Committed {
        let fence = Command::Fence { now_ms: 1_000, headroom_ms: 1_000, lease_ms: 1_000 };
        let fenced = self.commit(vec![fence]).await.unwrap();
        assert!(fenced.results[0].is_ok(), "{fenced:?}");
        let open = Command::Open { node: self.driver.node(), lease_ms: 1_000 };
        assert_eq!(self.done(open).await, Reply::Opened);
        fenced
    }

    pub(crate) async fn extend(&self) {
        let extend = Command::Extend { high_water_ms: 9_000, elapsed_ms: 0 };
        assert!(matches!(self.done(extend).await, Reply::Extended { .. }));
    }

    /// The first value of a block.
    pub(crate) async fn take(&self, name: &str, count: u32) -> Result<u64> {
        let committed = self.commit(vec![advance(&[(name, count)], None)]).await?;
        match &committed.results[0] {
            Ok(Reply::Advanced(blocks)) => Ok(blocks[0].start),
            other => panic!("{name} was answered {other:?}"),
        }
    }

    pub(crate) async fn next(&self, name: &str) -> Result<u64> {
        next(&self.driver, name).await
    }
}

pub(crate) async fn next(driver: &Arc<dyn ConsensusDriver>, name: &str) -> Result<u64> {
    match driver.read(Query::Sequence(SeqKey::new(name)?)).await? {
        Answer::Sequence(next) => Ok(next.unwrap_or(0)),
        other => panic!("{name} was answered {other:?}"),
    }
}

pub(crate) fn advance(entries: &[(&str, u32)], id: Option<RequestId>) -> Command {
    let entry = |&(name, count): &(&str, u32)| (SeqKey::new(name).unwrap(), count);
    let entries = entries.iter().map(entry).collect();
    Command::Advance(Advance { entries, id, elapsed_ms: 0, limits: Limits::default() })
}

/// Waits until a driver says so of who leads.
pub(crate) async fn wait_for(
    driver: &Arc<dyn ConsensusDriver>,
    what: impl FnMut(&Leadership) -> bool,
) -> Leadership {
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
    pub(crate) fn new(driver: Arc<dyn ConsensusDriver>, session: &str) -> Self {
        let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
        Self { oracle, session: Session::from_text(session), number: 0, next: 0 }
    }

    /// Goes on over another driver.
    pub(crate) fn over(&mut self, driver: Arc<dyn ConsensusDriver>) {
        self.oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
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
