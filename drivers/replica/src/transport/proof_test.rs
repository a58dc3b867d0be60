//! Who may speak on the peer port, and how much of it those may take who may not.

use std::{fs, path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tsoracle_core::{Error, ErrorKind};

use super::transport_test::{ECHO, Event, Node, PATIENCE};
use crate::{Config, PeerNames};

/// An authority, whose certificates are for the names that are asked for.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(super) fn signs(&self, directory: &Path, name: &str) -> impl Fn(Config) -> Config + use<> {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![name.into()]).unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let write = |kind: &str, pem: &str| {
            let path = directory.join(format!("{name}.{kind}.pem"));
            fs::write(&path, pem).unwrap();
            Some(path)
        };
        let (ca, cert) = (write("ca", &self.pem), write("cert", &leaf.pem()));
        let key = write("key", &key.serialize_pem());
        move |config| Config {
            peer_ca: ca.clone(),
            peer_cert: cert.clone(),
            peer_key: key.clone(),
            ..config
        }
    }
}

fn listens(host: u8) -> impl Fn(Config) -> Config {
    move |config| Config { peer_listen: Some(format!("127.0.0.{host}:0")), ..config }
}

async fn refused(caller: &Node, called: u32) -> Error {
    caller.call(called, ECHO, PATIENCE).await.unwrap_err()
}

fn know_each_other(one: (u32, &Node), other: (u32, &Node)) {
    one.1.knows(other.0, other.1);
    other.1.knows(one.0, one.1);
}

#[tokio::test]
async fn with_tls_a_certificate_speaks_for_the_node_that_it_names_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let of = |host: u8| authority.signs(directory.path(), &format!("127.0.0.{host}"));
    let one = Node::start(1, |config| of(1)(listens(1)(config))).await;
    let two = Node::start(2, |config| of(2)(listens(2)(config))).await;
    know_each_other((1, &one), (2, &two));
    one.call(2, ECHO, PATIENCE).await.unwrap();
    two.call(1, ECHO, PATIENCE).await.unwrap();
    // A node of another host calls itself node 1.
    let calls = two.calls();
    let stray = Node::start(1, |config| of(3)(listens(3)(config))).await;
    stray.knows(2, &two);
    let error = refused(&stray, 2).await;
    assert_eq!(*error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    // One that is not known at all.
    let fourth = Node::start(3, |config| of(3)(listens(3)(config))).await;
    fourth.knows(2, &two);
    assert!(refused(&fourth, 2).await.to_string().contains("is not known"));
    assert_eq!(two.calls(), calls);
    // And at the address of node 3 is a process with the certificate of another one.
    let other = Node::start(3, |config| of(2)(listens(3)(config))).await;
    one.knows(3, &other);
    other.knows(1, &one);
    let error = refused(&one, 3).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    assert_eq!(other.calls(), 0);
}

#[tokio::test]
async fn a_certificate_may_name_a_node_by_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let of = |node: u32| {
        let signed = authority.signs(directory.path(), &format!("node-{node}.tsoracle"));
        move |config| signed(Config { peer_names: PeerNames::Node, ..config })
    };
    let (one, two) = (Node::start(1, of(1)).await, Node::start(2, of(2)).await);
    know_each_other((1, &one), (2, &two));
    one.call(2, ECHO, PATIENCE).await.unwrap();
    let stray = Node::start(1, of(3)).await;
    stray.knows(2, &two);
    assert!(refused(&stray, 2).await.to_string().contains("node-1.tsoracle"));
    let other = Node::start(3, of(2)).await;
    one.knows(3, &other);
    assert!(refused(&one, 3).await.to_string().contains("certificate"));
    let unfit = |config| of(1)(Config { cluster: "no name".into(), ..config });
    let error = Node::try_start(1, unfit).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("peer_names=node"), "{error}");
}

