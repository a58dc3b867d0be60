use std::{
    net::TcpListener,
    sync::atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use tokio::time::timeout;
use tsoracle_core::NodeId;

use super::{
    formation::{Meeting, Refused},
    peer_ids::{Directory, remember},
    proto::{Introduction, refusal::Reason},
    *,
};
use crate::{Calls as _, ClusterId, Config, Formed};

/// For what never takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

const ECHO: u32 = 1;

/// Echoes calls, and counts what it hears.
#[derive(Default)]
struct Echo {
    heard: AtomicU32,
}

#[async_trait]
impl Handler for Echo {
    fn admit(&self, _: Sender) -> Result<()> {
        Ok(())
    }

    async fn call(&self, _: Sender, _: u32, body: Bytes) -> Result<Bytes> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        Ok(body)
    }

    async fn received(&self, _: Sender, _: Bytes) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn connected(&self, _: u32) {}
}

/// Where nodes are: their addresses.
struct Places(BTreeMap<u32, String>);

impl Places {
    fn new(count: u32) -> Self {
        // All at once, so that none is given out twice.
        let listeners: Vec<_> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string());
        Self((1..).zip(addresses).collect())
    }

    fn list(&self, nodes: &[u32]) -> String {
        let peers = nodes.iter().map(|node| format!("{node}={}/s{node}:1", self.0[node]));
        peers.collect::<Vec<_>>().join(",")
    }

    /// A node of those nodes, with a directory of that id.
    async fn start(&self, node: u32, nodes: &[u32], directory: u128) -> Node {
        let config = Config { node, peers: self.list(nodes), ..Config::default() };
        Node::start(config, directory, None, &[]).await
    }

    /// As above, with what a directory has kept.
    async fn restart(&self, node: u32, nodes: &[u32], before: &Node) -> Node {
        let config = Config { node, peers: self.list(nodes), ..Config::default() };
        let formed = before.formed();
        let ids = (1..9).filter_map(|other| Some((other, before.ids.get(other)?)));
        let ids: Vec<_> = ids.map(|(other, id)| (other, id.0)).collect();
        Node::start(config, before.directory, formed, &ids).await
    }
}

struct Node {
    transport: Transport,
    ids: PeerIds,
    echo: Arc<Echo>,
    directory: u128,
    formed: watch::Receiver<Option<Formed>>,
}

impl Node {
    async fn start(
        config: Config,
        directory: u128,
        formed: Option<Formed>,
        known: &[(u32, u128)],
    ) -> Self {
        let node = config.node;
        let cluster = config.check().unwrap();
        let formed = formed.or_else(|| {
            let is_alone = !cluster.join && cluster.members.len() == 1;
            is_alone.then(|| Formed::draw(false, cluster.members.clone()).unwrap())
        });
        let identity = Identity::fixed(node, directory, formed);
        let own = Sender { node, id: identity.id() };
        let known =
            known.iter().map(|(node, id)| (*node, KnownId { id: NodeId(*id), is_removed: false }));
        let ids = PeerIds::new(own, known.collect(), remember());
        let transport = loop {
            // Another process may hold the port for a moment.
            match Transport::open(&cluster, &identity, ids.clone()).await {
                Ok(transport) => break transport,
                Err(error) => assert!(error.to_string().contains("cannot listen"), "{error}"),
            }
        };
        let echo = Arc::<Echo>::default();
        transport.serve(echo.clone());
        let formed = transport.formed();
        Self { transport, ids, echo, directory, formed }
    }

    fn formed(&self) -> Option<Formed> {
        self.formed.borrow().clone()
    }

    async fn cluster(&self) -> ClusterId {
        let mut formed = self.formed.clone();
        let formed = timeout(PATIENCE, formed.wait_for(Option::is_some)).await.unwrap().unwrap();
        formed.as_ref().unwrap().id
    }

    /// Waits until it says that it waits for that.
    async fn waits_for(&self, text: &str) -> String {
        self.waits_so(|waits_for| waits_for.contains(text)).await
    }

