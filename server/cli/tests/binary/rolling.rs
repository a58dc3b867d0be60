//! A cluster goes over from its authorities to new ones, and no caller notices.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tsoracle_client::{Client, TlsOptions};

use crate::{
    certificates::cert,
    node::{Node, run, tsoracle, until},
    ports::free_ports,
};

/// How long a call may take: an election is among them.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node logs once it uses new files, towards peers and clients.
const TAKEN_UP: [&str; 2] = [
    "new certificates are in use of=\"TLS of peers\"",
    "new certificates are in use of=\"TLS of clients\"",
];

/// The files of a node.
const FILES: [&str; 4] = ["ca.pem", "client-ca.pem", "node.pem", "node.key"];

struct Cluster {
    directory: TempDir,
    driver: &'static str,
    /// Of each node for its peers, and for clients.
    places: Vec<[String; 2]>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    fn start(driver: &'static str) -> Self {
        let directory = TempDir::new().unwrap();
        for authority in ["old", "new"] {
            cert(directory.path(), &["ca", "--dir", authority]);
            cert(directory.path(), &["client", "app", "--dir", authority]);
            for id in ["1", "2", "3"] {
                cert(directory.path(), &["node", id, "--address", "127.0.0.1", "--dir", authority]);
            }
        }
        let free = free_ports(6);
        let places = free.chunks(2).map(|two| [two[0].clone(), two[1].clone()]).collect();
        let mut cluster = Self { directory, driver, places, nodes: vec![] };
        let starting: Vec<_> = (1..=3)
            .map(|id| {
                fs::create_dir(cluster.directory.path().join(format!("node-{id}"))).unwrap();
                cluster.write(id, &["old"], "old");
                let command = cluster.command(id);
                // None says where it serves before the others are there.
                thread::spawn(move || Node::spawn(command))
            })
            .collect();
        cluster.nodes = starting.into_iter().map(|node| Some(node.join().unwrap())).collect();
        cluster
    }

    fn command(&self, id: usize) -> std::process::Command {
        let peers = self.places.iter().enumerate();
        let peers = peers.map(|(at, [peer, service])| format!("{}={peer}/{service}", at + 1));
        let peers = peers.collect::<Vec<_>>().join(",");
        let driver = format!(
            "{}:data?node={id}&peers={peers}&peer_ca=ca.pem&peer_cert=node.pem&peer_key=node.key",
            self.driver
        );
        let service = &self.places[id - 1][1];
        let serve = ["serve", &driver, "--listen", service, "--advertise", service];
        let tls = ["--tls-cert", "node.pem", "--tls-key", "node.key", "--tls-client-ca"];
        let directory = self.directory.path().join(format!("node-{id}"));
        tsoracle(&directory, &[&serve, &tls[..], &["client-ca.pem"]].concat())
    }

    fn path(&self, of: &str, name: &str) -> PathBuf {
        self.directory.path().join(of).join(name)
    }

    /// Has the files of a node trust these authorities, and be signed by that one.
    fn write(&self, id: usize, trusted: &[&str], own: &str) {
        let all = |name: &str| {
            let texts = trusted.iter().map(|of| fs::read(self.path(of, name)).unwrap());
            texts.collect::<Vec<_>>().concat()
        };
        let own = |ending: &str| fs::read(self.path(own, &format!("node-{id}.{ending}"))).unwrap();
        let texts = [all("ca.pem"), all("client-ca.pem"), own("pem"), own("key")];
        for (name, text) in FILES.iter().zip(texts) {
            let path = self.path(&format!("node-{id}"), name);
            if fs::read(&path).ok().as_ref() != Some(&text) {
                let beside = path.with_extension("new");
                fs::write(&beside, text).unwrap();
                fs::rename(beside, path).unwrap();
            }
        }
    }

    /// Gives one node after the other new files, which it takes up; one of them starts anew amid the others.
    fn roll(&mut self, trusted: &[&str], own: &str, restarted: usize) {
        for id in 1..=3 {
            self.write(id, trusted, own);
            let node = self.nodes[id - 1].as_mut().unwrap();
            node.signal(Signal::HUP);
            node.wait_for_logs(&TAKEN_UP);
            if id == restarted {
                let node = self.nodes[id - 1].take().unwrap();
                node.signal(Signal::TERM);
                let (status, log) = node.ended();
                assert!(status.success(), "{log}");
                self.nodes[id - 1] = Some(Node::spawn(self.command(id)));
                until("it takes part", || self.takes_part(id, trusted.last().unwrap(), own));
            }
        }
    }

