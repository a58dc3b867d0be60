use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use tsoracle_core::{Grant, Oracle, Result, SeqGrant, SeqRequest};

use crate::{Action, Fault};

/// How the suite gets at nodes that serve: processes, usually, that are asked over the network.
///
/// Nodes are numbered from 0. What is not there is what this fixture cannot do.
#[derive(Debug)]
pub struct Cluster {
    /// Starts a cluster of the given number of nodes, once, and returns a service for each of them alone.
    pub launch: Action<usize, Vec<Arc<dyn Service>>>,
    /// The leader lease that the nodes serve under.
    pub lease: Duration,
    /// Starts a node that is stopped or killed, over what it left.
    pub start: Action<usize>,
    /// Stops a node gracefully, and returns once it has ended.
    pub stop: Action<usize>,
    /// Ends a node as `kill -9` does.
    pub kill: Action<usize>,
    /// Has a node stand still, as `SIGSTOP` does.
    pub pause: Option<Fault<usize>>,
    /// Cuts a node off from the others, or the link between two; clients still reach all.
    pub partition: Option<Partition>,
    /// Removes everything that a node has stored. It is stopped or killed. Whether it starts again
    /// is up to the driver; if it does, it must do no harm.
    pub wipe: Option<Action<usize>>,
    /// Has a stray run in the place of a node that was killed: at its address and under its id, with nothing stored.
    /// It may refuse to start; it is gone in the end, and the node may be started again over what it had.
    pub stray: Option<Fault<usize>>,
    /// Processes that run beside a node, under its id.
    pub doubles: Option<Doubles>,
    /// Takes a node out of the cluster for good, with all that it had; and takes a new one in, in its place.
    /// Both return once that is done.
    pub replacement: Option<Fault<usize>>,
    /// The disks of the nodes.
    pub disk: Option<Disk>,
    /// Has each sync of a node take so much longer.
    pub slow_disk: Option<Fault<(usize, Duration)>>,
    /// Has calls of a node to its files hang, of one kind each.
    pub hung_files: Vec<HungFiles>,
    /// Has what a node sends to its peers, and they to it, take so much longer, there and back together.
    pub slow_link: Option<Fault<(usize, Duration)>>,
    /// Has all be lost that a node sends to its peers, or all that they send to it.
    pub one_way: Option<Fault<(usize, Direction)>>,
    /// Has a node that leads transfer leadership to another one, and returns once that leads.
    pub transfer: Option<Action<usize>>,
    /// A client of all nodes, which finds the leader by itself, and asks again until it is answered.
    /// The epoch of its answers is 0, unless it is known.
    pub client: Option<Action<(), Arc<dyn Service>>>,
    /// Programs that the nodes rest on, of which they can spare any one.
    pub backing_services: Option<BackingServices>,
    /// What the nodes logged lately, to find out about a failure.
    pub report: Option<Action<(), String>>,
}

/// How nodes are cut off.
#[derive(Debug)]
pub struct Partition {
    /// One node from all others.
    pub node: Fault<usize>,
    /// Two nodes from each other; both still reach the others.
    pub link: Fault<(usize, usize)>,
}

/// How processes run beside nodes, under their ids.
#[derive(Debug)]
pub struct Doubles {
    /// Has another cluster form at the addresses of the nodes, while these are down, and keeps what its nodes have
    /// for [`Double::Foreign`].
    pub prepare: Action,
    /// Has a process run beside a node, with an address of its own. It may refuse to start, and end by itself.
    /// Ending the fault fails if it serves.
    pub run: Fault<(usize, Double)>,
}

/// What a process has that runs beside a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Double {
    /// A copy of what the node had when it was killed, just before; the node runs again.
    Copy,
    /// Nothing.
    Empty,
    /// What the node of the same id has of another cluster.
    Foreign,
}

/// Which way nothing comes through between a node and its peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It is not heard.
    Out,
    /// It hears nothing.
    In,
}

/// How disks of nodes fail.
#[derive(Debug)]
pub struct Disk {
    /// Has the disk of a node end no sync any more; begins once it has anything to sync.
    pub hang: Fault<usize>,
    /// Ends a node whose disk hangs as a power loss would: of what it wrote, only that is left which
    /// was synced. The disk does not hang any more.
    pub lose_power: Action<usize>,
}

/// Calls to files that can hang.
#[derive(Debug)]
pub struct HungFiles {
    /// What they are.
    pub word: String,
    /// Has them hang on a node.
    pub hang: Fault<usize>,
    /// Whether the node can commit nothing more then, soon.
    pub ends_commits: bool,
}

/// Programs beside the nodes, numbered from 0.
#[derive(Debug)]
pub struct BackingServices {
    /// How many there are.
    pub count: usize,
    /// Ends one as `kill -9` does; and starts it again, over what it left.
    pub kill: Fault<usize>,
}

/// One node, as its clients see it. Calls fail as those of [`Oracle`] do; one that does not reach the
/// node, or gets no answer, fails as `Unavailable` or `Uncertain`.
#[async_trait]
pub trait Service: Debug + Send + Sync {
    /// As [`Oracle::get_ts`].
    async fn get_ts(&self, count: u32) -> Result<Grant>;

    /// As [`Oracle::get_seq`].
    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant>;
}

#[async_trait]
impl Service for Oracle {
    async fn get_ts(&self, count: u32) -> Result<Grant> {
        Self::get_ts(self, count).await
    }

    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        Self::get_seq(self, request).await
    }
}

impl Cluster {
    /// Nodes that can be started, stopped and killed.
    pub fn new(
        lease: Duration,
        launch: Action<usize, Vec<Arc<dyn Service>>>,
        start: Action<usize>,
        stop: Action<usize>,
        kill: Action<usize>,
    ) -> Self {
        Self {
            launch,
            lease,
            start,
            stop,
            kill,
            pause: None,
            partition: None,
            wipe: None,
            stray: None,
            doubles: None,
            replacement: None,
            disk: None,
            slow_disk: None,
            hung_files: vec![],
            slow_link: None,
            one_way: None,
            transfer: None,
            client: None,
            backing_services: None,
            report: None,
        }
    }
}
