//! A cluster in this process: an oracle over each contender, asked through a gate.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_conformance::{Cluster, Service};
use tsoracle_core::{Error, ErrorKind, Grant, Oracle, OracleOptions, Result, SeqGrant, SeqRequest};

use crate::shared::Shared;

/// Short, so that a take-over is.
const LEASE: Duration = Duration::from_millis(150);

pub(crate) struct Nodes {
    shared: Shared,
    nodes: Vec<Arc<Node>>,
    /// Oracles that were killed: they are neither asked nor stopped.
    killed: Vec<Oracle>,
}

#[derive(Debug)]
struct Node {
    paused: watch::Sender<bool>,
    running: Mutex<Option<Running>>,
}

#[derive(Clone, Debug)]
struct Running {
    member: usize,
    oracle: Oracle,
}

impl Nodes {
    pub(crate) fn start(shared: Shared, count: usize) -> Result<Self> {
        let node =
            |_| Arc::new(Node { paused: watch::Sender::new(false), running: Mutex::default() });
        let nodes: Vec<_> = (0..count).map(node).collect();
        let nodes = Self { shared, nodes, killed: vec![] };
        (0..count).try_for_each(|node| nodes.run(node))?;
        Ok(nodes)
    }

    fn run(&self, node: usize) -> Result<()> {
        let (member, driver) = self.shared.join();
        let options = OracleOptions { lease: LEASE, ..OracleOptions::default() };
        let oracle = Oracle::start(driver, options)?;
        *self.nodes[node].running.lock().unwrap() = Some(Running { member, oracle });
        Ok(())
    }

    fn take(&self, node: usize) -> Running {
        self.nodes[node].running.lock().unwrap().take().expect("the node runs")
    }

    fn member(&self, node: usize) -> usize {
        self.nodes[node].running.lock().unwrap().as_ref().expect("the node runs").member
    }
}

#[async_trait]
impl Cluster for Nodes {
    fn lease(&self) -> Duration {
        LEASE
    }

    fn service(&self, node: usize) -> Arc<dyn Service> {
        self.nodes[node].clone()
    }

    async fn start(&mut self, node: usize) -> Result<()> {
        self.run(node)
    }

    async fn stop(&mut self, node: usize) -> Result<()> {
        self.take(node).oracle.shutdown().await
    }

    async fn kill(&mut self, node: usize) -> Result<()> {
        let killed = self.take(node);
        self.shared.kill_member(killed.member);
        self.killed.push(killed.oracle);
        Ok(())
    }

    async fn pause(&mut self, node: usize) -> Result<()> {
        self.nodes[node].paused.send_replace(true);
        self.shared.cut_off_member(self.member(node));
        Ok(())
    }

    async fn resume(&mut self, node: usize) -> Result<()> {
        self.nodes[node].paused.send_replace(false);
        self.shared.heal_member(self.member(node));
        Ok(())
    }

    async fn cut_off(&mut self, node: usize) -> Result<()> {
        self.shared.cut_off_member(self.member(node));
        Ok(())
    }

    async fn heal(&mut self, node: usize) -> Result<()> {
        self.shared.heal_member(self.member(node));
        Ok(())
    }

    // They have no links with each other, but only with what they share.
    async fn cut_link(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }

    async fn heal_link(&mut self, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

impl Node {
    /// The oracle, once the node goes on.
    async fn oracle(&self) -> Result<Oracle> {
        let down = || Error::new(ErrorKind::Unavailable, "the node is down");
        self.paused.subscribe().wait_for(|paused| !paused).await.map_err(|_| down())?;
        self.running.lock().unwrap().as_ref().map(|node| node.oracle.clone()).ok_or_else(down)
    }
}

#[async_trait]
impl Service for Node {
    async fn get_ts(&self, count: u32) -> Result<Grant> {
        self.oracle().await?.get_ts(count).await
    }

    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        self.oracle().await?.get_seq(request).await
    }
}
