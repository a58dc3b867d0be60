//! `verify` against servers that keep every promise, and against ones that break one each.

mod liar;
mod lies;
mod state;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tsoracle_history::{self as history, Operation, Status};
use tsoracle_proto::v1::{
    sequence_service_server::SequenceServiceServer, tso_service_server::TsoServiceServer,
};
use tsoracle_verify::{Options, Verdict, verify};

use liar::{Liar, Lie};

/// A port that is free, and its address.
async fn port() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    (listener, address)
}

/// Serves until the test ends.
fn serve(listener: TcpListener, liar: Liar) {
    let server = Server::builder()
        .add_service(TsoServiceServer::new(liar.clone()))
        .add_service(SequenceServiceServer::new(liar))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
}

/// A leader, a follower of it, and what is found out about both.
async fn found(lie: Option<Lie>, load_ms: u64) -> (Verdict, Vec<Operation>) {
    let (leader, leads) = port().await;
    let (follower, follows) = port().await;
    let liar = Liar::new(lie);
    let itself = lie == Some(Lie::HintsAtItself);
    let hint = Some(if itself { follows.clone() } else { leads.clone() });
    serve(follower, Liar { leader: hint, ..liar.clone() });
    serve(leader, liar);
    let options = Options {
        endpoints: vec![follows, leads],
        tls: None,
        token: None,
        timeout: Duration::from_secs(2),
        duration: Duration::from_millis(load_ms),
        callers: 8,
    };
    verify(&options).await.expect("both can be reached")
}

fn broken(verdict: &Verdict) -> Vec<&'static str> {
    println!("{verdict}");
    verdict.checks.iter().filter(|check| !check.held()).map(|check| check.name).collect()
}

fn with_status(verdict: &Verdict, status: Status) -> Vec<&'static str> {
    let checks = verdict.checks.iter().filter(|check| check.status == status);
    checks.map(|check| check.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_every_promise_passes() {
    let (verdict, operations) = found(None, 500).await;
    assert_eq!(broken(&verdict), [""; 0]);
    assert!(verdict.held);
    assert!(with_status(&verdict, Status::NotOffered).is_empty());
    assert!(with_status(&verdict, Status::NotSeen).is_empty());
    assert_eq!(verdict.operations, operations.len());
    // The history alone says the same.
    assert!(history::check(&operations).held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_our_additions_passes() {
    let (verdict, _) = found(Some(Lie::NoAdditions), 500).await;
    assert!(verdict.held && broken(&verdict).is_empty());
    let missing = with_status(&verdict, Status::NotOffered);
    for addition in ["request ids", "StreamTs", "StreamSeq", "ReadSeq", "leases"] {
        assert!(missing.contains(&addition), "{addition}: {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_a_run_begin_with_its_own_prefix() {
    let (verdict, operations) = found(None, 200).await;
    assert!(verdict.prefix.starts_with("tsoracle-verify/"));
    for operation in &operations {
        let asked = match &operation.call {
            history::Call::GetSeq { ask, .. } => ask.iter().map(|ask| ask.key.clone()).collect(),
            history::Call::ReadSeq { key, .. }
            | history::Call::SeedSeq { key, .. }
            | history::Call::DeleteSeq { key, .. } => vec![key.clone()],
            history::Call::GetTs { .. } => vec![],
        };
        assert!(asked.iter().all(|key| key.starts_with(&verdict.prefix)), "{operation}");
    }
    let (other, _) = found(None, 0).await;
    assert_ne!(other.prefix, verdict.prefix);
}

#[tokio::test]
async fn a_deployment_that_cannot_be_reached_is_an_error() {
    let (listener, address) = port().await;
    drop(listener);
    let options = Options {
        endpoints: vec![address.clone()],
        tls: None,
        token: None,
        timeout: Duration::from_secs(2),
        duration: Duration::ZERO,
        callers: 1,
    };
    let error = verify(&options).await.expect_err("no server listens");
    assert!(error.to_string().starts_with(&format!("cannot reach {address}: ")), "{error}");
}
