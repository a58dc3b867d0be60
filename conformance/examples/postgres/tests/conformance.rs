//! The conformance suite over the PostgreSQL driver, on a real server.

mod common;

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{Server, client, string};
use tokio::{runtime::Builder, sync::OnceCell, time::timeout};
use tsoracle_conformance::{Config, Fault, Fixture, Shared, run};
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Error, ErrorKind, OpenContext, Registry, Result,
    SystemClock,
};
use tsoracle_postgres as _;
use tsoracle_testbed::proxy::Proxy;

/// How long a driver may take to stop when its check is over.
const STOPPING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // One server for all checks, started by the first one, with a table for each.
    let server = Arc::default();
    run(move || fixture(&server))
}

fn fixture(server: &Arc<OnceCell<Server>>) -> Fixture {
    let table = Shared::new(Table::new(server.clone()));
    Fixture {
        contends: true,
        crash: Some(table.action(|table, ()| Box::pin(async { table.crash() }))),
        cut_off: Some(Fault {
            begin: table.action(|table, index| Box::pin(table.cut_off(index))),
            end: table.action(|table, index| Box::pin(async move { table.heal(index) })),
        }),
        damage: Some(table.action(|table, ()| Box::pin(table.damage()))),
        config: Some(table.action(|table, ()| Box::pin(table.config()))),
        process: true,
        ..Fixture::new(table.action(|table, ()| Box::pin(table.open())))
    }
}

/// A table, and the drivers over it.
struct Table {
    server: Arc<OnceCell<Server>>,
    table: String,
    nodes: Vec<Node>,
    crashed: Vec<Node>,
}

/// A driver, and its way to the server.
struct Node {
    driver: Arc<dyn ConsensusDriver>,
    proxy: Proxy,
    name: String,
}

impl Table {
    fn new(server: Arc<OnceCell<Server>>) -> Self {
        static TABLES: AtomicU64 = AtomicU64::new(0);
        let table = format!("state_{}", TABLES.fetch_add(1, Ordering::Relaxed));
        Self { server, table, nodes: vec![], crashed: vec![] }
    }

    async fn address(&self) -> SocketAddr {
        self.server.get_or_init(Server::start).await.address
    }

    /// Patient with a machine that is busy.
    fn string(&self, connection: &str) -> String {
        format!("postgres:{connection}?table={}&ttl=3s&timeout=5s", self.table)
    }

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("node-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let proxy = Proxy::to(self.address().await).unwrap();
        let connection = format!("{} application_name={name}", string(proxy.address()));
        let config = DriverConfig::parse(&self.string(&connection))?;
        let driver = Registry::linked()?.open(config, OpenContext::default()).await?;
        self.nodes.push(Node { driver: driver.clone(), proxy, name });
        Ok(driver)
    }

    fn crash(&mut self) -> Result<()> {
        for node in self.nodes.drain(..) {
            node.proxy.close();
            self.crashed.push(node);
        }
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        node.proxy.hang();
        let client = client(self.address().await).await;
        let locks = "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE locktype = 'advisory' AND application_name = $1";
        while !client.query(locks, &[&node.name]).await.unwrap().is_empty() {
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn heal(&mut self, index: usize) -> Result<()> {
        self.nodes[index].proxy.open();
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        let damage = format!("UPDATE {} SET value = 'garbage' WHERE key = 'v'", self.table);
        let damaged = client(self.address().await).await.batch_execute(&damage).await;
        damaged.map_err(|error| Error::new(ErrorKind::Fatal, "no damage").with_source(error))
    }

    async fn config(&mut self) -> Result<Config> {
        let string = self.string(&string(self.address().await));
        Ok(Config { string, service_endpoint: None })
    }
}

/// Once the check is over, everything is stopped.
impl Drop for Table {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.nodes.drain(..).collect();
        if nodes.is_empty() {
            return;
        }
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
