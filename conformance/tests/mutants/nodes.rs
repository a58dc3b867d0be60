//! A cluster in this process: an oracle over each contender, asked through a gate.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_conformance::{Action, Cluster, Fault, Partition, Service, Shared};
use tsoracle_core::{Error, ErrorKind, Grant, Oracle, OracleOptions, Result, SeqGrant, SeqRequest};

use crate::shared::SharedState;

/// Short, so that a take-over is.
const LEASE: Duration = Duration::from_millis(150);

struct Nodes {
    shared: SharedState,
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
    fn launch(&mut self, count: usize) -> Result<Vec<Arc<dyn Service>>> {
        let node =
            |_| Arc::new(Node { paused: watch::Sender::new(false), running: Mutex::default() });
        self.nodes = (0..count).map(node).collect();
        (0..count).try_for_each(|node| self.run(node))?;
        Ok(self.nodes.iter().map(|node| node.clone() as _).collect())
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

    async fn kill(&mut self, node: usize) -> Result<()> {
        let killed = self.take(node);
        self.shared.kill_member(killed.member);
        self.killed.push(killed.oracle);
        Ok(())
    }

    async fn pause(&mut self, node: usize, is_paused: bool) -> Result<()> {
        self.nodes[node].paused.send_replace(is_paused);
        self.cut_off(node, is_paused).await
    }

    async fn cut_off(&mut self, node: usize, is_cut_off: bool) -> Result<()> {
        let member = self.member(node);
        match is_cut_off {
            true => self.shared.cut_off_member(member),
            false => self.shared.heal_member(member),
        }
        Ok(())
    }
}

/// A cluster of sound drivers, none of which is open yet.
pub(crate) fn cluster() -> Cluster {
    let nodes =
        Shared::new(Nodes { shared: SharedState::new(None), nodes: vec![], killed: vec![] });
    // They have no links with each other, but only with what they share.
    let nothing = || Action::new(|_| Box::pin(async { Ok(()) }));
    let cut =
        |is_cut_off| nodes.action(move |nodes, node| Box::pin(nodes.cut_off(node, is_cut_off)));
    let pause = |is_paused| nodes.action(move |nodes, node| Box::pin(nodes.pause(node, is_paused)));
    Cluster {
        pause: Some(Fault { begin: pause(true), end: pause(false) }),
        partition: Some(Partition {
            node: Fault { begin: cut(true), end: cut(false) },
            link: Fault { begin: nothing(), end: nothing() },
        }),
        ..Cluster::new(
            LEASE,
            nodes.action(|nodes, count| Box::pin(async move { nodes.launch(count) })),
            nodes.action(|nodes, node| Box::pin(async move { nodes.run(node) })),
            nodes.action(|nodes, node| {
                Box::pin(async move { nodes.take(node).oracle.shutdown().await })
            }),
            nodes.action(|nodes, node| Box::pin(nodes.kill(node))),
        )
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
