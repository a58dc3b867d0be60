//! Scrapes of real nodes, one test a driver: what is in them is documented, and Prometheus' own tool finds nothing wrong.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tonic::transport::Channel;
use tsoracle_proto::v1::{
    GetSeqRequest, GetTsRequest, StreamSeqRequest, tso_service_client::TsoServiceClient,
};

use crate::{
    http::{self, ATTEMPTS, pause},
    node::{Node, run, stdout},
    ports::{free_port, free_ports},
    series::{Families, documented, scraped},
};

pub(crate) fn scrape(address: &str) -> String {
    http::get(address, "/metrics").unwrap()
}

/// Scrapes until something is there, which is brought up to date each second.
pub(crate) fn scrape_until(address: &str, is_there: impl Fn(&str) -> bool) -> String {
    for _ in 0..ATTEMPTS {
        let text = scrape(address);
        if is_there(&text) {
            return text;
        }
        pause();
    }
    panic!("it never comes:\n{}", scrape(address));
}

/// A node with metrics, that was asked for some things, and where its metrics are.
fn node(directory: &Path, driver: &str, more: &[&str]) -> (Node, String) {
    let metrics = free_port();
    let node = Node::start(directory, &[&[driver, "--metrics-listen", &metrics], more].concat());
    (node, metrics)
}

/// Finds every series of a scrape documented as it is, and has `promtool` check the whole.
fn check(text: &str) -> Families {
    let (found, documented) = (scraped(text), documented());
    for (name, family) in &found {
        let row = documented.get(name);
        assert_eq!(row, Some(family), "{name} is documented otherwise");
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut promtool = promtool.stderr(Stdio::piped()).spawn().expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr) + String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.is_empty(), "{said}");
    found
}

/// Whatever is brought up to date each second has been.
fn is_up_to_date(text: &str) -> bool {
    text.contains("\nprocess_open_fds ") && !text.contains("\ntsoracle_window_ahead_seconds 0\n")
}

