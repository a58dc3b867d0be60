//! A service of three nodes, which carries the oracle beside its own data.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tempfile::TempDir;
use tsoracle_core::{
    Clock as _, ConsensusDriver as _, Error, ErrorKind, KeyRange, Leadership, Oracle,
    OracleOptions, Reads, Result, SeqKey, SeqRequest, SystemClock, Timestamp,
};
use tsoracle_piggyback::{Config, Network, Node};

/// How long anything may take before a test is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether it has happened.
const LOOK: Duration = Duration::from_millis(10);

const ACCOUNT: &str = "savings";

/// A node, and the oracle over it.
struct Member {
    node: Arc<Node>,
    oracle: Oracle,
}

/// Those that run, by their numbers.
struct Cluster {
    directory: TempDir,
    network: Network,
    size: u32,
    snapshot_every: u64,
    running: BTreeMap<u32, Member>,
}

impl Cluster {
    async fn start(size: u32, snapshot_every: u64) -> Self {
        let (directory, network) = (tempfile::tempdir().unwrap(), Network::default());
        let running = BTreeMap::new();
        let mut cluster = Self { directory, network, size, snapshot_every, running };
        for node in 1..=size {
            cluster.open(node).await;
        }
        cluster
    }

    fn config(&self, node: u32) -> Config {
        let members = (1..=self.size).map(|node| (node, format!("node-{node}"))).collect();
        let config = Config::new(self.directory.path().join(node.to_string()), node, members);
        Config { snapshot_every: self.snapshot_every, log_keep: 5, ..config }
    }

    async fn open(&mut self, number: u32) {
        let node = Node::open(self.config(number), self.network.clone()).await.unwrap();
        let oracle = Oracle::start(node.clone(), OracleOptions::default()).unwrap();
        self.running.insert(number, Member { node, oracle });
    }

    /// Stops a node as an operator would.
    async fn stop(&mut self, number: u32) {
        self.running.remove(&number).unwrap().oracle.shutdown().await.unwrap();
    }

    fn node(&self, number: u32) -> &Node {
        &self.running[&number].node
    }

    async fn leader(&self) -> u32 {
        eventually("a leader", async || {
            let mut running = self.running.iter();
            running.find(|(_, member)| claim(&member.node).is_some()).map(|(node, _)| *node)
        })
        .await
    }

    /// Calls the node that leads: again until it is told what became of it, or that this is uncertain.
    async fn call<T>(&self, call: impl AsyncFn(&Member) -> Result<T>) -> Result<T> {
        eventually("an answer", async || {
            for member in self.running.values() {
                match call(member).await {
                    Err(error) if is_elsewhere(&error) => {}
                    done => return Some(done),
                }
            }
            None
        })
        .await
    }

    async fn get_ts(&self) -> Timestamp {
        let granted = self.call(async |member| member.oracle.get_ts(1).await).await.unwrap();
        granted.range.first()
    }

    async fn get_seq(&self) -> Result<u64> {
        let request = || SeqRequest::single(SeqKey::new("orders")?, 1);
        let granted = self.call(async |member| member.oracle.get_seq(request()?).await).await?;
        Ok(granted.blocks[0].start)
    }

    async fn deposit(&self) -> Result<u64> {
        self.call(async |member| member.node.deposit(ACCOUNT, 1).await).await
    }

    /// What all running nodes hold, once it is the same.
    async fn agreed(&self) -> Held {
        eventually("agreement", async || {
            let mut held = Vec::new();
            for member in self.running.values() {
                held.push(Held::read(&member.node).await);
            }
            held.windows(2).all(|two| two[0] == two[1]).then(|| held.pop()).flatten()
        })
        .await
    }
}

/// All that a node has applied.
#[derive(PartialEq, Debug)]
struct Held {
    balances: BTreeMap<String, u64>,
    oracle: tsoracle_core::Snapshot,
}

impl Held {
    async fn read(node: &Node) -> Self {
        let all = KeyRange { from: vec![], to: vec![u8::MAX], limit: usize::MAX };
        let oracle = node.read(&Reads { keys: vec![], ranges: vec![all] }).await.unwrap();
        Self { balances: node.balances().await.unwrap(), oracle }
    }

    fn balance(&self) -> u64 {
        self.balances.get(ACCOUNT).copied().unwrap_or_default()
    }
}

/// The claim under which a node leads, if it does.
fn claim(node: &Node) -> Option<u64> {
    match *node.leadership().borrow() {
        Leadership::Leader { claim } => Some(claim),
        _ => None,
    }
}

/// Whether another node should be asked, or this one later.
fn is_elsewhere(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotLeader(_) | ErrorKind::Unavailable)
}

async fn eventually<T>(what: &str, attempt: impl AsyncFn() -> Option<T>) -> T {
    let until = SystemClock.now().boot + PATIENCE;
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(SystemClock.now().boot < until, "waited in vain for {what}");
        SystemClock.sleep(LOOK).await;
    }
}

/// What was answered, and how many answers were uncertain.
#[derive(Default)]
struct Answers {
    values: Vec<u64>,
    uncertain: u64,
}