fn with_secret(directory: &Path, secret: &str) -> impl Fn(Config) -> Config + use<> {
    let path = directory.join(secret);
    fs::write(&path, secret.repeat(32)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    move |config| Config { peer_secret_file: Some(path.clone()), ..config }
}

#[tokio::test]
async fn a_secret_lets_in_those_who_know_it_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let ours = with_secret(directory.path(), "ours");
    let (one, two) = (Node::start(1, &ours).await, Node::start(2, &ours).await);
    know_each_other((1, &one), (2, &two));
    one.call(2, ECHO, PATIENCE).await.unwrap();
    two.call(1, ECHO, PATIENCE).await.unwrap();
    let (calls, others) = (two.calls(), with_secret(directory.path(), "others"));
    for stranger in [Node::start(1, &others).await, Node::start(1, |config| config).await] {
        // In both directions, and each side is told what to do about it.
        know_each_other((1, &stranger), (2, &two));
        let error = refused(&stranger, 2).await;
        assert_eq!(*error.kind(), ErrorKind::Unavailable);
        let error = refused(&two, 1).await;
        assert!(error.to_string().contains("peer_secret_file"), "{error}");
        assert_eq!((stranger.calls(), two.calls()), (0, calls));
    }
    // A peer on a network needs nothing else.
    let far = |config| Config { peer_listen: Some("0.0.0.0:0".into()), ..config };
    let error = Node::try_start(3, far).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("peer_secret_file"), "{error}");
    Node::start(3, |config| ours(far(config))).await;
}

#[tokio::test]
async fn a_secret_and_certificates_go_together() {
    let directory = tempfile::tempdir().unwrap();
    let secret = with_secret(directory.path(), "ours");
    let signed = Authority::new().signs(directory.path(), "127.0.0.1");
    let both = |config| secret(signed(config));
    let (one, two) = (Node::start(1, both).await, Node::start(2, both).await);
    know_each_other((1, &one), (2, &two));
    one.call(2, ECHO, PATIENCE).await.unwrap();
    let without = Node::start(1, &signed).await;
    without.knows(2, &two);
    refused(&without, 2).await;
}

/// What a process hears that says so much, and nothing more.
async fn hears(node: &Node, says: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(says).await.unwrap();
    let mut heard = vec![];
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.unwrap();
    heard
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn who_does_not_know_the_secret_hears_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = Node::start(1, with_secret(directory.path(), "ours")).await;
    assert_eq!(hears(&node, PREFACE).await, b"");
    assert_eq!(hears(&node, b"GET / HTTP/1.1\r\n\r\n").await, b"");
}

#[tokio::test]
async fn a_caller_that_says_nothing_does_not_stay() {
    let node = Node::start(1, |config| config).await;
    for said in [0, 7, 12, 23] {
        assert_eq!(hears(&node, &PREFACE[..said]).await, b"", "{said}");
    }
    // HTTP/2 alone is not enough: what is heard are settings, and the end.
    let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    assert!(!hears(&node, &settings).await.is_empty());
}

#[tokio::test]
async fn strangers_take_their_places_from_each_other_and_keep_no_node_out() {
    let few = |config| Config { peer_connections: 8, peer_connections_per_address: 4, ..config };
    let (one, two) = (Node::start(1, few).await, Node::start(2, few).await);
    know_each_other((1, &one), (2, &two));
    let mut silent = vec![];
    for _ in 0..5 {
        silent.push(TcpStream::connect(two.address()).await.unwrap());
    }
    // The first one was ended for the fifth, long before its time was over: the others are still there.
    assert_eq!(timeout(PATIENCE, silent[0].read(&mut [0])).await.unwrap().unwrap(), 0);
    let open = timeout(Duration::from_millis(1), silent[4].read(&mut [0])).await;
    assert!(open.is_err(), "the last one was ended as well");
    one.call(2, ECHO, PATIENCE).await.unwrap();
    for _ in 0..20 {
        silent.push(TcpStream::connect(two.address()).await.unwrap());
    }
    one.call(2, ECHO, PATIENCE).await.unwrap();
    // Nor do they keep out one that has still to begin its session.
    two.call(1, ECHO, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_gone_is_noticed_when_its_last_session_ends() {
    let (one, mut two) =
        (Node::start(1, |config| config).await, Node::start(2, |config| config).await);
    know_each_other((1, &one), (2, &two));
    one.call(2, ECHO, PATIENCE).await.unwrap();
    one.shutdown().await;
    while two.any_event().await != Event::Disconnected(1) {}
}
