//! The conformance suite over the etcd driver, on a real etcd.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use common::{Etcd, client, free_port, line::Line};
use tokio::{runtime::Builder, sync::OnceCell, time::timeout};
use tsoracle_conformance::{Ability, Harness, Place, run};
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Error, ErrorKind, OpenContext, Registry, Result,
    SystemClock,
};
use tsoracle_etcd as _;

/// Patient with a machine that is busy: a leader is dead after 1.5 s without an answer, and etcd has
/// 2 s for each.
const OPTIONS: &str = "ttl=5s&probe=1500ms&timeout=2s";

/// How long a driver may take to stop when its check is over.
const STOPPING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if !common::is_there() {
        return ExitCode::SUCCESS;
    }
    run(Rig::default())
}

/// One etcd for all checks, started by the first one, with a prefix for each.
#[derive(Default)]
struct Rig {
    etcd: Arc<OnceCell<Etcd>>,
    places: AtomicU64,
}

#[async_trait]
impl Harness for Rig {
    fn lacks(&self, ability: Ability) -> Option<String> {
        let reason = match ability {
            Ability::Lock => "any number of nodes may be open over one prefix",
            Ability::LosePower | Ability::FailStorage => "etcd keeps the state, not the driver",
            Ability::Store => "the state is in etcd",
            Ability::Cluster
            | Ability::Pause
            | Ability::Partition
            | Ability::Wipe
            | Ability::HangDisk
            | Ability::Client
            | Ability::Transfer
            | Ability::Companion => "clusters are made of processes of the server",
            _ => return None,
        };
        Some(reason.into())
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        // Kept by every place, so that it ends with the last one.
        let etcd = self.etcd.get_or_init(|| Etcd::single(&[])).await;
        let number = self.places.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Prefix::new(etcd.members[0].port, format!("place-{number}"), free_port())))
    }

    async fn place_named(&self, name: &str) -> Result<Box<dyn Place>> {
        let parts: Vec<_> = name.split(' ').collect();
        let port = |text: &str| text.parse::<u16>().unwrap();
        Ok(Box::new(Prefix::new(port(parts[0]), parts[1].into(), port(parts[2]))))
    }
}

/// A prefix in etcd, and the drivers over it.
struct Prefix {
    etcd: u16,
    prefix: String,
    /// Where the services of drivers are: one that comes after a crash is where one was before.
    services: Vec<u16>,
    opened: Vec<Node>,
    crashed: Vec<Node>,
}

/// A driver, and its lines to everything else.
struct Node {
    driver: Arc<dyn ConsensusDriver>,
    line: Line,
    service: Line,
}

impl Prefix {
    fn new(etcd: u16, prefix: String, service: u16) -> Self {
        Self { etcd, prefix, services: vec![service], opened: vec![], crashed: vec![] }
    }

    fn string(&self, port: u16) -> String {
        format!("etcd://127.0.0.1:{port}/{}?{OPTIONS}", self.prefix)
    }
}

#[async_trait]
impl Place for Prefix {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let line = Line::to(self.etcd);
        let index = self.opened.len();
        let service = Line::service(self.services.get(index).copied().unwrap_or(0));
        self.services.truncate(index.max(1));
        match index {
            0 => self.services[0] = service.port,
            _ => self.services.push(service.port),
        }
        let config = DriverConfig::parse(&self.string(line.port))?;
        let service_endpoint = Some(format!("127.0.0.1:{}", service.port));
        let context = OpenContext { service_endpoint };
        let driver = Registry::linked()?.open(config, context).await?;
        self.opened.push(Node { driver: driver.clone(), line, service });
        Ok(driver)
    }

    async fn crash(&mut self) -> Result<()> {
        for node in self.opened.drain(..) {
            node.line.close();
            node.service.close();
            self.crashed.push(node);
        }
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let node = &self.opened[index];
        node.line.stall();
        node.service.stall();
        let endpoint = format!("127.0.0.1:{}", node.service.port);
        let mut client = client(self.etcd).await;
        loop {
            let leader = client.get(format!("{}/leader", self.prefix), None).await;
            let leader = leader.map_err(|error| {
                Error::new(ErrorKind::Unavailable, "etcd does not answer").with_source(error)
            })?;
            if leader.kvs().first().is_none_or(|leader| leader.value() != endpoint.as_bytes()) {
                return Ok(());
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    }

    async fn heal(&mut self, index: usize) -> Result<()> {
        self.opened[index].line.open();
        self.opened[index].service.open();
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        let key = format!("{}/state:v", self.prefix);
        let written = client(self.etcd).await.put(key, "garbage", None).await;
        written.map(drop).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
    }

    fn config(&self) -> Result<String> {
        Ok(self.string(self.etcd))
    }

    fn name(&self) -> Result<String> {
        Ok(format!("{} {} {}", self.etcd, self.prefix, self.services[0]))
    }
}

/// Once the check is over, everything is stopped.
impl Drop for Prefix {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.opened.drain(..).collect();
        let stopping = thread::spawn(move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                for node in nodes {
                    node.line.open();
                    // What it ends with is of no interest any more.
                    let _ = timeout(STOPPING, node.driver.shutdown()).await;
                    node.line.close();
                    node.service.close();
                }
            });
        });
        // The drivers' tasks have to go on meanwhile, and may be this worker's.
        let _ = tokio::task::block_in_place(|| stopping.join());
    }
}
