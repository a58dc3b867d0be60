//! Nodes of a cluster, all in this process, over real sockets and directories.

use std::{collections::BTreeMap, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;
use tsoracle_core::{
    Clock as _, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Member, Members,
    MembershipChange, Oracle, OracleOptions, Reads, RequestId, Result, SeqKey, SeqRequest,
    SystemClock,
};
use tsoracle_openraft::{Config, OpenraftDriver, open};

use crate::spy::Spy;

/// What never happens is waited for so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look again.
const LOOK: Duration = Duration::from_millis(10);

/// A node that runs.
pub(crate) struct Node {
    pub(crate) driver: Arc<OpenraftDriver>,
    pub(crate) spy: Arc<Spy>,
    pub(crate) oracle: Oracle,
}

pub(crate) struct Nodes {
    directory: TempDir,
    peers: BTreeMap<u32, String>,
    options: Box<dyn Fn(Config) -> Config + Send + Sync>,
    pub(crate) running: BTreeMap<u32, Node>,
    requests: u64,
}

/// An address that is free at the moment.
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Nodes {
    /// Nodes 1 to `count`, of which none runs yet.
    pub(crate) fn new(
        count: u32,
        options: impl Fn(Config) -> Config + Send + Sync + 'static,
    ) -> Self {
        // All at once, so that none is given out twice.
        let listeners: Vec<_> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string());
        Self {
            directory: tempfile::tempdir().unwrap(),
            peers: (1..).zip(addresses).collect(),
            options: Box::new(options),
            running: BTreeMap::new(),
            requests: 0,
        }
    }

    /// Nodes 1 to `count`, all running.
    pub(crate) async fn start_all(
        count: u32,
        options: impl Fn(Config) -> Config + Send + Sync + 'static,
    ) -> Self {
        let mut nodes = Self::new(count, options);
        for node in 1..=count {
            nodes.start(node).await;
        }
        nodes
    }

    pub(crate) fn path(&self, node: u32) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    pub(crate) fn config(&self, node: u32) -> Config {
        let peers: Vec<_> =
            self.peers.iter().map(|(node, peer)| format!("{node}={peer}/s{node}:1")).collect();
        let config =
            Config { path: self.path(node), node, peers: peers.join(","), ..Config::default() };
        (self.options)(config)
    }

    /// Starts a node, over what it left.
    pub(crate) async fn start(&mut self, node: u32) {
        let config = self.config(node);
        self.start_as(node, config).await;
    }

    pub(crate) async fn start_as(&mut self, node: u32, config: Config) {
        // Another process may hold the port for a moment.
        let driver = eventually(async || open(config.clone()).await.ok()).await;
        let spy = Spy::new(driver.clone());
        let oracle = Oracle::start(spy.clone(), OracleOptions::default()).unwrap();
        self.running.insert(node, Node { driver, spy, oracle });
    }

    /// A node that joins the cluster later, with its addresses.
    pub(crate) async fn start_joining(&mut self, node: u32) -> Member {
        let peer = free_address();
        self.peers.insert(node, peer.clone());
        let config = Config { join: true, ..self.config(node) };
        self.start_as(node, config).await;
        Member { id: node.into(), peer, service: format!("s{node}:1"), votes: false }
    }

    /// Stops a node gracefully.
    pub(crate) async fn stop(&mut self, node: u32) {
        let stopped = self.running.remove(&node).unwrap();
        timeout(PATIENCE, stopped.oracle.shutdown()).await.unwrap().unwrap();
    }

    pub(crate) async fn stop_all(&mut self) {
        let running: Vec<_> = self.running.keys().copied().collect();
        for node in running {
            self.stop(node).await;
        }
    }

    /// The node that leads, once there is one.
    pub(crate) async fn leader(&self) -> u32 {
        eventually(async || {
            let leads = |node: &Node| {
                matches!(*node.driver.leadership().borrow(), Leadership::Leader { .. })
            };
            self.running.iter().find(|(_, node)| leads(node)).map(|(&node, _)| node)
        })
        .await
    }

    /// The node that leads, once all know it.
    pub(crate) async fn known_leader(&self) -> u32 {
        eventually(async || {
            let leader = self.leader().await;
            for node in self.running.values() {
                let known = node.driver.membership().unwrap().members().await.ok()?;
                (known.leader == Some(leader.into())).then_some(())?;
            }
            Some(leader)
        })
        .await
    }

    /// The epoch that a node serves under, once it does.
    pub(crate) async fn epoch(&self, node: u32) -> Epoch {
        eventually(async || self.running[&node].oracle.get_ts(1).await.ok()).await.epoch
    }

    /// Takes the next ten values of a sequence, from the node that serves, exactly once: where they begin.
    pub(crate) async fn next(&mut self) -> u64 {
        self.requests += 1;
        let id = format!("request {}", self.requests);
        eventually(async || {
            for node in self.running.values() {
                let id = Some(RequestId::from_text(&id));
                let entries = vec![(SeqKey::new("orders").unwrap(), 10)];
                let asked = node.oracle.get_seq(SeqRequest::new(entries, id).unwrap());
                if let Ok(granted) = asked.await {
                    return Some(granted.blocks[0].start);
                }
            }
            None
        })
        .await
    }

    /// Makes a change through the leader; anew where leadership moved meanwhile, as on a busy machine: one that is
    /// in effect already is no error.
    pub(crate) async fn change(&self, change: MembershipChange) -> Result<()> {
        eventually(async || {
            let leader = self.leader().await;
            let membership = self.running[&leader].oracle.membership().unwrap();
            let made = membership.change(change.clone()).await;
            let moved = |error: &Error| {
                matches!(error.kind(), ErrorKind::NotLeader(_) | ErrorKind::Uncertain)
            };
            Some(made).filter(|made| !made.as_ref().is_err_and(moved))
        })
        .await
    }

    /// Removes a node.
    pub(crate) async fn remove(&self, id: u32) {
        self.change(MembershipChange::Remove { id: id.into(), force: false }).await.unwrap();
    }

    /// The members as a node sees them, once they are as wanted.
    pub(crate) async fn members(&self, node: u32, wanted: impl Fn(&Members) -> bool) -> Members {
        let membership = self.running[&node].driver.membership().unwrap();
        eventually(async || membership.members().await.ok().filter(|members| wanted(members))).await
    }

    /// Why a node is done for, once it is.
    pub(crate) async fn failure(&self, node: u32) -> Error {
        let driver = &self.running[&node].driver;
        let mut leadership = driver.leadership();
        let closed = async { while leadership.changed().await.is_ok() {} };
        timeout(PATIENCE, closed).await.unwrap();
        driver.read(&Reads::default()).await.unwrap_err()
    }
}

/// Looks until there is something.
pub(crate) async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => SystemClock.sleep(LOOK).await,
            }
        }
    };
    timeout(PATIENCE, looking).await.expect("it never came to be")
}
