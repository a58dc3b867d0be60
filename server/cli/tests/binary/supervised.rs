//! What a service manager is told.

use std::{os::unix::net::UnixDatagram, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::node::{Node, finished, tsoracle, until};

/// A service manager, which wants a sign of life every second.
struct Manager {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { directory, socket }
    }

    fn start(&self, arguments: &[&str]) -> Node {
        let arguments = [&["serve"], arguments, &["--listen", "127.0.0.1:0"]].concat();
        let mut command = tsoracle(self.directory.path(), &arguments);
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        command.env("WATCHDOG_USEC", "1000000").env_remove("WATCHDOG_PID");
        Node::spawn(command)
    }

    /// What comes next, apart from signs of life.
    fn told(&self) -> String {
        loop {
            let text = self.next();
            if text != "WATCHDOG=1" {
                return text;
            }
        }
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("it is told something");
        String::from_utf8(message[..length].to_vec()).expect("text").trim_end().to_owned()
    }

    /// Reads on up to a message that holds `text`.
    fn until(&self, text: &str) -> String {
        let mut told = String::new();
        // There is always a sign of life.
        until(text, || {
            told = self.next();
            told.contains(text)
        });
        told
    }
}

#[test]
fn it_is_told_that_a_server_is_ready_lives_reloads_and_stops() {
    let manager = Manager::new();
    let node = manager.start(&["file:./data"]);
    assert!(manager.told().ends_with("\nSTATUS=opening file"));
    manager.until("READY=1");
    for _ in 0..3 {
        manager.until("WATCHDOG=1");
    }
    node.signal(Signal::HUP);
    let reloading = manager.until("RELOADING=1");
    let (_, time) = reloading.split_once("\nMONOTONIC_USEC=").expect("when it began");
    assert!(time.parse::<u64>().unwrap() > 0, "{reloading}");
    manager.until("READY=1");
    node.signal(Signal::TERM);
    manager.until("STOPPING=1");
    assert_eq!(node.ended().0.code(), Some(0));
}

#[test]
fn it_is_told_what_a_server_does() {
    let manager = Manager::new();
    let node = manager.start(&["memory"]);
    manager.until("STATUS=leading, epoch 1");
    node.signal(Signal::TERM);
    manager.until("STATUS=stopping");
}

#[test]
fn a_server_that_fails_to_start_is_never_said_to_be_ready() {
    let manager = Manager::new();
    std::fs::write(manager.directory.path().join("occupied"), "").unwrap();
    let serve = ["serve", "file:./occupied/data", "--listen", "127.0.0.1:0"];
    let mut command = tsoracle(manager.directory.path(), &serve);
    command.env("NOTIFY_SOCKET", manager.directory.path().join("notify"));
    assert_eq!(finished(&mut command).status.code(), Some(1));
    manager.socket.set_nonblocking(true).unwrap();
    let mut message = [0; 4096];
    while let Ok(length) = manager.socket.recv(&mut message) {
        assert!(!String::from_utf8_lossy(&message[..length]).contains("READY"));
    }
}

#[test]
fn without_a_service_manager_nothing_is_missing() {
    let directory = TempDir::new().unwrap();
    for path in ["", "/nowhere/notify"] {
        let serve = ["serve", "memory", "--listen", "127.0.0.1:0"];
        let mut command = tsoracle(directory.path(), &serve);
        command.env("NOTIFY_SOCKET", path);
        let node = Node::spawn(command);
        node.signal(Signal::TERM);
        assert_eq!(node.ended().0.code(), Some(0));
    }
}
