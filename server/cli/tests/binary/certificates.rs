//! Certificates: made, taken up, refused, warned of.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use x509_parser::{pem::parse_x509_pem, prelude::*};

use crate::node::{Node, error_line, finished, json, run, stdout, until};

/// What `serve` is told of the certificates of node 1.
pub(crate) const SERVE: [&str; 6] = [
    "--tls-cert",
    "tsoracle-certs/node-1.pem",
    "--tls-key",
    "tsoracle-certs/node-1.key",
    "--tls-client-ca",
    "tsoracle-certs/client-ca.pem",
];

/// What a command is told that asks as `app`.
const ASK: [&str; 6] = [
    "--tls-ca",
    "tsoracle-certs/ca.pem",
    "--tls-cert",
    "tsoracle-certs/client-app.pem",
    "--tls-key",
    "tsoracle-certs/client-app.key",
];

/// What is warned of from thirty days before the end on.
const SOON: &str = "20";

pub(crate) fn cert(directory: &Path, arguments: &[&str]) -> String {
    stdout(&run(directory, &[&["cert"], arguments].concat()))
}

/// Authorities, node 1, and the client `app`.
fn certified() -> TempDir {
    let directory = TempDir::new().unwrap();
    cert(directory.path(), &["ca"]);
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1"]);
    cert(directory.path(), &["client", "app"]);
    directory
}

fn file(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join("tsoracle-certs").join(name)
}

/// Asks a server as `app`.
fn ask(directory: &TempDir, node: &Node) -> std::process::Output {
    let asks = ["ts", "--endpoint", &node.address, "--timeout", "1s"];
    run(directory.path(), &[&asks, &ASK[..]].concat())
}

/// The subject of the certificate in a file, its names, and what it is for.
fn read(path: &Path) -> (String, Vec<String>, Vec<&'static str>) {
    let text = fs::read(path).unwrap();
    let (_, pem) = parse_x509_pem(&text).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => panic!("{other:?}"),
    };
    let names = certificate.subject_alternative_name().unwrap();
    let names = names.map(|names| names.value.general_names.iter().map(name).collect());
    let usage = certificate.extended_key_usage().unwrap();
    let usage = usage.map(|usage| usage.value);
    let mut uses = vec![];
    uses.extend(usage.filter(|usage| usage.server_auth).map(|_| "server"));
    uses.extend(usage.filter(|usage| usage.client_auth).map(|_| "client"));
    uses.extend(certificate.is_ca().then_some("authority"));
    (certificate.subject().to_string(), names.unwrap_or_default(), uses)
}

