//! A cluster with an oracle over each node, and a client that asks whichever serves.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::timeout;
use tsoracle_core::{
    Clock, ErrorKind, Oracle, OracleOptions, Phase, RequestId, Result, SeqKey, SeqRequest, Session,
    SystemClock, Timestamp,
};

use super::{Nodes, PATIENCE};

/// Between rounds of asking everyone.
const PAUSE: Duration = Duration::from_millis(20);

/// Short, so that a take-over is.
const LEASE: Duration = Duration::from_millis(300);

pub(crate) struct Served {
    pub(crate) nodes: Nodes,
    oracles: Vec<Option<Oracle>>,
    number: AtomicU64,
}

impl Served {
    pub(crate) async fn start(count: usize, options: &str) -> Self {
        let nodes = Nodes::new(count, options).await;
        let oracles = (0..count).map(|_| None).collect();
        let mut served = Self { nodes, oracles, number: AtomicU64::new(0) };
        for node in 0..count {
            served.start_node(node).await;
        }
        served
    }

    pub(crate) async fn start_node(&mut self, node: usize) {
        let driver = self.nodes.start(node).await.unwrap();
        let options =
            OracleOptions { lease: LEASE, hold: Duration::from_millis(50), ..Default::default() };
        self.oracles[node] = Some(Oracle::start(driver, options).unwrap());
    }

    /// Stops a node as a server does: what it holds is released first.
    pub(crate) async fn stop_node(&mut self, node: usize) {
        if let Some(oracle) = self.oracles[node].take() {
            oracle.shutdown().await.unwrap();
        }
        self.nodes.forget(node);
    }

    /// Ends all as `kill -9` would, and starts them again.
    pub(crate) async fn crash(&mut self) {
        // What was killed is neither asked nor stopped.
        self.oracles.iter_mut().for_each(|oracle| std::mem::forget(oracle.take()));
        self.nodes.crash().await;
        for node in 0..self.nodes.len() {
            self.start_node(node).await;
        }
    }

    pub(crate) fn oracle(&self, node: usize) -> &Oracle {
        self.oracles[node].as_ref().expect("the node runs")
    }

    /// Which node serves, waited for.
    pub(crate) async fn serving(&self) -> usize {
        self.serving_among(&(0..self.nodes.len()).collect::<Vec<_>>()).await
    }

    /// Which of these serves, waited for.
    pub(crate) async fn serving_among(&self, nodes: &[usize]) -> usize {
        let looking = async {
            loop {
                for &node in nodes {
                    let Some(oracle) = &self.oracles[node] else { continue };
                    let serves = matches!(*oracle.phase().borrow(), Phase::Serving { .. });
                    if serves && oracle.get_ts(1).await.is_ok() {
                        return node;
                    }
                }
                SystemClock.sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, looking).await.expect("nobody came to serve")
    }

    /// Takes a block of `orders` from whichever node serves, exactly once.
    pub(crate) async fn take(&self, count: u32) -> std::ops::Range<u64> {
        self.take_among(&(0..self.nodes.len()).collect::<Vec<_>>(), count).await
    }

    /// As [`take`](Self::take), asking only these.
    pub(crate) async fn take_among(&self, nodes: &[usize], count: u32) -> std::ops::Range<u64> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let request = || -> Result<SeqRequest> {
            let mut id = RequestId::new(Session::from_text("test"), number, number)?;
            // A session that nobody knows yet is one that this request begins.
            id.retry = false;
            Ok(SeqRequest::new(vec![(SeqKey::new("orders")?, count)], Some(id))?)
        };
        let asking = async {
            loop {
                for &node in nodes {
                    let Some(oracle) = &self.oracles[node] else { continue };
                    match oracle.get_seq(request().unwrap()).await {
                        Ok(grant) => return grant.blocks[0].range(),
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
                SystemClock.sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("nobody took the request")
    }

    /// A timestamp from whichever of these nodes serves.
    pub(crate) async fn timestamp(&self, nodes: &[usize]) -> Timestamp {
        let asking = async {
            loop {
                for &node in nodes {
                    let Some(oracle) = &self.oracles[node] else { continue };
                    match oracle.get_ts(1).await {
                        Ok(granted) => return granted.range.first(),
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
                SystemClock.sleep(PAUSE).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("nobody gave a timestamp")
    }

    /// Whether the node's engine has ended, and why; waited for.
    pub(crate) async fn failure_of(&self, node: usize) -> String {
        let mut phase = self.oracle(node).phase();
        let failed = phase.wait_for(|phase| matches!(phase, Phase::Failed(_)));
        let failed = timeout(PATIENCE, failed).await.expect("the node goes on");
        match &*failed.expect("the engine says how it ended") {
            Phase::Failed(reason) => reason.to_string(),
            other => unreachable!("{other:?}"),
        }
    }

    /// Has `node` lead, by stopping and starting whoever else does.
    pub(crate) async fn have_lead(&mut self, node: usize) {
        let trying = async {
            loop {
                let leader = self.serving().await;
                if leader == node {
                    return;
                }
                self.stop_node(leader).await;
                self.start_node(leader).await;
            }
        };
        timeout(PATIENCE, trying).await.expect("the node does not come to lead");
    }

    /// Asks one node, which must refuse: it does not lead.
    pub(crate) async fn refuses(&self, node: usize) {
        let error = self.oracle(node).get_ts(1).await.expect_err("it granted a timestamp");
        let kinds = matches!(error.kind(), ErrorKind::NotLeader(_) | ErrorKind::Unavailable);
        assert!(kinds, "{error}");
    }
}
