//! How a cluster of each driver is started.

use std::process::Command;

use tsoracle_testbed::{BackingService, HungFiles, Processes, Site};

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
        let peer = |node| format!("{}={}/{}", site.id(node), site.peer(node), site.service(node));
        let peers: Vec<_> = (0..site.nodes()).map(peer).collect();
        let (directory, own) = (site.directory(node), site.id(node));
        let (directory, peers) = (directory.display(), peers.join(","));
        let joins = if site.joins(node) { "&join=true" } else { "" };
        // The operator says that a directory was moved, and does not know of its copy.
        let place = match site.double(node) {
            Some(listen) => format!("peer_listen={listen}"),
            None => "moved=true".into(),
        };
        // Little log is kept, so that a node that is far behind catches up through a snapshot. The
        // network is one that the test has made. A loss of power leaves a copy.
        format!(
            "{driver}:{directory}/data?node={own}&peers={peers}&snapshot_every=100&log_keep=20&journal_mb=1\
             &insecure_peers=true&{place}{joins}"
        )
    })
    .with_state_file("journal-")
    .with_hung_files(HUNG)
    .with_doubles()
}

/// Every kind of call to files that a node makes while it runs. The last one is of all, so that whatever kind of
/// file is added counts as well.
const HUNG: [HungFiles; 9] = [
    hung("writes to the log", "w", "journal-", true),
    hung("syncs of the log", "s", "journal-", true),
    hung("writes of the state behind it", "wst", "snapshot", true),
    hung("new files", "o", "*", true),
    hung("changes of names", "md", "*", true),
    hung("notes of what is durable", "ws", "LOCK", false),
    hung("states that come", "orwd", "received", false),
    hung("all reads", "r", "*", false),
    hung("all calls", "orwstmd", "*", true),
];

const fn hung(
    word: &'static str,
    operations: &'static str,
    name: &'static str,
    ends_commits: bool,
) -> HungFiles {
    HungFiles { word, operations, name, ends_commits }
}

/// Nodes that keep nothing, beside an etcd.
fn etcd() -> Processes {
    const MEMBERS: usize = 3;
    let config = |site: &Site, _| {
        let members: Vec<_> = site.backing_services().iter().map(|at| at[0].to_string()).collect();
        format!("etcd://{}/oracle", members.join(","))
    };
    Processes::new("etcd", BINARY, config).with_backing_services(MEMBERS, 2, |site, member| {
        let url = |member: usize, port: usize| {
            format!("http://{}", site.backing_services()[member][port])
        };
        let (client, peer) = (url(member, 0), url(member, 1));
        let all: Vec<_> = (0..MEMBERS).map(|one| format!("{one}={}", url(one, 1))).collect();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &member.to_string(), "--logger", "zap", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(site.root().join(format!("etcd-{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(",")]);
        BackingService { command, ready: site.backing_services()[member][0] }
    })
}
