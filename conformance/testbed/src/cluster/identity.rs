//! Processes that are not who they say, and nodes that come in the place of others.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::time::timeout;

use tsoracle_conformance::{Double, Service as _};
use tsoracle_core::{Clock as _, Result, SystemClock};

use super::{Running, name};
use crate::{
    deployed::beside,
    failed,
    node::Process,
    remote::{self, Remote},
};

/// How long a change of members may take, with all nodes well.
const CHANGED: Duration = Duration::from_secs(30);

/// What a node ends with that is not of the cluster any more.
const EXCLUDED: i32 = 3;

/// How long a double is given to answer, if it serves.
const SOON: Duration = Duration::from_secs(1);

/// How often a change is tried again.
const LOOK: Duration = Duration::from_millis(50);

impl Running {
    /// What the node has is put aside. Some drivers refuse to start so, others to go on.
    pub(super) async fn begin_stray(&mut self, node: usize) -> Result<()> {
        self.put_aside(node)?;
        drop(self.start(node).await);
        Ok(())
    }

    pub(super) fn end_stray(&mut self, node: usize) -> Result<()> {
        drop(self.nodes[node].take());
        let directory = self.site.directory(node);
        fs::remove_dir_all(&directory)?;
        Ok(fs::rename(directory.with_extension("aside"), directory)?)
    }

    /// Forms another cluster where this one is, and puts its nodes aside.
    pub(super) async fn form_another(&mut self) -> Result<()> {
        let nodes = 0..self.site.nodes();
        for node in nodes.clone() {
            self.kill(node)?;
            self.put_aside(node)?;
        }
        let mut others = BTreeMap::new();
        for node in nodes.clone() {
            let site = &self.site;
            // Those who ask the nodes are not to hear from it.
            let listen = beside(site.service(node));
            let command = self.serve(self.within(node), site, node, listen);
            let name = format!("{}-foreign", name(node));
            let process = Process::start(&name, command, &site.log(&name), listen).await?;
            others.insert(node, process);
        }
        // The second leader is elected under a later term.
        for _ in 0..2 {
            let leader = self.leader_of_doubles().await?;
            drop(others.remove(&leader));
        }
        drop(others);
        for node in nodes {
            let directory = self.site.directory(node);
            fs::rename(&directory, self.foreign(node))?;
            fs::rename(directory.with_extension("aside"), directory)?;
            self.start(node).await?;
        }
        Ok(())
    }

    fn within(&self, node: usize) -> Command {
        self.network.within(node, &self.binary)
    }

    fn foreign(&self, node: usize) -> PathBuf {
        self.site.directory(node).with_extension("foreign")
    }

    fn put_aside(&self, node: usize) -> Result<()> {
        let directory = self.site.directory(node);
        fs::rename(&directory, directory.with_extension("aside"))?;
        Ok(fs::create_dir(directory)?)
    }

    /// The node beside which one serves.
    async fn leader_of_doubles(&self) -> Result<usize> {
        let until = SystemClock.now().boot + CHANGED;
        while SystemClock.now().boot < until {
            for node in 0..self.site.nodes() {
                let double = Remote::new(beside(self.site.service(node)))?;
                if let Ok(Ok(_)) = timeout(SOON, double.get_ts(1)).await {
                    return Ok(node);
                }
            }
            SystemClock.sleep(LOOK).await;
        }
        Err(failed("the other cluster does not serve"))
    }

    pub(super) async fn begin_double(&mut self, node: usize, of: Double) -> Result<()> {
        let site = self.site.of_double();
        let directory = site.directory(node);
        match of {
            Double::Copy => {
                self.kill(node)?;
                copy(&self.site.directory(node), &directory)?;
                self.start(node).await?;
            }
            Double::Empty => fs::create_dir(&directory)?,
            Double::Foreign => fs::rename(self.foreign(node), &directory)?,
        }
        let name = format!("{}-double", name(node));
        let listen = beside(site.service(node));
        let command = self.serve(self.within(node), &site, node, listen);
        // Whether it starts is up to the driver.
        if let Ok(double) = Process::start(&name, command, &site.log(&name), listen).await {
            self.doubles.insert(node, double);
        }
        Ok(())
    }

    pub(super) async fn end_double(&mut self, node: usize, of: Double) -> Result<()> {
        let site = self.site.of_double();
        let asked = async {
            if !self.doubles.contains_key(&node) {
                return None;
            }
            Remote::new(beside(site.service(node))).ok()?.get_ts(1).await.ok()
        };
        let granted = timeout(SOON, asked).await;
        drop(self.doubles.remove(&node));
        match of {
            Double::Foreign => fs::rename(site.directory(node), self.foreign(node))?,
            Double::Copy | Double::Empty => fs::remove_dir_all(site.directory(node))?,
        }
        match granted {
            Ok(Some(granted)) => {
                Err(failed(format!("the double of node {node} granted {granted:?}")))
            }
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Lets it go for good, which it learns, and ends.
    pub(super) async fn remove(&mut self, node: usize) -> Result<()> {
        self.change(remote::remove(self.id(node))).await?;
        if let Some(process) = self.nodes[node].take() {
            process.ends_with(EXCLUDED).await?;
        }
        self.wipe(node)?;
        self.site.replaced[node] += 1;
        Ok(())
    }

    /// Starts another one in its place, and gives it a vote.
    pub(super) async fn replace(&mut self, node: usize) -> Result<()> {
        self.start(node).await?;
        let (id, peer, service) = (self.id(node), self.site.peer(node), self.site.service(node));
        self.change(remote::add(id, peer, service)).await?;
        self.change(remote::promote(id)).await
    }

    fn id(&self, node: usize) -> u64 {
        self.site.id(node).into()
    }

    /// Asks all nodes for a change until one has made it.
    async fn change(&self, change: remote::Change) -> Result<()> {
        let until = SystemClock.now().boot + CHANGED;
        loop {
            let mut last = None;
            for node in 0..self.site.nodes() {
                match remote::change(self.site.service(node), change.clone()).await {
                    Ok(()) => return Ok(()),
                    Err(error) => last = Some(error),
                }
            }
            if SystemClock.now().boot >= until {
                return Err(last.unwrap_or_else(|| failed("the cluster has no nodes to ask")));
            }
            SystemClock.sleep(LOOK).await;
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(failed(format!("cannot copy {}", from.display()))),
    }
}
