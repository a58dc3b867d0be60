//! A cluster in this process: real drivers over real directories and sockets, and links between them
//! that can be cut.

#![allow(dead_code, reason = "not every test uses everything")]
#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

pub(crate) mod links;
pub(crate) mod served;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::select_all;
use tempfile::TempDir;
use tokio::time::timeout;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, Error, ErrorKind, Leadership, OpenContext, Registry, Result,
    SeqKey, SeqRequest,
};
use tsoracle_omnipaxos as _;

use self::links::Link;

/// For what never takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a port that was free is tried for, before it is somebody else's fault.
const ATTEMPTS: usize = 10;

/// A cluster. Nodes are numbered from 0; their ids are one higher.
pub(crate) struct Nodes {
    root: TempDir,
    options: String,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), Link>,
    /// What crashed is neither stopped nor dropped before the test has ended.
    crashed: Vec<Arc<dyn ConsensusDriver>>,
    crashed_links: Vec<Link>,
    crashes: u32,
}

struct Node {
    directory: PathBuf,
    listen: SocketAddr,
    driver: Option<Arc<dyn ConsensusDriver>>,
}

impl Nodes {
    /// A cluster of so many nodes, none of them started. `options` goes to each, and begins with `&`.
    pub(crate) async fn new(count: usize, options: &str) -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // A second test of the process has found it set.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let root = TempDir::new().unwrap();
        let directory = |node| root.path().join(format!("0-{node}"));
        let nodes = (0..count)
            .map(|node| Node { directory: directory(node), listen: free(), driver: None })
            .collect();
        let mut cluster = Self {
            root,
            options: options.into(),
            nodes,
            links: BTreeMap::new(),
            crashed: vec![],
            crashed_links: vec![],
            crashes: 0,
        };
        cluster.lay_links().await;
        cluster
    }

    /// As [`new`](Self::new), and starts all.
    pub(crate) async fn started(count: usize, options: &str) -> Self {
        let mut nodes = Self::new(count, options).await;
        nodes.start_all().await.unwrap();
        nodes
    }

    async fn lay_links(&mut self) {
        for from in 0..self.len() {
            for to in (0..self.len()).filter(|to| *to != from) {
                let link = Link::new(self.nodes[to].listen).await;
                self.links.insert((from, to), link);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn directory(&self, node: usize) -> &Path {
        &self.nodes[node].directory
    }

    /// The config string of a node.
    pub(crate) fn config(&self, node: usize) -> String {
        let peers = (0..self.len()).map(|peer| {
            let address = match peer == node {
                true => self.nodes[node].listen,
                false => self.links[&(node, peer)].address(),
            };
            format!("{}={address}/127.0.0.1:{}", peer + 1, peer + 1)
        });
        let peers = peers.collect::<Vec<_>>().join(",");
        let (directory, options) = (self.directory(node).display(), &self.options);
        // A crash is simulated by a copy.
        format!("omnipaxos:{directory}?node={}&peers={peers}&moved=true{options}", node + 1)
    }

    pub(crate) async fn start(&mut self, node: usize) -> Result<Arc<dyn ConsensusDriver>> {
        for _ in 0..ATTEMPTS {
            match open(&self.config(node)).await {
                Ok(driver) => {
                    self.nodes[node].driver = Some(driver.clone());
                    return Ok(driver);
                }
                // Somebody else has taken the port meanwhile.
                Err(error) if is_about_the_port(&error) => {
                    let listen = free();
                    self.nodes[node].listen = listen;
                    for ((_, to), link) in &self.links {
                        if *to == node {
                            link.lead_to(listen);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Config, "there is no free port"))
    }

    pub(crate) async fn start_all(&mut self) -> Result<()> {
        for node in 0..self.len() {
            if self.nodes[node].driver.is_none() {
                self.start(node).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn driver(&self, node: usize) -> Option<Arc<dyn ConsensusDriver>> {
        self.nodes[node].driver.clone()
    }

    /// The node is not running any more, whoever stopped it.
    pub(crate) fn forget(&mut self, node: usize) -> Option<Arc<dyn ConsensusDriver>> {
        self.nodes[node].driver.take()
    }

    pub(crate) async fn stop(&mut self, node: usize) -> Result<()> {
        match self.forget(node) {
            Some(driver) => driver.shutdown().await,
            None => Ok(()),
        }
    }

    /// Where a node listens for its peers.
    pub(crate) fn listen(&self, node: usize) -> SocketAddr {
        self.nodes[node].listen
    }

    /// Ends the connections between two nodes, in both directions; they are made anew.
    pub(crate) fn break_streams(&self, one: usize, other: usize) {
        self.links[&(one, other)].break_connections();
        self.links[&(other, one)].break_connections();
    }

    /// Opens or cuts both directions between two nodes.
    pub(crate) fn set_link(&self, one: usize, other: usize, open: bool) {
        self.links[&(one, other)].set_open(open);
        self.links[&(other, one)].set_open(open);
    }

    /// Opens or cuts everything between a node and the others.
    pub(crate) fn set_links(&self, node: usize, open: bool) {
        (0..self.len()).filter(|other| *other != node).for_each(|other| {
            self.set_link(node, other, open);
        });
    }

    /// Waits until one of these nodes leads.
    pub(crate) async fn leader_among(&self, nodes: &[usize]) -> (usize, u64) {
        let waits = nodes.iter().filter_map(|node| {
            let mut leadership = self.driver(*node)?.leadership();
            let node = *node;
            Some(Box::pin(async move {
                let leads = |now: &Leadership| matches!(now, Leadership::Leader { .. });
                let found = leadership.wait_for(leads).await.ok().map(|now| now.clone());
                match found {
                    Some(Leadership::Leader { claim }) => (node, claim),
                    _ => std::future::pending().await,
                }
            }))
        });
        let (found, ..) = timeout(PATIENCE, select_all(waits)).await.expect("nobody came to lead");
        found
    }

    /// Waits until some node leads.
    pub(crate) async fn leader(&self) -> (usize, u64) {
        self.leader_among(&(0..self.len()).collect::<Vec<_>>()).await
    }

    /// Ends all as `kill -9` would, and goes on with what lies in their directories, behind other
    /// addresses. The old nodes are left to themselves, each cut off from everyone.
    pub(crate) async fn crash(&mut self) {
        self.links.values().for_each(|link| link.set_open(false));
        self.crashes += 1;
        for node in 0..self.len() {
            let copy = self.root.path().join(format!("{}-{node}", self.crashes));
            copy_standing(self.directory(node), &copy).unwrap();
            self.nodes[node].directory = copy;
            self.nodes[node].listen = free();
            self.crashed.extend(self.nodes[node].driver.take());
        }
        let old = std::mem::take(&mut self.links);
        self.crashed_links.extend(old.into_values());
        self.lay_links().await;
    }
}

/// Whether an address that was free is somebody's now: another process's, or a link's of this test.
fn is_about_the_port(error: &Error) -> bool {
    let text = error.to_string();
    text.contains("cannot listen") || text.contains("have the same address")
}

/// A request for one value of a sequence.
pub(crate) fn request(name: &str) -> SeqRequest {
    SeqRequest::single(SeqKey::new(name).unwrap(), 1).unwrap()
}

/// Opens the driver that a config string names.
pub(crate) async fn open(config: &str) -> Result<Arc<dyn ConsensusDriver>> {
    let config = DriverConfig::parse(config)?;
    Registry::linked()?.open(config, OpenContext::default()).await
}

/// An address that is free now, and may not be so for long.
pub(crate) fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Copies what a killed process would leave: what is there while nobody writes.
fn copy_standing(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        let first = read_all(from)?;
        if first == read_all(from)? {
            fs::create_dir_all(to.join(STATE))?;
            return first.iter().try_for_each(|(name, bytes)| fs::write(to.join(name), bytes));
        }
        std::thread::yield_now();
    }
}

/// Where a node keeps its state.
const STATE: &str = "state.journal";

/// The files, but for states that were on their way to the node: these are of no use to another process.
fn read_all(directory: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for within in ["", STATE] {
        for entry in fs::read_dir(directory.join(within))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = Path::new(within).join(entry.file_name());
                files.insert(name, fs::read(entry.path())?);
            }
        }
    }
    Ok(files)
}
