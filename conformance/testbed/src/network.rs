//! The addresses of a cluster, and the links between them.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tsoracle_conformance::Direction;
use tsoracle_core::Result;

use super::{
    deployed::{Addresses, Site},
    failed, sandbox,
};

const PEER_PORT: u16 = 7_000;
const SERVICE_PORT: u16 = 50_551;

/// The third part of addresses.
const CLIENTS: u8 = 0;
const PEERS: u8 = 1;

/// The last part of this side's addresses; those of nodes begin at 1.
const HERE: u8 = 254;

/// A hardware address that no device has.
const NOWHERE: &str = "02:00:00:00:00:00";

/// What connects the nodes of a cluster with each other, and with their clients.
#[derive(Debug)]
pub(super) enum Network {
    Loopback,
    /// Each node in a namespace of its own, with a link to a bridge of peers and to one of clients.
    Bridges {
        /// Is in all addresses and names of this cluster.
        number: u8,
        nodes: u8,
    },
}

impl Network {
    /// Makes one, with nodes, and with other programs beside them that have several addresses each.
    pub(super) fn new(
        root: &Path,
        nodes: usize,
        (others, ports): (usize, usize),
    ) -> Result<(Self, Site)> {
        let root = root.to_owned();
        let by_service =
            |all: Vec<SocketAddr>| all.chunks(ports.max(1)).map(<[_]>::to_vec).collect();
        let others = others * ports;
        if !sandbox::is_inside() {
            let mut free = free_addresses(nodes * 2 + others)?;
            let backing_services = free.split_off(nodes * 2);
            let of_node = |pair: &[SocketAddr]| Addresses { peer: pair[0], service: pair[1] };
            let nodes = free.chunks(2).map(of_node).collect();
            let backing_services = by_service(backing_services);
            return Ok((Self::Loopback, Site::new(root, nodes, backing_services)));
        }
        static NUMBERS: AtomicU8 = AtomicU8::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed) % 200 + 1;
        let count = u8::try_from(nodes).map_err(failed)?;
        let network = Self::Bridges { number, nodes: count };
        build(number, count)?;
        let of_node = |node| Addresses {
            peer: SocketAddr::new(address(number, PEERS, node).into(), PEER_PORT),
            service: SocketAddr::new(address(number, CLIENTS, node).into(), SERVICE_PORT),
        };
        let port = |other| PEER_PORT + 1 + other as u16;
        let here = Ipv4Addr::new(10, number, PEERS, HERE).into();
        let backing_services =
            by_service((0..others).map(|other| SocketAddr::new(here, port(other))).collect());
        Ok((network, Site::new(root, (0..count).map(of_node).collect(), backing_services)))
    }

    /// Has `command` run where a node is.
    pub(super) fn within(&self, node: usize, program: &Path) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Bridges { number, .. } => {
                let mut command = Command::new("nsenter");
                let network = format!("--net=/run/netns/{}", namespace(*number, node as u8));
                command.arg(network).arg("--").arg(program);
                command
            }
        }
    }

    /// Has what passes between a node and its peers take so much longer, there and back together. Its link
    /// leads through the program `carrier` for as long as that runs.
    pub(super) fn slow_down(&self, node: usize, by: Duration, carrier: &Path) -> Result<Child> {
        let (number, _) = self.bridges()?;
        let (port, node) = (link('p', number, node as u8), node as u8);
        let [near, far] = ['s', 't'].map(|kind| link(kind, number, node));
        let around = format!(
            "link set {port} nomaster\nlink add {near} type veth peer name {far}\n\
             link set {far} master {} up\nlink set {near} up\n",
            bridge('p', number)
        );
        ip(None, &around)?;
        let each_way = (by / 2).as_millis().to_string();
        let mut command = Command::new(carrier);
        Ok(command
            .args([port, near, each_way])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?)
    }

    /// Undoes [`slow_down`](Self::slow_down), whose program has ended.
    pub(super) fn speed_up(&self, node: usize) -> Result<()> {
        let (number, _) = self.bridges()?;
        let node = node as u8;
        let (port, near) = (link('p', number, node), link('s', number, node));
        ip(None, &format!("link del {near}\nlink set {port} master {}\n", bridge('p', number)))
    }

    /// Has all be lost that a node sends to its peers, or that they send to it, unless it `passes` again.
    pub(super) fn connect_one_way(
        &self,
        node: usize,
        direction: Direction,
        passes: bool,
    ) -> Result<()> {
        let (number, nodes) = self.bridges()?;
        for other in others(nodes, node) {
            let (from, to) = match direction {
                Direction::Out => (node as u8, other),
                Direction::In => (other, node as u8),
            };
            for net in [CLIENTS, PEERS] {
                direct(number, net, (from, to), passes)?;
            }
        }
        Ok(())
    }

    /// Lets no more packets pass between a node and its peers, without telling either, unless they `pass` again. Its
    /// link is still up.
    pub(super) fn connect(&self, node: usize, pass: bool) -> Result<()> {
        let (number, nodes) = self.bridges()?;
        let port = link('p', number, node as u8);
        let master = match pass {
            true => format!("master {}", bridge('p', number)),
            false => "nomaster".into(),
        };
        ip(None, &format!("link set {port} {master}\n"))?;
        // Nor may they meet among the clients.
        others(nodes, node)
            .try_for_each(|other| direct_both(number, CLIENTS, (node as u8, other), pass))
    }

    /// As [`connect`](Self::connect), but only between these two.
    pub(super) fn connect_two(&self, one: usize, other: usize, pass: bool) -> Result<()> {
        let (number, _) = self.bridges()?;
        direct_both(number, CLIENTS, (one as u8, other as u8), pass)?;
        direct_both(number, PEERS, (one as u8, other as u8), pass)
    }

    fn bridges(&self) -> Result<(u8, u8)> {
        match *self {
            Self::Bridges { number, nodes } => Ok((number, nodes)),
            Self::Loopback => Err(failed("nodes on loopback cannot be cut off")),
        }
    }
}

