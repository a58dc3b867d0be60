//! Servers and clients that meet at a socket in the file system.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::UnixListener,
    },
    path::Path,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::node::{Node, error_line, run, stdout, tsoracle};

fn start(directory: &Path, arguments: &[&str]) -> Node {
    Node::spawn(tsoracle(directory, &[&["serve"], arguments].concat()))
}

fn ask(directory: &Path, socket: &str, arguments: &[&str]) -> String {
    stdout(&run(directory, &[arguments, &["--endpoint", socket]].concat()))
}

#[test]
fn every_command_that_asks_asks_at_a_socket() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    let node = start(home, &["memory", "--listen", "unix:oracle"]);
    assert_eq!(node.address, "unix:oracle");
    let absolute = format!("unix://{}/oracle", home.display());
    for socket in ["unix:oracle", &absolute] {
        assert!(ask(home, socket, &["ts"]).parse::<u64>().is_ok());
        let status = ask(home, socket, &["status"]);
        assert!(status.contains("leading") && status.contains("health SERVING"), "{status}");
    }
    assert_eq!(ask(home, &absolute, &["seq", "orders", "--count", "3"]), "0 to 2 (3 values)");
    assert_eq!(ask(home, &absolute, &["seq-seed", "invoices", "7"]), "7");
    // As on loopback, whoever may connect may do everything.
    ask(home, &absolute, &["seq-delete", "invoices"]);
    let verified = ask(home, &absolute, &["verify", "--seconds", "1", "--callers", "2"]);
    assert!(verified.contains("holds") || verified.contains("ok"), "{verified}");
}

#[test]
fn a_socket_has_its_mode_and_goes_with_the_server() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("oracle");
    for (arguments, mode) in [(&[][..], 0o660), (&["--socket-mode", "600"], 0o600)] {
        let node =
            start(directory.path(), &[&["memory", "--listen", "unix:oracle"], arguments].concat());
        let found = fs::symlink_metadata(&socket).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.mode() & 0o777, mode);
        node.signal(Signal::TERM);
        assert_eq!(node.ended().0.code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn a_socket_that_a_killed_server_left_is_replaced_and_one_in_use_is_not() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    let serve = ["memory", "--listen", "unix:oracle"];
    let node = start(home, &serve);
    node.signal(Signal::KILL);
    node.ended();
    assert!(home.join("oracle").exists());
    let node = start(home, &serve);
    let line = error_line(&run(home, &[&["serve"], &serve[..]].concat()), 1);
    assert!(line.contains("unix:oracle: another program listens there"), "{line}");
    ask(home, "unix:oracle", &["ts"]);
    drop(node);
}

#[test]
fn places_where_no_socket_can_be() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    fs::write(home.join("file"), "mine").unwrap();
    let long = format!("unix:{}", "x".repeat(108));
    for (place, code, words) in [
        ("unix:", 2, "names no socket"),
        ("unix:file", 1, "is no socket"),
        ("unix:nowhere/oracle", 1, "its directory is not there; create it"),
        (&long, 1, "the path has 108 bytes, and may have 107"),
    ] {
        for option in ["--listen", "--admin-listen"] {
            let serve = ["serve", "file:./data", "--listen", "127.0.0.1:0", option, place];
            let serve = if option == "--listen" {
                &[&serve[..2], &serve[4..]].concat()
            } else {
                &serve[..]
            };
            let line = error_line(&run(home, serve), code);
            assert!(line.contains(words), "{line}");
            assert!(!home.join("data").exists(), "nothing was begun");
        }
    }
    assert_eq!(fs::read(home.join("file")).unwrap(), b"mine");
    let output = run(home, &["serve", "memory", "--socket-mode", "888"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("three octal digits"), "{output:?}");
    let advertise = ["serve", "memory", "--listen", "unix:oracle", "--advertise", "unix:oracle"];
    let line = error_line(&run(home, &advertise), 2);
    assert!(line.contains("a socket of this machine"), "{line}");
}

#[test]
fn nobody_encrypts_at_a_socket() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    stdout(&run(home, &["cert", "ca"]));
    stdout(&run(home, &["cert", "node", "1", "--address", "127.0.0.1"]));
    let certs = "tsoracle-certs";
    let tls = [format!("{certs}/node-1.pem"), format!("{certs}/node-1.key")];
    let serve =
        ["serve", "memory", "--listen", "unix:oracle", "--tls-cert", &tls[0], "--tls-key", &tls[1]];
    let line = error_line(&run(home, &serve), 2);
    assert!(line.contains("leave out the TLS options"), "{line}");
    assert!(!home.join("oracle").exists(), "it is removed again");
    let ca = format!("{certs}/ca.pem");
    for command in ["ts", "status"] {
        let asking = [command, "--endpoint", "unix:oracle", "--tls-ca", &ca];
        let line = error_line(&run(home, &asking), 2);
        assert!(line.contains("leave out the TLS options"), "{line}");
    }
}

#[test]
fn where_nobody_listens_a_client_says_so() {
    let directory = TempDir::new().unwrap();
    drop(UnixListener::bind(directory.path().join("left")).unwrap());
    for (socket, words) in [("unix:left", "refused"), ("unix:nowhere", "no such file")] {
        let asking = ["ts", "--endpoint", socket, "--timeout", "300ms"];
        let line = error_line(&run(directory.path(), &asking), 1);
        assert!(line.contains(socket) && line.contains(words), "{line}");
    }
}

#[test]
fn administrators_have_a_socket_of_their_own() {
    let directory = TempDir::new().unwrap();
    let home = directory.path();
    let serve = ["memory", "--listen", "unix:oracle", "--admin-listen", "unix:admin"];
    let node = start(home, &serve);
    let refused = run(home, &["seq-seed", "a", "7", "--endpoint", "unix:oracle"]);
    let line = error_line(&refused, 1);
    assert!(line.contains("--admin-listen"), "{line}");
    assert_eq!(ask(home, "unix:admin", &["seq-seed", "a", "7"]), "7");
    node.signal(Signal::TERM);
    assert_eq!(node.ended().0.code(), Some(0));
    assert!(!home.join("oracle").exists());
}
