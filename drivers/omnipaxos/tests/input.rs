//! Configurations that make no cluster, and directories that are another's.

mod common;

use tsoracle_core::{Effect, ErrorKind, MemoryStore, SeqStore};
use tsoracle_store::{Store, Table};

use self::common::{Nodes, open};

const PEERS: &str = "1=127.0.0.1:7101/a:1,2=127.0.0.1:7102/b:1,3=127.0.0.1:7103/c:1";

async fn refused(config: &str, text: &str) {
    let error = open(config).await.expect_err(config);
    assert_eq!(*error.kind(), ErrorKind::Config, "{config}: {error}");
    assert!(error.to_string().contains(text), "{config}: {error}");
}

#[tokio::test]
async fn what_makes_no_cluster_is_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("n1");
    for (options, text) in [
        ("node=1".to_owned(), "peers must be given"),
        (format!("peers={PEERS}"), "node must be given"),
        (format!("node=4&peers={PEERS}"), "node 4 is not among the peers"),
        ("node=1&peers=1=127.0.0.1:1/a:1".into(), "one peer is no cluster"),
        (format!("node=1&peers={PEERS},1=127.0.0.1:9/d:1"), "peer 1 is given twice"),
        (format!("node=1&peers={PEERS},2000=127.0.0.1:9/d:1"), "peer id 2000 is too high"),
        (format!("node=1&peers={PEERS}&join=true"), "join=true is of no use"),
        (format!("node=1&peers={PEERS}&speed=1"), "`speed`"),
        ("node=1&peers=1=10.0.0.1:1/a:1,2=10.0.0.2:1/b:1".into(), "insecure_peers=true"),
    ] {
        refused(&format!("omnipaxos:{}?{options}", path.display()), text).await;
        assert!(!path.exists(), "{options}");
    }
}

#[tokio::test]
async fn a_directory_of_another_node_cluster_or_driver_is_refused_and_kept() {
    let mut nodes = Nodes::started(3, "").await;
    nodes.leader().await;
    for node in 0..3 {
        nodes.stop(node).await.unwrap();
    }
    let config = nodes.config(0);
    refused(&config.replacen("node=1", "node=2", 1), "is node 1's, not node 2's").await;
    refused(&format!("{config}&cluster=other"), "is of the cluster \"tsoracle\"").await;
    refused(&config.replacen(",3=", ",4=", 1), "of the nodes [1, 2, 3]").await;
    // It can still be used as before.
    nodes.start(0).await.unwrap();
    refused(&config, "is in use by another process").await;
    nodes.stop(0).await.unwrap();

    std::fs::remove_dir_all(nodes.directory(1)).unwrap();
    let mut alone = Store::open(nodes.directory(1), Default::default()).unwrap();
    let mut effect = Effect::default();
    effect.put(*b"key", *b"value");
    SeqStore::commit(&mut alone, effect.clone()).unwrap();
    drop(alone);
    refused(&nodes.config(1), "is the file driver's").await;
    let alone = Store::open(nodes.directory(1), Default::default()).unwrap();
    let mut expected = MemoryStore::default();
    expected.commit(effect).unwrap();
    assert_eq!(alone.get(b"key").unwrap(), SeqStore::get(&expected, b"key").unwrap());
}

#[tokio::test]
async fn a_directory_of_an_earlier_release_is_refused_with_what_to_do() {
    let nodes = Nodes::new(3, "").await;
    let store = Store::open(nodes.directory(0), Default::default()).unwrap();
    store.belong_to("omnipaxos").unwrap();
    // How its identity began; the log behind it held commands.
    let mut identity = Effect::default();
    identity.put(*b"identity", [1, 1]);
    store.write([(Table::new("node"), identity)]).unwrap();
    drop(store);
    refused(&nodes.config(0), "written by an earlier release").await;
    refused(&nodes.config(0), "`tsoracle migrate`").await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let nodes = Nodes::new(3, "").await;
    let _taken = std::net::TcpListener::bind(nodes.listen(0)).unwrap();
    refused(&nodes.config(0), &format!("cannot listen for peers on {}", nodes.listen(0))).await;
}
