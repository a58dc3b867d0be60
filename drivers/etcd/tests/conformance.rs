//! The conformance suite over the etcd driver, on a real etcd.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

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

use common::{Etcd, client, free_port, proxy_to, service::Service};
use tokio::{runtime::Builder, sync::OnceCell, time::timeout};
use tsoracle_conformance::{Config, Fault, Fixture, Shared, run};
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Error, ErrorKind, OpenContext, Registry, Result,
    SystemClock,
};
use tsoracle_etcd as _;
use tsoracle_testbed::proxy::Proxy;

/// Patient with a machine that is busy: a leader is dead after 1.5 s without an answer, and etcd has
/// 2 s for each.
const OPTIONS: &str = "ttl=5s&probe=1500ms&timeout=2s";

/// How long a driver may take to stop when its check is over.
const STOPPING: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    // One etcd for all checks, started by the first one, with a prefix for each.
    let etcd = Arc::default();
    run(move || fixture(&etcd))
}

fn fixture(etcd: &Arc<OnceCell<Etcd>>) -> Fixture {
    let prefix = Shared::new(Prefix::new(etcd.clone()));
    Fixture {
        contends: true,
        crash: Some(prefix.action(|prefix, ()| Box::pin(async { prefix.crash() }))),
        cut_off: Some(Fault {
            begin: prefix.action(|prefix, index| Box::pin(prefix.cut_off(index))),
            end: prefix.action(|prefix, index| Box::pin(async move { prefix.heal(index) })),
        }),
        lose_answers: Some(Fault {
            begin: prefix
                .action(|prefix, index| Box::pin(async move { prefix.lose_answers(index) })),
            end: prefix.action(|prefix, index| Box::pin(async move { prefix.heal(index) })),
        }),
        damage: Some(prefix.action(|prefix, ()| Box::pin(prefix.damage()))),
        config: Some(prefix.action(|prefix, ()| Box::pin(prefix.config()))),
        process: true,
        ..Fixture::new(prefix.action(|prefix, ()| Box::pin(prefix.open())))
    }
}

/// A prefix in etcd, and the drivers over it.
struct Prefix {
    etcd: Arc<OnceCell<Etcd>>,
    prefix: String,
    /// Where the services of drivers are: one that comes after a crash is where one was before.
    services: Vec<u16>,
    opened: Vec<Node>,
    crashed: Vec<Node>,
}

/// A driver, and what stands between it and everything else.
struct Node {
    driver: Arc<dyn ConsensusDriver>,
    proxy: Proxy,
    service: Service,
}

impl Prefix {
    fn new(etcd: Arc<OnceCell<Etcd>>) -> Self {
        static PREFIXES: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("state-{}", PREFIXES.fetch_add(1, Ordering::Relaxed));
        let (opened, crashed) = Default::default();
        Self { etcd, prefix, services: vec![free_port()], opened, crashed }
    }

    async fn etcd(&self) -> u16 {
        self.etcd.get_or_init(|| Etcd::single(&[])).await.members[0].port
    }

    fn string(&self, address: SocketAddr) -> String {
        format!("etcd://{address}/{}?{OPTIONS}", self.prefix)
    }

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        let proxy = proxy_to(self.etcd().await);
        let index = self.opened.len();
        let service = Service::start(self.services.get(index).copied().unwrap_or(0));
        self.services.truncate(index.max(1));
        match index {
            0 => self.services[0] = service.port(),
            _ => self.services.push(service.port()),
        }
        let config = DriverConfig::parse(&self.string(proxy.address()))?;
        let service_endpoint = Some(service.endpoint());
        let context = OpenContext { service_endpoint, ..OpenContext::default() };
        let driver = Registry::linked()?.open(config, context).await?;
        self.opened.push(Node { driver: driver.clone(), proxy, service });
        Ok(driver)
    }

    fn crash(&mut self) -> Result<()> {
        for node in self.opened.drain(..) {
            node.proxy.close();
            node.service.proxy.close();
            self.crashed.push(node);
        }
        Ok(())
    }

    async fn cut_off(&mut self, index: usize) -> Result<()> {
        let node = &self.opened[index];
        node.proxy.hang();
        node.service.proxy.hang();
        let endpoint = node.service.endpoint();
        let mut client = client(self.etcd().await).await;
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

    fn lose_answers(&mut self, index: usize) -> Result<()> {
        self.opened[index].proxy.hang_answers();
        Ok(())
    }

    fn heal(&mut self, index: usize) -> Result<()> {
        self.opened[index].proxy.open();
        self.opened[index].service.proxy.open();
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        let key = format!("{}/state:v", self.prefix);
        let written = client(self.etcd().await).await.put(key, "garbage", None).await;
        written.map(drop).map_err(|error| Error::new(ErrorKind::Unavailable, error.to_string()))
    }

    async fn config(&mut self) -> Result<Config> {
        let string = self.string(common::member(self.etcd().await));
        let service_endpoint = Some(format!("127.0.0.1:{}", self.services[0]));
        Ok(Config { string, service_endpoint })
    }
}

/// Once the check is over, everything is stopped.
impl Drop for Prefix {
    fn drop(&mut self) {
        let nodes: Vec<_> = self.opened.drain(..).collect();
        if nodes.is_empty() {
            return;
        }
        let stopping = thread::spawn(move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                for node in nodes {
                    node.proxy.open();
                    // What it ends with is of no interest any more.
                    let _ = timeout(STOPPING, node.driver.shutdown()).await;
                    node.proxy.close();
                    node.service.proxy.close();
                }
            });
        });
        // The drivers' tasks have to go on meanwhile, and may be this worker's.
        let _ = tokio::task::block_in_place(|| stopping.join());
    }
}
