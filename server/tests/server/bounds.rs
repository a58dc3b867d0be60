//! What one client may take.

use std::time::Duration;

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tsoracle_core::Phase;
use tsoracle_proto::v1;
use tsoracle_server::{Limits, Server};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    memory,
    raw::{Connection, falls_silent},
};

const GET_SEQ: &str = "tsoracle.v1.TsoService/GetSeq";

fn seq(key: &str) -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: key.into(), count: 1, request_id: None }
}

async fn limited(limits: Limits) -> Running {
    Running::start(Server::builder().driver(memory().await).limits(limits)).await
}

#[tokio::test]
async fn an_oversize_message_is_refused_and_the_connection_goes_on() {
    let server = limited(Limits { message_bytes: 100, ..Limits::default() }).await;
    let connection = Connection::open(server.address).await;
    let large = seq(&"k".repeat(101));
    assert!(large.encoded_len() > 100);
    let answer = connection.call(GET_SEQ, &[], &large).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("11"), "{answer:?}");
    let answer = connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("0"));
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_is_the_callers_mistake() {
    let server = limited(Limits::default()).await;
    let connection = Connection::open(server.address).await;
    // Their first fields are of different types.
    let (number, text) = (v1::GetTsRequest { count: 1 }, seq("k"));
    let wrong = [
        connection.call(GET_SEQ, &[], &number).await,
        connection.call("tsoracle.v1.TsoService/GetTs", &[], &text).await,
        connection.call("tsoracle.v1.TsoService/StreamSeq", &[], &number).await,
        connection.call("tsoracle.v1.TsoService/StreamTs", &[], &text).await,
        connection.call("tsoracle.v1.SequenceService/ReadSeq", &[], &number).await,
    ];
    for answer in wrong {
        let answer = answer.unwrap();
        assert_eq!(answer.grpc_status(), Some("3"), "{answer:?}");
    }
    let answer = connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    assert_eq!(answer.message::<v1::GetSeqResponse>().start, 0);
}

#[tokio::test]
async fn oversize_headers_are_refused_and_the_connection_goes_on() {
    let server = limited(Limits { header_bytes: 2_048, ..Limits::default() }).await;
    let connection = Connection::open(server.address).await;
    let long = "x".repeat(4_096);
    let refused = connection.call(GET_SEQ, &[("x-long", &long)], &seq("k")).await;
    match refused {
        Ok(answer) => assert_eq!(answer.http_status, 431, "{answer:?}"),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    let answer = connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    assert_eq!(answer.message::<v1::GetSeqResponse>().start, 0);
}

#[tokio::test]
async fn a_connection_has_only_so_many_calls_under_way() {
    let driver = Scripted::leader();
    driver.behave(Manner::Hang);
    let limits = Limits { concurrent_streams: 2, ..Limits::default() };
    let server = Running::start(Server::builder().driver(driver.clone()).limits(limits)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let connection = Connection::open(server.address).await;
    while connection.max_streams() != 2 {
        tokio::task::yield_now().await;
    }
    let first = connection.send(GET_SEQ, &[], &seq("a")).await.unwrap();
    let second = connection.send(GET_SEQ, &[], &seq("a")).await.unwrap();
    while server.oracle.status().waiting < 2 {
        tokio::task::yield_now().await;
    }
    let third = tokio::spawn({
        let connection = connection.clone();
        async move { connection.call(GET_SEQ, &[], &seq("a")).await }
    });
    // Another connection has its own.
    let other = Connection::open(server.address).await;
    let fourth = other.send(GET_SEQ, &[], &seq("b")).await.unwrap();
    while server.oracle.status().waiting < 3 {
        tokio::task::yield_now().await;
    }
    assert!(!third.is_finished());
    driver.behave(Manner::Commit);
    for answer in [first.answer().await, second.answer().await, fourth.answer().await] {
        assert_eq!(answer.unwrap().grpc_status(), Some("0"));
    }
    assert_eq!(third.await.unwrap().unwrap().grpc_status(), Some("0"));
}

#[tokio::test]
async fn whoever_says_nothing_is_sent_away() {
    let handshake_time = Duration::from_millis(50);
    let server = limited(Limits { handshake_time, ..Limits::default() }).await;
    for greeting in [&b""[..], b"P", b"PRI * HTTP/2.0"] {
        let mut silent = TcpStream::connect(server.address).await.unwrap();
        silent.write_all(greeting).await.unwrap();
        let mut rest = Vec::new();
        // However it ends, it ends.
        let _ = silent.read_to_end(&mut rest).await;
    }
    let connection = Connection::open(server.address).await;
    connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
}

#[tokio::test]
async fn whoever_has_spoken_may_stay() {
    let handshake_time = Duration::from_millis(250);
    let server = limited(Limits { handshake_time, ..Limits::default() }).await;
    let connection = Connection::open(server.address).await;
    connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    // A later one that is sent away shows that the time is over.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let _ = silent.read_to_end(&mut Vec::new()).await;
    let answer = connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    assert_eq!(answer.message::<v1::GetSeqResponse>().start, 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = limited(Limits { connections: 1, ..Limits::default() }).await;
    let connection = Connection::open(server.address).await;
    connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    // What every client of HTTP/2 begins with, which a server answers at once.
    let _ = second.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut answer = Vec::new();
    let _ = second.read_to_end(&mut answer).await;
    assert_eq!(answer, b"", "it is served");
    connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    drop(connection);
    loop {
        // The place is free again once the server has noticed.
        let stream = TcpStream::connect(server.address).await.unwrap();
        let Ok((sender, connection)) = h2::client::handshake(stream).await else { continue };
        drop(tokio::spawn(connection));
        if sender.ready().await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn whoever_gives_no_sign_of_life_is_sent_away() {
    let short = Duration::from_millis(50);
    let limits =
        Limits { keepalive_interval: short, keepalive_timeout: short, ..Limits::default() };
    let server = limited(limits).await;
    let connection = Connection::open(server.address).await;
    connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    falls_silent(server.address).await;
    // One that answers stays, though it says nothing either.
    let answer = connection.call(GET_SEQ, &[], &seq("k")).await.unwrap();
    assert_eq!(answer.message::<v1::GetSeqResponse>().start, 1);
}
