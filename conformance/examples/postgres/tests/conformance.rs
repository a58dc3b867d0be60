//! The conformance suite over the PostgreSQL driver, on a real server.

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
use common::{Server, client, proxy::Proxy, string};
use tokio::{runtime::Builder, sync::OnceCell, time::timeout};
use tsoracle_conformance::{Ability, Harness, Place, run};
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Error, ErrorKind, OpenContext, Registry, Result,
    SystemClock,
};
use tsoracle_postgres as _;

/// How long a driver may take to stop when its check is over.
const STOPPING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    run(Fixture::default())
}

/// One server for all checks, with a table for each.
#[derive(Default)]
struct Fixture {
    server: OnceCell<Arc<Server>>,
    tables: AtomicU64,
}

#[async_trait]
impl Harness for Fixture {
    fn lacks(&self, ability: Ability) -> Option<String> {
        let reason = match ability {
            Ability::Reopen
            | Ability::Crash
            | Ability::Contend
            | Ability::CutOff
            | Ability::Damage
            | Ability::Configure
            | Ability::Process => return None,
            Ability::Lock => "any number of nodes may be open over one table",
            Ability::LosePower | Ability::FailStorage => "the server keeps the state",
            Ability::Store => "the state is in the server",
            _ => "clusters are made of processes: tests/cluster.rs",
        };
        Some(reason.into())
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        let start = async || Arc::new(Server::start().await);
        let server = self.server.get_or_init(start).await;
        let number = self.tables.fetch_add(1, Ordering::Relaxed);
        let (address, table) = (server.address, format!("state_{number}"));
        let (server, nodes) = (Some(server.clone()), vec![]);
        Ok(Box::new(Table { address, table, nodes, crashed: vec![], _server: server }))
    }

    async fn place_named(&self, name: &str) -> Result<Box<dyn Place>> {
        let (address, table) = name.split_once(' ').unwrap();
        let (address, table) = (address.parse().unwrap(), table.into());
        Ok(Box::new(Table { address, table, nodes: vec![], crashed: vec![], _server: None }))
    }
}

/// A table, and the drivers over it.
struct Table {
    address: std::net::SocketAddr,
    table: String,
    nodes: Vec<Node>,
    crashed: Vec<Node>,
    /// Ends with the last check.
    _server: Option<Arc<Server>>,
}

/// A driver, and its way to the server.
struct Node {
    driver: Arc<dyn ConsensusDriver>,
    proxy: Proxy,
    name: String,
}

impl Table {
    /// Patient with a machine that is busy.
    fn string(&self, connection: &str) -> String {
        format!("postgres:{connection}?table={}&ttl=3s&timeout=5s", self.table)
    }
}

#[async_trait]
impl Place for Table {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("node-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let proxy = Proxy::to(self.address);
        let connection = format!("{} application_name={name}", string(proxy.address));
        let config = DriverConfig::parse(&self.string(&connection))?;
        let driver = Registry::linked()?.open(config, OpenContext::default()).await?;
        self.nodes.push(Node { driver: driver.clone(), proxy, name });
        Ok(driver)
    }

    async fn crash(&mut self) -> Result<()> {
        for node in self.nodes.drain(..) {
            node.proxy.close();
            self.crashed.push(node);
        }
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        node.proxy.stall();
        let client = client(self.address).await;
        let locks = "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE locktype = 'advisory' AND application_name = $1";
        while !client.query(locks, &[&node.name]).await.unwrap().is_empty() {
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn heal(&mut self, index: usize) -> Result<()> {
        self.nodes[index].proxy.open();
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        let damage = format!("UPDATE {} SET value = 'garbage' WHERE key = 'v'", self.table);
        let damaged = client(self.address).await.batch_execute(&damage).await;
        damaged.map_err(|error| Error::new(ErrorKind::Fatal, "no damage").with_source(error))
    }

    fn config(&self) -> Result<String> {
        Ok(self.string(&string(self.address)))
    }

    fn name(&self) -> Result<String> {
        Ok(format!("{} {}", self.address, self.table))
    }
}

/// Once the check is over, everything is stopped.
impl Drop for Table {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.nodes.drain(..).collect();
        let stopping = thread::spawn(move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                for node in nodes {
                    node.proxy.open();
                    // How it ends is of no interest any more.
                    let _ = timeout(STOPPING, node.driver.shutdown()).await;
                    node.proxy.close();
                }
            });
        });
        // The drivers' tasks have to go on meanwhile, and may be this worker's.
        let _ = tokio::task::block_in_place(|| stopping.join());
    }
}