#[test]
fn certificates_carry_what_peers_and_policies_know_them_by() {
    let directory = certified();
    cert(directory.path(), &["admin"]);
    cert(directory.path(), &["admin", "alice"]);
    let addresses = ["--address", "db2.example.com,::1"];
    let node = [&["node", "2", "--cluster", "blue"], &addresses[..]].concat();
    let said = cert(directory.path(), &node);
    assert!(said.contains("peer_ca=tsoracle-certs/ca.pem&peer_cert="), "{said}");
    let (subject, names, uses) = read(&file(&directory, "node-2.pem"));
    assert_eq!(subject, "CN=node-2");
    let address = format!("{:?}", std::net::Ipv6Addr::LOCALHOST.octets());
    assert_eq!(names, ["db2.example.com", &address, "node-2.blue", "tsoracle:node/2"]);
    assert_eq!(uses, ["server", "client"]);
    for (file_name, name) in [("client-app", "app"), ("admin", "admin"), ("admin-alice", "alice")] {
        let (subject, names, uses) = read(&file(&directory, &format!("{file_name}.pem")));
        assert_eq!(subject, format!("CN={name}"));
        assert_eq!(names, [format!("tsoracle:client/{name}")]);
        assert_eq!(uses, ["client"]);
    }
    for authority in ["ca.pem", "client-ca.pem"] {
        assert_eq!(read(&file(&directory, authority)).2, ["authority"]);
    }
    for entry in fs::read_dir(directory.path().join("tsoracle-certs")).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let expected = if path.extension().unwrap() == "key" { 0o600 } else { 0o644 };
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[test]
fn nothing_is_overwritten_unless_it_is_forced() {
    let directory = certified();
    let before = fs::read(file(&directory, "node-1.key")).unwrap();
    let node = ["cert", "node", "1", "--address", "127.0.0.1"];
    for again in [&["cert", "ca"][..], &node] {
        let line = error_line(&run(directory.path(), again), 1);
        assert!(line.contains("exists") && line.contains("--force"), "{line}");
    }
    fs::remove_file(file(&directory, "node-1.pem")).unwrap();
    let line = error_line(&run(directory.path(), &node), 1);
    assert!(line.contains("node-1.key exists"), "{line}");
    assert_eq!(fs::read(file(&directory, "node-1.key")).unwrap(), before);
    assert!(!file(&directory, "node-1.pem").exists());
    let answer: Value = json(&run(directory.path(), &[&node[..], &["--force", "--json"]].concat()));
    let made = &answer["made"][0];
    assert_eq!(made["certificate"], "tsoracle-certs/node-1.pem");
    assert_eq!(
        made["names"],
        serde_json::json!(["127.0.0.1", "node-1.tsoracle", "tsoracle:node/1"])
    );
    assert!(made["expires"].as_str().unwrap().ends_with('Z'), "{answer}");
    assert_ne!(fs::read(file(&directory, "node-1.key")).unwrap(), before);
}

#[test]
fn what_makes_no_certificate_is_refused() {
    let directory = TempDir::new().unwrap();
    let line = error_line(&run(directory.path(), &["cert", "client", "app"]), 1);
    assert!(line.contains("tsoracle cert ca"), "{line}");
    cert(directory.path(), &["ca", "--days", "10"]);
    for (arguments, named) in [
        (&["client", "a/b"][..], "letters"),
        (&["client", ""], "letters"),
        (&["client", &"x".repeat(65)], "64"),
        (&["node", "0", "--address", "h"], "0"),
        (&["node", "1"], "--address"),
        (&["node", "1", "--address", "h:1"], "without a port"),
        (&["node", "1", "--address", "*.h"], "without a port"),
        (&["node", "1", "--address", "h", "--cluster", "a b"], "--cluster"),
        (&["client", "app", "--days", "0"], "--days"),
        (&["client", "app", "--days", "99999999"], "--days"),
    ] {
        let output = run(directory.path(), &[&["cert"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(named), "{arguments:?}: {text}");
    }
    // Nothing outlasts its authority.
    let client = json(&run(directory.path(), &["cert", "client", "app", "--json"]));
    let days = json(&run(directory.path(), &["cert", "client", "b", "--days", "10", "--json"]));
    assert_eq!(client["made"][0]["expires"], days["made"][0]["expires"]);
    // The key of another authority.
    fs::copy(file(&directory, "ca.key"), file(&directory, "client-ca.key")).unwrap();
    let line = error_line(&run(directory.path(), &["cert", "client", "c"]), 1);
    assert!(line.contains("does not go with"), "{line}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_wrong_clock_makes_no_certificate_and_ends_what_was_made() {
    use crate::node::tsoracle;
    const YEAR: i64 = 365 * 24 * 3_600;
    let directory = certified();
    let clock = tsoracle_testbed::WallClock::new(directory.path()).unwrap();
    let under = |years: i64, arguments: &[&str]| {
        clock.shift(years * YEAR).unwrap();
        let mut command = tsoracle(directory.path(), arguments);
        finished(command.envs(clock.environment()))
    };
    for years in [-100, -30, 8_000, 100_000] {
        for arguments in [&["cert", "ca", "--dir", "other"][..], &["cert", "client", "late"]] {
            let line = error_line(&under(years, arguments), 1);
            assert!(line.contains("clock"), "{years}: {line}");
        }
    }
    let serve = [&["serve", "memory", "--listen", "127.0.0.1:0"], &SERVE[..]].concat();
    let line = error_line(&under(5, &serve), 2);
    assert!(line.contains("node-1.pem") && line.contains("expired on 20"), "{line}");
    let line = error_line(&under(-1, &serve), 2);
    assert!(line.contains("node-1.pem") && line.contains("valid from 20"), "{line}");
    let line = error_line(&under(12, &["cert", "client", "late"]), 1);
    assert!(line.contains("client-ca.pem") && line.contains("expired on 20"), "{line}");
    #[cfg(feature = "openraft")]
    {
        let peers = "openraft:raft?node=1&peers=1=127.0.0.1:1/127.0.0.1:2&peer_listen=127.0.0.1:0\
                     &peer_ca=tsoracle-certs/ca.pem&peer_cert=tsoracle-certs/node-1.pem\
                     &peer_key=tsoracle-certs/node-1.key";
        let line = error_line(&under(5, &["serve", peers, "--listen", "127.0.0.1:0"]), 2);
        assert!(line.contains("node-1.pem") && line.contains("expired on 20"), "{line}");
    }
}

#[test]
fn files_that_are_of_no_use_leave_the_old_ones_in_use() {
    let directory = certified();
    let mut node = Node::start(directory.path(), &[&["memory"], &SERVE[..]].concat());
    stdout(&ask(&directory, &node));
    let path = file(&directory, "node-1.pem");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "nothing").unwrap();
    // Nobody asks: it is noticed all the same, and on SIGHUP said again.
    node.wait_for_log("the old ones stay in use");
    node.signal(Signal::HUP);
    node.wait_for_log("the old ones stay in use");
    stdout(&ask(&directory, &node));
    let status = ["status", "--endpoint", &node.address];
    let said = stdout(&run(directory.path(), &[&status, &ASK[..]].concat()));
    assert!(said.contains("older certificates are in use than in the files"), "{said}");
    fs::write(&path, &good).unwrap();
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1", "--force", "--days", "40"]);
    node.wait_for_log("new certificates are in use");
    stdout(&ask(&directory, &node));
}

#[test]
fn new_authorities_count_after_a_hangup() {
    let directory = certified();
    let mut node = Node::start(directory.path(), &[&["memory"], &SERVE[..]].concat());
    stdout(&ask(&directory, &node));
    cert(directory.path(), &["ca", "--force"]);
    cert(directory.path(), &["client", "app", "--force"]);
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1", "--force"]);
    node.signal(Signal::HUP);
    node.wait_for_log("SIGHUP");
    node.wait_for_log("new certificates are in use");
    // It may have been asked between two files.
    until("it is never answered", || ask(&directory, &node).status.success());
}

#[test]
fn a_refused_handshake_is_logged_with_its_reason() {
    let directory = certified();
    let mut node = Node::start(directory.path(), &[&["memory"], &SERVE[..]].concat());
    let address = node.address.clone();
    let asks = ["ts", "--endpoint", &address, "--timeout", "500ms"];
    error_line(&run(directory.path(), &[&asks, &ASK[..2]].concat()), 1);
    node.wait_for_log("it shows no certificate");
    // The peers' authority signs no clients.
    let as_node = ["--tls-ca", "tsoracle-certs/ca.pem", SERVE[0], SERVE[1], SERVE[2], SERVE[3]];
    error_line(&run(directory.path(), &[&asks, &as_node[..]].concat()), 1);
    node.wait_for_log("of no authority that is trusted here");
    TcpStream::connect(&node.address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    node.wait_for_log("it does not speak TLS");
    cert(directory.path(), &["ca", "--dir", "strange"]);
    let other = ["--tls-ca", "strange/ca.pem", ASK[2], ASK[3], ASK[4], ASK[5]];
    error_line(&run(directory.path(), &[&asks, &other[..]].concat()), 1);
    node.wait_for_log("does not trust the authority");
}

#[test]
fn an_end_that_is_near_and_a_key_that_all_may_read_are_warned_of() {
    let directory = certified();
    let renew = ["node", "1", "--address", "127.0.0.1", "--force", "--days", SOON];
    cert(directory.path(), &renew);
    let key = file(&directory, "node-1.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut node = Node::start(directory.path(), &[&["memory"], &SERVE[..]].concat());
    node.wait_for_log("every user of this machine may read the private key");
    node.wait_for_log("node-1.pem (CN=node-1) expires in");
}
