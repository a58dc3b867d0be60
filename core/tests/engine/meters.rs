//! What is counted is what has happened, and gauges show what is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use tsoracle_core::{
    ErrorKind, LeaseHolder, ManualClock, RequestId, RequestName, SeqKey, SeqRequest,
};

use crate::rig::{Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

/// Keeps counters as numbers, gauges as bits and of histograms how many values they have, by name and labels.
#[derive(Clone, Default)]
struct Meters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Meters {
    fn of(&self, name: &str) -> Arc<AtomicU64> {
        self.0.lock().unwrap().entry(name.into()).or_default().clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.of(name).load(Ordering::Acquire)
    }

    /// As one finds it in a scrape, without quotes: `name{label=value}`.
    fn of_key(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        match labels.is_empty() {
            true => self.of(key.name()),
            false => self.of(&format!("{}{{{}}}", key.name(), labels.join(","))),
        }
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.count(name))
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.of_key(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of_key(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Values(self.of_key(key))))
    }
}

struct Values(Arc<AtomicU64>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        assert!(value.is_finite() && value >= 0.0, "{value}");
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

const COMMITS: &str = "tsoracle_commits_total";
const LEASE_LEFT: &str = "tsoracle_lease_left_seconds";

/// A node that serves, and what it counts.
async fn counted() -> (Meters, Node) {
    let meters = Meters::default();
    let (cluster, clock) = (Cluster::default(), ManualClock::new(NOON_MS));
    let node = metrics::with_local_recorder(&meters, || cluster.node(1, &clock));
    node.elect();
    node.serving().await;
    (meters, node)
}

#[tokio::test]
async fn commits_that_fail_are_not_counted() {
    let (meters, node) = counted().await;
    node.seq("a", 1).await.unwrap();
    let before = meters.count(COMMITS);
    assert!(before > 0);
    (0..10_000).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
    node.busy_for(LEASE * 2).await;
    assert_eq!(meters.count(COMMITS), before);
    node.driver.faults.lock().unwrap().clear();
    node.busy_for(LEASE).await;
    assert!(meters.count(COMMITS) > before);
}

#[tokio::test]
async fn the_gauge_of_the_lease_is_zero_once_it_has_run_out() {
    let (meters, node) = counted().await;
    node.busy_for(LEASE).await;
    assert!(meters.gauge(LEASE_LEFT) > 0.0);
    (0..10_000).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
    node.busy_for(LEASE * 3 / 2).await;
    assert!(node.refuses());
    assert_eq!(meters.gauge(LEASE_LEFT), 0.0);
    node.driver.faults.lock().unwrap().clear();
    node.busy_for(LEASE).await;
    assert!(meters.gauge(LEASE_LEFT) > 0.0);
    // That of an idle leader runs out as well.
    for _ in 0..60 {
        node.clock.advance(LEASE);
        settle().await;
    }
    assert_eq!(meters.gauge(LEASE_LEFT), 0.0);
}

#[tokio::test]
async fn what_is_capped_is_shown_beside_its_limit() {
    let (meters, node) = counted().await;
    let shown = || {
        ["sequences", "sessions", "stamping_leases", "named_requests"]
            .map(|what| meters.gauge(&format!("tsoracle_{what}")))
    };
    assert_eq!(meters.gauge("tsoracle_sessions_limit"), 100_000.0);
    assert_eq!(meters.gauge("tsoracle_waiting_limit"), 65_536.0);
    let key = |key: &str| SeqKey::new(key).unwrap();
    let id = RequestId::from_text("once");
    node.oracle.get_seq(SeqRequest::new(vec![(key("a"), 1)], Some(id)).unwrap()).await.unwrap();
    let name = RequestName::new("n").unwrap();
    node.oracle.get_seq(SeqRequest::named(vec![(key("b"), 1)], name).unwrap()).await.unwrap();
    let holder = LeaseHolder::new("h").unwrap();
    node.oracle.acquire_lease(holder, 1, LEASE * 10).await.unwrap();
    assert_eq!(shown(), [2.0, 1.0, 1.0, 1.0]);
    node.oracle.delete_seq(key("b")).await.unwrap();
    assert_eq!(shown(), [1.0, 1.0, 1.0, 1.0]);
    // A later reign knows as well, without any change.
    node.follow();
    settle().await;
    assert_eq!(shown(), [0.0; 4]);
    node.elect();
    node.serving().await;
    node.busy_for(LEASE).await;
    assert_eq!(shown(), [1.0, 1.0, 1.0, 1.0]);
}

/// What a node is doing, as its gauges say.
fn shown_phase(meters: &Meters) -> Vec<&'static str> {
    ["electing", "following", "taking_over", "serving", "lapsed", "stopping", "failed"]
        .into_iter()
        .filter(|phase| meters.gauge(&format!("tsoracle_phase{{phase={phase}}}")) == 1.0)
        .collect()
}

