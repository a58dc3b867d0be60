//! What cannot be done, said in one line.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::Command,
};

use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};

use crate::node::{MOST, Node, error_line, run};

#[test]
fn a_busy_port() {
    let directory = TempDir::new().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let output = run(directory.path(), &["serve", "--listen", &address]);
    let line = error_line(&output, 1);
    assert!(line.contains(&address) && line.contains("another program"), "{line}");
    assert!(!directory.path().join("tsoracle-data").exists(), "nothing was begun");
}

#[test]
fn an_unknown_driver_on_a_busy_port() {
    let directory = TempDir::new().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let line = error_line(&run(directory.path(), &["serve", "flie", "--listen", &address]), 2);
    assert!(line.contains("\"flie\"") && line.contains("file, memory"), "{line}");
}

#[test]
fn a_busy_port_for_metrics() {
    let directory = TempDir::new().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let serve = ["serve", "memory", "--listen", "127.0.0.1:0", "--metrics-listen", &address];
    let line = error_line(&run(directory.path(), &serve), 1);
    assert!(line.contains(&address) && line.contains("in use"), "{line}");
}

#[test]
fn a_directory_that_cannot_be_used() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("occupied"), "").unwrap();
    let arguments = ["serve", "file:./occupied/data", "--listen", "127.0.0.1:0"];
    let line = error_line(&run(directory.path(), &arguments), 1);
    assert!(line.contains("./occupied/data"), "{line}");
}

#[test]
fn a_directory_in_use() {
    let directory = TempDir::new().unwrap();
    let _node = Node::start(directory.path(), &["file:./data"]);
    let serve = ["serve", "file:./data", "--listen", "127.0.0.1:0"];
    let init = ["init", "file:./data", "--seed-physical-ms", "1"];
    for arguments in [&serve[..], &init] {
        let line = error_line(&run(directory.path(), arguments), 1);
        assert!(line.contains("./data") && line.contains("in use"), "{line}");
    }
}

#[test]
fn nobody_there() {
    let directory = TempDir::new().unwrap();
    for command in [&["ts"][..], &["seq", "k"], &["seq-read", "k"]] {
        let arguments = [command, &["--endpoint", "127.0.0.1:1", "--timeout", "200ms"]].concat();
        let line = error_line(&run(directory.path(), &arguments), 1);
        let plain = "cannot reach 127.0.0.1:1 within 200ms: connection refused; ";
        assert!(line.starts_with(plain), "{line}");
    }
    let output = run(directory.path(), &["status", "--endpoint", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("unreachable"), "{output:?}");
}

#[test]
fn a_key_that_was_never_used() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["memory"]);
    let line = error_line(&node.ask(&["seq-read", "nothing"]), 1);
    assert!(line.contains("\"nothing\" has never been used"), "{line}");
}

/// The file may not grow any more, as if the disk were full.
#[test]
fn a_disk_that_fails_ends_the_process() {
    let directory = TempDir::new().unwrap();
    let mut command = Command::new("sh");
    // 8 MiB, in blocks of 512 bytes; the state begins with 4 MiB or less.
    let script = "trap '' XFSZ; ulimit -f 16384; exec \"$0\" serve --listen 127.0.0.1:0 --log off";
    command.args(["-c", script, env!("CARGO_BIN_EXE_tsoracle")]).current_dir(directory.path());
    let node = Node::spawn(command);
    let address = node.address.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let last = runtime.block_on(async {
        let client = tsoracle_client::Client::connect([&*address]).await.unwrap();
        let client = client.with_timeout(std::time::Duration::from_secs(2));
        let mut acknowledged = None;
        let until = SystemClock.now().boot + MOST;
        for attempt in 0.. {
            assert!(SystemClock.now().boot < until, "it goes on serving, or never ends");
            let key = |i: usize| format!("{attempt:0>100}-{i}");
            let keys: Vec<_> = (0..128).map(|i| (key(i), 1)).collect();
            match client.get_seq_batch(&keys).await {
                Ok(_) => acknowledged = Some(key(127)),
                Err(_) if TcpStream::connect(&address).is_err() => break,
                // A slow machine, maybe.
                Err(_) => {}
            }
        }
        acknowledged.expect("there was room for some")
    });
    let (status, log) = node.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.trim_end().starts_with("error: ") && log.lines().count() == 1, "{log}");
    // With room again, everything is there.
    let node = Node::start(directory.path(), &[]);
    let output = node.ask(&["seq-read", &last]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n", "{output:?}");
}
