mod identity;

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tsoracle_client::Client;
use tsoracle_core::Result;

use super::{
    BackingService, ConfigOf, HungFiles, Processes, Services, Site,
    disk::{self, Disk},
    failed,
    network::Network,
    node::{Process, said},
    remote::{self, Remote, Riding},
    sandbox,
};
use tsoracle_conformance::{BackingServices, Cluster, Doubles, Fault, Partition, Service, Shared};

/// The leader lease, which is the default.
const LEASE: Duration = Duration::from_secs(1);

/// The config file of all nodes.
const OPEN: &str = "open.toml";

/// Everybody may do everything: nodes run in network namespaces that only the test can reach.
const EVERYBODY: &str = "insecure-listen = true\n[policy.identities]\nanonymous = ['admin']\n";

/// When it is set, what clusters wrote is kept, and said where.
const KEEP: &str = "TSORACLE_CONFORMANCE_KEEP";

/// What the nodes log, if it is set: as of `--log`.
const LOG: &str = "TSORACLE_CONFORMANCE_LOG";

/// How long a call of a client may take: longer than anything here but what never ends.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a cluster on loopback is tried, whose ports were free when they were looked for.
const ATTEMPTS: usize = 3;

/// The program that a slow link leads through. It needs the rights that the sandbox gives.
const SLOW_LINK: &str = include_str!("slow_link.c");

/// It ends when this is dropped.
struct Carrier(Child);

impl Drop for Carrier {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processes, and the network between them. Fields are dropped in this order.
struct Running {
    nodes: Vec<Option<Process>>,
    /// Of those that were started a second time, by node.
    doubles: BTreeMap<usize, Process>,
    /// What makes links slow, by node.
    carriers: BTreeMap<usize, Carrier>,
    backing_services: Vec<Option<Process>>,
    network: Network,
    services: Vec<Arc<dyn Service>>,
    site: Site,
    binary: PathBuf,
    config: ConfigOf,
    disks: Vec<Disk>,
    services_of: Option<Services>,
    directory: Option<TempDir>,
}

impl Running {
    async fn launch(of: &Processes, count: usize) -> Result<Self> {
        let directory = TempDir::with_prefix("tsoracle-cluster-")?;
        let backing_services = of.backing_services.clone();
        let beside = backing_services.as_ref().map_or((0, 0), |all| (all.count, all.ports));
        let (network, site) = Network::new(directory.path(), count, beside)?;
        let services =
            (0..count).map(|node| Remote::new(site.service(node))).collect::<Result<Vec<_>>>()?;
        let services = services.into_iter().map(|one| Arc::new(one) as Arc<dyn Service>).collect();
        let disks = Disk::all(&site, of.state_file.as_deref())?;
        let mut cluster = Self {
            nodes: (0..count).map(|_| None).collect(),
            doubles: BTreeMap::new(),
            carriers: BTreeMap::new(),
            backing_services: (0..beside.0).map(|_| None).collect(),
            network,
            services,
            site,
            binary: of.binary.clone(),
            config: of.config.clone(),
            disks,
            services_of: backing_services,
            directory: Some(directory),
        };
        for service in 0..beside.0 {
            cluster.start_backing_service(service).await?;
        }
        fs::write(cluster.site.root().join(OPEN), EVERYBODY)?;
        for node in 0..count {
            fs::create_dir(cluster.site.directory(node))?;
            cluster.start(node).await?;
        }
        Ok(cluster)
    }

    fn command(&self, node: usize) -> Command {
        let mut program = self.disks[node].holding(&self.binary).into_iter();
        let first = program.next().unwrap_or_default();
        let mut command = self.network.within(node, first.as_ref());
        command.args(program);
        // Of the one that is loaded before the node itself, only the files of the node are concerned.
        command.envs(self.disks[node].environment());
        self.serve(command, &self.site, node, self.site.service(node))
    }

