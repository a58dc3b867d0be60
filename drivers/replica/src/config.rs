use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tsoracle_core::{DriverOption, Error, Reload, Result};
use tsoracle_store::Options;

use crate::{
    tls::{PeerNames, PeerTls},
    transport::Secret,
};

/// The options of a driver that replicates a log.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds log and state.
    pub path: PathBuf,
    /// Which of the peers this node is; from 1.
    pub node: u32,
    /// `ID=HOST:PORT/HOST:PORT` for each node, separated by commas: its peer address, then the one
    /// of its service.
    pub peers: String,
    /// The cluster's name. Nodes of another one are refused.
    pub cluster: String,
    /// How often the leader shows that it is there.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long a node hears nothing of a leader, at least, before it campaigns.
    #[serde(with = "humantime_serde")]
    pub election: Duration,
    /// The address to listen on for peers, if it is not the one in `peers`.
    pub peer_listen: Option<String>,
    /// Authorities whose certificates peers must show (PEM).
    pub peer_ca: Option<PathBuf>,
    /// This node's certificate chain towards peers (PEM).
    pub peer_cert: Option<PathBuf>,
    /// The key that goes with it (PEM).
    pub peer_key: Option<PathBuf>,
    /// What the certificate of a node names it by.
    pub peer_names: PeerNames,
    /// A file with a secret that all nodes have, and that they prove to each other.
    pub peer_secret_file: Option<PathBuf>,
    /// Allows any process that reaches the port to speak as a peer.
    pub insecure_peers: bool,
    /// How many connections to the peer port there are, at most, that have not begun a session.
    pub peer_connections: u16,
    /// The same from one address.
    pub peer_connections_per_address: u16,
    /// How many MiB a state that another node sends may have.
    pub transfer_mb: u32,
    /// Waits to be added by a running cluster instead of forming one.
    pub join: bool,
    /// Declares that the directory was moved, and that what it was copied from is used no more.
    pub moved: bool,
    /// After how many log entries a snapshot is made, which takes the place of the log before it.
    pub snapshot_every: u64,
    /// How many log entries before the last snapshot are kept, for nodes that are a little behind.
    pub log_keep: u64,
    /// How many MiB of the store's journal there are at least, before log and state are written.
    pub journal_mb: u16,
}

/// The help texts of [`Config`].
pub const OPTIONS: &[DriverOption] = &[
    option("path", "./tsoracle-data", "the directory that holds log and state; made if missing"),
    option("node", "", "which of the peers this node is, from 1; must be given"),
    option("peers", "", "ID=PEER-HOST:PORT/SERVICE-HOST:PORT of each node, separated by commas"),
    option("cluster", "tsoracle", "the cluster's name; nodes of another one are refused"),
    option("heartbeat", "100ms", "how often the leader shows that it is there"),
    option("election", "300ms", "how long without a leader before an election; up to twice that"),
    option("peer_listen", "", "where to listen for peers, if not on the address in `peers`"),
    option("peer_ca", "", "authorities whose certificates peers must show (PEM)"),
    option("peer_cert", "", "this node's certificate chain towards peers (PEM)"),
    option("peer_key", "", "the key that goes with it (PEM)"),
    option(
        "peer_names",
        "address",
        "what a certificate names: `address`, its host; or `node-ID.CLUSTER`: `node`",
    ),
    option(
        "peer_secret_file",
        "",
        "a file with a secret that all nodes share, and prove to each other",
    ),
    option("insecure_peers", "false", "lets any process that reaches the port speak as a peer"),
    option(
        "peer_connections",
        "64",
        "connections of peers that have not said who they are, at most",
    ),
    option("peer_connections_per_address", "16", "the same, from one address"),
    option("transfer_mb", "1024", "how many MiB a state that another node sends may have"),
    option(
        "moved",
        "false",
        "declares that the directory was moved, and its original is used no more",
    ),
    option(
        "snapshot_every",
        "10000",
        "after how many log entries, and up to a fifth more, a snapshot replaces the log",
    ),
    option("log_keep", "1000", "how many log entries before the last snapshot are kept"),
    option(
        "journal_mb",
        "16",
        "how many MiB of journal there are at least, before log and state are written",
    ),
    option("join", "false", "waits to be added by a running cluster instead of forming one"),
];

