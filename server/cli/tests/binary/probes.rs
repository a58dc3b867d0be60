//! Three nodes as a StatefulSet of Kubernetes has them: started, waited for and rolled by their probes alone.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tsoracle_client::Client;
use tsoracle_core::{Clock as _, SystemClock};

use crate::{
    node::{Answer, Node, try_http, tsoracle},
    ports::free_port,
};

/// How long a probe may say no. It is there for one that never says yes.
const PATIENCE: Duration = Duration::from_secs(45);

struct Pods {
    directory: TempDir,
    driver: &'static str,
    /// Of each pod for its peers, clients and probes.
    places: Vec<[String; 3]>,
    nodes: Vec<Option<Node>>,
}

impl Pods {
    fn new(driver: &'static str) -> Self {
        let places = (0..3).map(|_| std::array::from_fn(|_| free_port())).collect();
        Self { directory: TempDir::new().unwrap(), driver, places, nodes: vec![None, None, None] }
    }

    fn command(&self, pod: usize) -> Command {
        let peers = self.places.iter().enumerate();
        let peers = peers.map(|(at, [peer, service, _])| format!("{}={peer}/{service}", at + 1));
        let peers = peers.collect::<Vec<_>>().join(",");
        let id = pod + 1;
        let driver = format!("{}:./data-{id}?node={id}&peers={peers}", self.driver);
        let [_, service, probe] = &self.places[pod];
        tsoracle(
            self.directory.path(),
            &["serve", &driver, "--listen", service, "--probe-listen", probe, "--log", "warn"],
        )
    }

    fn start(&mut self, pod: usize) {
        // Its line comes once it has settled, which a supervisor does not wait for.
        self.nodes[pod] = Some(Node::spawn(self.command(pod)));
    }

    fn probe(&self, pod: usize, path: &str) -> Option<Answer> {
        try_http(&self.places[pod][2], "GET", path, "")
    }

    /// Waits until a probe is passed; meanwhile the node has to be alive whenever it answers.
    fn wait_until(&self, pod: usize, path: &str) {
        let until = SystemClock.now().boot + PATIENCE;
        while self.probe(pod, path).is_none_or(|answer| answer.code != 200) {
            assert!(
                SystemClock.now().boot < until,
                "pod {pod} {path}: {:?}",
                self.probe(pod, path)
            );
            assert!(self.probe(pod, "/livez").is_none_or(|answer| answer.code == 200));
        }
    }
}

fn come_up_in_order_and_roll(driver: &'static str) {
    let mut pods = Pods::new(driver);
    pods.start(0);
    pods.wait_until(0, "/livez");
    // It cannot take part before a majority is there: so a StatefulSet must not wait for that before it starts
    // the next one (podManagementPolicy: Parallel).
    let alone = pods.probe(0, "/readyz").unwrap();
    assert_eq!(alone.code, 503, "{alone:?}");
    assert!(alone.body.contains("waiting for node"), "{alone:?}");
    for pod in [1, 2] {
        pods.start(pod);
        pods.wait_until(pod, "/livez");
    }
    for pod in 0..3 {
        pods.wait_until(pod, "/readyz");
    }
    let endpoints: Vec<_> = pods.places.iter().map(|[_, service, _]| service.clone()).collect();
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
    let asking = thread::spawn({
        let (stop, calls) = (stop.clone(), calls.clone());
        move || {
            tokio::runtime::Runtime::new().unwrap().block_on(async {
                let client = Client::builder().endpoints(endpoints).connect().await.unwrap();
                let mut expected = 0;
                while !stop.load(Ordering::Relaxed) {
                    client.get_ts().await.expect("no call is lost");
                    let block = client.get_seq("orders", 1).await.expect("no call is lost");
                    assert_eq!(block.range().start, expected);
                    expected += 1;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    // From the last one on, as a StatefulSet rolls.
    for pod in [2, 1, 0] {
        let enough = calls.load(Ordering::Relaxed) + 20;
        while calls.load(Ordering::Relaxed) < enough {
            assert!(!asking.is_finished(), "a call was lost");
        }
        let node = pods.nodes[pod].take().unwrap();
        node.signal(Signal::TERM);
        let (status, log) = node.ended();
        assert!(status.success(), "{log}");
        pods.start(pod);
        pods.wait_until(pod, "/readyz");
    }
    let enough = calls.load(Ordering::Relaxed) + 20;
    while calls.load(Ordering::Relaxed) < enough {
        assert!(!asking.is_finished(), "a call was lost");
    }
    stop.store(true, Ordering::Relaxed);
    asking.join().unwrap();
}

#[test]
fn three_nodes_of_openraft_come_up_by_their_probes_and_roll_without_a_lost_call() {
    come_up_in_order_and_roll("openraft");
}

#[cfg(feature = "omnipaxos")]
#[test]
fn three_nodes_of_omnipaxos_come_up_by_their_probes_and_roll_without_a_lost_call() {
    come_up_in_order_and_roll("omnipaxos");
}