    /// Adds to a command that runs the binary what a node is told.
    fn serve(&self, mut command: Command, site: &Site, node: usize, listen: SocketAddr) -> Command {
        command.args(["serve", &(self.config)(site, node), "--listen", &listen.to_string()]);
        command.args(["--advertise", &site.service(node).to_string()]);
        command.arg("--config").arg(self.site.root().join(OPEN));
        if let Some(filter) = env::var_os(LOG) {
            command.arg("--log").arg(filter);
        }
        command.current_dir(site.directory(node));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TSORACLE_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn slow_link(&mut self, node: usize, by: Duration) -> Result<()> {
        let program = self.site.root().join("slow-link");
        if !program.exists() {
            disk::compile(self.site.root(), "slow-link", SLOW_LINK, &[])?;
        }
        self.carriers.insert(node, Carrier(self.network.slow_down(node, by, &program)?));
        Ok(())
    }

    fn fast_link(&mut self, node: usize) -> Result<()> {
        self.carriers.remove(&node);
        self.network.speed_up(node)
    }

    fn running(&self, node: usize) -> Result<&Process> {
        self.nodes[node].as_ref().ok_or_else(|| failed(format!("node {node} does not run")))
    }
}

fn name(node: usize) -> String {
    format!("node-{node}")
}

fn name_of_backing_service(service: usize) -> String {
    format!("backing-service-{service}")
}

impl Running {
    async fn start(&mut self, node: usize) -> Result<()> {
        if self.nodes[node].is_some() {
            return Err(failed(format!("node {node} runs already")));
        }
        let (name, address) = (name(node), self.site.service(node));
        let log = self.site.log(&name);
        let process = Process::start(&name, self.command(node), &log, address).await?;
        self.nodes[node] = Some(process);
        Ok(())
    }

    async fn stop(&mut self, node: usize) -> Result<()> {
        self.taken(node)?.stop().await
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        self.taken(node).map(drop)
    }

    fn taken(&mut self, node: usize) -> Result<Process> {
        self.nodes[node].take().ok_or_else(|| failed(format!("node {node} does not run")))
    }

    fn wipe(&mut self, node: usize) -> Result<()> {
        if self.nodes[node].is_some() {
            return Err(failed(format!("node {node} runs, and cannot be wiped")));
        }
        let directory = self.site.directory(node);
        fs::remove_dir_all(&directory)?;
        Ok(fs::create_dir(directory)?)
    }

    fn lose_power(&mut self, node: usize) -> Result<()> {
        self.kill(node)?;
        self.disks[node].lose()
    }

    fn kill_backing_service(&mut self, service: usize) -> Result<()> {
        let process = self.backing_services[service].take();
        process.map(drop).ok_or_else(|| failed(format!("backing service {service} does not run")))
    }

    async fn start_backing_service(&mut self, service: usize) -> Result<()> {
        let Some(all) =
            self.services_of.as_ref().filter(|_| self.backing_services[service].is_none())
        else {
            return Err(failed(format!("backing service {service} runs already")));
        };
        let BackingService { command, ready } = (all.one)(&self.site, service);
        let name = name_of_backing_service(service);
        let process = Process::start(&name, command, &self.site.log(&name), ready).await?;
        self.backing_services[service] = Some(process);
        Ok(())
    }

    fn disk(&self, node: usize) -> &Disk {
        &self.disks[node]
    }

    fn client(&self) -> Result<Arc<dyn Service>> {
        let endpoints = (0..self.site.nodes()).map(|node| self.site.service(node).to_string());
        let client = Client::builder().endpoints(endpoints).timeout(CLIENT_TIMEOUT).build();
        Ok(Arc::new(Riding::new(client.map_err(failed)?)))
    }

