//! Three nodes of openraft with their pages, and a client that keeps them busy.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tsoracle_client::Client;
use tsoracle_testbed::WallClock;

use crate::{
    node::{Node, error_line, finished, run, stdout, tsoracle, until},
    ports::free_ports,
};

pub(crate) struct Cluster {
    directory: TempDir,
    /// Of each node for its peers, clients, and administrators.
    places: Vec<Vec<String>>,
    nodes: Vec<Option<Node>>,
    /// The clock of all nodes, whose certificates expire by it.
    clock: Option<WallClock>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::over(TempDir::new().unwrap(), None)
    }

    /// One whose nodes know each other by certificates, which are valid for 20 days.
    pub(crate) fn certified() -> Self {
        let directory = TempDir::new().unwrap();
        let clock = WallClock::new(directory.path()).unwrap();
        stdout(&run(directory.path(), &["cert", "ca"]));
        certify(directory.path(), &clock, &["--days", "20"]);
        Self::over(directory, Some(clock))
    }

    /// The time shown by the clocks of all nodes is so many seconds later from now on.
    pub(crate) fn pass(&self, seconds: i64) {
        self.clock.as_ref().expect("a clock").shift(seconds).unwrap();
    }

    /// Gives all nodes new certificates.
    pub(crate) fn renew(&self) {
        let clock = self.clock.as_ref().expect("a clock");
        certify(self.directory.path(), clock, &["--force"]);
    }

    /// Tries to start a node that will not.
    pub(crate) fn fail_to_start(&self, node: usize) -> String {
        error_line(&finished(&mut self.command(node)), 2)
    }

    fn over(directory: TempDir, clock: Option<WallClock>) -> Self {
        let places = free_ports(9).chunks(3).map(<[String]>::to_vec).collect();
        let mut cluster = Self { directory, places, nodes: vec![], clock };
        let starting: Vec<_> = (0..3)
            .map(|node| {
                let command = cluster.command(node);
                // None says where it serves before the others are there.
                thread::spawn(move || Node::spawn(command))
            })
            .collect();
        cluster.nodes = starting.into_iter().map(|node| Some(node.join().unwrap())).collect();
        cluster
    }

    fn command(&self, node: usize) -> std::process::Command {
        let peers = self.places.iter().enumerate();
        let peers = peers.map(|(at, place)| format!("{}={}/{}", at + 1, place[0], place[1]));
        let peers = peers.collect::<Vec<_>>().join(",");
        let id = node + 1;
        let mut driver = format!("openraft:./raft-{id}?node={id}&peers={peers}");
        if self.clock.is_some() {
            for (option, file) in [
                ("ca", "ca.pem"),
                ("cert", &format!("node-{id}.pem")),
                ("key", &format!("node-{id}.key")),
            ] {
                driver += &format!("&peer_{option}=tsoracle-certs/{file}");
            }
        }
        let [_, service, admin] = &self.places[node][..] else { panic!("three places") };
        let serve =
            ["serve", &driver, "--listen", service, "--admin-listen", admin, "--log", "warn"];
        let mut command = tsoracle(self.directory.path(), &serve);
        command.envs(self.clock.iter().flat_map(WallClock::environment));
        command
    }

    /// The one that leads, once one does.
    pub(crate) fn leader(&self) -> usize {
        let leads = |place: &Vec<String>| {
            let asked = run(self.directory.path(), &["status", "--endpoint", &place[1]]);
            String::from_utf8(asked.stdout).unwrap().contains("  leading")
        };
        let mut found = None;
        until("no node leads", || {
            found = self.places.iter().position(leads);
            found.is_some()
        });
        found.unwrap()
    }

    /// Where its page is.
    pub(crate) fn admin(&self, node: usize) -> &str {
        &self.places[node][2]
    }

    pub(crate) fn page(&self, node: usize) -> String {
        format!("http://{}/", self.admin(node))
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
        load(self.places.iter().map(|place| place[1].clone()).collect())
    }
}

fn certify(directory: &Path, clock: &WallClock, how: &[&str]) {
    for id in ["1", "2", "3"] {
        let node = ["cert", "node", id, "--address", "127.0.0.1"];
        let mut command = tsoracle(directory, &[&node, how].concat());
        stdout(&finished(command.envs(clock.environment())));
    }
}

/// The same, of any servers.
pub(crate) fn load(endpoints: Vec<String>) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = thread::spawn(move || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let builder = Client::builder().endpoints(endpoints);
            let client = builder.timeout(Duration::from_secs(1)).connect().await.unwrap();
            while !stopped.load(Ordering::Relaxed) {
                // While nothing is served none is answered.
                let _ = client.get_ts().await;
                let _ = client.get_seq("orders", 1).await;
            }
        });
    });
    Load { stop, thread: Some(thread) }
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
