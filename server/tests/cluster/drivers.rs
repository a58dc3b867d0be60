//! How a cluster of each driver is started.

use std::process::Command;

use tsoracle_conformance::processes::{Companion, Processes, Site};

const BINARY: &str = env!("CARGO_BIN_EXE_tsoracle");

/// The drivers of this build that make clusters.
pub(crate) fn all() -> Vec<Processes> {
    let mut drivers = vec![];
    if cfg!(feature = "openraft") {
        drivers.push(replicated("openraft").with_members());
    }
    if cfg!(feature = "omnipaxos") {
        drivers.push(replicated("omnipaxos"));
    }
    if cfg!(feature = "etcd") {
        drivers.push(etcd());
    }
    drivers
}

/// Nodes that replicate a log among themselves.
fn replicated(driver: &'static str) -> Processes {
    Processes::new(driver, BINARY, move |site, node| {
        let peer = |node| format!("{}={}/{}", node + 1, site.peer(node), site.service(node));
        let peers: Vec<_> = (0..site.nodes()).map(peer).collect();
        let (directory, own) = (site.directory(node), node + 1);
        let (directory, peers) = (directory.display(), peers.join(","));
        // Little log is kept, so that a node that is far behind catches up through a snapshot. The
        // network is one that the test has made.
        format!(
            "{driver}:{directory}/data?node={own}&peers={peers}&snapshot_every=100&log_keep=20\
             &insecure_peers=true"
        )
    })
    .with_state_file("state.redb")
}

/// Nodes that keep nothing, beside an etcd of one member.
fn etcd() -> Processes {
    let config = |site: &Site, _| format!("etcd://{}/oracle", site.companions()[0]);
    Processes::new("etcd", BINARY, config).with_companions(2, |site| {
        let (client, peer) = (site.companions()[0], site.companions()[1]);
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let mut command = Command::new("etcd");
        command
            .args(["--name", "one", "--logger", "zap", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(site.root().join("etcd"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("one={peer_url}")]);
        vec![Companion { command, ready: client }]
    })
}