    fn report(&self) -> String {
        let beside = (0..self.backing_services.len()).map(name_of_backing_service);
        let names = beside.chain((0..self.nodes.len()).map(name));
        names.map(|name| said(&name, &self.site.log(&name))).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if env::var_os(KEEP).is_some() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("kept: {kept:?}");
        }
    }
}

/// A cluster that runs once it was launched.
struct Launched {
    of: Processes,
    running: Option<Running>,
}

impl Launched {
    async fn launch(&mut self, count: usize) -> Result<Vec<Arc<dyn Service>>> {
        let mut attempts = if sandbox::is_inside() { 1 } else { ATTEMPTS };
        loop {
            attempts -= 1;
            match Running::launch(&self.of, count).await {
                Ok(running) => return Ok(self.running.insert(running).services.clone()),
                Err(error) if attempts == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().ok_or_else(|| failed("the cluster was not launched"))
    }
}

/// Does something to a cluster that runs.
macro_rules! does {
    ($cluster:ident, |$running:ident, $on:tt| $act:expr) => {
        $cluster.action(|launched, $on| {
            Box::pin(async move {
                let $running = launched.running()?;
                $act
            })
        })
    };
}

/// A cluster of processes, with the faults that this system lets be made.
pub(super) fn cluster(of: &Processes) -> Cluster {
    let cluster = &Shared::new(Launched { of: of.clone(), running: None });
    let backing_services = of.backing_services.as_ref().filter(|all| all.count >= 3);
    let processes = Cluster {
        pause: Some(Fault {
            begin: does!(cluster, |running, node| running.running(node)?.pause().await),
            end: does!(cluster, |running, node| running.running(node)?.resume()),
        }),
        wipe: Some(does!(cluster, |running, node| running.wipe(node))),
        client: Some(does!(cluster, |running, ()| running.client())),
        backing_services: backing_services.map(|all| BackingServices {
            count: all.count,
            kill: Fault {
                begin: does!(cluster, |running, service| running.kill_backing_service(service)),
                end: does!(cluster, |running, service| {
                    running.start_backing_service(service).await
                }),
            },
        }),
        report: Some(does!(cluster, |running, ()| Ok(running.report()))),
        ..Cluster::new(
            LEASE,
            cluster.action(|launched, count| Box::pin(launched.launch(count))),
            does!(cluster, |running, node| running.start(node).await),
            does!(cluster, |running, node| running.stop(node).await),
            does!(cluster, |running, node| running.kill(node)),
        )
    };
    with_links(cluster, with_disks(of, cluster, with_members(of, cluster, processes)))
}

/// The same, whose nodes take the place of others.
fn with_members(of: &Processes, cluster: &Shared<Launched>, processes: Cluster) -> Cluster {
    let has_doubles = sandbox::lacking().is_none() && of.has_doubles;
    Cluster {
        stray: Some(Fault {
            begin: does!(cluster, |running, node| running.begin_stray(node).await),
            end: does!(cluster, |running, node| running.end_stray(node)),
        }),
        doubles: has_doubles.then(|| Doubles {
            prepare: does!(cluster, |running, ()| running.form_another().await),
            run: Fault {
                begin: does!(cluster, |running, (node, of)| running.begin_double(node, of).await),
                end: does!(cluster, |running, (node, of)| running.end_double(node, of).await),
            },
        }),
        replacement: of.has_members.then(|| Fault {
            begin: does!(cluster, |running, node| running.remove(node).await),
            end: does!(cluster, |running, node| running.replace(node).await),
        }),
        transfer: of.has_members.then(|| {
            does!(cluster, |running, node| {
                remote::change(running.site.service(node), remote::transfer()).await
            })
        }),
        ..processes
    }
}

/// The same, whose links can be cut and be slow.
fn with_links(cluster: &Shared<Launched>, processes: Cluster) -> Cluster {
    if sandbox::lacking().is_some() {
        return processes;
    }
    Cluster {
        partition: Some(Partition {
            node: Fault {
                begin: does!(cluster, |running, node| running.network.connect(node, false)),
                end: does!(cluster, |running, node| running.network.connect(node, true)),
            },
            link: Fault {
                begin: does!(cluster, |running, (one, other)| {
                    running.network.connect_two(one, other, false)
                }),
                end: does!(cluster, |running, (one, other)| {
                    running.network.connect_two(one, other, true)
                }),
            },
        }),
        slow_link: disk::has_compiler().then(|| Fault {
            begin: does!(cluster, |running, (node, by)| running.slow_link(node, by)),
            end: does!(cluster, |running, (node, _)| running.fast_link(node)),
        }),
        one_way: Some(Fault {
            begin: does!(cluster, |running, (node, way)| {
                running.network.connect_one_way(node, way, false)
            }),
            end: does!(cluster, |running, (node, way)| {
                running.network.connect_one_way(node, way, true)
            }),
        }),
        ..processes
    }
}

/// The same, whose disks can hang, be slow, and lose what was not synced.
fn with_disks(of: &Processes, cluster: &Shared<Launched>, processes: Cluster) -> Cluster {
    if of.state_file.is_none() || disk::lacking().is_some() {
        return processes;
    }
    Cluster {
        disk: Some(tsoracle_conformance::Disk {
            hang: Fault {
                begin: does!(cluster, |running, node| running.disk(node).hang().await),
                end: does!(cluster, |running, node| running.disk(node).mend()),
            },
            lose_power: does!(cluster, |running, node| running.lose_power(node)),
        }),
        slow_disk: Some(Fault {
            begin: does!(cluster, |running, (node, by)| running.disk(node).slow_down(by)),
            end: does!(cluster, |running, (node, _)| running.disk(node).be_sound()),
        }),
        hung_files: of.hung_files.iter().map(|kind| hung(cluster, kind)).collect(),
        ..processes
    }
}

/// Has calls of one kind hang.
fn hung(cluster: &Shared<Launched>, kind: &HungFiles) -> tsoracle_conformance::HungFiles {
    let HungFiles { word, operations, name, ends_commits } = *kind;
    let begin = cluster.action(move |launched, node: usize| {
        Box::pin(async move { launched.running()?.disk(node).hang_in(operations, name) })
    });
    tsoracle_conformance::HungFiles {
        word: word.into(),
        hang: Fault { begin, end: does!(cluster, |running, node| running.disk(node).be_sound()) },
        ends_commits,
    }
}