/// The same for drivers whose nodes are those of the config, and stay.
pub const FIXED_OPTIONS: &[DriverOption] = match OPTIONS.split_last() {
    Some((_join, others)) => others,
    None => OPTIONS,
};

const fn option(name: &'static str, default: &'static str, help: &'static str) -> DriverOption {
    DriverOption { name, default, help }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "./tsoracle-data".into(),
            node: 0,
            peers: String::new(),
            cluster: "tsoracle".into(),
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(300),
            peer_listen: None,
            peer_ca: None,
            peer_cert: None,
            peer_key: None,
            peer_names: PeerNames::Address,
            peer_secret_file: None,
            insecure_peers: false,
            peer_connections: 64,
            peer_connections_per_address: 16,
            transfer_mb: 1_024,
            join: false,
            moved: false,
            snapshot_every: 10_000,
            log_keep: 1_000,
            journal_mb: 16,
        }
    }
}

/// As much, and up to a fifth more, by the number of the node. Nodes hold the same log: they would all write
/// their states at the same entry, and run out of memory, descriptors or space at the same moment.
fn staggered(least: u64, node: u32) -> u64 {
    least.saturating_add(least / 32 * u64::from(node % 8))
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// `HOST:PORT` for its peers.
    pub peer: String,
    /// `HOST:PORT` for clients.
    pub service: String,
}

/// The options of a node, checked.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The directory that holds log and state.
    pub path: PathBuf,
    /// Which node this is.
    pub node: u32,
    /// All nodes of the first membership, this one included.
    pub members: BTreeMap<u32, Addresses>,
    /// Whether nodes that form a cluster must have the same addresses in their lists, and not only the same
    /// numbers: where the addresses are stored with the cluster.
    pub compares_addresses: bool,
    /// The cluster's name.
    pub name: String,
    /// How often the leader shows that it is there.
    pub heartbeat: Duration,
    /// How long a node hears nothing of a leader, at least, before it campaigns.
    pub election: Duration,
    /// The address to listen on for peers.
    pub listen: String,
    /// How peers prove who they are, if they do.
    pub tls: Option<PeerTls>,
    /// Tells when their files are to be read again.
    pub reload: Reload,
    /// What they prove to know, if they do.
    pub secret: Option<Secret>,
    /// Whether any process that reaches the port may speak as a peer.
    pub insecure_peers: bool,
    /// How many connections there are, at most, that have not begun a session: in all, and from one address.
    pub callers: (usize, usize),
    /// How many bytes a state that another node sends may have.
    pub transfer_bytes: u64,
    /// Waits to be added by a running cluster instead of forming one.
    pub join: bool,
    /// The directory was moved, and its original is used no more.
    pub moved: bool,
    /// After how many log entries a snapshot is made.
    pub snapshot_every: u64,
    /// How many log entries before the last snapshot are kept.
    pub log_keep: u64,
    /// How the store uses the machine.
    pub store: Options,
}

/// More is no cluster any more, but a mistake.
const MOST_MEMBERS: usize = 64;

/// A name is sent with every message.
const MAX_NAME_BYTES: usize = 128;

