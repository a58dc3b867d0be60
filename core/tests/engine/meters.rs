//! What is counted is what has happened, and gauges show what is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tsoracle_core::{ErrorKind, ManualClock};

use crate::rig::{Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

/// Keeps counters as numbers and gauges as bits, by name.
#[derive(Clone, Default)]
struct Meters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Meters {
    fn of(&self, name: &str) -> Arc<AtomicU64> {
        self.0.lock().unwrap().entry(name.into()).or_default().clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.of(name).load(Ordering::Acquire)
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
        Counter::from_arc(self.of(key.name()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.of(key.name()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
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