#[tokio::test]
async fn phases_elections_and_take_overs_are_shown() {
    let (meters, node) = counted().await;
    assert_eq!(shown_phase(&meters), ["serving"]);
    assert_eq!((meters.gauge("tsoracle_leader_known"), meters.gauge("tsoracle_epoch")), (1.0, 1.0));
    let steps = || {
        ["fence", "wait", "open"]
            .map(|step| meters.count(&format!("tsoracle_takeover_duration_seconds{{step={step}}}")))
    };
    let counts =
        || (meters.count("tsoracle_elections_total"), meters.count("tsoracle_reigns_total"));
    assert_eq!((counts(), steps()), ((1, 1), [1; 3]));
    node.follow();
    settle().await;
    assert_eq!(shown_phase(&meters), ["following"]);
    node.elect();
    node.serving().await;
    assert_eq!((counts(), steps()), ((2, 2), [2; 3]));
    assert_eq!(shown_phase(&meters), ["serving"]);
    assert_eq!(meters.gauge("tsoracle_epoch"), 2.0);
    (0..10_000).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
    node.busy_for(LEASE * 2).await;
    assert_eq!(shown_phase(&meters), ["lapsed"]);
}

#[tokio::test]
async fn commits_are_timed_and_those_that_fail_are_told_apart() {
    let (meters, node) = counted().await;
    let durations = "tsoracle_commit_duration_seconds";
    let failures = "tsoracle_commit_failures_total";
    node.seq("a", 1).await.unwrap();
    let before = (meters.count(COMMITS), meters.count(durations));
    assert_eq!(before.1, before.0 + 2, "those of the take-over are timed as well");
    assert_eq!(meters.count(failures), 0);
    (0..10_000).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
    node.busy_for(LEASE).await;
    assert!(meters.count(failures) > 0);
    assert_eq!((meters.count(COMMITS), meters.count(durations)), before);
    assert_eq!(meters.count("tsoracle_commit_conflicts_total"), 0);
}

#[tokio::test]
async fn what_there_is_no_place_for_is_counted_by_what_and_why() {
    let meters = Meters::default();
    let (cluster, clock) = (Cluster::default(), ManualClock::new(NOON_MS));
    let node = metrics::with_local_recorder(&meters, || {
        cluster.node_with(1, &clock, |options| options.limits.keys = 2)
    });
    node.elect();
    node.serving().await;
    for key in ["a", "b"] {
        node.seq(key, 1).await.unwrap();
    }
    let refused = "tsoracle_refusals_total{of=sequences,reason=limit}";
    assert_eq!(meters.count(refused), 0);
    node.seq("c", 1).await.unwrap_err();
    assert_eq!(meters.count(refused), 1);
    assert_eq!(meters.count("tsoracle_rejects_total"), 1);
    node.seq("a", 1).await.unwrap();
    assert_eq!(meters.count(refused), 1);
}