impl Config {
    /// Checks everything that needs neither the directory nor the network.
    ///
    /// # Errors
    /// `Config`, naming the option and what is wrong with it.
    pub fn check(self) -> Result<Cluster> {
        let members = parse_peers(&self.peers)?;
        if self.node == 0 {
            return Err(wrong("node must be given, and is at least 1"));
        }
        let Some(own) = members.get(&self.node) else {
            let known: Vec<_> = members.keys().map(u32::to_string).collect();
            let (node, known) = (self.node, known.join(", "));
            let context = format!("node {node} is not among the peers, which are {known}");
            return Err(wrong(context));
        };
        if members.len() == 2 {
            tracing::warn!(
                "a cluster of two nodes serves only while both are there, so that it stops more often than one node \
                 alone; three survive the loss of one"
            );
        }
        if self.cluster.is_empty() || self.cluster.len() > MAX_NAME_BYTES {
            let context = format!("cluster must be a name of 1 to {MAX_NAME_BYTES} bytes");
            return Err(wrong(context));
        }
        self.check_times()?;
        if self.snapshot_every == 0 {
            return Err(wrong("snapshot_every must be at least 1"));
        }
        let callers = (self.peer_connections.into(), self.peer_connections_per_address.into());
        if callers.0 == 0 || callers.1 == 0 || self.transfer_mb == 0 {
            let names = "peer_connections, peer_connections_per_address and transfer_mb";
            return Err(wrong(format!("{names} must be at least 1")));
        }
        let cluster = Cluster {
            node: self.node,
            callers,
            transfer_bytes: u64::from(self.transfer_mb) << 20,
            secret: self.peer_secret_file.as_deref().map(Secret::read).transpose()?,
            listen: self.peer_listen.clone().unwrap_or_else(|| own.peer.clone()),
            tls: PeerTls::read(&self, &own.peer)?,
            reload: Reload::default(),
            store: Options {
                journal_bytes: staggered(u64::from(self.journal_mb) << 20, self.node),
            },
            path: self.path,
            members,
            compares_addresses: true,
            name: self.cluster,
            heartbeat: self.heartbeat,
            election: self.election,
            insecure_peers: self.insecure_peers,
            join: self.join,
            moved: self.moved,
            snapshot_every: staggered(self.snapshot_every, self.node),
            log_keep: self.log_keep,
        };
        check_address(&cluster.listen, "peer_listen")?;
        for address in cluster.members.values().map(|member| &member.peer) {
            cluster.allow(address)?;
        }
        cluster.allow(&cluster.listen)?;
        Ok(cluster)
    }

    fn check_times(&self) -> Result<()> {
        let (heartbeat, election) = (self.heartbeat, self.election);
        let is_sane = Duration::from_millis(5) <= heartbeat
            && heartbeat.saturating_mul(2) <= election
            && election <= Duration::from_secs(60);
        if !is_sane {
            let context = format!(
                "heartbeat {heartbeat:?} and election {election:?} do not go together: the \
                 heartbeat is at least 5ms, the election at least twice that, and at most 60s"
            );
            return Err(wrong(context));
        }
        Ok(())
    }
}

impl Cluster {
    /// Whether peers may be connected to at `address`, as it is in a peer list.
    ///
    /// # Errors
    /// `Config` if it is off loopback and nothing protects it.
    pub fn allow(&self, address: &str) -> Result<()> {
        let proves = self.tls.is_some() || self.secret.is_some();
        if proves || self.insecure_peers || is_loopback(address) {
            return Ok(());
        }
        let context = format!(
            "peers at {address} would not prove who they are: give peer_secret_file, or peer_ca, \
             peer_cert and peer_key; or insecure_peers=true if nobody else is on the network"
        );
        Err(wrong(context))
    }
}

/// Takes `ID=HOST:PORT/HOST:PORT,…` apart.
fn parse_peers(text: &str) -> Result<BTreeMap<u32, Addresses>> {
    if text.trim().is_empty() {
        let context = "peers must be given: ID=PEER-HOST:PORT/SERVICE-HOST:PORT of each node, \
                       separated by commas";
        return Err(wrong(context));
    }
    let mut members = BTreeMap::new();
    for peer in text.split(',') {
        let (node, addresses) = parse_peer(peer.trim())?;
        let other = members.iter().find(|(_, other): &(&u32, &Addresses)| {
            other.peer == addresses.peer || other.service == addresses.service
        });
        if let Some((other, _)) = other.filter(|(other, _)| **other != node) {
            return Err(wrong(format!("peers {other} and {node} have the same address")));
        }
        if members.insert(node, addresses).is_some() {
            return Err(wrong(format!("peer {node} is given twice")));
        }
    }
    if members.len() > MOST_MEMBERS {
        return Err(wrong(format!("{} peers are too many", members.len())));
    }
    Ok(members)
}

