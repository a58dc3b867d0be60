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

use common::{Server, Template, client, string};
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
    // Each check has a server of its own, with a copy of a state that the first one makes.
    let template = Arc::default();
    run(move || fixture(&template))
}

fn fixture(template: &Arc<OnceCell<Template>>) -> Fixture {
    let nodes = Shared::new(Nodes::over(template.clone()));
    Fixture {
        contends: true,
        crash: Some(nodes.action(|nodes, ()| Box::pin(async { nodes.crash() }))),
        lose_power: Some(nodes.action(|nodes, ()| Box::pin(nodes.lose_power()))),
        cut_off: Some(Fault {
            begin: nodes.action(|nodes, index| Box::pin(nodes.cut_off(index))),
            end: nodes.action(|nodes, index| Box::pin(async move { nodes.heal(index) })),
        }),
        lose_answers: Some(Fault {
            begin: nodes.action(|nodes, index| Box::pin(async move { nodes.lose_answers(index) })),
            end: nodes.action(|nodes, index| Box::pin(async move { nodes.heal(index) })),
        }),
        damage: Some(nodes.action(|nodes, ()| Box::pin(nodes.damage()))),
        config: Some(nodes.action(|nodes, ()| Box::pin(nodes.config()))),
        process: true,
        ..Fixture::new(nodes.action(|nodes, ()| Box::pin(nodes.open())))
    }
}

/// A server, and the drivers over it.
struct Nodes {
    template: Arc<OnceCell<Template>>,
    server: Option<Server>,
    open: Vec<Node>,
    crashed: Vec<Node>,
}

/// A driver, and its way to the server.
struct Node {
    driver: Arc<dyn ConsensusDriver>,
    proxy: Proxy,
    name: String,
}

impl Nodes {
    fn over(template: Arc<OnceCell<Template>>) -> Self {
        Self { template, server: None, open: vec![], crashed: vec![] }
    }

    async fn address(&mut self) -> SocketAddr {
        if self.server.is_none() {
            let template = self.template.get_or_init(async || Template::new()).await;
            self.server = Some(template.server().await);
        }
        self.server.as_ref().unwrap().address
    }

    /// Patient with a machine that is busy.
    fn string(connection: &str) -> String {
        format!("postgres:{connection}?ttl=3s&timeout=5s")
    }

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("node-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let proxy = Proxy::to(self.address().await).unwrap();
        let connection = format!("{} application_name={name}", string(proxy.address()));
        let config = DriverConfig::parse(&Self::string(&connection))?;
        let driver = Registry::linked()?.open(config, OpenContext::default()).await?;
        self.open.push(Node { driver: driver.clone(), proxy, name });
        Ok(driver)
    }

    fn crash(&mut self) -> Result<()> {
        for node in self.open.drain(..) {
            node.proxy.close();
            self.crashed.push(node);
        }
        Ok(())
    }

    async fn lose_power(&mut self) -> Result<()> {
        self.crash()?;
        self.server.as_mut().unwrap().lose_power().await;
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let client = client(self.address().await).await;
        let node = &self.open[index];
        node.proxy.hang();
        let locks = "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) \
                     WHERE locktype = 'advisory' AND application_name = $1";
        while !client.query(locks, &[&node.name]).await.unwrap().is_empty() {
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn lose_answers(&mut self, index: usize) -> Result<()> {
        self.open[index].proxy.hang_answers();
        Ok(())
    }

    fn heal(&mut self, index: usize) -> Result<()> {
        self.open[index].proxy.open();
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        let damage = "UPDATE tsoracle SET value = 'garbage' WHERE key = 'v'";
        let damaged = client(self.address().await).await.batch_execute(damage).await;
        damaged.map_err(|error| Error::new(ErrorKind::Fatal, "no damage").with_source(error))
    }

    async fn config(&mut self) -> Result<Config> {
        let string = Self::string(&string(self.address().await));
        Ok(Config { string, service_endpoint: None })
    }
}

/// Once the check is over, everything is stopped.
impl Drop for Nodes {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.open.drain(..).collect();
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
