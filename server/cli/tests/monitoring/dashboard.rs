//! The dashboard, its queries run by a Prometheus that has scraped a cluster through a failover.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    documented::check_query,
    http::{self, ATTEMPTS, pause},
    node::{run, stdout},
    ports::free_port,
    scrape::{Ended, cluster},
};

const DASHBOARD: &str = include_str!("../../../../packaging/grafana/tsoracle.json");
const RULES: &str = include_str!("../../../../packaging/prometheus/alerts.yml");

/// Queries whose answer is empty in this cluster, and why that is right.
const EMPTY: [(&str, &str); 2] = [
    ("tsoracle_certificate_expiry_timestamp_seconds", "the cluster has no certificates"),
    ("code!=\"OK\"", "no request need have failed on those that are left"),
];

/// All panels, with their queries.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        let query = |target: Value| (title.clone(), target["expr"].as_str().unwrap().to_owned());
        targets.into_iter().map(query).collect::<Vec<_>>()
    });
    queries.collect()
}

#[test]
fn the_dashboard_names_series_and_labels_that_there_are() {
    let queries = queries();
    assert!(queries.len() > 40, "{}", queries.len());
    queries.iter().for_each(|(_, query)| check_query(query));
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let asked: Vec<_> = variables.iter().filter_map(|one| one["query"]["query"].as_str()).collect();
    assert_eq!(asked.len(), 2);
    for query in asked {
        let (series, label) =
            query.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap();
        check_query(series);
        assert!(["job)", "instance)"].contains(&label), "{query}");
    }
}

/// A Prometheus on loopback.
struct Prometheus {
    address: String,
    _process: Ended,
}

impl Prometheus {
    fn start(directory: &Path, targets: &[&str]) -> Self {
        let targets: Vec<_> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: [alerts.yml]\n\
             scrape_configs:\n  - job_name: tsoracle\n    static_configs:\n      - targets: [{}]\n",
            targets.join(", ")
        );
        fs::write(directory.join("prometheus.yml"), config).unwrap();
        fs::write(directory.join("alerts.yml"), RULES).unwrap();
        let address = free_port();
        let mut prometheus = Command::new("prometheus");
        prometheus.args(["--config.file=prometheus.yml", "--storage.tsdb.path=series"]);
        prometheus.arg(format!("--web.listen-address={address}"));
        prometheus.current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Ended(prometheus.spawn().expect("prometheus is installed"));
        Self { address, _process: process }
    }

    /// What a query is answered: the error, or each series with its value.
    fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/api/v1/query?query={escaped}");
        let answer = http::get(&self.address, &path).ok_or("it does not answer")?;
        let answer: Value = serde_json::from_str(&answer).map_err(|_| answer)?;
        match answer["data"]["result"].as_array() {
            Some(result) if answer["status"] == "success" => Ok(result.clone()),
            _ => Err(answer.to_string()),
        }
    }

    /// Waits until a query has an answer that is not empty.
    fn wait_for(&self, query: &str) -> Vec<Value> {
        let mut last = Err(String::new());
        for _ in 0..ATTEMPTS {
            last = self.ask(query);
            if let Ok(found) = &last
                && !found.is_empty()
            {
                return found.clone();
            }
            pause();
        }
        panic!("{query} has no answer: {last:?}");
    }
}

#[test]
fn each_query_of_the_dashboard_has_an_answer_through_a_failover() {
    let directory = TempDir::new().unwrap();
    let mut nodes = cluster(directory.path(), "openraft", |_| {});
    let all: Vec<_> = nodes.iter().map(|(node, _)| node.address.clone()).collect();
    let all = all.join(",");
    let ask = |arguments: &[&str]| {
        stdout(&run(
            directory.path(),
            &[arguments, &["--endpoint", &all, "--timeout", "20s"]].concat(),
        ))
    };
    let targets: Vec<_> = nodes.iter().map(|(_, metrics)| metrics.as_str()).collect();
    let prometheus = Prometheus::start(directory.path(), &targets);
    prometheus.wait_for("sum(up) == 3 and sum(tsoracle_peer_connected) == 6");
    for _ in 0..3 {
        ask(&["ts"]);
        ask(&["seq", "a"]);
        ask(&["status"]);
    }
    let serves = "tsoracle_phase{phase=\"serving\"} == 1";
    let leader = prometheus.wait_for(serves)[0]["metric"]["instance"].clone();
    // Killed, with its last words unsaid.
    let place = nodes.iter().position(|(_, metrics)| leader == *metrics.as_str()).unwrap();
    drop(nodes.remove(place));
    let instance = leader.as_str().unwrap();
    prometheus.wait_for(&format!("{serves} unless tsoracle_phase{{instance=\"{instance}\"}}"));
    prometheus.wait_for(&format!("up{{instance=\"{instance}\"}} == 0"));
    for _ in 0..3 {
        ask(&["ts"]);
        ask(&["seq", "a"]);
    }
    prometheus.wait_for("max(resets(tsoracle_epoch[1m]) + changes(tsoracle_epoch[1m])) > 0");
    for alert in ["TsoracleNodeDown", "TsoraclePeerUnreachable", "TsoracleMajorityAtRisk"] {
        prometheus.wait_for(&format!("ALERTS{{alertname=\"{alert}\"}}"));
    }
    for (title, query) in queries() {
        let query = query.replace("$job", "tsoracle").replace("$instance", ".*");
        let query = query.replace("$__rate_interval", "1m");
        prometheus.ask(&query).unwrap_or_else(|error| panic!("{title}: {error}"));
        if !EMPTY.iter().any(|(part, _)| query.contains(part)) {
            // A rate is there once the new leader was looked at twice.
            prometheus.wait_for(&query);
        }
    }
}
