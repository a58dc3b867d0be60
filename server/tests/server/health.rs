//! The standard services: health and reflection.

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tsoracle_core::{Leadership, Phase};

use crate::common::{Running, driver::Scripted};

const SERVICES: [&str; 3] = ["", "tsoracle.v1.TsoService", "tsoracle.v1.SequenceService"];

fn check(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn only_a_leader_is_healthy() {
    let driver = Scripted::follower("10.0.0.7:50551", 42);
    let server = Running::over(driver.clone()).await;
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    let mut client = HealthClient::new(server.channel().await);
    let mut watched = client.watch(check("")).await.unwrap().into_inner();
    for service in SERVICES {
        let answer = client.check(check(service)).await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::NotServing, "{service:?}");
    }
    driver.lead(Leadership::Leader { claim: 1 });
    while watched.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    driver.lead(Leadership::Unknown);
    while watched.next().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    let status = client.check(check("nobody.Knows")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn every_service_is_healthy_on_a_leader() {
    let server = Running::in_memory().await;
    let mut client = HealthClient::new(server.channel().await);
    for service in SERVICES {
        let mut watched = client.watch(check(service)).await.unwrap().into_inner();
        while watched.next().await.unwrap().unwrap().status() != ServingStatus::Serving {}
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