    async fn waits_so(&self, is_so: impl Fn(&str) -> bool) -> String {
        let looking = async {
            loop {
                match self.transport.waits_for() {
                    Some(waits_for) if is_so(&waits_for) => return waits_for,
                    _ => SystemClock.sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("it says {:?}", self.transport.waits_for()))
    }

    async fn reaches(&self, to: u32) {
        let looking = async {
            let deadline = Duration::from_secs(1);
            while self.transport.call(to, ECHO, Bytes::new(), deadline).await.is_err() {
                SystemClock.sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, looking).await.unwrap();
    }

    async fn stop(&self) {
        self.transport.shutdown().await;
    }
}

const ALL: &[u32] = &[1, 2, 3];

#[tokio::test]
async fn a_cluster_is_formed_only_once_every_node_of_the_list_is_there() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, ALL, 22).await;
    for node in [&one, &two] {
        let at = &places.0[&3];
        let only_that =
            format!("waiting for node 3 at {at} to form the cluster, which takes all nodes");
        node.waits_so(|waits_for| waits_for == only_that).await;
        assert_eq!(node.formed(), None);
    }
    let three = places.start(3, ALL, 33).await;
    let cluster = one.cluster().await;
    assert_eq!((two.cluster().await, three.cluster().await), (cluster, cluster));
    for (node, others) in [(&one, [2, 3]), (&two, [1, 3]), (&three, [1, 2])] {
        for other in others {
            node.reaches(other).await;
        }
        assert_eq!(node.transport.waits_for(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_of_a_cluster_that_is_being_formed_is_taken_for_a_stranger() {
    for _ in 0..5 {
        let places = Places::new(7);
        let all: Vec<_> = (1..=7).collect();
        let mut nodes = vec![];
        for node in &all {
            nodes.push(places.start(*node, &all, u128::from(*node)).await);
        }
        for node in &nodes {
            assert_eq!(node.cluster().await, nodes[0].cluster().await);
            // Each has got all ids with the cluster's.
            assert_eq!(node.ids.news(0).unwrap().0.len(), 7);
            assert!(node.transport.failure().borrow().is_none());
        }
    }
}

#[tokio::test]
async fn nodes_with_different_lists_form_nothing_and_say_so() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, &[1, 2], 22).await;
    let three = places.start(3, ALL, 33).await;
    one.waits_for("node 2 at").await;
    let waits_for = three.waits_for("has another list of peers").await;
    assert!(waits_for.contains(&places.list(&[1, 2])), "{waits_for}");
    for node in [&one, &two, &three] {
        assert_eq!(node.formed(), None);
    }
    two.stop().await;
    let two = places.start(2, ALL, 22).await;
    assert_eq!(two.cluster().await, three.cluster().await);
}

#[tokio::test]
async fn nodes_beside_a_cluster_that_is_there_form_none_and_say_how_to_join() {
    let places = Places::new(3);
    let one = places.start(1, &[1], 11).await;
    let before = one.cluster().await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    for node in [&two, &three] {
        let waits_for = node.waits_for("belongs to a cluster already").await;
        assert!(
            waits_for.contains("join=true") && waits_for.contains("cluster add"),
            "{waits_for}"
        );
        assert_eq!(node.formed(), None);
        // One of two others is no majority.
        assert!(node.transport.failure().borrow().is_none());
    }
    assert_eq!(one.cluster().await, before);
    assert_eq!(one.echo.heard.load(Ordering::Relaxed), 0);
    // Nothing that they said of themselves is stored.
    assert_eq!(one.ids.news(0).unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_majority_of_wiped_nodes_begins_nothing_beside_a_survivor() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    let before = two.cluster().await;
    for node in [&one, &two, &three] {
        node.cluster().await;
        node.stop().await;
    }
    let one = places.start(1, ALL, 111).await;
    let three = places.start(3, ALL, 333).await;
    for node in [&one, &three] {
        node.waits_for("waiting for node 2 at").await;
        assert_eq!(node.formed(), None);
    }
    let two = places.restart(2, ALL, &two).await;
    for node in [&one, &three] {
        node.waits_for("belongs to a cluster already").await;
        assert_eq!(node.formed(), None);
    }
    assert_eq!(two.cluster().await, before);
    assert_eq!(two.echo.heard.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_wiped_node_is_told_by_a_majority() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    let (before, mut ids) = (one.cluster().await, vec![]);
    for node in [&one, &two, &three] {
        node.cluster().await;
    }
    // Each has to know the third one's directory.
    for node in [&one, &two] {
        node.reaches(3).await;
        ids.push(node.ids.get(3));
    }
    assert_eq!(ids, [Some(NodeId(33)); 2]);
    three.stop().await;
    let three = places.start(3, ALL, 333).await;
    let mut failure = three.transport.failure();
    let error = timeout(PATIENCE, failure.wait_for(Option::is_some)).await.unwrap().unwrap();
    let error = error.clone().unwrap();
    assert_eq!(*error.kind(), ErrorKind::Excluded);
    assert!(error.to_string().contains("wiped or replaced"), "{error}");
    assert_eq!((three.formed(), one.cluster().await), (None, before));
}

#[tokio::test]
async fn a_node_that_missed_the_founding_learns_of_it_from_any_other() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    let cluster = two.cluster().await;
    three.cluster().await;
    two.reaches(3).await;
    one.stop().await;
    three.stop().await;
    // As after a crash right before it had noted the cluster.
    let three = places.start(3, ALL, 33).await;
    assert_eq!(three.cluster().await, cluster);
    two.reaches(3).await;
}

#[tokio::test]
async fn of_two_founders_only_the_one_at_the_address_is_followed() {
    let places = Places::new(3);
    let elsewhere = Config {
        node: 1,
        peers: places.list(ALL),
        peer_listen: Some("127.0.0.1:0".into()),
        ..Config::default()
    };
    let elsewhere = Node::start(elsewhere, 99, None, &[]).await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    elsewhere.waits_for("node 3 at").await;
    let waits_for = elsewhere.waits_for("does not find this node").await;
    assert!(waits_for.contains(&places.0[&1]), "{waits_for}");
    let one = places.start(1, ALL, 11).await;
    let cluster = one.cluster().await;
    assert_eq!((two.cluster().await, three.cluster().await), (cluster, cluster));
    assert_eq!(elsewhere.formed(), None);
}

#[tokio::test]
async fn a_node_that_waits_to_be_added_belongs_once_it_is_invited() {
    let places = Places::new(2);
    let one = places.start(1, &[1], 11).await;
    let joining = Config { join: true, node: 2, peers: places.list(&[2]), ..Config::default() };
    let two = Node::start(joining, 22, None, &[]).await;
    assert!(two.transport.waits_for().unwrap().contains("cluster add"));
    one.transport.set_peer(2, &places.0[&2]).unwrap();
    let looking = async {
        let deadline = Duration::from_secs(1);
        while one.transport.call(2, ECHO, Bytes::new(), deadline).await.is_err() {
            if two.formed().is_none() && one.transport.invite(2).await.unwrap() {
                assert_eq!(one.ids.get(2), Some(NodeId(22)));
            }
        }
    };
    timeout(PATIENCE, looking).await.unwrap();
    assert_eq!(two.cluster().await, one.cluster().await);
}

/// Nodes of a release that drew no ids of clusters know each other's directories.
#[tokio::test]
async fn directories_without_a_cluster_id_agree_on_one() {
    let places = Places::new(3);
    let known = [(1, 11), (2, 22), (3, 33)];
    let mut nodes = vec![];
    for (node, directory) in known {
        let config = Config { node, peers: places.list(ALL), ..Config::default() };
        let formed = Formed::draw(true, BTreeMap::new()).unwrap();
        nodes.push((Node::start(config, directory, Some(formed.clone()), &known).await, formed));
    }
    let smallest = nodes.iter().map(|(_, formed)| formed.id).min().unwrap();
    for (node, _) in &nodes {
        for other in 1..=3 {
            if known[other as usize - 1].1 != node.directory {
                node.reaches(other).await;
            }
        }
    }
    for (node, _) in &nodes {
        let mut formed = node.formed.clone();
        let agreed = formed.wait_for(|formed| formed.as_ref().unwrap().id == smallest);
        timeout(PATIENCE, agreed).await.unwrap().unwrap();
    }
    // Refused are a stray one, which they know by another directory, one that does not know theirs, and one whose
    // cluster has an id for good.
    let [(one, _), ..] = &nodes[..] else { unreachable!() };
    for (id, is_provisional, knows_this) in [(77, true, true), (22, true, false), (22, false, true)]
    {
        let sender = Sender { node: 2, id: NodeId(id) };
        let cluster_id = ClusterId(1).0.to_be_bytes().to_vec().into();
        let said = Introduction { cluster_id, is_provisional, ..Default::default() };
        let (now, formation) = (SystemClock.now().boot, &one.transport.0.formation);
        let refused: Refused =
            formation.meet(sender, &said, (knows_this, false), &[], now).unwrap_err();
        assert_eq!(refused.reason, Reason::NotAMember);
    }
    // Were one of them believed, its id would be noted by a task.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(one.cluster().await, smallest);
}

/// Its cluster was formed before there were ids, by a majority that this one was not among.
#[tokio::test]
async fn a_node_of_the_list_that_missed_a_founding_before_there_were_ids_is_taken_in() {
    let places = Places::new(3);
    let config = Config { node: 1, peers: places.list(ALL), ..Config::default() };
    let formed = Formed::draw(true, BTreeMap::new()).unwrap();
    let one = Node::start(config, 11, Some(formed), &[(1, 11), (2, 22)]).await;
    let (formation, now) = (&one.transport.0.formation, SystemClock.now().boot);
    let meet = |node, id| {
        let sender = Sender { node, id: NodeId(id) };
        let met: Result<Meeting, Refused> =
            formation.meet(sender, &Introduction::default(), (false, false), &[], now);
        met.map_err(|refused| refused.reason)
    };
    assert_eq!(meet(4, 44).unwrap_err(), Reason::NotAMember, "it is not in the list");
    assert_eq!(meet(2, 23).unwrap_err(), Reason::NotAMember, "another directory");
    assert!(meet(3, 33).unwrap() == Meeting::Forms);
    let noting = async {
        while one.ids.get(3).is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, noting).await.unwrap();
    assert_eq!(one.ids.get(3), Some(NodeId(33)));
    assert_eq!(meet(3, 34).unwrap_err(), Reason::NotAMember, "another directory since then");
}

#[tokio::test]
async fn what_strangers_say_is_not_stored() {
    let places = Places::new(1);
    let one = places.start(1, &[1], 11).await;
    let (formation, now) = (&one.transport.0.formation, SystemClock.now().boot);
    let other = ClusterId(5).0.to_be_bytes().to_vec().into();
    let others = Introduction { cluster_id: other, ..Default::default() };
    for node in 2..2_000 {
        let stranger = Sender { node, id: NodeId(node.into()) };
        for said in [&others, &Introduction::default()] {
            let met: Result<Meeting, _> = formation.meet(stranger, said, (false, false), &[], now);
            assert_eq!(met.unwrap_err().reason, Reason::NotAMember);
        }
        assert_eq!(one.ids.directory(stranger), Directory::Unknown);
    }
    assert_eq!(one.ids.news(0).unwrap().0.len(), 1);
}

#[tokio::test]
async fn of_two_processes_under_one_identity_the_later_one_is_refused() {
    let places = Places::new(3);
    let one = places.start(1, ALL, 11).await;
    let two = places.start(2, ALL, 22).await;
    let three = places.start(3, ALL, 33).await;
    let cluster = three.cluster().await;
    for (from, to) in [(&one, 3), (&two, 3), (&three, 1), (&three, 2)] {
        from.reaches(to).await;
    }
    // A copy of the third one's directory, elsewhere.
    let elsewhere = Config {
        node: 3,
        peers: places.list(ALL),
        peer_listen: Some("127.0.0.1:0".into()),
        ..Config::default()
    };
    let known = [(1, 11), (2, 22)];
    let copy = Node::start(elsewhere, 33, three.formed(), &known).await;
    let mut failure = copy.transport.failure();
    let asking = async {
        loop {
            for to in [1, 2] {
                let deadline = Duration::from_secs(1);
                let answer = copy.transport.call(to, ECHO, Bytes::new(), deadline).await;
                assert!(answer.is_err(), "it is listened to");
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    };
    let reason = tokio::select! {
        error = timeout(PATIENCE, failure.wait_for(Option::is_some)) => {
            error.unwrap().unwrap().clone().unwrap().to_string()
        }
        () = asking => unreachable!(),
    };
    assert!(reason.contains("another process runs under the identity of node 3"), "{reason}");
    for node in [&one, &two] {
        let found = node.transport.report().findings.into_iter();
        let duplicates: Vec<_> = found.map(|found| found.what).collect();
        assert!(duplicates[0].contains("node 3 runs twice"), "{duplicates:?}");
        // At two addresses.
        assert_eq!(duplicates[0].matches("127.0.0.1:").count(), 2, "{duplicates:?}");
    }
    // The first one is as it was.
    one.reaches(3).await;
    three.reaches(1).await;
    assert!(three.transport.failure().borrow().is_none());
    assert_eq!(three.cluster().await, cluster);
    // One that is started again is no second one.
    three.stop().await;
    copy.stop().await;
    let three = places.restart(3, ALL, &three).await;
    one.reaches(3).await;
    three.reaches(1).await;
}