fn parse_peer(text: &str) -> Result<(u32, Addresses)> {
    let malformed = |what: &str| {
        wrong(format!("peer {text:?} {what}; the form is ID=PEER-HOST:PORT/SERVICE-HOST:PORT"))
    };
    let (node, addresses) = text.split_once('=').ok_or_else(|| malformed("has no id"))?;
    let node = match node.trim().parse() {
        Ok(0) => return Err(malformed("has id 0, and ids begin at 1")),
        Ok(node) => node,
        Err(_) => return Err(malformed("has an id that is no number")),
    };
    let (peer, service) =
        addresses.split_once('/').ok_or_else(|| malformed("has no service address"))?;
    let addresses = Addresses { peer: peer.trim().into(), service: service.trim().into() };
    addresses.check().map_err(|error| malformed(&format!("{error:#}")))?;
    if addresses.peer == addresses.service {
        return Err(malformed("has one address for peers and clients"));
    }
    Ok((node, addresses))
}

impl Addresses {
    /// Whether both are of the form `HOST:PORT`, and of a place that can be connected to.
    ///
    /// # Errors
    /// `Config`, naming the one that is not.
    pub fn check(&self) -> Result<()> {
        for (address, what) in [(&self.peer, "peer"), (&self.service, "service")] {
            check_address(address, what)?;
            if !is_reachable(address) {
                return Err(wrong(format!(
                    "has a {what} address {address:?} to listen on, which nobody can connect to: name the machine, and \
                     a port"
                )));
            }
        }
        Ok(())
    }
}

/// Whether peers and clients can connect to an address of that form.
fn is_reachable(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_any = host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical().is_unspecified());
    !is_any && port.parse() != Ok(0_u16)
}

fn check_address(address: &str, what: impl fmt::Display) -> Result<()> {
    let port = address.rsplit_once(':').filter(|(host, _)| {
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (is_v6 || !host.contains(':')) && !host.contains(char::is_whitespace)
    });
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(_)) => Ok(()),
        _ => Err(wrong(format!("has a {what} address {address:?} that is not HOST:PORT"))),
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn wrong(context: impl Into<String>) -> Error {
    Error::setting(context)
}

#[cfg(test)]
mod tests {
    use tsoracle_core::{DriverConfig, ErrorKind};

    use super::*;

    const PEERS: &str = "1=127.0.0.1:7001/a:8001,2=localhost:7002/b:8002,3=[::1]:7003/c:8003";

    fn check(options: &str) -> Result<Cluster> {
        DriverConfig::parse(&format!("openraft:./n?{options}"))?.options::<Config>()?.check()
    }

