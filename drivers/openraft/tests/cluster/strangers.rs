//! Strangers on the peer port.

use std::path::Path;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tsoracle_core::{ConsensusDriver, Effect, Leadership, Version};
use tsoracle_openraft::Config;

use crate::nodes::{Nodes, PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_peer_port_is_survived() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    for node in nodes.running.values() {
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4_096], &[0xff; 65_536]] {
            let mut stream = TcpStream::connect(node.driver.peer_addr()).await.unwrap();
            // The other side may close while this is still being written.
            let _ = stream.write_all(garbage).await;
            let _ = stream.shutdown().await;
            let _ = timeout(PATIENCE, stream.read_to_end(&mut vec![])).await.unwrap();
        }
    }
    assert_eq!(nodes.next().await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_takes_no_part() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop(3).await;
    let path = nodes.path(3).with_extension("other");
    let other = Config { path, cluster: "other".into(), ..nodes.config(3) };
    nodes.start_as(3, other).await;
    let stranger = &nodes.running[&3].driver;
    assert_eq!(*stranger.leadership().borrow(), Leadership::Unknown);
    // The two of one cluster are all that make a majority; one of them alone can do nothing.
    assert_eq!(nodes.next().await, 10);
    let leader = nodes.leader().await;
    nodes.stop(leader).await;
    let mut effect = Effect::default();
    effect.set_version(Version::EMPTY.next(1).unwrap());
    for node in nodes.running.values() {
        node.driver.commit(Version::EMPTY, effect.clone()).await.unwrap_err();
    }
    nodes.start(leader).await;
    assert_eq!(nodes.next().await, 20);
}

/// A certificate authority, and files with a certificate of its for 127.0.0.1.
fn certificates(directory: &Path) -> impl Fn(Config) -> Config + Send + Sync + use<> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let write = |kind: &str, pem: String| {
        let path = directory.join(format!("{kind}.pem"));
        std::fs::write(&path, pem).unwrap();
        Some(path)
    };
    let ca = write("ca", authority_pem);
    let cert = write("cert", leaf.pem());
    let key = write("key", key.serialize_pem());
    move |config| Config {
        peer_ca: ca.clone(),
        peer_cert: cert.clone(),
        peer_key: key.clone(),
        ..config
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_with_certificates_leave_out_one_without() {
    let files = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start_all(3, certificates(files.path())).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop(3).await;
    let with = nodes.config(3);
    let without = Config { peer_ca: None, peer_cert: None, peer_key: None, ..with.clone() };
    nodes.start_as(3, without).await;
    assert_eq!(nodes.next().await, 10);
    let leader = nodes.leader().await;
    assert_ne!(leader, 3);
    // It makes no majority with one of the others.
    nodes.stop(leader).await;
    let mut effect = Effect::default();
    effect.set_version(Version::EMPTY.next(1).unwrap());
    for node in nodes.running.values() {
        node.driver.commit(Version::EMPTY, effect.clone()).await.unwrap_err();
    }
    nodes.start(leader).await;
    assert_eq!(nodes.next().await, 20);
    // With certificates, the third one is a node like the others.
    nodes.stop(3).await;
    nodes.start_as(3, with).await;
    let named = |now: &Leadership| matches!(now, Leadership::Follower { leader: Some(_) });
    eventually(async || named(&nodes.running[&3].driver.leadership().borrow()).then_some(())).await;
}
