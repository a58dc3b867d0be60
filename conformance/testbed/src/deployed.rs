use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

/// Where a cluster runs: a directory and addresses that no other one has.
#[derive(Debug)]
pub struct Site {
    pub(super) root: PathBuf,
    pub(super) nodes: Vec<Addresses>,
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
    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The directory of a node, where it runs. It is there, and empty at first.
    pub fn directory(&self, node: usize) -> PathBuf {
        self.root.join(format!("node-{node}"))
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

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.log"))
    }
}