impl Answers {
    fn note(&mut self, answer: Result<u64>) {
        match answer {
            Ok(value) => self.values.push(value),
            Err(error) if *error.kind() == ErrorKind::Uncertain => self.uncertain += 1,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Each value once; one is missing for an uncertain answer alone.
    fn assert_gapless(mut self, first: u64) {
        self.values.sort_unstable();
        assert!(self.values.windows(2).all(|two| two[0] < two[1]), "handed out twice");
        let end = first + self.values.len() as u64 + self.uncertain;
        assert!(self.values.first() >= Some(&first) && self.values.last() < Some(&end), "a gap");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn own_commands_and_the_oracles_share_a_log() {
    const CALLS: usize = 50;
    let cluster = Cluster::start(3, 10_000).await;
    let sequence = async || {
        let mut answers = Answers::default();
        for _ in 0..CALLS {
            answers.note(cluster.get_seq().await);
        }
        answers
    };
    let deposits = async || {
        let mut answers = Answers::default();
        for _ in 0..CALLS {
            answers.note(cluster.deposit().await);
        }
        answers
    };
    let timestamps = async {
        let mut last = cluster.get_ts().await;
        for _ in 0..CALLS {
            let next = cluster.get_ts().await;
            assert!(last < next, "{last:?} came before {next:?}");
            last = next;
        }
    };
    let (mut one, two, mut three, four, ()) =
        tokio::join!(sequence(), sequence(), deposits(), deposits(), timestamps);
    for (all, more) in [(&mut one, two), (&mut three, four)] {
        all.values.extend(more.values);
        all.uncertain += more.uncertain;
    }
    one.assert_gapless(0);
    let (certain, uncertain) = (three.values.len() as u64, three.uncertain);
    // Balances count up as well.
    three.assert_gapless(1);
    let balance = cluster.agreed().await.balance();
    assert!((certain..=certain + uncertain).contains(&balance), "{balance}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_far_behind_gets_both_from_one_snapshot() {
    let mut cluster = Cluster::start(3, 50).await;
    cluster.deposit().await.unwrap();
    let leader = cluster.leader().await;
    let behind = if leader == 1 { 2 } else { 1 };
    let before = cluster.node(behind).progress().applied;
    cluster.stop(behind).await;
    for _ in 0..60 {
        cluster.deposit().await.unwrap();
        cluster.get_seq().await.unwrap();
    }
    // What it would need is in no log any more.
    for member in cluster.running.values() {
        eventually("a purge", async || (member.node.progress().purged > before).then_some(()))
            .await;
    }
    cluster.open(behind).await;
    assert_eq!(cluster.agreed().await.balance(), 61);
    cluster.stop(behind).await;
    // Alone, it has what is on its disk.
    let config = cluster.config(behind);
    let alone = Node::open(config, Network::default()).await.unwrap();
    let held = Held::read(&alone).await;
    assert_eq!(held.balance(), 61);
    assert!(held.oracle.version.number > 60, "{:?}", held.oracle.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_when_the_leader_stops_and_all_do_after_a_restart() {
    let mut cluster = Cluster::start(3, 10_000).await;
    cluster.deposit().await.unwrap();
    assert_eq!(cluster.get_seq().await.unwrap(), 0);
    let before = cluster.get_ts().await;
    let leader = cluster.leader().await;
    let id = cluster.node(leader).node();
    cluster.stop(leader).await;
    assert_eq!(cluster.deposit().await.unwrap(), 2);
    assert_eq!(cluster.get_seq().await.unwrap(), 1);
    let between = cluster.get_ts().await;
    assert!(before < between);
    cluster.open(leader).await;
    assert_eq!(cluster.node(leader).node(), id);
    assert_eq!(cluster.agreed().await.balance(), 2);
    for number in 1..=3 {
        cluster.stop(number).await;
    }
    for number in 1..=3 {
        cluster.open(number).await;
    }
    assert_eq!(cluster.deposit().await.unwrap(), 3);
    assert_eq!(cluster.get_seq().await.unwrap(), 2);
    assert!(between < cluster.get_ts().await);
    assert_eq!(cluster.agreed().await.balance(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_answered_is_lost_with_a_leader_that_is_cut_off() {
    let mut cluster = Cluster::start(3, 10_000).await;
    cluster.deposit().await.unwrap();
    assert_eq!(cluster.get_seq().await.unwrap(), 0);
    let before = cluster.get_ts().await;
    let leader = cluster.leader().await;
    cluster.network.disconnect(leader);
    let lost = cluster.running.remove(&leader).unwrap();
    let error = lost.node.deposit(ACCOUNT, 100).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error:#}");
    assert_eq!(cluster.deposit().await.unwrap(), 2);
    assert_eq!(cluster.get_seq().await.unwrap(), 1);
    assert!(before < cluster.get_ts().await);
    // It may fail to release its lease, and is stopped all the same.
    let _ = lost.oracle.shutdown().await;
    cluster.open(leader).await;
    assert_eq!(cluster.agreed().await.balance(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_is_followed_by_another_node() {
    let cluster = Cluster::start(3, 10_000).await;
    let first = cluster.leader().await;
    let node = cluster.node(first);
    node.resign(claim(node).unwrap()).await;
    let hint = eventually("another leader", async || match node.leadership().borrow().clone() {
        Leadership::Follower { leader } => leader,
        _ => None,
    })
    .await;
    assert_ne!(hint.endpoint, format!("node-{first}"));
    cluster.get_ts().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_in_vain_gives_up_its_claim() {
    let cluster = Cluster::start(2, 10_000).await;
    let first = cluster.leader().await;
    let node = cluster.node(first);
    let before = claim(node).unwrap();
    cluster.network.disconnect(3 - first);
    node.resign(before).await;
    eventually("another claim", async || (claim(node) != Some(before)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_alone_does_not_resign() {
    let cluster = Cluster::start(1, 10_000).await;
    let node = cluster.node(cluster.leader().await);
    let mut leadership = node.leadership();
    let before = leadership.borrow_and_update().clone();
    node.resign(claim(node).unwrap()).await;
    cluster.deposit().await.unwrap();
    assert_eq!(*leadership.borrow(), before);
    assert!(!leadership.has_changed().unwrap());
}
