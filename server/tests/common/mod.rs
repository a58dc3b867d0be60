//! A driver that does as it is told, servers over it, and a client that speaks HTTP/2 by hand.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod driver;
pub(crate) mod raw;

use std::{net::SocketAddr, sync::Arc};

use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Channel;
use tsoracle_core::{ConsensusDriver, LocalDriver, MemoryStore, Oracle, Phase, Result};
use tsoracle_proto::v1::{
    sequence_service_client::SequenceServiceClient, tso_service_client::TsoServiceClient,
};
use tsoracle_server::{Builder, Server};

/// A server that runs in this process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) oracle: Oracle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    /// Runs what was built, on a free port.
    pub(crate) async fn start(builder: Builder) -> Self {
        let server = builder.build().expect("the options are right");
        let listening = server.bind("127.0.0.1:0").await.expect("a port is free");
        let (place, oracle) = (listening.place().clone(), listening.oracle().clone());
        let address = place.address().expect("it is on the network");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(listening.serve_with_shutdown(async {
            let _ = stopped.await;
        }));
        Self { address, oracle, stop: Some(stop), task }
    }

    /// Runs over a driver, under default options.
    pub(crate) async fn over(driver: Arc<dyn ConsensusDriver>) -> Self {
        Self::start(Server::builder().driver(driver)).await
    }

    /// Runs over memory, and serves.
    pub(crate) async fn in_memory() -> Self {
        let running = Self::over(memory().await).await;
        running.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
        running
    }

    /// Waits until the oracle is in such a phase.
    pub(crate) async fn reach(&self, wanted: impl Fn(&Phase) -> bool) {
        self.oracle.phase().wait_for(wanted).await.expect("the oracle runs");
    }

    /// Begins to stop.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Stops, and says how that went.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.begin_stop();
        self.ended().await
    }

    /// Waits until it has stopped by itself.
    pub(crate) async fn ended(self) -> Result<()> {
        self.task.await.expect("serving does not panic")
    }

    pub(crate) async fn channel(&self) -> Channel {
        channel(self.address).await
    }

    pub(crate) async fn tso(&self) -> TsoServiceClient<Channel> {
        TsoServiceClient::new(self.channel().await)
    }

    pub(crate) async fn sequences(&self) -> SequenceServiceClient<Channel> {
        SequenceServiceClient::new(self.channel().await)
    }
}

pub(crate) async fn channel(address: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a valid address");
    endpoint.connect().await.expect("the server listens")
}

pub(crate) async fn memory() -> Arc<dyn ConsensusDriver> {
    LocalDriver::open(MemoryStore::default()).await.expect("memory opens")
}
