//! What clients can take, and what is kept from them.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tsoracle_client::Client;

use crate::node::{Node, error_line, finished, shell};

/// What a client of HTTP/2 begins with.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// `tsoracle serve` with a limit of open files: the one that it may raise, and the one that it may not.
fn with_limit(directory: &TempDir, soft: u32, hard: u32, arguments: &str) -> Command {
    let program = env!("CARGO_BIN_EXE_tsoracle");
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard}");
    shell(
        directory.path(),
        &format!("{limits} && exec {program} serve --listen 127.0.0.1:0 {arguments}"),
    )
}

/// Connects that often, and keeps the connections that are served.
fn take_connections(address: &str, times: usize) -> Vec<TcpStream> {
    let mut taken = vec![];
    for _ in 0..times {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
        let _ = stream.write_all(GREETING);
        match stream.read(&mut [0; 1]) {
            Ok(1..) => taken.push(stream),
            Ok(0) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_every_connection_leave_the_store_its_files() {
    let directory = TempDir::new().unwrap();
    let serve = with_limit(&directory, 100, 128, "'file:state?journal_mb=1'");
    let mut node = tokio::task::block_in_place(|| Node::spawn(serve));
    tokio::task::block_in_place(|| node.wait_for_log("clients may have so many connections"));
    let client = Client::connect([&node.address]).await.unwrap();
    let taken = tokio::task::block_in_place(|| take_connections(&node.address, 300));
    assert!((40..64).contains(&taken.len()), "{} connections", taken.len());
    // Each commit is a fiftieth of the journal, after which the state is written to a new file.
    for round in 0..300_u32 {
        let keys: Vec<_> = (0..128).map(|key| (format!("{:0>120}", key + round % 7), 1)).collect();
        client.get_seq_batch(&keys).await.unwrap();
    }
    drop(taken);
    client.close().await;
    node.signal(Signal::TERM);
    let (status, log) = tokio::task::block_in_place(|| node.ended());
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn more_connections_than_files_are_refused_at_the_start() {
    let directory = TempDir::new().unwrap();
    let mut serve = with_limit(&directory, 512, 1_024, "--max-connections 900");
    let refused = error_line(&finished(&mut serve), 2);
    assert!(refused.contains("needs a limit of 1284 open files, and it is 1024"), "{refused}");
    let mut serve = with_limit(&directory, 32, 32, "");
    let refused = error_line(&finished(&mut serve), 1);
    assert!(refused.contains("may open 32 files"), "{refused}");
}
