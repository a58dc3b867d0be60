//! The standard services: health and reflection.

use std::{sync::Arc, time::Duration};

use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::{
    v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    },
    v1alpha,
};
use tsoracle_core::{Leadership, ManualClock, OracleOptions};
use tsoracle_server::Server;

use crate::common::{Running, driver::Scripted};

/// What says that the node takes part, that it leads, and that it lives.
const READY: [&str; 2] = ["", "tsoracle.v1.Ready"];
const LEADER: [&str; 3] =
    ["tsoracle.v1.Leader", "tsoracle.v1.TsoService", "tsoracle.v1.SequenceService"];
const LIVE: [&str; 1] = ["tsoracle.v1.Live"];

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

/// Waits until these all say so.
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
async fn say(client: &mut HealthClient<Channel>, services: &[&str], status: ServingStatus) {
    for service in services {
        let mut watched = client.watch(check(service)).await.unwrap().into_inner();
        while watched.next().await.unwrap().unwrap().status() != status {}
        let answer = client.check(check(service)).await.unwrap();
        assert_eq!(answer.get_ref().status(), status, "{service:?}");
    }
}

#[tokio::test]
async fn each_name_says_what_a_node_is_for() {
    use ServingStatus::{NotServing, Serving};
    let driver = Scripted::follower("10.0.0.7:50551", 42);
    let server = Running::over(driver.clone()).await;
    let mut client = HealthClient::new(server.channel().await);
    say(&mut client, &READY, Serving).await;
    say(&mut client, &LEADER, NotServing).await;
    say(&mut client, &LIVE, Serving).await;
    driver.lead(Leadership::Leader { claim: 1 });
    say(&mut client, &LEADER, Serving).await;
    say(&mut client, &READY, Serving).await;
    driver.lead(Leadership::Unknown);
    say(&mut client, &READY, NotServing).await;
    say(&mut client, &LEADER, NotServing).await;
    say(&mut client, &LIVE, Serving).await;
    for unknown in ["nobody.Knows", "tsoracle.v1", "tsoracle.v1.ready", "TsoService"] {
        let status = client.check(check(unknown)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{unknown}");
        let status = client.watch(check(unknown)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{unknown}");
    }
}

/// A balancer that watches is told of each change, and of nothing else.
#[tokio::test]
async fn whoever_watches_is_told_of_changes() {
    use ServingStatus::{NotServing, Serving};
    let driver = Scripted::follower("10.0.0.7:50551", 42);
    let server = Running::over(driver.clone()).await;
    let mut client = HealthClient::new(server.channel().await);
    say(&mut client, &READY, Serving).await;
    let mut watched = client.watch(check(LEADER[0])).await.unwrap().into_inner();
    let mut told = async || watched.next().await.unwrap().unwrap().status();
    assert_eq!(told().await, NotServing);
    driver.lead(Leadership::Leader { claim: 1 });
    assert_eq!(told().await, Serving);
    driver.lead(Leadership::Unknown);
    assert_eq!(told().await, NotServing);
    driver.lead(Leadership::Leader { claim: 2 });
    assert_eq!(told().await, Serving);
}

/// The disk hangs: nothing else says so but the lease.
#[tokio::test]
async fn a_leader_that_cannot_renew_its_lease_is_none() {
    use ServingStatus::{NotServing, Serving};
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let mut client = HealthClient::new(server.channel().await);
    say(&mut client, &LEADER, Serving).await;
    driver.stall(true);
    let oracle = server.oracle.clone();
    // As long as callers ask, it has to renew.
    let asking = tokio::spawn(async move {
        loop {
            drop(oracle.get_ts(1).await);
            tokio::task::yield_now().await;
        }
    });
    say(&mut client, &LEADER, NotServing).await;
    say(&mut client, &READY, NotServing).await;
    driver.stall(false);
    say(&mut client, &LEADER, Serving).await;
    asking.abort();
}

/// No caller but the one that checks it tells such a node that its commits hang.
#[tokio::test]
async fn a_check_of_an_idle_leader_finds_out_whether_it_can_renew_its_lease() {
    let driver = Scripted::leader();
    let clock = ManualClock::new(1_700_000_000_000);
    let options = OracleOptions { clock: Arc::new(clock.clone()), ..OracleOptions::default() };
    let server = Running::start(Server::builder().driver(driver.clone()).options(options)).await;
    let mut client = HealthClient::new(server.channel().await);
    say(&mut client, &LEADER, ServingStatus::Serving).await;
    // Nothing is asked of it, so that it lets its lease lapse in the end.
    while server.oracle.status().epoch.is_some() {
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
    }
    driver.stall(true);
    for name in [READY[0], LEADER[0], READY[1]] {
        let (asked, mut asking) = (check(name), client.clone());
        let asking = tokio::spawn(async move { asking.check(asked).await.unwrap() });
        while !asking.is_finished() {
            clock.advance(Duration::from_millis(50));
            tokio::task::yield_now().await;
        }
        let answer = asking.await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::NotServing, "{name:?}");
    }
    driver.stall(false);
    say(&mut client, &LEADER, ServingStatus::Serving).await;
}

#[tokio::test]
async fn a_server_that_stops_says_so_to_whoever_watches() {
    let mut server = Running::in_memory().await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watched = vec![];
    for name in READY.iter().chain(&LEADER) {
        let mut watching = client.watch(check(name)).await.unwrap().into_inner();
        while watching.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
        watched.push(watching);
    }
    server.begin_stop();
    for mut watching in watched {
        let told = watching.next().await.expect("it is told before the connection ends");
        assert_eq!(told.unwrap().status(), ServingStatus::NotServing);
    }
}

#[tokio::test]
async fn every_service_is_healthy_on_a_leader() {
    let server = Running::in_memory().await;
    let mut client = HealthClient::new(server.channel().await);
    for services in [&READY[..], &LEADER, &LIVE] {
        say(&mut client, services, ServingStatus::Serving).await;
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let server = Running::in_memory().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = |message_request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let asked = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("tsoracle.v1.TsoService".into())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap();
    let mut answers = answers.into_inner();
    let services = match answers.next().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(listed) => listed.service,
        other => panic!("{other:?}"),
    };
    let mut names: Vec<_> = services.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "tsoracle.v1.BackupService",
        "tsoracle.v1.ClusterService",
        "tsoracle.v1.SequenceService",
        "tsoracle.v1.TsoService",
    ];
    assert_eq!(names, expected);
    match answers.next().await.unwrap().unwrap().message_response.unwrap() {
        MessageResponse::FileDescriptorResponse(file) => {
            assert!(!file.file_descriptor_proto.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

/// Tools of before 2023 ask by the earlier version alone.
#[tokio::test]
async fn reflection_by_its_earlier_version_lists_the_same() {
    use v1alpha::{
        server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Running::in_memory().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = |message_request| v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let asked = [
        request(MessageRequest::ListServices(String::new())),
        request(MessageRequest::FileContainingSymbol("tsoracle.v1.SequenceService".into())),
        request(MessageRequest::FileContainingSymbol("tsoracle.v1.Nothing".into())),
    ];
    let answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap();
    let mut answers = answers.into_inner();
    let mut next = async || answers.next().await.unwrap().unwrap().message_response.unwrap();
    match next().await {
        MessageResponse::ListServicesResponse(listed) => {
            let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
            for name in
                ["grpc.health.v1.Health", "tsoracle.v1.TsoService", "tsoracle.v1.SequenceService"]
            {
                assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
            }
        }
        other => panic!("{other:?}"),
    }
    match next().await {
        MessageResponse::FileDescriptorResponse(file) => {
            assert!(!file.file_descriptor_proto.is_empty());
        }
        other => panic!("{other:?}"),
    }
    let status = answers.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
}