#[cfg(feature = "file")]
#[test]
fn what_the_file_driver_shows() {
    let directory = TempDir::new().unwrap();
    let (node, metrics) = node(directory.path(), "file:state", &[]);
    stdout(&node.ask(&["ts", "--count", "3"]));
    stdout(&node.ask(&["seq", "a", "--count", "5"]));
    assert!(!node.ask(&["seq-read", "never"]).status.success());
    let text = scrape_until(&metrics, is_up_to_date);
    check(&text);
    for line in [
        "tsoracle_grants_total 1",
        "tsoracle_timestamps_total 3",
        "tsoracle_sequences 1",
        "tsoracle_phase{phase=\"serving\"} 1",
        "tsoracle_phase{phase=\"following\"} 0",
        "tsoracle_epoch 1",
        "tsoracle_requests_total{method=\"StreamTs\",code=\"OK\"} 1",
        "tsoracle_requests_total{method=\"ReadSeq\",code=\"NOT_FOUND\"} 1",
        "tsoracle_request_duration_seconds_count{method=\"ReadSeq\"} 1",
        "tsoracle_takeover_duration_seconds_count{step=\"open\"} 1",
        "tsoracle_store_segments 1",
        concat!(
            "tsoracle_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\",driver=\"file\"} 1"
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("NaN"), "{text}");
}

#[cfg(feature = "rocksdb")]
#[test]
fn what_the_rocksdb_driver_shows() {
    let directory = TempDir::new().unwrap();
    let (node, metrics) = node(directory.path(), "rocksdb:state", &[]);
    stdout(&node.ask(&["seq", "a"]));
    let text = scrape_until(&metrics, is_up_to_date);
    check(&text);
    assert!(!text.contains("tsoracle_store_sync_duration_seconds_count 0"), "{text}");
}

/// Three nodes of a driver with peers, each with its metrics.
#[cfg(any(feature = "openraft", feature = "omnipaxos"))]
pub(crate) fn cluster(
    directory: &Path,
    driver: &str,
    prepare: impl Fn(&mut Command),
) -> Vec<(Node, String)> {
    use crate::node::tsoracle;
    let free = free_ports(9);
    let places: Vec<_> = free.chunks(3).collect();
    let peers: Vec<_> =
        (1..).zip(&places).map(|(id, at)| format!("{id}={}/{}", at[0], at[1])).collect();
    let starting = (1..).zip(&places).map(|(id, at)| {
        let driver = format!("{driver}:./{driver}-{id}?node={id}&peers={}", peers.join(","));
        let serve =
            ["serve", &driver, "--listen", &at[1], "--metrics-listen", &at[2], "--log", "warn"];
        let mut command = tsoracle(directory, &serve);
        prepare(&mut command);
        let metrics = at[2].clone();
        std::thread::spawn(move || (Node::spawn(command), metrics))
    });
    let starting: Vec<_> = starting.collect();
    starting.into_iter().map(|node| node.join().unwrap()).collect()
}

/// Checks what each node of a cluster shows. Returns what that of the leader does.
#[cfg(any(feature = "openraft", feature = "omnipaxos"))]
fn check_cluster(directory: &Path, driver: &str) -> String {
    let nodes = cluster(directory, driver, |_| {});
    let all: Vec<_> = nodes.iter().map(|(node, _)| node.address.as_str()).collect();
    stdout(&run(directory, &["seq", "a", "--endpoint", &all.join(",")]));
    let leads = |text: &str| text.contains("tsoracle_phase{phase=\"serving\"} 1");
    let members = "\ntsoracle_members{votes=\"true\"} 3\n";
    let mut of_leader = vec![];
    for (_, metrics) in &nodes {
        let text = scrape_until(metrics, |text| {
            let peers = text.lines().filter(|line| line.starts_with("tsoracle_peer_connected"));
            let votes = text.lines().filter(|line| line.starts_with("tsoracle_peer_votes"));
            peers.filter(|line| line.ends_with(" 1")).count() == 2
                && votes.filter(|line| line.ends_with(" 1")).count() == 2
                && text.contains(members)
                && text.contains("\nprocess_open_fds ")
                // A leader knows it before it serves.
                && leads(text) == text.contains("\ntsoracle_peer_lag_entries")
        });
        check(&text);
        let lags =
            text.lines().filter(|line| line.starts_with("tsoracle_peer_lag_entries")).count();
        assert_eq!(lags, if leads(&text) { 2 } else { 0 }, "the leader alone knows: {text}");
        if leads(&text) {
            of_leader.push(text);
        }
    }
    assert_eq!(of_leader.len(), 1, "one node leads");
    of_leader.remove(0)
}

#[cfg(feature = "openraft")]
#[test]
fn what_nodes_of_openraft_show() {
    let directory = TempDir::new().unwrap();
    check_cluster(directory.path(), "openraft");
}

/// A node that learns has no vote, and none that counts where a majority is looked for.
#[cfg(feature = "openraft")]
#[test]
fn a_node_that_learns_is_shown_without_a_vote() {
    use crate::node::tsoracle;
    let directory = TempDir::new().unwrap();
    let nodes = cluster(directory.path(), "openraft", |_| {});
    let all: Vec<_> = nodes.iter().map(|(node, _)| node.address.as_str()).collect();
    let free = free_ports(2);
    let driver = format!("openraft:./openraft-4?node=4&join=true&peers=4={}/{}", free[0], free[1]);
    let _learner =
        Node::spawn(tsoracle(directory.path(), &["serve", &driver, "--listen", &free[1]]));
    let add = [
        "cluster",
        "add",
        "4",
        "--peer",
        &free[0],
        "--service",
        &free[1],
        "--endpoint",
        &all.join(","),
    ];
    stdout(&run(directory.path(), &add));
    for (_, metrics) in &nodes {
        scrape_until(metrics, |text| {
            text.contains("\ntsoracle_peer_votes{peer=\"4\"} 0\n")
                && text.contains("\ntsoracle_members{votes=\"false\"} 1\n")
        });
    }
}

/// A node that was removed is nobody's peer any more, and no alert is about it.
#[cfg(feature = "openraft")]
#[test]
fn series_of_a_node_that_was_removed_go_away() {
    let directory = TempDir::new().unwrap();
    let mut nodes = cluster(directory.path(), "openraft", |_| {});
    let (removed, _) = nodes.pop().unwrap();
    for (_, metrics) in &nodes {
        scrape_until(metrics, |text| {
            text.contains("\ntsoracle_peer_connected{peer=\"3\"} 1\n")
                && text.contains("\ntsoracle_peer_votes{peer=\"3\"} 1\n")
        });
    }
    drop(removed);
    let all: Vec<_> = nodes.iter().map(|(node, _)| node.address.as_str()).collect();
    let remove = ["cluster", "remove", "3", "--endpoint", &all.join(",")];
    // If it led, another one has to be elected first.
    let removes = || run(directory.path(), &remove).status.success();
    let removed = (0..ATTEMPTS).any(|_| {
        let removed = removes();
        if !removed {
            pause();
        }
        removed
    });
    assert!(removed, "it cannot be removed");
    for (_, metrics) in &nodes {
        let text = scrape_until(metrics, |text| {
            !text.contains("tsoracle_peer_connected{peer=\"3\"}")
                && !text.contains("tsoracle_peer_votes{peer=\"3\"}")
                && !text.contains("tsoracle_peer_lag_entries{peer=\"3\"}")
                && text.contains("\ntsoracle_members{votes=\"true\"} 2\n")
        });
        assert!(!text.contains("NaN"), "{text}");
    }
}

#[cfg(feature = "omnipaxos")]
#[test]
fn what_nodes_of_omnipaxos_show() {
    let directory = TempDir::new().unwrap();
    check_cluster(directory.path(), "omnipaxos");
}

#[cfg(feature = "etcd")]
#[test]
fn what_a_node_over_etcd_shows() {
    let directory = TempDir::new().unwrap();
    let urls: Vec<_> = free_ports(2).iter().map(|at| format!("http://{at}")).collect();
    let mut etcd = Command::new("etcd");
    etcd.args(["--data-dir", "etcd", "--listen-client-urls", &urls[0]]);
    etcd.args(["--advertise-client-urls", &urls[0], "--listen-peer-urls", &urls[1]]);
    let etcd = etcd.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let _etcd = Ended(etcd.spawn().expect("etcd is installed"));
    let driver = format!("etcd://{}/tsoracle", urls[0].trim_start_matches("http://"));
    let (node, metrics) = node(directory.path(), &driver, &[]);
    assert!((0..20).any(|_| node.ask(&["seq", "a"]).status.success()), "it does not serve");
    check(&scrape_until(&metrics, is_up_to_date));
}

/// A program that ends with the test.
pub(crate) struct Ended(pub(crate) std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every series that is documented is there: on a node with certificates, or in a cluster.
#[cfg(all(feature = "openraft", feature = "file"))]
#[test]
fn whatever_is_documented_is_shown() {
    let directory = TempDir::new().unwrap();
    for made in [&["ca"][..], &["node", "1", "--address", "127.0.0.1"]] {
        stdout(&run(directory.path(), &[&["cert"], made].concat()));
    }
    let certificates = directory.path().join("tsoracle-certs");
    assert!(fs::exists(certificates.join("node-1.pem")).unwrap());
    let tls = ["--tls-cert", "tsoracle-certs/node-1.pem", "--tls-key", "tsoracle-certs/node-1.key"];
    let traced: &[&str] = match cfg!(feature = "otlp") {
        true => &["--otlp-endpoint", "http://127.0.0.1:1"],
        false => &[],
    };
    let (_node, metrics) = node(directory.path(), "file:state", &[&tls[..], traced].concat());
    let mut found = check(&scrape_until(&metrics, is_up_to_date));
    found.extend(scraped(&check_cluster(directory.path(), "openraft")));
    let traces = |name: &str| name.starts_with("tsoracle_trace_") && !cfg!(feature = "otlp");
    let missing: Vec<_> = documented()
        .into_keys()
        .filter(|name| !found.contains_key(name) && !traces(name))
        .collect();
    assert_eq!(missing, [""; 0], "these are documented and not shown");
}

/// A client of a node.
async fn client(node: &Node) -> TsoServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{}", node.address)).unwrap();
    TsoServiceClient::new(endpoint.connect().await.unwrap())
}

/// Waits until these lines are in a scrape.
async fn shows(metrics: String, lines: [&'static str; 2]) {
    let are_there =
        move |text: &str| lines.iter().all(|line| text.contains(&format!("\n{line}\n")));
    tokio::task::spawn_blocking(move || scrape_until(&metrics, are_there)).await.unwrap();
}

#[cfg(feature = "file")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_streams_count_one_by_one() {
    let directory = TempDir::new().unwrap();
    let (node, metrics) = node(directory.path(), "file:state", &[]);
    let request = |count| GetSeqRequest { key: "k".into(), count, request_id: None };
    let message = StreamSeqRequest { requests: [1, 0, 2].map(request).into(), run: None };
    let asking = client(&node).await.stream_seq(tokio_stream::iter([message])).await;
    let answer = asking.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(answer.outcomes.len(), 3);
    let lines = [
        "tsoracle_requests_total{method=\"StreamSeq\",code=\"OK\"} 2",
        "tsoracle_requests_total{method=\"StreamSeq\",code=\"INVALID_ARGUMENT\"} 1",
    ];
    shows(metrics, lines).await;
}

/// One node of three finds no leader, so that calls wait for one.
#[cfg(feature = "openraft")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_count_as_cancelled() {
    let directory = TempDir::new().unwrap();
    let free = free_ports(6);
    let peers: Vec<_> =
        (1..).zip(free.chunks(2)).map(|(id, at)| format!("{id}={}/{}", at[0], at[1])).collect();
    let driver = format!("openraft:raft?node=1&peers={}", peers.join(","));
    let (node, metrics) = node(directory.path(), &driver, &["--hold", "30s"]);
    let mut client = client(&node).await;
    let asking = client.get_ts(GetTsRequest { count: 1 });
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(200), asking).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let lines = [
        "tsoracle_requests_total{method=\"GetTs\",code=\"CANCELLED\"} 1",
        "tsoracle_phase{phase=\"electing\"} 1",
    ];
    shows(metrics, lines).await;
}
