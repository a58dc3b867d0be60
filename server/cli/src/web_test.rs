use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, LeaderHint, Leadership, LocalDriver,
    ManualClock, Membership, MemoryStore, NodeId, OracleOptions, Outcome, Reads, Result, Snapshot,
    Version,
};

use super::*;

/// A driver of one node, whose leadership, disk and end a test decides.
#[derive(Debug)]
struct Told {
    inner: Arc<dyn ConsensusDriver>,
    leadership: watch::Sender<Leadership>,
    hangs: AtomicBool,
    fails: AtomicBool,
}

#[async_trait]
impl ConsensusDriver for Told {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.inner.read(wanted).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match self.fails.load(Ordering::Relaxed) {
            true => Err(Error::new(ErrorKind::Fatal, "the disk is broken")),
            false => self.inner.commit(base, effect).await,
        }
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.inner.seen(version)
    }

    async fn resign(&self, _: u64) {}

    fn limits(&self) -> CommitLimits {
        self.inner.limits()
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.shutdown().await
    }
}

struct Node {
    driver: Arc<Told>,
    clock: ManualClock,
    oracle: Oracle,
    web: Web,
}

impl Node {
    async fn start() -> Self {
        let driver = Arc::new(Told {
            inner: LocalDriver::open(MemoryStore::default()).await.unwrap(),
            leadership: watch::Sender::new(Leadership::Unknown),
            hangs: AtomicBool::new(false),
            fails: AtomicBool::new(false),
        });
        let clock = ManualClock::new(1_800_000_000_000);
        let options = OracleOptions { clock: Arc::new(clock.clone()), ..OracleOptions::default() };
        let oracle = Oracle::start(driver.clone(), options).unwrap();
        let web = Web::new("memory", Scrape::of_nothing());
        web.show(oracle.clone(), None);
        Self { driver, clock, oracle, web }
    }

    async fn reach(&self, wanted: impl Fn(&Phase) -> bool) {
        self.oracle.phase().wait_for(|phase| wanted(phase)).await.unwrap();
    }

    async fn ready(&self) -> (u16, String) {
        let (code, text) = readyz(State(self.web.clone())).await;
        (code.as_u16(), text)
    }

    async fn live(&self) -> (u16, String) {
        let (code, text) = livez(State(self.web.clone())).await;
        (code.as_u16(), text)
    }

    fn lead(&self, leadership: Leadership) {
        self.driver.leadership.send_replace(leadership);
    }
}

#[tokio::test]
async fn what_is_not_open_yet_lives_and_is_not_ready() {
    let web = Web::new("memory", Scrape::of_nothing());
    assert_eq!(readyz(State(web.clone())).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(livez(State(web)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_follower_is_ready_while_it_knows_its_leader() {
    let node = Node::start().await;
    assert_eq!(node.ready().await.0, 503, "no leader is known");
    let leader = LeaderHint { endpoint: "10.0.0.7:50551".into(), epoch: None };
    node.lead(Leadership::Follower { leader: Some(leader) });
    node.reach(|phase| matches!(phase, Phase::Following(Some(_)))).await;
    assert_eq!(node.ready().await, (200, "following 10.0.0.7:50551\n".into()));
    node.lead(Leadership::Follower { leader: None });
    node.reach(|phase| matches!(phase, Phase::Following(None))).await;
    let (code, text) = node.ready().await;
    assert!(code == 503 && text.contains("no leader is known"), "{code}: {text}");
    assert_eq!(node.live().await.0, 200, "another process would not know one either");
}

/// Nobody has asked it for anything lately, so that nothing else tells it.
#[tokio::test]
async fn an_idle_leader_that_cannot_renew_its_lease_is_not_ready() {
    let node = Node::start().await;
    node.lead(Leadership::Leader { claim: 1 });
    node.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let let_lapse = async || {
        while node.oracle.status().epoch.is_some() {
            node.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    let_lapse().await;
    assert_eq!(node.ready().await.0, 200, "it renews it for that");
    // In this order: a renewal that is under way may still be stored.
    node.driver.hangs.store(true, Ordering::Relaxed);
    let_lapse().await;
    let asking = node.ready();
    let passing = async {
        loop {
            node.clock.advance(Duration::from_millis(50));
            tokio::task::yield_now().await;
        }
    };
    let (code, text) =
        tokio::select! { answer = asking => answer, () = passing => unreachable!("it goes on") };
    assert!(code == 503 && text.contains("does not serve"), "{code}: {text}");
    assert_eq!(node.live().await.0, 200);
}

#[tokio::test]
async fn a_node_that_has_failed_does_not_live_and_says_why() {
    let node = Node::start().await;
    node.driver.fails.store(true, Ordering::Relaxed);
    node.lead(Leadership::Leader { claim: 1 });
    node.reach(|phase| matches!(phase, Phase::Failed(_))).await;
    for (code, text) in [node.live().await, node.ready().await] {
        assert!(code == 503 && text.contains("the disk is broken"), "{code}: {text}");
    }
}
