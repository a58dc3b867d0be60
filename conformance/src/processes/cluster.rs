use std::{env, fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use async_trait::async_trait;
use tempfile::TempDir;
use tsoracle_client::Client;
use tsoracle_core::Result;

use super::{
    Companion, Companions, ConfigOf, Site,
    disk::Disk,
    failed,
    network::Network,
    node::{Process, said},
    remote::{self, Remote, Riding},
};
use crate::{Cluster, Service};

/// The leader lease, which is the default.
const LEASE: Duration = Duration::from_secs(1);

/// When it is set, what clusters wrote is kept, and said where.
const KEEP: &str = "TSORACLE_CONFORMANCE_KEEP";

/// What the nodes log, if it is set: as of `--log`.
const LOG: &str = "TSORACLE_CONFORMANCE_LOG";

/// How long a call of a client may take: longer than anything here but what never ends.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Processes, and the network between them. Fields are dropped in this order.
pub(super) struct Processes {
    nodes: Vec<Option<Process>>,
    companions: Vec<Option<Process>>,
    network: Network,
    services: Vec<Arc<dyn Service>>,
    site: Site,
    binary: PathBuf,
    config: ConfigOf,
    disks: Vec<Disk>,
    companion: Option<Companions>,
    directory: Option<TempDir>,
}

impl Processes {
    pub(super) async fn start(harness: &super::Processes, count: usize) -> Result<Self> {
        let directory = TempDir::with_prefix("tsoracle-cluster-")?;
        let companions = harness.companions.clone();
        let beside = companions.as_ref().map_or((0, 0), |all| (all.count, all.ports));
        let (network, site) = Network::new(directory.path(), count, beside)?;
        let services =
            (0..count).map(|node| Remote::new(site.service(node))).collect::<Result<Vec<_>>>()?;
        let services = services.into_iter().map(|one| Arc::new(one) as Arc<dyn Service>).collect();
        let disks = Disk::all(&site, harness.state_file.as_deref())?;
        let mut cluster = Self {
            nodes: (0..count).map(|_| None).collect(),
            companions: (0..beside.0).map(|_| None).collect(),
            network,
            services,
            site,
            binary: harness.binary.clone(),
            config: harness.config.clone(),
            disks,
            companion: companions,
            directory: Some(directory),
        };
        for companion in 0..beside.0 {
            cluster.start_companion(companion).await?;
        }
        for node in 0..count {
            fs::create_dir(cluster.site.directory(node))?;
            Cluster::start(&mut cluster, node).await?;
        }
        Ok(cluster)
    }

    fn command(&self, node: usize) -> Command {
        let mut program = self.disks[node].holding(&self.binary).into_iter();
        let first = program.next().unwrap_or_default();
        let mut command = self.network.within(node, first.as_ref());
        command.args(program);
        let service = self.site.service(node).to_string();
        command.args(["serve", &(self.config)(&self.site, node), "--listen", &service]);
        if let Some(filter) = env::var_os(LOG) {
            command.arg("--log").arg(filter);
        }
        command.current_dir(self.site.directory(node));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("TSORACLE_") {
                command.env_remove(name);
            }
        }
        command
    }

    fn running(&self, node: usize) -> Result<&Process> {
        self.nodes[node].as_ref().ok_or_else(|| failed(format!("node {node} does not run")))
    }
}

fn name(node: usize) -> String {
    format!("node-{node}")
}

fn name_of_companion(companion: usize) -> String {
    format!("companion-{companion}")
}

#[async_trait]
impl Cluster for Processes {
    fn lease(&self) -> Duration {
        LEASE
    }

    fn service(&self, node: usize) -> Arc<dyn Service> {
        self.services[node].clone()
    }

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
        match self.nodes[node].take() {
            Some(process) => process.stop().await,
            None => Err(failed(format!("node {node} does not run"))),
        }
    }

    async fn kill(&mut self, node: usize) -> Result<()> {
        match self.nodes[node].take() {
            Some(process) => {
                drop(process);
                Ok(())
            }
            None => Err(failed(format!("node {node} does not run"))),
        }
    }

    async fn pause(&mut self, node: usize) -> Result<()> {
        self.running(node)?.pause().await
    }

    async fn resume(&mut self, node: usize) -> Result<()> {
        self.running(node)?.resume()
    }

    async fn cut_off(&mut self, node: usize) -> Result<()> {
        self.network.cut(node)
    }

    async fn heal(&mut self, node: usize) -> Result<()> {
        self.network.heal(node)
    }

    async fn cut_link(&mut self, one: usize, other: usize) -> Result<()> {
        self.network.cut_link(one, other)
    }

    async fn heal_link(&mut self, one: usize, other: usize) -> Result<()> {
        self.network.heal_link(one, other)
    }

    async fn wipe(&mut self, node: usize) -> Result<()> {
        if self.nodes[node].is_some() {
            return Err(failed(format!("node {node} runs, and cannot be wiped")));
        }
        let directory = self.site.directory(node);
        fs::remove_dir_all(&directory)?;
        Ok(fs::create_dir(directory)?)
    }

    async fn hang_disk(&mut self, node: usize) -> Result<()> {
        self.disks[node].hang().await
    }

    async fn mend_disk(&mut self, node: usize) -> Result<()> {
        self.disks[node].mend()
    }

    async fn lose_power(&mut self, node: usize) -> Result<()> {
        self.kill(node).await?;
        self.disks[node].lose()
    }

    async fn transfer(&mut self, node: usize) -> Result<()> {
        remote::transfer(self.site.service(node)).await
    }

    fn companions(&self) -> usize {
        self.companions.len()
    }

    async fn kill_companion(&mut self, companion: usize) -> Result<()> {
        match self.companions[companion].take() {
            Some(process) => {
                drop(process);
                Ok(())
            }
            None => Err(failed(format!("companion {companion} does not run"))),
        }
    }

    async fn start_companion(&mut self, companion: usize) -> Result<()> {
        let Some(all) = self.companion.as_ref().filter(|_| self.companions[companion].is_none())
        else {
            return Err(failed(format!("companion {companion} runs already")));
        };
        let Companion { command, ready } = (all.one)(&self.site, companion);
        let name = name_of_companion(companion);
        let process = Process::start(&name, command, &self.site.log(&name), ready).await?;
        self.companions[companion] = Some(process);
        Ok(())
    }

    fn client(&self) -> Result<Arc<dyn Service>> {
        let endpoints = (0..self.site.nodes()).map(|node| self.site.service(node).to_string());
        let client = Client::builder().endpoints(endpoints).timeout(CLIENT_TIMEOUT).build();
        Ok(Arc::new(Riding::new(client.map_err(failed)?)))
    }

    fn report(&self) -> String {
        let companions = (0..self.companions.len()).map(name_of_companion);
        let names = companions.chain((0..self.nodes.len()).map(name));
        names.map(|name| said(&name, &self.site.log(&name))).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if env::var_os(KEEP).is_some() {
            let kept = self.directory.take().map(TempDir::keep);
            eprintln!("kept: {kept:?}");
        }
    }
}