/// Goes once all processes of its nodes have ended; and if it cannot, with the test program.
impl Drop for Network {
    fn drop(&mut self) {
        let Self::Bridges { number, nodes } = *self else { return };
        let mut undo: String =
            (0..nodes).map(|node| format!("netns del {}\n", namespace(number, node))).collect();
        for kind in ['c', 'p'] {
            undo += &format!("link del {}\n", bridge(kind, number));
        }
        if let Err(error) = ip(None, &undo) {
            eprintln!("{error:#}");
        }
    }
}

fn build(number: u8, nodes: u8) -> Result<()> {
    let mut outside = String::new();
    for (kind, net) in [('c', CLIENTS), ('p', PEERS)] {
        let bridge = bridge(kind, number);
        outside += &format!(
            "link add {bridge} type bridge\nlink set {bridge} up\n\
             addr add 10.{number}.{net}.{HERE}/24 dev {bridge}\n"
        );
    }
    for node in 0..nodes {
        let namespace = namespace(number, node);
        outside += &format!("netns add {namespace}\n");
        for (kind, net) in [('c', CLIENTS), ('p', PEERS)] {
            let (link, bridge, device) =
                (link(kind, number, node), bridge(kind, number), device(net));
            outside += &format!(
                "link add {link} type veth peer name {device} netns {namespace}\n\
                 link set {link} master {bridge} up\n"
            );
        }
    }
    ip(None, &outside)?;
    for node in 0..nodes {
        let mut inside = String::from("link set lo up\n");
        for net in [CLIENTS, PEERS] {
            let (address, device) = (address(number, net, node), device(net));
            inside += &format!("addr add {address}/24 dev {device}\nlink set {device} up\n");
        }
        ip(Some(&namespace(number, node)), &inside)?;
    }
    Ok(())
}

/// As [`direct`], in both directions.
fn direct_both(number: u8, net: u8, (one, other): (u8, u8), arrives: bool) -> Result<()> {
    direct(number, net, (one, other), arrives)?;
    direct(number, net, (other, one), arrives)
}

/// Has what one node sends another one go nowhere, unless it `arrives` again.
fn direct(number: u8, net: u8, (from, to): (u8, u8), arrives: bool) -> Result<()> {
    let (to, device) = (address(number, net, to), device(net));
    let line = match arrives {
        true => format!("neigh del {to} dev {device}\n"),
        false => format!("neigh replace {to} lladdr {NOWHERE} dev {device} nud permanent\n"),
    };
    ip(Some(&namespace(number, from)), &line)
}

fn others(nodes: u8, node: usize) -> impl Iterator<Item = u8> {
    (0..nodes).filter(move |&other| usize::from(other) != node)
}

fn address(number: u8, net: u8, node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, number, net, node + 1)
}

/// What a node's end of a link is called.
fn device(net: u8) -> &'static str {
    if net == CLIENTS { "clients" } else { "peers" }
}

fn namespace(number: u8, node: u8) -> String {
    format!("cluster-{number}-node-{node}")
}

fn bridge(kind: char, number: u8) -> String {
    format!("{kind}{number}")
}

fn link(kind: char, number: u8, node: u8) -> String {
    format!("{kind}{number}n{node}")
}

/// Runs lines of `ip`, in a namespace.
fn ip(namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn()?;
    if let Some(mut input) = running.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = running.wait_with_output()?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(format!("ip does not do {lines:?}: {said}")))
        }
    }
}

/// Addresses that are free now.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let listeners: std::io::Result<Vec<_>> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let addresses: std::io::Result<Vec<_>> =
        listeners?.iter().map(TcpListener::local_addr).collect();
    Ok(addresses?)
}
