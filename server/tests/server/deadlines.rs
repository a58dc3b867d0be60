//! What becomes of requests that take too long.

use std::time::Duration;

use tsoracle_core::{Leadership, OracleOptions, Phase};
use tsoracle_proto::v1;
use tsoracle_server::{Limits, Server};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    raw::Connection,
};

const GET_TS: &str = "tsoracle.v1.TsoService/GetTs";
const GET_SEQ: &str = "tsoracle.v1.TsoService/GetSeq";
const NOT_LEADER: Option<&str> = Some("9");
const DEADLINE_EXCEEDED: Option<&str> = Some("4");

fn seq() -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: "k".into(), count: 1, request_id: None }
}

async fn next(connection: &Connection) -> u64 {
    let answer = connection.call(GET_SEQ, &[], &seq()).await.expect("an answer");
    answer.message::<v1::GetSeqResponse>().start
}

#[tokio::test]
async fn a_request_that_is_queued_past_its_deadline_spends_nothing() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let connection = Connection::open(server.address).await;
    driver.behave(Manner::Hang);
    let submitted = connection.send(GET_SEQ, &[], &seq()).await.unwrap();
    driver.has_begun(1).await;
    let queued = connection.call(GET_SEQ, &[("grpc-timeout", "50m")], &seq()).await.unwrap();
    assert_eq!(queued.grpc_status(), DEADLINE_EXCEEDED);
    assert_eq!(queued.metadata["tsoracle-sessions"], "1");
    driver.behave(Manner::Commit);
    let submitted = submitted.answer().await.unwrap().message::<v1::GetSeqResponse>();
    assert_eq!(submitted.start, 0);
    assert_eq!(next(&connection).await, 1, "the queued one took nothing");
}

#[tokio::test]
async fn what_was_given_up_still_takes_its_place_until_it_is_looked_at() {
    let driver = Scripted::leader();
    let options = OracleOptions { max_waiting: 2, ..OracleOptions::default() };
    let server = Running::start(Server::builder().driver(driver.clone()).options(options)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let connection = Connection::open(server.address).await;
    driver.behave(Manner::Hang);
    let submitted = connection.send(GET_SEQ, &[], &seq()).await.unwrap();
    driver.has_begun(1).await;
    for expected in [DEADLINE_EXCEEDED, DEADLINE_EXCEEDED, Some("8")] {
        let queued = connection.call(GET_SEQ, &[("grpc-timeout", "50m")], &seq()).await.unwrap();
        assert_eq!(queued.grpc_status(), expected);
    }
    driver.behave(Manner::Commit);
    assert_eq!(submitted.answer().await.unwrap().message::<v1::GetSeqResponse>().start, 0);
    assert_eq!(next(&connection).await, 1);
}

#[tokio::test]
async fn a_request_that_its_client_has_cancelled_spends_nothing() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let connection = Connection::open(server.address).await;
    driver.behave(Manner::Hang);
    let submitted = connection.send(GET_SEQ, &[], &seq()).await.unwrap();
    driver.has_begun(1).await;
    let queued = connection.send(GET_SEQ, &[], &seq()).await.unwrap();
    while server.oracle.status().waiting < 2 {
        tokio::task::yield_now().await;
    }
    drop(queued);
    while server.oracle.status().waiting > 1 {
        tokio::task::yield_now().await;
    }
    driver.behave(Manner::Commit);
    assert_eq!(submitted.answer().await.unwrap().message::<v1::GetSeqResponse>().start, 0);
    assert_eq!(next(&connection).await, 1);
}

#[tokio::test]
async fn past_its_deadline_a_submitted_request_may_still_be_committed() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let connection = Connection::open(server.address).await;
    driver.behave(Manner::Hang);
    let late = connection.call(GET_SEQ, &[("grpc-timeout", "50m")], &seq()).await.unwrap();
    assert_eq!(late.grpc_status(), DEADLINE_EXCEEDED);
    driver.has_begun(1).await;
    driver.behave(Manner::Commit);
    assert_eq!(next(&connection).await, 1);
}

#[tokio::test]
async fn no_time_at_all_is_too_late() {
    let server = Running::in_memory().await;
    let connection = Connection::open(server.address).await;
    let late = connection.call(GET_SEQ, &[("grpc-timeout", "0n")], &seq()).await.unwrap();
    assert_eq!(late.grpc_status(), DEADLINE_EXCEEDED);
    assert_eq!(next(&connection).await, 0);
}

#[tokio::test]
async fn what_is_no_time_is_an_invalid_argument() {
    let server = Running::in_memory().await;
    let connection = Connection::open(server.address).await;
    let answer = connection.call(GET_SEQ, &[("grpc-timeout", "soon")], &seq()).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("3"));
    assert_eq!(next(&connection).await, 0);
}

#[tokio::test]
async fn a_request_that_is_held_to_its_deadline_is_certainly_not_committed() {
    let hold = Duration::from_secs(3_600);
    let options = OracleOptions { hold, ..OracleOptions::default() };
    let driver = Scripted::new(Leadership::Unknown);
    let server = Running::start(Server::builder().driver(driver).options(options)).await;
    let connection = Connection::open(server.address).await;
    let timeout = [("grpc-timeout", "100m")];
    let request = v1::GetTsRequest { count: 1 };
    let answer = connection.call(GET_TS, &timeout, &request).await.unwrap();
    assert_eq!(answer.grpc_status(), NOT_LEADER);
    assert!(!answer.metadata.contains_key("tsoracle-leader-hint-bin"));
    let answer = connection.call(GET_SEQ, &timeout, &seq()).await.unwrap();
    assert_eq!(answer.grpc_status(), NOT_LEADER);
    assert_eq!(answer.metadata["tsoracle-leader-hint-bin"], "");
}

#[tokio::test]
async fn no_request_takes_longer_than_the_server_allows() {
    let driver = Scripted::leader();
    let limits = Limits { request_time: Duration::from_millis(50), ..Limits::default() };
    let server = Running::start(Server::builder().driver(driver.clone()).limits(limits)).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    driver.behave(Manner::Hang);
    let connection = Connection::open(server.address).await;
    for headers in [&[][..], &[("grpc-timeout", "1H")]] {
        let answer = connection.call(GET_SEQ, headers, &seq()).await.unwrap();
        assert_eq!(answer.grpc_status(), DEADLINE_EXCEEDED);
    }
    driver.behave(Manner::Commit);
}