    /// Whether a node leads or knows the leader, as it tells a client of one authority that trusts the other.
    fn takes_part(&self, id: usize, of: &str, trusted: &str) -> bool {
        let files = [(trusted, "ca.pem"), (of, "client-app.pem"), (of, "client-app.key")];
        let files = files.map(|(of, name)| format!("../{of}/{name}"));
        let [ca, cert, key] = files.each_ref().map(String::as_str);
        let asks = ["status", "--endpoint", &self.places[id - 1][1], "--tls-ca", ca];
        let tls = ["--tls-cert", cert, "--tls-key", key];
        let output = run(&self.directory.path().join("node-1"), &[&asks[..], &tls].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        said.contains("leading") || said.contains("following")
    }

    /// A client that trusts both authorities, with a certificate of this one.
    fn client(&self, of: &str) -> Client {
        let both = ["old", "new"].map(|of| fs::read(self.path(of, "ca.pem")).unwrap()).concat();
        let own = |ending| fs::read(self.path(of, &format!("client-app.{ending}"))).unwrap();
        let tls = TlsOptions::new(both).identity(own("pem"), own("key"));
        let endpoints = self.places.iter().map(|[_, service]| service.clone());
        Client::builder().endpoints(endpoints).tls(tls).timeout(PATIENCE).build().unwrap()
    }
}

/// Calls that are made one after the other until the first one fails.
struct Calls {
    client: Mutex<Client>,
    made: AtomicU64,
    ends: AtomicBool,
}

impl Calls {
    async fn make(&self) -> Result<(), tsoracle_client::Error> {
        let mut last = None;
        while !self.ends.load(Ordering::Relaxed) {
            let client = self.client.lock().unwrap().clone();
            let timestamp = client.get_ts().await?;
            assert!(last < Some(timestamp), "{last:?}, {timestamp:?}");
            last = Some(timestamp);
            let made = self.made.load(Ordering::Relaxed);
            assert_eq!(client.get_seq("orders", 1).await?.start, made);
            self.made.store(made + 1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn rolls(driver: &'static str) {
    let runtime = Runtime::new().unwrap();
    let mut cluster = Cluster::start(driver);
    let client = runtime.block_on(async { cluster.client("old") });
    let (made, ends) = (AtomicU64::new(0), AtomicBool::new(false));
    let calls = Arc::new(Calls { client: client.into(), made, ends });
    let calling = runtime.spawn({
        let calls = calls.clone();
        async move { calls.make().await }
    });
    let goes_on = |calling: &JoinHandle<_>| {
        let before = calls.made.load(Ordering::Relaxed);
        while calls.made.load(Ordering::Relaxed) < before + 10 && !calling.is_finished() {}
    };
    goes_on(&calling);
    cluster.roll(&["old", "new"], "old", 1);
    goes_on(&calling);
    *calls.client.lock().unwrap() = runtime.block_on(async { cluster.client("new") });
    cluster.roll(&["old", "new"], "new", 2);
    goes_on(&calling);
    cluster.roll(&["new"], "new", 3);
    goes_on(&calling);
    calls.ends.store(true, Ordering::Relaxed);
    runtime.block_on(calling).unwrap().unwrap();
    // Nothing of the old ones is of use any more.
    assert!((1..=3).all(|id| cluster.takes_part(id, "new", "new")));
    assert!((1..=3).all(|id| !cluster.takes_part(id, "old", "new")));
    assert!((1..=3).all(|id| !cluster.takes_part(id, "new", "old")));
}

#[cfg(feature = "openraft")]
#[test]
fn a_cluster_of_openraft_goes_over_to_new_authorities() {
    rolls("openraft");
}

#[cfg(feature = "omnipaxos")]
#[test]
fn a_cluster_of_omnipaxos_goes_over_to_new_authorities() {
    rolls("omnipaxos");
}
