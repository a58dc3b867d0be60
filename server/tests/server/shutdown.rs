//! Stopping.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::net::TcpStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tsoracle_core::{
    BootTime, ConsensusDriver, Effect, ErrorKind, Leadership, LocalDriver, Membership, MemoryStore,
    Oracle, OracleOptions, Outcome, Phase, Reads, Snapshot, Version,
    state::{REIGN, Record},
};
use tsoracle_proto::v1;
use tsoracle_server::{Limits, Server};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    memory,
};

fn seq() -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: "k".into(), count: 1, request_id: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_under_load_loses_nothing_that_was_acknowledged() {
    let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
    let mut server = Running::over(driver.clone()).await;
    let mut askers = Vec::new();
    for _ in 0..32 {
        let mut client = server.tso().await;
        askers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Ok(answer) = client.get_seq(seq()).await {
                got.push(answer.get_ref().start);
            }
            got
        }));
    }
    let mut client = server.tso().await;
    while client.get_seq(seq()).await.unwrap().get_ref().start < 500 {}
    server.begin_stop();
    server.ended().await.unwrap();
    let mut seen = BTreeSet::new();
    for asker in askers {
        for value in asker.await.unwrap() {
            assert!(seen.insert(value), "{value} was given out twice");
        }
    }
    assert!(!seen.is_empty());
}

#[tokio::test]
async fn what_was_submitted_is_answered_and_the_lease_released() {
    let driver = Scripted::leader();
    let mut server = Running::over(driver.clone()).await;
    let mut client = server.tso().await;
    client.get_seq(seq()).await.unwrap();
    driver.behave(Manner::Hang);
    let mut waits = client.clone();
    let submitted = tokio::spawn(async move { waits.get_seq(seq()).await });
    driver.has_begun(2).await;
    server.begin_stop();
    driver.behave(Manner::Commit);
    assert_eq!(submitted.await.unwrap().unwrap().get_ref().start, 1);
    server.ended().await.unwrap();
    let stored = driver.read(&Reads::keys([REIGN])).await.unwrap().values.remove(0).unwrap();
    let Record::Reign(reign) = Record::decode(REIGN, stored).unwrap() else { panic!("another") };
    assert!(reign.released);
}

#[tokio::test]
async fn the_socket_closes() {
    let server = Running::in_memory().await;
    let address = server.address;
    server.stop().await.unwrap();
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn whoever_does_not_go_is_not_waited_for() {
    let limits = Limits { drain_time: Duration::from_millis(50), ..Limits::default() };
    let server = Running::start(Server::builder().driver(memory().await).limits(limits)).await;
    let mut client = HealthClient::new(server.channel().await);
    // A watch never ends by itself.
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    server.stop().await.unwrap();
    while let Ok(Some(_)) = watch.message().await {}
}

/// Whatever its calls may take when it stops: it has failed, and answers none any more.
#[tokio::test]
async fn whoever_does_not_leave_a_server_that_has_failed_is_not_waited_for() {
    let driver = Scripted::leader();
    let limits = Limits { drain_time: Duration::from_secs(3_600), ..Limits::default() };
    let server = Running::start(Server::builder().driver(driver.clone()).limits(limits)).await;
    let mut client = HealthClient::new(server.channel().await);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    driver.behave(Manner::Fail(ErrorKind::Fatal));
    server.tso().await.get_seq(seq()).await.unwrap_err();
    server.ended().await.unwrap_err();
    drop(watch);
}

#[tokio::test]
async fn a_commit_that_hangs_is_not_waited_for_longer_than_allowed() {
    let driver = Scripted::leader();
    let limits = Limits { drain_time: Duration::from_millis(50), ..Limits::default() };
    let shutdown_timeout = Duration::from_millis(50);
    let options = OracleOptions { shutdown_timeout, ..OracleOptions::default() };
    let server = Server::builder().driver(driver.clone()).limits(limits).options(options);
    let server = Running::start(server).await;
    let mut client = server.tso().await;
    driver.behave(Manner::Hang);
    let submitted = tokio::spawn(async move { client.get_seq(seq()).await });
    driver.has_begun(1).await;
    server.stop().await.unwrap_err();
    submitted.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn an_oracle_that_was_given_runs_on() {
    let oracle = Oracle::start(memory().await, OracleOptions::default()).unwrap();
    let server = Running::start(Server::builder().oracle(oracle.clone())).await;
    server.tso().await.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
    server.stop().await.unwrap();
    oracle.get_ts(1).await.unwrap();
    oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_driver_that_gives_up_ends_the_server() {
    #[derive(Debug)]
    struct Closed(Arc<Scripted>);
    #[async_trait::async_trait]
    impl ConsensusDriver for Closed {
        fn node(&self) -> tsoracle_core::NodeId {
            self.0.node()
        }
        fn leadership(&self) -> tokio::sync::watch::Receiver<Leadership> {
            tokio::sync::watch::channel(Leadership::Unknown).1
        }
        async fn read(&self, wanted: &Reads) -> tsoracle_core::Result<Snapshot> {
            self.0.read(wanted).await
        }
        async fn commit(&self, base: Version, effect: Effect) -> tsoracle_core::Result<Outcome> {
            self.0.commit(base, effect).await
        }
        fn seen(&self, version: &Version) -> Option<BootTime> {
            self.0.seen(version)
        }
        async fn resign(&self, claim: u64) {
            self.0.resign(claim).await;
        }
        fn limits(&self) -> tsoracle_core::CommitLimits {
            self.0.limits()
        }
        fn membership(&self) -> Option<Arc<dyn Membership>> {
            None
        }

        async fn shutdown(&self) -> tsoracle_core::Result<()> {
            Ok(())
        }
    }
    let server = Running::over(Arc::new(Closed(Scripted::leader()))).await;
    let error = server.ended().await.unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
}

#[tokio::test]
async fn a_lease_is_over_once_its_server_has_stopped() {
    let server = Running::in_memory().await;
    let oracle = server.oracle.clone();
    server.stop().await.unwrap();
    assert_eq!(*oracle.phase().borrow(), Phase::Stopping);
    assert!(oracle.try_get_ts(1).unwrap().is_none());
}
