//! Mounted in a server of tonic's own.

use http::Method;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tsoracle_core::SeqKey;
use tsoracle_proto::v1::{self, tso_service_client::TsoServiceClient};
use tsoracle_server::Server;

use crate::common::{
    channel,
    driver::{Manner, Scripted},
    memory,
    raw::Connection,
};

#[tokio::test]
async fn the_services_mount_beside_others() {
    let server = Server::builder().driver(memory().await).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, own_health) = tonic_health::server::health_reporter();
    let router =
        tonic::transport::Server::builder().add_routes(server.routes()).add_service(own_health);
    let serving = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut client = TsoServiceClient::new(channel(address).await);
    client.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
    serving.abort();
    server.oracle().shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_web_page_can_send_is_no_call_there_either() {
    let server = Server::builder().driver(memory().await).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder().add_routes(server.routes());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let connection = Connection::open(address).await;
    let path = "tsoracle.v1.SequenceService/SeedSeq";
    let seed = v1::SeedSeqRequest { key: "orders".into(), start: 7 };
    for (method, kind) in [(Method::POST, "text/plain"), (Method::PUT, "application/grpc")] {
        connection.status_of(method, path, Some(kind), &seed).await;
    }
    assert_eq!(server.oracle().read_seq(SeqKey::new("orders").unwrap()).await.unwrap(), None);
    let answer = connection.call(path, &[], &seed).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("0"), "{answer:?}");
}

#[tokio::test]
async fn deadlines_are_ours_there_too() {
    let driver = Scripted::leader();
    driver.behave(Manner::Hang);
    let server = Server::builder().driver(driver).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = tonic::transport::Server::builder().add_routes(server.routes());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let connection = Connection::open(address).await;
    for _ in 0..5 {
        let request = v1::GetSeqRequest { key: "k".into(), count: 1, request_id: None };
        let timeout = [("grpc-timeout", "500m")];
        let answer = connection.call("tsoracle.v1.TsoService/GetSeq", &timeout, &request).await;
        assert_eq!(answer.unwrap().grpc_status(), Some("4"), "not tonic's own CANCELLED");
    }
}

#[tokio::test]
async fn a_server_needs_exactly_one_thing_to_serve() {
    Server::builder().build().unwrap_err();
    let limits = tsoracle_server::Limits { connections: 0, ..Default::default() };
    let refused = Server::builder().driver(memory().await).limits(limits).build().unwrap_err();
    assert!(refused.to_string().contains("connections"), "{refused}");
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder().driver(memory().await).build().unwrap();
    let error = server.bind(&*address).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("another program"), "{error}");
}
