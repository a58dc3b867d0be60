//! Three nodes of openraft with their pages, and a client that keeps them busy.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tsoracle_client::Client;

use crate::node::{Node, run, tsoracle};

/// Addresses of this machine that nobody listens on.
pub(crate) fn free_ports(count: usize) -> Vec<String> {
    // All are held until each is known, so that none is given out twice.
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|held| held.local_addr().unwrap().to_string()).collect()
}

pub(crate) struct Cluster {
    directory: TempDir,
    /// Of each node for its peers, clients, and administrators.
    places: Vec<Vec<String>>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let places = free_ports(9).chunks(3).map(<[String]>::to_vec).collect();
        let mut cluster = Self { directory: TempDir::new().unwrap(), places, nodes: vec![] };
        let starting: Vec<_> = (0..3)
            .map(|node| {
                let command = cluster.command(node);
                // None says where it serves before the others are there.
                thread::spawn(move || Node::spawn(command))
            })
            .collect();
        cluster.nodes = starting.into_iter().map(|node| node.join().ok()).collect();
        cluster
    }

    fn command(&self, node: usize) -> std::process::Command {
        let peers = self.places.iter().enumerate();
        let peers = peers.map(|(at, place)| format!("{}={}/{}", at + 1, place[0], place[1]));
        let peers = peers.collect::<Vec<_>>().join(",");
        let id = node + 1;
        let driver = format!("openraft:./raft-{id}?node={id}&peers={peers}");
        let [_, service, admin] = &self.places[node][..] else { panic!("three places") };
        tsoracle(
            self.directory.path(),
            &["serve", &driver, "--listen", service, "--admin-listen", admin, "--log", "warn"],
        )
    }

    /// The one that leads, once one does.
    pub(crate) fn leader(&self) -> usize {
        loop {
            for (node, place) in self.places.iter().enumerate() {
                let asked = run(self.directory.path(), &["status", "--endpoint", &place[1]]);
                if String::from_utf8(asked.stdout).unwrap().contains("  leading") {
                    return node;
                }
            }
        }
    }

    pub(crate) fn page(&self, node: usize) -> String {
        format!("http://{}/", self.places[node][2])
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
    }

    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node] = Some(Node::spawn(self.command(node)));
    }

    /// A client that asks again and again, for as long as what is returned is kept.
    pub(crate) fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, services) = (stop.clone(), self.places.clone());
        let thread = thread::spawn(move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let endpoints = services.iter().map(|place| place[1].clone());
                let builder = Client::builder().endpoints(endpoints);
                let client = builder.timeout(Duration::from_secs(1)).connect().await.unwrap();
                while !stopped.load(Ordering::Relaxed) {
                    // While a majority is lost none is answered.
                    let _ = client.get_ts().await;
                    let _ = client.get_seq("orders", 1).await;
                }
            });
        });
        Load { stop, thread: Some(thread) }
    }
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
