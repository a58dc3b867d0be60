//! TLS from the command line.

use std::{fs, net::TcpListener};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::node::{Node, error_line, run, stdout};

/// Writes `ca.pem`, and `NAME.pem` with `NAME.key` for each name.
fn certificates(directory: &TempDir, names: &[&str]) {
    let valid = "a valid certificate";
    let mut params = CertificateParams::new(vec![]).expect(valid);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect(valid)).expect(valid);
    let write = |name: &str, text: String| {
        fs::write(directory.path().join(name), text).expect("the directory is writable");
    };
    write("ca.pem", ca.pem());
    for name in names {
        let key = KeyPair::generate().expect(valid);
        let params = CertificateParams::new(vec!["127.0.0.1".into()]).expect(valid);
        write(&format!("{name}.pem"), params.signed_by(&key, &ca).expect(valid).pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

#[test]
fn only_those_with_a_certificate_are_served() {
    let directory = TempDir::new().unwrap();
    certificates(&directory, &["server", "client"]);
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ca.pem"];
    let node = Node::start(directory.path(), &[&["memory"], &tls[..]].concat());
    let identity = ["--tls-ca", "ca.pem", "--tls-cert", "client.pem", "--tls-key", "client.key"];
    let ask = |command: &str, tls: &[&str]| {
        let asked = [command, "--endpoint", &node.address];
        run(directory.path(), &[&asked, tls].concat())
    };
    let soon = ["--timeout", "500ms"];
    stdout(&ask("ts", &identity)).parse::<u64>().unwrap();
    assert!(stdout(&ask("status", &identity)).contains("leading"));
    let verified = stdout(&ask("verify", &[&identity[..], &["--seconds", "1"]].concat()));
    assert!(verified.contains("held         G1 order"), "{verified}");
    error_line(&ask("ts", &[&identity[..2], &soon].concat()), 1);
    error_line(&ask("ts", &soon), 1);
    assert_eq!(ask("status", &soon).status.code(), Some(1));
}

#[test]
fn an_authority_that_signs_for_peers_and_clients_is_warned_of() {
    let directory = TempDir::new().unwrap();
    certificates(&directory, &["server"]);
    fs::copy(directory.path().join("ca.pem"), directory.path().join("peers.pem")).unwrap();
    let driver = "openraft:raft?node=1&peers=1=127.0.0.1:1/127.0.0.1:2&peer_listen=127.0.0.1:0\
                  &peer_ca=peers.pem&peer_cert=server.pem&peer_key=server.key";
    let tls = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ca.pem"];
    let mut node = Node::start(directory.path(), &[&[driver], &tls[..]].concat());
    node.wait_for_log("use an authority for peers alone");
}

#[test]
fn wrong_files_are_named_before_anything_is_begun() {
    let directory = TempDir::new().unwrap();
    certificates(&directory, &["server", "other"]);
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    for (cert, key, named) in [
        ("missing.pem", "server.key", "missing.pem"),
        ("server.key", "server.key", "server.key"),
        ("server.pem", "server.pem", "server.pem"),
        ("server.pem", "other.key", "other.key"),
    ] {
        let serve = ["serve", "--listen", &address, "--tls-cert", cert, "--tls-key", key];
        let line = error_line(&run(directory.path(), &serve), 2);
        assert!(line.contains(named), "{line}");
    }
    let line = error_line(&run(directory.path(), &["ts", "--tls-ca", "server.key"]), 2);
    assert!(line.contains("certificate"), "{line}");
}
