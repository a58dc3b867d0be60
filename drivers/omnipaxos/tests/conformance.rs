//! The conformance suite over a cluster of three nodes in this process.
//!
//! Clusters of processes, which are killed, paused and cut off, are in the suite of the server.

mod common;

use std::{fs, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
};
use tsoracle_conformance::{Config, Fault, Fixture, Shared, run};
use tsoracle_core::{Clock, ConsensusDriver, Error, ErrorKind, Leadership, Result, SystemClock};

use self::common::Nodes;

/// How often the warden looks who leads.
const LOOK: Duration = Duration::from_millis(20);

/// Slow enough that no node of a loaded machine is taken for dead.
const OPTIONS: &str = "&heartbeat=50ms&election=1s";

fn main() -> ExitCode {
    run(fixture)
}

fn fixture() -> Fixture {
    let nodes = Shared::new(ThreeNodes::default());
    Fixture {
        contends: true,
        crash: Some(nodes.action(|nodes, ()| Box::pin(nodes.crash()))),
        cut_off: Some(Fault {
            begin: nodes.action(|nodes, index| Box::pin(nodes.cut_off(index))),
            end: nodes.action(|nodes, index| Box::pin(nodes.heal(index))),
        }),
        damage: Some(nodes.action(|nodes, ()| Box::pin(nodes.damage()))),
        config: Some(nodes.action(|nodes, ()| Box::pin(nodes.config()))),
        ..Fixture::new(nodes.action(|nodes, ()| Box::pin(nodes.open())))
    }
}

/// Three nodes, all running from the first opening on. The driver that is opened is that of the one
/// that leads; a contender's is that of one that follows.
#[derive(Default)]
struct ThreeNodes {
    running: Option<Running>,
}

struct Running {
    cluster: Arc<Mutex<Cluster>>,
    warden: JoinHandle<()>,
}

struct Cluster {
    nodes: Nodes,
    /// Which node the driver opened as number so much is of, and whether it is running.
    opened: Vec<Opened>,
}

struct Opened {
    node: usize,
    driver: Arc<dyn ConsensusDriver>,
}

impl Opened {
    /// A driver that was stopped has closed its channel.
    fn is_running(&self) -> bool {
        self.driver.leadership().has_changed().is_ok()
    }
}

impl Cluster {
    fn is_opened(&self, node: usize) -> bool {
        self.opened.iter().any(|opened| opened.node == node && opened.is_running())
    }

    /// The nodes whose drivers were not given out.
    fn others(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| !self.is_opened(*node)).collect()
    }

    async fn start_stopped(&mut self) -> Result<()> {
        for opened in &self.opened {
            if !opened.is_running()
                && self
                    .nodes
                    .driver(opened.node)
                    .is_some_and(|driver| Arc::ptr_eq(&driver, &opened.driver))
            {
                // The check has asked it to stop, and may have given up waiting.
                opened.driver.shutdown().await?;
                self.nodes.forget(opened.node);
            }
        }
        self.nodes.start_all().await
    }
}

/// Has a node whose driver was not given out hand over as soon as it leads, for as long as one that
/// was given out could lead.
async fn keep_others_from_leading(cluster: Arc<Mutex<Cluster>>) {
    loop {
        let mut locked = cluster.lock().await;
        let some_is_open = locked.opened.iter().any(Opened::is_running);
        for node in locked.others() {
            let Some(driver) = locked.nodes.driver(node) else { continue };
            let leads = matches!(*driver.leadership().borrow(), Leadership::Leader { .. });
            let was_given_out =
                locked.opened.iter().any(|opened| Arc::ptr_eq(&opened.driver, &driver));
            if leads && some_is_open && !was_given_out {
                locked.nodes.stop(node).await.expect("a healthy node stops");
                locked.nodes.start(node).await.expect("a healthy node starts");
            }
        }
        drop(locked);
        SystemClock.sleep(LOOK).await;
    }
}

impl ThreeNodes {
    async fn lock(&mut self) -> MutexGuard<'_, Cluster> {
        if self.running.is_none() {
            let nodes = Nodes::new(3, OPTIONS).await;
            let cluster = Arc::new(Mutex::new(Cluster { nodes, opened: vec![] }));
            let warden = tokio::spawn(keep_others_from_leading(cluster.clone()));
            self.running = Some(Running { cluster, warden });
        }
        self.running.as_ref().expect("it was just made").cluster.lock().await
    }

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let mut cluster = self.lock().await;
        cluster.start_stopped().await?;
        let is_contender = cluster.opened.iter().any(Opened::is_running);
        let node = match is_contender {
            false => cluster.nodes.leader().await.0,
            true => *cluster.others().first().ok_or_else(|| {
                Error::new(ErrorKind::Config, "there are no more nodes than three")
            })?,
        };
        let driver = cluster.nodes.driver(node).expect("all nodes were started");
        cluster.opened.push(Opened { node, driver: driver.clone() });
        Ok(driver)
    }

    async fn crash(&mut self) -> Result<()> {
        let mut cluster = self.lock().await;
        cluster.nodes.crash().await;
        cluster.opened.clear();
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let cluster = self.lock().await;
        let cut = cluster.opened[index].node;
        cluster.nodes.set_links(cut, false);
        let others: Vec<_> = (0..cluster.nodes.len()).filter(|node| *node != cut).collect();
        cluster.nodes.leader_among(&others).await;
        Ok(())
    }

    async fn heal(&mut self, index: usize) -> Result<()> {
        let cluster = self.lock().await;
        cluster.nodes.set_links(cluster.opened[index].node, true);
        Ok(())
    }

    /// Damages the state of the node that was stopped.
    async fn damage(&mut self) -> Result<()> {
        let cluster = self.lock().await;
        for opened in cluster.opened.iter().filter(|opened| !opened.is_running()) {
            for entry in fs::read_dir(cluster.nodes.directory(opened.node).join("state.journal"))? {
                let file = entry?.path();
                let mut bytes = fs::read(&file)?;
                bytes.iter_mut().skip(64).for_each(|byte| *byte ^= 0x10);
                fs::write(file, bytes)?;
            }
        }
        Ok(())
    }

    async fn config(&mut self) -> Result<Config> {
        let string = self.lock().await.nodes.config(0);
        Ok(Config { string, service_endpoint: None })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.warden.abort();
    }
}
