use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

/// By how much the ports of a double are higher.
const DOUBLE: u16 = 1_000;

/// Where a cluster runs: a directory and addresses that no other one has.
#[derive(Clone, Debug)]
pub struct Site {
    pub(super) root: PathBuf,
    pub(super) nodes: Vec<Addresses>,
    /// Of each place of a node, how many were in it before.
    pub(super) replaced: Vec<u32>,
    /// A node is started a second time, beside itself.
    pub(super) is_double: bool,
    /// So many addresses for each.
    pub(super) backing_services: Vec<Vec<SocketAddr>>,
}

/// Of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) peer: SocketAddr,
    pub(super) service: SocketAddr,
}

/// A program that runs beside the nodes.
#[derive(Debug)]
pub struct BackingService {
    /// How it is started.
    pub command: Command,
    /// Where it accepts connections once it is ready.
    pub ready: SocketAddr,
}

impl Site {
    pub(super) fn new(
        root: PathBuf,
        nodes: Vec<Addresses>,
        backing_services: Vec<Vec<SocketAddr>>,
    ) -> Self {
        Self { root, replaced: vec![0; nodes.len()], nodes, is_double: false, backing_services }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The directory of a node, where it runs. It is there, and empty at first.
    pub fn directory(&self, node: usize) -> PathBuf {
        let double = if self.is_double { "-double" } else { "" };
        self.root.join(format!("node-{node}{double}"))
    }

    /// The id of the node that is in this place now: 1 for the first one.
    pub fn id(&self, node: usize) -> u32 {
        node as u32 + 1 + self.replaced[node] * self.nodes.len() as u32
    }

    /// Whether it came in the place of another one, and is to join a cluster.
    pub fn joins(&self, node: usize) -> bool {
        self.replaced[node] > 0
    }

    /// Where a node listens for its peers if it is started beside itself, over a directory of its own.
    pub fn double(&self, node: usize) -> Option<SocketAddr> {
        self.is_double.then(|| beside(self.nodes[node].peer))
    }

    /// A directory for what is of no node.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a node listens for its peers.
    pub fn peer(&self, node: usize) -> SocketAddr {
        self.nodes[node].peer
    }

    /// Where a node serves.
    pub fn service(&self, node: usize) -> SocketAddr {
        self.nodes[node].service
    }

    /// Where the backing services may listen, each.
    pub fn backing_services(&self) -> &[Vec<SocketAddr>] {
        &self.backing_services
    }

    /// The same place, where a node is started a second time.
    pub(super) fn of_double(&self) -> Self {
        Self { is_double: true, ..self.clone() }
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }
}

/// The address of a double. Nodes with networks of their own have all ports to themselves.
pub(super) fn beside(mut address: SocketAddr) -> SocketAddr {
    address.set_port(address.port() + DOUBLE);
    address
}