    fn refused(options: &str, text: &str) {
        let error = check(options).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(text), "{options}: {error}");
    }

    #[test]
    fn a_peer_list_is_understood() {
        let cluster = check(&format!("node=3&peers={PEERS}")).unwrap();
        assert_eq!(cluster.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let third = Addresses { peer: "[::1]:7003".into(), service: "c:8003".into() };
        assert_eq!((cluster.members[&3].clone(), &*cluster.listen), (third, "[::1]:7003"));
        let elsewhere = check(&format!("node=1&peers={PEERS}&peer_listen=127.0.0.1:0")).unwrap();
        assert_eq!(elsewhere.listen, "127.0.0.1:0");
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_refused() {
        for wrong in ["1=0.0.0.0:7001/a:8001", "1=a:7001/[::]:8001", "1=a:0/a:8001", "1=a:7001/a:0"]
        {
            refused(&format!("node=1&insecure_peers=true&peers={wrong}"), "nobody can connect to");
        }
        let listens = "node=1&insecure_peers=true&peers=1=a:7001/a:8001&peer_listen=0.0.0.0:7001";
        assert!(check(listens).is_ok());
    }

    #[test]
    fn no_two_nodes_write_their_states_at_the_same_entry() {
        let of = |node: u32| check(&format!("node={node}&peers={PEERS}&journal_mb=4")).unwrap();
        for (one, other) in [(1, 2), (2, 3), (1, 3)] {
            let (one, other) = (of(one), of(other));
            assert_ne!(one.snapshot_every, other.snapshot_every);
            assert_ne!(one.store.journal_bytes, other.store.journal_bytes);
            assert!((10_000..12_500).contains(&one.snapshot_every));
            assert!((4 << 20..5 << 20).contains(&one.store.journal_bytes));
        }
    }

    #[test]
    fn a_heartbeat_that_cannot_be_doubled_is_refused() {
        let options = format!("node=1&peers={PEERS}&heartbeat=10000000000000000000s");
        refused(&options, "do not go together");
    }

    #[test]
    fn a_wrong_peer_list_is_refused_with_its_fault() {
        refused("node=1", "peers must be given");
        refused(&format!("peers={PEERS}"), "node must be given");
        refused(
            &format!("node=4&peers={PEERS}"),
            "node 4 is not among the peers, which are 1, 2, 3",
        );
        refused("node=1&peers=1=a:1/a:2,1=b:1/b:2", "peer 1 is given twice");
        refused("node=1&peers=1=a:1/a:2,2=a:1/b:2", "peers 1 and 2 have the same address");
        refused("node=1&peers=1=a:1/a:2,2=b:1/a:2", "peers 1 and 2 have the same address");
        refused("node=1&peers=0=a:1/a:2", "ids begin at 1");
        refused("node=1&peers=x=a:1/a:2", "no number");
        refused("node=1&peers=a:1/a:2", "has no id");
        refused("node=1&peers=1=a:1", "has no service address");
        refused("node=1&peers=1=a:1/a:1", "one address for peers and clients");
        refused("node=1&peers=1=a/a:1", "\"a\" that is not HOST:PORT");
        refused("node=1&peers=1=a:1/a:99999", "\"a:99999\" that is not HOST:PORT");
        refused("node=1&peers=1=::1:5/a:2", "that is not HOST:PORT");
        refused(&format!("node=1&peers={PEERS}&heartbeat=1s"), "do not go together");
        refused(&format!("node=1&peers={PEERS}&cluster="), "must be a name");
        refused(&format!("node=1&peers={PEERS}&snapshot_every=0"), "at least 1");
        for option in ["peer_connections", "peer_connections_per_address", "transfer_mb"] {
            refused(&format!("node=1&peers={PEERS}&{option}=0"), option);
        }
        refused(&format!("node=1&peers={PEERS}&speed=1"), "`speed`");
        let peers = |count: usize| {
            let peers: Vec<_> = (1..=count).map(|id| format!("{id}=h{id}:1/h{id}:2")).collect();
            format!("node=1&insecure_peers=true&peers={}", peers.join(","))
        };
        check(&peers(MOST_MEMBERS)).unwrap();
        refused(&peers(MOST_MEMBERS + 1), "65 peers are too many");
        refused(&format!("node=1&peers={PEERS}&peer_ca=/x"), "peer_cert");
    }

    #[test]
    fn plaintext_off_loopback_has_to_be_allowed() {
        let far = "node=1&peers=1=10.0.0.1:7001/a:1,2=127.0.0.1:7002/b:1";
        refused(far, "10.0.0.1:7001");
        refused("node=1&peers=1=tso-1:7001/a:1", "insecure_peers=true");
        refused(&format!("node=1&peers={PEERS}&peer_listen=0.0.0.0:7001"), "0.0.0.0:7001");
        check(&format!("{far}&insecure_peers=true")).unwrap();
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let error = DriverConfig::parse("x?size=1").unwrap().options::<Config>().unwrap_err();
        for option in OPTIONS {
            assert!(error.to_string().contains(&format!("`{}`", option.name)), "{error}");
        }
        assert_eq!(error.to_string().matches('`').count(), 2 * (OPTIONS.len() + 1));
        let defaults = OPTIONS.iter().filter(|option| !option.default.is_empty());
        let defaults = defaults.map(|option| format!("{}={}", option.name, option.default));
        let text = format!("x?{}", defaults.collect::<Vec<_>>().join("&"));
        let spelled: Config = DriverConfig::parse(&text).unwrap().options().unwrap();
        assert_eq!(spelled, Config::default());
    }
}
